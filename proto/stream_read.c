/* What a stream's tasks read. Each call looks at what is there, and waits for more until it can answer. */
#include <errno.h>

#include "net/transport.h"
#include "proto/stream.h"

/* Who reads twice at a time would take the slice from under the other one's hands. */
static int begin(rondo_stream *s)
{
    if (s->is_reading)
        return -EBUSY;
    if (s->error < 0)
        return s->error;
    s->is_reading = true;
    stream_notice_hand_over(s);
    stream_release_slice(s);
    read_buffer_begin(&s->input);
    return 0;
}

static void resume(rondo_stream *s)
{
    s->reading_paused = false;
    rondo_transport *t = stream_transport(s);
    if (t != NULL)
        rondo_resume_reading(t);
}

static ssize_t give(rondo_stream *s, size_t size, rondo_bytes *data)
{
    *data = read_buffer_take(&s->input, size);
    if (s->reading_paused && s->input.unread.size <= s->limit)
        resume(s);
    s->is_reading = false;
    return (ssize_t)size;
}

static ssize_t refuse(rondo_stream *s, int error)
{
    s->is_reading = false;
    return error;
}

static ssize_t give_incomplete(rondo_stream *s, rondo_bytes *data)
{
    give(s, s->input.unread.size, data);
    return -ENODATA;
}

static void interrupted(rondo_task *task)
{
    task_wake_soon(task, task_refusal(task));
}

/* Wait until there is more, or the end. Returns 0, or why there is none. */
static int wait_for_more(rondo_stream *s)
{
    int rc = task_may_wait("reading from a stream");
    if (rc < 0)
        return rc;
    if (s->reading_paused)
        resume(s);
    read_buffer_rest(&s->input);
    s->reader = rondo_current_task();
    rc = task_wait_firmly(interrupted, s);
    s->reader = NULL;
    return s->error < 0 ? s->error : rc;
}

ssize_t rondo_read(rondo_stream *s, size_t most, rondo_bytes *data)
{
    *data = (rondo_bytes){ 0 };
    int rc = begin(s);
    if (rc < 0)
        return rc;
    while (rc == 0 && most > 0 && !s->at_end && (s->input.unread.size == 0 || most == RONDO_TO_EOF))
        rc = wait_for_more(s);
    if (rc < 0)
        return refuse(s, rc);
    return give(s, most < s->input.unread.size ? most : s->input.unread.size, data);
}

ssize_t rondo_readexactly(rondo_stream *s, size_t size, rondo_bytes *data)
{
    *data = (rondo_bytes){ 0 };
    int rc = begin(s);
    if (rc < 0)
        return rc;
    while (rc == 0 && s->input.unread.size < size && !s->at_end)
        rc = wait_for_more(s);
    if (rc < 0)
        return refuse(s, rc);
    return s->input.unread.size < size ? give_incomplete(s, data) : give(s, size, data);
}

/* TOO_LONG: so many bytes, `start`, hold no separator. */
struct found {
    enum { FOUND, TOO_LONG, ENDED } what;
    size_t start, end;
};

static void look(rondo_stream *s, struct separator_search *search, struct found *found)
{
    if (separator_search_step(search, s->input.unread, &found->start, &found->end)) {
        found->what = found->start > s->limit ? TOO_LONG : FOUND;
        return;
    }
    found->start = search->from;
    found->what = search->from > s->limit ? TOO_LONG : ENDED;
}

/* Begin to read, and wait for a separator, the limit, or the end. Returns 0, or why there will be none of them. */
static ssize_t find(rondo_stream *s, struct separator_search *search, struct found *found)
{
    int rc = begin(s);
    if (rc < 0)
        return rc;
    for (;;) {
        look(s, search, found);
        if (found->what != ENDED || s->at_end)
            return 0;
        rc = wait_for_more(s);
        if (rc < 0)
            return refuse(s, rc);
    }
}

ssize_t rondo_readuntil(rondo_stream *s, const rondo_bytes *separators, size_t count, rondo_bytes *data)
{
    struct separator_search search;
    struct found found;
    *data = (rondo_bytes){ 0 };
    if (!separator_search_begin(&search, separators, count))
        return -EINVAL;
    ssize_t rc = find(s, &search, &found);
    if (rc < 0)
        return rc;
    if (found.what == FOUND)
        return give(s, found.end, data);
    if (found.what == ENDED)
        return give_incomplete(s, data);
    *data = (rondo_bytes){ s->input.unread.data, found.start };
    s->input.is_given = true;
    return refuse(s, -EMSGSIZE);
}

/* What is too long goes up to its end, if that has come. */
static ssize_t drop_line(rondo_stream *s, size_t start)
{
    rondo_bytes dropped, unread = s->input.unread;
    bool has_end = start < unread.size && unread.data[start] == '\n';
    give(s, has_end ? start + 1 : unread.size, &dropped);
    return -EMSGSIZE;
}

ssize_t rondo_readline(rondo_stream *s, rondo_bytes *line)
{
    static const rondo_bytes newline = { "\n", 1 };
    struct separator_search search = { .separators = &newline, .count = 1, .longest = 1, .shortest = 1 };
    struct found found;
    *line = (rondo_bytes){ 0 };
    ssize_t rc = find(s, &search, &found);
    if (rc < 0)
        return rc;
    if (found.what == TOO_LONG)
        return drop_line(s, found.start);
    return give(s, found.what == FOUND ? found.end : s->input.unread.size, line);
}

bool rondo_at_eof(const rondo_stream *s)
{
    return s->at_end && s->input.unread.size == 0;
}
