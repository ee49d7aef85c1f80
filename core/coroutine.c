#include "core/coroutine.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/switch.h"

#ifdef WITH_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef WITH_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define STACK_BYTES  (64 * 1024)
#define COLOURS      16
#define COLOUR_BYTES 64
#define SIGNAL_BYTES (64 * 1024)

static _Thread_local struct coroutine *running;

struct coroutine *coroutine_running(void)
{
    return running;
}

/* ---- what the sanitizers want to know -------------------------------------------------------------------- */

#ifdef WITH_ASAN

/* fake_stack: where that of this coroutine is kept. NULL: it goes, since the coroutine is over. */
static void leave_for(const struct stack *stack, void **fake_stack)
{
    __sanitizer_start_switch_fiber(fake_stack, stack->low, stack->size_bytes);
}

static void arrive(void *fake_stack)
{
    __sanitizer_finish_switch_fiber(fake_stack, NULL, NULL);
}

static void arrive_from_resumer(struct coroutine *c, void *fake_stack)
{
    const void *low;
    __sanitizer_finish_switch_fiber(fake_stack, &low, &c->resumers.size_bytes);
    c->resumers.low = (char *)low;
}

#define FAKE_STACK(c)       (&(c)->fake_stack)
#define STACK_OF_RESUMER(c) (&(c)->resumers)

#else

#define leave_for(stack, fake_stack)       ((void)(fake_stack))
#define arrive(fake_stack)                 ((void)0)
#define arrive_from_resumer(c, fake_stack) ((void)0)
#define FAKE_STACK(c)                      NULL

#endif

static inline void fiber_new(struct coroutine *c)
{
    (void)c;
#ifdef WITH_TSAN
    c->fiber = __tsan_create_fiber(0);
#endif
}

static inline void fiber_free(struct coroutine *c)
{
    (void)c;
#ifdef WITH_TSAN
    __tsan_destroy_fiber(c->fiber);
#endif
}

static inline void fiber_resume(struct coroutine *c)
{
    (void)c;
#ifdef WITH_TSAN
    c->resumers_fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(c->fiber, 0);
#endif
}

static inline void fiber_suspend(struct coroutine *c)
{
    (void)c;
#ifdef WITH_TSAN
    __tsan_switch_to_fiber(c->resumers_fiber, 0);
#endif
}

/* ---- switching ------------------------------------------------------------------------------------------- */

static void leave_for_resumer(struct coroutine *c, void **fake_stack)
{
    running = c->resumer;
    leave_for(STACK_OF_RESUMER(c), fake_stack);
    fiber_suspend(c);
    switch_stacks(&c->place);
}

void coroutine_suspend(struct coroutine *c)
{
    assert(running == c);
    leave_for_resumer(c, FAKE_STACK(c));
    arrive_from_resumer(c, c->fake_stack);
}

void coroutine_resume(struct coroutine *c)
{
    void *fake_stack;
    assert(!c->is_over && running != c);
    c->resumer = running;
    running = c;
    leave_for(&c->stack, &fake_stack);
    fiber_resume(c);
    switch_stacks(&c->place);
    arrive(fake_stack);
}

static void begin(void *argument)
{
    struct coroutine *c = argument;
    arrive_from_resumer(c, NULL);
    c->run(c);
    c->is_over = true;
    leave_for_resumer(c, NULL);
}

/* ---- making and freeing ---------------------------------------------------------------------------------- */

/* Stacks begin at the same place of a page each, and so the frames of many coroutines would meet in the same few sets
 * of the cache: with 1,000 in turn, 35 ns a switch instead of 9. */
static char *top_of(const struct stack *stack)
{
    uintptr_t top = (uintptr_t)stack->low + stack->size_bytes;
    unsigned colour = (unsigned)(top / (stack->size_bytes + STACK_GUARD_BYTES)) % COLOURS;
    return (char *)top - COLOUR_BYTES - (size_t)colour * COLOUR_BYTES;
}

int coroutine_new(struct coroutine **coroutine, struct stacks *stacks, size_t stack_bytes, size_t size,
                  void (*run)(struct coroutine *coroutine))
{
    struct stack stack;
    int rc = stack_take(stacks, stack_bytes > 0 ? stack_bytes : STACK_BYTES, &stack);
    if (rc < 0)
        return rc;
    struct coroutine *c = (struct coroutine *)(((uintptr_t)top_of(&stack) - size) & ~(uintptr_t)63);
    memset(c, 0, size);
    c->stack = stack;
    c->run = run;
    c->place = switch_prepare(c, begin, c);
    fiber_new(c);
    *coroutine = c;
    return 0;
}

void coroutine_free(struct coroutine *c, struct stacks *stacks)
{
    struct stack stack = c->stack;
    assert(running != c);
    fiber_free(c);
    stack_put(stacks, &stack);
}

/* ---- overflows ------------------------------------------------------------------------------------------- */

static struct iovec slice_of(const char *text)
{
    return (struct iovec){ (char *)text, strlen(text) };
}

static void say_overflow(const struct coroutine *c)
{
    const struct iovec line[] = {
        slice_of("error: "),
        slice_of(c->name != NULL ? c->name : "a coroutine"),
        slice_of(": its stack has overflowed: give it more (stack_size), or keep large arrays elsewhere\n"),
    };
    ssize_t written = writev(STDERR_FILENO, line, 3);
    (void)written; /* there is nobody else to tell */
}

/* Afterwards what would have happened without us happens. */
static void faulted(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    if (running != NULL && info->si_code > 0 && stack_overflows_at(&running->stack, info->si_addr))
        say_overflow(running);
    signal(signal_number, SIG_DFL);
    if (info->si_code <= 0)
        raise(signal_number); /* it was sent; a fault comes again by itself */
}

static void watch(void)
{
    struct sigaction action = { .sa_sigaction = faulted, .sa_flags = SA_SIGINFO | SA_ONSTACK }, before;
    if (sigaction(SIGSEGV, NULL, &before) == 0 && !(before.sa_flags & SA_SIGINFO) &&
        before.sa_handler == SIG_DFL)
        sigaction(SIGSEGV, &action, NULL);
}

void coroutine_watch_overflows(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch);
}

static _Thread_local void *signal_stack;

int coroutine_begin_thread(void)
{
    stack_t before;
    if (signal_stack != NULL || (sigaltstack(NULL, &before) == 0 && !(before.ss_flags & SS_DISABLE)))
        return 0; /* somebody has thought of it */
    void *memory = mmap(NULL, SIGNAL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -ENOMEM;
    stack_t stack = { .ss_sp = memory, .ss_size = SIGNAL_BYTES };
    signal_stack = memory;
    sigaltstack(&stack, NULL);
    return 0;
}

void coroutine_end_thread(void)
{
    if (signal_stack == NULL)
        return;
    sigaltstack(&(stack_t){ .ss_flags = SS_DISABLE }, NULL);
    munmap(signal_stack, SIGNAL_BYTES);
    signal_stack = NULL;
}
