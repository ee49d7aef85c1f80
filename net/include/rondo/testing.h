/* Test your protocol without a socket, a thread, or a clock.    Twisted: StringTransport, MemoryReactorClock
 *
 *   #include <assert.h>
 *   #include <string.h>
 *   #include <rondo/testing.h>
 *
 *   struct visitor {
 *       rondo_timer patience;
 *   };
 *
 *   static void patience_ends(rondo_timer *timer)
 *   {
 *       rondo_close(rondo_transport_of(rondo_container_of(timer, struct visitor, patience)));
 *   }
 *
 *   static void connection_made(rondo_transport *t)
 *   {
 *       struct visitor *self = rondo_self(t);
 *       rondo_call_later(rondo_get_loop(t), &self->patience, 10 * 1000, patience_ends);
 *   }
 *
 *   static void connection_lost(rondo_transport *t, int error)
 *   {
 *       struct visitor *self = rondo_self(t);
 *       (void)error;
 *       rondo_timer_cancel(&self->patience);
 *   }
 *
 *   static const rondo_protocol echo = {
 *       .name = "echo",
 *       .size = sizeof(struct visitor),
 *       .connection_made = connection_made,
 *       .data_received = rondo_write,
 *       .connection_lost = connection_lost,
 *   };
 *
 *   int main(void)
 *   {
 *       rondo_test *test = rondo_test_open(NULL);
 *       rondo_test_peer *peer = rondo_test_connect(test, &echo);
 *
 *       rondo_test_feed_in_pieces(peer, RONDO_BYTES("hello"), 1);
 *       assert(rondo_test_written(peer).size == 5);
 *       assert(memcmp(rondo_test_written(peer).data, "hello", 5) == 0);
 *
 *       rondo_test_advance(test, 10 * 1000);
 *       assert(rondo_test_sees_eof(peer) && rondo_test_transport(peer) == NULL);
 *       assert(rondo_test_close(test) == 0);
 *   }
 *
 * The transports are rondo's own, on sockets in memory, so everything that holds for a connection holds here: when
 * callbacks come and in which order, what is gathered into one send, water marks, half-close, lingering. Only the
 * kernel is another one: it does what you tell it, and nothing else happens. Each call below lets everything happen
 * that follows from it, callbacks included, before it returns; only time stands still, until rondo_test_advance.
 *
 * Handlers and tasks run here as in a shard; they sleep until rondo_test_advance, and one that has not returned at the end
 * is counted by rondo_test_close.
 *
 * There are no addresses here: rondo_create_server says -ENOTSUP, and a connection that your protocol makes
 * (rondo_create_connection) fails, as to nowhere.
 *
 * Works with any test framework. Thread: one, for a test and all its peers; one test at a time on a thread. */
#ifndef RONDO_TESTING_H
#define RONDO_TESTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/app.h>
#include <rondo/bytes.h>
#include <rondo/loop.h>
#include <rondo/protocol.h>
#include <rondo/transport.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* A shard, without its thread. */
typedef struct rondo_test rondo_test;

/* The other end of a connection, which the test plays. Lives until rondo_test_close, whatever becomes of the
 * connection. */
typedef struct rondo_test_peer rondo_test_peer;

/* Begin: the shard is there, shard_start has run.    Twisted: MemoryReactorClock()
 *
 *   app   its shard_size, shard_start, shard_stop, idle_timeout_ms and max_connections count; NULL: none of them
 *
 * Returns the test, the caller's until rondo_test_close; NULL without memory, or when shard_start failed, with a line
 * in the log. */
rondo_test *rondo_test_open(const rondo_app *app);

/* End: connections that are left are aborted, as by a server that stops (connection_lost(-ECANCELED)), shard_stop runs,
 * and all is freed, the peers too.
 *
 * Returns how many things are left that should not be, with a line in the log for each kind: timers that still run and
 * calls that still wait, so that they would come when what holds them is gone; breaches of the rule that memory given
 * by get_buffer is the kernel's. 0: all is in order. NULL is allowed. */
unsigned rondo_test_close(rondo_test *test);

/* The shard's loop, for rondo_call_later, rondo_post, rondo_shard_of, rondo_time_ms and, to see your protocol drained,
 * rondo_stop: what they cause happens with the next call of this header. */
rondo_loop *rondo_test_loop(rondo_test *test);

/* Let happen what is to happen now: calls that wait, timers that are due. All other calls here do that by themselves,
 * so it is for what your test does to a transport or to the loop: rondo_write(t, …); rondo_test_turn(test);
 * It ends when nothing is left to do; or, for a call or timer that for ever asks for another one at once, after a
 * thousand turns that moved no byte. */
void rondo_test_turn(rondo_test *test);

/* Let time pass: timers come in the order of their times, each when the clock stands at its time.
 * Twisted: Clock.advance */
void rondo_test_advance(rondo_test *test, uint64_t ms);

/* From now on the kernel does whatever it may, at random: takes only a part of what is sent, delivers what was fed in
 * other pieces and later, is interrupted, is short of buffers. For tests that must hold in any case: feed, then compare
 * what was written in all. The same seed gives the same again. */
void rondo_test_disturb(rondo_test *test, uint64_t seed);

/* ---- a connection --------------------------------------------------------------------------------------- */

/* A client connects: connection_made has been called when this returns.
 *
 *   protocol   a table that lives as long as the test
 *
 * By TCP from 192.0.2.1, as rondo_get_extra_info tells; or by a Unix socket.
 * Returns the peer; NULL without memory, or when max_connections are there. */
rondo_test_peer *rondo_test_connect(rondo_test *test, const rondo_protocol *protocol);
rondo_test_peer *rondo_test_connect_unix(rondo_test *test, const rondo_protocol *protocol);

/* The protocol's end: for rondo_self, and to act as the protocol. NULL from connection_lost on. */
rondo_transport *rondo_test_transport(const rondo_test_peer *peer);

/* The peer sends bytes.    Twisted: dataReceived, makeConnection's other half
 * They are delivered when this returns, unless reading is paused: then they wait.
 * Returns 0; -EPIPE when the peer has sent its EOF or is gone; -ECONNRESET when the protocol's end is; -ENOMEM. */
int rondo_test_feed(rondo_test_peer *peer, rondo_bytes data);

/* The peer sends bytes, `piece_bytes` at a time, the last piece maybe shorter: each is delivered before the next one
 * comes. A protocol must come to the same result for every size of pieces down to 1. Returns as rondo_test_feed; the
 * first error ends it. */
int rondo_test_feed_in_pieces(rondo_test_peer *peer, rondo_bytes data, size_t piece_bytes);

/* The peer passes a descriptor over its Unix socket, with the next byte it sends. fd is duplicated: yours again.
 * Returns 0; -ENOTSUP: this is no Unix socket; -EPIPE, -EBADF, -EMFILE, -ENOMEM. */
int rondo_test_feed_descriptor(rondo_test_peer *peer, int fd);

/* The peer sends no more (half-close); it still takes what is written. Returns as rondo_test_feed. */
int rondo_test_feed_eof(rondo_test_peer *peer);

/* The peer goes away in order: it has closed, and what is written from now on is answered by a reset. */
void rondo_test_disconnect(rondo_test_peer *peer);

/* The peer resets the connection: connection_lost(-ECONNRESET), behind what it had sent before. */
void rondo_test_reset(rondo_test_peer *peer);

/* ---- what the protocol did ------------------------------------------------------------------------------ */

/* All bytes that have come to the peer since the last rondo_test_clear.    Twisted: StringTransport.value
 * They lie there until the next call that has to do with this test. */
rondo_bytes rondo_test_written(const rondo_test_peer *peer);

/* Forget them; descriptors that came with them and were not taken are closed.    Twisted: StringTransport.clear */
void rondo_test_clear(rondo_test_peer *peer);

/* The next descriptor that was passed to the peer: the caller's, who closes it. -1: there is none. */
int rondo_test_take_descriptor(rondo_test_peer *peer);

/* Behind what was written: the peer has been told that no more will come (rondo_write_eof, rondo_close). */
bool rondo_test_sees_eof(const rondo_test_peer *peer);

/* The connection was reset, by either end: rondo_abort. */
bool rondo_test_was_reset(const rondo_test_peer *peer);

#define RONDO_TEST_ANY_ROOM ((size_t)-1)

/* How many written bytes the peer's side holds until rondo_test_clear: more wait in the transport, and raise its
 * rondo_get_write_buffer_size. Twisted: registerProducer's pauseProducing, by hand
 *
 *   bytes   0: it takes nothing, as a peer that doesn't read; RONDO_TEST_ANY_ROOM: everything, as in the beginning */
void rondo_test_set_room(rondo_test_peer *peer, size_t bytes);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
