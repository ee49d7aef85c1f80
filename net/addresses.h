/* The listening sockets of an app: opened by the control thread before any shard starts, so that whatever is wrong
 * with an address is said at once and nothing has been served. */
#ifndef RONDO_NET_ADDRESSES_H
#define RONDO_NET_ADDRESSES_H

#include "net/service.h"

/* Open `shards` sockets for each address of each of the app's servers.
 * Returns 0 with settings->addresses and address_count; or a negative errno, with the reason in the log. */
int addresses_open(struct service_settings *settings, unsigned shards, unsigned backlog);

/* Close the sockets that no shard has taken, and free. */
void addresses_close(struct service_settings *settings, unsigned shards);

#endif
