/* The whole: rondo_run in this thread, clients and posters in others, and the command line. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/redirect.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rondo/app.h>
#include <rondo/task.h>
#include <rondo/transport.h>

#include "support/abstract.h"

TestSuite(app, .timeout = 30);

static const rondo_protocol echo = { .name = "echo", .data_received = rondo_write };

/* ---- shards --------------------------------------------------------------------------------------------- */

struct shard_state {
    unsigned index;
};

static atomic_uint started, stopped;

static int start_and_stop_soon(rondo_loop *loop)
{
    struct shard_state *state = rondo_shard_of(loop);
    cr_assert(eq(uint, state->index, 0), "zeroed");
    state->index = rondo_shard_index(loop);
    atomic_fetch_add(&started, 1);
    rondo_stop(loop);
    rondo_stop(loop);
    return 0;
}

static void count_stopped(rondo_loop *loop)
{
    struct shard_state *state = rondo_shard_of(loop);
    cr_assert(eq(uint, state->index, rondo_shard_index(loop)));
    atomic_fetch_add(&stopped, 1);
}

static unsigned count_descriptors(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

Test(app, every_shard_starts_and_stops_with_a_state_of_its_own)
{
    const rondo_app app = {
        .servers = { { .url = "tcp://127.0.0.1:0", .protocol = &echo } },
        .shards = 3,
        .shard_size = sizeof(struct shard_state),
        .shard_start = start_and_stop_soon,
        .shard_stop = count_stopped,
    };
    sigset_t before, after;
    unsigned descriptors = count_descriptors();
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    cr_assert(eq(int, rondo_run(&app), 0));
    cr_assert(eq(uint, started, 3));
    cr_assert(eq(uint, stopped, 3));
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    cr_assert(eq(int, sigismember(&after, SIGTERM), sigismember(&before, SIGTERM)));
    cr_assert(eq(int, rondo_run(&app), 0), "and again");
    cr_assert(eq(uint, count_descriptors(), descriptors), "none is left open");
}

static int refuse_shard_1(rondo_loop *loop)
{
    atomic_fetch_add(&started, rondo_shard_index(loop) != 1);
    return rondo_shard_index(loop) == 1 ? -EXDEV : 0;
}

static void count_without_state(rondo_loop *loop)
{
    (void)loop;
    atomic_fetch_add(&stopped, 1);
}

Test(app, a_shard_that_can_not_start_ends_the_run)
{
    const rondo_app app = {
        .servers = { { .url = "tcp://127.0.0.1:0", .protocol = &echo } },
        .shards = 3,
        .shard_start = refuse_shard_1,
        .shard_stop = count_without_state,
    };
    cr_assert(eq(int, rondo_run(&app), -EXDEV));
    cr_assert(eq(uint, started, 2));
    cr_assert(eq(uint, stopped, 2), "each that started is stopped");
}

/* ---- other threads --------------------------------------------------------------------------------------- */

enum { POSTS = 10000 };

static rondo_loop *posted_to;
static rondo_call posts[POSTS];
static unsigned posts_run; /* by the shard only */

static void run_post(rondo_call *call)
{
    cr_assert_eq(call, &posts[posts_run], "in order, each once");
    if (++posts_run == POSTS)
        rondo_stop(posted_to);
}

static void *post_all(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < POSTS; i++)
        cr_assert(eq(int, rondo_post(posted_to, &posts[i], run_post), 0));
    return NULL;
}

static pthread_t poster;

static int start_poster(rondo_loop *loop)
{
    posted_to = loop;
    return -pthread_create(&poster, NULL, post_all, NULL);
}

Test(app, what_another_thread_posts_runs_on_the_shard)
{
    const rondo_app app = {
        .servers = { { .url = "tcp://[::1]:0" } },
        .protocol = &echo,
        .shards = 1,
        .shard_start = start_poster,
    };
    cr_assert(eq(int, rondo_run(&app), 0));
    pthread_join(poster, NULL);
    cr_assert(eq(uint, posts_run, POSTS));
}

static int stopped_while_posted;

static void look_for_state(rondo_call *call)
{
    (void)call;
    stopped_while_posted = rondo_shard_of(posted_to) == NULL || stopped > 0;
}

static rondo_call late_post;

static int stop_and_post(rondo_loop *loop)
{
    posted_to = loop;
    rondo_stop(loop);
    return rondo_post(loop, &late_post, look_for_state);
}

Test(app, what_was_posted_runs_before_the_shard_stops)
{
    const rondo_app app = {
        .servers = { { .url = "tcp://127.0.0.1:0", .protocol = &echo } },
        .shards = 1,
        .shard_size = 16,
        .shard_start = stop_and_post,
        .shard_stop = count_without_state,
    };
    stopped_while_posted = -1;
    cr_assert(eq(int, rondo_run(&app), 0));
    cr_assert(eq(int, stopped_while_posted, 0));
    cr_assert(eq(uint, stopped, 1));
}

static void *raise_signals(void *argument)
{
    (void)argument;
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGTERM);
    return NULL;
}

static int start_signaller(rondo_loop *loop)
{
    (void)loop;
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    cr_assert(eq(int, sigismember(&mask, SIGTERM), 1), "signals are blocked in a shard");
    return -pthread_create(&poster, NULL, raise_signals, NULL);
}

Test(app, a_signal_ends_the_run)
{
    const rondo_app app = {
        .servers = { { .url = "tcp://127.0.0.1:0", .protocol = &echo } },
        .shards = 1,
        .shard_start = start_signaller,
    };
    cr_assert(eq(int, rondo_run(&app), 0));
    pthread_join(poster, NULL);
}

/* ---- what can't be run ------------------------------------------------------------------------------------ */

static rondo_buffer no_buffer(rondo_transport *t, size_t size_hint)
{
    (void)t;
    (void)size_hint;
    return (rondo_buffer){ 0 };
}

Test(app, what_makes_no_sense_is_refused)
{
    static const rondo_protocol half = { .get_buffer = no_buffer };
    cr_assert(eq(int, rondo_run(&(rondo_app){ 0 }), -EINVAL));
    cr_assert(eq(int, rondo_run(&(rondo_app){ .servers = { { .url = "tcp://127.0.0.1:0" } } }), -EINVAL));
    cr_assert(eq(int,
                 rondo_run(&(rondo_app){ .servers = { { .url = "tcp://127.0.0.1:0", .protocol = &half } } }),
                 -EINVAL));
    cr_assert(eq(int,
                 rondo_run(&(rondo_app){ .servers = { { .url = "tcp:/127.0.0.1", .protocol = &echo } } }),
                 -EINVAL));
    cr_assert(eq(int,
                 rondo_run(&(rondo_app){ .servers = { { .url = "tcp://127.0.0.1:0", .protocol = &echo } },
                                         .engine = "steam" }),
                 -EINVAL));
    cr_assert(eq(int,
                 rondo_run(&(rondo_app){ .servers = { { .url = "tcp://127.0.0.1:0", .protocol = &echo } },
                                         .shards = 100000 }),
                 -EINVAL));
    cr_assert(eq(int,
                 rondo_run(&(rondo_app){ .servers = { { .url = "tcp://192.0.2.1:0", .protocol = &echo } } }),
                 -EADDRNOTAVAIL));
}

Test(app, a_port_in_use_is_refused_even_when_it_could_be_shared)
{
    struct sockaddr_in where = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof where;
    char url[64];
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    cr_assert_eq(bind(fd, (struct sockaddr *)&where, size), 0);
    cr_assert_eq(listen(fd, 1), 0);
    getsockname(fd, (struct sockaddr *)&where, &size);
    snprintf(url, sizeof url, "tcp://127.0.0.1:%u", ntohs(where.sin_port));

    cr_assert(
        eq(int, rondo_run(&(rondo_app){ .servers = { { .url = url, .protocol = &echo } } }), -EADDRINUSE));
    close(fd);
}

static int stop_at_once(rondo_loop *loop)
{
    rondo_stop(loop);
    return 0;
}

Test(app, the_limit_of_descriptors_is_raised_as_far_as_it_goes)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 256;
    setrlimit(RLIMIT_NOFILE, &limit);
    const rondo_app app = { .servers = { { .url = "tcp://127.0.0.1:0", .protocol = &echo } },
                            .shards = 1,
                            .shard_start = stop_at_once };
    cr_assert(eq(int, rondo_run(&app), 0));
    getrlimit(RLIMIT_NOFILE, &limit);
    cr_assert_gt(limit.rlim_cur, 256);
}

/* ---- servers -------------------------------------------------------------------------------------------- */

Test(app, without_a_server_it_runs_what_shard_start_begins)
{
    const rondo_app app = { .shards = 2,
                            .shard_start = start_and_stop_soon,
                            .shard_size = sizeof(struct shard_state) };
    cr_assert(eq(int, rondo_run(&app), 0));
    cr_assert(eq(uint, started, 2));
}

static int contexts[2];
static rondo_call server_ends[2];
static atomic_uint servers_ended;

static void note_server_end(rondo_call *call)
{
    (void)call;
    atomic_fetch_add(&servers_ended, 1);
}

static int look_at_servers(rondo_loop *loop)
{
    unsigned shard = rondo_shard_index(loop);
    rondo_server *first = rondo_server_of(loop, 0), *second = rondo_server_of(loop, 1);
    cr_assert_not_null(first);
    cr_assert_not_null(second);
    cr_assert_null(rondo_server_of(loop, 2));
    cr_assert_eq(rondo_server_context(first), &contexts[0]);
    cr_assert_eq(rondo_server_context(second), &contexts[1]);
    cr_assert(eq(uint, rondo_server_sockets(first, NULL, 0), 2));
    cr_assert(eq(str, (char *)rondo_server_url(first, 1), (char *)abstract_url("app")));
    cr_assert_not(rondo_server_is_serving(first), "not before shard_start has returned");
    rondo_server_wait_closed(first, &server_ends[shard], note_server_end);
    if (shard == 1)
        rondo_stop(loop);
    return 0;
}

static void look_for_servers(rondo_loop *loop)
{
    cr_assert_null(rondo_server_of(loop, 0), "closed and gone");
    cr_assert_null(rondo_server_of(loop, 1));
    atomic_fetch_add(&stopped, 1);
}

Test(app, every_shard_has_its_servers)
{
    const char *const more[] = { abstract_url("app"), NULL };
    const rondo_app app = {
        .servers = { { .url = "tcp://127.0.0.1:0",
                       .protocol = &echo,
                       .context = &contexts[0],
                       .more_urls = more },
                     { .url = "tcp://127.0.0.1:0",
                       .protocol = &echo,
                       .context = &contexts[1],
                       .start_later = true } },
        .shards = 2,
        .shard_start = look_at_servers,
        .shard_stop = look_for_servers,
    };
    cr_assert(eq(int, rondo_run(&app), 0));
    cr_assert(eq(uint, stopped, 2));
    cr_assert(eq(uint, servers_ended, 2), "who waited was told, though nobody closed");
}

/* Connects, and hangs up. Returns 0 or a negative errno. */
static int try_to_connect(const rondo_server *server)
{
    struct sockaddr_storage where;
    socklen_t size = sizeof where;
    int fd = -1;
    rondo_server_sockets(server, &fd, 1);
    getsockname(fd, (struct sockaddr *)&where, &size);
    int client = socket(where.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc = connect(client, (struct sockaddr *)&where, size) < 0 ? -errno : 0;
    close(client);
    return rc;
}

static rondo_loop *starts_later;
static rondo_call later_call;

static void start_what_starts_later(rondo_call *call)
{
    rondo_server *server = rondo_server_of(starts_later, 0);
    (void)call;
    cr_assert_not(rondo_server_is_serving(server), "not by itself");
    cr_assert(eq(int, try_to_connect(server), -ECONNREFUSED));
    cr_assert(eq(int, rondo_server_start_serving(server), 0));
    cr_assert(rondo_server_is_serving(server));
    cr_assert(eq(int, try_to_connect(server), 0));
    rondo_stop(starts_later);
}

static int let_it_start_later(rondo_loop *loop)
{
    starts_later = loop;
    rondo_call_soon(loop, &later_call, start_what_starts_later);
    return 0;
}

Test(app, a_server_may_start_later, .init = cr_redirect_stderr)
{
    const rondo_app app = {
        .servers = { { .url = abstract_url("later"), .protocol = &echo, .start_later = true } },
        .shards = 1,
        .shard_start = let_it_start_later,
        .log_level = RONDO_LOG_WARNING,
    };
    cr_assert(eq(int, rondo_run(&app), 0));
    fflush(stderr);
    cr_assert_stderr_eq_str("", "that it listens is not said");
}

static int close_what_shall_not_be(rondo_loop *loop)
{
    rondo_server_close(rondo_server_of(loop, 0));
    rondo_stop(loop);
    return 0;
}

Test(app, a_server_closed_in_shard_start_never_serves)
{
    const rondo_app app = {
        .servers = { { .url = "tcp://127.0.0.1:0", .protocol = &echo } },
        .shards = 2,
        .shard_start = close_what_shall_not_be,
        .shard_stop = look_for_servers,
    };
    cr_assert(eq(int, rondo_run(&app), 0));
    cr_assert(eq(uint, stopped, 2));
}

/* Two shards serve one socket file: closed on the first, it is still there, closed on both it is gone. */

static char shared_url[80]; /* of this process's own */
static const char *const shared_path = shared_url + sizeof "unix://" - 1;
static rondo_loop *both[2];
static rondo_call first_call, second_call;

static void close_on_second(rondo_call *call)
{
    rondo_server *server = rondo_server_of(both[1], 0);
    (void)call;
    cr_assert_null(rondo_server_of(both[1], 1));
    cr_assert(eq(int, try_to_connect(server), 0), "this shard goes on");
    rondo_server_close(server);
    cr_assert(eq(int, access(shared_path, F_OK), -1));
    rondo_stop(both[1]);
}

static void go_on_with_second(rondo_call *call)
{
    (void)call;
    cr_assert(eq(int, rondo_post(both[1], &second_call, close_on_second), 0));
}

static void close_on_first(rondo_call *call)
{
    rondo_server *server = rondo_server_of(both[0], 0);
    (void)call;
    rondo_server_wait_closed(server, &server_ends[0], go_on_with_second);
    rondo_server_close(server);
    cr_assert(eq(int, access(shared_path, F_OK), 0));
}

static int close_one_after_the_other(rondo_loop *loop)
{
    both[rondo_shard_index(loop)] = loop;
    return atomic_fetch_add(&started, 1) == 1 ? rondo_post(both[0], &first_call, close_on_first) : 0;
}

Test(app, a_socket_file_is_removed_by_the_last_shard_that_closes)
{
    snprintf(shared_url, sizeof shared_url, "unix:///tmp/rondo-test-app-%d", (int)getpid());
    const rondo_app app = {
        .servers = { { .url = shared_url, .protocol = &echo } },
        .shards = 2,
        .shard_start = close_one_after_the_other,
    };
    cr_assert(eq(int, rondo_run(&app), 0));
    cr_assert(eq(int, access(shared_path, F_OK), -1));
}

/* What has begun when a shard_start fails must end in order. */

static unsigned connections_made, connections_lost;

static void note_made(rondo_transport *t)
{
    (void)t;
    connections_made++;
}

static void note_lost(rondo_transport *t, int error)
{
    (void)t;
    cr_assert(eq(int, error, -ECANCELED));
    connections_lost++;
}

static const rondo_protocol noting = { .connection_made = note_made, .connection_lost = note_lost };

static int begin_and_fail(rondo_loop *loop)
{
    const rondo_server_options options = { .url = abstract_url("fails"), .protocol = &echo };
    rondo_server *server;
    int ends[2];
    cr_assert(eq(int, rondo_create_server(loop, &options, &server), 0));
    rondo_server_wait_closed(server, &server_ends[0], note_server_end);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    cr_assert(eq(int, rondo_connect_accepted_socket(loop, ends[0], &noting, NULL), 0));
    close(ends[1]);
    return -EXDEV;
}

Test(app, what_a_failing_shard_start_began_is_ended)
{
    const rondo_app app = {
        .servers = { { .url = "tcp://127.0.0.1:0", .protocol = &echo } },
        .shards = 1,
        .shard_start = begin_and_fail,
        .shard_stop = count_without_state,
    };
    int before = dup(STDIN_FILENO);
    close(before);
    cr_assert(eq(int, rondo_run(&app), -EXDEV));
    cr_assert(eq(uint, servers_ended, 1));
    cr_assert(eq(uint, connections_made, 1));
    cr_assert(eq(uint, connections_lost, 1));
    cr_assert(eq(uint, stopped, 0), "it was not started");
    int after = dup(STDIN_FILENO);
    close(after);
    cr_assert(eq(int, after, before), "all descriptors are back");
}

/* ---- the command line ------------------------------------------------------------------------------------- */

static rondo_app parsed;
static const char *colour;
static bool is_loud;

static int parse(const char *line)
{
    static char words[256];
    static const rondo_option own[] = {
        { .name = "colour", .values = "red|blue", .help = "which", .value = &colour },
        { .name = "loud", .help = "very", .flag = &is_loud },
        { 0 },
    };
    char *argv[32] = { "program" };
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " "))
        argv[argc++] = word;
    parsed = (rondo_app){ .servers = { { .url = "tcp://127.0.0.1:7777", .protocol = &echo } } };
    colour = "none";
    is_loud = false;
    return rondo_parse_options(&parsed, argc, argv, own);
}

Test(app, options_fill_the_app)
{
    cr_assert(eq(int, parse(""), -1));
    cr_assert(eq(str, (char *)parsed.servers[0].url, "tcp://127.0.0.1:7777"));
    cr_assert(eq(uint, parsed.shards, 0));

    cr_assert(eq(
        int,
        parse("-l tcp://[::1]:1 --listen=tcp://0.0.0.0:2 -s 3 --engine uring --backlog 7 --idle-timeout 1.5 "
              "--max-connections 9 --drain-timeout 0 --log-level debug --colour blue"),
        -1));
    cr_assert(eq(str, (char *)parsed.servers[0].url, "tcp://[::1]:1"));
    cr_assert(eq(str, (char *)parsed.servers[1].url, "tcp://0.0.0.0:2"));
    cr_assert_eq(parsed.servers[1].protocol, &echo);
    cr_assert_null(parsed.servers[2].url);
    cr_assert(eq(uint, parsed.shards, 3));
    cr_assert(eq(str, (char *)parsed.engine, "uring"));
    cr_assert(eq(uint, parsed.backlog, 7));
    cr_assert(eq(u64, parsed.idle_timeout_ms, 1500));
    cr_assert(eq(uint, parsed.max_connections, 9));
    cr_assert(eq(u64, parsed.drain_timeout_ms, 1), "at once, not the default");
    cr_assert(eq(int, (int)parsed.log_level, RONDO_LOG_DEBUG));
    cr_assert(eq(str, (char *)colour, "blue"));
    cr_assert_not(is_loud);
}

Test(app, an_option_may_have_no_argument)
{
    cr_assert(eq(int, parse("--loud -s 3"), -1));
    cr_assert(is_loud);
    cr_assert(eq(uint, parsed.shards, 3), "which it doesn't take for one");
    cr_assert(eq(int, parse("--loud=very"), 2));
    cr_assert(eq(int, parse("--loud very"), 2));
}

Test(app, listen_replaces_all_servers_by_ones_like_the_first)
{
    static const char *const more[] = { "tcp://127.0.0.1:2", NULL };
    char *argv[] = { "program", "-l", "unix:///run/x?mode=600", NULL };
    rondo_app app = { .servers = { { .url = "tcp://127.0.0.1:1",
                                     .protocol = &echo,
                                     .more_urls = more,
                                     .backlog = 3,
                                     .context = &contexts[0] },
                                   { .url = "tcp://127.0.0.1:3", .protocol = &noting } } };
    cr_assert(eq(int, rondo_parse_options(&app, 3, argv, NULL), -1));
    cr_assert(eq(str, (char *)app.servers[0].url, argv[2]));
    cr_assert_eq(app.servers[0].protocol, &echo);
    cr_assert_eq(app.servers[0].context, &contexts[0]);
    cr_assert(eq(uint, app.servers[0].backlog, 3));
    cr_assert_null(app.servers[0].more_urls);
    cr_assert_null(app.servers[1].url);
}

Test(app, help_of_a_program_without_a_server_names_none, .init = cr_redirect_stdout)
{
    char *argv[] = { "program", "--help", NULL };
    rondo_app app = { 0 };
    cr_assert(eq(int, rondo_parse_options(&app, 2, argv, NULL), 0));
    fflush(stdout);
    char text[8192] = "";
    cr_assert_gt(fread(text, 1, sizeof text - 1, cr_get_redirected_stdout()), 0);
    cr_assert_null(strstr(text, "(null)"));
    cr_assert_not_null(strstr(text, "unix:///path[?mode=0660]"));
}

static int start_nothing(rondo_loop *loop)
{
    (void)loop;
    return 0;
}

Test(app, a_program_that_is_no_server_has_no_options_for_one, .init = cr_redirect_stdout)
{
    char *argv[] = { "program", "--help", NULL },
         *listening[] = { "program", "-l", "tcp://127.0.0.1:1", NULL };
    rondo_app app = { .shard_start = start_nothing };
    cr_assert(eq(int, rondo_parse_options(&app, 2, argv, NULL), 0));
    fflush(stdout);
    char text[8192] = "";
    cr_assert_gt(fread(text, 1, sizeof text - 1, cr_get_redirected_stdout()), 0);
    cr_assert_null(strstr(text, "--listen"));
    cr_assert_not_null(strstr(text, "--engine"));
    cr_assert(eq(int, rondo_parse_options(&app, 3, listening, NULL), 2));
    cr_assert_null(app.servers[0].url);
}

Test(app, words_that_are_no_options)
{
    char **words = NULL;
    const char *value = NULL;
    bool flag = false;
    const rondo_option options[] = {
        { .name = "FROM TO", .words = &words, .least = 1, .most = 2 },
        { .name = "value", .value = &value },
        { .name = "flag", .flag = &flag },
        { 0 },
    };
    rondo_app app = { 0 };
    char *mixed[] = { "program", "one", "--value", "v", "two", "--flag", NULL };
    cr_assert(eq(int, rondo_parse_options(&app, 6, mixed, options), -1));
    cr_assert(eq(str, words[0], "one"));
    cr_assert(eq(str, words[1], "two"));
    cr_assert_null(words[2]);
    cr_assert(eq(str, (char *)value, "v"));
    cr_assert(flag);
    char *none[] = { "program", "--flag", NULL };
    cr_assert(eq(int, rondo_parse_options(&app, 2, none, options), 2));
    char *many[] = { "program", "one", "two", "three", NULL };
    cr_assert(eq(int, rondo_parse_options(&app, 4, many, options), 2));
    char *behind[] = { "program", "--", "--value", NULL };
    cr_assert(eq(int, rondo_parse_options(&app, 3, behind, options), -1));
    cr_assert(eq(str, words[0], "--value"));
}

Test(app, wrong_usage_is_said_and_is_exit_status_2)
{
    const char *wrong[] = {
        "--bogus",
        "-x",
        "word",
        "--shards",
        "--shards 0",
        "--shards -1",
        "-s 2x",
        "-s 99999999999",
        "--backlog 0",
        "--idle-timeout -1",
        "--idle-timeout x",
        "--idle-timeout nan",
        "--drain-timeout 1e3",
        "--max-connections ten",
        "--log-level loud",
        "--engine steam",
        "--listen 127.0.0.1:80",
        "-l tcp://h:99999",
        "-l unix://relative",
        "-l unix:///s?mode=8",
        "-l fd://x",
        "--colour green",
        "--colour re",
        "--colour red|blue",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cr_assert(eq(int, parse(wrong[i]), 2), "%s", wrong[i]);
    setenv("RONDO_ENGINE", "steam", 1);
    cr_assert(eq(int, parse(""), 2));
    setenv("RONDO_ENGINE", "uring", 1);
    cr_assert(eq(int, parse(""), -1));
    cr_assert(eq(str, (char *)parsed.engine, "uring"));
    cr_assert(eq(int, parse("-e auto"), -1));
    cr_assert(eq(str, (char *)parsed.engine, "auto"), "the command line wins");
}

Test(app, wrong_usage_names_the_option_in_one_line, .init = cr_redirect_stderr)
{
    parse("--shards 0");
    fflush(stderr);
    cr_assert_stderr_eq_str("program: --shards 0: a whole number from 1 to 1024 is wanted (see --help)\n");
}

Test(app, help_shows_every_option, .init = cr_redirect_stdout)
{
    cr_assert(eq(int, parse("--help"), 0));
    cr_assert(eq(int, parse("--version"), 0));
    fflush(stdout);
    char text[8192] = "";
    cr_assert_gt(fread(text, 1, sizeof text - 1, cr_get_redirected_stdout()), 0);
    const char *options[] = { "--listen",       "--shards",          "--engine",          "--backlog",
                              "--idle-timeout", "--max-connections", "--drain-timeout",   "--log-level",
                              "--help",         "--version",         "--colour red|blue", "(rondo)" };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        cr_assert_not_null(strstr(text, options[i]), "%s is missing", options[i]);
}

/* ---- a task that doesn't end ------------------------------------------------------------------------------ */

static int stop_and_stay(void *argument)
{
    volatile bool stays = true;
    rondo_stop(argument);
    while (stays)
        rondo_sleep(1000000);
    return 0;
}

static int start_staying(rondo_loop *loop)
{
    const rondo_task_options options = { .run = stop_and_stay, .argument = loop };
    return rondo_create_task(loop, &options, NULL);
}

Test(app, a_task_that_does_not_end_is_left_behind_at_the_drain_timeout)
{
    const rondo_app app = { .shards = 1, .shard_start = start_staying, .drain_timeout_ms = 100 };
    cr_assert(zero(int, rondo_run(&app)));
}

static int sleep_long(void *argument)
{
    (void)argument;
    return rondo_sleep(1000000);
}

static int start_and_fail(rondo_loop *loop)
{
    const rondo_task_options options = { .run = sleep_long };
    return rondo_create_task(loop, &options, NULL) < 0 ? -ENOMEM : -EXDEV;
}

Test(app, a_task_of_a_shard_that_can_not_start_ends)
{
    const rondo_app app = { .shards = 1, .shard_start = start_and_fail };
    cr_assert(eq(int, rondo_run(&app), -EXDEV));
}

/* ---- a stack that overflows ------------------------------------------------------------------------------ */

__attribute__((noinline)) static unsigned dig(unsigned depth)
{
    volatile char frame[512];
    frame[0] = (char)depth;
    return depth == 0 ? 0 : dig(depth - 1) + (unsigned)frame[0] * 0 + 1;
}

static int dig_deep(void *argument)
{
    (void)argument;
    return (int)dig(1000000);
}

static int start_digging(rondo_loop *loop)
{
    const rondo_task_options options = { .run = dig_deep, .name = "the digging one", .stack_size = 100000 };
    return rondo_shard_index(loop) == 1 ? rondo_create_task(loop, &options, NULL) : 0;
}

Test(app, a_task_whose_stack_overflows_is_named_and_ends_the_process)
{
    int ends[2], status;
    char said[1000] = "";
    cr_assert(zero(int, pipe(ends)));
    pid_t child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        signal(SIGSEGV, SIG_DFL); /* of the sanitizer, or of the test framework */
        dup2(ends[1], STDERR_FILENO);
        rondo_run(&(rondo_app){ .shards = 2, .shard_start = start_digging });
        _exit(4);
    }
    close(ends[1]);
    for (ssize_t size = 0, more; (more = read(ends[0], said + size, sizeof said - 1 - (size_t)size)) > 0;)
        size += more;
    close(ends[0]);
    cr_assert(eq(int, waitpid(child, &status, 0), child));
    cr_assert_neq(WIFSIGNALED(status), 0);
    cr_assert(eq(int, WTERMSIG(status), SIGSEGV));
    cr_assert_not_null(
        strstr(said, "error: the digging one: its stack has overflowed: give it more (stack_size)"));
}
