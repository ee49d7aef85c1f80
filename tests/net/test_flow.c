/* What a transport keeps only while it is needed, and that there may be no memory for it. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>

#include <rondo/line.h>
#include <rondo/testing.h>

#include "net/flow.h"

TestSuite(flow, .timeout = 30);

static bool memory_is_out;
void *__real_memory_new(size_t size);
void *__wrap_memory_new(size_t size);

void *__wrap_memory_new(size_t size)
{
    return memory_is_out ? NULL : __real_memory_new(size);
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

Test(flow, is_there_while_bytes_wait_and_no_longer)
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

Test(flow, is_there_while_bytes_wait_in_the_protocols_memory_and_no_longer)
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

Test(flow, is_there_while_limits_are_not_the_default_ones)
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

Test(flow, limits_without_memory_are_refused_and_nothing_has_changed)
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

Test(flow, what_can_not_be_held_ends_the_connection)
{
    given(&lines.protocol);
    memory_is_out = true;
    rondo_test_feed(peer, RONDO_BYTES("one\ntwo\n"));
    cr_assert(eq(str, got, "one"));
    cr_assert(eq(int, lost_with, -ENOMEM));
    over();
}

Test(flow, nor_can_what_lies_in_the_protocols_memory)
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

Test(flow, an_error_that_nobody_was_left_to_be_told_of_is_none)
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

Test(flow, an_error_is_told_behind_what_waits)
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
