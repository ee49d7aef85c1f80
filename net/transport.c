/* A transport's life, and what the kernel may still owe us.
 *
 *   from                     event                                                   to
 *   OPEN                     peer's EOF, and eof_received returned true              HALF_CLOSED
 *   OPEN, HALF_CLOSED        rondo_close; in OPEN also the peer's EOF                FLUSHING
 *   FLUSHING                 output sent, and no producer is left                    JOINING
 *   OPEN … FLUSHING          rondo_abort; a receive or send error; idle; cancelled   JOINING
 *   JOINING                  the kernel holds nothing of the protocol's:
 *                            connection_lost; then, in order and no EOF seen yet     LINGERING
 *                            otherwise                                               CLOSING
 *   LINGERING                peer's EOF or error; cancelled; a second in which the
 *                            peer had nothing to acknowledge, or five in which
 *                            it acknowledged nothing                                 CLOSING
 *   CLOSING                  nothing in the kernel: close; close done                freed
 *
 *   in the kernel:   receive   send   close
 *   OPEN              0..1*    0..1     -      * 0: reading is paused; out of buffers it waits inside the engine
 *   HALF_CLOSED        -       0..1     -
 *   FLUSHING          0..1     0..1     -      received bytes are thrown away
 *   JOINING           0..1     0..1     -      being cancelled, unless it only throws away
 *   LINGERING         0..1      -       -      received bytes are thrown away
 *   CLOSING           0..1      -      0..1    first the one, cancelled, then the other
 *
 * That is a stream's life, and, but for LINGERING, that of pipes, which are streams of one direction (in the kernel: of the one
 * to write the watch for its reader instead of a receive). Datagrams and children pass through the same states; what they do
 * there, and what the kernel holds of them, is told in net/datagram.c and net/subprocess.c.
 *
 * Why LINGERING: closing a socket in which unread bytes wait, or arrive later, resets the connection, and the reset
 * destroys what the peer has not yet read of our answer. So we half-close, and read and throw away until the
 * peer has closed, too.
 *
 * Law: public calls and completions only change state, queue, and mark the transport; settle(), called from the loop
 * before the next system call, is the one place that issues operations, moves on from one state to the next, and
 * ends in connection_lost. So connection_lost never comes from inside a call of the protocol's own, and all that
 * a turn's callbacks write leaves in one send.
 *
 * Law: the transport is freed only when no operation of it is in the kernel (asserted in free_transport). */
#include "net/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "core/memory.h"
#include "net/datagram.h"
#include "net/flow.h"
#include "net/items.h"
#include "net/message.h"
#include "net/producer.h"
#include "net/subprocess.h"

/* What an idle connection weighs, with the next class of the allocator: 192. More is made on demand: struct flow, struct
 * watch, struct later_state, items, a message. perf/memory measures it. */
_Static_assert(sizeof(void *) != 8 || sizeof(struct rondo_transport) <= 192, "an idle connection is small");

#define LINGER_MS     1000
#define LINGER_STALLS 5 /* a peer without room is asked for it after 0.2 s, 0.4 s, and so on */
#define NEWCOMER_MS   250
#define UNSURE_MS     1000
#define NS_PER_MS     1000000

static void settle_marked(rondo_call *call);
static void settle(rondo_transport *t);
static void join(rondo_transport *t);
static void lose(rondo_transport *t);
static void linger(rondo_transport *t);
static void release(struct protocol_state *self);
static void free_state(rondo_transport *t, struct protocol_state *self);
static void free_replaced_states(rondo_transport *t);
static void close_arm(rondo_transport *t);
static void close_done(struct op *op, const struct completion *completion);
static void free_transport(rondo_transport *t);
static void timer_expired(rondo_timer *timer);
static void look_at_lingering(rondo_timer *timer);

/* ---- opening -------------------------------------------------------------------------------------------- */

static bool may_miss_its_end(const rondo_transport *t)
{
    const struct engine *engine = t->loop->engine;
    return t->is_unix ? engine->forgets_unix_ends : engine->forgets_ends;
}

static bool watch_make(rondo_transport *t)
{
    if (t->watch == NULL)
        t->watch = memory_new(sizeof *t->watch);
    if (t->watch == NULL)
        return false;
    t->watch->t = t;
    t->watch->active_ms = rondo_time_ms(t->loop);
    return true;
}

/* Until it is to be looked after: its idle time, and an end that nobody told. */
static void watch_start(struct watch *watch)
{
    const rondo_transport *t = watch->t;
    uint64_t timeout_ms = service_of(t->loop)->settings->idle_timeout_ms;
    uint64_t idle_ms = rondo_time_ms(t->loop) - watch->active_ms;
    uint64_t due_ms = timeout_ms > 0 ? timeout_ms : UINT64_MAX;
    if (t->end_unsure && due_ms > UNSURE_MS)
        due_ms = UNSURE_MS;
    if (due_ms < UINT64_MAX)
        rondo_call_later(t->loop, &watch->timer, due_ms > idle_ms ? due_ms - idle_ms : 0, timer_expired);
}

static void watch_end(rondo_transport *t)
{
    if (t->watch == NULL)
        return;
    rondo_timer_cancel(&t->watch->timer);
    memory_free(t->watch);
    t->watch = NULL;
}

void transport_watch_end(rondo_transport *t)
{
    if (t->state != OPEN || t->draining || !may_miss_its_end(t))
        return;
    t->end_unsure = true;
    transport_is_active(t);
    watch_start(t->watch);
}

/* --max-connections is about those that come in. */
static bool counts(enum transport_kind kind, const struct transport_owner *owner)
{
    return kind == STREAM && (owner == NULL || owner->is_server);
}

static void make(rondo_transport *t)
{
    t->made = true;
    if (transport_protocol(t)->connection_made != NULL)
        transport_protocol(t)->connection_made(t);
    if (!service_of(t->loop)->draining)
        return;
    t->loop->drained.late += t->kind == STREAM;
    transport_drain(t);
    t->was_busy = true;
}

/* With all memory that it needs while nothing out of the ordinary happens. */
static rondo_transport *new_transport(struct service *service, const struct transport_start *start)
{
    rondo_transport *t = memory_new(sizeof *t + start->protocol->size);
    if (t == NULL)
        return NULL;
    t->loop = service->loop;
    t->owner = start->owner;
    t->self = &t->first_state;
    t->first_state.t = t;
    t->first_state.protocol = start->protocol;
    t->kind = (uint8_t)start->kind;
    t->fd = start->fd;
    t->is_unix = start->family == AF_UNIX;
    t->receive.more_to_read = start->has_bytes;
    t->since_ms = (uint32_t)rondo_time_ms(t->loop);
    bool is_watched = service->settings->idle_timeout_ms > 0 || may_miss_its_end(t);
    if (t->kind == STREAM && is_watched && !watch_make(t)) {
        memory_free(t);
        return NULL;
    }
    return t;
}

rondo_transport *transport_open(struct service *service, const struct transport_start *start)
{
    rondo_transport *t = new_transport(service, start);
    if (t == NULL) {
        rondo_log(RONDO_LOG_ERROR, "no memory for a connection of %zu bytes: closed",
                  sizeof *t + start->protocol->size);
        if (counts(start->kind, start->owner))
            service_forget(service);
        if (!start->keeps_fd)
            engine_close_now(service->loop->engine, start->fd);
        return NULL;
    }
    list_push(&service->transports, &t->in_service);
    if (t->owner != NULL)
        t->owner->connections++;
    t->loop->users++;
    t->loop->traffic.connections_accepted += t->kind == STREAM;
    t->loop->traffic.connections_open += t->kind == STREAM;
    if (t->watch != NULL)
        watch_start(t->watch);
    transport_mark(t);
    if (!start->later)
        make(t);
    return t;
}

/* ---- the state machine ---------------------------------------------------------------------------------- */

void transport_mark(rondo_transport *t)
{
    if (t->next_marked != NULL)
        return;
    struct service *service = service_of(t->loop);
    rondo_transport *last = service->last_marked;
    if (last == NULL) {
        t->next_marked = t;
        loop_flush(t->loop, &service->settle, settle_marked);
    } else {
        t->next_marked = last->next_marked;
        last->next_marked = t;
    }
    service->last_marked = t;
}

static rondo_transport *pop_marked(struct service *service)
{
    rondo_transport *last = service->last_marked, *first = last->next_marked;
    if (first == last)
        service->last_marked = NULL;
    else
        last->next_marked = first->next_marked;
    first->next_marked = NULL;
    return first;
}

/* In the order in which they were marked, also those that these mark. */
static void settle_marked(rondo_call *call)
{
    struct service *service = rondo_container_of(call, struct service, settle);
    while (service->last_marked != NULL)
        settle(pop_marked(service));
}

/* Nobody was left to be told of it. */
static void drop_error(rondo_transport *t)
{
    if (t->error_waits)
        t->error = 0;
    t->error_waits = false;
}

/* ---- by kind -------------------------------------------------------------------------------------------- */

static void settle_both_ways(rondo_transport *t)
{
    switch ((enum transport_kind)t->kind) {
    case STREAM:
    case READ_PIPE:
    case WRITE_PIPE:
        send_settle(t);
        receive_settle(t);
        return;
    case DATAGRAMS:
        datagrams_settle(t);
        return;
    case PROCESS:
        process_settle(t);
        return;
    }
}

/* All that was written is sent, and nobody writes more; or that is under way. */
static bool is_flushed(rondo_transport *t)
{
    flow_drop_waiting(t); /* nobody will take it */
    switch ((enum transport_kind)t->kind) {
    case DATAGRAMS:
        return datagrams_are_flushed(t);
    case PROCESS:
        return process_is_over(t);
    default:
        send_settle(t);
    }
    bool waits = t->state == FLUSHING && (!transport_output_is_sent(t) || producer_is_there(t));
    if (waits)
        receive_discard(t);
    return !waits;
}

/* Its sends and its children are no more. */
static void free_what_it_carries(rondo_transport *t)
{
    if (t->kind == DATAGRAMS)
        datagrams_free(t);
    else if (t->kind == PROCESS)
        process_free(t);
}

/* The only place where a transport moves on. */
static void settle(rondo_transport *t)
{
    free_replaced_states(t);
    if (!t->made)
        make(t);
    switch (t->state) {
    case OPEN:
    case HALF_CLOSED:
        settle_both_ways(t);
        return;
    case FLUSHING:
        if (!is_flushed(t))
            return;
        t->state = JOINING;
        drop_error(t);
        join(t);
        return;
    case JOINING:
        join(t);
        return;
    case LINGERING:
        receive_discard(t);
        return;
    case CLOSING:
        close_arm(t);
        return;
    }
}

static bool ends_in_order(const rondo_transport *t)
{
    return t->kind == STREAM && !t->reset && (t->error == 0 || t->error == -ETIMEDOUT) && !t->eof_seen;
}

/* Wait until the kernel holds nothing that the protocol, or the output, owns; each *_done leads back here. */
static void join(rondo_transport *t)
{
    bool throws_away = ends_in_order(t) && !receive_is_direct(t);
    engine_cancel(t->loop->engine, &t->send);
    if (!throws_away)
        engine_cancel(t->loop->engine, &t->receive);
    if (t->send.in_kernel || (t->receive.in_kernel && !throws_away))
        return;
    if (t->kind == DATAGRAMS && !datagrams_are_back(t))
        return;
    lose(t);
    if (ends_in_order(t)) {
        t->state = LINGERING;
        linger(t);
    } else {
        t->state = CLOSING;
        close_arm(t);
    }
}

static void count_drained(const rondo_transport *t)
{
    const struct service *service = service_of(t->loop);
    struct drained *drained = &t->loop->drained;
    if (service->draining && t->kind == STREAM)
        ++*(service->aborting ? &drained->aborted : t->was_busy ? &drained->busy : &drained->idle);
}

/* The end for the protocol. What it wrote is sent or dropped by now. */
static void lose(rondo_transport *t)
{
    t->lost = true;
    count_drained(t);
    producer_stop(t);
    items_clear(t);
    receive_free_message(t);
    byte_queue_clear(&t->output, segments_of(t));
    flow_drop_waiting(t);
    watch_end(t);
    t->loop->traffic.connections_open -= t->kind == STREAM;
    t->loop->traffic.connections_lost += t->kind == STREAM;
    if (counts(t->kind, t->owner))
        service_forget(service_of(t->loop));
    if (t->error < 0 && rondo_log_enabled(RONDO_LOG_DEBUG)) /* strerror looks for a translation */
        rondo_log(RONDO_LOG_DEBUG, "%s: connection lost: %s", transport_name(t), strerror(-t->error));
    if (transport_protocol(t)->connection_lost != NULL)
        transport_protocol(t)->connection_lost(t, t->error);
    free_what_it_carries(t);
    flow_free(t);
    free_replaced_states(t);
    release(t->self);
    struct transport_owner *owner = t->owner;
    t->owner = NULL;
    if (owner != NULL) {
        owner->connections--;
        owner->lost(owner, t, t->error);
    }
}

/* Bytes sent that the peer's kernel has not acknowledged. */
static uint32_t unacknowledged(const rondo_transport *t)
{
    struct engine *engine = t->loop->engine;
    return (uint32_t)engine->sockets->unacknowledged(engine, t->fd);
}

/* Rounded up, so that a second is one; and not when the turn began, which may be long ago. */
static uint32_t exact_time_ms(const rondo_loop *loop)
{
    return (uint32_t)((engine_now_ns(loop->engine) + NS_PER_MS - 1) / NS_PER_MS);
}

/* All linger equally long, so who began first is due first, and one timer does for the shard. */
static void wait_lingering(rondo_transport *t)
{
    struct service *service = service_of(t->loop);
    t->unacknowledged = unacknowledged(t);
    t->since_ms = exact_time_ms(t->loop);
    list_remove(&t->in_service);
    list_push(&service->lingering, &t->in_service);
    if (!rondo_timer_is_running(&service->linger_timer))
        rondo_call_later(t->loop, &service->linger_timer, LINGER_MS, look_at_lingering);
}

static void linger(rondo_transport *t)
{
    send_half_close(t);
    wait_lingering(t);
    receive_discard(t);
}

/* A second is enough for who has the whole answer. A slow peer gets more, as long as it goes on taking it, with halts of
 * some seconds: what the kernel still holds of the answer would be lost with a reset. */
static void check_lingering(rondo_transport *t)
{
    uint32_t before = t->unacknowledged;
    wait_lingering(t);
    t->stalls = t->unacknowledged < before ? 0 : t->stalls + 1;
    if (t->unacknowledged > 0 && t->stalls < LINGER_STALLS)
        return;
    t->state = CLOSING;
    transport_mark(t);
}

static void look_at_lingering(rondo_timer *timer)
{
    struct service *service = rondo_container_of(timer, struct service, linger_timer);
    uint32_t now_ms = (uint32_t)rondo_time_ms(service->loop);
    while (!list_is_empty(&service->lingering)) {
        rondo_transport *t = rondo_container_of(service->lingering.next, rondo_transport, in_service);
        int32_t age_ms = (int32_t)(now_ms - t->since_ms); /* just looked at: maybe -1 */
        if (age_ms < LINGER_MS) {
            rondo_call_later(t->loop, timer, (uint64_t)(LINGER_MS - age_ms), look_at_lingering);
            return;
        }
        check_lingering(t);
    }
}

/* Pipes and children are few, and their close takes nobody's time. */
static void close_at_once(rondo_transport *t)
{
    if (t->next_marked != NULL)
        return; /* by its connection_lost: we come back */
    rondo_loop *loop = t->loop;
    engine_close_now(loop->engine, t->fd);
    free_transport(t);
    engine_stay_awake(loop->engine); /* it may have been the last that the loop was for */
}

static void close_arm(rondo_transport *t)
{
    engine_cancel(t->loop->engine, &t->receive);
    if (t->receive.in_kernel || t->send.in_kernel)
        return;
    if (t->reset && t->kind == STREAM)
        t->loop->engine->sockets->reset_at_close(t->loop->engine, t->fd);
    if (t->restores_blocking)
        fcntl(t->fd, F_SETFL, fcntl(t->fd, F_GETFL) & ~O_NONBLOCK);
    if (t->kind != STREAM && t->kind != DATAGRAMS) {
        close_at_once(t);
        return;
    }
    t->send.done = close_done;
    engine_close_fd(t->loop->engine, &t->send, t->fd);
    bool ends_the_loop = t->loop->shard == NULL || service_of(t->loop)->draining;
    if (ends_the_loop)
        engine_expect(t->loop->engine, &t->send);
}

static void close_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = rondo_container_of(op, rondo_transport, send);
    if (completion->result < 0)
        rondo_log(RONDO_LOG_ERROR, "close of descriptor %d: %s", t->fd, strerror(-completion->result));
    free_transport(t);
}

static void free_transport(rondo_transport *t)
{
    assert(t->state == CLOSING && !t->receive.in_kernel && !t->send.in_kernel);
    assert(byte_queue_is_empty(&t->output) && t->flow == NULL);
    assert(t->items == NULL && !t->has_message && t->watch == NULL && t->next_marked == NULL);
    list_remove(&t->in_service);
    struct service *service = service_of(t->loop);
    if (list_is_empty(&service->lingering))
        rondo_timer_cancel(&service->linger_timer);
    service->wide_count -= t->is_wide;
    t->loop->users--;
    free_state(t, t->self);
    memory_free(t);
}

/* ---- the protocol's state --------------------------------------------------------------------------------- */

static void release(struct protocol_state *self)
{
    if (self->protocol->_release != NULL)
        self->protocol->_release(self->protocol, self->state);
}

static struct later_state *later_state_of(struct protocol_state *self)
{
    return rondo_container_of(self, struct later_state, self);
}

static void free_state(rondo_transport *t, struct protocol_state *self)
{
    if (self != &t->first_state)
        memory_free(later_state_of(self));
}

/* The loop calls, so no callback of theirs is under way; and nothing of them is in the kernel. */
static void free_replaced_states(rondo_transport *t)
{
    struct protocol_state *self = t->self, *replaced;
    if (t->direct_replaced)
        return; /* the memory may be in one of them */
    while (self != &t->first_state && (replaced = later_state_of(self)->replaced) != NULL) {
        later_state_of(self)->replaced =
            replaced == &t->first_state ? NULL : later_state_of(replaced)->replaced;
        release(replaced);
        free_state(t, replaced);
    }
}

/* What the protocol has been given and not used, and what the kernel gives to it now, shall be the next one's. */
static bool hand_over(rondo_transport *t)
{
    rondo_bytes unused = { 0 };
    if (transport_protocol(t)->_unused != NULL)
        unused = transport_protocol(t)->_unused(transport_protocol(t), t->self->state);
    return receive_hand_over(t, unused);
}

int rondo_set_protocol(rondo_transport *t, const rondo_protocol *protocol)
{
    assert(loop_is_here(t->loop));
    struct later_state *later = memory_new(sizeof *later + protocol->size);
    bool has_memory = later != NULL && (t->lost || hand_over(t));
    if (!has_memory) {
        memory_free(later);
        return -ENOMEM;
    }
    later->replaced = t->self;
    later->self.t = t;
    later->self.protocol = protocol;
    t->self = &later->self;
    transport_mark(t);
    return 0;
}

/* ---- ends that come from outside ------------------------------------------------------------------------- */

void transport_fail(rondo_transport *t, int error)
{
    if (transport_is_ending(t))
        return;
    t->state = JOINING;
    t->error = (int16_t)error;
    t->error_waits = false;
    if (error < 0 && !transport_output_is_sent(t))
        t->reset = true; /* an EOF in order would tell the peer that it has got all */
    transport_mark(t);
}

void transport_cancel(rondo_transport *t)
{
    if (t->kind == PROCESS) {
        process_cancel(t);
        return;
    }
    t->reset = true;
    if (t->state == CLOSING)
        return; /* it is freed when the kernel says so, and may not be marked then */
    if (t->state == LINGERING)
        t->state = CLOSING;
    transport_fail(t, -ECANCELED);
    transport_mark(t);
}

void transport_drained(rondo_transport *t)
{
    if (transport_protocol(t)->drained != NULL)
        transport_protocol(t)->drained(t);
    else if (t->kind != PROCESS)
        rondo_close(t);
}

/* Bytes that had arrived when the server was told to stop are delivered, those that come later are not. DEFER_TASKRUN
 * makes that exact: between two system calls all that was taken from the socket has been dispatched. */
void transport_drain(rondo_transport *t)
{
    t->was_busy = t->state >= FLUSHING || !transport_output_is_sent(t) || producer_is_there(t);
    if (t->state == HALF_CLOSED)
        transport_drained(t);
    if (t->state != OPEN)
        return;
    t->draining = true;
    if (t->kind == DATAGRAMS) {
        datagrams_drain(t);
        return;
    }
    if (t->kind == WRITE_PIPE || t->kind == PROCESS) {
        transport_drained(t);
        return;
    }
    size_t unread = t->loop->engine->sockets->unread(t->loop->engine, t->fd) + receive_waiting_bytes(t);
    t->drain_bytes = unread < UINT32_MAX ? (uint32_t)unread : UINT32_MAX;
    t->was_busy |= t->drain_bytes > 0;
    if (t->drain_bytes > 0)
        return;
    /* A connection just made, by a client whose request is still on its way: it gets a moment more. */
    uint32_t age_ms = (uint32_t)rondo_time_ms(t->loop) - t->since_ms;
    if (t->kind != STREAM || t->heard || age_ms >= NEWCOMER_MS || !watch_make(t))
        transport_drained(t);
    else
        rondo_call_later(t->loop, &t->watch->timer, NEWCOMER_MS - age_ms, timer_expired);
}

static void look_after(rondo_transport *t)
{
    uint64_t timeout_ms = service_of(t->loop)->settings->idle_timeout_ms;
    uint64_t idle_ms = rondo_time_ms(t->loop) - t->watch->active_ms;
    if (timeout_ms > 0 && idle_ms >= timeout_ms) {
        t->reset = !transport_output_is_sent(t); /* what it doesn't read can't be delivered in order */
        transport_fail(t, -ETIMEDOUT);
        return;
    }
    if (t->end_unsure && idle_ms >= UNSURE_MS) {
        t->end_unsure = false;
        receive_look(t);
    }
    watch_start(t->watch);
}

static void timer_expired(rondo_timer *timer)
{
    rondo_transport *t = rondo_container_of(timer, struct watch, timer)->t;
    if (t->draining && !t->heard)
        transport_drained(t);
    else if (!transport_is_ending(t))
        look_after(t);
}

bool transport_may_keep(const rondo_transport *t, const struct byte_queue *queue)
{
    const struct buffers *buffers = &t->loop->engine->buffers;
    unsigned quota =
        buffers->count / (buffers->is_pieced ? 4 : 32); /* of one queue; and of all, half of the buffers */
    return queue->lent < (quota > 0 ? quota : 1) && buffers->lent <= buffers->count / 2;
}

/* ---- public calls ---------------------------------------------------------------------------------------- */

void rondo_close(rondo_transport *t)
{
    assert(loop_is_here(t->loop));
    if (rondo_is_closing(t))
        return;
    t->state = FLUSHING;
    transport_mark(t);
    if (t->kind == PROCESS)
        process_kill(t);
}

void rondo_abort(rondo_transport *t)
{
    assert(loop_is_here(t->loop));
    if (transport_is_ending(t))
        return;
    if (t->kind == PROCESS) {
        rondo_close(t);
        return;
    }
    t->reset = true;
    transport_fail(t, 0);
}

bool rondo_is_closing(const rondo_transport *t)
{
    assert(loop_is_here(t->loop));
    return t->state >= FLUSHING;
}

void *rondo_self(rondo_transport *t)
{
    return transport_protocol(t)->size == 0 ? NULL : t->self->state;
}

rondo_transport *rondo_transport_of(void *self)
{
    return rondo_container_of(self, struct protocol_state, state)->t;
}

const rondo_protocol *rondo_get_protocol(const rondo_transport *t)
{
    return transport_protocol(t);
}

rondo_loop *rondo_get_loop(rondo_transport *t)
{
    return t->loop;
}

void *rondo_shard(rondo_transport *t)
{
    return service_of(t->loop)->shard_state;
}
