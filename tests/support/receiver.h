/* A receiver of lines or strings under test, by the test kit: what its protocol was called with is written down, its peer is
 * fed and asked. One connection for each test.
 *
 *   given    given(&plain.protocol);           a table whose connection_made and connection_lost are these
 *   when     feed("one\ntwo\n");
 *   then     cr_assert(eq(str, calls, "<one><two>"));
 *            over();                           the books balance, and the connection was lost once, and last
 */
#ifndef RONDO_TESTS_RECEIVER_H
#define RONDO_TESTS_RECEIVER_H

#include <rondo/testing.h>

/* Written by note, and "." at the end. */
extern char calls[200000];
extern rondo_transport *transport; /* NULL after connection_lost */
extern rondo_test *test;
extern rondo_test_peer *peer;

void note(const char *before, rondo_bytes bytes, const char *behind);
void connection_made(rondo_transport *t);
void connection_lost(rondo_transport *t, int error);

void given(const rondo_protocol *protocol);
void feed_bytes(rondo_bytes bytes);
void feed(const char *text);
void over(void);

bool lies_in_a_buffer(rondo_bytes bytes); /* of the shard */
unsigned buffers_lent(void);
unsigned slices_of_output(void);

#endif
