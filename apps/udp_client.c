/* UDP client: sends its words, or lines, as datagrams, and prints what comes back.
 * try: rondo-udp-client udp://127.0.0.1:7777 hello */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <rondo/rondo.h>

static char **words; /* the URL, and what to send; without that, the lines of stdin */
static bool is_broadcast, has_failed;
static const char *wait_ms_text = "1000";
static uint64_t wait_ms;

static rondo_transport *endpoint;
static rondo_timer patience;
static unsigned sent, answered;
static bool is_all_sent;

static void fail(const char *what, int error)
{
    rondo_log(RONDO_LOG_ERROR, "%s: %s", what, strerror(-error));
    has_failed = true;
}

static void stop(void)
{
    rondo_timer_cancel(&patience);
    rondo_close(endpoint);
}

static void waited_long_enough(rondo_timer *timer)
{
    (void)timer;
    if (answered == 0) {
        rondo_log(RONDO_LOG_ERROR, "%s: no answer in %s ms", words[0], wait_ms_text);
        has_failed = true;
    }
    stop();
}

/* To a broadcast any number may answer. */
static void settle(void)
{
    if (is_all_sent && answered >= sent && !is_broadcast)
        stop();
    else if (is_all_sent)
        rondo_call_later(rondo_get_loop(endpoint), &patience, wait_ms, waited_long_enough);
}

static void send_one(const char *data, size_t size)
{
    rondo_sendto(endpoint, (rondo_bytes){ data, size }, (rondo_address){ 0 });
    sent++;
}

static void all_is_sent(void)
{
    is_all_sent = true;
    if (endpoint != NULL)
        settle();
}

/* ---- the endpoint ---- */

static void print(rondo_bytes data, rondo_address address)
{
    char from[RONDO_ADDRESS_TEXT_BYTES];
    rondo_format_address(address, from);
    bool has_newline = data.size > 0 && data.data[data.size - 1] == '\n';
    if (is_broadcast)
        printf("%s: ", from);
    fwrite(data.data, 1, data.size, stdout);
    fputs(has_newline ? "" : "\n", stdout);
    if (fflush(stdout) != 0 && !has_failed)
        fail("standard output", -errno);
}

static void datagram_received(rondo_transport *t, rondo_bytes data, rondo_address address)
{
    (void)t;
    answered++;
    print(data, address);
    settle();
}

static void error_received(rondo_transport *t, int error)
{
    (void)t;
    if (!rondo_is_closing(endpoint)) {
        fail(words[0], error);
        stop();
    }
}

static void connection_lost(rondo_transport *t, int error)
{
    endpoint = NULL;
    rondo_timer_cancel(&patience);
    if (error < 0)
        fail(words[0], error);
    rondo_stop(rondo_get_loop(t));
}

static const rondo_protocol protocol = {
    .name = "client",
    .datagram_received = datagram_received,
    .error_received = error_received,
    .connection_lost = connection_lost,
};

/* ---- standard input: a pipe, a terminal; or a file, which a helper thread reads ---- */

static void line_received(rondo_transport *t, rondo_bytes line)
{
    (void)t;
    if (endpoint != NULL)
        send_one(line.data, line.size);
}

static void input_lost(rondo_transport *t, int error)
{
    (void)t;
    if (error < 0 && error != -EIO)
        fail("standard input", error);
    all_is_sent();
}

static const rondo_line_protocol input = {
    RONDO_LINE_RECEIVER("standard input", 65507),
    .protocol.connection_lost = input_lost,
    .line_received = line_received,
};

struct file {
    char *text;
    size_t size;
    int error;
};

static void read_file(void *argument)
{
    struct file *file = argument;
    size_t room = 0;
    ssize_t size = getdelim(&file->text, &room, EOF, stdin); /* no byte is that: all of it */
    file->size = size > 0 ? (size_t)size : 0;
    file->error = ferror(stdin) ? -errno : 0;
}

static void file_is_read(void *argument, int error)
{
    const struct file *file = argument;
    if (error < 0 || file->error < 0)
        fail("standard input", error < 0 ? error : file->error);
    const char *end = file->text + file->size;
    for (const char *line = file->text; endpoint != NULL && line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        size_t size = newline != NULL ? (size_t)(newline - line) : (size_t)(end - line);
        send_one(line, size);
        line += size + 1;
    }
    all_is_sent();
}

static void free_file(void *argument)
{
    struct file *file = argument;
    free(file->text);
    file->text = NULL;
}

static int start_reading(rondo_loop *loop)
{
    static struct file file;
    struct stat status;
    const rondo_work reading = {
        .argument = &file, .work = read_file, .done = file_is_read, .release = free_file
    };
    if (fstat(STDIN_FILENO, &status) == 0 && S_ISREG(status.st_mode))
        return rondo_run_in_executor(loop, &reading, NULL);
    return rondo_connect_read_pipe(loop, STDIN_FILENO, &input.protocol, NULL);
}

static int shard_start(rondo_loop *loop)
{
    const rondo_datagram_options options = {
        .remote_url = words[0],
        .protocol = &protocol,
        .allow_broadcast = is_broadcast,
    };
    int rc = rondo_create_datagram_endpoint(loop, &options, &endpoint);
    if (rc < 0)
        return rc;
    for (char **word = words + 1; *word != NULL; word++)
        send_one(*word, strlen(*word));
    if (words[1] == NULL)
        return start_reading(loop);
    all_is_sent();
    return 0;
}

int main(int argc, char **argv)
{
    const rondo_option options[] = {
        { .name = "URL [MESSAGE...]",
          .words = &words,
          .least = 1,
          .help = "Sends each message as a datagram, or each line of standard input, and prints what comes "
                  "back." },
        { .name = "wait",
          .help = "ms, for an answer after the last one (default 1000)",
          .value = &wait_ms_text },
        { .name = "broadcast", .help = "the URL means many; print who answers", .flag = &is_broadcast },
        { 0 },
    };
    rondo_app app = { .shards = 1, .shard_start = shard_start, .log_level = RONDO_LOG_WARNING };
    int status = rondo_parse_options(&app, argc, argv, options);
    char *end;
    if (status >= 0)
        return status;
    wait_ms = strtoull(wait_ms_text, &end, 10);
    if (*wait_ms_text < '0' || *wait_ms_text > '9' || *end != '\0' || wait_ms > 86400000) {
        fprintf(stderr, "rondo-udp-client: --wait %s: milliseconds are wanted, up to 86400000\n",
                wait_ms_text);
        return 2;
    }
    return rondo_run(&app) < 0 || has_failed;
}
