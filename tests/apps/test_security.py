"""Rights that are given up: another user, rings that do only what they need, a sandbox. What README says of them is so."""
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

import server as s
from server import BUILD, Refused, ServerTest, data_of, path_of, receive, run, stream, until

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOBODY = 65534
SANITIZERS = {"rt_sigpending"}  # which they call by themselves
is_root = unittest.skipUnless(os.geteuid() == 0, "only root can become another user")
# LeakSanitizer looks at its own process by ptrace, which another user's, and a sandboxed one, doesn't let it.
UNLEAKED = os.environ | {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}
is_threaded = "thread" in os.environ.get("RONDO_SANITIZE", "")


def ids_of(pid):
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.rstrip("\n").split(":", 1) for line in file)
    return [[int(number) for number in lines[name].split()] for name in ("Uid", "Gid", "Groups")]


def documented():
    """From README's section "Security": the operations and flags of rings; the system calls, and those only allowed so."""
    text = (ROOT / "README.md").read_text()
    section = text[text.index("\n## Security\n"):text.index("\n## The tour\n")]
    rings, calls = re.findall(r"```\n(.*?)```", section, re.S)
    calls, only_so = calls.split("only so: ")
    plain = {word for line in calls.splitlines() if line.startswith("    ") for word in line.split()}
    so = set(re.sub(r"\([^)]*\)|,| and ", " ", only_so).split())
    return rings.split("\n"), plain, so


@is_root
class Privileges(ServerTest):
    def setUp(self):
        self.program = self.copy_for_others("echo")

    def serve_as(self, *options, **named):
        return self.serve("echo", *options, path=self.program, env=UNLEAKED, cwd="/", **named)

    def test_it_becomes_the_user_with_the_users_groups_only(self):
        for options in (["--user", "nobody"], ["--user", str(NOBODY)], ["--user", "nobody", "--group", "nogroup"],
                        ["--user", "65533", "--group", "65532"]):
            with self.subTest(options=options):
                server = self.serve_as(*options, extra_groups=[1, 2, 3])
                user, group, groups = ids_of(server.pid)
                self.assertEqual(set(user), {int(options[1])} if options[1].isdigit() else {NOBODY})
                self.assertEqual(set(group), {65532} if "65532" in options else {NOBODY})
                self.assertLessEqual(set(groups), set(group))
                for task in os.listdir(f"/proc/{server.pid}/task"):
                    self.assertEqual(ids_of(task)[0], user)
                self.assertTrue(server.serves())
                self.assertEqual(server.stop(), 0)

    def test_a_group_alone(self):
        server = self.serve_as("--group", "nogroup")
        user, group, _ = ids_of(server.pid)
        self.assertEqual((set(user), set(group)), ({0}, {NOBODY}))

    def test_low_ports_are_bound_before(self):
        low = next(port for port in range(1023, 500, -1) if not self.is_taken(port))
        server = self.serve_as("--user", "nobody", listen=(f"tcp://127.0.0.1:{low}",))
        self.assertTrue(server.serves())

    def test_socket_files_become_the_users(self):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o1777)  # as /tmp is: only its owner can remove a file
            path = f"{folder}/socket"
            server = self.serve_as("--user", "65533", "--group", "65532", listen=(f"unix://{path}?mode=0660",))
            status = os.stat(path)
            self.assertEqual((status.st_uid, status.st_gid, status.st_mode & 0o777), (65533, 65532, 0o660))
            self.assertTrue(server.serves())
            self.assertEqual(server.stop(), 0)
            self.assertFalse(os.path.exists(path), server.stderr)

    def is_taken(self, port):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                return True
        return False

    def test_what_is_wrong_is_one_line_and_status_1(self):
        for options, word in ((["--user", "bogus-user"], "bogus-user"), (["--group", "bogus-group"], "bogus-group"),
                              (["--user", "12345"], "--group"), (["--user", "-1"], "-1"),
                              (["--user", "4294967295", "--group", "1"], "4294967295")):
            with self.subTest(options=options):
                status, stdout, stderr = run("echo", *options, "--listen", s.V4)
                self.assertEqual((status, stdout, len(stderr.splitlines())), (1, "", 1), stderr)
                self.assertIn(word, stderr)

    def test_who_is_nobody_can_not_become_another_but_stays(self):
        as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        with self.assertRaises(Refused) as refused:
            self.serve_as("--user", "1", **as_nobody)
        self.assertEqual(refused.exception.status, 1)
        self.assertIn("CAP_SETUID", refused.exception.stderr)
        self.assertTrue(self.serve_as("--user", str(NOBODY), **as_nobody).serves())

    @unittest.skipIf(shutil.which("strace") is None, "no strace")
    def test_rings_are_made_after_that(self):
        with tempfile.NamedTemporaryFile("r") as trace:
            process = subprocess.Popen(["strace", "-f", "-o", trace.name, "-e", "trace=setresuid,io_uring_setup",
                                        self.program, "--user", "nobody", "--engine", "uring", "--listen", s.V4],
                                       env=UNLEAKED, cwd="/", stderr=subprocess.PIPE)
            until(lambda: b"listening" in process.stderr.readline(), "it serves")
            lines = trace.read()
            pid = int(re.search(r"(\d+) +setresuid", lines)[1])
            os.kill(pid, signal.SIGTERM)
            process.communicate(timeout=s.PATIENCE)
        self.assertEqual(re.findall(r"(setresuid|io_uring_setup)\([^?]", lines)[0], "setresuid")
        self.assertIn("io_uring_setup", lines)


@unittest.skipIf(shutil.which("strace") is None, "no strace")
@unittest.skipIf(is_threaded, "threads that are watched over make system calls of their own")
class Documented(ServerTest):
    def trace(self, program, *options):
        """Serve under strace, in all the ways that there are; what the whole process called."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = f"{folder.name}/socket"
        command = ["strace", "-f", "-qq", "-o", f"{folder.name}/trace", path_of(program), *options,
                   "--listen", s.V4, "--listen", f"unix://{path}", "--drain-delay", "0.1"]
        with subprocess.Popen(command, env=UNLEAKED, stderr=subprocess.PIPE, text=True) as process:
            port = int(re.search(r":(\d+)$", process.stderr.readline())[1])
            process.stderr.readline()
            with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
                pid = int(file.read().split()[0])
            text = b"".join(b"line %d\n" % i for i in range(200_000))
            for address in ("127.0.0.1", port), path:
                for sent in b"hello\n", text:
                    with self.open(address) as sock:
                        self.assert_same(stream(sock, sent), sent)
            self.assertEqual(run(program, "--healthcheck", f"tcp://127.0.0.1:{port}")[0], 0)
            idle = self.open(("127.0.0.1", port))
            idle.sendall(b"x\n")
            self.assertEqual(receive(idle, 2), b"x\n")
            os.kill(pid, signal.SIGUSR1)
            self.assertTrue(until(lambda: "{" in process.stderr.readline(), "the report"))
            os.kill(pid, signal.SIGTERM)
            self.assertEqual(s.receive_all(idle), b"")
            idle.close()
            process.stderr.read()
            self.assertEqual(process.wait(s.PATIENCE), 0)
        with open(f"{folder.name}/trace") as file:
            return file.read().splitlines()

    def open(self, address):
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sock.settimeout(s.PATIENCE)
        sock.connect(address)
        return sock

    def test_what_runs_in_the_sandbox_calls_nothing_but_what_is_documented(self):
        _, plain, only_so = documented()
        engines = [os.environ["RONDO_ENGINE"]] if os.environ.get("RONDO_ENGINE") else ["uring", "epoll"]
        for program, *options in (["echo"], ["echo", "--api", "stream"], ["echo", "--receive", "buffer"], ["line"]):
            for engine in engines:
                with self.subTest(program=program, options=options, engine=engine):
                    lines = self.trace(program, *options, "--sandbox", "--engine", engine)
                    begin = next(i for i, line in enumerate(lines) if re.search("SECCOMP_SET_MODE_FILTER.*= 0$", line))
                    called = {match[1]: line for line in lines[begin + 1:]
                              if (match := re.match(r"\d+ +(?:<\.\.\. )?(\w+)[( ]", line))}
                    unknown = called.keys() - plain - only_so - SANITIZERS
                    self.assertEqual(unknown, set(), [called[name] for name in unknown])
                    refused = [line for line in lines[begin:] if "= -1 EPERM" in line
                               and not any(name in line for name in SANITIZERS)]
                    self.assertEqual(refused, [])

    def test_the_sandbox_is_as_documented(self):
        _, plain, only_so = documented()
        source = (ROOT / "core/sandbox.c").read_text()
        arrays = [source[source.index(begin):] for begin in ("const char *const allowed[]", "} allowed_so[]")]
        first, second = (set(re.findall(r'"(\w+)"', array[:array.index("};")])) for array in arrays)
        self.assertEqual((plain, only_so), (first, second))

    def test_rings_are_restricted_as_documented(self):
        (operations, flags, _), _, _ = documented()
        lines = self.trace("echo", "--engine", "uring", "--shards", "2")
        restrictions = [line for line in lines if "IORING_REGISTER_RESTRICTIONS" in line]
        self.assertEqual(len(restrictions), 2)
        for line in restrictions:
            self.assertEqual(re.findall(r"sqe_op=IORING_OP_(\w+)", line), operations.split())
            self.assertEqual(set(re.findall(r"IOSQE_(\w+)", line)), set(flags.split()))
        self.assertEqual(sum("IORING_REGISTER_ENABLE_RINGS" in line for line in lines), 2)
        self.assertEqual([line for line in lines if "io_uring_register" in line and "= -1" in line], [])


class Sandbox(ServerTest):
    ESCAPES = ("exec", "fork", "ptrace", "io_uring_setup", "write", "packet", "kill", "chroot")

    def ask(self, server, word):
        with server.connect() as sock:
            sock.sendall(word.encode() + b"\n")
            return sock.makefile("rb").readline().decode().rstrip("\n")

    def escape(self, *options):
        return self.serve("escape", *options, path=os.path.join(BUILD, "tests", "escape"), listen=(s.V4,), env=UNLEAKED)

    def test_there_is_no_way_out(self):
        free, confined = self.escape(), self.escape("--sandbox")
        for word in self.ESCAPES:
            with self.subTest(word=word):
                self.assertEqual(self.ask(confined, word), "EPERM")
        for word, outcome in ("exec", "ENOENT"), ("fork", "done"), ("ptrace", "ESRCH"), ("write", "done"), ("kill", "done"):
            with self.subTest(word=word, sandbox=False):
                self.assertEqual(self.ask(free, word), outcome)
        self.assertEqual(self.ask(confined, "clone3"), "ENOSYS", "libc takes clone then, whose flags a filter sees")
        self.assertEqual(self.ask(free, "clone3"), "done")
        self.assertEqual(self.ask(confined, "read"), "done")
        with open(f"/proc/{confined.pid}/status") as file:
            self.assertRegex(file.read(), r"NoNewPrivs:\t1\n(.*\n)*Seccomp:\t2\n")

    def test_each_thread_is_in_it(self):
        server = self.serve("echo", "--sandbox", "--shards", "3", env=UNLEAKED)
        for task in os.listdir(f"/proc/{server.pid}/task"):
            with open(f"/proc/{server.pid}/task/{task}/status") as file:
                self.assertIn("Seccomp:\t2\n", file.read(), task)

    def test_it_serves_as_without(self):
        data = data_of(2 << 20)
        for program, *options in ["echo"], ["echo", "--receive", "buffer"], ["echo", "--api", "stream"]:
            with self.subTest(program=program, options=options):
                server = self.serve(program, "--sandbox", *options, env=UNLEAKED)
                for address in server.addresses:
                    with server.connect(address) as sock:
                        self.assert_same(stream(sock, data), data)
                self.assertEqual(server.stop(), 0)

    def test_many_handlers_and_their_stacks(self):
        server = self.serve("echo", "--sandbox", "--api", "stream", "--shards", "1", env=UNLEAKED)
        socks = [self.connect(server) for _ in range(200)]
        for _ in range(2):
            for sock in socks:
                sock.sendall(b"hello")
            for sock in socks:
                self.assertEqual(receive(sock, 5), b"hello")

    def test_names_are_looked_up(self):
        """By a helper thread, which is made in the sandbox, and reads files."""
        server = self.serve("line", listen=(s.V4,))
        url = f"tcp://localhost:{server.addresses[0][1]}"
        done = subprocess.run([path_of("client"), "--sandbox", url, "hello"], env=UNLEAKED, capture_output=True, text=True,
                              timeout=s.PATIENCE)
        self.assertEqual((done.returncode, done.stdout), (0, "hello\n"), done.stderr)

    def test_datagrams_and_pipes(self):
        server = self.serve("echo", "--sandbox", "--shards", "2", listen=("udp://127.0.0.1:0",), env=UNLEAKED)
        url = f"udp://127.0.0.1:{server.addresses[0][1]}"
        done = subprocess.run([path_of("udp-client"), "--sandbox", url], env=UNLEAKED, input="from\na pipe\n", text=True,
                              capture_output=True, timeout=s.PATIENCE)
        self.assertEqual((done.returncode, done.stdout), (0, "from\na pipe\n"), done.stderr)
        self.assertEqual(server.stop(), 0)

    def test_a_child_that_was_there_before(self):
        for api in "protocol", "stream":
            done = subprocess.run([path_of("date"), "--sandbox", "--api", api, "+%Y"], env=UNLEAKED, text=True,
                                  capture_output=True, timeout=s.PATIENCE)
            if api == "protocol":
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertRegex(done.stdout, r"^\d{4}\n$")
            elif done.returncode != 0:  # the task may have come behind the sandbox
                self.assertIn("the sandbox allows no processes", done.stderr)

    def test_with_another_user(self):
        if os.geteuid() != 0:
            self.skipTest("only root can become another user")
        server = self.serve("echo", "--sandbox", "--user", str(NOBODY), env=UNLEAKED,
                            preexec_fn=s.limit(resource.RLIMIT_MEMLOCK, 8 << 20))
        self.assertTrue(server.serves())
        self.assertEqual(set(ids_of(server.pid)[0]), {NOBODY})


if __name__ == "__main__":
    unittest.main()
