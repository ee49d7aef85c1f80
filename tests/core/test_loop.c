/* The loop: calls, timers, posts from other threads, and sleeping in between. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/loop.h"
#include "core/simulated.h"
#include "support/engine.h"

TestSuite(loop, .timeout = 30);

#define NS_PER_MS UINT64_C(1000000)

static const struct engine_size tiny = { 8, 16, 16, 1024, 0, 0, 0, 0 };

static rondo_loop loop;

static void open_loop(void)
{
    char why[ENGINE_WHY_BYTES] = "";
    cr_assert_eq(loop_open(&loop, tested_engine(), &tiny, why), 0, "%s", why);
}

static void close_loop(void)
{
    loop_close(&loop);
    loop_free(&loop);
}

#define ON_A_LOOP .init = open_loop, .fini = close_loop

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void turn(void)
{
    cr_assert_eq(loop_turn(&loop, 0), 0);
}

static void assert_asleep(void)
{
    for (unsigned i = 0; i < 3; i++) {
        uint64_t begin_ns = clock_ns();
        cr_assert_eq(loop_turn(&loop, 5 * NS_PER_MS), 0);
        cr_assert_geq(clock_ns() - begin_ns, 5 * NS_PER_MS, "it sleeps");
    }
}

/* ---- what ran, in letters -------------------------------------------------------------------------------- */

static char ran[256];
static size_t ran_size;

struct note {
    rondo_call call;
    rondo_timer timer;
    char letter;
    void (*then)(struct note *note);
};

static void write_down(struct note *note)
{
    cr_assert_lt(ran_size + 1, sizeof ran);
    ran[ran_size++] = note->letter;
    if (note->then != NULL)
        note->then(note);
}

static void note_called(rondo_call *call)
{
    write_down(rondo_container_of(call, struct note, call));
}

static void note_expired(rondo_timer *timer)
{
    write_down(rondo_container_of(timer, struct note, timer));
}

static void soon(struct note *note)
{
    rondo_call_soon(&loop, &note->call, note_called);
}

static void later(struct note *note, uint64_t delay_ms)
{
    rondo_call_later(&loop, &note->timer, delay_ms, note_expired);
}

static void post(struct note *note)
{
    cr_assert_eq(rondo_post(&loop, &note->call, note_called), 0);
}

static struct note a = { .letter = 'a' }, b = { .letter = 'b' }, c = { .letter = 'c' };

#define assert_ran(letters) cr_assert(eq(str, ran, letters))

/* ---- opening -------------------------------------------------------------------------------------------- */

Test(loop, a_loop_without_an_engine_is_refused_with_a_sentence)
{
    char why[ENGINE_WHY_BYTES] = "";
    cr_assert_eq(loop_open(&loop, "bogus", &tiny, why), -EINVAL);
    cr_assert_not_null(strstr(why, "bogus"));
    cr_assert(not(loop_is_here(&loop)));
    loop_free(&loop);
}

static void *is_here(void *result)
{
    *(bool *)result = loop_is_here(&loop);
    return NULL;
}

Test(loop, a_loop_is_here_on_its_own_thread_only_and_until_it_is_closed)
{
    pthread_t thread;
    bool there = true;
    cr_assert(not(loop_is_here(&loop)));
    open_loop();
    cr_assert(loop_is_here(&loop));
    pthread_create(&thread, NULL, is_here, &there);
    pthread_join(thread, NULL);
    cr_assert(not(there));
    close_loop();
    cr_assert(not(loop_is_here(&loop)));
}

Test(loop, a_loop_that_nothing_uses_ends_at_once, ON_A_LOOP)
{
    cr_assert_eq(loop_run(&loop), 0);
    cr_assert(eq(u64, loop.turns, 0));
}

Test(loop, an_idle_loop_sleeps, ON_A_LOOP)
{
    assert_asleep();
    cr_assert(eq(u64, loop.turns, 3));
}

/* ---- calls soon ----------------------------------------------------------------------------------------- */

Test(loop, calls_run_on_the_next_turn_once_and_in_their_order, ON_A_LOOP)
{
    soon(&b);
    soon(&a);
    soon(&c);
    assert_ran("");
    cr_assert_eq(loop_turn(&loop, ENGINE_FOREVER), 0); /* which doesn't sleep */
    assert_ran("bac");
    assert_asleep();
    assert_ran("bac");
}

static void call_it_and_b(struct note *note)
{
    soon(note);
    soon(&b);
}

Test(loop, what_a_call_adds_runs_a_turn_later, ON_A_LOOP)
{
    soon(&a);
    a.then = call_it_and_b;
    turn();
    assert_ran("a");
    a.then = NULL;
    turn();
    assert_ran("aab");
}

Test(loop, a_cancelled_call_does_not_run_and_can_be_made_again, ON_A_LOOP)
{
    soon(&a);
    soon(&b);
    soon(&c);
    rondo_call_cancel(&b.call);
    rondo_call_cancel(&b.call);
    turn();
    assert_ran("ac");
    rondo_call_cancel(&a.call);
    soon(&b);
    turn();
    assert_ran("acb");
}

static void cancel_a_and_c(struct note *note)
{
    (void)note;
    rondo_call_cancel(&a.call);
    rondo_call_cancel(&c.call);
}

Test(loop, a_call_may_cancel_another_one_of_the_same_turn, ON_A_LOOP)
{
    b.then = cancel_a_and_c;
    soon(&a);
    soon(&b);
    soon(&c);
    turn();
    turn();
    assert_ran("ab");
}

/* ---- flush calls ---------------------------------------------------------------------------------------- */

static struct op sending;
static int sent;

static void send_done(struct op *op, const struct completion *completion)
{
    (void)op;
    sent = completion->result;
}

static void send_from(struct note *note)
{
    (void)note;
    int *fds = loop.upstairs;
    sending.done = send_done;
    engine_send(loop.engine, &sending, fds[0], &(struct iovec){ "x", 1 }, 1, false);
}

Test(loop, flush_calls_are_made_before_the_system_call, ON_A_LOOP)
{
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    loop.upstairs = fds;
    a.then = send_from;
    loop_flush(&loop, &a.call, note_called);
    loop_flush(&loop, &a.call, note_called);
    turn();
    assert_ran("a");
    cr_assert(eq(int, sent, 1), "what it issued went along");
    close(fds[0]);
    close(fds[1]);
}

static void flush_b_and_c(struct note *note)
{
    (void)note;
    loop_flush(&loop, &b.call, note_called);
    loop_flush(&loop, &c.call, note_called);
}

Test(loop, what_a_flush_call_adds_is_made_in_the_same_go, ON_A_LOOP)
{
    a.then = flush_b_and_c;
    loop_flush(&loop, &a.call, note_called);
    turn();
    assert_ran("abc");
}

/* ---- turns in portions ----------------------------------------------------------------------------------- */

enum { PEERS = 3 };

static struct op receives[PEERS];
static void (*at_the_second)(void);

static void received(struct op *op, const struct completion *completion)
{
    unsigned index = (unsigned)(op - receives);
    cr_assert(eq(int, completion->result, 1));
    ran[ran_size++] = (char)('1' + index);
    if (index == 1 && at_the_second != NULL)
        at_the_second();
    loop_flush(&loop, &a.call, note_called);
}

/* Each peer has sent a byte, and each completion is a portion. */
static void open_portions(void)
{
    char why[ENGINE_WHY_BYTES];
    struct simulated_moods moods = { .portions = 100 };
    cr_assert_eq(loop_open(&loop, "simulated", &tiny, why), 0);
    simulated_set_moods(loop.engine, &moods);
    for (unsigned i = 0; i < PEERS; i++) {
        int fds[2];
        cr_assert_eq(simulated_connect(loop.engine, AF_UNIX, fds), 0);
        struct memory_socket *peer = memory_socket_of(simulated_sockets(loop.engine), fds[1]);
        cr_assert_eq(memory_socket_send(peer, &(struct iovec){ "x", 1 }, 1, 1, NULL, 0), 1);
        receives[i].done = received;
        engine_receive(loop.engine, &receives[i], fds[0], false);
    }
}

#define IN_PORTIONS .init = open_portions, .fini = close_loop

Test(loop, between_portions_of_a_turn_flush_calls_are_made, IN_PORTIONS)
{
    turn();
    assert_ran("1a2a3");
    turn();
    assert_ran("1a2a3a");
}

Test(loop, a_posted_call_finds_everything_handed_out, IN_PORTIONS)
{
    post(&b);
    turn();
    assert_ran("123b");
}

static void post_b(void)
{
    post(&b);
}

Test(loop, what_is_posted_behind_a_portion_waits_for_a_turn_without_but_not_longer, IN_PORTIONS)
{
    at_the_second = post_b;
    turn();
    assert_ran("1a23");
    cr_assert_eq(loop_turn(&loop, ENGINE_FOREVER), 0, "it doesn't sleep");
    assert_ran("1a23ab");
}

/* ---- timers --------------------------------------------------------------------------------------------- */

static void run_until_ran(size_t count)
{
    while (ran_size < count)
        cr_assert_eq(loop_turn(&loop, ENGINE_FOREVER), 0);
}

Test(loop, a_timer_is_never_early, ON_A_LOOP)
{
    for (uint64_t delay_ms = 0; delay_ms < 8; delay_ms++) {
        for (unsigned i = 0; i < 8; i++) {
            turn(); /* at any part of a millisecond */
            uint64_t started_ms = rondo_time_ms(&loop), started_ns = clock_ns();
            later(&a, delay_ms);
            cr_assert(rondo_timer_is_running(&a.timer));
            ran_size = 0;
            run_until_ran(1);
            cr_assert_geq(clock_ns() - started_ns, delay_ms * NS_PER_MS);
            cr_assert_geq(rondo_time_ms(&loop) - started_ms, delay_ms);
            cr_assert(not(rondo_timer_is_running(&a.timer)));
        }
    }
}

static uint64_t work_ended_ns;

static void work_long_and_start_b(struct note *note)
{
    (void)note;
    uint64_t begin_ns = clock_ns();
    do
        work_ended_ns = clock_ns();
    while (work_ended_ns - begin_ns < 5 * NS_PER_MS);
    later(&b, 3);
}

Test(loop, a_timer_counts_from_its_start_also_when_the_turn_took_long, ON_A_LOOP)
{
    a.then = work_long_and_start_b;
    soon(&a);
    run_until_ran(2);
    cr_assert_geq(clock_ns() - work_ended_ns, 3 * NS_PER_MS);
}

Test(loop, the_loops_clock_is_read_each_turn, ON_A_LOOP)
{
    for (unsigned i = 0; i < 3; i++) {
        uint64_t before_ms = clock_ns() / NS_PER_MS;
        cr_assert_eq(loop_turn(&loop, 2 * NS_PER_MS), 0);
        cr_assert_geq(rondo_time_ms(&loop), before_ms + 2);
        cr_assert_leq(rondo_time_ms(&loop), clock_ns() / NS_PER_MS);
    }
}

Test(loop, the_loop_sleeps_until_a_timer_is_due, ON_A_LOOP)
{
    later(&a, 100);
    run_until_ran(1);
    cr_assert_leq(loop.turns, 8, "it doesn't look every millisecond");
}

Test(loop, timers_run_in_the_order_of_their_times_and_then_of_their_starts, ON_A_LOOP)
{
    struct note d = { .letter = 'd' };
    later(&c, 9);
    later(&b, 7);
    later(&d, 9);
    later(&a, 3);
    run_until_ran(4);
    assert_ran("abcd");
}

static void start_again(struct note *note)
{
    later(note, 0);
}

Test(loop, a_timer_that_starts_itself_again_at_once_starves_nobody, ON_A_LOOP)
{
    a.then = start_again;
    later(&a, 0);
    for (unsigned i = 1; i <= 20; i++) {
        size_t ran_before = ran_size;
        soon(&b);
        cr_assert_eq(loop_turn(&loop, ENGINE_FOREVER), 0);
        cr_assert(eq(chr, ran[ran_size - 1], 'b'), "the calls get their turn");
        cr_assert(eq(chr, ran[ran_size - 2], 'a'), "and the timer its own");
        cr_assert_leq(ran_size - ran_before, 3, "a second time at most, if the turn came late");
    }
    rondo_timer_cancel(&a.timer);
}

Test(loop, a_cancelled_timer_does_not_run_nor_wake_the_loop, ON_A_LOOP)
{
    later(&a, 2);
    rondo_timer_cancel(&a.timer);
    assert_asleep();
    assert_ran("");
}

Test(loop, a_timer_beyond_all_time_does_not_run, ON_A_LOOP)
{
    later(&a, UINT64_MAX);
    assert_asleep();
    assert_ran("");
    rondo_timer_cancel(&a.timer);
}

/* ---- posts ---------------------------------------------------------------------------------------------- */

Test(loop, posted_calls_run_in_their_order, ON_A_LOOP)
{
    post(&b);
    post(&a);
    post(&c);
    cr_assert_eq(loop_turn(&loop, ENGINE_FOREVER), 0);
    assert_ran("bac");
    turn();
    assert_asleep();
    assert_ran("bac");
}

static void post_again(struct note *note)
{
    if (ran_size < 5)
        post(note);
}

Test(loop, a_posted_call_may_post_itself_again, ON_A_LOOP)
{
    a.then = post_again;
    post(&a);
    run_until_ran(5);
    assert_ran("aaaaa");
}

enum { POSTERS = 4, POSTS = 20000 };

struct posted {
    rondo_call call;
    unsigned poster, number;
};

static struct posted posts[POSTERS][POSTS];
static unsigned next_of_poster[POSTERS];

static void posted_runs(rondo_call *call)
{
    struct posted *posted = rondo_container_of(call, struct posted, call);
    cr_assert(loop_is_here(&loop));
    cr_assert_eq(posted->number, next_of_poster[posted->poster], "each once, and in the order of its poster");
    if (++next_of_poster[posted->poster] == POSTS)
        loop.users--;
}

static void *post_all(void *poster_pointer)
{
    unsigned poster = *(unsigned *)poster_pointer;
    for (unsigned i = 0; i < POSTS; i++) {
        posts[poster][i].poster = poster;
        posts[poster][i].number = i;
        if (rondo_post(&loop, &posts[poster][i].call, posted_runs) != 0)
            abort();
    }
    return NULL;
}

Test(loop, posts_of_several_threads_each_run_once_and_in_the_order_of_their_thread, ON_A_LOOP)
{
    pthread_t threads[POSTERS];
    unsigned numbers[POSTERS];
    for (unsigned i = 0; i < POSTERS; i++) {
        numbers[i] = i;
        loop.users++;
        cr_assert_eq(pthread_create(&threads[i], NULL, post_all, &numbers[i]), 0);
    }
    cr_assert_eq(loop_run(&loop), 0);
    for (unsigned i = 0; i < POSTERS; i++) {
        pthread_join(threads[i], NULL);
        cr_assert(eq(uint, next_of_poster[i], POSTS));
    }
}

static sem_t answered;

static void answer(struct note *note)
{
    (void)note;
    sem_post(&answered);
}

static void answer_and_end(struct note *note)
{
    answer(note);
    loop.users--;
}

/* Each post finds the loop asleep, or about to sleep. */
static void *post_one_after_another(void *rounds)
{
    static struct note question;
    for (unsigned i = *(unsigned *)rounds; i > 0; i--) {
        question.then = i > 1 ? answer : answer_and_end;
        ran_size = 0;
        post(&question);
        sem_wait(&answered);
    }
    return NULL;
}

Test(loop, each_post_wakes_a_loop_that_sleeps, ON_A_LOOP)
{
    pthread_t thread;
    unsigned rounds = 5000;
    sem_init(&answered, 0, 0);
    loop.users = 1;
    cr_assert_eq(pthread_create(&thread, NULL, post_one_after_another, &rounds), 0);
    cr_assert_eq(loop_run(&loop), 0);
    pthread_join(thread, NULL);
    cr_assert_leq(loop.turns, 4 * rounds, "and each only for itself");
}

/* ---- closing -------------------------------------------------------------------------------------------- */

Test(loop, closing_makes_the_calls_that_wait, .init = open_loop)
{
    soon(&a);
    post(&b);
    post(&c);
    loop_close(&loop);
    assert_ran("abc");
    loop_free(&loop);
}

Test(loop, a_post_after_the_close_is_refused_and_never_runs, .init = open_loop)
{
    loop_close(&loop);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(rondo_post(&loop, &a.call, note_called), -ESHUTDOWN);
    assert_ran("");
    loop_free(&loop);
}

static unsigned refused_from, run_before_close;
static sem_t many_posted;

static void count_run(rondo_call *call)
{
    (void)call;
    run_before_close++;
}

static void *post_until_refused(void *unused)
{
    struct posted *mine = &posts[0][0];
    while (refused_from < POSTERS * POSTS && rondo_post(&loop, &mine[refused_from].call, count_run) == 0) {
        if (++refused_from == 100)
            sem_post(&many_posted);
    }
    return unused;
}

Test(loop, what_a_close_lets_in_it_runs, .init = open_loop)
{
    pthread_t thread;
    sem_init(&many_posted, 0, 0);
    cr_assert_eq(pthread_create(&thread, NULL, post_until_refused, NULL), 0);
    sem_wait(&many_posted);
    turn();
    loop_close(&loop);
    pthread_join(thread, NULL);
    cr_assert(eq(uint, run_before_close, refused_from));
    loop_free(&loop);
}

/* ---- mistakes, which debug builds catch ------------------------------------------------------------------ */

#ifndef NDEBUG

Test(loop, a_call_that_waits_already_is_caught, .init = open_loop, .signal = SIGABRT)
{
    soon(&a);
    soon(&a);
}

static void *call_soon_from_elsewhere(void *unused)
{
    soon(&a);
    return unused;
}

Test(loop, a_call_soon_from_another_thread_is_caught, .init = open_loop, .signal = SIGABRT)
{
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, call_soon_from_elsewhere, NULL), 0);
    pthread_join(thread, NULL);
}

#endif

static sem_t is_cancelled;

/* Its cancellation waits for it, and comes at the next cancellation point. */
static void *post_when_cancelled(void *unused)
{
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    sem_wait(&is_cancelled);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &before);
    rondo_post(&loop, &a.call, note_called);
    pthread_testcancel();
    return unused;
}

Test(loop, a_thread_that_is_cancelled_is_so_behind_its_post, .init = open_loop)
{
    pthread_t thread;
    sem_init(&is_cancelled, 0, 0);
    cr_assert_eq(pthread_create(&thread, NULL, post_when_cancelled, NULL), 0);
    pthread_cancel(thread);
    sem_post(&is_cancelled);
    pthread_join(thread, NULL);
    turn();
    assert_ran("a");
    loop_close(&loop);
    loop_free(&loop); /* which waits for those who are posting */
}
