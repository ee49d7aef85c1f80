/* Echo: every byte goes back where it came from.    try: nc localhost 7777 */
#include <string.h>
#include <rondo/rondo.h>

static rondo_buffer get_buffer(rondo_transport *t, size_t size_hint)
{
    (void)size_hint;
    return (rondo_buffer){ rondo_self(t), 512 };
}

static void buffer_updated(rondo_transport *t, size_t nbytes)
{
    rondo_write(t, (rondo_bytes){ rondo_self(t), nbytes });
}

static void client_connected(rondo_stream *s)
{
    rondo_bytes data;
    while (rondo_read(s, 1 << 20, &data) > 0) {
        rondo_stream_write(s, data);
        if (rondo_drain(s) < 0)
            return;
    }
}

static const rondo_protocol echo = {
    .name = "echo", .defer_accept = true, .data_received = rondo_write, .datagram_received = rondo_sendto
};
static const rondo_protocol buffered = {
    .name = "echo",
    .size = 512,
    .defer_accept = true,
    .get_buffer = get_buffer,
    .buffer_updated = buffer_updated,
};
static const rondo_stream_protocol stream = {
    RONDO_STREAM_READER("echo"),
    .protocol.defer_accept = true,
    .client_connected = client_connected,
};

int main(int argc, char **argv)
{
    const char *receive = "data", *api = "protocol";
    const rondo_option options[] = {
        { .name = "api", .values = "protocol|stream", .help = "callbacks, or a handler", .value = &api },
        { .name = "receive", .values = "data|buffer", .help = "by which callbacks", .value = &receive },
        { 0 },
    };
    rondo_app app = { .servers = { { .url = "tcp://127.0.0.1:7777" } } };
    int status = rondo_parse_options(&app, argc, argv, options);
    if (strcmp(api, "stream") == 0)
        app.protocol = &stream.protocol;
    else
        app.protocol = strcmp(receive, "buffer") == 0 ? &buffered : &echo;
    return status >= 0 ? status : rondo_run(&app) < 0;
}
