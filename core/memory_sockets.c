#include "core/memory_sockets.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_FD (1 << 28) /* above all that the system gives */

/* ---- which there are ------------------------------------------------------------------------------------ */

static bool make_place(struct memory_sockets *sockets)
{
    if (sockets->count < sockets->capacity)
        return true;
    unsigned capacity = sockets->capacity == 0 ? 8 : 2 * sockets->capacity;
    struct memory_socket **more = realloc(sockets->sockets, capacity * sizeof *more);
    if (more == NULL)
        return false;
    sockets->sockets = more;
    sockets->capacity = capacity;
    return true;
}

struct memory_socket *memory_socket_new(struct memory_sockets *sockets, int family)
{
    struct memory_socket *s = make_place(sockets) ? calloc(1, sizeof *s) : NULL;
    if (s == NULL)
        return NULL;
    s->fd = FIRST_FD + (int)sockets->count;
    s->family = family;
    s->port = (uint16_t)(1024 + sockets->count % 60000);
    s->room = s->window = SIZE_MAX;
    s->connected = 1;
    sockets->sockets[sockets->count++] = s;
    return s;
}

void memory_socket_connect(struct memory_socket *a, struct memory_socket *b)
{
    a->other = b;
    b->other = a;
    a->other_port = b->port;
    b->other_port = a->port;
}

struct memory_socket *memory_socket_of(const struct memory_sockets *sockets, int fd)
{
    unsigned index = (unsigned)fd - FIRST_FD;
    return index < sockets->count ? sockets->sockets[index] : NULL;
}

static void close_passed(struct memory_socket *s, struct passed *passed)
{
    for (unsigned i = 0; i < passed->count; i++)
        close(passed->fds[i]);
    s->passed = passed->next;
    free(passed);
}

void memory_socket_drop_unread(struct memory_socket *s)
{
    while (s->passed != NULL)
        close_passed(s, s->passed);
    s->read += s->size;
    s->size = s->begin = 0;
}

static void free_socket(struct memory_sockets *sockets, struct memory_socket *s)
{
    memory_socket_drop_unread(s);
    sockets->sockets[s->fd - FIRST_FD] = NULL;
    free(s->arrived);
    free(s);
}

void memory_sockets_free(struct memory_sockets *sockets)
{
    for (unsigned i = 0; i < sockets->count; i++) {
        if (sockets->sockets[i] != NULL)
            free_socket(sockets, sockets->sockets[i]);
    }
    free(sockets->sockets);
}

/* ---- sending -------------------------------------------------------------------------------------------- */

static bool is_cut_off(const struct memory_socket *s)
{
    return s->other == NULL || s->other->broken;
}

bool memory_socket_is_writable(const struct memory_socket *s)
{
    return s->error < 0 || s->write_shut || s->broken || is_cut_off(s) || s->other->size < s->other->room;
}

static bool make_room(struct memory_socket *s, size_t size)
{
    if (s->begin + s->size + size <= s->capacity)
        return true;
    if (s->begin > 0) {
        memmove(s->arrived, s->arrived + s->begin, s->size);
        s->begin = 0;
    }
    if (s->size + size <= s->capacity)
        return true;
    size_t capacity = 2 * (s->size + size);
    char *more = realloc(s->arrived, capacity);
    if (more == NULL)
        return false;
    s->arrived = more;
    s->capacity = capacity;
    return true;
}

static int pass(struct memory_socket *to, const int *fds, unsigned count)
{
    struct passed *passed = calloc(1, sizeof *passed + count * sizeof *fds);
    if (passed == NULL)
        return -ENOBUFS;
    struct passed **last = &to->passed;
    while (*last != NULL)
        last = &(*last)->next;
    *last = passed;
    passed->place = to->read + to->size;
    for (; passed->count < count; passed->count++)
        passed->fds[passed->count] = fcntl(fds[passed->count], F_DUPFD_CLOEXEC, 0);
    return 0;
}

static size_t append(struct memory_socket *to, const struct iovec *slices, unsigned count, size_t limit)
{
    size_t sent = 0;
    for (unsigned i = 0; i < count && sent < limit; i++) {
        size_t size = slices[i].iov_len < limit - sent ? slices[i].iov_len : limit - sent;
        if (size == 0)
            continue;
        if (!make_room(to, size))
            break;
        memcpy(to->arrived + to->begin + to->size, slices[i].iov_base, size);
        to->size += size;
        sent += size;
    }
    return sent;
}

static size_t total_of(const struct iovec *slices, unsigned count)
{
    size_t total = 0;
    for (unsigned i = 0; i < count; i++)
        total += slices[i].iov_len;
    return total < INT_MAX ? total : INT_MAX;
}

static int error_once(struct memory_socket *s)
{
    int error = s->error;
    s->error = 0;
    return error;
}

/* What is sent there is answered by a reset; a Unix socket knows at once. */
static int send_to_nobody(struct memory_socket *s, size_t size)
{
    if (s->family == AF_UNIX)
        return -EPIPE;
    memory_socket_break(s, -ECONNRESET, false);
    return (int)size;
}

int memory_socket_send(struct memory_socket *s, const struct iovec *slices, unsigned slice_count,
                       size_t limit, const int *fds, unsigned count)
{
    size_t total = total_of(slices, slice_count);
    if (limit > total)
        limit = total;
    if (s->error < 0)
        return error_once(s);
    if (s->write_shut || s->broken)
        return -EPIPE;
    if (is_cut_off(s))
        return send_to_nobody(s, limit);
    struct memory_socket *to = s->other;
    if (to->size >= to->room)
        return -EAGAIN;
    if (count > 0) {
        int rc = pass(to, fds, count);
        if (rc < 0)
            return rc;
    }
    size_t room = to->room - to->size;
    size_t sent = append(to, slices, slice_count, limit < room ? limit : room);
    return sent == 0 && limit > 0 ? -ENOBUFS : (int)sent;
}

size_t memory_socket_unacknowledged(const struct memory_socket *s)
{
    return is_cut_off(s) || s->other->size <= s->other->window ? 0 : s->other->size - s->other->window;
}

/* ---- receiving ------------------------------------------------------------------------------------------ */

bool memory_socket_is_readable(const struct memory_socket *s)
{
    return s->size > 0 || s->eof || s->error < 0 || s->broken;
}

/* Up to the next byte with which descriptors come; those of the first one are taken. */
static size_t take_passed(struct memory_socket *s, size_t size, int *fds, unsigned max, unsigned *count)
{
    struct passed *passed = s->passed;
    if (passed != NULL && passed->place == s->read) {
        for (; fds != NULL && *count < passed->count && *count < max; (*count)++)
            fds[*count] = passed->fds[*count];
        memmove(passed->fds, passed->fds + *count, (passed->count - *count) * sizeof *passed->fds);
        passed->count -= *count;
        close_passed(s, passed);
    }
    return s->passed != NULL && s->passed->place - s->read < size ? (size_t)(s->passed->place - s->read)
                                                                  : size;
}

int memory_socket_receive(struct memory_socket *s, char *data, size_t size, int *fds, unsigned max,
                          unsigned *count)
{
    unsigned none = 0;
    if (s->size > 0) {
        size = take_passed(s, size < s->size ? size : s->size, fds, max, count != NULL ? count : &none);
        memcpy(data, s->arrived + s->begin, size);
        s->begin += size;
        s->size -= size;
        s->read += size;
        return (int)size;
    }
    if (s->eof)
        return 0;
    if (s->error < 0)
        return error_once(s);
    return s->broken ? 0 : -EAGAIN;
}

int memory_socket_take_passed(struct memory_socket *s)
{
    struct passed *passed = s->passed;
    if (passed == NULL)
        return -1;
    int fd = passed->fds[0];
    passed->count--;
    memmove(passed->fds, passed->fds + 1, passed->count * sizeof *passed->fds);
    if (passed->count == 0)
        close_passed(s, passed);
    return fd;
}

/* ---- ending --------------------------------------------------------------------------------------------- */

void memory_socket_half_close(struct memory_socket *s)
{
    if (s->write_shut || s->broken)
        return;
    s->write_shut = true;
    if (s->other != NULL)
        s->other->eof = true;
}

void memory_socket_break(struct memory_socket *s, int error, bool unread_too)
{
    if (s->broken)
        return;
    s->broken = true;
    s->error = s->eof ? -EPIPE : error;
    if (unread_too && !s->eof) /* behind an EOF nothing was on its way */
        memory_socket_drop_unread(s);
}

/* A listener's queue is reset with it. */
static void close_queue(struct memory_sockets *sockets, struct memory_socket *s)
{
    while (s->queue != NULL) {
        struct memory_socket *queued = s->queue;
        s->queue = queued->next;
        queued->resets = true;
        memory_socket_close(sockets, queued, false);
    }
}

void memory_socket_close(struct memory_sockets *sockets, struct memory_socket *s, bool unread_too)
{
    close_queue(sockets, s);
    if (s->other != NULL) {
        if (!s->broken && (s->resets || s->size > 0))
            memory_socket_break(s->other, -ECONNRESET, unread_too);
        else if (!s->broken)
            memory_socket_half_close(s);
        s->other->other = NULL;
    }
    free_socket(sockets, s);
}

/* ---- names ---------------------------------------------------------------------------------------------- */

/* Addresses for documentation (RFC 5737), with a port of its own for each. */
void memory_socket_name(const struct memory_socket *s, bool of_other, struct sockaddr_storage *name,
                        socklen_t *size)
{
    *name = (struct sockaddr_storage){ .ss_family = (sa_family_t)s->family };
    *size = sizeof name->ss_family;
    if (s->family != AF_INET)
        return;
    struct sockaddr_in *address = (struct sockaddr_in *)name;
    address->sin_addr.s_addr = htonl(0xc0000201); /* 192.0.2.1 */
    address->sin_port = htons(of_other ? s->other_port : s->port);
    *size = sizeof *address;
}
