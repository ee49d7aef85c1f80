#include "histogram.h"

enum { STEPS = 1 << HISTOGRAM_STEP_BITS };

/* How many low bits a value loses: none below two times STEPS. */
static unsigned lost_bits(uint64_t value)
{
    unsigned width = 64 - __builtin_clzll(value | 1);
    return width > HISTOGRAM_STEP_BITS + 1 ? width - HISTOGRAM_STEP_BITS - 1 : 0;
}

/* What is left of the value lies from STEPS to 2 * STEPS, so the slots of neighbouring powers adjoin. */
static unsigned slot_of(uint64_t value)
{
    unsigned lost = lost_bits(value);
    return lost * STEPS + (value >> lost);
}

static uint64_t highest_in(unsigned slot)
{
    if (slot < 2 * STEPS)
        return slot;
    unsigned lost = slot / STEPS - 1;
    uint64_t kept = slot - lost * STEPS;
    return ((kept + 1) << lost) - 1;
}

void histogram_add(struct histogram *histogram, uint64_t value)
{
    histogram->slots[slot_of(value)]++;
    histogram->count++;
    if (value > histogram->max)
        histogram->max = value;
}

uint64_t histogram_quantile(const struct histogram *histogram, double fraction)
{
    uint64_t seen = 0;
    for (unsigned slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
        seen += histogram->slots[slot];
        if (seen > 0 && seen >= fraction * histogram->count)
            return highest_in(slot) < histogram->max ? highest_in(slot) : histogram->max;
    }
    return histogram->max;
}
