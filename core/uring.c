/* The io_uring engine: one ring and one provided-buffer ring, for the thread that opened it.
 *
 * Needs Linux 6.1, for IORING_SETUP_DEFER_TASKRUN: completions are then made only while this thread is inside
 * io_uring_enter, so none appears, and nothing is taken from a socket, while callbacks run. It is worth a third of
 * the CPU. Everything else that is used (multishot accept and receive, buffer rings) is older than 6.1.
 *
 * A turn is one io_uring_enter: it issues what stands in the submission queue, makes pending completions, and
 * sleeps until there is one. One with many completions has others in between, which issue only.
 *
 *   user_data   the address of the struct op, with QUIET in its lowest bit if its success isn't told; 0 for a
 *               cancellation, whose target tells the outcome
 *
 * A receive that finds no buffer free ends with -ENOBUFS. It is not told to anyone: the op waits in `starved`, and
 * is issued again when buffers were given back, one each, the longest waiting first. A receive that would find bytes
 * at once goes to the end of that line, so that a few fast peers can't keep all buffers. Both happen right before the
 * system call, so whatever returns a buffer during a turn (a completion, a timer, a posted call) is seen before we
 * sleep. It can't stall: we don't sleep while someone waits and a buffer is free, and if none is free, those lent come
 * back by way of a turn. It can't spin: nobody is issued again without a buffer for it. */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <rondo/log.h>

#include "core/engine.h"
#include "core/kernel.h"
#include "core/memory.h"
#include "core/uring_compat.h"

#define QUIET          1u
#define POLLED         2u
#define MARKS          (QUIET | POLLED)
#define SLICES_MAX     (16 * ENGINE_SEND_SLICES_MAX) /* of all sends in one system call; more take another */
#define QUIET_MAX      1024                          /* sends of a turn; more are issued as others are */
#define QUIET_BUSYNESS 8          /* completions of a turn, up to which a shard has little to do */
#define PORTION        8          /* receives of a turn that are handed out between two submissions */
#define PORTION_LAST   4          /* completions that are too few for one more */
#define WARM_BUFFERS   2          /* the kernel's, while receives are large */
#define LARGE_SHARE    8          /* of a buffer: an eighth */
#define LENGTH_MAX     (1u << 30) /* of one receive or send: the kernel's limit is a little less than 2 GiB */

enum op_kind {
    OP_ACCEPT = 1,
    OP_RECEIVE,
    OP_RECEIVE_INTO,
    OP_RECEIVE_MESSAGE,
    OP_SEND,
    OP_CONNECT,
    OP_READ_FILE,
    OP_CLOSE,
    OP_WAKE,
    OP_DATAGRAMS,
    OP_DATAGRAMS_LOCAL, /* of a Unix socket, whose names are longer */
    OP_READ,
    OP_WRITE, /* when there is room */
    OP_WRITE_NOW,
    OP_POLL
};

/* Buffers that the kernel is given, of which each receive takes one. */
struct provided_ring {
    struct buffers *buffers;
    struct io_uring_buf_ring *ring; /* NULL: there is none */
    size_t ring_bytes;
    uint16_t group;
    unsigned provided;      /* buffers that are the kernel's, as far as dispatched completions tell */
    uint16_t *returned;     /* room for buffers_take_returned */
    struct op_line starved; /* receives waiting for a buffer */
};

/* An operation that succeeds by saying nothing. */
struct quiet_op {
    struct op *op;
    int result; /* then */
};

struct uring {
    struct engine engine;
    struct io_uring ring;
    bool ring_is_open;
    unsigned enter_flags;     /* of every io_uring_enter */
    unsigned multishot_bytes; /* after which a multishot receive ends; 0: the kernel knows no such limit */

    struct provided_ring streams, datagrams;
    size_t receive_bytes; /* of the latest receives of a stream, about */
    unsigned cancelled;   /* of the receives waiting for a buffer, to be completed by the next dispatch */
    bool found_none;      /* a receive, dispatched in this turn, has found no buffer */
    bool is_short;        /* one did in the turn before, or waits still */

    unsigned turn_end; /* of the completions: those behind it are dispatched in the next turn */
    unsigned received; /* receives dispatched of the current portion */
    size_t turn_bytes, turn_receives; /* that brought something, in the latest turn */

    bool can_be_quiet;
    unsigned busyness; /* completions of the latest turn */
    unsigned quiet_count;
    struct quiet_op quiet[QUIET_MAX]; /* issued since the last dispatch */

    struct op wake;
    int wake_fd;
    uint64_t wake_value;

    unsigned ops_in_kernel; /* issued, last completion not dispatched; starved ones count */
    unsigned cancels_in_kernel;

    /* What sendmsg points to must live until it is submitted, not longer (IORING_FEAT_SUBMIT_STABLE). */
    struct msghdr *headers;
    struct iovec *slices;
    unsigned headers_used, headers_max, slices_used;
    struct msghdr datagram, local_datagram; /* what a buffer has room for, beside the bytes */
};

static struct uring *uring_of(struct engine *engine)
{
    return rondo_container_of(engine, struct uring, engine);
}

/* ---- the system call ------------------------------------------------------------------------------------ */

/* Publish what stands in the submission queue. (liburing's own submit functions can't pass IORING_ENTER_NO_IOWAIT,
 * and some of them make two system calls where one will do.) */
static unsigned flush_submissions(struct uring *u)
{
    struct io_uring_sq *sq = &u->ring.sq;
    io_uring_smp_store_release(sq->ktail, sq->sqe_tail);
    return sq->sqe_tail - io_uring_smp_load_acquire(sq->khead);
}

static void sent_messages_are_submitted(struct uring *u)
{
    if (u->ring.sq.sqe_tail == io_uring_smp_load_acquire(u->ring.sq.khead))
        u->headers_used = u->slices_used = 0;
}

/* Without a wait. */
static void submit(struct uring *u)
{
    unsigned count = flush_submissions(u);
    u->engine.counters.system_calls++;
    int rc = io_uring_enter2((unsigned)u->ring.enter_ring_fd, count, 0,
                             u->enter_flags & IORING_ENTER_REGISTERED_RING, NULL, 0);
    if (rc < 0 && rc != -EINTR) {
        /* Out of memory for the request, or for completions that overflow: both pass when others end. */
        rondo_log(RONDO_LOG_WARNING, "io_uring_enter can't take operations: %s; trying again", strerror(-rc));
        nanosleep(&(struct timespec){ .tv_nsec = 1000 * 1000 }, NULL);
    }
    sent_messages_are_submitted(u);
}

static struct io_uring_sqe *next_sqe(struct uring *u)
{
    struct io_uring_sqe *sqe;
    while ((sqe = io_uring_get_sqe(&u->ring)) == NULL)
        submit(u); /* more than the queue holds, which is rare */
    return sqe;
}

/* ---- issuing -------------------------------------------------------------------------------------------- */

static void begin(struct uring *u, struct op *op, enum op_kind kind, int fd)
{
    assert(!op->in_kernel && op->done != NULL);
    op->in_kernel = true;
    op->cancelling = false;
    op->quiet = false;
    op->kind = (uint8_t)kind;
    op->fd = fd;
    u->ops_in_kernel++;
}

static void issued(struct uring *u, struct op *op, struct io_uring_sqe *sqe, enum op_kind kind, int fd)
{
    begin(u, op, kind, fd);
    u->engine.counters.submissions++;
    io_uring_sqe_set_data(sqe, op);
}

static void uring_accept(struct engine *engine, struct op *op, int fd)
{
    struct uring *u = uring_of(engine);
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_multishot_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC);
    issued(u, op, sqe, OP_ACCEPT, fd);
}

static void uring_accept_one(struct engine *engine, struct op *op, int fd)
{
    struct uring *u = uring_of(engine);
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC);
    issued(u, op, sqe, OP_ACCEPT, fd);
}

static void select_buffer(struct io_uring_sqe *sqe, const struct provided_ring *ring)
{
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = ring->group;
}

/* POLL_FIRST spares the attempt that would find nothing, unless the last completion said that there is more. */
static struct io_uring_sqe *prepare_receive(struct uring *u, int fd, bool multishot, bool poll_first)
{
    struct io_uring_sqe *sqe = next_sqe(u);
    if (multishot) {
        io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
        uring_limit_multishot(sqe, u->multishot_bytes);
    } else {
        io_uring_prep_recv(sqe, fd, NULL, 0, 0);
    }
    select_buffer(sqe, &u->streams);
    if (poll_first)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    return sqe;
}

/* Else it would overtake those that wait. But when all buffers are lent it may try: it finds none, or the peer's end. */
static bool must_line_up(const struct uring *u, const struct op *op)
{
    bool any = u->streams.provided > 0 || u->engine.buffers.returned_count > 0;
    return op->more_to_read && any && (u->is_short || u->found_none);
}

static void uring_receive(struct engine *engine, struct op *op, int fd, bool multishot)
{
    struct uring *u = uring_of(engine);
    if (must_line_up(u, op)) {
        begin(u, op, OP_RECEIVE, fd);
        op_line_push(&u->streams.starved, op);
        return;
    }
    struct io_uring_sqe *sqe = prepare_receive(u, fd, multishot, !op->more_to_read);
    issued(u, op, sqe, OP_RECEIVE, fd);
}

static size_t length_of(size_t size)
{
    return size < LENGTH_MAX ? size : LENGTH_MAX;
}

static void uring_receive_into(struct engine *engine, struct op *op, int fd, rondo_buffer memory)
{
    struct uring *u = uring_of(engine);
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_recv(sqe, fd, memory.data, length_of(memory.size), 0);
    if (!op->more_to_read)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    issued(u, op, sqe, OP_RECEIVE_INTO, fd);
}

static void uring_receive_message(struct engine *engine, struct op *op, int fd, struct msghdr *message)
{
    struct uring *u = uring_of(engine);
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_recvmsg(sqe, fd, message, MSG_CMSG_CLOEXEC);
    if (!op->more_to_read)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    issued(u, op, sqe, OP_RECEIVE_MESSAGE, fd);
}

/* ---- datagrams ------------------------------------------------------------------------------------------ */

static bool is_of_datagrams(const struct op *op)
{
    return op->kind == OP_DATAGRAMS || op->kind == OP_DATAGRAMS_LOCAL;
}

static struct msghdr *template_for(struct uring *u, enum op_kind kind)
{
    return kind == OP_DATAGRAMS_LOCAL ? &u->local_datagram : &u->datagram;
}

static struct io_uring_sqe *prepare_datagrams(struct uring *u, int fd, enum op_kind kind, bool poll_first)
{
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_recvmsg_multishot(sqe, fd, template_for(u, kind), 0);
    select_buffer(sqe, &u->datagrams);
    if (poll_first)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    return sqe;
}

static void uring_receive_datagrams(struct engine *engine, struct op *op, int fd, int family)
{
    struct uring *u = uring_of(engine);
    enum op_kind kind = family == AF_UNIX ? OP_DATAGRAMS_LOCAL : OP_DATAGRAMS;
    assert(u->datagrams.ring != NULL);
    issued(u, op, prepare_datagrams(u, fd, kind, !op->more_to_read), kind, fd);
}

/* ---- what is no socket ---------------------------------------------------------------------------------- */

/* Readable, or writable, first: a descriptor that is set not to block would refuse otherwise, and one that is not would be
 * read by a worker thread before Linux 6.4. One of the two says how it ended: when the poll succeeds, what is linked to it;
 * when it's cancelled, the poll. */
static void prepare_poll_before(struct uring *u, struct op *op, int fd, unsigned events)
{
    while (io_uring_sq_space_left(&u->ring) < 2)
        submit(u);
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_poll_add(sqe, fd, events);
    sqe->flags |= IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = (uint64_t)(uintptr_t)op | POLLED;
}

static struct io_uring_sqe *prepare_read(struct uring *u, struct op *op, int fd)
{
    prepare_poll_before(u, op, fd, POLLIN);
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_read(sqe, fd, NULL, 0, UINT64_MAX);
    select_buffer(sqe, &u->streams);
    return sqe;
}

static void uring_read(struct engine *engine, struct op *op, int fd)
{
    struct uring *u = uring_of(engine);
    issued(u, op, prepare_read(u, op, fd), OP_READ, fd);
}

static void uring_poll(struct engine *engine, struct op *op, int fd)
{
    struct uring *u = uring_of(engine);
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_poll_add(sqe, fd, POLLIN | POLLRDHUP);
    issued(u, op, sqe, OP_POLL, fd);
}

/* ---- sending -------------------------------------------------------------------------------------------- */

/* Room for an sqe and for a message of `count` slices. Both at once, since making room submits, and what a
 * submission has taken is no longer kept. */
static void make_room_for_message(struct uring *u, unsigned count)
{
    while (io_uring_sq_space_left(&u->ring) < 2 || u->headers_used == u->headers_max ||
           u->slices_used + count > SLICES_MAX)
        submit(u);
}

static struct msghdr *message_of(struct uring *u, const struct iovec *slices, unsigned count)
{
    struct msghdr *message = &u->headers[u->headers_used++];
    *message = (struct msghdr){ .msg_iov = u->slices + u->slices_used, .msg_iovlen = count };
    memcpy(message->msg_iov, slices, count * sizeof *slices);
    u->slices_used += count;
    return message;
}

static int flags_of(enum send_way way)
{
    return MSG_NOSIGNAL | (way == SEND_WAITS ? 0 : MSG_DONTWAIT);
}

static size_t size_of(const struct iovec *slices, unsigned count)
{
    size_t size = 0;
    for (unsigned i = 0; i < count; i++)
        size += slices[i].iov_len;
    return size;
}

static bool can_skip_success(const struct uring *u)
{
    return u->can_be_quiet && u->quiet_count < QUIET_MAX;
}

static void skip_success(struct uring *u, struct op *op, struct io_uring_sqe *sqe, int result)
{
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data |= QUIET;
    op->quiet = true;
    u->quiet[u->quiet_count++] = (struct quiet_op){ op, result };
}

/* A quiet send lets the call that issues it sleep, so a shard that has little to do saves one of two turns for each
 * request. A busy one doesn't sleep anyway; there sends with a completion are 2 to 3 % cheaper, since the turn they begin
 * comes sooner: it takes fewer messages at a time, which are still in the cache (Linux 6.18). */
static bool pays_to_be_quiet(const struct uring *u)
{
    return u->busyness <= QUIET_BUSYNESS && can_skip_success(u);
}

/* A send that doesn't wait runs inside the system call that issues it. With MSG_WAITALL one that comes up short counts as
 * a failure, which is told, with the bytes that went. So if nothing was told when the call has taken the send, then all
 * was sent; see succeed_quietly. */
static void be_quiet(struct uring *u, struct op *op, struct io_uring_sqe *sqe, size_t size)
{
    sqe->msg_flags |= MSG_WAITALL;
    skip_success(u, op, sqe, (int)size);
}

static void uring_send(struct engine *engine, struct op *op, int fd, const struct iovec *slices,
                       unsigned count, enum send_way way)
{
    struct uring *u = uring_of(engine);
    assert(count >= 1 && count <= ENGINE_SEND_SLICES_MAX);
    struct io_uring_sqe *sqe;
    if (count == 1) {
        sqe = next_sqe(u);
        io_uring_prep_send(sqe, fd, slices[0].iov_base, length_of(slices[0].iov_len), flags_of(way));
    } else {
        make_room_for_message(u, count);
        sqe = next_sqe(u);
        io_uring_prep_sendmsg(sqe, fd, message_of(u, slices, count), (unsigned)flags_of(way));
    }
    issued(u, op, sqe, OP_SEND, fd);
    size_t size = size_of(slices, count);
    if (way == SEND_QUIETLY && pays_to_be_quiet(u) && size <= LENGTH_MAX)
        be_quiet(u, op, sqe, size);
}

static void uring_write(struct engine *engine, struct op *op, int fd, const struct iovec *slices,
                        unsigned count, enum send_way way)
{
    struct uring *u = uring_of(engine);
    assert(count >= 1 && count <= ENGINE_SEND_SLICES_MAX);
    make_room_for_message(u, count);
    struct iovec *copied = message_of(u, slices, count)->msg_iov;
    if (way == SEND_WAITS)
        prepare_poll_before(u, op, fd, POLLOUT);
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_writev2(sqe, fd, copied, count, UINT64_MAX, way == SEND_WAITS ? 0 : RWF_NOWAIT);
    issued(u, op, sqe, way == SEND_WAITS ? OP_WRITE : OP_WRITE_NOW, fd);
}

/* An address alone the kernel takes without a message: that spares it the reading of one. */
static bool is_plain_datagram(const struct msghdr *message)
{
    return message->msg_name != NULL && message->msg_iovlen == 1 && message->msg_controllen == 0;
}

static void uring_send_message(struct engine *engine, struct op *op, int fd, const struct msghdr *message,
                               enum send_way way)
{
    struct uring *u = uring_of(engine);
    struct io_uring_sqe *sqe = next_sqe(u);
    if (is_plain_datagram(message)) {
        io_uring_prep_send(sqe, fd, message->msg_iov->iov_base, message->msg_iov->iov_len, flags_of(way));
        sqe->addr2 = (uint64_t)(uintptr_t)message->msg_name;
        sqe->addr_len = (uint16_t)message->msg_namelen;
    } else {
        io_uring_prep_sendmsg(sqe, fd, message, (unsigned)flags_of(way));
    }
    issued(u, op, sqe, OP_SEND, fd);
    if (way == SEND_QUIETLY && pays_to_be_quiet(u))
        be_quiet(u, op, sqe, size_of(message->msg_iov, (unsigned)message->msg_iovlen));
}

/* A Unix socket whose listener's queue is full can't be polled for room, only waited for by a worker thread. The ring would
 * find that out by trying 128 times, and a cancellation in between finds the operation nowhere, and is lost. */
static void uring_connect(struct engine *engine, struct op *op, int fd, const struct sockaddr *address,
                          socklen_t size)
{
    struct uring *u = uring_of(engine);
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_connect(sqe, fd, address, size);
    if (address->sa_family == AF_UNIX)
        sqe->flags |= IOSQE_ASYNC;
    issued(u, op, sqe, OP_CONNECT, fd);
}

static void uring_read_file(struct engine *engine, struct op *op, int fd, uint64_t offset,
                            rondo_buffer memory)
{
    struct uring *u = uring_of(engine);
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_read(sqe, fd, memory.data, (unsigned)length_of(memory.size), offset);
    issued(u, op, sqe, OP_READ_FILE, fd);
}

/* A socket's close runs inside the call that issues it, too: it has nothing to flush. */
static void uring_close_fd(struct engine *engine, struct op *op, int fd)
{
    struct uring *u = uring_of(engine);
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_close(sqe, fd);
    issued(u, op, sqe, OP_CLOSE, fd);
    if (can_skip_success(u))
        skip_success(u, op, sqe, 0);
}

static void uring_close_now(struct engine *engine, int fd)
{
    (void)engine;
    close(fd);
}

/* The target's address can't be another op's by the time the kernel looks for it: the target is in the kernel
 * now, so what holds it lives at least until the next system call, which takes this along. */
static void uring_cancel(struct engine *engine, struct op *op)
{
    struct uring *u = uring_of(engine);
    if (!op->in_kernel || op->cancelling)
        return;
    op->cancelling = true;
    if (op->in_line) { /* starved: not really in the kernel */
        u->cancelled++;
    } else if (op->quiet) { /* has its outcome as soon as it's issued */
        engine_expect(engine, op);
    } else {
        struct io_uring_sqe *sqe = next_sqe(u);
        bool is_polled = op->kind == OP_READ || op->kind == OP_WRITE;
        io_uring_prep_cancel64(sqe, (uint64_t)(uintptr_t)op | (is_polled ? POLLED : 0), 0);
        io_uring_sqe_set_data(sqe, NULL);
        u->cancels_in_kernel++;
        engine->counters.submissions++;
    }
}

/* ---- a turn --------------------------------------------------------------------------------------------- */

/* How many buffers the kernel shall have. When large messages come, only as many as stay in the cache between receive and
 * send, and in the next turn again: what finds none free comes a turn later. It is worth 0 to 6 % of the CPU of bulk (a
 * second-level cache of 2 MiB). One alone is worth 12 %, but then some connections wait for 0.3 s. Of medium messages each
 * turn takes many: 1,000 connections with 16 KiB each would cost 17 % more. */
static unsigned buffers_wanted(struct uring *u)
{
    const struct buffers *buffers = &u->engine.buffers;
    if (u->turn_receives > 0) /* a running mean: now and then a large message ends in a small piece */
        u->receive_bytes += u->turn_bytes / u->turn_receives / 8 - u->receive_bytes / 8;
    bool is_bulk = buffers->is_pieced && u->receive_bytes >= buffers->size_bytes / LARGE_SHARE;
    return is_bulk ? WARM_BUFFERS : buffers->count;
}

static void give_back_buffers(struct provided_ring *ring, unsigned wanted)
{
    struct buffers *buffers = ring->buffers;
    unsigned count =
        wanted > ring->provided ? buffers_take_returned(buffers, ring->returned, wanted - ring->provided) : 0;
    if (count == 0)
        return;
    int mask = io_uring_buf_ring_mask(buffers->count);
    for (unsigned i = 0; i < count; i++) {
        io_uring_buf_ring_add(ring->ring, buffers_at(buffers, ring->returned[i]),
                              (unsigned)buffers->size_bytes, ring->returned[i], mask, (int)i);
    }
    io_uring_buf_ring_advance(ring->ring, (int)count);
    ring->provided += count;
}

/* A stream's single-shot, so that each takes one buffer only; its owner issues a multishot receive after it. */
static struct io_uring_sqe *prepare_again(struct uring *u, struct op *op)
{
    if (is_of_datagrams(op))
        return prepare_datagrams(u, op->fd, op->kind, false);
    return op->kind == OP_READ ? prepare_read(u, op, op->fd) : prepare_receive(u, op->fd, false, false);
}

/* Not while somebody in line is cancelled: the next dispatch, which comes without a sleep, ends those first. */
static void resume_starved(struct uring *u, struct provided_ring *ring)
{
    for (unsigned free = u->cancelled > 0 ? 0 : ring->provided; free > 0; free--) {
        struct op *op = op_line_pop(&ring->starved);
        if (op == NULL)
            return;
        io_uring_sqe_set_data(prepare_again(u, op), op);
        u->engine.counters.submissions++;
    }
}

/* A quiet send keeps its buffers while we sleep. */
static bool is_short_of_buffers(const struct uring *u, const struct provided_ring *ring)
{
    return u->quiet_count > 0 && ring->provided + ring->buffers->returned_count < ring->buffers->count / 4;
}

static bool somebody_waits_for(const struct provided_ring *ring)
{
    return ring->provided > 0 && ring->starved.first != NULL;
}

/* The system call: submit, and wait for so many completions. */
static int enter(struct uring *u, unsigned completions)
{
    u->engine.counters.system_calls++;
    return io_uring_enter2((unsigned)u->ring.enter_ring_fd, flush_submissions(u), completions,
                           u->enter_flags | IORING_ENTER_GETEVENTS, NULL, 0);
}

/* The same, with a time limit. */
static int enter_for(struct uring *u, uint64_t timeout_ns)
{
    struct __kernel_timespec timeout = { .tv_sec = (int64_t)(timeout_ns / 1000000000),
                                         .tv_nsec = (int64_t)(timeout_ns % 1000000000) };
    struct io_uring_getevents_arg argument = { .ts = (uint64_t)(uintptr_t)&timeout };
    u->engine.counters.system_calls++;
    return io_uring_enter2((unsigned)u->ring.enter_ring_fd, flush_submissions(u), 1,
                           u->enter_flags | IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG,
                           (sigset_t *)&argument, sizeof argument);
}

static void uring_submit(struct engine *engine)
{
    struct uring *u = uring_of(engine);
    if (io_uring_sq_ready(&u->ring) > 0)
        submit(u);
}

static void begin_turn(struct uring *u)
{
    u->turn_bytes = u->turn_receives = 0;
    u->turn_end = io_uring_smp_load_acquire(u->ring.cq.ktail);
    u->busyness = u->turn_end - *u->ring.cq.khead;
    u->engine.counters.completions += u->busyness;
}

static int uring_wait(struct engine *engine, uint64_t timeout_ns)
{
    struct uring *u = uring_of(engine);
    give_back_buffers(&u->streams, buffers_wanted(u));
    give_back_buffers(&u->datagrams, u->datagrams.buffers->count);
    resume_starved(u, &u->streams);
    resume_starved(u, &u->datagrams);
    u->is_short = u->found_none || u->streams.starved.first != NULL;
    u->found_none = false;
    /* One that was resumed may find nothing to receive and leave its buffer: another turn passes it on to the next in
     * line. Each turn makes the line shorter, so that ends. */
    bool passes_on = somebody_waits_for(&u->streams) || somebody_waits_for(&u->datagrams);
    bool is_short = is_short_of_buffers(u, &u->streams) || is_short_of_buffers(u, &u->datagrams);
    bool sleep = timeout_ns > 0 && u->cancelled == 0 && !passes_on && !engine->is_expected && !is_short;
    engine->is_expected = false;
    int rc = sleep && timeout_ns != ENGINE_FOREVER ? enter_for(u, timeout_ns) : enter(u, sleep ? 1 : 0);
    sent_messages_are_submitted(u);
    begin_turn(u);
    switch (rc < 0 ? -rc : 0) {
    case 0:
    case ETIME:
    case EINTR:
    case EBUSY: /* completions overflow: dispatch what there is, and come back */
        return 0;
    case EAGAIN:
    case ENOMEM: /* no memory for a request: it stays in the queue, and others end meanwhile */
        nanosleep(&(struct timespec){ .tv_nsec = 1000 * 1000 }, NULL);
        return 0;
    default:
        return rc;
    }
}

/* ---- completions ---------------------------------------------------------------------------------------- */

static void finish(struct uring *u, struct op *op, const struct completion *completion)
{
    if (!completion->more) {
        op->in_kernel = false;
        u->ops_in_kernel--;
    }
    op->done(op, completion); /* last: unless more follow, the op may be gone */
}

static void starve(struct uring *u, struct provided_ring *ring, struct op *op)
{
    u->engine.counters.starved++;
    u->found_none |= ring == &u->streams;
    u->cancelled += op->cancelling;
    op_line_push(&ring->starved, op);
}

static void finish_receive(struct uring *u, struct op *op, int result, unsigned flags)
{
    u->received++;
    struct buffers *buffers = &u->engine.buffers;
    struct completion completion = {
        .result = result,
        .more = (flags & IORING_CQE_F_MORE) != 0,
        .more_to_read = (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0,
    };
    if (result == -ENOBUFS) {
        starve(u, &u->streams, op);
        return;
    }
    if (op->kind == OP_READ && result == -EAGAIN && !op->cancelling) { /* somebody else has read it */
        io_uring_sqe_set_data(prepare_read(u, op, op->fd), op);
        return;
    }
    op->more_to_read = completion.more_to_read;
    /* With an EOF or an error some kernels name a buffer. Of one that they fill piece by piece nothing was taken then,
     * whatever the flag says: it stays theirs. */
    if (!(flags & IORING_CQE_F_BUFFER) || (result <= 0 && u->engine.buffers.is_pieced)) {
        finish(u, op, &completion);
        return;
    }
    bool goes_on = u->engine.buffers.is_pieced && (flags & IORING_CQE_F_BUF_MORE);
    rondo_bytes lent =
        buffers_lend(buffers, flags >> IORING_CQE_BUFFER_SHIFT, result > 0 ? (size_t)result : 0, goes_on);
    u->streams.provided -= !goes_on;
    if (result > 0) {
        completion.data = lent;
        u->turn_bytes += (size_t)result;
        u->turn_receives++;
    }
    finish(u, op, &completion);
    buffers_unref(buffers, lent.data);
}

/* A buffer begins with what io_uring has to say; then comes the name, in a place of fixed size, and the bytes. */
static rondo_bytes datagram_in(rondo_bytes buffer, const struct msghdr *room, struct datagram_origin *origin)
{
    const struct io_uring_recvmsg_out *out = (const void *)buffer.data;
    size_t begin = sizeof *out + room->msg_namelen;
    origin->address.size = out->namelen < room->msg_namelen ? out->namelen : room->msg_namelen;
    origin->address.name = origin->address.size > 0 ? (const struct sockaddr *)(out + 1) : NULL;
    origin->is_truncated = (out->flags & MSG_TRUNC) != 0;
    return (rondo_bytes){ buffer.data + begin, buffer.size - begin };
}

static void finish_datagram(struct uring *u, struct op *op, int result, unsigned flags)
{
    struct buffers *buffers = u->datagrams.buffers;
    struct completion completion = { .result = result, .more = (flags & IORING_CQE_F_MORE) != 0 };
    u->received++;
    if (result == -ENOBUFS) {
        starve(u, &u->datagrams, op);
        return;
    }
    op->more_to_read = (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
    if (!(flags & IORING_CQE_F_BUFFER)) {
        finish(u, op, &completion);
        return;
    }
    rondo_bytes lent =
        buffers_lend(buffers, flags >> IORING_CQE_BUFFER_SHIFT, result > 0 ? (size_t)result : 0, false);
    struct datagram_origin origin;
    u->datagrams.provided--;
    if (result >= 0) {
        completion.data = datagram_in(lent, template_for(u, op->kind), &origin);
        completion.result = (int)completion.data.size;
        completion.origin = &origin;
    }
    finish(u, op, &completion);
    buffers_unref(buffers, lent.data);
}

/* It was told before we could know of all. */
static void forget_quiet(struct uring *u, const struct op *op)
{
    for (unsigned i = 0; i < u->quiet_count; i++) {
        if (u->quiet[i].op == op)
            u->quiet[i].op = NULL;
    }
}

static void dispatch_one(struct uring *u, uint64_t user_data, int result, unsigned flags)
{
    struct op *op = (struct op *)(uintptr_t)(user_data & ~(uint64_t)MARKS);
    if (op == NULL) {
        u->cancels_in_kernel--;
        return;
    }
    if (op->kind == OP_RECEIVE || op->kind == OP_READ) {
        finish_receive(u, op, result, flags);
        return;
    }
    if (is_of_datagrams(op)) {
        finish_datagram(u, op, result, flags);
        return;
    }
    if (op->quiet)
        forget_quiet(u, op);
    if (op->kind == OP_WRITE_NOW && result == -EOPNOTSUPP)
        result = -EAGAIN; /* of what may be asked only to wait: terminals; pipes before Linux 6.4 */
    struct completion completion = {
        .result = result,
        .more = (flags & IORING_CQE_F_MORE) != 0,
        .more_to_read = (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0,
    };
    op->more_to_read = completion.more_to_read;
    finish(u, op, &completion);
}

/* Quiet sends of which nothing is told have succeeded, if the kernel has taken them all and had room for what it had to
 * tell. (When it had not, they are left to the next turn.) They come first, so that output that has left no longer counts
 * when answers to what was received are written. */
static void succeed_quietly(struct uring *u)
{
    const struct io_uring_cq *cq = &u->ring.cq;
    unsigned head = *cq->khead, tail = io_uring_smp_load_acquire(cq->ktail);
    const struct io_uring_sq *sq = &u->ring.sq;
    if (u->quiet_count == 0 || io_uring_smp_load_acquire(sq->khead) != sq->sqe_tail ||
        (IO_URING_READ_ONCE(*sq->kflags) & IORING_SQ_CQ_OVERFLOW))
        return;
    for (; head != tail; head++) {
        uint64_t user_data = cq->cqes[head & *cq->kring_mask].user_data;
        if (user_data & QUIET)
            ((struct op *)(uintptr_t)(user_data & ~(uint64_t)QUIET))->quiet = false;
    }
    unsigned count = u->quiet_count;
    for (unsigned i = 0; i < count; i++) {
        struct quiet_op quiet = u->quiet[i];
        if (quiet.op != NULL && quiet.op->quiet)
            finish(u, quiet.op, &(struct completion){ .result = quiet.result });
    }
    u->quiet_count -= count; /* the callbacks may have sent more */
    memmove(u->quiet, u->quiet + count, u->quiet_count * sizeof *u->quiet);
}

static void complete_cancelled(struct uring *u)
{
    while (u->cancelled > 0) {
        struct op_line ended = { 0 };
        u->cancelled = 0;
        op_line_take_cancelled(&u->streams.starved, &ended);
        op_line_take_cancelled(&u->datagrams.starved, &ended);
        for (struct op *op; (op = op_line_pop(&ended)) != NULL;)
            finish(u, op, &(struct completion){ .result = -ECANCELED });
    }
}

/* Of many messages the first are answered before the last are looked at: their bytes are still in the cache, and the peers
 * have something to do meanwhile. It is worth 0 to 6 % of all CPU with 50 and with 1000 busy connections, most when
 * others use the caches, too; it costs a system call for each portion (Linux 6.18; 4 to 24 are alike, 2 is dearer). */
static bool uring_dispatch(struct engine *engine)
{
    struct uring *u = uring_of(engine);
    struct io_uring_cq *cq = &u->ring.cq;
    unsigned mask = *cq->kring_mask, head;
    succeed_quietly(u);
    for (u->received = 0; (head = *cq->khead) != u->turn_end;) {
        if (u->received >= PORTION && u->turn_end - head > PORTION_LAST)
            return false;
        struct io_uring_cqe *cqe = &cq->cqes[head & mask];
        uint64_t user_data = cqe->user_data;
        int result = cqe->res;
        unsigned flags = cqe->flags;
        /* Before the callback: one that issues a lot makes completions, and they need the place. */
        io_uring_smp_store_release(cq->khead, head + 1);
        dispatch_one(u, user_data, result, flags);
    }
    complete_cancelled(u);
    return true;
}

/* ---- waking --------------------------------------------------------------------------------------------- */

static void wake_arm(struct uring *u)
{
    struct io_uring_sqe *sqe = next_sqe(u);
    io_uring_prep_read(sqe, u->wake_fd, &u->wake_value, sizeof u->wake_value, 0);
    issued(u, &u->wake, sqe, OP_WAKE, u->wake_fd);
}

static void wake_done(struct op *op, const struct completion *completion)
{
    struct uring *u = rondo_container_of(op, struct uring, wake);
    (void)completion; /* a late post may have been faster than the cancellation */
    if (!op->cancelling)
        wake_arm(u);
}

/* ---- opening and closing -------------------------------------------------------------------------------- */

static void explain(int error, char why[ENGINE_WHY_BYTES])
{
    const char *hint = "see io_uring_setup(2)";
    switch (-error) {
    case EPERM:
    case EACCES:
        hint =
            "a seccomp profile (the default of Docker and containerd) or the sysctl kernel.io_uring_disabled "
            "refuses it; pass --security-opt seccomp=docker/seccomp.json to docker run, or set the sysctl to "
            "0";
        break;
    case ENOSYS:
        hint =
            "this kernel, or a seccomp profile (Podman, gVisor), doesn't have it; rondo needs Linux 6.1, and "
            "in a container --security-opt seccomp=docker/seccomp.json";
        break;
    case EINVAL:
        hint = "rondo needs Linux 6.1 (IORING_SETUP_DEFER_TASKRUN)";
        break;
    case ENOMEM:
        hint = "the limit of locked memory is too low even for small rings; raise it: ulimit -l 8192, or "
               "--ulimit memlock=8388608 with docker run, or use fewer --shards";
        break;
    case EMFILE:
    case ENFILE:
        hint = "no descriptor is left for it; raise the limit: ulimit -n";
        break;
    }
    snprintf(why, ENGINE_WHY_BYTES, "io_uring: %s: %s", strerror(-error), hint);
}

static int open_ring(struct uring *u, const struct engine_size *size)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
                 IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED,
        .cq_entries = size->completions,
    };
    int rc = io_uring_queue_init_params(size->submissions, &u->ring, &params);
    if (rc < 0)
        return rc;
    u->ring_is_open = true;
    /* Entry i of the queue is sqe i, for good. (A liburing that makes rings without this array has none.) */
    for (unsigned i = 0; u->ring.sq.array != NULL && i < *u->ring.sq.kring_entries; i++)
        u->ring.sq.array[i] = i;
    u->enter_flags = 0;
    if ((params.features & IORING_FEAT_NO_IOWAIT) && kernel_has(KERNEL_UNCOUNTED_WAITS))
        u->enter_flags |= IORING_ENTER_NO_IOWAIT;
    if (io_uring_register_ring_fd(&u->ring) == 1) /* spares looking up the descriptor in each call */
        u->enter_flags |= IORING_ENTER_REGISTERED_RING;
    return 0;
}

static int register_ring(struct uring *u, const struct provided_ring *ring, unsigned flags)
{
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)ring->ring,
        .ring_entries = ring->buffers->count,
        .bgid = ring->group,
    };
    uring_set_buffer_flags(&registration, flags);
    return io_uring_register_buf_ring(&u->ring, &registration, 0);
}

/* All buffers are the kernel's. */
static int open_provided(struct uring *u, struct provided_ring *ring, struct buffers *buffers, uint16_t group,
                         unsigned flags)
{
    unsigned count = buffers->count;
    ring->buffers = buffers;
    ring->group = group;
    ring->ring_bytes = count * sizeof(struct io_uring_buf);
    ring->returned = memory_alloc(count * sizeof *ring->returned);
    void *memory = mmap(NULL, ring->ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ring->ring = memory == MAP_FAILED ? NULL : memory;
    if (ring->returned == NULL || ring->ring == NULL)
        return -ENOMEM;
    int rc = register_ring(u, ring, flags);
    if (rc < 0)
        return rc;
    io_uring_buf_ring_init(ring->ring);
    for (unsigned i = 0; i < count; i++) {
        io_uring_buf_ring_add(ring->ring, buffers_at(buffers, i), (unsigned)buffers->size_bytes, (uint16_t)i,
                              io_uring_buf_ring_mask(count), (int)i);
    }
    io_uring_buf_ring_advance(ring->ring, (int)count);
    ring->provided = count;
    return 0;
}

/* Buffers that the kernel fills piece by piece may be large: small messages share one, and bulk comes in large pieces.
 * Else each message takes one for itself, and they must outnumber the connections that are busy at the same time. */
static int open_buffers(struct uring *u, const struct engine_size *size)
{
    struct buffers *buffers = &u->engine.buffers;
    bool is_pieced = size->pieced_buffers > 0 && kernel_has(KERNEL_INCREMENTAL_BUFFERS);
    unsigned count = is_pieced ? size->pieced_buffers : size->buffers;
    size_t bytes = is_pieced ? size->pieced_buffer_bytes : size->buffer_bytes;
    int rc = buffers_open(buffers, count, bytes);
    if (rc < 0)
        return rc;
    buffers->is_pieced = is_pieced;
    return open_provided(u, &u->streams, buffers, 0, is_pieced ? IOU_PBUF_RING_INC : 0);
}

/* Never piece by piece: the end of a buffer would cut a datagram. */
static int open_datagrams(struct uring *u, const struct engine_size *size)
{
    u->datagrams.buffers = &u->engine.datagrams;
    u->datagram.msg_namelen = sizeof(struct sockaddr_in6);
    u->local_datagram.msg_namelen = sizeof(struct sockaddr_un);
    int rc =
        size->datagrams > 0 ? buffers_open(&u->engine.datagrams, size->datagrams, size->datagram_bytes) : 0;
    if (size->datagrams == 0 || rc < 0)
        return rc;
    return open_provided(u, &u->datagrams, &u->engine.datagrams, 1, 0);
}

/* What this ring may do, from here on: who takes over the process gets no other operation from it (seccomp doesn't see
 * what a ring does). README, "Security", has the list, too. */
static const uint8_t allowed_operations[] = {
    IORING_OP_ACCEPT,       IORING_OP_RECV,    IORING_OP_RECVMSG,  IORING_OP_SEND,
    IORING_OP_SENDMSG,      IORING_OP_CONNECT, IORING_OP_READ,     IORING_OP_CLOSE,
    IORING_OP_ASYNC_CANCEL, IORING_OP_WRITEV,  IORING_OP_POLL_ADD,
};
static const uint8_t allowed_flags =
    IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS | IOSQE_ASYNC | IOSQE_IO_LINK;

#define OPERATIONS (sizeof allowed_operations / sizeof *allowed_operations)

static int restrict_and_enable(struct uring *u)
{
    struct io_uring_restriction restrictions[OPERATIONS + 2] = {
        { .opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = allowed_flags },
        /* at its end */
        { .opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_UNREGISTER_RING_FDS },
    };
    for (unsigned i = 0; i < OPERATIONS; i++) {
        restrictions[2 + i].opcode = IORING_RESTRICTION_SQE_OP;
        restrictions[2 + i].sqe_op = allowed_operations[i];
    }
    int rc = uring_restrict(&u->ring, restrictions, OPERATIONS + 2);
    return rc < 0 ? rc : uring_enable(&u->ring);
}

/* Otherwise one fast sender is read from for up to 32 buffers before anybody is asked whether there is room for what
 * they bring. */
#define MULTISHOT_BUFFERS   8
#define MULTISHOT_BYTES_MAX (128 * 1024)

static unsigned multishot_limit(const struct buffers *buffers)
{
    size_t bytes = MULTISHOT_BUFFERS * buffers->size_bytes;
    return bytes < MULTISHOT_BYTES_MAX ? (unsigned)bytes : MULTISHOT_BYTES_MAX;
}

static struct io_uring_cqe *wait_for_one(struct uring *u)
{
    unsigned flags = (u->enter_flags & IORING_ENTER_REGISTERED_RING) | IORING_ENTER_GETEVENTS;
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&u->ring, &cqe) < 0)
        io_uring_enter2((unsigned)u->ring.enter_ring_fd, flush_submissions(u), 1, flags, NULL, 0);
    return cqe;
}

/* There is no feature bit for it: try it on a byte. */
static void probe_multishot_limit(struct uring *u)
{
    int ends[2];
    if (!kernel_has(KERNEL_LIMITED_MULTISHOT))
        return;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return; /* no descriptors; what comes next will say so */
    if (send(ends[1], "?", 1, MSG_NOSIGNAL) == 1) {
        u->multishot_bytes = 1;
        io_uring_sqe_set_data(prepare_receive(u, ends[0], true, false), NULL);
        struct io_uring_cqe *cqe = wait_for_one(u);
        bool is_limited = cqe->res == 1 && !(cqe->flags & IORING_CQE_F_MORE);
        u->multishot_bytes = is_limited ? multishot_limit(&u->engine.buffers) : 0;
        if (cqe->flags & IORING_CQE_F_MORE)
            u->cancels_in_kernel++; /* it goes on until the socket's end: one completion for nobody more */
        if (cqe->flags & IORING_CQE_F_BUFFER) {
            unsigned index = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
            bool goes_on = u->engine.buffers.is_pieced && (cqe->flags & IORING_CQE_F_BUF_MORE);
            buffers_unref(&u->engine.buffers, buffers_lend(&u->engine.buffers, index, 1, goes_on).data);
            u->streams.provided -= !goes_on;
        }
        io_uring_cqe_seen(&u->ring, cqe);
    }
    close(ends[0]);
    close(ends[1]);
}

static int open_messages(struct uring *u)
{
    u->headers_max = *u->ring.sq.kring_entries;
    u->headers = memory_alloc(u->headers_max * sizeof *u->headers);
    u->slices = memory_alloc(SLICES_MAX * sizeof *u->slices);
    return u->headers == NULL || u->slices == NULL ? -ENOMEM : 0;
}

static void free_provided(struct provided_ring *ring)
{
    if (ring->ring != NULL)
        munmap(ring->ring, ring->ring_bytes);
    memory_free(ring->returned);
}

static void free_all(struct uring *u)
{
    if (u->ring_is_open)
        io_uring_queue_exit(&u->ring); /* before the memory that the ring's buffers lie in */
    free_provided(&u->streams);
    free_provided(&u->datagrams);
    buffers_close(&u->engine.buffers);
    buffers_close(&u->engine.datagrams);
    memory_free(u->headers);
    memory_free(u->slices);
    memory_free(u);
}

static struct uring *open_of_size(const struct engine_size *size, int *error)
{
    struct uring *u = memory_new(sizeof *u);
    if (u == NULL) {
        *error = -ENOMEM;
        return NULL;
    }
    u->can_be_quiet = kernel_has(KERNEL_QUIET_SENDS);
    *error = open_ring(u, size);
    if (*error == 0)
        *error = open_buffers(u, size);
    if (*error == 0)
        *error = open_datagrams(u, size);
    if (*error == 0)
        *error = open_messages(u);
    if (*error == 0)
        *error = restrict_and_enable(u);
    if (*error < 0) {
        free_all(u);
        return NULL;
    }
    probe_multishot_limit(u);
    return u;
}

static void log_features(const struct uring *u, const struct engine_size *size)
{
    static atomic_bool logged;
    struct utsname system;
    if (!rondo_log_enabled(RONDO_LOG_DEBUG) || uname(&system) < 0 || atomic_exchange(&logged, true))
        return;
    rondo_log(RONDO_LOG_DEBUG,
              "io_uring on Linux %s: single issuer, deferred task work, registered ring %s, waits outside "
              "iowait %s, limited multishot %s, quiet sends %s; "
              "%u submissions, %u completions, %u buffers of %zu bytes%s for each shard",
              system.release, u->enter_flags & IORING_ENTER_REGISTERED_RING ? "yes" : "no",
              u->enter_flags & IORING_ENTER_NO_IOWAIT ? "yes" : "no", u->multishot_bytes > 0 ? "yes" : "no",
              u->can_be_quiet ? "yes" : "no", size->submissions, size->completions, u->engine.buffers.count,
              u->engine.buffers.size_bytes, u->engine.buffers.is_pieced ? ", filled piece by piece," : "");
}

static void uring_close(struct engine *engine)
{
    struct uring *u = uring_of(engine);
    engine_cancel(engine, &u->wake);
    while ((u->wake.in_kernel || u->cancels_in_kernel > 0) && uring_wait(engine, ENGINE_FOREVER) == 0)
        uring_dispatch(engine);
    assert(u->ops_in_kernel == 0 && u->engine.buffers.lent == 0 && u->engine.datagrams.lent == 0);
    free_all(u);
}

static const struct engine_ops uring_ops = {
    .accept = uring_accept,
    .accept_one = uring_accept_one,
    .receive = uring_receive,
    .receive_into = uring_receive_into,
    .receive_message = uring_receive_message,
    .receive_datagrams = uring_receive_datagrams,
    .read = uring_read,
    .write = uring_write,
    .poll = uring_poll,
    .send = uring_send,
    .send_message = uring_send_message,
    .connect = uring_connect,
    .read_file = uring_read_file,
    .close_fd = uring_close_fd,
    .close_now = uring_close_now,
    .cancel = uring_cancel,
    .wait = uring_wait,
    .dispatch = uring_dispatch,
    .submit = uring_submit,
    .now_ns = engine_system_clock_ns,
    .close = uring_close,
};

struct engine *uring_open(const struct engine_size *size, int wake_fd, int *error, char why[ENGINE_WHY_BYTES])
{
    struct uring *u = open_of_size(size, error);
    if (u == NULL) {
        explain(*error, why);
        return NULL;
    }
    log_features(u, size);
    u->engine.name = "uring";
    u->engine.ops = &uring_ops;
    u->engine.sockets = &system_sockets;
    u->engine.forgets_ends = !kernel_has(KERNEL_REMEMBERED_ENDS);
    u->engine.forgets_unix_ends = true;
    u->wake = (struct op){ .done = wake_done };
    u->wake_fd = wake_fd;
    wake_arm(u);
    return &u->engine;
}
