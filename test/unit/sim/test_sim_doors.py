# SPDX-License-Identifier: Apache-2.0
"""The fakes in the doors know all that the real doors do."""

from __future__ import annotations

from swift.storage.fs import FileSystem
from test.sim.doors import CHANGES, STEPS

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
