/* A whole server under many clients at once, for every sanitizer: rondo_run with several shards, client threads that do
 * what clients do and what they shouldn't, posts from outside, reports, and an end in the middle of it all.
 *
 * Each client checks every byte it gets. Usage: stress_server [CONVERSATIONS [SEED]] */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rondo/rondo.h>

enum { SHARDS = 3, CLIENTS = 8, BLOCK = 30000 };

static atomic_ullong answered_bytes, conversations, wrong, posts_run, lost, made;
static atomic_bool over;
static unsigned seed = 1, wanted_conversations = 8000;
static sem_t enough, one_more; /* conversations */

/* ---- the server ------------------------------------------------------------------------------------------- */

struct connection {
    rondo_timer timer;
    unsigned fate;
};

static void change_its_mind(rondo_timer *timer)
{
    struct connection *self = rondo_container_of(timer, struct connection, timer);
    rondo_resume_reading(rondo_transport_of(self));
}

static void connection_made(rondo_transport *t)
{
    struct connection *self = rondo_self(t);
    self->fate = (unsigned)atomic_fetch_add(&made, 1);
}

/* Echo, with a pause now and then. */
static void data_received(rondo_transport *t, rondo_bytes data)
{
    struct connection *self = rondo_self(t);
    rondo_write(t, data);
    if (self->fate % 5 == 0 && !rondo_timer_is_running(&self->timer)) {
        rondo_pause_reading(t);
        rondo_call_later(rondo_get_loop(t), &self->timer, 1, change_its_mind);
    }
}

static void connection_lost(rondo_transport *t, int error)
{
    struct connection *self = rondo_self(t);
    (void)error;
    rondo_timer_cancel(&self->timer);
    atomic_fetch_add(&lost, 1);
}

static const rondo_protocol echo = {
    .name = "echo",
    .size = sizeof(struct connection),
    .connection_made = connection_made,
    .data_received = data_received,
    .connection_lost = connection_lost,
};

static rondo_loop *loops[SHARDS];
static atomic_uint shards_started;
static pthread_t driver;
static void *drive(void *argument);

/* Its sockets listen already. */
static int shard_started(rondo_loop *loop)
{
    loops[rondo_shard_index(loop)] = loop;
    if (atomic_fetch_add(&shards_started, 1) + 1 < SHARDS)
        return 0;
    return -pthread_create(&driver, NULL, drive, NULL);
}

/* ---- clients ---------------------------------------------------------------------------------------------- */

static struct sockaddr_in where;

static int connect_client(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd >= 0 && connect(fd, (struct sockaddr *)&where, sizeof where) == 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        return fd;
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

static void hang_up(int fd, bool reset)
{
    struct linger at_once = { .l_onoff = reset, .l_linger = 0 };
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
}

/* Sends `size` bytes of a pattern in pieces and reads them back meanwhile; then maybe half-closes and expects the end.
 * Bytes that come must be right; they may stop coming when the server is told to stop. */
static void converse(int fd, size_t size, unsigned *random)
{
    char out[BLOCK], in[BLOCK];
    size_t sent = 0, got = 0;
    unsigned char key = (unsigned char)rand_r(random);
    bool half_close = rand_r(random) % 2 == 0;
    while (got < size) {
        struct pollfd ready = { .fd = fd, .events = POLLIN | (sent < size ? POLLOUT : 0) };
        if (poll(&ready, 1, 20000) <= 0) {
            fprintf(stderr, "no answer: %zu of %zu sent, %zu received\n", sent, size, got);
            atomic_fetch_add(&wrong, 1);
            return;
        }
        if (ready.revents & POLLOUT) {
            size_t part = (size_t)rand_r(random) % BLOCK + 1;
            part = part < size - sent ? part : size - sent;
            for (size_t i = 0; i < part; i++)
                out[i] = (char)(key + 31 * (sent + i));
            ssize_t n = send(fd, out, part, MSG_NOSIGNAL | MSG_DONTWAIT);
            sent += n > 0 ? (size_t)n : 0;
            if (sent == size && half_close)
                shutdown(fd, SHUT_WR);
        }
        if (ready.revents & (POLLIN | POLLHUP | POLLERR)) {
            ssize_t n = recv(fd, in, sizeof in, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN)) {
                if (!atomic_load(&over)) {
                    fprintf(stderr, "ended early: %zu of %zu: %s\n", got, size,
                            n == 0 ? "EOF" : strerror(errno));
                    atomic_fetch_add(&wrong, 1);
                }
                return;
            }
            unsigned long long differing = 0;
            for (ssize_t i = 0; i < n; i++)
                differing += in[i] != (char)(key + 31 * (got + (size_t)i));
            atomic_fetch_add(&wrong, differing);
            got += n > 0 ? (size_t)n : 0;
        }
    }
    atomic_fetch_add(&answered_bytes, got);
    sem_post(&one_more);
    if (atomic_fetch_add(&conversations, 1) + 1 == wanted_conversations)
        sem_post(&enough);
    if (half_close && recv(fd, in, sizeof in, 0) > 0)
        atomic_fetch_add(&wrong, 1);
}

/* Sends and never reads, for a while. */
static void ignore(int fd, unsigned *random)
{
    static char noise[BLOCK];
    for (int i = rand_r(random) % 100; i > 0; i--)
        send(fd, noise, sizeof noise, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void *client(void *argument)
{
    unsigned random = seed * 7919 + (unsigned)(uintptr_t)argument;
    while (!atomic_load(&over)) {
        int fd = connect_client();
        if (fd < 0)
            continue;
        switch (rand_r(&random) % 10) {
        case 0: /* says nothing */
            hang_up(fd, rand_r(&random) % 2 == 0);
            break;
        case 1:
            ignore(fd, &random);
            hang_up(fd, rand_r(&random) % 2 == 0);
            break;
        case 2:
            converse(fd, 300 * 1000, &random);
            hang_up(fd, false);
            break;
        default:
            converse(fd, (size_t)rand_r(&random) % 5000 + 1, &random);
            hang_up(fd, rand_r(&random) % 4 == 0);
            break;
        }
    }
    return NULL;
}

/* ---- from outside ----------------------------------------------------------------------------------------- */

static sem_t post_has_run;

static void run_post(rondo_call *call)
{
    (void)call;
    atomic_fetch_add(&posts_run, 1);
    sem_post(&post_has_run);
}

static void *post_and_ask(void *argument)
{
    (void)argument;
    for (unsigned i = 0; !atomic_load(&over); i++) {
        rondo_call call = { 0 };
        if (rondo_post(loops[i % SHARDS], &call, run_post) < 0)
            break;
        while (sem_wait(&post_has_run) < 0)
            ;
        if (i % 100 == 0)
            kill(getpid(), SIGUSR1);
        while (sem_wait(&one_more) < 0)
            ;
    }
    return NULL;
}

static void *drive(void *argument)
{
    pthread_t clients[CLIENTS], outside;
    (void)argument;
    for (uintptr_t i = 0; i < CLIENTS; i++)
        pthread_create(&clients[i], NULL, client, (void *)i);
    pthread_create(&outside, NULL, post_and_ask, NULL);
    while (sem_wait(&enough) < 0)
        ;
    atomic_store(&over, true);
    sem_post(&one_more);
    pthread_join(outside, NULL); /* nobody may post once rondo_run returns */
    kill(getpid(), SIGTERM);     /* while the clients are still at it */
    for (unsigned i = 0; i < CLIENTS; i++)
        pthread_join(clients[i], NULL);
    return NULL;
}

/* A port that is free now. */
static unsigned choose_port(void)
{
    socklen_t size = sizeof where;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    where = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (fd < 0 || bind(fd, (struct sockaddr *)&where, size) < 0 ||
        getsockname(fd, (struct sockaddr *)&where, &size) < 0)
        return 0;
    close(fd);
    return ntohs(where.sin_port);
}

static int serve(void)
{
    char url[64];
    rondo_app app = {
        .servers = { { .url = url, .protocol = &echo } },
        .shards = SHARDS,
        .drain_timeout_ms = 20000,
        .shard_start = shard_started,
    };
    int rc;
    do {
        snprintf(url, sizeof url, "tcp://127.0.0.1:%u", choose_port());
        rc = rondo_run(&app);
    } while (rc == -EADDRINUSE); /* somebody was faster */
    return rc;
}

int main(int argc, char **argv)
{
    sigset_t ours;
    if (argc > 1)
        wanted_conversations = (unsigned)atoi(argv[1]);
    if (argc > 2)
        seed = (unsigned)atoi(argv[2]);
    sigemptyset(&ours);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &ours, NULL); /* for the threads that are not rondo's */
    sem_init(&enough, 0, 0);
    sem_init(&one_more, 0, 0);
    sem_init(&post_has_run, 0, 0);

    int rc = serve();
    pthread_join(driver, NULL);
    printf("seed %u: %llu conversations, %llu bytes answered, %llu wrong; %llu connections made, %llu lost; "
           "%llu posts run; rondo_run %d\n",
           seed, conversations, answered_bytes, wrong, made, lost, posts_run, rc);
    return rc == 0 && wrong == 0 && made == lost && posts_run > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
