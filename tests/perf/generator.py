"""Runs rondo-load for the tests: against rondo's servers, the bare ring, and servers written in a test."""
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "apps"))
import server as s  # noqa: E402

LOAD = os.path.abspath(os.path.join(s.BUILD, "perf", "rondo-load"))
CEILING = os.path.abspath(os.path.join(s.BUILD, "perf", "rondo-ceiling"))
PATIENCE = 60  # for a whole run, which a sanitizer makes slow; only a hang takes so long


def run(*arguments):
    """(exit status, stdout, stderr) of rondo-load. A sanitizer's word fails the test."""
    done = subprocess.run([LOAD, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=PATIENCE)
    if s.report_of_sanitizer(done.stderr):
        raise AssertionError("a sanitizer reported a fault of rondo-load, see stderr")
    return done.returncode, done.stdout, done.stderr


class LyingServer:
    """A server in a thread for each connection; what it does to one is the test's: serve(sock, number)."""

    def __init__(self, serve, path=None, backlog=128):
        self.serve = serve
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listener.bind(path or ("127.0.0.1", 0))
        self.listener.listen(backlog)
        self.url = f"unix://{path}" if path else "tcp://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.sockets, self.threads = [], []
        self.acceptor = threading.Thread(target=self._accept)
        self.acceptor.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:  # shut down: the end of the test
                return
            self.sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock, len(self.threads)))
            self.threads.append(thread)
            thread.start()

    def _serve(self, sock, number):
        try:
            self.serve(sock, number)
        except OSError:  # the generator has given up
            pass
        finally:
            sock.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join()
        self.listener.close()
        for sock in self.sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed already
                pass
        for thread in self.threads:
            thread.join()


class LoadTest(s.ServerTest):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="rondo-test-")
        self.addCleanup(folder.cleanup)
        self.path = folder.name + "/socket"

    def url_of(self, server):
        address = server.addresses[0]
        return f"unix://{address}" if isinstance(address, str) else "tcp://%s:%d" % address

    def rondo(self, program="echo", unix=False):
        return self.serve(program, "--shards", "1", listen=["unix://" + self.path if unix else s.V4])

    def ceiling(self):
        return self.serve("ceiling", path=CEILING, listen=())

    def lie(self, serve, **named):
        server = LyingServer(serve, **named)
        self.addCleanup(server.close)
        return server

    def load(self, mode, url, *options, status=0):
        """The report, of a run that ends with this status."""
        got, stdout, stderr = run(mode, url, "--json", *options)
        self.assertEqual(got, status, f"{mode} {options}: {stderr}")
        report = json.loads(stdout)
        if status == 0:
            self.assertEqual((sum(report["errors"].values()), report["wrong_bytes"]), (0, 0), report)
        return report

    def refused(self, *arguments):
        """What it says about arguments that make no sense."""
        status, stdout, stderr = run(*arguments)
        self.assertEqual((status, stdout), (2, ""), f"{arguments}: {stderr}")
        self.assertTrue(stderr.startswith("error: "), stderr)
        return stderr
