"""The tutorial's steps do what apps/README.md says, and it shows what they are."""
import os
import pathlib
import re
import select
import socket
import unittest

import server as s
from server import ServerTest, receive, receive_all

SOURCE = pathlib.Path(os.environ["RONDO_SOURCE"])
TUTORIAL = SOURCE / "apps" / "tutorial"


class Visitor:
    """A line at a time."""

    def __init__(self, sock):
        self.sock, self.file = sock, sock.makefile("rb")

    def says(self, text):
        self.sock.sendall(text)

    def hears(self):
        return self.file.readline()

    def close(self):
        self.file.close()
        self.sock.close()


class Tutorial(ServerTest):
    def start(self, step, *options):
        return self.serve("tutorial", *options, path=os.path.join(s.BUILD, "apps", "tutorial_" + step))

    def visitor(self, server, name=None):
        visitor = Visitor(self.connect(server))
        self.addCleanup(visitor.close)
        if name is not None:
            self.assertEqual(visitor.hears(), b"who are you?\n")
            visitor.says(name + b"\n")
            self.assertEqual(visitor.hears(), b"welcome, " + name + b"\n")
        return visitor

    def test_1_bytes_come_back(self):
        visitor = self.visitor(self.start("1_echo"))
        visitor.says(b"any bytes")
        self.assertEqual(receive(visitor.sock, 9), b"any bytes")

    def test_2_lines_come_back_until_quit(self):
        visitor = self.visitor(self.start("2_line"))
        visitor.says(b"one\ntwo\nquit\nthree\n")
        self.assertEqual(receive_all(visitor.sock), b"one\ntwo\n")

    def test_3_visitors_have_names(self):
        server = self.start("3_state")
        ann, bob = self.visitor(server, b"Ann"), self.visitor(server, b"Bob")
        for visitor, name in (ann, b"Ann"), (bob, b"Bob"):
            visitor.says(b"hello\n")
            self.assertEqual(visitor.hears(), name + b": hello\n")
        nameless = self.visitor(server)
        nameless.says(b"\n" + 21 * b"x" + b"\nquit\n")
        self.assertEqual(receive_all(nameless.sock), b"who are you?\n" + 2 * b"1 to 20 bytes, please\n")

    def test_who_is_quiet_must_leave_and_who_speaks_may_stay(self):
        for step in "4_timer", "5_shard", "6_broadcast", "7_client", "8_stream":
            with self.subTest(step=step):
                server = self.start(step, "--patience", "1000", "--shards", "1")
                quiet, lively = self.visitor(server, b"quiet"), self.visitor(server, b"lively")
                while not select.select([quiet.sock], [], [], 0.2)[0]:
                    lively.says(b"hello\n" if step < "6" else b"who\n")
                    self.assertIn(lively.hears()[:6], (b"lively", b"quiet\n"))
                self.assertEqual(quiet.hears(), b"you are so quiet: bye\n")
                self.assertEqual(quiet.hears(), b"")

    def test_who_is_here(self):
        for step in "5_shard", "6_broadcast", "7_client", "8_stream":
            with self.subTest(step=step):
                server = self.start(step, "--shards", "1")
                visitors = {name: self.visitor(server, name) for name in (b"Ann", b"Bob", b"Cid")}
                visitors[b"Ann"].says(b"who\n")
                self.assertEqual({visitors[b"Ann"].hears() for _ in range(3)}, {b"Ann\n", b"Bob\n", b"Cid\n"})
                visitors[b"Bob"].says(b"quit\n")
                self.assertEqual(visitors[b"Bob"].hears(), b"")
                s.until(lambda: server.total("connections_open") == 2, "Bob has left")
                visitors[b"Ann"].says(b"who\n")
                self.assertEqual({visitors[b"Ann"].hears() for _ in range(2)}, {b"Ann\n", b"Cid\n"})

    def test_what_one_says_all_hear_on_all_shards(self):
        for step in "6_broadcast", "7_client", "8_stream":
            with self.subTest(step=step):
                server = self.start(step, "--shards", "2")
                visitors = [self.visitor(server, b"v%d" % i) for i in range(12)]
                self.assertEqual(len([shard for shard in server.report() if shard["connections_open"] > 0]), 2)
                for i, visitor in enumerate(visitors):
                    visitor.says(b"from %d, with a \0\n" % i)
                    for other in visitors:
                        self.assertEqual(other.hears(), b"v%d: from %d, with a \0\n" % (i, i))

    def test_who_does_not_read_is_thrown_out_and_the_others_stay(self):
        for step in "6_broadcast", "8_stream":
            with self.subTest(step=step):
                server = self.start(step, "--shards", "1")
                deaf = Visitor(self.connect(server, receive_bytes=16384))
                self.addCleanup(deaf.close)
                deaf.says(b"deaf\n")
                speaker = self.visitor(server, b"speaker")
                text = b"x" * 15000
                while server.total("connections_open") == 2:
                    for _ in range(50):
                        speaker.says(text + b"\n")
                        self.assertEqual(speaker.hears(), b"speaker: " + text + b"\n")

    def test_a_scribe_writes_it_down_and_may_come_later(self):
        for step in "7_client", "8_stream":
            with self.subTest(step=step), socket.create_server(("127.0.0.1", 0)) as listener:
                listener.settimeout(s.PATIENCE)
                url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
                server = self.start(step, "--shards", "1", "--scribe", url)
                ann = self.visitor(server, b"Ann")
                for round_number in range(2):  # the first scribe goes away, and the connection is made again
                    with listener.accept()[0] as scribe:
                        scribe.settimeout(s.PATIENCE)
                        # Accepted by the kernel is not yet known to the server, so what is said until then isn't written down.
                        wanted = b"Ann: listen, %d\n" % round_number
                        while not select.select([scribe], [], [], 0.05)[0]:
                            ann.says(wanted[5:])
                            self.assertEqual(ann.hears(), wanted)
                        self.assertEqual(receive(scribe, len(wanted)), wanted)

    def test_it_drains(self):
        for step in sorted(path.stem for path in TUTORIAL.glob("*.c")):
            with self.subTest(step=step):
                server = self.start(step, "--shards", "2")
                visitors = [self.visitor(server, None if step < "3" else b"v%d" % i) for i in range(6)]
                self.assertEqual(server.stop(), 0)
                for visitor in visitors:
                    self.assertEqual(visitor.hears(), b"")


class Text(unittest.TestCase):
    def test_what_it_shows_is_in_the_step_that_it_tells_of(self):
        text = (SOURCE / "apps" / "README.md").read_text()
        parts = re.split(r"^## \d\. .*$", text, flags=re.M)[1:]
        steps = sorted(TUTORIAL.glob("*.c"))
        self.assertEqual(len(parts), len(steps))
        for part, step in zip(parts, steps):
            self.assertIn(f"(tutorial/{step.name})", part)
            shown = re.findall(r"^```c\n(.*?)^```", part, re.S | re.M)
            self.assertEqual(len(shown), 1, step.name)
            self.assertIn(shown[0], step.read_text())

    def test_it_names_every_program(self):
        text = (SOURCE / "apps" / "README.md").read_text()
        for program in (SOURCE / "apps").glob("*.c"):
            self.assertIn(f"({program.name})", text)


unittest.main()
