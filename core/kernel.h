/* What the running kernel can do, beyond the Linux 6.1 that rondo needs. */
#ifndef RONDO_CORE_KERNEL_H
#define RONDO_CORE_KERNEL_H

#include <stdbool.h>

enum kernel_feature {
    KERNEL_QUIET_SENDS,       /* IOSQE_CQE_SKIP_SUCCESS: of all that rondo needs, but nothing rests on it */
    KERNEL_UNCOUNTED_WAITS,   /* IORING_ENTER_NO_IOWAIT: an idle ring doesn't show as waiting for a disk */
    KERNEL_GUARD_PAGES,       /* MADV_GUARD_INSTALL: pages nobody may touch, without a mapping of their own */
    KERNEL_LIMITED_MULTISHOT, /* a multishot receive ends after so many bytes */
    KERNEL_REMEMBERED_ENDS, /* a multishot receive tells a TCP peer's end also when it follows at once on bytes */
    KERNEL_INCREMENTAL_BUFFERS, /* IOU_PBUF_RING_INC: a receive takes of a buffer only what it fills */
    KERNEL_FEATURES
};

/* Is its version one that has this, and has it without known faults? What also has a bit, or can be tried, is asked for
 * there, too.
 *
 * For tests the environment's RONDO_KERNEL_LACKS names features, with commas between them, that shall be taken for
 * missing, or "all". */
bool kernel_has(enum kernel_feature feature);

/* Its name there: "quiet-sends". */
const char *kernel_feature_name(enum kernel_feature feature);

#endif
