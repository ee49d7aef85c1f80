/* libev: a watcher for each connection, for reading or, while bytes wait, for writing (ev(3), "ev_io"). */
#include "common.h"

#include <errno.h>
#include <ev.h>
#include <stdlib.h>
#include <unistd.h>

struct connection {
    ev_io io; /* first: libev hands back its address */
    bool eof, broken;
    struct peer_queue queue;
    struct peer_rest rest;
};

static _Thread_local char buffer[READ_BYTES];

static void write_bytes(void *connection, const char *data, size_t size)
{
    struct connection *c = connection;
    c->broken = c->broken || !peer_write(&c->queue, c->io.fd, data, size);
}

static void readable(struct connection *c)
{
    ssize_t size = read(c->io.fd, buffer, sizeof buffer);
    if (size > 0 && options.lines)
        peer_cut_lines(&c->rest, buffer, (size_t)size, write_bytes, c);
    else if (size > 0)
        write_bytes(c, buffer, (size_t)size);
    else if (size == 0)
        c->eof = true;
    else
        c->broken = errno != EAGAIN && errno != EINTR;
}

static void watch(struct ev_loop *loop, struct connection *c)
{
    int wanted = peer_is_empty(&c->queue) ? EV_READ : EV_WRITE;
    if ((c->io.events & (EV_READ | EV_WRITE)) == wanted)
        return;
    ev_io_stop(loop, &c->io);
    ev_io_set(&c->io, c->io.fd, wanted);
    ev_io_start(loop, &c->io);
}

static void happened(struct ev_loop *loop, ev_io *io, int events)
{
    struct connection *c = (struct connection *)io;
    if (events & EV_WRITE)
        c->broken = !peer_flush(&c->queue, io->fd);
    else
        readable(c);
    if (!c->broken && !(c->eof && peer_is_empty(&c->queue))) {
        watch(loop, c);
        return;
    }
    ev_io_stop(loop, io);
    close(io->fd);
    free(c->queue.data);
    free(c->rest.data);
    free(c);
}

static void accept_all(struct ev_loop *loop, ev_io *listener, int events)
{
    (void)events;
    for (int fd; (fd = peer_accept(listener->fd)) >= 0;) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) {
            close(fd);
            continue;
        }
        ev_io_init(&c->io, happened, fd, EV_READ);
        ev_io_start(loop, &c->io);
    }
}

static void serve(int listener)
{
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    ev_io io;
    ev_io_init(&io, accept_all, listener, EV_READ);
    ev_io_start(loop, &io);
    ev_run(loop, 0);
}

int main(int argc, char **argv)
{
    return peer_main(argc, argv, serve);
}
