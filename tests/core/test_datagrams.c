/* The engine on what is no stream of bytes, or no socket: datagrams into buffers of their own; pipes; and what is only waited
 * for. The peers are plain sockets and pipes of the test. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/engine.h"
#include "support/asked.h"
#include "support/engine.h"

TestSuite(datagrams, .timeout = 60);
TestSuite(pipes, .timeout = 60);
TestSuite(polls, .timeout = 60);

enum { BUFFERS = 4, DATAGRAM_BYTES = 1024 + 192 };

static const struct engine_size small = { 16, 64, 16, 1024, 0, 0, BUFFERS, DATAGRAM_BYTES };
static const struct engine_size pieced = { 16, 64, 16, 1024, 4, 1024, BUFFERS, DATAGRAM_BYTES };

static void open_small(void)
{
    open_engine(tested_engine(), &small);
    signal(SIGPIPE, SIG_IGN);
}

static void open_pieced(void)
{
    open_engine(tested_engine(), &pieced);
    signal(SIGPIPE, SIG_IGN);
}

static void close_and_check(void)
{
    cr_assert(eq(uint, engine->datagrams.lent, 0));
    close_engine();
}

#define ON_SMALL  .init = open_small, .fini = close_and_check
#define ON_PIECED .init = open_pieced, .fini = close_and_check

/* ---- datagrams -------------------------------------------------------------------------------------------- */

struct got {
    struct op op;
    unsigned count, ended, truncated;
    int error;
    char bytes[64 * 1024];
    size_t size; /* of the last */
    struct sockaddr_storage name;
    socklen_t name_size;
    const char *kept[64];
    unsigned kept_count;
    bool keeps;
};

static void got_done(struct op *op, const struct completion *completion)
{
    struct got *got = rondo_container_of(op, struct got, op);
    got->ended += !completion->more;
    if (completion->origin == NULL) {
        got->error = completion->result;
        cr_assert_not(completion->more);
        return;
    }
    cr_assert(eq(sz, completion->data.size, (size_t)completion->result));
    got->count++;
    got->truncated += completion->origin->is_truncated;
    got->size = completion->data.size;
    memcpy(got->bytes, completion->data.data, got->size);
    got->name_size = completion->origin->address.size;
    if (got->name_size > 0)
        memcpy(&got->name, completion->origin->address.name, got->name_size);
    if (got->keeps) {
        buffers_ref(&engine->datagrams, completion->data.data);
        got->kept[got->kept_count++] = completion->data.data;
    }
}

static void receive_anew(struct got *got, int fd, int family)
{
    got->op.done = got_done;
    if (!got->op.in_kernel)
        engine_receive_datagrams(engine, &got->op, fd, family);
}

static void run_until_count(struct got *got, int fd, int family, unsigned count)
{
    for (uint64_t begin_ns = clock_ns(); got->count < count;) {
        receive_anew(got, fd, family);
        turn_in_time(begin_ns, "datagrams");
    }
}

static int udp_socket(struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = sizeof *address;
    *address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    cr_assert_eq(bind(fd, (struct sockaddr *)address, size), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)address, &size), 0);
    return fd;
}

static void cancel_receive(struct got *got)
{
    engine_cancel(engine, &got->op);
    RUN_UNTIL(!got->op.in_kernel);
}

static void send_datagram(int fd, const struct sockaddr_in *to, const void *data, size_t size)
{
    cr_assert_eq(sendto(fd, data, size, 0, (const struct sockaddr *)to, sizeof *to), (ssize_t)size);
}

Test(datagrams, each_arrives_whole_with_its_senders_name, ON_SMALL)
{
    static struct got got;
    struct sockaddr_in ours, theirs;
    int fd = udp_socket(&ours), peer = udp_socket(&theirs);
    send_datagram(peer, &ours, "one", 3);
    send_datagram(peer, &ours, "second", 6);
    run_until_count(&got, fd, AF_INET, 1);
    run_until_count(&got, fd, AF_INET, 2);
    cr_assert(eq(sz, got.size, 6));
    cr_assert_arr_eq(got.bytes, "second", 6);
    cr_assert(eq(uint, got.name_size, sizeof theirs));
    cr_assert_eq(((struct sockaddr_in *)&got.name)->sin_port, theirs.sin_port);
    cancel_receive(&got);
    cr_assert(eq(int, got.error, -ECANCELED));
    close_ours(fd);
    close(peer);
}

Test(datagrams, one_without_bytes_is_a_datagram_and_no_end, ON_SMALL)
{
    static struct got got;
    struct sockaddr_in ours, theirs;
    int fd = udp_socket(&ours), peer = udp_socket(&theirs);
    for (unsigned i = 1; i <= 5; i++) {
        send_datagram(peer, &ours, "", 0);
        run_until_count(&got, fd, AF_INET, i);
        cr_assert(eq(sz, got.size, 0));
        cr_assert(eq(uint, got.name_size, sizeof theirs));
    }
    send_datagram(peer, &ours, "!", 1);
    run_until_count(&got, fd, AF_INET, 6);
    cr_assert(eq(sz, got.size, 1));
    receive_anew(&got, fd, AF_INET);
    cancel_receive(&got);
    close_ours(fd);
    close(peer);
}

Test(datagrams, one_longer_than_a_buffer_says_that_it_was, ON_SMALL)
{
    static struct got got;
    static char data[5000];
    struct sockaddr_in ours, theirs;
    int fd = udp_socket(&ours), peer = udp_socket(&theirs);
    memset(data, 'x', sizeof data);
    send_datagram(peer, &ours, data, sizeof data);
    run_until_count(&got, fd, AF_INET, 1);
    cr_assert(eq(uint, got.truncated, 1));
    cr_assert(got.size >= 1024 && got.size < DATAGRAM_BYTES);
    cr_assert_arr_eq(got.bytes, data, got.size);
    send_datagram(peer, &ours, data, 1000);
    run_until_count(&got, fd, AF_INET, 2);
    cr_assert(eq(uint, got.truncated, 1));
    receive_anew(&got, fd, AF_INET);
    cancel_receive(&got);
    close_ours(fd);
    close(peer);
}

Test(datagrams, without_a_buffer_they_wait_in_their_socket_and_the_engine_sleeps, ON_SMALL)
{
    static struct got got = { .keeps = true };
    struct sockaddr_in ours, theirs;
    int fd = udp_socket(&ours), peer = udp_socket(&theirs);
    for (unsigned i = 0; i < 3 * BUFFERS; i++)
        send_datagram(peer, &ours, &(char){ (char)('a' + i) }, 1);
    run_until_count(&got, fd, AF_INET, BUFFERS);
    receive_anew(&got, fd, AF_INET);
    turn(0);
    assert_asleep();
    cr_assert(eq(uint, got.count, BUFFERS));
    got.keeps = false;
    while (got.kept_count > 0)
        buffers_unref(&engine->datagrams, got.kept[--got.kept_count]);
    run_until_count(&got, fd, AF_INET, 3 * BUFFERS);
    cr_assert(eq(chr, got.bytes[0], (char)('a' + 3 * BUFFERS - 1)), "none is lost, and in order");
    receive_anew(&got, fd, AF_INET);
    cancel_receive(&got);
    close_ours(fd);
    close(peer);
}

Test(datagrams, a_receive_that_waits_for_a_buffer_can_be_cancelled, ON_SMALL)
{
    static struct got got = { .keeps = true };
    struct sockaddr_in ours, theirs;
    int fd = udp_socket(&ours), peer = udp_socket(&theirs);
    for (unsigned i = 0; i < 2 * BUFFERS; i++)
        send_datagram(peer, &ours, "x", 1);
    run_until_count(&got, fd, AF_INET, BUFFERS);
    receive_anew(&got, fd, AF_INET);
    turn(0);
    cancel_receive(&got);
    cr_assert(eq(int, got.error, -ECANCELED));
    while (got.kept_count > 0)
        buffers_unref(&engine->datagrams, got.kept[--got.kept_count]);
    assert_asleep();
    close_ours(fd);
    close(peer);
}

Test(datagrams, a_refusal_by_the_peers_host_is_told_and_the_next_receive_works, ON_SMALL)
{
    static struct got got;
    struct sockaddr_in ours, nobody, theirs;
    int fd = udp_socket(&ours), gone = udp_socket(&nobody);
    close(gone);
    cr_assert_eq(connect(fd, (struct sockaddr *)&nobody, sizeof nobody), 0);
    receive_anew(&got, fd, AF_INET);
    turn(0);
    cr_assert_eq(send(fd, "?", 1, 0), 1);
    RUN_UNTIL(got.error != 0);
    cr_assert(eq(int, got.error, -ECONNREFUSED));
    cr_assert_not(got.op.in_kernel);
    int peer = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(peer, (struct sockaddr *)&nobody, sizeof nobody), 0);
    theirs = ours;
    send_datagram(peer, &theirs, "here", 4);
    run_until_count(&got, fd, AF_INET, 1);
    receive_anew(&got, fd, AF_INET);
    cancel_receive(&got);
    close_ours(fd);
    close(peer);
}

Test(datagrams, of_unix_sockets_come_with_names_and_without, ON_SMALL)
{
    static struct got got;
    struct sockaddr_un ours = { .sun_family = AF_UNIX }, theirs = { .sun_family = AF_UNIX };
    socklen_t our_size = sizeof ours;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0),
        peer = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&ours, sizeof(sa_family_t)),
                 0); /* an abstract name of the kernel's choice */
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&ours, &our_size), 0);
    cr_assert_eq(sendto(peer, "no name", 7, 0, (struct sockaddr *)&ours, our_size), 7);
    run_until_count(&got, fd, AF_UNIX, 1);
    cr_assert(eq(sz, got.size, 7));
    cr_assert(eq(uint, got.name_size, 0));
    memset(theirs.sun_path + 1, 'n', sizeof theirs.sun_path - 1); /* the longest */
    snprintf(theirs.sun_path + 1, 40, "rondo-test-%d-%d", (int)getpid(), fd);
    cr_assert_eq(bind(peer, (struct sockaddr *)&theirs, sizeof theirs), 0);
    cr_assert_eq(sendto(peer, "", 0, 0, (struct sockaddr *)&ours, our_size), 0);
    run_until_count(&got, fd, AF_UNIX, 2);
    cr_assert(eq(sz, got.size, 0));
    cr_assert(eq(uint, got.name_size, sizeof theirs));
    cr_assert_arr_eq(&got.name, &theirs, sizeof theirs);
    receive_anew(&got, fd, AF_UNIX);
    cancel_receive(&got);
    close_ours(fd);
    close(peer);
}

static void send_message_to(struct asked *asked, int fd, struct msghdr *message, struct iovec *slice,
                            struct sockaddr_in *to, enum send_way way)
{
    *message =
        (struct msghdr){ .msg_name = to, .msg_namelen = sizeof *to, .msg_iov = slice, .msg_iovlen = 1 };
    engine_send_message(engine, &prepared(asked, fd)->op, fd, message, way);
}

Test(datagrams, a_message_with_an_address_goes_there, ON_SMALL)
{
    struct asked asked = { 0 };
    struct msghdr message;
    struct iovec slice = { "hello", 5 };
    struct sockaddr_in ours, theirs;
    char data[16];
    int fd = udp_socket(&ours), peer = udp_socket(&theirs);
    enum send_way ways[] = { SEND_NOW, SEND_WAITS, SEND_QUIETLY };
    for (unsigned i = 0; i < 3; i++) {
        send_message_to(&asked, fd, &message, &slice, &theirs, ways[i]);
        engine_expect(engine, &asked.op);
        RUN_UNTIL(!asked.op.in_kernel);
        cr_assert(eq(int, asked.result, 5));
        cr_assert_eq(recv(peer, data, sizeof data, 0), 5);
    }
    slice.iov_len = 0;
    send_message_to(&asked, fd, &message, &slice, &theirs, SEND_QUIETLY);
    engine_expect(engine, &asked.op);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, 0));
    cr_assert_eq(recv(peer, data, sizeof data, 0), 0);
    close_ours(fd);
    close(peer);
}

Test(datagrams, one_that_is_too_long_fails, ON_SMALL)
{
    static char data[70000];
    struct asked asked = { 0 };
    struct msghdr message;
    struct iovec slice = { data, sizeof data };
    struct sockaddr_in ours, theirs;
    int fd = udp_socket(&ours), peer = udp_socket(&theirs);
    enum send_way ways[] = { SEND_NOW, SEND_WAITS, SEND_QUIETLY };
    for (unsigned i = 0; i < 3; i++) {
        send_message_to(&asked, fd, &message, &slice, &theirs, ways[i]);
        engine_expect(engine, &asked.op);
        RUN_UNTIL(!asked.op.in_kernel);
        cr_assert(eq(int, asked.result, -EMSGSIZE));
    }
    close_ours(fd);
    close(peer);
}

/* ---- pipes ------------------------------------------------------------------------------------------------ */

struct pipe_ends {
    int read, write;
};

static struct pipe_ends new_pipe(void)
{
    int fds[2];
    cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
    return (struct pipe_ends){ fds[0], fds[1] };
}

static void do_not_block(int fd)
{
    cr_assert_eq(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
}

static void ask_to_read(struct asked *asked, int fd)
{
    engine_read(engine, &prepared(asked, fd)->op, fd);
}

static void a_pipe_is_read(void)
{
    struct asked asked = { 0 };
    struct pipe_ends ends = new_pipe();
    do_not_block(ends.read);
    ask_to_read(&asked, ends.read);
    assert_asleep();
    cr_assert_eq(write(ends.write, "some", 4), 4);
    RUN_UNTIL(!asked.op.in_kernel);
    assert_received(&asked, "some");
    ask_to_read(&asked, ends.read);
    cr_assert_eq(write(ends.write, " more", 5), 5);
    RUN_UNTIL(!asked.op.in_kernel);
    assert_received(&asked, "some more");
    close(ends.write);
    ask_to_read(&asked, ends.read);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, 0));
    close_ours(ends.read);
}

Test(pipes, are_read_until_their_end, ON_SMALL)
{
    a_pipe_is_read();
}

Test(pipes, are_read_until_their_end_piece_by_piece, ON_PIECED)
{
    a_pipe_is_read();
}

Test(pipes, a_read_that_waits_can_be_cancelled, ON_SMALL)
{
    struct asked asked = { 0 };
    struct pipe_ends ends = new_pipe();
    do_not_block(ends.read);
    for (unsigned i = 0; i < 3; i++) {
        ask_to_read(&asked, ends.read);
        turn(0);
        cancel(&asked);
    }
    ask_to_read(&asked, ends.read);
    cancel(&asked);
    assert_asleep();
    close_ours(ends.read);
    close(ends.write);
}

Test(pipes, what_somebody_else_read_first_is_waited_for_again, ON_SMALL)
{
    struct asked asked = { 0 };
    struct pipe_ends ends = new_pipe();
    char byte;
    do_not_block(ends.read);
    ask_to_read(&asked, ends.read);
    turn(0);
    for (unsigned i = 0; i < 20; i++) {
        cr_assert_eq(write(ends.write, "x", 1), 1);
        cr_assert_eq(read(ends.read, &byte, 1), 1);
        turn(0);
        turn(0);
        cr_assert(asked.op.in_kernel);
    }
    cr_assert_eq(write(ends.write, "mine", 4), 4);
    RUN_UNTIL(!asked.op.in_kernel);
    assert_received(&asked, "mine");
    close_ours(ends.read);
    close(ends.write);
}

Test(pipes, a_read_waits_for_a_buffer_as_a_receive_does, ON_SMALL)
{
    static struct asked keeping[16], asked;
    struct pipe_ends ends = new_pipe();
    do_not_block(ends.read);
    for (unsigned i = 0; i < 16; i++) {
        keeping[i].keeps = true;
        cr_assert_eq(write(ends.write, "k", 1), 1);
        ask_to_read(&keeping[i], ends.read);
        RUN_UNTIL(!keeping[i].op.in_kernel);
    }
    cr_assert_eq(write(ends.write, "late", 4), 4);
    ask_to_read(&asked, ends.read);
    turn(0);
    turn(0);
    bool has_all_lent = engine->buffers.lent == 16;
    cr_assert(asked.op.in_kernel || !has_all_lent);
    for (unsigned i = 0; i < 16; i++)
        let_go(&keeping[i]);
    RUN_UNTIL(!asked.op.in_kernel);
    assert_received(&asked, "late");
    close_ours(ends.read);
    close(ends.write);
}

static void ask_to_write(struct asked *asked, int fd, const void *data, size_t size, enum send_way way)
{
    engine_write(engine, &prepared(asked, fd)->op, fd, &(struct iovec){ (void *)data, size }, 1, way);
}

Test(pipes, take_what_fits_and_more_when_there_is_room, ON_SMALL)
{
    static char data[200000], back[200000];
    struct asked asked = { 0 };
    struct pipe_ends ends = new_pipe();
    size_t written = 0, taken = 0;
    fill_with_pattern(data, sizeof data, 1, 0);
    do_not_block(ends.write);
    do_not_block(ends.read);
    ask_to_write(&asked, ends.write, data, sizeof data, SEND_NOW);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(asked.result > 0 && (size_t)asked.result < sizeof data);
    written = (size_t)asked.result;
    ask_to_write(&asked, ends.write, data + written, sizeof data - written, SEND_NOW);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, -EAGAIN));
    while (written < sizeof data) {
        ask_to_write(&asked, ends.write, data + written, sizeof data - written, SEND_WAITS);
        turn(0);
        cr_assert(asked.op.in_kernel, "it is full");
        ssize_t size = read(ends.read, back + taken, sizeof back - taken);
        cr_assert_gt(size, 0);
        taken += (size_t)size;
        RUN_UNTIL(!asked.op.in_kernel);
        if (asked.result != -EAGAIN)
            written += (size_t)asked.result;
    }
    for (ssize_t size; taken < sizeof back; taken += (size_t)size) {
        size = read(ends.read, back + taken, sizeof back - taken);
        cr_assert_gt(size, 0);
    }
    cr_assert_arr_eq(back, data, sizeof data);
    close_ours(ends.write);
    close(ends.read);
}

Test(pipes, a_write_that_waits_can_be_cancelled_and_learns_that_nobody_reads, ON_SMALL)
{
    static char data[200000];
    struct asked asked = { 0 };
    struct pipe_ends ends = new_pipe();
    do_not_block(ends.write);
    ask_to_write(&asked, ends.write, data, sizeof data, SEND_NOW);
    RUN_UNTIL(!asked.op.in_kernel);
    ask_to_write(&asked, ends.write, data, sizeof data, SEND_WAITS);
    turn(0);
    cancel(&asked);
    ask_to_write(&asked, ends.write, data, sizeof data, SEND_WAITS);
    turn(0);
    close(ends.read);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, -EPIPE));
    close_ours(ends.write);
}

Test(pipes, many_slices_are_written_in_order, ON_SMALL)
{
    struct asked asked = { 0 };
    struct pipe_ends ends = new_pipe();
    struct iovec slices[ENGINE_SEND_SLICES_MAX];
    char back[ENGINE_SEND_SLICES_MAX + 1] = "";
    do_not_block(ends.write);
    for (unsigned i = 0; i < ENGINE_SEND_SLICES_MAX; i++)
        slices[i] = (struct iovec){ (char *)"abcdefgh" + i % 8, 1 };
    engine_write(engine, &prepared(&asked, ends.write)->op, ends.write, slices, ENGINE_SEND_SLICES_MAX,
                 SEND_WAITS);
    memset(slices, 0, sizeof slices);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, ENGINE_SEND_SLICES_MAX));
    cr_assert_eq(read(ends.read, back, sizeof back), ENGINE_SEND_SLICES_MAX);
    for (unsigned i = 0; i < ENGINE_SEND_SLICES_MAX; i++)
        cr_assert(eq(chr, back[i], "abcdefgh"[i % 8]));
    close_ours(ends.write);
    close(ends.read);
}

Test(pipes, a_device_that_is_always_ready_is_read, ON_SMALL)
{
    struct asked asked = { 0 };
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ask_to_read(&asked, fd);
    RUN_UNTIL(!asked.op.in_kernel);
    cr_assert(eq(int, asked.result, 0));
    close_ours(fd);
}

/* ---- polls ------------------------------------------------------------------------------------------------ */

static void ask_to_poll(struct asked *asked, int fd)
{
    engine_poll(engine, &prepared(asked, fd)->op, fd);
}

Test(polls, tell_that_a_pipes_reader_has_gone_while_a_write_waits, ON_SMALL)
{
    static char data[200000];
    struct asked poll = { 0 }, write = { 0 };
    struct pipe_ends ends = new_pipe();
    do_not_block(ends.write);
    ask_to_poll(&poll, ends.write);
    assert_asleep();
    ask_to_write(&write, ends.write, data, sizeof data, SEND_NOW);
    RUN_UNTIL(!write.op.in_kernel);
    ask_to_write(&write, ends.write, data, sizeof data, SEND_WAITS);
    assert_asleep();
    close(ends.read);
    RUN_UNTIL(!poll.op.in_kernel && !write.op.in_kernel);
    cr_assert_neq(poll.result & POLLERR, 0);
    cr_assert(eq(int, write.result, -EPIPE));
    close_ours(ends.write);
}

Test(polls, tell_that_a_process_has_ended, ON_SMALL)
{
    struct asked poll = { 0 };
    struct pipe_ends ends = new_pipe();
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        close(ends.write);
        _exit(read(ends.read, &byte, 1) == 0 ? 7 : 1);
    }
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    cr_assert_geq(fd, 0);
    ask_to_poll(&poll, fd);
    assert_asleep();
    close(ends.write);
    RUN_UNTIL(!poll.op.in_kernel);
    cr_assert_neq(poll.result & POLLIN, 0);
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(eq(int, WEXITSTATUS(status), 7));
    close_ours(fd);
    close(ends.read);
}

Test(polls, can_be_cancelled, ON_SMALL)
{
    struct asked poll = { 0 };
    struct pipe_ends ends = new_pipe();
    ask_to_poll(&poll, ends.write);
    turn(0);
    cancel(&poll);
    ask_to_poll(&poll, ends.read);
    cancel(&poll);
    close_ours(ends.write);
    close_ours(ends.read);
}
