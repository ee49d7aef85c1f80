/* The protocols of a scenario and their calls, on rondo. All here runs on the shard. */
#include "rondo_trace.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ACTIONS_MAX 100000

static void server_call(enum server_call call);

/* The state of a connection: rondo_self(t). */
struct self {
    struct connection *connection;
    _Alignas(max_align_t) char memory[];
};

static struct self *self_of(rondo_transport *t)
{
    return rondo_self(t);
}

static const struct protocol *protocol_of(const rondo_transport *t)
{
    return rondo_container_of(rondo_get_protocol(t), struct protocol, table);
}

/* ---- calls ------------------------------------------------------------------------------------------------ */

static void line_of(const struct connection *c, int call, const char *fields)
{
    trace_line(ON_TRANSPORT, c->number, "\"call\": \"%s\", %s", transport_call_names[call], fields);
}

static void result_is(const struct connection *c, int call, bool result)
{
    line_of(c, call, result ? "\"result\": true" : "\"result\": false");
}

static void raised_if(const struct connection *c, int call, int rc)
{
    if (rc < 0)
        line_of(c, call, "\"raised\": true");
}

static void get_limits(const struct connection *c)
{
    size_t low, high;
    rondo_get_write_buffer_limits(c->t, &low, &high);
    trace_line(ON_TRANSPORT, c->number,
               "\"call\": \"get_write_buffer_limits\", \"result\": {\"low\": %zu, \"high\": %zu}", low, high);
}

/* How many bytes the kernel has taken by now is chance; which of these it is, is not. */
static void get_size(const struct connection *c)
{
    size_t low, high, size = rondo_get_write_buffer_size(c->t);
    rondo_get_write_buffer_limits(c->t, &low, &high);
    line_of(c, GET_WRITE_BUFFER_SIZE,
            size == 0      ? "\"result\": \"0\""
            : size <= low  ? "\"result\": \"up to low\""
            : size <= high ? "\"result\": \"up to high\""
                           : "\"result\": \"above high\"");
}

static void address_info(const struct connection *c, const struct action *action)
{
    struct address address = { 0 };
    bool is_peername = strcmp(action->text, "peername") == 0;
    const struct address *expected = is_peername ? &c->expected_peername : &c->sockname;
    if (rondo_get_extra_info(c->t, action->text, &address.name, sizeof address.name) < 0) {
        line_of(c, GET_EXTRA_INFO, "\"result\": \"none\"");
        return;
    }
    char family[INET6_ADDRSTRLEN + 8] = "unix";
    if (address.name.ss_family == AF_INET) {
        strcpy(family, "inet ");
        inet_ntop(AF_INET, &((struct sockaddr_in *)&address.name)->sin_addr, family + 5, sizeof family - 5);
    }
    trace_line(ON_TRANSPORT, c->number, "\"call\": \"get_extra_info\", \"result\": \"%s %s\"", family,
               memcmp(&address.name, &expected->name, sizeof address.name) == 0 ? "matches" : "differs");
}

static void get_extra_info(const struct connection *c, const struct action *action)
{
    char value[1024];
    if (strcmp(action->text, "peername") == 0 || strcmp(action->text, "sockname") == 0) {
        address_info(c, action);
        return;
    }
    int rc = rondo_get_extra_info(c->t, action->text, value, sizeof value);
    line_of(c, GET_EXTRA_INFO,
            rc < 0                                ? "\"result\": \"none\""
            : strcmp(action->text, "socket") == 0 ? "\"result\": \"socket\""
                                                  : "\"result\": \"something\"");
}

static const struct protocol *protocol_named(const char *name)
{
    for (unsigned i = 0; i < run->scenario->protocol_count; i++) {
        if (strcmp(run->scenario->protocols[i]->name, name) == 0)
            return run->scenario->protocols[i];
    }
    abort(); /* the parser has looked */
}

static void set_protocol(struct connection *c, const struct action *action)
{
    int rc = rondo_set_protocol(c->t, &protocol_named(action->text)->table);
    raised_if(c, SET_PROTOCOL, rc);
    if (rc == 0)
        self_of(c->t)->connection = c;
}

static bool perform_handlers(struct connection *c, rondo_transport *t, enum event event);
static void count_event(struct connection *c, enum event event);
static void event_line(struct connection *c, rondo_transport *t, enum event event, const char *more);

static void count_sendfiles(struct connection *c, int more)
{
    trace_lock();
    c->sendfiles += more;
    run->sendfiles += more;
    trace_unlock();
}

static void sent(rondo_transport *t, int64_t nbytes)
{
    char more[64];
    struct connection *c = self_of(t)->connection;
    count_sendfiles(c, -1);
    if (nbytes < 0)
        snprintf(more, sizeof more, ", \"error\": %s", json_error((int)nbytes));
    else
        snprintf(more, sizeof more, ", \"result\": %lld", (long long)nbytes);
    event_line(c, t, SENDFILE_DONE, more);
    perform_handlers(c, t, SENDFILE_DONE);
}

static int file_of(rondo_bytes content)
{
    int fd = memfd_create("sendfile", MFD_CLOEXEC);
    while (fd >= 0 && content.size > 0) {
        ssize_t n = write(fd, content.data, content.size);
        if (n <= 0)
            abort();
        content = (rondo_bytes){ content.data + n, content.size - (size_t)n };
    }
    return fd;
}

static void send_file(struct connection *c, const struct action *action)
{
    int fd = file_of(action->data[0]);
    uint64_t offset = action->offset == NOT_GIVEN ? 0 : action->offset;
    uint64_t count = action->count == NOT_GIVEN ? RONDO_TO_THE_END : action->count;
    int rc = rondo_sendfile(c->t, fd, offset, count, sent);
    raised_if(c, SENDFILE, rc);
    if (rc == 0)
        count_sendfiles(c, 1);
    close(fd);
}

static void set_limits(const struct connection *c, const struct action *action)
{
    size_t high = action->high == NOT_GIVEN ? RONDO_LIMIT_DEFAULT : action->high;
    size_t low = action->low == NOT_GIVEN ? RONDO_LIMIT_DEFAULT : action->low;
    raised_if(c, SET_WRITE_BUFFER_LIMITS, rondo_set_write_buffer_limits(c->t, high, low));
}

static rondo_address address_of_peer(const struct connection *c)
{
    bool is_connected = run->scenario->side == OF_CONNECTED_DATAGRAMS;
    const struct address *address = &c->expected_peername;
    return is_connected
               ? (rondo_address){ 0 }
               : (rondo_address){ (const struct sockaddr *)&address->name, sizeof(struct sockaddr_in) };
}

/* What is written to a child is written to its stdin. */
static rondo_transport *output_of(const struct connection *c)
{
    return run->scenario->side == OF_SUBPROCESS ? rondo_get_pipe_transport(c->t, 0) : c->t;
}

static void call_process(const struct connection *c, const struct action *action)
{
    int code;
    switch (action->call) {
    case GET_RETURNCODE:
        if (rondo_get_returncode(c->t, &code))
            trace_line(ON_TRANSPORT, c->number, "\"call\": \"get_returncode\", \"result\": %d", code);
        else
            line_of(c, GET_RETURNCODE, "\"result\": null");
        return;
    case GET_PIPE_TRANSPORT:
        result_is(c, GET_PIPE_TRANSPORT, rondo_get_pipe_transport(c->t, (int)action->number) != NULL);
        return;
    case SEND_SIGNAL:
        raised_if(c, SEND_SIGNAL, rondo_send_signal(c->t, (int)action->number));
        return;
    case TERMINATE:
        raised_if(c, TERMINATE, rondo_terminate(c->t));
        return;
    case KILL:
        raised_if(c, KILL, rondo_kill(c->t));
        return;
    }
}

static void call_transport(struct connection *c, const struct action *action)
{
    rondo_transport *output = output_of(c);
    switch (action->call) {
    case WRITE:
        if (output != NULL)
            rondo_write(output, action->data[0]);
        return;
    case WRITELINES:
        if (output != NULL)
            rondo_writelines(output, action->data, action->data_count);
        return;
    case SENDTO:
        rondo_sendto(c->t, action->data[0], address_of_peer(c));
        return;
    case REPLY:
        rondo_sendto(c->t, c->current, c->sender);
        return;
    case GET_RETURNCODE:
    case GET_PIPE_TRANSPORT:
    case SEND_SIGNAL:
    case TERMINATE:
    case KILL:
        call_process(c, action);
        return;
    case ECHO:
        rondo_write(c->t, c->current);
        return;
    case WRITE_EOF:
        if (output != NULL)
            rondo_write_eof(output);
        return;
    case CAN_WRITE_EOF:
        result_is(c, CAN_WRITE_EOF, rondo_can_write_eof(c->t));
        return;
    case CLOSE:
        rondo_close(c->t);
        return;
    case ABORT:
        rondo_abort(c->t);
        return;
    case IS_CLOSING:
        result_is(c, IS_CLOSING, rondo_is_closing(c->t));
        return;
    case PAUSE_READING:
        rondo_pause_reading(c->t);
        return;
    case RESUME_READING:
        rondo_resume_reading(c->t);
        return;
    case IS_READING:
        result_is(c, IS_READING, rondo_is_reading(c->t));
        return;
    case SET_WRITE_BUFFER_LIMITS:
        set_limits(c, action);
        return;
    case GET_WRITE_BUFFER_LIMITS:
        get_limits(c);
        return;
    case GET_WRITE_BUFFER_SIZE:
        get_size(c);
        return;
    case GET_EXTRA_INFO:
        get_extra_info(c, action);
        return;
    case SET_PROTOCOL:
        set_protocol(c, action);
        return;
    case GET_PROTOCOL:
        trace_line(ON_TRANSPORT, c->number, "\"call\": \"get_protocol\", \"result\": \"%s\"",
                   rondo_get_protocol(c->t)->name);
        return;
    case SENDFILE:
        send_file(c, action);
        return;
    case MARK:
        trace_line(ON_TRANSPORT, c->number, "\"call\": \"mark\", \"text\": %s", action->text);
        return;
    }
}

static void connect_out(struct connection *c);

static void perform(struct connection *c, const struct action *action)
{
    if (action->call == CONNECT)
        connect_out(c);
    else if (c->t == NULL)
        line_of(c, action->call, "\"gone\": true");
    else
        call_transport(c, action);
}

/* Returns what the handler returns. */
static bool perform_all(struct connection *c, const struct action *actions, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct action *action = &actions[i];
        if (++run->actions > ACTIONS_MAX) {
            trace_error("more than %d actions: the scenario runs in circles", ACTIONS_MAX);
            return false;
        }
        if (action->subject == RETURN)
            return action->call != 0;
        if (action->subject == SERVER)
            server_call((enum server_call)action->call);
        else
            perform(action->connection > 0 ? &run->connections[action->connection] : c, action);
    }
    return false;
}

void loop_perform_step(void *argument)
{
    const struct step_of *it = argument;
    perform_all(it->connection, it->step->actions, it->step->action_count);
}

/* ---- callbacks -------------------------------------------------------------------------------------------- */

static void count_event(struct connection *c, enum event event)
{
    trace_lock();
    c->counts[event]++;
    trace_changed();
    trace_unlock();
}

static void event_line(struct connection *c, rondo_transport *t, enum event event, const char *more)
{
    const char *name = protocol_of(t)->name;
    if (strcmp(name, "main") == 0)
        trace_line(ON_TRANSPORT, c->number, "\"event\": \"%s\"%s", event_names[event], more);
    else
        trace_line(ON_TRANSPORT, c->number, "\"event\": \"%s\"%s, \"protocol\": \"%s\"", event_names[event],
                   more, name);
}

static bool is_for(const struct handler *handler, const struct connection *c)
{
    return handler->connection == 0 || handler->connection == c->number;
}

/* For eof_received, its answer. */
static bool perform_handlers(struct connection *c, rondo_transport *t, enum event event)
{
    const struct protocol *protocol = protocol_of(t);
    bool answer = false;
    if (run->ending)
        return false;
    count_event(c, event);
    for (unsigned i = 0; i < protocol->handler_count; i++) {
        const struct handler *handler = &protocol->handlers[i];
        bool is_this = handler->event == event && is_for(handler, c);
        if (is_this && (handler->number == 0 || handler->number == c->counts[event]))
            answer = perform_all(c, handler->actions, handler->action_count);
    }
    trace_touch();
    return answer;
}

/* Has the text come, with the bytes that are being received now? */
static bool text_has_come(const struct handler *handler, const struct connection *c, rondo_bytes data)
{
    size_t before = handler->text.size - 1 < c->tail_size ? handler->text.size - 1 : c->tail_size;
    char *both = malloc(before + data.size + 1);
    if (both == NULL)
        abort();
    memcpy(both, c->tail + c->tail_size - before, before);
    memcpy(both + before, data.data, data.size);
    bool found = memmem(both, before + data.size, handler->text.data, handler->text.size) != NULL;
    free(both);
    return found;
}

static void keep_tail(struct connection *c, rondo_bytes data)
{
    if (data.size > sizeof c->tail)
        data = (rondo_bytes){ data.data + data.size - sizeof c->tail, sizeof c->tail };
    size_t kept = c->tail_size + data.size > sizeof c->tail ? sizeof c->tail - data.size : c->tail_size;
    memmove(c->tail, c->tail + c->tail_size - kept, kept);
    memcpy(c->tail + kept, data.data, data.size);
    c->tail_size = kept + data.size;
}

static void perform_received(struct connection *c, const struct protocol *protocol, rondo_bytes data)
{
    for (unsigned i = 0; i < protocol->handler_count; i++) {
        struct handler *handler = &protocol->handlers[i];
        if (handler->event != RECEIVED || handler->fired[c->number] || !is_for(handler, c))
            continue;
        if (handler->text.size > 0 ? text_has_come(handler, c, data) : c->received >= handler->number) {
            handler->fired[c->number] = true;
            perform_all(c, handler->actions, handler->action_count);
        }
    }
}

static void receive(rondo_transport *t, rondo_bytes data)
{
    struct connection *c = self_of(t)->connection;
    const struct protocol *protocol = protocol_of(t);
    if (run->ending)
        return;
    const char *name = strcmp(protocol->name, "main") == 0 ? NULL : protocol->name;
    trace_lock();
    c->received += data.size;
    trace_unlock();
    trace_data(ON_TRANSPORT, c->number, "data_received", name, data);
    c->current = data;
    perform_handlers(c, t, DATA_RECEIVED);
    perform_received(c, protocol, data);
    keep_tail(c, data);
    c->current = (rondo_bytes){ 0 };
}

static void data_received(rondo_transport *t, rondo_bytes data)
{
    receive(t, data);
}

static rondo_buffer get_buffer(rondo_transport *t, size_t size_hint)
{
    (void)size_hint;
    return (rondo_buffer){ self_of(t)->memory, protocol_of(t)->size };
}

static void buffer_updated(rondo_transport *t, size_t nbytes)
{
    receive(t, (rondo_bytes){ self_of(t)->memory, nbytes });
}

static bool callback(rondo_transport *t, enum event event)
{
    struct connection *c = self_of(t)->connection;
    event_line(c, t, event, "");
    return perform_handlers(c, t, event);
}

static bool eof_received(rondo_transport *t)
{
    return callback(t, EOF_RECEIVED);
}

static void pause_writing(rondo_transport *t)
{
    callback(t, PAUSE_WRITING);
}

static void resume_writing(rondo_transport *t)
{
    callback(t, RESUME_WRITING);
}

/* ---- datagrams -------------------------------------------------------------------------------------------- */

static void error_line(struct connection *c, rondo_transport *t, enum event event, int error)
{
    char more[64];
    snprintf(more, sizeof more, ", \"error\": %s", json_error(error));
    event_line(c, t, event, more);
}

static void datagram_received(rondo_transport *t, rondo_bytes data, rondo_address address)
{
    struct connection *c = self_of(t)->connection;
    if (run->ending)
        return;
    char *text = json_text(data.data, data.size < 80 ? data.size : 80), more[1024];
    snprintf(more, sizeof more, ", \"size\": %zu, \"begins\": %s", data.size, text);
    free(text);
    event_line(c, t, DATAGRAM_RECEIVED, more);
    c->current = data;
    c->sender = address;
    perform_handlers(c, t, DATAGRAM_RECEIVED);
    c->current = (rondo_bytes){ 0 };
}

static void error_received(rondo_transport *t, int error)
{
    struct connection *c = self_of(t)->connection;
    error_line(c, t, ERROR_RECEIVED, error);
    perform_handlers(c, t, ERROR_RECEIVED);
}

/* ---- processes -------------------------------------------------------------------------------------------- */

/* In which order the pipes and the child end is chance: it's told when all have. */
static void tell_of_child(struct connection *c)
{
    int code = 0;
    for (int fd = 0; fd < 3; fd++) {
        char *text = json_text(c->said[fd], c->said_size[fd] < 80 ? c->said_size[fd] : 80);
        if (c->said_size[fd] > 0)
            trace_line(ON_TRANSPORT, c->number,
                       "\"event\": \"pipe_data_received\", \"fd\": %d, \"size\": %zu, \"begins\": %s", fd,
                       c->said_size[fd], text);
        free(text);
        free(c->said[fd]);
        c->said[fd] = NULL;
        if (c->pipe_error[fd] <= 0)
            trace_line(ON_TRANSPORT, c->number,
                       "\"event\": \"pipe_connection_lost\", \"fd\": %d, \"error\": %s", fd,
                       json_error(c->pipe_error[fd]));
    }
    if (c->has_exited && rondo_get_returncode(c->t, &code))
        trace_line(ON_TRANSPORT, c->number, "\"event\": \"process_exited\", \"returncode\": %d", code);
}

static void pipe_data_received(rondo_transport *t, int fd, rondo_bytes data)
{
    struct connection *c = self_of(t)->connection;
    if (run->ending)
        return;
    c->said[fd] = realloc(c->said[fd], c->said_size[fd] + data.size);
    if (c->said[fd] == NULL)
        abort();
    memcpy(c->said[fd] + c->said_size[fd], data.data, data.size);
    c->said_size[fd] += data.size;
    trace_lock();
    c->received += data.size;
    trace_changed();
    trace_unlock();
    perform_received(c, protocol_of(t), data);
    keep_tail(c, data);
}

static void pipe_connection_lost(rondo_transport *t, int fd, int error)
{
    struct connection *c = self_of(t)->connection;
    c->pipe_error[fd] = error;
    perform_handlers(c, t, PIPE_CONNECTION_LOST);
}

static void process_exited(rondo_transport *t)
{
    struct connection *c = self_of(t)->connection;
    c->has_exited = true;
    perform_handlers(c, t, PROCESS_EXITED);
}

/* The connection of the peer that came first, of those that wait for theirs. */
static struct connection *arrived(void)
{
    unsigned number = 0;
    trace_lock();
    if (run->arriving_count > 0) {
        number = run->arriving[0];
        run->arriving_count--;
        memmove(run->arriving, run->arriving + 1, run->arriving_count * sizeof *run->arriving);
    }
    trace_unlock();
    if (number == 0)
        trace_error("a connection came that no peer has made");
    return &run->connections[number > 0 ? number : CONNECTIONS_MAX + 1];
}

static struct connection *connection_of(rondo_transport *t)
{
    rondo_connector *connector = rondo_get_connector(t);
    if (connector != NULL)
        return rondo_connector_context(connector);
    return arrived();
}

static void connection_made(rondo_transport *t)
{
    struct connection *c = connection_of(t);
    int fd;
    self_of(t)->connection = c;
    for (int i = 0; i < 3; i++)
        c->pipe_error[i] = 1;
    c->served = rondo_get_server(t) != NULL;
    if (rondo_get_extra_info(t, "socket", &fd, sizeof fd) == 0) {
        int size = (int)run->scenario->buffers;
        if (size > 0)
            setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        c->sockname.size = sizeof c->sockname.name;
        getsockname(fd, (struct sockaddr *)&c->sockname.name, &c->sockname.size);
    }
    trace_lock();
    c->t = t;
    c->made = true;
    trace_unlock();
    callback(t, CONNECTION_MADE);
}

static void connection_lost(rondo_transport *t, int error)
{
    struct connection *c = self_of(t)->connection;
    char more[64];
    if (c == NULL)
        return; /* connection_made was not called; what lost it has been told */
    tell_of_child(c);
    snprintf(more, sizeof more, ", \"error\": %s", json_error(error));
    event_line(c, t, CONNECTION_LOST, more);
    perform_handlers(c, t, CONNECTION_LOST);
    count_sendfiles(c, -c->sendfiles);
    trace_lock();
    c->t = NULL;
    c->lost = true;
    trace_changed();
    trace_unlock();
}

static void fill_tables(void)
{
    for (unsigned i = 0; i < run->scenario->protocol_count; i++) {
        struct protocol *protocol = run->scenario->protocols[i];
        rondo_protocol *table = &protocol->table;
        *table = (rondo_protocol){
            .name = protocol->name,
            .size = sizeof(struct self) + (protocol->is_buffered ? protocol->size : 0),
            .connection_made = connection_made,
            .connection_lost = connection_lost,
            .datagram_received = datagram_received,
            .error_received = error_received,
            .pipe_data_received = pipe_data_received,
            .pipe_connection_lost = pipe_connection_lost,
            .process_exited = process_exited,
        };
        if (protocol->is_buffered) {
            table->get_buffer = get_buffer;
            table->buffer_updated = buffer_updated;
        } else if ((protocol->without & 1u << DATA_RECEIVED) == 0) {
            table->data_received = data_received;
        }
        if ((protocol->without & 1u << EOF_RECEIVED) == 0)
            table->eof_received = eof_received;
        if ((protocol->without & 1u << PAUSE_WRITING) == 0)
            table->pause_writing = pause_writing;
        if ((protocol->without & 1u << RESUME_WRITING) == 0)
            table->resume_writing = resume_writing;
    }
}

/* ---- the server ------------------------------------------------------------------------------------------- */

static void closed_event(void)
{
    trace_line(ON_SERVER, 0, "\"event\": \"closed\"");
    trace_lock();
    run->server_closed_events++;
    trace_changed();
    trace_unlock();
}

/* Closed, and without clients: the object is about to be freed. */
static void server_gone(rondo_call *call)
{
    (void)call;
    run->server = NULL;
    for (; run->server_waiters > 0; run->server_waiters--)
        closed_event();
    trace_lock();
    run->server_is_gone = true;
    trace_changed();
    trace_unlock();
}

static void server_result(enum server_call call, const char *result)
{
    trace_line(ON_SERVER, 0, "\"call\": \"%s\", %s", server_call_names[call], result);
}

/* What asyncio's object, which the garbage collector keeps, says when it is over. */
static void gone_server_call(enum server_call call)
{
    if (call == START_SERVING)
        server_result(call, "\"raised\": true");
    else if (call == IS_SERVING)
        server_result(call, "\"result\": false");
    else if (call == SOCKETS)
        server_result(call, "\"result\": 0");
    else if (call == WAIT_CLOSED)
        closed_event();
}

static void server_call(enum server_call call)
{
    char text[32];
    if (call == PATH_EXISTS) {
        server_result(call, access(run->path, F_OK) == 0 ? "\"result\": true" : "\"result\": false");
        return;
    }
    if (run->server == NULL) {
        gone_server_call(call);
        return;
    }
    switch (call) {
    case START_SERVING:
        if (rondo_server_start_serving(run->server) < 0)
            server_result(call, "\"raised\": true");
        return;
    case IS_SERVING:
        server_result(call, rondo_server_is_serving(run->server) ? "\"result\": true" : "\"result\": false");
        return;
    case SOCKETS:
        snprintf(text, sizeof text, "\"result\": %u", rondo_server_sockets(run->server, NULL, 0));
        server_result(call, text);
        return;
    case SERVER_CLOSE:
        rondo_server_close(run->server);
        return;
    case WAIT_CLOSED:
        run->server_waiters++;
        return;
    case CLOSE_CLIENTS:
        rondo_server_close_clients(run->server);
        return;
    case ABORT_CLIENTS:
        rondo_server_abort_clients(run->server);
        return;
    default:
        return;
    }
}

void loop_server_call(void *action)
{
    server_call((enum server_call)((const struct action *)action)->call);
}

/* The addresses where peers connect to. */
static bool read_addresses(const char **error)
{
    int fds[9];
    unsigned count = rondo_server_sockets(run->server, fds, run->scenario->addresses);
    for (unsigned i = 0; i < count; i++) {
        struct address *address = &run->addresses[i + 1];
        address->size = sizeof address->name;
        if (getsockname(fds[i], (struct sockaddr *)&address->name, &address->size) < 0)
            *error = strerror(errno);
    }
    if (count < run->scenario->addresses)
        *error = "the server has too few sockets";
    return *error == NULL;
}

void loop_start(void *argument)
{
    static const char *const more_urls[] = { "tcp://127.0.0.2:0", "tcp://127.0.0.3:0", "tcp://127.0.0.4:0",
                                             "tcp://127.0.0.5:0", "tcp://127.0.0.6:0", "tcp://127.0.0.7:0",
                                             "tcp://127.0.0.8:0" };
    const char **error = argument, *more[8] = { 0 };
    fill_tables();
    if (run->scenario->side != OF_SERVER)
        return;
    for (unsigned i = 0; i + 1 < run->scenario->addresses; i++)
        more[i] = more_urls[i];
    const rondo_server_options options = {
        .url = run->url,
        .more_urls = more,
        .protocol = &run->scenario->protocols[0]->table,
        .start_later = run->scenario->starts_later,
    };
    int rc = rondo_create_server(run->loop, &options, &run->server);
    if (rc < 0) {
        *error = strerror(-rc);
        run->server = NULL;
        return;
    }
    trace_lock();
    run->server_is_gone = false;
    trace_unlock();
    rondo_server_wait_closed(run->server, &run->gone, server_gone);
    read_addresses(error);
}

/* ---- clients, and accepted sockets -------------------------------------------------------------------------- */

static void connector_failed(rondo_connector *connector, int error, const char *why)
{
    struct connection *c = rondo_connector_context(connector);
    (void)why;
    trace_line(ON_TRANSPORT, c->number, "\"event\": \"connection_failed\", \"error\": %s", json_error(error));
    trace_lock();
    c->connector = NULL;
    c->counts[CONNECTION_FAILED]++;
    trace_changed();
    trace_unlock();
}

static void connector_lost(rondo_connector *connector, int error)
{
    struct connection *c = rondo_connector_context(connector);
    (void)error;
    trace_lock();
    c->connector = NULL;
    trace_changed();
    trace_unlock();
}

static void connect_out(struct connection *c)
{
    if (c->connector != NULL || c->made) {
        trace_error("transport %u connect: it was connected already", c->number);
        return;
    }
    const rondo_client_options options = {
        .url = run->url,
        .protocol = &run->scenario->protocols[0]->table,
        .context = c,
        .connection_failed = connector_failed,
        .connection_lost = connector_lost,
    };
    rondo_connector *connector;
    c->expected_peername = run->addresses[1];
    int rc = rondo_create_connection(run->loop, &options, &connector);
    if (rc < 0)
        trace_error("transport %u connect: %s", c->number, strerror(-rc));
    trace_lock();
    c->connector = rc < 0 ? NULL : connector;
    c->counts[CONNECTION_FAILED] = 0;
    trace_unlock();
}

void loop_accepted(void *argument)
{
    const struct accepted *accepted = argument;
    rondo_transport *t;
    int rc = rondo_connect_accepted_socket(run->loop, accepted->fd, &run->scenario->protocols[0]->table, &t);
    if (rc < 0) {
        close(accepted->fd);
        trace_error("rondo_connect_accepted_socket: %s", strerror(-rc));
    }
}

/* ---- what has no server: one transport for each peer ------------------------------------------------------- */

static int open_endpoint(struct connection *c, const rondo_protocol *protocol)
{
    char url[RONDO_ADDRESS_TEXT_BYTES];
    const struct address *address = &c->expected_peername;
    rondo_format_address(
        (rondo_address){ (const struct sockaddr *)&address->name, sizeof(struct sockaddr_in) }, url);
    const rondo_datagram_options options = {
        .local_url = "udp://127.0.0.1:0",
        .remote_url = run->scenario->side == OF_CONNECTED_DATAGRAMS ? url : NULL,
        .protocol = protocol,
    };
    return rondo_create_datagram_endpoint(run->loop, &options, NULL);
}

void loop_open_other(void *argument)
{
    const struct accepted *accepted = argument;
    const rondo_protocol *protocol = &run->scenario->protocols[0]->table;
    int rc = -EINVAL;
    switch (run->scenario->side) {
    case OF_DATAGRAMS:
    case OF_CONNECTED_DATAGRAMS:
        rc = open_endpoint(accepted->connection, protocol);
        break;
    case OF_READ_PIPE:
        rc = rondo_connect_read_pipe(run->loop, accepted->fd, protocol, NULL);
        break;
    case OF_WRITE_PIPE:
        rc = rondo_connect_write_pipe(run->loop, accepted->fd, protocol, NULL);
        break;
    case OF_SUBPROCESS:
        rc = rondo_subprocess_shell(run->loop, protocol, run->scenario->command, NULL, NULL);
        break;
    default:
        break;
    }
    if (rc < 0)
        trace_error("the transport: %s", strerror(-rc));
}

/* ---- for the conductor -------------------------------------------------------------------------------------- */

void loop_ask_write_buffer(void *argument)
{
    struct waiting *waiting = argument;
    const rondo_transport *t = waiting->connection->t;
    waiting->size = t == NULL || output_of(waiting->connection) == NULL
                        ? 0
                        : rondo_get_write_buffer_size(output_of(waiting->connection));
}

void loop_abort_all(void *unused)
{
    (void)unused;
    run->ending = true;
    if (run->server != NULL)
        rondo_server_close(run->server);
    for (unsigned i = 1; i < CONNECTIONS_MAX + 2; i++) {
        struct connection *c = &run->connections[i];
        if (c->t != NULL)
            rondo_abort(c->t);
        else if (c->connector != NULL)
            rondo_connector_stop_connecting(c->connector);
    }
}

bool loop_is_over(void *unused)
{
    (void)unused;
    for (unsigned i = 1; i < CONNECTIONS_MAX + 2; i++) {
        const struct connection *c = &run->connections[i];
        if (c->connector != NULL || (c->made && !c->lost))
            return false;
    }
    return run->server_is_gone;
}
