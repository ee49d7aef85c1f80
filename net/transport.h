/* The stream transport, from inside. Its life is told at the top of net/transport.c. */
#ifndef RONDO_NET_TRANSPORT_H
#define RONDO_NET_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/transport.h>

#include "core/loop.h"
#include "net/byte_queue.h"
#include "net/service.h"

#define HIGH_WATER_BYTES (64 * 1024) /* asyncio's defaults */
#define LOW_WATER_BYTES  (16 * 1024)

enum transport_state { OPEN, HALF_CLOSED, FLUSHING, JOINING, LINGERING, CLOSING };

struct rondo_transport {
    rondo_loop *loop;
    struct service *service;
    struct transport_owner *owner;
    const rondo_protocol *protocol;
    int fd;
    int error; /* for connection_lost */

    enum transport_state state;
    bool made : 1; /* connection_made has been called */
    bool is_unix : 1;
    bool reading_paused : 1;  /* by the protocol */
    bool over_high_water : 1; /* output has been above the high-water mark, and not yet down to the low one */
    bool eof_seen : 1;        /* the peer sends no more */
    bool eof_waits : 1;       /* eof_received is owed: reading is paused */
    bool write_eof : 1;       /* half-close when the output is sent */
    bool write_shut : 1;      /* done so */
    bool send_waits : 1;      /* the peer reads slowly: the next send waits for room */
    bool reset : 1;           /* the end is a reset (RST) */
    bool heard : 1;           /* something has been received */
    bool draining : 1;        /* the server stops: close when drain_bytes are delivered */
    uint8_t singles;          /* receives to be made one by one, after reading was paused */

    struct op receive, send, close;
    size_t send_size; /* bytes asked of the send in the kernel */
    struct byte_queue output;
    struct byte_queue inbox; /* received, but not delivered: reading is paused */
    size_t unread;           /* bytes that data_received handed back */
    rondo_buffer direct;     /* get_buffer's memory, while it is the kernel's */
    size_t direct_waits;     /* bytes in it not delivered: reading is paused */
    size_t high_water_bytes, low_water_bytes;
    size_t drain_bytes;
    size_t unacknowledged; /* lingering: bytes of the answer, when last looked at */

    rondo_call settle;
    rondo_timer timer;  /* idle time; a drained newcomer's last moment; lingering */
    uint64_t active_ms; /* when a byte last went in or out */
    struct rondo_link in_service;

    _Alignas(max_align_t) char self[];
};

/* What a transport belongs to, beside its shard: a server, or a connector. */
struct transport_owner {
    bool is_server;
    unsigned connections; /* its transports that have not lost their connection */
    /* Behind connection_lost, with its error; the transport no longer knows its owner. */
    void (*lost)(struct transport_owner *owner, rondo_transport *t, int error);
};

/* A connected socket that shall be a transport. */
struct transport_start {
    struct transport_owner *owner; /* or NULL */
    const rondo_protocol *protocol;
    int fd;
    int family; /* AF_UNIX, AF_INET, AF_INET6 */
    bool later; /* connection_made comes from the loop, not from inside this call */
};

/* Begin a connection, one that service_admit has counted: calls connection_made. Its descriptor is the transport's from
 * here on, also when there is no memory for one: then it is closed, the reason logged, and NULL returned.
 * Thread: the loop of the service, for all of these. */
rondo_transport *transport_open(struct service *service, const struct transport_start *start);

/* Deliver what had arrived by now, then close. */
void transport_drain(rondo_transport *t);

/* End it at once, with connection_lost(-ECANCELED) if the protocol is still there. */
void transport_cancel(rondo_transport *t);

/* For receivers built on data_received: hand back the end of what is being delivered. It is delivered again, before
 * anything newer, once reading goes on. */
void transport_unread(rondo_transport *t, rondo_bytes rest);

/* May the protocol be given more? Not when it has paused reading or is closing, nor while back-pressure holds its peer
 * back: a receiver that makes many calls of one data_received asks before each. */
bool transport_may_deliver(const rondo_transport *t);

/* ---- between transport.c, receive.c and send.c ---- */

/* Look at it before the next system call: settle. */
void transport_mark(rondo_transport *t);

/* It can't go on: connection_lost(error) follows. */
void transport_fail(rondo_transport *t, int error);

/* For the log. */
static inline const char *transport_name(const rondo_transport *t)
{
    return t->protocol->name != NULL ? t->protocol->name : "a protocol without a name";
}

/* The protocol's part is over; what is left belongs to the transport alone. */
static inline bool transport_is_ending(const rondo_transport *t)
{
    return t->state >= JOINING;
}

/* Deliver what waits, and issue or cancel the receive, as the state asks. */
void receive_settle(rondo_transport *t);
/* Receive and throw away: nobody wants it, but the peer's end is still of interest. */
void receive_discard(rondo_transport *t);

/* Issue the send, or the half-close, that is due. */
void send_settle(rondo_transport *t);
void send_half_close(rondo_transport *t);

/* May one more buffer be kept by reference in this queue? A peer that doesn't read must not starve its shard. */
bool transport_may_keep(const rondo_transport *t, const struct byte_queue *queue);

#endif
