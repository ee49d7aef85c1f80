/* The timing wheel: exact to the millisecond, in order, and against a plain list. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/timers.h"

TestSuite(timers, .timeout = 30);

enum { MANY = 500 };

struct shot {
    rondo_timer timer;
    uint64_t due_ms;
    unsigned id, runs;
    unsigned started; /* how many starts came before */
};

static struct timers timers;
static struct shot shots[MANY];
static unsigned order[10 * MANY], order_size, starts;
static void (*and_then)(struct shot *shot);

static void expired(rondo_timer *timer)
{
    struct shot *shot = rondo_container_of(timer, struct shot, timer);
    cr_assert(not(rondo_timer_is_running(timer)));
    shot->runs++;
    order[order_size++ % (10 * MANY)] = shot->id;
    if (and_then != NULL)
        and_then(shot);
}

static void start(unsigned id, uint64_t when_ms)
{
    shots[id].id = id;
    shots[id].due_ms = when_ms;
    shots[id].started = starts++;
    timers_start(&timers, &shots[id].timer, when_ms, expired);
    cr_assert(rondo_timer_is_running(&shots[id].timer));
}

static void ran(unsigned count, const unsigned *ids)
{
    cr_assert(eq(uint, order_size, count));
    for (unsigned i = 0; i < count; i++)
        cr_assert(eq(uint, order[i], ids[i]));
}

#define RAN(...) ran(sizeof((unsigned[]){ __VA_ARGS__ }) / sizeof(unsigned), (unsigned[]){ __VA_ARGS__ })

Test(timers, nothing_runs_when_nothing_was_started)
{
    timers_init(&timers, 1000);
    cr_assert(timers_are_empty(&timers));
    cr_assert(eq(u64, timers_next_ms(&timers), UINT64_MAX));
    timers_expire(&timers, 1000000);
    cr_assert(eq(uint, order_size, 0));
    cr_assert(eq(u64, timers.now_ms, 1000000));
}

Test(timers, each_delay_runs_exactly_when_it_is_due)
{
    static const uint64_t delays_ms[] = { 0,      1,       2,          62,        63,   64,   65,
                                          127,    128,     4095,       4096,      4097, 8191, 262143,
                                          262144, 262145,  16777215,   16777216,  5,    100,  100000,
                                          999999, 1 << 30, 1ull << 36, 1ull << 41 };
    static const uint64_t starts_ms[] = { 0, 1, 63, 64, 4095, 1000003, 16777215, 123456789012 };
    for (size_t s = 0; s < sizeof starts_ms / sizeof *starts_ms; s++) {
        for (size_t d = 0; d < sizeof delays_ms / sizeof *delays_ms; d++) {
            uint64_t due_ms = starts_ms[s] + delays_ms[d];
            timers_init(&timers, starts_ms[s]);
            shots[0] = (struct shot){ 0 };
            start(0, due_ms);
            cr_assert_leq(timers_next_ms(&timers), due_ms);
            if (delays_ms[d] > 0) {
                timers_expire(&timers, due_ms - 1);
                cr_assert(eq(uint, shots[0].runs, 0), "never early: %lu + %lu", starts_ms[s], delays_ms[d]);
                cr_assert(eq(u64, timers_next_ms(&timers), due_ms));
            }
            timers_expire(&timers, due_ms);
            cr_assert(eq(uint, shots[0].runs, 1), "%lu + %lu", starts_ms[s], delays_ms[d]);
            cr_assert(timers_are_empty(&timers));
        }
    }
}

Test(timers, a_loop_that_sleeps_until_next_ms_gets_there)
{
    timers_init(&timers, 77);
    start(0, 77 + 1000000);
    unsigned wakes = 0;
    while (shots[0].runs == 0) {
        timers_expire(&timers, timers_next_ms(&timers));
        wakes++;
    }
    cr_assert(eq(u64, timers.now_ms, 77 + 1000000));
    cr_assert_leq(wakes, TIMERS_LEVELS);
}

Test(timers, those_of_one_millisecond_run_in_the_order_in_which_they_were_started)
{
    timers_init(&timers, 0);
    start(0, 5000); /* far away: in a high level */
    timers_expire(&timers, 4000);
    start(1, 5000);
    timers_expire(&timers, 4990);
    start(2, 5000); /* near: in the lowest */
    start(3, 4999);
    timers_expire(&timers, 6000);
    RAN(3, 0, 1, 2);
}

Test(timers, late_ones_run_in_the_order_of_their_times)
{
    timers_init(&timers, 0);
    start(0, 300);
    start(1, 20);
    start(2, 5000);
    start(3, 1);
    timers_expire(&timers, 100000);
    RAN(3, 1, 0, 2);
}

Test(timers, a_cancelled_timer_does_not_run_and_leaves_nothing_behind)
{
    timers_init(&timers, 0);
    for (unsigned i = 0; i < 5; i++)
        start(i, 100);
    rondo_timer_cancel(&shots[0].timer);
    rondo_timer_cancel(&shots[2].timer);
    rondo_timer_cancel(&shots[4].timer);
    rondo_timer_cancel(&shots[4].timer);
    cr_assert(not(rondo_timer_is_running(&shots[4].timer)));
    timers_expire(&timers, 100);
    RAN(1, 3);

    start(5, 10000);
    rondo_timer_cancel(&shots[5].timer);
    cr_assert(timers_are_empty(&timers), "or the loop would wake up for it");
}

static void cancel_neighbours(struct shot *shot)
{
    if (shot->id == 2) {
        rondo_timer_cancel(&shots[1].timer); /* it has run */
        rondo_timer_cancel(&shots[3].timer); /* it is next */
        rondo_timer_cancel(&shots[2].timer); /* itself */
        start(6, 100);                       /* for now: with the next call */
    }
}

Test(timers, a_timer_may_cancel_others_that_are_due_with_it)
{
    timers_init(&timers, 0);
    for (unsigned i = 1; i < 5; i++)
        start(i, 100);
    and_then = cancel_neighbours;
    timers_expire(&timers, 100);
    RAN(1, 2, 4);
    cr_assert(not(rondo_timer_is_running(&shots[3].timer)));
    timers_expire(&timers, 100);
    RAN(1, 2, 4, 6);
}

static void start_again(struct shot *shot)
{
    start(shot->id, timers.now_ms);
}

Test(timers, a_timer_that_restarts_itself_for_now_waits_for_the_next_call)
{
    timers_init(&timers, 0);
    and_then = start_again;
    start(0, 10);
    for (unsigned call = 1; call <= 5; call++) {
        timers_expire(&timers, 10);
        cr_assert(eq(uint, shots[0].runs, call));
    }
}

static void move_others(struct shot *shot)
{
    if (shot->id == 1) {
        start(2, 100);  /* was next, is last */
        start(3, 5000); /* was due */
        start(4, 100);  /* was far away */
    }
}

Test(timers, a_timer_may_move_others)
{
    timers_init(&timers, 0);
    start(1, 99);
    start(2, 99);
    start(3, 99);
    start(5, 100);
    start(4, 5000);
    and_then = move_others;
    timers_expire(&timers, 100);
    RAN(1, 5, 2, 4);
    timers_expire(&timers, 5000);
    RAN(1, 5, 2, 4, 3);
}

Test(timers, a_time_that_has_passed_is_now)
{
    timers_init(&timers, 1000);
    start(1, 1000);
    start(0, 10);
    cr_assert(eq(u64, timers_next_ms(&timers), 1000));
    timers_expire(&timers, 1000);
    RAN(1, 0);
}

Test(timers, starting_a_running_timer_moves_it)
{
    timers_init(&timers, 0);
    start(0, 10);
    start(0, 5000);
    start(1, 20);
    timers_expire(&timers, 4999);
    RAN(1);
    start(0, 4999);
    timers_expire(&timers, 5000);
    RAN(1, 0);
    cr_assert(timers_are_empty(&timers));
}

Test(timers, for_ever_is_very_long)
{
    timers_init(&timers, 1000);
    start(0, UINT64_MAX);
    start(1, UINT64_MAX - 1);
    rondo_timer_cancel(&shots[1].timer);
    timers_expire(&timers, 1000ull * 60 * 60 * 24 * 365 * 100);
    cr_assert(eq(uint, order_size, 0));
    rondo_timer_cancel(&shots[0].timer);
    cr_assert(timers_are_empty(&timers));
}

static unsigned seed = 20261120;

static uint64_t random_delay_ms(void)
{
    return (uint64_t)rand_r(&seed) >> (rand_r(&seed) % 31);
}

/* One that several timers share. */
static uint64_t random_round_time_ms(uint64_t now_ms)
{
    uint64_t round_ms = UINT64_C(1) << (rand_r(&seed) % 20);
    return (now_ms / round_ms + 1 + (unsigned)rand_r(&seed) % 3) * round_ms;
}

/* Against the plain way: look at all of them. */
Test(timers, random_starts_and_cancels_agree_with_a_plain_list)
{
    uint64_t now_ms = 1000;
    timers_init(&timers, now_ms);
    for (unsigned step = 0; step < 100000; step++) {
        unsigned id = (unsigned)rand_r(&seed) % MANY;
        switch (rand_r(&seed) % 4) {
        case 0:
        case 1:
            start(id, rand_r(&seed) % 2 == 0 ? now_ms + random_delay_ms() : random_round_time_ms(now_ms));
            break;
        case 2:
            rondo_timer_cancel(&shots[id].timer);
            shots[id].due_ms = 0;
            break;
        default:
            now_ms += random_delay_ms() % 100000;
            order_size = 0;
            for (unsigned i = 0; i < MANY; i++)
                shots[i].runs = 0;
            timers_expire(&timers, now_ms);
            for (unsigned i = 1; i < order_size; i++) {
                const struct shot *one = &shots[order[i - 1]], *next = &shots[order[i]];
                cr_assert(one->due_ms < next->due_ms ||
                              (one->due_ms == next->due_ms && one->started < next->started),
                          "in the order of their times, then of their starts");
            }
            for (unsigned i = 0; i < MANY; i++) {
                bool due = shots[i].due_ms != 0 && shots[i].due_ms <= now_ms;
                cr_assert(eq(uint, shots[i].runs, due), "timer %u, due %lu, at %lu", i, shots[i].due_ms,
                          now_ms);
                if (due)
                    shots[i].due_ms = 0;
            }
            break;
        }
        uint64_t first_ms = UINT64_MAX;
        for (unsigned i = 0; i < MANY && step % 64 == 0; i++) {
            if (shots[i].due_ms != 0 && shots[i].due_ms < first_ms)
                first_ms = shots[i].due_ms;
        }
        cr_assert(step % 64 != 0 || timers_next_ms(&timers) <= first_ms, "never later than the first");
    }
}
