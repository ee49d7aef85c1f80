#include "proto/read_buffer.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "core/memory.h"

#define BLOCK_MIN_BYTES 1024
#define FIRST_WINDOW    256

struct read_block {
    size_t room, used;
    char bytes[];
};

static struct read_block *block_new(size_t needed)
{
    size_t size = BLOCK_MIN_BYTES;
    while (size < SIZE_MAX / 4 && size - sizeof(struct read_block) < needed)
        size *= 2;
    struct read_block *block = memory_alloc(size);
    if (block != NULL) {
        block->room = size - sizeof *block;
        block->used = 0;
    }
    return block;
}

static void append(struct read_block *block, rondo_bytes data)
{
    memcpy(block->bytes + block->used, data.data, data.size);
    block->used += data.size;
}

/* The slice that is out, if it is, keeps the block that it lies in. */
static void let_go_of_block(struct read_buffer *buffer)
{
    if (buffer->is_given) {
        assert(buffer->given == NULL);
        buffer->given = buffer->block;
    } else {
        memory_free(buffer->block);
    }
    buffer->block = NULL;
    buffer->is_given = false;
}

/* There is room in the block, if not behind its bytes. */
static bool is_worth_moving(const struct read_buffer *buffer, size_t more)
{
    return !buffer->is_given && buffer->unread.size <= buffer->block->room / 2 &&
           more <= buffer->block->room - buffer->unread.size;
}

static void move_to_front(struct read_buffer *buffer)
{
    struct read_block *block = buffer->block;
    memmove(block->bytes, buffer->unread.data, buffer->unread.size);
    block->used = buffer->unread.size;
    buffer->unread.data = block->bytes;
}

static bool grow(struct read_buffer *buffer, size_t more)
{
    struct read_block *block = more < SIZE_MAX / 4 ? block_new(2 * buffer->unread.size + more) : NULL;
    if (block == NULL)
        return false;
    if (buffer->unread.size > 0)
        append(block, buffer->unread);
    if (buffer->block != NULL)
        let_go_of_block(buffer);
    buffer->block = block;
    buffer->unread.data = block->bytes;
    return true;
}

bool read_buffer_put(struct read_buffer *buffer, rondo_bytes data)
{
    assert(!buffer->is_borrowed);
    struct read_block *block = buffer->block;
    if (block == NULL || data.size > block->room - block->used) {
        if (block != NULL && is_worth_moving(buffer, data.size))
            move_to_front(buffer);
        else if (!grow(buffer, data.size))
            return false;
    }
    append(buffer->block, data);
    buffer->unread.size += data.size;
    return true;
}

void read_buffer_borrow(struct read_buffer *buffer, rondo_bytes data)
{
    assert(buffer->unread.size == 0 && buffer->block == NULL && !buffer->is_given);
    buffer->unread = data;
    buffer->is_borrowed = true;
}

bool read_buffer_end_borrowing(struct read_buffer *buffer, bool *is_given)
{
    rondo_bytes unread = buffer->unread;
    *is_given = buffer->is_given;
    buffer->unread = (rondo_bytes){ 0 };
    buffer->is_given = buffer->is_borrowed = false;
    return unread.size == 0 || read_buffer_put(buffer, unread);
}

void read_buffer_begin(struct read_buffer *buffer)
{
    buffer->is_given = false;
    if (buffer->given != NULL) {
        memory_free(buffer->given);
        buffer->given = NULL;
    }
}

void read_buffer_rest(struct read_buffer *buffer)
{
    if (buffer->unread.size == 0 && buffer->block != NULL && !buffer->is_given) {
        memory_free(buffer->block);
        buffer->block = NULL;
    }
}

rondo_bytes read_buffer_take(struct read_buffer *buffer, size_t size)
{
    assert(size <= buffer->unread.size);
    if (size == 0)
        return (rondo_bytes){ 0 };
    rondo_bytes taken = { buffer->unread.data, size };
    buffer->unread.data += size;
    buffer->unread.size -= size;
    buffer->is_given = true;
    return taken;
}

void read_buffer_clear(struct read_buffer *buffer)
{
    memory_free(buffer->block);
    memory_free(buffer->given);
    *buffer = (struct read_buffer){ 0 };
}

/* ---- separators ------------------------------------------------------------------------------------------ */

bool separator_search_begin(struct separator_search *search, const rondo_bytes *separators, size_t count)
{
    *search = (struct separator_search){ .separators = separators, .count = count, .shortest = SIZE_MAX };
    for (size_t i = 0; i < count; i++) {
        if (separators[i].size < search->shortest)
            search->shortest = separators[i].size;
        if (separators[i].size > search->longest)
            search->longest = separators[i].size;
    }
    return count > 0 && search->shortest > 0;
}

/* Of all separators the one that ends first, in these bytes. SIZE_MAX: none. */
static size_t first_end(const struct separator_search *search, rondo_bytes bytes, size_t *start)
{
    size_t end = SIZE_MAX;
    for (size_t i = 0; i < search->count; i++) {
        rondo_bytes separator = search->separators[i];
        size_t size = end == SIZE_MAX ? bytes.size : end - 1; /* to end before what has been found */
        const char *at = separator.size == 1 ? memchr(bytes.data, separator.data[0], size)
                                             : memmem(bytes.data, size, separator.data, separator.size);
        if (at == NULL)
            continue;
        *start = (size_t)(at - bytes.data);
        end = *start + separator.size;
    }
    return end;
}

/* A separator that is far away, or isn't there, must not be looked for in all that has come each time when another one
 * is near. So the bytes are looked at in windows, each twice as large as the one before. */
bool separator_search_step(struct separator_search *search, rondo_bytes bytes, size_t *start, size_t *end)
{
    size_t window = search->count == 1 ? bytes.size : FIRST_WINDOW;
    while (bytes.size - search->from >= search->shortest) {
        size_t left = bytes.size - search->from;
        rondo_bytes seen = { bytes.data + search->from, left < window ? left : window };
        size_t found = first_end(search, seen, start);
        if (found != SIZE_MAX) {
            *start += search->from;
            *end = search->from + found;
            return true;
        }
        if (seen.size >= search->longest)
            search->from += seen.size - (search->longest - 1);
        if (seen.size == left)
            return false;
        window *= 2;
    }
    return false;
}
