/* A client service's life. It knows the connector only, not how connections are made.
 *
 *   from                    event                                                       to
 *   -                       rondo_start_client_service                                  CONNECTING
 *   CONNECTING              there is a transport                                        MADE
 *   CONNECTING              connection_failed: a failure                                WAITING
 *   MADE                    connection_made has returned, and so has
 *                           prepare_connection: waiters are answered                    CONNECTED
 *   MADE                    the connection is closing already, or is refused            CLOSING
 *   MADE, CLOSING           connection_lost: a failure                                  WAITING
 *   CONNECTED               connection_lost                                             WAITING
 *   WAITING                 the delay is over                                           CONNECTING
 *   any of these            rondo_stop_client_service; the server drains                STOPPING
 *   STOPPING                no connection, no attempt: waiters and those who wait for
 *                           the end are told                                            STOPPED
 *   STOPPED                 `stopped` returns                                           freed
 *
 * Law: nobody is told anything from inside a public call. */
#include "net/client_service.h"

#include <errno.h>
#include <string.h>

#include "core/memory.h"
#include "net/connector.h"

#define INITIAL_DELAY_MS 1000 /* Twisted's, all of these */
#define DELAY_FACTOR     1.5
#define MAX_DELAY_MS     60000
#define JITTER_MS        1000
#define GROWTHS_MAX      100 /* of a delay; and Twisted's */

static void connected(rondo_connector *connector);
static void prepare(rondo_call *call);
static void answer(rondo_call *call);
static void end(rondo_client_service *service);
static void end_soon(rondo_call *call);
static void stop_for_drain(struct stoppable *stoppable);

/* ---- delays ---------------------------------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t draw(uint64_t *random)
{
    uint64_t mixed = *random += UINT64_C(0x9e3779b97f4a7c15);
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ (mixed >> 31);
}

uint64_t client_service_delay_ms(rondo_client_service *service)
{
    const rondo_client_service_options *options = &service->options;
    double delay_ms = (double)options->initial_delay_ms;
    for (unsigned i = 1; i < service->failures && i <= GROWTHS_MAX; i++)
        delay_ms *= options->delay_factor;
    uint64_t whole_ms = delay_ms < (double)options->max_delay_ms ? (uint64_t)delay_ms : options->max_delay_ms;
    if (options->jitter_ms == RONDO_NO_JITTER)
        return whole_ms;
    return whole_ms + draw(&service->random) % (options->jitter_ms + 1);
}

static void delay_is_over(rondo_timer *timer)
{
    rondo_client_service *service = rondo_container_of(timer, rondo_client_service, timer);
    service->state = CLIENT_CONNECTING;
    connector_start(service->connector);
}

static void wait(rondo_client_service *service)
{
    uint64_t delay_ms = client_service_delay_ms(service);
    service->state = CLIENT_WAITING;
    rondo_log(RONDO_LOG_DEBUG, "%s: connecting again in %llu ms, after %u failures",
              rondo_connector_url(service->connector), (unsigned long long)delay_ms, service->failures);
    rondo_call_later(service->loop, &service->timer, delay_ms, delay_is_over);
}

/* ---- waiters --------------------------------------------------------------------------------------------- */

static rondo_client_waiter *pop_waiter(struct rondo_link *list)
{
    struct rondo_link *link = list_pop(list);
    return link == NULL ? NULL : rondo_container_of(link, rondo_client_waiter, _link);
}

static void answer_waiters(struct rondo_link *list, int error)
{
    for (rondo_client_waiter *waiter; (waiter = pop_waiter(list)) != NULL;)
        waiter->_answered(waiter, NULL, error);
}

/* Those whose patience ends with this failure. */
static void answer_impatient(rondo_client_service *service, int error)
{
    struct rondo_link impatient;
    list_init(&impatient);
    for (struct rondo_link *link = service->waiters.next, *next; link != &service->waiters; link = next) {
        rondo_client_waiter *waiter = rondo_container_of(link, rondo_client_waiter, _link);
        next = link->next;
        if (waiter->_failures_left > 0 && --waiter->_failures_left == 0) {
            list_remove(link);
            list_push(&impatient, link);
        }
    }
    answer_waiters(&impatient, error);
}

/* Whoever is answered may close the connection, or stop the service: then the others wait on. */
static void answer_with_connection(rondo_client_service *service)
{
    rondo_client_waiter *waiter;
    rondo_transport *t;
    while ((t = rondo_client_service_transport(service)) != NULL &&
           (waiter = pop_waiter(&service->waiters)) != NULL)
        waiter->_answered(waiter, t, 0);
}

static void answer(rondo_call *call)
{
    answer_with_connection(rondo_container_of(call, rondo_client_service, answer));
}

/* ---- a connection's life --------------------------------------------------------------------------------- */

static rondo_client_service *keeper_of(rondo_connector *connector)
{
    return connector->keeper;
}

static void started_connecting(rondo_connector *connector)
{
    const rondo_client_options *client = &keeper_of(connector)->options.client;
    if (client->started_connecting != NULL)
        client->started_connecting(connector);
}

/* The flush calls are made in order: the transport's own was there first, and has called connection_made. */
static void connected(rondo_connector *connector)
{
    rondo_client_service *service = keeper_of(connector);
    service->state = CLIENT_MADE;
    loop_flush(service->loop, &service->prepare, prepare);
}

static void prepare(rondo_call *call)
{
    rondo_client_service *service = rondo_container_of(call, rondo_client_service, prepare);
    rondo_transport *t = rondo_connector_transport(service->connector);
    if (service->state != CLIENT_MADE)
        return; /* stopped meanwhile */
    int rc = 0;
    if (!rondo_is_closing(t) && service->options.prepare_connection != NULL)
        rc = service->options.prepare_connection(service, t);
    if (service->state != CLIENT_MADE)
        return;
    if (rc < 0 || rondo_is_closing(t)) {
        service->state = CLIENT_CLOSING;
        service->refusal = rc;
        rondo_close(t);
        return;
    }
    service->state = CLIENT_CONNECTED;
    service->failures = 0;
    answer_with_connection(service);
}

/* Behind the user's hook: the service may have been stopped in it, and is ended here. */
static void begin_again(rondo_client_service *service, int failure)
{
    if (service->state == CLIENT_STOPPING) {
        end(service);
        return;
    }
    service->failures++;
    wait(service);
    if (failure < 0)
        answer_impatient(service, failure);
}

static void connection_failed(rondo_connector *connector, int error, const char *why)
{
    rondo_client_service *service = keeper_of(connector);
    const rondo_client_options *client = &service->options.client;
    if (client->connection_failed != NULL)
        client->connection_failed(connector, error, why);
    else if (error != -ECANCELED)
        rondo_log(RONDO_LOG_WARNING, "%s", why);
    begin_again(service, error);
}

static void connection_lost(rondo_connector *connector, int error)
{
    rondo_client_service *service = keeper_of(connector);
    const rondo_client_options *client = &service->options.client;
    int failure = 0;
    if (service->state == CLIENT_MADE || service->state == CLIENT_CLOSING)
        failure = service->refusal < 0 ? service->refusal : error < 0 ? error : -ECONNABORTED;
    service->refusal = 0;
    rondo_call_cancel(&service->prepare);
    if (client->connection_lost != NULL)
        client->connection_lost(connector, error);
    begin_again(service, failure);
}

/* ---- the end --------------------------------------------------------------------------------------------- */

static void end(rondo_client_service *service)
{
    assert(service->state == CLIENT_STOPPING);
    service->state = CLIENT_STOPPED;
    answer_waiters(&service->waiters, -ECANCELED);
    for (struct rondo_link *link; (link = list_pop(&service->stop_calls)) != NULL;) {
        rondo_call *call = rondo_container_of(link, rondo_call, _link);
        call->_run(call);
    }
    if (service->options.stopped != NULL)
        service->options.stopped(service);
    assert(list_is_empty(&service->stop_calls) && !rondo_timer_is_running(&service->timer));
    rondo_call_cancel(&service->answer);
    if (list_contains_link(&service->stoppable.in_service))
        list_remove(&service->stoppable.in_service);
    connector_free(service->connector);
    service->loop->users--;
    memory_free(service);
}

static void end_soon(rondo_call *call)
{
    end(rondo_container_of(call, rondo_client_service, end));
}

/* Returns the state before. */
static enum client_service_state move_to_stopping(rondo_client_service *service)
{
    assert(service->state != CLIENT_STOPPED);
    enum client_service_state before = service->state;
    service->state = CLIENT_STOPPING;
    rondo_timer_cancel(&service->timer);
    return before;
}

/* The transports are drained by the service that we are stopped by. */
static void stop_for_drain(struct stoppable *stoppable)
{
    rondo_client_service *service = rondo_container_of(stoppable, rondo_client_service, stoppable);
    bool is_connected = rondo_connector_transport(service->connector) != NULL;
    enum client_service_state before = move_to_stopping(service);
    rondo_call_cancel(&service->end);
    if (is_connected)
        return; /* connection_lost ends it */
    if (before == CLIENT_CONNECTING ||
        (before == CLIENT_STOPPING && service->connector->state != CONNECTOR_IDLE))
        connector_stop_now(service->connector, "the server drains"); /* connection_failed ends it */
    else
        end(service);
}

/* ---- public calls ---------------------------------------------------------------------------------------- */

static void set_defaults(rondo_client_service_options *options)
{
    if (options->initial_delay_ms == 0)
        options->initial_delay_ms = INITIAL_DELAY_MS;
    if (options->delay_factor == 0)
        options->delay_factor = DELAY_FACTOR;
    if (options->max_delay_ms == 0)
        options->max_delay_ms = MAX_DELAY_MS;
    if (options->jitter_ms == 0)
        options->jitter_ms = JITTER_MS;
}

static int check(const rondo_client_service_options *options)
{
    if (options->delay_factor >= 1)
        return 0;
    rondo_log(RONDO_LOG_ERROR, "can't connect to %s: a delay_factor of %g makes no delay longer: 1 or more",
              options->client.url, options->delay_factor);
    return -EINVAL;
}

static int make_connector(rondo_client_service *service)
{
    rondo_client_options client = service->options.client;
    client.started_connecting = started_connecting;
    client.connection_failed = connection_failed;
    client.connection_lost = connection_lost;
    int error = connector_new(service->loop, &client, service, &service->connector);
    if (error < 0)
        return error;
    service->connector->connected = connected;
    service->options.client.url = rondo_connector_url(service->connector);
    service->options.client.local_url = NULL;
    return 0;
}

int rondo_start_client_service(rondo_loop *loop, const rondo_client_service_options *options,
                               rondo_client_service **started)
{
    assert(loop_is_here(loop));
    struct service *shard = service_of(loop);
    if (shard == NULL || shard->draining)
        return -ESHUTDOWN;
    rondo_client_service *service = memory_new(sizeof *service);
    if (service == NULL)
        return -ENOMEM;
    service->loop = loop;
    service->options = *options;
    set_defaults(&service->options);
    int error = make_connector(service);
    if (error == 0 && (error = check(&service->options)) < 0)
        connector_free(service->connector);
    if (error < 0) {
        memory_free(service);
        return error;
    }
    service->random = options->seed != 0 ? options->seed : engine_now_ns(loop->engine) ^ (uintptr_t)service;
    list_init(&service->waiters);
    list_init(&service->stop_calls);
    service->stoppable.stop = stop_for_drain;
    list_push(&shard->stoppables, &service->stoppable.in_service);
    loop->users++;
    service->state = CLIENT_CONNECTING;
    connector_start(service->connector);
    *started = service;
    return 0;
}

void rondo_stop_client_service(rondo_client_service *service, rondo_call *call, void (*run)(rondo_call *call))
{
    assert(loop_is_here(service->loop));
    if (call != NULL) {
        call->_run = run;
        list_push(&service->stop_calls, &call->_link);
    }
    if (service->state == CLIENT_STOPPED)
        return; /* in one of its last calls */
    enum client_service_state before = move_to_stopping(service);
    rondo_transport *t = rondo_connector_transport(service->connector);
    if (t != NULL)
        rondo_close(t); /* connection_lost ends it */
    else if (before == CLIENT_CONNECTING)
        rondo_connector_stop_connecting(service->connector); /* connection_failed ends it */
    else if (before == CLIENT_WAITING)
        rondo_call_soon(service->loop, &service->end, end_soon);
}

void rondo_client_service_when_connected(rondo_client_service *service, rondo_client_waiter *waiter,
                                         unsigned fail_after_failures,
                                         void (*answered)(rondo_client_waiter *waiter, rondo_transport *t,
                                                          int error))
{
    assert(loop_is_here(service->loop) && service->state != CLIENT_STOPPED);
    if (service->state == CLIENT_STOPPED)
        return;
    waiter->_failures_left = fail_after_failures;
    waiter->_answered = answered;
    list_push(&service->waiters, &waiter->_link);
    if (service->state == CLIENT_CONNECTED && !list_contains_link(&service->answer._link))
        rondo_call_soon(service->loop, &service->answer, answer);
}

void rondo_client_service_cancel_waiter(rondo_client_waiter *waiter)
{
    if (list_contains_link(&waiter->_link))
        list_remove(&waiter->_link);
}

rondo_transport *rondo_client_service_transport(const rondo_client_service *service)
{
    rondo_transport *t = rondo_connector_transport(service->connector);
    return service->state == CLIENT_CONNECTED && t != NULL && !rondo_is_closing(t) ? t : NULL;
}

void *rondo_client_service_context(const rondo_client_service *service)
{
    return service->options.client.context;
}

unsigned rondo_client_service_failures(const rondo_client_service *service)
{
    return service->failures;
}
