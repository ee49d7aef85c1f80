/* Helper threads, for work that would block a shard (getaddrinfo).    asyncio: run_in_executor
 *
 *   QUEUED     waits for a helper thread                       cancelled: taken back, released at once
 *   RUNNING    work() is under way on one                      cancelled: released when work() ends
 *   POSTED     work() has ended; in the loop's mailbox         cancelled: released when the mailbox is read
 *   -          done() is called on the loop, then release()
 *
 * The threads are the process's, at most EXECUTOR_THREADS_MAX. They start when there is work for them, and end when
 * there was none for a while, so nobody has to open or close anything. Jobs begin in the order in which they were
 * submitted.
 *
 * A job under way can't be stopped: getaddrinfo may hang for half a minute. So nobody waits for it. Whoever submitted
 * it cancels it and forgets it, its loop may end, rondo_run may return; when work() ends at last, release() is all
 * that follows. */
#ifndef RONDO_CORE_EXECUTOR_H
#define RONDO_CORE_EXECUTOR_H

#include "core/loop.h"

#define EXECUTOR_THREADS_MAX 16

/* After which a thread without work ends. For tests, before the first job. */
extern unsigned executor_idle_ms;

/* Embedded in what the work needs, which is the executor's from executor_submit until release(). */
struct job {
    void (*work)(struct job *job); /* on a helper thread; signals are blocked there */
    void (*done)(struct job *job); /* on the loop, from the loop; not after executor_cancel */
    /* Free it: the last call, exactly once. On the loop, inside executor_cancel, or on a helper thread: it touches
     * nothing of the loop's. */
    void (*release)(struct job *job);

    /* The executor's own. */
    enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_POSTED } state;
    bool cancelled;
    rondo_loop *loop;
    struct rondo_link link; /* QUEUED or RUNNING: in a list of these */
    rondo_call call;
};

/* Have `job` done. Until done() or executor_cancel the job is a user of the loop.
 * Returns 0; or -EAGAIN when there is no helper thread and none can be started: then the job is the caller's again,
 * and nothing of it is called. Thread: the loop's. */
int executor_submit(rondo_loop *loop, struct job *job);

/* The result is no longer wanted: done() will not be called. The job may be gone when this returns.
 * Thread: the loop's, before done(). */
void executor_cancel(struct job *job);

/* The loop has failed, and will turn no more: cancel all its jobs that did not reach its mailbox. (A loop that ends
 * in order has none.) Thread: the loop's. */
void executor_abandon(rondo_loop *loop);

#endif
