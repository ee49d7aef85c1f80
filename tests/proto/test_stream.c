/* Streams on a transport, by the test kit: when a handler runs, what it reads and where that lies, flow control, and
 * how both ends end. What asyncio's StreamReader does with any input is compared in tests/proto/asyncio. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <rondo/rondo.h>
#include <rondo/testing.h>

#include "core/loop.h"
#include "core/task.h"
#include "net/transport.h"
#include "proto/stream.h"

TestSuite(stream, .timeout = 30);

static rondo_test *test;
static rondo_test_peer *peer;
static char said[100000];

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    size_t size = strlen(said);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(said + size, sizeof said - size, format, arguments);
    va_end(arguments);
}

/* "6<hello\n>" for what a call returned and gave. */
static ssize_t tell(ssize_t size, rondo_bytes data)
{
    say("%zd<%.*s>", size, (int)data.size, data.data);
    return size;
}

static void expect(const char *text)
{
    cr_assert(eq(str, said, (char *)text));
    said[0] = '\0';
}

static void given(const rondo_stream_protocol *protocol)
{
    test = rondo_test_open(NULL);
    peer = rondo_test_connect(test, &protocol->protocol);
}

static void feed(const char *text)
{
    rondo_test_feed(peer, (rondo_bytes){ text, strlen(text) });
}

static void expect_written(const char *text)
{
    rondo_bytes written = rondo_test_written(peer);
    cr_assert_eq(written.size, strlen(text), "%.*s", (int)written.size, written.data);
    cr_assert(zero(int, memcmp(written.data, text, written.size)));
}

/* The books balance. */
static void over(void)
{
    cr_assert(zero(uint, tasks_count(rondo_test_loop(test)), "before the end of the test"));
    cr_assert(zero(uint, rondo_test_loop(test)->engine->buffers.lent));
    cr_assert(zero(uint, rondo_test_close(test)));
}

static void end_by_eof(void)
{
    rondo_test_feed_eof(peer);
    cr_assert(rondo_test_transport(peer) == NULL && rondo_test_sees_eof(peer));
    over();
}

static unsigned buffers_lent(void)
{
    return rondo_test_loop(test)->engine->buffers.lent;
}

/* ---- handlers run downwards ------------------------------------------------------------------------------ */

static void echo_lines(rondo_stream *s)
{
    rondo_bytes line;
    say("[");
    while (rondo_readline(s, &line) > 0) {
        rondo_stream_write(s, line);
        if (rondo_drain(s) < 0)
            break;
    }
    say("]");
}

static const rondo_stream_protocol line_echo = { RONDO_STREAM_READER("echo"),
                                                 .client_connected = echo_lines };

Test(stream, a_handler_begins_with_the_connection_and_ends_it)
{
    given(&line_echo);
    expect("[");
    feed("one\ntwo\nthr");
    expect_written("one\ntwo\n");
    feed("ee\n");
    expect_written("one\ntwo\nthree\n");
    feed("rest");
    rondo_test_feed_eof(peer);
    expect("]");
    expect_written("one\ntwo\nthree\nrest");
    cr_assert(rondo_test_sees_eof(peer) && rondo_test_transport(peer) == NULL);
    over();
}

Test(stream, the_same_in_pieces_of_any_size)
{
    static const char text[] = "a\n\nlonger line\n\n\nand \r\n the last\n";
    for (size_t piece = 1; piece <= sizeof text; piece++) {
        given(&line_echo);
        rondo_test_feed_in_pieces(peer, (rondo_bytes){ text, sizeof text - 1 }, piece);
        expect_written(text);
        end_by_eof();
    }
}

Test(stream, the_same_whatever_the_kernel_does)
{
    for (uint64_t seed = 1; seed <= 50; seed++) {
        static char text[20000];
        size_t size = 0;
        for (unsigned i = 0; size < sizeof text - 100; i++)
            size += (size_t)snprintf(text + size, 100, "line %u %.*s\n", i, (int)(i * seed % 60),
                                     "------------------------------------------------------------");
        given(&line_echo);
        rondo_test_disturb(test, seed);
        rondo_test_feed(peer, (rondo_bytes){ text, size });
        rondo_test_feed_eof(peer);
        while (rondo_test_transport(peer) != NULL)
            rondo_test_advance(test, 10);
        cr_assert_eq(rondo_test_written(peer).size, size, "seed %llu", (unsigned long long)seed);
        cr_assert(zero(int, memcmp(rondo_test_written(peer).data, text, size)));
        rondo_test_advance(test, 10000);
        over();
    }
}

static void say_hello(rondo_stream *s)
{
    rondo_stream_write(s, RONDO_BYTES("hello\n"));
}

static const rondo_stream_protocol hello = { RONDO_STREAM_READER("hello"), .client_connected = say_hello };

Test(stream, one_that_returns_at_once_has_what_it_wrote_sent)
{
    given(&hello);
    expect_written("hello\n");
    cr_assert(rondo_test_sees_eof(peer) && rondo_test_transport(peer) == NULL);
    over();
}

static const rondo_stream_protocol nobody = { RONDO_STREAM_READER("nobody") };

Test(stream, without_a_handler_the_connection_ends)
{
    given(&nobody);
    cr_assert(zero(ptr, rondo_test_transport(peer)));
    over();
}

static const rondo_stream_protocol too_large = {
    RONDO_STREAM_READER("too large"),
    .client_connected = echo_lines,
    .stack_size = SIZE_MAX,
};

Test(stream, with_a_stack_that_can_not_be_the_connection_ends)
{
    given(&too_large);
    cr_assert(zero(ptr, rondo_test_transport(peer)));
    over();
}

/* ---- what each call gives -------------------------------------------------------------------------------- */

static void read_in_all_ways(rondo_stream *s)
{
    static const rondo_bytes ends[] = { { "\r\n", 2 }, { ".", 1 }, { "stop", 4 } };
    rondo_bytes data;
    tell(rondo_read(s, 0, &data), data);
    tell(rondo_read(s, 3, &data), data);
    tell(rondo_readexactly(s, 0, &data), data);
    tell(rondo_readexactly(s, 5, &data), data);
    tell(rondo_readuntil(s, ends, 3, &data), data);
    tell(rondo_readuntil(s, ends, 3, &data), data);
    tell(rondo_readuntil(s, ends, 3, &data), data);
    cr_assert(not(rondo_at_eof(s)));
    tell(rondo_readuntil(s, ends, 3, &data), data);
    cr_assert(rondo_at_eof(s));
    tell(rondo_readuntil(s, ends, 3, &data), data);
    tell(rondo_readexactly(s, 1, &data), data);
    tell(rondo_readline(s, &data), data);
    tell(rondo_read(s, RONDO_TO_EOF, &data), data);
    tell(rondo_readuntil(s, ends, 0, &data), data);
    tell(rondo_readuntil(s, (rondo_bytes[]){ { "", 0 } }, 1, &data), data);
}

static const rondo_stream_protocol all_ways = { RONDO_STREAM_READER("all"),
                                                .client_connected = read_in_all_ways };

Test(stream, what_each_call_gives)
{
    char expected[1000];
    given(&all_ways);
    feed("abc");
    feed("12345");
    feed("one\r\ntwo.non-stop");
    feed("rest");
    rondo_test_feed_eof(peer);
    snprintf(expected, sizeof expected,
             "0<>3<abc>0<>5<12345>5<one\r\n>4<two.>8<non-stop>%d<rest>%d<>%d<>0<>0<>%d<>%d<>", -ENODATA,
             -ENODATA, -ENODATA, -EINVAL, -EINVAL);
    expect(expected);
    over();
}

static void read_to_eof(rondo_stream *s)
{
    rondo_bytes data;
    ssize_t size = rondo_read(s, RONDO_TO_EOF, &data);
    say("%zd", size);
    rondo_stream_write(s, data);
    cr_assert(rondo_at_eof(s));
}

static const rondo_stream_protocol to_eof = { RONDO_STREAM_READER("to eof"), .client_connected = read_to_eof,
                                              .limit = 100 };

Test(stream, reading_to_the_end_is_not_limited)
{
    static char text[300000];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + i % 23);
    given(&to_eof);
    rondo_test_feed(peer, (rondo_bytes){ text, sizeof text });
    expect("");
    rondo_test_feed_eof(peer);
    expect("300000");
    cr_assert(eq(sz, rondo_test_written(peer).size, sizeof text));
    cr_assert(zero(int, memcmp(rondo_test_written(peer).data, text, sizeof text)));
    over();
}

static void read_much_exactly(rondo_stream *s)
{
    rondo_bytes data;
    say("%zd", rondo_readexactly(s, 250000, &data));
    say(" %c%c", data.data[0], data.data[249999]);
    tell(rondo_readexactly(s, 50, &data), data);
}

static const rondo_stream_protocol much = { RONDO_STREAM_READER("much"),
                                            .client_connected = read_much_exactly, .limit = 100 };

Test(stream, exactly_so_many_may_be_more_than_the_limit)
{
    static char text[250010];
    char expected[100];
    memset(text, 'x', sizeof text);
    text[0] = '<', text[249999] = '>';
    given(&much);
    rondo_test_feed(peer, (rondo_bytes){ text, sizeof text });
    rondo_test_feed_eof(peer);
    snprintf(expected, sizeof expected, "250000 <>%d<xxxxxxxxxx>", -ENODATA);
    expect(expected);
    over();
}

/* ---- limits ---------------------------------------------------------------------------------------------- */

static void read_limited_lines(rondo_stream *s)
{
    rondo_bytes line;
    while (tell(rondo_readline(s, &line), line) != 0)
        ;
}

static const rondo_stream_protocol limited = { RONDO_STREAM_READER("limited"),
                                               .client_connected = read_limited_lines, .limit = 10 };

Test(stream, a_line_beyond_the_limit_is_dropped_up_to_its_end)
{
    char expected[200];
    given(&limited);
    feed("0123456789\n01234567890\nnext\n");
    snprintf(expected, sizeof expected, "11<0123456789\n>%d<>5<next\n>", -EMSGSIZE);
    expect(expected);
    feed("01234567890"); /* no end: all goes */
    snprintf(expected, sizeof expected, "%d<>", -EMSGSIZE);
    expect(expected);
    feed("of it\n");
    expect("6<of it\n>");
    end_by_eof();
}

static void skip_what_is_too_long(rondo_stream *s)
{
    static const rondo_bytes end = { "END", 3 };
    rondo_bytes data;
    ssize_t size = tell(rondo_readuntil(s, &end, 1, &data), data);
    if (size == -EMSGSIZE)
        tell(rondo_readexactly(s, data.size, &data), data);
    tell(rondo_readuntil(s, &end, 1, &data), data);
}

static const rondo_stream_protocol skipping = { RONDO_STREAM_READER("skipping"),
                                                .client_connected = skip_what_is_too_long, .limit = 10 };

Test(stream, beyond_the_limit_the_data_stay_and_can_be_taken)
{
    char expected[200];
    given(&skipping);
    feed("0123456789abcE");
    snprintf(expected, sizeof expected, "%d<0123456789ab>12<0123456789ab>", -EMSGSIZE);
    expect(expected);
    feed("ND");
    expect("4<cEND>");
    over();
}

static void keep_what_is_too_long(rondo_stream *s)
{
    static const rondo_bytes end = { "END", 3 };
    rondo_bytes seen;
    char copy[1000];
    cr_assert(eq(int, (int)rondo_readuntil(s, &end, 1, &seen), -EMSGSIZE));
    memcpy(copy, seen.data, seen.size);
    rondo_sleep(100);
    cr_assert(zero(int, memcmp(copy, seen.data, seen.size)));
    say("%zu", seen.size);
}

static const rondo_stream_protocol staring = {
    RONDO_STREAM_READER("staring"),
    .client_connected = keep_what_is_too_long,
    .limit = 600,
};

Test(stream, what_was_shown_stays_although_it_was_not_taken)
{
    static char text[701], more[401];
    memset(text, 'x', sizeof text - 1);
    memset(more, 'y', sizeof more - 1);
    given(&staring);
    feed("part, ");
    feed(text);
    feed(more); /* needs another block, and the first one would go, were it not shown */
    rondo_test_advance(test, 100);
    expect("704");
    over();
}

/* ---- where the bytes lie --------------------------------------------------------------------------------- */

static bool lies_in_a_buffer(rondo_bytes bytes)
{
    return buffers_own(&rondo_test_loop(test)->engine->buffers, bytes.data);
}

static void keep_a_slice(rondo_stream *s)
{
    rondo_bytes line;
    cr_assert(rondo_readline(s, &line) == 4 && lies_in_a_buffer(line));
    rondo_sleep(100);
    say("%.*s", (int)line.size, line.data);
    cr_assert(rondo_readline(s, &line) == 4 && !lies_in_a_buffer(line), "it came meanwhile");
    say("%.*s", (int)line.size, line.data);
    rondo_sleep(100);
    say("%.*s", (int)line.size, line.data);
}

static const rondo_stream_protocol keeping = { RONDO_STREAM_READER("keeping"),
                                               .client_connected = keep_a_slice };

Test(stream, a_slice_stays_until_the_next_reading)
{
    given(&keeping);
    feed("one\n");
    cr_assert(eq(uint, buffers_lent(), 1), "the slice lies in it");
    feed("two\n");
    feed("three\n");
    rondo_test_advance(test, 100);
    cr_assert(zero(uint, buffers_lent()));
    for (unsigned i = 0; i < 100; i++)
        feed("more than the block has room for, so that another one is needed\n");
    rondo_test_advance(test, 100);
    expect("one\ntwo\ntwo\n");
    over();
}

static void keep_for_long(rondo_stream *s)
{
    rondo_bytes line;
    rondo_readline(s, &line);
    rondo_sleep(1000);
    say("%.*s", (int)line.size, line.data);
}

static const rondo_stream_protocol keeping_for_long = { RONDO_STREAM_READER("keeping"),
                                                        .client_connected = keep_for_long };

Test(stream, an_idle_handler_holds_no_memory_for_its_input)
{
    given(&line_echo);
    feed("part of a line");
    const rondo_stream *s = *(rondo_stream **)rondo_self(rondo_test_transport(peer));
    cr_assert_not_null(s->input.block);
    feed(", and its end\n");
    cr_assert_null(s->input.block);
    end_by_eof();
}

Test(stream, slices_never_hold_more_than_half_of_the_buffers)
{
    enum { PEERS = 100 };
    rondo_test_peer *peers[PEERS];
    test = rondo_test_open(NULL);
    for (unsigned i = 0; i < PEERS; i++) {
        peers[i] = rondo_test_connect(test, &keeping_for_long.protocol);
        rondo_test_feed(peers[i], RONDO_BYTES("x\n"));
    }
    unsigned count = rondo_test_loop(test)->engine->buffers.count;
    cr_assert(buffers_lent() <= count / 2 + 1 && buffers_lent() >= count / 4);
    rondo_test_advance(test, 1000);
    cr_assert(eq(sz, strlen(said), 2 * PEERS));
    rondo_test_advance(test, 10000);
    over();
}

/* ---- flow control ---------------------------------------------------------------------------------------- */

static rondo_event go;

static void read_when_told(rondo_stream *s)
{
    rondo_bytes data;
    rondo_event_wait(&go);
    while (rondo_read(s, 50, &data) > 0) {
        rondo_event_clear(&go);
        rondo_event_wait(&go);
    }
}

static const rondo_stream_protocol slow = { RONDO_STREAM_READER("slow"), .client_connected = read_when_told,
                                            .limit = 100 };

static void let_go(void)
{
    rondo_event_set(&go);
    rondo_test_turn(test);
}

Test(stream, reading_pauses_above_twice_the_limit_and_goes_on_at_the_limit)
{
    static char text[201];
    memset(text, 'x', sizeof text);
    given(&slow);
    const rondo_transport *t = rondo_test_transport(peer);
    rondo_test_feed(peer, (rondo_bytes){ text, 200 });
    cr_assert(rondo_is_reading(t));
    rondo_test_feed(peer, (rondo_bytes){ text, 1 });
    cr_assert(not(rondo_is_reading(t)));
    let_go(), let_go(); /* 101 are left */
    cr_assert(not(rondo_is_reading(t)));
    let_go();
    cr_assert(rondo_is_reading(t));
    rondo_test_feed_eof(peer);
    let_go(), let_go(), let_go();
    over();
}

static void write_much(rondo_stream *s)
{
    static char text[100000];
    rondo_stream_write(s, (rondo_bytes){ text, sizeof text });
    say("(");
    say("%d)", rondo_drain(s));
    say("%d", rondo_drain(s));
}

static void wait_then_write(rondo_stream *s)
{
    rondo_bytes line;
    rondo_readline(s, &line);
    write_much(s);
}

static const rondo_stream_protocol patient = { RONDO_STREAM_READER("patient"),
                                               .client_connected = wait_then_write };

Test(stream, drain_waits_while_the_output_is_above_the_mark)
{
    given(&patient);
    rondo_test_set_room(peer, 1000);
    feed("go\n");
    expect("(");
    rondo_test_set_room(peer, RONDO_TEST_ANY_ROOM);
    rondo_test_turn(test);
    expect("0)0");
    cr_assert(eq(sz, rondo_test_written(peer).size, 100000));
    over();
}

Test(stream, a_drain_that_waits_ends_with_the_connection)
{
    char expected[40];
    given(&patient);
    rondo_test_set_room(peer, 1000);
    feed("go\n");
    expect("(");
    rondo_test_reset(peer);
    snprintf(expected, sizeof expected, "%d)%d", -ECONNRESET, -ECONNRESET);
    expect(expected);
    over();
}

static void close_and_write_on(rondo_stream *s)
{
    unsigned times = 0;
    int rc;
    rondo_stream_close(s);
    while ((rc = rondo_drain(s)) == 0 && times++ < 1000)
        rondo_stream_write(s, RONDO_BYTES("more"));
    cr_assert(rc == -ECANCELED || rc == -ECONNRESET);
    say("%d", rondo_drain(s));
}

static const rondo_stream_protocol deaf = { RONDO_STREAM_READER("deaf"),
                                            .client_connected = close_and_write_on };

Test(stream, who_only_writes_hears_of_the_end)
{
    char expected[20];
    given(&deaf);
    snprintf(expected, sizeof expected, "%d", -ECONNRESET);
    expect(expected);
    over();
}

/* ---- ends ------------------------------------------------------------------------------------------------ */

static void clean_up(rondo_stream *s)
{
    rondo_bytes line;
    ssize_t size = rondo_readline(s, &line);
    say("%zd ", size);
    say("%d ", rondo_sleep(5));
    cr_assert(rondo_stream_is_closing(s) && rondo_stream_transport(s) == NULL);
    rondo_stream_write(s, RONDO_BYTES("dropped"));
    say("%zd", rondo_read(s, 1, &line));
}

static const rondo_stream_protocol cleaning = { RONDO_STREAM_READER("cleaning"),
                                                .client_connected = clean_up };

Test(stream, a_lost_connection_cancels_its_handler)
{
    char expected[80];
    given(&cleaning);
    feed("part of a line");
    rondo_test_reset(peer);
    snprintf(expected, sizeof expected, "%d %d %d", -ECONNRESET, -ECANCELED, -ECONNRESET);
    expect(expected);
    over();
}

Test(stream, so_does_an_abort_from_outside)
{
    char expected[80];
    given(&cleaning);
    rondo_abort(rondo_test_transport(peer));
    rondo_test_turn(test);
    snprintf(expected, sizeof expected, "0 %d 0", -ECANCELED);
    expect(expected);
    over();
}

static void sleep_long(rondo_stream *s)
{
    rondo_bytes data;
    say("%d ", rondo_sleep(1000000));
    tell(rondo_read(s, 100, &data), data);
}

static const rondo_stream_protocol sleeping = { RONDO_STREAM_READER("sleeping"),
                                                .client_connected = sleep_long };

Test(stream, also_one_that_waits_for_something_else)
{
    char expected[80];
    given(&sleeping);
    rondo_close(rondo_test_transport(peer));
    rondo_test_turn(test);
    snprintf(expected, sizeof expected, "%d 0<>", -ECANCELED);
    expect(expected);
    over();
}

static void close_and_wait(rondo_stream *s)
{
    rondo_bytes line;
    rondo_readline(s, &line);
    rondo_stream_close(s);
    rondo_stream_close(s);
    cr_assert(rondo_stream_is_closing(s));
    say("%d", rondo_stream_wait_closed(s));
    say(" %d", rondo_drain(s));
    int descriptor;
    cr_assert(eq(int, rondo_stream_get_extra_info(s, "socket", &descriptor, sizeof descriptor), -ENOTCONN));
}

static const rondo_stream_protocol closing = { RONDO_STREAM_READER("closing"),
                                               .client_connected = close_and_wait };

Test(stream, closing_and_waiting_for_it)
{
    char expected[40];
    given(&closing);
    feed("now\n");
    snprintf(expected, sizeof expected, "0 %d", -ECONNRESET);
    expect(expected);
    cr_assert(rondo_test_sees_eof(peer));
    over();
}

static void half_close(rondo_stream *s)
{
    rondo_bytes data;
    cr_assert(rondo_stream_can_write_eof(s));
    rondo_stream_writelines(s, (rondo_bytes[]){ RONDO_BYTES("that's "), RONDO_BYTES("all") }, 2);
    rondo_stream_write_eof(s);
    tell(rondo_read(s, RONDO_TO_EOF, &data), data);
}

static const rondo_stream_protocol half_closing = { RONDO_STREAM_READER("half"),
                                                    .client_connected = half_close };

Test(stream, half_closed_it_goes_on_reading)
{
    given(&half_closing);
    cr_assert(rondo_test_sees_eof(peer));
    expect_written("that's all");
    feed("answer");
    rondo_test_feed_eof(peer);
    expect("6<answer>");
    over();
}

/* ---- tasks beside the handler ---------------------------------------------------------------------------- */

static int read_too(void *argument)
{
    rondo_bytes data;
    say("%zd ", rondo_read(argument, 1, &data));
    return 0;
}

static void read_twice(rondo_stream *s)
{
    rondo_bytes data;
    const rondo_task_options options = { .run = read_too, .argument = s };
    rondo_create_task(rondo_task_get_loop(rondo_current_task()), &options, NULL);
    tell(rondo_read(s, 10, &data), data);
}

static const rondo_stream_protocol two_readers = { RONDO_STREAM_READER("two"),
                                                   .client_connected = read_twice };

Test(stream, a_second_reader_is_refused)
{
    char expected[40];
    given(&two_readers);
    feed("x");
    snprintf(expected, sizeof expected, "%d 1<x>", -EBUSY);
    expect(expected);
    over();
}

static void read_in_time(rondo_stream *s)
{
    rondo_bytes line;
    rondo_timeout(1000);
    ssize_t size = rondo_readline(s, &line);
    rondo_stream_write(s, size == -ETIMEDOUT ? RONDO_BYTES("too slow\n") : RONDO_BYTES("well\n"));
}

static const rondo_stream_protocol timed = { RONDO_STREAM_READER("timed"), .client_connected = read_in_time };

Test(stream, a_time_limit)
{
    given(&timed);
    feed("never the end");
    rondo_test_advance(test, 999);
    expect_written("");
    rondo_test_advance(test, 1);
    expect_written("too slow\n");
    over();
}

Test(stream, calls_that_must_wait_want_a_task)
{
    rondo_bytes data;
    given(&sleeping);
    feed("abc");
    struct rondo_stream **state = rondo_self(rondo_test_transport(peer));
    tell(rondo_read(*state, 2, &data), data);
    tell(rondo_read(*state, 2, &data), data);
    cr_assert(eq(int, (int)rondo_read(*state, 2, &data), -EPERM));
    cr_assert(zero(int, rondo_drain(*state)));
    cr_assert(eq(int, rondo_stream_wait_closed(*state), -EPERM));
    expect("2<ab>1<c>");
    rondo_test_reset(peer);
    over();
}

/* ---- from and to other protocols ------------------------------------------------------------------------- */

static void upgrade_to_streams(rondo_transport *t, rondo_bytes line)
{
    (void)line;
    rondo_set_protocol(t, &line_echo.protocol);
}

static const rondo_line_protocol before = { RONDO_LINE_RECEIVER("before", 0),
                                            .line_received = upgrade_to_streams };

Test(stream, a_handler_of_a_connection_that_was_another_protocols)
{
    test = rondo_test_open(NULL);
    peer = rondo_test_connect(test, &before.protocol);
    feed("upgrade\nmore\n");
    expect_written("more\n");
    feed("and more\n");
    expect_written("more\nand more\n");
    expect("[");
    end_by_eof();
    expect("]");
}

Test(stream, one_that_has_not_begun_when_the_server_drains)
{
    test = rondo_test_open(NULL);
    peer = rondo_test_connect(test, &before.protocol);
    feed("upgrade\n");
    rondo_stop(rondo_test_loop(test));
    rondo_test_turn(test);
    cr_assert_null(rondo_test_transport(peer));
    expect("");
    over();
}

static void data_received(rondo_transport *t, rondo_bytes data)
{
    (void)t;
    say("{%.*s}", (int)data.size, data.data);
}

static void connection_lost(rondo_transport *t, int error)
{
    (void)t;
    say("{lost %d}", error);
}

static const rondo_protocol after = { .name = "after",
                                      .data_received = data_received,
                                      .connection_lost = connection_lost };

static void upgrade_from_streams(rondo_stream *s)
{
    rondo_bytes line;
    tell(rondo_readline(s, &line), line);
    cr_assert(zero(int, rondo_set_protocol(rondo_stream_transport(s), &after)));
    rondo_sleep(1);
    tell(rondo_readline(s, &line), line);
    cr_assert(zero(ptr, rondo_stream_transport(s)));
    rondo_stream_write(s, RONDO_BYTES("dropped"));
}

static const rondo_stream_protocol upgrading = { RONDO_STREAM_READER("upgrading"),
                                                 .client_connected = upgrade_from_streams };

Test(stream, a_connection_that_becomes_another_protocols)
{
    given(&upgrading);
    feed("upgrade\nraw ");
    feed("bytes");
    rondo_test_advance(test, 1);
    expect("8<upgrade\n>{raw }{bytes}0<>");
    expect_written("");
    rondo_test_reset(peer);
    char expected[40];
    snprintf(expected, sizeof expected, "{lost %d}", -ECONNRESET);
    expect(expected);
    over();
}

struct later {
    unsigned zero[10];
};

static void count_zeros(rondo_transport *t, rondo_bytes data)
{
    const struct later *self = rondo_self(t);
    unsigned zeros = 0;
    for (unsigned i = 0; i < 10; i++)
        zeros += self->zero[i] == 0;
    say("{%u %.*s}", zeros, (int)data.size, data.data);
}

static const rondo_protocol later = {
    .name = "later",
    .size = sizeof(struct later),
    .data_received = count_zeros,
    .connection_lost = connection_lost,
};

static void upgrade_and_return(rondo_stream *s)
{
    rondo_bytes line;
    tell(rondo_readline(s, &line), line);
    cr_assert(zero(int, rondo_set_protocol(rondo_stream_transport(s), &later)));
    rondo_stream_write(s, RONDO_BYTES("dropped"));
    rondo_stream_close(s);
    cr_assert(rondo_stream_is_closing(s));
    if (line.data[0] == 'r')
        tell(rondo_read(s, 10, &line), line);
}

static const rondo_stream_protocol passing = { RONDO_STREAM_READER("passing"),
                                               .client_connected = upgrade_and_return };

Test(stream, one_that_hands_its_connection_on_may_return_at_once)
{
    static const char *const words[] = { "upgrade\nraw ", "read on\nraw " };
    for (unsigned i = 0; i < 2; i++) {
        given(&passing);
        feed(words[i]);
        feed("bytes");
        expect(i == 0 ? "8<upgrade\n>{10 raw }{10 bytes}" : "8<read on\n>0<>{10 raw }{10 bytes}");
        cr_assert_not_null(rondo_test_transport(peer));
        expect_written("");
        rondo_test_feed_eof(peer);
        expect("{lost 0}");
        over();
    }
}

/* ---- the server drains ----------------------------------------------------------------------------------- */

static void stop(void)
{
    rondo_stop(rondo_test_loop(test));
    rondo_test_turn(test);
}

Test(stream, an_idle_handler_ends_when_the_server_drains)
{
    given(&line_echo);
    feed("one\n");
    stop();
    expect("[]");
    cr_assert(rondo_test_sees_eof(peer));
    expect_written("one\n");
    over();
}

static void answer_slowly(rondo_stream *s)
{
    rondo_bytes line;
    ssize_t size;
    static char large[100000];
    while ((size = rondo_readline(s, &line)) > 0) {
        rondo_stream_write(s, (rondo_bytes){ large, sizeof large });
        int rc = rondo_drain(s);
        say("%d ", rc);
        if (rc < 0)
            return;
    }
    say("%zd %d", size, rondo_sleep(1));
    rondo_stream_write(s, RONDO_BYTES("bye"));
}

static const rondo_stream_protocol answering = { RONDO_STREAM_READER("answering"),
                                                 .client_connected = answer_slowly };

Test(stream, what_had_arrived_is_answered_before_and_its_peer_waited_for)
{
    char expected[80];
    given(&answering);
    rondo_test_set_room(peer, 1000);
    feed("one\ntwo\nthree\nrest");
    stop();
    expect("");
    cr_assert(rondo_test_transport(peer) != NULL);
    rondo_test_set_room(peer, RONDO_TEST_ANY_ROOM);
    rondo_test_turn(test);
    snprintf(expected, sizeof expected, "0 0 0 %d %d", -ECANCELED, -ECANCELED);
    expect(expected);
    cr_assert(eq(sz, rondo_test_written(peer).size, 300003));
    cr_assert(rondo_test_sees_eof(peer));
    over();
}

static void answer_in_time(rondo_stream *s)
{
    rondo_timeout(500);
    answer_slowly(s);
}

static const rondo_stream_protocol hurried = {
    RONDO_STREAM_READER("hurried"),
    .client_connected = answer_in_time,
};

Test(stream, but_not_for_longer_than_it_wants_to_wait)
{
    char expected[40];
    given(&hurried);
    rondo_test_set_room(peer, 1000);
    feed("one\n");
    stop();
    rondo_test_advance(test, 499);
    expect("");
    rondo_test_advance(test, 1);
    snprintf(expected, sizeof expected, "%d ", -ETIMEDOUT);
    expect(expected);
    rondo_test_reset(peer);
    over();
}

static unsigned lines_read, naps_taken;

static int nap(void *argument)
{
    (void)argument;
    return rondo_sleep(10);
}

static void take_one_at_a_time(rondo_stream *s)
{
    const rondo_task_options options = { .run = nap };
    rondo_loop *loop = rondo_task_get_loop(rondo_current_task());
    rondo_bytes line;
    rondo_task *child;
    while (rondo_readline(s, &line) > 0) {
        lines_read++;
        cr_assert(zero(int, rondo_create_task(loop, &options, &child)));
        naps_taken += rondo_join(child) == 0;
    }
}

static const rondo_stream_protocol taking_its_time = {
    RONDO_STREAM_READER("taking its time"),
    .client_connected = take_one_at_a_time,
    .limit = 10,
};

/* Not even its child's sleep is cut short as long as there is something that it has not been given. */
Test(stream, a_handler_is_not_cancelled_before_all_that_had_arrived_is_in_its_buffer)
{
    given(&taking_its_time);
    for (unsigned i = 0; i < 20; i++)
        feed("line\n");
    cr_assert(not(rondo_is_reading(rondo_test_transport(peer))));
    stop();
    rondo_test_advance(test, 1000);
    cr_assert(eq(uint, lines_read, 20));
    cr_assert(naps_taken >= 3 && naps_taken < 20);
    over();
}

Test(stream, one_that_waits_for_something_else_is_cancelled)
{
    char expected[40];
    given(&sleeping);
    feed("input");
    stop();
    snprintf(expected, sizeof expected, "%d 5<input>", -ECANCELED);
    expect(expected);
    over();
}

static void never_return(rondo_stream *s)
{
    volatile bool stays = true;
    rondo_bytes line;
    while (stays) {
        rondo_readline(s, &line);
        rondo_sleep(1);
    }
}

static const rondo_stream_protocol stubborn = { RONDO_STREAM_READER("stubborn"),
                                                .client_connected = never_return };

Test(stream, one_that_does_not_return_is_left_behind)
{
    given(&stubborn);
    feed("part of a line, whose memory must not leak");
    stop();
    cr_assert_not_null(rondo_test_transport(peer));
    cr_assert(eq(uint, rondo_test_close(test), 1));
}

/* ---- many ------------------------------------------------------------------------------------------------ */

Test(stream, ten_thousand_handlers_at_once)
{
    enum { MANY = 10000 };
    static rondo_test_peer *peers[MANY];
    test = rondo_test_open(NULL);
    for (unsigned i = 0; i < MANY; i++)
        peers[i] = rondo_test_connect(test, &line_echo.protocol);
    cr_assert(eq(uint, tasks_count(rondo_test_loop(test)), MANY));
    for (unsigned i = 0; i < MANY; i += 97) {
        peer = peers[i];
        feed("one of many\n");
        expect_written("one of many\n");
    }
    said[0] = '\0';
    stop();
    rondo_test_advance(test, 1000); /* for those who have just come */
    cr_assert(zero(uint, tasks_count(rondo_test_loop(test))));
    for (unsigned i = 0; i < MANY; i++)
        cr_assert(rondo_test_sees_eof(peers[i]));
    over();
}
