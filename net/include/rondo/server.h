/* Servers: what listens, and who came in that way.    asyncio: Server, loop.create_server
 *
 * A server is one shard's: it listens on one or several addresses, and knows the connections that it has accepted.
 * Those of rondo_app.servers[] are there on every shard; others are made while a shard runs:
 *
 *   static int shard_start(rondo_loop *loop)
 *   {
 *       const rondo_server_options options = { .url = "unix:///run/admin.sock?mode=0600", .protocol = &admin };
 *       rondo_server *server;
 *       return rondo_shard_index(loop) == 0 ? rondo_create_server(loop, &options, &server) : 0;
 *   }
 *
 * Lifetime: a server lives until it is closed (by rondo_server_close, or by its shard, which closes all when it drains),
 * its last connection has got connection_lost, and the last call that waits for that has run; not before the end of
 * the callback in which that happens. Somebody who keeps a pointer waits with rondo_server_wait_closed, and forgets it
 * there.
 *
 * Thread: the loop of the server's shard, for every call here (asserted); from any callback. */
#ifndef RONDO_SERVER_H
#define RONDO_SERVER_H

#include <stdbool.h>
#include <stddef.h>

#include <rondo/loop.h>
#include <rondo/protocol.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

typedef struct rondo_server rondo_server;
struct sockaddr;

/* What is served, and where; zero means the default, for each member. Nothing of it is needed after the call, but the
 * protocol's table.
 *
 * Forms of a URL; in a path and in an abstract name %XX is the byte of that number (%3F is '?', %25 is '%'):
 *
 *   tcp://host:port          host: a name, 127.0.0.1, [::1] or [fe80::1%eth0]; 0.0.0.0 or [::]: all addresses, of IPv4
 *                            or of IPv6 only; port 0: any free one
 *   unix:///path?mode=0660   a socket file, by its absolute path of up to 107 bytes. One that nobody listens to is
 *                            replaced. mode: its permission bits, from its first moment on; without: 0777 less the
 *                            umask. When the server closes it is removed, if it is still the same file
 *   unix://@name             an abstract name, which is no file; no permissions guard it
 *   udp://host:port          datagrams, as tcp://: the protocol has a datagram_received, and what the server has on each shard
 *                            is an endpoint (<rondo/datagram.h>), not connections: there is no backlog, and no
 *                            build_protocol by peer. It ends with the server
 *   unixgram:///path, unixgram://@name    likewise, as unix://; the first shard's alone
 *   fd://3                   a listening socket, TCP or Unix, that the process was given (socket activation). It is
 *                            duplicated: that descriptor stays open and yours, the socket itself as it was, its backlog
 *                            included; its file is not removed */
typedef struct rondo_server_options {
    const char *url;
    const rondo_protocol
        *protocol; /* lives as long as the server; NULL: the app's, or those of build_protocol */
    const char *const
        *more_urls;   /* further addresses of the same server, ended by NULL; 16 in all, each once */
    unsigned backlog; /* connections waiting to be accepted; default: the app's */
    bool start_later; /* bind only; rondo_server_start_serving listens.    asyncio: start_serving=False */
    bool reuse_port;  /* let other sockets bind the same TCP address, too; for rondo_create_server only:
                                     * the shards of an app do so among each other, and with nobody else */
    void *context;    /* for rondo_server_context: state of the server; a factory's attributes, in Twisted */

    /* Which protocol shall a connection have? Asked for each, when it has been accepted.    Twisted: Factory.buildProtocol
     *
     *   peer   its address, as in <sys/socket.h>, of the family that it names; AF_UNSPEC when it isn't known any more
     *
     * Returns a table that lives as long as the connection; NULL refuses: it is closed at once, unseen by any protocol.
     * NULL for this member: always `protocol`, and only then may accepting be deferred (defer_accept). */
    const rondo_protocol *(*build_protocol)(rondo_server *server, const struct sockaddr *peer);
} rondo_server_options;

/* Serve something more, on this shard only.    asyncio: create_server, create_unix_server, or with fd://: sock=
 *
 * It does not block: a host is an address, or "localhost" (::1 and 127.0.0.1), not a name to be looked up. Addresses
 * that this machine doesn't have are left out, with a warning, if there are others. Other shards serve the same TCP
 * address by a server of their own, each with reuse_port.
 *
 *   server   set on success, and rondo's: see Lifetime above
 *
 * Returns 0; -EINVAL: a wrong URL, a name, or no protocol; -EADDRINUSE, -EADDRNOTAVAIL, -EACCES, …: what the system said,
 * and nothing listens; -EEXIST: at the path is something that is no socket; -E2BIG: more than 16 addresses; -ENOMEM;
 * each with a line in the log; -ESHUTDOWN: the shard is draining; -ENOTSUP: in a test of <rondo/testing.h>. */
int rondo_create_server(rondo_loop *loop, const rondo_server_options *options, rondo_server **server);

/* rondo_app.servers[index] as this shard serves it, from shard_start on; NULL: there is none, or it is closed and gone. */
rondo_server *rondo_server_of(rondo_loop *loop, unsigned index);

/* Listen and accept; idempotent.    asyncio: start_serving
 * The app's servers do so by themselves behind shard_start, those of rondo_create_server at once, unless start_later.
 * Returns 0; -ESHUTDOWN once closed; or what listen(2) says, and then it can be tried again. */
int rondo_server_start_serving(rondo_server *server);

/* It listens and accepts.    asyncio: is_serving */
bool rondo_server_is_serving(const rondo_server *server);

/* The sockets, one for each address.    asyncio: sockets
 *
 *   fds     the first `count` of them are written here; NULL with count 0. They are the server's: don't close them. -1: an
 *           address of which another shard has the socket (unixgram)
 *
 * Returns how many there are; 0 from rondo_server_close on. */
unsigned rondo_server_sockets(const rondo_server *server, int *fds, unsigned count);

/* The address of a socket, in the order of rondo_server_sockets, with the real port: "tcp://127.0.0.1:41231",
 * "unix:///run/x.sock"; of an fd:// what it is bound to. Lives as long as the server, also when closed; NULL beyond the
 * last. */
const char *rondo_server_url(const rondo_server *server, unsigned index);

/* Listen no more: sockets are closed, their queues with them; connections that were accepted stay.    asyncio: close
 * Twisted: stopListening. Idempotent. A connection that the kernel hands over after this is closed unseen. When several
 * shards serve a Unix or fd:// address, the others go on. */
void rondo_server_close(rondo_server *server);

/* Run `run(call)` from the loop when the server is closed and its last connection is gone (connection_lost has been
 * called).    asyncio: wait_closed
 *
 *   call   zeroed before its first use; yours again when it runs; rondo_call_cancel takes it back
 *
 * Any number may wait; they run in their order. It doesn't close. */
void rondo_server_wait_closed(rondo_server *server, rondo_call *call, void (*run)(rondo_call *call));

/* rondo_close, or rondo_abort, each of its connections.    asyncio: close_clients, abort_clients (3.13)
 * Before or after rondo_server_close; it goes on accepting unless closed. */
void rondo_server_close_clients(rondo_server *server);
void rondo_server_abort_clients(rondo_server *server);

/* options.context. */
void *rondo_server_context(const rondo_server *server);

/* asyncio: get_loop */
rondo_loop *rondo_server_get_loop(const rondo_server *server);

/* The server that accepted this connection, up to and including connection_lost; NULL: none did.    Twisted: factory */
rondo_server *rondo_get_server(const rondo_transport *t);

/* Make a transport of a connected stream socket that came by another way: accepted by a program's own code, or passed by
 * another process.    asyncio: connect_accepted_socket; Twisted: adoptStreamConnection
 *
 *   fd   rondo's on success; else still yours
 *   t    set on success, may be NULL. connection_made comes from the loop
 *
 * It counts for --max-connections, and belongs to no server.
 * Returns 0; -EBADF, -ENOTSOCK; -EINVAL: not a stream, or no protocol; -ENOTCONN; -EUSERS: --max-connections are open;
 * -ESHUTDOWN: the shard is aborting; -ENOTSUP: in a test of <rondo/testing.h>; -ENOMEM. */
int rondo_connect_accepted_socket(rondo_loop *loop, int fd, const rondo_protocol *protocol,
                                  rondo_transport **t);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
