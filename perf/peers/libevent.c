/* libevent: bufferevents, whose input is moved to their output (libevent-book, "Bufferevents: concepts and basics"; its echo
 * server). Reading stops while more than a mark waits to be sent. */
#include "common.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HIGH_WATER = 256 * 1024 };

static void take_back(struct bufferevent *connection)
{
    bufferevent_free(connection);
}

static void write_lines(struct evbuffer *input, struct bufferevent *connection)
{
    for (struct evbuffer_ptr end; (end = evbuffer_search_eol(input, NULL, NULL, EVBUFFER_EOL_LF)).pos >= 0;) {
        size_t size = (size_t)end.pos + 1;
        bufferevent_write(connection, evbuffer_pullup(input, (ssize_t)size), size);
        evbuffer_drain(input, size);
    }
}

static void readable(struct bufferevent *connection, void *context)
{
    struct evbuffer *input = bufferevent_get_input(connection), *output = bufferevent_get_output(connection);
    (void)context;
    if (options.lines)
        write_lines(input, connection);
    else
        evbuffer_add_buffer(output, input);
    if (evbuffer_get_length(output) > HIGH_WATER)
        bufferevent_disable(connection, EV_READ);
}

static void written(struct bufferevent *connection, void *context)
{
    bool eof = context != NULL;
    if (eof)
        take_back(connection);
    else
        bufferevent_enable(connection, EV_READ);
}

static void ended(struct bufferevent *connection, short what, void *context)
{
    static char eof;
    (void)context;
    bool in_order = (what & BEV_EVENT_EOF) && !(what & BEV_EVENT_ERROR);
    if (!in_order || evbuffer_get_length(bufferevent_get_output(connection)) == 0)
        take_back(connection);
    else
        bufferevent_setcb(connection, NULL, written, ended, &eof); /* when all is sent */
}

static void accept_all(evutil_socket_t listener, short what, void *base)
{
    (void)what;
    for (int fd; (fd = peer_accept(listener)) >= 0;) {
        struct bufferevent *connection = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
        if (!connection) {
            close(fd);
            continue;
        }
        bufferevent_setcb(connection, readable, written, ended, NULL);
        bufferevent_enable(connection, EV_READ | EV_WRITE);
    }
}

static void serve(int listener)
{
    struct event_base *base = event_base_new();
    struct event *accepting = event_new(base, listener, EV_READ | EV_PERSIST, accept_all, base);
    event_add(accepting, NULL);
    event_base_dispatch(base);
}

int main(int argc, char **argv)
{
    return peer_main(argc, argv, serve);
}
