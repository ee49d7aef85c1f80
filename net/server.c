/* A server's life.
 *
 *   from             event                                                              to
 *                    made; its sockets are bound                                        BOUND
 *   BOUND            rondo_server_start_serving: listeners accept                       SERVING
 *   BOUND, SERVING   rondo_server_close: listeners close
 *                    server_drain: each listener closes when its queue is empty         CLOSED
 *   CLOSED           no listener and no client is left: from the loop, those that
 *                    wait are called; then, unless one of them waits again              freed
 *
 *   in the kernel:   an accept of each listener; CLOSED: until it has come back
 *
 * Law: a client's transport and an open listener keep their server; a server keeps the loop. So at the end of a shard
 * that has drained, no server is left, and all that waited have been called. */
#include "net/server.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "core/memory.h"

#define BACKLOG 4096

static void end(rondo_call *call);

/* ---- the beginning -------------------------------------------------------------------------------------- */

static const rondo_protocol *protocol_of(const rondo_app *app, const rondo_server_options *options)
{
    return options->protocol != NULL ? options->protocol : app->protocol;
}

/* Whoever asks for datagrams wants them to be taken. */
static int check_takes_datagrams(const rondo_protocol *protocol, const char *url)
{
    struct url parsed;
    char why[URL_WHY_BYTES];
    if (protocol->datagram_received != NULL || url_parse(url, &parsed, why) < 0 ||
        !url_is_of_datagrams(&parsed))
        return 0;
    rondo_log(RONDO_LOG_ERROR, "can't listen on %s: protocol %s has no datagram_received", url,
              protocol->name != NULL ? protocol->name : "(unnamed)");
    return -EINVAL;
}

static int check_protocol(const rondo_protocol *protocol)
{
    if ((protocol->get_buffer != NULL) == (protocol->buffer_updated != NULL))
        return 0;
    rondo_log(RONDO_LOG_ERROR, "protocol %s: get_buffer and buffer_updated go together",
              protocol->name != NULL ? protocol->name : "(unnamed)");
    return -EINVAL;
}

int server_check(const rondo_app *app, const rondo_server_options *options)
{
    if (options->url == NULL) {
        rondo_log(RONDO_LOG_ERROR, "a server needs a url");
        return -EINVAL;
    }
    const rondo_protocol *protocol = protocol_of(app, options);
    if (protocol != NULL) {
        int rc = check_takes_datagrams(protocol, options->url);
        for (const char *const *more = options->more_urls; rc == 0 && more != NULL && *more != NULL; more++)
            rc = check_takes_datagrams(protocol, *more);
        return rc < 0 ? rc : check_protocol(protocol);
    }
    if (options->build_protocol != NULL)
        return 0;
    rondo_log(RONDO_LOG_ERROR, "%s has no protocol", options->url);
    return -EINVAL;
}

unsigned server_backlog(const rondo_app *app)
{
    return app->backlog > 0 ? app->backlog : BACKLOG;
}

static void client_lost(struct transport_owner *owner, rondo_transport *t, int error);

/* A server with the `shard`-th sockets of `addresses`, bound; NULL without memory. */
static rondo_server *open_server(struct service *service, const rondo_server_options *options,
                                 struct addresses *addresses, unsigned shard)
{
    rondo_server *server = memory_new(sizeof *server + addresses->count * sizeof *server->listeners);
    if (server == NULL)
        return NULL;
    server->owner = (struct transport_owner){ .is_server = true, .lost = client_lost };
    server->service = service;
    server->protocol = protocol_of(service->settings->app, options);
    server->build_protocol = options->build_protocol;
    server->context = options->context;
    server->addresses = addresses;
    server->listener_count = addresses->count;
    for (unsigned i = 0; i < addresses->count; i++) {
        struct address *address = &addresses->at[i];
        listener_init(&server->listeners[i], server, address, address_take(address, shard));
        server->listeners_open += server->listeners[i].state != LISTENER_CLOSED;
    }
    list_init(&server->waiting);
    list_push(&service->servers, &server->in_service);
    service->loop->users++;
    return server;
}

const rondo_protocol *server_build_protocol(rondo_server *server, int fd)
{
    struct sockaddr_storage peer = { .ss_family = AF_UNSPEC };
    socklen_t size = sizeof peer;
    struct engine *engine = server->service->loop->engine;
    if (server->build_protocol == NULL)
        return server->protocol;
    if (fd < 0 || engine->sockets->name(engine, fd, true, &peer, &size) < 0)
        peer.ss_family = AF_UNSPEC;
    const rondo_protocol *protocol = server->build_protocol(server, (const struct sockaddr *)&peer);
    return protocol != NULL && check_protocol(protocol) == 0 ? protocol : NULL;
}

int server_open_of_app(struct service *service, unsigned index)
{
    struct service_settings *settings = service->settings;
    rondo_server *server =
        open_server(service, &settings->app->servers[index], &settings->servers[index], service->loop->index);
    if (server == NULL)
        return -ENOMEM;
    server->place = &service->app_servers[index];
    *server->place = server;
    return 0;
}

static rondo_server *create(struct service *service, const rondo_server_options *options,
                            struct addresses *addresses)
{
    rondo_server *server = open_server(service, options, addresses, 0);
    if (server == NULL) {
        rondo_log(RONDO_LOG_ERROR, "can't listen on %s: no memory", options->url);
        addresses_close(addresses);
        return NULL;
    }
    server->own = *addresses;
    server->addresses = &server->own;
    return server;
}

/* In a test (rondo/testing.h) sockets are others, and nobody comes from outside. */
static bool is_on_the_system(const rondo_loop *loop)
{
    return loop->engine->sockets == &system_sockets;
}

int rondo_create_server(rondo_loop *loop, const rondo_server_options *options, rondo_server **server)
{
    struct service *service = service_of(loop);
    const rondo_app *app = service->settings->app;
    struct addresses addresses;
    assert(loop_is_here(loop));
    if (service->draining)
        return -ESHUTDOWN;
    if (!is_on_the_system(loop))
        return -ENOTSUP;
    struct address_terms terms = {
        .shards = 1,
        .backlog = server_backlog(app),
        .shares_port = options->reuse_port,
    };
    int rc = server_check(app, options);
    if (rc == 0)
        rc = addresses_open(&addresses, options, &terms);
    if (rc < 0)
        return rc;
    rondo_server *created = create(service, options, &addresses);
    if (created == NULL)
        return -ENOMEM;
    rc = options->start_later ? 0 : rondo_server_start_serving(created);
    if (rc < 0) { /* of datagrams: sockets of connections listen already */
        rondo_server_close(created);
        return rc;
    }
    *server = created;
    return 0;
}

int rondo_server_start_serving(rondo_server *server)
{
    assert(loop_is_here(server->service->loop));
    if (server->state == SERVER_CLOSED)
        return -ESHUTDOWN;
    for (unsigned i = 0; i < server->listener_count; i++) {
        int rc = listener_start(&server->listeners[i], server->addresses->backlog);
        if (rc < 0)
            return rc;
    }
    server->state = SERVER_SERVING;
    return 0;
}

/* ---- the end -------------------------------------------------------------------------------------------- */

static void settle(rondo_server *server)
{
    bool is_over =
        server->state == SERVER_CLOSED && server->listeners_open == 0 && server->owner.connections == 0;
    if (is_over && !list_contains_link(&server->end._link))
        rondo_call_soon(server->service->loop, &server->end, end);
}

static void client_lost(struct transport_owner *owner, rondo_transport *t, int error)
{
    rondo_server *server = rondo_container_of(owner, rondo_server, owner);
    (void)error;
    for (unsigned i = 0; t->kind == DATAGRAMS && i < server->listener_count; i++) {
        if (server->listeners[i].endpoint == t)
            listener_lost(&server->listeners[i]);
    }
    settle(server);
}

void server_listener_closed(rondo_server *server)
{
    server->listeners_open--;
    settle(server);
}

static void close_server(rondo_server *server, void (*close_listener)(struct listener *listener))
{
    server->state = SERVER_CLOSED;
    for (unsigned i = 0; i < server->listener_count; i++)
        close_listener(&server->listeners[i]);
    settle(server);
}

void rondo_server_close(rondo_server *server)
{
    assert(loop_is_here(server->service->loop));
    close_server(server, listener_close);
}

void server_drain(rondo_server *server)
{
    if (server->state != SERVER_CLOSED)
        close_server(server, listener_drain);
}

static void free_server(rondo_server *server)
{
    assert(server->listeners_open == 0 && server->owner.connections == 0);
    if (server->place != NULL)
        *server->place = NULL;
    list_remove(&server->in_service);
    server->service->loop->users--;
    addresses_close(&server->own);
    memory_free(server);
}

static void end(rondo_call *call)
{
    rondo_server *server = rondo_container_of(call, rondo_server, end);
    struct rondo_link due;
    list_init(&due);
    list_move_all(&server->waiting, &due);
    for (struct rondo_link *link; (link = list_pop(&due)) != NULL;) {
        rondo_call *waiter = rondo_container_of(link, rondo_call, _link);
        waiter->_run(waiter); /* last: it is its owner's again */
    }
    if (list_is_empty(&server->waiting))
        free_server(server);
    else
        rondo_call_soon(server->service->loop, &server->end, end);
}

void rondo_server_wait_closed(rondo_server *server, rondo_call *call, void (*run)(rondo_call *call))
{
    assert(loop_is_here(server->service->loop));
    call->_run = run;
    list_push(&server->waiting, &call->_link);
}

/* ---- clients -------------------------------------------------------------------------------------------- */

static void for_each_client(rondo_server *server, void (*act)(rondo_transport *t))
{
    struct rondo_link *transports = &server->service->transports;
    assert(loop_is_here(server->service->loop));
    /* Neither close nor abort calls anybody or frees anything: that comes from the loop. */
    for (struct rondo_link *link = transports->next; link != transports; link = link->next) {
        rondo_transport *t = rondo_container_of(link, rondo_transport, in_service);
        if (t->owner == &server->owner && t->kind == STREAM)
            act(t);
    }
}

void rondo_server_close_clients(rondo_server *server)
{
    for_each_client(server, rondo_close);
}

void rondo_server_abort_clients(rondo_server *server)
{
    for_each_client(server, rondo_abort);
}

/* ---- questions ------------------------------------------------------------------------------------------ */

rondo_server *rondo_server_of(rondo_loop *loop, unsigned index)
{
    const struct service *service = service_of(loop);
    assert(loop_is_here(loop));
    return index < service->settings->server_count ? service->app_servers[index] : NULL;
}

bool rondo_server_is_serving(const rondo_server *server)
{
    assert(loop_is_here(server->service->loop));
    return server->state == SERVER_SERVING;
}

unsigned rondo_server_sockets(const rondo_server *server, int *fds, unsigned count)
{
    assert(loop_is_here(server->service->loop));
    if (server->state == SERVER_CLOSED)
        return 0;
    for (unsigned i = 0; i < count && i < server->listener_count; i++)
        fds[i] = server->listeners[i].fd; /* -1: another shard's */
    return server->listener_count;
}

const char *rondo_server_url(const rondo_server *server, unsigned index)
{
    assert(loop_is_here(server->service->loop));
    return index < server->listener_count ? server->listeners[index].address->url : NULL;
}

void *rondo_server_context(const rondo_server *server)
{
    return server->context;
}

rondo_loop *rondo_server_get_loop(const rondo_server *server)
{
    return server->service->loop;
}

rondo_server *rondo_get_server(const rondo_transport *t)
{
    assert(loop_is_here(t->loop));
    return t->owner != NULL && t->owner->is_server ? rondo_container_of(t->owner, rondo_server, owner) : NULL;
}

/* ---- sockets accepted elsewhere --------------------------------------------------------------------------- */

static int ask(int fd, int option)
{
    int value = 0;
    return getsockopt(fd, SOL_SOCKET, option, &value, &(socklen_t){ sizeof value }) < 0 ? -errno : value;
}

static int check_is_connected_stream(int fd)
{
    struct sockaddr_storage peer;
    int type = ask(fd, SO_TYPE);
    if (type < 0)
        return type;
    if (type != SOCK_STREAM)
        return -EINVAL;
    return getpeername(fd, (struct sockaddr *)&peer, &(socklen_t){ sizeof peer }) < 0 ? -errno : 0;
}

int rondo_connect_accepted_socket(rondo_loop *loop, int fd, const rondo_protocol *protocol,
                                  rondo_transport **t)
{
    struct service *service = service_of(loop);
    int on = 1;
    assert(loop_is_here(loop));
    if (protocol == NULL || check_protocol(protocol) < 0)
        return -EINVAL;
    if (!is_on_the_system(loop))
        return -ENOTSUP;
    int rc = check_is_connected_stream(fd);
    if (rc < 0)
        return rc;
    if (service->aborting)
        return -ESHUTDOWN;
    if (!service_admit(service))
        return -EUSERS;
    struct transport_start start = {
        .protocol = protocol,
        .fd = fd,
        .family = ask(fd, SO_DOMAIN),
        .later = true,
        .keeps_fd = true,
    };
    rondo_transport *made = transport_open(service, &start);
    if (made == NULL)
        return -ENOMEM;
    if (start.family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (t != NULL)
        *t = made;
    return 0;
}
