/* rondo's log: the only place where the library prints.
 *
 * One call is one line, written to stderr by one write(2), so lines of different shards don't mix:
 * "error: …", "warning: …", "debug: …", and an info line as it is.
 *
 * Thread: any, for all calls. */
#ifndef RONDO_LOG_H
#define RONDO_LOG_H

#include <stdarg.h>
#include <stdbool.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

typedef enum rondo_log_level {
    RONDO_LOG_ERROR = 1, /* something was lost, or rondo can't go on */
    RONDO_LOG_WARNING,   /* degraded, but served */
    RONDO_LOG_INFO,      /* the default */
    RONDO_LOG_DEBUG,
} rondo_log_level;

/* Print lines up to this level from now on. 0 means the default. */
void rondo_set_log_level(rondo_log_level level);

/* Would a line of this level be printed? */
bool rondo_log_enabled(rondo_log_level level);

/* Print a line, as printf does; the newline is added. Longer than 1000 bytes: cut. errno is kept. */
void rondo_log(rondo_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
