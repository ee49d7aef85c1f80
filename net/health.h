/* Is the server ready?    Kubernetes: readiness; Docker: HEALTHCHECK
 *
 * Beside each address that is served there is a small Unix socket, whose abstract name is made of the address's URL. It
 * lives in the network namespace, as the address does, and needs neither a file nor a port. Who connects to it is told
 * "ready" or "draining", by the control thread, so shards have nothing to do with it.
 *
 * --healthcheck asks: first it connects to the address itself, then to that socket. So it learns that a server isn't ready
 * any more while the address still accepts (--drain-delay). */
#ifndef RONDO_NET_HEALTH_H
#define RONDO_NET_HEALTH_H

#include <stdbool.h>

#include "net/addresses.h"

#define HEALTH_WHY_BYTES 512

struct health {
    int epoll_fd; /* readable when somebody asks; -1: nobody can */
    int *fds;     /* a listening socket for each address */
    unsigned count;
};

/* Let the addresses of these servers be asked for. A name that somebody has, or a lack of descriptors, leaves an address
 * out, with a line at log level debug. */
void health_open(struct health *health, const struct addresses *servers, unsigned server_count);

void health_close(struct health *health);

/* Answer all that ask now. Never waits. */
void health_answer(const struct health *health, bool is_ready);

/* Ask, for a few seconds at most: is whoever serves this URL ready? A server that isn't rondo's is when it accepts.
 *
 *   why   when it isn't: a sentence
 *
 * Thread: any; it waits. */
bool health_check(const char *url, char why[HEALTH_WHY_BYTES]);

#endif
