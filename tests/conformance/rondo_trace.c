/* Run scenarios on rondo, and print what happened as lines of JSON.
 *
 *   rondo-trace [--scenarios DIR] [FILE…]
 *
 * The main thread becomes the control thread of a server with one shard; a second thread conducts: it takes the steps of
 * the scenario in order, plays the peers with plain blocking sockets, and posts calls to the shard. asyncio_trace.py does
 * the same on asyncio. Only rondo's public calls are used. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <rondo/rondo.h>

#include "records.h"
#include "scenario.h"

#define PATIENCE_S 10

enum event {
    CONNECTION_MADE,
    DATA_RECEIVED,
    EOF_RECEIVED,
    PAUSE_WRITING,
    RESUME_WRITING,
    CONNECTION_LOST,
    SENDFILE_DONE,
    CONNECTION_FAILED,
    EVENT_COUNT
};

static const char *const event_names[EVENT_COUNT] = { "connection_made", "data_received",
                                                      "eof_received",    "pause_writing",
                                                      "resume_writing",  "connection_lost",
                                                      "sendfile_done",   "connection_failed" };

struct connection {
    unsigned number;
    rondo_transport *t;  /* the shard's; NULL before connection_made and after connection_lost */
    rondo_bytes current; /* what the callback under way was given */

    /* Guarded by the mutex. */
    size_t received;
    unsigned counts[EVENT_COUNT];
};

/* The state of a connection: rondo_self(t). */
struct behaviour {
    struct connection *connection;
    const struct protocol_spec *spec;
    _Alignas(max_align_t) char memory[];
};

/* The scenario that is run. */
static struct {
    const struct scenario *scenario;
    rondo_protocol *protocols; /* as scenario->protocols */
    struct connection connections[CONNECTIONS_MAX];
    unsigned connection_count; /* written by the shard, with the mutex */
    rondo_loop *loop;
    rondo_server *server; /* NULL once it is gone */
    bool server_closed, server_ended;
    rondo_call server_end;
    int peers[CONNECTIONS_MAX], listener;
    struct sockaddr_storage address;
    socklen_t address_size;
    char folder[64], path[96], url[128];
    pthread_t conductor;
    unsigned line; /* of the step under way */
    bool failed;   /* waited in vain */
} run;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;

static void tell_changed(void)
{
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

/* ---- callbacks: on the shard ------------------------------------------------------------------------------- */

static void perform(struct connection *c, const struct action *action);
static void perform_on_server(const char *call);

static bool is_recorded(const struct protocol_spec *spec, enum event event)
{
    for (unsigned i = 0; i < WITHOUT_COUNT; i++) {
        if ((spec->without & 1u << i) != 0 && strcmp(scenario_optional[i], event_names[event]) == 0)
            return false;
    }
    return true;
}

static void record_event(const struct connection *c, const struct protocol_spec *spec, enum event event,
                         const char *rest)
{
    char of[96] = "";
    if (strcmp(spec->name, "main") != 0)
        snprintf(of, sizeof of, ", \"protocol\": \"%.60s\"", spec->name);
    record(ON_TRANSPORT, c->number, "event", event_names[event], "%s%s", rest, of);
}

static bool perform_all(struct connection *c, const struct handler *handler, bool returned)
{
    for (unsigned i = 0; i < handler->action_count; i++) {
        const struct action *action = &handler->actions[i];
        if (strcmp(action->call, "return") == 0)
            returned = action->truth;
        else if (strncmp(action->call, "server ", 7) == 0)
            perform_on_server(action->call + 7);
        else
            perform(c, action);
    }
    return returned;
}

static bool callback(rondo_transport *t, enum event event, rondo_bytes data, const char *rest)
{
    struct behaviour *self = rondo_self(t);
    struct connection *c = self->connection;
    const struct protocol_spec *spec = self->spec;
    bool returned = false;
    if (event == DATA_RECEIVED && is_recorded(spec, event))
        record_data(ON_TRANSPORT, c->number, "data_received",
                    strcmp(spec->name, "main") == 0 ? NULL : spec->name, data);
    else if (is_recorded(spec, event))
        record_event(c, spec, event, rest);
    c->current = data;
    size_t before = c->received, after = before + data.size;
    for (unsigned i = 0; i < spec->handler_count; i++) {
        const struct handler *handler = &spec->handlers[i];
        if (strcmp(handler->event, event_names[event]) == 0 ||
            (handler->received > before && handler->received <= after))
            returned = perform_all(c, handler, returned);
    }
    pthread_mutex_lock(&mutex);
    c->received = after;
    c->counts[event]++;
    if (event == CONNECTION_LOST)
        c->t = NULL;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    return returned;
}

static const struct protocol_spec *spec_of(const rondo_protocol *protocol)
{
    return &run.scenario->protocols[protocol - run.protocols];
}

static void begin(rondo_transport *t, struct connection *c)
{
    struct behaviour *self = rondo_self(t);
    self->connection = c;
    self->spec = spec_of(rondo_get_protocol(t));
}

static struct connection *new_connection(void)
{
    struct connection *c = NULL;
    pthread_mutex_lock(&mutex);
    if (run.connection_count < CONNECTIONS_MAX) {
        c = &run.connections[run.connection_count++];
        c->number = run.connection_count;
    }
    pthread_mutex_unlock(&mutex);
    return c;
}

static void connection_made(rondo_transport *t)
{
    rondo_connector *connector = rondo_get_connector(t);
    struct connection *c = connector != NULL ? rondo_connector_context(connector) : new_connection();
    if (c == NULL) {
        rondo_abort(t);
        return;
    }
    begin(t, c);
    int fd;
    if (run.scenario->buffers > 0 && rondo_get_extra_info(t, "socket", &fd, sizeof fd) == 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &run.scenario->buffers, sizeof run.scenario->buffers);
    c->t = t;
    callback(t, CONNECTION_MADE, (rondo_bytes){ 0 }, "");
}

static void data_received(rondo_transport *t, rondo_bytes data)
{
    callback(t, DATA_RECEIVED, data, "");
}

static rondo_buffer get_buffer(rondo_transport *t, size_t size_hint)
{
    struct behaviour *self = rondo_self(t);
    (void)size_hint;
    return (rondo_buffer){ self->memory, self->spec->buffer_size };
}

static void buffer_updated(rondo_transport *t, size_t nbytes)
{
    struct behaviour *self = rondo_self(t);
    callback(t, DATA_RECEIVED, (rondo_bytes){ self->memory, nbytes }, "");
}

static bool eof_received(rondo_transport *t)
{
    return callback(t, EOF_RECEIVED, (rondo_bytes){ 0 }, "");
}

static void pause_writing(rondo_transport *t)
{
    callback(t, PAUSE_WRITING, (rondo_bytes){ 0 }, "");
}

static void resume_writing(rondo_transport *t)
{
    callback(t, RESUME_WRITING, (rondo_bytes){ 0 }, "");
}

static const char *error_field(char text[64], int error)
{
    if (error == 0)
        return ", \"error\": null";
    snprintf(text, 64, ", \"error\": \"%s\"", strerrorname_np(-error));
    return text;
}

static void connection_lost(rondo_transport *t, int error)
{
    char text[64];
    struct behaviour *self = rondo_self(t);
    if (self->connection != NULL) /* not one too many */
        callback(t, CONNECTION_LOST, (rondo_bytes){ 0 }, error_field(text, error));
}

static void connection_failed(rondo_connector *connector, int error, const char *why)
{
    char text[64];
    struct connection *c = rondo_connector_context(connector);
    (void)why;
    record(ON_TRANSPORT, c->number, "event", "connection_failed", "%s", error_field(text, error));
    pthread_mutex_lock(&mutex);
    c->counts[CONNECTION_FAILED]++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static rondo_protocol table_of(const struct protocol_spec *spec)
{
    rondo_protocol protocol = {
        .name = spec->name,
        .size = sizeof(struct behaviour) + spec->buffer_size,
        .connection_made = connection_made,
        .connection_lost = connection_lost,
    };
    if (spec->is_buffered) {
        protocol.get_buffer = get_buffer;
        protocol.buffer_updated = buffer_updated;
    } else if (!(spec->without & 1u << WITHOUT_DATA_RECEIVED)) {
        protocol.data_received = data_received;
    }
    if (!(spec->without & 1u << WITHOUT_EOF_RECEIVED))
        protocol.eof_received = eof_received;
    if (!(spec->without & 1u << WITHOUT_PAUSE_WRITING))
        protocol.pause_writing = pause_writing;
    if (!(spec->without & 1u << WITHOUT_RESUME_WRITING))
        protocol.resume_writing = resume_writing;
    return protocol;
}

/* ---- calls: on the shard ----------------------------------------------------------------------------------- */

static void call_write(struct connection *c, const struct action *action)
{
    rondo_write(c->t, action->data[0]);
}

static void call_writelines(struct connection *c, const struct action *action)
{
    rondo_writelines(c->t, action->data, action->data_count);
}

static void call_echo(struct connection *c, const struct action *action)
{
    (void)action;
    rondo_write(c->t, c->current);
}

static void raised_if(const struct connection *c, const struct action *action, int rc)
{
    if (rc < 0)
        record(ON_TRANSPORT, c->number, "call", action->call, ", \"raised\": true");
}

static void call_set_limits(struct connection *c, const struct action *action)
{
    raised_if(c, action,
              rondo_set_write_buffer_limits(c->t, action->has_high ? action->high : RONDO_LIMIT_DEFAULT,
                                            action->has_low ? action->low : RONDO_LIMIT_DEFAULT));
}

static void call_get_limits(struct connection *c, const struct action *action)
{
    size_t low, high;
    rondo_get_write_buffer_limits(c->t, &low, &high);
    record(ON_TRANSPORT, c->number, "call", action->call, ", \"result\": {\"low\": %zu, \"high\": %zu}", low,
           high);
}

static void call_get_size(struct connection *c, const struct action *action)
{
    record(ON_TRANSPORT, c->number, "call", action->call, ", \"result\": %zu",
           rondo_get_write_buffer_size(c->t));
}

static const char *show_name(const struct sockaddr_storage *name, char text[80])
{
    char host[INET6_ADDRSTRLEN] = "";
    if (name->ss_family == AF_UNIX)
        return "unix";
    bool is_v6 = name->ss_family == AF_INET6;
    const void *address = is_v6 ? (const void *)&((const struct sockaddr_in6 *)name)->sin6_addr
                                : (const void *)&((const struct sockaddr_in *)name)->sin_addr;
    inet_ntop(name->ss_family, address, host, sizeof host);
    snprintf(text, 80, "%s %s", is_v6 ? "inet6" : "inet", host);
    return text;
}

static void call_get_extra_info(struct connection *c, const struct action *action)
{
    struct sockaddr_storage value;
    char text[80];
    const char *shown = "none";
    if (rondo_get_extra_info(c->t, action->name, &value, sizeof value) == 0)
        shown = strcmp(action->name, "socket") == 0 ? "socket" : show_name(&value, text);
    record(ON_TRANSPORT, c->number, "call", action->call, ", \"result\": \"%s\"", shown);
}

static void call_set_protocol(struct connection *c, const struct action *action)
{
    const struct protocol_spec *spec = scenario_protocol(run.scenario, action->name);
    int rc = rondo_set_protocol(c->t, &run.protocols[spec - run.scenario->protocols]);
    raised_if(c, action, rc);
    if (rc == 0)
        begin(c->t, c);
}

static void call_get_protocol(struct connection *c, const struct action *action)
{
    record(ON_TRANSPORT, c->number, "call", action->call, ", \"result\": \"%.80s\"",
           rondo_get_protocol(c->t)->name);
}

static void file_sent(rondo_transport *t, int64_t nbytes)
{
    char rest[64];
    snprintf(rest, sizeof rest, ", \"result\": %lld", (long long)nbytes);
    callback(t, SENDFILE_DONE, (rondo_bytes){ 0 }, rest);
}

static void call_sendfile(struct connection *c, const struct action *action)
{
    int fd = memfd_create("scenario", MFD_CLOEXEC);
    size_t written = 0;
    while (fd >= 0 && written < action->data[0].size) {
        ssize_t n = write(fd, action->data[0].data + written, action->data[0].size - written);
        if (n <= 0)
            abort();
        written += (size_t)n;
    }
    uint64_t offset = action->has_offset ? action->offset : 0;
    uint64_t count = action->has_count ? action->count : RONDO_TO_THE_END;
    raised_if(c, action, rondo_sendfile(c->t, fd, offset, count, file_sent));
    close(fd);
}

static void record_truth(const struct connection *c, const struct action *action, bool truth)
{
    record(ON_TRANSPORT, c->number, "call", action->call, ", \"result\": %s", truth ? "true" : "false");
}

static void call_is_closing(struct connection *c, const struct action *action)
{
    record_truth(c, action, rondo_is_closing(c->t));
}

static void call_is_reading(struct connection *c, const struct action *action)
{
    record_truth(c, action, rondo_is_reading(c->t));
}

static void call_can_write_eof(struct connection *c, const struct action *action)
{
    record_truth(c, action, rondo_can_write_eof(c->t));
}

static const struct {
    const char *name;
    void (*call)(struct connection *c, const struct action *action);
    void (*plain)(rondo_transport *t);
} calls[] = {
    { "write", call_write, NULL },
    { "writelines", call_writelines, NULL },
    { "echo", call_echo, NULL },
    { "write_eof", NULL, rondo_write_eof },
    { "can_write_eof", call_can_write_eof, NULL },
    { "close", NULL, rondo_close },
    { "abort", NULL, rondo_abort },
    { "is_closing", call_is_closing, NULL },
    { "pause_reading", NULL, rondo_pause_reading },
    { "resume_reading", NULL, rondo_resume_reading },
    { "is_reading", call_is_reading, NULL },
    { "set_write_buffer_limits", call_set_limits, NULL },
    { "get_write_buffer_limits", call_get_limits, NULL },
    { "get_write_buffer_size", call_get_size, NULL },
    { "get_extra_info", call_get_extra_info, NULL },
    { "set_protocol", call_set_protocol, NULL },
    { "get_protocol", call_get_protocol, NULL },
    { "sendfile", call_sendfile, NULL },
};

static void perform(struct connection *c, const struct action *action)
{
    if (c->t == NULL) {
        record(ON_TRANSPORT, c->number, "call", action->call, ", \"gone\": true");
        return;
    }
    bool writes = strncmp(action->call, "write", 5) == 0 || strcmp(action->call, "echo") == 0;
    if (writes && strcmp(action->call, "write_eof") != 0 && rondo_is_closing(c->t))
        record(ON_TRANSPORT, c->number, "call", action->call, ", \"closing\": true");
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        if (strcmp(calls[i].name, action->call) != 0)
            continue;
        if (calls[i].call != NULL)
            calls[i].call(c, action);
        else
            calls[i].plain(c->t);
    }
}

/* ---- the server: on the shard ------------------------------------------------------------------------------ */

static void server_ended(rondo_call *call)
{
    (void)call;
    run.server = NULL;
    pthread_mutex_lock(&mutex);
    run.server_ended = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static void perform_on_server(const char *call)
{
    if (strcmp(call, "close") == 0) {
        pthread_mutex_lock(&mutex);
        run.server_closed = true;
        pthread_mutex_unlock(&mutex);
    }
    if (run.server == NULL) { /* closed, and without clients: what asyncio's object would say */
        if (strcmp(call, "is_serving") == 0)
            record(ON_SERVER, 0, "call", call, ", \"result\": false");
        else if (strcmp(call, "sockets") == 0)
            record(ON_SERVER, 0, "call", call, ", \"result\": 0");
        else if (strcmp(call, "start_serving") == 0)
            record(ON_SERVER, 0, "call", call, ", \"raised\": true");
    } else if (strcmp(call, "is_serving") == 0) {
        record(ON_SERVER, 0, "call", call, ", \"result\": %s",
               rondo_server_is_serving(run.server) ? "true" : "false");
    } else if (strcmp(call, "sockets") == 0) {
        record(ON_SERVER, 0, "call", call, ", \"result\": %u", rondo_server_sockets(run.server, NULL, 0));
    } else if (strcmp(call, "start_serving") == 0) {
        if (rondo_server_start_serving(run.server) < 0)
            record(ON_SERVER, 0, "call", call, ", \"raised\": true");
    } else if (strcmp(call, "close") == 0) {
        rondo_server_close(run.server);
    } else if (strcmp(call, "close_clients") == 0) {
        rondo_server_close_clients(run.server);
    } else if (strcmp(call, "abort_clients") == 0) {
        rondo_server_abort_clients(run.server);
    }
}

/* ---- the conductor: a thread of its own ---------------------------------------------------------------------- */

static struct timespec deadline(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += PATIENCE_S;
    return at;
}

static void timed_out(const char *what)
{
    if (!run.failed)
        record(ON_SCENARIO, 0, "error", what, ", \"line\": %u", run.line);
    run.failed = true;
}

/* Waits with the mutex held by the caller. */
static bool wait_for(bool (*condition)(const struct connection *c, size_t number), const struct connection *c,
                     size_t number, const char *what)
{
    struct timespec until = deadline();
    int rc = 0;
    pthread_mutex_lock(&mutex);
    while (!condition(c, number) && rc == 0)
        rc = pthread_cond_timedwait(&changed, &mutex, &until);
    bool met = condition(c, number);
    pthread_mutex_unlock(&mutex);
    if (!met)
        timed_out(what);
    return met;
}

/* Something to do on the shard, for which the conductor waits. */
struct order {
    rondo_call call;
    void (*act)(unsigned number, const struct action *action);
    unsigned number;
    const struct action *action;
    bool done;
};

static void run_order(rondo_call *call)
{
    struct order *order = rondo_container_of(call, struct order, call);
    order->act(order->number, order->action);
    pthread_mutex_lock(&mutex);
    order->done = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static void on_shard(void (*act)(unsigned number, const struct action *action), unsigned number,
                     const struct action *action)
{
    struct order order = { .act = act, .number = number, .action = action };
    if (rondo_post(run.loop, &order.call, run_order) < 0)
        return; /* the shard has ended */
    pthread_mutex_lock(&mutex);
    while (!order.done) /* a shard that doesn't turn any more hangs the test, whose own timeout says so */
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
}

static bool is_number_made(const struct connection *c, size_t number)
{
    (void)c;
    return run.connection_count >= number;
}

static void act_on_transport(unsigned number, const struct action *action)
{
    perform(&run.connections[number - 1], action);
}

static void act_on_server(unsigned number, const struct action *action)
{
    (void)number;
    perform_on_server(action->call + strlen("server "));
}

static void act_connect(unsigned number, const struct action *action)
{
    (void)action;
    while (run.connection_count < number)
        new_connection();
    const rondo_client_options options = {
        .url = run.url,
        .protocol = run.protocols,
        .context = &run.connections[number - 1],
        .connection_failed = connection_failed,
    };
    int rc = rondo_create_connection(run.loop, &options, NULL);
    if (rc < 0)
        record(ON_SCENARIO, 0, "error", "rondo_create_connection", ", \"result\": %d", rc);
}

static void step_transport(const struct step *step)
{
    if (strcmp(step->action.call, "connect") == 0)
        on_shard(act_connect, step->number, &step->action);
    else if (wait_for(is_number_made, NULL, step->number, "the connection"))
        on_shard(act_on_transport, step->number, &step->action);
}

static bool is_server_ended(const struct connection *c, size_t number)
{
    (void)c, (void)number;
    return run.server_ended;
}

static void step_server(const struct step *step)
{
    if (strcmp(step->action.call, "server wait_closed") != 0)
        on_shard(act_on_server, 0, &step->action);
    else if (wait_for(is_server_ended, NULL, 0, "the server's end"))
        record(ON_SERVER, 0, "event", "closed", "%s", "");
}

static bool has_happened(const struct connection *c, size_t event)
{
    return c->counts[event] > 0;
}

static bool has_received(const struct connection *c, size_t size)
{
    return c->received >= size;
}

static size_t output_size;

static void act_ask_output(unsigned number, const struct action *action)
{
    const struct connection *c = &run.connections[number - 1];
    (void)action;
    output_size = c->t == NULL ? 0 : rondo_get_write_buffer_size(c->t);
}

/* There is no callback for it: asks again at each millisecond. */
static void wait_until_sent(unsigned number)
{
    for (unsigned i = 0; i < PATIENCE_S * 1000; i++) {
        on_shard(act_ask_output, number, NULL);
        if (output_size == 0)
            return;
        poll(NULL, 0, 1);
    }
    timed_out("the output to be sent");
}

static void step_wait(const struct step *step)
{
    const struct connection *c = &run.connections[step->number - 1];
    const char *what = step->action.call;
    if (!wait_for(is_number_made, NULL, step->number, "the connection"))
        return;
    if (strcmp(what, "received") == 0) {
        wait_for(has_received, c, step->action.number, what);
        return;
    }
    if (strcmp(what, "sent") == 0) {
        wait_until_sent(step->number);
        return;
    }
    for (size_t event = 0; event < EVENT_COUNT; event++) {
        if (strcmp(event_names[event], what) == 0)
            wait_for(has_happened, c, event, what);
    }
}

/* ---- peers: plain blocking sockets ---------------------------------------------------------------------------- */

static int new_socket(void)
{
    int fd = socket(run.scenario->socket == TCP ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = { .tv_sec = PATIENCE_S };
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (run.scenario->buffers > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &run.scenario->buffers, sizeof run.scenario->buffers);
    return fd;
}

static void own_peer(unsigned number, int fd)
{
    int on = 1;
    struct timeval patience = { .tv_sec = PATIENCE_S };
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (run.scenario->socket == TCP)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    run.peers[number - 1] = fd;
}

static void peer_event(unsigned number, const char *name)
{
    record(ON_PEER, number, "event", name, "%s", "");
}

static bool is_made(const struct connection *c, size_t number)
{
    return is_number_made(c, number) && run.connections[number - 1].counts[CONNECTION_MADE] > 0;
}

static void act_accept(unsigned number, const struct action *action)
{
    rondo_transport *t;
    (void)number, (void)action;
    int rc = rondo_connect_accepted_socket(run.loop, accept4(run.listener, NULL, NULL, SOCK_CLOEXEC),
                                           run.protocols, &t);
    if (rc < 0)
        record(ON_SCENARIO, 0, "error", "rondo_connect_accepted_socket", ", \"result\": %d", rc);
}

static void peer_connect(unsigned number)
{
    pthread_mutex_lock(&mutex);
    unsigned before = run.connection_count;
    bool closed = run.server_closed;
    pthread_mutex_unlock(&mutex);
    int fd = new_socket();
    if (connect(fd, (struct sockaddr *)&run.address, run.address_size) < 0) {
        if (errno == ECONNREFUSED || errno == ENOENT)
            peer_event(number, "refused");
        else
            timed_out("the peer's connect");
        close(fd);
        return;
    }
    own_peer(number, fd);
    if (run.scenario->transport == OF_ACCEPTED)
        on_shard(act_accept, number, NULL);
    if (!closed)
        wait_for(is_made, NULL, before + 1, "connection_made");
}

static void peer_listen(void)
{
    if (run.listener >= 0)
        return;
    run.listener = new_socket();
    if (bind(run.listener, (struct sockaddr *)&run.address, run.address_size) < 0 ||
        listen(run.listener, 128) < 0)
        timed_out(strerror(errno));
}

static void peer_accept(unsigned number)
{
    int fd = accept(run.listener, NULL, NULL);
    if (fd < 0)
        timed_out("a connection to accept");
    else
        own_peer(number, fd);
}

static void peer_send(unsigned number, int fd, rondo_bytes data)
{
    while (data.size > 0) {
        ssize_t n = send(fd, data.data, data.size, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == ECONNRESET || errno == EPIPE)
                peer_event(number, "broken");
            else
                timed_out("the peer's send");
            return;
        }
        data = (rondo_bytes){ data.data + n, data.size - (size_t)n };
    }
}

/* At most so many bytes. False at the end. */
static bool peer_receive(unsigned number, int fd, size_t *size)
{
    char bytes[65536];
    ssize_t n = recv(fd, bytes, *size < sizeof bytes ? *size : sizeof bytes, 0);
    if (n > 0) {
        record_data(ON_PEER, number, "data", NULL, (rondo_bytes){ bytes, (size_t)n });
        *size -= (size_t)n;
        return true;
    }
    if (n == 0)
        peer_event(number, "eof");
    else if (errno == ECONNRESET)
        peer_event(number, "reset");
    else
        timed_out("bytes for the peer");
    return false;
}

static void peer_close(unsigned number)
{
    close(run.peers[number - 1]);
    run.peers[number - 1] = -1;
}

static void peer_reset(unsigned number)
{
    struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
    setsockopt(run.peers[number - 1], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    peer_close(number);
}

static void step_peer(const struct step *step)
{
    const char *call = step->action.call;
    unsigned number = step->number;
    int fd = run.peers[number - 1];
    if (strcmp(call, "connect") == 0) {
        peer_connect(number);
    } else if (strcmp(call, "listen") == 0) {
        peer_listen();
    } else if (strcmp(call, "accept") == 0) {
        peer_accept(number);
    } else if (fd < 0) {
        record(ON_PEER, number, "call", call, ", \"gone\": true");
    } else if (strcmp(call, "send") == 0) {
        peer_send(number, fd, step->action.data[0]);
    } else if (strcmp(call, "half_close") == 0) {
        if (shutdown(fd, SHUT_WR) < 0)
            peer_event(number, "broken");
    } else if (strcmp(call, "read") == 0) {
        for (size_t left = step->action.number; left > 0 && peer_receive(number, fd, &left);)
            ;
    } else if (strcmp(call, "read_to_end") == 0) {
        for (size_t left = SIZE_MAX; peer_receive(number, fd, &left);)
            ;
    } else if (strcmp(call, "reset") == 0) {
        peer_reset(number);
    } else {
        peer_close(number);
    }
}

/* ---- a scenario's beginning and end ---------------------------------------------------------------------------- */

static bool is_started(const struct connection *c, size_t number)
{
    (void)c, (void)number;
    return run.loop != NULL;
}

static void act_stop_recording(unsigned number, const struct action *action)
{
    (void)number, (void)action;
    records_stop();
}

static void act_abort_all(unsigned number, const struct action *action)
{
    (void)number, (void)action;
    for (unsigned i = 0; i < run.connection_count; i++) {
        if (run.connections[i].t != NULL)
            rondo_abort(run.connections[i].t);
    }
}

static void *conduct(void *argument)
{
    (void)argument;
    static void (*const step[])(const struct step *step) = {
        [PEER] = step_peer, [TRANSPORT] = step_transport, [SERVER] = step_server, [WAIT] = step_wait
    };
    if (!wait_for(is_started, NULL, 0, "the shard"))
        return NULL;
    for (unsigned i = 0; i < run.scenario->step_count && !run.failed; i++) {
        run.line = run.scenario->steps[i].line;
        step[run.scenario->steps[i].who](&run.scenario->steps[i]);
    }
    on_shard(act_stop_recording, 0, NULL);
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
        if (run.peers[i] >= 0)
            peer_close(i + 1);
    }
    if (run.listener >= 0)
        close(run.listener);
    on_shard(act_abort_all, 0, NULL);
    rondo_stop(run.loop);
    return NULL;
}

/* Of TCP a port where nobody listens, until the peer does. */
static bool choose_address(void)
{
    struct sockaddr_un *path = (struct sockaddr_un *)&run.address;
    struct sockaddr_in *name = (struct sockaddr_in *)&run.address;
    const char *abstract = strrchr(run.folder, '/') + 1;
    switch (run.scenario->socket) {
    case UNIX:
        path->sun_family = AF_UNIX;
        strcpy(path->sun_path, run.path);
        run.address_size = sizeof *path;
        snprintf(run.url, sizeof run.url, "unix://%s", run.path);
        return true;
    case ABSTRACT:
        path->sun_family = AF_UNIX;
        strcpy(path->sun_path + 1, abstract);
        run.address_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(abstract));
        snprintf(run.url, sizeof run.url, "unix://@%s", abstract);
        return true;
    case TCP:
        break;
    }
    *name = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    run.address_size = sizeof *name;
    int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good = run.scenario->transport != OF_CLIENT ||
                (bind(probe, (struct sockaddr *)name, sizeof *name) == 0 &&
                 getsockname(probe, (struct sockaddr *)name, &run.address_size) == 0);
    close(probe);
    snprintf(run.url, sizeof run.url, "tcp://127.0.0.1:%u", ntohs(name->sin_port));
    return good;
}

/* For transports of accepted sockets. */
static int start_listener(void)
{
    peer_listen();
    return run.failed || getsockname(run.listener, (struct sockaddr *)&run.address, &run.address_size) < 0
               ? -errno
               : 0;
}

static int start_server(rondo_loop *loop)
{
    const rondo_server_options options = {
        .url = run.url,
        .protocol = run.protocols,
        .start_later = run.scenario->start_later,
    };
    int rc = rondo_create_server(loop, &options, &run.server);
    if (rc < 0)
        return rc;
    rondo_server_wait_closed(run.server, &run.server_end, server_ended);
    int fd;
    rondo_server_sockets(run.server, &fd, 1);
    run.address_size = sizeof run.address;
    return getsockname(fd, (struct sockaddr *)&run.address, &run.address_size) < 0 ? -errno : 0;
}

static int shard_start(rondo_loop *loop)
{
    int rc = run.scenario->transport == OF_SERVER     ? start_server(loop)
             : run.scenario->transport == OF_ACCEPTED ? start_listener()
                                                      : 0;
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&mutex);
    run.loop = loop;
    pthread_mutex_unlock(&mutex);
    tell_changed();
    return 0;
}

static bool run_scenario(const struct scenario *scenario)
{
    memset(&run, 0, sizeof run);
    run.scenario = scenario;
    run.listener = -1;
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        run.peers[i] = -1;
    rondo_protocol protocols[scenario->protocol_count];
    for (unsigned i = 0; i < scenario->protocol_count; i++)
        protocols[i] = table_of(&scenario->protocols[i]);
    run.protocols = protocols;
    const char *tmp = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
    snprintf(run.folder, sizeof run.folder, "%.40s/rondo-trace-XXXXXX", tmp);
    if (mkdtemp(run.folder) == NULL) {
        perror(run.folder);
        return false;
    }
    snprintf(run.path, sizeof run.path, "%s/socket", run.folder);
    if (!choose_address()) {
        perror(run.url);
        return false;
    }
    records_begin();
    pthread_create(&run.conductor, NULL, conduct, NULL);
    const rondo_app app = {
        .shards = 1,
        .log_level = RONDO_LOG_ERROR,
        .shard_start = shard_start,
        .drain_timeout_ms = 2000,
    };
    int rc = rondo_run(&app);
    pthread_join(run.conductor, NULL);
    unlink(run.path);
    rmdir(run.folder);
    printf("{\"scenario\": \"%s\"}\n", scenario->name);
    records_print();
    return rc == 0;
}

/* ---- main ---------------------------------------------------------------------------------------------------- */

static char *paths[4096];
static unsigned path_count;

static void add_path(const char *folder, const char *name)
{
    char *path;
    if (asprintf(&path, "%s%s%s", folder, *folder == '\0' ? "" : "/", name) < 0 || path_count == 4096)
        abort();
    paths[path_count++] = path;
}

static int by_text(const void *one, const void *other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

static bool add_folder(const char *folder)
{
    DIR *open = opendir(folder);
    unsigned before = path_count;
    if (open == NULL) {
        fprintf(stderr, "%s: %s\n", folder, strerror(errno));
        return false;
    }
    for (struct dirent *entry; (entry = readdir(open)) != NULL;) {
        const char *dot = strrchr(entry->d_name, '.');
        if (dot != NULL && strcmp(dot, ".scenario") == 0)
            add_path(folder, entry->d_name);
    }
    closedir(open);
    qsort(paths + before, path_count - before, sizeof *paths, by_text);
    return true;
}

int main(int argc, char **argv)
{
    int status = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--scenarios") == 0 && i + 1 < argc) {
            if (!add_folder(argv[++i]))
                return 2;
        } else if (argv[i][0] != '-') {
            add_path("", argv[i]);
        } else {
            fprintf(stderr, "usage: rondo-trace [--scenarios DIR] [FILE…]\n");
            return 2;
        }
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attributes);
    for (unsigned i = 0; i < path_count; i++) {
        const struct scenario *scenario = scenario_read(paths[i]);
        if (scenario == NULL)
            status = 2;
        else if (!run_scenario(scenario) && status == 0)
            status = 1;
    }
    return status;
}
