/* Whose rights the process has.
 *
 * io_uring takes the credentials of who makes a ring, for as long as the ring lives: so they are changed before there is
 * any (CVE-2024-22017 is what happens otherwise). */
#ifndef RONDO_CORE_PRIVILEGES_H
#define RONDO_CORE_PRIVILEGES_H

#define PRIVILEGES_WHY_BYTES 256

/* Become this user and this group, for good, with no other groups but those of the user.
 *
 *   user    a name or a number; NULL: stay who we are
 *   group   likewise; NULL: the user's own, from the password file
 *   why     when it fails: a sentence
 *
 * Returns 0 or a negative errno. Thread: any, before there is a ring; it is done for all threads. */
int privileges_drop(const char *user, const char *group, char why[PRIVILEGES_WHY_BYTES]);

#endif
