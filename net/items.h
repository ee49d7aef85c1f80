/* What leaves in order between a transport's bytes: files (net/sendfile.c), and descriptors that a unix socket passes
 * (net/descriptors.c). */
#ifndef RONDO_NET_ITEMS_H
#define RONDO_NET_ITEMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/transport.h"

enum item_kind { ITEM_FILE, ITEM_DESCRIPTOR };

struct item {
    struct item *next;
    enum item_kind kind;
    int fd;              /* the item's own */
    size_t bytes_before; /* of the output that leave first, counted from the item before this one */

    /* A file. */
    uint64_t offset, left;
    int64_t sent_bytes;
    void (*sent)(rondo_transport *t, int64_t nbytes);
    char *chunk; /* read, and on its way out */
    size_t chunk_room, chunk_bytes, chunk_sent;

    /* The first of the descriptors that leave together: what sendmsg needs. */
    struct passing *passing;
};

/* Put an item behind all that is queued. It gets a duplicate of `fd`.
 * Returns 0 with *item, all but its fd, kind and place zero; -EBADF, -EMFILE or -ENOMEM. */
int items_put(rondo_transport *t, enum item_kind kind, int fd, struct item **item);

/* The item in front, when all bytes before it have left; else NULL. */
static inline struct item *items_due(const rondo_transport *t)
{
    return t->items != NULL && t->items->bytes_before == 0 ? t->items : NULL;
}

/* Remove the item in front. */
void items_pop(rondo_transport *t);

/* `size` bytes of the output have left. */
static inline void items_move_up(rondo_transport *t, size_t size)
{
    if (t->items != NULL)
        t->items->bytes_before -= size;
}

void items_clear(rondo_transport *t);

/* Go on with the file in front: read, send, or be done with it. */
void file_settle(rondo_transport *t, struct item *file);

/* Pass the descriptors in front, together with the bytes behind them, of which there must be some. */
void descriptors_arm(rondo_transport *t);

#endif
