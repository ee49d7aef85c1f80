#include "net/items.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "core/memory.h"

/* Where the next item goes; *bytes: how much of the output lies before it and behind the one before. */
static struct item **end_of(rondo_transport *t, size_t *bytes)
{
    struct item **link = &t->items;
    *bytes = t->output.size;
    for (; *link != NULL; link = &(*link)->next)
        *bytes -= (*link)->bytes_before;
    return link;
}

int items_put(rondo_transport *t, enum item_kind kind, int fd, struct item **item)
{
    struct item *new = memory_new(sizeof *new);
    if (new == NULL)
        return -ENOMEM;
    new->kind = kind;
    new->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (new->fd < 0) {
        int error = -errno;
        memory_free(new);
        return error;
    }
    *end_of(t, &new->bytes_before) = new;
    *item = new;
    return 0;
}

void items_pop(rondo_transport *t)
{
    struct item *item = t->items;
    t->items = item->next;
    close(item->fd);
    memory_free(item->chunk);
    memory_free(item->passing);
    memory_free(item);
}

void items_clear(rondo_transport *t)
{
    while (t->items != NULL)
        items_pop(t);
}
