"""The bare ring, with each of its techniques, under every load: a yardstick that loses a byte measures nothing."""
import unittest
from pathlib import Path

import measured
from generator import CEILING

CONGESTION = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().split()[-1]
PIECES = ["--incremental", "--buffers", "16", "--buffer-size", "262144", "--gather"]
TECHNIQUES = [
    [], ["--gather"], PIECES, [*PIECES, "--quiet-sends"], ["--quiet-sends"], ["--huge-pages"], ["--single-shot"],
    [*PIECES, "--quiet-sends", "--direct", "--defer-accept", "--no-poll-first"], ["--direct"], ["--accepts", "8"],
    ["--defer-accept", "--no-poll-first"], ["--zero-copy", "4096"], ["--zero-copy", "4096", "--gather"],
    ["--taskrun", "coop"], ["--taskrun", "none"], ["--taskrun", "none", "--sqpoll"], ["--no-ring-fd"],
    ["--min-wait", "50"], ["--spin"], ["--portion", "2"], [*PIECES, "--quiet-sends", "--portion", "3"],
    ["--congestion", CONGESTION], [*PIECES, "--window", "4194304"], ["--threads", "2", *PIECES],
    ["--buffers", "16", "--buffer-size", "512", "--gather", "--quiet-sends"],
]


def is_new(error):
    """A technique that this kernel doesn't have says since when there is one."""
    return "needs Linux" in str(error)


class Ceiling(unittest.TestCase):
    def bears(self, switches, loads):
        with self.subTest(switches=switches):
            try:
                measured.bear([CEILING, *switches], loads)
            except measured.measure.Failed as error:
                if not is_new(error):
                    raise

    def test_each_technique_bears_every_load(self):
        for switches in TECHNIQUES:
            self.bears(switches, measured.ECHO)

    def test_over_a_unix_socket(self):
        with measured.folder() as folder:
            for switches in [], [*PIECES, "--quiet-sends"], ["--single-shot"]:
                self.bears([*switches, "--unix", f"{folder}/echo"], measured.over_unix(measured.ECHO))

    def test_counts_what_it_does(self):
        with measured.measure.Server([CEILING], {0}) as process:
            before = process.counters()
            status, _, stderr = measured.generator.run("pingpong", process.url, "--connections", "1", "--count", "500")
            self.assertEqual(status, 0, stderr)
            after = process.counters()
        counted = {key: after[key] - before[key] for key in after}
        self.assertEqual(counted["bytes_in"], 500 * 64)
        self.assertGreaterEqual(counted["submissions"], 500)
        self.assertGreaterEqual(counted["completions"], 1000)
        self.assertGreater(counted["system_calls"], 0)

    def test_refuses_what_contradicts_itself(self):
        for switches, word in ((["--quiet-sends", "--zero-copy", "1"], "--quiet-sends"), (["--buffers", "3"], "power"),
                               (["--sqpoll"], "--taskrun none"), (["--single-shot", "--gather"], "--single-shot"),
                               (["--threads", "0"], "1 to 64"), (["--taskrun", "late"], "--taskrun"), (["x"], "options")):
            done = measured.subprocess.run([CEILING, *switches], capture_output=True, text=True, check=False, timeout=30)
            self.assertEqual(done.returncode, 2, switches)
            self.assertIn(word, done.stderr)


unittest.main()
