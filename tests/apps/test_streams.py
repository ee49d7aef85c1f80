"""Handlers in a server: ten thousand at once."""
import os
import resource
import socket
import unittest

import server as s
from server import ServerTest, receive

MANY = 10000
IS_TSAN = "thread" in os.environ.get("RONDO_SANITIZE", "")  # it knows 8,000 fibers at most


class Handlers(ServerTest):
    def test_ten_thousand_on_one_shard(self):
        many = 2000 if IS_TSAN else MANY
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = many + 200
        if hard != resource.RLIM_INFINITY and hard < wanted:
            self.skipTest(f"{hard} descriptors are allowed, {wanted} are needed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        server = self.serve("echo", "--api", "stream", "--shards", "1")
        socks = [self.connect(server) for _ in range(many)]
        for i, sock in enumerate(socks):
            sock.sendall(b"%d" % i)
        for i, sock in enumerate(socks):
            wanted = b"%d" % i
            self.assertEqual(receive(sock, len(wanted)), wanted)
        self.assertEqual(server.total("connections_open"), many)
        for sock in socks[::2]:  # some end in order, some don't
            s.reset(sock)
        for sock in socks[1::2]:
            sock.sendall(b"bye")
            self.assertEqual(receive(sock, 3), b"bye")
            sock.shutdown(socket.SHUT_WR)
            self.assertEqual(sock.recv(1), b"")
            sock.close()
        self.assert_all_back(server)


unittest.main()
