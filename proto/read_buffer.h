/* What a stream has received and not yet read, in one piece, so that any of it can be given as a slice.
 *
 *   borrowed   where it was received, while data_received lasts: nothing is copied
 *   kept       in a block of its own
 *
 * What was given last stays where it is until the next reading begins, whatever is put in meanwhile. An empty buffer
 * that nobody has a slice of holds no memory. */
#ifndef RONDO_PROTO_READ_BUFFER_H
#define RONDO_PROTO_READ_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

#include <rondo/bytes.h>

struct read_buffer {
    rondo_bytes unread;
    struct read_block *block; /* in which they lie; NULL: they are borrowed, or there are none */
    struct read_block *given; /* in which the slice lies that was given last, where that is another one */
    bool is_given;            /* a slice of the block, or of what is borrowed, is out */
    bool is_borrowed;
};

/* Nothing is unread, and no block is held: take `data` for the time being. */
void read_buffer_borrow(struct read_buffer *buffer, rondo_bytes data);

/* The time is over: what is unread is copied. *is_given: a slice of what was borrowed is still out, and the caller's care.
 * False: no memory, and what was unread is lost. */
bool read_buffer_end_borrowing(struct read_buffer *buffer, bool *is_given);

/* Put a copy behind what is unread. False: no memory, and nothing has changed. */
bool read_buffer_put(struct read_buffer *buffer, rondo_bytes data);

/* A new reading begins: the slice given last is over. */
void read_buffer_begin(struct read_buffer *buffer);

/* Nothing can be read now: without anything unread it holds no memory. */
void read_buffer_rest(struct read_buffer *buffer);

/* Give the first `size` unread bytes. */
rondo_bytes read_buffer_take(struct read_buffer *buffer, size_t size);

/* Forget all, slices too. */
void read_buffer_clear(struct read_buffer *buffer);

/* A search for the first of several separators to end, in bytes that grow between its steps. */
struct separator_search {
    const rondo_bytes *separators;
    size_t count;
    size_t longest, shortest;
    size_t from; /* nothing begins before it */
};

/* False: there is no separator, or one of them is empty. */
bool separator_search_begin(struct separator_search *search, const rondo_bytes *separators, size_t count);

/* Look at `bytes`, of which all are new but those of the last step. True: found, from `start` on, and before `end`.
 * False: none, and none begins before search->from. */
bool separator_search_step(struct separator_search *search, rondo_bytes bytes, size_t *start, size_t *end);

#endif
