#include "scenario.h"

#include <ctype.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_LIMIT (64 * 1024 * 1024)
#define WORDS_MAX  128

enum kind { NONE, DATA, MANY, NUMBER, NAME, PROTOCOL, LIMITS, SENT_FILE };

struct call {
    const char *name;
    enum kind kind;
};

static const struct call calls[] = {
    { "write", DATA },
    { "writelines", MANY },
    { "echo", NONE },
    { "write_eof", NONE },
    { "can_write_eof", NONE },
    { "close", NONE },
    { "abort", NONE },
    { "is_closing", NONE },
    { "pause_reading", NONE },
    { "resume_reading", NONE },
    { "is_reading", NONE },
    { "set_write_buffer_limits", LIMITS },
    { "get_write_buffer_limits", NONE },
    { "get_write_buffer_size", NONE },
    { "get_extra_info", NAME },
    { "set_protocol", PROTOCOL },
    { "get_protocol", NONE },
    { "sendfile", SENT_FILE },
    { NULL, NONE },
};

static const struct call peer_calls[] = {
    { "listen", NONE },     { "connect", NONE }, { "accept", NONE },      { "send", DATA },
    { "half_close", NONE }, { "read", NUMBER },  { "read_to_end", NONE }, { "reset", NONE },
    { "close", NONE },      { NULL, NONE },
};

static const char *const server_calls[] = { "start_serving", "is_serving",    "sockets",       "close",
                                            "wait_closed",   "close_clients", "abort_clients", NULL };
static const char *const handler_events[] = { "connection_made", "data_received", "received",
                                              "eof_received",    "pause_writing", "resume_writing",
                                              "connection_lost", "sendfile_done", NULL };
static const char *const wait_events[] = {
    "connection_made", "received",      "eof_received",      "pause_writing", "resume_writing",
    "connection_lost", "sendfile_done", "connection_failed", "sent",          NULL
};
const char *const scenario_optional[] = { "data_received", "eof_received", "pause_writing", "resume_writing",
                                          "connection_lost" };

struct word {
    char *text;
    size_t size;
    bool quoted;
};

struct reader {
    struct scenario *scenario;
    unsigned line;
    jmp_buf failed;
    struct word words[WORDS_MAX + 1];
    unsigned word_count;
};

__attribute__((format(printf, 2, 3), noreturn)) static void fail(struct reader *r, const char *format, ...)
{
    va_list arguments;
    fprintf(stderr, "%s:%u: ", r->scenario->path, r->line);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    longjmp(r->failed, 1);
}

/* Memory that lives as long as the process. */
static void *keep(size_t size)
{
    struct kept {
        struct kept *next;
        _Alignas(max_align_t) char memory[];
    };
    static struct kept *kept;
    struct kept *new = calloc(1, sizeof *new + size);
    if (new == NULL)
        abort();
    new->next = kept;
    kept = new;
    return new->memory;
}

static char *keep_text(const char *text, size_t size)
{
    return memcpy(keep(size + 1), text, size);
}

/* One element more at the end of an array, zeroed. */
static void *grow(void **array, unsigned *count, size_t size)
{
    char *grown = keep((*count + 1) * size);
    if (*count > 0)
        memcpy(grown, *array, *count * size);
    *array = grown;
    return grown + (*count)++ * size;
}

#define GROW(array, count) grow((void **)&(array), &(count), sizeof *(array))

static const char *find(const char *const *list, const char *text)
{
    for (; *list != NULL; list++) {
        if (strcmp(*list, text) == 0)
            return *list;
    }
    return NULL;
}

static const struct call *find_call(const struct call *list, const char *text)
{
    for (; list->name != NULL; list++) {
        if (strcmp(list->name, text) == 0)
            return list;
    }
    return NULL;
}

/* ---- words ------------------------------------------------------------------------------------------------ */

static int hex(char c)
{
    const char *digits = "0123456789abcdef", *at = strchr(digits, tolower((unsigned char)c));
    return c == '\0' || at == NULL ? -1 : (int)(at - digits);
}

/* Read behind the opening quote, in place. Returns what follows the closing one. */
static char *unquote(struct reader *r, char *at, struct word *word)
{
    static const char escapes[] = "nrt\\\"0", meant[] = "\n\r\t\\\"\0";
    char *to = word->text = at;
    while (*at != '"') {
        if (*at == '\0')
            fail(r, "a quote is not closed");
        if (*at != '\\') {
            *to++ = *at++;
            continue;
        }
        const char *escape = at[1] == '\0' ? NULL : strchr(escapes, at[1]);
        if (at[1] == 'x' && hex(at[2]) >= 0 && hex(at[3]) >= 0) {
            *to++ = (char)(hex(at[2]) * 16 + hex(at[3]));
            at += 4;
        } else if (escape != NULL) {
            *to++ = meant[escape - escapes];
            at += 2;
        } else {
            fail(r, "there is no escape \\%c: \\n \\r \\t \\0 \\\\ \\\" \\xHH", at[1]);
        }
    }
    word->size = (size_t)(to - word->text);
    word->quoted = true;
    return at + 1;
}

/* Cut a line into words, in memory that stays. */
static void split(struct reader *r, const char *line)
{
    char *at = keep_text(line, strlen(line));
    r->word_count = 0;
    while (*at != '\0') {
        if (*at == ' ' || *at == '\t') {
            at++;
            continue;
        }
        if (*at == '#')
            return;
        if (r->word_count == WORDS_MAX)
            fail(r, "more than %d words in a line", WORDS_MAX);
        struct word *word = &r->words[r->word_count++];
        *word = (struct word){ .text = at, .size = 1 };
        if (*at == '"') {
            at = unquote(r, at + 1, word);
        } else if (*at == ';') {
            word->text = ";";
            at++;
        } else {
            word->size = strcspn(at, " \t\";");
            word->text = keep_text(at, word->size);
            at += word->size;
        }
    }
}

static bool is_word(const struct word *word, const char *text)
{
    return !word->quoted && strcmp(word->text, text) == 0;
}

static const char *show(const struct word *word)
{
    return word->quoted ? "a text in quotes" : word->text;
}

static size_t number_in(struct reader *r, const char *text, size_t least)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end != '\0' || strlen(text) > 9 || value < least ||
        value > SIZE_LIMIT)
        fail(r, "'%s' is no number from %zu to %d", text, least, SIZE_LIMIT);
    return value;
}

static size_t number(struct reader *r, const struct word *word, size_t least)
{
    if (word->quoted)
        fail(r, "a text in quotes is no number from %zu to %d", least, SIZE_LIMIT);
    return number_in(r, word->text, least);
}

/* Bytes: a quoted text, or a number of bytes of the alphabet. */
static rondo_bytes data(struct reader *r, const struct word *word)
{
    if (word->quoted)
        return (rondo_bytes){ word->text, word->size };
    size_t size = number(r, word, 0);
    char *pattern = keep(size + 1);
    for (size_t i = 0; i < size; i++)
        pattern[i] = (char)('a' + i % 26);
    return (rondo_bytes){ pattern, size };
}

/* ---- actions ---------------------------------------------------------------------------------------------- */

static void named_numbers(struct reader *r, struct action *action, const struct word *words, unsigned count,
                          bool of_file)
{
    struct {
        const char *name;
        bool *given;
        size_t *value;
    } places[] = {
        { of_file ? "offset" : "high", of_file ? &action->has_offset : &action->has_high,
          of_file ? &action->offset : &action->high },
        { of_file ? "count" : "low", of_file ? &action->has_count : &action->has_low,
          of_file ? &action->count : &action->low },
    };
    for (unsigned i = 0; i < count; i++) {
        const char *equals = words[i].quoted ? NULL : strchr(words[i].text, '=');
        bool found = false;
        for (unsigned p = 0; p < 2 && equals != NULL && !found; p++) {
            size_t size = strlen(places[p].name);
            if ((size_t)(equals - words[i].text) == size &&
                strncmp(words[i].text, places[p].name, size) == 0 && !*places[p].given) {
                *places[p].given = found = true;
                *places[p].value = number_in(r, equals + 1, 0);
            }
        }
        if (!found)
            fail(r, "'%s' is none of %s=N, %s=N", show(&words[i]), places[0].name, places[1].name);
    }
}

static void arguments(struct reader *r, struct action *action, enum kind kind, const struct word *words,
                      unsigned count)
{
    unsigned wanted = kind == NONE ? 0 : 1;
    if (kind != MANY && kind != LIMITS && kind != SENT_FILE && count != wanted)
        fail(r, "%s takes %u argument%s, not %u", action->call, wanted, wanted == 1 ? "" : "s", count);
    switch (kind) {
    case NONE:
        return;
    case DATA:
    case MANY:
        if (count > ARGUMENTS_MAX)
            fail(r, "%s takes at most %d arguments", action->call, ARGUMENTS_MAX);
        for (unsigned i = 0; i < count; i++)
            action->data[action->data_count++] = data(r, &words[i]);
        return;
    case NUMBER:
        action->number = number(r, words, 0);
        return;
    case NAME:
    case PROTOCOL:
        if (words[0].quoted)
            fail(r, "%s takes a name, not a text in quotes", action->call);
        action->name = words[0].text;
        return;
    case LIMITS:
        named_numbers(r, action, words, count, false);
        return;
    case SENT_FILE:
        if (count == 0)
            fail(r, "sendfile takes the file's content, then offset=N and count=N if wanted");
        action->data[action->data_count++] = data(r, &words[0]);
        named_numbers(r, action, words + 1, count - 1, true);
        return;
    }
}

static void read_call(struct reader *r, struct action *action, const struct call *list, const char *whose,
                      const struct word *words, unsigned count)
{
    const struct call *call = count == 0 || words[0].quoted ? NULL : find_call(list, words[0].text);
    if (call == NULL)
        fail(r, "'%s' is no call of %s; README.md has the list", count == 0 ? "" : show(words), whose);
    action->call = call->name;
    arguments(r, action, call->kind, words + 1, count - 1);
}

static void read_server_call(struct reader *r, struct action *action, const struct word *words,
                             unsigned count)
{
    if (r->scenario->transport != OF_SERVER)
        fail(r, "a call of the server needs the header 'transport: server'");
    const char *call = count != 1 || words[0].quoted ? NULL : find(server_calls, words[0].text);
    if (call == NULL)
        fail(r,
             "'%s' is no call of a server: start_serving, is_serving, sockets, close, wait_closed, "
             "close_clients, "
             "abort_clients",
             count == 0 ? "" : show(words));
    char *name = keep(strlen(call) + sizeof "server ");
    stpcpy(stpcpy(name, "server "), call);
    action->call = name;
}

static void read_action(struct reader *r, struct handler *handler, const struct word *words, unsigned count)
{
    struct action *action = GROW(handler->actions, handler->action_count);
    if (count > 0 && is_word(words, "server")) {
        read_server_call(r, action, words + 1, count - 1);
    } else if (count > 0 && is_word(words, "return")) {
        if (count != 2 || (!is_word(words + 1, "true") && !is_word(words + 1, "false")))
            fail(r, "return takes true or false");
        if (strcmp(handler->event, "eof_received") != 0)
            fail(r, "only eof_received returns something");
        action->call = "return";
        action->truth = is_word(words + 1, "true");
    } else {
        read_call(r, action, calls, "a transport", words, count);
        if (strcmp(action->call, "echo") == 0 && strcmp(handler->event, "data_received") != 0)
            fail(r, "echo belongs to data_received");
    }
}

/* ---- lines ------------------------------------------------------------------------------------------------ */

static struct protocol_spec *protocol_now(struct reader *r)
{
    return &r->scenario->protocols[r->scenario->protocol_count - 1];
}

static void add_protocol(struct reader *r, const char *name)
{
    size_t size = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");
    bool taken = false;
    for (unsigned i = 0; i < r->scenario->protocol_count; i++)
        taken |= strcmp(r->scenario->protocols[i].name, name) == 0;
    if (!islower((unsigned char)name[0]) || name[size] != '\0' || taken)
        fail(r, "protocol: takes a new name of small letters, digits and _");
    struct protocol_spec *protocol = GROW(r->scenario->protocols, r->scenario->protocol_count);
    protocol->name = keep_text(name, strlen(name));
}

/* Which of the names, of which there are three at most, is it? */
static unsigned choose(struct reader *r, const char *header, const char *text, const char *const names[3])
{
    for (unsigned i = 0; i < 3 && names[i] != NULL; i++) {
        if (strcmp(text, names[i]) == 0)
            return i;
    }
    fail(r, "%s: is one of: %s, %s%s%s", header, names[0], names[1], names[2] == NULL ? "" : ", ",
         names[2] == NULL ? "" : names[2]);
}

static void read_without(struct reader *r)
{
    for (unsigned i = 0; i < r->word_count; i++) {
        unsigned bit = 0;
        while (bit < WITHOUT_COUNT && !is_word(&r->words[i], scenario_optional[bit]))
            bit++;
        if (bit == WITHOUT_COUNT)
            fail(r, "without: is some of: data_received, eof_received, pause_writing, resume_writing, "
                    "connection_lost");
        protocol_now(r)->without |= 1u << bit;
    }
}

static void read_header(struct reader *r, const char *keyword, const char *text)
{
    struct scenario *s = r->scenario;
    if (s->step_count > 0)
        fail(r, "headers stand before the first step");
    if (strcmp(keyword, "title") == 0)
        return;
    split(r, text);
    if (strcmp(keyword, "transport") == 0) {
        s->transport = choose(r, keyword, text, (const char *const[3]){ "server", "client", "accepted" });
    } else if (strcmp(keyword, "socket") == 0) {
        s->socket = choose(r, keyword, text, (const char *const[3]){ "tcp", "unix", "abstract" });
    } else if (strcmp(keyword, "start") == 0) {
        s->start_later = choose(r, keyword, text, (const char *const[3]){ "now", "later" }) == 1;
    } else if (strcmp(keyword, "buffers") == 0) {
        s->buffers = (int)number_in(r, text, 1);
    } else if (strcmp(keyword, "protocol") == 0) {
        add_protocol(r, text);
    } else if (strcmp(keyword, "without") == 0) {
        read_without(r);
    } else if (strcmp(keyword, "receive") == 0) {
        bool buffered = r->word_count == 2 && is_word(&r->words[0], "buffer");
        if (!buffered && !(r->word_count == 1 && is_word(&r->words[0], "data")))
            fail(r, "receive: is 'data', or 'buffer' and its size");
        protocol_now(r)->is_buffered = buffered;
        protocol_now(r)->buffer_size = buffered ? number(r, &r->words[1], 0) : 0;
    } else {
        fail(r,
             "there is no such header: title, transport, socket, start, buffers, protocol, receive, without");
    }
}

/* " EVENT: CALL; CALL" */
static void read_handler(struct reader *r, const char *text)
{
    if (r->scenario->step_count > 0)
        fail(r, "handlers stand before the first step");
    const char *colon = strchr(text, ':');
    char *head = keep_text(text, colon == NULL ? 0 : (size_t)(colon - text));
    split(r, head);
    const char *event =
        r->word_count == 0 || r->words[0].quoted ? NULL : find(handler_events, r->words[0].text);
    bool counts = event != NULL && strcmp(event, "received") == 0;
    if (colon == NULL || event == NULL || r->word_count != (counts ? 2u : 1u))
        fail(r, "a handler is 'on EVENT: CALL; CALL', and 'received' has a number; events: connection_made, "
                "data_received, received, eof_received, pause_writing, resume_writing, connection_lost, "
                "sendfile_done");
    struct handler *handler = GROW(protocol_now(r)->handlers, protocol_now(r)->handler_count);
    handler->event = event;
    handler->received = counts ? number(r, &r->words[1], 1) : 0;
    split(r, colon + 1);
    unsigned first = 0;
    for (unsigned i = 0; i <= r->word_count; i++) {
        if (i == r->word_count || is_word(&r->words[i], ";")) {
            read_action(r, handler, r->words + first, i - first);
            first = i + 1;
        }
    }
}

static void read_wait(struct reader *r, struct action *action, const struct word *words, unsigned count)
{
    const char *event = count == 0 || words[0].quoted ? NULL : find(wait_events, words[0].text);
    bool counts = event != NULL && strcmp(event, "received") == 0;
    if (event == NULL || count != (counts ? 2u : 1u))
        fail(r, "wait is for one of: connection_made, received, eof_received, pause_writing, resume_writing, "
                "connection_lost, sendfile_done, connection_failed, sent; 'received' has a number of bytes");
    action->call = event;
    action->number = counts ? number(r, &words[1], 1) : 0;
}

static void read_peer_call(struct reader *r, struct action *action, const struct word *words, unsigned count)
{
    read_call(r, action, peer_calls, "a peer", words, count);
    bool of_client = strcmp(action->call, "listen") == 0 || strcmp(action->call, "accept") == 0;
    if (of_client && r->scenario->transport != OF_CLIENT)
        fail(r, "'peer %s' needs the header 'transport: client'", action->call);
    if (strcmp(action->call, "connect") == 0 && r->scenario->transport == OF_CLIENT)
        fail(r, "'peer connect' needs the header 'transport: server', or accepted");
}

static void read_transport_call(struct reader *r, struct action *action, const struct word *words,
                                unsigned count)
{
    if (count == 1 && is_word(words, "connect")) {
        if (r->scenario->transport != OF_CLIENT)
            fail(r, "'transport connect' needs the header 'transport: client'");
        action->call = "connect";
        return;
    }
    read_call(r, action, calls, "a transport", words, count);
    if (strcmp(action->call, "echo") == 0)
        fail(r, "echo belongs to data_received");
}

static void read_step(struct reader *r, enum who who, const char *text)
{
    split(r, text);
    const struct word *words = r->words;
    unsigned count = r->word_count;
    struct step *step = GROW(r->scenario->steps, r->scenario->step_count);
    *step = (struct step){ .line = r->line, .who = who, .number = 1 };
    for (unsigned i = 0; i < count; i++) {
        if (is_word(&words[i], ";"))
            fail(r, "a step is one call: put the next on a line of its own");
    }
    if (who != SERVER && count > 0 && !words[0].quoted && isdigit((unsigned char)words[0].text[0])) {
        step->number = (unsigned)number(r, words, 1);
        if (step->number > CONNECTIONS_MAX)
            fail(r, "there are at most %d connections", CONNECTIONS_MAX);
        words++;
        count--;
    }
    switch (who) {
    case PEER:
        read_peer_call(r, &step->action, words, count);
        return;
    case TRANSPORT:
        read_transport_call(r, &step->action, words, count);
        return;
    case SERVER:
        read_server_call(r, &step->action, words, count);
        return;
    case WAIT:
        read_wait(r, &step->action, words, count);
        return;
    }
}

static void read_line(struct reader *r, char *line)
{
    static const char *const whos[] = { "peer", "transport", "server", "wait" };
    size_t size = strspn(line, "abcdefghijklmnopqrstuvwxyz_");
    char *keyword = keep_text(line, size), *rest = line + size;
    if (*rest == ':') {
        rest++;
        rest += strspn(rest, " \t");
        read_header(r, keyword, rest);
        return;
    }
    if (strcmp(keyword, "on") == 0) {
        read_handler(r, rest);
        return;
    }
    for (unsigned who = PEER; who <= WAIT; who++) {
        if (strcmp(keyword, whos[who]) == 0) {
            read_step(r, (enum who)who, rest);
            return;
        }
    }
    fail(r,
         "a line is a header 'title:', a handler 'on …:', or a step 'peer', 'transport', 'server', 'wait'");
}

/* ---- files ------------------------------------------------------------------------------------------------ */

const struct protocol_spec *scenario_protocol(const struct scenario *scenario, const char *name)
{
    for (unsigned i = 0; i < scenario->protocol_count; i++) {
        if (strcmp(scenario->protocols[i].name, name) == 0)
            return &scenario->protocols[i];
    }
    return NULL;
}

static void check_name(struct reader *r, const struct action *action)
{
    if (strcmp(action->call, "set_protocol") == 0 && scenario_protocol(r->scenario, action->name) == NULL)
        fail(r, "there is no protocol '%s'", action->name);
}

static void check_names(struct reader *r)
{
    const struct scenario *s = r->scenario;
    for (unsigned p = 0; p < s->protocol_count; p++) {
        for (unsigned h = 0; h < s->protocols[p].handler_count; h++) {
            const struct handler *handler = &s->protocols[p].handlers[h];
            for (unsigned a = 0; a < handler->action_count; a++)
                check_name(r, &handler->actions[a]);
        }
    }
    for (unsigned i = 0; i < s->step_count; i++) {
        r->line = s->steps[i].line;
        check_name(r, &s->steps[i].action);
    }
}

static void strip(char *line)
{
    size_t size = strlen(line);
    while (size > 0 && isspace((unsigned char)line[size - 1]))
        line[--size] = '\0';
}

static void read_lines(struct reader *r, FILE *file)
{
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, file) >= 0) {
        r->line++;
        strip(line);
        char *text = line + strspn(line, " \t");
        if (*text != '\0' && *text != '#')
            read_line(r, keep_text(text, strlen(text)));
    }
    free(line);
    if (r->scenario->step_count == 0)
        fail(r, "there are no steps: the shortest scenario is 'peer connect'");
    check_names(r);
}

struct scenario *scenario_read(const char *path)
{
    struct reader *r = keep(sizeof *r);
    r->scenario = keep(sizeof *r->scenario);
    r->scenario->path = path;
    const char *base = strrchr(path, '/') == NULL ? path : strrchr(path, '/') + 1;
    const char *dot = strrchr(base, '.');
    r->scenario->name = keep_text(base, dot == NULL ? strlen(base) : (size_t)(dot - base));
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return NULL;
    }
    bool good = setjmp(r->failed) == 0;
    if (good) {
        struct protocol_spec *first = GROW(r->scenario->protocols, r->scenario->protocol_count);
        first->name = "main";
        read_lines(r, file);
    }
    fclose(file);
    return good ? r->scenario : NULL;
}
