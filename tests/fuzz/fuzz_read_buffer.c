/* Bytes: how many separators, their lengths, they themselves, the number of cuts, the cuts, the stream. What is found
 * must be what looking at each byte finds; and what was given must stay until the next reading begins. */
#include "cuts.h"
#include "proto/read_buffer.h"

enum { SEPARATORS_MAX = 3 };

struct reader {
    struct read_buffer buffer;
    struct separator_search search;
    const rondo_bytes *separators;
    size_t count;
    bool is_begun;
    bool lends; /* every other piece */
    rondo_bytes given;
    char *copy; /* of what was given */
};

static void expect_given(const struct reader *reader)
{
    if (reader->given.size > 0 && memcmp(reader->given.data, reader->copy, reader->given.size) != 0)
        abort();
}

static void begin_reading(struct reader *reader)
{
    expect_given(reader);
    free(reader->copy);
    reader->copy = NULL;
    reader->given.size = 0;
    read_buffer_begin(&reader->buffer);
    reader->is_begun = separator_search_begin(&reader->search, reader->separators, reader->count);
    if (!reader->is_begun)
        abort();
}

static void take(struct reader *reader, size_t size, struct said *said)
{
    reader->given = read_buffer_take(&reader->buffer, size);
    reader->copy = malloc(size);
    memcpy(reader->copy, reader->given.data, size);
    say(said, 'f', reader->given);
    reader->is_begun = false;
}

static void read_all(struct reader *reader, struct said *said)
{
    size_t start, end;
    for (;;) {
        if (!reader->is_begun)
            begin_reading(reader);
        if (!separator_search_step(&reader->search, reader->buffer.unread, &start, &end))
            break;
        take(reader, end, said);
    }
    read_buffer_rest(&reader->buffer);
}

static bool feed(void *parser, rondo_bytes piece, struct said *said)
{
    struct reader *reader = parser;
    bool is_given;
    reader->lends = !reader->lends;
    if (reader->lends && reader->buffer.block == NULL && reader->buffer.unread.size == 0) {
        if (!reader->is_begun)
            begin_reading(reader);
        read_buffer_borrow(&reader->buffer, piece);
        read_all(reader, said);
        if (!read_buffer_end_borrowing(&reader->buffer, &is_given) || is_given)
            abort(); /* a reading has begun, so nothing is out */
        return true;
    }
    if (!read_buffer_put(&reader->buffer, piece))
        abort();
    expect_given(reader);
    read_all(reader, said);
    return true;
}

/* Byte by byte: what ends with a separator, and has none that ends before. */
static void look_at_each(const rondo_bytes *separators, size_t count, rondo_bytes bytes, struct said *said)
{
    size_t begin = 0;
    for (size_t end = 1; end <= bytes.size; end++) {
        for (size_t i = 0; i < count; i++) {
            size_t size = separators[i].size;
            if (size <= end - begin && memcmp(bytes.data + end - size, separators[i].data, size) == 0) {
                say(said, 'f', (rondo_bytes){ bytes.data + begin, end - begin });
                begin = end;
                break;
            }
        }
    }
}

int LLVMFuzzerTestOneInput(const char *data, size_t size);

int LLVMFuzzerTestOneInput(const char *data, size_t size)
{
    rondo_bytes separators[SEPARATORS_MAX];
    if (size < 2 + SEPARATORS_MAX * 4)
        return -1;
    size_t count = 1 + (unsigned char)data[0] % SEPARATORS_MAX, cuts = (unsigned char)data[1] % 16;
    data += 2, size -= 2;
    for (size_t i = 0; i < SEPARATORS_MAX; i++, data += 4, size -= 4)
        separators[i] = (rondo_bytes){ data + 1, 1 + (unsigned char)data[0] % 3 };
    if (size < cuts)
        return -1;
    rondo_bytes bytes = { data + cuts, size - cuts };
    struct said whole = { 0 }, cut = { 0 };
    struct reader reader = { .separators = separators, .count = count };
    look_at_each(separators, count, bytes, &whole);
    feed_in_pieces(feed, &reader, bytes, (rondo_bytes){ data, cuts }, &cut);
    expect_given(&reader);
    free(reader.copy);
    read_buffer_clear(&reader.buffer);
    must_be_the_same(&whole, &cut);
    return 0;
}
