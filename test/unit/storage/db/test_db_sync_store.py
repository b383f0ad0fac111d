# SPDX-License-Identifier: Apache-2.0
"""The links to synced containers, and the points that sync keeps."""

from __future__ import annotations

import os

import pytest

from swift.core.names import ContainerName, Limits
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.storage.db.connection import Databases, db_path
from swift.storage.db.container import ContainerBroker
from swift.storage.db.sync_store import SyncStore, link_path
from swift.storage.devices import Devices

NAME = ContainerName("AUTH_a", "c")
HASH = "0123456789abcdef0123456789abcdef"
TO, KEY = "X-Container-Sync-To", "X-Container-Sync-Key"


class Bench:
    def __init__(self, root):
        self.root = str(root)
        (root / "sda").mkdir()
        path = db_path(self.root, "sda", "containers", 5, HASH)
        self.broker = ContainerBroker(Databases(green.now), path, NAME)
        self.broker.create(Timestamp.at(1), 0)
        self.store = SyncStore()
        self.link = link_path(path)
        self._now = 1

    def set(self, **values):
        self._now += 1
        stamp = Timestamp.at(self._now).internal
        names = {"to": TO, "key": KEY}
        self.broker.update_metadata(
            {names[name]: (value, stamp) for name, value in values.items()}, Limits()
        )
        self.store.update(self.broker, self.broker.stat())

    @property
    def linked(self):
        return os.path.islink(self.link)


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.broker.databases.close()


def test_a_link_stands_where_the_database_stands(bench):
    bench.set(to="//r/c/a/c", key="k")
    expected = f"{bench.root}/sda/sync_containers/5/def/{HASH}/{HASH}.db"
    assert bench.link == expected
    assert os.readlink(bench.link) == bench.broker.path
    found = list(bench.store.found(Devices(bench.root, False), "sda"))
    assert [(each.partition, each.path) for each in found] == [(5, bench.broker.path)]


def test_a_link_needs_both_target_and_key(bench):
    bench.store.update(bench.broker, bench.broker.stat())
    assert not os.path.exists(f"{bench.root}/sda/sync_containers")
    bench.set(to="//r/c/a/c")
    assert not bench.linked
    bench.set(key="k")
    assert bench.linked
    bench.set(key="")
    assert not bench.linked
    assert not os.path.exists(os.path.dirname(bench.link))


def test_a_deleted_container_loses_its_link(bench):
    bench.set(to="//r/c/a/c", key="k")
    bench.broker.delete(Timestamp.at(99).internal)
    bench.store.update(bench.broker, bench.broker.stat())
    assert not bench.linked


def test_a_link_follows_the_file(bench):
    bench.set(to="//r/c/a/c", key="k")
    os.unlink(bench.link)
    os.symlink("/elsewhere", bench.link)
    bench.set(key="other")
    assert os.readlink(bench.link) == bench.broker.path


def test_names_that_do_not_belong_are_passed_over(bench):
    root = f"{bench.root}/sda/sync_containers"
    os.makedirs(f"{root}/x/def/{HASH}")
    os.makedirs(f"{root}/5/abc/{HASH}")
    os.makedirs(f"{root}/5/nosuffix")
    assert list(bench.store.found(Devices(bench.root, False), "sda")) == []


def test_points_begin_anew_with_another_target(bench):
    bench.set(to="//r/c/a/c", key="k")
    assert bench.broker.move_sync_points("//r/c/a/c", 7, 5)
    stat = bench.broker.stat()
    assert (stat.x_container_sync_point1, stat.x_container_sync_point2) == (7, 5)
    bench.set(key="other key")
    assert bench.broker.stat().x_container_sync_point1 == 7
    bench.set(to="//r/c/a/d")
    # A pass that is still copying to the old target keeps nothing.
    assert not bench.broker.move_sync_points("//r/c/a/c", 9, 9)
    stat = bench.broker.stat()
    assert (stat.x_container_sync_point1, stat.x_container_sync_point2) == (-1, -1)
