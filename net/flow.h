/* Flow control out of the ordinary, for the few transports that need it: limits of their own, what was received while
 * reading is paused, and a producer. It is made when first needed, and goes when it no longer is. */
#ifndef RONDO_NET_FLOW_H
#define RONDO_NET_FLOW_H

#include <stdbool.h>
#include <stddef.h>

#include "net/byte_queue.h"
#include "net/transport.h"

#define HIGH_WATER_BYTES (64 * 1024) /* asyncio's defaults */
#define LOW_WATER_BYTES  (16 * 1024)

struct flow {
    size_t high_water_bytes, low_water_bytes;
    struct byte_queue inbox; /* received, but not delivered: reading is paused */
    size_t direct_waits;     /* bytes in the memory that get_buffer gave, not delivered: reading is paused */
    struct rondo_producer *producer;
    bool is_streaming; /* the producer writes by itself */
    bool is_paused;    /* and has been told not to */
    bool is_asked;     /* else: it has been pulled, and not written since */
};

/* Made when it isn't there. NULL: no memory. */
struct flow *flow_of(rondo_transport *t);

static inline size_t flow_high_water_bytes(const rondo_transport *t)
{
    return t->flow == NULL ? HIGH_WATER_BYTES : t->flow->high_water_bytes;
}

static inline size_t flow_low_water_bytes(const rondo_transport *t)
{
    return t->flow == NULL ? LOW_WATER_BYTES : t->flow->low_water_bytes;
}

/* Bytes that wait, of both kinds. */
static inline size_t flow_waiting_bytes(const rondo_transport *t)
{
    return t->flow == NULL ? 0 : t->flow->inbox.size + t->flow->direct_waits;
}

/* False: no memory, and nothing has changed. So for the two below. */
bool flow_set_limits(rondo_transport *t, size_t high_bytes, size_t low_bytes);

/* Bytes that lie anywhere shall wait, behind those that do already. */
bool flow_hold(rondo_transport *t, rondo_bytes data);
/* Before them. */
bool flow_hold_first(rondo_transport *t, rondo_bytes data);
/* So many bytes wait in the memory that get_buffer gave. */
bool flow_hold_direct(rondo_transport *t, size_t size);

/* Nobody will take what waits. */
void flow_drop_waiting(rondo_transport *t);

/* It has done its part, for now. */
void flow_let_go(rondo_transport *t);

/* With all that is in it. */
void flow_free(rondo_transport *t);

#endif
