"""rondo-chat: what one says all hear, also those on other shards, each in the order in which it was said."""
import unittest

import server as s
from server import ServerTest, receive, stuff, until


class Chat(ServerTest):
    def members(self, server, count):
        members = [self.connect(server) for _ in range(count)]
        until(lambda: server.total("connections_open") == count, "all are there")
        return members

    def test_a_line_from_one_goes_to_all_on_all_shards(self):
        server = self.serve("chat", "--shards", "3")
        members = self.members(server, 30)
        for i, member in enumerate(members):
            line = f"it is {i}\n".encode()
            member.sendall(line)
            for other in members:
                self.assertEqual(receive(other, len(line)), line)

    def test_who_leaves_is_not_missed(self):
        server = self.serve("chat", "--shards", "2")
        members = self.members(server, 10)
        for gone in members[::2]:
            s.reset(gone)
        until(lambda: server.total("connections_open") == 5, "half of them have left")
        members[1].sendall(b"who is there?\n")
        for other in members[1::2]:
            self.assertEqual(receive(other, 14), b"who is there?\n")

    def test_lines_of_one_come_in_order_and_whole(self):
        server = self.serve("chat", "--shards", "3")
        members = self.members(server, 9)
        text = b"".join(b"line %d\n" % i for i in range(2000))
        members[0].sendall(text)
        for member in members:
            self.assert_same(receive(member, len(text)), text)

    def test_who_says_nothing_whole_is_not_heard(self):
        server = self.serve("chat")
        members = self.members(server, 2)
        members[0].sendall(b"half a ")
        members[1].sendall(b"other\n")
        self.assertEqual(receive(members[0], 6), b"other\n")
        members[0].sendall(b"line\n")
        self.assertEqual(receive(members[1], 18), b"other\nhalf a line\n")

    def test_who_does_not_read_leaves_and_nobody_waits_for_it(self):
        server = self.serve("chat", "--shards", "2")
        deaf, speaker, listener = self.members(server, 3)
        line = 1000 * b"x" + b"\n"
        said = 0
        while server.total("connections_open") == 3:
            speaker.sendall(100 * line)
            self.assert_same(receive(speaker, 100 * len(line)), 100 * line)
            self.assert_same(receive(listener, 100 * len(line)), 100 * line)
            said += 100 * len(line)
            self.assertLess(said, 200 << 20)
        self.assertTrue(s.was_reset(deaf))

    def test_a_stop_in_the_middle_of_a_conversation(self):
        server = self.serve("chat", "--shards", "3")
        members = self.members(server, 12)
        for member in members:
            stuff(member, 2000 * b"still talking\n")
        for member in members:
            member.close()
        server.stop()


unittest.main()
