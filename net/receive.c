/* The way in: receive_arm … receive_done -> data_received, or direct_arm … direct_done -> buffer_updated.
 *
 * While reading is paused, by the protocol or by back-pressure, nothing is delivered. A multishot receive is then
 * cancelled; what it had taken before that waits in the inbox. From then on the transport receives one buffer at a
 * time for a while, so that a peer that writes faster than it reads never gets further ahead than that. */
#include <errno.h>

#include "net/transport.h"

#define SINGLES_AFTER_PAUSE 16

static void receive_done(struct op *op, const struct completion *completion);
static void direct_done(struct op *op, const struct completion *completion);

static struct buffers *buffers_of(rondo_transport *t)
{
    return &t->loop->engine->buffers;
}

bool transport_may_deliver(const rondo_transport *t)
{
    bool back_pressed = t->over_high_water && t->protocol->pause_writing == NULL;
    return t->state == OPEN && !t->reading_paused && !back_pressed;
}

/* ---- delivering ----------------------------------------------------------------------------------------- */

/* The server is stopping, and `size` of the bytes that had arrived by then are delivered. */
static void count_drained(rondo_transport *t, size_t size)
{
    if (!t->draining || size == 0)
        return;
    t->drain_bytes -= size < t->drain_bytes ? size : t->drain_bytes;
    if (t->drain_bytes == 0)
        rondo_close(t);
}

/* Returns how many bytes the protocol took: all, unless a receiver handed back the rest. */
static size_t deliver(rondo_transport *t, rondo_bytes data)
{
    t->unread = 0;
    if (t->protocol->data_received != NULL)
        t->protocol->data_received(t, data);
    size_t taken = data.size - t->unread;
    t->unread = 0;
    count_drained(t, taken);
    return taken;
}

void transport_unread(rondo_transport *t, rondo_bytes rest)
{
    t->unread = rest.size;
}

static void deliver_eof(rondo_transport *t)
{
    t->eof_waits = false;
    bool stays_open = t->protocol->eof_received != NULL && t->protocol->eof_received(t);
    if (t->state == OPEN)
        t->state = stays_open ? HALF_CLOSED : FLUSHING;
    transport_mark(t);
}

static void hold(rondo_transport *t, rondo_bytes data)
{
    bool held = transport_may_keep(t, &t->inbox) ? byte_queue_put_lent(&t->inbox, buffers_of(t), data)
                                                 : byte_queue_put_copy(&t->inbox, data);
    if (!held) {
        rondo_log(RONDO_LOG_ERROR,
                  "%s: no memory for bytes received while reading is paused: connection ended",
                  transport_name(t));
        transport_fail(t, -ENOMEM);
    }
}

static void deliver_what_waits(rondo_transport *t)
{
    while (transport_may_deliver(t) && !byte_queue_is_empty(&t->inbox))
        byte_queue_consume(&t->inbox, buffers_of(t), deliver(t, byte_queue_front(&t->inbox)));
    if (transport_may_deliver(t) && t->direct_waits > 0) {
        size_t size = t->direct_waits;
        t->direct_waits = 0;
        t->protocol->buffer_updated(t, size);
        count_drained(t, size);
    }
    if (transport_may_deliver(t) && t->eof_waits)
        deliver_eof(t);
}

/* ---- receiving into the shard's buffers ------------------------------------------------------------------ */

static void receive_arm(rondo_transport *t)
{
    t->receive.done = receive_done;
    engine_receive(t->loop->engine, &t->receive, t->fd, t->singles == 0);
    if (t->singles > 0)
        t->singles--;
}

static void heard(rondo_transport *t, size_t size)
{
    t->heard = true;
    t->active_ms = rondo_time_ms(t->loop);
    t->loop->traffic.bytes_in += size;
}

static void received(rondo_transport *t, rondo_bytes data)
{
    if (t->state != OPEN)
        return; /* nobody is there to take it */
    heard(t, data.size);
    if (byte_queue_is_empty(&t->inbox) && transport_may_deliver(t)) {
        size_t taken = deliver(t, data);
        data = (rondo_bytes){ data.data + taken, data.size - taken };
    }
    if (data.size > 0)
        hold(t, data);
}

/* No more will come: the peer's EOF, or an error. */
static void receive_ended(rondo_transport *t, int result)
{
    if (result == 0) {
        t->eof_seen = true;
        t->eof_waits = t->state == OPEN;
        if (byte_queue_is_empty(&t->inbox) && t->direct_waits == 0 && transport_may_deliver(t))
            deliver_eof(t);
    } else {
        transport_fail(t, result);
    }
    if (t->state == LINGERING)
        t->state = CLOSING;
}

static bool is_passing(int result)
{
    return result == -ECANCELED || result == -EAGAIN || result == -EINTR;
}

static void receive_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = rondo_container_of(op, rondo_transport, receive);
    if (completion->result > 0)
        received(t, completion->data);
    else if (!is_passing(completion->result))
        receive_ended(t, completion->result);
    if (!completion->more)
        transport_mark(t); /* receive again, or go on with the end */
}

void receive_discard(rondo_transport *t)
{
    if (!t->receive.in_kernel && !t->eof_seen)
        receive_arm(t);
    else if (t->direct.data != NULL)
        engine_cancel(t->loop->engine, &t->receive); /* into the protocol's memory: not any more */
}

/* ---- receiving into the protocol's memory ---------------------------------------------------------------- */

static void direct_arm(rondo_transport *t)
{
    rondo_buffer memory = t->protocol->get_buffer(t, 0);
    if (t->state != OPEN)
        return;
    if (memory.data == NULL || memory.size == 0) {
        rondo_log(RONDO_LOG_ERROR, "%s: get_buffer gave no memory: connection ended", transport_name(t));
        transport_fail(t, -ENOBUFS);
        return;
    }
    t->direct = memory;
    t->receive.done = direct_done;
    engine_receive_into(t->loop->engine, &t->receive, t->fd, memory);
}

static void direct_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = rondo_container_of(op, rondo_transport, receive);
    t->direct = (rondo_buffer){ 0 };
    if (completion->result > 0 && t->state == OPEN) {
        heard(t, (size_t)completion->result);
        t->direct_waits = (size_t)completion->result;
        deliver_what_waits(t);
    } else if (completion->result <= 0 && !is_passing(completion->result)) {
        receive_ended(t, completion->result);
    }
    transport_mark(t);
}

/* ---- both ------------------------------------------------------------------------------------------------ */

void receive_settle(rondo_transport *t)
{
    deliver_what_waits(t);
    if (transport_may_deliver(t) && !t->receive.in_kernel && !t->eof_seen) {
        if (t->protocol->get_buffer != NULL)
            direct_arm(t);
        else
            receive_arm(t);
    } else if (!transport_may_deliver(t) && t->receive.in_kernel && t->direct.data == NULL &&
               t->singles == 0) {
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
