#include "core/jobs.h"

#include <errno.h>
#include <string.h>

#include "core/executor.h"
#include "core/list.h"
#include "core/memory.h"
#include "core/task.h"

struct rondo_job {
    struct job job;
    rondo_work work;
    struct rondo_link in_loop; /* until done, or cancelled; the loop's, as all but work.argument */
};

static rondo_job *job_of(struct job *job)
{
    return rondo_container_of(job, rondo_job, job);
}

static void run_work(struct job *job)
{
    const rondo_work *work = &job_of(job)->work;
    work->work(work->argument);
}

static void run_done(struct job *job)
{
    rondo_job *ours = job_of(job);
    list_remove(&ours->in_loop);
    if (ours->work.done != NULL)
        ours->work.done(ours->work.argument, 0);
}

static void run_release(struct job *job)
{
    rondo_job *ours = job_of(job);
    if (ours->work.release != NULL)
        ours->work.release(ours->work.argument);
    memory_free(ours);
}

int rondo_run_in_executor(rondo_loop *loop, const rondo_work *work, rondo_job **made)
{
    assert(loop_is_here(loop));
    if (work->work == NULL)
        return -EINVAL;
    if (loop->is_aborting)
        return -ESHUTDOWN;
    rondo_job *job = memory_new(sizeof *job);
    if (job == NULL)
        return -ENOMEM;
    job->job = (struct job){ .work = run_work, .done = run_done, .release = run_release };
    job->work = *work;
    int rc = executor_submit(loop, &job->job);
    if (rc < 0) {
        memory_free(job);
        return rc;
    }
    list_push(&loop->jobs, &job->in_loop);
    if (made != NULL)
        *made = job;
    return 0;
}

void rondo_job_cancel(rondo_job *job)
{
    list_remove(&job->in_loop);
    executor_cancel(&job->job);
}

void jobs_abort(rondo_loop *loop)
{
    while (!list_is_empty(&loop->jobs)) {
        rondo_job *job = rondo_container_of(loop->jobs.next, rondo_job, in_loop);
        list_remove(&job->in_loop);
        if (job->work.done != NULL)
            job->work.done(job->work.argument, -ECANCELED);
        executor_cancel(&job->job);
    }
}

/* ---- for a task that waits -------------------------------------------------------------------------------- */

/* On its stack. */
struct waiting {
    rondo_task *task;
    void *argument;
    size_t size;
    int result;
    bool is_over;
};

/* What the helper thread has. */
struct thread_call {
    struct waiting *waiting; /* the loop's; NULL: it has gone */
    int (*work)(void *argument);
    void *argument;
    int result;
    _Alignas(max_align_t) char copy[];
};

static void call_work(void *argument)
{
    struct thread_call *call = argument;
    call->result = call->work(call->argument);
}

static void call_done(void *argument, int error)
{
    const struct thread_call *call = argument;
    struct waiting *waiting = call->waiting;
    if (waiting == NULL)
        return;
    waiting->is_over = true;
    waiting->result = error < 0 ? error : call->result;
    if (error == 0 && waiting->size > 0)
        memcpy(waiting->argument, call->copy, waiting->size);
    task_wake_soon(waiting->task, 0);
}

static int wait_for(struct thread_call *call, struct waiting *waiting, rondo_job *job)
{
    while (!waiting->is_over) {
        int rc = task_wait();
        if (rc < 0 && !waiting->is_over) {
            call->waiting = NULL;
            rondo_job_cancel(job);
            return rc;
        }
    }
    return waiting->result;
}

int rondo_to_thread(int (*work)(void *argument), void *argument, size_t size)
{
    rondo_task *task = rondo_current_task();
    rondo_job *job;
    int rc = task_may_wait("rondo_to_thread");
    if (rc < 0)
        return rc;
    struct thread_call *call = memory_alloc(sizeof *call + size);
    if (call == NULL)
        return -ENOMEM;
    struct waiting waiting = { .task = task, .argument = argument, .size = size };
    *call = (struct thread_call){ .waiting = &waiting,
                                  .work = work,
                                  .argument = size > 0 ? call->copy : argument };
    if (size > 0)
        memcpy(call->copy, argument, size);
    const rondo_work asked = {
        .argument = call, .work = call_work, .done = call_done, .release = memory_free
    };
    rc = rondo_run_in_executor(task->loop, &asked, &job);
    if (rc < 0) {
        memory_free(call);
        return rc;
    }
    return wait_for(call, &waiting, job);
}
