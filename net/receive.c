/* The way in, one of three, by what the protocol is:
 *
 *   into the shard's buffers      receive_arm … receive_done    -> data_received
 *   into the protocol's memory    direct_arm … direct_done      -> buffer_updated
 *   with descriptors (unix)       message_arm … message_done    -> file_descriptor_received, data_received
 *
 * While reading is paused, by the protocol or by back-pressure, nothing is delivered. A multishot receive is then
 * cancelled; what it had taken before that waits in the inbox. From then on the transport receives one buffer at a
 * time for a while, so that a peer that writes faster than it reads never gets further ahead than that.
 *
 * What waits is delivered in this order: the inbox; what a receive of the other two ways brought; then the peer's EOF,
 * or the error by which the connection broke. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "net/flow.h"
#include "net/message.h"
#include "net/transport.h"

#define SINGLES_AFTER_PAUSE 16

#define LARGE        (16 * 1024)
#define WINDOW_BYTES (4 * 1024 * 1024)
#define WIDE_MAX     32 /* transports of a shard, since the kernel keeps up to twice the window for each */

typedef void done_function(struct op *op, const struct completion *completion);

static done_function receive_done, direct_done, message_done;

static rondo_transport *transport_of(struct op *op)
{
    return rondo_container_of(op, rondo_transport, receive);
}

bool transport_may_deliver(const rondo_transport *t)
{
    bool back_pressed = t->over_high_water && transport_protocol(t)->pause_writing == NULL;
    return t->state == OPEN && !t->reading_paused && !back_pressed;
}

bool receive_is_direct(const rondo_transport *t)
{
    return t->receive.in_kernel && t->receive.done != receive_done;
}

size_t receive_waiting_bytes(const rondo_transport *t)
{
    return flow_waiting_bytes(t) + (t->has_message ? t->into.message->bytes.size : 0);
}

static bool something_waits(const rondo_transport *t)
{
    return flow_waiting_bytes(t) > 0 || (t->has_message && message_waits(t->into.message));
}

/* ---- delivering ----------------------------------------------------------------------------------------- */

/* The server is stopping, and `size` of the bytes that had arrived by then are delivered. */
static void count_drained(rondo_transport *t, size_t size)
{
    if (!t->draining || size == 0)
        return;
    t->drain_bytes -= size < t->drain_bytes ? (uint32_t)size : t->drain_bytes;
    if (t->drain_bytes == 0)
        transport_drained(t);
}

void transport_unread(rondo_transport *t, rondo_bytes rest)
{
    service_of(t->loop)->unread = rest.size;
}

/* Returns how many bytes data_received took: all, unless a receiver handed back the rest. */
static size_t give(rondo_transport *t, rondo_bytes data)
{
    struct service *service = service_of(t->loop);
    service->unread = 0;
    if (transport_protocol(t)->data_received != NULL)
        transport_protocol(t)->data_received(t, data);
    size_t taken = data.size - service->unread;
    service->unread = 0;
    return taken;
}

/* 0 bytes when the protocol no longer wants any, or has none to give, which ends the connection. */
static rondo_buffer ask_for_memory(rondo_transport *t, size_t size_hint)
{
    const struct protocol_state *self =
        t->self; /* the table may be set again: then it is a new one all the same */
    rondo_buffer memory = transport_protocol(t)->get_buffer(t, size_hint);
    if (t->state != OPEN || t->self != self)
        return (rondo_buffer){ 0 };
    if (memory.data == NULL || memory.size == 0) {
        rondo_log(RONDO_LOG_ERROR, "%s: get_buffer gave no memory: connection ended", transport_name(t));
        transport_fail(t, -ENOBUFS);
        return (rondo_buffer){ 0 };
    }
    return memory;
}

/* Bytes that were received elsewhere go into the protocol's memory, piece by piece. Returns how many. */
static size_t feed(rondo_transport *t, rondo_bytes data)
{
    const struct protocol_state *self = t->self;
    size_t fed = 0;
    while (fed < data.size && t->self == self && transport_may_deliver(t)) {
        rondo_buffer memory = ask_for_memory(t, data.size - fed);
        if (memory.size == 0 || !transport_may_deliver(t))
            break;
        size_t size = memory.size < data.size - fed ? memory.size : data.size - fed;
        memcpy(memory.data, data.data + fed, size);
        t->loop->traffic.bytes_copied += size;
        fed += size;
        transport_protocol(t)->buffer_updated(t, size);
    }
    return fed;
}

/* Returns how many bytes the protocol took. */
static size_t deliver(rondo_transport *t, rondo_bytes data)
{
    size_t taken = transport_protocol(t)->get_buffer != NULL ? feed(t, data) : give(t, data);
    count_drained(t, taken);
    return taken;
}

static void no_memory_to_hold(rondo_transport *t)
{
    rondo_log(RONDO_LOG_ERROR, "%s: no memory for bytes received while reading is paused: connection ended",
              transport_name(t));
    transport_fail(t, -ENOMEM);
}

static void hold(rondo_transport *t, rondo_bytes data)
{
    if (!flow_hold(t, data))
        no_memory_to_hold(t);
}

static void deliver_direct(rondo_transport *t, size_t size)
{
    transport_protocol(t)->buffer_updated(t, size);
    count_drained(t, size);
}

static void deliver_message(rondo_transport *t)
{
    struct message *message = t->into.message;
    while (transport_may_deliver(t) && message->fd_next < message->fd_count) {
        int fd = message->fds[message->fd_next++];
        if (transport_protocol(t)->file_descriptor_received != NULL)
            transport_protocol(t)->file_descriptor_received(t, fd);
        else
            close(fd);
    }
    while (transport_may_deliver(t) && message->bytes.size > 0) {
        size_t taken = deliver(t, message->bytes);
        message->bytes.data += taken;
        message->bytes.size -= taken;
    }
}

static void deliver_eof(rondo_transport *t)
{
    t->eof_waits = false;
    if (t->kind == READ_PIPE)
        t->state = FLUSHING; /* whatever it returns */
    bool stays_open = transport_protocol(t)->eof_received != NULL && transport_protocol(t)->eof_received(t);
    if (t->state == OPEN)
        t->state = stays_open ? HALF_CLOSED : FLUSHING;
    transport_mark(t);
}

static void deliver_held(rondo_transport *t, struct flow *flow)
{
    while (transport_may_deliver(t) && !byte_queue_is_empty(&flow->inbox))
        byte_queue_consume(&flow->inbox, segments_of(t), deliver(t, byte_queue_front(&flow->inbox)));
    if (transport_may_deliver(t) && flow->direct_waits > 0) {
        size_t size = flow->direct_waits;
        flow->direct_waits = 0;
        deliver_direct(t, size);
    }
}

static void deliver_what_waits(rondo_transport *t)
{
    if (t->flow != NULL)
        deliver_held(t, t->flow);
    if (transport_may_deliver(t) && (t->has_message && message_waits(t->into.message)))
        deliver_message(t);
    if (!transport_may_deliver(t) || something_waits(t))
        return;
    if (t->error_waits)
        transport_fail(t, t->error);
    else if (t->eof_waits)
        deliver_eof(t);
}

/* ---- what completions have in common ---------------------------------------------------------------------- */

static void heard(rondo_transport *t, size_t size)
{
    t->heard = true;
    transport_is_active(t);
    t->loop->traffic.bytes_in += size;
}

/* A peer that sends more than its window takes hands the rest to TCP, which sends it as acknowledgements come: over
 * loopback in the middle of our receives, at our cost. With messages of 1 MiB that is a third of the server's CPU,
 * beside what it costs to wake the peer for each piece. The kernel widens windows by itself, but by what is received
 * within a round trip, and on loopback that is little. (Linux 6.18: 300 µs of CPU for a MiB instead of 430.) */
static void widen_if_bulk(rondo_transport *t, const struct completion *completion)
{
    struct service *service = service_of(t->loop);
    bool is_bulk = completion->result >= LARGE && completion->more_to_read && t->state == OPEN;
    if (!is_bulk || t->kind != STREAM || t->is_wide || t->is_unix || service->wide_count == WIDE_MAX)
        return;
    t->is_wide = true;
    service->wide_count++;
    t->loop->engine->sockets->widen_window(t->loop->engine, t->fd, WINDOW_BYTES);
}

/* Bytes that lie anywhere, for as long as this call. */
static void received(rondo_transport *t, rondo_bytes data)
{
    if (t->state != OPEN)
        return; /* nobody is there to take it */
    heard(t, data.size);
    if (!something_waits(t) && transport_may_deliver(t)) {
        size_t taken = deliver(t, data);
        data = (rondo_bytes){ data.data + taken, data.size - taken };
    }
    if (data.size > 0 && t->state == OPEN)
        hold(t, data);
}

/* No more will come: the peer's EOF, or an error. While reading is paused either waits behind what was received. */
static void receive_ended(rondo_transport *t, int result)
{
    t->eof_seen = true;
    switch (t->state) {
    case OPEN:
        t->eof_waits = result == 0;
        t->error_waits = result < 0;
        t->error = (int16_t)result;
        deliver_what_waits(t);
        return;
    case LINGERING:
        t->state = CLOSING;
        return;
    default:
        if (result < 0)
            transport_fail(t, result);
    }
}

static bool is_passing(int result)
{
    return result == -ECANCELED || result == -EAGAIN || result == -EINTR;
}

/* ---- into the shard's buffers ----------------------------------------------------------------------------- */

static void receive_arm(rondo_transport *t)
{
    t->receive.done = receive_done;
    if (t->kind == READ_PIPE) {
        engine_read(t->loop->engine, &t->receive, t->fd);
        return;
    }
    /* What is there is taken before the kernel polls: of a Unix socket, polled while bytes are there and the peer
     * closes, it would forget the end (transport_watch_end), and a second is long. */
    t->receive.more_to_read |= t->is_unix && t->loop->engine->forgets_unix_ends;
    engine_receive(t->loop->engine, &t->receive, t->fd, t->singles == 0);
    if (t->singles > 0)
        t->singles--;
}

static void receive_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = transport_of(op);
    if (completion->more && t->watch != NULL && !t->end_unsure)
        transport_watch_end(t);
    widen_if_bulk(t, completion);
    if (completion->result > 0)
        received(t, completion->data);
    else if (!is_passing(completion->result))
        receive_ended(t, completion->result);
    if (!completion->more)
        transport_mark(t); /* receive again, or go on with the end */
}

void receive_discard(rondo_transport *t)
{
    if (t->kind == WRITE_PIPE)
        return; /* its watch goes on */
    if (receive_is_direct(t))
        engine_cancel(t->loop->engine, &t->receive); /* into memory that is not ours: not any more */
    else if (!t->receive.in_kernel && !t->eof_seen)
        receive_arm(t);
}

void receive_look(rondo_transport *t)
{
    struct engine *engine = t->loop->engine;
    if (t->receive.in_kernel && t->receive.done == receive_done &&
        engine->sockets->is_readable(engine, t->fd))
        engine_cancel(engine, &t->receive);
}

/* ---- into the protocol's memory ---------------------------------------------------------------------------- */

static void direct_arm(rondo_transport *t)
{
    rondo_buffer memory = ask_for_memory(t, 0);
    if (memory.size == 0)
        return;
    receive_free_message(t); /* of a protocol that was replaced; nothing is left in it */
    t->into.memory = memory.data;
    t->receive.done = direct_done;
    engine_receive_into(t->loop->engine, &t->receive, t->fd, memory);
}

static void received_directly(rondo_transport *t, size_t size)
{
    if (!something_waits(t) && transport_may_deliver(t))
        deliver_direct(t, size);
    else if (!flow_hold_direct(t, size))
        no_memory_to_hold(t);
}

static void direct_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = transport_of(op);
    bool replaced = t->direct_replaced;
    t->direct_replaced = false;
    transport_mark(t);
    widen_if_bulk(t, completion);
    if (completion->result > 0 && replaced) {
        received(t, (rondo_bytes){ t->into.memory, (size_t)completion->result });
    } else if (completion->result > 0 && t->state == OPEN) {
        heard(t, (size_t)completion->result);
        received_directly(t, (size_t)completion->result);
    } else if (completion->result <= 0 && !is_passing(completion->result)) {
        receive_ended(t, completion->result);
    }
}

bool receive_hand_over(rondo_transport *t, rondo_bytes unused)
{
    size_t size = t->flow == NULL ? 0 : t->flow->direct_waits; /* then there is nothing in the inbox */
    if (!flow_hold_first(t, size > 0 ? (rondo_bytes){ t->into.memory, size } : unused))
        return false;
    if (t->flow != NULL)
        t->flow->direct_waits = 0;
    t->direct_replaced = t->receive.in_kernel && t->receive.done == direct_done;
    return true;
}

/* ---- with descriptors --------------------------------------------------------------------------------------- */

void receive_free_message(rondo_transport *t)
{
    if (t->kind == DATAGRAMS || t->kind == PROCESS)
        return; /* there is something else */
    if (t->has_message)
        message_free(t->into.message);
    t->has_message = false;
    t->into.memory = NULL;
}

static void message_arm(rondo_transport *t)
{
    struct message *message = t->has_message ? t->into.message : message_new();
    if (message == NULL) {
        rondo_log(RONDO_LOG_ERROR, "%s: no memory to receive into: connection ended", transport_name(t));
        transport_fail(t, -ENOMEM);
        return;
    }
    t->into.message = message;
    t->has_message = true;
    t->receive.done = message_done;
    engine_receive_message(t->loop->engine, &t->receive, t->fd, message_prepare(message));
}

static void message_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = transport_of(op);
    transport_mark(t);
    if (completion->result > 0) {
        if (!message_take(t->into.message, (size_t)completion->result))
            rondo_log(RONDO_LOG_WARNING, "%s: descriptors that came are lost: raise the limit (ulimit -n)",
                      transport_name(t));
        if (t->state != OPEN)
            return; /* freed with the transport */
        heard(t, (size_t)completion->result);
        deliver_what_waits(t);
    } else if (!is_passing(completion->result)) {
        receive_ended(t, completion->result);
    }
}

/* ---- the writing end of a pipe ------------------------------------------------------------------------------- */

static void reader_gone(struct op *op, const struct completion *completion)
{
    rondo_transport *t = transport_of(op);
    transport_mark(t);
    if (is_passing(completion->result))
        return;
    t->eof_seen = true; /* or it can't be watched */
    if (completion->result < 0 || transport_is_ending(t))
        return;
    transport_fail(t, transport_output_is_sent(t) ? 0 : -EPIPE);
}

/* Nobody reads any more: otherwise only the next write would tell. Terminals are not asked. */
static void watch_reader(rondo_transport *t)
{
    if (t->receive.in_kernel || t->eof_seen)
        return;
    t->receive.done = reader_gone;
    engine_poll(t->loop->engine, &t->receive, t->fd);
}

/* ---- all three ------------------------------------------------------------------------------------------- */

struct way {
    void (*arm)(rondo_transport *t);
    done_function *done;
};

/* Memory of the protocol's own is for sockets: a pipe's bytes are copied there. */
static struct way way_of(const rondo_transport *t)
{
    if (t->kind == READ_PIPE)
        return (struct way){ receive_arm, receive_done };
    if (t->is_unix && transport_protocol(t)->file_descriptor_received != NULL)
        return (struct way){ message_arm, message_done };
    if (transport_protocol(t)->get_buffer != NULL)
        return (struct way){ direct_arm, direct_done };
    return (struct way){ receive_arm, receive_done };
}

void receive_settle(rondo_transport *t)
{
    if (t->kind == WRITE_PIPE) {
        watch_reader(t);
        return;
    }
    deliver_what_waits(t);
    if (t->flow != NULL)
        flow_let_go(t);
    struct way way = way_of(t);
    if (!t->receive.in_kernel) {
        if (transport_may_deliver(t) && !t->eof_seen)
            way.arm(t);
    } else if (t->receive.done != way.done || t->direct_replaced) {
        engine_cancel(t->loop->engine, &t->receive); /* of a protocol that was replaced */
    } else if (!transport_may_deliver(t) && way.done == receive_done && t->singles == 0) {
        t->singles = SINGLES_AFTER_PAUSE;
        engine_cancel(t->loop->engine, &t->receive);
    }
}

void rondo_pause_reading(rondo_transport *t)
{
    assert(loop_is_here(t->loop));
    if (rondo_is_closing(t))
        return;
    t->reading_paused = true;
    transport_mark(t);
}

void rondo_resume_reading(rondo_transport *t)
{
    assert(loop_is_here(t->loop));
    if (rondo_is_closing(t))
        return;
    t->reading_paused = false;
    transport_mark(t);
}

bool rondo_is_reading(const rondo_transport *t)
{
    return !t->reading_paused && !rondo_is_closing(t);
}
