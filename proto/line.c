/* The receiver between a transport and a rondo_line_protocol: it drives the line parser with what the
 * transport delivers, and stops between two lines when the protocol closes or pauses. Its state lies behind
 * the protocol's own, in the same block. */
#include <rondo/line.h>

#include <assert.h>
#include <errno.h>
#include <stdint.h>

#include <rondo/log.h>
#include <rondo/transport.h>

#include "core/memory.h"
#include "net/transport.h"
#include "proto/line_parser.h"

/* What is being delivered. */
struct delivery {
    rondo_bytes rest;     /* what follows */
    const char *line_end; /* of the line in line_received, if its delimiter lies there; else NULL */
    rondo_bytes given;    /* to raw_data_received */
    bool given_was_held;  /* as the beginning of a line, by the parser */
};

struct receiver {
    struct line_parser parser;
    struct delivery *delivery; /* NULL: nothing */
    bool is_raw;
};

_Static_assert(sizeof(struct receiver) <= RONDO__LINE_STATE_SIZE,
               "the receiver fits behind the user's state");
_Static_assert(_Alignof(struct receiver) <= 16, "the receiver is aligned there");

static const rondo_line_protocol *table_of(const rondo_transport *t)
{
    return rondo_container_of(rondo_get_protocol(t), const rondo_line_protocol, protocol);
}

static struct receiver *receiver_in(const rondo_line_protocol *table, void *self)
{
    return (struct receiver *)((char *)self + RONDO__LINE_STATE_OFFSET(table->size));
}

static struct receiver *receiver_of(rondo_transport *t)
{
    return receiver_in(table_of(t), rondo_self(t));
}

static struct line_rules rules_of(const rondo_line_protocol *table)
{
    struct line_rules rules = { table->delimiter, table->max_length };
    if (rules.delimiter.size == 0)
        rules.delimiter = RONDO_BYTES("\n");
    if (rules.max_length == 0)
        rules.max_length = RONDO_LINE_LENGTH_MAX;
    if (rules.max_length > SIZE_MAX / 4)
        rules.max_length = SIZE_MAX / 4;
    return rules;
}

static void found(rondo_transport *t, const rondo_line_protocol *table, struct receiver *receiver,
                  rondo_bytes line)
{
    if (table->line_received == NULL)
        return;
    if (receiver->parser.held == NULL)
        receiver->delivery->line_end = line.data + line.size;
    table->line_received(t, line);
    receiver->delivery->line_end = NULL;
}

static void too_long(rondo_transport *t, const rondo_line_protocol *table, rondo_bytes line)
{
    if (table->line_length_exceeded != NULL)
        table->line_length_exceeded(t, line);
    else
        rondo_close(t);
}

static void no_memory(rondo_transport *t, const rondo_line_protocol *table)
{
    const char *name = table->protocol.name != NULL ? table->protocol.name : "a line protocol";
    rondo_log(RONDO_LOG_ERROR, "%s: no memory for a line: connection ended", name);
    transport_fail(t, -ENOMEM);
}

/* What was held as the beginning of a line comes first. */
static void give_held_raw(rondo_transport *t, const rondo_line_protocol *table, struct receiver *receiver)
{
    struct held *held = receiver->parser.held;
    receiver->parser = (struct line_parser){ 0 };
    receiver->delivery->given = (rondo_bytes){ held->bytes + held->lent, held->size - held->lent };
    receiver->delivery->given_was_held = true;
    table->raw_data_received(t, receiver->delivery->given);
    receiver->delivery->given_was_held = false;
    memory_free(held);
}

static void give_raw(rondo_transport *t, const rondo_line_protocol *table, struct receiver *receiver)
{
    struct delivery *delivery = receiver->delivery;
    line_parser_drop_line(&receiver->parser);
    receiver->parser.is_skipping = false;
    if (receiver->parser.held != NULL) {
        give_held_raw(t, table, receiver);
        return;
    }
    delivery->given = delivery->rest;
    delivery->rest = (rondo_bytes){ 0 };
    table->raw_data_received(t, delivery->given);
}

/* Returns false when the input is used up. */
static bool give_next(rondo_transport *t, const rondo_line_protocol *table, struct receiver *receiver)
{
    struct delivery *delivery = receiver->delivery;
    struct line_rules rules = rules_of(table);
    rondo_bytes line;
    if (receiver->is_raw && delivery->rest.size > 0) {
        give_raw(t, table, receiver);
        return true;
    }
    switch (line_parser_next(&receiver->parser, &rules, &delivery->rest, &line)) {
    case LINE_FOUND:
        found(t, table, receiver, line);
        return true;
    case LINE_TOO_LONG:
        too_long(t, table, line);
        return true;
    case LINE_NO_MEMORY:
        no_memory(t, table);
        return true;
    case LINE_INCOMPLETE:
        break;
    }
    return false;
}

void rondo__line_data_received(rondo_transport *t, rondo_bytes data)
{
    const rondo_line_protocol *table = table_of(t);
    const void *self = rondo_self(t);
    struct receiver *receiver = receiver_of(t);
    struct delivery delivery = { .rest = data };

    receiver->delivery = &delivery;
    while (give_next(t, table, receiver)) {
        bool replaced =
            rondo_self(t) != self; /* what follows is the new one's, also if it has the same table */
        if (replaced || !transport_may_deliver(t)) {
            line_parser_drop_line(&receiver->parser); /* it may take long until the next line */
            if (!rondo_is_closing(t))
                transport_unread(t, delivery.rest);
            break;
        }
    }
    receiver->delivery = NULL;
}

void rondo_set_raw_mode(rondo_transport *t)
{
    struct receiver *receiver = receiver_of(t);
    if (table_of(t)->raw_data_received != NULL)
        receiver->is_raw = true;
    else
        rondo_log(RONDO_LOG_ERROR, "%s: rondo_set_raw_mode needs a raw_data_received: lines go on",
                  transport_name(t));
}

/* There is no delimiter in what was held, so the end of it is the beginning of a line once more. */
static void hold_again(rondo_transport *t, struct receiver *receiver, rondo_bytes extra)
{
    struct line_rules rules = rules_of(table_of(t));
    rondo_bytes line;
    line_parser_release(&receiver->parser);
    if (line_parser_next(&receiver->parser, &rules, &extra, &line) == LINE_NO_MEMORY)
        no_memory(t, table_of(t));
}

void rondo_set_line_mode(rondo_transport *t, rondo_bytes extra)
{
    struct receiver *receiver = receiver_of(t);
    struct delivery *delivery = receiver->delivery;
    receiver->is_raw = false;
    if (extra.size == 0)
        return;
    assert(delivery != NULL && extra.size <= delivery->given.size &&
           extra.data + extra.size == delivery->given.data + delivery->given.size &&
           "only raw_data_received can hand back, and that is the end of what it was given");
    if (delivery->given_was_held)
        hold_again(t, receiver, extra);
    else
        delivery->rest = extra;
}

void rondo_clear_line_buffer(rondo_transport *t)
{
    struct receiver *receiver = receiver_of(t);
    if (receiver->delivery == NULL) {
        line_parser_release(&receiver->parser);
        return;
    }
    receiver->delivery->rest = (rondo_bytes){ 0 };
    receiver->parser.is_skipping = false;
    if (receiver->parser.held != NULL) /* the line that is being given stays until the call returns */
        receiver->parser.held->size = receiver->parser.held->lent;
}

rondo_bytes rondo__line_unused(const rondo_protocol *protocol, const void *self)
{
    const rondo_line_protocol *table = rondo_container_of(protocol, const rondo_line_protocol, protocol);
    return line_parser_unused(&receiver_in(table, (void *)self)->parser);
}

void rondo__line_release(const rondo_protocol *protocol, void *self)
{
    const rondo_line_protocol *table = rondo_container_of(protocol, const rondo_line_protocol, protocol);
    line_parser_release(&receiver_in(table, self)->parser);
}

/* True also for the rest of a line, as behind a command: its delimiter lies behind that, too. */
static bool lies_before_its_delimiter(rondo_transport *t, rondo_bytes line)
{
    const struct delivery *delivery = receiver_of(t)->delivery;
    const char *line_end = delivery == NULL ? NULL : delivery->line_end;
    return line_end != NULL && line.data != NULL && line.data + line.size == line_end;
}

void rondo_send_line(rondo_transport *t, rondo_bytes line)
{
    rondo_bytes delimiter = rules_of(table_of(t)).delimiter;
    if (lies_before_its_delimiter(t, line)) {
        rondo_write(t, (rondo_bytes){ line.data, line.size + delimiter.size });
    } else {
        /* Together: pause_writing comes behind the delimiter, not between, where it might close, or write. */
        rondo_bytes slices[] = { line, delimiter };
        rondo_writelines(t, slices, 2);
    }
}
