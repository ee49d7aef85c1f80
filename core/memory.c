#include "core/memory.h"

#include <stdlib.h>

#ifdef RONDO_JEMALLOC
#include <jemalloc/jemalloc.h>

#include <rondo/log.h>

void *memory_new(size_t size)
{
    return mallocx(size, MALLOCX_ZERO);
}

void *memory_alloc(size_t size)
{
    return mallocx(size, 0);
}

void *memory_resize(void *memory, size_t size)
{
    return memory == NULL ? mallocx(size, 0) : rallocx(memory, size, 0);
}

void memory_free(void *memory)
{
    if (memory != NULL)
        dallocx(memory, 0);
}

void memory_begin_shard(void)
{
    unsigned arena;
    size_t size = sizeof arena;
    int error = mallctl("arenas.create", &arena, &size, NULL, 0);
    if (error == 0)
        error = mallctl("thread.arena", NULL, NULL, &arena, sizeof arena);
    if (error != 0)
        rondo_log(RONDO_LOG_DEBUG, "no jemalloc arena of its own for this shard: error %d", error);
}

#else /* the C library's names, which the sanitizers watch */

void *memory_new(size_t size)
{
    return calloc(1, size);
}

void *memory_alloc(size_t size)
{
    return malloc(size);
}

void *memory_resize(void *memory, size_t size)
{
    return realloc(memory, size);
}

void memory_free(void *memory)
{
    free(memory);
}

void memory_begin_shard(void)
{
}

#endif
