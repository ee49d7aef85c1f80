"""rondo-qotd greets and closes; with --reply it greets, and answers each line with the date before it."""
import datetime
import re
import unittest

import server as s
from server import ServerTest, receive, receive_all

GREETING = b"An apple a day keeps the doctor away.\r\n"


class Qotd(ServerTest):
    def test_it_greets_and_closes(self):
        server = self.serve("qotd")
        for address in server.addresses:
            for _ in range(20):
                self.assertEqual(receive_all(self.connect(server, address)), GREETING)

    def test_what_the_client_says_does_not_hurt(self):
        server = self.serve("qotd")
        sock = self.connect(server)
        sock.sendall(100000 * b"x")
        self.assertEqual(receive_all(sock), GREETING)

    def test_another_quote(self):
        server = self.serve("qotd", "--quote", "Grüße")
        self.assertEqual(receive_all(self.connect(server)), "Grüße\r\n".encode())

    def test_with_reply_each_line_comes_back_with_the_date(self):
        server = self.serve("qotd", "--reply")
        sock = self.connect(server)
        self.assertEqual(receive(sock, len(GREETING)), GREETING)
        # time(2) may be a tick behind.
        before = (datetime.datetime.now() - datetime.timedelta(seconds=0.1)).replace(microsecond=0)
        sock.sendall(b"one\n\nthree")
        sock.sendall(b"\nunfinished")
        sock.shutdown(s.socket.SHUT_WR)
        lines = receive_all(sock).decode().splitlines()
        after = datetime.datetime.now()
        self.assertEqual([re.sub(r"^\[.*?\]:", "", line) for line in lines], ["one", "", "three"])
        for line in lines:
            told = datetime.datetime.strptime(re.match(r"\[(.*?)\]:", line)[1], "%a %b %d %H:%M:%S %Y")
            self.assertTrue(before <= told <= after, line)

    def test_wrong_usage_is_told(self):
        status, _, stderr = s.run("qotd", "--reply=x")
        self.assertEqual(status, 2)
        self.assertIn("--reply", stderr)
        status, stdout, _ = s.run("qotd", "--help")
        self.assertEqual(status, 0)
        self.assertRegex(stdout, r"(?m)^ +--reply  ")
        self.assertRegex(stdout, r"(?m)^ +--quote VALUE ")


unittest.main()
