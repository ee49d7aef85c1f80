/* The application: servers, shards, and their beginning and end.    asyncio: create_server + asyncio.run
 *
 *   static const rondo_protocol echo = { .name = "echo", .data_received = rondo_write };
 *
 *   int main(int argc, char **argv)
 *   {
 *       return rondo_main(argc, argv, &echo, "tcp://127.0.0.1:7777");
 *   }
 *
 * Thread: all calls here belong to the thread that becomes the control thread, usually main. */
#ifndef RONDO_APP_H
#define RONDO_APP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/log.h>
#include <rondo/loop.h>
#include <rondo/protocol.h>
#include <rondo/server.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

#define RONDO_SERVERS_MAX 64

/* Everything rondo_run needs to know; zero means the default, for each member. */
typedef struct rondo_app {
    rondo_server_options
        servers[RONDO_SERVERS_MAX]; /* up to the first without a url. None: shard_start does all */
    const rondo_protocol *protocol; /* of the servers that name none */

    unsigned shards; /* threads; default: the CPUs this process may use (affinity, cgroup quota) */
    const char
        *engine; /* "uring", "epoll", or "auto": io_uring where it works. Default: RONDO_ENGINE, or "auto" */
    unsigned backlog;         /* connections waiting to be accepted, per shard; default 4096 */
    uint64_t idle_timeout_ms; /* end connections with no byte in or out for so long; default: never */
    unsigned max_connections; /* of all shards together; more are closed at once; default: no limit */
    uint64_t
        drain_delay_ms; /* from the signal to the drain: says that it isn't ready, but serves; default 0 */
    uint64_t drain_timeout_ms; /* for the orderly end after it; default 8000 */
    rondo_log_level log_level; /* default RONDO_LOG_INFO */

    /* Rights that are given up. user, group: names or numbers; default: stay who we are. They change when the sockets of
     * servers[] are open, which may need root, and before there is a ring. sandbox: once all shards have started, a
     * seccomp filter leaves the process the system calls that running shards use (README, "Security"): no exec, no
     * process, no ring, no file opened for writing. */
    const char *user, *group;
    bool sandbox;

    /* State of each shard, zeroed: rondo_shard(t), rondo_shard_of(loop).    Seastar: sharded<T>
     * shard_start runs on the shard's thread before its first connection: 0, or a negative errno that stops
     * the whole start. The shard's servers are there (rondo_server_of), and accept when it has returned. shard_stop runs
     * there after its last connection, for each shard that was started. */
    size_t shard_size;
    int (*shard_start)(rondo_loop *loop);
    void (*shard_stop)(rondo_loop *loop);
} rondo_app;

/* Serve until SIGTERM, SIGINT or rondo_stop; the caller's thread becomes the control thread. Without servers, and with
 * a shard_start that makes connections or servers of its own, it runs as long.
 *
 * The first signal drains, after drain_delay_ms, during which whoever asks by --healthcheck is told that the server isn't
 * ready any more. Queued connections are still accepted, bytes that had arrived are delivered, what protocols write is
 * sent, connections half-close; at the drain timeout the rest is aborted. The last line of the log counts them. A second
 * signal aborts at once. SIGUSR1: a line of JSON for each shard on stderr. These three signals are blocked in the
 * calling thread meanwhile (its mask is restored): a program with threads of its own blocks them there, too.
 * Raises the soft limit of descriptors to the hard one.
 *
 * Says "listening on URL" for each address, with the real port, once all shards serve.
 * Returns 0 after a stop, or a negative errno, with one line in the log saying what failed, why, and what to do. */
int rondo_run(const rondo_app *app);

/* rondo_run with the options that every rondo program has: see --help of any.
 *
 *   protocol   serves all addresses; url   the address without --listen
 *
 * Returns an exit status: 0, 1 for what failed at run time, 2 for wrong usage. */
int rondo_main(int argc, char **argv, const rondo_protocol *protocol, const char *url);

/* An option of the program's own, beside the common ones: --name VALUE; --name alone, with a flag; or words that are no
 * options. */
typedef struct rondo_option {
    const char *name;     /* "receive"; of words how usage shows them: "URL [MESSAGE...]". NULL ends a list */
    const char *values;   /* those allowed, "data|buffer"; or NULL: any */
    const char *help;     /* one line */
    const char **value;   /* set to the argument when the option is given; left alone when not */
    bool *flag;           /* instead of it: there is no argument, and this is set to true */
    char ***words;        /* instead of both: set to the words, which end with NULL. One such entry at most */
    unsigned least, most; /* so many words are wanted; most 0: any number */
} rondo_option;

/* rondo_main in two steps, for programs with options of their own: fill `app` from the command line.
 *
 *   app       the defaults; --listen replaces servers[]: each is as servers[0], but for its URL. With a shard_start,
 *             and neither servers[0].url nor a protocol, it is no server, and there are no options for one
 *   options   the program's own, ended by a zeroed one; NULL: none
 *
 * The words of argv are moved behind its options. Returns -1: go on with rondo_run; else the exit status to return (0
 * after --help and --version, which are printed on stdout; 2 after wrong usage, which is said on stderr in a line
 * naming the option). */
int rondo_parse_options(rondo_app *app, int argc, char **argv, const rondo_option *options);

/* The state of a connection's shard, or of a loop's: shard_size bytes; NULL when that is 0. Its own thread only. */
void *rondo_shard(rondo_transport *t);
void *rondo_shard_of(rondo_loop *loop);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
