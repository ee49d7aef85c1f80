/* Blocking work: by helper threads, beside the shards.    asyncio: run_in_executor, to_thread
 *
 *   struct fibonacci {
 *       unsigned n;
 *       uint64_t value;
 *   };
 *
 *   static uint64_t fibonacci(unsigned n)
 *   {
 *       return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
 *   }
 *
 *   static int compute(void *argument)
 *   {
 *       struct fibonacci *job = argument;
 *       job->value = fibonacci(job->n);
 *       return 0;
 *   }
 *
 *   static int launch(void *argument)
 *   {
 *       struct fibonacci job = { .n = 30 };
 *       int rc = rondo_to_thread(compute, &job, sizeof job);
 *       if (rc == 0)
 *           rondo_log(RONDO_LOG_INFO, "%llu", (unsigned long long)job.value);
 *       rondo_stop(argument);
 *       return rc;
 *   }
 *
 *   static int shard_start(rondo_loop *loop)
 *   {
 *       return rondo_create_task(loop, &(rondo_task_options){ .run = launch, .argument = loop }, NULL);
 *   }
 *
 *   int main(void)
 *   {
 *       const rondo_app app = { .shards = 1, .shard_start = shard_start };
 *       return rondo_run(&app) < 0;
 *   }
 *
 * The threads are the process's, at most 16, also of several shards. They start when there is work for them, and end when
 * there was none for ten seconds. Work begins in the order in which a shard has asked for it; what finds no thread waits.
 * rondo's own (names to be looked up, files that are on the disk) is done by the same threads.
 *
 * When the server drains, work goes on and its results arrive. At the drain timeout what has not ended is cancelled: a
 * thread can't be stopped, but nobody waits for it any more, and rondo_run returns.
 *
 * Thread: the loop's, for every call here (asserted). */
#ifndef RONDO_EXECUTOR_H
#define RONDO_EXECUTOR_H

#include <stddef.h>

#include <rondo/loop.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* What shall be done. `argument` belongs to the helper thread while work runs, and lives until release. */
typedef struct rondo_work {
    void *argument;
    void (*work)(
        void *argument); /* on a helper thread: it may block, and calls nothing of rondo's but rondo_log
                                              * and rondo_post. Signals are blocked there */
    void (*done)(void *argument,
                 int error); /* on the loop that asked, from the loop: 0; or -ECANCELED, at the drain timeout:
                                              * then `work` may not have run, or may be running still. May be NULL */
    void (*release)(
        void *argument); /* the last call, exactly once: free it. On the loop, or on a helper thread when it
                                              * was cancelled: it touches nothing of the loop's. May be NULL */
} rondo_work;

/* What has been asked for, until done or rondo_job_cancel.    asyncio: Future */
typedef struct rondo_job rondo_job;

/* Have it done.    asyncio: run_in_executor; Twisted: deferToThread
 *
 *   work   copied
 *   job    set on success, may be NULL
 *
 * Returns 0; or, and then nothing is called: -EINVAL: no `work`; -EAGAIN: no thread can be started, and there is none
 * (ulimit -u); -ENOMEM; -ESHUTDOWN: the shard is aborting. */
int rondo_run_in_executor(rondo_loop *loop, const rondo_work *work, rondo_job **job);

/* Its result is no longer wanted: done isn't called. Before it has begun it's taken back, and released before this returns;
 * else released when it ends.    asyncio: Future.cancel */
void rondo_job_cancel(rondo_job *job);

/* Inside a task: have it done, and wait.    asyncio: to_thread
 *
 *   work       on a helper thread, as above
 *   argument   `size` bytes, of which work gets a copy; what it has left there is copied back when it returns. So who is
 *              cancelled, or out of time, may go: work ends with its copy. What the bytes point to must live that long. With
 *              size 0 the pointer itself is passed
 *
 * Returns what work returned; or -ECANCELED, -ETIMEDOUT, -EPERM: not in a task, -EAGAIN, -ENOMEM, -ESHUTDOWN. */
int rondo_to_thread(int (*work)(void *argument), void *argument, size_t size);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
