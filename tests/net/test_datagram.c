/* The transport of datagrams on real sockets: the test turns the loop itself, and its peers are plain sockets. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/datagram.h"
#include "net/server.h"
#include "support/pair.h"
#include "support/turning.h"

TestSuite(datagram, .timeout = 60);

enum { ROOM = 2240 - 192 }; /* of the world's buffers, about */

static struct world world;
static rondo_transport *endpoint; /* NULL: lost */
static int peer = -1;             /* non-blocking */
static struct sockaddr_in our_name, peer_name;

/* ---- the protocol, and what it is told to do ------------------------------------------------------------- */

static char calls[4096];
static unsigned received, errors, lost, paused, resumed;
static int last_error, lost_error;
static char last_data[70000];
static size_t last_size;
static struct sockaddr_storage last_name;
static socklen_t last_name_size;
static bool echoes;
static void (*on_made)(rondo_transport *t);
static void (*on_received)(rondo_transport *t, rondo_bytes data, rondo_address address);
static void (*on_error)(rondo_transport *t, int error);

static void note(const char *call)
{
    if (strlen(calls) + strlen(call) + 2 < sizeof calls)
        strcat(strcat(calls, *calls != '\0' ? " " : ""), call);
}

static void connection_made(rondo_transport *t)
{
    note("CM");
    if (on_made != NULL)
        on_made(t);
}

static void datagram_received(rondo_transport *t, rondo_bytes data, rondo_address address)
{
    note("DR");
    received++;
    last_size = data.size;
    memcpy(last_data, data.data, data.size);
    last_name_size = address.name != NULL ? address.size : 0;
    if (address.name != NULL)
        memcpy(&last_name, address.name, address.size);
    if (echoes)
        rondo_sendto(t, data, address);
    if (on_received != NULL)
        on_received(t, data, address);
}

static void error_received(rondo_transport *t, int error)
{
    note("ER");
    errors++;
    last_error = error;
    if (on_error != NULL)
        on_error(t, error);
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
    if (t == endpoint)
        endpoint = NULL;
}

static const rondo_protocol plain = {
    .name = "plain",
    .connection_made = connection_made,
    .datagram_received = datagram_received,
    .error_received = error_received,
    .connection_lost = connection_lost,
};
static const rondo_protocol with_flow = {
    .name = "with flow",
    .connection_made = connection_made,
    .datagram_received = datagram_received,
    .error_received = error_received,
    .pause_writing = pause_writing,
    .resume_writing = resume_writing,
    .connection_lost = connection_lost,
};

/* ---- the world --------------------------------------------------------------------------------------------- */

static int udp_socket(struct sockaddr_in *name)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t size = sizeof *name;
    *name = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    cr_assert_eq(bind(fd, (struct sockaddr *)name, size), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)name, &size), 0);
    return fd;
}

static void open_world(void)
{
    world_open(&world, NULL);
    peer = udp_socket(&peer_name);
}

static void open_large_world(void)
{
    world_open(&world, &(struct engine_size){ 128, 256, 16, 4096, 0, 0, 64, 2240 });
    peer = udp_socket(&peer_name);
}

static bool is_free(void)
{
    return world.loop.users == 0;
}

static void close_world(void)
{
    if (endpoint != NULL)
        rondo_abort(endpoint);
    RUN_UNTIL(is_free());
    close(peer);
    world_close(&world);
}

#define WORLD .init = open_world, .fini = close_world

static void open_with(const rondo_datagram_options *options)
{
    cr_assert_eq(rondo_create_datagram_endpoint(&world.loop, options, &endpoint), 0);
    cr_assert(zero(str, calls), "nothing comes from inside the call");
    RUN_UNTIL(*calls != '\0');
    if (endpoint != NULL && !endpoint->is_unix)
        cr_assert_eq(rondo_get_extra_info(endpoint, "sockname", &our_name, sizeof our_name), 0);
}

static void open_at_loopback(const rondo_protocol *protocol)
{
    open_with(&(rondo_datagram_options){ .local_url = "udp://127.0.0.1:0", .protocol = protocol });
}

static const char *url_of(const struct sockaddr_in *name)
{
    static char url[RONDO_ADDRESS_TEXT_BYTES];
    rondo_format_address((rondo_address){ (const struct sockaddr *)name, sizeof *name }, url);
    return url;
}

static rondo_address to_peer(void)
{
    return (rondo_address){ (const struct sockaddr *)&peer_name, sizeof peer_name };
}

static void peer_sends(const void *data, size_t size)
{
    cr_assert_eq(sendto(peer, data, size, 0, (struct sockaddr *)&our_name, sizeof our_name), (ssize_t)size);
}

/* Returns its size; -1: there is none. */
static ssize_t peer_takes(char *data, size_t size)
{
    return recv(peer, data, size, 0);
}

static void run_until_peer_has(const char *data, size_t size)
{
    char got[70000];
    ssize_t got_size;
    RUN_UNTIL((got_size = peer_takes(got, sizeof got)) >= 0);
    cr_assert_eq(got_size, (ssize_t)size);
    cr_assert_arr_eq(got, data, size);
}

/* ---- receiving and answering --------------------------------------------------------------------------------- */

Test(datagram, what_comes_is_answered_from_where_it_lies, WORLD)
{
    echoes = true;
    open_at_loopback(&plain);
    for (unsigned i = 1; i <= 100; i++) {
        char data[ROOM];
        fill_pattern(data, sizeof data, i);
        peer_sends(data, i * 20);
        run_until_peer_has(data, i * 20);
    }
    cr_assert_eq(received, 100);
    cr_assert_eq(world.loop.traffic.bytes_copied, 0);
    cr_assert_eq(world.loop.traffic.bytes_in, world.loop.traffic.bytes_out);
    cr_assert_eq(((struct sockaddr_in *)&last_name)->sin_port, peer_name.sin_port);
}

Test(datagram, one_without_bytes_comes_and_goes_and_ends_nothing, WORLD)
{
    echoes = true;
    open_at_loopback(&plain);
    for (unsigned i = 0; i < 5; i++) {
        peer_sends("", 0);
        run_until_peer_has("", 0);
    }
    peer_sends("x", 1);
    run_until_peer_has("x", 1);
    cr_assert_eq(received, 6);
    cr_assert_eq(errors + lost, 0);
}

Test(datagram, many_at_once_are_answered_in_order, WORLD)
{
    echoes = true;
    open_at_loopback(&plain);
    for (unsigned i = 0; i < 100; i++)
        peer_sends(&(char){ (char)i }, 1);
    for (unsigned i = 0; i < 100; i++)
        run_until_peer_has(&(char){ (char)i }, 1);
}

Test(datagram, it_sends_to_whom_it_likes, WORLD)
{
    struct sockaddr_in other_name;
    int other = udp_socket(&other_name);
    char byte;
    open_at_loopback(&plain);
    rondo_sendto(endpoint, RONDO_BYTES("one"), to_peer());
    rondo_sendto(endpoint, RONDO_BYTES("2"),
                 (rondo_address){ (struct sockaddr *)&other_name, sizeof other_name });
    rondo_sendto(endpoint, RONDO_BYTES("three"), to_peer());
    run_until_peer_has("one", 3);
    run_until_peer_has("three", 5);
    cr_assert_eq(recv(other, &byte, 1, 0), 1);
    cr_assert_eq(byte, '2');
    cr_assert_eq(world.loop.traffic.bytes_copied, 9);
    close(other);
}

Test(datagram, bytes_and_address_are_the_callers_again_at_once, WORLD)
{
    char data[] = "original";
    struct sockaddr_in name;
    open_at_loopback(&plain);
    name = peer_name;
    rondo_sendto(endpoint, (rondo_bytes){ data, 8 },
                 (rondo_address){ (struct sockaddr *)&name, sizeof name });
    memset(data, 'x', sizeof data);
    memset(&name, 0xff, sizeof name);
    run_until_peer_has("original", 8);
}

/* As trains, if they are large, and the same. */
static void many_arrive(size_t size, size_t last_size)
{
    static char data[64][1600];
    open_at_loopback(&plain);
    for (unsigned i = 0; i < 64; i++) {
        fill_pattern(data[i], sizeof data[i], i);
        rondo_sendto(endpoint, (rondo_bytes){ data[i], i % 16 == 15 ? last_size : size }, to_peer());
    }
    for (unsigned i = 0; i < 64; i++)
        run_until_peer_has(data[i], i % 16 == 15 ? last_size : size);
    RUN_UNTIL(rondo_get_write_buffer_size(endpoint) == 0);
    cr_assert_eq(errors, 0);
    cr_assert_eq(world.loop.traffic.bytes_out, 60 * size + 4 * last_size);
}

Test(datagram, many_large_ones_arrive_each_by_itself_and_in_order, WORLD)
{
    many_arrive(1200, 1200);
}

Test(datagram, many_of_different_sizes_arrive_so, WORLD)
{
    many_arrive(1472, 1300);
}

Test(datagram, many_that_are_longer_than_a_packet_arrive_so, WORLD)
{
    many_arrive(1500, 1473);
}

Test(datagram, trains_are_for_each_peer, WORLD)
{
    static char data[1100];
    struct sockaddr_in other_name;
    int other = udp_socket(&other_name);
    rondo_address to_other = { (struct sockaddr *)&other_name, sizeof other_name };
    open_at_loopback(&plain);
    for (unsigned i = 0; i < 24; i++) {
        data[0] = (char)i;
        rondo_sendto(endpoint, (rondo_bytes){ data, sizeof data }, i / 8 % 2 == 0 ? to_peer() : to_other);
    }
    for (unsigned i = 0; i < 24; i++) {
        char got[1200];
        ssize_t size;
        RUN_UNTIL((size = recv(i / 8 % 2 == 0 ? peer : other, got, sizeof got, 0)) >= 0);
        cr_assert_eq(size, 1100);
        cr_assert_eq(got[0], (char)i);
    }
    close(other);
}

Test(datagram, of_a_train_that_fails_one_is_told_and_the_others_are_tried, WORLD)
{
    static char data[1100];
    struct sockaddr_in name;
    int gone = udp_socket(&name);
    close(gone);
    open_with(&(rondo_datagram_options){ .remote_url = url_of(&name), .protocol = &plain });
    for (unsigned i = 0; i < 30; i++)
        rondo_sendto(endpoint, (rondo_bytes){ data, sizeof data }, (rondo_address){ 0 });
    RUN_UNTIL(errors > 0 && rondo_get_write_buffer_size(endpoint) == 0);
    cr_assert_eq(last_error, -ECONNREFUSED);
    for (unsigned i = 0; i < 30; i++)
        rondo_sendto(endpoint, (rondo_bytes){ data, sizeof data }, (rondo_address){ 0 });
    rondo_close(endpoint);
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, 0);
}

Test(datagram, where_there_are_no_trains_each_leaves_by_itself, WORLD)
{
    static char data[1100];
    int on = 1;
    open_at_loopback(&plain);
    cr_assert_eq(setsockopt(endpoint->fd, SOL_SOCKET, SO_NO_CHECK, &on, sizeof on),
                 0); /* the kernel has none then */
    for (unsigned i = 0; i < 40; i++) {
        data[0] = (char)i;
        rondo_sendto(endpoint, (rondo_bytes){ data, sizeof data }, to_peer());
    }
    for (unsigned i = 0; i < 40; i++) {
        data[0] = (char)i;
        run_until_peer_has(data, sizeof data);
    }
    cr_assert_eq(errors, 0);
}

Test(datagram, a_train_may_be_aborted, WORLD)
{
    static char data[1100];
    open_at_loopback(&plain);
    for (unsigned i = 0; i < 100; i++)
        rondo_sendto(endpoint, (rondo_bytes){ data, sizeof data }, to_peer());
    rondo_abort(endpoint);
    RUN_UNTIL(lost == 1);
}

Test(datagram, an_abort_waits_for_what_the_kernel_has_when_nothing_is_received, WORLD)
{
    static char data[1100];
    open_at_loopback(&plain);
    rondo_pause_reading(endpoint);
    turn_some(&world);
    for (unsigned i = 0; i < 100; i++)
        rondo_sendto(endpoint, (rondo_bytes){ data, i % 50 < 25 ? sizeof data : 1 }, to_peer());
    rondo_abort(endpoint);
    RUN_UNTIL(lost == 1);
}

Test(datagram, an_error_takes_one_of_a_train, WORLD)
{
    static char data[1100];
    open_with(&(rondo_datagram_options){ .remote_url = url_of(&peer_name), .protocol = &plain });
    rondo_pause_reading(endpoint); /* so that the refusal stays for who sends next */
    turn_some(&world);
    close(peer);
    rondo_sendto(endpoint, RONDO_BYTES("?"), (rondo_address){ 0 });
    RUN_UNTIL(rondo_get_write_buffer_size(endpoint) == 0);
    peer = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    cr_assert_eq(bind(peer, (struct sockaddr *)&peer_name, sizeof peer_name), 0);
    for (unsigned i = 0; i < 8; i++) {
        data[0] = (char)i;
        rondo_sendto(endpoint, (rondo_bytes){ data, sizeof data }, (rondo_address){ 0 });
    }
    for (unsigned i = 1; i < 8; i++) {
        data[0] = (char)i;
        run_until_peer_has(data, sizeof data);
    }
    cr_assert_eq(errors, 1);
    cr_assert_eq(last_error, -ECONNREFUSED);
}

Test(datagram, an_echo_of_many_is_a_train_of_lent_ones, WORLD)
{
    static char data[1400];
    echoes = true;
    open_at_loopback(&plain);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 8; i++) {
            data[0] = (char)i;
            peer_sends(data, sizeof data);
        }
        for (unsigned i = 0; i < 8; i++) {
            data[0] = (char)i;
            run_until_peer_has(data, sizeof data);
        }
    }
    cr_assert_eq(world.loop.traffic.bytes_copied, 0);
}

/* ---- connected ------------------------------------------------------------------------------------------------ */

Test(datagram, a_connected_one_needs_no_address_and_hears_nobody_else, WORLD)
{
    struct sockaddr_in other_name;
    int other = udp_socket(&other_name);
    open_with(&(rondo_datagram_options){ .remote_url = url_of(&peer_name), .protocol = &plain });
    rondo_sendto(endpoint, RONDO_BYTES("a"), (rondo_address){ 0 });
    rondo_sendto(endpoint, RONDO_BYTES("b"), to_peer());
    rondo_sendto(endpoint, RONDO_BYTES("c"),
                 (rondo_address){ (struct sockaddr *)&other_name, sizeof other_name });
    run_until_peer_has("a", 1);
    run_until_peer_has("b", 1);
    turn_some(&world);
    char byte;
    cr_assert_eq(recv(other, &byte, 1, 0), -1, "it is dropped");
    cr_assert_eq(peer_takes(&byte, 1), -1, "and goes nowhere else");
    cr_assert_eq(sendto(other, "?", 1, 0, (struct sockaddr *)&our_name, sizeof our_name), 1);
    peer_sends("d", 1);
    RUN_UNTIL(received == 1);
    cr_assert_eq(*last_data, 'd');
    struct sockaddr_in remote;
    cr_assert_eq(rondo_get_extra_info(endpoint, "peername", &remote, sizeof remote), 0);
    cr_assert_eq(remote.sin_port, peer_name.sin_port);
    close(other);
}

Test(datagram, a_refusal_by_its_host_is_told_and_it_lives_on, WORLD)
{
    struct sockaddr_in name;
    int gone = udp_socket(&name);
    close(gone);
    open_with(&(rondo_datagram_options){ .remote_url = url_of(&name), .protocol = &plain });
    for (unsigned i = 1; i <= 3; i++) {
        rondo_sendto(endpoint, RONDO_BYTES("?"), (rondo_address){ 0 });
        RUN_UNTIL(errors >= i);
        cr_assert_eq(last_error, -ECONNREFUSED);
    }
    cr_assert_eq(lost, 0);
    close(peer);
    peer = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    cr_assert_eq(bind(peer, (struct sockaddr *)&name, sizeof name), 0);
    rondo_sendto(endpoint, RONDO_BYTES("!"), (rondo_address){ 0 });
    run_until_peer_has("!", 1);
    peer_sends("here", 4);
    RUN_UNTIL(received == 1);
}

Test(datagram, with_allow_broadcast_a_remote_url_is_only_where_it_goes_by_itself, WORLD)
{
    struct sockaddr_in other_name;
    int other = udp_socket(&other_name);
    open_with(&(rondo_datagram_options){
        .remote_url = url_of(&peer_name), .protocol = &plain, .allow_broadcast = true });
    rondo_sendto(endpoint, RONDO_BYTES("a"), (rondo_address){ 0 });
    run_until_peer_has("a", 1);
    cr_assert_eq(rondo_get_extra_info(endpoint, "sockname", &our_name, sizeof our_name), 0);
    our_name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert_eq(sendto(other, "?", 1, 0, (struct sockaddr *)&our_name, sizeof our_name), 1);
    RUN_UNTIL(received == 1);
    int on = 0;
    cr_assert_eq(getsockopt(endpoint->fd, SOL_SOCKET, SO_BROADCAST, &on, &(socklen_t){ sizeof on }), 0);
    cr_assert_eq(on, 1);
    close(other);
}

/* ---- what goes wrong ------------------------------------------------------------------------------------------- */

Test(datagram, what_cant_be_sent_is_told_and_what_follows_is_sent, WORLD)
{
    static char data[66000];
    open_at_loopback(&plain);
    rondo_sendto(endpoint, (rondo_bytes){ data, sizeof data }, to_peer());
    rondo_sendto(endpoint, RONDO_BYTES("no address"), (rondo_address){ 0 });
    rondo_sendto(endpoint, RONDO_BYTES("fine"), to_peer());
    run_until_peer_has("fine", 4);
    RUN_UNTIL(errors == 2);
    cr_assert_eq(last_error, -EDESTADDRREQ);
    cr_assert_eq(rondo_get_write_buffer_size(endpoint), 0);
    cr_assert_eq(lost, 0);
}

Test(datagram, a_broadcast_that_was_not_allowed_is_refused, WORLD)
{
    struct sockaddr_in all = { .sin_family = AF_INET,
                               .sin_port = htons(9),
                               .sin_addr.s_addr = INADDR_BROADCAST };
    open_at_loopback(&plain);
    rondo_sendto(endpoint, RONDO_BYTES("?"), (rondo_address){ (struct sockaddr *)&all, sizeof all });
    RUN_UNTIL(errors == 1);
    cr_assert_eq(last_error, -EACCES);
}

Test(datagram, one_longer_than_a_buffer_is_reported_and_dropped, WORLD)
{
    static char data[ROOM + 500];
    open_at_loopback(&plain);
    peer_sends(data, sizeof data);
    RUN_UNTIL(errors == 1);
    cr_assert_eq(last_error, -EMSGSIZE);
    peer_sends("next", 4);
    RUN_UNTIL(received == 1);
    cr_assert_eq(last_size, 4);
}

static const char *const wrong_urls[] = {
    "tcp://127.0.0.1:7", "unix:///tmp/x", "fd://3",       "udp://example.org:7",
    "udp://127.0.0.1",   "nonsense",      "unixgram://x",
};

Test(datagram, options_that_make_no_sense_are_refused, WORLD)
{
    for (unsigned i = 0; i < sizeof wrong_urls / sizeof *wrong_urls; i++) {
        rondo_datagram_options local = { .local_url = wrong_urls[i], .protocol = &plain };
        rondo_datagram_options remote = { .remote_url = wrong_urls[i], .protocol = &plain };
        cr_assert_eq(rondo_create_datagram_endpoint(&world.loop, &local, NULL), -EINVAL, "%s", wrong_urls[i]);
        cr_assert_eq(rondo_create_datagram_endpoint(&world.loop, &remote, NULL), -EINVAL, "%s",
                     wrong_urls[i]);
    }
    rondo_datagram_options none = { .protocol = &plain }, nobody = { .local_url = "udp://127.0.0.1:0" };
    cr_assert_eq(rondo_create_datagram_endpoint(&world.loop, &none, NULL), -EINVAL);
    cr_assert_eq(rondo_create_datagram_endpoint(&world.loop, &nobody, NULL), -EINVAL);
    rondo_datagram_options taken = { .local_url = url_of(&peer_name), .protocol = &plain };
    cr_assert_eq(rondo_create_datagram_endpoint(&world.loop, &taken, NULL), -EADDRINUSE);
    rondo_datagram_options mixed = { .local_url = "udp://[::1]:0",
                                     .remote_url = "udp://127.0.0.1:9",
                                     .protocol = &plain };
    cr_assert_eq(rondo_create_datagram_endpoint(&world.loop, &mixed, NULL), -EINVAL);
    cr_assert_eq(world.loop.users, 0);
}

Test(datagram, of_localhost_the_end_is_taken_that_goes_with_the_other, WORLD)
{
    open_with(&(rondo_datagram_options){
        .local_url = "udp://localhost:0", .remote_url = url_of(&peer_name), .protocol = &plain });
    rondo_sendto(endpoint, RONDO_BYTES("x"), (rondo_address){ 0 });
    run_until_peer_has("x", 1);
}

Test(datagram, what_is_for_streams_does_nothing, WORLD)
{
    open_at_loopback(&plain);
    rondo_write(endpoint, RONDO_BYTES("x"));
    rondo_write_static(endpoint, RONDO_BYTES("x"));
    rondo_writelines(endpoint, &(rondo_bytes){ "x", 1 }, 1);
    rondo_write_eof(endpoint);
    cr_assert_not(rondo_can_write_eof(endpoint));
    cr_assert_eq(rondo_sendfile(endpoint, 0, 0, 1, NULL), -ENOTSUP);
    cr_assert_eq(rondo_send_file_descriptor(endpoint, 0), -ENOTSUP);
    turn_some(&world);
    rondo_sendto(endpoint, RONDO_BYTES("x"), to_peer());
    run_until_peer_has("x", 1);
    cr_assert_eq(lost, 0);
}

/* ---- flow control ------------------------------------------------------------------------------------------------ */

Test(datagram, unsent_ones_count_with_their_headers_and_pause_and_resume, WORLD)
{
    static char data[1000];
    open_at_loopback(&with_flow);
    cr_assert_eq(rondo_set_write_buffer_limits(endpoint, 2100, 500), 0);
    rondo_sendto(endpoint, (rondo_bytes){ data, 1000 }, to_peer());
    cr_assert_eq(rondo_get_write_buffer_size(endpoint), 1008);
    rondo_sendto(endpoint, (rondo_bytes){ data, 1000 }, to_peer());
    cr_assert_eq(paused, 0, "not above it");
    rondo_sendto(endpoint, RONDO_BYTES(""), to_peer());
    cr_assert_eq(rondo_get_write_buffer_size(endpoint), 2024);
    rondo_sendto(endpoint, (rondo_bytes){ data, 100 }, to_peer());
    cr_assert_eq(paused, 1);
    rondo_sendto(endpoint, (rondo_bytes){ data, 100 }, to_peer());
    cr_assert_eq(paused, 1, "once");
    RUN_UNTIL(resumed == 1);
    cr_assert_eq(rondo_get_write_buffer_size(endpoint), 0);
    cr_assert_eq(paused, 1);
    for (unsigned i = 0; i < 5; i++)
        cr_assert_geq(peer_takes(data, sizeof data), 0);
}

Test(datagram, while_receiving_is_paused_they_wait_in_order, WORLD)
{
    open_at_loopback(&plain);
    for (unsigned i = 0; i < 3; i++)
        peer_sends(&(char){ (char)('a' + i) }, 1);
    turn_for(&world, 0);
    rondo_pause_reading(endpoint);
    cr_assert_not(rondo_is_reading(endpoint));
    turn_some(&world);
    unsigned before = received;
    uint64_t bytes_before = world.loop.traffic.bytes_in;
    for (unsigned i = 3; i < 20; i++)
        peer_sends(&(char){ (char)('a' + i) }, 1);
    turn_some(&world);
    cr_assert_eq(received, before);
    cr_assert_eq(world.loop.traffic.bytes_in, bytes_before, "they wait in the kernel");
    cr_assert_leq(world.loop.engine->datagrams.lent, 8);
    rondo_resume_reading(endpoint);
    RUN_UNTIL(received == 20);
    cr_assert_eq(*last_data, 'a' + 19);
}

static char order[64];
static unsigned ordered;

static void pause_at_the_first(rondo_transport *t, rondo_bytes data, rondo_address address)
{
    (void)address;
    if (t != endpoint) {
        rondo_resume_reading(endpoint);
        return;
    }
    order[ordered++] = *(const char *)data.data;
    if (received == 1)
        rondo_pause_reading(t);
}

/* An engine takes some at a time from each: what it has taken after the pause is held, when the rest comes. */
Test(datagram, what_is_held_is_delivered_before_what_comes_after, .init = open_large_world,
     .fini = close_world)
{
    rondo_transport *other;
    struct sockaddr_in other_name;
    on_received = pause_at_the_first;
    open_at_loopback(&plain);
    const rondo_datagram_options options = { .local_url = "udp://127.0.0.1:0", .protocol = &plain };
    cr_assert_eq(rondo_create_datagram_endpoint(&world.loop, &options, &other), 0);
    turn_some(&world);
    cr_assert_eq(rondo_get_extra_info(other, "sockname", &other_name, sizeof other_name), 0);
    for (unsigned i = 0; i < 48; i++) {
        peer_sends(&(char){ (char)i }, 1);
        if (i == 20)
            cr_assert_eq(sendto(peer, "x", 1, 0, (const struct sockaddr *)&other_name, sizeof other_name), 1);
    }
    RUN_UNTIL(received == 49);
    for (unsigned i = 0; i < 48; i++)
        cr_assert_eq(order[i], (char)i, "%u", i);
    rondo_abort(other);
}

/* ---- Unix sockets ------------------------------------------------------------------------------------------------ */

static char folder[] = "/tmp/rondo-test-datagram-XXXXXX";
static char path[128], url[160];

static void open_folder(void)
{
    open_world();
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/socket", folder);
    snprintf(url, sizeof url, "unixgram://%s?mode=0620", path);
}

static void close_folder(void)
{
    close_world();
    unlink(path);
    cr_assert_eq(rmdir(folder), 0, "the socket's file is gone");
}

#define FOLDER .init = open_folder, .fini = close_folder

static struct sockaddr_un name_of(const char *at)
{
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    snprintf(name.sun_path, sizeof name.sun_path, "%s", at);
    return name;
}

static int unix_socket(const char *at)
{
    struct sockaddr_un name = name_of(at);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&name, sizeof name), 0);
    return fd;
}

Test(datagram, a_unix_endpoint_has_a_file_as_long_as_it_lives, FOLDER)
{
    struct sockaddr_un ours = name_of(path);
    struct stat file;
    echoes = true;
    open_with(&(rondo_datagram_options){ .local_url = url, .protocol = &plain });
    cr_assert_eq(stat(path, &file), 0);
    cr_assert_eq(file.st_mode & 0777, 0620);
    char at[128], byte;
    snprintf(at, sizeof at, "%s/peer", folder);
    int other = unix_socket(at);
    cr_assert_eq(sendto(other, "x", 1, 0, (struct sockaddr *)&ours, sizeof ours), 1);
    RUN_UNTIL(recv(other, &byte, 1, 0) == 1);
    cr_assert_eq(((struct sockaddr_un *)&last_name)->sun_family, AF_UNIX);
    cr_assert_eq(strcmp(((struct sockaddr_un *)&last_name)->sun_path, at), 0);
    int nameless = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(sendto(nameless, "y", 1, 0, (struct sockaddr *)&ours, sizeof ours), 1);
    RUN_UNTIL(received == 2);
    cr_assert_eq(last_name_size, 0);
    RUN_UNTIL(errors == 1); /* there is nobody to answer to */
    cr_assert(last_error == -ENOTCONN || last_error == -EDESTADDRREQ);
    rondo_close(endpoint);
    RUN_UNTIL(lost == 1);
    cr_assert_eq(access(path, F_OK), -1);
    close(other);
    close(nameless);
    unlink(at);
}

Test(datagram, a_unix_peer_that_does_not_read_gets_all_in_order_and_keeps_no_buffer, FOLDER)
{
    char at[128];
    snprintf(at, sizeof at, "%s/peer", folder);
    int other = unix_socket(at);
    struct sockaddr_un ours = name_of(path);
    echoes = true;
    open_with(&(rondo_datagram_options){ .local_url = url, .protocol = &with_flow });
    unsigned sent = 0, got = 0;
    for (uint64_t begin_ms = turning_clock_ms(); sent < 300;
         turn_for(&world, 0)) { /* its queue is full long before that */
        cr_assert_lt(turning_clock_ms() - begin_ms, 10000);
        uint32_t number = sent;
        if (sendto(other, &number, sizeof number, 0, (struct sockaddr *)&ours, sizeof ours) > 0)
            sent++;
    }
    RUN_UNTIL(received == 300);
    turn_some(&world);
    cr_assert_gt(rondo_get_write_buffer_size(endpoint), 0);
    cr_assert_eq(world.loop.engine->datagrams.lent, 0, "others can be received");
    for (uint64_t begin_ms = turning_clock_ms(); got < 300; turn_for(&world, 1)) {
        uint32_t number;
        cr_assert_lt(turning_clock_ms() - begin_ms, 10000, "%u", got);
        while (recv(other, &number, sizeof number, 0) == sizeof number)
            cr_assert_eq(number, got++);
    }
    RUN_UNTIL(rondo_get_write_buffer_size(endpoint) == 0);
    close(other);
    unlink(at);
}

Test(datagram, a_unix_peer_that_does_not_read_is_looked_at_now_and_then, FOLDER)
{
    char at[128];
    snprintf(at, sizeof at, "%s/peer", folder);
    int other = unix_socket(at);
    struct sockaddr_un theirs = name_of(at);
    open_with(&(rondo_datagram_options){ .local_url = url, .protocol = &plain });
    for (unsigned i = 0; i < 600; i++)
        rondo_sendto(endpoint, RONDO_BYTES("x"),
                     (rondo_address){ (struct sockaddr *)&theirs, sizeof theirs });
    turn_some(&world);
    uint64_t begin_ms = turning_clock_ms(), turns = world.loop.turns;
    while (turning_clock_ms() - begin_ms < 100)
        turn_for(&world, 1000);
    cr_assert_gt(rondo_get_write_buffer_size(endpoint), 0);
    cr_assert_lt(world.loop.turns - turns, 200, "it does not spin");
    close(other);
    unlink(at);
}

Test(datagram, closing_waits_for_the_unix_peer_and_aborting_does_not, FOLDER)
{
    char at[128], data[64];
    snprintf(at, sizeof at, "%s/peer", folder);
    int other = unix_socket(at);
    struct sockaddr_un theirs = name_of(at);
    rondo_address address = { (struct sockaddr *)&theirs, sizeof theirs };
    open_with(&(rondo_datagram_options){ .local_url = url, .protocol = &plain });
    for (unsigned i = 0; i < 600; i++)
        rondo_sendto(endpoint, RONDO_BYTES("x"), address);
    rondo_close(endpoint);
    rondo_sendto(endpoint, RONDO_BYTES("too late"), address);
    turn_some(&world);
    cr_assert_eq(lost, 0);
    for (unsigned got = 0; got < 600; turn_for(&world, 1)) {
        while (recv(other, data, sizeof data, 0) > 0)
            got++;
    }
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, 0);
    cr_assert_eq(recv(other, data, sizeof data, 0), -1);
    *calls = '\0';
    open_with(&(rondo_datagram_options){ .local_url = url, .protocol = &plain });
    for (unsigned i = 0; i < 600; i++)
        rondo_sendto(endpoint, RONDO_BYTES("x"), address);
    turn_some(&world);
    rondo_abort(endpoint);
    cr_assert_eq(lost, 1);
    RUN_UNTIL(lost == 2);
    cr_assert_eq(lost_error, 0);
    close(other);
    unlink(at);
}

/* ---- ends --------------------------------------------------------------------------------------------------------- */

Test(datagram, closing_sends_what_is_queued_and_receives_no_more, WORLD)
{
    open_at_loopback(&plain);
    peer_sends("ignored", 7);
    for (unsigned i = 0; i < 30; i++)
        rondo_sendto(endpoint, RONDO_BYTES("last"), to_peer());
    rondo_close(endpoint);
    rondo_close(endpoint);
    cr_assert(rondo_is_closing(endpoint));
    cr_assert_eq(lost, 0, "from the loop");
    RUN_UNTIL(lost == 1);
    cr_assert_eq(lost_error, 0);
    for (unsigned i = 0; i < 30; i++)
        run_until_peer_has("last", 4);
    cr_assert_eq(received, 0);
    cr_assert(eq(str, calls, "CM CL"));
}

static void close_it(rondo_transport *t, rondo_bytes data, rondo_address address)
{
    rondo_sendto(t, data, address);
    rondo_close(t);
}

Test(datagram, it_may_be_closed_by_what_it_receives, WORLD)
{
    on_received = close_it;
    open_at_loopback(&plain);
    for (unsigned i = 0; i < 10; i++)
        peer_sends("x", 1);
    RUN_UNTIL(lost == 1);
    cr_assert_eq(received, 1);
    run_until_peer_has("x", 1);
}

static void abort_it(rondo_transport *t, int error)
{
    (void)error;
    rondo_abort(t);
}

Test(datagram, it_may_be_aborted_by_an_error, WORLD)
{
    on_error = abort_it;
    open_at_loopback(&plain);
    for (unsigned i = 0; i < 10; i++)
        rondo_sendto(endpoint, RONDO_BYTES("?"), (rondo_address){ 0 });
    RUN_UNTIL(lost == 1);
    cr_assert(eq(str, calls, "CM ER CL"));
}

Test(datagram, it_may_be_closed_before_it_was_made, WORLD)
{
    cr_assert_eq(rondo_create_datagram_endpoint(
                     &world.loop,
                     &(rondo_datagram_options){ .local_url = "udp://127.0.0.1:0", .protocol = &plain },
                     &endpoint),
                 0);
    rondo_close(endpoint);
    RUN_UNTIL(lost == 1);
    cr_assert(eq(str, calls, "CM CL"));
}

Test(datagram, another_protocol_gets_the_next_one, WORLD)
{
    open_at_loopback(&plain);
    peer_sends("x", 1);
    RUN_UNTIL(received == 1);
    cr_assert_eq(rondo_set_protocol(endpoint, &with_flow), 0);
    peer_sends("y", 1);
    RUN_UNTIL(received == 2);
    cr_assert_eq(rondo_get_protocol(endpoint), &with_flow);
}

/* ---- a server's ---------------------------------------------------------------------------------------------------- */

static rondo_server *server;
static unsigned closed;

static void server_closed(rondo_call *call)
{
    (void)call;
    closed++;
}

static void remember(rondo_transport *t)
{
    endpoint = t;
    cr_assert_not_null(rondo_get_server(t));
    cr_assert_eq(rondo_get_extra_info(t, "sockname", &our_name, sizeof our_name), 0);
}

static void serve(void)
{
    on_made = remember;
    echoes = true;
    const rondo_server_options options = { .url = "udp://127.0.0.1:0", .protocol = &plain };
    cr_assert_eq(rondo_create_server(&world.loop, &options, &server), 0);
    RUN_UNTIL(endpoint != NULL);
    cr_assert(rondo_server_is_serving(server));
    cr_assert_eq(strncmp(rondo_server_url(server, 0), "udp://127.0.0.1:", 16), 0);
}

Test(datagram, a_server_serves_udp_until_it_is_closed, WORLD)
{
    static rondo_call call;
    serve();
    peer_sends("x", 1);
    run_until_peer_has("x", 1);
    rondo_server_wait_closed(server, &call, server_closed);
    turn_some(&world);
    cr_assert_eq(closed, 0);
    rondo_server_close(server);
    RUN_UNTIL(closed == 1);
    cr_assert_eq(lost, 1);
}

Test(datagram, a_server_whose_endpoint_has_ended_can_still_be_closed, WORLD)
{
    static rondo_call call;
    serve();
    rondo_abort(endpoint);
    RUN_UNTIL(lost == 1);
    rondo_server_wait_closed(server, &call, server_closed);
    rondo_server_close(server);
    RUN_UNTIL(closed == 1);
}

Test(datagram, a_draining_server_answers_what_had_arrived_and_ends, WORLD)
{
    serve();
    world.loop.users++; /* as a shard's */
    for (unsigned i = 0; i < 50; i++)
        peer_sends(&(char){ (char)i }, 1);
    service_hooks.drain(&world.loop);
    world.loop.users--;
    RUN_UNTIL(lost == 1);
    for (unsigned i = 0; i < 50; i++)
        run_until_peer_has(&(char){ (char)i }, 1);
    cr_assert_eq(lost_error, 0);
    RUN_UNTIL(world.loop.users == 0);
    cr_assert_eq(rondo_create_datagram_endpoint(
                     &world.loop,
                     &(rondo_datagram_options){ .local_url = "udp://127.0.0.1:0", .protocol = &plain }, NULL),
                 -ESHUTDOWN);
}

Test(datagram, a_draining_server_ends_although_more_keep_coming, WORLD)
{
    serve();
    peer_sends("x", 1);
    service_hooks.drain(&world.loop);
    for (uint64_t begin_ms = turning_clock_ms(); lost == 0; turn_for(&world, 0)) {
        cr_assert_lt(turning_clock_ms() - begin_ms, 10000);
        for (unsigned i = 0; i < 5; i++)
            sendto(peer, "x", 1, 0, (struct sockaddr *)&our_name, sizeof our_name);
    }
}

Test(datagram, its_endpoint_is_no_client, WORLD)
{
    serve();
    rondo_server_close_clients(server);
    rondo_server_abort_clients(server);
    turn_some(&world);
    cr_assert_eq(lost, 0);
    cr_assert_null(rondo_get_connector(endpoint));
    rondo_server_close(server);
    RUN_UNTIL(lost == 1);
}

static const rondo_protocol of_streams = { .name = "of streams", .data_received = rondo_write };

static const rondo_protocol *build_of_streams(rondo_server *of, const struct sockaddr *address)
{
    (void)of;
    cr_assert_eq(address->sa_family, AF_UNSPEC);
    return &of_streams;
}

static const rondo_protocol *build_plain(rondo_server *of, const struct sockaddr *address)
{
    (void)of;
    (void)address;
    return &plain;
}

Test(datagram, a_server_without_anybody_to_take_them_is_refused, WORLD)
{
    static const char *const more[] = { "udp://127.0.0.1:0", NULL };
    rondo_server_options options = { .url = "udp://127.0.0.1:0", .protocol = &of_streams };
    cr_assert_eq(rondo_create_server(&world.loop, &options, &server), -EINVAL);
    options =
        (rondo_server_options){ .url = "tcp://127.0.0.1:0", .more_urls = more, .protocol = &of_streams };
    cr_assert_eq(rondo_create_server(&world.loop, &options, &server), -EINVAL);
    options = (rondo_server_options){ .url = "udp://127.0.0.1:0", .build_protocol = build_of_streams };
    cr_assert_eq(rondo_create_server(&world.loop, &options, &server), -EINVAL);
    RUN_UNTIL(world.loop.users == 0);
    on_made = remember;
    options = (rondo_server_options){ .url = "tcp://127.0.0.1:0",
                                      .more_urls = more,
                                      .build_protocol = build_plain };
    cr_assert_eq(rondo_create_server(&world.loop, &options, &server), 0);
    RUN_UNTIL(endpoint != NULL);
    peer_sends("x", 1);
    RUN_UNTIL(received == 1);
    rondo_server_close(server);
    RUN_UNTIL(lost == 1);
}

static void pause_it(rondo_transport *t)
{
    remember(t);
    rondo_pause_reading(t);
}

Test(datagram, a_drain_while_receiving_is_paused_waits_without_haste, WORLD)
{
    echoes = false;
    on_made = pause_it;
    const rondo_server_options options = { .url = "udp://127.0.0.1:0", .protocol = &plain };
    cr_assert_eq(rondo_create_server(&world.loop, &options, &server), 0);
    RUN_UNTIL(endpoint != NULL);
    peer_sends("held", 4);
    service_hooks.drain(&world.loop);
    uint64_t begin_ms = turning_clock_ms(), turns = world.loop.turns;
    while (turning_clock_ms() - begin_ms < 50)
        turn_for(&world, 10);
    cr_assert_eq(lost, 0);
    cr_assert_lt(world.loop.turns - turns, 200, "it does not spin");
    rondo_resume_reading(endpoint);
    RUN_UNTIL(lost == 1);
    cr_assert_eq(received, 1);
}

static void pause_at_once(rondo_transport *t, rondo_bytes data, rondo_address address)
{
    (void)data;
    (void)address;
    if (received == 1)
        rondo_pause_reading(t);
}

Test(datagram, a_drain_waits_for_what_is_held, WORLD)
{
    serve();
    on_received = pause_at_once;
    for (unsigned i = 0; i < 4; i++)
        peer_sends("x", 1);
    RUN_UNTIL(received == 1);
    turn_some(&world);
    service_hooks.drain(&world.loop);
    for (uint64_t begin_ms = turning_clock_ms(); turning_clock_ms() - begin_ms < 30;)
        turn_for(&world, 5);
    cr_assert_eq(lost, 0);
    rondo_resume_reading(endpoint);
    RUN_UNTIL(lost == 1);
    cr_assert_eq(received, 4);
}

/* ---- multicast ------------------------------------------------------------------------------------------------------ */

static int option_of(int level, int option)
{
    int value = -1;
    cr_assert_eq(getsockopt(endpoint->fd, level, option, &value, &(socklen_t){ sizeof value }), 0);
    return value;
}

Test(datagram, what_is_sent_to_a_group_comes_to_who_has_joined, WORLD)
{
    open_with(&(rondo_datagram_options){ .local_url = "udp://0.0.0.0:0", .protocol = &plain });
    struct sockaddr_in group = { .sin_family = AF_INET, .sin_port = our_name.sin_port };
    inet_pton(AF_INET, "239.255.77.1", &group.sin_addr);
    rondo_address address = { (struct sockaddr *)&group, sizeof group };
    cr_assert_eq(rondo_set_outgoing_interface(endpoint, "lo"), 0);
    cr_assert_eq(rondo_join_group(endpoint, "239.255.77.1", "lo"), 0);
    cr_assert_eq(rondo_join_group(endpoint, "239.255.77.1", "lo"), -EADDRINUSE);
    rondo_sendto(endpoint, RONDO_BYTES("all"), address);
    RUN_UNTIL(received == 1);
    cr_assert_eq(last_size, 3);
    cr_assert_eq(rondo_set_loopback_mode(endpoint, false), 0);
    cr_assert_eq(option_of(IPPROTO_IP, IP_MULTICAST_LOOP), 0);
    cr_assert_eq(rondo_set_ttl(endpoint, 3), 0);
    cr_assert_eq(option_of(IPPROTO_IP, IP_MULTICAST_TTL), 3);
    cr_assert_eq(rondo_leave_group(endpoint, "239.255.77.1", "lo"), 0);
    cr_assert_eq(rondo_leave_group(endpoint, "239.255.77.1", "lo"), -EADDRNOTAVAIL);
    cr_assert_eq(rondo_join_group(endpoint, "127.0.0.1", NULL), -EINVAL);
    cr_assert_eq(rondo_join_group(endpoint, "ff02::1", NULL), -EINVAL);
    cr_assert_eq(rondo_join_group(endpoint, "nonsense", NULL), -EINVAL);
    cr_assert_eq(rondo_join_group(endpoint, "239.255.77.1", "no-such-if"), -ENODEV);
    cr_assert_eq(rondo_set_ttl(endpoint, 256), -EINVAL);
    cr_assert_eq(rondo_set_ttl(endpoint, -1), -EINVAL);
    cr_assert_eq(rondo_set_outgoing_interface(endpoint, "no-such-if"), -ENODEV);
}

Test(datagram, groups_of_ipv6_are_joined_by_their_address, WORLD)
{
    rondo_datagram_options options = { .local_url = "udp://[::]:0", .protocol = &plain };
    if (rondo_create_datagram_endpoint(&world.loop, &options, &endpoint) < 0)
        cr_skip("IPv6 is switched off here");
    RUN_UNTIL(*calls != '\0');
    cr_assert_eq(rondo_join_group(endpoint, "ff01::77:1", "lo"), 0);
    cr_assert_eq(rondo_join_group(endpoint, "ff01::77:1", "lo"), -EADDRINUSE);
    cr_assert_eq(rondo_set_outgoing_interface(endpoint, "lo"), 0);
    cr_assert_eq(option_of(IPPROTO_IPV6, IPV6_MULTICAST_IF), (int)if_nametoindex("lo"));
    cr_assert_eq(rondo_set_ttl(endpoint, 2), 0);
    cr_assert_eq(option_of(IPPROTO_IPV6, IPV6_MULTICAST_HOPS), 2);
    cr_assert_eq(rondo_set_loopback_mode(endpoint, false), 0);
    cr_assert_eq(option_of(IPPROTO_IPV6, IPV6_MULTICAST_LOOP), 0);
    cr_assert_eq(rondo_leave_group(endpoint, "ff01::77:1", "lo"), 0);
    cr_assert_eq(rondo_join_group(endpoint, "239.255.77.1", NULL), -EINVAL);
}

Test(datagram, a_unix_endpoint_has_no_groups, FOLDER)
{
    open_with(&(rondo_datagram_options){ .local_url = url, .protocol = &plain });
    cr_assert_eq(rondo_join_group(endpoint, "239.255.77.1", NULL), -ENOTSUP);
    cr_assert_eq(rondo_leave_group(endpoint, "239.255.77.1", NULL), -ENOTSUP);
    cr_assert_eq(rondo_set_ttl(endpoint, 1), -ENOTSUP);
    cr_assert_eq(rondo_set_loopback_mode(endpoint, true), -ENOTSUP);
    cr_assert_eq(rondo_set_outgoing_interface(endpoint, "lo"), -ENOTSUP);
}

/* ---- addresses ------------------------------------------------------------------------------------------------------- */

static const char *there_and_back(const char *text)
{
    static char back[RONDO_ADDRESS_TEXT_BYTES];
    struct sockaddr_storage storage;
    rondo_address address;
    cr_assert_eq(rondo_parse_address(text, &storage, &address), 0, "%s", text);
    rondo_format_address(address, back);
    return back;
}

Test(datagram, addresses_are_written_as_urls)
{
    static const char *const texts[] = { "udp://127.0.0.1:7777", "udp://[::1]:1", "unixgram:///run/x.sock",
                                         "unixgram://@name" };
    for (unsigned i = 0; i < sizeof texts / sizeof *texts; i++)
        cr_assert_eq(strcmp(there_and_back(texts[i]), texts[i]), 0, "%s", texts[i]);
    struct sockaddr_storage storage;
    rondo_address address;
    char text[RONDO_ADDRESS_TEXT_BYTES] = "x";
    cr_assert_eq(rondo_parse_address("tcp://127.0.0.1:1", &storage, &address), -EINVAL);
    cr_assert_eq(rondo_parse_address("udp://example.org:1", &storage, &address), -EINVAL);
    rondo_format_address((rondo_address){ 0 }, text);
    cr_assert(zero(str, text));
}
