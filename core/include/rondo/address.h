/* An address: whom a datagram comes from, and where it goes.    asyncio: the tuple addr
 *
 * It goes by value and owns nothing; each call that takes or gives one says how long the memory must live. */
#ifndef RONDO_ADDRESS_H
#define RONDO_ADDRESS_H

#include <sys/socket.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

typedef struct rondo_address {
    const struct sockaddr *name; /* NULL: none, of a socket that is connected, or was not bound */
    socklen_t size;              /* in bytes; what lies behind it isn't part of the name */
} rondo_address;

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
