"""The peers answer rightly, too: what rondo is compared with does the same work."""
import os
import unittest
from pathlib import Path

import measured
import server as s
import peers

BUILD = Path(os.path.abspath(s.BUILD))


class Peers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.peers = peers.available(BUILD)
        for name, why in peers.missing(BUILD):
            print(f"left out: {name}: {why}")

    def each(self, *options, loads):
        for peer in self.peers:
            with self.subTest(peer=peer.name, options=options):
                measured.bear([*peer.command, *options], loads)

    def test_echo(self):
        self.each(loads=measured.ECHO)

    def test_echo_over_a_unix_socket(self):
        with measured.folder() as folder:
            self.each("--unix", f"{folder}/echo", loads=measured.over_unix(measured.ECHO))

    def test_lines(self):
        self.peers = [peer for peer in self.peers if peer.lines]
        self.each("--lines", loads=[load for load in measured.LINES if "--size" not in load])

    def test_a_client_that_half_closes_gets_everything(self):
        for peer in self.peers:
            with self.subTest(peer=peer.name), measured.measure.Server(list(peer.command), {0}) as process:
                self.assertEqual(measured.half_close(process.url), b"first\nlast\n")


unittest.main()
