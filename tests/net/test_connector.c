/* Connections out, on real sockets of loopback: what the hooks are told, in which order, and what is left. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rondo/app.h>
#include <rondo/testing.h>

#include "net/connector.h"
#include "support/client.h"
#include "support/names.h"

TestSuite(connector, .timeout = 30);

static struct world world;
static unsigned descriptors_before;

static void open_world(void)
{
    world_open(&world, NULL);
    descriptors_before = client_count_descriptors();
}

/* The books balance: no transport, operation, user or descriptor is left. */
static void close_world(void)
{
    cr_assert(eq(uint, client_count_descriptors(), descriptors_before));
    cr_assert(list_is_empty(&world.service.stoppables));
    world_close(&world);
}

static void stop_from_outside(struct record *r);

#define IN_A_WORLD .init = open_world, .fini = close_world

static void connect_to(struct record *r, const char *url)
{
    rondo_client_options options = client_options(r, url);
    client_connect(r, &world, &options);
}

static int accept_one(int listener)
{
    int fd = accept(listener, NULL, NULL);
    cr_assert_geq(fd, 0);
    return fd;
}

#define assert_why(...) assert_why_is(&r, __VA_ARGS__)

__attribute__((format(printf, 2, 3))) static void assert_why_is(const struct record *r, const char *format,
                                                                ...)
{
    char wanted[DIAL_WHY_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(wanted, sizeof wanted, format, arguments);
    va_end(arguments);
    cr_assert_str_eq(r->why, wanted);
}

/* ---- one address ----------------------------------------------------------------------------------------- */

Test(connector, a_connection_is_made_and_lost, IN_A_WORLD)
{
    struct record r = { 0 };
    unsigned port = 0;
    int listener = client_listen("127.0.0.1", &port, 1);
    connect_to(&r, client_url("127.0.0.1", port));
    cr_assert(gt(uint, world.loop.users, 0), "it keeps the loop going");
    cr_assert_null(rondo_connector_transport(r.connector));

    client_turn_until(&r, &r.made, 1);
    int peer = accept_one(listener);
    close(peer);
    client_turn_until(&r, &r.lost, 1);

    cr_assert(eq(str, r.calls, "SC CM ER CL cl"));
    cr_assert(eq(int, r.error, 0));
    client_turn_out(&r);
    close(listener);
}

static void greet(struct record *r, rondo_transport *t)
{
    r->note = 1;
    rondo_write_static(t, RONDO_BYTES("hello"));
    rondo_close(t);
}

Test(connector, what_connection_made_writes_arrives, IN_A_WORLD)
{
    struct record r = { .on_made = greet };
    char text[16] = "";
    unsigned port = 0;
    int on = 0, listener = client_listen("::1", &port, 1);
    rondo_client_options options = client_options(&r, client_url("[::1]", port));
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.made, 1);
    getsockopt(rondo_connector_transport(r.connector)->fd, IPPROTO_TCP, TCP_NODELAY, &on,
               &(socklen_t){ sizeof on });
    cr_assert(ne(int, on, 0), "writes are gathered already");
    client_turn_until(&r, &r.lost, 1);

    int peer = accept_one(listener);
    cr_assert(eq(int, (int)recv(peer, text, sizeof text - 1, MSG_WAITALL), 5));
    cr_assert(eq(str, text, "hello"));
    close(peer);
    client_turn_out(&r);
    close(listener);
}

Test(connector, a_refused_connection_fails_with_the_reason, IN_A_WORLD)
{
    struct record r = { 0 };
    unsigned port = 0;
    int holder = client_refusing_port(&port);
    connect_to(&r, client_url("127.0.0.1", port));
    client_turn_until(&r, &r.failed, 1);

    cr_assert(eq(str, r.calls, "SC cf"));
    cr_assert(eq(int, r.error, -ECONNREFUSED));
    assert_why("can't connect to tcp://127.0.0.1:%u: 127.0.0.1:%u: Connection refused", port, port);
    cr_assert(eq(uint, world.loop.users, 0), "and nothing is left");
    close(holder);
}

Test(connector, without_hooks_nothing_is_missed, IN_A_WORLD)
{
    static const rondo_protocol nothing = { .name = NULL };
    struct record r = { .world = &world };
    unsigned port = 0, open_port = 0;
    int holder = client_refusing_port(&port), listener = client_listen("127.0.0.1", &open_port, 1);
    rondo_client_options options = { .url = client_url("127.0.0.1", port), .protocol = &nothing };
    cr_assert(eq(int, rondo_create_connection(&world.loop, &options, NULL), 0));
    options.url = client_url("127.0.0.1", open_port);
    cr_assert(eq(int, rondo_create_connection(&world.loop, &options, NULL), 0));
    client_turn(&r);
    close(accept_one(listener));
    client_turn_out(&r);
    close(holder);
    close(listener);
}

Test(connector, options_that_make_no_sense_are_refused, IN_A_WORLD)
{
    static const rondo_protocol half = { .buffer_updated = (void (*)(rondo_transport *, size_t))abort };
    struct record r = { 0 };
    rondo_client_options options;
#define assert_refused(member, value)                                                                        \
    options = client_options(&r, "tcp://127.0.0.1:1");                                                       \
    options.member = value;                                                                                  \
    cr_assert(eq(int, rondo_create_connection(&world.loop, &options, NULL), -EINVAL));
    assert_refused(url, NULL);
    assert_refused(url, "127.0.0.1:1");
    assert_refused(url, "tcp://127.0.0.1");
    assert_refused(url, "tcp://127.0.0.1:0");
    assert_refused(url, "fd://0");
    assert_refused(url, "unix:///nowhere?mode=0600");
    assert_refused(protocol, NULL);
    assert_refused(protocol, &half);
    assert_refused(local_url, "tcp://127.0.0.1");
    assert_refused(local_url, "unix:///nowhere");
    options = client_options(&r, "unix:///nowhere");
    options.local_url = "tcp://127.0.0.1:0";
    cr_assert(eq(int, rondo_create_connection(&world.loop, &options, NULL), -EINVAL));
    cr_assert(eq(uint, world.loop.users, 0));
    cr_assert(eq(str, r.calls, ""));
}

Test(connector, the_options_are_copied, IN_A_WORLD)
{
    struct record r = { 0 };
    unsigned port = 0;
    int holder = client_refusing_port(&port);
    char url[64], expected[64];
    snprintf(url, sizeof url, "tcp://127.0.0.1:%u", port);
    memcpy(expected, url, sizeof url);
    rondo_client_options options = client_options(&r, url);
    client_connect(&r, &world, &options);
    memset(url, 'x', sizeof url - 1);
    memset(&options, 0xee, sizeof options);
    cr_assert(eq(str, (char *)rondo_connector_url(r.connector), expected));
    cr_assert_eq(rondo_connector_get_loop(r.connector), &world.loop);
    cr_assert_eq(rondo_connector_context(r.connector), &r);
    cr_assert(eq(u64, r.connector->target.timeout_ms, 30000), "the defaults");
    cr_assert(eq(u64, r.connector->target.happy_eyeballs_delay_ms, 250));

    client_turn_until(&r, &r.failed, 1);
    assert_why("can't connect to %s: 127.0.0.1:%u: Connection refused", expected, port);
    close(holder);
}

Test(connector, who_would_be_connected_to_himself_is_refused, IN_A_WORLD)
{
    struct record r = { 0 };
    unsigned port = 0;
    close(client_refusing_port(&port)); /* free again */
    const char *url = client_url("127.0.0.1", port);
    rondo_client_options options = client_options(&r, url);
    options.local_url = url; /* the kernel might have taken it by chance */
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(int, r.error, -ECONNREFUSED));
    cr_assert(eq(uint, r.made, 0));
}

/* ---- Unix sockets ---------------------------------------------------------------------------------------- */

/* Listen at an abstract name, '@', or at a path. */
static int listen_at(const char *name, int backlog)
{
    struct sockaddr_un where = { .sun_family = AF_UNIX };
    size_t size = strlen(name);
    memcpy(where.sun_path, name, size);
    if (name[0] == '@')
        where.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t used = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + (name[0] != '@'));
    cr_assert_eq(bind(fd, (struct sockaddr *)&where, used), 0, "%s: %m", name);
    cr_assert_eq(listen(fd, backlog), 0);
    return fd;
}

/* A name of this process's own. */
static const char *unix_name(const char *format)
{
    static char name[64];
    snprintf(name, sizeof name, format, (int)getpid());
    return name;
}

static const char *unix_url(const char *name)
{
    static char url[80];
    snprintf(url, sizeof url, "unix://%s", name);
    return url;
}

static void assert_connects_to(struct record *r, const char *name)
{
    char text[16] = "";
    int listener = listen_at(name, 1);
    r->on_made = greet;
    connect_to(r, unix_url(name));
    client_turn_until(r, &r->lost, 1);
    int peer = accept_one(listener);
    cr_assert(eq(int, (int)recv(peer, text, sizeof text - 1, MSG_WAITALL), 5));
    cr_assert(eq(str, text, "hello"));
    cr_assert(eq(str, r->calls, "SC CM CL cl"));
    close(peer);
    client_turn_out(r);
    close(listener);
}

Test(connector, an_abstract_unix_socket_is_connected_to, IN_A_WORLD)
{
    struct record r = { 0 };
    assert_connects_to(&r, unix_name("@rondo-test-%d"));
}

Test(connector, a_unix_socket_file_is_connected_to, IN_A_WORLD)
{
    struct record r = { 0 };
    const char *path = unix_name("/tmp/rondo-test-%d.sock");
    assert_connects_to(&r, path);
    unlink(path);
}

static void pass_a_descriptor(struct record *r, rondo_transport *t)
{
    cr_assert(eq(int, rondo_send_file_descriptor(t, 0), 0), "it is a Unix transport");
    greet(r, t);
}

Test(connector, a_unix_connection_can_pass_descriptors, IN_A_WORLD)
{
    struct record r = { .on_made = pass_a_descriptor };
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec slice = { &byte, 1 };
    struct msghdr message = {
        .msg_iov = &slice, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
    };
    const char *name = unix_name("@rondo-test-%d");
    int listener = listen_at(name, 1), passed;
    connect_to(&r, unix_url(name));
    client_turn_until(&r, &r.lost, 1);
    int peer = accept_one(listener);
    cr_assert(eq(int, (int)recvmsg(peer, &message, 0), 1));
    cr_assert_not_null(CMSG_FIRSTHDR(&message));
    memcpy(&passed, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof passed);
    close(passed);
    close(peer);
    client_turn_out(&r);
    close(listener);
}

Test(connector, where_no_unix_socket_is_it_fails_with_the_reason, IN_A_WORLD)
{
    struct record r = { 0 };
    connect_to(&r, "unix:///nowhere/rondo.sock");
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(int, r.error, -ENOENT));
    assert_why("can't connect to unix:///nowhere/rondo.sock: /nowhere/rondo.sock: No such file or directory");

    r = (struct record){ 0 };
    connect_to(&r, "unix://@rondo-nobody");
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(int, r.error, -ECONNREFUSED));
    assert_why("can't connect to unix://@rondo-nobody: @rondo-nobody: Connection refused");
}

/* connect(2) to a Unix socket whose queue is full blocks, and the ring makes it on a thread of its own. */
Test(connector, a_unix_socket_with_a_full_queue_is_given_up_in_time, IN_A_WORLD)
{
    struct record r = { 0 }, other = { 0 };
    const char *name = unix_name("@rondo-test-%d");
    struct sockaddr_un where = { .sun_family = AF_UNIX };
    int listener = listen_at(name, 0), filler = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memcpy(where.sun_path + 1, name + 1, strlen(name) - 1);
    cr_assert_eq(connect(filler, (struct sockaddr *)&where,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))),
                 0);
    rondo_client_options options = client_options(&r, unix_url(name));
    options.timeout_ms = 5;
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(int, r.error, -ETIMEDOUT));
    client_turn_out(&r);

    for (unsigned i = 0; i < 100; i++) { /* the ring may be at it, or not yet */
        memset(&other, 0, sizeof other);
        connect_to(&other, unix_url(name));
        while (other.calls[0] == '\0')
            cr_assert_eq(loop_turn(&world.loop, 0), 0);
        for (unsigned turns = i % 10; turns > 0; turns--)
            cr_assert_eq(loop_turn(&world.loop, 0), 0);
        stop_from_outside(&other);
        client_turn_out(&other);
        cr_assert(eq(str, other.calls, "SC cf"));
    }

    connect_to(&other, unix_url(name));
    client_turn(&other);
    cr_assert(eq(uint, other.made, 0));
    close(accept_one(listener));
    client_turn_until(&other, &other.made, 1);
    close(accept_one(listener));
    client_turn_out(&other);
    close(filler);
    close(listener);
}

/* ---- descriptors ----------------------------------------------------------------------------------------- */

Test(connector, without_a_descriptor_it_fails_and_says_what_to_do, IN_A_WORLD)
{
    struct record r = { 0 };
    struct rlimit before, none = { 0, 0 };
    getrlimit(RLIMIT_NOFILE, &before);
    none.rlim_max = before.rlim_max;
    setrlimit(RLIMIT_NOFILE, &none);
    connect_to(&r, "tcp://127.0.0.1:1");
    client_turn_until(&r, &r.failed, 1);
    setrlimit(RLIMIT_NOFILE, &before);

    cr_assert(eq(int, r.error, -EMFILE));
    assert_why("can't connect to tcp://127.0.0.1:1: 127.0.0.1:1: Too many open files: "
               "raise the limit of descriptors (ulimit -n)");
}

/* ---- happy eyeballs -------------------------------------------------------------------------------------- */

Test(connector, when_all_addresses_refuse_each_is_told_with_its_error, IN_A_WORLD)
{
    struct record r = { 0 };
    unsigned port = 0;
    int holder = client_refusing_port(&port);
    names_add("two.test", "::1 127.0.0.1");
    connect_to(&r, client_url("two.test", port));
    client_turn_until(&r, &r.failed, 1);

    cr_assert(eq(int, r.error, -ECONNREFUSED));
    assert_why(
        "can't connect to tcp://two.test:%u: [::1]:%u: Connection refused; 127.0.0.1:%u: Connection refused",
        port, port, port);
    close(holder);
}

Test(connector, of_different_errors_the_first_is_the_connectors, IN_A_WORLD)
{
    struct record r = { 0 };
    unsigned port = 0;
    int holder = client_refusing_port(&port);
    names_add("odd.test", "255.255.255.255 127.0.0.1"); /* nobody connects to all */
    connect_to(&r, client_url("odd.test", port));
    client_turn_until(&r, &r.failed, 1);

    cr_assert(ne(int, r.error, -ECONNREFUSED));
    assert_why("can't connect to tcp://odd.test:%u: 255.255.255.255:%u: %s; 127.0.0.1:%u: Connection refused",
               port, port, strerror(-r.error), port);
    close(holder);
}

Test(connector, families_take_turns_beginning_with_the_resolvers_first, IN_A_WORLD)
{
    struct record r = { 0 };
    unsigned port = 0;
    int holder = client_refusing_port(&port);
    names_add("many.test", "127.0.0.1 127.0.0.2 127.0.0.3 ::1 ::ffff:127.0.0.4");
    rondo_client_options options = client_options(&r, client_url("many.test", port));
    options.happy_eyeballs_delay_ms = UINT64_MAX;
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.failed, 1);

    assert_why("can't connect to tcp://many.test:%u: 127.0.0.1:%u: Connection refused; [::1]:%u: Connection "
               "refused; "
               "127.0.0.2:%u: Connection refused; [::ffff:127.0.0.4]:%u: Connection refused; "
               "127.0.0.3:%u: Connection refused",
               port, port, port, port, port, port);
    close(holder);
}

Test(connector, the_next_address_is_tried_as_soon_as_one_has_failed, IN_A_WORLD)
{
    struct record r = { 0 };
    unsigned port = 0;
    int listener = client_listen("127.0.0.2", &port, 1);
    names_add("two.test", "127.0.0.1 127.0.0.2");
    rondo_client_options options = client_options(&r, client_url("two.test", port));
    options.happy_eyeballs_delay_ms = UINT64_MAX;
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.made, 1);

    cr_assert(eq(uint, client_count_descriptors(), descriptors_before + 2),
              "the listener, and one connection");
    close(accept_one(listener));
    client_turn_out(&r);
    cr_assert(eq(str, r.calls, "SC CM ER CL cl"));
    close(listener);
}

Test(connector, the_next_address_is_tried_when_one_does_not_answer, IN_A_WORLD)
{
    struct record r = { 0 };
    struct black_hole hole;
    unsigned port = 0;
    client_black_hole(&hole, "127.0.0.1", &port);
    int listener = client_listen("127.0.0.2", &port, 1);
    names_add("two.test", "127.0.0.1 127.0.0.2");
    rondo_client_options options = client_options(&r, client_url("two.test", port));
    options.happy_eyeballs_delay_ms = 1;
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.made, 1);

    client_turn(&r);
    cr_assert(eq(uint, client_count_descriptors(), descriptors_before + 4),
              "the attempt that lost is closed");
    close(accept_one(listener));
    client_turn_out(&r);
    cr_assert(eq(str, r.calls, "SC CM ER CL cl"));
    close(listener);
    client_close_black_hole(&hole);
}

Test(connector, a_failure_does_not_wait_for_the_delay, IN_A_WORLD)
{
    struct record r = { 0 };
    struct black_hole hole;
    unsigned port = 0;
    client_black_hole(&hole, "127.0.0.1", &port);
    int listener = client_listen("127.0.0.3", &port, 1);
    names_add("three.test", "127.0.0.1 127.0.0.2 127.0.0.3"); /* silent, refused, open */
    rondo_client_options options = client_options(&r, client_url("three.test", port));
    options.happy_eyeballs_delay_ms = 1;
    client_connect(&r, &world, &options);
    while (r.connector->dial->started == 0)
        cr_assert_eq(loop_turn(&world.loop, 1000 * 1000), 0);
    r.connector->target.happy_eyeballs_delay_ms = UINT64_MAX; /* after the second */
    client_turn_until(&r, &r.made, 1);
    close(accept_one(listener));
    client_turn_out(&r);
    close(listener);
    client_close_black_hole(&hole);
}

Test(connector, an_older_attempt_may_still_win, IN_A_WORLD)
{
    struct record r = { 0 };
    struct black_hole first, second;
    unsigned port = 0;
    client_black_hole(&first, "127.0.0.1", &port);
    client_black_hole(&second, "127.0.0.2", &port);
    names_add("three.test", "127.0.0.1 127.0.0.2 127.0.0.3"); /* where it is refused */
    rondo_client_options options = client_options(&r, client_url("three.test", port));
    options.happy_eyeballs_delay_ms = 1;
    client_connect(&r, &world, &options);
    while (client_count_descriptors() < descriptors_before + 6)
        cr_assert_eq(loop_turn(&world.loop, 1000 * 1000), 0);

    close(accept_one(first.listener)); /* the filler: the next SYN is answered */
    client_turn_until(&r, &r.made, 1);

    struct sockaddr_in peer;
    cr_assert(eq(int,
                 getpeername(rondo_connector_transport(r.connector)->fd, (struct sockaddr *)&peer,
                             &(socklen_t){ sizeof peer }),
                 0));
    cr_assert(eq(uint, ntohl(peer.sin_addr.s_addr), INADDR_LOOPBACK));
    rondo_connector_disconnect(r.connector);
    close(accept_one(first.listener));
    client_turn_out(&r);
    client_close_black_hole(&first);
    client_close_black_hole(&second);
}

Test(connector, a_second_success_is_closed, IN_A_WORLD)
{
    struct record r = { 0 };
    struct black_hole hole;
    unsigned port = 0;
    client_black_hole(&hole, "127.0.0.1", &port);
    int listener = client_listen("127.0.0.2", &port, 1);
    names_add("two.test", "127.0.0.1 127.0.0.2");
    rondo_client_options options = client_options(&r, client_url("two.test", port));
    options.happy_eyeballs_delay_ms = 1;
    client_connect(&r, &world, &options);
    /* Until the second attempt is prepared; the kernel gets it with the next turn. */
    while (client_count_descriptors() < descriptors_before + 5)
        cr_assert_eq(loop_turn(&world.loop, 1000 * 1000), 0);
    /* The first one is answered meanwhile, when its SYN is sent again. */
    close(accept_one(hole.listener));
    int first = accept_one(hole.listener);

    client_turn_until(&r, &r.made, 1);
    client_turn(&r);

    int second = accept_one(listener);
    char byte;
    struct sockaddr_in peer;
    getpeername(rondo_connector_transport(r.connector)->fd, (struct sockaddr *)&peer,
                &(socklen_t){ sizeof peer });
    bool first_won = ntohl(peer.sin_addr.s_addr) == INADDR_LOOPBACK; /* whichever the kernel told first */
    cr_assert(eq(int, (int)recv(first_won ? second : first, &byte, 1, 0), 0), "the loser sees the end");
    cr_assert(eq(int, (int)recv(first_won ? first : second, &byte, 1, MSG_DONTWAIT), -1));
    cr_assert(eq(int, errno, EAGAIN));
    cr_assert(eq(str, r.calls, "SC CM"));
    close(first);
    close(second);
    client_turn_out(&r);
    close(listener);
    client_close_black_hole(&hole);
}

/* ---- names ----------------------------------------------------------------------------------------------- */

Test(connector, localhost_is_found, IN_A_WORLD)
{
    struct record r = { 0 };
    unsigned port = 0;
    int listener = client_listen("127.0.0.1", &port, 1);
    connect_to(&r, client_url("localhost", port));
    client_turn_until(&r, &r.made, 1);
    close(accept_one(listener));
    client_turn_out(&r);
    close(listener);
}

Test(connector, a_name_that_is_not_there_fails, IN_A_WORLD)
{
    struct record r = { 0 };
    names_fail("gone.test", EAI_NONAME);
    connect_to(&r, "tcp://gone.test:7777");
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(int, r.error, -ENOENT));
    assert_why("can't connect to tcp://gone.test:7777: can't resolve gone.test: Name or service not known");
}

Test(connector, a_name_that_nobody_can_look_up_fails, IN_A_WORLD)
{
    struct record r = { 0 };
    connect_to(&r, "tcp://nosuchname.invalid:7777"); /* for which no name server may know an address */
    client_turn_until(&r, &r.failed, 1);
    cr_assert(r.error == -ENOENT || r.error == -EAGAIN, "%d", r.error);
    cr_assert_not_null(strstr(r.why, "can't resolve nosuchname.invalid: "));
}

/* ---- the local address ----------------------------------------------------------------------------------- */

Test(connector, it_connects_from_the_local_address, IN_A_WORLD)
{
    struct record r = { 0 };
    struct sockaddr_in from;
    unsigned port = 0;
    int listener = client_listen("127.0.0.1", &port, 1);
    rondo_client_options options = client_options(&r, client_url("127.0.0.1", port));
    options.local_url = "tcp://127.0.0.9:0";
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.made, 1);

    int peer = accept(listener, (struct sockaddr *)&from, &(socklen_t){ sizeof from });
    cr_assert(eq(uint, ntohl(from.sin_addr.s_addr), INADDR_LOOPBACK + 8));
    close(peer);
    client_turn_out(&r);
    close(listener);
}

Test(connector, it_connects_from_the_local_port, IN_A_WORLD)
{
    struct record r = { 0 };
    struct sockaddr_in from;
    unsigned port = 0, local_port = 0;
    int listener = client_listen("127.0.0.1", &port, 1);
    close(client_refusing_port(&local_port));
    rondo_client_options options = client_options(&r, client_url("127.0.0.1", port));
    options.local_url = client_url("127.0.0.1", local_port);
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.made, 1);

    int peer = accept(listener, (struct sockaddr *)&from, &(socklen_t){ sizeof from });
    cr_assert(eq(uint, ntohs(from.sin_port), local_port));
    close(peer);
    client_turn_out(&r);
    close(listener);
}

Test(connector, an_address_this_machine_does_not_have_can_not_be_local, IN_A_WORLD)
{
    struct record r = { 0 };
    rondo_client_options options = client_options(&r, "tcp://127.0.0.1:1");
    options.local_url = "tcp://203.0.113.7:0";
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(int, r.error, -EADDRNOTAVAIL));
    assert_why("can't connect to tcp://127.0.0.1:1: 127.0.0.1:1: bind: Cannot assign requested address");
}

Test(connector, a_family_without_a_local_address_is_not_tried, IN_A_WORLD)
{
    struct record r = { 0 };
    unsigned port = 0;
    int holder = client_refusing_port(&port);
    names_add("two.test", "::1 127.0.0.1");
    rondo_client_options options = client_options(&r, client_url("two.test", port));
    options.local_url = "tcp://127.0.0.1:0";
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(int, r.error, -ECONNREFUSED), "what was tried counts");
    assert_why("can't connect to tcp://two.test:%u: [::1]:%u: there is no local IPv6 address; "
               "127.0.0.1:%u: Connection refused",
               port, port, port);
    close(holder);
}

Test(connector, without_any_local_address_of_the_family_it_fails, IN_A_WORLD)
{
    struct record r = { 0 };
    rondo_client_options options = client_options(&r, "tcp://[::1]:1");
    options.local_url = "tcp://127.0.0.1:0";
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(int, r.error, -EAFNOSUPPORT));
    assert_why("can't connect to tcp://[::1]:1: [::1]:1: there is no local IPv6 address");
}

Test(connector, a_local_name_gives_each_family_its_address, IN_A_WORLD)
{
    struct record r = { 0 };
    struct sockaddr_in from;
    unsigned port = 0;
    int listener = client_listen("127.0.0.1", &port, 1);
    names_add("here.test", "::1 127.0.0.7");
    rondo_client_options options = client_options(&r, client_url("127.0.0.1", port));
    options.local_url = "tcp://here.test:0";
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.made, 1);
    int peer = accept(listener, (struct sockaddr *)&from, &(socklen_t){ sizeof from });
    cr_assert(eq(uint, ntohl(from.sin_addr.s_addr), INADDR_LOOPBACK + 6));
    close(peer);
    client_turn_out(&r);
    close(listener);
}

Test(connector, a_local_name_that_is_not_there_fails, IN_A_WORLD)
{
    struct record r = { 0 };
    names_fail("gone.test", EAI_NONAME);
    rondo_client_options options = client_options(&r, "tcp://127.0.0.1:1");
    options.local_url = "tcp://gone.test:0";
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(int, r.error, -ENOENT));
}

/* ---- deadlines ------------------------------------------------------------------------------------------- */

Test(connector, who_does_not_answer_in_time_has_failed, IN_A_WORLD)
{
    struct record r = { 0 };
    struct black_hole hole;
    unsigned port = 0;
    client_black_hole(&hole, "127.0.0.1", &port);
    names_add("two.test", "127.0.0.1 127.0.0.2");
    rondo_client_options options = client_options(&r, client_url("two.test", port));
    options.timeout_ms = 1000;
    options.happy_eyeballs_delay_ms = UINT64_MAX;
    client_connect(&r, &world, &options);
    client_turn_until(&r, &r.failed, 1);

    cr_assert(eq(int, r.error, -ETIMEDOUT));
    assert_why("can't connect to tcp://two.test:%u: not done after 1000 ms: 127.0.0.1:%u: no answer", port,
               port);
    client_turn_out(&r);
    client_close_black_hole(&hole);
}

Test(connector, the_deadline_holds_for_the_look_up_too)
{
    struct record r = { 0 };
    names_hang("slow.test");
    open_world();
    rondo_client_options options = client_options(&r, "tcp://slow.test:7777");
    options.timeout_ms = 1000;
    client_connect(&r, &world, &options);
    client_turn(&r);
    names_wait_until_hung(); /* else it might be taken back before anybody asks */
    client_turn_until(&r, &r.failed, 1);

    cr_assert(eq(int, r.error, -ETIMEDOUT));
    assert_why("can't connect to tcp://slow.test:7777: not done after 1000 ms: no name server has answered");
    cr_assert(eq(uint, world.loop.users, 0), "nobody waits for it");
    close_world();
    names_let_go(); /* when all is over */
    names_wait_until_left();
}

/* ---- stop ------------------------------------------------------------------------------------------------ */

static void stop(struct record *r)
{
    rondo_connector_stop_connecting(r->connector);
    rondo_connector_stop_connecting(r->connector);
}

static void stop_from_outside(struct record *r)
{
    r->in_call = true;
    stop(r);
    r->in_call = false;
}

Test(connector, it_can_be_stopped_before_it_begins, IN_A_WORLD)
{
    struct record r = { 0 };
    connect_to(&r, "tcp://127.0.0.1:1");
    stop_from_outside(&r);
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(str, r.calls, "cf"));
    cr_assert(eq(int, r.error, -ECANCELED));
    assert_why("can't connect to tcp://127.0.0.1:1: stopped");
    cr_assert(eq(uint, world.loop.users, 0));
}

Test(connector, it_can_be_stopped_in_started_connecting, IN_A_WORLD)
{
    struct record r = { .on_started = stop_from_outside };
    connect_to(&r, "tcp://127.0.0.1:1");
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(str, r.calls, "SC cf"));
    cr_assert(eq(int, r.error, -ECANCELED));
    client_turn_out(&r);
}

Test(connector, it_can_be_stopped_while_a_name_is_looked_up)
{
    struct record r = { 0 };
    names_hang("slow.test");
    open_world();
    connect_to(&r, "tcp://slow.test:1");
    client_turn(&r);
    names_wait_until_hung();
    stop_from_outside(&r);
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(str, r.calls, "SC cf"));
    cr_assert(eq(int, r.error, -ECANCELED));
    close_world();
    names_let_go();
    names_wait_until_left();
}

Test(connector, it_can_be_stopped_while_it_connects, IN_A_WORLD)
{
    struct record r = { 0 };
    struct black_hole hole;
    unsigned port = 0;
    client_black_hole(&hole, "127.0.0.1", &port);
    connect_to(&r, client_url("127.0.0.1", port));
    client_turn(&r);
    stop_from_outside(&r);
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(str, r.calls, "SC cf"));
    cr_assert(eq(int, r.error, -ECANCELED));
    client_turn_out(&r);
    client_close_black_hole(&hole);
}

static void stop_and_close(struct record *r, rondo_transport *t)
{
    stop(r);
    cr_assert(not(rondo_is_closing(t)), "there is nothing to stop");
    rondo_connector_disconnect(r->connector);
    cr_assert(rondo_is_closing(t));
    rondo_connector_disconnect(r->connector);
}

Test(connector, a_connection_is_not_stopped_but_disconnected, IN_A_WORLD)
{
    struct record r = { .on_made = stop_and_close, .on_lost = stop };
    unsigned port = 0;
    int listener = client_listen("127.0.0.1", &port, 1);
    connect_to(&r, client_url("127.0.0.1", port));
    client_turn_until(&r, &r.lost, 1);
    cr_assert(eq(str, r.calls, "SC CM CL cl"));
    cr_assert(eq(int, r.error, 0));
    close(accept_one(listener));
    client_turn_out(&r);
    close(listener);
}

static void disconnect(struct record *r)
{
    rondo_connector_disconnect(r->connector);
}

Test(connector, to_disconnect_what_is_not_connected_stops_it, IN_A_WORLD)
{
    struct record r = { .on_started = disconnect, .on_failed = disconnect };
    connect_to(&r, "tcp://127.0.0.1:1");
    client_turn_until(&r, &r.failed, 1);
    cr_assert(eq(str, r.calls, "SC cf"));
    cr_assert(eq(int, r.error, -ECANCELED));
    client_turn_out(&r);
}

/* ---- again ----------------------------------------------------------------------------------------------- */

static void connect_five_times(struct record *r)
{
    if (r->failed + r->lost < 5) {
        r->in_call = true;
        rondo_connector_connect(r->connector);
        r->in_call = false;
    }
}

Test(connector, it_connects_again_when_it_has_failed, IN_A_WORLD)
{
    struct record r = { .on_failed = connect_five_times };
    unsigned port = 0;
    int holder = client_refusing_port(&port);
    connect_to(&r, client_url("127.0.0.1", port));
    client_turn_out(&r);
    cr_assert(eq(str, r.calls, "SC cf SC cf SC cf SC cf SC cf"));
    cr_assert(eq(int, r.error, -ECONNREFUSED));
    close(holder);
}

static void close_it(struct record *r, rondo_transport *t)
{
    (void)r;
    rondo_abort(t);
}

Test(connector, it_connects_again_when_the_connection_is_lost, IN_A_WORLD)
{
    struct record r = { .on_lost = connect_five_times, .on_made = close_it };
    unsigned port = 0;
    int listener = client_listen("127.0.0.1", &port, 8);
    connect_to(&r, client_url("127.0.0.1", port));
    client_turn_out(&r);
    cr_assert(eq(str, r.calls, "SC CM CL cl SC CM CL cl SC CM CL cl SC CM CL cl SC CM CL cl"));
    close(listener);
}

static void connect_and_stop(struct record *r)
{
    if (r->failed > 1)
        return;
    r->in_call = true;
    rondo_connector_connect(r->connector);
    stop(r);
    r->in_call = false;
}

Test(connector, to_connect_again_can_be_taken_back, IN_A_WORLD)
{
    struct record r = { .on_failed = connect_and_stop };
    unsigned port = 0;
    int holder = client_refusing_port(&port);
    connect_to(&r, client_url("127.0.0.1", port));
    client_turn_out(&r);
    cr_assert(eq(str, r.calls, "SC cf cf"));
    cr_assert(eq(int, r.error, -ECANCELED));
    close(holder);
}

/* ---- many ------------------------------------------------------------------------------------------------ */

enum { MANY = 1000 };

static struct {
    unsigned made, echoed, lost, failed;
} many;

static void many_made(rondo_transport *t)
{
    cr_assert_not_null(rondo_get_connector(t));
    many.made++;
    rondo_write_static(t, RONDO_BYTES("x"));
}

static void many_received(rondo_transport *t, rondo_bytes data)
{
    many.echoed += (unsigned)data.size;
    rondo_close(t);
}

static void many_lost(rondo_connector *connector, int error)
{
    cr_assert(eq(int, error, 0));
    cr_assert_null(rondo_connector_transport(connector));
    many.lost++;
}

static void many_failed(rondo_connector *connector, int error, const char *why)
{
    (void)connector;
    (void)error;
    cr_log_error("%s", why);
    many.failed++;
}

struct echo_listener {
    struct op accept;
    int fd;
};

static const rondo_protocol echo = { .name = "echo", .data_received = rondo_write };

static void accepted(struct op *op, const struct completion *completion)
{
    struct echo_listener *listener = rondo_container_of(op, struct echo_listener, accept);
    if (completion->result < 0)
        return;
    if (!completion->more) /* more completions than there is room for end it */
        engine_accept(world.loop.engine, &listener->accept, listener->fd);
    struct transport_start start = { .protocol = &echo, .fd = completion->result, .family = AF_INET };
    cr_assert_null(rondo_get_connector(transport_open(&world.service, &start)));
}

Test(connector, a_thousand_connections_out_and_in, IN_A_WORLD)
{
    static const rondo_protocol client = { .connection_made = many_made, .data_received = many_received };
    struct record r = { .world = &world };
    struct rlimit limit;
    struct echo_listener listener = { .accept.done = accepted };
    unsigned port = 0;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    listener.fd = client_listen("127.0.0.1", &port, MANY);
    engine_accept(world.loop.engine, &listener.accept, listener.fd);
    rondo_client_options options = { .url = client_url("localhost", port),
                                     .protocol = &client,
                                     .connection_failed = many_failed,
                                     .connection_lost = many_lost };
    for (unsigned i = 0; i < MANY; i++)
        cr_assert(eq(int, rondo_create_connection(&world.loop, &options, NULL), 0));

    client_turn_until(&r, &many.lost, MANY);
    client_turn_out(&r);

    cr_assert(eq(uint, many.made, MANY));
    cr_assert(eq(uint, many.echoed, MANY));
    cr_assert(eq(uint, many.lost, MANY));
    cr_assert(eq(uint, many.failed, 0));
    engine_cancel(world.loop.engine, &listener.accept);
    client_turn(&r);
    close(listener.fd);
}

Test(connector, the_limit_of_connections_is_for_the_servers_side, IN_A_WORLD)
{
    struct record one = { 0 }, other = { 0 };
    unsigned port = 0;
    int listener = client_listen("127.0.0.1", &port, 2);
    world.settings.max_connections = 1;
    connect_to(&one, client_url("127.0.0.1", port));
    connect_to(&other, client_url("127.0.0.1", port));
    client_turn_until(&one, &one.made, 1);
    client_turn_until(&other, &other.made, 1);
    close(accept_one(listener));
    close(accept_one(listener));
    client_turn_out(&one);
    cr_assert(eq(uint, world.settings.connections, 0));
    cr_assert(service_admit(&world.service));
    close(listener);
}

/* ---- drain ----------------------------------------------------------------------------------------------- */

static void drain(void)
{
    service_hooks.drain(&world.loop);
}

static void connect_again_in_vain(struct record *r)
{
    rondo_client_options options = client_options(r, "tcp://127.0.0.1:1");
    r->in_call = true;
    rondo_connector_connect(r->connector);
    cr_assert(eq(int, rondo_create_connection(&world.loop, &options, NULL), -ESHUTDOWN));
    r->in_call = false;
}

Test(connector, a_draining_server_connects_no_more, IN_A_WORLD)
{
    struct record starting = { .on_failed = connect_again_in_vain };
    struct record stopped = { .on_failed = connect_again_in_vain };
    connect_to(&starting, "tcp://127.0.0.1:1");
    connect_to(&stopped, "tcp://127.0.0.1:1");
    stop_from_outside(&stopped);
    drain();
    cr_assert(eq(str, starting.calls, "cf"));
    cr_assert(eq(int, starting.error, -ECANCELED));
    cr_assert(eq(str, starting.why, "can't connect to tcp://127.0.0.1:1: the server drains"));
    cr_assert(eq(str, stopped.calls, "cf"));
    cr_assert(eq(int, stopped.error, -ECANCELED));
    cr_assert(eq(uint, world.loop.users, 0));
}

Test(connector, a_drain_ends_attempts_and_look_ups)
{
    struct record r = { .on_failed = connect_again_in_vain }, slow = r;
    struct black_hole hole;
    unsigned port = 0;
    names_hang("slow.test");
    open_world();
    client_black_hole(&hole, "127.0.0.1", &port);
    connect_to(&r, client_url("127.0.0.1", port));
    connect_to(&slow, "tcp://slow.test:1");
    client_turn(&r);
    names_wait_until_hung();
    drain();
    cr_assert(eq(str, r.calls, "SC cf"));
    cr_assert(eq(int, r.error, -ECANCELED));
    cr_assert(eq(str, slow.calls, "SC cf"));
    cr_assert(eq(int, slow.error, -ECANCELED));
    client_turn_out(&r);
    client_close_black_hole(&hole);
    close_world();
    names_let_go();
    names_wait_until_left();
}

Test(connector, a_drain_closes_connections_and_they_stay_closed, IN_A_WORLD)
{
    struct record r = { .on_lost = connect_again_in_vain };
    unsigned port = 0;
    int listener = client_listen("127.0.0.1", &port, 1);
    connect_to(&r, client_url("127.0.0.1", port));
    client_turn_until(&r, &r.made, 1);
    drain();
    int peer = accept_one(listener);
    client_turn_until(&r, &r.lost, 1);
    cr_assert(eq(str, r.calls, "SC CM CL cl"));
    close(peer);
    client_turn_out(&r);
    close(listener);
}

/* ---- in a server, by rondo_run ---------------------------------------------------------------------------- */

static struct record runs[4];
static struct black_hole run_hole;
static rondo_client_service *run_service;
static unsigned run_stopped, run_ready;
static int start_result;
static rondo_call run_look;

static void note_run_stopped(rondo_client_service *s)
{
    (void)s;
    run_stopped++;
}

/* All have got where they shall be when the server is stopped. */
static void stop_when_ready(rondo_call *call)
{
    rondo_loop *loop = rondo_connector_get_loop(runs[0].connector);
    if (runs[2].made == 1 && runs[3].failed > 0 && strcmp(runs[0].calls, "SC") == 0 &&
        strcmp(runs[1].calls, "SC") == 0) {
        run_ready++;
        names_wait_until_hung();
        rondo_stop(loop);
    } else {
        rondo_call_soon(loop, call, stop_when_ready);
    }
}

static const char *run_urls[4];

static int start_clients(rondo_loop *loop)
{
    for (unsigned i = 0; i < 3; i++) {
        rondo_client_options options = client_options(&runs[i], run_urls[i]);
        cr_assert(eq(int, rondo_create_connection(loop, &options, &runs[i].connector), 0));
    }
    rondo_client_service_options options = { .client = client_options(&runs[3], run_urls[3]),
                                             .stopped = note_run_stopped };
    cr_assert(eq(int, rondo_start_client_service(loop, &options, &run_service), 0));
    if (start_result == 0)
        rondo_call_soon(loop, &run_look, stop_when_ready);
    return start_result;
}

/* One look-up, one attempt, one connection to the server itself, and a client service that waits to try again. */
static int run_with_clients(void)
{
    unsigned hole_port = 0, port = 0, refusing_port = 0;
    int holder = client_refusing_port(&refusing_port);
    names_hang("slow.test");
    client_black_hole(&run_hole, "127.0.0.1", &hole_port);
    close(client_refusing_port(&port));
    run_urls[0] = "tcp://slow.test:1";
    run_urls[1] = client_url("127.0.0.1", hole_port);
    run_urls[2] = client_url("127.0.0.1", port);
    run_urls[3] = client_url("127.0.0.1", refusing_port);
    const rondo_app app = {
        .servers = { { .url = run_urls[2], .protocol = &echo } },
        .shards = 1,
        .shard_start = start_clients,
        .drain_timeout_ms = 20000,
    };
    int rc = rondo_run(&app);
    close(holder);
    client_close_black_hole(&run_hole);
    return rc;
}

Test(connector, a_server_ends_with_clients_in_every_state)
{
    unsigned before = client_count_descriptors();
    cr_assert(eq(int, run_with_clients(), 0));
    cr_assert(eq(uint, run_ready, 1));
    cr_assert(eq(str, runs[0].calls, "SC cf"));
    cr_assert(eq(int, runs[0].error, -ECANCELED));
    cr_assert(eq(str, runs[1].calls, "SC cf"));
    cr_assert(eq(int, runs[1].error, -ECANCELED));
    cr_assert(eq(int, strncmp(runs[2].calls, "SC CM", 5), 0));
    cr_assert(eq(uint, runs[2].lost, 1));
    cr_assert(eq(str, runs[3].calls, "SC cf"), "it waited for its next attempt");
    cr_assert(eq(uint, run_stopped, 1));
    cr_assert(eq(uint, client_count_descriptors(), before));
    names_let_go(); /* rondo_run did not wait for it */
    names_wait_until_left();
}

Test(connector, a_shard_that_can_not_start_takes_its_clients_back)
{
    unsigned before = client_count_descriptors();
    start_result = -EXDEV;
    cr_assert(eq(int, run_with_clients(), -EXDEV));
    for (unsigned i = 0; i < 4; i++) {
        cr_assert(eq(str, runs[i].calls, "cf"));
        cr_assert(eq(int, runs[i].error, -ECANCELED));
    }
    cr_assert(eq(uint, run_stopped, 1));
    cr_assert(eq(uint, client_count_descriptors(), before));
}

Test(connector, in_the_test_kit_nobody_can_be_reached)
{
    struct record r = { 0 };
    rondo_test *test = rondo_test_open(NULL);
    rondo_client_options options = client_options(&r, "tcp://127.0.0.1:7777");
    options.local_url = "tcp://127.0.0.1:0";
    cr_assert(eq(int, rondo_create_connection(rondo_test_loop(test), &options, NULL), 0));
    rondo_test_advance(test, 1);
    cr_assert(eq(str, r.calls, "SC cf"));
    cr_assert(eq(int, r.error, -ENETUNREACH));
    cr_assert(eq(int, rondo_test_close(test), 0));
}
