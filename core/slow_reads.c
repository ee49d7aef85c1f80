#include "core/slow_reads.h"

#include <errno.h>
#include <unistd.h>

#include "core/executor.h"
#include "core/memory.h"

struct slow_read {
    struct job job;
    struct engine *engine;
    struct op *op;
    int fd;
    uint64_t offset;
    rondo_buffer memory;
    int result;
};

static void work(struct job *job)
{
    struct slow_read *read = rondo_container_of(job, struct slow_read, job);
    ssize_t size = pread(read->fd, read->memory.data, read->memory.size, (off_t)read->offset);
    read->result = size < 0 ? -errno : (int)size;
}

static void done(struct job *job)
{
    const struct slow_read *read = rondo_container_of(job, struct slow_read, job);
    read->engine->ops->read_ended(read->engine, read->op, read->result);
}

static void release(struct job *job)
{
    memory_free(rondo_container_of(job, struct slow_read, job));
}

/* The loop whose engine it is: this thread's. */
static _Thread_local rondo_loop *loop_here;

static bool read_elsewhere(struct engine *engine, struct op *op, uint64_t offset, rondo_buffer memory)
{
    struct slow_read *read = memory_alloc(sizeof *read);
    if (read == NULL)
        return false;
    *read = (struct slow_read){
        .job = { .work = work, .done = done, .release = release },
        .engine = engine,
        .op = op,
        .fd = op->fd,
        .offset = offset,
        .memory = memory,
    };
    if (executor_submit(loop_here, &read->job) == 0)
        return true;
    memory_free(read);
    return false;
}

void slow_reads_lend(rondo_loop *loop)
{
    loop_here = loop;
    loop->engine->read_elsewhere = read_elsewhere;
}
