/* The loop of a shard.    asyncio: the event loop
 *
 * A shard is one thread with one loop; all callbacks of its connections run there, one after another, so a
 * protocol needs no locks. Calls and timers are intrusive: their memory is yours, usually inside the
 * connection's own state (rondo_self), and nothing is allocated.
 *
 * Thread: the loop's own, but for rondo_post and rondo_stop. */
#ifndef RONDO_LOOP_H
#define RONDO_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

typedef struct rondo_loop rondo_loop;

/* A place in a list; not yours to touch. Zeroed: in none. */
struct rondo_link {
    struct rondo_link *next, *previous;
};

/* A function to be called by a loop once. Zeroed before its first use; yours again when it runs. */
typedef struct rondo_call {
    struct rondo_link _link;
    void (*_run)(struct rondo_call *call);
} rondo_call;

/* Run `run(call)` on this loop's next turn.    asyncio: call_soon
 *
 * In the order of the calls, each exactly once. What a call adds runs a turn later, so the loop always gets to
 * its connections in between. `call` must not be waiting already (asserted). It stays in use until it runs
 * or is cancelled: cancel it before you free what holds it, in connection_lost at the latest. */
void rondo_call_soon(rondo_loop *loop, rondo_call *call, void (*run)(rondo_call *call));

/* Take back a call_soon that did not run yet; without one it does nothing.    asyncio: Handle.cancel
 * A posted call can't be taken back. */
void rondo_call_cancel(rondo_call *call);

/* Run `run(call)` on another thread's loop.    asyncio: call_soon_threadsafe; Twisted: callFromThread
 *
 * Calls posted by one thread run in their order. `call` belongs to the loop until it runs.
 * Returns 0, or -ESHUTDOWN when the loop has ended: then it never runs, and is yours at once.
 * Thread: any. The loop's memory lives until rondo_run returns. */
int rondo_post(rondo_loop *loop, rondo_call *call, void (*run)(rondo_call *call));

/* Stop the whole server of which this loop is a shard, as the first SIGTERM does: drain, then end.
 * Twisted: reactor.stop. Idempotent; rondo_run returns when all connections are gone, or at the drain timeout.
 * Thread: any. */
void rondo_stop(rondo_loop *loop);

/* This loop's clock: milliseconds of CLOCK_MONOTONIC, the same all through a turn.    asyncio: loop.time */
uint64_t rondo_time_ms(const rondo_loop *loop);

/* Which shard this is, from 0. */
unsigned rondo_shard_index(const rondo_loop *loop);

/* A shot in the future. Zeroed before its first use. */
typedef struct rondo_timer {
    struct rondo_link _link;
    struct timers *_timers;
    uint64_t _when_ms;
    unsigned _slot;
    void (*_expired)(struct rondo_timer *timer);
} rondo_timer;

/* Run `expired(timer)` when `delay_ms` milliseconds have passed, never before.    asyncio: call_later
 *
 * A running timer is moved to the new time. O(1), no allocation. Timers due in the same millisecond run in
 * the order in which they were started. The memory stays in use until the timer expires or is cancelled:
 * cancel it before you free what holds it, in connection_lost at the latest. */
void rondo_call_later(rondo_loop *loop, rondo_timer *timer, uint64_t delay_ms,
                      void (*expired)(rondo_timer *timer));

/* Stop a timer; one that isn't running is left as it is.    asyncio: TimerHandle.cancel */
void rondo_timer_cancel(rondo_timer *timer);

/* True from rondo_call_later until the timer expires or is cancelled. */
bool rondo_timer_is_running(const rondo_timer *timer);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
