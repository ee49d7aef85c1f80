/* What a shard serves: its servers, its transports, and the user's own state of the shard. */
#ifndef RONDO_NET_SERVICE_H
#define RONDO_NET_SERVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/app.h>

#include "core/loop.h"
#include "core/shard.h"
#include "net/byte_queue.h"

/* The same for all shards; only `connections` changes while they run. */
struct service_settings {
    const rondo_app *app;
    struct addresses *servers; /* of the app's */
    unsigned server_count;
    struct health *health;    /* of all of them */
    uint64_t idle_timeout_ms; /* 0: none */
    unsigned max_connections; /* 0: no limit */
    atomic_uint connections;  /* of all shards; counted only when there is a limit */
    atomic_bool limit_logged;
};

/* What a draining shard stops first: connections being made, and what makes new ones. */
struct stoppable {
    struct rondo_link in_service;
    /* End it, now, with all that is to be told. It has left the list. Called from the loop. */
    void (*stop)(struct stoppable *stoppable);
};

struct service {
    /* One cache line: what a byte touches on its way. */
    struct segments segments;     /* of its transports' queues */
    rondo_transport *last_marked; /* of a ring, to be looked at before the next system call; NULL: of none */
    rondo_call settle;            /* looks at them */
    size_t unread;                /* bytes that data_received hands back, while it is called */

    rondo_loop *loop;
    struct service_settings *settings;
    struct rondo_link transports; /* but those that linger, or did */
    struct rondo_link lingering;  /* the longest first */
    rondo_timer linger_timer;
    struct rondo_link stoppables;
    struct rondo_link servers;
    rondo_server **app_servers; /* those of the app; NULL: gone */
    unsigned wide_count;        /* transports with a wide receive window */
    bool draining, aborting;
    bool was_started; /* the app's shard_start has succeeded */
    void *shard_state;
};

/* Nothing served yet. */
void service_init(struct service *service, rondo_loop *loop, struct service_settings *settings);

/* Nothing is served any more. */
void service_close(struct service *service);

/* The service of a shard. */
static inline struct service *service_of(const rondo_loop *loop)
{
    return loop->upstairs;
}

/* Is there room for one more connection? Then it is counted. */
bool service_admit(struct service *service);
void service_forget(struct service *service);

/* Close, drain or cancel all of them: what frees none. */
void service_for_each_transport(struct service *service, void (*act)(rondo_transport *t));

/* For control_run, with the settings as context. */
extern const struct shard_hooks service_hooks;

#endif
