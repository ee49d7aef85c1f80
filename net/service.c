#include "net/service.h"

#include <errno.h>
#include <string.h>

#include "core/list.h"
#include "core/memory.h"
#include "net/listener.h"
#include "net/transport.h"

struct service *service_of(const rondo_loop *loop)
{
    return loop->upstairs;
}

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

static void for_each_transport(struct service *service, void (*act)(rondo_transport *t))
{
    /* No transport is freed by these: that takes a completion. */
    for (struct rondo_link *link = service->transports.next; link != &service->transports; link = link->next)
        act(rondo_container_of(link, rondo_transport, in_service));
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

static void free_service(struct service *service)
{
    service->loop->upstairs = NULL;
    memory_free(service->listeners);
    memory_free(service->shard_state);
    memory_free(service);
}

static int start(rondo_loop *loop, void *context)
{
    struct service_settings *settings = context;
    const rondo_app *app = settings->app;
    struct service *service = memory_new(sizeof *service);
    if (service == NULL) {
        rondo_log(RONDO_LOG_ERROR, "no memory for shard %u", loop->index);
        return -ENOMEM;
    }
    service->loop = loop;
    service->settings = settings;
    service->listener_count = settings->address_count;
    service->listeners = memory_new(settings->address_count * sizeof *service->listeners);
    service->shard_state = app->shard_size > 0 ? memory_new(app->shard_size) : NULL;
    list_init(&service->transports);
    list_init(&service->stoppables);
    loop->upstairs = service;

    int rc =
        service->listeners == NULL || (app->shard_size > 0 && service->shard_state == NULL) ? -ENOMEM : 0;
    if (rc == 0 && app->shard_start != NULL)
        rc = app->shard_start(loop);
    if (rc < 0) {
        rondo_log(RONDO_LOG_ERROR, "shard %u can't start: %s", loop->index, strerror(-rc));
        service->draining = true;
        stop_stoppables(service);
        free_service(service);
        return rc;
    }
    for (unsigned i = 0; i < settings->address_count; i++) {
        struct address *address = &settings->addresses[i];
        listener_open(&service->listeners[i], service, address, address->fds[loop->index]);
        address->fds[loop->index] = -1;
    }
    return 0;
}

static void drain(rondo_loop *loop)
{
    struct service *service = service_of(loop);
    service->draining = true;
    stop_stoppables(service);
    for (unsigned i = 0; i < service->listener_count; i++)
        listener_drain(&service->listeners[i]);
    for_each_transport(service, transport_drain);
}

static void abort_all(rondo_loop *loop)
{
    struct service *service = service_of(loop);
    service->aborting = true;
    if (loop->traffic.connections_open > 0) {
        rondo_log(RONDO_LOG_WARNING, "shard %u: aborted %llu connections that did not end by themselves",
                  loop->index, (unsigned long long)loop->traffic.connections_open);
    }
    for (unsigned i = 0; i < service->listener_count; i++)
        listener_abort(&service->listeners[i]);
    for_each_transport(service, transport_cancel);
}

static void stop(rondo_loop *loop)
{
    struct service *service = service_of(loop);
    assert(list_is_empty(&service->transports));
    if (service->settings->app->shard_stop != NULL)
        service->settings->app->shard_stop(loop);
    free_service(service);
}

const struct shard_hooks service_hooks = {
    .start = start,
    .drain = drain,
    .abort = abort_all,
    .stop = stop,
};
