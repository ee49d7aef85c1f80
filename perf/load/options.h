/* What to measure, from the command line. */
#ifndef LOAD_OPTIONS_H
#define LOAD_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct mode {
    const char *name;
    unsigned connections; /* the defaults … */
    size_t size;
    unsigned depth;
    bool reconnects; /* a request is a whole connection */
    bool holds;      /* one request for each connection, which then stays open */
    bool paced;      /* --rate is possible */
    bool deep;       /* --depth is possible */
    bool besieged;   /* --greedy is possible */
};

struct options {
    const struct mode *mode;
    const char *url;
    unsigned connections, depth, sources;
    size_t size; /* of a message, in bytes */
    double seconds, warmup;
    uint64_t count;            /* of requests; 0: as many as the time allows */
    double rate;               /* requests per second; 0: as fast as the answers come */
    unsigned active;           /* of the idle connections */
    unsigned greedy;           /* hostile peers, beside the connections */
    uint64_t greedy_bytes_max; /* that all of them send */
    pid_t server;              /* 0: unknown */
    bool lines, reset, json, wait_for_stdin;
};

/* Returns when there is something to run; else prints help or what is wrong, and exits with 0 or 2. */
void options_parse(struct options *options, int argc, char **argv);

#endif
