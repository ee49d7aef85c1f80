/* The line parser: bytes in, lines out. It knows no transport and no clock.
 *
 * The same bytes make the same lines, and the same verdicts "too long", however they are cut; and the work is
 * linear in them. Thread: whichever owns the parser. */
#ifndef RONDO_PROTO_LINE_PARSER_H
#define RONDO_PROTO_LINE_PARSER_H

#include <stdbool.h>
#include <stddef.h>

#include <rondo/bytes.h>

#include "proto/held.h"

/* What a line is: the same for all calls on one parser, until it is released. */
struct line_rules {
    rondo_bytes delimiter; /* 1 byte or more */
    size_t max_length;     /* without the delimiter; at most SIZE_MAX / 4: sums of sizes must not overflow */
};

/* One for each stream of bytes; zeroed: at the start of a line. Small: most connections are idle, between two lines. */
struct line_parser {
    struct held *held; /* the beginning of an incomplete line, or one just completed; else NULL */
    bool is_skipping;  /* to the end of a line that was too long */
};

enum line_result {
    LINE_FOUND,      /* line: a whole one, without its delimiter, maybe empty */
    LINE_TOO_LONG,   /* line: the first max_length + 1 bytes of one that is longer than max_length */
    LINE_INCOMPLETE, /* the input is used up */
    LINE_NO_MEMORY,  /* the parser can only be released */
};

/* Take the next line off `input`.
 *
 *   input   loses what was taken; when it is used up, call again with what comes next
 *   line    set by LINE_FOUND and LINE_TOO_LONG; lies in `input` if parser->held is NULL, else lent until
 *           the next call
 *
 * LINE_TOO_LONG comes once for a line, as soon as max_length + delimiter.size bytes went by without a whole
 * delimiter. The calls after it skip the rest, in constant memory, and lines go on behind its delimiter. */
enum line_result line_parser_next(struct line_parser *parser, const struct line_rules *rules,
                                  rondo_bytes *input, rondo_bytes *line);

/* Free the memory of the line that was given last, when the next call of line_parser_next is far away. */
void line_parser_drop_line(struct line_parser *parser);

/* What was taken off the input and not given in a line, nor belongs to one that is too long: the beginning of an incomplete
 * line. It lies in the parser. */
rondo_bytes line_parser_unused(const struct line_parser *parser);

/* Free everything: the parser is at the start of a line. */
void line_parser_release(struct line_parser *parser);

#endif
