#include "core/buffers.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

#include "core/memory.h"

#if defined(__SANITIZE_ADDRESS__)
#define POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POISONS 1
#endif
#endif

#ifdef POISONS
#include <sanitizer/asan_interface.h>
#define poison(memory, size)   ASAN_POISON_MEMORY_REGION(memory, size)
#define unpoison(memory, size) ASAN_UNPOISON_MEMORY_REGION(memory, size)
#else
#define poison(memory, size)   ((void)0)
#define unpoison(memory, size) ((void)0)
#endif

/* Buffers one power of two apart would all begin in the same few sets of the caches: 64-byte messages in a thousand
 * of them would evict one another from a cache that is nearly empty. One cache line more spreads them. */
#define COLOUR_BYTES 64

int buffers_open(struct buffers *buffers, unsigned count, size_t size_bytes)
{
    assert(count > 0 && count <= 32768 && size_bytes % COLOUR_BYTES == 0);
    *buffers = (struct buffers){
        .stride_bytes = size_bytes + COLOUR_BYTES,
        .size_bytes = size_bytes,
        .count = count,
    };
    buffers->mapped_bytes = count * buffers->stride_bytes;
    buffers->references = memory_new(count * sizeof *buffers->references);
    buffers->returned = memory_new(count * sizeof *buffers->returned);
    /* Pages come when the kernel first writes to them: a server of small messages never pays for large buffers. */
    void *memory = mmap(NULL, buffers->mapped_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    buffers->memory = memory == MAP_FAILED ? NULL : memory;
    if (buffers->references == NULL || buffers->returned == NULL || buffers->memory == NULL) {
        buffers_close(buffers);
        return -ENOMEM;
    }
    poison(buffers->memory, buffers->mapped_bytes);
    return 0;
}

void buffers_close(struct buffers *buffers)
{
    assert(buffers->lent == 0);
    if (buffers->memory != NULL) {
        unpoison(buffers->memory, buffers->mapped_bytes);
        munmap(buffers->memory, buffers->mapped_bytes);
    }
    memory_free(buffers->references);
    memory_free(buffers->returned);
    *buffers = (struct buffers){ 0 };
}

char *buffers_at(const struct buffers *buffers, unsigned index)
{
    assert(index < buffers->count);
    return buffers->memory + index * buffers->stride_bytes;
}

unsigned buffers_index(const struct buffers *buffers, const void *data)
{
    assert(buffers_own(buffers, data));
    return (unsigned)(((uintptr_t)data - (uintptr_t)buffers->memory) / buffers->stride_bytes);
}

rondo_bytes buffers_lend(struct buffers *buffers, unsigned index, size_t size)
{
    assert(buffers->references[index] == 0 && size <= buffers->size_bytes);
    buffers->references[index] = 1;
    buffers->lent++;
    unpoison(buffers_at(buffers, index), size);
    return (rondo_bytes){ buffers_at(buffers, index), size };
}

void buffers_ref(struct buffers *buffers, const void *data)
{
    unsigned index = buffers_index(buffers, data);
    assert(buffers->references[index] > 0 && buffers->references[index] < UINT32_MAX);
    buffers->references[index]++;
}

void buffers_unref(struct buffers *buffers, const void *data)
{
    unsigned index = buffers_index(buffers, data);
    assert(buffers->references[index] > 0);
    if (--buffers->references[index] > 0)
        return;
    poison(buffers_at(buffers, index), buffers->size_bytes);
    buffers->lent--;
    buffers->returned[buffers->returned_count++] = (uint16_t)index;
}

unsigned buffers_take_returned(struct buffers *buffers, uint16_t *indices)
{
    unsigned count = buffers->returned_count;
    for (unsigned i = 0; i < count; i++)
        indices[i] = buffers->returned[i];
    buffers->returned_count = 0;
    return count;
}
