/* The simulated engine: that it keeps the engine's contract, does in its moods what a kernel may do, reports who breaks
 * a rule, and says what Linux says (the last tests: the same steps on both). */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/loop.h"
#include "core/simulated.h"

TestSuite(simulated, .timeout = 30);

enum { BUFFERS = 4, BUFFER_BYTES = 64 };

static const struct engine_size tiny = { 8, 16, BUFFERS, BUFFER_BYTES, 0, 0, 0, 0 };
static struct engine *engine;
static int wake_fd = -1;
static int ours, theirs;
static struct memory_socket *peer;

static void open_pair(int family)
{
    int fds[2];
    cr_assert(eq(int, simulated_connect(engine, family, fds), 0));
    ours = fds[0];
    theirs = fds[1];
    peer = memory_socket_of(simulated_sockets(engine), theirs);
}

static void open_engine(void)
{
    char why[ENGINE_WHY_BYTES];
    int error = 0;
    engine = engine_open("simulated", &tiny, wake_fd, &error, why);
    cr_assert_not_null(engine);
    open_pair(AF_INET);
}

static void close_engine(void)
{
    cr_assert(eq(uint, engine->buffers.lent, 0));
    engine_close(engine);
}

#define ON_TINY .init = open_engine, .fini = close_engine

static void turn(void)
{
    cr_assert(eq(int, engine_wait(engine, 0), 0));
    engine_dispatch(engine);
}

static void peer_sends(const char *text)
{
    struct iovec slice = { (char *)text, strlen(text) };
    cr_assert(eq(int, memory_socket_send(peer, &slice, 1, slice.iov_len, NULL, 0), (int)slice.iov_len));
}

/* ---- an operation, and what became of it --------------------------------------------------------------------- */

struct asked {
    struct op op;
    unsigned completions;
    int result;
    bool more;
    char received[1000];
    const char *kept; /* the buffer, when `keeps` */
    bool keeps;
};

static void asked_done(struct op *op, const struct completion *completion)
{
    struct asked *asked = rondo_container_of(op, struct asked, op);
    cr_assert_eq(op->in_kernel, completion->more);
    asked->completions++;
    asked->result = completion->result;
    asked->more = completion->more;
    size_t at = strlen(asked->received);
    cr_assert_lt(at + completion->data.size, sizeof asked->received);
    if (completion->data.size > 0)
        memcpy(asked->received + at, completion->data.data, completion->data.size);
    if (asked->keeps && completion->data.size > 0) {
        asked->kept = completion->data.data;
        buffers_ref(&engine->buffers, asked->kept);
    }
}

static struct op *ask(struct asked *asked)
{
    asked->op.done = asked_done;
    return &asked->op;
}

static void send_text(struct asked *asked, const char *text, bool wait)
{
    engine_send(engine, ask(asked), ours, &(struct iovec){ (char *)text, strlen(text) }, 1, wait);
}

static struct asked a, b;

/* ---- the contract -------------------------------------------------------------------------------------------- */

Test(simulated, nothing_is_told_before_dispatch, ON_TINY)
{
    peer_sends("hello");
    engine_receive(engine, ask(&a), ours, false);
    cr_assert(a.op.in_kernel);
    cr_assert(eq(sz, engine->sockets->unread(engine, ours), 5),
              "nothing is taken from a socket before the wait");
    cr_assert(eq(int, engine_wait(engine, 0), 0));
    cr_assert(eq(uint, a.completions, 0));
    engine_dispatch(engine);
    cr_assert(eq(uint, a.completions, 1));
    cr_assert(eq(int, a.result, 5));
    cr_assert(eq(str, a.received, "hello"));
    cr_assert_not(a.op.in_kernel);
}

Test(simulated, a_multishot_receive_goes_on_until_the_eof, ON_TINY)
{
    engine_receive(engine, ask(&a), ours, true);
    turn();
    cr_assert(simulated_is_idle(engine));
    peer_sends("one ");
    cr_assert_not(simulated_is_idle(engine));
    turn();
    peer_sends("two ");
    turn();
    cr_assert(a.more);
    memory_socket_half_close(peer);
    turn();
    cr_assert(eq(str, a.received, "one two "));
    cr_assert(eq(int, a.result, 0));
    cr_assert_not(a.op.in_kernel);
}

Test(simulated, a_send_takes_what_there_is_room_for, ON_TINY)
{
    peer->room = 3;
    send_text(&a, "hello", false);
    turn();
    cr_assert(eq(int, a.result, 3));
    send_text(&a, "lo", false);
    turn();
    cr_assert(eq(int, a.result, -EAGAIN));

    send_text(&a, "lo", true);
    turn();
    cr_assert(a.op.in_kernel, "it waits");
    char got[8];
    cr_assert(eq(int, memory_socket_receive(peer, got, 2, NULL, 0, NULL), 2));
    turn();
    cr_assert(eq(int, a.result, 2));
    cr_assert(eq(int, memory_socket_receive(peer, got, 8, NULL, 0, NULL), 3));
    cr_assert_eq(memcmp(got, "llo", 3), 0);
}

Test(simulated, without_a_buffer_a_receive_waits_in_line, ON_TINY)
{
    char many[BUFFERS * BUFFER_BYTES + 1];
    memset(many, 'x', sizeof many - 1);
    many[sizeof many - 1] = '\0';
    struct asked all[BUFFERS] = { 0 };
    peer_sends(many);
    for (int i = 0; i < BUFFERS; i++) {
        all[i].keeps = true;
        engine_receive(engine, ask(&all[i]), ours, false);
        turn();
        cr_assert(eq(int, all[i].result, BUFFER_BYTES));
    }
    peer_sends("more");
    engine_receive(engine, ask(&a), ours, true);
    turn();
    turn();
    cr_assert(a.op.in_kernel);
    cr_assert(eq(uint, a.completions, 0));
    cr_assert(eq(u64, engine->counters.starved, 1));
    cr_assert(simulated_is_idle(engine));

    buffers_unref(&engine->buffers, all[2].kept);
    cr_assert_not(simulated_is_idle(engine));
    turn();
    cr_assert(eq(str, a.received, "more"));
    cr_assert_not(a.more, "it takes one buffer only");

    engine_receive(engine, ask(&a), ours, true);
    engine_receive(engine, ask(&b), theirs, true); /* the other end, with nothing to come */
    turn();
    cr_assert(a.op.in_kernel && b.op.in_kernel);
    engine_cancel(engine, &a.op);
    engine_cancel(engine, &a.op);
    engine_cancel(engine, &b.op);
    turn();
    cr_assert(eq(int, a.result, -ECANCELED));
    cr_assert(eq(int, b.result, -ECANCELED));
    for (int i = 0; i < BUFFERS; i++) {
        if (i != 2)
            buffers_unref(&engine->buffers, all[i].kept);
    }
}

Test(simulated, a_starved_receive_can_be_cancelled, ON_TINY)
{
    struct simulated_moods moods = { .early_shortages = 100 };
    struct asked all[BUFFERS] = { 0 };
    for (int i = 0; i < BUFFERS; i++) {
        all[i].keeps = true;
        peer_sends("x");
        engine_receive(engine, ask(&all[i]), ours, false);
        turn();
    }
    simulated_set_moods(engine, &moods);
    engine_receive(engine, ask(&a), ours, true);
    turn();
    cr_assert(eq(u64, engine->counters.starved, 1), "it finds out before anything arrives");
    engine_cancel(engine, &a.op);
    turn();
    cr_assert(eq(int, a.result, -ECANCELED));
    for (int i = 0; i < BUFFERS; i++)
        buffers_unref(&engine->buffers, all[i].kept);
}

Test(simulated, a_listener_accepts, ON_TINY)
{
    int listener = simulated_listen(engine);
    engine_accept(engine, ask(&a), listener);
    turn();
    cr_assert(eq(uint, a.completions, 0));
    int first = simulated_come(engine, listener), second = simulated_come(engine, listener);
    turn();
    cr_assert(eq(uint, a.completions, 2));
    cr_assert(a.more);
    struct memory_socket *server = memory_socket_of(simulated_sockets(engine), a.result);
    cr_assert(eq(ptr, server->other, memory_socket_of(simulated_sockets(engine), second)));

    memory_socket_of(simulated_sockets(engine), listener)->accept_error = -EMFILE;
    turn();
    cr_assert(eq(int, a.result, -EMFILE));
    cr_assert_not(a.op.in_kernel);
    cr_assert(eq(int, simulated_come(engine, first), -ECONNREFUSED), "that is no listener");

    int third = simulated_come(engine, listener);
    engine_close_now(engine, listener);
    cr_assert(memory_socket_of(simulated_sockets(engine), third)->broken, "who waits in the queue is reset");
}

Test(simulated, a_connect_ends_as_the_test_says, ON_TINY)
{
    struct memory_socket *socket = memory_socket_new(simulated_sockets(engine), AF_INET);
    engine_connect(engine, ask(&a), socket->fd, NULL, 0);
    turn();
    cr_assert(a.op.in_kernel);
    socket->connected = -ECONNREFUSED;
    turn();
    cr_assert(eq(int, a.result, -ECONNREFUSED));
}

Test(simulated, a_file_is_read, ON_TINY)
{
    char memory[8] = "........";
    int fd = memfd_create("file", MFD_CLOEXEC);
    cr_assert(eq(int, (int)write(fd, "content", 7), 7));
    engine_read_file(engine, ask(&a), fd, 4, (rondo_buffer){ memory, sizeof memory });
    turn();
    cr_assert(eq(int, a.result, 3));
    cr_assert_eq(memcmp(memory, "ent.....", 8), 0, "what isn't filled is as it was");
    engine_read_file(engine, ask(&a), -1, 0, (rondo_buffer){ memory, sizeof memory });
    turn();
    cr_assert(eq(int, a.result, -EBADF));
    close(fd);
}

Test(simulated, descriptors_pass_with_their_byte, ON_TINY)
{
    open_pair(AF_UNIX);
    int pipe_ends[2], place;
    cr_assert(eq(int, pipe(pipe_ends), 0));
    peer_sends("ab");
    cr_assert(eq(int, memory_socket_send(peer, &(struct iovec){ "cd", 2 }, 1, 2, pipe_ends, 2), 2));

    char data[8], control[CMSG_SPACE(4 * sizeof(int))];
    struct iovec slice = { data, sizeof data };
    struct msghdr message = { .msg_iov = &slice, .msg_iovlen = 1 };
    for (place = 0; place < 4; place += a.result) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        engine_receive_message(engine, ask(&a), ours, &message);
        turn();
        cr_assert(eq(int, a.result, 2));
        cr_assert(eq(sz, message.msg_controllen, place == 0 ? 0 : CMSG_SPACE(2 * sizeof(int))));
    }
    int fds[2];
    memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fds);
    cr_assert(eq(int, (int)write(fds[1], "!", 1), 1));
    for (int i = 0; i < 2; i++) {
        close(fds[i]);
        close(pipe_ends[i]);
    }
}

/* ---- time ---------------------------------------------------------------------------------------------------- */

Test(simulated, the_clock_moves_when_told, ON_TINY)
{
    uint64_t start_ns = engine_now_ns(engine);
    cr_assert(eq(int, engine_wait(engine, 1000), 0));
    cr_assert(eq(u64, engine_now_ns(engine), start_ns));
    simulated_advance(engine, 77);
    cr_assert(eq(u64, engine_now_ns(engine), start_ns + 77));
    simulated_let_time_pass(engine);
    cr_assert(eq(int, engine_wait(engine, 1000), 0));
    cr_assert(eq(u64, engine_now_ns(engine), start_ns + 1077));
    peer_sends("x");
    engine_receive(engine, ask(&a), ours, false);
    cr_assert(eq(int, engine_wait(engine, 1000), 0));
    cr_assert(eq(u64, engine_now_ns(engine), start_ns + 1077), "something happened at once");
    engine_dispatch(engine);
}

Test(simulated, who_waits_for_ever_for_nothing_is_told)
{
    wake_fd = eventfd(0, EFD_CLOEXEC);
    open_engine();
    cr_assert(eq(int, engine_wait(engine, ENGINE_FOREVER), -EDEADLK));
    eventfd_write(wake_fd, 1);
    cr_assert(eq(int, engine_wait(engine, ENGINE_FOREVER), 0));
    cr_assert(eq(int, engine_wait(engine, ENGINE_FOREVER), -EDEADLK));
    close_engine();
    close(wake_fd);
}

static rondo_loop loop;
static unsigned expirations;

static void expired(rondo_timer *timer)
{
    if (++expirations < 5)
        rondo_call_later(&loop, timer, 1000 * 1000, expired);
    else
        loop.users--;
}

Test(simulated, a_whole_loop_runs_through_hours_at_once)
{
    char why[ENGINE_WHY_BYTES];
    rondo_timer timer = { 0 };
    cr_assert(eq(int, loop_open(&loop, "simulated", &tiny, why), 0));
    simulated_let_time_pass(loop.engine);
    uint64_t start_ms = rondo_time_ms(&loop);
    loop.users = 1;
    rondo_call_later(&loop, &timer, 1000 * 1000, expired);
    cr_assert(eq(int, loop_run(&loop), 0));
    cr_assert(eq(u64, rondo_time_ms(&loop) - start_ms, 5 * 1000 * 1000));
    loop.users = 1;
    cr_assert(eq(int, loop_run(&loop), -EDEADLK), "nothing will ever end it");
    loop_close(&loop);
    loop_free(&loop);
}

/* ---- rules --------------------------------------------------------------------------------------------------- */

Test(simulated, memory_to_be_received_into_is_the_kernels, ON_TINY)
{
    char memory[8] = "precious";
    engine_receive_into(engine, ask(&a), ours, (rondo_buffer){ memory, sizeof memory });
    turn();
    cr_assert_neq(memcmp(memory, "precious", 8), 0, "it is spoilt");
    peer_sends("pre");
    turn();
    cr_assert_eq(memcmp(memory, "precious", 8), 0, "but for what was received as it was");
    cr_assert_null(simulated_violation(engine));

    engine_receive_into(engine, ask(&a), ours, (rondo_buffer){ memory, sizeof memory });
    turn();
    memory[7] = '!';
    engine_cancel(engine, &a.op);
    turn();
    cr_assert_not_null(simulated_violation(engine));
}

Test(simulated, bytes_being_sent_stay_as_they_are, ON_TINY)
{
    char memory[] = "abc";
    send_text(&a, memory, false);
    cr_assert(eq(int, engine_wait(engine, 0), 0));
    memory[1] = '!';
    engine_dispatch(engine);
    cr_assert_not_null(simulated_violation(engine));
}

Test(simulated, one_send_at_a_time, ON_TINY)
{
    send_text(&a, "a", false);
    send_text(&b, "b", false);
    turn();
    cr_assert_not_null(simulated_violation(engine));
}

Test(simulated, nothing_is_sent_beside_a_send, ON_TINY)
{
    peer->room = 0;
    send_text(&a, "a", true);
    turn();
    engine->sockets->send_now(engine, ours, &(struct iovec){ "b", 1 }, 1);
    cr_assert_not_null(simulated_violation(engine));
    engine_cancel(engine, &a.op);
    turn();
}

Test(simulated, one_receive_at_a_time, ON_TINY)
{
    engine_receive(engine, ask(&a), ours, true);
    engine_receive(engine, ask(&b), ours, true);
    cr_assert_not_null(simulated_violation(engine));
    memory_socket_half_close(peer);
    turn();
}

Test(simulated, nobody_closes_what_is_in_use, ON_TINY)
{
    engine_receive(engine, ask(&a), ours, true);
    turn();
    engine_close_fd(engine, ask(&b), ours);
    cr_assert_not_null(simulated_violation(engine));
    turn();
    cr_assert(eq(int, a.result, -EBADF));
}

/* ---- moods --------------------------------------------------------------------------------------------------- */

/* What becomes of the same few operations, in a line. */
static const char *history(uint64_t seed)
{
    static char text[4000];
    struct simulated_moods moods = simulated_wild;
    struct asked receive = { 0 }, send = { 0 };
    text[0] = '\0';
    moods.seed = seed;
    open_engine();
    simulated_set_moods(engine, &moods);
    for (int i = 0; i < 30; i++) {
        peer_sends("0123456789");
        if (!receive.op.in_kernel)
            engine_receive(engine, ask(&receive), ours, true);
        if (!send.op.in_kernel)
            send_text(&send, "abcdefghij", i % 2 == 0);
        if (i % 7 == 6)
            engine_cancel(engine, &receive.op);
        receive.received[0] = '\0';
        turn();
        snprintf(text + strlen(text), sizeof text - strlen(text), "%d%s %d;", receive.result,
                 receive.more ? "+" : "", send.result);
    }
    while (receive.op.in_kernel || send.op.in_kernel) {
        engine_cancel(engine, &receive.op);
        receive.received[0] = '\0';
        turn();
    }
    close_engine();
    return text;
}

Test(simulated, the_same_seed_is_the_same_history)
{
    char first[4000];
    snprintf(first, sizeof first, "%s", history(7));
    cr_assert(eq(str, (char *)history(7), first));
    cr_assert(ne(str, (char *)history(8), first));
}

static bool occurs(const struct simulated_moods *moods, bool (*once)(void))
{
    bool occurred = false, not = false;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct simulated_moods seeded = *moods;
        seeded.seed = seed;
        memset(&a, 0, sizeof a);
        memset(&b, 0, sizeof b);
        open_engine();
        simulated_set_moods(engine, &seeded);
        bool did = once();
        close_engine();
        occurred |= did;
        not |= !did;
    }
    return occurred && not ;
}

static bool sends_in_part(void)
{
    send_text(&a, "0123456789", false);
    turn();
    cr_assert(a.result > 0 && a.result <= 10);
    return a.result < 10;
}

static bool refuses(void)
{
    send_text(&a, "0123456789", false);
    turn();
    return a.result == -EAGAIN;
}

static bool receives_in_part(void)
{
    peer_sends("0123456789");
    engine_receive(engine, ask(&a), ours, false);
    turn();
    cr_assert(a.result > 0);
    return a.result < 10;
}

static bool ends_multishot(void)
{
    peer_sends("0123456789");
    engine_receive(engine, ask(&a), ours, true);
    turn();
    bool ended = !a.more;
    memory_socket_half_close(peer);
    turn();
    return ended;
}

static bool interrupts(void)
{
    peer_sends("0123456789");
    engine_receive(engine, ask(&a), ours, false);
    turn();
    return a.result == -EINTR;
}

static bool cancels_late(void)
{
    peer_sends("0123456789");
    engine_receive(engine, ask(&a), ours, false);
    engine_cancel(engine, &a.op);
    turn();
    cr_assert(a.result == 10 || a.result == -ECANCELED);
    return a.result == 10;
}

static bool delays(void)
{
    peer_sends("0123456789");
    engine_receive(engine, ask(&a), ours, false);
    turn();
    bool was_late = a.completions == 0;
    while (a.completions == 0)
        turn();
    return was_late;
}

static bool is_short_of_buffers(void)
{
    peer_sends("0123456789");
    engine_receive(engine, ask(&a), ours, true);
    turn();
    bool had_to_wait = a.completions == 0;
    while (a.op.in_kernel) { /* resumed, it takes one buffer; at the next moment there may be none again */
        if (a.completions > 0)
            memory_socket_half_close(peer);
        turn();
    }
    return had_to_wait;
}

static bool loses_unread(void)
{
    send_text(&a, "0123456789", false);
    turn();
    engine->sockets->reset_at_close(engine, ours);
    engine_close_fd(engine, ask(&b), ours);
    turn();
    cr_assert(peer->broken);
    return peer->size == 0;
}

static struct op *last_done;

static void notes_order(struct op *op, const struct completion *completion)
{
    (void)completion;
    last_done = op;
}

static bool reorders(void)
{
    memory_socket_half_close(peer);
    a.op.done = b.op.done = notes_order;
    engine_receive(engine, &a.op, ours, false);
    engine_send(engine, &b.op, ours, &(struct iovec){ "x", 1 }, 1, true);
    turn();
    return last_done == &a.op;
}

Test(simulated, in_its_moods_it_does_what_a_kernel_may_do)
{
    cr_assert(occurs(&(struct simulated_moods){ .partial_sends = 50 }, sends_in_part));
    cr_assert(occurs(&(struct simulated_moods){ .refused_sends = 50 }, refuses));
    cr_assert(occurs(&(struct simulated_moods){ .short_receives = 50 }, receives_in_part));
    cr_assert(occurs(&(struct simulated_moods){ .ended_multishots = 50 }, ends_multishot));
    cr_assert(occurs(&(struct simulated_moods){ .interruptions = 50 }, interrupts));
    cr_assert(occurs(&(struct simulated_moods){ .late_cancels = 50 }, cancels_late));
    cr_assert(occurs(&(struct simulated_moods){ .delays = 50 }, delays));
    cr_assert(occurs(&(struct simulated_moods){ .shortages = 50 }, is_short_of_buffers));
    cr_assert(occurs(&(struct simulated_moods){ .lost_unread = 50 }, loses_unread));
    cr_assert(occurs(&(struct simulated_moods){ .any_order = true }, reorders));
}

Test(simulated, without_moods_none_of_it)
{
    bool (*const all[])(
        void) = { sends_in_part, refuses, receives_in_part, ends_multishot, interrupts,
                  cancels_late,  delays,  loses_unread,     reorders,       is_short_of_buffers };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        memset(&a, 0, sizeof a);
        memset(&b, 0, sizeof b);
        open_engine();
        cr_assert_not(all[i]());
        close_engine();
    }
}

/* ---- as Linux does it ---------------------------------------------------------------------------------------- */

/* The same steps on a socket pair of either engine:
 *
 *   p   the peer sends 4 bytes      f   it half-closes      c   it closes      r   it resets
 *   R   receive 4 bytes             S   send 4 bytes        h   half-close     n   send 4 bytes at once
 *
 * and what the operations return. */
struct ends {
    void (*peer_does)(char step);
    struct engine *engine;
    int fd;
};

static int real_peer;

static void real_peer_does(char step)
{
    switch (step) {
    case 'p':
        cr_assert(eq(int, (int)send(real_peer, "peer", 4, MSG_NOSIGNAL), 4));
        return;
    case 'f':
        shutdown(real_peer, SHUT_WR);
        return;
    case 'r':
        setsockopt(real_peer, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 }, sizeof(struct linger));
        close(real_peer);
        return;
    default:
        close(real_peer);
    }
}

static void simulated_peer_does(char step)
{
    switch (step) {
    case 'p':
        peer_sends("peer");
        return;
    case 'f':
        memory_socket_half_close(peer);
        return;
    case 'r':
        peer->resets = true;
        /* fall through */
    default:
        memory_socket_close(simulated_sockets(engine), peer, false);
    }
}

static int result_of(struct ends *ends, char step)
{
    struct iovec slice = { "ours", 4 };
    char memory[4];
    memset(&a, 0, sizeof a);
    if (step == 'R')
        engine_receive_into(ends->engine, ask(&a), ends->fd, (rondo_buffer){ memory, sizeof memory });
    else if (step == 'S')
        engine_send(ends->engine, ask(&a), ends->fd, &slice, 1, false);
    else
        return ends->engine->sockets->send_now(ends->engine, ends->fd, &slice, 1);
    for (int turns = 0; a.completions == 0 && turns < 100; turns++) {
        cr_assert_eq(engine_wait(ends->engine, 100 * 1000 * 1000), 0);
        engine_dispatch(ends->engine);
    }
    cr_assert(eq(uint, a.completions, 1));
    return a.result;
}

static void play(struct ends *ends, const char *steps, char *results, size_t size)
{
    results[0] = '\0';
    for (const char *step = steps; *step != '\0'; step++) {
        if (strchr("pfcr", *step) != NULL)
            ends->peer_does(*step);
        else if (*step == 'h')
            ends->engine->sockets->half_close(ends->engine, ends->fd);
        else
            snprintf(results + strlen(results), size - strlen(results), "%c%d ", *step,
                     result_of(ends, *step));
    }
}

static void connect_real(struct ends *ends)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(listener, (struct sockaddr *)&address, size), 0);
    cr_assert_eq(listen(listener, 1), 0);
    getsockname(listener, (struct sockaddr *)&address, &size);
    real_peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(real_peer, (struct sockaddr *)&address, size), 0);
    ends->fd = accept(listener, NULL, NULL);
    close(listener);
}

static void compare(const char *steps, int family)
{
    char why[ENGINE_WHY_BYTES], real[200], simulated[200];
    int error = 0, wake = eventfd(0, EFD_CLOEXEC), fds[2];
    struct ends ends = { .peer_does = real_peer_does,
                         .engine = engine_open("auto", &(struct engine_size){ 8, 64, 32, 64, 0, 0, 0, 0 },
                                               wake, &error, why) };
    cr_assert_not_null(ends.engine, "%s", why);
    if (family == AF_UNIX) {
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        ends.fd = fds[0];
        real_peer = fds[1];
    } else {
        connect_real(&ends);
    }
    play(&ends, steps, real, sizeof real);
    engine_close(ends.engine);

    wake_fd = -1;
    open_engine();
    open_pair(family);
    ends = (struct ends){ .peer_does = simulated_peer_does, .engine = engine, .fd = ours };
    play(&ends, steps, simulated, sizeof simulated);
    close_engine();
    cr_assert(eq(str, simulated, real), "%s, family %d", steps, family);
    close(wake);
}

Test(simulated, it_says_what_linux_says)
{
    static const char *const both[] = { "pR",   "pfRRSR", "fSSRR", "hSn", "hpRSfR",
                                        "SSpR", "nnpR",   "pcRRR", "cRRR" };
    static const char *const tcp[] = { "prRRRS", "rRRSS", "rSSR",   "rnnR",   "cSSSR", "pcRSSR", "fcSSR",
                                       "frRS",   "frSR",  "pfrRRS", "hrRRSS", "cRSSR", "SrRRS",  "ScRRS" };
    static const char *const unix_only[] = { "cSSR", "pcRSSR", "fcSSR", "SrRRS", "ScRRS" };
    for (size_t i = 0; i < sizeof both / sizeof *both; i++) {
        compare(both[i], AF_INET);
        compare(both[i], AF_UNIX);
    }
    for (size_t i = 0; i < sizeof tcp / sizeof *tcp; i++)
        compare(tcp[i], AF_INET);
    for (size_t i = 0; i < sizeof unix_only / sizeof *unix_only; i++)
        compare(unix_only[i], AF_UNIX);
}
