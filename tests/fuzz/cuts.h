/* What a fuzzer's bytes mean: a few that say how to cut the rest, and the rest. */
#ifndef RONDO_TESTS_CUTS_H
#define RONDO_TESTS_CUTS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rondo/bytes.h>

/* What was said of a stream of bytes: a row of verdicts, each with its bytes, in memory that grows. */
struct said {
    char *bytes;
    size_t size, capacity;
};

static inline void say(struct said *said, int verdict, rondo_bytes bytes)
{
    size_t needed = said->size + 1 + sizeof bytes.size + bytes.size;
    if (needed > said->capacity) {
        said->capacity = 2 * needed;
        said->bytes = realloc(said->bytes, said->capacity);
    }
    said->bytes[said->size] = (char)verdict;
    memcpy(said->bytes + said->size + 1, &bytes.size, sizeof bytes.size);
    if (bytes.size > 0)
        memcpy(said->bytes + said->size + 1 + sizeof bytes.size, bytes.data, bytes.size);
    said->size = needed;
}

/* The parser, until the bytes are used up or it gives up. Returns false when it has given up. The piece lies in memory of exactly
 * its size, gone afterwards, so that a sanitizer sees who reads behind it or keeps a pointer into it. */
typedef bool feed_function(void *parser, rondo_bytes piece, struct said *said);

/* The pieces have the sizes 1 + cuts[i], over and over; without cuts there is one piece. */
static inline void feed_in_pieces(feed_function *feed, void *parser, rondo_bytes bytes, rondo_bytes cuts,
                                  struct said *said)
{
    bool goes_on = true;
    for (size_t begin = 0, i = 0, size; goes_on && begin < bytes.size; begin += size, i++) {
        size = cuts.size == 0 ? bytes.size : 1 + (unsigned char)cuts.data[i % cuts.size];
        if (size > bytes.size - begin)
            size = bytes.size - begin;
        char *copy = malloc(size);
        memcpy(copy, bytes.data + begin, size);
        goes_on = feed(parser, (rondo_bytes){ copy, size }, said);
        free(copy);
    }
}

static inline void must_be_the_same(struct said *whole, struct said *cut)
{
    if (whole->size != cut->size || (whole->size > 0 && memcmp(whole->bytes, cut->bytes, whole->size) != 0)) {
        fprintf(stderr, "the same bytes, cut, make something else\n");
        abort();
    }
    free(whole->bytes);
    free(cut->bytes);
}

#endif
