/* Reads of files that would wait for a disk, made by helper threads: for engines that can't leave them to the kernel. */
#ifndef RONDO_CORE_SLOW_READS_H
#define RONDO_CORE_SLOW_READS_H

#include "core/loop.h"

/* From now on the loop's engine has them made so. Thread: the loop's. */
void slow_reads_lend(rondo_loop *loop);

#endif
