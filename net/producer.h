/* What a transport does with its producer. */
#ifndef RONDO_NET_PRODUCER_H
#define RONDO_NET_PRODUCER_H

#include <rondo/producer.h>

#include "net/flow.h"

static inline bool producer_is_there(const rondo_transport *t)
{
    return t->flow != NULL && t->flow->producer != NULL;
}

/* Something was written. */
static inline void producer_wrote(rondo_transport *t)
{
    if (t->flow != NULL)
        t->flow->is_asked = false;
}

/* The output has passed the high-water mark; the low one. */
void producer_pause(rondo_transport *t);
void producer_resume(rondo_transport *t);

/* All that was written has been sent: one that is pulled writes more. */
void producer_pull(rondo_transport *t);

/* The connection is lost. */
void producer_stop(rondo_transport *t);

#endif
