/* rondo-ceiling: a TCP echo on the bare io_uring, without any framework.
 *
 * It is the yardstick: what its server costs for a request is what the kernel costs, and what a framework costs
 * more is the framework's tax. So it does all that a correct echo must do, and nothing else: multishot accept,
 * multishot receive into one ring of provided buffers, one send for each receive, one thread. Linux 6.1 or later.
 *
 * A connection's index is its descriptor. That is safe because the descriptor is closed, and so free to be
 * given out again, only when the kernel holds no request for it: no late completion can meet a stranger.
 *
 * What it leaves out on purpose: a limit for the buffers of one connection. A client that sends and never
 * reads ends up holding all of them, and the others wait until it reads or leaves. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { SQ_ENTRIES = 256, CQ_ENTRIES = 4096, BACKLOG = 4096, GROUP = 0, NONE = -1 };
enum { BUFFERS_MAX = 32768, DESCRIPTORS_MAX = 1 << 20 };

/* What a completion belongs to: an operation, and the descriptor above it. */
enum operation { ACCEPT, RECEIVE, SEND, CLOSE, OPERATION_MASK = 3, OPERATION_BITS = 2 };

/* A received buffer on its way back to the peer. */
struct buffer {
    int next; /* the next one of the same connection */
    unsigned size;
};

struct connection {
    int first, last;                         /* received and not yet sent, in order; first is in the send */
    int next_parked;                         /* in the queue of those that wait for buffers */
    unsigned sent;                           /* bytes of the first buffer */
    enum { ARMED, PARKED, ENDED } receiving; /* PARKED: to be armed again when there are buffers */
    bool broken;                             /* a send failed: what still arrives is dropped */
};

static struct io_uring ring;

/* As big as can ever be needed: of a static array only the pages that are touched exist. */
static struct io_uring_buf free_buffers_memory[BUFFERS_MAX] __attribute__((aligned(4096)));
static struct io_uring_buf_ring *const free_buffers = (struct io_uring_buf_ring *)free_buffers_memory;
static struct buffer buffers[BUFFERS_MAX];
static struct connection connections[DESCRIPTORS_MAX];
static char *memory;
static unsigned buffer_count = 1024, buffer_size = 4096, free_count;
static int first_parked = NONE, last_parked = NONE;
static int listener;
static bool accept_paused; /* out of descriptors: accept again when one is closed */

static void die(const char *what, int error)
{
    fprintf(stderr, "error: %s: %s\n", what, strerror(error));
    exit(1);
}

/* For the calls that return a negative errno. A stop and continue of the process interrupts a wait. */
static void check(const char *what, int result)
{
    if (result < 0 && result != -EINTR)
        die(what, -result);
}

/* On SIGTERM. The kernel takes back everything, so there is nothing to do first. */
static void end(int signal)
{
    (void)signal;
    _exit(0);
}

static struct io_uring_sqe *request(enum operation operation, int fd)
{
    struct io_uring_sqe *sqe;
    while (!(sqe = io_uring_get_sqe(&ring)))
        check("submit", io_uring_submit(&ring));
    sqe->user_data = (uint64_t)fd << OPERATION_BITS | operation;
    return sqe;
}

static void arm_accept(void)
{
    struct io_uring_sqe *sqe = request(ACCEPT, listener);
    io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, SOCK_CLOEXEC);
}

/* poll_first: nothing is there yet, most likely, so a first attempt to receive would be wasted. */
static void arm_receive(int fd, bool poll_first)
{
    struct io_uring_sqe *sqe = request(RECEIVE, fd);
    io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = GROUP;
    if (poll_first)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    connections[fd].receiving = ARMED;
}

static void arm_send(int fd)
{
    struct connection *c = &connections[fd];
    struct io_uring_sqe *sqe = request(SEND, fd);
    const char *data = memory + (size_t)c->first * buffer_size;
    io_uring_prep_send(sqe, fd, data + c->sent, buffers[c->first].size - c->sent, MSG_WAITALL);
}

static void release_buffer(int id)
{
    int mask = io_uring_buf_ring_mask(buffer_count);
    io_uring_buf_ring_add(free_buffers, memory + (size_t)id * buffer_size, buffer_size, id, mask, 0);
    io_uring_buf_ring_advance(free_buffers, 1);
    free_count++;
}

static void release_first(struct connection *c)
{
    release_buffer(c->first);
    c->first = buffers[c->first].next;
    c->sent = 0;
}

static void close_if_finished(int fd)
{
    struct connection *c = &connections[fd];
    if (c->receiving != ENDED || c->first != NONE)
        return;
    struct io_uring_sqe *sqe = request(CLOSE, fd);
    io_uring_prep_close(sqe, fd);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    if (accept_paused) {
        accept_paused = false;
        arm_accept(); /* runs after the close: requests of one submit start in their order */
    }
}

static void park(int fd)
{
    connections[fd].receiving = PARKED;
    connections[fd].next_parked = NONE;
    *(first_parked == NONE ? &first_parked : &connections[last_parked].next_parked) = fd;
    last_parked = fd;
}

/* Arm as many parked connections as there are free buffers, the oldest first. One that finds the pool empty
 * again is parked again, but only because another took the buffer: somebody always gets on, so this neither
 * spins (no free buffer, no arming) nor stalls (every buffer comes back by a completion, after which we run). */
static void unpark(void)
{
    for (unsigned arms = free_count; arms > 0 && first_parked != NONE; arms--) {
        int fd = first_parked;
        first_parked = connections[fd].next_parked;
        if (connections[fd].broken) {
            connections[fd].receiving = ENDED;
            close_if_finished(fd);
        } else {
            arm_receive(fd, false);
        }
    }
}

static void accepted(const struct io_uring_cqe *cqe)
{
    if (cqe->res >= 0) {
        connections[cqe->res] = (struct connection){ .first = NONE, .last = NONE };
        arm_receive(cqe->res, true);
    }
    if (cqe->flags & IORING_CQE_F_MORE)
        return;
    if (cqe->res == -EMFILE || cqe->res == -ENFILE)
        accept_paused = true; /* the connection stays queued: accepting at once would only fail again */
    else if (cqe->res >= 0 || cqe->res == -ECONNABORTED)
        arm_accept();
    else
        die("accept", -cqe->res);
}

static void take_data(int fd, int id, unsigned size)
{
    struct connection *c = &connections[fd];
    free_count--;
    if (size == 0 || c->broken) {
        release_buffer(id);
        return;
    }
    bool idle = c->first == NONE;
    buffers[id] = (struct buffer){ .next = NONE, .size = size };
    *(idle ? &c->first : &buffers[c->last].next) = id;
    c->last = id;
    if (idle)
        arm_send(fd); /* one send in flight, for order; the later ones queue up behind it */
}

static void received(int fd, const struct io_uring_cqe *cqe)
{
    if (cqe->flags & IORING_CQE_F_BUFFER)
        take_data(fd, cqe->flags >> IORING_CQE_BUFFER_SHIFT, cqe->res > 0 ? cqe->res : 0);
    if (cqe->flags & IORING_CQE_F_MORE)
        return;
    if (cqe->res > 0) { /* the kernel ended the multishot, not the peer */
        arm_receive(fd, false);
    } else if (cqe->res == -ENOBUFS) {
        park(fd);
    } else { /* 0: the peer sends no more; else it is gone, and the send in flight will say so, too */
        connections[fd].receiving = ENDED;
        close_if_finished(fd);
    }
}

static void sent(int fd, const struct io_uring_cqe *cqe)
{
    struct connection *c = &connections[fd];
    if (cqe->res < 0) {
        c->broken = true;
        while (c->first != NONE)
            release_first(c);
        shutdown(fd, SHUT_RDWR); /* ends the receive; ENOTCONN, if the peer's reset has ended it already */
        close_if_finished(fd);
        return;
    }
    c->sent += cqe->res;
    if (c->sent == buffers[c->first].size)
        release_first(c);
    if (c->first != NONE)
        arm_send(fd);
    else
        close_if_finished(fd);
}

static void dispatch(const struct io_uring_cqe *cqe)
{
    int fd = cqe->user_data >> OPERATION_BITS;
    enum operation operation = cqe->user_data & OPERATION_MASK;
    if (operation == RECEIVE)
        received(fd, cqe);
    else if (operation == SEND)
        sent(fd, cqe);
    else if (operation == ACCEPT)
        accepted(cqe);
    else
        check("close", cqe->res); /* a success posts nothing */
}

__attribute__((noreturn)) static void serve(void)
{
    for (;;) {
        struct io_uring_cqe *cqe;
        unsigned head;
        check("wait", io_uring_submit_and_wait(&ring, 1));
        io_uring_for_each_cqe(&ring, head, cqe)
        {
            dispatch(cqe);
            io_uring_cq_advance(&ring, 1);
        }
        unpark();
    }
}

static void open_ring(void)
{
    struct io_uring_params params = { .cq_entries = CQ_ENTRIES };
    params.flags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
                   IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    check("io_uring_setup (it needs Linux 6.1, and must be allowed)",
          io_uring_queue_init_params(SQ_ENTRIES, &ring, &params));
    check("register the ring's descriptor", io_uring_register_ring_fd(&ring));
}

static void provide_buffers(void)
{
    memory = calloc(buffer_count, buffer_size);
    if (!memory)
        die("receive buffers", errno);
    struct io_uring_buf_reg registration = { .ring_addr = (uintptr_t)free_buffers,
                                             .ring_entries = buffer_count,
                                             .bgid = GROUP };
    check("register the buffers", io_uring_register_buf_ring(&ring, &registration, 0));
    for (unsigned id = 0; id < buffer_count; id++)
        release_buffer(id);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    int error = getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < DESCRIPTORS_MAX ? limit.rlim_max : DESCRIPTORS_MAX;
    if (error || setrlimit(RLIMIT_NOFILE, &limit))
        die("descriptor limit", errno);
}

static void listen_on(unsigned port)
{
    const int on = 1;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
        setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) || /* its connections inherit it */
        bind(listener, (struct sockaddr *)&address, size) || listen(listener, BACKLOG) ||
        getsockname(listener, (struct sockaddr *)&address, &size))
        die("listen", errno);
    fprintf(stderr, "listening on tcp://127.0.0.1:%d\n", ntohs(address.sin_port));
    arm_accept();
}

__attribute__((noreturn)) static void refuse(void)
{
    fputs("usage: rondo-ceiling [--port N] [--buffers N] [--buffer-size BYTES]\n"
          "on 127.0.0.1; port 0, the default, is any; buffers: a power of two (1024 of 4096 bytes)\n",
          stderr);
    exit(2);
}

static unsigned number(const char *text, unsigned long maximum)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end || value > maximum)
        refuse();
    return value;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "port", required_argument, NULL, 0 },
        { "buffers", required_argument, NULL, 0 },
        { "buffer-size", required_argument, NULL, 0 },
        { 0 },
    };
    static const unsigned maxima[] = { 65535, BUFFERS_MAX, 1 << 30 };
    unsigned port = 0, *const values[] = { &port, &buffer_count, &buffer_size };
    for (int found, i; (found = getopt_long(argc, argv, "", options, &i)) != -1;) {
        if (found != 0)
            refuse();
        *values[i] = number(optarg, maxima[i]);
    }
    if (optind < argc || buffer_size == 0 || __builtin_popcount(buffer_count) != 1)
        refuse();

    raise_descriptor_limit();
    open_ring();
    provide_buffers();
    signal(SIGTERM, end);
    listen_on(port);
    serve();
}
