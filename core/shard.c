#include "core/shard.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "core/control.h"
#include "core/executor.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/slow_reads.h"
#include "core/thread.h"

static void move_to(struct shard *shard, enum shard_state state)
{
    atomic_store(&shard->state, state);
    control_notify(shard->control);
}

/* Named for ps and perf; pinned only when each shard has a CPU of its own, see control.c. */
static void prepare_thread(const struct shard *shard)
{
    char name[16];
    snprintf(name, sizeof name, "rondo-shard-%u", shard->loop.index % 1000);
    pthread_setname_np(pthread_self(), name);
    if (shard->cpu >= 0) {
        size_t size = CPU_ALLOC_SIZE(shard->cpu + 1);
        cpu_set_t *cpus = CPU_ALLOC(shard->cpu + 1);
        if (cpus != NULL) {
            CPU_ZERO_S(size, cpus);
            CPU_SET_S(shard->cpu, size, cpus);
            int error = pthread_setaffinity_np(pthread_self(), size, cpus);
            CPU_FREE(cpus);
            rondo_log(RONDO_LOG_DEBUG, "shard %u: pinned to CPU %d: %s", shard->loop.index, shard->cpu,
                      error == 0 ? "yes" : strerror(error));
        }
    }
    memory_begin_shard();
}

static void live(struct shard *shard)
{
    const struct control *control = shard->control;
    shard->error = loop_open(&shard->loop, control->engine, &control->engine_size, shard->why);
    if (shard->error < 0)
        return;
    slow_reads_lend(&shard->loop);
    shard->loop.users = 1; /* the shard itself, until it drains */
    move_to(shard, SHARD_OPEN);
    int rc = loop_run(&shard->loop);
    if (rc < 0) {
        /* The kernel may still hold buffers and transports: they stay where they are, with the process. */
        rondo_log(RONDO_LOG_ERROR, "shard %u: engine %s: %s: its connections are lost", shard->loop.index,
                  shard->loop.engine->name, strerror(-rc));
        shard->error = rc;
        executor_abandon(&shard->loop);
        return;
    }
    loop_refuse_posts(&shard->loop); /* while what they may ask for is still there */
    if (shard->started)
        control->config->hooks->stop(&shard->loop);
    loop_close(&shard->loop);
}

static void *shard_main(void *argument)
{
    struct shard *shard = argument;
    prepare_thread(shard);
    live(shard);
    move_to(shard, SHARD_ENDED);
    return NULL;
}

int shard_open(struct shard *shard, struct control *control, unsigned index, int cpu)
{
    *shard = (struct shard){ .control = control, .cpu = cpu };
    shard->loop.index = index;
    shard->loop.shard = shard;
    shard->loop.wake_fd = -1;

    return thread_start(&shard->thread, shard_main, shard);
}

void shard_join(struct shard *shard)
{
    pthread_join(shard->thread, NULL);
    if (shard->loop.engine == NULL)
        loop_free(&shard->loop);
}

/* ---- orders --------------------------------------------------------------------------------------------- */

static void order(struct shard *shard, rondo_call *call, void (*run)(rondo_call *call))
{
    enum shard_state state = atomic_load(&shard->state);
    if (state == SHARD_OPEN || state == SHARD_SERVING)
        rondo_post(&shard->loop, call, run); /* refused only when it has just ended */
}

static void run_serve(rondo_call *call)
{
    struct shard *shard = rondo_container_of(call, struct shard, serve);
    const struct control_config *config = shard->control->config;
    shard->started = true;
    shard->error = config->hooks->start(&shard->loop, config->context);
    shard->serves = shard->error == 0;
    if (shard->serves)
        move_to(shard, SHARD_SERVING);
    else
        shard->loop.users--;
}

void shard_serve(struct shard *shard)
{
    order(shard, &shard->serve, run_serve);
}

static void run_drain(rondo_call *call)
{
    struct shard *shard = rondo_container_of(call, struct shard, drain);
    if (shard->error < 0)
        return; /* it could not serve, and is ending already */
    if (shard->serves)
        shard->control->config->hooks->drain(&shard->loop);
    shard->loop.users--;
}

void shard_drain(struct shard *shard)
{
    order(shard, &shard->drain, run_drain);
}

static void run_abort(rondo_call *call)
{
    struct shard *shard = rondo_container_of(call, struct shard, abort);
    if (shard->serves)
        shard->control->config->hooks->abort(&shard->loop);
}

void shard_abort(struct shard *shard)
{
    order(shard, &shard->abort, run_abort);
}

static void run_report(rondo_call *call)
{
    struct shard *shard = rondo_container_of(call, struct shard, report);
    atomic_store(&shard->reporting, false); /* first: who has read the line may ask for the next */
    const rondo_loop *loop = &shard->loop;
    const struct traffic *traffic = &loop->traffic;
    const struct engine *engine = loop->engine;
    unsigned lent = engine->buffers.lent + engine->datagrams.lent;
    log_always("{\"shard\":%u,\"connections_open\":%" PRIu64 ",\"connections_accepted\":%" PRIu64
               ",\"connections_lost\":%" PRIu64 ",\"bytes_in\":%" PRIu64 ",\"bytes_out\":%" PRIu64
               ",\"buffers_free\":%u,\"buffers_lent\":%u,\"buffers_starved\":%" PRIu64
               ",\"loop_turns\":%" PRIu64 ",\"submissions\":%" PRIu64 ",\"completions\":%" PRIu64
               ",\"system_calls\":%" PRIu64 ",\"bytes_copied\":%" PRIu64 "}",
               loop->index, traffic->connections_open, traffic->connections_accepted,
               traffic->connections_lost, traffic->bytes_in, traffic->bytes_out,
               engine->buffers.count + engine->datagrams.count - lent, lent, engine->counters.starved,
               loop->turns, engine->counters.submissions, engine->counters.completions,
               engine->counters.system_calls, traffic->bytes_copied);
}

void shard_report(struct shard *shard)
{
    if (!atomic_exchange(&shard->reporting, true))
        order(shard, &shard->report, run_report);
}

void rondo_stop(rondo_loop *loop)
{
    if (loop->shard == NULL) {
        loop->stop(loop);
        return;
    }
    struct control *control = loop->shard->control;
    atomic_store(&control->stop_requested, true);
    control_notify(control);
}
