/* Transports of pipes, from inside: they are streams of one direction, so nearly all of them is in transport.c, receive.c and
 * send.c. */
#ifndef RONDO_NET_PIPE_H
#define RONDO_NET_PIPE_H

#include <rondo/pipe.h>

#include "net/transport.h"

/* Begin one whose descriptor is set not to block, and is the transport's from here on, as for transport_open.
 *
 *   kind   READ_PIPE or WRITE_PIPE */
rondo_transport *pipe_open(struct service *service, enum transport_kind kind, int fd,
                           const rondo_protocol *protocol, struct transport_owner *owner);

#endif
