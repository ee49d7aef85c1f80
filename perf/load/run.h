/* One run of the generator: open connections, let requests flow, measure for a while, drain, close.
 *
 *   OPENING [-> FILLING] -> READY -> WARMING_UP -> MEASURING -> DRAINING -> CLOSING -> DONE
 *
 * Modes whose requests open connections start at READY, which waits for --wait-for-stdin. Idle connections are touched
 * by a first round of MEASURING; then they are kept for a while, HOLDING, or the active ones of them go on from READY.
 * Hostile peers first have time to fill their sockets, FILLING, and leave before the end: DRAINING -> PARTING -> SETTLING -> CLOSING.
 * A connection that fails is not replaced; when none is left, the run is DONE early. */
#ifndef LOAD_RUN_H
#define LOAD_RUN_H

#include "connection.h"
#include "failures.h"
#include "greedy.h"
#include "histogram.h"
#include "options.h"
#include "payload.h"
#include "ring.h"
#include "target.h"

#define SECOND_NS UINT64_C(1000000000)

enum {
    CONNECTING_MAX = 256, /* at once, so that a server's backlog isn't what is measured */
    STALL_SECONDS = 5,    /* without a single answer: give up */
};

enum phase {
    OPENING,
    FILLING,
    READY,
    WARMING_UP,
    MEASURING,
    HOLDING,
    DRAINING,
    PARTING,
    SETTLING,
    CLOSING,
    DONE
};

/* What the measured window showed. Negative: not known. */
struct results {
    double seconds;
    uint64_t requests; /* that count: with --rate all that were due in the window, else the same as … */
    uint64_t answered; /* in the window */
    uint64_t unsent;   /* due in the window, but never sent: the server is far too slow for --rate */
    uint64_t bytes_sent, bytes_received;
    uint64_t wrong_bytes; /* of the whole run, like the failures */
    int64_t server_cpu_ns, generator_cpu_ns;
    uint64_t touched;           /* idle connections */
    uint64_t greedy_bytes_sent; /* in the window */
    unsigned greedy_open;       /* at the end of the window: the server has closed the others */
    /* Of the server, in bytes: before the first connection; with all connections, but before active ones of them play;
     * the most since the beginning; and when hostile peers have left. */
    int64_t resident_before, resident_after, resident_peak, resident_settled;
    struct histogram latency; /* in nanoseconds */
    struct failures failures;
};

struct run {
    const struct options *options;
    struct target target;
    struct payload payload;
    struct ring ring;
    struct results results;
    struct greedy greedy;

    enum phase phase;
    uint64_t now_ns;      /* read once for each batch of completions: all its answers arrived by then */
    uint64_t deadline_ns; /* of the phase */
    uint64_t window_began_ns, window_ends_ns; /* measured */
    uint64_t progress_ns;                     /* when the server last answered */
    uint64_t schedule_ns, scheduled; /* open loop: when the first request was due, and how many were since */

    bool touching;   /* idle connections have yet to send their one request */
    bool peak_known; /* the server's memory has been watched from the beginning */
    bool may_start;  /* --wait-for-stdin: somebody said so */

    struct connection *connections;
    struct queue ready;           /* may take a request */
    struct queue waiting;         /* for a place in the backlog of a Unix socket; they count as connecting */
    uint64_t issued, outstanding; /* requests */
    uint64_t opened;              /* connections ever */
    unsigned connecting, open, retired; /* connections now; open: hold a descriptor */
};

/* run: zeroed, but for its target. Prints what fails, and returns 0 or -1; failures of connections are in the
 * results instead. */
int run_execute(struct run *run, const struct options *options);

/* Can't the generator keep to --rate? */
bool run_missed_rate(const struct run *run);

/* Connections report here. */
void run_connected(struct run *run, struct connection *connection);
void run_answered(struct run *run, struct connection *connection, uint64_t due_ns);
void run_closed(struct run *run, struct connection *connection);

#endif
