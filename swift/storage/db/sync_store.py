# SPDX-License-Identifier: Apache-2.0
"""Which containers of a device are copied to other clusters: links to their databases.

A device holds many containers and few that are synced. Those have a link below
`sync_containers`, at the place that the database has below `containers`, so that the
daemon need not open all of them. The container server keeps the links, the replicator
mends them, and one that leads nowhere goes when the daemon meets it; so none of these
has to be told of a failure of another.

Contract: databases 15. All functions block and are called through `green.in_thread`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from swift.core.errors import DatabaseMissing
from swift.core.hashing import is_path_hash, is_suffix
from swift.storage.db.connection import db_path
from swift.storage.db.container import ContainerBroker, ContainerStat
from swift.storage.db.walk import FoundDatabase
from swift.storage.devices import Devices
from swift.storage.fs import FileSystem, the_disk

STORE = "sync_containers"
_CONTAINERS = "containers"
_LEVELS = 4  # partition, suffix, hash, file


def link_path(database_path: str) -> str:
    """Where the link to `<device>/containers/…/<hash>.db` stands."""
    parts = database_path.rsplit("/", _LEVELS + 1)
    assert parts[1] == _CONTAINERS, "only containers are synced"
    return "/".join((parts[0], STORE, *parts[2:]))


def is_synced(stat: ContainerStat) -> bool:
    """True when a container is to be copied: it lives, has a target and a key."""
    return not stat.is_deleted and bool(stat.sync_to) and bool(stat.sync_key)


class SyncStore:
    """The links on this node's devices."""

    def __init__(self, fs: FileSystem | None = None) -> None:
        self._fs = fs or the_disk()

    def update(self, broker: ContainerBroker, stat: ContainerStat) -> None:
        """Make or remove the link of a container, as `stat` says. Raises OSError.

        A container that never had anything to do with sync costs nothing.
        """
        if stat.sync_to is None and stat.sync_key is None:
            return
        if not is_synced(stat):
            self.remove(broker.path)
            return
        with suppress(DatabaseMissing):
            self._add(broker.live_file(), link_path(broker.path))

    def _add(self, target: str, link: str) -> None:
        try:
            if self._fs.read_link(link) == target:
                return
            # The database has a new name since it is being sharded.
            self._fs.unlink(link)
        except FileNotFoundError:
            self._make_parents(link)
        with suppress(FileExistsError):
            self._fs.symlink(target, link)

    def _make_parents(self, link: str) -> None:
        directory = os.path.dirname(link)
        missing = []
        for _ in range(_LEVELS):
            if self._fs.is_directory(directory):
                break
            missing.append(directory)
            directory = os.path.dirname(directory)
        for each in reversed(missing):
            with suppress(FileExistsError):
                self._fs.make_directory(each)

    def remove(self, database_path: str) -> None:
        """Remove the link to a database, and the directories it leaves empty."""
        link = link_path(database_path)
        with suppress(FileNotFoundError, NotADirectoryError):
            self._fs.unlink(link)
            directory = os.path.dirname(link)
            for _ in range(_LEVELS - 1):
                try:
                    self._fs.remove_directory(directory)
                except OSError:
                    return
                directory = os.path.dirname(directory)

    def found(self, devices: Devices, device: str) -> Iterator[FoundDatabase]:
        """The databases that the links of a device stand for, by partition and hash.

        They may be gone. Raises DeviceUnavailable, OSError.
        """
        root = f"{devices.path(device)}/{STORE}"
        partitions = (name for name in self._names(root) if name.isdecimal())
        for partition in sorted(map(int, partitions)):
            for suffix in self._names(f"{root}/{partition}"):
                if not is_suffix(suffix):
                    continue
                for path_hash in self._names(f"{root}/{partition}/{suffix}"):
                    if is_path_hash(path_hash) and path_hash[-3:] == suffix:
                        path = db_path(
                            devices.root, device, _CONTAINERS, partition, path_hash
                        )
                        yield FoundDatabase(device, partition, path_hash, path)

    def _names(self, path: str) -> list[str]:
        try:
            return sorted(self._fs.list(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
