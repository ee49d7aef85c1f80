/* The requests of a run: how many there may be, when each is due, and which of them count.
 *
 * With --rate, an open loop, request n is due n intervals after the beginning, however late the server is. A request
 * whose turn comes while all connections are taken waits for one, and its latency includes the wait. All that were due
 * in the window count, also those that are sent and answered after its end: a stall is never left out. */
#ifndef LOAD_SCHEDULE_H
#define LOAD_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

struct run;

/* From now on, counted from none. */
void schedule_begin(struct run *run);

/* Does a request begin with a connection of its own? Else connections are opened before. */
bool schedule_opens_connections(const struct run *run);

/* The number of requests that there may be; 0: no limit. */
uint64_t schedule_limit(const struct run *run);

/* May one more be issued, now or later in this phase? */
bool schedule_goes_on(const struct run *run);

/* Is there nobody who could take a request, now or later? */
bool schedule_has_nobody(const struct run *run);

/* Does the answer to a request that was due then count, if it comes now? */
bool schedule_counts(const struct run *run, uint64_t due_ns);

/* How many were due in the window, and have not been sent. */
uint64_t schedule_unsent(const struct run *run);

/* Is the time of requests kept by polling? */
bool schedule_is_paced(const struct run *run);

/* Send all that are due. */
void schedule_issue(struct run *run);

#endif
