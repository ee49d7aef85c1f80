/* The string parser: every framing, every cut, and everything that is no string. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "proto/string_parser.h"

TestSuite(string_parser, .timeout = 60);

#define MIB        ((size_t)1 << 20)
#define TEXT_MAX   8192
#define COUNT(all) (sizeof(all) / sizeof(all)[0])

/* What was said, readable: [a string], !length of one that is too long!, ? when it is malformed. */
struct text {
    char bytes[TEXT_MAX];
    size_t size;
};

static void append(struct text *text, rondo_bytes bytes)
{
    cr_assert(lt(sz, text->size + bytes.size, TEXT_MAX));
    if (bytes.size > 0)
        memcpy(text->bytes + text->size, bytes.data, bytes.size);
    text->size += bytes.size;
    text->bytes[text->size] = '\0';
}

static void say(struct text *said, enum string_result result, rondo_bytes string, uint64_t length)
{
    char number[32];
    int size = snprintf(number, sizeof number, "!%llu!", (unsigned long long)length);
    if (result == STRING_TOO_LONG) {
        append(said, (rondo_bytes){ number, (size_t)size });
    } else if (result == STRING_MALFORMED) {
        append(said, RONDO_BYTES("?"));
    } else {
        append(said, RONDO_BYTES("["));
        append(said, string);
        append(said, RONDO_BYTES("]"));
    }
}

/* In memory of exactly its size, gone afterwards: nobody may read behind it, or keep a pointer into it. Returns false when
 * nothing can follow. */
static bool feed(struct string_parser *parser, const struct string_rules *rules, rondo_bytes piece,
                 struct text *said)
{
    char *copy = malloc(piece.size);
    cr_assert(ne(ptr, copy, NULL));
    memcpy(copy, piece.data, piece.size);

    rondo_bytes input = { copy, piece.size }, string;
    enum string_result result;
    do {
        result = string_parser_next(parser, rules, &input, &string);
        cr_assert(ne(int, result, STRING_NO_MEMORY));
        if (result != STRING_INCOMPLETE)
            say(said, result, string, parser->length);
    } while (result == STRING_FOUND || result == STRING_TOO_LONG);
    if (result == STRING_INCOMPLETE)
        cr_assert(eq(sz, input.size, 0));
    free(copy);
    return result == STRING_INCOMPLETE;
}

static void expect_in_pieces(const struct string_rules *rules, rondo_bytes bytes, size_t first,
                             size_t following, const char *expected)
{
    struct string_parser parser = { 0 };
    struct text said = { .size = 0 };
    bool goes_on = true;
    for (size_t begin = 0, size = first; begin < bytes.size && goes_on; begin += size, size = following) {
        size_t left = bytes.size - begin;
        goes_on = feed(&parser, rules, (rondo_bytes){ bytes.data + begin, size < left ? size : left }, &said);
    }
    string_parser_release(&parser);
    cr_assert(eq(str, said.bytes, (char *)expected), "in pieces of %zu, %zu, ...", first, following);
}

static void expect_however_cut(const struct string_rules *rules, rondo_bytes bytes, const char *expected)
{
    for (size_t cut = 1; cut <= bytes.size; cut++) {
        expect_in_pieces(rules, bytes, cut, bytes.size, expected);
        expect_in_pieces(rules, bytes, cut, cut, expected);
    }
}

static const enum string_framing framings[] = { STRING_INT8, STRING_INT16, STRING_INT32, STRING_NET };

static void append_string(struct text *text, enum string_framing framing, rondo_bytes string)
{
    char prefix[STRING_PREFIX_MAX];
    append(text, (rondo_bytes){ prefix, string_prefix(framing, string.size, prefix) });
    append(text, string);
    append(text, string_suffix(framing));
}

Test(string_parser, gives_strings_however_they_are_cut)
{
    for (size_t i = 0; i < COUNT(framings); i++) {
        struct text text = { .size = 0 };
        append_string(&text, framings[i], RONDO_BYTES("one"));
        append_string(&text, framings[i], RONDO_BYTES(""));
        append_string(&text, framings[i], RONDO_BYTES("3:a,"));
        append_string(&text, framings[i], RONDO_BYTES("a longer one, of 26 bytes.."));
        append_string(&text, framings[i], RONDO_BYTES(""));
        struct string_rules rules = { framings[i], 27 };
        expect_however_cut(&rules, (rondo_bytes){ text.bytes, text.size },
                           "[one][][3:a,][a longer one, of 26 bytes..][]");
    }
}

Test(string_parser, the_prefix_is_the_length_with_its_highest_byte_first)
{
    static const char bytes[] = "\0\0\1\2";
    struct string_parser parser = { 0 };
    struct string_rules rules = { STRING_INT32, 257 };
    rondo_bytes input = { bytes, 4 }, string;
    cr_assert(eq(int, string_parser_next(&parser, &rules, &input, &string), STRING_TOO_LONG));
    cr_assert(eq(u64, parser.length, 258));

    rules.framing = STRING_INT16;
    parser = (struct string_parser){ 0 };
    input = (rondo_bytes){ bytes + 2, 2 };
    cr_assert(eq(int, string_parser_next(&parser, &rules, &input, &string), STRING_TOO_LONG));
    cr_assert(eq(u64, parser.length, 258));
}

Test(string_parser, tells_the_prefix_of_every_length_that_it_can)
{
    static const struct {
        enum string_framing framing;
        uint64_t length;
        const char *prefix;
        size_t size;
    } cases[] = {
        { STRING_INT8, 0, "\0", 1 },
        { STRING_INT8, 255, "\xff", 1 },
        { STRING_INT8, 256, NULL, 0 },
        { STRING_INT16, 256, "\1\0", 2 },
        { STRING_INT16, 65535, "\xff\xff", 2 },
        { STRING_INT16, 65536, NULL, 0 },
        { STRING_INT32, 0x01020304, "\1\2\3\4", 4 },
        { STRING_INT32, UINT32_MAX, "\xff\xff\xff\xff", 4 },
        { STRING_INT32, (uint64_t)UINT32_MAX + 1, NULL, 0 },
        { STRING_NET, 0, "0:", 2 },
        { STRING_NET, 1234567, "1234567:", 8 },
        { STRING_NET, SIZE_MAX, "18446744073709551615:", 21 },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char prefix[STRING_PREFIX_MAX];
        cr_assert(eq(sz, string_prefix(cases[i].framing, cases[i].length, prefix), cases[i].size), "%zu", i);
        cr_assert_eq(memcmp(prefix, cases[i].prefix != NULL ? cases[i].prefix : prefix, cases[i].size), 0,
                     "%zu", i);
    }
}

Test(string_parser, skips_what_is_too_long_and_goes_on_behind_it)
{
    for (size_t i = 0; i < COUNT(framings); i++) {
        struct text text = { .size = 0 };
        append_string(&text, framings[i], RONDO_BYTES("fits"));
        append_string(&text, framings[i], RONDO_BYTES("fits not"));
        append_string(&text, framings[i], RONDO_BYTES("does"));
        append_string(&text, framings[i], RONDO_BYTES("....."));
        append_string(&text, framings[i], RONDO_BYTES(""));
        struct string_rules rules = { framings[i], 4 };
        expect_however_cut(&rules, (rondo_bytes){ text.bytes, text.size }, "[fits]!8![does]!5![]");
    }
}

Test(string_parser, says_too_long_as_soon_as_the_prefix_is_there)
{
    static const struct {
        enum string_framing framing;
        rondo_bytes bytes;
        uint64_t length;
    } cases[] = {
        { STRING_INT8, { "\xff", 1 }, 255 },
        { STRING_INT16, { "\xff\xff", 2 }, 65535 },
        { STRING_INT32, { "\xff\xff\xff\xff", 4 }, UINT32_MAX },
        { STRING_INT32, { "\x80\0\0\0", 4 }, UINT64_C(1) << 31 }, /* -2147483648, if it were signed */
        { STRING_NET, { "101:", 4 }, 101 },
        { STRING_NET, { "999999999999999999:", 19 }, UINT64_C(999999999999999999) },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct string_parser parser = { 0 };
        struct string_rules rules = { cases[i].framing, 100 };
        rondo_bytes input = cases[i].bytes, string;
        cr_assert(eq(int, string_parser_next(&parser, &rules, &input, &string), STRING_TOO_LONG), "%zu", i);
        cr_assert(eq(u64, parser.length, cases[i].length), "%zu", i);
        cr_assert_null(parser.held, "nothing is kept for it");
        string_parser_release(&parser);
    }
}

Test(string_parser, knows_what_is_no_netstring)
{
    static const struct {
        rondo_bytes bytes;
        const char *said;
    } cases[] = {
        { RONDO_BYTES(":,"), "?" },
        { RONDO_BYTES("hello"), "?" },
        { RONDO_BYTES("-1:a,"), "?" },
        { RONDO_BYTES("+1:a,"), "?" },
        { RONDO_BYTES(" 1:a,"), "?" },
        { RONDO_BYTES("1 :a,"), "?" },
        { RONDO_BYTES("01:a,"), "?" },
        { RONDO_BYTES("00:,"), "?" },
        { RONDO_BYTES("0x1:a,"), "?" },
        { { "\0001:a,", 5 }, "?" },
        { { "1\0:a,", 5 }, "?" },
        { RONDO_BYTES("1:a;"), "?" },
        { RONDO_BYTES("1:aa,"), "?" },
        { RONDO_BYTES("0:x"), "?" },
        { RONDO_BYTES("2:ab,3:abc,x"), "[ab][abc]?" },
        { RONDO_BYTES("1234567890123456789:"), "?" },
        { RONDO_BYTES("99999999999999999999999999999999999999"), "?" },
        { RONDO_BYTES("12:too long....;1:a,"), "!12!?" },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        expect_however_cut(&(struct string_rules){ STRING_NET, 10 }, cases[i].bytes, cases[i].said);
}

Test(string_parser, takes_what_lies_in_the_input_from_there)
{
    for (size_t i = 0; i < COUNT(framings); i++) {
        struct text text = { .size = 0 };
        struct string_parser parser = { 0 };
        struct string_rules rules = { framings[i], 100 };
        append_string(&text, framings[i], RONDO_BYTES("here"));
        append_string(&text, framings[i], RONDO_BYTES("there"));
        rondo_bytes input = { text.bytes, text.size - 1 }, string;
        cr_assert(eq(int, string_parser_next(&parser, &rules, &input, &string), STRING_FOUND));
        cr_assert_null(parser.held);
        cr_assert(string.data > text.bytes && string.data + string.size <= text.bytes + text.size);
        cr_assert(eq(int, string_parser_next(&parser, &rules, &input, &string), STRING_INCOMPLETE));
        rondo_bytes unused = string_parser_unused(&parser);
        cr_assert_eq(memcmp(unused.data + unused.size - 4, framings[i] == STRING_NET ? "here" : "ther", 4),
                     0);
        cr_assert_eq(memcmp(unused.data, text.bytes + text.size - 1 - unused.size, unused.size), 0,
                     "prefix and all");
        string_parser_release(&parser);
    }
}

Test(string_parser, hands_over_what_it_has_not_used_at_every_cut)
{
    for (size_t i = 0; i < COUNT(framings); i++) {
        struct text text = { .size = 0 };
        struct string_rules rules = { framings[i], 100 };
        append_string(&text, framings[i], RONDO_BYTES("some bytes"));
        for (size_t cut = 1; cut < text.size; cut++) {
            struct string_parser parser = { 0 };
            struct text said = { .size = 0 };
            feed(&parser, &rules, (rondo_bytes){ text.bytes, cut }, &said);
            rondo_bytes unused = string_parser_unused(&parser);
            cr_assert(eq(sz, unused.size, cut));
            cr_assert_eq(memcmp(unused.data, text.bytes, cut), 0);
            string_parser_release(&parser);
        }
    }
}

Test(string_parser, lets_go_of_a_string_when_told)
{
    struct string_parser parser = { 0 };
    struct string_rules rules = { STRING_INT8, 100 };
    rondo_bytes input = { "\5he", 3 }, string;
    cr_assert(eq(int, string_parser_next(&parser, &rules, &input, &string), STRING_INCOMPLETE));
    input = RONDO_BYTES("llo");
    cr_assert(eq(int, string_parser_next(&parser, &rules, &input, &string), STRING_FOUND));
    cr_assert_eq(memcmp(string.data, "hello", 5), 0);
    cr_assert_not_null(parser.held);
    string_parser_drop_string(&parser);
    cr_assert_null(parser.held);
    cr_assert(eq(sz, string_parser_unused(&parser).size, 0));
}

/* The process has no more than so much: a promise of 4 GiB costs nothing until it is kept. */
Test(string_parser, memory_grows_with_what_comes_not_with_what_is_promised)
{
    struct string_parser parser = { 0 };
    struct string_rules rules = { STRING_INT32, SIZE_MAX / 4 };
    struct text said = { .size = 0 };
    feed(&parser, &rules, (rondo_bytes){ "\xff\xff\xff\xff", 4 }, &said);
    static char much[1000];
    for (size_t fed = 0; fed < MIB; fed += sizeof much) {
        feed(&parser, &rules, (rondo_bytes){ much, sizeof much }, &said);
        cr_assert_leq(parser.held->capacity, 2 * (fed + 2 * sizeof much));
    }
    cr_assert(eq(str, said.bytes, ""));
    string_parser_release(&parser);
}

Test(string_parser, a_string_of_64_mib_byte_by_byte_is_no_more_work_than_its_bytes)
{
    struct string_parser parser = { 0 };
    struct string_rules rules = { STRING_NET, 64 * MIB };
    char prefix[STRING_PREFIX_MAX];
    rondo_bytes input = { prefix, string_prefix(STRING_NET, 64 * MIB, prefix) }, string;
    cr_assert(eq(int, string_parser_next(&parser, &rules, &input, &string), STRING_INCOMPLETE));
    for (size_t i = 0; i < 64 * MIB; i++) {
        input = RONDO_BYTES("x");
        cr_assert_eq(string_parser_next(&parser, &rules, &input, &string), STRING_INCOMPLETE);
    }
    input = RONDO_BYTES(",");
    cr_assert(eq(int, string_parser_next(&parser, &rules, &input, &string), STRING_FOUND));
    cr_assert(eq(sz, string.size, 64 * MIB));
    string_parser_release(&parser);
}
