"""rondo-echo gives every byte back, however the bytes are cut and however many clients there are."""
import asyncio
import random
import socket
import subprocess
import unittest

import server as s
from server import ServerTest, data_of, receive, receive_all, stream

MIB = 1024 * 1024


class Echo:
    options = ()
    shards = 1

    def setUp(self):
        self.server = self.serve("echo", *self.options, "--shards", str(self.shards))

    def each_address(self):
        """A new connection over IPv4, then one over IPv6."""
        for address in self.server.addresses:
            with self.subTest(address=address):
                yield self.connect(self.server, address)

    def test_one_byte_comes_back(self):
        for sock in self.each_address():
            sock.sendall(b"x")
            self.assertEqual(sock.recv(100), b"x")

    def test_small_messages_come_back_one_by_one(self):
        for sock in self.each_address():
            for i in range(300):
                message = data_of(64, i)
                sock.sendall(message)
                self.assertEqual(receive(sock, 64), message)

    def test_pipelined_messages_come_back_in_order(self):
        for sock in self.each_address():
            data = data_of(64 * 2000)
            for i in range(0, len(data), 64):
                sock.sendall(data[i:i + 64])
            self.assert_same(receive(sock, len(data)), data)

    def test_a_mebibyte_streams_through(self):
        for sock in self.each_address():
            data = data_of(MIB)
            self.assert_same(stream(sock, data), data)

    def test_twenty_mebibytes_stream_through(self):
        for sock in self.each_address():
            data = data_of(20 * MIB)
            self.assert_same(stream(sock, data), data)

    def test_all_comes_back_after_a_half_close_then_eof(self):
        for sock in self.each_address():
            data = data_of(5 * MIB)
            self.assert_same(stream(sock, data, half_close=True), data)

    def test_all_comes_back_to_one_who_reads_only_after_its_half_close(self):
        for sock in self.each_address():
            data = data_of(MIB)
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            self.assert_same(receive_all(sock), data)

    def test_a_half_close_without_a_byte_is_answered_by_eof(self):
        for sock in self.each_address():
            sock.shutdown(socket.SHUT_WR)
            self.assertEqual(sock.recv(1), b"")

    def test_dribbled_bytes_come_back_each(self):
        for sock in self.each_address():
            for byte in data_of(500):
                sock.sendall(bytes([byte]))
                self.assertEqual(sock.recv(2), bytes([byte]))

    def test_dribbled_bytes_come_back_to_one_who_reads_at_the_end(self):
        for sock in self.each_address():
            data = data_of(2000)
            for byte in data:
                sock.sendall(bytes([byte]))
            self.assert_same(receive(sock, len(data)), data)

    def test_sends_of_all_sizes_come_back(self):
        sizes = [1, 511, 512, 513, 2047, 2048, 4096, 16383, 16384, 16385, 32768, 65535, 65536, 65537, 131072]
        for sock in self.each_address():
            for size in sizes:
                data = data_of(size, size)
                self.assert_same(stream(sock, data), data)

    def test_two_hundred_clients_at_once_get_their_own_bytes(self):
        async def client(address, seed):
            chance = random.Random(seed)
            data = data_of(chance.randrange(1, 100_000), seed)
            reader, writer = await asyncio.open_connection(*address)

            async def send():
                at = 0
                while at < len(data):
                    size = chance.randrange(1, 20_000)
                    writer.write(data[at:at + size])
                    await writer.drain()
                    at += size
                writer.write_eof()

            sending = asyncio.ensure_future(send())
            got = await reader.read(-1)
            await sending
            writer.close()
            await writer.wait_closed()
            return got, data

        async def clients():
            addresses = self.server.addresses
            return await asyncio.wait_for(
                asyncio.gather(*(client(addresses[seed % 2], seed) for seed in range(200))), s.PATIENCE)

        for got, data in asyncio.run(clients()):
            self.assert_same(got, data)
        self.assert_all_back(self.server)

    def test_socat_gets_its_bytes_back(self):
        data = data_of(MIB)
        for host, port in self.server.addresses:
            peer = f"TCP6:[{host}]:{port}" if ":" in host else f"TCP4:{host}:{port}"
            with self.subTest(peer=peer):
                done = subprocess.run(["socat", "-t", "30", "-", peer], input=data, capture_output=True,
                                      timeout=s.PATIENCE)
                self.assert_same(done.stdout, data)
                self.assertEqual((done.returncode, done.stderr), (0, b""))


class IntoTheShardsBuffersOnOneShard(Echo, ServerTest):
    pass


class IntoTheShardsBuffersOnTwoShards(Echo, ServerTest):
    shards = 2


class IntoTheProtocolsMemoryOnOneShard(Echo, ServerTest):
    options = ("--receive", "buffer")


class IntoTheProtocolsMemoryOnTwoShards(Echo, ServerTest):
    options = ("--receive", "buffer")
    shards = 2


class AsAStreamOnOneShard(Echo, ServerTest):
    options = ("--api", "stream")


class AsAStreamOnTwoShards(Echo, ServerTest):
    options = ("--api", "stream")
    shards = 2


if __name__ == "__main__":
    unittest.main()
