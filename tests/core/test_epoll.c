/* What is the epoll engine's own: how few system calls it makes, and that no descriptor is taken for another. What all
 * engines have in common is tested in test_engine.c. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/slow_reads.h"
#include "support/asked.h"

TestSuite(epoll, .timeout = 60);

enum { BUFFERS = 4, BUFFER_BYTES = 1024 };

static const struct engine_size pieced = { 8, 16, BUFFERS, BUFFER_BYTES, BUFFERS, BUFFER_BYTES, 0, 0 };
static const struct engine_size whole = { 8, 16, BUFFERS, BUFFER_BYTES, 0, 0, 0, 0 };

static void open_pieced(void)
{
    open_engine("epoll", &pieced);
}

static void open_whole(void)
{
    open_engine("epoll", &whole);
}

#define ON_EPOLL         .init = open_pieced, .fini = close_engine
#define ON_WHOLE_BUFFERS .init = open_whole, .fini = close_engine

static uint64_t system_calls(void)
{
    return engine->counters.system_calls;
}

/* ---- system calls ----------------------------------------------------------------------------------------- */

static struct asked answering;

static void answer(struct asked *asked)
{
    if (asked->result > 0)
        engine_send(engine, &prepared(&answering, asked->fd)->op, asked->fd, &(struct iovec){ "!", 1 }, 1,
                    SEND_QUIETLY);
}

static void exchange(struct asked *asked, const struct ends *ends)
{
    char came;
    they_send(ends->theirs, "?");
    unsigned before = asked->completions;
    RUN_UNTIL(asked->completions > before);
    cr_assert(eq(sz, they_receive(ends->theirs, &came, 1), 1));
}

Test(epoll, an_exchange_takes_three_system_calls, ON_EPOLL)
{
    static struct asked asked = { .then = answer };
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, true);
    exchange(&asked, &ends);
    uint64_t before = system_calls();
    for (unsigned i = 0; i < 10; i++)
        exchange(&asked, &ends);
    cr_assert(eq(u64, system_calls() - before, 30), "epoll_wait, recv, send");
    turn(0);
    asked.then = NULL;
    cancel(&asked);
    close_ends(ends);
}

static void receive_again(struct asked *asked)
{
    if (asked->result > 0)
        ask_to_receive(asked, asked->fd, false);
}

Test(epoll, one_receive_after_the_other_needs_no_registration_of_its_own, ON_EPOLL)
{
    static struct asked asked = { .then = receive_again };
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, false);
    they_send(ends.theirs, "x");
    RUN_UNTIL(asked.completions == 1);
    uint64_t before = system_calls();
    for (unsigned i = 2; i < 12; i++) {
        they_send(ends.theirs, "x");
        RUN_UNTIL(asked.completions == i);
    }
    cr_assert(eq(u64, system_calls() - before, 20), "epoll_wait and recv");
    cancel(&asked);
    close_ends(ends);
}

Test(epoll, what_is_there_already_is_received_without_a_registration, ON_EPOLL)
{
    static struct asked asked;
    struct ends ends = tcp_ends();
    they_send(ends.theirs, "first");
    asked.op.more_to_read = true;
    ask_to_receive(&asked, ends.ours, true);
    uint64_t before = system_calls();
    turn(PATIENCE_NS);
    assert_received(&asked, "first");
    cr_assert(eq(u64, system_calls() - before, 2), "epoll_wait and recv");
    they_send(ends.theirs, "second");
    RUN_UNTIL(asked.completions == 2);
    assert_received(&asked, "firstsecond");
    cancel(&asked);
    close_ends(ends);
}

Test(epoll, a_hint_that_there_is_something_may_be_wrong, ON_WHOLE_BUFFERS)
{
    static struct asked asked[2 * BUFFERS];
    struct ends ends[2 * BUFFERS];
    for (unsigned i = 0; i < 2 * BUFFERS; i++) {
        ends[i] = tcp_ends();
        asked[i].op.more_to_read = true;
        ask_to_receive(&asked[i], ends[i].ours, i % 2 == 0);
    }
    turn(0);
    assert_asleep();
    for (unsigned i = 0; i < 2 * BUFFERS; i++) {
        they_send(ends[i].theirs, "late");
        RUN_UNTIL(asked[i].completions == 1);
        assert_received(&asked[i], "late");
        if (asked[i].op.in_kernel)
            cancel(&asked[i]);
        close_ends(ends[i]);
    }
}

/* ---- what nobody waits for -------------------------------------------------------------------------------- */

Test(epoll, what_nobody_waits_for_any_more_does_not_keep_it_awake, ON_EPOLL)
{
    static struct asked asked;
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, false);
    they_send(ends.theirs, "one");
    RUN_UNTIL(!asked.op.in_kernel);
    they_send(ends.theirs, "two");
    assert_asleep();
    shutdown(ends.theirs, SHUT_WR);
    assert_asleep();
    shutdown(ends.ours, SHUT_WR); /* now it's reported whatever is asked for */
    assert_asleep();
    ask_to_receive(&asked, ends.ours, false);
    RUN_UNTIL(!asked.op.in_kernel);
    assert_received(&asked, "onetwo");
    ask_to_receive(&asked, ends.ours, false);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, 0));
    close_ends(ends);
}

Test(epoll, bytes_that_nobody_wants_do_not_keep_a_waiting_send_awake, ON_EPOLL)
{
    static struct asked receive, send;
    static char much[1024 * 1024];
    struct ends ends = local_ends();
    ask_to_receive(&receive, ends.ours, false);
    they_send(ends.theirs, "one");
    RUN_UNTIL(!receive.op.in_kernel);
    do {
        ask_to_send(&send, ends.ours, much, sizeof much, false);
        turn(0);
    } while (send.result > 0);
    ask_to_send(&send, ends.ours, much, 10, true);
    they_send(ends.theirs, "two");
    assert_asleep();
    cr_assert(send.op.in_kernel);
    they_receive(ends.theirs, much, sizeof much);
    RUN_UNTIL(!send.op.in_kernel);
    cr_assert(eq(int, send.result, 10));
    ask_to_receive(&receive, ends.ours, false);
    RUN_UNTIL(!receive.op.in_kernel);
    assert_received(&receive, "onetwo");
    close_ends(ends);
}

Test(epoll, a_descriptor_that_others_have_too_is_forgotten_when_it_is_closed, ON_EPOLL)
{
    static struct asked asked;
    for (unsigned i = 0; i < 2; i++) {
        struct ends ends = tcp_ends();
        int other = dup(ends.ours);
        ask_to_receive(&asked, ends.ours, true);
        turn(0);
        cancel(&asked);
        if (i == 0)
            engine_close_now(engine, ends.ours);
        else
            engine_close_fd(engine, &asked.op, ends.ours);
        turn(0);
        they_send(ends.theirs, "for the other");
        assert_asleep();
        close(other);
        close(ends.theirs);
    }
}

/* ---- one number, two descriptors -------------------------------------------------------------------------- */

static int silent_listener;
static struct sockaddr_in silent_address;
static struct asked old, connecting;

/* A connection that isn't made, since the listener's queue is full, by a descriptor of the old one's number. */
static void put_another_in_its_place(struct asked *asked)
{
    int number = old.fd;
    (void)asked;
    engine_close_now(engine, number);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(eq(int, dup3(fd, number, O_CLOEXEC), number));
    close(fd);
    engine_connect(engine, &prepared(&connecting, number)->op, number, (struct sockaddr *)&silent_address,
                   sizeof silent_address);
}

Test(epoll, an_event_of_a_closed_descriptor_is_not_its_successors, ON_EPOLL)
{
    static struct asked trigger = { .then = put_another_in_its_place };
    silent_listener = listening_socket(&silent_address);
    cr_assert_eq(listen(silent_listener, 0), 0);
    int queued = connect_to(&silent_address);

    struct ends ends = tcp_ends(), old_ends = tcp_ends();
    ask_to_receive(&old, old_ends.ours, false);
    ask_to_receive(&trigger, ends.ours, false);
    they_send(old_ends.theirs, "x");
    RUN_UNTIL(!old.op.in_kernel);
    turn(0);
    they_send(ends.theirs, "x");
    setsockopt(old_ends.theirs, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
    close(old_ends.theirs); /* which reports all there is to report */
    RUN_UNTIL(!trigger.op.in_kernel);
    assert_asleep();
    cr_assert(connecting.op.in_kernel);
    cr_assert(eq(uint, connecting.completions, 0));

    cancel(&connecting);
    engine_close_now(engine, connecting.fd);
    close(queued);
    close(silent_listener);
    close_ends(ends);
}

/* ---- connecting ------------------------------------------------------------------------------------------- */

enum { CONNECTING = 3 };

static struct sockaddr_un abstract_address(socklen_t *size)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "rondo-test-epoll-%d", (int)getpid());
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(address.sun_path + 1));
    return address;
}

Test(epoll, who_connects_to_a_unix_listener_with_a_full_queue_waits_for_its_turn, ON_EPOLL)
{
    static struct asked asked[CONNECTING];
    socklen_t size;
    const struct sockaddr_un address = abstract_address(&size);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(listener, (const struct sockaddr *)&address, size), 0);
    cr_assert_eq(listen(listener, 0), 0);
    for (unsigned i = 0; i < CONNECTING; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        engine_connect(engine, &prepared(&asked[i], fd)->op, fd, (const struct sockaddr *)&address, size);
    }
    RUN_UNTIL(asked[0].completions == 1);
    cr_assert(eq(int, asked[0].result, 0));
    turn(50 * NS_PER_MS);
    turn(50 * NS_PER_MS);
    cr_assert(asked[1].op.in_kernel && asked[2].op.in_kernel);

    cancel(&asked[2]);
    close(accept(listener, NULL, NULL));
    RUN_UNTIL(!asked[1].op.in_kernel);
    cr_assert(eq(int, asked[1].result, 0));
    for (unsigned i = 0; i < CONNECTING; i++)
        engine_close_now(engine, asked[i].fd);
    close(listener);
}

Test(epoll, a_refused_connection_is_an_error, ON_EPOLL)
{
    static struct asked asked;
    struct sockaddr_in address;
    close(listening_socket(&address));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    engine_connect(engine, &prepared(&asked, fd)->op, fd, (struct sockaddr *)&address, sizeof address);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, -ECONNREFUSED));
    engine_close_now(engine, fd);
}

/* ---- accepting -------------------------------------------------------------------------------------------- */

static unsigned accepted;

static void count_accepted(struct asked *asked)
{
    if (asked->result < 0)
        return;
    accepted++;
    close(asked->result);
}

/* As a shard does whose listening socket is others', too: it lines up again each time. */
Test(epoll, one_accept_after_the_other, ON_EPOLL)
{
    static struct asked asked = { .then = count_accepted };
    struct sockaddr_in address;
    int listener = listening_socket(&address);
    for (unsigned i = 1; i <= 5; i++) {
        engine_accept_one(engine, &prepared(&asked, listener)->op, listener);
        int peer = connect_to(&address);
        RUN_UNTIL(!asked.op.in_kernel);
        cr_assert(eq(uint, accepted, i));
        close(peer);
    }
    engine_accept_one(engine, &asked.op, listener);
    assert_asleep();
    cancel(&asked);
    close(listener);
}

Test(epoll, when_somebody_else_was_faster_accept_goes_on_waiting, ON_EPOLL)
{
    static struct asked asked = { .then = count_accepted };
    struct sockaddr_in address;
    int listener = listening_socket(&address);
    engine_accept(engine, &prepared(&asked, listener)->op, listener);
    turn(0);
    int peer = connect_to(&address);
    cr_assert_eq(engine_wait(engine, PATIENCE_NS), 0);
    close(accept(listener, NULL, NULL));
    cr_assert(engine_dispatch(engine), "nor does it block");
    cr_assert(eq(uint, accepted, 0));
    cr_assert(asked.op.in_kernel);
    close(peer);
    peer = connect_to(&address);
    RUN_UNTIL(accepted == 1);
    cancel(&asked);
    close(peer);
    close(listener);
}

/* ---- what can't be waited for ----------------------------------------------------------------------------- */

Test(epoll, a_file_can_not_be_waited_for, ON_EPOLL)
{
    static struct asked asked;
    char memory[8];
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    ask_to_receive(&asked, file, false);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, -EPERM));
    engine_read_file(engine, &asked.op, file, 1, (rondo_buffer){ memory, 3 });
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, 3));
    cr_assert_arr_eq(memory, "ELF", 3);
    close(file);
}

/* Files of /proc know no reading without waiting: as of one that is still on the disk. */
Test(epoll, a_read_that_would_wait_is_made_by_a_helper_thread)
{
    static struct asked asked;
    static rondo_loop loop;
    char why[ENGINE_WHY_BYTES] = "", memory[16] = "";
    cr_assert_eq(loop_open(&loop, "epoll", &pieced, why), 0, "%s", why);
    engine = loop.engine;
    slow_reads_lend(&loop);
    int file = open("/proc/version", O_RDONLY | O_CLOEXEC);
    for (unsigned i = 0; i < 2; i++) {
        engine_read_file(engine, &prepared(&asked, file)->op, file, 6, (rondo_buffer){ memory, 7 });
        cr_assert(eq(uint, loop.users, 1), "it waits for the thread");
        if (i == 1)
            engine_cancel(engine, &asked.op); /* the memory is the thread's */
        while (asked.op.in_kernel)
            cr_assert_eq(loop_turn(&loop, PATIENCE_NS), 0);
        cr_assert(eq(uint, asked.completions, i + 1));
        cr_assert(eq(int, asked.result, 7));
        cr_assert(eq(str, memory, "version"));
        cr_assert(eq(uint, loop.users, 0));
    }
    close(file);
    loop_close(&loop);
    loop_free(&loop);
}

/* ---- buffers ---------------------------------------------------------------------------------------------- */

static struct asked holders[BUFFERS];

static void let_go_of_one(struct asked *asked)
{
    (void)asked;
    let_go(&holders[0]);
}

/* A buffer comes back in the middle of a turn: it is not for who comes next, but for who has waited longest. */
Test(epoll, who_waits_for_a_buffer_is_not_overtaken, ON_WHOLE_BUFFERS)
{
    static struct asked first, releasing = { .then = let_go_of_one }, second;
    struct ends ends[BUFFERS], first_ends = tcp_ends(), releasing_ends = tcp_ends(), second_ends = tcp_ends();
    char memory[8];
    for (unsigned i = 0; i < BUFFERS; i++) {
        ends[i] = tcp_ends();
        holders[i].keeps = true;
        ask_to_receive(&holders[i], ends[i].ours, false);
        they_send(ends[i].theirs, "hold");
        RUN_UNTIL(!holders[i].op.in_kernel);
    }
    ask_to_receive(&first, first_ends.ours, false);
    they_send(first_ends.theirs, "first");
    RUN_UNTIL(engine->counters.starved == 1);

    engine_receive_into(engine, &prepared(&releasing, releasing_ends.ours)->op, releasing_ends.ours,
                        (rondo_buffer){ memory, sizeof memory });
    ask_to_receive(&second, second_ends.ours, false);
    turn(0);
    they_send(releasing_ends.theirs, "now"); /* its event is the first of the two */
    they_send(second_ends.theirs, "second");
    RUN_UNTIL(releasing.completions == 1);
    cr_assert(eq(uint, second.completions, 0));
    RUN_UNTIL(first.completions == 1);
    RUN_UNTIL(second.completions == 1);
    assert_received(&second, "second");
    for (unsigned i = 1; i < BUFFERS; i++)
        let_go(&holders[i]);
    for (unsigned i = 0; i < BUFFERS; i++)
        close_ends(ends[i]);
    close_ends(first_ends);
    close_ends(releasing_ends);
    close_ends(second_ends);
}

Test(epoll, a_message_is_not_cut_to_use_up_the_last_bytes_of_a_buffer, ON_EPOLL)
{
    static struct asked keeper = { .keeps = true }, other;
    static char much[BUFFER_BYTES - 100];
    struct ends one = tcp_ends(), two = tcp_ends();
    ask_to_receive(&keeper, one.ours, false);
    cr_assert_eq(send(one.theirs, much, sizeof much, 0), (ssize_t)sizeof much);
    RUN_UNTIL(!keeper.op.in_kernel);
    ask_to_receive(&other, two.ours, false);
    cr_assert_eq(send(two.theirs, much, 200, 0), 200);
    RUN_UNTIL(!other.op.in_kernel);
    cr_assert(eq(int, other.result, 200));
    let_go(&keeper);
    close_ends(one);
    close_ends(two);
}

Test(epoll, small_messages_lie_where_those_before_them_lay, ON_EPOLL)
{
    static struct asked asked = { .keeps = true };
    struct ends ends = tcp_ends();
    ask_to_receive(&asked, ends.ours, true);
    they_send(ends.theirs, "first");
    RUN_UNTIL(asked.completions == 1);
    const char *first = asked.kept;
    let_go(&asked);
    they_send(ends.theirs, "second");
    RUN_UNTIL(asked.completions == 2);
    cr_assert_eq(asked.kept, first, "in the cache");
    let_go(&asked);
    cancel(&asked);
    close_ends(ends);
}
