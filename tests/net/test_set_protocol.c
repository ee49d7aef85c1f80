/* rondo_set_protocol: one connection, several protocols; and get_extra_info. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "support/pair.h"

TestSuite(set_protocol, .timeout = 30);
TestSuite(extra_info, .timeout = 30);

/* ---- the second protocol: it writes down what it is called with, in words of its own ------------------------- */

static char second_calls[1024];
static const rondo_line_protocol upgrading;

struct second {
    char memory[5];
    int number;
};

static void note(const char *format, const char *data, size_t size)
{
    size_t used = strlen(second_calls);
    snprintf(second_calls + used, sizeof second_calls - used, format, (int)size, data);
}

static void second_data_received(rondo_transport *t, rondo_bytes data)
{
    struct second *self = rondo_self(t);
    cr_assert_eq(rondo_transport_of(self), t);
    note("data(%.*s) ", data.data, data.size);
}

static rondo_buffer second_get_buffer(rondo_transport *t, size_t size_hint)
{
    struct second *self = rondo_self(t);
    note(size_hint == 0 ? "?%.*s" : "!%.*s", "", 0);
    return (rondo_buffer){ self->memory, sizeof self->memory };
}

static void second_buffer_updated(rondo_transport *t, size_t nbytes)
{
    struct second *self = rondo_self(t);
    note("updated(%.*s) ", self->memory, nbytes);
}

static bool second_eof_received(rondo_transport *t)
{
    (void)t;
    note("eof%.*s ", "", 0);
    return false;
}

static void second_connection_lost(rondo_transport *t, int error)
{
    note(error == 0 ? "lost%.*s" : "broken%.*s", "", 0);
    cr_assert_eq(rondo_set_protocol(t, &upgrading.protocol), 0,
                 "nobody will call it, but asyncio takes it, too");
    cr_assert_eq(rondo_get_protocol(t), &upgrading.protocol);
}

#define SECOND                                                                                               \
    .size = sizeof(struct second), .eof_received = second_eof_received,                                      \
    .connection_lost = second_connection_lost

static const rondo_protocol second = { .name = "second", SECOND, .data_received = second_data_received };
static const rondo_protocol second_buffered = {
    .name = "second buffered",
    SECOND,
    .get_buffer = second_get_buffer,
    .buffer_updated = second_buffer_updated,
};

/* The recorder never hears of the end: the second protocol does. */
static void run_until_free(struct pair *p)
{
    while (p->loop->users > 0)
        cr_assert_eq(loop_turn(p->loop, 1000 * 1000 * 1000), 0);
    p->t = NULL;
    p->lost_count = 1;
}

static void end(struct pair *p)
{
    peer_close(p);
    run_until_free(p);
    pair_close(p);
}

static void pair_is_given(struct pair *p, const rondo_protocol *protocol)
{
    memset(p, 0, sizeof *p);
    pair_open(p, protocol);
    pair_turn(p);
}

/* ---- tests ----------------------------------------------------------------------------------------------- */

Test(set_protocol, the_next_bytes_go_to_the_new_protocol_and_neither_is_told)
{
    struct pair p;
    pair_is_given(&p, &recording);
    peer_send(&p, "one");
    pair_turn(&p);
    cr_assert(eq(int, rondo_set_protocol(p.t, &second), 0));
    cr_assert_eq(rondo_get_protocol(p.t), &second);
    struct second *self = rondo_self(p.t);
    cr_assert_eq(self->number, 0, "its state is zeroed");
    cr_assert_eq(rondo_transport_of(self), p.t);
    peer_send(&p, "two");
    pair_turn(&p);
    peer_shutdown(&p);
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM DR"));
    cr_assert(eq(str, second_calls, "data(two) eof lost"));
    end(&p);
}

static void replace(struct pair *p, rondo_bytes data)
{
    struct {
        struct pair *pair;
    } *before = rondo_self(p->t);
    (void)data;
    cr_assert_eq(rondo_set_protocol(p->t, &second), 0);
    cr_assert_eq(before->pair, p, "the old state lives until this returns");
    cr_assert_eq(rondo_transport_of(before), p->t);
    struct second *self = rondo_self(p->t);
    self->number = 42;
}

Test(set_protocol, from_inside_a_callback_the_old_state_lives_until_it_returns)
{
    struct pair p;
    pair_is_given(&p, &recording);
    p.on_data = replace;
    peer_send(&p, "one");
    pair_turn(&p);
    cr_assert_eq(((struct second *)rondo_self(p.t))->number, 42);
    peer_send(&p, "two");
    pair_turn(&p);
    cr_assert(eq(str, second_calls, "data(two) "));
    end(&p);
}

Test(set_protocol, a_buffered_protocol_is_asked_for_memory_and_one_that_is_not_gets_data)
{
    struct pair p;
    pair_is_given(&p, &recording);
    rondo_set_protocol(p.t, &second_buffered);
    pair_turn(&p);
    peer_send(&p, "12345");
    pair_turn(&p);
    peer_send(&p, "678");
    pair_turn(&p);
    cr_assert(eq(str, second_calls, "?updated(12345) ?updated(678) ?"));
    rondo_set_protocol(p.t, &second);
    pair_turn(&p);
    peer_send(&p, "data again");
    pair_turn(&p);
    cr_assert(eq(str, second_calls, "?updated(12345) ?updated(678) ?data(data again) "));
    end(&p);
}

/* Two connections hear something in the same turn; the first one's callback replaces the other one's protocol, into whose
 * memory the kernel has written by then. */
static struct pair other;
static const rondo_protocol *replacement;

static void replace_the_other_s(struct pair *p, rondo_bytes data)
{
    (void)p, (void)data;
    cr_assert(other.t->receive.in_kernel);
    cr_assert_eq(rondo_set_protocol(other.t, replacement), 0);
}

static void catch_bytes_in_old_memory(const rondo_protocol *protocol, const char *expected)
{
    struct pair p = { .on_data = replace_the_other_s };
    struct world world;
    world_open(&world, NULL);
    replacement = protocol;
    pair_open_in(&p, &world, &recording);
    pair_open_in(&other, &world, &recording_buffered);
    pair_turn(&p);
    peer_send(&p, "now");
    peer_send(&other, "twelve bytes");
    pair_turn(&p);
    cr_assert(eq(str, other.calls, "CM GB"));
    cr_assert(eq(str, second_calls, (char *)expected));
    pair_close(&p);
    end(&other);
    world_close(&world);
}

Test(set_protocol, bytes_that_the_kernel_put_into_the_old_protocol_s_memory_reach_the_new_one)
{
    catch_bytes_in_old_memory(&second, "data(twelve bytes) ");
}

Test(set_protocol, from_one_buffered_protocol_to_another_they_are_fed_piece_by_piece)
{
    catch_bytes_in_old_memory(&second_buffered, "!updated(twelv) !updated(e byt) !updated(es) ?");
}

Test(set_protocol, what_waits_while_reading_is_paused_goes_to_the_new_protocol)
{
    struct pair p;
    pair_is_given(&p, &recording);
    rondo_pause_reading(p.t);
    peer_send(&p, "held back");
    pair_turn(&p);
    rondo_set_protocol(p.t, &second_buffered);
    peer_send(&p, ", more");
    peer_shutdown(&p);
    pair_turn(&p);
    cr_assert(eq(str, second_calls, ""));
    rondo_resume_reading(p.t);
    pair_turn(&p);
    cr_assert_not_null(strstr(second_calls, "updated(held "));
    cr_assert_not_null(strstr(second_calls, "eof lost"));
    cr_assert(eq(str, p.calls, "CM"));
    end(&p);
}

Test(set_protocol, what_waits_in_the_old_protocol_s_own_memory_goes_to_the_new_one)
{
    struct pair p;
    pair_is_given(&p, &recording_buffered);
    rondo_pause_reading(p.t);
    peer_send(&p, "waits");
    pair_turn(&p);
    rondo_set_protocol(p.t, &second);
    memset(p.memory, 'x', sizeof p.memory); /* it is the old protocol's again */
    rondo_resume_reading(p.t);
    pair_turn(&p);
    cr_assert(eq(str, second_calls, "data(waits) "));
    end(&p);
}

Test(set_protocol, many_times_in_a_row_and_back)
{
    struct pair p;
    pair_is_given(&p, &recording);
    for (int i = 0; i < 100; i++) {
        cr_assert_eq(rondo_set_protocol(p.t, i % 2 == 0 ? &second_buffered : &second), 0);
        if (i % 3 == 0)
            pair_turn(&p);
    }
    peer_send(&p, "x");
    pair_turn(&p);
    cr_assert_not_null(strstr(second_calls, "data(x)"));
    end(&p);
}

Test(set_protocol, the_new_protocol_is_told_of_the_end_also_when_closing)
{
    struct pair p;
    pair_is_given(&p, &recording);
    rondo_close(p.t);
    cr_assert(eq(int, rondo_set_protocol(p.t, &second), 0));
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM"));
    cr_assert(eq(str, second_calls, "lost"));
    end(&p);
}

Test(set_protocol, an_abort_right_behind_it_frees_all)
{
    struct pair p;
    pair_is_given(&p, &recording_buffered);
    rondo_set_protocol(p.t, &second_buffered);
    rondo_set_protocol(p.t, &second);
    rondo_abort(p.t);
    pair_turn(&p);
    cr_assert(eq(str, second_calls, "lost"));
    end(&p);
}

/* ---- lines, then bytes ------------------------------------------------------------------------------------- */

static void upgrade(rondo_transport *t, rondo_bytes line)
{
    note("line(%.*s) ", line.data, line.size);
    if (line.size == 7)
        cr_assert_eq(rondo_set_protocol(t, &second), 0);
}

static const rondo_line_protocol upgrading = { RONDO_LINE_RECEIVER("upgrading", 0),
                                               .line_received = upgrade };

Test(set_protocol, what_a_line_receiver_has_not_used_goes_to_the_new_protocol)
{
    struct pair p;
    memset(&p, 0, sizeof p);
    pair_open(&p, &upgrading.protocol);
    pair_turn(&p);
    peer_send(&p, "hel");
    pair_turn(&p);
    peer_send(&p, "lo\nupgrade\nraw\nbytes");
    pair_turn(&p);
    cr_assert(eq(str, second_calls, "line(hello) line(upgrade) data(raw\nbytes) "));
    end(&p);
}

static rondo_transport *only_transport(const struct pair *p)
{
    return rondo_container_of(p->world->service.transports.next, rondo_transport, in_service);
}

Test(set_protocol, the_beginning_of_a_line_goes_to_the_new_protocol_before_what_comes_later)
{
    struct pair p;
    memset(&p, 0, sizeof p);
    pair_open(&p, &upgrading.protocol);
    pair_turn(&p);
    peer_send(&p, "one\ntw");
    pair_turn(&p);
    rondo_pause_reading(only_transport(&p));
    peer_send(&p, "o\n");
    pair_turn(&p);
    cr_assert_eq(rondo_set_protocol(only_transport(&p), &second), 0);
    rondo_resume_reading(only_transport(&p));
    pair_turn(&p);
    cr_assert(eq(str, second_calls, "line(one) data(tw) data(o\n) "));
    end(&p);
}

/* ---- errors that wait ------------------------------------------------------------------------------------- */

static void pause(struct pair *p, rondo_bytes data)
{
    (void)data;
    rondo_pause_reading(p->t);
}

Test(set_protocol, a_reset_behind_bytes_waits_until_reading_goes_on)
{
    struct pair p;
    pair_is_given(&p, &recording);
    p.on_data = pause;
    peer_send(&p, "one");
    peer_reset(&p);
    pair_turn(&p);
    cr_assert(eq(str, p.calls, "CM DR"), "paused: it hears of nothing");
    cr_assert_not(rondo_is_closing(p.t));
    p.on_data = NULL;
    rondo_resume_reading(p.t);
    pair_run_until_lost(&p);
    cr_assert(eq(int, p.lost_error, -ECONNRESET));
    pair_close(&p);
}

/* ---- extra info ------------------------------------------------------------------------------------------- */

static struct sockaddr_in name_of_peer_s_end(const struct pair *p)
{
    struct sockaddr_in name;
    cr_assert_eq(getsockname(p->peer, (struct sockaddr *)&name, &(socklen_t){ sizeof name }), 0);
    return name;
}

Test(extra_info, names_and_descriptor_and_shard)
{
    struct pair p;
    pair_is_given(&p, &recording);
    struct sockaddr_storage peername, sockname;
    struct sockaddr_in small, expected = name_of_peer_s_end(&p);
    int fd = -1;
    unsigned shard = 99;
    cr_assert_eq(rondo_get_extra_info(p.t, "peername", &peername, sizeof peername), 0);
    cr_assert_eq(memcmp(&peername, &expected, sizeof expected), 0);
    cr_assert_eq(rondo_get_extra_info(p.t, "peername", &small, sizeof small), 0);
    cr_assert_eq(memcmp(&small, &expected, sizeof expected), 0);
    cr_assert_eq(rondo_get_extra_info(p.t, "sockname", &sockname, sizeof sockname), 0);
    cr_assert_eq(getpeername(p.peer, (struct sockaddr *)&small, &(socklen_t){ sizeof small }), 0);
    cr_assert_eq(memcmp(&sockname, &small, sizeof small), 0);
    cr_assert_eq(rondo_get_extra_info(p.t, "socket", &fd, sizeof fd), 0);
    cr_assert_eq(fd, p.t->fd);
    cr_assert_eq(rondo_get_extra_info(p.t, "shard", &shard, sizeof shard), 0);
    cr_assert_eq(shard, 0);

    cr_assert_eq(rondo_get_extra_info(p.t, "cipher", &fd, sizeof fd), -ENOENT);
    cr_assert_eq(rondo_get_extra_info(p.t, "", &fd, sizeof fd), -ENOENT);
    cr_assert_eq(rondo_get_extra_info(p.t, "peername", &small, sizeof small - 1), -EINVAL);
    cr_assert_eq(rondo_get_extra_info(p.t, "socket", &fd, sizeof fd - 1), -EINVAL);
    pair_close(&p);
}

static struct sockaddr_in name_when_lost;

static void ask_who_it_was(struct pair *p)
{
    cr_assert_eq(rondo_get_extra_info(p->t, "peername", &name_when_lost, sizeof name_when_lost), 0);
}

Test(extra_info, the_peer_s_name_is_known_in_connection_lost_also_after_a_reset)
{
    struct pair p;
    pair_is_given(&p, &recording);
    struct sockaddr_in expected = name_of_peer_s_end(&p);
    p.on_lost = ask_who_it_was;
    peer_reset(&p);
    pair_run_until_lost(&p);
    cr_assert_eq(p.lost_error, -ECONNRESET);
    cr_assert_eq(memcmp(&name_when_lost, &expected, sizeof expected), 0);
    pair_close(&p);
}

Test(extra_info, a_unix_socket_has_a_family)
{
    struct pair p;
    struct sockaddr_storage name;
    memset(&p, 0, sizeof p);
    p.is_unix = true;
    pair_open(&p, &recording);
    cr_assert_eq(rondo_get_extra_info(p.t, "peername", &name, sizeof name), 0);
    cr_assert_eq(name.ss_family, AF_UNIX);
    pair_close(&p);
}
