#include "core/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "core/cpus.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/sandbox.h"

#define FOREVER_MS UINT64_MAX

static int control_open(struct control *control, const struct control_config *config);
static void control_close(struct control *control);
static int open_all(struct control *control);
static int start_all(struct control *control);
static int serve_until_stopped(struct control *control, int signals_fd);
static bool serve_until_left(struct control *control, int signals_fd);
static void drain(struct control *control, int signals_fd, bool at_once);
static void say_drained(const struct control *control);
static void end_all(struct control *control);
static int first_error(const struct control *control);

static void say_engine_that_was_chosen(const struct control *control)
{
    if (strcmp(control->config->engine, "auto") != 0)
        return;
    const char *why = control->why_not_uring;
    rondo_log(RONDO_LOG_INFO, "engine %s%s%s", control->engine, *why != '\0' ? ", not " : "", why);
}

static int enter_sandbox(void)
{
    char why[SANDBOX_WHY_BYTES];
    int rc = sandbox_enter(why);
    if (rc < 0)
        rondo_log(RONDO_LOG_ERROR, "%s", why);
    return rc;
}

static int run(struct control *control, int signals_fd)
{
    int rc = open_all(control);
    if (rc < 0)
        return rc;
    rc = start_all(control);
    if (rc == 0 && control->config->has_sandbox)
        rc = enter_sandbox();
    if (rc == 0) {
        control->is_ready = true;
        control->config->serving(control->config->context);
        say_engine_that_was_chosen(control);
        rc = serve_until_stopped(control, signals_fd);
        control->is_ready = false;
    }
    if (rc == 0) {
        drain(control, signals_fd, !serve_until_left(control, signals_fd));
        rc = first_error(control);
    }
    if (rc == 0)
        say_drained(control);
    end_all(control); /* the rest, when some can't serve: no use in waiting for the others' connections */
    return rc;
}

static const char *hint(int error)
{
    return error == -EMFILE || error == -ENFILE ? "raise the limit of descriptors (ulimit -n)"
                                                : "see eventfd(2)";
}

int control_run(const struct control_config *config)
{
    struct control control;
    sigset_t ours, before;
    int rc = control_open(&control, config);
    if (rc < 0) {
        rondo_log(RONDO_LOG_ERROR, "can't start: %s: %s", strerror(-rc), hint(rc));
        return rc;
    }
    sigemptyset(&ours);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &ours, &before);
    int signals_fd = signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals_fd < 0) {
        rc = -errno;
        rondo_log(RONDO_LOG_ERROR, "can't take signals: signalfd: %s: %s", strerror(-rc), hint(rc));
    } else {
        rc = run(&control, signals_fd);
        close(signals_fd);
    }
    /* Those that came too late to be taken: unblocked, they would kill a process that has ended in order. */
    while (sigtimedwait(&ours, NULL, &(struct timespec){ 0 }) > 0)
        ;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    control_close(&control);
    return rc;
}

static int control_open(struct control *control, const struct control_config *config)
{
    *control = (struct control){ .config = config };
    control->shards = memory_new(config->shards * sizeof *control->shards);
    control->events_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (control->shards != NULL && control->events_fd >= 0)
        return 0;
    int rc = control->shards == NULL ? -ENOMEM : -errno;
    control_close(control);
    return rc;
}

static void control_close(struct control *control)
{
    memory_free(control->shards);
    if (control->events_fd >= 0)
        close(control->events_fd);
}

void control_notify(struct control *control)
{
    eventfd_write(control->events_fd, 1);
}

/* ---- shards --------------------------------------------------------------------------------------------- */

static void for_each_shard(struct control *control, void (*order)(struct shard *shard))
{
    for (unsigned i = 0; i < control->shard_count; i++)
        order(&control->shards[i]);
}

static unsigned count_in_state(const struct control *control, enum shard_state state)
{
    unsigned count = 0;
    for (unsigned i = 0; i < control->shard_count; i++)
        count += atomic_load(&control->shards[i].state) == state;
    return count;
}

static const struct shard *first_failed(const struct control *control)
{
    for (unsigned i = 0; i < control->shard_count; i++) {
        const struct shard *shard = &control->shards[i];
        if (atomic_load(&shard->state) == SHARD_ENDED && shard->error < 0)
            return shard;
    }
    return NULL;
}

static int first_error(const struct control *control)
{
    const struct shard *failed = first_failed(control);
    return failed == NULL ? 0 : failed->error;
}

static void wait_for_event(struct control *control, int signals_fd, uint64_t timeout_ms)
{
    const uint64_t longest_ms =
        60 * 60 * 1000; /* poll's int holds no more than 24 days: the caller asks again */
    struct pollfd fds[] = { { .fd = control->events_fd, .events = POLLIN },
                            { .fd = signals_fd, .events = POLLIN },
                            { .fd = control->config->asked_fd, .events = POLLIN } };
    int timeout = timeout_ms == FOREVER_MS ? -1 : (int)(timeout_ms < longest_ms ? timeout_ms : longest_ms);
    eventfd_t count;
    if (poll(fds, 3, timeout) <= 0)
        return;
    if (fds[0].revents != 0)
        eventfd_read(control->events_fd, &count);
    if (fds[2].revents != 0)
        control->config->asked(control->config->context, control->is_ready);
}

/* The CPU for each shard, when the affinity mask has exactly one for each; otherwise none is pinned: on a part of
 * the CPUs, two servers that both pin would meet on the same ones, and the scheduler does better. */
static int *cpus_to_pin(unsigned shards)
{
    int *cpus = memory_alloc((shards + 1) * sizeof *cpus);
    if (cpus == NULL || cpus_allowed(cpus, shards + 1) != shards) {
        memory_free(cpus);
        return NULL;
    }
    return cpus;
}

static void end_all(struct control *control)
{
    for_each_shard(control, shard_drain);
    for_each_shard(control, shard_abort);
    for_each_shard(control, shard_join);
    control->shard_count = 0;
}

/* Open all shards with engines of control->engine_size. Returns 0 when all are open; otherwise none is. */
static int open_of_size(struct control *control, char why[ENGINE_WHY_BYTES])
{
    unsigned wanted = control->config->shards;
    int *cpus = cpus_to_pin(wanted);
    int rc = 0;
    while (control->shard_count < wanted && rc == 0) {
        unsigned index = control->shard_count;
        rc = shard_open(&control->shards[index], control, index, cpus == NULL ? -1 : cpus[index]);
        if (rc < 0)
            snprintf(why, ENGINE_WHY_BYTES,
                     "can't start thread %u: %s: take fewer --shards, or raise the limit (ulimit -u)", index,
                     strerror(-rc));
        else
            control->shard_count++;
    }
    memory_free(cpus);
    while (count_in_state(control, SHARD_OPENING) > 0)
        wait_for_event(control, -1, FOREVER_MS);
    const struct shard *failed = first_failed(control);
    if (rc == 0 && failed != NULL) {
        rc = failed->error;
        memcpy(why, failed->why, ENGINE_WHY_BYTES);
    }
    if (rc < 0)
        end_all(control);
    return rc;
}

/* The limit of locked memory is one for all shards, indeed for all processes of this user: so they are all made smaller
 * together, before any of them serves. */
static int open_all_with(struct control *control, const char *engine, char why[ENGINE_WHY_BYTES])
{
    const struct engine_size *wanted = &control->config->engine_size;
    struct engine_size *size = &control->engine_size;
    int rc;
    control->engine = engine;
    *size = *wanted;
    while ((rc = open_of_size(control, why)) == -ENOMEM && engine_size_halve(size)) {
        /* What a closed ring had locked is given back in the background, a little later. */
        nanosleep(&(struct timespec){ .tv_nsec = 20 * 1000 * 1000 }, NULL);
    }
    if (rc == 0 && size->buffers < wanted->buffers) {
        rondo_log(RONDO_LOG_WARNING,
                  "the limit of locked memory (ulimit -l) allows each shard only %u completions and %u "
                  "receive buffers, "
                  "not %u and %u: slower under load",
                  size->completions, size->buffers, wanted->completions, wanted->buffers);
    }
    return rc;
}

/* Where io_uring can't be had, and nobody insists on it, epoll serves. */
static int open_all(struct control *control)
{
    const char *wanted = control->config->engine;
    bool may_fall_back = strcmp(wanted, "auto") == 0;
    char why[ENGINE_WHY_BYTES] = "";
    int rc = open_all_with(control, may_fall_back ? "uring" : wanted, why);
    if (rc < 0 && may_fall_back && engine_is_refused(rc)) {
        memcpy(control->why_not_uring, why, ENGINE_WHY_BYTES);
        rc = open_all_with(control, "epoll", why);
    }
    if (rc < 0)
        rondo_log(RONDO_LOG_ERROR, "%s", why);
    return rc;
}

/* A server that starts with its last descriptor could never accept anybody. */
static int check_descriptor_is_left(const struct control *control)
{
    int spare = fcntl(control->events_fd, F_DUPFD_CLOEXEC, 0);
    if (spare >= 0) {
        close(spare);
        return 0;
    }
    int rc = -errno;
    rondo_log(RONDO_LOG_ERROR, "no descriptor is left for connections: %s: %s", strerror(-rc), hint(rc));
    return rc;
}

static int start_all(struct control *control)
{
    int rc = check_descriptor_is_left(control);
    if (rc < 0)
        return rc;
    for_each_shard(control, shard_serve);
    while (count_in_state(control, SHARD_OPEN) > 0)
        wait_for_event(control, -1, FOREVER_MS);
    return first_error(control);
}

/* ---- signals -------------------------------------------------------------------------------------------- */

/* Returns the signal that asks to stop, or 0. */
static int take_signals(struct control *control, int signals_fd)
{
    struct signalfd_siginfo info;
    while (read(signals_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo != SIGUSR1)
            return (int)info.ssi_signo;
        for_each_shard(control, shard_report);
    }
    return 0;
}

static void say_stopped(const struct control_config *config, const char *why)
{
    double delay = (double)config->drain_delay_ms / 1000, timeout = (double)config->drain_timeout_ms / 1000;
    if (delay > 0)
        rondo_log(RONDO_LOG_INFO, "%s: not ready any more; draining in %g s, for %g s at most", why, delay,
                  timeout);
    else
        rondo_log(RONDO_LOG_INFO, "%s: draining for %g s at most", why, timeout);
}

static int serve_until_stopped(struct control *control, int signals_fd)
{
    for (;;) {
        int signal = take_signals(control, signals_fd);
        if (signal != 0 || atomic_load(&control->stop_requested)) {
            say_stopped(control->config, signal != 0 ? strsignal(signal) : "stop");
            return 0;
        }
        if (count_in_state(control, SHARD_ENDED) > 0)
            return first_error(control);
        wait_for_event(control, signals_fd, FOREVER_MS);
    }
}

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* False: a second signal has come, and wants the end at once. */
static bool serve_until_left(struct control *control, int signals_fd)
{
    uint64_t start_ms = clock_ms(), delay_ms = control->config->drain_delay_ms, passed_ms;
    while ((passed_ms = clock_ms() - start_ms) < delay_ms && count_in_state(control, SHARD_ENDED) == 0) {
        if (take_signals(control, signals_fd) != 0)
            return false;
        wait_for_event(control, signals_fd, delay_ms - passed_ms);
    }
    if (delay_ms > 0)
        rondo_log(RONDO_LOG_INFO, "draining for %g s at most",
                  (double)control->config->drain_timeout_ms / 1000);
    return true;
}

/* Until all shards have ended; at the deadline, and at a second signal, what is left is aborted. */
static void drain(struct control *control, int signals_fd, bool at_once)
{
    uint64_t start_ms = clock_ms(), timeout_ms = at_once ? 0 : control->config->drain_timeout_ms;
    bool aborted = false;
    for_each_shard(control, shard_drain);
    while (count_in_state(control, SHARD_ENDED) < control->shard_count) {
        uint64_t passed_ms = clock_ms() - start_ms;
        int signal = take_signals(control, signals_fd);
        if (!aborted && (signal != 0 || passed_ms >= timeout_ms)) {
            aborted = true;
            rondo_log(RONDO_LOG_WARNING, "%s: aborting the connections that are left",
                      signal != 0 ? strsignal(signal)
                      : at_once   ? "second signal"
                                  : "drain timeout");
            for_each_shard(control, shard_abort);
        }
        wait_for_event(control, signals_fd, aborted ? FOREVER_MS : timeout_ms - passed_ms);
    }
}

static void say_drained(const struct control *control)
{
    struct drained all = { 0 };
    for (unsigned i = 0; i < control->shard_count; i++) {
        const struct drained *one = &control->shards[i].loop.drained;
        all.idle += one->idle;
        all.busy += one->busy;
        all.aborted += one->aborted;
        all.late += one->late;
    }
    rondo_log(
        RONDO_LOG_INFO,
        "drained: %u idle connections closed, %u busy ones finished, %u aborted; %u of all were accepted "
        "meanwhile",
        all.idle, all.busy, all.aborted, all.late);
}
