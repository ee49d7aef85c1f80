/* What kernels newer than liburing 2.3's headers offer, by the kernel's own names and values. */
#ifndef RONDO_CORE_URING_COMPAT_H
#define RONDO_CORE_URING_COMPAT_H

/* 6.15: a wait that isn't counted as waiting for a disk; without it an idle ring shows as 100 % iowait. */
#ifndef IORING_FEAT_NO_IOWAIT
#define IORING_FEAT_NO_IOWAIT (1U << 17)
#endif
#ifndef IORING_ENTER_NO_IOWAIT
#define IORING_ENTER_NO_IOWAIT (1U << 7)
#endif

/* 6.17: how many bytes a multishot receive may take in all before it ends. The field is sqe->optlen, for which 2.3 has
 * only the name that file operations give it; older kernels refuse the receive with -EINVAL. */
static inline void uring_limit_multishot(struct io_uring_sqe *sqe, unsigned bytes)
{
    sqe->file_index = bytes;
}

#endif
