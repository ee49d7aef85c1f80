/* A file as a part of the output: file_settle -> read_arm … read_done -> chunk_arm … chunk_done -> file_settle …
 *
 * A chunk is read, then sent, by the transport's one send operation, so it has its place in the order. Splicing the file
 * to the socket costs more CPU than this copy: 1.2 to 4 times as much, measured in perf/README.md. */
#include <errno.h>
#include <sys/stat.h>

#include "core/memory.h"
#include "net/items.h"

#define CHUNK_BYTES (256 * 1024)

static void read_done(struct op *op, const struct completion *completion);
static void chunk_done(struct op *op, const struct completion *completion);

static uint64_t smaller(uint64_t one, uint64_t other)
{
    return one < other ? one : other;
}

/* *size: what there is of it now. */
static int check_file(int fd, uint64_t *size)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return -errno;
    *size = (uint64_t)status.st_size;
    return S_ISREG(status.st_mode) ? 0 : -EINVAL;
}

/* A descriptor waits for a byte to leave with: the file's are not it. */
static bool descriptor_waits_for_a_byte(const rondo_transport *t)
{
    const struct item *last = t->items;
    size_t behind = t->output.size;
    for (; last != NULL; last = last->next) {
        behind -= last->bytes_before;
        if (last->next == NULL)
            break;
    }
    return last != NULL && last->kind == ITEM_DESCRIPTOR && behind == 0;
}

int rondo_sendfile(rondo_transport *t, int fd, uint64_t offset, uint64_t count,
                   void (*sent)(rondo_transport *t, int64_t nbytes))
{
    assert(loop_is_here(t->loop));
    if (!transport_is_writable(t))
        return -ENOTSUP;
    if (!send_is_allowed(t))
        return -EPIPE;
    if (count == 0 || offset > INT64_MAX || descriptor_waits_for_a_byte(t))
        return -EINVAL;
    struct item *file;
    uint64_t size = 0;
    int rc = check_file(fd, &size);
    if (rc == 0)
        rc = items_put(t, ITEM_FILE, fd, &file);
    if (rc < 0)
        return rc;
    file->offset = offset;
    file->left = count < INT64_MAX ? count : INT64_MAX;
    file->sent = sent;
    file->chunk_room = (size_t)smaller(CHUNK_BYTES, smaller(count, size > offset ? size - offset : 1));
    transport_mark(t);
    return 0;
}

/* error: 0, or why reading failed. */
static void file_ended(rondo_transport *t, int error)
{
    void (*sent)(rondo_transport * t, int64_t nbytes) = t->items->sent;
    int64_t result = error < 0 ? error : t->items->sent_bytes;
    items_pop(t);
    transport_mark(t);
    if (sent != NULL) {
        sent(t, result);
    } else if (error < 0) {
        t->reset = true; /* else the peer would not know that bytes are missing */
        transport_fail(t, error);
    }
}

static void read_arm(rondo_transport *t, struct item *file)
{
    if (file->chunk == NULL)
        file->chunk = memory_alloc(file->chunk_room);
    if (file->chunk == NULL) {
        rondo_log(RONDO_LOG_ERROR, "%s: no memory to send a file: connection ended", transport_name(t));
        transport_fail(t, -ENOMEM);
        return;
    }
    rondo_buffer memory = { file->chunk, (size_t)smaller(file->left, file->chunk_room) };
    t->send.done = read_done;
    engine_read_file(t->loop->engine, &t->send, file->fd, file->offset, memory);
}

static void read_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = rondo_container_of(op, rondo_transport, send);
    struct item *file = t->items;
    int result = completion->result;
    transport_mark(t);
    if (transport_is_ending(t))
        return;
    if (result > 0) {
        file->chunk_bytes = (size_t)result;
        file->chunk_sent = 0;
        file->offset += (size_t)result;
        file->left -= (size_t)result;
    } else if (result == 0) {
        file->left = 0; /* the file ends here */
    } else if (result != -EAGAIN && result != -EINTR) {
        file_ended(t, result);
    }
}

static void chunk_arm(rondo_transport *t, const struct item *file)
{
    struct iovec rest = { file->chunk + file->chunk_sent, file->chunk_bytes - file->chunk_sent };
    t->send.done = chunk_done;
    send_issue(t, &rest, 1, t->send_waits ? SEND_WAITS : SEND_NOW);
}

static void chunk_done(struct op *op, const struct completion *completion)
{
    rondo_transport *t = rondo_container_of(op, rondo_transport, send);
    struct item *file = t->items;
    size_t sent = send_ended(t, completion->result);
    file->chunk_sent += sent;
    file->sent_bytes += (int64_t)sent;
    send_ended_in_part(t, file->chunk_sent < file->chunk_bytes);
}

void file_settle(rondo_transport *t, struct item *file)
{
    if (file->chunk_sent < file->chunk_bytes)
        chunk_arm(t, file);
    else if (file->left > 0)
        read_arm(t, file);
    else
        file_ended(t, 0);
}
