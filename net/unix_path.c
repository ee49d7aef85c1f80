#include "net/unix_path.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rondo/log.h>

static int refuse(char why[UNIX_PATH_WHY_BYTES], int error, const char *text)
{
    snprintf(why, UNIX_PATH_WHY_BYTES, "%s", text);
    return error;
}

/* The sockets of a process that was killed may outlive it by milliseconds. */
static bool is_dead(int connected)
{
    struct ucred listener = { 0 };
    getsockopt(connected, SOL_SOCKET, SO_PEERCRED, &listener, &(socklen_t){ sizeof listener });
    return listener.pid > 0 && kill(listener.pid, 0) < 0 && errno == ESRCH;
}

/* Does anybody listen there? Asked without waiting: a queue that is full is somebody's, too.
 * Returns 0: no; -EADDRINUSE: yes; -EBUSY: yes, but it is dead; or the error that keeps us from knowing. */
static int ask_who_listens(const struct url_address *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int rc = connect(fd, &address->any, address->size) < 0 ? -errno : is_dead(fd) ? -EBUSY : -EADDRINUSE;
    close(fd);
    switch (rc) {
    case -ECONNREFUSED:
    case -ENOENT: /* gone meanwhile */
        return 0;
    case -EAGAIN:
    case -EPROTOTYPE: /* one of datagrams, or of packets */
        return -EADDRINUSE;
    default:
        return rc;
    }
}

/* A server that was killed leaves its file behind, and bind would refuse it. */
static int remove_stale(const struct url_address *address, char why[UNIX_PATH_WHY_BYTES])
{
    const char *path = address->local.sun_path;
    struct stat file;
    if (lstat(path, &file) < 0)
        return 0; /* there is none; or bind says why there can't be one */
    if (!S_ISSOCK(file.st_mode))
        return refuse(why, -EEXIST, "there is something that is no socket: remove it, or take another path");
    int rc = ask_who_listens(address);
    if (rc == -EADDRINUSE)
        return refuse(why, rc, "something listens there already: stop it, or take another path");
    if (rc < 0)
        return refuse(why, rc, "the socket file there can't be tried: remove it, or take another path");
    if (unlink(path) < 0 && errno != ENOENT)
        return refuse(why, -errno, "the socket file that an ended server left there can't be removed");
    return 0;
}

/* The file gets the mode that the socket has at bind, less the umask; so what the umask takes is given afterwards. */
static int set_mode(struct unix_path *path, int mode)
{
    struct stat file;
    if (lstat(path->path, &file) < 0)
        return -errno;
    atomic_store(&path->is_ours, true);
    path->device = file.st_dev;
    path->inode = file.st_ino;
    bool is_right = mode == URL_NO_MODE || (file.st_mode & 0777) == (mode_t)mode;
    return !is_right && chmod(path->path, (mode_t)mode) < 0 ? -errno : 0;
}

int unix_path_bind(struct unix_path *path, int fd, const struct url_address *address, int mode,
                   char why[UNIX_PATH_WHY_BYTES])
{
    bool is_abstract = address->local.sun_path[0] == '\0';
    int rc = is_abstract ? 0 : remove_stale(address, why);
    if (rc == 0 && mode != URL_NO_MODE && fchmod(fd, (mode_t)mode) < 0)
        rc = -errno;
    if (rc == 0 && bind(fd, &address->any, address->size) < 0)
        rc = -errno;
    if (rc < 0 || is_abstract)
        return rc;
    strcpy(path->path, address->local.sun_path);
    rc = set_mode(path, mode);
    if (rc < 0)
        unix_path_remove(path);
    return rc;
}

void unix_path_give(const struct unix_path *path, uid_t user, gid_t group)
{
    if (atomic_load(&path->is_ours) && lchown(path->path, user, group) < 0)
        rondo_log(RONDO_LOG_DEBUG, "%s: chown: %s", path->path, strerror(errno));
}

void unix_path_remove(struct unix_path *path)
{
    struct stat file;
    if (!atomic_exchange(&path->is_ours, false))
        return;
    if (lstat(path->path, &file) < 0 || file.st_dev != path->device || file.st_ino != path->inode)
        return; /* somebody else's by now */
    if (unlink(path->path) < 0)
        rondo_log(RONDO_LOG_WARNING, "can't remove %s: %s", path->path, strerror(errno));
}
