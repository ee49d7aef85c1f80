/* What the kernel's books say about a process. */
#ifndef LOAD_PROCESS_H
#define LOAD_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

/* CPU time of all its threads, in nanoseconds; those that ended already don't count.
 * Taken from the scheduler, because the tick behind utime and stime is a thousand times coarser.
 * Returns a negative errno, -ENOENT when there is no such process. */
int64_t process_cpu_ns(pid_t pid);

/* Its resident memory in bytes, or a negative errno.
 * From smaps_rollup, which counts pages: VmRSS is the sum of counters that each CPU updates in batches, and on
 * two CPUs may be off by half a megabyte. */
int64_t process_resident_bytes(pid_t pid);

/* The most that was resident since process_forget_peak, which returns 0 or a negative errno. */
int64_t process_peak_bytes(pid_t pid);
int process_forget_peak(pid_t pid);

#endif
