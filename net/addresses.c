#include "net/addresses.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <rondo/log.h>

#include "core/memory.h"

/* A process that was killed gives its ports back a few milliseconds after its end: its ring is taken apart in the
 * background. Whoever starts it again at once should not be told that the port is taken. */
#define IN_USE_TRIES   25
#define IN_USE_WAIT_MS 10

/* ---- where ---------------------------------------------------------------------------------------------- */

struct place {
    const char *text; /* as it was given */
    struct url_address where;
    int mode;
    int fd;               /* to be adopted; -1: none */
    bool is_of_datagrams; /* udp, unixgram */
};

struct places {
    struct place at[URL_ADDRESSES_MAX];
    unsigned count;
};

/* Returns 0, also when it is there already; or -E2BIG. */
static int add_place(struct places *places, const struct place *place)
{
    struct url_addresses before = { 0 };
    for (unsigned i = 0; place->fd < 0 && i < places->count; i++) {
        if (places->at[i].fd < 0 && places->at[i].is_of_datagrams == place->is_of_datagrams)
            url_addresses_put(&before, &places->at[i].where);
    }
    unsigned count = before.count;
    if (place->fd < 0 && url_addresses_put(&before, &place->where) == 0 && before.count == count)
        return 0;
    if (places->count == URL_ADDRESSES_MAX)
        return -E2BIG;
    places->at[places->count++] = *place;
    return 0;
}

static int resolve(struct places *places, const struct url *url, const char *text, bool may_wait,
                   char why[URL_WHY_BYTES])
{
    struct url_addresses found;
    int rc = may_wait ? url_resolve(url, &found, why) : url_resolve_now(url, &found, why);
    for (unsigned i = 0; i < found.count && rc == 0; i++) {
        rc = add_place(places, &(struct place){ text, found.at[i], url->mode, -1, url_is_of_datagrams(url) });
        if (rc < 0)
            snprintf(why, URL_WHY_BYTES, "a server has at most %d addresses", URL_ADDRESSES_MAX);
    }
    return rc;
}

static int find_places_of(struct places *places, const char *text, bool may_wait)
{
    struct url url;
    char why[URL_WHY_BYTES];
    int rc = url_parse(text, &url, why);
    if (rc == 0 && url.scheme != URL_FD)
        rc = resolve(places, &url, text, may_wait, why);
    else if (rc == 0)
        rc = add_place(places, &(struct place){ .text = text, .fd = url.fd });
    if (rc < 0)
        rondo_log(RONDO_LOG_ERROR, "can't listen on %s: %s", text, why);
    return rc;
}

static int find_places(struct places *places, const rondo_server_options *server, bool may_wait)
{
    int rc = find_places_of(places, server->url, may_wait);
    for (const char *const *more = server->more_urls; rc == 0 && more != NULL && *more != NULL; more++)
        rc = find_places_of(places, *more, may_wait);
    return rc;
}

/* ---- what went wrong ------------------------------------------------------------------------------------ */

static const char *hint(int error)
{
    switch (-error) {
    case EADDRINUSE:
        return "something listens there already: stop it, or take another address";
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

static int complain(const char *text, int error, const char *what_to_do)
{
    rondo_log(RONDO_LOG_ERROR, "can't listen on %s: %s: %s", text, strerror(-error), what_to_do);
    return error;
}

/* IPv6 is switched off; or a name, such as localhost, has more addresses than this machine. */
static bool is_not_here(int error)
{
    return error == -EADDRNOTAVAIL || error == -EAFNOSUPPORT;
}

/* ---- TCP and UDP ------------------------------------------------------------------------------------------- */

static int set(int fd, int level, int option)
{
    int on = 1;
    return setsockopt(fd, level, option, &on, sizeof on) < 0 ? -errno : 0;
}

static int bind_to(int fd, const struct url_address *address)
{
    return bind(fd, &address->any, address->size) < 0 ? -errno : 0;
}

/* SO_REUSEADDR lets TCP take a port of whose connections some are left, but of UDP one that somebody else has. */
static int new_socket(const struct url_address *address, int type)
{
    int fd = socket(address->any.sa_family, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int rc = type == SOCK_STREAM ? set(fd, SOL_SOCKET, SO_REUSEADDR) : 0;
    if (rc == 0 && address->any.sa_family == AF_INET6)
        rc = set(fd, IPPROTO_IPV6, IPV6_V6ONLY); /* [::] and 0.0.0.0 can be served side by side */
    if (rc < 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

static void wait_a_moment(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = IN_USE_WAIT_MS * 1000 * 1000 }, NULL);
}

/* With SO_REUSEPORT a second server of the same user would silently share the port with the first. So ask, without it,
 * whether the port is free. */
static int check_port_is_free(const struct url_address *address, int type, bool may_wait)
{
    int rc = 0;
    for (int tries = may_wait ? IN_USE_TRIES : 1; tries > 0; tries--) {
        int fd = new_socket(address, type);
        if (fd < 0)
            return fd;
        rc = bind_to(fd, address);
        close(fd);
        if (rc != -EADDRINUSE || tries == 1)
            return rc;
        wait_a_moment();
    }
    return rc;
}

/* Accepted sockets inherit TCP_NODELAY: writes are gathered by the transport, Nagle's delay would only add to it. */
static int bound_socket(const struct url_address *address, int type, bool shares_port)
{
    int fd = new_socket(address, type);
    if (fd < 0)
        return fd;
    int rc = shares_port ? set(fd, SOL_SOCKET, SO_REUSEPORT) : 0;
    if (rc == 0 && type == SOCK_STREAM)
        rc = set(fd, IPPROTO_TCP, TCP_NODELAY);
    if (rc == 0)
        rc = bind_to(fd, address);
    if (rc < 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

static void keep(struct address *address, unsigned shard, int fd)
{
    address->fds[shard] = fd;
    atomic_fetch_add(&address->open, 1);
}

/* Port 0: all take the port that the first socket was given. */
static int bind_all(struct address *address, struct url_address *where, const struct address_terms *terms)
{
    uint16_t *port = url_port_of(where);
    int type = address->kind == ADDRESS_UDP ? SOCK_DGRAM : SOCK_STREAM;
    int rc = *port != 0 && !terms->shares_port ? check_port_is_free(where, type, terms->may_wait) : 0;
    for (unsigned i = 0; i < terms->shards && rc == 0; i++) {
        int fd = bound_socket(where, type, terms->shares_port || terms->shards > 1);
        if (fd < 0)
            return fd;
        keep(address, i, fd);
        if (*port == 0 && getsockname(fd, &where->any, &(socklen_t){ where->size }) < 0)
            return -errno;
    }
    return rc;
}

static void write_url(struct address *address, const struct url_address *where)
{
    if (address_is_of_datagrams(address))
        url_format_datagrams(where, address->url);
    else
        url_format_address(where, address->url);
}

static int open_port(struct address *address, const struct place *place, const struct address_terms *terms)
{
    struct url_address where = place->where;
    int rc = bind_all(address, &where, terms);
    if (rc == 0)
        write_url(address, &where);
    return rc == 0 || is_not_here(rc) ? rc : complain(place->text, rc, hint(rc));
}

/* ---- one socket for all --------------------------------------------------------------------------------- */

static int duplicate(struct address *address, int fd, unsigned from, unsigned shards)
{
    for (unsigned i = from; i < shards; i++) {
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0)
            return -errno;
        keep(address, i, copy);
    }
    return 0;
}

static const char *unix_hint(int error)
{
    switch (-error) {
    case ENOENT:
    case ENOTDIR:
        return "its folder is not there: make it, or take another path";
    case EACCES:
    case EPERM:
    case EROFS:
        return "its folder can't be written to: take another path, or change the folder's owner";
    default:
        return hint(error);
    }
}

/* As with ports, a killed process may listen a few milliseconds longer than it lives. A live one is asked just once, since
 * to it that is a connection. */
static int bind_unix(struct address *address, const struct place *place, bool may_wait,
                     char why[UNIX_PATH_WHY_BYTES])
{
    bool is_abstract = place->where.local.sun_path[0] == '\0';
    int rc = 0;
    for (int tries = may_wait ? IN_USE_TRIES : 1; tries > 0; tries--) {
        rc = unix_path_bind(&address->path, address->fds[0], &place->where, place->mode, why);
        if (rc != -EBUSY && !(is_abstract && rc == -EADDRINUSE))
            return rc;
        if (tries > 1)
            wait_a_moment();
    }
    return rc == -EBUSY ? -EADDRINUSE : rc;
}

static int open_unix(struct address *address, const struct place *place, const struct address_terms *terms)
{
    char why[UNIX_PATH_WHY_BYTES] = "";
    bool is_stream = address->kind == ADDRESS_UNIX;
    int fd = socket(AF_UNIX, (is_stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);
    int rc = fd < 0 ? -errno : 0;
    if (rc == 0) {
        keep(address, 0, fd);
        rc = bind_unix(address, place, terms->may_wait, why);
    }
    if (rc == 0 && is_stream)
        rc = duplicate(address, fd, 1, terms->shards);
    if (rc < 0)
        return complain(place->text, rc, *why != '\0' ? why : unix_hint(rc));
    write_url(address, &place->where);
    return 0;
}

static int ask(int fd, int option)
{
    int value = 0;
    return getsockopt(fd, SOL_SOCKET, option, &value, &(socklen_t){ sizeof value }) < 0 ? -errno : value;
}

/* The descriptor itself stays open, for whoever comes next: it is the process's. */
static int adopt(struct address *address, const struct place *place, const struct address_terms *terms)
{
    struct url_address where = { .size = sizeof where - offsetof(struct url_address, any) };
    int type = ask(place->fd, SO_TYPE);
    if (type < 0)
        return complain(place->text, type,
                        type == -EBADF ? "no descriptor of that number was given to this process"
                                       : "that descriptor is something else");
    if (type != SOCK_STREAM || ask(place->fd, SO_ACCEPTCONN) != 1)
        return complain(place->text, -EINVAL, "that socket does not listen for connections");
    address->family = ask(place->fd, SO_DOMAIN);
    if (address->family != AF_INET && address->family != AF_INET6 && address->family != AF_UNIX)
        return complain(place->text, -EAFNOSUPPORT, "that socket is neither TCP nor Unix");
    int rc = getsockname(place->fd, &where.any, &where.size) < 0 ? -errno : 0;
    address->has_waited = !(fcntl(place->fd, F_GETFL) & O_NONBLOCK);
    if (rc == 0)
        rc = duplicate(address, place->fd, 0, terms->shards);
    if (rc < 0)
        return complain(place->text, rc, hint(rc));
    url_format_address(&where, address->url);
    return 0;
}

/* ---- opening and closing -------------------------------------------------------------------------------- */

static int listen_all(const struct addresses *addresses, const struct address *address)
{
    int rc = 0;
    for (unsigned i = 0; i < addresses->shards && rc == 0; i++)
        rc = address_listen(address, address->fds[i], addresses->backlog);
    return rc;
}

static void close_left(struct addresses *addresses, struct address *address)
{
    for (unsigned i = 0; i < addresses->shards; i++) {
        if (address->fds[i] >= 0)
            address_close(address, address_take(address, i));
    }
    memory_free(address->fds);
    address->fds = NULL;
}

static int open_sockets(struct address *address, const struct place *place, const struct address_terms *terms)
{
    switch (address->kind) {
    case ADDRESS_ADOPTED:
        return adopt(address, place, terms);
    case ADDRESS_UNIX:
    case ADDRESS_UNIXGRAM:
        return open_unix(address, place, terms);
    case ADDRESS_TCP:
    case ADDRESS_UDP:
        break;
    }
    return open_port(address, place, terms);
}

static enum address_kind kind_of(const struct place *place)
{
    bool is_local = place->where.any.sa_family == AF_UNIX;
    if (place->fd >= 0)
        return ADDRESS_ADOPTED;
    if (place->is_of_datagrams)
        return is_local ? ADDRESS_UNIXGRAM : ADDRESS_UDP;
    return is_local ? ADDRESS_UNIX : ADDRESS_TCP;
}

/* Returns 0; or a negative errno, said in the log unless it is one of is_not_here, and the address is left out. */
static int open_place(struct addresses *addresses, const struct place *place, bool listens,
                      const struct address_terms *terms)
{
    struct address *address = &addresses->at[addresses->count];
    address->family = place->where.any.sa_family;
    address->kind = kind_of(place);
    address->is_shared =
        address->kind == ADDRESS_ADOPTED || (address->kind == ADDRESS_UNIX && terms->shards > 1);
    address->fds = memory_alloc(terms->shards * sizeof *address->fds);
    if (address->fds == NULL)
        return complain(place->text, -ENOMEM, "no memory");
    for (unsigned i = 0; i < terms->shards; i++)
        address->fds[i] = -1;
    int rc = open_sockets(address, place, terms);
    if (rc == 0 && listens && !address_is_of_datagrams(address)) {
        rc = listen_all(addresses, address);
        if (rc < 0)
            complain(place->text, rc, hint(rc));
    }
    if (rc == 0)
        addresses->count++;
    else
        close_left(addresses, address);
    return rc;
}

static void say_left_out(const struct place *place, int error)
{
    char url[URL_TEXT_BYTES];
    if (place->is_of_datagrams)
        url_format_datagrams(&place->where, url);
    else
        url_format_address(&place->where, url);
    rondo_log(RONDO_LOG_WARNING, "%s: not listened on: %s", url, strerror(-error));
}

static int open_places(struct addresses *addresses, const struct places *places, bool listens,
                       const struct address_terms *terms)
{
    int rc = 0;
    for (unsigned i = 0; i < places->count && rc == 0; i++) {
        const struct place *place = &places->at[i];
        rc = open_place(addresses, place, listens, terms);
        if (!is_not_here(rc) || place->fd >= 0)
            continue;
        if (addresses->count == 0 && i + 1 == places->count)
            return complain(place->text, rc, hint(rc));
        say_left_out(place, rc);
        rc = 0;
    }
    return rc;
}

int addresses_open(struct addresses *addresses, const rondo_server_options *server,
                   const struct address_terms *terms)
{
    struct places places = { .count = 0 };
    *addresses = (struct addresses){
        .shards = terms->shards,
        .backlog = server->backlog > 0 ? server->backlog : terms->backlog,
    };
    int rc = find_places(&places, server, terms->may_wait);
    if (rc < 0)
        return rc;
    addresses->at = memory_new(places.count * sizeof *addresses->at);
    if (addresses->at == NULL)
        return complain(server->url, -ENOMEM, "no memory");
    rc = open_places(addresses, &places, !server->start_later, terms);
    if (rc < 0)
        addresses_close(addresses);
    return rc;
}

void addresses_give(const struct addresses *addresses, uid_t user, gid_t group)
{
    for (unsigned i = 0; i < addresses->count; i++)
        unix_path_give(&addresses->at[i].path, user, group);
}

void addresses_close(struct addresses *addresses)
{
    for (unsigned i = 0; i < addresses->count; i++)
        close_left(addresses, &addresses->at[i]);
    memory_free(addresses->at);
    addresses->at = NULL;
    addresses->count = 0;
}

int address_take(struct address *address, unsigned shard)
{
    int fd = address->fds[shard];
    address->fds[shard] = -1;
    return fd;
}

int address_listen(const struct address *address, int fd, unsigned backlog)
{
    if (address->kind == ADDRESS_ADOPTED)
        return 0; /* it does, with the backlog of who made it */
    return listen(fd, (int)backlog) < 0 ? -errno : 0;
}

/* The file first: so that a server that follows can have it as soon as this one refuses. */
void address_make_deaf(struct address *address, int fd)
{
    assert(address->kind == ADDRESS_UNIX);
    atomic_store(&address->is_deaf, true);
    unix_path_remove(&address->path);
    shutdown(fd, SHUT_RD);
}

bool address_is_deaf(const struct address *address)
{
    return atomic_load(&address->is_deaf);
}

void address_shut(struct address *address, int fd)
{
    bool is_last = atomic_load(&address->open) == 1;
    if (address->kind == ADDRESS_ADOPTED || (address->kind == ADDRESS_UNIX && !is_last))
        return;
    unix_path_remove(&address->path);
    shutdown(fd, SHUT_RD);
}

/* What is set on it is set for all who have it, and an engine may set it not to wait. */
static void leave_as_it_was(const struct address *address, int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (address->has_waited && flags >= 0 && (flags & O_NONBLOCK))
        fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

void address_close(struct address *address, int fd)
{
    bool was_last = atomic_fetch_sub(&address->open, 1) == 1;
    if (was_last && address->kind == ADDRESS_ADOPTED)
        leave_as_it_was(address, fd);
    close(fd);
    if (was_last)
        unix_path_remove(&address->path);
}

void address_closed(struct address *address)
{
    if (atomic_fetch_sub(&address->open, 1) == 1)
        unix_path_remove(&address->path);
}
