/* What kernels newer than liburing 2.3's headers offer, by the kernel's own names and values. */
#ifndef RONDO_CORE_URING_COMPAT_H
#define RONDO_CORE_URING_COMPAT_H

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* 6.15: a wait that isn't counted as waiting for a disk; without it an idle ring shows as 100 % iowait. */
#ifndef IORING_FEAT_NO_IOWAIT
#define IORING_FEAT_NO_IOWAIT (1U << 17)
#endif
#ifndef IORING_ENTER_NO_IOWAIT
#define IORING_ENTER_NO_IOWAIT (1U << 7)
#endif

/* 6.12: receives take of a provided buffer only what they fill; without F_BUF_MORE it is filled. The flags of a
 * registration are the 16 bits that 2.3 calls pad. */
#ifndef IORING_CQE_F_BUF_MORE
#define IORING_CQE_F_BUF_MORE (1U << 4)
#endif
#ifndef IOU_PBUF_RING_INC
#define IOU_PBUF_RING_INC 2
#endif

static inline void uring_set_buffer_flags(struct io_uring_buf_reg *registration, unsigned flags)
{
    memcpy((char *)registration + offsetof(struct io_uring_buf_reg, bgid) + sizeof registration->bgid,
           &(uint16_t){ (uint16_t)flags }, sizeof(uint16_t));
}

/* 6.17: how many bytes a multishot receive may take in all before it ends. The field is sqe->optlen, for which 2.3 has
 * only the name that file operations give it; older kernels refuse the receive with -EINVAL. */
static inline void uring_limit_multishot(struct io_uring_sqe *sqe, unsigned bytes)
{
    sqe->file_index = bytes;
}

/* 5.10. liburing 2.3 declares io_uring_register_restrictions and io_uring_enable_rings, but its shared library keeps them
 * to itself. */
static inline int uring_register(struct io_uring *ring, unsigned opcode, void *argument, unsigned count)
{
    long rc = syscall(__NR_io_uring_register, ring->ring_fd, opcode, argument, count);
    return rc < 0 ? -errno : 0;
}

static inline int uring_restrict(struct io_uring *ring, struct io_uring_restriction *restrictions,
                                 unsigned count)
{
    return uring_register(ring, IORING_REGISTER_RESTRICTIONS, restrictions, count);
}

static inline int uring_enable(struct io_uring *ring)
{
    return uring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

#endif
