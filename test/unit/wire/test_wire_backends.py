# SPDX-License-Identifier: Apache-2.0
"""Reads that many nodes take part in."""

from __future__ import annotations

import json

from swift.core.erasure import ErasureCoding
from swift.core.headers import Headers
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.logs import NULL_LOG
from swift.wire.backends import Ask, Backends
from swift.wire.client import ConnectionPool
from swift.wire.nodes import Candidates, ErrorLimiter, NodeTimings
from swift.wire.request import Response
from test.support.nodes import Nodes, make_cluster

CODING = ErasureCoding("isa_l_rs_vand", 2, 1, segment_size=4096)
OLD, NEW = (Timestamp.parse(f"170000000{n}.00000") for n in (1, 2))
PATH = "/a/c/o"


def fragment_of(when, index):
    """What a node answers that has a committed fragment, and a newer one that is not.

    when: the time of the fragment that is given.
    """
    return Response(
        200,
        Headers(
            {
                "X-Backend-Timestamp": when.internal,
                "X-Backend-Data-Timestamp": when.internal,
                "X-Backend-Durable-Timestamp": OLD.internal,
                "X-Backend-Fragments": json.dumps(
                    {NEW.internal: [index], OLD.internal: [index]}
                ),
                "X-Object-Sysmeta-Ec-Frag-Index": str(index),
                "X-Object-Sysmeta-Ec-Etag": f"e-{when.internal}",
                "X-Object-Sysmeta-Ec-Content-Length": "5",
                "X-Object-Sysmeta-Ec-Scheme": CODING.scheme,
            }
        ),
        b"fragment",
    )


def read_newest(nodes, primaries, handoffs=()):
    """The collector of a read that asks all primaries at once."""
    limiter = ErrorLimiter(60.0, 10)
    backends = Backends(
        ConnectionPool(nodes),
        limiter=limiter,
        timings=NodeTimings(300.0),
        conn_timeout_s=30.0,
        log=NULL_LOG,
    )
    candidates = Candidates(
        primaries, handoffs, count=6, limiter=limiter, now=green.now
    )
    collector = CODING.collector(newest=True, suppress_missing=0, wants_body=True)
    ask = Ask("GET", 0, PATH, [])
    backends.read(ask, candidates, collector, timeout_s=30.0, at_once=3)
    return collector


def test_newest_reads_the_committed_fragments_under_failed_ones():
    nodes, cluster = Nodes(), make_cluster()
    primaries = cluster.object_ring(0).primaries(0)

    def node_with(index):
        def answer(seen):
            text = seen.headers.get("X-Backend-Fragment-Preferences", "[]")
            known = {item["timestamp"]: item["exclude"] for item in json.loads(text)}
            has_given = index in known.get(NEW.internal, ())
            return fragment_of(OLD if has_given else NEW, index)

        return answer

    for index, node in enumerate(primaries):
        nodes.faults[node.ip] = node_with(index)
    collector = read_newest(nodes, primaries)

    assert collector.chosen is not None
    assert collector.chosen.headers["X-Backend-Data-Timestamp"] == OLD.internal
    assert len(collector.sources) == 2


def test_newest_goes_on_to_handoffs_for_what_was_committed():
    nodes, cluster = Nodes(), make_cluster()
    ring = cluster.object_ring(0)
    primaries, handoffs = ring.primaries(0), list(ring.handoffs(0))
    for node in (*primaries[1:], *handoffs[1:]):
        nodes.faults[node.ip] = lambda _: Response(404)
    nodes.faults[primaries[0].ip] = lambda _: fragment_of(OLD, 0)
    nodes.faults[handoffs[0].ip] = lambda _: fragment_of(OLD, 1)

    collector = read_newest(nodes, primaries, handoffs)

    assert sorted(collector.sources) == [0, 1]
