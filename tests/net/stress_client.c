/* Connections out under every sanitizer: several shards that are servers and each other's clients, names and addresses,
 * attempts that are stopped at any time, services that come back, look-ups that never end, and a drain in the midst of it
 * all; several servers one after another in one process.
 *
 * What is told is counted: each connector ends once, each connection made is lost. Usage: stress_client [TALKS [SEED]] */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rondo/rondo.h>

#include "support/names.h"

enum { SHARDS = 3, CLIENTS = 12, SERVICES = 3, ROUNDS = 3 };

static atomic_uint talks, created, ended, made, lost, services_started, services_stopped, wrong;
static unsigned wanted_talks = 3000, seed = 1;
static char urls[4][64]; /* of the server: by address and by name; of nobody; of a name that is never found */

/* ---- the server ------------------------------------------------------------------------------------------ */

static const rondo_protocol echo = { .name = "echo", .data_received = rondo_write };

/* ---- the clients ----------------------------------------------------------------------------------------- */

struct shard {
    rondo_loop *loop;
    unsigned random;
    struct client {
        rondo_connector *connector; /* NULL: it has ended */
        rondo_timer change_of_mind;
    } clients[CLIENTS];
    rondo_client_service *services[SERVICES];
    rondo_client_waiter waiters[SERVICES];
};

static struct shard shards[SHARDS];

static struct shard *shard_of(rondo_loop *loop)
{
    return &shards[rondo_shard_index(loop)];
}

static void start_client(struct shard *shard, struct client *client);

static void connection_made(rondo_transport *t)
{
    struct shard *shard = shard_of(rondo_get_loop(t));
    atomic_fetch_add(&made, 1);
    if (rand_r(&shard->random) % 8 == 0)
        rondo_abort(t);
    else
        rondo_write_static(t, RONDO_BYTES("x"));
}

static void data_received(rondo_transport *t, rondo_bytes data)
{
    if (data.size != 1 || data.data[0] != 'x')
        atomic_fetch_add(&wrong, 1);
    if (atomic_fetch_add(&talks, 1) + 1 == wanted_talks)
        rondo_stop(rondo_get_loop(t));
    rondo_close(t);
}

static void protocol_lost(rondo_transport *t, int error)
{
    (void)t;
    (void)error;
    atomic_fetch_add(&lost, 1);
}

static const rondo_protocol talker = {
    .name = "talker",
    .connection_made = connection_made,
    .data_received = data_received,
    .connection_lost = protocol_lost,
};

/* The connector ends, and another one begins; or it begins again itself. */
static void end(rondo_connector *connector)
{
    struct client *client = rondo_connector_context(connector);
    struct shard *shard = shard_of(rondo_connector_get_loop(connector));
    rondo_timer_cancel(&client->change_of_mind);
    client->connector = NULL;
    atomic_fetch_add(&ended, 1);
    start_client(shard, client);
}

static void connection_failed(rondo_connector *connector, int error, const char *why)
{
    if (error >= 0 || strncmp(why, "can't connect to ", 17) != 0)
        atomic_fetch_add(&wrong, 1);
    end(connector);
}

static void connection_lost(rondo_connector *connector, int error)
{
    (void)error;
    end(connector);
}

static void change_mind(rondo_timer *timer)
{
    struct client *client = rondo_container_of(timer, struct client, change_of_mind);
    rondo_connector_disconnect(client->connector);
}

static void start_client(struct shard *shard, struct client *client)
{
    rondo_client_options options = {
        .url = urls[rand_r(&shard->random) % 16 == 0 ? 3 : rand_r(&shard->random) % 3],
        .protocol = &talker,
        .local_url = rand_r(&shard->random) % 4 == 0 ? "tcp://127.0.0.2:0" : NULL,
        .timeout_ms = rand_r(&shard->random) % 2 == 0 ? 20 : 0,
        .happy_eyeballs_delay_ms = 1,
        .context = client,
        .connection_failed = connection_failed,
        .connection_lost = connection_lost,
    };
    if (rondo_create_connection(shard->loop, &options, &client->connector) < 0)
        return; /* the server drains */
    atomic_fetch_add(&created, 1);
    if (rand_r(&shard->random) % 3 == 0)
        rondo_call_later(shard->loop, &client->change_of_mind, rand_r(&shard->random) % 3, change_mind);
}

/* ---- services -------------------------------------------------------------------------------------------- */

static void start_service(struct shard *shard, unsigned i);

static void service_stopped(rondo_client_service *service)
{
    struct shard *shard = rondo_client_service_context(service);
    atomic_fetch_add(&services_stopped, 1);
    for (unsigned i = 0; i < SERVICES; i++) {
        if (shard->services[i] == service) {
            shard->services[i] = NULL;
            start_service(shard, i);
            return;
        }
    }
}

static void answered(rondo_client_waiter *waiter, rondo_transport *t, int error)
{
    if ((t == NULL) != (error < 0))
        atomic_fetch_add(&wrong, 1);
    if (t == NULL)
        return;
    struct shard *shard = shard_of(rondo_get_loop(t));
    rondo_client_service *service = shard->services[waiter - shard->waiters];
    if (rand_r(&shard->random) % 4 == 0)
        rondo_stop_client_service(service, NULL, NULL);
    else
        rondo_client_service_when_connected(service, waiter, 0, answered);
}

static void start_service(struct shard *shard, unsigned i)
{
    rondo_client_service_options options = {
        .client = { .url = urls[i % 3], .protocol = &talker, .context = shard, .connection_failed = NULL },
        .initial_delay_ms = 1,
        .max_delay_ms = 4,
        .jitter_ms = 2,
        .stopped = service_stopped,
    };
    if (rondo_start_client_service(shard->loop, &options, &shard->services[i]) < 0)
        return;
    atomic_fetch_add(&services_started, 1);
    shard->waiters[i] = (rondo_client_waiter){ 0 };
    rondo_client_service_when_connected(shard->services[i], &shard->waiters[i], 0, answered);
}

static int shard_start(rondo_loop *loop)
{
    struct shard *shard = shard_of(loop);
    *shard = (struct shard){ .loop = loop, .random = seed * 7919 + rondo_shard_index(loop) };
    for (unsigned i = 0; i < CLIENTS; i++)
        start_client(shard, &shard->clients[i]);
    for (unsigned i = 0; i < SERVICES; i++)
        start_service(shard, i);
    return 0;
}

/* ---- rounds ---------------------------------------------------------------------------------------------- */

static unsigned choose_port(void)
{
    struct sockaddr_in where = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof where;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&where, size) < 0 ||
        getsockname(fd, (struct sockaddr *)&where, &size) < 0)
        return 0;
    close(fd);
    return ntohs(where.sin_port);
}

static int serve(void)
{
    const rondo_app app = {
        .servers = { { .url = urls[0], .protocol = &echo } },
        .shards = SHARDS,
        .drain_timeout_ms = 20000,
        .log_level = RONDO_LOG_ERROR,
        .shard_start = shard_start,
    };
    int rc;
    do {
        unsigned port = choose_port();
        atomic_store(&talks, 0);
        snprintf(urls[0], sizeof urls[0], "tcp://127.0.0.1:%u", port);
        snprintf(urls[1], sizeof urls[1], "tcp://two.test:%u", port);
        snprintf(urls[2], sizeof urls[2], "tcp://127.0.0.3:%u", port);
        snprintf(urls[3], sizeof urls[3], "tcp://slow.test:%u", port);
        rc = rondo_run(&app);
    } while (rc == -EADDRINUSE); /* somebody was faster */
    return rc;
}

/* A few look-ups hang to the end of the process; more would leave no helper thread for the others. */
static void *let_most_go(void *argument)
{
    (void)argument;
    for (unsigned hung = 1;; hung++) {
        names_wait_until_hung();
        if (hung > 5)
            names_let_go();
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int rc = 0;
    if (argc > 1)
        wanted_talks = (unsigned)atoi(argv[1]);
    if (argc > 2)
        seed = (unsigned)atoi(argv[2]);
    names_add("two.test", "127.0.0.4 127.0.0.1");
    names_hang("slow.test");
    pthread_t thread;
    sigset_t signals;
    sigfillset(&signals);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (pthread_create(&thread, NULL, let_most_go, NULL) != 0 || pthread_detach(thread) != 0)
        return EXIT_FAILURE;
    for (unsigned round = 0; round < ROUNDS && rc == 0; round++) {
        rc = serve();
        seed++;
    }
    printf(
        "seed %u: %u connectors, %u ended; %u connections made, %u lost; %u services, %u stopped; %u wrong; "
        "rondo_run %d\n",
        seed - ROUNDS, created, ended, made, lost, services_started, services_stopped, wrong, rc);
    return rc == 0 && wrong == 0 && created == ended && made == lost && services_started == services_stopped
               ? EXIT_SUCCESS
               : EXIT_FAILURE;
}
