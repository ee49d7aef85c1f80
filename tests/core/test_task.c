/* Tasks: sleeping, joining, time limits, events; being cancelled; what a draining and an aborting shard does with them.
 * On the simulated engine, whose clock the test moves. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core/list.h"
#include "core/loop.h"
#include "core/simulated.h"
#include "core/task.h"

TestSuite(task, .timeout = 30);

static const struct engine_size tiny = { 8, 16, 16, 1024, 0, 0, 0, 0 };

static rondo_loop loop;
static char said[1000];

static void say(const char *what)
{
    size_t size = strlen(said);
    snprintf(said + size, sizeof said - size, "%s%s", size > 0 ? " " : "", what);
}

static void setup(void)
{
    char why[ENGINE_WHY_BYTES] = "";
    cr_assert_eq(loop_open(&loop, "simulated", &tiny, why), 0, "%s", why);
}

static void turn(unsigned turns)
{
    for (unsigned i = 0; i < turns; i++)
        cr_assert(zero(int, loop_turn(&loop, 0)));
}

static void pass(uint64_t ms)
{
    simulated_advance(loop.engine, ms * UINT64_C(1000000));
    turn(5);
}

/* The books balance: all that used the loop has let go of it. */
static void teardown(void)
{
    cr_assert(zero(uint, tasks_count(&loop)));
    cr_assert(zero(uint, loop.users));
    cr_assert(list_is_empty(&loop.soon));
    cr_assert(timers_are_empty(&loop.timers));
    tasks_close(&loop);
    loop_close(&loop);
    loop_free(&loop);
}

#define ON_A_LOOP .init = setup, .fini = teardown

static rondo_task *begin(int (*run)(void *argument), void *argument)
{
    rondo_task *task;
    const rondo_task_options options = { .run = run, .argument = argument, .name = "test" };
    cr_assert(zero(int, rondo_create_task(&loop, &options, &task)));
    return task;
}

static void begin_unjoined(int (*run)(void *argument), void *argument)
{
    const rondo_task_options options = { .run = run, .argument = argument };
    cr_assert(zero(int, rondo_create_task(&loop, &options, NULL)));
}

/* ---- running --------------------------------------------------------------------------------------------- */

static int speak(void *argument)
{
    say(argument);
    return 7;
}

Test(task, begins_from_the_loop_in_order, ON_A_LOOP)
{
    begin_unjoined(speak, "one");
    begin_unjoined(speak, "two");
    cr_assert(eq(str, said, ""));
    cr_assert(eq(uint, loop.users, 2));
    turn(1);
    cr_assert(eq(str, said, "one two"));
}

Test(task, wants_a_function_and_a_stack_that_can_be, ON_A_LOOP)
{
    rondo_task_options options = { .argument = "never" };
    cr_assert(eq(int, rondo_create_task(&loop, &options, NULL), -EINVAL));
    options.run = speak;
    options.stack_size = SIZE_MAX;
    cr_assert(eq(int, rondo_create_task(&loop, &options, NULL), -EINVAL));
    cr_assert(eq(str, said, ""));
}

static int fill_a_megabyte(void *argument)
{
    volatile char large[1024 * 1024];
    memset((void *)large, 'x', sizeof large);
    *(char *)argument = large[12345];
    return 0;
}

Test(task, has_the_stack_it_asks_for, ON_A_LOOP)
{
    char found = 0;
    const rondo_task_options options = { .run = fill_a_megabyte,
                                         .argument = &found,
                                         .stack_size = 2 * 1024 * 1024 };
    cr_assert(zero(int, rondo_create_task(&loop, &options, NULL)));
    turn(1);
    cr_assert(eq(int, found, 'x'));
}

static int know_oneself(void *argument)
{
    cr_assert(eq(ptr, rondo_current_task(), *(rondo_task **)argument));
    cr_assert(eq(ptr, rondo_task_get_loop(rondo_current_task()), &loop));
    return rondo_join(rondo_current_task());
}

static int join(void *argument)
{
    char text[40];
    snprintf(text, sizeof text, "%d", rondo_join(argument));
    say(text);
    return 0;
}

Test(task, knows_itself_and_cannot_join_itself, ON_A_LOOP)
{
    rondo_task *task;
    task = begin(know_oneself, &task);
    cr_assert(zero(ptr, rondo_current_task()));
    begin_unjoined(join, task);
    turn(3);
    char expected[40];
    snprintf(expected, sizeof expected, "%d", -EINVAL);
    cr_assert(eq(str, said, expected));
}

Test(task, calls_that_wait_are_refused_outside, ON_A_LOOP)
{
    rondo_event event = { 0 };
    rondo_task *task = begin(speak, "task");
    cr_assert(eq(int, rondo_sleep(0), -EPERM));
    cr_assert(eq(int, rondo_join(task), -EPERM));
    cr_assert(eq(int, rondo_event_wait(&event), -EPERM));
    cr_assert(rondo_timeout(5) == RONDO_NO_TIMEOUT);
    begin_unjoined(join, task);
    turn(3);
    cr_assert(eq(str, said, "task 7"));
}

Test(task, joins_one_that_has_ended, ON_A_LOOP)
{
    rondo_task *task = begin(speak, "done");
    turn(2);
    cr_assert(zero(uint, loop.users));
    begin_unjoined(join, task);
    turn(2);
    cr_assert(eq(str, said, "done 7"));
}

/* ---- sleeping -------------------------------------------------------------------------------------------- */

static int sleep_and_say(void *argument)
{
    say(rondo_sleep((uint64_t)(uintptr_t)argument) == 0 ? "slept" : "refused");
    return 0;
}

Test(task, sleeps_so_long_and_not_less, ON_A_LOOP)
{
    begin_unjoined(sleep_and_say, (void *)100);
    turn(3);
    pass(99);
    cr_assert(eq(str, said, ""));
    pass(2);
    cr_assert(eq(str, said, "slept"));
}

static int count_turns(void *argument)
{
    unsigned *turns = argument;
    for (*turns = 0; *turns < 10; ++*turns)
        rondo_sleep(0);
    return 0;
}

Test(task, a_sleep_of_nothing_is_a_turn_for_others, ON_A_LOOP)
{
    unsigned one, other;
    begin_unjoined(count_turns, &one);
    begin_unjoined(count_turns, &other);
    turn(4);
    cr_assert(one > 0 && one < 10 && one == other);
    turn(20);
    cr_assert(one == 10 && other == 10);
}

/* ---- waking ------------------------------------------------------------------------------------------------- */

static int wait_for_wake(void *argument)
{
    (void)argument;
    say(task_wait() == 5 ? "five" : "refused");
    return 0;
}

static int wake_another(void *argument)
{
    task_wake(argument, 5);
    task_wake(argument, 6); /* nobody waits any more */
    say("waker");
    return 0;
}

Test(task, is_woken_at_once_by_a_callback_and_later_by_a_task, ON_A_LOOP)
{
    rondo_task *one = begin(wait_for_wake, NULL), *other = begin(wait_for_wake, NULL);
    turn(2);
    begin_unjoined(wake_another, one);
    turn(1);
    cr_assert(eq(str, said, "waker"));
    turn(1);
    cr_assert(eq(str, said, "waker five"));
    task_wake(other, 5);
    cr_assert(eq(str, said, "waker five five"));
    begin_unjoined(join, one);
    begin_unjoined(join, other);
    turn(3);
}

/* ---- cancelling ------------------------------------------------------------------------------------------ */

static int sleep_on(void *argument)
{
    unsigned *refusals = argument;
    int rc;
    for (*refusals = 0; *refusals < 3;) {
        rc = rondo_sleep(1000000);
        cr_assert(eq(int, rc, -ECANCELED));
        cr_assert(rondo_task_is_cancelled(rondo_current_task()));
        ++*refusals;
    }
    return rc;
}

Test(task, a_cancelled_one_is_refused_all_waits_from_the_loop, ON_A_LOOP)
{
    unsigned refusals;
    rondo_task *task = begin(sleep_on, &refusals);
    turn(2);
    rondo_cancel(task);
    rondo_cancel(task);
    cr_assert(zero(uint, refusals));
    turn(1);
    cr_assert(eq(uint, refusals, 1));
    turn(4);
    cr_assert(eq(uint, refusals, 3));
    begin_unjoined(join, task);
    turn(3);
}

Test(task, cancelled_before_it_began_it_begins_all_the_same, ON_A_LOOP)
{
    unsigned refusals = 0;
    rondo_cancel(begin(sleep_on, &refusals));
    turn(8);
    cr_assert(eq(uint, refusals, 3));
}

static int wake_first(void *argument)
{
    say(rondo_event_wait(argument) == 0 ? "woken" : "refused");
    return 0;
}

Test(task, what_came_first_counts, ON_A_LOOP)
{
    rondo_event event = { 0 };
    rondo_task *one = begin(wake_first, &event);
    turn(2);
    rondo_event_set(&event);
    rondo_cancel(one);
    turn(2);
    rondo_event_clear(&event);
    rondo_task *other = begin(wake_first, &event);
    turn(2);
    rondo_cancel(other);
    rondo_event_set(&event);
    turn(2);
    cr_assert(eq(str, said, "woken refused"));
}

/* ---- children -------------------------------------------------------------------------------------------- */

static int join_a_child(void *argument)
{
    unsigned refusals;
    rondo_task *child;
    const rondo_task_options options = { .run = sleep_on, .argument = &refusals };
    (void)argument;
    cr_assert(zero(int, rondo_create_task(&loop, &options, &child)));
    int rc = rondo_join(child);
    cr_assert(eq(int, rc, -ECANCELED));
    cr_assert(eq(uint, refusals, 3));
    say("joined");
    return rc;
}

Test(task, who_is_cancelled_in_a_join_passes_it_on_and_waits, ON_A_LOOP)
{
    rondo_task *parent = begin(join_a_child, NULL);
    turn(3);
    rondo_cancel(parent);
    cr_assert(eq(str, said, ""));
    turn(8);
    cr_assert(eq(str, said, "joined"));
}

static int join_for_a_while(void *argument)
{
    rondo_timeout(50);
    return join_a_child(argument);
}

Test(task, so_does_who_is_out_of_time, ON_A_LOOP)
{
    begin_unjoined(join_for_a_while, NULL);
    turn(3);
    pass(49);
    cr_assert(eq(str, said, ""));
    pass(2);
    turn(5);
    cr_assert(eq(str, said, "joined"));
}

static unsigned forgotten_refusals;

static int forget_a_child(void *argument)
{
    const rondo_task_options options = { .run = sleep_on, .argument = &forgotten_refusals };
    rondo_task *kept;
    cr_assert(zero(int, rondo_create_task(&loop, &options, argument != NULL ? &kept : NULL)));
    rondo_sleep(10);
    say("returns");
    return 0;
}

Test(task, children_end_before_their_parent_does, ON_A_LOOP)
{
    rondo_task *parent = begin(forget_a_child, NULL);
    turn(3);
    pass(10);
    turn(8);
    cr_assert(eq(uint, forgotten_refusals, 3));
    begin_unjoined(join, parent);
    turn(3);
    cr_assert(eq(str, said, "returns 0"));
}

Test(task, also_those_that_could_be_joined, ON_A_LOOP)
{
    begin_unjoined(forget_a_child, "kept");
    turn(3);
    pass(10);
    turn(8);
    cr_assert(eq(uint, forgotten_refusals, 3));
}

static int detach(void *argument)
{
    const rondo_task_options options = { .run = sleep_and_say, .argument = (void *)100, .detached = true };
    (void)argument;
    cr_assert(zero(int, rondo_create_task(&loop, &options, NULL)));
    say("detached");
    return 0;
}

Test(task, a_detached_one_outlives_who_made_it, ON_A_LOOP)
{
    begin_unjoined(detach, NULL);
    turn(3);
    cr_assert(eq(uint, loop.users, 1));
    pass(100);
    cr_assert(eq(str, said, "detached slept"));
}

/* ---- time ------------------------------------------------------------------------------------------------ */

static int try_in_time(void *argument)
{
    rondo_event never = { 0 };
    uint64_t before = rondo_timeout(100);
    (void)argument;
    cr_assert(before == RONDO_NO_TIMEOUT);
    cr_assert(zero(int, rondo_sleep(60)));
    cr_assert(rondo_timeout(30) == 40); /* a function's own limit */
    cr_assert(eq(int, rondo_event_wait(&never), -ETIMEDOUT));
    cr_assert(zero(u64, rondo_timeout(10)));
    say("inner");
    cr_assert(eq(int, rondo_sleep(20), -ETIMEDOUT));
    cr_assert(eq(int, rondo_sleep(0), -ETIMEDOUT)); /* until it is set anew */
    cr_assert(zero(u64, rondo_timeout(0)));
    cr_assert(eq(int, rondo_sleep(0), -ETIMEDOUT));
    rondo_timeout(RONDO_NO_TIMEOUT);
    cr_assert(zero(int, rondo_sleep(1000)));
    say("outer");
    return 0;
}

Test(task, time_limits, ON_A_LOOP)
{
    begin_unjoined(try_in_time, NULL);
    turn(3);
    pass(60);
    pass(30);
    cr_assert(eq(str, said, "inner"));
    pass(10);
    turn(5);
    pass(1000);
    cr_assert(eq(str, said, "inner outer"));
}

static int leave_in_time(void *argument)
{
    (void)argument;
    rondo_timeout(100);
    return 0;
}

Test(task, a_limit_ends_with_its_task, ON_A_LOOP)
{
    begin_unjoined(leave_in_time, NULL);
    turn(3); /* teardown finds no timer */
}

/* ---- events ---------------------------------------------------------------------------------------------- */

Test(task, an_event_wakes_all_in_order_until_it_is_cleared, ON_A_LOOP)
{
    rondo_event event = { 0 };
    rondo_event_set(&event);
    rondo_event_clear(&event);
    cr_assert(not(rondo_event_is_set(&event)));
    for (unsigned i = 0; i < 3; i++)
        begin_unjoined(wake_first, &event);
    turn(3);
    cr_assert(eq(str, said, ""));
    rondo_event_set(&event);
    cr_assert(eq(str, said, ""));
    turn(1);
    cr_assert(eq(str, said, "woken woken woken"));
    begin_unjoined(wake_first, &event);
    turn(1);
    cr_assert(eq(str, said, "woken woken woken woken"));
    cr_assert(rondo_event_is_set(&event));
}

/* ---- the end of the shard -------------------------------------------------------------------------------- */

Test(task, a_draining_shard_cancels_those_that_nobody_answers_for, ON_A_LOOP)
{
    begin_unjoined(join_a_child, NULL);
    turn(3);
    tasks_drain(&loop);
    turn(8);
    cr_assert(eq(str, said, "joined"));
    const rondo_task_options options = { .run = speak, .argument = "late" };
    cr_assert(eq(int, rondo_create_task(&loop, &options, NULL), -ESHUTDOWN));
}

static int never_end(void *argument)
{
    unsigned *turns = argument;
    while (*turns < UINT_MAX) {
        rondo_sleep(1000000);
        ++*turns;
    }
    return 0;
}

static int wait_for_never(void *argument)
{
    rondo_task *child;
    const rondo_task_options options = { .run = never_end, .argument = argument };
    cr_assert(zero(int, rondo_create_task(&loop, &options, &child)));
    return rondo_join(child);
}

/* It gets its turns, but the shard's end doesn't wait for it for ever. */
Test(task, one_that_does_not_end_is_left_behind_by_an_abort, .init = setup)
{
    unsigned turns = 0;
    begin_unjoined(wait_for_never, &turns);
    turn(3);
    tasks_drain(&loop);
    turn(500);
    cr_assert(eq(uint, loop.users, 2));
    cr_assert(turns > 100, "it isn't refused in a circle within one turn, and others get theirs");
    tasks_abort(&loop);
    turn(300);
    cr_assert(zero(uint, loop.users));
    cr_assert(eq(uint, tasks_count(&loop), 2));
    tasks_close(&loop);
    loop_close(&loop);
    loop_free(&loop);
}

Test(task, ten_thousand_sleep_at_once, ON_A_LOOP)
{
    enum { MANY = 10000 };
    rondo_event event = { 0 };
    for (unsigned i = 0; i < MANY; i++)
        begin_unjoined(wake_first, &event);
    turn(2);
    said[0] = '\0';
    cr_assert(eq(uint, loop.users, MANY));
    rondo_event_set(&event);
    turn(2);
    cr_assert(zero(uint, loop.users));
}
