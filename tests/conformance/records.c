#include "records.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_WHOLE 80
#define SHOWN_START 20

struct entry {
    struct entry *next;
    enum on on;
    unsigned number;
    char text[256];
    bool has_data;
    char *data;
    size_t size;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct entry *first, **end = &first;
static bool stopped;

void records_begin(void)
{
    pthread_mutex_lock(&mutex);
    stopped = false;
    pthread_mutex_unlock(&mutex);
}

void records_stop(void)
{
    pthread_mutex_lock(&mutex);
    stopped = true;
    pthread_mutex_unlock(&mutex);
}

static struct entry *last_of(enum on on, unsigned number)
{
    struct entry *last = NULL;
    for (struct entry *e = first; e != NULL; e = e->next) {
        if (e->on == on && e->number == number)
            last = e;
    }
    return last;
}

static struct entry *add(enum on on, unsigned number)
{
    struct entry *new = calloc(1, sizeof *new);
    if (new == NULL)
        abort();
    new->on = on;
    new->number = number;
    *end = new;
    end = &new->next;
    return new;
}

void record(enum on on, unsigned number, const char *kind, const char *name, const char *format, ...)
{
    pthread_mutex_lock(&mutex);
    if (!stopped) {
        struct entry *new = add(on, number);
        int used = snprintf(new->text, sizeof new->text, "\"%s\": \"%s\"", kind, name);
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(new->text + used, sizeof new->text - (size_t)used, format, arguments);
        va_end(arguments);
    }
    pthread_mutex_unlock(&mutex);
}

void record_data(enum on on, unsigned number, const char *name, const char *protocol, rondo_bytes data)
{
    char text[256];
    if (protocol == NULL)
        snprintf(text, sizeof text, "\"event\": \"%s\"", name);
    else
        snprintf(text, sizeof text, "\"event\": \"%s\", \"protocol\": \"%s\"", name, protocol);
    pthread_mutex_lock(&mutex);
    if (!stopped) {
        struct entry *entry = last_of(on, number);
        if (entry == NULL || !entry->has_data || strcmp(entry->text, text) != 0)
            entry = add(on, number);
        strcpy(entry->text, text);
        entry->has_data = true;
        entry->data = realloc(entry->data, entry->size + data.size + 1);
        if (entry->data == NULL)
            abort();
        memcpy(entry->data + entry->size, data.data, data.size);
        entry->size += data.size;
    }
    pthread_mutex_unlock(&mutex);
}

static void print_text(const char *text, size_t size)
{
    putchar('"');
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < ' ' || c > '~')
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
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

static void print_entry(const struct entry *e)
{
    static const char *const names[] = { "peer", "scenario", "server", "transport" };
    printf("{\"on\": \"%s", names[e->on]);
    if (e->number > 0)
        printf(" %u", e->number);
    printf("\", %s", e->text);
    if (e->has_data) {
        printf(", \"data\": ");
        if (e->size <= SHOWN_WHOLE) {
            print_text(e->data, e->size);
        } else {
            printf("{\"size\": %zu, \"adler32\": %u, \"begins\": ", e->size, adler32(e->data, e->size));
            print_text(e->data, SHOWN_START);
            putchar('}');
        }
    }
    puts("}");
}

static void print_sequence(enum on on, unsigned number)
{
    for (const struct entry *e = first; e != NULL; e = e->next) {
        if (e->on == on && e->number == number)
            print_entry(e);
    }
}

void records_print(void)
{
    for (enum on on = ON_PEER; on <= ON_TRANSPORT; on++) {
        unsigned most = 0;
        for (const struct entry *e = first; e != NULL; e = e->next)
            most = e->on == on && e->number > most ? e->number : most;
        for (unsigned number = 0; number <= most; number++)
            print_sequence(on, number);
    }
    while (first != NULL) {
        struct entry *e = first;
        first = e->next;
        free(e->data);
        free(e);
    }
    end = &first;
    fflush(stdout);
}
