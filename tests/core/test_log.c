/* The log: levels, whole lines, and nothing that a broken stderr could do to us. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"

TestSuite(log, .timeout = 10);

static int reader;

/* stderr goes through a pipe, so that the test can read it. */
static void catch_stderr(void)
{
    int ends[2];
    cr_assert_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    reader = ends[0];
}

static char *caught(void)
{
    static char text[8192];
    ssize_t size = read(reader, text, sizeof text - 1);
    text[size > 0 ? size : 0] = '\0';
    return text;
}

Test(log, a_line_says_its_level, .init = catch_stderr)
{
    rondo_set_log_level(RONDO_LOG_DEBUG);
    rondo_log(RONDO_LOG_ERROR, "%d is wrong", 1);
    rondo_log(RONDO_LOG_WARNING, "%d is odd", 3);
    rondo_log(RONDO_LOG_INFO, "plain");
    rondo_log(RONDO_LOG_DEBUG, "details");
    cr_assert(eq(str, caught(), "error: 1 is wrong\nwarning: 3 is odd\nplain\ndebug: details\n"));
}

Test(log, only_lines_up_to_the_level_are_printed, .init = catch_stderr)
{
    rondo_log(RONDO_LOG_DEBUG, "not by default");
    rondo_log(RONDO_LOG_INFO, "by default");
    rondo_set_log_level(RONDO_LOG_WARNING);
    cr_assert(not(rondo_log_enabled(RONDO_LOG_INFO)));
    cr_assert(rondo_log_enabled(RONDO_LOG_WARNING));
    rondo_log(RONDO_LOG_INFO, "not now");
    log_always("asked for");
    rondo_set_log_level(0);
    cr_assert(rondo_log_enabled(RONDO_LOG_INFO), "0 is the default");
    rondo_log(RONDO_LOG_INFO, "again");
    rondo_log((rondo_log_level)0, "no level");
    rondo_log((rondo_log_level)9, "no level");
    cr_assert(eq(str, caught(), "by default\nasked for\nagain\n"));
}

Test(log, a_line_too_long_is_cut_and_still_one_line, .init = catch_stderr)
{
    static char much[5000];
    memset(much, 'x', sizeof much - 1);
    rondo_log(RONDO_LOG_WARNING, "%s", much);
    char *text = caught();
    size_t size = strlen(text);
    cr_assert_geq(size, 1000);
    cr_assert_leq(size, 1024);
    cr_assert(eq(chr, text[size - 1], '\n'));
    cr_assert_eq(strchr(text, '\n'), text + size - 1);
}

Test(log, errno_is_kept, .init = catch_stderr)
{
    errno = EXDEV;
    rondo_log(RONDO_LOG_ERROR, "something");
    cr_assert(eq(int, errno, EXDEV));
}

Test(log, a_reader_that_has_gone_is_no_signal, .init = catch_stderr)
{
    sigset_t pending;
    close(reader);
    rondo_log(RONDO_LOG_ERROR, "into the void");
    sigpending(&pending);
    cr_assert(eq(int, sigismember(&pending, SIGPIPE), 0), "nor one that comes later");
}
