#include "net/resolver.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>

#include "core/executor.h"
#include "core/memory.h"

/* What the helper thread works with: apart from the lookup, which may be gone before getaddrinfo comes back. */
struct lookup_job {
    struct job job;
    struct lookup *lookup; /* the loop's: not looked at on the helper thread */
    struct url url;
    struct url_addresses addresses;
    char why[URL_WHY_BYTES];
    int error;
};

/* For a connection the first addresses will do. */
static int look_up(const struct url *url, int flags, struct url_addresses *addresses, char why[URL_WHY_BYTES])
{
    int error = url_look_up(url, flags, addresses, why);
    return error == -E2BIG ? 0 : error;
}

static void work(struct job *job)
{
    struct lookup_job *ours = rondo_container_of(job, struct lookup_job, job);
    ours->error = look_up(&ours->url, 0, &ours->addresses, ours->why);
}

static void done(struct job *job)
{
    struct lookup_job *ours = rondo_container_of(job, struct lookup_job, job);
    struct lookup *lookup = ours->lookup;
    lookup->job = NULL;
    lookup->addresses = ours->addresses;
    if (ours->error < 0)
        snprintf(lookup->why, sizeof lookup->why, "%s", ours->why);
    lookup->answered(lookup, ours->error); /* last: the lookup may be gone */
}

static void release(struct job *job)
{
    memory_free(rondo_container_of(job, struct lookup_job, job));
}

static int submit(struct lookup *lookup, rondo_loop *loop, const struct url *url)
{
    struct lookup_job *job = memory_new(sizeof *job);
    if (job == NULL) {
        snprintf(lookup->why, sizeof lookup->why, "can't resolve %s: no memory", url->host);
        return -ENOMEM;
    }
    job->job = (struct job){ .work = work, .done = done, .release = release };
    job->lookup = lookup;
    job->url = *url;
    int error = executor_submit(loop, &job->job);
    if (error < 0) {
        memory_free(job);
        snprintf(lookup->why, sizeof lookup->why,
                 "can't resolve %s: no thread can be started: raise the limit (ulimit -u)", url->host);
        return error;
    }
    lookup->job = job;
    return -EINPROGRESS;
}

int resolver_ask(struct lookup *lookup, rondo_loop *loop, const struct url *url,
                 void (*answered)(struct lookup *lookup, int error))
{
    assert(lookup->job == NULL);
    lookup->answered = answered;
    int error = look_up(url, AI_NUMERICHOST, &lookup->addresses, lookup->why);
    return error == -ENOENT ? submit(lookup, loop, url) : error; /* no address: a name */
}

void resolver_cancel(struct lookup *lookup)
{
    if (lookup->job == NULL)
        return;
    executor_cancel(&lookup->job->job);
    lookup->job = NULL;
}
