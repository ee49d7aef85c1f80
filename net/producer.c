#include "net/producer.h"

#include <errno.h>

static void stop(rondo_producer *producer)
{
    producer->transport = NULL;
    if (producer->stop_producing != NULL)
        producer->stop_producing(producer);
}

void producer_pause(rondo_transport *t)
{
    if (!producer_is_there(t) || !t->flow->is_streaming || t->flow->is_paused)
        return;
    t->flow->is_paused = true;
    t->flow->producer->pause_producing(t->flow->producer);
}

void producer_resume(rondo_transport *t)
{
    if (!producer_is_there(t) || !t->flow->is_paused)
        return;
    t->flow->is_paused = false;
    t->flow->producer->resume_producing(t->flow->producer);
}

void producer_pull(rondo_transport *t)
{
    if (!producer_is_there(t) || t->flow->is_streaming || t->flow->is_asked)
        return;
    t->flow->is_asked = true;
    t->flow->producer->resume_producing(t->flow->producer);
}

static rondo_producer *take_off(rondo_transport *t)
{
    rondo_producer *producer = t->flow->producer;
    t->flow->producer = NULL;
    return producer;
}

void producer_stop(rondo_transport *t)
{
    if (producer_is_there(t))
        stop(take_off(t));
}

int rondo_register_producer(rondo_transport *t, rondo_producer *producer, bool streaming)
{
    assert(loop_is_here(t->loop));
    if (producer->resume_producing == NULL || (streaming && producer->pause_producing == NULL))
        return -EINVAL;
    if (producer_is_there(t))
        return -EBUSY;
    if (!transport_is_writable(t))
        return -ENOTSUP;
    if (rondo_is_closing(t)) {
        stop(producer);
        return 0;
    }
    struct flow *flow = flow_of(t);
    if (flow == NULL)
        return -ENOMEM;
    producer->transport = t;
    flow->producer = producer;
    flow->is_streaming = streaming;
    flow->is_paused = flow->is_asked = false;
    transport_mark(t);
    if (t->over_high_water)
        producer_pause(t);
    return 0;
}

void rondo_unregister_producer(rondo_transport *t)
{
    assert(loop_is_here(t->loop));
    if (!producer_is_there(t))
        return;
    take_off(t)->transport = NULL;
    transport_mark(t);
}
