/* The bytes that travel: each is a function of its connection's origin and of its position there, so bytes that
 * are stale, misplaced or another connection's are found as surely as flipped ones. */
#ifndef LOAD_PAYLOAD_H
#define LOAD_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An endless repetition of one pattern, which lies in memory twice, one after the other: from anywhere in the
 * first at least `period` bytes can be sent, or compared, without a copy. */
struct payload {
    char *pattern;
    size_t period;
    size_t origin_step;
};

/* lines: messages of `size` bytes are lines of text, each ending in a newline.
 * Returns 0 or -ENOMEM. */
int payload_init(struct payload *payload, bool lines, size_t size);
void payload_fini(struct payload *payload);

/* Where connection `number` starts in the pattern. */
size_t payload_origin(const struct payload *payload, uint64_t number);

/* The bytes at a position of a stream. Sets `size` to how many can be had at once. */
const char *payload_at(const struct payload *payload, size_t origin, uint64_t position, size_t *size);

/* How many of these bytes, received at that position, are wrong. */
size_t payload_wrong(const struct payload *payload, size_t origin, uint64_t position, const char *data,
                     size_t size);

#endif
