#include "core/task.h"

#include <errno.h>

#include <rondo/log.h>

#include "core/list.h"
#include "core/memory.h"

#define REFUSALS_MAX 100 /* while the shard aborts: enough for any clean-up that is in earnest */

struct tasks {
    struct stacks stacks;
    struct rondo_link all; /* those ended, too, that may still be joined */
    unsigned running;      /* not ended */
    bool left_behind;
};

static void step(rondo_call *call);

/* ---- of a shard ------------------------------------------------------------------------------------------ */

static struct tasks *tasks_of(rondo_loop *loop)
{
    if (loop->tasks != NULL)
        return loop->tasks;
    struct tasks *tasks = memory_new(sizeof *tasks);
    if (tasks == NULL)
        return NULL;
    stacks_init(&tasks->stacks);
    list_init(&tasks->all);
    coroutine_watch_overflows();
    if (coroutine_begin_thread() < 0)
        rondo_log(RONDO_LOG_WARNING,
                  "shard %u: no memory for signals: a stack that overflows will not be named", loop->index);
    return loop->tasks = tasks;
}

void task_own(rondo_task *task, struct task_belonging *belonging,
              void (*release)(struct task_belonging *belonging))
{
    belonging->release = release;
    list_push(&task->belongings, &belonging->link);
}

static void release_belongings(rondo_task *task)
{
    while (!list_is_empty(&task->belongings)) {
        struct task_belonging *newest =
            rondo_container_of(task->belongings.previous, struct task_belonging, link);
        list_remove(&newest->link);
        newest->release(newest);
    }
}

static void free_task(rondo_task *task)
{
    assert(!list_contains_link(&task->waiting) && !list_contains_link(&task->wake._link));
    list_remove(&task->in_shard);
    if (list_contains_link(&task->sibling))
        list_remove(&task->sibling);
    coroutine_free(&task->coroutine, &task->loop->tasks->stacks);
}

static void for_each(struct tasks *tasks, void (*act)(rondo_task *task))
{
    for (struct rondo_link *link = tasks->all.next, *next; link != &tasks->all; link = next) {
        next = link->next;
        act(rondo_container_of(link, rondo_task, in_shard));
    }
}

static void drain_one(rondo_task *task)
{
    if (task->parent == NULL && !task->drains_itself)
        rondo_cancel(task);
}

void tasks_drain(rondo_loop *loop)
{
    loop->is_draining = true;
    if (loop->tasks != NULL)
        for_each(loop->tasks, drain_one);
}

void tasks_abort(rondo_loop *loop)
{
    loop->is_draining = loop->is_aborting = true;
    if (loop->tasks != NULL)
        for_each(loop->tasks, rondo_cancel);
}

unsigned tasks_count(const rondo_loop *loop)
{
    return loop->tasks != NULL ? loop->tasks->running : 0;
}

static void leave_behind(rondo_task *task)
{
    struct tasks *tasks = task->loop->tasks;
    if (tasks->left_behind)
        return;
    tasks->left_behind = true;
    task->loop->users -= tasks->running;
    rondo_log(RONDO_LOG_ERROR,
              "shard %u: %s goes on waiting although it is cancelled: left behind, %u tasks in all",
              task->loop->index, task->coroutine.name, tasks->running);
}

static void stop_waiting(rondo_task *task)
{
    rondo_call_cancel(&task->wake);
    rondo_timer_cancel(&task->sleep);
    rondo_timer_cancel(&task->limit);
    if (list_contains_link(&task->waiting))
        list_remove(&task->waiting);
}

static void free_left_behind(rondo_task *task)
{
    release_belongings(task);
    free_task(task);
}

void tasks_close(rondo_loop *loop)
{
    struct tasks *tasks = loop->tasks;
    if (tasks == NULL)
        return;
    for_each(tasks, stop_waiting);
    for_each(tasks, free_left_behind);
    stacks_close(&tasks->stacks);
    coroutine_end_thread();
    memory_free(tasks);
    loop->tasks = NULL;
}

/* ---- waiting and waking ---------------------------------------------------------------------------------- */

rondo_task *rondo_current_task(void)
{
    return (rondo_task *)coroutine_running();
}

rondo_loop *rondo_task_get_loop(const rondo_task *task)
{
    return task->loop;
}

int task_may_wait(const char *what)
{
    if (rondo_current_task() != NULL)
        return 0;
    rondo_log(RONDO_LOG_ERROR, "%s waits, and so it must be called inside a task", what);
    return -EPERM;
}

int task_refusal(const rondo_task *task)
{
    return task->cancelled ? -ECANCELED : task->timed_out ? -ETIMEDOUT : 0;
}

static void wait_for_loop(rondo_task *task)
{
    task->state = TASK_READY;
    rondo_call_soon(task->loop, &task->wake, step);
}

void task_wake_soon(rondo_task *task, int result)
{
    if (task->state != TASK_WAITING)
        return;
    task->woken = result;
    wait_for_loop(task);
}

void task_wake(rondo_task *task, int result)
{
    if (task->state != TASK_WAITING)
        return;
    task->woken = result;
    if (coroutine_running() == NULL)
        step(&task->wake);
    else
        wait_for_loop(task);
}

/* It has been cancelled, or is out of time. */
static void interrupt(rondo_task *task)
{
    if (task->state != TASK_WAITING)
        return;
    if (task->interrupted != NULL)
        task->interrupted(task);
    else
        task_wake_soon(task, task_refusal(task));
}

static int wait_for_wake(void (*interrupted)(rondo_task *task), void *context)
{
    rondo_task *task = rondo_current_task();
    task->state = TASK_WAITING;
    task->interrupted = interrupted;
    task->interrupted_context = context;
    if (task_refusal(task) != 0) {
        if (task->loop->is_aborting && ++task->refusals > REFUSALS_MAX)
            leave_behind(task);
        interrupt(task);
    }
    coroutine_suspend(&task->coroutine);
    return task->woken;
}

int task_wait(void)
{
    return wait_for_wake(NULL, NULL);
}

int task_wait_firmly(void (*interrupted)(rondo_task *task), void *context)
{
    return wait_for_wake(interrupted, context);
}

void rondo_cancel(rondo_task *task)
{
    if (task->cancelled)
        return;
    task->cancelled = true;
    interrupt(task);
}

bool rondo_task_is_cancelled(const rondo_task *task)
{
    return task->cancelled;
}

/* ---- beginning and ending -------------------------------------------------------------------------------- */

/* It waits for its children, and they are cancelled already. */
static void children_are_cancelled(rondo_task *task)
{
    (void)task;
}

static bool has_running_children(const rondo_task *task)
{
    for (const struct rondo_link *link = task->children.next; link != &task->children; link = link->next) {
        if (rondo_container_of(link, rondo_task, sibling)->state != TASK_ENDED)
            return true;
    }
    return false;
}

static void end_children(rondo_task *task)
{
    for (struct rondo_link *link = task->children.next; link != &task->children; link = link->next)
        rondo_cancel(rondo_container_of(link, rondo_task, sibling));
    while (has_running_children(task))
        task_wait_firmly(children_are_cancelled, NULL);
}

/* On its own stack. */
static void run(struct coroutine *coroutine)
{
    rondo_task *task = (rondo_task *)coroutine;
    task->result = task->run(task->argument);
    end_children(task);
}

static void free_unless_joined(rondo_task *task)
{
    if (!task->is_kept)
        free_task(task);
}

/* What ended and was not joined by its parent, or by somebody who waits for it. */
static void forget_children(rondo_task *task)
{
    for (struct rondo_link *link; (link = list_pop(&task->children)) != NULL;) {
        rondo_task *child = rondo_container_of(link, rondo_task, sibling);
        child->parent = NULL;
        if (child->joiner == NULL)
            free_task(child);
    }
}

static void end(rondo_task *task)
{
    rondo_loop *loop = task->loop;
    rondo_task *parent = task->parent, *joiner = task->joiner;
    task->state = TASK_ENDED;
    rondo_timer_cancel(&task->limit);
    forget_children(task);
    release_belongings(task);
    loop->tasks->running--;
    if (!loop->tasks->left_behind)
        loop->users--;
    free_unless_joined(task);
    if (joiner != NULL)
        task_wake_soon(joiner, 0);
    if (parent != NULL && parent != joiner && parent->interrupted == children_are_cancelled)
        task_wake_soon(parent, 0);
}

static void step(rondo_call *call)
{
    rondo_task *task = rondo_container_of(call, rondo_task, wake);
    assert(coroutine_running() == NULL);
    task->state = TASK_RUNNING;
    coroutine_resume(&task->coroutine);
    if (task->coroutine.is_over)
        end(task);
}

int task_new(rondo_loop *loop, const rondo_task_options *options, size_t size, rondo_task **made)
{
    struct tasks *tasks = tasks_of(loop);
    struct coroutine *coroutine;
    if (tasks == NULL)
        return -ENOMEM;
    int rc = coroutine_new(&coroutine, &tasks->stacks, options->stack_size, size, run);
    if (rc < 0)
        return rc;
    rondo_task *task = (rondo_task *)coroutine;
    task->coroutine.name = options->name != NULL ? options->name : "a task without a name";
    task->loop = loop;
    task->run = options->run;
    task->argument = options->argument;
    task->limit_ms = RONDO_NO_TIMEOUT;
    list_init(&task->children);
    list_init(&task->belongings);
    list_push(&tasks->all, &task->in_shard);
    tasks->running++;
    loop->users += !tasks->left_behind;
    *made = task;
    return 0;
}

void task_begin(rondo_task *task)
{
    if (coroutine_running() == NULL)
        step(&task->wake);
    else
        wait_for_loop(task);
}

int rondo_create_task(rondo_loop *loop, const rondo_task_options *options, rondo_task **made)
{
    assert(loop_is_here(loop));
    rondo_task *parent = options->detached ? NULL : rondo_current_task(), *task;
    if (options->run == NULL)
        return -EINVAL;
    if (loop->is_aborting || (parent == NULL && loop->is_draining))
        return -ESHUTDOWN;
    int rc = task_new(loop, options, sizeof *task, &task);
    if (rc < 0)
        return rc;
    if (parent != NULL) {
        task->parent = parent;
        list_push(&parent->children, &task->sibling);
    }
    task->is_kept = made != NULL;
    if (made != NULL)
        *made = task;
    wait_for_loop(task);
    return 0;
}

static void cancel_joined(rondo_task *task)
{
    rondo_cancel(task->interrupted_context);
}

int rondo_join(rondo_task *task)
{
    rondo_task *self = rondo_current_task();
    int rc = task_may_wait("rondo_join");
    if (rc < 0)
        return rc;
    if (task == self || !task->is_kept || task->joiner != NULL)
        return -EINVAL;
    task->joiner = self;
    while (task->state != TASK_ENDED)
        task_wait_firmly(cancel_joined, task);
    int result = task->result;
    free_task(task);
    return result;
}

/* ---- time ------------------------------------------------------------------------------------------------ */

static void slept(rondo_timer *timer)
{
    task_wake(rondo_container_of(timer, rondo_task, sleep), 0);
}

int rondo_sleep(uint64_t delay_ms)
{
    rondo_task *task = rondo_current_task();
    int rc = task_may_wait("rondo_sleep");
    if (rc < 0)
        return rc;
    rondo_call_later(task->loop, &task->sleep, delay_ms, slept);
    rc = task_wait();
    rondo_timer_cancel(&task->sleep);
    return rc;
}

static void limit_reached(rondo_timer *timer)
{
    rondo_task *task = rondo_container_of(timer, rondo_task, limit);
    task->timed_out = true;
    interrupt(task);
}

uint64_t rondo_timeout(uint64_t delay_ms)
{
    rondo_task *task = rondo_current_task();
    if (task == NULL)
        return RONDO_NO_TIMEOUT;
    uint64_t now_ms = rondo_time_ms(task->loop), before_ms = task->limit_ms;
    task->timed_out = delay_ms == 0;
    task->limit_ms = delay_ms < UINT64_MAX - now_ms ? now_ms + delay_ms : RONDO_NO_TIMEOUT;
    if (delay_ms > 0 && task->limit_ms != RONDO_NO_TIMEOUT)
        rondo_call_later(task->loop, &task->limit, delay_ms, limit_reached);
    else
        rondo_timer_cancel(&task->limit);
    if (before_ms == RONDO_NO_TIMEOUT)
        return RONDO_NO_TIMEOUT;
    return before_ms > now_ms ? before_ms - now_ms : 0;
}

/* ---- events ---------------------------------------------------------------------------------------------- */

static struct rondo_link *those_waiting(rondo_event *event)
{
    if (event->_waiting.next == NULL)
        list_init(&event->_waiting);
    return &event->_waiting;
}

int rondo_event_wait(rondo_event *event)
{
    rondo_task *task = rondo_current_task();
    int rc = task_may_wait("rondo_event_wait");
    if (rc < 0 || event->_is_set)
        return rc;
    list_push(those_waiting(event), &task->waiting);
    rc = task_wait();
    if (list_contains_link(&task->waiting))
        list_remove(&task->waiting);
    return rc;
}

void rondo_event_set(rondo_event *event)
{
    event->_is_set = true;
    for (struct rondo_link *link; (link = list_pop(those_waiting(event))) != NULL;)
        task_wake_soon(rondo_container_of(link, rondo_task, waiting), 0);
}

void rondo_event_clear(rondo_event *event)
{
    event->_is_set = false;
}

bool rondo_event_is_set(const rondo_event *event)
{
    return event->_is_set;
}
