"""SIGTERM drains: what had arrived is answered, the answers arrive, each connection ends by EOF, exit status 0."""
import asyncio
import random
import select
import signal
import socket
import subprocess
import threading
import time
import unittest

import server as s
from server import ServerTest, data_of, receive, receive_all, stuff, unacknowledged, until, was_reset

MIB = 1024 * 1024
RECEIVE_WAYS = ("--receive", "data"), ("--receive", "buffer"), ("--api", "stream")
STREAM = "--api", "stream"
LINES = b"".join(b"%0*d\n" % (i % 900 + 1, i) for i in range(3000))


class Quiet(ServerTest):
    def test_an_idle_server_ends(self):
        for program in "echo", "line":
            for number in signal.SIGTERM, signal.SIGINT:
                with self.subTest(program=program, signal=number.name):
                    server = self.serve(program, "--shards", "2")
                    server.signal(number)
                    self.assertEqual(server.wait_for_exit(), 0)

    def test_idle_connections_see_eof(self):
        for program, *options in InTheAcceptQueue.CASES:
            with self.subTest(program=program, options=options):
                server = self.serve(program, "--shards", "2", *options)
                idle = [self.connect(server, server.addresses[i % 2]) for i in range(20)]
                for sock in idle:
                    sock.sendall(b"hello\n")
                    self.assertEqual(receive(sock, 6), b"hello\n")
                server.signal(signal.SIGTERM)
                for sock in idle:
                    self.assertEqual(sock.recv(1), b"")
                    sock.close()
                self.assertEqual(server.wait_for_exit(), 0)

    def test_connections_that_never_said_anything_see_eof(self):
        server = self.serve("echo", "--receive", "buffer")
        silent = [self.connect(server, server.addresses[i % 2]) for i in range(20)]
        until(lambda: server.total("connections_open") == 20, "all are accepted")
        server.signal(signal.SIGTERM)
        for sock in silent:
            self.assertEqual(sock.recv(1), b"")
            sock.close()
        self.assertEqual(server.wait_for_exit(), 0)

    def test_clients_that_do_not_close_hold_it_up_for_a_moment_only(self):
        server = self.serve("echo", "--drain-timeout", "100")
        idle = [self.connect(server) for _ in range(20)]
        self.assertTrue(server.serves())
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait_for_exit(), 0)
        for sock in idle:
            self.assertEqual(sock.recv(1), b"")

    def test_nobody_can_connect_after_the_end_and_a_new_server_can_take_the_port(self):
        server = self.serve("echo")
        sock = self.connect(server)
        self.assertEqual(server.stop(), 0)
        sock.close()
        for address in server.addresses:
            with self.assertRaises(ConnectionRefusedError):
                server.connect(address)
        (_, port), _ = server.addresses
        again = self.serve("echo", listen=[f"tcp://127.0.0.1:{port}"])
        self.assertTrue(again.serves())


class Queued(ServerTest):
    """Megabytes on their way when the signal comes."""

    def signal_with_megabytes_queued(self, receive_way):
        server = self.serve("echo", *receive_way, "--drain-timeout", "60")
        data = data_of(16 * MIB)
        sock = self.connect(server, receive_bytes=65536)
        sent = stuff(sock, data)
        self.assertGreater(sent, MIB)
        arrived = sent - unacknowledged(sock)
        server.signal(signal.SIGTERM)
        server.wait_for("draining")
        return server, sock, data[:sent], arrived

    def test_a_slow_reader_gets_every_byte_that_the_server_had_then_eof(self):
        for receive_way in RECEIVE_WAYS:
            with self.subTest(receive=receive_way):
                server, sock, data, arrived = self.signal_with_megabytes_queued(receive_way)
                got = bytearray()
                while some := sock.recv(30_000):
                    got += some
                    select.select([], [], [], 0.001)  # slow
                self.assertGreaterEqual(len(got), arrived)
                self.assert_same(bytes(got), data[:len(got)])
                sock.close()
                self.assertEqual(server.wait_for_exit(), 0)

    def test_a_slow_reader_that_goes_on_sending_gets_every_byte_then_eof(self):
        """What it sends after the server has ended must not reset the connection before it has read."""
        server = self.serve("echo", "--drain-timeout", "60")
        data = data_of(2 * MIB)
        sock = self.connect(server, receive_bytes=65536, send_bytes=65536)
        sent = bytearray(data[:stuff(sock, data)])
        arrived = len(sent) - unacknowledged(sock)
        self.assertGreater(arrived, MIB)
        server.signal(signal.SIGTERM)
        server.wait_for("draining")
        got, may_send = bytearray(), True
        while some := sock.recv(20_000):
            got += some
            if len(got) < arrived and may_send:
                try:
                    sock.sendall(b"z")
                    sent += b"z"  # one may be received together with what had arrived, and be answered
                except BrokenPipeError:  # our kernel has had the whole answer, and the EOF, for a second: nothing is lost
                    may_send = False
                select.select([], [], [], 0.02)  # slow
        self.assertGreaterEqual(len(got), arrived)
        self.assert_same(bytes(got), bytes(sent[:len(got)]))
        sock.close()
        self.assertEqual(server.wait_for_exit(), 0)

    def test_a_half_closed_reader_gets_every_byte_then_eof(self):
        for receive_way in RECEIVE_WAYS:
            with self.subTest(receive=receive_way):
                server = self.serve("echo", *receive_way, "--drain-timeout", "60")
                data = data_of(2 * MIB)
                sock = self.connect(server, receive_bytes=65536)
                sender = threading.Thread(target=sock.sendall, args=(data,))
                sender.start()
                sender.join()
                sock.shutdown(socket.SHUT_WR)
                until(lambda: unacknowledged(sock) == 0 or None, "all have arrived")
                server.signal(signal.SIGTERM)
                server.wait_for("draining")
                self.assert_same(receive_all(sock), data)
                sock.close()
                self.assertEqual(server.wait_for_exit(), 0)

    def test_lines_that_had_arrived_are_answered_to_a_slow_reader(self):
        for options in (), STREAM:
            with self.subTest(options=options):
                server = self.serve("line", "--drain-timeout", "60", *options)
                sock = self.connect(server, receive_bytes=65536)
                text = LINES * 10
                sent = stuff(sock, text)
                arrived = sent - unacknowledged(sock)
                server.signal(signal.SIGTERM)
                server.wait_for("draining")
                got = receive_all(sock)
                self.assert_same(got, text[:len(got)])
                self.assertGreaterEqual(len(got), text[:arrived].rfind(b"\n") + 1)
                self.assertTrue(got.endswith(b"\n"))
                sock.close()
                self.assertEqual(server.wait_for_exit(), 0)

    def test_one_whose_line_is_too_long_learns_it_while_the_server_ends(self):
        server = self.serve("line")
        sock = self.connect(server)
        server.signal(signal.SIGSTOP)
        sock.sendall(b"fine\n" + b"x" * 40_000)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        self.assertEqual(receive_all(sock), b"fine\nline too long\n")
        sock.close()
        self.assertEqual(server.wait_for_exit(), 0)

    def signal_with_one_who_never_reads(self, *options, program="echo"):
        server = self.serve(program, *options)
        sock = self.connect(server, receive_bytes=16384, send_bytes=65536)
        stuff(sock, LINES * 10)
        self.assertTrue(server.serves())
        until(lambda: server.total("connections_open") == 1, "only the one is left")
        server.signal(signal.SIGTERM)
        server.wait_for("draining")
        return server, sock

    def test_one_who_never_reads_is_aborted_at_the_drain_timeout(self):
        for program, *options in (("echo",), ("echo", "--receive", "buffer"), ("line",), ("echo", *STREAM),
                                  ("line", *STREAM)):
            with self.subTest(program=program, options=options):
                start = time.monotonic()
                server, sock = self.signal_with_one_who_never_reads(
                    "--drain-timeout", "1", "--shards", "2", *options, program=program)
                self.assertEqual(server.wait_for_exit(), 0)
                self.assertGreater(time.monotonic() - start, 0.9)
                self.assertTrue(was_reset(sock))
                self.assertEqual(server.count("drain timeout"), 1, server.stderr)
                self.assertEqual(server.count("aborted 1 connection"), 1, server.stderr)

    def test_a_second_signal_aborts_at_once(self):
        for second in signal.SIGTERM, signal.SIGINT:
            with self.subTest(second=second.name):
                server, sock = self.signal_with_one_who_never_reads("--drain-timeout", "1000")
                server.signal(second)
                self.assertEqual(server.wait_for_exit(), 0)
                self.assertTrue(was_reset(sock))
                self.assertEqual(server.count("drain timeout"), 0, server.stderr)

    def test_reports_are_given_also_while_draining(self):
        server, sock = self.signal_with_one_who_never_reads("--drain-timeout", "1000", "--shards", "1")
        self.assertEqual(server.total("connections_open"), 1)
        sock.close()
        self.assertEqual(server.wait_for_exit(), 0)

    def test_peers_that_reset_while_it_drains_do_not_hold_it_up(self):
        server, sock = self.signal_with_one_who_never_reads("--drain-timeout", "1000")
        s.reset(sock)
        self.assertEqual(server.wait_for_exit(), 0)


class SignalsInARow(ServerTest):
    def test_a_second_signal_at_any_moment_of_the_end_does_no_harm(self):
        """The second comes when the first has ended nothing yet, some connections, some shards, or all."""
        for round_ in range(30):
            server = self.serve("echo", "--shards", "2", "--log-level", "warning")
            socks = [self.connect(server, server.addresses[i % 2]) for i in range(4)]
            for sock in socks:
                sock.sendall(b"hello\n")
                self.assertEqual(receive(sock, 6), b"hello\n")
            server.signal(signal.SIGTERM)
            for sock in socks[:round_ % 5]:
                self.assertEqual(sock.recv(1), b"")
                sock.close()
            for _ in range(20):
                server.signal(signal.SIGTERM)
            # Behind rondo_run, in the last moment of the process, a signal has its usual meaning again.
            server.status = server.wait_for_exit()
            self.assertIn(server.status, (0, -signal.SIGTERM))
            server.close()
            for sock in socks:
                sock.close()


class InTheAcceptQueue(ServerTest):
    """The server is stopped for a while, so that what comes meanwhile is queued when it sees the signal."""

    CASES = [("echo",), ("echo", "--receive", "buffer"), ("echo", *STREAM), ("line",), ("line", *STREAM)]

    def test_connections_are_answered_then_end(self):
        for program, *options in self.CASES:
            for shards in "1", "2":
                with self.subTest(program=program, options=options, shards=shards):
                    server = self.serve(program, "--shards", shards, *options)
                    server.signal(signal.SIGSTOP)
                    queued = [self.connect(server, server.addresses[i % 2]) for i in range(50)]
                    for i, sock in enumerate(queued):
                        sock.sendall(b"%d\n" % i)
                    server.signal(signal.SIGTERM)
                    server.signal(signal.SIGCONT)
                    for i, sock in enumerate(queued):
                        self.assertEqual(receive_all(sock), b"%d\n" % i)
                        sock.close()
                    self.assertEqual(server.wait_for_exit(), 0)

    def test_connections_that_had_half_closed_are_answered_then_end(self):
        for program, *options in self.CASES:
            with self.subTest(program=program, options=options):
                server = self.serve(program, *options)
                server.signal(signal.SIGSTOP)
                queued = [self.connect(server, server.addresses[i % 2]) for i in range(50)]
                for sock in queued:
                    sock.sendall(b"hello\n" * 1000)
                    sock.shutdown(socket.SHUT_WR)
                server.signal(signal.SIGTERM)
                server.signal(signal.SIGCONT)
                for sock in queued:
                    self.assert_same(receive_all(sock), b"hello\n" * 1000)
                    sock.close()
                self.assertEqual(server.wait_for_exit(), 0)

    def test_bytes_that_open_connections_had_received_are_answered(self):
        for program, *options in self.CASES:
            with self.subTest(program=program, options=options):
                server = self.serve(program, "--shards", "2", *options)
                served = [self.connect(server, server.addresses[i % 2]) for i in range(50)]
                for sock in served:
                    sock.sendall(b"hello\n")
                    self.assertEqual(receive(sock, 6), b"hello\n")
                server.signal(signal.SIGSTOP)
                for sock in served:
                    sock.sendall(LINES[:50_000])
                whole = LINES[:50_000] if program == "echo" else LINES[:LINES[:50_000].rfind(b"\n") + 1]
                for sock in served:
                    until(lambda: unacknowledged(sock) == 0 or None, "all have arrived")
                server.signal(signal.SIGTERM)
                server.signal(signal.SIGCONT)
                for sock in served:
                    self.assert_same(receive_all(sock), whole)
                    sock.close()
                self.assertEqual(server.wait_for_exit(), 0)

    def test_connections_that_were_reset_do_no_harm(self):
        server = self.serve("echo", "--shards", "2")
        server.signal(signal.SIGSTOP)
        for i in range(30):
            s.reset(self.connect(server, server.addresses[i % 2]))
        sock = self.connect(server)
        sock.sendall(b"hello\n")
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        self.assertEqual(receive_all(sock), b"hello\n")
        sock.close()
        self.assertEqual(server.wait_for_exit(), 0)


class UnderLoad:
    """asyncio clients and socat, all sending and receiving when the signal comes."""

    program = "echo"
    options = ()
    clients = 60

    def setUp(self):
        self.server = self.serve(self.program, "--shards", "2", "--drain-timeout", "60", *self.options)

    def text(self, seed):
        """Endless for the test: lines for the one program, bytes for the other."""
        return LINES if self.program == "line" else data_of(200_000, seed)

    def assert_answered(self, got, sent, text):
        """Exactly a beginning of what was sent, and, of lines, whole ones only."""
        self.assertLessEqual(len(got), sent)
        self.assert_same(got, (text * (len(got) // len(text) + 1))[:len(got)])
        if self.program == "line" and got:
            self.assertTrue(got.endswith(b"\n"))

    async def client(self, seed, heard):
        """Send on and on, not far ahead of what comes back; receive until the end of file.

        Returns what came, how much was sent, and of which text."""
        text, chance = self.text(seed), random.Random(seed)
        reader, writer = await s.open_connection(self.server.addresses[seed % len(self.server.addresses)])
        sent, got, may_send = 0, bytearray(), asyncio.Event()

        async def send():
            nonlocal sent
            while True:
                at, size = sent % len(text), chance.choice([1, 64, 700, 5000, 40_000])
                writer.write(text[at:at + size])
                sent += len(text[at:at + size])
                await writer.drain()
                while sent - len(got) > 60_000:
                    may_send.clear()
                    await may_send.wait()

        sending = asyncio.ensure_future(send())
        while some := await reader.read(65536):  # a reset raises ConnectionResetError here
            got += some
            may_send.set()
            if len(got) > 100_000:
                heard[seed].set()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass  # of what it sent after the end of file
        return bytes(got), sent, text

    def test_asyncio_clients_get_a_beginning_of_what_they_sent_then_eof(self):
        async def load():
            heard = [asyncio.Event() for _ in range(self.clients)]
            running = asyncio.gather(*(self.client(seed, heard) for seed in range(self.clients)))
            everyone = asyncio.gather(*(event.wait() for event in heard))
            await asyncio.wait([running, everyone], return_when=asyncio.FIRST_COMPLETED, timeout=s.PATIENCE)
            self.assertTrue(everyone.done(), "all are served before the signal comes")
            self.server.signal(signal.SIGTERM)
            return await asyncio.wait_for(running, s.PATIENCE)

        for got, sent, text in asyncio.run(load()):
            self.assert_answered(got, sent, text)
        self.assertEqual(self.server.wait_for_exit(), 0)
        self.assertEqual(self.server.count(r"aborting|[1-9]\d* aborted"), 0, self.server.stderr)

    def test_socat_gets_a_beginning_of_what_it_sent_then_eof(self):
        runs = []
        for address in self.server.addresses:
            process = subprocess.Popen(["socat", "-", s.socat_address(address)], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            runs.append(Socat(process, self.text(1)))
            self.addCleanup(runs[-1].end)
        for run in runs:
            self.assertTrue(run.has_heard.wait(s.PATIENCE))
        self.server.signal(signal.SIGTERM)
        for run in runs:
            run.join()
            self.assertEqual((run.status, run.stderr), (0, b""))
            self.assert_answered(bytes(run.got), run.sent, run.text)
        self.assertEqual(self.server.wait_for_exit(), 0)
        self.assertEqual(self.server.count(r"aborting|[1-9]\d* aborted"), 0, self.server.stderr)

    def test_no_connection_that_was_made_goes_without_its_answer(self):
        """Short connections, one after the other, while the listening sockets are closed."""
        async def clients(seed, counts):
            address = self.server.addresses[seed % len(self.server.addresses)]
            while True:
                try:
                    reader, writer = await asyncio.wait_for(s.open_connection(address), 0.5)
                except (OSError, TimeoutError, asyncio.TimeoutError):
                    if counts["signalled"]:
                        return
                    raise
                text = b"%d of %d\n" % (counts["made"], seed)
                writer.write(text)
                got = await reader.readline()  # a reset raises ConnectionResetError here
                self.assertEqual(got, text)
                counts["made"] += 1
                writer.close()
                try:
                    await writer.wait_closed()
                except ConnectionError:
                    pass
                if counts["made"] > 500 and not counts["signalled"]:
                    counts["signalled"] = True
                    self.server.signal(signal.SIGTERM)

        async def load():
            counts = {"made": 0, "signalled": False}
            await asyncio.wait_for(asyncio.gather(*(clients(seed, counts) for seed in range(20))), s.PATIENCE)

        asyncio.run(load())
        self.assertEqual(self.server.wait_for_exit(), 0)
        self.assertEqual(self.server.count(r"aborting|[1-9]\d* aborted"), 0, self.server.stderr)


class Socat:
    """Feeds socat's standard input, not far ahead of its output, until the server has ended."""

    def __init__(self, process, text):
        self.process, self.text = process, text
        self.got, self.stderr, self.sent, self.status = bytearray(), b"", 0, None
        self.has_heard = threading.Event()
        self.has_ended = False
        self.came = threading.Condition()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.feed, self.gather)]
        for thread in self.threads:
            thread.start()

    def feed(self):
        def may_send():
            return self.has_ended or self.sent - len(self.got) < 100_000

        while True:
            with self.came:
                self.came.wait_for(may_send)
                if self.has_ended:
                    return
            at = self.sent % len(self.text)
            piece = self.text[at:at + 5000]
            self.sent += len(piece)
            try:
                self.process.stdin.write(piece)
                self.process.stdin.flush()
            except BrokenPipeError:  # it has ended
                return

    def gather(self):
        while some := self.process.stdout.read1(65536):
            with self.came:
                self.got += some
                self.came.notify()
            if len(self.got) > MIB:
                self.has_heard.set()
        with self.came:
            self.has_ended = True
            self.came.notify()
        self.stderr = self.process.stderr.read()
        self.status = self.process.wait()

    def join(self):
        for thread in self.threads:
            thread.join(s.PATIENCE)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.join()
        for pipe in self.process.stdin, self.process.stdout, self.process.stderr:
            try:
                pipe.close()
            except BrokenPipeError:
                pass


class EchoUnderLoad(UnderLoad, ServerTest):
    pass


class BufferedEchoUnderLoad(UnderLoad, ServerTest):
    options = ("--receive", "buffer")


class LineUnderLoad(UnderLoad, ServerTest):
    program = "line"


class StreamUnderLoad(UnderLoad, ServerTest):
    options = STREAM


if __name__ == "__main__":
    unittest.main()
