/* Chat: a line from one goes to all, on every shard.    try: nc localhost 7777, twice */
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <rondo/rondo.h>

enum { SHARDS_MAX = 1024 };

/* The members of a shard. Only its own thread knows them; others post what they shall hear. */
struct room {
    struct member *first;
};

struct member {
    struct member *next, **link; /* link: what points to it */
};

/* A line on its way to another shard, which frees it. */
struct news {
    rondo_call call;
    rondo_loop *shard;
    size_t size;
    char line[];
};

static _Atomic(rondo_loop *) shards[SHARDS_MAX];
static atomic_uint shard_count;

static void tell(struct room *room, rondo_bytes line)
{
    for (struct member *member = room->first; member != NULL; member = member->next)
        rondo_send_line(rondo_transport_of(member), line);
}

static void news_arrived(rondo_call *call)
{
    struct news *news = (struct news *)((char *)call - offsetof(struct news, call));
    tell(rondo_shard_of(news->shard), (rondo_bytes){ news->line, news->size });
    free(news);
}

static void post(rondo_loop *shard, rondo_bytes line)
{
    struct news *news = malloc(sizeof *news + line.size);
    if (news == NULL) {
        rondo_log(RONDO_LOG_ERROR, "chat: no memory: a line is lost for one shard");
        return;
    }
    *news = (struct news){ .shard = shard, .size = line.size };
    memcpy(news->line, line.data, line.size);
    if (rondo_post(shard, &news->call, news_arrived) < 0)
        free(news); /* that shard has ended */
}

static void line_received(rondo_transport *t, rondo_bytes line)
{
    for (unsigned i = 0; i < shard_count; i++) {
        if (shards[i] != NULL && shards[i] != rondo_get_loop(t))
            post(shards[i], line);
    }
    tell(rondo_shard(t), line);
}

static void connection_made(rondo_transport *t)
{
    struct room *room = rondo_shard(t);
    struct member *member = rondo_self(t);
    *member = (struct member){ .next = room->first, .link = &room->first };
    if (room->first != NULL)
        room->first->link = &member->next;
    room->first = member;
}

static void connection_lost(rondo_transport *t, int error)
{
    struct member *member = rondo_self(t);
    (void)error;
    *member->link = member->next;
    if (member->next != NULL)
        member->next->link = member->link;
}

/* Who doesn't read what the others say leaves: nothing is stored for it. */
static void pause_writing(rondo_transport *t)
{
    rondo_abort(t);
}

static int shard_start(rondo_loop *loop)
{
    unsigned index = shard_count++;
    shards[index] = loop;
    return 0;
}

static const rondo_line_protocol chat = {
    RONDO_LINE_RECEIVER("chat", sizeof(struct member)),
    .protocol.connection_made = connection_made,
    .protocol.connection_lost = connection_lost,
    .protocol.pause_writing = pause_writing,
    .line_received = line_received,
};

int main(int argc, char **argv)
{
    rondo_app app = {
        .servers = { { .url = "tcp://127.0.0.1:7777" } },
        .protocol = &chat.protocol,
        .shard_size = sizeof(struct room),
        .shard_start = shard_start,
    };
    int status = rondo_parse_options(&app, argc, argv, NULL);
    return status >= 0 ? status : rondo_run(&app) < 0;
}
