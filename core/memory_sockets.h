/* Stream sockets in memory, for the simulated engine: pairs of ends, where what one sends arrives at the other at once,
 * up to the room that is there, and ends as on Linux:
 *
 *   half-close, or close     the other end reads what has arrived, then its EOF
 *   close with unread bytes, or of one that was told to reset, or what is sent to a closed end
 *                            a reset: the other end reads what has arrived, then the error, once, by a receive or a
 *                            send, whichever comes first; from then on its EOF, and -EPIPE
 *
 * Either end may belong to an operation of the engine or to a test. Thread: the engine's. */
#ifndef RONDO_CORE_MEMORY_SOCKETS_H
#define RONDO_CORE_MEMORY_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <rondo/bytes.h>

/* Descriptors that were passed with the byte at this place in the stream. */
struct passed {
    struct passed *next;
    uint64_t place;
    unsigned count;
    int fds[];
};

struct memory_socket {
    int fd;
    int family;
    uint16_t port, other_port;
    struct memory_socket *other; /* NULL: closed, or not connected */

    char *arrived; /* and unread: size bytes from begin on */
    size_t begin, size, capacity;
    uint64_t read; /* bytes, since the beginning */
    struct passed *passed;

    size_t room;   /* bytes that may be unread; more wait on the other side */
    size_t window; /* of these, what the other side is told has arrived */
    int error;     /* a negative errno to be told once */
    bool eof;      /* the other end sends no more */
    bool broken;   /* by a reset */
    bool write_shut;
    bool resets; /* the close to come is a reset */

    bool listens;
    int accept_error;            /* of the next accept */
    int connected;               /* what became of connect: 0, a negative errno, or 1: not known yet */
    struct memory_socket *queue; /* of a listener: those not accepted, by `next` */
    struct memory_socket *next;
};

struct memory_sockets {
    struct memory_socket **sockets; /* by number; NULL: closed */
    unsigned count, capacity;
};

/* A new socket, connected to nothing. NULL: no memory. Its number is no descriptor of the system's. */
struct memory_socket *memory_socket_new(struct memory_sockets *sockets, int family);

/* Two ends of one connection. */
void memory_socket_connect(struct memory_socket *a, struct memory_socket *b);

/* NULL: there is none of this number. */
struct memory_socket *memory_socket_of(const struct memory_sockets *sockets, int fd);

/* Would memory_socket_receive, memory_socket_send do something else than -EAGAIN? */
bool memory_socket_is_readable(const struct memory_socket *s);
bool memory_socket_is_writable(const struct memory_socket *s);

/* Send at most `limit` bytes. fds: `count` descriptors that go with the first byte; duplicated.
 * Returns how many bytes arrived; -EAGAIN: there is no room; or another negative errno. */
int memory_socket_send(struct memory_socket *s, const struct iovec *slices, unsigned slice_count,
                       size_t limit, const int *fds, unsigned count);

/* Receive at most `size` bytes. fds: room for `max` descriptors that come with them, *count of them come; NULL: they
 * are closed. Returns how many bytes; 0 at the EOF; -EAGAIN: nothing is there; or another negative errno. */
int memory_socket_receive(struct memory_socket *s, char *data, size_t size, int *fds, unsigned max,
                          unsigned *count);

void memory_socket_half_close(struct memory_socket *s);

/* The connection breaks: `error` is told once. unread_too: what has arrived is lost with it. */
void memory_socket_break(struct memory_socket *s, int error, bool unread_too);

/* Close. unread_too: if that is a reset, the other end loses what it has not read. */
void memory_socket_close(struct memory_sockets *sockets, struct memory_socket *s, bool unread_too);

/* Throw away what has arrived and was not read, and close descriptors that came with it. */
void memory_socket_drop_unread(struct memory_socket *s);

/* The first descriptor among what has not been read, taken out: the caller's. -1: there is none. */
int memory_socket_take_passed(struct memory_socket *s);

/* Bytes sent that the other side has not acknowledged: they lie beyond its window. */
size_t memory_socket_unacknowledged(const struct memory_socket *s);

void memory_socket_name(const struct memory_socket *s, bool of_other, struct sockaddr_storage *name,
                        socklen_t *size);

void memory_sockets_free(struct memory_sockets *sockets);

#endif
