/* rondo_run -> control_run -> one shard per CPU -> service -> servers -> transports. */
#include <rondo/app.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "core/control.h"
#include "core/cpus.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/privileges.h"
#include "net/addresses.h"
#include "net/health.h"
#include "net/server.h"

#define DRAIN_TIMEOUT_MS 8000
#define SHARDS_MAX       1024
#define DESCRIPTORS_MAX  (1024 * 1024) /* more only makes the kernel's tables large */

static unsigned count_servers(const rondo_app *app)
{
    unsigned count = 0;
    while (count < RONDO_SERVERS_MAX && app->servers[count].url != NULL)
        count++;
    return count;
}

static int check(const rondo_app *app)
{
    unsigned count = count_servers(app);
    if (count == 0 && app->shard_start == NULL) {
        rondo_log(RONDO_LOG_ERROR, "nothing to do: servers[0].url, or shard_start, is needed");
        return -EINVAL;
    }
    for (unsigned i = 0; i < count; i++) {
        int rc = server_check(app, &app->servers[i]);
        if (rc < 0)
            return rc;
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

/* Socket files become the user's, who will have to remove them. */
static int drop_privileges(const struct service_settings *settings)
{
    const rondo_app *app = settings->app;
    char why[PRIVILEGES_WHY_BYTES];
    struct identity identity;
    int rc = privileges_find(app->user, app->group, &identity, why);
    for (unsigned i = 0; i < settings->server_count && rc == 0; i++)
        addresses_give(&settings->servers[i], identity.user, identity.group);
    if (rc == 0)
        rc = privileges_drop(&identity, why);
    if (rc < 0)
        rondo_log(RONDO_LOG_ERROR, "%s", why);
    return rc;
}

static void serving(void *context)
{
    const struct service_settings *settings = context;
    for (unsigned i = 0; i < settings->server_count; i++) {
        for (unsigned j = 0; j < settings->servers[i].count && !settings->app->servers[i].start_later; j++)
            log_always("listening on %s", settings->servers[i].at[j].url);
    }
}

static void asked(void *context, bool is_ready)
{
    const struct service_settings *settings = context;
    health_answer(settings->health, is_ready);
}

static void close_servers(struct service_settings *settings)
{
    for (unsigned i = 0; i < settings->server_count; i++)
        addresses_close(&settings->servers[i]);
    memory_free(settings->servers);
}

static bool is_adopted(const rondo_server_options *server)
{
    return strncmp(server->url, "fd://", strlen("fd://")) == 0;
}

/* First what was given to us, while a wrong number can't be that of a socket of our own. */
static int open_servers(struct service_settings *settings, unsigned shards)
{
    const rondo_app *app = settings->app;
    const struct address_terms terms = {
        .shards = shards,
        .backlog = server_backlog(app),
        .may_wait = true,
    };
    unsigned count = count_servers(app);
    settings->servers = memory_new((count + 1) * sizeof *settings->servers);
    if (settings->servers == NULL)
        return -ENOMEM;
    settings->server_count = count;
    int rc = 0;
    for (int given = 1; given >= 0; given--) {
        for (unsigned i = 0; i < count && rc == 0; i++) {
            if (is_adopted(&app->servers[i]) == given)
                rc = addresses_open(&settings->servers[i], &app->servers[i], &terms);
        }
    }
    if (rc < 0)
        close_servers(settings);
    return rc;
}

int rondo_run(const rondo_app *app)
{
    rondo_set_log_level(app->log_level);
    int rc = check(app);
    if (rc < 0)
        return rc;
    raise_descriptor_limit();

    struct health health;
    struct service_settings settings = {
        .app = app,
        .health = &health,
        .idle_timeout_ms = app->idle_timeout_ms,
        .max_connections = app->max_connections,
    };
    struct control_config config = {
        .shards = app->shards > 0 ? app->shards : cpus_shards(""),
        .engine = engine_name(app),
        .engine_size = engine_size_default,
        .has_sandbox = app->sandbox,
        .drain_delay_ms = app->drain_delay_ms,
        .drain_timeout_ms = app->drain_timeout_ms > 0 ? app->drain_timeout_ms : DRAIN_TIMEOUT_MS,
        .hooks = &service_hooks,
        .context = &settings,
        .serving = serving,
        .asked = asked,
    };
    rc = open_servers(&settings, config.shards);
    if (rc < 0)
        return rc;
    rc = drop_privileges(&settings); /* behind the sockets, which may need them, before there is a ring */
    if (rc < 0) {
        close_servers(&settings);
        return rc;
    }
    rondo_log(RONDO_LOG_DEBUG, "%u shards, engine %s", config.shards, config.engine);
    health_open(&health, settings.servers, settings.server_count);
    config.asked_fd = health.epoll_fd;
    rc = control_run(&config);
    health_close(&health);
    close_servers(&settings);
    return rc;
}
