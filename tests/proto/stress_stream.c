/* Handlers that do random things, on a kernel that does whatever a kernel may do (the simulated engine), with peers
 * that do, too: feed, end, reset, stop reading; on a server that drains in the middle of it. For every sanitizer.
 *
 *   stress_stream [--seed N] [COUNT]
 *
 * The rules: a handler reads what its peer sent, in order and without a gap, until the connection breaks; what it
 * writes comes to the peer in order; calls return what they may; each handler returns; and in the end nothing is left
 * of tasks, buffers, timers and calls. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <rondo/rondo.h>
#include <rondo/testing.h>

#include "core/loop.h"
#include "core/task.h"

enum { PEERS = 6, STEPS = 60, CALLS_MAX = 40, FEED_MAX = 3000, WRITE_MAX = 30000 };

static uint64_t seed, state;

static void say_seed(void)
{
    char text[100];
    int size = snprintf(text, sizeof text, "stress_stream --seed %" PRIu64 " 1\n", seed);
    if (write(STDERR_FILENO, text, (size_t)size) < 0)
        return;
}

static void crashed(int number)
{
    say_seed();
    signal(number, SIG_DFL);
    raise(number);
}

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

#define must(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                  \
            say_seed();                                                                                      \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static uint64_t dice(uint64_t sides)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % sides;
}

/* ---- what rondo logs, and what it allocates, pass by here ------------------------------------------------ */

static bool memory_is_short;

void __wrap_rondo_log(rondo_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

void __wrap_rondo_log(rondo_log_level level, const char *format, ...)
{
    (void)level, (void)format;
}

void *__real_memory_new(size_t size);
void *__real_memory_alloc(size_t size);
void *__wrap_memory_new(size_t size);
void *__wrap_memory_alloc(size_t size);

static bool memory_is_out(void)
{
    return memory_is_short && dice(30) == 0;
}

void *__wrap_memory_new(size_t size)
{
    return memory_is_out() ? NULL : __real_memory_new(size);
}

void *__wrap_memory_alloc(size_t size)
{
    return memory_is_out() ? NULL : __real_memory_alloc(size);
}

/* ---- bytes ----------------------------------------------------------------------------------------------- */

/* The byte at each place of a stream. A newline now and then. */
static char byte_at(uint64_t place)
{
    uint64_t mixed = place * 0x9e3779b97f4a7c15u;
    unsigned pick = (unsigned)(mixed >> 40);
    return pick % 37 == 0 ? '\n' : (char)('a' + pick % 26);
}

static void fill(char *bytes, size_t size, uint64_t place)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = byte_at(place + i);
}

/* ---- a handler ------------------------------------------------------------------------------------------- */

struct handler {
    rondo_stream *stream;
    uint64_t read, written; /* bytes */
    bool lost_count;        /* a line too long was dropped: so much isn't known */
    unsigned children;
};

static unsigned handlers_running;

static bool is_end(ssize_t rc)
{
    return rc == -ECANCELED || rc == -ECONNRESET || rc == -EPIPE || rc == -ETIMEDOUT || rc == -ENODATA ||
           rc == -ENOMEM;
}

static void check_read(struct handler *handler, ssize_t size, rondo_bytes data)
{
    must(size >= 0 || is_end(size) || size == -EMSGSIZE || size == -EBUSY);
    must(size < 0 || (size_t)size == data.size);
    bool is_taken = size >= 0 || size == -ENODATA;
    if (!is_taken)
        return;
    for (size_t i = 0; i < data.size && !handler->lost_count; i++)
        must(data.data[i] == byte_at(handler->read + i));
    handler->read += data.size;
}

static ssize_t read_somehow(struct handler *handler)
{
    static const rondo_bytes separators[] = { { "\n", 1 }, { "zq", 2 }, { "abc", 3 } };
    rondo_bytes data;
    ssize_t size;
    switch (dice(4)) {
    case 0:
        size = rondo_read(handler->stream, 1 + dice(2000), &data);
        break;
    case 1:
        size = rondo_readexactly(handler->stream, dice(1500), &data);
        break;
    case 2:
        size = rondo_readuntil(handler->stream, separators, 1 + dice(3), &data);
        break;
    default:
        size = rondo_readline(handler->stream, &data);
        handler->lost_count |= size == -EMSGSIZE;
        break;
    }
    check_read(handler, size, data);
    if (size > 0 && handler->children == 0 && dice(3) == 0) { /* the slice must outlive a wait */
        char copy[16];
        size_t kept = data.size < sizeof copy ? data.size : sizeof copy;
        memcpy(copy, data.data, kept);
        rondo_sleep(dice(3));
        must(memcmp(copy, data.data, kept) == 0);
    }
    return size == -EMSGSIZE || size == -EBUSY ? 1 : size;
}

static int write_somehow(struct handler *handler)
{
    static char bytes[WRITE_MAX];
    size_t size = dice(dice(4) == 0 ? WRITE_MAX : 300);
    fill(bytes, size, handler->written);
    if (!rondo_stream_is_closing(handler->stream))
        handler->written += size;
    if (dice(2) == 0) {
        rondo_stream_write(handler->stream, (rondo_bytes){ bytes, size });
    } else {
        rondo_bytes halves[] = { { bytes, size / 2 }, { bytes + size / 2, size - size / 2 } };
        rondo_stream_writelines(handler->stream, halves, 2);
    }
    return dice(2) == 0 ? rondo_drain(handler->stream) : 0;
}

static int be_a_child(void *argument)
{
    struct handler *handler = argument;
    rondo_bytes data;
    int rc = 0;
    for (uint64_t i = 0; i < 5 && rc == 0; i++) {
        switch (dice(4)) {
        case 0: {
            ssize_t size = rondo_read(handler->stream, 1 + dice(100), &data);
            check_read(handler, size, data);
            rc = size < 0 && size != -EBUSY ? (int)size : 0;
            break;
        }
        case 1:
            rc = rondo_drain(handler->stream);
            break;
        default:
            rc = rondo_sleep(dice(5));
        }
    }
    must(rc == 0 || is_end(rc));
    handler->children--;
    return rc;
}

static int spawn(struct handler *handler)
{
    const rondo_task_options options = { .run = be_a_child, .argument = handler, .name = "child" };
    rondo_task *child = NULL;
    bool is_kept = dice(2) == 0;
    handler->children++;
    rondo_loop *loop = rondo_task_get_loop(rondo_current_task());
    int rc = rondo_create_task(loop, &options, is_kept ? &child : NULL);
    if (rc < 0) {
        must(rc == -ESHUTDOWN || rc == -ENOMEM);
        handler->children--;
        return 0;
    }
    if (!is_kept || dice(3) == 0)
        return 0; /* it ends with its parent */
    if (dice(2) == 0)
        rondo_cancel(child);
    rc = rondo_join(child);
    must(rc == 0 || is_end(rc));
    return 0;
}

/* Whom some hand their connection to. */
static void ignore(rondo_transport *t, rondo_bytes data)
{
    unsigned *state = rondo_self(t);
    must(*state == 0 && data.size > 0);
}

static const rondo_protocol sink = { .name = "sink", .size = sizeof(unsigned), .data_received = ignore };

static int act(struct handler *handler)
{
    switch (dice(12)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4: {
        ssize_t size = read_somehow(handler);
        return size < 0 ? (int)size : 0;
    }
    case 5:
    case 6:
        return write_somehow(handler);
    case 7:
        return rondo_sleep(dice(10));
    case 8:
        return spawn(handler);
    case 9:
        rondo_timeout(dice(3) == 0 ? RONDO_NO_TIMEOUT : dice(50));
        return 0;
    case 10:
        if (dice(20) == 0)
            rondo_cancel(rondo_current_task());
        return 0;
    default:
        break;
    }
    switch (dice(40)) {
    case 0:
        rondo_stream_abort(handler->stream);
        return 0;
    case 1:
        rondo_stream_close(handler->stream);
        return dice(2) == 0 ? rondo_stream_wait_closed(handler->stream) : 0;
    case 2:
        rondo_stream_write_eof(handler->stream);
        return 0;
    case 3:
        if (rondo_stream_transport(handler->stream) != NULL)
            rondo_set_protocol(rondo_stream_transport(handler->stream), &sink);
        return 0;
    default:
        return 0;
    }
}

static void client_connected(rondo_stream *s)
{
    struct handler handler = { .stream = s };
    unsigned calls = (unsigned)dice(CALLS_MAX);
    handlers_running++;
    for (unsigned i = 0; i < calls; i++) {
        int rc = act(&handler);
        must(rc == 0 || is_end(rc));
        if (rc < 0 && dice(4) != 0)
            break; /* most give up; some go on */
    }
    while (handler.children > 0) /* they use what lies on this stack */
        rondo_sleep(1);
    handlers_running--;
}

/* ---- its peer -------------------------------------------------------------------------------------------- */

static rondo_stream_protocol table = { RONDO_STREAM_READER("stress"), .client_connected = client_connected };

struct client {
    rondo_test_peer *peer;
    uint64_t fed, seen; /* bytes */
    bool has_ended;
};

static void feed(struct client *client)
{
    static char bytes[FEED_MAX];
    size_t size = 1 + dice(dice(3) == 0 ? FEED_MAX : 50);
    fill(bytes, size, client->fed);
    if (!client->has_ended && rondo_test_feed(client->peer, (rondo_bytes){ bytes, size }) == 0)
        client->fed += size;
}

/* What has come is what was written, in order. */
static void look(struct client *client)
{
    rondo_bytes written = rondo_test_written(client->peer);
    for (size_t i = 0; i < written.size; i++)
        must(written.data[i] == byte_at(client->seen + i));
    client->seen += written.size;
    rondo_test_clear(client->peer);
}

static void step(rondo_test *test, struct client *client)
{
    switch (dice(20)) {
    case 0:
        rondo_test_feed_eof(client->peer);
        client->has_ended = true;
        break;
    case 1:
        if (dice(6) == 0) {
            rondo_test_reset(client->peer);
            client->has_ended = true;
        }
        break;
    case 2:
        if (dice(6) == 0) {
            rondo_test_disconnect(client->peer);
            client->has_ended = true;
        }
        break;
    case 3:
        rondo_test_set_room(client->peer, dice(2) == 0 ? RONDO_TEST_ANY_ROOM : dice(5000));
        break;
    case 4:
    case 5:
        rondo_test_advance(test, dice(30));
        break;
    case 6:
    case 7:
    case 8:
        look(client);
        break;
    default:
        feed(client);
    }
}

static void run(void)
{
    struct client clients[PEERS] = { 0 };
    bool is_short = dice(4) == 0;
    const rondo_app app = { .idle_timeout_ms = dice(3) == 0 ? 200 : 0 };
    rondo_test *test = rondo_test_open(&app);
    table.limit = 1 + dice(3000);
    if (dice(4) != 0)
        rondo_test_disturb(test, 1 + dice(1000000));
    for (unsigned i = 0; i < PEERS; i++)
        clients[i].peer = rondo_test_connect(test, &table.protocol);
    unsigned stops_at = dice(3) == 0 ? (unsigned)dice(STEPS * PEERS) : UINT32_MAX;
    for (unsigned i = 0; i < STEPS * PEERS; i++) {
        memory_is_short = is_short && dice(2) == 0;
        step(test, &clients[dice(PEERS)]);
        memory_is_short = false;
        if (i == stops_at)
            rondo_stop(rondo_test_loop(test));
    }
    for (unsigned i = 0; i < PEERS; i++)
        look(&clients[i]);
    must(rondo_test_close(test) == 0);
    must(handlers_running == 0);
}

static uint64_t number_of(const char *text)
{
    return strtoull(text, NULL, 10);
}

int main(int argc, char **argv)
{
    uint64_t first =
        getenv("RONDO_SEED") != NULL ? number_of(getenv("RONDO_SEED")) : (uint64_t)time(NULL) * 1000003;
    uint64_t count = 1000;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            first = number_of(argv[++i]);
        else
            count = number_of(argv[i]);
    }
    signal(SIGABRT, crashed);
    if (__sanitizer_set_death_callback != NULL)
        __sanitizer_set_death_callback(say_seed);
    for (seed = first; seed < first + count; seed++) {
        state = seed * 0x9e3779b97f4a7c15u + 1;
        dice(2);
        run();
    }
    printf("%" PRIu64 " runs from seed %" PRIu64 "\n", count, first);
    return 0;
}
