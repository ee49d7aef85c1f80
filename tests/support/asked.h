/* Operations of a test on an engine, what became of them, and plain sockets as their peers. */
#ifndef TESTS_SUPPORT_ASKED_H
#define TESTS_SUPPORT_ASKED_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/engine.h"

#define NS_PER_MS   UINT64_C(1000000)
#define PATIENCE_NS (10 * 1000 * NS_PER_MS)

extern struct engine *engine; /* of this test */
extern int wake_fd;

void open_engine(const char *name, const struct engine_size *size);

/* The books balance: engine_close itself asserts that no operation is left. */
void close_engine(void);

/* ---- time ----------------------------------------------------------------------------------------------- */

uint64_t clock_ns(void);
void turn(uint64_t timeout_ns);

/* Turn until it is so. A wait that is in vain lasts to the end, and fails, so that an engine that stalls is not helped along by
 * being asked again. */
#define RUN_UNTIL(condition)                                                                                 \
    for (uint64_t begin_ns = clock_ns(); !(condition); turn_in_time(begin_ns, #condition))

void turn_in_time(uint64_t begin_ns, const char *condition);

/* Nothing is to come: the engine neither completes anything nor cuts its sleep short. (epoll may report once what nobody
 * waits for any more.) */
void assert_asleep(void);

/* ---- an operation, and what became of it ----------------------------------------------------------------- */

enum { RECEIVED_MAX = 16 * 1024 };

struct asked {
    struct op op;
    int fd;
    unsigned completions;
    int result; /* of the last completion */
    bool more_to_read;
    char received[RECEIVED_MAX]; /* by way of the engine's buffers */
    size_t received_size;
    const char *kept; /* the last bytes received, when `keeps` */
    bool keeps;
    void (*then)(struct asked *asked); /* what the test wants done at each completion */
};

struct asked *prepared(struct asked *asked, int fd);
void ask_to_receive(struct asked *asked, int fd, bool multishot);
void ask_to_send(struct asked *asked, int fd, const char *data, size_t size, bool wait);
void let_go(struct asked *asked);
void cancel(struct asked *asked);
void assert_received(const struct asked *asked, const char *text);

/* ---- sockets -------------------------------------------------------------------------------------------- */

struct ends {
    int ours, theirs;
};

int listening_socket(struct sockaddr_in *address);
int connect_to(const struct sockaddr_in *address);
struct ends tcp_ends(void);
struct ends local_ends(void);

/* As whoever has issued operations on it must. */
void close_ours(int fd);
void close_ends(struct ends ends);
void they_send(int fd, const char *text);

/* What lies in their socket, as far as there is room. */
size_t they_receive(int fd, char *data, size_t size);

/* Bytes of the stream of bytes that is `id`'s, from `offset` on. */
void fill_with_pattern(char *data, size_t size, unsigned id, size_t offset);
void assert_pattern(const char *data, size_t size, unsigned id, size_t offset);

#endif
