#!/usr/bin/env python3
"""Run scenarios on CPython's asyncio, and print what happened as lines of JSON: the oracle.

    asyncio_trace.py [--scenarios DIR] [FILE…]

Two things that Debian 12's Python 3.11 lacks are done here by the rules of later versions, with public calls only:
Server.close_clients and abort_clients (3.13), and a wait_closed that waits for the last client (3.12.1).
"""
import asyncio
import os
import socket
import struct
import sys
import tempfile
import threading

from records import Trace, error_name, main
from scenario import Scenario, pattern

PATIENCE_S = 10


class Timeout(Exception):
    pass


class Behaviour:
    """What a protocol of the scenario does: shared by Plain and Buffered."""

    def __init__(self, driver, connection, spec):
        self.driver, self.connection, self.spec = driver, connection, spec
        self.name = spec.name
        if spec.buffer_size is not None:
            self.memory = bytearray(spec.buffer_size)

    def run(self, event, **more):
        return self.driver.callback(self, event, **more)

    def connection_made(self, transport):
        self.connection.transport = transport
        self.driver.made(self.connection, transport)
        self.run("connection_made")

    def connection_lost(self, error):
        self.run("connection_lost", error=error_name(error))

    def pause_writing(self):
        self.run("pause_writing")

    def resume_writing(self):
        self.run("resume_writing")

    def eof_received(self):
        return self.run("eof_received")


class Plain(Behaviour, asyncio.Protocol):
    def data_received(self, data):
        self.run("data_received", data=bytes(data))


class Buffered(Behaviour, asyncio.BufferedProtocol):
    def get_buffer(self, size_hint):
        return self.memory

    def buffer_updated(self, size):
        self.run("data_received", data=bytes(self.memory[:size]))


class Connection:
    def __init__(self, number):
        self.number = number
        self.name = f"transport {number}"
        self.transport = None
        self.lost = False
        self.received = 0
        self.current = b""  # what the callback under way was given
        self.counts = {}


class Driver:
    def __init__(self, scenario):
        self.scenario = scenario
        self.trace = Trace()
        self.changed = threading.Condition()
        self.connections = []
        self.peers = {}
        self.server = None
        self.server_closed = False
        self.listener = None
        self.files = []

    # ---- callbacks: on the loop -----------------------------------------------------------------------------

    def protocol_for(self, connection, spec):
        return (Plain if spec.buffer_size is None else Buffered)(self, connection, spec)

    def accept(self):
        connection = Connection(len(self.connections) + 1)
        self.connections.append(connection)
        return self.protocol_for(connection, self.scenario.protocols[0])

    def made(self, connection, transport):
        if self.scenario.buffers:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.scenario.buffers)

    def callback(self, behaviour, event, data=b"", **more):
        connection, spec = behaviour.connection, behaviour.spec
        returned = None
        if event not in spec.without:
            if event == "data_received":
                more["data"] = data
            if spec.name != "main":
                more["protocol"] = spec.name
            self.trace.put(connection.name, "event", event, **more)
        connection.current = data
        before, connection.received = connection.received, connection.received + len(data)
        for wanted, count, actions in spec.handlers:
            if wanted == event or (wanted == "received" and before < count <= connection.received):
                returned = self.perform_all(connection, actions, returned)
        with self.changed:
            connection.counts[event] = connection.counts.get(event, 0) + 1
            connection.lost = connection.lost or event == "connection_lost"
            self.changed.notify_all()
        return returned if event not in spec.without else None

    def perform_all(self, connection, actions, returned):
        for action in actions:
            if action.call == "return":
                returned = action.arguments[0]
            elif action.call.startswith("server "):
                self.perform_on_server(action.call[7:])
            else:
                self.perform(connection, action)
        return returned

    def perform(self, connection, action):
        name, call = connection.name, action.call
        if connection.lost or connection.transport is None:
            self.trace.put(name, "call", call, gone=True)
            return
        if call in ("write", "writelines", "echo") and connection.transport.is_closing():
            self.trace.put(name, "call", call, closing=True)
        try:
            result = getattr(self, "call_" + call, None)
            if result is not None:
                result = result(connection, *action.arguments)
            else:
                result = getattr(connection.transport, call)(*action.arguments)
        except Exception:
            self.trace.put(name, "call", call, raised=True)
            return
        if result is not None:
            self.trace.put(name, "call", call, result=result)

    def call_echo(self, connection):
        connection.transport.write(connection.current)

    def call_writelines(self, connection, *chunks):
        connection.transport.writelines(chunks)

    def call_set_write_buffer_limits(self, connection, limits):
        connection.transport.set_write_buffer_limits(**limits)

    def call_get_write_buffer_limits(self, connection):
        low, high = connection.transport.get_write_buffer_limits()
        return {"low": low, "high": high}

    def call_get_extra_info(self, connection, name):
        value = connection.transport.get_extra_info(name)
        if value is None:
            return "none"
        if name == "socket":
            return "socket"
        if isinstance(value, tuple):
            return f"{len(value) == 4 and 'inet6' or 'inet'} {value[0]}"
        return "unix" if name in ("peername", "sockname") else "something"

    def call_set_protocol(self, connection, name):
        spec = next(spec for spec in self.scenario.protocols if spec.name == name)
        connection.transport.set_protocol(self.protocol_for(connection, spec))

    def call_get_protocol(self, connection):
        return connection.transport.get_protocol().name

    def call_sendfile(self, connection, content, numbers):
        if connection.transport.is_closing() or numbers.get("count") == 0:
            raise RuntimeError("what loop.sendfile raises, too, but later")
        file = tempfile.TemporaryFile()
        self.files.append(file)
        file.write(content)
        file.flush()
        task = self.loop.create_task(self.send_file(connection, file, numbers))
        self.files.append(task)

    async def send_file(self, connection, file, numbers):
        protocol = connection.transport.get_protocol()
        try:
            result = await self.loop.sendfile(connection.transport, file, numbers.get("offset", 0), numbers.get("count"))
        except Exception:
            if not connection.lost:
                self.trace.put(connection.name, "call", "sendfile", raised=True)
            return
        if not connection.lost:
            self.callback(protocol, "sendfile_done", result=result)

    # ---- the server -----------------------------------------------------------------------------------------

    def perform_on_server(self, call):
        server, result = self.server, None
        clients = [c.transport for c in self.connections if c.transport is not None and not c.lost]
        if call == "is_serving":
            result = server.is_serving()
        elif call == "sockets":
            result = len(server.sockets)
        elif call == "close":
            self.server_closed = True
            server.close()
        elif call in ("close_clients", "abort_clients"):
            for transport in clients:
                transport.close() if call == "close_clients" else transport.abort()
        elif call == "start_serving":
            try:
                self.loop.create_task(server.start_serving())
                if self.server_closed:
                    self.trace.put("server", "call", call, raised=True)
            except RuntimeError:
                self.trace.put("server", "call", call, raised=True)
        if result is not None:
            self.trace.put("server", "call", call, result=result)

    def wait_closed(self):
        self.wait_until(lambda: self.server_closed and all(c.lost for c in self.connections), "the server's end")
        self.trace.put("server", "event", "closed")

    # ---- the conductor: a thread of its own -------------------------------------------------------------------

    def wait_until(self, condition, what):
        with self.changed:
            if not self.changed.wait_for(condition, PATIENCE_S):
                raise Timeout(what)

    def on_loop(self, function, *arguments):
        async def call():
            result = function(*arguments)
            return await result if asyncio.iscoroutine(result) else result
        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(PATIENCE_S)

    def connection(self, number):
        if number > len(self.connections):
            raise Timeout(f"connection {number}, which was never made")
        return self.connections[number - 1]

    def conduct(self):
        for step in self.scenario.steps:
            try:
                getattr(self, "step_" + step.who)(step.number, step.action)
            except (Timeout, socket.timeout, TimeoutError) as timeout:
                self.trace.put("scenario", "error", f"line {step.line}: waited in vain for {timeout}")
                break
        self.on_loop(self.trace.stop)

    def step_transport(self, number, action):
        if action.call == "connect":
            self.on_loop(self.connect_out, number)
        else:
            self.on_loop(self.perform, self.connection(number), action)

    def step_server(self, number, action):
        if action.call == "server wait_closed":
            self.wait_closed()
        else:
            self.on_loop(self.perform_on_server, action.call[7:])
            self.on_loop(asyncio.sleep, 0)

    def step_wait(self, number, action):
        if action.call == "connection_failed":
            self.wait_until(lambda: number in self.failed, "connection_failed")
            return
        self.wait_until(lambda: len(self.connections) >= number, f"connection {number}")
        connection = self.connections[number - 1]
        if action.call == "received":
            self.wait_until(lambda: connection.received >= action.arguments[0], f"{action.arguments[0]} bytes")
        elif action.call == "sent":
            for _ in range(PATIENCE_S * 1000):
                if connection.lost or self.on_loop(connection.transport.get_write_buffer_size) == 0:
                    return
                with self.changed:
                    self.changed.wait(0.001)
            raise Timeout("the output to be sent")
        else:
            self.wait_until(lambda: connection.counts.get(action.call, 0) > 0, action.call)

    # ---- the peer: a plain blocking socket --------------------------------------------------------------------

    def step_peer(self, number, action):
        peer = self.peers.get(number)
        if peer is None and action.call not in ("listen", "connect", "accept"):
            self.trace.put(f"peer {number}", "call", action.call, gone=True)
            return
        getattr(self, "peer_" + action.call)(number, peer, *action.arguments)

    def new_socket(self):
        sock = socket.socket(socket.AF_INET if self.scenario.socket == "tcp" else socket.AF_UNIX)
        if self.scenario.buffers:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.scenario.buffers)
        return sock

    def own(self, number, sock):
        sock.settimeout(PATIENCE_S)
        if self.scenario.socket == "tcp":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peers[number] = sock

    def peer_listen(self, number, peer):
        if self.listener is None:
            self.listener = self.new_socket()
            self.listener.settimeout(PATIENCE_S)
            self.listener.bind(self.address)
            self.listener.listen()

    def peer_accept(self, number, peer):
        self.own(number, self.listener.accept()[0])

    def peer_connect(self, number, peer):
        sock, before = self.new_socket(), len(self.connections)
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect(self.address)
        except (ConnectionRefusedError, FileNotFoundError):
            self.trace.put(f"peer {number}", "event", "refused")
            sock.close()
            return
        self.own(number, sock)
        if self.scenario.transport == "accepted":
            accepted = self.listener.accept()[0]
            self.on_loop(self.loop.connect_accepted_socket, self.accept, accepted)
        if not self.server_closed:
            self.wait_until(lambda: len(self.connections) > before and
                            self.connections[before].counts.get("connection_made"), "connection_made")

    def peer_send(self, number, peer, data):
        try:
            peer.sendall(data)
        except (ConnectionResetError, BrokenPipeError):
            self.trace.put(f"peer {number}", "event", "broken")

    def peer_half_close(self, number, peer):
        try:
            peer.shutdown(socket.SHUT_WR)
        except OSError:
            self.trace.put(f"peer {number}", "event", "broken")

    def receive(self, number, peer, size):
        """At most so many bytes; None at the end, which is put down."""
        try:
            data = peer.recv(size)
        except ConnectionResetError:
            self.trace.put(f"peer {number}", "event", "reset")
            return None
        if not data:
            self.trace.put(f"peer {number}", "event", "eof")
            return None
        self.trace.put(f"peer {number}", "event", "data", data=data)
        return data

    def peer_read(self, number, peer, size):
        while size > 0:
            data = self.receive(number, peer, min(size, 65536))
            if data is None:
                return
            size -= len(data)

    def peer_read_to_end(self, number, peer):
        while self.receive(number, peer, 65536) is not None:
            pass

    def peer_reset(self, number, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer_close(number, peer)

    def peer_close(self, number, peer):
        peer.close()
        del self.peers[number]

    # ---- a scenario's beginning and end -----------------------------------------------------------------------

    async def connect_out(self, number):
        connection = Connection(number)
        while len(self.connections) < number:
            self.connections.append(connection)
        protocol = self.protocol_for(connection, self.scenario.protocols[0])
        try:
            if self.scenario.socket == "tcp":
                await self.loop.create_connection(lambda: protocol, *self.address)
            else:
                await self.loop.create_unix_connection(lambda: protocol, self.address)
        except OSError as error:
            self.trace.put(connection.name, "event", "connection_failed", error=error_name(error))
            with self.changed:
                self.failed.add(number)
                self.changed.notify_all()

    async def start(self, folder):
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda loop, context: None)
        self.failed = set()
        names = {"unix": os.path.join(folder, "socket"), "abstract": "\0" + os.path.basename(folder)}
        self.address = names.get(self.scenario.socket)
        if self.scenario.transport == "client":
            if self.address is None:
                with socket.socket() as probe:  # a port where nobody listens, until the peer does
                    probe.bind(("127.0.0.1", 0))
                    self.address = probe.getsockname()
        elif self.scenario.transport == "accepted":
            self.address = self.address or ("127.0.0.1", 0)
            self.peer_listen(0, None)
            self.address = self.listener.getsockname()
        else:
            start = not self.scenario.start_later
            if self.scenario.socket == "tcp":
                self.server = await self.loop.create_server(self.accept, "127.0.0.1", 0, start_serving=start)
                self.address = self.server.sockets[0].getsockname()
            else:
                self.server = await self.loop.create_unix_server(self.accept, self.address, start_serving=start)

    async def run(self):
        with tempfile.TemporaryDirectory() as folder:
            await self.start(folder)
            await self.loop.run_in_executor(None, self.conduct)
            if self.server is not None:
                self.server.close()
            for connection in self.connections:
                if connection.transport is not None and not connection.lost:
                    connection.transport.abort()
            for sock in [*self.peers.values(), *([self.listener] if self.listener else [])]:
                sock.close()
            for _ in range(3):
                await asyncio.sleep(0)
            for file in self.files:
                file.cancel() if isinstance(file, asyncio.Task) else file.close()


def run(scenario):
    driver = Driver(scenario)
    asyncio.run(driver.run())
    return driver.trace


if __name__ == "__main__":
    sys.exit(main(run, Scenario))
