#!/usr/bin/env python3
"""The runner's judgement: what deviations.json excuses, and above all what it must never excuse."""
import importlib.machinery
import importlib.util
import json
import pathlib
import unittest

import scenario as language

HERE = pathlib.Path(__file__).resolve().parent


def load_runner():
    loader = importlib.machinery.SourceFileLoader("runner", str(HERE / "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("runner", loader))
    loader.exec_module(module)
    return module


runner = load_runner()
MADE = {"event": "connection_made"}
LOST = {"event": "connection_lost", "error": None}
RESET_BY_PEER = {"event": "connection_lost", "error": "ECONNRESET"}
EOF, RESET, BROKEN = {"event": "eof"}, {"event": "reset"}, {"event": "broken"}
PAUSE, RESUME = {"event": "pause_writing"}, {"event": "resume_writing"}
WRITE_RAISED = {"call": "write", "raised": True}


def note(text, **more):
    return {"note": text, **more}


def data(text):
    return {"event": "data", "data": text}


def received(text):
    return {"event": "data_received", "data": text}


class Rules(unittest.TestCase):
    def judge(self, asyncio, rondo, socket="tcp"):
        """The ids of the deviations used; None: they differ."""
        deviations = [runner.Deviation(rule) for rule in json.loads((HERE / "deviations.json").read_text())]
        source = language.Scenario("test", socket=socket)
        wrong, decided = runner.compare(source, asyncio, rondo, deviations)
        return None if wrong else [deviation.id for deviation in decided]

    def transports(self, asyncio, rondo, **more):
        return self.judge({"transport 1": asyncio}, {"transport 1": rondo}, **more)

    def peers(self, asyncio, rondo, notes=(), lost=LOST, **more):
        return self.judge({"transport 1": [MADE, *notes, lost], "peer 1": asyncio},
                          {"transport 1": [MADE, lost], "peer 1": rondo}, **more)

    def test_what_is_equal_is_equal(self):
        self.assertEqual(self.transports([MADE, received("a"), LOST], [MADE, received("a"), LOST]), [])
        self.assertEqual(self.transports([MADE, note("anything"), LOST], [MADE, LOST]), [])

    def test_a_callback_too_many_or_too_few_is_never_excused(self):
        notes = [note("abort"), note("closed during sendfile"), note("sendfile begins"), note("limits raised while paused"),
                 note("resumed after eof"), note("written after close", bytes="x"), note("refused by a sendfile", bytes="x")]
        for notes_here in ([], notes):
            self.assertIsNone(self.transports([MADE, *notes_here, LOST], [MADE, LOST, LOST]))
            self.assertIsNone(self.transports([MADE, *notes_here, LOST], [MADE]))
            self.assertIsNone(self.transports([MADE, *notes_here, LOST], [LOST, MADE]))
            self.assertIsNone(self.transports([MADE, *notes_here, LOST], [MADE, LOST, received("late")]))
            self.assertIsNone(self.transports([MADE, *notes_here, LOST], [MADE, LOST, {"event": "sendfile_done", "result": 1}]))
            self.assertIsNone(self.transports([MADE, *notes_here, LOST], [MADE, LOST, RESUME]))
            self.assertIsNone(self.transports([MADE, *notes_here, LOST], [MADE, {"event": "eof_received"}, LOST]))
            self.assertIsNone(self.transports([MADE, *notes_here, LOST], [MADE, RESET_BY_PEER]))
            self.assertIsNone(self.transports([MADE, received("ab"), *notes_here, LOST], [MADE, received("a"), LOST]))

    def test_bytes_of_the_peer_are_never_lost(self):
        self.assertIsNone(self.peers([data("answer"), EOF], [data("answe"), EOF]))
        self.assertIsNone(self.peers([data("answer"), EOF], [EOF]))
        self.assertIsNone(self.peers([data("answer"), EOF], [data("answerr"), EOF]))
        self.assertIsNone(self.peers([data("answer"), EOF], [data("ansewr"), EOF]))
        self.assertIsNone(self.peers([data("answer"), EOF], [data("answer"), RESET]))

    def test_an_abort_resets_and_may_cut_but_not_change(self):
        notes = [note("abort")]
        self.assertEqual(self.peers([data("answer"), EOF], [data("ans"), RESET], notes), ["abort-resets"])
        self.assertEqual(self.peers([data("answer"), EOF], [RESET], notes), ["abort-resets"])
        self.assertIsNone(self.peers([data("answer"), EOF], [data("answer"), RESET]))
        self.assertIsNone(self.peers([data("answer"), EOF], [data("anx"), RESET], notes))
        self.assertIsNone(self.peers([data("answer"), EOF], [data("ans"), EOF], notes))
        self.assertIsNone(self.peers([EOF], [data("more"), RESET], notes))

    def test_a_close_does_not_reset(self):
        self.assertEqual(self.peers([data("ans"), RESET], [data("answer"), EOF]), ["close-does-not-reset"])
        self.assertIsNone(self.peers([data("answer"), RESET], [data("ans"), EOF]))
        self.assertIsNone(self.peers([data("ans"), RESET], [data("answer"), EOF], lost=RESET_BY_PEER))
        self.assertEqual(self.peers([BROKEN, EOF], [EOF]), ["close-does-not-break"])
        self.assertIsNone(self.peers([EOF], [BROKEN, EOF]))

    def test_written_after_close_are_exactly_these_bytes(self):
        notes = [note("written after close", bytes="late")]
        self.assertEqual(self.peers([data("answerlate"), EOF], [data("answer"), EOF], notes), ["write-after-close"])
        self.assertIsNone(self.peers([data("answerlate"), EOF], [data("answe"), EOF], notes))
        self.assertIsNone(self.peers([data("answerlast"), EOF], [data("answer"), EOF], notes))
        self.assertIsNone(self.peers([data("answerlate"), EOF], [data("answer"), EOF]))

    def test_refused_during_a_sendfile_are_exactly_these_bytes(self):
        notes = [note("refused by a sendfile", bytes="two"), note("refused by a sendfile", bytes="three")]
        used = ["refused-during-sendfile-arrives"]
        self.assertEqual(self.peers([data("onefour"), EOF], [data("onetwothreefour"), EOF], notes), used)
        self.assertEqual(self.peers([EOF], [data("twothree"), EOF], notes), used)
        self.assertIsNone(self.peers([data("onefour"), EOF], [data("onethreetwofour"), EOF], notes))
        self.assertIsNone(self.peers([data("onefour"), EOF], [data("onetwofour"), EOF], notes))
        self.assertIsNone(self.peers([data("onefour"), EOF], [data("onetwothreefou"), EOF], notes))

    def test_a_refused_write_is_excused_where_it_was(self):
        refused = [note("RuntimeError: Cannot call write() after write_eof()"), WRITE_RAISED]
        self.assertEqual(self.transports([MADE, *refused, LOST], [MADE, LOST]), ["write-after-write-eof"])
        self.assertEqual(self.transports([MADE, received("a"), *refused, received("b"), LOST], [MADE, received("ab"), LOST]),
                         ["write-after-write-eof"])
        self.assertIsNone(self.transports([MADE, note("RuntimeError: something else"), WRITE_RAISED, LOST], [MADE, LOST]))
        self.assertIsNone(self.transports([MADE, LOST], [MADE, WRITE_RAISED, LOST]))

    def test_a_resume_needs_raised_limits_each_time(self):
        raised = note("limits raised while paused")
        self.assertEqual(self.transports([MADE, PAUSE, raised, RESUME], [MADE, PAUSE, RESUME]), [])
        self.assertEqual(self.transports([PAUSE, raised, MADE, RESUME], [PAUSE, RESUME, MADE]),
                         ["raised-limits-resume", "raised-limits-resume-later"])
        self.assertIsNone(self.transports([PAUSE, LOST], [PAUSE, RESUME, LOST]))
        self.assertIsNone(self.transports([PAUSE, raised, LOST], [PAUSE, RESUME, RESUME, LOST]))
        self.assertIsNone(self.transports([PAUSE, raised, LOST], [PAUSE, PAUSE, LOST]))

    def test_what_stopped_a_scenario_is_never_excused(self):
        error = {"scenario": [{"error": "waited", "line": 1}]}
        self.assertIsNone(self.judge(error, {}))
        self.assertIsNone(self.judge({}, error))
        self.assertIsNone(self.judge(error, error))

    def test_a_wrong_rule_is_refused(self):
        for rule in ({"id": "x"}, {"id": "x", "reason": "", "on": "peer", "asyncio": [], "rondo": [], "nonsense": 1}):
            with self.assertRaises(runner.Failed):
                runner.Deviation(rule)


if __name__ == "__main__":
    unittest.main()
