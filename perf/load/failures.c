#include "failures.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *text;
} kinds[FAILURE_KINDS] = {
    [FAILURE_CONNECT] = { "connect", "can't connect" },
    [FAILURE_NO_PORT] = { "no_port", "no free port is left: use more --sources, or --close reset" },
    [FAILURE_RESET] = { "reset", "the server broke the connection" },
    [FAILURE_EARLY_EOF] = { "early_eof", "the server closed before it had answered" },
    [FAILURE_WRONG_BYTE] = { "wrong_byte", "the answer is not what was sent" },
    [FAILURE_TIMEOUT] = { "timeout", "the answer doesn't come" },
    [FAILURE_OTHER] = { "other", "unexpected error" },
};

void failures_add(struct failures *failures, enum failure kind, unsigned connection, int error)
{
    if (failures->counts[kind]++ > 0)
        return;
    fprintf(stderr, "error: connection %u: %s%s%s\n", connection, kinds[kind].text, error ? ": " : "",
            error ? strerror(error) : "");
}

uint64_t failures_total(const struct failures *failures)
{
    uint64_t total = 0;
    for (int kind = 0; kind < FAILURE_KINDS; kind++)
        total += failures->counts[kind];
    return total;
}

const char *failure_name(enum failure kind)
{
    return kinds[kind].name;
}
