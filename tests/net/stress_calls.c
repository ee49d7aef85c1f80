/* Random calls on random transports, from inside random callbacks, on a kernel that does whatever a kernel may do: the
 * simulated engine, whose sockets lie in memory. What comes of it is compared with a small model of asyncio's rules,
 * after each step.
 *
 *   stress_calls [--seed N] [COUNT]
 *
 * Runs COUNT sequences, from seed N on (default: 100000, from 1). Each is made of its seed alone, so what fails is
 * repeated, with all that happens in it, by  stress_calls --seed N 1.
 *
 * The rules, beside those that the engine and the sanitizers watch over:
 *
 *   callbacks   connection_made first; then data; at most one eof_received, behind all that the peer sent; connection_lost
 *               once, and last. No data and no EOF while reading is paused, or closing. pause_writing and resume_writing by
 *               turns, on the right sides of the water marks. Nothing from inside a call but pause_writing
 *   bytes       the protocol gets what the peer sent, in order; the peer gets what was written before close and
 *               write_eof, in order, and all of it where the end is in order
 *   rest        when nothing is left to do, nobody waits for what is there: bytes are delivered, room is used, who closes is
 *               closed
 *   books       in the end no transport, buffer, operation or user of the loop is left */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <rondo/rondo.h>

#include "core/list.h"
#include "core/loop.h"
#include "core/simulated.h"
#include "net/service.h"
#include "net/transport.h"

enum {
    COUNT_DEFAULT = 100000,
    CONNECTIONS = 3,
    STREAM_MAX = 1 << 14, /* bytes one way of a connection */
    FILE_BYTES = 3000,
    DEPTH_MAX = 3,
    PASSED_MAX = 64,
    KINDS_OF_FD = 3,
    LINE_MAX_BYTES = 150,
};

/* One connection, as it should be. */
struct connection {
    unsigned index;
    rondo_transport *t; /* NULL from the end of connection_lost on */
    struct memory_socket *peer;
    int fd;
    bool is_unix;

    const rondo_protocol *protocol;
    bool made, lost, told_eof;
    bool closing, aborted;
    bool ended;         /* by a call, or by eof_received */
    size_t after_abort; /* no more than so many bytes arrive behind an abort */
    bool refused;       /* get_buffer gave none */
    bool broke_quietly; /* the peer broke while nothing was being sent, and nothing was lost */
    size_t written_at_break;
    const rondo_protocol *protocol_at_break;
    bool takes_descriptors; /* those from in_passed_then on */
    unsigned in_passed_then;
    uint64_t taken_at_pause; /* from the socket; UINT64_MAX: reading was not paused yet at the last rest */
    size_t fed_at_drain;
    uint64_t lost_ms;
    bool paused; /* by a call */
    bool told_pause;
    bool silently_over; /* pause_writing may have been owed to a protocol that has none */
    bool write_eof;
    bool shaken;     /* it may fail, or be closed by the server: the peer broke, or time passed */
    bool eof_closes; /* one of its protocols has no eof_received */
    bool deaf;       /* bytes went to a protocol that has no way to receive */
    bool drained;    /* the server stops */
    bool gone;       /* the peer has reset, or closed */
    bool sent_eof;   /* the peer has half-closed */
    size_t high, low;

    char in[STREAM_MAX]; /* what the peer sent */
    size_t fed, received;
    char out[STREAM_MAX]; /* what was written */
    size_t written, seen; /* seen: what the peer got, compared */
    bool out_is_cut;      /* a file could not be read to its end */

    const char *slice; /* in data_received: what was lent */
    size_t slice_size;
    char *memory; /* get_buffer's, of protocols that have it outside of their state */
    size_t memory_size, asked_size;
    char *asked; /* get_buffer's memory, in use */

    int64_t files[PASSED_MAX]; /* results that `sent` callbacks are owed */
    unsigned files_first, files_count;
    size_t out_places[PASSED_MAX]; /* of descriptors in `out` */
    unsigned out_passed, out_seen;
    size_t in_places[PASSED_MAX]; /* of descriptors in `in` */
    unsigned in_passed, in_got;
};

static struct {
    uint64_t seed, random;
    bool verbose;
    rondo_loop loop;
    rondo_app app;
    struct service_settings settings;
    struct connection connections[CONNECTIONS];
    unsigned count;
    struct connection *opening;
    struct connection *calling; /* inside a call of ours on this one */
    unsigned depth;
    int budget; /* of calls in callbacks */
    bool stopping, aborting;
    bool memory_is_short, has_lines;
    unsigned failures;  /* of allocations */
    const char *broken; /* the rule */
} run;

static int files[KINDS_OF_FD]; /* different ones, to be told from each other */
static int write_only, no_file;
static char file_bytes[FILE_BYTES];

static void random_calls(struct connection *c);

/* ---- chance --------------------------------------------------------------------------------------------- */

/* splitmix64 */
static uint64_t random_bits(void)
{
    uint64_t z = (run.random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static size_t below(size_t bound)
{
    return (size_t)(random_bits() % bound);
}

static bool one_in(size_t n)
{
    return below(n) == 0;
}

/* Mostly small ones. */
static size_t some_size(size_t most)
{
    size_t limit = one_in(8) ? most : one_in(3) ? 100 : 12;
    return below((limit < most ? limit : most) + 1);
}

/* ---- what is said --------------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    if (!run.verbose)
        return;
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%*s", (int)(2 * run.depth), "");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

static void broken(const struct connection *c, const char *rule)
{
    say("BROKEN: connection %d: %s", c != NULL ? (int)c->index : -1, rule);
    if (run.broken == NULL)
        run.broken = rule;
}

#define expect(c, condition, rule)                                                                           \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            broken(c, rule);                                                                                 \
    } while (0)

/* ---- memory --------------------------------------------------------------------------------------------- */

/* The linker puts these in the way (see tests/CMakeLists.txt). */
void *__real_memory_new(size_t size);
void *__real_memory_alloc(size_t size);
void *__real_memory_resize(void *memory, size_t size);
void *__wrap_memory_new(size_t size);
void *__wrap_memory_alloc(size_t size);
void *__wrap_memory_resize(void *memory, size_t size);

/* Whoever needs it may fail. */
static bool memory_is_out(void)
{
    if (!run.memory_is_short || !one_in(30))
        return false;
    say("(no memory)");
    run.failures++;
    for (unsigned i = 0; i < run.count; i++)
        run.connections[i].shaken = run.connections[i].refused = true;
    return true;
}

void *__wrap_memory_new(size_t size)
{
    return memory_is_out() ? NULL : __real_memory_new(size);
}

void *__wrap_memory_alloc(size_t size)
{
    return memory_is_out() ? NULL : __real_memory_alloc(size);
}

void *__wrap_memory_resize(void *memory, size_t size)
{
    return memory_is_out() ? NULL : __real_memory_resize(memory, size);
}

/* ---- rules that hold at any time ------------------------------------------------------------------------ */

static void check_output(struct connection *c)
{
    const struct memory_socket *peer = c->peer;
    size_t arrived = peer->read + peer->size;
    if (c->seen < peer->read)
        c->seen = peer->read; /* a reset destroyed it before it could be looked at */
    expect(c, arrived <= c->written, "the peer gets nothing that was not written");
    expect(c, !c->aborted || arrived <= c->after_abort, "behind an abort nothing is sent");
    if (arrived > c->written || arrived == c->seen)
        return;
    const char *from = peer->arrived + peer->begin + (c->seen - peer->read);
    expect(c, memcmp(from, c->out + c->seen, arrived - c->seen) == 0,
           "the peer gets what was written, in order");
    c->seen = arrived;
}

static void check_output_descriptors(struct connection *c)
{
    unsigned before = 0;
    for (const struct passed *passed = c->peer->passed; passed != NULL; passed = passed->next) {
        for (unsigned i = 0; i < passed->count; i++, before++) {
            if (c->out_seen + before >= c->out_passed)
                broken(c, "the peer gets no descriptor that was not passed");
            else
                expect(c, c->out_places[c->out_seen + before] == passed->place,
                       "a descriptor comes with the byte behind it");
        }
    }
}

static uint64_t now_ms(void)
{
    return engine_now_ns(run.loop.engine) / 1000000;
}

static void check_output_end(struct connection *c)
{
    if (c->peer->broken && !c->gone && !c->aborted && !c->shaken)
        expect(c, c->lost && now_ms() - c->lost_ms >= 1000, "an end in order is no reset, for a second");
    if (!c->peer->eof || c->gone)
        return;
    expect(c, c->write_eof || c->closing || c->lost || c->shaken || c->eof_closes,
           "no EOF without a call for it");
    bool whole = c->peer->broken || (c->peer->read + c->peer->size == c->written && !c->out_is_cut);
    expect(c, whole, "an EOF in order comes behind all that was written");
}

static bool takes_lines(const struct connection *c);

/* Lines are delivered when they are whole. */
static bool all_is_delivered(const struct connection *c)
{
    return c->received == c->fed ||
           (takes_lines(c) && memchr(c->in + c->received, '\n', c->fed - c->received) == NULL);
}

static void check_state(struct connection *c)
{
    if (c->t == NULL || c->lost)
        return;
    bool closing = rondo_is_closing(c->t);
    if (closing && !c->closing) {
        expect(c, c->shaken || (c->sent_eof && c->eof_closes), "nothing closes by itself");
        expect(c, c->shaken || c->deaf || all_is_delivered(c), "the EOF closes behind all that was sent");
    }
    expect(c, closing || !c->closing, "closing is for good");
    c->closing = closing;
    expect(c, rondo_is_reading(c->t) == (!c->paused && !c->closing),
           "is_reading: not paused and not closing");
    size_t low, high;
    rondo_get_write_buffer_limits(c->t, &low, &high);
    expect(c, low == c->low && high == c->high, "the limits are those that were set");
    expect(c, rondo_get_protocol(c->t) == c->protocol, "the protocol is the one that was set");
    expect(c, rondo_get_write_buffer_size(c->t) <= c->written, "no more waits than was written");
}

static void check_connection(struct connection *c)
{
    check_output(c);
    check_output_descriptors(c);
    check_output_end(c);
    check_state(c);
}

static void check(void)
{
    for (unsigned i = 0; i < run.count; i++)
        check_connection(&run.connections[i]);
    const char *violation = simulated_violation(run.loop.engine);
    if (violation != NULL)
        broken(NULL, violation);
}

/* ---- the protocols -------------------------------------------------------------------------------------- */

#define CANARY 0x5ca1ab1e

struct self {
    struct connection *connection;
    uint32_t canary;
    rondo_timer timer;
    rondo_call call;
    char memory[40];
    uint32_t canary_behind;
};

static void begin_state(struct connection *c)
{
    static const struct self zero;
    struct self *self = rondo_self(c->t);
    expect(c, memcmp(self, &zero, sizeof zero) == 0, "a new state is zeroed");
    expect(c, rondo_transport_of(self) == c->t, "the state leads back to its transport");
    self->connection = c;
    self->canary = self->canary_behind = CANARY;
}

/* Returns the connection, with the rules checked that hold for every callback. */
static struct connection *called(rondo_transport *t, const char *name)
{
    struct self *self = rondo_self(t);
    struct connection *c = self->connection;
    run.depth++;
    if (c == NULL || self->canary != CANARY || self->canary_behind != CANARY) {
        broken(NULL, "the state is intact");
        abort(); /* nothing can be said any more */
    }
    say("-> %u %s", c->index, name);
    expect(c, c->t == t && c->made, "connection_made comes first");
    expect(c, !c->lost, "nothing comes behind connection_lost");
    expect(c, run.calling == NULL || strcmp(name, "pause_writing") == 0,
           "nothing comes from inside a call but pause_writing");
    return c;
}

/* The end of a callback: random calls, as the protocol's own. */
static void go_on(struct connection *c)
{
    struct connection *calling = run.calling;
    run.calling = NULL;
    random_calls(c);
    check();
    run.calling = calling;
    run.depth--;
}

static void connection_made(rondo_transport *t)
{
    struct connection *c = run.opening;
    if (c == NULL || c->made) {
        broken(c, "connection_made comes once");
        abort();
    }
    run.opening = NULL;
    c->t = t;
    c->made = true;
    begin_state(c);
    called(t, "connection_made");
    go_on(c);
}

static void expect_reading(struct connection *c)
{
    expect(c, !c->paused, "nothing is delivered while reading is paused");
    expect(c, !c->closing && !rondo_is_closing(c->t), "nothing is delivered while closing");
    expect(c, !c->told_eof, "nothing is delivered behind the EOF");
    bool pushes_back = c->protocol->pause_writing == NULL;
    expect(c, !pushes_back || rondo_get_write_buffer_size(c->t) <= c->high,
           "who has no pause_writing is given nothing while much is unsent");
}

static void take(struct connection *c, const char *data, size_t size)
{
    expect(c, size > 0, "data_received is never empty");
    expect_reading(c);
    if (c->received + size > c->fed) {
        broken(c, "no more is received than was sent");
        return;
    }
    expect(c, c->deaf || memcmp(c->in + c->received, data, size) == 0,
           "what is received is what was sent, in order");
    c->received += size;
    unsigned next = c->in_got > c->in_passed_then ? c->in_got : c->in_passed_then;
    expect(c, !c->takes_descriptors || c->deaf || next == c->in_passed || c->in_places[next] >= c->received,
           "a descriptor that was passed comes");
}

static void data_received(rondo_transport *t, rondo_bytes data)
{
    struct connection *c = called(t, "data_received");
    say("   %zu bytes", data.size);
    take(c, data.data, data.size);
    c->slice = data.data;
    c->slice_size = data.size;
    go_on(c);
    c->slice = NULL;
}

/* A part of it only: the rest is handed back, as the receivers of proto/ do. */
static void data_received_in_part(rondo_transport *t, rondo_bytes data)
{
    struct connection *c = called(t, "data_received");
    size_t size = data.size;
    const rondo_protocol *protocol = c->protocol;
    for (;;) {
        size_t part = 1 + below(size);
        say("   %zu of %zu bytes", part, size);
        take(c, data.data, part);
        c->slice = data.data;
        c->slice_size = part;
        run.depth++;
        go_on(c);
        c->slice = NULL;
        data.data += part;
        size -= part;
        if (size == 0 || c->protocol != protocol || !transport_may_deliver(t))
            break;
    }
    if (size > 0 && !rondo_is_closing(t))
        transport_unread(t, (rondo_bytes){ data.data, size });
    run.depth--;
}

static void line_received(rondo_transport *t, rondo_bytes line)
{
    struct connection *c = called(t, "line_received");
    say("   %zu bytes", line.size);
    if (line.size > 0)
        take(c, line.data, line.size);
    take(c, "\n", 1);
    c->slice = line.data;
    c->slice_size = line.size;
    go_on(c);
    c->slice = NULL;
}

static void line_length_exceeded(rondo_transport *t, rondo_bytes line)
{
    struct connection *c = called(t, "line_length_exceeded");
    expect(c, line.size == LINE_MAX_BYTES + 1, "of a line too long the beginning is told");
    expect_reading(c);
    c->deaf = true; /* the rest goes by */
    go_on(c);
}

static rondo_buffer give(struct connection *c, char *memory, size_t size)
{
    expect(c, !c->paused && !c->closing, "no memory is asked for while nothing may be delivered");
    c->asked = memory;
    c->asked_size = size;
    go_on(c);
    if (one_in(100)) {
        say("   none");
        c->shaken = c->refused = true;
        return (rondo_buffer){ NULL, 0 };
    }
    return (rondo_buffer){ memory, size };
}

static rondo_buffer get_buffer_inside(rondo_transport *t, size_t size_hint)
{
    struct connection *c = called(t, "get_buffer");
    struct self *self = rondo_self(t);
    (void)size_hint;
    return give(c, self->memory, 1 + below(sizeof self->memory));
}

static rondo_buffer get_buffer_outside(rondo_transport *t, size_t size_hint)
{
    struct connection *c = called(t, "get_buffer");
    (void)size_hint;
    return give(c, c->memory, c->memory_size);
}

static void buffer_updated(rondo_transport *t, size_t nbytes)
{
    struct connection *c = called(t, "buffer_updated");
    say("   %zu bytes", nbytes);
    expect(c, nbytes <= c->asked_size, "no more is received than there is memory");
    take(c, c->asked, nbytes);
    go_on(c);
}

static bool eof_received(rondo_transport *t)
{
    struct connection *c = called(t, "eof_received");
    expect_reading(c);
    expect(c, c->sent_eof, "an EOF was sent");
    expect(c, c->deaf || all_is_delivered(c), "the EOF comes behind all that was sent");
    c->told_eof = true;
    bool stays = one_in(2);
    go_on(c);
    say("   %s", stays ? "stays open" : "closes");
    if (!stays)
        c->closing = c->ended = true;
    return stays;
}

static void pause_writing(rondo_transport *t)
{
    struct connection *c = called(t, "pause_writing");
    expect(c, !c->told_pause, "pause_writing comes once, until resume_writing");
    expect(c, rondo_get_write_buffer_size(t) > c->high, "pause_writing comes above the high-water mark");
    expect(c, run.calling == c, "pause_writing comes from inside a call that writes");
    c->told_pause = true;
    go_on(c);
}

static void resume_writing(rondo_transport *t)
{
    struct connection *c = called(t, "resume_writing");
    expect(c, c->told_pause || c->silently_over, "resume_writing comes behind pause_writing");
    expect(c, rondo_get_write_buffer_size(t) <= c->low, "resume_writing comes at the low-water mark");
    c->told_pause = c->silently_over = false;
    go_on(c);
}

static void check_descriptor(struct connection *c, int fd)
{
    struct stat got, wanted;
    while (c->in_got < c->in_passed && c->in_places[c->in_got] < c->received)
        c->in_got++; /* went to a protocol that takes none */
    if (c->in_got == c->in_passed) {
        broken(c, "no descriptor comes that was not passed");
        return;
    }
    expect(c, c->in_places[c->in_got] == c->received,
           "a descriptor comes before the byte it was passed with");
    fstat(fd, &got);
    fstat(files[c->in_got % KINDS_OF_FD], &wanted);
    expect(c, got.st_ino == wanted.st_ino, "descriptors come in order");
    c->in_got++;
}

static void file_descriptor_received(rondo_transport *t, int fd)
{
    struct connection *c = called(t, "file_descriptor_received");
    expect_reading(c);
    if (!c->deaf) /* else nobody knows where in the stream it is */
        check_descriptor(c, fd);
    close(fd);
    go_on(c);
}

/* The error was told by a receive: a send would have needed something to send. */
static bool breaks_by_receive(const struct connection *c)
{
    return c->broke_quietly && c->written == c->written_at_break && c->protocol == c->protocol_at_break &&
           !c->ended && !c->write_eof && !c->drained && !c->refused && !c->out_is_cut && !c->deaf &&
           run.settings.idle_timeout_ms == 0 && !run.aborting;
}

static void connection_lost(rondo_transport *t, int error)
{
    struct connection *c = called(t, "connection_lost");
    say("   %d", error);
    struct self *self = rondo_self(t);
    expect(c, error <= 0, "an error is negative");
    expect(c, error == 0 || c->shaken, "no error without a cause");
    expect(c, error != 0 || c->ended || c->drained || (c->sent_eof && c->eof_closes),
           "no end in order without a cause");
    expect(c, rondo_is_closing(t), "who is lost is closing");
    expect(c, !breaks_by_receive(c) || (all_is_delivered(c) && !c->paused),
           "an error comes behind what was sent before");
    bool in_order = error == 0 && !c->aborted && !c->shaken;
    expect(c, !in_order || c->peer->read + c->peer->size == c->written,
           "in order everything is sent before connection_lost");
    expect(c, !in_order || c->files_first == c->files_count, "each file that was sent is told");
    c->lost = c->closing = true;
    c->lost_ms = now_ms();
    rondo_timer_cancel(&self->timer);
    rondo_call_cancel(&self->call);
    go_on(c);
    rondo_timer_cancel(&self->timer);
    rondo_call_cancel(&self->call);
    expect(c, self->canary == CANARY && self->canary_behind == CANARY, "the state is intact to the end");
    c->t = NULL;
}

#define OF_ALL                                                                                               \
    .size = sizeof(struct self), .connection_made = connection_made, .connection_lost = connection_lost
#define WITH_FLOW .pause_writing = pause_writing, .resume_writing = resume_writing

static const rondo_protocol protocols[] = {
    { .name = "data, flow", OF_ALL, WITH_FLOW, .data_received = data_received, .eof_received = eof_received },
    { .name = "data", OF_ALL, .data_received = data_received, .eof_received = eof_received },
    { .name = "data, no eof", OF_ALL, WITH_FLOW, .data_received = data_received },
    { .name = "in part", OF_ALL, .data_received = data_received_in_part, .eof_received = eof_received },
    { .name = "in part, flow", OF_ALL, WITH_FLOW, .data_received = data_received_in_part },
    { .name = "buffer inside",
      OF_ALL,
      WITH_FLOW,
      .get_buffer = get_buffer_inside,
      .buffer_updated = buffer_updated,
      .eof_received = eof_received },
    { .name = "buffer outside",
      OF_ALL,
      .get_buffer = get_buffer_outside,
      .buffer_updated = buffer_updated,
      .eof_received = eof_received },
    { .name = "descriptors",
      OF_ALL,
      WITH_FLOW,
      .data_received = data_received,
      .file_descriptor_received = file_descriptor_received,
      .eof_received = eof_received },
    { .name = "descriptors, buffer",
      OF_ALL,
      .get_buffer = get_buffer_outside,
      .buffer_updated = buffer_updated,
      .file_descriptor_received = file_descriptor_received },
    { .name = "deaf", OF_ALL },
};

static const rondo_line_protocol lines = {
    RONDO_LINE_RECEIVER("lines", sizeof(struct self)),
    .protocol.connection_made = connection_made,
    .protocol.connection_lost = connection_lost,
    .protocol.eof_received = eof_received,
    .protocol.pause_writing = pause_writing,
    .protocol.resume_writing = resume_writing,
    .line_received = line_received,
    .line_length_exceeded = line_length_exceeded,
    .max_length = LINE_MAX_BYTES,
};

static bool takes_lines(const struct connection *c)
{
    return c->protocol == &lines.protocol;
}

enum { PROTOCOLS = sizeof protocols / sizeof *protocols };

static const rondo_protocol *some_protocol(void)
{
    if (run.has_lines && one_in(4))
        return &lines.protocol;
    return &protocols[below(one_in(8) ? PROTOCOLS : PROTOCOLS - 1)];
}

static void protocol_is(struct connection *c, const rondo_protocol *protocol)
{
    c->protocol = protocol;
    c->eof_closes |= protocol->eof_received == NULL;
    c->deaf |= protocol->data_received == NULL && protocol->get_buffer == NULL;
}

/* ---- calls on transports -------------------------------------------------------------------------------- */

static bool takes_bytes(const struct connection *c)
{
    return !c->closing && !c->lost && !c->write_eof && !rondo_is_closing(c->t);
}

/* From here to leave_call only pause_writing may come. */
static void enter_call(struct connection *c)
{
    run.calling = c;
}

static void leave_call(void)
{
    run.calling = NULL;
}

/* pause_writing was due, at the latest, at the end of the call. */
static void check_high_water(struct connection *c)
{
    if (c->lost || rondo_get_write_buffer_size(c->t) <= c->high)
        return;
    if (c->protocol->pause_writing == NULL)
        c->silently_over = true;
    else if (!rondo_is_closing(c->t))
        expect(c, c->told_pause || c->silently_over, "above the high-water mark pause_writing has come");
}

static void note_written(struct connection *c, const char *data, size_t size)
{
    memcpy(c->out + c->written, data, size);
    c->written += size;
}

static size_t room_to_write(const struct connection *c)
{
    return STREAM_MAX - c->written;
}

static const char static_bytes[] =
    "a constant that lives as long as the process and is not changed, of some length";

/* Bytes from somewhere: the lent ones, ones of our own, a constant's. */
static rondo_bytes some_bytes(struct connection *c, char *own, size_t own_size, bool *is_static)
{
    const struct connection *lender = &run.connections[below(run.count)];
    *is_static = false;
    if (lender->slice != NULL && lender->slice_size > 0 && !one_in(3)) {
        size_t begin = one_in(2) ? 0 : below(lender->slice_size);
        size_t size = one_in(2) ? lender->slice_size - begin : below(lender->slice_size - begin + 1);
        if (size <= room_to_write(c))
            return (rondo_bytes){ lender->slice + begin, size };
    }
    if (one_in(6)) {
        *is_static = true;
        size_t most = sizeof static_bytes - 1 < room_to_write(c) ? sizeof static_bytes - 1 : room_to_write(c);
        return (rondo_bytes){ static_bytes, below(most + 1) };
    }
    size_t size = some_size(own_size < room_to_write(c) ? own_size : room_to_write(c));
    for (size_t i = 0; i < size; i++)
        own[i] = (char)random_bits();
    return (rondo_bytes){ own, size };
}

static void call_write(struct connection *c)
{
    char own[700];
    bool is_static;
    rondo_bytes data = some_bytes(c, own, sizeof own, &is_static);
    say("%u %s %zu", c->index, is_static ? "write_static" : "write", data.size);
    if (takes_bytes(c))
        note_written(c, data.data, data.size);
    enter_call(c);
    if (is_static)
        rondo_write_static(c->t, data);
    else
        rondo_write(c->t, data);
    leave_call();
    memset(own, 0x5a, sizeof own); /* it was copied */
    check_high_water(c);
}

/* More slices than leave with one send. */
static void call_write_many(struct connection *c)
{
    size_t count = ENGINE_SEND_SLICES_MAX / 2 + below(ENGINE_SEND_SLICES_MAX);
    if (!one_in(4) || room_to_write(c) < 3 * count)
        return;
    say("%u write_static %zu times", c->index, count);
    for (; count > 0; count--) {
        rondo_bytes data = { static_bytes + below(40), 1 + below(3) };
        if (takes_bytes(c))
            note_written(c, data.data, data.size);
        enter_call(c);
        rondo_write_static(c->t, data);
        leave_call();
        check_high_water(c);
    }
}

static void call_writelines(struct connection *c)
{
    char own[4][120];
    rondo_bytes lines[4];
    bool accepted = takes_bytes(c), is_static;
    size_t count = below(5), before = c->written;
    for (size_t i = 0; i < count; i++) {
        lines[i] = some_bytes(c, own[i], sizeof own[i], &is_static);
        note_written(c, lines[i].data, lines[i].size);
    }
    if (!accepted)
        c->written = before;
    say("%u writelines %zu", c->index, count);
    enter_call(c);
    rondo_writelines(c->t, lines, count);
    leave_call();
    memset(own, 0x5a, sizeof own);
    check_high_water(c);
}

static void call_send_line(struct connection *c)
{
    char own[100];
    bool is_static;
    rondo_bytes line = some_bytes(c, own, sizeof own, &is_static);
    if (!takes_lines(c) || room_to_write(c) < line.size + 1)
        return;
    say("%u send_line %zu", c->index, line.size);
    if (takes_bytes(c)) {
        note_written(c, line.data, line.size);
        note_written(c, "\n", 1);
    }
    enter_call(c);
    rondo_send_line(c->t, line);
    leave_call();
    memset(own, 0x5a, sizeof own);
    check_high_water(c);
}

static void call_write_eof(struct connection *c)
{
    say("%u write_eof", c->index);
    expect(c, rondo_can_write_eof(c->t), "a stream can half-close");
    if (!c->closing && !rondo_is_closing(c->t))
        c->write_eof = true;
    enter_call(c);
    rondo_write_eof(c->t);
    leave_call();
}

static void call_close(struct connection *c)
{
    say("%u close", c->index);
    enter_call(c);
    rondo_close(c->t);
    c->closing = c->ended = true;
    leave_call();
}

static void call_abort(struct connection *c)
{
    say("%u abort", c->index);
    if (!c->aborted)
        c->after_abort = c->t->send.in_kernel ? SIZE_MAX : c->peer->read + c->peer->size;
    enter_call(c);
    rondo_abort(c->t);
    c->closing = c->aborted = c->ended = true;
    leave_call();
}

static void call_pause_reading(struct connection *c)
{
    say("%u pause_reading", c->index);
    if (!c->closing && !rondo_is_closing(c->t))
        c->paused = true;
    enter_call(c);
    rondo_pause_reading(c->t);
    leave_call();
}

static void call_resume_reading(struct connection *c)
{
    say("%u resume_reading", c->index);
    c->taken_at_pause = UINT64_MAX;
    if (!c->closing && !rondo_is_closing(c->t))
        c->paused = false;
    enter_call(c);
    rondo_resume_reading(c->t);
    leave_call();
}

static size_t some_limit(void)
{
    return one_in(5) ? RONDO_LIMIT_DEFAULT : one_in(4) ? 0 : some_size(500);
}

/* As asyncio's _FlowControlMixin computes them. */
static void call_set_limits(struct connection *c)
{
    size_t high = some_limit(), low = some_limit();
    size_t new_high = high != RONDO_LIMIT_DEFAULT ? high : low != RONDO_LIMIT_DEFAULT ? 4 * low : 65536;
    size_t new_low = low != RONDO_LIMIT_DEFAULT ? low : new_high / 4;
    bool is_valid = new_high >= new_low;
    say("%u set_write_buffer_limits %zd %zd", c->index, (ssize_t)high, (ssize_t)low);
    if (is_valid) {
        c->high = new_high;
        c->low = new_low;
    }
    enter_call(c);
    int rc = rondo_set_write_buffer_limits(c->t, high, low);
    leave_call();
    expect(c, rc == (is_valid ? 0 : -EINVAL), "limits the wrong way round are refused, others are not");
    check_high_water(c);
}

static void call_get_extra_info(struct connection *c)
{
    static const char *const names[] = { "socket", "peername", "sockname", "shard", "password" };
    union {
        struct sockaddr_storage name;
        int number;
    } value = { .number = -1 };
    size_t which = below(5), size = one_in(8) ? 1 : sizeof value;
    say("%u get_extra_info %s", c->index, names[which]);
    int rc = rondo_get_extra_info(c->t, names[which], &value, size);
    if (which == 4)
        expect(c, rc == -ENOENT, "an unknown name is refused");
    else
        expect(c, rc == (size == 1 ? -EINVAL : 0), "what is known is told, up to connection_lost");
    if (which == 0 && rc == 0)
        expect(c, value.number == c->fd, "the socket is the connection's");
}

static void call_set_protocol(struct connection *c)
{
    const rondo_protocol *protocol = some_protocol();
    struct self *before = rondo_self(c->t);
    say("%u set_protocol %s", c->index, protocol->name);
    rondo_timer_cancel(&before->timer);
    rondo_call_cancel(&before->call);
    unsigned failures = run.failures;
    enter_call(c);
    int rc = rondo_set_protocol(c->t, protocol);
    leave_call();
    expect(c,
           rc == (c->lost                   ? -ENOTCONN
                  : run.failures > failures ? -ENOMEM
                                            : 0),
           "a protocol can be set until the connection is lost");
    if (rc < 0)
        return;
    if (c->protocol->pause_writing != NULL && protocol->pause_writing == NULL && c->told_pause) {
        c->silently_over = true;
        c->told_pause = false;
    }
    protocol_is(c, protocol);
    c->takes_descriptors = false; /* as long as the receive is the old one's */
    expect(c, before->canary == CANARY && before->connection == c, "the old state lives on for a while");
    begin_state(c);
}

static void file_sent(rondo_transport *t, int64_t nbytes)
{
    struct connection *c = called(t, "sent");
    say("   %" PRId64, nbytes);
    if (c->files_first == c->files_count)
        broken(c, "a file is told once");
    else
        expect(c, c->files[c->files_first++] == nbytes, "a file is told with its size, in order");
    go_on(c);
}

static bool descriptor_waits(const struct connection *c)
{
    return c->out_passed > 0 && c->out_places[c->out_passed - 1] == c->written;
}

static void call_sendfile(struct connection *c)
{
    int fd = one_in(12) ? no_file : one_in(12) ? write_only : files[0];
    uint64_t offset = one_in(10) ? FILE_BYTES + below(10) : below(FILE_BYTES);
    uint64_t count = one_in(5) ? RONDO_TO_THE_END : one_in(8) ? 0 : 1 + some_size(800);
    uint64_t there = offset < FILE_BYTES ? FILE_BYTES - offset : 0;
    size_t size = (size_t)(count < there ? count : there);
    bool told = one_in(2), readable = fd != write_only;
    if (size > room_to_write(c) || c->files_count == PASSED_MAX)
        return;
    int wanted = !takes_bytes(c) ? -EPIPE : count == 0 || fd == no_file || descriptor_waits(c) ? -EINVAL : 0;
    say("%u sendfile %" PRIu64 " %" PRIu64 "%s%s", c->index, offset, count, told ? ", told" : "",
        readable ? "" : ", not readable");
    unsigned failures = run.failures;
    enter_call(c);
    int rc = rondo_sendfile(c->t, fd, offset, count, told ? file_sent : NULL);
    leave_call();
    expect(c, rc == (run.failures > failures ? -ENOMEM : wanted),
           "sendfile refuses what it must, and nothing else");
    if (rc < 0)
        return;
    if (readable)
        note_written(c, file_bytes + (offset < FILE_BYTES ? offset : 0), size);
    if (told)
        c->files[c->files_count++] = readable ? (int64_t)size : -EBADF;
    else if (!readable)
        c->shaken = c->out_is_cut = true; /* it will end */
}

static void call_send_descriptor(struct connection *c)
{
    if (c->out_passed == PASSED_MAX)
        return;
    bool accepted = takes_bytes(c);
    say("%u send_file_descriptor", c->index);
    unsigned failures = run.failures;
    enter_call(c);
    int rc = rondo_send_file_descriptor(c->t, files[c->out_passed % KINDS_OF_FD]);
    leave_call();
    int refusal = !c->is_unix ? -ENOTSUP : !accepted ? -EPIPE : run.failures > failures ? -ENOMEM : 0;
    expect(c, rc == refusal, "descriptors pass a Unix socket that is open");
    if (rc == 0)
        c->out_places[c->out_passed++] = c->written;
}

static void timer_expired(rondo_timer *timer)
{
    struct self *self = rondo_container_of(timer, struct self, timer);
    struct connection *c = called(rondo_transport_of(self), "(timer)");
    go_on(c);
}

static void call_made(rondo_call *call)
{
    struct self *self = rondo_container_of(call, struct self, call);
    struct connection *c = called(rondo_transport_of(self), "(call)");
    go_on(c);
}

static void call_call_later(struct connection *c)
{
    struct self *self = rondo_self(c->t);
    uint64_t delay_ms = below(20);
    say("%u call_later %d", c->index, (int)delay_ms);
    rondo_call_later(&run.loop, &self->timer, delay_ms, timer_expired);
}

static void call_call_soon(struct connection *c)
{
    struct self *self = rondo_self(c->t);
    if (list_contains_link(&self->call._link))
        return;
    say("%u call_soon", c->index);
    rondo_call_soon(&run.loop, &self->call, call_made);
}

typedef void call_on(struct connection *c);

static call_on *const calls[] = {
    call_write,          call_write,          call_write,          call_write,         call_writelines,
    call_write_eof,      call_close,          call_abort,          call_pause_reading, call_pause_reading,
    call_resume_reading, call_resume_reading, call_resume_reading, call_set_limits,    call_set_limits,
    call_get_extra_info, call_set_protocol,   call_set_protocol,   call_sendfile,      call_send_descriptor,
    call_call_later,     call_call_soon,      call_write_many,     call_send_line,     call_send_line,
};

/* The ends come rarely, that there is something to end. */
static bool is_too_early(call_on *call)
{
    return (call == call_close || call == call_abort || call == call_write_eof) && !one_in(5);
}

static void random_call(struct connection *c)
{
    call_on *call = calls[below(sizeof calls / sizeof *calls)];
    if (c->t == NULL || !c->made || is_too_early(call))
        return;
    call(c);
    check_connection(c);
}

/* ---- the world ------------------------------------------------------------------------------------------ */

static void peer_sends(struct connection *c)
{
    size_t size = some_size(STREAM_MAX - c->fed < 900 ? STREAM_MAX - c->fed : 900);
    if (size == 0 || c->sent_eof || c->gone || c->peer->other == NULL)
        return;
    int passed[3];
    unsigned count = c->is_unix && one_in(3) && c->in_passed + 3 <= PASSED_MAX ? 1 + (unsigned)below(3) : 0;
    for (unsigned i = 0; i < count; i++) {
        passed[i] = files[c->in_passed % KINDS_OF_FD];
        c->in_places[c->in_passed++] = c->fed;
    }
    for (size_t i = 0; i < size; i++)
        c->in[c->fed + i] = run.has_lines && one_in(12) ? '\n' : (char)random_bits();
    struct iovec slice = { c->in + c->fed, size };
    int sent = memory_socket_send(c->peer, &slice, 1, size, passed, count);
    say("peer %u sends %zu%s: %d", c->index, size, count > 0 ? " with descriptors" : "", sent);
    if (sent > 0)
        c->fed += (size_t)sent;
}

static void peer_half_closes(struct connection *c)
{
    if (!one_in(5))
        return;
    say("peer %u half-closes", c->index);
    memory_socket_half_close(c->peer);
    c->sent_eof = true;
}

static void peer_breaks(struct connection *c)
{
    if (!one_in(8) || c->peer->other == NULL || c->gone)
        return;
    static const int errors[] = { -ECONNRESET, -ETIMEDOUT, -EHOSTUNREACH };
    int error = errors[one_in(3) ? below(3) : 0];
    bool unread_too = one_in(2);
    say("peer %u breaks the connection: %d%s", c->index, error,
        unread_too ? ", and what was unread is lost" : "");
    memory_socket_break(c->peer->other, error, unread_too);
    memory_socket_break(c->peer, 0, false);
    c->gone = c->shaken = true;
    c->written_at_break = c->written;
    c->protocol_at_break = c->protocol;
    c->broke_quietly =
        !unread_too && c->t != NULL && !c->t->send.in_kernel && c->peer->read + c->peer->size == c->written;
}

static void peer_disconnects(struct connection *c)
{
    if (!one_in(8) || c->gone)
        return;
    say("peer %u closes", c->index);
    memory_socket_half_close(c->peer);
    c->peer->broken = c->gone = c->sent_eof = c->shaken = true;
}

static void forget_descriptors(struct connection *c, uint64_t place)
{
    while (c->out_seen < c->out_passed && c->out_places[c->out_seen] < place)
        c->out_seen++;
}

static void peer_reads(struct connection *c)
{
    char bytes[2000];
    check_output(c); /* before they are gone */
    size_t size = one_in(2) ? sizeof bytes : 1 + some_size(sizeof bytes - 1);
    if (c->peer->size == 0)
        return;
    int read = memory_socket_receive(c->peer, bytes, size, NULL, 0, NULL);
    say("peer %u reads %d", c->index, read);
    forget_descriptors(c, c->peer->read);
}

static void peer_has_room(struct connection *c)
{
    size_t room = one_in(3) ? SIZE_MAX : one_in(3) ? 0 : some_size(1000);
    c->peer->room = room;
    c->peer->window = one_in(2) ? SIZE_MAX : some_size(100);
    say("peer %u has room for %zd", c->index, (ssize_t)room);
}

static call_on *const events[] = {
    peer_sends,       peer_sends, peer_sends, peer_sends,    peer_half_closes, peer_breaks,
    peer_disconnects, peer_reads, peer_reads, peer_has_room, peer_has_room,
};

static void random_event(struct connection *c)
{
    events[below(sizeof events / sizeof *events)](c);
}

/* What a callback does: calls, mostly on its own transport; and meanwhile the world goes on. */
static void random_calls(struct connection *c)
{
    if (run.depth > DEPTH_MAX)
        return;
    for (size_t n = one_in(2) ? 0 : below(4); n > 0 && run.budget > 0; n--, run.budget--) {
        struct connection *target = one_in(5) ? &run.connections[below(run.count)] : c;
        if (one_in(8))
            random_event(target);
        else
            random_call(target);
    }
}

static void owner_lost(struct transport_owner *owner, rondo_transport *t, int error)
{
    (void)owner;
    (void)t;
    (void)error;
}

static struct transport_owner owner = { .is_server = true, .lost = owner_lost };

static void drain_begins(struct connection *c)
{
    c->shaken = c->drained = true;
    c->fed_at_drain = c->fed;
}

static void open_connection(void)
{
    if (run.count == CONNECTIONS)
        return;
    struct connection *c = &run.connections[run.count];
    memset(c, 0, offsetof(struct connection, in));
    c->fed = c->received = c->written = c->seen = 0;
    memset(&c->out_is_cut, 0, sizeof *c - offsetof(struct connection, out_is_cut));
    c->index = run.count++;
    c->is_unix = one_in(3);
    c->high = 65536;
    c->low = 16384;
    c->taken_at_pause = UINT64_MAX;
    c->memory_size = 1 + some_size(200);
    c->memory = malloc(c->memory_size);
    protocol_is(c, some_protocol());
    int fds[2];
    int family = c->is_unix ? AF_UNIX : AF_INET;
    simulated_connect(run.loop.engine, family, fds);
    c->fd = fds[0];
    c->peer = memory_socket_of(simulated_sockets(run.loop.engine), fds[1]);
    struct service *service = service_of(&run.loop);
    service_admit(service);
    if (run.stopping)
        drain_begins(c);
    say("connection %u, %s: %s", c->index, c->is_unix ? "unix" : "tcp", c->protocol->name);
    if (one_in(2))
        peer_sends(c);
    run.opening = c;
    struct transport_start start = {
        .owner = one_in(2) ? &owner : NULL,
        .protocol = c->protocol,
        .fd = fds[0],
        .family = family,
        .later = one_in(2),
    };
    c->t = transport_open(service, &start);
    if (c->t == NULL) {
        expect(c, run.memory_is_short && c->peer->other == NULL, "without memory a connection is closed");
        c->lost = c->aborted = true;
        run.opening = NULL;
        return;
    }
    for (int turns = 0; !c->made && turns < 2; turns++)
        loop_turn(&run.loop, 0);
    expect(c, c->made, "connection_made comes with the next turn");
    c->fed_at_drain = c->fed;
    run.opening = NULL;
}

static bool is_at_rest(void)
{
    const rondo_loop *loop = &run.loop;
    return list_is_empty(&loop->flush) && list_is_empty(&loop->soon) && simulated_is_idle(loop->engine) &&
           timers_next_ms(&loop->timers) > engine_now_ns(loop->engine) / 1000000;
}

/* Who is paused gets no further ahead than by the receive that is under way. */
static void check_pause(struct connection *c)
{
    const struct memory_socket *own = c->peer->other;
    bool is_paused = c->paused && !c->closing && own != NULL && c->protocol->file_descriptor_received == NULL;
    if (!is_paused || c->taken_at_pause == UINT64_MAX) {
        c->taken_at_pause = is_paused ? own->read : UINT64_MAX;
        return;
    }
    size_t most = run.loop.engine->buffers.size_bytes;
    if (c->protocol->get_buffer != NULL && c->asked_size > most)
        most = c->asked_size;
    expect(c, own->read - c->taken_at_pause <= most || own->broken,
           "while reading is paused the peer is held back");
}

/* Nothing is left to do: nobody waits for what is there. */
static void check_rest(struct connection *c)
{
    if (c->t == NULL)
        return;
    check_pause(c);
    if (c->is_unix && c->protocol->file_descriptor_received != NULL && !c->takes_descriptors) {
        c->takes_descriptors = true;
        c->in_passed_then = c->in_passed;
    }
    expect(c, c->t->output.lent == 0, "who doesn't read keeps no buffer");
    size_t unsent = c->written - c->seen;
    bool has_room = c->peer->size < c->peer->room;
    expect(c, c->gone || !has_room || unsent == 0 || c->closing, "what was written uses the room there is");
    if (c->closing) {
        expect(c, !has_room || c->gone, "who closes, and has room, is closed");
        return;
    }
    size_t buffered = rondo_get_write_buffer_size(c->t);
    expect(c, !c->write_eof || unsent > 0 || c->peer->eof || c->gone, "write_eof is seen when all is sent");
    expect(c, buffered > c->low || !c->told_pause, "at the low-water mark resume_writing has come");
    expect(c, c->gone || c->files_first < c->files_count || buffered <= unsent, "what waits is counted");
    expect(c, !has_room || c->gone || c->files_first == c->files_count, "each file that was sent is told");

    if (c->drained && c->received > 0 && !c->deaf)
        expect(c, c->received < c->fed_at_drain, "a server that stops closes who has got all");
    bool pushed_back = c->protocol->pause_writing == NULL && buffered > c->low;
    if (c->paused || pushed_back || c->deaf || c->told_eof || c->drained || c->peer->other == NULL)
        return;
    if (c->shaken && c->peer->other->broken)
        return; /* what was unread may be lost */
    expect(c, all_is_delivered(c), "what has come is delivered");
    expect(c, !c->sent_eof || c->protocol->eof_received == NULL, "the EOF is delivered");
}

static void turn(void)
{
    say("turn");
    loop_turn(&run.loop, 0);
    check();
}

static void come_to_rest(void)
{
    for (unsigned turns = 0; !is_at_rest() && run.broken == NULL; turns++) {
        if (turns == 20000) {
            broken(NULL, "it comes to rest");
            return;
        }
        turn();
    }
    say("at rest");
    const struct buffers *buffers = &run.loop.engine->buffers;
    expect(NULL, buffers->lent <= buffers->count / 2,
           "who doesn't read leaves half of the buffers to the others");
    for (unsigned i = 0; i < run.count; i++)
        check_rest(&run.connections[i]);
}

static void let_time_pass(void)
{
    uint64_t ms = one_in(10) ? 1100 : below(30);
    say("%d ms pass", (int)ms);
    simulated_advance(run.loop.engine, ms * 1000000);
    if (run.settings.idle_timeout_ms > 0) {
        for (unsigned i = 0; i < run.count; i++)
            run.connections[i].shaken = true;
    }
    turn();
}

static void stop_server(void)
{
    if (!one_in(10))
        return;
    say("the server stops");
    for (unsigned i = 0; i < run.count; i++)
        drain_begins(&run.connections[i]);
    run.stopping = true;
    service_hooks.drain(&run.loop);
}

static void step(void)
{
    struct connection *c = &run.connections[below(run.count)];
    switch (below(10)) {
    case 0:
    case 1:
    case 2:
        turn();
        return;
    case 3:
    case 4:
        random_call(c);
        break;
    case 5:
        let_time_pass();
        return;
    case 6:
        if (one_in(2))
            come_to_rest();
        else if (one_in(3))
            open_connection();
        else
            stop_server();
        break;
    default:
        random_event(c);
    }
    check();
}

/* ---- a sequence ----------------------------------------------------------------------------------------- */

static void open_world(void)
{
    char why[ENGINE_WHY_BYTES];
    struct engine_size size = { 8, 16, 1u << (1 + below(4)), 64 * (1 + below(3)) };
    memset(&run.loop, 0, sizeof run.loop);
    memset(&run.settings, 0, sizeof run.settings);
    run.settings.app = &run.app;
    run.settings.idle_timeout_ms = one_in(6) ? 1 + below(50) : 0;
    run.count = 0;
    run.stopping = run.aborting = run.memory_is_short = false;
    run.has_lines = one_in(2);
    run.broken = NULL;
    run.depth = 0;
    run.budget = 150;
    run.calling = run.opening = NULL;
    if (loop_open(&run.loop, "simulated", &size, why) < 0 ||
        service_hooks.start(&run.loop, &run.settings) < 0)
        abort();
    struct simulated_moods moods = simulated_wild;
    if (one_in(4))
        moods = (struct simulated_moods){ 0 };
    moods.seed = random_bits();
    simulated_set_moods(run.loop.engine, &moods);
    say("%u buffers of %zu bytes, %s kernel, idle time-out %d ms", size.buffers, size.buffer_bytes,
        moods.any_order ? "wild" : "tame", (int)run.settings.idle_timeout_ms);
}

/* All that must be delivered before the end is, where the end is in order: everybody reads. */
static void end_in_order(void)
{
    say("the end, in order");
    for (unsigned i = 0; i < run.count; i++) {
        struct connection *c = &run.connections[i];
        c->peer->room = SIZE_MAX;
        if (c->t != NULL)
            call_resume_reading(c);
    }
    come_to_rest();
    for (unsigned i = 0; i < run.count; i++) {
        if (run.connections[i].t != NULL)
            call_close(&run.connections[i]);
    }
    come_to_rest();
    for (unsigned i = 0; i < run.count; i++) {
        struct connection *c = &run.connections[i];
        expect(c, c->lost, "who closes, and is read from, is closed");
        if (one_in(2))
            memory_socket_half_close(c->peer); /* else only time ends the lingering */
    }
    come_to_rest();
}

static void end_abruptly(void)
{
    say("the end, abruptly");
    run.aborting = true;
    struct service *service = service_of(&run.loop);
    for (unsigned i = 0; i < run.count; i++)
        run.connections[i].shaken = true;
    for (struct rondo_link *link = service->transports.next; link != &service->transports; link = link->next)
        transport_cancel(rondo_container_of(link, rondo_transport, in_service));
    come_to_rest();
}

static void close_world(void)
{
    struct buffers *buffers = &run.loop.engine->buffers;
    run.memory_is_short = false;
    run.budget = 0; /* of calls; what is there ends */
    if (one_in(3))
        end_abruptly();
    else
        end_in_order();
    for (unsigned seconds = 0; run.loop.users > 0 && seconds < 100 && run.broken == NULL; seconds++) {
        simulated_advance(run.loop.engine, UINT64_C(1000000000));
        come_to_rest();
    }
    expect(NULL, run.loop.users == 0, "in the end no transport is left");
    expect(NULL, buffers->lent == 0, "in the end no buffer is lent");
    expect(NULL, run.loop.traffic.connections_open == 0, "in the end no connection is open");
    expect(NULL, run.loop.traffic.connections_lost == run.loop.traffic.connections_accepted,
           "who came is gone");
    expect(NULL, owner.connections == 0, "the owner has none left");
    for (unsigned i = 0; i < run.count; i++) {
        struct connection *c = &run.connections[i];
        expect(c, c->lost && c->t == NULL, "connection_lost comes");
        expect(c, c->aborted || c->shaken || c->peer->broken || (c->peer->eof && c->seen == c->written),
               "an end in order brings all that was written, and the EOF");
    }
    if (run.broken != NULL)
        return; /* the process ends */
    service_hooks.stop(&run.loop);
    loop_close(&run.loop);
    loop_free(&run.loop);
    for (unsigned i = 0; i < run.count; i++)
        free(run.connections[i].memory);
}

/* The lowest that is free. */
static int next_descriptor(void)
{
    int fd = dup(no_file);
    close(fd);
    return fd;
}

static void sequence(uint64_t seed)
{
    run.seed = seed;
    run.random = seed * UINT64_C(0x2545f4914f6cdd1d);
    int descriptor = next_descriptor();
    open_world();
    open_connection();
    run.memory_is_short = one_in(6);
    for (size_t steps = 5 + below(40); steps > 0 && run.broken == NULL; steps--)
        step();
    if (run.broken == NULL)
        close_world();
    expect(NULL, run.broken != NULL || next_descriptor() == descriptor, "in the end no descriptor is left");
}

/* ---- all of them ---------------------------------------------------------------------------------------- */

static void say_seed(void)
{
    char text[128];
    int size = snprintf(text, sizeof text,
                        "stress_calls: the seed is %" PRIu64 ": stress_calls --seed %" PRIu64 " 1\n",
                        run.seed, run.seed);
    if (write(STDERR_FILENO, text, (size_t)size) < 0)
        return;
}

static void crashed(int number)
{
    say_seed();
    signal(number, SIG_DFL);
    raise(number);
}

/* Every sanitizer has it. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void open_files(void)
{
    for (int i = 0; i < KINDS_OF_FD; i++)
        files[i] = memfd_create("stress_calls", MFD_CLOEXEC);
    for (size_t i = 0; i < FILE_BYTES; i++)
        file_bytes[i] = (char)(i * 37 >> 2);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", files[0]);
    write_only = open(path, O_WRONLY | O_CLOEXEC);
    no_file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (write(files[0], file_bytes, FILE_BYTES) != FILE_BYTES || write_only < 0 || no_file < 0) {
        perror("stress_calls: files");
        exit(1);
    }
}

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int run_sequences(uint64_t first, uint64_t count)
{
    uint64_t start_ms = clock_ms();
    for (uint64_t seed = first; seed < first + count; seed++) {
        alarm(20); /* it hangs */
        sequence(seed);
        if (run.broken == NULL)
            continue;
        fprintf(stderr, "stress_calls: broken: %s\n", run.broken);
        say_seed();
        return 1;
    }
    uint64_t ms = clock_ms() - start_ms;
    printf("%" PRIu64 " sequences from seed %" PRIu64 " on, %" PRIu64 " a second\n", count, first,
           count * 1000 / (ms > 0 ? ms : 1));
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t first = 1, count = COUNT_DEFAULT;
    const char *seed = getenv("RONDO_SEED");
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = argv[++i];
        else
            count = strtoull(argv[i], NULL, 10);
    }
    if (seed != NULL)
        first = strtoull(seed, NULL, 10);
    run.verbose = count == 1;
    if (__sanitizer_set_death_callback != NULL)
        __sanitizer_set_death_callback(say_seed);
    signal(SIGABRT, crashed);
    signal(SIGALRM, crashed);
    signal(SIGSEGV, crashed);
    rondo_set_log_level(run.verbose ? RONDO_LOG_DEBUG : RONDO_LOG_ERROR);
    open_files();
    return run_sequences(first, count);
}
