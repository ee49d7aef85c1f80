/* Line: each line is answered by the same line.    try: nc localhost 7777 */
#include <errno.h>
#include <string.h>
#include <rondo/rondo.h>

/* ---- as callbacks ---- */

static void line_length_exceeded(rondo_transport *t, rondo_bytes line)
{
    (void)line;
    rondo_write_static(t, RONDO_BYTES("line too long\n"));
    rondo_close(t);
}

static const rondo_line_protocol lines = {
    RONDO_LINE_RECEIVER("line", 0),
    .protocol.defer_accept = true,
    .line_received = rondo_send_line,
    .line_length_exceeded = line_length_exceeded,
};

/* ---- as a handler ---- */

static void client_connected(rondo_stream *s)
{
    rondo_bytes line;
    ssize_t size;
    while ((size = rondo_readline(s, &line)) > 0 && line.data[size - 1] == '\n') {
        rondo_stream_write(s, line);
        if (rondo_drain(s) < 0)
            return;
    }
    if (size == -EMSGSIZE)
        rondo_stream_write(s, RONDO_BYTES("line too long\n"));
}

static const rondo_stream_protocol stream = {
    RONDO_STREAM_READER("line"),
    .protocol.defer_accept = true,
    .client_connected = client_connected,
    .limit = RONDO_LINE_LENGTH_MAX,
};

int main(int argc, char **argv)
{
    const char *api = "protocol";
    const rondo_option options[] = {
        { .name = "api", .values = "protocol|stream", .help = "callbacks, or a handler", .value = &api },
        { 0 },
    };
    rondo_app app = { .servers = { { .url = "tcp://127.0.0.1:7777" } } };
    int status = rondo_parse_options(&app, argc, argv, options);
    app.protocol = strcmp(api, "stream") == 0 ? &stream.protocol : &lines.protocol;
    return status >= 0 ? status : rondo_run(&app) < 0;
}
