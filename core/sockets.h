/* What is asked of a stream socket at once, by a call that never blocks, and not by an operation: of the system's
 * sockets by every engine in the same way, of simulated ones by the engine that simulates them. */
#ifndef RONDO_CORE_SOCKETS_H
#define RONDO_CORE_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/uio.h>

struct engine;

struct socket_calls {
    /* A stream socket to connect: close-on-exec, and with TCP_NODELAY, since transports gather writes themselves. Returns its
     * descriptor or a negative errno. */
    int (*open)(struct engine *engine, int family);
    /* Give it an address of its own before it connects. Returns 0 or a negative errno. */
    int (*bind)(struct engine *engine, int fd, const struct sockaddr *address, socklen_t size);
    /* Send what fits now. Returns how many bytes; -EAGAIN; or another negative errno. */
    int (*send_now)(struct engine *engine, int fd, const struct iovec *slices, unsigned count);
    /* The same for what is no socket, and set not to block. */
    int (*write_now)(struct engine *engine, int fd, const struct iovec *slices, unsigned count);
    /* Send no more: the peer sees its EOF behind all that was sent. */
    void (*half_close)(struct engine *engine, int fd);
    /* Let the peer of a TCP connection send so far ahead: the kernel makes its receive buffer fit, within its limits (sysctl
     * tcp_rmem), unless the size has been set (SO_RCVBUF). */
    void (*widen_window)(struct engine *engine, int fd, size_t bytes);
    /* Bytes that have arrived and were not received yet. */
    size_t (*unread)(struct engine *engine, int fd);
    /* Is there something to receive: bytes, the peer's EOF, an error? */
    bool (*is_readable)(struct engine *engine, int fd);
    /* Bytes sent that the peer's kernel has not acknowledged. */
    size_t (*unacknowledged)(struct engine *engine, int fd);
    /* The close to come is a reset. */
    void (*reset_at_close)(struct engine *engine, int fd);
    /* The address of this end, or of the peer's, also after a reset. Returns 0 or a negative errno. */
    int (*name)(struct engine *engine, int fd, bool of_peer, struct sockaddr_storage *name, socklen_t *size);
};

extern const struct socket_calls system_sockets;

#endif
