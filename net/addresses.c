#include "net/addresses.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/memory.h"
#include "net/url.h"

/* A process that was killed gives its ports back a few milliseconds after its end: its ring is taken apart in the
 * background. Whoever starts it again at once should not be told that the port is taken. */
#define IN_USE_TRIES   25
#define IN_USE_WAIT_MS 10

static int set(int fd, int level, int option)
{
    int on = 1;
    return setsockopt(fd, level, option, &on, sizeof on) < 0 ? -errno : 0;
}

static int bind_to(int fd, const struct url_address *address)
{
    return bind(fd, &address->any, address->size) < 0 ? -errno : 0;
}

static int new_socket(const struct url_address *address)
{
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int rc = set(fd, SOL_SOCKET, SO_REUSEADDR);
    if (rc == 0 && address->any.sa_family == AF_INET6)
        rc = set(fd, IPPROTO_IPV6, IPV6_V6ONLY); /* [::] and 0.0.0.0 can be served side by side */
    if (rc < 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

/* With SO_REUSEPORT a second server of the same user would silently share the port with the first. So ask, without it,
 * whether the port is free. */
static int check_port_is_free(const struct url_address *address)
{
    int rc = 0;
    for (int tries = 0; tries < IN_USE_TRIES; tries++) {
        int fd = new_socket(address);
        if (fd < 0)
            return fd;
        rc = bind_to(fd, address);
        close(fd);
        if (rc != -EADDRINUSE)
            return rc;
        nanosleep(&(struct timespec){ .tv_nsec = IN_USE_WAIT_MS * 1000 * 1000 }, NULL);
    }
    return rc;
}

/* Accepted sockets inherit TCP_NODELAY: writes are gathered by the transport, Nagle's delay would only add to it. */
static int listening_socket(const struct url_address *address, unsigned backlog)
{
    int fd = new_socket(address);
    if (fd < 0)
        return fd;
    int rc = set(fd, SOL_SOCKET, SO_REUSEPORT);
    if (rc == 0)
        rc = set(fd, IPPROTO_TCP, TCP_NODELAY);
    if (rc == 0)
        rc = bind_to(fd, address);
    if (rc == 0 && listen(fd, (int)backlog) < 0)
        rc = -errno;
    if (rc < 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

static uint16_t *port_of(struct url_address *address)
{
    return address->any.sa_family == AF_INET6 ? &address->v6.sin6_port : &address->v4.sin_port;
}

/* `where` with port 0 gets the port that the first socket was given. */
static int open_address(struct address *address, struct url_address *where, unsigned shards, unsigned backlog)
{
    int rc = *port_of(where) != 0 ? check_port_is_free(where) : 0;
    for (unsigned i = 0; i < shards && rc >= 0; i++) {
        rc = listening_socket(where, backlog);
        if (rc < 0)
            break;
        address->fds[i] = rc;
        if (*port_of(where) == 0 &&
            getsockname(address->fds[i], &where->any, &(socklen_t){ where->size }) < 0)
            rc = -errno;
    }
    if (rc < 0)
        return rc;
    url_format(&where->any, address->url);
    return 0;
}

static const char *hint(int error)
{
    switch (-error) {
    case EADDRINUSE:
        return "something listens there already: stop it, or take another port";
    case EADDRNOTAVAIL:
        return "this machine doesn't have that address: take 0.0.0.0 or [::] for all it has";
    case EACCES:
        return "ports below 1024 need root or CAP_NET_BIND_SERVICE: take a higher one";
    case EMFILE:
        return "raise the limit of descriptors (ulimit -n), or take fewer --shards";
    case EAFNOSUPPORT:
        return "IPv6 is switched off here: take an IPv4 address";
    default:
        return "see bind(2)";
    }
}

static struct address *add_address(struct service_settings *settings, unsigned shards)
{
    struct address *grown =
        memory_resize(settings->addresses, (settings->address_count + 1) * sizeof *settings->addresses);
    if (grown == NULL)
        return NULL;
    settings->addresses = grown;
    struct address *address = &grown[settings->address_count];
    *address = (struct address){ .fds = memory_alloc(shards * sizeof *address->fds) };
    if (address->fds == NULL)
        return NULL;
    for (unsigned i = 0; i < shards; i++)
        address->fds[i] = -1;
    settings->address_count++;
    return address;
}

static int open_server(struct service_settings *settings, const rondo_server *server, unsigned shards,
                       unsigned backlog)
{
    struct url url;
    struct url_addresses where;
    char why[URL_WHY_BYTES];
    int rc = url_parse(server->url, &url, why);
    if (rc == 0)
        rc = url_resolve(&url, &where, why);
    if (rc < 0) {
        rondo_log(RONDO_LOG_ERROR, "can't listen on %s: %s", server->url, why);
        return rc;
    }
    for (unsigned i = 0; i < where.count && rc == 0; i++) {
        struct address *address = add_address(settings, shards);
        if (address == NULL)
            rc = -ENOMEM;
        else
            rc = open_address(address, &where.at[i], shards, backlog);
        if (rc == 0)
            address->protocol = server->protocol != NULL ? server->protocol : settings->app->protocol;
    }
    if (rc < 0)
        rondo_log(RONDO_LOG_ERROR, "can't listen on %s: %s: %s", server->url, strerror(-rc), hint(rc));
    return rc;
}

int addresses_open(struct service_settings *settings, unsigned shards, unsigned backlog)
{
    int rc = 0;
    for (unsigned i = 0; i < RONDO_SERVERS_MAX && settings->app->servers[i].url != NULL && rc == 0; i++)
        rc = open_server(settings, &settings->app->servers[i], shards, backlog);
    if (rc < 0)
        addresses_close(settings, shards);
    return rc;
}

void addresses_close(struct service_settings *settings, unsigned shards)
{
    for (unsigned i = 0; i < settings->address_count; i++) {
        for (unsigned shard = 0; shard < shards; shard++) {
            if (settings->addresses[i].fds[shard] >= 0)
                close(settings->addresses[i].fds[shard]);
        }
        memory_free(settings->addresses[i].fds);
    }
    memory_free(settings->addresses);
    settings->addresses = NULL;
    settings->address_count = 0;
}
