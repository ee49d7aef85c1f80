/* The receive buffers: lent, counted, returned; found by address. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "core/buffers.h"

TestSuite(buffers, .timeout = 20);

enum { COUNT = 8, SIZE = 4096 };

static struct buffers buffers;

static void open_buffers(void)
{
    cr_assert_eq(buffers_open(&buffers, COUNT, SIZE), 0);
}

static void close_buffers(void)
{
    cr_assert(eq(uint, buffers.lent, 0));
    buffers_close(&buffers);
    cr_assert_null(buffers.memory);
}

Test(buffers, a_lent_buffer_holds_what_was_received, .init = open_buffers, .fini = close_buffers)
{
    rondo_bytes lent = buffers_lend(&buffers, 5, 100, false);
    cr_assert_eq(lent.data, buffers_at(&buffers, 5));
    cr_assert(eq(sz, lent.size, 100));
    cr_assert(eq(uint, buffers.lent, 1));
    memset(buffers_at(&buffers, 5), 'x', 100);
    buffers_unref(&buffers, lent.data);
}

Test(buffers, a_buffer_returns_with_its_last_reference, .init = open_buffers, .fini = close_buffers)
{
    uint16_t returned[COUNT];
    rondo_bytes lent = buffers_lend(&buffers, 3, SIZE, false);
    buffers_ref(&buffers, lent.data);
    buffers_ref(&buffers, lent.data + SIZE - 1);
    buffers_unref(&buffers, lent.data + 17);
    buffers_unref(&buffers, lent.data);
    cr_assert(eq(uint, buffers.lent, 1));
    cr_assert(eq(uint, buffers_take_returned(&buffers, returned, COUNT), 0));

    buffers_unref(&buffers, lent.data);
    cr_assert(eq(uint, buffers.lent, 0));
    cr_assert(eq(uint, buffers_take_returned(&buffers, returned, COUNT), 1));
    cr_assert(eq(u16, returned[0], 3));
    cr_assert(eq(uint, buffers_take_returned(&buffers, returned, COUNT), 0), "each is returned once");
}

Test(buffers, pieces_follow_one_another_and_the_buffer_returns_when_filled_and_let_go, .init = open_buffers,
     .fini = close_buffers)
{
    uint16_t returned[COUNT];
    rondo_bytes one = buffers_lend(&buffers, 2, 100, true), two = buffers_lend(&buffers, 2, 28, true);
    cr_assert_eq(one.data, buffers_at(&buffers, 2));
    cr_assert_eq(two.data, one.data + 100);
    cr_assert(eq(uint, buffers.lent, 1), "one buffer, however many pieces");

    buffers_unref(&buffers, one.data);
    buffers_unref(&buffers, two.data);
    cr_assert(eq(uint, buffers.lent, 0));
    cr_assert(eq(uint, buffers_take_returned(&buffers, returned, COUNT), 0), "the kernel goes on filling it");

    rondo_bytes last = buffers_lend(&buffers, 2, SIZE - 128, false);
    cr_assert_eq(last.data, two.data + 28);
    cr_assert(eq(uint, buffers_take_returned(&buffers, returned, COUNT), 0));
    buffers_unref(&buffers, last.data);
    cr_assert(eq(uint, buffers_take_returned(&buffers, returned, COUNT), 1));
    cr_assert(eq(u16, returned[0], 2));

    rondo_bytes anew = buffers_lend(&buffers, 2, 1, false);
    cr_assert_eq(anew.data, buffers_at(&buffers, 2), "from its beginning");
    buffers_unref(&buffers, anew.data);
}

Test(buffers, a_piece_that_is_kept_holds_back_a_buffer_that_was_filled, .init = open_buffers,
     .fini = close_buffers)
{
    uint16_t returned[COUNT];
    rondo_bytes kept = buffers_lend(&buffers, 0, 10, true);
    buffers_unref(&buffers, buffers_lend(&buffers, 0, SIZE - 10, false).data);
    cr_assert(eq(uint, buffers.lent, 1));
    cr_assert(eq(uint, buffers_take_returned(&buffers, returned, COUNT), 0));
    buffers_unref(&buffers, kept.data);
    cr_assert(eq(uint, buffers_take_returned(&buffers, returned, COUNT), 1));
}

Test(buffers, a_piece_beyond_the_end_is_caught, .init = open_buffers, .signal = SIGABRT)
{
    buffers_lend(&buffers, 0, SIZE, true);
    buffers_lend(&buffers, 0, 1, false);
}

Test(buffers, who_was_returned_last_is_taken_first, .init = open_buffers, .fini = close_buffers)
{
    uint16_t taken[COUNT];
    for (unsigned i = 0; i < 3; i++)
        buffers_lend(&buffers, i, 1, false);
    buffers_unref(&buffers, buffers_at(&buffers, 2));
    buffers_unref(&buffers, buffers_at(&buffers, 0));
    buffers_unref(&buffers, buffers_at(&buffers, 1));
    cr_assert(eq(uint, buffers_take_returned(&buffers, taken, 2), 2));
    cr_assert(taken[0] == 1 && taken[1] == 0);
    cr_assert(eq(uint, buffers_take_returned(&buffers, taken, 2), 1), "what was left is there");
    cr_assert_eq(taken[0], 2);
}

Test(buffers, all_are_returned_in_one_batch, .init = open_buffers, .fini = close_buffers)
{
    uint16_t returned[COUNT];
    bool seen[COUNT] = { false };
    for (unsigned i = 0; i < COUNT; i++)
        buffers_lend(&buffers, i, 1, false);
    cr_assert(eq(uint, buffers.lent, COUNT));
    for (unsigned i = COUNT; i-- > 0;)
        buffers_unref(&buffers, buffers_at(&buffers, i));

    cr_assert(eq(uint, buffers_take_returned(&buffers, returned, COUNT), COUNT));
    for (unsigned i = 0; i < COUNT; i++) {
        cr_assert(not(seen[returned[i]]));
        seen[returned[i]] = true;
    }
    buffers_unref(&buffers, buffers_lend(&buffers, 2, 1, false).data); /* and can be lent again */
}

Test(buffers, a_buffer_is_found_by_any_address_in_it, .init = open_buffers, .fini = close_buffers)
{
    char elsewhere;
    for (unsigned i = 0; i < COUNT; i++) {
        cr_assert(buffers_own(&buffers, buffers_at(&buffers, i)));
        cr_assert(eq(uint, buffers_index(&buffers, buffers_at(&buffers, i)), i));
        cr_assert(eq(uint, buffers_index(&buffers, buffers_at(&buffers, i) + SIZE - 1), i));
    }
    const char *last = buffers.memory + buffers.mapped_bytes - 1;
    cr_assert(buffers_own(&buffers, last));
    cr_assert(eq(uint, buffers_index(&buffers, last), COUNT - 1), "also in the gap behind it");
    cr_assert(not(buffers_own(&buffers, &elsewhere)));
    cr_assert(not(buffers_own(&buffers, NULL)));
    cr_assert(not(buffers_own(&buffers, buffers.memory - 1)));
    cr_assert(not(buffers_own(&buffers, buffers.memory + buffers.mapped_bytes)));
}

Test(buffers, buffers_do_not_overlap_and_begin_in_different_cache_sets, .init = open_buffers,
     .fini = close_buffers)
{
    for (unsigned i = 1; i < COUNT; i++) {
        ptrdiff_t distance = buffers_at(&buffers, i) - buffers_at(&buffers, i - 1);
        cr_assert_geq(distance, SIZE);
        cr_assert_neq(distance % 4096, 0);
    }
}

#if defined(__has_feature) /* clang's way to say it */
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>

Test(buffers, only_lent_bytes_may_be_read, .init = open_buffers, .fini = close_buffers)
{
    const char *data = buffers_at(&buffers, 0);
    cr_assert(__asan_address_is_poisoned(data));
    buffers_lend(&buffers, 0, 64, false);
    cr_assert(not(__asan_address_is_poisoned(data)));
    cr_assert(not(__asan_address_is_poisoned(data + 63)));
    cr_assert(__asan_address_is_poisoned(data + 64), "behind what was received");
    buffers_unref(&buffers, data);
    cr_assert(__asan_address_is_poisoned(data), "returned");
}

Test(buffers, kept_bytes_may_be_read_until_the_last_reference_goes, .init = open_buffers,
     .fini = close_buffers)
{
    const char *data = buffers_lend(&buffers, 1, SIZE, false).data;
    buffers_ref(&buffers, data + SIZE - 1);
    buffers_unref(&buffers, data);
    cr_assert(not(__asan_address_is_poisoned(data)));
    cr_assert(not(__asan_address_is_poisoned(data + SIZE - 1)));
    buffers_unref(&buffers, data);
    for (unsigned i = 0; i < SIZE; i++)
        cr_assert(__asan_address_is_poisoned(data + i));
    buffers_lend(&buffers, 1, 10, false);
    cr_assert(__asan_address_is_poisoned(data + 10), "also what it held before");
    buffers_unref(&buffers, data);
}
#endif

/* Against the plain way: a number for each. */
Test(buffers, random_keeps_agree_with_plain_counts, .init = open_buffers, .fini = close_buffers)
{
    unsigned seed = 1, plain[COUNT] = { 0 }, lent = 0;
    bool is_returned[COUNT] = { false };
    for (unsigned step = 0; step < 20000; step++) {
        unsigned i = (unsigned)rand_r(&seed) % COUNT;
        const char *data = buffers_at(&buffers, i) + (unsigned)rand_r(&seed) % SIZE;
        if (plain[i] == 0 && !is_returned[i]) {
            buffers_lend(&buffers, i, SIZE, false);
            plain[i]++;
            lent++;
        } else if (plain[i] > 0 && rand_r(&seed) % 2 == 0) {
            buffers_ref(&buffers, data);
            plain[i]++;
        } else if (plain[i] > 0) {
            buffers_unref(&buffers, data);
            is_returned[i] = --plain[i] == 0;
            lent -= is_returned[i];
        } else {
            uint16_t returned[COUNT];
            for (unsigned count = buffers_take_returned(&buffers, returned, COUNT); count > 0; count--) {
                cr_assert(is_returned[returned[count - 1]]);
                is_returned[returned[count - 1]] = false;
            }
            for (unsigned other = 0; other < COUNT; other++)
                cr_assert(not(is_returned[other]), "all that were returned are taken");
        }
        cr_assert(eq(uint, buffers.lent, lent));
    }
    for (unsigned i = 0; i < COUNT; i++) {
        for (; plain[i] > 0; plain[i]--)
            buffers_unref(&buffers, buffers_at(&buffers, i));
    }
}

/* These are mistakes of the floors above, which debug builds catch. */
#ifndef NDEBUG

Test(buffers, one_unref_too_many_is_caught, .init = open_buffers, .signal = SIGABRT)
{
    const char *data = buffers_lend(&buffers, 0, 1, false).data;
    buffers_unref(&buffers, data);
    buffers_unref(&buffers, data);
}

Test(buffers, keeping_what_is_not_lent_is_caught, .init = open_buffers, .signal = SIGABRT)
{
    buffers_ref(&buffers, buffers_at(&buffers, 0));
}

Test(buffers, lending_twice_is_caught, .init = open_buffers, .signal = SIGABRT)
{
    buffers_lend(&buffers, 0, 1, false);
    buffers_lend(&buffers, 0, 1, false);
}

Test(buffers, closing_with_a_lent_buffer_is_caught, .init = open_buffers, .signal = SIGABRT)
{
    buffers_lend(&buffers, 0, 1, false);
    buffers_close(&buffers);
}

#endif
