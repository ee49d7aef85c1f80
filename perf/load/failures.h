/* What went wrong during a run, counted by kind. */
#ifndef LOAD_FAILURES_H
#define LOAD_FAILURES_H

#include <stdint.h>

enum failure {
    FAILURE_CONNECT,    /* refused, or not answered */
    FAILURE_NO_PORT,    /* this machine has no free port left for a source address */
    FAILURE_RESET,      /* the server broke the connection */
    FAILURE_EARLY_EOF,  /* the server closed while it still owed an answer */
    FAILURE_WRONG_BYTE, /* an answer held bytes that nobody sent there */
    FAILURE_TIMEOUT,    /* an answer was still missing when the run gave up */
    FAILURE_OTHER,
    FAILURE_KINDS,
};

struct failures {
    uint64_t counts[FAILURE_KINDS];
};

/* Counts it, and prints the first one of each kind; a run may have a million. error: an errno, or 0. */
void failures_add(struct failures *failures, enum failure kind, unsigned connection, int error);

uint64_t failures_total(const struct failures *failures);

/* Its name as in the JSON report: "early_eof". */
const char *failure_name(enum failure kind);

#endif
