# SPDX-License-Identifier: Apache-2.0
"""HTTP to peers: connections, answers and the pool, over real sockets."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.core.errors import PeerError, PeerTimeout
from swift.runtime import green
from swift.wire.client import (
    ConnectionPool,
    HttpConnection,
    TcpConnector,
    open_channel,
    peer_name,
)


class Peer:
    """A server that plays a script: one function a connection, in turn.

    Each function gets a `Line` and returns to close the connection. The last function
    serves all further connections.
    """

    def __init__(self, *scripts):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.accepted = 0
        self.closed = 0
        self.requests = []
        self._scripts = scripts
        self._threads = [green.spawn(self._accept)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for thread in self._threads:
            thread.kill()
        self.listener.close()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                green.wait_readable(self.listener)
                continue
            script = self._scripts[min(self.accepted, len(self._scripts) - 1)]
            self.accepted += 1
            sock.setblocking(False)
            self._threads.append(green.spawn(self._play, script, sock))

    def _play(self, script, sock):
        try:
            script(Line(sock, self.requests))
        finally:
            sock.close()
            self.closed += 1

    def has_closed(self, connections):
        """Wait until so many connections are closed, and our end has heard of it."""
        deadline = green.monotonic() + 60
        while self.closed < connections:
            assert green.monotonic() < deadline
            green.yield_now()
        # Between two turns the scheduler looks at all descriptors.
        green.yield_now()
        green.yield_now()


class Line:
    """The peer's end of a connection."""

    def __init__(self, sock, requests):
        self.sock = sock
        self.held = b""
        self.requests = requests

    def more(self):
        while True:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                green.wait_readable(self.sock)
                continue
            except ConnectionResetError:
                return False
            self.held += data
            return bool(data)

    def request(self):
        """The head of the next request; None at the end."""
        while b"\r\n\r\n" not in self.held:
            if not self.more():
                return None
        head, _, self.held = self.held.partition(b"\r\n\r\n")
        self.requests.append(head)
        return head

    def body(self, count):
        while len(self.held) < count:
            assert self.more()
        body, self.held = self.held[:count], self.held[count:]
        return body

    def send(self, data):
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                green.wait_writable(self.sock)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def obliging(line):
    """Answers every request."""
    while line.request() is not None:
        line.send(OK)


def after(answer):
    """Answers one request, and closes."""

    def script(line):
        line.request()
        line.send(answer)

    return script


def ask(pool, peer, method="GET", body=b"", headers=(), timeout_s=60.0):
    return pool.request(
        "127.0.0.1",
        peer.port,
        method,
        "/x",
        headers,
        body,
        connect_timeout_s=60.0,
        response_timeout_s=timeout_s,
    )


def connected(peer):
    return TcpConnector().connect("127.0.0.1", peer.port, 5.0)


# --- Requests and answers -------------------------------------------------------------


def test_a_request_says_its_host_and_length():
    with Peer(obliging) as peer, closing_pool() as pool:
        ask(pool, peer, "PUT", b"abc", [("x-object-META-a", "b")]).read()
        ask(pool, peer, "PUT").read()
        ask(pool, peer, "GET", headers=[("host", "h"), ("content-length", "0")]).read()
        host = f"127.0.0.1:{peer.port}".encode()
    assert peer.requests == [
        b"PUT /x HTTP/1.1\r\nHost: " + host + b"\r\nX-Object-Meta-A: b"
        b"\r\nContent-Length: 3",
        b"abcPUT /x HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 0",
        b"GET /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0",
    ]


def closing_pool(**options):
    class Closing(ConnectionPool):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

    return Closing(**options)


def test_an_answer_has_status_reason_headers_and_body():
    answer = (
        b"HTTP/1.1 404 Not There\r\nx-a: 1\r\nX-A: 2 \r\nETag: \xe9\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )
    with Peer(after(answer)) as peer, closing_pool() as pool:
        response = ask(pool, peer)
    assert (response.status, response.reason) == (404, "Not There")
    assert response.headers == {"X-A": "1,2", "Etag": "\xe9", "Content-Length": "3"}
    assert response.content_length == 3
    assert response.read() == b"abc"
    assert response.ended


@pytest.mark.parametrize(
    ("method", "answer", "body", "kept"),
    [
        pytest.param("GET", OK, b"ok", 1, id="counted"),
        pytest.param("HEAD", OK[:-2], b"", 1, id="HEAD"),
        pytest.param(
            "GET",
            b"HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n",
            b"",
            1,
            id="204 with a length",
        ),
        pytest.param("GET", b"HTTP/1.1 304 No\r\n\r\n", b"", 1, id="304"),
        pytest.param(
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: t\r\n\r\n",
            b"abcde",
            1,
            id="chunked",
        ),
        pytest.param(
            "GET",
            b"HTTP/1.1 200 OK\r\n\r\nto the end",
            b"to the end",
            0,
            id="to the end",
        ),
        pytest.param(
            "GET",
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
            b"x",
            0,
            id="close",
        ),
        pytest.param(
            "GET",
            b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
            b"x",
            0,
            id="HTTP/1.0",
        ),
        pytest.param("GET", OK + b"more", b"ok", 0, id="more than announced"),
        pytest.param(
            "GET",
            b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK,
            b"ok",
            1,
            id="after an interim answer",
        ),
    ],
)
@pytest.mark.parametrize("drip", [False, True])
def test_the_framings_of_an_answer(method, answer, body, kept, drip):
    done = green.Event()

    def script(line):
        line.request()
        if drip:
            for index in range(len(answer)):
                line.send(answer[index : index + 1])
                green.yield_now()
        else:
            line.send(answer)
        if kept:
            done.wait(60)

    with Peer(script) as peer, closing_pool() as pool:
        response = ask(pool, peer, method)
        assert response.read() == body
        assert pool.idle_count() == (kept or (drip and answer == OK + b"more"))
        done.set()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 140_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
    ],
    ids=range(12),
)
def test_an_answer_that_is_none_is_a_peer_error(answer):
    with Peer(after(answer)) as peer, closing_pool() as pool:
        with pytest.raises(PeerError, match=f"127.0.0.1:{peer.port}"):
            ask(pool, peer)
        assert pool.idle_count() == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    ],
    ids=range(5),
)
def test_a_body_that_breaks_off_is_a_peer_error(answer):
    with Peer(after(answer)) as peer, closing_pool() as pool:
        response = ask(pool, peer)
        with pytest.raises(PeerError):
            response.read()
        assert response.ended
        assert pool.idle_count() == 0


def test_a_silent_peer_is_a_timeout_and_not_asked_again():
    def silent(line):
        line.request()
        line.more()

    with Peer(silent) as peer, closing_pool() as pool, pytest.raises(PeerTimeout):
        ask(pool, peer, timeout_s=0.05)
    assert len(peer.requests) == 1


def test_a_head_that_drips_does_not_outlast_its_limit():
    def dripping(line):
        line.request()
        line.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            line.send(b"A: b\r\n")
            green.sleep(0.02)

    with Peer(dripping) as peer, closing_pool() as pool, pytest.raises(PeerTimeout):
        ask(pool, peer, timeout_s=0.1)


def test_a_body_that_stalls_is_a_timeout():
    def stalling(line):
        line.request()
        line.send(OK[:-1])
        line.more()

    with Peer(stalling) as peer, closing_pool() as pool:
        response = ask(pool, peer)
        response.timeout_s = 0.05
        with pytest.raises(PeerTimeout):
            response.read()


def test_nobody_listening_is_a_peer_error():
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(PeerError):
        open_channel("127.0.0.1", port, 1.0)


def test_a_host_name_is_resolved():
    with Peer(obliging) as peer, closing_pool() as pool:
        response = pool.request(
            "localhost",
            peer.port,
            "GET",
            "/",
            [],
            connect_timeout_s=60,
            response_timeout_s=60,
        )
        assert response.read() == b"ok"


def test_ipv6_addresses_stand_in_brackets():
    assert peer_name("::1", 80) == "[::1]:80"


@given(
    body=st.binary(max_size=300),
    cuts=st.lists(st.integers(1, 99), max_size=6),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    chunked=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_a_body_reads_the_same_however_it_is_cut(body, cuts, sizes, chunked):
    pieces = []
    rest = body
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    pieces.append(rest)
    head = b"HTTP/1.1 200 OK\r\n"
    if chunked:
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece]
        pieces.append(b"0\r\n\r\n")
    else:
        head += b"Content-Length: %d\r\n\r\n" % len(body)

    def script(line):
        line.request()
        line.send(head)
        for piece in pieces:
            line.send(piece)
            green.yield_now()
        line.more()

    with Peer(script) as peer, closing_pool() as pool:
        response = ask(pool, peer)
        read = []
        turn = 0
        while piece := response.read(sizes[turn % len(sizes)]):
            read.append(piece)
            turn += 1
        assert b"".join(read) == body
        assert pool.idle_count() == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nab\r\n2\r\ncd\r\n0\r\nT: t\r\n\r\n",
    ],
    ids=["counted", "chunked"],
)
def test_every_truncation_of_an_answer_is_noticed(answer):
    scripts = [after(answer[:end]) for end in range(len(answer))]
    with Peer(*scripts) as peer, closing_pool() as pool:
        for _ in scripts:
            with pytest.raises(PeerError):
                ask(pool, peer).read()
        assert pool.idle_count() == 0


@given(noise=st.binary(max_size=60), at=st.integers(0, 60), drop=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_noise_in_an_answer_is_an_answer_or_a_peer_error(noise, at, drop):
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    )
    broken = answer[:at] + noise + answer[at + drop :]
    quiet = contextlib.suppress(PeerError)
    with Peer(after(broken)) as peer, closing_pool() as pool, quiet:
        ask(pool, peer).read()


# --- Uploads --------------------------------------------------------------------------


def test_an_upload_waits_for_continue_and_sends_chunks_in_phases():
    def script(line):
        line.request()
        line.send(b"HTTP/1.1 100 Continue\r\nX-Obj-Multiphase-Commit: yes\r\n\r\n")
        line.requests.append(line.body(13))
        line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        line.requests.append(line.body(13))
        line.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    with Peer(script) as peer:
        connection = connected(peer)
        connection.send_head("PUT", "/o", [("Transfer-Encoding", "chunked")])
        answer = connection.wait_continue(5)
        assert answer.status == 100
        assert answer.headers["X-Obj-Multiphase-Commit"] == "yes"
        connection.send_chunk(b"abc")
        connection.send_chunk(b"")
        connection.end_chunks()
        assert connection.wait_continue(5).status == 100
        connection.send_chunk(b"def")
        connection.end_chunks()
        final = connection.response(60)
        assert final.status == 201
        assert final.ended
        connection.close()
    assert peer.requests[1:] == [b"3\r\nabc\r\n0\r\n\r\n", b"3\r\ndef\r\n0\r\n\r\n"]


def test_a_final_answer_instead_of_continue_ends_the_connection():
    with Peer(obliging) as peer, closing_pool() as pool:
        connection = pool.take("127.0.0.1", peer.port, 5)
        connection.send_head(
            "PUT", "/o", [("Content-Length", "5"), ("Expect", "100-continue")]
        )
        answer = connection.wait_continue(5)
        assert answer.status == 200
        assert answer.read() == b"ok"
        assert pool.idle_count() == 0
        assert not connection.reusable


def test_sending_to_a_peer_that_is_gone_is_a_peer_error():
    def leaving(line):
        line.request()

    with Peer(leaving) as peer:
        connection = connected(peer)
        connection.send_head("PUT", "/o", [("Transfer-Encoding", "chunked")])

        def send_on():
            for _ in range(1000):
                connection.send_chunk(b"x" * 65536)

        with pytest.raises(PeerError):
            send_on()
        connection.close()


# --- The pool -------------------------------------------------------------------------


def test_a_connection_is_used_again_and_again():
    with Peer(obliging) as peer, closing_pool() as pool:
        for _ in range(5):
            assert ask(pool, peer).read() == b"ok"
        assert pool.idle_count() == 1
    assert peer.accepted == 1


def test_a_kept_connection_that_was_closed_is_replaced_unseen():
    with Peer(after(OK), obliging) as peer, closing_pool() as pool:
        assert ask(pool, peer).read() == b"ok"
        peer.has_closed(1)
        assert ask(pool, peer).read() == b"ok"
    assert len(peer.requests) == 2


def test_a_request_that_met_a_dying_connection_is_sent_again():
    def dying(line):
        line.request()
        line.send(OK)
        line.request()

    with Peer(dying, obliging) as peer, closing_pool() as pool:
        assert ask(pool, peer).read() == b"ok"
        assert ask(pool, peer, "PUT", b"body").read() == b"ok"
    assert peer.accepted == 2
    assert len(peer.requests) == 3


def test_no_request_is_repeated_once_an_answer_has_begun():
    def dying(line):
        line.request()
        line.send(OK)
        line.request()
        line.send(b"HTTP/1.1 201 Crea")

    with Peer(dying, obliging) as peer, closing_pool() as pool:
        assert ask(pool, peer).read() == b"ok"
        with pytest.raises(PeerError):
            ask(pool, peer, "PUT", b"body")
    assert peer.accepted == 1


def test_a_new_connection_that_fails_is_not_tried_again():
    def leaving(line):
        line.request()

    with Peer(leaving) as peer, closing_pool() as pool, pytest.raises(PeerError):
        ask(pool, peer)
    assert peer.accepted == 1


def test_taking_a_connection_looks_whether_it_lives():
    with Peer(after(OK), obliging) as peer, closing_pool() as pool:
        assert ask(pool, peer).read() == b"ok"
        peer.has_closed(1)
        connection = pool.take("127.0.0.1", peer.port, 5)
        assert connection.fresh
        connection.send_head("GET", "/", [])
        assert connection.response(60).read() == b"ok"
        assert pool.idle_count() == 1


def test_an_unread_body_is_drained_or_its_connection_closed():
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000

    def generous(line):
        while line.request() is not None:
            line.send(big)

    with Peer(generous) as peer, closing_pool() as pool:
        assert ask(pool, peer).drain(200_000)
        assert pool.idle_count() == 1
        assert not ask(pool, peer).drain(1000)
        assert pool.idle_count() == 0
        ask(pool, peer).close()
        assert pool.idle_count() == 0


def test_old_and_surplus_connections_are_closed():
    clock = green.JumpingClock()
    with Peer(obliging) as peer, closing_pool(max_idle_per_peer=2, idle_s=10) as pool:
        responses = [ask(pool, peer) for _ in range(4)]
        assert [response.read() for response in responses] == [b"ok"] * 4
        assert pool.idle_count() == 2
        green.install(clock)
        try:
            clock.sleep(1_000_000_000)
            assert ask(pool, peer).read() == b"ok"
            assert pool.idle_count() == 1
        finally:
            green.install(None)
    assert peer.accepted == 5


def test_what_a_connector_gives_is_what_the_pool_uses():
    made = []

    class Recording(TcpConnector):
        def connect(self, ip, port, timeout_s):
            made.append((ip, port))
            return super().connect(ip, port, timeout_s)

    with Peer(obliging) as peer, closing_pool(connector=Recording()) as pool:
        ask(pool, peer).read()
        assert made == [("127.0.0.1", peer.port)]


def test_no_descriptor_is_left_behind():
    before = len(os.listdir("/proc/self/fd"))
    scripts = [
        after(b""),
        after(b"HTTP/1.1 nonsense\r\n\r\n"),
        after(OK[:-1]),
        obliging,
    ]
    with Peer(*scripts) as peer, closing_pool() as pool:
        for _ in range(3):
            with pytest.raises(PeerError):
                ask(pool, peer).read()
        assert ask(pool, peer).read() == b"ok"
    deadline = green.monotonic() + 60
    while len(os.listdir("/proc/self/fd")) > before:
        assert green.monotonic() < deadline, "descriptors leak"
        green.yield_now()


def test_a_killed_request_closes_its_connection():
    opened = []

    class Recording(TcpConnector):
        def connect(self, ip, port, timeout_s):
            opened.append(super().connect(ip, port, timeout_s))
            return opened[-1]

    def silent(line):
        line.request()
        line.more()

    with Peer(silent) as peer, closing_pool(connector=Recording()) as pool:
        thread = green.spawn(ask, pool, peer)
        while not peer.requests:
            green.sleep(0.001)
        thread.kill()
        assert isinstance(opened[0], HttpConnection)
        assert opened[0].channel.watch.closed
