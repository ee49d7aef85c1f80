/* Hostile peers: connections beside those that are measured, which send as fast as their sockets take it, and never
 * read. When nothing more fits they wait, as a sender does, and go on as soon as there is room.
 *
 * Their own receive buffers are as small as they can be, as an attacker would have them: what the server then writes
 * stays with the server. A server may close them; that is counted, and no failure. */
#ifndef LOAD_GREEDY_H
#define LOAD_GREEDY_H

#include <liburing.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct run;
struct greedy_peer;

/* Set in the user_data of their completions. */
#define GREEDY (UINT64_C(1) << 63)

struct greedy {
    struct greedy_peer *peers;
    unsigned opened, connecting, open; /* ever; now; now, also those that connect */
    uint64_t bytes_sent;
    uint64_t sent_ns; /* when, the last time */
    bool leaving;
};

/* Returns 0 or -ENOMEM. */
int greedy_init(struct greedy *greedy, unsigned count);
void greedy_fini(struct greedy *greedy);

/* Open some more, which begin to send. All have been opened when none is connecting and as many as wanted were. */
void greedy_open(struct run *run);
bool greedy_are_open(const struct run *run);

/* Is there no room for more, nor has there been for a while? Or has all been sent that may be? */
bool greedy_are_stuck(const struct run *run);

/* Let all end by a reset; none is open once the last completion has come. */
void greedy_leave(struct run *run);

void greedy_complete(struct run *run, const struct io_uring_cqe *cqe);

#endif
