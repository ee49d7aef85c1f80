/* An operation: something the engine was asked to do, and has not finished.
 *
 * It is embedded in the object that issued it, and its address is all that the kernel gets (user_data). Law: the
 * object is freed only when each of its operations is out of the kernel (in_kernel == false), so a completion
 * can never be stale. Every x_arm that issues one has its x_done beside it. */
#ifndef RONDO_CORE_OP_H
#define RONDO_CORE_OP_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/address.h>
#include <rondo/bytes.h>

struct op;

/* What comes beside the bytes of a datagram. */
struct datagram_origin {
    rondo_address address;
    bool is_truncated; /* it was longer than a buffer: this is its beginning */
};

/* What became of an operation. */
struct completion {
    int result;        /* 0 or more, as the system call of that name returns; or a negative errno */
    bool more;         /* a multishot operation goes on: other completions follow */
    bool more_to_read; /* a hint: the socket had more bytes (IORING_CQE_F_SOCK_NONEMPTY) */
    rondo_bytes data;  /* receive only: `result` bytes in a buffer of the shard, lent until done() returns */
    const struct datagram_origin
        *origin; /* of a datagram, which may have 0 bytes; its name lies in the same buffer */
};

struct op {
    void (*done)(struct op *op, const struct completion *completion);
    bool in_kernel; /* exactly: issued, and its last completion not yet handed to done() */

    bool more_to_read; /* said its last completion, or who issues it: try before you poll */

    /* The engine's own. */
    bool cancelling : 1;
    bool quiet : 1; /* a success tells nobody: see engine_send */
    bool in_line : 1;
    uint8_t kind;
    union {
        int fd;
        int result; /* it has ended, and that is not told yet */
    };
    struct op *next; /* in a line of receives that wait for a buffer */
};

/* First come, first served. */
struct op_line {
    struct op *first, *last;
};

static inline void op_line_push(struct op_line *line, struct op *op)
{
    assert(!op->in_line);
    op->in_line = true;
    op->next = NULL;
    if (line->first == NULL)
        line->first = op;
    else
        line->last->next = op;
    line->last = op;
}

static inline struct op *op_line_pop(struct op_line *line)
{
    struct op *op = line->first;
    if (op != NULL) {
        line->first = op->next;
        op->in_line = false;
    }
    return op;
}

/* Put those of another line before all others. */
static inline void op_line_put_before(struct op_line *line, struct op_line *first)
{
    if (first->first == NULL)
        return;
    if (line->first == NULL)
        line->last = first->last;
    first->last->next = line->first;
    line->first = first->first;
}

/* Move those that are being cancelled from one line to another. */
static inline void op_line_take_cancelled(struct op_line *line, struct op_line *cancelled)
{
    struct op_line all = *line;
    *line = (struct op_line){ 0 };
    for (struct op *op; (op = op_line_pop(&all)) != NULL;)
        op_line_push(op->cancelling ? cancelled : line, op);
}

#endif
