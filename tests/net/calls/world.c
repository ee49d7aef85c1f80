/* The world: what the peers, time, and the server do; and a sequence of all that, from its beginning to its end. */
#include "net/calls/calls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/list.h"

int files[KINDS_OF_FD], write_only, no_file;
char file_bytes[FILE_BYTES];

void open_files(void)
{
    for (int i = 0; i < KINDS_OF_FD; i++)
        files[i] = memfd_create("stress_calls", MFD_CLOEXEC);
    for (size_t i = 0; i < FILE_BYTES; i++)
        file_bytes[i] = (char)(i * 37 >> 2);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", files[0]);
    write_only = open(path, O_WRONLY | O_CLOEXEC);
    no_file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (write(files[0], file_bytes, FILE_BYTES) != FILE_BYTES || write_only < 0 || no_file < 0) {
        perror("stress_calls: files");
        exit(1);
    }
}

/* ---- events -------------------------------------------------------------------------------------------------- */

static void peer_sends(struct connection *c)
{
    size_t size = some_size(STREAM_MAX - c->fed < 900 ? STREAM_MAX - c->fed : 900);
    if (size == 0 || c->sent_eof || c->gone || c->peer->other == NULL)
        return;
    int passed[3];
    unsigned count = c->is_unix && one_in(3) && c->in_passed + 3 <= PASSED_MAX ? 1 + (unsigned)below(3) : 0;
    for (unsigned i = 0; i < count; i++) {
        passed[i] = files[c->in_passed % KINDS_OF_FD];
        c->in_places[c->in_passed++] = c->fed;
    }
    for (size_t i = 0; i < size; i++)
        c->in[c->fed + i] = run.has_lines && one_in(12) ? '\n' : (char)random_bits();
    struct iovec slice = { c->in + c->fed, size };
    int sent = memory_socket_send(c->peer, &slice, 1, size, passed, count);
    say("peer %u sends %zu%s: %d", c->index, size, count > 0 ? " with descriptors" : "", sent);
    if (sent > 0)
        c->fed += (size_t)sent;
}

static void peer_half_closes(struct connection *c)
{
    if (!one_in(5))
        return;
    say("peer %u half-closes", c->index);
    memory_socket_half_close(c->peer);
    c->sent_eof = true;
}

static void peer_breaks(struct connection *c)
{
    if (!one_in(8) || c->peer->other == NULL || c->gone)
        return;
    static const int errors[] = { -ECONNRESET, -ETIMEDOUT, -EHOSTUNREACH };
    int error = errors[one_in(3) ? below(3) : 0];
    bool unread_too = one_in(2);
    say("peer %u breaks the connection: %d%s", c->index, error,
        unread_too ? ", and what was unread is lost" : "");
    memory_socket_break(c->peer->other, error, unread_too);
    memory_socket_break(c->peer, 0, false);
    c->gone = c->shaken = true;
    c->written_at_break = c->written;
    c->protocol_at_break = c->protocol;
    c->broke_quietly =
        !unread_too && c->t != NULL && !c->t->send.in_kernel && c->peer->read + c->peer->size == c->written;
}

static void peer_disconnects(struct connection *c)
{
    if (!one_in(8) || c->gone)
        return;
    say("peer %u closes", c->index);
    memory_socket_half_close(c->peer);
    c->peer->broken = c->gone = c->sent_eof = c->shaken = true;
}

static void forget_descriptors(struct connection *c, uint64_t place)
{
    while (c->out_seen < c->out_passed && c->out_places[c->out_seen] < place)
        c->out_seen++;
}

static void peer_reads(struct connection *c)
{
    char bytes[2000];
    check_output(c); /* before they are gone */
    size_t size = one_in(2) ? sizeof bytes : 1 + some_size(sizeof bytes - 1);
    if (c->peer->size == 0)
        return;
    int read = memory_socket_receive(c->peer, bytes, size, NULL, 0, NULL);
    say("peer %u reads %d", c->index, read);
    forget_descriptors(c, c->peer->read);
}

static void peer_has_room(struct connection *c)
{
    size_t room = one_in(3) ? SIZE_MAX : one_in(3) ? 0 : some_size(1000);
    c->peer->room = room;
    c->peer->window = one_in(2) ? SIZE_MAX : some_size(100);
    say("peer %u has room for %zd", c->index, (ssize_t)room);
}

static call_on *const events[] = {
    peer_sends,       peer_sends, peer_sends, peer_sends,    peer_half_closes, peer_breaks,
    peer_disconnects, peer_reads, peer_reads, peer_has_room, peer_has_room,
};

void random_event(struct connection *c)
{
    events[below(sizeof events / sizeof *events)](c);
}

/* What a callback does: calls, mostly on its own transport; and meanwhile the world goes on. */
void random_calls(struct connection *c)
{
    if (run.depth > DEPTH_MAX)
        return;
    for (size_t n = one_in(2) ? 0 : below(4); n > 0 && run.budget > 0; n--, run.budget--) {
        struct connection *target = one_in(5) ? &run.connections[below(run.count)] : c;
        if (one_in(8))
            random_event(target);
        else
            random_call(target);
    }
}

static void owner_lost(struct transport_owner *owner, rondo_transport *t, int error)
{
    (void)owner;
    (void)t;
    (void)error;
}

static struct transport_owner owner = { .is_server = true, .lost = owner_lost };

static void drain_begins(struct connection *c)
{
    c->shaken = c->drained = true;
    c->fed_at_drain = c->fed;
}

/* One more in the model, and its two sockets. */
static struct connection *new_connection(void)
{
    struct connection *c = &run.connections[run.count];
    int fds[2];
    memset(c, 0, sizeof *c);
    c->index = run.count++;
    c->is_unix = one_in(3);
    c->high = 65536;
    c->low = 16384;
    c->taken_at_pause = UINT64_MAX;
    c->memory_size = 1 + some_size(200);
    c->memory = malloc(c->memory_size);
    protocol_is(c, some_protocol());
    if (c->memory == NULL || simulated_connect(run.loop.engine, c->is_unix ? AF_UNIX : AF_INET, fds) < 0)
        abort();
    c->fd = fds[0];
    c->peer = memory_socket_of(simulated_sockets(run.loop.engine), fds[1]);
    return c;
}

static void open_transport(struct connection *c)
{
    struct service *service = service_of(&run.loop);
    struct transport_start start = {
        .owner = one_in(2) ? &owner : NULL,
        .protocol = c->protocol,
        .fd = c->fd,
        .family = c->is_unix ? AF_UNIX : AF_INET,
        .later = one_in(2),
    };
    service_admit(service);
    run.opening = c;
    c->t = transport_open(service, &start);
    for (int turns = 0; c->t != NULL && !c->made && turns < 2; turns++)
        loop_turn(&run.loop, 0);
    run.opening = NULL;
}

static void open_connection(void)
{
    if (run.count == CONNECTIONS)
        return;
    struct connection *c = new_connection();
    if (run.stopping)
        drain_begins(c);
    say("connection %u, %s: %s", c->index, c->is_unix ? "unix" : "tcp", c->protocol->name);
    if (one_in(2))
        peer_sends(c);
    open_transport(c);
    if (!c->made) {
        expect(c, run.memory_is_short && c->peer->other == NULL, "connection_made comes with the next turn");
        c->lost = c->aborted = true; /* there was no memory for it */
    }
    c->fed_at_drain = c->fed;
}

static bool is_at_rest(void)
{
    const rondo_loop *loop = &run.loop;
    return list_is_empty(&loop->flush) && list_is_empty(&loop->soon) && simulated_is_idle(loop->engine) &&
           timers_next_ms(&loop->timers) > engine_now_ns(loop->engine) / 1000000;
}

static void turn(void)
{
    say("turn");
    loop_turn(&run.loop, 0);
    check();
}

static void come_to_rest(void)
{
    for (unsigned turns = 0; !is_at_rest() && run.broken == NULL; turns++) {
        if (turns == 20000) {
            broken(NULL, "it comes to rest");
            return;
        }
        turn();
    }
    check();
    say("at rest");
    const struct buffers *buffers = &run.loop.engine->buffers;
    expect(NULL, buffers->lent <= buffers->count / 2,
           "who doesn't read leaves half of the buffers to the others");
    for (unsigned i = 0; i < run.count; i++)
        check_rest(&run.connections[i]);
}

static void let_time_pass(void)
{
    uint64_t ms = one_in(10) ? 1100 : below(30);
    say("%d ms pass", (int)ms);
    simulated_advance(run.loop.engine, ms * 1000000);
    if (run.settings.idle_timeout_ms > 0) {
        for (unsigned i = 0; i < run.count; i++)
            run.connections[i].shaken = true;
    }
    turn();
}

static void stop_server(void)
{
    if (!one_in(10))
        return;
    say("the server stops");
    for (unsigned i = 0; i < run.count; i++)
        drain_begins(&run.connections[i]);
    run.stopping = true;
    service_hooks.drain(&run.loop);
}

static void step(void)
{
    struct connection *c = &run.connections[below(run.count)];
    switch (below(10)) {
    case 0:
    case 1:
    case 2:
        turn();
        return;
    case 3:
    case 4:
        random_call(c);
        break;
    case 5:
        let_time_pass();
        return;
    case 6:
        if (one_in(2))
            come_to_rest();
        else if (one_in(3))
            open_connection();
        else
            stop_server();
        break;
    default:
        random_event(c);
    }
    check();
}

/* ---- a sequence ---------------------------------------------------------------------------------------------- */

static void open_world(void)
{
    char why[ENGINE_WHY_BYTES];
    struct engine_size size = { 8, 16, 1u << (1 + below(4)), 64 * (1 + below(3)), 0, 0, 0, 0 };
    memset(&run.loop, 0, sizeof run.loop);
    memset(&run.settings, 0, sizeof run.settings);
    run.settings.app = &run.app;
    run.settings.idle_timeout_ms = one_in(6) ? 1 + below(50) : 0;
    run.count = 0;
    run.stopping = run.aborting = run.memory_is_short = false;
    run.has_lines = one_in(2);
    run.broken = NULL;
    run.depth = 0;
    run.budget = 150;
    run.calling = run.opening = NULL;
    if (loop_open(&run.loop, "simulated", &size, why) < 0 ||
        service_hooks.start(&run.loop, &run.settings) < 0)
        abort();
    struct simulated_moods moods = simulated_wild;
    if (one_in(4))
        moods = (struct simulated_moods){ 0 };
    moods.seed = random_bits();
    simulated_set_moods(run.loop.engine, &moods);
    say("%u buffers of %zu bytes, %s kernel, idle time-out %d ms", size.buffers, size.buffer_bytes,
        moods.any_order ? "wild" : "tame", (int)run.settings.idle_timeout_ms);
}

/* All that must be delivered before the end is, where the end is in order: everybody reads. */
static void end_in_order(void)
{
    say("the end, in order");
    for (unsigned i = 0; i < run.count; i++) {
        struct connection *c = &run.connections[i];
        c->peer->room = SIZE_MAX;
        if (c->t != NULL)
            call_resume_reading(c);
    }
    come_to_rest();
    for (unsigned i = 0; i < run.count; i++) {
        if (run.connections[i].t != NULL)
            call_close(&run.connections[i]);
    }
    come_to_rest();
    for (unsigned i = 0; i < run.count; i++) {
        struct connection *c = &run.connections[i];
        expect(c, c->lost, "who closes, and is read from, is closed");
        if (one_in(2))
            memory_socket_half_close(c->peer); /* else only time ends the lingering */
    }
    come_to_rest();
}

static void end_abruptly(void)
{
    say("the end, abruptly");
    run.aborting = true;
    for (unsigned i = 0; i < run.count; i++)
        run.connections[i].shaken = true;
    service_for_each_transport(service_of(&run.loop), transport_cancel);
    come_to_rest();
}

static void close_world(void)
{
    struct buffers *buffers = &run.loop.engine->buffers;
    run.memory_is_short = false;
    run.budget = 0; /* of calls; what is there ends */
    if (one_in(3))
        end_abruptly();
    else
        end_in_order();
    for (unsigned seconds = 0; run.loop.users > 0 && seconds < 100 && run.broken == NULL; seconds++) {
        simulated_advance(run.loop.engine, UINT64_C(1000000000));
        come_to_rest();
    }
    expect(NULL, run.loop.users == 0, "in the end no transport is left");
    expect(NULL, buffers->lent == 0, "in the end no buffer is lent");
    expect(NULL, run.loop.traffic.connections_open == 0, "in the end no connection is open");
    expect(NULL, run.loop.traffic.connections_lost == run.loop.traffic.connections_accepted,
           "who came is gone");
    expect(NULL, owner.connections == 0, "the owner has none left");
    for (unsigned i = 0; i < run.count; i++) {
        struct connection *c = &run.connections[i];
        expect(c, c->lost && c->t == NULL, "connection_lost comes");
        expect(c, c->aborted || c->shaken || c->peer->broken || (c->peer->eof && c->seen == c->written),
               "an end in order brings all that was written, and the EOF");
    }
    if (run.broken != NULL)
        return; /* the process ends */
    service_hooks.stop(&run.loop);
    loop_close(&run.loop);
    loop_free(&run.loop);
    for (unsigned i = 0; i < run.count; i++)
        free(run.connections[i].memory);
}

/* The lowest that is free. */
static int next_descriptor(void)
{
    int fd = dup(no_file);
    close(fd);
    return fd;
}

void sequence(uint64_t seed)
{
    run.seed = seed;
    run.random = seed * UINT64_C(0x2545f4914f6cdd1d);
    int descriptor = next_descriptor();
    open_world();
    open_connection();
    run.memory_is_short = one_in(6);
    for (size_t steps = 5 + below(40); steps > 0 && run.broken == NULL; steps--)
        step();
    if (run.broken == NULL)
        close_world();
    expect(NULL, run.broken != NULL || run.allocated == 0, "in the end no memory is left");
    expect(NULL, run.broken != NULL || next_descriptor() == descriptor, "in the end no descriptor is left");
}
