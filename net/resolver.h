/* From a name to its addresses, without blocking the shard: getaddrinfo, which asks /etc/hosts and name servers, is
 * called on a helper thread (core/executor.h). Addresses written as such, and those of Unix sockets, need nobody's
 * help. */
#ifndef RONDO_NET_RESOLVER_H
#define RONDO_NET_RESOLVER_H

#include "core/loop.h"
#include "net/url.h"

/* One question. It may be asked again when it is answered or cancelled. */
struct lookup {
    struct lookup_job *job; /* under way */

    /* The answer, as url_resolve gives it, but for connect(2); of a host with too many addresses the first ones. */
    struct url_addresses addresses;
    char why[URL_WHY_BYTES];

    /* From the loop; error 0, or a negative errno with a sentence in `why`. */
    void (*answered)(struct lookup *lookup, int error);
};

/* Find the addresses of a tcp or unix URL.
 *
 * Returns 0: there they are, in lookup->addresses; -EINPROGRESS: answered() will be called; another negative errno,
 * with a sentence in `why`. Thread: the loop's. */
int resolver_ask(struct lookup *lookup, rondo_loop *loop, const struct url *url,
                 void (*answered)(struct lookup *lookup, int error));

/* The answer is no longer wanted: answered() will not be called, and the lookup's memory is free. Does nothing when
 * none is under way. */
void resolver_cancel(struct lookup *lookup);

#endif
