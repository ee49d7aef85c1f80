/* A line that lies in the input as a whole is given where it is. One that doesn't is held until the next
 * input, which is searched in two steps:
 *
 *               held              input
 *      | a line cut in its E | ND another line… |
 *                         |joint|
 *
 * First the joint: the last delimiter.size - 1 held bytes, with as many of the input laid behind them. A
 * delimiter that was cut is there as a whole, and one that lies on a single side is not. Then the input, where
 * it is. So no byte is searched again but those that may begin a delimiter, and only what belongs to the line
 * is copied.
 *
 * While a line may still be good, nothing behind its first max_length + delimiter.size bytes is looked at: if
 * they contain no delimiter, none begins in the first max_length + 1, and the line is too long, whatever
 * follows. The bytes behind those are skipped: searched in the same two steps, but only what may begin a
 * delimiter is held. */
#include "proto/line_parser.h"

#include <stdint.h>
#include <string.h>

#include "core/memory.h"

#define NOWHERE SIZE_MAX

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The first `size` bytes, taken off `bytes`. */
static rondo_bytes take(rondo_bytes *bytes, size_t size)
{
    rondo_bytes taken = { bytes->data, size };
    bytes->data += size;
    bytes->size -= size;
    return taken;
}

/* Append to what is held, and leave room for the joint behind it. */
static bool hold(struct line_parser *parser, const struct line_rules *rules, rondo_bytes bytes)
{
    if (bytes.size == 0)
        return true;
    size_t needed = held_size(parser->held) + bytes.size + rules->delimiter.size - 1;
    if (!held_reserve(&parser->held, needed, rules->max_length + 2 * rules->delimiter.size))
        return false;
    held_append(parser->held, bytes);
    return true;
}

static size_t position_in(rondo_bytes bytes, rondo_bytes delimiter)
{
    /* memchr is many times faster than memmem, and mostly stops at the delimiter itself. Where it doesn't, it
     * isn't tried again: memmem stays linear when every byte looks like a beginning. */
    const char *at = memchr(bytes.data, delimiter.data[0], bytes.size);
    if (at != NULL && delimiter.size > 1)
        at = memmem(at, bytes.size - (size_t)(at - bytes.data), delimiter.data, delimiter.size);
    return at == NULL ? NOWHERE : (size_t)(at - bytes.data);
}

/* Where the first delimiter begins, in what is held with `input` behind it. */
static size_t position_of_delimiter(struct line_parser *parser, rondo_bytes delimiter, rondo_bytes input)
{
    size_t size = held_size(parser->held);
    size_t before = smaller(size, delimiter.size - 1);
    if (before > 0) {
        size_t behind = smaller(input.size, delimiter.size - 1);
        char *end = parser->held->bytes + size;
        rondo_bytes joint = { end - before, before + behind };
        memcpy(end, input.data, behind);
        size_t position = position_in(joint, delimiter);
        if (position != NOWHERE)
            return size - before + position;
    }
    size_t position = position_in(input, delimiter);
    return position == NOWHERE ? NOWHERE : size + position;
}

/* Give the first `size` bytes of the line, of which those that are not held are taken off the input. */
static bool give(struct line_parser *parser, const struct line_rules *rules, size_t size, rondo_bytes *input,
                 rondo_bytes *line)
{
    if (parser->held == NULL) {
        *line = take(input, size);
        return true;
    }
    size_t missing = size - smaller(size, held_size(parser->held));
    if (!hold(parser, rules, take(input, missing)))
        return false;
    parser->held->lent = size;
    *line = (rondo_bytes){ parser->held->bytes, size };
    return true;
}

static enum line_result take_line(struct line_parser *parser, const struct line_rules *rules,
                                  rondo_bytes *input, rondo_bytes *line)
{
    size_t window = rules->max_length + rules->delimiter.size - held_size(parser->held);
    rondo_bytes searched = { input->data, smaller(input->size, window) };
    size_t length = position_of_delimiter(parser, rules->delimiter, searched);

    if (length != NOWHERE) {
        rondo_bytes rest = *input;
        take(&rest, length + rules->delimiter.size - held_size(parser->held));
        if (!give(parser, rules, length, input, line))
            return LINE_NO_MEMORY;
        if (parser->held != NULL)
            parser->held->size = parser->held->lent; /* without the beginning of the delimiter */
        *input = rest;
        return LINE_FOUND;
    }
    if (input->size >= window) {
        parser->is_skipping = true;
        return give(parser, rules, rules->max_length + 1, input, line) ? LINE_TOO_LONG : LINE_NO_MEMORY;
    }
    return hold(parser, rules, take(input, input->size)) ? LINE_INCOMPLETE : LINE_NO_MEMORY;
}

/* Of what is held and the input behind it, hold only what may begin a delimiter. */
static bool hold_tail(struct line_parser *parser, const struct line_rules *rules, rondo_bytes *input)
{
    size_t tail = rules->delimiter.size - 1;
    size_t from_input = smaller(input->size, tail);
    size_t from_held = smaller(held_size(parser->held), tail - from_input);
    if (parser->held != NULL)
        held_drop_first(parser->held, parser->held->size - from_held);
    take(input, input->size - from_input);
    return hold(parser, rules, take(input, from_input));
}

/* LINE_FOUND: its end, which is behind. */
static enum line_result skip_line(struct line_parser *parser, const struct line_rules *rules,
                                  rondo_bytes *input)
{
    size_t position = position_of_delimiter(parser, rules->delimiter, *input);
    if (position == NOWHERE)
        return hold_tail(parser, rules, input) ? LINE_INCOMPLETE : LINE_NO_MEMORY;
    take(input, position + rules->delimiter.size - held_size(parser->held));
    line_parser_release(parser);
    return LINE_FOUND;
}

enum line_result line_parser_next(struct line_parser *parser, const struct line_rules *rules,
                                  rondo_bytes *input, rondo_bytes *line)
{
    line_parser_drop_line(parser);
    if (input->size == 0)
        return LINE_INCOMPLETE;
    if (parser->is_skipping) {
        enum line_result result = skip_line(parser, rules, input);
        if (result != LINE_FOUND)
            return result;
    }
    return take_line(parser, rules, input, line);
}

void line_parser_drop_line(struct line_parser *parser)
{
    struct held *held = parser->held;
    if (held == NULL)
        return;
    if (held->lent == held->size) {
        memory_free(held);
        parser->held = NULL;
    } else {
        /* Behind the beginning of a line that is too long: what may begin its delimiter. */
        held_drop_first(held, held->lent);
        held->lent = 0;
    }
}

rondo_bytes line_parser_unused(const struct line_parser *parser)
{
    if (parser->held == NULL || parser->is_skipping)
        return (rondo_bytes){ 0 };
    const struct held *held = parser->held;
    return (rondo_bytes){ held->bytes + held->lent, held->size - held->lent };
}

void line_parser_release(struct line_parser *parser)
{
    memory_free(parser->held);
    *parser = (struct line_parser){ 0 };
}
