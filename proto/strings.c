/* The receiver between a transport and a rondo_string_protocol: it drives the string parser with what the transport delivers,
 * and stops between two strings when the protocol closes or pauses. Its state lies behind the protocol's own, in the same
 * block. */
#include <rondo/strings.h>

#include <errno.h>
#include <stdint.h>

#include <rondo/log.h>
#include <rondo/transport.h>

#include "net/transport.h"
#include "proto/string_parser.h"

struct receiver {
    struct string_parser parser;
    rondo_bytes
        given; /* the string in string_received, if it lies between its prefix and its suffix; else NULL */
};

_Static_assert(sizeof(struct receiver) <= RONDO__STRING_STATE_SIZE,
               "the receiver fits behind the user's state");
_Static_assert(_Alignof(struct receiver) <= 16, "the receiver is aligned there");

static const rondo_string_protocol *table_of(const rondo_transport *t)
{
    return rondo_container_of(rondo_get_protocol(t), const rondo_string_protocol, protocol);
}

static struct receiver *receiver_in(const rondo_string_protocol *table, void *self)
{
    return (struct receiver *)((char *)self + RONDO__STRING_STATE_OFFSET(table->size));
}

static struct receiver *receiver_of(rondo_transport *t)
{
    return receiver_in(table_of(t), rondo_self(t));
}

static struct string_rules rules_of(const rondo_string_protocol *table)
{
    size_t max_length = table->max_length == 0 ? RONDO_STRING_LENGTH_MAX : table->max_length;
    return (struct string_rules){
        .framing = (enum string_framing)table->_framing,
        .max_length = max_length < SIZE_MAX / 4 ? max_length : SIZE_MAX / 4,
    };
}

static void found(rondo_transport *t, const rondo_string_protocol *table, struct receiver *receiver,
                  rondo_bytes string)
{
    if (table->string_received == NULL)
        return;
    receiver->given = string;
    table->string_received(t, string);
    receiver->given = (rondo_bytes){ 0 };
}

static void too_long(rondo_transport *t, const rondo_string_protocol *table, uint64_t length)
{
    if (table->length_limit_exceeded != NULL)
        table->length_limit_exceeded(t, length);
    else
        rondo_close(t);
}

static void malformed(rondo_transport *t)
{
    rondo_log(RONDO_LOG_INFO, "%s: what came is no netstring: connection closed", transport_name(t));
    rondo_close(t);
}

static void no_memory(rondo_transport *t)
{
    rondo_log(RONDO_LOG_ERROR, "%s: no memory for a string: connection ended", transport_name(t));
    transport_fail(t, -ENOMEM);
}

void rondo__string_data_received(rondo_transport *t, rondo_bytes data)
{
    const rondo_string_protocol *table = table_of(t);
    const void *self = rondo_self(t);
    struct receiver *receiver = receiver_of(t);
    struct string_rules rules = rules_of(table);
    enum string_result result;
    rondo_bytes string;

    while ((result = string_parser_next(&receiver->parser, &rules, &data, &string)) != STRING_INCOMPLETE) {
        if (result == STRING_FOUND)
            found(t, table, receiver, string);
        else if (result == STRING_TOO_LONG)
            too_long(t, table, receiver->parser.length);
        else if (result == STRING_MALFORMED)
            malformed(t);
        else
            no_memory(t);

        bool replaced =
            rondo_self(t) != self; /* what follows is the new one's, also if it has the same table */
        if (replaced || !transport_may_deliver(t)) {
            string_parser_drop_string(&receiver->parser); /* it may take long until the next string */
            if (!rondo_is_closing(t))
                transport_unread(t, data);
            return;
        }
    }
}

rondo_bytes rondo__string_unused(const rondo_protocol *protocol, const void *self)
{
    const rondo_string_protocol *table = rondo_container_of(protocol, const rondo_string_protocol, protocol);
    return string_parser_unused(&receiver_in(table, (void *)self)->parser);
}

void rondo__string_release(const rondo_protocol *protocol, void *self)
{
    const rondo_string_protocol *table = rondo_container_of(protocol, const rondo_string_protocol, protocol);
    string_parser_release(&receiver_in(table, self)->parser);
}

int rondo_send_string(rondo_transport *t, rondo_bytes string)
{
    enum string_framing framing = (enum string_framing)table_of(t)->_framing;
    char prefix[STRING_PREFIX_MAX];
    size_t size = string_prefix(framing, string.size, prefix);
    rondo_bytes suffix = string_suffix(framing), given = receiver_of(t)->given;
    if (size == 0)
        return -EMSGSIZE;
    if (given.data != NULL && string.data == given.data && string.size == given.size) {
        rondo_write(t,
                    (rondo_bytes){ string.data - size, size + string.size + suffix.size }); /* as it came */
    } else {
        /* Together: pause_writing comes behind the whole, not between, where it might close, or write. */
        rondo_bytes slices[] = { { prefix, size }, string, suffix };
        rondo_writelines(t, slices, 3);
    }
    return 0;
}
