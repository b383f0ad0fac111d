# SPDX-License-Identifier: Apache-2.0
"""A green thread that is killed while a disk thread works for it leaves no mess.

The disk thread cannot be stopped. Descriptors must stay open until it is done with
them, or it would go on with numbers that name other files, and be closed after that.
"""

from __future__ import annotations

import threading

import pytest
from fake_disk import FakeDisk
from object_store import NOW, Store, at

from swift.core.headers import Headers
from swift.runtime import green

LARGE = 600 * 1024
WAIT_S = 10


class SlowDisk(FakeDisk):
    """Waits inside one method until it is told to go on."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.left = threading.Event()
        self.slow = False

    def wait(self, method):
        if self.slow and method == self.method:
            self.slow = False
            self.entered.set()
            assert self.go_on.wait(WAIT_S)
            return True
        return False

    def sync(self, fd):
        self.wait("sync")
        super().sync(fd)

    def write(self, fd, chunks):
        self.wait("write")
        return super().write(fd, chunks)

    def open_read(self, path, *, directory_fd=None):
        self.wait("open_read")
        return super().open_read(path, directory_fd=directory_fd)

    def read(self, fd, size, offset):
        self.wait("read")
        return super().read(fd, size, offset)

    def open_cached(self, path, *, directory_fd=None, directory=False):
        return None


def until(condition):
    deadline = green.monotonic() + WAIT_S
    while not condition():
        assert green.monotonic() < deadline, "waited in vain"
        green.sleep(0.01)


@pytest.mark.parametrize("size", [100, LARGE])
@pytest.mark.parametrize("method", ["sync", "write", "open_read", "read"])
def test_descriptors_are_closed_when_the_disk_thread_is_done(tmp_path, method, size):
    disk = SlowDisk(method)
    disk.read_cached = lambda fd, size, offset: None
    store = Store(tmp_path, disk)
    store.put(b"o" * LARGE, at(1))
    disk.slow = True

    def work():
        if method in ("sync", "write"):
            store.put(b"n" * size, at(2))
        else:
            with store.file().open(NOW) as opened:
                for _ in opened.reader():
                    pass

    thread = green.spawn(work)
    until(disk.entered.is_set)
    before = set(disk.open_fds)
    thread.kill()
    assert method == "open_read" or before <= disk.open_fds
    disk.go_on.set()
    until(lambda: not disk.open_fds)
    # Nobody was told of the new object, so either may stand, whole.
    assert store.get() in (b"o" * LARGE, b"n" * size)
    assert store.metrics.counts == {}


def test_a_body_that_breaks_off_leaves_nothing(tmp_path):
    disk = FakeDisk()
    store = Store(tmp_path, disk)

    def work():
        with store.file().writer(LARGE) as writer:
            writer.write(b"n" * 400_000)
            green.sleep(WAIT_S)

    thread = green.spawn(work)
    until(lambda: "write" in disk.steps)
    thread.kill()
    until(lambda: not disk.open_fds)
    assert store.names() == []


def test_writers_of_one_object_do_not_disturb_each_other(tmp_path):
    disk = FakeDisk()
    store = Store(tmp_path, disk)
    threads = [
        green.spawn(store.put, bytes([number]) * (100 + number * 40_000), at(number))
        for number in range(12)
    ]
    threads += [green.spawn(store.file().post, Headers(), at(20))]
    for thread in threads:
        thread.wait()
    assert store.get() == bytes([11]) * (100 + 11 * 40_000)
    with store.file().open(NOW) as opened:
        assert opened.timestamp == at(20)
    store.put(b"last", at(30))
    assert store.names() == [f"{at(30).internal}.data"]
    assert not disk.open_fds
