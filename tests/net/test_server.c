/* Servers as objects, on real sockets: TCP, Unix and adopted ones. The test turns the loop itself, and its clients are
 * plain sockets. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <rondo/server.h>
#include <rondo/transport.h>

#include "net/server.h"
#include "support/abstract.h"
#include "support/pair.h"

TestSuite(server, .timeout = 30);

static struct world world;
static rondo_server *server;
static unsigned descriptors_before;
static char folder[] = "/tmp/rondo-test-server-XXXXXX";

/* ---- the protocol, and what it is told to do ----------------------------------------------------------------- */

static unsigned made, lost;
static rondo_transport *newest;
static void (*on_made)(rondo_transport *t);
static void (*on_lost)(rondo_transport *t);

static void connection_made(rondo_transport *t)
{
    made++;
    newest = t;
    if (on_made != NULL)
        on_made(t);
}

static void connection_lost(rondo_transport *t, int error)
{
    (void)error;
    lost++;
    if (on_lost != NULL)
        on_lost(t);
}

static const rondo_protocol echo = {
    .name = "echo",
    .connection_made = connection_made,
    .data_received = rondo_write,
    .connection_lost = connection_lost,
};

/* ---- the world ---------------------------------------------------------------------------------------------- */

static unsigned count_descriptors(void)
{
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

static void open_world(void)
{
    cr_assert_not_null(mkdtemp(folder));
    world_open(&world, NULL);
    descriptors_before = count_descriptors();
}

static void turn(void)
{
    struct pair p = { .loop = &world.loop };
    pair_turn(&p);
}

/* As a shard that drains, and then loses patience. */
static void drain(void)
{
    world.service.draining = true;
    for (struct rondo_link *link = world.service.servers.next; link != &world.service.servers;
         link = link->next)
        server_drain(rondo_container_of(link, rondo_server, in_service));
}

static void close_world(void)
{
    drain();
    service_for_each_transport(&world.service, transport_cancel);
    while (world.loop.users > 0)
        cr_assert_eq(loop_turn(&world.loop, ENGINE_FOREVER), 0);
    cr_assert(eq(u64, timers_next_ms(&world.loop.timers), UINT64_MAX), "no timer is left");
    cr_assert(eq(uint, made, lost), "each connection that was made is lost");
    cr_assert(eq(uint, count_descriptors(), descriptors_before), "no descriptor is left");
    world_close(&world);
    cr_assert(eq(int, rmdir(folder), 0), "no socket file is left");
}

#define IN_A_WORLD .init = open_world, .fini = close_world

static int create(const rondo_server_options *options)
{
    return rondo_create_server(&world.loop, options, &server);
}

static rondo_server *serve(const char *url)
{
    const rondo_server_options options = { .url = url, .protocol = &echo };
    cr_assert(eq(int, create(&options), 0), "%s", url);
    return server;
}

static const char *path_url(const char *query)
{
    static char url[128];
    snprintf(url, sizeof url, "unix://%s/socket%s", folder, query);
    return url;
}

static const char *path(void)
{
    static char text[128];
    snprintf(text, sizeof text, "%s/socket", folder);
    return text;
}

/* ---- clients ------------------------------------------------------------------------------------------------ */

struct name {
    struct sockaddr_storage at;
    socklen_t size;
};

static struct name name_of(int fd)
{
    struct name name = { .size = sizeof name.at };
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&name.at, &name.size), 0);
    return name;
}

static struct name where(unsigned index)
{
    int fds[16];
    cr_assert_lt(index, rondo_server_sockets(server, fds, 16));
    return name_of(fds[index]);
}

/* A connection, or a negative errno. */
static int try_to_connect(const struct name *name)
{
    int fd = socket(name->at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc = connect(fd, (const struct sockaddr *)&name->at, name->size) < 0 ? -errno : fd;
    if (rc < 0)
        close(fd);
    return rc;
}

static int client_of(struct name name)
{
    int fd = try_to_connect(&name);
    cr_assert_geq(fd, 0, "%s", strerror(-fd));
    return fd;
}

static ssize_t receive(int fd, char *data, size_t size)
{
    struct pollfd readable = { .fd = fd, .events = POLLIN };
    while (poll(&readable, 1, 0) == 0)
        cr_assert_eq(loop_turn(&world.loop, 10 * 1000 * 1000), 0);
    ssize_t n = recv(fd, data, size, 0);
    return n < 0 ? -errno : n;
}

static void is_served(int fd)
{
    char back[5] = "";
    cr_assert_eq(send(fd, "ping", 4, MSG_NOSIGNAL), 4);
    cr_assert(eq(int, (int)receive(fd, back, 4), 4));
    cr_assert(eq(str, back, "ping"));
}

static void sees_end(int fd)
{
    char byte;
    cr_assert(eq(int, (int)receive(fd, &byte, 1), 0));
    close(fd);
}

/* ---- waiting for the end ---------------------------------------------------------------------------------- */

static unsigned ends;
static rondo_call *ended[8];

static void note_end(rondo_call *call)
{
    ended[ends++] = call;
}

/* ---- beginning -------------------------------------------------------------------------------------------- */

static int context;

static void look_at_server(rondo_transport *t)
{
    cr_assert_eq(rondo_get_server(t), server);
}

Test(server, serves_and_answers_questions, IN_A_WORLD)
{
    const rondo_server_options options = { .url = "tcp://127.0.0.1:0",
                                           .protocol = &echo,
                                           .context = &context };
    cr_assert(eq(int, create(&options), 0));
    int fds[2] = { -1, -1 };
    cr_assert(eq(uint, rondo_server_sockets(server, NULL, 0), 1));
    cr_assert(eq(uint, rondo_server_sockets(server, fds, 2), 1));
    cr_assert(eq(int, fds[1], -1));
    cr_assert(rondo_server_is_serving(server));
    cr_assert_eq(rondo_server_context(server), &context);
    cr_assert_eq(rondo_server_get_loop(server), &world.loop);

    struct name name = where(0);
    char url[64];
    snprintf(url, sizeof url, "tcp://127.0.0.1:%u", ntohs(((struct sockaddr_in *)&name.at)->sin_port));
    cr_assert(eq(str, (char *)rondo_server_url(server, 0), url));
    cr_assert_null(rondo_server_url(server, 1));

    on_made = on_lost = look_at_server;
    int fd = client_of(where(0));
    is_served(fd);
    close(fd);
    turn();
    cr_assert(eq(uint, lost, 1));
}

/* ---- build_protocol --------------------------------------------------------------------------------------- */

static unsigned asked;
static struct sockaddr_storage asked_about;
static const rondo_protocol *(*answer)(rondo_server *server);

static const rondo_protocol *build_protocol(rondo_server *of, const struct sockaddr *peer)
{
    cr_assert_eq(of, server);
    cr_assert_eq(rondo_server_context(of), &context);
    memcpy(&asked_about, peer, sizeof asked_about);
    asked++;
    return answer(of);
}

static const rondo_protocol *always_echo(rondo_server *of)
{
    (void)of;
    return &echo;
}

static const rondo_protocol *nobody(rondo_server *of)
{
    (void)of;
    return NULL;
}

static const rondo_protocol *every_other(rondo_server *of)
{
    (void)of;
    return asked % 2 == 0 ? &echo : NULL;
}

static const rondo_protocol *closing(rondo_server *of)
{
    rondo_server_close(of);
    return &echo;
}

static const rondo_protocol *half_a_protocol(rondo_server *of)
{
    static const rondo_protocol half = { .name = "half",
                                         .buffer_updated = (void (*)(rondo_transport *, size_t))abort };
    (void)of;
    return &half;
}

static void serve_by(const rondo_protocol *(*answer_)(rondo_server *of), const char *url)
{
    const rondo_server_options options = { .url = url,
                                           .build_protocol = build_protocol,
                                           .context = &context };
    answer = answer_;
    cr_assert(eq(int, create(&options), 0));
}

Test(server, build_protocol_is_asked_with_the_peer_s_address, IN_A_WORLD)
{
    serve_by(always_echo, "tcp://127.0.0.1:0");
    int fd = client_of(where(0));
    is_served(fd);
    struct name peer = name_of(fd);
    cr_assert(eq(uint, asked, 1));
    cr_assert_eq(memcmp(&asked_about, &peer.at, sizeof(struct sockaddr_in)), 0);
    close(fd);
}

Test(server, build_protocol_is_asked_on_unix_sockets_too, IN_A_WORLD)
{
    serve_by(always_echo, path_url(""));
    int fd = client_of(where(0));
    is_served(fd);
    cr_assert(eq(int, asked_about.ss_family, AF_UNIX));
    close(fd);
}

Test(server, whom_build_protocol_refuses_sees_the_end, IN_A_WORLD)
{
    world.settings.max_connections = 2;
    serve_by(every_other, "tcp://127.0.0.1:0");
    for (unsigned i = 0; i < 6; i++) {
        int fd = client_of(where(0));
        if (i % 2 == 0)
            sees_end(fd);
        else
            is_served(fd);
        if (i % 2 == 1)
            close(fd);
        turn();
    }
    cr_assert(eq(uint, made, 3));
    cr_assert(eq(uint, asked, 6));
    answer = nobody;
    for (unsigned i = 0; i < 5; i++)
        sees_end(client_of(where(0)));
    cr_assert(eq(uint, asked, 11), "none of them counts for max_connections");
    cr_assert(eq(uint, atomic_load(&world.settings.connections), 0));
}

Test(server, build_protocol_may_close_the_server, IN_A_WORLD)
{
    serve_by(closing, "tcp://127.0.0.1:0");
    struct name name = where(0);
    sees_end(client_of(name));
    turn();
    cr_assert(eq(uint, made, 0));
    cr_assert(eq(int, try_to_connect(&name), -ECONNREFUSED));
}

Test(server, who_builds_protocols_does_not_wait_for_the_client_to_talk, IN_A_WORLD)
{
    static const rondo_protocol deferring = { .name = "deferring",
                                              .defer_accept = true,
                                              .data_received = rondo_write };
    rondo_server_options options = { .url = "tcp://127.0.0.1:0",
                                     .protocol = &deferring,
                                     .context = &context };
    for (unsigned i = 0; i < 2; i++) {
        int fd, seconds = -1;
        answer = always_echo;
        options.build_protocol = i == 0 ? NULL : build_protocol;
        cr_assert(eq(int, create(&options), 0));
        cr_assert(eq(uint, rondo_server_sockets(server, &fd, 1), 1));
        getsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, &(socklen_t){ sizeof seconds });
        cr_assert_eq(seconds > 0, i == 0);
    }
}

Test(server, what_build_protocol_gives_is_looked_at, IN_A_WORLD)
{
    serve_by(half_a_protocol, "tcp://127.0.0.1:0");
    sees_end(client_of(where(0)));
    cr_assert(eq(uint, made, 0));
}

Test(server, needs_a_protocol_or_somebody_who_builds_one, IN_A_WORLD)
{
    const rondo_server_options options = { .url = "tcp://127.0.0.1:0" };
    cr_assert(eq(int, create(&options), -EINVAL));
}

Test(server, has_no_delay_and_ipv6_only, IN_A_WORLD)
{
    const char *const more[] = { "tcp://[::]:0", NULL };
    const rondo_server_options options = { .url = "tcp://127.0.0.1:0", .protocol = &echo, .more_urls = more };
    cr_assert(eq(int, create(&options), 0));
    int fds[2], on = 0;
    cr_assert(eq(uint, rondo_server_sockets(server, fds, 2), 2));
    getsockopt(fds[1], IPPROTO_IPV6, IPV6_V6ONLY, &on, &(socklen_t){ sizeof on });
    cr_assert(eq(int, on, 1));
    for (unsigned i = 0; i < 2; i++) {
        int client = client_of(where(i));
        is_served(client);
        int fd = -1;
        cr_assert(eq(int, rondo_get_extra_info(newest, "socket", &fd, sizeof fd), 0));
        getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &(socklen_t){ sizeof on });
        cr_assert(eq(int, on, 1));
        close(client);
    }
}

Test(server, an_address_given_twice_is_served_once, IN_A_WORLD)
{
    char escaped[80];
    snprintf(escaped, sizeof escaped, "unix://@rondo%%2D%s",
             abstract_url("twice") + strlen("unix://@rondo-"));
    const char *const more[] = { escaped, "tcp://127.0.0.1:0", NULL };
    const rondo_server_options options = { .url = abstract_url("twice"),
                                           .protocol = &echo,
                                           .more_urls = more };
    cr_assert(eq(int, create(&options), 0));
    cr_assert(eq(uint, rondo_server_sockets(server, NULL, 0), 2));
    cr_assert(eq(str, (char *)rondo_server_url(server, 0), (char *)abstract_url("twice")));
}

Test(server, addresses_that_are_not_here_are_left_out_unless_none_is_left, IN_A_WORLD)
{
    const char *const more[] = { "tcp://127.0.0.1:0", "tcp://198.51.100.1:0", NULL };
    rondo_server_options options = { .url = "tcp://192.0.2.1:0", .protocol = &echo, .more_urls = more };
    cr_assert(eq(int, create(&options), 0));
    cr_assert(eq(uint, rondo_server_sockets(server, NULL, 0), 1));
    int fd = client_of(where(0));
    is_served(fd);
    close(fd);
    options.more_urls = NULL;
    cr_assert(eq(int, create(&options), -EADDRNOTAVAIL));
    const char *const none[] = { "tcp://198.51.100.1:0", NULL };
    options.more_urls = none;
    cr_assert(eq(int, create(&options), -EADDRNOTAVAIL));
}

Test(server, all_is_closed_when_one_address_fails, IN_A_WORLD)
{
    const char *const more[] = { path_url(""), "tcp://127.0.0.1:0", "unix:///no/such/folder/socket", NULL };
    const rondo_server_options options = { .url = "tcp://127.0.0.1:0", .protocol = &echo, .more_urls = more };
    cr_assert(eq(int, create(&options), -ENOENT));
    cr_assert(eq(uint, count_descriptors(), descriptors_before));
    cr_assert(eq(int, access(path(), F_OK), -1));
    cr_assert(eq(uint, world.loop.users, 0));
}

Test(server, a_port_in_use_is_refused_unless_both_share_it, IN_A_WORLD)
{
    char url[64];
    rondo_server_options options = { .url = "tcp://127.0.0.1:0", .protocol = &echo, .reuse_port = true };
    cr_assert(eq(int, create(&options), 0));
    rondo_server *first = server;
    snprintf(url, sizeof url, "%s", rondo_server_url(server, 0));
    options.url = url;
    cr_assert(eq(int, create(&options), 0));
    cr_assert_neq(server, first);
    options.reuse_port = false;
    cr_assert(eq(int, create(&options), -EADDRINUSE));

    rondo_server_options alone = { .url = "tcp://127.0.0.1:0", .protocol = &echo };
    cr_assert(eq(int, create(&alone), 0));
    snprintf(url, sizeof url, "%s", rondo_server_url(server, 0));
    options.reuse_port = true;
    cr_assert(eq(int, create(&options), -EADDRINUSE));
}

Test(server, localhost_is_known_and_other_names_are_refused, IN_A_WORLD)
{
    serve("tcp://LocalHost:0");
    unsigned count = rondo_server_sockets(server, NULL, 0);
    cr_assert_geq(count, 1);
    for (unsigned i = 0; i < count; i++) {
        const char *url = rondo_server_url(server, i);
        cr_assert(strncmp(url, "tcp://127.0.0.1:", 16) == 0 || strncmp(url, "tcp://[::1]:", 12) == 0, "%s",
                  url);
    }
    const rondo_server_options options = { .url = "tcp://rondo.invalid:0", .protocol = &echo };
    cr_assert(eq(int, create(&options), -EINVAL));
}

static rondo_buffer no_buffer(rondo_transport *t, size_t size_hint)
{
    (void)t;
    (void)size_hint;
    return (rondo_buffer){ 0 };
}

Test(server, what_makes_no_sense_is_refused, IN_A_WORLD)
{
    static const rondo_protocol half = { .get_buffer = no_buffer };
    const char *const wrong[] = { "tcp://127.0.0.1", NULL };
    const char *many[18] = { 0 };
    char urls[17][96];
    for (unsigned i = 0; i < 17; i++) {
        snprintf(urls[i], sizeof urls[i], "%s-%u", abstract_url("many"), i);
        many[i] = urls[i];
    }
    cr_assert(eq(int, create(&(rondo_server_options){ .url = "tcp://127.0.0.1:0" }), -EINVAL));
    cr_assert(eq(int, create(&(rondo_server_options){ .protocol = &echo }), -EINVAL));
    cr_assert(
        eq(int, create(&(rondo_server_options){ .url = "tcp://127.0.0.1:0", .protocol = &half }), -EINVAL));
    cr_assert(eq(
        int,
        create(&(rondo_server_options){ .url = "tcp://127.0.0.1:0", .protocol = &echo, .more_urls = wrong }),
        -EINVAL));
    cr_assert(eq(int,
                 create(&(rondo_server_options){ .url = urls[0], .protocol = &echo, .more_urls = many + 1 }),
                 -E2BIG));
    many[16] = NULL;
    cr_assert(eq(
        int, create(&(rondo_server_options){ .url = urls[0], .protocol = &echo, .more_urls = many + 1 }), 0));
    cr_assert(eq(uint, rondo_server_sockets(server, NULL, 0), 16));
}

Test(server, has_the_apps_protocol_and_backlog_if_it_names_none, IN_A_WORLD)
{
    world.app.protocol = &echo;
    world.app.backlog = 1;
    serve(abstract_url("backlog"));
    const rondo_server_options options = { .url = abstract_url("backlog-2") };
    cr_assert(eq(int, create(&options), 0));
    struct name name = where(0);
    int fds[3];
    for (unsigned i = 0; i < 3; i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int rc = connect(fds[i], (struct sockaddr *)&name.at, name.size);
        cr_assert(eq(int, rc < 0 ? errno : 0, i < 2 ? 0 : EAGAIN), "a queue of 1 holds 2");
    }
    is_served(fds[0]);
    for (unsigned i = 0; i < 3; i++)
        close(fds[i]);
}

Test(server, starts_later, IN_A_WORLD)
{
    const char *const more[] = { path_url(""), NULL };
    const rondo_server_options options = {
        .url = "tcp://127.0.0.1:0", .protocol = &echo, .more_urls = more, .start_later = true
    };
    cr_assert(eq(int, create(&options), 0));
    cr_assert_not(rondo_server_is_serving(server));
    cr_assert(eq(uint, rondo_server_sockets(server, NULL, 0), 2));
    for (unsigned i = 0; i < 2; i++) {
        struct name name = where(i);
        cr_assert(eq(int, try_to_connect(&name), -ECONNREFUSED), "bound, but it doesn't listen");
    }
    for (unsigned i = 0; i < 3; i++) {
        cr_assert(eq(int, rondo_server_start_serving(server), 0), "idempotent");
        cr_assert(rondo_server_is_serving(server));
    }
    for (unsigned i = 0; i < 2; i++) {
        int fd = client_of(where(i));
        is_served(fd);
        close(fd);
    }
}

Test(server, that_never_started_can_be_closed, IN_A_WORLD)
{
    const rondo_server_options options = { .url = path_url(""), .protocol = &echo, .start_later = true };
    cr_assert(eq(int, create(&options), 0));
    rondo_server_close(server);
    cr_assert(eq(int, rondo_server_start_serving(server), -ESHUTDOWN));
    cr_assert(eq(int, access(path(), F_OK), -1), "its file is gone");
    cr_assert(eq(int, create(&options), 0), "this one is left to the drain");
}

/* ---- the end ------------------------------------------------------------------------------------------------ */

Test(server, close_is_at_once_and_leaves_clients_alone, IN_A_WORLD)
{
    char url[64];
    const char *const more[] = { path_url(""), NULL };
    const rondo_server_options options = { .url = "tcp://127.0.0.1:0", .protocol = &echo, .more_urls = more };
    cr_assert(eq(int, create(&options), 0));
    struct name tcp = where(0), unix_path = where(1);
    int first = client_of(tcp), second = client_of(unix_path);
    is_served(first);
    is_served(second);
    snprintf(url, sizeof url, "%s", rondo_server_url(server, 0));

    rondo_server_close(server);
    rondo_server_close(server);
    cr_assert_not(rondo_server_is_serving(server));
    cr_assert(eq(uint, rondo_server_sockets(server, NULL, 0), 0));
    cr_assert(eq(str, (char *)rondo_server_url(server, 0), url), "still known");
    cr_assert(eq(int, rondo_server_start_serving(server), -ESHUTDOWN));
    cr_assert(eq(int, try_to_connect(&tcp), -ECONNREFUSED), "before the loop turns");
    cr_assert(eq(int, try_to_connect(&unix_path), -ENOENT));
    rondo_server *closed = server;
    serve(url); /* its place is free at once */
    cr_assert_neq(server, closed);

    is_served(first);
    is_served(second);
    cr_assert_eq(rondo_get_server(newest), closed);
    close(first);
    close(second);
}

Test(server, connections_that_come_between_accept_and_close_are_closed_unseen, IN_A_WORLD)
{
    serve(abstract_url("between"));
    turn(); /* the accept is in the kernel */
    int fd = client_of(where(0));
    rondo_server_close(server);
    char byte;
    cr_assert_leq(receive(fd, &byte, 1), 0);
    close(fd);
    turn();
    cr_assert(eq(uint, made, 0));

    serve("tcp://127.0.0.1:0");
    fd = client_of(where(0)); /* its accept has not been issued yet */
    rondo_server_close(server);
    cr_assert_leq(receive(fd, &byte, 1), 0);
    close(fd);
    turn();
    cr_assert(eq(uint, made, 0));
}

static void close_server_of(rondo_transport *t)
{
    rondo_server_close(rondo_get_server(t));
    rondo_server_close(rondo_get_server(t));
}

Test(server, closes_inside_connection_made, IN_A_WORLD)
{
    const char *const urls[] = { "tcp://127.0.0.1:0", abstract_url("inside") };
    on_made = close_server_of;
    for (unsigned i = 0; i < 2; i++) {
        serve(urls[i]);
        struct name name = where(0);
        int fds[5];
        for (unsigned j = 0; j < 5; j++)
            fds[j] = client_of(name);
        is_served(fds[0]);
        for (unsigned j = 1; j < 5; j++) {
            char byte;
            cr_assert_leq(receive(fds[j], &byte, 1), 0, "all others are closed unseen");
            close(fds[j]);
        }
        cr_assert(eq(uint, made, i + 1));
        cr_assert(eq(int, try_to_connect(&name), -ECONNREFUSED));
        close(fds[0]);
    }
}

Test(server, closes_inside_connection_made_while_it_drains, IN_A_WORLD)
{
    serve("tcp://127.0.0.1:0");
    turn();
    int first = client_of(where(0)), second = client_of(where(0));
    on_made = close_server_of;
    drain();
    char byte;
    cr_assert_leq(receive(first, &byte, 1), 0);
    cr_assert_leq(receive(second, &byte, 1), 0);
    close(first);
    close(second);
    turn();
    cr_assert(eq(uint, made, 1));
    cr_assert(list_is_empty(&world.service.servers));
}

Test(server, one_who_is_accepted_by_the_drain_is_still_heard, IN_A_WORLD)
{
    serve("tcp://127.0.0.1:0");
    turn();
    int fd = client_of(where(0));
    drain();
    while (made == 0)
        loop_turn(&world.loop, 1000 * 1000);
    is_served(fd); /* it sends only now */
    close(fd);
}

Test(server, those_who_wait_are_called_from_the_loop_in_order_behind_the_last_client, IN_A_WORLD)
{
    rondo_call calls[3] = { 0 };
    serve("tcp://127.0.0.1:0");
    rondo_server_wait_closed(server, &calls[0], note_end);
    int first = client_of(where(0)), second = client_of(where(0));
    is_served(first);
    is_served(second);
    turn();
    cr_assert(eq(uint, ends, 0), "waiting doesn't close");

    rondo_server_close(server);
    rondo_server_wait_closed(server, &calls[1], note_end);
    turn();
    cr_assert(eq(uint, ends, 0), "clients are left");
    close(first);
    while (lost < 1)
        loop_turn(&world.loop, 1000 * 1000);
    turn();
    cr_assert(eq(uint, ends, 0), "one is left");
    rondo_server_wait_closed(server, &calls[2], note_end);
    close(second);
    while (ends == 0)
        loop_turn(&world.loop, 1000 * 1000);
    cr_assert(eq(uint, lost, 2));
    cr_assert(eq(uint, ends, 3));
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(ended[i], &calls[i]);
    cr_assert(list_is_empty(&world.service.servers), "freed");
}

Test(server, can_be_waited_for_when_it_is_closed_already, IN_A_WORLD)
{
    rondo_call calls[2] = { 0 };
    serve("tcp://127.0.0.1:0");
    rondo_server_close(server);
    rondo_server_wait_closed(server, &calls[0], note_end);
    rondo_server_wait_closed(server, &calls[1], note_end);
    rondo_call_cancel(&calls[0]);
    cr_assert(eq(uint, ends, 0), "not from inside the call");
    turn();
    cr_assert(eq(uint, ends, 1));
    cr_assert_eq(ended[0], &calls[1]);

    serve("tcp://127.0.0.1:0");
    turn();
    rondo_server_close(server); /* its accept is in the kernel */
    rondo_server_wait_closed(server, &calls[0], note_end);
    cr_assert(eq(uint, ends, 1));
    turn();
    cr_assert(eq(uint, ends, 2));
}

static rondo_call again;

static void wait_again(rondo_call *call)
{
    note_end(call);
    cr_assert(eq(uint, rondo_server_sockets(server, NULL, 0), 0), "the server is still there");
    rondo_server_wait_closed(server, ends < 3 ? call : &again, ends < 3 ? wait_again : note_end);
}

Test(server, lives_until_nobody_waits_again, IN_A_WORLD)
{
    rondo_call call = { 0 };
    serve("tcp://127.0.0.1:0");
    rondo_server_wait_closed(server, &call, wait_again);
    rondo_server_close(server);
    turn();
    cr_assert(eq(uint, ends, 4));
    cr_assert_eq(ended[3], &again);
    cr_assert(list_is_empty(&world.service.servers));
}

static void wait_and_close(rondo_transport *t)
{
    static rondo_call call;
    rondo_server_close(rondo_get_server(t));
    rondo_server_wait_closed(rondo_get_server(t), &call, note_end);
    cr_assert(eq(uint, ends, 0));
}

Test(server, is_closed_and_waited_for_in_connection_lost_of_its_last_client, IN_A_WORLD)
{
    on_lost = wait_and_close;
    serve("tcp://127.0.0.1:0");
    int fd = client_of(where(0));
    is_served(fd);
    close(fd);
    turn();
    cr_assert(eq(uint, ends, 1));
}

Test(server, a_hundred_come_and_go, IN_A_WORLD)
{
    static rondo_server *servers[100];
    for (unsigned i = 0; i < 100; i++) {
        char url[64];
        snprintf(url, sizeof url, "unix://%s/%u", folder, i);
        servers[i] = serve(i % 2 == 0 ? "tcp://127.0.0.1:0" : url);
        if (i % 3 == 0)
            turn();
    }
    for (unsigned i = 0; i < 100; i++) {
        rondo_server_close(servers[i]);
        if (i % 7 == 0)
            turn();
    }
    turn();
    cr_assert(eq(uint, world.loop.users, 0));
    cr_assert(eq(uint, count_descriptors(), descriptors_before));
}

Test(server, none_is_made_while_the_shard_drains, IN_A_WORLD)
{
    const rondo_server_options options = { .url = "tcp://127.0.0.1:0",
                                           .protocol = &echo,
                                           .start_later = true };
    cr_assert(eq(int, create(&options), 0));
    drain();
    cr_assert(eq(int, rondo_server_start_serving(server), -ESHUTDOWN));
    cr_assert(eq(int, create(&options), -ESHUTDOWN));
}

/* ---- clients -------------------------------------------------------------------------------------------------- */

static void two_servers(int fds[3])
{
    serve("tcp://127.0.0.1:0");
    fds[2] = client_of(where(0));
    is_served(fds[2]);
    serve("tcp://127.0.0.1:0");
    fds[0] = client_of(where(0));
    fds[1] = client_of(where(0));
    is_served(fds[0]);
    is_served(fds[1]);
}

Test(server, closes_its_clients_and_no_others, IN_A_WORLD)
{
    int fds[3];
    two_servers(fds);
    rondo_server_close_clients(server);
    cr_assert(eq(uint, lost, 0), "from the loop");
    sees_end(fds[0]);
    sees_end(fds[1]);
    is_served(fds[2]);
    cr_assert(eq(uint, lost, 2));
    cr_assert(rondo_server_is_serving(server));
    close(fds[2]);
}

Test(server, aborts_its_clients_also_when_closed, IN_A_WORLD)
{
    int fds[3];
    char byte;
    two_servers(fds);
    rondo_server_close(server);
    rondo_server_abort_clients(server);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert(eq(int, (int)receive(fds[i], &byte, 1), -ECONNRESET));
        close(fds[i]);
    }
    is_served(fds[2]);
    close(fds[2]);
    turn();
    cr_assert(eq(uint, lost, 3));
}

static void close_clients(rondo_transport *t)
{
    rondo_server_close_clients(rondo_get_server(t));
}

static void abort_clients(rondo_transport *t)
{
    rondo_server_abort_clients(rondo_get_server(t));
}

Test(server, clients_are_closed_inside_callbacks_of_any_of_them, IN_A_WORLD)
{
    int fds[3];
    two_servers(fds);
    on_lost = close_clients;
    close(fds[0]);
    sees_end(fds[1]);
    turn();
    is_served(fds[2]);

    on_lost = NULL;
    fds[0] = client_of(where(0));
    is_served(fds[0]);
    on_made = abort_clients;
    fds[1] = client_of(where(0));
    char byte;
    cr_assert(eq(int, (int)receive(fds[0], &byte, 1), -ECONNRESET));
    cr_assert(eq(int, (int)receive(fds[1], &byte, 1), -ECONNRESET), "the one being made, too");
    is_served(fds[2]);
    for (unsigned i = 0; i < 3; i++)
        close(fds[i]);
}

/* ---- sockets accepted elsewhere --------------------------------------------------------------------------------- */

static void tcp_pair(int fds[2])
{
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof name;
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(listening, (struct sockaddr *)&name, size), 0);
    cr_assert_eq(listen(listening, 1), 0);
    getsockname(listening, (struct sockaddr *)&name, &size);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fds[0], (struct sockaddr *)&name, size), 0);
    fds[1] = accept(listening, NULL, NULL);
    close(listening);
}

static int connect_accepted(int fd)
{
    return rondo_connect_accepted_socket(&world.loop, fd, &echo, NULL);
}

Test(server, a_socket_accepted_elsewhere_is_served, IN_A_WORLD)
{
    int tcp[2], local[2], on = 0;
    rondo_transport *t = NULL;
    tcp_pair(tcp);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, local), 0);
    cr_assert(eq(int, rondo_connect_accepted_socket(&world.loop, tcp[1], &echo, &t), 0));
    cr_assert(eq(int, connect_accepted(local[1]), 0));
    cr_assert(eq(uint, made, 0), "connection_made comes from the loop");
    cr_assert_null(rondo_get_server(t));
    getsockopt(tcp[1], IPPROTO_TCP, TCP_NODELAY, &on, &(socklen_t){ sizeof on });
    cr_assert(eq(int, on, 1));
    is_served(tcp[0]);
    is_served(local[0]);
    cr_assert(eq(uint, made, 2));
    cr_assert(eq(int, rondo_send_file_descriptor(t, STDIN_FILENO), -ENOTSUP));
    close(tcp[0]);
    close(local[0]);
}

Test(server, a_unix_socket_accepted_elsewhere_passes_descriptors, IN_A_WORLD)
{
    int local[2];
    rondo_transport *t = NULL;
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, local), 0);
    cr_assert(eq(int, rondo_connect_accepted_socket(&world.loop, local[1], &echo, &t), 0));
    turn();
    cr_assert(eq(int, rondo_send_file_descriptor(t, STDIN_FILENO), 0));
    close(local[0]);
}

Test(server, what_is_no_connected_stream_stays_the_callers, IN_A_WORLD)
{
    int ends[2], datagrams[2];
    int unconnected = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, datagrams), 0);
    cr_assert(eq(int, connect_accepted(-1), -EBADF));
    cr_assert(eq(int, connect_accepted(ends[0]), -ENOTSOCK));
    cr_assert(eq(int, connect_accepted(datagrams[0]), -EINVAL));
    cr_assert(eq(int, connect_accepted(unconnected), -ENOTCONN));
    int pair[2];
    tcp_pair(pair);
    cr_assert(eq(int, rondo_connect_accepted_socket(&world.loop, pair[1], NULL, NULL), -EINVAL));
    world.service.aborting = true;
    cr_assert(eq(int, connect_accepted(pair[1]), -ESHUTDOWN));
    world.service.aborting = false;
    const int fds[] = { ends[0], ends[1], datagrams[0], datagrams[1], unconnected, pair[0], pair[1] };
    for (unsigned i = 0; i < sizeof fds / sizeof fds[0]; i++)
        cr_assert(eq(int, close(fds[i]), 0));
}

Test(server, sockets_accepted_elsewhere_count_for_the_limit, IN_A_WORLD)
{
    int first[2], second[2];
    world.settings.max_connections = 1;
    tcp_pair(first);
    tcp_pair(second);
    cr_assert(eq(int, connect_accepted(first[1]), 0));
    cr_assert(eq(int, connect_accepted(second[1]), -EUSERS));
    is_served(first[0]);
    close(first[0]);
    turn();
    cr_assert(eq(int, connect_accepted(second[1]), 0), "it stayed the caller's");
    is_served(second[0]);
    close(second[0]);
}

/* ---- Unix sockets ------------------------------------------------------------------------------------------------ */

static unsigned mode_of_file(void)
{
    struct stat file;
    cr_assert_eq(lstat(path(), &file), 0);
    cr_assert(eq(uint, file.st_mode & S_IFMT, S_IFSOCK));
    return file.st_mode & 07777;
}

Test(server, a_socket_file_has_the_mode_that_was_asked_for, IN_A_WORLD)
{
    static const struct {
        unsigned mask;
        const char *query;
        unsigned mode;
    } cases[] = { { 022, "", 0755 },
                  { 077, "?mode=666", 0666 },
                  { 0, "?mode=0600", 0600 },
                  { 0777, "?mode=0000", 0000 },
                  { 0, "", 0777 } };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mode_t before = umask(cases[i].mask);
        serve(path_url(cases[i].query));
        cr_assert(eq(uint, umask(before), cases[i].mask), "the umask is the process's");
        cr_assert(eq(uint, mode_of_file(), cases[i].mode));
        cr_assert(eq(str, (char *)rondo_server_url(server, 0), (char *)path_url("")));
        rondo_server_close(server);
        cr_assert(eq(int, access(path(), F_OK), -1));
        turn();
    }
}

/* Made with the rights it shall have, it is not changed afterwards. */
Test(server, a_socket_file_has_no_moment_of_more_rights, IN_A_WORLD)
{
    char events[1024];
    int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    cr_assert_geq(inotify_add_watch(watch, folder, IN_CREATE | IN_ATTRIB), 0);
    mode_t before = umask(0);
    serve(path_url("?mode=0600"));
    umask(before);
    ssize_t size = read(watch, events, sizeof events);
    const struct inotify_event *first = (const struct inotify_event *)events;
    cr_assert_geq(size, (ssize_t)sizeof *first);
    cr_assert(eq(uint, first->mask, IN_CREATE));
    cr_assert(eq(int, (int)(sizeof *first + first->len), (int)size), "nothing else happened to it");
    close(watch);
}

static int listening_at_path(bool listens)
{
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    strcpy(name.sun_path, path());
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&name, sizeof name), 0);
    if (listens)
        cr_assert_eq(listen(fd, 0), 0);
    return fd;
}

Test(server, a_stale_socket_file_is_replaced, IN_A_WORLD)
{
    close(listening_at_path(true));
    mode_of_file();
    serve(path_url(""));
    int fd = client_of(where(0));
    is_served(fd);
    close(fd);
}

Test(server, a_file_somebody_listens_at_is_left_alone, IN_A_WORLD)
{
    const rondo_server_options options = { .url = path_url(""), .protocol = &echo };
    int fd = listening_at_path(true);
    cr_assert(eq(int, create(&options), -EADDRINUSE));
    cr_assert(eq(int, create(&options), -EADDRINUSE), "also with a queue that is full");
    struct name name = name_of(fd);
    int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    cr_assert_eq(connect(client, (struct sockaddr *)&name.at, name.size), -1);
    cr_assert(eq(int, errno, EAGAIN));
    close(client);
    close(fd);
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    unlink(path());
    cr_assert_eq(bind(fd, (struct sockaddr *)&name.at, name.size), 0);
    cr_assert(eq(int, create(&options), -EADDRINUSE), "one of datagrams");
    close(fd);
    unlink(path());
}

Test(server, a_file_that_is_no_socket_is_left_alone, IN_A_WORLD)
{
    const rondo_server_options options = { .url = path_url(""), .protocol = &echo };
    close(open(path(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    cr_assert(eq(int, create(&options), -EEXIST));
    cr_assert(eq(int, unlink(path()), 0));
    cr_assert_eq(symlink("nowhere", path()), 0);
    cr_assert(eq(int, create(&options), -EEXIST));
    cr_assert(eq(int, unlink(path()), 0));
}

Test(server, a_file_is_removed_only_if_it_is_the_servers, IN_A_WORLD)
{
    serve(path_url(""));
    unlink(path());
    int fd = listening_at_path(false);
    rondo_server_close(server);
    turn();
    mode_of_file();
    close(fd);
    unlink(path());

    serve(path_url(""));
    unlink(path());
    rondo_server_close(server); /* it is gone: nobody's business */
}

Test(server, a_path_with_odd_characters_goes_round, IN_A_WORLD)
{
    char url[160], file[128];
    snprintf(url, sizeof url, "unix://%s/a%%3Fb%%23c%%25d%%0Ae%%20f", folder);
    snprintf(file, sizeof file, "%s/a?b#c%%d\ne f", folder);
    serve(url);
    cr_assert(eq(int, access(file, F_OK), 0));
    cr_assert(eq(str, (char *)rondo_server_url(server, 0), url));
}

Test(server, abstract_names_are_served_and_in_use_once_only, IN_A_WORLD)
{
    const rondo_server_options options = { .url = abstract_url("abstract"), .protocol = &echo };
    cr_assert(eq(int, create(&options), 0));
    struct name name = where(0);
    cr_assert(eq(int, create(&options), -EADDRINUSE));
    int fd = client_of(name);
    is_served(fd);
    cr_assert_eq(newest->is_unix, true);
    close(fd);
    rondo_server_close(server);
    cr_assert(eq(int, try_to_connect(&name), -ECONNREFUSED));
}

Test(server, a_unix_server_that_drains_serves_its_queue_and_refuses_others, IN_A_WORLD)
{
    static const char *const names[] = { "", "@" };
    for (unsigned i = 0; i < 2; i++) {
        world.service.draining = false;
        serve(i == 0 ? path_url("") : abstract_url("drain"));
        turn();
        struct name name = where(0);
        int queued[10];
        for (unsigned j = 0; j < 10; j++) {
            queued[j] = client_of(name);
            cr_assert_eq(send(queued[j], "ask", 3, MSG_NOSIGNAL), 3);
        }
        drain();
        cr_assert(eq(int, try_to_connect(&name), i == 0 ? -ENOENT : -ECONNREFUSED), "%s", names[i]);
        for (unsigned j = 0; j < 10; j++) {
            char answer[4] = "";
            cr_assert(eq(int, (int)receive(queued[j], answer, 3), 3));
            cr_assert(eq(str, answer, "ask"));
            sees_end(queued[j]);
        }
        turn();
        cr_assert(eq(uint, made, 10 * (i + 1)));
    }
}

static bool is_backing_off(void)
{
    return server->listeners[0].state == LISTENER_BACKING_OFF;
}

/* As the first of several shards does. The others are told to drain a little later. */
Test(server, a_unix_server_waits_quietly_when_another_shard_drains, IN_A_WORLD)
{
    const rondo_server_options options = { .url = abstract_url("deaf"),
                                           .protocol = &echo,
                                           .start_later = true };
    cr_assert(eq(int, create(&options), 0));
    struct listener *listener = &server->listeners[0];
    listener->address->is_shared = true;
    cr_assert(eq(int, rondo_server_start_serving(server), 0));
    turn();
    address_make_deaf(listener->address, listener->fd);
    while (!is_backing_off())
        loop_turn(&world.loop, 1000 * 1000);
    cr_assert_not(listener->short_of_resources, "it doesn't complain");
    uint64_t completions = world.loop.engine->counters.completions;
    loop_turn(&world.loop, 20 * 1000 * 1000);
    cr_assert(eq(u64, world.loop.engine->counters.completions, completions), "nor does it spin");
    drain();
    turn();
    cr_assert(list_is_empty(&world.service.servers));
}

/* Leaves room for `free` more descriptors. */
static struct rlimit leave_descriptors(int free)
{
    struct rlimit before, limit;
    getrlimit(RLIMIT_NOFILE, &before);
    limit = before;
    int lowest = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
    close(lowest);
    limit.rlim_cur = (rlim_t)(lowest + free);
    setrlimit(RLIMIT_NOFILE, &limit);
    return before;
}

Test(server, a_unix_server_without_descriptors_drains_when_nobody_waits, IN_A_WORLD)
{
    serve(abstract_url("short"));
    turn();
    struct rlimit before = leave_descriptors(0);
    drain();
    turn();
    cr_assert(list_is_empty(&world.service.servers));
    setrlimit(RLIMIT_NOFILE, &before);
}

Test(server, a_unix_server_without_descriptors_drains_its_queue_as_they_come_back, IN_A_WORLD)
{
    serve(abstract_url("short"));
    turn();
    int fds[3];
    for (unsigned i = 0; i < 3; i++)
        fds[i] = client_of(where(0));
    struct rlimit before = leave_descriptors(0);
    engine_cancel(world.loop.engine, &server->listeners[0].accept);
    drain();
    for (unsigned i = 0; i < 3; i++) {
        char byte;
        cr_assert(eq(int, (int)receive(fds[i], &byte, 1), 0), "an orderly end");
        shutdown(fds[i], SHUT_WR);
    }
    setrlimit(RLIMIT_NOFILE, &before);
    for (unsigned i = 0; i < 3; i++)
        close(fds[i]);
    turn();
    cr_assert(eq(uint, made, 3));
}

Test(server, is_closed_while_it_waits_for_descriptors, IN_A_WORLD)
{
    rondo_call call = { 0 };
    serve("tcp://127.0.0.1:0");
    turn();
    struct rlimit before = leave_descriptors(0);
    engine_cancel(world.loop.engine, &server->listeners[0].accept);
    while (!is_backing_off())
        loop_turn(&world.loop, 1000 * 1000);
    rondo_server_wait_closed(server, &call, note_end);
    rondo_server_close(server);
    turn();
    cr_assert(eq(uint, ends, 1));
    loop_turn(&world.loop, 20 * 1000 * 1000); /* longer than it would have waited */
    setrlimit(RLIMIT_NOFILE, &before);
}

Test(server, closes_inside_connection_made_when_no_accept_is_under_way, IN_A_WORLD)
{
    int fds[3];
    serve("tcp://127.0.0.1:0");
    turn();
    for (unsigned i = 0; i < 3; i++)
        fds[i] = client_of(where(0));
    struct rlimit before = leave_descriptors(0);
    engine_cancel(world.loop.engine, &server->listeners[0].accept);
    while (!is_backing_off())
        loop_turn(&world.loop, 1000 * 1000);
    setrlimit(RLIMIT_NOFILE, &before);
    unsigned already = made;
    cr_assert_lt(already, 3);
    on_made = close_server_of;
    drain();
    cr_assert(eq(uint, made, already + 1), "from inside the drain, and not the next");
    for (unsigned i = 0; i < 3; i++)
        close(fds[i]);
    while (!list_is_empty(&world.service.servers))
        loop_turn(&world.loop, 1000 * 1000);
}

/* ---- adopted sockets --------------------------------------------------------------------------------------------- */

static int adopt(int fd)
{
    char url[32];
    snprintf(url, sizeof url, "fd://%d", fd);
    const rondo_server_options options = { .url = url, .protocol = &echo };
    return create(&options);
}

static int listening_tcp(void)
{
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&name, sizeof name), 0);
    cr_assert_eq(listen(fd, 100), 0);
    return fd;
}

Test(server, a_listening_tcp_socket_is_adopted, IN_A_WORLD)
{
    int given = listening_tcp(), fds[1], on = 0;
    struct name name = name_of(given);
    cr_assert(eq(int, adopt(given), 0));
    cr_assert(eq(uint, rondo_server_sockets(server, fds, 1), 1));
    cr_assert_neq(fds[0], given);
    cr_assert(eq(int, fcntl(fds[0], F_GETFD), FD_CLOEXEC));
    char url[64];
    snprintf(url, sizeof url, "tcp://127.0.0.1:%u", ntohs(((struct sockaddr_in *)&name.at)->sin_port));
    cr_assert(eq(str, (char *)rondo_server_url(server, 0), url));

    int client = client_of(name);
    is_served(client);
    cr_assert_not(newest->is_unix);
    getsockopt(newest->fd, IPPROTO_TCP, TCP_NODELAY, &on, &(socklen_t){ sizeof on });
    cr_assert(eq(int, on, 1));
    getsockopt(given, IPPROTO_TCP, TCP_NODELAY, &on, &(socklen_t){ sizeof on });
    cr_assert(eq(int, on, 0), "the socket itself stays as it was");
    close(client);

    rondo_server_close(server);
    turn();
    int waiting = client_of(name); /* whoever has it goes on listening */
    int accepted_by_us = accept(given, NULL, NULL);
    cr_assert_geq(accepted_by_us, 0);
    close(accepted_by_us);
    close(waiting);
    cr_assert(eq(int, close(given), 0), "it stayed ours");
}

Test(server, a_listening_unix_socket_is_adopted_and_its_file_stays, IN_A_WORLD)
{
    int given = listening_at_path(true);
    struct name name = name_of(given);
    fcntl(given, F_SETFL, O_NONBLOCK);
    world.app.backlog = 100;
    cr_assert(eq(int, adopt(given), 0));
    int first = client_of(name), second = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    cr_assert_eq(connect(second, (struct sockaddr *)&name.at, name.size), -1);
    cr_assert(eq(int, errno, EAGAIN), "its backlog is still 0");
    is_served(first);
    close(first);
    close(second);
    cr_assert(eq(str, (char *)rondo_server_url(server, 0), (char *)path_url("")));
    int client = client_of(name);
    is_served(client);
    cr_assert(newest->is_unix);
    close(client);
    uint64_t turns = world.loop.engine->counters.completions;
    turn();
    cr_assert_leq(world.loop.engine->counters.completions, turns + 8, "it doesn't spin");
    rondo_server_close(server);
    turn();
    mode_of_file();
    close(given);
    unlink(path());
}

Test(server, an_adopted_socket_that_drains_is_left_as_it_was, IN_A_WORLD)
{
    int fds[2] = { listening_tcp(), listening_at_path(true) };
    for (unsigned i = 0; i < 2; i++) {
        world.service.draining = false;
        struct name name = name_of(fds[i]);
        cr_assert_eq(listen(fds[i], 100), 0);
        cr_assert(eq(int, adopt(fds[i]), 0));
        turn();
        int queued[20];
        for (unsigned j = 0; j < 20; j++) {
            queued[j] = client_of(name);
            cr_assert_eq(send(queued[j], "ask", 3, MSG_NOSIGNAL), 3);
        }
        drain();
        for (unsigned j = 0; j < 20; j++) {
            char answer[4] = "";
            cr_assert(eq(int, (int)receive(queued[j], answer, 3), 3));
            sees_end(queued[j]);
        }
        turn();
        cr_assert(list_is_empty(&world.service.servers));
        cr_assert(eq(uint, world.loop.drained.late, 20 * (i + 1)));
        cr_assert(zero(int, fcntl(fds[i], F_GETFL) & O_NONBLOCK));
        int client = client_of(name), theirs = accept(fds[i], NULL, NULL);
        cr_assert_geq(theirs, 0, "somebody else serves it now");
        close(client);
        close(theirs);
        close(fds[i]);
    }
    cr_assert(eq(uint, made, 40));
    cr_assert(eq(int, unlink(path()), 0));
}

Test(server, an_adopted_socket_may_be_closed_while_it_drains, IN_A_WORLD)
{
    int given = listening_tcp(), fds[3];
    cr_assert(eq(int, adopt(given), 0));
    turn();
    for (unsigned i = 0; i < 3; i++)
        fds[i] = client_of(name_of(given));
    on_made = close_server_of;
    drain();
    turn();
    cr_assert(eq(uint, made, 1));
    for (unsigned i = 0; i < 3; i++)
        close(fds[i]);
    while (!list_is_empty(&world.service.servers))
        loop_turn(&world.loop, 1000 * 1000);
    close(given);
}

Test(server, an_adopted_socket_may_be_closed_inside_connection_made, IN_A_WORLD)
{
    int given = listening_tcp();
    cr_assert(eq(int, adopt(given), 0));
    turn();
    on_made = close_server_of;
    int fd = client_of(name_of(given));
    is_served(fd);
    close(fd);
    while (!list_is_empty(&world.service.servers))
        loop_turn(&world.loop, 1000 * 1000);
    close(given);
}

Test(server, an_adopted_socket_drains_as_descriptors_come_back, IN_A_WORLD)
{
    int given = listening_tcp(), fds[3];
    struct name name = name_of(given);
    cr_assert(eq(int, adopt(given), 0));
    struct listener *listener = &server->listeners[0];
    turn();
    struct rlimit before;
    for (unsigned i = 0; i < 3; i++)
        fds[i] = client_of(name);
    before = leave_descriptors(0);
    drain();
    while (!listener->short_of_resources)
        loop_turn(&world.loop, 1000 * 1000);
    for (unsigned i = 0; i < 5; i++) /* it tries again, and again in vain */
        loop_turn(&world.loop, 5 * 1000 * 1000);
    setrlimit(RLIMIT_NOFILE, &before);
    for (unsigned i = 0; i < 3; i++) {
        char byte;
        cr_assert(eq(int, (int)receive(fds[i], &byte, 1), 0), "an orderly end");
        close(fds[i]);
    }
    turn();
    cr_assert(eq(uint, made, 3));
    close(given);
}

Test(server, what_does_not_listen_is_not_adopted, IN_A_WORLD)
{
    int ends[2], connected[2], packets[2];
    int bound = listening_at_path(false);
    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, connected), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, packets), 0);
    cr_assert(eq(int, adopt(999999), -EBADF));
    cr_assert(eq(int, adopt(ends[0]), -ENOTSOCK));
    cr_assert(eq(int, adopt(bound), -EINVAL));
    cr_assert(eq(int, adopt(connected[0]), -EINVAL));
    cr_assert(eq(int, adopt(packets[0]), -EINVAL));
    const int fds[] = { bound, ends[0], ends[1], connected[0], connected[1], packets[0], packets[1] };
    for (unsigned i = 0; i < sizeof fds / sizeof fds[0]; i++)
        cr_assert(eq(int, close(fds[i]), 0), "it stayed ours");
    unlink(path());
}
