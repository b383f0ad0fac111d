# SPDX-License-Identifier: Apache-2.0
"""Container updates that wait on disk."""

from __future__ import annotations

import os

import pytest
from fake_disk import IO_ERROR, NO_SPACE, Crash, FakeDisk
from object_store import NAME, SALT, Store, at

from swift.core import pickles
from swift.core.errors import DeviceUnavailable, DiskFull, InvalidInput
from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.storage.object.pending import dump

HEADERS = Headers({"X-Timestamp": at(1).internal, "X-Size": "5"})


def save(store, name=NAME, headers=HEADERS, **more):
    store.manager.pending.save("sda1", "PUT", name, headers, **more)


def files(store):
    root = store.device / "async_pending"
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_an_update_is_kept_where_the_updater_looks(tmp_path):
    store = Store(tmp_path)
    save(store, db_state="unsharded", container_path=".shards_a/c-1")
    (path,) = files(store)
    path_hash = SALT.hex_of(NAME)
    assert path.name == f"{path_hash}-{at(1).internal}"
    assert path.parent.name == path_hash[-3:]
    assert pickles.loads(path.read_bytes()) == {
        "op": "PUT",
        "account": "AUTH_test",
        "container": "c",
        "obj": "o",
        "headers": dict(HEADERS),
        "db_state": "unsharded",
        "container_path": ".shards_a/c-1",
    }
    assert os.listdir(store.device / "tmp") == []


def test_the_time_of_the_metadata_names_the_file(tmp_path):
    store = Store(tmp_path)
    save(store, headers=Headers({**HEADERS, "X-Meta-Timestamp": at(3).internal}))
    assert files(store)[0].name.endswith(at(3).internal)


def test_of_two_updates_of_one_time_the_last_stands(tmp_path):
    store = Store(tmp_path)
    save(store)
    save(store, headers=Headers({**HEADERS, "X-Size": "6"}))
    (path,) = files(store)
    assert pickles.loads(path.read_bytes())["headers"]["X-Size"] == "6"


def test_an_update_without_a_time_is_refused(tmp_path):
    with pytest.raises(InvalidInput):
        save(Store(tmp_path), headers=Headers())


@pytest.mark.parametrize(
    ("code", "expected"), [(NO_SPACE, DiskFull), (IO_ERROR, DeviceUnavailable)]
)
@pytest.mark.parametrize("method", ["write", "sync", "rename", "open_temporary"])
def test_a_failing_disk_is_told(tmp_path, method, code, expected):
    disk = FakeDisk()
    store = Store(tmp_path, disk)
    disk.errors = {method: code}
    with pytest.raises(expected):
        save(store)
    assert files(store) == []
    assert not disk.open_fds


def test_a_crash_leaves_a_whole_update_or_none(tmp_path):
    disk = FakeDisk()
    save(Store(tmp_path / "finished", disk))
    for step in range(len(disk.steps)):
        root = tmp_path / f"step{step}"
        dying = FakeDisk()
        dying.crash_at = step
        with pytest.raises(Crash):
            save(Store(root, dying))
        for path in files(Store(root)):
            assert pickles.loads(path.read_bytes())["obj"] == "o"


@pytest.mark.parametrize(
    "text", ["", "o", "ünï ☃ \U0001f600", "a\\b", "a\nb\rc", "\x00x", "\x1a", "\\u0041"]
)
def test_any_name_comes_back(text):
    update = {"obj": text, "headers": Headers({"X-A": text})}
    assert pickles.loads(dump(update)) == {"obj": text, "headers": {"X-A": text}}


def test_lists_and_none_come_back():
    update = {"successes": [1, 70000], "redirect_history": ["a/b"], "db_state": None}
    assert pickles.loads(dump(update)) == update


def test_the_expirers_rows_have_names_of_their_own(tmp_path):
    store = Store(tmp_path)
    name = ObjectName(".expiring_objects", "1700000000", "1700000000-a/c/o")
    save(store, name)
    assert files(store)[0].name.startswith(SALT.hex_of(name))
