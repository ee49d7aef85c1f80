#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 4096, THREADS_MAX = 64 };

struct peer_options options = { .threads = 1 };

static void (*serve_on)(int listener);

__attribute__((noreturn)) static void die(const char *what)
{
    fprintf(stderr, "error: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void parse(int argc, char **argv)
{
    static const struct option known[] = {
        { "port", required_argument, NULL, 'p' },    { "unix", required_argument, NULL, 'u' },
        { "threads", required_argument, NULL, 't' }, { "lines", no_argument, NULL, 'l' },
        { "style", required_argument, NULL, 's' },   { 0 },
    };
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (option == 'p')
            options.port = (unsigned)atoi(optarg);
        else if (option == 'u')
            options.unix_path = optarg;
        else if (option == 't')
            options.threads = (unsigned)atoi(optarg);
        else if (option == 'l')
            options.lines = true;
        else if (option == 's')
            options.as_documented = strcmp(optarg, "documentation") == 0;
        else
            exit(2);
    }
    if (options.threads < 1 || options.threads > THREADS_MAX || options.port > 65535) {
        fputs("error: --threads: 1 to 64; --port: 0 to 65535\n", stderr);
        exit(2);
    }
}

static int listen_on_port(unsigned *port)
{
    const int on = 1;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)*port) };
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
        (options.threads > 1 && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on)) ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) || /* its connections inherit it */
        bind(fd, (struct sockaddr *)&address, size) || listen(fd, BACKLOG) ||
        getsockname(fd, (struct sockaddr *)&address, &size))
        die("listen");
    *port = ntohs(address.sin_port);
    return fd;
}

static int listen_on_path(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", options.unix_path);
    unlink(options.unix_path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, BACKLOG))
        die(options.unix_path);
    return fd;
}

static void *run(void *listener)
{
    serve_on((int)(intptr_t)listener);
    return NULL;
}

int peer_main(int argc, char **argv, void (*serve)(int listener))
{
    struct rlimit limit;
    pthread_t threads[THREADS_MAX];
    int listeners[THREADS_MAX];
    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    serve_on = serve;
    for (unsigned i = 0; i < options.threads; i++) {
        if (!options.unix_path)
            listeners[i] = listen_on_port(&options.port);
        else
            listeners[i] = i == 0 ? listen_on_path() : fcntl(listeners[0], F_DUPFD_CLOEXEC, 0);
    }
    if (options.unix_path)
        fprintf(stderr, "listening on unix://%s\n", options.unix_path);
    else
        fprintf(stderr, "listening on tcp://127.0.0.1:%u\n", options.port);
    for (unsigned i = 1; i < options.threads; i++) {
        if (pthread_create(&threads[i], NULL, run, (void *)(intptr_t)listeners[i]))
            die("thread");
    }
    serve(listeners[0]);
    for (unsigned i = 1; i < options.threads; i++)
        pthread_join(threads[i], NULL);
    return 0;
}

int peer_accept(int listener)
{
    return accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

/* ---- lines ---------------------------------------------------------------------------------------------- */

static void append(struct peer_rest *rest, const char *data, size_t size)
{
    char *longer = realloc(rest->data, rest->size + size);
    if (!longer)
        die("memory");
    memcpy(longer + rest->size, data, size);
    rest->data = longer;
    rest->size += size;
}

void peer_cut_lines(struct peer_rest *rest, const char *data, size_t size,
                    void (*write_line)(void *connection, const char *line, size_t size), void *connection)
{
    for (const char *end; size > 0 && (end = memchr(data, '\n', size)) != NULL;) {
        size_t length = (size_t)(end + 1 - data);
        if (rest->size > 0) {
            append(rest, data, length);
            write_line(connection, rest->data, rest->size);
            rest->size = 0;
        } else {
            write_line(connection, data, length);
        }
        data += length;
        size -= length;
    }
    if (size > 0)
        append(rest, data, size);
}

/* ---- bytes to be sent ------------------------------------------------------------------------------------ */

static bool put(struct peer_queue *queue, const char *data, size_t size)
{
    if (queue->end + size > queue->capacity) {
        size_t capacity = 2 * (queue->end + size);
        char *larger = realloc(queue->data, capacity);
        if (!larger)
            return false;
        queue->data = larger;
        queue->capacity = capacity;
    }
    memcpy(queue->data + queue->end, data, size);
    queue->end += size;
    return true;
}

bool peer_write(struct peer_queue *queue, int fd, const char *data, size_t size)
{
    while (size > 0 && peer_is_empty(queue)) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno == EAGAIN)
            break;
        if (written < 0 && errno != EINTR)
            return false;
        if (written > 0) {
            data += written;
            size -= (size_t)written;
        }
    }
    return size == 0 || put(queue, data, size);
}

bool peer_flush(struct peer_queue *queue, int fd)
{
    while (!peer_is_empty(queue)) {
        ssize_t written = write(fd, queue->data + queue->begin, queue->end - queue->begin);
        if (written < 0)
            return errno == EAGAIN || errno == EINTR;
        queue->begin += (size_t)written;
    }
    queue->begin = queue->end = 0;
    return true;
}
