/* The transport: a connection, as its protocol sees it.    asyncio: Transport; Twisted: ITransport
 *
 * All calls never block. What goes wrong with the connection arrives once, as connection_lost; a call that returns an
 * int refuses wrong arguments and shortage on the spot, by a negative errno, and has then done nothing. All may be made
 * from within any callback of the connection, and of other connections of the same shard, up to and including
 * connection_lost (where those that act do nothing any more).
 *
 * Thread: the loop of the connection's shard, for every call here (asserted). */
#ifndef RONDO_TRANSPORT_H
#define RONDO_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/bytes.h>
#include <rondo/loop.h>
#include <rondo/protocol.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* The state of this connection: `size` bytes of the protocol's table, zeroed before connection_made, aligned for
 * any type; lives until connection_lost returns. NULL when size is 0.    asyncio: the protocol object, self */
void *rondo_self(rondo_transport *t);

/* The transport whose rondo_self is `self`: the way back, for timers inside it.    asyncio: self.transport */
rondo_transport *rondo_transport_of(void *self);

/* The protocol's table.    asyncio: get_protocol */
const rondo_protocol *rondo_get_protocol(const rondo_transport *t);

/* Hand the connection to another protocol: the next bytes are its.    asyncio: set_protocol
 *
 *   protocol   a table that lives as long as the connection; may receive in another way (get_buffer, lines)
 *
 * Neither protocol gets a callback for it. rondo_self(t) is the new one's state, zeroed, from now on; the old state
 * lives on until the callback that makes this call has returned, so what it knows can be handed over:
 *
 *   struct hello *before = rondo_self(t);
 *   rondo_set_protocol(t, &chat);
 *   struct chat *self = rondo_self(t);
 *   self->name = before->name;
 *
 * Timers and calls in the old state are cancelled by you, before. Bytes that a receiver of rondo's (lines) had been
 * given and not used yet go to the new protocol. Memory that the old one gave by get_buffer is the kernel's until
 * the new one's first callback. Closing, too, the new protocol gets connection_lost.
 * Returns 0, or -ENOMEM, and nothing has changed. */
int rondo_set_protocol(rondo_transport *t, const rondo_protocol *protocol);

/* What there is to know beside the bytes.    asyncio: get_extra_info
 *
 *   name       value is a pointer to
 *   "socket"   int: the descriptor. It is the transport's: don't read, write or close it
 *   "peername" struct sockaddr_storage, or the one of the address's family: the peer's address, also after a reset,
 *              up to and including connection_lost
 *   "sockname" as "peername": this end's address
 *   "pipe"     int: the descriptor of a pipe, likewise
 *   "subprocess" pid_t: the process id of a child
 *   "shard"    unsigned: rondo_shard_index
 *   size       bytes at value
 *
 * Returns 0; -ENOENT: there is no such name here (asyncio returns its default); -EINVAL: size is too small; or the
 * error of the system's call, and asyncio would say None. */
int rondo_get_extra_info(const rondo_transport *t, const char *name, void *value, size_t size);

/* The loop of the connection's shard.    asyncio: get_running_loop */
rondo_loop *rondo_get_loop(rondo_transport *t);

/* Queue bytes for the peer; what callbacks write one after the other leaves in one send.    asyncio: write
 *
 *   data   any size; 0 bytes do nothing. Bytes just lent to data_received are sent from where they are,
 *          others are copied: in both cases yours again when this returns.
 *
 * After rondo_close or rondo_abort it does nothing (asyncio still takes bytes while others are queued; rondo, while
 * there is a producer: <rondo/producer.h>); after rondo_write_eof it warns once in the log (asyncio raises). May call
 * pause_writing, but only when the kernel, asked at once, doesn't take what is above the high-water mark. Its type is
 * that of data_received: an echo is { .data_received = rondo_write }. */
void rondo_write(rondo_transport *t, rondo_bytes data);

/* As rondo_write, without any copy: `data` is kept by reference until it is sent, and must live as long as the
 * process, unchanged: string literals, tables. */
void rondo_write_static(rondo_transport *t, rondo_bytes data);

/* As rondo_write for each of `count` slices in order, but pause_writing comes at most once, at the end.
 * asyncio: writelines */
void rondo_writelines(rondo_transport *t, const rondo_bytes *lines, size_t count);

#define RONDO_TO_THE_END UINT64_MAX

/* Send a part of a file, behind what is queued and before what is written next.    asyncio: loop.sendfile
 *
 *   fd       of a regular file; duplicated: yours again when this returns. Its position is neither used nor moved
 *   offset   in bytes, where the part begins
 *   count    bytes, 1 or more; RONDO_TO_THE_END
 *   sent     NULL, or called from the loop when the part has been handed to the kernel, with its size: less than
 *            `count` when the file ends before; or with a negative errno when reading failed. When the connection
 *            is lost before, connection_lost comes instead. With NULL, a file that can't be read ends the connection.
 *
 * It never waits for the disk on this thread. Its bytes don't count for the water marks, and other than in asyncio one
 * may write on: that leaves behind it.
 * Returns 0; -EINVAL: not a regular file, count 0, or a descriptor waits for a byte (rondo_send_file_descriptor);
 * -EPIPE: closing, or after rondo_write_eof; -ENOTSUP: no bytes are written there (datagrams, a pipe to be read, a
 * process); -EBADF, -EMFILE, -ENOMEM. */
int rondo_sendfile(rondo_transport *t, int fd, uint64_t offset, uint64_t count,
                   void (*sent)(rondo_transport *t, int64_t nbytes));

/* Pass a descriptor to the peer of a Unix socket; it leaves with the next byte written.    Twisted: sendFileDescriptor
 *
 *   fd   any; duplicated: yours again when this returns
 *
 * The peer gets it before that byte. Without a byte behind it, it is never sent. At most 253 leave with one byte.
 * Returns 0; -ENOTSUP: this is no Unix socket; -EPIPE: closing, or after rondo_write_eof; -ETOOMANYREFS, -EBADF,
 * -EMFILE, -ENOMEM. */
int rondo_send_file_descriptor(rondo_transport *t, int fd);

/* Send what is queued, then say that no more will come (half-close, FIN); reading goes on.    asyncio: write_eof
 * Idempotent; does nothing once the transport is closing. */
void rondo_write_eof(rondo_transport *t);

/* Can this transport half-close? True for TCP and Unix sockets, and for the writing end of a pipe, which it closes.
 * asyncio: can_write_eof */
bool rondo_can_write_eof(const rondo_transport *t);

/* Send what is queued, then end the connection; connection_lost(t, 0) follows from the loop, exactly once.
 * asyncio: close; Twisted: loseConnection
 *
 * No data reaches the protocol from now on. After connection_lost the transport half-closes and throws away what
 * still comes in, until the peer closes, too, or for a second (longer while the peer still takes the answer), since
 * closing a socket with unread bytes would reset the connection and destroy the tail of the answer. Idempotent. */
void rondo_close(rondo_transport *t);

/* End the connection at once: unsent bytes are dropped, the peer sees a reset (RST; of a Unix socket, which has none, an
 * EOF), connection_lost(t, 0) follows from the loop, exactly once. (asyncio closes, in order behind a cut answer.)
 * asyncio: abort; Twisted: abortConnection
 * Idempotent; also cuts short a rondo_close that is under way. */
void rondo_abort(rondo_transport *t);

/* True from rondo_close, rondo_abort, the end of eof_received with false, or an error on.    asyncio: is_closing */
bool rondo_is_closing(const rondo_transport *t);

/* Deliver no data and no EOF until rondo_resume_reading. Idempotent; no-ops once the transport is closing.
 * What the kernel had received already waits in the shard's buffers, and the peer is held back by TCP.
 * asyncio: pause_reading, resume_reading */
void rondo_pause_reading(rondo_transport *t);
void rondo_resume_reading(rondo_transport *t);

/* Neither paused by rondo_pause_reading nor closing.    asyncio: is_reading */
bool rondo_is_reading(const rondo_transport *t);

#define RONDO_LIMIT_DEFAULT ((size_t)-1)

/* When pause_writing and resume_writing are called: above `high` bytes, and at `low` bytes or below.
 * asyncio: set_write_buffer_limits
 *
 *   high_bytes   RONDO_LIMIT_DEFAULT: four times low, or 65536 without that. 0: whenever the kernel doesn't take all
 *   low_bytes    at most high_bytes. RONDO_LIMIT_DEFAULT: a quarter of high
 *
 * Takes effect at once: may call pause_writing, and, where asyncio forgets it, resume_writing from the loop.
 * Returns 0; or, and nothing has changed, -EINVAL when low is above high (asyncio raises), -ENOMEM. */
int rondo_set_write_buffer_limits(rondo_transport *t, size_t high_bytes, size_t low_bytes);

/* The two limits in force.    asyncio: get_write_buffer_limits, in this order, too */
void rondo_get_write_buffer_limits(const rondo_transport *t, size_t *low_bytes, size_t *high_bytes);

/* Bytes written but not yet taken by the kernel. What a turn writes is gathered until its end, so it counts until then
 * (asyncio tries to send each write at once). Files don't count.    asyncio: get_write_buffer_size */
size_t rondo_get_write_buffer_size(const rondo_transport *t);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
