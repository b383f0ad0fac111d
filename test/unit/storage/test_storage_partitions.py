# SPDX-License-Identifier: Apache-2.0
"""Locks of partitions and devices: who gets them, and how soon."""

from __future__ import annotations

import pytest

from swift.core.errors import LockTimeout
from swift.runtime import green
from swift.storage.fs import FileSystem
from test.unit.storage.object_store import PARTITION, Store

DEVICE = "sda1"


class CountingDisk(FileSystem):
    """Counts how often a lock file is looked at."""

    def __init__(self):
        super().__init__()
        self.looks = 0

    def lock(self, path, timeout_s):
        self.looks += 1
        return super().lock(path, timeout_s)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, CountingDisk())


def test_a_lock_goes_from_one_to_the_next_without_looking_again(store):
    partitions = store.manager.partitions
    order = []

    def hold(number):
        with partitions.device_locked(DEVICE, 1, 5):
            order.append(number)
            green.sleep(0.01)

    threads = [green.spawn(hold, number) for number in range(5)]
    for thread in threads:
        thread.wait()

    assert order == [0, 1, 2, 3, 4]
    assert store.fs.looks == 5
    assert partitions._turns == {}


def test_a_device_has_as_many_places_as_its_limit(store):
    partitions = store.manager.partitions
    with (
        partitions.device_locked(DEVICE, 2, 0),
        partitions.device_locked(DEVICE, 2, 0),
        pytest.raises(LockTimeout),
        partitions.device_locked(DEVICE, 2, 0.02),
    ):
        pytest.fail("held three times")
    with partitions.device_locked(DEVICE, 2, 0):
        pass


def test_a_lock_of_another_process_is_waited_for(store):
    partitions = store.manager.partitions
    with partitions.locked(DEVICE, PARTITION, 0, make=True):
        pass
    path = partitions.path(DEVICE, PARTITION) + "/.lock-replication"
    theirs = FileSystem().lock(path, 0)
    with (
        pytest.raises(LockTimeout),
        partitions.locked(DEVICE, PARTITION, 0.02),
    ):
        pytest.fail("held twice")
    FileSystem().close(theirs)
    with partitions.locked(DEVICE, PARTITION, 0):
        pass
    assert partitions._turns == {}


class UnorderedDisk(FileSystem):
    """Makes only those names durable that are synced; remembers which directories."""

    def __init__(self):
        super().__init__()
        self.synced = []

    def orders_names(self, fd):
        return False

    def sync(self, fd):
        self.synced.append(self.status(fd).st_ino)
        super().sync(fd)


def test_a_partition_that_is_made_to_be_locked_outlives_a_loss_of_power(tmp_path):
    disk = UnorderedDisk()
    store = Store(tmp_path, disk)
    path = store.manager.partitions.path(DEVICE, PARTITION)
    objects = path.rpartition("/")[0]

    with store.manager.partitions.locked(DEVICE, PARTITION, 5, make=True):
        pass

    device = objects.rpartition("/")[0]
    assert disk.synced == [disk.status(each).st_ino for each in (device, objects)]
