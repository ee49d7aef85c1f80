/* The transport of a child: its descriptor is a pidfd, which is readable when the child has ended.
 *
 *   from             event                                                        to
 *   OPEN             rondo_close, rondo_abort: it is killed, its pipes close      FLUSHING
 *   OPEN, FLUSHING   it has ended: it is reaped, process_exited;
 *                    and its last pipe has ended                                  JOINING
 *
 *   in the kernel: a poll, until it has ended
 *
 * Its pipes are transports of their own, whose owner is this one. Their protocols tell the child's what happens; or they are
 * streams. */
#include "net/subprocess.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/memory.h"
#include "net/pipe.h"
#include "net/spawn.h"

#define RETURNCODE_UNKNOWN 255 /* as asyncio says */

struct process {
    rondo_transport *t;
    struct transport_owner owner; /* of its pipes */
    rondo_transport *pipes[3];    /* NULL: there is none, or it has ended */
    pid_t pid;
    int returncode;
    bool has_ended; /* and was reaped */
};

static void exit_done(struct op *op, const struct completion *completion);

static void pipe_lost(struct transport_owner *owner, rondo_transport *pipe, int error);

/* ---- its pipes, as its protocol hears of them ------------------------------------------------------------- */

static struct process *process_of_pipe(const rondo_transport *pipe)
{
    return rondo_container_of(pipe->owner, struct process, owner);
}

static int place_of(const struct process *process, const rondo_transport *pipe)
{
    return process->pipes[0] == pipe ? 0 : process->pipes[1] == pipe ? 1 : 2;
}

static void data_received(rondo_transport *pipe, rondo_bytes data)
{
    const struct process *process = process_of_pipe(pipe);
    const rondo_protocol *protocol = transport_protocol(process->t);
    if (protocol->pipe_data_received != NULL)
        protocol->pipe_data_received(process->t, place_of(process, pipe), data);
}

static void pause_writing(rondo_transport *pipe)
{
    const struct process *process = process_of_pipe(pipe);
    const rondo_protocol *protocol = transport_protocol(process->t);
    if (protocol->pause_writing != NULL)
        protocol->pause_writing(process->t);
}

static void resume_writing(rondo_transport *pipe)
{
    const struct process *process = process_of_pipe(pipe);
    const rondo_protocol *protocol = transport_protocol(process->t);
    if (protocol->resume_writing != NULL)
        protocol->resume_writing(process->t);
}

/* It ends with the child, not with the server. */
static void drained(rondo_transport *pipe)
{
    (void)pipe;
}

static const rondo_protocol to_the_child = {
    .name = "pipe to a child",
    .pause_writing = pause_writing,
    .resume_writing = resume_writing,
    .drained = drained,
};
static const rondo_protocol from_the_child = {
    .name = "pipe from a child",
    .data_received = data_received,
    .drained = drained,
};

/* The pipe's protocol has heard it already. */
static void pipe_lost(struct transport_owner *owner, rondo_transport *pipe, int error)
{
    struct process *process = rondo_container_of(owner, struct process, owner);
    rondo_transport *t = process->t;
    int place = place_of(process, pipe);
    process->pipes[place] = NULL;
    transport_mark(t);
    if (t->made && transport_protocol(t)->pipe_connection_lost != NULL)
        transport_protocol(t)->pipe_connection_lost(t, place, error);
}

/* ---- its end ---------------------------------------------------------------------------------------------- */

/* False: it has not ended yet. */
static bool reap(struct process *process)
{
    siginfo_t info = { 0 };
    int rc;
    while ((rc = waitid(P_PIDFD, (id_t)process->t->fd, &info, WEXITED | WNOHANG)) < 0 && errno == EINTR)
        ;
    if (rc == 0 && info.si_pid == 0)
        return false;
    process->has_ended = true;
    if (rc == 0) {
        process->returncode = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
        return true;
    }
    process->returncode = RETURNCODE_UNKNOWN;
    rondo_log(RONDO_LOG_WARNING, "%s: how process %d ended is unknown: waitid: %s",
              transport_name(process->t), (int)process->pid, strerror(errno));
    return true;
}

static void exit_arm(rondo_transport *t)
{
    t->receive.done = exit_done;
    engine_poll(t->loop->engine, &t->receive, t->fd);
}

static void exit_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = rondo_container_of(op, rondo_transport, receive);
    (void)completion;
    transport_mark(t);
    if (reap(t->into.process) && transport_protocol(t)->process_exited != NULL)
        transport_protocol(t)->process_exited(t);
}

static bool has_pipes(const struct process *process)
{
    return process->pipes[0] != NULL || process->pipes[1] != NULL || process->pipes[2] != NULL;
}

bool process_is_over(rondo_transport *t)
{
    const struct process *process = t->into.process;
    if (!process->has_ended && !t->receive.in_kernel)
        exit_arm(t);
    return process->has_ended && !has_pipes(process);
}

void process_settle(rondo_transport *t)
{
    if (!process_is_over(t))
        return;
    t->state = FLUSHING; /* of which there is nothing */
    transport_mark(t);
}

void process_kill(rondo_transport *t)
{
    const struct process *process = t->into.process;
    rondo_kill(t);
    for (unsigned i = 0; i < 3; i++) {
        if (process->pipes[i] != NULL)
            rondo_close(process->pipes[i]);
    }
}

void process_cancel(rondo_transport *t)
{
    if (transport_is_ending(t))
        return;
    t->error = -ECANCELED;
    t->state = FLUSHING;
    transport_mark(t);
    process_kill(t);
}

void process_free(rondo_transport *t)
{
    struct process *process = t->into.process;
    assert(process->has_ended && !has_pipes(process) && process->owner.connections == 0);
    memory_free(process);
    t->into.process = NULL;
}

/* ---- its beginning ---------------------------------------------------------------------------------------- */

static int refuse(const char *why)
{
    rondo_log(RONDO_LOG_ERROR, "can't run a program: %s", why);
    return -EINVAL;
}

static int check(rondo_loop *loop, const struct process_start *start)
{
    if (start->protocol == NULL)
        return refuse("there is no protocol for it");
    if (start->argv == NULL || start->argv[0] == NULL || *start->argv[0] == '\0')
        return refuse("it has no name");
    if (loop->engine->sockets != &system_sockets)
        return -ENOTSUP;
    return service_of(loop)->aborting ? -ESHUTDOWN : 0;
}

static void open_pipes(struct service *service, struct process *process, const struct process_start *start,
                       struct spawned *spawned)
{
    for (int i = 0; i < 3; i++) {
        const rondo_protocol *protocol = start->pipe_protocols[i];
        if (spawned->pipes[i] < 0)
            continue;
        if (protocol == NULL)
            protocol = i == 0 ? &to_the_child : &from_the_child;
        process->pipes[i] =
            pipe_open(service, i == 0 ? WRITE_PIPE : READ_PIPE, spawned->pipes[i], protocol, &process->owner);
        if (process->pipes[i] != NULL)
            continue;
        close(spawned->pipes[i]);
        process_cancel(process->t);
        process->t->error = -ENOMEM;
    }
}

static rondo_transport *open_transport(struct service *service, const struct process_start *start,
                                       struct spawned *spawned)
{
    struct process *process = memory_new(sizeof *process);
    if (process == NULL)
        return NULL;
    const struct transport_start transport = {
        .protocol = start->protocol,
        .kind = PROCESS,
        .fd = spawned->pidfd,
        .later = true,
        .keeps_fd = true,
    };
    rondo_transport *t = transport_open(service, &transport);
    if (t == NULL) {
        memory_free(process);
        return NULL;
    }
    process->t = t;
    process->owner.lost = pipe_lost;
    process->pid = spawned->pid;
    t->into.process = process;
    open_pipes(service, process, start, spawned);
    return t;
}

int process_open(rondo_loop *loop, const struct process_start *start, rondo_transport **t)
{
    struct spawned spawned;
    assert(loop_is_here(loop));
    int rc = check(loop, start);
    if (rc == 0)
        rc = spawn(start->argv, start->options, &spawned);
    if (rc < 0)
        return rc;
    rondo_transport *made = open_transport(service_of(loop), start, &spawned);
    if (made == NULL) {
        spawn_undo(&spawned);
        return -ENOMEM;
    }
    if (t != NULL)
        *t = made;
    return 0;
}

int rondo_subprocess_exec(rondo_loop *loop, const rondo_protocol *protocol, const char *const *argv,
                          const rondo_subprocess_options *options, rondo_transport **t)
{
    static const rondo_subprocess_options defaults;
    const struct process_start start = {
        .protocol = protocol,
        .argv = argv,
        .options = options != NULL ? options : &defaults,
    };
    return process_open(loop, &start, t);
}

int rondo_subprocess_shell(rondo_loop *loop, const rondo_protocol *protocol, const char *command,
                           const rondo_subprocess_options *options, rondo_transport **t)
{
    const char *const argv[] = { "/bin/sh", "-c", command, NULL };
    return rondo_subprocess_exec(loop, protocol, argv, options, t);
}

/* ---- questions, and signals ------------------------------------------------------------------------------- */

static const struct process *process_of(const rondo_transport *t)
{
    assert(loop_is_here(t->loop));
    return t->kind == PROCESS ? t->into.process : NULL;
}

pid_t rondo_get_pid(const rondo_transport *t)
{
    const struct process *process = process_of(t);
    return process != NULL ? process->pid : 0;
}

bool rondo_get_returncode(const rondo_transport *t, int *returncode)
{
    const struct process *process = process_of(t);
    bool has_ended = process != NULL && process->has_ended;
    if (has_ended)
        *returncode = process->returncode;
    return has_ended;
}

rondo_transport *rondo_get_pipe_transport(const rondo_transport *t, int fd)
{
    const struct process *process = process_of(t);
    return process != NULL && fd >= 0 && fd <= 2 ? process->pipes[fd] : NULL;
}

int rondo_send_signal(rondo_transport *t, int signal)
{
    const struct process *process = process_of(t);
    if (process == NULL)
        return -ESRCH;
    if (process->has_ended)
        return 0; /* there is nothing to be done, as in asyncio */
    return syscall(SYS_pidfd_send_signal, t->fd, signal, NULL, 0) < 0 ? -errno : 0;
}

int rondo_terminate(rondo_transport *t)
{
    return rondo_send_signal(t, SIGTERM);
}

int rondo_kill(rondo_transport *t)
{
    return rondo_send_signal(t, SIGKILL);
}
