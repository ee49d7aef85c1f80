/* Groups of receivers: what a socket for UDP is told about them. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>

#include "net/datagram.h"

/* Of a socket for UDP: AF_INET or AF_INET6; else -ENOTSUP. */
static int family_of(const rondo_transport *t)
{
    int family = AF_UNSPEC;
    assert(loop_is_here(t->loop));
    if (t->kind != DATAGRAMS || t->is_unix || transport_is_ending(t))
        return -ENOTSUP;
    getsockopt(t->fd, SOL_SOCKET, SO_DOMAIN, &family, &(socklen_t){ sizeof family });
    return family;
}

static int set(const rondo_transport *t, int level, int option, const void *value, socklen_t size)
{
    return setsockopt(t->fd, level, option, value, size) < 0 ? -errno : 0;
}

/* 0: as the routes lead. */
static int index_of(const char *interface)
{
    int index = interface == NULL ? 0 : (int)if_nametoindex(interface);
    return interface != NULL && index == 0 ? -ENODEV : index;
}

static int change_group(rondo_transport *t, const char *group, const char *interface, bool joins)
{
    int family = family_of(t), index = index_of(interface);
    if (family < 0 || index < 0)
        return family < 0 ? family : index;
    if (family == AF_INET6) {
        struct ipv6_mreq request = { .ipv6mr_interface = (unsigned)index };
        if (inet_pton(AF_INET6, group, &request.ipv6mr_multiaddr) != 1 ||
            !IN6_IS_ADDR_MULTICAST(&request.ipv6mr_multiaddr))
            return -EINVAL;
        return set(t, IPPROTO_IPV6, joins ? IPV6_JOIN_GROUP : IPV6_LEAVE_GROUP, &request, sizeof request);
    }
    struct ip_mreqn request = { .imr_ifindex = index };
    if (inet_pton(AF_INET, group, &request.imr_multiaddr) != 1 ||
        !IN_MULTICAST(ntohl(request.imr_multiaddr.s_addr)))
        return -EINVAL;
    return set(t, IPPROTO_IP, joins ? IP_ADD_MEMBERSHIP : IP_DROP_MEMBERSHIP, &request, sizeof request);
}

int rondo_join_group(rondo_transport *t, const char *group, const char *interface)
{
    return change_group(t, group, interface, true);
}

int rondo_leave_group(rondo_transport *t, const char *group, const char *interface)
{
    return change_group(t, group, interface, false);
}

int rondo_set_outgoing_interface(rondo_transport *t, const char *interface)
{
    int family = family_of(t), index = index_of(interface);
    if (family < 0 || index < 0)
        return family < 0 ? family : index;
    if (family == AF_INET6)
        return set(t, IPPROTO_IPV6, IPV6_MULTICAST_IF, &index, sizeof index);
    struct ip_mreqn request = { .imr_ifindex = index };
    return set(t, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request);
}

static int set_number(rondo_transport *t, int option, int option6, int value)
{
    int family = family_of(t);
    if (family < 0)
        return family;
    return family == AF_INET6 ? set(t, IPPROTO_IPV6, option6, &value, sizeof value)
                              : set(t, IPPROTO_IP, option, &value, sizeof value);
}

int rondo_set_ttl(rondo_transport *t, int ttl)
{
    if (ttl < 0 || ttl > 255)
        return -EINVAL; /* -1 would be the default */
    return set_number(t, IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS, ttl);
}

int rondo_set_loopback_mode(rondo_transport *t, bool comes_back)
{
    return set_number(t, IP_MULTICAST_LOOP, IPV6_MULTICAST_LOOP, comes_back);
}
