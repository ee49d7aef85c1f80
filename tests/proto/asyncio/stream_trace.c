/* Runs scenarios of reading, from standard input, on a stream of the test kit, and tells what each call gave.
 * test_streams.py does the same with asyncio.
 *
 *   limit N                   begins a scenario
 *   read N, exactly N, line, until HEX[,HEX…], at_eof      what the handler does, one after the other;
 *   rest N                    for so many feeds it doesn't read
 *   feed HEX, eof             what the peer does then; bytes are fed only while the stream is reading
 *   end                       runs it
 *
 * Answers, a line for each call: "data HEX", "incomplete HEX", "overrun N", "too long", "at_eof 0"; for each feed
 * "reading 0", or "held" when it was not fed; "done" when the handler has returned, and "end". */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rondo/rondo.h>
#include <rondo/testing.h>

enum { STEPS_MAX = 256, BYTES_MAX = 8192, SEPARATORS_MAX = 4 };

struct step {
    char what[16];
    size_t count;
    rondo_bytes bytes[SEPARATORS_MAX];
};

static struct step calls[STEPS_MAX], feeds[STEPS_MAX];
static unsigned call_count, feed_count;
static bool is_done;
static size_t resting; /* for so many feeds */
static rondo_event rested;
static char memory[STEPS_MAX * BYTES_MAX];
static size_t used;

static void tell(const char *what, rondo_bytes data)
{
    printf("%s ", what);
    for (size_t i = 0; i < data.size; i++)
        printf("%02x", (unsigned char)data.data[i]);
    printf("\n");
}

static void answer(ssize_t size, rondo_bytes data, const struct step *step)
{
    if (size >= 0)
        tell("data", data);
    else if (size == -ENODATA)
        tell("incomplete", data);
    else if (size == -EMSGSIZE && strcmp(step->what, "line") == 0)
        printf("too long\n");
    else if (size == -EMSGSIZE)
        printf("overrun %zu\n", data.size);
}

static bool take(rondo_stream *s, const struct step *step)
{
    rondo_bytes data;
    ssize_t size;
    if (strcmp(step->what, "at_eof") == 0) {
        printf("at_eof %d\n", rondo_at_eof(s));
        return true;
    }
    if (strcmp(step->what, "rest") == 0) {
        resting = step->count;
        rondo_event_clear(&rested);
        return rondo_event_wait(&rested) == 0;
    }
    if (strcmp(step->what, "read") == 0)
        size = rondo_read(s, step->count, &data);
    else if (strcmp(step->what, "exactly") == 0)
        size = rondo_readexactly(s, step->count, &data);
    else if (strcmp(step->what, "until") == 0)
        size = rondo_readuntil(s, step->bytes, step->count, &data);
    else
        size = rondo_readline(s, &data);
    answer(size, data, step);
    return size != -ECANCELED;
}

static void take_all(rondo_stream *s)
{
    for (unsigned i = 0; i < call_count; i++) {
        if (!take(s, &calls[i]))
            return;
    }
    is_done = true;
    printf("done\n");
}

static rondo_stream_protocol traced = { RONDO_STREAM_READER("traced"), .client_connected = take_all };

/* Behind a feed. */
static void let_rest(rondo_test *test)
{
    if (resting == 0 || --resting > 0)
        return;
    rondo_event_set(&rested);
    rondo_test_turn(test);
}

static void run(void)
{
    rondo_test *test = rondo_test_open(NULL);
    rondo_test_peer *peer = rondo_test_connect(test, &traced.protocol);
    for (unsigned i = 0; i < feed_count && !is_done; i++) {
        bool is_reading = rondo_is_reading(rondo_test_transport(peer));
        if (strcmp(feeds[i].what, "eof") == 0) {
            rondo_test_feed_eof(peer);
        } else if (!is_reading) {
            printf("held\n");
        } else {
            rondo_test_feed(peer, feeds[i].bytes[0]);
            if (!is_done)
                printf("reading %d\n", rondo_is_reading(rondo_test_transport(peer)));
        }
        let_rest(test);
    }
    printf("end\n");
    fflush(stdout);
    if (rondo_test_close(test) != 0)
        exit(1);
    call_count = feed_count = 0;
    is_done = false;
    resting = 0;
    used = 0;
}

static rondo_bytes unhex(const char *text)
{
    rondo_bytes bytes = { memory + used, 0 };
    unsigned byte;
    for (; used < sizeof memory && sscanf(text, "%2x", &byte) == 1; text += 2) {
        memory[used++] = (char)byte;
        bytes.size++;
    }
    return bytes;
}

static void take_separators(struct step *step, char *list)
{
    for (char *hex = strtok(list, ","); hex != NULL && step->count < SEPARATORS_MAX; hex = strtok(NULL, ","))
        step->bytes[step->count++] = unhex(hex);
}

static void take_line(char *line)
{
    char *rest = strchr(line, ' ');
    if (rest != NULL)
        *rest++ = '\0';
    bool is_feed = strcmp(line, "feed") == 0 || strcmp(line, "eof") == 0;
    struct step *step = is_feed ? &feeds[feed_count] : &calls[call_count];
    if (strcmp(line, "limit") == 0) {
        traced.limit = strtoul(rest, NULL, 10);
        return;
    }
    if (strcmp(line, "end") == 0) {
        run();
        return;
    }
    memset(step, 0, sizeof *step);
    snprintf(step->what, sizeof step->what, "%s", line);
    if (is_feed && rest != NULL)
        step->bytes[0] = unhex(rest);
    else if (strcmp(line, "until") == 0)
        take_separators(step, rest);
    else if (rest != NULL)
        step->count = strcmp(rest, "-1") == 0 ? RONDO_TO_EOF : strtoul(rest, NULL, 10);
    is_feed ? feed_count++ : call_count++;
}

int main(void)
{
    static char line[2 * BYTES_MAX + 100];
    rondo_set_log_level(RONDO_LOG_ERROR);
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (call_count == STEPS_MAX || feed_count == STEPS_MAX)
            return 1;
        take_line(line);
    }
    return 0;
}
