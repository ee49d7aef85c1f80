/* A transport of datagrams, from inside. Its states are those of net/transport.c; what it does in them is told at the top of
 * net/datagram.c. */
#ifndef RONDO_NET_DATAGRAM_H
#define RONDO_NET_DATAGRAM_H

#include <stdbool.h>

#include <rondo/datagram.h>

#include "net/addresses.h"
#include "net/service.h"
#include "net/transport.h"

/* Serve a socket that is bound: start->kind is DATAGRAMS, and the descriptor stays the caller's when there is no memory, which
 * is in the log: then NULL is returned. */
rondo_transport *datagrams_open(struct service *service, const struct transport_start *start);

/* Where one of rondo_create_datagram_endpoint is bound, and whom it sends to. */
struct datagram_ends {
    /* None: the kernel chooses. The first one's socket has been taken; they are closed at the end. */
    struct addresses local;
    struct url_address remote; /* size 0: none */
    bool is_connected;         /* to it; else it's only where datagrams without an address go */
};

/* They are its own from here on. */
void datagrams_connect(rondo_transport *t, const struct datagram_ends *ends);

/* ---- for transport.c: what it does with this kind ---- */

/* Receive, deliver and send, as the state asks. */
void datagrams_settle(rondo_transport *t);

/* Closing: has all been sent? Else it is under way. */
bool datagrams_are_flushed(rondo_transport *t);

/* Ending: is nothing in the kernel any more? Else it is being cancelled. */
bool datagrams_are_back(rondo_transport *t);

/* Deliver what had arrived by now, then close. */
void datagrams_drain(rondo_transport *t);

/* With all that waits. */
void datagrams_free(rondo_transport *t);

size_t datagrams_unsent_bytes(const rondo_transport *t);

#endif
