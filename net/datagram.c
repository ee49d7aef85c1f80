/* The transport of datagrams.
 *
 *   rondo_sendto     queue       -> settle: each an operation of its own, all of a turn in one system call -> done: freed
 *                    the socket has no room for one: it goes back to its place in the queue, and they wait, one after
 *                    another, for room
 *   receive_done     datagram_received; or, while receiving is paused, held until it goes on
 *
 * Sends that are under way don't wait for one another, so those of one turn go into the kernel in their order, but if one
 * finds no room those behind it may overtake it: UDP promises no order. Unix sockets do, so of theirs one is under way at
 * a time. And when the peer's queue is full nobody tells that it no longer is: it's tried again after a while. (The ring
 * would wait, but then send a datagram of 0 bytes instead, having copied the bytes at its first attempt; seen on 6.18.)
 *
 * Many large ones of the same size for the same peer leave as one train (UDP_SEGMENT, which is called GSO): the kernel takes
 * them through its layers together. With 1,400 bytes that is worth 5 to 15 % of the server's CPU over loopback, with less than
 * 1,000 nothing (Linux 6.18). (To receive so, UDP_GRO, is worth nothing there: only what was sent as a train comes as one.)
 *
 * A datagram that was just received is kept in its buffer until it is sent; one that must wait is copied, so that peers that
 * don't read never hold the buffers that others are received into. */
#include "net/datagram.h"

#include <errno.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/sock_diag.h>

#include "core/list.h"
#include "core/memory.h"
#include "net/flow.h"
#include "net/url.h"

#define HEADER_BYTES   8 /* what a datagram counts beside its bytes, as in asyncio */
#define LOOK_MS        1
#define RETRY_MIN_MS   1
#define RETRY_MAX_MS   10
#define TRAIN_LEAST    4
#define TRAIN_MOST     32   /* the kernel takes 64; but these are held until all have left */
#define TRAIN_BYTES    1000 /* of each, at least */
#define TRAIN_MTU      1472 /* and at most: what any Ethernet takes whole */
#define SPARE_MAX      64
#define SKB_BYTES      512  /* that the kernel counts for a datagram of any size, at least */
#define UNIX_QUEUE_MAX 4096 /* that a Unix socket may hold, about */

/* One that is to be sent, or to be delivered. */
struct datagram {
    struct rondo_link link;
    rondo_transport *t;
    struct op send;
    uint64_t number; /* in the order of rondo_sendto */
    struct msghdr message;
    struct iovec slice;
    struct buffers *lender; /* bytes and name lie in a buffer of these; NULL: in the copy */
    _Alignas(max_align_t) char copy[];
};

/* Datagrams that leave together. */
struct train {
    struct rondo_link link; /* of those in the kernel */
    rondo_transport *t;
    struct op send;
    struct rondo_link datagrams;
    struct msghdr message;
    struct iovec slices[TRAIN_MOST];
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(uint16_t))];
};

struct datagrams {
    rondo_transport *t;
    struct rondo_link queue, in_kernel; /* to be sent; both in order */
    struct rondo_link trains;           /* in the kernel */
    bool has_no_trains;                 /* not by this way: each leaves by itself */
    struct rondo_link held;             /* received, and not delivered */
    struct rondo_link spare;            /* of those without a copy */
    unsigned spare_count;
    uint64_t next_number;
    size_t unsent_bytes; /* of queue and in_kernel */
    rondo_timer retry;   /* of a Unix socket that is full */
    unsigned retry_ms;
    bool is_full; /* the socket had no room for the last one */
    bool truncation_logged;

    struct url_address remote; /* size 0: none */
    bool is_connected;
    struct addresses own; /* of rondo_create_datagram_endpoint */

    unsigned drain_left; /* datagrams that may have arrived by then */
    rondo_timer look;
};

static void send_done(struct op *op, const struct completion *completion);
static void receive_done(struct op *op, const struct completion *completion);

/* ---- one datagram ----------------------------------------------------------------------------------------- */

/* Whose buffer do these bytes lie in? NULL: nobody's. */
static struct buffers *lender_of(const rondo_transport *t, const void *data)
{
    struct engine *engine = t->loop->engine;
    if (buffers_own(&engine->datagrams, data))
        return &engine->datagrams;
    return buffers_own(&engine->buffers, data) ? &engine->buffers : NULL;
}

/* Bytes and name go together, or both are copied. */
static bool lie_together(const struct buffers *lender, rondo_bytes data, rondo_address address)
{
    return address.name == NULL || (buffers_own(lender, address.name) &&
                                    buffers_index(lender, address.name) == buffers_index(lender, data.data));
}

static struct datagram *spare_of(struct datagrams *datagrams)
{
    struct rondo_link *link = list_pop(&datagrams->spare);
    if (link == NULL)
        return memory_new(sizeof(struct datagram));
    datagrams->spare_count--;
    return rondo_container_of(link, struct datagram, link);
}

static void point_to(struct datagram *datagram, rondo_bytes data, rondo_address address)
{
    datagram->slice = (struct iovec){ (char *)data.data, data.size };
    datagram->message = (struct msghdr){
        .msg_name = (struct sockaddr *)address.name,
        .msg_namelen = address.name != NULL ? address.size : 0,
        .msg_iov = &datagram->slice,
        .msg_iovlen = 1,
    };
}

static struct datagram *keep_lent(rondo_transport *t, struct buffers *lender, rondo_bytes data,
                                  rondo_address address)
{
    struct datagram *datagram = spare_of(t->into.datagrams);
    if (datagram == NULL)
        return NULL;
    buffers_ref(lender, data.data);
    datagram->lender = lender;
    point_to(datagram, data, address);
    return datagram;
}

static struct datagram *keep_copy(rondo_bytes data, rondo_address address)
{
    size_t name_size = address.name != NULL ? address.size : 0;
    struct datagram *datagram = memory_alloc(sizeof *datagram + name_size + data.size);
    if (datagram == NULL)
        return NULL;
    memset(datagram, 0, sizeof *datagram);
    if (name_size > 0)
        memcpy(datagram->copy, address.name, name_size);
    if (data.size > 0)
        memcpy(datagram->copy + name_size, data.data, data.size);
    const struct sockaddr *name = name_size > 0 ? (const struct sockaddr *)datagram->copy : NULL;
    point_to(datagram, (rondo_bytes){ datagram->copy + name_size, data.size },
             (rondo_address){ name, address.size });
    return datagram;
}

/* NULL: no memory. */
static struct datagram *keep(rondo_transport *t, rondo_bytes data, rondo_address address, bool may_be_lent)
{
    struct buffers *lender = may_be_lent ? lender_of(t, data.data) : NULL;
    struct datagram *datagram = lender != NULL && lie_together(lender, data, address)
                                    ? keep_lent(t, lender, data, address)
                                    : keep_copy(data, address);
    if (datagram != NULL) {
        datagram->t = t;
        t->loop->traffic.bytes_copied += datagram->lender == NULL ? data.size : 0;
    }
    return datagram;
}

static rondo_bytes bytes_of(const struct datagram *datagram)
{
    return (rondo_bytes){ datagram->slice.iov_base, datagram->slice.iov_len };
}

static rondo_address address_of(const struct datagram *datagram)
{
    return (rondo_address){ datagram->message.msg_name, datagram->message.msg_namelen };
}

static size_t weight_of(const struct datagram *datagram)
{
    return datagram->slice.iov_len + HEADER_BYTES;
}

static void drop(struct datagram *datagram)
{
    struct datagrams *datagrams = datagram->t->into.datagrams;
    bool is_small = datagram->lender != NULL;
    if (is_small)
        buffers_unref(datagram->lender, datagram->slice.iov_base);
    if (is_small && datagrams->spare_count < SPARE_MAX) {
        datagram->lender = NULL;
        datagrams->spare_count++;
        list_push(&datagrams->spare, &datagram->link);
    } else {
        memory_free(datagram);
    }
}

static void drop_all(struct rondo_link *list)
{
    for (struct rondo_link *link; (link = list_pop(list)) != NULL;)
        drop(rondo_container_of(link, struct datagram, link));
}

/* ---- errors ----------------------------------------------------------------------------------------------- */

/* What is wrong with the socket itself: it will never work. */
static bool is_fatal(int error)
{
    return error == -EBADF || error == -ENOTSOCK || error == -EFAULT;
}

static void tell_error(rondo_transport *t, int error)
{
    if (transport_is_ending(t))
        return;
    if (is_fatal(error))
        transport_fail(t, error);
    else if (transport_protocol(t)->error_received != NULL)
        transport_protocol(t)->error_received(t, error);
}

/* ---- sending ---------------------------------------------------------------------------------------------- */

size_t datagrams_unsent_bytes(const rondo_transport *t)
{
    return t->into.datagrams == NULL ? 0 : t->into.datagrams->unsent_bytes;
}

/* Behind those that were sent before it. */
static void put_back(struct datagrams *datagrams, struct datagram *datagram)
{
    struct rondo_link *next = datagrams->queue.next;
    while (next != &datagrams->queue &&
           rondo_container_of(next, struct datagram, link)->number < datagram->number)
        next = next->next;
    list_push(next, &datagram->link);
}

/* They will wait, maybe for long. False: no memory. */
static bool copy_lent(rondo_transport *t)
{
    struct datagrams *datagrams = t->into.datagrams;
    struct rondo_link lent;
    list_init(&lent);
    list_move_all(&datagrams->queue, &lent);
    bool has_memory = true;
    for (struct rondo_link *link; (link = list_pop(&lent)) != NULL;) {
        struct datagram *datagram = rondo_container_of(link, struct datagram, link);
        struct datagram *copy = NULL;
        if (datagram->lender != NULL && has_memory) {
            copy = keep(t, bytes_of(datagram), address_of(datagram), false);
            has_memory = copy != NULL;
        }
        if (copy != NULL) {
            copy->number = datagram->number;
            drop(datagram);
        }
        list_push(&datagrams->queue, copy != NULL ? &copy->link : link);
    }
    return has_memory;
}

static void no_memory(rondo_transport *t, const char *what)
{
    rondo_log(RONDO_LOG_ERROR, "%s: no memory for a datagram that %s: dropped", transport_name(t), what);
    tell_error(t, -ENOMEM);
}

static void try_again(rondo_timer *timer)
{
    transport_mark(rondo_container_of(timer, struct datagrams, retry)->t);
}

static void has_no_room(rondo_transport *t)
{
    struct datagrams *datagrams = t->into.datagrams;
    datagrams->is_full = true;
    if (t->is_unix) {
        datagrams->retry_ms = datagrams->retry_ms == 0 ? RETRY_MIN_MS : 2 * datagrams->retry_ms;
        if (datagrams->retry_ms > RETRY_MAX_MS)
            datagrams->retry_ms = RETRY_MAX_MS;
        rondo_call_later(t->loop, &datagrams->retry, datagrams->retry_ms, try_again);
    }
    if (!transport_is_ending(t) && !copy_lent(t))
        no_memory(t, "waits for room"); /* it keeps its buffer */
}

static void send_done(struct op *op, const struct completion *completion)
{
    struct datagram *datagram = rondo_container_of(op, struct datagram, send);
    rondo_transport *t = datagram->t;
    struct datagrams *datagrams = t->into.datagrams;
    int result = completion->result;
    list_remove(&datagram->link);
    if (result == -EAGAIN || result == -EINTR || result == -ECANCELED) {
        put_back(datagrams, datagram);
        transport_mark(t);
        if (result == -EAGAIN)
            has_no_room(t);
        return;
    }
    if (datagrams->is_full || t->over_high_water || t->state != OPEN || !list_is_empty(&datagrams->queue))
        transport_mark(t);
    datagrams->is_full = false;
    datagrams->retry_ms = 0;
    datagrams->unsent_bytes -= weight_of(datagram);
    if (result >= 0)
        t->loop->traffic.bytes_out += (size_t)result;
    drop(datagram);
    if (result < 0)
        tell_error(t, result);
}

static void send_arm(rondo_transport *t, enum send_way way)
{
    struct datagrams *datagrams = t->into.datagrams;
    struct datagram *datagram = rondo_container_of(list_pop(&datagrams->queue), struct datagram, link);
    list_push(&datagrams->in_kernel, &datagram->link);
    datagram->send.done = send_done;
    engine_send_message(t->loop->engine, &datagram->send, t->fd, &datagram->message, way);
}

/* ---- trains ----------------------------------------------------------------------------------------------- */

static struct datagram *datagram_at(struct rondo_link *link)
{
    return rondo_container_of(link, struct datagram, link);
}

static bool go_together(const struct datagram *one, const struct datagram *other)
{
    const struct msghdr *message = &one->message, *others = &other->message;
    return one->slice.iov_len == other->slice.iov_len && message->msg_namelen == others->msg_namelen &&
           (message->msg_namelen == 0 ||
            memcmp(message->msg_name, others->msg_name, message->msg_namelen) == 0);
}

/* How many, from the first on, that may leave together. */
static unsigned count_train(const struct datagrams *datagrams)
{
    struct rondo_link *first = datagrams->queue.next, *link = first;
    size_t size = datagram_at(first)->slice.iov_len;
    unsigned count = 0;
    if (size < TRAIN_BYTES || size > TRAIN_MTU || datagrams->has_no_trains)
        return 0;
    for (; count < TRAIN_MOST && link != &datagrams->queue &&
           go_together(datagram_at(first), datagram_at(link));
         link = link->next)
        count++;
    return count;
}

static void train_done(struct op *op, const struct completion *completion)
{
    struct train *train = rondo_container_of(op, struct train, send);
    rondo_transport *t = train->t;
    struct datagrams *datagrams = t->into.datagrams;
    int result = completion->result;
    bool is_first = true;
    list_remove(&train->link);
    transport_mark(t);
    if (result == -EINVAL || result == -EMSGSIZE || result == -EIO || result == -EOPNOTSUPP) {
        datagrams->has_no_trains = true; /* this way is too narrow for them, or doesn't know them */
        result = -EINTR;
    }
    bool goes_back = result == -EAGAIN || result == -EINTR || result == -ECANCELED;
    for (struct rondo_link *link; (link = list_pop(&train->datagrams)) != NULL; is_first = false) {
        struct datagram *datagram = datagram_at(link);
        if (goes_back || (result < 0 && !is_first)) { /* an error is about one of them */
            put_back(datagrams, datagram);
            continue;
        }
        datagrams->unsent_bytes -= weight_of(datagram);
        t->loop->traffic.bytes_out += result >= 0 ? datagram->slice.iov_len : 0;
        drop(datagram);
    }
    memory_free(train);
    if (result == -EAGAIN)
        has_no_room(t);
    else if (result >= 0)
        datagrams->is_full = false;
    else if (!goes_back)
        tell_error(t, result);
}

static void describe(struct train *train, unsigned count)
{
    const struct datagram *first = datagram_at(train->datagrams.next);
    train->message = (struct msghdr){
        .msg_name = first->message.msg_name,
        .msg_namelen = first->message.msg_namelen,
        .msg_iov = train->slices,
        .msg_iovlen = count,
        .msg_control = train->control,
        .msg_controllen = sizeof train->control,
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&train->message);
    uint16_t size = (uint16_t)first->slice.iov_len;
    header->cmsg_level = SOL_UDP;
    header->cmsg_type = UDP_SEGMENT;
    header->cmsg_len = CMSG_LEN(sizeof size);
    memcpy(CMSG_DATA(header), &size, sizeof size);
}

/* False: they aren't enough, or there is no memory, and then each leaves by itself. */
static bool train_arm(rondo_transport *t, enum send_way way)
{
    struct datagrams *datagrams = t->into.datagrams;
    unsigned count = count_train(datagrams);
    struct train *train = count >= TRAIN_LEAST ? memory_new(sizeof *train) : NULL;
    if (train == NULL)
        return false;
    train->t = t;
    list_init(&train->datagrams);
    for (unsigned i = 0; i < count; i++) {
        struct rondo_link *link = list_pop(&datagrams->queue);
        list_push(&train->datagrams, link);
        train->slices[i] = datagram_at(link)->slice;
    }
    describe(train, count);
    list_push(&datagrams->trains, &train->link);
    train->send.done = train_done;
    engine_send_message(t->loop->engine, &train->send, t->fd, &train->message, way);
    return true;
}

/* ---- what is queued --------------------------------------------------------------------------------------- */

static bool is_under_way(const struct datagrams *datagrams)
{
    return !list_is_empty(&datagrams->in_kernel) || !list_is_empty(&datagrams->trains);
}

static void send_queued(rondo_transport *t)
{
    struct datagrams *datagrams = t->into.datagrams;
    bool nobody_waits = t->state == OPEN && !t->over_high_water;
    if (datagrams->is_full || t->is_unix) {
        bool is_next = !is_under_way(datagrams) && !rondo_timer_is_running(&datagrams->retry);
        if (is_next && !list_is_empty(&datagrams->queue))
            send_arm(t, t->is_unix ? SEND_NOW : SEND_WAITS);
        return;
    }
    enum send_way way = nobody_waits ? SEND_QUIETLY : SEND_NOW;
    while (!list_is_empty(&datagrams->queue)) {
        if (!train_arm(t, way))
            send_arm(t, way);
    }
}

/* They may be quiet. */
static void expect_sends(const rondo_transport *t)
{
    struct datagrams *datagrams = t->into.datagrams;
    for (struct rondo_link *link = datagrams->in_kernel.next; link != &datagrams->in_kernel;
         link = link->next)
        engine_expect(t->loop->engine, &rondo_container_of(link, struct datagram, link)->send);
    for (struct rondo_link *link = datagrams->trains.next; link != &datagrams->trains; link = link->next)
        engine_expect(t->loop->engine, &rondo_container_of(link, struct train, link)->send);
}

/* asyncio raises an exception for what only a programming error can be. */
static void refuse(rondo_transport *t, const char *what)
{
    if (t->misuse_logged)
        return;
    t->misuse_logged = true;
    rondo_log(RONDO_LOG_WARNING, "%s: %s: dropped", transport_name(t), what);
}

static bool are_equal(rondo_address one, const struct url_address *other)
{
    struct url_address address = { .size = other->size };
    struct url_addresses both = { .count = 1, .at = { *other } };
    if (one.size < sizeof(sa_family_t) || one.size > sizeof address - offsetof(struct url_address, any) ||
        one.name->sa_family != other->any.sa_family)
        return false;
    address.size = one.size;
    memcpy(&address.any, one.name, one.size);
    return url_addresses_put(&both, &address) == 0 && both.count == 1;
}

/* The address for the kernel: none when it is connected. False: it isn't the one that it is connected to. */
static bool choose_address(const struct datagrams *datagrams, rondo_address *address)
{
    const struct url_address *remote = &datagrams->remote;
    if (remote->size == 0)
        return true;
    if (address->name != NULL && !are_equal(*address, remote))
        return false;
    *address = datagrams->is_connected ? (rondo_address){ 0 } : (rondo_address){ &remote->any, remote->size };
    return true;
}

void rondo_sendto(rondo_transport *t, rondo_bytes data, rondo_address address)
{
    assert(loop_is_here(t->loop));
    struct datagrams *datagrams = t->into.datagrams;
    if (t->kind != DATAGRAMS) {
        refuse(t, "rondo_sendto is for datagrams");
        return;
    }
    if (t->state != OPEN)
        return;
    if (!choose_address(datagrams, &address)) {
        refuse(t, "a datagram for another address than the one that this endpoint is connected to");
        return;
    }
    struct datagram *datagram = keep(t, data, address, !datagrams->is_full);
    if (datagram == NULL) {
        no_memory(t, "is to be sent");
        return;
    }
    datagram->number = datagrams->next_number++;
    datagrams->unsent_bytes += weight_of(datagram);
    list_push(&datagrams->queue, &datagram->link);
    transport_mark(t);
    send_check_high_water(t);
}

/* ---- receiving -------------------------------------------------------------------------------------------- */

static void deliver(rondo_transport *t, rondo_bytes data, rondo_address address)
{
    if (transport_protocol(t)->datagram_received != NULL)
        transport_protocol(t)->datagram_received(t, data, address);
}

static void hold(rondo_transport *t, rondo_bytes data, rondo_address address)
{
    const struct buffers *buffers = &t->loop->engine->datagrams;
    struct datagram *datagram = keep(t, data, address, buffers->lent <= buffers->count / 2);
    if (datagram == NULL)
        no_memory(t, "came while receiving is paused");
    else
        list_push(&t->into.datagrams->held, &datagram->link);
}

static void say_truncated(rondo_transport *t, size_t size)
{
    struct datagrams *datagrams = t->into.datagrams;
    if (!datagrams->truncation_logged)
        rondo_log(RONDO_LOG_WARNING,
                  "%s: a datagram of more than %zu bytes, which is all that is received: dropped",
                  transport_name(t), size);
    datagrams->truncation_logged = true;
    tell_error(t, -EMSGSIZE);
}

static void received(rondo_transport *t, rondo_bytes data, const struct datagram_origin *origin)
{
    struct datagrams *datagrams = t->into.datagrams;
    if (t->state != OPEN)
        return;
    t->loop->traffic.bytes_in += data.size;
    datagrams->drain_left -= datagrams->drain_left > 0;
    if (origin->is_truncated)
        say_truncated(t, data.size);
    else if (transport_may_deliver(t) && list_is_empty(&datagrams->held))
        deliver(t, data, origin->address);
    else
        hold(t, data, origin->address);
}

static bool is_passing(int result)
{
    return result == -ECANCELED || result == -EAGAIN || result == -EINTR;
}

static void receive_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = rondo_container_of(op, rondo_transport, receive);
    if (!completion->more)
        transport_mark(t); /* receive again, or go on with the end */
    if (completion->origin != NULL)
        received(t, completion->data, completion->origin);
    else if (!is_passing(completion->result))
        tell_error(t, completion->result);
}

static void deliver_held(rondo_transport *t)
{
    struct datagrams *datagrams = t->into.datagrams;
    while (transport_may_deliver(t) && !list_is_empty(&datagrams->held)) {
        struct datagram *datagram = rondo_container_of(list_pop(&datagrams->held), struct datagram, link);
        deliver(t, bytes_of(datagram), address_of(datagram));
        drop(datagram);
    }
}

static void receive_settle_datagrams(rondo_transport *t)
{
    struct engine *engine = t->loop->engine;
    bool is_wanted = transport_may_deliver(t);
    if (is_wanted && !t->receive.in_kernel) {
        t->receive.done = receive_done;
        engine_receive_datagrams(engine, &t->receive, t->fd, t->is_unix ? AF_UNIX : AF_INET6);
    } else if (!is_wanted) {
        engine_cancel(engine, &t->receive);
    }
}

/* ---- by the state ----------------------------------------------------------------------------------------- */

void datagrams_settle(rondo_transport *t)
{
    send_check_low_water(t);
    deliver_held(t);
    if (t->state != OPEN)
        return; /* by one of these: it is marked again */
    if (t->over_high_water)
        expect_sends(t);
    send_queued(t);
    receive_settle_datagrams(t);
}

bool datagrams_are_flushed(rondo_transport *t)
{
    struct datagrams *datagrams = t->into.datagrams;
    engine_cancel(t->loop->engine, &t->receive);
    send_queued(t);
    expect_sends(t);
    return list_is_empty(&datagrams->queue) && !is_under_way(datagrams);
}

bool datagrams_are_back(rondo_transport *t)
{
    struct datagrams *datagrams = t->into.datagrams;
    struct rondo_link *all = &datagrams->in_kernel, *trains = &datagrams->trains;
    for (struct rondo_link *link = all->next; link != all; link = link->next)
        engine_cancel(t->loop->engine, &rondo_container_of(link, struct datagram, link)->send);
    for (struct rondo_link *link = trains->next; link != trains; link = link->next)
        engine_cancel(t->loop->engine, &rondo_container_of(link, struct train, link)->send);
    return !is_under_way(datagrams);
}

void datagrams_free(rondo_transport *t)
{
    struct datagrams *datagrams = t->into.datagrams;
    assert(!is_under_way(datagrams));
    rondo_timer_cancel(&datagrams->look);
    rondo_timer_cancel(&datagrams->retry);
    drop_all(&datagrams->queue);
    drop_all(&datagrams->held);
    for (struct rondo_link *link; (link = list_pop(&datagrams->spare)) != NULL;)
        memory_free(rondo_container_of(link, struct datagram, link));
    if (datagrams->own.count > 0)
        address_closed(&datagrams->own.at[0]);
    addresses_close(&datagrams->own);
    memory_free(datagrams);
    t->into.datagrams = NULL;
}

/* ---- draining --------------------------------------------------------------------------------------------- */

/* The kernel counts bytes with what it needs beside them, so this is more than there are; but it's an end, if more keep
 * coming. */
static unsigned arrived_at_most(const rondo_transport *t)
{
    uint32_t counts[SK_MEMINFO_VARS] = { 0 };
    if (t->is_unix || getsockopt(t->fd, SOL_SOCKET, SO_MEMINFO, counts, &(socklen_t){ sizeof counts }) < 0)
        return UNIX_QUEUE_MAX;
    return counts[SK_MEMINFO_RMEM_ALLOC] / SKB_BYTES + 1;
}

static void look(rondo_timer *timer)
{
    struct datagrams *datagrams = rondo_container_of(timer, struct datagrams, look);
    rondo_transport *t = datagrams->t;
    struct engine *engine = t->loop->engine;
    bool more = t->loop->is_behind || !list_is_empty(&datagrams->held) ||
                (datagrams->drain_left > 0 && engine->sockets->is_readable(engine, t->fd));
    if (t->state != OPEN)
        return;
    if (more)
        rondo_call_later(t->loop, timer, LOOK_MS, look);
    else
        transport_drained(t);
}

void datagrams_drain(rondo_transport *t)
{
    struct datagrams *datagrams = t->into.datagrams;
    datagrams->drain_left = arrived_at_most(t);
    rondo_call_later(t->loop, &datagrams->look, LOOK_MS, look);
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

rondo_transport *datagrams_open(struct service *service, const struct transport_start *start)
{
    struct datagrams *datagrams = memory_new(sizeof *datagrams);
    if (datagrams == NULL) {
        rondo_log(RONDO_LOG_ERROR, "no memory for an endpoint of datagrams");
        return NULL;
    }
    list_init(&datagrams->queue);
    list_init(&datagrams->in_kernel);
    list_init(&datagrams->trains);
    list_init(&datagrams->held);
    list_init(&datagrams->spare);
    rondo_transport *t = transport_open(service, start);
    if (t == NULL) {
        memory_free(datagrams);
        return NULL;
    }
    datagrams->t = t;
    t->into.datagrams = datagrams;
    return t;
}

void datagrams_connect(rondo_transport *t, const struct datagram_ends *ends)
{
    struct datagrams *datagrams = t->into.datagrams;
    datagrams->own = ends->local;
    datagrams->remote = ends->remote;
    datagrams->is_connected = ends->is_connected;
}
