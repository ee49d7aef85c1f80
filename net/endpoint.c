/* Endpoints of datagrams: from URLs to a socket that is bound, or connected, and to addresses in text. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rondo/log.h>

#include "net/datagram.h"
#include "net/url.h"

/* What an endpoint is made of, until it is made. */
struct plan {
    struct datagram_ends ends;
    int fd;
};

static const char *hint(int error)
{
    switch (-error) {
    case EMFILE:
        return "raise the limit of descriptors (ulimit -n)";
    case EACCES:
        return "for the address of all hosts of a net, allow_broadcast is needed";
    case ENETUNREACH:
        return "no route leads there";
    case ENOENT:
    case ECONNREFUSED:
        return "nobody is bound there";
    default:
        return "see connect(2)";
    }
}

static int complain(const char *url, int error, const char *what)
{
    rondo_log(RONDO_LOG_ERROR, "can't open an endpoint for %s: %s: %s", url, strerror(-error), what);
    return error;
}

static int refuse_url(const char *url, const char *why)
{
    rondo_log(RONDO_LOG_ERROR, "%s: %s", url, why);
    return -EINVAL;
}

static int parse(const char *text, struct url *url)
{
    char why[URL_WHY_BYTES];
    if (url_parse(text, url, why) < 0)
        return refuse_url(text, why);
    return url_is_of_datagrams(url)
               ? 0
               : refuse_url(text, "that is no address of datagrams: write udp:// or unixgram://");
}

static int resolve(const char *text, struct url_addresses *addresses)
{
    struct url url;
    char why[URL_WHY_BYTES];
    int rc = parse(text, &url);
    if (rc < 0)
        return rc;
    rc = url_resolve_now(&url, addresses, why);
    return rc < 0 ? refuse_url(text, why) : 0;
}

static int set(int fd, int option)
{
    int on = 1;
    return setsockopt(fd, SOL_SOCKET, option, &on, sizeof on) < 0 ? -errno : 0;
}

static int open_local(struct plan *plan, const rondo_datagram_options *options)
{
    struct url url;
    int rc = parse(options->local_url, &url);
    const struct address_terms terms = { .shards = 1, .shares_port = options->reuse_port };
    const rondo_server_options server = { .url = options->local_url };
    return rc < 0 ? rc : addresses_open(&plan->ends.local, &server, &terms);
}

/* Of the addresses that were found for both ends those that go together; what isn't taken is closed. */
static int choose_ends(struct plan *plan, const rondo_datagram_options *options,
                       const struct url_addresses *remotes)
{
    struct addresses *local = &plan->ends.local;
    for (unsigned i = 0; i < remotes->count; i++) {
        unsigned j = 0;
        while (j < local->count && local->at[j].family != remotes->at[i].any.sa_family)
            j++;
        if (j == local->count && local->count > 0)
            continue;
        plan->ends.remote = remotes->at[i];
        if (local->count > 0) {
            struct address first = local->at[0];
            local->at[0] = local->at[j];
            local->at[j] = first;
        }
        return 0;
    }
    return refuse_url(options->remote_url, "the local_url has no address of its family");
}

static int connect_to_remote(struct plan *plan, const rondo_datagram_options *options)
{
    if (options->allow_broadcast)
        return 0;
    plan->ends.is_connected = true;
    if (connect(plan->fd, &plan->ends.remote.any, plan->ends.remote.size) == 0)
        return 0;
    int error = -errno;
    return complain(options->remote_url, error, hint(error));
}

static int open_socket(struct plan *plan, const rondo_datagram_options *options)
{
    const char *url = options->local_url != NULL ? options->local_url : options->remote_url;
    plan->fd = plan->ends.local.count > 0
                   ? plan->ends.local.at[0].fds[0]
                   : socket(plan->ends.remote.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int rc = plan->fd < 0 ? -errno : 0;
    if (rc == 0 && options->allow_broadcast)
        rc = set(plan->fd, SO_BROADCAST);
    if (rc < 0)
        return complain(url, rc, hint(rc));
    return plan->ends.remote.size > 0 ? connect_to_remote(plan, options) : 0;
}

static int make_plan(struct plan *plan, const rondo_datagram_options *options)
{
    struct url_addresses remotes = { .count = 0 };
    int rc = options->remote_url != NULL ? resolve(options->remote_url, &remotes) : 0;
    if (rc == 0 && options->local_url != NULL)
        rc = open_local(plan, options);
    if (rc == 0 && options->remote_url != NULL)
        rc = choose_ends(plan, options, &remotes);
    return rc < 0 ? rc : open_socket(plan, options);
}

static void give_up(struct plan *plan)
{
    bool is_own = plan->ends.local.count == 0;
    if (is_own && plan->fd >= 0)
        close(plan->fd);
    addresses_close(&plan->ends.local);
}

static int check(const rondo_datagram_options *options)
{
    const char *missing = options->protocol == NULL ? "a protocol" : "a local_url or a remote_url";
    if (options->protocol != NULL && (options->local_url != NULL || options->remote_url != NULL))
        return 0;
    rondo_log(RONDO_LOG_ERROR, "can't open an endpoint for datagrams: the options need %s", missing);
    return -EINVAL;
}

static int open_endpoint(struct service *service, const rondo_datagram_options *options, struct plan *plan,
                         rondo_transport **made)
{
    int rc = make_plan(plan, options);
    if (rc < 0)
        return rc;
    struct transport_start start = {
        .protocol = options->protocol,
        .kind = DATAGRAMS,
        .fd = plan->fd,
        .family =
            plan->ends.local.count > 0 ? plan->ends.local.at[0].family : plan->ends.remote.any.sa_family,
        .later = true,
        .keeps_fd = true,
    };
    *made = datagrams_open(service, &start);
    return *made == NULL ? -ENOMEM : 0;
}

int rondo_create_datagram_endpoint(rondo_loop *loop, const rondo_datagram_options *options,
                                   rondo_transport **t)
{
    struct service *service = service_of(loop);
    struct plan plan = { .fd = -1 };
    rondo_transport *made;
    assert(loop_is_here(loop));
    int rc = check(options);
    if (rc < 0)
        return rc;
    if (service->draining)
        return -ESHUTDOWN;
    if (loop->engine->sockets != &system_sockets)
        return -ENOTSUP;
    rc = open_endpoint(service, options, &plan, &made);
    if (rc < 0) {
        give_up(&plan);
        return rc;
    }
    if (plan.ends.local.count > 0)
        address_take(&plan.ends.local.at[0], 0);
    datagrams_connect(made, &plan.ends);
    if (t != NULL)
        *t = made;
    return 0;
}

/* ---- addresses -------------------------------------------------------------------------------------------- */

int rondo_parse_address(const char *url, struct sockaddr_storage *storage, rondo_address *address)
{
    struct url_addresses found;
    int rc = resolve(url, &found);
    if (rc < 0)
        return rc;
    memcpy(storage, &found.at[0].any, found.at[0].size);
    *address = (rondo_address){ (const struct sockaddr *)storage, found.at[0].size };
    return 0;
}

void rondo_format_address(rondo_address address, char text[RONDO_ADDRESS_TEXT_BYTES])
{
    struct url_address from = { .size = address.size };
    _Static_assert(RONDO_ADDRESS_TEXT_BYTES >= URL_TEXT_BYTES, "the longest fits");
    *text = '\0';
    if (address.name == NULL || address.size < sizeof(sa_family_t) ||
        address.size > sizeof from - offsetof(struct url_address, any))
        return;
    memcpy(&from.any, address.name, address.size);
    url_format_datagrams(&from, text);
}
