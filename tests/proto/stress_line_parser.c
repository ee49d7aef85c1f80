/* Random bytes, in random cuts, under random rules: the parser must say what the definition says, and when.
 *
 *   stress_line_parser [seed [cases]]
 *
 * The definition goes byte by byte and has everything before its eyes. The parser gets each piece in memory of
 * exactly its size, freed after the call: a sanitizer sees whoever reads behind it, or keeps a pointer into
 * it. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/line_parser.h"

#define CASES_DEFAULT 200000
#define BYTES_MAX     320
#define DELIMITER_MAX 6
#define LENGTH_MAX    160

struct trial {
    char delimiter[DELIMITER_MAX];
    struct line_rules rules;
    char bytes[BYTES_MAX];
    size_t size;
};

struct verdict {
    enum line_result result;
    rondo_bytes line;
    size_t certain_at; /* how many bytes must have come for it */
};

struct verdicts {
    struct verdict verdict[BYTES_MAX];
    size_t count;
};

static uint64_t random_state;

/* splitmix64 */
static uint64_t random_bits(void)
{
    uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static size_t random_between(size_t least, size_t most)
{
    return least + (size_t)(random_bits() % (most - least + 1));
}

static void fill(char *bytes, size_t size, size_t letters)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = "abc"[random_between(0, letters - 1)];
}

/* Of two or three letters, so that delimiters overlap themselves and most bytes may begin one. */
static void make_trial(struct trial *trial)
{
    size_t letters = random_between(2, 3);
    trial->rules.delimiter = (rondo_bytes){ trial->delimiter, random_between(1, DELIMITER_MAX) };
    trial->rules.max_length = random_between(0, random_between(0, LENGTH_MAX));
    trial->size = random_between(0, random_between(0, BYTES_MAX));
    fill(trial->delimiter, trial->rules.delimiter.size, letters);
    fill(trial->bytes, trial->size, letters);
    while (trial->size > DELIMITER_MAX && random_between(0, 5) != 0)
        memcpy(trial->bytes + random_between(0, trial->size - DELIMITER_MAX), trial->delimiter,
               trial->rules.delimiter.size);
}

static void print_bytes(const char *what, rondo_bytes bytes)
{
    fprintf(stderr, "  %s \"%.*s\"\n", what, (int)bytes.size, bytes.data);
}

static void print_trial(const struct trial *trial)
{
    print_bytes("delimiter", trial->rules.delimiter);
    fprintf(stderr, "  max_length %zu\n", trial->rules.max_length);
    print_bytes("bytes", (rondo_bytes){ trial->bytes, trial->size });
}

/* A line ends with the first delimiter behind its beginning. It is too long once that can't come in time. */
static void define(const struct trial *trial, struct verdicts *defined)
{
    rondo_bytes delimiter = trial->rules.delimiter;
    size_t max_length = trial->rules.max_length;
    size_t begin = 0;
    defined->count = 0;
    for (size_t end = 1; end <= trial->size; end++) {
        const char *line = trial->bytes + begin;
        size_t size = end - begin;
        if (size >= delimiter.size &&
            memcmp(line + size - delimiter.size, delimiter.data, delimiter.size) == 0) {
            if (size - delimiter.size <= max_length)
                defined->verdict[defined->count++] =
                    (struct verdict){ LINE_FOUND, { line, size - delimiter.size }, end };
            begin = end;
        } else if (size == max_length + delimiter.size) {
            defined->verdict[defined->count++] =
                (struct verdict){ LINE_TOO_LONG, { line, max_length + 1 }, end };
        }
    }
}

static const char *compare(const struct verdict *defined, const struct verdict *said)
{
    if (said->result != defined->result)
        return "another verdict";
    if (said->line.size != defined->line.size ||
        memcmp(said->line.data, defined->line.data, defined->line.size) != 0)
        return "another line";
    if (said->result == LINE_FOUND && said->certain_at != defined->certain_at)
        return "lines don't go on behind the delimiter";
    return NULL;
}

/* Between two pieces a parser holds no more than it needs, and no memory for nothing. */
static const char *audit(const struct line_parser *parser, const struct line_rules *rules)
{
    size_t tail = rules->delimiter.size - 1;
    const struct held *held = parser->held;
    if (held == NULL)
        return NULL;
    if (held->size > (parser->is_skipping ? tail : rules->max_length + tail))
        return "more is held than a line or the tail of one";
    if (held->capacity > rules->max_length + 2 * rules->delimiter.size)
        return "too much memory is held";
    if (held->size == 0)
        return "memory is held for nothing";
    return NULL;
}

/* Feed the piece of the bytes that ends at `end`. NULL: all as defined. */
static const char *feed(struct line_parser *parser, const struct trial *trial, rondo_bytes input, size_t end,
                        const struct verdicts *defined, size_t *next)
{
    struct verdict said;
    while ((said.result = line_parser_next(parser, &trial->rules, &input, &said.line)) != LINE_INCOMPLETE) {
        if (*next == defined->count)
            return "one verdict too many";
        said.certain_at = end - input.size;
        const char *difference = compare(&defined->verdict[*next], &said);
        if (difference != NULL)
            return difference;
        if (defined->verdict[(*next)++].certain_at > end)
            return "too early";
    }
    if (input.size != 0)
        return "input is left";
    if (*next < defined->count && defined->verdict[*next].certain_at <= end)
        return "a verdict is missing, or late";
    return audit(parser, &trial->rules);
}

static const char *feed_copy(struct line_parser *parser, const struct trial *trial, size_t begin, size_t end,
                             const struct verdicts *defined, size_t *next)
{
    char *piece = malloc(end - begin);
    if (piece == NULL)
        return "no memory for the piece";
    memcpy(piece, trial->bytes + begin, end - begin);
    const char *difference = feed(parser, trial, (rondo_bytes){ piece, end - begin }, end, defined, next);
    free(piece);
    return difference;
}

static const char *run_trial(const struct trial *trial)
{
    struct verdicts defined;
    struct line_parser parser = { 0 };
    const char *difference = NULL;
    size_t piece_max = random_between(1, random_between(1, BYTES_MAX));
    size_t next = 0;

    define(trial, &defined);
    for (size_t begin = 0, end; begin < trial->size && difference == NULL; begin = end) {
        size_t left = trial->size - begin;
        end = begin + random_between(1, piece_max < left ? piece_max : left);
        difference = feed_copy(&parser, trial, begin, end, &defined, &next);
    }
    line_parser_release(&parser);
    return difference;
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    uint64_t cases = argc > 2 ? strtoull(argv[2], NULL, 0) : CASES_DEFAULT;
    random_state = seed;
    printf("stress_line_parser: seed %" PRIu64 ", %" PRIu64 " cases\n", seed, cases);
    fflush(stdout);

    for (uint64_t i = 0; i < cases; i++) {
        struct trial trial;
        make_trial(&trial);
        const char *difference = run_trial(&trial);
        if (difference != NULL) {
            fprintf(stderr, "case %" PRIu64 ": %s\n", i, difference);
            print_trial(&trial);
            return 1;
        }
    }
    return 0;
}
