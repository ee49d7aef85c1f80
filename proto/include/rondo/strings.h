/* Strings with their length before them.    Twisted: Int8StringReceiver, Int16StringReceiver, Int32StringReceiver,
 * NetstringReceiver
 *
 *   static void string_received(rondo_transport *t, rondo_bytes string)
 *   {
 *       rondo_send_string(t, string);
 *   }
 *
 *   static const rondo_string_protocol strings = {
 *       RONDO_INT32_STRING_RECEIVER("strings", 0),
 *       .string_received = string_received,
 *   };
 *
 *   ... rondo_main(argc, argv, &strings.protocol, "tcp://127.0.0.1:7777");
 *
 * A string is given where it was received; only one that spans two receives is put together in memory of its own, which grows
 * with the bytes that come, whatever the prefix promises. The work is linear in the bytes received, however they are cut.
 * Between two strings a connection holds no memory but its state. Thread: the loop of the connection's shard. */
#ifndef RONDO_STRINGS_H
#define RONDO_STRINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/bytes.h>
#include <rondo/protocol.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

#define RONDO_STRING_LENGTH_MAX 99999

/* One const table for all connections of a server. Any member but the first may be NULL or 0. */
typedef struct rondo_string_protocol {
    /* What the transport sees, made by RONDO_INT32_STRING_RECEIVER or one of the others. The callbacks beside those of strings
     * are here: .protocol.connection_made = …, .protocol.connection_lost = …, all but the ways to receive. */
    rondo_protocol protocol;
    size_t size;  /* bytes of your own state for each connection: rondo_self(t); made by the macro, too */
    int _framing; /* so is this */

    /* Of a string that is received. Default RONDO_STRING_LENGTH_MAX.    Twisted: MAX_LENGTH */
    size_t max_length;

    /* A string without its prefix, maybe empty; lent until the call returns.    Twisted: stringReceived
     * None come after rondo_close or rondo_abort; after rondo_pause_reading they wait, also in the middle of what was received
     * together. One that is incomplete when the peer ends is no string, and is dropped. */
    void (*string_received)(rondo_transport *t, rondo_bytes string);

    /* A prefix announces more than max_length.    Twisted: lengthLimitExceeded
     *
     *   length   so many bytes
     *
     * NULL: the connection is closed. Otherwise closing it is yours; if you don't, that string is skipped and strings go on
     * behind it (Twisted would call again for whatever comes next). */
    void (*length_limit_exceeded)(rondo_transport *t, uint64_t length);
} rondo_string_protocol;

/* Write a string behind its length.    Twisted: sendString
 *
 *   string   any bytes, yours again when this returns. The one that string_received was given leaves together with its prefix
 *            from where it was received, without a copy.
 *
 * t's protocol must be a rondo_string_protocol's. Returns 0, or -EMSGSIZE when the prefix can't tell such a length: 255, 65,535,
 * or 4,294,967,295 bytes are the most; then nothing is written (Twisted raises StringTooLongError). Like rondo_write
 * otherwise. */
int rondo_send_string(rondo_transport *t, rondo_bytes string);

/* The beginning of a rondo_string_protocol's initialiser, by how the length is told: in 1, 2 or 4 bytes, the highest first; or
 * as a netstring, "5:hello,". What isn't a netstring ends the connection, as in Twisted.
 *
 *   name   for the log
 *   size   bytes of your state for each connection: rondo_self(t); 0: none */
#define RONDO_INT8_STRING_RECEIVER(name_, size_)  RONDO__STRING_RECEIVER(name_, size_, 1)
#define RONDO_INT16_STRING_RECEIVER(name_, size_) RONDO__STRING_RECEIVER(name_, size_, 2)
#define RONDO_INT32_STRING_RECEIVER(name_, size_) RONDO__STRING_RECEIVER(name_, size_, 4)
#define RONDO_NETSTRING_RECEIVER(name_, size_)    RONDO__STRING_RECEIVER(name_, size_, 5)

/* Not yours: the receiver's own state lies behind yours. */
#define RONDO__STRING_RECEIVER(name_, size_, framing_)                                                       \
    .protocol.name = (name_), .protocol.size = RONDO__STRING_STATE_OFFSET(size_) + RONDO__STRING_STATE_SIZE, \
    .protocol.data_received = rondo__string_data_received, .protocol._unused = rondo__string_unused,         \
    .protocol._release = rondo__string_release, .size = (size_), ._framing = (framing_)
#define RONDO__STRING_STATE_OFFSET(size_) (((size_) + 15) & ~(size_t)15)
#define RONDO__STRING_STATE_SIZE          48
void rondo__string_data_received(rondo_transport *t, rondo_bytes data);
rondo_bytes rondo__string_unused(const rondo_protocol *protocol, const void *self);
void rondo__string_release(const rondo_protocol *protocol, void *self);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
