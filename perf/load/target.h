/* Where the load goes: a server's address, and the addresses it comes from. */
#ifndef LOAD_TARGET_H
#define LOAD_TARGET_H

#include <stdbool.h>
#include <sys/socket.h>

struct target {
    struct sockaddr_storage address;
    socklen_t address_size;
    bool many_sources; /* IPv4 loopback, where each 127.x.y.z is ours: ports for each of them */
};

/* url: tcp://host:port, an IPv6 address in brackets; unix:///path or unix://@name, where %20 is a space.
 * Returns 0, or prints why not and returns -1. */
int target_resolve(struct target *target, const char *url);

bool target_is_unix(const struct target *target);

/* A socket for connection `number`, bound to one of `sources` addresses when the target has many.
 * Returns a negative errno. */
int target_socket(const struct target *target, unsigned number, unsigned sources);

/* Connect over a Unix socket, where that never takes time: it is done, refused, or the server's backlog is full,
 * which is -EAGAIN, and worth another attempt later. (In a ring it would then block a thread of the kernel's.) */
int target_connect_unix(const struct target *target, int fd);

#endif
