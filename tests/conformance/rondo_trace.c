/* rondo-trace: run scenarios (README.md) on rondo, and print what protocols and peers saw, as JSON lines.
 *
 *   rondo-trace [--scenarios DIR] [--check] [--whole] [FILE…]
 *
 * The main thread is rondo's control thread, of one shard, where the protocols live; the conductor, a thread of its own,
 * plays the peers and takes one step after another. asyncio_trace.py does the same on asyncio. Only rondo's public calls
 * are used. Whatever waits has a bound, PATIENCE_MS.
 *
 * Exit status: 0; 1 a scenario could not be run to its end, which its trace tells; 2 wrong usage, or a file that is no
 * scenario. */
#include "rondo_trace.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUIET_TURNS 5
#define FILE_TURNS  40 /* while a file is being sent: other threads work at it */
#define TURN_NS     300000

struct run *run;

static rondo_loop *loop;
static char **paths;
static size_t path_count;
static bool whole, check;
static int status;

/* ---- on the loop ------------------------------------------------------------------------------------------ */

struct order {
    rondo_call call;
    void (*act)(void *argument);
    void *argument;
    bool done;
};

static void run_order(rondo_call *call)
{
    struct order *order = rondo_container_of(call, struct order, call);
    if (order->act != NULL)
        order->act(order->argument);
    trace_lock();
    order->done = true;
    trace_wake();
    trace_unlock();
}

static bool is_done(void *order)
{
    return ((const struct order *)order)->done;
}

bool on_loop(void (*act)(void *argument), void *argument)
{
    struct order order = { .act = act, .argument = argument };
    int rc = rondo_post(loop, &order.call, run_order);
    if (rc == 0 && trace_wait_always(is_done, &order, PATIENCE_MS))
        return true;
    /* The order lies on this stack, and the shard may still come to it: nothing here can go on. */
    trace_error("the shard does not turn any more");
    trace_print(whole);
    abort();
}

/* ---- steps ------------------------------------------------------------------------------------------------ */

static unsigned turns_of_rest(void)
{
    trace_lock();
    unsigned turns = run->sendfiles > 0 ? FILE_TURNS : QUIET_TURNS;
    trace_unlock();
    return turns;
}

/* Until nothing moves any more: some turns of the loop without a line. */
static bool rest(void)
{
    uint64_t deadline_ms = now_ms() + PATIENCE_MS;
    for (unsigned quiet = 0; quiet < turns_of_rest();) {
        struct timespec turn = { .tv_nsec = TURN_NS };
        uint64_t before = trace_count();
        nanosleep(&turn, NULL);
        on_loop(NULL, NULL);
        quiet = trace_count() == before ? quiet + 1 : 0;
        if (trace_has_failed())
            return false;
        if (now_ms() > deadline_ms) {
            trace_error("no rest: it goes on and on");
            return false;
        }
    }
    return true;
}

struct wanted {
    const struct connection *connection;
    enum event event;
    size_t number;
};

static bool has_happened(void *argument)
{
    const struct wanted *wanted = argument;
    const struct connection *c = wanted->connection;
    return (wanted->event == RECEIVED ? c->received : c->counts[wanted->event]) >= wanted->number;
}

static bool wait_sent(struct connection *c)
{
    uint64_t deadline_ms = now_ms() + PATIENCE_MS;
    struct waiting waiting = { .connection = c, .size = 1 };
    while (waiting.size > 0) {
        struct timespec turn = { .tv_nsec = TURN_NS };
        on_loop(loop_ask_write_buffer, &waiting);
        if (now_ms() > deadline_ms) {
            trace_error("wait %u sent: not within %d s", c->number, PATIENCE_MS / 1000);
            return false;
        }
        nanosleep(&turn, NULL);
    }
    return true;
}

static bool wait_for(struct connection *c, const struct action *action)
{
    struct wanted wanted = { c, (enum event)action->call, action->number };
    if (action->call == SENT)
        return wait_sent(c);
    if (trace_wait(has_happened, &wanted, PATIENCE_MS))
        return true;
    trace_error("wait %u %s %zu: not within %d s", c->number, event_names[action->call], action->number,
                PATIENCE_MS / 1000);
    return false;
}

static bool is_closed(void *before)
{
    return run->server_closed_events > *(const size_t *)before;
}

static bool do_server(const struct action *action)
{
    trace_lock();
    size_t before = run->server_closed_events;
    trace_unlock();
    on_loop(loop_server_call, (void *)action);
    if (action->call != WAIT_CLOSED || trace_wait(is_closed, &before, PATIENCE_MS))
        return true;
    trace_error("server wait_closed: not within %d s", PATIENCE_MS / 1000);
    return false;
}

static bool is_connected_or_not(void *argument)
{
    const struct connection *c = argument;
    return c->made || c->counts[CONNECTION_FAILED] > 0;
}

static bool do_transport(struct connection *c, const struct step *step)
{
    struct step_of it = { step, c };
    on_loop(loop_perform_step, &it);
    if (step->actions[step->action_count - 1].call == CONNECT)
        trace_wait(is_connected_or_not, c, SOON_MS);
    return true;
}

static bool do_action(struct connection *c, const struct step *step, const struct action *action)
{
    switch (step->subject) {
    case PEER:
        return peer_do(c, action);
    case SERVER:
        return do_server(action);
    case WAIT:
        return wait_for(c, action);
    default:
        poll(NULL, 0, (int)action->number);
        return true;
    }
}

static bool do_step(const struct step *step)
{
    for (unsigned number = step->first; number <= step->last; number++) {
        struct connection *c = &run->connections[number];
        if (step->subject == TRANSPORT) {
            do_transport(c, step);
            continue;
        }
        for (unsigned i = 0; i < step->action_count; i++) {
            if (!do_action(c, step, &step->actions[i]))
                return false;
        }
    }
    return true;
}

static void do_steps(void)
{
    for (unsigned i = 0; i < run->scenario->step_count; i++) {
        const struct step *step = &run->scenario->steps[i];
        trace_step(step->line);
        if (!do_step(step) || (!step->goes_on && !rest()) || trace_has_failed())
            return;
    }
}

/* ---- a scenario ------------------------------------------------------------------------------------------- */

static bool make_folder(void)
{
    const char *tmp = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
    snprintf(run->folder, sizeof run->folder, "%.50s/rondo-trace-XXXXXX", tmp);
    if (mkdtemp(run->folder) == NULL) {
        trace_error("%s: %s", run->folder, strerror(errno));
        return false;
    }
    snprintf(run->path, sizeof run->path, "%s/socket", run->folder);
    return true;
}

/* Let nothing of this scenario be left for the next. What that brings is no part of the trace. */
static void finish(void)
{
    trace_mute(true);
    peers_close();
    on_loop(loop_abort_all, NULL);
    bool is_over = trace_wait_always(loop_is_over, NULL, PATIENCE_MS);
    on_loop(NULL, NULL); /* behind the callback that told it: the tables are the scenario's */
    trace_mute(false);
    if (!is_over)
        trace_error("a connection, or the server, was not over after abort");
    unlink(run->path);
    rmdir(run->folder);
}

static void run_scenario(struct scenario *scenario)
{
    const char *error = NULL;
    run = calloc(1, sizeof *run);
    if (run == NULL)
        abort();
    run->scenario = scenario;
    run->loop = loop;
    run->listener = -1;
    run->server_is_gone = true; /* there is none yet */
    for (unsigned i = 0; i < CONNECTIONS_MAX + 2; i++) {
        run->connections[i].number = i;
        run->connections[i].peer = -1;
    }
    if (make_folder() && peers_start()) {
        on_loop(loop_start, &error);
        if (error == NULL)
            do_steps();
        else
            trace_error("the server: %s", error);
    }
    finish();
    bool is_over = true;
    if (trace_has_failed()) {
        status = status < 1 ? 1 : status;
        trace_lock();
        is_over = loop_is_over(NULL);
        trace_unlock();
    }
    trace_print(whole);
    if (!is_over)
        abort(); /* its tables would be freed below its transports */
    free(run);
}

static void run_file(const char *path)
{
    struct scenario *scenario = scenario_read(path);
    if (scenario->step_count == 0) {
        fprintf(stderr, "%s\n", scenario->error);
        status = 2;
    } else if (!check) {
        char *name = json_text(scenario->name, strlen(scenario->name));
        printf("{\"scenario\": %s}\n", name);
        fflush(stdout);
        free(name);
        run_scenario(scenario);
    }
    scenario_free(scenario);
}

static void *conduct(void *unused)
{
    (void)unused;
    for (size_t i = 0; i < path_count; i++)
        run_file(paths[i]);
    rondo_stop(loop);
    return NULL;
}

/* ---- main ------------------------------------------------------------------------------------------------- */

static pthread_t conductor;

static int shard_start(rondo_loop *shard_loop)
{
    loop = shard_loop;
    return -pthread_create(&conductor, NULL, conduct, NULL);
}

static void add_path(const char *folder, const char *name)
{
    char *path;
    if (asprintf(&path, "%s%s%s", folder, *folder == '\0' ? "" : "/", name) < 0)
        abort();
    paths = realloc(paths, (path_count + 1) * sizeof *paths);
    if (paths == NULL)
        abort();
    paths[path_count++] = path;
}

static int by_text(const void *one, const void *other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

static bool add_folder(const char *folder)
{
    DIR *open = opendir(folder);
    size_t before = path_count, ending = strlen(".scenario");
    if (open == NULL) {
        fprintf(stderr, "%s: %s\n", folder, strerror(errno));
        return false;
    }
    for (struct dirent *entry; (entry = readdir(open)) != NULL;) {
        size_t size = strlen(entry->d_name);
        if (size > ending && strcmp(entry->d_name + size - ending, ".scenario") == 0)
            add_path(folder, entry->d_name);
    }
    closedir(open);
    qsort(paths + before, path_count - before, sizeof *paths, by_text);
    return true;
}

static int usage(FILE *to, int exit_status)
{
    fprintf(to, "usage: rondo-trace [--scenarios DIR] [--check] [--whole] [FILE…]\n"
                "  --scenarios DIR  run all DIR/*.scenario\n"
                "  --check          only read the files: are they scenarios?\n"
                "  --whole          print all data in full\n");
    return exit_status;
}

static int read_arguments(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0)
            return usage(stdout, 0);
        if (strcmp(argv[i], "--whole") == 0) {
            whole = true;
        } else if (strcmp(argv[i], "--check") == 0) {
            check = true;
        } else if (strcmp(argv[i], "--scenarios") == 0 && i + 1 < argc) {
            if (!add_folder(argv[++i]))
                return 2;
        } else if (argv[i][0] == '-') {
            return usage(stderr, 2);
        } else {
            add_path("", argv[i]);
        }
    }
    if (path_count == 0) {
        fprintf(stderr, "no scenarios: name files, or a folder by --scenarios DIR\n");
        return usage(stderr, 2);
    }
    return -1;
}

int main(int argc, char **argv)
{
    int rc = read_arguments(argc, argv);
    signal(SIGPIPE, SIG_IGN); /* a peer writes to pipes, too */
    if (rc < 0 && check) {
        for (size_t i = 0; i < path_count; i++)
            run_file(paths[i]);
        rc = status;
    } else if (rc < 0) {
        const rondo_app app = {
            .shards = 1,
            .log_level = RONDO_LOG_ERROR,
            .shard_start = shard_start,
            .drain_timeout_ms = 2000,
        };
        rc = rondo_run(&app) < 0 ? 1 : 0;
        if (loop != NULL)
            pthread_join(conductor, NULL);
        rc = status > rc ? status : rc;
    }
    for (size_t i = 0; i < path_count; i++)
        free(paths[i]);
    free(paths);
    return rc;
}
