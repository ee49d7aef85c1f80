/* What happened in a scenario: a sequence of records for each transport, each peer, and the server, printed as lines of
 * JSON. records.py prints the same. Thread: any. */
#ifndef RONDO_TESTS_RECORDS_H
#define RONDO_TESTS_RECORDS_H

#include <stdbool.h>

#include <rondo/bytes.h>

enum on { ON_PEER, ON_SCENARIO, ON_SERVER, ON_TRANSPORT }; /* in the order of the alphabet */

void records_begin(void);

/* A record {kind: name, …}, with `rest`: a fragment of JSON such as ", \"result\": 3", or "". */
void record(enum on on, unsigned number, const char *kind, const char *name, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* A record of bytes; adjacent ones are merged, since bytes are cut anywhere. protocol: NULL, or its name. */
void record_data(enum on on, unsigned number, const char *name, const char *protocol, rondo_bytes data);

/* What comes from now on is not recorded. */
void records_stop(void);

/* Print all, and forget it. */
void records_print(void);

#endif
