/* One connection of the generator: a stream of messages out, and the same stream back in.
 *
 *   closed -> connecting -> open -> closing -> closed, or retired after a failure
 *
 * A descriptor is closed, and a connection used again, only when the kernel owes it no completion. */
#ifndef LOAD_CONNECTION_H
#define LOAD_CONNECTION_H

#include "failures.h"

#include <liburing.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct run;

struct queue {
    struct connection *first, *last;
};

void queue_push(struct queue *queue, struct connection *c);
struct connection *queue_pop(struct queue *queue); /* which isn't empty */

struct connection {
    enum { IS_CLOSED, IS_CONNECTING, IS_OPEN, IS_CLOSING, IS_RETIRED } state;
    int fd;
    bool failed, sending;
    unsigned in_kernel;        /* requests whose completion is still to come */
    size_t send_size;          /* of the latest send */
    size_t origin;             /* of its bytes, see payload.h */
    uint64_t issued, answered; /* messages */
    uint64_t sent, received;   /* bytes */
    uint64_t *due_ns;          /* of the messages in flight: message n at n modulo depth */
    struct connection *next; /* in the queue it is in: of those that may take a request, or wait to connect */
};

void connection_open(struct run *run, struct connection *c);

/* Another attempt for those that found a Unix socket's backlog full. */
void connection_retry_waiting(struct run *run);

/* Put one more message on its way; it leaves with connection_flush. */
void connection_issue(struct run *run, struct connection *c, uint64_t due_ns);
void connection_flush(struct run *run, struct connection *c);

/* Close in the way asked for by --close. */
void connection_close(struct run *run, struct connection *c);

/* Count a failure, give up the messages in flight, and retire. */
void connection_fail(struct run *run, struct connection *c, enum failure kind, int error);

/* A completion whose user_data was made by some connection of this run. */
void connection_complete(struct run *run, const struct io_uring_cqe *cqe);

#endif
