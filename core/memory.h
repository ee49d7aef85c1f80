/* Memory: jemalloc, with an arena for each shard, so that shards neither wait for nor fragment one another.
 *
 * In sanitizer builds it comes from the sanitizer, behind the same calls. What one thread allocated may be freed by
 * another. */
#ifndef RONDO_CORE_MEMORY_H
#define RONDO_CORE_MEMORY_H

#include <stddef.h>

/* `size` zeroed bytes, aligned for any type; NULL when there are none. */
void *memory_new(size_t size);

/* `size` bytes, not zeroed; NULL when there are none. */
void *memory_alloc(size_t size);

/* Grow or shrink, keeping the content; NULL when there is no memory, and the old stays. From NULL it allocates. */
void *memory_resize(void *memory, size_t size);

void memory_free(void *memory);

/* Give the calling thread an arena of its own, until it ends. Without arenas it shares the common one. */
void memory_begin_shard(void);

#endif
