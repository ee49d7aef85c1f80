/* A room, step 4: who says nothing for a while is asked to leave.    try: nc localhost 7777 */
#include <stdlib.h>
#include <string.h>
#include <rondo/rondo.h>

struct visitor {
    rondo_bytes name; /* 0 bytes: not yet told */
    char name_bytes[20];
    rondo_timer patience;
};

static uint64_t patience_ms;

static bool is(rondo_bytes line, const char *word)
{
    return line.size == strlen(word) && memcmp(line.data, word, line.size) == 0;
}

static void patience_ends(rondo_timer *timer)
{
    rondo_transport *t = rondo_transport_of(rondo_container_of(timer, struct visitor, patience));
    rondo_write_static(t, RONDO_BYTES("you are so quiet: bye\n"));
    rondo_close(t);
}

static void be_patient(rondo_transport *t)
{
    struct visitor *self = rondo_self(t);
    rondo_call_later(rondo_get_loop(t), &self->patience, patience_ms, patience_ends);
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
    be_patient(t);
}

static void line_received(rondo_transport *t, rondo_bytes line)
{
    struct visitor *self = rondo_self(t);
    be_patient(t);
    if (is(line, "quit"))
        rondo_close(t);
    else if (self->name.size == 0)
        take_name(t, self, line);
    else
        rondo_writelines(t, (rondo_bytes[]){ self->name, RONDO_BYTES(": "), line, RONDO_BYTES("\n") }, 4);
}

static void connection_lost(rondo_transport *t, int error)
{
    struct visitor *self = rondo_self(t);
    (void)error;
    rondo_timer_cancel(&self->patience);
}

static const rondo_line_protocol room = {
    RONDO_LINE_RECEIVER("room", sizeof(struct visitor)),
    .protocol.connection_made = connection_made,
    .protocol.connection_lost = connection_lost,
    .line_received = line_received,
};

int main(int argc, char **argv)
{
    const char *patience = "60000";
    const rondo_option options[] = {
        { .name = "patience", .help = "milliseconds (default 60000)", .value = &patience },
        { 0 },
    };
    rondo_app app = { .servers = { { .url = "tcp://127.0.0.1:7777" } }, .protocol = &room.protocol };
    int status = rondo_parse_options(&app, argc, argv, options);
    patience_ms = strtoul(patience, NULL, 10);
    return status >= 0 ? status : rondo_run(&app) < 0;
}
