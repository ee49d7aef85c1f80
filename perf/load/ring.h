/* The generator's io_uring: one ring, and the buffers all connections receive into. */
#ifndef LOAD_RING_H
#define LOAD_RING_H

#include <liburing.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RING_BUFFER_GROUP = 0 };

struct ring {
    struct io_uring uring;
    struct io_uring_buf_ring *buffers;
    char *memory;
    unsigned buffer_count; /* a power of two */
    size_t buffer_size;
};

/* For that many connections, with that many bytes in flight on each. Needs Linux 6.1.
 * Prints what fails, and returns 0 or -1. */
int ring_init(struct ring *ring, unsigned connections, size_t in_flight);
void ring_fini(struct ring *ring);

/* A request to fill. Submits the ones before it when the queue is full. */
struct io_uring_sqe *ring_request(struct ring *ring, uint64_t user_data);

/* Submit, and wait up to timeout_ns for a completion; 0 doesn't wait.
 * Returns 0, also when the time is up, or a negative errno. */
int ring_enter(struct ring *ring, uint64_t timeout_ns);

/* The received bytes of a completion with IORING_CQE_F_BUFFER; and their buffer back to the kernel. */
const char *ring_received(const struct ring *ring, const struct io_uring_cqe *cqe);
void ring_give_back(struct ring *ring, const struct io_uring_cqe *cqe);

#endif
