#include "connection.h"

#include "run.h"

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>

void queue_push(struct queue *queue, struct connection *c)
{
    c->next = NULL;
    *(queue->first ? &queue->last->next : &queue->first) = c;
    queue->last = c;
}

struct connection *queue_pop(struct queue *queue)
{
    struct connection *c = queue->first;
    queue->first = c->next;
    return c;
}

enum operation { CONNECT, RECEIVE, SEND, CLOSE };
enum { OPERATION_BITS = 2, OPERATION_MASK = (1 << OPERATION_BITS) - 1 };

static unsigned index_of(const struct run *run, const struct connection *c)
{
    return c - run->connections;
}

static struct io_uring_sqe *request(struct run *run, struct connection *c, enum operation operation)
{
    return ring_request(&run->ring, (uint64_t)index_of(run, c) << OPERATION_BITS | operation);
}

/* A connection that is closed after one answer receives by single shots: a multishot would have to be ended
 * first. */
static void arm_receive(struct run *run, struct connection *c)
{
    struct io_uring_sqe *sqe = request(run, c, RECEIVE);
    io_uring_prep_recv(sqe, c->fd, NULL, 0, 0);
    if (!run->options->mode->reconnects)
        sqe->ioprio |= IORING_RECV_MULTISHOT;
    sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = RING_BUFFER_GROUP;
    c->in_kernel++;
}

static void finish_close(struct run *run, struct connection *c)
{
    struct io_uring_sqe *sqe = request(run, c, CLOSE);
    io_uring_prep_close(sqe, c->fd);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    c->state = c->failed ? IS_RETIRED : IS_CLOSED;
    run_closed(run, c);
}

static void finish_close_if_alone(struct run *run, struct connection *c)
{
    if (c->state == IS_CLOSING && c->in_kernel == 0)
        finish_close(run, c);
}

static void connected(struct run *run, struct connection *c, int result)
{
    if (result < 0) {
        connection_fail(run, c, result == -EADDRNOTAVAIL ? FAILURE_NO_PORT : FAILURE_CONNECT, -result);
        return;
    }
    c->state = IS_OPEN;
    run->connecting--;
    arm_receive(run, c);
    connection_flush(run, c);
    run_connected(run, c);
}

static void connect_tcp(struct run *run, struct connection *c)
{
    struct io_uring_sqe *sqe = request(run, c, CONNECT);
    io_uring_prep_connect(sqe, c->fd, (struct sockaddr *)&run->target.address, run->target.address_size);
    c->in_kernel++;
}

/* False: the server's backlog is full. */
static bool connect_unix(struct run *run, struct connection *c)
{
    int result = target_connect_unix(&run->target, c->fd);
    if (result == -EAGAIN)
        return false;
    connected(run, c, result);
    return true;
}

void connection_retry_waiting(struct run *run)
{
    for (struct connection *c; (c = run->waiting.first);) {
        struct connection *next = c->next; /* when it has connected it may be put into another queue */
        if (!connect_unix(run, c))
            return;
        run->waiting.first = next;
    }
}

void connection_open(struct run *run, struct connection *c)
{
    c->origin = payload_origin(&run->payload, run->opened++);
    c->issued = c->answered = c->sent = c->received = 0;
    c->sending = false;
    c->state = IS_CONNECTING;
    run->open++;
    run->connecting++;
    c->fd = target_socket(&run->target, run->opened, run->options->sources);
    if (c->fd < 0) {
        connection_fail(run, c, FAILURE_CONNECT, -c->fd);
        return;
    }
    if (!target_is_unix(&run->target))
        connect_tcp(run, c);
    else if (run->waiting.first || !connect_unix(run, c))
        queue_push(&run->waiting, c);
}

void connection_issue(struct run *run, struct connection *c, uint64_t due_ns)
{
    c->due_ns[c->issued++ % run->options->depth] = due_ns;
    run->issued++;
    if (run->outstanding++ == 0)
        run->progress_ns = run->now_ns; /* the server had nothing to do: it isn't late yet */
}

/* With one message in flight its send needs no completion: the answer proves that it has left, and there is no
 * other send that it could be mixed up with. A send that fails or falls short posts one all the same. */
static bool answer_proves_send(const struct run *run)
{
    return run->options->depth == 1 && run->options->size <= run->payload.period;
}

void connection_flush(struct run *run, struct connection *c)
{
    uint64_t left = c->issued * run->options->size - c->sent;
    if (c->state != IS_OPEN || c->sending || left == 0)
        return;
    const char *data = payload_at(&run->payload, c->origin, c->sent, &c->send_size);
    if (c->send_size > left)
        c->send_size = left;
    struct io_uring_sqe *sqe = request(run, c, SEND);
    io_uring_prep_send(sqe, c->fd, data, c->send_size, MSG_WAITALL);
    c->sent += c->send_size;
    if (answer_proves_send(run)) {
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    } else {
        c->sending = true;
        c->in_kernel++;
    }
    run->results.bytes_sent += c->send_size;
}

static void begin_close(struct run *run, struct connection *c)
{
    if (c->state == IS_CONNECTING)
        run->connecting--;
    c->state = IS_CLOSING;
    if (c->fd < 0) {
        c->state = IS_RETIRED;
        run_closed(run, c);
    } else if (c->in_kernel > 0) {
        shutdown(c->fd,
                 SHUT_RDWR); /* completes them all; if it can't, because of a reset, they are complete */
    } else {
        finish_close(run, c);
    }
}

void connection_close(struct run *run, struct connection *c)
{
    const struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
    if (run->options->reset && setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once))
        failures_add(&run->results.failures, FAILURE_OTHER, index_of(run, c), errno);
    begin_close(run, c);
}

void connection_fail(struct run *run, struct connection *c, enum failure kind, int error)
{
    failures_add(&run->results.failures, kind, index_of(run, c), error);
    run->outstanding -= c->issued - c->answered;
    c->issued = c->answered;
    c->failed = true;
    begin_close(run, c);
}

static bool broke(int error)
{
    return error == ECONNRESET || error == EPIPE || error == ETIMEDOUT;
}

static void was_sent(struct run *run, struct connection *c, int result)
{
    if (c->sending)
        c->in_kernel--;
    c->sending = false;
    if (c->state != IS_OPEN)
        return;
    if (result < 0) {
        connection_fail(run, c, broke(-result) ? FAILURE_RESET : FAILURE_OTHER, -result);
        return;
    }
    uint64_t missing = c->send_size - result;
    c->sent -= missing;
    run->results.bytes_sent -= missing;
    connection_flush(run, c);
}

/* Bytes of an answer: of the right value, and not more than were asked for. */
static void take_answer(struct run *run, struct connection *c, const char *data, size_t size)
{
    uint64_t owed = c->issued * run->options->size - c->received;
    size_t wrong = payload_wrong(&run->payload, c->origin, c->received, data, size < owed ? size : owed);
    c->received += size;
    run->results.bytes_received += size;
    if (size > owed)
        wrong += size - owed;
    if (wrong > 0) {
        run->results.wrong_bytes += wrong;
        if (size > owed)
            connection_fail(run, c, FAILURE_WRONG_BYTE, 0);
        else
            failures_add(&run->results.failures, FAILURE_WRONG_BYTE, index_of(run, c), 0);
    }
    while (c->state == IS_OPEN && c->received >= (c->answered + 1) * run->options->size) {
        uint64_t due_ns = c->due_ns[c->answered++ % run->options->depth];
        run_answered(run, c, due_ns);
    }
}

static void received(struct run *run, struct connection *c, const struct io_uring_cqe *cqe)
{
    bool armed = cqe->flags & IORING_CQE_F_MORE;
    if (!armed)
        c->in_kernel--;
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        if (cqe->res > 0 && c->state == IS_OPEN)
            take_answer(run, c, ring_received(&run->ring, cqe), cqe->res);
        ring_give_back(&run->ring, cqe);
    }
    if (armed || c->state != IS_OPEN)
        return;
    if (cqe->res > 0 || cqe->res == -ENOBUFS) /* buffers are given back at once, so there are some again */
        arm_receive(run, c);
    else if (cqe->res == 0)
        connection_fail(run, c, FAILURE_EARLY_EOF, 0);
    else
        connection_fail(run, c, broke(-cqe->res) ? FAILURE_RESET : FAILURE_OTHER, -cqe->res);
}

void connection_complete(struct run *run, const struct io_uring_cqe *cqe)
{
    struct connection *c = &run->connections[cqe->user_data >> OPERATION_BITS];
    switch ((enum operation)(cqe->user_data & OPERATION_MASK)) {
    case CONNECT:
        c->in_kernel--;
        if (c->state == IS_CONNECTING)
            connected(run, c, cqe->res);
        break;
    case RECEIVE:
        received(run, c, cqe);
        break;
    case SEND:
        was_sent(run, c, cqe->res);
        break;
    case CLOSE: /* a success posts nothing */
        failures_add(&run->results.failures, FAILURE_OTHER, index_of(run, c), -cqe->res);
        break;
    }
    finish_close_if_alone(run, c);
}
