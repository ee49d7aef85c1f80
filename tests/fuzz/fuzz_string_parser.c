/* Bytes: the framing, the greatest length, the number of cuts, the cuts, the stream. */
#include "cuts.h"
#include "proto/string_parser.h"

struct strings {
    struct string_parser parser;
    struct string_rules rules;
};

static bool feed(void *parser, rondo_bytes piece, struct said *said)
{
    struct strings *strings = parser;
    rondo_bytes string;
    for (;;) {
        enum string_result result = string_parser_next(&strings->parser, &strings->rules, &piece, &string);
        if (result == STRING_INCOMPLETE)
            return true;
        if (result == STRING_NO_MEMORY || (result == STRING_FOUND && string.size > strings->rules.max_length))
            abort();
        if (result == STRING_TOO_LONG)
            string = (rondo_bytes){ (const char *)&strings->parser.length, sizeof strings->parser.length };
        say(said, result, result == STRING_MALFORMED ? (rondo_bytes){ 0 } : string);
        if (result == STRING_MALFORMED)
            return false;
    }
}

static void parse(const struct string_rules *rules, rondo_bytes bytes, rondo_bytes cuts, struct said *said)
{
    struct strings strings = { .rules = *rules };
    feed_in_pieces(feed, &strings, bytes, cuts, said);
    string_parser_release(&strings.parser);
}

int LLVMFuzzerTestOneInput(const char *data, size_t size);

int LLVMFuzzerTestOneInput(const char *data, size_t size)
{
    static const enum string_framing framings[] = { STRING_INT8, STRING_INT16, STRING_INT32, STRING_NET };
    if (size < 3)
        return -1;
    size_t cuts = (unsigned char)data[2] % 16;
    if (size < 3 + cuts)
        return -1;
    struct string_rules rules = { framings[(unsigned char)data[0] % 4], (unsigned char)data[1] };
    rondo_bytes bytes = { data + 3 + cuts, size - 3 - cuts };
    struct said whole = { 0 }, cut = { 0 };
    parse(&rules, bytes, (rondo_bytes){ 0 }, &whole);
    parse(&rules, bytes, (rondo_bytes){ data + 3, cuts }, &cut);
    must_be_the_same(&whole, &cut);
    return 0;
}
