/* The C library's, which the sanitizer watches. */
#include "core/memory.h"

#include <stdlib.h>

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
