/* What a transport has only while it needs it, and what happens when there is no memory for that. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <limits.h>

#include <rondo/line.h>
#include <rondo/testing.h>

#include "core/simulated.h"
#include "net/flow.h"
#include "support/pair.h"

TestSuite(on_demand, .timeout = 30);

static bool memory_is_out;
static unsigned allocations_left = UINT_MAX;
void *__real_memory_new(size_t size);
void *__wrap_memory_new(size_t size);

void *__wrap_memory_new(size_t size)
{
    if (memory_is_out || allocations_left == 0)
        return NULL;
    allocations_left -= allocations_left < UINT_MAX;
    return __real_memory_new(size);
}

static rondo_test *test;
static rondo_test_peer *peer;
static char got[64], memory[64];
static int lost_with = 1;

static void given(const rondo_protocol *protocol)
{
    test = rondo_test_open(NULL);
    peer = rondo_test_connect(test, protocol);
    cr_assert_not_null(peer);
}

static void over(void)
{
    memory_is_out = false;
    cr_assert(eq(uint, rondo_test_close(test), 0));
}

static void note(const char *data, size_t size)
{
    strncat(got, data, size);
}

static void connection_lost(rondo_transport *t, int error)
{
    (void)t;
    lost_with = error;
}

/* Each line pauses: what was received behind it waits. */
static void line_received(rondo_transport *t, rondo_bytes line)
{
    note(line.data, line.size);
    rondo_pause_reading(t);
}

static const rondo_line_protocol lines = {
    RONDO_LINE_RECEIVER("lines", 0),
    .protocol.connection_lost = connection_lost,
    .line_received = line_received,
};

static rondo_buffer get_buffer(rondo_transport *t, size_t size_hint)
{
    (void)t, (void)size_hint;
    return (rondo_buffer){ memory, sizeof memory };
}

static void buffer_updated(rondo_transport *t, size_t nbytes)
{
    (void)t;
    note(memory, nbytes);
}

static const rondo_protocol buffered = {
    .name = "buffered",
    .get_buffer = get_buffer,
    .buffer_updated = buffer_updated,
    .connection_lost = connection_lost,
};

/* ---- it goes when it is no longer needed --------------------------------------------------------------------- */

Test(on_demand, flow_is_there_while_bytes_wait_and_no_longer)
{
    given(&lines.protocol);
    rondo_transport *t = rondo_test_transport(peer);
    cr_assert_null(t->flow);
    rondo_test_feed(peer, RONDO_BYTES("one\ntwo\n"));
    cr_assert(eq(str, got, "one"));
    cr_assert(eq(sz, flow_waiting_bytes(t), 4));

    rondo_resume_reading(t);
    rondo_test_turn(test);
    cr_assert(eq(str, got, "onetwo"));
    cr_assert_null(t->flow);
    over();
}

Test(on_demand, flow_is_there_while_bytes_wait_in_the_protocols_memory_and_no_longer)
{
    given(&buffered);
    rondo_transport *t = rondo_test_transport(peer);
    rondo_pause_reading(t);
    rondo_test_feed(peer, RONDO_BYTES("bytes"));
    cr_assert(eq(str, got, ""));
    cr_assert(eq(sz, flow_waiting_bytes(t), 5));

    rondo_resume_reading(t);
    rondo_test_turn(test);
    cr_assert(eq(str, got, "bytes"));
    cr_assert_null(t->flow);
    over();
}

Test(on_demand, flow_is_there_while_limits_are_not_the_default_ones)
{
    size_t low, high;
    given(&buffered);
    rondo_transport *t = rondo_test_transport(peer);
    cr_assert(eq(int, rondo_set_write_buffer_limits(t, 1000, 10), 0));
    rondo_test_turn(test);
    rondo_get_write_buffer_limits(t, &low, &high);
    cr_assert(eq(sz, low, 10));
    cr_assert(eq(sz, high, 1000));

    cr_assert(eq(int, rondo_set_write_buffer_limits(t, RONDO_LIMIT_DEFAULT, RONDO_LIMIT_DEFAULT), 0));
    rondo_test_turn(test);
    cr_assert_null(t->flow);
    rondo_get_write_buffer_limits(t, &low, &high);
    cr_assert(eq(sz, low, 16384));
    cr_assert(eq(sz, high, 65536));
    over();
}

/* ---- without memory ------------------------------------------------------------------------------------------ */

Test(on_demand, limits_without_memory_are_refused_and_nothing_has_changed)
{
    size_t low, high;
    given(&buffered);
    rondo_transport *t = rondo_test_transport(peer);
    memory_is_out = true;
    cr_assert(eq(int, rondo_set_write_buffer_limits(t, 1000, 10), -ENOMEM));
    cr_assert(eq(int, rondo_set_write_buffer_limits(t, 65536, 16384), 0), "they are that already");
    rondo_get_write_buffer_limits(t, &low, &high);
    cr_assert(eq(sz, low, 16384));
    cr_assert(eq(sz, high, 65536));
    rondo_test_feed(peer, RONDO_BYTES("bytes"));
    cr_assert(eq(str, got, "bytes"), "and the connection lives on");
    over();
}

Test(on_demand, what_can_not_be_held_ends_the_connection)
{
    given(&lines.protocol);
    memory_is_out = true;
    rondo_test_feed(peer, RONDO_BYTES("one\ntwo\n"));
    cr_assert(eq(str, got, "one"));
    cr_assert(eq(int, lost_with, -ENOMEM));
    over();
}

Test(on_demand, nor_can_what_lies_in_the_protocols_memory)
{
    given(&buffered);
    rondo_pause_reading(rondo_test_transport(peer));
    memory_is_out = true;
    rondo_test_feed(peer, RONDO_BYTES("bytes"));
    cr_assert(eq(str, got, ""));
    cr_assert(eq(int, lost_with, -ENOMEM));
    over();
}

/* ---- the end, behind what waits ------------------------------------------------------------------------------ */

Test(on_demand, an_error_that_nobody_was_left_to_be_told_of_is_none)
{
    given(&buffered);
    rondo_transport *t = rondo_test_transport(peer);
    rondo_pause_reading(t);
    rondo_test_reset(peer);
    cr_assert(t->error_waits, "until reading goes on");
    cr_assert(eq(int, lost_with, 1));

    rondo_close(t);
    rondo_test_turn(test);
    cr_assert(eq(int, lost_with, 0));
    over();
}

Test(on_demand, an_error_is_told_behind_what_waits)
{
    given(&lines.protocol);
    rondo_test_feed(peer, RONDO_BYTES("one\ntwo\n"));
    rondo_test_reset(peer);
    rondo_resume_reading(rondo_test_transport(peer));
    rondo_test_turn(test);
    rondo_resume_reading(rondo_test_transport(peer));
    rondo_test_turn(test);
    cr_assert(eq(str, got, "onetwo"));
    cr_assert(eq(int, lost_with, -ECONNRESET));
    over();
}

/* ---- who looks after it ---------------------------------------------------------------------------------------- */

static const rondo_protocol plain = { .name = "plain", .connection_lost = connection_lost };

static void open_world(struct world *world, struct pair *p)
{
    world_open(world, NULL);
    world->loop.engine->forgets_ends = false; /* whatever this kernel does */
    pair_open_in(p, world, &recording);
}

Test(on_demand, nobody_looks_after_a_connection_without_a_reason)
{
    struct world *world = malloc(sizeof *world);
    struct pair p = { .world = world };
    open_world(world, &p);
    cr_assert_null(p.t->watch);
    peer_send(&p, "hello");
    pair_run_until_received(&p, 5);
    cr_assert_null(p.t->watch);
    cr_assert(eq(u64, timers_next_ms(&world->loop.timers), UINT64_MAX), "so idle connections make no work");
    pair_close(&p);
}

Test(on_demand, a_newcomer_gets_no_moment_more_without_memory)
{
    struct world *world = malloc(sizeof *world);
    struct pair p = { .world = world };
    open_world(world, &p);
    memory_is_out = true;
    transport_drain(p.t);
    cr_assert(rondo_is_closing(p.t));
    memory_is_out = false;
    pair_run_until_lost(&p);
    cr_assert(eq(int, p.lost_error, 0));
    pair_close(&p);
}

/* However many of its allocations succeed. */
Test(on_demand, a_connection_is_made_whole_or_not_at_all)
{
    unsigned refused = 0;
    test = rondo_test_open(NULL);
    for (peer = NULL; peer == NULL; refused++) {
        allocations_left = refused;
        peer = rondo_test_connect_unix(test, &plain);
        allocations_left = UINT_MAX;
        cr_assert(eq(u64, rondo_test_loop(test)->traffic.connections_open, peer != NULL));
    }
    cr_assert_gt(refused, 2, "at least the transport's and its watch's");
    cr_assert_not_null(rondo_test_transport(peer)->watch);
    over();
}

/* ---- the end needs no memory --------------------------------------------------------------------------------- */

Test(on_demand, it_lingers_without_memory)
{
    given(&plain);
    rondo_write(rondo_test_transport(peer), RONDO_BYTES("an answer"));
    memory_is_out = true;
    rondo_close(rondo_test_transport(peer));
    rondo_test_turn(test);
    cr_assert(eq(int, lost_with, 0));
    cr_assert(rondo_test_sees_eof(peer));

    rondo_test_advance(test, 999);
    cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("late")), 0));
    cr_assert_not(rondo_test_was_reset(peer));
    cr_assert(eq(sz, rondo_test_written(peer).size, 9));
    rondo_test_advance(test, 2);
    cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("too late")), -ECONNRESET));
    over();
}

static struct memory_socket *its_socket(void)
{
    int fd = rondo_test_transport(peer)->fd;
    return memory_socket_of(simulated_sockets(rondo_test_loop(test)->engine), fd)->other;
}

Test(on_demand, a_slow_peer_may_stall_for_seconds_while_the_transport_lingers)
{
    char taken[4];
    given(&plain);
    struct memory_socket *socket = its_socket();
    socket->window = 4;
    rondo_write(rondo_test_transport(peer), RONDO_BYTES("an answer"));
    rondo_close(rondo_test_transport(peer));
    rondo_test_turn(test);
    for (unsigned seconds = 1; seconds < 5; seconds++) {
        rondo_test_advance(test, 1000);
        cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("?")), 0), "after %u seconds", seconds);
    }
    cr_assert_eq(memory_socket_receive(socket, taken, 2, NULL, 0, NULL), 2);
    for (unsigned seconds = 1; seconds <= 5; seconds++) {
        rondo_test_advance(test, 1000);
        cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("?")), 0), "%u seconds later", seconds);
    }
    rondo_test_advance(test, 1000);
    cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("?")), -ECONNRESET), "but not for ever");
    over();
}

Test(on_demand, who_takes_the_last_byte_late_is_waited_for_no_longer)
{
    char taken[9];
    given(&plain);
    struct memory_socket *socket = its_socket();
    socket->window = 4;
    rondo_write(rondo_test_transport(peer), RONDO_BYTES("an answer"));
    rondo_close(rondo_test_transport(peer));
    rondo_test_turn(test);
    rondo_test_advance(test, 3000);
    cr_assert_eq(memory_socket_receive(socket, taken, 9, NULL, 0, NULL), 9);
    rondo_test_advance(test, 1001);
    cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("?")), -ECONNRESET));
    over();
}

Test(on_demand, those_that_linger_are_looked_at_one_after_another)
{
    given(&plain);
    rondo_test_peer *second = rondo_test_connect(test, &plain);
    rondo_close(rondo_test_transport(peer));
    rondo_test_turn(test);
    rondo_test_advance(test, 500);
    rondo_close(rondo_test_transport(second));
    rondo_test_turn(test);
    rondo_test_advance(test, 501);
    cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("late")), -ECONNRESET));
    cr_assert(eq(int, rondo_test_feed(second, RONDO_BYTES("in time")), 0));
    rondo_test_advance(test, 500);
    cr_assert(eq(int, rondo_test_feed(second, RONDO_BYTES("late")), -ECONNRESET));
    cr_assert(eq(u64, timers_next_ms(&rondo_test_loop(test)->timers), UINT64_MAX));
    over();
}
