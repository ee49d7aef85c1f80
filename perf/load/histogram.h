/* A histogram of durations: every power of two is divided into 64 equal steps, so a value read back is at most
 * 1.6 % too high, whatever its size. */
#ifndef LOAD_HISTOGRAM_H
#define LOAD_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_STEP_BITS = 6, HISTOGRAM_SLOTS = (64 - HISTOGRAM_STEP_BITS + 1) << HISTOGRAM_STEP_BITS };

struct histogram {
    uint64_t slots[HISTOGRAM_SLOTS];
    uint64_t count, max;
};

void histogram_add(struct histogram *histogram, uint64_t value);

/* The smallest value that `fraction` (0 to 1) of all values don't exceed; 0 without values. */
uint64_t histogram_quantile(const struct histogram *histogram, double fraction);

#endif
