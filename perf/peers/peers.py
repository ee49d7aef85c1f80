"""The peers: which there are, how they are started, and which are missing here, and why."""

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
SYSTEM = "/usr/bin/python3"


@dataclass(frozen=True)
class Peer:
    name: str
    package: str  # Debian's, which it needs
    program: str  # built, or a Python script
    options: tuple = ()
    module: str = ""  # of a script
    threads: bool = False  # takes --threads N
    lines: bool = True  # takes --lines

    @property
    def command(self):
        return (self.program, *self.options) if not self.module else (_python(self.module), self.program, *self.options)


def _script(name, package, script, module, *options, lines=True):
    return Peer(name, package, str(HERE / script), options, module, lines=lines)


def _all(build):
    def built(name, package, *options, program=None):
        return Peer(name, package, str(build / "perf/peers" / f"peer-{program or name}"), options, threads=True)
    return [
        built("epoll", "gcc"),
        built("libuv", "libuv1-dev"),
        built("libuv-doc", "libuv1-dev", "--style", "documentation", program="libuv"),
        built("libevent", "libevent-dev"),
        built("libev", "libev-dev"),
        built("asio", "libasio-dev"),
        built("go", "golang-go"),
        _script("asyncio", "python3", "asyncio_server.py", "asyncio"),
        _script("asyncio-buffered", "python3", "asyncio_server.py", "asyncio", "--style", "buffered", lines=False),
        _script("asyncio-streams", "python3", "asyncio_server.py", "asyncio", "--style", "streams"),
        _script("uvloop", "python3-uvloop", "asyncio_server.py", "uvloop", "--loop", "uvloop"),
        _script("twisted", "python3-twisted", "twisted_server.py", "twisted"),
    ]


@cache
def _python(module):
    """An interpreter that has it: the system's, whose packages these are, or this one. None: neither."""
    if Path(SYSTEM).exists():
        asked = subprocess.run([SYSTEM, "-c", f"import {module}"], capture_output=True, check=False)
        if asked.returncode == 0:
            return SYSTEM
    return sys.executable if importlib.util.find_spec(module) else None


def _is_here(peer):
    return _python(peer.module) is not None if peer.module else Path(peer.program).exists()


def available(build):
    return [peer for peer in _all(build) if _is_here(peer)]


def missing(build):
    return [(peer.name, f"it needs {peer.package}" + ("" if peer.module else ", and to be built"))
            for peer in _all(build) if not _is_here(peer)]
