#include "core/sockets.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/sockios.h>

static int open_socket(struct engine *engine, int family)
{
    int on = 1, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)engine;
    if (fd < 0)
        return -errno;
    if (family == AF_UNIX || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0)
        return fd;
    int error = -errno;
    close(fd);
    return error;
}

static bool has_port(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET6)
        return ((const struct sockaddr_in6 *)address)->sin6_port != 0;
    return address->sa_family != AF_INET || ((const struct sockaddr_in *)address)->sin_port != 0;
}

/* Without a port, the kernel shall choose one when it knows the peer: then the same can serve for many peers. Where it
 * can't wait, it chooses now. */
static int bind_socket(struct engine *engine, int fd, const struct sockaddr *address, socklen_t size)
{
    int on = 1;
    (void)engine;
    if (!has_port(address))
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    return bind(fd, address, size) < 0 ? -errno : 0;
}

static int send_now(struct engine *engine, int fd, const struct iovec *slices, unsigned count)
{
    struct msghdr message = { .msg_iov = (struct iovec *)slices, .msg_iovlen = count };
    (void)engine;
    ssize_t sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? -errno : (int)sent;
}

static int write_now(struct engine *engine, int fd, const struct iovec *slices, unsigned count)
{
    (void)engine;
    ssize_t written = writev(fd, slices, (int)count);
    return written < 0 ? -errno : (int)written;
}

/* The system call, since the ring's own shutdown always goes through a worker thread. It fails only when the
 * connection is gone already, which the receive tells. */
static void half_close(struct engine *engine, int fd)
{
    (void)engine;
    shutdown(fd, SHUT_WR);
}

/* To wait for so many bytes (SO_RCVLOWAT) makes room for them, which stays when nobody waits for them any more. It leaves the
 * kernel's own adjustment in force, and its limit, which for SO_RCVBUF would be another, and low (sysctl rmem_max). A wake-up
 * that is suppressed in between comes with the second call. */
static void widen_window(struct engine *engine, int fd, size_t bytes)
{
    int before = 1, wide = (int)bytes;
    (void)engine;
    getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &before, &(socklen_t){ sizeof before });
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &wide, sizeof wide);
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &before, sizeof before);
}

static size_t ask_size(int fd, unsigned long request)
{
    int size = 0;
    return ioctl(fd, request, &size) < 0 || size < 0 ? 0 : (size_t)size;
}

static size_t unread(struct engine *engine, int fd)
{
    (void)engine;
    return ask_size(fd, SIOCINQ);
}

static bool is_readable(struct engine *engine, int fd)
{
    struct pollfd socket = { .fd = fd, .events = POLLIN };
    (void)engine;
    return poll(&socket, 1, 0) > 0;
}

static size_t unacknowledged(struct engine *engine, int fd)
{
    (void)engine;
    return ask_size(fd, SIOCOUTQ);
}

static void reset_at_close(struct engine *engine, int fd)
{
    struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
    (void)engine;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

/* getpeername says ENOTCONN after a reset; SO_PEERNAME still knows, if it is asked for no more than the name's size. */
static int peer_name(int fd, struct sockaddr_storage *name, socklen_t *size)
{
    int family = AF_UNSPEC;
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &(socklen_t){ sizeof family });
    if (family == AF_INET || family == AF_INET6) {
        *size = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
        return getsockopt(fd, SOL_SOCKET, SO_PEERNAME, name, size);
    }
    return getpeername(fd, (struct sockaddr *)name, size);
}

static int name(struct engine *engine, int fd, bool of_peer, struct sockaddr_storage *name, socklen_t *size)
{
    (void)engine;
    *size = sizeof *name;
    int rc = of_peer ? peer_name(fd, name, size) : getsockname(fd, (struct sockaddr *)name, size);
    return rc < 0 ? -errno : 0;
}

const struct socket_calls system_sockets = {
    .open = open_socket,
    .bind = bind_socket,
    .send_now = send_now,
    .write_now = write_now,
    .half_close = half_close,
    .widen_window = widen_window,
    .unread = unread,
    .is_readable = is_readable,
    .unacknowledged = unacknowledged,
    .reset_at_close = reset_at_close,
    .name = name,
};
