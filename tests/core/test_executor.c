/* The executor: work off the loop, done on the loop, and work that nobody waits for any more. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/executor.h"
#include "support/engine.h"

TestSuite(executor, .timeout = 30);

static const struct engine_size tiny = { 8, 16, 16, 1024, 0, 0, 0, 0 };
static rondo_loop loop;

static void open_loop(void)
{
    char why[ENGINE_WHY_BYTES] = "";
    cr_assert_eq(loop_open(&loop, tested_engine(), &tiny, why), 0, "%s", why);
}

static void close_loop(void)
{
    cr_assert(eq(uint, loop.users, 0));
    loop_close(&loop);
    loop_free(&loop);
}

#define ON_A_LOOP .init = open_loop, .fini = close_loop

static void run_loop(void)
{
    cr_assert_eq(loop_run(&loop), 0);
}

/* ---- jobs ------------------------------------------------------------------------------------------------ */

static atomic_uint worked, released;
static unsigned done_count;
static unsigned done_order[1000];
static sem_t begun, may_end, is_released;

struct task {
    struct job job;
    unsigned number;
    pthread_t worker;
};

static void note_work(struct job *job)
{
    rondo_container_of(job, struct task, job)->worker = pthread_self();
    atomic_fetch_add(&worked, 1);
}

static void wait_on(sem_t *semaphore)
{
    while (sem_wait(semaphore) < 0)
        ;
}

static void hang(struct job *job)
{
    note_work(job);
    sem_post(&begun);
    wait_on(&may_end);
}

static void note_done(struct job *job)
{
    struct task *task = rondo_container_of(job, struct task, job);
    cr_assert(loop_is_here(&loop));
    cr_assert(not(pthread_equal(task->worker, pthread_self())));
    done_order[done_count++] = task->number;
}

static void must_not_be_done(struct job *job)
{
    (void)job;
    cr_assert(false, "a cancelled job is not done");
}

static void free_task(struct job *job)
{
    free(rondo_container_of(job, struct task, job));
    atomic_fetch_add(&released, 1);
    sem_post(&is_released);
}

static struct task *submit(void (*work)(struct job *job), void (*done)(struct job *job), unsigned number)
{
    struct task *task = calloc(1, sizeof *task);
    task->job = (struct job){ .work = work, .done = done, .release = free_task };
    task->number = number;
    cr_assert(eq(int, executor_submit(&loop, &task->job), 0));
    return task;
}

static void semaphores_are_given(void)
{
    sem_init(&begun, 0, 0);
    sem_init(&may_end, 0, 0);
    sem_init(&is_released, 0, 0);
}

/* All helper threads are busy with jobs that hang. */
static struct task *busy[EXECUTOR_THREADS_MAX];

static void all_threads_are_busy(void (*done)(struct job *job))
{
    semaphores_are_given();
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX; i++)
        busy[i] = submit(hang, done, 1000 + i);
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX; i++)
        wait_on(&begun);
}

static void let_all_end(void)
{
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX; i++)
        sem_post(&may_end);
}

static unsigned count_threads(void)
{
    unsigned count = 0;
    DIR *threads = opendir("/proc/self/task");
    for (const struct dirent *entry; (entry = readdir(threads)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(threads);
    return count;
}

/* ---- done ------------------------------------------------------------------------------------------------ */

Test(executor, work_is_off_the_loop_and_done_on_it, ON_A_LOOP)
{
    semaphores_are_given();
    submit(note_work, note_done, 7);
    cr_assert(eq(uint, loop.users, 1), "a job keeps its loop going");
    cr_assert(eq(uint, done_count, 0), "never from inside the call");

    run_loop();

    cr_assert(eq(uint, done_count, 1));
    cr_assert(eq(uint, done_order[0], 7));
    cr_assert(eq(uint, released, 1));
}

Test(executor, a_thousand_jobs_are_each_done_once, ON_A_LOOP)
{
    bool seen[1000] = { false };
    semaphores_are_given();
    for (unsigned i = 0; i < 1000; i++)
        submit(note_work, note_done, i);

    run_loop();

    cr_assert(eq(uint, done_count, 1000));
    for (unsigned i = 0; i < 1000; i++)
        seen[done_order[i]] = true;
    for (unsigned i = 0; i < 1000; i++)
        cr_assert(seen[i]);
    cr_assert(eq(uint, released, 1000));
}

static atomic_uint begun_order[8], begun_count;

static void note_begin(struct job *job)
{
    begun_order[atomic_fetch_add(&begun_count, 1)] = rondo_container_of(job, struct task, job)->number;
    note_work(job);
}

Test(executor, threads_are_limited_and_what_waits_begins_in_order, ON_A_LOOP)
{
    unsigned threads_before = count_threads();
    all_threads_are_busy(note_done);
    for (unsigned i = 0; i < 8; i++)
        submit(note_begin, note_done, i);
    cr_assert(eq(uint, count_threads(), threads_before + EXECUTOR_THREADS_MAX));
    cr_assert(eq(uint, worked, EXECUTOR_THREADS_MAX), "the others wait");

    sem_post(&may_end); /* one thread, for all that wait */
    while (done_count < 9)
        cr_assert_eq(loop_turn(&loop, ENGINE_FOREVER), 0);

    for (unsigned i = 0; i < 8; i++)
        cr_assert(eq(uint, begun_order[i], i));
    for (unsigned i = 1; i < EXECUTOR_THREADS_MAX; i++)
        sem_post(&may_end);
    run_loop();
    cr_assert(eq(uint, released, EXECUTOR_THREADS_MAX + 8));
}

Test(executor, threads_without_work_end, ON_A_LOOP)
{
    unsigned threads_before = count_threads();
    executor_idle_ms = 1;
    all_threads_are_busy(note_done);
    let_all_end();
    run_loop();
    while (count_threads() > threads_before)
        sched_yield();
    submit(note_work, note_done, 0); /* and begin again */
    run_loop();
    cr_assert(eq(uint, done_count, EXECUTOR_THREADS_MAX + 1));
}

static void one_after_another_takes_two_threads_at_most(unsigned threads_before)
{
    for (unsigned i = 0; i < 50; i++) {
        submit(note_work, note_done, i);
        run_loop();
        wait_on(&is_released);
    }
    /* The last one's thread may not be back when the next comes: so there may be two. */
    cr_assert(le(uint, count_threads(), threads_before + 2));
}

Test(executor, a_thread_without_work_serves_the_next_job, ON_A_LOOP)
{
    semaphores_are_given();
    one_after_another_takes_two_threads_at_most(count_threads());
}

Test(executor, jobs_that_are_taken_back_need_no_thread, ON_A_LOOP)
{
    unsigned threads_before = count_threads();
    struct task *taken_back[5];
    executor_idle_ms = 1;
    all_threads_are_busy(note_done);
    for (unsigned i = 0; i < 5; i++)
        taken_back[i] = submit(note_work, must_not_be_done, i);
    for (unsigned i = 0; i < 5; i++)
        executor_cancel(&taken_back[i]->job);
    let_all_end();
    run_loop();
    while (count_threads() > threads_before)
        sched_yield();
    semaphores_are_given();
    executor_idle_ms = 10000;
    one_after_another_takes_two_threads_at_most(threads_before);
}

static int blocks_signals = -1;

static void look_at_mask(struct job *job)
{
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    blocks_signals = sigismember(&mask, SIGTERM) && sigismember(&mask, SIGUSR1) &&
                     sigismember(&mask, SIGCHLD) && !sigismember(&mask, SIGSEGV);
    note_work(job);
}

Test(executor, signals_are_blocked_in_helper_threads, ON_A_LOOP)
{
    semaphores_are_given();
    submit(look_at_mask, note_done, 0);
    run_loop();
    cr_assert(eq(int, blocks_signals, 1));
}

static int helpers_cpus;

static void count_cpus(struct job *job)
{
    cpu_set_t cpus;
    cr_assert_eq(sched_getaffinity(0, sizeof cpus, &cpus), 0);
    helpers_cpus = CPU_COUNT(&cpus);
    note_work(job);
}

static void *run_pinned(void *argument)
{
    cpu_set_t *one = argument;
    cr_assert_eq(sched_setaffinity(0, sizeof *one, one), 0);
    open_loop();
    submit(count_cpus, note_done, 0);
    run_loop();
    close_loop();
    return NULL;
}

Test(executor, a_helper_is_not_pinned_where_its_shard_is)
{
    pthread_t thread;
    cpu_set_t all, one;
    unsigned first = 0;
    cr_assert_eq(sched_getaffinity(0, sizeof all, &all), 0);
    if (CPU_COUNT(&all) == 1)
        cr_skip_test("there is one CPU only");
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    semaphores_are_given();
    pthread_create(&thread, NULL, run_pinned, &one);
    pthread_join(thread, NULL);
    cr_assert(eq(int, helpers_cpus, CPU_COUNT(&all)));
}

/* ---- cancelled ------------------------------------------------------------------------------------------- */

Test(executor, a_queued_job_is_taken_back, ON_A_LOOP)
{
    all_threads_are_busy(note_done);
    struct task *first = submit(note_work, must_not_be_done, 1);
    submit(note_work, note_done, 2);

    executor_cancel(&first->job);

    cr_assert(eq(uint, released, 1), "at once");
    let_all_end();
    run_loop();
    cr_assert(eq(uint, worked, EXECUTOR_THREADS_MAX + 1), "its work was never begun");
    cr_assert(eq(uint, done_count, EXECUTOR_THREADS_MAX + 1));
}

Test(executor, a_job_under_way_is_abandoned_and_its_loop_may_end)
{
    semaphores_are_given();
    open_loop();
    struct task *task = submit(hang, must_not_be_done, 1);
    wait_on(&begun);

    executor_cancel(&task->job);
    cr_assert(eq(uint, loop.users, 0), "nobody waits for it");
    run_loop();
    close_loop();
    memset(&loop, 0xee, sizeof loop); /* nothing will touch it */

    cr_assert(eq(uint, released, 0), "its memory lives until its work ends");
    sem_post(&may_end);
    wait_on(&is_released);
    cr_assert(eq(uint, released, 1));
}

Test(executor, a_job_whose_result_waits_in_the_mailbox_can_be_cancelled, ON_A_LOOP)
{
    semaphores_are_given();
    struct task *task = submit(note_work, must_not_be_done, 1);
    while (atomic_load(&loop.mailbox) == NULL)
        sched_yield();

    executor_cancel(&task->job);

    cr_assert(eq(uint, loop.users, 0));
    cr_assert(eq(uint, released, 0));
    cr_assert_eq(loop_turn(&loop, 0), 0);
    cr_assert(eq(uint, released, 1));
}

Test(executor, a_result_that_comes_as_the_loop_closes_is_released)
{
    semaphores_are_given();
    open_loop();
    struct task *task = submit(note_work, must_not_be_done, 1);
    while (atomic_load(&loop.mailbox) == NULL)
        sched_yield();
    executor_cancel(&task->job);
    close_loop();
    cr_assert(eq(uint, released, 1));
}

Test(executor, a_loop_that_failed_is_not_posted_to)
{
    open_loop();
    all_threads_are_busy(must_not_be_done);
    submit(note_work, must_not_be_done, 1);

    executor_abandon(&loop);

    cr_assert(eq(uint, released, 1), "the one that had not begun");
    loop.users = 0;
    close_loop();
    memset(&loop, 0xee, sizeof loop);
    let_all_end();
    for (unsigned i = 0; i < EXECUTOR_THREADS_MAX + 1; i++)
        wait_on(&is_released);
    cr_assert(eq(uint, worked, EXECUTOR_THREADS_MAX));
}

static void another_follows(struct job *job)
{
    note_done(job);
    if (done_count < 5)
        submit(note_work, another_follows, done_count);
}

Test(executor, a_job_may_be_submitted_when_another_is_done, ON_A_LOOP)
{
    semaphores_are_given();
    submit(note_work, another_follows, 0);
    run_loop();
    cr_assert(eq(uint, done_count, 5));
}

Test(executor, a_forked_child_has_threads_of_its_own)
{
    open_loop();
    semaphores_are_given();
    submit(note_work, note_done, 1);
    run_loop();
    close_loop();
    wait_on(&is_released);

    pid_t child = fork();
    if (child == 0) {
        memset(&loop, 0, sizeof loop);
        open_loop();
        submit(note_work, note_done, 2);
        run_loop();
        _exit(done_count == 2 ? 0 : 1);
    }
    int status = -1;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(eq(int, status, 0));
}
