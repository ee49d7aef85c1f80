/* The engine, on real sockets: every kind of operation, how each ends, and what happens when rings and buffers are far
 * too small for what is asked. The peers are plain sockets of the test, so each test runs in one thread. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/engine.h"
#include "core/kernel.h"
#include "support/asked.h"
#include "support/engine.h"

TestSuite(engine, .timeout = 60);

enum { BUFFERS = 16, FEW_BUFFERS = 4, BUFFER_BYTES = 1024 };

static const struct engine_size tiny = { 8, 16, BUFFERS, BUFFER_BYTES, 0, 0, 0, 0 };
static const struct engine_size pieced = { 8, 16, BUFFERS, BUFFER_BYTES, 4, BUFFER_BYTES, 0, 0 };
static const struct engine_size few_buffers = { 64, 128, FEW_BUFFERS, BUFFER_BYTES, 0, 0, 0, 0 };
static const struct engine_size roomy = { 256, 1024, 256, BUFFER_BYTES, 0, 0, 0, 0 };

static void open_tiny(void)
{
    open_engine(tested_engine(), &tiny);
}

static void open_pieced(void)
{
    open_engine(tested_engine(), &pieced);
}

static void open_few_buffers(void)
{
    open_engine(tested_engine(), &few_buffers);
}

static void open_roomy(void)
{
    open_engine(tested_engine(), &roomy);
}

#define ON_TINY        .init = open_tiny, .fini = close_engine
#define ON_PIECED      .init = open_pieced, .fini = close_engine
#define ON_FEW_BUFFERS .init = open_few_buffers, .fini = close_engine
#define ON_ROOMY       .init = open_roomy, .fini = close_engine

/* ---- opening -------------------------------------------------------------------------------------------- */

Test(engine, an_unknown_name_is_refused_with_a_sentence)
{
    char why[ENGINE_WHY_BYTES] = "";
    int error = 0;
    cr_assert_null(engine_open("bogus", &tiny, -1, &error, why));
    cr_assert(eq(int, error, -EINVAL));
    cr_assert_not_null(strstr(why, "bogus"));
    cr_assert_not_null(strstr(why, "uring"), "it says which there are: %s", why);
    cr_assert(engine_is_known("auto") && engine_is_known("uring") && !engine_is_known("bogus"));
}

Test(engine, a_size_halves_down_to_one_that_still_opens)
{
    struct engine_size size = engine_size_default, before = size;
    while (engine_size_halve(&size)) {
        cr_assert(size.submissions <= before.submissions && size.completions <= before.completions &&
                  size.buffers <= before.buffers);
        cr_assert(size.submissions + size.completions + size.buffers <
                  before.submissions + before.completions + before.buffers);
        before = size;
    }
    cr_assert_lt(size.buffers, engine_size_default.buffers);
    open_engine(tested_engine(), &size);
    close_engine();
}

Test(engine, without_work_a_wait_lasts_to_its_timeout, ON_TINY)
{
    assert_asleep();
}

Test(engine, a_wait_of_more_than_a_second_lasts_as_long, ON_TINY)
{
    uint64_t begin_ns = clock_ns();
    turn(1010 * NS_PER_MS);
    cr_assert_geq(clock_ns() - begin_ns, 1010 * NS_PER_MS);
}

Test(engine, writing_to_the_wake_descriptor_ends_a_wait_each_time, ON_TINY)
{
    for (unsigned i = 0; i < 5; i++) {
        eventfd_write(wake_fd, 1);
        turn(ENGINE_FOREVER);
        assert_asleep();
    }
}

static void *wake_it(void *unused)
{
    eventfd_write(wake_fd, 1);
    return unused;
}

Test(engine, another_thread_wakes_it, ON_TINY)
{
    for (unsigned i = 0; i < 50; i++) {
        pthread_t thread;
        uint64_t completions = engine->counters.completions;
        cr_assert_eq(pthread_create(&thread, NULL, wake_it, NULL), 0);
        while (engine->counters.completions == completions)
            turn(ENGINE_FOREVER);
        pthread_join(thread, NULL);
    }
}

/* ---- accepting ------------------------------------------------------------------------------------------ */

static int accepted[8];

static void note_accepted(struct asked *asked)
{
    if (asked->result >= 0)
        accepted[asked->completions - 1] = asked->result;
}

Test(engine, accept_gives_each_connection_until_it_is_cancelled, ON_TINY)
{
    static struct asked asked = { .then = note_accepted };
    struct sockaddr_in address;
    int listener = listening_socket(&address), peers[4];
    engine_accept(engine, &prepared(&asked, listener)->op, listener);

    for (unsigned i = 0; i < 4; i++)
        peers[i] = connect_to(&address);
    RUN_UNTIL(asked.completions == 4);

    cr_assert(asked.op.in_kernel, "it goes on");
    for (unsigned i = 0; i < 4; i++) {
        char byte = 0;
        cr_assert(eq(int, fcntl(accepted[i], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC));
        cr_assert(eq(int, fcntl(accepted[i], F_GETFL) & O_NONBLOCK, 0));
        they_send(peers[i], "x");
        cr_assert(eq(int, (int)recv(accepted[i], &byte, 1, 0), 1));
        close(accepted[i]);
        close(peers[i]);
    }
    cancel(&asked);
    close_ours(listener);
}

Test(engine, accept_on_what_does_not_listen_ends_with_an_error, ON_TINY)
{
    static struct asked asked;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    engine_accept(engine, &prepared(&asked, fd)->op, fd);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, -EINVAL));
    close_ours(fd);
}

Test(engine, accept_without_a_free_descriptor_ends_and_loses_no_connection, ON_TINY)
{
    static struct asked asked = { .then = note_accepted };
    struct sockaddr_in address;
    struct rlimit normal, exhausted;
    int listener = listening_socket(&address);
    int peer = connect_to(&address);
    int first_free = dup(listener);
    close(first_free);
    getrlimit(RLIMIT_NOFILE, &normal);
    exhausted = (struct rlimit){ (rlim_t)first_free, normal.rlim_max };
    setrlimit(RLIMIT_NOFILE, &exhausted);

    engine_accept(engine, &prepared(&asked, listener)->op, listener);
    RUN_UNTIL(!asked.op.in_kernel);
    setrlimit(RLIMIT_NOFILE, &normal);

    cr_assert(eq(int, asked.result, -EMFILE));
    cr_assert(eq(uint, asked.completions, 1));
    engine_accept(engine, &asked.op, listener);
    RUN_UNTIL(asked.completions == 2);
    cr_assert(eq(int, asked.result, first_free));
    close(asked.result);
    cancel(&asked);
    close_ours(listener);
    close(peer);
}

/* ---- receiving ------------------------------------------------------------------------------------------ */

Test(engine, a_multishot_receive_delivers_whenever_bytes_arrive, ON_TINY)
{
    static struct asked asked;
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, true);
    assert_asleep();
    for (unsigned i = 1; i <= 3; i++) {
        they_send(ends.theirs, "again");
        RUN_UNTIL(asked.completions == i);
        cr_assert(asked.op.in_kernel, "it goes on");
        cr_assert(eq(uint, engine->buffers.lent, 0));
    }
    assert_received(&asked, "againagainagain");
    cancel(&asked);
    close_ends(ends);
}

Test(engine, a_single_receive_delivers_once, ON_TINY)
{
    static struct asked asked;
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, false);
    they_send(ends.theirs, "first");
    RUN_UNTIL(!asked.op.in_kernel);
    they_send(ends.theirs, "second");
    assert_asleep();
    assert_received(&asked, "first");

    ask_to_receive(&asked, ends.ours, false);
    RUN_UNTIL(!asked.op.in_kernel);
    assert_received(&asked, "firstsecond");
    close_ends(ends);
}

static void assert_lent(struct asked *asked)
{
    if (asked->received_size > 0)
        cr_assert(eq(uint, engine->buffers.lent, 1));
}

Test(engine, received_bytes_are_lent_until_done_returns_or_as_long_as_they_are_kept, ON_TINY)
{
    static struct asked asked = { .then = assert_lent, .keeps = true };
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, false);
    they_send(ends.theirs, "kept");
    RUN_UNTIL(!asked.op.in_kernel);

    cr_assert(eq(uint, engine->buffers.lent, 1));
    cr_assert(buffers_own(&engine->buffers, asked.kept));
    turn(0);
    cr_assert_arr_eq(asked.kept, "kept", 4);
    let_go(&asked);
    cr_assert(eq(uint, engine->buffers.lent, 0));
    close_ends(ends);
}

static void receive_again(struct asked *asked)
{
    if (asked->result > 0 && !asked->op.in_kernel)
        engine_receive(engine, &asked->op, asked->fd, false);
}

static void deliver_more_than_all_buffers_hold(bool multishot)
{
    static struct asked asked = { .then = receive_again };
    static char sent[8 * BUFFER_BYTES + 1];
    struct ends ends = tcp_ends();
    fill_with_pattern(sent, sizeof sent, 0, 0);
    cr_assert_eq(send(ends.theirs, sent, sizeof sent, 0), (ssize_t)sizeof sent);
    ask_to_receive(&asked, ends.ours, multishot);
    RUN_UNTIL(asked.received_size == sizeof sent);
    assert_pattern(asked.received, asked.received_size, 0, 0);
    cr_assert(asked.op.in_kernel);
    cancel(&asked);
    close_ends(ends);
}

Test(engine, more_than_a_buffer_holds_comes_in_several_single_receives, ON_TINY)
{
    deliver_more_than_all_buffers_hold(false);
}

Test(engine, more_than_a_buffer_holds_comes_in_several_completions_of_a_multishot, ON_TINY)
{
    deliver_more_than_all_buffers_hold(true);
}

Test(engine, each_buffer_is_used_again_and_again, ON_TINY)
{
    static struct asked asked = { .then = receive_again };
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, true);
    for (unsigned i = 1; i <= 5 * BUFFERS; i++) {
        they_send(ends.theirs, "x");
        RUN_UNTIL(asked.received_size == i);
    }
    cr_assert(eq(u64, engine->counters.starved, 0));
    cancel(&asked);
    close_ends(ends);
}

static void end_of_file(bool multishot)
{
    static struct asked asked;
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, multishot);
    shutdown(ends.theirs, SHUT_WR);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, 0));
    cr_assert(eq(sz, asked.received_size, 0));
    cr_assert(eq(uint, engine->buffers.lent, 0));
    close_ends(ends);
}

Test(engine, the_peers_eof_ends_a_single_receive_with_0, ON_TINY)
{
    end_of_file(false);
}

Test(engine, the_peers_eof_ends_a_multishot_receive_with_0, ON_TINY)
{
    end_of_file(true);
}

Test(engine, many_eofs_use_up_no_buffers, ON_TINY)
{
    for (unsigned i = 0; i < 3 * BUFFERS; i++)
        end_of_file(i % 2 == 0);
    cr_assert(eq(u64, engine->counters.starved, 0));
}

Test(engine, a_peer_that_resets_ends_a_receive_and_then_a_send, ON_TINY)
{
    static struct asked asked;
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, true);
    setsockopt(ends.theirs, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
    close(ends.theirs);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, -ECONNRESET));

    ask_to_send(&asked, ends.ours, "x", 1, true);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, -EPIPE), "and no SIGPIPE");
    close_ours(ends.ours);
}

Test(engine, receiving_from_a_bad_descriptor_completes_with_an_error, ON_TINY)
{
    static struct asked asked;
    ask_to_receive(&asked, -1, true);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, -EBADF));
}

Test(engine, receive_into_fills_the_given_memory, ON_TINY)
{
    static struct asked asked;
    char memory[8];
    struct ends ends = tcp_ends();
    memset(memory, '-', sizeof memory);
    engine_receive_into(engine, &prepared(&asked, ends.ours)->op, ends.ours, (rondo_buffer){ memory, 4 });
    assert_asleep();
    they_send(ends.theirs, "abcdef");
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, 4));
    cr_assert_arr_eq(memory, "abcd----", 8, "and nothing behind it");

    engine_receive_into(engine, &asked.op, ends.ours, (rondo_buffer){ memory, sizeof memory });
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, 2));
    cr_assert_arr_eq(memory, "efcd----", 8);
    cr_assert(eq(uint, asked.completions, 2));

    shutdown(ends.theirs, SHUT_WR);
    engine_receive_into(engine, &asked.op, ends.ours, (rondo_buffer){ memory, sizeof memory });
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, 0));
    close_ends(ends);
}

/* ---- sending -------------------------------------------------------------------------------------------- */

static void send_slices(unsigned count)
{
    static struct asked asked;
    static char sent[ENGINE_SEND_SLICES_MAX * 100], came[sizeof sent];
    struct iovec slices[ENGINE_SEND_SLICES_MAX];
    struct ends ends = tcp_ends();
    size_t size = 0;
    fill_with_pattern(sent, sizeof sent, count, 0);
    for (unsigned i = 0; i < count; i++) {
        slices[i] = (struct iovec){ sent + size, i + 1 };
        size += i + 1;
    }
    engine_send(engine, &prepared(&asked, ends.ours)->op, ends.ours, slices, count, false);
    memset(slices, 0, sizeof slices); /* the array is the caller's again */
    cr_assert(asked.op.in_kernel);
    turn(0);

    cr_assert(not(asked.op.in_kernel), "with the next turn");
    cr_assert(eq(sz, (size_t)asked.result, size));
    RUN_UNTIL(they_receive(ends.theirs, came, size) == size);
    assert_pattern(came, size, count, 0);
    close_ends(ends);
}

Test(engine, one_slice_is_sent, ON_TINY)
{
    send_slices(1);
}

Test(engine, two_slices_are_sent_in_order, ON_TINY)
{
    send_slices(2);
}

Test(engine, as_many_slices_as_a_send_takes_are_sent_in_order, ON_TINY)
{
    send_slices(ENGINE_SEND_SLICES_MAX);
}

/* Each message lies in memory of its own from the call until the kernel has taken it, also when the queue is full and
 * taken by other operations in between. */
static void send_from_many_in_one_turn(void)
{
    enum { MANY = 200, SLICE = 7, SLICES = 60 };
    static struct asked sends[MANY], receives[MANY];
    static struct ends ends[MANY];
    static char sent[MANY][SLICES * SLICE];
    struct iovec slices[SLICES];
    for (unsigned i = 0; i < MANY; i++) {
        ends[i] = local_ends();
        fill_with_pattern(sent[i], sizeof sent[i], i, 0);
    }
    for (unsigned i = 0; i < MANY; i++) {
        unsigned count = i % 5 == 0 ? 2 : SLICES - i % 7;
        for (unsigned s = 0; s < count; s++)
            slices[s] = (struct iovec){ sent[i] + s * SLICE, SLICE };
        if (i % 3 == 0)
            ask_to_receive(&receives[i], ends[i].ours, true);
        engine_send(engine, &prepared(&sends[i], ends[i].ours)->op, ends[i].ours, slices, count, false);
        sends[i].received_size = count * SLICE; /* expected over there */
    }
    for (unsigned i = 0; i < MANY; i++) {
        static char came[SLICES * SLICE];
        RUN_UNTIL(!sends[i].op.in_kernel);
        cr_assert(eq(sz, (size_t)sends[i].result, sends[i].received_size));
        cr_assert(eq(sz, they_receive(ends[i].theirs, came, sizeof came), sends[i].received_size));
        assert_pattern(came, sends[i].received_size, i, 0);
        if (receives[i].op.in_kernel)
            cancel(&receives[i]);
        close_ends(ends[i]);
    }
}

Test(engine, more_messages_than_the_queue_holds_are_sent_whole, ON_TINY)
{
    send_from_many_in_one_turn();
}

Test(engine, more_slices_than_there_is_memory_for_are_sent_whole, ON_ROOMY)
{
    send_from_many_in_one_turn();
}

enum { PLENTY = 1024 * 1024 };

/* Returns how much lies there. */
static size_t fill_socket(struct asked *asked, int fd, const char *data)
{
    size_t sent = 0;
    do {
        ask_to_send(asked, fd, data, PLENTY, false);
        turn(0);
        cr_assert(not(asked->op.in_kernel), "with the next turn");
        if (asked->result > 0) {
            cr_assert_lt(asked->result, PLENTY, "a socket doesn't hold that much");
            sent += (size_t)asked->result;
        }
    } while (asked->result > 0);
    return sent;
}

Test(engine, a_send_that_does_not_wait_sends_what_fits_and_then_eagain, ON_TINY)
{
    static struct asked asked;
    static char data[PLENTY], came[PLENTY];
    struct ends ends = local_ends();
    fill_with_pattern(data, sizeof data, 0, 0);

    ask_to_send(&asked, ends.ours, data, sizeof data, false);
    turn(0);
    size_t sent = (size_t)asked.result;
    cr_assert(asked.result > 0 && sent < sizeof data, "short");
    cr_assert(eq(sz, they_receive(ends.theirs, came, sizeof came), sent));
    assert_pattern(came, sent, 0, 0);

    fill_socket(&asked, ends.ours, data);
    cr_assert(eq(int, asked.result, -EAGAIN));
    struct iovec two[] = { { data, 10 }, { data + 10, 10 } };
    engine_send(engine, &asked.op, ends.ours, two, 2, false);
    turn(0);
    cr_assert(not(asked.op.in_kernel));
    cr_assert(eq(int, asked.result, -EAGAIN));
    close_ends(ends);
}

Test(engine, a_send_that_waits_waits_until_some_can_be_sent, ON_TINY)
{
    static struct asked asked;
    static char data[PLENTY], came[PLENTY];
    struct ends ends = local_ends();
    for (unsigned slices = 1; slices <= 2; slices++) {
        struct iovec both[] = { { data, 300 }, { data + 300, 700 } };
        size_t filled = fill_socket(&asked, ends.ours, data);
        fill_with_pattern(data, 1000, slices, 0);
        engine_send(engine, &asked.op, ends.ours, both, slices, true);
        assert_asleep();
        cr_assert(asked.op.in_kernel);

        cr_assert(eq(sz, they_receive(ends.theirs, came, filled), filled));
        RUN_UNTIL(!asked.op.in_kernel);
        cr_assert_gt(asked.result, 0);
        cr_assert(eq(sz, they_receive(ends.theirs, came, sizeof came), (size_t)asked.result));
        assert_pattern(came, (size_t)asked.result, slices, 0);
    }
    close_ends(ends);
}

Test(engine, a_send_to_a_peer_that_is_gone_is_an_error_and_no_signal, ON_TINY)
{
    static struct asked asked;
    struct ends ends = local_ends();
    struct iovec slices[] = { { "a", 1 }, { "b", 1 } };
    close(ends.theirs);
    for (unsigned count = 1; count <= 2; count++) {
        engine_send(engine, &prepared(&asked, ends.ours)->op, ends.ours, slices, count, count == 1);
        RUN_UNTIL(!asked.op.in_kernel);
        cr_assert(eq(int, asked.result, -EPIPE));
    }
    close_ours(ends.ours);
}

/* ---- sending quietly ------------------------------------------------------------------------------------- */

static bool sends_are_quiet(void)
{
    return kernel_has(KERNEL_QUIET_SENDS);
}

static void send_quietly(struct asked *asked, int fd, const char *data, size_t size)
{
    engine_send(engine, &prepared(asked, fd)->op, fd, &(struct iovec){ (char *)data, size }, 1, SEND_QUIETLY);
}

Test(engine, a_quiet_send_that_succeeds_wakes_nobody_and_completes_with_the_next_turn, ON_TINY)
{
    static struct asked asked;
    char came[8];
    struct ends ends = tcp_ends();
    turn(0);
    uint64_t completions = engine->counters.completions, begin_ns = clock_ns();
    send_quietly(&asked, ends.ours, "quiet", 5);
    cr_assert(asked.op.in_kernel, "from the call on");
    turn(20 * NS_PER_MS);
    if (sends_are_quiet()) {
        cr_assert_geq(clock_ns() - begin_ns, 20 * NS_PER_MS, "it slept");
        cr_assert(eq(u64, engine->counters.completions, completions), "nothing was told");
    }
    cr_assert(not(asked.op.in_kernel));
    cr_assert(eq(uint, asked.completions, 1));
    cr_assert(eq(int, asked.result, 5));
    cr_assert(eq(sz, they_receive(ends.theirs, came, sizeof came), 5));
    cr_assert_arr_eq(came, "quiet", 5);
    close_ends(ends);
}

Test(engine, a_quiet_send_for_which_somebody_comes_to_wait_does_not_let_it_sleep, ON_TINY)
{
    static struct asked asked;
    struct ends ends = tcp_ends();
    for (unsigned i = 0; i < 2; i++) {
        send_quietly(&asked, ends.ours, "x", 1);
        if (i == 0)
            engine_expect(engine, &asked.op);
        else
            engine_cancel(engine, &asked.op);
        uint64_t begin_ns = clock_ns();
        turn(PATIENCE_NS);
        cr_assert_lt(clock_ns() - begin_ns, PATIENCE_NS);
        cr_assert(eq(uint, asked.completions, i + 1));
        cr_assert(eq(int, asked.result, 1), "it was faster than its cancellation");
    }
    engine_expect(engine, &asked.op); /* of an operation that has ended it means nothing */
    assert_asleep();
    close_ends(ends);
}

Test(engine, a_quiet_send_that_comes_up_short_is_told, ON_TINY)
{
    static struct asked asked;
    static char data[PLENTY], came[PLENTY];
    for (unsigned slices = 1; slices <= 2; slices++) {
        struct ends ends = local_ends();
        struct iovec both[] = { { data, slices == 1 ? sizeof data : 100 },
                                { data + 100, sizeof data - 100 } };
        fill_with_pattern(data, sizeof data, 0, 0);
        engine_send(engine, &prepared(&asked, ends.ours)->op, ends.ours, both, slices, SEND_QUIETLY);
        RUN_UNTIL(!asked.op.in_kernel);
        cr_assert(asked.result > 0 && (size_t)asked.result < sizeof data, "short: %d", asked.result);
        cr_assert(eq(sz, they_receive(ends.theirs, came, sizeof came), (size_t)asked.result),
                  "all that went is told");
        assert_pattern(came, (size_t)asked.result, 0, 0);

        fill_socket(&asked, ends.ours, data);
        engine_send(engine, &asked.op, ends.ours, both, slices, SEND_QUIETLY);
        RUN_UNTIL(!asked.op.in_kernel);
        cr_assert(eq(int, asked.result, -EAGAIN));
        close_ends(ends);
    }
}

static bool have_all_ended(const struct asked *asked, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        engine_expect(engine, &asked[i].op);
        if (asked[i].op.in_kernel)
            return false;
    }
    return true;
}

/* More than the queues of both rings hold, every third to a peer that has gone. */
Test(engine, of_many_quiet_sends_each_tells_its_own_outcome, ON_TINY)
{
    enum { SENDS = 90 };
    static struct asked asked[SENDS];
    struct ends ends[SENDS];
    for (unsigned i = 0; i < SENDS; i++) {
        ends[i] = local_ends();
        if (i % 3 == 0)
            close(ends[i].theirs);
        send_quietly(&asked[i], ends[i].ours, "0123456789", 1 + i % 10);
    }
    RUN_UNTIL(have_all_ended(asked, SENDS));
    for (unsigned i = 0; i < SENDS; i++) {
        char came[16];
        cr_assert(eq(uint, asked[i].completions, 1), "number %u", i);
        cr_assert(eq(int, asked[i].result, i % 3 == 0 ? -EPIPE : 1 + (int)i % 10), "number %u", i);
        if (i % 3 != 0) {
            cr_assert(eq(sz, they_receive(ends[i].theirs, came, sizeof came), 1 + i % 10));
            close(ends[i].theirs);
        }
        close_ours(ends[i].ours);
    }
}

/* Its callback sends on, and so on: what comes up while quiet sends are told must not be mixed up with them. */
static void send_on(struct asked *asked)
{
    if (asked->completions < 5)
        send_quietly(asked, asked->fd, "again", 5);
}

Test(engine, a_quiet_send_may_be_issued_by_the_end_of_another, ON_TINY)
{
    static struct asked asked[3] = { { .then = send_on }, { .then = send_on }, { .then = send_on } };
    char came[32];
    struct ends ends[3];
    for (unsigned i = 0; i < 3; i++) {
        ends[i] = tcp_ends();
        send_quietly(&asked[i], ends[i].ours, "first", 5);
    }
    for (unsigned i = 0; i < 5; i++)
        turn(0);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert(eq(uint, asked[i].completions, 5));
        cr_assert(eq(sz, they_receive(ends[i].theirs, came, sizeof came), 25));
        cr_assert_arr_eq(came, "firstagainagainagainagain", 25);
        close_ends(ends[i]);
    }
}

/* ---- buffers filled piece by piece ----------------------------------------------------------------------- */

enum { WARM = 2 }; /* as many as the kernel has while messages are large */

static void assert_all_is_back(void)
{
    turn(0);
    cr_assert(eq(uint, engine->buffers.lent, 0));
    if (is_on_a_ring())
        cr_assert_leq(engine->buffers.returned_count, engine->buffers.count - WARM);
    else
        cr_assert_geq(engine->buffers.returned_count, engine->buffers.count - 1,
                      "all but the one to be filled");
}

Test(engine, small_messages_of_several_sockets_share_a_buffer, ON_PIECED)
{
    static struct asked asked[3];
    struct ends ends[3];
    static const char *const texts[] = { "one", "two", "three" };
    for (unsigned i = 0; i < 3; i++) {
        ends[i] = tcp_ends();
        asked[i].keeps = true;
        ask_to_receive(&asked[i], ends[i].ours, true);
        they_send(ends[i].theirs, texts[i]);
        RUN_UNTIL(asked[i].received_size > 0);
    }
    if (!is_on_a_ring() || kernel_has(KERNEL_INCREMENTAL_BUFFERS)) {
        cr_assert(eq(uint, engine->buffers.lent, 1));
        cr_assert_eq(asked[1].kept, asked[0].kept + 3);
        cr_assert_eq(asked[2].kept, asked[1].kept + 3);
    }
    for (unsigned i = 0; i < 3; i++)
        cr_assert_arr_eq(asked[i].kept, texts[i], strlen(texts[i]));
    for (unsigned i = 0; i < 3; i++) {
        let_go(&asked[i]);
        asked[i].keeps = false;
        cancel(&asked[i]);
        close_ends(ends[i]);
    }
    assert_all_is_back();
}

/* Every length, often beginning in one buffer and ending in another; EOFs in between, which some kernels tell with a
 * buffer of which nothing was taken. */
static void receive_lengths(bool multishot)
{
    static struct asked asked;
    static char sent[4 * BUFFER_BYTES];
    for (unsigned round = 0; round < 60; round++) {
        struct ends ends = tcp_ends();
        size_t size = 1 + round * 67 % sizeof sent;
        asked = (struct asked){ .then = receive_again };
        fill_with_pattern(sent, size, round, 0);
        ask_to_receive(&asked, ends.ours, multishot);
        cr_assert_eq(send(ends.theirs, sent, size, MSG_NOSIGNAL), (ssize_t)size);
        RUN_UNTIL(asked.received_size == size);
        assert_pattern(asked.received, size, round, 0);
        if (!asked.op.in_kernel)
            ask_to_receive(&asked, ends.ours, multishot);
        close(ends.theirs);
        RUN_UNTIL(!asked.op.in_kernel);
        cr_assert(eq(int, asked.result, 0));
        close_ours(ends.ours);
    }
    assert_all_is_back();
}

Test(engine, pieces_hold_what_was_sent_whatever_their_length, ON_PIECED)
{
    receive_lengths(true);
    receive_lengths(false);
}

/* The buffer is used up before its first piece comes back. */
Test(engine, a_kept_piece_stays_as_it_is_while_its_buffer_is_filled_and_those_behind_it, ON_PIECED)
{
    static struct asked keeper = { .keeps = true }, other = { .then = receive_again };
    static char sent[BUFFER_BYTES];
    struct ends one = tcp_ends(), two = tcp_ends();
    ask_to_receive(&keeper, one.ours, false);
    they_send(one.theirs, "stays");
    RUN_UNTIL(!keeper.op.in_kernel);
    ask_to_receive(&other, two.ours, true);
    for (unsigned round = 0; round < 12; round++) {
        fill_with_pattern(sent, sizeof sent, round, 0);
        other.received_size = 0;
        cr_assert_eq(send(two.theirs, sent, sizeof sent, MSG_NOSIGNAL), (ssize_t)sizeof sent);
        RUN_UNTIL(other.received_size == sizeof sent);
        assert_pattern(other.received, sizeof sent, round, 0);
        cr_assert_arr_eq(keeper.kept, "stays", 5);
    }
    cr_assert(eq(uint, engine->buffers.lent, 1));
    let_go(&keeper);
    cancel(&other);
    assert_all_is_back();
    close_ends(one);
    close_ends(two);
}

/* ---- closing -------------------------------------------------------------------------------------------- */

Test(engine, closing_a_descriptor_frees_it_and_tells_the_peer, ON_TINY)
{
    static struct asked asked;
    struct ends ends = tcp_ends();
    char byte;
    engine_close_fd(engine, &prepared(&asked, ends.ours)->op, ends.ours);
    engine_expect(engine, &asked.op);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, 0));
    cr_assert(eq(int, fcntl(ends.ours, F_GETFD), -1));
    cr_assert(eq(int, (int)recv(ends.theirs, &byte, 1, 0), 0));

    engine_close_fd(engine, &asked.op, ends.ours);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, -EBADF));
    close(ends.theirs);
}

/* ---- cancelling ----------------------------------------------------------------------------------------- */

static void cancel_receive_and_receive_again(bool multishot)
{
    static struct asked asked;
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, multishot);
    turn(0);
    cancel(&asked);
    they_send(ends.theirs, "later");
    assert_asleep();

    ask_to_receive(&asked, ends.ours, multishot);
    RUN_UNTIL(asked.received_size == 5);
    assert_received(&asked, "later");
    if (multishot)
        cancel(&asked);
    close_ends(ends);
}

Test(engine, a_cancelled_single_receive_takes_nothing_more, ON_TINY)
{
    cancel_receive_and_receive_again(false);
}

Test(engine, a_cancelled_multishot_receive_takes_nothing_more, ON_TINY)
{
    cancel_receive_and_receive_again(true);
}

Test(engine, a_cancelled_receive_into_leaves_the_memory_alone, ON_TINY)
{
    static struct asked asked;
    char memory[4] = "none";
    struct ends ends = tcp_ends();
    engine_receive_into(engine, &prepared(&asked, ends.ours)->op, ends.ours, (rondo_buffer){ memory, 4 });
    turn(0);
    cancel(&asked);
    they_send(ends.theirs, "late");
    assert_asleep();
    cr_assert_arr_eq(memory, "none", 4);
    close_ends(ends);
}

Test(engine, a_blocked_send_can_be_cancelled, ON_TINY)
{
    static struct asked asked;
    static char data[PLENTY], came[PLENTY];
    struct ends ends = local_ends();
    size_t filled = fill_socket(&asked, ends.ours, data);
    ask_to_send(&asked, ends.ours, data, 100, true);
    turn(0);
    cancel(&asked);
    cr_assert(eq(sz, they_receive(ends.theirs, came, sizeof came), filled), "and sends nothing any more");
    close_ends(ends);
}

Test(engine, an_operation_cancelled_in_the_turn_of_its_issue_ends_once, ON_TINY)
{
    static struct asked asked;
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, true);
    cancel(&asked);
    assert_asleep();
    close_ends(ends);
}

Test(engine, cancelling_twice_ends_once, ON_TINY)
{
    static struct asked asked;
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, true);
    turn(0);
    engine_cancel(engine, &asked.op);
    engine_cancel(engine, &asked.op);
    cancel(&asked);
    assert_asleep();
    cr_assert(eq(uint, asked.completions, 1));
    close_ends(ends);
}

Test(engine, cancelling_what_is_not_in_the_kernel_does_nothing, ON_TINY)
{
    static struct asked asked, never;
    struct ends ends = tcp_ends();
    ask_to_send(&asked, ends.ours, "x", 1, false);
    RUN_UNTIL(!asked.op.in_kernel);
    engine_cancel(engine, &asked.op);
    engine_cancel(engine, &never.op);
    assert_asleep();
    cr_assert(eq(uint, asked.completions, 1));
    close_ends(ends);
}

Test(engine, an_operation_that_was_faster_than_its_cancellation_tells_its_own_result, ON_TINY)
{
    static struct asked asked;
    struct ends ends = local_ends();
    ask_to_receive(&asked, ends.ours, false);
    turn(0);
    they_send(ends.theirs, "faster");
    cr_assert_eq(engine_wait(engine, PATIENCE_NS), 0); /* its completion is there, but not dispatched */
    engine_cancel(engine, &asked.op);
    engine_dispatch(engine);
    cr_assert(not(asked.op.in_kernel));
    if (!is_on_a_ring()) { /* epoll only tells that there is something, and leaves it there */
        cr_assert(eq(int, asked.result, -ECANCELED));
        ask_to_receive(&asked, ends.ours, false);
        RUN_UNTIL(!asked.op.in_kernel);
    }
    assert_received(&asked, "faster");

    ask_to_receive(&asked, ends.ours, false); /* which the old cancellation must not hit */
    turn(0);
    assert_asleep();
    they_send(ends.theirs, "again");
    RUN_UNTIL(!asked.op.in_kernel);
    assert_received(&asked, "fasteragain");
    close_ends(ends);
}

/* ---- more completions than there is room for ------------------------------------------------------------- */

enum { FLOWS = 120 };

/* Bytes of a known pattern, from a peer to a receive that goes on until EOF. */
struct flow {
    struct op op;
    unsigned id;
    struct ends ends;
    bool multishot;
    size_t sent, received;
    unsigned cancellations;
    bool ended;
};

static struct flow flows[FLOWS];
static size_t sent_in_all, received_in_all;
static unsigned ended_flows;
static const char *kept[BUFFERS];
static unsigned kept_count, one_in_is_kept; /* 0: none */
static unsigned seed;

static unsigned random_below(unsigned limit)
{
    return (unsigned)rand_r(&seed) % limit;
}

static void flow_done(struct op *op, const struct completion *completion)
{
    struct flow *flow = rondo_container_of(op, struct flow, op);
    cr_assert_eq(op->in_kernel, completion->more, "in the kernel until the last completion");
    cr_assert(not(flow->ended));
    if (completion->result > 0) {
        assert_pattern(completion->data.data, completion->data.size, flow->id, flow->received);
        flow->received += completion->data.size;
        received_in_all += completion->data.size;
        if (one_in_is_kept > 0 && random_below(one_in_is_kept) == 0) {
            buffers_ref(&engine->buffers, completion->data.data);
            kept[kept_count++] = completion->data.data;
        }
    } else if (completion->result == -ECANCELED) {
        cr_assert_gt(flow->cancellations, 0);
        flow->cancellations = 0;
    } else {
        cr_assert(eq(int, completion->result, 0));
        flow->ended = true;
        ended_flows++;
    }
    if (!completion->more && !flow->ended)
        engine_receive(engine, op, flow->ends.ours, flow->multishot);
}

static void open_flows(void)
{
    for (unsigned i = 0; i < FLOWS; i++) {
        flows[i].id = i;
        flows[i].op.done = flow_done;
        flows[i].ends = i % 4 == 3 ? local_ends() : tcp_ends();
        flows[i].multishot = i % 2 == 0;
        engine_receive(engine, &flows[i].op, flows[i].ends.ours, flows[i].multishot);
    }
}

static void flow_sends(struct flow *flow, size_t size)
{
    static char data[8 * 1024];
    fill_with_pattern(data, size, flow->id, flow->sent);
    ssize_t count = send(flow->ends.theirs, data, size, MSG_DONTWAIT);
    if (count > 0) {
        flow->sent += (size_t)count;
        sent_in_all += (size_t)count;
    }
}

static void end_flows(void)
{
    for (unsigned i = 0; i < FLOWS; i++)
        shutdown(flows[i].ends.theirs, SHUT_WR);
    RUN_UNTIL(ended_flows == FLOWS);
    for (unsigned i = 0; i < FLOWS; i++) {
        cr_assert(eq(sz, flows[i].received, flows[i].sent), "of flow %u", i);
        close_ends(flows[i].ends);
    }
}

Test(engine, completions_that_overflow_are_not_lost_and_stay_in_order, ON_TINY)
{
    open_flows();
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned part = 0; part < 3; part++) {
            for (unsigned i = 0; i < FLOWS; i++)
                flow_sends(&flows[i], 1 + (i * 7 + part) % 100);
        }
        RUN_UNTIL(received_in_all == sent_in_all);
    }
    end_flows();
}

static unsigned sends_ended;

static void send_ended(struct op *op, const struct completion *completion)
{
    (void)op;
    cr_assert(eq(int, completion->result, 1));
    sends_ended++;
}

Test(engine, operations_issued_beyond_both_rings_all_complete, ON_TINY)
{
    enum { MANY = 200 };
    static struct op ops[MANY];
    struct ends ends = local_ends();
    char came[MANY];
    for (unsigned i = 0; i < MANY; i++) {
        ops[i].done = send_ended;
        engine_send(engine, &ops[i], ends.ours, &(struct iovec){ "x", 1 }, 1, true);
    }
    RUN_UNTIL(sends_ended == MANY);
    cr_assert(eq(sz, they_receive(ends.theirs, came, sizeof came), MANY));
    close_ends(ends);
}

enum { ASKING = 60 };

static struct asked asking[ASKING], answers[ASKING];
static unsigned asked_count;

static void answer(struct asked *one)
{
    asked_count++;
    ask_to_send(&answers[one - asking], one->fd, "!", 1, false);
}

Test(engine, of_many_messages_the_first_are_answered_before_the_last_are_handed_out, ON_ROOMY)
{
    struct ends ends[ASKING];
    char came;
    for (unsigned i = 0; i < ASKING; i++) {
        ends[i] = tcp_ends();
        asking[i].then = answer;
        ask_to_receive(&asking[i], ends[i].ours, false);
    }
    turn(0);
    for (unsigned i = 0; i < ASKING; i++)
        they_send(ends[i].theirs, "?");
    cr_assert_eq(engine_wait(engine, PATIENCE_NS), 0);
    cr_assert(not(engine_dispatch(engine)), "the kernel hands out 20 at least");
    unsigned first = asked_count, answered = 0;
    cr_assert_gt(first, 0);
    engine_submit(engine);
    for (unsigned i = 0; i < ASKING; i++)
        answered += (unsigned)they_receive(ends[i].theirs, &came, 1);
    cr_assert(eq(uint, answered, first), "they have their answers");
    while (!engine_dispatch(engine)) {
    }
    cr_assert_gt(asked_count, first, "the others were at hand");
    for (unsigned i = 0; i < ASKING; i++) {
        RUN_UNTIL(asking[i].completions == 1 && !answers[i].op.in_kernel);
        close_ends(ends[i]);
    }
}

Test(engine, while_large_messages_come_the_same_few_buffers_are_filled, ON_PIECED)
{
    static struct asked asked;
    static char message[BUFFER_BYTES];
    bool is_used[BUFFERS] = { false };
    unsigned used = 0;
    struct ends ends = tcp_ends();
    if (!engine->buffers.is_pieced)
        cr_skip("this kernel doesn't fill buffers piece by piece");
    asked.keeps = true;
    for (unsigned i = 0; i < 64; i++) {
        cr_assert_eq(send(ends.theirs, message, sizeof message, 0), (ssize_t)sizeof message);
        asked.received_size = 0;
        while (asked.received_size < sizeof message) {
            ask_to_receive(&asked, ends.ours, false);
            RUN_UNTIL(!asked.op.in_kernel);
            is_used[buffers_index(&engine->buffers, asked.kept)] |= i >= 32;
            let_go(&asked);
        }
    }
    for (unsigned i = 0; i < BUFFERS; i++)
        used += is_used[i];
    cr_assert_leq(used, WARM + 1, "they are still in the cache");
    cr_assert_lt(used, engine->buffers.count);
    close_ends(ends);
}

/* ---- more receives than there are buffers ---------------------------------------------------------------- */

enum { CROWD = 40 };

/* A crowd of receives that keep what they get. Their peers speak one after another, so it is known who waits how
 * long. */
static struct asked crowd[CROWD];
static struct ends crowd_ends[CROWD];
static unsigned crowd_size;

static void crowd_speaks(unsigned size, bool multishot)
{
    crowd_size = size;
    for (unsigned i = 0; i < size; i++) {
        crowd_ends[i] = tcp_ends();
        crowd[i].keeps = true;
        ask_to_receive(&crowd[i], crowd_ends[i].ours, multishot);
    }
    for (unsigned i = 0; i < size; i++) {
        they_send(crowd_ends[i].theirs, "hello");
        uint64_t starved = engine->counters.starved;
        RUN_UNTIL(crowd[i].completions == 1 || engine->counters.starved == starved + 1);
    }
}

static unsigned crowd_heard(void)
{
    unsigned count = 0;
    while (count < CROWD && crowd[count].completions > 0)
        count++;
    for (unsigned i = count; i < CROWD; i++)
        cr_assert(eq(uint, crowd[i].completions, 0), "the longest waiting come first");
    return count;
}

/* The rest of them is heard, and nobody goes on receiving. */
static void crowd_leaves(void)
{
    for (unsigned i = 0; i < crowd_size; i++) {
        RUN_UNTIL(!crowd[i].op.in_kernel || crowd[i].completions > 0);
        if (crowd[i].kept != NULL)
            let_go(&crowd[i]);
        if (crowd[i].op.in_kernel)
            cancel(&crowd[i]);
        close_ends(crowd_ends[i]);
    }
}

static void starve(bool multishot)
{
    crowd_speaks(CROWD, multishot);
    cr_assert(eq(uint, crowd_heard(), BUFFERS));
    cr_assert(eq(uint, engine->buffers.lent, BUFFERS));
    cr_assert(eq(u64, engine->counters.starved, CROWD - BUFFERS));
    for (unsigned i = 0; i < CROWD; i++)
        cr_assert_eq(crowd[i].op.in_kernel, multishot || i >= BUFFERS, "who waits is still in the kernel");
    assert_asleep();

    unsigned heard = BUFFERS;
    for (unsigned batch = 1; heard + batch <= CROWD; batch++) {
        for (unsigned i = 0; i < batch; i++)
            let_go(&crowd[heard - BUFFERS + i]);
        heard += batch;
        RUN_UNTIL(crowd[heard - 1].completions == 1);
        cr_assert(eq(uint, crowd_heard(), heard), "just as many as there were buffers for");
        assert_asleep();
    }
    crowd_leaves();
}

Test(engine, starved_single_receives_sleep_and_go_on_as_buffers_come_back, ON_TINY)
{
    starve(false);
}

Test(engine, starved_multishot_receives_sleep_and_go_on_as_buffers_come_back, ON_TINY)
{
    starve(true);
}

static void receive_on(struct asked *asked)
{
    asked->received_size = 0;
    if (asked->result > 0)
        ask_to_receive(asked, asked->fd, false);
}

Test(engine, fast_peers_do_not_keep_all_buffers, ON_FEW_BUFFERS)
{
    static struct asked fast[FEW_BUFFERS], late;
    static const char much[64 * BUFFER_BYTES];
    struct ends ends[FEW_BUFFERS], late_ends = local_ends();
    for (unsigned i = 0; i < FEW_BUFFERS; i++) {
        ends[i] = local_ends();
        cr_assert_eq(send(ends[i].theirs, much, sizeof much, 0), (ssize_t)sizeof much);
        fast[i].then = receive_on;
        ask_to_receive(&fast[i], ends[i].ours, false);
    }
    RUN_UNTIL(fast[FEW_BUFFERS - 1].completions > 1);
    they_send(late_ends.theirs, "hello");
    ask_to_receive(&late, late_ends.ours, false);
    RUN_UNTIL(late.completions == 1);
    for (unsigned i = 0; i < FEW_BUFFERS; i++)
        cr_assert_lt(fast[i].completions, 32, "there was more to come, and yet it was another's turn");
    for (unsigned i = 0; i < FEW_BUFFERS; i++)
        RUN_UNTIL(fast[i].completions == sizeof much / BUFFER_BYTES);
    for (unsigned i = 0; i < FEW_BUFFERS; i++) {
        cancel(&fast[i]);
        close_ends(ends[i]);
    }
    close_ends(late_ends);
}

Test(engine, fast_peers_take_turns_at_few_buffers, ON_FEW_BUFFERS)
{
    enum { FAST = 3 * FEW_BUFFERS };
    static struct asked fast[FAST];
    static const char much[64 * BUFFER_BYTES];
    struct ends ends[FAST];
    for (unsigned i = 0; i < FAST; i++) {
        ends[i] = local_ends();
        cr_assert_eq(send(ends[i].theirs, much, sizeof much, 0), (ssize_t)sizeof much);
        fast[i].then = receive_on;
        ask_to_receive(&fast[i], ends[i].ours, false);
    }
    RUN_UNTIL(fast[0].completions == 24);
    for (unsigned i = 1; i < FAST; i++)
        cr_assert(ge(uint, fast[i].completions, 20), "%u", i);
    for (unsigned i = 0; i < FAST; i++)
        RUN_UNTIL(fast[i].completions == sizeof much / BUFFER_BYTES);
    for (unsigned i = 0; i < FAST; i++) {
        cancel(&fast[i]);
        close_ends(ends[i]);
    }
}

static struct asked holders[FEW_BUFFERS], returning[FEW_BUFFERS];

static void let_go_of_what_was_sent(struct asked *asked)
{
    let_go(&holders[asked - returning]);
}

Test(engine, quiet_sends_do_not_keep_the_buffers_that_others_wait_for, ON_FEW_BUFFERS)
{
    static struct asked waiting;
    struct ends ends[FEW_BUFFERS], waiting_ends = local_ends();
    for (unsigned i = 0; i < FEW_BUFFERS; i++) {
        ends[i] = local_ends();
        they_send(ends[i].theirs, "hello");
        holders[i].keeps = true;
        ask_to_receive(&holders[i], ends[i].ours, false);
        RUN_UNTIL(!holders[i].op.in_kernel);
    }
    they_send(waiting_ends.theirs, "hello");
    ask_to_receive(&waiting, waiting_ends.ours, false);
    RUN_UNTIL(engine->counters.starved == 1);
    assert_asleep();
    for (unsigned i = 0; i < FEW_BUFFERS; i++) {
        returning[i].then = let_go_of_what_was_sent;
        send_quietly(&returning[i], ends[i].ours, holders[i].kept, 5);
    }
    RUN_UNTIL(waiting.completions == 1);
    assert_received(&waiting, "hello");
    for (unsigned i = 0; i < FEW_BUFFERS; i++)
        close_ends(ends[i]);
    close_ends(waiting_ends);
}

Test(engine, all_starved_go_on_when_all_buffers_come_back_at_once, ON_TINY)
{
    crowd_speaks(CROWD, true);
    for (unsigned i = 0; i < BUFFERS; i++)
        let_go(&crowd[i]);
    for (unsigned i = BUFFERS; i < CROWD; i++)
        crowd[i].keeps = false;
    RUN_UNTIL(crowd_heard() == CROWD);
    crowd_leaves();
}

Test(engine, a_cancelled_starved_receive_ends_at_once_and_the_others_go_on, ON_TINY)
{
    crowd_speaks(CROWD, true);
    struct asked *first = &crowd[BUFFERS], *second = &crowd[BUFFERS + 1], *last = &crowd[CROWD - 1];
    engine_cancel(engine, &first->op);
    engine_cancel(engine, &first->op);
    engine_cancel(engine, &last->op);
    cr_assert(first->op.in_kernel && last->op.in_kernel);
    turn(ENGINE_FOREVER);
    cr_assert(not(first->op.in_kernel));
    cr_assert(not(last->op.in_kernel));
    cr_assert(eq(int, first->result, -ECANCELED));
    cr_assert(eq(uint, first->completions, 1));
    cr_assert(eq(int, last->result, -ECANCELED));

    let_go(&crowd[0]);
    RUN_UNTIL(second->completions == 1);
    assert_received(second, "hello");
    crowd_leaves();
}

Test(engine, a_starved_receive_that_is_cancelled_as_a_buffer_comes_back_ends, ON_TINY)
{
    crowd_speaks(CROWD, true);
    struct asked *first = &crowd[BUFFERS], *second = &crowd[BUFFERS + 1];
    let_go(&crowd[0]);
    engine_cancel(engine, &first->op);
    turn(PATIENCE_NS);
    cr_assert(not(first->op.in_kernel));
    cr_assert(eq(int, first->result, -ECANCELED), "it is not issued again");
    RUN_UNTIL(second->completions == 1);
    assert_received(second, "hello");
    crowd_leaves();
}

Test(engine, a_receive_that_is_cancelled_while_it_starves_ends_once, ON_TINY)
{
    static struct asked asked;
    crowd_speaks(CROWD, true);
    struct ends ends = tcp_ends();
    uint64_t starved = engine->counters.starved;
    they_send(ends.theirs, "hello");
    ask_to_receive(&asked, ends.ours, false);
    cr_assert_eq(engine_wait(engine, PATIENCE_NS),
                 0); /* it has found no buffer, but that is not dispatched */
    engine_cancel(engine, &asked.op);
    cr_assert(engine_dispatch(engine));
    if (is_on_a_ring())
        cr_assert(eq(u64, engine->counters.starved, starved + 1));
    cr_assert(not(asked.op.in_kernel));
    cr_assert(eq(int, asked.result, -ECANCELED));
    turn(0); /* the cancellation itself, which found nothing, completes */
    assert_asleep();
    cr_assert(eq(uint, asked.completions, 1));

    asked.completions = 0;
    ask_to_receive(&asked, ends.ours, false);
    crowd_leaves();
    RUN_UNTIL(asked.completions == 1);
    assert_received(&asked, "hello");
    close_ends(ends);
}

Test(engine, a_starved_receive_hears_the_eof_behind_its_bytes, ON_TINY)
{
    crowd_speaks(CROWD, false);
    struct asked *waiting = &crowd[BUFFERS];
    shutdown(crowd_ends[BUFFERS].theirs, SHUT_WR);
    let_go(&crowd[0]);
    RUN_UNTIL(!waiting->op.in_kernel);
    assert_received(waiting, "hello");
    let_go(waiting);
    ask_to_receive(waiting, waiting->fd,
                   false); /* behind all others, since it would find something at once */
    for (unsigned i = 1; i < BUFFERS; i++)
        let_go(&crowd[i]);
    for (unsigned i = BUFFERS + 1; i < CROWD; i++)
        crowd[i].keeps = false;
    RUN_UNTIL(!waiting->op.in_kernel);
    cr_assert(eq(int, waiting->result, 0));
    crowd_leaves();
}

static void let_go_of_the_first(struct asked *asked)
{
    (void)asked;
    let_go(&crowd[0]);
}

/* "More to read" is a hint. Who followed a wrong one, and found neither a buffer nor bytes, waits in line like the
 * others, but doesn't need the buffer when its turn comes. */
Test(engine, a_buffer_is_passed_on_by_those_who_waited_for_it_but_have_nothing_to_receive, ON_TINY)
{
    enum { MISLED = 3 };
    static struct asked misled[MISLED], messenger, last;
    static char twice[2 * BUFFER_BYTES];
    struct ends misled_ends[MISLED], messenger_ends = tcp_ends(), last_ends = tcp_ends();
    if (!is_on_a_ring())
        cr_skip("epoll isn't misled: what it will report needs no hint");
    for (unsigned i = 0; i < MISLED; i++) {
        misled_ends[i] = tcp_ends();
        cr_assert_eq(send(misled_ends[i].theirs, twice, sizeof twice, 0), (ssize_t)sizeof twice);
        ask_to_receive(&misled[i], misled_ends[i].ours, false);
        RUN_UNTIL(!misled[i].op.in_kernel);
        cr_assert(misled[i].more_to_read);
        RUN_UNTIL(they_receive(misled_ends[i].ours, twice, BUFFER_BYTES) == BUFFER_BYTES);
    }
    crowd_speaks(BUFFERS, false);
    for (unsigned i = 0; i < MISLED; i++) {
        ask_to_receive(&misled[i], misled_ends[i].ours, false);
        turn(0);
    }
    ask_to_receive(&last, last_ends.ours, false);
    they_send(last_ends.theirs, "hello");
    RUN_UNTIL(engine->counters.starved == MISLED + 1);

    messenger.then = let_go_of_the_first; /* during a dispatch, as a transport does */
    ask_to_send(&messenger, messenger_ends.ours, "x", 1, false);
    RUN_UNTIL(!last.op.in_kernel);

    assert_received(&last, "hello");
    for (unsigned i = 0; i < MISLED; i++) {
        cancel(&misled[i]);
        close_ends(misled_ends[i]);
    }
    close_ends(messenger_ends);
    close_ends(last_ends);
    crowd_leaves();
}

static void let_go_of_some(void)
{
    for (unsigned count = random_below(kept_count + 1); count > 0; count--) {
        unsigned which = random_below(kept_count);
        buffers_unref(&engine->buffers, kept[which]);
        kept[which] = kept[--kept_count];
    }
}

static void let_go_of_all(void)
{
    while (kept_count > 0)
        buffers_unref(&engine->buffers, kept[--kept_count]);
}

static void storm(unsigned its_seed)
{
    enum { ROUNDS = 400 };
    seed = its_seed;
    open_flows();
    for (unsigned round = 0; round < ROUNDS; round++) {
        one_in_is_kept = 1 + random_below(4);
        for (unsigned i = random_below(20); i > 0; i--)
            flow_sends(&flows[random_below(FLOWS)], 1 + random_below(3 * BUFFER_BYTES));
        for (unsigned i = random_below(5); i > 0; i--) {
            struct flow *flow = &flows[random_below(FLOWS)];
            flow->cancellations++;
            flow->multishot = random_below(2) == 0;
            engine_cancel(engine, &flow->op);
        }
        let_go_of_some();
        /* As long as a buffer is free, whoever has something to receive does. */
        RUN_UNTIL(received_in_all == sent_in_all || engine->buffers.lent == BUFFERS);
    }
    one_in_is_kept = 0;
    let_go_of_all();
    RUN_UNTIL(received_in_all == sent_in_all);
    cr_assert_gt(engine->counters.starved, 100);
    end_flows();
}

Test(engine, a_storm_of_starved_receives_never_stalls, ON_TINY)
{
    storm(1);
}

Test(engine, another_storm_of_starved_receives_never_stalls, ON_TINY)
{
    storm(20261120);
}

/* ---- mistakes, which debug builds catch ------------------------------------------------------------------ */

#ifndef NDEBUG

Test(engine, issuing_an_operation_twice_is_caught, .init = open_tiny, .signal = SIGABRT)
{
    static struct asked asked;
    struct ends ends = local_ends();
    ask_to_receive(&asked, ends.ours, true);
    ask_to_receive(&asked, ends.ours, true);
}

Test(engine, closing_with_an_operation_in_the_kernel_is_caught, .init = open_tiny, .signal = SIGABRT)
{
    static struct asked asked;
    ask_to_receive(&asked, local_ends().ours, true);
    engine_close(engine);
}

Test(engine, closing_with_a_lent_buffer_is_caught, .init = open_tiny, .signal = SIGABRT)
{
    buffers_lend(&engine->buffers, 0, 1, false);
    engine_close(engine);
}

#endif
