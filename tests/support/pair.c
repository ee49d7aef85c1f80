#include "support/pair.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/list.h"
#include "support/engine.h"

#define PATIENCE_MS 10000

/* ---- the recording protocols ----------------------------------------------------------------------------- */

static struct pair *opening;

struct recorder {
    struct pair *pair;
};

static struct pair *pair_of(rondo_transport *t)
{
    struct recorder *self = rondo_self(t);
    return self->pair;
}

static void note_call(struct pair *p, const char *letters, bool merges)
{
    size_t size = strlen(p->calls);
    if (merges && size >= 2 && strcmp(p->calls + size - 2, letters) == 0)
        return;
    if (size + 4 < sizeof p->calls)
        sprintf(p->calls + size, "%s%s", size == 0 ? "" : " ", letters);
}

static void connection_made(rondo_transport *t)
{
    struct recorder *self = rondo_self(t);
    cr_assert_null(self->pair, "the state is zeroed before connection_made");
    struct pair *p = self->pair = opening;
    cr_assert_eq(rondo_transport_of(self), t);
    p->t = t;
    note_call(p, "CM", false);
    if (p->on_made != NULL)
        p->on_made(p);
}

static void take(struct pair *p, rondo_bytes data)
{
    cr_assert_gt(data.size, 0, "data_received is never empty");
    cr_assert_eq(p->lost_count, 0, "nothing comes after connection_lost");
    p->received = realloc(p->received, p->received_size + data.size);
    memcpy(p->received + p->received_size, data.data, data.size);
    p->received_size += data.size;
    if (p->on_data != NULL)
        p->on_data(p, data);
}

static void data_received(rondo_transport *t, rondo_bytes data)
{
    note_call(pair_of(t), "DR", true);
    take(pair_of(t), data);
}

static void data_received_echo(rondo_transport *t, rondo_bytes data)
{
    data_received(t, data);
    rondo_write(t, data);
}

static bool eof_received(rondo_transport *t)
{
    struct pair *p = pair_of(t);
    note_call(p, "ER", false);
    if (p->on_eof != NULL)
        p->on_eof(p);
    return p->stay_open;
}

static void pause_writing(rondo_transport *t)
{
    struct pair *p = pair_of(t);
    note_call(p, "PW", false);
    if (p->on_pause != NULL)
        p->on_pause(p);
}

static void resume_writing(rondo_transport *t)
{
    struct pair *p = pair_of(t);
    note_call(p, "RW", false);
    if (p->on_resume != NULL)
        p->on_resume(p);
}

static rondo_buffer get_buffer(rondo_transport *t, size_t size_hint)
{
    struct pair *p = pair_of(t);
    (void)size_hint;
    note_call(p, "GB", false);
    return (rondo_buffer){ p->memory, p->memory_size };
}

static void buffer_updated(rondo_transport *t, size_t nbytes)
{
    struct pair *p = pair_of(t);
    note_call(p, "BU", false);
    take(p, (rondo_bytes){ p->memory, nbytes });
    rondo_write(t, (rondo_bytes){ p->memory, nbytes });
}

static void connection_lost(rondo_transport *t, int error)
{
    struct pair *p = pair_of(t);
    note_call(p, "CL", false);
    p->lost_count++;
    p->lost_error = error;
    if (p->on_lost != NULL)
        p->on_lost(p);
    p->t = NULL;
}

#define RECORDING                                                                                            \
    .size = sizeof(struct recorder), .connection_made = connection_made, .eof_received = eof_received,       \
    .connection_lost = connection_lost

const rondo_protocol recording = { .name = "recording", RECORDING, .data_received = data_received };
const rondo_protocol recording_echo = { .name = "echo", RECORDING, .data_received = data_received_echo };
const rondo_protocol recording_flow = {
    .name = "flow",
    RECORDING,
    .data_received = data_received,
    .pause_writing = pause_writing,
    .resume_writing = resume_writing,
};
const rondo_protocol recording_buffered = {
    .name = "buffered",
    RECORDING,
    .get_buffer = get_buffer,
    .buffer_updated = buffer_updated,
};

/* ---- the world ------------------------------------------------------------------------------------------ */

void world_open(struct world *world, const struct engine_size *size)
{
    static const struct engine_size small = { 32, 64, 16, 4096, 0, 0, 8, 2240 };
    char why[ENGINE_WHY_BYTES] = "";
    memset(world, 0, sizeof *world);
    cr_assert_eq(loop_open(&world->loop, tested_engine(), size != NULL ? size : &small, why), 0, "%s", why);
    world->settings.app = &world->app;
    service_init(&world->service, &world->loop, &world->settings);
}

void world_close(struct world *world)
{
    cr_assert(list_is_empty(&world->service.transports), "all transports are freed");
    cr_assert(list_is_empty(&world->service.lingering), "those that lingered, too");
    cr_assert(list_is_empty(&world->service.servers), "all servers are freed");
    cr_assert_eq(world->loop.users, 0);
    cr_assert_eq(world->loop.engine->buffers.lent, 0, "all buffers have returned");
    cr_assert_eq(world->loop.engine->datagrams.lent, 0, "those of datagrams, too");
    cr_assert_eq(world->loop.traffic.connections_open, 0);
    cr_assert_eq(world->loop.traffic.connections_lost, world->loop.traffic.connections_accepted);
    service_close(&world->service);
    loop_close(&world->loop);
    loop_free(&world->loop);
}

/* ---- pairs ---------------------------------------------------------------------------------------------- */

static void connect_pair(int *ours, int *theirs)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* Loopback's segments of 64 KiB don't fit small buffers, and TCP would wait for timers; Ethernet's do. */
    int on = 1, segment = 1400;
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    cr_assert_eq(bind(listener, (struct sockaddr *)&address, size), 0);
    cr_assert_eq(listen(listener, 1), 0);
    cr_assert_eq(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    *theirs = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(*theirs, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    cr_assert_eq(connect(*theirs, (struct sockaddr *)&address, size), 0);
    *ours = accept(listener, NULL, NULL);
    cr_assert_geq(*ours, 0);
    setsockopt(*theirs, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(*theirs, F_SETFL, O_NONBLOCK);
    close(listener);
}

static void connect_unix_pair(int *ours, int *theirs)
{
    int ends[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    *ours = ends[0];
    *theirs = ends[1];
    fcntl(*theirs, F_SETFL, O_NONBLOCK);
}

void pair_open_in(struct pair *p, struct world *world, const rondo_protocol *protocol)
{
    int ours;
    p->loop = &world->loop;
    if (p->memory_size == 0)
        p->memory_size = 64;
    if (p->is_unix)
        connect_unix_pair(&ours, &p->peer);
    else
        connect_pair(&ours, &p->peer);
    opening = p;
    struct transport_start start = { .protocol = protocol,
                                     .fd = ours,
                                     .family = p->is_unix ? AF_UNIX : AF_INET };
    cr_assert_not_null(transport_open(&world->service, &start));
}

void pair_open(struct pair *p, const rondo_protocol *protocol)
{
    p->world = malloc(sizeof *p->world);
    world_open(p->world, NULL);
    pair_open_in(p, p->world, protocol);
}

void pair_turn(struct pair *p)
{
    /* Loopback delivers within the sender's call, so what the peer has done is there. Each turn does what the last
     * one prepared; when two in a row complete nothing, nothing is left to do. */
    for (unsigned quiet = 0; quiet < 3;) {
        uint64_t before = p->loop->engine->counters.completions;
        cr_assert_eq(loop_turn(p->loop, 0), 0);
        quiet = p->loop->engine->counters.completions == before ? quiet + 1 : 0;
    }
}

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void pair_run_until(struct pair *p, bool (*condition)(struct pair *p))
{
    uint64_t start_ms = clock_ms();
    while (!condition(p)) {
        cr_assert_lt(clock_ms() - start_ms, PATIENCE_MS, "waited in vain; calls: %s", p->calls);
        cr_assert_eq(loop_turn(p->loop, 20 * 1000 * 1000), 0);
    }
}

static bool is_lost(struct pair *p)
{
    return p->lost_count > 0;
}

void pair_run_until_lost(struct pair *p)
{
    pair_run_until(p, is_lost);
}

static size_t wanted_size;

static bool has_received(struct pair *p)
{
    return p->received_size >= wanted_size || p->lost_count > 0;
}

void pair_run_until_received(struct pair *p, size_t size)
{
    wanted_size = size;
    pair_run_until(p, has_received);
    cr_assert_geq(p->received_size, size);
}

/* ---- the peer ------------------------------------------------------------------------------------------- */

void peer_send(struct pair *p, const char *text)
{
    cr_assert_eq(send(p->peer, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

void peer_send_all(struct pair *p, const char *data, size_t size, char *read_back)
{
    uint64_t start_ms = clock_ms();
    size_t sent = 0, read = 0;
    while (sent < size || (read_back != NULL && read < size)) {
        cr_assert_lt(clock_ms() - start_ms, PATIENCE_MS, "%zu of %zu sent, %zu read", sent, size, read);
        ssize_t n = send(p->peer, data + sent, size - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        cr_assert_eq(loop_turn(p->loop, 0), 0);
        while (read_back != NULL && (n = recv(p->peer, read_back + read, size - read, 0)) > 0)
            read += (size_t)n;
    }
}

void peer_shutdown(struct pair *p)
{
    cr_assert_eq(shutdown(p->peer, SHUT_WR), 0);
}

void peer_reset(struct pair *p)
{
    struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
    setsockopt(p->peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    peer_close(p);
}

void peer_close(struct pair *p)
{
    if (p->peer >= 0)
        close(p->peer);
    p->peer = -1;
}

ssize_t peer_receive(struct pair *p, char *data, size_t size)
{
    uint64_t start_ms = clock_ms();
    size_t read = 0;
    while (read < size) {
        cr_assert_lt(clock_ms() - start_ms, PATIENCE_MS, "%zu of %zu read; calls: %s", read, size, p->calls);
        cr_assert_eq(loop_turn(p->loop, 1000 * 1000), 0);
        ssize_t n = recv(p->peer, data + read, size - read, 0);
        if (n == 0)
            break;
        if (n < 0 && errno != EAGAIN)
            return -errno;
        read += n > 0 ? (size_t)n : 0;
    }
    return (ssize_t)read;
}

const char *peer_receive_text(struct pair *p)
{
    static char text[65536];
    ssize_t size = peer_receive(p, text, sizeof text - 1);
    cr_assert_geq(size, 0, "the peer's connection broke: %s", strerror((int)-size));
    text[size] = '\0';
    return text;
}

void limit_peer(struct pair *p, int bytes)
{
    setsockopt(p->peer, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    setsockopt(p->t->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

static bool is_free(struct pair *p)
{
    return p->loop->users == 0;
}

void pair_close(struct pair *p)
{
    if (p->t != NULL)
        rondo_abort(p->t);
    peer_close(p);
    pair_run_until_lost(p);
    cr_assert_eq(p->lost_count, 1, "connection_lost comes exactly once; calls: %s", p->calls);
    free(p->received);
    p->received = NULL;
    if (p->world == NULL)
        return;
    pair_run_until(p, is_free);
    world_close(p->world);
    free(p->world);
}

void fill_pattern(char *data, size_t size, unsigned seed)
{
    uint32_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < size; i++) {
        state = state * 1664525 + 1013904223;
        data[i] = (char)(state >> 24);
    }
}
