/* Starting threads that never take a signal: signals are the control thread's. */
#ifndef RONDO_CORE_THREAD_H
#define RONDO_CORE_THREAD_H

#include <pthread.h>

/* pthread_create with all signals blocked in the new thread, but for those that a fault raises in it.
 * Returns 0 or a negative errno. Thread: any. */
int thread_start(pthread_t *thread, void *(*run)(void *argument), void *argument);

#endif
