/* An operation: something the engine was asked to do, and has not finished.
 *
 * It is embedded in the object that issued it, and its address is all that the kernel gets (user_data). Law: the
 * object is freed only when each of its operations is out of the kernel (in_kernel == false), so a completion
 * can never be stale. Every x_arm that issues one has its x_done beside it. */
#ifndef RONDO_CORE_OP_H
#define RONDO_CORE_OP_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include <rondo/bytes.h>
#include <rondo/loop.h>

struct op;

/* What became of an operation. */
struct completion {
    int result;        /* 0 or more, as the system call of that name returns; or a negative errno */
    bool more;         /* a multishot operation goes on: other completions follow */
    bool more_to_read; /* a hint: the socket had more bytes (IORING_CQE_F_SOCK_NONEMPTY) */
    rondo_bytes data;  /* receive only: `result` bytes in a buffer of the shard, lent until done() returns */
};

struct op {
    void (*done)(struct op *op, const struct completion *completion);
    bool in_kernel; /* exactly: issued, and its last completion not yet handed to done() */

    /* The engine's own. */
    bool cancelling;
    bool more_to_read; /* said its last completion, or who issues it: try before you poll */
    uint8_t kind;
    int fd;
    struct rondo_link waiting; /* in the line of those that wait for a buffer */
};

#endif
