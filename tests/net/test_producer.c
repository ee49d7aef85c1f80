/* Producers, by the test kit: when they are told to go on, to pause and to stop, and that a connection ends behind them. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rondo/rondo.h>
#include <rondo/testing.h>

#include "support/pair.h"

TestSuite(producer, .timeout = 30);

/* What was called: r resume_producing, p pause_producing, s stop_producing; PW, RW and CL the protocol's. */
static char calls[1000];
static rondo_producer producer;
static void (*when_resumed)(rondo_transport *t);
static rondo_test *test;
static rondo_test_peer *peer;
static rondo_transport *transport;

static void note(const char *what)
{
    if (strlen(calls) + strlen(what) < sizeof calls)
        strcat(calls, what);
}

static void expect(const char *wanted)
{
    cr_assert(eq(str, calls, (char *)wanted));
    calls[0] = '\0';
}

static void resume_producing(rondo_producer *p)
{
    cr_assert(eq(ptr, p, &producer));
    cr_assert(eq(ptr, p->transport, transport));
    note("r");
    if (when_resumed != NULL)
        when_resumed(p->transport);
}

static void pause_producing(rondo_producer *p)
{
    cr_assert(eq(ptr, p->transport, transport));
    note("p");
}

static void stop_producing(rondo_producer *p)
{
    cr_assert(zero(ptr, p->transport));
    note("s");
}

static void connection_lost(rondo_transport *t, int error)
{
    (void)t, (void)error;
    note("CL");
}

static void pause_writing(rondo_transport *t)
{
    (void)t;
    note("PW");
}

static void resume_writing(rondo_transport *t)
{
    (void)t;
    note("RW");
}

static bool eof_received(rondo_transport *t)
{
    (void)t;
    note("ER");
    return false;
}

static const rondo_protocol plain = { .name = "plain",
                                      .eof_received = eof_received,
                                      .connection_lost = connection_lost };
static const rondo_protocol flowing = {
    .name = "flowing",
    .pause_writing = pause_writing,
    .resume_writing = resume_writing,
    .connection_lost = connection_lost,
};

static void given(const rondo_protocol *protocol, const rondo_app *app)
{
    test = rondo_test_open(app);
    peer = rondo_test_connect(test, protocol);
    transport = rondo_test_transport(peer);
    producer = (rondo_producer){
        .resume_producing = resume_producing,
        .pause_producing = pause_producing,
        .stop_producing = stop_producing,
    };
}

static void over(void)
{
    cr_assert(zero(uint, rondo_test_close(test)));
}

static void write_bytes(rondo_transport *t, size_t size)
{
    static char text[200000];
    rondo_write(t, (rondo_bytes){ text, size });
}

/* ---- pulled ---------------------------------------------------------------------------------------------- */

static unsigned pieces;

static void write_ten(rondo_transport *t)
{
    write_bytes(t, 100);
    if (++pieces == 10)
        rondo_unregister_producer(t);
}

Test(producer, one_that_is_pulled_writes_each_time_all_has_been_sent)
{
    given(&plain, NULL);
    when_resumed = write_ten;
    cr_assert(zero(int, rondo_register_producer(transport, &producer, false)));
    expect("");
    rondo_test_turn(test);
    expect("rrrrrrrrrr");
    cr_assert(zero(ptr, producer.transport));
    cr_assert(eq(sz, rondo_test_written(peer).size, 1000));
    over();
}

Test(producer, it_waits_for_a_slow_peer)
{
    given(&plain, NULL);
    when_resumed = write_ten;
    rondo_test_set_room(peer, 250);
    rondo_register_producer(transport, &producer, false);
    rondo_test_turn(test);
    expect("rrr");
    rondo_test_clear(peer);
    rondo_test_turn(test);
    expect("rrr");
    rondo_test_set_room(peer, RONDO_TEST_ANY_ROOM);
    rondo_test_turn(test);
    expect("rrrr");
    over();
}

Test(producer, one_that_writes_later_is_asked_once)
{
    given(&plain, NULL);
    rondo_register_producer(transport, &producer, false);
    rondo_test_turn(test);
    rondo_test_advance(test, 1000);
    rondo_pause_reading(transport);
    rondo_test_turn(test);
    rondo_resume_reading(transport);
    rondo_test_turn(test);
    expect("r");
    write_bytes(transport, 150000); /* goes to the kernel at once, whole */
    rondo_test_turn(test);
    expect("r");
    rondo_unregister_producer(transport);
    over();
}

Test(producer, the_connection_is_closed_behind_it)
{
    given(&plain, NULL);
    when_resumed = write_ten;
    rondo_register_producer(transport, &producer, false);
    rondo_close(transport);
    cr_assert(rondo_is_closing(transport));
    rondo_test_turn(test);
    expect("rrrrrrrrrrCL");
    cr_assert(eq(sz, rondo_test_written(peer).size, 1000));
    cr_assert(rondo_test_sees_eof(peer));
    rondo_test_feed_eof(peer);
    over();
}

Test(producer, so_is_one_whose_peer_has_sent_its_eof)
{
    given(&plain, NULL);
    when_resumed = write_ten;
    rondo_test_set_room(peer, 100);
    rondo_register_producer(transport, &producer, false);
    rondo_test_turn(test);
    expect("rr");
    rondo_test_feed_eof(peer);
    expect("ER");
    rondo_test_set_room(peer, RONDO_TEST_ANY_ROOM);
    rondo_test_turn(test);
    expect("rrrrrrrrCL");
    cr_assert(eq(sz, rondo_test_written(peer).size, 1000));
    over();
}

Test(producer, and_half_closed)
{
    given(&plain, NULL);
    when_resumed = write_ten;
    rondo_register_producer(transport, &producer, false);
    rondo_write_eof(transport);
    rondo_test_turn(test);
    expect("rrrrrrrrrr");
    cr_assert(eq(sz, rondo_test_written(peer).size, 1000));
    cr_assert(rondo_test_sees_eof(peer));
    cr_assert(not(rondo_is_closing(transport)));
    write_bytes(transport, 1); /* too late, now that there is no producer */
    rondo_test_turn(test);
    cr_assert(eq(sz, rondo_test_written(peer).size, 1000));
    over();
}

/* ---- streaming ------------------------------------------------------------------------------------------- */

Test(producer, one_that_streams_is_paused_above_the_mark_and_resumed_below)
{
    given(&plain, NULL);
    rondo_test_set_room(peer, 0);
    rondo_set_write_buffer_limits(transport, 1000, 100);
    cr_assert(zero(int, rondo_register_producer(transport, &producer, true)));
    rondo_test_turn(test);
    expect("");
    write_bytes(transport, 1000);
    expect("");
    write_bytes(transport, 1);
    expect("p");
    write_bytes(transport, 500);
    expect("");
    rondo_test_set_room(peer, 1400);
    rondo_test_turn(test);
    expect("");
    rondo_test_set_room(peer, 1401);
    rondo_test_turn(test);
    expect("r");
    rondo_unregister_producer(transport);
    over();
}

Test(producer, beside_the_protocols_own_flow_control)
{
    given(&flowing, NULL);
    rondo_test_set_room(peer, 0);
    rondo_set_write_buffer_limits(transport, 1000, 100);
    write_bytes(transport, 2000);
    expect("PW");
    rondo_register_producer(transport, &producer, true);
    expect("p");
    rondo_test_set_room(peer, RONDO_TEST_ANY_ROOM);
    rondo_test_turn(test);
    expect("RWr");
    rondo_test_set_room(peer, 2000);
    write_bytes(transport, 2000);
    expect("PWp");
    rondo_unregister_producer(transport);
    rondo_test_set_room(peer, RONDO_TEST_ANY_ROOM);
    rondo_test_turn(test);
    expect("RW");
    over();
}

Test(producer, a_half_close_waits_for_one_that_streams)
{
    given(&plain, NULL);
    rondo_register_producer(transport, &producer, true);
    rondo_write_eof(transport);
    rondo_test_turn(test);
    cr_assert(not(rondo_test_sees_eof(peer)));
    write_bytes(transport, 7);
    rondo_unregister_producer(transport);
    rondo_test_turn(test);
    cr_assert(rondo_test_sees_eof(peer));
    cr_assert(eq(sz, rondo_test_written(peer).size, 7));
    cr_assert(not(rondo_is_closing(transport)));
    over();
}

static void resume_by_writing_much(rondo_transport *t)
{
    note("RW");
    write_bytes(t, 5000);
}

static const rondo_protocol eager = {
    .name = "eager",
    .pause_writing = pause_writing,
    .resume_writing = resume_by_writing_much,
};

Test(producer, it_is_not_paused_twice)
{
    given(&eager, NULL);
    rondo_test_set_room(peer, 0);
    rondo_set_write_buffer_limits(transport, 1000, 100);
    rondo_register_producer(transport, &producer, true);
    write_bytes(transport, 2000);
    expect("PWp");
    rondo_test_set_room(peer, 2000);
    rondo_test_turn(test);
    expect("RWPW");
    rondo_unregister_producer(transport);
    over();
}

/* ---- on the ring, which tells of no send that nobody waits for -------------------------------------------------- */

static rondo_producer of_pair;

static void produce_for_pair(rondo_producer *p)
{
    rondo_write(p->transport, RONDO_BYTES("0123456789"));
    if (++pieces < 100)
        return;
    rondo_close(p->transport);
    rondo_unregister_producer(p->transport);
}

static void begin_producing(struct pair *p)
{
    of_pair.resume_producing = produce_for_pair;
    cr_assert(zero(int, rondo_register_producer(p->t, &of_pair, false)));
}

Test(producer, on_the_ring)
{
    struct pair p = { .on_made = begin_producing };
    pair_open(&p, &recording);
    const char *text = peer_receive_text(&p);
    cr_assert(eq(sz, strlen(text), 1000));
    cr_assert(eq(uint, pieces, 100));
    pair_close(&p);
}

/* ---- ends, in order ---------------------------------------------------------------------------------------------- */

Test(producer, a_close_waits_for_one_that_streams_paused_or_not)
{
    for (int is_paused = 0; is_paused < 2; is_paused++) {
        given(&plain, NULL);
        rondo_test_set_room(peer, 0);
        rondo_register_producer(transport, &producer, true);
        write_bytes(transport, is_paused ? 100000 : 10);
        rondo_close(transport);
        rondo_test_set_room(peer, RONDO_TEST_ANY_ROOM);
        rondo_test_turn(test);
        expect(is_paused ? "pr" : "");
        write_bytes(transport, 5);
        rondo_test_turn(test);
        cr_assert(eq(sz, rondo_test_written(peer).size, is_paused ? 100005 : 15));
        cr_assert(not(rondo_test_sees_eof(peer)));
        rondo_unregister_producer(transport);
        rondo_test_turn(test);
        expect("CL");
        cr_assert(rondo_test_sees_eof(peer));
        rondo_test_feed_eof(peer);
        over();
    }
}

/* ---- ends ------------------------------------------------------------------------------------------------ */

Test(producer, a_lost_connection_stops_it)
{
    given(&plain, NULL);
    rondo_register_producer(transport, &producer, true);
    rondo_test_reset(peer);
    expect("sCL");
    over();
}

static void write_and_abort(rondo_transport *t)
{
    write_bytes(t, 5);
    rondo_abort(t);
}

Test(producer, so_does_an_abort)
{
    given(&plain, NULL);
    when_resumed = write_and_abort;
    rondo_register_producer(transport, &producer, false);
    rondo_test_turn(test);
    expect("rsCL");
    cr_assert(zero(sz, rondo_test_written(peer).size));
    over();
}

Test(producer, and_the_idle_timeout)
{
    const rondo_app app = { .idle_timeout_ms = 1000 };
    given(&plain, &app);
    rondo_test_set_room(peer, 0);
    rondo_register_producer(transport, &producer, true);
    write_bytes(transport, 100000);
    rondo_close(transport);
    rondo_test_turn(test);
    expect("p");
    rondo_test_advance(test, 1000);
    expect("sCL");
    over();
}

Test(producer, a_draining_server_waits_for_it)
{
    given(&plain, NULL);
    rondo_test_feed(peer, RONDO_BYTES("x"));
    rondo_register_producer(transport, &producer, true);
    rondo_stop(rondo_test_loop(test));
    rondo_test_turn(test);
    expect("");
    write_bytes(transport, 7);
    rondo_unregister_producer(transport);
    rondo_test_turn(test);
    expect("CL");
    cr_assert(eq(sz, rondo_test_written(peer).size, 7));
    rondo_test_feed_eof(peer);
    over();
}

Test(producer, one_of_a_connection_that_is_closing_is_stopped_at_once)
{
    given(&plain, NULL);
    rondo_close(transport);
    cr_assert(zero(int, rondo_register_producer(transport, &producer, true)));
    expect("s");
    rondo_test_turn(test);
    expect("CL");
    rondo_test_feed_eof(peer);
    over();
}

Test(producer, what_is_refused)
{
    rondo_producer other = { .resume_producing = resume_producing };
    given(&plain, NULL);
    cr_assert(eq(int, rondo_register_producer(transport, &other, true), -EINVAL));
    cr_assert(zero(int, rondo_register_producer(transport, &producer, true)));
    cr_assert(eq(int, rondo_register_producer(transport, &other, false), -EBUSY));
    rondo_unregister_producer(transport);
    rondo_unregister_producer(transport);
    producer.resume_producing = NULL;
    cr_assert(eq(int, rondo_register_producer(transport, &producer, false), -EINVAL));
    over();
    expect("CL");
}

Test(producer, whatever_the_kernel_does)
{
    for (uint64_t seed = 1; seed < 40; seed++) {
        given(&plain, NULL);
        pieces = 0;
        when_resumed = write_ten;
        rondo_test_disturb(test, seed);
        rondo_register_producer(transport, &producer, false);
        rondo_close(transport);
        while (rondo_test_transport(peer) != NULL)
            rondo_test_advance(test, 5);
        expect("rrrrrrrrrrCL");
        cr_assert(eq(sz, rondo_test_written(peer).size, 1000));
        rondo_test_advance(test, 100000);
        over();
    }
}
