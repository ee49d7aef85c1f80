#include "ring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    SQ_ENTRIES = 1024,
    CQ_ENTRIES = 16384,
    BUFFERS_MAX = 4096,
    BUFFERS_MIN = 16,
    BUFFER_SIZE_MIN = 1024,
    BUFFER_SIZE_MAX = 65536,
    MEMORY_MAX = 16 << 20,
};

static size_t power_of_two_above(size_t value, size_t minimum, size_t maximum)
{
    size_t power = minimum;
    while (power < value && power < maximum)
        power *= 2;
    return power;
}

static int fail(const char *what, int error)
{
    fprintf(stderr, "error: %s: %s\n", what, strerror(error));
    return -1;
}

static void *map(size_t size)
{
    void *mapping = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mapping == MAP_FAILED ? NULL : mapping;
}

/* Enough that a burst of answers rarely finds none left, small enough to stay in the cache. */
static void size_buffers(struct ring *ring, unsigned connections, size_t in_flight)
{
    ring->buffer_size = power_of_two_above(in_flight, BUFFER_SIZE_MIN, BUFFER_SIZE_MAX);
    ring->buffer_count = power_of_two_above((size_t)connections * 2, BUFFERS_MIN, BUFFERS_MAX);
    while (ring->buffer_count * ring->buffer_size > MEMORY_MAX)
        ring->buffer_count /= 2;
}

static void provide(struct ring *ring, unsigned id)
{
    io_uring_buf_ring_add(ring->buffers, ring->memory + id * ring->buffer_size, ring->buffer_size, id,
                          io_uring_buf_ring_mask(ring->buffer_count), 0);
    io_uring_buf_ring_advance(ring->buffers, 1);
}

static int provide_all(struct ring *ring)
{
    ring->buffers = map(ring->buffer_count * sizeof(struct io_uring_buf));
    ring->memory = map(ring->buffer_count * ring->buffer_size);
    if (!ring->buffers || !ring->memory)
        return -errno;
    struct io_uring_buf_reg registration = {
        .ring_addr = (uintptr_t)ring->buffers,
        .ring_entries = ring->buffer_count,
        .bgid = RING_BUFFER_GROUP,
    };
    int error = io_uring_register_buf_ring(&ring->uring, &registration, 0);
    if (error)
        return error;
    for (unsigned id = 0; id < ring->buffer_count; id++)
        provide(ring, id);
    return 0;
}

int ring_init(struct ring *ring, unsigned connections, size_t in_flight)
{
    struct io_uring_params params = { .cq_entries = CQ_ENTRIES };
    params.flags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
                   IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    *ring = (struct ring){ 0 };
    int error = -io_uring_queue_init_params(SQ_ENTRIES, &ring->uring, &params);
    if (error)
        return fail("io_uring_setup (Linux 6.1 or later is needed, and io_uring allowed)", error);
    int registered = io_uring_register_ring_fd(&ring->uring);
    if (registered < 0)
        return fail("register the ring's descriptor", -registered);
    size_buffers(ring, connections, in_flight);
    error = -provide_all(ring);
    return error ? fail("receive buffers", error) : 0;
}

void ring_fini(struct ring *ring)
{
    io_uring_queue_exit(&ring->uring);
    munmap(ring->memory, ring->buffer_count * ring->buffer_size);
    munmap(ring->buffers, ring->buffer_count * sizeof(struct io_uring_buf));
}

struct io_uring_sqe *ring_request(struct ring *ring, uint64_t user_data)
{
    struct io_uring_sqe *sqe;
    while (!(sqe = io_uring_get_sqe(&ring->uring))) {
        int submitted = io_uring_submit(&ring->uring);
        if (submitted < 0 && submitted != -EINTR) {
            fail("submit", -submitted); /* the ring is unusable, and nothing can be measured any more */
            exit(1);
        }
    }
    sqe->user_data = user_data;
    return sqe;
}

int ring_enter(struct ring *ring, uint64_t timeout_ns)
{
    struct __kernel_timespec timeout = { .tv_sec = timeout_ns / 1000000000,
                                         .tv_nsec = timeout_ns % 1000000000 };
    struct io_uring_cqe *cqe;
    int result = timeout_ns > 0 ? io_uring_submit_and_wait_timeout(&ring->uring, &cqe, 1, &timeout, NULL)
                                : io_uring_submit_and_get_events(&ring->uring);
    return result >= 0 || result == -ETIME || result == -EINTR ? 0 : result;
}

const char *ring_received(const struct ring *ring, const struct io_uring_cqe *cqe)
{
    return ring->memory + (cqe->flags >> IORING_CQE_BUFFER_SHIFT) * ring->buffer_size;
}

void ring_give_back(struct ring *ring, const struct io_uring_cqe *cqe)
{
    provide(ring, cqe->flags >> IORING_CQE_BUFFER_SHIFT);
}
