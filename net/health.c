#include "net/health.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <rondo/log.h>

#include "core/memory.h"
#include "net/url.h"

#define PREFIX     "rondo-health:"
#define BACKLOG    16
#define PATIENCE_S 3

/* The end of a URL says more than its beginning. */
static struct url_address name_of(const char *url)
{
    struct url_address name = { .local.sun_family = AF_UNIX };
    const size_t most = sizeof name.local.sun_path - 1 - strlen(PREFIX) - 1;
    size_t size = strlen(url);
    int length = snprintf(name.local.sun_path + 1, sizeof name.local.sun_path - 1, PREFIX "%s",
                          size > most ? url + size - most : url);
    name.size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    return name;
}

/* ---- to be asked ------------------------------------------------------------------------------------------ */

static int listen_for(const char *url, int epoll_fd)
{
    struct url_address name = name_of(url);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.fd = fd };
    if (fd >= 0 && bind(fd, &name.any, name.size) == 0 && listen(fd, BACKLOG) == 0 &&
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0)
        return fd;
    rondo_log(RONDO_LOG_DEBUG, "%s: nobody can ask whether it is ready: %s", url, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static unsigned count_addresses(const struct addresses *servers, unsigned server_count)
{
    unsigned count = 0;
    for (unsigned i = 0; i < server_count; i++)
        count += servers[i].count;
    return count;
}

void health_open(struct health *health, const struct addresses *servers, unsigned server_count)
{
    *health = (struct health){ .epoll_fd = -1 };
    health->fds = memory_alloc((count_addresses(servers, server_count) + 1) * sizeof *health->fds);
    if (health->fds == NULL)
        return;
    health->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; i < server_count; i++) {
        for (unsigned j = 0; j < servers[i].count; j++) {
            int fd = health->epoll_fd < 0 ? -1 : listen_for(servers[i].at[j].url, health->epoll_fd);
            if (fd >= 0)
                health->fds[health->count++] = fd;
        }
    }
}

void health_close(struct health *health)
{
    for (unsigned i = 0; i < health->count; i++)
        close(health->fds[i]);
    if (health->epoll_fd >= 0)
        close(health->epoll_fd);
    memory_free(health->fds);
}

static void answer_all(int listener, const char *answer)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        ssize_t sent = send(fd, answer, strlen(answer), MSG_NOSIGNAL);
        (void)sent; /* whoever has gone needs no answer */
        close(fd);
    }
}

/* Edge-triggered: without a descriptor left to accept by, whoever asks gets no answer, which is one, too; and nobody
 * spins. */
void health_answer(const struct health *health, bool is_ready)
{
    struct epoll_event events[BACKLOG];
    int count = epoll_wait(health->epoll_fd, events, BACKLOG, 0);
    for (int i = 0; i < count; i++)
        answer_all(events[i].data.fd, is_ready ? "ready\n" : "draining\n");
}

/* ---- asking ----------------------------------------------------------------------------------------------- */

static int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Returns 0 when it is ready for that, or a negative errno. */
static int wait_for(int fd, short events, int64_t deadline_ms)
{
    struct pollfd socket = { .fd = fd, .events = events };
    int rc;
    do {
        int64_t left_ms = deadline_ms - clock_ms();
        rc = poll(&socket, 1, left_ms > 0 ? (int)left_ms : 0);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : rc == 0 ? -ETIMEDOUT : 0;
}

/* Returns a connected socket, or a negative errno. */
static int connect_to(const struct url_address *address, int64_t deadline_ms)
{
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int rc = connect(fd, &address->any, address->size) < 0 ? -errno : 0;
    if (rc == -EINPROGRESS) {
        int error = 0;
        rc = wait_for(fd, POLLOUT, deadline_ms);
        if (rc == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){ sizeof error }) == 0)
            rc = -error;
    }
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

/* What whoever serves `url` says of itself. False: nobody says anything. */
static bool ask(const char *url, char answer[16], int64_t deadline_ms)
{
    const struct url_address name = name_of(url);
    int fd = connect_to(&name, deadline_ms);
    if (fd < 0)
        return false;
    ssize_t size = wait_for(fd, POLLIN, deadline_ms) == 0 ? recv(fd, answer, 15, 0) : -1;
    close(fd);
    answer[size > 0 ? size : 0] = '\0';
    answer[strcspn(answer, "\n")] = '\0';
    return true;
}

/* As it is listened to: at this very address, or at any. */
static bool ask_about(const struct url_address *address, bool is_of_datagrams, char answer[16],
                      int64_t deadline_ms)
{
    char url[URL_TEXT_BYTES];
    const char *scheme = is_of_datagrams ? "udp" : "tcp";
    struct url_address copy = *address;
    const uint16_t *port = url_port_of(&copy);
    if (is_of_datagrams)
        url_format_datagrams(address, url);
    else
        url_format_address(address, url);
    bool is_answered = ask(url, answer, deadline_ms);
    if (port == NULL || is_answered)
        return is_answered;
    snprintf(url, sizeof url, "%s://0.0.0.0:%u", scheme, ntohs(*port));
    if (ask(url, answer, deadline_ms))
        return true;
    snprintf(url, sizeof url, "%s://[::]:%u", scheme, ntohs(*port));
    return ask(url, answer, deadline_ms);
}

/* Nobody accepts there, so who serves it must say so. */
static bool ask_about_datagrams(const struct url_addresses *addresses, char answer[16], int64_t deadline_ms)
{
    for (unsigned i = 0; i < addresses->count; i++) {
        if (ask_about(&addresses->at[i], true, answer, deadline_ms))
            return true;
    }
    return false;
}

/* Returns 0 or a negative errno. address: who accepted, as it calls itself. */
static int find_who_accepts(const struct url_addresses *addresses, int64_t deadline_ms,
                            struct url_address *address)
{
    int rc = -EHOSTUNREACH;
    for (unsigned i = 0; i < addresses->count; i++) {
        int fd = connect_to(&addresses->at[i], deadline_ms);
        if (fd < 0) {
            rc = fd;
            continue;
        }
        *address = addresses->at[i];
        if (address->any.sa_family != AF_UNIX) {
            address->size = sizeof *address - offsetof(struct url_address, any);
            getpeername(fd, &address->any, &address->size);
        }
        close(fd);
        return 0;
    }
    return rc;
}

bool health_check(const char *text, char why[HEALTH_WHY_BYTES])
{
    struct url url;
    struct url_addresses addresses;
    struct url_address address;
    char what[URL_WHY_BYTES], answer[16] = "";
    int64_t deadline_ms = clock_ms() + PATIENCE_S * 1000;
    if (url_parse(text, &url, what) < 0 || url_resolve(&url, &addresses, what) < 0) {
        snprintf(why, HEALTH_WHY_BYTES, "%s", what);
        return false;
    }
    bool is_of_datagrams = url_is_of_datagrams(&url);
    int rc = is_of_datagrams ? 0 : find_who_accepts(&addresses, deadline_ms, &address);
    if (rc < 0) {
        snprintf(why, HEALTH_WHY_BYTES, "not ready: connect: %s", strerror(-rc));
        return false;
    }
    bool is_answered = is_of_datagrams ? ask_about_datagrams(&addresses, answer, deadline_ms)
                                       : ask_about(&address, false, answer, deadline_ms);
    if (!is_answered && is_of_datagrams) {
        snprintf(why, HEALTH_WHY_BYTES, "not ready: no server of rondo is there");
        return false;
    }
    bool is_ready = !is_answered || strcmp(answer, "ready") == 0;
    if (!is_ready)
        snprintf(why, HEALTH_WHY_BYTES, "not ready: it says %s",
                 *answer != '\0' ? answer : "nothing, in 3 seconds");
    return is_ready;
}
