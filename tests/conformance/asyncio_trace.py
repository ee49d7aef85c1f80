#!/usr/bin/env python3
"""Runs scenarios (README.md) on CPython's asyncio and prints what protocols and peers saw: the oracle.

Two threads for each scenario: the loop, where the protocols live, and this one, the conductor, which plays the peers
with plain sockets and takes one step after another. Whatever waits has a bound, PATIENCE.

With --notes it also tells what the runner must know to judge decided deviations, for instance that bytes were accepted
after close(); with --whole, all data in full.
"""
import argparse
import asyncio
import collections
import contextlib
import errno
import json
import os
import select
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time

import scenario as language
from records import Trace

PATIENCE = 10.0         # seconds
SOON = 1.0
QUIET_TURNS = 5
FILE_TURNS = 40         # while a file is being sent
TURN = 0.0003
ACTIONS_MAX = 100000


class Failed(Exception):
    """A step could not be done; the message becomes the trace's error line."""


def name_of(error):
    if error is None:
        return None
    if isinstance(error, BrokenPipeError):  # asyncio makes some without an errno
        return "EPIPE"
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    return type(error).__name__


def set_buffers(sock, numbers):
    for name, option in (("send", socket.SO_SNDBUF), ("receive", socket.SO_RCVBUF)):
        if name in numbers:
            sock.setsockopt(socket.SOL_SOCKET, option, numbers[name])


class Connection:
    """What is known of connection K: its transport, once it is made, and its peer."""

    def __init__(self, number):
        self.number = number
        self.transport = None
        self.made = self.lost = self.in_lost = False
        self.asked = False              # transport connect
        self.counts = collections.Counter()
        self.received = 0
        self.tail = bytearray()
        self.fired = set()
        self.sendfiles = 0              # under way
        self.wrote_in = 0               # the turn of the last write
        self.sockname = None            # this end's address, by the kernel
        self.expected_peername = None
        self.peer = None
        self.served = False
        self.eof_written = False
        self.was_reset = False
        self.sender = None
        self.said = collections.defaultdict(bytes)      # a child, by descriptor, until it is told
        self.pipe_errors = {}
        self.has_exited = False


class PipePeer:
    """One end of a pipe, with a socket's methods."""

    def __init__(self, fd):
        self.fd = fd

    def fileno(self):
        return self.fd

    def setblocking(self, blocking):
        os.set_blocking(self.fd, blocking)

    def send(self, data):
        return os.write(self.fd, data)

    def recv(self, size):
        return os.read(self.fd, size)

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class Eager:
    """Steps a coroutine now, as a call would, and from then on by its futures; a Task would begin a turn later."""

    def __init__(self, coroutine, done):
        self.coroutine = coroutine
        self.done = done
        self.step()

    def step(self, _=None):
        try:
            future = self.coroutine.send(None)
        except StopIteration as stop:
            self.done(stop.value, None)
        except BaseException as error:
            self.done(None, error)
        else:
            if future is None:
                asyncio.get_running_loop().call_soon(self.step)
            else:
                future._asyncio_future_blocking = False
                future.add_done_callback(self.step)


def is_paused(transport):
    return not transport.is_closing() and not transport.is_reading()


def pause_again(transport):
    """Python 3.11.2, Debian's, begins to read behind connection_made whatever has been said there; later ones don't."""
    if is_paused(transport):
        transport.resume_reading()
        transport.pause_reading()


def base_of(definition, kind):
    if kind in language.DATAGRAMS:
        return asyncio.DatagramProtocol
    if kind == "subprocess":
        return asyncio.SubprocessProtocol
    return asyncio.Protocol if definition.receive == "data" else asyncio.BufferedProtocol


def make_protocol_class(definition, kind):
    """asyncio's protocol for one of the scenario: what it is `without` stays asyncio's default."""
    base = base_of(definition, kind)

    def init(self, driver, connection):
        self.driver, self.connection, self.definition = driver, connection, definition
        self.memory = bytearray(definition.size)

    def connection_made(self, transport):
        if self.connection is None:
            self.connection = self.driver.arrived()
        self.driver.connection_made(self.connection, self, transport)
        if hasattr(transport, "is_reading") and is_paused(transport):
            asyncio.get_running_loop().call_soon(pause_again, transport)

    def connection_lost(self, error):
        self.driver.connection_lost(self.connection, self, error)

    def data_received(self, data):
        self.driver.received(self.connection, self, data)

    def get_buffer(self, size_hint):
        if not self.memory:
            self.driver.note(self.connection, "get_buffer gives nothing")
        return self.memory

    def buffer_updated(self, size):
        self.driver.received(self.connection, self, bytes(self.memory[:size]))

    def eof_received(self):
        return self.driver.event(self.connection, self, "eof_received")

    def pause_writing(self):
        self.driver.event(self.connection, self, "pause_writing")

    def resume_writing(self):
        self.driver.event(self.connection, self, "resume_writing")

    def datagram_received(self, data, address):
        self.driver.datagram_received(self.connection, self, data, address)

    def error_received(self, error):
        self.driver.event(self.connection, self, "error_received", error=name_of(error))

    def pipe_data_received(self, fd, data):
        self.driver.pipe_data_received(self.connection, self, fd, data)

    def pipe_connection_lost(self, fd, error):
        self.connection.pipe_errors[fd] = name_of(error)
        self.driver.run(self.connection, self, "pipe_connection_lost")

    def process_exited(self):
        self.connection.has_exited = True
        self.driver.run(self.connection, self, "process_exited")

    members = {"__init__": init, "connection_made": connection_made, "connection_lost": connection_lost}
    if kind in language.DATAGRAMS:
        members.update(datagram_received=datagram_received, error_received=error_received)
    if kind == "subprocess":
        members.update(pipe_data_received=pipe_data_received, pipe_connection_lost=pipe_connection_lost,
                       process_exited=process_exited)
    optional = [eof_received, pause_writing, resume_writing]
    optional += [data_received] if definition.receive == "data" else [get_buffer, buffer_updated]
    members.update({method.__name__: method for method in optional if method.__name__ not in definition.without})
    return type(definition.name, (base,), members)


class Driver:
    """One scenario on one loop."""

    def __init__(self, scenario):
        self.scenario = scenario
        self.trace = Trace()
        self.connections = {}
        self.arriving = collections.deque()
        self.classes = {name: make_protocol_class(it, scenario.transport) for name, it in scenario.protocols.items()}
        self.server = None
        self.server_closed = self.server_gone = False
        self.server_waiters = 0
        self.listener = None
        self.folder = None
        self.turn = 0
        self.actions = 0
        self.tasks = set()
        self.in_call = False            # inside a call of the transport's, from which pause_writing may come
        self.ending = False
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self.exception)
        self.thread = threading.Thread(target=self.run_loop, daemon=True)

    def run_loop(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def connection(self, number):
        if number not in self.connections:
            self.connections[number] = Connection(number)
        return self.connections[number]

    def exception(self, loop, context):
        """What asyncio has to complain of reaches the protocols; but an exception of this file's is a fault."""
        frame = getattr(context.get("exception"), "__traceback__", None)
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        if frame is not None and os.path.dirname(frame.tb_frame.f_code.co_filename) == os.path.dirname(__file__):
            self.trace.error(f"the driver failed: {context['exception']!r}, line {frame.tb_lineno}")

    # ---- the protocols' side: the loop's thread

    def note(self, connection, note, **more):
        self.trace.add("transport", connection.number, note=note, **more)

    def arrived(self):
        if self.arriving:
            return self.connection(self.arriving.popleft())
        self.trace.error("a connection came that no peer has made")
        return Connection(language.CONNECTIONS_MAX + 1)

    def connection_made(self, connection, protocol, transport):
        connection.transport = transport
        connection.made = True
        connection.served = self.server is not None
        if self.scenario.buffers:
            set_buffers(transport.get_extra_info("socket"), {"send": self.scenario.buffers})
        with contextlib.suppress(OSError, AttributeError):
            connection.sockname = transport.get_extra_info("socket").getsockname()
        self.event(connection, protocol, "connection_made")

    def connection_lost(self, connection, protocol, error):
        connection.in_lost = True
        self.tell_of_child(connection)
        if connection.sendfiles and error is None:
            self.note(connection, "closed during sendfile")
        self.event(connection, protocol, "connection_lost", error=name_of(error))
        connection.lost = True
        self.loop.call_soon(self.check_server)

    def datagram_received(self, connection, protocol, data, address):
        if self.ending:
            return
        connection.sender = address
        self.trace.add("transport", connection.number, event="datagram_received", size=len(data),
                       begins=data[:80].decode("latin-1"),
                       **({"protocol": protocol.definition.name} if protocol.definition.name != "main" else {}))
        self.run(connection, protocol, "datagram_received", data)

    def pipe_data_received(self, connection, protocol, fd, data):
        if self.ending:
            return
        connection.said[fd] += data
        with self.trace.changed:
            connection.received += len(data)
            self.trace.changed.notify_all()
        self.run_received(connection, protocol, data)

    def tell_of_child(self, connection):
        """In which order the pipes and the child end is chance: it's told when all have."""
        for fd in range(3):
            if connection.said[fd]:
                self.trace.add("transport", connection.number, event="pipe_data_received", fd=fd,
                               size=len(connection.said[fd]), begins=connection.said[fd][:80].decode("latin-1"))
            if fd in connection.pipe_errors:
                self.trace.add("transport", connection.number, event="pipe_connection_lost", fd=fd,
                               error=connection.pipe_errors[fd])
        if connection.has_exited:
            self.trace.add("transport", connection.number, event="process_exited",
                           returncode=connection.transport.get_returncode())

    def event(self, connection, protocol, event, **more):
        self.trace.add("transport", connection.number, event=event, **more,
                       **({"protocol": protocol.definition.name} if protocol.definition.name != "main" else {}))
        return self.run(connection, protocol, event)

    def received(self, connection, protocol, data):
        connection.received += len(data)
        name = protocol.definition.name
        self.trace.data("transport", connection.number, "data_received", None if name == "main" else name, data)
        self.run(connection, protocol, "data_received", data)
        self.run_received(connection, protocol, data)

    def run_received(self, connection, protocol, data):
        for handler in protocol.definition.handlers:
            if handler.event == "received" and id(handler) not in connection.fired and \
                    self.is_for(handler, connection) and self.has_come(handler, connection, data):
                connection.fired.add(id(handler))
                self.perform_all(connection, handler.actions)
        connection.tail = (connection.tail + data)[-4096:]

    @staticmethod
    def has_come(handler, connection, data):
        if handler.text:
            return handler.text in connection.tail[-len(handler.text) + 1 or len(connection.tail):] + data
        return connection.received >= handler.number

    @staticmethod
    def is_for(handler, connection):
        return handler.connection in (0, connection.number)

    def run(self, connection, protocol, event, data=None):
        """The handlers of this callback; for eof_received its answer."""
        if self.ending:
            return False
        if not self.in_call:
            self.turn += 1
        with self.trace.changed:
            connection.counts[event] += 1
        answer = False
        for handler in protocol.definition.handlers:
            if handler.event == event and self.is_for(handler, connection) and \
                    handler.number in (0, connection.counts[event]):
                answer = self.perform_all(connection, handler.actions, data)
        self.trace.touch()
        return answer

    def perform_all(self, connection, actions, data=None):
        for action in actions:
            self.actions += 1
            if self.actions > ACTIONS_MAX:
                if not self.trace.failed:
                    self.trace.error(f"more than {ACTIONS_MAX} actions: the scenario runs in circles")
                return False
            if action.subject == "return":
                return action.name == "true"
            if action.subject == "server":
                self.server_call(action.name)
            else:
                self.perform(self.connection(action.connection) if action.connection else connection, action, data)
        return False

    def perform(self, connection, action, data=None):
        number, name = connection.number, action.name
        if name == "connect":
            self.connect(connection)
            return
        if not connection.made or connection.lost:
            self.trace.add("transport", number, call=name, gone=True)
            return
        if name == "mark":
            self.trace.add("transport", number, call="mark", text=action.text)
            return
        outer, self.in_call = self.in_call, True
        try:
            result = getattr(self, "call_" + name)(connection, connection.transport, action, data)
        except Exception as error:
            if "sendfile is in progress" in str(error):
                written = [data] if name == "echo" else action.data
                self.note(connection, "refused by a sendfile", bytes=b"".join(written).decode("latin-1"))
            elif name != "sendfile":
                self.note(connection, f"{type(error).__name__}: {error}")
            self.trace.add("transport", number, call=name, raised=True)
        else:
            if result is not self.VOID:
                self.trace.add("transport", number, call=name, result=result)
        finally:
            self.in_call = outer

    # ---- the calls, one by one

    VOID = object()

    def writing(self, connection, transport, data, write):
        """Tell of bytes that asyncio accepts after close(), and when it was that something was written."""
        connection.wrote_in = self.turn
        accepted = transport.is_closing() and not transport._conn_lost
        write(data)
        if accepted:
            self.note(connection, "written after close", bytes=b"".join(data).decode("latin-1"))
        return self.VOID

    def output_of(self, connection):
        """What is written to a child is written to its stdin; None: that has ended."""
        if self.scenario.transport != "subprocess":
            return connection.transport
        pipe = connection.transport.get_pipe_transport(0)
        return None if pipe is None or 0 in connection.pipe_errors else pipe

    def call_sendto(self, connection, transport, action, data):
        address = None if self.scenario.transport == "connected_datagram" else connection.expected_peername
        self.send_datagram(transport, action.data[0], address)
        return self.VOID

    def call_reply(self, connection, transport, action, data):
        self.send_datagram(transport, data, connection.sender)
        return self.VOID

    @staticmethod
    def send_datagram(transport, data, address):
        """3.13 sends those without bytes; 3.11 forgets them."""
        if data or transport.is_closing():
            transport.sendto(data, address)
        elif transport.get_extra_info("peername"):
            transport._sock.send(data)
        else:
            transport._sock.sendto(data, address)

    def call_get_returncode(self, connection, transport, action, data):
        return transport.get_returncode()

    def call_get_pipe_transport(self, connection, transport, action, data):
        fd = action.numbers["number"]
        return transport.get_pipe_transport(fd) is not None and fd not in connection.pipe_errors

    def call_send_signal(self, connection, transport, action, data):
        transport.send_signal(action.numbers["number"])
        return self.VOID

    def call_terminate(self, connection, transport, action, data):
        transport.terminate()
        return self.VOID

    def call_kill(self, connection, transport, action, data):
        transport.kill()
        return self.VOID

    def call_write(self, connection, transport, action, data):
        transport = self.output_of(connection)
        if transport is None:
            return self.VOID
        return self.writing(connection, transport, action.data, lambda data: transport.write(data[0]))

    def call_writelines(self, connection, transport, action, data):
        transport = self.output_of(connection)
        if transport is None:
            return self.VOID
        return self.writing(connection, transport, action.data, transport.writelines)

    def call_echo(self, connection, transport, action, data):
        return self.writing(connection, transport, [data], lambda data: transport.write(data[0]))

    def call_write_eof(self, connection, transport, action, data):
        transport = self.output_of(connection)
        if transport is None:
            return self.VOID
        transport.write_eof()
        connection.eof_written = connection.eof_written or not transport.is_closing()
        return self.VOID

    def call_can_write_eof(self, connection, transport, action, data):
        return transport.can_write_eof()

    def call_close(self, connection, transport, action, data):
        transport.close()
        return self.VOID

    def call_abort(self, connection, transport, action, data):
        if not connection.in_lost:
            self.note(connection, "abort")
        self.abort(transport)
        return self.VOID

    @staticmethod
    def abort(transport):
        if hasattr(transport, "get_pid"):   # asyncio's children have no abort
            transport.close()
        else:
            transport.abort()

    def call_is_closing(self, connection, transport, action, data):
        return transport.is_closing()

    def call_pause_reading(self, connection, transport, action, data):
        transport.pause_reading()
        return self.VOID

    def call_resume_reading(self, connection, transport, action, data):
        if connection.counts["eof_received"] and not transport.is_closing() and not transport.is_reading():
            self.note(connection, "resumed after eof")
        transport.resume_reading()
        return self.VOID

    def call_is_reading(self, connection, transport, action, data):
        if connection.sendfiles:
            self.note(connection, "sendfile under way")
        return transport.is_reading()

    def call_set_write_buffer_limits(self, connection, transport, action, data):
        paused = transport._protocol_paused
        transport.set_write_buffer_limits(**action.numbers)
        low, _ = transport.get_write_buffer_limits()
        if paused and transport.get_write_buffer_size() <= low and not connection.in_lost:
            self.note(connection, "limits raised while paused")
        return self.VOID

    def call_get_write_buffer_limits(self, connection, transport, action, data):
        low, high = transport.get_write_buffer_limits()
        return {"low": low, "high": high}

    def call_get_write_buffer_size(self, connection, transport, action, data):
        if connection.wrote_in == self.turn:
            self.note(connection, "written in this turn")
        return self.size_class(transport)

    @staticmethod
    def size_class(transport):
        """How many bytes the kernel has taken by now is chance; which of these it is, is not."""
        size = transport.get_write_buffer_size()
        low, high = transport.get_write_buffer_limits()
        if size == 0:
            return "0"
        return "up to low" if size <= low else "up to high" if size <= high else "above high"

    def call_get_extra_info(self, connection, transport, action, data):
        value = transport.get_extra_info(action.text)
        if value is None:
            return "none"
        if action.text == "socket":
            return "socket"
        if action.text not in ("peername", "sockname"):
            return "something"
        expected = connection.sockname if action.text == "sockname" else connection.expected_peername
        family = f"inet {value[0]}" if isinstance(value, tuple) else "unix"
        return family + (" matches" if (value or None) == (expected or None) else " differs")

    def call_set_protocol(self, connection, transport, action, data):
        transport.set_protocol(self.classes[action.text](self, connection))
        return self.VOID

    def call_get_protocol(self, connection, transport, action, data):
        protocol = transport.get_protocol()
        return None if protocol is None else protocol.definition.name

    def call_sendfile(self, connection, transport, action, data):
        """A failure that comes later is no line: connection_lost tells it."""
        file = os.fdopen(os.memfd_create("sendfile"), "w+b", buffering=0)
        file.write(action.data[0])
        file.seek(0)
        offset, count = action.numbers.get("offset", 0), action.numbers.get("count")
        if connection.sendfiles:
            part = action.data[0][offset:offset + count if count else None]
            self.note(connection, "refused by a sendfile", bytes=part.decode("latin-1"))
        elif connection.eof_written:
            self.note(connection, "sendfile after write_eof")
        else:
            self.note(connection, "sendfile begins")
        connection.sendfiles += 1
        connection.wrote_in = self.turn
        failure = None

        def done(result, error):
            nonlocal failure
            failure = error
            file.close()
            connection.sendfiles -= 1
            if isinstance(error, OSError) and not connection.lost:
                self.note(connection, "broken during sendfile")
            if error is None and not connection.lost and transport.get_protocol() is not None:
                self.event(connection, transport.get_protocol(), "sendfile_done", result=result)

        Eager(self.loop.sendfile(transport, file, offset, count), done)
        if failure is not None:
            raise failure
        return self.VOID

    # ---- servers

    def server_call(self, name):
        try:
            result = getattr(self, "server_" + name)()
        except Exception:
            self.trace.add("server", 0, call=name, raised=True)
            return
        if result is not None:
            self.trace.add("server", 0, call=name, result=result)

    def server_start_serving(self):
        if self.server_closed:
            raise RuntimeError
        Eager(self.server.start_serving(), lambda result, error: None)

    def server_is_serving(self):
        return self.server.is_serving()

    def server_sockets(self):
        return len(self.server.sockets)

    def server_path_exists(self):
        return os.path.exists(self.path)

    def server_close(self):
        """Like 3.13, which removes its socket file; 3.11 leaves it."""
        if self.server_closed:
            return
        self.server_closed = True
        self.server.close()
        if self.scenario.socket == "unix":
            with contextlib.suppress(OSError):
                if os.stat(self.path).st_ino == self.inode:
                    os.unlink(self.path)
        self.loop.call_soon(self.check_server)

    def server_wait_closed(self):
        """3.12.1's rule, closed and without clients; 3.11's own returns at once."""
        if self.server_gone:
            self.closed_event()
        else:
            self.server_waiters += 1

    def check_server(self):
        if self.server_gone or not self.server_closed or \
                any(it.served and not it.lost for it in self.connections.values()):
            return
        self.server_gone = True
        for _ in range(self.server_waiters):
            self.closed_event()
        self.trace.touch()

    def closed_event(self):
        self.connection(0).counts["closed"] += 1
        self.trace.add("server", 0, event="closed")

    def clients(self):
        return [it for _, it in sorted(self.connections.items()) if it.served and it.made and not it.lost]

    def server_close_clients(self):
        """3.13's."""
        for connection in self.clients():
            connection.transport.close()

    def server_abort_clients(self):
        """3.13's."""
        for connection in self.clients():
            self.note(connection, "abort")
            connection.transport.abort()

    # ---- clients

    def connect(self, connection):
        if connection.asked and not connection.counts["connection_failed"]:
            self.trace.error(f"transport {connection.number} connect: it was connected already")
            return
        connection.asked = True
        connection.counts["connection_failed"] = 0
        connection.expected_peername = self.address[1]

        def factory():
            return self.classes["main"](self, connection)

        async def connecting():
            try:
                if self.scenario.socket == "tcp":
                    await self.loop.create_connection(factory, *self.address[1])
                else:
                    await self.loop.create_unix_connection(factory, self.address[1])
            except OSError as error:
                with self.trace.changed:
                    connection.counts["connection_failed"] += 1
                self.trace.add("transport", connection.number, event="connection_failed", error=name_of(error))

        task = self.loop.create_task(connecting())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # ---- the conductor's side

    def on_loop(self, call, *args):
        """Run it on the loop, outside of any callback, and wait until it has run."""
        done = threading.Event()

        def run():
            self.turn += 1
            try:
                call(*args)
            finally:
                done.set()

        self.loop.call_soon_threadsafe(run)
        if not done.wait(PATIENCE):
            raise Failed("the loop does not answer")

    def rest(self):
        """Until nothing moves any more: some turns of the loop without a line."""
        deadline = time.monotonic() + PATIENCE
        quiet = 0
        while quiet < (FILE_TURNS if any(it.sendfiles for it in list(self.connections.values())) else QUIET_TURNS):
            before = self.trace.count
            time.sleep(TURN)
            self.on_loop(lambda: None)
            quiet = quiet + 1 if self.trace.count == before else 0
            if self.trace.failed:
                raise Failed(None)
            if time.monotonic() > deadline:
                raise Failed("no rest: it goes on and on")

    def wait_until(self, is_so, what):
        if not self.trace.wait(is_so, PATIENCE):
            raise Failed(None if self.trace.failed else f"{what}: not within {PATIENCE:.0f} s")

    def start(self):
        scenario = self.scenario
        self.folder = tempfile.mkdtemp(prefix="conformance-")
        self.path = os.path.join(self.folder, "socket")
        name = self.path if scenario.socket == "unix" else b"\0" + os.path.basename(self.folder).encode()
        self.family = socket.AF_INET if scenario.socket == "tcp" else socket.AF_UNIX
        self.thread.start()
        if scenario.transport not in language.TRANSPORTS[:3]:
            return
        if scenario.transport == "server":
            self.serve(name)
            return
        self.listener = self.new_socket()
        self.address = {1: name}
        if scenario.socket == "tcp":    # a port of its own, where nobody listens until the peer does
            self.listener.bind(("127.0.0.1", 0))
            self.address = {1: self.listener.getsockname()}
        if scenario.transport == "accepted":
            self.peer_listen()

    def serve(self, name):
        scenario = self.scenario

        def factory():
            return self.classes["main"](self, None)

        async def serving():
            now = scenario.start == "now"
            if scenario.socket != "tcp":
                return await self.loop.create_unix_server(factory, name, start_serving=now)
            hosts = [f"127.0.0.{i}" for i in range(1, scenario.addresses + 1)]
            return await self.loop.create_server(factory, hosts, 0, start_serving=now)

        self.server = asyncio.run_coroutine_threadsafe(serving(), self.loop).result(PATIENCE)
        self.address = {1: name}
        if scenario.socket == "tcp":
            names = [it.getsockname() for it in self.server.sockets]
            self.address = {int(it[0].rpartition(".")[2]): it for it in names}
        elif scenario.socket == "unix":
            self.inode = os.stat(self.path).st_ino

    def run_steps(self):
        for steps in self.scenario.lines:
            self.trace.line = steps[0].line
            try:
                for step in steps:
                    self.step(step)
                self.rest()
            except Failed as failed:
                if failed.args[0] is not None:
                    self.trace.error(str(failed))
            except OSError as error:
                self.trace.error(name_of(error) or "TimeoutError")
            if self.trace.failed:
                return

    def step(self, step):
        for number in range(step.first, step.last + 1):
            connection = self.connection(number)
            if step.subject == "transport":
                for action in step.actions:
                    if action.name == "connect":
                        connection.counts["connection_failed"] += 0
                self.on_loop(self.perform_all, connection, [self.of(action, number) for action in step.actions])
                if step.actions[-1].name == "connect":
                    self.trace.wait(lambda: connection.made or connection.counts["connection_failed"], SOON)
                continue
            for action in step.actions:
                if step.subject == "peer":
                    self.peer_call(connection, action)
                elif step.subject == "server":
                    self.server_step(action)
                elif step.subject == "wait":
                    self.wait(connection, action)
                else:
                    time.sleep(action.numbers["ms"] / 1000)

    @staticmethod
    def of(action, number):
        return language.Action("transport", number, action.name, action.data, action.numbers, action.text)

    def server_step(self, action):
        before = self.connection(0).counts["closed"]
        self.on_loop(self.server_call, action.name)
        if action.name == "wait_closed":
            self.wait_until(lambda: self.connection(0).counts["closed"] > before, "server wait_closed")

    def wait(self, connection, action):
        name, number = action.name, action.numbers.get("number", 0)
        what = f"wait {connection.number} {name} {number}" if number else f"wait {connection.number} {name}"
        if name == "received":
            self.wait_until(lambda: connection.received >= number, what)
        elif name == "sent":
            self.wait_sent(connection, what)
        else:
            self.wait_until(lambda: connection.counts[name] >= number, what)

    def wait_sent(self, connection, what):
        deadline = time.monotonic() + PATIENCE
        sizes = [1]

        def ask():
            output = None if connection.lost or not connection.made else self.output_of(connection)
            sizes[0] = 0 if output is None else output.get_write_buffer_size()

        while sizes[0] > 0:
            self.on_loop(ask)
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within {PATIENCE:.0f} s")
            time.sleep(TURN)

    # ---- peers

    def peer_listen(self, connection=None, action=None):
        if self.scenario.socket != "tcp":
            self.listener.bind(self.address[1])
        self.listener.listen()

    def peer_stop_listening(self, connection, action):
        self.listener.close()

    def peer_buffers(self, connection, action):
        if self.scenario.transport == "client" and connection.peer is None:
            set_buffers(self.listener, action.numbers)
            return
        set_buffers(self.peer_socket(connection), action.numbers)

    def peer_socket(self, connection):
        if connection.peer is None:
            connection.peer = self.new_socket()
            self.without_delay(connection.peer)
        return connection.peer

    def new_socket(self):
        sock = socket.socket(self.family)
        if self.scenario.buffers:
            set_buffers(sock, {"receive": self.scenario.buffers})
        return sock

    @staticmethod
    def without_delay(sock):
        """Or a small piece behind another would wait for its acknowledgement, behind the conductor's rest."""
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def peer_call(self, connection, action):
        is_open = connection.peer is not None and connection.peer.fileno() >= 0
        if not is_open and action.name in ("send", "exchange", "read", "read_to_end", "read_nothing", "half_close", "close",
                                           "reset", "receive"):
            self.trace.add("peer", connection.number, call=action.name, gone=True)
        else:
            getattr(self, "peer_" + action.name)(connection, action)

    def peer_connect(self, connection, action):
        if connection.asked:
            raise Failed(f"peer {connection.number} connect: it was connected already")
        connection.asked = True
        if self.scenario.transport not in language.TRANSPORTS[:3]:
            self.open_other(connection)
            return
        peer = self.peer_socket(connection)
        if self.family == socket.AF_INET:
            peer.bind(("127.0.0.1", 0))
            connection.expected_peername = peer.getsockname()
        peer.settimeout(PATIENCE)
        self.arriving.append(connection.number)
        try:
            peer.connect(self.address[action.numbers.get("number", 1)])
        except ConnectionResetError:    # it was connected, and reset before we could look; told when it is read from
            connection.was_reset = True
        except OSError as error:
            self.arriving.remove(connection.number)
            if not isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
                raise
            self.trace.add("peer", connection.number, event="refused")
            peer.close()
            return
        if self.scenario.transport == "accepted":
            self.listener.settimeout(PATIENCE)
            accepted, _ = self.listener.accept()
            self.on_loop(self.accepted, connection, accepted)
        self.trace.wait(lambda: connection.made, SOON)

    def open_other(self, connection):
        """A pipe, a socket for datagrams; or what the transport starts itself."""
        kind = self.scenario.transport
        fds = os.pipe() if kind in language.PIPES else None
        if fds:
            connection.peer = PipePeer(fds[kind == "read_pipe"])
        elif kind in language.DATAGRAMS:
            connection.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            connection.peer.bind(("127.0.0.1", 0))
            connection.expected_peername = connection.peer.getsockname()

        def factory():
            return self.classes["main"](self, connection)

        async def opening():
            if kind in language.DATAGRAMS:
                remote = connection.expected_peername if kind == "connected_datagram" else None
                await self.loop.create_datagram_endpoint(factory, ("127.0.0.1", 0), remote)
            elif kind == "read_pipe":
                await self.loop.connect_read_pipe(factory, os.fdopen(fds[0], "rb", buffering=0))
            elif kind == "write_pipe":
                await self.loop.connect_write_pipe(factory, os.fdopen(fds[1], "wb", buffering=0))
            else:
                await self.loop.subprocess_shell(factory, self.scenario.command)

        asyncio.run_coroutine_threadsafe(opening(), self.loop).result(PATIENCE)
        self.wait_until(lambda: connection.made, f"peer {connection.number} connect")
        if kind in language.DATAGRAMS:
            connection.peer.connect(connection.sockname)

    def accepted(self, connection, accepted):
        accepted.setblocking(False)
        self.arriving.remove(connection.number)
        task = self.loop.create_task(self.loop.connect_accepted_socket(
            lambda: self.classes["main"](self, connection), accepted))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def peer_accept(self, connection, action):
        self.listener.settimeout(PATIENCE)
        try:
            connection.peer, _ = self.listener.accept()
            self.without_delay(connection.peer)
        except TimeoutError:
            raise Failed(f"peer {connection.number} accept: not within {PATIENCE:.0f} s") from None

    def peer_half_close(self, connection, action):
        try:
            connection.peer.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.trace.add("peer", connection.number, event="broken")

    def peer_close(self, connection, action):
        connection.peer.close()

    def peer_reset(self, connection, action):
        peer = connection.peer
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()

    def peer_receive(self, connection, action):
        connection.peer.settimeout(PATIENCE)
        try:
            data = connection.peer.recv(65536)
        except TimeoutError:
            raise Failed(f"peer {connection.number} receive: not within {PATIENCE:.0f} s") from None
        except OSError as error:
            self.trace.add("peer", connection.number, event="read_failed", error=name_of(error))
            return
        self.trace.add("peer", connection.number, event="datagram", size=len(data), begins=data[:80].decode("latin-1"))

    def peer_send(self, connection, action):
        if self.scenario.transport in language.DATAGRAMS:
            try:
                connection.peer.send(action.data[0])
            except OSError:
                self.trace.add("peer", connection.number, event="broken")
            return
        self.exchange(connection, action.data[0], 0, f"peer {connection.number} send")

    def peer_exchange(self, connection, action):
        self.exchange(connection, action.data[0], action.numbers["number"], f"peer {connection.number} exchange")

    def exchange(self, connection, data, size, what):
        """Send, and meanwhile read `size` bytes."""
        peer = connection.peer
        peer.setblocking(False)
        deadline = time.monotonic() + PATIENCE
        view, got = memoryview(data), 0
        while view or got < size:
            poll = select.poll()
            poll.register(peer, (select.POLLOUT if view else 0) | (select.POLLIN if got < size else 0))
            if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
                raise Failed(f"{what}: not within {PATIENCE:.0f} s; {len(view)} bytes are unsent, {got} were read")
            if view:
                try:
                    view = view[peer.send(view):]
                except BlockingIOError:
                    pass
                except OSError as error:
                    self.trace.add("peer", connection.number, event="broken")
                    return
            if got < size:
                try:
                    piece = self.receive(connection, peer, size - got)
                except BlockingIOError:
                    continue
                if not piece:
                    return
                got += len(piece)

    def receive(self, connection, peer, size):
        """What is there, told in the trace; b"" for an end."""
        if connection.was_reset:
            connection.was_reset = False
            self.trace.add("peer", connection.number, event="reset")
            return b""
        try:
            piece = peer.recv(min(size, 65536))
        except BlockingIOError:
            raise
        except ConnectionResetError:
            self.trace.add("peer", connection.number, event="reset")
            return b""
        except OSError as error:
            self.trace.add("peer", connection.number, event="read_failed", error=name_of(error))
            return b""
        if not piece:
            self.trace.add("peer", connection.number, event="eof")
        else:
            self.trace.data("peer", connection.number, "data", None, piece)
        return piece

    def peer_read_nothing(self, connection, action):
        readable, _, _ = select.select([connection.peer], [], [], 0.05)
        self.trace.add("peer", connection.number, event="something" if readable else "nothing")

    def peer_read_to_end(self, connection, action):
        self.read(connection, sys.maxsize, "no end")

    def peer_read(self, connection, action):
        self.read(connection, action.numbers["number"], "too few bytes")

    def read(self, connection, left, missing):
        peer = connection.peer
        peer.setblocking(False)
        deadline = time.monotonic() + PATIENCE
        while left > 0 and not self.trace.failed:
            poll = select.poll()
            poll.register(peer, select.POLLIN)
            if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
                raise Failed(f"peer {connection.number} read: {missing} in {PATIENCE:.0f} s")
            with contextlib.suppress(BlockingIOError):
                piece = self.receive(connection, peer, left)
                if not piece:
                    return
                left -= len(piece)

    # ---- the end

    def finish(self):
        """Let nothing of this scenario be left for the next. What it brings is no part of the trace."""
        last, self.trace = self.trace, Trace()
        for connection in self.connections.values():
            if connection.peer is not None:
                connection.peer.close()
        if self.listener is not None:
            self.listener.close()
        if self.thread.is_alive():
            with contextlib.suppress(Failed):
                self.on_loop(self.abort_all)
                open_ones = [it for it in self.connections.values() if it.made]
                if not self.trace.wait(lambda: all(it.lost for it in open_ones), PATIENCE) and not self.trace.failed:
                    last.error("a connection was not lost after abort")
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(PATIENCE)
            self.loop.close()
        if self.folder is not None:
            shutil.rmtree(self.folder)
        self.trace = last

    def abort_all(self):
        self.ending = True
        for task in self.tasks:
            task.cancel()
        if self.server is not None:
            self.server_close()
        for connection in self.connections.values():
            if connection.made and not connection.lost:
                self.abort(connection.transport)


def trace(path, options):
    """Returns an exit status."""
    try:
        scenario = language.read(path)
    except (language.ScenarioError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        return 0
    print(json.dumps({"scenario": scenario.name}), flush=True)
    driver = Driver(scenario)
    try:
        driver.start()
        driver.run_steps()
    except (OSError, TimeoutError) as error:
        driver.trace.error(f"the beginning: {error}")
    finally:
        driver.finish()
    driver.trace.print(options.whole, options.notes)
    return 1 if driver.trace.failed else 0


def main():
    parser = argparse.ArgumentParser(description="Run scenarios on asyncio; print what was seen, as JSON lines.")
    parser.add_argument("--scenarios", metavar="DIR", help="run all DIR/*.scenario")
    parser.add_argument("--check", action="store_true", help="only read the files: are they scenarios?")
    parser.add_argument("--whole", action="store_true", help="print all data in full")
    parser.add_argument("--notes", action="store_true", help="print the notes for decided deviations, too")
    parser.add_argument("files", metavar="FILE", nargs="*")
    options = parser.parse_args()
    files = (language.files_of(options.scenarios) if options.scenarios else []) + options.files
    if not files:
        parser.error("no scenarios: name files, or a folder by --scenarios DIR")
    return max(trace(path, options) for path in files)


if __name__ == "__main__":
    sys.exit(main())
