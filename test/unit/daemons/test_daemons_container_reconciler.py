# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from swift.core.errors import ConfigError
from swift.core.headers import Headers
from swift.core.misplaced import queue_container
from swift.core.settings import bind
from swift.core.timestamp import Timestamp
from swift.daemons.container_reconciler import ContainerReconciler, ReconcilerConfig
from swift.runtime import green
from swift.runtime.daemon import Frame, Scope, run_pass
from swift.runtime.logs import DEBUG, ListSink, Logger
from swift.runtime.metrics import NO_METRICS
from swift.wire.client import ConnectionPool
from swift.wire.request import Response
from test.support.internal import FakeProxy
from test.support.nodes import Nodes, Stored, make_cluster

QUEUE = "/.misplaced_objects"


class Misplaced:
    """A queue, a container of policy 0, and objects in policies."""

    def __init__(self):
        self.proxy = FakeProxy()
        self.nodes = Nodes()
        self.cluster = make_cluster()
        self.sink = ListSink()
        self.when = Timestamp.at(int(green.now()) - 100)
        self.objects = {}
        self.written = []
        self.policy("/a/c", 0)

    def policy(self, container, index, among=range(1, 7)):
        for number in among:
            headers = Headers({"X-Backend-Storage-Policy-Index": index})
            key = (f"10.0.0.{number}", 6201, container)
            self.nodes.store[key] = Stored(Timestamp.at(1.0), headers, b"")

    def add(self, path="/a/c/o", *, policy=1, deleted=False, when=None):
        """Queue an entry; the path of its row."""
        stamp = when or self.when
        container = queue_container(stamp.internal)
        name = f"{policy}:{path}"
        self.proxy.list(QUEUE, [container])
        self.proxy.list(
            f"{QUEUE}/{container}",
            [name],
            content_type="application/x-delete" if deleted else "application/x-put",
            hash=stamp.internal,
            last_modified=stamp.iso,
        )
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            self.proxy.answers[method, path] = self.answer_of(method, path)
        row = f"{QUEUE}/{container}/{name}"
        for number in range(1, 7):
            key = (f"10.0.0.{number}", 6201, row)
            self.nodes.store[key] = Stored(Timestamp.at(1.0), Headers(), b"")
        return row

    def put(self, policy, when, body=b"body", path="/a/c/o"):
        """Let a policy have the object; body None: a tombstone; an int: a status."""
        self.objects[policy, path] = (when, body)

    def answer_of(self, method, path):
        def answer(headers, body):
            policy = int(headers["X-Backend-Storage-Policy-Index"])
            if method in ("PUT", "DELETE"):
                self.written.append((method, policy, headers, body))
                found = self.objects.get((policy, path), (None, None))[1]
                return found if isinstance(found, int) else 201
            if (policy, path) not in self.objects:
                return 404
            when, content = self.objects[policy, path]
            if isinstance(content, int):
                return content
            stamp = {"X-Backend-Timestamp": when.internal}
            if content is None:
                return Response(404, stamp, b"")
            return Response(
                200,
                {
                    **stamp,
                    "Etag": '"841a2d689ad86bd1611447453c22c6fc"',
                    "Content-Type": "text/x",
                    "Content-Length": str(len(content)),
                    "X-Object-Meta-Colour": "red",
                    "X-Object-Sysmeta-Key": "value",
                    "Last-Modified": "whenever",
                },
                content,
            )

        return answer

    def run(self, **options):
        config = ReconcilerConfig(**options)
        log = Logger("reconciler", [self.sink], level=DEBUG)
        reconciler = ContainerReconciler(
            config,
            Frame(self.cluster, log, NO_METRICS),
            client=self.proxy.client(),
            pool=ConnectionPool(self.nodes),
        )
        run_pass(reconciler, Scope(once=True))
        return reconciler._stats

    def steps(self):
        return [
            (method, policy, headers["X-Timestamp"])
            for method, policy, headers, _ in self.written
        ]

    def popped(self):
        return {
            (seen.path, seen.headers["X-Timestamp"])
            for seen in self.nodes.of("container", "DELETE")
        }

    def lines(self):
        return "\n".join(line for _, line in self.sink.lines)


@pytest.fixture
def misplaced():
    return Misplaced()


def offset(stamp, units):
    return stamp.plus(offset=units).internal


def test_an_object_goes_where_its_container_is(misplaced):
    row = misplaced.add()
    misplaced.put(1, misplaced.when)

    stats = misplaced.run()

    when = misplaced.when
    assert misplaced.steps() == [
        ("PUT", 0, offset(when, 3)),
        ("DELETE", 1, offset(when, 1)),
    ]
    _, _, headers, body = misplaced.written[0]
    assert body == b"body"
    assert headers["X-Object-Meta-Colour"] == "red"
    assert headers["X-Object-Sysmeta-Key"] == "value"
    assert headers["Content-Type"] == "text/x"
    assert headers["Etag"] == "841a2d689ad86bd1611447453c22c6fc"
    assert "Last-Modified" not in headers
    assert misplaced.popped() == {(row, offset(when, 2))}
    assert len(misplaced.nodes.of("container", "DELETE")) == 3
    assert stats == {"copied": 1, "success": 1}


def test_a_newer_source_keeps_its_time(misplaced):
    misplaced.add()
    newer = misplaced.when.plus(500)
    misplaced.put(1, newer)

    misplaced.run()

    assert misplaced.steps()[0] == ("PUT", 0, offset(newer, 3))


def test_a_delete_goes_too(misplaced):
    misplaced.add(deleted=True)
    misplaced.put(0, misplaced.when.plus(-5))
    misplaced.put(1, misplaced.when, None)

    assert misplaced.run() == {"deleted": 1, "success": 1}
    assert misplaced.steps() == [
        ("DELETE", 0, offset(misplaced.when, 3)),
        ("DELETE", 1, offset(misplaced.when, 1)),
    ]


def test_what_is_newer_in_the_right_place_stays(misplaced):
    misplaced.add()
    misplaced.put(0, misplaced.when.plus(1))
    misplaced.put(1, misplaced.when)

    assert misplaced.run() == {"found_object": 1, "success": 1}
    assert misplaced.steps() == [("DELETE", 1, offset(misplaced.when, 1))]


def test_an_entry_of_the_right_policy_is_just_removed(misplaced):
    misplaced.add(policy=0)

    assert misplaced.run() == {"noop_object": 1, "success": 1}
    assert misplaced.steps() == []
    assert misplaced.popped()


def test_without_a_majority_the_policy_is_unknown(misplaced):
    misplaced.add()
    ring = misplaced.cluster.container_ring()
    digest = misplaced.cluster.salt.digest("a", "c")
    for node in ring.primaries(ring.partition(digest))[:2]:
        misplaced.nodes.faults[node.ip] = lambda seen: (
            Response(503) if seen.method == "HEAD" else None
        )

    assert misplaced.run() == {"unavailable_container": 1, "retry": 1}
    assert misplaced.popped() == set()


def test_a_destination_that_fails_is_waited_for(misplaced):
    misplaced.add()
    misplaced.put(0, misplaced.when, 503)

    assert misplaced.run() == {"unavailable_destination": 1, "retry": 1}


def test_a_source_that_is_away_is_waited_for(misplaced):
    misplaced.add()

    assert misplaced.run() == {"unavailable_source": 1, "retry": 1}
    assert misplaced.popped() == set()


def test_a_source_that_is_away_for_long_is_lost(misplaced):
    misplaced.add(when=Timestamp.at(green.now() - 700_000))

    assert misplaced.run() == {"lost_source": 1, "success": 1}
    assert "is lost" in misplaced.lines()
    assert misplaced.popped()


def test_a_copy_that_fails_is_tried_again(misplaced):
    misplaced.add()
    misplaced.put(1, misplaced.when)
    misplaced.proxy.answers["PUT", "/a/c/o"] = 503

    assert misplaced.run() == {"copy_failed": 1, "retry": 1}
    assert misplaced.steps() == []


def test_a_cleanup_that_fails_keeps_the_entry(misplaced):
    misplaced.add()
    misplaced.put(1, misplaced.when)
    misplaced.proxy.answers["DELETE", "/a/c/o"] = 409

    assert misplaced.run() == {"cleanup_failed": 1, "retry": 1}
    assert misplaced.popped() == set()


def test_an_unknown_policy_is_left_alone(misplaced):
    misplaced.add(policy=7)

    assert misplaced.run() == {"ppi_skip": 1, "retry": 1}


def test_bad_entries_are_counted_and_left(misplaced):
    misplaced.add()
    misplaced.put(0, misplaced.when)
    container = next(iter(misplaced.proxy.rows[QUEUE]))
    misplaced.proxy.list(f"{QUEUE}/{container}", ["nonsense"], content_type="x")

    stats = misplaced.run()

    assert stats == {"invalid_record": 1, "found_object": 1, "success": 1}


def test_old_empty_queue_containers_are_removed(misplaced):
    now = int(green.now())
    names = [str(now - 700_000), str(now - 7200)]
    misplaced.proxy.list(QUEUE, names)
    for name in names:
        misplaced.proxy.list(f"{QUEUE}/{name}", [])

    misplaced.run()

    assert [path for path, _ in misplaced.proxy.of("DELETE")] == [f"{QUEUE}/{names[0]}"]


def test_reconcilers_share_the_queue(misplaced):
    for number in range(20):
        misplaced.add(f"/a/c/o{number}", policy=0)

    counts = [misplaced.run(processes=2, process=n)["success"] for n in (0, 1)]

    assert sum(counts) == 20
    assert all(counts)


def test_several_are_handled_at_a_time_when_wished(misplaced):
    for number in range(8):
        misplaced.add(f"/a/c/o{number}", policy=0)

    assert misplaced.run(concurrency=4)["success"] == 8


def test_a_share_that_is_none_is_refused():
    values = {"processes": "2", "process": "2"}
    with pytest.raises(ConfigError):
        bind(ReconcilerConfig, values, source="-", section="container-reconciler")
