/* The log's one way around its level: what the user asked for by name (an address, a report) is always printed. */
#ifndef RONDO_CORE_LOG_H
#define RONDO_CORE_LOG_H

#include <rondo/log.h>

void log_always(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
