#include "support/receiver.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>

#include "net/transport.h"

char calls[200000];
rondo_transport *transport;
rondo_test *test;
rondo_test_peer *peer;

void note(const char *before, rondo_bytes bytes, const char *behind)
{
    size_t size = strlen(calls);
    cr_assert_lt(size + strlen(before) + bytes.size + strlen(behind), sizeof calls);
    snprintf(calls + size, sizeof calls - size, "%s%.*s%s", before, (int)bytes.size, bytes.data, behind);
}

void connection_made(rondo_transport *t)
{
    transport = t;
}

void connection_lost(rondo_transport *t, int error)
{
    (void)t;
    (void)error;
    note(".", (rondo_bytes){ 0 }, "");
    transport = NULL;
}

void given(const rondo_protocol *protocol)
{
    test = rondo_test_open(NULL);
    peer = rondo_test_connect(test, protocol);
    cr_assert_not_null(peer);
}

void feed_bytes(rondo_bytes bytes)
{
    cr_assert(eq(int, rondo_test_feed(peer, bytes), 0));
}

void feed(const char *text)
{
    feed_bytes((rondo_bytes){ text, strlen(text) });
}

void over(void)
{
    cr_assert(eq(uint, rondo_test_close(test), 0));
    cr_assert_eq(strchr(calls, '.'), calls + strlen(calls) - 1, "lost once, and last: %s", calls);
}

bool lies_in_a_buffer(rondo_bytes bytes)
{
    return buffers_own(&transport->loop->engine->buffers, bytes.data);
}

unsigned buffers_lent(void)
{
    return rondo_test_loop(test)->engine->buffers.lent;
}

unsigned slices_of_output(void)
{
    struct iovec slices[64];
    size_t size;
    return byte_queue_slices(&transport->output, slices, 64, &size);
}
