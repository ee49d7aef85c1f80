"""Runs a measured server for a test, and the loads that each must stand: every byte of them is checked."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import generator
import server as s

PERF = Path(__file__).resolve().parents[2] / "perf"
sys.path[:0] = [str(PERF), str(PERF / "peers")]
import measure  # noqa: E402

ECHO = (("pingpong", "--connections", "20", "--count", "200"),
        ("pingpong", "--connections", "4", "--size", "16384", "--count", "80"),
        ("pipelined", "--connections", "10", "--count", "1000"),
        ("bulk", "--connections", "2", "--size", "1048576", "--count", "4"),
        ("connect", "--connections", "8", "--count", "100"),
        ("connect", "--connections", "8", "--count", "100", "--close", "reset"))
LINES = (("pipelined", "--connections", "10", "--lines", "--count", "1000"),
         ("pingpong", "--connections", "10", "--lines", "--size", "100000", "--count", "40"))


def over_unix(loads):
    return [load for load in loads if "reset" not in load]


def bear(command, loads):
    """Start the server, put each load on it, and stop it. Fails if an answer is wrong or missing, or the server breaks."""
    with measure.Server(list(map(str, command)), os.sched_getaffinity(0)) as process:
        for load in loads:
            status, _, stderr = generator.run(load[0], process.url, *load[1:])
            if status != 0:
                raise AssertionError(f"{command}, {load}: {stderr}")


def half_close(url):
    """What comes back from a client that sends, and then half-closes."""
    address = url.removeprefix("tcp://").replace(":", " ").split() if url.startswith("tcp") else None
    target = f"TCP:{':'.join(address)}" if address else f"UNIX-CONNECT:{url.removeprefix('unix://')}"
    return subprocess.run(["socat", "-t", "10", "-", target], input=b"first\nlast\n", capture_output=True, check=True,
                          timeout=30).stdout


def folder():
    return tempfile.TemporaryDirectory(prefix="rondo-")
