/* The queue of bytes: order, ownership, and that nothing moves which a send may point to. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/byte_queue.h"

TestSuite(byte_queue, .timeout = 20);

static struct buffers buffers;
static struct segments segments;
static struct byte_queue queue;

static void open_buffers(void)
{
    cr_assert_eq(buffers_open(&buffers, 8, 4096), 0);
    segments_init(&segments, &buffers);
}

static void balance(void)
{
    cr_assert(eq(uint, buffers.lent, 0));
    segments_close(&segments);
    buffers_close(&buffers);
}

static rondo_bytes lend(unsigned index, const char *text)
{
    rondo_bytes lent = buffers_lend(&buffers, index, 4096, false);
    memcpy(buffers_at(&buffers, index), text, strlen(text));
    return (rondo_bytes){ lent.data, strlen(text) };
}

static rondo_bytes text(const char *characters)
{
    return (rondo_bytes){ characters, strlen(characters) };
}

/* All that is in the queue, static. */
static char *content(void)
{
    static char all[65536];
    struct iovec slices[64];
    size_t size, at = 0;
    unsigned count = byte_queue_slices(&queue, slices, 64, &size);
    for (unsigned i = 0; i < count; i++) {
        memcpy(all + at, slices[i].iov_base, slices[i].iov_len);
        at += slices[i].iov_len;
    }
    cr_assert(eq(sz, at, size));
    cr_assert(eq(sz, at, queue.size));
    all[at] = '\0';
    return all;
}

Test(byte_queue, keeps_the_order_of_all_kinds, .init = open_buffers, .fini = balance)
{
    rondo_bytes lent = lend(3, "lent ");
    cr_assert(byte_queue_is_empty(&queue));
    cr_assert(byte_queue_put_copy(&queue, text("copied ")));
    cr_assert(byte_queue_put_static(&queue, &segments, text("static ")));
    cr_assert(byte_queue_put_lent(&queue, &segments, lent));
    cr_assert(byte_queue_put_copy(&queue, text("again")));
    buffers_unref(&buffers, lent.data);

    cr_assert(eq(str, content(), "copied static lent again"));
    cr_assert(eq(uint, buffers.lent, 1));
    byte_queue_clear(&queue, &segments);
    cr_assert(byte_queue_is_empty(&queue));
    cr_assert(eq(sz, queue.size, 0));
}

Test(byte_queue, empty_bytes_put_nothing_in, .init = open_buffers, .fini = balance)
{
    cr_assert(byte_queue_put_copy(&queue, (rondo_bytes){ NULL, 0 }));
    cr_assert(byte_queue_put_static(&queue, &segments, (rondo_bytes){ "", 0 }));
    cr_assert(byte_queue_put_lent(&queue, &segments, (rondo_bytes){ buffers_at(&buffers, 0), 0 }));
    cr_assert(byte_queue_is_empty(&queue));
    cr_assert(eq(sz, byte_queue_front(&queue).size, 0));
}

Test(byte_queue, a_lent_buffer_returns_with_its_last_byte, .init = open_buffers, .fini = balance)
{
    rondo_bytes lent = lend(0, "0123456789");
    byte_queue_put_lent(&queue, &segments, lent);
    buffers_unref(&buffers, lent.data);

    byte_queue_consume(&queue, &segments, 9);
    cr_assert(eq(uint, buffers.lent, 1));
    cr_assert(eq(str, content(), "9"));
    byte_queue_consume(&queue, &segments, 1);
    cr_assert(eq(uint, buffers.lent, 0));
    cr_assert(eq(uint, queue.lent, 0));
}

Test(byte_queue, adjacent_lent_bytes_become_one_slice, .init = open_buffers, .fini = balance)
{
    rondo_bytes lent = lend(1, "one two three");
    struct iovec slices[4];
    size_t size;
    byte_queue_put_lent(&queue, &segments, (rondo_bytes){ lent.data, 4 });
    byte_queue_put_lent(&queue, &segments, (rondo_bytes){ lent.data + 4, 4 });
    cr_assert(eq(uint, byte_queue_slices(&queue, slices, 4, &size), 1));
    cr_assert(eq(str, content(), "one two "));

    byte_queue_put_lent(&queue, &segments, (rondo_bytes){ lent.data, 3 }); /* not adjacent */
    cr_assert(eq(uint, byte_queue_slices(&queue, slices, 4, &size), 2));
    cr_assert(eq(uint, queue.lent, 2));
    buffers_unref(&buffers, lent.data);
    byte_queue_clear(&queue, &segments);
}

Test(byte_queue, the_last_byte_of_a_buffer_and_the_first_of_the_next_stay_apart, .init = open_buffers,
     .fini = balance)
{
    rondo_bytes first = buffers_lend(&buffers, 0, 4096, false),
                second = buffers_lend(&buffers, 1, 4096, false);
    byte_queue_put_lent(&queue, &segments, first);
    byte_queue_put_lent(&queue, &segments, second);
    buffers_unref(&buffers, first.data);
    buffers_unref(&buffers, second.data);

    byte_queue_consume(&queue, &segments, 4096);
    cr_assert(eq(uint, buffers.lent, 1));
    byte_queue_consume(&queue, &segments, 4096);
}

Test(byte_queue, small_copies_share_memory_and_what_is_there_does_not_move, .init = open_buffers,
     .fini = balance)
{
    struct iovec before, after[4];
    size_t size;
    byte_queue_put_copy(&queue, text("first "));
    byte_queue_slices(&queue, &before, 1, &size);
    for (int i = 0; i < 100; i++)
        byte_queue_put_copy(&queue, text("more "));

    cr_assert(eq(uint, byte_queue_slices(&queue, after, 4, &size), 1));
    cr_assert_eq(after[0].iov_base, before.iov_base);
    cr_assert(eq(sz, size, 506));
    byte_queue_clear(&queue, &segments);
}

Test(byte_queue, small_lent_bytes_join_a_copy_that_has_room, .init = open_buffers, .fini = balance)
{
    rondo_bytes lent = lend(0, "small");
    byte_queue_put_copy(&queue, text("copy "));
    byte_queue_put_lent(&queue, &segments, lent);
    buffers_unref(&buffers, lent.data);

    cr_assert(eq(uint, buffers.lent, 0));
    cr_assert(eq(str, content(), "copy small"));
    byte_queue_clear(&queue, &segments);
}

Test(byte_queue, copying_what_is_lent_keeps_the_order_and_returns_the_buffers, .init = open_buffers,
     .fini = balance)
{
    rondo_bytes first = lend(0, "first "), second = lend(1, "second "), third = lend(2, "third");
    byte_queue_put_lent(&queue, &segments, first);
    byte_queue_put_static(&queue, &segments, text("static "));
    byte_queue_put_lent(&queue, &segments, second);
    byte_queue_put_lent(&queue, &segments, third);
    buffers_unref(&buffers, first.data);
    buffers_unref(&buffers, second.data);
    buffers_unref(&buffers, third.data);
    byte_queue_consume(&queue, &segments, 2);

    cr_assert(byte_queue_copy_lent(&queue, &segments));

    cr_assert(eq(uint, buffers.lent, 0));
    cr_assert(eq(uint, queue.lent, 0));
    byte_queue_put_copy(&queue, text("!"));
    cr_assert(eq(str, content(), "rst static second third!"));
    byte_queue_clear(&queue, &segments);
}

Test(byte_queue, a_copy_goes_before_all_else, .init = open_buffers, .fini = balance)
{
    cr_assert(byte_queue_put_front(&queue, text("two ")));
    byte_queue_put_static(&queue, &segments, text("three"));
    cr_assert(byte_queue_put_front(&queue, text("one ")));

    cr_assert(eq(str, content(), "one two three"));
    byte_queue_clear(&queue, &segments);
}

Test(byte_queue, a_segment_that_was_used_is_used_again_by_whichever_queue, .init = open_buffers,
     .fini = balance)
{
    struct byte_queue other = { 0 };
    byte_queue_put_static(&queue, &segments, text("one"));
    const struct segment *used = queue.last;
    byte_queue_clear(&queue, &segments);
    cr_assert(eq(uint, segments.spare_count, 1));

    byte_queue_put_static(&other, &segments, text("two"));
    cr_assert_eq(other.last, used);
    cr_assert(eq(uint, segments.spare_count, 0));
    byte_queue_clear(&other, &segments);
}

Test(byte_queue, what_many_queues_held_at_once_is_not_kept_for_ever, .init = open_buffers, .fini = balance)
{
    for (int i = 0; i < 5000; i++)
        byte_queue_put_static(&queue, &segments, text("1"));
    byte_queue_clear(&queue, &segments);
    cr_assert(eq(uint, segments.spare_count, 1024));
}

Test(byte_queue, slices_stop_at_the_given_number, .init = open_buffers, .fini = balance)
{
    struct iovec slices[3];
    size_t size;
    for (int i = 0; i < 5; i++)
        byte_queue_put_static(&queue, &segments, text("12"));
    cr_assert(eq(uint, byte_queue_slices(&queue, slices, 3, &size), 3));
    cr_assert(eq(sz, size, 6));
    byte_queue_clear(&queue, &segments);
}

/* Against an array that does the same the simple way. */
Test(byte_queue, random_puts_and_consumes_agree_with_a_plain_array, .init = open_buffers, .fini = balance)
{
    static char plain[1 << 20], block[5000];
    size_t begin = 0, end = 0;
    unsigned seed = 20261120;
    rondo_bytes lent[8];
    for (unsigned i = 0; i < 8; i++) {
        lent[i] = buffers_lend(&buffers, i, 4096, false);
        for (int k = 0; k < 4096; k++)
            buffers_at(&buffers, i)[k] = (char)('a' + (k + (int)i) % 26);
    }
    for (int round = 0; round < 2000; round++) {
        size_t size = (size_t)rand_r(&seed) % (rand_r(&seed) % 8 == 0 ? 5000 : 200);
        rondo_bytes bytes = { block, size };
        memset(block, rand_r(&seed) % 256, size);
        if (end + size > sizeof plain) {
            memmove(plain, plain + begin, end - begin);
            end -= begin;
            begin = 0;
        }
        switch (rand_r(&seed) % 4) {
        case 0:
            cr_assert(byte_queue_put_copy(&queue, bytes));
            break;
        case 1:
            size = size % 4096;
            bytes = (rondo_bytes){ lent[rand_r(&seed) % 8].data, size };
            cr_assert(byte_queue_put_lent(&queue, &segments, bytes));
            break;
        case 2:
            size = size % (queue.size + 1);
            for (size_t done = 0; done < size;) {
                rondo_bytes front = byte_queue_front(&queue);
                size_t part = front.size < size - done ? front.size : size - done;
                cr_assert_eq(memcmp(front.data, plain + begin, part), 0);
                byte_queue_consume(&queue, &segments, part);
                begin += part;
                done += part;
            }
            continue;
        default:
            if (rand_r(&seed) % 8 == 0)
                cr_assert(byte_queue_copy_lent(&queue, &segments));
            continue;
        }
        memcpy(plain + end, bytes.data, size);
        end += size;
        cr_assert(eq(sz, queue.size, end - begin));
    }
    byte_queue_clear(&queue, &segments);
    for (unsigned i = 0; i < 8; i++)
        buffers_unref(&buffers, lent[i].data);
}
