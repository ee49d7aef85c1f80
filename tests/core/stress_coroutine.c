/* Many coroutines, resumed in an order of chance, each with more values alive than there are registers: for every
 * sanitizer, every CPU, and every way of switching. It needs nothing but core/coroutine, core/stack and core/switch. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/coroutine.h"

enum { COROUTINES = 200, STEPS = 200000, ROUNDS = 300 };

struct worker {
    struct coroutine coroutine;
    uint64_t seed, sum;
};

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static uint64_t bits_of(double number)
{
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

/* The same sum with and without somebody else running in between. */
__attribute__((noinline)) static uint64_t work(struct coroutine *coroutine, uint64_t seed)
{
    uint64_t state = seed, rounds = 1 + next(&state) % ROUNDS;
    uint64_t a = next(&state), b = next(&state), c = next(&state), d = next(&state), e = next(&state),
             f = next(&state);
    uint64_t g = next(&state), h = next(&state), i = next(&state), j = next(&state), k = next(&state),
             l = next(&state);
    double p = (double)a, q = (double)b, r = (double)c, s = (double)d, t = (double)e, u = (double)f,
           v = (double)g, w = (double)h;
    for (uint64_t round = 0; round < rounds; round++) {
        a += b ^ round, b += c, c ^= d, d += e, e ^= f, f += g, g ^= h, h += i, i ^= j, j += k, k ^= l,
            l += a;
        p += q / 3, q -= r / 5, r += s / 7, s -= t / 11, t += u / 13, u -= v / 17, v += w / 19, w -= p / 23;
        if (coroutine != NULL)
            coroutine_suspend(coroutine);
    }
    return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h ^ i ^ j ^ k ^ l ^ bits_of(p + q + r + s + t + u + v + w);
}

static void run(struct coroutine *coroutine)
{
    struct worker *worker = (struct worker *)coroutine;
    worker->sum = work(coroutine, worker->seed);
}

static struct coroutine *begin(struct stacks *stacks, uint64_t seed)
{
    struct coroutine *coroutine;
    if (coroutine_new(&coroutine, stacks, 0, sizeof(struct worker), run) < 0) {
        fprintf(stderr, "no memory for a coroutine\n");
        exit(1);
    }
    ((struct worker *)coroutine)->seed = seed;
    return coroutine;
}

static void check(const struct worker *worker)
{
    uint64_t expected = work(NULL, worker->seed);
    if (worker->sum == expected)
        return;
    fprintf(stderr, "seed %" PRIu64 ": %" PRIu64 " instead of %" PRIu64 "\n", worker->seed, worker->sum,
            expected);
    exit(1);
}

int main(void)
{
    struct coroutine *all[COROUTINES];
    struct stacks stacks;
    uint64_t state = 1, seed = 0;
    unsigned over = 0;
    stacks_init(&stacks);
    for (unsigned i = 0; i < COROUTINES; i++)
        all[i] = begin(&stacks, seed++);
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned i = (unsigned)(next(&state) % COROUTINES);
        coroutine_resume(all[i]);
        if (!all[i]->is_over)
            continue;
        over++;
        check((struct worker *)all[i]);
        coroutine_free(all[i], &stacks);
        all[i] = begin(&stacks, seed++);
    }
    for (unsigned i = 0; i < COROUTINES; i++)
        coroutine_free(all[i], &stacks);
    stacks_close(&stacks);
    printf("%u coroutines are over\n", over);
    return over > COROUTINES ? 0 : 1;
}
