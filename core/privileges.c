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

#define AS_IT_IS UINT_MAX /* what the system calls, too, take for that */

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
    identity->group = entry != NULL ? entry->pw_gid : AS_IT_IS;
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
    bool is_user = wanted->user == AS_IT_IS || (real == wanted->user && effective == real && saved == real);
    return is_user && real_group == wanted->group && effective_group == real_group &&
           saved_group == real_group;
}

/* Groups first: without the user's rights it's too late for them. */
static int become(const struct identity *wanted)
{
    int rc = wanted->name != NULL ? initgroups(wanted->name, wanted->group) : setgroups(1, &wanted->group);
    if (rc < 0 || setresgid(wanted->group, wanted->group, wanted->group) < 0)
        return -errno;
    if (wanted->user != AS_IT_IS && setresuid(wanted->user, wanted->user, wanted->user) < 0)
        return -errno;
    bool can_go_back = wanted->user != AS_IT_IS && wanted->user != 0 && setuid(0) == 0;
    return can_go_back ? -EPERM : 0;
}

int privileges_find(const char *user, const char *group, struct identity *identity,
                    char why[PRIVILEGES_WHY_BYTES])
{
    *identity = (struct identity){ .user = AS_IT_IS, .group = AS_IT_IS };
    int rc = user != NULL ? find_user(user, identity, why) : 0;
    if (rc == 0 && group != NULL)
        rc = find_group(group, identity, why);
    if (rc == 0 && user != NULL && identity->group == AS_IT_IS)
        return refuse(why, -EINVAL, "user", user,
                      "it has no entry in the password file, which would name its group: give --group, too");
    return rc;
}

int privileges_drop(const struct identity *identity, char why[PRIVILEGES_WHY_BYTES])
{
    bool is_asked_for = identity->user != AS_IT_IS || identity->group != AS_IT_IS;
    int rc = !is_asked_for || is_already(identity) ? 0 : become(identity);
    if (rc < 0)
        snprintf(why, PRIVILEGES_WHY_BYTES, "can't become another user, or group: %s: %s", strerror(-rc),
                 rc == -EPERM
                     ? "only root can, or who has CAP_SETUID and CAP_SETGID: start it so, or as that user"
                     : "see setresuid(2)");
    return rc;
}
