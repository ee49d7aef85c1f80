/* Whose rights the process has.
 *
 * io_uring takes the credentials of who makes a ring, for as long as the ring lives: so they are changed before there is
 * any (CVE-2024-22017 is what happens otherwise). */
#ifndef RONDO_CORE_PRIVILEGES_H
#define RONDO_CORE_PRIVILEGES_H

#include <sys/types.h>

#define PRIVILEGES_WHY_BYTES 256

/* Who to be. */
struct identity {
    uid_t user;  /* -1: who we are */
    gid_t group; /* -1: that which we have */
    const char *
        name; /* of the user, for its other groups; NULL: it has none. The password file's, until it is asked again */
};

/* Find out who that is.
 *
 *   user    a name or a number; NULL: stay who we are
 *   group   likewise; NULL: the user's own, from the password file
 *   why     when it fails: a sentence
 *
 * Returns 0 or a negative errno. Thread: the main thread, as for the next. */
int privileges_find(const char *user, const char *group, struct identity *identity,
                    char why[PRIVILEGES_WHY_BYTES]);

/* Become this user and this group, for good, with no other groups but those of the user; all threads together, before there
 * is a ring. Returns 0, or a negative errno with a sentence in `why`. */
int privileges_drop(const struct identity *identity, char why[PRIVILEGES_WHY_BYTES]);

#endif
