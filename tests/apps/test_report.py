"""What SIGUSR1 tells, and what the kernel tells of the process's threads; an idle server does nothing at all."""
import json
import os
import re
import select
import signal
import unittest

from server import ServerTest, data_of, receive, stream, until

MEMBERS = ["shard", "connections_open", "connections_accepted", "connections_lost", "bytes_in", "bytes_out",
           "buffers_free", "buffers_lent", "buffers_starved", "loop_turns", "submissions",
           "completions", "system_calls", "bytes_copied"]


class Report(ServerTest):
    def test_each_shard_gives_one_line_of_json(self):
        server = self.serve("echo", "--shards", "3")
        server.signal(signal.SIGUSR1)
        lines = server.wait_for(r"^\{", 3)
        shards = [json.loads(line) for line in lines]
        self.assertEqual(sorted(shard["shard"] for shard in shards), [0, 1, 2])
        for shard in shards:
            self.assertEqual(list(shard), MEMBERS)
            for name, value in shard.items():
                self.assertIs(type(value), int, name)
                self.assertGreaterEqual(value, 0, name)

    def test_a_server_that_did_nothing_reports_nothing(self):
        for shard in self.serve("line", "--shards", "2").report():
            for name in MEMBERS[1:6] + ["buffers_lent", "buffers_starved"]:
                self.assertEqual(shard[name], 0, name)
            self.assertGreater(shard["buffers_free"], 0)

    def test_the_sums_are_those_of_what_was_done(self):
        for receive_way in "data", "buffer":
            with self.subTest(receive=receive_way):
                server = self.serve("echo", "--shards", "2", "--receive", receive_way)
                stay = [self.connect(server, server.addresses[i % 2]) for i in range(7)]
                leave = [self.connect(server, server.addresses[i % 2]) for i in range(5)]
                for sock in stay + leave:
                    data = data_of(100_000)
                    self.assert_same(stream(sock, data), data)
                for sock in leave:
                    sock.close()
                until(lambda: server.total("connections_open") == 7, "five are gone")
                until(lambda: server.total("bytes_out") == 12 * 100_000, "all sends are complete")
                shards = server.report()

                def total(name):
                    return sum(shard[name] for shard in shards)

                self.assertEqual(total("connections_accepted"), 12)
                self.assertEqual(total("connections_lost"), 5)
                self.assertEqual(total("bytes_in"), 12 * 100_000)
                self.assertEqual(total("buffers_lent"), 0)
                for shard in shards:
                    self.assertEqual(shard["connections_accepted"],
                                     shard["connections_open"] + shard["connections_lost"])

    def test_every_signal_is_answered(self):
        server = self.serve("echo", "--shards", "2")
        for _ in range(500):  # each right after the answer to the one before
            self.assertEqual(len(server.report()), 2)

    def test_a_burst_of_signals_does_no_harm(self):
        server = self.serve("echo", "--shards", "2")
        for _ in range(2000):
            server.signal(signal.SIGUSR1)
        self.assertTrue(server.serves())
        # Signals that come together are one, and each shard answers as often as it gets to it: but in whole lines.
        for line in server.wait_for(r"^\{", 2):
            self.assertIn(json.loads(line)["shard"], (0, 1))


class Idle(ServerTest):
    def assert_comes_to_rest(self, socks, begin):
        """There is half a second in which nothing happens. A second after its last bytes a connection may be looked at
        once (transport_watch_end), so it need not be the first one."""
        for _ in range(6):
            is_idle = begin()
            self.assertEqual(select.select(socks, [], [], 0.5)[0], [])
            if is_idle():
                return
        self.fail("it never idles")

    def switches(self, server):
        """How often have the shards' threads gone to sleep?"""
        return sum(int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", server.proc(f"task/{task}/status"),
                                 re.MULTILINE)[1])
                   for task, name in server.threads().items() if name.startswith("rondo-shard-"))

    def clients(self, server):
        socks = [self.connect(server, server.addresses[i % 2]) for i in range(10)]
        for sock in socks:
            sock.sendall(b"hello\n")
            self.assertEqual(receive(sock, 6), b"hello\n")
        return socks

    def test_an_idle_server_makes_no_turns(self):
        for program, *options in ("echo",), ("echo", "--receive", "buffer"), ("line",):
            with self.subTest(program=program, options=options):
                server = self.serve(program, "--shards", "2", *options)
                socks = self.clients(server)
                self.assert_comes_to_rest(socks, lambda: self.no_turns(server))

    def no_turns(self, server):
        server.report()
        before = server.report()
        # A report takes a turn: for the wake-up, and one more if it comes before the wait is issued again.
        return lambda: all(second[key] - first[key] <= 2 for first, second in zip(before, server.report())
                           for key in ("loop_turns", "completions"))

    def test_an_idle_server_makes_no_system_calls(self):
        server = self.serve("echo", "--shards", "2", "--idle-timeout", "1000")
        socks = self.clients(server)
        server.report()
        self.assert_comes_to_rest(socks, lambda: self.no_switches(server))

    def no_switches(self, server):
        shards = [task for task, name in server.threads().items() if name.startswith("rondo-shard-")]
        # All are asleep before the first count, also the last reporter.
        until(lambda: all(re.search(r"^State:\s+S", server.proc(f"task/{task}/status"), re.MULTILINE)
                          for task in shards), "all shards sleep")
        before = self.switches(server)
        return lambda: self.switches(server) == before


class Threads(ServerTest):
    def test_shards_have_names(self):
        names = self.serve("echo", "--shards", "3").threads().values()
        self.assertEqual(sorted(name for name in names if name.startswith("rondo-shard")),
                         ["rondo-shard-0", "rondo-shard-1", "rondo-shard-2"])

    def test_without_the_option_there_are_as_many_shards_as_cpus_allowed(self):
        cpu = min(os.sched_getaffinity(0))
        server = self.serve("echo", preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))
        names = server.threads().values()
        self.assertEqual([name for name in names if name.startswith("rondo-shard")], ["rondo-shard-0"])

    def test_signals_are_blocked_in_the_shards(self):
        server = self.serve("echo", "--shards", "2")
        for task, name in server.threads().items():
            if name.startswith("rondo-shard-"):
                blocked = int(re.search(r"^SigBlk:\s+(\w+)", server.proc(f"task/{task}/status"), re.MULTILINE)[1], 16)
                for number in signal.SIGTERM, signal.SIGINT, signal.SIGUSR1:
                    self.assertTrue(blocked >> (number - 1) & 1, f"{number.name} in {name}")

    def test_no_worker_threads_of_the_kernel_come_up(self):
        for program, *options in ("echo",), ("echo", "--receive", "buffer"), ("line",):
            with self.subTest(program=program, options=options):
                server = self.serve(program, "--shards", "2", *options)
                text = b"%063d\n" % 7 * 16384
                for address in server.addresses * 3:
                    with server.connect(address) as sock:
                        self.assert_same(stream(sock, text, half_close=True), text)
                self.assert_all_back(server)
                self.assertEqual([name for name in server.threads().values() if "iou" in name], [])


if __name__ == "__main__":
    unittest.main()
