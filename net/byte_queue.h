/* A queue of bytes: a transport's output, and its inbox while reading is paused.
 *
 * It holds bytes in three ways: lent (in a receive buffer, kept by reference), copied, and static (the user's, for
 * ever). What has been put in stays where it is until it is consumed, so a send may point to it; putting more
 * in never moves or writes what is there already. */
#ifndef RONDO_NET_BYTE_QUEUE_H
#define RONDO_NET_BYTE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include <rondo/bytes.h>

#include "core/buffers.h"

enum segment_kind { SEGMENT_LENT, SEGMENT_COPY, SEGMENT_STATIC };

struct segment {
    struct segment *next; /* behind the last one: the first */
    rondo_bytes bytes;
    enum segment_kind kind;
    unsigned room; /* SEGMENT_COPY: bytes free behind these */
};

/* What the queues of a shard share: its receive buffers, and segments that nobody uses now. So an echo allocates
 * nothing, and an idle connection holds no segment. */
struct segments {
    struct buffers *buffers;
    struct segment *spare; /* newest first: it is in the cache */
    unsigned spare_count;
};

struct byte_queue {
    struct segment *last; /* NULL: empty */
    size_t size;          /* bytes in it */
    unsigned lent;        /* segments that keep a buffer */
};

void segments_init(struct segments *segments, struct buffers *buffers);

/* Every queue is empty: free the spare ones. */
void segments_close(struct segments *segments);

static inline bool byte_queue_is_empty(const struct byte_queue *queue)
{
    return queue->last == NULL;
}

/* Put bytes at the end; 0 bytes do nothing. False: no memory, and nothing was put in. */
bool byte_queue_put_copy(struct byte_queue *queue, rondo_bytes bytes);
bool byte_queue_put_static(struct byte_queue *queue, struct segments *segments, rondo_bytes bytes);
bool byte_queue_put_lent(struct byte_queue *queue, struct segments *segments, rondo_bytes bytes);

/* Put a copy before all that is in it. */
bool byte_queue_put_front(struct byte_queue *queue, rondo_bytes bytes);

/* Put bytes at the end if they lie right behind the last lent ones: then they need no further reference. (Two buffers never
 * touch, so they lie in the same one.) False: they don't. */
static inline bool byte_queue_go_on(struct byte_queue *queue, rondo_bytes bytes)
{
    struct segment *last = queue->last;
    if (last == NULL || last->kind != SEGMENT_LENT || last->bytes.data + last->bytes.size != bytes.data)
        return false;
    last->bytes.size += bytes.size;
    queue->size += bytes.size;
    return true;
}

/* How many of its bytes are lent. */
size_t byte_queue_lent_bytes(const struct byte_queue *queue);

/* The first bytes, as they lie; none when it is empty. */
rondo_bytes byte_queue_front(const struct byte_queue *queue);

/* The first slices, at most `max`. Returns how many; *size: their bytes. */
unsigned byte_queue_slices(const struct byte_queue *queue, struct iovec *slices, unsigned max, size_t *size);

/* Take `size` bytes off the front: buffers return, copies are freed. At most what is in it. */
void byte_queue_consume(struct byte_queue *queue, struct segments *segments, size_t size);

/* Copy all that is lent, so that its buffers return. Nothing of the queue may be in the kernel. False: no
 * memory; what was not copied stays lent. */
bool byte_queue_copy_lent(struct byte_queue *queue, struct segments *segments);

void byte_queue_clear(struct byte_queue *queue, struct segments *segments);

#endif
