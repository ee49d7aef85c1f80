/* The engine that this run of the tests is about: RONDO_ENGINE, or "auto". */
#ifndef TESTS_SUPPORT_ENGINE_H
#define TESTS_SUPPORT_ENGINE_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static inline const char *tested_engine(void)
{
    const char *name = getenv("RONDO_ENGINE");
    return name != NULL ? name : "auto";
}

/* What the ring is held to beyond what an engine is. */
static inline bool is_on_a_ring(void)
{
    return strcmp(tested_engine(), "epoll") != 0;
}

#endif
