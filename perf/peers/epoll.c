/* Raw epoll, level-triggered: read, write at once, and ask for EPOLLOUT only when the socket is full (epoll(7)). While bytes
 * wait to be sent, nothing is read. */
#include "common.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENTS = 256 };

struct connection {
    int fd;
    bool eof, broken;
    unsigned events;
    struct peer_queue queue;
    struct peer_rest rest;
};

static _Thread_local int epoll;
static _Thread_local char buffer[READ_BYTES];

static void watch(struct connection *c)
{
    unsigned wanted = peer_is_empty(&c->queue) ? EPOLLIN : EPOLLOUT;
    if (wanted == c->events)
        return;
    c->events = wanted;
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){ .events = wanted, .data.ptr = c });
}

static void write_bytes(void *connection, const char *data, size_t size)
{
    struct connection *c = connection;
    c->broken = c->broken || !peer_write(&c->queue, c->fd, data, size);
}

static void readable(struct connection *c)
{
    ssize_t size = read(c->fd, buffer, sizeof buffer);
    if (size > 0 && options.lines)
        peer_cut_lines(&c->rest, buffer, (size_t)size, write_bytes, c);
    else if (size > 0)
        write_bytes(c, buffer, (size_t)size);
    else if (size == 0)
        c->eof = true;
    else
        c->broken = errno != EAGAIN && errno != EINTR;
}

static void accept_all(int listener)
{
    for (int fd; (fd = peer_accept(listener)) >= 0;) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) {
            close(fd);
            continue;
        }
        c->fd = fd;
        c->events = EPOLLIN;
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN, .data.ptr = c });
    }
}

static void happened(struct connection *c)
{
    if (c->events == EPOLLOUT)
        c->broken = !peer_flush(&c->queue, c->fd);
    else
        readable(c);
    if (!c->broken && !(c->eof && peer_is_empty(&c->queue))) {
        watch(c);
        return;
    }
    close(c->fd);
    free(c->queue.data);
    free(c->rest.data);
    free(c);
}

static void serve(int listener)
{
    struct epoll_event events[EVENTS];
    epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &(struct epoll_event){ .events = EPOLLIN });
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == NULL)
                accept_all(listener);
            else
                happened(events[i].data.ptr);
        }
    }
}

int main(int argc, char **argv)
{
    return peer_main(argc, argv, serve);
}
