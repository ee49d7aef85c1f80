/* The sockets of a server, which listen, or receive datagrams. Those of an app are opened by the control thread before any shard starts, so that
 * whatever is wrong with an address is said at once and nothing has been served; those of rondo_create_server by their
 * shard.
 *
 *             how the sockets of several shards are related     who else may have them
 *   TCP       each bound by itself, joined by SO_REUSEPORT      nobody
 *   UNIX      one, duplicated: a path can be bound only once    nobody
 *   ADOPTED   one, duplicated                                   whoever gave it to this process: nothing may be done to
 *                                                               it but to accept
 *   UDP       as TCP                                            nobody
 *   UNIXGRAM  one, the first shard's: what one peer sends is    nobody
 *             to stay in order */
#ifndef RONDO_NET_ADDRESSES_H
#define RONDO_NET_ADDRESSES_H

#include <stdatomic.h>
#include <stdbool.h>

#include <rondo/server.h>

#include "net/unix_path.h"
#include "net/url.h"

enum address_kind { ADDRESS_TCP, ADDRESS_UNIX, ADDRESS_ADOPTED, ADDRESS_UDP, ADDRESS_UNIXGRAM };

/* An address that is served. */
struct address {
    enum address_kind kind;
    int family;
    bool is_shared;  /* others may accept from the same queue */
    bool has_waited; /* ADDRESS_ADOPTED: its calls waited when we got it, and shall when we have done */
    char url[URL_TEXT_BYTES]; /* with the real port */
    struct unix_path path;    /* ADDRESS_UNIX, ADDRESS_UNIXGRAM */
    atomic_uint open;         /* its sockets that are not closed yet */
    atomic_bool is_deaf;      /* by address_make_deaf */
    int *fds;                 /* one for each shard; -1 once its shard has it */
};

/* Those of one server. */
struct addresses {
    struct address *at;
    unsigned count;
    unsigned shards;
    unsigned backlog;
};

struct address_terms {
    unsigned shards;  /* sockets of each address */
    unsigned backlog; /* of a server that doesn't say */
    bool may_wait;    /* look names up; wait a moment for a port to come free */
    bool shares_port; /* let others bind it, too */
};

/* Open the sockets for all addresses of `server`, and let them listen unless it says start_later. Addresses that this
 * machine doesn't have are left out, with a warning, as long as there is another.
 * Returns 0; or a negative errno, with the reason in the log, and then nothing is open. */
int addresses_open(struct addresses *addresses, const rondo_server_options *server,
                   const struct address_terms *terms);

/* Make this user and this group, -1 for as it is, the owners of its socket files. Who can't isn't root, and so can't become
 * that user either. */
void addresses_give(const struct addresses *addresses, uid_t user, gid_t group);

/* Close the sockets that no shard has taken, and free. */
void addresses_close(struct addresses *addresses);

static inline bool address_is_of_datagrams(const struct address *address)
{
    return address->kind == ADDRESS_UDP || address->kind == ADDRESS_UNIXGRAM;
}

/* The shard's socket, its caller's from now on; -1: another shard serves this address. */
int address_take(struct address *address, unsigned shard);

/* Let a socket listen. Returns 0 or a negative errno. */
int address_listen(const struct address *address, int fd, unsigned backlog);

/* All shards drain: from now on nobody connects any more to this ADDRESS_UNIX, whose queue stays. Idempotent. */
void address_make_deaf(struct address *address, int fd);
bool address_is_deaf(const struct address *address);

/* Close a socket. Nobody can connect from now on, and a socket file is gone, if this was the last one of them. */
void address_close(struct address *address, int fd);
/* Somebody else closes it. */
void address_closed(struct address *address);
/* The same ahead of the close, for a socket that an operation still uses. */
void address_shut(struct address *address, int fd);

#endif
