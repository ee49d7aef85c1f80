"""Short of descriptors, of locked memory, of io_uring itself: a degraded run, or one clear line and exit status 1."""
import ctypes
import errno
import os
import resource
import select
import signal
import struct
import subprocess
import unittest

import server as s
from server import Refused, ServerTest, limit, path_of, receive, run, until

NOBODY = 65534


class Descriptors(ServerTest):
    """64 descriptors, 100 clients."""

    def setUp(self):
        self.server = self.serve("echo", "--shards", "1", listen=(s.V4,), preexec_fn=limit(resource.RLIMIT_NOFILE, 64))
        self.clients = [self.connect(self.server) for _ in range(100)]
        for i, sock in enumerate(self.clients):
            sock.sendall(b"%03d\n" % i)
        self.server.wait_for("can't accept")

    def test_the_first_are_served_and_the_others_when_they_have_gone(self):
        waiting = set(range(100))
        poll = select.poll()
        for i, sock in enumerate(self.clients):
            poll.register(sock, select.POLLIN)
        of_descriptor = {sock.fileno(): i for i, sock in enumerate(self.clients)}
        served = []
        while waiting:
            events = poll.poll(s.PATIENCE * 1000)
            self.assertTrue(events, f"{len(waiting)} of 100 were never served:\n{self.server.stderr}")
            for descriptor, _ in events:
                i = of_descriptor[descriptor]
                self.assertEqual(receive(self.clients[i], 4), b"%03d\n" % i)
                poll.unregister(descriptor)
                waiting.remove(i)
                served.append(i)
                if len(served) > 30:  # enough are served side by side: now each goes
                    self.clients[i].close()
        self.assertEqual(self.server.count("can't accept"), 1, "said once:\n" + self.server.stderr)
        for sock in self.clients:
            sock.close()
        self.assertTrue(self.server.serves())
        self.assert_all_back(self.server)

    def test_it_does_not_spin_meanwhile(self):
        for i, sock in enumerate(self.clients[:30]):
            self.assertEqual(receive(sock, 4), b"%03d\n" % i)
        before = self.server.cpu_seconds(), self.server.report()[0]["loop_turns"]
        self.assertTrue(s.quiet(self.clients[0], 2))
        self.assertLess(self.server.cpu_seconds() - before[0], 0.5)
        self.assertLess(self.server.report()[0]["loop_turns"] - before[1], 200)
        self.assertEqual(self.server.count("can't accept"), 1, self.server.stderr)

    def test_those_that_wait_are_served_also_after_sigterm(self):
        self.server.signal(signal.SIGTERM)
        for i, sock in enumerate(self.clients):
            self.assertEqual(s.receive_all(sock), b"%03d\n" % i)
            sock.close()
        self.assertEqual(self.server.wait_for_exit(), 0)

    def test_it_can_be_aborted_while_some_wait(self):
        self.server.signal(signal.SIGTERM)
        self.server.wait_for("draining")
        self.server.signal(signal.SIGTERM)
        self.assertEqual(self.server.wait_for_exit(), 0)


class Starting(ServerTest):
    def serves_or_says_why_not(self, *args, **named):
        """Does it serve, or end with status 1 and one line? With which lines?"""
        try:
            server = self.serve(*args, **named)
        except Refused as refused:
            self.assertEqual((refused.status, len(refused.stderr.splitlines())), (1, 1), refused.stderr)
            return False, refused.stderr
        self.assertEqual(server.stop(), 0)
        server.close()
        return True, server.stderr


class TooFewDescriptorsToStart(Starting):
    def test_one_line_says_so_or_it_serves(self):
        outcomes = set()
        for descriptors in *range(5, 17), 20, 24:
            with self.subTest(descriptors=descriptors):
                serves, stderr = self.serves_or_says_why_not("echo", "--shards", "2",
                                                             preexec_fn=limit(resource.RLIMIT_NOFILE, descriptors))
                outcomes.add(serves)
                if not serves:
                    self.assertIn("ulimit -n", stderr)
        self.assertEqual(outcomes, {False, True})


@unittest.skipUnless(os.geteuid() == 0, "only root can become another user, who has no CAP_IPC_LOCK")
class LockedMemory(Starting):
    def setUp(self):
        self.program = self.copy_for_others("echo")

    def as_nobody(self, size):
        # ThreadSanitizer doesn't see the system calls by which one shard's ring is unmapped, and another's is mapped at
        # the same address: it would report races between the two.
        sanitizer = os.environ.get("TSAN_OPTIONS", "") + ":report_bugs=0"
        return {"env": os.environ | {"TSAN_OPTIONS": sanitizer}, "cwd": "/", "user": NOBODY, "group": NOBODY,
                "extra_groups": [], "preexec_fn": limit(resource.RLIMIT_MEMLOCK, size)}

    def test_one_shard_serves_with_64_kilobytes(self):
        server = self.serve("echo", "--shards", "1", path=self.program, **self.as_nobody(64 * 1024))
        data = s.data_of(1 << 20)
        for address in server.addresses:
            with server.connect(address) as sock:
                self.assert_same(s.stream(sock, data), data)
        self.assertEqual(server.stop(), 0)
        said = [line for line in server.lines if line.startswith("warning: ")]
        self.assertLessEqual(len(said), 1, server.stderr)

    def test_several_shards_serve_or_one_line_says_why_not(self):
        for shards in "2", "4":
            for size in 64 * 1024, 8 * 1024, 0:
                with self.subTest(shards=shards, size=size):
                    serves, stderr = self.serves_or_says_why_not("echo", "--shards", shards, path=self.program,
                                                                 **self.as_nobody(size))
                    if serves:
                        self.assertLessEqual(stderr.count("warning: "), 1, stderr)
                    else:
                        self.assertIn("ulimit -l", stderr)

    def test_without_any_epoll_serves_and_says_why(self):
        server = self.serve("echo", "--shards", "2", "--engine", "auto", path=self.program, **self.as_nobody(0))
        self.assertTrue(server.serves())
        said = server.wait_for("^engine ")[0]
        if "uring" in said.split()[1]:
            self.skipTest("this kernel doesn't count rings as locked memory")
        for word in "io_uring", "locked memory", "ulimit -l", "--ulimit memlock":
            self.assertIn(word, said)
        self.assertEqual(server.count("^warning: "), 0, server.stderr)


def refuse_io_uring(error):
    """For preexec_fn: a seccomp filter, as those of container runtimes."""
    PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
    LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
    ALLOW, ERRNO, IO_URING_SETUP = 0x7FFF0000, 0x00050000, 425  # the number is the same on all architectures
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in [
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
        (RETURN, 0, 0, ERRNO | error),
        (RETURN, 0, 0, ALLOW),
    ])
    memory = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(memory)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]

    def preexec():
        if prctl(PR_SET_NO_NEW_PRIVS, 1, None, 0, 0) or prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
            raise OSError(ctypes.get_errno(), memory.raw)  # keeps `memory` alive, too

    return preexec


class IoUringRefused(ServerTest):
    def each(self):
        for error in errno.EPERM, errno.ENOSYS:
            for program in "echo", "line":
                for shards in "1", "3":
                    with self.subTest(error=errno.errorcode[error], program=program, shards=shards):
                        yield program, ("--shards", shards), refuse_io_uring(error)

    def assert_tells_why(self, line):
        for word in "io_uring", "seccomp", "--security-opt":
            self.assertIn(word, line)

    def test_epoll_serves_and_one_line_says_why(self):
        for program, options, refusal in self.each():
            server = self.serve(program, *options, "--engine", "auto", preexec_fn=refusal)
            data = b"".join(b"%d\n" % i for i in range(10000))
            for address in server.addresses:
                with server.connect(address) as sock:
                    self.assert_same(s.stream(sock, data), data)
            server.wait_for("^engine epoll")
            self.assertEqual(server.stop(), 0)
            said = [line for line in server.lines if line.startswith("engine ")]
            self.assertEqual(len(said), 1, server.stderr)
            self.assert_tells_why(said[0])

    def test_who_insists_on_it_is_told_in_one_line_what_to_do(self):
        for program, options, refusal in self.each():
            status, stdout, stderr = run(program, *options, "--listen", s.V4, "--engine", "uring", preexec_fn=refusal)
            self.assertEqual((status, stdout), (1, ""), stderr)
            self.assertEqual(len(stderr.splitlines()), 1, stderr)
            self.assert_tells_why(stderr)

    def test_help_needs_no_io_uring(self):
        self.assertEqual(run("echo", "--help", preexec_fn=refuse_io_uring(errno.EPERM))[0], 0)


class Log(ServerTest):
    """Whoever reads stderr may go: the server stays."""

    def start(self, stderr):
        with s.socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.address = sock.getsockname()
        url = f"tcp://127.0.0.1:{self.address[1]}"
        process = subprocess.Popen([path_of("echo"), "--shards", "2", "--listen", url], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=stderr)
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        if process.poll() is None:
            process.kill()
        process.wait()

    def is_served(self, process):
        self.assertIsNone(process.poll(), "it has ended")
        try:
            with s.socket.create_connection(self.address, s.PATIENCE) as sock:
                sock.sendall(b"x")
                return receive(sock, 1) == b"x"
        except ConnectionRefusedError:
            return False  # not yet

    def test_a_pipe_that_nobody_reads_any_more(self):
        out, into = os.pipe()
        process = self.start(into)
        os.close(into)
        os.close(out)
        until(lambda: self.is_served(process), "it serves")
        for _ in range(3):
            process.send_signal(signal.SIGUSR1)
            self.assertTrue(self.is_served(process))
        process.terminate()
        self.assertEqual(process.wait(s.PATIENCE), 0)

    def test_a_full_disk(self):
        with open("/dev/full", "wb") as full:
            process = self.start(full)
            until(lambda: self.is_served(process), "it serves")
            process.send_signal(signal.SIGUSR1)
            self.assertTrue(self.is_served(process))
            process.terminate()
            self.assertEqual(process.wait(s.PATIENCE), 0)


if __name__ == "__main__":
    unittest.main()
