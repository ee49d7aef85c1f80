/* rondo-spawner: an echo server whose first shard starts children meanwhile, at a rate; at its end it says how many.
 *
 * usage: rondo-spawner [--rate N] [--program PATH] [the options of any rondo program] */
#include <stdio.h>
#include <stdlib.h>
#include <rondo/rondo.h>

#define TICK_MS        1
#define UNDER_WAY_MOST 64 /* the machine is too slow for the rate: it starts as many as end */

static const char *rate_text = "1000", *program = "/bin/true";
static double rate;
static rondo_timer tick;
static uint64_t begin_ms;
static unsigned long started, ended, failed;
static unsigned under_way, most_under_way;

static void connection_lost(rondo_transport *t, int error)
{
    int returncode = -1;
    under_way--;
    ended++;
    failed += error < 0 || !rondo_get_returncode(t, &returncode) || returncode != 0;
}

static const rondo_protocol child = { .name = "child", .connection_lost = connection_lost };
static const rondo_protocol echo = { .name = "echo", .data_received = rondo_write };

static void start_one(rondo_loop *loop)
{
    const char *const argv[] = { program, NULL };
    if (rondo_subprocess_exec(loop, &child, argv, NULL, NULL) < 0) {
        failed++;
        return;
    }
    started++;
    under_way++;
    if (under_way > most_under_way)
        most_under_way = under_way;
}

static rondo_loop *first_loop;

static void due(rondo_timer *timer)
{
    double wanted = (double)(rondo_time_ms(first_loop) - begin_ms) * rate / 1000;
    while ((double)(started + failed) < wanted && under_way < UNDER_WAY_MOST)
        start_one(first_loop);
    rondo_call_later(first_loop, timer, TICK_MS, due);
}

static int shard_start(rondo_loop *loop)
{
    if (rondo_shard_index(loop) > 0 || rate <= 0)
        return 0;
    first_loop = loop;
    begin_ms = rondo_time_ms(loop);
    rondo_call_later(loop, &tick, TICK_MS, due);
    return 0;
}

static void shard_stop(rondo_loop *loop)
{
    if (loop != first_loop)
        return;
    rondo_timer_cancel(&tick);
    double seconds = (double)(rondo_time_ms(loop) - begin_ms) / 1000;
    fprintf(stderr, "children: %lu started, %lu ended, %lu failed, %u under way at most, %.3f seconds\n",
            started, ended, failed, most_under_way, seconds);
}

int main(int argc, char **argv)
{
    const rondo_option options[] = {
        { .name = "rate", .help = "children a second (default 1000); 0: none", .value = &rate_text },
        { .name = "program", .help = "what they run (default /bin/true)", .value = &program },
        { 0 },
    };
    rondo_app app = {
        .servers = { { .url = "tcp://127.0.0.1:0", .protocol = &echo } },
        .shards = 1,
        .shard_start = shard_start,
        .shard_stop = shard_stop,
    };
    int status = rondo_parse_options(&app, argc, argv, options);
    rate = atof(rate_text);
    return status >= 0 ? status : rondo_run(&app) < 0;
}
