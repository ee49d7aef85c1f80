/* The trace: a sequence of lines for each transport, each peer, and the server. records.py prints the same. */
#include "rondo_trace.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SHORT     80 /* bytes; longer data is told by size, checksum and beginning */
#define BEGINNING 20
#define DATA_MAX  ((size_t)256 * 1024 * 1024)
#define LINES_MAX 20000

struct line {
    char *fields;
    bool is_data;
    char *data;
    size_t size, capacity;
};

struct sequence {
    struct line *lines;
    size_t count;
};

static struct sequence sequences[ON_TRANSPORT + 1][CONNECTIONS_MAX + 2];
static const char *const on_names[] = { "peer", "scenario", "server", "transport" };
static uint64_t count;
static size_t data_size, line_count;
static unsigned step_line;
static bool failed, mute;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_condition(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attributes);
}

static void *checked(void *memory)
{
    if (memory == NULL)
        abort();
    return memory;
}

void trace_lock(void)
{
    pthread_once(&once, make_condition);
    pthread_mutex_lock(&mutex);
}

void trace_unlock(void)
{
    pthread_mutex_unlock(&mutex);
}

void trace_wake(void)
{
    pthread_cond_broadcast(&changed);
}

void trace_changed(void)
{
    count++;
    trace_wake();
}

static bool wait_until(bool (*is_so)(void *argument), void *argument, unsigned milliseconds,
                       bool ends_by_error)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += milliseconds / 1000;
    end.tv_nsec += (long)(milliseconds % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    trace_lock();
    bool so, in_time = true;
    while (!(so = is_so(argument)) && in_time && !(failed && ends_by_error))
        in_time = pthread_cond_timedwait(&changed, &mutex, &end) == 0;
    so = so && !(failed && ends_by_error);
    trace_unlock();
    return so;
}

bool trace_wait(bool (*is_so)(void *argument), void *argument, unsigned milliseconds)
{
    return wait_until(is_so, argument, milliseconds, true);
}

bool trace_wait_always(bool (*is_so)(void *argument), void *argument, unsigned milliseconds)
{
    return wait_until(is_so, argument, milliseconds, false);
}

/* ---- adding: with the lock held --------------------------------------------------------------------------- */

static struct line *append(enum on on, unsigned connection)
{
    struct sequence *sequence = &sequences[on][connection];
    sequence->lines = checked(realloc(sequence->lines, (sequence->count + 1) * sizeof *sequence->lines));
    struct line *line = &sequence->lines[sequence->count++];
    memset(line, 0, sizeof *line);
    return line;
}

static void fail(const char *what, va_list arguments)
{
    if (failed || mute)
        return;
    failed = true;
    char *text, *fields;
    if (vasprintf(&text, what, arguments) < 0)
        abort();
    char *json = json_text(text, strlen(text));
    if (asprintf(&fields, "\"error\": %s, \"line\": %u", json, step_line) < 0)
        abort();
    append(ON_SCENARIO, 0)->fields = fields;
    free(json);
    free(text);
}

__attribute__((format(printf, 1, 2))) static void fail_by(const char *what, ...)
{
    va_list arguments;
    va_start(arguments, what);
    fail(what, arguments);
    va_end(arguments);
}

static bool has_room(void)
{
    if (++line_count > LINES_MAX)
        fail_by("more than %d lines: the scenario runs in circles", LINES_MAX);
    return line_count <= LINES_MAX;
}

void trace_line(enum on on, unsigned connection, const char *fields, ...)
{
    char *text;
    va_list arguments;
    va_start(arguments, fields);
    if (vasprintf(&text, fields, arguments) < 0)
        abort();
    va_end(arguments);
    trace_lock();
    trace_changed();
    if (!mute && has_room())
        append(on, connection)->fields = text;
    else
        free(text);
    trace_unlock();
}

static void add_data(struct line *line, rondo_bytes data)
{
    if (line->size + data.size > line->capacity) {
        line->capacity = 2 * (line->size + data.size);
        line->data = checked(realloc(line->data, line->capacity));
    }
    memcpy(line->data + line->size, data.data, data.size);
    line->size += data.size;
}

void trace_data(enum on on, unsigned connection, const char *event, const char *protocol, rondo_bytes data)
{
    char fields[256];
    if (protocol == NULL)
        snprintf(fields, sizeof fields, "\"event\": \"%s\"", event);
    else
        snprintf(fields, sizeof fields, "\"event\": \"%s\", \"protocol\": \"%.100s\"", event, protocol);
    trace_lock();
    trace_changed();
    data_size += data.size;
    const struct sequence *sequence = &sequences[on][connection];
    struct line *last = sequence->count > 0 ? &sequence->lines[sequence->count - 1] : NULL;
    if (data_size > DATA_MAX) {
        fail_by("more than %zu bytes: the scenario runs in circles", DATA_MAX);
    } else if (!mute) {
        if (last == NULL || !last->is_data || strcmp(last->fields, fields) != 0) {
            last = has_room() ? append(on, connection) : NULL;
            if (last != NULL)
                *last = (struct line){ .fields = checked(strdup(fields)), .is_data = true };
        }
        if (last != NULL)
            add_data(last, data);
    }
    trace_unlock();
}

void trace_error(const char *what, ...)
{
    va_list arguments;
    va_start(arguments, what);
    trace_lock();
    trace_changed();
    fail(what, arguments);
    trace_unlock();
    va_end(arguments);
}

void trace_step(unsigned line)
{
    trace_lock();
    step_line = line;
    trace_unlock();
}

void trace_touch(void)
{
    trace_lock();
    trace_changed();
    trace_unlock();
}

bool trace_has_failed(void)
{
    trace_lock();
    bool result = failed;
    trace_unlock();
    return result;
}

uint64_t trace_count(void)
{
    trace_lock();
    uint64_t result = count;
    trace_unlock();
    return result;
}

void trace_mute(bool is_mute)
{
    trace_lock();
    mute = is_mute;
    trace_unlock();
}

/* ---- JSON, as Python's json.dumps writes it ----------------------------------------------------------------- */

static size_t put_byte(char *at, unsigned char byte)
{
    static const char *const short_forms = "\"\"\\\\\bb\ff\nn\rr\tt";
    for (const char *form = short_forms; *form != '\0'; form += 2) {
        if ((unsigned char)form[0] == byte) {
            at[0] = '\\';
            at[1] = form[1];
            return 2;
        }
    }
    if (byte < 0x20 || byte > 0x7e)
        return (size_t)sprintf(at, "\\u%04x", byte);
    *at = (char)byte;
    return 1;
}

char *json_text(const char *text, size_t size)
{
    char *json = checked(malloc(6 * size + 3));
    size_t used = 0;
    json[used++] = '"';
    for (size_t i = 0; i < size; i++)
        used += put_byte(json + used, (unsigned char)text[i]);
    json[used++] = '"';
    json[used] = '\0';
    return json;
}

const char *json_error(int error)
{
    static _Thread_local char text[32];
    if (error == 0)
        return "null";
    const char *name = strerrorname_np(error < 0 ? -error : error);
    if (name != NULL)
        snprintf(text, sizeof text, "\"%s\"", name);
    else
        snprintf(text, sizeof text, "\"%d\"", error < 0 ? -error : error);
    return text;
}

static uint32_t adler32(const char *data, size_t size)
{
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < size; i++) {
        a = (a + (unsigned char)data[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

static void print_data(const struct line *line, bool whole)
{
    bool in_full = whole || line->size <= SHORT;
    char *json = json_text(line->data, in_full ? line->size : BEGINNING);
    if (in_full)
        printf(", \"data\": %s", json);
    else
        printf(", \"data\": {\"size\": %zu, \"adler32\": %u, \"begins\": %s}", line->size,
               adler32(line->data, line->size), json);
    free(json);
}

static void print_sequence(enum on on, unsigned connection, bool whole)
{
    struct sequence *sequence = &sequences[on][connection];
    for (size_t i = 0; i < sequence->count; i++) {
        struct line *line = &sequence->lines[i];
        printf("{\"on\": \"%s", on_names[on]);
        if (connection > 0)
            printf(" %u", connection);
        printf("\", %s", line->fields);
        if (line->is_data)
            print_data(line, whole);
        puts("}");
        free(line->fields);
        free(line->data);
    }
    free(sequence->lines);
    *sequence = (struct sequence){ 0 };
}

void trace_print(bool whole)
{
    trace_lock();
    for (enum on on = ON_PEER; on <= ON_TRANSPORT; on++) {
        for (unsigned connection = 0; connection < CONNECTIONS_MAX + 2; connection++)
            print_sequence(on, connection, whole);
    }
    fflush(stdout);
    data_size = line_count = 0;
    failed = mute = false;
    trace_unlock();
}
