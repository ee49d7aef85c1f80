/* The transport, from inside. Its life is told at the top of net/transport.c. */
#ifndef RONDO_NET_TRANSPORT_H
#define RONDO_NET_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/transport.h>

#include "core/loop.h"
#include "net/byte_queue.h"
#include "net/service.h"

/* The protocol of a connection, and its state. */
struct protocol_state {
    rondo_transport *t; /* the way back, for rondo_transport_of */
    const rondo_protocol *protocol;
    _Alignas(max_align_t) char state[];
};

/* One that rondo_set_protocol made. */
struct later_state {
    struct protocol_state
        *replaced; /* the one before, which lives until the callback that replaced it has returned */
    struct protocol_state self;
};

/* Who looks after a transport, whatever its socket says: its idle time; an end that isn't told; a drained newcomer's last
 * moment. */
struct watch {
    rondo_timer timer;
    rondo_transport *t;
    uint64_t active_ms; /* when a byte last went in or out */
};

/* What it carries, and what stands behind t->fd. */
enum transport_kind {
    STREAM,     /* a connected socket */
    READ_PIPE,  /* as a stream, in one direction: a pipe, a FIFO, a socket, a terminal */
    WRITE_PIPE, /* as a stream, in the other */
    DATAGRAMS,  /* a socket for datagrams: net/datagram.c */
    PROCESS,    /* a child, by its pidfd: net/subprocess.c */
};

enum transport_state { OPEN, HALF_CLOSED, FLUSHING, JOINING, LINGERING, CLOSING };

/* Three cache lines: what a byte on its way in and out touches is in front. What few transports need, or few at a time, is
 * made for them on demand. */
struct rondo_transport {
    rondo_loop *loop;
    struct protocol_state *self;
    rondo_transport *next_marked; /* behind the last one the first; NULL: it isn't marked */
    struct byte_queue output;
    uint32_t send_size; /* bytes asked of the send in the kernel */
    int fd;

    enum transport_state state : 4;
    unsigned singles : 5;     /* receives to be made one by one, after reading was paused */
    bool made : 1;            /* connection_made has been called */
    bool lost : 1;            /* connection_lost is being, or has been, called */
    bool is_unix : 1;         /* a Unix socket */
    bool reading_paused : 1;  /* by the protocol */
    bool over_high_water : 1; /* output has been above the high-water mark, and not yet down to the low one */
    bool eof_seen : 1;        /* the peer sends no more */
    bool eof_waits : 1;       /* eof_received is owed: reading is paused */
    bool error_waits : 1;     /* the connection broke behind bytes that wait: reading is paused */
    bool write_eof : 1;       /* half-close when the output is sent */
    bool write_shut : 1;      /* done so */
    bool send_waits : 1;      /* the peer reads slowly: the next send waits for room */
    bool has_message : 1;     /* into.message, else into.memory */
    bool direct_replaced : 1; /* the kernel receives into memory of a protocol that was replaced */
    bool reset : 1;           /* the end is a reset (RST) */
    bool heard : 1;           /* something has been received */
    bool draining : 1;        /* the server stops: close when drain_bytes are delivered */
    bool was_busy : 1;        /* when it was told to */
    bool end_unsure : 1; /* the kernel may have forgotten to tell the peer's end: see transport_watch_end */
    bool misuse_logged : 1; /* written to after rondo_write_eof */
    bool is_wide : 1;       /* its receive window has been widened */
    unsigned stalls : 3;    /* lingering: looks, one after another, at which the peer had taken nothing */

    int16_t error;              /* for connection_lost */
    uint8_t kind;               /* enum transport_kind */
    bool restores_blocking : 1; /* others have the descriptor, too, and shall find it as it was */

    struct op receive, send; /* send: also what reads a file to be sent, and in the end the close */

    struct item *items;  /* files and descriptors between the output's bytes */
    struct flow *flow;   /* NULL: flow control is as always, and nothing waits */
    struct watch *watch; /* NULL: what happens to it, its socket tells */
    union {
        void *memory;            /* get_buffer's, from arming until it is delivered */
        struct message *message; /* bytes with descriptors, for a protocol that takes these */
        struct datagrams *datagrams;
        struct process *process;
    } into;

    union {
        uint32_t drain_bytes;
        uint32_t unacknowledged; /* lingering: bytes of the answer, when last looked at */
    };
    uint32_t since_ms; /* when it was made; lingering: when last looked at. It may have wrapped around */
    struct transport_owner *owner;
    struct rondo_link in_service;

    struct protocol_state first_state; /* last: it has the size that the first protocol asks for */
};

/* What a transport belongs to, beside its shard: a server, or a connector. */
struct transport_owner {
    bool is_server;
    unsigned connections; /* its transports that have not lost their connection */
    /* Behind connection_lost, with its error; the transport no longer knows its owner. */
    void (*lost)(struct transport_owner *owner, rondo_transport *t, int error);
};

/* A connected socket, or something else, that shall be a transport. */
struct transport_start {
    struct transport_owner *owner; /* or NULL */
    const rondo_protocol *protocol;
    enum transport_kind kind;
    int fd;
    int family;     /* of a socket: AF_UNIX, AF_INET, AF_INET6; else AF_UNSPEC */
    bool later;     /* connection_made comes from the loop, not from inside this call */
    bool has_bytes; /* most likely: it was accepted when they came */
    bool keeps_fd;  /* without memory for a transport the descriptor stays the caller's */
};

/* Begin a connection; a stream is one that service_admit has counted unless a connector owns it: calls connection_made. Its
 * descriptor is the transport's from here on, also when there is no memory for one: then it is closed, the reason
 * logged, and NULL returned.
 * Thread: the loop of the service, for all of these. */
rondo_transport *transport_open(struct service *service, const struct transport_start *start);

/* Deliver what had arrived by now, then close. */
void transport_drain(rondo_transport *t);

/* All that is to be delivered before the end has been. */
void transport_drained(rondo_transport *t);

/* End it at once, with connection_lost(-ECANCELED) if the protocol is still there. */
void transport_cancel(rondo_transport *t);

/* For receivers built on data_received: hand back the end of what is being delivered. It is delivered again, before
 * anything newer, once reading goes on. */
void transport_unread(rondo_transport *t, rondo_bytes rest);

/* May the protocol be given more? Not when it has paused reading or is closing, nor while back-pressure holds its peer
 * back: a receiver that makes many calls of one data_received asks before each. */
bool transport_may_deliver(const rondo_transport *t);

/* ---- between transport.c, receive.c and send.c ---- */

/* A byte went in or out. */
static inline void transport_is_active(rondo_transport *t)
{
    if (t->watch != NULL)
        t->watch->active_ms = rondo_time_ms(t->loop);
}

/* A multishot receive has brought bytes and goes on. When the peer's end follows at once, kernels may forget to tell it
 * (CVE-2026-23473; of Unix sockets also where that is mended, seen on 6.18): so where that may be, the transport looks
 * for itself, once, when nothing has come for a second. */
void transport_watch_end(rondo_transport *t);

static inline bool transport_is_pipe(const rondo_transport *t)
{
    return t->kind == READ_PIPE || t->kind == WRITE_PIPE;
}

/* May bytes be written to this kind of it, and be read from it? */
static inline bool transport_is_writable(const rondo_transport *t)
{
    return t->kind == STREAM || t->kind == WRITE_PIPE;
}

/* Bytes that were written, or datagrams' bytes that were sent, and the kernel hasn't taken yet. */
size_t transport_unsent_bytes(const rondo_transport *t);

/* All that was written has been handed to the kernel. */
bool transport_output_is_sent(const rondo_transport *t);

/* Look at it before the next system call: settle. */
void transport_mark(rondo_transport *t);

/* It can't go on: connection_lost(error) follows. */
void transport_fail(rondo_transport *t, int error);

static inline const rondo_protocol *transport_protocol(const rondo_transport *t)
{
    return t->self->protocol;
}

/* For the log. */
static inline const char *transport_name(const rondo_transport *t)
{
    return transport_protocol(t)->name != NULL ? transport_protocol(t)->name : "a protocol without a name";
}

static inline struct segments *segments_of(const rondo_transport *t)
{
    return &service_of(t->loop)->segments;
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

/* The kernel receives into memory of the protocol or of the message. */
bool receive_is_direct(const rondo_transport *t);
/* If there is something to receive that nobody has told of, receive anew. */
void receive_look(rondo_transport *t);
/* What its message has not delivered is thrown away. */
void receive_free_message(rondo_transport *t);
/* Bytes received and not yet delivered. */
size_t receive_waiting_bytes(const rondo_transport *t);
/* The protocol is about to be another one, and `unused` what it had been given and not used. False: no memory, and then it
 * must not. */
bool receive_hand_over(rondo_transport *t, rondo_bytes unused);

/* What was written, or sent, has grown, or has shrunk. The first is the last thing that a call does. */
void send_check_high_water(rondo_transport *t);
void send_check_low_water(rondo_transport *t);

/* May it be written to? */
bool send_is_allowed(const rondo_transport *t);
/* Send, or write. */
void send_issue(rondo_transport *t, const struct iovec *slices, unsigned count, enum send_way way);
/* Issue the send, or the half-close, that is due. */
void send_settle(rondo_transport *t);
void send_half_close(rondo_transport *t);
/* A send, of whatever, has ended. Returns the bytes sent; 0, too, when it failed, which is told to the transport. */
size_t send_ended(rondo_transport *t, int result);
/* It has sent all that was asked, or (in_part) the peer turned out to be slow: the next send waits, and holds no
 * buffers. */
void send_ended_in_part(rondo_transport *t, bool in_part);
/* A send of the output's first t->send_size bytes has ended. */
void send_output_ended(rondo_transport *t, int result);
/* The output's first slices, at most `max`, and no more than `limit` bytes: t->send_size. Returns how many slices. */
unsigned send_slices(rondo_transport *t, size_t limit, struct iovec *slices, unsigned max);

/* May one more buffer be kept by reference in this queue? A peer that doesn't read must not starve its shard. */
bool transport_may_keep(const rondo_transport *t, const struct byte_queue *queue);

#endif
