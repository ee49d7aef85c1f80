#include "core/buffers.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

#include "core/memory.h"
#include "core/sanitizers.h"

/* Buffers a power of two apart are found without a division, but would all begin in the same few sets of the caches:
 * 64-byte messages in a thousand of them would evict one another from a cache that is nearly empty. So each begins
 * a cache line later than the one before it, for some; what that leaves out is address space, not memory. */
#define LINE_BYTES   64
#define COLOURS      64
#define COLOUR_BYTES (COLOURS * LINE_BYTES)

static unsigned shift_for(size_t size_bytes)
{
    unsigned shift = 0;
    while (((size_t)1 << shift) < size_bytes + COLOUR_BYTES)
        shift++;
    return shift;
}

int buffers_open(struct buffers *buffers, unsigned count, size_t size_bytes)
{
    assert(count > 0 && count <= 32768 && size_bytes % LINE_BYTES == 0);
    *buffers = (struct buffers){
        .stride_shift = shift_for(size_bytes),
        .size_bytes = size_bytes,
        .count = count,
    };
    buffers->mapped_bytes = (size_t)count << buffers->stride_shift;
    buffers->each = memory_new(count * sizeof *buffers->each);
    buffers->returned = memory_new(count * sizeof *buffers->returned);
    /* Pages come when the kernel first writes to them: a server of small messages never pays for large buffers. */
    void *memory = mmap(NULL, buffers->mapped_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    buffers->memory = memory == MAP_FAILED ? NULL : memory;
    if (buffers->each == NULL || buffers->returned == NULL || buffers->memory == NULL) {
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
    memory_free(buffers->each);
    memory_free(buffers->returned);
    *buffers = (struct buffers){ 0 };
}

char *buffers_at(const struct buffers *buffers, unsigned index)
{
    assert(index < buffers->count);
    return buffers->memory + ((size_t)index << buffers->stride_shift) + index % COLOURS * LINE_BYTES;
}

unsigned buffers_index(const struct buffers *buffers, const void *data)
{
    assert(buffers_own(buffers, data));
    return (unsigned)(((uintptr_t)data - (uintptr_t)buffers->memory) >> buffers->stride_shift);
}

rondo_bytes buffers_lend(struct buffers *buffers, unsigned index, size_t size, bool goes_on)
{
    struct buffer *buffer = &buffers->each[index];
    char *data = buffers_at(buffers, index) + buffer->filled;
    assert(buffer->references == 0 || buffer->is_filling);
    assert(size <= buffers->size_bytes - buffer->filled);
    buffer->filled += (uint32_t)size;
    buffer->is_filling = goes_on;
    if (buffer->references++ == 0)
        buffers->lent++;
    unpoison(data, size);
    return (rondo_bytes){ data, size };
}

void buffers_return_all(struct buffers *buffers)
{
    assert(buffers->lent == 0);
    for (buffers->returned_count = 0; buffers->returned_count < buffers->count; buffers->returned_count++)
        buffers->returned[buffers->returned_count] = (uint16_t)(buffers->count - 1 - buffers->returned_count);
}

rondo_buffer buffers_room(struct buffers *buffers, unsigned index)
{
    struct buffer *buffer = &buffers->each[index];
    if (buffer->references == 0)
        buffer->filled = 0;
    return (rondo_buffer){ buffers_at(buffers, index) + buffer->filled,
                           buffers->size_bytes - buffer->filled };
}

void buffers_ref(struct buffers *buffers, const void *data)
{
    struct buffer *buffer = &buffers->each[buffers_index(buffers, data)];
    assert(buffer->references > 0 && buffer->references < UINT32_MAX);
    buffer->references++;
}

void buffers_unref(struct buffers *buffers, const void *data)
{
    unsigned index = buffers_index(buffers, data);
    struct buffer *buffer = &buffers->each[index];
    assert(buffer->references > 0);
    if (--buffer->references > 0)
        return;
    buffers->lent--;
    poison(buffers_at(buffers, index), buffer->filled);
    if (buffer->is_filling)
        return;
    buffer->filled = 0;
    buffers->returned[buffers->returned_count++] = (uint16_t)index;
}

unsigned buffers_take_returned(struct buffers *buffers, uint16_t *indices, unsigned max)
{
    unsigned count = 0;
    while (count < max && buffers->returned_count > 0)
        indices[count++] = buffers->returned[--buffers->returned_count];
    return count;
}
