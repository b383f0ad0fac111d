# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from swift.core.errors import ConfigError
from swift.core.settings import bind
from swift.core.timestamp import Timestamp
from swift.daemons.object_expirer import ExpirerConfig, ObjectExpirer
from swift.runtime import green
from swift.runtime.config import ConfFile
from swift.runtime.daemon import Frame, Scope, run_pass
from swift.runtime.logs import DEBUG, ListSink, Logger
from swift.runtime.metrics import NO_METRICS
from swift.wire.client import ConnectionPool
from test.support.internal import FakeProxy
from test.support.nodes import Nodes, Stored, make_cluster

QUEUE = "/.expiring_objects"
TEXT = "text/plain;swift_expirer_bytes=3"


class Queue:
    """A queue, the nodes of its containers, and an expirer over them."""

    def __init__(self, root):
        self.root = root
        self.proxy = FakeProxy()
        self.nodes = Nodes()
        self.cluster = make_cluster()
        self.sink = ListSink()
        self.now = int(green.now())
        self.day = self.now // 86400 * 86400

    def add(self, target, *, ago=10, container=None, content_type=TEXT):
        """Queue `account/container/object`; the name of its row."""
        container = container or str(self.day)
        row = f"{self.now - ago:010d}-{target}"
        self.add_row(row, container, content_type)
        return row

    def add_row(self, row, container, content_type=TEXT):
        self.proxy.list(QUEUE, [container])
        self.proxy.list(f"{QUEUE}/{container}", [row], content_type=content_type)
        for number in range(6):
            key = (f"10.0.0.{number + 1}", 6201, f"{QUEUE}/{container}/{row}")
            self.nodes.store[key] = Stored(Timestamp.at(1.0), {}, b"")

    def run(self, scope=None, conf=None, **options):
        values = {"tasks_per_second": 0.0, "dequeue_from_legacy": True, **options}
        config = ExpirerConfig(recon_cache_path=str(self.root), **values)
        log = Logger("expirer", [self.sink], level=DEBUG)
        expirer = ObjectExpirer(
            config,
            Frame(self.cluster, log, NO_METRICS, conf),
            client=self.proxy.client(),
            pool=ConnectionPool(self.nodes),
        )
        run_pass(expirer, scope or Scope(once=True))
        return self.recon()

    def recon(self):
        path = self.root / "object.recon"
        return json.loads(path.read_text()) if path.exists() else {}

    def deleted(self):
        return [
            path for path, _ in self.proxy.of("DELETE") if not path.startswith(QUEUE)
        ]

    def looks(self):
        """Headers of the questions for the newest version of an object."""
        return [
            sent for path, sent in self.proxy.of("HEAD") if not path.startswith(QUEUE)
        ]

    def popped(self):
        return {seen.path for seen in self.nodes.of("container", "DELETE")}

    def lines(self):
        return "\n".join(line for _, line in self.sink.lines)


@pytest.fixture
def queue(tmp_path):
    return Queue(tmp_path)


def test_what_is_due_goes_and_its_row_too(queue):
    row = queue.add("a/c/o")
    queue.add("a/c/later", ago=-100)

    facts = queue.run()

    ((path, headers),) = queue.proxy.of("DELETE")
    assert path == "/a/c/o"
    assert headers["X-If-Delete-At"] == str(queue.now - 10)
    assert headers["X-Timestamp"] == f"{queue.now - 10}.00000"
    assert headers["X-Backend-Clean-Expiring-Object-Queue"] == "no"
    assert queue.popped() == {f"{QUEUE}/{queue.day}/{row}"}
    assert len(queue.nodes.of("container", "DELETE")) == 3
    assert facts["expired_last_pass"] == 1
    assert facts["object_expiration_pass"] > 0


def test_an_object_whose_newest_version_lives_is_left_alone(queue):
    queue.add("a/c/o")
    queue.proxy.answers["HEAD", "/a/c/o"] = 200

    assert queue.run()["expired_last_pass"] == 0

    assert [headers["X-Newest"] for headers in queue.looks()] == ["true"]
    assert queue.deleted() == []
    assert queue.popped() == set()
    assert "not deleted (412)" in queue.lines()


def test_nothing_is_deleted_while_nobody_knows_the_newest_version(queue):
    queue.add("a/c/o")
    queue.proxy.answers["HEAD", "/a/c/o"] = 503

    queue.run()

    assert queue.deleted() == []
    assert "not deleted (503)" in queue.lines()


def test_an_async_delete_has_no_condition(queue):
    row = f"{queue.now - 5}.00001-a/c/o"
    queue.add_row(row, str(queue.day), "application/async-deleted")

    queue.run()

    ((_, headers),) = queue.proxy.of("DELETE")
    assert queue.looks() == []
    assert headers["X-Timestamp"] == f"{queue.now - 5}.00001"
    assert "X-If-Delete-At" not in headers
    assert queue.popped()


def test_an_object_that_is_not_found_yet_stays_queued(queue):
    queue.add("a/c/o")
    queue.proxy.answers["DELETE", "/a/c/o"] = 404

    assert queue.run()["expired_last_pass"] == 0
    assert queue.popped() == set()
    assert "not deleted (404)" in queue.lines()


def test_after_the_reclaim_age_it_counts_as_gone(queue):
    queue.add("a/c/o", ago=700_000, container=str(queue.day - 7 * 86400 - 86400))
    queue.proxy.answers["DELETE", "/a/c/o"] = 404

    queue.run()

    assert len(queue.popped()) == 1


def test_errors_of_servers_leave_the_row(queue):
    queue.add("a/c/o")
    queue.add("a/c/p")
    queue.proxy.answers["DELETE", "/a/c/o"] = 503

    assert queue.run()["expired_last_pass"] == 1
    assert len(queue.popped()) == 1


def test_a_pop_that_fails_is_no_failure(queue):
    queue.add("a/c/o")
    queue.nodes.refusing = {f"10.0.0.{number}" for number in range(1, 7)}

    assert queue.run()["expired_last_pass"] == 1


def test_strange_rows_and_containers_are_passed_over(queue):
    queue.add("a/c/o")
    queue.add_row("nonsense", str(queue.day))
    queue.proxy.list(QUEUE, ["0-not a number"])
    queue.add("a/c/old", container=str(queue.day - 40_000))

    queue.run()

    assert sorted(queue.deleted()) == ["/a/c/o", "/a/c/old"]
    assert "1 queue containers have unusual names" in queue.lines()
    assert "is no task" in queue.lines()
    assert "is no time" in queue.lines()


def test_containers_of_the_future_are_not_looked_at(queue):
    queue.add("a/c/o", container=str(queue.day + 86400))

    queue.run()

    assert queue.deleted() == []
    listed = [path for path, _ in queue.proxy.of("GET")]
    assert listed[-1] == QUEUE


def test_an_empty_queue_container_is_removed(queue):
    queue.proxy.list(QUEUE, [str(queue.day)])
    queue.proxy.list(f"{QUEUE}/{queue.day}", [])

    queue.run()

    assert [path for path, _ in queue.proxy.of("DELETE")] == [f"{QUEUE}/{queue.day}"]


def test_a_container_whose_listing_fails_does_not_stop_the_others(queue):
    early, late = str(queue.day - 86400), str(queue.day)
    queue.add("a/c/o", ago=90_000, container=early)
    queue.add("a/c/p", container=late)
    queue.proxy.answers["GET", f"{QUEUE}/{early}"] = 503

    queue.run()

    assert queue.deleted() == ["/a/c/p"]
    assert early in queue.lines()


def test_without_a_queue_there_is_just_the_report(queue):
    facts = queue.run()

    assert facts["expired_last_pass"] == 0
    assert queue.deleted() == []


def test_expirers_share_the_queue(queue):
    for number in range(30):
        queue.add(f"a/c/o{number}")

    shares = []
    for process in range(3):
        before = set(queue.deleted())
        queue.run(Scope(once=True, extra={"processes": 3, "process": process}))
        shares.append(set(queue.deleted()) - before)

    assert sum(map(len, shares)) == 30
    assert set.union(*shares) == {f"/a/c/o{number}" for number in range(30)}
    assert all(shares)


def test_several_go_at_a_time_when_wished(queue):
    for number in range(20):
        queue.add(f"a/c{number % 4}/o{number}")

    assert queue.run(concurrency=4)["expired_last_pass"] == 20


def test_switched_off_it_says_so_and_does_nothing(queue):
    queue.add("a/c/o")

    assert queue.run(dequeue_from_legacy=False) == {}
    assert queue.deleted() == []
    assert "dequeue_from_legacy" in queue.lines()


def test_its_own_file_switches_it_on(queue):
    queue.add("a/c/o")
    conf = ConfFile("/etc/swift/object-expirer.conf", {}, {"object-expirer": {}})

    queue.run(conf=conf, dequeue_from_legacy=False)

    assert queue.deleted() == ["/a/c/o"]


def test_delays_are_read_from_the_section(queue):
    queue.add("a/c/o")
    queue.add("a/d/o")
    conf = ConfFile("/x.conf", {}, {"object-expirer": {"delay_reaping_a/c": "100"}})

    queue.run(conf=conf)

    assert queue.deleted() == ["/a/d/o"]


def test_a_bad_delay_stops_the_start(queue):
    conf = ConfFile("/x.conf", {}, {"object-expirer": {"delay_reaping_a/c/o": "1"}})

    with pytest.raises(ConfigError, match=r"/x.conf .object-expirer. delay_reaping_"):
        queue.run(conf=conf)


@pytest.mark.parametrize(
    "values",
    [
        {"processes": "2", "process": "2"},
        {"process": "1"},
        {"processes": "-1"},
        {"expiring_objects_container_divisor": "100"},
        {"tasks_per_second": "fast"},
    ],
)
def test_options_that_do_not_fit_are_refused(values):
    with pytest.raises(ConfigError):
        bind(ExpirerConfig, values, source="-", section="object-expirer")
