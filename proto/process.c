/* A child of a task: its transport wakes who waits for its end, and its pipes are streams. */
#include <rondo/process.h>

#include <errno.h>
#include <string.h>

#include <rondo/log.h>

#include "core/list.h"
#include "core/memory.h"
#include "core/task.h"
#include "net/subprocess.h"
#include "proto/stream.h"

/* What it has said, while it's collected and after. */
struct collected {
    rondo_stream *from;
    char *data;
    size_t size, room;
    bool is_wanted;
};

struct rondo_process {
    rondo_transport *t; /* NULL: gone */
    rondo_task *owner;
    pid_t pid;
    int returncode;
    bool has_ended;
    rondo_stream *streams[3]; /* NULL: no pipe */
    struct collected output, errors;
    struct rondo_link waiters; /* tasks that wait for its end */
    struct task_belonging belonging;
};

/* The state of the child's transport. */
struct process_state {
    rondo_process *process; /* NULL: it's forgotten */
};

static struct process_state *state_of(rondo_transport *t)
{
    return rondo_self(t);
}

/* ---- called by the transport ------------------------------------------------------------------------------ */

static void process_exited(rondo_transport *t)
{
    rondo_process *process = state_of(t)->process;
    if (process == NULL)
        return;
    process->has_ended = rondo_get_returncode(t, &process->returncode);
    for (struct rondo_link *link; (link = list_pop(&process->waiters)) != NULL;)
        task_wake_soon(rondo_container_of(link, rondo_task, waiting), 0);
}

static void connection_lost(rondo_transport *t, int error)
{
    (void)error;
    if (state_of(t)->process != NULL)
        state_of(t)->process->t = NULL;
}

static const rondo_protocol waited_for = {
    .name = "a task's child",
    .size = sizeof(struct process_state),
    .process_exited = process_exited,
    .connection_lost = connection_lost,
};

static const rondo_protocol piped = { .name = "a child's stream", OPENED_STREAM };

/* ---- beginning and ending --------------------------------------------------------------------------------- */

static void end(rondo_process *process)
{
    assert(list_is_empty(&process->waiters));
    for (unsigned i = 0; i < 3; i++) {
        if (process->streams[i] != NULL)
            rondo_stream_free(process->streams[i]);
    }
    if (process->t != NULL) {
        state_of(process->t)->process = NULL;
        rondo_close(process->t);
    }
    memory_free(process->output.data);
    memory_free(process->errors.data);
    memory_free(process);
}

static void end_with_task(struct task_belonging *belonging)
{
    end(rondo_container_of(belonging, rondo_process, belonging));
}

void rondo_process_free(rondo_process *process)
{
    list_remove(&process->belonging.link);
    end(process);
}

/* False: no memory. */
static bool open_streams(rondo_process *process)
{
    for (int i = 0; i < 3; i++) {
        rondo_transport *pipe = rondo_get_pipe_transport(process->t, i);
        if (pipe == NULL)
            continue;
        process->streams[i] = stream_open(pipe, process->owner, 0);
        if (process->streams[i] == NULL)
            return false;
        process->streams[i]->at_end = i == 0; /* nothing is read there */
    }
    return true;
}

int rondo_create_subprocess_exec(const char *const *argv, const rondo_subprocess_options *options,
                                 rondo_process **made)
{
    static const rondo_subprocess_options defaults;
    rondo_task *task = rondo_current_task();
    if (task == NULL) {
        rondo_log(RONDO_LOG_ERROR, "rondo_create_subprocess_exec is called outside a task");
        return -EPERM;
    }
    rondo_process *process = memory_new(sizeof *process);
    if (process == NULL)
        return -ENOMEM;
    const struct process_start start = {
        .protocol = &waited_for,
        .argv = argv,
        .options = options != NULL ? options : &defaults,
        .pipe_protocols = { &piped, &piped, &piped },
    };
    int rc = process_open(task->loop, &start, &process->t);
    if (rc < 0) {
        memory_free(process);
        return rc;
    }
    list_init(&process->waiters);
    process->owner = task;
    process->pid = rondo_get_pid(process->t);
    state_of(process->t)->process = process;
    if (!open_streams(process)) {
        end(process);
        return -ENOMEM;
    }
    task_own(task, &process->belonging, end_with_task);
    *made = process;
    return 0;
}

int rondo_create_subprocess_shell(const char *command, const rondo_subprocess_options *options,
                                  rondo_process **process)
{
    const char *const argv[] = { "/bin/sh", "-c", command, NULL };
    return rondo_create_subprocess_exec(argv, options, process);
}

/* ---- waiting ---------------------------------------------------------------------------------------------- */

int rondo_process_wait(rondo_process *process, int *returncode)
{
    rondo_task *task = rondo_current_task();
    while (!process->has_ended) {
        int rc = task_may_wait("rondo_process_wait");
        if (rc < 0)
            return rc;
        list_push(&process->waiters, &task->waiting);
        rc = task_wait();
        if (list_contains_link(&task->waiting))
            list_remove(&task->waiting);
        if (rc < 0 && !process->has_ended)
            return rc;
    }
    if (returncode != NULL)
        *returncode = process->returncode;
    return 0;
}

/* ---- everything at once ----------------------------------------------------------------------------------- */

static bool append(struct collected *collected, rondo_bytes data)
{
    if (collected->size + data.size > collected->room) {
        size_t room = 2 * (collected->size + data.size);
        char *grown = memory_resize(collected->data, room);
        if (grown == NULL)
            return false;
        collected->data = grown;
        collected->room = room;
    }
    memcpy(collected->data + collected->size, data.data, data.size);
    collected->size += data.size;
    return true;
}

static int collect(void *argument)
{
    struct collected *collected = argument;
    rondo_bytes data;
    ssize_t size = 0;
    while (collected->from != NULL && (size = rondo_read(collected->from, SIZE_MAX - 1, &data)) > 0) {
        if (collected->is_wanted && !append(collected, data))
            return -ENOMEM;
    }
    return (int)size;
}

struct feed {
    rondo_stream *to;
    rondo_bytes input;
};

/* That the child has closed its stdin, or is gone, is its own affair. */
static int write_input(void *argument)
{
    const struct feed *feed = argument;
    rondo_stream_write(feed->to, feed->input);
    int rc = rondo_drain(feed->to);
    rondo_stream_close(feed->to);
    return rc == -EPIPE || rc == -ECONNRESET ? 0 : rc;
}

static int begin(rondo_loop *loop, int (*run)(void *argument), void *argument, rondo_task **task)
{
    return rondo_create_task(
        loop, &(rondo_task_options){ .run = run, .argument = argument, .name = "communicate" }, task);
}

static int join(rondo_task *task, int error)
{
    if (task == NULL)
        return error;
    if (error < 0)
        rondo_cancel(task);
    int rc = rondo_join(task);
    return error < 0 ? error : rc;
}

static void give(const struct collected *collected, rondo_bytes *bytes)
{
    if (bytes != NULL)
        *bytes = (rondo_bytes){ collected->size > 0 ? collected->data : "", collected->size };
}

int rondo_process_communicate(rondo_process *process, rondo_bytes input, rondo_bytes *output,
                              rondo_bytes *errors)
{
    rondo_task *feeding = NULL, *listening = NULL;
    struct feed feed = { process->streams[0], input };
    int rc = task_may_wait("rondo_process_communicate");
    if (rc < 0)
        return rc;
    process->output.from = process->streams[1];
    process->output.is_wanted = output != NULL;
    process->errors.from = process->streams[2];
    process->errors.is_wanted = errors != NULL;
    rondo_loop *loop = rondo_current_task()->loop;
    if (feed.to != NULL)
        rc = begin(loop, write_input, &feed, &feeding);
    if (rc == 0)
        rc = begin(loop, collect, &process->errors, &listening);
    if (rc == 0)
        rc = collect(&process->output);
    rc = join(listening, rc);
    rc = join(feeding, rc);
    if (rc == 0)
        rc = rondo_process_wait(process, NULL);
    give(&process->output, output);
    give(&process->errors, errors);
    return rc;
}

/* ---- questions, and signals ------------------------------------------------------------------------------- */

rondo_stream *rondo_process_stdin(const rondo_process *process)
{
    return process->streams[0];
}

rondo_stream *rondo_process_stdout(const rondo_process *process)
{
    return process->streams[1];
}

rondo_stream *rondo_process_stderr(const rondo_process *process)
{
    return process->streams[2];
}

pid_t rondo_process_get_pid(const rondo_process *process)
{
    return process->pid;
}

bool rondo_process_get_returncode(const rondo_process *process, int *returncode)
{
    if (process->has_ended)
        *returncode = process->returncode;
    return process->has_ended;
}

int rondo_process_send_signal(rondo_process *process, int signal)
{
    return process->t != NULL ? rondo_send_signal(process->t, signal) : -ESRCH;
}

int rondo_process_terminate(rondo_process *process)
{
    return process->t != NULL ? rondo_terminate(process->t) : -ESRCH;
}

int rondo_process_kill(rondo_process *process)
{
    return process->t != NULL ? rondo_kill(process->t) : -ESRCH;
}
