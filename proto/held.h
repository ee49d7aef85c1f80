/* Bytes of a message that came in pieces, put together in memory of their own. */
#ifndef RONDO_PROTO_HELD_H
#define RONDO_PROTO_HELD_H

#include <stdbool.h>
#include <stddef.h>

#include <rondo/bytes.h>

struct held {
    size_t size; /* bytes held */
    size_t capacity;
    size_t lent; /* bytes, from the first on, that were given out with the last result */
    char bytes[];
};

static inline size_t held_size(const struct held *held)
{
    return held == NULL ? 0 : held->size;
}

/* Room for `needed` bytes in all, growing by doubling, but not beyond `longest` unless that many are needed. *held may be
 * NULL, and is so no more. Returns false without memory; nothing has changed then. */
bool held_reserve(struct held **held, size_t needed, size_t longest);

/* Append; there is room. */
void held_append(struct held *held, rondo_bytes bytes);

void held_drop_first(struct held *held, size_t size);

#endif
