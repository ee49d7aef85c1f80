"""Peers that reset, vanish, or never read: others are served as before, and all that they held comes back."""
import os
import select
import signal
import socket
import unittest

import server as s
from server import ServerTest, data_of, receive, reset, stream, stuff, until, was_reset

MIB = 1024 * 1024
WAYS = ("--receive", "data"), ("--receive", "buffer"), ("--api", "stream")


class Peers:
    program = "echo"
    options = ()
    shards = 1

    def setUp(self):
        # Freed memory shall come back also under AddressSanitizer, or nothing could be said of growth.
        sanitizer = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"
        self.server = self.serve(self.program, "--shards", str(self.shards), *self.options,
                                 env=os.environ | {"ASAN_OPTIONS": sanitizer})
        self.data = b"%063d\n" % 7 * 65536  # lines for the one, bytes for the other
        self.assertTrue(self.server.serves())
        until(lambda: self.server.total("connections_open") == 0, "the first client is gone")
        self.descriptors = self.server.descriptors()

    def assert_as_before(self):
        for address in self.server.addresses:
            with self.server.connect(address) as sock:
                self.assert_same(stream(sock, self.data), self.data)
        self.assert_all_back(self.server, self.descriptors)

    def each_client(self, count=20):
        for i in range(count):
            yield self.connect(self.server, self.server.addresses[i % 2])

    def test_reset_at_once(self):
        for sock in self.each_client():
            reset(sock)
        self.assert_as_before()

    def test_reset_while_waiting_to_be_accepted(self):
        self.server.signal(signal.SIGSTOP)
        for sock in self.each_client():
            reset(sock)
        for sock in self.each_client():
            sock.sendall(b"hello\n")
            reset(sock)
        self.server.signal(signal.SIGCONT)
        self.assert_as_before()

    def test_reset_with_the_answer_on_its_way(self):
        for sock in self.each_client():
            sock.sendall(b"hello\n")
            reset(sock)
        self.assert_as_before()

    def test_reset_after_the_answer(self):
        for sock in self.each_client():
            sock.sendall(b"hello\n")
            self.assertEqual(receive(sock, 6), b"hello\n")
            reset(sock)
        self.assert_as_before()

    def test_reset_with_megabytes_under_way(self):
        for sock in self.each_client(8):
            self.assertGreater(stuff(sock, self.data), 0)
            reset(sock)
        self.assert_as_before()

    def test_reset_in_the_middle_of_the_answer(self):
        for sock in self.each_client(8):
            stuff(sock, self.data)
            self.assert_same(receive(sock, 100_000), self.data[:100_000])
            reset(sock)
        self.assert_as_before()

    def test_reset_after_a_half_close_with_megabytes_queued(self):
        for sock in self.each_client(8):
            stuff(sock, self.data)
            sock.shutdown(socket.SHUT_WR)
            reset(sock)
        self.assert_as_before()

    def test_close_with_the_answer_unread(self):
        for sock in self.each_client(8):
            stuff(sock, self.data[:MIB])
            sock.close()
        self.assert_as_before()

    def test_peers_that_never_read_cost_little_and_no_one_else(self):
        vanished = [self.connect(self.server, self.server.addresses[i % 2], receive_bytes=16384, send_bytes=65536)
                    for i in range(32)]
        before = self.server.rss_bytes()
        self.stuff_all(vanished, self.data + self.data)

        for address in self.server.addresses:
            with self.server.connect(address) as sock:
                self.assert_same(stream(sock, self.data), self.data)
        # Each holds what one turn of the loop can receive and the high-water mark; and the shards' buffers are touched.
        report = self.server.report()
        held = sum(shard["bytes_in"] - shard["bytes_out"] for shard in report)
        self.assertLess(held, 32 * MIB)
        for shard in report:
            self.assertGreater(shard["buffers_free"], 0, "the others' buffers")
        wanted = 2 * 32 * MIB + self.shards * 20 * MIB
        self.assertLess(self.server.rss_bytes() - before, (5 if s.is_sanitized() else 1) * wanted)

        for sock in vanished:
            sock.close()
        self.assert_as_before()

    def stuff_all(self, socks, data):
        """As stuff, for many: until none of them has taken anything for a while."""
        view = memoryview(data)
        sent = dict.fromkeys(socks, 0)
        for sock in socks:
            sock.setblocking(False)
        while sent:
            ready = select.select([], list(sent), [], 0.5)[1]
            if not ready:
                return
            for sock in ready:
                sent[sock] += sock.send(view[sent[sock]:sent[sock] + 65536])
                if sent[sock] == len(data):
                    del sent[sock]

    def test_thousands_of_short_connections_leave_nothing(self):
        self.many_short_connections(3000)
        before = self.server.rss_bytes()
        self.many_short_connections(3000)
        grown = self.server.rss_bytes() - before
        self.assertLess(grown, (16 if s.is_sanitized() else 1) * MIB)
        self.assert_as_before()

    def many_short_connections(self, count):
        """Most end in order; each tenth resets, each tenth goes without its answer."""
        for i in range(count):
            with self.server.connect(self.server.addresses[i % 2]) as sock:
                sock.sendall(b"hello\n")
                if i % 10 == 3:
                    reset(sock)
                elif i % 10 != 7:
                    self.assertEqual(receive(sock, 6), b"hello\n")
        until(lambda: self.server.total("connections_open") == 0, "all connections are closed")

    def test_no_worker_threads_of_the_kernel_come_up(self):
        for sock in self.each_client(8):
            stuff(sock, self.data[:MIB])
            sock.close()
        self.assert_as_before()
        names = list(self.server.threads().values())
        self.assertEqual([name for name in names if name.startswith("iou-wrk")], [])


class PeersOfEchoOnOneShard(Peers, ServerTest):
    pass


class PeersOfEchoOnTwoShards(Peers, ServerTest):
    shards = 2


class PeersOfBufferedEcho(Peers, ServerTest):
    options = ("--receive", "buffer")


class PeersOfStreams(Peers, ServerTest):
    options = ("--api", "stream")


class PeersOfLine(Peers, ServerTest):
    program = "line"
    shards = 2


class SlowOnes(ServerTest):
    def test_an_idle_client_sees_eof_and_an_active_one_stays(self):
        for way in WAYS:
            with self.subTest(way=way):
                server = self.serve("echo", "--idle-timeout", "1", *way)
                idle, active = self.connect(server), self.connect(server, server.addresses[1])
                idle.sendall(b"x")
                self.assertEqual(receive(idle, 1), b"x")
                ended = False
                while not ended:
                    active.sendall(b"y")
                    self.assertEqual(receive(active, 1), b"y")
                    ended = bool(select.select([idle], [], [], 0.05)[0])
                self.assertEqual(idle.recv(1), b"")
                for _ in range(30):  # for longer than the timeout, which has passed for the idle one
                    active.sendall(b"y")
                    self.assertEqual(receive(active, 1), b"y")
                    self.assertTrue(s.quiet(active, 0.05))

    def test_an_idle_client_that_never_said_anything_sees_eof(self):
        server = self.serve("line", "--idle-timeout", "0.3")
        for address in server.addresses:
            self.assertEqual(self.connect(server, address).recv(1), b"")

    def test_a_client_that_never_reads_is_reset_when_idle(self):
        for way in WAYS:
            with self.subTest(way=way):
                server = self.serve("echo", "--idle-timeout", "0.3", *way)
                sock = self.connect(server, receive_bytes=16384)
                sock.setblocking(False)
                try:
                    while select.select([], [sock], [], 0.1)[1]:
                        sock.send(data_of(65536))
                except ConnectionError:
                    pass  # so fast that it was reset meanwhile
                else:
                    self.assertTrue(was_reset(sock))
                sock.close()
                self.assert_all_back(server)

    def test_a_third_client_is_closed_at_once_when_two_are_allowed(self):
        server = self.serve("echo", "--max-connections", "2", "--shards", "2")
        first, second = self.connect(server), self.connect(server, server.addresses[1])
        for sock in first, second:
            sock.sendall(b"x")
            self.assertEqual(receive(sock, 1), b"x")
        for address in server.addresses:
            self.assertEqual(self.connect(server, address).recv(1), b"")
        server.wait_for("--max-connections")

        first.close()
        until(lambda: self.is_served(server), "a new client is served after one has left")
        second.sendall(b"y")
        self.assertEqual(receive(second, 1), b"y")
        self.assertEqual(server.count("--max-connections"), 1, "said once:\n" + server.stderr)

    def is_served(self, server):
        try:
            return server.serves()
        except ConnectionError:
            return False


if __name__ == "__main__":
    unittest.main()
