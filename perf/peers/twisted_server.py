#!/usr/bin/env python3
"""Twisted's echo and line servers (docs.twisted.org, "Writing Servers", and "Producers and Consumers" for the flow
control)."""

import argparse
import resource
import sys
from pathlib import Path

from twisted.internet import protocol, reactor
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.protocols.basic import LineOnlyReceiver
from zope.interface import implementer


@implementer(IHalfCloseableProtocol)
class Flowing:
    """Stop reading while the client doesn't read; answer at once; and give who half-closes the rest."""

    def connectionMade(self):
        self.transport.registerProducer(self.transport, True)
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)

    def readConnectionLost(self):
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self):
        pass

    def connectionLost(self, reason):
        self.transport.unregisterProducer()


class Echo(Flowing, protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


class Lines(Flowing, LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        self.sendLine(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--unix", metavar="PATH")
    parser.add_argument("--lines", action="store_true")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    factory = protocol.ServerFactory()
    factory.protocol = Lines if options.lines else Echo
    factory.noisy = False
    if options.unix:
        Path(options.unix).unlink(missing_ok=True)
        reactor.listenUNIX(options.unix, factory, backlog=4096)
        where = f"unix://{options.unix}"
    else:
        port = reactor.listenTCP(options.port, factory, backlog=4096, interface="127.0.0.1")
        where = f"tcp://127.0.0.1:{port.getHost().port}"
    reactor.callWhenRunning(lambda: print(f"listening on {where}", file=sys.stderr, flush=True))
    reactor.run()


main()
