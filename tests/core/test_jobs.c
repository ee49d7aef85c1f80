/* Blocking work of users: rondo_run_in_executor, and rondo_to_thread of tasks. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

#include "core/executor.h"
#include "core/jobs.h"
#include "core/task.h"
#include "support/engine.h"

TestSuite(jobs, .timeout = 60);

static const struct engine_size tiny = { 8, 16, 16, 1024, 0, 0, 0, 0 };
static rondo_loop loop;
static sem_t begun, may_end, is_released;

static void open_loop(void)
{
    char why[ENGINE_WHY_BYTES] = "";
    sem_init(&begun, 0, 0);
    sem_init(&may_end, 0, 0);
    sem_init(&is_released, 0, 0);
    cr_assert_eq(loop_open(&loop, tested_engine(), &tiny, why), 0, "%s", why);
}

static void close_loop(void)
{
    cr_assert_eq(loop.users, 0);
    cr_assert(list_is_empty(&loop.jobs));
    tasks_close(&loop);
    loop_close(&loop);
    loop_free(&loop);
}

#define ON_A_LOOP .init = open_loop, .fini = close_loop

/* ---- with callbacks ---------------------------------------------------------------------------------------- */

struct note {
    pthread_t worker;
    unsigned worked, done;
    int error;
    atomic_uint released;
};

static void work_on(void *argument)
{
    struct note *note = argument;
    note->worker = pthread_self();
    note->worked++;
}

static void work_long(void *argument)
{
    work_on(argument);
    sem_post(&begun);
    while (sem_wait(&may_end) < 0)
        ;
}

static void done_with(void *argument, int error)
{
    struct note *note = argument;
    cr_assert(loop_is_here(&loop));
    note->done++;
    note->error = error;
}

static void release(void *argument)
{
    struct note *note = argument;
    atomic_fetch_add(&note->released, 1);
    sem_post(&is_released);
}

static rondo_job *ask(struct note *note, void (*work)(void *argument))
{
    rondo_job *job;
    const rondo_work asked = { .argument = note, .work = work, .done = done_with, .release = release };
    cr_assert_eq(rondo_run_in_executor(&loop, &asked, &job), 0);
    return job;
}

Test(jobs, work_is_done_elsewhere_and_its_result_comes_here, ON_A_LOOP)
{
    struct note notes[50] = { 0 };
    for (unsigned i = 0; i < 50; i++)
        ask(&notes[i], work_on);
    cr_assert_eq(loop_run(&loop), 0);
    for (unsigned i = 0; i < 50; i++) {
        cr_assert_eq(notes[i].worked, 1);
        cr_assert_eq(notes[i].done, 1);
        cr_assert_eq(notes[i].error, 0);
        cr_assert_eq(notes[i].released, 1);
        cr_assert_not(pthread_equal(notes[i].worker, pthread_self()));
    }
}

Test(jobs, nobody_need_be_told, ON_A_LOOP)
{
    struct note note = { 0 };
    cr_assert_eq(rondo_run_in_executor(&loop, &(rondo_work){ .argument = &note, .work = work_on }, NULL), 0);
    cr_assert_eq(loop_run(&loop), 0);
    cr_assert_eq(note.worked, 1);
    cr_assert_eq(rondo_run_in_executor(&loop, &(rondo_work){ .argument = &note }, NULL), -EINVAL);
}

Test(jobs, there_are_sixteen_at_a_time_and_the_others_wait, ON_A_LOOP)
{
    struct note notes[EXECUTOR_THREADS_MAX + 5] = { 0 };
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX + 5; i++)
        ask(&notes[i], work_long);
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX; i++)
        sem_wait(&begun);
    cr_assert_eq(sem_trywait(&begun), -1);
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX + 5; i++)
        sem_post(&may_end);
    cr_assert_eq(loop_run(&loop), 0);
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX + 5; i++)
        cr_assert_eq(notes[i].done, 1);
}

Test(jobs, one_that_runs_and_is_cancelled_is_not_done_but_released, ON_A_LOOP)
{
    static struct note note; /* it may live longer than the test's stack */
    rondo_job *job = ask(&note, work_long);
    sem_wait(&begun);
    rondo_job_cancel(job);
    cr_assert_eq(note.released, 0);
    cr_assert_eq(loop_run(&loop), 0, "nothing keeps it");
    sem_post(&may_end);
    sem_wait(&is_released);
    cr_assert_eq(note.done, 0);
}

Test(jobs, one_that_waits_and_is_cancelled_never_runs, ON_A_LOOP)
{
    static struct note notes[EXECUTOR_THREADS_MAX], waiting;
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX; i++)
        ask(&notes[i], work_long);
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX; i++)
        sem_wait(&begun);
    rondo_job_cancel(ask(&waiting, work_on));
    cr_assert_eq(waiting.released, 1, "before that returns");
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX; i++)
        sem_post(&may_end);
    cr_assert_eq(loop_run(&loop), 0);
    cr_assert_eq(waiting.worked + waiting.done, 0);
}

Test(jobs, a_shard_that_aborts_waits_for_none, ON_A_LOOP)
{
    static struct note notes[EXECUTOR_THREADS_MAX + 3], before;
    ask(&before, work_on);
    cr_assert_eq(loop_run(&loop), 0);
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX + 3; i++)
        ask(&notes[i], work_long);
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX; i++)
        sem_wait(&begun);
    jobs_abort(&loop);
    cr_assert_eq(before.done, 1);
    sem_wait(&is_released);
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX + 3; i++) {
        cr_assert_eq(notes[i].done, 1);
        cr_assert_eq(notes[i].error, -ECANCELED);
        cr_assert_eq(notes[i].released, i >= EXECUTOR_THREADS_MAX);
    }
    cr_assert_eq(loop_run(&loop), 0);
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX; i++)
        sem_post(&may_end);
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX + 3; i++)
        sem_wait(&is_released);
    loop.is_aborting = true;
    cr_assert_eq(rondo_run_in_executor(&loop, &(rondo_work){ .work = work_on }, NULL), -ESHUTDOWN);
}

/* ---- in tasks ------------------------------------------------------------------------------------------------- */

struct sum {
    int a, b, sum;
};

static pthread_t adder;

static int add(void *argument)
{
    struct sum *sum = argument;
    adder = pthread_self();
    sum->sum = sum->a + sum->b;
    return sum->sum < 0 ? -EDOM : 7;
}

static struct sum result;
static int returned;

static int let_add(void *argument)
{
    (void)argument;
    struct sum sum = { .a = 3, .b = 4 };
    returned = rondo_to_thread(add, &sum, sizeof sum);
    result = sum;
    return 0;
}

static void run_task(int (*run)(void *argument))
{
    cr_assert_eq(rondo_create_task(&loop, &(rondo_task_options){ .run = run, .name = "test" }, NULL), 0);
    cr_assert_eq(loop_run(&loop), 0);
}

Test(jobs, a_task_waits_for_its_work_and_has_its_result, ON_A_LOOP)
{
    run_task(let_add);
    cr_assert_eq(returned, 7);
    cr_assert_eq(result.sum, 7);
    cr_assert_not(pthread_equal(adder, pthread_self()));
}

static int let_add_without_copy(void *argument)
{
    (void)argument;
    static struct sum sum = { .a = -3, .b = 1 };
    returned = rondo_to_thread(add, &sum, 0);
    result = sum;
    return 0;
}

Test(jobs, an_argument_without_a_size_is_passed_itself, ON_A_LOOP)
{
    run_task(let_add_without_copy);
    cr_assert_eq(returned, -EDOM);
    cr_assert_eq(result.sum, -2);
}

static int block(void *argument)
{
    sem_post(&begun);
    while (sem_wait(&may_end) < 0)
        ;
    memset(argument, 'w', 16); /* its copy: the task has gone */
    sem_post(&is_released);
    return 0;
}

static int wait_in_vain(void *argument)
{
    char bytes[16] = "untouched";
    (void)argument;
    rondo_timeout(30);
    returned = rondo_to_thread(block, bytes, sizeof bytes);
    cr_assert(eq(str, bytes, "untouched"));
    return 0;
}

Test(jobs, a_task_out_of_time_goes_and_the_work_ends_with_its_copy, ON_A_LOOP)
{
    run_task(wait_in_vain);
    cr_assert_eq(returned, -ETIMEDOUT);
    sem_post(&may_end);
    sem_wait(&is_released);
}

static int wait_until_aborted(void *argument)
{
    char bytes[16] = "";
    (void)argument;
    returned = rondo_to_thread(block, bytes, sizeof bytes);
    return 0;
}

Test(jobs, a_task_is_told_that_the_shard_aborts, ON_A_LOOP)
{
    cr_assert_eq(rondo_create_task(&loop, &(rondo_task_options){ .run = wait_until_aborted }, NULL), 0);
    cr_assert_eq(loop_turn(&loop, 0), 0);
    sem_wait(&begun);
    jobs_abort(&loop);
    cr_assert_eq(loop_run(&loop), 0);
    cr_assert_eq(returned, -ECANCELED);
    sem_post(&may_end);
    sem_wait(&is_released);
}

Test(jobs, outside_a_task_nobody_can_wait, ON_A_LOOP)
{
    struct sum sum = { 0 };
    cr_assert_eq(rondo_to_thread(add, &sum, sizeof sum), -EPERM);
}
