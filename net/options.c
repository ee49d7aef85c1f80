/* The command line of every rondo program. */
#include <rondo/app.h>

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine.h"
#include "net/health.h"
#include "net/url.h"

#define OWN_OPTIONS_MAX 16
#define GO_ON           (-1)
#define EXIT_USAGE      2

enum {
    OPTION_BACKLOG = 256,
    OPTION_IDLE,
    OPTION_MAX,
    OPTION_DELAY,
    OPTION_DRAIN,
    OPTION_HEALTH,
    OPTION_LOG,
    OPTION_USER,
    OPTION_GROUP,
    OPTION_SANDBOX,
    OPTION_OWN
};

static const struct option common_options[] = {
    { "listen", required_argument, NULL, 'l' },
    { "shards", required_argument, NULL, 's' },
    { "engine", required_argument, NULL, 'e' },
    { "backlog", required_argument, NULL, OPTION_BACKLOG },
    { "idle-timeout", required_argument, NULL, OPTION_IDLE },
    { "max-connections", required_argument, NULL, OPTION_MAX },
    { "drain-delay", required_argument, NULL, OPTION_DELAY },
    { "drain-timeout", required_argument, NULL, OPTION_DRAIN },
    { "healthcheck", required_argument, NULL, OPTION_HEALTH },
    { "log-level", required_argument, NULL, OPTION_LOG },
    { "user", required_argument, NULL, OPTION_USER },
    { "group", required_argument, NULL, OPTION_GROUP },
    { "sandbox", no_argument, NULL, OPTION_SANDBOX },
    { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },
};
#define COMMON_OPTIONS (sizeof common_options / sizeof *common_options)

static const char server_help[] =
    "  -l, --listen URL           address to serve; repeatable%s%s%s\n"
    "                             tcp://host:port, unix:///path[?mode=0660], unix://@name, fd://3\n"
    "  -s, --shards N             threads (default: the CPUs this process may use)\n"
    "      --backlog N            connections that may wait to be accepted, per shard (default 4096)\n"
    "      --max-connections N    close further ones at once (default 0: no limit)\n"
    "      --drain-delay SEC      serve on for so long after SIGTERM, but say that it isn't ready (default "
    "0)\n"
    "      --healthcheck URL      don't serve: ask who serves there whether it's ready; exit status 0: it "
    "is\n";
static const char common_help[] =
    "  -e, --engine NAME          auto, uring or epoll (default auto: uring where it works; also "
    "RONDO_ENGINE)\n"
    "      --idle-timeout SEC     end connections idle for so long (default 0: never)\n"
    "      --drain-timeout SEC    for the orderly end after SIGTERM (default 8)\n"
    "      --log-level LEVEL      error, warning, info or debug (default info)\n"
    "      --user, --group NAME   or numbers: whose rights to have once the sockets are open\n"
    "      --sandbox              then do without exec, new processes and rings, and files opened for "
    "writing\n"
    "  -h, --help                 show this\n"
    "  -V, --version              show the version\n";

struct parse {
    rondo_app *app;
    rondo_server_options first; /* of the app's servers: what --listen adds is like it */
    const rondo_option *own;
    bool is_server;
    unsigned listens;
    const char *healthcheck; /* or NULL */
    const char *program;
    int status;
};

static void usage(struct parse *parse, const char *option, const char *value, const char *what)
{
    fprintf(stderr, "%s: %s%s%s: %s (see --help)\n", parse->program, option, value == NULL ? "" : " ",
            value == NULL ? "" : value, what);
    parse->status = EXIT_USAGE;
}

/* ---- values --------------------------------------------------------------------------------------------- */

static unsigned take_count(struct parse *parse, const char *option, const char *value, unsigned min,
                           unsigned max)
{
    char *end, what[80];
    errno = 0;
    unsigned long long number = strtoull(value, &end, 10);
    if (*value < '0' || *value > '9' || *end != '\0' || errno != 0 || number < min || number > max) {
        snprintf(what, sizeof what, "a whole number from %u to %u is wanted", min, max);
        usage(parse, option, value, what);
        return 0;
    }
    return (unsigned)number;
}

static uint64_t take_seconds_ms(struct parse *parse, const char *option, const char *value)
{
    const double most = 365.0 * 24 * 60 * 60;
    char *end;
    double seconds = strtod(value, &end);
    bool is_decimal = *value != '\0' && strspn(value, "0123456789.") == strlen(value) && *end == '\0';
    if (!is_decimal || !(seconds >= 0 && seconds <= most)) {
        usage(parse, option, value, "seconds are wanted, such as 8 or 0.5, a year at most");
        return 0;
    }
    uint64_t ms = (uint64_t)(seconds * 1000 + 0.5);
    return ms == 0 && seconds > 0 ? 1 : ms;
}

/* Is `value` one of those in "this|that"? */
static bool is_allowed(const char *value, const char *allowed)
{
    size_t size = strcspn(value, "|");
    if (value[size] != '\0' || size == 0)
        return false;
    for (const char *name = allowed; name != NULL; name = strchr(name, '|')) {
        name += *name == '|';
        if (strncmp(name, value, size) == 0 && (name[size] == '|' || name[size] == '\0'))
            return true;
    }
    return false;
}

/* As the app's first, but there. */
static rondo_server_options server_at(const struct parse *parse, const char *url)
{
    rondo_server_options server = parse->first;
    server.url = url;
    server.more_urls = NULL;
    return server;
}

static void take_listen(struct parse *parse, const char *value)
{
    struct url url;
    char why[URL_WHY_BYTES];
    if (parse->listens == RONDO_SERVERS_MAX)
        usage(parse, "--listen", value, "too many addresses: 64 at most");
    else if (url_parse(value, &url, why) < 0)
        usage(parse, "--listen", value, why);
    else
        parse->app->servers[parse->listens++] = server_at(parse, value);
}

static void take_healthcheck(struct parse *parse, const char *value)
{
    struct url url;
    char why[URL_WHY_BYTES];
    if (url_parse(value, &url, why) < 0)
        usage(parse, "--healthcheck", value, why);
    else if (url.scheme == URL_FD)
        usage(parse, "--healthcheck", value, "an address is wanted that can be connected to");
    else
        parse->healthcheck = value;
}

static void check_health(struct parse *parse)
{
    char why[HEALTH_WHY_BYTES];
    bool is_ready = health_check(parse->healthcheck, why);
    if (!is_ready)
        fprintf(stderr, "%s: %s: %s\n", parse->program, parse->healthcheck, why);
    parse->status = is_ready ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void take_engine(struct parse *parse, const char *option, const char *value)
{
    if (engine_is_known(value))
        parse->app->engine = value;
    else
        usage(parse, option, value, "there is no such engine: auto, uring or epoll");
}

static const char *take_name(struct parse *parse, const char *option, const char *value)
{
    if (*value == '\0')
        usage(parse, option, "\"\"", "a name or a number is wanted");
    return value;
}

static void take_log_level(struct parse *parse, const char *value)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };
    for (unsigned i = 0; i < 4; i++) {
        if (strcmp(value, names[i]) == 0) {
            parse->app->log_level = (rondo_log_level)(RONDO_LOG_ERROR + i);
            return;
        }
    }
    usage(parse, "--log-level", value, "there is no such level: error, warning, info or debug");
}

static void take_own(struct parse *parse, const rondo_option *option, const char *value)
{
    char name[64], what[128];
    if (option->flag != NULL) {
        *option->flag = true;
        return;
    }
    if (option->values == NULL || is_allowed(value, option->values)) {
        *option->value = value;
        return;
    }
    snprintf(name, sizeof name, "--%s", option->name);
    snprintf(what, sizeof what, "%s is wanted", option->values);
    usage(parse, name, value, what);
}

/* ---- the line ------------------------------------------------------------------------------------------- */

static const rondo_option *words_of(const struct parse *parse)
{
    const rondo_option *own = parse->own;
    while (own != NULL && own->name != NULL && own->words == NULL)
        own++;
    return own != NULL && own->name != NULL ? own : NULL;
}

static void help_own(const rondo_option *own)
{
    char form[64];
    const char *value = own->flag != NULL ? "" : own->values != NULL ? own->values : "VALUE";
    snprintf(form, sizeof form, "--%s %s", own->name, value);
    printf("      %-22s %s\n", form, own->help != NULL ? own->help : "");
}

static void help(const struct parse *parse)
{
    const rondo_option *words = words_of(parse);
    printf("usage: %s [options]%s%s\n\n", parse->program, words != NULL ? " " : "",
           words != NULL ? words->name : "");
    if (words != NULL && words->help != NULL)
        printf("%s\n\n", words->help);
    for (const rondo_option *own = parse->own; own != NULL && own->name != NULL; own++) {
        if (own->words == NULL)
            help_own(own);
    }
    const char *url = parse->first.url;
    if (parse->is_server)
        printf(server_help, url != NULL ? " (default " : "", url != NULL ? url : "", url != NULL ? ")" : "");
    fputs(common_help, stdout);
}

/* NULL: it is not for servers alone. */
static const char *name_of_servers_option(int option)
{
    switch (option) {
    case 'l':
        return "--listen";
    case 's':
        return "--shards";
    case OPTION_BACKLOG:
        return "--backlog";
    case OPTION_MAX:
        return "--max-connections";
    case OPTION_DELAY:
        return "--drain-delay";
    case OPTION_HEALTH:
        return "--healthcheck";
    default:
        return NULL;
    }
}

static void take(struct parse *parse, int option, const char *value)
{
    rondo_app *app = parse->app;
    const char *servers = name_of_servers_option(option);
    if (servers != NULL && !parse->is_server) {
        usage(parse, servers, NULL, "is for servers, and this program is none");
        return;
    }
    switch (option) {
    case 'l':
        take_listen(parse, value);
        break;
    case 's':
        app->shards = take_count(parse, "--shards", value, 1, 1024);
        break;
    case 'e':
        take_engine(parse, "--engine", value);
        break;
    case OPTION_BACKLOG:
        app->backlog = take_count(parse, "--backlog", value, 1, 1 << 20);
        break;
    case OPTION_IDLE:
        app->idle_timeout_ms = take_seconds_ms(parse, "--idle-timeout", value);
        break;
    case OPTION_MAX:
        app->max_connections = take_count(parse, "--max-connections", value, 0, 1u << 30);
        break;
    case OPTION_DELAY:
        app->drain_delay_ms = take_seconds_ms(parse, "--drain-delay", value);
        break;
    case OPTION_HEALTH:
        take_healthcheck(parse, value);
        break;
    case OPTION_DRAIN:
        app->drain_timeout_ms = take_seconds_ms(parse, "--drain-timeout", value);
        if (app->drain_timeout_ms == 0)
            app->drain_timeout_ms = 1; /* in rondo_app 0 is the default; at once is meant */
        break;
    case OPTION_LOG:
        take_log_level(parse, value);
        break;
    case OPTION_USER:
        app->user = take_name(parse, "--user", value);
        break;
    case OPTION_GROUP:
        app->group = take_name(parse, "--group", value);
        break;
    case OPTION_SANDBOX:
        app->sandbox = true;
        break;
    case 'h':
        help(parse);
        parse->status = EXIT_SUCCESS;
        break;
    case 'V':
        printf("%s (rondo) %s\n", parse->program, RONDO_VERSION);
        parse->status = EXIT_SUCCESS;
        break;
    default:
        take_own(parse, &parse->own[option - OPTION_OWN], value);
        break;
    }
}

/* What getopt_long refused: an option that doesn't exist, or one without its value. */
static void refuse(struct parse *parse, char **argv, bool value_is_missing)
{
    /* Of an unknown letter, optopt is the letter; of an unknown word, 0; of a value that is missing, the option's code,
     * and then the option was the last word. Inside a cluster of letters optind still points at the cluster. */
    const char *given = argv[optind - 1];
    char letter[3] = { '-', (char)optopt, '\0' };
    bool is_letter = optopt > 0 && optopt < 256 && !(value_is_missing && strncmp(given, "--", 2) == 0);
    usage(parse, is_letter ? letter : given, NULL,
          value_is_missing ? "a value is missing behind it" : "there is no such option");
}

static unsigned own_count(const rondo_option *own)
{
    unsigned count = 0;
    while (own != NULL && own[count].name != NULL && count < OWN_OPTIONS_MAX)
        count++;
    return count;
}

static void take_words(struct parse *parse, char **words, unsigned count)
{
    const rondo_option *own = words_of(parse);
    char what[128];
    if (own == NULL && count > 0) {
        usage(parse, words[0], NULL, "an option is wanted, not a word alone");
    } else if (own != NULL && count < own->least) {
        snprintf(what, sizeof what, "%s is wanted", own->name);
        usage(parse, "too few words", NULL, what);
    } else if (own != NULL && own->most > 0 && count > own->most) {
        snprintf(what, sizeof what, "it is too much: %s is wanted", own->name);
        usage(parse, words[own->most], NULL, what);
    } else if (own != NULL) {
        *own->words = words;
    }
}

int rondo_parse_options(rondo_app *app, int argc, char **argv, const rondo_option *own)
{
    struct parse parse = { .app = app, .first = app->servers[0], .own = own, .status = GO_ON };
    parse.is_server = app->servers[0].url != NULL || app->protocol != NULL || app->shard_start == NULL;
    struct option options[COMMON_OPTIONS + OWN_OPTIONS_MAX + 1] = { 0 };
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    parse.program = slash != NULL ? slash + 1 : argc > 0 ? argv[0] : "rondo";
    memcpy(options, common_options, sizeof common_options);
    for (unsigned i = 0, next = COMMON_OPTIONS; i < own_count(own); i++) {
        if (own[i].words == NULL)
            options[next++] = (struct option){ own[i].name, own[i].flag == NULL, NULL, OPTION_OWN + (int)i };
    }

    const char *engine = getenv("RONDO_ENGINE");
    if (engine != NULL && *engine != '\0')
        take_engine(&parse, "RONDO_ENGINE", engine);
    opterr = 0; /* the messages are ours */
    optind = 0;
    for (int option;
         parse.status == GO_ON && (option = getopt_long(argc, argv, ":l:s:e:hV", options, NULL)) != -1;) {
        if (option == '?' || option == ':')
            refuse(&parse, argv, option == ':');
        else
            take(&parse, option, optarg);
    }
    if (parse.status == GO_ON)
        take_words(&parse, argv + optind, (unsigned)(argc - optind));
    if (parse.status == GO_ON && parse.healthcheck != NULL)
        check_health(&parse);
    if (parse.listens > 0 && parse.listens < RONDO_SERVERS_MAX)
        app->servers[parse.listens].url = NULL; /* of those it came with, none is left */
    return parse.status;
}

int rondo_main(int argc, char **argv, const rondo_protocol *protocol, const char *url)
{
    rondo_app app = { .servers = { { .url = url, .protocol = protocol } } };
    int status = rondo_parse_options(&app, argc, argv, NULL);
    if (status != GO_ON)
        return status;
    return rondo_run(&app) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
