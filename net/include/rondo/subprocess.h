/* Subprocesses.    asyncio: subprocess_exec, subprocess_shell, SubprocessTransport, SubprocessProtocol
 *
 *   static void pipe_data_received(rondo_transport *t, int fd, rondo_bytes data)
 *   {
 *       (void)t;
 *       rondo_log(RONDO_LOG_INFO, "%d: %.*s", fd, (int)data.size, data.data);
 *   }
 *
 *   static void connection_lost(rondo_transport *t, int error)
 *   {
 *       (void)error;
 *       rondo_stop(rondo_get_loop(t));
 *   }
 *
 *   static const rondo_protocol reporter = {
 *       .name = "reporter",
 *       .pipe_data_received = pipe_data_received,
 *       .connection_lost = connection_lost,
 *   };
 *
 *   static int shard_start(rondo_loop *loop)
 *   {
 *       const char *const argv[] = { "date", "-u", NULL };
 *       return rondo_subprocess_exec(loop, &reporter, argv, NULL, NULL);
 *   }
 *
 *   int main(void)
 *   {
 *       const rondo_app app = { .shards = 1, .shard_start = shard_start };
 *       return rondo_run(&app) < 0;
 *   }
 *
 * Of rondo's and of the process's other descriptors a child inherits none. Its signal mask is empty, SIGPIPE has its default
 * meaning. It is waited for by a descriptor of the process (pidfd), not by a handler of SIGCHLD, so other children of the
 * program are left to whoever made them; none becomes a zombie. To start one takes the shard as long as the kernel needs to
 * load the program, some 0.1 ms (posix_spawn, which copies no memory, however much there is).
 *
 * When the server drains, children are left to end, or to be closed by what they serve; a protocol that wants to end its own
 * sets `drained`. Those that are left at the drain timeout are killed. With --sandbox there are no children: -EPERM.
 *
 * Thread: the loop's, for every call here (asserted). */
#ifndef RONDO_SUBPROCESS_H
#define RONDO_SUBPROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include <rondo/loop.h>
#include <rondo/protocol.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* The child's stdin, stdout and stderr are pipes to this shard unless the options say otherwise:
 *
 *   start -> connection_made
 *              [-> pipe_data_received]*
 *              [-> pause_writing -> resume_writing]*     of stdin
 *              [-> pipe_connection_lost]*                once for each pipe
 *               -> process_exited                        before, between or behind these
 *         -> connection_lost -> end                      when it has ended and all pipes have
 *
 * A child that has ended, but left its stdout to one of its own, ends for the protocol when that has closed it, too. */

/* What stands behind the child's stdin, stdout, or stderr, if it isn't a descriptor of yours (3 and more; duplicated, and
 * yours as before).    asyncio: subprocess.PIPE, None, STDOUT, DEVNULL */
#define RONDO_PIPE    0    /* a pipe to this shard */
#define RONDO_INHERIT (-1) /* the same as this process's */
#define RONDO_STDOUT  (-2) /* of stderr: the same as its stdout */
#define RONDO_DEVNULL (-3)

/* Zero means the default, for each member; nothing of it is needed after the call. */
typedef struct rondo_subprocess_options {
    int stdin_fd, stdout_fd, stderr_fd; /* RONDO_PIPE and so on, or a descriptor */
    const char *const *env;             /* "NAME=value", ended by NULL; default: this process's */
    const char *cwd;                    /* default: this process's */
    bool start_new_session;             /* setsid(2): a terminal's signals don't reach it */
} rondo_subprocess_options;

/* Start a program.    asyncio: subprocess_exec
 *
 *   argv      its name, looked for on the PATH unless it has a '/', and its arguments, ended by NULL
 *   options   NULL: the defaults
 *   t         set on success, may be NULL. connection_made comes from the loop
 *
 * Returns 0; -ENOENT, -EACCES, -ENOEXEC: it can't be run; -EAGAIN: too many processes (ulimit -u); -EINVAL: no protocol, no
 * name; -EBADF: a descriptor that isn't open; -EMFILE, -ENOMEM; -EPERM: in the sandbox; each with a line in the log;
 * -ESHUTDOWN: the shard is aborting; -ENOTSUP: in a test of <rondo/testing.h>. */
int rondo_subprocess_exec(rondo_loop *loop, const rondo_protocol *protocol, const char *const *argv,
                          const rondo_subprocess_options *options, rondo_transport **t);

/* Have a command run by /bin/sh -c. Don't make it of what strangers send.    asyncio: subprocess_shell */
int rondo_subprocess_shell(rondo_loop *loop, const rondo_protocol *protocol, const char *command,
                           const rondo_subprocess_options *options, rondo_transport **t);

/* ---- the transport of a child ----
 *
 * rondo_close, and rondo_abort, kill a child that runs (SIGKILL) and close its pipes; connection_lost(0) follows when it is
 * gone. rondo_write is for rondo_get_pipe_transport(t, 0). */

/* Its process id; 0: this is no child's transport.    asyncio: get_pid */
pid_t rondo_get_pid(const rondo_transport *t);

/* Has it ended?    asyncio: get_returncode
 *
 *   returncode   set if so: its exit status; or -9 when SIGKILL has ended it, and so on; 255 when somebody else has taken it
 *                (the program waits for any child, or ignores SIGCHLD)
 *
 * Up to and including connection_lost. */
bool rondo_get_returncode(const rondo_transport *t, int *returncode);

/* The pipe to stdin (0): rondo_write, rondo_close to tell its end, water marks. From stdout (1) or stderr (2):
 * rondo_pause_reading, rondo_close. NULL: there is none, or it has ended.    asyncio: get_pipe_transport */
rondo_transport *rondo_get_pipe_transport(const rondo_transport *t, int fd);

/* Send it a signal; SIGTERM; SIGKILL.    asyncio: send_signal, terminate, kill
 * Return 0, also when it has ended; -EINVAL: there is no such signal; -EPERM: it has become somebody else's; -ESRCH: this is no
 * child's transport. */
int rondo_send_signal(rondo_transport *t, int signal);
int rondo_terminate(rondo_transport *t);
int rondo_kill(rondo_transport *t);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
