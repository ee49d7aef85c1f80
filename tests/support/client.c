#include "support/client.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 10000

/* ---- the record ------------------------------------------------------------------------------------------ */

static void note_call(struct record *r, const char *letters, bool merges)
{
    size_t size = strlen(r->calls);
    cr_assert_not(r->in_call, "%s came from inside a call", letters);
    if (merges && size >= 2 && strcmp(r->calls + size - 2, letters) == 0)
        return;
    if (size + 4 < sizeof r->calls)
        sprintf(r->calls + size, "%s%s", size == 0 ? "" : " ", letters);
}

static struct record *record_of(const rondo_transport *t)
{
    return rondo_connector_context(rondo_get_connector(t));
}

static void connection_made(rondo_transport *t)
{
    struct record *r = record_of(t);
    cr_assert_eq(rondo_connector_transport(rondo_get_connector(t)), t);
    note_call(r, "CM", false);
    r->made++;
    if (r->on_made != NULL)
        r->on_made(r, t);
}

static void data_received(rondo_transport *t, rondo_bytes data)
{
    struct record *r = record_of(t);
    note_call(r, "DR", true);
    if (r->on_data != NULL)
        r->on_data(r, t, data);
}

static bool eof_received(rondo_transport *t)
{
    note_call(record_of(t), "ER", false);
    return false;
}

static void protocol_lost(rondo_transport *t, int error)
{
    (void)error;
    note_call(record_of(t), "CL", false);
}

const rondo_protocol client_recording = {
    .name = "client",
    .connection_made = connection_made,
    .data_received = data_received,
    .eof_received = eof_received,
    .connection_lost = protocol_lost,
};

static void started_connecting(rondo_connector *connector)
{
    struct record *r = rondo_connector_context(connector);
    cr_assert_null(rondo_connector_transport(connector));
    r->connector = connector;
    note_call(r, "SC", false);
    if (r->on_started != NULL)
        r->on_started(r);
}

static void connection_failed(rondo_connector *connector, int error, const char *why)
{
    struct record *r = rondo_connector_context(connector);
    cr_assert_null(rondo_connector_transport(connector));
    cr_assert_lt(error, 0);
    cr_assert_null(strchr(why, '\n'), "one line");
    note_call(r, "cf", false);
    r->error = error;
    snprintf(r->why, sizeof r->why, "%s", why);
    r->failed++;
    if (r->on_failed != NULL)
        r->on_failed(r);
}

static void connection_lost(rondo_connector *connector, int error)
{
    struct record *r = rondo_connector_context(connector);
    cr_assert_null(rondo_connector_transport(connector));
    note_call(r, "cl", false);
    r->error = error;
    r->lost++;
    if (r->on_lost != NULL)
        r->on_lost(r);
}

rondo_client_options client_options(struct record *r, const char *url)
{
    return (rondo_client_options){
        .url = url,
        .protocol = &client_recording,
        .context = r,
        .started_connecting = started_connecting,
        .connection_failed = connection_failed,
        .connection_lost = connection_lost,
    };
}

void client_connect(struct record *r, struct world *world, const rondo_client_options *options)
{
    r->world = world;
    r->in_call = true;
    cr_assert_eq(rondo_create_connection(&world->loop, options, &r->connector), 0);
    r->in_call = false;
}

/* ---- turning --------------------------------------------------------------------------------------------- */

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void client_turn_until(struct record *r, const unsigned *count, unsigned wanted)
{
    uint64_t start_ms = clock_ms();
    while (*count < wanted) {
        cr_assert_lt(clock_ms() - start_ms, PATIENCE_MS, "waited in vain for %u, there are %u; calls: %s; %s",
                     wanted, *count, r->calls, r->why);
        cr_assert_eq(loop_turn(&r->world->loop, 20 * 1000 * 1000), 0);
    }
}

void client_turn_out(struct record *r)
{
    uint64_t start_ms = clock_ms();
    while (r->world->loop.users > 0) {
        cr_assert_lt(clock_ms() - start_ms, PATIENCE_MS, "waited in vain; calls: %s", r->calls);
        cr_assert_eq(loop_turn(&r->world->loop, 20 * 1000 * 1000), 0);
    }
}

void client_turn(struct record *r)
{
    rondo_loop *loop = &r->world->loop;
    for (unsigned quiet = 0; quiet < 3;) {
        uint64_t before = loop->engine->counters.completions;
        cr_assert_eq(loop_turn(loop, 0), 0);
        quiet = loop->engine->counters.completions == before ? quiet + 1 : 0;
    }
}

/* ---- the other side -------------------------------------------------------------------------------------- */

static socklen_t make_address(const char *address, unsigned port, struct sockaddr_storage *made)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)made;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)made;
    memset(made, 0, sizeof *made);
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        return sizeof *v4;
    }
    cr_assert_eq(inet_pton(AF_INET6, address, &v6->sin6_addr), 1);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    return sizeof *v6;
}

static int bound_socket(const char *address, unsigned *port)
{
    struct sockaddr_storage where;
    socklen_t size = make_address(address, *port, &where);
    int on = 1, fd = socket(where.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on,
               sizeof on); /* what the test has closed may be in TIME_WAIT */
    if (where.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    cr_assert_eq(bind(fd, (struct sockaddr *)&where, size), 0, "%s:%u: %m", address, *port);
    getsockname(fd, (struct sockaddr *)&where, &size);
    *port = ntohs(((struct sockaddr_in *)&where)->sin_port); /* the same place in both */
    return fd;
}

int client_listen(const char *address, unsigned *port, int backlog)
{
    int fd = bound_socket(address, port);
    cr_assert_eq(listen(fd, backlog), 0);
    return fd;
}

int client_refusing_port(unsigned *port)
{
    return bound_socket("127.0.0.1", port);
}

void client_black_hole(struct black_hole *hole, const char *address, unsigned *port)
{
    struct sockaddr_storage where;
    hole->listener = client_listen(address, port, 0); /* for one only */
    socklen_t size = make_address(address, *port, &where);
    hole->filler = socket(where.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(hole->filler, (struct sockaddr *)&where, size), 0);
}

void client_close_black_hole(struct black_hole *hole)
{
    close(hole->listener);
    close(hole->filler);
}

const char *client_url(const char *host, unsigned port)
{
    static char urls[16][320];
    static unsigned used;
    cr_assert_lt(used, 16);
    snprintf(urls[used], sizeof urls[used], "tcp://%s:%u", host, port);
    return urls[used++];
}

unsigned client_count_descriptors(void)
{
    unsigned count = 0;
    DIR *descriptors = opendir("/proc/self/fd");
    while (readdir(descriptors) != NULL)
        count++;
    closedir(descriptors);
    return count;
}
