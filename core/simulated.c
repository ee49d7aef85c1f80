#include "core/simulated.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/list.h"

#define BEGINNING_NS      UINT64_C(1000000000000)
#define MULTISHOT_BUFFERS 8 /* as in core/uring.c */
#define SPOILT            0xa5

enum request_kind {
    REQUEST_ACCEPT = 1,
    REQUEST_RECEIVE,
    REQUEST_RECEIVE_INTO,
    REQUEST_RECEIVE_MESSAGE,
    REQUEST_SEND,
    REQUEST_CONNECT,
    REQUEST_READ_FILE,
    REQUEST_CLOSE,
    REQUEST_CANCEL
};

/* What was asked: in `submitted` until the next wait, then in `pending` until its last completion is made. */
struct request {
    struct rondo_link link;
    struct op *op; /* of a cancellation: its target */
    enum request_kind kind;
    int fd;
    bool multishot, wait, delayed;
    bool forgets_end;
    unsigned buffers; /* this multishot has filled */

    struct iovec slices[ENGINE_SEND_SLICES_MAX];
    unsigned count;
    const struct msghdr *message;
    rondo_buffer memory;
    uint64_t offset;
    char *copy; /* of what is sent; of what lies where it will be received */
    size_t copy_bytes;
};

/* A completion, until it is dispatched. */
struct happened {
    struct request *request; /* if it was the last of it; then freed */
    struct op *op;
    struct completion completion;
    int buffer;      /* -1: none */
    size_t bytes_at; /* in `bytes`: what was received */
};

struct simulated {
    struct engine engine;
    struct memory_sockets sockets;
    struct simulated_moods moods;
    uint64_t random;
    uint64_t now_ns;
    bool time_passes;
    int wake_fd;
    const char *violation;

    struct rondo_link submitted, pending, unused;
    struct op_line starved; /* as in core/uring.c, like the next three */
    unsigned cancelled;
    bool found_none;
    bool is_short;
    unsigned ops_in_kernel;

    struct happened *happened; /* a queue: from next on */
    unsigned happened_next, happened_count, happened_max;
    unsigned turn_end;    /* of them: what has happened behind it is told in the next turn */
    unsigned completions; /* more wait for the next turn */
    char *bytes;
    size_t bytes_used, bytes_max;

    uint16_t *free_buffers; /* a ring */
    unsigned free_first, free_count;
};

static struct simulated *simulated_of(const struct engine *engine)
{
    return rondo_container_of(engine, struct simulated, engine);
}

/* ---- chance --------------------------------------------------------------------------------------------- */

/* SplitMix64. */
static uint64_t next_random(struct simulated *s)
{
    uint64_t z = s->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint32_t below(struct simulated *s, uint32_t bound)
{
    return (uint32_t)((next_random(s) >> 32) * bound >> 32);
}

uint32_t simulated_random(struct engine *engine, uint32_t bound)
{
    return below(simulated_of(engine), bound);
}

static bool happens(struct simulated *s, uint8_t percent)
{
    return percent > 0 && below(s, 100) < percent;
}

/* All of it, or, that often, less: 1 at least. */
static size_t maybe_less(struct simulated *s, size_t size, uint8_t percent)
{
    if (size <= 1 || !happens(s, percent))
        return size;
    uint32_t most = size < UINT32_MAX ? (uint32_t)size : UINT32_MAX;
    return below(s, 2) == 0 ? 1 + below(s, most < 8 ? most : 8) % (most - 1) : 1 + below(s, most - 1);
}

const struct simulated_moods simulated_wild = {
    .partial_sends = 30,
    .refused_sends = 15,
    .short_receives = 30,
    .short_reads = 40,
    .ended_multishots = 20,
    .forgotten_ends = 10,
    .shortages = 5,
    .early_shortages = 50,
    .empty_buffers = 30,
    .interruptions = 4,
    .late_cancels = 50,
    .delays = 25,
    .portions = 20,
    .lost_unread = 50,
    .any_order = true,
};

void simulated_set_moods(struct engine *engine, const struct simulated_moods *moods)
{
    struct simulated *s = simulated_of(engine);
    s->moods = *moods;
    s->random = moods->seed;
}

static void violated(struct simulated *s, const char *rule)
{
    if (s->violation == NULL)
        s->violation = rule;
}

const char *simulated_violation(const struct engine *engine)
{
    return simulated_of(engine)->violation;
}

/* ---- sockets -------------------------------------------------------------------------------------------- */

static struct memory_socket *socket_of(const struct simulated *s, int fd)
{
    return memory_socket_of(&s->sockets, fd);
}

struct memory_sockets *simulated_sockets(struct engine *engine)
{
    return &simulated_of(engine)->sockets;
}

int simulated_connect(struct engine *engine, int family, int fds[2])
{
    struct simulated *s = simulated_of(engine);
    struct memory_socket *ends[2];
    for (int i = 0; i < 2; i++) {
        ends[i] = memory_socket_new(&s->sockets, family);
        if (ends[i] == NULL)
            return -ENOMEM;
        fds[i] = ends[i]->fd;
    }
    memory_socket_connect(ends[0], ends[1]);
    return 0;
}

int simulated_listen(struct engine *engine)
{
    struct memory_socket *listener = memory_socket_new(&simulated_of(engine)->sockets, AF_INET);
    if (listener == NULL)
        return -ENOMEM;
    listener->listens = true;
    return listener->fd;
}

int simulated_come(struct engine *engine, int fd)
{
    struct simulated *s = simulated_of(engine);
    struct memory_socket *listener = socket_of(s, fd);
    int fds[2];
    int rc = listener == NULL || !listener->listens ? -ECONNREFUSED : simulated_connect(engine, AF_INET, fds);
    if (rc < 0)
        return rc;
    struct memory_socket **last = &listener->queue;
    while (*last != NULL)
        last = &(*last)->next;
    *last = socket_of(s, fds[0]);
    return fds[1];
}

/* ---- issuing -------------------------------------------------------------------------------------------- */

static struct request *new_request(struct simulated *s, enum request_kind kind, struct op *op, int fd)
{
    struct rondo_link *link = list_pop(&s->unused);
    struct request *request = link != NULL ? rondo_container_of(link, struct request, link) : NULL;
    if (request == NULL)
        request = malloc(sizeof *request);
    assert(request != NULL); /* tests' only */
    memset(request, 0, offsetof(struct request, slices));
    request->op = op;
    request->kind = kind;
    request->fd = fd;
    request->count = 0;
    request->message = NULL;
    request->memory = (rondo_buffer){ 0 };
    request->copy = NULL;
    request->copy_bytes = 0;
    list_push(&s->submitted, &request->link);
    return request;
}

static void free_request(struct simulated *s, struct request *request)
{
    free(request->copy);
    request->copy = NULL;
    list_push(&s->unused, &request->link);
}

static bool sends(const struct request *request)
{
    return request->kind == REQUEST_SEND;
}

static bool is_receive(enum request_kind kind)
{
    return kind == REQUEST_RECEIVE || kind == REQUEST_RECEIVE_INTO || kind == REQUEST_RECEIVE_MESSAGE;
}

static bool receives(const struct request *request)
{
    return is_receive(request->kind);
}

static struct request *find_in(const struct rondo_link *list, int fd, bool (*is_such)(const struct request *))
{
    for (struct rondo_link *link = list->next; link != list; link = link->next) {
        struct request *request = rondo_container_of(link, struct request, link);
        if (request->fd == fd && request->kind != REQUEST_CANCEL && (is_such == NULL || is_such(request)))
            return request;
    }
    return NULL;
}

static bool is_busy(const struct simulated *s, int fd, bool (*is_such)(const struct request *))
{
    return find_in(&s->submitted, fd, is_such) != NULL || find_in(&s->pending, fd, is_such) != NULL;
}

static void begin(struct simulated *s, enum request_kind kind, struct op *op, int fd)
{
    assert(!op->in_kernel && op->done != NULL);
    if (kind == REQUEST_SEND && is_busy(s, fd, sends))
        violated(s, "two sends on one socket at a time: their bytes may be mixed");
    if (is_receive(kind) && is_busy(s, fd, receives))
        violated(s, "two receives on one socket at a time: their bytes may come in any order");
    if (kind == REQUEST_CLOSE && is_busy(s, fd, NULL))
        violated(s, "a descriptor is closed while an operation uses it");
    op->in_kernel = true;
    op->cancelling = false;
    op->kind = (uint8_t)kind;
    op->fd = fd;
    s->ops_in_kernel++;
}

static struct request *issue(struct simulated *s, enum request_kind kind, struct op *op, int fd)
{
    begin(s, kind, op, fd);
    return new_request(s, kind, op, fd);
}

/* Nobody may count on what lies there now, nor write to it. */
static void spoil(struct request *request, rondo_buffer memory)
{
    request->memory = memory;
    request->copy = malloc(memory.size);
    assert(request->copy != NULL || memory.size == 0);
    memcpy(request->copy, memory.data, memory.size);
    memset(memory.data, SPOILT, memory.size);
}

/* What the kernel doesn't fill is as it was. */
static void restore(struct simulated *s, struct request *request)
{
    const unsigned char *data = request->memory.data;
    size_t size = request->memory.size;
    if (size == 0)
        return;
    if (data[0] != SPOILT || memcmp(data, data + 1, size - 1) != 0)
        violated(s, "memory to be received into was written to before the completion");
    memcpy(request->memory.data, request->copy, size);
}

static void keep_copy(struct request *request, const struct iovec *slices, size_t count)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += slices[i].iov_len;
    request->copy = malloc(total);
    assert(request->copy != NULL);
    for (size_t i = 0; i < count; i++) {
        memcpy(request->copy + request->copy_bytes, slices[i].iov_base, slices[i].iov_len);
        request->copy_bytes += slices[i].iov_len;
    }
}

static void compare_copy(struct simulated *s, const struct request *request, const struct iovec *slices,
                         size_t count)
{
    size_t at = 0;
    for (size_t i = 0; i < count && at + slices[i].iov_len <= request->copy_bytes; i++) {
        if (memcmp(request->copy + at, slices[i].iov_base, slices[i].iov_len) != 0)
            violated(s, "bytes were changed while they were being sent");
        at += slices[i].iov_len;
    }
}

static void simulated_accept(struct engine *engine, struct op *op, int fd)
{
    issue(simulated_of(engine), REQUEST_ACCEPT, op, fd)->multishot = true;
}

static void simulated_receive(struct engine *engine, struct op *op, int fd, bool multishot)
{
    struct simulated *s = simulated_of(engine);
    bool any = s->free_count > 0 || s->engine.buffers.returned_count > 0;
    if (op->more_to_read && any && (s->is_short || s->found_none)) { /* as in core/uring.c */
        begin(s, REQUEST_RECEIVE, op, fd);
        op_line_push(&s->starved, op);
        return;
    }
    issue(s, REQUEST_RECEIVE, op, fd)->multishot = multishot;
}

static void simulated_receive_into(struct engine *engine, struct op *op, int fd, rondo_buffer memory)
{
    spoil(issue(simulated_of(engine), REQUEST_RECEIVE_INTO, op, fd), memory);
}

static void simulated_receive_message(struct engine *engine, struct op *op, int fd, struct msghdr *message)
{
    struct request *request = issue(simulated_of(engine), REQUEST_RECEIVE_MESSAGE, op, fd);
    request->message = message;
    spoil(request, (rondo_buffer){ message->msg_iov[0].iov_base, message->msg_iov[0].iov_len });
}

static void simulated_send(struct engine *engine, struct op *op, int fd, const struct iovec *slices,
                           unsigned count, enum send_way way)
{
    assert(count >= 1 && count <= ENGINE_SEND_SLICES_MAX);
    struct request *request = issue(simulated_of(engine), REQUEST_SEND, op, fd);
    memcpy(request->slices, slices, count * sizeof *slices);
    request->count = count;
    request->wait = way == SEND_WAITS;
    keep_copy(request, slices, count);
}

static void simulated_send_message(struct engine *engine, struct op *op, int fd, const struct msghdr *message,
                                   enum send_way way)
{
    struct request *request = issue(simulated_of(engine), REQUEST_SEND, op, fd);
    request->message = message;
    request->wait = way == SEND_WAITS;
    keep_copy(request, message->msg_iov, message->msg_iovlen);
}

static void simulated_connect_op(struct engine *engine, struct op *op, int fd, const struct sockaddr *address,
                                 socklen_t size)
{
    (void)address;
    (void)size;
    issue(simulated_of(engine), REQUEST_CONNECT, op, fd);
}

static void simulated_read_file(struct engine *engine, struct op *op, int fd, uint64_t offset,
                                rondo_buffer memory)
{
    struct request *request = issue(simulated_of(engine), REQUEST_READ_FILE, op, fd);
    request->offset = offset;
    spoil(request, memory);
}

static void simulated_close_fd(struct engine *engine, struct op *op, int fd)
{
    issue(simulated_of(engine), REQUEST_CLOSE, op, fd);
}

static void simulated_cancel(struct engine *engine, struct op *op)
{
    struct simulated *s = simulated_of(engine);
    if (!op->in_kernel || op->cancelling)
        return;
    op->cancelling = true;
    if (op->in_line) {
        s->cancelled++;
        return;
    }
    new_request(s, REQUEST_CANCEL, op, -1);
}

/* ---- what happens --------------------------------------------------------------------------------------- */

static struct happened *happened(struct simulated *s, struct request *request, int result, bool more)
{
    if (s->happened_count == s->happened_max) {
        s->happened_max = s->happened_max == 0 ? 64 : 2 * s->happened_max;
        s->happened = realloc(s->happened, s->happened_max * sizeof *s->happened);
        assert(s->happened != NULL);
    }
    struct happened *what = &s->happened[s->happened_count++];
    *what = (struct happened){
        .request = more ? NULL : request,
        .op = request->op,
        .completion = { .result = result, .more = more },
        .buffer = -1,
        .bytes_at = s->bytes_used,
    };
    struct memory_socket *socket = socket_of(s, request->fd);
    what->completion.more_to_read = receives(request) && socket != NULL && memory_socket_is_readable(socket);
    if (!more)
        list_remove(&request->link);
    return what;
}

/* Room for so many bytes received, until they are dispatched. */
static char *bytes_for(struct simulated *s, size_t size)
{
    if (s->bytes == NULL || s->bytes_used + size > s->bytes_max) {
        s->bytes_max = 2 * (s->bytes_used + size) + 256;
        s->bytes = realloc(s->bytes, s->bytes_max);
        assert(s->bytes != NULL);
    }
    return s->bytes + s->bytes_used;
}

static bool queue_is_full(const struct simulated *s)
{
    return s->happened_count - s->happened_next >= s->completions;
}

static void do_accept(struct simulated *s, struct request *request)
{
    struct memory_socket *listener = socket_of(s, request->fd);
    if (listener->accept_error < 0) {
        happened(s, request, listener->accept_error, false);
        listener->accept_error = 0;
        return;
    }
    struct memory_socket *first = listener->queue;
    listener->queue = first->next;
    happened(s, request, first->fd, !happens(s, s->moods.ended_multishots));
}

/* As in the uring engine it is told to nobody: it waits in line. */
static void starve(struct simulated *s, struct request *request)
{
    struct op *op = request->op;
    list_remove(&request->link);
    free_request(s, request);
    s->engine.counters.starved++;
    s->found_none = true;
    s->cancelled += op->cancelling;
    op_line_push(&s->starved, op);
}

static int take_buffer(struct simulated *s)
{
    int index = s->free_buffers[s->free_first];
    s->free_first = (s->free_first + 1) % s->engine.buffers.count;
    s->free_count--;
    return index;
}

static void do_receive(struct simulated *s, struct request *request)
{
    struct memory_socket *socket = socket_of(s, request->fd);
    bool has_bytes = socket->size > 0;
    if (has_bytes && (s->free_count == 0 || happens(s, s->moods.shortages))) {
        starve(s, request);
        return;
    }
    size_t size = socket->size < s->engine.buffers.size_bytes ? socket->size : s->engine.buffers.size_bytes;
    size = maybe_less(s, size, s->moods.short_receives);
    int result = memory_socket_receive(socket, bytes_for(s, size), size, NULL, 0, NULL);
    bool more = result > 0 && request->multishot && ++request->buffers < MULTISHOT_BUFFERS &&
                !happens(s, s->moods.ended_multishots);
    request->forgets_end = more && socket->eof && happens(s, s->moods.forgotten_ends);
    struct happened *what = happened(s, request, result, more);
    if (result > 0)
        s->bytes_used += (size_t)result;
    if (result > 0 || (result == 0 && s->free_count > 0 && happens(s, s->moods.empty_buffers)))
        what->buffer = take_buffer(s);
}

static void do_receive_into(struct simulated *s, struct request *request)
{
    struct memory_socket *socket = socket_of(s, request->fd);
    size_t size = request->memory.size < socket->size ? request->memory.size : socket->size;
    size = maybe_less(s, size, s->moods.short_receives);
    int fds[253];
    unsigned count = 0;
    bool wants_fds = request->message != NULL;
    int result = memory_socket_receive(socket, bytes_for(s, size), size, wants_fds ? fds : NULL, 253, &count);
    happened(s, request, result, false);
    if (result > 0)
        s->bytes_used += (size_t)result;
    if (!wants_fds)
        return;
    struct msghdr *message = (struct msghdr *)request->message;
    if (count > 0) {
        struct cmsghdr *c = CMSG_FIRSTHDR(message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(count * sizeof *fds);
        memcpy(CMSG_DATA(c), fds, count * sizeof *fds);
    }
    message->msg_flags = 0;
    message->msg_controllen = count > 0 ? CMSG_SPACE(count * sizeof *fds) : 0;
}

static size_t limit_of(struct simulated *s, const struct iovec *slices, size_t count, size_t room)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += slices[i].iov_len;
    total = total < room ? total : room;
    return maybe_less(s, total, s->moods.partial_sends);
}

static int send_some(struct simulated *s, struct memory_socket *socket, const struct iovec *slices,
                     size_t count, const struct msghdr *message)
{
    size_t room = socket->other != NULL && socket->other->room > socket->other->size
                      ? socket->other->room - socket->other->size
                      : SIZE_MAX;
    const struct cmsghdr *c = message != NULL ? CMSG_FIRSTHDR(message) : NULL;
    bool passes = c != NULL && c->cmsg_type == SCM_RIGHTS;
    unsigned fds = passes ? (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int)) : 0;
    return memory_socket_send(socket, slices, (unsigned)count, limit_of(s, slices, count, room),
                              passes ? (const int *)CMSG_DATA(c) : NULL, fds);
}

static void do_send(struct simulated *s, struct request *request)
{
    struct memory_socket *socket = socket_of(s, request->fd);
    const struct msghdr *message = request->message;
    int result;
    if (!request->wait && happens(s, s->moods.refused_sends))
        result = -EAGAIN;
    else if (message != NULL)
        result = send_some(s, socket, message->msg_iov, message->msg_iovlen, message);
    else
        result = send_some(s, socket, request->slices, request->count, NULL);
    happened(s, request, result, false);
}

static void do_read_file(struct simulated *s, struct request *request)
{
    size_t size = maybe_less(s, request->memory.size, s->moods.short_reads);
    ssize_t result = pread(request->fd, bytes_for(s, size), size, (off_t)request->offset);
    happened(s, request, result < 0 ? -errno : (int)result, false);
    if (result > 0)
        s->bytes_used += (size_t)result;
}

/* A descriptor that is none of ours is the system's: who opened it has nothing else to close it by. */
static void do_close(struct simulated *s, struct request *request)
{
    if (socket_of(s, request->fd) == NULL) {
        happened(s, request, close(request->fd) < 0 ? -errno : 0, false);
        return;
    }
    memory_socket_close(&s->sockets, socket_of(s, request->fd), happens(s, s->moods.lost_unread));
    happened(s, request, 0, false);
}

static void do_it(struct simulated *s, struct request *request)
{
    bool may_interrupt = receives(request) || sends(request) || request->kind == REQUEST_READ_FILE;
    bool needs_socket = request->kind != REQUEST_READ_FILE && request->kind != REQUEST_CLOSE;
    if (needs_socket && socket_of(s, request->fd) == NULL) {
        happened(s, request, -EBADF, false);
        return;
    }
    if (may_interrupt && happens(s, s->moods.interruptions)) {
        happened(s, request, -EINTR, false);
        return;
    }
    switch (request->kind) {
    case REQUEST_ACCEPT:
        do_accept(s, request);
        return;
    case REQUEST_RECEIVE:
        do_receive(s, request);
        return;
    case REQUEST_RECEIVE_INTO:
    case REQUEST_RECEIVE_MESSAGE:
        do_receive_into(s, request);
        return;
    case REQUEST_SEND:
        do_send(s, request);
        return;
    case REQUEST_CONNECT:
        happened(s, request, socket_of(s, request->fd)->connected, false);
        return;
    case REQUEST_READ_FILE:
        do_read_file(s, request);
        return;
    case REQUEST_CLOSE:
        do_close(s, request);
        return;
    case REQUEST_CANCEL:
        return;
    }
}

/* Is what it waits for there? */
static bool can_happen(const struct simulated *s, const struct request *request)
{
    const struct memory_socket *socket = socket_of(s, request->fd);
    if (request->kind == REQUEST_READ_FILE || socket == NULL)
        return true;
    switch (request->kind) {
    case REQUEST_ACCEPT:
        return socket->queue != NULL || socket->accept_error < 0;
    case REQUEST_SEND:
        return !request->wait || memory_socket_is_writable(socket);
    case REQUEST_CONNECT:
        return socket->connected <= 0;
    case REQUEST_CLOSE:
        return true;
    default:
        return memory_socket_is_readable(socket) && !(request->forgets_end && socket->size == 0);
    }
}

/* ---- a turn --------------------------------------------------------------------------------------------- */

static void give_back_buffers(struct simulated *s)
{
    struct buffers *buffers = &s->engine.buffers;
    for (unsigned i = 0; i < buffers->returned_count; i++, s->free_count++)
        s->free_buffers[(s->free_first + s->free_count) % buffers->count] = buffers->returned[i];
    buffers->returned_count = 0;
}

static void resume_starved(struct simulated *s)
{
    for (unsigned free = s->cancelled > 0 ? 0 : s->free_count; free > 0; free--) { /* as in core/uring.c */
        struct op *op = op_line_pop(&s->starved);
        if (op == NULL)
            return;
        new_request(s, REQUEST_RECEIVE, op, op->fd);
    }
}

static struct request *pending_of(const struct simulated *s, const struct op *op)
{
    for (struct rondo_link *link = s->pending.next; link != &s->pending; link = link->next) {
        struct request *request = rondo_container_of(link, struct request, link);
        if (request->op == op)
            return request;
    }
    return NULL;
}

static void cancel_pending(struct simulated *s, const struct op *op)
{
    struct request *target = pending_of(s, op);
    if (target != NULL && can_happen(s, target) && happens(s, s->moods.late_cancels))
        do_it(s, target);
    target = pending_of(s, op); /* a multishot may go on, and a receive may be in line now */
    if (target != NULL)
        happened(s, target, -ECANCELED, false);
}

/* In the order in which they were asked for. */
static void submit(struct simulated *s)
{
    for (struct rondo_link *link; (link = list_pop(&s->submitted)) != NULL;) {
        struct request *request = rondo_container_of(link, struct request, link);
        if (request->kind == REQUEST_CANCEL) {
            cancel_pending(s, request->op);
            free_request(s, request);
            continue;
        }
        list_push(&s->pending, &request->link);
        bool is_short = request->kind == REQUEST_RECEIVE && s->free_count == 0;
        if (is_short && happens(s, s->moods.early_shortages))
            starve(s, request);
        else if (sends(request) && !request->wait)
            do_it(s, request);
    }
}

static struct request *any_that_can(struct simulated *s)
{
    unsigned count = 0;
    struct request *chosen = NULL;
    for (struct rondo_link *link = s->pending.next; link != &s->pending; link = link->next) {
        struct request *request = rondo_container_of(link, struct request, link);
        if (request->delayed || !can_happen(s, request))
            continue;
        if (!s->moods.any_order)
            return request;
        if (below(s, ++count) == 0)
            chosen = request;
    }
    return chosen;
}

static void let_happen(struct simulated *s)
{
    for (struct rondo_link *link = s->pending.next; link != &s->pending; link = link->next)
        rondo_container_of(link, struct request, link)->delayed = happens(s, s->moods.delays);
    for (struct request *request; !queue_is_full(s) && (request = any_that_can(s)) != NULL;)
        do_it(s, request);
}

static bool is_woken(const struct simulated *s)
{
    struct pollfd wake = { .fd = s->wake_fd, .events = POLLIN };
    eventfd_t value;
    return s->wake_fd >= 0 && poll(&wake, 1, 0) == 1 && eventfd_read(s->wake_fd, &value) == 0;
}

static bool nothing_has_happened(const struct simulated *s)
{
    return s->happened_next == s->happened_count && s->cancelled == 0;
}

static int simulated_wait(struct engine *engine, uint64_t timeout_ns)
{
    struct simulated *s = simulated_of(engine);
    give_back_buffers(s);
    resume_starved(s);
    s->is_short = s->found_none || s->starved.first != NULL;
    s->found_none = false;
    submit(s);
    let_happen(s);
    s->turn_end = s->happened_count;
    if (timeout_ns == 0 || !nothing_has_happened(s) || !simulated_is_idle(engine) || is_woken(s))
        return 0;
    if (timeout_ns == ENGINE_FOREVER)
        return -EDEADLK;
    if (s->time_passes)
        s->now_ns += timeout_ns;
    return 0;
}

bool simulated_is_idle(const struct engine *engine)
{
    const struct simulated *s = simulated_of(engine);
    bool passes_on = s->free_count + s->engine.buffers.returned_count > 0 && s->starved.first != NULL;
    if (!nothing_has_happened(s) || !list_is_empty(&s->submitted) || passes_on)
        return false;
    for (struct rondo_link *link = s->pending.next; link != &s->pending; link = link->next) {
        if (can_happen(s, rondo_container_of(link, struct request, link)))
            return false;
    }
    return true;
}

/* ---- completions ---------------------------------------------------------------------------------------- */

static void finish(struct simulated *s, struct op *op, const struct completion *completion)
{
    s->engine.counters.completions++;
    if (!completion->more) {
        op->in_kernel = false;
        s->ops_in_kernel--;
    }
    op->more_to_read = completion->more_to_read;
    op->done(op, completion); /* last: unless more follow, the op may be gone */
}

static void take_out_of_kernel(struct simulated *s, struct request *request, const struct happened *what)
{
    bool fills = request->kind == REQUEST_RECEIVE_INTO || request->kind == REQUEST_RECEIVE_MESSAGE ||
                 request->kind == REQUEST_READ_FILE;
    if (fills) {
        restore(s, request);
        if (what->completion.result > 0)
            memcpy(request->memory.data, s->bytes + what->bytes_at, (size_t)what->completion.result);
    } else if (sends(request) && request->message != NULL) {
        compare_copy(s, request, request->message->msg_iov, request->message->msg_iovlen);
    } else if (sends(request)) {
        compare_copy(s, request, request->slices, request->count);
    }
    free_request(s, request);
}

static void dispatch_one(struct simulated *s, struct happened what)
{
    struct buffers *buffers = &s->engine.buffers;
    if (what.request != NULL)
        take_out_of_kernel(s, what.request, &what);
    if (what.buffer < 0) {
        finish(s, what.op, &what.completion);
        return;
    }
    size_t size = what.completion.result > 0 ? (size_t)what.completion.result : 0;
    rondo_bytes lent = buffers_lend(buffers, (unsigned)what.buffer, size, false);
    if (size > 0) {
        memcpy((char *)lent.data, s->bytes + what.bytes_at, size);
        what.completion.data = lent;
    }
    finish(s, what.op, &what.completion);
    buffers_unref(buffers, lent.data);
}

static void complete_cancelled(struct simulated *s)
{
    while (s->cancelled > 0) {
        struct op_line ended = { 0 };
        s->cancelled = 0;
        op_line_take_cancelled(&s->starved, &ended);
        for (struct op *op; (op = op_line_pop(&ended)) != NULL;)
            finish(s, op, &(struct completion){ .result = -ECANCELED });
    }
}

static bool simulated_dispatch(struct engine *engine)
{
    struct simulated *s = simulated_of(engine);
    while (s->happened_next < s->turn_end) {
        dispatch_one(s, s->happened[s->happened_next++]);
        if (s->happened_next < s->turn_end && happens(s, s->moods.portions))
            return false;
    }
    if (s->happened_next == s->happened_count)
        s->happened_next = s->happened_count = s->turn_end = s->bytes_used = 0;
    complete_cancelled(s);
    return true;
}

static void simulated_submit(struct engine *engine)
{
    submit(simulated_of(engine));
}

/* ---- at once -------------------------------------------------------------------------------------------- */

static int send_now(struct engine *engine, int fd, const struct iovec *slices, unsigned count)
{
    struct simulated *s = simulated_of(engine);
    struct memory_socket *socket = socket_of(s, fd);
    if (socket == NULL)
        return -EBADF;
    if (is_busy(s, fd, sends))
        violated(s, "a send at once, beside one that is in the kernel");
    if (happens(s, s->moods.refused_sends))
        return -EAGAIN;
    return send_some(s, socket, slices, count, NULL);
}

static void half_close(struct engine *engine, int fd)
{
    struct simulated *s = simulated_of(engine);
    struct memory_socket *socket = socket_of(s, fd);
    if (is_busy(s, fd, sends))
        violated(s, "half-closed while a send is in the kernel");
    if (socket != NULL)
        memory_socket_half_close(socket);
}

/* Whoever writes here finds room anyway. */
static void widen_window(struct engine *engine, int fd, size_t bytes)
{
    (void)engine;
    (void)fd;
    (void)bytes;
}

static size_t unread(struct engine *engine, int fd)
{
    const struct memory_socket *socket = socket_of(simulated_of(engine), fd);
    return socket == NULL ? 0 : socket->size;
}

static bool is_readable(struct engine *engine, int fd)
{
    const struct memory_socket *socket = socket_of(simulated_of(engine), fd);
    return socket != NULL && memory_socket_is_readable(socket);
}

static size_t unacknowledged(struct engine *engine, int fd)
{
    const struct memory_socket *socket = socket_of(simulated_of(engine), fd);
    return socket == NULL ? 0 : memory_socket_unacknowledged(socket);
}

static void reset_at_close(struct engine *engine, int fd)
{
    struct memory_socket *socket = socket_of(simulated_of(engine), fd);
    if (socket != NULL)
        socket->resets = true;
}

static int name(struct engine *engine, int fd, bool of_peer, struct sockaddr_storage *name, socklen_t *size)
{
    const struct memory_socket *socket = socket_of(simulated_of(engine), fd);
    if (socket == NULL)
        return -EBADF;
    memory_socket_name(socket, of_peer, name, size);
    return 0;
}

/* There is no network here, and so no way to anybody. */
static int open_socket(struct engine *engine, int family)
{
    (void)engine;
    (void)family;
    return -ENETUNREACH;
}

static int bind_socket(struct engine *engine, int fd, const struct sockaddr *address, socklen_t size)
{
    (void)engine;
    (void)fd;
    (void)address;
    (void)size;
    return -ENETUNREACH;
}

static const struct socket_calls simulated_calls = {
    .open = open_socket,
    .bind = bind_socket,
    .send_now = send_now,
    .half_close = half_close,
    .widen_window = widen_window,
    .unread = unread,
    .is_readable = is_readable,
    .unacknowledged = unacknowledged,
    .reset_at_close = reset_at_close,
    .name = name,
};

/* ---- time ----------------------------------------------------------------------------------------------- */

static uint64_t now_ns(const struct engine *engine)
{
    return simulated_of(engine)->now_ns;
}

void simulated_advance(struct engine *engine, uint64_t ns)
{
    simulated_of(engine)->now_ns += ns;
}

void simulated_let_time_pass(struct engine *engine)
{
    simulated_of(engine)->time_passes = true;
}

/* ---- opening and closing -------------------------------------------------------------------------------- */

static void free_all(struct simulated *s)
{
    for (struct rondo_link *link;
         (link = list_pop(&s->submitted)) != NULL;) /* cancellations that came too late */
        free_request(s, rondo_container_of(link, struct request, link));
    for (struct rondo_link *link; (link = list_pop(&s->unused)) != NULL;)
        free(rondo_container_of(link, struct request, link));
    memory_sockets_free(&s->sockets);
    buffers_close(&s->engine.buffers);
    free(s->happened);
    free(s->bytes);
    free(s->free_buffers);
    free(s);
}

static void simulated_close(struct engine *engine)
{
    struct simulated *s = simulated_of(engine);
    assert(s->ops_in_kernel == 0 && s->engine.buffers.lent == 0);
    free_all(s);
}

static void simulated_close_now(struct engine *engine, int fd)
{
    struct simulated *s = simulated_of(engine);
    struct memory_socket *socket = socket_of(s, fd);
    if (is_busy(s, fd, NULL))
        violated(s, "a descriptor is closed while an operation uses it");
    if (socket != NULL)
        memory_socket_close(&s->sockets, socket, happens(s, s->moods.lost_unread));
    else
        close(fd);
}

static const struct engine_ops simulated_ops = {
    .accept = simulated_accept,
    .receive = simulated_receive,
    .receive_into = simulated_receive_into,
    .receive_message = simulated_receive_message,
    .send = simulated_send,
    .send_message = simulated_send_message,
    .connect = simulated_connect_op,
    .read_file = simulated_read_file,
    .close_fd = simulated_close_fd,
    .close_now = simulated_close_now,
    .cancel = simulated_cancel,
    .wait = simulated_wait,
    .dispatch = simulated_dispatch,
    .submit = simulated_submit,
    .now_ns = now_ns,
    .close = simulated_close,
};

struct engine *simulated_open(const struct engine_size *size, int wake_fd, int *error,
                              char why[ENGINE_WHY_BYTES])
{
    struct simulated *s = calloc(1, sizeof *s);
    if (s != NULL) {
        list_init(&s->submitted);
        list_init(&s->pending);
        list_init(&s->unused);
        s->free_buffers = malloc(size->buffers * sizeof *s->free_buffers);
    }
    if (s == NULL || s->free_buffers == NULL ||
        buffers_open(&s->engine.buffers, size->buffers, size->buffer_bytes) < 0) {
        *error = -ENOMEM;
        snprintf(why, ENGINE_WHY_BYTES, "no memory for a simulated engine");
        if (s != NULL)
            free_all(s);
        return NULL;
    }
    for (; s->free_count < size->buffers; s->free_count++)
        s->free_buffers[s->free_count] = (uint16_t)s->free_count;
    s->engine.name = "simulated";
    s->engine.ops = &simulated_ops;
    s->engine.sockets = &simulated_calls;
    s->engine.forgets_ends = s->engine.forgets_unix_ends = true;
    s->now_ns = BEGINNING_NS;
    s->wake_fd = wake_fd;
    s->completions = size->completions;
    return &s->engine;
}
