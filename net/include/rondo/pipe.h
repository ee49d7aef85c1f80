/* Pipes: FIFOs, sockets and character devices, one end of them, in one direction.
 * asyncio: connect_read_pipe, connect_write_pipe
 *
 *   static void data_received(rondo_transport *t, rondo_bytes data)
 *   {
 *       (void)t;
 *       rondo_log(RONDO_LOG_INFO, "read: %.*s", (int)data.size, data.data);
 *   }
 *
 *   static const rondo_protocol reader = { .name = "reader", .data_received = data_received };
 *
 *   static int shard_start(rondo_loop *loop)
 *   {
 *       return rondo_connect_read_pipe(loop, 0, &reader, NULL);
 *   }
 *
 *   int main(void)
 *   {
 *       const rondo_app app = { .shards = 1, .shard_start = shard_start };
 *       return rondo_run(&app) < 0;
 *   }
 *
 * Thread: the loop's, for every call here (asserted). */
#ifndef RONDO_PIPE_H
#define RONDO_PIPE_H

#include <rondo/loop.h>
#include <rondo/protocol.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* A pipe is a transport as any other, with the protocol of <rondo/protocol.h>, in one of two directions:
 *
 *   to read    data_received, eof_received; then it closes, whatever that returns, and connection_lost follows. What is
 *              written to it is dropped, with a line in the log
 *   to write   rondo_write, rondo_writelines, rondo_sendfile, producers, the water marks. rondo_write_eof is
 *              rondo_close: it sends what is queued and closes, since a pipe has no other end of file. When nobody reads
 *              any more connection_lost comes by itself: -EPIPE if bytes are left, else 0. (Of a terminal nobody knows.)
 *
 * rondo_abort drops what is queued. At a drain the one to read delivers what had arrived and closes, the one to write sends
 * what is queued and closes. Neither counts as a connection, and the idle timeout isn't for them. */

/* Make a transport of a descriptor.    asyncio: connect_read_pipe, connect_write_pipe
 *
 *   fd   of a pipe, a FIFO, a socket, a terminal or another character device; rondo's on success, else still yours. Of 0, 1
 *        and 2 the transport takes what stands behind them, and /dev/null stands there from then on: so no other file of the
 *        process can become its stdin, stdout or stderr
 *   t    set on success, may be NULL. connection_made comes from the loop
 *
 * It shall not block, which is a property that processes share with a descriptor: of a pipe, or a terminal, the transport
 * takes one of its own where the system allows it (by /proc/self/fd); else it's set, and set back at the end.
 *
 * Returns 0; -EINVAL: something else, such as a regular file or a folder (read and write those; see rondo_sendfile), or no
 * protocol; -EBADF: no descriptor, or one that isn't open in this direction; -ESHUTDOWN: the shard is draining; -EMFILE,
 * -ENOMEM; each but -ESHUTDOWN with a line in the log; -ENOTSUP: in a test of <rondo/testing.h>. */
int rondo_connect_read_pipe(rondo_loop *loop, int fd, const rondo_protocol *protocol, rondo_transport **t);
int rondo_connect_write_pipe(rondo_loop *loop, int fd, const rondo_protocol *protocol, rondo_transport **t);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
