# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from random import Random

import pytest

from swift.core.errors import ConfigError, QuarantineRequest
from swift.core.headers import Headers
from swift.core.timestamp import Timestamp
from swift.daemons.dark_data import DarkDataWatcher
from swift.runtime import green
from swift.runtime.logs import DEBUG, ListSink, Logger
from swift.wire.client import ConnectionPool
from swift.wire.request import Response
from test.support.nodes import Nodes, Stored, make_cluster
from test.support.objects import Disks


class Containers:
    """Container nodes with listings, and a watcher that asks them."""

    def __init__(self):
        self.nodes = Nodes()
        self.cluster = make_cluster()
        self.sink = ListSink()

    def list(self, container, rows, *, among=range(1, 7)):
        for number in among:
            key = (f"10.0.0.{number}", 6201, container)
            self.nodes.store[key] = Stored(Timestamp.at(1.0), Headers(), b"")
        self.nodes.listings[container] = rows

    def watcher(self, **conf):
        watcher = DarkDataWatcher(
            {"grace_age": "100", **conf},
            Logger("watcher", [self.sink], level=DEBUG),
            cluster=self.cluster,
            pool=ConnectionPool(self.nodes),
            rng=Random(5),
        )
        watcher.start(audit_type="ALL", more=1)
        return watcher

    def fail(self, count):
        """Let that many of the primaries of /a/c fail."""
        ring = self.cluster.container_ring()
        digest = self.cluster.salt.digest("a", "c")
        for node in ring.primaries(ring.partition(digest))[:count]:
            self.nodes.faults[node.ip] = lambda _seen: Response(503)

    def lines(self):
        return "\n".join(line for _, line in self.sink.lines)


@pytest.fixture
def containers():
    return Containers()


def show(watcher, name="/a/c/o", age=1000, path="/none/o.data"):
    stamp = Timestamp.at(green.now() - age).internal
    metadata = {"name": name, "X-Timestamp": stamp}
    watcher.see_object(object_metadata=metadata, data_file_path=path, more=1)


def end(containers, watcher):
    watcher.end()
    return containers.sink.lines[-1][1]


def test_what_is_listed_is_fine(containers):
    containers.list("/a/c", [{"name": "o"}])
    watcher = containers.watcher()

    show(watcher)

    assert "unknown 0 ok 1 dark 0" in end(containers, watcher)
    seen = containers.nodes.requests[0]
    assert "prefix=o&limit=1" in seen.query
    assert seen.headers["X-Backend-Record-Type"] == "auto"


def test_a_longer_name_is_another_object(containers):
    containers.list("/a/c", [{"name": "o-longer"}])
    watcher = containers.watcher()

    show(watcher)

    assert "dark 1" in end(containers, watcher)
    assert "/a/c/o" in containers.lines()
    assert len(containers.nodes.requests) == 3


def test_a_container_that_no_node_knows_lists_nothing(containers):
    watcher = containers.watcher()
    show(watcher)
    assert "unknown 0 ok 0 dark 1" in end(containers, watcher)


@pytest.mark.parametrize("count", [1, 3])
def test_with_a_node_that_fails_nothing_is_known(containers, count):
    containers.list("/a/c", [])
    containers.fail(count)
    watcher = containers.watcher()
    show(watcher)
    assert "unknown 1 ok 0 dark 0" in end(containers, watcher)


def test_one_replica_that_lists_it_is_enough(containers):
    containers.list("/a/c", [{"name": "o"}])
    containers.fail(2)
    watcher = containers.watcher()
    show(watcher)
    assert "ok 1" in end(containers, watcher)


def test_nonsense_from_a_container_is_no_answer(containers):
    containers.list("/a/c", "nonsense")
    watcher = containers.watcher()
    show(watcher)
    assert "unknown 1" in end(containers, watcher)


def test_what_is_young_is_left_alone(containers):
    watcher = containers.watcher()
    show(watcher, age=50)
    assert "unknown 0 ok 1 dark 0" in end(containers, watcher)
    assert containers.nodes.requests == []


def test_the_quick_scan_is_not_ours(containers):
    watcher = containers.watcher()
    watcher.start(audit_type="ZBF")
    show(watcher)
    watcher.end()
    assert containers.nodes.requests == []
    assert containers.sink.lines == []


def test_shards_are_followed(containers):
    containers.list("/a/c", [{"name": ".shards_a/c-1", "lower": "", "upper": ""}])
    containers.list("/.shards_a/c-1", [{"name": "o"}])
    watcher = containers.watcher()

    show(watcher)
    show(watcher, name="/a/c/other")

    assert "unknown 0 ok 1 dark 1" in end(containers, watcher)


def test_dark_data_may_be_quarantined(containers):
    watcher = containers.watcher(action="quarantine")
    with pytest.raises(QuarantineRequest):
        show(watcher)


def test_dark_data_may_be_deleted(containers, tmp_path):
    disks = Disks(tmp_path)
    disk = disks.put("o")
    watcher = containers.watcher(action="delete")

    show(watcher, path=str(disks.data_file(disk)))

    directory = disks.root / disk.directory
    assert not directory.exists()
    log = directory.parent.parent / "hashes.invalid"
    assert log.read_text().split()[-1] == disk.suffix


def test_an_unknown_action_is_to_log(containers):
    watcher = containers.watcher(action="explode")
    show(watcher)
    assert "unknown; dark data is logged" in containers.lines()


def test_a_bad_option_is_named():
    with pytest.raises(ConfigError, match="grace_age"):
        DarkDataWatcher({"grace_age": "old"}, Logger("w"), cluster=make_cluster())
