/* The protocol: what your program is to a connection.
 * asyncio: Protocol, BufferedProtocol, DatagramProtocol, SubprocessProtocol
 *
 * A protocol decides which bytes to send and when; its transport knows how. One const table serves all
 * connections of a server, on all shards; the state of a connection is rondo_self(t).
 *
 *   start -> connection_made
 *              [-> data_received]*                       or, when get_buffer is set,
 *              [-> get_buffer [-> buffer_updated]?]*
 *              [-> file_descriptor_received]*
 *              [-> eof_received]?
 *         -> connection_lost -> end
 *
 * Those of datagrams and of processes are at the end; one table may have members for all.
 *
 * Calls come from the loop of the connection's shard, never concurrently, and never from inside a call of
 * yours, with one exception: pause_writing may come from inside your own rondo_write (and
 * rondo_set_write_buffer_limits). Any member may be NULL. */
#ifndef RONDO_PROTOCOL_H
#define RONDO_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>

#include <rondo/address.h>
#include <rondo/bytes.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

typedef struct rondo_transport rondo_transport;

typedef struct rondo_protocol {
    const char *name; /* for the log */
    size_t size;      /* bytes of state for each connection: rondo_self(t); 0: none */

    /* Of a server's protocol: the client talks first, so don't take its connection from the kernel before it has
     * (TCP_DEFER_ACCEPT). connection_made comes with the first bytes at hand; of a client that stays silent, after a
     * second or a little more. It spares a server of short connections 7 to 15 % of its CPU. Not for protocols that greet. */
    bool defer_accept;

    /* The connection is there; write, start timers. Reading starts after it returns. */
    void (*connection_made)(rondo_transport *t);

    /* data: 1 or more bytes, in the order in which they were sent, lent until the call returns. To keep them,
     * copy them, or rondo_write them, which keeps them as long as it needs. */
    void (*data_received)(rondo_transport *t, rondo_bytes data);

    /* Where shall the next bytes land? Set together with buffer_updated and instead of data_received.
     *
     * Asked *before* the bytes arrive (asyncio asks when they are there: a ring's receive needs its memory
     * beforehand). The memory, never 0 bytes, is the kernel's until buffer_updated, eof_received,
     * connection_lost or the next get_buffer: don't read, write or free it, and don't give it to two
     * connections. The state of the connection, rondo_self(t), is a good place.
     *
     *   size_hint   0: any size will do (asyncio: -1). Else so many bytes wait, which were received for the protocol
     *               before this one (rondo_set_protocol): they are copied, piece by piece where the memory is less.
     *
     * Returns the memory; 0 bytes or NULL end the connection with -ENOBUFS. */
    rondo_buffer (*get_buffer)(rondo_transport *t, size_t size_hint);

    /* nbytes, 1 or more, are in the memory that get_buffer gave last, from its beginning. */
    void (*buffer_updated)(rondo_transport *t, size_t nbytes);

    /* Over a Unix socket the peer passed a descriptor, with the bytes that follow it. It is yours: close it. NULL:
     * descriptors that come are closed by the kernel.    Twisted: fileDescriptorReceived */
    void (*file_descriptor_received)(rondo_transport *t, int fd);

    /* The peer sends no more; at most once. true: the connection stays open for writing, and you will
     * rondo_close it. false, or NULL: it is closed once all that was written is sent. */
    bool (*eof_received)(rondo_transport *t);

    /* Paired: unsent bytes have grown above the high-water mark / fallen to the low-water mark or below.
     *
     * With NULL for pause_writing the transport pauses *its own reading* in between, so that a peer that
     * doesn't read can't make its server grow. (asyncio's default does nothing: its echo grows without bound.) */
    void (*pause_writing)(rondo_transport *t);
    void (*resume_writing)(rondo_transport *t);

    /* The last call, exactly once: cancel your timers and calls here. The kernel holds none of your memory any
     * more, and rondo_self(t) goes when this returns.
     *
     *   error   0 after the peer's EOF or your own rondo_close or rondo_abort, else a negative errno:
     *           -ECONNRESET, -EPIPE the peer reset the connection; -ETIMEDOUT it was idle for too long, or
     *           unreachable; -ECANCELED the server stopped, and the connection did not end by itself in time */
    void (*connection_lost)(rondo_transport *t, int error);

    /* The server stops, and all that had arrived by then has been delivered. NULL: rondo_close(t). For a protocol whose
     * answer is still being made (by a child, by a helper thread): it closes when it has written that. At the drain timeout
     * the rest is aborted. Of a process NULL means that it is left to end by itself, or be killed at that timeout. */
    void (*drained)(rondo_transport *t);

    /* ---- datagrams: <rondo/datagram.h> ---- */

    /* One datagram, of 0 or more bytes, and who sent it; both lent until the call returns. The address has no name when the
     * sender has none: a Unix socket that isn't bound. */
    void (*datagram_received)(rondo_transport *t, rondo_bytes data, rondo_address address);

    /* A datagram could not be sent, or the network told of one that was: a negative errno. -EMSGSIZE also for one that came
     * and was longer than a buffer of the shard (64 KiB; of Unix sockets only): it is dropped. The endpoint lives on. */
    void (*error_received)(rondo_transport *t, int error);

    /* ---- processes: <rondo/subprocess.h> ---- */

    /* The child has written to its stdout or stderr: fd is 1 or 2; data as for data_received. */
    void (*pipe_data_received)(rondo_transport *t, int fd, rondo_bytes data);

    /* The pipe to its stdin (0), or from its stdout or stderr, has ended: 0, or a negative errno. -EPIPE: the child has closed
     * its stdin, and bytes for it were left. */
    void (*pipe_connection_lost)(rondo_transport *t, int fd, int error);

    /* It has ended: rondo_get_returncode. Before or after the pipes do; connection_lost comes when all have. */
    void (*process_exited)(rondo_transport *t);

    /* Not yours: a receiver built on the transport (lines, frames, streams) tells which bytes it has been given and not
     * used, when another protocol takes over; and frees what it keeps beside your state. */
    rondo_bytes (*_unused)(const struct rondo_protocol *protocol, const void *self);
    void (*_release)(const struct rondo_protocol *protocol, void *self);
} rondo_protocol;

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
