/* The epoll engine: one epoll instance, for the thread that opened it. It serves where io_uring is refused.
 *
 * epoll tells that a socket is ready; what was asked for is then done here, by a call that never waits. A send is tried
 * at once, and waits for the socket only when it must. A receive is made when its event is dispatched, so what a turn
 * answers is still in the cache, and nothing is taken from a socket that is not told at once.
 *
 * Level-triggered: the kernel reminds us of what was left, so no event can be missed, and a receive takes no second call
 * to learn that there is nothing more. A descriptor is registered when somebody first waits for it, and stays so while
 * nobody does, since usually somebody does again before the next wait; only when it reports what nobody waits for is
 * the registration cut down (apply_changes). So a connection that asks and is answered costs epoll_wait, recv and send.
 *
 *   data   of an event: the descriptor, and above it its generation: a number may have been closed, and be another's
 *          by the time its event is dispatched
 *
 * A receive that finds no buffer free waits in line; so does one that would find bytes at once, if its socket isn't
 * registered yet. We don't sleep while somebody waits there and a buffer is free, and everybody else lines up behind
 * them, so it neither stalls nor lets a few fast peers keep all buffers. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/engine.h"
#include "core/memory.h"

#define EVENTS_MAX       256 /* of a turn; the others come first in the next one */
#define PORTION          8   /* receives that are handed out before their answers are sent */
#define ACCEPTS_MAX      4096
#define RECEIVE_MAX      (128 * 1024) /* at once */
#define LENGTH_MAX       (1u << 30)   /* of one receive into the caller's memory */
#define CONNECT_RETRY_NS UINT64_C(10000000)
#define WAKE             UINT64_MAX

enum op_kind {
    OP_ACCEPT = 1,
    OP_ACCEPT_ONE,
    OP_RECEIVE,
    OP_RECEIVE_MULTISHOT,
    OP_RECEIVE_INTO,
    OP_RECEIVE_MESSAGE,
    OP_SEND,
    OP_SEND_MESSAGE,
    OP_CONNECT,
    OP_READ_FILE,
    OP_CLOSE,
    OP_DATAGRAMS,
    OP_READ,
    OP_WRITE,
    OP_POLL,
    OP_ENDED /* and its outcome waits to be told */
};

/* What an operation that waits for its socket has to send. */
struct unsent {
    unsigned count;
    struct iovec slices[];
};

/* What is asked of a descriptor. */
struct descriptor {
    struct op *input;  /* accept, receive, read, poll */
    struct op *output; /* send, connect, write */
    union {
        rondo_buffer memory;
        struct msghdr *message;
    } into;
    union {
        struct unsent *unsent;
        const struct msghdr *message;
        struct {
            const struct sockaddr *address;
            socklen_t size;
        } peer;
    } from;
    uint32_t generation;
    int next_changed;
    uint8_t registered; /* EPOLLIN, EPOLLOUT */
    bool has_changed;   /* it is among the changed */
    bool is_tiresome;   /* it has reported what nobody waits for */
    bool is_full;       /* the last send found no more room */
};

struct epoll {
    struct engine engine;
    int fd, wake_fd;
    unsigned ops_in_kernel; /* issued, last completion not told */

    struct descriptor *descriptors; /* by number */
    int descriptor_count;
    int first_changed; /* -1: none */

    struct op_line ended;             /* but not told */
    unsigned loud;                    /* of them, those that somebody waits for */
    struct op_line in_line;           /* receives that wait for a buffer, or need no event */
    struct op_line retrying;          /* connects that can't be waited for */
    struct op_line without_datagrams; /* receives of datagrams that wait for a buffer */
    unsigned cancelled;               /* of all three */

    int buffer;        /* the one being filled; -1: none */
    size_t room_least; /* below which it isn't filled any more */

    struct epoll_event events[EVENTS_MAX];
    unsigned event_next, event_count;
    unsigned received; /* of the current portion */
};

static struct epoll *epoll_of(struct engine *engine)
{
    return rondo_container_of(engine, struct epoll, engine);
}

/* A system call, which is counted. Those of each message pass libc by: there they are cancellation points, which costs a
 * process with threads 2 % of a small echo; and the sanitizers see as little of them as of the ring's. */
#define COUNTED(e, call) ((e)->engine.counters.system_calls++, (call))

/* ---- the beginning and the end of an operation ------------------------------------------------------------- */

static void begin(struct epoll *e, struct op *op, enum op_kind kind, int fd)
{
    assert(!op->in_kernel && op->done != NULL);
    op->in_kernel = true;
    op->cancelling = false;
    op->quiet = false;
    op->kind = (uint8_t)kind;
    op->fd = fd;
    e->ops_in_kernel++;
    e->engine.counters.submissions++;
}

/* It has its outcome, which the next dispatch tells. */
static void end(struct epoll *e, struct op *op, int result, bool quietly)
{
    op->kind = OP_ENDED;
    op->result = result;
    op->quiet = quietly;
    e->loud += !quietly;
    op_line_push(&e->ended, op);
}

static void tell(struct epoll *e, struct op *op, const struct completion *completion)
{
    if (!completion->more) {
        op->in_kernel = false;
        e->ops_in_kernel--;
    }
    op->done(op, completion); /* last: unless more follow, the op may be gone */
}

static void tell_ended(struct epoll *e)
{
    struct op_line ended = e->ended;
    e->ended = (struct op_line){ 0 };
    for (struct op *op; (op = op_line_pop(&ended)) != NULL;) {
        e->loud -= !op->quiet;
        e->engine.counters.completions += !op->quiet;
        tell(e, op, &(struct completion){ .result = op->result });
    }
}

static void tell_cancelled(struct epoll *e)
{
    while (e->cancelled > 0) {
        struct op_line cancelled = { 0 };
        e->cancelled = 0;
        op_line_take_cancelled(&e->in_line, &cancelled);
        op_line_take_cancelled(&e->retrying, &cancelled);
        op_line_take_cancelled(&e->without_datagrams, &cancelled);
        for (struct op *op; (op = op_line_pop(&cancelled)) != NULL;)
            tell(e, op, &(struct completion){ .result = -ECANCELED });
    }
}

/* ---- descriptors ------------------------------------------------------------------------------------------ */

static bool grow_descriptors(struct epoll *e, int fd)
{
    int count = e->descriptor_count > 0 ? e->descriptor_count : 64;
    while (count <= fd)
        count *= 2;
    struct descriptor *grown = memory_resize(e->descriptors, (size_t)count * sizeof *grown);
    if (grown == NULL)
        return false;
    memset(grown + e->descriptor_count, 0, (size_t)(count - e->descriptor_count) * sizeof *grown);
    e->descriptors = grown;
    e->descriptor_count = count;
    return true;
}

/* NULL: there is no such descriptor, or no memory, and `op` has ended so. A callback may move them all. */
static struct descriptor *descriptor_for(struct epoll *e, struct op *op, int fd)
{
    if (fd >= 0 && (fd < e->descriptor_count || (fd < INT_MAX / 4 && grow_descriptors(e, fd))))
        return &e->descriptors[fd];
    end(e, op, fd < 0 ? -EBADF : -ENOMEM, false);
    return NULL;
}

static void changed(struct epoll *e, int fd)
{
    struct descriptor *d = &e->descriptors[fd];
    if (d->has_changed)
        return;
    d->has_changed = true;
    d->next_changed = e->first_changed;
    e->first_changed = fd;
}

static uint32_t wanted_of(const struct descriptor *d)
{
    bool input = d->input != NULL && !d->input->in_line;
    bool output = d->output != NULL && !d->output->in_line;
    return (input ? EPOLLIN : 0) | (output ? EPOLLOUT : 0);
}

static uint64_t data_of(const struct descriptor *d, int fd)
{
    return (uint64_t)d->generation << 32 | (uint32_t)fd;
}

/* Shards that wait at one queue line up behind one another, and one connection wakes one of them. */
static uint32_t way_of(const struct descriptor *d)
{
    return d->input != NULL && d->input->kind == OP_ACCEPT_ONE ? EPOLLEXCLUSIVE : 0;
}

static int set_interest(struct epoll *e, int fd, uint32_t wanted)
{
    struct descriptor *d = &e->descriptors[fd];
    int operation = wanted == 0 ? EPOLL_CTL_DEL : d->registered == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    struct epoll_event event = { .events = wanted | way_of(d), .data.u64 = data_of(d, fd) };
    int rc = COUNTED(e, epoll_ctl(e->fd, operation, fd, &event));
    d->registered = rc < 0 ? 0 : (uint8_t)wanted;
    return rc < 0 ? -errno : 0;
}

static void fail(struct epoll *e, struct op **slot, int error)
{
    struct op *op = *slot;
    if (op == NULL || op->in_line)
        return; /* it doesn't wait for an event */
    *slot = NULL;
    end(e, op, error, false);
}

static void free_unsent(struct descriptor *d)
{
    if (d->output == NULL || (d->output->kind != OP_SEND && d->output->kind != OP_WRITE))
        return;
    memory_free(d->from.unsent);
    d->from.unsent = NULL;
}

/* A device such as /dev/null, which has no event, since it's always ready. */
static void be_ready(struct epoll *e, struct descriptor *d)
{
    struct op *input = d->input;
    if (input == NULL || input->in_line)
        return;
    if (input->kind == OP_READ)
        op_line_push(&e->in_line, input);
}

static void apply_change(struct epoll *e, int fd)
{
    struct descriptor *d = &e->descriptors[fd];
    uint32_t wanted = wanted_of(d);
    bool is_missing = (wanted & ~d->registered) != 0;
    bool is_too_much = d->is_tiresome && wanted != d->registered;
    d->has_changed = d->is_tiresome = false;
    int error = is_missing || is_too_much ? set_interest(e, fd, wanted) : 0;
    if (error == -EPERM)
        be_ready(e, d);
    if (error < 0 && wanted != 0) {
        fail(e, &d->input, error);
        free_unsent(d);
        fail(e, &d->output, error);
    }
}

/* Right before the wait, when it is known who waits for what. */
static void apply_changes(struct epoll *e)
{
    int fd;
    while ((fd = e->first_changed) >= 0) {
        e->first_changed = e->descriptors[fd].next_changed;
        apply_change(e, fd);
    }
}

/* Before its number can be another's. The kernel forgets by itself only what no other process holds. */
static void forget(struct epoll *e, int fd)
{
    if (fd < 0 || fd >= e->descriptor_count)
        return;
    struct descriptor *d = &e->descriptors[fd];
    assert(d->input == NULL && d->output == NULL);
    if (d->registered != 0)
        set_interest(e, fd, 0);
    d->generation++;
    d->is_full = d->is_tiresome = false;
}

/* ---- issuing ---------------------------------------------------------------------------------------------- */

static struct descriptor *wait_for_input(struct epoll *e, struct op *op, int fd)
{
    struct descriptor *d = descriptor_for(e, op, fd);
    if (d == NULL)
        return NULL;
    assert(d->input == NULL);
    d->input = op;
    changed(e, fd);
    return d;
}

/* accept has no flag not to wait: between the event and the call the connection may go, or be another's. */
static void accept_by(struct epoll *e, struct op *op, int fd, enum op_kind kind)
{
    int flags = COUNTED(e, fcntl(fd, F_GETFL));
    if (flags >= 0 && !(flags & O_NONBLOCK))
        COUNTED(e, fcntl(fd, F_SETFL, flags | O_NONBLOCK));
    begin(e, op, kind, fd);
    wait_for_input(e, op, fd);
}

static void epoll_accept(struct engine *engine, struct op *op, int fd)
{
    accept_by(epoll_of(engine), op, fd, OP_ACCEPT);
}

static void epoll_accept_one(struct engine *engine, struct op *op, int fd)
{
    accept_by(epoll_of(engine), op, fd, OP_ACCEPT_ONE);
}

/* One that is registered will be told what there is for nothing. */
static void epoll_receive(struct engine *engine, struct op *op, int fd, bool multishot)
{
    struct epoll *e = epoll_of(engine);
    begin(e, op, multishot ? OP_RECEIVE_MULTISHOT : OP_RECEIVE, fd);
    const struct descriptor *d = wait_for_input(e, op, fd);
    if (d != NULL && op->more_to_read && !(d->registered & EPOLLIN))
        op_line_push(&e->in_line, op);
}

static void epoll_receive_into(struct engine *engine, struct op *op, int fd, rondo_buffer memory)
{
    struct epoll *e = epoll_of(engine);
    begin(e, op, OP_RECEIVE_INTO, fd);
    struct descriptor *d = wait_for_input(e, op, fd);
    if (d != NULL)
        d->into.memory = memory;
}

static void epoll_receive_datagrams(struct engine *engine, struct op *op, int fd, int family)
{
    struct epoll *e = epoll_of(engine);
    (void)family;
    assert(engine->datagrams.count > 0);
    begin(e, op, OP_DATAGRAMS, fd);
    wait_for_input(e, op, fd);
}

static void epoll_read(struct engine *engine, struct op *op, int fd)
{
    struct epoll *e = epoll_of(engine);
    begin(e, op, OP_READ, fd);
    wait_for_input(e, op, fd);
}

static void epoll_poll(struct engine *engine, struct op *op, int fd)
{
    struct epoll *e = epoll_of(engine);
    begin(e, op, OP_POLL, fd);
    wait_for_input(e, op, fd);
}

static void epoll_receive_message(struct engine *engine, struct op *op, int fd, struct msghdr *message)
{
    struct epoll *e = epoll_of(engine);
    begin(e, op, OP_RECEIVE_MESSAGE, fd);
    struct descriptor *d = wait_for_input(e, op, fd);
    if (d != NULL)
        d->into.message = message;
}

static size_t size_of(const struct iovec *slices, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += slices[i].iov_len;
    return size;
}

static long offer(struct epoll *e, int fd, const struct msghdr *message, enum op_kind kind)
{
    const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    const struct iovec *first = message->msg_iov;
    bool is_plain = message->msg_iovlen == 1 && message->msg_controllen == 0;
    if (kind == OP_WRITE)
        return COUNTED(e, syscall(SYS_writev, fd, first, message->msg_iovlen));
    if (is_plain)
        return COUNTED(e, syscall(SYS_sendto, fd, first->iov_base, first->iov_len, flags, message->msg_name,
                                  message->msg_namelen));
    return COUNTED(e, syscall(SYS_sendmsg, fd, message, flags));
}

static int send_now(struct epoll *e, int fd, const struct msghdr *message, enum op_kind kind)
{
    long sent;
    do {
        sent = offer(e, fd, message, kind);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : (int)sent;
}

/* The socket has just taken less than it was offered, and nobody has told that there is room again. */
static bool is_known_to_be_full(const struct epoll *e, int fd)
{
    return fd >= 0 && fd < e->descriptor_count && e->descriptors[fd].is_full;
}

/* Returns what the send's result is; -EAGAIN: it would have to wait. */
static int try_to_send(struct epoll *e, const struct op *op, int fd, const struct msghdr *message,
                       enum send_way way)
{
    if (way == SEND_WAITS && is_known_to_be_full(e, fd))
        return -EAGAIN;
    int rc = send_now(e, fd, message, op->kind);
    bool is_short = rc == -EAGAIN || (rc >= 0 && (size_t)rc < size_of(message->msg_iov, message->msg_iovlen));
    if (is_short && fd < e->descriptor_count)
        e->descriptors[fd].is_full = true;
    return rc;
}

static struct descriptor *wait_for_output(struct epoll *e, struct op *op, int fd)
{
    struct descriptor *d = descriptor_for(e, op, fd);
    if (d == NULL)
        return NULL;
    assert(d->output == NULL);
    d->output = op;
    changed(e, fd);
    return d;
}

static struct unsent *copy_of(const struct iovec *slices, unsigned count)
{
    struct unsent *unsent = memory_alloc(sizeof *unsent + count * sizeof *slices);
    if (unsent == NULL)
        return NULL;
    unsent->count = count;
    memcpy(unsent->slices, slices, count * sizeof *slices);
    return unsent;
}

static void send_slices(struct epoll *e, struct op *op, int fd, const struct iovec *slices, unsigned count,
                        enum send_way way)
{
    assert(count >= 1 && count <= ENGINE_SEND_SLICES_MAX);
    struct msghdr message = { .msg_iov = (struct iovec *)slices, .msg_iovlen = count };
    int rc = try_to_send(e, op, fd, &message, way);
    if (rc != -EAGAIN || way != SEND_WAITS) {
        end(e, op, rc, way == SEND_QUIETLY && rc >= 0 && (size_t)rc == size_of(slices, count));
        return;
    }
    struct unsent *unsent = copy_of(slices, count);
    struct descriptor *d = unsent != NULL ? wait_for_output(e, op, fd) : NULL;
    if (d != NULL)
        d->from.unsent = unsent;
    else if (unsent != NULL)
        memory_free(unsent);
    else
        end(e, op, -ENOMEM, false);
}

static void epoll_send(struct engine *engine, struct op *op, int fd, const struct iovec *slices,
                       unsigned count, enum send_way way)
{
    struct epoll *e = epoll_of(engine);
    begin(e, op, OP_SEND, fd);
    send_slices(e, op, fd, slices, count, way);
}

static void epoll_write(struct engine *engine, struct op *op, int fd, const struct iovec *slices,
                        unsigned count, enum send_way way)
{
    struct epoll *e = epoll_of(engine);
    begin(e, op, OP_WRITE, fd);
    send_slices(e, op, fd, slices, count, way == SEND_QUIETLY ? SEND_NOW : way);
}

static void epoll_send_message(struct engine *engine, struct op *op, int fd, const struct msghdr *message,
                               enum send_way way)
{
    struct epoll *e = epoll_of(engine);
    begin(e, op, OP_SEND_MESSAGE, fd);
    int rc = try_to_send(e, op, fd, message, way);
    if (rc != -EAGAIN || way != SEND_WAITS) {
        bool is_all = rc >= 0 && (size_t)rc == size_of(message->msg_iov, message->msg_iovlen);
        end(e, op, rc, way == SEND_QUIETLY && is_all);
        return;
    }
    struct descriptor *d = wait_for_output(e, op, fd);
    if (d != NULL)
        d->from.message = message;
}

/* A Unix socket whose listener's queue is full is told so, and nobody tells it when there is room. */
static void epoll_connect(struct engine *engine, struct op *op, int fd, const struct sockaddr *address,
                          socklen_t size)
{
    struct epoll *e = epoll_of(engine);
    begin(e, op, OP_CONNECT, fd);
    int flags = COUNTED(e, fcntl(fd, F_GETFL));
    if (flags >= 0)
        COUNTED(e, fcntl(fd, F_SETFL, flags | O_NONBLOCK));
    int rc = COUNTED(e, connect(fd, address, size)) < 0 ? -errno : 0;
    if (rc != -EINPROGRESS && rc != -EAGAIN) {
        end(e, op, rc, false);
        return;
    }
    struct descriptor *d = wait_for_output(e, op, fd);
    if (d == NULL)
        return;
    d->from.peer.address = address;
    d->from.peer.size = size;
    if (rc == -EAGAIN)
        op_line_push(&e->retrying, op);
}

static void epoll_close_fd(struct engine *engine, struct op *op, int fd)
{
    struct epoll *e = epoll_of(engine);
    begin(e, op, OP_CLOSE, fd);
    forget(e, fd);
    int rc = COUNTED(e, close(fd)) < 0 ? -errno : 0;
    end(e, op, rc, rc == 0);
}

static void epoll_close_now(struct engine *engine, int fd)
{
    forget(epoll_of(engine), fd);
    close(fd);
}

static void epoll_cancel(struct engine *engine, struct op *op)
{
    struct epoll *e = epoll_of(engine);
    if (!op->in_kernel || op->cancelling)
        return;
    op->cancelling = true;
    if (op->kind == OP_ENDED)
        engine_expect(engine, op);
    if (op->kind == OP_ENDED || op->kind == OP_READ_FILE)
        return; /* which can't be stopped */
    struct descriptor *d = &e->descriptors[op->fd];
    if (d->output == op)
        free_unsent(d);
    *(d->output == op ? &d->output : &d->input) = NULL;
    if (op->kind == OP_ACCEPT || op->kind == OP_ACCEPT_ONE)
        forget(e, op->fd);
    if (op->in_line)
        e->cancelled++;
    else
        end(e, op, -ECANCELED, false);
}

/* ---- files ------------------------------------------------------------------------------------------------ */

/* At once, if that needs no disk. */
static void epoll_read_file(struct engine *engine, struct op *op, int fd, uint64_t offset,
                            rondo_buffer memory)
{
    struct epoll *e = epoll_of(engine);
    if (memory.size > LENGTH_MAX)
        memory.size = LENGTH_MAX;
    const struct iovec slice = { memory.data, memory.size };
    begin(e, op, OP_READ_FILE, fd);
    ssize_t size = COUNTED(e, preadv2(fd, &slice, 1, (off_t)offset, RWF_NOWAIT));
    bool would_wait = size < 0 && (errno == EAGAIN || errno == EOPNOTSUPP);
    if (would_wait && engine->read_elsewhere != NULL && engine->read_elsewhere(engine, op, offset, memory))
        return;
    if (would_wait)
        size = COUNTED(e, pread(fd, memory.data, memory.size, (off_t)offset));
    end(e, op, size < 0 ? -errno : (int)size, false);
}

static void epoll_read_ended(struct engine *engine, struct op *op, int result)
{
    end(epoll_of(engine), op, result, false);
}

static void resume_datagrams(struct epoll *e);

/* ---- a turn ----------------------------------------------------------------------------------------------- */

static bool has_room(const struct epoll *e)
{
    return e->buffer >= 0 || e->engine.buffers.returned_count > 0;
}

/* A quiet send keeps its buffers while we sleep. */
static bool is_short_of_buffers(const struct epoll *e)
{
    const struct buffers *buffers = &e->engine.buffers, *datagrams = &e->engine.datagrams;
    return e->ended.first != NULL &&
           (buffers->returned_count < buffers->count / 4 || datagrams->returned_count < datagrams->count / 4);
}

static int milliseconds(uint64_t ns)
{
    uint64_t ms = ns / 1000000 + (ns % 1000000 > 0);
    return ns == ENGINE_FOREVER ? -1 : ms < INT_MAX ? (int)ms : INT_MAX;
}

static int epoll_wait_for(struct engine *engine, uint64_t timeout_ns)
{
    struct epoll *e = epoll_of(engine);
    if (e->without_datagrams.first != NULL)
        resume_datagrams(e);
    apply_changes(e);
    bool is_anybody_served = e->in_line.first != NULL && has_room(e);
    if (e->loud > 0 || e->cancelled > 0 || is_anybody_served || engine->is_expected || is_short_of_buffers(e))
        timeout_ns = 0;
    else if (e->retrying.first != NULL && timeout_ns > CONNECT_RETRY_NS)
        timeout_ns = CONNECT_RETRY_NS;
    engine->is_expected = false;
    int count = COUNTED(e, epoll_wait(e->fd, e->events, EVENTS_MAX, milliseconds(timeout_ns)));
    e->event_next = 0;
    e->event_count = count > 0 ? (unsigned)count : 0;
    engine->counters.completions += e->event_count;
    return count < 0 && errno != EINTR ? -errno : 0;
}

/* All that is asked is done at once. */
static void epoll_submit(struct engine *engine)
{
    (void)engine;
}

/* ---- receiving -------------------------------------------------------------------------------------------- */

/* Small messages share a buffer, and begin it anew when none of it is lent: so they lie where those before them lay. */
static rondo_buffer room_to_receive(struct epoll *e)
{
    struct buffers *buffers = &e->engine.buffers;
    if (e->buffer < 0) {
        uint16_t index;
        buffers_take_returned(buffers, &index, 1);
        e->buffer = index;
    }
    rondo_buffer room = buffers_room(buffers, (unsigned)e->buffer);
    if (room.size > RECEIVE_MAX)
        room.size = RECEIVE_MAX;
    return room;
}

static rondo_bytes lend(struct epoll *e, size_t size)
{
    struct buffers *buffers = &e->engine.buffers;
    unsigned index = (unsigned)e->buffer;
    size_t left = buffers_room(buffers, index).size - size;
    bool goes_on = buffers->is_pieced && left >= e->room_least;
    if (!goes_on)
        e->buffer = -1;
    return buffers_lend(buffers, index, size, goes_on);
}

static ssize_t receive(struct epoll *e, const struct op *op, rondo_buffer room)
{
    ssize_t size =
        op->kind == OP_READ
            ? COUNTED(e, syscall(SYS_read, op->fd, room.data, room.size))
            : COUNTED(e, syscall(SYS_recvfrom, op->fd, room.data, room.size, MSG_DONTWAIT, NULL, NULL));
    return size < 0 ? -errno : size;
}

/* Returns false when there was nothing, which the event then will tell. */
static bool receive_into_buffer(struct epoll *e, struct op *op)
{
    int fd = op->fd;
    rondo_buffer room = room_to_receive(e);
    ssize_t size = receive(e, op, room);
    size_t received = size > 0 ? (size_t)size : 0;
    if (size == -EAGAIN || size == -EINTR)
        return false;
    struct completion completion = {
        .result = (int)size,
        .more = size > 0 && op->kind == OP_RECEIVE_MULTISHOT,
        .more_to_read = received == room.size,
    };
    e->received++;
    op->more_to_read = completion.more_to_read;
    if (!completion.more)
        e->descriptors[fd].input = NULL;
    if (received == 0) {
        tell(e, op, &completion);
        return true;
    }
    completion.data = lend(e, received);
    const char *data = completion.data.data;
    tell(e, op, &completion);
    buffers_unref(&e->engine.buffers, data);
    return true;
}

/* Those in line, as long as there are buffers; who comes meanwhile comes behind them. */
static void serve_line(struct epoll *e)
{
    struct op_line line = e->in_line;
    e->in_line = (struct op_line){ 0 };
    while (line.first != NULL && has_room(e)) {
        struct op *op = op_line_pop(&line);
        int fd = op->fd;
        if (op->cancelling) {
            e->cancelled--;
            tell(e, op, &(struct completion){ .result = -ECANCELED });
            continue;
        }
        changed(e, fd); /* unless this was all, its event is waited for */
        receive_into_buffer(e, op);
    }
    op_line_put_before(&e->in_line, &line);
}

static void receive_or_line_up(struct epoll *e, struct op *op)
{
    if (e->in_line.first == NULL && has_room(e)) {
        receive_into_buffer(e, op);
        return;
    }
    e->engine.counters.starved++;
    op_line_push(&e->in_line, op);
}

static void end_input(struct epoll *e, struct op *op, ssize_t result, bool more_to_read)
{
    if (result == -EAGAIN || result == -EINTR)
        return;
    e->received++;
    op->more_to_read = more_to_read;
    e->descriptors[op->fd].input = NULL;
    tell(e, op, &(struct completion){ .result = (int)result, .more_to_read = more_to_read });
}

static void receive_into_memory(struct epoll *e, struct op *op)
{
    rondo_buffer memory = e->descriptors[op->fd].into.memory;
    if (memory.size > LENGTH_MAX)
        memory.size = LENGTH_MAX;
    ssize_t size = receive(e, op, memory);
    end_input(e, op, size, size > 0 && (size_t)size == memory.size);
}

static void receive_message(struct epoll *e, struct op *op)
{
    struct msghdr *message = e->descriptors[op->fd].into.message;
    ssize_t size = COUNTED(e, recvmsg(op->fd, message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT));
    end_input(e, op, size < 0 ? -errno : size, false);
}

/* ---- datagrams -------------------------------------------------------------------------------------------- */

/* A buffer begins with the sender's name, in a place of fixed size. */
struct named {
    struct sockaddr_storage name;
    char bytes[];
};

static bool receive_datagram(struct epoll *e, struct op *op)
{
    struct buffers *buffers = &e->engine.datagrams;
    uint16_t index;
    buffers_take_returned(buffers, &index, 1);
    rondo_buffer room = buffers_room(buffers, index);
    struct named *named = room.data;
    struct iovec slice = { named->bytes, room.size - sizeof *named };
    struct msghdr message = {
        .msg_name = &named->name,
        .msg_namelen = sizeof named->name,
        .msg_iov = &slice,
        .msg_iovlen = 1,
    };
    long size = COUNTED(e, syscall(SYS_recvmsg, op->fd, &message, MSG_DONTWAIT));
    int error = size < 0 ? -errno : 0;
    rondo_bytes lent = buffers_lend(buffers, index, size < 0 ? 0 : sizeof *named + (size_t)size, false);
    bool is_there = error != -EAGAIN && error != -EINTR;
    if (is_there) {
        struct datagram_origin origin = {
            .address = { message.msg_namelen > 0 ? (void *)&named->name : NULL, message.msg_namelen },
            .is_truncated = (message.msg_flags & MSG_TRUNC) != 0,
        };
        struct completion completion = { .result = error, .more = error == 0 };
        if (error == 0) {
            completion.result = (int)size;
            completion.data = (rondo_bytes){ lent.data + sizeof *named, (size_t)size };
            completion.origin = &origin;
        } else {
            e->descriptors[op->fd].input = NULL;
        }
        e->received++;
        tell(e, op, &completion);
    }
    buffers_unref(buffers, lent.data);
    return is_there;
}

/* Many, while there are buffers for them; what is left is reported again. */
static void receive_datagrams_or_line_up(struct epoll *e, struct op *op)
{
    int fd = op->fd;
    while (e->descriptors[fd].input == op && e->engine.datagrams.returned_count > 0 &&
           e->received < PORTION) {
        if (!receive_datagram(e, op))
            return;
    }
    if (e->descriptors[fd].input != op || e->engine.datagrams.returned_count > 0)
        return;
    e->engine.counters.starved++;
    op_line_push(&e->without_datagrams, op);
    changed(e, fd);
}

/* There are buffers again: what waits in their sockets is reported. */
static void resume_datagrams(struct epoll *e)
{
    struct op_line line = e->without_datagrams;
    if (e->engine.datagrams.returned_count == 0 || e->cancelled > 0)
        return;
    e->without_datagrams = (struct op_line){ 0 };
    for (struct op *op; (op = op_line_pop(&line)) != NULL;)
        changed(e, op->fd);
}

/* ---- accepting -------------------------------------------------------------------------------------------- */

static void end_accept(struct epoll *e, struct op *op, int result)
{
    e->descriptors[op->fd].input = NULL;
    forget(e, op->fd); /* it is closed by others; and who comes back lines up behind the others */
    tell(e, op, &(struct completion){ .result = result });
}

/* A Unix listener that was shut reports that for ever, and yet has nobody to accept: a call that waits would say EINVAL. */
static bool is_shut(struct epoll *e, int fd)
{
    struct pollfd listener = { .fd = fd, .events = POLLRDHUP };
    return COUNTED(e, poll(&listener, 1, 0)) > 0;
}

/* All that wait: a listener whose queue is long is not reported more often than others. */
static void accept_all(struct epoll *e, struct op *op)
{
    int listener = op->fd;
    for (unsigned i = 0; i < ACCEPTS_MAX && e->descriptors[listener].input == op; i++) {
        int fd = COUNTED(e, accept4(listener, NULL, NULL, SOCK_CLOEXEC));
        int result = fd < 0 ? -errno : fd;
        if (result == -EAGAIN && i == 0 && is_shut(e, listener))
            result = -EINVAL;
        if (result == -EAGAIN || result == -EINTR)
            return;
        if (result < 0 || op->kind == OP_ACCEPT_ONE) {
            end_accept(e, op, result);
            return;
        }
        tell(e, op, &(struct completion){ .result = fd, .more = true });
    }
}

/* ---- sending and connecting ------------------------------------------------------------------------------- */

static void end_output(struct epoll *e, struct op *op, int result)
{
    free_unsent(&e->descriptors[op->fd]);
    e->descriptors[op->fd].output = NULL;
    tell(e, op, &(struct completion){ .result = result });
}

static void send_rest(struct epoll *e, struct op *op)
{
    struct descriptor *d = &e->descriptors[op->fd];
    struct msghdr rest;
    const struct msghdr *message = &rest;
    if (op->kind != OP_SEND_MESSAGE)
        rest = (struct msghdr){ .msg_iov = d->from.unsent->slices, .msg_iovlen = d->from.unsent->count };
    else
        message = d->from.message;
    d->is_full = false;
    int rc = try_to_send(e, op, op->fd, message, SEND_WAITS);
    if (rc != -EAGAIN)
        end_output(e, op, rc);
}

static void connected(struct epoll *e, struct op *op)
{
    int error = 0;
    if (COUNTED(e, getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){ sizeof error })) < 0)
        error = errno;
    end_output(e, op, -error);
}

static void retry_connects(struct epoll *e)
{
    struct op_line line = e->retrying;
    e->retrying = (struct op_line){ 0 };
    for (struct op *op; (op = op_line_pop(&line)) != NULL;) {
        if (op->cancelling) {
            e->cancelled--;
            tell(e, op, &(struct completion){ .result = -ECANCELED });
            continue;
        }
        const struct descriptor *d = &e->descriptors[op->fd];
        int rc = COUNTED(e, connect(op->fd, d->from.peer.address, d->from.peer.size)) < 0 ? -errno : 0;
        if (rc == -EAGAIN)
            op_line_push(&e->retrying, op);
        else
            end_output(e, op, rc);
    }
}

/* ---- events ----------------------------------------------------------------------------------------------- */

static void readable(struct epoll *e, struct op *op, uint32_t events)
{
    switch (op->kind) {
    case OP_ACCEPT:
    case OP_ACCEPT_ONE:
        accept_all(e, op);
        return;
    case OP_RECEIVE_INTO:
        receive_into_memory(e, op);
        return;
    case OP_RECEIVE_MESSAGE:
        receive_message(e, op);
        return;
    case OP_DATAGRAMS:
        receive_datagrams_or_line_up(e, op);
        return;
    case OP_POLL:
        end_input(e, op, events, false);
        return;
    default:
        receive_or_line_up(e, op);
    }
}

static void writable(struct epoll *e, struct op *op)
{
    if (op->kind == OP_CONNECT)
        connected(e, op);
    else
        send_rest(e, op);
}

static void woken(struct epoll *e)
{
    uint64_t value;
    ssize_t size = COUNTED(e, read(e->wake_fd, &value, sizeof value));
    (void)size; /* it was readable, and is nobody else's */
}

/* The descriptor, if it is still the one that was reported. */
static struct descriptor *reported(struct epoll *e, uint64_t data)
{
    struct descriptor *d = &e->descriptors[(uint32_t)data];
    return d->generation == (uint32_t)(data >> 32) ? d : NULL;
}

static void happened(struct epoll *e, struct epoll_event event)
{
    if (event.data.u64 == WAKE) {
        woken(e);
        return;
    }
    struct descriptor *d = reported(e, event.data.u64);
    if (d == NULL)
        return;
    uint32_t wanted = wanted_of(d), events = event.events;
    if (events & (EPOLLERR | EPOLLHUP))
        events |= EPOLLIN | EPOLLOUT;
    if (events & d->registered & ~wanted) {
        d->is_tiresome = true;
        changed(e, (int)(uint32_t)event.data.u64);
    }
    if (events & wanted & EPOLLIN)
        readable(e, d->input, event.events);
    d = events & wanted & EPOLLOUT ? reported(e, event.data.u64) : NULL;
    if (d != NULL && d->output != NULL)
        writable(e, d->output);
}

static bool epoll_dispatch(struct engine *engine)
{
    struct epoll *e = epoll_of(engine);
    e->received = 0;
    tell_ended(e);
    if (e->retrying.first != NULL)
        retry_connects(e);
    if (e->in_line.first != NULL)
        serve_line(e);
    while (e->event_next < e->event_count && e->received < PORTION)
        happened(e, e->events[e->event_next++]);
    tell_cancelled(e);
    return e->event_next == e->event_count;
}

/* ---- opening and closing ---------------------------------------------------------------------------------- */

static int open_buffers(struct epoll *e, const struct engine_size *size)
{
    struct buffers *buffers = &e->engine.buffers;
    bool is_pieced = size->pieced_buffers > 0;
    int rc = is_pieced ? buffers_open(buffers, size->pieced_buffers, size->pieced_buffer_bytes)
                       : buffers_open(buffers, size->buffers, size->buffer_bytes);
    if (rc < 0)
        return rc;
    buffers->is_pieced = is_pieced;
    buffers_return_all(buffers);
    if (size->datagrams > 0)
        rc = buffers_open(&e->engine.datagrams, size->datagrams, size->datagram_bytes);
    if (rc < 0)
        return rc;
    buffers_return_all(&e->engine.datagrams);
    e->room_least = buffers->size_bytes / 4;
    return 0;
}

static int open_instance(struct epoll *e)
{
    e->fd = epoll_create1(EPOLL_CLOEXEC);
    if (e->fd < 0)
        return -errno;
    struct epoll_event event = { .events = EPOLLIN, .data.u64 = WAKE };
    return epoll_ctl(e->fd, EPOLL_CTL_ADD, e->wake_fd, &event) < 0 ? -errno : 0;
}

static void free_all(struct epoll *e)
{
    if (e->fd >= 0)
        close(e->fd);
    buffers_close(&e->engine.buffers);
    buffers_close(&e->engine.datagrams);
    memory_free(e->descriptors);
    memory_free(e);
}

static void epoll_close(struct engine *engine)
{
    struct epoll *e = epoll_of(engine);
    tell_ended(e); /* quiet ones */
    assert(e->ops_in_kernel == 0 && e->engine.buffers.lent == 0 && e->engine.datagrams.lent == 0);
    free_all(e);
}

static const struct engine_ops epoll_ops = {
    .accept = epoll_accept,
    .accept_one = epoll_accept_one,
    .receive = epoll_receive,
    .receive_into = epoll_receive_into,
    .receive_message = epoll_receive_message,
    .receive_datagrams = epoll_receive_datagrams,
    .read = epoll_read,
    .write = epoll_write,
    .poll = epoll_poll,
    .send = epoll_send,
    .send_message = epoll_send_message,
    .connect = epoll_connect,
    .read_file = epoll_read_file,
    .read_ended = epoll_read_ended,
    .close_fd = epoll_close_fd,
    .close_now = epoll_close_now,
    .cancel = epoll_cancel,
    .wait = epoll_wait_for,
    .dispatch = epoll_dispatch,
    .submit = epoll_submit,
    .now_ns = engine_system_clock_ns,
    .close = epoll_close,
};

static void explain(int error, char why[ENGINE_WHY_BYTES])
{
    const char *remedy = error == -EMFILE || error == -ENFILE ? "raise the limit of descriptors (ulimit -n)"
                         : error == -ENOMEM                   ? "there is no memory for it"
                                                              : "see epoll_create1(2)";
    snprintf(why, ENGINE_WHY_BYTES, "epoll: %s: %s", strerror(-error), remedy);
}

struct engine *epoll_open(const struct engine_size *size, int wake_fd, int *error, char why[ENGINE_WHY_BYTES])
{
    struct epoll *e = memory_new(sizeof *e);
    *error = e == NULL ? -ENOMEM : 0;
    if (e != NULL) {
        e->fd = e->first_changed = e->buffer = -1;
        e->wake_fd = wake_fd;
        e->engine.name = "epoll";
        e->engine.ops = &epoll_ops;
        e->engine.sockets = &system_sockets;
        *error = open_instance(e);
    }
    if (*error == 0)
        *error = open_buffers(e, size);
    if (*error == 0)
        return &e->engine;
    explain(*error, why);
    if (e != NULL)
        free_all(e);
    return NULL;
}
