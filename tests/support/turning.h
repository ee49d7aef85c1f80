/* For tests that turn a world's loop themselves: `world` is theirs. */
#ifndef TESTS_SUPPORT_TURNING_H
#define TESTS_SUPPORT_TURNING_H

#include <criterion/criterion.h>
#include <stdint.h>
#include <time.h>

#include "support/pair.h"

static inline uint64_t turning_clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static inline void turn_for(struct world *world, unsigned ms)
{
    cr_assert_eq(loop_turn(&world->loop, ms * UINT64_C(1000000)), 0);
}

static inline void turn_some(struct world *world)
{
    for (unsigned i = 0; i < 8; i++)
        turn_for(world, 0);
}

#define RUN_UNTIL(condition)                                                                                 \
    for (uint64_t begin_ms = turning_clock_ms(); !(condition); turn_for(&world, 20))                         \
    cr_assert_lt(turning_clock_ms() - begin_ms, 20000, "in vain: %s", #condition)

#endif
