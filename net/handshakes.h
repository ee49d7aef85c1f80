/* Connections that a listening socket has not made yet: a client has begun a handshake; or ended it, and accepting is
 * deferred until it talks (TCP_DEFER_ACCEPT). When the socket is closed, such a client is not told. */
#ifndef RONDO_NET_HANDSHAKES_H
#define RONDO_NET_HANDSHAKES_H

#include <stdbool.h>

/* Is there any, at the address of this TCP socket? Also true when that can't be found out. It reads the kernel's table of
 * all connections, so it takes milliseconds where there are many: for a server's end. */
bool handshakes_are_under_way(int fd);

#endif
