/* Line: each line is answered by the same line.    try: nc localhost 7777 */
#include <rondo/rondo.h>

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

int main(int argc, char **argv)
{
    return rondo_main(argc, argv, &lines.protocol, "tcp://127.0.0.1:7777");
}
