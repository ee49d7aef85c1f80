#include "core/log.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES_MAX 1024

static _Atomic rondo_log_level log_level = RONDO_LOG_INFO;

void rondo_set_log_level(rondo_log_level level)
{
    atomic_store_explicit(&log_level, level == 0 ? RONDO_LOG_INFO : level, memory_order_relaxed);
}

bool rondo_log_enabled(rondo_log_level level)
{
    return level <= atomic_load_explicit(&log_level, memory_order_relaxed);
}

/* stderr that can't be written to is nobody's to be told of; but a pipe that is full only for a moment, or a
 * signal, must not cut a line. */
static void write_line(const char *line, size_t size)
{
    while (size > 0) {
        ssize_t written = write(STDERR_FILENO, line, size);
        if (written < 0 && errno != EINTR)
            return;
        if (written > 0) {
            line += written;
            size -= (size_t)written;
        }
    }
}

/* Nor may it kill us: whoever read it may have gone, and write(2) raises SIGPIPE, for this thread only. */
static void write_line_without_sigpipe(const char *line, size_t size)
{
    sigset_t sigpipe, before, pending;
    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &sigpipe, &before);
    sigpending(&pending);
    write_line(line, size);
    if (!sigismember(&pending, SIGPIPE))
        sigtimedwait(&sigpipe, NULL, &(struct timespec){ 0 });
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void print(const char *prefix, const char *format, va_list arguments)
{
    int saved_errno = errno;
    char line[LINE_BYTES_MAX];
    size_t size = strlen(prefix);
    memcpy(line, prefix, size);
    size_t room = sizeof line - size - 1; /* the newline takes the place of the NUL at the latest */
    int wanted = vsnprintf(line + size, room, format, arguments);
    if (wanted > 0)
        size += (size_t)wanted < room ? (size_t)wanted : room - 1;
    line[size++] = '\n';
    write_line_without_sigpipe(line, size);
    errno = saved_errno;
}

void rondo_log(rondo_log_level level, const char *format, ...)
{
    static const char *const prefixes[] = {
        [RONDO_LOG_ERROR] = "error: ",
        [RONDO_LOG_WARNING] = "warning: ",
        [RONDO_LOG_INFO] = "",
        [RONDO_LOG_DEBUG] = "debug: ",
    };
    if (level < RONDO_LOG_ERROR || level > RONDO_LOG_DEBUG || !rondo_log_enabled(level))
        return;
    va_list arguments;
    va_start(arguments, format);
    print(prefixes[level], format, arguments);
    va_end(arguments);
}

void log_always(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print("", format, arguments);
    va_end(arguments);
}
