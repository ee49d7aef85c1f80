#include "proto/held.h"

#include <assert.h>
#include <string.h>

#include "core/memory.h"

#define FIRST_CAPACITY (64 - sizeof(struct held))

bool held_reserve(struct held **held, size_t needed, size_t longest)
{
    size_t before = *held == NULL ? 0 : (*held)->capacity;
    if (needed <= before && *held != NULL)
        return true;
    size_t doubled = 2 * before > FIRST_CAPACITY ? 2 * before : FIRST_CAPACITY;
    size_t capacity = doubled < longest ? doubled : longest;
    if (capacity < needed)
        capacity = needed;
    struct held *larger = memory_resize(*held, sizeof *larger + capacity);
    if (larger == NULL)
        return false;
    if (*held == NULL)
        larger->size = larger->lent = 0;
    larger->capacity = capacity;
    *held = larger;
    return true;
}

void held_append(struct held *held, rondo_bytes bytes)
{
    assert(bytes.size <= held->capacity - held->size);
    memcpy(held->bytes + held->size, bytes.data, bytes.size);
    held->size += bytes.size;
}

void held_drop_first(struct held *held, size_t size)
{
    if (size == 0)
        return;
    held->size -= size;
    memmove(held->bytes, held->bytes + size, held->size);
}
