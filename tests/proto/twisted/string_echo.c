/* Each string comes back: a program for clients that are somebody else's. */
#include <string.h>
#include <rondo/rondo.h>

static void string_received(rondo_transport *t, rondo_bytes string)
{
    rondo_send_string(t, string);
}

static const rondo_string_protocol int8 = { RONDO_INT8_STRING_RECEIVER("int8", 0),
                                            .string_received = string_received };
static const rondo_string_protocol int16 = { RONDO_INT16_STRING_RECEIVER("int16", 0),
                                             .string_received = string_received };
static const rondo_string_protocol int32 = { RONDO_INT32_STRING_RECEIVER("int32", 0),
                                             .string_received = string_received };
static const rondo_string_protocol net = { RONDO_NETSTRING_RECEIVER("net", 0),
                                           .string_received = string_received };

int main(int argc, char **argv)
{
    const char *framing = "int32";
    const rondo_option options[] = {
        { .name = "framing", .values = "int8|int16|int32|net", .help = "of the strings", .value = &framing },
        { 0 },
    };
    rondo_app app = { .servers = { { .url = "tcp://127.0.0.1:0" } } };
    int status = rondo_parse_options(&app, argc, argv, options);
    app.protocol = strcmp(framing, "int8") == 0    ? &int8.protocol
                   : strcmp(framing, "int16") == 0 ? &int16.protocol
                   : strcmp(framing, "int32") == 0 ? &int32.protocol
                                                   : &net.protocol;
    return status >= 0 ? status : rondo_run(&app) < 0;
}
