/* rondo_run -> control_run -> one shard per CPU -> service -> listeners -> transports. */
#include <rondo/app.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "core/control.h"
#include "core/cpus.h"
#include "core/log.h"
#include "net/addresses.h"

#define BACKLOG          4096
#define DRAIN_TIMEOUT_MS 8000
#define SHARDS_MAX       1024
#define DESCRIPTORS_MAX  (1024 * 1024) /* more only makes the kernel's tables large */

static const rondo_protocol *protocol_of(const rondo_app *app, const rondo_server *server)
{
    return server->protocol != NULL ? server->protocol : app->protocol;
}

static int check(const rondo_app *app)
{
    if (app->servers[0].url == NULL) {
        rondo_log(RONDO_LOG_ERROR, "no server: servers[0].url is needed");
        return -EINVAL;
    }
    for (unsigned i = 0; i < RONDO_SERVERS_MAX && app->servers[i].url != NULL; i++) {
        const rondo_protocol *protocol = protocol_of(app, &app->servers[i]);
        if (protocol == NULL) {
            rondo_log(RONDO_LOG_ERROR, "%s has no protocol", app->servers[i].url);
            return -EINVAL;
        }
        if ((protocol->get_buffer != NULL) != (protocol->buffer_updated != NULL)) {
            rondo_log(RONDO_LOG_ERROR, "protocol %s: get_buffer and buffer_updated go together",
                      protocol->name != NULL ? protocol->name : "(unnamed)");
            return -EINVAL;
        }
    }
    if (app->shards > SHARDS_MAX) {
        rondo_log(RONDO_LOG_ERROR, "%u shards are too many: at most %u", app->shards, SHARDS_MAX);
        return -EINVAL;
    }
    return 0;
}

static const char *engine_name(const rondo_app *app)
{
    if (app->engine != NULL)
        return app->engine;
    const char *name = getenv("RONDO_ENGINE");
    return name != NULL && *name != '\0' ? name : "auto";
}

/* Service managers often start us with 1024 of half a million allowed. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
        return;
    rlim_t wanted = limit.rlim_max < DESCRIPTORS_MAX ? limit.rlim_max : DESCRIPTORS_MAX;
    if (wanted > limit.rlim_cur) {
        limit.rlim_cur = wanted;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void serving(void *context)
{
    struct service_settings *settings = context;
    for (unsigned i = 0; i < settings->address_count; i++)
        log_always("listening on %s", settings->addresses[i].url);
}

int rondo_run(const rondo_app *app)
{
    rondo_set_log_level(app->log_level);
    int rc = check(app);
    if (rc < 0)
        return rc;
    raise_descriptor_limit();

    struct service_settings settings = {
        .app = app,
        .idle_timeout_ms = app->idle_timeout_ms,
        .max_connections = app->max_connections,
    };
    struct control_config config = {
        .shards = app->shards > 0 ? app->shards : cpus_shards(""),
        .engine = engine_name(app),
        .engine_size = engine_size_default,
        .drain_timeout_ms = app->drain_timeout_ms > 0 ? app->drain_timeout_ms : DRAIN_TIMEOUT_MS,
        .hooks = &service_hooks,
        .context = &settings,
        .serving = serving,
    };
    rc = addresses_open(&settings, config.shards, app->backlog > 0 ? app->backlog : BACKLOG);
    if (rc < 0)
        return rc;
    rondo_log(RONDO_LOG_DEBUG, "%u shards, engine %s", config.shards, config.engine);
    rc = control_run(&config);
    addresses_close(&settings, config.shards);
    return rc;
}
