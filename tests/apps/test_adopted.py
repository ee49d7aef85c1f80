"""Socket activation: fd:// serves a listening socket that somebody else has made, and may use on."""
import asyncio
import os
import signal
import socket
import tempfile
import unittest

import server as s
from server import Refused, Server, ServerTest, receive_all


class AdoptedTest(ServerTest):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="rondo-test-")
        self.addCleanup(folder.cleanup)
        self.path = folder.name + "/socket"

    def listening(self, kind):
        """(socket, the address that clients connect to)"""
        if kind.startswith("tcp"):
            sock = socket.create_server(("127.0.0.1", 0), backlog=1000)
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(self.path if kind == "unix" else "\0" + self.path)
            sock.listen(1000)
        self.addCleanup(sock.close)
        return sock, sock.getsockname() if kind != "abstract" else "\0" + self.path

    def kinds(self):
        for kind in "tcp", "unix", "abstract":
            with self.subTest(kind=kind):
                sock, address = self.listening(kind)
                yield sock, address
                sock.close()
                if kind == "unix":
                    os.unlink(self.path)

    def serve_on(self, sock, *options, **named):
        return self.serve("echo", *options, listen=[f"fd://{sock.fileno()}"], pass_fds=[sock.fileno()], **named)


class Adopted(AdoptedTest):
    def test_is_served_and_named_by_its_address(self):
        for sock, address in self.kinds():
            server = self.serve_on(sock, "--shards", "2")
            self.assertEqual(server.addresses, [address])

            def each_shard_has_got_some():
                for _ in range(20):
                    self.assertTrue(server.serves())
                return all(shard["connections_accepted"] > 0 for shard in server.report())
            s.until(each_shard_has_got_some, "no shard is left out")
            server.close()

    def test_one_that_does_not_block_costs_nothing(self):
        for sock, _ in self.kinds():
            sock.setblocking(False)
            server = self.serve_on(sock, "--shards", "1")
            self.assertTrue(server.serves())
            before = server.total("loop_turns")
            self.assertTrue(s.quiet(sock, 0.3))
            self.assertLess(server.total("loop_turns") - before, 100)
            server.close()
            self.assertFalse(sock.getblocking() or os.get_blocking(sock.fileno()))

    def test_is_as_it_was_when_the_server_has_ended(self):
        for sock, address in self.kinds():
            server = self.serve_on(sock, "--shards", "2")
            self.assertTrue(server.serves())
            self.assertEqual(server.stop(), 0)
            self.assertTrue(os.get_blocking(sock.fileno()))
            with server.connect() as client:
                connection, _ = sock.accept()
                connection.close()
                self.assertEqual(client.recv(1), b"")
            again = self.serve_on(sock)
            self.assertEqual(again.addresses, [address])
            self.assertTrue(again.serves())
            again.close()
            server.close()

    def test_what_is_queued_is_answered_at_the_end(self):
        for sock, _ in self.kinds():
            for shards in "1", "2":
                server = self.serve_on(sock, "--shards", shards)
                server.signal(signal.SIGSTOP)
                queued = [self.connect(server) for _ in range(100)]
                for i, client in enumerate(queued):
                    client.sendall(b"%d\n" % i)
                server.signal(signal.SIGTERM)
                server.signal(signal.SIGCONT)
                for i, client in enumerate(queued):
                    self.assertEqual(receive_all(client), b"%d\n" % i)
                    client.close()
                self.assertEqual(server.wait_for_exit(), 0)
                server.close()

    def test_who_shares_it_goes_on_while_one_ends(self):
        async def client(address, ended, made):
            while not ended.is_set():
                reader, writer = await s.open_connection(address)
                writer.write(b"hello\n")
                self.assertEqual(await reader.readline(), b"hello\n")
                writer.close()
                try:
                    await writer.wait_closed()
                except ConnectionError:
                    pass
                made[0] += 1

        async def load(address, first):
            ended, made = asyncio.Event(), [0]
            clients = [asyncio.ensure_future(client(address, ended, made)) for _ in range(10)]
            await self.reached(made, 200, clients)
            first.signal(signal.SIGTERM)
            await self.reached(made, 1000, clients)
            ended.set()
            await asyncio.gather(*clients)

        for sock, address in self.kinds():
            first, second = self.serve_on(sock, "--shards", "1"), self.serve_on(sock, "--shards", "1")
            asyncio.run(asyncio.wait_for(load(address, first), s.PATIENCE))
            self.assertEqual(first.wait_for_exit(), 0)
            self.assertTrue(second.serves())
            first.close()
            second.close()

    async def reached(self, made, count, clients):
        while made[0] < count:
            for client in clients:
                if client.done():
                    client.result()
            await asyncio.sleep(0)


class Wrong(AdoptedTest):
    def assert_refused(self, number, said, *fds):
        with self.assertRaises(Refused) as refused:
            Server("echo", listen=[f"fd://{number}"], pass_fds=fds).close()
        self.assertEqual(refused.exception.status, 1)
        self.assertEqual(len(refused.exception.stderr.splitlines()), 1)
        self.assertIn(f"can't listen on fd://{number}: ", refused.exception.stderr)
        self.assertIn(said, refused.exception.stderr)

    def test_nothing_was_given(self):
        self.assert_refused(3, "no descriptor of that number was given")

    def test_our_own_socket_is_not_what_was_given(self):
        with self.assertRaises(Refused) as refused:
            Server("echo", listen=[s.V4, "fd://3"]).close()
        self.assertIn("no descriptor of that number was given", refused.exception.stderr)

    def test_it_is_no_socket(self):
        with open("/dev/null") as file:
            self.assert_refused(file.fileno(), "is something else", file.fileno())

    def test_it_does_not_listen(self):
        one, other = socket.socketpair()
        with one, other, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            for sock in one, datagrams:
                self.assert_refused(sock.fileno(), "does not listen", sock.fileno())


if __name__ == "__main__":
    unittest.main()
