/* rondo-ceiling: the bare ring, with a switch for each technique. */
#include "echo.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 4096, THREADS_MAX = 64, DESCRIPTORS_MAX = 1 << 20 };

static struct options options;
static struct counters counters[THREADS_MAX];
static int listeners[THREADS_MAX];

__attribute__((noreturn)) static void die(const char *what, int error)
{
    fprintf(stderr, "error: %s: %s\n", what, strerror(error));
    exit(1);
}

static void must(bool done, const char *what)
{
    if (!done)
        die(what, errno);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    must(getrlimit(RLIMIT_NOFILE, &limit) == 0, "descriptor limit");
    limit.rlim_cur = limit.rlim_max < DESCRIPTORS_MAX ? limit.rlim_max : DESCRIPTORS_MAX;
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0, "descriptor limit");
}

static void set(int fd, int level, int name, int value, const char *what)
{
    must(setsockopt(fd, level, name, &value, sizeof value) == 0, what);
}

/* Its connections inherit what is set here. Returns the port. */
static unsigned listen_on_port(int *listener, unsigned port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(fd >= 0, "socket");
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY");
    if (options.threads > 1)
        set(fd, SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT");
    if (options.defer_accept)
        set(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 1, "--defer-accept");
    if (options.congestion)
        must(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, options.congestion, strlen(options.congestion)) == 0,
             "--congestion");
    if (options.window > 0) { /* what this makes of the receive buffer stays */
        set(fd, SOL_SOCKET, SO_RCVLOWAT, (int)options.window, "--window");
        set(fd, SOL_SOCKET, SO_RCVLOWAT, 1, "--window");
    }
    must(bind(fd, (struct sockaddr *)&address, size) == 0 && listen(fd, BACKLOG) == 0 &&
             getsockname(fd, (struct sockaddr *)&address, &size) == 0,
         "listen");
    *listener = fd;
    return ntohs(address.sin_port);
}

static void listen_on_path(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0, "socket");
    if (strlen(path) >= sizeof address.sun_path)
        die("--unix", ENAMETOOLONG);
    strcpy(address.sun_path, path);
    unlink(path); /* left by an earlier run; if it isn't there, or isn't ours, bind says so */
    must(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, BACKLOG) == 0, "--unix");
    for (unsigned i = 0; i < options.threads; i++)
        listeners[i] = fd;
}

static void *run(void *argument)
{
    unsigned index = (unsigned)(uintptr_t)argument;
    echo_serve(&options, listeners[index], &counters[index]);
}

static void report(void)
{
    unsigned long long sums[4] = { 0 };
    for (unsigned i = 0; i < options.threads; i++) {
        sums[0] += atomic_load(&counters[i].submissions);
        sums[1] += atomic_load(&counters[i].completions);
        sums[2] += atomic_load(&counters[i].system_calls);
        sums[3] += atomic_load(&counters[i].bytes_in);
    }
    fprintf(stderr,
            "{\"submissions\":%llu,\"completions\":%llu,\"system_calls\":%llu,\"bytes_copied\":0,\"bytes_"
            "in\":%llu}\n",
            sums[0], sums[1], sums[2], sums[3]);
}

int main(int argc, char **argv)
{
    sigset_t signals;
    options_parse(&options, argc, argv);
    raise_descriptor_limit();
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);

    unsigned port = options.port;
    if (options.unix_path)
        listen_on_path(options.unix_path);
    for (unsigned i = 0; i < options.threads && !options.unix_path; i++)
        port = listen_on_port(&listeners[i], port);
    for (unsigned i = 0; i < options.threads; i++) {
        pthread_t thread;
        int error = pthread_create(&thread, NULL, run, (void *)(uintptr_t)i);
        if (error)
            die("thread", error);
    }
    if (options.unix_path)
        fprintf(stderr, "listening on unix://%s\n", options.unix_path);
    else
        fprintf(stderr, "listening on tcp://127.0.0.1:%u\n", port);

    int number;
    while (sigwait(&signals, &number) == 0 && number == SIGUSR1)
        report();
    if (options.unix_path)
        unlink(options.unix_path);
    _exit(0); /* the kernel takes back everything */
}
