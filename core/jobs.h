/* The jobs of <rondo/executor.h>: those of users, which the shard answers for. */
#ifndef RONDO_CORE_JOBS_H
#define RONDO_CORE_JOBS_H

#include <rondo/executor.h>

/* The shard aborts: cancel all. */
void jobs_abort(rondo_loop *loop);

#endif
