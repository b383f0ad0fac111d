# SPDX-License-Identifier: Apache-2.0
"""The relinker dies at each of its steps on the disk, and a rerun makes up for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from swift.core import metadata as records
from swift.core.hashing import HashSalt, hash_directory, partition_of_hex
from swift.core.policy import StoragePolicy
from swift.core.redundancy import Replication
from swift.core.settings import Reserve
from swift.daemons.relinker import CLEANUP, RELINK, Phase, Relinker, RelinkerConfig
from swift.runtime.logs import ListSink, Logger
from swift.runtime.metrics import NO_METRICS
from swift.storage.devices import Devices
from swift.storage.fs import FileSystem
from swift.storage.object.context import DiskConfig, DiskContext

POWER = 4
SALT = HashSalt(b"a", b"b")
CHANGING = (
    "make_directory", "remove_directory", "open_append", "write", "truncate", "link",
    "rename", "unlink", "sync", "sync_directory",
)  # fmt: skip


class Death(BaseException):
    """The process is gone; nothing that follows runs."""


class MortalFileSystem(FileSystem):
    """A disk on which the n-th change is not made, as the process is killed there."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self.lives = lives

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CHANGING:
            return found

        def change(*arguments: Any, **named: Any) -> Any:
            self.lives -= 1
            if self.lives < 0:
                raise Death
            # A killed process leaves what it wrote to the kernel: nothing has to reach
            # the disk here, and a test of hundreds of runs must not wait for it.
            return None if "sync" in name else found(*arguments, **named)

        return change


NAMES = [f"o{number}" for number in range(3)]


def place(srv: Path, name: str, power: int) -> Path:
    path_hash = SALT.digest("a", "c", name).hex()
    return (
        srv
        / "d1"
        / hash_directory("objects", partition_of_hex(path_hash, power), path_hash)
    )


def store(srv: Path, name: str, file: str) -> Path:
    """A file of an object at its old place."""
    folder = place(srv, name, POWER)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    path.write_bytes(name.encode())
    for key, value in records.attributes({records.NAME: f"/a/c/{name}"}):
        os.setxattr(path, key, value)
    return path


@pytest.fixture
def srv(tmp_path: Path) -> Path:
    made = tmp_path / "srv"
    for name in NAMES:
        store(made, name, "1700000000.00000.data")
    store(made, NAMES[0], "1700000001.00000.meta")
    store(made, NAMES[1], "1600000000.00000.data")  # replaced, not yet removed
    return made


def relink(srv: Path, step: str, fs: FileSystem | None = None, **options: Any) -> Any:
    """One step on the device; the relinker's counters."""
    fs = fs or FileSystem()
    config = DiskConfig(
        devices=str(srv), mount_check=False, fallocate_reserve=Reserve(),
        reclaim_age=4_000_000_000,
    )  # fmt: skip
    policy = StoragePolicy(0, ("gold",), Replication(), is_default=True)
    log = Logger("relinker", [ListSink()])
    context = DiskContext(
        fs, Devices(str(srv), False, fs), config, policy, SALT, log, NO_METRICS
    )
    power = POWER if step == RELINK else POWER + 1
    phase = Phase(step, power, POWER + 1)
    return Relinker(RelinkerConfig(**options), context, "d1", phase).run()


def copied(source: Path, target: Path) -> None:
    """A copy of a tree; object files stay one file under all their names."""

    def copy(one: str, other: str) -> None:
        if one.endswith((".data", ".meta")):
            os.link(one, other)
        else:
            shutil.copy(one, other)

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=copy)


def readable(srv: Path, name: str, power: int) -> bool:
    path = place(srv, name, power) / "1700000000.00000.data"
    return path.is_file() and path.read_bytes() == name.encode()


def steps_of(srv: Path, step: str) -> int:
    """How many changes a whole run makes."""
    fs = MortalFileSystem(10**9)
    assert not relink(srv, step, fs).failed
    return 10**9 - fs.lives


def test_every_object_is_readable_whenever_the_relinker_dies(srv, tmp_path):
    start = tmp_path / "start"
    copied(srv, start)
    count = steps_of(srv, RELINK)
    assert count > 20
    for lives in range(count):
        copied(start, srv)
        with pytest.raises(Death):
            relink(srv, RELINK, MortalFileSystem(lives))
        assert all(readable(srv, name, POWER) for name in NAMES), lives
        assert not relink(srv, RELINK, MortalFileSystem(10**9)).failed, lives
        assert all(readable(srv, name, POWER + 1) for name in NAMES), lives


def test_no_object_is_lost_and_no_old_name_stays_whenever_cleanup_dies(srv, tmp_path):
    relink(srv, RELINK)
    # Links that a server could not make are made up for.
    missed = next(n for n in NAMES if place(srv, n, POWER) != place(srv, n, POWER + 1))
    shutil.rmtree(place(srv, missed, POWER + 1))
    start = tmp_path / "start"
    copied(srv, start)
    count = steps_of(srv, CLEANUP)
    for lives in range(count):
        copied(start, srv)
        with pytest.raises(Death):
            relink(srv, CLEANUP, MortalFileSystem(lives))
        for name in NAMES:
            assert readable(srv, name, POWER) or readable(srv, name, POWER + 1), lives
        assert not relink(srv, CLEANUP, MortalFileSystem(10**9)).failed, lives
        for name in NAMES:
            old, new = place(srv, name, POWER), place(srv, name, POWER + 1)
            assert readable(srv, name, POWER + 1), lives
            assert old == new or not old.exists(), lives


def test_what_is_obsolete_is_neither_linked_nor_kept(srv):
    relink(srv, RELINK)
    assert sorted(os.listdir(place(srv, NAMES[0], POWER + 1))) == [
        "1700000000.00000.data",
        "1700000001.00000.meta",
    ]
    old, new = place(srv, NAMES[1], POWER), place(srv, NAMES[1], POWER + 1)
    if old != new:
        assert os.listdir(new) == ["1700000000.00000.data"]
    stats = relink(srv, CLEANUP)
    assert stats.linked == 0
    assert not (new / "1600000000.00000.data").exists() or old == new


def test_an_object_in_no_place_of_either_power_is_left_alone(srv):
    path_hash = SALT.digest("a", "c", NAMES[0]).hex()
    wrong = (partition_of_hex(path_hash, POWER) + 3) % (1 << POWER)
    folder = srv / "d1" / hash_directory("objects", wrong, path_hash)
    folder.mkdir(parents=True)
    (folder / "1700000000.00000.data").write_bytes(b"?")
    assert not relink(srv, RELINK).failed
    assert not relink(srv, CLEANUP).failed
    assert (folder / "1700000000.00000.data").exists()


def test_files_a_second_are_bounded(srv, monkeypatch):
    waited = []
    monkeypatch.setattr(
        "swift.daemons.relinker.RateLimiter.wait", lambda _self, n: waited.append(n)
    )
    stats = relink(srv, RELINK, files_per_second=1.0)
    assert sum(waited) >= stats.files
