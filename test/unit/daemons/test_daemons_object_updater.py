# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import pickle
from random import Random

import pytest

from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.pendings import Update
from swift.daemons.object_updater import DeviceSweep, ObjectUpdater, UpdaterConfig
from swift.runtime import green
from swift.runtime.daemon import Frame, Scope, run_pass
from swift.runtime.logs import DEBUG, ListSink, Logger
from swift.runtime.metrics import NO_METRICS
from swift.storage.devices import Devices
from swift.storage.object.pending import dump
from swift.wire.client import ConnectionPool
from swift.wire.environ import LEAVE_RELATIVE_LOCATION
from swift.wire.request import Response
from test.support.nodes import Nodes, make_cluster

DEVICE = "sda1"
STAMP = "1700000000.00000"


class Disk:
    """One device with pending updates, container nodes, and an updater over them."""

    def __init__(self, root, **options):
        self.root = root
        self.device = root / DEVICE
        self.device.mkdir()
        self.nodes = Nodes()
        self.cluster = make_cluster()
        self.sink = ListSink()
        log = Logger("object-updater", [self.sink], level=DEBUG)
        self.frame = Frame(self.cluster, log, NO_METRICS)
        values = {"objects_per_second": 0.0, **options}
        self.config = UpdaterConfig(
            devices=str(root), mount_check=False, recon_cache_path=str(root), **values
        )

    def add(self, obj, stamp=STAMP, op="PUT", policy=0, **changes):
        name = ObjectName("a", changes.pop("container", "c"), obj)
        path_hash = self.cluster.salt.hex_of(name)
        base = f"async_pending-{policy}" if policy else "async_pending"
        folder = self.device / base / path_hash[-3:]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{path_hash}-{stamp}"
        record = {
            "op": op,
            "account": name.account,
            "container": name.container,
            "obj": name.obj,
            "headers": Headers({"X-Timestamp": stamp, "X-Size": "3"}),
            "db_state": "unsharded",
            **changes,
        }
        path.write_bytes(dump(record))
        return path

    def sweep(self):
        sweep = DeviceSweep(
            self.config,
            self.frame,
            DEVICE,
            Devices(str(self.root), mount_check=False),
            pool=ConnectionPool(self.nodes),
            rng=Random(7),
        )
        self.report = sweep.report
        return sweep.run()

    def files(self):
        return sorted(
            path for path in self.device.glob("async_pending*/*/*") if path.is_file()
        )

    def lines(self):
        return "\n".join(line for _, line in self.sink.lines)


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


def test_an_update_reaches_every_replica_and_is_forgotten(disk):
    disk.add("o", policy=1)

    counts = disk.sweep()

    assert (counts.successes, counts.unlinks, counts.failures) == (1, 1, 0)
    assert len(disk.nodes.stored("/a/c/o", "container")) == 3
    assert disk.files() == []
    assert [path.name for path in disk.device.iterdir()] == ["async_pending-1"]
    assert list((disk.device / "async_pending-1").iterdir()) == []
    sent = disk.nodes.requests[0].headers
    assert sent["X-Backend-Storage-Policy-Index"] == "1"
    assert sent["X-Backend-Accept-Redirect"] == "true"
    assert sent["X-Backend-Accept-Quoted-Location"] == "true"
    assert sent["User-Agent"].startswith("object-updater ")


def test_many_updates_share_few_connections(disk):
    for number in range(100):
        disk.add(f"o{number}")

    assert disk.sweep().successes == 100
    assert disk.nodes.dialled <= 3 * disk.config.concurrency
    assert len(disk.nodes.requests) == 300


def test_a_node_that_is_down_gets_it_in_a_later_pass_and_the_others_not_again(disk):
    path = disk.add("o")
    down = next(iter_nodes(disk)).ip
    disk.nodes.refusing.add(down)

    counts = disk.sweep()

    assert (counts.failures, counts.successes) == (1, 0)
    assert len(Update.read(path.read_bytes()).successes) == 2
    report = disk.report()
    assert report["failures_account_container_count"] == 1
    assert report["failures_oldest_timestamp"] == 1700000000.0

    disk.nodes.refusing.clear()
    disk.nodes.requests.clear()
    assert disk.sweep().successes == 1
    assert [seen.ip for seen in disk.nodes.requests] == [down]
    assert disk.files() == []


def iter_nodes(disk, container="c"):
    ring = disk.cluster.container_ring()
    digest = disk.cluster.salt.digest("a", container)
    return iter(ring.primaries(ring.partition(digest)))


def test_only_the_newest_update_of_an_object_is_sent(disk):
    disk.add("o", "1700000001.00000")
    disk.add("o", "1700000003.00000", op="DELETE")
    disk.add("o", "1700000002.00000")

    counts = disk.sweep()

    assert counts.outdated_unlinks == 2
    assert {seen.method for seen in disk.nodes.requests} == {"DELETE"}
    assert {seen.headers["X-Timestamp"] for seen in disk.nodes.requests} == {
        "1700000003.00000"
    }


class Relative(Response):
    """An answer whose Location stays as it is, as container servers send it."""

    def __call__(self, environ, start_response):
        environ[LEAVE_RELATIVE_LOCATION] = True
        return super().__call__(environ, start_response)


def redirect_to(path):
    return Relative(
        301,
        {
            "Location": f"/{path}/o",
            "X-Backend-Redirect-Timestamp": "1700000005.00000",
        },
        b"",
    )


def test_a_redirect_is_followed_at_once(disk):
    disk.add("o")
    for node in iter_nodes(disk):
        disk.nodes.faults[node.ip] = lambda seen: (
            redirect_to(".shards_a/s1") if seen.path.startswith("/a/") else None
        )

    counts = disk.sweep()

    assert (counts.redirects, counts.successes) == (1, 1)
    assert len(disk.nodes.stored("/.shards_a/s1/o", "container")) == 3
    assert disk.files() == []


def test_a_redirect_to_where_nobody_answers_is_remembered(disk):
    path = disk.add("o")

    def answer(seen):
        if seen.path.startswith("/a/"):
            return redirect_to(".shards_a/s1")
        return Response(503)

    for number in range(6):
        disk.nodes.faults[f"10.0.0.{number + 1}"] = answer

    counts = disk.sweep()

    assert (counts.redirects, counts.failures) == (1, 1)
    record = pickle.loads(path.read_bytes())
    assert record["container_path"] == ".shards_a/s1"
    assert record["redirect_history"] == [".shards_a/s1"]
    disk.nodes.faults.clear()
    disk.sweep()
    assert len(disk.nodes.stored("/.shards_a/s1/o", "container")) == 3


def test_a_redirect_loop_ends_at_the_root(disk):
    path = disk.add("o", container_path=".shards_a/s1", redirect_history=[])

    def answer(seen):
        to = ".shards_a/s2" if "/s1/" in seen.path else ".shards_a/s1"
        return redirect_to(to)

    for number in range(6):
        disk.nodes.faults[f"10.0.0.{number + 1}"] = answer

    counts = disk.sweep()

    assert counts.redirects == 2
    assert pickle.loads(path.read_bytes())["redirect_history"] == [
        ".shards_a/s2",
        ".shards_a/s1",
    ]
    disk.sweep()
    assert "container_path" in pickle.loads(path.read_bytes())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}q",
        b"cos\nsystem\n(S'true'\ntR.",
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({"op": "PUT", "headers": []}, protocol=2),
        b"x" * (2 << 20),
    ],
    ids=["empty", "half", "callable", "list", "types", "long"],
)
def test_what_cannot_be_read_is_quarantined_and_the_rest_goes_on(disk, data):
    bad = disk.add("bad")
    bad.write_bytes(data)
    disk.add("good")

    counts = disk.sweep()

    assert (counts.quarantines, counts.successes) == (1, 1)
    assert (disk.device / "quarantined" / "objects" / bad.name).exists()
    assert disk.files() == []
    assert "quarantined" in disk.lines()


def test_new_metadata_of_old_data_does_not_hide_a_late_delete(disk):
    disk.add("o", "1700000001.00000")
    disk.add("o", "1700000003.00000", op="DELETE")
    changed = {"X-Timestamp": "1700000001.00000", "X-Size": "3"}
    for posted in ("1700000002.00000", "1700000004.00000"):
        told = Headers({**changed, "X-Meta-Timestamp": posted})
        disk.add("o", posted, headers=told)

    counts = disk.sweep()

    assert (counts.successes, counts.outdated_unlinks) == (2, 2)
    assert {seen.method for seen in disk.nodes.requests} == {"PUT", "DELETE"}
    assert disk.files() == []


def test_an_older_update_serves_when_the_newest_cannot_be_read(disk):
    disk.add("o", "1700000001.00000")
    disk.add("o", "1700000002.00000").write_bytes(b"")

    assert disk.sweep().successes == 1


def test_strange_names_are_counted_and_left(disk):
    folder = disk.device / "async_pending" / "abc"
    folder.mkdir(parents=True)
    (folder / "noise").write_bytes(b"x")
    (disk.device / "async_pending" / "plain").write_bytes(b"x")
    (disk.device / "async_pending-9" / "abc").mkdir(parents=True)
    (disk.device / "async_pending-9" / "abc" / "x-1").write_bytes(b"x")
    (disk.device / "async_pending-x").mkdir()
    disk.add("good")

    counts = disk.sweep()

    assert (counts.errors, counts.successes) == (1, 1)
    assert (folder / "noise").exists()
    assert (disk.device / "async_pending-9" / "abc" / "x-1").exists()
    assert "no such policy" in disk.lines()


def test_a_directory_in_the_place_of_a_file_is_an_error_and_no_more(disk):
    bad = disk.add("bad")
    bad.unlink()
    bad.mkdir()
    disk.add("good")

    counts = disk.sweep()

    assert (counts.errors, counts.successes) == (1, 1)


def test_updates_over_the_rate_wait_for_the_end_of_the_walk(tmp_path):
    disk = Disk(tmp_path, container_rate=10.0, interval_s=300.0)
    for number in range(4):
        disk.add(f"o{number}")
    disk.add("quiet", container="other")

    clock = green.JumpingClock()
    green.install(clock)
    try:
        began = clock.monotonic()
        counts = disk.sweep()
        elapsed = clock.monotonic() - began
    finally:
        green.install(None)

    assert (counts.deferrals, counts.drains, counts.skips) == (3, 3, 0)
    assert counts.successes == 5
    assert elapsed >= 0.3


def test_what_is_not_sent_by_the_end_of_the_interval_stays(tmp_path):
    disk = Disk(tmp_path, container_rate=0.1, interval_s=15.0, deferred_max=3)
    for number in range(6):
        disk.add(f"o{number}")

    clock = green.JumpingClock()
    green.install(clock)
    try:
        counts = disk.sweep()
    finally:
        green.install(None)

    assert counts.successes == 2
    assert counts.deferrals == 5
    assert counts.deferrals == counts.drains + counts.skips
    assert len(disk.files()) == 4


def test_a_pass_reports_every_device_and_forgets_the_vanished(tmp_path):
    disk = Disk(tmp_path)
    recon = tmp_path / "object.recon"
    recon.write_text(json.dumps({"object_updater_per_device": {"gone": {"a": 1}}}))
    disk.add("o")
    updater = ObjectUpdater(disk.config, disk.frame)
    updater.handle = updater.sweep  # no container server listens: none is reached

    run_pass(updater, Scope(once=True))

    facts = json.loads(recon.read_text())
    assert facts["object_updater_sweep"] > 0
    assert facts["object_updater_last"] > 0
    assert list(facts["object_updater_per_device"]) == [DEVICE]
    stats = facts["object_updater_stats"]
    assert stats["failures_account_container_count"] == 1
    entries = stats["failures_oldest_timestamp_account_containers"]["oldest_entries"]
    assert entries == [{"timestamp": STAMP, "account": "a", "container": "c"}]


def test_a_device_is_swept_in_a_child_of_the_daemon(tmp_path):
    disk = Disk(tmp_path, conn_timeout_s=0.01)
    disk.add("o")
    updater = ObjectUpdater(disk.config, disk.frame)

    run_pass(updater, Scope(once=True))

    facts = json.loads((tmp_path / "object.recon").read_text())
    assert facts["object_updater_stats"]["failures_account_container_count"] == 1
    assert len(disk.files()) == 1
