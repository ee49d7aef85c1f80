/* The simulated engine: sockets in memory, and a clock that moves only when it is told to. The floors above run on it
 * unchanged, for tests: of rondo's own, and of its users (<rondo/testing.h>).
 *
 * As with io_uring on DEFER_TASKRUN, everything happens inside engine_wait and engine_submit, and is told by
 * engine_dispatch: nothing is taken from a socket while callbacks run. With a seed, whatever a kernel may do it does: see struct simulated_moods.
 * What it holds is the kernel's: memory to be received into is spoilt until the completion, and bytes being sent must
 * be the same at the completion as when they were handed over. Who breaks such a rule is reported by
 * simulated_violation.
 *
 * It takes its own memory from the C library, so that a test can make the shard's run out (core/memory.h).
 *
 * Open one by engine_open("simulated", …). Thread: the engine's. */
#ifndef RONDO_CORE_SIMULATED_H
#define RONDO_CORE_SIMULATED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/engine.h"
#include "core/memory_sockets.h"

/* How often, in percent, it does what a kernel need not do, but may. All zero: the friendliest of all kernels, which
 * does the same each time. */
struct simulated_moods {
    uint64_t seed;
    uint8_t partial_sends;    /* fewer bytes than there was room for */
    uint8_t refused_sends;    /* -EAGAIN, where no wait was asked for, in spite of room */
    uint8_t short_receives;   /* fewer bytes than there were */
    uint8_t short_reads;      /* of files */
    uint8_t ended_multishots; /* after any buffer */
    uint8_t forgotten_ends;   /* an EOF right behind bytes that a multishot receive brings */
    uint8_t shortages;        /* no buffer is free, at that moment */
    uint8_t early_shortages;  /* found by a receive when it is issued, before anything arrives */
    uint8_t empty_buffers;    /* a buffer comes with an EOF */
    uint8_t interruptions;    /* -EINTR */
    uint8_t late_cancels;     /* the operation was faster */
    uint8_t delays;           /* what could happen happens in a later turn */
    uint8_t portions;         /* of its completions some are handed out after another submission */
    uint8_t lost_unread;      /* a reset destroys what has arrived and was not read */
    bool any_order;           /* of the completions of different operations */
};

/* All of them, often. */
extern const struct simulated_moods simulated_wild;

struct engine *simulated_open(const struct engine_size *size, int wake_fd, int *error,
                              char why[ENGINE_WHY_BYTES]);

void simulated_set_moods(struct engine *engine, const struct simulated_moods *moods);

/* Move the clock. It stands at an arbitrary time when the engine is opened. */
void simulated_advance(struct engine *engine, uint64_t ns);

/* From now on a wait with a time-out, in which nothing happens, lasts as long as it would: the clock moves on by
 * itself, so loop_run comes to its end. A wait for ever, with nothing to wait for, returns -EDEADLK in any case. */
void simulated_let_time_pass(struct engine *engine);

/* Is nothing to be done: another wait would find nothing, unless a socket, or the clock, is moved? */
bool simulated_is_idle(const struct engine *engine);

/* The first rule that was broken, in a sentence; or NULL. */
const char *simulated_violation(const struct engine *engine);

/* The sockets, for tests to play the other end, by the calls of core/memory_sockets.h. */
struct memory_sockets *simulated_sockets(struct engine *engine);

/* Two connected ends, of AF_INET or AF_UNIX. Returns 0 or -ENOMEM. */
int simulated_connect(struct engine *engine, int family, int fds[2]);

/* A listening socket, and a client that comes to it: the client's end. Negative: -ENOMEM. */
int simulated_listen(struct engine *engine);
int simulated_come(struct engine *engine, int listener);

/* A random number below `bound`, of the moods' generator. */
uint32_t simulated_random(struct engine *engine, uint32_t bound);

#endif
