/* Passing descriptors over a unix socket: each leaves with the next byte that is written behind it; those between which
 * nothing was written leave together. */
#include <errno.h>
#include <string.h>

#include "core/memory.h"
#include "net/items.h"
#include "net/message.h"

#define SLICES_MAX 8

/* The kernel's from the send until its completion. */
struct passing {
    struct msghdr header;
    struct iovec slices[SLICES_MAX];
    unsigned count; /* of descriptors */
    _Alignas(struct cmsghdr) char control[];
};

static void descriptors_done(struct op *op, const struct completion *completion);

/* How many of the items from this one on leave with one byte. */
static unsigned count_together(const struct item *first)
{
    unsigned count = 1;
    for (const struct item *i = first->next; i != NULL && i->kind == ITEM_DESCRIPTOR && i->bytes_before == 0;
         i = i->next)
        count++;
    return count;
}

/* How many would leave with the next byte, if one more was queued. */
static unsigned count_with_one_more(const rondo_transport *t)
{
    size_t behind = t->output.size;
    unsigned count = 0;
    for (const struct item *i = t->items; i != NULL; i = i->next) {
        count = i->kind != ITEM_DESCRIPTOR ? 0 : i->bytes_before == 0 ? count + 1 : 1;
        behind -= i->bytes_before;
    }
    return behind == 0 ? count + 1 : 1;
}

int rondo_send_file_descriptor(rondo_transport *t, int fd)
{
    assert(loop_is_here(t->loop));
    if (!t->is_unix || t->kind != STREAM)
        return -ENOTSUP;
    if (!send_is_allowed(t))
        return -EPIPE;
    if (count_with_one_more(t) > MESSAGE_DESCRIPTORS_MAX)
        return -ETOOMANYREFS;
    struct item *item;
    return items_put(t, ITEM_DESCRIPTOR, fd, &item);
}

static struct passing *passing_new(const struct item *first)
{
    unsigned count = count_together(first);
    size_t control_bytes = CMSG_SPACE(count * sizeof(int));
    struct passing *passing = memory_new(sizeof *passing + control_bytes);
    if (passing == NULL)
        return NULL;
    passing->count = count;
    passing->header = (struct msghdr){
        .msg_iov = passing->slices,
        .msg_control = passing->control,
        .msg_controllen = control_bytes,
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&passing->header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (const struct item *i = first; count > 0; i = i->next, count--)
        memcpy(CMSG_DATA(c) + (passing->count - count) * sizeof(int), &i->fd, sizeof(int));
    return passing;
}

/* The bytes up to the next item. */
static size_t bytes_behind(const rondo_transport *t, const struct passing *passing)
{
    const struct item *next = t->items;
    for (unsigned i = 0; i < passing->count; i++)
        next = next->next;
    return next == NULL ? t->output.size : next->bytes_before;
}

void descriptors_arm(rondo_transport *t)
{
    struct item *first = t->items;
    if (first->passing == NULL)
        first->passing = passing_new(first);
    if (first->passing == NULL) {
        rondo_log(RONDO_LOG_ERROR, "%s: no memory to pass descriptors: connection ended", transport_name(t));
        transport_fail(t, -ENOMEM);
        return;
    }
    struct passing *passing = first->passing;
    passing->header.msg_iovlen = send_slices(t, bytes_behind(t, passing), passing->slices, SLICES_MAX);
    t->send.done = descriptors_done;
    engine_send_message(t->loop->engine, &t->send, t->fd, &passing->header,
                        t->send_waits ? SEND_WAITS : SEND_NOW);
}

static void descriptors_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = rondo_container_of(op, rondo_transport, send);
    if (completion->result > 0) { /* with its first byte all of them have left */
        for (unsigned count = t->items->passing->count; count > 0; count--)
            items_pop(t);
    }
    send_output_ended(t, completion->result);
}
