/* rondo-datagram-load: datagrams there and back, and what they cost the server. Each socket has one under way, or, with
 * --window, so many; every answer is compared with its question. One that has not come back after RETRY_MS is lost: counted,
 * and another is sent.
 *
 * usage: rondo-datagram-load udp://127.0.0.1:PORT --server-pid PID [--sockets N] [--window N] [--size N] [--seconds S]
 *
 * Prints a line of JSON. Exit status: 0; 1 wrong bytes, or nothing came; 2 wrong usage. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"
#include "process.h"

enum { SOCKETS_MAX = 4096, SIZE_MAX_BYTES = 65507, EVENTS = 256, RETRY_MS = 200, WARM_UP_PART = 5 };

struct client {
    int fd;
    uint32_t next; /* number of the next question */
    uint64_t last_ns;
    unsigned under_way;
};

static struct client clients[SOCKETS_MAX];
static unsigned sockets = 50, window = 1;
static size_t size = 64;
static double seconds = 1;
static pid_t server;
static struct histogram latency;
static uint64_t answered, lost, wrong;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void must(bool done, const char *what)
{
    if (done)
        return;
    fprintf(stderr, "error: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Its number, when it was asked, and a pattern of both. */
struct question {
    uint32_t number;
    uint64_t asked_ns;
} __attribute__((packed));

static void fill(char *bytes, uint32_t number)
{
    for (size_t i = sizeof(struct question); i < size; i++)
        bytes[i] = (char)(number * 31 + i);
}

static void ask(struct client *client)
{
    char bytes[SIZE_MAX_BYTES];
    struct question question = { client->next++, now_ns() };
    memcpy(bytes, &question, sizeof question);
    fill(bytes, question.number);
    must(send(client->fd, bytes, size, 0) == (ssize_t)size, "send");
    client->last_ns = question.asked_ns;
    client->under_way++;
}

static void take_answers(struct client *client)
{
    char bytes[SIZE_MAX_BYTES + 1], expected[SIZE_MAX_BYTES];
    ssize_t received;
    while ((received = recv(client->fd, bytes, sizeof bytes, MSG_DONTWAIT)) >= 0) {
        struct question question = { 0 };
        memcpy(&question, bytes, sizeof question);
        fill(expected, question.number);
        size_t begin = sizeof question;
        if ((size_t)received != size || memcmp(bytes + begin, expected + begin, size - begin) != 0)
            wrong++;
        histogram_add(&latency, now_ns() - question.asked_ns);
        answered++;
        client->under_way -= client->under_way > 0;
        ask(client);
    }
    must(errno == EAGAIN, "receive");
}

static void ask_again(void)
{
    uint64_t now = now_ns();
    for (unsigned i = 0; i < sockets; i++) {
        struct client *client = &clients[i];
        if (now - client->last_ns < RETRY_MS * UINT64_C(1000000))
            continue;
        lost += client->under_way;
        for (client->under_way = 0; client->under_way < window;)
            ask(client);
    }
}

static void run_for(int epoll_fd, double how_long)
{
    uint64_t end_ns = now_ns() + (uint64_t)(how_long * 1e9);
    struct epoll_event events[EVENTS];
    while (now_ns() < end_ns) {
        int count = epoll_wait(epoll_fd, events, EVENTS, 50);
        for (int i = 0; i < count; i++)
            take_answers(events[i].data.ptr);
        if (count == 0)
            ask_again();
    }
}

static void open_clients(const char *url, int epoll_fd)
{
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    unsigned port = 0;
    if (sscanf(url, "udp://127.0.0.1:%u", &port) != 1) {
        fprintf(stderr, "%s: udp://127.0.0.1:PORT is wanted\n", url);
        exit(2);
    }
    name.sin_port = htons((uint16_t)port);
    for (unsigned i = 0; i < sockets; i++) {
        struct client *client = &clients[i];
        struct epoll_event event = { .events = EPOLLIN, .data.ptr = client };
        client->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        must(client->fd >= 0 && connect(client->fd, (struct sockaddr *)&name, sizeof name) == 0, "socket");
        must(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, client->fd, &event) == 0, "epoll");
        while (client->under_way < window)
            ask(client);
    }
}

static void report(uint64_t elapsed_ns, int64_t cpu_ns)
{
    printf("{\"requests\": %" PRIu64 ", \"seconds\": %.3f, \"rate\": %.0f, \"rate_kept\": null, "
           "\"server_cpu_ns_per_request\": %.1f, \"server_busy\": %.3f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"lost\": %" PRIu64 ", \"wrong\": %" PRIu64 "}\n",
           answered, (double)elapsed_ns / 1e9, (double)answered * 1e9 / (double)elapsed_ns,
           (double)cpu_ns / (double)answered, (double)cpu_ns / (double)elapsed_ns,
           (double)histogram_quantile(&latency, 0.5) / 1e3, (double)histogram_quantile(&latency, 0.99) / 1e3,
           lost, wrong);
}

static void parse(int argc, char **argv)
{
    static const struct option options[] = {
        { "sockets", required_argument, NULL, 'n' },    { "window", required_argument, NULL, 'w' },
        { "size", required_argument, NULL, 's' },       { "seconds", required_argument, NULL, 't' },
        { "server-pid", required_argument, NULL, 'p' }, { 0 },
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'n':
            sockets = (unsigned)atoi(optarg);
            break;
        case 'w':
            window = (unsigned)atoi(optarg);
            break;
        case 's':
            size = (size_t)atoi(optarg);
            break;
        case 't':
            seconds = atof(optarg);
            break;
        case 'p':
            server = (pid_t)atoi(optarg);
            break;
        default:
            exit(2);
        }
    }
    bool is_right = optind + 1 == argc && server > 0 && sockets >= 1 && sockets <= SOCKETS_MAX &&
                    window >= 1 && size >= sizeof(struct question) && size <= SIZE_MAX_BYTES && seconds > 0;
    if (is_right)
        return;
    fprintf(stderr,
            "usage: rondo-datagram-load udp://127.0.0.1:PORT --server-pid PID [--sockets N] [--window N] "
            "[--size N, at least %zu] [--seconds S]\n",
            sizeof(struct question));
    exit(2);
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    open_clients(argv[optind], epoll_fd);
    run_for(epoll_fd, seconds / WARM_UP_PART);
    answered = lost = 0;
    memset(&latency, 0, sizeof latency);
    uint64_t begin_ns = now_ns();
    int64_t cpu_ns = process_cpu_ns(server);
    run_for(epoll_fd, seconds);
    cpu_ns = process_cpu_ns(server) - cpu_ns;
    uint64_t elapsed_ns = now_ns() - begin_ns;
    if (answered == 0 || wrong > 0) {
        fprintf(stderr, "error: %" PRIu64 " answers, %" PRIu64 " of them wrong\n", answered, wrong);
        return 1;
    }
    report(elapsed_ns, cpu_ns);
}
