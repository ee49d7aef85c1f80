/* What the parts of stress_calls share: the model, and who does what. */
#ifndef RONDO_TESTS_CALLS_H
#define RONDO_TESTS_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/rondo.h>

#include "core/loop.h"
#include "core/simulated.h"
#include "net/service.h"
#include "net/transport.h"

enum {
    CONNECTIONS = 3,
    STREAM_MAX = 1 << 14, /* bytes one way of a connection */
    FILE_BYTES = 3000,
    DEPTH_MAX = 3,
    PASSED_MAX = 64,
    KINDS_OF_FD = 3,
    LINE_MAX_BYTES = 150,
};

/* One connection, as it should be. */
struct connection {
    unsigned index;
    rondo_transport *t; /* NULL from the end of connection_lost on */
    struct memory_socket *peer;
    int fd;
    bool is_unix;
    const rondo_protocol *protocol;
    size_t high, low;

    /* What has happened on this side. */
    bool made, lost, told_eof;
    bool closing; /* for whatever reason */
    bool ended;   /* by a call, or by eof_received */
    bool aborted; /* by a call */
    bool write_eof;
    bool paused;        /* by a call */
    bool told_pause;    /* of writing */
    bool silently_over; /* pause_writing may have been owed to a protocol that has none */
    bool eof_closes;    /* one of its protocols has no eof_received */
    bool deaf;          /* bytes went to a protocol that has no way to receive: nobody knows which came */
    bool refused;       /* get_buffer gave none, or there was no memory */
    bool drained;       /* the server stops */
    uint64_t lost_ms;

    /* On the peer's. */
    bool sent_eof; /* it has half-closed */
    bool gone;     /* it has reset, or closed */
    bool
        shaken; /* what may end the connection has happened: the peer broke, time passed, memory was short, … */

    /* And what stood at such a moment, for the rules. */
    size_t after_abort; /* no more than so many bytes arrive behind an abort */
    size_t fed_at_drain;
    bool broke_quietly; /* the peer broke while nothing was being sent, and nothing was lost */
    size_t written_at_break;
    const rondo_protocol *protocol_at_break;
    bool takes_descriptors; /* those from in_passed_then on */
    unsigned in_passed_then;
    uint64_t taken_at_pause; /* from the socket; UINT64_MAX: reading was not paused yet at the last rest */

    char in[STREAM_MAX]; /* what the peer sent */
    size_t fed, received;
    char out[STREAM_MAX]; /* what was written */
    size_t written, seen; /* seen: what the peer got, compared */
    bool out_is_cut;      /* a file could not be read to its end */

    const char *slice; /* in data_received: what was lent */
    size_t slice_size;
    char *memory; /* get_buffer's, of protocols that have it outside of their state */
    size_t memory_size, asked_size;
    char *asked; /* get_buffer's memory, in use */

    int64_t files[PASSED_MAX]; /* results that `sent` callbacks are owed */
    unsigned files_first, files_count;
    size_t out_places[PASSED_MAX]; /* of descriptors in `out` */
    unsigned out_passed, out_seen;
    size_t in_places[PASSED_MAX]; /* of descriptors in `in` */
    unsigned in_passed, in_got;
};

/* One sequence. */
struct run {
    uint64_t seed, random;
    bool verbose;
    rondo_loop loop;
    rondo_app app;
    struct service_settings settings;
    struct connection connections[CONNECTIONS];
    unsigned count;
    struct connection *opening;
    struct connection *calling; /* inside a call of ours on this one */
    unsigned depth;
    int budget; /* of calls in callbacks */
    bool stopping, aborting;
    bool memory_is_short, has_lines;
    unsigned failures;  /* of allocations */
    unsigned allocated; /* and not freed */
    const char *broken; /* the rule */
};

extern struct run run;

/* What a protocol keeps of a connection. */
#define CANARY 0x5ca1ab1e

struct self {
    struct connection *connection;
    uint32_t canary;
    rondo_timer timer;
    rondo_call call;
    char memory[40];
    uint32_t canary_behind;
};

/* Files: different ones, to be told from each other, and two that can't be sent. */
extern int files[KINDS_OF_FD], write_only, no_file;
extern char file_bytes[FILE_BYTES]; /* of the first */
void open_files(void);

/* Chance: the sequence's own. */
uint64_t random_bits(void);
size_t below(size_t bound);
bool one_in(size_t n);
size_t some_size(size_t most); /* mostly a small one */

/* A line of the list of steps, if somebody wants to see it. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A rule is broken. */
void broken(const struct connection *c, const char *rule);

#define expect(c, condition, rule)                                                                           \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            broken(c, rule);                                                                                 \
    } while (0)

/* model.c: the rules that hold at any time, of one connection and of all; and those that hold when nothing is left to
 * do. */
void check_connection(struct connection *c);
void check(void);
void check_rest(struct connection *c);
void check_output(struct connection *c); /* what has come to the peer */
bool all_is_delivered(const struct connection *c);
uint64_t now_ms(void);

/* protocols.c: each callback checks, then makes random calls. */
const rondo_protocol *some_protocol(void);
void protocol_is(struct connection *c, const rondo_protocol *protocol);
bool takes_lines(const struct connection *c);
void begin_state(struct connection *c);                          /* which is new */
struct connection *called(rondo_transport *t, const char *name); /* a callback begins */
void go_on(struct connection *c);                                /* and ends */

/* transport_calls.c */
typedef void call_on(struct connection *c);
call_on random_call, call_close, call_resume_reading;

/* world.c: peers, time, the server; and what callbacks do. */
call_on random_event, random_calls;

/* Run one sequence; run.broken says how it ended. */
void sequence(uint64_t seed);

#endif
