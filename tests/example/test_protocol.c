#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <rondo/rondo.h>
#include <rondo/testing.h>

extern const rondo_line_protocol adder; /* protocol.c */

static rondo_test *test;
static rondo_test_peer *peer;

static void connect_to_adder(void)
{
    test = rondo_test_open(NULL);
    peer = rondo_test_connect(test, &adder.protocol);
}

TestSuite(adder, .init = connect_to_adder);

/* Each test ends with it; Criterion would not count what fails in a .fini. */
static void nothing_is_left(void)
{
    cr_assert(eq(uint, rondo_test_close(test), 0));
}

static void expect_written(const char *expected)
{
    rondo_bytes written = rondo_test_written(peer);
    cr_assert_eq(written.size, strlen(expected), "%.*s", (int)written.size, written.data);
    cr_assert_arr_eq(written.data, expected, written.size);
    rondo_test_clear(peer);
}

Test(adder, adds_what_comes_in_pieces_of_any_size)
{
    for (size_t piece_bytes = 1; piece_bytes <= 10; piece_bytes++) {
        peer = rondo_test_connect(test, &adder.protocol);
        rondo_test_feed_in_pieces(peer, RONDO_BYTES("1\n-20\n300\n"), piece_bytes);
        expect_written("1\n-19\n281\n");
    }
    nothing_is_left();
}

Test(adder, refuses_what_is_no_number)
{
    rondo_test_feed(peer, RONDO_BYTES("1\ntwo\n3\n"));
    expect_written("1\nthat is no number\n");
    cr_assert(rondo_test_sees_eof(peer));
    nothing_is_left();
}

Test(adder, is_patient_for_ten_seconds)
{
    rondo_test_advance(test, 9999);
    rondo_test_feed(peer, RONDO_BYTES("1\n"));
    rondo_test_advance(test, 9999);
    expect_written("1\n");
    rondo_test_advance(test, 1);
    expect_written("goodbye\n");
    cr_assert_null(rondo_test_transport(peer), "the connection is lost");
    nothing_is_left();
}
