/* Bytes: the two slices that cross every call of rondo.
 *
 * Both go by value (two registers) and have the layout of struct iovec. Neither owns what it points to; each
 * call that takes or gives one says how long the memory must live. */
#ifndef RONDO_BYTES_H
#define RONDO_BYTES_H

#include <stddef.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* Bytes to read: received, or to be written.    asyncio: bytes, memoryview */
typedef struct rondo_bytes {
    const char *data; /* not terminated by a NUL: print with "%.*s" and (int)size */
    size_t size;      /* in bytes */
} rondo_bytes;

/* Memory to fill: see get_buffer in <rondo/protocol.h>.    asyncio: bytearray, writable memoryview */
typedef struct rondo_buffer {
    void *data;
    size_t size; /* in bytes */
} rondo_buffer;

/* The bytes of a string literal, without the NUL at its end; NULs inside it count. Good in a static
 * initialiser, too:  rondo_write_static(t, RONDO_BYTES("hello\n")); */
#ifdef __cplusplus
#define RONDO_BYTES(literal) (rondo_bytes{ "" literal, sizeof(literal) - 1 })
#else
#define RONDO_BYTES(literal) ((rondo_bytes){ "" literal, sizeof(literal) - 1 })
#endif

/* The object of `type` whose `member` lies at `pointer`: from a timer or a call back to what holds it. */
#define rondo_container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
