#include "core/control.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "core/cpus.h"
#include "core/log.h"
#include "core/memory.h"

#define FOREVER_MS UINT64_MAX

static int control_open(struct control *control, const struct control_config *config);
static void control_close(struct control *control);
static int start_shards(struct control *control, unsigned *started);
static int serve_until_stopped(struct control *control, int signals_fd);
static void drain(struct control *control, int signals_fd);
static void for_each_shard(struct control *control, unsigned count, void (*order)(struct shard *shard));
static int first_error(struct control *control, unsigned count);

static int run(struct control *control, int signals_fd)
{
    unsigned started;
    int rc = start_shards(control, &started);
    if (rc == 0) {
        control->config->serving(control->config->context);
        rc = serve_until_stopped(control, signals_fd);
    }
    for_each_shard(control, started, shard_drain);
    if (rc == 0)
        drain(control, signals_fd);
    else /* some have no shard to serve them any more: no use in waiting */
        for_each_shard(control, started, shard_abort);
    for_each_shard(control, started, shard_join);
    return rc < 0 ? rc : first_error(control, started);
}

int control_run(const struct control_config *config)
{
    struct control control;
    sigset_t ours, before;
    int rc = control_open(&control, config);
    if (rc < 0) {
        rondo_log(RONDO_LOG_ERROR, "can't start: %s", strerror(-rc));
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
        rondo_log(RONDO_LOG_ERROR, "signalfd: %s", strerror(-rc));
    } else {
        rc = run(&control, signals_fd);
        close(signals_fd);
    }
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

static void for_each_shard(struct control *control, unsigned count, void (*order)(struct shard *shard))
{
    for (unsigned i = 0; i < count; i++)
        order(&control->shards[i]);
}

static unsigned count_in_state(struct control *control, unsigned count, enum shard_state state)
{
    unsigned found = 0;
    for (unsigned i = 0; i < count; i++)
        found += atomic_load(&control->shards[i].state) == state;
    return found;
}

static int first_error(struct control *control, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (control->shards[i].error < 0)
            return control->shards[i].error;
    }
    return 0;
}

static void wait_for_event(struct control *control, int signals_fd, uint64_t timeout_ms)
{
    struct pollfd fds[] = { { .fd = control->events_fd, .events = POLLIN },
                            { .fd = signals_fd, .events = POLLIN } };
    int timeout = timeout_ms > 60 * 60 * 1000 ? -1 : (int)timeout_ms;
    if (timeout_ms != FOREVER_MS && timeout < 0)
        timeout = 60 * 60 * 1000; /* poll can't wait longer in one go: the caller asks again */
    eventfd_t count;
    if (poll(fds, signals_fd < 0 ? 1 : 2, timeout) > 0 && fds[0].revents != 0)
        eventfd_read(control->events_fd, &count);
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

/* Returns 0 once all serve; or the error of one that can't, when all others serve or have ended. */
static int start_shards(struct control *control, unsigned *started)
{
    unsigned wanted = control->config->shards;
    int *cpus = cpus_to_pin(wanted);
    int rc = 0;
    for (*started = 0; *started < wanted; (*started)++) {
        rc = shard_start(&control->shards[*started], control, *started, cpus == NULL ? -1 : cpus[*started]);
        if (rc < 0) {
            rondo_log(RONDO_LOG_ERROR,
                      "can't start thread %u: %s: fewer --shards, or a higher limit of processes", *started,
                      strerror(-rc));
            break;
        }
    }
    memory_free(cpus);
    while (count_in_state(control, *started, SHARD_STARTING) > 0)
        wait_for_event(control, -1, FOREVER_MS);
    if (rc == 0 && count_in_state(control, *started, SHARD_ENDED) > 0)
        rc = first_error(control, *started);
    return rc;
}

/* ---- signals -------------------------------------------------------------------------------------------- */

/* Returns the signal that asks to stop, or 0. */
static int take_signals(struct control *control, int signals_fd)
{
    struct signalfd_siginfo info;
    while (read(signals_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo != SIGUSR1)
            return (int)info.ssi_signo;
        for_each_shard(control, control->config->shards, shard_report);
    }
    return 0;
}

static int serve_until_stopped(struct control *control, int signals_fd)
{
    for (;;) {
        int signal = take_signals(control, signals_fd);
        if (signal != 0 || atomic_load(&control->stop_requested)) {
            rondo_log(RONDO_LOG_INFO, "%s: draining for %g s at most",
                      signal != 0 ? strsignal(signal) : "stop",
                      (double)control->config->drain_timeout_ms / 1000);
            return 0;
        }
        if (count_in_state(control, control->config->shards, SHARD_ENDED) > 0)
            return first_error(control, control->config->shards);
        wait_for_event(control, signals_fd, FOREVER_MS);
    }
}

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Until all shards have ended; at the deadline, and at a second signal, what is left is aborted. */
static void drain(struct control *control, int signals_fd)
{
    uint64_t start_ms = clock_ms(), timeout_ms = control->config->drain_timeout_ms;
    bool aborted = false;
    while (count_in_state(control, control->config->shards, SHARD_ENDED) < control->config->shards) {
        uint64_t passed_ms = clock_ms() - start_ms;
        int signal = take_signals(control, signals_fd);
        if (!aborted && (signal != 0 || passed_ms >= timeout_ms)) {
            aborted = true;
            rondo_log(RONDO_LOG_WARNING, "%s: aborting the connections that are left",
                      signal != 0 ? strsignal(signal) : "drain timeout");
            for_each_shard(control, control->config->shards, shard_abort);
        }
        wait_for_event(control, signals_fd, aborted ? FOREVER_MS : timeout_ms - passed_ms);
    }
}
