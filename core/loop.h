/* The shard's loop, as core/ and net/ see it; <rondo/loop.h> has what users see. */
#ifndef RONDO_CORE_LOOP_H
#define RONDO_CORE_LOOP_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <rondo/bytes.h>
#include <rondo/loop.h>

#include "core/engine.h"
#include "core/timers.h"

/* What SIGUSR1 shows, beside what the engine and the loop count themselves. */
struct traffic {
    uint64_t connections_open, connections_accepted, connections_lost;
    uint64_t bytes_in, bytes_out;
    uint64_t bytes_copied; /* from one place of ours to another, on their way in or out */
};

/* What became of the connections that were there when the drain began, or came later. */
struct drained {
    unsigned idle;    /* nothing was under way: closed */
    unsigned busy;    /* came to their orderly end */
    unsigned aborted; /* did not */
    unsigned late;    /* of all these, those that were accepted during the drain */
};

struct rondo_loop {
    struct engine *engine;
    void *upstairs;  /* what the floor above keeps for this shard: transports look there all the time */
    uint64_t now_ns; /* CLOCK_MONOTONIC of this turn; 0 until somebody asks for it */

    struct rondo_link
        flush; /* calls to make before the next system call: transports with something to say to it */
    struct rondo_link soon;
    _Atomic(rondo_call *) mailbox; /* newest first; closed_mailbox when the loop has ended */
    atomic_uint posting;           /* threads inside rondo_post */
    int wake_fd;

    bool is_behind; /* in this turn: the kernel may have taken from sockets what is told in the next one */
    unsigned users; /* what keeps the loop going: listeners, transports, and the shard until it drains */
    uint64_t turns;
    struct traffic traffic;

    struct rondo_link jobs;        /* of helper threads, that users have asked for */
    struct tasks *tasks;           /* NULL: there has been none */
    bool is_draining, is_aborting; /* tasks that nobody answers for, or all, are cancelled */

    struct drained drained;
    unsigned index;                 /* of the shard */
    struct shard *shard;            /* NULL for a loop without one, in tests */
    void (*stop)(rondo_loop *loop); /* what rondo_stop does there */

    struct timers timers; /* last: it is large, and what every turn looks at lies together */
};

/* Prepare a loop in the caller's memory. Thread: the one that will run it, as for all of these.
 * Returns 0, or a negative errno with a sentence in `why`. */
int loop_open(rondo_loop *loop, const char *engine_name, const struct engine_size *size,
              char why[ENGINE_WHY_BYTES]);

/* Turn until nothing uses the loop any more.
 * Returns 0, or a negative errno when its engine is beyond use. */
int loop_run(rondo_loop *loop);

/* One turn, at most `timeout_ns` long, for tests that step. Returns as loop_run. */
int loop_turn(rondo_loop *loop, uint64_t timeout_ns);

/* After loop_run: refuse further posts, and make the calls that were posted in time. */
void loop_refuse_posts(rondo_loop *loop);

/* That, and close the engine. The wake descriptor and the loop's memory stay until loop_free: other threads may be
 * posting. */
void loop_close(rondo_loop *loop);

void loop_free(rondo_loop *loop);

/* Make `call` before the next system call. Does nothing when it waits already. */
static inline void loop_flush(rondo_loop *loop, rondo_call *call, void (*run)(rondo_call *call));

/* True on the thread that runs this loop: what every call that isn't for other threads asserts. */
bool loop_is_here(const rondo_loop *loop);

#include "core/list.h"

static inline void loop_flush(rondo_loop *loop, rondo_call *call, void (*run)(rondo_call *call))
{
    if (list_contains_link(&call->_link))
        return;
    call->_run = run;
    list_push(&loop->flush, &call->_link);
}

#endif
