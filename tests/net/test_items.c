/* Files and descriptors in the order of the output. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/pair.h"

TestSuite(sendfile, .timeout = 30);
TestSuite(descriptors, .timeout = 30);

static int64_t results[8];
static unsigned result_count;

static void note_result(rondo_transport *t, int64_t nbytes)
{
    (void)t;
    results[result_count++] = nbytes;
}

static int file_of(const char *data, size_t size)
{
    int fd = memfd_create("content", MFD_CLOEXEC);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, data, size), (ssize_t)size);
    return fd;
}

static void pair_is_given(struct pair *p, const rondo_protocol *protocol, bool is_unix)
{
    memset(p, 0, sizeof *p);
    p->is_unix = is_unix;
    pair_open(p, protocol);
}

static void write_text(struct pair *p, const char *text)
{
    rondo_write(p->t, (rondo_bytes){ text, strlen(text) });
}

static unsigned count_descriptors(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* ---- files ------------------------------------------------------------------------------------------------ */

Test(sendfile, a_file_leaves_in_order_between_writes)
{
    struct pair p;
    pair_is_given(&p, &recording, false);
    unsigned before = count_descriptors();
    int fd = file_of("0123456789", 10);
    write_text(&p, "<");
    cr_assert_eq(rondo_sendfile(p.t, fd, 2, 3, note_result), 0);
    write_text(&p, "|");
    cr_assert_eq(rondo_sendfile(p.t, fd, 7, RONDO_TO_THE_END, note_result), 0);
    cr_assert_eq(rondo_sendfile(p.t, fd, 0, 1, NULL), 0);
    close(fd); /* yours again */
    write_text(&p, ">");
    rondo_write_eof(p.t);
    cr_assert(eq(str, (char *)peer_receive_text(&p), "<234|7890>"));
    cr_assert(eq(uint, result_count, 2));
    cr_assert(eq(i64, results[0], 3));
    cr_assert(eq(i64, results[1], 3));
    cr_assert(eq(uint, count_descriptors(), before));
    pair_close(&p);
}

Test(sendfile, it_comes_before_the_end_of_a_close)
{
    struct pair p;
    pair_is_given(&p, &recording, false);
    int fd = file_of("all of it", 9);
    cr_assert_eq(rondo_sendfile(p.t, fd, 0, RONDO_TO_THE_END, note_result), 0);
    rondo_close(p.t);
    cr_assert(eq(str, (char *)peer_receive_text(&p), "all of it"));
    pair_run_until_lost(&p);
    cr_assert(eq(uint, result_count, 1));
    close(fd);
    pair_close(&p);
}

Test(sendfile, a_file_that_ends_before_is_sent_as_far_as_it_goes)
{
    struct pair p;
    pair_is_given(&p, &recording, false);
    int fd = file_of("short", 5);
    rondo_sendfile(p.t, fd, 3, 100, note_result);
    rondo_sendfile(p.t, fd, 100, 5, note_result);
    write_text(&p, ".");
    rondo_write_eof(p.t);
    cr_assert(eq(str, (char *)peer_receive_text(&p), "rt."));
    cr_assert(eq(i64, results[0], 2));
    cr_assert(eq(i64, results[1], 0));
    close(fd);
    pair_close(&p);
}

Test(sendfile, a_large_file_to_a_slow_peer_arrives_whole)
{
    struct pair p;
    size_t size = 3 * 1000 * 1000 + 7;
    char *content = malloc(size), *got = malloc(size + 2);
    fill_pattern(content, size, 9);
    int fd = file_of(content, size);
    pair_is_given(&p, &recording, false);
    limit_peer(&p, 8192);
    write_text(&p, "a");
    cr_assert_eq(rondo_sendfile(p.t, fd, 0, RONDO_TO_THE_END, note_result), 0);
    write_text(&p, "b");
    cr_assert(eq(sz, rondo_get_write_buffer_size(p.t), 2), "files don't count");
    cr_assert(eq(int, (int)peer_receive(&p, got, size + 2), (int)size + 2));
    cr_assert_eq(got[0], 'a');
    cr_assert_eq(memcmp(got + 1, content, size), 0);
    cr_assert_eq(got[size + 1], 'b');
    pair_turn(&p);
    cr_assert(eq(i64, results[0], (int64_t)size));
    close(fd);
    free(content);
    free(got);
    pair_close(&p);
}

Test(sendfile, what_is_no_regular_file_or_comes_too_late_is_refused)
{
    struct pair p;
    int ends[2], fd = file_of("x", 1);
    pair_is_given(&p, &recording, false);
    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    cr_assert_eq(rondo_sendfile(p.t, ends[0], 0, 1, NULL), -EINVAL);
    cr_assert_eq(rondo_sendfile(p.t, -1, 0, 1, NULL), -EBADF);
    cr_assert_eq(rondo_sendfile(p.t, fd, 0, 0, NULL), -EINVAL);
    cr_assert_eq(rondo_sendfile(p.t, fd, UINT64_MAX, 1, NULL), -EINVAL);
    rondo_write_eof(p.t);
    cr_assert_eq(rondo_sendfile(p.t, fd, 0, 1, NULL), -EPIPE);
    rondo_close(p.t);
    cr_assert_eq(rondo_sendfile(p.t, fd, 0, 1, NULL), -EPIPE);
    cr_assert(eq(str, (char *)peer_receive_text(&p), ""));
    close(fd);
    close(ends[0]);
    close(ends[1]);
    pair_close(&p);
}

static int unreadable_file(void)
{
    char path[] = "/tmp/rondo-test-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, "x", 1), 1);
    close(fd);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    unlink(path);
    return fd;
}

Test(sendfile, a_file_that_can_t_be_read_is_told)
{
    struct pair p;
    int fd = unreadable_file();
    pair_is_given(&p, &recording, false);
    cr_assert_eq(rondo_sendfile(p.t, fd, 0, 1, note_result), 0);
    write_text(&p, "the connection lives on");
    rondo_write_eof(p.t);
    cr_assert(eq(str, (char *)peer_receive_text(&p), "the connection lives on"));
    cr_assert(eq(i64, results[0], -EBADF));
    close(fd);
    pair_close(&p);
}

Test(sendfile, without_a_callback_a_file_that_can_t_be_read_ends_the_connection)
{
    struct pair p;
    int fd = unreadable_file();
    pair_is_given(&p, &recording, false);
    cr_assert_eq(rondo_sendfile(p.t, fd, 0, 1, NULL), 0);
    pair_run_until_lost(&p);
    cr_assert(eq(int, p.lost_error, -EBADF));
    close(fd);
    pair_close(&p);
}

Test(sendfile, an_abort_in_the_middle_frees_all_and_calls_nobody)
{
    struct pair p;
    size_t size = 1000 * 1000;
    char *content = calloc(1, size);
    int fd = file_of(content, size);
    pair_is_given(&p, &recording, false);
    unsigned before = count_descriptors();
    limit_peer(&p, 4096);
    rondo_sendfile(p.t, fd, 0, RONDO_TO_THE_END, note_result);
    rondo_sendfile(p.t, fd, 0, RONDO_TO_THE_END, note_result);
    loop_turn(p.loop, 0); /* the first read is under way, or done */
    loop_turn(p.loop, 0);
    rondo_abort(p.t);
    pair_run_until_lost(&p);
    cr_assert(eq(uint, result_count, 0));
    cr_assert(eq(uint, count_descriptors(), before - 1), "all but the connection's own");
    close(fd);
    free(content);
    pair_close(&p);
}

static void close_from_sent(rondo_transport *t, int64_t nbytes)
{
    note_result(t, nbytes);
    rondo_write(t, RONDO_BYTES("bye"));
    rondo_close(t);
}

Test(sendfile, the_callback_may_write_and_close)
{
    struct pair p;
    int fd = file_of("file ", 5);
    pair_is_given(&p, &recording, false);
    rondo_sendfile(p.t, fd, 0, 5, close_from_sent);
    cr_assert(eq(str, (char *)peer_receive_text(&p), "file bye"));
    close(fd);
    pair_close(&p);
}

/* ---- descriptors ------------------------------------------------------------------------------------------ */

static int got_fds[300];
static unsigned got_count;

static void pause_at_first(rondo_transport *t, int fd)
{
    got_fds[got_count++] = fd;
    if (got_count == 1)
        rondo_pause_reading(t);
}

static void take_fd(rondo_transport *t, int fd)
{
    (void)t;
    got_fds[got_count++] = fd;
}

static rondo_protocol taking(const rondo_protocol *like, void (*take)(rondo_transport *t, int fd))
{
    rondo_protocol protocol = *like;
    protocol.file_descriptor_received = take;
    return protocol;
}

static void send_with_fds(int socket, const char *text, const int *fds, unsigned count)
{
    char control[CMSG_SPACE(253 * sizeof(int))] = { 0 };
    struct iovec slice = { (char *)text, strlen(text) };
    struct msghdr message = { .msg_iov = &slice,
                              .msg_iovlen = 1,
                              .msg_control = control,
                              .msg_controllen = CMSG_SPACE(count * sizeof(int)) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    *c = (struct cmsghdr){ .cmsg_len = CMSG_LEN(count * sizeof(int)),
                           .cmsg_level = SOL_SOCKET,
                           .cmsg_type = SCM_RIGHTS };
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    cr_assert_eq(sendmsg(socket, &message, MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* One recvmsg: its bytes go to text, its descriptors to fds. Returns how many. */
static unsigned receive_with_fds(struct pair *p, char *text, size_t size, int *fds)
{
    char control[CMSG_SPACE(253 * sizeof(int))];
    struct iovec slice = { text, size - 1 };
    struct msghdr message = {
        .msg_iov = &slice, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
    };
    ssize_t n;
    while ((n = recvmsg(p->peer, &message, MSG_CMSG_CLOEXEC)) < 0 && errno == EAGAIN)
        cr_assert_eq(loop_turn(p->loop, 1000 * 1000), 0);
    cr_assert_geq(n, 0);
    text[n] = '\0';
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (c == NULL)
        return 0;
    unsigned count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(c), count * sizeof(int));
    return count;
}

static bool is_same_file(int one, int other)
{
    struct stat a, b;
    return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static void close_all(const int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
}

Test(descriptors, they_leave_with_the_next_byte_and_in_order)
{
    struct pair p;
    int fds[253], one = file_of("1", 1), two = file_of("22", 2), three = file_of("3", 1);
    char text[64];
    pair_is_given(&p, &recording, true);
    unsigned before = count_descriptors();

    write_text(&p, "before ");
    cr_assert_eq(rondo_send_file_descriptor(p.t, one), 0);
    write_text(&p, "with one ");
    cr_assert_eq(rondo_send_file_descriptor(p.t, two), 0);
    cr_assert_eq(rondo_send_file_descriptor(p.t, three), 0);
    write_text(&p, "with two");
    rondo_write_eof(p.t);

    cr_assert(eq(uint, receive_with_fds(&p, text, sizeof text, fds), 0));
    cr_assert(eq(str, text, "before "));
    cr_assert(eq(uint, receive_with_fds(&p, text, sizeof text, fds), 1));
    cr_assert(eq(str, text, "with one "));
    cr_assert(is_same_file(fds[0], one));
    close_all(fds, 1);
    cr_assert(eq(uint, receive_with_fds(&p, text, sizeof text, fds), 2));
    cr_assert(eq(str, text, "with two"));
    cr_assert(is_same_file(fds[0], two) && is_same_file(fds[1], three));
    close_all(fds, 2);
    cr_assert(eq(uint, receive_with_fds(&p, text, sizeof text, fds), 0));
    cr_assert(eq(uint, count_descriptors(), before));
    pair_close(&p);
}

Test(descriptors, without_a_byte_behind_it_one_is_not_sent_and_not_leaked)
{
    struct pair p;
    int fds[253], one = file_of("1", 1);
    char text[8];
    pair_is_given(&p, &recording, true);
    unsigned before = count_descriptors();
    write_text(&p, "x");
    cr_assert_eq(rondo_send_file_descriptor(p.t, one), 0);
    cr_assert_eq(rondo_sendfile(p.t, one, 0, 1, NULL), -EINVAL, "a file is not that byte");
    rondo_close(p.t);
    cr_assert(eq(uint, receive_with_fds(&p, text, sizeof text, fds), 0));
    pair_run_until_lost(&p);
    cr_assert(eq(uint, count_descriptors(), before));
    pair_close(&p);
}

Test(descriptors, as_many_as_the_kernel_allows_leave_with_one_byte)
{
    struct pair p;
    int fds[253], one = file_of("1", 1);
    char text[8];
    pair_is_given(&p, &recording, true);
    for (int i = 0; i < 253; i++)
        cr_assert_eq(rondo_send_file_descriptor(p.t, one), 0);
    cr_assert_eq(rondo_send_file_descriptor(p.t, one), -ETOOMANYREFS);
    write_text(&p, "a");
    cr_assert_eq(rondo_send_file_descriptor(p.t, one), 0);
    write_text(&p, "b");
    cr_assert(eq(uint, receive_with_fds(&p, text, sizeof text, fds), 253));
    cr_assert(eq(str, text, "a"));
    close_all(fds, 253);
    cr_assert(eq(uint, receive_with_fds(&p, text, sizeof text, fds), 1));
    close_all(fds, 1);
    pair_close(&p);
}

Test(descriptors, to_a_slow_peer_they_wait_their_turn)
{
    struct pair p;
    static char much[300 * 1000], text[400 * 1000];
    int fds[253], one = file_of("1", 1);
    size_t got = 0;
    pair_is_given(&p, &recording, true);
    fill_pattern(much, sizeof much, 3);
    rondo_write(p.t, (rondo_bytes){ much, sizeof much });
    cr_assert_eq(rondo_send_file_descriptor(p.t, one), 0);
    write_text(&p, "!");
    pair_turn(&p);
    for (;;) {
        unsigned count = receive_with_fds(&p, text, sizeof text, fds);
        if (count > 0)
            break;
        got += strnlen(text, 0) + 1; /* at least one byte came */
        cr_assert_lt(got, sizeof much + 1);
    }
    cr_assert(eq(str, text, "!"));
    cr_assert(is_same_file(fds[0], one));
    close_all(fds, 1);
    pair_close(&p);
}

Test(descriptors, tcp_can_t_and_what_is_closed_or_no_descriptor_is_refused)
{
    struct pair p;
    int one = file_of("1", 1);
    pair_is_given(&p, &recording, false);
    cr_assert_eq(rondo_send_file_descriptor(p.t, one), -ENOTSUP);
    pair_close(&p);
    pair_is_given(&p, &recording, true);
    cr_assert_eq(rondo_send_file_descriptor(p.t, -1), -EBADF);
    rondo_close(p.t);
    cr_assert_eq(rondo_send_file_descriptor(p.t, one), -EPIPE);
    pair_close(&p);
}

Test(descriptors, they_are_received_before_their_bytes)
{
    struct pair p;
    rondo_protocol protocol = taking(&recording, take_fd);
    int one = file_of("1", 1), two = file_of("2", 1), both[] = { one, two };
    pair_is_given(&p, &protocol, true);
    send_with_fds(p.peer, "with two", both, 2);
    peer_send(&p, ", without");
    send_with_fds(p.peer, ", with one", &one, 1);
    peer_shutdown(&p);
    pair_run_until_lost(&p);
    cr_assert(eq(uint, got_count, 3));
    cr_assert(is_same_file(got_fds[0], one) && is_same_file(got_fds[1], two) &&
              is_same_file(got_fds[2], one));
    cr_assert_neq(fcntl(got_fds[0], F_GETFD) & FD_CLOEXEC, 0);
    cr_assert_eq(memcmp(p.received, "with two, without, with one", p.received_size), 0);
    cr_assert(eq(str, p.calls, "CM DR ER CL"));
    close_all(got_fds, got_count);
    pair_close(&p);
}

Test(descriptors, while_reading_is_paused_they_wait_in_order)
{
    struct pair p;
    rondo_protocol protocol = taking(&recording, pause_at_first);
    int one = file_of("1", 1), three[] = { one, one, one };
    pair_is_given(&p, &protocol, true);
    send_with_fds(p.peer, "late", three, 3);
    pair_turn(&p);
    cr_assert(eq(uint, got_count, 1));
    cr_assert(eq(sz, p.received_size, 0));
    rondo_resume_reading(p.t);
    pair_turn(&p);
    cr_assert(eq(uint, got_count, 3));
    cr_assert(eq(sz, p.received_size, 4));
    close_all(got_fds, got_count);
    pair_close(&p);
}

Test(descriptors, those_that_nobody_takes_are_closed)
{
    struct pair p;
    rondo_protocol protocol = taking(&recording, pause_at_first);
    int one = file_of("1", 1), three[] = { one, one, one };
    unsigned before = count_descriptors();
    pair_is_given(&p, &protocol, true);
    send_with_fds(p.peer, "never", three, 3);
    pair_turn(&p);
    rondo_abort(p.t);
    pair_run_until_lost(&p);
    pair_close(&p);
    cr_assert(eq(uint, got_count, 1));
    close(got_fds[0]);
    cr_assert(eq(uint, count_descriptors(), before));

    pair_is_given(&p, &recording, true); /* a protocol that doesn't know of them */
    send_with_fds(p.peer, "plain", three, 3);
    pair_turn(&p);
    cr_assert(eq(sz, p.received_size, 5));
    pair_close(&p);
    cr_assert(eq(uint, count_descriptors(), before));
}

Test(descriptors, a_buffered_protocol_takes_them_too)
{
    struct pair p;
    rondo_protocol protocol = taking(&recording_buffered, take_fd);
    int one = file_of("1", 1);
    pair_is_given(&p, &protocol, true);
    send_with_fds(p.peer, "fed", &one, 1);
    pair_turn(&p);
    cr_assert(eq(uint, got_count, 1));
    cr_assert_eq(memcmp(p.received, "fed", 3), 0);
    close_all(got_fds, got_count);
    pair_close(&p);
}
