/* Which techniques the bare ring uses, from the command line. */
#ifndef CEILING_OPTIONS_H
#define CEILING_OPTIONS_H

#include <stdbool.h>

enum taskrun { TASKRUN_DEFER, TASKRUN_COOP, TASKRUN_NONE };

struct options {
    unsigned port, threads;
    const char *unix_path; /* NULL: TCP */

    unsigned buffers, buffer_size;
    bool incremental, huge_pages, single_shot, poll_first;

    bool gather, quiet_sends;
    unsigned portion;   /* messages between two submissions of a turn; 0: all */
    unsigned zero_copy; /* from that size on; 0: never */

    unsigned accepts; /* single ones, at the same time; 0: one multishot */
    bool defer_accept, direct, reset_close;
    const char *congestion;
    unsigned window; /* 0: the kernel's */

    enum taskrun taskrun;
    bool ring_fd, sqpoll, spin;
    unsigned min_wait_us;
};

/* Returns when there is something to run; else prints help or what is wrong, and exits with 0 or 2. */
void options_parse(struct options *options, int argc, char **argv);

#endif
