#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct mode modes[] = {
    { .name = "pingpong", .connections = 50, .size = 64, .depth = 1, .paced = true, .besieged = true },
    { .name = "pipelined", .connections = 50, .size = 64, .depth = 16, .deep = true, .besieged = true },
    { .name = "bulk", .connections = 8, .size = 65536, .depth = 4, .deep = true },
    { .name = "connect", .connections = 64, .size = 64, .depth = 1, .paced = true, .reconnects = true },
    { .name = "idle", .connections = 1000, .size = 64, .depth = 1, .paced = true, .holds = true },
};

static const char help[] =
    "usage: rondo-load MODE tcp://HOST:PORT|unix:///PATH|unix://@NAME [options]\n"
    "\n"
    "Load an echo server, check every byte of its answers, and report rate and latency.\n"
    "\n"
    "modes\n"
    "  pingpong     each connection sends a message, waits for its echo, sends the next\n"
    "  pipelined    each connection keeps --depth messages in flight\n"
    "  bulk         the same with big messages, for throughput\n"
    "  connect      each request is a connection: connect, one echo, close\n"
    "  idle         open connections, one echo each, then hold them, or let some play ping-pong\n"
    "\n"
    "options\n"
    "  --connections N     at the same time (pingpong, pipelined 50; bulk 8; connect 64; idle 1000)\n"
    "  --size BYTES        of a message (64; bulk 65536)\n"
    "  --depth N           messages in flight on a connection (pipelined 16; bulk 4)\n"
    "  --lines             messages are lines of text, each with a newline at its end\n"
    "  --seconds S         to measure, or to hold idle connections (2)\n"
    "  --warmup S          before that, not measured (0.2)\n"
    "  --count N           end after N requests instead; no warm-up\n"
    "  --rate R            requests per second on a fixed schedule, latency counted from the time a request\n"
    "                      was due (pingpong, connect, idle with --active); without: each answer brings on\n"
    "                      the next request\n"
    "  --active N          of the idle connections then play ping-pong for --seconds (idle)\n"
    "  --greedy N          more connections that send as fast as they can and never read (pingpong,\n"
    "                      pipelined); the rest begins when their sockets are full, or after 5 s; when they\n"
    "                      have been reset, a few more requests show that the server serves on\n"
    "  --greedy-limit MIB  which all of them send at most: a server that stores them should survive (2048)\n"
    "  --close HOW         orderly (the default) or reset (connect, over TCP)\n"
    "  --sources N         spread connections to 127.x.y.z over N addresses, each with its own ports (8)\n"
    "  --server-pid PID    also report the server's CPU time and memory\n"
    "  --wait-for-stdin    say \"ready\" on stderr when the connections are there, and begin when stdin has\n"
    "                      something to read, or ends: so several generators begin together\n"
    "  --json              report as one JSON object\n"
    "  --help\n"
    "\n"
    "keys of --json (null: not known, or not of this mode)\n"
    "  mode connections size depth active greedy    as asked for\n"
    "  seconds requests                             the window; with --rate, requests are all that were due "
    "in\n"
    "                                               it, also those answered later\n"
    "  rate rate_wanted rate_kept                   answers per second in the window\n"
    "  unsent                                       due but never sent: the server fell seconds behind\n"
    "  p50_us p99_us p999_us max_us                 latency\n"
    "  bytes_sent bytes_received                    since the window began\n"
    "  bytes_per_second                             of the answers in the window\n"
    "  server_cpu_ns_per_request server_busy        CPU time in the window, for an answer, and as cores\n"
    "  generator_cpu_ns_per_request generator_busy\n"
    "  rss_before_bytes rss_after_bytes             memory of the server, before the first connection, and\n"
    "                                               with all; with --active, before these play\n"
    "  rss_peak_bytes                               the most in the whole run\n"
    "  rss_settled_bytes                            after the --greedy ones have left\n"
    "  rss_bytes_per_connection                     of idle ones\n"
    "  greedy_open                                  those that the server has not closed\n"
    "  greedy_bytes_sent greedy_window_bytes_sent   by all: ever; in the window, 0 when they are stuck\n"
    "  errors wrong_bytes                           of the whole run: connections, by kind; bytes\n"
    "\n"
    "Exit status: 0 all answers came and were right; 1 not so; 2 wrong usage.\n";

enum option_code {
    CONNECTIONS = 256,
    SIZE,
    DEPTH,
    LINES,
    SECONDS,
    WARMUP,
    COUNT,
    RATE,
    CLOSE,
    ACTIVE,
    GREEDY_PEERS,
    GREEDY_LIMIT,
    WAIT_FOR_STDIN,
    SOURCES,
    SERVER,
    JSON,
    HELP
};

static const struct option long_options[] = {
    { "connections", required_argument, NULL, CONNECTIONS },
    { "size", required_argument, NULL, SIZE },
    { "depth", required_argument, NULL, DEPTH },
    { "lines", no_argument, NULL, LINES },
    { "seconds", required_argument, NULL, SECONDS },
    { "warmup", required_argument, NULL, WARMUP },
    { "count", required_argument, NULL, COUNT },
    { "rate", required_argument, NULL, RATE },
    { "close", required_argument, NULL, CLOSE },
    { "active", required_argument, NULL, ACTIVE },
    { "greedy", required_argument, NULL, GREEDY_PEERS },
    { "greedy-limit", required_argument, NULL, GREEDY_LIMIT },
    { "wait-for-stdin", no_argument, NULL, WAIT_FOR_STDIN },
    { "sources", required_argument, NULL, SOURCES },
    { "server-pid", required_argument, NULL, SERVER },
    { "json", no_argument, NULL, JSON },
    { "help", no_argument, NULL, HELP },
    { 0 },
};

/* What only the presence of an option tells. */
struct given {
    bool warmup, depth, close, sources, seconds, greedy_limit;
};

__attribute__((noreturn, format(printf, 1, 2))) static void refuse(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("error: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\ntry: rondo-load --help\n", stderr);
    va_end(arguments);
    exit(2);
}

static double real(const char *name, const char *text, double minimum, double maximum)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= minimum && value <= maximum))
        refuse("--%s %s: a number from %g to %g is needed", name, text, minimum, maximum);
    return value;
}

static uint64_t whole(const char *name, const char *text, uint64_t minimum, uint64_t maximum)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || value < minimum || value > maximum)
        refuse("--%s %s: a whole number from %llu to %llu is needed", name, text, (unsigned long long)minimum,
               (unsigned long long)maximum);
    return value;
}

static bool is_reset(const char *how)
{
    if (strcmp(how, "reset") != 0 && strcmp(how, "orderly") != 0)
        refuse("--close %s: orderly or reset is needed", how);
    return strcmp(how, "reset") == 0;
}

static void take(struct options *options, struct given *given, int code, const char *name, const char *value)
{
    switch ((enum option_code)code) {
    case CONNECTIONS:
        options->connections = whole(name, value, 1, 1000000);
        break;
    case SIZE:
        options->size = whole(name, value, 1, 1 << 28);
        break;
    case DEPTH:
        options->depth = whole(name, value, 1, 65536);
        given->depth = true;
        break;
    case LINES:
        options->lines = true;
        break;
    case SECONDS:
        options->seconds = real(name, value, 0.01, 1e6);
        given->seconds = true;
        break;
    case WARMUP:
        options->warmup = real(name, value, 0, 1e6);
        given->warmup = true;
        break;
    case COUNT:
        options->count = whole(name, value, 1, UINT64_MAX);
        break;
    case RATE:
        options->rate = real(name, value, 0.1, 1e9);
        break;
    case CLOSE:
        options->reset = is_reset(value);
        given->close = true;
        break;
    case ACTIVE:
        options->active = whole(name, value, 1, 1000000);
        break;
    case GREEDY_PEERS:
        options->greedy = whole(name, value, 1, 1000000);
        break;
    case GREEDY_LIMIT:
        options->greedy_bytes_max = whole(name, value, 1, 1 << 20) << 20;
        given->greedy_limit = true;
        break;
    case WAIT_FOR_STDIN:
        options->wait_for_stdin = true;
        break;
    case SOURCES:
        options->sources = whole(name, value, 1, 10000);
        given->sources = true;
        break;
    case SERVER:
        options->server = whole(name, value, 1, 1 << 22);
        break;
    case JSON:
        options->json = true;
        break;
    case HELP:
        fputs(help, stdout);
        exit(0);
    }
}

static const struct mode *find_mode(const char *name)
{
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(modes[i].name, name) == 0)
            return &modes[i];
    refuse("%s: no such mode", name);
}

static void check(const struct options *options, const struct given *given)
{
    const struct mode *mode = options->mode;
    if (options->active > 0 && !mode->holds)
        refuse("--active: only with idle");
    if (options->active > options->connections)
        refuse("--active %u: more than the %u --connections", options->active, options->connections);
    if (options->greedy > 0 && !mode->besieged)
        refuse("--greedy: only with pingpong or pipelined");
    if (given->greedy_limit && options->greedy == 0)
        refuse("--greedy-limit: only with --greedy");
    if (options->rate > 0 && mode->holds && options->active == 0)
        refuse("--rate: with idle only for --active ones");
    if (options->rate > 0 && !mode->paced)
        refuse("--rate: not with %s", mode->name);
    if (given->depth && !mode->deep)
        refuse("--depth: not with %s", mode->name);
    if (given->close && !mode->reconnects)
        refuse("--close: not with %s", mode->name);
    if (options->reset && strncmp(options->url, "tcp:", 4) != 0)
        refuse("--close reset: only TCP has resets: use --close orderly");
    if (given->sources && strncmp(options->url, "tcp:", 4) != 0)
        refuse("--sources: only TCP has source addresses");
    if (options->count > 0 && mode->holds && options->active == 0)
        refuse("--count: with idle only for --active ones");
    if (options->count > 0 && (given->warmup || given->seconds))
        refuse("--count: replaces --seconds, and has no --warmup");
}

void options_parse(struct options *options, int argc, char **argv)
{
    struct given given = { 0 };
    int code, index;
    *options =
        (struct options){ .sources = 8, .seconds = 2, .warmup = 0.2, .greedy_bytes_max = UINT64_C(2) << 30 };
    while ((code = getopt_long(argc, argv, "", long_options, &index)) != -1) {
        if (code == '?') {
            fputs("try: rondo-load --help\n", stderr);
            exit(2);
        }
        take(options, &given, code, long_options[index].name, optarg);
    }
    if (argc - optind != 2)
        refuse("a mode and a URL are needed");
    options->mode = find_mode(argv[optind]);
    options->url = argv[optind + 1];
    if (!options->connections)
        options->connections = options->mode->connections;
    if (!options->size)
        options->size = options->mode->size;
    if (!options->depth)
        options->depth = options->mode->depth;
    if (options->count > 0)
        options->warmup = 0;
    check(options, &given);
}
