/* Streams: a connection, read downwards.    asyncio: StreamReader and StreamWriter, in one
 *
 *   static void client_connected(rondo_stream *s)
 *   {
 *       rondo_bytes line;
 *       while (rondo_readline(s, &line) > 0) {
 *           rondo_stream_write(s, line);
 *           if (rondo_drain(s) < 0)
 *               return;
 *       }
 *   }
 *
 *   static const rondo_stream_protocol echo = { RONDO_STREAM_READER("echo"), .client_connected = client_connected };
 *
 *   ... rondo_main(argc, argv, &echo.protocol, "tcp://127.0.0.1:7777");
 *
 * Each connection has a handler, a task of its shard (<rondo/task.h>), which waits where it reads, while the shard
 * serves others. When it returns, what it wrote is sent, and the connection closed.
 *
 * The end. A peer that half-closes is an end of the input only; writing goes on. When the connection is lost, the
 * handler is cancelled: the call that it waits in returns, and all that wait fail from then on (but reading goes on to
 * what was received before an EOF), so that it does its clean-up, and returns. When the server drains, the handler
 * first gets all that had arrived and may wait until its answers have been taken; then it is cancelled.
 *
 * Thread: the loop's of the connection's shard, for every call here. */
#ifndef RONDO_STREAM_H
#define RONDO_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <rondo/bytes.h>
#include <rondo/protocol.h>
#include <rondo/server.h>
#include <rondo/task.h>
#include <rondo/transport.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

#define RONDO_STREAM_LIMIT 65536

typedef struct rondo_stream rondo_stream;

/* One const table for all connections of a server. */
typedef struct rondo_stream_protocol {
    /* What the transport sees, made by RONDO_STREAM_READER. Only .protocol.defer_accept is yours. */
    rondo_protocol protocol;

    /* The handler. `s` is its own until it returns.    asyncio: client_connected_cb */
    void (*client_connected)(rondo_stream *s);

    /* Of a line, and what a separator may end. Twice as much is received ahead, then the peer is held back. Default
     * RONDO_STREAM_LIMIT.    asyncio: limit */
    size_t limit;

    size_t stack_size; /* of a handler, in bytes; default 64 KiB: see <rondo/task.h> */
} rondo_stream_protocol;

/* ---- reading --------------------------------------------------------------------------------------------- */

/* Each call gives a slice of what was received, valid until the next call that reads from this stream, or the stream's
 * end: often it lies where the kernel has put it, and to write it back costs no copy. Calls return the number of bytes
 * given, 0 at the end of the input, or a negative errno:
 *
 *   -ENODATA      the input ended before what was asked for was complete; what there was is given.    IncompleteReadError
 *   -EMSGSIZE     longer than the limit.    LimitOverrunError, ValueError
 *   -ECONNRESET, -EPIPE, -ETIMEDOUT, …   the connection broke; what was not read before is lost
 *   -ECANCELED    the task is cancelled: so is a handler when the server drains, and it has read all that had arrived
 *   -ETIMEDOUT    the task's time is up (rondo_timeout)
 *   -EBUSY        another task is reading from this stream
 *   -EPERM        it has to wait, and no task is calling
 *   -ENOMEM */

#define RONDO_TO_EOF SIZE_MAX

/* Bytes as they come: 1 to `most`; with RONDO_TO_EOF all until the end of the input, however many. 0 bytes: returns 0
 * at once.
 * asyncio: read */
ssize_t rondo_read(rondo_stream *s, size_t most, rondo_bytes *data);

/* A line with its "\n"; at the end of the input what is left, without one.    asyncio: readline
 * -EMSGSIZE: it is longer than the limit, and has been dropped: up to its "\n" if that has come, else all that was
 * received. */
ssize_t rondo_readline(rondo_stream *s, rondo_bytes *line);

/* So many bytes, not less; more than the limit is allowed.    asyncio: readexactly
 * -ENODATA: the input has ended with less: `data`. 0 bytes: returns 0 at once. */
ssize_t rondo_readexactly(rondo_stream *s, size_t size, rondo_bytes *data);

/* Until a separator, with it.    asyncio: readuntil
 *
 *   separators   `count` of them, 1 or more, none empty; yours. The one that ends first counts
 *
 * -ENODATA: the input has ended without one, and all that was left is given. -EMSGSIZE: there is none in the limit;
 * nothing has been taken, and `data` shows how much may be, by rondo_readexactly, for example: a separator may begin
 * behind it. -EINVAL: no separator. */
ssize_t rondo_readuntil(rondo_stream *s, const rondo_bytes *separators, size_t count, rondo_bytes *data);

/* Has the input ended, and all of it been read?    asyncio: at_eof */
bool rondo_at_eof(const rondo_stream *s);

/* ---- writing --------------------------------------------------------------------------------------------- */

/* Queue bytes, as rondo_write, rondo_writelines and rondo_write_eof do; to a lost connection they do nothing.
 * asyncio: write, writelines, write_eof, can_write_eof */
void rondo_stream_write(rondo_stream *s, rondo_bytes data);
void rondo_stream_writelines(rondo_stream *s, const rondo_bytes *lines, size_t count);
void rondo_stream_write_eof(rondo_stream *s);
bool rondo_stream_can_write_eof(const rondo_stream *s);

/* Wait until it is worth writing more: while the output is above the high-water mark. Who writes much calls it now and
 * then; any number of tasks may wait.    asyncio: drain
 * Returns 0; -ECONNRESET: the connection is lost; what it broke with; -ECANCELED, -ETIMEDOUT, -EPERM. */
int rondo_drain(rondo_stream *s);

/* Send what is queued, and end the connection. What was received can still be read.    asyncio: close
 * A handler that returns does it, too. Idempotent. */
void rondo_stream_close(rondo_stream *s);

/* End it at once: unsent bytes are dropped.    asyncio: transport.abort */
void rondo_stream_abort(rondo_stream *s);

/* asyncio: is_closing; also true of one that is lost. */
bool rondo_stream_is_closing(const rondo_stream *s);

/* Wait until the connection is gone; it doesn't close it.    asyncio: wait_closed
 * Returns 0, what it broke with, -ECANCELED, -ETIMEDOUT or -EPERM. */
int rondo_stream_wait_closed(rondo_stream *s);

/* As rondo_get_extra_info; -ENOTCONN: the connection is lost. */
int rondo_stream_get_extra_info(const rondo_stream *s, const char *name, void *value, size_t size);

/* For calls that are the transport's alone: rondo_set_write_buffer_limits, rondo_sendfile, rondo_get_server,
 * rondo_shard, and others. NULL: the connection is lost.    asyncio: writer.transport
 * With rondo_set_protocol the connection goes to another protocol, with what has been received and not read; for the
 * stream that is the end of its input, and what it writes is dropped. */
rondo_transport *rondo_stream_transport(const rondo_stream *s);

/* ---- connecting and serving ------------------------------------------------------------------------------ */

/* As in rondo_client_options; zero means the default, for each member. */
typedef struct rondo_connection_options {
    size_t limit; /* default RONDO_STREAM_LIMIT */
    const char *local_url;
    uint64_t timeout_ms;
    uint64_t happy_eyeballs_delay_ms;
} rondo_connection_options;

/* Connect, inside a task.    asyncio: open_connection, open_unix_connection
 *
 *   url       "tcp://host:port", "unix:///path", "unix://@name"
 *   options   NULL: the defaults
 *   s         set on success. It is the calling task's: when that returns, the connection is closed, and the stream gone;
 *             a server that drains leaves it alone until then
 *
 * Returns 0; as rondo_create_connection, or what its connection_failed would be told, and `why` is a warning in the
 * log; -ECANCELED, -ETIMEDOUT: also of this task; -EPERM. */
int rondo_open_connection(const char *url, const rondo_connection_options *options, rondo_stream **s);

/* Close it, if it is open, and forget it now: what was written is still sent. For tasks that open many. Not for a
 * handler's own. */
void rondo_stream_free(rondo_stream *s);

/* Serve at one more address, on this shard only: rondo_create_server, in short.    asyncio: start_server, start_unix_server
 * Servers of all shards are those of rondo_app, with &table.protocol. */
int rondo_start_server(rondo_loop *loop, const rondo_stream_protocol *protocol, const char *url,
                       rondo_server **server);

/* The beginning of a rondo_stream_protocol's initialiser.    asyncio: StreamReaderProtocol
 *
 *   name   for the log */
#define RONDO_STREAM_READER(name_)                                                                           \
    .protocol.name = (name_), .protocol.size = 2 * sizeof(void *),                                           \
    .protocol.connection_made = rondo__stream_connection_made,                                               \
    .protocol.data_received = rondo__stream_data_received,                                                   \
    .protocol.eof_received = rondo__stream_eof_received,                                                     \
    .protocol.pause_writing = rondo__stream_pause_writing,                                                   \
    .protocol.resume_writing = rondo__stream_resume_writing,                                                 \
    .protocol.connection_lost = rondo__stream_connection_lost, .protocol.drained = rondo__stream_drained,    \
    .protocol._unused = rondo__stream_unused, .protocol._release = rondo__stream_release

/* Not yours. */
void rondo__stream_connection_made(rondo_transport *t);
void rondo__stream_data_received(rondo_transport *t, rondo_bytes data);
bool rondo__stream_eof_received(rondo_transport *t);
void rondo__stream_pause_writing(rondo_transport *t);
void rondo__stream_resume_writing(rondo_transport *t);
void rondo__stream_connection_lost(rondo_transport *t, int error);
void rondo__stream_drained(rondo_transport *t);
rondo_bytes rondo__stream_unused(const rondo_protocol *protocol, const void *self);
void rondo__stream_release(const rondo_protocol *protocol, void *self);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
