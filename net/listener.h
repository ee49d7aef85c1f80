/* One socket of a server, which listens; or one for datagrams, which is handed to a transport.
 *
 *   from                 event                                                   to
 *   IDLE                 listener_start                                          ACCEPTING
 *   ACCEPTING            accept ends with an error: no descriptors, no memory    BACKING_OFF: 10 ms, 20, … 1 s
 *   BACKING_OFF          that time has passed                                    ACCEPTING
 *   ACCEPTING, BACKING_OFF   listener_drain                                      DRAINING
 *   DRAINING             the queue is empty, and, where accepting is deferred,   CLOSING
 *                        no handshake is under way, or for 1.5 s some were
 *   any                  listener_close                                          CLOSING
 *   CLOSING              the accept is out of the kernel: close                  CLOSED
 *
 *   IDLE                 listener_start, of datagrams: a transport has it        ENDPOINT
 *   ENDPOINT             listener_drain, listener_close; the transport is lost   CLOSED
 *
 * CLOSING, nobody can connect any more, and what the accept under way still brings is closed; so one who closes a
 * listener need not know whether there is one. */
#ifndef RONDO_NET_LISTENER_H
#define RONDO_NET_LISTENER_H

#include <stdbool.h>

#include "net/service.h"

enum listener_state {
    LISTENER_IDLE,
    LISTENER_ACCEPTING,
    LISTENER_BACKING_OFF,
    LISTENER_ENDPOINT,
    LISTENER_DRAINING,
    LISTENER_CLOSING,
    LISTENER_CLOSED,
};

struct listener {
    struct rondo_server *server;
    struct address *address;
    int fd;
    int spare; /* a descriptor to have when there is none left: of Unix sockets; else -1 */
    enum listener_state state;
    struct op accept;
    rondo_timer timer; /* the end of backing off; or, after it, of the episode; or, draining, to look again */
    rondo_call look;   /* draining a queue that others may take from, too */
    unsigned back_off_ms;
    uint64_t last_moment_ms; /* until when handshakes are waited for */
    bool defers;             /* accepting, until the client has talked: rondo_protocol.defer_accept */
    bool short_of_resources; /* said so in the log */
    bool looked, drained;
    rondo_transport *endpoint; /* of datagrams; NULL: it is lost */
};

/* `fd`, a socket of `address`, is the listener's from now on. */
void listener_init(struct listener *listener, struct rondo_server *server, struct address *address, int fd);

/* Listen and accept, if it doesn't. Returns 0 or a negative errno. */
int listener_start(struct listener *listener, unsigned backlog);

/* Its endpoint is lost, at the end of a server or by itself. */
void listener_lost(struct listener *listener);

/* Accept those that are queued, then close. */
void listener_drain(struct listener *listener);

/* Close, soon: server_listener_closed follows, from inside this call or from the loop. */
void listener_close(struct listener *listener);

#endif
