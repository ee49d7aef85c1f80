/* Quote of the day (RFC 865): a greeting, and good-bye; or, with --reply, each line comes back with the date.
 * try: nc localhost 7777 */
#include <string.h>
#include <time.h>
#include <rondo/rondo.h>

static const char *quote = "An apple a day keeps the doctor away.";

static void greet(rondo_transport *t)
{
    rondo_bytes slices[] = { { quote, strlen(quote) }, RONDO_BYTES("\r\n") };
    rondo_writelines(t, slices, 2);
}

static void greet_and_close(rondo_transport *t)
{
    greet(t);
    rondo_close(t);
}

static void line_received(rondo_transport *t, rondo_bytes line)
{
    char date[40];
    time_t now = time(NULL);
    size_t size =
        strftime(date, sizeof date, "[%a %b %e %H:%M:%S %Y]:", localtime_r(&now, &(struct tm){ 0 }));
    rondo_bytes slices[] = { { date, size }, line, RONDO_BYTES("\n") };
    rondo_writelines(t, slices, 3);
}

static const rondo_protocol once = { .name = "qotd", .connection_made = greet_and_close };
static const rondo_line_protocol replies = {
    RONDO_LINE_RECEIVER("qotd", 0),
    .protocol.connection_made = greet,
    .line_received = line_received,
};

int main(int argc, char **argv)
{
    bool reply = false;
    const rondo_option options[] = {
        { .name = "quote", .help = "the greeting", .value = &quote },
        { .name = "reply", .help = "answer each line with [date]:line", .flag = &reply },
        { 0 },
    };
    rondo_app app = { .servers = { { .url = "tcp://127.0.0.1:7777" } } };
    int status = rondo_parse_options(&app, argc, argv, options);
    app.protocol = reply ? &replies.protocol : &once;
    return status >= 0 ? status : rondo_run(&app) < 0;
}
