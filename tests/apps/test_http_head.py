"""rondo-http-head prints the headers of a page, whatever the server is like."""
import http.server
import socket
import struct
import threading
import unittest

import server as s
from server import receive_all

HEADERS = b"HTTP/1.1 200 Fine\r\nX-One: 1\r\nX-Two: zwei\r\n\r\n"


class Scripted:
    """Takes the request, and answers with pieces of bytes; then closes, or resets."""

    def __init__(self, *pieces, reset=False):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.request = b""
        self.thread = threading.Thread(target=self._run, args=(pieces, reset))
        self.thread.start()

    def _run(self, pieces, reset):
        sock = self.listener.accept()[0]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock:
            while not self.request.endswith(b"\r\n\r\n"):
                self.request += sock.recv(4096)
            try:
                for piece in pieces:
                    sock.sendall(piece)
            except ConnectionError:
                pass  # it has seen enough
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def join(self):
        self.thread.join()
        self.listener.close()
        return self.request


class HttpHead(unittest.TestCase):
    def head(self, url):
        return s.run("http-head", url)

    def answered_by(self, *pieces, path="/", **named):
        server = Scripted(*pieces, **named)
        result = self.head(f"http://127.0.0.1:{server.port}{path}")
        self.request = server.join()
        return result

    def test_the_headers_are_printed_and_the_request_is_as_it_should_be(self):
        status, out, err = self.answered_by(HEADERS + b"body\r\nmore", path="/a/b?c=d#e")
        self.assertEqual((status, out, err), (0, "HTTP/1.1 200 Fine\nX-One: 1\nX-Two: zwei\n", ""))
        lines = self.request.split(b"\r\n")
        self.assertEqual(lines[0], b"HEAD /a/b?c=d HTTP/1.0")
        self.assertRegex(lines[1], rb"Host: 127\.0\.0\.1:\d+$")

    def test_cut_at_any_place(self):
        for cut in range(1, len(HEADERS)):
            status, out, err = self.answered_by(HEADERS[:cut], HEADERS[cut:])
            self.assertEqual((status, out, err), (0, "HTTP/1.1 200 Fine\nX-One: 1\nX-Two: zwei\n", ""))

    def test_a_careless_server(self):
        status, out, err = self.answered_by(HEADERS.replace(b"\r\n", b"\n") + b"body\n")
        self.assertEqual((status, out, err), (0, "HTTP/1.1 200 Fine\nX-One: 1\nX-Two: zwei\n", ""))

    def test_a_real_server(self):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *arguments):
                pass
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                status, out, err = self.head(f"http://localhost:{server.server_port}")
            finally:
                server.shutdown()
                thread.join()
        self.assertEqual((status, err), (0, ""))
        self.assertRegex(out, r"(?s)^HTTP/1\.0 200 OK\n.*Content-type: ")

    def test_headers_that_do_not_end(self):
        status, out, err = self.answered_by(HEADERS[:-2])
        self.assertEqual((status, out), (1, "HTTP/1.1 200 Fine\nX-One: 1\nX-Two: zwei\n"))
        self.assertIn("the server ended before its headers did", err)

    def test_a_header_without_an_end(self):
        status, _, err = self.answered_by(*[b"x" * 10000] * 30)
        self.assertEqual(status, 1)
        self.assertIn("longer than 64 KiB", err)

    def test_nothing(self):
        status, out, err = self.answered_by()
        self.assertEqual((status, out), (1, ""))
        self.assertIn("the server ended before its headers did", err)

    def test_a_reset(self):
        status, _, err = self.answered_by(b"HTTP/1.1 200", reset=True)
        self.assertEqual(status, 1)
        self.assertIn("Connection reset by peer", err)

    def test_nobody_listens(self):
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            status, _, err = self.head(f"http://127.0.0.1:{held.getsockname()[1]}/")
        self.assertEqual(status, 1)
        self.assertIn("Connection refused", err)

    def test_what_is_no_page(self):
        for url in "https://localhost/", "localhost", "http://", "http:///x", "http://a b/", "http://" + "h" * 300 + "/":
            with self.subTest(url=url):
                status, out, err = self.head(url)
                self.assertEqual((status, out), (1, ""))
                self.assertEqual(err.count("\n"), 1)
        self.assertEqual(s.run("http-head")[0], 2)
        self.assertEqual(s.run("http-head", "http://a", "http://b")[0], 2)


unittest.main()
