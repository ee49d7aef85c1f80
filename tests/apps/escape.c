/* A server whose clients may ask for what a sandbox refuses: each line names something, and the answer is what came of
 * it, the name of an error or "done". */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rondo/rondo.h>

/* By the system calls themselves, as who has taken over a process would. */

static long try_to_exec(void)
{
    char *const arguments[] = { "/nowhere/at/all", NULL };
    return syscall(SYS_execve, arguments[0], arguments, NULL);
}

static long try_to_fork(void)
{
    long child = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0)
        syscall(SYS_exit_group, 0);
    if (child > 0)
        waitpid((pid_t)child, NULL, 0);
    return child;
}

static long try_to_fork_anew(void)
{
    struct clone_args arguments = { .exit_signal = SIGCHLD };
    long child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0)
        syscall(SYS_exit_group, 0);
    if (child > 0)
        waitpid((pid_t)child, NULL, 0);
    return child;
}

static long try_to_trace(void)
{
    return syscall(SYS_ptrace, PTRACE_ATTACH, getppid() + 1000000, NULL, NULL);
}

static long try_to_make_a_ring(void)
{
    struct io_uring_params params = { 0 };
    long ring = syscall(SYS_io_uring_setup, 1, &params);
    if (ring >= 0)
        close((int)ring);
    return ring;
}

static long try_to_write_a_file(void)
{
    long file = syscall(SYS_openat, AT_FDCWD, "/dev/null", O_WRONLY | O_CLOEXEC);
    if (file >= 0)
        close((int)file);
    return file;
}

static long try_to_read_a_file(void)
{
    long file = syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY | O_CLOEXEC);
    if (file >= 0)
        close((int)file);
    return file;
}

static long try_to_open_a_raw_socket(void)
{
    return syscall(SYS_socket, AF_PACKET, SOCK_RAW, 0);
}

static long try_to_kill(void)
{
    return syscall(SYS_kill, getpid(), 0);
}

static long try_to_change_root(void)
{
    return syscall(SYS_chroot, "/");
}

static const struct {
    const char *name;
    long (*go)(void);
} attempts[] = {
    { "exec", try_to_exec },
    { "fork", try_to_fork },
    { "clone3", try_to_fork_anew },
    { "ptrace", try_to_trace },
    { "io_uring_setup", try_to_make_a_ring },
    { "write", try_to_write_a_file },
    { "read", try_to_read_a_file },
    { "packet", try_to_open_a_raw_socket },
    { "kill", try_to_kill },
    { "chroot", try_to_change_root },
};

static void answer(rondo_transport *t, const char *text)
{
    rondo_send_line(t, (rondo_bytes){ text, strlen(text) });
}

static void line_received(rondo_transport *t, rondo_bytes line)
{
    for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++) {
        if (strlen(attempts[i].name) == line.size && memcmp(attempts[i].name, line.data, line.size) == 0) {
            errno = 0;
            answer(t, attempts[i].go() < 0 ? strerrorname_np(errno) : "done");
            return;
        }
    }
    answer(t, "what?");
}

int main(int argc, char **argv)
{
    static const rondo_line_protocol lines = { RONDO_LINE_RECEIVER("escape", 0),
                                               .line_received = line_received };
    return rondo_main(argc, argv, &lines.protocol, "tcp://127.0.0.1:0");
}
