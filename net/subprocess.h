/* A child process as a transport, from inside. Its states are those of net/transport.c; what it does in them is told at the
 * top of net/subprocess.c. */
#ifndef RONDO_NET_SUBPROCESS_H
#define RONDO_NET_SUBPROCESS_H

#include <stdbool.h>

#include <rondo/subprocess.h>

#include "net/service.h"
#include "net/transport.h"

struct process_start {
    const rondo_protocol *protocol;
    const char *const *argv;
    const rondo_subprocess_options *options;
    /* Of its pipes, by descriptor: instead of those that tell `protocol`. */
    const rondo_protocol *pipe_protocols[3];
};

/* Start it. Returns 0 or a negative errno, with a line in the log. */
int process_open(rondo_loop *loop, const struct process_start *start, rondo_transport **t);

/* ---- for transport.c: what it does with this kind ---- */

/* Wait for its end, as the state asks. */
void process_settle(rondo_transport *t);

/* Closing: have it and its pipes ended? Else that is under way. */
bool process_is_over(rondo_transport *t);

/* It is being closed. */
void process_kill(rondo_transport *t);

/* The same, with connection_lost(-ECANCELED). */
void process_cancel(rondo_transport *t);

void process_free(rondo_transport *t);

#endif
