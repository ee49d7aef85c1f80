/* libuv, in two styles. As its guide has it ("Networking"): memory for each read, and uv_write. And fast: one buffer for all
 * reads, uv_try_write, and uv_write only for what the socket didn't take; reading stops meanwhile. */
#include "common.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

struct connection {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    };
    unsigned writes; /* under way */
    bool eof;
    struct peer_rest rest;
};

struct request {
    uv_write_t write; /* first: libuv hands back its address */
    uv_buf_t buffer;
};

static _Thread_local char shared[READ_BYTES];

static void closed(uv_handle_t *handle)
{
    struct connection *c = (struct connection *)handle;
    free(c->rest.data);
    free(c);
}

static void end(struct connection *c)
{
    if (!uv_is_closing(&c->handle))
        uv_close(&c->handle, closed);
}

static void give_memory(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)handle;
    *buffer = options.as_documented ? uv_buf_init(malloc(suggested), (unsigned)suggested)
                                    : uv_buf_init(shared, sizeof shared);
}

static void readable(uv_stream_t *stream, ssize_t size, const uv_buf_t *buffer);

static void written(uv_write_t *write, int status)
{
    struct request *request = (struct request *)write;
    struct connection *c = (struct connection *)write->handle;
    free(request->buffer.base);
    free(request);
    c->writes--;
    if (status < 0 || (c->eof && c->writes == 0))
        end(c);
    else if (c->writes == 0 && !c->eof)
        uv_read_start(&c->stream, give_memory, readable); /* does nothing if it is reading */
}

static void write_later(struct connection *c, char *data, size_t size)
{
    struct request *request = malloc(sizeof *request);
    request->buffer = uv_buf_init(data, (unsigned)size);
    c->writes++;
    if (uv_write(&request->write, &c->stream, &request->buffer, 1, written) < 0)
        abort(); /* of wrong arguments only */
    if (uv_stream_get_write_queue_size(&c->stream) > READ_BYTES)
        uv_read_stop(&c->stream);
}

static char *copy_of(const char *data, size_t size)
{
    return memcpy(malloc(size), data, size);
}

static void write_now(void *connection, const char *data, size_t size)
{
    struct connection *c = connection;
    uv_buf_t buffer = uv_buf_init((char *)data, (unsigned)size);
    if (uv_is_closing(&c->handle))
        return;
    int sent = c->writes > 0 || options.as_documented ? UV_EAGAIN : uv_try_write(&c->stream, &buffer, 1);
    if (sent < 0 && sent != UV_EAGAIN) {
        end(c);
        return;
    }
    size_t done = sent > 0 ? (size_t)sent : 0;
    if (done < size)
        write_later(c, copy_of(data + done, size - done), size - done);
}

static void readable(uv_stream_t *stream, ssize_t size, const uv_buf_t *buffer)
{
    struct connection *c = (struct connection *)stream;
    bool is_taken = false;
    if (size > 0 && options.lines) {
        peer_cut_lines(&c->rest, buffer->base, (size_t)size, write_now, c);
    } else if (size > 0 && options.as_documented) {
        write_later(c, buffer->base, (size_t)size);
        is_taken = true;
    } else if (size > 0) {
        write_now(c, buffer->base, (size_t)size);
    } else if (size == UV_EOF && c->writes > 0) {
        c->eof = true;
    } else if (size < 0) {
        end(c);
    }
    if (options.as_documented && !is_taken)
        free(buffer->base);
}

static void connected(uv_stream_t *listener, int status)
{
    struct connection *c = status == 0 ? calloc(1, sizeof *c) : NULL;
    if (c == NULL)
        return;
    if (options.unix_path)
        uv_pipe_init(listener->loop, &c->pipe, 0);
    else
        uv_tcp_init(listener->loop, &c->tcp);
    if (uv_accept(listener, &c->stream) == 0)
        uv_read_start(&c->stream, give_memory, readable);
    else
        end(c);
}

static void serve(int fd)
{
    union {
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } listener;
    uv_loop_t loop;
    uv_loop_init(&loop);
    if (options.unix_path) {
        uv_pipe_init(&loop, &listener.pipe, 0);
        uv_pipe_open(&listener.pipe, fd);
    } else {
        uv_tcp_init(&loop, &listener.tcp);
        uv_tcp_open(&listener.tcp, fd);
    }
    uv_listen(&listener.stream, 4096, connected);
    uv_run(&loop, UV_RUN_DEFAULT);
}

int main(int argc, char **argv)
{
    return peer_main(argc, argv, serve);
}
