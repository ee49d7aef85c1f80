/* The engine: what a shard asks of the kernel.
 *
 * Everything above core/ sees only this. Three implement it: io_uring (core/uring.c), epoll (core/epoll.c), which serves
 * where io_uring is refused, and for tests a simulated one (core/simulated.c). Each call that takes an op issues it: the op
 * must be out of the kernel, and is "in the kernel" (with epoll: in the engine's hands) from the call until its last
 * completion, which engine_dispatch hands to op->done, never anything before that. Issuing can't fail: what goes wrong comes
 * as a completion.
 *
 * Thread: the shard's own. */
#ifndef RONDO_CORE_ENGINE_H
#define RONDO_CORE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <rondo/bytes.h>

#include "core/buffers.h"
#include "core/op.h"
#include "core/sockets.h"

#define ENGINE_SEND_SLICES_MAX 64 /* of one send */
#define ENGINE_WHY_BYTES       256
#define ENGINE_FOREVER         UINT64_MAX

/* How large an engine is. The counts are powers of two. */
struct engine_size {
    unsigned submissions; /* operations issued in one system call; more take another */
    unsigned completions; /* that can wait to be dispatched; more wait in the kernel's memory */
    unsigned buffers;     /* to receive into: at most 32768 */
    size_t buffer_bytes;  /* of each; a multiple of 64 */
    /* Instead of them where the kernel can fill buffers piece by piece, safely; 0: not there either. */
    unsigned pieced_buffers;
    size_t pieced_buffer_bytes;
    /* For datagrams and their senders' names, each in a buffer of its own; 0: none are received. */
    unsigned datagrams;
    size_t datagram_bytes;
};

extern const struct engine_size engine_size_default;

struct engine_counters {
    uint64_t submissions;  /* operations issued, and cancellations */
    uint64_t completions;  /* that the kernel has told; a quiet success isn't */
    uint64_t system_calls; /* to issue and to wait */
    uint64_t starved;      /* receives that found no buffer and had to wait for one */
};

/* Of a send that doesn't fit at once. */
enum send_way {
    SEND_NOW,     /* sends what fits, or -EAGAIN */
    SEND_WAITS,   /* waits until some can be sent */
    SEND_QUIETLY, /* as SEND_NOW; and that all could be sent wakes nobody */
};

struct engine {
    const char *name; /* a user may give it to engine_open */
    const struct engine_ops *ops;
    const struct socket_calls *sockets;
    struct buffers buffers;   /* of all receives of this shard, but */
    struct buffers datagrams; /* those of datagrams */
    /* A read of op->fd that would wait for a disk, by a helper thread; then the engine's read_ended is called, on the shard's
     * thread. Set by who has such threads; NULL: the shard waits. Returns false when it can't. */
    bool (*read_elsewhere)(struct engine *engine, struct op *op, uint64_t offset, rondo_buffer memory);
    bool forgets_ends;      /* a multishot receive may miss the peer's end behind bytes */
    bool forgets_unix_ends; /* that of a Unix socket */
    bool is_expected; /* the success of a quiet operation, or something else: the next wait doesn't sleep */
    struct engine_counters counters;
};

/* Open the calling thread's engine.
 *
 *   name      "uring", "epoll", or "auto": the best that works; "simulated": see core/simulated.h
 *   size      -ENOMEM: the limit of locked memory doesn't allow it; see engine_size_halve
 *   wake_fd   an eventfd that ends engine_wait when written to; the caller's
 *   why       when it fails: a sentence saying what failed, why, and what to do
 *
 * Returns the engine, the caller's until engine_close; NULL with *error a negative errno. */
struct engine *engine_open(const char *name, const struct engine_size *size, int wake_fd, int *error,
                           char why[ENGINE_WHY_BYTES]);

/* Make it half as large. False when it is as small as makes sense. */
bool engine_size_halve(struct engine_size *size);

/* The names that a user may give to engine_open. */
bool engine_is_known(const char *name);

/* Does this error of opening the io_uring engine mean that it can't be had here? Then "auto" takes epoll. */
bool engine_is_refused(int error);

/* One for each engine; see the calls below. */
struct engine_ops {
    void (*accept)(struct engine *engine, struct op *op, int fd);
    void (*accept_one)(struct engine *engine, struct op *op, int fd);
    void (*receive)(struct engine *engine, struct op *op, int fd, bool multishot);
    void (*receive_into)(struct engine *engine, struct op *op, int fd, rondo_buffer memory);
    void (*receive_message)(struct engine *engine, struct op *op, int fd, struct msghdr *message);
    void (*receive_datagrams)(struct engine *engine, struct op *op, int fd, int family);
    void (*read)(struct engine *engine, struct op *op, int fd);
    void (*write)(struct engine *engine, struct op *op, int fd, const struct iovec *slices, unsigned count,
                  enum send_way way);
    void (*poll)(struct engine *engine, struct op *op, int fd);
    void (*send)(struct engine *engine, struct op *op, int fd, const struct iovec *slices, unsigned count,
                 enum send_way way);
    void (*send_message)(struct engine *engine, struct op *op, int fd, const struct msghdr *message,
                         enum send_way way);
    void (*connect)(struct engine *engine, struct op *op, int fd, const struct sockaddr *address,
                    socklen_t size);
    void (*read_file)(struct engine *engine, struct op *op, int fd, uint64_t offset, rondo_buffer memory);
    void (*read_ended)(struct engine *engine, struct op *op, int result); /* where reads are made elsewhere */
    void (*close_fd)(struct engine *engine, struct op *op, int fd);
    void (*close_now)(struct engine *engine, int fd);
    void (*cancel)(struct engine *engine, struct op *op);
    int (*wait)(struct engine *engine, uint64_t timeout_ns);
    bool (*dispatch)(struct engine *engine);
    void (*submit)(struct engine *engine);
    uint64_t (*now_ns)(const struct engine *engine);
    void (*close)(struct engine *engine);
};

/* Accept connections until cancelled: a completion for each, its result the new descriptor (blocking,
 * close-on-exec). An error ends it. The listening socket itself may be set not to block. */
static inline void engine_accept(struct engine *engine, struct op *op, int fd)
{
    engine->ops->accept(engine, op, fd);
}

/* Accept one connection: its descriptor as above, or an error. Of several shards that wait at one queue, the one that has
 * waited longest gets it. */
static inline void engine_accept_one(struct engine *engine, struct op *op, int fd)
{
    engine->ops->accept_one(engine, op, fd);
}

/* Receive into the shard's buffers: once, or (multishot) whenever bytes arrive, until cancelled. Result 0 is the
 * peer's EOF. Without a free buffer the op waits in line, inside the engine, until one comes back. */
static inline void engine_receive(struct engine *engine, struct op *op, int fd, bool multishot)
{
    engine->ops->receive(engine, op, fd, multishot);
}

/* Receive once into `memory`, which is the kernel's until the completion. */
static inline void engine_receive_into(struct engine *engine, struct op *op, int fd, rondo_buffer memory)
{
    engine->ops->receive_into(engine, op, fd, memory);
}

/* Receive once, with what comes beside the bytes (descriptors, close-on-exec). The message and all that it points to is
 * the kernel's until the completion, which leaves msg_controllen and msg_flags in it. */
static inline void engine_receive_message(struct engine *engine, struct op *op, int fd,
                                          struct msghdr *message)
{
    engine->ops->receive_message(engine, op, fd, message);
}

/* Receive datagrams into the shard's buffers for them, until cancelled: a completion for each, with its origin. A failure ends
 * it; and so may any datagram, with more == false.
 *
 *   family   of the socket: AF_INET, AF_INET6 or AF_UNIX
 *
 * Without a free buffer the op waits in line, as above. */
static inline void engine_receive_datagrams(struct engine *engine, struct op *op, int fd, int family)
{
    engine->ops->receive_datagrams(engine, op, fd, family);
}

/* Read once from what is no socket (a pipe, a FIFO, a terminal) into the shard's buffers, as engine_receive. The descriptor
 * is set not to block: others may read there, too. */
static inline void engine_read(struct engine *engine, struct op *op, int fd)
{
    engine->ops->read(engine, op, fd);
}

/* Write there, as engine_send; a success is always told. */
static inline void engine_write(struct engine *engine, struct op *op, int fd, const struct iovec *slices,
                                unsigned count, enum send_way way)
{
    engine->ops->write(engine, op, fd, slices, count, way);
}

/* Wait until there is something to read, or the other end is gone: of the writing end of a pipe, of a process (a pidfd). The
 * result: poll(2)'s events. */
static inline void engine_poll(struct engine *engine, struct op *op, int fd)
{
    engine->ops->poll(engine, op, fd);
}

/* Send 1 to ENGINE_SEND_SLICES_MAX slices, in order. The array is copied; the bytes are the kernel's until the
 * completion, whose result may be less than was asked.
 *
 *   SEND_NOW, SEND_QUIETLY   the completion comes with the next turn, so the bytes are never held for a peer that doesn't
 *                            read; but if all was sent quietly, nothing is said: the next turn, whenever something else
 *                            begins it, completes it first. So it must be one for whose success nobody waits; if
 *                            somebody comes to do so, engine_expect. */
static inline void engine_send(struct engine *engine, struct op *op, int fd, const struct iovec *slices,
                               unsigned count, enum send_way way)
{
    engine->ops->send(engine, op, fd, slices, count, way);
}

/* Somebody waits for this op: if it's a quiet one that is still to be issued, the next wait won't sleep. */
static inline void engine_expect(struct engine *engine, const struct op *op)
{
    engine->is_expected |= op->in_kernel && op->quiet;
}

/* The next wait shall not sleep. */
static inline void engine_stay_awake(struct engine *engine)
{
    engine->is_expected = true;
}

/* Send with something beside the bytes: descriptors, or the address of a datagram. The message and all that it points to is
 * the kernel's until the completion. */
static inline void engine_send_message(struct engine *engine, struct op *op, int fd,
                                       const struct msghdr *message, enum send_way way)
{
    engine->ops->send_message(engine, op, fd, message, way);
}

/* Connect a socket, which may be set not to block; the address is the kernel's until the completion, whose result is 0 or an
 * error. */
static inline void engine_connect(struct engine *engine, struct op *op, int fd,
                                  const struct sockaddr *address, socklen_t size)
{
    engine->ops->connect(engine, op, fd, address, size);
}

/* Read from a file, at `offset`, into `memory`, which is the kernel's until the completion. Result 0: its end. */
static inline void engine_read_file(struct engine *engine, struct op *op, int fd, uint64_t offset,
                                    rondo_buffer memory)
{
    engine->ops->read_file(engine, op, fd, offset, memory);
}

/* Close a socket that no operation uses. A success may be quiet, as that of a send. Who has received or sent on a socket, or
 * connected it, closes it so or by the next; a listener may be closed by anybody when its accept has ended. */
static inline void engine_close_fd(struct engine *engine, struct op *op, int fd)
{
    engine->ops->close_fd(engine, op, fd);
}

/* At once, and not as an operation. */
static inline void engine_close_now(struct engine *engine, int fd)
{
    engine->ops->close_now(engine, fd);
}

/* End an op soon: its last completion comes with -ECANCELED, or, if that was faster, with its own result.
 * Does nothing to an op that isn't in the kernel, or is being cancelled already. */
static inline void engine_cancel(struct engine *engine, struct op *op)
{
    engine->ops->cancel(engine, op);
}

/* Give the returned buffers back to the kernel in one update, issue all that was asked, and wait for completions, by
 * one system call.
 *
 *   timeout_ns   of the wait; 0: don't wait; ENGINE_FOREVER
 *
 * Returns 0, also when nothing came; or a negative errno when the engine is beyond use. */
static inline int engine_wait(struct engine *engine, uint64_t timeout_ns)
{
    return engine->ops->wait(engine, timeout_ns);
}

/* Hand the completions that engine_wait found to their ops. False: they are many, and it pays to submit what the first of
 * them led to before the others are handed out, by another call. */
static inline bool engine_dispatch(struct engine *engine)
{
    return engine->ops->dispatch(engine);
}

/* Issue all that was asked, in the middle of a turn. What that completes may be handed out in the next one only: so from here to
 * there something may have been taken from a socket that its op has not been told of. */
static inline void engine_submit(struct engine *engine)
{
    engine->ops->submit(engine);
}

/* The clock that timeouts are of: CLOCK_MONOTONIC, or the simulation's. */
static inline uint64_t engine_now_ns(const struct engine *engine)
{
    return engine->ops->now_ns(engine);
}

/* Close it. No operation may be in the kernel and no buffer lent (asserted). */
static inline void engine_close(struct engine *engine)
{
    engine->ops->close(engine);
}

/* For engines on the system's clock. */
uint64_t engine_system_clock_ns(const struct engine *engine);

/* For engine.c: each engine's own opening. */
struct engine *uring_open(const struct engine_size *size, int wake_fd, int *error,
                          char why[ENGINE_WHY_BYTES]);
struct engine *epoll_open(const struct engine_size *size, int wake_fd, int *error,
                          char why[ENGINE_WHY_BYTES]);

#endif
