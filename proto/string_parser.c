/* A string that lies in the input as a whole is given where it is. One that doesn't is held from the first byte of its
 * prefix on, as it came, so that what is unused can be handed to another protocol. Memory grows with the bytes that have come,
 * never with what a prefix promises. */
#include "proto/string_parser.h"

#include <stdio.h>
#include <string.h>

#include "core/memory.h"

/* A length of more digits fits no memory, and needn't be told to anybody. */
#define DIGITS_MAX 18

static rondo_bytes take(rondo_bytes *bytes, size_t size)
{
    rondo_bytes taken = { bytes->data, size };
    bytes->data += size;
    bytes->size -= size;
    return taken;
}

/* ---- the prefix ----------------------------------------------------------------------------------------- */

enum decoding { PREFIX_WHOLE, PREFIX_INCOMPLETE, PREFIX_MALFORMED };

static enum decoding decode_int(struct string_parser *parser, size_t width, rondo_bytes bytes)
{
    if (bytes.size < width)
        return PREFIX_INCOMPLETE;
    parser->length = 0;
    for (size_t i = 0; i < width; i++)
        parser->length = parser->length << 8 | (unsigned char)bytes.data[i];
    parser->prefix_size = width;
    return PREFIX_WHOLE;
}

/* Digits without a leading zero, and a colon. */
static enum decoding decode_digits(struct string_parser *parser, rondo_bytes bytes)
{
    uint64_t length = 0;
    for (size_t i = 0; i < bytes.size; i++) {
        char c = bytes.data[i];
        if (c == ':' && i > 0) {
            parser->length = length;
            parser->prefix_size = i + 1;
            return PREFIX_WHOLE;
        }
        if (c < '0' || c > '9' || i == DIGITS_MAX || (i == 1 && length == 0))
            return PREFIX_MALFORMED;
        length = 10 * length + (uint64_t)(c - '0');
    }
    return PREFIX_INCOMPLETE;
}

static enum decoding decode(struct string_parser *parser, enum string_framing framing, rondo_bytes bytes)
{
    return framing == STRING_NET ? decode_digits(parser, bytes) : decode_int(parser, framing, bytes);
}

/* The prefix lies in the input; or it was cut, and is put together in what is held, byte by byte: it is short. */
static enum string_result take_prefix(struct string_parser *parser, const struct string_rules *rules,
                                      rondo_bytes *input)
{
    enum decoding decoding = PREFIX_INCOMPLETE;
    if (parser->held == NULL) {
        decoding = decode(parser, rules->framing, *input);
    } else {
        while (input->size > 0 && decoding == PREFIX_INCOMPLETE) {
            held_append(parser->held, take(input, 1));
            decoding =
                decode(parser, rules->framing, (rondo_bytes){ parser->held->bytes, parser->held->size });
        }
    }
    if (decoding == PREFIX_MALFORMED)
        return STRING_MALFORMED;
    if (decoding == PREFIX_WHOLE)
        return STRING_FOUND;
    if (input->size > 0) { /* the first bytes of one */
        if (!held_reserve(&parser->held, STRING_PREFIX_MAX, STRING_PREFIX_MAX))
            return STRING_NO_MEMORY;
        held_append(parser->held, take(input, input->size));
    }
    return STRING_INCOMPLETE;
}

size_t string_prefix(enum string_framing framing, size_t length, char *prefix)
{
    if (framing == STRING_NET)
        return (size_t)snprintf(prefix, STRING_PREFIX_MAX, "%zu:", length);
    size_t width = framing;
    if ((uint64_t)length >> (8 * width) != 0)
        return 0;
    for (size_t i = 0; i < width; i++)
        prefix[i] = (char)(length >> (8 * (width - 1 - i)));
    return width;
}

rondo_bytes string_suffix(enum string_framing framing)
{
    return framing == STRING_NET ? RONDO_BYTES(",") : (rondo_bytes){ 0 };
}

/* ---- the string ------------------------------------------------------------------------------------------- */

static void begin_next(struct string_parser *parser)
{
    parser->length = 0;
    parser->prefix_size = 0;
}

static enum string_result take_string(struct string_parser *parser, const struct string_rules *rules,
                                      rondo_bytes *input, rondo_bytes *string)
{
    rondo_bytes suffix = string_suffix(rules->framing), whole;
    size_t size = parser->prefix_size + (size_t)parser->length + suffix.size, held = held_size(parser->held);
    if (held == 0 && input->size >= size) {
        whole = take(input, size);
    } else {
        size_t more = input->size < size - held ? input->size : size - held;
        if (!held_reserve(&parser->held, held + more, size))
            return STRING_NO_MEMORY;
        held_append(parser->held, take(input, more));
        if (parser->held->size < size)
            return STRING_INCOMPLETE;
        parser->held->lent = size;
        whole = (rondo_bytes){ parser->held->bytes, size };
    }
    *string = (rondo_bytes){ whole.data + parser->prefix_size, (size_t)parser->length };
    if (suffix.size > 0 && whole.data[size - 1] != suffix.data[0])
        return STRING_MALFORMED;
    begin_next(parser);
    return STRING_FOUND;
}

static enum string_result refuse(struct string_parser *parser, const struct string_rules *rules,
                                 rondo_bytes *input)
{
    if (parser->held == NULL)
        take(input, parser->prefix_size);
    memory_free(parser->held);
    parser->held = NULL;
    parser->prefix_size = 0;
    parser->skipped = parser->length + string_suffix(rules->framing).size;
    return STRING_TOO_LONG;
}

/* STRING_FOUND: it is behind. */
static enum string_result skip(struct string_parser *parser, const struct string_rules *rules,
                               rondo_bytes *input)
{
    rondo_bytes suffix = string_suffix(rules->framing);
    rondo_bytes some = take(input, input->size < parser->skipped ? input->size : (size_t)parser->skipped);
    parser->skipped -= some.size;
    if (parser->skipped > 0)
        return STRING_INCOMPLETE;
    begin_next(parser);
    return suffix.size == 0 || some.data[some.size - 1] == suffix.data[0] ? STRING_FOUND : STRING_MALFORMED;
}

enum string_result string_parser_next(struct string_parser *parser, const struct string_rules *rules,
                                      rondo_bytes *input, rondo_bytes *string)
{
    string_parser_drop_string(parser);
    if (input->size == 0)
        return STRING_INCOMPLETE;
    if (parser->skipped > 0) {
        enum string_result result = skip(parser, rules, input);
        if (result != STRING_FOUND)
            return result;
    }
    if (parser->prefix_size == 0) {
        enum string_result result = take_prefix(parser, rules, input);
        if (result != STRING_FOUND)
            return result;
        if (parser->length > rules->max_length)
            return refuse(parser, rules, input);
    }
    return take_string(parser, rules, input, string);
}

void string_parser_drop_string(struct string_parser *parser)
{
    if (parser->held == NULL || parser->held->lent == 0)
        return;
    memory_free(parser->held);
    parser->held = NULL;
}

rondo_bytes string_parser_unused(const struct string_parser *parser)
{
    if (parser->held == NULL || parser->held->lent > 0)
        return (rondo_bytes){ 0 };
    return (rondo_bytes){ parser->held->bytes, parser->held->size };
}

void string_parser_release(struct string_parser *parser)
{
    memory_free(parser->held);
    *parser = (struct string_parser){ 0 };
}
