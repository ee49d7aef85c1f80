#!/usr/bin/env python3
"""asyncio's echo and line servers, in its three ways (docs.python.org, "Transports and Protocols", "Streams"), on its own
loop or uvloop's."""

import argparse
import asyncio
import resource
import signal
import sys
from pathlib import Path


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    # Without these a client that doesn't read makes the server grow without bound.
    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class Lines(Echo):
    rest = b""

    def data_received(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.transport.write(line + b"\n")


class Buffered(asyncio.BufferedProtocol, Echo):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(65536)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.transport.write(bytes(memoryview(self.buffer)[:nbytes]))


async def echo_stream(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def line_stream(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def serve(options):
    loop = asyncio.get_running_loop()
    backlog = {"backlog": 4096}
    if options.style == "streams":
        handler = line_stream if options.lines else echo_stream
        server = await (asyncio.start_unix_server(handler, options.unix, **backlog) if options.unix else
                        asyncio.start_server(handler, "127.0.0.1", options.port, **backlog))
    else:
        protocol = Lines if options.lines else Buffered if options.style == "buffered" else Echo
        server = await (loop.create_unix_server(protocol, options.unix, **backlog) if options.unix else
                        loop.create_server(protocol, "127.0.0.1", options.port, **backlog))
    where = f"unix://{options.unix}" if options.unix else f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(f"listening on {where}", file=sys.stderr, flush=True)
    await server.serve_forever()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--unix", metavar="PATH")
    parser.add_argument("--lines", action="store_true", help="write once for each line")
    parser.add_argument("--style", choices=("protocol", "buffered", "streams"), default="protocol")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args()
    if options.lines and options.style == "buffered":
        parser.error("--lines: of the styles protocol and streams")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if options.unix:
        Path(options.unix).unlink(missing_ok=True)
    if options.loop == "uvloop":
        import uvloop
        uvloop.install()
    asyncio.run(serve(options))


main()
