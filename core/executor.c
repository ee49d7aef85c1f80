#include "core/executor.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <rondo/log.h>

#include "core/thread.h"

unsigned executor_idle_ms = 10000;

static struct {
    pthread_mutex_t mutex; /* of all here, and of each job's state and cancelled until it is POSTED */
    pthread_cond_t submitted;
    struct rondo_link queue; /* jobs QUEUED */
    struct rondo_link
        running; /* jobs RUNNING: so that they can be found again, by executor_abandon and by LeakSanitizer */
    unsigned queued; /* length of the queue */
    unsigned threads,
        idle; /* all; and those that wait for a job, or have been woken for one and did not take it yet */
} pool = {
    .mutex = PTHREAD_MUTEX_INITIALIZER,
    .submitted = PTHREAD_COND_INITIALIZER,
    .queue = { &pool.queue, &pool.queue },
    .running = { &pool.running, &pool.running },
};

static void lock(void)
{
    pthread_mutex_lock(&pool.mutex);
}

static void unlock(void)
{
    pthread_mutex_unlock(&pool.mutex);
}

/* A forked child has none of the threads, and its parent's jobs are not its own. */
static void begin_anew_in_child(void)
{
    pthread_mutex_init(&pool.mutex, NULL);
    pthread_cond_init(&pool.submitted, NULL);
    list_init(&pool.queue);
    list_init(&pool.running);
    pool.queued = pool.threads = pool.idle = 0;
}

static void watch_forks(void)
{
    pthread_atfork(lock, unlock, begin_anew_in_child);
}

/* ---- on a helper thread --------------------------------------------------------------------------------- */

/* With the mutex held. Woken in vain, or for a job that another thread took, it waits on. Wall-clock time: if the
 * clock is set, a thread ends sooner or later than it should, and that is all. */
static struct job *wait_for_job(void)
{
    struct timespec end;
    int rc = 0;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += executor_idle_ms / 1000;
    end.tv_nsec += executor_idle_ms % 1000 * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    pool.idle++;
    while (list_is_empty(&pool.queue) && rc == 0)
        rc = pthread_cond_timedwait(&pool.submitted, &pool.mutex, &end);
    pool.idle--;
    struct rondo_link *link = list_pop(&pool.queue);
    if (link == NULL)
        return NULL;
    pool.queued--;
    return rondo_container_of(link, struct job, link);
}

static void run_done(rondo_call *call)
{
    struct job *job = rondo_container_of(call, struct job, call);
    if (!job->cancelled) {
        job->loop->users--;
        job->done(job);
    }
    job->release(job);
}

/* Posted with the mutex held. So who cancels either finds the job RUNNING, and nothing will be posted; or finds it
 * POSTED, and this thread is through with the loop. */
static bool deliver(struct job *job)
{
    list_remove(&job->link);
    job->state = JOB_POSTED;
    return !job->cancelled && rondo_post(job->loop, &job->call, run_done) == 0;
}

/* It may have been started by a shard that is pinned to one CPU, and shall not stand in its way: its CPUs are those
 * of the process's first thread. */
static void leave_the_shards_cpu(void)
{
    cpu_set_t cpus;
    if (sched_getaffinity(getpid(), sizeof cpus, &cpus) == 0)
        sched_setaffinity(0, sizeof cpus, &cpus);
}

static void *helper_main(void *argument)
{
    (void)argument;
    pthread_setname_np(pthread_self(), "rondo-helper");
    leave_the_shards_cpu();
    lock();
    for (struct job *job; (job = wait_for_job()) != NULL;) {
        job->state = JOB_RUNNING;
        list_push(&pool.running, &job->link);
        unlock();
        job->work(job);
        lock();
        if (!deliver(job)) {
            unlock();
            job->release(job);
            lock();
        }
    }
    pool.threads--;
    unlock();
    return NULL;
}

/* ---- on a loop ------------------------------------------------------------------------------------------ */

/* With the mutex held. One thread more, when all are busy and there may be more. */
static int add_thread(void)
{
    pthread_t thread;
    if (pool.queued < pool.idle || pool.threads == EXECUTOR_THREADS_MAX)
        return 0;
    int rc = thread_start(&thread, helper_main, NULL);
    if (rc == 0) {
        pthread_detach(thread);
        pool.threads++;
        return 0;
    }
    rondo_log(RONDO_LOG_WARNING, "can't start a helper thread: %s: raise the limit (ulimit -u)",
              strerror(-rc));
    return pool.threads > 0 ? 0 : -EAGAIN; /* those that there are will come to it */
}

int executor_submit(rondo_loop *loop, struct job *job)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    assert(loop_is_here(loop));
    pthread_once(&once, watch_forks);
    job->loop = loop;
    job->state = JOB_QUEUED;
    job->cancelled = false;
    job->call = (rondo_call){ 0 };
    job->link = (struct rondo_link){ 0 };
    lock();
    int rc = add_thread();
    if (rc == 0) {
        list_push(&pool.queue, &job->link);
        pool.queued++;
        pthread_cond_signal(&pool.submitted);
        loop->users++;
    }
    unlock();
    return rc;
}

void executor_cancel(struct job *job)
{
    rondo_loop *loop = job->loop;
    assert(loop_is_here(loop));
    lock();
    assert(!job->cancelled);
    job->cancelled = true;
    bool is_queued = job->state == JOB_QUEUED;
    if (is_queued) {
        list_remove(&job->link);
        pool.queued--;
    }
    unlock(); /* unless it was queued, the job may be gone by now */
    loop->users--;
    if (is_queued)
        job->release(job);
}

static struct job *find_job_of(const rondo_loop *loop, struct rondo_link *list)
{
    for (struct rondo_link *link = list->next; link != list; link = link->next) {
        struct job *job = rondo_container_of(link, struct job, link);
        if (job->loop == loop && !job->cancelled)
            return job;
    }
    return NULL;
}

void executor_abandon(rondo_loop *loop)
{
    struct job *job;
    lock();
    while ((job = find_job_of(loop, &pool.queue)) != NULL) {
        list_remove(&job->link);
        pool.queued--;
        unlock();
        job->release(job);
        lock();
    }
    while ((job = find_job_of(loop, &pool.running)) != NULL)
        job->cancelled = true;
    unlock();
}
