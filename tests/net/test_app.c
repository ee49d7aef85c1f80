/* The whole: rondo_run in this thread, clients and posters in others, and the command line. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/redirect.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rondo/app.h>
#include <rondo/transport.h>

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
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    cr_assert(eq(int, rondo_run(&app), 0));
    cr_assert(eq(uint, started, 3));
    cr_assert(eq(uint, stopped, 3));
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    cr_assert(eq(int, sigismember(&after, SIGTERM), sigismember(&before, SIGTERM)));
    cr_assert(eq(int, rondo_run(&app), 0), "and again");
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
        .servers = { { "tcp://127.0.0.1:0", &echo } },
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
    cr_assert(eq(int, rondo_run(&(rondo_app){ .servers = { { "tcp://127.0.0.1:0", &half } } }), -EINVAL));
    cr_assert(eq(int, rondo_run(&(rondo_app){ .servers = { { "tcp:/127.0.0.1", &echo } } }), -EINVAL));
    cr_assert(eq(int,
                 rondo_run(&(rondo_app){ .servers = { { "tcp://127.0.0.1:0", &echo } }, .engine = "steam" }),
                 -EINVAL));
    cr_assert(eq(int,
                 rondo_run(&(rondo_app){ .servers = { { "tcp://127.0.0.1:0", &echo } }, .shards = 100000 }),
                 -EINVAL));
    cr_assert(
        eq(int, rondo_run(&(rondo_app){ .servers = { { "tcp://192.0.2.1:0", &echo } } }), -EADDRNOTAVAIL));
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

    cr_assert(eq(int, rondo_run(&(rondo_app){ .servers = { { url, &echo } } }), -EADDRINUSE));
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
    const rondo_app app = { .servers = { { "tcp://127.0.0.1:0", &echo } },
                            .shards = 1,
                            .shard_start = stop_at_once };
    cr_assert(eq(int, rondo_run(&app), 0));
    getrlimit(RLIMIT_NOFILE, &limit);
    cr_assert_gt(limit.rlim_cur, 256);
}

/* ---- the command line ------------------------------------------------------------------------------------- */

static rondo_app parsed;
static const char *colour;

static int parse(const char *line)
{
    static char words[256];
    static const rondo_option own[] = { { "colour", "red|blue", "which", &colour }, { 0 } };
    char *argv[32] = { "program" };
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " "))
        argv[argc++] = word;
    parsed = (rondo_app){ .servers = { { "tcp://127.0.0.1:7777", &echo } } };
    colour = "none";
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
        "--engine epoll",
        "--listen 127.0.0.1:80",
        "-l tcp://h:99999",
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
