/* The string receiver on a transport, by the test kit: where strings lie, and what stops them. The parser has tests of its
 * own. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rondo/strings.h>

#include "net/transport.h"
#include "support/receiver.h"

TestSuite(strings, .timeout = 30);

/* Called with: "<string>" each, "!length" for one too long. */
static void (*when_received)(rondo_transport *t, rondo_bytes string);
static bool in_place;

struct state {
    unsigned strings;
};

static void string_received(rondo_transport *t, rondo_bytes string)
{
    struct state *self = rondo_self(t);
    self->strings++;
    note("<", string, ">");
    in_place = lies_in_a_buffer(string);
    if (when_received != NULL)
        when_received(t, string);
}

static void length_limit_exceeded(rondo_transport *t, uint64_t length)
{
    char number[24];
    (void)t;
    snprintf(number, sizeof number, "!%llu", (unsigned long long)length);
    note(number, (rondo_bytes){ NULL, 0 }, "");
}

#define CALLS                                                                                                \
    .protocol.connection_made = connection_made, .protocol.connection_lost = connection_lost,                \
    .string_received = string_received

static const rondo_string_protocol int8 = { RONDO_INT8_STRING_RECEIVER("int8", sizeof(struct state)), CALLS };
static const rondo_string_protocol int16 = { RONDO_INT16_STRING_RECEIVER("int16", sizeof(struct state)),
                                             CALLS };
static const rondo_string_protocol int32 = { RONDO_INT32_STRING_RECEIVER("int32", sizeof(struct state)),
                                             CALLS };
static const rondo_string_protocol net = { RONDO_NETSTRING_RECEIVER("net", sizeof(struct state)), CALLS,
                                           .max_length = 20 };
static const rondo_string_protocol patient = { RONDO_NETSTRING_RECEIVER("patient", sizeof(struct state)),
                                               CALLS, .max_length = 20,
                                               .length_limit_exceeded = length_limit_exceeded };

static void assert_written(rondo_bytes expected)
{
    rondo_bytes bytes = rondo_test_written(peer);
    cr_assert(eq(sz, bytes.size, expected.size));
    cr_assert_arr_eq(bytes.data, expected.data, expected.size);
}

Test(strings, strings_come_where_they_were_received)
{
    given(&net.protocol);
    feed("3:one,3:two,0:,5:thr");
    cr_assert(eq(str, calls, "<one><two><>"));
    cr_assert(in_place);
    cr_assert(eq(uint, buffers_lent(), 0), "an incomplete string keeps no buffer");

    feed("ee,4:four,");
    cr_assert(eq(str, calls, "<one><two><><three><four>"));
    cr_assert(in_place);
    cr_assert(eq(uint, ((struct state *)rondo_self(transport))->strings, 5));
    over();
}

static void send_it_back(rondo_transport *t, rondo_bytes string)
{
    cr_assert(eq(int, rondo_send_string(t, string), 0));
}

Test(strings, each_framing_is_echoed_as_it_came)
{
    static const struct {
        const rondo_string_protocol *strings;
        rondo_bytes bytes;
    } cases[] = {
        { &int8, { "\5hello\0\5there", 13 } },
        { &int16, { "\0\5hello\0\0\0\5there", 16 } },
        { &int32, { "\0\0\0\5hello\0\0\0\0\0\0\0\5there", 22 } },
        { &net, { "5:hello,0:,5:there,", 19 } },
    };
    for (unsigned i = 0; i < 4; i++) {
        for (size_t piece = cases[i].bytes.size; piece > 0; piece--) {
            calls[0] = '\0';
            given(&cases[i].strings->protocol);
            when_received = send_it_back;
            cr_assert(eq(int, rondo_test_feed_in_pieces(peer, cases[i].bytes, piece), 0));
            cr_assert(eq(str, calls, "<hello><><there>"), "in pieces of %zu", piece);
            assert_written(cases[i].bytes);
            over();
        }
    }
}

static void send_it_back_and_count(rondo_transport *t, rondo_bytes string)
{
    send_it_back(t, string);
    cr_assert(eq(uint, slices_of_output(), 1), "adjacent strings leave as one slice");
    cr_assert(eq(uint, t->output.lent, 1), "from where they were received");
}

Test(strings, strings_sent_back_leave_without_a_copy)
{
    given(&net.protocol);
    when_received = send_it_back_and_count;
    feed("3:one,0:,5:three,");
    assert_written(RONDO_BYTES("3:one,0:,5:three,"));
    over();
}

static void send_others(rondo_transport *t, rondo_bytes string)
{
    send_it_back(t, RONDO_BYTES("you said"));
    send_it_back(t, (rondo_bytes){ string.data, string.size - 1 }); /* not all of it */
    send_it_back(t, (rondo_bytes){ string.data + 1, string.size - 1 });
    send_it_back(t, RONDO_BYTES(""));
}

Test(strings, other_strings_get_a_prefix_of_their_own)
{
    given(&int16.protocol);
    when_received = send_others;
    feed_bytes((rondo_bytes){ "\0\5hello", 7 });
    assert_written((rondo_bytes){ "\0\10you said\0\4hell\0\4ello\0\0", 24 });
    over();
}

static void send_too_much(rondo_transport *t, rondo_bytes string)
{
    static const char much[65536];
    (void)string;
    cr_assert(eq(int, rondo_send_string(t, (rondo_bytes){ much, 65536 }), -EMSGSIZE));
    cr_assert(eq(sz, rondo_get_write_buffer_size(t), 0));
    send_it_back(t, (rondo_bytes){ much, 65535 });
}

Test(strings, what_the_prefix_cannot_tell_is_refused)
{
    given(&int16.protocol);
    when_received = send_too_much;
    feed_bytes((rondo_bytes){ "\0\1x", 3 });
    rondo_bytes bytes = rondo_test_written(peer);
    cr_assert(eq(sz, bytes.size, 65537));
    cr_assert_arr_eq(bytes.data, "\xff\xff", 2);
    over();
}

Test(strings, what_is_incomplete_at_eof_is_dropped)
{
    given(&net.protocol);
    feed("3:one,5:tw");
    rondo_test_feed_eof(peer);
    cr_assert(eq(str, calls, "<one>."));
    over();
}

Test(strings, a_string_too_long_closes_when_nobody_cares)
{
    given(&net.protocol);
    feed("5:short,21:");
    cr_assert(eq(str, calls, "<short>."));
    over();
}

Test(strings, a_string_too_long_is_skipped_when_the_protocol_stays)
{
    given(&patient.protocol);
    feed("20:12345678901234567890,21:12345678901234567");
    feed("8901,5:after,30:123456789012345678901234567890");
    feed(",4:last,");
    cr_assert(eq(str, calls, "<12345678901234567890>!21<after>!30<last>"));
    over();
}

Test(strings, twisted_s_limit_holds_by_default)
{
    static char much[RONDO_STRING_LENGTH_MAX + 1];
    given(&int32.protocol);
    feed_bytes((rondo_bytes){ "\0\1\x86\x9f", 4 }); /* 99,999 */
    memset(much, 'x', sizeof much);
    cr_assert(
        eq(int, rondo_test_feed_in_pieces(peer, (rondo_bytes){ much, RONDO_STRING_LENGTH_MAX }, 5000), 0));
    cr_assert(eq(sz, strlen(calls), RONDO_STRING_LENGTH_MAX + 2));
    feed_bytes((rondo_bytes){ "\0\1\x86\xa0", 4 });
    cr_assert(eq(chr, calls[strlen(calls) - 1], '.'));
    over();
}

Test(strings, what_is_no_netstring_closes)
{
    given(&patient.protocol);
    feed("3:one,x:two,3:abc,");
    cr_assert(eq(str, calls, "<one>."));
    over();
}

static void pause_there(rondo_transport *t, rondo_bytes string)
{
    (void)string;
    rondo_pause_reading(t);
}

Test(strings, a_pause_stops_the_strings_in_the_middle_of_a_buffer)
{
    given(&net.protocol);
    when_received = pause_there;
    feed("3:one,3:two,5:three,4:fou");
    cr_assert(eq(str, calls, "<one>"));
    cr_assert(eq(uint, buffers_lent(), 1), "the rest waits where it was received");
    feed("r,");
    cr_assert(eq(str, calls, "<one>"));
    for (int i = 0; i < 4; i++) {
        rondo_resume_reading(transport);
        rondo_test_turn(test);
    }
    cr_assert(eq(str, calls, "<one><two><three><four>"));
    over();
}

static void close_there(rondo_transport *t, rondo_bytes string)
{
    (void)string;
    rondo_close(t);
}

Test(strings, no_string_comes_after_close)
{
    given(&net.protocol);
    when_received = close_there;
    feed("3:one,3:two,");
    cr_assert(eq(str, calls, "<one>."));
    over();
}

static void begin_anew(rondo_transport *t, rondo_bytes string)
{
    (void)string;
    cr_assert(eq(int, rondo_set_protocol(t, &patient.protocol), 0));
}

Test(strings, a_table_set_again_is_a_new_receiver)
{
    given(&net.protocol);
    when_received = begin_anew;
    feed("3:one,3:two,5:thr");
    cr_assert(eq(str, calls, "<one><two>"));
    feed("ee,");
    cr_assert(eq(str, calls, "<one><two><three>"), "what the old one had begun is not lost");
    cr_assert(eq(uint, ((struct state *)rondo_self(transport))->strings, 0), "each string came to a new one");
    over();
}

Test(strings, strings_are_the_same_on_any_kernel)
{
    static char text[30000], wanted[sizeof calls];
    size_t size = 0, wanted_size = 0;
    for (int i = 0; i < 1500; i++) {
        char string[32];
        int length = snprintf(string, sizeof string, "string %d", i);
        size += (size_t)snprintf(text + size, sizeof text - size, "%d:%s,", length, string);
        wanted_size += (size_t)snprintf(wanted + wanted_size, sizeof wanted - wanted_size, "<%s>", string);
    }
    for (uint64_t seed = 1; seed <= 20; seed++) {
        calls[0] = '\0';
        given(&patient.protocol);
        rondo_test_disturb(test, seed);
        when_received = send_it_back;
        rondo_test_feed_in_pieces(peer, (rondo_bytes){ text, size }, 1000 * seed);
        cr_assert(eq(str, calls, wanted));
        assert_written((rondo_bytes){ text, size });
        over();
    }
}
