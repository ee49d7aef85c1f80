/* The control thread: whoever calls control_run. It starts the shards, takes the signals, drains and stops.
 *
 *   OPENING    shards open their loops; where locked memory is short, all again with engines half as large
 *   STARTING   all are open: shards begin to serve
 *   SERVING    all serve, until the first signal, or rondo_stop
 *   LEAVING    they still do, but who asks is told that the server isn't ready: for so long as others need to hear of it
 *   DRAINING   each shard ends when nothing uses its loop any more; when all have, control_run returns
 *   ABORTING   at the drain timeout, at a second signal, or when a shard fails: what is left ends at once
 *
 * It never serves, so it always answers signals; and a shard never sees one. */
#ifndef RONDO_CORE_CONTROL_H
#define RONDO_CORE_CONTROL_H

#include <stdbool.h>

#include "core/shard.h"

struct control_config {
    unsigned shards;
    const char *engine;             /* its name; of "auto" all shards take the same */
    struct engine_size engine_size; /* at most */
    bool has_sandbox;               /* enter it when all shards have started */
    uint64_t drain_delay_ms;        /* before the drain: served as before, but not ready any more */
    uint64_t drain_timeout_ms;

    const struct shard_hooks *hooks;
    void *context;                  /* for the hooks */
    void (*serving)(void *context); /* all shards have started; on the control thread */
    int asked_fd; /* readable when somebody asks whether the server is ready; -1: nobody can */
    void (*asked)(void *context, bool is_ready); /* then, on the control thread */
};

struct control {
    const struct control_config *config;
    const char *engine; /* of each shard, and its size */
    struct engine_size engine_size;
    char why_not_uring[ENGINE_WHY_BYTES]; /* a sentence, when "auto" took another one */
    struct shard *shards;
    unsigned shard_count;       /* threads started and not yet joined */
    int events_fd;              /* an eventfd: a shard started or ended, or stop was asked for */
    atomic_bool stop_requested; /* by rondo_stop */
    bool is_ready;
};

/* Serve until a signal or rondo_stop, then drain.
 * Returns 0, or a negative errno; what went wrong stands in the log. Restores the signal mask. */
int control_run(const struct control_config *config);

/* Wake the control thread. Thread: any. */
void control_notify(struct control *control);

#endif
