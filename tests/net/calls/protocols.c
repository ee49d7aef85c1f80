/* The protocols: each callback is checked against the model, and then makes random calls. */
#include "net/calls/calls.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void begin_state(struct connection *c)
{
    static const struct self zero;
    struct self *self = rondo_self(c->t);
    expect(c, memcmp(self, &zero, sizeof zero) == 0, "a new state is zeroed");
    expect(c, rondo_transport_of(self) == c->t, "the state leads back to its transport");
    self->connection = c;
    self->canary = self->canary_behind = CANARY;
}

/* Returns the connection, with the rules checked that hold for every callback. */
struct connection *called(rondo_transport *t, const char *name)
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
void go_on(struct connection *c)
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

void expect_reading(struct connection *c)
{
    expect(c, !c->paused, "nothing is delivered while reading is paused");
    expect(c, !c->closing && !rondo_is_closing(c->t), "nothing is delivered while closing");
    expect(c, !c->told_eof, "nothing is delivered behind the EOF");
    bool pushes_back = c->protocol->pause_writing == NULL;
    expect(c, !pushes_back || rondo_get_write_buffer_size(c->t) <= c->high,
           "who has no pause_writing is given nothing while much is unsent");
}

void take(struct connection *c, const char *data, size_t size)
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
    self = rondo_self(t); /* there may be another protocol now */
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

bool takes_lines(const struct connection *c)
{
    return c->protocol == &lines.protocol;
}

enum { PROTOCOLS = sizeof protocols / sizeof *protocols };

const rondo_protocol *some_protocol(void)
{
    if (run.has_lines && one_in(4))
        return &lines.protocol;
    return &protocols[below(one_in(8) ? PROTOCOLS : PROTOCOLS - 1)];
}

void protocol_is(struct connection *c, const rondo_protocol *protocol)
{
    c->protocol = protocol;
    c->eof_closes |= protocol->eof_received == NULL;
    c->deaf |= protocol->data_received == NULL && protocol->get_buffer == NULL;
}
