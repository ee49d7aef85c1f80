/* Client: sends its words, or what it reads, and prints what comes back.    try: rondo-client tcp://localhost:7777 hello */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <rondo/rondo.h>

static char **words; /* the URL, and what to send; without that, stdin */
static bool is_raw, has_failed;

static void fail(const char *what, int error)
{
    rondo_log(RONDO_LOG_ERROR, "%s: %s", what, strerror(-error));
    has_failed = true;
}

static void print(rondo_bytes data)
{
    if (has_failed)
        return; /* once is enough */
    if (fwrite(data.data, 1, data.size, stdout) != data.size || fflush(stdout) != 0)
        fail("standard output", -errno);
}

/* How a word is sent. Returns how many slices. */
static size_t slices_of(const char *word, rondo_bytes slices[2])
{
    slices[0] = (rondo_bytes){ word, strlen(word) };
    slices[1] = RONDO_BYTES("\n");
    return is_raw ? 1 : 2;
}

/* ---- standard input: read by a thread of its own, since that blocks, and posted to the shard ---- */

static struct input {
    rondo_call call;
    rondo_loop *loop;
    pthread_t thread;
    bool is_read;
    sem_t taken; /* the next bytes may be read */
    ssize_t size;
    char bytes[65536];
} input;

static void input_came(rondo_call *call);

static void *read_input(void *unused)
{
    do {
        input.size = read(STDIN_FILENO, input.bytes, sizeof input.bytes);
        if (input.size < 0)
            fail("standard input", -errno);
    } while (rondo_post(input.loop, &input.call, input_came) == 0 && input.size > 0 &&
             sem_wait(&input.taken) == 0);
    return unused;
}

static void start_reading(rondo_loop *loop)
{
    input.loop = loop;
    sem_init(&input.taken, 0, 0);
    input.is_read = pthread_create(&input.thread, NULL, read_input, NULL) == 0;
    if (!input.is_read) {
        fail("a thread for standard input", -EAGAIN);
        rondo_stop(loop);
    }
}

static void shard_stop(rondo_loop *loop)
{
    (void)loop;
    if (!input.is_read)
        return;
    pthread_cancel(input.thread);
    pthread_join(input.thread, NULL);
}

/* ---- as callbacks ---- */

static rondo_transport *transport; /* NULL: none yet, or no more */
static bool is_paused;

static void send_words(rondo_transport *t)
{
    rondo_bytes slices[2];
    for (char **word = words + 1; *word != NULL; word++)
        rondo_writelines(t, slices, slices_of(*word, slices));
    rondo_write_eof(t);
}

static void connection_made(rondo_transport *t)
{
    transport = t;
    if (words[1] != NULL)
        send_words(t);
    else
        start_reading(rondo_get_loop(t));
}

static void data_received(rondo_transport *t, rondo_bytes data)
{
    (void)t;
    print(data);
}

static void send_input(void)
{
    if (transport == NULL)
        return;
    if (input.size <= 0) {
        rondo_write_eof(transport);
        return;
    }
    rondo_write(transport, (rondo_bytes){ input.bytes, (size_t)input.size });
    if (!is_paused)
        sem_post(&input.taken);
}

static void pause_writing(rondo_transport *t)
{
    (void)t;
    is_paused = true;
}

static void resume_writing(rondo_transport *t)
{
    (void)t;
    is_paused = false;
    sem_post(&input.taken);
}

static void connection_lost(rondo_transport *t, int error)
{
    transport = NULL;
    if (error < 0)
        fail(words[0], error);
    rondo_stop(rondo_get_loop(t));
}

static const rondo_protocol protocol = {
    .name = "client",
    .connection_made = connection_made,
    .data_received = data_received,
    .pause_writing = pause_writing,
    .resume_writing = resume_writing,
    .connection_lost = connection_lost,
};

static void connection_failed(rondo_connector *connector, int error, const char *why)
{
    (void)error;
    rondo_log(RONDO_LOG_ERROR, "%s", why);
    has_failed = true;
    rondo_stop(rondo_connector_get_loop(connector));
}

static int start_callbacks(rondo_loop *loop)
{
    const rondo_client_options options = {
        .url = words[0],
        .protocol = &protocol,
        .connection_failed = connection_failed,
    };
    return rondo_create_connection(loop, &options, NULL);
}

/* ---- as tasks: one reads from the connection, its child writes to it ---- */

static rondo_event came;

static int send_input_on(void *argument)
{
    rondo_stream *s = argument;
    int rc = 0;
    start_reading(rondo_task_get_loop(rondo_current_task()));
    while (rc == 0 && (rc = rondo_event_wait(&came)) == 0 && input.size > 0) {
        rondo_event_clear(&came);
        rondo_stream_write(s, (rondo_bytes){ input.bytes, (size_t)input.size });
        rc = rondo_drain(s);
        sem_post(&input.taken);
    }
    rondo_stream_write_eof(s);
    return rc;
}

static void send_words_on(rondo_stream *s)
{
    rondo_bytes slices[2];
    for (char **word = words + 1; *word != NULL; word++)
        rondo_stream_writelines(s, slices, slices_of(*word, slices));
    rondo_stream_write_eof(s);
}

static int converse(rondo_loop *loop)
{
    rondo_stream *s;
    rondo_bytes data;
    ssize_t size;
    if (rondo_open_connection(words[0], NULL, &s) < 0) {
        has_failed = true; /* why, the library has said */
        return 0;
    }
    const rondo_task_options sending = { .run = send_input_on, .argument = s, .name = "standard input" };
    int rc = 0;
    if (words[1] != NULL)
        send_words_on(s);
    else
        rc = rondo_create_task(loop, &sending, NULL);
    if (rc < 0)
        return rc;
    while ((size = rondo_read(s, sizeof input.bytes, &data)) > 0)
        print(data);
    return (int)size;
}

static int converse_and_stop(void *argument)
{
    int rc = converse(argument);
    if (rc < 0 && rc != -ECANCELED)
        fail(words[0], rc);
    rondo_stop(argument);
    return rc;
}

static int start_tasks(rondo_loop *loop)
{
    return rondo_create_task(
        loop, &(rondo_task_options){ .run = converse_and_stop, .argument = loop, .name = "client" }, NULL);
}

/* ---- both ---- */

static bool is_stream;

static void input_came(rondo_call *call)
{
    (void)call;
    if (is_stream)
        rondo_event_set(&came);
    else
        send_input();
}

int main(int argc, char **argv)
{
    const char *api = "protocol";
    const rondo_option options[] = {
        { .name = "URL [MESSAGE...]",
          .words = &words,
          .least = 1,
          .help = "Sends each message as a line, or standard input, and prints what comes back." },
        { .name = "api", .values = "protocol|stream", .help = "callbacks, or tasks", .value = &api },
        { .name = "raw", .help = "send messages as they are, not as lines", .flag = &is_raw },
        { 0 },
    };
    rondo_app app = {
        .shards = 1, .shard_start = start_callbacks, .shard_stop = shard_stop, .log_level = RONDO_LOG_WARNING
    };
    int status = rondo_parse_options(&app, argc, argv, options);
    if (status >= 0)
        return status;
    is_stream = strcmp(api, "stream") == 0;
    if (is_stream)
        app.shard_start = start_tasks;
    return rondo_run(&app) < 0 || has_failed;
}
