/* The test kit: what each of its calls does to a protocol, and what it reports of it. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <rondo/client.h>
#include <rondo/testing.h>

TestSuite(testing, .timeout = 30);

/* ---- a protocol that writes down what comes ------------------------------------------------------------------ */

static char calls[4096];
static char received[100000];
static size_t received_size;
static bool stays_open;

static void note(const char *call)
{
    cr_assert_lt(strlen(calls) + strlen(call) + 2, sizeof calls);
    if (calls[0] != '\0')
        strcat(calls, " ");
    strcat(calls, call);
}

static void connection_made(rondo_transport *t)
{
    (void)t;
    note("made");
}

static void data_received(rondo_transport *t, rondo_bytes data)
{
    (void)t;
    note("data");
    cr_assert_leq(received_size + data.size, sizeof received);
    memcpy(received + received_size, data.data, data.size);
    received_size += data.size;
}

static bool eof_received(rondo_transport *t)
{
    (void)t;
    note("eof");
    return stays_open;
}

static void pause_writing(rondo_transport *t)
{
    (void)t;
    note("pause");
}

static void resume_writing(rondo_transport *t)
{
    (void)t;
    note("resume");
}

static void connection_lost(rondo_transport *t, int error)
{
    (void)t;
    char text[32];
    snprintf(text, sizeof text, "lost %d", error);
    note(text);
}

static const rondo_protocol noting = {
    .name = "noting",
    .connection_made = connection_made,
    .data_received = data_received,
    .eof_received = eof_received,
    .pause_writing = pause_writing,
    .resume_writing = resume_writing,
    .connection_lost = connection_lost,
};

static const rondo_protocol echo = { .name = "echo", .data_received = rondo_write };

static rondo_test *test;
static rondo_test_peer *peer;

static void given(const rondo_protocol *protocol)
{
    test = rondo_test_open(NULL);
    peer = rondo_test_connect(test, protocol);
    cr_assert_not_null(peer);
}

static void over(void)
{
    cr_assert(eq(uint, rondo_test_close(test), 0), "nothing is left");
}

static const char *written(void)
{
    static char text[4096];
    rondo_bytes bytes = rondo_test_written(peer);
    cr_assert_lt(bytes.size, sizeof text);
    memcpy(text, bytes.data, bytes.size);
    text[bytes.size] = '\0';
    return text;
}

/* ---- bytes --------------------------------------------------------------------------------------------------- */

Test(testing, a_peer_feeds_and_sees_what_is_written)
{
    given(&echo);
    cr_assert(eq(str, (char *)written(), ""));
    cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("hello ")), 0));
    cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("world")), 0));
    cr_assert(eq(str, (char *)written(), "hello world"));
    rondo_test_clear(peer);
    cr_assert(eq(str, (char *)written(), ""));
    rondo_test_feed(peer, RONDO_BYTES("!"));
    cr_assert(eq(str, (char *)written(), "!"));
    over();
}

Test(testing, pieces_are_delivered_one_by_one)
{
    for (size_t piece = 1; piece <= 6; piece++) {
        calls[0] = '\0';
        received_size = 0;
        given(&noting);
        rondo_test_feed_in_pieces(peer, RONDO_BYTES("abcde"), piece);
        cr_assert(eq(sz, received_size, 5));
        cr_assert(eq(int, memcmp(received, "abcde", 5), 0));
        static const char *const wanted[] = {
            "made data data data data data",
            "made data data data",
            "made data data",
            "made data data",
            "made data",
            "made data",
        };
        cr_assert(eq(str, calls, (char *)wanted[piece - 1]));
        over();
    }
}

Test(testing, more_bytes_than_the_shard_has_buffers)
{
    static char much[4000000];
    memset(much, 'x', sizeof much);
    given(&echo);
    cr_assert(eq(int, rondo_test_feed(peer, (rondo_bytes){ much, sizeof much }), 0));
    cr_assert(eq(sz, rondo_test_written(peer).size, sizeof much));
    over();
}

Test(testing, paused_bytes_wait)
{
    given(&noting);
    rondo_pause_reading(rondo_test_transport(peer));
    rondo_test_feed(peer, RONDO_BYTES("later"));
    cr_assert(eq(str, calls, "made"));
    rondo_resume_reading(rondo_test_transport(peer));
    rondo_test_turn(test);
    cr_assert(eq(str, calls, "made data"));
    over();
}

Test(testing, a_peer_that_does_not_read_stops_the_writer)
{
    static char much[100000];
    given(&noting);
    rondo_transport *t = rondo_test_transport(peer);
    rondo_test_set_room(peer, 10);
    rondo_write(t, RONDO_BYTES("0123456789abcdef"));
    rondo_test_turn(test);
    cr_assert(eq(str, (char *)written(), "0123456789"));
    cr_assert(eq(sz, rondo_get_write_buffer_size(t), 6));

    rondo_write(t, (rondo_bytes){ much, sizeof much });
    cr_assert(eq(str, calls, "made pause"));
    rondo_test_clear(peer);
    cr_assert(eq(str, (char *)written(), "abcdef"), "there is room for ten again");
    rondo_test_set_room(peer, RONDO_TEST_ANY_ROOM);
    cr_assert(eq(str, calls, "made pause resume"));
    cr_assert(eq(sz, rondo_test_written(peer).size, 6 + sizeof much));
    over();
}

/* ---- ends ---------------------------------------------------------------------------------------------------- */

Test(testing, the_peers_eof_closes)
{
    given(&noting);
    cr_assert(eq(int, rondo_test_feed_eof(peer), 0));
    cr_assert(eq(str, calls, "made eof lost 0"));
    cr_assert_null(rondo_test_transport(peer));
    cr_assert(rondo_test_sees_eof(peer) && !rondo_test_was_reset(peer));
    cr_assert(eq(int, rondo_test_feed_eof(peer), -EPIPE));
    cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("x")), -EPIPE));
    over();
}

Test(testing, a_half_open_protocol_goes_on_writing)
{
    stays_open = true;
    given(&noting);
    rondo_test_feed_eof(peer);
    cr_assert(eq(str, calls, "made eof"));
    rondo_write(rondo_test_transport(peer), RONDO_BYTES("still here"));
    rondo_test_turn(test);
    cr_assert(eq(str, (char *)written(), "still here"));
    cr_assert_not(rondo_test_sees_eof(peer));
    rondo_close(rondo_test_transport(peer));
    rondo_test_turn(test);
    cr_assert(rondo_test_sees_eof(peer));
    cr_assert(eq(str, calls, "made eof lost 0"));
    over();
}

Test(testing, write_eof_is_seen_behind_what_was_written)
{
    given(&noting);
    rondo_transport *t = rondo_test_transport(peer);
    rondo_test_set_room(peer, 3);
    rondo_write(t, RONDO_BYTES("last"));
    rondo_write_eof(t);
    rondo_test_turn(test);
    cr_assert_not(rondo_test_sees_eof(peer));
    rondo_test_clear(peer);
    cr_assert(rondo_test_sees_eof(peer));
    cr_assert(eq(str, (char *)written(), "t"));
    rondo_test_feed(peer, RONDO_BYTES("answer"));
    cr_assert(eq(str, calls, "made data"));
    over();
}

Test(testing, a_peer_resets)
{
    given(&noting);
    rondo_pause_reading(rondo_test_transport(peer));
    rondo_test_feed(peer, RONDO_BYTES("before"));
    rondo_test_reset(peer);
    cr_assert(eq(str, calls, "made"), "an error waits behind the data, as in asyncio");
    rondo_resume_reading(rondo_test_transport(peer));
    rondo_test_turn(test);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "made data lost %d", -ECONNRESET);
    cr_assert(eq(str, calls, wanted));
    cr_assert(rondo_test_was_reset(peer));
    cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("x")), -EPIPE));
    over();
}

Test(testing, an_abort_is_seen_as_a_reset)
{
    given(&noting);
    rondo_abort(rondo_test_transport(peer));
    rondo_test_turn(test);
    cr_assert(eq(str, calls, "made lost 0"));
    cr_assert(rondo_test_was_reset(peer));
    over();
}

Test(testing, a_peer_that_disconnected_answers_by_a_reset)
{
    stays_open = true;
    given(&noting);
    rondo_test_disconnect(peer);
    cr_assert(eq(str, calls, "made eof"));
    rondo_write(rondo_test_transport(peer), RONDO_BYTES("hello?"));
    rondo_test_turn(test);
    rondo_transport *t = rondo_test_transport(peer);
    cr_assert_not_null(t, "the reset comes only with the next write");
    rondo_write(t, RONDO_BYTES("anybody?"));
    rondo_test_turn(test);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "made eof lost %d", -EPIPE);
    cr_assert(eq(str, calls, wanted));
    cr_assert_not(rondo_test_was_reset(peer), "the peer went in order");
    over();
}

Test(testing, what_comes_after_close_is_thrown_away_for_a_second)
{
    given(&noting);
    rondo_close(rondo_test_transport(peer));
    rondo_test_turn(test);
    cr_assert(eq(str, calls, "made lost 0"));
    cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("too late")), 0));
    rondo_test_advance(test, 2000);
    cr_assert(eq(int, rondo_test_feed(peer, RONDO_BYTES("much too late")), -ECONNRESET));
    cr_assert(eq(str, calls, "made lost 0"));
    over();
}

Test(testing, the_end_of_the_test_aborts_what_is_left)
{
    given(&noting);
    rondo_test_connect(test, &noting);
    over();
    char wanted[64];
    snprintf(wanted, sizeof wanted, "made made lost %d lost %d", -ECANCELED, -ECANCELED);
    cr_assert(eq(str, calls, wanted));
}

/* ---- time ---------------------------------------------------------------------------------------------------- */

static char order[64];

struct shot {
    rondo_timer timer;
    char letter;
    uint64_t again_ms;
};

static void shot_expired(rondo_timer *timer)
{
    struct shot *shot = rondo_container_of(timer, struct shot, timer);
    size_t size = strlen(order);
    snprintf(order + size, sizeof order - size, "%c%u ", shot->letter,
             (unsigned)(rondo_time_ms(rondo_test_loop(test)) % 100000));
    if (shot->again_ms > 0)
        rondo_call_later(rondo_test_loop(test), timer, shot->again_ms, shot_expired);
}

Test(testing, time_passes_when_told_and_timers_come_in_order)
{
    struct shot shots[] = { { .letter = 'c' }, { .letter = 'a', .again_ms = 30 }, { .letter = 'b' } };
    uint64_t delays_ms[] = { 100, 30, 70 };
    test = rondo_test_open(NULL);
    rondo_loop *loop = rondo_test_loop(test);
    uint64_t start_ms = rondo_time_ms(loop);
    cr_assert(eq(u64, start_ms % 100000, 0));
    for (int i = 0; i < 3; i++)
        rondo_call_later(loop, &shots[i].timer, delays_ms[i], shot_expired);
    rondo_test_advance(test, 29);
    cr_assert(eq(str, order, ""));
    rondo_test_advance(test, 1);
    cr_assert(eq(str, order, "a30 "));
    rondo_test_advance(test, 75);
    cr_assert(eq(str, order, "a30 a60 b70 a90 c100 "));
    cr_assert(eq(u64, rondo_time_ms(loop) - start_ms, 105));
    rondo_test_advance(test, 10);
    rondo_timer_cancel(&shots[1].timer);
    rondo_test_advance(test, UINT64_C(1000) * 3600 * 24 * 365);
    cr_assert(eq(u64, rondo_time_ms(loop) - start_ms, 115 + UINT64_C(1000) * 3600 * 24 * 365));
    cr_assert(eq(str, order, "a30 a60 b70 a90 c100 "));
    over();
}

Test(testing, an_idle_connection_ends)
{
    rondo_app app = { .idle_timeout_ms = 500 };
    test = rondo_test_open(&app);
    peer = rondo_test_connect(test, &noting);
    rondo_test_advance(test, 400);
    rondo_test_feed(peer, RONDO_BYTES("x"));
    rondo_test_advance(test, 400);
    cr_assert(eq(str, calls, "made data"));
    rondo_test_advance(test, 100);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "made data lost %d", -ETIMEDOUT);
    cr_assert(eq(str, calls, wanted));
    over();
}

static unsigned rounds;

static void again(rondo_call *call)
{
    rounds++;
    rondo_call_soon(rondo_test_loop(test), call, again);
}

Test(testing, a_call_that_asks_for_itself_does_not_hang_the_test)
{
    static rondo_call call;
    given(&echo);
    rondo_call_soon(rondo_test_loop(test), &call, again);
    rondo_test_turn(test);
    cr_assert_geq(rounds, 500);
    rondo_test_feed(peer, RONDO_BYTES("x"));
    cr_assert(eq(str, (char *)written(), "x"));
    cr_assert(eq(uint, rondo_test_close(test), 1), "the call is left");
}

/* ---- what is left -------------------------------------------------------------------------------------------- */

static rondo_timer forgotten_timers[2];
static rondo_call forgotten_call;

static void never(rondo_timer *timer)
{
    (void)timer;
}

static void never_called(rondo_call *call)
{
    (void)call;
}

static void forgets(rondo_loop *loop)
{
    rondo_call_later(loop, &forgotten_timers[0], 1000, never);
    rondo_call_later(loop, &forgotten_timers[1], 100000000, never);
    rondo_call_soon(loop, &forgotten_call, never_called);
}

Test(testing, timers_and_calls_that_are_left_are_counted)
{
    rondo_app app = { .shard_stop = forgets };
    test = rondo_test_open(&app);
    cr_assert(eq(uint, rondo_test_close(test), 3));
    cr_assert(eq(uint, rondo_test_close(NULL), 0));
}

static char memory[8];

static rondo_buffer get_buffer(rondo_transport *t, size_t size_hint)
{
    (void)t;
    (void)size_hint;
    return (rondo_buffer){ memory, sizeof memory };
}

static void buffer_updated(rondo_transport *t, size_t nbytes)
{
    rondo_write(t, (rondo_bytes){ memory, nbytes });
}

static const rondo_protocol buffered = {
    .name = "buffered",
    .get_buffer = get_buffer,
    .buffer_updated = buffer_updated,
};

Test(testing, memory_that_is_the_kernels_is_spoilt_and_watched)
{
    memcpy(memory, "precious", 8);
    given(&buffered);
    cr_assert_neq(memcmp(memory, "precious", 8), 0, "nobody reads what the kernel may be writing");
    rondo_test_feed(peer, RONDO_BYTES("0123456789"));
    cr_assert(eq(str, (char *)written(), "0123456789"));
    memory[0] = '!';
    rondo_test_feed(peer, RONDO_BYTES("a"));
    cr_assert(eq(uint, rondo_test_close(test), 1), "it was written to");
}

/* ---- a shard ------------------------------------------------------------------------------------------------- */

struct shard {
    int started;
};

static int shard_start(rondo_loop *loop)
{
    struct shard *shard = rondo_shard_of(loop);
    note("start");
    return shard->started++;
}

static int shard_fails(rondo_loop *loop)
{
    (void)loop;
    return -EACCES;
}

static void shard_stop(rondo_loop *loop)
{
    struct shard *shard = rondo_shard_of(loop);
    cr_assert(eq(int, shard->started, 1));
    note("stop");
}

Test(testing, a_shard_has_its_state)
{
    rondo_app app = { .shard_size = sizeof(struct shard),
                      .shard_start = shard_start,
                      .shard_stop = shard_stop };
    test = rondo_test_open(&app);
    peer = rondo_test_connect(test, &noting);
    cr_assert(eq(ptr, rondo_shard(rondo_test_transport(peer)), rondo_shard_of(rondo_test_loop(test))));
    over();
    char wanted[64];
    snprintf(wanted, sizeof wanted, "start made lost %d stop", -ECANCELED);
    cr_assert(eq(str, calls, wanted));
}

Test(testing, a_shard_that_can_not_start)
{
    rondo_app app = { .shard_start = shard_fails };
    cr_assert_null(rondo_test_open(&app));
}

Test(testing, connections_may_be_limited)
{
    rondo_app app = { .max_connections = 1 };
    test = rondo_test_open(&app);
    peer = rondo_test_connect(test, &noting);
    cr_assert_not_null(peer);
    cr_assert_null(rondo_test_connect(test, &noting));
    rondo_test_feed_eof(peer);
    cr_assert_not_null(rondo_test_connect(test, &noting));
    over();
}

Test(testing, a_stop_drains)
{
    given(&noting);
    rondo_test_feed(peer, RONDO_BYTES("request"));
    rondo_pause_reading(rondo_test_transport(peer));
    rondo_test_feed(peer, RONDO_BYTES("another"));
    rondo_stop(rondo_test_loop(test));
    rondo_stop(rondo_test_loop(test));
    rondo_test_turn(test);
    cr_assert(eq(str, calls, "made data"));
    rondo_resume_reading(rondo_test_transport(peer));
    rondo_test_turn(test);
    cr_assert(eq(str, calls, "made data data lost 0"));
    over();
}

static void posted(rondo_call *call)
{
    (void)call;
    note("posted");
}

Test(testing, what_is_posted_runs)
{
    static rondo_call call;
    given(&noting);
    cr_assert(eq(int, rondo_post(rondo_test_loop(test), &call, posted), 0));
    rondo_test_turn(test);
    cr_assert(eq(str, calls, "made posted"));
    over();
}

/* ---- names and descriptors ----------------------------------------------------------------------------------- */

Test(testing, a_peer_has_a_name)
{
    struct sockaddr_in name, other;
    given(&noting);
    rondo_test_peer *second = rondo_test_connect(test, &noting);
    cr_assert(eq(int, rondo_get_extra_info(rondo_test_transport(peer), "peername", &name, sizeof name), 0));
    cr_assert(
        eq(int, rondo_get_extra_info(rondo_test_transport(second), "peername", &other, sizeof other), 0));
    cr_assert(eq(uint, ntohl(name.sin_addr.s_addr), 0xc0000201));
    cr_assert(ne(uint, name.sin_port, other.sin_port));
    over();
}

static int fd_got = -1;

static void file_descriptor_received(rondo_transport *t, int fd)
{
    (void)t;
    note("fd");
    fd_got = fd;
}

static const rondo_protocol taking = {
    .name = "taking",
    .data_received = data_received,
    .file_descriptor_received = file_descriptor_received,
};

Test(testing, descriptors_pass_both_ways)
{
    int ends[2];
    cr_assert(eq(int, pipe(ends), 0));
    test = rondo_test_open(NULL);
    peer = rondo_test_connect_unix(test, &taking);
    rondo_test_feed(peer, RONDO_BYTES("a"));
    cr_assert(eq(int, rondo_test_feed_descriptor(peer, ends[1]), 0));
    cr_assert(eq(str, calls, "data"));
    rondo_test_feed(peer, RONDO_BYTES("b"));
    cr_assert(eq(str, calls, "data fd data"));
    cr_assert(eq(int, (int)write(fd_got, "!", 1), 1));

    cr_assert(eq(int, rondo_test_take_descriptor(peer), -1));
    cr_assert(eq(int, rondo_send_file_descriptor(rondo_test_transport(peer), ends[0]), 0));
    rondo_write(rondo_test_transport(peer), RONDO_BYTES("c"));
    rondo_test_turn(test);
    cr_assert(eq(str, (char *)written(), "c"));
    int fd = rondo_test_take_descriptor(peer);
    char byte;
    cr_assert(eq(int, (int)read(fd, &byte, 1), 1));
    cr_assert(eq(int, rondo_test_take_descriptor(peer), -1));
    close(fd);
    close(fd_got);
    close(ends[0]);
    close(ends[1]);
    over();
}

Test(testing, tcp_passes_no_descriptors)
{
    given(&noting);
    cr_assert(eq(int, rondo_test_feed_descriptor(peer, 0), -ENOTSUP));
    over();
}

static void connection_failed(rondo_connector *connector, int error, const char *why)
{
    (void)connector;
    (void)why;
    note(error < 0 ? "failed" : "?");
}

Test(testing, a_connection_out_leads_to_nowhere)
{
    rondo_connector *connector;
    rondo_client_options options = { .url = "tcp://127.0.0.1:7777",
                                     .protocol = &noting,
                                     .connection_failed = connection_failed };
    test = rondo_test_open(NULL);
    cr_assert(eq(int, rondo_create_connection(rondo_test_loop(test), &options, &connector), 0));
    rondo_test_advance(test, 60 * 1000);
    cr_assert(eq(str, calls, "failed"));
    over();
}

/* ---- a rough kernel ------------------------------------------------------------------------------------------ */

Test(testing, a_disturbed_kernel_loses_nothing)
{
    static char much[30000];
    for (size_t i = 0; i < sizeof much; i++)
        much[i] = (char)(i * 31 >> 3);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        given(&echo);
        rondo_test_disturb(test, seed);
        rondo_test_set_room(peer, 1 + seed * 100);
        rondo_test_feed_in_pieces(peer, (rondo_bytes){ much, sizeof much }, 7000);
        size_t at = 0;
        while (at < sizeof much) {
            rondo_bytes got = rondo_test_written(peer);
            cr_assert_gt(got.size, 0, "seed %d: stuck at %zu", (int)seed, at);
            cr_assert_leq(got.size, 1 + seed * 100);
            cr_assert_eq(memcmp(got.data, much + at, got.size), 0);
            at += got.size;
            rondo_test_clear(peer);
        }
        cr_assert(eq(sz, at, sizeof much));
        over();
    }
}
