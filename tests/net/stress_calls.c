/* Random calls on random transports, from inside random callbacks, on a kernel that does whatever a kernel may do: the
 * simulated engine, whose sockets lie in memory. What comes of it is compared with a small model of asyncio's rules,
 * after each step.
 *
 *   stress_calls [--seed N] [COUNT]
 *
 * Runs COUNT sequences (default: 100000), from seed N on (default: others each time; RONDO_SEED in the environment sets
 * it, too). Each is made of its seed alone, so what fails is repeated, with all that happens in it, by
 * stress_calls --seed N 1.
 *
 * The rules, beside those that the engine and the sanitizers watch over:
 *
 *   callbacks   connection_made first; then data; at most one eof_received, behind all that the peer sent;
 *               connection_lost once, and last. No data and no EOF while reading is paused, or closing. pause_writing
 *               and resume_writing by turns, on the right sides of the water marks. Nothing from inside a call but
 *               pause_writing
 *   bytes       the protocol gets what the peer sent, in order; the peer gets what was written before close and
 *               write_eof, in order, and all of it where the end is in order
 *   rest        when nothing is left to do, nobody waits for what is there: bytes are delivered, room is used, who
 *               closes is closed; and who is paused, or doesn't read, keeps no buffers from the others
 *   books       in the end no transport, buffer, operation, descriptor or user of the loop is left
 *
 * Memory may run out in the middle of it, too. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "net/calls/calls.h"

#define COUNT_DEFAULT 100000

static void say_seed(void)
{
    char text[128];
    int size = snprintf(text, sizeof text,
                        "stress_calls: the seed is %" PRIu64 ": stress_calls --seed %" PRIu64 " 1\n",
                        run.seed, run.seed);
    if (write(STDERR_FILENO, text, (size_t)size) < 0)
        return;
}

static void crashed(int number)
{
    say_seed();
    signal(number, SIG_DFL);
    raise(number);
}

/* Every sanitizer has it. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int run_sequences(uint64_t first, uint64_t count)
{
    uint64_t start_ms = clock_ms();
    for (uint64_t seed = first; seed < first + count; seed++) {
        alarm(20); /* it hangs */
        sequence(seed);
        if (run.broken == NULL)
            continue;
        fprintf(stderr, "stress_calls: broken: %s\n", run.broken);
        say_seed();
        return 1;
    }
    uint64_t ms = clock_ms() - start_ms;
    printf("stress_calls: %" PRIu64 " a second\n", count * 1000 / (ms > 0 ? ms : 1));
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t first = (uint64_t)time(NULL) * COUNT_DEFAULT, count = COUNT_DEFAULT;
    const char *seed = getenv("RONDO_SEED");
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = argv[++i];
        else
            count = strtoull(argv[i], NULL, 10);
    }
    if (seed != NULL)
        first = strtoull(seed, NULL, 10);
    run.verbose = count == 1;
    if (__sanitizer_set_death_callback != NULL)
        __sanitizer_set_death_callback(say_seed);
    signal(SIGABRT, crashed);
    signal(SIGALRM, crashed);
    signal(SIGSEGV, crashed);
    open_files();
    printf("stress_calls: %" PRIu64 " sequences from seed %" PRIu64 " on\n", count, first);
    fflush(stdout);
    return run_sequences(first, count);
}
