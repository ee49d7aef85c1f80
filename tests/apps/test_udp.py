"""Datagrams: rondo-echo serves them on its shards, to sockets, to asyncio, to rondo-udp-client, which also talks to asyncio's
servers; Unix datagrams; shortage, floods, refusals, and the end."""
import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import server as s
from server import ServerTest, data_of

UDP4 = "udp://127.0.0.1:0"
UDP6 = "udp://[::1]:0"


def udp_client(*words, **popen):
    popen = {"stdin": subprocess.DEVNULL, **popen}
    return subprocess.run([s.path_of("udp-client"), *words], capture_output=True, timeout=s.PATIENCE, **popen)


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


class Collecting(asyncio.DatagramProtocol):
    def __init__(self):
        self.got, self.errors, self.came = [], [], asyncio.Event()

    def datagram_received(self, data, address):
        self.got.append(data)
        self.came.set()

    async def wait_for(self, count):
        while len(self.got) < count:
            self.came.clear()
            await asyncio.wait_for(self.came.wait(), s.PATIENCE)

    def error_received(self, error):
        self.errors.append(error)


class Udp(ServerTest):
    def client(self, server, address=None):
        address = address or server.addresses[0]
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(s.PATIENCE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.connect(address)
        self.addCleanup(sock.close)
        return sock

    def assert_echoes(self, sock, data):
        sock.send(data)
        self.assert_same(sock.recv(70000), data)

    def test_every_size_comes_back_whole(self):
        server = self.serve("echo", listen=(UDP4, UDP6))
        for address in server.addresses:
            sock = self.client(server, address)
            for size in (1, 0, 2, 64, 0, 1400, 1500, 9000, 65000, 65507, 1):
                self.assert_echoes(sock, data_of(size))

    def test_clients_of_all_shards_are_answered_in_order(self):
        server = self.serve("echo", "--shards", "3", listen=(UDP4,))
        socks = [self.client(server) for _ in range(30)]
        for turn in range(20):
            for sock in socks:
                for i in range(10):
                    sock.send(b"%d %d" % (turn, i))
            for sock in socks:
                self.assertEqual([sock.recv(100) for _ in range(10)], [b"%d %d" % (turn, i) for i in range(10)])
        busy = [shard for shard in server.report() if shard["bytes_in"] > 0]
        self.assertGreaterEqual(len(busy), 2)

    def test_it_serves_tcp_at_the_same_port_beside_it(self):
        server = self.serve("echo", listen=("tcp://127.0.0.1:0",))
        other = self.serve("echo", listen=(f"udp://127.0.0.1:{server.addresses[0][1]}",))
        self.assertTrue(server.serves())
        self.assert_echoes(self.client(other), b"both")

    def test_a_port_that_somebody_has_is_refused(self):
        server = self.serve("echo", listen=(UDP4,))
        with self.assertRaises(s.Refused) as refused:
            s.Server("echo", listen=(f"udp://127.0.0.1:{server.addresses[0][1]}",))
        self.assertIn("Address already in use", refused.exception.stderr)

    def test_a_protocol_of_streams_alone_is_no_server_of_datagrams(self):
        with self.assertRaises(s.Refused) as refused:
            s.Server("qotd", listen=(UDP4,))
        self.assertIn("datagram", refused.exception.stderr)

    def test_a_flood_loses_datagrams_but_neither_memory_nor_the_server(self):
        server = self.serve("echo", "--shards", "1", listen=(UDP4,))
        sock = self.client(server)
        for size in (64, 1400, 60000):
            for _ in range(3000):
                sock.send(data_of(size))
        sock.setblocking(False)
        time_is_up = time.monotonic() + s.PATIENCE

        def ends_quietly():
            assert time.monotonic() < time_is_up
            try:
                sock.recv(70000)
                return False
            except BlockingIOError:
                return s.quiet(sock, 0.2)

        s.until(ends_quietly, "the answers")
        sock.settimeout(s.PATIENCE)
        self.assert_echoes(sock, b"still there")
        self.assertEqual(server.total("buffers_lent"), 0)

    def test_peers_that_have_gone_hurt_nobody(self):
        server = self.serve("echo", "--shards", "1", listen=(UDP4,))
        for _ in range(200):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
                gone.sendto(b"no answer wanted", server.addresses[0])
        self.assert_echoes(self.client(server), b"others are answered")

    def test_the_end_answers_what_had_arrived(self):
        server = self.serve("echo", "--shards", "1", listen=(UDP4,))
        sock = self.client(server)
        self.assert_echoes(sock, b"there")
        server.signal(signal.SIGSTOP)
        for i in range(100):
            sock.send(b"%d" % i)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        self.assertEqual([sock.recv(100) for _ in range(100)], [b"%d" % i for i in range(100)])
        self.assertEqual(server.wait_for_exit(), 0)

    def test_health_is_told_of_udp_too(self):
        server = self.serve("echo", listen=(UDP4,))
        url = f"udp://127.0.0.1:{server.addresses[0][1]}"
        self.assertEqual(s.run("echo", "--healthcheck", url)[0], 0)
        server.stop()
        status, _, stderr = s.run("echo", "--healthcheck", url)
        self.assertEqual(status, 1)
        self.assertIn("not ready", stderr)

    # ---- asyncio ----

    def test_asyncio_is_answered(self):
        async def talk(address):
            loop = asyncio.get_running_loop()
            datagrams = [data_of(i * 37 % 3000, i) for i in range(200)]
            transport, protocol = await loop.create_datagram_endpoint(Collecting, remote_addr=address)
            for i, datagram in enumerate(datagrams):
                transport.sendto(datagram if datagram else b"-")
                if i % 20 == 19:  # no more than its socket holds
                    await protocol.wait_for(i + 1)
            transport.close()
            self.assertEqual(protocol.errors, [])
            self.assertEqual(protocol.got, [datagram or b"-" for datagram in datagrams])

        server = self.serve("echo", listen=(UDP4,))
        asyncio.run(talk(server.addresses[0]))

    def test_asyncio_answers_our_client(self):
        ready, done = threading.Event(), threading.Event()
        ports = []

        async def answer():
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
            ports.append(transport.get_extra_info("sockname")[1])
            ready.set()
            await loop.run_in_executor(None, done.wait)
            transport.close()

        thread = threading.Thread(target=lambda: asyncio.run(answer()))
        thread.start()
        try:
            self.assertTrue(ready.wait(s.PATIENCE))
            result = udp_client(f"udp://127.0.0.1:{ports[0]}", "one", "two", "three")
            self.assertEqual((result.returncode, result.stdout), (0, b"one\ntwo\nthree\n"))
        finally:
            done.set()
            thread.join()

    # ---- the client ----

    def test_the_client_sends_words_lines_and_files(self):
        server = self.serve("echo", listen=(UDP4,))
        url = f"udp://127.0.0.1:{server.addresses[0][1]}"
        result = udp_client(url, "hello", "world")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, b"hello\nworld\n", b""))
        lines = b"".join(b"line %d\n" % i for i in range(100))
        read, write = os.pipe()
        os.write(write, lines)
        os.close(write)
        result = udp_client(url, stdin=read)
        os.close(read)
        self.assertEqual((result.returncode, result.stdout), (0, lines))
        with tempfile.TemporaryFile() as file:
            file.write(lines + b"unfinished")
            file.seek(0)
            result = udp_client(url, stdin=file)
        self.assertEqual((result.returncode, result.stdout), (0, lines + b"unfinished\n"))

    def test_the_client_says_that_nobody_is_there(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            result = udp_client("--wait", "100", f"udp://127.0.0.1:{port}", "x")
            self.assertEqual(result.returncode, 1)
            self.assertIn(b"no answer in 100 ms", result.stderr)
        result = udp_client(f"udp://127.0.0.1:{port}", "x")
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"Connection refused", result.stderr)

    def test_the_client_refuses_what_it_cant_do(self):
        for words, status, said in ((("udp://127.0.0.1", "x"), 1, b"no port"), ((), 2, b"URL"),
                                    (("tcp://127.0.0.1:1", "x"), 1, b"udp://"),
                                    (("--wait", "soon", "udp://127.0.0.1:1"), 2, b"--wait soon"),
                                    (("udp://127.0.0.1:9", "x" * 70000), 1, b"Message too long")):
            result = udp_client(*words)
            self.assertEqual(result.returncode, status, words)
            self.assertIn(said, result.stderr)

    # ---- Unix ----

    def test_unix_datagrams(self):
        with tempfile.TemporaryDirectory() as folder:
            path, own = folder + "/echo.sock", folder + "/client.sock"
            server = self.serve("echo", "--shards", "2", listen=(f"unixgram://{path}?mode=0600",))
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(s.PATIENCE)
                sock.bind(own)
                sock.connect(path)
                for size in (1, 0, 100, 60000):
                    self.assert_echoes(sock, data_of(size))
                sock.send(bytes(100000))  # more than a buffer holds
                server.wait_for("a datagram of more than")
                sent = 0
                sock.settimeout(0.001)
                while sent < 500:  # far more than the queues hold: nobody reads
                    try:
                        sent += sock.send(b"%-3d" % sent) > 0
                    except TimeoutError:
                        break
                sock.settimeout(s.PATIENCE)
                self.assertEqual([sock.recv(100) for _ in range(sent)], [b"%-3d" % i for i in range(sent)])
            server.stop()
            self.assertFalse(os.path.exists(path))


unittest.main()
