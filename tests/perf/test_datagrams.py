"""What measures datagrams and children: an echo that loses none, a generator that sees what is wrong, books that balance."""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("RONDO_BUILD", "build"))
PATIENCE = 30


def started(command):
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    return process, process.stderr.readline().split()[-1]


class Datagrams(unittest.TestCase):
    def start(self, *command):
        process, url = started(command)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process, url

    def load(self, url, pid, *more):
        return subprocess.run([BUILD / "perf/rondo-datagram-load", url, "--server-pid", str(pid), "--seconds", "0.3", *more],
                              capture_output=True, text=True, timeout=PATIENCE)

    def test_the_bare_ring_answers_all_in_every_way(self):
        for switches in [], ["--messages"], ["--quiet-sends"], ["--buffers", "16"], ["--messages", "--buffers", "64"]:
            for more in ["--sockets", "1"], ["--sockets", "20"], ["--sockets", "4", "--window", "8", "--size", "1400"]:
                with self.subTest(switches=switches, load=more):
                    process, url = self.start(BUILD / "perf/rondo-datagram-ceiling", *switches)
                    done = self.load(url, process.pid, *more)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    report = json.loads(done.stdout)
                    self.assertGreater(report["requests"], 100)
                    self.assertEqual(report["wrong"], 0)
                    self.assertGreater(report["server_cpu_ns_per_request"], 0)

    def test_the_generator_counts_what_is_lost_and_refuses_what_is_wrong(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            url = f"udp://127.0.0.1:{server.getsockname()[1]}"
            ended = threading.Event()

            def answer(wrongly):
                server.settimeout(0.05)
                number = 0
                while not ended.is_set():
                    try:
                        data, address = server.recvfrom(2000)
                    except TimeoutError:
                        continue
                    number += 1
                    if wrongly and number > 5:
                        data = data[:-1] + bytes([data[-1] ^ 1])
                    if wrongly or number % 10:
                        server.sendto(data, address)

            for wrongly in False, True:
                thread = threading.Thread(target=answer, args=(wrongly,))
                thread.start()
                done = self.load(url, os.getpid(), "--sockets", "5", "--seconds", "1")
                ended.set()
                thread.join()
                ended.clear()
                if wrongly:
                    self.assertEqual(done.returncode, 1)
                    self.assertIn("wrong", done.stderr)
                else:
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.assertGreater(json.loads(done.stdout)["lost"], 0)

    def test_wrong_usage_is_refused(self):
        for arguments in [], ["udp://127.0.0.1:1"], ["tcp://127.0.0.1:1", "--server-pid", "1"], \
                ["udp://127.0.0.1:1", "--server-pid", "1", "--size", "4"]:
            done = subprocess.run([BUILD / "perf/rondo-datagram-load", *arguments], capture_output=True, timeout=PATIENCE)
            self.assertEqual(done.returncode, 2, arguments)
        done = subprocess.run([BUILD / "perf/rondo-datagram-ceiling", "--buffers", "3"], capture_output=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 2)

    def test_children_are_counted(self):
        process, _ = self.start(BUILD / "perf/rondo-spawner", "--rate", "100")
        threading.Timer(1, process.send_signal, [signal.SIGTERM]).start()
        said = process.stderr.read()
        self.assertEqual(process.wait(PATIENCE), 0, said)
        counted = re.search(r"children: (\d+) started, (\d+) ended, 0 failed, \d+ under way at most", said)
        self.assertIsNotNone(counted, said)
        self.assertEqual(counted[1], counted[2])
        self.assertGreater(int(counted[1]), 10)


if __name__ == "__main__":
    unittest.main()
