"""The scenario language, read: one file, one scenario. README.md specifies it."""
import re

CALLS = {  # of a transport: what its arguments are
    "write": "data", "writelines": "many", "echo": "", "write_eof": "", "can_write_eof": "", "close": "", "abort": "",
    "is_closing": "", "pause_reading": "", "resume_reading": "", "is_reading": "",
    "set_write_buffer_limits": "limits", "get_write_buffer_limits": "", "get_write_buffer_size": "",
    "get_extra_info": "name", "set_protocol": "protocol", "get_protocol": "", "sendfile": "file",
}
SERVER_CALLS = ("start_serving", "is_serving", "sockets", "close", "wait_closed", "close_clients", "abort_clients")
PEER_CALLS = {
    "listen": "", "connect": "", "accept": "", "send": "data", "half_close": "", "read": "number", "read_to_end": "",
    "reset": "", "close": "",
}
HANDLERS = (
    "connection_made", "data_received", "received", "eof_received", "pause_writing", "resume_writing",
    "connection_lost", "sendfile_done",
)
WAITS = (
    "connection_made", "received", "eof_received", "pause_writing", "resume_writing", "connection_lost",
    "sendfile_done", "connection_failed", "sent",
)
OPTIONAL = ("data_received", "eof_received", "pause_writing", "resume_writing", "connection_lost")
SIZE_MAX = 64 * 1024 * 1024


class WrongScenario(Exception):
    """FILE:LINE: what is wrong, and what would be right."""


def pattern(size):
    """The bytes that a number stands for, wherever bytes are wanted."""
    return (b"abcdefghijklmnopqrstuvwxyz" * (size // 26 + 1))[:size]


class Action:
    def __init__(self, call, arguments):
        self.call, self.arguments = call, arguments


class Protocol:
    def __init__(self, name):
        self.name = name
        self.buffer_size = None  # None: data_received
        self.without = set()
        self.handlers = []  # (event, bytes of `received`, [Action])


class Step:
    def __init__(self, line, who, number, action):
        self.line, self.who, self.number, self.action = line, who, number, action


class Scenario:
    def __init__(self, path):
        self.path = str(path)
        self.title = ""
        self.transport = "server"
        self.socket = "tcp"
        self.buffers = None
        self.start_later = False
        self.protocols = [Protocol("main")]
        self.steps = []
        self._parse(path)

    # ---- words ----------------------------------------------------------------------------------------------

    WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"|([^\s";]+)|(;)')
    ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b'"': b'"', b"0": b"\0"}

    def fail(self, text):
        raise WrongScenario(f"{self.path}:{self.line}: {text}")

    def unescape(self, text):
        def one(match):
            escape = match.group(1)
            if escape[:1] == b"x" and len(escape) == 3:
                return bytes([int(escape[1:], 16)])
            if escape not in self.ESCAPES:
                self.fail(f"there is no escape \\{escape.decode('latin-1')}: \\n \\r \\t \\0 \\\\ \\\" \\xHH")
            return self.ESCAPES[escape]
        return re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", one, text)

    def words(self, text):
        """Each a str, or bytes where it was quoted; ';' separates."""
        found, at = [], 0
        while at < len(text):
            if text[at:at + 1] in (b" ", b"\t"):
                at += 1
                continue
            if text[at:at + 1] == b"#":
                break
            match = self.WORD.match(text, at)
            if match is None:
                self.fail("a quote is not closed")
            if match.group(1) is not None:
                found.append(self.unescape(match.group(1)))
            else:
                found.append((match.group(2) or match.group(3)).decode("latin-1"))
            at = match.end()
        return found

    def number(self, word, least=0):
        if not isinstance(word, str) or not word.isdigit() or not least <= int(word) <= SIZE_MAX:
            self.fail(f"{self.show(word)} is no number from {least} to {SIZE_MAX}")
        return int(word)

    @staticmethod
    def show(word):
        return '"…"' if isinstance(word, bytes) else f"'{word}'"

    def data(self, word):
        return word if isinstance(word, bytes) else pattern(self.number(word))

    # ---- actions --------------------------------------------------------------------------------------------

    def named_numbers(self, words, names):
        found = {}
        for word in words:
            name, equals, number = word.partition("=") if isinstance(word, str) else ("", "", "")
            if name not in names or not equals or name in found:
                self.fail(f"{self.show(word)} is none of {', '.join(n + '=N' for n in names)}")
            found[name] = self.number(number)
        return found

    def arguments(self, call, kind, words):
        wanted = {"": 0, "data": 1, "number": 1, "name": 1, "protocol": 1}.get(kind)
        if wanted is not None and len(words) != wanted:
            self.fail(f"{call} takes {wanted} argument{'s' if wanted != 1 else ''}, not {len(words)}")
        if kind == "data":
            return [self.data(words[0])]
        if kind == "many":
            return [self.data(word) for word in words]
        if kind == "number":
            return [self.number(words[0])]
        if kind in ("name", "protocol"):
            if not isinstance(words[0], str):
                self.fail(f"{call} takes a name, not {self.show(words[0])}")
            return [words[0]]
        if kind == "limits":
            return [self.named_numbers(words, ("high", "low"))]
        if kind == "file":
            if not words:
                self.fail("sendfile takes the file's content, then offset=N and count=N if wanted")
            return [self.data(words[0]), self.named_numbers(words[1:], ("offset", "count"))]
        return []

    def call(self, words):
        if not words or not isinstance(words[0], str) or words[0] not in CALLS:
            self.fail(f"{self.show(words[0]) if words else 'nothing'} is no call of a transport: {', '.join(CALLS)}")
        return Action(words[0], self.arguments(words[0], CALLS[words[0]], words[1:]))

    def actions(self, words):
        found, current = [], []
        for word in words + [";"]:
            if word != ";":
                current.append(word)
                continue
            if current and current[0] == "server":
                if self.transport != "server":
                    self.fail("a call of the server needs the header 'transport: server'")
                found.append(self.server_call(current[1:]))
            elif current and current[0] == "return":
                if current[1:] not in (["true"], ["false"]):
                    self.fail("return takes true or false")
                found.append(Action("return", [current[1] == "true"]))
            else:
                found.append(self.call(current))
            current = []
        return found

    def server_call(self, words):
        if len(words) != 1 or words[0] not in SERVER_CALLS:
            self.fail(f"{self.show(words[0]) if words else 'nothing'} is no call of a server: {', '.join(SERVER_CALLS)}")
        return Action("server " + words[0], [])

    # ---- lines ----------------------------------------------------------------------------------------------

    def _parse(self, path):
        self.line = 0
        with open(path, "rb") as file:
            for line in file.read().split(b"\n"):
                self.line += 1
                line = line.strip()
                if line and not line.startswith(b"#"):
                    self.parse_line(line)
        if not self.steps:
            self.fail("there are no steps: the shortest scenario is 'peer connect'")
        names = [protocol.name for protocol in self.protocols]
        for action, line in self.all_actions:
            if action.call == "set_protocol" and action.arguments[0] not in names:
                self.line = line
                self.fail(f"there is no protocol '{action.arguments[0]}': {', '.join(names)}")

    def parse_line(self, line):
        keyword = re.match(rb"[a-z_]*", line).group().decode()
        rest = line[len(keyword):]
        if rest.startswith(b":"):
            self.parse_header(keyword, rest[1:].strip())
        elif keyword == "on":
            self.parse_handler(rest)
        elif keyword in ("peer", "transport", "server", "wait"):
            self.parse_step(keyword, rest)
        else:
            self.fail("a line is a header 'title:', a handler 'on …:', or a step 'peer', 'transport', 'server', 'wait'")

    def one_of(self, what, value, allowed):
        if value not in allowed:
            self.fail(f"{what} is one of: {', '.join(allowed)}")
        return value

    def parse_header(self, keyword, rest):
        text = rest.decode("latin-1")
        if self.steps:
            self.fail("headers stand before the first step")
        if keyword == "title":
            self.title = text
        elif keyword == "transport":
            self.transport = self.one_of("transport:", text, ("server", "client", "accepted"))
        elif keyword == "socket":
            self.socket = self.one_of("socket:", text, ("tcp", "unix", "abstract"))
        elif keyword == "start":
            self.start_later = self.one_of("start:", text, ("now", "later")) == "later"
        elif keyword == "buffers":
            self.buffers = self.number(text, 1)
        elif keyword == "protocol":
            if not re.fullmatch(r"[a-z][a-z0-9_]*", text) or text in [p.name for p in self.protocols]:
                self.fail("protocol: takes a new name of small letters, digits and _")
            self.protocols.append(Protocol(text))
        elif keyword == "receive":
            words = text.split()
            if words == ["data"]:
                self.protocols[-1].buffer_size = None
            elif len(words) == 2 and words[0] == "buffer":
                self.protocols[-1].buffer_size = self.number(words[1])
            else:
                self.fail("receive: is 'data', or 'buffer' and its size")
        elif keyword == "without":
            for word in text.split():
                self.protocols[-1].without.add(self.one_of("without:", word, OPTIONAL))
        else:
            self.fail("there is no such header: title, transport, socket, start, buffers, protocol, receive, without")

    all_actions = ()

    def parse_handler(self, rest):
        if self.steps:
            self.fail("handlers stand before the first step")
        event, colon, actions = rest.partition(b":")
        words = self.words(event)
        if not colon or not words or words[0] not in HANDLERS or len(words) != (2 if words[0] == "received" else 1):
            self.fail(f"a handler is 'on EVENT: CALL; CALL', and 'received' has a number; events: {', '.join(HANDLERS)}")
        count = self.number(words[1], 1) if words[0] == "received" else 0
        actions = self.actions(self.words(actions))
        for action in actions:
            if action.call == "return" and words[0] != "eof_received":
                self.fail("only eof_received returns something")
            if action.call == "echo" and words[0] != "data_received":
                self.fail("echo belongs to data_received")
        self.all_actions = [*self.all_actions, *((action, self.line) for action in actions)]
        self.protocols[-1].handlers.append((words[0], count, actions))

    def parse_step(self, who, rest):
        words = self.words(rest)
        if ";" in words:
            self.fail("a step is one call: put the next on a line of its own")
        number = 1
        if who != "server" and words and isinstance(words[0], str) and words[0].isdigit():
            number = self.number(words.pop(0), 1)
            if number > 64:
                self.fail("there are at most 64 connections")
        if who == "server":
            if self.transport != "server":
                self.fail("a step 'server' needs the header 'transport: server'")
            action = self.server_call(words)
        elif who == "transport":
            if words == ["connect"]:
                if self.transport != "client":
                    self.fail("'transport connect' needs the header 'transport: client'")
                action = Action("connect", [])
            else:
                action = self.call(words)
                if action.call == "echo":
                    self.fail("echo belongs to data_received")
        elif who == "peer":
            if not words or words[0] not in PEER_CALLS:
                self.fail(f"{self.show(words[0]) if words else 'nothing'} is no call of a peer: {', '.join(PEER_CALLS)}")
            if words[0] in ("listen", "accept") and self.transport != "client":
                self.fail(f"'peer {words[0]}' needs the header 'transport: client'")
            if words[0] == "connect" and self.transport == "client":
                self.fail("'peer connect' needs the header 'transport: server', or accepted")
            action = Action(words[0], self.arguments(words[0], PEER_CALLS[words[0]], words[1:]))
        else:
            action = self.parse_wait(words)
        self.steps.append(Step(self.line, who, number, action))
        if who == "transport":
            self.all_actions = [*self.all_actions, (action, self.line)]

    def parse_wait(self, words):
        if not words or words[0] not in WAITS or len(words) > 2 or (words[0] == "received") != (len(words) == 2):
            self.fail(f"wait is for one of: {', '.join(WAITS)}; 'received' has a number of bytes")
        return Action(words[0], [self.number(words[1], 1)] if len(words) == 2 else [])
