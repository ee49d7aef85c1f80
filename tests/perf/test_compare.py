"""perf/compare: its statistics, its judgement, its warnings, and a whole run of it, if a very short one."""
import importlib.machinery
import importlib.util
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import unittest
import xml.dom.minidom
from pathlib import Path
from unittest import mock

import measured
import server as s

sys.dont_write_bytecode = True
PROGRAM = measured.PERF / "compare"


def module_of(path):
    loader = importlib.machinery.SourceFileLoader("compare", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("compare", loader))
    loader.exec_module(module)
    return module


compare = module_of(PROGRAM)
figures, measure, plots = compare.figures, compare.measure, compare.plots


class Statistics(unittest.TestCase):
    def test_the_interval_of_few_values_is_all_of_them(self):
        self.assertEqual(compare.interval([3, 1, 2, 6, 5, 4]), (1, 6))

    def test_of_more_values_it_leaves_out_as_many_as_coins_allow(self):
        self.assertEqual(compare.interval(range(9)), (1, 7))  # 2 * (1 + 9) / 2**9 is 0.039, with the third 0.18
        self.assertEqual(compare.interval(range(30)), (9, 20))

    def test_it_holds_the_median_as_often_as_it_says(self):
        numbers = random.Random(1)
        for count in 8, 15, 40:
            held = 0
            for _ in range(2000):
                low, high = compare.interval([numbers.expovariate(1) for _ in range(count)])  # far from symmetrical
                held += low <= 0.6931 <= high
            self.assertGreaterEqual(held / 2000, 0.94)

    def test_rounds_go_on_until_the_ratio_is_precise(self):
        self.assertFalse(compare.precise_enough([1.0] * 5), "of five no interval has the confidence")
        self.assertTrue(compare.precise_enough([1.0, 1.01, 0.99, 1.0, 1.005, 1.0]))
        self.assertFalse(compare.precise_enough([0.9, 1.1, 0.9, 1.1, 0.9, 1.1]))


def result(**rounds):
    return {"kind": "cpu", "rounds": {name: dict(enumerate(costs)) for name, costs in rounds.items()}, "p99_us": {}}


def judged(load, found):
    return {figure["figure"]: (figure["measured"], figure["holds"]) for figure in figures.judge({load: found})}


class Judgement(unittest.TestCase):
    def test_ratios_are_taken_within_rounds(self):
        found = result(rondo=[100, 210, 400], best=[100, 200, 400])
        del found["rounds"]["best"][2]
        self.assertEqual(figures.median_ratio(found, "rondo", "best"), statistics.median([1.0, 1.05]))
        self.assertIsNone(figures.median_ratio(found, "rondo", "epoll"))

    def test_a_limit_holds_or_it_does_not(self):
        self.assertEqual(judged("pp64x50", result(rondo=[104], best=[100]))["CPU to best"], (1.04, True))
        self.assertEqual(judged("pp64x50", result(rondo=[106], best=[100]))["CPU to best"], (1.06, False))
        self.assertEqual(judged("pp64x50", result(rondo=[1300], best=[1000]))["tax, ns"], (300, False))
        self.assertEqual(judged("lines16", result(rondo=[10], libuv=[100], best=[9]))["CPU to libuv"], (0.1, True))
        self.assertEqual(judged("bulk1m", result(rondo=[70], epoll=[100]))["CPU to epoll"], (0.7, False))

    def test_what_was_not_measured_is_not_judged(self):
        self.assertNotIn("CPU to epoll", judged("pp64x50", result(rondo=[1], best=[1])))
        self.assertEqual(judged("pp64x50", result(best=[1])), {})

    def test_counters(self):
        found = result(rondo=[1], best=[1])
        found["counters"] = {"rondo": {"submissions": 1.0, "completions": 2.0, "system_calls": 0.3, "bytes_copied": 0.0}}
        counted = judged("pp64x50", found)
        self.assertTrue(counted["completions of a request"][1])
        self.assertFalse(counted["system_calls of a request"][1])

    def test_the_tail_is_worse_only_if_that_is_sure(self):
        found = result(rondo=[1] * 6, best=[1] * 6)
        found["p99_us"] = {"rondo": dict(enumerate([90, 95, 100, 105, 110, 99])), "best": dict(enumerate([100] * 6))}
        self.assertEqual(judged("open150k", found)["p99 to best, at least"], (0.9, True))
        found["p99_us"]["rondo"] = dict(enumerate([101, 102, 103, 104, 105, 106]))
        self.assertEqual(judged("open150k", found)["p99 to best, at least"], (1.01, False))

    def test_memory_gain_and_greed(self):
        idle = {"kind": "idle", "bytes": {"rondo": [195, 196], "libuv": [318], "epoll": [80]}}
        self.assertEqual({name: holds for name, (_, holds) in judged("idle", idle).items()},
                         {"resident bytes of a connection": True, "bytes, to libuv's 318": True})
        idle["bytes"]["rondo-stream"] = [7000]
        self.assertEqual(judged("idle", idle)["resident bytes of one with a handler"], (7000, False))
        switch = {"kind": "switch", "switch_ns": {"1 in turn": [3.0], "50 in turn": [31.0], "10000 in turn": [60.0]}}
        self.assertEqual(judged("switch", switch), {"ns, 1 in turn": (3.0, True), "ns, 50 in turn": (31.0, False)})
        lines = result(**{"rondo": [100] * 6, "rondo-stream": [136] * 6})
        self.assertEqual(judged("lines16", lines)["a handler's CPU to callbacks"], (1.36, False))
        shards = {"kind": "shards", "gain": {"rondo": [1.8], "best": [1.9]}, "rate": {"rondo": [10], "best": [11], "epoll": [9]}}
        gained = judged("two-shards", shards)
        self.assertFalse(gained["gain, to best's"][1])
        self.assertTrue(gained["rate, to epoll's"][1])
        greedy = {"kind": "greedy", "share": {"rondo": [0.7]}, "peak_bytes": {"rondo": [2 << 20]},
                  "buffers_kept": {"rondo": [0]}, "limit_bytes": 3 << 20}
        self.assertEqual([holds for _, holds in judged("greedy", greedy).values()], [False, True, True])


class Distortion(unittest.TestCase):
    def test_tracked_connections_are_told(self):
        with mock.patch.object(measure, "_tracked_connections", side_effect=[7, 8]):
            self.assertTrue(any("conntrack" in warning for warning in measure.distortions()))
        with mock.patch.object(measure, "_tracked_connections", return_value=7):
            self.assertFalse(any("conntrack" in warning for warning in measure.distortions()))

    def test_few_ports_are_told(self):
        first = measure._first
        with mock.patch.object(measure, "_first", lambda path, *rest: "60000 61000" if "port_range" in path
                               else first(path, *rest)):
            self.assertIn("only 1001 ports for each source address", measure.distortions())

    def test_other_load_is_told(self):
        others = measure.Others()
        with mock.patch.object(measure.Others, "_read", staticmethod(lambda: (others.start[0] + 10, others.start[1] + 7,
                                                                               others.start[2] + 1))):
            self.assertEqual(others.warnings(), ["other programs kept 0.70 cores", "the host took 0.10 cores"])


class Plots(unittest.TestCase):
    found = {"pp64x1": result(rondo=[10, 12], best=[10, 10], asyncio=[15, 16]), "pp64x50": result(rondo=[11], best=[10])}

    def test_without_gnuplot_it_says_so(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"PATH": folder}):
            self.assertIn("gnuplot-nox", plots.draw(self.found, Path(folder)))

    @unittest.skipUnless(shutil.which("gnuplot"), "gnuplot isn't here")
    def test_each_family_is_drawn(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertIn("pingpong.svg", plots.draw(self.found, Path(folder)))
            texts = xml.dom.minidom.parse(f"{folder}/pingpong.svg").getElementsByTagName("text")
            words = " ".join(node.toxml() for node in texts)
            self.assertTrue("asyncio" in words and "pp64x50" in words, words)
            self.assertEqual([path.name for path in Path(folder).iterdir()], ["pingpong.svg"])


class Run(unittest.TestCase):
    LOADS = ("pp64x1", "pp1k", "lines16", "bulk64k", "churn-reset", "open50k", "unix-pipe16", "greedy", "two-shards")

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="rondo-")
        cls.json = Path(cls.folder.name) / "all.json"
        cls.done = cls.run_it("--rounds", "1", "--seconds", "0.1", "--servers", "rondo,best,epoll", "--loads",
                              ",".join(cls.LOADS), "--quick", "--json", str(cls.json))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @staticmethod
    def run_it(*options):
        return subprocess.run([sys.executable, str(PROGRAM), "--build", os.path.abspath(s.BUILD), *options],
                              capture_output=True, text=True, check=False, timeout=200)

    def setUp(self):
        self.assertEqual(self.done.returncode, 0, self.done.stderr)

    def test_every_load_has_a_table(self):
        for load in self.LOADS:
            self.assertIn(f"\n## {load}\n", self.done.stdout)
        self.assertRegex(self.done.stdout, r"\n\| rondo +\| \d+ \(\d+\.\.\d+\) +\| \d\.\d{3} ")
        self.assertIn("tax of rondo:", self.done.stdout)
        self.assertRegex(self.done.stdout, r"\| pp1k +\| CPU to best +\| 1\.05")

    def test_it_tells_machine_and_commit_and_command(self):
        machine = json.loads(self.json.read_text())["machine"]
        for key in "date", "cpu", "cores", "kernel", "congestion_control", "commit", "command", "warnings":
            self.assertIn(key, machine)
        self.assertIn("--loads", machine["command"])

    def test_counters_are_those_of_requests(self):
        results = json.loads(self.json.read_text())["results"]
        counted = results["pp64x1"]["counters"]["rondo"]
        self.assertAlmostEqual(counted["submissions"], 1, delta=0.05)
        self.assertEqual(counted["bytes_copied"], 0)
        self.assertGreaterEqual(results["pp64x1"]["counters"]["best"]["completions"], 1)

    def test_it_tells_how_far_it_is(self):
        lines = re.findall(r"^(\S+): load (\d+) of (\d+), ", self.done.stderr, re.M)
        self.assertEqual(lines, [(load, str(i + 1), str(len(self.LOADS))) for i, load in enumerate(self.LOADS)])

    def test_plots_stand_beside_the_results_or_are_missed(self):
        self.assertRegex(self.done.stdout, r"plots in \S+: .*pingpong\.svg" if shutil.which("gnuplot") else "no plots: gnuplot")

    def test_unknown_names_are_refused_with_the_known(self):
        for option, known in ("--loads", "churn-reset"), ("--servers", "ceiling"):
            done = self.run_it(option, "rondos")
            self.assertEqual(done.returncode, 1)
            self.assertTrue("rondos" in done.stderr and known in done.stderr, done.stderr)
        self.assertEqual(self.run_it("--rounds", "0").returncode, 2)


unittest.main()
