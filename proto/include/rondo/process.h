/* Children in tasks: run a program, and read and write downwards.    asyncio: create_subprocess_exec, Process
 *
 *   static int launch(void *argument)
 *   {
 *       const char *const argv[] = { "sort", NULL };
 *       rondo_bytes sorted;
 *       rondo_process *process;
 *       int returncode;
 *       int rc = rondo_create_subprocess_exec(argv, NULL, &process);
 *       if (rc == 0)
 *           rc = rondo_process_communicate(process, RONDO_BYTES("b\na\n"), &sorted, NULL);
 *       if (rc == 0)
 *           rc = rondo_process_wait(process, &returncode);
 *       if (rc == 0)
 *           rondo_log(RONDO_LOG_INFO, "%.*s", (int)sorted.size, sorted.data);
 *       rondo_stop(argument);
 *       return rc;
 *   }
 *
 *   static int shard_start(rondo_loop *loop)
 *   {
 *       return rondo_create_task(loop, &(rondo_task_options){ .run = launch, .argument = loop }, NULL);
 *   }
 *
 *   int main(void)
 *   {
 *       const rondo_app app = { .shards = 1, .shard_start = shard_start };
 *       return rondo_run(&app) < 0;
 *   }
 *
 * A process belongs to the task that has made it: when that returns, a child that still runs is killed, and the process and
 * its streams are gone. The rest is as <rondo/subprocess.h> says.
 *
 * Thread: the loop's, for every call here. Calls that wait: inside a task only. */
#ifndef RONDO_PROCESS_H
#define RONDO_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include <rondo/bytes.h>
#include <rondo/stream.h>
#include <rondo/subprocess.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* asyncio: Process */
typedef struct rondo_process rondo_process;

/* Start a program; what the shell makes of a command.    asyncio: create_subprocess_exec, create_subprocess_shell
 *
 *   argv, options   as for rondo_subprocess_exec
 *   process         set on success
 *
 * Inside a task, which does not wait. Return as rondo_subprocess_exec; -EPERM also outside a task. */
int rondo_create_subprocess_exec(const char *const *argv, const rondo_subprocess_options *options,
                                 rondo_process **process);
int rondo_create_subprocess_shell(const char *command, const rondo_subprocess_options *options,
                                  rondo_process **process);

/* The streams to its stdin, and from its stdout and stderr; NULL: that is no pipe. They live as long as the process, also when
 * the pipes have ended. The first is for writing: rondo_stream_write, rondo_drain, rondo_stream_close; the others for
 * rondo_read and its like.    asyncio: stdin, stdout, stderr */
rondo_stream *rondo_process_stdin(const rondo_process *process);
rondo_stream *rondo_process_stdout(const rondo_process *process);
rondo_stream *rondo_process_stderr(const rondo_process *process);

/* Wait until it has ended.    asyncio: wait
 *
 *   returncode   as of rondo_get_returncode; may be NULL
 *
 * A child that writes more than its pipe holds ends only when somebody reads that: see rondo_process_communicate. Any number
 * of tasks may wait.
 * Returns 0, -ECANCELED, -ETIMEDOUT or -EPERM. */
int rondo_process_wait(rondo_process *process, int *returncode);

/* Write `input` to its stdin and close that, read all of stdout and stderr, and wait until it has ended.
 * asyncio: communicate
 *
 *   input              yours until this returns; that the child doesn't want it all is no error
 *   output, errors     all that it has said, however much; valid until the process is gone. NULL: of no interest, and thrown
 *                      away. Of what is no pipe 0 bytes
 *
 * Returns 0; -ECANCELED, -ETIMEDOUT, -EPERM; -ENOMEM; -EBUSY: another task reads there. When it fails the child goes on. */
int rondo_process_communicate(rondo_process *process, rondo_bytes input, rondo_bytes *output,
                              rondo_bytes *errors);

/* Its process id.    asyncio: pid */
pid_t rondo_process_get_pid(const rondo_process *process);

/* Has it ended? As rondo_get_returncode.    asyncio: returncode */
bool rondo_process_get_returncode(const rondo_process *process, int *returncode);

/* As rondo_send_signal, rondo_terminate and rondo_kill; -ESRCH: it has ended, and so have its pipes.
 * asyncio: send_signal, terminate, kill, ProcessLookupError */
int rondo_process_send_signal(rondo_process *process, int signal);
int rondo_process_terminate(rondo_process *process);
int rondo_process_kill(rondo_process *process);

/* Kill it, if it runs, and forget it and its streams now. For tasks that run many. Nobody may wait for it (asserted). */
void rondo_process_free(rondo_process *process);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
