#include "core/timers.h"

#include "core/list.h"

#define DIGIT_MASK  (TIMERS_SLOTS - 1)
#define FURTHEST_MS ((UINT64_C(1) << (TIMERS_SLOT_BITS * TIMERS_LEVELS)) - 1)
#define BIT(digit)  (UINT64_C(1) << (digit))

static unsigned digit_of(uint64_t ms, unsigned level)
{
    return (unsigned)(ms >> (level * TIMERS_SLOT_BITS)) & DIGIT_MASK;
}

void timers_init(struct timers *timers, uint64_t now_ms)
{
    *timers = (struct timers){ .now_ms = now_ms };
    for (unsigned i = 0; i < TIMERS_LEVELS * TIMERS_SLOTS; i++)
        list_init(&timers->slots[i]);
}

static void insert(struct timers *timers, rondo_timer *timer)
{
    uint64_t differing = timer->_when_ms ^ timers->now_ms;
    unsigned level = differing == 0 ? 0 : (63 - (unsigned)__builtin_clzll(differing)) / TIMERS_SLOT_BITS;
    unsigned digit = digit_of(timer->_when_ms, level);

    timer->_slot = level * TIMERS_SLOTS + digit;
    list_push(&timers->slots[timer->_slot], &timer->_link);
    timers->busy[level] |= BIT(digit);
}

static void leave(struct timers *timers, rondo_timer *timer)
{
    list_remove(&timer->_link);
    if (list_is_empty(&timers->slots[timer->_slot]))
        timers->busy[timer->_slot / TIMERS_SLOTS] &= ~BIT(timer->_slot & DIGIT_MASK);
}

void timers_start(struct timers *timers, rondo_timer *timer, uint64_t when_ms,
                  void (*expired)(rondo_timer *timer))
{
    if (rondo_timer_is_running(timer))
        leave(timer->_timers, timer);
    /* Within the same 64^7 ms as now, so that the highest differing digit is one of ours. */
    uint64_t last_ms = timers->now_ms | FURTHEST_MS;
    timer->_timers = timers;
    timer->_when_ms = when_ms < timers->now_ms ? timers->now_ms : when_ms > last_ms ? last_ms : when_ms;
    timer->_expired = expired;
    insert(timers, timer);
}

void rondo_timer_cancel(rondo_timer *timer)
{
    if (rondo_timer_is_running(timer))
        leave(timer->_timers, timer);
}

bool rondo_timer_is_running(const rondo_timer *timer)
{
    return list_contains_link(&timer->_link);
}

/* The first busy slot at or after now: its level and when it begins. Lower levels come first, and within a level
 * digits below now's are empty. */
static uint64_t next_slot(const struct timers *timers, unsigned *level)
{
    for (*level = 0; *level < TIMERS_LEVELS; (*level)++) {
        unsigned shift = *level * TIMERS_SLOT_BITS;
        uint64_t busy = timers->busy[*level];
        if (busy != 0) {
            uint64_t digit = (unsigned)__builtin_ctzll(busy);
            uint64_t above = timers->now_ms >> shift >> TIMERS_SLOT_BITS;
            return (above << TIMERS_SLOT_BITS | digit) << shift;
        }
    }
    return UINT64_MAX;
}

uint64_t timers_next_ms(const struct timers *timers)
{
    unsigned level;
    return next_slot(timers, &level);
}

/* Take the timers of a slot out of the wheel. They stay linked, so that one can still cancel another. */
static void take_slot(struct timers *timers, unsigned level, unsigned digit, struct rondo_link *taken)
{
    list_init(taken);
    list_move_all(&timers->slots[level * TIMERS_SLOTS + digit], taken);
    timers->busy[level] &= ~BIT(digit);
}

static void move_down(struct timers *timers, struct rondo_link *taken)
{
    for (struct rondo_link *link; (link = list_pop(taken)) != NULL;)
        insert(timers, rondo_container_of(link, rondo_timer, _link));
}

static void run(struct rondo_link *taken)
{
    for (struct rondo_link *link; (link = list_pop(taken)) != NULL;) {
        rondo_timer *timer = rondo_container_of(link, rondo_timer, _link);
        timer->_expired(timer); /* last: the timer may be gone, or running again */
    }
}

void timers_expire(struct timers *timers, uint64_t now_ms)
{
    unsigned level;
    uint64_t slot_ms;
    while ((slot_ms = next_slot(timers, &level)) <= now_ms) {
        struct rondo_link taken;
        timers->now_ms = slot_ms;
        take_slot(timers, level, digit_of(slot_ms, level), &taken);
        if (level > 0) {
            move_down(timers, &taken);
            continue;
        }
        run(&taken);
        if (slot_ms == now_ms)
            return; /* what was started for now meanwhile waits for the next call */
    }
    timers->now_ms = now_ms;
}
