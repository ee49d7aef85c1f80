/* The listener, on real sockets: accepting, shortage, draining. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/handshakes.h"
#include "net/server.h"
#include "support/pair.h"

TestSuite(listener, .timeout = 30);

static const rondo_protocol echo = { .name = "echo", .data_received = rondo_write };

static struct world world;
static rondo_server *server;
static struct listener *listener;
static struct sockaddr_in where;

static unsigned made;

static void count_made(rondo_transport *t)
{
    (void)t;
    made++;
}

static const rondo_protocol patient = {
    .name = "patient", .defer_accept = true, .connection_made = count_made, .data_received = rondo_write
};

static void open_listener_of(const rondo_protocol *protocol)
{
    const rondo_server_options options = { .url = "tcp://127.0.0.1:0", .protocol = protocol };
    world_open(&world, NULL);
    cr_assert_eq(rondo_create_server(&world.loop, &options, &server), 0);
    listener = &server->listeners[0];
    getsockname(listener->fd, (struct sockaddr *)&where, &(socklen_t){ sizeof where });
}

static void open_listener(void)
{
    open_listener_of(&echo);
}

static void open_patient_listener(void)
{
    open_listener_of(&patient);
}

static void turn_until_empty(void)
{
    while (world.loop.users > 0)
        cr_assert_eq(loop_turn(&world.loop, ENGINE_FOREVER), 0);
}

static void close_world(void)
{
    world.service.draining = true;
    if (server != NULL)
        server_drain(server);
    service_for_each_transport(&world.service, transport_cancel);
    turn_until_empty();
    world_close(&world);
}

static void turn(void)
{
    struct pair p = { .loop = &world.loop };
    pair_turn(&p);
}

static int connect_client(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&where, sizeof where), 0, "%s", strerror(errno));
    return fd;
}

/* Turns the loop until something can be read. Returns what recv does. */
static ssize_t receive(int fd, char *data, size_t size)
{
    struct pollfd readable = { .fd = fd, .events = POLLIN };
    while (poll(&readable, 1, 0) == 0)
        cr_assert_eq(loop_turn(&world.loop, 10 * 1000 * 1000), 0);
    return recv(fd, data, size, 0);
}

static void is_served(int fd)
{
    char back[5] = "";
    cr_assert_eq(send(fd, "ping", 4, MSG_NOSIGNAL), 4);
    cr_assert(eq(int, (int)receive(fd, back, 4), 4));
    cr_assert(eq(str, back, "ping"));
}

Test(listener, accepts_and_serves, .init = open_listener, .fini = close_world)
{
    int fds[20];
    for (int i = 0; i < 20; i++)
        fds[i] = connect_client();
    for (int i = 0; i < 20; i++)
        is_served(fds[i]);
    cr_assert(eq(u64, world.loop.traffic.connections_accepted, 20));
    for (int i = 0; i < 20; i++)
        close(fds[i]);
}

/* Leaves room for `free` more descriptors. Returns the old limit. */
static rlim_t leave_descriptors(int free)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    rlim_t before = limit.rlim_cur;
    int lowest = fcntl(STDIN_FILENO, F_DUPFD, 0);
    close(lowest);
    limit.rlim_cur = (rlim_t)(lowest + free);
    setrlimit(RLIMIT_NOFILE, &limit);
    return before;
}

Test(listener, waits_when_descriptors_run_out_and_recovers, .init = open_listener, .fini = close_world)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 1024;
    setrlimit(RLIMIT_NOFILE, &limit);
    turn();
    int first = connect_client(), second = connect_client();
    rlim_t before = leave_descriptors(1);
    /* The limit counts when the accept is issued, and this one was issued under the old one. */
    engine_cancel(world.loop.engine, &listener->accept);
    turn();
    cr_assert(eq(int, listener->state, LISTENER_BACKING_OFF));
    cr_assert(listener->short_of_resources);

    is_served(first);
    uint64_t completions = world.loop.engine->counters.completions;
    loop_turn(&world.loop, 1000 * 1000);
    cr_assert_leq(world.loop.engine->counters.completions, completions + 1, "no spin");

    limit.rlim_cur = before;
    setrlimit(RLIMIT_NOFILE, &limit);
    is_served(second);
    cr_assert(eq(int, listener->state, LISTENER_ACCEPTING));
    while (listener->short_of_resources)
        loop_turn(&world.loop, 100 * 1000 * 1000);
    close(first);
    close(second);
}

Test(listener, draining_serves_what_is_queued_and_refuses_what_comes_later, .init = open_listener,
     .fini = turn_until_empty)
{
    int queued[10];
    for (int i = 0; i < 10; i++) {
        queued[i] = connect_client();
        cr_assert_eq(send(queued[i], "ask", 3, MSG_NOSIGNAL), 3);
    }
    world.service.draining = true;
    server_drain(server);

    for (int i = 0; i < 10; i++) {
        char answer[4] = "";
        cr_assert(eq(int, (int)receive(queued[i], answer, 3), 3));
        cr_assert(eq(str, answer, "ask"));
        cr_assert(eq(int, (int)receive(queued[i], answer, 3), 0), "an orderly end");
        close(queued[i]);
    }
    int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(late, (struct sockaddr *)&where, sizeof where), -1);
    cr_assert(eq(int, errno, ECONNREFUSED));
    close(late);
    turn_until_empty();
    world_close(&world);
}

Test(listener, a_drained_listener_hears_no_new_handshake, .init = open_listener, .fini = close_world)
{
    turn();
    server_drain(server); /* its cancelled accept has not completed: the socket is still open */

    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&where, sizeof where), -1);
    cr_assert(eq(int, errno, EINPROGRESS), "the SYN is dropped, so it will be sent again, to someone else");
    struct pollfd connected = { .fd = fd, .events = POLLOUT };
    cr_assert(eq(int, poll(&connected, 1, 0), 0));
    close(fd);
}

Test(listener, connections_above_the_limit_are_closed_at_once, .init = open_listener, .fini = close_world)
{
    char data[1];
    world.settings.max_connections = 2;
    int first = connect_client(), second = connect_client();
    is_served(first);
    is_served(second);

    int third = connect_client();
    cr_assert(eq(int, (int)receive(third, data, 1), 0));
    cr_assert(eq(uint, atomic_load(&world.settings.connections), 2));

    close(first);
    turn();
    cr_assert(eq(uint, atomic_load(&world.settings.connections), 1));
    int fourth = connect_client();
    is_served(fourth);
    close(second);
    close(third);
    close(fourth);
}

Test(listener, a_listener_that_drains_can_be_closed, .init = open_listener)
{
    turn();
    server_drain(server);
    cr_assert(eq(int, listener->state, LISTENER_DRAINING), "its accept is in the kernel");
    rondo_server_close(server);
    cr_assert(eq(int, listener->state, LISTENER_CLOSING));
    turn_until_empty();
    world_close(&world);
}

/* ---- deferred accept ------------------------------------------------------------------------------------- */

Test(listener, defers_accepting_until_the_client_talks, .init = open_patient_listener, .fini = close_world)
{
    int talks = connect_client(), silent = connect_client();
    turn();
    cr_assert(eq(uint, made, 0), "both have connected, and nobody has said a word");
    cr_assert(handshakes_are_under_way(listener->fd));
    is_served(talks);
    cr_assert(eq(uint, made, 1));

    while (made < 2) /* after a second: a silent client is a client, too */
        cr_assert_eq(loop_turn(&world.loop, 100 * 1000 * 1000), 0);
    is_served(silent);
    cr_assert(not(handshakes_are_under_way(listener->fd)));
    close(talks);
    close(silent);
}

Test(listener, a_client_that_ends_without_a_word_is_made_and_lost, .init = open_patient_listener,
     .fini = close_world)
{
    char byte;
    int fd = connect_client();
    shutdown(fd, SHUT_WR);
    cr_assert(eq(int, (int)receive(fd, &byte, 1), 0));
    cr_assert(eq(uint, made, 1));
    close(fd);
}

Test(listener, drains_at_once_when_no_handshake_is_under_way, .init = open_patient_listener,
     .fini = close_world)
{
    turn();
    server_drain(server);
    server = NULL; /* it frees itself when it has ended */
    turn();
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&where, sizeof where), -1, "nobody listens any more");
    cr_assert(eq(int, errno, ECONNREFUSED));
    close(fd);
}

Test(listener, draining_waits_for_the_first_word_of_who_has_connected, .init = open_patient_listener,
     .fini = close_world)
{
    char byte;
    int talks = connect_client(), silent = connect_client();
    turn();
    world.service.draining = true;
    server_drain(server);
    turn();
    cr_assert(eq(int, listener->state, LISTENER_DRAINING));
    is_served(talks);
    cr_assert(eq(int, (int)receive(silent, &byte, 1), 0), "is told that the server ends");
    server = NULL; /* it has ended */
    cr_assert(eq(uint, made, 2));
    close(talks);
    close(silent);
}

Test(listener, other_servers_handshakes_are_not_ones_own, .init = open_patient_listener, .fini = close_world)
{
    struct sockaddr_in elsewhere = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(other, (struct sockaddr *)&elsewhere, sizeof elsewhere), 0);
    int fd = connect_client();
    cr_assert(handshakes_are_under_way(listener->fd));
    cr_assert(not(handshakes_are_under_way(other)));
    close(other);
    close(fd);
}
