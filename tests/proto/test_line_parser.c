#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "proto/line_parser.h"

TestSuite(line_parser, .timeout = 60);

#define MIB        ((size_t)1 << 20)
#define TEXT_MAX   4096
#define COUNT(all) (sizeof(all) / sizeof(all)[0])

/* What was said, readable: [a line], ![the beginning of one that is too long]. */
struct text {
    char bytes[TEXT_MAX];
    size_t size;
};

static const rondo_bytes delimiters[] = {
    { "\n", 1 }, { "\r\n", 2 }, { "\0", 1 }, { "aab", 3 }, { "END", 3 },
};

static void append(struct text *text, rondo_bytes bytes)
{
    cr_assert(lt(sz, text->size + bytes.size, TEXT_MAX));
    memcpy(text->bytes + text->size, bytes.data, bytes.size);
    text->size += bytes.size;
    text->bytes[text->size] = '\0';
}

static void say(struct text *said, enum line_result result, rondo_bytes line)
{
    append(said, result == LINE_TOO_LONG ? RONDO_BYTES("![") : RONDO_BYTES("["));
    append(said, line);
    append(said, RONDO_BYTES("]"));
}

static rondo_bytes slice(rondo_bytes bytes, size_t begin, size_t size)
{
    size_t left = bytes.size - begin;
    return (rondo_bytes){ bytes.data + begin, size < left ? size : left };
}

/* bytes.size: nowhere */
static size_t position_in(rondo_bytes bytes, rondo_bytes delimiter)
{
    for (size_t position = 0; position + delimiter.size <= bytes.size; position++)
        if (memcmp(bytes.data + position, delimiter.data, delimiter.size) == 0)
            return position;
    return bytes.size;
}

/* The definition, with everything before its eyes. */
static void define(const struct line_rules *rules, rondo_bytes bytes, struct text *said)
{
    *said = (struct text){ .size = 0 };
    for (size_t begin = 0, length; begin < bytes.size; begin += length + rules->delimiter.size) {
        rondo_bytes rest = slice(bytes, begin, bytes.size);
        length = position_in(rest, rules->delimiter);
        if (length < rest.size && length <= rules->max_length)
            say(said, LINE_FOUND, slice(rest, 0, length));
        else if (rest.size >= rules->max_length + rules->delimiter.size)
            say(said, LINE_TOO_LONG, slice(rest, 0, rules->max_length + 1));
    }
}

/* In memory of exactly its size, gone afterwards: nobody may read behind it, or keep a pointer into it. */
static void feed(struct line_parser *parser, const struct line_rules *rules, rondo_bytes piece,
                 struct text *said)
{
    char *copy = malloc(piece.size);
    cr_assert(ne(ptr, copy, NULL));
    memcpy(copy, piece.data, piece.size);

    rondo_bytes input = { copy, piece.size }, line;
    enum line_result result;
    while ((result = line_parser_next(parser, rules, &input, &line)) != LINE_INCOMPLETE) {
        cr_assert(ne(int, result, LINE_NO_MEMORY));
        say(said, result, line);
    }
    cr_assert(eq(sz, input.size, 0));
    free(copy);
}

/* The first piece of `first` bytes, the following ones of `following`. */
static void expect_in_pieces(const struct line_rules *rules, rondo_bytes bytes, size_t first,
                             size_t following, const char *expected)
{
    struct line_parser parser = { 0 };
    struct text said = { .size = 0 };
    for (size_t begin = 0, size = first; begin < bytes.size; begin += size, size = following)
        feed(&parser, rules, slice(bytes, begin, size), &said);
    line_parser_release(&parser);
    cr_assert(eq(str, said.bytes, (char *)expected), "%.*s in pieces of %zu, %zu, ...", (int)bytes.size,
              bytes.data, first, following);
}

static void expect_however_cut(const struct line_rules *rules, rondo_bytes bytes, const char *expected)
{
    for (size_t cut = 1; cut <= bytes.size; cut++) {
        expect_in_pieces(rules, bytes, cut, bytes.size, expected);
        expect_in_pieces(rules, bytes, cut, cut, expected);
    }
}

static void expect_as_defined(const struct line_rules *rules, rondo_bytes bytes)
{
    struct text defined;
    define(rules, bytes, &defined);
    expect_however_cut(rules, bytes, defined.bytes);
}

/* '|' stands for the delimiter, '<' for it without its last byte, '>' for it without its first. */
static rondo_bytes expand(const char *pattern, rondo_bytes delimiter, struct text *text)
{
    *text = (struct text){ .size = 0 };
    for (; *pattern != '\0'; pattern++) {
        if (*pattern == '|')
            append(text, delimiter);
        else if (*pattern == '<')
            append(text, slice(delimiter, 0, delimiter.size - 1));
        else if (*pattern == '>')
            append(text, slice(delimiter, 1, delimiter.size));
        else
            append(text, (rondo_bytes){ pattern, 1 });
    }
    return (rondo_bytes){ text->bytes, text->size };
}

Test(line_parser, says_the_same_however_the_bytes_are_cut)
{
    static const char *const patterns[] = {
        "|",
        "|||",
        "x",
        "x|",
        "one|two|three|",
        "|one||two|||",
        "one|two",
        "12345|1234|",
        "123456|1234|",
        "123456|123456|12345|",
        "1234567890123456789012345678901234567890|x|",
        "1234567890123456789012345678901234567890",
        "<|<<|x<x|",
        "12345<|1234<|123<|",
        "12345<x|1234<x|123<x|",
        "1234567890<|x|1234567890<<|x|",
        "|>x>|>|",
        "12345>|123456>>|x|",
    };
    for (size_t i = 0; i < COUNT(patterns); i++) {
        for (size_t j = 0; j < COUNT(delimiters); j++) {
            for (size_t max_length = 0; max_length <= 6; max_length++) {
                struct text text;
                struct line_rules rules = { delimiters[j], max_length };
                expect_as_defined(&rules, expand(patterns[i], delimiters[j], &text));
            }
        }
    }
}

Test(line_parser, finds_delimiters_that_overlap_themselves_in_all_short_words)
{
    static const rondo_bytes overlapping[] = {
        { "aab", 3 }, { "abab", 4 }, { "aa", 2 }, { "aba", 3 }, { "aaa", 3 }
    };
    enum { LETTERS = 9 };
    char word[LETTERS];
    for (size_t i = 0; i < COUNT(overlapping); i++) {
        for (unsigned bits = 0; bits < 1u << LETTERS; bits++) {
            for (unsigned letter = 0; letter < LETTERS; letter++)
                word[letter] = bits >> letter & 1 ? 'b' : 'a';
            for (size_t max_length = 0; max_length < 4; max_length++) {
                struct line_rules rules = { overlapping[i], max_length };
                expect_as_defined(&rules, (rondo_bytes){ word, LETTERS });
            }
        }
    }
}

Test(line_parser, takes_a_line_for_too_long_above_max_length_without_its_delimiter)
{
    static const char ten[] = "xxxxxxxxxx";
    for (size_t i = 0; i < COUNT(delimiters); i++) {
        struct line_rules rules = { delimiters[i], strlen(ten) };
        for (size_t length = 9; length <= 200; length += length < 16 ? 1 : 50) {
            struct text text = { .size = 0 };
            for (size_t j = 0; j < length; j++)
                append(&text, RONDO_BYTES("x"));
            append(&text, delimiters[i]);
            append(&text, RONDO_BYTES("next"));
            append(&text, delimiters[i]);
            expect_however_cut(&rules, (rondo_bytes){ text.bytes, text.size },
                               length == 9    ? "[xxxxxxxxx][next]"
                               : length == 10 ? "[xxxxxxxxxx][next]"
                                              : "![xxxxxxxxxxx][next]");
        }
    }
}

Test(line_parser, says_too_long_once_and_as_soon_as_it_is_certain)
{
    for (size_t i = 0; i < COUNT(delimiters); i++) {
        struct line_rules rules = { delimiters[i], 10 };
        struct line_parser parser = { 0 };
        struct text said = { .size = 0 };
        for (size_t fed = 1; fed <= 100; fed++) {
            feed(&parser, &rules, RONDO_BYTES("x"), &said);
            bool is_certain = fed >= rules.max_length + rules.delimiter.size;
            cr_assert(eq(str, said.bytes, is_certain ? "![xxxxxxxxxxx]" : ""), "after %zu bytes", fed);
        }
        line_parser_release(&parser);
    }
}

Test(line_parser, goes_on_with_the_next_line_behind_the_delimiter_of_one_too_long)
{
    struct line_rules overlapping = { RONDO_BYTES("aab"), 2 };
    struct line_rules twice = { RONDO_BYTES("abab"), 2 };
    expect_however_cut(&overlapping, RONDO_BYTES("xxxxxxaaaaabyaab"), "![xxx][y]");
    expect_however_cut(&overlapping, RONDO_BYTES("xxxaaxabaabaab"), "![xxx][]");
    expect_however_cut(&overlapping, RONDO_BYTES("aaaaaabaabzzzaab"), "![aaa][]![zzz]");
    expect_however_cut(&twice, RONDO_BYTES("xxxxxxabaababyabab"), "![xxx][y]");
    expect_however_cut(&twice, RONDO_BYTES("xxxababababyabab"), "![xxx][][y]");
}

Test(line_parser, gives_a_line_where_it_lies_in_the_input)
{
    struct line_rules rules = { RONDO_BYTES("\r\n"), 10 };
    struct line_parser parser = { 0 };
    rondo_bytes bytes = RONDO_BYTES("one\r\n\r\nmuch longer than ten\r\nx"), input = bytes, line;

    cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_FOUND));
    cr_assert(eq(ptr, (void *)line.data, (void *)bytes.data));
    cr_assert(eq(sz, line.size, 3));
    cr_assert(eq(ptr, (void *)input.data, (void *)(bytes.data + 5)));

    cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_FOUND));
    cr_assert(eq(ptr, (void *)line.data, (void *)(bytes.data + 5)));
    cr_assert(eq(sz, line.size, 0));

    cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_TOO_LONG));
    cr_assert(eq(ptr, (void *)line.data, (void *)(bytes.data + 7)));
    cr_assert(eq(sz, line.size, 11));
    cr_assert(eq(ptr, parser.held, NULL));

    cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_INCOMPLETE));
    line_parser_release(&parser);
}

static size_t size_of_held(const struct line_parser *parser)
{
    return parser->held == NULL ? 0 : parser->held->size;
}

static size_t capacity_of(const struct line_parser *parser)
{
    return parser->held == NULL ? 0 : parser->held->capacity;
}

Test(line_parser, gives_a_line_that_was_cut_in_memory_of_its_own_until_the_next_call)
{
    struct line_rules rules = { RONDO_BYTES("\r\n"), 10 };
    struct line_parser parser = { 0 };
    char memory[] = "cut";
    rondo_bytes input = { memory, 3 }, line;
    cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_INCOMPLETE));
    memset(memory, 'x', 3);

    input = RONDO_BYTES(" here\r\nrest");
    cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_FOUND));
    cr_assert(eq(ptr, (void *)line.data, (void *)parser.held->bytes));
    cr_assert(eq(sz, line.size, 8));
    cr_assert(zero(int, memcmp(line.data, "cut here", 8)));
    cr_assert(eq(sz, input.size, 4));

    line_parser_drop_line(&parser);
    cr_assert(eq(ptr, parser.held, NULL));
    cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_INCOMPLETE));
    cr_assert(eq(sz, size_of_held(&parser), 4));
    line_parser_release(&parser);
}

Test(line_parser, holds_nothing_between_lines)
{
    for (size_t i = 0; i < COUNT(delimiters); i++) {
        struct line_rules rules = { delimiters[i], 6 };
        struct text text;
        rondo_bytes bytes = expand("a line|", delimiters[i], &text);
        for (size_t cut = 1; cut < bytes.size; cut++) {
            struct line_parser parser = { 0 };
            struct text said = { .size = 0 };
            feed(&parser, &rules, slice(bytes, 0, cut), &said);
            cr_assert(eq(sz, size_of_held(&parser), cut));
            feed(&parser, &rules, slice(bytes, cut, bytes.size), &said);
            cr_assert(eq(str, said.bytes, "[a line]"));
            cr_assert(zero(int, memcmp(&parser, &(struct line_parser){ 0 }, sizeof parser)));
        }
    }
}

Test(line_parser, starts_afresh_after_a_release_in_the_middle_of_a_line)
{
    struct line_rules rules = { RONDO_BYTES("END"), 4 };
    static const char *const beginnings[] = { "a", "aEN", "too long", "too longEN" };
    for (size_t i = 0; i < COUNT(beginnings); i++) {
        struct line_parser parser = { 0 };
        struct text said = { .size = 0 };
        for (const char *byte = beginnings[i]; *byte != '\0'; byte++)
            feed(&parser, &rules, (rondo_bytes){ byte, 1 }, &said);
        line_parser_release(&parser);
        cr_assert(eq(ptr, parser.held, NULL));

        said = (struct text){ .size = 0 };
        feed(&parser, &rules, RONDO_BYTES("DEND"), &said);
        cr_assert(eq(str, said.bytes, "[D]"));
    }
}

Test(line_parser, finds_nothing_in_no_bytes)
{
    struct line_rules rules = { RONDO_BYTES("\r\n"), 4 };
    struct line_parser parser = { 0 };
    struct text said = { .size = 0 };
    rondo_bytes none = { NULL, 0 }, line;
    cr_assert(eq(int, line_parser_next(&parser, &rules, &none, &line), LINE_INCOMPLETE));
    feed(&parser, &rules, RONDO_BYTES("a\r"), &said);
    cr_assert(eq(int, line_parser_next(&parser, &rules, &none, &line), LINE_INCOMPLETE));
    feed(&parser, &rules, RONDO_BYTES("\n"), &said);
    cr_assert(eq(str, said.bytes, "[a]"));
}

Test(line_parser, copies_only_what_belongs_to_the_line)
{
    struct line_rules rules = { RONDO_BYTES("\r\n"), MIB };
    struct line_parser parser = { 0 };
    char *memory = calloc(1, MIB);
    cr_assert(ne(ptr, memory, NULL));
    memcpy(memory, "x\r\n", 3);

    rondo_bytes input = RONDO_BYTES("x"), line;
    cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_INCOMPLETE));
    input = (rondo_bytes){ memory, MIB };
    cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_FOUND));
    cr_assert(eq(sz, line.size, 2));
    cr_assert(le(sz, capacity_of(&parser), 64));
    line_parser_release(&parser);
    free(memory);
}

Test(line_parser, holds_no_more_than_a_line_however_long_the_real_one_is)
{
    for (size_t i = 0; i < COUNT(delimiters); i++) {
        struct line_rules rules = { delimiters[i], 1000 };
        struct line_parser parser = { 0 };
        struct text said = { .size = 0 };
        for (size_t fed = 0; fed < 64000; fed += 64) {
            char piece[64] = "EN\raaENaa\r";
            memset(piece + 10, 'x', sizeof piece - 10);
            feed(&parser, &rules, (rondo_bytes){ piece, sizeof piece }, &said);
            cr_assert(le(sz, capacity_of(&parser), 1000 + 2 * rules.delimiter.size));
            cr_assert(le(sz, size_of_held(&parser),
                         parser.is_skipping ? rules.delimiter.size - 1 : 1000 + rules.delimiter.size - 1));
        }
        feed(&parser, &rules, delimiters[i], &said);
        cr_assert(zero(int, memcmp(&parser, &(struct line_parser){ 0 }, sizeof parser)));
    }
}

Test(line_parser, grows_what_it_holds_by_doubling)
{
    struct line_rules rules = { RONDO_BYTES("\r\n"), 2 * MIB };
    struct line_parser parser = { 0 };
    size_t growths = 0;
    for (size_t fed = 0, capacity = 0; fed < MIB; fed++) {
        rondo_bytes input = RONDO_BYTES("x"), line;
        cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_INCOMPLETE));
        growths += capacity_of(&parser) != capacity;
        capacity = capacity_of(&parser);
    }
    cr_assert(le(sz, growths, 20));
    line_parser_release(&parser);
}

static size_t resident_bytes_max(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (size_t)usage.ru_maxrss * 1024;
}

Test(line_parser, frees_what_it_held)
{
    struct line_rules rules = { RONDO_BYTES("\n"), 16 * MIB };
    struct line_parser parser = { 0 };
    char *memory = malloc(16 * MIB);
    cr_assert(ne(ptr, memory, NULL));
    memset(memory, 'x', 16 * MIB);
    size_t before = resident_bytes_max();
    for (int i = 0; i < 64; i++) {
        rondo_bytes input = { memory, 16 * MIB }, line;
        cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_INCOMPLETE));
        input = RONDO_BYTES("\n");
        if (i % 2 == 0)
            cr_assert(eq(int, line_parser_next(&parser, &rules, &input, &line), LINE_FOUND));
        else
            line_parser_release(&parser);
    }
    line_parser_release(&parser);
    cr_assert(
        lt(sz, resident_bytes_max() - before, 400 * MIB)); /* a sanitizer keeps 256 MiB of it for a while */
    free(memory);
}

/* What follows ends in time only where the work is linear in the bytes: a parser that starts over with each
 * piece, or each line, has some 2^44 bytes or more to look at. */

static size_t count_in_pieces(const struct line_rules *rules, rondo_bytes bytes, size_t piece_size)
{
    struct line_parser parser = { 0 };
    size_t count = 0;
    for (size_t begin = 0; begin < bytes.size; begin += piece_size) {
        rondo_bytes input = slice(bytes, begin, piece_size), line;
        enum line_result result;
        while ((result = line_parser_next(&parser, rules, &input, &line)) != LINE_INCOMPLETE)
            count += result == LINE_NO_MEMORY ? bytes.size : 1;
    }
    line_parser_release(&parser);
    return count;
}

static void expect_count(rondo_bytes delimiter, size_t max_length, rondo_bytes repeated, size_t size,
                         size_t piece_size, size_t count)
{
    char *memory = malloc(size);
    cr_assert(ne(ptr, memory, NULL));
    for (size_t i = 0; i < size; i++)
        memory[i] = repeated.data[i % repeated.size];
    struct line_rules rules = { delimiter, max_length };
    cr_assert(eq(sz, count_in_pieces(&rules, (rondo_bytes){ memory, size }, piece_size), count));
    free(memory);
}

Test(line_parser, takes_linear_time_for_a_long_line_in_single_bytes)
{
    expect_count(RONDO_BYTES("\n"), 32 * MIB, RONDO_BYTES("x"), 2 * MIB, 1, 0);
    expect_count(RONDO_BYTES("\r\n"), 32 * MIB, RONDO_BYTES("\r"), 2 * MIB, 1, 0);
}

Test(line_parser, takes_linear_time_to_skip_a_long_line_in_single_bytes)
{
    expect_count(RONDO_BYTES("\n"), 10, RONDO_BYTES("x"), 2 * MIB, 1, 1);
    expect_count(RONDO_BYTES("\r\n"), 10, RONDO_BYTES("\r"), 2 * MIB, 1, 1);
}

Test(line_parser, takes_linear_time_for_many_lines_in_one_piece)
{
    expect_count(RONDO_BYTES("\n"), 1000, RONDO_BYTES("\n"), 8 * MIB, 8 * MIB, 8 * MIB);
    expect_count(RONDO_BYTES("\r\n"), 1000, RONDO_BYTES("\r\n"), 8 * MIB, 8 * MIB, 4 * MIB);
    expect_count(RONDO_BYTES("\r\n"), 1000, RONDO_BYTES("\r\r\r\n"), 8 * MIB, 8 * MIB, 2 * MIB);
}

Test(line_parser, takes_linear_time_where_every_byte_may_begin_the_delimiter)
{
    rondo_bytes delimiter = RONDO_BYTES("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab");
    expect_count(delimiter, 32 * MIB, RONDO_BYTES("a"), 16 * MIB, 16 * MIB, 0);
    expect_count(delimiter, 32 * MIB, RONDO_BYTES("a"), 16 * MIB, 1000, 0);
    expect_count(delimiter, 32 * MIB, RONDO_BYTES("a"), MIB, 1, 0);
}
