/* rondo_get_extra_info: what is worth knowing about a connection. */
#include <errno.h>
#include <string.h>

#include "net/subprocess.h"
#include "net/transport.h"

static int copy_out(const void *from, size_t from_size, void *value, size_t size)
{
    if (size < from_size)
        return -EINVAL;
    memcpy(value, from, from_size);
    return 0;
}

static int copy_name(const rondo_transport *t, bool of_peer, void *value, size_t size)
{
    struct engine *engine = t->loop->engine;
    struct sockaddr_storage name = { 0 };
    socklen_t name_size;
    int rc = engine->sockets->name(engine, t->fd, of_peer, &name, &name_size);
    return rc < 0 ? rc : copy_out(&name, name_size, value, size);
}

int rondo_get_extra_info(const rondo_transport *t, const char *name, void *value, size_t size)
{
    assert(loop_is_here(t->loop));
    if (strcmp(name, "peername") == 0)
        return copy_name(t, true, value, size);
    if (strcmp(name, "sockname") == 0)
        return copy_name(t, false, value, size);
    bool is_socket = t->kind == STREAM || t->kind == DATAGRAMS;
    if ((strcmp(name, "socket") == 0 && is_socket) || (strcmp(name, "pipe") == 0 && transport_is_pipe(t)))
        return copy_out(&t->fd, sizeof t->fd, value, size);
    pid_t pid = rondo_get_pid(t);
    if (strcmp(name, "subprocess") == 0 && pid > 0)
        return copy_out(&pid, sizeof pid, value, size);
    if (strcmp(name, "shard") == 0)
        return copy_out(&t->loop->index, sizeof t->loop->index, value, size);
    return -ENOENT;
}
