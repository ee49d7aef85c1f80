/* Intrusive lists: circular, with the head as a link like the others, so that whoever is linked can leave without
 * knowing in which list it is. A zeroed link is in no list. */
#ifndef RONDO_CORE_LIST_H
#define RONDO_CORE_LIST_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

#include <rondo/loop.h>

static inline void list_init(struct rondo_link *list)
{
    list->next = list->previous = list;
}

static inline bool list_is_empty(const struct rondo_link *list)
{
    return list->next == list;
}

static inline bool list_contains_link(const struct rondo_link *link)
{
    return link->next != NULL;
}

static inline void list_push(struct rondo_link *list, struct rondo_link *link)
{
    assert(!list_contains_link(link));
    link->previous = list->previous;
    link->next = list;
    list->previous->next = link;
    list->previous = link;
}

static inline void list_remove(struct rondo_link *link)
{
    assert(list_contains_link(link));
    link->previous->next = link->next;
    link->next->previous = link->previous;
    link->next = link->previous = NULL;
}

/* The first link, removed; NULL when the list is empty. */
static inline struct rondo_link *list_pop(struct rondo_link *list)
{
    if (list_is_empty(list))
        return NULL;
    struct rondo_link *first = list->next;
    list_remove(first);
    return first;
}

/* Move everything to the end of `to`. */
static inline void list_move_all(struct rondo_link *from, struct rondo_link *to)
{
    if (list_is_empty(from))
        return;
    from->next->previous = to->previous;
    to->previous->next = from->next;
    from->previous->next = to;
    to->previous = from->previous;
    list_init(from);
}

#endif
