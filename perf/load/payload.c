#include "payload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Primes: a server that misplaces bytes does so by multiples of its buffer size, and no power of two is a
 * multiple of the period. They also let the origins of as many connections as possible differ. */
enum { BYTES_PERIOD = 65521, LINES_PERIOD = 1021, LONG_LINES_PERIOD = 61, LONG_LINE = 1024 };

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

int payload_init(struct payload *payload, bool lines, size_t size)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    size_t line_count = size > LONG_LINE ? LONG_LINES_PERIOD : LINES_PERIOD;
    payload->origin_step = lines ? size : 1;
    payload->period = lines ? line_count * size : BYTES_PERIOD;
    payload->pattern = malloc(2 * payload->period);
    if (!payload->pattern)
        return -ENOMEM;

    uint64_t random = 1;
    for (size_t i = 0; i < payload->period; i++) {
        bool ends_line = lines && i % size == size - 1;
        char byte = next_random(&random);
        payload->pattern[i] = ends_line ? '\n' : lines ? letters[byte & 63] : byte;
    }
    memcpy(payload->pattern + payload->period, payload->pattern, payload->period);
    return 0;
}

void payload_fini(struct payload *payload)
{
    free(payload->pattern);
}

size_t payload_origin(const struct payload *payload, uint64_t number)
{
    enum { STRIDE = 347 }; /* prime to all periods; far enough that neighbours share no message */
    return number * STRIDE * payload->origin_step % payload->period;
}

const char *payload_at(const struct payload *payload, size_t origin, uint64_t position, size_t *size)
{
    size_t offset = (origin + position) % payload->period;
    *size = 2 * payload->period - offset;
    return payload->pattern + offset;
}

static size_t count_differences(const char *a, const char *b, size_t size)
{
    size_t differences = 0;
    for (size_t i = 0; i < size; i++)
        differences += a[i] != b[i];
    return differences;
}

size_t payload_wrong(const struct payload *payload, size_t origin, uint64_t position, const char *data,
                     size_t size)
{
    size_t wrong = 0;
    while (size > 0) {
        size_t part;
        const char *expected = payload_at(payload, origin, position, &part);
        if (part > size)
            part = size;
        if (memcmp(data, expected, part) != 0)
            wrong += count_differences(data, expected, part);
        data += part, position += part, size -= part;
    }
    return wrong;
}
