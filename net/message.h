/* What a unix socket's receive brings when its protocol takes descriptors: bytes, and the descriptors beside them. */
#ifndef RONDO_NET_MESSAGE_H
#define RONDO_NET_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include <rondo/bytes.h>

#define MESSAGE_BYTES           (16 * 1024)
#define MESSAGE_DESCRIPTORS_MAX 253 /* the kernel's SCM_MAX_FD */

/* While a receive is in the kernel the whole of it is the kernel's. */
struct message {
    struct msghdr header;
    struct iovec slice;
    int fds[MESSAGE_DESCRIPTORS_MAX];
    unsigned fd_count, fd_next; /* fds[fd_next …] wait to be delivered */
    rondo_bytes bytes;          /* wait to be delivered, behind them */
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(MESSAGE_DESCRIPTORS_MAX * sizeof(int))];
    char data[MESSAGE_BYTES];
};

/* NULL: no memory. */
struct message *message_new(void);

/* Closes the descriptors that were not delivered. NULL is allowed. */
void message_free(struct message *message);

/* Make it ready to be received into. */
struct msghdr *message_prepare(struct message *message);

/* `size` bytes have been received. False: there were more descriptors than this process may have; those are gone. */
bool message_take(struct message *message, size_t size);

/* Is there anything in it? NULL is allowed. */
bool message_waits(const struct message *message);

#endif
