#include "core/stack.h"

#include <errno.h>
#include <sys/mman.h>

#include "core/kernel.h"
#include "core/sanitizers.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#endif

/* Lies at its top, where pages are in use anyway. */
struct spare_stack {
    struct spare_stack *next;
};

static struct spare_stack *spare_of(const struct stack *stack)
{
    return (struct spare_stack *)(stack->low + stack->size_bytes) - 1;
}

static size_t class_bytes(unsigned size_class)
{
    return (size_t)STACK_MIN_BYTES << size_class;
}

/* STACK_SIZE_CLASSES: there is none so large. */
static unsigned class_of(size_t size_bytes)
{
    unsigned size_class = 0;
    while (size_class < STACK_SIZE_CLASSES && class_bytes(size_class) < size_bytes)
        size_class++;
    return size_class;
}

/* A mapping of its own for each guard would make two of each stack, and a process may have 65530. */
static int guard(const struct stacks *stacks, char *mapping)
{
    if (stacks->has_guard_pages && madvise(mapping, STACK_GUARD_BYTES, MADV_GUARD_INSTALL) == 0)
        return 0;
    return mprotect(mapping, STACK_GUARD_BYTES, PROT_NONE);
}

/* MAP_STACK: on Linux since 6.7 no huge page, which would be the memory of 16 stacks at the first touch of one. Before,
 * guards split mappings, so that none is large enough for one. */
static int map(const struct stacks *stacks, size_t size_bytes, struct stack *stack)
{
    char *mapping = mmap(NULL, STACK_GUARD_BYTES + size_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED)
        return -ENOMEM;
    if (guard(stacks, mapping) < 0) {
        munmap(mapping, STACK_GUARD_BYTES + size_bytes);
        return -ENOMEM;
    }
    *stack = (struct stack){ mapping + STACK_GUARD_BYTES, size_bytes };
    return 0;
}

static void unmap(const struct stack *stack)
{
    munmap(stack->low - STACK_GUARD_BYTES, STACK_GUARD_BYTES + stack->size_bytes);
}

void stacks_init(struct stacks *stacks)
{
    *stacks = (struct stacks){ .has_guard_pages = kernel_has(KERNEL_GUARD_PAGES) };
}

int stack_take(struct stacks *stacks, size_t size_bytes, struct stack *stack)
{
    unsigned size_class = class_of(size_bytes);
    if (size_class == STACK_SIZE_CLASSES)
        return -EINVAL;
    struct spare_stack *spare = stacks->spare[size_class];
    if (spare == NULL)
        return map(stacks, class_bytes(size_class), stack);
    stacks->spare[size_class] = spare->next;
    stacks->spare_count--;
    *stack = (struct stack){ (char *)(spare + 1) - class_bytes(size_class), class_bytes(size_class) };
    return 0;
}

void stack_put(struct stacks *stacks, const struct stack *stack)
{
    /* Frames that were left for good have not cleared the shadow of what lay between their variables. */
    unpoison(stack->low, stack->size_bytes);
    if (stacks->spare_count == STACK_SPARE_MAX) {
        unmap(stack);
        return;
    }
    unsigned size_class = class_of(stack->size_bytes);
    struct spare_stack *spare = spare_of(stack);
    spare->next = stacks->spare[size_class];
    stacks->spare[size_class] = spare;
    stacks->spare_count++;
}

void stacks_close(struct stacks *stacks)
{
    for (unsigned size_class = 0; size_class < STACK_SIZE_CLASSES; size_class++) {
        struct stack stack;
        while (stacks->spare[size_class] != NULL) {
            stack_take(stacks, class_bytes(size_class), &stack);
            unmap(&stack);
        }
    }
}
