/* A server, from inside. Its life is told at the top of net/server.c. */
#ifndef RONDO_NET_SERVER_H
#define RONDO_NET_SERVER_H

#include <stdbool.h>

#include <rondo/server.h>

#include "net/addresses.h"
#include "net/listener.h"
#include "net/service.h"
#include "net/transport.h"

enum server_state { SERVER_BOUND, SERVER_SERVING, SERVER_CLOSED };

struct rondo_server {
    struct transport_owner owner;
    struct service *service;
    const rondo_protocol *protocol; /* of all connections, unless */
    const rondo_protocol *(*build_protocol)(rondo_server *server, const struct sockaddr *peer);
    void *context;
    enum server_state state;
    struct addresses *addresses; /* the app's, of all shards; or */
    struct addresses own;
    rondo_server **place;      /* rondo_server_of looks here; NULL: nowhere */
    struct rondo_link waiting; /* calls of rondo_server_wait_closed */
    rondo_call end;
    struct rondo_link in_service;
    unsigned listeners_open;
    unsigned listener_count;
    struct listener listeners[];
};

/* What no server can be made of: returns -EINVAL, and says so in the log. */
int server_check(const rondo_app *app, const rondo_server_options *options);

/* Of servers that don't say. */
unsigned server_backlog(const rondo_app *app);

/* rondo_app.servers[index] on this shard: SERVER_BOUND, with its shard's sockets of settings->servers[index].
 * Returns 0 or -ENOMEM. */
int server_open_of_app(struct service *service, unsigned index);

/* Accept what is queued, then close. */
void server_drain(rondo_server *server);

/* The protocol of a connection that has been accepted; NULL: it is refused. */
const rondo_protocol *server_build_protocol(rondo_server *server, int fd);

/* A listener of it has closed. */
void server_listener_closed(rondo_server *server);

#endif
