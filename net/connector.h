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
    struct rondo_client_service *keeper; /* frees it; NULL: it frees itself */

    rondo_client_options options; /* its strings are ours */
    struct dial_target target;
    struct dial *dial;  /* STARTING (NULL: there was no memory), DIALING */
    rondo_transport *t; /* CONNECTED */
    struct transport_owner owner;
    struct stoppable stoppable; /* STARTING, DIALING, STOPPED, unless it is kept */
    rondo_call call;            /* STARTING: begin; STOPPED: say so */

    /* For its keeper: there is a transport, which has not been made yet. May be NULL. */
    void (*connected)(rondo_connector *connector);
};

/* ---- for the client service, which keeps one -------------------------------------------------------------- */

/* A connector that is IDLE. One with a keeper is not freed behind its hooks, but IDLE when they are called, and may
 * be freed by them; the drain doesn't look at it; and rondo_connector_connect does nothing to it.
 * Returns as rondo_create_connection. */
int connector_new(rondo_loop *loop, const rondo_client_options *options, struct rondo_client_service *keeper,
                  rondo_connector **connector);

/* Begin. It is IDLE. */
void connector_start(rondo_connector *connector);

/* Stop connecting now, with connection_failed(-ECANCELED) from inside this call. Does nothing to one that isn't at
 * it. */
void connector_stop_now(rondo_connector *connector, const char *reason);

/* It is IDLE. */
void connector_free(rondo_connector *connector);

#endif
