/* Date: runs date(1) and prints what it says.    try: rondo-date +%A */
#include <stdio.h>
#include <string.h>
#include <rondo/rondo.h>

static char **arguments;
static bool has_failed;

static void print(rondo_bytes data)
{
    has_failed |= fwrite(data.data, 1, data.size, stdout) != data.size || fflush(stdout) != 0;
}

static const rondo_subprocess_options only_stdout = { .stdin_fd = RONDO_DEVNULL, .stderr_fd = RONDO_INHERIT };

/* date, and the words of the command line. */
static const char *const *argv_of_date(void)
{
    static const char *argv[64] = { "date" };
    for (unsigned i = 0; arguments[i] != NULL && i < 62; i++)
        argv[1 + i] = arguments[i];
    return argv;
}

/* ---- as callbacks ---- */

static void pipe_data_received(rondo_transport *t, int fd, rondo_bytes data)
{
    (void)t;
    (void)fd;
    print(data);
}

static void connection_lost(rondo_transport *t, int error)
{
    int returncode = 0;
    rondo_get_returncode(t, &returncode);
    has_failed |= error < 0 || returncode != 0;
    rondo_stop(rondo_get_loop(t));
}

static const rondo_protocol protocol = {
    .name = "date",
    .pipe_data_received = pipe_data_received,
    .connection_lost = connection_lost,
};

static int start_callbacks(rondo_loop *loop)
{
    return rondo_subprocess_exec(loop, &protocol, argv_of_date(), &only_stdout, NULL);
}

/* ---- as a task ---- */

static int run_date(void)
{
    rondo_process *process;
    rondo_bytes line;
    ssize_t size;
    int returncode = 0;
    int rc = rondo_create_subprocess_exec(argv_of_date(), &only_stdout, &process);
    if (rc < 0)
        return rc;
    while ((size = rondo_readline(rondo_process_stdout(process), &line)) > 0)
        print(line);
    rc = size < 0 ? (int)size : rondo_process_wait(process, &returncode);
    has_failed |= returncode != 0;
    return rc;
}

static int run_and_stop(void *loop)
{
    int rc = run_date();
    has_failed |= rc < 0;
    rondo_stop(loop);
    return rc;
}

static int start_task(rondo_loop *loop)
{
    return rondo_create_task(
        loop, &(rondo_task_options){ .run = run_and_stop, .argument = loop, .name = "date" }, NULL);
}

int main(int argc, char **argv)
{
    const char *api = "protocol";
    const rondo_option options[] = {
        { .name = "[ARGUMENT...]",
          .words = &arguments,
          .help = "Runs date with these arguments; options behind --." },
        { .name = "api", .values = "protocol|stream", .help = "callbacks, or a task", .value = &api },
        { 0 },
    };
    rondo_app app = { .shards = 1, .shard_start = start_callbacks, .log_level = RONDO_LOG_WARNING };
    int status = rondo_parse_options(&app, argc, argv, options);
    if (status >= 0)
        return status;
    if (strcmp(api, "stream") == 0)
        app.shard_start = start_task;
    return rondo_run(&app) < 0 || has_failed;
}
