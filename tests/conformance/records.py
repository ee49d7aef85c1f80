"""What happened in a scenario: a sequence of records for each transport, each peer, and the server."""
import argparse
import errno
import json
import pathlib
import sys
import threading
import zlib

SHOWN_WHOLE = 80


def error_name(error):
    """asyncio's exception as rondo's errno, by name; None for an orderly end."""
    if error is None:
        return None
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number, str(number)) if number else type(error).__name__


def shown(data):
    text = data.decode("latin-1")
    if len(data) <= SHOWN_WHOLE:
        return text
    return {"size": len(data), "adler32": zlib.adler32(data), "begins": text[:20]}


class Trace:
    def __init__(self):
        self.lock = threading.Lock()
        self.sequences = {}
        self.stopped = False

    def put(self, on, kind, name, **more):
        with self.lock:
            if self.stopped:
                return
            sequence = self.sequences.setdefault(on, [])
            record = {kind: name, **more}
            last = sequence[-1] if sequence else {}
            if "data" in record and {**last, "data": None} == {**record, "data": None}:
                last["data"] += record["data"]  # bytes are cut anywhere
            else:
                sequence.append(record)

    def stop(self):
        with self.lock:
            self.stopped = True

    def lines(self):
        for on in sorted(self.sequences):
            for record in self.sequences[on]:
                if "data" in record:
                    record = {**record, "data": shown(record["data"])}
                yield {"on": on, **record}


def scenario_files(folders, files):
    found = [pathlib.Path(file) for file in files]
    for folder in folders:
        found += sorted(pathlib.Path(folder).glob("*.scenario"))
    return found


def main(run, read):
    from scenario import WrongScenario

    parser = argparse.ArgumentParser()
    parser.add_argument("--scenarios", action="append", default=[], metavar="DIR")
    parser.add_argument("files", nargs="*", metavar="FILE")
    arguments = parser.parse_args()
    status = 0
    for path in scenario_files(arguments.scenarios, arguments.files):
        try:
            scenario = read(path)
        except (WrongScenario, OSError) as error:
            print(error, file=sys.stderr)
            status = 2
            continue
        print(json.dumps({"scenario": path.stem}), flush=True)
        for line in run(scenario).lines():
            print(json.dumps(line), flush=True)
    return status
