/* The model: what must hold, at any time and when nothing is left to do. */
#include "net/calls/calls.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct run run;

/* ---- chance -------------------------------------------------------------------------------------------------- */

/* splitmix64 */
uint64_t random_bits(void)
{
    uint64_t z = (run.random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

size_t below(size_t bound)
{
    return (size_t)(random_bits() % bound);
}

bool one_in(size_t n)
{
    return below(n) == 0;
}

/* Mostly small ones. */
size_t some_size(size_t most)
{
    size_t limit = one_in(8) ? most : one_in(3) ? 100 : 12;
    return below((limit < most ? limit : most) + 1);
}

/* ---- what is said -------------------------------------------------------------------------------------------- */

void say(const char *format, ...)
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

void broken(const struct connection *c, const char *rule)
{
    say("BROKEN: connection %d: %s", c != NULL ? (int)c->index : -1, rule);
    if (run.broken == NULL)
        run.broken = rule;
}

/* rondo's log belongs to the list (the linker puts this in its way, see tests/CMakeLists.txt). */
void __wrap_rondo_log(rondo_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

void __wrap_rondo_log(rondo_log_level level, const char *format, ...)
{
    char line[1000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    say("   log %d: %s", level, line);
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

/* In the way of rondo's, too. */
void *__real_memory_new(size_t size);
void *__real_memory_alloc(size_t size);
void *__real_memory_resize(void *memory, size_t size);
void __real_memory_free(void *memory);
void *__wrap_memory_new(size_t size);
void *__wrap_memory_alloc(size_t size);
void *__wrap_memory_resize(void *memory, size_t size);
void __wrap_memory_free(void *memory);

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

static void *counted(void *memory)
{
    run.allocated += memory != NULL;
    return memory;
}

void *__wrap_memory_new(size_t size)
{
    return memory_is_out() ? NULL : counted(__real_memory_new(size));
}

void *__wrap_memory_alloc(size_t size)
{
    return memory_is_out() ? NULL : counted(__real_memory_alloc(size));
}

void *__wrap_memory_resize(void *memory, size_t size)
{
    if (memory_is_out())
        return NULL;
    void *resized = __real_memory_resize(memory, size);
    return memory == NULL ? counted(resized) : resized;
}

void __wrap_memory_free(void *memory)
{
    run.allocated -= memory != NULL;
    __real_memory_free(memory);
}

/* ---- rules that hold at any time ----------------------------------------------------------------------------- */

void check_output(struct connection *c)
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

uint64_t now_ms(void)
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

/* Lines are delivered when they are whole. */
bool all_is_delivered(const struct connection *c)
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

void check_connection(struct connection *c)
{
    check_output(c);
    check_output_descriptors(c);
    check_output_end(c);
    check_state(c);
}

void check(void)
{
    for (unsigned i = 0; i < run.count; i++)
        check_connection(&run.connections[i]);
    const char *violation = simulated_violation(run.loop.engine);
    if (violation != NULL)
        broken(NULL, violation);
}

/* ---- rules that hold at rest --------------------------------------------------------------------------------- */

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
    if (c->asked_size > most)
        most = c->asked_size;
    expect(c, own->read - c->taken_at_pause <= most || own->broken,
           "while reading is paused the peer is held back");
}

/* Nothing is left to do: nobody waits for what is there. */
void check_rest(struct connection *c)
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
    expect(c, !c->sent_eof || c->protocol->eof_received == NULL || c->t->end_unsure,
           "the EOF is delivered, at the latest when the transport has looked for it");
}
