"""The loads that servers are compared under: each a run of rondo-load."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    name: str
    family: str  # of the loads that share a plot
    mode: str
    arguments: tuple = ()
    lines: bool = False  # servers answer line by line
    unix: bool = False
    kind: str = "cpu"  # cpu: server CPU for each request; idle, greedy, shards, switch: see compare
    longer: int = 1  # so many times as long as others, also to warm up: each connection must get its turns

    def paced(self):
        return "--rate" in self.arguments


def _pingpong(name, connections, *more, family="pingpong", **named):
    return Load(name, family, "pingpong", ("--connections", str(connections), *more), **named)


LOADS = [
    _pingpong("pp64x1", 1),
    _pingpong("pp64x50", 50),
    _pingpong("pp64x1000", 1000),
    _pingpong("pp64x10000", 9900, longer=3),  # a process may not have more than 20,000 descriptors everywhere
    _pingpong("pp1k", 50, "--size", "1024", family="messages"),
    _pingpong("pp16k", 50, "--size", "16384", family="messages"),
    Load("pipe16", "pipelined", "pipelined", ("--connections", "50", "--depth", "16")),
    Load("lines16", "pipelined", "pipelined", ("--connections", "50", "--depth", "16", "--lines"), lines=True),
    Load("bulk64k", "bulk", "bulk", ("--connections", "8", "--size", "65536")),
    # In the first half second windows and send buffers are still growing, and small ones keep the bytes in the caches.
    Load("bulk1m", "bulk", "bulk", ("--connections", "8", "--size", "1048576"), longer=6),
    Load("churn-orderly", "churn", "connect", ("--connections", "64")),
    Load("churn-reset", "churn", "connect", ("--connections", "64", "--close", "reset")),
    _pingpong("open50k", 50, "--rate", "50000", family="open"),
    _pingpong("open150k", 50, "--rate", "150000", family="open"),
    _pingpong("unix-pp64x50", 50, family="unix", unix=True),
    _pingpong("unix-open150k", 50, "--rate", "150000", family="unix", unix=True),
    Load("unix-pipe16", "unix", "pipelined", ("--connections", "50", "--depth", "16"), unix=True),
    Load("unix-bulk64k", "unix", "bulk", ("--connections", "8", "--size", "65536"), unix=True),
    Load("idle", "memory", "idle", ("--connections", "9900", "--active", "16"), kind="idle"),
    Load("greedy", "greedy", "pingpong", ("--connections", "50"), kind="greedy"),
    Load("two-shards", "shards", "pingpong", ("--connections", "50"), kind="shards"),
    Load("switch", "switch", "", kind="switch"),
]

BY_NAME = {load.name: load for load in LOADS}
