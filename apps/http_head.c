/* HTTP head: prints the headers of a page.    try: rondo-http-head http://localhost:8000/ */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <rondo/rondo.h>

enum { TIMEOUT_MS = 30000 };

static char **words;
static bool has_failed;

static int fail(const char *what, const char *why)
{
    rondo_log(RONDO_LOG_ERROR, "%s: %s", what, why);
    has_failed = true;
    return -EINVAL;
}

/* The parts of "http://host:port/path". */
struct address {
    char host[256]; /* with its port, as the Host header wants it */
    char url[300];
    const char *path;
};

static int parse(const char *page, struct address *address)
{
    static const char scheme[] = "http://";
    if (strncmp(page, scheme, strlen(scheme)) != 0)
        return fail(page, "http://host:port/path is wanted");
    const char *host = page + strlen(scheme);
    size_t size = strcspn(host, "/?#");
    if (size == 0 || size >= sizeof address->host || strpbrk(page, " \r\n") != NULL)
        return fail(page, "this names no host");
    memcpy(address->host, host, size);
    address->host[size] = '\0';
    const char *bracket = strrchr(address->host, ']'), *colon = strrchr(address->host, ':');
    bool has_port = colon != NULL && colon > bracket;
    snprintf(address->url, sizeof address->url, "tcp://%s%s", address->host, has_port ? "" : ":80");
    address->path = host[size] == '/' ? host + size : "/";
    return 0;
}

/* Line by line, to the empty one that ends them. They end with CR LF, and of careless servers with LF. */
static int print_headers(rondo_stream *s)
{
    rondo_bytes line;
    for (;;) {
        ssize_t size = rondo_readline(s, &line);
        if (size < 0)
            return (int)size;
        if (size == 0 || line.data[--size] != '\n')
            return -ENODATA;
        if (size > 0 && line.data[size - 1] == '\r')
            size--;
        if (size == 0)
            return 0;
        fwrite(line.data, 1, (size_t)size, stdout);
        putchar('\n');
    }
}

static int head(const struct address *address)
{
    char request[4096];
    rondo_stream *s;
    int size = snprintf(request, sizeof request, "HEAD %.*s HTTP/1.0\r\nHost: %s\r\n\r\n",
                        (int)strcspn(address->path, "#"), address->path, address->host);
    if (size >= (int)sizeof request)
        return -ENAMETOOLONG;
    rondo_timeout(TIMEOUT_MS);
    int rc = rondo_open_connection(address->url, NULL, &s);
    if (rc < 0)
        return rc;
    rondo_stream_write(s, (rondo_bytes){ request, (size_t)size });
    return print_headers(s);
}

static const char *reason(int error)
{
    switch (error) {
    case -ENODATA:
        return "the server ended before its headers did";
    case -EMSGSIZE:
        return "a header is longer than 64 KiB";
    default:
        return strerror(-error);
    }
}

static int run(void *argument)
{
    struct address address;
    int rc = parse(words[0], &address);
    if (rc == 0 && (rc = head(&address)) < 0)
        fail(words[0], reason(rc));
    rondo_stop(argument);
    return rc;
}

static int shard_start(rondo_loop *loop)
{
    return rondo_create_task(loop, &(rondo_task_options){ .run = run, .argument = loop, .name = "head" },
                             NULL);
}

int main(int argc, char **argv)
{
    const rondo_option options[] = {
        { .name = "URL",
          .words = &words,
          .least = 1,
          .most = 1,
          .help = "Prints the headers of http://host:port/path." },
        { 0 },
    };
    rondo_app app = { .shards = 1, .shard_start = shard_start, .log_level = RONDO_LOG_WARNING };
    int status = rondo_parse_options(&app, argc, argv, options);
    return status >= 0 ? status : rondo_run(&app) < 0 || has_failed;
}
