#!/usr/bin/env python3
"""The two parsers of the scenario language: strict, and of the same opinion.

What is wrong is said by both in one line that begins with FILE:LINE:, with exit status 2. Random changes of the tree's
scenarios, from a seed that is printed, are read by both, or by neither.
"""
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("RONDO_BUILD", HERE.parent.parent / "build" / "dev"))
DRIVERS = ([sys.executable, str(HERE / "asyncio_trace.py"), "--check"],
           [str(BUILD / "tests" / "conformance" / "rondo-trace"), "--check"])
SEED = int(os.environ.get("SEED", "1"))
CHANGES = 400

WRONG = {       # the line that is wrong: what it says
    1: ["pear connect", "transport: servant", "socket: udp", "start: soon", "addresses: 9", "buffers: 0", "frobnicate: 1",
        "receive: buffer 2000000", "receive: data 5", "protocol: Main", "protocol: main", "without: connection_lost",
        "on data_received echo", "on data_received:", "on nothing: close", "on received 0: close",
        "on received \"\": close", "on eof_received: return maybe", "on data_received: return true",
        "on eof_received: return true; close", "on connection_made: echo", "on get_buffer: close", "on buffer_updated 0: close",
        "on data_received: transport 0 close", "on data_received: transport 257 close", "on data_received: peer close",
        "on data_received: write", "on data_received: write \"open", "on data_received: write \"\\q\"",
        "on data_received: write \"\\x1\"", "on data_received: write 3 x \"\"", "on data_received: write 1 2",
        "on data_received: close close", "on data_received: set_protocol nobody", "on data_received: get_extra_info",
        "on data_received: get_extra_info shard", "on data_received: set_write_buffer_limits high=",
        "on data_received: set_write_buffer_limits high=1 high=2", "on data_received: set_write_buffer_limits wide=1",
        "on data_received: sendfile", "on data_received: sendfile \"x\" from=1", "on data_received: mark",
        "on data_received: server stop", "on data_received: server path_exists"],
    2: ["title: late", "on data_received: close", "peer", "peer 0 connect", "peer 257 connect", "peer 3-2 connect",
        "peer jump", "peer connect 2", "peer listen", "peer accept", "peer send", "peer send text", "peer send 99999999999",
        "peer exchange \"x\"", "peer read", "peer read 0", "peer read to eof", "peer buffers", "peer buffers send=x",
        "peer close now", "transport", "transport connect", "transport echo", "transport fly", "server", "server sit",
        "wait", "wait for it", "wait received", "wait received 0", "wait connection_failed", "wait get_buffer", "sleep",
        "sleep 0", "sleep 2001", "peer send \"a\" \"b\"", "peer-close", "\"peer\" close", ": close"],
}


def judge(driver, files):
    done = subprocess.run([*driver, *map(str, files)], capture_output=True, text=True, errors="replace", timeout=120)
    return done.returncode, [line for line in done.stderr.splitlines() if line]


class Language(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def file(self, name, text):
        path = pathlib.Path(self.folder.name) / f"{name}.scenario"
        path.write_text(text, errors="surrogateescape")
        return path

    def test_what_is_wrong_is_said_with_its_place(self):
        files = {}
        for line, texts in WRONG.items():
            for number, text in enumerate(texts):
                whole = f"{text}\npeer connect\n" if line == 1 else f"peer connect\n{text}\n"
                files[self.file(f"wrong-{line}-{number}", whole)] = line, text
        for driver in DRIVERS:
            status, errors = judge(driver, files)
            self.assertEqual((status, len(errors)), (2, len(files)), errors)
            for error, (path, (line, text)) in zip(errors, files.items()):
                with self.subTest(text=text, driver=driver[-2]):
                    self.assertRegex(error, rf"^{path}:{line}: .")

    def test_what_is_missing_is_said(self):
        for name, text in (("empty", ""), ("no-steps", "title: nothing\non data_received: echo\n"), ("nul", "peer connect\0\n")):
            path = self.file(name, text)
            for driver in DRIVERS:
                status, errors = judge(driver, [path])
                self.assertEqual((status, len(errors)), (2, 1), (name, driver, errors))
        for driver in DRIVERS:
            status, errors = judge(driver, [pathlib.Path(self.folder.name) / "absent.scenario"])
            self.assertEqual((status, len(errors)), (2, 1), (driver, errors))

    def test_the_trees_scenarios_are_right(self):
        files = sorted((HERE / "scenarios").glob("*.scenario"))
        for driver in DRIVERS:
            self.assertEqual(judge(driver, files), (0, []))

    def test_both_are_of_the_same_opinion(self):
        chance = random.Random(SEED)
        texts = [path.read_text() for path in sorted((HERE / "scenarios").glob("*.scenario"))]
        files = [self.file(f"changed-{number:03}", changed(chance, chance.choice(texts), texts)) for number in range(CHANGES)]
        opinions = [wrong_files(judge(driver, files)[1]) for driver in DRIVERS]
        self.assertTrue(opinions[0] and len(opinions[0]) < CHANGES, "changes that are all wrong, or all right, show nothing")
        for path in sorted(opinions[0] ^ opinions[1]):
            self.fail(f"SEED={SEED}: only one of the two reads this:\n{pathlib.Path(path).read_text()}")


def wrong_files(errors):
    return {line.partition(".scenario:")[0] + ".scenario" for line in errors}


def changed(chance, text, texts):
    """With a word or a line dropped, doubled, moved, or taken from another scenario."""
    lines = [line.split(" ") for line in text.splitlines()]
    for _ in range(chance.randrange(1, 3)):
        line = chance.choice(lines)
        place = chance.randrange(len(line))
        other = chance.choice(chance.choice(texts).splitlines()).split(" ")
        what = chance.randrange(5)
        if what == 0 and len(line) > 1:
            del line[place]
        elif what == 1:
            line.insert(place, chance.choice(other))
        elif what == 2:
            line[place] = chance.choice(other)
        elif what == 3:
            lines.insert(chance.randrange(len(lines) + 1), other)
        else:
            lines.remove(line)
            lines.insert(chance.randrange(len(lines) + 1), line)
    return "\n".join(" ".join(line) for line in lines) + "\n"


if __name__ == "__main__":
    unittest.main()
