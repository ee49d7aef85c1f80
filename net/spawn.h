/* Start a program: pipes, descriptors, signals, posix_spawn. Knows no transport. */
#ifndef RONDO_NET_SPAWN_H
#define RONDO_NET_SPAWN_H

#include <rondo/subprocess.h>

struct spawned {
    pid_t pid;
    int pidfd;
    int pipes[3]; /* this process's ends, set not to block; -1: there is none */
};

/* Returns 0, and all descriptors are the caller's; or a negative errno, with a line in the log. */
int spawn(const char *const *argv, const rondo_subprocess_options *options, struct spawned *spawned);

/* Kill it, wait for its end, and close all. */
void spawn_undo(struct spawned *spawned);

#endif
