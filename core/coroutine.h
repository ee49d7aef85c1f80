/* Coroutines: functions with a stack of their own, which stop in the middle, and go on there later.
 *
 *   coroutine_new ---------------> [ coroutine_resume -> runs -> coroutine_suspend ]* -> run returns -> coroutine_free
 *
 * They stand alone: this file, core/stack and core/switch need nothing of rondo's but to know whether the kernel has guard pages. Who
 * resumes one goes on when it suspends, or returns; a coroutine may resume another one. Nothing is a system call but
 * the making of new stacks.
 *
 * A coroutine lies at the top of its own stack, with what its user wants to keep beside it, so one that waits weighs the
 * pages that it has touched: usually one.
 *
 * Thread: the one that made it, for all calls. */
#ifndef RONDO_CORE_COROUTINE_H
#define RONDO_CORE_COROUTINE_H

#include <stdbool.h>
#include <stddef.h>

#include "core/sanitizers.h"
#include "core/stack.h"

struct coroutine {
    void *place;               /* where it goes on; while it runs, where who resumed it does */
    struct coroutine *resumer; /* the coroutine that resumed it; NULL: no coroutine */
    bool is_over;              /* run has returned */
    void (*run)(struct coroutine *coroutine);
    const char *name; /* for the line about an overflow */
    struct stack stack;

#ifdef WITH_ASAN
    void *fake_stack;
    struct stack resumers;
#endif
#ifdef WITH_TSAN
    void *fiber, *resumers_fiber;
#endif
};

/* Make one, to begin with the first coroutine_resume.
 *
 *   stacks        of this thread
 *   stack_bytes   0: 64 KiB
 *   size          bytes of the struct that the coroutine is the first member of; zeroed, but for it
 *   run           what it does
 *
 * Returns 0 or as stack_take. */
int coroutine_new(struct coroutine **coroutine, struct stacks *stacks, size_t stack_bytes, size_t size,
                  void (*run)(struct coroutine *coroutine));

/* Its stack goes back, whether it is over or not: it never runs again, and what its functions wanted to do is not done.
 * It may not be running (asserted). */
void coroutine_free(struct coroutine *coroutine, struct stacks *stacks);

/* Let it run until it suspends itself, or is over. */
void coroutine_resume(struct coroutine *coroutine);

/* Back to who resumed it; returns with the next coroutine_resume. It must be the one that runs (asserted). */
void coroutine_suspend(struct coroutine *coroutine);

/* The one that runs on this thread; NULL: none. */
struct coroutine *coroutine_running(void);

/* From now on, in this process, an overflow of a coroutine's stack is said on stderr before SIGSEGV ends the process as
 * it would have anyway. Not where somebody else handles SIGSEGV: a program, or a sanitizer. */
void coroutine_watch_overflows(void);

/* For that handler each thread needs a stack that isn't the one that has overflowed. Returns 0 or -ENOMEM; undone by
 * _end. */
int coroutine_begin_thread(void);
void coroutine_end_thread(void);

#endif
