# SPDX-License-Identifier: Apache-2.0
"""One PUT to each of several nodes: documents, phases, and nodes that fall behind."""

from __future__ import annotations

import pytest

from swift.core import headers as h
from swift.core import mime
from swift.runtime import green
from swift.runtime.logs import NULL_LOG
from swift.wire import environ as env
from swift.wire.backends import Ask, Backends
from swift.wire.client import ConnectionPool
from swift.wire.nodes import Candidates, ErrorLimiter, NodeTimings
from swift.wire.request import Response
from swift.wire.uploads import Framing, connect_all
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


def connect(nodes, framing, timeout_s=2.0):
    backends = Backends(
        ConnectionPool(nodes),
        limiter=ErrorLimiter(60, 10),
        timings=NodeTimings(300),
        conn_timeout_s=0.5,
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
    ready = [connected.results.get(2) for _ in range(3)]
    assert {answer.status for _, answer in ready} == {100}
    assert nodes.durable == {}
    for upload, _ in ready:
        upload.commit()
    assert {connected.results.get(2)[1].status for _ in range(3)} == {201}
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
            green.sleep(5)
            return Response(201)

    connected = connect(Stalling(), Framing(1 << 30), timeout_s=0.2)
    chunk = b"x" * 65536
    upload = connected.uploads[0]
    sent = 0
    while upload.put(chunk):
        sent += 1
        assert sent < 1000
    _, answer = connected.results.get(1)
    assert answer.status == 503
    for other in connected.uploads[1:]:
        other.abort()
