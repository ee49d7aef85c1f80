/* The receive buffers of a shard: one mapping, cut into equal buffers.
 *
 *            provide                    lend                          (last) unref
 *   ours  ------------->  kernel's  ------------->  lent, counted  ----------------->  returned
 *     ^                                                                                    |
 *     +------------------------------ take_returned, in batches ---------------------------+
 *
 * A kernel that fills buffers piece by piece goes on filling one of which pieces are lent already; the buffer is returned
 * when it has been filled, and all its pieces have come back.
 *
 * Whether bytes lie in a lent buffer is seen by their address, so whoever holds such bytes can keep them with
 * buffers_ref, without a word from whom it got them. In ASan builds what isn't lent is poisoned: the kernel's writes
 * pass by the shadow memory, so whoever reads a buffer already given back is caught. */
#ifndef RONDO_CORE_BUFFERS_H
#define RONDO_CORE_BUFFERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/bytes.h>

struct buffer {
    uint32_t references; /* to its pieces; 0: nothing of it is lent */
    uint32_t filled;     /* bytes, since it was provided */
    bool is_filling;     /* and the kernel goes on */
};

struct buffers {
    char *memory;
    size_t mapped_bytes;
    unsigned stride_shift; /* from one buffer to the next are 2 to the power of this many bytes */
    size_t size_bytes;     /* of a buffer */
    unsigned count;
    bool is_pieced; /* the kernel fills them piece by piece */
    unsigned lent;  /* how many are lent, or a piece of them */
    unsigned returned_count;
    struct buffer *each;
    uint16_t *returned; /* those that came back and were not taken */
};

/* Returns 0 or -ENOMEM. count: at most 32768. */
int buffers_open(struct buffers *buffers, unsigned count, size_t size_bytes);

/* Unmap. None may be lent (asserted). */
void buffers_close(struct buffers *buffers);

/* Where buffer `index` begins. */
char *buffers_at(const struct buffers *buffers, unsigned index);

/* The kernel filled the next `size` bytes of buffer `index`, and will go on filling it, or not: lend them, with one
 * reference, the caller's. */
rondo_bytes buffers_lend(struct buffers *buffers, unsigned index, size_t size, bool goes_on);

/* For who fills them itself: all are ours, as if they had been lent and come back. */
void buffers_return_all(struct buffers *buffers);

/* Where the next bytes of buffer `index`, which was taken, go: behind those that are lent, or, if none is, to its
 * beginning. In ASan builds it's poisoned. */
rondo_buffer buffers_room(struct buffers *buffers, unsigned index);

/* Do these bytes lie in a buffer? Any address may be asked for. */
static inline bool buffers_own(const struct buffers *buffers, const void *data)
{
    return (uintptr_t)data - (uintptr_t)buffers->memory < buffers->mapped_bytes;
}

/* Which buffer do they lie in? They must. */
unsigned buffers_index(const struct buffers *buffers, const void *data);

/* Keep the buffer in which these bytes lie; it must be lent (asserted). */
void buffers_ref(struct buffers *buffers, const void *data);

/* Let it go; with the last reference it is returned, unless the kernel goes on filling it. */
void buffers_unref(struct buffers *buffers, const void *data);

/* Take returned buffers, at most `max`: the last one first, since it is the likeliest to be in the cache. Their indices go to
 * `indices`. Returns how many. */
unsigned buffers_take_returned(struct buffers *buffers, uint16_t *indices, unsigned max);

#endif
