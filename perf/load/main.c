/* rondo-load: load an echo server, check every byte it answers, and report rate, latency and cost. */
#include "options.h"
#include "process.h"
#include "report.h"
#include "run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum { OTHER_DESCRIPTORS = 16 };

/* A closed connection keeps its descriptor until the ring gets to it, while its successor has one already. */
static unsigned descriptors_needed(const struct options *options)
{
    return options->connections * (options->mode->reconnects ? 2 : 1) + options->greedy + OTHER_DESCRIPTORS;
}

static bool raise_descriptor_limit(unsigned needed)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_max < needed)
        return false;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

static bool server_exists(pid_t server)
{
    return server == 0 || process_cpu_ns(server) >= 0;
}

int main(int argc, char **argv)
{
    static struct run run; /* too big for the stack, because of the histogram */
    struct options options;
    options_parse(&options, argc, argv);
    if (!server_exists(options.server)) {
        fprintf(stderr, "error: --server-pid %d: no such process\n", options.server);
        return 2;
    }
    if (!raise_descriptor_limit(descriptors_needed(&options))) {
        fprintf(stderr,
                "error: %u connections: more than this process may have descriptors: see ulimit -Hn\n",
                options.connections + options.greedy);
        return 2;
    }
    if (target_resolve(&run.target, options.url))
        return 2;
    if (run_execute(&run, &options))
        return 1;

    if (options.json)
        report_json(&run);
    else
        report_table(&run);
    if (run_missed_rate(&run))
        fprintf(stderr,
                "warning: %.0f requests per second can't be kept: latencies are those of an overload\n",
                options.rate);
    return failures_total(&run.results.failures) > 0;
}
