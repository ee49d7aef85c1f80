/* Connections out: to servers, from a shard.    asyncio: create_connection; Twisted: ClientFactory, ClientService
 *
 *   static void connection_made(rondo_transport *t)
 *   {
 *       rondo_write_static(t, RONDO_BYTES("ping\n"));
 *   }
 *
 *   static void data_received(rondo_transport *t, rondo_bytes data)
 *   {
 *       rondo_log(RONDO_LOG_INFO, "answered: %.*s", (int)data.size, data.data);
 *       rondo_close(t);
 *   }
 *
 *   static const rondo_protocol pinger = {
 *       .name = "pinger",
 *       .connection_made = connection_made,
 *       .data_received = data_received,
 *   };
 *
 *   static const rondo_protocol echo = { .name = "echo", .data_received = rondo_write };
 *
 *   static void connection_failed(rondo_connector *connector, int error, const char *why)
 *   {
 *       (void)error;
 *       rondo_log(RONDO_LOG_ERROR, "%s", why);
 *       rondo_stop(rondo_connector_get_loop(connector));
 *   }
 *
 *   static int shard_start(rondo_loop *loop)
 *   {
 *       static const rondo_client_options options = {
 *           .url = "tcp://localhost:7777",
 *           .protocol = &pinger,
 *           .connection_failed = connection_failed,
 *       };
 *       return rondo_create_connection(loop, &options, NULL);
 *   }
 *
 *   int main(void)
 *   {
 *       const rondo_app app = {
 *           .servers = { { .url = "tcp://127.0.0.1:7778", .protocol = &echo } },
 *           .shard_start = shard_start,
 *       };
 *       return rondo_run(&app) < 0;
 *   }
 *
 * A connection out is a transport as any other, of the shard that made it, with the same protocol table. The idle
 * timeout of the app is for it, too; max_connections is not: it is neither refused by it nor counted.
 *
 * Thread: the loop's, for every call here. Hooks come from the loop, never from inside a call of yours. */
#ifndef RONDO_CLIENT_H
#define RONDO_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include <rondo/loop.h>
#include <rondo/protocol.h>
#include <rondo/transport.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* ---- one connection -------------------------------------------------------------------------------------- */

/* What makes a connection, and then stands for it.    Twisted: IConnector
 *
 *   rondo_create_connection -> started_connecting -> connection_failed                       -> freed
 *                                                 -> (the protocol: connection_made … connection_lost)
 *                                                 -> connection_lost                         -> freed
 *
 * It is freed when connection_failed or connection_lost returns, unless rondo_connector_connect was called in it:
 * then all begins again. */
typedef struct rondo_connector rondo_connector;

typedef struct rondo_client_options {
    const char *url; /* "tcp://host:port": a name, 127.0.0.1 or [::1]; "unix:///path", "unix://@name" */
    const rondo_protocol *protocol; /* its table, which lives as long as the connector */

    /* "tcp://127.0.0.1:0": connect from this address, and port, if it isn't 0. With a name that has addresses of both
     * families each attempt takes the one of its own; addresses of a family for which there is none are not tried.
     * NULL: the kernel chooses. For tcp only.    asyncio: local_addr */
    const char *local_url;

    /* For look-up and all attempts together; then connection_failed(-ETIMEDOUT). 0: 30000, as in Twisted.
     * UINT64_MAX: as long as the kernel tries. */
    uint64_t timeout_ms;

    /* Happy eyeballs (RFC 8305): where the host has several addresses, the next is tried when one has failed, or when
     * the one before has not answered for so long; families take turns, beginning with the one that the resolver
     * (getaddrinfo) puts first; the first connection wins, and the other attempts are cancelled. Of more than 16
     * addresses the first 16 are tried. 0: 250 (asyncio has no default, and means by that: one after another;
     * Twisted: 300). UINT64_MAX: one after another. */
    uint64_t happy_eyeballs_delay_ms;

    void *context; /* rondo_connector_context(connector) */

    /* Any may be NULL.    Twisted: ClientFactory.startedConnecting, clientConnectionFailed, clientConnectionLost
     *
     *   error   a negative errno, of connection_lost also 0. -ECANCELED: rondo_connector_stop_connecting, or the server
     *           drains; -ETIMEDOUT; -ENOENT no such host; -EAGAIN no name server answers now; else what the attempts
     *           failed with: all with the same, or the first
     *   why     one line, lent: each address that was tried, and what came of it. "can't connect to tcp://localhost:1:
     *           [::1]:1: Connection refused; 127.0.0.1:1: Connection refused"
     *
     * connection_lost comes behind the protocol's, whose transport is gone. With NULL for connection_failed, `why` is
     * written to the log, as a warning. */
    void (*started_connecting)(rondo_connector *connector);
    void (*connection_failed)(rondo_connector *connector, int error, const char *why);
    void (*connection_lost)(rondo_connector *connector, int error);
} rondo_client_options;

/* Connect to a server.    asyncio: create_connection, create_unix_connection; Twisted: connectTCP, connectUNIX
 *
 *   options     copied, with its strings
 *   connector   set to what stands for the attempt; good until connection_failed or connection_lost has returned. NULL:
 *               not wanted
 *
 * Nothing blocks: names are looked up on helper threads, at most 16 at a time in the process. A connection to
 * oneself, which TCP makes when nobody listens at a port and the kernel takes that very port for this end, counts as
 * refused.
 *
 * Returns 0: all else is told by the hooks and the protocol, from the loop. -EINVAL: the options make no sense; what
 * is wrong stands in the log. -ENOMEM. -ESHUTDOWN: the server drains. */
int rondo_create_connection(rondo_loop *loop, const rondo_client_options *options,
                            rondo_connector **connector);

/* Begin again; from within connection_failed or connection_lost (asserted).    Twisted: connect
 * When the server drains it does nothing: there will be no more hooks, and the connector is freed. */
void rondo_connector_connect(rondo_connector *connector);

/* Give up connecting: connection_failed(-ECANCELED) follows, from the loop.    Twisted: stopConnecting
 * From within connection_failed or connection_lost it takes back a rondo_connector_connect (and connection_failed follows
 * once more). Does nothing when it was called already, or when there is a connection (Twisted raises). */
void rondo_connector_stop_connecting(rondo_connector *connector);

/* rondo_close the connection, or else stop connecting.    Twisted: disconnect */
void rondo_connector_disconnect(rondo_connector *connector);

/* The connection; NULL while there is none: also in connection_lost.    Twisted: connector.transport */
rondo_transport *rondo_connector_transport(const rondo_connector *connector);

void *rondo_connector_context(const rondo_connector *connector);

/* Where it connects to: the options' url.    Twisted: getDestination */
const char *rondo_connector_url(const rondo_connector *connector);

rondo_loop *rondo_connector_get_loop(const rondo_connector *connector);

/* The connector of a connection; NULL: it isn't a client's.    Twisted: protocol.factory */
rondo_connector *rondo_get_connector(const rondo_transport *t);

/* ---- a connection that is made again and again ------------------------------------------------------------- */

/* Keeps one connection: makes it, and when it is lost, or can't be made, makes it again, after a while.
 * Twisted: ClientService (and its ReconnectingClientFactory)
 *
 * The while: initial_delay_ms; delay_factor times that when it fails again, and so on up to max_delay_ms; a
 * connection begins anew with initial_delay_ms. To each a random part of jitter_ms is added, so that the clients of a
 * server that went down don't come back all at once. (Twisted multiplies once before its first wait: 1.5 s.) */
typedef struct rondo_client_service rondo_client_service;

#define RONDO_NO_JITTER UINT64_MAX

typedef struct rondo_client_service_options {
    /* As for rondo_create_connection. The hooks are called for each attempt and connection, with the connector that
     * the service keeps; rondo_connector_connect does nothing there. */
    rondo_client_options client;

    uint64_t initial_delay_ms; /* 0: 1000 */
    double delay_factor;       /* 0: 1.5; at least 1 */
    uint64_t max_delay_ms;     /* 0: 60000 */
    uint64_t jitter_ms;        /* 0: 1000; RONDO_NO_JITTER: none */
    uint64_t seed;             /* of the random part, for tests; 0: another one each time */

    /* Behind connection_made, before anybody who waits for the connection: the place to begin what it needs (a password, a
     * subscription).    Twisted: prepareConnection, but what it begins is not waited for
     * Returns 0; or a negative errno: the connection is closed, and counts as failed. */
    int (*prepare_connection)(rondo_client_service *service, rondo_transport *t);

    /* The last call: the service has stopped and is freed when this returns. */
    void (*stopped)(rondo_client_service *service);
} rondo_client_service_options;

/* Keep a connection from now on, until rondo_stop_client_service, or until the server drains.    Twisted: startService
 *
 *   options   copied, with its strings
 *   service   set; good until `stopped` has returned
 *
 * Returns as rondo_create_connection, and -EINVAL for delays that make no sense. */
int rondo_start_client_service(rondo_loop *loop, const rondo_client_service_options *options,
                               rondo_client_service **service);

/* Close the connection, or stop connecting, and make no more.    Twisted: stopService
 *
 *   call, run   `run(call)` when the connection is gone (connection_lost has returned), from the loop, before `stopped`;
 *               the memory is yours again when it runs. NULL: nobody wants to know
 *
 * May be called again until `stopped`, each time with another call. A new connection takes a new service. */
void rondo_stop_client_service(rondo_client_service *service, rondo_call *call,
                               void (*run)(rondo_call *call));

/* Somebody who waits for the connection. Zeroed before its first use; yours again when it is answered, or
 * cancelled. */
typedef struct rondo_client_waiter {
    struct rondo_link _link;
    unsigned _failures_left;
    void (*_answered)(struct rondo_client_waiter *waiter, rondo_transport *t, int error);
} rondo_client_waiter;

/* Call `answered` as soon as there is a connection, which may be now; once, from the loop.    Twisted: whenConnected
 *
 *   fail_after_failures   give up after so many failures from now on: t is NULL, and error the last one's. 0: never
 *   answered              t: the connection, open; error 0. When the service has stopped: NULL and -ECANCELED (one that
 *                         this adds is not answered any more: asserted)
 *
 * Any number may wait; they are answered in order. */
void rondo_client_service_when_connected(rondo_client_service *service, rondo_client_waiter *waiter,
                                         unsigned fail_after_failures,
                                         void (*answered)(rondo_client_waiter *waiter, rondo_transport *t,
                                                          int error));

/* Take it back; one that doesn't wait is left as it is. */
void rondo_client_service_cancel_waiter(rondo_client_waiter *waiter);

/* The connection; NULL while there is none that is made, prepared, and open. */
rondo_transport *rondo_client_service_transport(const rondo_client_service *service);

void *rondo_client_service_context(const rondo_client_service *service); /* options.client.context */

/* Attempts that have failed since the last connection.    Twisted: _failedAttempts */
unsigned rondo_client_service_failures(const rondo_client_service *service);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
