/* A stream from inside.
 *
 *   a handler's    lies beside its task, and ends with it
 *   an opened one  has memory of its own, and ends with the task that opened it, or by rondo_stream_free
 *
 * A stream and its transport may end in either order; whoever ends first takes its pointer out of the other. */
#ifndef RONDO_PROTO_STREAM_H
#define RONDO_PROTO_STREAM_H

#include <rondo/stream.h>

#include "core/task.h"
#include "net/transport.h"
#include "proto/read_buffer.h"

/* The state of a connection: rondo_self. */
struct stream_state {
    rondo_stream *stream; /* NULL: it has ended */
    bool has_begun;
};

struct rondo_stream {
    /* Two cache lines: what reading and writing touch. */
    rondo_transport *t; /* NULL: lost */
    struct stream_state *state;
    rondo_loop *loop;
    struct read_buffer input;
    const void *kept_buffer; /* of the shard, in which the slice lies that was given last; NULL: in none */
    size_t limit;
    rondo_task *reader;  /* waits for input; NULL: nobody */
    int error;           /* what the connection broke with */
    bool is_reading;     /* a task is inside of a call that reads */
    bool at_end;         /* the input has ended */
    bool is_drained;     /* the server drains, and the handler has been given all */
    bool reading_paused; /* too much is unread */
    bool writing_paused;

    rondo_task *handler;       /* NULL: it was opened */
    struct rondo_link waiters; /* tasks that wait for room in the output, or for the end */
    struct task_belonging belonging;
    void (*client_connected)(rondo_stream *s);
};

/* Of a stream that a task opens: as RONDO_STREAM_READER, but that nobody handles it. */
#define OPENED_STREAM                                                                                        \
    .size = sizeof(struct stream_state), .data_received = rondo__stream_data_received,                       \
    .eof_received = rondo__stream_eof_received, .pause_writing = rondo__stream_pause_writing,                \
    .resume_writing = rondo__stream_resume_writing, .connection_lost = rondo__stream_connection_lost,        \
    .drained = rondo__stream_drained, ._unused = rondo__stream_unused, ._release = rondo__stream_release

/* Its transport; NULL: lost, or another protocol's. */
static inline rondo_transport *stream_transport(const rondo_stream *s)
{
    return s->t != NULL && s->t->self->state == (char *)s->state ? s->t : NULL;
}

/* A stream of this transport, which has none. NULL: no memory. */
rondo_stream *stream_open(rondo_transport *t, rondo_task *owner, size_t limit);

/* If the transport is another protocol's now, that was the end of the input, and what was unread is that one's. */
void stream_notice_hand_over(rondo_stream *s);

/* Let go of the slice given last. */
void stream_release_slice(rondo_stream *s);

#endif
