/* Tasks from inside: coroutines that the loop resumes.
 *
 *   task_new   -> NEW
 *   task_begin    NEW -> RUNNING, or READY inside another task
 *   task_wait     RUNNING -> WAITING
 *   task_wake     WAITING -> RUNNING, or READY inside another task
 *   refusal       WAITING -> READY      cancelled, or out of time
 *   the loop      READY -> RUNNING
 *   its return    RUNNING -> ENDED      and its memory goes, or waits for rondo_join
 *
 * Law: a task is resumed from the loop only, never from inside another one, so a wake-up is the last thing that a
 * callback does: what it holds may be gone when task_wake returns. */
#ifndef RONDO_CORE_TASK_H
#define RONDO_CORE_TASK_H

#include <rondo/task.h>

#include "core/coroutine.h"
#include "core/loop.h"

enum task_state { TASK_NEW, TASK_READY, TASK_RUNNING, TASK_WAITING, TASK_ENDED };

struct rondo_task {
    struct coroutine coroutine; /* first: they lie together, at the top of the stack */
    rondo_loop *loop;
    enum task_state state;
    int woken;      /* what the wait returns */
    bool cancelled; /* all waits are refused; */
    bool timed_out; /* these, too, until the limit is set anew */
    bool is_kept;   /* its handle has been given away, and not been joined */
    bool drains_itself;
    unsigned refusals;                     /* since the shard aborts */
    void (*interrupted)(rondo_task *task); /* instead of refusing the wait that it is in; NULL: refuse it */
    void *interrupted_context;

    struct rondo_link waiting; /* in a list of those who wait for the same */
    rondo_call wake;
    rondo_timer sleep, limit;
    uint64_t limit_ms; /* when the limit ends */

    rondo_task *parent, *joiner;
    struct rondo_link children; /* also those that have ended, but were not joined */
    struct rondo_link sibling, in_shard;

    int (*run)(void *argument);
    void *argument;
    int result;
    struct rondo_link belongings;
};

/* What ends with a task: the last one that it came to own first. */
struct task_belonging {
    struct rondo_link link;
    void (*release)(struct task_belonging *belonging); /* from the loop; it has left the list */
};

/* A task that has not begun, as the first member of a zeroed struct of `size` bytes. Returns as rondo_create_task, but
 * also when draining. */
int task_new(rondo_loop *loop, const rondo_task_options *options, size_t size, rondo_task **task);

/* It runs, until it waits or has ended, before this returns, unless this is called inside another task. */
void task_begin(rondo_task *task);

/* Inside a task: wait for task_wake. Returns 0, -ECANCELED or -ETIMEDOUT. */
int task_wait(void);

/* Inside a task: wait for task_wake. `interrupted` is called when the task is cancelled or out of time, maybe at once,
 * maybe twice: it hastens what is waited for, or ends the wait. Returns what task_wake was given. */
int task_wait_firmly(void (*interrupted)(rondo_task *task), void *context);

/* Its wait is over, with this result. Without a wait, or when it was refused already, nothing happens. */
void task_wake(rondo_task *task, int result);

/* The same, in a later call from the loop. */
void task_wake_soon(rondo_task *task, int result);

/* May the caller wait? Returns 0, or -EPERM, having said in the log that `what` must not be called here. */
int task_may_wait(const char *what);

/* Why all its waits are refused: -ECANCELED or -ETIMEDOUT; 0: they are not. */
int task_refusal(const rondo_task *task);

void task_own(rondo_task *task, struct task_belonging *belonging,
              void (*release)(struct task_belonging *belonging));

/* The shard drains: cancel those that nobody answers for. */
void tasks_drain(rondo_loop *loop);

/* It aborts: cancel all; those who don't end then are left behind. */
void tasks_abort(rondo_loop *loop);

/* Not yet ended. */
unsigned tasks_count(const rondo_loop *loop);

/* The loop turns no more: free all, also what was left behind. */
void tasks_close(rondo_loop *loop);

#endif
