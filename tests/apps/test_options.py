"""The command line: what is right, what is wrong usage (exit status 2), and what fails at run time (1)."""
import os
import signal
import socket
import unittest

import server as s
from server import ServerTest, receive, run


class Options(ServerTest):
    COMMON = ["-l, --listen", "-s, --shards", "-e, --engine", "--backlog", "--idle-timeout", "--max-connections",
              "--drain-timeout", "--log-level", "-h, --help", "-V, --version"]

    def test_help_names_every_option(self):
        for program, own in ("echo", ["--receive"]), ("line", []):
            for option in "-h", "--help":
                with self.subTest(program=program, option=option):
                    status, stdout, stderr = run(program, option)
                    self.assertEqual((status, stderr), (0, ""))
                    for name in self.COMMON + own:
                        self.assertIn(name, stdout)
                    self.assertIn("tcp://127.0.0.1:7777", stdout)

    def test_version_is_told(self):
        for program in "echo", "line":
            for option in "-V", "--version":
                with self.subTest(program=program, option=option):
                    status, stdout, stderr = run(program, option)
                    self.assertEqual((status, stderr), (0, ""))
                    self.assertRegex(stdout, rf"^rondo-{program} .*\d+\.\d+\.\d+\n$")

    def test_all_options_together_are_taken(self):
        server = self.serve("echo", "-s", "1", "-e", "uring", "--backlog", "16", "--idle-timeout", "60",
                            "--max-connections", "100", "--drain-timeout", "0.5", "--log-level", "debug",
                            "--receive", "buffer")
        self.assertTrue(server.serves())

    def test_short_options_can_have_their_values_attached(self):
        server = self.serve("line", "-s2", "-eauto", "-ltcp://127.0.0.1:0", listen=())
        self.assertEqual(sum(name.startswith("rondo-shard-") for name in server.threads().values()), 2)

    def test_long_options_can_have_their_values_attached(self):
        server = self.serve("line", "--shards=2", "--listen=tcp://127.0.0.1:0", listen=())
        self.assertTrue(server.serves())

    def test_several_addresses_are_served_and_told_with_their_ports(self):
        server = self.serve("echo", listen=[s.V4, s.V6, s.V4, "tcp://127.0.0.2:0", "tcp://0.0.0.0:0", "tcp://[::]:0"])
        self.assertEqual([host for host, _ in server.addresses],
                         ["127.0.0.1", "::1", "127.0.0.1", "127.0.0.2", "0.0.0.0", "::"])
        self.assertEqual(len({port for _, port in server.addresses} - {0}), 6)
        self.assertEqual(server.count("^listening on "), 6, server.stderr)
        for address in server.addresses:
            self.assertTrue(server.serves(address))

    def test_an_address_can_be_a_name(self):
        server = self.serve("echo", listen=["tcp://localhost:0"])
        self.assertTrue(server.serves())

    def test_the_listening_lines_come_at_every_log_level(self):
        for level in "error", "warning", "info", "debug":
            with self.subTest(level=level):
                self.assertTrue(self.serve("echo", "--log-level", level).serves())

    def test_at_level_error_nothing_else_is_said(self):
        server = self.serve("echo", "--log-level", "error")
        self.assertTrue(server.serves())
        self.assertEqual(server.stop(), 0)
        server.close()
        self.assertEqual(len(server.lines), 2, server.stderr)

    def test_the_environment_can_name_the_engine(self):
        for engine in "auto", "uring", "epoll", "":
            with self.subTest(engine=engine):
                server = self.serve("echo", env=os.environ | {"RONDO_ENGINE": engine})
                self.assertTrue(server.serves())
                self.assertEqual(server.stop(), 0)
                server.close()
                self.assertEqual(server.count("^engine "), engine in ("auto", ""), "said where it was chosen")


class WrongUsage(ServerTest):
    def assert_usage(self, named, *options, program="echo", **popen):
        with self.subTest(options=options):
            status, stdout, stderr = run(program, *options, **popen)
            self.assertEqual((status, stdout), (2, ""), stderr)
            self.assertIn(len(stderr.splitlines()), (1, 2), stderr)
            self.assertIn(named, stderr)
            self.assertTrue(stderr.startswith(f"rondo-{program}: "), stderr)

    def test_options_that_there_are_not(self):
        self.assert_usage("--bogus", "--bogus")
        self.assert_usage("--bogus", "--bogus=3")
        self.assert_usage("-x", "-x")
        self.assert_usage("-x", "--shards=1", "-x")
        self.assert_usage("-x", "--shards=1", "-xh")
        self.assert_usage("-x", "-s1", "-xyz")
        self.assert_usage("--receive", "--receive", "data", program="line")
        self.assert_usage("--l", "--l", "tcp://127.0.0.1:0")  # log-level or listen?

    def test_options_without_their_values(self):
        for option in ("-l", "--listen", "-s", "--shards", "-e", "--engine", "--backlog", "--idle-timeout",
                       "--max-connections", "--drain-timeout", "--log-level", "--receive"):
            self.assert_usage(option, option)

    def test_options_with_values_that_take_none(self):
        self.assert_usage("--help", "--help=yes")

    def test_numbers(self):
        for value in "0", "x", "-1", "1.5", "", " 1", "+1", "1x", "1025", "4294967297", "99999999999999999999999":
            self.assert_usage("--shards", "--shards", value)
        self.assert_usage("--shards", "-s", "x")
        for value in "0", "-1", "many", "":
            self.assert_usage("--backlog", "--backlog", value)
        for value in "-1", "x", "1.5":
            self.assert_usage("--max-connections", "--max-connections", value)

    def test_seconds(self):
        for option in "--idle-timeout", "--drain-timeout":
            for value in "-1", "x", "", "1s", "nan", "inf", "1e400", ".", "1.2.3", "0x10", " 1", "999999999999":
                self.assert_usage(option, option, value)

    def test_words(self):
        self.assert_usage("--log-level", "--log-level", "loud")
        self.assert_usage("--log-level", "--log-level", "")
        self.assert_usage("--engine", "--engine", "bogus")
        self.assert_usage("--engine", "-e", "epoll2")
        self.assert_usage("--receive", "--receive", "dat")
        self.assert_usage("--receive", "--receive", "data|buffer")
        self.assert_usage("--receive", "--receive", "")
        self.assert_usage("stray", "stray")
        self.assert_usage("stray", "--shards", "1", "stray")
        self.assert_usage("stray", "--", "stray")

    def test_an_engine_of_the_environment(self):
        self.assert_usage("RONDO_ENGINE", env=os.environ | {"RONDO_ENGINE": "bogus"})

    def test_addresses(self):
        for url in ("", "7777", "127.0.0.1:7777", "localhost", "tcp:", "tcp:/", "tcp://", "tcp://:7777",
                    "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://127.0.0.1:x", "tcp://127.0.0.1:-1", "tcp://127.0.0.1:65536",
                    "tcp://127.0.0.1:99999999999999999999", "tcp://127.0.0.1:80x", "tcp://127.0.0.1:80/",
                    "tcp://::1:80", "tcp://[::1]", "tcp://[::1]80", "tcp://[::1:80", "tcp://[]:80", "tcp://[127.0.0.1]:80",
                    "tcp://[::g]:80", "tcp://127.0.0.256:80", "tcp://127.1:80", "tcp://a b:80", "tcp://a\nb:80",
                    "tcp://user@host:80", "tcp://127.0.0.1:80?backlog=3", "tcp://127.0.0.1:80#a", "udp://127.0.0.1", "udp://127.0.0.1:80?x", "unixgram://tmp",
                    "http://127.0.0.1:80", "TCP//127.0.0.1:80", "tcp://" + "a" * 5000 + ":80",
                    "unix://", "unix://tmp/x", "unix:///tmp/x?mode=9", "unix:///tmp/x?backlog=1", "unix://@",
                    "unix:///" + "a" * 107, "fd://", "fd://x", "fd://-1", "fd://3?mode=600"):
            self.assert_usage("--listen", "--listen", url)

    def test_a_wrong_address_is_told_though_others_are_right(self):
        self.assert_usage("--listen", "-l", s.V4, "-l", "tcp://")

    def test_more_addresses_than_can_be(self):
        self.assert_usage("--listen", *["-l", s.V4] * 65)


class AtRunTime(ServerTest):
    def assert_fails(self, named, *options, **popen):
        status, stdout, stderr = run("echo", *options, **popen)
        self.assertEqual((status, stdout), (1, ""), stderr)
        self.assertEqual(len(stderr.splitlines()), 1, stderr)
        self.assertIn(named, stderr)

    def test_a_port_that_someone_listens_on(self):
        for family, host, url in ((socket.AF_INET, "127.0.0.1", "tcp://127.0.0.1:%d"),
                                  (socket.AF_INET6, "::1", "tcp://[::1]:%d")):
            with socket.socket(family) as sock:
                sock.bind((host, 0))
                sock.listen()
                url %= sock.getsockname()[1]
                with self.subTest(url=url):
                    self.assert_fails(url, "-l", url)

    def test_a_port_that_another_rondo_listens_on(self):
        other = self.serve("echo")
        (_, v4_port), (_, v6_port) = other.addresses
        for url in (f"tcp://127.0.0.1:{v4_port}", f"tcp://[::1]:{v6_port}", f"tcp://0.0.0.0:{v4_port}",
                    f"tcp://[::]:{v6_port}"):
            with self.subTest(url=url):
                self.assert_fails(url, "-l", url)
        self.assertTrue(other.serves())

    def test_a_port_that_another_rondo_listens_on_everywhere(self):
        other = self.serve("echo", listen=["tcp://0.0.0.0:0"])
        url = f"tcp://127.0.0.1:{other.addresses[0][1]}"
        self.assert_fails(url, "-l", url)

    def test_the_same_port_twice(self):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            url = f"tcp://127.0.0.1:{sock.getsockname()[1]}"
        self.assert_fails(url, "-l", url, "-l", url)

    def test_a_host_that_there_is_not(self):
        self.assert_fails("nosuchhost.invalid", "-l", "tcp://nosuchhost.invalid:0")

    def test_an_address_of_another_machine(self):
        self.assert_fails("tcp://192.0.2.1:0", "-l", "tcp://192.0.2.1:0")

    def test_an_interface_that_there_is_not(self):
        self.assert_fails("nosuchif", "-l", "tcp://[fe80::1%nosuchif]:0")

    def test_one_address_fails_and_none_is_served(self):
        self.assert_fails("tcp://192.0.2.1:0", "-l", s.V4, "-l", "tcp://192.0.2.1:0")

    def test_the_port_is_free_again_right_after_the_end(self):
        for end in signal.SIGTERM, signal.SIGKILL:
            with self.subTest(end=end.name):
                server = self.serve("echo", status=0 if end == signal.SIGTERM else -end)
                sock = self.connect(server)
                sock.sendall(b"x")
                self.assertEqual(receive(sock, 1), b"x")
                server.signal(end)
                server.wait_for_exit()
                again = self.serve("echo", listen=[f"tcp://127.0.0.1:{server.addresses[0][1]}"])
                self.assertTrue(again.serves())


if __name__ == "__main__":
    unittest.main()
