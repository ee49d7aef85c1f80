"""Unix sockets, by path and by abstract name: served as TCP is, their files looked after."""
import asyncio
import os
import re
import signal
import socket
import stat
import tempfile
import unittest

import server as s
from server import ServerTest, data_of, receive, receive_all, run, stream, until
from test_drain import LINES, UnderLoad


class UnixTest(ServerTest):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="rondo-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.path = self.folder + "/socket"
        self.url = "unix://" + self.path
        self.abstract = "unix://@" + self.folder

    def exists(self):
        return os.path.lexists(self.path)

    def assert_refused(self, url, *said):
        status, stdout, stderr = run("echo", "--listen", url)
        self.assertEqual((status, stdout), (1, ""), stderr)
        self.assertEqual(len(stderr.splitlines()), 1, stderr)
        for text in (url, *said):
            self.assertIn(text, stderr)


class Served(UnixTest):
    def both(self, *options, program="echo"):
        return self.serve(program, *options, listen=[self.url, self.abstract])

    def test_the_addresses_are_said_and_are_connected_to(self):
        server = self.both()
        self.assertEqual(server.addresses, [self.path, "\0" + self.folder])
        for address in server.addresses:
            self.assertTrue(server.serves(address))

    def test_asyncio_is_answered(self):
        async def client(address, seed, half_close):
            data = data_of(seed * 5000 + 1, seed)
            reader, writer = await asyncio.open_unix_connection(address)
            writer.write(data)
            if half_close:
                writer.write_eof()
            got = await reader.readexactly(len(data))
            if half_close:
                got += await reader.read()
            writer.close()
            await writer.wait_closed()
            return got == data

        async def all_clients(addresses):
            return await asyncio.gather(*(client(addresses[i % 2], i, i % 3 == 0) for i in range(100)))

        for way in "data", "buffer":
            with self.subTest(receive=way):
                server = self.both("--shards", "2", "--receive", way)
                before = server.descriptors()
                self.assertTrue(all(asyncio.run(all_clients(server.addresses))))
                self.assert_all_back(server, before)
                server.close()

    def test_megabytes_and_lines_come_back(self):
        server = self.both()
        data = data_of(8 << 20)
        for address in server.addresses:
            self.assert_same(stream(self.connect(server, address), data, half_close=True), data)
        server.close()
        server = self.both(program="line")
        for address in server.addresses:
            self.assert_same(stream(self.connect(server, address), LINES, half_close=True), LINES)

    def test_all_shards_get_connections(self):
        server = self.both("--shards", "2")
        for address in server.addresses:
            before = [shard["connections_accepted"] for shard in server.report()]

            def each_has_got_some():
                for _ in range(20):
                    self.assertTrue(server.serves(address))
                return all(shard["connections_accepted"] > accepted for shard, accepted in zip(server.report(), before))
            until(each_has_got_some, "no shard is left out")

    def test_a_connection_wakes_one_shard(self):
        server = self.serve("echo", "--shards", "6", listen=[self.url])
        self.assertTrue(server.serves())
        before = self.sleeps_of(server)
        for _ in range(200):
            self.assertTrue(server.serves())
        self.assertLess((self.sleeps_of(server) - before) / 200, 4, "for the connection, its bytes, its end; not one of each")

    def sleeps_of(self, server):
        found = re.compile(r"^voluntary_ctxt_switches:\s*(\d+)", re.M)
        return sum(int(found.search(server.proc(f"task/{task}/status"))[1]) for task in server.threads())

    def test_the_limit_of_connections_holds(self):
        server = self.both("--max-connections", "2")
        held = [self.connect(server, address) for address in server.addresses]
        until(lambda: server.total("connections_open") == 2, "both are accepted")
        with server.connect() as third:
            self.assertEqual(third.recv(1), b"")
        self.assertEqual(len(held), 2)


class Files(UnixTest):
    def test_a_mode_is_given_whatever_the_umask(self):
        for mask, query, mode in (0o022, "", 0o755), (0o077, "?mode=0666", 0o666), (0, "?mode=600", 0o600):
            with self.subTest(umask=mask, query=query):
                server = self.serve("echo", listen=[self.url + query], preexec_fn=lambda: os.umask(mask))
                self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), mode)
                self.assertEqual(server.addresses, [self.path])
                server.close()

    def test_the_file_is_gone_after_the_end_if_it_is_the_servers(self):
        server = self.serve("echo", listen=[self.url])
        self.assertTrue(self.exists())
        server.close()
        self.assertFalse(self.exists())

        server = self.serve("echo", "--shards", "2", listen=[self.url])
        os.unlink(self.path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(self.path)
            server.close()
            self.assertTrue(self.exists(), "it is another's")

    def test_a_killed_servers_file_is_taken_over_at_once(self):
        for url in self.url, self.abstract:
            for _ in range(5):
                with self.subTest(url=url):
                    server = self.serve("echo", "--shards", "2", listen=[url], status=-signal.SIGKILL)
                    held = [self.connect(server) for _ in range(5)]
                    server.signal(signal.SIGKILL)
                    server.close()
                    self.assertEqual(self.exists(), url == self.url)
                    again = self.serve("echo", listen=[url])
                    self.assertTrue(again.serves())
                    again.close()
                    for sock in held:
                        sock.close()

    def test_a_live_servers_place_is_refused(self):
        for url in self.url, self.abstract:
            with self.subTest(url=url):
                server = self.serve("echo", listen=[url])
                self.assert_refused(url, "something listens there already")
                self.assertTrue(server.serves())
                self.assertLessEqual(server.total("connections_accepted"), 2)
                server.close()

    def test_what_is_no_socket_is_not_touched(self):
        with open(self.path, "w") as file:
            file.write("precious")
        self.assert_refused(self.url, "no socket")
        with open(self.path) as file:
            self.assertEqual(file.read(), "precious")
        os.unlink(self.path)
        os.mkdir(self.path)
        self.assert_refused(self.url, "no socket")

    def test_a_folder_that_is_not_there(self):
        self.assert_refused(self.url + "/deeper", "its folder is not there")

    def test_nothing_is_left_when_another_address_is_refused(self):
        status, _, stderr = run("echo", "-l", self.url, "-l", self.abstract, "-l", self.abstract)
        self.assertEqual(status, 1, stderr)
        self.assertFalse(self.exists())


class Ends(UnixTest):
    def test_the_place_is_free_while_the_old_server_still_drains(self):
        for url in self.url, self.abstract:
            with self.subTest(url=url):
                old = self.serve("echo", "--drain-timeout", "1000", "--shards", "2", listen=[url])
                sock = self.connect(old)
                s.stuff(sock, data_of(4 << 20))
                old.signal(signal.SIGTERM)
                old.wait_for("draining")
                if url == self.url:
                    until(lambda: not self.exists(), "the file is removed")
                    new = self.serve("echo", listen=[url])
                    self.assertTrue(new.serves())
                    new.close()
                with self.assertRaises((ConnectionRefusedError, FileNotFoundError)):
                    until(lambda: old.connect().close(), "nobody is let in any more")
                sock.close()
                self.assertEqual(old.wait_for_exit(), 0)

    def test_queued_connections_are_answered(self):
        for shards in "1", "2":
            with self.subTest(shards=shards):
                server = self.serve("echo", "--shards", shards, listen=[self.url, self.abstract])
                server.signal(signal.SIGSTOP)
                queued = [self.connect(server, server.addresses[i % 2]) for i in range(100)]
                for i, sock in enumerate(queued):
                    sock.sendall(b"%d\n" % i)
                    if i % 4 == 0:
                        sock.shutdown(socket.SHUT_WR)
                server.signal(signal.SIGTERM)
                server.signal(signal.SIGCONT)
                for i, sock in enumerate(queued):
                    self.assertEqual(receive_all(sock), b"%d\n" % i)
                    sock.close()
                self.assertEqual(server.wait_for_exit(), 0)
                self.assertEqual(server.count("warning"), 0, server.stderr)

    def test_idle_connections_see_eof(self):
        server = self.serve("line", "--shards", "2", listen=[self.url])
        idle = [self.connect(server) for _ in range(20)]
        for sock in idle:
            sock.sendall(b"hello\n")
            self.assertEqual(receive(sock, 6), b"hello\n")
        server.signal(signal.SIGTERM)
        for sock in idle:
            self.assertEqual(sock.recv(1), b"")
            sock.close()
        self.assertEqual(server.wait_for_exit(), 0)


class LoadOverUnix(UnderLoad, UnixTest):
    def setUp(self):
        UnixTest.setUp(self)
        UnderLoad.setUp(self)

    def serve(self, program, *options):
        return super().serve(program, *options, listen=[self.url, self.abstract])


class LinesOverUnix(LoadOverUnix):
    program = "line"
    clients = 30


if __name__ == "__main__":
    unittest.main()
