# SPDX-License-Identifier: Apache-2.0
"""Conversations captured between OpenStack Swift's servers, held again with ours.

As the server: the client's bytes of each capture go in, the app gives the captured
answers, and the same bytes must come out, when they came out (100 Continue included).
As the client: the captured answers must read as what they are.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from swift.core.headers import title
from swift.runtime import green
from swift.wire.client import TcpConnector
from swift.wire.heads import HttpLimits
from swift.wire.server import Server, ServerOptions, listen

CAPTURES = Path(__file__).parent / "golden" / "wire"
FRAMING = ("Content-Length", "Transfer-Encoding", "Connection", "Date")


def conversations():
    for path in sorted(CAPTURES.glob("*.json")):
        for number, connection in enumerate(
            json.loads(path.read_text())["connections"]
        ):
            events = [
                (event["from"], event["bytes_latin1"].encode("latin-1"))
                for event in connection["events"]
            ]
            if events:
                yield pytest.param(events, id=f"{path.stem}-{number}")


def stream(events, side):
    return b"".join(data for origin, data in events if origin == side)


class Captured:
    """An answer out of a capture."""

    def __init__(self, head, rest, method):
        lines = head.decode("latin-1").split("\r\n")
        self.status = lines[0].partition(" ")[2]
        self.fields = [tuple(line.split(": ", 1)) for line in lines[1:]]
        named = dict(self.fields)
        self.interim = self.status.startswith("1")
        length = int(named.get("Content-Length", 0))
        if self.interim or method == "HEAD" or self.status[:3] in ("204", "304"):
            length = 0
        self.chunked = "Transfer-Encoding" in named
        self.body, self.rest = rest[:length], rest[length:]


def answers(events, method):
    rest = stream(events, "server")
    found = []
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        found.append(Captured(head, rest, method))
        if found[-1].chunked:
            break
        rest = found[-1].rest
    return found


def is_whole(events):
    """One request with an answer that is no dialogue."""
    client = stream(events, "client")
    method = client.split(b" ", 1)[0].decode()
    return method != "SSYNC" and b"HTTP/1.1\r\n" not in client.partition(b"\r\n")[2]


class Silent:
    """A log that keeps its lines."""

    def __init__(self):
        self.lines = []

    def warning(self, message, *args):
        self.lines.append(message % args)

    exception = warning


class Stream:
    """A client that says and expects bytes."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)

    def send(self, data):
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                green.wait_writable(self.sock, 5)

    def recv(self, count):
        received = b""
        while len(received) < count:
            try:
                data = self.sock.recv(count - len(received))
            except BlockingIOError:
                assert green.wait_readable(self.sock, 5), received
                continue
            if not data:
                break
            received += data
        return received


def comparable(data):
    """A head as a set of lines without the date's value, and what follows it.

    Letters after a digit are capitals in the captures; names are compared in any case.
    """
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = [line.partition(b": ") for line in lines]
    named = [
        (name.lower(), b"" if name == b"Date" else value) for name, _, value in fields
    ]
    return first, sorted(named), rest


@pytest.mark.parametrize("events", list(conversations()))
def test_the_server_answers_byte_for_byte(events):
    if not is_whole(events):
        pytest.skip("a dialogue; see the tests of its own room")
    method = stream(events, "client").split(b" ", 1)[0].decode()
    script = answers(events, method)
    bodies = []

    def app(environ, start_response):
        body = environ["wsgi.input"]
        interim = [answer for answer in script if answer.interim]
        final = script[-1]
        if interim:
            body.continue_headers(interim[0].fields)
            bodies.append(body.read())
            for _ in interim[1:]:
                body.resume()
                bodies.append(body.read())
        elif method not in ("GET", "HEAD"):
            bodies.append(body.read())
        fields = [pair for pair in final.fields if pair[0] not in FRAMING[1:]]
        start_response(final.status, fields)
        return [final.body]

    log = Silent()
    options = ServerOptions(bind_ip="127.0.0.1", limits=HttpLimits(client_timeout_s=5))
    server = Server(app, listen(options), options, log)
    server.start()
    client = Stream(server.port)
    try:
        for side, data in merged(events):
            if side == "client":
                client.send(data)
            else:
                assert comparable(client.recv(len(data))) == comparable(data)
    finally:
        client.sock.close()
        server.close()
    assert log.lines == []


def merged(events):
    """Neighbouring events of one side put together."""
    merged = []
    for side, data in events:
        if merged and merged[-1][0] == side:
            merged[-1] = (side, merged[-1][1] + data)
        else:
            merged.append((side, data))
    return merged


@pytest.mark.parametrize("events", list(conversations()))
def test_the_client_understands_the_answers(events):
    if not is_whole(events):
        pytest.skip("a dialogue; see the tests of its own room")
    method = stream(events, "client").split(b" ", 1)[0].decode()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)

    def play():
        green.wait_readable(listener, 5)
        peer, _ = listener.accept()
        peer.setblocking(False)
        green.wait_readable(peer, 5)
        peer.recv(65536)
        rest = stream(events, "server")
        while rest:
            try:
                rest = rest[peer.send(rest) :]
            except BlockingIOError:
                green.wait_writable(peer, 5)
        peer.close()

    thread = green.spawn(play)
    connection = TcpConnector().connect("127.0.0.1", listener.getsockname()[1], 5)
    connection.send_head(method, "/x", [])
    for expected in answers(events, method):
        response = connection.wait_continue(5)
        assert f"{response.status} {response.reason}" == expected.status
        assert list(response.headers.items()) == [
            (title(name), value) for name, value in expected.fields
        ]
        if not expected.chunked:
            assert response.read() == expected.body
    connection.close()
    thread.wait(5)
    listener.close()
