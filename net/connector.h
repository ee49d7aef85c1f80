/* The connector, from inside. Its life is told at the top of net/connector.c. */
#ifndef RONDO_NET_CONNECTOR_H
#define RONDO_NET_CONNECTOR_H

#include <rondo/client.h>

#include "net/dial.h"
#include "net/service.h"
#include "net/transport.h"

enum connector_state {
    CONNECTOR_IDLE,
    CONNECTOR_STARTING,
    CONNECTOR_DIALING,
    CONNECTOR_STOPPED,
    CONNECTOR_CONNECTED,
    CONNECTOR_TELLING
};

struct rondo_connector {
    rondo_loop *loop;
    struct service *service;
    enum connector_state state;
    bool kept; /* by a client service, which frees it */

    rondo_client_options options; /* its strings are ours */
    struct dial_target target;
    struct dial *dial;  /* STARTING (NULL: there was no memory), DIALING */
    rondo_transport *t; /* CONNECTED */
    struct transport_owner owner;
    struct stoppable stoppable; /* STARTING, DIALING, STOPPED, unless it is kept */
    rondo_call call;            /* STARTING: begin; STOPPED: say so */
};

/* ---- for the client service ------------------------------------------------------------------------------- */

/* A connector that is IDLE, and kept: it is not freed behind its hooks, but IDLE when they are called; the drain doesn't
 * look at it; and it tells nothing to the log. Returns as rondo_create_connection. */
int connector_new(rondo_loop *loop, const rondo_client_options *options, rondo_connector **connector);

/* IDLE or in progress, but not CONNECTED; without a word. May be called from within its hooks, if it is kept. */
void connector_free(rondo_connector *connector);

#endif
