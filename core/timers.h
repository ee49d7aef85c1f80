/* Timers: a hierarchical wheel of one-millisecond ticks. Starting and cancelling is O(1) and allocates nothing.
 *
 * A time is read as digits of six bits. A timer lies in the level of the highest digit in which its time differs
 * from now, in the slot of that digit: level 0 holds those of the current 64 ms, level 1 those of the current
 * 4096 ms, and so on. When now enters a slot of a higher level, its timers move down, in order; so those of one
 * millisecond expire in the order in which they were started. A bitmap for each level finds the next busy slot.
 *
 * Thread: the shard's. */
#ifndef RONDO_CORE_TIMERS_H
#define RONDO_CORE_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

#include <rondo/bytes.h>
#include <rondo/loop.h>

#define TIMERS_SLOT_BITS 6
#define TIMERS_SLOTS     (1u << TIMERS_SLOT_BITS)
#define TIMERS_LEVELS    7 /* 64^7 ms: 139 years; who asks for more gets that */

struct timers {
    uint64_t now_ms; /* all timers due until here have run */
    uint64_t busy[TIMERS_LEVELS];
    struct rondo_link slots[TIMERS_LEVELS * TIMERS_SLOTS];
};

void timers_init(struct timers *timers, uint64_t now_ms);

/* Start, or move, a timer. One that is due already expires with the next timers_expire. */
void timers_start(struct timers *timers, rondo_timer *timer, uint64_t when_ms,
                  void (*expired)(rondo_timer *timer));

/* Are there none? Asked in every turn. */
static inline bool timers_are_empty(const struct timers *timers)
{
    uint64_t busy = 0;
    for (unsigned level = 0; level < TIMERS_LEVELS; level++)
        busy |= timers->busy[level];
    return busy == 0;
}

/* When timers_expire is next worth calling: never later than the first timer is due; UINT64_MAX without any. */
uint64_t timers_next_ms(const struct timers *timers);

/* Run all that is due at now_ms, in the order of their times. What they start for now_ms
 * while those of now_ms run waits for the next call, so a timer that restarts itself with a delay of 0 doesn't
 * starve the loop. */
void timers_expire(struct timers *timers, uint64_t now_ms);

#endif
