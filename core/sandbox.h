/* The sandbox: a seccomp filter, by libseccomp, for the whole process, from the moment when all shards serve.
 *
 * Whoever takes over a server by a fault of its protocol finds no way to run another program, to look into other processes, to
 * make another ring, or to open a file for writing. The system calls that stay are those that running shards use:
 * core/sandbox.c lists them, each group with its use. All others fail with EPERM. What the rings may do is limited where
 * they are made (core/uring.c), since seccomp doesn't see it. */
#ifndef RONDO_CORE_SANDBOX_H
#define RONDO_CORE_SANDBOX_H

#define SANDBOX_WHY_BYTES 256

/* Enter it, for good, all threads together.
 *
 *   why   when it fails: a sentence; the process is as it was
 *
 * Returns 0 or a negative errno; -ENOTSUP: built without libseccomp. Thread: any. */
int sandbox_enter(char why[SANDBOX_WHY_BYTES]);

#endif
