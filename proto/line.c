/* The receiver between a transport and a rondo_line_protocol: it drives the line parser with what the
 * transport delivers, and stops between two lines when the protocol closes or pauses. Its state lies behind
 * the protocol's own, in the same block. */
#include <rondo/line.h>

#include <errno.h>
#include <stdint.h>

#include <rondo/log.h>
#include <rondo/transport.h>

#include "net/transport.h"
#include "proto/line_parser.h"

struct receiver {
    struct line_parser parser;
    const char *line_end; /* of the line in line_received, if its delimiter lies there; else NULL */
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
        receiver->line_end = line.data + line.size;
    table->line_received(t, line);
    receiver->line_end = NULL;
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

void rondo__line_data_received(rondo_transport *t, rondo_bytes data)
{
    const rondo_line_protocol *table = table_of(t);
    const void *self = rondo_self(t);
    struct receiver *receiver = receiver_of(t);
    struct line_rules rules = rules_of(table);
    enum line_result result;
    rondo_bytes line;

    while ((result = line_parser_next(&receiver->parser, &rules, &data, &line)) != LINE_INCOMPLETE) {
        if (result == LINE_FOUND)
            found(t, table, receiver, line);
        else if (result == LINE_TOO_LONG)
            too_long(t, table, line);
        else
            no_memory(t, table);

        bool replaced =
            rondo_self(t) != self; /* what follows is the new one's, also if it has the same table */
        if (replaced || !transport_may_deliver(t)) {
            line_parser_drop_line(&receiver->parser); /* it may take long until the next line */
            if (!rondo_is_closing(t))
                transport_unread(t, data);
            return;
        }
    }
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
    const char *line_end = receiver_of(t)->line_end;
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
