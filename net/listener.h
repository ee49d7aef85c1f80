/* A shard's listening socket.
 *
 *                       accept ends with an error                            listener_drain
 *   ACCEPTING  <---------------------------------------  BACKING_OFF     (from both) ----> DRAINING ----> CLOSED
 *              ---------------------------------------->
 *                 no descriptors or memory: 10 ms, 20, … 1 s
 */
#ifndef RONDO_NET_LISTENER_H
#define RONDO_NET_LISTENER_H

#include <stdbool.h>

#include "net/service.h"

enum listener_state { LISTENER_ACCEPTING, LISTENER_BACKING_OFF, LISTENER_DRAINING, LISTENER_CLOSED };

struct listener {
    struct service *service;
    const struct address *address;
    int fd;
    enum listener_state state;
    struct op accept;
    rondo_timer timer; /* the end of backing off; or, after it, of the episode */
    unsigned back_off_ms;
    bool short_of_resources; /* said so in the log */
};

/* Accept the connections of `fd`, a listening socket, which is the listener's from now on. */
void listener_open(struct listener *listener, struct service *service, const struct address *address, int fd);

/* Accept those that are queued, then close. */
void listener_drain(struct listener *listener);

/* Close at once; after listener_drain. */
void listener_abort(struct listener *listener);

#endif
