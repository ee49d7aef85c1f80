#include "net/flow.h"

#include "core/memory.h"

struct flow *flow_of(rondo_transport *t)
{
    if (t->flow != NULL)
        return t->flow;
    struct flow *flow = memory_new(sizeof *flow);
    if (flow != NULL) {
        flow->high_water_bytes = HIGH_WATER_BYTES;
        flow->low_water_bytes = LOW_WATER_BYTES;
    }
    return t->flow = flow;
}

bool flow_set_limits(rondo_transport *t, size_t high_bytes, size_t low_bytes)
{
    if (high_bytes == flow_high_water_bytes(t) && low_bytes == flow_low_water_bytes(t))
        return true;
    struct flow *flow = flow_of(t);
    if (flow == NULL)
        return false;
    flow->high_water_bytes = high_bytes;
    flow->low_water_bytes = low_bytes;
    return true;
}

/* A few bytes would hold back a buffer that many others are to share. */
static bool is_worth_a_buffer(const struct buffers *buffers, rondo_bytes data)
{
    return !buffers->is_pieced || data.size >= buffers->size_bytes / 16;
}

bool flow_hold(rondo_transport *t, rondo_bytes data)
{
    struct flow *flow = flow_of(t);
    if (flow == NULL)
        return false;
    struct segments *segments = segments_of(t);
    if (buffers_own(segments->buffers, data.data) && is_worth_a_buffer(segments->buffers, data) &&
        transport_may_keep(t, &flow->inbox))
        return byte_queue_put_lent(&flow->inbox, segments, data);
    t->loop->traffic.bytes_copied += data.size;
    return byte_queue_put_copy(&flow->inbox, data);
}

bool flow_hold_first(rondo_transport *t, rondo_bytes data)
{
    if (data.size == 0)
        return true;
    struct flow *flow = flow_of(t);
    return flow != NULL && byte_queue_put_front(&flow->inbox, data);
}

bool flow_hold_direct(rondo_transport *t, size_t size)
{
    struct flow *flow = flow_of(t);
    if (flow == NULL)
        return false;
    flow->direct_waits = size;
    return true;
}

void flow_drop_waiting(rondo_transport *t)
{
    if (t->flow == NULL)
        return;
    byte_queue_clear(&t->flow->inbox, segments_of(t));
    t->flow->direct_waits = 0;
}

void flow_let_go(rondo_transport *t)
{
    const struct flow *flow = t->flow;
    bool is_needed = flow != NULL &&
                     (flow_waiting_bytes(t) > 0 || flow->producer != NULL ||
                      flow->high_water_bytes != HIGH_WATER_BYTES || flow->low_water_bytes != LOW_WATER_BYTES);
    if (!is_needed)
        flow_free(t);
}

void flow_free(rondo_transport *t)
{
    flow_drop_waiting(t);
    memory_free(t->flow);
    t->flow = NULL;
}
