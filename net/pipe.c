#include "net/pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "net/service.h"

#define TERMINAL_MULTIPLEXER makedev(5, 2) /* /dev/ptmx: who opens it gets another terminal */

rondo_transport *pipe_open(struct service *service, enum transport_kind kind, int fd,
                           const rondo_protocol *protocol, struct transport_owner *owner)
{
    const struct transport_start start = {
        .owner = owner,
        .protocol = protocol,
        .kind = kind,
        .fd = fd,
        .later = true,
        .keeps_fd = true,
    };
    return transport_open(service, &start);
}

/* ---- descriptors that others have, too -------------------------------------------------------------------- */

static int refuse(int fd, int error, const char *why)
{
    rondo_log(RONDO_LOG_ERROR, "descriptor %d can't be a pipe's end: %s", fd, why);
    return error;
}

static int check(int fd, enum transport_kind kind, const rondo_protocol *protocol, struct stat *status)
{
    int flags = fcntl(fd, F_GETFL), mode = flags & O_ACCMODE;
    if (protocol == NULL)
        return refuse(fd, -EINVAL, "there is no protocol for it");
    if (flags < 0 || fstat(fd, status) < 0)
        return refuse(fd, -EBADF, strerror(errno));
    if (!S_ISFIFO(status->st_mode) && !S_ISSOCK(status->st_mode) && !S_ISCHR(status->st_mode))
        return refuse(fd, -EINVAL, "pipes, FIFOs, sockets and character devices can, files can't");
    if (mode != O_RDWR && mode != (kind == READ_PIPE ? O_RDONLY : O_WRONLY))
        return refuse(fd, -EBADF,
                      kind == READ_PIPE ? "it isn't open for reading" : "it isn't open for writing");
    return 0;
}

/* To open it again gives the same thing, and only that. */
static bool can_be_opened_again(int fd, const struct stat *status)
{
    bool is_terminal = S_ISCHR(status->st_mode) && status->st_rdev != TERMINAL_MULTIPLEXER && isatty(fd);
    return S_ISFIFO(status->st_mode) || is_terminal;
}

/* One that shares no property with anybody; -1: there can't be one. */
static int open_again(int fd, enum transport_kind kind, const struct stat *status)
{
    char path[32];
    if (!can_be_opened_again(fd, status))
        return -1;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, (kind == READ_PIPE ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

/* What the transport gets; `fd` itself is closed, or replaced, when there is a transport. */
static int duplicate(int fd, enum transport_kind kind, const struct stat *status, bool *restores_blocking)
{
    int flags = fcntl(fd, F_GETFL);
    int copy = flags & O_NONBLOCK ? -1 : open_again(fd, kind, status);
    if (copy > STDERR_FILENO)
        return copy;
    int low = copy; /* 0, 1 or 2 was free */
    copy = fcntl(low >= 0 ? low : fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (low >= 0) {
        close(low);
        return copy < 0 ? -errno : copy;
    }
    *restores_blocking = !(flags & O_NONBLOCK);
    if (copy >= 0 && *restores_blocking)
        fcntl(copy, F_SETFL, flags | O_NONBLOCK);
    return copy < 0 ? -errno : copy;
}

static void let_go(int fd)
{
    int nothing =
        fd <= STDERR_FILENO ? open("/dev/null", (fd == STDIN_FILENO ? O_RDONLY : O_WRONLY) | O_CLOEXEC) : -1;
    if (nothing < 0) {
        if (fd > STDERR_FILENO)
            close(fd);
        return; /* in a sandbox that number keeps what it has */
    }
    dup3(nothing, fd, 0);
    close(nothing);
}

static int connect_pipe(rondo_loop *loop, int fd, enum transport_kind kind, const rondo_protocol *protocol,
                        rondo_transport **t)
{
    struct service *service = service_of(loop);
    struct stat status;
    assert(loop_is_here(loop));
    int rc = check(fd, kind, protocol, &status);
    if (rc < 0)
        return rc;
    if (service->draining)
        return -ESHUTDOWN;
    if (loop->engine->sockets != &system_sockets)
        return -ENOTSUP;
    bool restores_blocking = false;
    int own = duplicate(fd, kind, &status, &restores_blocking);
    if (own < 0)
        return refuse(fd, own, strerror(-own));
    rondo_transport *made = pipe_open(service, kind, own, protocol, NULL);
    if (made == NULL) {
        if (restores_blocking)
            fcntl(own, F_SETFL, fcntl(own, F_GETFL) & ~O_NONBLOCK);
        close(own);
        return -ENOMEM;
    }
    made->restores_blocking = restores_blocking;
    made->eof_seen = kind == WRITE_PIPE && S_ISCHR(status.st_mode); /* of its reader nothing is known */
    let_go(fd);
    if (t != NULL)
        *t = made;
    return 0;
}

int rondo_connect_read_pipe(rondo_loop *loop, int fd, const rondo_protocol *protocol, rondo_transport **t)
{
    return connect_pipe(loop, fd, READ_PIPE, protocol, t);
}

int rondo_connect_write_pipe(rondo_loop *loop, int fd, const rondo_protocol *protocol, rondo_transport **t)
{
    return connect_pipe(loop, fd, WRITE_PIPE, protocol, t);
}
