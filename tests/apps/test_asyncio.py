"""Python's asyncio at the other end: its protocols and streams as clients of our programs, and its servers for our client."""
import asyncio
import subprocess
import unittest

import server as s
from server import ServerTest, data_of

LINES = b"".join(b"line %d %s\n" % (i, b"." * (i % 300)) for i in range(3000))
SERVERS = ("echo",), ("echo", "--receive", "buffer"), ("echo", "--api", "stream"), ("line",), ("line", "--api", "stream")


class Collecting(asyncio.Protocol):
    """Writes in parts, then write_eof, and collects what comes back."""

    def __init__(self, parts):
        self.parts, self.got, self.lost = parts, bytearray(), asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        for part in self.parts:
            transport.write(part)
        transport.write_eof()

    def data_received(self, data):
        self.got += data

    def connection_lost(self, error):
        self.lost.set_result(error)


class EchoProtocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def eof_received(self):
        self.transport.close()


def parts_of(data):
    cuts = [0, 1, 2, 10, 1000, 1001, 70000, len(data)]
    return [data[a:b] for a, b in zip(cuts, cuts[1:])]


class AsClient(ServerTest):
    def test_a_protocol(self):
        async def talk(address):
            _, protocol = await asyncio.get_running_loop().create_connection(lambda: Collecting(parts_of(LINES)), *address)
            self.assertIsNone(await asyncio.wait_for(protocol.lost, s.PATIENCE))
            return bytes(protocol.got)

        for program in SERVERS:
            with self.subTest(program=program):
                server = self.serve(*program)
                self.assert_same(asyncio.run(talk(server.addresses[0])), LINES)

    def test_streams_in_parts_then_write_eof_then_read_to_eof(self):
        async def talk(address):
            reader, writer = await asyncio.open_connection(*address)
            for part in parts_of(LINES):
                writer.write(part)
                await writer.drain()
            writer.write_eof()
            got = await asyncio.wait_for(reader.read(), s.PATIENCE)
            writer.close()
            await writer.wait_closed()
            return got

        for program in SERVERS:
            with self.subTest(program=program):
                server = self.serve(*program)
                self.assert_same(asyncio.run(talk(server.addresses[1])), LINES)

    def test_many_streams_line_by_line(self):
        async def talk(address, number):
            reader, writer = await asyncio.open_connection(*address)
            for i in range(20):
                line = b"%d of %d\n" % (i, number)
                writer.write(line)
                self.assertEqual(await reader.readline(), line)
            writer.close()
            await writer.wait_closed()

        async def all_of(address):
            await asyncio.wait_for(asyncio.gather(*(talk(address, number) for number in range(200))), s.PATIENCE)

        for program in ("line",), ("line", "--api", "stream"):
            with self.subTest(program=program):
                server = self.serve(*program, "--shards", "2")
                asyncio.run(all_of(server.addresses[0]))
                self.assert_all_back(server)


class AsServer(ServerTest):
    async def answer_of(self, server, api, data):
        host, port = server.sockets[0].getsockname()[:2]
        client = await asyncio.create_subprocess_exec(s.path_of("client"), "--api", api, f"tcp://{host}:{port}",
                                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out, _ = await asyncio.wait_for(client.communicate(data), s.PATIENCE)
        self.assertEqual(client.returncode, 0)
        server.close()
        await server.wait_closed()
        return out

    def test_a_protocol(self):
        async def serve(api, data):
            server = await asyncio.get_running_loop().create_server(EchoProtocol, "127.0.0.1", 0)
            return await self.answer_of(server, api, data)

        data = data_of(5_000_000)
        for api in "protocol", "stream":
            with self.subTest(api=api):
                self.assert_same(asyncio.run(serve(api, data)), data)

    def test_streams(self):
        async def upper(reader, writer):
            while line := await reader.readline():
                writer.write(line.upper())
                await writer.drain()
            writer.close()

        async def serve(api):
            return await self.answer_of(await asyncio.start_server(upper, "127.0.0.1", 0), api, LINES)

        for api in "protocol", "stream":
            with self.subTest(api=api):
                self.assert_same(asyncio.run(serve(api)), LINES.upper())


unittest.main()
