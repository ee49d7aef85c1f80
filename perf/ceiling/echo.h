/* An echo on one bare ring: what its server costs for a request is what the kernel costs, and what a framework costs more
 * is the framework's tax. So it does all that a correct echo must do, and nothing else. Linux 6.1 or later. */
#ifndef CEILING_ECHO_H
#define CEILING_ECHO_H

#include "options.h"

#include <stdatomic.h>

/* Written by one thread, read by another. */
struct counters {
    atomic_ullong submissions, completions, system_calls, bytes_in;
};

/* Serve on the calling thread, for ever. What fails ends the program, with a word. */
__attribute__((noreturn)) void echo_serve(const struct options *options, int listener,
                                          struct counters *counters);

#endif
