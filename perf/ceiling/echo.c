/* A connection's index is its descriptor. That is safe because the descriptor is closed, and so free to be given out
 * again, only when the kernel holds no request for it: no late completion can meet a stranger.
 *
 * What it leaves out on purpose: a limit for the buffers of one connection. A client that sends and never
 * reads ends up holding all of them, and the others wait until it reads or leaves. */
#include "echo.h"

#include <errno.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SQ_ENTRIES = 256, CQ_ENTRIES = 4096, GROUP = 0, NONE = -1, MIN_WAIT_COMPLETIONS = 32 };
enum { DESCRIPTORS_MAX = 1 << 20, DIRECT_MAX = 16384, SLICES_MAX = 16, QUIET_MAX = 1024 };

/* Newer than liburing 2.3's header. */
enum { BUFFERS_INCREMENTAL = 2, BUFFER_MORE = 1 << 4 };

/* What a completion belongs to: an operation, and the descriptor above it. */
enum operation { ACCEPT, RECEIVE, SEND, QUIET_SEND, CLOSE, SHUTDOWN, OPERATION_MASK = 7, OPERATION_BITS = 3 };

/* Received bytes on their way back to the peer. */
struct piece {
    struct piece *next;
    char *data;
    unsigned size;
    int buffer; /* NONE: the connection's own */
};

/* A provided buffer. */
struct buffer {
    unsigned pieces, filled;
    bool is_filling; /* the kernel goes on */
};

struct connection {
    struct piece *first, *last;              /* received and not yet sent, in order */
    unsigned in_flight;                      /* bytes of them in a send; 0: none */
    int next_parked;                         /* in the queue of those that wait for buffers */
    enum { ARMED, PARKED, ENDED } receiving; /* PARKED: to be armed again when there are buffers */
    bool broken;                             /* a send failed: what still arrives is dropped */
    bool is_dirty;                           /* to be sent at the end of the turn */
    bool waits;                              /* its peer is slow: the next send waits for room */
    bool more_waits;                         /* behind the send in flight */
    bool was_told;                           /* its quiet send has a completion */
    bool notifies;                           /* a zero-copy send is over when the kernel says so */
    int sent;                                /* by it */
    char *own;                               /* --single-shot */
};

struct echo {
    const struct options *options;
    struct counters *counters;
    struct io_uring ring;
    int listener;
    bool accept_paused; /* out of descriptors: accept again when one is closed */

    struct connection *connections;
    struct io_uring_buf_ring *ring_of_buffers;
    struct buffer *buffers;
    struct piece *free_pieces;
    char *memory;
    unsigned free_count; /* buffers that are the kernel's */
    int first_parked, last_parked;

    int dirty[CQ_ENTRIES], quiet[QUIET_MAX];
    unsigned dirty_count, quiet_count;

    /* By the place of the request in the queue, which is free again when the kernel has taken it. */
    struct msghdr headers[SQ_ENTRIES];
    struct iovec slices[SQ_ENTRIES][SLICES_MAX];
};

__attribute__((noreturn)) static void die(const char *what, int error)
{
    fprintf(stderr, "error: %s: %s\n", what, strerror(error));
    exit(1);
}

/* For the calls that return a negative errno. A stop and continue of the process interrupts a wait. */
static void check(const char *what, int result)
{
    if (result < 0 && result != -EINTR && result != -ETIME)
        die(what, -result);
}

static void count(atomic_ullong *counter, unsigned n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* ---- requests ------------------------------------------------------------------------------------------- */

static struct io_uring_sqe *request(struct echo *e)
{
    struct io_uring_sqe *sqe;
    while (!(sqe = io_uring_get_sqe(&e->ring))) {
        count(&e->counters->system_calls, 1);
        check("submit", io_uring_submit(&e->ring));
    }
    return sqe;
}

/* Once it is prepared. */
static void identify(struct echo *e, struct io_uring_sqe *sqe, enum operation operation, int fd)
{
    sqe->user_data = (uint64_t)fd << OPERATION_BITS | operation;
    if (e->options->direct &&
        (operation == RECEIVE || operation == SEND || operation == QUIET_SEND || operation == SHUTDOWN))
        sqe->flags |= IOSQE_FIXED_FILE;
}

static void arm_accept(struct echo *e)
{
    struct io_uring_sqe *sqe = request(e);
    bool direct = e->options->direct, single = e->options->accepts > 0;
    int flags = direct ? 0 : SOCK_CLOEXEC; /* which a direct descriptor can't be asked for */
    if (direct && single)
        io_uring_prep_accept_direct(sqe, e->listener, NULL, NULL, flags, IORING_FILE_INDEX_ALLOC);
    else if (direct)
        io_uring_prep_multishot_accept_direct(sqe, e->listener, NULL, NULL, flags);
    else if (single)
        io_uring_prep_accept(sqe, e->listener, NULL, NULL, flags);
    else
        io_uring_prep_multishot_accept(sqe, e->listener, NULL, NULL, flags);
    identify(e, sqe, ACCEPT, e->listener);
}

/* poll_first: nothing is there yet, most likely, so a first attempt to receive would be wasted. */
static void arm_receive(struct echo *e, int fd, bool poll_first)
{
    struct connection *c = &e->connections[fd];
    struct io_uring_sqe *sqe = request(e);
    if (e->options->single_shot) {
        io_uring_prep_recv(sqe, fd, c->own, e->options->buffer_size, 0);
    } else {
        io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = GROUP;
    }
    if (poll_first && e->options->poll_first)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    identify(e, sqe, RECEIVE, fd);
    c->receiving = ARMED;
}

static unsigned collect(const struct echo *e, struct connection *c, struct iovec *slices)
{
    unsigned most = e->options->gather ? SLICES_MAX : 1, n = 0;
    struct piece *piece = c->first;
    for (c->in_flight = 0; piece && n < most; piece = piece->next) {
        slices[n++] = (struct iovec){ piece->data, piece->size };
        c->in_flight += piece->size;
    }
    c->more_waits = piece != NULL;
    return n;
}

/* Without a completion, if all can be sent at once. But not where one is waited for: by what is to be sent behind it, or
 * because the connection has ended and is closed behind its last byte. */
static bool may_be_quiet(const struct echo *e, const struct connection *c)
{
    return e->options->quiet_sends && !c->waits && !c->more_waits && c->receiving == ARMED &&
           !e->options->single_shot && e->quiet_count < QUIET_MAX;
}

static void arm_send(struct echo *e, int fd)
{
    struct connection *c = &e->connections[fd];
    struct io_uring_sqe *sqe = request(e);
    unsigned place = (unsigned)(sqe - e->ring.sq.sqes);
    struct iovec *slices = e->slices[place];
    unsigned n = collect(e, c, slices);
    bool quiet = may_be_quiet(e, c);
    int flags = MSG_WAITALL | (quiet ? MSG_DONTWAIT : 0);
    c->notifies = e->options->zero_copy > 0 && c->in_flight >= e->options->zero_copy;
    e->headers[place] = (struct msghdr){ .msg_iov = slices, .msg_iovlen = n };
    if (n > 1 && c->notifies)
        io_uring_prep_sendmsg_zc(sqe, fd, &e->headers[place], (unsigned)flags);
    else if (n > 1)
        io_uring_prep_sendmsg(sqe, fd, &e->headers[place], (unsigned)flags);
    else if (c->notifies)
        io_uring_prep_send_zc(sqe, fd, slices->iov_base, slices->iov_len, flags, 0);
    else
        io_uring_prep_send(sqe, fd, slices->iov_base, slices->iov_len, flags);
    identify(e, sqe, quiet ? QUIET_SEND : SEND, fd);
    if (quiet) {
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
        c->was_told = false;
        e->quiet[e->quiet_count++] = fd;
    }
}

static void shut(struct echo *e, int fd)
{
    if (!e->options->direct) {
        shutdown(fd, SHUT_RDWR); /* ENOTCONN, if the peer's reset has ended it already */
        return;
    }
    struct io_uring_sqe *sqe = request(e);
    io_uring_prep_shutdown(sqe, fd, SHUT_RDWR);
    identify(e, sqe, SHUTDOWN, fd);
}

static void close_if_finished(struct echo *e, int fd)
{
    struct connection *c = &e->connections[fd];
    if (c->receiving != ENDED || c->first || c->in_flight)
        return;
    if (e->options->reset_close && !e->options->direct)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
    free(c->own);
    c->own = NULL;
    struct io_uring_sqe *sqe = request(e);
    if (e->options->direct)
        io_uring_prep_close_direct(sqe, (unsigned)fd);
    else
        io_uring_prep_close(sqe, fd);
    identify(e, sqe, CLOSE, fd);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    if (e->accept_paused) {
        e->accept_paused = false;
        arm_accept(e); /* runs after the close: requests of one submit start in their order */
    }
}

/* ---- buffers -------------------------------------------------------------------------------------------- */

static void provide(struct echo *e, int id)
{
    const struct options *o = e->options;
    e->buffers[id] = (struct buffer){ 0 };
    io_uring_buf_ring_add(e->ring_of_buffers, e->memory + (size_t)id * o->buffer_size, o->buffer_size,
                          (unsigned short)id, io_uring_buf_ring_mask(o->buffers), 0);
    io_uring_buf_ring_advance(e->ring_of_buffers, 1);
    e->free_count++;
}

static void release_piece(struct echo *e, struct piece *piece)
{
    piece->next = e->free_pieces;
    e->free_pieces = piece;
    if (piece->buffer == NONE)
        return;
    struct buffer *buffer = &e->buffers[piece->buffer];
    if (--buffer->pieces == 0 && !buffer->is_filling)
        provide(e, piece->buffer);
}

static struct piece *new_piece(struct echo *e)
{
    struct piece *piece = e->free_pieces;
    if (piece) {
        e->free_pieces = piece->next;
        return piece;
    }
    piece = malloc(sizeof *piece);
    if (!piece)
        die("memory", errno);
    return piece;
}

static void park(struct echo *e, int fd)
{
    e->connections[fd].receiving = PARKED;
    e->connections[fd].next_parked = NONE;
    *(e->first_parked == NONE ? &e->first_parked : &e->connections[e->last_parked].next_parked) = fd;
    e->last_parked = fd;
}

/* Arm as many parked connections as there are free buffers, the oldest first. One that finds the pool empty
 * again is parked again, but only because another took the buffer: somebody always gets on, so this neither
 * spins (no free buffer, no arming) nor stalls (every buffer comes back by a completion, after which we run). */
static void unpark(struct echo *e)
{
    for (unsigned arms = e->free_count; arms > 0 && e->first_parked != NONE; arms--) {
        int fd = e->first_parked;
        e->first_parked = e->connections[fd].next_parked;
        if (e->connections[fd].broken) {
            e->connections[fd].receiving = ENDED;
            close_if_finished(e, fd);
        } else {
            arm_receive(e, fd, false);
        }
    }
}

/* ---- completions ---------------------------------------------------------------------------------------- */

static void accepted(struct echo *e, const struct io_uring_cqe *cqe)
{
    if (cqe->res >= 0) {
        struct connection *c = &e->connections[cqe->res];
        *c = (struct connection){ .own = e->options->single_shot ? malloc(e->options->buffer_size) : NULL };
        if (e->options->single_shot && !c->own)
            die("memory", errno);
        arm_receive(e, cqe->res, !e->options->defer_accept);
    }
    if (cqe->flags & IORING_CQE_F_MORE)
        return;
    if (cqe->res == -EMFILE || cqe->res == -ENFILE)
        e->accept_paused = true; /* the connection stays queued: accepting at once would only fail again */
    else if (cqe->res >= 0 || cqe->res == -ECONNABORTED)
        arm_accept(e);
    else
        die("accept", -cqe->res);
}

/* One send in flight, for order. */
static void send_soon(struct echo *e, int fd)
{
    struct connection *c = &e->connections[fd];
    if (c->in_flight || c->is_dirty || !c->first)
        return;
    if (!e->options->gather && !e->options->quiet_sends) {
        arm_send(e, fd);
        return;
    }
    c->is_dirty = true;
    e->dirty[e->dirty_count++] = fd;
}

static void take(struct echo *e, int fd, char *data, unsigned size, int buffer)
{
    struct connection *c = &e->connections[fd];
    struct piece *piece = new_piece(e);
    *piece = (struct piece){ .data = data, .size = size, .buffer = buffer };
    if (c->broken || size == 0) {
        release_piece(e, piece);
        return;
    }
    *(c->first ? &c->last->next : &c->first) = piece;
    c->last = piece;
    count(&e->counters->bytes_in, size);
    send_soon(e, fd);
}

static void take_from_buffer(struct echo *e, int fd, const struct io_uring_cqe *cqe)
{
    int id = (int)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
    struct buffer *buffer = &e->buffers[id];
    unsigned size = cqe->res > 0 ? (unsigned)cqe->res : 0;
    if (e->options->incremental && size == 0)
        return; /* nothing of it was taken, whatever the flag says */
    char *data = e->memory + (size_t)id * e->options->buffer_size + buffer->filled;
    buffer->filled += size;
    buffer->is_filling = e->options->incremental && (cqe->flags & BUFFER_MORE);
    buffer->pieces++;
    e->free_count -= !buffer->is_filling;
    take(e, fd, data, size, id);
}

static void received(struct echo *e, int fd, const struct io_uring_cqe *cqe)
{
    struct connection *c = &e->connections[fd];
    if (cqe->flags & IORING_CQE_F_BUFFER)
        take_from_buffer(e, fd, cqe);
    else if (cqe->res > 0)
        take(e, fd, c->own, (unsigned)cqe->res, NONE);
    if (cqe->flags & IORING_CQE_F_MORE)
        return;
    if (cqe->res > 0 && !e->options->single_shot) { /* the kernel ended the multishot, not the peer */
        arm_receive(e, fd, false);
    } else if (cqe->res == -ENOBUFS) {
        park(e, fd);
    } else if (cqe->res <=
               0) { /* 0: the peer sends no more; else it is gone, and the send in flight will say so, too */
        c->receiving = ENDED;
        close_if_finished(e, fd);
    }
}

static void drop(struct echo *e, int fd)
{
    struct connection *c = &e->connections[fd];
    c->broken = true;
    while (c->first) {
        struct piece *piece = c->first;
        c->first = piece->next;
        release_piece(e, piece);
    }
    if (e->options->single_shot)
        c->receiving = ENDED;
    shut(e, fd); /* ends the receive */
    close_if_finished(e, fd);
}

static void sent(struct echo *e, int fd, int result)
{
    struct connection *c = &e->connections[fd];
    unsigned left = result > 0 ? (unsigned)result : 0;
    c->waits = left < c->in_flight;
    c->in_flight = 0;
    if (result < 0 && result != -EAGAIN) {
        drop(e, fd);
        return;
    }
    while (left > 0) {
        struct piece *piece = c->first;
        if (left < piece->size) {
            piece->data += left;
            piece->size -= left;
            break;
        }
        left -= piece->size;
        c->first = piece->next;
        release_piece(e, piece);
    }
    if (c->first)
        send_soon(e, fd);
    else if (e->options->single_shot && c->receiving == ARMED)
        arm_receive(e, fd, true);
    else
        close_if_finished(e, fd);
}

/* A zero-copy send holds its bytes until the notification, which comes behind the completion. */
static void send_completed(struct echo *e, int fd, const struct io_uring_cqe *cqe)
{
    struct connection *c = &e->connections[fd];
    if (c->notifies && (cqe->flags & IORING_CQE_F_MORE))
        c->sent = cqe->res;
    else
        sent(e, fd, cqe->flags & IORING_CQE_F_NOTIF ? c->sent : cqe->res);
}

static void dispatch(struct echo *e, const struct io_uring_cqe *cqe)
{
    int fd = (int)(cqe->user_data >> OPERATION_BITS);
    switch ((enum operation)(cqe->user_data & OPERATION_MASK)) {
    case RECEIVE:
        received(e, fd, cqe);
        return;
    case SEND:
    case QUIET_SEND:
        send_completed(e, fd, cqe);
        return;
    case ACCEPT:
        accepted(e, cqe);
        return;
    case CLOSE: /* a success posts nothing */
        check("close", cqe->res);
        return;
    default: /* of a shutdown: that the peer has gone already */
        return;
    }
}

/* When the call that issued them has taken all requests, quiet sends without a completion have taken all their bytes. */
static void finish_quiet_sends(struct echo *e, unsigned ready)
{
    const struct io_uring_cq *cq = &e->ring.cq;
    if (e->quiet_count == 0)
        return;
    if (io_uring_sq_ready(&e->ring) > 0 || io_uring_cq_has_overflow(&e->ring))
        return; /* in the next turn, then */
    for (unsigned i = 0; i < ready; i++) {
        uint64_t user_data = cq->cqes[(*cq->khead + i) & *cq->kring_mask].user_data;
        if ((user_data & OPERATION_MASK) == QUIET_SEND)
            e->connections[user_data >> OPERATION_BITS].was_told = true;
    }
    unsigned n = e->quiet_count;
    e->quiet_count = 0;
    for (unsigned i = 0; i < n; i++) {
        struct connection *c = &e->connections[e->quiet[i]];
        if (!c->was_told)
            sent(e, e->quiet[i], (int)c->in_flight);
    }
}

static void send_dirty(struct echo *e)
{
    for (unsigned i = 0; i < e->dirty_count; i++) {
        struct connection *c = &e->connections[e->dirty[i]];
        c->is_dirty = false;
        if (c->first && !c->in_flight)
            arm_send(e, e->dirty[i]);
    }
    e->dirty_count = 0;
}

/* ---- the loop ------------------------------------------------------------------------------------------- */

static int wait_for_many(struct echo *e)
{
    struct __kernel_timespec longest = { .tv_sec = 3600 };
    struct io_uring_getevents_arg argument = { .pad = e->options->min_wait_us, .ts = (uintptr_t)&longest };
    unsigned submitted = (unsigned)io_uring_sq_ready(&e->ring);
    struct io_uring_sq *sq = &e->ring.sq;
    for (; sq->sqe_head != sq->sqe_tail; sq->sqe_head++)
        sq->array[sq->sqe_head & *sq->kring_mask] = sq->sqe_head & *sq->kring_mask;
    io_uring_smp_store_release(sq->ktail, sq->sqe_tail);
    return io_uring_enter2((unsigned)e->ring.enter_ring_fd, submitted, MIN_WAIT_COMPLETIONS,
                           IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG |
                               (e->options->ring_fd ? IORING_ENTER_REGISTERED_RING : 0),
                           (sigset_t *)&argument, sizeof argument);
}

static void enter(struct echo *e)
{
    bool sleeps = !e->options->spin && !(e->quiet_count > 0 && e->first_parked != NONE);
    unsigned submitted = (unsigned)io_uring_sq_ready(&e->ring);
    count(&e->counters->system_calls, 1);
    count(&e->counters->submissions, submitted);
    if (!sleeps)
        check("io_uring_enter", io_uring_submit_and_get_events(&e->ring));
    else if (e->options->min_wait_us > 0)
        check("io_uring_enter (--min-wait needs Linux 6.12)", wait_for_many(e));
    else
        check("io_uring_enter", io_uring_submit_and_wait(&e->ring, 1));
}

static void submit_early(struct echo *e)
{
    send_dirty(e);
    count(&e->counters->system_calls, 1);
    count(&e->counters->submissions, io_uring_sq_ready(&e->ring));
    check("submit", io_uring_submit(&e->ring));
    /* What the rest of the turn receives must not find a send in flight that nothing more will be heard of. */
    finish_quiet_sends(e, io_uring_cq_ready(&e->ring));
}

__attribute__((noreturn)) static void serve(struct echo *e)
{
    for (;;) {
        enter(e);
        unsigned ready = io_uring_cq_ready(&e->ring);
        count(&e->counters->completions, ready);
        finish_quiet_sends(e, ready);
        for (unsigned received = 0; ready > 0; ready--) {
            if (e->options->portion > 0 && received >= e->options->portion &&
                ready > e->options->portion / 2) {
                submit_early(e);
                received = 0;
            }
            struct io_uring_cqe cqe = e->ring.cq.cqes[*e->ring.cq.khead & *e->ring.cq.kring_mask];
            io_uring_cq_advance(&e->ring, 1);
            received += (cqe.user_data & OPERATION_MASK) == RECEIVE;
            dispatch(e, &cqe);
        }
        send_dirty(e);
        unpark(e);
    }
}

/* ---- opening -------------------------------------------------------------------------------------------- */

static void open_ring(struct echo *e)
{
    static const unsigned taskrun[] = {
        [TASKRUN_DEFER] = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
        [TASKRUN_COOP] = IORING_SETUP_COOP_TASKRUN,
        [TASKRUN_NONE] = 0,
    };
    const struct options *o = e->options;
    struct io_uring_params params = { .cq_entries = CQ_ENTRIES };
    params.flags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | taskrun[o->taskrun] |
                   (o->sqpoll ? IORING_SETUP_SQPOLL : 0);
    check("io_uring_setup (it needs Linux 6.1, and must be allowed)",
          io_uring_queue_init_params(SQ_ENTRIES, &e->ring, &params));
    if (o->ring_fd)
        check("register the ring's descriptor", io_uring_register_ring_fd(&e->ring));
    if (o->direct)
        check("register a table of descriptors", io_uring_register_files_sparse(&e->ring, DIRECT_MAX));
}

static void *map(size_t size)
{
    void *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        die("memory", errno);
    return memory;
}

static void provide_buffers(struct echo *e)
{
    const struct options *o = e->options;
    size_t size = (size_t)o->buffers * o->buffer_size;
    e->memory = map(size);
    if (o->huge_pages && madvise(e->memory, size, MADV_HUGEPAGE) < 0)
        die("--huge-pages", errno);
    e->buffers = map(o->buffers * sizeof *e->buffers);
    e->ring_of_buffers = map(o->buffers * sizeof(struct io_uring_buf));
    struct io_uring_buf_reg registration = { .ring_addr = (uintptr_t)e->ring_of_buffers,
                                             .ring_entries = o->buffers,
                                             .bgid = GROUP };
    registration.pad = o->incremental ? BUFFERS_INCREMENTAL : 0; /* by its later name: flags */
    check(o->incremental ? "register the buffers (--incremental needs Linux 6.12)" : "register the buffers",
          io_uring_register_buf_ring(&e->ring, &registration, 0));
    for (unsigned id = 0; id < o->buffers; id++)
        provide(e, (int)id);
}

void echo_serve(const struct options *options, int listener, struct counters *counters)
{
    struct echo *e = map(sizeof *e);
    e->options = options;
    e->counters = counters;
    e->listener = listener;
    e->first_parked = NONE;
    e->connections =
        map(DESCRIPTORS_MAX * sizeof *e->connections); /* pages that are never touched cost nothing */
    open_ring(e);
    if (!options->single_shot)
        provide_buffers(e);
    for (unsigned i = options->accepts > 0 ? options->accepts : 1; i > 0; i--)
        arm_accept(e);
    serve(e);
}
