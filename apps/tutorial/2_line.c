/* A room, step 2: visitors speak in lines, and leave with "quit".    try: nc localhost 7777 */
#include <string.h>
#include <rondo/rondo.h>

static bool is(rondo_bytes line, const char *word)
{
    return line.size == strlen(word) && memcmp(line.data, word, line.size) == 0;
}

static void line_received(rondo_transport *t, rondo_bytes line)
{
    if (is(line, "quit"))
        rondo_close(t);
    else
        rondo_send_line(t, line);
}

static const rondo_line_protocol room = {
    RONDO_LINE_RECEIVER("room", 0),
    .line_received = line_received,
};

int main(int argc, char **argv)
{
    return rondo_main(argc, argv, &room.protocol, "tcp://127.0.0.1:7777");
}
