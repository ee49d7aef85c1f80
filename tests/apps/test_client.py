"""rondo-client sends its words, or standard input, half-closes, and prints what comes back."""
import os
import signal
import socket
import struct
import subprocess
import threading
import unittest

import server as s
from server import ServerTest, data_of, receive, receive_all

MIB = 1024 * 1024


class OneClient:
    """A listening socket and a function that serves the one connection that comes; what it returns is kept."""

    def __init__(self, serve, path=None):
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listener.bind(path or ("127.0.0.1", 0))
        self.listener.listen()
        self.listener.settimeout(s.PATIENCE)
        self.url = f"unix://{path}" if path else f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.got = None
        self.thread = threading.Thread(target=self._run, args=(serve,))
        self.thread.start()

    def _run(self, serve):
        sock = self.listener.accept()[0]
        with sock:
            sock.settimeout(s.PATIENCE)
            self.got = serve(sock)

    def join(self):
        self.thread.join()
        self.listener.close()
        return self.got


def take_all_then_answer(answer):
    def serve(sock):
        got = receive_all(sock)
        sock.sendall(answer)
        return got
    return serve


def echo(sock):
    total = 0
    while some := sock.recv(65536):
        sock.sendall(some)
        total += len(some)
    return total


class Client:
    api = None

    def run_client(self, *words, stdin=b"", options=()):
        done = subprocess.run([s.path_of("client"), "--api", self.api, *options, *words], input=stdin, capture_output=True,
                              timeout=s.PATIENCE)
        self.assertFalse(s.report_of_sanitizer(done.stderr.decode()))
        return done.returncode, done.stdout, done.stderr.decode()

    def test_words_are_sent_as_lines_then_it_half_closes_and_prints_the_answer(self):
        peer = OneClient(take_all_then_answer(b"an answer\nwithout an end"))
        self.assertEqual(self.run_client(peer.url, "hello", "wörld", ""), (0, b"an answer\nwithout an end", ""))
        self.assertEqual(peer.join(), "hello\nwörld\n\n".encode())

    def test_raw_words_are_sent_as_they_are(self):
        peer = OneClient(take_all_then_answer(b""))
        self.assertEqual(self.run_client(peer.url, "one", "two", options=["--raw"]), (0, b"", ""))
        self.assertEqual(peer.join(), b"onetwo")

    def test_standard_input_is_sent(self):
        data = data_of(3 * MIB)
        peer = OneClient(take_all_then_answer(data[::-1]))
        status, out, err = self.run_client(peer.url, stdin=data)
        self.assertEqual((status, err), (0, ""))
        self.assert_same(out, data[::-1])
        self.assert_same(peer.join(), data)

    def test_no_input_at_all(self):
        peer = OneClient(take_all_then_answer(b"bye"))
        self.assertEqual(self.run_client(peer.url), (0, b"bye", ""))
        self.assertEqual(peer.join(), b"")

    def test_megabytes_go_out_while_others_come_back(self):
        data = data_of(20 * MIB)
        peer = OneClient(echo)
        status, out, err = self.run_client(peer.url, stdin=data)
        self.assertEqual((status, err), (0, ""))
        self.assert_same(out, data)
        self.assertEqual(peer.join(), len(data))

    def test_words_that_are_options_of_nobody(self):
        peer = OneClient(take_all_then_answer(b""))
        self.assertEqual(self.run_client("--", peer.url, "--raw", "-l"), (0, b"", ""))
        self.assertEqual(peer.join(), b"--raw\n-l\n")

    def test_by_a_unix_socket(self):
        path = f"\0rondo-test-client-{os.getpid()}-{self.api}"
        listener = OneClient(take_all_then_answer(b"good"), path)
        self.assertEqual(self.run_client("unix://@" + path[1:], "x"), (0, b"good", ""))
        self.assertEqual(listener.join(), b"x\n")

    def test_our_own_servers(self):
        for program in ("line",), ("echo",), ("echo", "--api", "stream"), ("line", "--api", "stream"):
            with self.subTest(program=program):
                server = self.serve(*program)
                url = f"tcp://127.0.0.1:{server.addresses[0][1]}"
                self.assertEqual(self.run_client(url, "one", "two"), (0, b"one\ntwo\n", ""))

    def test_interactively_each_line_is_answered_before_the_next(self):
        server = self.serve("line")
        with subprocess.Popen([s.path_of("client"), "--api", self.api, f"tcp://127.0.0.1:{server.addresses[0][1]}"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            for line in b"one\n", b"two\n":
                client.stdin.write(line)
                client.stdin.flush()
                self.assertEqual(client.stdout.readline(), line)
            client.stdin.close()
            self.assertEqual(client.stdout.read(), b"")
            self.assertEqual(client.wait(s.PATIENCE), 0)

    def test_it_ends_with_the_server_also_while_input_is_awaited(self):
        peer = OneClient(lambda sock: sock.sendall(b"go away\n"))
        with subprocess.Popen([s.path_of("client"), "--api", self.api, peer.url], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as client:
            peer.join()
            self.assertEqual(client.wait(s.PATIENCE), 0)
            self.assertEqual(client.stdout.read(), b"go away\n")

    def test_a_signal_ends_it(self):
        heard = threading.Event()

        def listen(sock):
            receive(sock, 1)
            heard.set()
            receive_all(sock)

        peer = OneClient(listen)
        with subprocess.Popen([s.path_of("client"), "--api", self.api, peer.url], stdin=subprocess.PIPE) as client:
            client.stdin.write(b"x")
            client.stdin.flush()
            self.assertTrue(heard.wait(s.PATIENCE))
            client.send_signal(signal.SIGTERM)
            self.assertEqual(client.wait(s.PATIENCE), 0)
        peer.join()

    def test_a_reset_is_told(self):
        def reset_after_a_byte(sock):
            receive(sock, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer = OneClient(reset_after_a_byte)
        status, _, err = self.run_client(peer.url, stdin=data_of(4 * MIB))
        peer.join()
        self.assertEqual(status, 1)
        self.assertRegex(err, r"error: tcp://127\.0\.0\.1:\d+: (Connection reset by peer|Broken pipe)")

    def test_a_reset_at_once(self):
        def reset(sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for _ in range(20):  # the connection may be lost before, or after, anything of it is known
            peer = OneClient(reset)
            status, out, err = self.run_client(peer.url, "hello")
            peer.join()
            self.assertEqual((status, out), (1, b""))
            self.assertRegex(err, r"^(warning|error): .*(Connection reset by peer|Broken pipe)")

    def test_nobody_listens(self):
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            url = f"tcp://127.0.0.1:{held.getsockname()[1]}"
            status, out, err = self.run_client(url, "hello")
        self.assertEqual((status, out), (1, b""))
        self.assertIn(f"can't connect to {url}", err)
        self.assertIn("Connection refused", err)
        self.assertEqual(err.count("\n"), 1)

    def test_wrong_usage_is_told(self):
        for words, wanted in ([], "URL [MESSAGE...] is wanted"), (["--listen", "tcp://:1", "x"], "--listen: is for servers, and this program is none"), \
                (["--api", "both", "x"], "protocol|stream is wanted"):
            with self.subTest(words=words):
                status, out, err = self.run_client(*words)
                self.assertEqual((status, out), (2, b""))
                self.assertIn(wanted, err)

    def test_an_address_that_is_none(self):
        status, _, err = self.run_client("localhost:7777", "hello")
        self.assertEqual(status, 1)
        self.assertIn("localhost:7777", err)


class ByCallbacks(Client, ServerTest):
    api = "protocol"


class ByTasks(Client, ServerTest):
    api = "stream"


unittest.main()
