/* Children under every sanitizer: ten thousand, of several shards at once, and a helper thread's work for each; then nothing
 * of them is left. Usage: stress_children [CHILDREN] */
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rondo/rondo.h>

enum { SHARDS = 2, AT_A_TIME = 8 };

static unsigned wanted = 10000;
static atomic_uint started, ended, wrong, rounds;
static atomic_bool is_over;

static void complain(const char *what)
{
    atomic_fetch_add(&wrong, 1);
    fprintf(stderr, "wrong: %s\n", what);
}

/* ---- work ------------------------------------------------------------------------------------------------- */

static atomic_uint worked, done, released;

static void work(void *argument)
{
    *(unsigned *)argument += 1;
    atomic_fetch_add(&worked, 1);
}

static void work_is_done(void *argument, int error)
{
    if (error == 0 && *(unsigned *)argument != 1)
        complain("what was worked out is not there");
    atomic_fetch_add(&done, 1);
}

static void release(void *argument)
{
    atomic_fetch_add(&released, 1);
    free(argument);
}

static void have_worked(rondo_loop *loop, bool changes_its_mind)
{
    const rondo_work asked = {
        .argument = calloc(1, sizeof(unsigned)), .work = work, .done = work_is_done, .release = release
    };
    rondo_job *job;
    if (asked.argument == NULL || rondo_run_in_executor(loop, &asked, &job) < 0)
        complain("no helper");
    else if (changes_its_mind)
        rondo_job_cancel(job);
}

/* ---- children ---------------------------------------------------------------------------------------------- */

struct self {
    unsigned number;
    bool has_said, has_exited;
    unsigned pipes;
};

static void start_one(rondo_loop *loop);

static void connection_made(rondo_transport *t)
{
    struct self *self = rondo_self(t);
    rondo_transport *in = rondo_get_pipe_transport(t, 0);
    self->number = atomic_fetch_add(&rounds, 1);
    if (self->number % 10 == 9) { /* at any time */
        rondo_close(t);
    } else if (in != NULL) {
        rondo_write(in, RONDO_BYTES("said\n"));
        rondo_write_eof(in);
    }
}

static void pipe_data_received(rondo_transport *t, int fd, rondo_bytes data)
{
    struct self *self = rondo_self(t);
    self->has_said = fd == 1 && data.size == 5 && memcmp(data.data, "said\n", 5) == 0;
    if (self->number % 10 == 8)
        rondo_abort(t);
}

static void pipe_connection_lost(rondo_transport *t, int fd, int error)
{
    struct self *self = rondo_self(t);
    self->pipes |= 1u << fd;
    if (error < 0 && fd != 0)
        complain("a pipe's error");
}

static void process_exited(rondo_transport *t)
{
    ((struct self *)rondo_self(t))->has_exited = true;
}

static void connection_lost(rondo_transport *t, int error)
{
    const struct self *self = rondo_self(t);
    int returncode = -1;
    bool was_closed = self->number % 10 >= 8;
    if (!rondo_get_returncode(t, &returncode) || !self->has_exited)
        complain("lost, and not ended");
    if (self->pipes != 3)
        complain("a pipe was not told of");
    if (!was_closed && (error != 0 || returncode != 0 || !self->has_said))
        complain("a child did not answer");
    atomic_fetch_add(&ended, 1);
    have_worked(rondo_get_loop(t), self->number % 7 == 0);
    start_one(rondo_get_loop(t));
}

static const rondo_protocol child = {
    .name = "child",
    .size = sizeof(struct self),
    .connection_made = connection_made,
    .pipe_data_received = pipe_data_received,
    .pipe_connection_lost = pipe_connection_lost,
    .process_exited = process_exited,
    .connection_lost = connection_lost,
};

static void start_one(rondo_loop *loop)
{
    static const char *const argv[] = { "cat", NULL };
    static const rondo_subprocess_options options = { .stderr_fd = RONDO_INHERIT };
    if (atomic_fetch_add(&started, 1) >= wanted) {
        if (atomic_load(&ended) >= wanted && !atomic_exchange(&is_over, true))
            rondo_stop(loop);
        return;
    }
    int rc = rondo_subprocess_exec(loop, &child, argv, &options, NULL);
    if (rc < 0) {
        complain(strerror(-rc));
        atomic_fetch_add(&ended, 1);
    }
}

/* ---- what is left ------------------------------------------------------------------------------------------- */

static unsigned count_descriptors(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static int shard_start(rondo_loop *loop)
{
    for (unsigned i = 0; i < AT_A_TIME; i++)
        start_one(loop);
    return 0;
}

int main(int argc, char **argv)
{
    const rondo_app app = { .shards = SHARDS, .shard_start = shard_start, .log_level = RONDO_LOG_WARNING };
    if (argc > 1)
        wanted = (unsigned)atoi(argv[1]);
    unsigned before = count_descriptors();
    int rc = rondo_run(&app);
    if (rc < 0)
        complain(strerror(-rc));
    if (atomic_load(&ended) != wanted)
        complain("not all have ended");
    while (atomic_load(&released) < atomic_load(&ended)) /* what was cancelled may be under way still */
        sched_yield();
    if (atomic_load(&done) > atomic_load(&worked))
        complain("done without work");
    if (count_descriptors() != before)
        complain("descriptors are left");
    if (waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD)
        complain("a child is left");
    printf("%u children\n", atomic_load(&ended));
    return atomic_load(&wrong) > 0;
}
