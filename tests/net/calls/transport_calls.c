/* All calls on transports, with random arguments; what each must do is written into the model. */
#include "net/calls/calls.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/types.h>

#include "core/list.h"

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

void call_close(struct connection *c)
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

void call_resume_reading(struct connection *c)
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
    size_t old_high = c->high, old_low = c->low;
    if (is_valid) {
        c->high = new_high;
        c->low = new_low;
    }
    unsigned failures = run.failures;
    enter_call(c);
    int rc = rondo_set_write_buffer_limits(c->t, high, low);
    leave_call();
    expect(c,
           rc == (!is_valid                                  ? -EINVAL
                  : rc == -ENOMEM && run.failures > failures ? -ENOMEM
                                                             : 0),
           "limits the wrong way round are refused, others are not");
    if (rc == -ENOMEM) {
        c->high = old_high;
        c->low = old_low;
    }
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
    expect(c, rc == (run.failures > failures ? -ENOMEM : 0), "a protocol can be set at any time");
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
    int fd = one_in(12) ? no_file : one_in(12) ? write_only : one_in(30) ? -1 : files[0];
    uint64_t offset = one_in(10) ? FILE_BYTES + below(10) : below(FILE_BYTES);
    uint64_t count = one_in(5) ? RONDO_TO_THE_END : one_in(8) ? 0 : 1 + some_size(800);
    uint64_t there = offset < FILE_BYTES ? FILE_BYTES - offset : 0;
    size_t size = (size_t)(count < there ? count : there);
    bool told = one_in(2), readable = fd != write_only;
    if (size > room_to_write(c) || c->files_count == PASSED_MAX)
        return;
    bool is_wrong = count == 0 || descriptor_waits(c);
    int wanted = !takes_bytes(c) ? -EPIPE
                 : is_wrong      ? -EINVAL
                 : fd == -1      ? -EBADF
                 : fd == no_file ? -EINVAL
                                 : 0;
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
    int fd = one_in(10) ? -1 : files[c->out_passed % KINDS_OF_FD];
    int rc = rondo_send_file_descriptor(c->t, fd);
    leave_call();
    int refusal = !c->is_unix               ? -ENOTSUP
                  : !accepted               ? -EPIPE
                  : run.failures > failures ? -ENOMEM
                  : fd == -1                ? -EBADF
                                            : 0;
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

void random_call(struct connection *c)
{
    call_on *call = calls[below(sizeof calls / sizeof *calls)];
    if (c->t == NULL || !c->made || is_too_early(call))
        return;
    call(c);
    check_connection(c);
}
