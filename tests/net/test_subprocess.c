/* Children: real programs of the system, whose transports' loop the test turns itself. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/spawn.h"
#include "net/subprocess.h"
#include "support/pair.h"
#include "support/turning.h"

TestSuite(subprocess, .timeout = 120);

static struct world world;
static rondo_transport *child; /* NULL: lost */

/* ---- the protocol ----------------------------------------------------------------------------------------- */

static char calls[1024], output[3][1 << 20];
static size_t output_size[3];
static unsigned lost, exited, paused, resumed, pipes_lost;
static int lost_error, pipe_error[3], returncode;
static void (*on_exit_of)(rondo_transport *t);
static void (*on_made)(rondo_transport *t);
static void (*on_data)(rondo_transport *t);

static void note(const char *call)
{
    size_t size = strlen(calls), length = strlen(call);
    bool again = size >= length && strcmp(calls + size - length, call) == 0;
    if (!again && size + length + 2 < sizeof calls)
        strcat(strcat(calls, size > 0 ? " " : ""), call);
}

static void connection_made(rondo_transport *t)
{
    note("CM");
    if (on_made != NULL)
        on_made(t);
}

static void pipe_data_received(rondo_transport *t, int fd, rondo_bytes data)
{
    note(fd == 1 ? "D1" : "D2");
    cr_assert_leq(output_size[fd] + data.size, sizeof output[fd]);
    memcpy(output[fd] + output_size[fd], data.data, data.size);
    output_size[fd] += data.size;
    if (on_data != NULL)
        on_data(t);
}

static void pipe_connection_lost(rondo_transport *t, int fd, int error)
{
    cr_assert_null(rondo_get_pipe_transport(t, fd));
    note(fd == 0 ? "L0" : fd == 1 ? "L1" : "L2");
    pipe_error[fd] = error;
    pipes_lost++;
}

static void process_exited(rondo_transport *t)
{
    note("EX");
    exited++;
    cr_assert(rondo_get_returncode(t, &returncode));
    if (on_exit_of != NULL)
        on_exit_of(t);
}

static void pause_writing(rondo_transport *t)
{
    cr_assert_eq(t, child);
    paused++;
}

static void resume_writing(rondo_transport *t)
{
    cr_assert_eq(t, child);
    resumed++;
}

static void connection_lost(rondo_transport *t, int error)
{
    note("CL");
    lost++;
    lost_error = error;
    int code;
    cr_assert(rondo_get_returncode(t, &code), "up to and including this");
    cr_assert_gt(rondo_get_pid(t), 0);
    cr_assert_eq(rondo_kill(t), 0, "there is nothing to be done");
    if (t == child)
        child = NULL;
}

static const rondo_protocol plain = {
    .name = "plain",
    .connection_made = connection_made,
    .pipe_data_received = pipe_data_received,
    .pipe_connection_lost = pipe_connection_lost,
    .process_exited = process_exited,
    .pause_writing = pause_writing,
    .resume_writing = resume_writing,
    .connection_lost = connection_lost,
};

/* ---- the world --------------------------------------------------------------------------------------------- */

static unsigned count_descriptors(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static unsigned descriptors_before;

static void open_world(void)
{
    signal(SIGPIPE, SIG_IGN);
    world_open(&world, NULL);
    descriptors_before = count_descriptors();
}

static void close_world(void)
{
    if (child != NULL)
        rondo_close(child);
    RUN_UNTIL(world.loop.users == 0);
    cr_assert_eq(count_descriptors(), descriptors_before, "no descriptor is left");
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "no child is left");
    cr_assert_eq(errno, ECHILD);
    world_close(&world);
}

#define WORLD .init = open_world, .fini = close_world

static void run(const char *command, const rondo_subprocess_options *options)
{
    cr_assert_eq(rondo_subprocess_shell(&world.loop, &plain, command, options, &child), 0);
    cr_assert(zero(str, calls), "nothing comes from inside the call");
}

static void run_until_lost(void)
{
    RUN_UNTIL(lost == 1);
    cr_assert_eq(strncmp(calls, "CM", 2), 0, "%s", calls);
    cr_assert_eq(strcmp(calls + strlen(calls) - 2, "CL"), 0, "%s", calls);
    cr_assert_eq(exited, 1);
}

static void assert_output(int fd, const char *text)
{
    cr_assert_eq(output_size[fd], strlen(text), "%.*s", (int)output_size[fd], output[fd]);
    cr_assert_arr_eq(output[fd], text, output_size[fd], "%.*s", (int)output_size[fd], output[fd]);
}

/* ---- a child's life ------------------------------------------------------------------------------------------ */

Test(subprocess, what_it_says_is_told_by_descriptor_and_then_its_end, WORLD)
{
    run("echo out; echo err >&2; exit 7", NULL);
    cr_assert_gt(rondo_get_pid(child), 0);
    cr_assert_not(rondo_get_returncode(child, &returncode));
    run_until_lost();
    assert_output(1, "out\n");
    assert_output(2, "err\n");
    cr_assert_eq(returncode, 7);
    cr_assert_eq(lost_error, 0);
    cr_assert_eq(pipes_lost, 3);
    cr_assert_eq(pipe_error[0] + pipe_error[1] + pipe_error[2], 0);
}

Test(subprocess, what_is_written_to_its_stdin_it_reads_to_the_end, WORLD)
{
    const char *const argv[] = { "cat", NULL };
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &plain, argv, NULL, &child), 0);
    rondo_transport *in = rondo_get_pipe_transport(child, 0);
    rondo_write(in, RONDO_BYTES("hello, "));
    rondo_write(in, RONDO_BYTES("cat"));
    rondo_write_eof(in);
    run_until_lost();
    assert_output(1, "hello, cat");
    cr_assert_eq(returncode, 0);
}

Test(subprocess, a_lot_goes_through_it_and_pauses_who_writes, WORLD)
{
    static char data[900000];
    const char *const argv[] = { "cat", NULL };
    fill_pattern(data, sizeof data, 4);
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &plain, argv, NULL, &child), 0);
    rondo_transport *in = rondo_get_pipe_transport(child, 0);
    rondo_write(in, (rondo_bytes){ data, sizeof data });
    cr_assert_eq(paused, 1);
    RUN_UNTIL(resumed == 1);
    rondo_write_eof(in);
    run_until_lost();
    cr_assert_eq(output_size[1], sizeof data);
    cr_assert_arr_eq(output[1], data, sizeof data);
}

Test(subprocess, signals_end_it_and_say_so, WORLD)
{
    run("exec sleep 1000", NULL);
    RUN_UNTIL(*calls != '\0');
    cr_assert_eq(rondo_send_signal(child, 0), 0);
    cr_assert_eq(rondo_send_signal(child, 1000), -EINVAL);
    cr_assert_eq(rondo_terminate(child), 0);
    run_until_lost();
    cr_assert_eq(returncode, -SIGTERM);
}

Test(subprocess, closing_kills_one_that_ignores_sigterm, WORLD)
{
    run("trap '' TERM; echo ready; exec sleep 1000", NULL);
    RUN_UNTIL(output_size[1] == 6);
    cr_assert_eq(rondo_terminate(child), 0);
    turn_some(&world);
    cr_assert_eq(exited, 0);
    rondo_close(child);
    rondo_close(child);
    cr_assert(rondo_is_closing(child));
    cr_assert_eq(exited, 0, "from the loop");
    run_until_lost();
    cr_assert_eq(returncode, -SIGKILL);
    cr_assert_eq(lost_error, 0);
}

Test(subprocess, one_may_be_closed_at_once, WORLD)
{
    run("exec sleep 1000", NULL);
    rondo_abort(child);
    run_until_lost();
    cr_assert_eq(returncode, -SIGKILL);
}

Test(subprocess, one_that_closes_its_pipes_early_goes_on, WORLD)
{
    run("echo last; exec <&- >&- 2>&-; exec sleep 1000", NULL);
    RUN_UNTIL(pipes_lost == 3);
    assert_output(1, "last\n");
    turn_some(&world);
    cr_assert_eq(exited + lost, 0);
    cr_assert_eq(rondo_kill(child), 0);
    run_until_lost();
}

Test(subprocess, bytes_for_one_that_has_closed_its_stdin_are_an_error, WORLD)
{
    static char data[300000];
    run("exec <&-; echo closed; exec sleep 1000", NULL);
    rondo_write(rondo_get_pipe_transport(child, 0), (rondo_bytes){ data, sizeof data });
    RUN_UNTIL(pipes_lost == 1);
    cr_assert_eq(pipe_error[0], -EPIPE);
    cr_assert_eq(rondo_kill(child), 0);
    run_until_lost();
}

static void pause_it(rondo_transport *t)
{
    rondo_pause_reading(rondo_get_pipe_transport(t, 1));
}

Test(subprocess, one_that_floods_its_stdout_is_held_back, WORLD)
{
    on_data = pause_it;
    run("exec cat /dev/zero", NULL);
    RUN_UNTIL(output_size[1] > 0);
    size_t before = output_size[1];
    turn_some(&world);
    cr_assert_eq(output_size[1], before);
    rondo_close(child);
    run_until_lost();
    cr_assert_eq(returncode, -SIGKILL);
}

Test(subprocess, a_grandchild_that_keeps_its_stdout_keeps_its_end, WORLD)
{
    run("exec 3<&0; (read line <&3; echo from below) & exit 3", NULL); /* in the background 0 is /dev/null */
    RUN_UNTIL(exited == 1);
    cr_assert_eq(returncode, 3);
    turn_some(&world);
    cr_assert_eq(lost, 0);
    rondo_transport *in = rondo_get_pipe_transport(child, 0);
    cr_assert_not_null(in);
    rondo_write(in, RONDO_BYTES("go\n"));
    run_until_lost();
    assert_output(1, "from below\n");
}

Test(subprocess, closing_does_not_wait_for_a_grandchild, WORLD)
{
    run("sleep 1000 & echo $!; exit 0", NULL);
    RUN_UNTIL(exited == 1 && output_size[1] > 0);
    cr_assert_eq(lost, 0);
    rondo_close(child);
    run_until_lost();
    kill(atoi(output[1]), SIGKILL);
}

static void close_it(rondo_transport *t)
{
    rondo_close(t);
}

Test(subprocess, it_may_be_closed_from_every_callback, WORLD)
{
    on_made = close_it;
    run("echo x; exec sleep 1000", NULL);
    run_until_lost();
    cr_assert_eq(returncode, -SIGKILL);
    on_made = NULL;
    on_data = close_it;
    *calls = '\0';
    lost = exited = 0;
    run("echo x; exec sleep 1000", NULL);
    run_until_lost();
    on_data = NULL;
    on_exit_of = close_it;
    *calls = '\0';
    lost = exited = 0;
    run("sleep 1 & exit 1", NULL);
    run_until_lost();
    cr_assert_eq(returncode, 1);
}

/* ---- descriptors --------------------------------------------------------------------------------------------- */

Test(subprocess, it_inherits_three_descriptors_and_no_more, WORLD)
{
    int open_one = open("/dev/null", O_RDONLY); /* not closed by exec by itself */
    run("ls /proc/self/fd", NULL);
    run_until_lost();
    assert_output(1, "0\n1\n2\n3\n"); /* ls reads the folder by 3 */
    close(open_one);
}

Test(subprocess, its_pipes_block_as_programs_expect, WORLD)
{
    run("grep flags /proc/self/fdinfo/[012]", NULL);
    run_until_lost();
    output[1][output_size[1]] = '\0';
    cr_assert_null(strstr(output[1], "04000"), "%s", output[1]);
    cr_assert_not_null(strstr(output[1], "fdinfo/2:flags"));
}

Test(subprocess, its_streams_may_be_other_things, WORLD)
{
    char text[64] = "";
    FILE *file = tmpfile();
    rondo_subprocess_options options = { .stdin_fd = RONDO_DEVNULL,
                                         .stdout_fd = fileno(file),
                                         .stderr_fd = RONDO_STDOUT };
    run("cat; echo out; echo err >&2", &options);
    cr_assert_null(rondo_get_pipe_transport(child, 0));
    cr_assert_null(rondo_get_pipe_transport(child, 1));
    cr_assert_null(rondo_get_pipe_transport(child, 2));
    cr_assert_null(rondo_get_pipe_transport(child, 3));
    run_until_lost();
    cr_assert_eq(pipes_lost, 0);
    rewind(file);
    cr_assert_eq(fread(text, 1, sizeof text, file), 8);
    cr_assert(eq(str, text, "out\nerr\n"));
    fclose(file);
}

Test(subprocess, stderr_may_go_where_stdout_goes_and_stdin_be_inherited, WORLD)
{
    int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    close(null);
    rondo_subprocess_options options = { .stdin_fd = RONDO_INHERIT, .stderr_fd = RONDO_STDOUT };
    run("cat; echo one; echo two >&2", &options);
    cr_assert_null(rondo_get_pipe_transport(child, 2));
    run_until_lost();
    assert_output(1, "one\ntwo\n");
}

Test(subprocess, stdout_and_stderr_may_be_exchanged, WORLD)
{
    int out[2], err[2];
    char text[8] = "";
    cr_assert_eq(pipe2(out, O_CLOEXEC) + pipe2(err, O_CLOEXEC), 0);
    int saved[2] = { fcntl(1, F_DUPFD_CLOEXEC, 10), fcntl(2, F_DUPFD_CLOEXEC, 10) };
    dup2(out[1], 1);
    dup2(err[1], 2);
    rondo_subprocess_options options = { .stdout_fd = 2, .stderr_fd = 1 };
    int rc = rondo_subprocess_shell(&world.loop, &plain, "echo o; echo e >&2", &options, &child);
    dup2(saved[0], 1);
    dup2(saved[1], 2);
    cr_assert_eq(rc, 0);
    run_until_lost();
    cr_assert_eq(read(out[0], text, sizeof text), 2);
    cr_assert_eq(*text, 'e');
    cr_assert_eq(read(err[0], text, sizeof text), 2);
    cr_assert_eq(*text, 'o');
    int all[] = { out[0], out[1], err[0], err[1], saved[0], saved[1] };
    for (unsigned i = 0; i < 6; i++)
        close(all[i]);
}

/* In a process of its own, which has no stdin, stdout and stderr: 0, 1 and 2 are the pipes' first numbers. */
static int spawn_without_stdio(void)
{
    static const rondo_subprocess_options options;
    const char *const argv[] = { "sh", "-c", "cat; echo out; echo err >&2", NULL };
    struct spawned spawned;
    char text[16] = "", errors[16] = "";
    int status = -1;
    for (int i = 0; i < 3; i++)
        close(i);
    if (spawn(argv, &options, &spawned) < 0 || write(spawned.pipes[0], "in ", 3) != 3)
        return 1;
    close(spawned.pipes[0]);
    fcntl(spawned.pipes[1], F_SETFL, 0);
    fcntl(spawned.pipes[2], F_SETFL, 0);
    if (waitpid(spawned.pid, &status, 0) != spawned.pid || status != 0)
        return 2;
    if (read(spawned.pipes[1], text, sizeof text) != 7 || strcmp(text, "in out\n") != 0)
        return 3;
    return read(spawned.pipes[2], errors, sizeof errors) == 4 && strcmp(errors, "err\n") == 0 ? 0 : 4;
}

/* Its stderr's pipe gets 0 and 1 as its numbers, before the files are put there. */
static int spawn_with_files_without_stdio(void)
{
    const char *const argv[] = { "sh", "-c", "cat; echo err >&2", NULL };
    struct spawned spawned;
    char text[16] = "", errors[16] = "";
    int in[2], out[2], status = -1;
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || write(in[1], "in ", 3) != 3)
        return 1;
    close(in[1]);
    for (int i = 0; i < 3; i++)
        close(i);
    const rondo_subprocess_options options = { .stdin_fd = in[0], .stdout_fd = out[1] };
    if (spawn(argv, &options, &spawned) < 0)
        return 2;
    fcntl(spawned.pipes[2], F_SETFL, 0);
    if (waitpid(spawned.pid, &status, 0) != spawned.pid || status != 0)
        return 3;
    if (read(out[0], text, sizeof text) != 3 || strcmp(text, "in ") != 0)
        return 4;
    return read(spawned.pipes[2], errors, sizeof errors) == 4 && strcmp(errors, "err\n") == 0 ? 0 : 5;
}

static void assert_passes_in_a_process_of_its_own(int (*passes)(void))
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0)
        _exit(passes());
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0, "%d", WEXITSTATUS(status));
}

Test(subprocess, it_works_without_stdio_of_ones_own, WORLD)
{
    assert_passes_in_a_process_of_its_own(spawn_without_stdio);
    assert_passes_in_a_process_of_its_own(spawn_with_files_without_stdio);
}

/* ---- surroundings -------------------------------------------------------------------------------------------- */

Test(subprocess, it_has_the_environment_and_the_folder_that_are_asked_for, WORLD)
{
    const char *const env[] = { "COLOUR=blue", "PATH=/usr/bin:/bin", NULL };
    run("echo $COLOUR $HOME; pwd", &(rondo_subprocess_options){ .env = env, .cwd = "/usr" });
    run_until_lost();
    assert_output(1, "blue\n/usr\n");
}

Test(subprocess, its_signals_are_as_a_shell_would_have_them, WORLD)
{
    sigset_t all, before;
    for (int i = 1; i < SIGRTMIN; i++)
        signal(i, SIG_DFL); /* some are ignored by who started the test */
    signal(SIGPIPE, SIG_IGN);
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    run("grep -E 'SigBlk|SigIgn' /proc/self/status", NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    run_until_lost();
    unsigned long long blocked = 1, ignored = 1;
    cr_assert_eq(sscanf(output[1], "SigBlk: %llx SigIgn: %llx", &blocked, &ignored), 2);
    cr_assert_eq(blocked, 0);
    cr_assert_eq(ignored & 0x7fffffff, 0, "%llx",
                 ignored); /* libc ignores two of its own, which are higher */
}

Test(subprocess, it_may_have_a_session_of_its_own, WORLD)
{
    run("echo $(ps -o sid= -p $$) $$", &(rondo_subprocess_options){ .start_new_session = true });
    int session = 0, pid = 0;
    int expected = (int)rondo_get_pid(child);
    run_until_lost();
    if (sscanf(output[1], "%d %d", &session, &pid) == 2) /* where there is a ps */
        cr_assert_eq(session, pid);
    else
        cr_assert_eq(atoi(output[1]), expected);
}

/* ---- what can't be run ---------------------------------------------------------------------------------------- */

Test(subprocess, what_is_not_there_or_no_program_is_refused, WORLD)
{
    const char *const nothing[] = { "/no/such/program", NULL }, *const unknown[] = { "no-such-program",
                                                                                     NULL };
    const char *const folder[] = { "/usr", NULL }, *const empty[] = { NULL },
                      *const nameless[] = { "", NULL };
    const char *const echo[] = { "echo", NULL };
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &plain, nothing, NULL, &child), -ENOENT);
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &plain, unknown, NULL, &child), -ENOENT);
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &plain, folder, NULL, &child), -EACCES);
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &plain, empty, NULL, &child), -EINVAL);
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &plain, nameless, NULL, &child), -EINVAL);
    cr_assert_eq(rondo_subprocess_exec(&world.loop, NULL, echo, NULL, &child), -EINVAL);
    rondo_subprocess_options options = { .cwd = "/no/such/folder" };
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &plain, echo, &options, &child), -ENOENT);
    options = (rondo_subprocess_options){ .stdout_fd = 9999 };
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &plain, echo, &options, &child), -EBADF);
    options = (rondo_subprocess_options){ .stdin_fd = RONDO_STDOUT };
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &plain, echo, &options, &child), -EBADF);
    cr_assert_null(child);
    cr_assert_eq(world.loop.users, 0);
    cr_assert(zero(str, calls));
}

Test(subprocess, without_descriptors_it_is_refused_and_none_is_lost, WORLD)
{
    const char *const argv[] = { "true", NULL };
    struct rlimit limit, none;
    getrlimit(RLIMIT_NOFILE, &limit);
    int next = dup(0);
    close(next);
    for (unsigned left = 0; left < 7; left++) {
        none = (struct rlimit){ (rlim_t)next + left, limit.rlim_max };
        setrlimit(RLIMIT_NOFILE, &none);
        int rc = rondo_subprocess_exec(&world.loop, &plain, argv, NULL, &child);
        setrlimit(RLIMIT_NOFILE, &limit);
        if (rc == 0) {
            cr_assert_geq(left, 5);
            run_until_lost();
            lost = exited = 0;
            *calls = '\0';
            continue;
        }
        cr_assert_eq(rc, -EMFILE, "%u left: %s", left, strerror(-rc));
        cr_assert_eq(count_descriptors(), descriptors_before);
    }
}

Test(subprocess, one_that_somebody_else_has_waited_for_is_told_too, WORLD)
{
    int status;
    run("exit 5", NULL);
    cr_assert_eq(waitpid(rondo_get_pid(child), &status, 0), rondo_get_pid(child));
    run_until_lost();
    cr_assert_eq(returncode, 255);
}

Test(subprocess, it_is_no_stream, WORLD)
{
    run("exec sleep 1000", NULL);
    RUN_UNTIL(*calls != '\0');
    rondo_write(child, RONDO_BYTES("x"));
    rondo_write_eof(child);
    rondo_sendto(child, RONDO_BYTES("x"), (rondo_address){ 0 });
    cr_assert_not(rondo_can_write_eof(child));
    pid_t pid = 0;
    cr_assert_eq(rondo_get_extra_info(child, "subprocess", &pid, sizeof pid), 0);
    cr_assert_eq(pid, rondo_get_pid(child));
    cr_assert_eq(rondo_get_pid(rondo_get_pipe_transport(child, 0)), 0);
    cr_assert_eq(rondo_kill(rondo_get_pipe_transport(child, 0)), -ESRCH);
    turn_some(&world);
    cr_assert_eq(lost, 0);
}

/* ---- the server's end ----------------------------------------------------------------------------------------- */

Test(subprocess, a_drain_waits_for_it, WORLD)
{
    run("read line; echo $line", NULL);
    RUN_UNTIL(*calls != '\0');
    service_hooks.drain(&world.loop);
    turn_some(&world);
    cr_assert_eq(exited + pipes_lost, 0);
    rondo_write(rondo_get_pipe_transport(child, 0), RONDO_BYTES("done\n"));
    run_until_lost();
    assert_output(1, "done\n");
    cr_assert_eq(lost_error, 0);
}

static unsigned drains;

static void drained(rondo_transport *t)
{
    drains++;
    rondo_terminate(t);
}

Test(subprocess, a_protocol_may_end_it_when_the_server_drains, WORLD)
{
    rondo_protocol ending = plain;
    ending.drained = drained;
    const char *const argv[] = { "sleep", "1000", NULL };
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &ending, argv, NULL, &child), 0);
    RUN_UNTIL(*calls != '\0');
    service_hooks.drain(&world.loop);
    run_until_lost();
    cr_assert_eq(drains, 1);
    cr_assert_eq(returncode, -SIGTERM);
}

Test(subprocess, an_aborting_server_kills_it, WORLD)
{
    run("trap '' TERM; exec sleep 1000", NULL);
    RUN_UNTIL(*calls != '\0');
    service_hooks.drain(&world.loop);
    service_hooks.abort(&world.loop);
    run_until_lost();
    cr_assert_eq(returncode, -SIGKILL);
    cr_assert_eq(lost_error, -ECANCELED);
    const char *const argv[] = { "true", NULL };
    cr_assert_eq(rondo_subprocess_exec(&world.loop, &plain, argv, NULL, &child), -ESHUTDOWN);
}

/* ---- many ------------------------------------------------------------------------------------------------------- */

static unsigned left;

static void one_is_gone(rondo_transport *t, int error)
{
    (void)t;
    (void)error;
    left--;
}

Test(subprocess, hundreds_at_a_time_leave_nothing, WORLD)
{
    static const rondo_protocol counting = { .connection_lost = one_is_gone };
    const char *const argv[] = { "true", NULL };
    for (unsigned round = 0; round < 3; round++) {
        for (; left < 100; left++)
            cr_assert_eq(rondo_subprocess_exec(&world.loop, &counting, argv, NULL, NULL), 0);
        RUN_UNTIL(left == 0);
    }
}
