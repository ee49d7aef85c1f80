/* Names for tests: this getaddrinfo stands in front of the C library's, and knows what the test has told it. All else it
 * passes on. */
#ifndef RONDO_TESTS_NAMES_H
#define RONDO_TESTS_NAMES_H

/* `name` has these addresses, in this order: "127.0.0.1 ::1". Static strings. */
void names_add(const char *name, const char *addresses);

/* `name` is answered with this error of getaddrinfo's. */
void names_fail(const char *name, int gai_error);

/* Who asks for `name` waits for names_let_go, and gets EAI_AGAIN. */
void names_hang(const char *name);
void names_let_go(void); /* one */

/* Wait until so many have come to a hanging name, or left it, in all. */
void names_wait_until_hung(void);
void names_wait_until_left(void);

#endif
