"""--healthcheck, --drain-delay, and the last line, which counts what became of the connections."""
import os
import re
import resource
import shutil
import signal
import socket
import tempfile
import threading
import time
import unittest

import server as s
from server import ServerTest, limit, receive, receive_all, run, stuff, unacknowledged, until


def check(url):
    """(exit status, what it says)"""
    status, stdout, stderr = run("echo", "--healthcheck", url)
    assert stdout == "" and (status == 0) == (stderr == "") and len(stderr.splitlines()) <= 1, stderr
    return status, stderr


def url_of(address):
    if isinstance(address, tuple):
        return f"tcp://[{address[0]}]:{address[1]}" if ":" in address[0] else f"tcp://{address[0]}:{address[1]}"
    return f"unix://{address}"


class Healthcheck(ServerTest):
    def test_a_server_is_ready_at_each_of_its_addresses(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path, name = f"{folder}/socket", f"@rondo-test-health-{os.getpid()}"
        long_path = f"{folder}/{'x' * (105 - len(folder))}"
        for program in "echo", "line":
            server = self.serve(program, listen=(s.V4, s.V6, f"unix://{path}", f"unix://{name}", f"unix://{long_path}"))
            for url in [line.split()[-1] for line in server.lines if line.startswith("listening")]:
                with self.subTest(url=url):
                    self.assertEqual(check(url), (0, ""))
            self.assertEqual(server.stop(), 0)

    def test_an_address_may_be_asked_for_by_another_name(self):
        server = self.serve("echo", listen=("tcp://0.0.0.0:0",))
        port = server.addresses[0][1]
        for host in "127.0.0.1", "localhost", "0.0.0.0", "127.1.2.3":
            with self.subTest(host=host):
                self.assertEqual(check(f"tcp://{host}:{port}")[0], 0)

    def test_nobody_there(self):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            url = f"tcp://127.0.0.1:{sock.getsockname()[1]}"
            status, said = check(url)
        self.assertEqual(status, 1)
        self.assertIn(url, said)
        self.assertIn("refused", said)
        self.assertEqual(check("unix:///nowhere/at/all")[0], 1)

    def test_a_server_of_others_is_ready_when_it_accepts(self):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.assertEqual(check(url_of(sock.getsockname()))[0], 0)

    def test_one_that_hangs_is_not_ready(self):
        server = self.serve("echo", "--shards", "1", listen=(s.V4,))
        server.signal(signal.SIGSTOP)
        status, said = check(url_of(server.addresses[0]))
        server.signal(signal.SIGCONT)
        self.assertEqual(status, 1)
        self.assertIn("nothing", said)
        self.assertEqual(check(url_of(server.addresses[0]))[0], 0)

    def test_what_makes_no_sense_is_wrong_usage(self):
        for url in "bogus", "fd://3", "tcp://127.0.0.1":
            status, _, stderr = run("echo", "--healthcheck", url)
            self.assertEqual(status, 2)
            self.assertIn("--healthcheck", stderr)
        self.assertEqual(run("client", "--healthcheck", "tcp://127.0.0.1:1")[0], 2)

    def test_who_asks_and_goes_does_no_harm(self):
        server = self.serve("echo", listen=(s.V4,))
        name = f"\0rondo-health:{url_of(server.addresses[0])}"
        for _ in range(100):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(name)
        self.assertEqual(check(url_of(server.addresses[0]))[0], 0)
        self.assertLess(server.cpu_seconds(), 5)

    def test_without_a_descriptor_left_it_neither_answers_nor_spins(self):
        server = self.serve("echo", "--shards", "1", listen=(s.V4,), preexec_fn=limit(resource.RLIMIT_NOFILE, 40))
        clients = [self.connect(server) for _ in range(40)]
        for sock in clients:
            sock.sendall(b"x")
        server.wait_for("can't accept")
        self.assertEqual(check(url_of(server.addresses[0]))[0], 1)
        before = server.cpu_seconds()
        self.assertTrue(s.quiet(clients[-1], 1))
        self.assertLess(server.cpu_seconds() - before, 0.5)
        for sock in clients:
            sock.close()
        until(lambda: check(url_of(server.addresses[0]))[0] == 0, "it is ready again")


class Delay(ServerTest):
    def test_readiness_fails_first_and_everything_is_served_meanwhile(self):
        for program in "echo", "line":
            server = self.serve(program, "--drain-delay", "1000", "--shards", "2", listen=(s.V4,))
            early = self.connect(server)
            server.signal(signal.SIGTERM)
            server.wait_for("not ready")
            status, said = check(url_of(server.addresses[0]))
            self.assertEqual(status, 1)
            self.assertIn("draining", said)
            late = self.connect(server)
            for sock in early, late, early:
                sock.sendall(b"hello\n")
                self.assertEqual(receive(sock, 6), b"hello\n")
            self.assertTrue(server.serves())
            server.signal(signal.SIGTERM)  # at once, then
            self.assertEqual(server.wait_for_exit(), 0)
            self.assertTrue(s.was_reset(early))

    def test_who_listens_everywhere_is_found(self):
        server = self.serve("echo", "--drain-delay", "1000", listen=("tcp://0.0.0.0:0", "tcp://[::]:0"))
        v4, v6 = (address[1] for address in server.addresses)
        urls = [f"tcp://127.0.0.1:{v4}", f"tcp://localhost:{v4}", f"tcp://127.1.2.3:{v4}", f"tcp://[::1]:{v6}"]
        for url in urls:
            self.assertEqual(check(url)[0], 0, url)
        server.signal(signal.SIGTERM)
        server.wait_for("not ready")
        for url in urls:
            self.assertEqual(check(url)[0], 1, url)
        server.signal(signal.SIGTERM)

    def test_then_it_drains(self):
        start = time.monotonic()
        server = self.serve("echo", "--drain-delay", "1", "--drain-timeout", "100")
        sock = self.connect(server)
        sock.sendall(b"hello\n")
        self.assertEqual(receive(sock, 6), b"hello\n")
        server.signal(signal.SIGTERM)
        self.assertEqual(receive_all(sock), b"")
        self.assertGreater(time.monotonic() - start, 0.9)
        sock.close()
        self.assertEqual(server.wait_for_exit(), 0)
        self.assertEqual(server.count("draining in 1 s, for 100 s at most"), 1, server.stderr)

    def test_no_short_connection_is_lost_between_the_signal_and_the_end(self):
        """While others are told to go elsewhere."""
        server = self.serve("echo", "--drain-delay", "0.5", "--shards", "2", listen=(s.V4,))
        stop, failures, counts = threading.Event(), [], [0] * 8

        def load(which):
            while not stop.is_set():
                try:
                    with socket.create_connection(server.addresses[0], 1) as sock:
                        text = b"%d of %d\n" % (counts[which], which)
                        sock.sendall(text)
                        got = receive(sock, len(text))
                        if got != text:
                            failures.append((text, got))
                        counts[which] += 1
                except (ConnectionRefusedError, TimeoutError):
                    if not stop.is_set() and server.process.poll() is None and not server.count("^draining"):
                        failures.append("refused while it serves")
                    return
                except OSError as error:
                    failures.append(error)

        threads = [threading.Thread(target=load, args=(i,)) for i in range(len(counts))]
        for thread in threads:
            thread.start()
        until(lambda: min(counts) > 20, "all are served")
        server.signal(signal.SIGTERM)
        until(lambda: check(url_of(server.addresses[0]))[0] == 1, "others are told")
        self.assertEqual(server.wait_for_exit(), 0)
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])


class LastLine(ServerTest):
    def counts(self, server):
        numbers = re.fullmatch(r"drained: (\d+) idle connections closed, (\d+) busy ones finished, (\d+) aborted; "
                               r"(\d+) of all were accepted meanwhile", server.lines[-1])
        self.assertIsNotNone(numbers, server.stderr)
        return tuple(map(int, numbers.groups()))

    def test_it_counts_the_idle_and_the_busy(self):
        server = self.serve("echo", "--drain-timeout", "100", "--shards", "2", listen=(s.V4,))
        idle = [self.connect(server) for _ in range(5)]
        for sock in idle:
            sock.sendall(b"hello\n")
            self.assertEqual(receive(sock, 6), b"hello\n")
        busy = [self.connect(server, receive_bytes=16384, send_bytes=65536) for _ in range(2)]
        sent = [stuff(sock, b"x" * (10 << 20)) for sock in busy]
        server.signal(signal.SIGTERM)
        for sock in idle:
            self.assertEqual(receive_all(sock), b"")
            sock.close()
        for sock, size in zip(busy, sent):
            self.assertLessEqual(len(receive_all(sock)), size)
            sock.close()
        self.assertEqual(server.wait_for_exit(), 0)
        self.assertEqual(self.counts(server), (5, 2, 0, 0))

    def test_it_counts_those_from_the_queue(self):
        server = self.serve("echo", "--shards", "2", listen=(s.V4,))
        server.signal(signal.SIGSTOP)
        queued = [self.connect(server) for _ in range(7)]
        for sock in queued:
            sock.sendall(b"a word\n")
            until(lambda: unacknowledged(sock) == 0 or None, "it has arrived")
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        for sock in queued:
            self.assertEqual(receive_all(sock), b"a word\n")
            sock.close()
        self.assertEqual(server.wait_for_exit(), 0)
        idle, busy, aborted, late = self.counts(server)
        self.assertEqual((idle + busy, aborted), (7, 0))
        self.assertLessEqual(late, 7)

    def test_it_counts_the_aborted(self):
        server = self.serve("echo", "--drain-timeout", "0.5", "--shards", "1", listen=(s.V4,))
        sock = self.connect(server, receive_bytes=16384, send_bytes=65536)
        stuff(sock, b"x" * (10 << 20))
        idle = self.connect(server)
        idle.sendall(b"x")
        self.assertEqual(receive(idle, 1), b"x")
        server.signal(signal.SIGTERM)
        self.assertEqual(receive_all(idle), b"")
        idle.close()
        self.assertEqual(server.wait_for_exit(), 0)
        self.assertEqual(self.counts(server), (1, 0, 1, 0))

    def test_without_connections_it_counts_none(self):
        server = self.serve("line")
        self.assertEqual(server.stop(), 0)
        self.assertEqual(self.counts(server), (0, 0, 0, 0))


if __name__ == "__main__":
    unittest.main()
