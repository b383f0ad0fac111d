# SPDX-License-Identifier: Apache-2.0
"""The fakes in the doors know all that the real doors do."""

from __future__ import annotations

import random

from swift.storage.fs import FileSystem
from test.sim.doors import CHANGES, STEPS, SimDisk

NO_STEPS = frozenset(
    (
        "close", "drop_cache", "keeps_log", "locked", "orders_names", "random_bytes",
        "read_file", "read_once", "start_sync", "sync_directory",
    )
)  # fmt: skip
"""What no disk refuses, and what is made of other steps."""


def test_every_method_of_the_disk_door_is_a_step_or_known_to_be_none():
    methods = {
        name
        for name, value in vars(FileSystem).items()
        if callable(value) and not name.startswith("_")
    }

    assert methods - STEPS == NO_STEPS
    assert CHANGES <= STEPS <= methods


class NoLuck(random.Random):
    """Chance that never saves anything."""

    def random(self):
        return 0.99


def test_an_empty_directory_that_was_synced_comes_back_as_one(tmp_path):
    path = tmp_path / "n1" / "sda"
    path.mkdir(parents=True)
    disk = SimDisk(str(tmp_path), NoLuck())
    disk.add("n1", "sda")
    disk.make_directory(f"{path}/cfb")
    disk.sync_directory(f"{path}/cfb")
    disk.sync_directory(str(path))
    disk.remove_directory(f"{path}/cfb")

    disk.lose_power("n1", "sda")

    assert (path / "cfb").is_dir()
