#include "core/sandbox.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#ifdef RONDO_SECCOMP

#include <fcntl.h>
#include <linux/sockios.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

/* Whatever their arguments are. Names that an architecture, or this libseccomp, doesn't know are left out. */
static const char *const allowed[] = {
    /* the engines */
    "io_uring_enter",
    "io_uring_register",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_ctl",
    /* sockets: by an engine, at once, and getaddrinfo's */
    "accept4",
    "bind",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "listen",
    "recvfrom",
    "recvmsg",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    /* descriptors */
    "close",
    "dup",
    "dup3",
    "fcntl",
    "lseek",
    "poll",
    "ppoll",
    "read",
    "readv",
    "write",
    "writev",
    /* files to be sent, and those that getaddrinfo reads */
    "access",
    "faccessat",
    "faccessat2",
    "fstat",
    "lstat",
    "newfstatat",
    "pread64",
    "preadv",
    "preadv2",
    "readlink",
    "readlinkat",
    "stat",
    "statx",
    /* children that were there before */
    "pidfd_send_signal",
    "waitid",
    /* the file of a Unix socket, at the end */
    "unlink",
    "unlinkat",
    /* memory, and the stacks of handlers */
    "brk",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    /* helper threads, for names and for files that are on the disk */
    "futex",
    "get_robust_list",
    "gettid",
    "membarrier",
    "rseq",
    "sched_getaffinity",
    "sched_getparam",
    "sched_getscheduler",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    /* signals, and the end */
    "exit",
    "exit_group",
    "getpid",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigtimedwait",
    "restart_syscall",
    "sigaltstack",
    "tgkill",
    /* time, chance, and what the process is told about itself and the system */
    "clock_getres",
    "clock_gettime",
    "clock_nanosleep",
    "getegid",
    "geteuid",
    "getgid",
    "getrandom",
    "getrusage",
    "getuid",
    "nanosleep",
    "sysinfo",
    "time",
    "gettimeofday",
    "uname",
};

/* With one of its arguments as it should be. */
static const struct {
    const char *call;
    unsigned argument;
    scmp_datum_t mask, value; /* mask 0: all bits */
} allowed_so[] = {
    { "clone", 0, CLONE_THREAD, CLONE_THREAD }, /* no process */
    { "openat", 2, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY },
    { "open", 1, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY },
    { "socket", 0, 0, AF_UNIX },
    { "socket", 0, 0, AF_INET },
    { "socket", 0, 0, AF_INET6 },
    { "socket", 0, 0, AF_NETLINK }, /* getaddrinfo asks which addresses there are */
    { "ioctl", 1, 0, SIOCINQ },
    { "ioctl", 1, 0, SIOCOUTQ },
    { "ioctl", 1, 0, TCGETS }, /* stdio: is it a terminal? */
    { "prctl", 0, 0, PR_SET_NAME },
};

static int allow(scmp_filter_ctx filter)
{
    int rc = 0;
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed && rc == 0; i++) {
        int call = seccomp_syscall_resolve_name(allowed[i]);
        if (call != __NR_SCMP_ERROR)
            rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 0);
    }
    for (size_t i = 0; i < sizeof allowed_so / sizeof *allowed_so && rc == 0; i++) {
        int call = seccomp_syscall_resolve_name(allowed_so[i].call);
        scmp_datum_t mask = allowed_so[i].mask != 0 ? allowed_so[i].mask : UINT32_MAX; /* they are ints */
        if (call != __NR_SCMP_ERROR)
            rc = seccomp_rule_add(
                filter, SCMP_ACT_ALLOW, call, 1,
                SCMP_CMP64(allowed_so[i].argument, SCMP_CMP_MASKED_EQ, mask, allowed_so[i].value));
    }
    return rc;
}

static int load(scmp_filter_ctx filter)
{
    int rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rc == 0)
        rc = allow(filter);
    /* Its flags lie in memory, where no filter sees them; libc then takes clone. */
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return rc == 0 ? seccomp_load(filter) : rc;
}

int sandbox_enter(char why[SANDBOX_WHY_BYTES])
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int rc = filter == NULL ? -ENOMEM : load(filter);
    if (filter != NULL)
        seccomp_release(filter);
    if (rc < 0)
        snprintf(why, SANDBOX_WHY_BYTES, "can't enter the sandbox: seccomp: %s: leave --sandbox out",
                 strerror(-rc));
    return rc;
}

#else

int sandbox_enter(char why[SANDBOX_WHY_BYTES])
{
    snprintf(why, SANDBOX_WHY_BYTES,
             "can't enter the sandbox: this rondo was built without libseccomp: build it with "
             "libseccomp-dev, or leave "
             "--sandbox out");
    return -ENOTSUP;
}

#endif
