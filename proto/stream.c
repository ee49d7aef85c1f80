/* Streams: between a transport, which calls, and a task, which waits. */
#include "proto/stream.h"

#include <errno.h>
#include <string.h>

#include <rondo/log.h>

#include "core/list.h"
#include "core/memory.h"
#include "net/transport.h"

_Static_assert(sizeof(struct stream_state) <= 2 * sizeof(void *), "RONDO_STREAM_READER says so");

/* A handler's task and its stream, in one block at the top of its stack. */
struct handler {
    rondo_task task; /* first */
    rondo_stream stream;
};

static const rondo_stream_protocol *table_of(const rondo_transport *t)
{
    return rondo_container_of(rondo_get_protocol(t), const rondo_stream_protocol, protocol);
}

/* ---- beginning and ending -------------------------------------------------------------------------------- */

static void begin(rondo_stream *s, rondo_transport *t, size_t limit)
{
    struct stream_state *state = rondo_self(t);
    s->t = t;
    s->state = state;
    s->loop = t->loop;
    s->limit = limit > 0 ? limit : RONDO_STREAM_LIMIT;
    if (s->limit > SIZE_MAX / 4)
        s->limit = SIZE_MAX / 4;
    list_init(&s->waiters);
    state->stream = s;
    state->has_begun = true;
}

void stream_release_slice(rondo_stream *s)
{
    if (s->kept_buffer == NULL)
        return;
    buffers_unref(&s->loop->engine->buffers, s->kept_buffer);
    s->kept_buffer = NULL;
}

/* Nobody may use it any more. */
static void end(rondo_stream *s)
{
    assert(list_is_empty(&s->waiters));
    stream_release_slice(s);
    read_buffer_clear(&s->input);
    if (s->t == NULL)
        return;
    s->state->stream = NULL;
    if (stream_transport(s) != NULL)
        rondo_close(s->t);
    s->t = NULL;
}

static void handler_ended(struct task_belonging *belonging)
{
    end(rondo_container_of(belonging, rondo_stream, belonging));
}

static void free_opened(struct task_belonging *belonging)
{
    rondo_stream *s = rondo_container_of(belonging, rondo_stream, belonging);
    end(s);
    memory_free(s);
}

void rondo_stream_free(rondo_stream *s)
{
    assert(s->handler == NULL && "a handler's stream ends when the handler returns");
    list_remove(&s->belonging.link);
    free_opened(&s->belonging);
}

rondo_stream *stream_open(rondo_transport *t, rondo_task *owner, size_t limit)
{
    rondo_stream *s = memory_new(sizeof *s);
    if (s == NULL)
        return NULL;
    begin(s, t, limit);
    task_own(owner, &s->belonging, free_opened);
    return s;
}

static int run_handler(void *argument)
{
    rondo_stream *s = argument;
    s->client_connected(s);
    return 0;
}

static void fail(rondo_transport *t, const char *what, int error)
{
    rondo_log(RONDO_LOG_ERROR, "%s: %s: connection ended", transport_name(t), what);
    transport_fail(t, error);
}

static void start_handler(rondo_transport *t)
{
    const rondo_stream_protocol *table = table_of(t);
    const rondo_task_options options = {
        .run = run_handler,
        .name = transport_name(t),
        .stack_size = table->stack_size,
    };
    struct stream_state *state = rondo_self(t);
    rondo_task *task;
    state->has_begun = true;
    if (table->client_connected == NULL) {
        fail(t, "no client_connected, so that nobody handles it", -EINVAL);
        return;
    }
    int rc = task_new(t->loop, &options, sizeof(struct handler), &task);
    if (rc < 0) {
        fail(t, rc == -ENOMEM ? "no memory for a handler's stack" : "no stack can be so large (stack_size)",
             rc);
        return;
    }
    rondo_stream *s = &((struct handler *)task)->stream;
    begin(s, t, table->limit);
    s->handler = task;
    s->client_connected = table->client_connected;
    task->argument = s;
    task->drains_itself = true;
    task_own(task, &s->belonging, handler_ended);
    task_begin(task);
}

/* The stream of a connection; NULL: it has ended. One that came from another protocol begins with what happens first. */
static rondo_stream *stream_of(rondo_transport *t)
{
    struct stream_state *state = rondo_self(t);
    if (!state->has_begun)
        start_handler(t);
    return state->stream;
}

void rondo__stream_connection_made(rondo_transport *t)
{
    start_handler(t);
}

/* ---- waking ---------------------------------------------------------------------------------------------- */

static void wake_reader(rondo_stream *s)
{
    if (s->reader != NULL)
        task_wake(s->reader, 0);
}

static void wake_waiters(rondo_stream *s)
{
    for (struct rondo_link *link; (link = list_pop(&s->waiters)) != NULL;)
        task_wake_soon(rondo_container_of(link, rondo_task, waiting), 0);
}

/* A server that drains lets what is here be finished, as long as the connection lasts. */
static void interrupted(rondo_task *task)
{
    const rondo_stream *s = task->interrupted_context;
    bool finishes = s->is_drained && s->t != NULL;
    if (!finishes)
        task_wake_soon(task, task_refusal(task));
    else if (task->timed_out)
        task_wake_soon(task, -ETIMEDOUT);
}

/* Wait for wake_waiters, or for the task's refusal, unless that is not heeded. */
static int wait_here(rondo_stream *s)
{
    rondo_task *task = rondo_current_task();
    list_push(&s->waiters, &task->waiting);
    int rc = task_wait_firmly(interrupted, s);
    if (list_contains_link(&task->waiting))
        list_remove(&task->waiting);
    return rc;
}

/* ---- called by the transport ----------------------------------------------------------------------------- */

/* Before the reader runs, as in asyncio: one that takes all, or waits for more, lets reading go on. */
static void watch_limit(rondo_stream *s)
{
    if (s->t == NULL || s->reading_paused || s->input.unread.size <= 2 * s->limit)
        return;
    s->reading_paused = true;
    rondo_pause_reading(s->t);
}

/* The reader waits for just these bytes: it may have them where they lie. What it keeps of them longer than this call
 * keeps the buffer, so there must be enough of those. */
static bool may_borrow(const rondo_stream *s, rondo_bytes data)
{
    const struct buffers *buffers = &s->loop->engine->buffers;
    return s->reader != NULL && s->reader->state == TASK_WAITING && rondo_current_task() == NULL &&
           s->input.block == NULL && buffers_own(buffers, data.data) && buffers->lent <= buffers->count / 2;
}

static void lend(struct stream_state *state, rondo_bytes data)
{
    rondo_stream *s = state->stream;
    bool is_given;
    read_buffer_borrow(&s->input, data);
    watch_limit(s);
    wake_reader(s);
    if (state->stream == NULL)
        return; /* the handler has returned */
    if (!read_buffer_end_borrowing(&s->input, &is_given))
        fail(s->t, "no memory for what was received", -ENOMEM);
    if (is_given) {
        buffers_ref(&s->loop->engine->buffers, data.data);
        s->kept_buffer = data.data;
    }
}

void rondo__stream_data_received(rondo_transport *t, rondo_bytes data)
{
    struct stream_state *state = rondo_self(t);
    rondo_stream *s = stream_of(t);
    if (s == NULL)
        return;
    if (may_borrow(s, data)) {
        lend(state, data);
    } else if (read_buffer_put(&s->input, data)) {
        watch_limit(s);
        wake_reader(s);
    } else {
        fail(t, "no memory for what was received", -ENOMEM);
    }
}

bool rondo__stream_eof_received(rondo_transport *t)
{
    rondo_stream *s = stream_of(t);
    if (s == NULL)
        return false;
    s->at_end = true;
    wake_reader(s);
    return true;
}

void rondo__stream_pause_writing(rondo_transport *t)
{
    rondo_stream *s = ((struct stream_state *)rondo_self(t))->stream;
    if (s != NULL)
        s->writing_paused = true;
}

void rondo__stream_resume_writing(rondo_transport *t)
{
    rondo_stream *s = ((struct stream_state *)rondo_self(t))->stream;
    if (s == NULL)
        return;
    s->writing_paused = false;
    wake_waiters(s);
}

/* Who waits here is told first what has happened, and refused further waits then. */
static void detach(struct stream_state *state, int error)
{
    rondo_stream *s = state->stream;
    state->stream = NULL;
    s->t = NULL;
    s->error = error;
    s->at_end = true;
    s->writing_paused = false;
    wake_waiters(s);
    if (s->reader != NULL)
        task_wake_soon(s->reader, 0);
}

void rondo__stream_connection_lost(rondo_transport *t, int error)
{
    struct stream_state *state = rondo_self(t);
    rondo_stream *s = state->stream;
    if (s == NULL)
        return;
    detach(state, error);
    if (s->handler != NULL)
        rondo_cancel(s->handler);
}

/* From among others that are drained, too, so nothing runs at once. A stream that was opened stays until its task ends: a
 * handler may need it for what it has still to answer. */
void rondo__stream_drained(rondo_transport *t)
{
    rondo_stream *s = ((struct stream_state *)rondo_self(t))->stream;
    if (s == NULL) {
        rondo_close(t);
    } else if (s->handler != NULL) {
        s->is_drained = true;
        rondo_cancel(s->handler);
    }
}

rondo_bytes rondo__stream_unused(const rondo_protocol *protocol, const void *self)
{
    const struct stream_state *state = self;
    (void)protocol;
    return state->stream != NULL ? state->stream->input.unread : (rondo_bytes){ 0 };
}

static void hand_over(rondo_stream *s)
{
    s->input.unread.size = 0; /* the next protocol has got it */
    detach(s->state, 0);
}

void stream_notice_hand_over(rondo_stream *s)
{
    if (s->t != NULL && stream_transport(s) == NULL)
        hand_over(s);
}

void rondo__stream_release(const rondo_protocol *protocol, void *self)
{
    const struct stream_state *state = self;
    (void)protocol;
    if (state->stream != NULL)
        hand_over(state->stream);
}

/* ---- writing --------------------------------------------------------------------------------------------- */

void rondo_stream_write(rondo_stream *s, rondo_bytes data)
{
    rondo_transport *t = stream_transport(s);
    if (t != NULL)
        rondo_write(t, data);
}

void rondo_stream_writelines(rondo_stream *s, const rondo_bytes *lines, size_t count)
{
    rondo_transport *t = stream_transport(s);
    if (t != NULL)
        rondo_writelines(t, lines, count);
}

void rondo_stream_write_eof(rondo_stream *s)
{
    rondo_transport *t = stream_transport(s);
    if (t != NULL)
        rondo_write_eof(t);
}

bool rondo_stream_can_write_eof(const rondo_stream *s)
{
    const rondo_transport *t = stream_transport(s);
    return t != NULL && rondo_can_write_eof(t);
}

/* As asyncio: one turn for a connection that is closing, so that who writes on and on hears of its end. */
static int let_it_close(const rondo_stream *s)
{
    const rondo_transport *t = stream_transport(s);
    bool is_closing = t != NULL && rondo_is_closing(t);
    return is_closing ? rondo_sleep(0) : 0;
}

int rondo_drain(rondo_stream *s)
{
    int rc = s->error < 0 ? s->error : let_it_close(s);
    if (rc < 0)
        return rc;
    if (stream_transport(s) == NULL)
        return s->error < 0 ? s->error : -ECONNRESET;
    while (s->writing_paused) {
        rc = task_may_wait("rondo_drain");
        if (rc == 0)
            rc = wait_here(s);
        if (rc < 0)
            return rc;
    }
    return s->error;
}

void rondo_stream_close(rondo_stream *s)
{
    rondo_transport *t = stream_transport(s);
    if (t != NULL)
        rondo_close(t);
}

void rondo_stream_abort(rondo_stream *s)
{
    rondo_transport *t = stream_transport(s);
    if (t != NULL)
        rondo_abort(t);
}

bool rondo_stream_is_closing(const rondo_stream *s)
{
    const rondo_transport *t = stream_transport(s);
    return t == NULL || rondo_is_closing(t);
}

int rondo_stream_wait_closed(rondo_stream *s)
{
    while (stream_transport(s) != NULL) {
        int rc = task_may_wait("rondo_stream_wait_closed");
        if (rc == 0)
            rc = wait_here(s);
        if (rc < 0)
            return rc;
    }
    return s->error;
}

int rondo_stream_get_extra_info(const rondo_stream *s, const char *name, void *value, size_t size)
{
    const rondo_transport *t = stream_transport(s);
    return t != NULL ? rondo_get_extra_info(t, name, value, size) : -ENOTCONN;
}

rondo_transport *rondo_stream_transport(const rondo_stream *s)
{
    return stream_transport(s);
}

int rondo_start_server(rondo_loop *loop, const rondo_stream_protocol *protocol, const char *url,
                       rondo_server **server)
{
    return rondo_create_server(loop, &(rondo_server_options){ .url = url, .protocol = &protocol->protocol },
                               server);
}
