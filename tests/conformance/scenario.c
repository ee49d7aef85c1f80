/* Reads a scenario: README.md specifies the language, scenario.py reads the same. Strict: whatever is not in the language
 * is an error with file, line, and what is allowed. */
#include "rondo_trace.h"

#include <ctype.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DATA_MAX     (64 * 1024 * 1024)
#define NUMBER_MAX   (1024 * 1024 * 1024)
#define TEXT_MAX     4096
#define SLEEP_MAX_MS 2000
#define LENGTH_OF(x) (sizeof(x) / sizeof *(x))

const char *const transport_call_names[] = { "write",
                                             "writelines",
                                             "echo",
                                             "write_eof",
                                             "can_write_eof",
                                             "close",
                                             "abort",
                                             "is_closing",
                                             "pause_reading",
                                             "resume_reading",
                                             "is_reading",
                                             "set_write_buffer_limits",
                                             "get_write_buffer_limits",
                                             "get_write_buffer_size",
                                             "get_extra_info",
                                             "set_protocol",
                                             "get_protocol",
                                             "sendfile",
                                             "sendto",
                                             "reply",
                                             "get_returncode",
                                             "get_pipe_transport",
                                             "send_signal",
                                             "terminate",
                                             "kill",
                                             "mark",
                                             "connect" };
const char *const server_call_names[] = { "start_serving", "is_serving",    "sockets",       "close",
                                          "wait_closed",   "close_clients", "abort_clients", "path_exists" };
const char *const peer_call_names[] = { "listen",      "stop_listening", "connect",    "accept",
                                        "buffers",     "send",           "exchange",   "read",
                                        "read_to_end", "read_nothing",   "half_close", "close",
                                        "reset",       "receive" };
const char *const event_names[] = { "connection_made", "data_received",        "received",
                                    "eof_received",    "pause_writing",        "resume_writing",
                                    "connection_lost", "sendfile_done",        "datagram_received",
                                    "error_received",  "pipe_connection_lost", "process_exited",
                                    "buffer_updated",  "connection_failed",    "sent" };
static const char *const subject_names[] = { "peer", "transport", "server", "wait", "sleep" };
static const char *const header_names[] = { "title",     "transport", "socket",   "start",   "buffers",
                                            "addresses", "command",   "protocol", "receive", "without" };
enum { TITLE, TRANSPORT_HEADER, SOCKET, START, BUFFERS, ADDRESSES, COMMAND, PROTOCOL, RECEIVE, WITHOUT };

enum kind { END, WORD, STRING, PUNCTUATION };

struct token {
    enum kind kind;
    const char *text; /* of a string without its quotes */
    size_t size;
};

struct named_protocol {
    const char *name;
    unsigned line;
};

struct parser {
    struct scenario *scenario;
    jmp_buf failed;
    unsigned line;
    const char *rest, *end; /* of the line, behind the token */
    struct token token;     /* the next */
    struct protocol *protocol;
    unsigned seen;          /* 1 << header, of the scenario */
    unsigned seen_protocol; /* of the protocol */
    struct named_protocol *set_protocols;
    unsigned set_protocol_count;
};

/* ---- memory ----------------------------------------------------------------------------------------------- */

struct allocation {
    struct allocation *next;
    _Alignas(max_align_t) char memory[];
};

void *scenario_new(struct scenario *scenario, size_t size)
{
    struct allocation *allocation = calloc(1, sizeof *allocation + size);
    if (allocation == NULL)
        abort();
    allocation->next = scenario->allocated;
    scenario->allocated = allocation;
    return allocation->memory;
}

/* An array with room for one more; it grows by one copy each time, which is enough for scenarios. */
static void *grown(struct parser *p, const void *array, size_t count, size_t size)
{
    char *larger = scenario_new(p->scenario, (count + 1) * size);
    if (count > 0)
        memcpy(larger, array, count * size);
    return larger;
}

void scenario_free(struct scenario *scenario)
{
    struct allocation *allocation = scenario->allocated;
    while (allocation != NULL) {
        struct allocation *next = allocation->next;
        free(allocation);
        allocation = next;
    }
    free(scenario->name);
    free(scenario);
}

static char *copy_of(struct parser *p, const char *text, size_t size)
{
    char *copy = scenario_new(p->scenario, size + 1);
    memcpy(copy, text, size);
    return copy;
}

/* ---- errors ----------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3), noreturn)) static void fail(struct parser *p, const char *what, ...)
{
    struct scenario *scenario = p->scenario;
    int used = snprintf(scenario->error, sizeof scenario->error, "%.400s:%u: ", scenario->path, p->line);
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(scenario->error + used, sizeof scenario->error - (size_t)used, what, arguments);
    va_end(arguments);
    longjmp(p->failed, 1);
}

static char *shown(struct parser *p)
{
    char text[128];
    if (p->token.kind == END)
        return "the line's end";
    snprintf(text, sizeof text, "'%.*s'", p->token.size < 60 ? (int)p->token.size : 60, p->token.text);
    return copy_of(p, text, strlen(text));
}

static char *list_of(struct parser *p, const char *const *names, size_t count)
{
    char *list = scenario_new(p->scenario, count * 32);
    for (size_t i = 0; i < count; i++) {
        strcat(list, i > 0 ? ", " : "");
        strcat(list, names[i]);
    }
    return list;
}

/* ---- tokens ----------------------------------------------------------------------------------------------- */

static void next(struct parser *p)
{
    while (p->rest < p->end && strchr(" \t\r", *p->rest) != NULL)
        p->rest++;
    const char *start = p->rest;
    if (start == p->end || *start == '#') {
        p->token = (struct token){ END, p->end, 0 };
        return;
    }
    if (*start == '"') {
        for (p->rest++; p->rest < p->end && *p->rest != '"'; p->rest++)
            p->rest += *p->rest == '\\' && p->rest + 1 < p->end;
        if (p->rest == p->end)
            fail(p, "a string without its closing quote");
        p->token = (struct token){ STRING, start + 1, (size_t)(p->rest - start - 1) };
        p->rest++;
        return;
    }
    if (strchr(";:", *start) != NULL) {
        p->rest++;
        p->token = (struct token){ PUNCTUATION, start, 1 };
        return;
    }
    while (p->rest < p->end && strchr(" \t\r\v\f\";:#", *p->rest) == NULL)
        p->rest++;
    p->token = (struct token){ WORD, start, (size_t)(p->rest - start) };
}

static void begin_line(struct parser *p, const char *text, const char *end)
{
    p->rest = text;
    p->end = end;
    next(p);
}

static bool token_is(const struct parser *p, const char *text)
{
    return (p->token.kind == WORD || p->token.kind == PUNCTUATION) && p->token.size == strlen(text) &&
           memcmp(p->token.text, text, p->token.size) == 0;
}

static bool take(struct parser *p, const char *text)
{
    bool is_it = token_is(p, text);
    if (is_it)
        next(p);
    return is_it;
}

static void expect_end(struct parser *p)
{
    if (p->token.kind != END)
        fail(p, "end of line expected, not %s", shown(p));
}

static int find(const struct parser *p, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (p->token.kind == WORD && token_is(p, names[i]))
            return (int)i;
    }
    return -1;
}

/* One of these words, by its number. */
static int choice(struct parser *p, const char *what, const char *const *names, size_t count)
{
    int found = find(p, names, count);
    if (found < 0)
        fail(p, "%s expected, not %s; allowed: %s", what, shown(p), list_of(p, names, count));
    next(p);
    return found;
}

static const char *word(struct parser *p, const char *what)
{
    if (p->token.kind != WORD)
        fail(p, "%s expected, not %s", what, shown(p));
    const char *text = copy_of(p, p->token.text, p->token.size);
    next(p);
    return text;
}

static bool is_digits(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (!isdigit((unsigned char)text[i]))
            return false;
    }
    return size > 0;
}

static bool is_number(const struct parser *p)
{
    return p->token.kind == WORD && is_digits(p->token.text, p->token.size);
}

static size_t value_of(const char *text, size_t size)
{
    size_t value = 0;
    for (size_t i = 0; i < size; i++)
        value = 10 * value + (size_t)(text[i] - '0');
    return value;
}

static size_t number(struct parser *p, const char *what, size_t low, size_t high)
{
    if (!is_number(p) || p->token.size > 10)
        fail(p, "%s expected, a number from %zu to %zu, not %s", what, low, high, shown(p));
    size_t value = value_of(p->token.text, p->token.size);
    if (value < low || value > high)
        fail(p, "%s: %zu is not from %zu to %zu", what, value, low, high);
    next(p);
    return value;
}

/* ---- data ------------------------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : isxdigit((unsigned char)c) ? tolower(c) - 'a' + 10 : -1;
}

static rondo_bytes string(struct parser *p)
{
    if (p->token.kind != STRING)
        fail(p, "a \"string\" expected, not %s", shown(p));
    const char *text = p->token.text, *end = text + p->token.size;
    char *out = scenario_new(p->scenario, p->token.size + 1);
    size_t size = 0;
    while (text < end) {
        if (*text != '\\') {
            out[size++] = *text++;
            continue;
        }
        static const char from[] = "nrt0\\\"", to[] = "\n\r\t\0\\\"";
        const char *escape = memchr(from, text[1], sizeof from - 1);
        if (escape != NULL) {
            out[size++] = to[escape - from];
            text += 2;
        } else if (text[1] == 'x' && end - text >= 4 && hex_digit(text[2]) >= 0 && hex_digit(text[3]) >= 0) {
            out[size++] = (char)(16 * hex_digit(text[2]) + hex_digit(text[3]));
            text += 4;
        } else {
            fail(p, "\\%c in a string; allowed: \\n \\r \\t \\0 \\\\ \\\" \\xHH", text[1]);
        }
    }
    next(p);
    return (rondo_bytes){ out, size };
}

/* What a number stands for, wherever data is wanted: decimal offsets, 8 bytes each; a byte out of place is seen. */
static void fill_pattern(char *out, size_t size)
{
    for (size_t at = 0; at < size; at += 8) {
        char piece[16];
        snprintf(piece, sizeof piece, "%07zu\n", at % 10000000);
        memcpy(out + at, piece, size - at < 8 ? size - at : 8);
    }
}

static bool is_data(const struct parser *p)
{
    return p->token.kind == STRING || is_number(p);
}

static rondo_bytes data(struct parser *p)
{
    if (p->token.kind == STRING)
        return string(p);
    if (!is_number(p))
        fail(p, "data expected, not %s; allowed: \"text\", N, N x \"text\"", shown(p));
    size_t size = number(p, "a size", 0, DATA_MAX);
    char *out = scenario_new(p->scenario, size + 1);
    if (!take(p, "x")) {
        fill_pattern(out, size);
        return (rondo_bytes){ out, size };
    }
    rondo_bytes text = string(p);
    if (text.size == 0)
        fail(p, "an empty string can't be repeated");
    for (size_t i = 0; i < size; i++)
        out[i] = text.data[i % text.size];
    return (rondo_bytes){ out, size };
}

static void add_data(struct parser *p, struct action *action)
{
    rondo_bytes *slices = grown(p, action->data, action->data_count, sizeof *slices);
    slices[action->data_count++] = data(p);
    action->data = slices;
}

/* send=N receive=N, in any order, each at most once. */
static void named_numbers(struct parser *p, const char *one, size_t *one_value, const char *other,
                          size_t *other_value, bool needed)
{
    while (p->token.kind == WORD && memchr(p->token.text, '=', p->token.size) != NULL) {
        size_t name_size = (size_t)((char *)memchr(p->token.text, '=', p->token.size) - p->token.text);
        const char *value = p->token.text + name_size + 1;
        size_t value_size = p->token.size - name_size - 1;
        bool is_one = name_size == strlen(one) && memcmp(p->token.text, one, name_size) == 0;
        bool is_other = name_size == strlen(other) && memcmp(p->token.text, other, name_size) == 0;
        size_t *found = is_one ? one_value : other_value;
        if ((!is_one && !is_other) || *found != NOT_GIVEN || !is_digits(value, value_size) ||
            value_size > 10 || value_of(value, value_size) > NUMBER_MAX)
            fail(p, "%s: allowed: %s=N, %s=N, each once", shown(p), one, other);
        *found = value_of(value, value_size);
        next(p);
    }
    if (needed && *one_value == NOT_GIVEN && *other_value == NOT_GIVEN)
        fail(p, "expected: %s=N or %s=N, not %s", one, other, shown(p));
}

/* ---- calls ------------------------------------------------------------------------------------------------ */

static struct action new_action(enum subject subject, unsigned connection, int call)
{
    return (struct action){ .subject = subject,
                            .connection = connection,
                            .call = call,
                            .high = NOT_GIVEN,
                            .low = NOT_GIVEN,
                            .send = NOT_GIVEN,
                            .receive = NOT_GIVEN,
                            .offset = NOT_GIVEN,
                            .count = NOT_GIVEN };
}

static void name_protocol(struct parser *p, struct action *action)
{
    action->text = word(p, "a protocol");
    p->set_protocols = grown(p, p->set_protocols, p->set_protocol_count, sizeof *p->set_protocols);
    p->set_protocols[p->set_protocol_count++] = (struct named_protocol){ action->text, p->line };
}

/* event: of the handler; EVENTS in a step. */
static struct action transport_call(struct parser *p, unsigned connection, enum event event)
{
    int call = choice(p, "a call of the transport", transport_call_names, TRANSPORT_CALLS);
    struct action action = new_action(TRANSPORT, connection, call);
    switch (call) {
    case WRITE:
        add_data(p, &action);
        break;
    case WRITELINES:
        while (is_data(p))
            add_data(p, &action);
        break;
    case ECHO:
        if (event != DATA_RECEIVED || connection != 0)
            fail(p, "echo belongs to data_received, without 'transport K'");
        break;
    case SET_WRITE_BUFFER_LIMITS:
        named_numbers(p, "high", &action.high, "low", &action.low, false);
        break;
    case GET_EXTRA_INFO:
        action.text = word(p, "a name");
        if (strcmp(action.text, "shard") == 0)
            fail(p, "get_extra_info shard: asyncio has no shards");
        break;
    case SET_PROTOCOL:
        name_protocol(p, &action);
        break;
    case SENDFILE:
        add_data(p, &action);
        named_numbers(p, "offset", &action.offset, "count", &action.count, false);
        break;
    case SENDTO:
    case REPLY:
        if (!is_of_datagrams(p->scenario->side))
            fail(p, "%s needs the header transport: datagram or connected_datagram",
                 transport_call_names[call]);
        if (call == SENDTO)
            add_data(p, &action);
        else if (event != DATAGRAM_RECEIVED || connection != 0)
            fail(p, "reply belongs to datagram_received, without 'transport K'");
        break;
    case GET_RETURNCODE:
    case GET_PIPE_TRANSPORT:
    case SEND_SIGNAL:
    case TERMINATE:
    case KILL:
        if (p->scenario->side != OF_SUBPROCESS)
            fail(p, "%s needs the header transport: subprocess", transport_call_names[call]);
        if (call == GET_PIPE_TRANSPORT || call == SEND_SIGNAL)
            action.number = number(p, "a number", 0, 64);
        break;
    case MARK: {
        rondo_bytes text = string(p);
        action.text = json_text(text.data, text.size);
        char *json = (char *)action.text;
        action.text = copy_of(p, json, strlen(json));
        free(json);
        break;
    }
    }
    return action;
}

static struct action server_call(struct parser *p)
{
    int call = choice(p, "a call of the server", server_call_names, SERVER_CALLS);
    if (p->scenario->side != OF_SERVER)
        fail(p, "a call of the server needs the header transport: server");
    if (call == PATH_EXISTS && p->scenario->family != UNIX)
        fail(p, "path_exists needs the header socket: unix");
    return new_action(SERVER, 0, call);
}

static unsigned connection_number(struct parser *p)
{
    return (unsigned)number(p, "the number of a connection", 1, CONNECTIONS_MAX);
}

/* ---- above the steps: handlers ---------------------------------------------------------------------------- */

static struct action handler_action(struct parser *p, enum event event)
{
    if (take(p, "return")) {
        static const char *const answers[] = { "false", "true" };
        if (event != EOF_RECEIVED)
            fail(p, "only eof_received returns something");
        return new_action(RETURN, 0, choice(p, "true or false", answers, LENGTH_OF(answers)));
    }
    if (take(p, "server"))
        return server_call(p);
    unsigned connection = take(p, "transport") ? connection_number(p) : 0;
    return transport_call(p, connection, event);
}

static void end_of_action(struct parser *p)
{
    if (p->token.kind != END && !take(p, ";"))
        fail(p, "end of line or ';' expected, not %s", shown(p));
}

#define NUMBERED                                                                                             \
    (1u << DATA_RECEIVED | 1u << PAUSE_WRITING | 1u << RESUME_WRITING | 1u << SENDFILE_DONE |                \
     1u << DATAGRAM_RECEIVED | 1u << ERROR_RECEIVED)

static void handler_number(struct parser *p, struct handler *handler)
{
    if (handler->event == RECEIVED && p->token.kind == STRING) {
        handler->text = string(p);
        if (handler->text.size == 0 || handler->text.size > TEXT_MAX)
            fail(p, "received \"...\": from 1 to %d bytes", TEXT_MAX);
    } else if (handler->event == RECEIVED) {
        handler->number = number(p, "a size, or a \"string\"", 1, NUMBER_MAX);
    } else if ((1u << handler->event & NUMBERED) != 0 && is_number(p)) {
        handler->number = number(p, "which call", 1, NUMBER_MAX);
    }
}

static void parse_handler(struct parser *p)
{
    struct protocol *protocol = p->protocol;
    struct handler *handlers = grown(p, protocol->handlers, protocol->handler_count, sizeof *handlers);
    struct handler *handler = &handlers[protocol->handler_count];
    next(p); /* on */
    handler->line = p->line;
    if (take(p, "transport"))
        handler->connection = connection_number(p);
    handler->event = (enum event)choice(p, "a callback", event_names, HANDLED_EVENTS);
    if (handler->event == BUFFER_UPDATED)
        handler->event = DATA_RECEIVED;
    handler_number(p, handler);
    if (!take(p, ":"))
        fail(p, "':' expected, not %s", shown(p));
    if (p->token.kind == END)
        fail(p, "an action expected behind the ':'");
    while (p->token.kind != END) {
        struct action *actions = grown(p, handler->actions, handler->action_count, sizeof *actions);
        if (handler->action_count > 0 && actions[handler->action_count - 1].subject == RETURN)
            fail(p, "return is the last action");
        actions[handler->action_count++] = handler_action(p, handler->event);
        handler->actions = actions;
        end_of_action(p);
    }
    protocol->handlers = handlers;
    protocol->handler_count++;
}

/* ---- above the steps: headers ------------------------------------------------------------------------------- */

static void add_protocol(struct parser *p, const char *name)
{
    struct scenario *scenario = p->scenario;
    struct protocol **protocols = grown(p, scenario->protocols, scenario->protocol_count, sizeof *protocols);
    p->protocol = protocols[scenario->protocol_count++] = scenario_new(scenario, sizeof *p->protocol);
    *p->protocol = (struct protocol){ .name = name, .size = 65536 };
    scenario->protocols = protocols;
    p->seen_protocol = 0;
}

static bool is_protocol_name(const char *name)
{
    for (const char *c = name; *c != '\0'; c++) {
        if (!islower((unsigned char)*c) && (c == name || (!isdigit((unsigned char)*c) && *c != '_')))
            return false;
    }
    return true;
}

static void parse_protocol(struct parser *p)
{
    const char *name = word(p, "a name");
    if (!is_protocol_name(name))
        fail(p, "'%s' is no name for a protocol; allowed: small letters, digits and _", name);
    for (unsigned i = 0; i < p->scenario->protocol_count; i++) {
        if (strcmp(p->scenario->protocols[i]->name, name) == 0)
            fail(p, "protocol %s is there twice (main is what stands above the first protocol:)", name);
    }
    add_protocol(p, name);
}

static void check_protocol(struct parser *p, const struct protocol *protocol)
{
    if (protocol->is_buffered && (protocol->without & 1u << DATA_RECEIVED) != 0)
        fail(p, "protocol %s: with receive: buffer it can't be without data_received", protocol->name);
    for (unsigned i = 0; i < protocol->handler_count; i++) {
        enum event event = protocol->handlers[i].event;
        p->line = protocol->handlers[i].line;
        if ((protocol->without & 1u << event) != 0)
            fail(p, "protocol %s: is without %s, but has a handler of it", protocol->name,
                 event_names[event]);
    }
}

static void check_header(struct parser *p)
{
    const struct scenario *scenario = p->scenario;
    if (scenario->addresses > 1 && (scenario->side != OF_SERVER || scenario->family != TCP))
        fail(p, "addresses: above 1 needs transport: server and socket: tcp");
    if (scenario->starts_later && scenario->side != OF_SERVER)
        fail(p, "start: later needs transport: server");
    if ((scenario->side == OF_SUBPROCESS) != (scenario->command != NULL))
        fail(p, "transport: subprocess and command: go together");
    if (scenario->side > OF_ACCEPTED && scenario->family != TCP)
        fail(p, "socket: is for streams");
    for (unsigned i = 0; i < scenario->protocol_count; i++)
        check_protocol(p, scenario->protocols[i]);
}

static void parse_without(struct parser *p)
{
    static const char *const names[] = { "data_received", "eof_received", "pause_writing", "resume_writing" };
    static const enum event events[] = { DATA_RECEIVED, EOF_RECEIVED, PAUSE_WRITING, RESUME_WRITING };
    do
        p->protocol->without |= 1u << events[choice(p, "a callback", names, LENGTH_OF(names))];
    while (p->token.kind != END);
}

static void parse_command(struct parser *p)
{
    rondo_bytes command = string(p);
    if (command.size < 1 || command.size > TEXT_MAX || memchr(command.data, '\0', command.size) != NULL)
        fail(p, "command: from 1 to %d bytes, and no NUL", TEXT_MAX);
    p->scenario->command = copy_of(p, command.data, command.size);
}

static void parse_header(struct parser *p, int header)
{
    static const char *const sides[] = {
        "server",    "client",     "accepted",  "datagram", "connected_datagram",
        "read_pipe", "write_pipe", "subprocess"
    };
    static const char *const families[] = { "tcp", "unix", "abstract" };
    static const char *const times[] = { "now", "later" };
    static const char *const ways[] = { "data", "buffer" };
    struct scenario *scenario = p->scenario;
    unsigned *seen = header == RECEIVE || header == WITHOUT ? &p->seen_protocol : &p->seen;
    if ((*seen & 1u << header) != 0 && header != PROTOCOL)
        fail(p, "%s: is there twice", header_names[header]);
    *seen |= 1u << header;
    if (header < PROTOCOL && scenario->protocol_count > 1)
        fail(p, "%s: stands above the first protocol:", header_names[header]);
    if (header == TITLE)
        return;
    next(p);
    switch (header) {
    case TRANSPORT_HEADER:
        scenario->side = (enum side)choice(p, "a kind of transport", sides, LENGTH_OF(sides));
        break;
    case SOCKET:
        scenario->family = (enum family)choice(p, "a kind of socket", families, LENGTH_OF(families));
        break;
    case START:
        scenario->starts_later = choice(p, "a time", times, LENGTH_OF(times)) == 1;
        break;
    case BUFFERS:
        scenario->buffers = number(p, "a size", 1, NUMBER_MAX);
        break;
    case ADDRESSES:
        scenario->addresses = (unsigned)number(p, "how many", 1, 8);
        break;
    case COMMAND:
        parse_command(p);
        break;
    case PROTOCOL:
        parse_protocol(p);
        break;
    case RECEIVE:
        p->protocol->is_buffered = choice(p, "a way to receive", ways, LENGTH_OF(ways)) == 1;
        if (p->protocol->is_buffered && is_number(p))
            p->protocol->size = number(p, "a size", 0, 1024 * 1024);
        break;
    case WITHOUT:
        parse_without(p);
        break;
    }
    expect_end(p);
}

/* ---- steps ------------------------------------------------------------------------------------------------ */

static void check_peer_call(struct parser *p, int call)
{
    static const unsigned of_streams = 1u << PEER_EXCHANGE | 1u << PEER_READ | 1u << PEER_READ_TO_END |
                                       1u << PEER_HALF_CLOSE | 1u << PEER_RESET;
    static const unsigned of_sockets = 1u << PEER_BUFFERS | 1u << PEER_HALF_CLOSE | 1u << PEER_RESET;
    enum side side = p->scenario->side;
    if (side == OF_SUBPROCESS && call != PEER_CONNECT)
        fail(p, "of a subprocess the peer is its command: it only connects");
    if (is_of_pipes(side) && (of_sockets & 1u << call))
        fail(p, "peer %s is for sockets", peer_call_names[call]);
    if (is_of_datagrams(side) && (of_streams & 1u << call))
        fail(p, "peer %s is for streams; allowed: send, receive, read_nothing, close", peer_call_names[call]);
    if (call == PEER_RECEIVE && !is_of_datagrams(side))
        fail(p, "peer receive needs the header transport: datagram or connected_datagram");
}

static struct action peer_call(struct parser *p)
{
    bool is_client = p->scenario->side == OF_CLIENT;
    int call = choice(p, "something for the peer to do", peer_call_names, PEER_CALLS);
    struct action action = new_action(PEER, 0, call);
    check_peer_call(p, call);
    switch (call) {
    case PEER_LISTEN:
    case PEER_STOP_LISTENING:
    case PEER_ACCEPT:
        if (!is_client)
            fail(p, "peer %s needs the header transport: client; here the peer connects",
                 peer_call_names[call]);
        break;
    case PEER_CONNECT:
        if (is_client)
            fail(p, "peer connect needs the header transport: server or accepted; here the peer listens, and "
                    "accepts");
        action.number = is_number(p) ? number(p, "an address", 1, p->scenario->addresses) : 1;
        break;
    case PEER_BUFFERS:
        named_numbers(p, "send", &action.send, "receive", &action.receive, true);
        break;
    case PEER_SEND:
        add_data(p, &action);
        break;
    case PEER_EXCHANGE:
        add_data(p, &action);
        action.number = number(p, "a size to read", 1, NUMBER_MAX);
        break;
    case PEER_READ:
        action.number = number(p, "a size", 1, NUMBER_MAX);
        break;
    case PEER_RESET:
        if (p->scenario->family != TCP)
            fail(p, "peer reset needs the header socket: tcp; unix sockets know no reset");
        break;
    }
    return action;
}

static struct action wait_action(struct parser *p)
{
    static const char *const allowed[] = { "connection_made",
                                           "data_received",
                                           "received",
                                           "eof_received",
                                           "pause_writing",
                                           "resume_writing",
                                           "connection_lost",
                                           "sendfile_done",
                                           "datagram_received",
                                           "error_received",
                                           "pipe_connection_lost",
                                           "process_exited",
                                           "connection_failed",
                                           "sent" };
    if (find(p, allowed, LENGTH_OF(allowed)) < 0)
        choice(p, "something to wait for", allowed, LENGTH_OF(allowed));
    struct action action = new_action(WAIT, 0, choice(p, "something to wait for", event_names, EVENTS));
    if (action.call == RECEIVED)
        action.number = number(p, "a size", 1, NUMBER_MAX);
    else if (action.call != SENT)
        action.number = is_number(p) ? number(p, "how many", 1, NUMBER_MAX) : 1;
    if (action.call == CONNECTION_FAILED && p->scenario->side != OF_CLIENT)
        fail(p, "connection_failed needs the header transport: client");
    return action;
}

static struct action step_action(struct parser *p, const struct step *step)
{
    struct action action = new_action(SLEEP, 0, 0);
    switch (step->subject) {
    case PEER:
        return peer_call(p);
    case TRANSPORT:
        if (!take(p, "connect"))
            return transport_call(p, 0, EVENTS);
        if (p->scenario->side != OF_CLIENT)
            fail(p, "transport connect needs the header transport: client");
        return new_action(TRANSPORT, 0, CONNECT);
    case SERVER:
        return server_call(p);
    case WAIT:
        return wait_action(p);
    default:
        action.number = number(p, "milliseconds", 1, SLEEP_MAX_MS);
        return action;
    }
}

/* K or K-M, or nothing: 1. */
static void connections(struct parser *p, struct step *step)
{
    const char *text = p->token.text, *dash = memchr(text, '-', p->token.size);
    size_t first_size = dash == NULL ? p->token.size : (size_t)(dash - text);
    size_t last_size = dash == NULL ? 0 : p->token.size - first_size - 1;
    if (p->token.kind != WORD || !is_digits(text, first_size) ||
        (dash != NULL && !is_digits(dash + 1, last_size)))
        return;
    size_t first = first_size > 9 ? 0 : value_of(text, first_size);
    size_t last = dash == NULL ? first : last_size > 9 ? 0 : value_of(dash + 1, last_size);
    if (first < 1 || last < first || last > CONNECTIONS_MAX)
        fail(p, "%s: connections are numbered from 1 to %d", shown(p), CONNECTIONS_MAX);
    step->first = (unsigned)first;
    step->last = (unsigned)last;
    next(p);
}

static void begin_step(struct parser *p)
{
    struct scenario *scenario = p->scenario;
    scenario->steps = grown(p, scenario->steps, scenario->step_count, sizeof *scenario->steps);
    struct step *step = &scenario->steps[scenario->step_count++];
    *step = (struct step){ .line = p->line, .first = 1, .last = 1, .goes_on = true };
    step->subject = (enum subject)choice(p, "a subject", subject_names, LENGTH_OF(subject_names));
    if (step->subject != SERVER && step->subject != SLEEP)
        connections(p, step);
}

static void parse_steps(struct parser *p)
{
    struct scenario *scenario = p->scenario;
    while (p->token.kind != END) {
        if (find(p, subject_names, LENGTH_OF(subject_names)) >= 0)
            begin_step(p);
        struct step *step = &scenario->steps[scenario->step_count - 1];
        step->actions = grown(p, step->actions, step->action_count, sizeof *step->actions);
        step->actions[step->action_count++] = step_action(p, step);
        end_of_action(p);
    }
    scenario->steps[scenario->step_count - 1].goes_on = false;
}

/* ---- the file --------------------------------------------------------------------------------------------- */

static void parse_line(struct parser *p)
{
    const char *start = p->token.text;
    size_t size = p->token.kind == WORD ? strspn(start, "abcdefghijklmnopqrstuvwxyz_") : 0;
    bool has_steps = p->scenario->step_count > 0;
    if (size > 0 && start + size < p->end && start[size] == ':') {
        p->token = (struct token){ WORD, start, size };
        int header = find(p, header_names, LENGTH_OF(header_names));
        if (has_steps)
            fail(p, "headers stand above the first step");
        if (header < 0)
            fail(p, "there is no header %s; allowed: %s", shown(p),
                 list_of(p, header_names, LENGTH_OF(header_names)));
        p->rest = start + size + 1;
        parse_header(p, header);
        return;
    }
    if (token_is(p, "on")) {
        if (has_steps)
            fail(p, "handlers stand above the first step");
        parse_handler(p);
        return;
    }
    if (find(p, subject_names, LENGTH_OF(subject_names)) < 0)
        fail(p, "a line begins with a header (%s), on, or a step (%s); not with %s",
             list_of(p, header_names, LENGTH_OF(header_names)),
             list_of(p, subject_names, LENGTH_OF(subject_names)), shown(p));
    parse_steps(p);
}

static void check_set_protocols(struct parser *p)
{
    for (unsigned i = 0; i < p->set_protocol_count; i++) {
        bool found = false;
        for (unsigned j = 0; j < p->scenario->protocol_count; j++)
            found |= strcmp(p->set_protocols[i].name, p->scenario->protocols[j]->name) == 0;
        p->line = p->set_protocols[i].line;
        if (!found)
            fail(p, "there is no protocol '%s'", p->set_protocols[i].name);
    }
}

static void parse(struct parser *p, const char *text, size_t size)
{
    const char *file_end = text + size;
    for (const char *line = text; line <= file_end;) {
        const char *end = memchr(line, '\n', (size_t)(file_end - line));
        end = end == NULL ? file_end : end;
        p->line++;
        if (memchr(line, '\0', (size_t)(end - line)) != NULL)
            fail(p, "a NUL; write \\0 in a string");
        begin_line(p, line, end);
        if (p->token.kind != END)
            parse_line(p);
        line = end + 1;
    }
    if (p->scenario->step_count == 0)
        fail(p, "there are no steps: the shortest scenario is 'peer connect'");
    check_header(p);
    check_set_protocols(p);
}

/* Freed by the caller. NULL: it can't be read. */
static char *read_file(struct scenario *scenario, size_t *size)
{
    FILE *file = fopen(scenario->path, "re");
    char *text = NULL;
    *size = 0;
    for (size_t got = 1; file != NULL && got > 0; *size += got) {
        text = realloc(text, *size + 65536);
        if (text == NULL)
            abort();
        got = fread(text + *size, 1, 65536, file);
    }
    if (file == NULL || ferror(file)) {
        snprintf(scenario->error, sizeof scenario->error, "%.400s: %s", scenario->path, strerror(errno));
        free(text);
        text = NULL;
    }
    if (file != NULL)
        fclose(file);
    return text;
}

static char *scenario_name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *name = strdup(slash != NULL ? slash + 1 : path);
    size_t size = name == NULL ? 0 : strlen(name), ending = strlen(".scenario");
    if (size >= ending && strcmp(name + size - ending, ".scenario") == 0)
        name[size - ending] = '\0';
    return name;
}

static void parse_or_fail(struct parser *p, const char *text, size_t size)
{
    if (setjmp(p->failed) == 0) {
        add_protocol(p, "main");
        parse(p, text, size);
    } else {
        p->scenario->step_count = 0;
    }
}

struct scenario *scenario_read(const char *path)
{
    struct scenario *scenario = calloc(1, sizeof *scenario);
    struct parser *p = calloc(1, sizeof *p);
    if (scenario == NULL || p == NULL)
        abort();
    scenario->path = path;
    scenario->name = scenario_name_of(path);
    scenario->addresses = 1;
    size_t size;
    char *text = read_file(scenario, &size);
    p->scenario = scenario;
    if (text != NULL)
        parse_or_fail(p, text, size);
    free(text);
    free(p);
    return scenario;
}
