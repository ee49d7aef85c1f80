/* Transports of pipes: real pipes, FIFOs, sockets, terminals and devices, one end a transport, the other the test's. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/pipe.h"
#include "support/pair.h"
#include "support/turning.h"

TestSuite(pipe, .timeout = 60);

static struct world world;
static rondo_transport *pipe_end; /* NULL: lost */
static int peer = -1;             /* non-blocking */

/* ---- the protocol ----------------------------------------------------------------------------------------- */

static char calls[1024], *received;
static size_t received_size;
static unsigned lost, paused, resumed;
static int lost_error;
static bool returns_true;
static void (*on_data)(rondo_transport *t);

static void note(const char *call)
{
    size_t size = strlen(calls);
    bool again = size >= 2 && strcmp(calls + size - 2, call) == 0;
    if (!again && size + 4 < sizeof calls)
        strcat(strcat(calls, size > 0 ? " " : ""), call);
}

static void connection_made(rondo_transport *t)
{
    (void)t;
    note("CM");
}

static void data_received(rondo_transport *t, rondo_bytes data)
{
    note("DR");
    received = realloc(received, received_size + data.size);
    memcpy(received + received_size, data.data, data.size);
    received_size += data.size;
    if (on_data != NULL)
        on_data(t);
}

static bool eof_received(rondo_transport *t)
{
    (void)t;
    note("ER");
    return returns_true;
}

static void pause_writing(rondo_transport *t)
{
    (void)t;
    note("PW");
    paused++;
}

static void resume_writing(rondo_transport *t)
{
    (void)t;
    note("RW");
    resumed++;
}

static void connection_lost(rondo_transport *t, int error)
{
    note("CL");
    lost++;
    lost_error = error;
    if (t == pipe_end)
        pipe_end = NULL;
}

static const rondo_protocol plain = {
    .name = "plain",
    .connection_made = connection_made,
    .data_received = data_received,
    .eof_received = eof_received,
    .pause_writing = pause_writing,
    .resume_writing = resume_writing,
    .connection_lost = connection_lost,
};

/* ---- the world --------------------------------------------------------------------------------------------- */

static void open_world(void)
{
    signal(SIGPIPE, SIG_IGN);
    world_open(&world, NULL);
}

static void close_world(void)
{
    if (pipe_end != NULL)
        rondo_abort(pipe_end);
    RUN_UNTIL(world.loop.users == 0);
    if (peer >= 0)
        close(peer);
    free(received);
    world_close(&world);
}

#define WORLD .init = open_world, .fini = close_world

static void do_not_block(int fd)
{
    cr_assert_eq(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
}

static bool blocks(int fd)
{
    return !(fcntl(fd, F_GETFL) & O_NONBLOCK);
}

static void open_to_read(void)
{
    int fds[2];
    cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
    peer = fds[1];
    do_not_block(peer);
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, fds[0], &plain, &pipe_end), 0);
    cr_assert(zero(str, calls), "nothing comes from inside the call");
    RUN_UNTIL(*calls != '\0');
}

static void open_to_write(void)
{
    int fds[2];
    cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
    peer = fds[0];
    do_not_block(peer);
    cr_assert_eq(rondo_connect_write_pipe(&world.loop, fds[1], &plain, &pipe_end), 0);
    cr_assert(zero(str, calls), "nothing comes from inside the call");
    RUN_UNTIL(*calls != '\0');
}

static void peer_writes(const char *text)
{
    cr_assert_eq(write(peer, text, strlen(text)), (ssize_t)strlen(text));
}

static void peer_goes(void)
{
    close(peer);
    peer = -1;
}

/* All that comes until the end of file, or `size` bytes of it. */
static size_t peer_reads(char *data, size_t size)
{
    size_t taken = 0;
    for (uint64_t begin_ms = turning_clock_ms(); taken < size; turn_for(&world, 1)) {
        cr_assert_lt(turning_clock_ms() - begin_ms, 10000, "%zu", taken);
        ssize_t n = read(peer, data + taken, size - taken);
        if (n == 0)
            return taken;
        taken += n > 0 ? (size_t)n : 0;
    }
    return taken;
}

static void assert_received(const char *text)
{
    cr_assert_eq(received_size, strlen(text));
    cr_assert_arr_eq(received, text, received_size);
}

/* ---- to read ------------------------------------------------------------------------------------------------ */

Test(pipe, what_is_written_is_delivered_until_the_end, WORLD)
{
    open_to_read();
    peer_writes("some");
    RUN_UNTIL(received_size == 4);
    peer_writes(" more");
    RUN_UNTIL(received_size == 9);
    assert_received("some more");
    returns_true = true; /* which makes no difference */
    peer_goes();
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, 0);
    cr_assert(eq(str, calls, "CM DR ER CL"));
    cr_assert_eq(world.loop.traffic.bytes_copied, 0);
}

Test(pipe, a_lot_comes_in_order, WORLD)
{
    static char data[1 << 20];
    size_t written = 0;
    open_to_read();
    fill_pattern(data, sizeof data, 1);
    for (uint64_t begin_ms = turning_clock_ms(); written < sizeof data; turn_for(&world, 0)) {
        cr_assert_lt(turning_clock_ms() - begin_ms, 10000);
        ssize_t n = write(peer, data + written, sizeof data - written);
        written += n > 0 ? (size_t)n : 0;
    }
    peer_goes();
    RUN_UNTIL(lost == 1);
    cr_assert_eq(received_size, sizeof data);
    cr_assert_arr_eq(received, data, sizeof data);
}

Test(pipe, while_reading_is_paused_nothing_is_delivered, WORLD)
{
    open_to_read();
    rondo_pause_reading(pipe_end);
    cr_assert_not(rondo_is_reading(pipe_end));
    peer_writes("waits");
    peer_goes();
    turn_some(&world);
    cr_assert(eq(str, calls, "CM"));
    rondo_resume_reading(pipe_end);
    RUN_UNTIL(lost == 1);
    assert_received("waits");
    cr_assert(eq(str, calls, "CM DR ER CL"));
}

static void close_it(rondo_transport *t)
{
    rondo_close(t);
}

Test(pipe, it_may_be_closed_by_what_comes, WORLD)
{
    open_to_read();
    on_data = close_it;
    peer_writes("x");
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, 0);
    cr_assert(eq(str, calls, "CM DR CL"));
    cr_assert_eq(write(peer, "y", 1), -1);
    cr_assert_eq(errno, EPIPE);
}

Test(pipe, one_to_read_is_not_written_to, WORLD)
{
    open_to_read();
    rondo_write(pipe_end, RONDO_BYTES("x"));
    rondo_write_eof(pipe_end);
    cr_assert_not(rondo_can_write_eof(pipe_end));
    cr_assert_eq(rondo_sendfile(pipe_end, 0, 0, 1, NULL), -ENOTSUP);
    peer_writes("still");
    RUN_UNTIL(received_size == 5);
    int fd;
    cr_assert_eq(rondo_get_extra_info(pipe_end, "pipe", &fd, sizeof fd), 0);
    cr_assert_gt(fd, 2);
    cr_assert_eq(rondo_get_extra_info(pipe_end, "socket", &fd, sizeof fd), -ENOENT);
}

static char memory[16];

static rondo_buffer get_buffer(rondo_transport *t, size_t size_hint)
{
    (void)t;
    (void)size_hint;
    return (rondo_buffer){ memory, sizeof memory };
}

static void buffer_updated(rondo_transport *t, size_t nbytes)
{
    data_received(t, (rondo_bytes){ memory, nbytes });
}

Test(pipe, a_buffered_protocol_gets_its_bytes, WORLD)
{
    static const rondo_protocol buffered = {
        .connection_made = connection_made,
        .get_buffer = get_buffer,
        .buffer_updated = buffer_updated,
        .connection_lost = connection_lost,
    };
    open_to_read();
    cr_assert_eq(rondo_set_protocol(pipe_end, &buffered), 0);
    peer_writes("more bytes than that memory holds");
    peer_goes();
    RUN_UNTIL(lost == 1);
    assert_received("more bytes than that memory holds");
}

/* ---- to write ----------------------------------------------------------------------------------------------- */

Test(pipe, what_is_written_arrives_and_its_end_too, WORLD)
{
    char data[64];
    open_to_write();
    rondo_write(pipe_end, RONDO_BYTES("some "));
    rondo_write_static(pipe_end, RONDO_BYTES("more"));
    cr_assert(rondo_can_write_eof(pipe_end));
    rondo_write_eof(pipe_end);
    cr_assert(rondo_is_closing(pipe_end));
    cr_assert_eq(peer_reads(data, sizeof data), 9);
    cr_assert_arr_eq(data, "some more", 9);
    cr_assert_eq(lost, 1);
    cr_assert_eq(lost_error, 0);
    cr_assert(eq(str, calls, "CM CL"));
}

Test(pipe, a_reader_that_is_slow_pauses_and_gets_all, WORLD)
{
    static char data[1 << 20], back[1 << 20];
    open_to_write();
    fill_pattern(data, sizeof data, 2);
    rondo_write(pipe_end, (rondo_bytes){ data, 1000 });
    cr_assert_eq(paused, 0);
    rondo_write(pipe_end, (rondo_bytes){ data + 1000, sizeof data - 1000 });
    cr_assert_eq(paused, 1);
    turn_some(&world);
    rondo_close(pipe_end);
    cr_assert_eq(peer_reads(back, sizeof back), sizeof back);
    cr_assert_arr_eq(back, data, sizeof data);
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, 0);
}

Test(pipe, it_resumes_when_there_is_room, WORLD)
{
    static char data[200000];
    open_to_write();
    rondo_write(pipe_end, (rondo_bytes){ data, sizeof data });
    cr_assert_eq(paused, 1);
    cr_assert_eq(peer_reads(data, sizeof data), sizeof data);
    RUN_UNTIL(resumed == 1);
    cr_assert_eq(rondo_get_write_buffer_size(pipe_end), 0);
}

Test(pipe, that_nobody_reads_any_more_ends_it, WORLD)
{
    open_to_write();
    rondo_write(pipe_end, RONDO_BYTES("into the pipe"));
    turn_some(&world);
    cr_assert_eq(lost, 0);
    peer_goes();
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, 0);
}

Test(pipe, that_nobody_reads_what_is_left_is_an_error, WORLD)
{
    static char data[200000];
    open_to_write();
    rondo_write(pipe_end, (rondo_bytes){ data, sizeof data });
    turn_some(&world);
    peer_goes();
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, -EPIPE);
}

Test(pipe, a_close_that_waits_ends_when_nobody_reads_any_more, WORLD)
{
    static char data[200000];
    open_to_write();
    rondo_write(pipe_end, (rondo_bytes){ data, sizeof data });
    rondo_close(pipe_end);
    turn_some(&world);
    cr_assert_eq(lost, 0);
    peer_goes();
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, -EPIPE);
}

Test(pipe, aborting_drops_what_is_left, WORLD)
{
    static char data[200000];
    open_to_write();
    rondo_write(pipe_end, (rondo_bytes){ data, sizeof data });
    turn_some(&world);
    rondo_abort(pipe_end);
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, 0);
    cr_assert_lt(peer_reads(data, sizeof data), sizeof data);
}

Test(pipe, a_file_is_sent_into_it, WORLD)
{
    static char data[300000], back[300000];
    FILE *file = tmpfile();
    fill_pattern(data, sizeof data, 3);
    cr_assert_eq(fwrite(data, 1, sizeof data, file), sizeof data);
    fflush(file);
    open_to_write();
    cr_assert_eq(rondo_sendfile(pipe_end, fileno(file), 0, RONDO_TO_THE_END, NULL), 0);
    rondo_close(pipe_end);
    cr_assert_eq(peer_reads(back, sizeof back), sizeof back);
    cr_assert_arr_eq(back, data, sizeof data);
    fclose(file);
}

static rondo_transport *target;

static void pass_on(rondo_transport *t, rondo_bytes data)
{
    (void)t;
    rondo_write(target, data);
}

Test(pipe, what_one_reads_another_writes_from_where_it_lies, WORLD)
{
    static const rondo_protocol passing = { .data_received = pass_on };
    int fds[2];
    char data[8];
    cr_assert_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0); /* or it may take a copy to wait */
    peer = fds[0];
    cr_assert_eq(rondo_connect_write_pipe(&world.loop, fds[1], &plain, &pipe_end), 0);
    target = pipe_end;
    cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
    rondo_transport *source;
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, fds[0], &passing, &source), 0);
    cr_assert_eq(write(fds[1], "through", 7), 7);
    cr_assert_eq(peer_reads(data, 7), 7);
    cr_assert_arr_eq(data, "through", 7);
    cr_assert_eq(world.loop.traffic.bytes_copied, 0);
    close(fds[1]);
    RUN_UNTIL(world.loop.users == 1);
}

/* ---- what can be a pipe, and what can't --------------------------------------------------------------------- */

Test(pipe, a_fifo_can, WORLD)
{
    char folder[] = "/tmp/rondo-test-pipe-XXXXXX", path[64];
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/fifo", folder);
    cr_assert_eq(mkfifo(path, 0600), 0);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    peer = open(path, O_WRONLY | O_CLOEXEC);
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, fd, &plain, &pipe_end), 0);
    peer_writes("by name");
    peer_goes();
    RUN_UNTIL(lost == 1);
    assert_received("by name");
    unlink(path);
    rmdir(folder);
}

static void socket_in_both_directions(bool nonblocking)
{
    int ends[2];
    char data[8];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    peer = ends[1];
    do_not_block(peer);
    if (nonblocking)
        do_not_block(ends[0]);
    int other = dup(ends[0]); /* shares its properties */
    rondo_transport *reader;
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, dup(ends[0]), &plain, &reader), 0);
    cr_assert_eq(rondo_connect_write_pipe(&world.loop, ends[0], &plain, &pipe_end), 0);
    peer_writes("in");
    /* As in asyncio, something to read on a socket that is written to means that the peer has gone. */
    RUN_UNTIL(received_size == 2 || lost == 1);
    if (pipe_end != NULL)
        rondo_write(pipe_end, RONDO_BYTES("out"));
    rondo_close(reader);
    if (pipe_end != NULL)
        rondo_close(pipe_end);
    RUN_UNTIL(world.loop.users == 0);
    cr_assert_eq(blocks(other), !nonblocking, "it is as it was");
    (void)data;
    close(other);
}

Test(pipe, a_socket_can_and_is_left_as_it_was, WORLD)
{
    socket_in_both_directions(false);
}

Test(pipe, a_socket_that_does_not_block_can, WORLD)
{
    socket_in_both_directions(true);
}

Test(pipe, a_socket_that_is_full_blocks_nobody, WORLD)
{
    static char data[1 << 20];
    int ends[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    peer = ends[1];
    do_not_block(peer);
    cr_assert_eq(rondo_connect_write_pipe(&world.loop, ends[0], &plain, &pipe_end), 0);
    fill_pattern(data, sizeof data, 3);
    rondo_write(pipe_end, (rondo_bytes){ data, sizeof data });
    turn_some(&world);
    cr_assert_gt(rondo_get_write_buffer_size(pipe_end), 0);
    cr_assert_eq(peer_reads(data, sizeof data), sizeof data);
    rondo_close(pipe_end);
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, 0);
}

Test(pipe, others_who_have_the_pipe_keep_it_as_it_was, WORLD)
{
    int fds[2];
    cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
    int other = dup(fds[0]);
    peer = fds[1];
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, fds[0], &plain, &pipe_end), 0);
    RUN_UNTIL(*calls != '\0');
    cr_assert(blocks(other));
    cr_assert_eq(fcntl(fds[0], F_GETFL), -1, "the descriptor was taken");
    close(other);
}

Test(pipe, a_terminal_can, WORLD)
{
    int master, slave;
    char data[16];
    cr_assert_eq(openpty(&master, &slave, NULL, NULL, NULL), 0);
    peer = master;
    do_not_block(peer);
    int other = dup(slave);
    rondo_transport *reader;
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, dup(slave), &plain, &reader), 0);
    cr_assert_eq(rondo_connect_write_pipe(&world.loop, slave, &plain, &pipe_end), 0);
    rondo_write(pipe_end, RONDO_BYTES("prompt> "));
    cr_assert_eq(peer_reads(data, 8), 8);
    cr_assert_arr_eq(data, "prompt> ", 8);
    peer_writes("typed\n");
    RUN_UNTIL(received_size == 6);
    assert_received("typed\n");
    cr_assert(blocks(other));
    rondo_close(pipe_end);
    rondo_close(reader);
    RUN_UNTIL(lost == 2);
    close(other);
}

Test(pipe, the_master_of_a_terminal_ends_in_eio, WORLD)
{
    int master, slave;
    cr_assert_eq(openpty(&master, &slave, NULL, NULL, NULL), 0);
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, master, &plain, &pipe_end), 0);
    cr_assert_eq(write(slave, "said", 4), 4);
    RUN_UNTIL(received_size == 4);
    close(slave);
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, -EIO);
}

Test(pipe, dev_null_can, WORLD)
{
    cr_assert_eq(
        rondo_connect_read_pipe(&world.loop, open("/dev/null", O_RDONLY | O_CLOEXEC), &plain, &pipe_end), 0);
    RUN_UNTIL(lost == 1);
    cr_assert(eq(str, calls, "CM ER CL"));
    cr_assert_eq(
        rondo_connect_write_pipe(&world.loop, open("/dev/null", O_WRONLY | O_CLOEXEC), &plain, &pipe_end), 0);
    rondo_write(pipe_end, RONDO_BYTES("gone"));
    turn_some(&world);
    cr_assert_eq(lost, 1);
    rondo_close(pipe_end);
    RUN_UNTIL(lost == 2);
    cr_assert_eq(lost_error, 0);
}

Test(pipe, a_file_a_folder_nothing_and_the_wrong_direction_can_not, WORLD)
{
    int fds[2], file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), folder = open("/", O_RDONLY | O_CLOEXEC);
    cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, file, &plain, NULL), -EINVAL);
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, folder, &plain, NULL), -EINVAL);
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, -1, &plain, NULL), -EBADF);
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, 9999, &plain, NULL), -EBADF);
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, fds[1], &plain, NULL), -EBADF);
    cr_assert_eq(rondo_connect_write_pipe(&world.loop, fds[0], &plain, NULL), -EBADF);
    cr_assert_eq(rondo_connect_write_pipe(&world.loop, fds[1], NULL, NULL), -EINVAL);
    cr_assert_eq(blocks(fds[0]) + blocks(fds[1]), 2, "they are still the caller's, as they were");
    cr_assert_eq(world.loop.users, 0);
    close(fds[0]);
    close(fds[1]);
    close(file);
    close(folder);
}

Test(pipe, of_stdin_its_number_is_left_to_nobody, WORLD)
{
    int fds[2];
    struct stat status;
    cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
    cr_assert_eq(dup2(fds[0], STDIN_FILENO), STDIN_FILENO);
    close(fds[0]);
    peer = fds[1];
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, STDIN_FILENO, &plain, &pipe_end), 0);
    peer_writes("line");
    peer_goes();
    RUN_UNTIL(lost == 1);
    assert_received("line");
    cr_assert_eq(fstat(STDIN_FILENO, &status), 0);
    cr_assert_neq(S_ISCHR(status.st_mode), 0);
    char byte;
    cr_assert_eq(read(STDIN_FILENO, &byte, 1), 0);
}

Test(pipe, the_loop_ends_with_the_last_one, WORLD)
{
    open_to_write();
    rondo_close(pipe_end);
    cr_assert_eq(loop_run(&world.loop), 0);
    cr_assert_eq(lost, 1);
}

/* ---- draining ------------------------------------------------------------------------------------------------ */

Test(pipe, a_drain_delivers_what_had_arrived_and_closes, WORLD)
{
    open_to_read();
    peer_writes("arrived");
    world.loop.users++;
    service_hooks.drain(&world.loop);
    world.loop.users--;
    RUN_UNTIL(lost == 1);
    assert_received("arrived");
    cr_assert(eq(str, calls, "CM DR CL"));
    int fds[2];
    cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
    cr_assert_eq(rondo_connect_read_pipe(&world.loop, fds[0], &plain, NULL), -ESHUTDOWN);
    close(fds[0]);
    close(fds[1]);
}

Test(pipe, a_drain_writes_what_is_queued_and_closes, WORLD)
{
    static char data[200000];
    open_to_write();
    rondo_write(pipe_end, (rondo_bytes){ data, sizeof data });
    service_hooks.drain(&world.loop);
    turn_some(&world);
    cr_assert_eq(lost, 0);
    cr_assert_eq(peer_reads(data, sizeof data), sizeof data);
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, 0);
}
