/* <rondo/testing.h>: a shard on the simulated engine, and peers that the test plays. */
#include <rondo/testing.h>

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "core/list.h"
#include "core/loop.h"
#include "core/memory.h"
#include "core/simulated.h"
#include "core/task.h"
#include "net/service.h"
#include "net/transport.h"

#define NS_PER_MS       UINT64_C(1000000)
#define IDLE_TURNS_MAX  1000 /* that complete nothing, and still leave something to do */
#define DESCRIPTORS_MAX 253

struct rondo_test {
    rondo_loop loop;
    rondo_app app;
    struct service_settings settings;
    rondo_call drain;
    bool draining;
    struct rondo_link peers;
};

struct rondo_test_peer {
    struct rondo_link in_test;
    rondo_test *test;
    struct memory_socket *socket; /* the peer's own end */
    int fd;                       /* the transport's end */
    int fds[DESCRIPTORS_MAX];     /* to be passed with the next byte */
    unsigned fd_count;
    bool disconnected;
};

/* ---- turning -------------------------------------------------------------------------------------------- */

static uint64_t clock_ms(const rondo_test *test)
{
    return engine_now_ns(test->loop.engine) / NS_PER_MS;
}

static bool is_idle(const rondo_test *test)
{
    const rondo_loop *loop = &test->loop;
    return list_is_empty(&loop->flush) && list_is_empty(&loop->soon) && atomic_load(&loop->mailbox) == NULL &&
           simulated_is_idle(loop->engine) && timers_next_ms(&loop->timers) > clock_ms(test);
}

void rondo_test_turn(rondo_test *test)
{
    const struct engine_counters *counters = &test->loop.engine->counters;
    unsigned idle_turns = 0;
    do {
        uint64_t before = counters->completions;
        loop_turn(&test->loop, 0); /* the simulated engine doesn't fail where it isn't to wait */
        idle_turns = counters->completions == before ? idle_turns + 1 : 0;
    } while (!is_idle(test) && idle_turns < IDLE_TURNS_MAX);
}

void rondo_test_advance(rondo_test *test, uint64_t ms)
{
    uint64_t left_ms = ms;
    for (;;) {
        uint64_t next_ms = timers_next_ms(&test->loop.timers), now_ms = clock_ms(test);
        uint64_t step_ms = next_ms > now_ms ? next_ms - now_ms : 0;
        bool has_next = next_ms != UINT64_MAX && step_ms <= left_ms && step_ms > 0;
        if (!has_next)
            break;
        simulated_advance(test->loop.engine, step_ms * NS_PER_MS);
        left_ms -= step_ms;
        rondo_test_turn(test);
    }
    simulated_advance(test->loop.engine, left_ms * NS_PER_MS);
    rondo_test_turn(test);
}

void rondo_test_disturb(rondo_test *test, uint64_t seed)
{
    struct simulated_moods moods = simulated_wild;
    moods.seed = seed;
    moods.lost_unread = 0; /* what was written stays to be looked at */
    simulated_set_moods(test->loop.engine, &moods);
}

rondo_loop *rondo_test_loop(rondo_test *test)
{
    return &test->loop;
}

/* ---- beginning and end ---------------------------------------------------------------------------------- */

static const struct engine_size test_size = {
    .submissions = 16, .completions = 64, .buffers = 64, .buffer_bytes = 16 * 1024
};

static void drain(rondo_call *call)
{
    rondo_test *test = rondo_container_of(call, rondo_test, drain);
    service_hooks.drain(&test->loop);
}

static void stop_requested(rondo_loop *loop)
{
    rondo_test *test = rondo_container_of(loop, rondo_test, loop);
    if (test->draining)
        return;
    test->draining = true;
    rondo_call_soon(loop, &test->drain, drain);
}

static int open_loop(rondo_test *test)
{
    char why[ENGINE_WHY_BYTES] = "";
    int rc = loop_open(&test->loop, "simulated", &test_size, why);
    if (rc < 0) {
        rondo_log(RONDO_LOG_ERROR, "a test can't begin: %s", why);
        loop_free(&test->loop);
        return rc;
    }
    test->loop.stop = stop_requested;
    test->settings.app = &test->app;
    test->settings.idle_timeout_ms = test->app.idle_timeout_ms;
    test->settings.max_connections = test->app.max_connections;
    rc = service_hooks.start(&test->loop, &test->settings);
    if (rc < 0) {
        rondo_test_turn(test); /* what it began ends */
        service_hooks.stop(&test->loop);
        loop_close(&test->loop);
        loop_free(&test->loop);
    }
    return rc;
}

rondo_test *rondo_test_open(const rondo_app *app)
{
    rondo_test *test = memory_new(sizeof *test);
    if (test == NULL) {
        rondo_log(RONDO_LOG_ERROR, "a test can't begin: no memory");
        return NULL;
    }
    if (app != NULL)
        test->app = *app;
    list_init(&test->peers);
    if (open_loop(test) < 0) {
        memory_free(test);
        return NULL;
    }
    rondo_test_turn(test);
    return test;
}

static void free_peer(rondo_test_peer *peer)
{
    while (peer->fd_count > 0)
        close(peer->fds[--peer->fd_count]);
    list_remove(&peer->in_test);
    memory_free(peer);
}

static void end_connections(rondo_test *test)
{
    if (!test->draining)
        service_hooks.drain(&test->loop);
    test->draining = true;
    service_for_each_transport(service_of(&test->loop), transport_cancel);
    tasks_abort(&test->loop);
    rondo_test_turn(test);
}

static unsigned count_links(const struct rondo_link *list)
{
    unsigned count = 0;
    for (const struct rondo_link *link = list->next; link != list; link = link->next)
        count++;
    return count;
}

static unsigned count_timers(const struct timers *timers)
{
    unsigned count = 0;
    for (unsigned slot = 0; slot < TIMERS_LEVELS * TIMERS_SLOTS; slot++)
        count += count_links(&timers->slots[slot]);
    return count;
}

/* Behind shard_stop: nobody is left who could want them. */
static unsigned count_left(const rondo_test *test, unsigned tasks)
{
    unsigned timers = count_timers(&test->loop.timers), calls = count_links(&test->loop.soon);
    const char *violation = simulated_violation(test->loop.engine);
    if (timers > 0)
        rondo_log(RONDO_LOG_ERROR, "%u timers still run: cancel them in connection_lost or shard_stop",
                  timers);
    if (calls > 0)
        rondo_log(RONDO_LOG_ERROR, "%u calls still wait: cancel them in connection_lost or shard_stop",
                  calls);
    if (tasks > 0)
        rondo_log(RONDO_LOG_ERROR, "%u tasks have not returned, although they are cancelled", tasks);
    if (violation != NULL)
        rondo_log(RONDO_LOG_ERROR, "%s", violation);
    return timers + calls + tasks + (violation != NULL);
}

unsigned rondo_test_close(rondo_test *test)
{
    if (test == NULL)
        return 0;
    end_connections(test);
    loop_refuse_posts(&test->loop);
    unsigned tasks = tasks_count(&test->loop);
    service_hooks.stop(&test->loop);
    unsigned left = count_left(test, tasks);
    while (!list_is_empty(&test->peers))
        free_peer(rondo_container_of(test->peers.next, rondo_test_peer, in_test));
    loop_close(&test->loop);
    loop_free(&test->loop);
    memory_free(test);
    return left;
}

/* ---- connections ---------------------------------------------------------------------------------------- */

static rondo_test_peer *connect_by(rondo_test *test, const rondo_protocol *protocol, int family)
{
    struct engine *engine = test->loop.engine;
    struct service *service = service_of(&test->loop);
    rondo_test_peer *peer = memory_new(sizeof *peer);
    int fds[2];
    if (peer == NULL || simulated_connect(engine, family, fds) < 0 || !service_admit(service)) {
        memory_free(peer);
        return NULL;
    }
    peer->test = test;
    peer->fd = fds[0];
    peer->socket = memory_socket_of(simulated_sockets(engine), fds[1]);
    struct transport_start start = { .protocol = protocol, .fd = fds[0], .family = family };
    if (transport_open(service, &start) == NULL) {
        memory_free(peer);
        return NULL;
    }
    list_push(&test->peers, &peer->in_test);
    rondo_test_turn(test);
    return peer;
}

rondo_test_peer *rondo_test_connect(rondo_test *test, const rondo_protocol *protocol)
{
    return connect_by(test, protocol, AF_INET);
}

rondo_test_peer *rondo_test_connect_unix(rondo_test *test, const rondo_protocol *protocol)
{
    return connect_by(test, protocol, AF_UNIX);
}

/* By its descriptor, which is never given twice: a transport that is gone can't be asked. */
rondo_transport *rondo_test_transport(const rondo_test_peer *peer)
{
    const struct rondo_link *transports = &service_of(&peer->test->loop)->transports;
    for (struct rondo_link *link = transports->next; link != transports; link = link->next) {
        rondo_transport *t = rondo_container_of(link, rondo_transport, in_service);
        if (t->fd == peer->fd)
            return t->lost ? NULL : t;
    }
    return NULL;
}

/* ---- what the peer does --------------------------------------------------------------------------------- */

static int send_piece(rondo_test_peer *peer, rondo_bytes data)
{
    struct memory_socket *socket = peer->socket;
    if (socket->write_shut || socket->broken)
        return -EPIPE;
    if (socket->other == NULL || socket->other->broken)
        return -ECONNRESET;
    struct iovec slice = { (char *)data.data, data.size };
    int sent = memory_socket_send(socket, &slice, 1, data.size, peer->fds, peer->fd_count);
    if (sent < 0)
        return sent == -ENOBUFS ? -ENOMEM : sent;
    while (peer->fd_count > 0)
        close(peer->fds[--peer->fd_count]);
    rondo_test_turn(peer->test);
    return 0;
}

int rondo_test_feed(rondo_test_peer *peer, rondo_bytes data)
{
    return rondo_test_feed_in_pieces(peer, data, SIZE_MAX);
}

int rondo_test_feed_in_pieces(rondo_test_peer *peer, rondo_bytes data, size_t piece_bytes)
{
    int rc = 0;
    while (rc == 0 && data.size > 0) {
        size_t size = piece_bytes > 0 && piece_bytes < data.size ? piece_bytes : data.size;
        rc = send_piece(peer, (rondo_bytes){ data.data, size });
        data = (rondo_bytes){ data.data + size, data.size - size };
    }
    return rc;
}

int rondo_test_feed_descriptor(rondo_test_peer *peer, int fd)
{
    if (peer->socket->family != AF_UNIX)
        return -ENOTSUP;
    if (peer->socket->write_shut || peer->socket->broken)
        return -EPIPE;
    if (peer->fd_count == DESCRIPTORS_MAX)
        return -ETOOMANYREFS;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return -errno;
    peer->fds[peer->fd_count++] = own;
    return 0;
}

int rondo_test_feed_eof(rondo_test_peer *peer)
{
    struct memory_socket *socket = peer->socket;
    if (socket->write_shut || socket->broken)
        return -EPIPE;
    if (socket->other == NULL)
        return -ECONNRESET;
    memory_socket_half_close(socket);
    rondo_test_turn(peer->test);
    return 0;
}

void rondo_test_disconnect(rondo_test_peer *peer)
{
    if (peer->socket->broken)
        return;
    memory_socket_half_close(peer->socket);
    peer->socket->broken = peer->disconnected = true; /* nobody reads there */
    rondo_test_turn(peer->test);
}

void rondo_test_reset(rondo_test_peer *peer)
{
    if (peer->socket->other != NULL)
        memory_socket_break(peer->socket->other, -ECONNRESET, false);
    memory_socket_break(peer->socket, 0, false);
    rondo_test_turn(peer->test);
}

/* ---- what the peer sees --------------------------------------------------------------------------------- */

rondo_bytes rondo_test_written(const rondo_test_peer *peer)
{
    const struct memory_socket *socket = peer->socket;
    return (rondo_bytes){ socket->size > 0 ? socket->arrived + socket->begin : "", socket->size };
}

void rondo_test_clear(rondo_test_peer *peer)
{
    memory_socket_drop_unread(peer->socket);
    rondo_test_turn(peer->test);
}

int rondo_test_take_descriptor(rondo_test_peer *peer)
{
    return memory_socket_take_passed(peer->socket);
}

bool rondo_test_sees_eof(const rondo_test_peer *peer)
{
    return peer->socket->eof;
}

bool rondo_test_was_reset(const rondo_test_peer *peer)
{
    return peer->socket->broken && !peer->disconnected;
}

void rondo_test_set_room(rondo_test_peer *peer, size_t bytes)
{
    peer->socket->room = bytes;
    rondo_test_turn(peer->test);
}
