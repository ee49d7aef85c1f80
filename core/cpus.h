/* Which CPUs this process may use: those of its affinity mask, and of their time what the quota of its cgroup
 * allows. Shares and weights say who is first when CPUs are short, not how many there are: they don't count.
 *
 * `root` stands before /proc and /sys: "" for the system's own; a directory of a test's making.
 *
 * Thread: any. */
#ifndef RONDO_CORE_CPUS_H
#define RONDO_CORE_CPUS_H

/* The CPUs on which the calling thread may run.
 *
 *   cpus       their numbers go here, ascending, as many as fit; NULL when capacity is 0
 *   capacity   how many fit
 *
 * Returns how many there are, also when that is more than capacity; 0 when the kernel won't tell. */
unsigned cpus_allowed(int *cpus, unsigned capacity);

/* How many CPUs' worth of time the cgroup, v1 or v2, and those above it leave to this process: 0.5 is every
 * second moment of one CPU. 0: there is no quota, or none that can be read. */
double cpus_quota(const char *root);

/* How many shards can run at once: the CPUs allowed, or the quota rounded up if that is less. At least 1. */
unsigned cpus_shards(const char *root);

#endif
