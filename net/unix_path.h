/* The file of a Unix socket. */
#ifndef RONDO_NET_UNIX_PATH_H
#define RONDO_NET_UNIX_PATH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "net/url.h"

#define UNIX_PATH_WHY_BYTES 128

/* A file that we made, and shall remove. */
struct unix_path {
    atomic_bool is_ours; /* until one of the shards has removed it */
    char path[URL_PATH_BYTES + 1];
    dev_t device;
    ino_t inode;
};

/* Bind a Unix socket. A socket file that is there and that nobody listens to is removed before; abstract names are
 * just bound.
 *
 *   mode   permission bits of the file, exactly, or URL_NO_MODE: what the umask leaves of 0777. There is no moment in
 *          which it has more
 *   path   zeroed before; filled in
 *   why    when it fails: what to do, else left alone
 *
 * Returns 0, or a negative errno: -EADDRINUSE: somebody listens there; -EBUSY: still, but that process has ended; -EEXIST:
 * the file is no socket. */
int unix_path_bind(struct unix_path *path, int fd, const struct url_address *address, int mode,
                   char why[UNIX_PATH_WHY_BYTES]);

/* Make this user and this group its owners; -1: as it is. Without the right to do so it stays as it is. */
void unix_path_give(const struct unix_path *path, uid_t user, gid_t group);

/* Remove the file, if it is still the one that we made. Idempotent. Thread: any. */
void unix_path_remove(struct unix_path *path);

#endif
