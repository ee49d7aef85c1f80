#include "support/asked.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct engine *engine;
int wake_fd;

void open_engine(const char *name, const struct engine_size *size)
{
    char why[ENGINE_WHY_BYTES] = "";
    int error = 0;
    wake_fd = eventfd(0, EFD_CLOEXEC);
    engine = engine_open(name, size, wake_fd, &error, why);
    cr_assert_not_null(engine, "%s", why);
}

void close_engine(void)
{
    cr_assert(eq(uint, engine->buffers.lent, 0));
    engine_close(engine);
}

/* ---- time ----------------------------------------------------------------------------------------------- */

uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void turn(uint64_t timeout_ns)
{
    cr_assert_eq(engine_wait(engine, timeout_ns), 0);
    while (!engine_dispatch(engine))
        engine_submit(engine);
}

void turn_in_time(uint64_t begin_ns, const char *condition)
{
    turn(PATIENCE_NS);
    cr_assert_lt(clock_ns() - begin_ns, PATIENCE_NS, "it stalls: %s", condition);
}

void assert_asleep(void)
{
    if (strcmp(engine->name, "epoll") == 0)
        turn(0);
    uint64_t completions = engine->counters.completions, starved = engine->counters.starved;
    for (unsigned i = 0; i < 3; i++) {
        uint64_t begin_ns = clock_ns();
        turn(5 * NS_PER_MS);
        cr_assert_geq(clock_ns() - begin_ns, 5 * NS_PER_MS, "it sleeps");
    }
    cr_assert(eq(u64, engine->counters.completions, completions));
    cr_assert(eq(u64, engine->counters.starved, starved));
}

/* ---- an operation, and what became of it ----------------------------------------------------------------- */

static void asked_done(struct op *op, const struct completion *completion)
{
    struct asked *asked = rondo_container_of(op, struct asked, op);
    cr_assert_eq(op->in_kernel, completion->more, "in the kernel until the last completion");
    cr_assert_neq(completion->result, -ENOBUFS, "nobody is told");
    asked->completions++;
    asked->result = completion->result;
    asked->more_to_read = completion->more_to_read;
    if (completion->data.size > 0) {
        cr_assert_eq(completion->data.size, (size_t)completion->result);
        cr_assert_leq(asked->received_size + completion->data.size, sizeof asked->received);
        memcpy(asked->received + asked->received_size, completion->data.data, completion->data.size);
        asked->received_size += completion->data.size;
        if (asked->keeps) {
            asked->kept = completion->data.data;
            buffers_ref(&engine->buffers, asked->kept);
        }
    }
    if (asked->then != NULL)
        asked->then(asked);
}

struct asked *prepared(struct asked *asked, int fd)
{
    asked->op.done = asked_done;
    asked->fd = fd;
    return asked;
}

void ask_to_receive(struct asked *asked, int fd, bool multishot)
{
    engine_receive(engine, &prepared(asked, fd)->op, fd, multishot);
    cr_assert(asked->op.in_kernel, "from the call on");
}

void ask_to_send(struct asked *asked, int fd, const char *data, size_t size, bool wait)
{
    engine_send(engine, &prepared(asked, fd)->op, fd, &(struct iovec){ (char *)data, size }, 1, wait);
    cr_assert(asked->op.in_kernel, "from the call on");
}

void let_go(struct asked *asked)
{
    buffers_unref(&engine->buffers, asked->kept);
    asked->kept = NULL;
}

void cancel(struct asked *asked)
{
    unsigned completions = asked->completions;
    engine_cancel(engine, &asked->op);
    cr_assert(asked->op.in_kernel, "until it has ended");
    RUN_UNTIL(!asked->op.in_kernel);
    cr_assert(eq(int, asked->result, -ECANCELED));
    cr_assert(eq(uint, asked->completions, completions + 1));
}

void assert_received(const struct asked *asked, const char *text)
{
    cr_assert(eq(sz, asked->received_size, strlen(text)));
    cr_assert_arr_eq(asked->received, text, strlen(text));
}

/* ---- sockets -------------------------------------------------------------------------------------------- */

int listening_socket(struct sockaddr_in *address)
{
    socklen_t size = sizeof *address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    cr_assert_eq(bind(fd, (struct sockaddr *)address, size), 0);
    cr_assert_eq(listen(fd, 128), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)address, &size), 0);
    return fd;
}

int connect_to(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (const struct sockaddr *)address, sizeof *address), 0);
    cr_assert_eq(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)), 0);
    return fd;
}

struct ends tcp_ends(void)
{
    struct sockaddr_in address;
    int listener = listening_socket(&address);
    struct ends ends = { .theirs = connect_to(&address) };
    ends.ours = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    cr_assert_geq(ends.ours, 0);
    close(listener);
    return ends;
}

struct ends local_ends(void)
{
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    return (struct ends){ fds[0], fds[1] };
}

void close_ours(int fd)
{
    engine_close_now(engine, fd);
}

void close_ends(struct ends ends)
{
    close_ours(ends.ours);
    close(ends.theirs);
}

void they_send(int fd, const char *text)
{
    cr_assert_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

size_t they_receive(int fd, char *data, size_t size)
{
    size_t received = 0;
    ssize_t count;
    while (received < size && (count = recv(fd, data + received, size - received, MSG_DONTWAIT)) > 0)
        received += (size_t)count;
    return received;
}

/* Byte `offset` of the stream of bytes that is `id`'s. */
static char pattern(unsigned id, size_t offset)
{
    return (char)((id + 1) * 37 + offset * 11 + (offset >> 8) * 7);
}

void fill_with_pattern(char *data, size_t size, unsigned id, size_t offset)
{
    for (size_t i = 0; i < size; i++)
        data[i] = pattern(id, offset + i);
}

void assert_pattern(const char *data, size_t size, unsigned id, size_t offset)
{
    for (size_t i = 0; i < size; i++)
        cr_assert_eq(data[i], pattern(id, offset + i), "byte %zu of stream %u", offset + i, id);
}
