/* A room, step 6: what one says all hear, on every shard.    try: nc localhost 7777, twice */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <rondo/rondo.h>

/* The state of a shard: its own thread's alone, so there is nothing to lock. */
struct house {
    struct visitor *first;
};

struct visitor {
    rondo_bytes name; /* 0 bytes: not yet told, and not yet in the house */
    char name_bytes[20];
    rondo_timer patience;
    struct visitor *next;
};

/* What was said, on its way to another shard, which frees it. */
struct news {
    rondo_call call;
    rondo_loop *shard;
    size_t size;
    char text[];
};

enum { SHARDS_MAX = 1024 };

static uint64_t patience_ms;
static _Atomic(rondo_loop *) shards[SHARDS_MAX];
static atomic_uint shard_count;

static bool is(rondo_bytes line, const char *word)
{
    return line.size == strlen(word) && memcmp(line.data, word, line.size) == 0;
}

static void patience_ends(rondo_timer *timer)
{
    rondo_transport *t = rondo_transport_of(rondo_container_of(timer, struct visitor, patience));
    rondo_write_static(t, RONDO_BYTES("you are so quiet: bye\n"));
    rondo_close(t);
}

static void be_patient(rondo_transport *t)
{
    struct visitor *self = rondo_self(t);
    rondo_call_later(rondo_get_loop(t), &self->patience, patience_ms, patience_ends);
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

static void tell_who(rondo_transport *t)
{
    const struct house *house = rondo_shard(t);
    for (const struct visitor *visitor = house->first; visitor != NULL; visitor = visitor->next)
        rondo_send_line(t, visitor->name);
}

static void tell_here(const struct house *house, rondo_bytes text)
{
    for (struct visitor *visitor = house->first; visitor != NULL; visitor = visitor->next)
        rondo_write(rondo_transport_of(visitor), text);
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

/* "NAME: line\n", in one piece. */
static void say(rondo_transport *t, rondo_bytes line)
{
    const struct visitor *self = rondo_self(t);
    const rondo_bytes parts[] = { self->name, RONDO_BYTES(": "), line, RONDO_BYTES("\n") };
    char text[sizeof self->name_bytes + RONDO_LINE_LENGTH_MAX + 3];
    size_t size = 0;
    for (unsigned i = 0; i < 4; i++) {
        memcpy(text + size, parts[i].data, parts[i].size);
        size += parts[i].size;
    }
    tell_all(rondo_get_loop(t), (rondo_bytes){ text, size });
}

static void take_name(rondo_transport *t, struct visitor *self, rondo_bytes name)
{
    if (name.size == 0 || name.size > sizeof self->name_bytes) {
        rondo_write_static(t, RONDO_BYTES("1 to 20 bytes, please\n"));
        return;
    }
    memcpy(self->name_bytes, name.data, name.size);
    self->name = (rondo_bytes){ self->name_bytes, name.size };
    enter(rondo_shard(t), self);
    rondo_writelines(t, (rondo_bytes[]){ RONDO_BYTES("welcome, "), self->name, RONDO_BYTES("\n") }, 3);
}

static void connection_made(rondo_transport *t)
{
    rondo_write_static(t, RONDO_BYTES("who are you?\n"));
    be_patient(t);
}

static void line_received(rondo_transport *t, rondo_bytes line)
{
    struct visitor *self = rondo_self(t);
    be_patient(t);
    if (is(line, "quit"))
        rondo_close(t);
    else if (self->name.size == 0)
        take_name(t, self, line);
    else if (is(line, "who"))
        tell_who(t);
    else
        say(t, line);
}

/* Nothing is stored for those who don't read. */
static void pause_writing(rondo_transport *t)
{
    rondo_abort(t);
}

static void connection_lost(rondo_transport *t, int error)
{
    struct visitor *self = rondo_self(t);
    (void)error;
    rondo_timer_cancel(&self->patience);
    leave(rondo_shard(t), self);
}

static int shard_start(rondo_loop *loop)
{
    shards[shard_count++] = loop;
    return 0;
}

static const rondo_line_protocol room = {
    RONDO_LINE_RECEIVER("room", sizeof(struct visitor)),
    .protocol.connection_made = connection_made,
    .protocol.connection_lost = connection_lost,
    .protocol.pause_writing = pause_writing,
    .line_received = line_received,
};

int main(int argc, char **argv)
{
    const char *patience = "60000";
    const rondo_option options[] = {
        { .name = "patience", .help = "milliseconds (default 60000)", .value = &patience },
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
