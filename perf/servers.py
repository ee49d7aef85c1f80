"""The servers that are compared: rondo, the bare ring plain and in its best configuration for each load, and the peers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
import peers  # noqa: E402

# Found by trying the techniques one by one (README, "Each technique"): of all switches of rondo-ceiling these pay.
RECEIVE = ("--incremental", "--buffers", "16", "--buffer-size", "262144", "--gather")
BULK = ("--incremental", "--buffers", "4", "--buffer-size", "262144", "--gather")
BEST = {
    "pp64x1": (*RECEIVE, "--quiet-sends"),
    "pp64x1000": ("--gather",),
    "pp64x10000": ("--gather",),
    "pp16k": ("--buffers", "256", "--buffer-size", "16384", "--gather"),
    "bulk64k": BULK,
    "bulk1m": (*BULK, "--window", "4194304"),
    "churn-orderly": (*RECEIVE, "--defer-accept", "--no-poll-first"),
    "churn-reset": (*RECEIVE, "--defer-accept", "--no-poll-first"),
}
PRECISE = ("rondo", "best", "epoll", "rondo-epoll")  # whose ratios the figures are about


class Server:
    """Knows the command of a server for a load."""

    def __init__(self, name, command, threads=True, lines=True):
        self.name, self._command, self.threads, self._lines = name, command, threads, lines

    def takes(self, load):
        return self._lines or not load.lines

    def command(self, load, path, threads=1):
        return self._command(load, path, threads)


def _rondo(build, name, *options):
    def command(load, path, threads):
        program = build / "apps" / ("rondo-line" if load.lines else "rondo-echo")
        url = f"unix://{path}" if load.unix else "tcp://127.0.0.1:0"
        return [str(program), "--shards", str(threads), "--listen", url, *options]
    return Server(name, command)


def _ceiling(build, name, switches_of):
    def command(load, path, threads):  # lines: an echo of the same bytes is all that a line server can be
        where = ["--unix", str(path)] if load.unix else []
        return [str(build / "perf/rondo-ceiling"), *switches_of(load), *where, "--threads", str(threads)]
    return Server(name, command)


def _peer(peer):
    def command(load, path, threads):
        where = ["--unix", str(path)] if load.unix else []
        many = ["--threads", str(threads)] if peer.threads else []
        return [*peer.command, *where, *many, *(["--lines"] if load.lines else [])]
    return Server(peer.name, command, peer.threads, peer.lines)


def all_servers(build):
    own = [_rondo(build, "rondo"),
           _rondo(build, "rondo-stream", "--api", "stream"),
           _rondo(build, "rondo-epoll", "--engine", "epoll"),
           _ceiling(build, "best", lambda load: BEST.get(load.name, RECEIVE)),
           _ceiling(build, "ceiling", lambda load: ())]
    return own + [_peer(peer) for peer in peers.available(build)]


def missing(build):
    return peers.missing(build)
