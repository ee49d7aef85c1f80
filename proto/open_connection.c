/* Streams that a task opens: a connector, and a task that waits for what comes of it. */
#include <errno.h>

#include <rondo/client.h>
#include <rondo/log.h>

#include "net/transport.h"
#include "proto/stream.h"

/* On the stack of the task that waits. */
struct opening {
    rondo_task *task;
    rondo_connector *connector; /* NULL: it has come to its end */
    rondo_stream *stream;
    size_t limit;
    int error;
};

static void over(struct opening *opening, int error)
{
    opening->connector = NULL;
    opening->error = error;
    task_wake_soon(opening->task, 0);
}

static void connection_made(rondo_transport *t)
{
    struct opening *opening = rondo_connector_context(rondo_get_connector(t));
    opening->stream = stream_open(t, opening->task, opening->limit);
    if (opening->stream == NULL) {
        rondo_log(RONDO_LOG_ERROR, "no memory for a stream to %s: connection ended",
                  rondo_connector_url(rondo_get_connector(t)));
        transport_fail(t, -ENOMEM);
    }
    over(opening, opening->stream == NULL ? -ENOMEM : 0);
}

static const rondo_protocol opened = {
    .name = "an opened stream",
    OPENED_STREAM,
    .connection_made = connection_made,
};

static void connection_failed(rondo_connector *connector, int error, const char *why)
{
    rondo_log(RONDO_LOG_WARNING, "%s", why);
    over(rondo_connector_context(connector), error);
}

static void interrupted(rondo_task *task)
{
    struct opening *opening = task->interrupted_context;
    if (opening->connector != NULL)
        rondo_connector_stop_connecting(opening->connector);
}

int rondo_open_connection(const char *url, const rondo_connection_options *options, rondo_stream **s)
{
    static const rondo_connection_options defaults;
    rondo_task *task = rondo_current_task();
    int rc = task_may_wait("rondo_open_connection");
    if (rc < 0)
        return rc;
    if (options == NULL)
        options = &defaults;
    struct opening opening = { .task = task, .limit = options->limit };
    const rondo_client_options client = {
        .url = url,
        .protocol = &opened,
        .local_url = options->local_url,
        .timeout_ms = options->timeout_ms,
        .happy_eyeballs_delay_ms = options->happy_eyeballs_delay_ms,
        .context = &opening,
        .connection_failed = connection_failed,
    };
    rc = rondo_create_connection(task->loop, &client, &opening.connector);
    if (rc < 0)
        return rc;
    while (opening.connector != NULL)
        task_wait_firmly(interrupted, &opening);
    *s = opening.stream;
    bool timed_out = opening.error == -ECANCELED && task_refusal(task) == -ETIMEDOUT;
    return timed_out ? -ETIMEDOUT : opening.error;
}
