/* Recite: a phrase of the poem is answered by the next one.    try: echo 'Tyger Tyger, burning bright,' | nc localhost 7777
 *
 * A phrase that comes as a line is answered by a line. Who sends no newline, but a whole phrase at once, gets the bare phrase. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <rondo/rondo.h>

enum { PHRASE_MAX = 500, PHRASES_MAX = 100000 };

static rondo_bytes poem[PHRASES_MAX];
static size_t poem_size;

struct reader {
    size_t next;      /* where it is in the poem: phrases may come more than once */
    bool sends_lines; /* has sent a newline */
    size_t held_size; /* of a phrase that has not come as a whole; above PHRASE_MAX: it is none */
    char held[PHRASE_MAX];
};

/* From `next` on, and then from the beginning. poem_size: nowhere. */
static size_t find(size_t next, rondo_bytes phrase)
{
    for (size_t i = 0; i < poem_size; i++) {
        size_t at = (next + i) % poem_size;
        if (poem[at].size == phrase.size && memcmp(poem[at].data, phrase.data, phrase.size) == 0)
            return at;
    }
    return poem_size;
}

static bool begins_a_phrase(rondo_bytes bytes)
{
    for (size_t i = 0; i < poem_size; i++) {
        if (poem[i].size > bytes.size && memcmp(poem[i].data, bytes.data, bytes.size) == 0)
            return true;
    }
    return false;
}

static void answer(rondo_transport *t, rondo_bytes phrase, rondo_bytes ending)
{
    struct reader *reader = rondo_self(t);
    size_t at = reader->held_size > PHRASE_MAX ? poem_size : find(reader->next, phrase);
    rondo_bytes next = RONDO_BYTES("That is no phrase of this poem.");
    if (at + 1 < poem_size)
        next = poem[at + 1];
    else if (at < poem_size)
        next = RONDO_BYTES("That was the last phrase.");
    reader->next = at < poem_size ? at + 1 : reader->next;
    reader->held_size = 0;
    rondo_bytes slices[] = { next, ending };
    rondo_writelines(t, slices, 2);
}

/* Behind what is held. Returns both. */
static rondo_bytes hold(struct reader *reader, rondo_bytes bytes)
{
    if (reader->held_size + bytes.size > PHRASE_MAX) {
        reader->held_size = PHRASE_MAX + 1;
        return (rondo_bytes){ 0 };
    }
    memcpy(reader->held + reader->held_size, bytes.data, bytes.size);
    reader->held_size += bytes.size;
    return (rondo_bytes){ reader->held, reader->held_size };
}

static void line_received(rondo_transport *t, rondo_bytes line)
{
    bool has_return = line.size > 0 && line.data[line.size - 1] == '\r';
    line.size -= has_return;
    answer(t, line, has_return ? RONDO_BYTES("\r\n") : RONDO_BYTES("\n"));
}

static void data_received(rondo_transport *t, rondo_bytes data)
{
    struct reader *reader = rondo_self(t);
    for (const char *end; data.size > 0 && (end = memchr(data.data, '\n', data.size)) != NULL;) {
        size_t size = (size_t)(end - data.data);
        reader->sends_lines = true;
        line_received(t, hold(reader, (rondo_bytes){ data.data, size }));
        data = (rondo_bytes){ end + 1, data.size - size - 1 };
    }
    if (data.size == 0)
        return;
    rondo_bytes phrase = hold(reader, data);
    bool may_go_on =
        reader->held_size <= PHRASE_MAX && find(0, phrase) == poem_size && begins_a_phrase(phrase);
    if (!reader->sends_lines && !may_go_on)
        answer(t, phrase, (rondo_bytes){ 0 });
}

/* ---- the poem ------------------------------------------------------------------------------------------- */

static bool add_phrase(const char *path, size_t number, const char *line, size_t size)
{
    if (size > PHRASE_MAX || poem_size == PHRASES_MAX) {
        fprintf(stderr, "%s: line %zu: a phrase has %d bytes at most, and a poem %d phrases\n", path, number,
                PHRASE_MAX, PHRASES_MAX);
        return false;
    }
    char *copy = malloc(size);
    if (copy == NULL) {
        fprintf(stderr, "%s: no memory for a poem of %zu phrases\n", path, number);
        return false;
    }
    memcpy(copy, line, size);
    poem[poem_size++] = (rondo_bytes){ copy, size };
    return true;
}

/* Lines without anything part stanzas, and are no phrases. */
static bool read_poem(const char *path)
{
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t room = 0, number = 0;
    bool good = file != NULL;
    if (file == NULL)
        fprintf(stderr, "%s: %s; name another one with --poem FILE\n", path, strerror(errno));
    for (ssize_t size; good && (size = getline(&line, &room, file)) >= 0;) {
        while (size > 0 && (line[size - 1] == '\n' || line[size - 1] == '\r'))
            size--;
        good = (++number, size == 0) || add_phrase(path, number, line, (size_t)size);
    }
    if (good && poem_size == 0)
        fprintf(stderr, "%s: there is no phrase in it\n", path);
    free(line);
    if (file != NULL)
        fclose(file);
    return good && poem_size > 0;
}

/* Beside the program, or where it was installed with it. */
static const char *shipped_poem(void)
{
    static char path[PATH_MAX + 32];
    ssize_t size = readlink("/proc/self/exe", path, PATH_MAX);
    char *slash = size > 0 ? memrchr(path, '/', (size_t)size) : NULL;
    if (slash == NULL)
        return "tyger.txt";
    strcpy(slash + 1, "tyger.txt");
    if (access(path, R_OK) < 0)
        strcpy(slash + 1, "../share/rondo/tyger.txt");
    return path;
}

static const rondo_protocol recite = {
    .name = "recite",
    .size = sizeof(struct reader),
    .defer_accept = true,
    .data_received = data_received,
};

int main(int argc, char **argv)
{
    const char *path = shipped_poem();
    const rondo_option options[] = {
        { .name = "poem", .help = "a file with a phrase in each line", .value = &path },
        { 0 },
    };
    rondo_app app = { .servers = { { .url = "tcp://127.0.0.1:7777" } }, .protocol = &recite };
    int status = rondo_parse_options(&app, argc, argv, options);
    if (status >= 0)
        return status;
    return !read_poem(path) || rondo_run(&app) < 0;
}
