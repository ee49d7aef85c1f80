/* What a stream keeps, and how it looks for separators. Random ones are fuzzed, and compared with asyncio's. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/read_buffer.h"

TestSuite(read_buffer, .timeout = 30);

static struct read_buffer buffer;

static rondo_bytes bytes_of(const char *text)
{
    return (rondo_bytes){ text, strlen(text) };
}

static void put(const char *text)
{
    cr_assert(read_buffer_put(&buffer, bytes_of(text)));
}

static void expect(rondo_bytes bytes, const char *text)
{
    cr_assert(eq(sz, bytes.size, strlen(text)));
    cr_assert(zero(int, memcmp(bytes.data, text, bytes.size)));
}

Test(read_buffer, what_is_put_in_comes_out_in_one_piece)
{
    put("one ");
    put("two ");
    put("three");
    expect(buffer.unread, "one two three");
    expect(read_buffer_take(&buffer, 4), "one ");
    expect(read_buffer_take(&buffer, 9), "two three");
    read_buffer_clear(&buffer);
}

Test(read_buffer, without_anything_unread_it_holds_no_memory)
{
    put("something");
    rondo_bytes given = read_buffer_take(&buffer, 9);
    read_buffer_rest(&buffer);
    expect(given, "something"); /* which is still out */
    cr_assert_not_null(buffer.block);
    read_buffer_begin(&buffer);
    read_buffer_rest(&buffer);
    cr_assert_null(buffer.block);
}

Test(read_buffer, what_was_given_stays_while_more_comes)
{
    static char much[100000];
    memset(much, 'm', sizeof much);
    put("given");
    put("rest");
    rondo_bytes given = read_buffer_take(&buffer, 5);
    for (unsigned i = 0; i < 5; i++)
        cr_assert(read_buffer_put(&buffer, (rondo_bytes){ much, sizeof much }));
    expect(given, "given");
    cr_assert_not_null(buffer.given);
    cr_assert(eq(sz, buffer.unread.size, 4 + 5 * sizeof much));
    read_buffer_begin(&buffer);
    cr_assert_null(buffer.given);
    read_buffer_clear(&buffer);
}

Test(read_buffer, what_is_borrowed_is_copied_only_if_it_is_left)
{
    bool is_given;
    read_buffer_borrow(&buffer, bytes_of("all of it"));
    rondo_bytes given = read_buffer_take(&buffer, 9);
    cr_assert(read_buffer_end_borrowing(&buffer, &is_given));
    cr_assert(is_given && buffer.block == NULL);
    expect(given, "all of it");

    read_buffer_begin(&buffer);
    read_buffer_borrow(&buffer, bytes_of("part of it"));
    read_buffer_take(&buffer, 5);
    read_buffer_begin(&buffer);
    cr_assert(read_buffer_end_borrowing(&buffer, &is_given));
    cr_assert(not(is_given));
    expect(buffer.unread, "of it");
    read_buffer_clear(&buffer);
}

/* ---- separators --------------------------------------------------------------------------------------------- */

static struct separator_search search;

static void look_for(const rondo_bytes *separators, size_t count)
{
    cr_assert(separator_search_begin(&search, separators, count));
}

Test(read_buffer, the_separator_that_ends_first_counts)
{
    const rondo_bytes separators[] = { { "abcd", 4 }, { "c", 1 }, { "bc", 2 } };
    size_t start, end;
    look_for(separators, 3);
    cr_assert(separator_search_step(&search, bytes_of("xxabcd"), &start, &end));
    cr_assert(eq(sz, end, 5));
    cr_assert(start == 4 || start == 3, "two of them end there");
}

Test(read_buffer, no_place_is_looked_at_twice_that_can_not_begin_one)
{
    const rondo_bytes separators[] = { { "\r\n", 2 }, { "END!", 4 } };
    size_t start, end;
    look_for(separators, 2);
    cr_assert(not(separator_search_step(&search, bytes_of("0123456789"), &start, &end)));
    cr_assert(eq(sz, search.from, 7));
    cr_assert(not(separator_search_step(&search, bytes_of("0123456789EN"), &start, &end)));
    cr_assert(eq(sz, search.from, 9));
    cr_assert(separator_search_step(&search, bytes_of("0123456789END!"), &start, &end));
    cr_assert(start == 10 && end == 14);
}

Test(read_buffer, separators_longer_than_a_window)
{
    static char text[2000], long_one[600];
    size_t start, end;
    memset(text, 'x', sizeof text);
    memset(long_one, 'y', sizeof long_one);
    memcpy(text + 900, long_one, sizeof long_one);
    const rondo_bytes separators[] = { { long_one, sizeof long_one }, { "zz", 2 } };
    look_for(separators, 2);
    cr_assert(separator_search_step(&search, (rondo_bytes){ text, sizeof text }, &start, &end));
    cr_assert(start == 900 && end == 1500);
}

/* Half a million lines in a buffer, and a separator that isn't there: were it looked for to the end each time, this
 * would not end. */
Test(read_buffer, one_that_is_near_does_not_wait_for_one_that_is_far)
{
    enum { SIZE = 1 << 20 };
    const rondo_bytes separators[] = { { "nowhere", 7 }, { "x\n", 2 } };
    char *text = malloc(SIZE);
    size_t start, end, lines = 0;
    for (size_t i = 0; i < SIZE; i++)
        text[i] = i % 2 == 0 ? 'x' : '\n';
    for (rondo_bytes rest = { text, SIZE }; rest.size > 0; rest.data += end, rest.size -= end) {
        look_for(separators, 2);
        cr_assert(separator_search_step(&search, rest, &start, &end));
        lines++;
    }
    cr_assert(eq(sz, lines, SIZE / 2));
    free(text);
}

Test(read_buffer, what_can_not_be_looked_for)
{
    const rondo_bytes separators[] = { { "a", 1 }, { "", 0 } };
    cr_assert(not(separator_search_begin(&search, separators, 0)));
    cr_assert(not(separator_search_begin(&search, separators, 2)));
    cr_assert(separator_search_begin(&search, separators, 1));
}
