#include "core/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/simulated.h"

/* Measured on loopback, see perf/README.md. The buffers must outnumber the connections that are busy at the same
 * time, and be large enough for bulk; their pages are touched only as far as messages are long. */
const struct engine_size engine_size_default = {
    .submissions = 256,
    .completions = 4096,
    .buffers = 1024,
    .buffer_bytes = 16 * 1024,
    .pieced_buffers = 16,
    .pieced_buffer_bytes = 256 * 1024,
    .datagrams = 64,
    .datagram_bytes = 64 * 1024 + 192, /* the longest that UDP has, and its sender's name */
};

/* Below these an engine can't serve anybody well. */
#define SUBMISSIONS_FLOOR 16
#define COMPLETIONS_FLOOR 64
#define BUFFERS_FLOOR     32
#define PIECED_FLOOR      4

static unsigned half(unsigned value, unsigned floor)
{
    return value / 2 > floor ? value / 2 : floor;
}

bool engine_size_halve(struct engine_size *size)
{
    if (size->submissions <= SUBMISSIONS_FLOOR && size->completions <= COMPLETIONS_FLOOR &&
        size->buffers <= BUFFERS_FLOOR)
        return false;
    size->submissions = half(size->submissions, SUBMISSIONS_FLOOR);
    size->completions = half(size->completions, COMPLETIONS_FLOOR);
    size->buffers = half(size->buffers, BUFFERS_FLOOR);
    if (size->pieced_buffers > 0)
        size->pieced_buffers = half(size->pieced_buffers, PIECED_FLOOR);
    return true;
}

bool engine_is_known(const char *name)
{
    return strcmp(name, "auto") == 0 || strcmp(name, "uring") == 0 || strcmp(name, "epoll") == 0;
}

/* By the kernel, its configuration, a seccomp profile, or a limit that is too low even for small rings. */
bool engine_is_refused(int error)
{
    switch (-error) {
    case EPERM:
    case EACCES:
    case ENOSYS:
    case EOPNOTSUPP:
    case EINVAL:
    case ENOMEM:
        return true;
    default:
        return false;
    }
}

struct engine *engine_open(const char *name, const struct engine_size *size, int wake_fd, int *error,
                           char why[ENGINE_WHY_BYTES])
{
    if (strcmp(name, "simulated") == 0) /* for tests; no user's choice */
        return simulated_open(size, wake_fd, error, why);
    if (!engine_is_known(name)) {
        *error = -EINVAL;
        snprintf(why, ENGINE_WHY_BYTES, "there is no engine %s: auto, uring or epoll", name);
        return NULL;
    }
    if (strcmp(name, "epoll") == 0)
        return epoll_open(size, wake_fd, error, why);
    struct engine *engine = uring_open(size, wake_fd, error, why);
    if (engine != NULL || strcmp(name, "uring") == 0 || !engine_is_refused(*error))
        return engine;
    return epoll_open(size, wake_fd, error, why);
}

uint64_t engine_system_clock_ns(const struct engine *engine)
{
    struct timespec now;
    (void)engine;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
