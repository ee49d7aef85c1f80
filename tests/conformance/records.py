"""What a driver saw, as JSON lines. Each "on" and connection is a sequence of its own; only within one has order a
meaning. Adjacent data is one line, whatever the pieces in which it came."""
import collections
import json
import sys
import threading
import zlib

SHORT = 80              # bytes; longer data is told by size, checksum and beginning
DATA_MAX = 256 * 1024 * 1024
LINES_MAX = 20000


def shown(data, whole):
    if whole or len(data) <= SHORT:
        return data.decode("latin-1")
    return {"size": len(data), "adler32": zlib.adler32(data), "begins": data[:20].decode("latin-1")}


class Trace:
    """Any thread may add; whoever waits for something is woken by each line."""

    def __init__(self):
        self.changed = threading.Condition()
        self.count = 0
        self.size = 0
        self.lines = 0
        self.sequences = collections.defaultdict(list)
        self.failed = False
        self.line = 0           # of the step under way

    def _append(self, on, connection, line):
        self.lines += 1
        if self.lines <= LINES_MAX:
            self.sequences[on, connection].append(line)
        elif not self.failed:
            self._error(f"more than {LINES_MAX} lines: the scenario runs in circles")

    def _error(self, what):
        self.failed = True
        self.sequences["scenario", 0].append({"on": "scenario", "error": what, "line": self.line})

    def add(self, on, connection, **fields):
        line = {"on": f"{on} {connection}" if connection else on, **fields}
        with self.changed:
            self.count += 1
            self._append(on, connection, line)
            self.changed.notify_all()

    def data(self, on, connection, event, protocol, data):
        with self.changed:
            self.count += 1
            self.size += len(data)
            self.changed.notify_all()
            sequence = self.sequences[on, connection]
            last = sequence[-1] if sequence else {}
            if self.size > DATA_MAX:
                if not self.failed:
                    self._error(f"more than {DATA_MAX} bytes: the scenario runs in circles")
            elif last.get("event") == event and last.get("protocol") == protocol:
                last["data"] += data
            else:
                line = {"on": f"{on} {connection}", "event": event}
                if protocol is not None:
                    line["protocol"] = protocol
                self._append(on, connection, {**line, "data": bytearray(data)})

    def error(self, what):
        with self.changed:
            self.count += 1
            self._error(what)
            self.changed.notify_all()

    def touch(self):
        """Something moved that has no line."""
        with self.changed:
            self.count += 1
            self.changed.notify_all()

    def wait(self, is_so, seconds):
        with self.changed:
            return self.changed.wait_for(lambda: self.failed or is_so(), seconds) and not self.failed

    def print(self, whole, notes, file=sys.stdout):
        keys = sorted(self.sequences)
        for key in keys:
            for line in self.sequences[key]:
                if "note" in line and not notes:
                    continue
                if "data" in line:
                    line = {**line, "data": shown(bytes(line["data"]), whole)}
                print(json.dumps(line), file=file)
        file.flush()
