"""rondo-recite answers a phrase of its poem with the next one, to chunks and to lines."""
import asyncio
import os
import tempfile
import unittest

import server as s
from server import ServerTest, receive, receive_all

POEM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "apps", "tyger.txt")
PHRASES = [line for line in open(POEM, encoding="utf-8").read().splitlines() if line]
UNKNOWN = "That is no phrase of this poem."
LAST = "That was the last phrase."


class Recite(ServerTest):
    def setUp(self):
        self.server = self.serve("recite", "--poem", POEM)

    def ask(self, sock, phrase, wanted):
        sock.sendall(phrase.encode())
        self.assertEqual(receive(sock, len(wanted.encode())).decode(), wanted)

    def test_a_phrase_at_once_is_answered_by_the_next(self):
        for address in self.server.addresses:
            sock = self.connect(self.server, address)
            for phrase, answer in zip(PHRASES, PHRASES[1:]):
                self.ask(sock, phrase, answer)
            self.ask(sock, PHRASES[-1], LAST)
            self.ask(sock, PHRASES[0], PHRASES[1])

    def test_a_line_is_answered_by_a_line(self):
        for ending in "\n", "\r\n":
            sock = self.connect(self.server)
            for phrase, answer in zip(PHRASES, PHRASES[1:]):
                self.ask(sock, phrase + ending, answer + ending)
            self.ask(sock, PHRASES[-1] + ending, LAST + ending)

    def test_the_whole_poem_in_one_send(self):
        sock = self.connect(self.server)
        sock.sendall("".join(phrase + "\n" for phrase in PHRASES).encode())
        wanted = "".join(phrase + "\n" for phrase in [*PHRASES[1:], LAST]).encode()
        self.assertEqual(receive(sock, len(wanted)), wanted)

    def test_a_line_cut_anywhere_is_one(self):
        line, answer = (phrase.encode() + b"\n" for phrase in PHRASES[17:19])  # with a letter of three bytes
        self.assertNotEqual(len(line), len(PHRASES[17]) + 1)
        for cut in range(1, len(line) - 1):
            sock = self.connect(self.server)
            self.ask(sock, PHRASES[0] + "\n", PHRASES[1] + "\n")
            sock.sendall(line[:cut])
            self.assertEqual(self.round_trip(), b"another")  # the piece has arrived before the rest
            sock.sendall(line[cut:])
            self.assertEqual(receive(sock, len(answer)), answer)

    def round_trip(self):
        sock = self.connect(self.server)
        self.ask(sock, PHRASES[2], PHRASES[3])
        return b"another"

    def test_the_beginning_of_a_phrase_waits_for_the_rest(self):
        sock = self.connect(self.server)
        sock.sendall(PHRASES[4][:10].encode())
        self.round_trip()
        self.ask(sock, PHRASES[4][10:], PHRASES[5])

    def test_a_phrase_that_comes_twice_goes_on_where_the_reader_is(self):
        twice = "What immortal hand or eye,"
        sock = self.connect(self.server)
        self.ask(sock, twice, "Could frame thy fearful symmetry?")
        self.ask(sock, twice, "Dare frame thy fearful symmetry?")
        self.ask(sock, twice, "Could frame thy fearful symmetry?")

    def test_what_is_no_phrase_is_told_so_and_the_connection_lives_on(self):
        sock = self.connect(self.server)
        self.ask(sock, "Shall I compare thee", UNKNOWN)
        self.ask(sock, "\0\xff", UNKNOWN)
        self.ask(sock, "x" * 3000, UNKNOWN)
        self.ask(sock, "\n", UNKNOWN + "\n")
        self.ask(sock, "y" * 3000 + "\n", UNKNOWN + "\n")
        self.ask(sock, PHRASES[0] + "\n", PHRASES[1] + "\n")

    def test_what_has_been_asked_is_answered_after_a_half_close(self):
        sock = self.connect(self.server)
        sock.sendall(PHRASES[0].encode())
        sock.shutdown(s.socket.SHUT_WR)
        self.assertEqual(receive_all(sock).decode(), PHRASES[1])

    def test_a_poem_ships_with_it(self):
        sock = self.connect(self.serve("recite"))
        self.ask(sock, PHRASES[0], PHRASES[1])

    def test_asyncio_reads_the_poem(self):
        async def read(address):
            reader, writer = await asyncio.open_connection(*address)
            told = [PHRASES[0]]
            while told[-1] != LAST:
                writer.write(told[-1].encode() + b"\n")
                told.append((await asyncio.wait_for(reader.readline(), s.PATIENCE)).decode().rstrip("\n"))
            writer.close()
            await writer.wait_closed()
            return told
        self.assertEqual(asyncio.run(read(self.server.addresses[0])), [*PHRASES, LAST])


class BadPoem(unittest.TestCase):
    def refused(self, text, word):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(text)
            file.flush()
            status, _, stderr = s.run("recite", "--poem", file.name, "--listen", s.V4)
        self.assertEqual(status, 1)
        self.assertIn(word, stderr)
        self.assertIn(".txt: ", stderr)

    def test_a_poem_that_is_none_is_refused_with_the_reason(self):
        self.refused("", "no phrase")
        self.refused("\n\n\r\n", "no phrase")
        self.refused("short\n" + 501 * "x" + "\n", "line 2: a phrase has 500 bytes at most")

    def test_a_file_that_is_not_there_is_told(self):
        status, _, stderr = s.run("recite", "--poem", "/nowhere/poem.txt", "--listen", s.V4)
        self.assertEqual(status, 1)
        self.assertIn("/nowhere/poem.txt: No such file or directory", stderr)
        self.assertIn("--poem", stderr)


unittest.main()
