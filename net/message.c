#include "net/message.h"

#include <string.h>
#include <unistd.h>

#include "core/memory.h"

struct message *message_new(void)
{
    struct message *message = memory_alloc(sizeof *message);
    if (message != NULL) {
        message->fd_count = message->fd_next = 0;
        message->bytes = (rondo_bytes){ 0 };
    }
    return message;
}

void message_free(struct message *message)
{
    if (message == NULL)
        return;
    while (message->fd_next < message->fd_count)
        close(message->fds[message->fd_next++]);
    memory_free(message);
}

struct msghdr *message_prepare(struct message *message)
{
    message->slice = (struct iovec){ message->data, sizeof message->data };
    message->header = (struct msghdr){
        .msg_iov = &message->slice,
        .msg_iovlen = 1,
        .msg_control = message->control,
        .msg_controllen = sizeof message->control,
    };
    return &message->header;
}

bool message_take(struct message *message, size_t size)
{
    struct msghdr *header = &message->header;
    message->bytes = (rondo_bytes){ message->data, size };
    message->fd_count = message->fd_next = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(message->fds + message->fd_count, CMSG_DATA(c), count * sizeof(int));
        message->fd_count += (unsigned)count;
    }
    return (header->msg_flags & MSG_CTRUNC) == 0;
}

bool message_waits(const struct message *message)
{
    return message != NULL && (message->fd_next < message->fd_count || message->bytes.size > 0);
}
