/* Producers: who makes what a connection sends, at the pace at which it is taken.    Twisted: IPushProducer, IPullProducer
 *
 *   struct counter {
 *       rondo_producer producer;
 *       unsigned next;
 *   };
 *
 *   static void resume_producing(rondo_producer *producer)
 *   {
 *       struct counter *self = rondo_container_of(producer, struct counter, producer);
 *       char text[16];
 *       int size = snprintf(text, sizeof text, "%u\n", self->next++);
 *       rondo_write(producer->transport, (rondo_bytes){ text, (size_t)size });
 *       if (self->next == 1000)
 *           rondo_unregister_producer(producer->transport);
 *   }
 *
 *   static void connection_made(rondo_transport *t)
 *   {
 *       struct counter *self = rondo_self(t);
 *       self->producer.resume_producing = resume_producing;
 *       rondo_register_producer(t, &self->producer, false);
 *       rondo_close(t);
 *   }
 *
 *   static const rondo_protocol counting = {
 *       .name = "counting",
 *       .size = sizeof(struct counter),
 *       .connection_made = connection_made,
 *   };
 *
 *   ... rondo_main(argc, argv, &counting, "tcp://127.0.0.1:7777");
 *
 * A connection with a producer doesn't end before it is unregistered: after rondo_close, rondo_write_eof, or an EOF
 * that nobody wants to outlive, it may still be written to, and the end follows on rondo_unregister_producer and the
 * last byte. (Twisted promises that for all producers, and does it for those that are pulled or paused.) A server that
 * drains waits for it, too, until its drain timeout. What ends a connection at once doesn't wait: rondo_abort, an
 * error, the idle timeout.
 *
 * The protocol's pause_writing and resume_writing are called as without a producer. For the bytes of a file there is
 * rondo_sendfile.
 *
 * Thread: the loop of the connection's shard, for every call here. */
#ifndef RONDO_PRODUCER_H
#define RONDO_PRODUCER_H

#include <stdbool.h>

#include <rondo/transport.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* Yours, usually a part of the connection's state; registered, it must stay where it is. */
typedef struct rondo_producer {
    rondo_transport *transport; /* set by rondo_register_producer; NULL: not registered */

    /* Streaming: go on, since the output has fallen to the low-water mark (Twisted: has been sent). Not streaming:
     * write something, now, or later; called again when that has been sent. From the loop.    Twisted: resumeProducing */
    void (*resume_producing)(struct rondo_producer *producer);

    /* Streaming: stop for now, the output is above the high-water mark. May come from inside your own rondo_write, as
     * pause_writing does, behind that. Only streaming producers need it.    Twisted: pauseProducing */
    void (*pause_producing)(struct rondo_producer *producer);

    /* The connection is lost: connection_lost follows. It is unregistered already. May be NULL.
     * Twisted: stopProducing */
    void (*stop_producing)(struct rondo_producer *producer);
} rondo_producer;

/* Let `producer` make what this connection sends.    Twisted: registerProducer
 *
 *   streaming   true: it writes by itself, until it is told to pause (push). false: it writes when it is told to, once
 *               each time (pull); for the first time soon, from the loop
 *
 * A connection that is above its high-water mark pauses a streaming one before this returns. One that is closing, or
 * lost, calls stop_producing before this returns, and keeps nothing.
 * Returns 0; -EBUSY: there is one already (Twisted raises); -EINVAL: a callback is missing; -ENOTSUP: no bytes are
 * written there (datagrams, a pipe to be read, a process); -ENOMEM. */
int rondo_register_producer(rondo_transport *t, rondo_producer *producer, bool streaming);

/* There is nothing more to produce, or somebody else will. What waits for it can end now. Does nothing without one.
 * Twisted: unregisterProducer */
void rondo_unregister_producer(rondo_transport *t);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
