/* What random calls (stress_calls.c) have found, each by itself. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <rondo/testing.h>

#include "core/loop.h"

TestSuite(calls, .timeout = 30);

static rondo_test *test;
static rondo_test_peer *peer;
static int lost_with = 1;

static void given(const rondo_protocol *protocol)
{
    test = rondo_test_open(NULL);
    peer = rondo_test_connect(test, protocol);
    cr_assert_not_null(peer);
}

static void over(void)
{
    cr_assert(eq(uint, rondo_test_close(test), 0));
}

static void connection_lost(rondo_transport *t, int error)
{
    (void)t;
    lost_with = error;
}

/* ---- the answer was cut, and the peer saw an EOF in order ---------------------------------------------------- */

static rondo_buffer get_nothing(rondo_transport *t, size_t size_hint)
{
    (void)size_hint;
    rondo_write(t, RONDO_BYTES("an answer"));
    return (rondo_buffer){ NULL, 0 };
}

static void never_updated(rondo_transport *t, size_t nbytes)
{
    (void)t;
    cr_assert(eq(sz, nbytes, 0), "there was no memory");
}

static const rondo_protocol without_memory = {
    .name = "without memory",
    .get_buffer = get_nothing,
    .buffer_updated = never_updated,
    .connection_lost = connection_lost,
};

Test(calls, a_cut_answer_ends_in_a_reset)
{
    given(&without_memory);
    cr_assert(eq(int, lost_with, -ENOBUFS));
    cr_assert(rondo_test_was_reset(peer));
    cr_assert_not(rondo_test_sees_eof(peer), "the peer would take it for all of the answer");
    over();
}

/* ---- the kernel received into a state that was replaced ------------------------------------------------------ */

struct turncoat {
    unsigned age;
    char memory[100];
};

static unsigned turns;
static char got[100];

static const rondo_protocol turncoat;

static rondo_buffer get_memory(rondo_transport *t, size_t size_hint)
{
    struct turncoat *self = rondo_self(t);
    (void)size_hint;
    if (turns++ == 0)
        cr_assert(eq(int, rondo_set_protocol(t, &turncoat), 0));
    return (rondo_buffer){ self->memory, sizeof self->memory };
}

static void memory_updated(rondo_transport *t, size_t nbytes)
{
    struct turncoat *self = rondo_self(t);
    snprintf(got + strlen(got), sizeof got - strlen(got), "%.*s", (int)nbytes, self->memory);
}

static const rondo_protocol turncoat = {
    .name = "turncoat",
    .size = sizeof(struct turncoat),
    .get_buffer = get_memory,
    .buffer_updated = memory_updated,
};

Test(calls, a_table_set_again_in_get_buffer_is_a_new_protocol)
{
    given(&turncoat);
    rondo_test_feed(peer, RONDO_BYTES("hello"));
    cr_assert(eq(str, got, "hello"));
    cr_assert(eq(uint, turns, 3), "the old one's memory isn't used");
    over();
}

Test(calls, and_also_while_bytes_wait)
{
    given(&turncoat);
    turns = 0;
    rondo_pause_reading(rondo_test_transport(peer));
    rondo_test_feed(peer, RONDO_BYTES("hello"));
    rondo_resume_reading(rondo_test_transport(peer));
    rondo_test_feed(peer, RONDO_BYTES(" world"));
    cr_assert(eq(str, got, "hello world"));
    over();
}

/* ---- a file that could not be read to its end looked like all of it ------------------------------------------ */

static const rondo_protocol plain = { .name = "plain", .connection_lost = connection_lost };

Test(calls, a_file_that_can_not_be_read_ends_in_a_reset)
{
    char path[64];
    int fd = memfd_create("file", MFD_CLOEXEC);
    cr_assert(eq(int, (int)write(fd, "content", 7), 7));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int write_only = open(path, O_WRONLY | O_CLOEXEC);
    given(&plain);
    rondo_write(rondo_test_transport(peer), RONDO_BYTES("a head, and "));
    cr_assert(eq(int, rondo_sendfile(rondo_test_transport(peer), write_only, 0, 7, NULL), 0));
    rondo_test_turn(test);
    cr_assert(eq(int, lost_with, -EBADF));
    cr_assert(eq(sz, rondo_test_written(peer).size, 12));
    cr_assert(rondo_test_was_reset(peer));
    cr_assert_not(rondo_test_sees_eof(peer));
    close(write_only);
    close(fd);
    over();
}

/* ---- receive buffers were kept behind a file that a slow peer didn't take ------------------------------------ */

static int file;

static void answer_with_a_file(rondo_transport *t, rondo_bytes data)
{
    rondo_sendfile(t, file, 0, RONDO_TO_THE_END, NULL);
    rondo_write(t, data); /* from where it was received */
}

static const rondo_protocol filer = { .name = "filer", .data_received = answer_with_a_file };

Test(calls, a_slow_peer_keeps_no_buffer_behind_a_file)
{
    file = memfd_create("file", MFD_CLOEXEC);
    cr_assert(eq(int, (int)write(file, "content, ", 9), 9));
    given(&filer);
    rondo_test_set_room(peer, 4);
    rondo_test_feed(peer,
                    RONDO_BYTES("and a question, which is long enough to be kept where it was received"));
    const struct buffers *buffers = &rondo_test_loop(test)->engine->buffers;
    cr_assert(eq(sz, rondo_test_written(peer).size, 4));
    cr_assert(eq(uint, buffers->lent, 0));
    rondo_test_set_room(peer, RONDO_TEST_ANY_ROOM);
    cr_assert(eq(sz, rondo_test_written(peer).size, 9 + 69));
    close(file);
    over();
}

/* ---- a write for which there was no memory was missing from an answer that ended in order -------------------- */

static bool memory_is_out;
void *__real_memory_alloc(size_t size);
void *__wrap_memory_alloc(size_t size);

void *__wrap_memory_alloc(size_t size)
{
    return memory_is_out ? NULL : __real_memory_alloc(size);
}

Test(calls, a_write_without_memory_ends_in_a_reset)
{
    given(&plain);
    memory_is_out = true;
    rondo_write(rondo_test_transport(peer), RONDO_BYTES("dropped"));
    memory_is_out = false;
    rondo_test_turn(test);
    cr_assert(eq(int, lost_with, -ENOMEM));
    cr_assert(rondo_test_was_reset(peer));
    cr_assert_not(rondo_test_sees_eof(peer));
    over();
}
