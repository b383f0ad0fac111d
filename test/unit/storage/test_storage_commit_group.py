# SPDX-License-Identifier: Apache-2.0
"""Objects that go to the disk together: as durable as one by one, with fewer waits."""

from __future__ import annotations

import errno
import os

import pytest
from fake_disk import Crash, FakeDisk, ForgetfulDisk
from object_store import NOW, Store, at

from swift.core.errors import DeviceUnavailable, NotFound, ObjectMissing
from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.runtime import green
from swift.storage.object.commit_group import CommitGroup

NAMES = [ObjectName("AUTH_test", "c", f"o{number}") for number in range(4)]
RECORD = Headers({"Content-Type": "text/plain"})


def put(store, group, name, admit=None):
    with store.file(name).writer(4, group) as writer:
        writer.write(name.obj.encode() * 2)
        writer.commit(RECORD, at(2), admit=admit)


def put_all(store, admits=None):
    """Store all names at once; what each of them came to."""
    group = CommitGroup(store.fs, 10)

    def attempt(name):
        try:
            put(store, group, name, (admits or {}).get(name))
        except BaseException as error:
            return error
        return "stored"

    threads = [green.spawn(attempt, name) for name in NAMES]
    return [thread.wait() for thread in threads]


def bodies(store):
    """The body of each name, None for one that is not there."""
    found = []
    for name in NAMES:
        try:
            with store.file(name).open(NOW) as opened:
                found.append(b"".join(opened.reader()).decode())
        except ObjectMissing:
            found.append(None)
    return found


ALL = ["o0o0", "o1o1", "o2o2", "o3o3"]


def test_nothing_is_named_before_all_is_synced_and_noted(tmp_path):
    disk = FakeDisk()
    store = Store(tmp_path, disk)
    put_all(store)
    disk.steps.clear()
    put_all(store)  # the same again: every step but making directories
    steps = [step for step in disk.steps if step in ("write", "sync", "link_unnamed")]
    links = [at for at, step in enumerate(steps) if step == "link_unnamed"]
    before, after = steps[: links[0]], steps[links[-1] + 1 :]
    # Four bodies and one entry of the log; four files; four directories, and the four
    # that lead to each.
    assert before.count("write") == 5
    assert before.count("sync") == 4
    assert after.count("sync") == 4 + 4 * 4
    assert bodies(store) == ALL


def test_one_sync_is_enough_for_names_where_there_is_a_log(tmp_path):
    disk = FakeDisk()
    disk.keeps_log = lambda fd: True
    disk.orders_names = lambda fd: True
    store = Store(tmp_path, disk)
    assert put_all(store) == ["stored"] * 4
    links = [at for at, step in enumerate(disk.steps) if step == "link_unnamed"]
    assert disk.steps[links[-1] + 1 :].count("sync") == 1


def test_suffixes_are_noted(tmp_path):
    store = Store(tmp_path)
    put_all(store)
    suffixes = {store.file(name).suffix for name in NAMES}
    assert set(store.invalid()) == suffixes
    assert set(store.manager.suffix_hashes("sda1", "7")) == suffixes


def test_a_refused_write_is_refused_alone(tmp_path):
    def refuse():
        raise NotFound("not this one")

    store = Store(tmp_path)
    outcomes = put_all(store, {NAMES[1]: refuse})
    assert isinstance(outcomes.pop(1), NotFound)
    assert outcomes == ["stored"] * 3
    assert bodies(store) == ["o0o0", None, "o2o2", "o3o3"]


def test_a_file_that_cannot_be_synced_is_not_stored(tmp_path):
    store = Store(tmp_path)
    inner = store.fs.sync

    def sync(fd):
        if os.fstat(fd).st_ino == broken:
            raise OSError(errno.EIO, "broken")
        inner(fd)

    broken = None
    write = store.fs.write

    def note(fd, chunks):
        nonlocal broken
        if chunks == [b"o2o2"]:
            broken = os.fstat(fd).st_ino
        return write(fd, chunks)

    store.fs.sync, store.fs.write = sync, note
    outcomes = put_all(store)
    assert isinstance(outcomes.pop(2), DeviceUnavailable)
    assert outcomes == ["stored"] * 3
    assert bodies(store) == ["o0o0", "o1o1", None, "o3o3"]


@pytest.mark.parametrize("has_log", [True, False])
def test_names_that_cannot_be_synced_are_not_acknowledged(tmp_path, has_log):
    disk = FakeDisk()
    disk.keeps_log = lambda fd: has_log
    inner = disk.link_unnamed

    def link(fd, name, directory_fd):
        inner(fd, name, directory_fd)
        disk.errors["sync"] = errno.EIO

    disk.link_unnamed = link
    outcomes = put_all(Store(tmp_path, disk))
    assert all(isinstance(outcome, DeviceUnavailable) for outcome in outcomes)


def test_a_single_commit_waits_for_nobody(tmp_path):
    store = Store(tmp_path)
    put(store, CommitGroup(store.fs, 10), NAMES[0])
    assert bodies(store) == ["o0o0", None, None, None]


def test_lots_are_no_larger_than_allowed(tmp_path):
    store = Store(tmp_path)
    group = CommitGroup(store.fs, 2)
    threads = [green.spawn(put, store, group, name) for name in NAMES]
    for thread in threads:
        thread.wait()
    assert bodies(store) == ALL


def test_lost_power_takes_nothing_that_was_acknowledged(tmp_path):
    root = tmp_path / "counted"
    disk = ForgetfulDisk(Store(root).root)
    assert put_all(Store(root, disk)) == ["stored"] * 4
    survivor = Store(disk.lose_power(tmp_path / "restarted"))
    assert bodies(survivor) == ALL
    crashes = 0
    for step in range(0, len(disk.steps), 3):
        root = tmp_path / f"step{step}"
        dying = ForgetfulDisk(Store(root).root)
        dying.crash_at = step
        outcomes = put_all(Store(root, dying))
        # Lots form by chance, and so does the number of steps: the last may not come.
        crashed = any(isinstance(outcome, Crash) for outcome in outcomes)
        assert crashed or outcomes == ["stored"] * 4
        crashes += crashed
        survivor = Store(dying.lose_power(tmp_path / f"restarted{step}"))
        for outcome, body, whole in zip(outcomes, bodies(survivor), ALL, strict=True):
            assert body in (None, whole)
            assert body == whole or outcome != "stored"
        for fd in list(dying.open_fds):
            dying.close(fd)
    assert crashes > len(disk.steps) / 3 - 4
