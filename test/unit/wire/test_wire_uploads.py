# SPDX-License-Identifier: Apache-2.0
"""One PUT to each of several nodes: documents, phases, and nodes that fall behind."""

from __future__ import annotations

import fcntl
import os
import socket

import pytest

from swift.core import headers as h
from swift.core import mime
from swift.core.errors import ClientDisconnect, ClientTimeout
from swift.runtime import green
from swift.runtime.logs import NULL_LOG
from swift.wire import environ as env
from swift.wire import splicing
from swift.wire.backends import Ask, Backends
from swift.wire.body import RequestBody
from swift.wire.channel import Channel
from swift.wire.client import ConnectionPool
from swift.wire.nodes import Candidates, ErrorLimiter, NodeTimings
from swift.wire.request import Response
from swift.wire.uploads import Framing, connect_all, splice_to_all
from test.support.nodes import Nodes, make_ring

BOUNDARY = "b" * 64
ASK = Ask("PUT", 0, "/a/c/o", [(h.X_TIMESTAMP, "1700000000.00000")])


class PhasedNodes(Nodes):
    """Nodes that take multi-phase PUTs; `durable` fills when a commit has come."""

    def __init__(self):
        super().__init__()
        self.durable = {}
        self.grant = {}

    def answer(self, ip, port, environ):
        source = environ[env.WSGI_INPUT]
        granted = [(h.X_OBJ_METADATA_FOOTER, "yes"), (h.X_OBJ_MULTIPHASE_COMMIT, "yes")]
        source.continue_headers(self.grant.get(ip, granted))
        parser = mime.MimeParser(BOUNDARY.encode())
        documents = []
        self._collect(parser.feed(source.read()), documents)
        source.resume()
        self._collect(parser.feed(source.read()), documents)
        self.durable[ip] = documents
        return Response(201, {h.ETAG: '"e"'}, b"")

    @staticmethod
    def _collect(events, documents):
        for event in events:
            if isinstance(event, mime.PartStart):
                documents.append([event.headers[h.X_DOCUMENT], b""])
            elif isinstance(event, bytes):
                documents[-1][1] += event


@pytest.fixture
def nodes():
    return PhasedNodes()


def connect(nodes, framing, timeout_s=60.0):
    backends = Backends(
        ConnectionPool(nodes),
        limiter=ErrorLimiter(60, 10),
        timings=NodeTimings(300),
        conn_timeout_s=60,
        log=NULL_LOG,
    )
    ring = make_ring("object")
    candidates = Candidates(
        ring.primaries(0),
        ring.handoffs(0),
        count=6,
        limiter=backends.limiter,
        now=green.now,
    )
    return connect_all(backends, ASK, [()] * 3, candidates, framing, timeout_s)


TWO_PHASES = Framing(4, BOUNDARY, has_footers=True, two_phase=True)


def test_a_commit_follows_when_all_are_ready(nodes):
    connected = connect(nodes, TWO_PHASES)
    assert [upload.index for upload in connected.uploads] == [0, 1, 2]
    for upload in connected.uploads:
        assert upload.put(b"da")
        assert upload.put(b"ta")
        upload.finish({"Etag": f"etag-{upload.index}"})
    ready = [connected.results.get(60) for _ in range(3)]
    assert {answer.status for _, answer in ready} == {100}
    assert nodes.durable == {}
    for upload, _ in ready:
        upload.commit()
    assert {connected.results.get(60)[1].status for _ in range(3)} == {201}
    assert len(nodes.durable) == 3
    for documents in nodes.durable.values():
        assert documents[0] == [mime.OBJECT_BODY, b"data"]
        assert documents[1][0] == mime.OBJECT_METADATA
        assert documents[2] == [mime.PUT_COMMIT, mime.COMMIT_CONFIRMATION]


def test_an_upload_that_is_aborted_leaves_nothing(nodes):
    connected = connect(nodes, TWO_PHASES)
    for upload in connected.uploads:
        upload.put(b"da")
        upload.abort()
        assert not upload.put(b"ta")
    green.sleep(0.05)
    assert nodes.durable == {}


def test_a_node_that_does_not_know_documents_is_replaced(nodes):
    first = make_ring("object").primaries(0)[0].ip
    nodes.grant[first] = []
    connected = connect(nodes, TWO_PHASES)
    assert len(connected.uploads) == 3
    assert first not in {upload.node.ip for upload in connected.uploads}
    for upload in connected.uploads:
        upload.abort()


def test_final_answers_come_back_instead_of_uploads(nodes):
    class Refusing(Nodes):
        def answer(self, ip, port, environ):
            return Response(409)

    connected = connect(Refusing(), Framing(4))
    assert connected.uploads == []
    assert [answer.status for answer in connected.answers] == [409] * 3


def test_a_node_that_takes_nothing_loses_its_place(nodes):
    class Stalling(Nodes):
        def answer(self, ip, port, environ):
            environ[env.WSGI_INPUT].read(1)
            green.sleep(60)
            return Response(201)

    connected = connect(Stalling(), Framing(1 << 30), timeout_s=0.2)
    chunk = b"x" * 65536
    upload = connected.uploads[0]
    sent = 0
    while upload.put(chunk):
        sent += 1
        assert sent < 1000
    _, answer = connected.results.get(60)
    assert answer.status == 503
    for other in connected.uploads[1:]:
        other.abort()


# --- Bodies that pass inside the kernel -----------------------------------------------


class Keeping(Nodes):
    """Nodes that keep the bytes; those in `slow` take none until told to go on."""

    def __init__(self, slow=()):
        super().__init__()
        self.bodies = {}
        self.go_on = green.Event()
        self._slow = slow

    def answer(self, ip, port, environ):
        source = environ[env.WSGI_INPUT]
        first = source.read(1)
        if ip in self._slow:
            self.go_on.wait(60)
        self.bodies[ip] = first + source.read()
        return Response(201, {h.ETAG: '"e"'}, b"")


class Client:
    """A client that sends `parts` over a socket, and the body as a server sees it."""

    def __init__(self, parts, length, buffered=b"", *, pause_s=0.0):
        ours, theirs = socket.socketpair()
        self._channel = Channel(theirs)
        self.body = RequestBody(Channel(ours), buffered, length, 30.0)
        self._pause_s = pause_s
        self._thread = green.spawn(self._send, parts)

    def _send(self, parts):
        for part in parts:
            self._channel.send(part, 30)
            green.sleep(self._pause_s)
        self._channel.end_sending()

    def close(self):
        self._thread.kill()
        self._channel.close()


def passed_on(nodes, client, length, quorum=2, timeout_s=30.0):
    """What splice_to_all says, and the nodes' answers."""
    connected = connect(nodes, Framing(length), timeout_s)
    assert all(upload.can_splice for upload in connected.uploads)
    try:
        met = splice_to_all(client.body, length, connected.uploads, quorum)
        answers = []
        if met:
            for upload in connected.uploads:
                upload.finish()
            answers = [connected.results.get(60)[1].status for _ in connected.uploads]
        return met, sorted(answers)
    finally:
        for upload in connected.uploads:
            upload.abort()
        client.close()


@pytest.mark.parametrize("size", [1, 65_537, 5_000_000])
@pytest.mark.parametrize("pause_s", [0.0, 0.001])
def test_all_nodes_get_the_bytes_that_the_kernel_moves(size, pause_s):
    body = os.urandom(size)
    parts = [body[at : at + 300_001] for at in range(0, size, 300_001)]
    nodes = Keeping()
    client = Client(parts, size, pause_s=pause_s)
    assert passed_on(nodes, client, size) == (True, [201] * 3)
    assert list(nodes.bodies.values()) == [body] * 3
    assert client.body.finished


def test_bytes_that_came_with_the_head_are_passed_on_first():
    body = os.urandom(1_000_000)
    nodes = Keeping()
    client = Client([body[700_000:]], len(body), body[:700_000])
    assert passed_on(nodes, client, len(body)) == (True, [201] * 3)
    assert list(nodes.bodies.values()) == [body] * 3


def test_bytes_of_the_next_request_stay_where_they_are():
    nodes = Keeping()
    client = Client([b"x" * 400_000 + b"GET / HTTP/1.1"], 400_000)
    assert passed_on(nodes, client, 400_000) == (True, [201] * 3)
    assert list(nodes.bodies.values()) == [b"x" * 400_000] * 3


def test_a_slow_node_loses_its_place_and_the_others_have_all():
    slow = make_ring("object").primaries(0)[0].ip
    nodes = Keeping({slow})
    size = 20_000_000
    client = Client([b"y" * size], size)
    # Long enough for those that only wait for a busy machine.
    assert passed_on(nodes, client, size, timeout_s=3.0) == (True, [201, 201, 503])
    assert slow not in nodes.bodies
    assert list(nodes.bodies.values()) == [b"y" * size] * 2
    nodes.go_on.set()


def test_too_few_nodes_end_the_body():
    ring = make_ring("object")
    nodes = Keeping({node.ip for node in ring.primaries(0)[:2]})
    client = Client([b"y" * 20_000_000], 20_000_000)
    assert passed_on(nodes, client, 20_000_000, timeout_s=3.0) == (False, [])
    nodes.go_on.set()


def test_a_client_that_breaks_off_leaves_nothing_behind():
    nodes = Keeping()
    before = len(os.listdir("/proc/self/fd"))
    client = Client([b"z" * 900_000], 1_000_000)
    with pytest.raises(ClientDisconnect):
        passed_on(nodes, client, 1_000_000)
    assert nodes.bodies == {}
    # No more than the pipes that are kept for the next body.
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * 4 + 2 * 3 + 2


def test_without_pipes_nothing_is_taken(monkeypatch):
    def narrow(*_arguments):
        raise PermissionError

    monkeypatch.setattr(fcntl, "fcntl", narrow)
    monkeypatch.setattr(splicing, "_pipes", [])
    client = Client([b"z" * 1000], 1000)
    assert passed_on(Keeping(), client, 1000) == (None, [])


def test_a_connection_that_is_cut_ends_an_intake():
    client = Client([b"a" * 100], 1000)
    intake = client.body.intake()
    room = memoryview(bytearray(500))
    assert intake.wait()
    assert intake.receive(room) == 100
    client.body._channel.close()
    # Its own descriptor is open still, but would have nothing for ever.
    with pytest.raises(ClientTimeout):
        intake.wait()
    intake.close()
    client.close()
