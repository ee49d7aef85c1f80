#include "net/byte_queue.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "core/memory.h"

/* Copies share segments of this size, headers included, so small writes of one turn become one slice. */
#define COPY_SEGMENT_BYTES 2048

/* Where a copy goes into room that is there already, it is cheaper than one slice more in the send. */
#define LENT_TOO_SMALL_BYTES 256

/* So many connections can write lent bytes in one turn without a call of the allocator; 32 KiB. More go back to the allocator. */
#define SPARE_SEGMENTS_MAX 1024

/* ---- segments ------------------------------------------------------------------------------------------- */

void segments_init(struct segments *segments, struct buffers *buffers)
{
    *segments = (struct segments){ .buffers = buffers };
}

void segments_close(struct segments *segments)
{
    for (struct segment *spare; (spare = segments->spare) != NULL;) {
        segments->spare = spare->next;
        memory_free(spare);
    }
    segments->spare_count = 0;
}

static struct segment *new_reference(struct segments *segments, enum segment_kind kind, rondo_bytes bytes)
{
    struct segment *segment = segments->spare;
    if (segment != NULL) {
        segments->spare = segment->next;
        segments->spare_count--;
    } else {
        segment = memory_alloc(sizeof *segment);
    }
    if (segment != NULL)
        *segment = (struct segment){ .bytes = bytes, .kind = kind };
    return segment;
}

static void free_reference(struct segments *segments, struct segment *segment)
{
    if (segments->spare_count == SPARE_SEGMENTS_MAX) {
        memory_free(segment);
        return;
    }
    segment->next = segments->spare;
    segments->spare = segment;
    segments->spare_count++;
}

/* capacity_min: for what may be put in later. */
static struct segment *new_copy(rondo_bytes bytes, size_t capacity_min)
{
    size_t capacity = bytes.size > capacity_min ? bytes.size : capacity_min;
    if (capacity > SIZE_MAX - sizeof(struct segment))
        return NULL;
    struct segment *segment = memory_alloc(sizeof *segment + capacity);
    if (segment == NULL)
        return NULL;
    char *data = memcpy(segment + 1, bytes.data, bytes.size);
    *segment = (struct segment){
        .bytes = { data, bytes.size },
        .kind = SEGMENT_COPY,
        .room = (unsigned)(capacity - bytes.size),
    };
    return segment;
}

static void free_segment(struct byte_queue *queue, struct segments *segments, struct segment *segment)
{
    if (segment->kind == SEGMENT_LENT) {
        queue->lent--;
        buffers_unref(segments->buffers, segment->bytes.data);
    }
    if (segment->kind == SEGMENT_COPY)
        memory_free(segment);
    else
        free_reference(segments, segment);
}

/* ---- the queue ------------------------------------------------------------------------------------------ */

static void link_first(struct byte_queue *queue, struct segment *segment)
{
    if (queue->last == NULL)
        queue->last = segment;
    else
        segment->next = queue->last->next;
    queue->last->next = segment;
    queue->size += segment->bytes.size;
}

static void link_last(struct byte_queue *queue, struct segment *segment)
{
    link_first(queue, segment);
    queue->last = segment;
}

static bool fits_last_copy(const struct byte_queue *queue, size_t size)
{
    return queue->last != NULL && queue->last->kind == SEGMENT_COPY && size <= queue->last->room;
}

bool byte_queue_put_copy(struct byte_queue *queue, rondo_bytes bytes)
{
    if (bytes.size == 0)
        return true;
    if (fits_last_copy(queue, bytes.size)) {
        struct segment *last = queue->last;
        memcpy((char *)last->bytes.data + last->bytes.size, bytes.data, bytes.size);
        last->bytes.size += bytes.size;
        last->room -= (unsigned)bytes.size;
        queue->size += bytes.size;
        return true;
    }
    struct segment *segment = new_copy(bytes, COPY_SEGMENT_BYTES - sizeof *segment);
    if (segment == NULL)
        return false;
    link_last(queue, segment);
    return true;
}

bool byte_queue_put_front(struct byte_queue *queue, rondo_bytes bytes)
{
    if (bytes.size == 0)
        return true;
    struct segment *segment = new_copy(bytes, 0);
    if (segment == NULL)
        return false;
    link_first(queue, segment);
    return true;
}

bool byte_queue_put_static(struct byte_queue *queue, struct segments *segments, rondo_bytes bytes)
{
    if (bytes.size == 0)
        return true;
    struct segment *segment = new_reference(segments, SEGMENT_STATIC, bytes);
    if (segment == NULL)
        return false;
    link_last(queue, segment);
    return true;
}

bool byte_queue_put_lent(struct byte_queue *queue, struct segments *segments, rondo_bytes bytes)
{
    if (bytes.size == 0)
        return true;
    if (byte_queue_go_on(queue, bytes))
        return true;
    if (bytes.size <= LENT_TOO_SMALL_BYTES && fits_last_copy(queue, bytes.size))
        return byte_queue_put_copy(queue, bytes);
    struct segment *segment = new_reference(segments, SEGMENT_LENT, bytes);
    if (segment == NULL)
        return false;
    buffers_ref(segments->buffers, bytes.data);
    queue->lent++;
    link_last(queue, segment);
    return true;
}

size_t byte_queue_lent_bytes(const struct byte_queue *queue)
{
    size_t size = 0;
    unsigned left = queue->lent;
    for (const struct segment *s = queue->last; left > 0;) {
        s = s->next;
        if (s->kind == SEGMENT_LENT) {
            size += s->bytes.size;
            left--;
        }
    }
    return size;
}

rondo_bytes byte_queue_front(const struct byte_queue *queue)
{
    return queue->last == NULL ? (rondo_bytes){ 0 } : queue->last->next->bytes;
}

unsigned byte_queue_slices(const struct byte_queue *queue, struct iovec *slices, unsigned max, size_t *size)
{
    unsigned count = 0;
    *size = 0;
    for (const struct segment *s = queue->last; s != NULL && count < max;) {
        s = s->next;
        slices[count++] = (struct iovec){ .iov_base = (char *)s->bytes.data, .iov_len = s->bytes.size };
        *size += s->bytes.size;
        if (s == queue->last)
            break;
    }
    return count;
}

void byte_queue_consume(struct byte_queue *queue, struct segments *segments, size_t size)
{
    assert(size <= queue->size);
    queue->size -= size;
    while (size > 0) {
        struct segment *first = queue->last->next;
        if (size < first->bytes.size) {
            first->bytes.data += size;
            first->bytes.size -= size;
            return;
        }
        size -= first->bytes.size;
        if (first == queue->last)
            queue->last = NULL;
        else
            queue->last->next = first->next;
        free_segment(queue, segments, first);
    }
}

bool byte_queue_copy_lent(struct byte_queue *queue, struct segments *segments)
{
    struct segment *before = queue->last;
    while (queue->lent > 0) {
        struct segment *segment = before->next;
        if (segment->kind == SEGMENT_LENT) {
            struct segment *copy = new_copy(segment->bytes, 0);
            if (copy == NULL)
                return false;
            bool is_last = segment == queue->last, is_alone = segment == before;
            copy->next = is_alone ? copy : segment->next;
            if (!is_alone)
                before->next = copy;
            if (is_last)
                queue->last = copy;
            free_segment(queue, segments, segment);
            segment = copy;
        }
        before = segment;
    }
    return true;
}

void byte_queue_clear(struct byte_queue *queue, struct segments *segments)
{
    byte_queue_consume(queue, segments, queue->size);
    assert(queue->lent == 0 && byte_queue_is_empty(queue));
}
