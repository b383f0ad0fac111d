# SPDX-License-Identifier: Apache-2.0
"""The server's side of HTTP, over real sockets."""

from __future__ import annotations

import os
import re
import socket
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swift.core.errors import ClientDisconnect, ClientTimeout
from swift.runtime import green
from swift.wire import environ as keys
from swift.wire.heads import HttpLimits
from swift.wire.server import Server, ServerOptions, listen


class Records:
    """A log that keeps its lines."""

    def __init__(self):
        self.lines = []

    def warning(self, message, *args):
        self.lines.append(message % args)

    def exception(self, message, *args):
        self.lines.append(message % args)


class Served:
    """A server for one app, and clients of it that speak raw bytes."""

    def __init__(self, app, **limits):
        limits.setdefault("client_timeout_s", 5.0)
        limits.setdefault("keepalive_timeout_s", 5.0)
        max_clients = limits.pop("max_clients", 1024)
        self.log = Records()
        options = ServerOptions(
            bind_ip="127.0.0.1", max_clients=max_clients, limits=HttpLimits(**limits)
        )
        self.server = Server(app, listen(options), options, self.log)
        self.server.start()
        self.clients = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self.clients:
            client.close()
        self.server.close()

    def connect(self, receive_buffer=0):
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(("127.0.0.1", self.server.port))
        client.setblocking(False)
        self.clients.append(client)
        return Client(client)

    def exchange(self, data):
        """All that comes back for these bytes until the server closes."""
        client = self.connect()
        client.send(data)
        return client.read_all()


class Client:
    """A green client socket."""

    def __init__(self, sock):
        self.sock = sock
        self.held = b""

    def send(self, data):
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                assert green.wait_writable(self.sock, 60)

    def recv(self, timeout_s=60.0):
        while True:
            try:
                return self.sock.recv(65536)
            except BlockingIOError:
                assert green.wait_readable(self.sock, timeout_s), "nothing came"

    def read_until(self, mark):
        while mark not in self.held:
            data = self.recv()
            assert data, f"closed after {self.held!r}"
            self.held += data
        end = self.held.index(mark) + len(mark)
        found, self.held = self.held[:end], self.held[end:]
        return found

    def read_exactly(self, count):
        while len(self.held) < count:
            data = self.recv()
            assert data, f"closed after {self.held!r}"
            self.held += data
        found, self.held = self.held[:count], self.held[count:]
        return found

    def read_all(self):
        try:
            while data := self.recv():
                self.held += data
        except ConnectionResetError:
            pass
        found, self.held = self.held, b""
        return found

    def answer(self):
        """One answer with a Content-Length: (status line, headers, body)."""
        head = self.read_until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        return first, fields, self.read_exactly(int(fields.get("Content-Length", 0)))

    def is_closed(self):
        return self.recv() == b""


def echo(environ, start_response):
    """Answers with the method, the path and the body of the request."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [
        b"%s %s %s"
        % (
            environ["REQUEST_METHOD"].encode(),
            environ["PATH_INFO"].encode("latin-1"),
            body,
        )
    ]


def ignorant(environ, start_response):
    """Answers without reading the body."""
    start_response("401 Unauthorized", [("Content-Length", "2")])
    return [b"no"]


def environ_of(request, **limits):
    """The environ that an app sees for a request."""
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        start_response("204 No Content", [])
        return []

    with Served(app, **limits) as served:
        client = served.connect()
        client.send(request)
        client.read_until(b"\r\n\r\n")
    return seen


# --- Requests -------------------------------------------------------------------------


def test_a_request_is_answered_with_a_date_and_titled_names():
    def app(environ, start_response):
        start_response("200 OK", [("x-trans-id", "tx1"), ("ETAG", "abc")])
        return [b"hello"]

    with Served(app) as served:
        client = served.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        first, fields, body = client.answer()
    assert first == "HTTP/1.1 200 OK"
    assert list(fields) == ["X-Trans-Id", "Etag", "Content-Length", "Date"]
    assert re.fullmatch(
        r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} .{8} GMT", fields["Date"]
    )
    assert body == b"hello"


def test_the_environ_describes_the_request():
    environ = environ_of(
        b"PUT /v1/a%20b/%C3%A9?x=%20&y HTTP/1.1\r\nHost: h:1\r\nX-A: 1\r\nx-a:2 \r\n"
        b"Content-Type: t/p\r\nContent-Length: 0\r\nX-Raw: \xe9\r\n\r\n"
    )
    assert environ["REQUEST_METHOD"] == "PUT"
    assert environ["PATH_INFO"] == "/v1/a b/\xc3\xa9"
    assert environ["RAW_PATH_INFO"] == "/v1/a%20b/%C3%A9"
    assert environ["QUERY_STRING"] == "x=%20&y"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["HTTP_HOST"] == "h:1"
    assert environ["HTTP_X_A"] == "1,2"
    assert environ["HTTP_X_RAW"] == "\xe9"
    assert environ["CONTENT_TYPE"] == "t/p"
    assert environ["CONTENT_LENGTH"] == "0"
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["SERVER_NAME"] == "127.0.0.1"
    assert environ["wsgi.url_scheme"] == "http"


def test_a_name_with_an_underscore_is_dropped():
    environ = environ_of(b"GET / HTTP/1.1\r\nX_Auth_User: me\r\n\r\n")
    assert "HTTP_X_AUTH_USER" not in environ


def test_the_absolute_form_gives_host_and_path():
    environ = environ_of(b"GET http://far:80/a?b HTTP/1.1\r\nHost: near\r\n\r\n")
    assert environ["HTTP_HOST"] == "far:80"
    assert environ["PATH_INFO"] == "/a"
    assert environ["QUERY_STRING"] == "b"


@pytest.mark.parametrize("method", ["SSYNC", "REPLICATE", "UPDATE", "BOGUS", "CONNECT"])
def test_any_method_reaches_the_app(method):
    environ = environ_of(f"{method} /x HTTP/1.1\r\n\r\n".encode())
    assert environ["REQUEST_METHOD"] == method


def test_an_offer_to_upgrade_is_ignored_and_the_body_read():
    with Served(echo) as served:
        client = served.connect()
        client.send(
            b"PUT /x HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"
            b"Content-Length: 2\r\n\r\nhi"
        )
        assert client.answer()[2] == b"PUT /x hi"


def test_pipelined_requests_are_answered_in_order():
    with Served(echo) as served:
        client = served.connect()
        client.send(
            b"PUT /1 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
            b"PUT /2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nde\r\n1;x=y\r\nf\r\n0\r\nTrailer: t\r\n\r\n"
            b"\r\nGET /3 HTTP/1.1\r\n\r\n"
            b"GET /4 HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        bodies = [client.answer()[2] for _ in range(4)]
        assert client.is_closed()
    assert bodies == [b"PUT /1 abc", b"PUT /2 def", b"GET /3 ", b"GET /4 "]


def test_a_request_may_arrive_byte_by_byte():
    request = (
        b"PUT /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n"
    )
    with Served(echo) as served:
        client = served.connect()
        for index in range(len(request)):
            client.send(request[index : index + 1])
            green.yield_now()
        assert client.answer()[2] == b"PUT /1 de"


@pytest.mark.parametrize(
    ("request_head", "closes", "field"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", False, None),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", True, "close"),
        (b"GET / HTTP/1.0\r\n\r\n", True, "close"),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", False, "keep-alive"),
    ],
)
def test_keep_alive_follows_version_and_wish(request_head, closes, field):
    with Served(echo) as served:
        client = served.connect()
        client.send(request_head)
        _, fields, _ = client.answer()
        assert fields.get("Connection") == field
        if closes:
            assert client.is_closed()
        else:
            client.send(request_head)
            assert client.answer()[2] == b"GET / "


def test_no_keep_alive_when_its_limit_is_zero():
    with Served(echo, keepalive_timeout_s=0) as served:
        answer = served.exchange(b"GET / HTTP/1.1\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in answer


def test_an_idle_connection_is_closed_after_the_limit():
    with Served(echo, keepalive_timeout_s=0.05) as served:
        client = served.connect()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        client.answer()
        assert client.is_closed()


def test_a_head_that_does_not_come_to_its_end_is_given_up():
    with Served(echo, client_timeout_s=0.05) as served:
        client = served.connect()
        client.send(b"GET / HTTP/1.1\r\nHos")
        assert client.is_closed()


# --- Refused requests -----------------------------------------------------------------

LONG = b"x" * 9000


@pytest.mark.parametrize(
    ("request_bytes", "first"),
    [
        pytest.param(
            b"GET /" + LONG + b" HTTP/1.1\r\n\r\n",
            b"HTTP/1.0 414 Request URI Too Long",
            id="request line too long",
        ),
        pytest.param(
            b"GET /" + LONG,
            b"HTTP/1.0 414 Request URI Too Long",
            id="endless request line",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nA: " + LONG + b"\r\n\r\n",
            b"HTTP/1.0 400 Header Line Too Long",
            id="header line too long",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nA: " + LONG,
            b"HTTP/1.0 400 Header Line Too Long",
            id="endless header line",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n"
            + b"".join(b"A%d: %s\r\n" % (i, b"x" * 4000) for i in range(20))
            + b"\r\n",
            b"HTTP/1.0 400 Headers Too Large",
            id="headers too large",
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.0 400 Bad Request",
            id="negative length",
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nContent-Length: 5x\r\n\r\n",
            b"HTTP/1.0 400 Bad Request",
            id="length is no number",
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n",
            b"HTTP/1.0 400 Bad Request",
            id="list of lengths",
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"HTTP/1.0 400 Bad Request",
            id="two lengths",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
            b"HTTP/1.0 400 Bad Request",
            id="NUL in a value",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            b"HTTP/1.0 400 Bad Request",
            id="CR in a value",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nA: b\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.0 400 Bad Request",
            id="bare LF",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            b"HTTP/1.0 400 Bad Request",
            id="folded line",
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nContent-Length : 5\r\n\r\n",
            b"HTTP/1.0 400 Bad Request",
            id="blank before the colon",
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\n Content-Length: 5\r\n\r\n",
            b"HTTP/1.0 400 Bad Request",
            id="blank before the name",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"HTTP/1.0 400 Bad Request",
            id="no colon",
        ),
    ],
)
def test_requests_that_get_a_bare_answer(request_bytes, first):
    with Served(echo) as served:
        answer = served.exchange(request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == first
    assert b"Connection: close" in lines
    assert b"X-Trans-Id" not in head
    assert body == b""


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1 x\r\n\r\n", b"400"),
        (b"GET  / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / FTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/0.9\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\x0b\r\n\r\n", b"400"),
        (b"PUT /x\r\n", b"400"),
        (b"G\xe4T / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /\x01 HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /\x7f HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\nHost: x\n\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"GET / HTTP/3.0\r\n\r\n", b"505"),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", b"400"),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"501"),
        (
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: x\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"501",
        ),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 202 + b"\r\n", b"431"),
    ],
)
def test_requests_that_get_a_page_with_a_transaction_id(request_bytes, status):
    with Served(echo, trans_id_suffix="-é") as served:
        answer = served.exchange(request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status + b" ")
    ids = re.findall(rb"(?:X-Trans-Id|X-Openstack-Request-Id): (\S+)", head)
    assert len(ids) == 2
    assert ids[0] == ids[1]
    assert re.fullmatch(rb"tx[0-9a-f]{21}-[0-9a-f]{10}-%C3%A9", ids[0])
    assert b"Connection: close" in head
    assert b"Content-Type: text/html; charset=UTF-8" in head
    reason = head.split(b"\r\n")[0].split(b" ", 2)[2]
    assert body.startswith(b"<html><h1>" + reason + b"</h1><p>")
    assert body.endswith(b"</p></html>")


@pytest.mark.parametrize(
    "line", [b"GET /" + b"x" * (8191 - 16) + b" HTTP/1.1", b"GET / HTTP/1.1"]
)
def test_lines_up_to_the_limit_are_served(line):
    value = b"y" * (8191 - 5)
    fields = b"A: " + value + b"\r\n" + b"B: c\r\n" * 200
    with Served(echo) as served:
        client = served.connect()
        client.send(line[: 8192 - 3] + b"\r\n" + fields + b"\r\n")
        assert client.answer()[0] == "HTTP/1.1 200 OK"


def test_http_0_9_is_served_without_a_head():
    with Served(echo) as served:
        assert served.exchange(b"GET /x\r\n") == b"GET /x "


def test_chunked_wins_over_a_length_which_the_app_does_not_see():
    seen = []

    def app(environ, start_response):
        seen.append(environ.get("CONTENT_LENGTH"))
        return echo(environ, start_response)

    with Served(app) as served:
        client = served.connect()
        client.send(
            b"PUT /1 HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n"
            b"\r\n3\r\nabc\r\n0\r\n\r\nGET /2 HTTP/1.1\r\n\r\n"
        )
        assert client.answer()[2] == b"PUT /1 abc"
        assert client.answer()[2] == b"GET /2 "
    assert seen == [None, None]


BAD_CHUNKS = [
    b"x\r\nabc\r\n",
    b"-3\r\nabc\r\n",
    b"0x3\r\nabc\r\n",
    b" 3\r\nabc\r\n",
    b"3\nabc\r\n",
    b"+3\r\nabc\r\n",
    b"3\r\nabcd\r\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"11111111111111111\r\n",
    b"3;" + b"x" * 5000 + b"\r\nabc\r\n",
    b"\r\n",
    b"0\r\n" + b"T: t\r\n" * 20000,
]


@pytest.mark.parametrize("chunks", BAD_CHUNKS, ids=range(len(BAD_CHUNKS)))
def test_malformed_chunks_break_the_request(chunks):
    errors = []

    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except ClientDisconnect as error:
            errors.append(error)
            start_response("499 Client Disconnect", [])
            return []
        start_response("200 OK", [])
        return [b"whole"]

    with Served(app) as served:
        answer = served.exchange(
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        )
    assert errors
    assert answer.startswith(b"HTTP/1.1 499 ")
    assert b"\r\nConnection: close\r\n" in answer


# --- Bodies of requests ---------------------------------------------------------------


def test_continue_is_sent_at_the_first_read_only():
    order = []

    def app(environ, start_response):
        order.append("begun")
        body = environ["wsgi.input"]
        assert body.content_length == 4
        first = body.read(2)
        start_response("201 Created", [])
        return [first + body.read()]

    with Served(app) as served:
        client = served.connect()
        client.send(
            b"PUT / HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abcd")
        assert client.answer()[2] == b"abcd"
        client.send(b"GET / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd")
        assert client.answer()[2] == b"abcd"
    assert order == ["begun", "begun"]


def test_an_early_answer_to_an_expectation_closes():
    with Served(ignorant) as served:
        answer = served.exchange(
            b"PUT / HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nno")


def test_a_second_phase_begins_with_a_second_continue():
    def app(environ, start_response):
        body = environ["wsgi.input"]
        body.continue_headers([("X-Obj-Multiphase-Commit", "yes")])
        first = body.read()
        body.resume()
        second = body.read()
        start_response("201 Created", [])
        return [first + b"|" + second]

    head = b"HTTP/1.1 100 Continue\r\nX-Obj-Multiphase-Commit: yes\r\n\r\n"
    with Served(app) as served:
        client = served.connect()
        client.send(
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue"
            b"\r\n\r\n"
        )
        assert client.read_until(b"\r\n\r\n") == head
        client.send(b"3\r\nabc\r\n0\r\n\r\n")
        assert client.read_until(b"\r\n\r\n") == head
        client.send(b"2\r\nde\r\n0\r\n\r\nGET / HTTP/1.1\r\nTransfer-Encoding: chunked")
        assert client.answer()[2] == b"abc|de"
        client.send(b"\r\n\r\n0\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        client.send(b"0\r\n\r\n")
        assert client.answer()[2] == b"|"


def test_a_duplex_app_reads_and_writes_by_turns():
    def app(environ, start_response):
        body = environ["wsgi.input"]
        start_response("200 OK", [])

        def talk():
            yield b"hello\r\n"
            while line := body.readline():
                yield b"got " + line

        return talk()

    with Served(app) as served:
        client = served.connect()
        client.send(b"SSYNC / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        head = client.read_until(b"\r\n\r\n")
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        assert b"Connection: close" not in head
        assert client.read_until(b"hello\r\n\r\n") == b"7\r\nhello\r\n\r\n"
        for word in (b"one", b"two"):
            client.send(b"5\r\n" + word + b"\r\n\r\n")
            assert client.read_until(word + b"\r\n\r\n").endswith(
                b"got " + word + b"\r\n\r\n"
            )
        client.send(b"0\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert client.read_until(b"0\r\n\r\n") == b"0\r\n\r\n"
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("request_bytes", "kept"),
    [
        pytest.param(
            b"PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd", True, id="has arrived"
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            True,
            id="empty chunked body",
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            False,
            id="chunked body",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nContent-Length: 4\r\n\r\n", False, id="GET without body"
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nContent-Length: 70000\r\n\r\n", False, id="large"
        ),
    ],
)
def test_what_becomes_of_an_unread_body(request_bytes, kept):
    with Served(ignorant) as served:
        client = served.connect()
        client.send(request_bytes)
        _, fields, body = client.answer()
        assert body == b"no"
        assert fields.get("Connection") == (None if kept else "close")
        if kept:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            assert client.answer()[2] == b"no"
        else:
            client.sock.shutdown(socket.SHUT_WR)
            assert client.is_closed()


def test_a_small_unread_body_may_come_after_the_answer():
    with Served(ignorant) as served:
        client = served.connect()
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n")
        assert client.answer()[2] == b"no"
        client.send(b"abcdGET / HTTP/1.1\r\n\r\n")
        assert client.answer()[2] == b"no"


def test_a_client_that_sends_on_can_read_the_early_answer():
    with Served(ignorant) as served:
        client = served.connect()
        client.send(b"PUT / HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n")
        for _ in range(30):
            client.send(b"x" * 100_000)
        client.sock.shutdown(socket.SHUT_WR)
        answer = client.read_all()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answer.endswith(b"no")


def test_a_body_cut_short_is_a_disconnect():
    errors = []

    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except ClientDisconnect as error:
            errors.append(error)
            raise

    with Served(app) as served:
        client = served.connect()
        client.send(b"PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab")
        client.sock.shutdown(socket.SHUT_WR)
        answer = client.read_all()
    assert errors
    assert answer.startswith(b"HTTP/1.1 499 Client Disconnect\r\n")


def test_a_silent_body_times_out():
    errors = []

    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except ClientTimeout as error:
            errors.append(error)
            raise

    with Served(app, client_timeout_s=0.05) as served:
        client = served.connect()
        client.send(b"PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab")
        head = client.read_until(b"\r\n\r\n")
    assert errors
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")


@given(
    parts=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    cuts=st.lists(st.integers(1, 60), max_size=12),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    way=st.sampled_from(["read", "read_some", "readline"]),
    chunked=st.booleans(),
)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_a_body_reads_the_same_however_it_is_cut(parts, cuts, sizes, way, chunked):
    whole = b"".join(parts)
    got = []

    def app(environ, start_response):
        body = environ["wsgi.input"]
        pieces = []
        turn = 0
        while piece := getattr(body, way)(sizes[turn % len(sizes)]):
            pieces.append(piece)
            turn += 1
        got.append(pieces)
        start_response("204 No Content", [])
        return []

    if chunked:
        framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        wire = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire += framed + b"0\r\n\r\n"
    else:
        wire = b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole
    with Served(app) as served:
        client = served.connect()
        for cut in cuts:
            client.send(wire[:cut])
            wire = wire[cut:]
            green.yield_now()
        client.send(wire)
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 204")
    assert b"".join(got[0]) == whole
    if way == "read":
        for piece, size in zip(got[0][:-1], sizes * 400, strict=False):
            assert len(piece) == size
    if way == "readline":
        assert all(b"\n" not in piece[:-1] for piece in got[0])


@given(
    parts=st.lists(st.binary(min_size=1, max_size=90), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 60), max_size=12),
    read=st.integers(0, 60),
    rooms=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    share=st.floats(0, 1),
    chunked=st.booleans(),
)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_a_part_of_a_body_may_be_received_by_a_thread(
    parts, cuts, read, rooms, share, chunked
):
    whole = b"".join(parts)
    read = min(read, len(whole))
    part = int((len(whole) - read) * share)
    got = []

    def app(environ, start_response):
        body = environ["wsgi.input"]
        pieces = [body.read(read), *taken(body, part, rooms), body.read()]
        got.append(b"".join(pieces))
        start_response("204 No Content", [])
        return []

    if chunked:
        wire = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire += b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        wire += b"0\r\n\r\n"
    else:
        wire = b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole
    with Served(app) as served:
        client = served.connect()
        for cut in cuts:
            client.send(wire[:cut])
            wire = wire[cut:]
            green.yield_now()
        client.send(wire)
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 204")
    assert got == [whole]


def taken(body, size, rooms):
    """What real threads receive of the next `size` bytes, into room after room."""
    pieces = []
    with closing(body.intake_part(size)) as intake:
        while intake.wait():
            room = bytearray(rooms[len(pieces) % len(rooms)])
            count = green.in_thread(intake.receive, memoryview(room))
            pieces.append(bytes(room[:count]))
    return pieces


@pytest.mark.parametrize("sent", [b"0\r\n\r\n", b"x\r\n", b"2\r\nabX\r\n1\r\nc\r\n"])
def test_a_part_that_the_framing_cuts_short_is_a_disconnect(sent):
    errors = []

    def app(environ, start_response):
        try:
            taken(environ["wsgi.input"], 3, [8])
        except ClientDisconnect as error:
            errors.append(error)
            raise

    with Served(app) as served:
        client = served.connect()
        client.send(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + sent)
        assert client.read_all().startswith(b"HTTP/1.1 499")
    assert errors


def test_every_truncation_of_a_request_ends_the_connection_and_nothing_else():
    request = (
        b"PUT /1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nde\r\n0\r\nT: t\r\n\r\n"
    )
    with Served(echo) as served:
        for end in range(len(request)):
            client = served.connect()
            client.send(request[:end])
            client.sock.shutdown(socket.SHUT_WR)
            answer = client.read_all()
            client.sock.close()
            assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
        client = served.connect()
        client.send(request)
        assert client.answer()[2] == b"PUT /1 de"


@given(noise=st.binary(max_size=120), at=st.integers(0, 80), keep=st.integers(0, 80))
@settings(max_examples=80, deadline=None)
def test_noise_in_a_request_never_stops_the_server(noise, at, keep):
    request = (
        b"PUT /1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nde\r\n0\r\nT: t\r\n\r\n"
    )
    broken = request[:at] + noise + request[at + keep :]
    with Served(echo) as served:
        client = served.connect()
        client.send(broken)
        client.sock.shutdown(socket.SHUT_WR)
        client.read_all()
        client = served.connect()
        client.send(request)
        assert client.answer()[2] == b"PUT /1 de"
        assert not [line for line in served.log.lines if "failed" in line]


# --- Answers --------------------------------------------------------------------------


def answering(status, headers, body):
    def app(environ, start_response):
        start_response(status, headers)
        return body() if callable(body) else body

    return app


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")],
)
@pytest.mark.parametrize("kind", [list, iter])
def test_answers_that_have_no_body_keep_their_length(method, status, kind):
    app = answering(status, [("Content-Length", "5")], lambda: kind([b"hello"]))
    with Served(app) as served:
        client = served.connect()
        client.send(method.encode() + b" / HTTP/1.1\r\n\r\n")
        head = client.read_until(b"\r\n\r\n")
        assert b"\r\nContent-Length: 5\r\n" in head
        client.send(b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert client.read_all().startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("name", ["content-length", "CONTENT-LENGTH"])
def test_a_length_counts_in_any_case(name):
    with Served(answering("200 OK", [(name, "3")], lambda: iter([b"abc"]))) as served:
        client = served.connect()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.answer()[2] == b"abc"


def test_framing_is_not_left_to_the_app():
    headers = [("transfer-encoding", "x"), ("date", "never"), ("Connection", "keep")]
    with Served(answering("200 OK", headers, [b"abc"])) as served:
        client = served.connect()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        _, fields, body = client.answer()
    assert body == b"abc"
    assert fields["Date"] != "never"
    assert sorted(fields) == ["Content-Length", "Date"]


def test_a_body_of_unknown_length_is_chunked():
    app = answering("200 OK", [], lambda: iter([b"", b"ab", b"", b"c" * 17]))
    with Served(app) as served:
        client = served.connect()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        head = client.read_until(b"\r\n\r\n")
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        rest = client.read_until(b"0\r\n\r\n")
        assert rest == b"2\r\nab\r\n11\r\n" + b"c" * 17 + b"\r\n0\r\n\r\n"


def test_a_body_of_unknown_length_ends_the_connection_of_http_1_0():
    app = answering("200 OK", [], lambda: iter([b"ab", b"c"]))
    with Served(app) as served:
        answer = served.exchange(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize("kind", [list, iter])
def test_a_body_shorter_than_declared_cuts_the_connection(kind):
    app = answering("200 OK", [("Content-Length", "5")], lambda: kind([b"abc"]))
    with Served(app) as served:
        answer = served.exchange(b"GET / HTTP/1.1\r\n\r\n")
        assert answer.endswith(b"\r\n\r\nabc")
        assert any("2 bytes short of 5" in line for line in served.log.lines)


@pytest.mark.parametrize("kind", [list, iter])
def test_a_body_longer_than_declared_is_cut(kind):
    app = answering("200 OK", [("Content-Length", "2")], lambda: kind([b"abc", b"d"]))
    with Served(app) as served:
        answer = served.exchange(b"GET / HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nab")


def test_an_app_that_raises_gets_500_and_the_connection_closes():
    def app(environ, start_response):
        raise ZeroDivisionError("oops")

    with Served(app) as served:
        answer = served.exchange(b"GET / HTTP/1.1\r\n\r\n")
        assert any("oops" in line for line in served.log.lines)
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")


def test_an_iterator_that_raises_cuts_the_answer():
    def chunks():
        yield b"ab"
        raise ZeroDivisionError("oops")

    with Served(answering("200 OK", [], chunks)) as served:
        answer = served.exchange(b"GET / HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n2\r\nab\r\n")


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "a\nb", "a\rb", "snow\u2603"])
def test_a_header_that_would_break_the_head_is_an_error(value):
    with Served(answering("200 OK", [("X-A", value)], [b"ok"])) as served:
        answer = served.exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Set-Cookie" not in answer


def test_the_app_says_that_the_connection_is_to_be_closed():
    def app(environ, start_response):
        environ[keys.CONNECTION_CLOSE] = True
        start_response("200 OK", [])
        return [b"ok"]

    with Served(app) as served:
        answer = served.exchange(b"GET / HTTP/1.1\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in answer


class Closing:
    """An endless body that knows when it is closed."""

    def __init__(self):
        self.given = 0
        self.closed = green.Event()

    def __iter__(self):
        return self

    def __next__(self):
        self.given += 1
        return b"x" * 65536

    def close(self):
        self.closed.set()


def test_a_slow_reader_holds_the_app_back_and_leaving_closes_the_body():
    body = Closing()
    with Served(answering("200 OK", [], lambda: body)) as served:
        client = served.connect(receive_buffer=4096)
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        given = -1
        while given != body.given:
            given = body.given
            green.sleep(0.05)
        assert body.given * 65536 < 16_000_000
        client.sock.close()
        body.closed.wait(60)


def test_a_reader_that_stops_reading_is_given_up():
    body = Closing()
    app = answering("200 OK", [], lambda: body)
    with Served(app, client_timeout_s=0.1) as served:
        client = served.connect(receive_buffer=4096)
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        body.closed.wait(60)


class FileBody:
    """A file that is sent by the kernel."""

    def __init__(self, path, offset, length):
        self._file = path.open("rb")
        self.offset = offset
        self.length = length
        self.closed = False

    def fileno(self):
        return self._file.fileno()

    def passable(self, offset):
        return self.offset + self.length - offset

    def __iter__(self):
        yield os.pread(self.fileno(), self.length, self.offset)

    def close(self):
        self.closed = True
        self._file.close()


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_file_is_sent_without_being_read(tmp_path, method):
    path = tmp_path / "data"
    content = os.urandom(3_000_000)
    path.write_bytes(content)
    body = FileBody(path, 1000, 2_500_000)
    with Served(
        answering("200 OK", [("Content-Length", "2500000")], lambda: body)
    ) as s:
        client = s.connect()
        client.send(method + b" / HTTP/1.1\r\nConnection: close\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        expected = content[1000:2_501_000] if method == b"GET" else b""
        assert client.read_all() == expected
    assert body.closed


def test_a_file_that_has_shrunk_cuts_the_connection(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"x" * 1000)
    body = FileBody(path, 0, 5000)
    with Served(answering("200 OK", [], lambda: body)) as served:
        answer = served.exchange(b"GET / HTTP/1.1\r\n\r\n")
    assert b"\r\nContent-Length: 5000\r\n" in answer
    assert answer.endswith(b"\r\n\r\n" + b"x" * 1000)


class CheckedFile(FileBody):
    """A file that is looked at in windows, one of which may be found bad."""

    def __init__(self, path, offset, length, *, window, bad_from):
        super().__init__(path, offset, length)
        self._window = window
        self._bad_from = bad_from

    def passable(self, offset):
        if offset >= self._bad_from:
            raise ValueError("not what was stored")
        return min(self._window, super().passable(offset))


@pytest.mark.parametrize("window", [1, 70, 999])
def test_a_file_is_sent_window_by_window(tmp_path, window):
    path = tmp_path / "data"
    content = os.urandom(1000)
    path.write_bytes(content)
    body = CheckedFile(path, 100, 700, window=window, bad_from=10_000)
    with Served(answering("200 OK", [], lambda: body)) as served:
        answer = served.exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n" + content[100:800])


def test_a_window_that_is_found_bad_cuts_the_connection(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"x" * 1000)
    body = CheckedFile(path, 0, 1000, window=300, bad_from=900)
    with Served(answering("200 OK", [], lambda: body)) as served:
        answer = served.exchange(b"GET / HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n" + b"x" * 900)
    assert body.closed


def test_a_file_that_is_bad_from_the_start_is_an_error_of_its_own(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"x" * 1000)
    body = CheckedFile(path, 0, 1000, window=300, bad_from=0)
    with Served(answering("200 OK", [], lambda: body)) as served:
        answer = served.exchange(b"GET / HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert body.closed


# --- PROXY protocol -------------------------------------------------------------------


def test_the_proxy_line_says_who_the_client_is():
    environ = environ_of(
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1111 443\r\nGET / HTTP/1.1\r\n\r\n",
        require_proxy_protocol=True,
    )
    assert environ["REMOTE_ADDR"] == "1.2.3.4"
    assert environ["REMOTE_PORT"] == "1111"
    assert environ["SERVER_PORT"] == "443"
    assert environ["wsgi.url_scheme"] == "https"


def test_an_unknown_proxy_line_changes_nothing():
    environ = environ_of(
        b"PROXY UNKNOWN what ever\r\nGET / HTTP/1.1\r\n\r\n",
        require_proxy_protocol=True,
    )
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1111\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1111 443\r\n",
        b"PROXY " + b"x" * 200,
    ],
)
def test_without_a_proxy_line_there_is_no_service(line):
    with Served(echo, require_proxy_protocol=True) as served:
        answer = served.exchange(line)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")


# --- Limits of the whole --------------------------------------------------------------


def test_max_clients_bounds_requests_and_not_idle_connections():
    running = []
    most = []

    def app(environ, start_response):
        running.append(1)
        most.append(len(running))
        green.sleep(0.01)
        running.pop()
        start_response("200 OK", [])
        return [b"ok"]

    with Served(app, max_clients=2) as served:
        clients = [served.connect() for _ in range(6)]
        for _ in range(2):
            for client in clients:
                client.send(b"GET / HTTP/1.1\r\n\r\n")
            assert [client.answer()[2] for client in clients] == [b"ok"] * 6
    assert max(most) == 2


def test_no_descriptor_is_left_behind(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"x" * 100_000)

    def app(environ, start_response):
        kind = environ["PATH_INFO"]
        start_response("200 OK", [])
        if kind == "/file":
            return FileBody(path, 0, 100_000)
        if kind == "/endless":
            return Closing()
        return [environ["wsgi.input"].read()]

    with Served(app) as served:
        served.exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        before = len(os.listdir("/proc/self/fd"))
        for request in (
            b"GET /file HTTP/1.1\r\nConnection: close\r\n\r\n",
            b"bad\r\n\r\n",
            b"PUT / HTTP/1.1\r\nContent-Length: 10\r\n\r\nab",
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET /endless HTTP/1.1\r\n\r\n",
        ):
            client = served.connect()
            client.send(request)
            client.recv() if b"PUT" not in request else None
            client.sock.close()
        for _ in range(200):
            if len(os.listdir("/proc/self/fd")) <= before:
                break
            green.sleep(0.02)
        assert len(os.listdir("/proc/self/fd")) <= before
        assert not served.server.serving.connections
