/* Bytes: the delimiter's size and the greatest length, the delimiter, the number of cuts, the cuts, the stream. */
#include "cuts.h"
#include "proto/line_parser.h"

struct lines {
    struct line_parser parser;
    struct line_rules rules;
};

static bool feed(void *parser, rondo_bytes piece, struct said *said)
{
    struct lines *lines = parser;
    enum line_result result;
    rondo_bytes line;
    while ((result = line_parser_next(&lines->parser, &lines->rules, &piece, &line)) != LINE_INCOMPLETE) {
        if (result == LINE_NO_MEMORY || line.size > lines->rules.max_length + 1)
            abort();
        say(said, result, line);
    }
    return true;
}

static void parse(const struct line_rules *rules, rondo_bytes bytes, rondo_bytes cuts, struct said *said)
{
    struct lines lines = { .rules = *rules };
    feed_in_pieces(feed, &lines, bytes, cuts, said);
    line_parser_release(&lines.parser);
}

int LLVMFuzzerTestOneInput(const char *data, size_t size);

int LLVMFuzzerTestOneInput(const char *data, size_t size)
{
    if (size < 3)
        return -1;
    size_t delimiter = 1 + (unsigned char)data[0] % 6, cuts = (unsigned char)data[2] % 16;
    if (size < 3 + delimiter + cuts)
        return -1;
    struct line_rules rules = { { data + 3, delimiter }, (unsigned char)data[1] };
    rondo_bytes bytes = { data + 3 + delimiter + cuts, size - 3 - delimiter - cuts };
    struct said whole = { 0 }, cut = { 0 };
    parse(&rules, bytes, (rondo_bytes){ 0 }, &whole);
    parse(&rules, bytes, (rondo_bytes){ data + 3 + delimiter, cuts }, &cut);
    must_be_the_same(&whole, &cut);
    return 0;
}
