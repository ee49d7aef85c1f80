/* What it costs to switch from one stack to another: with one coroutine, and with many in turn, whose stacks the cache
 * must hold. Prints nanoseconds of CPU for each switch, there or back, the median of several rounds. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/coroutine.h"

enum { SWITCHES = 2000000, ROUNDS = 9, MOST = 10000 };

static void go_round(struct coroutine *coroutine)
{
    for (;;)
        coroutine_suspend(coroutine);
}

static double cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int by_size(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return a < b ? -1 : a > b;
}

static double measure(struct coroutine **coroutines, unsigned count)
{
    double rounds[ROUNDS];
    for (unsigned round = 0; round < ROUNDS; round++) {
        double before = cpu_ns();
        for (unsigned i = 0, next = 0; i < SWITCHES / 2; i++) {
            coroutine_resume(coroutines[next]);
            next = next + 1 == count ? 0 : next + 1;
        }
        rounds[round] = (cpu_ns() - before) / SWITCHES;
    }
    qsort(rounds, ROUNDS, sizeof *rounds, by_size);
    return rounds[ROUNDS / 2];
}

int main(void)
{
    static const unsigned counts[] = { 1, 50, 1000, MOST };
    static struct coroutine *coroutines[MOST];
    struct stacks stacks;
    stacks_init(&stacks);
    for (unsigned i = 0; i < MOST; i++) {
        if (coroutine_new(&coroutines[i], &stacks, 0, sizeof(struct coroutine), go_round) < 0) {
            fprintf(stderr, "no memory for %u coroutines\n", i + 1);
            return 1;
        }
    }
    for (unsigned i = 0; i < sizeof counts / sizeof *counts; i++)
        printf("%5u coroutines: %.1f ns a switch\n", counts[i], measure(coroutines, counts[i]));
    return 0;
}
