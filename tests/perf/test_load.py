"""rondo-load: every mode against servers that are right, and against servers that lie, stall and break off."""
import unittest

from generator import LoadTest, s

MODES = (
    ("pingpong", "--count", 2000),
    ("pingpong", "--connections", 1, "--count", 200),
    ("pingpong", "--connections", 1000, "--count", 3000),
    ("pingpong", "--size", 1024, "--count", 500),
    ("pingpong", "--size", 16384, "--count", 500),
    ("pipelined", "--count", 5000),
    ("bulk", "--count", 200),
    ("bulk", "--size", 1 << 20, "--count", 60),
    ("connect", "--count", 500),
    ("pingpong", "--rate", 5000, "--count", 500),
    ("connect", "--rate", 1000, "--count", 200),
)
OVER_TCP = (("connect", "--close", "reset", "--count", 500),)
BY_LINES = (
    ("pipelined", "--lines", "--count", 5000),
    ("pingpong", "--lines", "--count", 500),
    ("pingpong", "--lines", "--size", 4096, "--count", 500),
)


class Modes(LoadTest):
    def each(self, modes, url):
        for mode, *options in modes:
            with self.subTest(mode=mode, options=options):
                report = self.load(mode, url, *options)
                count = options[options.index("--count") + 1]
                self.assertEqual(report["requests"], count)
                self.assertEqual(report["bytes_received"], count * report["size"])
                self.assertEqual(report["bytes_sent"], report["bytes_received"])

    def test_all_against_rondo_over_tcp(self):
        self.each(MODES + OVER_TCP, self.url_of(self.rondo()))
        self.each(BY_LINES, self.url_of(self.rondo("line")))

    def test_all_against_rondo_over_a_unix_socket(self):
        self.each(MODES, self.url_of(self.rondo(unix=True)))

    def test_lines_over_a_unix_socket(self):
        self.each(BY_LINES, self.url_of(self.rondo("line", unix=True)))

    def test_all_against_the_bare_ring(self):
        self.each(MODES + OVER_TCP, self.url_of(self.ceiling()))

    def test_an_abstract_name_and_an_encoded_path(self):
        for url in "unix://@" + self.path, "unix://" + self.path + "%20a%25":
            with self.subTest(url=url):
                self.serve("echo", "--shards", "1", listen=[url])
                self.each(MODES[:1], url)

    def test_idle_connections(self):
        for unix in False, True:
            with self.subTest(unix=unix):
                server = self.rondo(unix=unix)
                report = self.load("idle", self.url_of(server), "--connections", 500, "--seconds", 0.05,
                                   "--server-pid", server.pid)
                self.assertEqual(report["requests"], 500)
                self.assertGreater(report["rss_after_bytes"], 0)
                server.close()

    def test_a_time_limit_ends_it(self):
        report = self.load("pingpong", self.url_of(self.rondo()), "--seconds", 0.2, "--warmup", 0.05)
        self.assertGreater(report["requests"], 0)
        self.assertGreaterEqual(report["seconds"], 0.2)


class UnixBacklog(LoadTest):
    def test_a_full_backlog_is_waited_for_and_nothing_is_lost(self):
        def echo(sock, _):
            while data := sock.recv(1 << 16):
                sock.sendall(data)

        server = self.lie(echo, path=self.path, backlog=0)
        for mode, options in ("pingpong", ("--connections", 100)), ("connect", ("--connections", 50)):
            with self.subTest(mode=mode):
                report = self.load(mode, server.url, "--count", 300, *options)
                self.assertEqual(report["requests"], 300)
        report = self.load("idle", server.url, "--connections", 100, "--seconds", 0.05)
        self.assertEqual(report["requests"], 100)


class WrongUsage(LoadTest):
    def test_addresses(self):
        for url, said in (
            ("http://localhost:1", "tcp://host:port"),
            ("tcp://localhost", "tcp://host:port"),
            ("unix://name", "unix:///path"),
            ("unix://@", "unix://@name"),
            ("unix:///" + "x" * 120, "107 bytes"),
            ("unix:///tmp/%0", "encoded"),
            ("unix://" + self.path, "is the server running"),
            ("unix:///dev/null", "no socket"),
        ):
            with self.subTest(url=url):
                self.assertIn(said, self.refused("pingpong", url))

    def test_options(self):
        for arguments, said in (
            (("dance", "tcp://127.0.0.1:1"), "dance"),
            (("connect", "unix:///tmp/x", "--close", "reset"), "orderly"),
            (("pingpong", "unix:///tmp/x", "--sources", 2), "--sources"),
            (("bulk", "tcp://127.0.0.1:1", "--rate", 1), "--rate"),
            (("pingpong", "tcp://127.0.0.1:1", "--count", 0), "--count"),
        ):
            with self.subTest(arguments=arguments):
                self.assertIn(said, self.refused(*arguments))

    def test_nobody_there(self):
        with s.socket.socket() as unused:  # bound, but it doesn't listen
            unused.bind(("127.0.0.1", 0))
            url = "tcp://127.0.0.1:%d" % unused.getsockname()[1]
            report = self.load("pingpong", url, "--connections", 2, status=1)
        self.assertEqual(report["errors"]["connect"], 2)


if __name__ == "__main__":
    unittest.main()
