"""Starts rondo's programs for the tests, waits for what they say, ends them, and judges how they ended.

Nothing here sleeps: it waits for a line, for bytes, for an exit, each with a limit (PATIENCE) that is far above what a
slow machine under a sanitizer takes, and that only a hang reaches.
"""
import asyncio
import fcntl
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest
import urllib.parse

BUILD = os.environ.get("RONDO_BUILD", "build")
PATIENCE = 20.0
V4 = "tcp://127.0.0.1:0"
V6 = "tcp://[::1]:0"

LISTENING = re.compile(r"^listening on (?:(?:tcp|udp)://(?:\[([^\]]+)\]|([^:\[\]]+)):(\d+)|unix(?:gram)?://(\S+))$")
SANITIZER = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|MemorySanitizer|runtime error:|Assertion ")


def path_of(program):
    return os.path.abspath(os.path.join(BUILD, "apps", "rondo-" + program))


def is_sanitized(program="echo"):
    """Is the program built with a sanitizer? Its memory is then no measure, and quarantined."""
    with open(path_of(program), "rb") as file:
        return re.search(rb"__(asan|tsan)_init", file.read()) is not None


def report_of_sanitizer(stderr):
    """Forward a sanitizer's report to the test's own stderr, for whoever reads the log; was there one?"""
    if SANITIZER.search(stderr) is None:
        return False
    sys.stderr.write("\n---- stderr of the server ----\n" + stderr + "\n----\n")
    return True


def run(program, *options, **popen):
    """Run a program that ends by itself: (exit status, stdout, stderr)."""
    done = subprocess.run([path_of(program), *options], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=PATIENCE, **popen)
    if report_of_sanitizer(done.stderr):
        raise AssertionError("the server's sanitizer reported a fault, see stderr")
    return done.returncode, done.stdout, done.stderr


def data_of(size, seed=1):
    return random.Random(seed).randbytes(size)


def until(condition, what, seconds=PATIENCE):
    """Ask again and again, for what can only be asked (/proc, a report): its value once it is true."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        os.sched_yield()


def address_of(match):
    """(host, port), or a Unix socket's path, or its abstract name behind a NUL: what connect takes."""
    if match[4] is None:
        return match[1] or match[2], int(match[3])
    return re.sub("^@", "\0", urllib.parse.unquote(match[4], errors="surrogateescape"))


def open_connection(address):
    """asyncio's, for an address of any kind."""
    if isinstance(address, str):
        return asyncio.open_unix_connection(address)
    return asyncio.open_connection(*address)


def socat_address(address):
    if isinstance(address, str):
        return "ABSTRACT-CONNECT:" + address[1:] if address[0] == "\0" else "UNIX-CONNECT:" + address
    host, port = address
    return f"TCP6:[{host}]:{port}" if ":" in host else f"TCP4:{host}:{port}"


class Refused(AssertionError):
    """The program ended before it served."""

    def __init__(self, status, stderr):
        super().__init__(f"exit status {status} instead of serving; stderr:\n{stderr}")
        self.status = status
        self.stderr = stderr


class Server:
    def __init__(self, program, *options, listen=(V4, V6), path=None, status=0, words=(), **popen):
        self.status = status  # with which it shall end
        command = [path or path_of(program), *options]
        for url in listen:
            command += ["--listen", url]
        command += words
        self.lines = []
        self.ended = False
        self.judged = False
        self.changed = threading.Condition()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, **popen)
        self.pid = self.process.pid
        self.reader = threading.Thread(target=self._read_stderr, daemon=True)
        self.reader.start()
        try:
            self.wait_for(LISTENING, max(len(listen), 1))
        except BaseException:
            if not self.ended:
                self.process.kill()
            status = self.process.wait()
            self.reader.join()
            self.process.stderr.close()
            if report_of_sanitizer(self.stderr):
                raise AssertionError("the server's sanitizer reported a fault, see stderr") from None
            if status >= 0:
                raise Refused(status, self.stderr) from None
            raise
        found = [match for match in map(LISTENING.match, self.lines) if match]
        self.addresses = [address_of(match) for match in found]

    def _read_stderr(self):
        for line in self.process.stderr:
            with self.changed:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    @property
    def stderr(self):
        with self.changed:
            return "\n".join(self.lines)

    def count(self, pattern):
        with self.changed:
            return sum(re.search(pattern, line) is not None for line in self.lines)

    def wait_for(self, pattern, count=1):
        """Until so many lines of stderr, from the first on, have matched."""
        with self.changed:
            enough = self.changed.wait_for(
                lambda: sum(re.search(pattern, line) is not None for line in self.lines) >= count or self.ended,
                PATIENCE)
            found = [line for line in self.lines if re.search(pattern, line)]
        if len(found) < count:
            raise AssertionError(f"{'the server ended' if enough else 'nothing came'}; waited for line {count} "
                                 f"of {pattern!r} in:\n{self.stderr}")
        return found

    # ---- clients -------------------------------------------------------------------------------------------

    def connect(self, address=None, receive_bytes=None, send_bytes=None, timeout=PATIENCE):
        address = address or self.addresses[0]
        is_unix = isinstance(address, str)
        sock = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET6 if ":" in address[0] else socket.AF_INET,
                             socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            if receive_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            if send_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
            sock.connect(address)
            if not is_unix:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            sock.close()
            raise
        return sock

    def serves(self, address=None, text=b"are you there?\n"):
        """A client comes, is answered, and goes."""
        with self.connect(address) as sock:
            sock.sendall(text)
            return receive(sock, len(text)) == text

    # ---- signals and the end -------------------------------------------------------------------------------

    def signal(self, number):
        self.process.send_signal(number)

    def report(self):
        """SIGUSR1's answer: a dict for each shard, in their order."""
        shards = sum(name.startswith("rondo-shard-") for name in self.threads().values())
        before = self.count(r"^\{")
        self.signal(signal.SIGUSR1)
        lines = self.wait_for(r"^\{", before + shards)[before:]
        return sorted((json.loads(line) for line in lines), key=lambda shard: shard["shard"])

    def total(self, name):
        return sum(shard[name] for shard in self.report())

    def wait_for_exit(self, seconds=PATIENCE):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no exit within {seconds} s; stderr:\n{self.stderr}") from None

    def stop(self, seconds=PATIENCE):
        self.signal(signal.SIGTERM)
        return self.wait_for_exit(seconds)

    def close(self):
        """End it if it hasn't ended, and judge."""
        if self.judged:
            return
        self.judged = True
        hangs = False
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGCONT)
                self.stop()
        except AssertionError:
            hangs = True
            self.process.kill()
        status = self.process.wait()
        self.reader.join()
        self.process.stderr.close()
        faulty = report_of_sanitizer(self.stderr)
        assert not faulty, "the server's sanitizer reported a fault, see stderr"
        assert not hangs, f"no exit within {PATIENCE} s after SIGTERM; stderr:\n{self.stderr}"
        assert status == self.status, f"exit status {status}, not {self.status}; stderr:\n{self.stderr}"

    # ---- what the kernel knows -----------------------------------------------------------------------------

    def proc(self, name):
        with open(f"/proc/{self.pid}/{name}") as file:
            return file.read()

    def rss_bytes(self):
        return int(re.search(r"^VmRSS:\s+(\d+) kB", self.proc("status"), re.MULTILINE)[1]) * 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        fields = self.proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def threads(self):
        """{thread id: its name}"""
        names = {}
        for task in os.listdir(f"/proc/{self.pid}/task"):
            try:
                names[task] = self.proc(f"task/{task}/comm").strip()
            except (FileNotFoundError, ProcessLookupError):
                pass  # ended meanwhile
        return names


class ServerTest(unittest.TestCase):
    """Servers and sockets of a test end with it, the sockets first."""

    maxDiff = 2000

    def serve(self, program, *options, **named):
        server = Server(program, *options, **named)
        self.addCleanup(server.close)
        return server

    def copy_for_others(self, program):
        """For a server that is to run as another user: the build's folder may be closed to others."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        os.chmod(folder.name, 0o755)
        return shutil.copy(path_of(program), folder.name)

    def connect(self, server, *args, **named):
        sock = server.connect(*args, **named)
        self.addCleanup(sock.close)
        return sock

    def assert_same(self, got, wanted):
        """assertEqual for megabytes: says where they differ instead of printing them."""
        if got == wanted:
            return
        at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), min(len(got), len(wanted)))
        self.fail(f"{len(got)} bytes came, {len(wanted)} were wanted; the first difference is at {at}: "
                  f"{bytes(got[at:at + 16])!r}, not {bytes(wanted[at:at + 16])!r}")

    def assert_all_back(self, server, descriptors=None):
        """No connection, no lent buffer, no descriptor is left of the clients, who have gone."""
        until(lambda: server.total("connections_open") == 0, "all connections are closed")
        self.assertEqual(server.total("buffers_lent"), 0)
        if descriptors is not None:
            until(lambda: server.descriptors() <= descriptors, f"back to {descriptors} descriptors")
            self.assertEqual(server.descriptors(), descriptors)


# ---- sockets -----------------------------------------------------------------------------------------------


def receive(sock, size):
    """So many bytes, or fewer at the end of file."""
    got = bytearray()
    while len(got) < size:
        some = sock.recv(min(size - len(got), 1 << 20))
        if not some:
            break
        got += some
    return bytes(got)


def receive_all(sock):
    """All bytes up to the end of file."""
    got = bytearray()
    while some := sock.recv(1 << 20):
        got += some
    return bytes(got)


def stream(sock, data, half_close=False):
    """Send while receiving; the bytes that came back: all until the end of file after a half-close."""
    failures = []

    def send():
        try:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            failures.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        got = receive_all(sock) if half_close else receive(sock, len(data))
    finally:
        sender.join()
    if failures:
        raise failures[0]
    return got


def stuff(sock, data):
    """Send until nothing more fits into the two kernels' buffers; how many bytes did."""
    sent = 0
    sock.setblocking(False)
    view = memoryview(data)
    while sent < len(data):
        if not select.select([], [sock], [], 0.3)[1]:  # nobody reads any more
            break
        try:
            sent += sock.send(view[sent:])
        except BlockingIOError:
            pass
    sock.settimeout(PATIENCE)
    return sent


def unacknowledged(sock):
    """Bytes sent that have not reached the server's machine: they wait in the client's kernel."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0]


def reset(sock):
    """Close with a reset instead of an end of file."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def was_reset(sock, seconds=PATIENCE):
    """Wait, without reading, for the peer's reset."""
    poll = select.poll()
    poll.register(sock, 0)  # errors and hang-ups are always told
    return any(event & select.POLLERR for _, event in poll.poll(seconds * 1000))


def quiet(sock, seconds):
    """Does nothing, not even an end of file, come for so long?"""
    return not select.select([sock], [], [], seconds)[0]


def limit(resource_id, soft, hard=None):
    """For preexec_fn."""
    return lambda: resource.setrlimit(resource_id, (soft, soft if hard is None else hard))
