/* Switching between stacks: what must be the same behind a switch as before it, and what an overflow does. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fenv.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/coroutine.h"

TestSuite(coroutine, .timeout = 30);

static struct stacks stacks;

static void setup(void)
{
    stacks_init(&stacks);
}

static void teardown(void)
{
    stacks_close(&stacks);
}

struct counter {
    struct coroutine coroutine;
    unsigned from, to, now;
    bool was_aligned;
};

static void count(struct coroutine *coroutine)
{
    struct counter *self = (struct counter *)coroutine;
    _Alignas(32) char vector[32];
    self->was_aligned = (uintptr_t)vector % 32 == 0;
    for (self->now = self->from; self->now < self->to; self->now++)
        coroutine_suspend(coroutine);
}

static struct counter *counter(unsigned from, unsigned to)
{
    struct coroutine *coroutine;
    cr_assert(zero(int, coroutine_new(&coroutine, &stacks, 0, sizeof(struct counter), count)));
    struct counter *self = (struct counter *)coroutine;
    self->from = from;
    self->to = to;
    return self;
}

Test(coroutine, goes_on_where_it_stopped, .init = setup, .fini = teardown)
{
    struct counter *ones = counter(0, 3), *tens = counter(10, 13);
    for (unsigned i = 0; i < 3; i++) {
        coroutine_resume(&ones->coroutine);
        coroutine_resume(&tens->coroutine);
        cr_assert(eq(uint, ones->now, i));
        cr_assert(eq(uint, tens->now, 10 + i));
        cr_assert(not(ones->coroutine.is_over));
    }
    coroutine_resume(&ones->coroutine);
    cr_assert(ones->coroutine.is_over && ones->was_aligned);
    cr_assert(zero(ptr, coroutine_running()));
    coroutine_free(&ones->coroutine, &stacks);
    coroutine_free(&tens->coroutine, &stacks); /* which is not over */
}

/* More local values than there are registers, whole and of floating point, alive across each switch. */
struct keeper {
    struct coroutine coroutine;
    unsigned seed;
    uint64_t sum;
};

static uint64_t bits_of(double number)
{
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

__attribute__((noinline)) static uint64_t keep(struct coroutine *coroutine, uint64_t seed)
{
    volatile uint64_t source = seed;
    uint64_t a = source + 1, b = source + 2, c = source + 3, d = source + 4, e = source + 5, f = source + 6,
             g = source + 7;
    double u = (double)source + 0.5, v = (double)source + 1.5, w = (double)source + 2.5,
           x = (double)source + 3.5;
    for (int i = 0; i < 100; i++) {
        a += b, b ^= c, c += d, d ^= e, e += f, f ^= g, g += a;
        u += v, v -= w / 3, w += x, x -= u / 7;
        if (coroutine != NULL)
            coroutine_suspend(coroutine);
    }
    return a ^ b ^ c ^ d ^ e ^ f ^ g ^ bits_of(u + v + w + x);
}

static void keep_values(struct coroutine *coroutine)
{
    struct keeper *self = (struct keeper *)coroutine;
    self->sum = keep(coroutine, self->seed);
}

Test(coroutine, keeps_its_registers_and_those_of_its_resumer, .init = setup, .fini = teardown)
{
    enum { KEEPERS = 5 };
    struct coroutine *keepers[KEEPERS];
    for (unsigned i = 0; i < KEEPERS; i++) {
        cr_assert(zero(int, coroutine_new(&keepers[i], &stacks, 0, sizeof(struct keeper), keep_values)));
        ((struct keeper *)keepers[i])->seed = i * 1000;
    }
    volatile uint64_t source = 77;
    uint64_t a = source, b = source * 3, c = source * 5, d = source * 7, e = source * 11, f = source * 13;
    double u = (double)source / 4, v = (double)source / 8;
    for (unsigned turn = 0; turn <= 100; turn++) {
        for (unsigned i = 0; i < KEEPERS; i++)
            coroutine_resume(keepers[i]);
    }
    cr_assert(a == 77 && b == 231 && c == 385 && d == 539 && e == 847 && f == 1001 && u == 19.25 &&
              v == 9.625);
    for (unsigned i = 0; i < KEEPERS; i++) {
        cr_assert(keepers[i]->is_over);
        cr_assert(eq(u64, ((struct keeper *)keepers[i])->sum, keep(NULL, i * 1000)));
        coroutine_free(keepers[i], &stacks);
    }
}

static void round_upwards(struct coroutine *coroutine)
{
    fesetround(FE_UPWARD);
    coroutine_suspend(coroutine);
    cr_assert(eq(int, fegetround(), FE_UPWARD));
}

Test(coroutine, has_a_rounding_mode_of_its_own, .init = setup, .fini = teardown)
{
    struct coroutine *coroutine;
    cr_assert(zero(int, coroutine_new(&coroutine, &stacks, 0, sizeof *coroutine, round_upwards)));
    coroutine_resume(coroutine);
    cr_assert(eq(int, fegetround(), FE_TONEAREST));
    coroutine_resume(coroutine);
    cr_assert(eq(int, fegetround(), FE_TONEAREST));
    coroutine_free(coroutine, &stacks);
}

struct nest {
    struct coroutine coroutine;
    struct coroutine *inner;
    char log[16];
};

static void resume_inner(struct coroutine *coroutine)
{
    struct nest *self = (struct nest *)coroutine;
    cr_assert(eq(ptr, coroutine_running(), coroutine));
    coroutine_resume(self->inner);
    cr_assert(eq(ptr, coroutine_running(), coroutine));
    coroutine_suspend(coroutine);
    coroutine_resume(self->inner);
}

Test(coroutine, may_resume_another_one, .init = setup, .fini = teardown)
{
    struct coroutine *outer;
    struct counter *inner = counter(1, 2);
    cr_assert(zero(int, coroutine_new(&outer, &stacks, 0, sizeof(struct nest), resume_inner)));
    ((struct nest *)outer)->inner = &inner->coroutine;
    coroutine_resume(outer);
    cr_assert(not(outer->is_over || inner->coroutine.is_over));
    coroutine_resume(outer);
    cr_assert(outer->is_over && inner->coroutine.is_over);
    coroutine_free(outer, &stacks);
    coroutine_free(&inner->coroutine, &stacks);
}

/* ---- stacks ---------------------------------------------------------------------------------------------- */

Test(coroutine, ten_thousand_at_once_and_a_bounded_pool, .init = setup, .fini = teardown)
{
    enum { MANY = 10000 };
    static struct counter *counters[MANY];
    for (unsigned i = 0; i < MANY; i++)
        counters[i] = counter(i, i + 2);
    for (unsigned turn = 0; turn < 3; turn++) {
        for (unsigned i = 0; i < MANY; i++)
            coroutine_resume(&counters[i]->coroutine);
    }
    for (unsigned i = 0; i < MANY; i++) {
        cr_assert(counters[i]->coroutine.is_over && counters[i]->now == i + 2);
        coroutine_free(&counters[i]->coroutine, &stacks);
    }
    cr_assert(eq(uint, stacks.spare_count, STACK_SPARE_MAX));
}

Test(coroutine, a_stack_is_used_again, .init = setup, .fini = teardown)
{
    struct counter *first = counter(0, 1);
    coroutine_free(&first->coroutine, &stacks);
    cr_assert(eq(uint, stacks.spare_count, 1));
    struct counter *second = counter(5, 6);
    cr_assert(zero(uint, stacks.spare_count));
    cr_assert(eq(ptr, first, second));
    cr_assert(zero(uint, second->now));
    coroutine_free(&second->coroutine, &stacks);
}

/* What lay on it, and what a sanitizer thinks of it, is forgotten. */
Test(coroutine, also_one_that_was_left_in_the_middle, .init = setup, .fini = teardown)
{
    struct stack stack;
    struct counter *left = counter(0, 1);
    coroutine_resume(&left->coroutine);
    coroutine_free(&left->coroutine, &stacks);
    cr_assert(zero(int, stack_take(&stacks, 64 * 1024, &stack)));
    memset(stack.low, 1, stack.size_bytes);
    stack_put(&stacks, &stack);
}

Test(coroutine, sizes_of_stacks, .init = setup, .fini = teardown)
{
    struct stack small, large;
    cr_assert(zero(int, stack_take(&stacks, 1, &small)));
    cr_assert(eq(sz, small.size_bytes, STACK_MIN_BYTES));
    cr_assert(zero(int, stack_take(&stacks, 100000, &large)));
    cr_assert(eq(sz, large.size_bytes, 131072));
    memset(large.low, 1, large.size_bytes);
    stack_put(&stacks, &large);
    stack_put(&stacks, &small);
    cr_assert(eq(int, stack_take(&stacks, (size_t)STACK_MAX_BYTES + 1, &large), -EINVAL));
    cr_assert(eq(int, stack_take(&stacks, SIZE_MAX, &large), -EINVAL));
}

Test(coroutine, no_memory_for_a_stack_is_told, .init = setup, .fini = teardown)
{
    struct stack stack;
    struct rlimit limit = { 1 << 20, 1 << 20 };
#ifndef WITH_ASAN
    setrlimit(RLIMIT_AS, &limit);
    cr_assert(eq(int, stack_take(&stacks, STACK_MAX_BYTES, &stack), -ENOMEM));
#else
    (void)limit, (void)stack; /* the sanitizer needs its address space */
#endif
}

/* ---- overflows ------------------------------------------------------------------------------------------- */

__attribute__((noinline)) static unsigned dig(unsigned depth)
{
    volatile char frame[512];
    frame[0] = (char)depth;
    return depth == 0 ? 0 : dig(depth - 1) + (unsigned)frame[0] * 0 + 1;
}

static void dig_deep(struct coroutine *coroutine)
{
    (void)coroutine;
    dig(1000000);
}

static void no_overflow(struct coroutine *coroutine)
{
    (void)coroutine;
    *(volatile int *)NULL = 1;
}

/* What a child process that runs it says, and how it ends. */
static int in_a_child(void (*run)(struct coroutine *coroutine), char *said, size_t size)
{
    int ends[2], status;
    cr_assert(zero(int, pipe(ends)));
    pid_t child = fork();
    if (child == 0) {
        struct coroutine *coroutine;
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        signal(SIGSEGV, SIG_DFL); /* of the sanitizer, or of the test framework */
        dup2(ends[1], STDERR_FILENO);
        coroutine_watch_overflows();
        if (coroutine_begin_thread() < 0 || coroutine_new(&coroutine, &stacks, 0, sizeof *coroutine, run) < 0)
            _exit(3);
        coroutine->name = "the digger";
        coroutine_resume(coroutine);
        _exit(4);
    }
    close(ends[1]);
    memset(said, 0, size);
    for (size_t got = 0; got < size - 1;) {
        ssize_t more = read(ends[0], said + got, size - 1 - got);
        if (more <= 0)
            break;
        got += (size_t)more;
    }
    close(ends[0]);
    cr_assert(eq(int, waitpid(child, &status, 0), child));
    return status;
}

static int signal_of(int status)
{
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

Test(coroutine, an_overflow_is_named_and_ends_the_process, .init = setup, .fini = teardown)
{
    char said[4096];
    int status = in_a_child(dig_deep, said, sizeof said);
    cr_assert_eq(signal_of(status), SIGSEGV, "status %x, said: %s", status, said);
    cr_assert(eq(str, said,
                 "error: the digger: its stack has overflowed: give it more (stack_size), or keep large "
                 "arrays elsewhere\n"));
}

#ifndef WITH_ASAN /* which also says what it thinks of it */
Test(coroutine, other_faults_are_not_called_overflows, .init = setup, .fini = teardown)
{
    char said[4096];
    int status = in_a_child(no_overflow, said, sizeof said);
    cr_assert_eq(signal_of(status), SIGSEGV);
    cr_assert(eq(str, said, ""));
}
#else
__attribute__((unused)) static void (*const not_here)(struct coroutine *) = no_overflow;
#endif

/* The guard, both ways in which it can be made. */
Test(coroutine, the_guard_holds_without_the_kernels_guard_pages)
{
    char said[4096];
    setenv("RONDO_KERNEL_LACKS", "guard-pages", 1);
    stacks_init(&stacks);
    cr_assert(not(stacks.has_guard_pages));
    int status = in_a_child(dig_deep, said, sizeof said);
    cr_assert_eq(signal_of(status), SIGSEGV);
    cr_assert_not_null(strstr(said, "the digger: its stack has overflowed"), "it was the guard");
    stacks_close(&stacks);
}

static void mine(int signal_number)
{
    (void)signal_number;
}

Test(coroutine, whoever_handles_the_signal_already_goes_on_to)
{
    struct sigaction action = { .sa_handler = mine }, now;
    sigaction(SIGSEGV, &action, NULL);
    coroutine_watch_overflows();
    sigaction(SIGSEGV, NULL, &now);
    cr_assert(now.sa_handler == mine);
}
