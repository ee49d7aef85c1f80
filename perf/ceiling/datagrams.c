/* rondo-datagram-ceiling: the bare ring as an echo of UDP, for one thread: a multishot receive into provided buffers, and a
 * send for each datagram. It is no server: nothing is accounted for but what the ring needs.
 *
 * usage: rondo-datagram-ceiling [--buffers N] [--messages] [--quiet-sends] */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <liburing.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { GROUP = 1, BUFFER_BYTES = 2048, BUFFERS_MAX = 4096, ENTRIES = 512, COMPLETIONS = 8192 };

/* What belongs to a buffer while the answer leaves from it. */
struct answer {
    struct msghdr message;
    struct iovec slice;
};

static struct io_uring ring;
static struct io_uring_buf_ring *buffer_ring;
static char *buffers;
static struct answer answers[BUFFERS_MAX];
static struct msghdr room = { .msg_namelen = sizeof(struct sockaddr_in) };
static unsigned buffer_count = 256, returned;
static bool messages, quiet;
static int fd;

static void must(bool done, const char *what)
{
    if (done)
        return;
    fprintf(stderr, "error: %s: %s\n", what, strerror(errno));
    exit(1);
}

static char *buffer_at(unsigned index)
{
    return buffers + (size_t)index * BUFFER_BYTES;
}

static void give_back(unsigned index)
{
    io_uring_buf_ring_add(buffer_ring, buffer_at(index), BUFFER_BYTES, (uint16_t)index,
                          io_uring_buf_ring_mask(buffer_count), (int)returned++);
}

static struct io_uring_sqe *next_sqe(void)
{
    struct io_uring_sqe *sqe;
    while ((sqe = io_uring_get_sqe(&ring)) == NULL)
        io_uring_submit(&ring);
    return sqe;
}

static void receive(void)
{
    struct io_uring_sqe *sqe = next_sqe();
    io_uring_prep_recvmsg_multishot(sqe, fd, &room, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = GROUP;
    sqe->user_data = UINT64_MAX;
}

static void answer(unsigned index, int size)
{
    struct io_uring_recvmsg_out *out = io_uring_recvmsg_validate(buffer_at(index), size, &room);
    void *payload = io_uring_recvmsg_payload(out, &room);
    unsigned length = io_uring_recvmsg_payload_length(out, size, &room);
    struct io_uring_sqe *sqe = next_sqe();
    if (messages) {
        struct answer *answer = &answers[index];
        answer->slice = (struct iovec){ payload, length };
        answer->message = (struct msghdr){
            .msg_name = io_uring_recvmsg_name(out),
            .msg_namelen = out->namelen,
            .msg_iov = &answer->slice,
            .msg_iovlen = 1,
        };
        io_uring_prep_sendmsg(sqe, fd, &answer->message, MSG_DONTWAIT);
    } else {
        io_uring_prep_send(sqe, fd, payload, length, MSG_DONTWAIT);
        sqe->addr2 = (uint64_t)(uintptr_t)io_uring_recvmsg_name(out);
        sqe->addr_len = (uint16_t)out->namelen;
    }
    sqe->user_data = index;
    if (quiet)
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

static void handle(const struct io_uring_cqe *cqe)
{
    if (cqe->user_data != UINT64_MAX) {
        give_back((unsigned)cqe->user_data);
        return;
    }
    if (cqe->flags & IORING_CQE_F_BUFFER)
        answer(cqe->flags >> IORING_CQE_BUFFER_SHIFT, cqe->res);
    if (!(cqe->flags & IORING_CQE_F_MORE))
        receive();
}

static void open_ring(void)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
                 IORING_SETUP_DEFER_TASKRUN,
        .cq_entries = COMPLETIONS,
    };
    errno = -io_uring_queue_init_params(ENTRIES, &ring, &params);
    must(errno == 0, "io_uring");
    io_uring_register_ring_fd(&ring);
    must(posix_memalign((void **)&buffer_ring, 4096, buffer_count * sizeof(struct io_uring_buf)) == 0,
         "memory");
    must(posix_memalign((void **)&buffers, 4096, (size_t)buffer_count * BUFFER_BYTES) == 0, "memory");
    struct io_uring_buf_reg registration = { .ring_addr = (uint64_t)(uintptr_t)buffer_ring,
                                             .ring_entries = buffer_count,
                                             .bgid = GROUP };
    errno = -io_uring_register_buf_ring(&ring, &registration, 0);
    must(errno == 0, "buffers");
    io_uring_buf_ring_init(buffer_ring);
    for (unsigned i = 0; i < buffer_count; i++)
        give_back(i);
    io_uring_buf_ring_advance(buffer_ring, (int)buffer_count);
    returned = 0;
}

static void open_socket(void)
{
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof name;
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    must(fd >= 0 && bind(fd, (struct sockaddr *)&name, size) == 0, "socket");
    must(getsockname(fd, (struct sockaddr *)&name, &size) == 0, "socket");
    fprintf(stderr, "listening on udp://127.0.0.1:%u\n", ntohs(name.sin_port));
}

/* Quiet answers have left when the call that issues them returns. */
static void serve(void)
{
    static unsigned quiet_ones[COMPLETIONS];
    for (;;) {
        struct io_uring_cqe *cqe;
        unsigned head, count = 0, answered = 0;
        io_uring_submit_and_wait(&ring, 1);
        io_uring_for_each_cqe(&ring, head, cqe)
        {
            if (quiet && cqe->user_data == UINT64_MAX && (cqe->flags & IORING_CQE_F_BUFFER))
                quiet_ones[answered++] = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
            handle(cqe);
            count++;
        }
        io_uring_cq_advance(&ring, count);
        if (answered > 0) {
            io_uring_submit(&ring);
            while (answered > 0)
                give_back(quiet_ones[--answered]);
        }
        io_uring_buf_ring_advance(buffer_ring, (int)returned);
        returned = 0;
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "buffers", required_argument, NULL, 'b' },
        { "messages", no_argument, NULL, 'm' },
        { "quiet-sends", no_argument, NULL, 'q' },
        { 0 },
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'b')
            buffer_count = (unsigned)atoi(optarg);
        else if (option == 'm')
            messages = true;
        else if (option == 'q')
            quiet = true;
        else
            return 2;
    }
    if (buffer_count == 0 || buffer_count > BUFFERS_MAX || (buffer_count & (buffer_count - 1)) != 0) {
        fprintf(stderr, "--buffers: a power of two is wanted, up to %d\n", BUFFERS_MAX);
        return 2;
    }
    open_ring();
    open_socket();
    receive();
    serve();
}
