#include "greedy.h"

#include "run.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* As over a network: a segment of loopback is 64 KiB, and on both sides the kernel sizes its buffers by that. With a
 * thousand connections it would run out of memory for TCP, and all would suffer, whatever the server does. */
enum { SEGMENT_BYTES = 1448, SEND_BUFFER_BYTES = 65536, RECEIVE_BUFFER_BYTES = 4096 };

enum { STUCK_NS = 100000000 };

struct greedy_peer {
    int fd;                    /* -1: it has left */
    bool connected, in_kernel; /* at most one request at a time: the connect, then one send after the other */
    size_t origin;             /* of its bytes, see payload.h */
    uint64_t sent;
};

int greedy_init(struct greedy *greedy, unsigned count)
{
    greedy->peers = calloc(count ? count : 1, sizeof *greedy->peers);
    return greedy->peers ? 0 : -ENOMEM;
}

void greedy_fini(struct greedy *greedy)
{
    free(greedy->peers);
}

static unsigned number_of(const struct run *run, const struct greedy_peer *peer)
{
    return run->options->connections + (peer - run->greedy.peers);
}

static struct io_uring_sqe *request(struct run *run, struct greedy_peer *peer)
{
    peer->in_kernel = true;
    return ring_request(&run->ring, GREEDY | (peer - run->greedy.peers));
}

static void leave(struct run *run, struct greedy_peer *peer)
{
    run->greedy.open--;
    close(peer->fd); /* resets it, see make_socket */
    peer->fd = -1;
}

static void send_more(struct run *run, struct greedy_peer *peer)
{
    size_t size;
    const char *data = payload_at(&run->payload, peer->origin, peer->sent, &size);
    if (run->greedy.bytes_sent < run->options->greedy_bytes_max)
        io_uring_prep_send(request(run, peer), peer->fd, data, size, 0);
}

static void connected(struct run *run, struct greedy_peer *peer, int result)
{
    run->greedy.connecting--;
    run->progress_ns = run->now_ns;
    if (result < 0) {
        enum failure kind = result == -EADDRNOTAVAIL ? FAILURE_NO_PORT : FAILURE_CONNECT;
        failures_add(&run->results.failures, kind, number_of(run, peer), -result);
        leave(run, peer);
        return;
    }
    peer->connected = true;
    send_more(run, peer);
}

static void was_sent(struct run *run, struct greedy_peer *peer, int result)
{
    if (result < 0) { /* the server closed it, as it may */
        leave(run, peer);
        return;
    }
    peer->sent += result;
    run->greedy.bytes_sent += result;
    run->greedy.sent_ns = run->now_ns;
    send_more(run, peer);
}

void greedy_complete(struct run *run, const struct io_uring_cqe *cqe)
{
    struct greedy_peer *peer = &run->greedy.peers[cqe->user_data & ~GREEDY];
    peer->in_kernel = false;
    if (run->greedy.leaving)
        leave(run, peer);
    else if (peer->connected)
        was_sent(run, peer, cqe->res);
    else
        connected(run, peer, cqe->res);
}

static int set(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof value);
}

static int make_socket(struct run *run, unsigned number)
{
    const struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
    int fd = target_socket(&run->target, number, run->options->sources);
    if (fd < 0)
        return fd;
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) ||
        set(fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES) ||
        set(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER_BYTES) ||
        (!target_is_unix(&run->target) && set(fd, IPPROTO_TCP, TCP_MAXSEG, SEGMENT_BYTES))) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

/* False: a Unix socket's backlog is full, so another time. */
static bool open_next(struct run *run)
{
    struct greedy *greedy = &run->greedy;
    struct greedy_peer *peer = &greedy->peers[greedy->opened];
    unsigned number = number_of(run, peer);
    int fd = make_socket(run, number);
    int result = fd >= 0 && target_is_unix(&run->target) ? target_connect_unix(&run->target, fd) : 0;
    if (result == -EAGAIN) {
        close(fd);
        return false;
    }
    greedy->opened++;
    *peer = (struct greedy_peer){ .fd = fd, .origin = payload_origin(&run->payload, number) };
    if (fd < 0) {
        failures_add(&run->results.failures, FAILURE_CONNECT, number, -fd);
        return true;
    }
    greedy->open++;
    greedy->connecting++;
    if (target_is_unix(&run->target))
        connected(run, peer, result);
    else
        io_uring_prep_connect(request(run, peer), fd, (struct sockaddr *)&run->target.address,
                              run->target.address_size);
    return true;
}

void greedy_open(struct run *run)
{
    while (run->greedy.opened < run->options->greedy && run->greedy.connecting < CONNECTING_MAX)
        if (!open_next(run))
            return;
}

bool greedy_are_open(const struct run *run)
{
    return run->greedy.opened == run->options->greedy && run->greedy.connecting == 0;
}

bool greedy_are_stuck(const struct run *run)
{
    const struct greedy *greedy = &run->greedy;
    return greedy->open == 0 || greedy->bytes_sent >= run->options->greedy_bytes_max ||
           run->now_ns - greedy->sent_ns > STUCK_NS;
}

void greedy_leave(struct run *run)
{
    struct greedy *greedy = &run->greedy;
    greedy->leaving = true;
    for (unsigned i = 0; i < greedy->opened; i++) {
        struct greedy_peer *peer = &greedy->peers[i];
        if (peer->in_kernel)
            shutdown(peer->fd, SHUT_RDWR); /* completes its send, also one that waits for room */
        else if (peer->fd >= 0)
            leave(run, peer);
    }
}
