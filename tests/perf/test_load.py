"""rondo-load: every mode against servers that are right, and against servers that lie, stall and break off."""
import json
import subprocess
import threading
import time
import unittest

from generator import LOAD, LoadTest, run, s

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
        server = self.lie(echo, path=self.path, backlog=0)
        for mode, options in ("pingpong", ("--connections", 100)), ("connect", ("--connections", 50)):
            with self.subTest(mode=mode):
                report = self.load(mode, server.url, "--count", 300, *options)
                self.assertEqual(report["requests"], 300)
        report = self.load("idle", server.url, "--connections", 100, "--seconds", 0.05)
        self.assertEqual(report["requests"], 100)


def echo(sock, _):
    while data := sock.recv(1 << 16):
        sock.sendall(data)


def changed(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


class Lies(LoadTest):
    """What a server does wrong is found, and called by its name."""

    def fails(self, kind, mode, serve, *options, **named):
        report = self.load(mode, self.lie(serve, **named).url, *options, status=1)
        self.assertGreater(report["errors"].pop(kind), 0, report)
        self.assertEqual(sum(report["errors"].values()), 0, report)
        return report

    def on_the_third_request(self, answer):
        """Serve two well, then so: answer(sock, data) says what to send; None ends it."""
        def serve(sock, _):
            for number in range(1 << 30):
                data = s.receive(sock, 64)
                if not data:
                    return
                data = answer(sock, data) if number == 2 else data
                if data is None:
                    return
                sock.sendall(data)
        return serve

    def test_a_flipped_bit(self):
        for at in 0, 63:
            with self.subTest(at=at):
                report = self.fails("wrong_byte", "pingpong", self.on_the_third_request(lambda _, d: changed(d, at)),
                                    "--connections", 1, "--count", 30)
                self.assertEqual(report["wrong_bytes"], 1)

    def test_a_flipped_bit_in_a_megabyte(self):
        def serve(sock, _):
            data = s.receive(sock, 1 << 20)
            sock.sendall(changed(data, 987654))
            echo(sock, _)

        report = self.fails("wrong_byte", "bulk", serve, "--size", 1 << 20, "--connections", 2, "--count", 6)
        self.assertEqual(report["wrong_bytes"], 2)

    def test_a_dropped_byte(self):
        def serve(sock, _):
            sock.sendall(s.receive(sock, 128)[1:])
            echo(sock, _)

        report = self.load("pipelined", self.lie(serve).url, "--connections", 1, "--count", 40, status=1)
        self.assertGreater(report["wrong_bytes"], 40 * 32)
        self.assertEqual(report["errors"]["timeout"], 1, "the last answer misses a byte")

    def test_a_byte_too_many(self):
        self.fails("wrong_byte", "pingpong", self.on_the_third_request(lambda _, data: data + b"!"),
                   "--connections", 1, "--count", 30)

    def test_the_answer_to_another_connection(self):
        for mode, lines in (("pingpong", ()), ("pipelined", ()), ("pingpong", ("--lines",))):
            with self.subTest(mode=mode, lines=lines):
                both, held = threading.Barrier(2), {}

                def serve(sock, number):
                    held[number] = s.receive(sock, 64)
                    both.wait()
                    sock.sendall(held[1 - number])
                    echo(sock, number)

                report = self.fails("wrong_byte", mode, serve, "--connections", 2, "--count", 64, *lines)
                self.assertGreater(report["wrong_bytes"], 100)

    def test_the_answers_of_before_again(self):
        def serve(sock, _):
            first = s.receive(sock, 64)
            sock.sendall(first)
            while s.receive(sock, 64):
                sock.sendall(first)

        for lines in (), ("--lines",):
            self.fails("wrong_byte", "pingpong", serve, "--connections", 1, "--count", 10, *lines)

    def test_an_early_end(self):
        for unix in None, self.path:
            with self.subTest(unix=unix):
                report = self.fails("early_eof", "pingpong", self.on_the_third_request(lambda *_: None),
                                    "--connections", 4, "--count", 1000, path=unix)
                self.assertEqual((report["requests"], report["wrong_bytes"]), (8, 0))

    def test_a_reset(self):
        def serve(sock, _):
            s.receive(sock, 64)
            s.reset(sock)

        report = self.fails("reset", "pingpong", serve, "--connections", 4, "--count", 1000)
        self.assertEqual(report["requests"], 0)

    def test_an_early_end_of_each_new_connection(self):
        self.fails("early_eof", "connect", lambda sock, _: s.receive(sock, 64), "--connections", 4, "--count", 100)

    def test_an_end_of_idle_connections(self):
        def serve(sock, _):
            sock.sendall(s.receive(sock, 64))

        report = self.fails("early_eof", "idle", serve, "--connections", 5, "--seconds", 30)
        self.assertEqual(report["requests"], 5)

    def test_silence(self):
        def serve(sock, _):
            sock.sendall(s.receive(sock, 64))
            s.receive_all(sock)

        report = self.fails("timeout", "pingpong", serve, "--connections", 3, "--count", 100)
        self.assertEqual(report["requests"], 3)


class OpenLoop(LoadTest):
    """--rate: what is late counts from when it was due, and nothing is left out."""
    RATE, STALL = 500, 0.3

    def stalling(self, after):
        """An echo that does nothing for a while, once, after so many requests of all connections."""
        left, running = [after], threading.Lock()

        def serve(sock, _):
            while data := s.receive(sock, 64):
                with running:
                    left[0] -= 1
                    if left[0] == 0:
                        time.sleep(self.STALL)  # this is what is tested, not a wait for something
                sock.sendall(data)
        return self.lie(serve).url

    def assert_stall_is_seen(self, report):
        """A third of all requests were due in the stall, evenly: a closed loop would have asked only once on each of
        five connections."""
        self.assertGreaterEqual(report["max_us"], 250e3)
        self.assertGreaterEqual(report["p99_us"], 200e3)

    def test_a_stall_shows_in_the_latency_and_the_schedule_stays(self):
        for options in ("--count", 500), ("--seconds", 1, "--warmup", 0), ("--seconds", 1, "--warmup", 0.1):
            with self.subTest(options=options):
                report = self.load("pingpong", self.stalling(200), "--connections", 5, "--rate", self.RATE, *options)
                self.assertAlmostEqual(report["requests"], 500, delta=1)
                self.assertEqual(report["unsent"], 0)
                self.assert_stall_is_seen(report)

    def test_a_stall_at_the_end_is_not_cut_off(self):
        report = self.load("pingpong", self.stalling(490), "--connections", 5, "--rate", self.RATE, "--seconds", 1,
                           "--warmup", 0)
        self.assertAlmostEqual(report["requests"], 500, delta=1)
        self.assertGreaterEqual(report["max_us"], 250e3)
        self.assertFalse(report["rate_kept"])

    def test_new_connections_have_a_schedule_too(self):
        report = self.load("connect", self.stalling(200), "--connections", 5, "--rate", self.RATE, "--count", 500)
        self.assertEqual(report["requests"], 500)
        self.assert_stall_is_seen(report)

    def test_a_server_that_is_far_too_slow_is_told(self):
        def serve(sock, _):
            while data := s.receive(sock, 64):
                time.sleep(0.01)
                sock.sendall(data)

        status, stdout, stderr = run("pingpong", self.lie(serve).url, "--connections", 1, "--rate", 100000,
                                     "--seconds", 0.1, "--warmup", 0, "--json")
        self.assertEqual(status, 0, stderr)
        report = json.loads(stdout)
        self.assertFalse(report["rate_kept"])
        self.assertAlmostEqual(report["requests"] + report["unsent"], 10000, delta=2)
        self.assertIn("can't be kept", stderr)


class Counting:
    """An echo that knows how much has come on each connection, and gives up those who send more than they read."""

    def __init__(self, most=1 << 30):
        self.most, self.received = most, {}

    def __call__(self, sock, number):
        self.received[number] = 0
        while data := sock.recv(1 << 16):
            self.received[number] += len(data)
            if self.received[number] > self.most:
                return
            sock.sendall(data)


class IdleAndActive(LoadTest):
    def test_the_active_ones_play_while_the_others_stay_idle(self):
        for unix in None, self.path:
            with self.subTest(unix=unix):
                counting = Counting()
                report = self.load("idle", self.lie(counting, path=unix).url, "--connections", 40, "--active", 4,
                                   "--count", 400)
                self.assertEqual((report["requests"], report["active"]), (400, 4))
                self.assertEqual(sorted(counting.received.values())[:36], [64] * 36)
                self.assertTrue(all(size > 64 for size in sorted(counting.received.values())[36:]))

    def test_memory_is_that_of_the_idle_ones_and_the_rest_of_the_active_ones(self):
        server = self.rondo()
        report = self.load("idle", self.url_of(server), "--connections", 500, "--active", 16, "--seconds", 0.2,
                           "--server-pid", server.pid)
        self.assertGreater(report["requests"], 16)
        self.assertGreater(report["p50_us"], 0)
        self.assertGreater(report["server_cpu_ns_per_request"], 0)
        self.assertAlmostEqual(report["rss_bytes_per_connection"],
                               (report["rss_after_bytes"] - report["rss_before_bytes"]) / 500, delta=1)
        self.assertGreaterEqual(report["rss_peak_bytes"], report["rss_before_bytes"])
        self.assertIsNone(report["rss_settled_bytes"])

    def test_at_a_fixed_rate(self):
        report = self.load("idle", self.url_of(self.rondo()), "--connections", 100, "--active", 10, "--rate", 1000,
                           "--count", 200)
        self.assertEqual(report["requests"], 200)


class Greedy(LoadTest):
    """Connections that send and never read, beside those that are measured."""

    def test_rondo_serves_on_and_is_back_to_normal(self):
        for unix in False, True:
            for mode in "pingpong", "pipelined":
                with self.subTest(unix=unix, mode=mode):
                    server = self.rondo(unix=unix)
                    report = self.load(mode, self.url_of(server), "--greedy", 20, "--connections", 10, "--count", 500,
                                       "--server-pid", server.pid)
                    self.assertEqual((report["requests"], report["greedy"], report["greedy_open"]), (500, 20, 20))
                    self.assertGreater(report["greedy_bytes_sent"], 20 * 65536)
                    self.assertGreaterEqual(report["rss_peak_bytes"], report["rss_before_bytes"])
                    self.assertGreater(report["rss_settled_bytes"], 0)
                    self.assert_all_back(server)
                    server.close()

    def test_lines(self):
        report = self.load("pipelined", self.url_of(self.rondo("line")), "--lines", "--greedy", 10, "--count", 500)
        self.assertEqual(report["greedy_open"], 10)

    def test_a_server_may_close_them(self):
        report = self.load("pingpong", self.lie(Counting(most=50000)).url, "--greedy", 5, "--connections", 5,
                           "--count", 100)
        self.assertEqual((report["requests"], report["greedy_open"]), (100, 0))

    def test_a_server_that_stores_all_survives(self):
        def serve(sock, _):
            stored = bytearray()
            while data := sock.recv(1 << 16):
                stored += data
                if len(stored) <= 64 * 1000:  # the well-behaved
                    sock.sendall(data)

        report = self.load("pingpong", self.lie(serve).url, "--greedy", 3, "--greedy-limit", 4, "--count", 20000)
        self.assertGreaterEqual(report["greedy_bytes_sent"], 4 << 20)
        self.assertLess(report["greedy_bytes_sent"], 5 << 20)

    def test_a_server_that_they_block_is_found_out(self):
        one_by_one = threading.Lock()

        def serve(sock, _):
            while data := sock.recv(1 << 16):
                with one_by_one:
                    sock.sendall(data)

        report = self.load("pingpong", self.lie(serve).url, "--greedy", 2, "--connections", 3, "--count", 10**9,
                           status=1)
        self.assertEqual(report["errors"]["timeout"], 3)


class Together(LoadTest):
    """--wait-for-stdin: several generators begin at the same time."""

    def start(self, mode, url, *options):
        process = subprocess.Popen([LOAD, mode, url, "--wait-for-stdin", "--json", *map(str, options)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        self.assertEqual(process.stderr.readline(), "ready\n")
        return process

    def test_nothing_is_sent_before_and_all_after(self):
        for mode, options, before in (
            ("pingpong", ("--count", 100, "--connections", 4), [0] * 4),
            ("connect", ("--count", 100), []),
            ("idle", ("--connections", 4, "--active", 2, "--count", 100), [64] * 4),
        ):
            for told in "go\n", "":  # by a line, and by the end of the file
                with self.subTest(mode=mode, told=told):
                    counting = Counting()
                    process = self.start(mode, self.lie(counting).url, *options)
                    s.until(lambda: len(counting.received) == len(before), "the connections are accepted")
                    self.assertEqual(list(counting.received.values()), before)
                    self.assertIsNone(process.poll())
                    stdout, stderr = process.communicate(told, timeout=s.PATIENCE)
                    self.assertEqual((process.returncode, stderr), (0, ""))
                    self.assertEqual(json.loads(stdout)["requests"], 100)

    def test_two_on_one_server(self):
        server = self.rondo()
        both = [self.start("pingpong", self.url_of(server), "--count", 500) for _ in range(2)]
        for process in both:
            process.stdin.close()
        for process in both:
            self.assertEqual(process.wait(s.PATIENCE), 0)
            process.stdin = None
        self.assert_all_back(server)


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
            (("bulk", "tcp://127.0.0.1:1", "--greedy", 1), "pingpong or pipelined"),
            (("pingpong", "tcp://127.0.0.1:1", "--greedy-limit", 1), "only with --greedy"),
            (("pingpong", "tcp://127.0.0.1:1", "--active", 1), "only with idle"),
            (("idle", "tcp://127.0.0.1:1", "--connections", 10, "--active", 11), "more than the 10"),
            (("idle", "tcp://127.0.0.1:1", "--rate", 1), "--active"),
            (("idle", "tcp://127.0.0.1:1", "--count", 1), "--active"),
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
