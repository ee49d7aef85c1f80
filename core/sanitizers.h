/* Is this built with a sanitizer? WITH_ASAN, WITH_TSAN; and what it is to be told. */
#ifndef RONDO_CORE_SANITIZERS_H
#define RONDO_CORE_SANITIZERS_H

#if defined __has_feature /* clang */
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__ /* gcc */
#define WITH_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#define WITH_TSAN 1
#endif

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#define poison(memory, size)   ASAN_POISON_MEMORY_REGION(memory, size)
#define unpoison(memory, size) ASAN_UNPOISON_MEMORY_REGION(memory, size)
#else
#define poison(memory, size)   ((void)0)
#define unpoison(memory, size) ((void)0)
#endif

#endif
