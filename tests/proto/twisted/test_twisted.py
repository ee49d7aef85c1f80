"""Twisted's own receivers as clients of ours, by endpoints and by a ClientFactory: what they send comes back to them as they sent it.
And our client, at a server of theirs.

Skipped, with a word, where Debian's python3-twisted is missing.
"""
import os
import random
import re
import subprocess
import sys

try:
    from twisted.internet import defer, endpoints, interfaces, protocol, reactor, task, utils
    from twisted.protocols import basic
    from zope.interface import implementer
except ImportError:
    print("skipped: no python3-twisted")
    sys.exit(77)

BUILD = os.environ["RONDO_BUILD"]
PATIENCE = 30
SIZES = {"int8": (0, 1, 5, 255), "int16": (0, 1, 255, 256, 65535), "int32": (0, 1, 65536, 99999), "net": (0, 1, 9, 10, 99999)}
RECEIVERS = {"int8": basic.Int8StringReceiver, "int16": basic.Int16StringReceiver, "int32": basic.Int32StringReceiver,
             "net": basic.NetstringReceiver}


def strings_of(framing):
    chance = random.Random(framing)
    return [chance.randbytes(size) for size in SIZES[framing] for _ in range(20)]


def conversation(receiver, messages, send, received_name):
    """A client that sends all its messages, some at once, some one by one, until all have come back."""
    done = defer.Deferred()

    class Client(receiver):
        got = []

        def connectionMade(self):
            self.got = []
            for message in messages[:len(messages) // 2]:
                getattr(self, send)(message)

        def heard(self, message):
            self.got.append(bytes(message))
            later = len(self.got) + len(messages) // 2 - 1
            if later < len(messages):
                getattr(self, send)(messages[later])
            if len(self.got) == len(messages):
                self.transport.loseConnection()

        def connectionLost(self, reason=None):
            done.callback(self.got)

    setattr(Client, received_name, Client.heard)
    return Client(), done


def serve(program, *options):
    process = subprocess.Popen([f"{BUILD}/{program}", "--listen", "tcp://127.0.0.1:0", *options], stderr=subprocess.PIPE,
                               text=True)
    return process, int(re.search(r"listening on \S+:(\d+)", process.stderr.readline())[1])


@defer.inlineCallbacks
def talk(process_and_port, receiver, messages, send, received_name):
    process, port = process_and_port
    try:
        client, done = conversation(receiver, messages, send, received_name)
        yield endpoints.connectProtocol(endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port), client)
        got = yield done.addTimeout(PATIENCE, reactor)
    finally:
        process.terminate()
        rest = process.communicate()[1]
        print(rest, end="")
    if got != messages or process.returncode != 0:
        raise AssertionError(f"{receiver.__name__}: {len(got)} of {len(messages)} came back as they were sent, exit status "
                             f"{process.returncode}")
    print(f"{receiver.__name__}: {len(got)} messages")


@defer.inlineCallbacks
def talk_by_a_factory(program, *options):
    """Connects by a ClientFactory, which is told how the connection begins and ends, and that there is nobody later."""
    process, port = serve(program, *options)
    told, over = [], defer.Deferred()

    class Client(basic.LineReceiver):
        delimiter = b"\n"

        def connectionMade(self):
            self.sendLine(b"hello")

        def lineReceived(self, line):
            told.append(line)
            self.transport.loseConnection()

    class Factory(protocol.ClientFactory):
        protocol = Client

        def startedConnecting(self, connector):
            told.append("started")

        def clientConnectionLost(self, connector, reason):
            told.append(f"lost: {reason.type.__name__}")
            process.terminate()
            process.communicate()
            connector.connect()

        def clientConnectionFailed(self, connector, reason):
            told.append(f"failed: {reason.type.__name__}")
            over.callback(None)

    reactor.connectTCP("127.0.0.1", port, Factory())
    yield over.addTimeout(PATIENCE, reactor)
    wanted = ["started", b"hello", "lost: ConnectionDone", "started", "failed: ConnectionRefusedError"]
    if told != wanted or process.returncode != 0:
        raise AssertionError(f"{program} {options}: {told}, exit status {process.returncode}")
    print(f"ClientFactory at {program} {' '.join(options)}")


@defer.inlineCallbacks
def be_a_server(api, receiver, words, wanted):
    """A server of theirs, of any receiver of lines, and our client, whose half-close must not be the end of all to it."""

    @implementer(interfaces.IHalfCloseableProtocol)
    class Line(receiver):
        delimiter = b"\n"

        def readConnectionLost(self):
            self.transport.loseConnection()

        def writeConnectionLost(self):
            pass

        def connectionMade(self):
            self.sendLine(b"welcome")

        def lineReceived(self, line):
            self.sendLine(line.upper())

    port = yield endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(protocol.Factory.forProtocol(Line))
    url = f"tcp://127.0.0.1:{port.getHost().port}"
    got = yield utils.getProcessOutputAndValue(f"{BUILD}/apps/rondo-client", ["--api", api, url, *words], os.environ) \
        .addTimeout(PATIENCE, reactor)
    yield port.stopListening()
    if got != (wanted, b"", 0):
        raise AssertionError(f"{receiver.__name__}: our client by {api}: {got}")
    print(f"rondo-client --api {api} at {receiver.__name__}")


@defer.inlineCallbacks
def main(_):
    for options in (), ("--api", "stream"):
        yield talk_by_a_factory("apps/rondo-line", *options)
        yield talk_by_a_factory("apps/rondo-echo", *options)
    for api in "protocol", "stream":
        for receiver in basic.LineReceiver, basic.LineOnlyReceiver:
            yield be_a_server(api, receiver, ["one", "two"], b"welcome\nONE\nTWO\n")
    for framing, receiver in RECEIVERS.items():
        yield talk(serve("tests/string_echo", "--framing", framing), receiver, strings_of(framing), "sendString",
                   "stringReceived")
    lines = [b"line %d %s" % (i, b"x" * (i * 37 % 16000)) for i in range(300)]
    for receiver in basic.LineReceiver, basic.LineOnlyReceiver:
        class Lines(receiver):
            delimiter = b"\n"
        Lines.__name__ = receiver.__name__
        for options in (), ("--api", "stream"):
            yield talk(serve("apps/rondo-line", *options), Lines, lines, "sendLine", "lineReceived")


task.react(main)
