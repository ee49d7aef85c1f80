/* Adds numbers: each line is one, and is answered by the sum so far. Who says nothing for ten seconds is told
 * goodbye. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rondo/rondo.h>

struct visitor {
    long long sum;
    rondo_timer patience;
};

static void patience_ends(rondo_timer *timer)
{
    rondo_transport *t = rondo_transport_of(rondo_container_of(timer, struct visitor, patience));
    rondo_write_static(t, RONDO_BYTES("goodbye\n"));
    rondo_close(t);
}

static void be_patient(rondo_transport *t)
{
    struct visitor *self = rondo_self(t);
    rondo_call_later(rondo_get_loop(t), &self->patience, 10 * 1000, patience_ends);
}

static void line_received(rondo_transport *t, rondo_bytes line)
{
    struct visitor *self = rondo_self(t);
    char text[32] = "", *end = text;
    if (line.size < sizeof text)
        memcpy(text, line.data, line.size);
    self->sum += strtoll(text, &end, 10);
    if (end == text || *end != '\0') {
        rondo_send_line(t, RONDO_BYTES("that is no number"));
        rondo_close(t);
        return;
    }
    int size = snprintf(text, sizeof text, "%lld", self->sum);
    rondo_send_line(t, (rondo_bytes){ text, (size_t)size });
    be_patient(t);
}

static void connection_lost(rondo_transport *t, int error)
{
    struct visitor *self = rondo_self(t);
    (void)error;
    rondo_timer_cancel(&self->patience);
}

const rondo_line_protocol adder = {
    RONDO_LINE_RECEIVER("adder", sizeof(struct visitor)),
    .protocol.connection_made = be_patient,
    .protocol.connection_lost = connection_lost,
    .line_received = line_received,
};
