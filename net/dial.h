/* From a URL to one connected socket: look-up, attempts at each address (happy eyeballs, RFC 8305), deadline.
 * The life of a dial is told at the top of net/dial.c. */
#ifndef RONDO_NET_DIAL_H
#define RONDO_NET_DIAL_H

#include <stdbool.h>
#include <stdint.h>

#include "core/loop.h"
#include "net/resolver.h"
#include "net/url.h"

#define DIAL_WHY_BYTES 2048 /* a URL, and for each address what went wrong there */

/* Where to, and how; lives until done() or dial_cancel. */
struct dial_target {
    const char *text; /* the URL as it was written, for messages */
    struct url url;
    bool has_local;
    struct url local; /* bind to this first */
    uint64_t timeout_ms;
    uint64_t happy_eyeballs_delay_ms;
};

enum dial_state { DIAL_NEW, DIAL_RESOLVING_LOCAL, DIAL_RESOLVING, DIAL_CONNECTING, DIAL_ENDING };

/* One address that is tried. */
struct attempt {
    struct dial *dial;
    struct op connect;
    const struct url_address *address; /* in the lookup */
    int fd;                            /* -1: none */
    int error;                         /* why it failed; 0: not yet */
    bool skipped;                      /* there is no local address of its family */
    bool at_bind;                      /* the error is bind's */
};

struct dial {
    rondo_loop *loop;
    const struct dial_target *target;
    enum dial_state state;
    struct lookup lookup;
    struct url_addresses local; /* to bind to; count 0: none */
    struct attempt attempts[URL_ADDRESSES_MAX];
    unsigned count, started, under_way; /* attempts */
    rondo_timer delay;                  /* until the next attempt */
    rondo_timer deadline;

    /* The outcome, once, from the loop, not after dial_cancel; the dial is no longer the caller's.
     *
     *   result   a connected socket, the caller's; or a negative errno, with one line in `why`
     *   family   of the socket */
    void (*done)(struct dial *dial, int result, int family, const char *why);
    void *owner; /* the caller's own */
};

/* A dial that has not begun; a user of the loop until its last operation is out of the kernel. NULL: no memory. */
struct dial *dial_new(rondo_loop *loop, const struct dial_target *target);

/* Begin. May call done(). */
void dial_begin(struct dial *dial);

/* The socket is no longer wanted. The dial is no longer the caller's. */
void dial_cancel(struct dial *dial);

#endif
