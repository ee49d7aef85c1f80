/* Children of tasks: streams to and from real programs, their end, and what is left when a task ends before them. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rondo/rondo.h>

#include "core/task.h"
#include "net/service.h"
#include "support/client.h"
#include "support/turning.h"

TestSuite(process, .timeout = 60);

static struct world world;
static unsigned descriptors_before;
static int returned;

static void open_world(void)
{
    signal(SIGPIPE, SIG_IGN);
    world_open(&world, NULL);
    descriptors_before = client_count_descriptors();
}

/* The books balance: no task, transport, child or descriptor is left. */
static void close_world(void)
{
    cr_assert(zero(uint, tasks_count(&world.loop)));
    cr_assert(eq(uint, client_count_descriptors(), descriptors_before));
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1);
    world_close(&world);
}

#define IN_A_WORLD .init = open_world, .fini = close_world

static rondo_task *begin(int (*run)(void *argument))
{
    rondo_task *task;
    const rondo_task_options options = { .run = run, .name = "test" };
    cr_assert(zero(int, rondo_create_task(&world.loop, &options, &task)));
    return task;
}

static int run_and_note(void *argument)
{
    int (*run)(void) = *(int (**)(void))argument;
    returned = run();
    return 0;
}

/* Run it in a task, until all is gone. */
static void run(int (*function)(void))
{
    const rondo_task_options options = { .run = run_and_note, .argument = &function, .name = "test" };
    cr_assert(zero(int, rondo_create_task(&world.loop, &options, NULL)));
    RUN_UNTIL(world.loop.users == 0);
    cr_assert_eq(returned, 0, "%s", strerror(-returned));
}

static rondo_process *shell(const char *command)
{
    rondo_process *process;
    cr_assert_eq(rondo_create_subprocess_shell(command, NULL, &process), 0);
    return process;
}

static void assert_is(rondo_bytes bytes, const char *text)
{
    cr_assert_eq(bytes.size, strlen(text), "%.*s", (int)bytes.size, bytes.data);
    cr_assert_arr_eq(bytes.data, text, bytes.size);
}

/* ---- reading, writing, waiting ------------------------------------------------------------------------------- */

static int talk_with_cat(void)
{
    rondo_bytes line;
    rondo_process *process = shell("cat; echo end >&2; exit 3");
    int returncode = 0;
    cr_assert_gt(rondo_process_get_pid(process), 0);
    cr_assert_eq(rondo_read(rondo_process_stdin(process), 1, &line), 0, "it's for writing");
    for (unsigned i = 0; i < 10; i++) {
        rondo_stream_write(rondo_process_stdin(process), RONDO_BYTES("some line\n"));
        cr_assert_eq(rondo_readline(rondo_process_stdout(process), &line), 10);
        assert_is(line, "some line\n");
    }
    cr_assert_not(rondo_process_get_returncode(process, &returncode));
    rondo_stream_close(rondo_process_stdin(process));
    cr_assert_eq(rondo_read(rondo_process_stdout(process), 100, &line), 0);
    cr_assert_eq(rondo_read(rondo_process_stderr(process), RONDO_TO_EOF, &line), 4);
    assert_is(line, "end\n");
    cr_assert(rondo_at_eof(rondo_process_stderr(process)));
    cr_assert_eq(rondo_process_wait(process, &returncode), 0);
    cr_assert_eq(returncode, 3);
    returncode = 0;
    cr_assert(rondo_process_get_returncode(process, &returncode));
    cr_assert_eq(returncode, 3);
    return rondo_process_wait(process, NULL);
}

Test(process, its_streams_are_read_and_written, IN_A_WORLD)
{
    run(talk_with_cat);
}

static int read_after_its_end(void)
{
    rondo_bytes data;
    rondo_process *process = shell("echo said before");
    int rc = rondo_process_wait(process, NULL);
    cr_assert_eq(rondo_read(rondo_process_stdout(process), RONDO_TO_EOF, &data), 12);
    assert_is(data, "said before\n");
    return rc;
}

Test(process, what_it_has_said_can_be_read_after_its_end, IN_A_WORLD)
{
    run(read_after_its_end);
}

static int be_killed(void)
{
    int returncode = 0;
    rondo_process *process = shell("exec sleep 1000");
    cr_assert_eq(rondo_process_terminate(process), 0);
    cr_assert_eq(rondo_process_wait(process, &returncode), 0);
    cr_assert_eq(returncode, -SIGTERM);
    rondo_process *other = shell("trap '' TERM; echo; exec sleep 1000");
    rondo_bytes line;
    cr_assert_eq(rondo_readline(rondo_process_stdout(other), &line), 1);
    cr_assert_eq(rondo_process_send_signal(other, SIGTERM), 0);
    rondo_timeout(50);
    cr_assert_eq(rondo_process_wait(other, &returncode), -ETIMEDOUT);
    rondo_timeout(RONDO_NO_TIMEOUT);
    cr_assert_eq(rondo_process_kill(other), 0);
    cr_assert_eq(rondo_process_wait(other, &returncode), 0);
    cr_assert_eq(returncode, -SIGKILL);
    for (unsigned i = 0; i < 100 && rondo_process_kill(other) == 0; i++)
        rondo_sleep(10); /* its pipes */
    cr_assert_eq(rondo_process_kill(other), -ESRCH);
    return 0;
}

Test(process, signals_end_it_and_a_wait_may_run_out_of_time, IN_A_WORLD)
{
    run(be_killed);
}

/* ---- everything at once -------------------------------------------------------------------------------------- */

static int sort(void)
{
    rondo_bytes output, errors;
    int returncode = -1;
    rondo_process *process = shell("sort; echo done >&2");
    int rc = rondo_process_communicate(process, RONDO_BYTES("b\nc\na\n"), &output, &errors);
    assert_is(output, "a\nb\nc\n");
    assert_is(errors, "done\n");
    cr_assert(rondo_process_get_returncode(process, &returncode), "it has ended by then");
    cr_assert_eq(returncode, 0);
    return rc;
}

Test(process, communicate_writes_all_and_reads_all, IN_A_WORLD)
{
    run(sort);
}

static char megabyte[1 << 20];

static int through_cat(void)
{
    rondo_bytes output;
    fill_pattern(megabyte, sizeof megabyte, 5);
    rondo_process *process = shell("tee /dev/stderr");
    rondo_bytes errors;
    int rc = rondo_process_communicate(process, (rondo_bytes){ megabyte, sizeof megabyte }, &output, &errors);
    cr_assert_eq(output.size, sizeof megabyte);
    cr_assert_arr_eq(output.data, megabyte, sizeof megabyte);
    cr_assert_eq(errors.size, sizeof megabyte);
    cr_assert_arr_eq(errors.data, megabyte, sizeof megabyte);
    return rc;
}

Test(process, communicate_goes_both_ways_at_a_time, IN_A_WORLD)
{
    run(through_cat);
}

static int to_the_deaf(void)
{
    rondo_bytes output;
    rondo_process *process = shell("exec <&-; echo fine");
    int rc = rondo_process_communicate(process, (rondo_bytes){ megabyte, sizeof megabyte }, &output, NULL);
    assert_is(output, "fine\n");
    process = shell("echo thrown away; echo away >&2");
    return rc == 0 ? rondo_process_communicate(process, RONDO_BYTES(""), NULL, NULL) : rc;
}

Test(process, communicate_does_not_mind_that_its_input_is_not_wanted, IN_A_WORLD)
{
    run(to_the_deaf);
}

static int without_pipes(void)
{
    rondo_bytes output, errors;
    const rondo_subprocess_options options = { .stdin_fd = RONDO_DEVNULL,
                                               .stdout_fd = RONDO_DEVNULL,
                                               .stderr_fd = RONDO_DEVNULL };
    rondo_process *process;
    cr_assert_eq(rondo_create_subprocess_shell("echo nobody hears", &options, &process), 0);
    cr_assert_null(rondo_process_stdin(process));
    cr_assert_null(rondo_process_stdout(process));
    cr_assert_null(rondo_process_stderr(process));
    int rc = rondo_process_communicate(process, RONDO_BYTES("x"), &output, &errors);
    cr_assert_eq(output.size + errors.size, 0);
    return rc;
}

Test(process, communicate_works_without_pipes, IN_A_WORLD)
{
    run(without_pipes);
}

static int run_out_of_time(void)
{
    rondo_bytes output;
    rondo_process *process = shell("echo begun; exec sleep 1000");
    rondo_timeout(300);
    cr_assert_eq(rondo_process_communicate(process, RONDO_BYTES(""), &output, NULL), -ETIMEDOUT);
    rondo_timeout(RONDO_NO_TIMEOUT);
    assert_is(output, "begun\n");
    int returncode;
    cr_assert_not(rondo_process_get_returncode(process, &returncode), "it goes on");
    return 0;
}

Test(process, communicate_may_run_out_of_time, IN_A_WORLD)
{
    run(run_out_of_time);
}

/* ---- ends ------------------------------------------------------------------------------------------------------ */

static int leave(void)
{
    shell("trap '' TERM; exec sleep 1000");
    shell("exec cat /dev/zero");
    return 0;
}

Test(process, one_that_its_task_leaves_is_killed, IN_A_WORLD)
{
    run(leave);
}

static int free_many(void)
{
    for (unsigned i = 0; i < 30; i++) {
        rondo_process *process = shell("exec sleep 1000");
        if (i % 2 == 0)
            rondo_sleep(0);
        rondo_process_free(process);
    }
    return 0;
}

Test(process, one_may_be_freed_before_its_task_ends, IN_A_WORLD)
{
    run(free_many);
}

static int wait_for_ever(void *argument)
{
    (void)argument;
    int rc = rondo_process_wait(shell("exec sleep 1000"), NULL);
    cr_assert_eq(rc, -ECANCELED);
    return rc;
}

Test(process, a_task_that_waits_can_be_cancelled, IN_A_WORLD)
{
    rondo_cancel(begin(wait_for_ever));
    RUN_UNTIL(world.loop.users == 0);
}

Test(process, a_drain_cancels_it_with_its_task, IN_A_WORLD)
{
    begin(wait_for_ever);
    turn_some(&world);
    service_hooks.drain(&world.loop);
    RUN_UNTIL(world.loop.users == 0);
}

static int run_nothing(void)
{
    const char *const argv[] = { "/no/such/program", NULL };
    rondo_process *process;
    cr_assert_eq(rondo_create_subprocess_exec(argv, NULL, &process), -ENOENT);
    return 0;
}

Test(process, what_can_not_be_run_is_told_at_once, IN_A_WORLD)
{
    run(run_nothing);
}

Test(process, outside_a_task_there_is_none, IN_A_WORLD)
{
    rondo_process *process;
    cr_assert_eq(rondo_create_subprocess_shell("true", NULL, &process), -EPERM);
}
