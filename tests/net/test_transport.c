/* The transport, on real sockets: what its protocol is called with, and what its peer sees. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "net/flow.h"
#include "support/engine.h"
#include "support/pair.h"

TestSuite(transport, .timeout = 30);

static void pair_is_given(struct pair *p, const rondo_protocol *protocol)
{
    memset(p, 0, sizeof *p);
    pair_open(p, protocol);
}

static void write_text(struct pair *p, const char *text)
{
    rondo_write(p->t, (rondo_bytes){ text, strlen(text) });
}

/* ---- receiving ------------------------------------------------------------------------------------------ */

Test(transport, half_close_flushes_then_connection_lost)
{
    struct pair p;
    pair_is_given(&p, &recording_echo);

    peer_send(&p, "last words");
    peer_shutdown(&p);

    cr_assert(eq(str, (char *)peer_receive_text(&p), "last words"));
    pair_run_until_lost(&p);
    cr_assert(eq(str, p.calls, "CM DR ER CL"));
    cr_assert(eq(int, p.lost_error, 0));
    pair_close(&p);
}

static void data_lies_in_a_lent_buffer(struct pair *p, rondo_bytes data)
{
    cr_assert(buffers_own(&p->loop->engine->buffers, data.data));
    cr_assert(eq(uint, p->loop->engine->buffers.lent, 1));
    p->note++;
}

Test(transport, data_is_delivered_in_place_and_its_buffer_returns)
{
    struct pair p;
    pair_is_given(&p, &recording);
    p.on_data = data_lies_in_a_lent_buffer;

    peer_send(&p, "here");
    pair_turn(&p);

    cr_assert(eq(int, p.note, 1));
    cr_assert(eq(uint, p.loop->engine->buffers.lent, 0));
    pair_close(&p);
}

static void keeps_what_it_writes_by_reference(struct pair *p, rondo_bytes data)
{
    rondo_write(p->t, data);
    cr_assert(eq(sz, p->t->output.lent, 1));
    cr_assert_eq(byte_queue_front(&p->t->output).data, data.data, "written from where it was received");
    p->note++;
}

Test(transport, received_bytes_are_written_without_a_copy)
{
    struct pair p;
    pair_is_given(&p, &recording);
    p.on_data = keeps_what_it_writes_by_reference;

    peer_send(&p, "same bytes");
    peer_shutdown(&p);

    cr_assert(eq(str, (char *)peer_receive_text(&p), "same bytes"));
    cr_assert(eq(int, p.note, 1));
    cr_assert(eq(uint, p.loop->engine->buffers.lent, 0));
    pair_close(&p);
}

Test(transport, an_idle_connection_holds_no_buffer_and_sleeps)
{
    struct pair p;
    pair_is_given(&p, &recording_echo);
    pair_turn(&p);
    uint64_t completions = p.loop->engine->counters.completions;

    cr_assert(eq(int, loop_turn(p.loop, 1000 * 1000), 0));

    cr_assert(eq(u64, p.loop->engine->counters.completions, completions));
    cr_assert(eq(uint, p.loop->engine->buffers.lent, 0));
    pair_close(&p);
}

Test(transport, a_peer_that_resets_is_an_error)
{
    struct pair p;
    pair_is_given(&p, &recording_echo);
    pair_turn(&p);

    peer_reset(&p);
    pair_run_until_lost(&p);

    cr_assert(eq(str, p.calls, "CM CL"));
    cr_assert(eq(int, p.lost_error, -ECONNRESET));
    pair_close(&p);
}

Test(transport, more_than_all_buffers_hold_comes_back_in_order)
{
    struct pair p;
    size_t size = 3 * 1000 * 1000;
    char *sent = malloc(size), *back = malloc(size);
    fill_pattern(sent, size, 1);
    pair_is_given(&p, &recording_echo);

    peer_send_all(&p, sent, size, back);

    cr_assert_eq(memcmp(sent, back, size), 0);
    cr_assert_eq(memcmp(sent, p.received, size), 0);
    cr_assert(eq(u64, p.loop->traffic.bytes_in, size));
    cr_assert(eq(u64, p.loop->traffic.bytes_out, size));
    pair_close(&p);
    free(sent);
    free(back);
}

/* ---- pausing -------------------------------------------------------------------------------------------- */

Test(transport, paused_reading_delivers_nothing_and_resumed_reading_everything)
{
    struct pair p;
    pair_is_given(&p, &recording);
    pair_turn(&p);

    rondo_pause_reading(p.t);
    cr_assert(not(rondo_is_reading(p.t)));
    pair_turn(&p);
    cr_assert(not(p.t->receive.in_kernel), "so the peer is held back by TCP");
    peer_send(&p, "held");
    peer_shutdown(&p);
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM"));

    rondo_resume_reading(p.t);
    cr_assert(rondo_is_reading(p.t));
    pair_run_until_lost(&p);
    cr_assert(eq(str, p.calls, "CM DR ER CL"));
    cr_assert_eq(memcmp(p.received, "held", 4), 0);
    pair_close(&p);
}

static void pauses_at_once(struct pair *p, rondo_bytes data)
{
    (void)data;
    rondo_pause_reading(p->t);
    p->note++;
}

Test(transport, what_was_taken_before_a_pause_took_effect_waits_in_order)
{
    struct pair p;
    size_t size = 40000; /* ten buffers, of which one is delivered before the pause */
    char *sent = malloc(size);
    fill_pattern(sent, size, 2);
    pair_is_given(&p, &recording);
    p.on_data = pauses_at_once;

    for (size_t at = 0; at < size; at += 4000)
        cr_assert_eq(send(p.peer, sent + at, 4000, MSG_NOSIGNAL), 4000);
    pair_turn(&p);
    cr_assert(eq(int, p.note, 1));
    cr_assert_leq(p.received_size, 4096);

    int pauses = 1;
    while (p.received_size < size) {
        rondo_resume_reading(p.t);
        pair_turn(&p);
        cr_assert(eq(int, p.note, ++pauses), "one delivery for each resume");
    }
    cr_assert_eq(memcmp(sent, p.received, size), 0);
    pair_close(&p);
    free(sent);
}

Test(transport, what_comes_between_a_resume_and_the_delivery_waits_behind_what_was_held)
{
    struct pair p;
    size_t size = 40000;
    if (!is_on_a_ring())
        cr_skip("epoll takes nothing from a socket that isn't told at once");
    char *sent = malloc(size);
    fill_pattern(sent, size, 6);
    pair_is_given(&p, &recording);
    p.on_data = pauses_at_once;
    cr_assert_eq(send(p.peer, sent, size, MSG_NOSIGNAL), (ssize_t)size);
    pair_turn(&p);
    cr_assert(not(byte_queue_is_empty(&p.t->flow->inbox)));

    /* In one turn: another connection's callback resumes this one, then a completion of this one is dispatched. */
    p.on_data = NULL;
    rondo_resume_reading(p.t);
    struct completion completion = { .result = 3, .more = true, .data = RONDO_BYTES("new") };
    size_t held = p.received_size + p.t->flow->inbox.size;
    p.t->receive.done(&p.t->receive, &completion);
    pair_run_until_received(&p, size + 3);

    cr_assert_eq(memcmp(p.received, sent, held), 0);
    cr_assert_eq(memcmp(p.received + held, "new", 3), 0);
    pair_close(&p);
    free(sent);
}

Test(transport, pause_and_resume_are_idempotent_and_do_nothing_once_closing)
{
    struct pair p;
    pair_is_given(&p, &recording);
    rondo_pause_reading(p.t);
    rondo_pause_reading(p.t);
    rondo_resume_reading(p.t);
    rondo_resume_reading(p.t);
    cr_assert(rondo_is_reading(p.t));

    rondo_close(p.t);
    rondo_resume_reading(p.t);
    rondo_pause_reading(p.t);
    cr_assert(not(rondo_is_reading(p.t)));
    peer_send(&p, "too late");
    pair_run_until_lost(&p);
    cr_assert(eq(str, p.calls, "CM CL"));
    pair_close(&p);
}

/* ---- writing -------------------------------------------------------------------------------------------- */

Test(transport, bytes_of_the_protocol_are_copied_at_once)
{
    struct pair p;
    char text[] = "before";
    pair_is_given(&p, &recording);

    write_text(&p, text);
    memcpy(text, "AFTER!", 6);
    rondo_close(p.t);

    cr_assert(eq(str, (char *)peer_receive_text(&p), "before"));
    cr_assert(eq(uint, p.loop->users, 1), "the end is heard at once, while the transport lingers");
    pair_close(&p);
}

Test(transport, all_writes_of_a_turn_leave_in_one_send)
{
    struct pair p;
    pair_is_given(&p, &recording);
    pair_turn(&p);
    uint64_t submissions = p.loop->engine->counters.submissions;

    for (int i = 0; i < 20; i++) {
        write_text(&p, "a");
        rondo_write_static(p.t, RONDO_BYTES("b"));
    }
    pair_turn(&p);

    cr_assert(eq(u64, p.loop->engine->counters.submissions, submissions + 1));
    char text[41] = "";
    cr_assert(eq(int, (int)peer_receive(&p, text, 40), 40));
    cr_assert(eq(str, text, "abababababababababababababababababababab"));
    pair_close(&p);
}

Test(transport, writelines_writes_each_slice_in_order_and_skips_empty_ones)
{
    struct pair p;
    rondo_bytes lines[] = { RONDO_BYTES("one "), { NULL, 0 }, RONDO_BYTES("two "), RONDO_BYTES("three") };
    pair_is_given(&p, &recording);

    rondo_writelines(p.t, lines, 4);
    cr_assert(eq(sz, rondo_get_write_buffer_size(p.t), 13));
    rondo_writelines(p.t, NULL, 0);
    rondo_write(p.t, (rondo_bytes){ NULL, 0 });
    rondo_close(p.t);

    cr_assert(eq(str, (char *)peer_receive_text(&p), "one two three"));
    pair_close(&p);
}

Test(transport, more_slices_than_one_send_takes_arrive_in_order)
{
    struct pair p;
    static char block[4000];
    pair_is_given(&p, &recording);
    for (int i = 0; i < 200; i++) { /* 400 slices */
        memset(block, 'a' + i % 26, sizeof block);
        rondo_write(p.t, (rondo_bytes){ block, sizeof block });
        rondo_write_static(p.t, RONDO_BYTES("-"));
    }

    char *got = malloc(200 * 4001);
    cr_assert(eq(int, (int)peer_receive(&p, got, 200 * 4001), 200 * 4001));
    for (int i = 0; i < 200; i++) {
        cr_assert(eq(chr, got[i * 4001], (char)('a' + i % 26)));
        cr_assert(eq(chr, got[i * 4001 + 3999], (char)('a' + i % 26)));
        cr_assert(eq(chr, got[i * 4001 + 4000], '-'));
    }
    cr_assert(eq(sz, rondo_get_write_buffer_size(p.t), 0));
    pair_close(&p);
    free(got);
}

Test(transport, close_sends_all_that_was_written)
{
    struct pair p;
    size_t size = 5 * 1000 * 1000;
    char *sent = malloc(size), *got = malloc(size + 1);
    fill_pattern(sent, size, 3);
    pair_is_given(&p, &recording);

    rondo_write(p.t, (rondo_bytes){ sent, size });
    rondo_close(p.t);
    cr_assert(rondo_is_closing(p.t));

    cr_assert(eq(int, (int)peer_receive(&p, got, size + 1), (int)size));
    cr_assert_eq(memcmp(sent, got, size), 0);
    pair_run_until_lost(&p);
    cr_assert(eq(str, p.calls, "CM CL"));
    cr_assert(eq(int, p.lost_error, 0));
    pair_close(&p);
    free(sent);
    free(got);
}

Test(transport, a_close_with_unread_input_does_not_reset_the_answer)
{
    struct pair p;
    static char noise[30000];
    pair_is_given(&p, &recording);
    rondo_pause_reading(p.t);
    cr_assert_eq(send(p.peer, noise, sizeof noise, MSG_NOSIGNAL), (ssize_t)sizeof noise);

    write_text(&p, "the whole answer");
    rondo_close(p.t);
    pair_run_until_lost(&p);
    send(p.peer, noise, sizeof noise, MSG_NOSIGNAL); /* the peer has not seen the end yet */

    cr_assert(eq(str, (char *)peer_receive_text(&p), "the whole answer"));
    pair_close(&p);
}

Test(transport, a_slow_peer_that_goes_on_sending_gets_the_whole_answer)
{
    struct pair p;
    static char answer[300000], got[sizeof answer];
    size_t read = 0;
    fill_pattern(answer, sizeof answer, 5);
    pair_is_given(&p, &recording);
    int small = 4096,
        large = 4 * sizeof answer; /* the kernel takes it all from us, and the peer takes it slowly */
    setsockopt(p.peer, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    setsockopt(p.t->fd, SOL_SOCKET, SO_SNDBUF, &large, sizeof large);
    rondo_write(p.t, (rondo_bytes){ answer, sizeof answer });
    rondo_close(p.t);
    pair_run_until_lost(&p);

    uint64_t start_ms = rondo_time_ms(p.loop);
    while (read < sizeof got) { /* for two seconds and more */
        uint64_t due_ms = start_ms + 2500 * read / sizeof got;
        send(p.peer, "?", 1, MSG_NOSIGNAL);
        while (rondo_time_ms(p.loop) < due_ms)
            cr_assert(eq(int, loop_turn(p.loop, 5 * 1000 * 1000), 0));
        ssize_t n = recv(p.peer, got + read, 3000, 0);
        cr_assert(n > 0 || (n < 0 && errno == EAGAIN), "%zu of %zu read, then %s", read, sizeof got,
                  strerror(errno));
        read += n > 0 ? (size_t)n : 0;
        cr_assert(eq(int, loop_turn(p.loop, 0), 0));
    }
    cr_assert_eq(memcmp(answer, got, sizeof got), 0);
    pair_close(&p);
}

Test(transport, abort_resets_and_drops_what_was_not_sent)
{
    struct pair p;
    char data[16];
    pair_is_given(&p, &recording);
    pair_turn(&p);

    write_text(&p, "never sent");
    rondo_abort(p.t);
    cr_assert(rondo_is_closing(p.t));

    cr_assert(eq(int, (int)peer_receive(&p, data, sizeof data), -ECONNRESET));
    cr_assert(eq(str, p.calls, "CM CL"));
    cr_assert(eq(int, p.lost_error, 0));
    pair_close(&p);
}

Test(transport, abort_cuts_short_a_close_that_waits_for_a_slow_peer)
{
    struct pair p;
    static char much[4 * 1000 * 1000];
    pair_is_given(&p, &recording);
    limit_peer(&p, 4096);
    rondo_write(p.t, (rondo_bytes){ much, sizeof much });
    rondo_close(p.t);
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM"));

    rondo_abort(p.t);
    pair_run_until_lost(&p);
    cr_assert(eq(str, p.calls, "CM CL"));
    pair_close(&p);
}

Test(transport, write_eof_half_closes_behind_the_output_and_reading_goes_on)
{
    struct pair p;
    pair_is_given(&p, &recording);
    write_text(&p, "question");
    rondo_write_eof(p.t);
    rondo_write_eof(p.t);
    write_text(&p, "dropped");
    rondo_write_static(p.t, RONDO_BYTES("dropped"));
    rondo_writelines(p.t, &RONDO_BYTES("dropped"), 1);

    cr_assert(eq(str, (char *)peer_receive_text(&p), "question"));
    cr_assert(not(rondo_is_closing(p.t)));
    peer_send(&p, "answer");
    peer_shutdown(&p);
    pair_run_until_lost(&p);
    cr_assert(eq(str, p.calls, "CM DR ER CL"));
    cr_assert_eq(memcmp(p.received, "answer", 6), 0);
    pair_close(&p);
}

Test(transport, a_protocol_that_stays_open_after_eof_can_still_write)
{
    struct pair p;
    pair_is_given(&p, &recording);
    p.stay_open = true;
    peer_shutdown(&p);
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM ER"));
    cr_assert(not(rondo_is_closing(p.t)));

    write_text(&p, "after your end");
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM ER"));
    rondo_close(p.t);

    cr_assert(eq(str, (char *)peer_receive_text(&p), "after your end"));
    pair_run_until_lost(&p);
    cr_assert(eq(str, p.calls, "CM ER CL"));
    pair_close(&p);
}

Test(transport, writes_after_close_or_abort_are_dropped)
{
    struct pair p;
    pair_is_given(&p, &recording);
    write_text(&p, "sent");
    rondo_close(p.t);
    write_text(&p, "dropped");
    rondo_write_eof(p.t);
    rondo_close(p.t);

    cr_assert(eq(sz, rondo_get_write_buffer_size(p.t), 4));
    cr_assert(eq(str, (char *)peer_receive_text(&p), "sent"));
    pair_close(&p);
}

/* ---- flow control ---------------------------------------------------------------------------------------- */

/* Writes block by block until the kernel takes no more. */
static void fill_kernel(struct pair *p)
{
    static char block[65536];
    limit_peer(p, 4096);
    while (rondo_get_write_buffer_size(p->t) == 0) {
        rondo_write(p->t, (rondo_bytes){ block, sizeof block });
        pair_turn(p);
    }
}

Test(transport, pause_writing_comes_above_high_water_and_resume_writing_at_low_water)
{
    struct pair p;
    static char block[100], sink[100];
    pair_is_given(&p, &recording_flow);
    rondo_set_write_buffer_limits(p.t, 1000 * 1000, 0);
    fill_kernel(&p);
    size_t queued = rondo_get_write_buffer_size(p.t);
    rondo_set_write_buffer_limits(p.t, queued + 200, queued);

    rondo_write(p.t, (rondo_bytes){ block, 100 });
    rondo_write(p.t, (rondo_bytes){ block, 100 });
    cr_assert(eq(str, p.calls, "CM"), "at the mark is not above it");
    rondo_write(p.t, (rondo_bytes){ block, 1 });
    cr_assert(eq(str, p.calls, "CM PW"), "inside the call");
    rondo_write(p.t, (rondo_bytes){ block, 100 });
    cr_assert(eq(str, p.calls, "CM PW"), "once");
    while (rondo_get_write_buffer_size(p.t) > queued) {
        cr_assert(eq(str, p.calls, "CM PW"));
        peer_receive(&p, sink, sizeof sink);
    }
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM PW RW"));
    pair_close(&p);
}

Test(transport, pause_writing_does_not_come_for_what_the_kernel_takes_at_once)
{
    struct pair p;
    static char much[40 * 1000], sink[40 * 1000];
    pair_is_given(&p, &recording_flow);
    rondo_set_write_buffer_limits(p.t, 0, 0);
    fill_pattern(much, sizeof much, 5);

    rondo_write(p.t, (rondo_bytes){ much, 10 });
    rondo_write(p.t, (rondo_bytes){ much + 10, sizeof much - 10 });
    cr_assert(eq(sz, rondo_get_write_buffer_size(p.t), 0));
    cr_assert(eq(str, p.calls, "CM"));
    cr_assert(eq(int, (int)peer_receive(&p, sink, sizeof sink), (int)sizeof sink));
    cr_assert_eq(memcmp(much, sink, sizeof sink), 0);
    cr_assert(eq(str, p.calls, "CM"));
    pair_close(&p);
}

Test(transport, what_the_kernel_takes_at_once_follows_what_was_queued)
{
    struct pair p;
    static char much[300 * 1000], sink[300 * 1000];
    pair_is_given(&p, &recording_flow);
    fill_pattern(much, sizeof much, 6);
    size_t sizes[] = { 1, 60000, 5, 5000, 66000, 1, 100000 }, at = 0;
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        rondo_bytes two[] = { { much + at, sizes[i] / 2 },
                              { much + at + sizes[i] / 2, sizes[i] - sizes[i] / 2 } };
        if (i % 2 == 0)
            rondo_write(p.t, (rondo_bytes){ much + at, sizes[i] });
        else
            rondo_writelines(p.t, two, 2);
        at += sizes[i];
    }
    cr_assert(eq(int, (int)peer_receive(&p, sink, at), (int)at));
    cr_assert_eq(memcmp(much, sink, at), 0);
    pair_close(&p);
}

Test(transport, a_write_to_a_peer_that_has_reset_fails_by_connection_lost_from_the_loop)
{
    struct pair p;
    static char much[100 * 1000];
    pair_is_given(&p, &recording_flow);
    rondo_pause_reading(p.t);
    pair_turn(&p);
    peer_reset(&p);

    rondo_write(p.t, (rondo_bytes){ much, sizeof much });
    cr_assert(rondo_is_closing(p.t));
    cr_assert(eq(str, p.calls, "CM"));
    pair_run_until_lost(&p);
    cr_assert(eq(str, p.calls, "CM CL"));
    cr_assert(eq(int, p.lost_error, -ECONNRESET));
    pair_close(&p);
}

Test(transport, resume_writing_waits_for_the_low_water_mark)
{
    struct pair p;
    static char much[8 * 1000 * 1000], sink[8 * 1000 * 1000];
    pair_is_given(&p, &recording_flow);
    limit_peer(&p, 4096);
    rondo_set_write_buffer_limits(p.t, 1000, 0);
    rondo_write(p.t, (rondo_bytes){ much, sizeof much });
    cr_assert(eq(str, p.calls, "CM PW"));

    cr_assert(eq(int, (int)peer_receive(&p, sink, sizeof sink / 2), (int)sizeof sink / 2));
    cr_assert(eq(str, p.calls, "CM PW"), "with a low-water mark of 0 all must be sent first");
    cr_assert(eq(int, (int)peer_receive(&p, sink, sizeof sink / 2), (int)sizeof sink / 2));
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM PW RW"));
    pair_close(&p);
}

Test(transport, new_limits_take_effect_at_once_in_both_directions)
{
    struct pair p;
    static char much[4 * 1000 * 1000];
    pair_is_given(&p, &recording_flow);
    limit_peer(&p, 4096);
    rondo_set_write_buffer_limits(p.t, sizeof much, 0);
    rondo_write(p.t, (rondo_bytes){ much, sizeof much });
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM"));

    rondo_set_write_buffer_limits(p.t, 1000, 500);
    cr_assert(eq(str, p.calls, "CM PW"));
    rondo_set_write_buffer_limits(p.t, 2 * sizeof much, sizeof much);
    cr_assert(eq(str, p.calls, "CM PW"), "resume_writing comes from the loop");
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM PW RW"));
    pair_close(&p);
}

static void limits_are(struct pair *p, size_t high_bytes, size_t low_bytes)
{
    size_t low, high;
    rondo_get_write_buffer_limits(p->t, &low, &high);
    cr_assert(eq(sz, high, high_bytes));
    cr_assert(eq(sz, low, low_bytes));
}

Test(transport, limits_have_asyncio_s_defaults)
{
    struct pair p;
    const size_t none = RONDO_LIMIT_DEFAULT;
    pair_is_given(&p, &recording_flow);
    limits_are(&p, 65536, 16384);
    cr_assert(eq(int, rondo_set_write_buffer_limits(p.t, 20, 10), 0));
    limits_are(&p, 20, 10);
    cr_assert(eq(int, rondo_set_write_buffer_limits(p.t, 10, 20), -EINVAL), "never above the high mark");
    limits_are(&p, 20, 10);
    cr_assert(eq(int, rondo_set_write_buffer_limits(p.t, 1000, none), 0));
    limits_are(&p, 1000, 250);
    cr_assert(eq(int, rondo_set_write_buffer_limits(p.t, none, 1000), 0));
    limits_are(&p, 4000, 1000);
    cr_assert(eq(int, rondo_set_write_buffer_limits(p.t, none, SIZE_MAX - 1), 0));
    limits_are(&p, SIZE_MAX - 1, SIZE_MAX - 1);
    cr_assert(eq(int, rondo_set_write_buffer_limits(p.t, 0, none), 0));
    limits_are(&p, 0, 0);
    cr_assert(eq(int, rondo_set_write_buffer_limits(p.t, none, none), 0));
    limits_are(&p, 65536, 16384);
    pair_close(&p);
}

/* How much a peer can send before TCP and the transport hold it back. */
static size_t send_until_held_back(struct pair *p)
{
    static char block[65536];
    size_t sent = 0;
    for (int refusals = 0; refusals < 20;) {
        ssize_t n = send(p->peer, block, sizeof block, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        refusals = n > 0 ? 0 : refusals + 1;
        cr_assert_lt(sent, 100 * 1000 * 1000, "nobody holds it back");
        pair_turn(p);
    }
    return sent;
}

Test(transport, a_peer_that_does_not_read_is_not_read_from)
{
    struct pair p;
    pair_is_given(&p, &recording_echo);
    limit_peer(&p, 4096);

    size_t sent = send_until_held_back(&p);

    cr_assert_lt(rondo_get_write_buffer_size(p.t), 65536 + 16 * 4096, "the mark, and one burst of buffers");
    cr_assert(eq(uint, p.t->output.lent, 0), "who waits for a slow peer holds no receive buffer");
    cr_assert_leq(p.loop->engine->buffers.lent, 8, "and what waits for delivery at most half of them");
    cr_assert(eq(str, p.calls, "CM DR"));
    char *back = malloc(sent);
    cr_assert(eq(int, (int)peer_receive(&p, back, sent), (int)sent), "and when it reads, all comes");
    pair_close(&p);
    free(back);
}

Test(transport, slow_peers_do_not_starve_a_fast_one)
{
    enum { SLOW = 12 };
    struct world world;
    static struct pair slow[SLOW], fast;
    char data[6] = "";
    world_open(&world, NULL);
    for (int i = 0; i < SLOW; i++) {
        pair_open_in(&slow[i], &world, &recording_echo);
        limit_peer(&slow[i], 4096);
        send_until_held_back(&slow[i]);
    }
    cr_assert_leq(world.loop.engine->buffers.lent, 8);

    pair_open_in(&fast, &world, &recording_echo);
    for (int i = 0; i < 50; i++) {
        peer_send(&fast, "quick");
        cr_assert(eq(int, (int)peer_receive(&fast, data, 5), 5));
        cr_assert(eq(str, data, "quick"));
    }
    for (int i = 0; i < SLOW; i++)
        pair_close(&slow[i]);
    pair_close(&fast);
    while (world.loop.users > 0)
        loop_turn(&world.loop, ENGINE_FOREVER);
    world_close(&world);
}

/* ---- the receive window --------------------------------------------------------------------------------- */

static const struct engine_size large_buffers = { 32, 64, 16, 16 * 1024, 0, 0, 0, 0 };

struct bulk {
    struct world world;
    struct pair pair;
};

static void bulk_open(struct bulk *b, const rondo_protocol *protocol)
{
    memset(b, 0, sizeof *b);
    world_open(&b->world, &large_buffers);
    b->pair.memory_size = sizeof b->pair.memory;
    pair_open_in(&b->pair, &b->world, protocol);
}

static void bulk_close(struct bulk *b)
{
    pair_close(&b->pair);
    while (b->world.loop.users > 0)
        loop_turn(&b->world.loop, ENGINE_FOREVER);
    cr_assert(eq(uint, b->world.service.wide_count, 0));
    world_close(&b->world);
}

static int option_of(const struct pair *p, int option)
{
    int value = 0;
    getsockopt(p->t->fd, SOL_SOCKET, option, &value, &(socklen_t){ sizeof value });
    return value;
}

/* What is sent before anybody receives lies in the socket together. */
static void peer_sends_together(struct bulk *b, size_t size)
{
    static const char much[40 * 1000];
    size_t received = b->pair.received_size;
    cr_assert_eq(send(b->pair.peer, much, size, 0), (ssize_t)size);
    pair_run_until_received(&b->pair, received + size);
}

Test(transport, a_peer_that_sends_much_may_send_further_ahead)
{
    const rondo_protocol *protocols[] = { &recording, &recording_buffered };
    for (unsigned i = 0; i < 2; i++) {
        struct bulk b;
        bulk_open(&b, protocols[i]);
        int before = option_of(&b.pair, SO_RCVBUF);
        peer_sends_together(&b, 40 * 1000);

        cr_assert(eq(uint, b.world.service.wide_count, 1));
        cr_assert_geq(option_of(&b.pair, SO_RCVBUF), 2 * 1024 * 1024, "%d before", before);
        cr_assert_lt(before, 1024 * 1024);
        cr_assert(eq(int, option_of(&b.pair, SO_RCVLOWAT), 1), "a byte is heard of as before");
        peer_sends_together(&b, 1);
        bulk_close(&b);
    }
}

Test(transport, who_sends_little_keeps_the_window_it_has)
{
    struct bulk b;
    bulk_open(&b, &recording);
    int before = option_of(&b.pair, SO_RCVBUF);
    for (unsigned i = 0; i < 100; i++)
        peer_sends_together(&b, 12 * 1000);
    /* And nothing behind it; a whole buffer is what epoll takes for a sign of more. */
    peer_sends_together(&b, is_on_a_ring() ? 16 * 1024 : 15 * 1024);

    cr_assert(eq(uint, b.world.service.wide_count, 0));
    cr_assert_lt(option_of(&b.pair, SO_RCVBUF), 2 * 1024 * 1024, "%d before", before);
    bulk_close(&b);
}

static void close_there(struct pair *p, rondo_bytes data)
{
    (void)data;
    rondo_close(p->t);
}

Test(transport, who_is_no_longer_listened_to_keeps_its_window)
{
    static const char much[40 * 1000];
    struct bulk b;
    bulk_open(&b, &recording);
    b.pair.on_data = close_there;
    peer_send(&b.pair, "the last word");
    pair_run_until_received(&b.pair, 1);
    cr_assert_eq(send(b.pair.peer, much, sizeof much, 0), (ssize_t)sizeof much);
    pair_run_until_lost(&b.pair);
    for (unsigned i = 0; i < 4; i++)
        pair_turn(&b.pair); /* it lingers, and throws away what comes */

    cr_assert(eq(uint, b.world.service.wide_count, 0));
    bulk_close(&b);
}

Test(transport, who_takes_little_at_a_time_keeps_its_window)
{
    struct bulk b;
    bulk_open(&b, &recording_buffered);
    b.pair.memory_size = 64;
    peer_sends_together(&b, 4000);

    cr_assert(eq(uint, b.world.service.wide_count, 0));
    bulk_close(&b);
}

Test(transport, what_the_user_has_set_on_the_socket_stays)
{
    struct bulk b;
    int size = 128 * 1024, low = 7;
    bulk_open(&b, &recording);
    setsockopt(b.pair.t->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(b.pair.t->fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low);
    int set = option_of(&b.pair, SO_RCVBUF);
    peer_sends_together(&b, 40 * 1000);

    cr_assert(eq(int, option_of(&b.pair, SO_RCVBUF), set));
    cr_assert(eq(int, option_of(&b.pair, SO_RCVLOWAT), low));
    bulk_close(&b);
}

Test(transport, only_so_many_windows_of_a_shard_are_wide)
{
    enum { MANY = 40, WIDE = 32 };
    static struct pair pairs[MANY];
    static const char much[40 * 1000];
    struct world world;
    unsigned wide = 0;
    world_open(&world, &large_buffers);
    for (unsigned i = 0; i < MANY; i++) {
        pair_open_in(&pairs[i], &world, &recording);
        cr_assert_eq(send(pairs[i].peer, much, sizeof much, 0), (ssize_t)sizeof much);
        pair_run_until_received(&pairs[i], sizeof much);
        wide += option_of(&pairs[i], SO_RCVBUF) >= 2 * 1024 * 1024;
    }
    cr_assert(eq(uint, wide, WIDE));
    cr_assert(eq(uint, world.service.wide_count, WIDE));

    for (unsigned i = 0; i < 3; i++)
        pair_close(&pairs[i]);
    cr_assert(eq(uint, world.service.wide_count, WIDE - 3), "there is room for others");
    for (unsigned i = 3; i < MANY; i++)
        pair_close(&pairs[i]);
    while (world.loop.users > 0)
        loop_turn(&world.loop, ENGINE_FOREVER);
    world_close(&world);
}

/* ---- BufferedProtocol ------------------------------------------------------------------------------------ */

Test(transport, a_buffered_protocol_receives_into_its_own_memory)
{
    struct pair p;
    pair_is_given(&p, &recording_buffered);
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM GB"), "asked before anything arrives");

    peer_send(&p, "in place");
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM GB BU GB"));
    cr_assert_eq(memcmp(p.memory, "in place", 8), 0);
    cr_assert(eq(uint, p.loop->engine->buffers.lent, 0));

    peer_shutdown(&p);
    cr_assert(eq(str, (char *)peer_receive_text(&p), "in place"));
    pair_run_until_lost(&p);
    cr_assert(eq(str, p.calls, "CM GB BU GB ER CL"));
    pair_close(&p);
}

Test(transport, a_small_buffer_is_filled_again_and_again)
{
    struct pair p;
    size_t size = 100 * 1000;
    char *sent = malloc(size), *back = malloc(size);
    fill_pattern(sent, size, 4);
    memset(&p, 0, sizeof p);
    p.memory_size = 7;
    pair_open(&p, &recording_buffered);

    peer_send_all(&p, sent, size, back);

    cr_assert_eq(memcmp(sent, back, size), 0);
    pair_close(&p);
    free(sent);
    free(back);
}

Test(transport, a_buffered_protocol_that_pauses_is_not_called_until_it_resumes)
{
    struct pair p;
    pair_is_given(&p, &recording_buffered);
    pair_turn(&p);
    rondo_pause_reading(p.t);
    peer_send(&p, "later");
    peer_shutdown(&p);
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM GB"));

    rondo_resume_reading(p.t);
    pair_run_until_lost(&p);
    cr_assert_eq(memcmp(p.received, "later", 5), 0);
    cr_assert(eq(str, p.calls, "CM GB BU GB ER CL"));
    pair_close(&p);
}

Test(transport, get_buffer_without_memory_ends_the_connection)
{
    struct pair p;
    memset(&p, 0, sizeof p);
    p.memory_size = 1;
    pair_open(&p, &recording_buffered);
    p.memory_size = 0;
    pair_run_until_lost(&p);
    cr_assert(eq(str, p.calls, "CM GB CL"));
    cr_assert(eq(int, p.lost_error, -ENOBUFS));
    pair_close(&p);
}

Test(transport, the_kernel_has_let_go_of_the_memory_when_a_buffered_connection_is_lost)
{
    struct pair p;
    pair_is_given(&p, &recording_buffered);
    pair_turn(&p);
    rondo_close(p.t);
    pair_run_until_lost(&p);
    memset(p.memory, 'x', sizeof p.memory);

    peer_send(&p, "into the void");
    pair_turn(&p);
    cr_assert(eq(chr, p.memory[0], 'x'));
    pair_close(&p);
}

static bool waits_for_room(struct pair *p)
{
    return p->t->send_waits && p->t->send.in_kernel;
}

Test(transport, more_than_one_send_can_take_is_sent_by_several)
{
    struct pair p;
    size_t size = (UINT64_C(1) << 32) + 4096;
    char *much = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cr_assert_neq(much, MAP_FAILED);
    pair_is_given(&p, &recording);
    rondo_write_static(p.t, (rondo_bytes){ much, size });
    pair_run_until(&p, waits_for_room);

    cr_assert_gt(p.t->output.size, UINT32_MAX / 2);
    cr_assert(eq(uint, p.t->send_size, 1u << 30));
    rondo_abort(p.t);
    pair_run_until_lost(&p);
    pair_close(&p);
    munmap(much, size);
}

/* ---- time ----------------------------------------------------------------------------------------------- */

Test(transport, an_idle_connection_ends_in_order)
{
    struct pair p = { 0 };
    struct world *world = p.world = malloc(sizeof *world);
    world_open(world, NULL);
    world->settings.idle_timeout_ms = 30;
    pair_open_in(&p, world, &recording_echo);

    cr_assert(eq(str, (char *)peer_receive_text(&p), ""), "the peer sees an orderly end");
    cr_assert(eq(str, p.calls, "CM CL"));
    cr_assert(eq(int, p.lost_error, -ETIMEDOUT));
    pair_close(&p);
}

Test(transport, bytes_in_either_direction_keep_a_connection_from_being_idle)
{
    struct pair p = { 0 };
    struct world *world = p.world = malloc(sizeof *world);
    world_open(world, NULL);
    world->settings.idle_timeout_ms = 3600 * 1000;
    pair_open_in(&p, world, &recording);
    p.t->watch->active_ms = 0;
    peer_send(&p, "in");
    pair_turn(&p);
    cr_assert_gt(p.t->watch->active_ms, 0);

    p.t->watch->active_ms = 0;
    write_text(&p, "out");
    pair_turn(&p);
    cr_assert_gt(p.t->watch->active_ms, 0);
    pair_close(&p);
}

Test(transport, an_idle_connection_whose_peer_does_not_read_is_reset)
{
    static char much[4 * 1000 * 1000], sink[sizeof much];
    struct pair p = { 0 };
    struct world *world = p.world = malloc(sizeof *world);
    world_open(world, NULL);
    world->settings.idle_timeout_ms = 30;
    pair_open_in(&p, world, &recording);
    limit_peer(&p, 4096);
    rondo_write(p.t, (rondo_bytes){ much, sizeof much });

    pair_run_until_lost(&p);
    pair_turn(&p);
    cr_assert(eq(int, p.lost_error, -ETIMEDOUT));
    cr_assert(eq(int, (int)peer_receive(&p, sink, sizeof sink), -ECONNRESET));
    pair_close(&p);
}

static void aborts_from_its_timer(rondo_timer *timer);

struct with_timer {
    rondo_timer timer;
};

static int timer_runs;

static void starts_a_timer(rondo_transport *t)
{
    struct with_timer *self = rondo_self(t);
    rondo_call_later(rondo_get_loop(t), &self->timer, 5, aborts_from_its_timer);
}

static void aborts_from_its_timer(rondo_timer *timer)
{
    timer_runs++;
    rondo_abort(rondo_transport_of(rondo_container_of(timer, struct with_timer, timer)));
}

Test(transport, the_state_of_its_shard_is_at_hand)
{
    struct pair p;
    int state;
    pair_is_given(&p, &recording);
    p.world->service.shard_state = &state;
    cr_assert_eq(rondo_shard(p.t), &state);
    cr_assert_eq(rondo_shard_of(rondo_get_loop(p.t)), &state);
    pair_close(&p);
}

Test(transport, a_timer_in_the_state_finds_its_transport)
{
    static const rondo_protocol timed = { .size = sizeof(struct with_timer),
                                          .connection_made = starts_a_timer };
    struct pair p = { 0 };
    struct world world;
    world_open(&world, NULL);
    pair_open_in(&p, &world, &timed);

    while (world.loop.users > 0)
        cr_assert(eq(int, loop_turn(&world.loop, ENGINE_FOREVER), 0));

    cr_assert(eq(int, timer_runs, 1));
    peer_close(&p);
    world_close(&world);
}

/* ---- the server stops ------------------------------------------------------------------------------------- */

Test(transport, draining_delivers_what_had_arrived_and_nothing_later)
{
    struct pair p;
    pair_is_given(&p, &recording_echo);
    peer_send(&p, "first ");
    pair_run_until_received(&p, 6);
    peer_send(&p, "arrived");

    transport_drain(p.t);
    pair_turn(&p);
    peer_send(&p, "too late");

    cr_assert(eq(str, (char *)peer_receive_text(&p), "first arrived"));
    pair_run_until_lost(&p);
    cr_assert(eq(str, p.calls, "CM DR CL"));
    cr_assert(eq(int, p.lost_error, 0));
    pair_close(&p);
}

Test(transport, draining_delivers_what_waits_behind_a_pause)
{
    struct pair p;
    pair_is_given(&p, &recording_echo);
    pair_turn(&p);
    rondo_pause_reading(p.t);
    peer_send(&p, "patience");
    transport_drain(p.t);
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM"));

    rondo_resume_reading(p.t);
    cr_assert(eq(str, (char *)peer_receive_text(&p), "patience"));
    cr_assert(eq(str, p.calls, "CM DR CL"));
    pair_close(&p);
}

Test(transport, draining_closes_a_connection_that_has_nothing_to_deliver)
{
    struct pair p;
    pair_is_given(&p, &recording_echo);
    peer_send(&p, "hello");
    pair_run_until_received(&p, 5);

    transport_drain(p.t);

    cr_assert(eq(str, (char *)peer_receive_text(&p), "hello"));
    cr_assert(eq(str, p.calls, "CM DR CL"));
    pair_close(&p);
}

Test(transport, draining_gives_a_newcomer_time_to_say_something)
{
    struct pair p;
    pair_is_given(&p, &recording_echo);
    transport_drain(p.t);
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM"));

    peer_send(&p, "just in time");

    cr_assert(eq(str, (char *)peer_receive_text(&p), "just in time"));
    cr_assert(eq(str, p.calls, "CM DR CL"));
    pair_close(&p);
}

Test(transport, what_becomes_of_each_when_the_server_drains_is_counted)
{
    static char much[1024 * 1024], came[sizeof much];
    struct world world;
    struct pair idle = { 0 }, writing = { 0 }, unread = { 0 }, stuck = { 0 };
    struct pair *all[] = { &idle, &writing, &unread, &stuck };
    world_open(&world, NULL);
    for (unsigned i = 0; i < 4; i++) {
        pair_open_in(all[i], &world, &recording);
        peer_send(all[i], "hello");
        pair_run_until_received(all[i], 5);
    }
    limit_peer(&writing, 16 * 1024);
    limit_peer(&stuck, 16 * 1024);
    rondo_write(writing.t, (rondo_bytes){ much, sizeof much });
    rondo_write(stuck.t, (rondo_bytes){ much, sizeof much });
    pair_turn(&writing);
    peer_send(&unread, "a word");

    world.service.draining = true;
    for (unsigned i = 0; i < 4; i++)
        transport_drain(all[i]->t);
    cr_assert(eq(sz, (size_t)peer_receive(&writing, came, sizeof came), sizeof came));
    for (unsigned i = 0; i < 3; i++)
        pair_run_until_lost(all[i]);
    world.service.aborting = true;
    transport_cancel(stuck.t);
    pair_run_until_lost(&stuck);

    cr_assert(eq(uint, world.loop.drained.idle, 1));
    cr_assert(eq(uint, world.loop.drained.busy, 2));
    cr_assert(eq(uint, world.loop.drained.aborted, 1));
    cr_assert(eq(uint, world.loop.drained.late, 0));
    for (unsigned i = 0; i < 4; i++)
        pair_close(all[i]);
    while (world.loop.users > 0)
        loop_turn(&world.loop, ENGINE_FOREVER);
    world_close(&world);
}

Test(transport, its_end_is_looked_for_only_where_the_engine_may_forget_it)
{
    struct pair p = { .is_unix = true };
    pair_open(&p, &recording);
    cr_assert_eq(p.t->watch != NULL, is_on_a_ring(), "a ring may forget that of a Unix socket");
    pair_close(&p);
}

Test(transport, cancelling_resets_and_says_so)
{
    struct pair p;
    char data[1];
    pair_is_given(&p, &recording_echo);
    transport_cancel(p.t);
    cr_assert(eq(int, (int)peer_receive(&p, data, 1), -ECONNRESET));
    cr_assert(eq(str, p.calls, "CM CL"));
    cr_assert(eq(int, p.lost_error, -ECANCELED));
    pair_close(&p);
}

/* ---- anything, from anywhere ------------------------------------------------------------------------------ */

enum action {
    CLOSE,
    ABORT,
    WRITE,
    WRITE_EOF,
    PAUSE,
    RESUME,
    CLOSE_ABORT,
    WRITE_CLOSE,
    ABORT_CLOSE,
    LIMITS,
    ACTIONS
};
enum place { IN_MADE, IN_DATA, IN_EOF, IN_PAUSE, IN_RESUME, IN_LOST, PLACES };

static enum action action_now;

static void act(struct pair *p)
{
    if (p->note++ > 0)
        return;
    switch (action_now) {
    case CLOSE:
        rondo_close(p->t);
        break;
    case ABORT:
        rondo_abort(p->t);
        break;
    case WRITE:
        write_text(p, "more");
        break;
    case WRITE_EOF:
        rondo_write_eof(p->t);
        break;
    case PAUSE:
        rondo_pause_reading(p->t);
        break;
    case RESUME:
        rondo_resume_reading(p->t);
        break;
    case CLOSE_ABORT:
        rondo_close(p->t);
        rondo_abort(p->t);
        break;
    case WRITE_CLOSE:
        write_text(p, "more");
        rondo_close(p->t);
        break;
    case ABORT_CLOSE:
        rondo_abort(p->t);
        rondo_close(p->t);
        break;
    case LIMITS:
        rondo_set_write_buffer_limits(p->t, 1, 0);
        break;
    case ACTIONS:
        break;
    }
}

static void act_in_data(struct pair *p, rondo_bytes data)
{
    static char block[3000];
    act(p);
    rondo_write(p->t, data);
    rondo_write(p->t, (rondo_bytes){ block, sizeof block });
}

static void write_back(struct pair *p, rondo_bytes data)
{
    static char block[3000];
    rondo_write(p->t, data);
    rondo_write(p->t, (rondo_bytes){ block, sizeof block });
}

/* connection_made, data, at most one eof_received, connection_lost exactly once; pauses and resumes paired. */
static void order_is_right(const struct pair *p)
{
    const char *lost = strstr(p->calls, "CL"), *eof = strstr(p->calls, "ER");
    cr_assert_eq(strncmp(p->calls, "CM", 2), 0, "%s", p->calls);
    cr_assert_not_null(lost);
    cr_assert_eq(strlen(lost), 2, "connection_lost is the last, once: %s", p->calls);
    cr_assert(eof == NULL || strstr(eof + 2, "ER") == NULL, "%s", p->calls);
    cr_assert(eof == NULL || strstr(eof, "DR") == NULL, "no data after eof_received: %s", p->calls);
    int balance = 0;
    for (const char *c = p->calls; *c != '\0'; c++) {
        balance += strncmp(c, "PW", 2) == 0;
        balance -= strncmp(c, "RW", 2) == 0;
        cr_assert(balance == 0 || balance == 1, "%s", p->calls);
    }
}

Test(transport, every_call_from_every_callback_keeps_the_order, .timeout = 60)
{
    for (enum place place = 0; place < PLACES; place++) {
        for (action_now = 0; action_now < ACTIONS; action_now++) {
            struct pair p = { .on_data = place == IN_DATA ? act_in_data : write_back };
            p.on_made = place == IN_MADE ? act : NULL;
            p.on_eof = place == IN_EOF ? act : NULL;
            p.on_pause = place == IN_PAUSE ? act : NULL;
            p.on_resume = place == IN_RESUME ? act : NULL;
            p.on_lost = place == IN_LOST ? act : NULL;
            pair_open(&p, &recording_flow);
            rondo_set_write_buffer_limits(p.t, 1000, 100);
            peer_send(&p, "request");
            pair_turn(&p);
            if (p.t != NULL)
                peer_send(&p, "another");
            pair_turn(&p);
            if (p.t != NULL)
                peer_shutdown(&p);
            pair_turn(&p);
            pair_close(&p);
            order_is_right(&p);
        }
    }
}
