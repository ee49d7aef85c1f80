/* A room, step 3: it knows its visitors by name.    try: nc localhost 7777 */
#include <string.h>
#include <rondo/rondo.h>

struct visitor {
    rondo_bytes name; /* 0 bytes: not yet told */
    char name_bytes[20];
};

static bool is(rondo_bytes line, const char *word)
{
    return line.size == strlen(word) && memcmp(line.data, word, line.size) == 0;
}

static void take_name(rondo_transport *t, struct visitor *self, rondo_bytes name)
{
    if (name.size == 0 || name.size > sizeof self->name_bytes) {
        rondo_write_static(t, RONDO_BYTES("1 to 20 bytes, please\n"));
        return;
    }
    memcpy(self->name_bytes, name.data, name.size);
    self->name = (rondo_bytes){ self->name_bytes, name.size };
    rondo_writelines(t, (rondo_bytes[]){ RONDO_BYTES("welcome, "), self->name, RONDO_BYTES("\n") }, 3);
}

static void connection_made(rondo_transport *t)
{
    rondo_write_static(t, RONDO_BYTES("who are you?\n"));
}

static void line_received(rondo_transport *t, rondo_bytes line)
{
    struct visitor *self = rondo_self(t);
    if (is(line, "quit"))
        rondo_close(t);
    else if (self->name.size == 0)
        take_name(t, self, line);
    else
        rondo_writelines(t, (rondo_bytes[]){ self->name, RONDO_BYTES(": "), line, RONDO_BYTES("\n") }, 4);
}

static const rondo_line_protocol room = {
    RONDO_LINE_RECEIVER("room", sizeof(struct visitor)),
    .protocol.connection_made = connection_made,
    .line_received = line_received,
};

int main(int argc, char **argv)
{
    return rondo_main(argc, argv, &room.protocol, "tcp://127.0.0.1:7777");
}
