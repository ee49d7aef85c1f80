/* Abstract names of this process's own: tests that run at the same time don't meet there. */
#ifndef RONDO_TESTS_ABSTRACT_H
#define RONDO_TESTS_ABSTRACT_H

#include <stdio.h>
#include <unistd.h>

/* One of the last four lives. */
static inline const char *abstract_url(const char *what)
{
    static char urls[4][80];
    static unsigned next;
    char *url = urls[next++ % 4];
    snprintf(url, sizeof urls[0], "unix://@rondo-test-%d-%s", (int)getpid(), what);
    return url;
}

#endif
