#include "options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: rondo-ceiling [options]\n"
    "\n"
    "A TCP echo on the bare io_uring, without any framework: the yardstick. Each technique is a switch.\n"
    "\n"
    "where\n"
    "  --port N            on 127.0.0.1; 0, the default, is any\n"
    "  --unix PATH         a Unix socket instead\n"
    "  --threads N         each with a ring and, of a port, a listening socket of its own (1)\n"
    "receiving\n"
    "  --buffers N         provided buffers, a power of two (1024)\n"
    "  --buffer-size BYTES of each (4096)\n"
    "  --incremental       a receive takes of a buffer only what it fills (Linux 6.12)\n"
    "  --huge-pages        for the buffers\n"
    "  --single-shot       each connection receives, once at a time, into a buffer of its own\n"
    "  --no-poll-first     try to receive before polling\n"
    "sending\n"
    "  --gather            one send takes all that a turn has received; without: one buffer each\n"
    "  --quiet-sends       a send that takes all at once makes no completion\n"
    "  --portion N         submit after so many messages of a turn, not only at its end\n"
    "  --zero-copy BYTES   SEND_ZC from that size on\n"
    "connections\n"
    "  --accepts N         so many single accepts instead of a multishot\n"
    "  --defer-accept      TCP_DEFER_ACCEPT: accept when the first bytes are there\n"
    "  --direct            descriptors of the ring's own\n"
    "  --reset-close       close by a reset\n"
    "  --congestion NAME   TCP_CONGESTION\n"
    "  --window BYTES      the receive window, by SO_RCVLOWAT of the listening socket\n"
    "the ring\n"
    "  --taskrun HOW       defer (the default), coop, none\n"
    "  --no-ring-fd        don't register the ring's descriptor\n"
    "  --sqpoll            a kernel thread submits; needs --taskrun none\n"
    "  --spin              never sleep\n"
    "  --min-wait USEC     wait so long for 32 completions before one is enough (Linux 6.12)\n";

enum option_code {
    PORT = 256,
    UNIX_PATH,
    THREADS,
    BUFFERS,
    BUFFER_SIZE,
    INCREMENTAL,
    HUGE_PAGES,
    SINGLE_SHOT,
    NO_POLL_FIRST,
    GATHER,
    QUIET_SENDS,
    PORTION,
    ZERO_COPY,
    ACCEPTS,
    DEFER_ACCEPT,
    DIRECT,
    RESET_CLOSE,
    CONGESTION,
    WINDOW,
    TASKRUN,
    NO_RING_FD,
    SQPOLL,
    SPIN,
    MIN_WAIT,
    HELP,
};

static const struct option long_options[] = {
    { "port", required_argument, NULL, PORT },
    { "unix", required_argument, NULL, UNIX_PATH },
    { "threads", required_argument, NULL, THREADS },
    { "buffers", required_argument, NULL, BUFFERS },
    { "buffer-size", required_argument, NULL, BUFFER_SIZE },
    { "incremental", no_argument, NULL, INCREMENTAL },
    { "huge-pages", no_argument, NULL, HUGE_PAGES },
    { "single-shot", no_argument, NULL, SINGLE_SHOT },
    { "no-poll-first", no_argument, NULL, NO_POLL_FIRST },
    { "gather", no_argument, NULL, GATHER },
    { "quiet-sends", no_argument, NULL, QUIET_SENDS },
    { "portion", required_argument, NULL, PORTION },
    { "zero-copy", required_argument, NULL, ZERO_COPY },
    { "accepts", required_argument, NULL, ACCEPTS },
    { "defer-accept", no_argument, NULL, DEFER_ACCEPT },
    { "direct", no_argument, NULL, DIRECT },
    { "reset-close", no_argument, NULL, RESET_CLOSE },
    { "congestion", required_argument, NULL, CONGESTION },
    { "window", required_argument, NULL, WINDOW },
    { "taskrun", required_argument, NULL, TASKRUN },
    { "no-ring-fd", no_argument, NULL, NO_RING_FD },
    { "sqpoll", no_argument, NULL, SQPOLL },
    { "spin", no_argument, NULL, SPIN },
    { "min-wait", required_argument, NULL, MIN_WAIT },
    { "help", no_argument, NULL, HELP },
    { 0 },
};

__attribute__((noreturn)) static void refuse(const char *why)
{
    fprintf(stderr, "error: %s\ntry: rondo-ceiling --help\n", why);
    exit(2);
}

static unsigned number(const char *text, unsigned long minimum, unsigned long maximum)
{
    static char why[128];
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end || value < minimum || value > maximum) {
        snprintf(why, sizeof why, "%.40s: a number from %lu to %lu is needed", text, minimum, maximum);
        refuse(why);
    }
    return (unsigned)value;
}

static enum taskrun taskrun_of(const char *text)
{
    static const char *const names[] = { "defer", "coop", "none" };
    for (unsigned i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0)
            return (enum taskrun)i;
    }
    refuse("--taskrun: defer, coop or none");
}

static void check(const struct options *options)
{
    if (__builtin_popcount(options->buffers) != 1)
        refuse("--buffers: a power of two is needed");
    if (options->single_shot && (options->incremental || options->gather || options->huge_pages))
        refuse("--single-shot has no provided buffers, and one message at a time");
    if (options->quiet_sends && (options->zero_copy > 0 || options->sqpoll))
        refuse(
            "--quiet-sends: a send by another thread, or one that keeps its bytes, ends later than its call");
    if (options->sqpoll && options->taskrun != TASKRUN_NONE)
        refuse("--sqpoll needs --taskrun none");
    if (options->spin && options->min_wait_us > 0)
        refuse("--spin never waits, so --min-wait means nothing");
    if (options->min_wait_us > 0 && options->sqpoll)
        refuse("--min-wait and --sqpoll: one of them");
    if (options->unix_path != NULL &&
        (options->defer_accept || options->congestion != NULL || options->window > 0))
        refuse("--defer-accept, --congestion and --window are about TCP");
}

static void take(struct options *o, int code)
{
    switch ((enum option_code)code) {
    case PORT:
        o->port = number(optarg, 0, 65535);
        return;
    case UNIX_PATH:
        o->unix_path = optarg;
        return;
    case THREADS:
        o->threads = number(optarg, 1, 64);
        return;
    case BUFFERS:
        o->buffers = number(optarg, 1, 32768);
        return;
    case BUFFER_SIZE:
        o->buffer_size = number(optarg, 64, 1 << 24);
        return;
    case INCREMENTAL:
        o->incremental = true;
        return;
    case HUGE_PAGES:
        o->huge_pages = true;
        return;
    case SINGLE_SHOT:
        o->single_shot = true;
        return;
    case NO_POLL_FIRST:
        o->poll_first = false;
        return;
    case GATHER:
        o->gather = true;
        return;
    case QUIET_SENDS:
        o->quiet_sends = true;
        return;
    case PORTION:
        o->portion = number(optarg, 1, 65536);
        return;
    case ZERO_COPY:
        o->zero_copy = number(optarg, 1, 1 << 30);
        return;
    case ACCEPTS:
        o->accepts = number(optarg, 1, 1024);
        return;
    case DEFER_ACCEPT:
        o->defer_accept = true;
        return;
    case DIRECT:
        o->direct = true;
        return;
    case RESET_CLOSE:
        o->reset_close = true;
        return;
    case CONGESTION:
        o->congestion = optarg;
        return;
    case WINDOW:
        o->window = number(optarg, 1, 1 << 30);
        return;
    case TASKRUN:
        o->taskrun = taskrun_of(optarg);
        return;
    case NO_RING_FD:
        o->ring_fd = false;
        return;
    case SQPOLL:
        o->sqpoll = true;
        return;
    case SPIN:
        o->spin = true;
        return;
    case MIN_WAIT:
        o->min_wait_us = number(optarg, 1, 1000000);
        return;
    case HELP:
        fputs(help, stdout);
        exit(0);
    }
    refuse("unknown option"); /* getopt has said which */
}

void options_parse(struct options *options, int argc, char **argv)
{
    *options = (struct options){
        .threads = 1, .buffers = 1024, .buffer_size = 4096, .poll_first = true, .ring_fd = true
    };
    for (int code; (code = getopt_long(argc, argv, "", long_options, NULL)) != -1;)
        take(options, code);
    if (optind < argc)
        refuse("there is nothing but options");
    check(options);
}
