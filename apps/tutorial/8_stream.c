/* A room, step 8: the same, with a handler for each visitor that reads downwards.    try: nc localhost 7777, twice */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <rondo/rondo.h>

/* The state of a shard: its own thread's alone, so there is nothing to lock. */
struct house {
    struct visitor *first;
    rondo_client_service *scribe; /* NULL: nobody writes it down */
};

/* Lives on its handler's stack. */
struct visitor {
    rondo_stream *stream;
    struct house *house;
    rondo_bytes name;
    char name_bytes[20];
    struct visitor *next;
};

/* What was said, on its way to another shard, which frees it. */
struct news {
    rondo_call call;
    rondo_loop *shard;
    size_t size;
    char text[];
};

enum { SHARDS_MAX = 1024, LINE_MAX = 16384, HEARD_MAX = 65536 };

static uint64_t patience_ms;
static const char *scribe_url;
static _Atomic(rondo_loop *) shards[SHARDS_MAX];
static atomic_uint shard_count;

static bool is(rondo_bytes line, const char *word)
{
    return line.size == strlen(word) && memcmp(line.data, word, line.size) == 0;
}

static void enter(struct house *house, struct visitor *self)
{
    self->next = house->first;
    house->first = self;
}

static void leave(struct house *house, const struct visitor *self)
{
    struct visitor **link = &house->first;
    while (*link != NULL && *link != self)
        link = &(*link)->next;
    if (*link != NULL)
        *link = self->next;
}

/* Nothing is stored for those who don't read. */
static void hear(const struct visitor *visitor, rondo_bytes text)
{
    rondo_transport *t = rondo_stream_transport(visitor->stream);
    if (t != NULL && rondo_get_write_buffer_size(t) > HEARD_MAX)
        rondo_abort(t);
    rondo_stream_write(visitor->stream, text);
}

static void tell_who(const struct visitor *self)
{
    for (const struct visitor *visitor = self->house->first; visitor != NULL; visitor = visitor->next)
        rondo_stream_writelines(self->stream, (rondo_bytes[]){ visitor->name, RONDO_BYTES("\n") }, 2);
}

static void tell_here(const struct house *house, rondo_bytes text)
{
    for (const struct visitor *visitor = house->first; visitor != NULL; visitor = visitor->next)
        hear(visitor, text);
}

static void news_arrived(rondo_call *call)
{
    struct news *news = rondo_container_of(call, struct news, call);
    tell_here(rondo_shard_of(news->shard), (rondo_bytes){ news->text, news->size });
    free(news);
}

static void tell_there(rondo_loop *shard, rondo_bytes text)
{
    struct news *news = calloc(1, sizeof *news + text.size);
    if (news == NULL)
        return; /* no memory: that shard misses it */
    news->shard = shard;
    news->size = text.size;
    memcpy(news->text, text.data, text.size);
    if (rondo_post(shard, &news->call, news_arrived) < 0)
        free(news); /* it has ended */
}

static void tell_all(rondo_loop *here, rondo_bytes text)
{
    tell_here(rondo_shard_of(here), text);
    for (unsigned i = 0; i < shard_count; i++) {
        rondo_loop *shard = shards[i];
        if (shard != NULL && shard != here)
            tell_there(shard, text);
    }
}

static void write_down(const struct house *house, rondo_bytes text)
{
    rondo_transport *t = house->scribe != NULL ? rondo_client_service_transport(house->scribe) : NULL;
    if (t != NULL) /* else it is away, and the service connects again */
        rondo_write(t, text);
}

/* "NAME: line\n", in one piece. */
static void say(const struct visitor *self, rondo_bytes line)
{
    const rondo_bytes parts[] = { self->name, RONDO_BYTES(": "), line, RONDO_BYTES("\n") };
    char text[sizeof self->name_bytes + LINE_MAX + 3];
    size_t size = 0;
    for (unsigned i = 0; i < 4; i++) {
        memcpy(text + size, parts[i].data, parts[i].size);
        size += parts[i].size;
    }
    tell_all(rondo_task_get_loop(rondo_current_task()), (rondo_bytes){ text, size });
    write_down(self->house, (rondo_bytes){ text, size });
}

/* The next line, without its end. False: there is none, or no patience. */
static bool read_line(const struct visitor *self, rondo_bytes *line)
{
    rondo_timeout(patience_ms);
    ssize_t size = rondo_readline(self->stream, line);
    if (size == -ETIMEDOUT)
        rondo_stream_write(self->stream, RONDO_BYTES("you are so quiet: bye\n"));
    if (size <= 0 || line->data[size - 1] != '\n')
        return false;
    line->size--;
    return !is(*line, "quit");
}

static bool ask_name(struct visitor *self)
{
    rondo_bytes name;
    rondo_stream_write(self->stream, RONDO_BYTES("who are you?\n"));
    while (read_line(self, &name)) {
        if (name.size > 0 && name.size <= sizeof self->name_bytes) {
            memcpy(self->name_bytes, name.data, name.size);
            self->name = (rondo_bytes){ self->name_bytes, name.size };
            return true;
        }
        rondo_stream_write(self->stream, RONDO_BYTES("1 to 20 bytes, please\n"));
    }
    return false;
}

static void converse(struct visitor *self)
{
    rondo_bytes line;
    rondo_stream_writelines(self->stream,
                            (rondo_bytes[]){ RONDO_BYTES("welcome, "), self->name, RONDO_BYTES("\n") }, 3);
    while (read_line(self, &line)) {
        if (is(line, "who"))
            tell_who(self);
        else
            say(self, line);
    }
}

static void client_connected(rondo_stream *s)
{
    struct visitor self = { .stream = s, .house = rondo_shard(rondo_stream_transport(s)) };
    if (!ask_name(&self))
        return;
    enter(self.house, &self);
    converse(&self);
    leave(self.house, &self);
}

/* What the scribe says isn't listened to. */
static const rondo_protocol scribe = { .name = "scribe" };

static void scribe_stopped(rondo_client_service *service)
{
    struct house *house = rondo_client_service_context(service);
    house->scribe = NULL;
}

static int shard_start(rondo_loop *loop)
{
    struct house *house = rondo_shard_of(loop);
    const rondo_client_service_options options = {
        .client = { .url = scribe_url, .protocol = &scribe, .context = house },
        .stopped = scribe_stopped,
    };
    shards[shard_count++] = loop;
    return scribe_url != NULL ? rondo_start_client_service(loop, &options, &house->scribe) : 0;
}

static const rondo_stream_protocol room = {
    RONDO_STREAM_READER("room"),
    .client_connected = client_connected,
    .limit = LINE_MAX,
};

int main(int argc, char **argv)
{
    const char *patience = "60000";
    const rondo_option options[] = {
        { .name = "patience", .help = "milliseconds (default 60000)", .value = &patience },
        { .name = "scribe", .help = "URL of who writes it down", .value = &scribe_url },
        { 0 },
    };
    rondo_app app = {
        .servers = { { .url = "tcp://127.0.0.1:7777" } },
        .protocol = &room.protocol,
        .shard_size = sizeof(struct house),
        .shard_start = shard_start,
    };
    int status = rondo_parse_options(&app, argc, argv, options);
    patience_ms = strtoul(patience, NULL, 10);
    return status >= 0 ? status : rondo_run(&app) < 0;
}
