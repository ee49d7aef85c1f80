"""What the measuring programs of this folder share: servers, rounds, medians, and an honest look at the machine."""

import argparse
import json
import math
import os
import platform
import re
import resource
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LISTENING = re.compile(r"listening on ((?:tcp|unix|udp)://\S+)")
START_SECONDS = 10
STOP_SECONDS = 15
QUIET_SECONDS = 0.5


class Failed(Exception):
    """A measurement that can't be trusted, or can't be made."""


def options(description, rounds, seconds, quick_rounds, quick_seconds, server=True):
    """A parser with the options all programs have (--server: those that measure one); finish it with parse()."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release", metavar="DIR",
                        help="where the programs were built (default: build/release)")
    if server:
        parser.add_argument("--server", metavar="CMD",
                            help="measure this echo server instead of rondo-echo; it prints "
                                 "'listening on tcp://127.0.0.1:PORT' on stderr and ends by SIGTERM")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default {rounds}")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"of one measurement, default {seconds}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to this file")
    parser.add_argument("--quick", action="store_true",
                        help=f"a first impression: {quick_rounds} rounds of {quick_seconds} s")
    parser.set_defaults(server=None, full=(rounds, seconds), short=(quick_rounds, quick_seconds))
    return parser


def parse(parser):
    arguments = parser.parse_args()
    rounds, seconds = arguments.short if arguments.quick else arguments.full
    arguments.rounds = rounds if arguments.rounds is None else arguments.rounds
    arguments.seconds = seconds if arguments.seconds is None else arguments.seconds
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds: more than nothing is needed")
    return arguments


class Programs:
    """The built programs. Those of the default folder are built when they are missing."""

    def __init__(self, arguments):
        self.folder = arguments.build
        self.load = self._program("perf/rondo-load")
        self.ceiling = [self._program("perf/rondo-ceiling")]
        if arguments.server:
            self.server = shlex.split(arguments.server)
            self.server_name = Path(self.server[0]).name
        else:
            self.server = [self._program("apps/rondo-echo"), "--shards", "1", "--listen", "tcp://127.0.0.1:0"]
            self.server_name = "rondo-echo"

    def _program(self, name):
        path = self.folder / name
        if not path.exists() and self.folder == ROOT / "build" / "release":
            for step in (["cmake", "--preset", "release"], ["cmake", "--build", "--preset", "release"]):
                subprocess.run(step, cwd=ROOT, check=True, stdout=sys.stderr)
        if not path.exists():
            raise Failed(f"{path} is missing: build it, or name its folder with --build")
        return str(path)


def cores():
    """The core of the server and the core of the generator; the same one if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


class Server:
    """A server process on its own core, for a with statement. Its exit status is part of the measurement."""

    def __init__(self, command, cpus=None):
        self.command = command
        self.cpus = cpus or {cores()[0]}

    def __enter__(self):
        self.log = tempfile.TemporaryFile()  # a pipe that nobody empties would block a talkative server
        self.process = subprocess.Popen(self.command, stderr=self.log, stdout=subprocess.DEVNULL,
                                        preexec_fn=lambda: os.sched_setaffinity(0, self.cpus))
        self.pid = self.process.pid
        try:
            self.url = self._await_url()
        except BaseException:
            self.process.kill()
            self.process.wait()
            self.log.close()
            raise
        return self

    def _output(self):
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), size, 0).decode(errors="replace").strip()

    def _await_url(self):
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            found = LISTENING.search(self._output())
            if found:
                return found.group(1)
            time.sleep(0.01)
        raise Failed(f"{self.command[0]} doesn't listen: {self._output()}")

    def __exit__(self, kind, error, trace):
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"{self.command[0]} didn't end after SIGTERM") from error
        finally:
            output = self._output()
            self.log.close()
        if status not in (0, -signal.SIGTERM) and kind is None:
            raise Failed(f"{self.command[0]} ended with status {status}: {output}")

    def counters(self):
        """What it prints on SIGUSR1, summed over its shards; None if it doesn't."""
        before = self._output()
        self.process.send_signal(signal.SIGUSR1)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            lines = re.findall(r"^\{.*\}$", self._output()[len(before):], re.M)
            if lines:
                shards = [json.loads(line) for line in lines]
                return {key: sum(shard.get(key, 0) for shard in shards) for key in shards[0]}
            time.sleep(0.01)
        return None

    def resident_bytes(self):
        """Counted page by page, as VmRSS is not: that is a sum of counters updated in batches."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Rss:\s+(\d+) kB", text, re.M).group(1)) * 1024


def load(programs, server, mode, *arguments):
    """Run the generator on its own core, and return its report. Any failure or wrong byte is an error."""
    core = cores()[1]
    command = [programs.load, mode, server.url, "--json", "--server-pid", str(server.pid), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    if done.returncode != 0:
        raise Failed(f"{shlex.join(command)}: status {done.returncode}\n{done.stderr.strip()}\n{done.stdout.strip()}")
    return json.loads(done.stdout)


def alternate(rounds, contestants, measure):
    """Call measure(name) for each contestant in every round, in turned order every other round, so that a drift of
    the machine meets all alike. A round in which somebody couldn't keep to a fixed rate is made again, up to twice as
    many times as were asked for: requests that pile up are served in bigger batches, which is another, cheaper load.
    Returns a list of reports, one for each good round, for each name; and the number of rounds made."""
    good = []
    for made in range(1, 3 * rounds + 1):
        order = contestants if made % 2 else contestants[::-1]
        reports = {name: measure(name) for name in order}
        if all(report["rate_kept"] is not False for report in reports.values()):
            good.append(reports)
        if len(good) == rounds:
            break
    if not good:
        raise Failed(f"none of {made} rounds kept to its rate: is the machine busy with something else?")
    return {name: [reports[name] for reports in good] for name in contestants}, made


def interval(values, confidence=0.95):
    """Of the median, from the order of the values alone: whatever their distribution, the median lies between the k-th
    lowest and the k-th highest value, unless fewer than k of them fell on one side of it; and for that coins stand."""
    values, count = sorted(values), len(values)
    lowest = 0
    while 2 * (lowest + 1) < count and 2 * sum(math.comb(count, heads) for heads in range(lowest + 2)) \
            <= (1 - confidence) * 2 ** count:
        lowest += 1
    return values[lowest], values[-1 - lowest]


def spread(values, digits=0):
    """The median, and the lowest and highest value."""
    return (f"{statistics.median(values):.{digits}f} "
            f"({min(values):.{digits}f}..{max(values):.{digits}f})")


def ratios(reports, over, under, key="server_cpu_ns_per_request"):
    """Of one contestant to another within each round: what slows the machine for a while cancels out."""
    return [mine[key] / theirs[key] for mine, theirs in zip(reports[over], reports[under])]


def table(rows):
    """Print rows of texts in columns; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())


def markdown(rows):
    """The same, as lines of a table in Markdown."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _output(*command):
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _first(path, pattern, default=""):
    try:
        found = re.search(pattern, Path(path).read_text(), re.M)
    except OSError:
        return default
    return found.group(1).strip() if found else default


def machine():
    """What a number is worth little without."""
    commit = _output("git", "rev-parse", "--short", "HEAD") or "unknown"
    changed = " with changes" if _output("git", "status", "--porcelain", "--untracked-files=no") else ""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cpu": _first("/proc/cpuinfo", r"^model name\s*:(.*)$", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "congestion_control": _first("/proc/sys/net/ipv4/tcp_congestion_control", r"(.*)"),
        "commit": commit + changed,
        "command": shlex.join(sys.argv),
        "warnings": distortions(),
        "others": Others(),
    }


class Others:
    """How busy other programs, and other guests of this machine's host, kept it since this was made."""

    def __init__(self):
        self.start = self._read()

    @staticmethod
    def _read():
        user, nice, system, idle, iowait, irq, softirq, stolen = map(
            int, _first("/proc/stat", r"^cpu +(.*)$").split()[:8])
        tick = os.sysconf("SC_CLK_TCK")
        ours = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return time.monotonic(), (user + nice + system + irq + softirq) / tick - ours, stolen / tick

    def warnings(self):
        passed, busy, stolen = (now - then for now, then in zip(self._read(), self.start))
        shares = {"other programs kept": busy / passed, "the host took": stolen / passed}
        return [f"{who} {share:.2f} cores" for who, share in shares.items() if share > 0.05]


def _tracked_connections():
    """Entries of connection tracking, or None where it isn't there. It costs each packet 15 to 25 % more."""
    count = _first("/proc/sys/net/netfilter/nf_conntrack_count", r"(\d+)")
    return int(count) if count else None


def _tracks_loopback():
    """Does an idle connection over loopback appear in the tracking table?"""
    before = _tracked_connections()
    if before is None:
        return False
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()):
            return _tracked_connections() > before


def distortions():
    """What makes the numbers of this machine, now, less than they seem."""
    warnings = []
    if len(os.sched_getaffinity(0)) < 2:
        warnings.append("only one core: server and generator take it from each other")
    others = Others()
    time.sleep(QUIET_SECONDS)
    warnings += [f"before the run {warning}" for warning in others.warnings()]
    if _tracks_loopback():
        warnings.append("connections over loopback are tracked (conntrack): all costs are higher")
    low, high = map(int, _first("/proc/sys/net/ipv4/ip_local_port_range", r"(.*)", "0 0").split())
    if high - low < 20000:
        warnings.append(f"only {high - low + 1} ports for each source address")
    return warnings


def print_machine(facts):
    print(f"{facts['date']}  {facts['cpu']}, {facts['cores']} cores  Linux {facts['kernel']}  "
          f"{facts['congestion_control']}")
    print(f"commit {facts['commit']}  {facts['command']}")
    for warning in facts["warnings"]:
        print(f"warning: {warning}")
    print(flush=True)


def main(program):
    """Run a measuring program, and end with its exit status."""
    try:
        program()
    except Failed as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)


def finish(path, facts, results):
    """Say what disturbed the run, and write everything to the file of --json."""
    disturbed = [f"during the run {warning}" for warning in facts.pop("others").warnings()]
    for warning in disturbed:
        print(f"warning: {warning}")
    facts["warnings"] += disturbed
    if path:
        path.write_text(json.dumps({"machine": facts, "results": results}, indent=1) + "\n")
