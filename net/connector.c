/* A connector's life.
 *
 *   from                         event                                                     to
 *   IDLE, TELLING                rondo_create_connection, rondo_connector_connect          STARTING
 *   STARTING                     the loop's next turn: started_connecting; dial_begin      DIALING
 *   DIALING                      the dial brings a socket: transport_open                  CONNECTED
 *   DIALING                      the dial fails                                            TELLING
 *   STARTING, DIALING            rondo_connector_stop_connecting                           STOPPED
 *   STOPPED                      the loop's next turn                                      TELLING
 *   STARTING, DIALING, STOPPED   the server drains                                         TELLING
 *   CONNECTED                    the transport's connection_lost has returned              TELLING
 *   TELLING                      connection_failed or connection_lost returns              freed
 *
 * One that a client service keeps is IDLE instead of TELLING, and nothing is done to it behind the hook: its keeper
 * begins again, or frees it, when it likes.
 *
 * What is under way in the kernel, and in the resolver, belongs to the dial, which outlives the connector if need be.
 * The connector itself uses the loop except while it is IDLE. */
#include "net/connector.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/memory.h"

#define TIMEOUT_MS              30000 /* Twisted's */
#define HAPPY_EYEBALLS_DELAY_MS 250   /* RFC 8305's */

static void begin(rondo_call *call);
static void dialled(struct dial *dial, int result, int family, const char *why);
static void lost(struct transport_owner *owner, rondo_transport *t, int error);
static void say_stopped(rondo_call *call);
static void stop_for_drain(struct stoppable *stoppable);

/* ---- making and freeing ---------------------------------------------------------------------------------- */

static int parse_url(const char *text, struct url *url, const char *what)
{
    char why[URL_WHY_BYTES];
    int error = url_parse(text, url, why);
    if (error < 0)
        rondo_log(RONDO_LOG_ERROR, "can't connect %s %s: %s", what, text, why);
    return error;
}

__attribute__((format(printf, 2, 3))) static int refuse(const char *url, const char *format, ...)
{
    char what[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    rondo_log(RONDO_LOG_ERROR, "can't connect to %s: %s", url, what);
    return -EINVAL;
}

static int check_urls(const char *text, const struct dial_target *target)
{
    const struct url *url = &target->url;
    if (url->scheme == URL_FD)
        return refuse(text,
                      "fd:// is for who listens; a connected socket is for rondo_connect_accepted_socket");
    if (url_is_of_datagrams(url))
        return refuse(text, "datagrams need no connection: see rondo_create_datagram_endpoint");
    if (url->scheme == URL_TCP && url->port == 0)
        return refuse(text, "port 0 is no place to connect to");
    if (url->scheme == URL_UNIX && url->mode != URL_NO_MODE)
        return refuse(text, "the mode of a socket file is for who listens");
    if (target->has_local && (url->scheme != URL_TCP || target->local.scheme != URL_TCP))
        return refuse(text, "a local_url is tcp://host:port, and for tcp only");
    return 0;
}

static int check(const rondo_client_options *options, struct dial_target *target)
{
    const rondo_protocol *protocol = options->protocol;
    if (options->url == NULL || protocol == NULL) {
        rondo_log(RONDO_LOG_ERROR, "can't connect: the options need a url and a protocol");
        return -EINVAL;
    }
    if ((protocol->get_buffer != NULL) != (protocol->buffer_updated != NULL))
        return refuse(options->url, "get_buffer and buffer_updated go together");
    target->has_local = options->local_url != NULL;
    int error = parse_url(options->url, &target->url, "to");
    if (error == 0 && target->has_local)
        error = parse_url(options->local_url, &target->local, "from");
    return error < 0 ? error : check_urls(options->url, target);
}

static char *copy_text(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = memory_alloc(size);
    return copy == NULL ? NULL : memcpy(copy, text, size);
}

static uint64_t or_default(uint64_t value, uint64_t otherwise)
{
    return value > 0 ? value : otherwise;
}

int connector_new(rondo_loop *loop, const rondo_client_options *options, struct rondo_client_service *keeper,
                  rondo_connector **connector)
{
    struct dial_target target = { 0 };
    int error = check(options, &target);
    if (error < 0)
        return error;
    rondo_connector *c = memory_new(sizeof *c);
    char *url = copy_text(options->url);
    if (c == NULL || url == NULL) {
        memory_free(c);
        memory_free(url);
        return -ENOMEM;
    }
    c->loop = loop;
    c->service = service_of(loop);
    c->keeper = keeper;
    c->options = *options;
    c->options.url = url;
    c->options.local_url = NULL; /* parsed */
    c->target = target;
    c->target.text = url;
    c->target.timeout_ms = or_default(options->timeout_ms, TIMEOUT_MS);
    c->target.happy_eyeballs_delay_ms = or_default(options->happy_eyeballs_delay_ms, HAPPY_EYEBALLS_DELAY_MS);
    c->owner.lost = lost;
    c->stoppable.stop = stop_for_drain;
    *connector = c;
    return 0;
}

static void leave_stoppables(rondo_connector *c)
{
    if (list_contains_link(&c->stoppable.in_service))
        list_remove(&c->stoppable.in_service);
}

/* Stop whatever is in progress, without a word. */
static void withdraw(rondo_connector *c)
{
    rondo_call_cancel(&c->call);
    if (c->dial != NULL)
        dial_cancel(c->dial);
    c->dial = NULL;
}

static void move_to_idle(rondo_connector *c)
{
    assert(c->state != CONNECTOR_IDLE);
    c->state = CONNECTOR_IDLE;
    c->loop->users--;
}

void connector_free(rondo_connector *c)
{
    assert(c->state == CONNECTOR_IDLE && c->t == NULL && c->dial == NULL);
    memory_free((char *)c->options.url);
    memory_free(c);
}

/* ---- telling --------------------------------------------------------------------------------------------- */

/* Before a hook: it may begin again. */
static void start_telling(rondo_connector *c)
{
    if (c->keeper != NULL)
        move_to_idle(c);
    else
        c->state = CONNECTOR_TELLING;
}

/* Behind it. A kept one may be gone. */
static void end_telling(rondo_connector *c, bool is_kept)
{
    if (is_kept || c->state != CONNECTOR_TELLING)
        return;
    move_to_idle(c);
    connector_free(c);
}

static void tell_failed(rondo_connector *c, int error, const char *why)
{
    bool is_kept = c->keeper != NULL;
    leave_stoppables(c);
    start_telling(c);
    if (c->options.connection_failed != NULL)
        c->options.connection_failed(c, error, why);
    else
        rondo_log(error == -ECANCELED ? RONDO_LOG_DEBUG : RONDO_LOG_WARNING, "%s", why);
    end_telling(c, is_kept);
}

static void tell_stopped(rondo_connector *c, const char *by_whom)
{
    char why[DIAL_WHY_BYTES];
    snprintf(why, sizeof why, "can't connect to %s: %s", c->options.url, by_whom);
    tell_failed(c, -ECANCELED, why);
}

static void tell_no_memory(rondo_connector *c)
{
    char why[DIAL_WHY_BYTES];
    snprintf(why, sizeof why, "can't connect to %s: no memory", c->options.url);
    tell_failed(c, -ENOMEM, why);
}

/* ---- connecting ------------------------------------------------------------------------------------------ */

void connector_start(rondo_connector *c)
{
    assert(c->state == CONNECTOR_IDLE || c->state == CONNECTOR_TELLING);
    if (c->state == CONNECTOR_IDLE)
        c->loop->users++;
    c->state = CONNECTOR_STARTING;
    c->dial = dial_new(c->loop, &c->target);
    if (c->keeper == NULL)
        list_push(&c->service->stoppables, &c->stoppable.in_service);
    rondo_call_soon(c->loop, &c->call, begin);
}

static void begin(rondo_call *call)
{
    rondo_connector *c = rondo_container_of(call, rondo_connector, call);
    if (c->dial == NULL) {
        tell_no_memory(c);
        return;
    }
    c->state = CONNECTOR_DIALING;
    if (c->options.started_connecting != NULL)
        c->options.started_connecting(c);
    if (c->state != CONNECTOR_DIALING)
        return; /* the hook has stopped it */
    c->dial->done = dialled;
    c->dial->owner = c;
    dial_begin(c->dial); /* last: it may fail at once */
}

static void dialled(struct dial *dial, int result, int family, const char *why)
{
    rondo_connector *c = dial->owner;
    c->dial = NULL;
    if (result < 0) {
        tell_failed(c, result, why);
        return;
    }
    leave_stoppables(c);
    c->state = CONNECTOR_CONNECTED;
    c->t = transport_open(c->service, &(struct transport_start){
                                          .owner = &c->owner,
                                          .protocol = c->options.protocol,
                                          .fd = result,
                                          .family = family,
                                          .later = true,
                                      });
    if (c->t == NULL)
        tell_no_memory(c);
    else if (c->connected != NULL)
        c->connected(c);
}

static void lost(struct transport_owner *owner, rondo_transport *t, int error)
{
    rondo_connector *c = rondo_container_of(owner, rondo_connector, owner);
    bool is_kept = c->keeper != NULL;
    (void)t;
    c->t = NULL;
    start_telling(c);
    if (c->options.connection_lost != NULL)
        c->options.connection_lost(c, error);
    end_telling(c, is_kept);
}

static void say_stopped(rondo_call *call)
{
    tell_stopped(rondo_container_of(call, rondo_connector, call), "stopped");
}

void connector_stop_now(rondo_connector *c, const char *reason)
{
    if (c->state != CONNECTOR_STARTING && c->state != CONNECTOR_DIALING && c->state != CONNECTOR_STOPPED)
        return;
    withdraw(c);
    tell_stopped(c, reason);
}

static void stop_for_drain(struct stoppable *stoppable)
{
    connector_stop_now(rondo_container_of(stoppable, rondo_connector, stoppable), "the server drains");
}

/* ---- public calls ---------------------------------------------------------------------------------------- */

int rondo_create_connection(rondo_loop *loop, const rondo_client_options *options,
                            rondo_connector **connector)
{
    assert(loop_is_here(loop));
    const struct service *service = service_of(loop);
    rondo_connector *c;
    if (service == NULL || service->draining)
        return -ESHUTDOWN;
    int error = connector_new(loop, options, NULL, &c);
    if (error < 0)
        return error;
    connector_start(c);
    if (connector != NULL)
        *connector = c;
    return 0;
}

void rondo_connector_connect(rondo_connector *c)
{
    assert(loop_is_here(c->loop));
    assert(c->keeper != NULL || c->state == CONNECTOR_TELLING);
    if (c->state == CONNECTOR_TELLING && !c->service->draining)
        connector_start(c);
}

void rondo_connector_stop_connecting(rondo_connector *c)
{
    assert(loop_is_here(c->loop));
    if (c->state != CONNECTOR_STARTING && c->state != CONNECTOR_DIALING)
        return;
    withdraw(c);
    c->state = CONNECTOR_STOPPED;
    rondo_call_soon(c->loop, &c->call, say_stopped);
}

void rondo_connector_disconnect(rondo_connector *c)
{
    if (c->state == CONNECTOR_CONNECTED)
        rondo_close(c->t);
    else
        rondo_connector_stop_connecting(c);
}

rondo_transport *rondo_connector_transport(const rondo_connector *c)
{
    return c->t;
}

void *rondo_connector_context(const rondo_connector *c)
{
    return c->options.context;
}

const char *rondo_connector_url(const rondo_connector *c)
{
    return c->options.url;
}

rondo_loop *rondo_connector_get_loop(const rondo_connector *c)
{
    return c->loop;
}

rondo_connector *rondo_get_connector(const rondo_transport *t)
{
    if (t->owner == NULL || t->owner->is_server || t->kind != STREAM)
        return NULL;
    return rondo_container_of(t->owner, rondo_connector, owner);
}
