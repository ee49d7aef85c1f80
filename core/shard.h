/* A shard: one thread, one loop, nothing shared. Started, ordered about and joined by the control thread. */
#ifndef RONDO_CORE_SHARD_H
#define RONDO_CORE_SHARD_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/loop.h"

/* What the floor above does with a shard. Thread: the shard's. */
struct shard_hooks {
    /* Begin to serve. Returns 0; or a negative errno, having logged why and begun to end all that it did. */
    int (*start)(rondo_loop *loop, void *context);
    /* Finish: nothing new, what there is to its orderly end. The loop ends when nothing uses it any more. */
    void (*drain)(rondo_loop *loop);
    /* End everything at once; comes after drain. */
    void (*abort)(rondo_loop *loop);
    /* The loop has ended: free what start made, also when it failed. */
    void (*stop)(rondo_loop *loop);
};

/* OPEN: its loop turns, but it serves nothing yet. */
enum shard_state { SHARD_OPENING, SHARD_OPEN, SHARD_SERVING, SHARD_ENDED };

struct shard {
    rondo_loop loop;
    pthread_t thread;
    struct control *control;
    int cpu; /* to be pinned to; -1: none */

    _Atomic enum shard_state state;
    bool started;               /* the hooks' start has been called; its own thread's, as the next */
    bool serves;                /* with success */
    int error;                  /* why it ended, if not in order; read after SHARD_ENDED */
    char why[ENGINE_WHY_BYTES]; /* its engine could not be opened */

    rondo_call serve, drain, abort, report; /* orders in the mailbox */
    atomic_bool reporting;                  /* the last report has not run yet */
};

/* Start the thread, which opens the loop. Returns 0 or a negative errno. Thread: the control thread, as for all of these. */
int shard_open(struct shard *shard, struct control *control, unsigned index, int cpu);

/* Orders; they do nothing to a shard that has ended. */
void shard_serve(struct shard *shard);
void shard_drain(struct shard *shard);
void shard_abort(struct shard *shard);
void shard_report(struct shard *shard); /* a line of JSON on stderr */

/* Wait for the end of its thread, and free its loop. */
void shard_join(struct shard *shard);

#endif
