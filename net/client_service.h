/* The client service, from inside. Its life is told at the top of net/client_service.c. */
#ifndef RONDO_NET_CLIENT_SERVICE_H
#define RONDO_NET_CLIENT_SERVICE_H

#include <rondo/client.h>

#include "net/service.h"

enum client_service_state {
    CLIENT_CONNECTING,
    CLIENT_MADE,
    CLIENT_CONNECTED,
    CLIENT_CLOSING,
    CLIENT_WAITING,
    CLIENT_STOPPING,
    CLIENT_STOPPED
};

struct rondo_client_service {
    rondo_loop *loop;
    rondo_client_service_options options; /* its strings are the connector's */
    rondo_connector *connector;
    enum client_service_state state;
    unsigned failures; /* since the last connection */
    int refusal;       /* CLOSING: what prepare_connection returned */
    uint64_t random;
    struct rondo_link waiters, stop_calls;
    struct stoppable stoppable;
    rondo_timer timer; /* WAITING */
    rondo_call prepare, answer, end;
};

/* How long to wait after the next failure, without and with the random part, which it draws. */
uint64_t client_service_delay_ms(struct rondo_client_service *service);

#endif
