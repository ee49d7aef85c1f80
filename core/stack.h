/* Stacks for coroutines: pages, with guard pages below them, and a pool of those that nobody uses now.
 *
 *   mapping                    low                                  top
 *   |  guard, 64 KiB           |  size_bytes                        |
 *   nobody may touch it           grows downwards; pages that were never touched take no memory
 *
 * What overflows runs into the guard, and the process ends by SIGSEGV. A function whose frame is larger than the guard
 * may jump over it, unless it was compiled with -fstack-clash-protection. */
#ifndef RONDO_CORE_STACK_H
#define RONDO_CORE_STACK_H

#include <stdbool.h>
#include <stddef.h>

#define STACK_MIN_BYTES    (16 * 1024)
#define STACK_MAX_BYTES    (1024 * 1024 * 1024)
#define STACK_GUARD_BYTES  (64 * 1024)
#define STACK_SIZE_CLASSES 17 /* powers of two from the least to the most */
#define STACK_SPARE_MAX    256

struct stack {
    char *low;
    size_t size_bytes;
};

struct stacks {
    struct spare_stack *spare[STACK_SIZE_CLASSES]; /* newest first: its pages are in the cache */
    unsigned spare_count;                          /* of all sizes */
    bool has_guard_pages;
};

void stacks_init(struct stacks *stacks);

/* A stack of at least so many bytes. Returns 0; -EINVAL: that is more than STACK_MAX_BYTES; -ENOMEM, also when the
 * process may have no more mappings (vm.max_map_count). */
int stack_take(struct stacks *stacks, size_t size_bytes, struct stack *stack);

/* Nobody uses it any more. */
void stack_put(struct stacks *stacks, const struct stack *stack);

/* Unmap the spare ones. */
void stacks_close(struct stacks *stacks);

/* Is it the guard of this stack? */
static inline bool stack_overflows_at(const struct stack *stack, const void *address)
{
    const char *byte = address;
    return byte < stack->low && byte >= stack->low - STACK_GUARD_BYTES;
}

#endif
