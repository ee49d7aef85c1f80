/* Where there is no assembly for the CPU. See core/switch.h. */
#include "core/switch.h"

#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

void switch_stacks(void **place)
{
    ucontext_t here, *there = *place;
    *place = &here;
    swapcontext(&here, there);
}

/* makecontext passes ints; a pointer is two. */
struct start {
    ucontext_t context;
    void (*begin)(void *argument);
    void *argument;
};

static void begin_here(unsigned high, unsigned low)
{
    struct start *start = (struct start *)(((uintptr_t)high << 16 << 16) | low);
    start->begin(start->argument);
    __builtin_trap();
}

void *switch_prepare(void *top, void (*begin)(void *argument), void *argument)
{
    struct start *start =
        (struct start *)(((uintptr_t)top & ~(uintptr_t)63) - ((sizeof *start + 63) & ~(size_t)63));
    uintptr_t address = (uintptr_t)start;
    getcontext(&start->context);
    start->begin = begin;
    start->argument = argument;
    /* Only its end matters: what lies below is checked by whoever made the stack. */
    start->context.uc_stack.ss_sp = (char *)start - 4096;
    start->context.uc_stack.ss_size = 4096;
    start->context.uc_link = NULL;
    makecontext(&start->context, (void (*)(void))begin_here, 2, (unsigned)(address >> 16 >> 16),
                (unsigned)address);
    return &start->context;
}
