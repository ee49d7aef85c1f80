#include "net/service.h"

#include <errno.h>
#include <string.h>

#include "core/jobs.h"
#include "core/list.h"
#include "core/memory.h"
#include "core/task.h"
#include "net/server.h"
#include "net/transport.h"

void *rondo_shard_of(rondo_loop *loop)
{
    return service_of(loop)->shard_state;
}

bool service_admit(struct service *service)
{
    struct service_settings *settings = service->settings;
    if (settings->max_connections == 0)
        return true;
    if (atomic_fetch_add_explicit(&settings->connections, 1, memory_order_relaxed) <
        settings->max_connections)
        return true;
    service_forget(service);
    if (!atomic_exchange_explicit(&settings->limit_logged, true, memory_order_relaxed)) {
        rondo_log(RONDO_LOG_WARNING,
                  "%u connections are open, the limit (--max-connections): more are closed at once",
                  settings->max_connections);
    }
    return false;
}

void service_forget(struct service *service)
{
    if (service->settings->max_connections > 0)
        atomic_fetch_sub_explicit(&service->settings->connections, 1, memory_order_relaxed);
}

static void act_on_each(struct rondo_link *transports, void (*act)(rondo_transport *t))
{
    for (struct rondo_link *link = transports->next; link != transports; link = link->next)
        act(rondo_container_of(link, rondo_transport, in_service));
}

void service_for_each_transport(struct service *service, void (*act)(rondo_transport *t))
{
    act_on_each(&service->transports, act);
    act_on_each(&service->lingering, act);
}

/* The service is draining, so that what their users do now adds none. */
static void stop_stoppables(struct service *service)
{
    assert(service->draining);
    for (struct rondo_link *link; (link = list_pop(&service->stoppables)) != NULL;) {
        struct stoppable *stoppable = rondo_container_of(link, struct stoppable, in_service);
        stoppable->stop(stoppable);
    }
}

static void for_each_server(struct service *service, void (*act)(rondo_server *server))
{
    /* No server is freed by these: that comes from the loop. */
    for (struct rondo_link *link = service->servers.next; link != &service->servers; link = link->next)
        act(rondo_container_of(link, rondo_server, in_service));
}

/* ---- the life of a shard's service ------------------------------------------------------------------------ */

void service_init(struct service *service, rondo_loop *loop, struct service_settings *settings)
{
    service->loop = loop;
    service->settings = settings;
    segments_init(&service->segments, &loop->engine->buffers);
    list_init(&service->transports);
    list_init(&service->lingering);
    list_init(&service->servers);
    list_init(&service->stoppables);
    loop->upstairs = service;
}

void service_close(struct service *service)
{
    tasks_close(service->loop);
    assert(list_is_empty(&service->transports) && list_is_empty(&service->lingering));
    assert(list_is_empty(&service->servers) && !rondo_timer_is_running(&service->linger_timer));
    service->loop->upstairs = NULL;
    segments_close(&service->segments);
}

static int open_servers(struct service *service)
{
    unsigned count = service->settings->server_count;
    service->app_servers = memory_new((count + 1) * sizeof *service->app_servers);
    int rc = service->app_servers == NULL ? -ENOMEM : 0;
    for (unsigned i = 0; i < count && rc == 0; i++)
        rc = server_open_of_app(service, i);
    return rc;
}

static int start_servers(struct service *service)
{
    const struct service_settings *settings = service->settings;
    int rc = 0;
    for (unsigned i = 0; i < settings->server_count && rc == 0; i++) {
        rondo_server *server = service->app_servers[i];
        if (server->state == SERVER_BOUND && !settings->app->servers[i].start_later)
            rc = rondo_server_start_serving(server);
    }
    return rc;
}

static int begin(struct service *service)
{
    const rondo_app *app = service->settings->app;
    if (app->shard_size > 0) {
        service->shard_state = memory_new(app->shard_size);
        if (service->shard_state == NULL)
            return -ENOMEM;
    }
    int rc = open_servers(service);
    if (rc == 0 && app->shard_start != NULL)
        rc = app->shard_start(service->loop);
    service->was_started = rc == 0;
    return rc == 0 ? start_servers(service) : rc;
}

static void abort_all(rondo_loop *loop);

static int start(rondo_loop *loop, void *context)
{
    struct service *service = memory_new(sizeof *service);
    if (service == NULL) {
        rondo_log(RONDO_LOG_ERROR, "no memory for shard %u", loop->index);
        return -ENOMEM;
    }
    service_init(service, loop, context);
    int rc = begin(service);
    if (rc == 0)
        return 0;
    rondo_log(RONDO_LOG_ERROR, "shard %u can't start: %s", loop->index, strerror(-rc));
    service->draining = true;
    stop_stoppables(service);
    abort_all(loop); /* what shard_start began ends from the loop */
    return rc;
}

static void drain(rondo_loop *loop)
{
    struct service *service = service_of(loop);
    service->draining = true;
    stop_stoppables(service);
    for_each_server(service, server_drain);
    service_for_each_transport(service, transport_drain);
    tasks_drain(loop);
}

static void abort_all(rondo_loop *loop)
{
    struct service *service = service_of(loop);
    service->aborting = true;
    if (loop->traffic.connections_open > 0) {
        rondo_log(RONDO_LOG_WARNING, "shard %u: aborted %llu connections that did not end by themselves",
                  loop->index, (unsigned long long)loop->traffic.connections_open);
    }
    for_each_server(service, rondo_server_close);
    service_for_each_transport(service, transport_cancel);
    tasks_abort(loop);
    jobs_abort(loop);
}

static void stop(rondo_loop *loop)
{
    struct service *service = service_of(loop);
    if (service == NULL)
        return; /* it could not be made */
    if (service->was_started && service->settings->app->shard_stop != NULL)
        service->settings->app->shard_stop(loop);
    service_close(service);
    memory_free(service->app_servers);
    memory_free(service->shard_state);
    memory_free(service);
}

const struct shard_hooks service_hooks = {
    .start = start,
    .drain = drain,
    .abort = abort_all,
    .stop = stop,
};
