/* The line receiver on a transport, by the test kit: where lines lie, and what stops them. The parser has tests of its
 * own. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>

#include <rondo/line.h>

#include "net/transport.h"
#include "support/receiver.h"

TestSuite(line, .timeout = 30);

/* Called with: "<line>" each, "!" for one too long. */
static void (*when_received)(rondo_transport *t, rondo_bytes line);
static bool in_place;

struct state {
    unsigned lines;
};

static void line_received(rondo_transport *t, rondo_bytes line)
{
    struct state *self = rondo_self(t);
    self->lines++;
    note("<", line, ">");
    in_place = lies_in_a_buffer(line);
    if (when_received != NULL)
        when_received(t, line);
}

static const rondo_line_protocol plain = {
    RONDO_LINE_RECEIVER("plain", sizeof(struct state)),
    .protocol.connection_made = connection_made,
    .protocol.connection_lost = connection_lost,
    .line_received = line_received,
    .max_length = 20,
};

static void line_length_exceeded(rondo_transport *t, rondo_bytes line)
{
    (void)t;
    cr_assert(eq(sz, line.size, 21));
    note("!", (rondo_bytes){ NULL, 0 }, "");
}

static const rondo_line_protocol patient = {
    RONDO_LINE_RECEIVER("patient", sizeof(struct state)),
    .protocol.connection_made = connection_made,
    .protocol.connection_lost = connection_lost,
    .line_received = line_received,
    .line_length_exceeded = line_length_exceeded,
    .delimiter = RONDO_BYTES("\r\n"),
    .max_length = 20,
};

static rondo_bytes bytes_of(const char *text)
{
    return (rondo_bytes){ text, strlen(text) };
}

static char *written(void)
{
    static char text[1000];
    rondo_bytes bytes = rondo_test_written(peer);
    snprintf(text, sizeof text, "%.*s", (int)bytes.size, bytes.data);
    return text;
}

Test(line, lines_come_where_they_were_received)
{
    given(&plain.protocol);
    feed("one\ntwo\n\nthr");
    cr_assert(eq(str, calls, "<one><two><>"));
    cr_assert(in_place);
    cr_assert(eq(uint, buffers_lent(), 0), "an incomplete line keeps no buffer");

    feed("ee\nfour\n");
    cr_assert(eq(str, calls, "<one><two><><three><four>"));
    cr_assert(in_place);
    cr_assert(eq(uint, ((struct state *)rondo_self(transport))->lines, 5));
    over();
}

Test(line, what_follows_the_last_delimiter_is_dropped_at_eof)
{
    given(&plain.protocol);
    feed("one\ntwo");
    rondo_test_feed_eof(peer);
    cr_assert(eq(str, calls, "<one>."));
    over();
}

Test(line, a_line_too_long_closes_when_nobody_cares)
{
    given(&plain.protocol);
    feed("short\n123456789012345678901\nlost\n");
    cr_assert(eq(str, calls, "<short>."));
    over();
}

Test(line, a_line_too_long_is_skipped_when_the_protocol_stays)
{
    given(&patient.protocol);
    feed("12345678901234567890\r\n");
    cr_assert(eq(str, calls, "<12345678901234567890>"));
    feed("123456789012345678901");
    feed("\r\nafter\r\n1234567890123456789012345678901234567890\r");
    feed("\nlast\r\n");
    cr_assert(eq(str, calls, "<12345678901234567890>!<after>!<last>"));
    over();
}

static void send_it_back(rondo_transport *t, rondo_bytes line)
{
    rondo_send_line(t, line);
}

static void send_it_back_and_count(rondo_transport *t, rondo_bytes line)
{
    rondo_send_line(t, line);
    cr_assert(eq(uint, slices_of_output(), 1), "adjacent lines leave as one slice");
    cr_assert(eq(uint, t->output.lent, 1), "from where they were received");
}

Test(line, lines_sent_back_leave_without_a_copy)
{
    given(&patient.protocol);
    when_received = send_it_back_and_count;
    feed("one\r\ntwo\r\n\r\nthree\r\nfou");
    when_received = send_it_back;
    feed("r\r\n");
    cr_assert(eq(str, written(), "one\r\ntwo\r\n\r\nthree\r\nfour\r\n"));
    over();
}

static void send_something_else(rondo_transport *t, rondo_bytes line)
{
    char other[40];
    int size = snprintf(other, sizeof other, "you said %.*s", (int)line.size, line.data);
    rondo_send_line(t, (rondo_bytes){ other, (size_t)size });
    rondo_send_line(
        t, (rondo_bytes){ line.data, line.size - 1 }); /* not all of it: the delimiter isn't behind it */
    rondo_send_line(t, (rondo_bytes){ line.data + 1, line.size - 1 });
}

Test(line, other_lines_are_copied_with_their_delimiter)
{
    given(&patient.protocol);
    when_received = send_something_else;
    feed("hello\r\n");
    cr_assert(eq(str, written(), "you said hello\r\nhell\r\nello\r\n"));
    over();
}

static void pause_there(rondo_transport *t, rondo_bytes line)
{
    (void)line;
    rondo_pause_reading(t);
}

Test(line, a_pause_stops_the_lines_in_the_middle_of_a_buffer)
{
    given(&plain.protocol);
    when_received = pause_there;
    feed("one\ntwo\nthree\nfou");
    cr_assert(eq(str, calls, "<one>"));
    cr_assert(eq(uint, buffers_lent(), 1), "the rest waits where it was received");
    feed("r\n");
    cr_assert(eq(str, calls, "<one>"));

    rondo_resume_reading(transport);
    rondo_test_turn(test);
    cr_assert(eq(str, calls, "<one><two>"));
    for (int i = 0; i < 3; i++) {
        rondo_resume_reading(transport);
        rondo_test_turn(test);
    }
    cr_assert(eq(str, calls, "<one><two><three><four>"));
    over();
}

static void close_there(rondo_transport *t, rondo_bytes line)
{
    (void)line;
    rondo_close(t);
}

static void abort_there(rondo_transport *t, rondo_bytes line)
{
    (void)line;
    rondo_abort(t);
}

Test(line, no_line_comes_after_close_or_abort)
{
    given(&plain.protocol);
    when_received = close_there;
    feed("one\ntwo\n");
    cr_assert(eq(str, calls, "<one>."));
    over();
}

Test(line, no_line_comes_after_abort)
{
    given(&plain.protocol);
    when_received = abort_there;
    feed("one\ntwo\n");
    cr_assert(eq(str, calls, "<one>."));
    over();
}

static void begin_anew(rondo_transport *t, rondo_bytes line)
{
    (void)line;
    cr_assert(eq(int, rondo_set_protocol(t, &plain.protocol), 0));
}

Test(line, a_table_set_again_is_a_new_receiver)
{
    given(&plain.protocol);
    when_received = begin_anew;
    feed("one\ntwo\nthr");
    cr_assert(eq(str, calls, "<one><two>"));
    feed("ee\n");
    cr_assert(eq(str, calls, "<one><two><three>"), "what the old one had begun is not lost");
    cr_assert(eq(uint, ((struct state *)rondo_self(transport))->lines, 0), "each line came to a new one");
    over();
}

static char answer[20000];

static void answer_at_length(rondo_transport *t, rondo_bytes line)
{
    (void)line;
    rondo_send_line(t, (rondo_bytes){ answer, sizeof answer });
}

Test(line, back_pressure_also_stops_the_lines_of_one_buffer)
{
    static char commands[2001];
    for (int i = 0; i < 1000; i++)
        memcpy(commands + 2 * i, "x\n", 2);
    memset(answer, 'a', sizeof answer);
    given(&plain.protocol);
    rondo_test_set_room(peer, 4096);
    when_received = answer_at_length;
    feed(commands);

    cr_assert_lt(rondo_get_write_buffer_size(transport), 65536 + 2 * sizeof answer, "not a thousand answers");
    size_t size = 1000 * (sizeof answer + 1), got = 0;
    for (size_t more; (more = rondo_test_written(peer).size) > 0; got += more)
        rondo_test_clear(peer);
    cr_assert(eq(sz, got, size), "but they come as they are read");
    over();
}

Test(line, the_pieces_of_a_line_may_be_of_any_size)
{
    const char *text = "dribbled\r\n\r\r\n\n\r\n123456789012345678901 is too long\r\nlast\r\nno line";
    for (size_t piece = strlen(text); piece > 0; piece--) {
        calls[0] = '\0';
        given(&patient.protocol);
        cr_assert(eq(int, rondo_test_feed_in_pieces(peer, bytes_of(text), piece), 0));
        cr_assert(eq(str, calls, "<dribbled><\r><\n>!<last>"), "in pieces of %zu", piece);
        over();
    }
}

Test(line, lines_are_the_same_on_any_kernel)
{
    static char text[20000], wanted[sizeof calls];
    size_t size = 0, wanted_size = 0;
    for (int i = 0; i < 1500; i++) {
        size += (size_t)snprintf(text + size, sizeof text - size, "line %d\r\n", i);
        wanted_size += (size_t)snprintf(wanted + wanted_size, sizeof wanted - wanted_size, "<line %d>", i);
    }
    for (uint64_t seed = 1; seed <= 20; seed++) {
        calls[0] = '\0';
        given(&patient.protocol);
        rondo_test_disturb(test, seed);
        when_received = send_it_back;
        rondo_test_feed_in_pieces(peer, (rondo_bytes){ text, size }, 1000 * seed);
        cr_assert(eq(str, calls, wanted));
        rondo_bytes back = rondo_test_written(peer);
        cr_assert(eq(sz, back.size, size));
        cr_assert_eq(memcmp(back.data, text, size), 0);
        over();
    }
}

/* ---- raw mode ------------------------------------------------------------------------------------------- */

/* "put N": N raw bytes follow, noted as (bytes), each delivery one; "raw": everything that follows; "clear": what has been
 * received is dropped. */
struct upload {
    unsigned lines;
    size_t left;
    void (*when_raw)(rondo_transport *t, rondo_bytes data);
};

static void upload_line_received(rondo_transport *t, rondo_bytes line)
{
    struct upload *self = rondo_self(t);
    char word[16] = "";
    line_received(t, line);
    snprintf(word, sizeof word, "%.*s", (int)line.size, line.data);
    if (sscanf(word, "put %zu", &self->left) == 1 ||
        (strcmp(word, "raw") == 0 && (self->left = SIZE_MAX) > 0))
        rondo_set_raw_mode(t);
    if (strcmp(word, "clear") == 0)
        rondo_clear_line_buffer(t);
}

static void raw_data_received(rondo_transport *t, rondo_bytes data)
{
    struct upload *self = rondo_self(t);
    size_t size = data.size < self->left ? data.size : self->left;
    note("(", (rondo_bytes){ data.data, size }, ")");
    self->left -= size;
    if (self->left == 0)
        rondo_set_line_mode(t, (rondo_bytes){ data.data + size, data.size - size });
    if (self->when_raw != NULL)
        self->when_raw(t, data);
}

static void raw_when_too_long(rondo_transport *t, rondo_bytes line)
{
    struct upload *self = rondo_self(t);
    line_length_exceeded(t, line);
    self->left = 8;
    rondo_set_raw_mode(t);
}

static const rondo_line_protocol upload = {
    RONDO_LINE_RECEIVER("upload", sizeof(struct upload)),
    .protocol.connection_made = connection_made,
    .protocol.connection_lost = connection_lost,
    .line_received = upload_line_received,
    .line_length_exceeded = raw_when_too_long,
    .raw_data_received = raw_data_received,
    .delimiter = RONDO_BYTES("\r\n"),
    .max_length = 20,
};

/* Without the ends of deliveries: "(ab)(c)" is "(abc)". */
static void join_raw(void)
{
    for (char *seam; (seam = strstr(calls, ")(")) != NULL;)
        memmove(seam, seam + 2, strlen(seam + 2) + 1);
}

Test(line, raw_bytes_come_as_they_are_and_lines_go_on_behind_them)
{
    given(&upload.protocol);
    feed("one\r\nput 10\r\nab\r\ncd\r\nef");
    cr_assert(eq(str, calls, "<one><put 10>(ab\r\ncd\r\nef)"));
    feed("\r\ntwo\r\nput 3\r\nxyzthree\r\nfo");
    cr_assert(eq(str, calls, "<one><put 10>(ab\r\ncd\r\nef)<><two><put 3>(xyz)<three>"));
    feed("ur\r\n");
    cr_assert(eq(str, strrchr(calls, '<'), "<four>"));
    over();
}

Test(line, raw_bytes_are_the_same_however_they_are_cut)
{
    const char *text = "one\r\nput 10\r\nab\r\ncd\r\nef\r\nput 1\r\n\rtwo\r\nput 4\r\n\r\n\r\n\r\nend\r\n";
    for (size_t piece = strlen(text); piece > 0; piece--) {
        calls[0] = '\0';
        given(&upload.protocol);
        cr_assert(eq(int, rondo_test_feed_in_pieces(peer, bytes_of(text), piece), 0));
        join_raw();
        cr_assert(eq(str, calls, "<one><put 10>(ab\r\ncd\r\nef)<><put 1>(\r)<two><put 4>(\r\n\r\n)<><end>"),
                  "in pieces of %zu", piece);
        over();
    }
}

Test(line, raw_bytes_lie_where_they_were_received)
{
    given(&upload.protocol);
    feed("raw\r\n");
    feed("some bytes");
    cr_assert(eq(str, calls, "<raw>(some bytes)"));
    cr_assert_null(((struct upload *)rondo_self(transport))->when_raw);
    cr_assert(eq(uint, buffers_lent(), 0));
    over();
}

Test(line, the_beginning_of_a_line_is_raw_when_the_mode_is_set_from_elsewhere)
{
    given(&upload.protocol);
    feed("one\r\nhal");
    ((struct upload *)rondo_self(transport))->left = 5;
    rondo_set_raw_mode(transport);
    cr_assert(eq(str, calls, "<one>"));
    feed("f a line\r\n");
    cr_assert(eq(str, calls, "<one>(hal)(f )<a line>"));
    over();
}

Test(line, what_is_handed_back_of_a_beginning_is_one_again)
{
    given(&upload.protocol);
    feed("one\r\nhalf");
    ((struct upload *)rondo_self(transport))->left = 2;
    rondo_set_raw_mode(transport);
    feed(" a line\r\n");
    cr_assert(eq(str, calls, "<one>(ha)<lf a line>"));
    over();
}

Test(line, a_line_too_long_can_be_taken_raw)
{
    given(&upload.protocol);
    feed("123456789012345678901abcdefgh<line\r\n");
    cr_assert(eq(str, calls, "!(abcdefgh)<<line>"));
    feed("123456789012345678901\r");
    feed("bcdefgh>line\r\n");
    join_raw();
    cr_assert(eq(str, calls, "!(abcdefgh)<<line>!(\rbcdefgh)<>line>"));
    over();
}

static void pause_when_raw(rondo_transport *t, rondo_bytes data)
{
    (void)data;
    rondo_pause_reading(t);
}

Test(line, a_pause_in_raw_mode_keeps_what_is_handed_back)
{
    given(&upload.protocol);
    ((struct upload *)rondo_self(transport))->when_raw = pause_when_raw;
    feed("put 3\r\nabcone\r\ntwo\r\n");
    cr_assert(eq(str, calls, "<put 3>(abc)"));
    rondo_resume_reading(transport);
    rondo_test_turn(test);
    cr_assert(eq(str, calls, "<put 3>(abc)<one><two>"));
    over();
}

static void close_when_raw(rondo_transport *t, rondo_bytes data)
{
    (void)data;
    rondo_close(t);
}

Test(line, no_line_comes_after_a_close_in_raw_mode)
{
    given(&upload.protocol);
    ((struct upload *)rondo_self(transport))->when_raw = close_when_raw;
    feed("put 3\r\nabcone\r\n");
    cr_assert(eq(str, calls, "<put 3>(abc)."));
    over();
}

static void raw_again(rondo_transport *t, rondo_bytes data)
{
    struct upload *self = rondo_self(t);
    (void)data;
    if (self->left == 0) {
        self->left = SIZE_MAX;
        rondo_set_raw_mode(t);
    }
}

Test(line, what_is_handed_back_may_be_raw_again)
{
    given(&upload.protocol);
    ((struct upload *)rondo_self(transport))->when_raw = raw_again;
    feed("put 3\r\nabcone\r\n");
    cr_assert(eq(str, calls, "<put 3>(abc)(one\r\n)"));
    over();
}

Test(line, what_is_cleared_is_gone)
{
    given(&upload.protocol);
    feed("clear\r\nlost\r\nlost, to");
    cr_assert(eq(str, calls, "<clear>"));
    feed("o\r\nhal");
    rondo_clear_line_buffer(transport);
    feed("one\r\n");
    cr_assert(eq(str, calls, "<clear><o><one>"));
    feed("cle");
    feed("ar\r\nlost");
    feed("two\r\n");
    cr_assert(eq(str, calls, "<clear><o><one><clear><two>"));
    over();
}

static void want_raw(rondo_transport *t, rondo_bytes line)
{
    (void)line;
    rondo_set_raw_mode(t);
}

Test(line, without_a_raw_data_received_lines_go_on)
{
    given(&plain.protocol);
    when_received = want_raw;
    feed("one\ntwo\n");
    cr_assert(eq(str, calls, "<one><two>"));
    over();
}

static void become_plain(rondo_transport *t, rondo_bytes data)
{
    (void)data;
    cr_assert(eq(int, rondo_set_protocol(t, &patient.protocol), 0));
}

Test(line, another_protocol_gets_what_raw_mode_has_handed_back)
{
    given(&upload.protocol);
    ((struct upload *)rondo_self(transport))->when_raw = become_plain;
    feed("put 3\r\nabcone\r\ntwo\r\n");
    rondo_test_turn(test);
    cr_assert(eq(str, calls, "<put 3>(abc)<one><two>"));
    over();
}

Test(line, another_protocol_gets_what_raw_mode_has_handed_back_of_a_beginning)
{
    given(&upload.protocol);
    feed("one\r\nhalf");
    ((struct upload *)rondo_self(transport))->left = 2;
    ((struct upload *)rondo_self(transport))->when_raw = become_plain;
    rondo_set_raw_mode(transport);
    feed(" a line\r\ntwo\r\n");
    rondo_test_turn(test);
    cr_assert(eq(str, calls, "<one>(ha)<lf a line><two>"));
    over();
}
