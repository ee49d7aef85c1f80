/* What the peers written in C share, and no library brings: options, a listening socket, cutting lines, bytes to be sent. */
#ifndef PEERS_COMMON_H
#define PEERS_COMMON_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { READ_BYTES = 65536 };

struct peer_options {
    unsigned port, threads;
    const char *unix_path; /* NULL: TCP */
    bool lines, as_documented;
};

extern struct peer_options options;

/* Parse, listen, say where, and run `serve` on each thread with a listening socket: of its own, or, of a path, a copy.
 * It doesn't block, and its connections have TCP_NODELAY. Returns when all have returned. */
int peer_main(int argc, char **argv, void (*serve)(int listener));

/* accept4 without blocking: a descriptor, or -1 when nobody waits or none is left. */
int peer_accept(int listener);

/* The beginning of a line that has not ended. */
struct peer_rest {
    char *data;
    size_t size;
};

/* Call `write_line` once for each line that ends in these bytes, with its newline. */
void peer_cut_lines(struct peer_rest *rest, const char *data, size_t size,
                    void (*write_line)(void *connection, const char *line, size_t size), void *connection);

/* Bytes that the socket didn't take. */
struct peer_queue {
    char *data;
    size_t begin, end, capacity;
};

/* write(2) at once what can be; queue the rest. False: the connection is broken. */
bool peer_write(struct peer_queue *queue, int fd, const char *data, size_t size);
/* Go on with what is queued. */
bool peer_flush(struct peer_queue *queue, int fd);

static inline bool peer_is_empty(const struct peer_queue *queue)
{
    return queue->begin == queue->end;
}

#ifdef __cplusplus
}
#endif
#endif
