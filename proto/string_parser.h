/* The string parser: bytes in, strings out whose length is told before them. It knows no transport and no clock.
 *
 * The same bytes make the same strings, and the same verdicts, however they are cut; and the work is linear in them.
 * Thread: whichever owns the parser. */
#ifndef RONDO_PROTO_STRING_PARSER_H
#define RONDO_PROTO_STRING_PARSER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/bytes.h>

#include "proto/held.h"

/* How the length is told. */
enum string_framing {
    STRING_INT8 = 1, /* a byte, or 2 or 4, the highest first */
    STRING_INT16 = 2,
    STRING_INT32 = 4,
    STRING_NET, /* decimal digits and a colon; a comma follows the string */
};

#define STRING_PREFIX_MAX 24

/* The same for all calls on one parser, until it is released. */
struct string_rules {
    enum string_framing framing;
    size_t max_length; /* of a string; at most SIZE_MAX / 4: sums of sizes must not overflow */
};

/* One for each stream of bytes; zeroed: at the beginning of a string's prefix. */
struct string_parser {
    struct held
        *held; /* the beginning of one that is incomplete, prefix and all, or one just completed; else NULL */
    uint64_t length;    /* of the string, when its prefix is known */
    uint64_t skipped;   /* bytes that are still to be skipped of one that was too long; 0: none */
    size_t prefix_size; /* 0: not known yet */
};

enum string_result {
    STRING_FOUND, /* string: a whole one, maybe empty */
    STRING_TOO_LONG, /* parser->length bytes, which is more than max_length: they are skipped by the calls to come */
    STRING_MALFORMED, /* this is no netstring, and nobody knows where the next one begins: the parser can only be released */
    STRING_INCOMPLETE, /* the input is used up */
    STRING_NO_MEMORY,  /* the parser can only be released */
};

/* Take the next string off `input`.
 *
 *   input    loses what was taken; when it is used up, call again with what comes next
 *   string   set by STRING_FOUND; lies in `input` if parser->held is NULL, else lent until the next call */
enum string_result string_parser_next(struct string_parser *parser, const struct string_rules *rules,
                                      rondo_bytes *input, rondo_bytes *string);

/* Free the memory of the string that was given last, when the next call of string_parser_next is far away. */
void string_parser_drop_string(struct string_parser *parser);

/* What was taken off the input and not given: the beginning of an incomplete string and its prefix. It lies in the parser. */
rondo_bytes string_parser_unused(const struct string_parser *parser);

/* Free everything: the parser is at the beginning of a prefix. */
void string_parser_release(struct string_parser *parser);

/* What stands before a string of so many bytes.
 *
 *   prefix   room for STRING_PREFIX_MAX bytes
 *
 * Returns its size; 0: it can't tell so much. */
size_t string_prefix(enum string_framing framing, size_t length, char *prefix);

/* What stands behind it: 0 or 1 bytes. */
rondo_bytes string_suffix(enum string_framing framing);

#endif
