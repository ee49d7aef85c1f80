#include "core/loop.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NS_PER_MS 1000000

static void make_flush_calls(rondo_loop *loop);
static uint64_t time_to_wait_ns(rondo_loop *loop);
static void make_soon_calls(rondo_loop *loop);
static void dispatch(rondo_loop *loop);
static bool has_posted_calls(const rondo_loop *loop);
static void take_posted_calls(rondo_loop *loop, rondo_call *closed);

/* The main loop: a shard's whole life. */
int loop_run(rondo_loop *loop)
{
    int rc = 0;
    while (rc == 0 && loop->users > 0)
        rc = loop_turn(loop, ENGINE_FOREVER);
    return rc;
}

int loop_turn(rondo_loop *loop, uint64_t timeout_ns)
{
    make_flush_calls(loop); /* each transport with new output prepares one send */
    uint64_t wait_ns = time_to_wait_ns(loop);
    int rc = engine_wait(loop->engine, wait_ns < timeout_ns ? wait_ns : timeout_ns); /* the system call */
    if (rc < 0)
        return rc;
    loop->turns++;
    loop->now_ns = 0;
    dispatch(loop); /* completions call protocols, which write, close, start timers */
    if (!timers_are_empty(&loop->timers))
        timers_expire(&loop->timers, rondo_time_ms(loop));
    if (!loop->is_behind && has_posted_calls(loop))
        take_posted_calls(loop, NULL);
    make_soon_calls(loop);
    return 0;
}

/* Large turns in portions: what the first ones led to is submitted while the others wait. What was posted finds all that
 * was taken from a socket dispatched (a drain counts on that), so portions end when it comes, and it waits for a turn
 * without. */
static void dispatch(rondo_loop *loop)
{
    loop->is_behind = false;
    while (!engine_dispatch(loop->engine)) {
        if (has_posted_calls(loop))
            continue;
        make_flush_calls(loop);
        engine_submit(loop->engine);
        loop->is_behind = true;
    }
}

/* ---- time ----------------------------------------------------------------------------------------------- */

static uint64_t read_clock(rondo_loop *loop)
{
    return loop->now_ns = engine_now_ns(loop->engine);
}

/* Most turns of an echo need no clock, and reading it after a sleep costs some 30 ns. */
uint64_t rondo_time_ms(const rondo_loop *loop)
{
    return (loop->now_ns != 0 ? loop->now_ns : read_clock((rondo_loop *)loop)) / NS_PER_MS;
}

static uint64_t time_to_wait_ns(rondo_loop *loop)
{
    if (!list_is_empty(&loop->soon) || has_posted_calls(loop))
        return 0;
    if (timers_are_empty(&loop->timers))
        return ENGINE_FOREVER;
    uint64_t next_ns = timers_next_ms(&loop->timers) * NS_PER_MS;
    uint64_t now_ns = read_clock(loop); /* callbacks took their time */
    return next_ns > now_ns ? next_ns - now_ns : 0;
}

void rondo_call_later(rondo_loop *loop, rondo_timer *timer, uint64_t delay_ms,
                      void (*expired)(rondo_timer *timer))
{
    assert(loop_is_here(loop));
    /* From now, not from the turn's beginning, and the next millisecond up: a timer must not come before its time. */
    uint64_t start_ms =
        delay_ms == 0 ? rondo_time_ms(loop) : (engine_now_ns(loop->engine) + NS_PER_MS - 1) / NS_PER_MS;
    uint64_t when_ms = delay_ms < UINT64_MAX - start_ms ? start_ms + delay_ms : UINT64_MAX;
    timers_start(&loop->timers, timer, when_ms, expired);
}

/* ---- calls ---------------------------------------------------------------------------------------------- */

static void make_call(struct rondo_link *link)
{
    rondo_call *call = rondo_container_of(link, rondo_call, _link);
    call->_run(call); /* last: the call may be gone, or waiting again */
}

/* All, also those that these add: a transport that ends may wake another one. Each does so once, so it ends. */
static void make_flush_calls(rondo_loop *loop)
{
    for (struct rondo_link *link; (link = list_pop(&loop->flush)) != NULL;)
        make_call(link);
}

/* Those that wait now; what they add runs next turn. */
static void make_soon_calls(rondo_loop *loop)
{
    struct rondo_link due;
    list_init(&due);
    list_move_all(&loop->soon, &due);
    for (struct rondo_link *link; (link = list_pop(&due)) != NULL;)
        make_call(link);
}

void rondo_call_soon(rondo_loop *loop, rondo_call *call, void (*run)(rondo_call *call))
{
    assert(loop_is_here(loop));
    call->_run = run;
    list_push(&loop->soon, &call->_link);
}

void rondo_call_cancel(rondo_call *call)
{
    if (call->_link.previous != NULL) /* in the mailbox it is chained by next only */
        list_remove(&call->_link);
}

/* ---- the mailbox: the one place where threads meet ------------------------------------------------------- */

static rondo_call closed_mailbox;

/* Not by write(2): that is a cancellation point, and a thread cancelled in it would count as posting for ever. */
static void wake(const rondo_loop *loop)
{
    const uint64_t one = 1;
    syscall(SYS_write, loop->wake_fd, &one, sizeof one);
}

static int put_into_mailbox(rondo_loop *loop, rondo_call *call)
{
    rondo_call *newest = atomic_load_explicit(&loop->mailbox, memory_order_relaxed);
    do {
        if (newest == &closed_mailbox)
            return -ESHUTDOWN;
        call->_link.next = newest == NULL ? NULL : &newest->_link;
    } while (!atomic_compare_exchange_weak_explicit(&loop->mailbox, &newest, call, memory_order_release,
                                                    memory_order_relaxed));
    if (newest == NULL) /* else whoever posted first has woken it, and it has not looked yet */
        wake(loop);
    return 0;
}

int rondo_post(rondo_loop *loop, rondo_call *call, void (*run)(rondo_call *call))
{
    call->_run = run;
    atomic_fetch_add_explicit(&loop->posting, 1, memory_order_relaxed);
    int rc = put_into_mailbox(loop, call);
    atomic_fetch_sub_explicit(&loop->posting, 1, memory_order_release);
    return rc;
}

static bool has_posted_calls(const rondo_loop *loop)
{
    return atomic_load_explicit(&loop->mailbox, memory_order_relaxed) != NULL;
}

/* Move what was posted, oldest first, to the calls of this turn. */
static void take_posted_calls(rondo_loop *loop, rondo_call *closed)
{
    rondo_call *call = atomic_exchange_explicit(&loop->mailbox, closed, memory_order_acquire);
    struct rondo_link *oldest = NULL;
    while (call != NULL) {
        struct rondo_link *link = &call->_link, *older = link->next;
        link->next = oldest;
        oldest = link;
        call = older == NULL ? NULL : rondo_container_of(older, rondo_call, _link);
    }
    while (oldest != NULL) {
        struct rondo_link *link = oldest;
        oldest = link->next;
        link->next = NULL;
        list_push(&loop->soon, link);
    }
}

/* ---- opening and closing -------------------------------------------------------------------------------- */

static _Thread_local const rondo_loop *loop_here;

bool loop_is_here(const rondo_loop *loop)
{
    return loop == loop_here;
}

unsigned rondo_shard_index(const rondo_loop *loop)
{
    return loop->index;
}

static int begin(rondo_loop *loop)
{
    loop_here = loop;
    timers_init(&loop->timers, rondo_time_ms(loop));
    return 0;
}

int loop_open(rondo_loop *loop, const char *engine_name, const struct engine_size *size,
              char why[ENGINE_WHY_BYTES])
{
    int error = 0;
    list_init(&loop->flush);
    list_init(&loop->soon);
    list_init(&loop->jobs);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (loop->wake_fd < 0) {
        error = -errno;
        snprintf(why, ENGINE_WHY_BYTES, "eventfd: %s: raise the limit of descriptors (ulimit -n)",
                 strerror(-error));
        return error;
    }
    loop->engine = engine_open(engine_name, size, loop->wake_fd, &error, why);
    return loop->engine != NULL ? begin(loop) : error;
}

void loop_refuse_posts(rondo_loop *loop)
{
    if (atomic_load_explicit(&loop->mailbox, memory_order_relaxed) == &closed_mailbox)
        return;
    take_posted_calls(loop, &closed_mailbox);
    make_soon_calls(loop);
}

void loop_close(rondo_loop *loop)
{
    loop_refuse_posts(loop);
    assert(loop->tasks == NULL);
    engine_close(loop->engine);
    loop->engine = NULL;
    loop_here = NULL;
}

void loop_free(rondo_loop *loop)
{
    assert(loop->engine == NULL);
    /* A call may have run before its poster, who wakes the loop last, has come back. */
    while (atomic_load_explicit(&loop->posting, memory_order_acquire) > 0)
        sched_yield();
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
}
