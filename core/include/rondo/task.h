/* Tasks: functions of a shard that may wait, and read downwards.    asyncio: Task
 *
 *   static int count_down(void *argument)
 *   {
 *       unsigned *seconds = argument;
 *       while (*seconds > 0) {
 *           int rc = rondo_sleep(1000);
 *           if (rc < 0)
 *               return rc;
 *           --*seconds;
 *       }
 *       return 0;
 *   }
 *
 *   static int launch(void *argument)
 *   {
 *       unsigned seconds = 3;
 *       rondo_task *counting;
 *       int rc = rondo_create_task(argument, &(rondo_task_options){ .run = count_down, .argument = &seconds }, &counting);
 *       if (rc < 0)
 *           return rc;
 *       rondo_timeout(5000);
 *       return rondo_join(counting);
 *   }
 *
 *   static int shard_start(rondo_loop *loop)
 *   {
 *       return rondo_create_task(loop, &(rondo_task_options){ .run = launch, .argument = loop }, NULL);
 *   }
 *
 *   int main(void)
 *   {
 *       const rondo_app app = { .shard_start = shard_start };
 *       return rondo_run(&app) < 0;
 *   }
 *
 * A task has a stack of its own; a call that waits lets the shard go on with everything else meanwhile. Between two
 * such calls nothing else runs, so tasks of a shard need no locks among each other.
 *
 * Every call that waits returns at once, or waits until what it waits for happens, the task is cancelled (-ECANCELED),
 * or its time is up (-ETIMEDOUT). C has no exceptions: a task that is cancelled sees all its waits fail, and returns by
 * itself, doing its clean-up on the way. One that goes on regardless gets a turn of the loop for each refusal, and is
 * left behind when the server aborts.
 *
 * When a server drains, the tasks that nobody else answers for are cancelled: those of shard_start, but not a stream's
 * handler, which finishes first what had arrived (<rondo/stream.h>). The shard ends when they have returned.
 *
 * The stack: 64 KiB unless asked for otherwise, of which only the pages that are touched take memory. One that
 * overflows runs into guard pages, and the process ends by SIGSEGV, with a line that names the task. Functions with
 * arrays of more than 64 KiB are caught when they are compiled with -fstack-clash-protection.
 *
 * Thread: the loop's, for every call here. Calls that wait: inside a task only; elsewhere they return -EPERM and say so
 * in the log. */
#ifndef RONDO_TASK_H
#define RONDO_TASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/loop.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

typedef struct rondo_task rondo_task;

/* What shall run; zero means the default, for each member but `run`. */
typedef struct rondo_task_options {
    int (*run)(void *argument); /* what it returns is rondo_join's */
    void *argument;             /* yours; it lives as long as the task needs it */
    const char *name;           /* for the log; lives as long as the task */
    size_t
        stack_size; /* bytes, rounded up to a power of two; default 64 KiB, at least 16 KiB, at most 1 GiB */
    bool detached;  /* made by a task, it is not a child of it */
} rondo_task_options;

/* Have it run, from the loop's next turn on.    asyncio: create_task
 *
 *   task   set to what stands for it, for rondo_join, once. NULL: nobody will join it
 *
 * Made inside a task it is a child of that one (unless detached): when the parent returns, children that still run are
 * cancelled, and waited for. So what a child was given of its parent's lives long enough, if the parent joins it before
 * it returns.
 * asyncio: TaskGroup
 * Returns 0; -EINVAL: no `run`, or a stack too large; -ENOMEM; -ESHUTDOWN: the server drains. */
int rondo_create_task(rondo_loop *loop, const rondo_task_options *options, rondo_task **task);

/* Wait until it has returned, and forget it: `task` is gone when this returns.    asyncio: await task
 *
 * Who is cancelled, or out of time, while it waits here passes that on: the other task is cancelled, and its return is
 * still waited for. So with rondo_timeout before it, this is asyncio's wait_for.
 * Returns what `run` returned; -EINVAL: there is nothing to join: oneself, or somebody else does; -EPERM. */
int rondo_join(rondo_task *task);

/* Ask it to end: its waits fail with -ECANCELED from now on, the one that it is in and all others. One that has not
 * begun begins all the same, since clean-up may be due. Idempotent.    asyncio: Task.cancel */
void rondo_cancel(rondo_task *task);

/* Has it been asked to? For loops that don't wait.    asyncio: cancelling */
bool rondo_task_is_cancelled(const rondo_task *task);

/* The task that calls; NULL: none does.    asyncio: current_task */
rondo_task *rondo_current_task(void);

/* The loop of a task.    asyncio: get_loop */
rondo_loop *rondo_task_get_loop(const rondo_task *task);

/* Wait so long, not less. 0: until the next turn.    asyncio: sleep
 * Returns 0, -ECANCELED, -ETIMEDOUT or -EPERM. */
int rondo_sleep(uint64_t delay_ms);

#define RONDO_NO_TIMEOUT UINT64_MAX

/* The waits of this task, all together, may take so long from now on: the one it is in then, and all later ones, fail
 * with -ETIMEDOUT, until this is called again.    asyncio: timeout, wait_for; POSIX: alarm
 *
 *   delay_ms   RONDO_NO_TIMEOUT: as long as they like
 *
 * Returns what was left of the time set before; RONDO_NO_TIMEOUT: there was none. A function that sets a limit of its
 * own restores its caller's:
 *
 *   uint64_t left_ms = rondo_timeout(100);
 *   … waits …
 *   rondo_timeout(left_ms);
 *
 * Outside a task it does nothing. */
uint64_t rondo_timeout(uint64_t delay_ms);

/* Something that tasks wait for. Zeroed before its first use; it must not go while somebody waits.    asyncio: Event */
typedef struct rondo_event {
    struct rondo_link _waiting;
    bool _is_set;
} rondo_event;

/* Wait until it is set. Returns 0, -ECANCELED, -ETIMEDOUT or -EPERM. */
int rondo_event_wait(rondo_event *event);

/* All that wait go on, in their order, and nobody waits until it is cleared. From tasks and from callbacks of the same
 * loop. */
void rondo_event_set(rondo_event *event);
void rondo_event_clear(rondo_event *event);
bool rondo_event_is_set(const rondo_event *event);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
