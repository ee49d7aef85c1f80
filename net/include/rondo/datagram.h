/* Datagrams: UDP, and Unix sockets for datagrams.    asyncio: create_datagram_endpoint, DatagramTransport, DatagramProtocol
 *
 *   static void datagram_received(rondo_transport *t, rondo_bytes data, rondo_address address)
 *   {
 *       rondo_sendto(t, data, address);
 *   }
 *
 *   static void error_received(rondo_transport *t, int error)
 *   {
 *       (void)t;
 *       rondo_log(RONDO_LOG_WARNING, "echo: error %d", error);
 *   }
 *
 *   static const rondo_protocol echo = {
 *       .name = "echo",
 *       .datagram_received = datagram_received,
 *       .error_received = error_received,
 *   };
 *
 *   int main(int argc, char **argv)
 *   {
 *       return rondo_main(argc, argv, &echo, "udp://127.0.0.1:7777");
 *   }
 *
 * Each shard has a socket of its own at the port, and the kernel sends all datagrams of one peer to the same one. (A
 * unixgram:// address, which can't be shared so, is served by the first shard.) The transport is one for all peers: it has
 * one protocol, with one state.
 *
 * Thread: the loop of the transport's shard, for every call here (asserted). */
#ifndef RONDO_DATAGRAM_H
#define RONDO_DATAGRAM_H

#include <stdbool.h>

#include <rondo/address.h>
#include <rondo/bytes.h>
#include <rondo/loop.h>
#include <rondo/protocol.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* The life of an endpoint:
 *
 *   start -> connection_made
 *              [-> datagram_received | -> error_received]*
 *         -> connection_lost -> end
 *
 * There is no end of file, and an error is no end either: what the network said about one datagram is told, and the
 * endpoint lives on. Of <rondo/transport.h> all is for it, too, but what is about a stream of bytes: rondo_write,
 * rondo_write_eof, rondo_sendfile and their like do nothing there, and say so in the log. */

/* Where, and for whom; zero means the default, for each member. Nothing of it is needed after the call, but the protocol's
 * table. */
typedef struct rondo_datagram_options {
    const rondo_protocol *protocol; /* with a datagram_received, or one that only sends */

    /* "udp://127.0.0.1:7777", "udp://[::]:0", "unixgram:///run/log.sock?mode=0660", "unixgram://@name": bind to it. NULL: the
     * kernel chooses a port when the first datagram leaves. A file is removed at the end.    asyncio: local_addr */
    const char *local_url;

    /* Connect: rondo_sendto needs no address, only this peer's datagrams arrive, and that its host refuses them is told
     * (error_received: -ECONNREFUSED).    asyncio: remote_addr */
    const char *remote_url;

    /* Let other sockets bind the same UDP address, too: those of other shards, of other processes. */
    bool reuse_port;

    /* Addresses that mean all hosts of a net may be sent to. As in asyncio, a remote_url is then only where rondo_sendto
     * goes without an address: who answers has another one. */
    bool allow_broadcast;
} rondo_datagram_options;

/* Open an endpoint on this shard.    asyncio: create_datagram_endpoint; Twisted: listenUDP
 *
 *   t   set on success, may be NULL. connection_made comes from the loop
 *
 * It does not block: a host is an address, or "localhost", not a name to be looked up. A server's endpoints are rather made
 * by rondo_app.servers[], or rondo_create_server, with an udp:// URL: one on each shard.
 *
 * Returns 0; -EINVAL: a wrong URL, a name, no protocol, neither URL; -EADDRINUSE, -EADDRNOTAVAIL, -EACCES, …: what the
 * system said; -ENOMEM; each with a line in the log; -ESHUTDOWN: the shard is draining; -ENOTSUP: in a test of
 * <rondo/testing.h>. */
int rondo_create_datagram_endpoint(rondo_loop *loop, const rondo_datagram_options *options,
                                   rondo_transport **t);

/* Send a datagram; those of one turn leave together.    asyncio: sendto; Twisted: write
 *
 *   data      0 to 65507 bytes (of a Unix socket: as many as its buffer takes). A datagram just lent to datagram_received
 *             is sent from where it is, other bytes are copied: in both cases yours again when this returns
 *   address   of the same family as the socket; likewise yours again. Without a name: the remote_url's, which is also the
 *             only one that a connected endpoint takes (another is refused with a line in the log; asyncio raises)
 *
 * What goes wrong is told by error_received: -EMSGSIZE: too long; -EDESTADDRREQ: no address; -EACCES: a broadcast that wasn't
 * allowed; -ENETUNREACH; -ENOENT, -ECONNREFUSED: nobody is bound there. After rondo_close or rondo_abort it does nothing.
 * A datagram counts for the water marks with its size and 8 bytes; may call pause_writing. Without pause_writing in the
 * table, receiving pauses meanwhile. Its type is that of datagram_received: an echo is { .datagram_received = rondo_sendto }. */
void rondo_sendto(rondo_transport *t, rondo_bytes data, rondo_address address);

/* ---- multicast -------------------------------------------------------------------------------------------- */

/* Receive what is sent to a group, or not any more.    Twisted: joinGroup, leaveGroup
 *
 *   group       "239.1.2.3", of an endpoint of IPv6 "ff02::1:2"
 *   interface   "eth0": on this one; NULL: where the system's routes lead
 *
 * The endpoint is bound to the group's port, and 0.0.0.0 or [::]. Of several sockets at that port (shards; reuse_port) each
 * that has joined gets every datagram.
 * Returns 0; -EINVAL: that is no group of this family; -ENODEV: there is no such interface; -EADDRINUSE: joined already;
 * -EADDRNOTAVAIL: it wasn't joined; -ENOTSUP: not UDP. */
int rondo_join_group(rondo_transport *t, const char *group, const char *interface);
int rondo_leave_group(rondo_transport *t, const char *group, const char *interface);

/* Of datagrams to groups: by which interface they leave; how many routers they may pass (default 1: none beyond this net);
 * whether they come back to this host (default: yes).    Twisted: setOutgoingInterface, setTTL, setLoopbackMode
 * Return 0, -ENODEV, -EINVAL: not 0 to 255; -ENOTSUP: not UDP. */
int rondo_set_outgoing_interface(rondo_transport *t, const char *interface);
int rondo_set_ttl(rondo_transport *t, int ttl);
int rondo_set_loopback_mode(rondo_transport *t, bool comes_back);

/* ---- addresses -------------------------------------------------------------------------------------------- */

/* The longest text of an address, with its NUL. */
#define RONDO_ADDRESS_TEXT_BYTES 340

/* The address of a URL ("udp://127.0.0.1:7777", "udp://localhost:7", "unixgram:///run/log.sock").
 *
 *   storage   holds it, as long as you need it
 *
 * Returns 0, or -EINVAL: no URL of this kind, or a name that would have to be looked up; a line in the log says which.
 * Thread: any. */
int rondo_parse_address(const char *url, struct sockaddr_storage *storage, rondo_address *address);

/* And back: "udp://127.0.0.1:7777"; of no address "". Thread: any. */
void rondo_format_address(rondo_address address, char text[RONDO_ADDRESS_TEXT_BYTES]);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
