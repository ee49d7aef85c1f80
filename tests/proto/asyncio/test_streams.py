#!/usr/bin/env python3
"""What a stream's reader gives, compared with asyncio's own StreamReader: the same calls on the same bytes, cut in the same way, with
small limits, so that every rule about them is met. Scenarios are random, from fixed seeds."""

import asyncio
import random
import subprocess
import sys
import unittest

TRACE = sys.argv.pop(1)
SCENARIOS = 1500


class Reader(asyncio.StreamReader):
    """With several separators, as in Python 3.13: the one that ends first counts."""

    async def readuntil_any(self, separators):
        longest, offset = max(map(len, separators)), 0
        while True:
            found = [(at + len(separator), at) for separator in separators
                     if (at := self._buffer.find(separator, offset)) != -1]
            if found:
                end, start = min(found, key=lambda pair: pair[0])
                if start > self._limit:
                    raise asyncio.LimitOverrunError("found", start)
                chunk = bytes(self._buffer[:end])
                del self._buffer[:end]
                self._maybe_resume_transport()
                return chunk
            offset = max(0, len(self._buffer) + 1 - longest)
            if offset > self._limit:
                raise asyncio.LimitOverrunError("not found", offset)
            if self._eof:
                chunk = bytes(self._buffer)
                self._buffer.clear()
                raise asyncio.IncompleteReadError(chunk, None)
            await self._wait_for_data("readuntil")


class Transport:
    """As a real one it tells of no end while reading is paused."""

    def __init__(self, reader):
        self.reader, self.reading, self.ended = reader, True, False

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True
        if self.ended:
            asyncio.get_running_loop().call_soon(self.reader.feed_eof)

    def end(self):
        self.ended = True
        if self.reading:
            self.reader.feed_eof()


class Rest:
    """The handler doesn't read for so many feeds."""

    def __init__(self):
        self.feeds, self.over = 0, None

    async def take(self, feeds):
        self.feeds, self.over = feeds, asyncio.Event()
        await self.over.wait()

    def fed(self):
        if self.feeds > 0:
            self.feeds -= 1
            if self.feeds == 0:
                self.over.set()


async def call(reader, rest, step, said):
    what, argument = step
    try:
        if what == "rest":
            await rest.take(argument)
            return
        if what == "at_eof":
            said.append(f"at_eof {int(reader.at_eof())}")
            return
        if what == "read":
            data = await reader.read(argument)
        elif what == "exactly":
            data = await reader.readexactly(argument)
        elif what == "until":
            data = await reader.readuntil_any(argument)
        else:
            data = await reader.readline()
        said.append(f"data {data.hex()}")
    except asyncio.IncompleteReadError as error:
        said.append(f"incomplete {error.partial.hex()}")
    except asyncio.LimitOverrunError as error:
        said.append(f"overrun {error.consumed}")
    except ValueError:
        said.append("too long")


async def by_asyncio(scenario):
    limit, calls, feeds = scenario
    reader = Reader(limit=limit)
    said, transport, rest = [], Transport(reader), Rest()
    reader.set_transport(transport)

    async def handle():
        for step in calls:
            await call(reader, rest, step, said)
        said.append("done")

    async def settle():
        for _ in range(3 * len(calls) + 3):
            await asyncio.sleep(0)

    task = asyncio.ensure_future(handle())
    await settle()
    for data in feeds:
        if task.done():
            break
        if data is None:
            transport.end()
            await settle()
        elif not transport.reading:
            said.append("held")
        else:
            reader.feed_data(data)
            await settle()
            if not task.done():
                said.append(f"reading {int(transport.reading)}")
        rest.fed()
        await settle()
    task.cancel()
    said.append("end")
    return said


def scenario_of(seed):
    dice = random.Random(seed)
    alphabet = dice.choice([b"ab\n", b"abcdefgh\r\n", b"\n", b"ab.;\n"])
    limit = dice.choice([1, 3, 10, 50])

    def some_bytes(most):
        return bytes(dice.choice(alphabet) for _ in range(dice.randint(1, most)))

    def step():
        what = dice.choice(["read", "exactly", "line", "line", "until", "until", "at_eof", "rest"])
        if what == "read":
            return what, dice.choice([0, 1, 5, 100, 100, -1] if dice.random() < 0.3 else [1, 5, 100])
        if what == "exactly":
            return what, dice.choice([0, 1, 4, 30, 200])
        if what == "until":
            return what, [some_bytes(3) for _ in range(dice.randint(1, 3))]
        if what == "rest":
            return what, dice.randint(1, 4)
        return what, None

    calls = [step() for _ in range(dice.randint(1, 30))]
    feeds = [some_bytes(dice.choice([1, 4, 20, 120, 2000])) for _ in range(dice.randint(0, 30))]
    if dice.random() < 0.7:
        feeds.append(None)
    return limit, calls, feeds


def text_of(scenario):
    limit, calls, feeds = scenario
    lines = [f"limit {limit}"]
    for what, argument in calls:
        if isinstance(argument, list):
            argument = ",".join(separator.hex() for separator in argument)
        lines.append(what if argument is None else f"{what} {argument}")
    lines += ["eof" if data is None else f"feed {data.hex()}" for data in feeds]
    return "\n".join([*lines, "end", ""])


class Streams(unittest.TestCase):
    def test_the_same_as_asyncio(self):
        scenarios = [scenario_of(seed) for seed in range(SCENARIOS)]
        ran = subprocess.run([TRACE], input="".join(map(text_of, scenarios)), capture_output=True, text=True)
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        answers = ran.stdout.splitlines()
        kinds = set()
        for seed, scenario in enumerate(scenarios):
            expected = asyncio.run(by_asyncio(scenario))
            end = answers.index("end") + 1
            said, answers = answers[:end], answers[end:]
            self.assertEqual(said, expected, f"seed {seed}:\n{text_of(scenario)}")
            kinds |= {line.split()[0] for line in said}
        self.assertEqual(kinds, {"data", "incomplete", "overrun", "too", "at_eof", "reading", "held", "done", "end"})


unittest.main()
