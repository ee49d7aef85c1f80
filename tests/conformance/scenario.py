"""Reads scenarios, the small language that README.md specifies: the oracle's half of two parsers that must agree (the
other is scenario.c). Strict: whatever is not in the language is an error with file, line, and what is allowed."""
import os
import re
from dataclasses import dataclass, field

CONNECTIONS_MAX = 256
DATA_MAX = 64 * 1024 * 1024
NUMBER_MAX = 1024 * 1024 * 1024
TEXT_MAX = 4096
SLEEP_MAX_MS = 2000

HEADERS = ("title", "transport", "socket", "start", "buffers", "addresses", "command", "protocol", "receive", "without")
TRANSPORTS = ("server", "client", "accepted", "datagram", "connected_datagram", "read_pipe", "write_pipe", "subprocess")
DATAGRAMS = ("datagram", "connected_datagram")
PIPES = ("read_pipe", "write_pipe")
OPTIONAL = ("data_received", "eof_received", "pause_writing", "resume_writing")
NUMBERED = ("data_received", "pause_writing", "resume_writing", "sendfile_done", "datagram_received", "error_received")
EVENTS = ("connection_made", "data_received", "received", "eof_received", "pause_writing", "resume_writing",
          "connection_lost", "sendfile_done", "datagram_received", "error_received", "pipe_connection_lost",
          "process_exited", "buffer_updated")
WAITS = ("connection_made", "data_received", "received", "eof_received", "pause_writing", "resume_writing",
         "connection_lost", "sendfile_done", "datagram_received", "error_received", "pipe_connection_lost",
         "process_exited", "connection_failed", "sent")
CALLS = ("write", "writelines", "echo", "write_eof", "can_write_eof", "close", "abort", "is_closing", "pause_reading",
         "resume_reading", "is_reading", "set_write_buffer_limits", "get_write_buffer_limits", "get_write_buffer_size",
         "get_extra_info", "set_protocol", "get_protocol", "sendfile", "sendto", "reply", "get_returncode",
         "get_pipe_transport", "send_signal", "terminate", "kill", "mark")
OF_DATAGRAMS = ("sendto", "reply")
OF_PROCESSES = ("get_returncode", "get_pipe_transport", "send_signal", "terminate", "kill")
SERVER_CALLS = ("start_serving", "is_serving", "sockets", "close", "wait_closed", "close_clients", "abort_clients",
                "path_exists")
PEER_CALLS = ("listen", "stop_listening", "connect", "accept", "buffers", "send", "exchange", "read", "read_to_end",
              "read_nothing", "half_close", "close", "reset", "receive")
PEER_CALLS_OF_STREAMS = ("exchange", "read", "read_to_end", "half_close", "reset")
SUBJECTS = ("peer", "transport", "server", "wait", "sleep")

TOKEN = re.compile(r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<mark>[;:])|(?P<word>[^\s";:#]+)|(?P<bad>["]))')
ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\", '"': b'"'}


class ScenarioError(Exception):
    """The message names file and line."""


@dataclass
class Action:
    """One call, of a handler or of a step."""
    subject: str        # peer, transport, server, wait, sleep, return
    connection: int     # 0: the handler's own
    name: str
    data: list = field(default_factory=list)    # of bytes
    numbers: dict = field(default_factory=dict)
    text: str = ""


@dataclass
class Handler:
    event: str
    connection: int = 0     # 0: all
    number: int = 0         # 0: every call
    text: bytes = b""
    where: str = ""
    actions: list = field(default_factory=list)


@dataclass
class Protocol:
    name: str
    receive: str = "data"
    size: int = 65536
    without: tuple = ()
    handlers: list = field(default_factory=list)


@dataclass
class Step:
    """Actions of one subject, to be done for each of a range of connections, without a rest in between."""
    line: int
    text: str
    subject: str
    first: int
    last: int
    actions: list


@dataclass
class Scenario:
    name: str
    title: str = ""
    transport: str = "server"
    socket: str = "tcp"
    start: str = "now"
    buffers: int = 0
    addresses: int = 1
    command: bytes = b""
    protocols: dict = field(default_factory=dict)
    lines: list = field(default_factory=list)       # of lists of steps


def pattern(size):
    """What a number stands for, wherever data is wanted: decimal offsets, 8 bytes each; a byte out of place is seen."""
    return b"".join(b"%07d\n" % (at % 10000000) for at in range(0, size, 8))[:size]


class Line:
    """The tokens of a line, taken one after another."""

    def __init__(self, where, text):
        self.where = where
        self.tokens = []
        at = 0
        while True:
            while at < len(text) and text[at] in " \t\r":
                at += 1
            if at == len(text) or text[at] == "#":
                break
            match = TOKEN.match(text, at)
            if match is None or match.group("bad"):
                self.fail('a string without its closing quote')
            kind = match.lastgroup
            self.tokens.append((kind, match.group(kind)))
            at = match.end()
        self.at = 0

    def fail(self, what):
        raise ScenarioError(f"{self.where}: {what}")

    def kind(self):
        return self.tokens[self.at][0] if self.at < len(self.tokens) else None

    def peek(self):
        return self.tokens[self.at][1] if self.at < len(self.tokens) else None

    def shown(self):
        return "the line's end" if self.peek() is None else "'" + self.peek() + "'"

    def take(self, word):
        """True, and one token on, if that is what comes."""
        if self.kind() in ("word", "mark") and self.peek() == word:
            self.at += 1
            return True
        return False

    def word(self, what, allowed=None):
        if self.kind() != "word" or (allowed is not None and self.peek() not in allowed):
            also = "" if allowed is None else "; allowed: " + ", ".join(allowed)
            self.fail(f"{what} expected, not {self.shown()}{also}")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def number(self, what, low=0, high=NUMBER_MAX):
        if self.kind() != "word" or not re.fullmatch(r"[0-9]{1,10}", self.peek()):
            self.fail(f"{what} expected, a number from {low} to {high}, not {self.shown()}")
        value = int(self.peek())
        if not low <= value <= high:
            self.fail(f"{what}: {value} is not from {low} to {high}")
        self.at += 1
        return value

    def is_number(self):
        return self.kind() == "word" and self.peek().isascii() and self.peek().isdigit()

    def string(self):
        if self.kind() != "string":
            self.fail(f'a "string" expected, not {self.shown()}')
        text = self.peek()[1:-1]
        out, at = bytearray(), 0
        while at < len(text):
            if text[at] != "\\":
                out += text[at].encode("utf-8", "surrogateescape")
                at += 1
                continue
            escape = text[at + 1]
            if escape in ESCAPES:
                out += ESCAPES[escape]
                at += 2
            elif escape == "x" and re.fullmatch("[0-9a-fA-F]{2}", text[at + 2:at + 4]):
                out.append(int(text[at + 2:at + 4], 16))
                at += 4
            else:
                self.fail(f'\\{escape} in a string; allowed: \\n \\r \\t \\0 \\\\ \\" \\xHH')
        self.at += 1
        return bytes(out)

    def is_data(self):
        return self.kind() == "string" or self.is_number()

    def data(self):
        if self.kind() == "string":
            return self.string()
        if not self.is_number():
            self.fail(f'data expected, not {self.shown()}; allowed: "text", N, N x "text"')
        size = self.number("a size", 0, DATA_MAX)
        if not self.take("x"):
            return pattern(size)
        text = self.string()
        if not text:
            self.fail("an empty string can't be repeated")
        return (text * (size // len(text) + 1))[:size]

    def named_numbers(self, names, needed):
        """send=N receive=N, in any order, each at most once."""
        found = {}
        while self.kind() == "word" and "=" in self.peek():
            name, _, value = self.peek().partition("=")
            if name not in names or name in found or not re.fullmatch(r"[0-9]{1,10}", value) or \
                    int(value) > NUMBER_MAX:
                self.fail(f"'{self.peek()}': allowed: " + ", ".join(f"{name}=N" for name in names) + ", each once")
            found[name] = int(value)
            self.at += 1
        if needed and not found:
            self.fail(f"expected: {' or '.join(name + '=N' for name in names)}, not {self.shown()}")
        return found

    def connections(self):
        """K or K-M, or nothing: 1."""
        text = self.peek()
        if self.kind() != "word" or not re.fullmatch(r"[0-9]+(-[0-9]+)?", text):
            return 1, 1
        first, _, last = text.partition("-")
        first, last = int(first), int(last or first)
        if not 1 <= first <= last <= CONNECTIONS_MAX:
            self.fail(f"'{text}': connections are numbered from 1 to {CONNECTIONS_MAX}")
        self.at += 1
        return first, last

    def end_of_action(self):
        if self.peek() is not None and not self.take(";"):
            self.fail(f"end of line or ';' expected, not {self.shown()}")


class Parser:
    def __init__(self, path):
        self.path = str(path)
        self.scenario = Scenario(os.path.basename(path).removesuffix(".scenario"))
        self.protocol = self.scenario.protocols["main"] = Protocol("main")
        self.seen = set()
        self.set_protocols = []     # (where, name), to be checked at the end

    def parse(self, text):
        for number, line in enumerate(text.split("\n"), 1):
            self.where = f"{self.path}:{number}"
            self.number = number
            stripped = line.strip(" \t\r")
            if stripped and not stripped.startswith("#"):
                self.line(stripped)
        if not self.scenario.lines:
            self.fail("there are no steps: the shortest scenario is 'peer connect'")
        self.check_header()
        for where, name in self.set_protocols:
            if name not in self.scenario.protocols:
                raise ScenarioError(f"{where}: there is no protocol '{name}'; allowed: " +
                                    ", ".join(self.scenario.protocols))
        return self.scenario

    def fail(self, what):
        raise ScenarioError(f"{self.where}: {what}")

    def line(self, text):
        match = re.match(r"([a-z_]+)(:?)", text)
        keyword, colon = match.groups() if match else ("", "")
        if colon and self.scenario.lines:
            self.fail("headers stand above the first step")
        if colon and keyword in HEADERS:
            self.header(keyword, text[match.end():])
        elif colon:
            self.fail(f"there is no header '{keyword}:'; allowed: " + ", ".join(f"{name}:" for name in HEADERS))
        elif keyword == "on" and self.scenario.lines:
            self.fail("handlers stand above the first step")
        elif keyword == "on":
            self.handler(Line(self.where, text))
        elif keyword in SUBJECTS:
            self.steps(text)
        else:
            self.fail(f"a line begins with {', '.join(f'{name}:' for name in HEADERS)}, on, {', '.join(SUBJECTS)}; "
                      f"not with '{text.split()[0][:60]}'")

    # ---- above the steps

    def header(self, name, rest):
        key = (self.protocol.name, name) if name in ("receive", "without") else name
        if key in self.seen and name != "protocol":
            self.fail(f"{name}: is there twice")
        self.seen.add(key)
        if name in HEADERS[:7] and len(self.scenario.protocols) > 1:
            self.fail(f"{name}: stands above the first protocol:")
        if name == "title":
            self.scenario.title = rest.strip(" \t\r")
            return
        line = Line(self.where, rest)
        if name == "transport":
            self.scenario.transport = line.word("a kind of transport", TRANSPORTS)
        elif name == "socket":
            self.scenario.socket = line.word("a kind of socket", ("tcp", "unix", "abstract"))
        elif name == "start":
            self.scenario.start = line.word("a time", ("now", "later"))
        elif name == "buffers":
            self.scenario.buffers = line.number("a size", 1)
        elif name == "addresses":
            self.scenario.addresses = line.number("how many", 1, 8)
        elif name == "command":
            self.scenario.command = line.string()
            if not 1 <= len(self.scenario.command) <= TEXT_MAX or b"\0" in self.scenario.command:
                self.fail(f"command: from 1 to {TEXT_MAX} bytes, and no NUL")
        elif name == "protocol":
            self.begin_protocol(line)
        elif name == "receive":
            self.protocol.receive = line.word("a way to receive", ("data", "buffer"))
            if self.protocol.receive == "buffer" and line.is_number():
                self.protocol.size = line.number("a size", 0, 1024 * 1024)
        elif name == "without":
            names = [line.word("a callback", OPTIONAL)]
            while line.peek() is not None:
                names.append(line.word("a callback", OPTIONAL))
            self.protocol.without = tuple(names)
        if line.peek() is not None:
            self.fail(f"end of line expected, not {line.shown()}")

    def begin_protocol(self, line):
        name = line.word("a name")
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            self.fail(f"'{name}' is no name for a protocol; allowed: small letters, digits and _")
        if name in self.scenario.protocols:
            self.fail(f"protocol {name} is there twice (main is what stands above the first protocol:)")
        self.protocol = self.scenario.protocols[name] = Protocol(name)

    def check_header(self):
        scenario = self.scenario
        if scenario.addresses > 1 and (scenario.transport != "server" or scenario.socket != "tcp"):
            self.fail("addresses: above 1 needs transport: server and socket: tcp")
        if scenario.start == "later" and scenario.transport != "server":
            self.fail("start: later needs transport: server")
        if (scenario.transport == "subprocess") != bool(scenario.command):
            self.fail("transport: subprocess and command: go together")
        if scenario.transport not in TRANSPORTS[:3] and scenario.socket != "tcp":
            self.fail("socket: is for streams")
        for protocol in scenario.protocols.values():
            if protocol.receive == "buffer" and "data_received" in protocol.without:
                self.fail(f"protocol {protocol.name}: with receive: buffer it can't be without data_received")
            for handler in protocol.handlers:
                self.where = handler.where
                if handler.event in protocol.without:
                    self.fail(f"protocol {protocol.name}: is without {handler.event}, but has a handler of it")

    def handler(self, line):
        line.word("on")
        handler = Handler("", where=self.where)
        if line.take("transport"):
            handler.connection = line.number("the number of a connection", 1, CONNECTIONS_MAX)
        handler.event = line.word("a callback", EVENTS)
        if handler.event == "buffer_updated":
            handler.event = "data_received"
        if handler.event == "received":
            if line.kind() == "string":
                handler.text = line.string()
                if not 1 <= len(handler.text) <= TEXT_MAX:
                    self.fail(f'received "...": from 1 to {TEXT_MAX} bytes')
            else:
                handler.number = line.number('a size, or a "string"', 1)
        elif handler.event in NUMBERED and line.is_number():
            handler.number = line.number("which call", 1)
        if not line.take(":"):
            self.fail(f"':' expected, not {line.shown()}")
        if line.peek() is None:
            self.fail("an action expected behind the ':'")
        while line.peek() is not None:
            if handler.actions and handler.actions[-1].subject == "return":
                self.fail("return is the last action")
            handler.actions.append(self.handler_action(line, handler.event))
            line.end_of_action()
        self.protocol.handlers.append(handler)

    def handler_action(self, line, event):
        if line.take("return"):
            if event != "eof_received":
                self.fail("only eof_received returns something")
            return Action("return", 0, line.word("true or false", ("true", "false")))
        if line.take("server"):
            return self.server_call(line)
        connection = 0
        if line.take("transport"):
            connection = line.number("the number of a connection", 1, CONNECTIONS_MAX)
        return self.transport_call(line, connection, event)

    # ---- calls

    def transport_call(self, line, connection, event=None):
        action = Action("transport", connection, line.word("a call of the transport", CALLS))
        name = action.name
        if name == "write":
            action.data = [line.data()]
        elif name == "writelines":
            while line.is_data():
                action.data.append(line.data())
        elif name == "echo":
            if event != "data_received" or connection != 0:
                self.fail("echo belongs to data_received, without 'transport K'")
        elif name == "set_write_buffer_limits":
            action.numbers = line.named_numbers(("high", "low"), False)
        elif name == "get_extra_info":
            action.text = line.word("a name")
            if action.text == "shard":
                self.fail("get_extra_info shard: asyncio has no shards")
        elif name == "set_protocol":
            action.text = line.word("a protocol")
            self.set_protocols.append((self.where, action.text))
        elif name == "sendfile":
            action.data = [line.data()]
            action.numbers = line.named_numbers(("offset", "count"), False)
        elif name in OF_DATAGRAMS:
            if self.scenario.transport not in DATAGRAMS:
                self.fail(f"{name} needs the header transport: datagram or connected_datagram")
            if name == "sendto":
                action.data = [line.data()]
            elif event != "datagram_received" or connection != 0:
                self.fail("reply belongs to datagram_received, without 'transport K'")
        elif name in OF_PROCESSES:
            if self.scenario.transport != "subprocess":
                self.fail(f"{name} needs the header transport: subprocess")
            if name in ("get_pipe_transport", "send_signal"):
                action.numbers["number"] = line.number("a number", 0, 64)
        elif name == "mark":
            action.text = line.string().decode("latin-1")
        return action

    def server_call(self, line):
        action = Action("server", 0, line.word("a call of the server", SERVER_CALLS))
        if self.scenario.transport != "server":
            self.fail("a call of the server needs the header transport: server")
        if action.name == "path_exists" and self.scenario.socket != "unix":
            self.fail("path_exists needs the header socket: unix")
        return action

    # ---- steps

    def steps(self, text):
        line = Line(self.where, text)
        steps = []
        while line.peek() is not None:
            if line.kind() == "word" and line.peek() in SUBJECTS:
                steps.append(self.begin_step(line, text))
            if not steps:
                self.fail(f"a step begins with {', '.join(SUBJECTS)}; not with {line.shown()}")
            steps[-1].actions.append(self.action(line, steps[-1]))
            line.end_of_action()
        self.scenario.lines.append(steps)

    def begin_step(self, line, text):
        subject = line.word("a subject")
        first, last = (1, 1)
        if subject in ("peer", "transport", "wait"):
            first, last = line.connections()
        return Step(self.number, text, subject, first, last, [])

    def action(self, line, step):
        if step.subject == "peer":
            return self.peer_call(line)
        if step.subject == "transport":
            if line.take("connect"):
                if self.scenario.transport != "client":
                    self.fail("transport connect needs the header transport: client")
                return Action("transport", 0, "connect")
            return self.transport_call(line, 0)
        if step.subject == "server":
            return self.server_call(line)
        if step.subject == "wait":
            return self.wait(line)
        return Action("sleep", 0, "", numbers={"ms": line.number("milliseconds", 1, SLEEP_MAX_MS)})

    def peer_call(self, line):
        action = Action("peer", 0, line.word("something for the peer to do", PEER_CALLS))
        name, client = action.name, self.scenario.transport == "client"
        kind = self.scenario.transport
        if kind == "subprocess" and name != "connect":
            self.fail("of a subprocess the peer is its command: it only connects")
        if kind in PIPES and name in ("buffers", "half_close", "reset"):
            self.fail(f"peer {name} is for sockets")
        if kind in DATAGRAMS and name in PEER_CALLS_OF_STREAMS:
            self.fail(f"peer {name} is for streams; allowed: send, receive, read_nothing, close")
        if name == "receive" and kind not in DATAGRAMS:
            self.fail("peer receive needs the header transport: datagram or connected_datagram")
        if name in ("listen", "stop_listening", "accept") and not client:
            self.fail(f"peer {name} needs the header transport: client; here the peer connects")
        if name == "connect":
            if client:
                self.fail("peer connect needs the header transport: server or accepted; here the peer listens, and accepts")
            if line.is_number():
                action.numbers["number"] = line.number("an address", 1, self.scenario.addresses)
        elif name == "buffers":
            action.numbers = line.named_numbers(("send", "receive"), True)
        elif name == "send":
            action.data = [line.data()]
        elif name == "exchange":
            action.data = [line.data()]
            action.numbers["number"] = line.number("a size to read", 1)
        elif name == "read":
            action.numbers["number"] = line.number("a size", 1)
        elif name == "reset" and self.scenario.socket != "tcp":
            self.fail("peer reset needs the header socket: tcp; unix sockets know no reset")
        return action

    def wait(self, line):
        action = Action("wait", 0, line.word("something to wait for", WAITS))
        if action.name == "received":
            action.numbers["number"] = line.number("a size", 1)
        elif action.name != "sent":
            action.numbers["number"] = line.number("how many", 1) if line.is_number() else 1
        if action.name == "connection_failed" and self.scenario.transport != "client":
            self.fail("connection_failed needs the header transport: client")
        return action


def read(path):
    with open(path, "rb") as file:
        raw = file.read()
    if b"\0" in raw:
        raise ScenarioError(f"{path}:{raw[:raw.index(0)].count(10) + 1}: a NUL; write \\0 in a string")
    return Parser(path).parse(raw.decode("utf-8", "surrogateescape"))


def files_of(folder):
    """The scenarios of a folder, by name."""
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".scenario")]
