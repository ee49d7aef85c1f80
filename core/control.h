/* The control thread: whoever calls control_run. It starts the shards, takes the signals, drains and stops.
 *
 *                     all started                first signal, rondo_stop
 *   STARTING  ------------------------>  SERVING  ---------------------->  DRAINING  -----> every shard ended: return
 *      |                                   |                                  |
 *      | a shard can't start               | a shard fails                    | drain timeout, second signal
 *      +-----------------------------------+----------------------------------+--> ABORTING
 *
 * It never serves, so it always answers signals; and a shard never sees one. */
#ifndef RONDO_CORE_CONTROL_H
#define RONDO_CORE_CONTROL_H

#include <stdbool.h>

#include "core/shard.h"

struct control_config {
    unsigned shards;
    const char *engine; /* its name */
    struct engine_size engine_size;
    uint64_t drain_timeout_ms;

    const struct shard_hooks *hooks;
    void *context;                  /* for the hooks */
    void (*serving)(void *context); /* all shards have started; on the control thread */
};

struct control {
    const struct control_config *config;
    struct shard *shards;
    int events_fd;              /* an eventfd: a shard started or ended, or stop was asked for */
    atomic_bool stop_requested; /* by rondo_stop */
};

/* Serve until a signal or rondo_stop, then drain.
 * Returns 0, or a negative errno; what went wrong stands in the log. Restores the signal mask. */
int control_run(const struct control_config *config);

/* Wake the control thread. Thread: any. */
void control_notify(struct control *control);

#endif
