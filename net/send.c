/* The way out: rondo_write queues; send_settle, once a turn, sends all that is queued: send_arm … send_done.
 *
 * A send first takes what fits at once and never waits, so lent buffers are held no longer than the turn. Only when
 * the peer turns out to be slow does the next send wait for room; before that, what is lent is copied out, and its
 * buffers go back to the shard. So peers that don't read cost memory of their own, bounded by the high-water mark, and
 * never the buffers that others receive into. */
#include <errno.h>
#include <string.h>

#include "net/transport.h"

static void send_done(struct op *op, const struct completion *completion);

static struct buffers *buffers_of(rondo_transport *t)
{
    return &t->loop->engine->buffers;
}

static bool may_write(const rondo_transport *t)
{
    return t->state <= HALF_CLOSED && !t->write_eof;
}

/* ---- flow control --------------------------------------------------------------------------------------- */

/* pause_writing is the one callback that comes from inside the protocol's own call, so this is the last thing that the
 * call does. */
static void check_high_water(rondo_transport *t)
{
    if (t->over_high_water || t->output.size <= t->high_water_bytes)
        return;
    t->over_high_water = true;
    if (t->protocol->pause_writing != NULL)
        t->protocol->pause_writing(t);
}

static void check_low_water(rondo_transport *t)
{
    if (!t->over_high_water || t->output.size > t->low_water_bytes)
        return;
    t->over_high_water = false;
    if (t->protocol->pause_writing != NULL && t->protocol->resume_writing != NULL)
        t->protocol->resume_writing(t);
}

void rondo_set_write_buffer_limits(rondo_transport *t, size_t high_bytes, size_t low_bytes)
{
    assert(loop_is_here(t->loop));
    if (high_bytes == 0) {
        high_bytes = HIGH_WATER_BYTES;
        low_bytes = LOW_WATER_BYTES;
    }
    t->high_water_bytes = high_bytes;
    t->low_water_bytes = low_bytes < high_bytes ? low_bytes : high_bytes;
    transport_mark(t); /* resume_writing comes from the loop */
    if (!transport_is_ending(t))
        check_high_water(t);
}

size_t rondo_get_write_buffer_size(const rondo_transport *t)
{
    return t->output.size;
}

/* ---- queueing ------------------------------------------------------------------------------------------- */

static bool put(rondo_transport *t, rondo_bytes data)
{
    struct buffers *buffers = buffers_of(t);
    if (!t->send_waits && buffers_own(buffers, data.data) &&
        (byte_queue_continues(&t->output, buffers, data) || transport_may_keep(t, &t->output)))
        return byte_queue_put_lent(&t->output, buffers, data);
    return byte_queue_put_copy(&t->output, data);
}

static void queued(rondo_transport *t, bool has_memory)
{
    transport_mark(t);
    if (has_memory) {
        check_high_water(t);
        return;
    }
    rondo_log(RONDO_LOG_ERROR, "%s: no memory for bytes to be sent: connection ended", transport_name(t));
    transport_fail(t, -ENOMEM);
}

void rondo_write(rondo_transport *t, rondo_bytes data)
{
    assert(loop_is_here(t->loop));
    if (may_write(t))
        queued(t, put(t, data));
}

void rondo_write_static(rondo_transport *t, rondo_bytes data)
{
    assert(loop_is_here(t->loop));
    if (may_write(t))
        queued(t, byte_queue_put_static(&t->output, data));
}

void rondo_writelines(rondo_transport *t, const rondo_bytes *lines, size_t count)
{
    assert(loop_is_here(t->loop));
    if (!may_write(t))
        return;
    bool has_memory = true;
    for (size_t i = 0; i < count && has_memory; i++)
        has_memory = put(t, lines[i]);
    queued(t, has_memory);
}

void rondo_write_eof(rondo_transport *t)
{
    assert(loop_is_here(t->loop));
    if (!may_write(t))
        return;
    t->write_eof = true;
    transport_mark(t);
}

/* ---- sending -------------------------------------------------------------------------------------------- */

void send_half_close(rondo_transport *t)
{
    if (t->write_shut)
        return;
    t->write_shut = true;
    t->loop->engine->sockets->half_close(t->loop->engine, t->fd);
}

static void send_arm(rondo_transport *t)
{
    struct iovec slices[ENGINE_SEND_SLICES_MAX];
    unsigned count = byte_queue_slices(&t->output, slices, ENGINE_SEND_SLICES_MAX, &t->send_size);
    t->send.done = send_done;
    engine_send(t->loop->engine, &t->send, t->fd, slices, count, t->send_waits);
}

void send_settle(rondo_transport *t)
{
    check_low_water(t);
    if (transport_is_ending(t) || t->send.in_kernel)
        return;
    if (!byte_queue_is_empty(&t->output))
        send_arm(t);
    else if (t->write_eof)
        send_half_close(t);
}

static void let_go_of_lent(rondo_transport *t)
{
    if (byte_queue_copy_lent(&t->output, buffers_of(t)))
        return;
    rondo_log(RONDO_LOG_ERROR, "%s: no memory for bytes its peer doesn't read: connection ended",
              transport_name(t));
    transport_fail(t, -ENOMEM);
}

static void send_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = rondo_container_of(op, rondo_transport, send);
    int result = completion->result;
    transport_mark(t);
    if (result < 0 && result != -EAGAIN && result != -EINTR && result != -ECANCELED) {
        transport_fail(t, result);
        return;
    }
    size_t sent = result > 0 ? (size_t)result : 0;
    if (sent > 0)
        t->active_ms = rondo_time_ms(t->loop);
    t->loop->traffic.bytes_out += sent;
    byte_queue_consume(&t->output, buffers_of(t), sent);
    t->send_waits = sent < t->send_size && !byte_queue_is_empty(&t->output);
    if (t->send_waits && !transport_is_ending(t))
        let_go_of_lent(t);
}
