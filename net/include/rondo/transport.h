/* The transport: a connection, as its protocol sees it.    asyncio: Transport; Twisted: ITransport
 *
 * All calls never block and never fail on the spot: what goes wrong arrives once, as connection_lost. All may
 * be made from within any callback of the connection, and of other connections of the same shard, up to and
 * including connection_lost (where those that act do nothing any more).
 *
 * Thread: the loop of the connection's shard, for every call here (asserted). */
#ifndef RONDO_TRANSPORT_H
#define RONDO_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>

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

/* The loop of the connection's shard.    asyncio: get_running_loop */
rondo_loop *rondo_get_loop(rondo_transport *t);

/* Queue bytes for the peer; all that one turn of the loop writes leaves in one send.    asyncio: write
 *
 *   data   any size; 0 bytes do nothing. Bytes just lent to data_received are sent from where they are,
 *          others are copied: in both cases yours again when this returns.
 *
 * After rondo_close, rondo_abort or rondo_write_eof it does nothing. May call pause_writing. Its type is that of
 * data_received: an echo is { .data_received = rondo_write }. */
void rondo_write(rondo_transport *t, rondo_bytes data);

/* As rondo_write, without any copy: `data` is kept by reference until it is sent, and must live as long as the
 * process, unchanged: string literals, tables. */
void rondo_write_static(rondo_transport *t, rondo_bytes data);

/* As rondo_write for each of `count` slices in order, but pause_writing comes at most once, at the end.
 * asyncio: writelines */
void rondo_writelines(rondo_transport *t, const rondo_bytes *lines, size_t count);

/* Send what is queued, then say that no more will come (half-close, FIN); reading goes on.    asyncio: write_eof
 * Idempotent; does nothing once the transport is closing. */
void rondo_write_eof(rondo_transport *t);

/* Send what is queued, then end the connection; connection_lost(t, 0) follows from the loop, exactly once.
 * asyncio: close; Twisted: loseConnection
 *
 * No data reaches the protocol from now on. After connection_lost the transport half-closes and throws away what
 * still comes in, until the peer closes, too, or for a second (longer while the peer still takes the answer), since
 * closing a socket with unread bytes would reset the connection and destroy the tail of the answer. Idempotent. */
void rondo_close(rondo_transport *t);

/* End the connection at once: unsent bytes are dropped, the peer sees a reset (RST), connection_lost(t, 0)
 * follows from the loop, exactly once.    asyncio: abort; Twisted: abortConnection
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

/* When pause_writing and resume_writing are called: above `high` bytes, and at `low` bytes or below.
 * asyncio: set_write_buffer_limits
 *
 *   high_bytes   0: the default, 65536; low_bytes is then ignored
 *   low_bytes    at most high_bytes, else it is taken as high_bytes. 16384 is the default.
 *
 * Takes effect at once: may call pause_writing, and, where asyncio forgets it, resume_writing from the loop. */
void rondo_set_write_buffer_limits(rondo_transport *t, size_t high_bytes, size_t low_bytes);

/* Bytes written but not yet taken by the kernel.    asyncio: get_write_buffer_size */
size_t rondo_get_write_buffer_size(const rondo_transport *t);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
