/* The way out: rondo_write queues; send_settle, once a turn, sends all that is queued: send_arm … send_done.
 *
 * A send first takes what fits at once and never waits, so lent buffers are held no longer than the turn. Only when
 * the peer turns out to be slow does the next send wait for room; before that, what is lent is copied out, and its
 * buffers go back to the shard. So peers that don't read cost memory of their own, bounded by the high-water mark, and
 * never the buffers that others receive into. */
#include <errno.h>
#include <string.h>

#include "net/datagram.h"
#include "net/flow.h"
#include "net/items.h"
#include "net/producer.h"

#define SEND_BYTES_MAX (1u << 30) /* of one send: the kernel takes no more than about twice that */

static void send_done(struct op *op, const struct completion *completion);

static struct buffers *buffers_of(rondo_transport *t)
{
    return &t->loop->engine->buffers;
}

bool send_is_allowed(const rondo_transport *t)
{
    if (!transport_is_writable(t))
        return false;
    return (t->state <= HALF_CLOSED && !t->write_eof) || (t->state <= FLUSHING && producer_is_there(t));
}

size_t transport_unsent_bytes(const rondo_transport *t)
{
    return t->kind == DATAGRAMS ? datagrams_unsent_bytes(t) : t->output.size;
}

bool transport_output_is_sent(const rondo_transport *t)
{
    if (t->kind == DATAGRAMS)
        return datagrams_unsent_bytes(t) == 0;
    /* A descriptor behind which nothing was written has no byte to leave with. */
    const struct item *due = items_due(t);
    return byte_queue_is_empty(&t->output) && (due == NULL || due->kind == ITEM_DESCRIPTOR);
}

/* asyncio raises an exception for what only a programming error can be. */
static void drop_write(rondo_transport *t)
{
    bool is_misuse = (t->write_eof && !rondo_is_closing(t)) || !transport_is_writable(t);
    if (!is_misuse || t->misuse_logged)
        return;
    t->misuse_logged = true;
    rondo_log(RONDO_LOG_WARNING, "%s: bytes %s are dropped", transport_name(t),
              t->write_eof           ? "written after rondo_write_eof"
              : t->kind == DATAGRAMS ? "written where datagrams are sent (rondo_sendto)"
              : t->kind == PROCESS   ? "written to a process and not to its stdin (rondo_get_pipe_transport)"
                                     : "written to a pipe that is read from");
}

/* ---- at once --------------------------------------------------------------------------------------------- */

static void let_go_of_lent(rondo_transport *t)
{
    t->loop->traffic.bytes_copied += byte_queue_lent_bytes(&t->output);
    if (byte_queue_copy_lent(&t->output, segments_of(t)))
        return;
    rondo_log(RONDO_LOG_ERROR, "%s: no memory for bytes its peer doesn't read: connection ended",
              transport_name(t));
    transport_fail(t, -ENOMEM);
}

void send_ended_in_part(rondo_transport *t, bool in_part)
{
    t->send_waits = in_part;
    if (in_part && !transport_is_ending(t))
        let_go_of_lent(t);
}

/* `sent` of `asked` bytes of the output, or of what comes behind it, have left. */
static void output_sent(rondo_transport *t, size_t sent, size_t asked)
{
    size_t queued = sent < t->output.size ? sent : t->output.size;
    byte_queue_consume(&t->output, segments_of(t), queued);
    items_move_up(t, queued);
    send_ended_in_part(t, sent < asked);
}

/* Offer what is queued, and `more` behind it, to the kernel now. It is done where the high-water mark would be passed:
 * what the kernel takes doesn't count, as in asyncio, whose write always tries first; and so many bytes are rather not
 * copied. An echo, of lent bytes and without pause_writing, waits for its turn's end: it takes less CPU so.
 * Returns how many bytes of `more` went. */
static size_t send_at_once(rondo_transport *t, rondo_bytes more)
{
    struct engine *engine = t->loop->engine;
    while (!t->send.in_kernel && !t->send_waits && t->items == NULL && t->state <= FLUSHING) {
        struct iovec slices[ENGINE_SEND_SLICES_MAX];
        size_t queued, asked;
        unsigned count = byte_queue_slices(&t->output, slices, ENGINE_SEND_SLICES_MAX - 1, &queued);
        bool to_the_end = queued == t->output.size;
        asked = queued + (to_the_end ? more.size : 0);
        if (to_the_end && more.size > 0)
            slices[count++] = (struct iovec){ (char *)more.data, more.size };
        if (count == 0)
            return 0;
        int result = t->kind == WRITE_PIPE ? engine->sockets->write_now(engine, t->fd, slices, count)
                                           : engine->sockets->send_now(engine, t->fd, slices, count);
        size_t sent = send_ended(t, result);
        output_sent(t, sent, asked);
        if (sent < asked || to_the_end)
            return sent > queued ? sent - queued : 0;
    }
    return 0;
}

/* ---- flow control --------------------------------------------------------------------------------------- */

/* pause_writing is the one callback that comes from inside the protocol's own call, so this is the last thing that the
 * call does. */
void send_check_high_water(rondo_transport *t)
{
    if (!t->over_high_water && t->output.size > flow_high_water_bytes(t) &&
        (transport_protocol(t)->pause_writing != NULL || producer_is_there(t)))
        send_at_once(t, (rondo_bytes){ 0 });
    if (t->over_high_water || transport_unsent_bytes(t) <= flow_high_water_bytes(t) || transport_is_ending(t))
        return;
    t->over_high_water = true;
    if (transport_protocol(t)->pause_writing != NULL)
        transport_protocol(t)->pause_writing(t);
    if (!transport_is_ending(t))
        producer_pause(t);
}

void send_check_low_water(rondo_transport *t)
{
    if (!t->over_high_water || transport_unsent_bytes(t) > flow_low_water_bytes(t))
        return;
    t->over_high_water = false;
    if (transport_protocol(t)->pause_writing != NULL && transport_protocol(t)->resume_writing != NULL)
        transport_protocol(t)->resume_writing(t);
    if (!t->over_high_water && !transport_is_ending(t))
        producer_resume(t);
}

int rondo_set_write_buffer_limits(rondo_transport *t, size_t high_bytes, size_t low_bytes)
{
    assert(loop_is_here(t->loop));
    if (high_bytes == RONDO_LIMIT_DEFAULT && low_bytes == RONDO_LIMIT_DEFAULT)
        high_bytes = HIGH_WATER_BYTES;
    else if (high_bytes == RONDO_LIMIT_DEFAULT)
        high_bytes = low_bytes < SIZE_MAX / 4 ? 4 * low_bytes : SIZE_MAX - 1;
    if (low_bytes == RONDO_LIMIT_DEFAULT)
        low_bytes = high_bytes / 4;
    if (low_bytes > high_bytes)
        return -EINVAL;
    if (!flow_set_limits(t, high_bytes, low_bytes))
        return -ENOMEM;
    transport_mark(t); /* resume_writing comes from the loop */
    if (!transport_is_ending(t))
        send_check_high_water(t);
    return 0;
}

void rondo_get_write_buffer_limits(const rondo_transport *t, size_t *low_bytes, size_t *high_bytes)
{
    *low_bytes = flow_low_water_bytes(t);
    *high_bytes = flow_high_water_bytes(t);
}

size_t rondo_get_write_buffer_size(const rondo_transport *t)
{
    return transport_unsent_bytes(t);
}

/* ---- queueing ------------------------------------------------------------------------------------------- */

static bool put(rondo_transport *t, rondo_bytes data)
{
    struct buffers *buffers = buffers_of(t);
    bool is_lent = !t->send_waits && buffers_own(buffers, data.data);
    if (is_lent && byte_queue_go_on(&t->output, data))
        return true;
    if (is_lent && transport_may_keep(t, &t->output))
        return byte_queue_put_lent(&t->output, segments_of(t), data);
    t->loop->traffic.bytes_copied += data.size;
    return byte_queue_put_copy(&t->output, data);
}

static bool put_static(rondo_transport *t, rondo_bytes data)
{
    return byte_queue_put_static(&t->output, segments_of(t), data);
}

static void queued(rondo_transport *t, bool has_memory)
{
    transport_mark(t);
    producer_wrote(t);
    if (has_memory) {
        send_check_high_water(t);
        return;
    }
    rondo_log(RONDO_LOG_ERROR, "%s: no memory for bytes to be sent: connection ended", transport_name(t));
    t->reset = true; /* else the peer would not know that bytes are missing */
    transport_fail(t, -ENOMEM);
}

static void write_bytes(rondo_transport *t, rondo_bytes data, bool (*put)(rondo_transport *t, rondo_bytes))
{
    assert(loop_is_here(t->loop));
    if (!send_is_allowed(t)) {
        drop_write(t);
        return;
    }
    if (t->output.size + data.size > flow_high_water_bytes(t) && !t->over_high_water &&
        (transport_protocol(t)->pause_writing != NULL || !buffers_own(buffers_of(t), data.data))) {
        size_t sent = send_at_once(t, data);
        data = (rondo_bytes){ data.data + sent, data.size - sent };
        if (!send_is_allowed(t))
            return; /* it failed */
    }
    queued(t, put(t, data));
}

/* The commonest write of all: the next of many small messages that were received together. Output that is there is in
 * the kernel's hands, or will be looked at before the turn ends. */
static bool follows_on(rondo_transport *t, rondo_bytes data)
{
    return !byte_queue_is_empty(&t->output) && send_is_allowed(t) && !t->send_waits &&
           t->output.size + data.size <= flow_high_water_bytes(t) && byte_queue_go_on(&t->output, data);
}

void rondo_write(rondo_transport *t, rondo_bytes data)
{
    assert(loop_is_here(t->loop));
    if (!follows_on(t, data))
        write_bytes(t, data, put);
}

void rondo_write_static(rondo_transport *t, rondo_bytes data)
{
    write_bytes(t, data, put_static);
}

void rondo_writelines(rondo_transport *t, const rondo_bytes *lines, size_t count)
{
    assert(loop_is_here(t->loop));
    if (!send_is_allowed(t)) {
        drop_write(t);
        return;
    }
    bool has_memory = true;
    for (size_t i = 0; i < count && has_memory; i++)
        has_memory = put(t, lines[i]);
    queued(t, has_memory);
}

bool rondo_can_write_eof(const rondo_transport *t)
{
    return t->kind == STREAM || t->kind == WRITE_PIPE; /* TLS can't */
}

void rondo_write_eof(rondo_transport *t)
{
    assert(loop_is_here(t->loop));
    if (!send_is_allowed(t))
        return;
    if (t->kind == WRITE_PIPE) {
        rondo_close(t);
        return;
    }
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

size_t send_ended(rondo_transport *t, int result)
{
    transport_mark(t);
    if (result < 0 && result != -EAGAIN && result != -EINTR && result != -ECANCELED)
        transport_fail(t, t->error_waits ? t->error : result); /* what broke it says more than EPIPE */
    if (result <= 0)
        return 0;
    transport_is_active(t);
    t->loop->traffic.bytes_out += (size_t)result;
    return (size_t)result;
}

unsigned send_slices(rondo_transport *t, size_t limit, struct iovec *slices, unsigned max)
{
    size_t size;
    unsigned count = byte_queue_slices(&t->output, slices, max, &size);
    if (limit > SEND_BYTES_MAX)
        limit = SEND_BYTES_MAX;
    while (size > limit) {
        size_t over = size - limit;
        struct iovec *last = &slices[count - 1];
        size_t cut = over < last->iov_len ? over : last->iov_len;
        last->iov_len -= cut;
        size -= cut;
        if (last->iov_len == 0)
            count--;
    }
    t->send_size = (uint32_t)size;
    return count;
}

/* Does nothing follow on it: neither more to be sent, nor an end, nor anybody who waits for room? */
static bool nobody_waits(const rondo_transport *t)
{
    return t->state <= HALF_CLOSED && !t->write_eof && !t->over_high_water && !producer_is_there(t) &&
           t->send_size == t->output.size && t->items == NULL;
}

void send_issue(rondo_transport *t, const struct iovec *slices, unsigned count, enum send_way way)
{
    if (t->kind == WRITE_PIPE)
        engine_write(t->loop->engine, &t->send, t->fd, slices, count, way);
    else
        engine_send(t->loop->engine, &t->send, t->fd, slices, count, way);
}

static void send_arm(rondo_transport *t)
{
    struct iovec slices[ENGINE_SEND_SLICES_MAX];
    size_t limit = t->items == NULL ? t->output.size : t->items->bytes_before;
    unsigned count = send_slices(t, limit, slices, ENGINE_SEND_SLICES_MAX);
    t->send.done = send_done;
    enum send_way way = t->send_waits ? SEND_WAITS : nobody_waits(t) ? SEND_QUIETLY : SEND_NOW;
    if (way == SEND_QUIETLY)
        transport_is_active(t);
    send_issue(t, slices, count, way);
}

void send_settle(rondo_transport *t)
{
    send_check_low_water(t);
    if (transport_is_ending(t))
        return;
    if (t->send.in_kernel) {
        engine_expect(t->loop->engine, &t->send); /* whoever marked us waits for its end */
        return;
    }
    if (producer_is_there(t) && transport_output_is_sent(t)) {
        producer_pull(t);
        if (transport_is_ending(t))
            return; /* the producer has aborted it */
    }
    struct item *due = items_due(t);
    if (due != NULL && due->kind == ITEM_FILE)
        file_settle(t, due);
    else if (!byte_queue_is_empty(&t->output))
        due == NULL ? send_arm(t) : descriptors_arm(t);
    else if (t->write_eof && !producer_is_there(t))
        send_half_close(t);
}

void send_output_ended(rondo_transport *t, int result)
{
    output_sent(t, send_ended(t, result), t->send_size);
}

static void send_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = rondo_container_of(op, rondo_transport, send);
    struct watch *watch = t->watch;
    uint64_t armed_ms = watch != NULL ? watch->active_ms : 0;
    send_output_ended(t, completion->result);
    if (watch != NULL && op->quiet)
        watch->active_ms = armed_ms; /* that it succeeded is told later, maybe much later */
}
