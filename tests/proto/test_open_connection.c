/* Streams that tasks open, on real sockets of loopback: connecting, failing, being cancelled meanwhile, and what is
 * left. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rondo/rondo.h>

#include "core/task.h"
#include "net/service.h"
#include "support/abstract.h"
#include "support/client.h"

TestSuite(open_connection, .timeout = 30);

static struct world world;
static unsigned descriptors_before;
static char said[1000];
static rondo_server *upstream;
static int other_port;

static void say(const char *text, int number)
{
    size_t size = strlen(said);
    snprintf(said + size, sizeof said - size, "%s%s %d", size > 0 ? ", " : "", text, number);
}

static void open_world(void)
{
    world_open(&world, NULL);
    descriptors_before = client_count_descriptors();
}

/* The books balance: no task, transport, operation, user or descriptor is left. */
static void close_world(void)
{
    cr_assert(zero(uint, tasks_count(&world.loop)));
    cr_assert(eq(uint, client_count_descriptors(), descriptors_before));
    cr_assert(list_is_empty(&world.service.stoppables));
    world_close(&world);
}

#define IN_A_WORLD .init = open_world, .fini = close_world

static void turn_out(void)
{
    for (unsigned i = 0; i < 10000 && world.loop.users > 0; i++)
        cr_assert(zero(int, loop_turn(&world.loop, 10 * 1000 * 1000)));
    cr_assert(zero(uint, world.loop.users));
}

static rondo_task *begin(int (*run)(void *argument), void *argument)
{
    rondo_task *task;
    const rondo_task_options options = { .run = run, .argument = argument, .name = "test" };
    cr_assert(zero(int, rondo_create_task(&world.loop, &options, &task)));
    return task;
}

static void echo_lines(rondo_stream *s)
{
    rondo_bytes line;
    while (rondo_readline(s, &line) > 0)
        rondo_stream_write(s, line);
}

static const rondo_stream_protocol echo = { RONDO_STREAM_READER("echo"), .client_connected = echo_lines };

static rondo_server *serve(const rondo_stream_protocol *protocol, const char *url)
{
    rondo_server *server;
    cr_assert(zero(int, rondo_start_server(&world.loop, protocol, url, &server)));
    return server;
}

/* ---- it connects ----------------------------------------------------------------------------------------- */

struct visit {
    const char *url;
    rondo_server *server;
};

static int talk(rondo_stream *s)
{
    rondo_bytes line;
    rondo_stream_write(s, RONDO_BYTES("hello\nagain\n"));
    for (unsigned i = 0; i < 2; i++) {
        ssize_t size = rondo_readline(s, &line);
        say("line", (int)size);
    }
    rondo_stream_write_eof(s);
    return (int)rondo_read(s, RONDO_TO_EOF, &line);
}

static int visit(void *argument)
{
    const struct visit *self = argument;
    rondo_stream *s;
    cr_assert(zero(int, rondo_open_connection(self->url, NULL, &s)));
    int rc = talk(s);
    rondo_stream_close(s);
    say("closed", rondo_stream_wait_closed(s));
    rondo_server_close(self->server);
    return rc;
}

Test(open_connection, by_tcp_to_a_server_of_the_same_shard, IN_A_WORLD)
{
    rondo_server *server = serve(&echo, "tcp://127.0.0.1:0");
    struct visit there = { rondo_server_url(server, 0), server };
    begin(visit, &there);
    turn_out();
    cr_assert(eq(str, said, "line 6, line 6, closed 0"));
}

Test(open_connection, by_a_unix_socket, IN_A_WORLD)
{
    const char *url = abstract_url("open");
    struct visit there = { url, serve(&echo, url) };
    begin(visit, &there);
    turn_out();
    cr_assert(eq(str, said, "line 6, line 6, closed 0"));
}

static int visit_and_leave(void *argument)
{
    const struct visit *self = argument;
    rondo_stream *s;
    cr_assert(zero(int, rondo_open_connection(self->url, NULL, &s)));
    rondo_stream_write(s, RONDO_BYTES("hello\n"));
    rondo_server_close(self->server);
    return 0; /* what was written is sent */
}

static void count_bytes(rondo_stream *s)
{
    rondo_bytes data;
    say("read", (int)rondo_read(s, RONDO_TO_EOF, &data));
}

static const rondo_stream_protocol counting = { RONDO_STREAM_READER("counting"),
                                                .client_connected = count_bytes };

Test(open_connection, it_ends_with_the_task_that_opened_it, IN_A_WORLD)
{
    rondo_server *server = serve(&counting, "tcp://127.0.0.1:0");
    struct visit there = { rondo_server_url(server, 0), server };
    begin(visit_and_leave, &there);
    turn_out();
    cr_assert(eq(str, said, "read 6"));
}

static int visit_often(void *argument)
{
    const struct visit *self = argument;
    for (unsigned i = 0; i < 50; i++) {
        rondo_stream *s;
        cr_assert(zero(int, rondo_open_connection(self->url, NULL, &s)));
        if (i % 2 == 0)
            rondo_stream_abort(s);
        rondo_stream_free(s);
    }
    rondo_server_close(self->server);
    return 0;
}

Test(open_connection, one_task_may_open_many_and_forget_them, IN_A_WORLD)
{
    rondo_server *server = serve(&echo, "tcp://127.0.0.1:0");
    struct visit there = { rondo_server_url(server, 0), server };
    begin(visit_often, &there);
    turn_out();
}

static int visit_in_small_lines(void *argument)
{
    const struct visit *self = argument;
    rondo_stream *s;
    rondo_bytes line;
    const rondo_connection_options options = { .limit = 4, .local_url = "tcp://127.0.0.1:0" };
    cr_assert(zero(int, rondo_open_connection(self->url, &options, &s)));
    rondo_stream_write(s, RONDO_BYTES("much too long\n"));
    say("line", (int)rondo_readline(s, &line));
    rondo_server_close(self->server);
    return 0;
}

Test(open_connection, with_options, IN_A_WORLD)
{
    char expected[40];
    rondo_server *server = serve(&echo, "tcp://127.0.0.1:0");
    struct visit there = { rondo_server_url(server, 0), server };
    begin(visit_in_small_lines, &there);
    turn_out();
    snprintf(expected, sizeof expected, "line %d", -EMSGSIZE);
    cr_assert(eq(str, said, (char *)expected));
}

static void ask(rondo_stream *s)
{
    rondo_bytes line;
    rondo_stream_write(s, RONDO_BYTES("hello\n"));
    say("line", (int)rondo_readline(s, &line));
    rondo_server_close(upstream);
}

static const rondo_stream_protocol asking = { RONDO_STREAM_READER("asking"), .client_connected = ask };

Test(open_connection, one_that_is_made_by_a_connector_may_have_a_handler, IN_A_WORLD)
{
    upstream = serve(&echo, "tcp://127.0.0.1:0");
    const rondo_client_options options = {
        .url = rondo_server_url(upstream, 0),
        .protocol = &asking.protocol,
    };
    cr_assert(zero(int, rondo_create_connection(&world.loop, &options, NULL)));
    turn_out();
    cr_assert(eq(str, said, "line 6"));
}

/* ---- it doesn't ------------------------------------------------------------------------------------------ */

static int fail_to_open(void *argument)
{
    rondo_stream *s = NULL;
    say("open", rondo_open_connection(argument, NULL, &s));
    cr_assert(zero(ptr, s));
    return 0;
}

static void expect(const char *what, int number)
{
    char expected[80];
    snprintf(expected, sizeof expected, "%s %d", what, number);
    cr_assert(eq(str, said, (char *)expected));
}

Test(open_connection, refused, IN_A_WORLD)
{
    unsigned port = 0;
    int held = client_refusing_port(&port);
    begin(fail_to_open, (void *)client_url("127.0.0.1", port));
    turn_out();
    expect("open", -ECONNREFUSED);
    close(held);
}

Test(open_connection, an_address_that_is_none, IN_A_WORLD)
{
    begin(fail_to_open, "tcp:/nowhere");
    turn_out();
    expect("open", -EINVAL);
}

Test(open_connection, outside_a_task, IN_A_WORLD)
{
    rondo_stream *s;
    cr_assert(eq(int, rondo_open_connection("tcp://127.0.0.1:1", NULL, &s), -EPERM));
}

static int open_in_time(void *argument)
{
    rondo_timeout(20);
    return fail_to_open(argument);
}

Test(open_connection, not_in_the_tasks_time, IN_A_WORLD)
{
    struct black_hole hole;
    unsigned port = 0;
    client_black_hole(&hole, "127.0.0.1", &port);
    begin(open_in_time, (void *)client_url("127.0.0.1", port));
    turn_out();
    expect("open", -ETIMEDOUT);
    client_close_black_hole(&hole);
}

static void turn(unsigned turns)
{
    for (unsigned i = 0; i < turns; i++)
        cr_assert(zero(int, loop_turn(&world.loop, 0)));
}

Test(open_connection, cancelled, IN_A_WORLD)
{
    struct black_hole hole;
    unsigned port = 0;
    client_black_hole(&hole, "127.0.0.1", &port);
    rondo_task *task = begin(fail_to_open, (void *)client_url("127.0.0.1", port));
    turn(5);
    rondo_cancel(task);
    turn_out();
    expect("open", -ECANCELED);
    client_close_black_hole(&hole);
}

Test(open_connection, cancelled_before_it_begins, IN_A_WORLD)
{
    struct black_hole hole;
    unsigned port = 0;
    client_black_hole(&hole, "127.0.0.1", &port);
    rondo_cancel(begin(fail_to_open, (void *)client_url("127.0.0.1", port)));
    turn_out();
    expect("open", -ECANCELED);
    client_close_black_hole(&hole);
}

Test(open_connection, the_server_drains_meanwhile, IN_A_WORLD)
{
    struct black_hole hole;
    unsigned port = 0;
    client_black_hole(&hole, "127.0.0.1", &port);
    begin(fail_to_open, (void *)client_url("127.0.0.1", port));
    turn(5);
    service_hooks.drain(&world.loop);
    turn_out();
    expect("open", -ECANCELED);
    client_close_black_hole(&hole);
}

/* ---- while it lasts -------------------------------------------------------------------------------------- */

static int read_on(void *argument)
{
    const struct visit *self = argument;
    rondo_stream *s;
    rondo_bytes data;
    cr_assert(zero(int, rondo_open_connection(self->url, NULL, &s)));
    say("read", (int)rondo_read(s, 1, &data));
    cr_assert(not(rondo_task_is_cancelled(rondo_current_task())), "it is not a handler");
    rondo_server_close(self->server);
    return 0;
}

static void reset(rondo_stream *s)
{
    rondo_stream_abort(s);
}

static const rondo_stream_protocol resetting = { RONDO_STREAM_READER("resetting"),
                                                 .client_connected = reset };

Test(open_connection, the_peer_resets_it, IN_A_WORLD)
{
    rondo_server *server = serve(&resetting, "tcp://127.0.0.1:0");
    struct visit there = { rondo_server_url(server, 0), server };
    begin(read_on, &there);
    turn_out();
    expect("read", -ECONNRESET);
}

static int read_while_draining(void *argument)
{
    rondo_stream *s;
    rondo_bytes data;
    cr_assert(zero(int, rondo_open_connection(argument, NULL, &s)));
    say("read", (int)rondo_read(s, 1, &data));
    say("sleep", rondo_sleep(1));
    return 0;
}

Test(open_connection, the_server_drains_while_it_reads, IN_A_WORLD)
{
    char expected[80];
    unsigned port = 0;
    int listener = client_listen("127.0.0.1", &port, 1);
    begin(read_while_draining, (void *)client_url("127.0.0.1", port));
    turn(20);
    int peer = accept(listener, NULL, NULL);
    cr_assert(ge(int, peer, 0));
    service_hooks.drain(&world.loop);
    close(peer);
    turn_out();
    snprintf(expected, sizeof expected, "read %d, sleep %d", -ECANCELED, -ECANCELED);
    cr_assert(eq(str, said, (char *)expected));
    close(listener);
}

static int connect_to(const char *url)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_port = htons((uint16_t)strtoul(strrchr(url, ':') + 1, NULL, 10));
    cr_assert(zero(int, connect(fd, (struct sockaddr *)&address, sizeof address)));
    return fd;
}

/* A handler that asks somebody else for each line. */
static void ask_for_each(rondo_stream *s)
{
    rondo_stream *other;
    rondo_bytes line, answer;
    cr_assert(zero(int, rondo_open_connection(client_url("127.0.0.1", (unsigned)other_port), NULL, &other)));
    while (rondo_readline(s, &line) > 0) {
        rondo_stream_write(other, line);
        if (rondo_readline(other, &answer) <= 0)
            return;
        rondo_stream_write(s, answer);
    }
}

static const rondo_stream_protocol relaying = {
    RONDO_STREAM_READER("relaying"),
    .client_connected = ask_for_each,
    .limit = 10,
};

static void echo_what_is_there(int fd)
{
    char bytes[100];
    ssize_t size = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (size > 0)
        cr_assert(eq(int, (int)send(fd, bytes, (size_t)size, 0), (int)size));
}

/* Not all that had arrived has been given to the handler when the server drains; so it goes on. */
Test(open_connection, a_server_that_drains_leaves_it_to_its_task, IN_A_WORLD)
{
    static const char lines[] = "line\nline\nline\nline\nline\n";
    char received[100];
    ssize_t answered = 0;
    unsigned port = 0;
    int listener = client_listen("127.0.0.1", &port, 1);
    other_port = (int)port;
    rondo_server *server = serve(&relaying, "tcp://127.0.0.1:0");
    int client = connect_to(rondo_server_url(server, 0));
    for (unsigned i = 0; i < 2; i++) { /* the second half waits: above twice the limit reading is paused */
        cr_assert(eq(int, (int)send(client, lines, sizeof lines - 1, 0), (int)sizeof lines - 1));
        turn(20);
    }
    int other = accept(listener, NULL, NULL);
    cr_assert(ge(int, other, 0));
    service_hooks.drain(&world.loop);
    for (unsigned i = 0; i < 200; i++) {
        echo_what_is_there(other);
        turn(1);
        ssize_t size = recv(client, received, sizeof received, MSG_DONTWAIT);
        answered += size > 0 ? size : 0;
    }
    cr_assert(ge(int, (int)answered, 10));
    close(client);
    close(other);
    close(listener);
    turn_out();
}

/* A handler that passes on what its own client says to another server, both ways at a time, by a task more. */
static const char *upstream_url;

static void pass_on(rondo_stream *from, rondo_stream *to)
{
    rondo_bytes data;
    while (rondo_read(from, 4096, &data) > 0) {
        rondo_stream_write(to, data);
        if (rondo_drain(to) < 0)
            return;
    }
    rondo_stream_write_eof(to);
}

struct pipe {
    rondo_stream *from, *to;
};

static int pass_back(void *argument)
{
    const struct pipe *pipe = argument;
    pass_on(pipe->from, pipe->to);
    return 0;
}

static void be_a_proxy(rondo_stream *s)
{
    struct pipe back = { .to = s };
    rondo_task *task;
    const rondo_task_options options = { .run = pass_back, .argument = &back };
    if (rondo_open_connection(upstream_url, NULL, &back.from) < 0 ||
        rondo_create_task(rondo_task_get_loop(rondo_current_task()), &options, &task) < 0)
        return;
    pass_on(s, back.from);
    rondo_join(task);
}

static const rondo_stream_protocol proxy = { RONDO_STREAM_READER("proxy"), .client_connected = be_a_proxy };

static int visit_the_proxy(void *argument)
{
    int rc = visit(argument);
    rondo_server_close(upstream);
    return rc;
}

Test(open_connection, a_proxy_of_two_tasks, IN_A_WORLD)
{
    upstream = serve(&echo, "tcp://127.0.0.1:0");
    upstream_url = rondo_server_url(upstream, 0);
    rondo_server *server = serve(&proxy, "tcp://127.0.0.1:0");
    struct visit there = { rondo_server_url(server, 0), server };
    begin(visit_the_proxy, &there);
    turn_out();
    cr_assert(eq(str, said, "line 6, line 6, closed 0"));
}

/* ---- many ------------------------------------------------------------------------------------------------ */

enum { MANY = 5000 }; /* two descriptors each, of 20,000 at most */

static unsigned connected;
static rondo_event all_connected;

static int visit_once(void *argument)
{
    const struct visit *self = argument;
    rondo_stream *s;
    rondo_bytes line;
    if (rondo_open_connection(self->url, NULL, &s) < 0)
        return -1;
    if (++connected == MANY)
        rondo_event_set(&all_connected);
    rondo_event_wait(&all_connected);
    rondo_stream_write(s, RONDO_BYTES("hello\n"));
    return (int)rondo_readline(s, &line);
}

static int visit_all_at_once(void *argument)
{
    static rondo_task *tasks[MANY];
    struct visit *self = argument;
    for (unsigned i = 0; i < MANY; i++) {
        const rondo_task_options options = { .run = visit_once, .argument = self };
        cr_assert(zero(int, rondo_create_task(&world.loop, &options, &tasks[i])));
    }
    unsigned good = 0;
    for (unsigned i = 0; i < MANY; i++)
        good += rondo_join(tasks[i]) == 6;
    say("good", (int)good);
    rondo_server_close(self->server);
    return 0;
}

/* 5,000 handlers and 5,000 clients, all on one shard. */
Test(open_connection, ten_thousand_tasks_with_streams, IN_A_WORLD, .timeout = 60)
{
    rondo_server *server = serve(&echo, "tcp://127.0.0.1:0");
    struct visit there = { rondo_server_url(server, 0), server };
    begin(visit_all_at_once, &there);
    turn_out();
    expect("good", MANY);
}
