#include "report.h"

#include <inttypes.h>
#include <stdio.h>

/* Derived numbers; negative: not known. */
struct figures {
    double rate, bytes_per_second;
    double p50_us, p99_us, p999_us, max_us;
    double server_cpu_ns, generator_cpu_ns; /* for each request */
    double server_busy, generator_busy;     /* cores */
    double resident_per_connection;
};

static double ratio(double value, double divisor)
{
    return value >= 0 && divisor > 0 ? value / divisor : -1;
}

static double quantile_us(const struct run *run, double fraction)
{
    return histogram_quantile(&run->results.latency, fraction) / 1e3;
}

static struct figures derive(const struct run *run)
{
    const struct results *r = &run->results;
    bool memory_known = r->resident_before >= 0 && r->resident_after >= 0;
    struct figures figures = {
        .rate = r->seconds > 0 ? r->answered / r->seconds : 0,
        .bytes_per_second = r->seconds > 0 ? r->answered * run->options->size / r->seconds : 0,
        .p50_us = quantile_us(run, 0.5),
        .p99_us = quantile_us(run, 0.99),
        .p999_us = quantile_us(run, 0.999),
        .max_us = r->latency.max / 1e3,
        .server_cpu_ns = ratio(r->server_cpu_ns, r->answered),
        .generator_cpu_ns = ratio(r->generator_cpu_ns, r->answered),
        .server_busy = ratio(r->server_cpu_ns, r->seconds * 1e9),
        .generator_busy = ratio(r->generator_cpu_ns, r->seconds * 1e9),
        .resident_per_connection = -1,
    };
    if (memory_known && r->touched > 0)
        figures.resident_per_connection = (r->resident_after - r->resident_before) / (double)r->touched;
    return figures;
}

static void print_failures(const struct failures *failures)
{
    for (int kind = 0; kind < FAILURE_KINDS; kind++)
        if (failures->counts[kind] > 0)
            printf("failures      %" PRIu64 " %s\n", failures->counts[kind], failure_name(kind));
}

static void print_memory(const struct run *run, const struct figures *figures)
{
    const struct results *r = &run->results;
    if (r->resident_before < 0 || r->resident_after < 0)
        return;
    printf("server memory %.1f MiB before, %.1f MiB with the connections", r->resident_before / 1048576.0,
           r->resident_after / 1048576.0);
    if (run->options->mode->holds)
        printf(": %.0f bytes each", figures->resident_per_connection);
    if (r->resident_peak >= 0)
        printf(", %.1f at most", r->resident_peak / 1048576.0);
    if (r->resident_settled >= 0)
        printf(", %.1f without hostile peers", r->resident_settled / 1048576.0);
    putchar('\n');
}

static void print_greedy(const struct run *run)
{
    const struct options *o = run->options;
    if (o->greedy > 0)
        printf("hostile peers %u of %u are left, %.1f MiB sent, %.1f of them in the window%s\n",
               run->results.greedy_open, o->greedy, run->greedy.bytes_sent / 1048576.0,
               run->results.greedy_bytes_sent / 1048576.0,
               run->greedy.bytes_sent >= o->greedy_bytes_max ? ": THE LIMIT" : "");
}

void report_table(const struct run *run)
{
    const struct options *o = run->options;
    const struct results *r = &run->results;
    struct figures f = derive(run);
    printf("%s, %u connections", o->mode->name, o->connections);
    if (o->active > 0)
        printf(", %u of them active", o->active);
    printf(", %zu bytes, %u in flight on each\n", o->size, o->depth);
    printf("requests      %" PRIu64 " in %.2f s, %.0f/s", r->requests, r->seconds, f.rate);
    if (o->rate > 0)
        printf(" of %.0f/s wanted%s", o->rate, run_missed_rate(run) ? ": NOT KEPT" : "");
    printf("\nlatency       p50 %.1f  p99 %.1f  p99.9 %.1f  max %.1f us\n", f.p50_us, f.p99_us, f.p999_us,
           f.max_us);
    printf("received      %.1f MB/s\n", f.bytes_per_second / 1e6);
    if (f.server_cpu_ns >= 0)
        printf("server CPU    %.0f ns per request, busy %.0f %%\n", f.server_cpu_ns, f.server_busy * 100);
    if (f.generator_cpu_ns >= 0)
        printf("generator CPU %.0f ns per request, busy %.0f %%\n", f.generator_cpu_ns,
               f.generator_busy * 100);
    print_memory(run, &f);
    print_greedy(run);
    print_failures(&r->failures);
    if (r->wrong_bytes > 0)
        printf("wrong bytes   %" PRIu64 "\n", r->wrong_bytes);
}

static void json_number(const char *key, double value)
{
    if (value >= 0)
        printf(",\"%s\":%.3f", key, value);
    else
        printf(",\"%s\":null", key);
}

static void json_count(const char *key, uint64_t value)
{
    printf(",\"%s\":%" PRIu64, key, value);
}

static void json_known(const char *key, int64_t value)
{
    if (value >= 0)
        json_count(key, value);
    else
        json_number(key, -1);
}

static void json_memory(const struct run *run, const struct figures *figures)
{
    const struct results *r = &run->results;
    json_known("rss_before_bytes", r->resident_before);
    json_known("rss_after_bytes", r->resident_after);
    if (run->options->mode->holds && r->resident_before >= 0 && r->resident_after >= 0)
        printf(",\"rss_bytes_per_connection\":%.1f", figures->resident_per_connection);
    else
        printf(",\"rss_bytes_per_connection\":null");
    json_known("rss_peak_bytes", r->resident_peak);
    json_known("rss_settled_bytes", r->resident_settled);
}

static void json_greedy(const struct run *run)
{
    bool besieged = run->options->greedy > 0;
    json_known("greedy_open", besieged ? (int64_t)run->results.greedy_open : -1);
    json_known("greedy_bytes_sent", besieged ? (int64_t)run->greedy.bytes_sent : -1);
    json_known("greedy_window_bytes_sent", besieged ? (int64_t)run->results.greedy_bytes_sent : -1);
}

static void json_failures(const struct failures *failures)
{
    const char *separator = "";
    printf(",\"errors\":{");
    for (int kind = 0; kind < FAILURE_KINDS; kind++, separator = ",")
        printf("%s\"%s\":%" PRIu64, separator, failure_name(kind), failures->counts[kind]);
    printf("}");
}

void report_json(const struct run *run)
{
    const struct options *o = run->options;
    const struct results *r = &run->results;
    struct figures f = derive(run);
    printf("{\"mode\":\"%s\"", o->mode->name);
    json_count("connections", o->connections);
    json_count("size", o->size);
    json_count("depth", o->depth);
    json_count("active", o->active);
    json_count("greedy", o->greedy);
    json_number("seconds", r->seconds);
    json_count("requests", r->requests);
    json_number("rate", f.rate);
    json_number("rate_wanted", o->rate > 0 ? o->rate : -1);
    printf(",\"rate_kept\":%s", o->rate == 0 ? "null" : run_missed_rate(run) ? "false" : "true");
    json_count("unsent", r->unsent);
    json_number("p50_us", f.p50_us);
    json_number("p99_us", f.p99_us);
    json_number("p999_us", f.p999_us);
    json_number("max_us", f.max_us);
    json_count("bytes_sent", r->bytes_sent);
    json_count("bytes_received", r->bytes_received);
    json_number("bytes_per_second", f.bytes_per_second);
    json_number("server_cpu_ns_per_request", f.server_cpu_ns);
    json_number("server_busy", f.server_busy);
    json_number("generator_cpu_ns_per_request", f.generator_cpu_ns);
    json_number("generator_busy", f.generator_busy);
    json_memory(run, &f);
    json_greedy(run);
    json_failures(&r->failures);
    json_count("wrong_bytes", r->wrong_bytes);
    printf("}\n");
}
