# SPDX-License-Identifier: Apache-2.0
"""Walking over the databases of a device, and clearing what never became one."""

from __future__ import annotations

import os

import pytest

from swift.storage.db.walk import DatabaseWalk
from swift.storage.devices import Devices

HASH = "0123456789abcdef0123456789abcdef"
THEN, BEFORE, NOW = 1_000_000.0, 1_500_000.0, 2_000_000.0


@pytest.fixture
def walk(tmp_path):
    return DatabaseWalk(Devices(str(tmp_path), mount_check=False), "containers")


def hash_directory(tmp_path, *names, when=THEN):
    directory = tmp_path / "sda1" / "containers" / "7" / HASH[-3:] / HASH
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).write_bytes(b"")
        os.utime(directory / name, (when, when))
    os.utime(directory, (when, when))
    return directory


@pytest.mark.parametrize("names", [(), (".lock",), ("a.tmp", ".lock", "b.tmp")])
def test_what_a_killed_process_began_long_ago_is_removed(walk, tmp_path, names):
    directory = hash_directory(tmp_path, *names)

    found = walk.databases("sda1", 7, clear_before=BEFORE)

    assert found.databases == ()
    assert not directory.parents[1].exists()


@pytest.mark.parametrize(
    ("names", "when"),
    [
        pytest.param(("a.tmp", ".lock"), NOW, id="just begun"),
        pytest.param((), NOW, id="not even begun"),
        pytest.param(("a.tmp", f"{HASH}.db.pending"), THEN, id="rows wait there"),
        pytest.param((f"{HASH}.db", "a.tmp"), THEN, id="a database"),
    ],
)
def test_what_may_be_needed_stays(walk, tmp_path, names, when):
    directory = hash_directory(tmp_path, *names, when=when)

    found = walk.databases("sda1", 7, clear_before=BEFORE)

    assert sorted(path.name for path in directory.iterdir()) == sorted(names)
    assert len(found.databases) == any(name.endswith(".db") for name in names)


def test_nothing_is_removed_unless_asked(walk, tmp_path):
    directory = hash_directory(tmp_path, "a.tmp")
    walk.databases("sda1", 7)
    assert (directory / "a.tmp").exists()
