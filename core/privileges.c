#include "core/privileges.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define NOBODY ((uid_t)-1) /* which the system calls take for: leave it as it is */

struct identity {
    uid_t user;
    gid_t group;
    const char *name; /* of the user, for its other groups; NULL: it has no entry */
};

static int refuse(char why[PRIVILEGES_WHY_BYTES], int error, const char *what, const char *value,
                  const char *reason)
{
    snprintf(why, PRIVILEGES_WHY_BYTES, "%s %.64s: %s", what, value, reason);
    return error;
}

static bool is_number(const char *text, unsigned *number)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value >= UINT_MAX)
        return false;
    *number = (unsigned)value;
    return true;
}

static int find_user(const char *text, struct identity *identity, char why[PRIVILEGES_WHY_BYTES])
{
    unsigned number;
    bool by_number = is_number(text, &number);
    const struct passwd *entry = by_number ? getpwuid(number) : getpwnam(text);
    if (entry == NULL && !by_number)
        return refuse(why, -ENOENT, "user", text,
                      "there is no such user: give a name from the password file, or a number");
    identity->user = entry != NULL ? entry->pw_uid : number;
    identity->group = entry != NULL ? entry->pw_gid : (gid_t)NOBODY;
    identity->name = entry != NULL ? entry->pw_name : NULL;
    return 0;
}

static int find_group(const char *text, struct identity *identity, char why[PRIVILEGES_WHY_BYTES])
{
    unsigned number;
    bool by_number = is_number(text, &number);
    const struct group *entry = by_number ? NULL : getgrnam(text);
    if (entry == NULL && !by_number)
        return refuse(why, -ENOENT, "group", text,
                      "there is no such group: give a name from the group file, or a number");
    identity->group = entry != NULL ? entry->gr_gid : number;
    return 0;
}

static bool is_already(const struct identity *wanted)
{
    uid_t real, effective, saved;
    gid_t real_group, effective_group, saved_group;
    getresuid(&real, &effective, &saved);
    getresgid(&real_group, &effective_group, &saved_group);
    bool is_user = wanted->user == NOBODY || (real == wanted->user && effective == real && saved == real);
    return is_user && real_group == wanted->group && effective_group == real_group &&
           saved_group == real_group;
}

/* Groups first: without the user's rights it's too late for them. */
static int become(const struct identity *wanted)
{
    int rc = wanted->name != NULL ? initgroups(wanted->name, wanted->group) : setgroups(1, &wanted->group);
    if (rc < 0 || setresgid(wanted->group, wanted->group, wanted->group) < 0)
        return -errno;
    if (wanted->user != NOBODY && setresuid(wanted->user, wanted->user, wanted->user) < 0)
        return -errno;
    bool can_go_back = wanted->user != NOBODY && wanted->user != 0 && setuid(0) == 0;
    return can_go_back ? -EPERM : 0;
}

int privileges_drop(const char *user, const char *group, char why[PRIVILEGES_WHY_BYTES])
{
    struct identity wanted = { .user = NOBODY, .group = (gid_t)NOBODY };
    int rc = user != NULL ? find_user(user, &wanted, why) : 0;
    if (rc == 0 && group != NULL)
        rc = find_group(group, &wanted, why);
    if (rc < 0 || (user == NULL && group == NULL))
        return rc;
    if (wanted.group == (gid_t)NOBODY)
        return refuse(why, -EINVAL, "user", user,
                      "it has no entry in the password file, which would name its group: give --group, too");
    rc = is_already(&wanted) ? 0 : become(&wanted);
    if (rc == 0)
        return 0;
    const char *reason =
        rc == -EPERM ? "only root, or who has CAP_SETUID and CAP_SETGID, can become another: start it "
                       "so, or as that user"
                     : strerror(-rc);
    return refuse(why, rc, user != NULL ? "user" : "group", user != NULL ? user : group, reason);
}
