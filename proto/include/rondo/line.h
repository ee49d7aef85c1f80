/* Lines.    Twisted: LineReceiver
 *
 *   static void line_received(rondo_transport *t, rondo_bytes line)
 *   {
 *       rondo_send_line(t, line);
 *   }
 *
 *   static const rondo_line_protocol lines = {
 *       RONDO_LINE_RECEIVER("lines", 0),
 *       .line_received = line_received,
 *   };
 *
 *   ... rondo_main(argc, argv, &lines.protocol, "tcp://127.0.0.1:7777");
 *
 * A line is given where it was received; only one that spans two receives is put together in memory of its own.
 * The work is linear in the bytes received, however they are cut. Between two lines a connection holds no
 * memory but its state. Thread: the loop of the connection's shard. */
#ifndef RONDO_LINE_H
#define RONDO_LINE_H

#include <stdbool.h>
#include <stddef.h>

#include <rondo/bytes.h>
#include <rondo/protocol.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

#define RONDO_LINE_LENGTH_MAX 16384

/* One const table for all connections of a server. Any member but the first may be NULL or 0. */
typedef struct rondo_line_protocol {
    /* What the transport sees, made by RONDO_LINE_RECEIVER. The callbacks beside those of lines are here:
     * .protocol.connection_made = …, .protocol.connection_lost = …, all but the ways to receive. */
    rondo_protocol protocol;
    size_t size; /* bytes of your own state for each connection: rondo_self(t); made by RONDO_LINE_RECEIVER */

    /* Ends a line: RONDO_BYTES("\r\n"), or any other bytes. Default "\n".    Twisted: delimiter, "\r\n" */
    rondo_bytes delimiter;

    /* Of a line without its delimiter. Default RONDO_LINE_LENGTH_MAX.    Twisted: MAX_LENGTH */
    size_t max_length;

    /* A line without its delimiter, maybe empty; lent until the call returns.    Twisted: lineReceived
     * None come after rondo_close or rondo_abort; after rondo_pause_reading they wait, also in the middle of what
     * was received together. What follows the last delimiter when the peer ends is no line, and is dropped. */
    void (*line_received)(rondo_transport *t, rondo_bytes line);

    /* A line is longer than max_length.    Twisted: lineLengthExceeded
     *
     *   line   its first max_length + 1 bytes, lent until the call returns
     *
     * NULL: the connection is closed. Otherwise closing it is yours; if you don't, the rest of the line is skipped
     * and lines go on behind its delimiter (Twisted would take the rest for a line of its own). */
    void (*line_length_exceeded)(rondo_transport *t, rondo_bytes line);

    /* In raw mode: bytes as they come, lent until the call returns.    Twisted: rawDataReceived
     * NULL: there is no raw mode.    Twisted: LineOnlyReceiver */
    void (*raw_data_received)(rondo_transport *t, rondo_bytes data);
} rondo_line_protocol;

/* Write a line and its delimiter.    Twisted: sendLine
 *
 *   line   any bytes, yours again when this returns. The slice that line_received was given, or the end of
 *          it, leaves together with its delimiter from where it was received, without a copy.
 *
 * t's protocol must be a rondo_line_protocol's. Like rondo_write otherwise. */
void rondo_send_line(rondo_transport *t, rondo_bytes line);

/* What follows goes to raw_data_received, beginning with what has been received behind this line, or of an incomplete one.
 * Twisted: setRawMode
 * For a body whose length a line has told: count the bytes in raw_data_received, and hand back those behind it. */
void rondo_set_raw_mode(rondo_transport *t);

/* Lines again.    Twisted: setLineMode
 *
 *   extra   from inside raw_data_received: the end of what it was given, which is no longer raw; it is searched for lines when
 *           the call returns. Else 0 bytes */
void rondo_set_line_mode(rondo_transport *t, rondo_bytes extra);

/* Drop what has been received and not yet given, of this line and of those behind it.    Twisted: clearLineBuffer */
void rondo_clear_line_buffer(rondo_transport *t);

/* The beginning of a rondo_line_protocol's initialiser.
 *
 *   name   for the log
 *   size   bytes of your state for each connection: rondo_self(t); 0: none */
#define RONDO_LINE_RECEIVER(name_, size_)                                                                    \
    .protocol.name = (name_), .protocol.size = RONDO__LINE_STATE_OFFSET(size_) + RONDO__LINE_STATE_SIZE,     \
    .protocol.data_received = rondo__line_data_received, .protocol._unused = rondo__line_unused,             \
    .protocol._release = rondo__line_release, .size = (size_)

/* Not yours: the receiver's own state lies behind yours. */
#define RONDO__LINE_STATE_OFFSET(size_) (((size_) + 15) & ~(size_t)15)
#define RONDO__LINE_STATE_SIZE          32
void rondo__line_data_received(rondo_transport *t, rondo_bytes data);
rondo_bytes rondo__line_unused(const rondo_protocol *protocol, const void *self);
void rondo__line_release(const rondo_protocol *protocol, void *self);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
