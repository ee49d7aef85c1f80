"""rondo-line answers each line with the same line, and one that is too long with a line that says so."""
import random
import socket
import subprocess
import unittest

import server as s
from server import ServerTest, data_of, receive, receive_all, stream

LONGEST = 16384
MIB = 1024 * 1024
TOO_LONG = b"line too long\n"


class Line:
    api = "protocol"
    shards = 1

    def setUp(self):
        self.server = self.serve("line", "--api", self.api, "--shards", str(self.shards))

    def each_address(self):
        for address in self.server.addresses:
            with self.subTest(address=address):
                yield self.connect(self.server, address)

    def answer(self, sock, text):
        """What comes back for `text`, all of it, when the client has ended."""
        return stream(sock, text, half_close=True)

    def test_a_line_is_answered_by_the_same_line(self):
        for sock in self.each_address():
            sock.sendall(b"hello\n")
            self.assertEqual(receive(sock, 6), b"hello\n")

    def test_a_carriage_return_belongs_to_the_line(self):
        for sock in self.each_address():
            self.assertEqual(self.answer(sock, b"hello\r\n\r\n"), b"hello\r\n\r\n")

    def test_bytes_of_any_value_belong_to_the_line(self):
        line = bytes(byte for byte in range(256) if byte != 10) + b"\n"
        for sock in self.each_address():
            self.assertEqual(self.answer(sock, line), line)

    def test_empty_lines_are_answered(self):
        for sock in self.each_address():
            self.assertEqual(self.answer(sock, b"\n\n\n"), b"\n\n\n")

    def test_a_line_is_answered_only_when_it_is_whole(self):
        for sock in self.each_address():
            sock.sendall(b"first\nsec")
            self.assertEqual(receive(sock, 6), b"first\n")
            sock.sendall(b"ond\n")
            self.assertEqual(receive(sock, 7), b"second\n")

    def test_lines_cut_at_any_place_are_answered(self):
        text = b"one\n\ntwo\r\nthree\n"
        for sock in self.each_address():
            for cut in range(1, len(text)):
                sock.sendall(text[:cut])
                # What is whole comes back before the rest is sent, so the two are received one by one.
                whole = text[:cut].rfind(b"\n") + 1
                self.assertEqual(receive(sock, whole), text[:whole])
                sock.sendall(text[cut:])
                self.assertEqual(receive(sock, len(text) - whole), text[whole:])

    def test_lines_dribbled_byte_by_byte_are_answered(self):
        text = b"".join(b"line %d\n" % i for i in range(100))
        for sock in self.each_address():
            for i in range(len(text)):
                sock.sendall(text[i:i + 1])
            self.assertEqual(receive(sock, len(text)), text)

    def test_many_lines_in_one_send_are_answered_in_order(self):
        text = b"".join(b"%d\n" % i for i in range(5000))
        for sock in self.each_address():
            sock.sendall(text)
            self.assert_same(receive(sock, len(text)), text)

    def test_pipelined_lines_of_all_lengths_are_answered(self):
        chance = random.Random(3)
        bodies = data_of(LONGEST, 3).replace(b"\n", b".")
        lines = [bodies[:chance.choice([0, 1, 63, 500, 2047, 4096, 16383, LONGEST])] + b"\n" for _ in range(500)]
        text = b"".join(lines)
        for sock in self.each_address():
            self.assert_same(self.answer(sock, text), text)

    def test_the_longest_line_is_answered(self):
        line = b"x" * LONGEST + b"\n"
        for sock in self.each_address():
            self.assert_same(self.answer(sock, 3 * line), 3 * line)

    def test_one_byte_more_is_too_long_and_the_end(self):
        for sock in self.each_address():
            sock.sendall(b"fine\n" + b"x" * (LONGEST + 1) + b"\n" + b"not any more\n")
            self.assertEqual(receive_all(sock), b"fine\n" + TOO_LONG)

    def test_a_line_is_too_long_also_before_it_ends(self):
        for sock in self.each_address():
            sock.sendall(b"x" * (LONGEST + 1))
            self.assertEqual(receive_all(sock), TOO_LONG)

    def test_the_longest_line_is_answered_when_it_is_dribbled(self):
        line = b"x" * LONGEST + b"\n"
        for sock in self.each_address():
            for i in range(0, len(line), 97):
                sock.sendall(line[i:i + 97])
            self.assert_same(receive(sock, len(line)), line)

    def test_one_who_still_sends_megabytes_learns_that_its_line_is_too_long(self):
        for sock in self.each_address():
            got = stream(sock, b"x" * (16 * MIB), half_close=True)
            self.assertEqual(got, TOO_LONG)

    def test_one_who_first_sends_megabytes_then_reads_learns_that_its_line_is_too_long(self):
        for sock in self.each_address():
            sock.sendall(b"x" * (8 * MIB))
            self.assertEqual(receive_all(sock), TOO_LONG)

    def test_what_follows_the_last_newline_is_dropped(self):
        for sock in self.each_address():
            self.assertEqual(self.answer(sock, b"a line\nno line"), b"a line\n")

    def test_all_lines_are_answered_after_a_half_close(self):
        text = b"".join(b"line %d\n" % i for i in range(200_000))
        for sock in self.each_address():
            self.assert_same(self.answer(sock, text), text)

    def test_a_half_close_without_a_byte_is_answered_by_eof(self):
        for sock in self.each_address():
            sock.shutdown(socket.SHUT_WR)
            self.assertEqual(sock.recv(1), b"")

    def test_socat_gets_its_lines_back(self):
        text = b"".join(b"line %d\n" % i for i in range(50_000))
        for host, port in self.server.addresses:
            peer = f"TCP6:[{host}]:{port}" if ":" in host else f"TCP4:{host}:{port}"
            with self.subTest(peer=peer):
                done = subprocess.run(["socat", "-t", "30", "-", peer], input=text, capture_output=True,
                                      timeout=s.PATIENCE)
                self.assert_same(done.stdout, text)
                self.assertEqual((done.returncode, done.stderr), (0, b""))


class LineOnOneShard(Line, ServerTest):
    pass


class LineOnTwoShards(Line, ServerTest):
    shards = 2


class LineAsAStream(Line, ServerTest):
    api = "stream"
    shards = 2


if __name__ == "__main__":
    unittest.main()
