# SPDX-License-Identifier: Apache-2.0
"""Every database on a device: partitions, suffixes, hash directories.

Names that do not belong there are passed over. All functions block and are called
through `green.in_thread`; a pass sees one partition at a time, so its memory does not
grow with the device.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from swift.core.hashing import HASH_HEX_LENGTH, is_path_hash, is_suffix
from swift.storage.devices import Devices
from swift.storage.fs import FileSystem, remove_if_there

_TMP = "tmp"


@dataclass(frozen=True, slots=True)
class FoundDatabase:
    """A hash directory that holds a database.

    path: `<directory>/<hash>.db`, also when the live file has an epoch in its name.
    """

    device: str
    partition: int
    path_hash: str
    path: str


@dataclass(frozen=True, slots=True)
class PartitionContents:
    """The databases of one partition; removed: empty directories that were cleared."""

    databases: tuple[FoundDatabase, ...]
    removed: int = 0


class DatabaseWalk:
    """Walks the databases of one kind (`accounts` or `containers`)."""

    def __init__(self, devices: Devices, kind: str) -> None:
        self._devices = devices
        self._fs: FileSystem = devices.fs
        self._kind = kind

    def partitions(self, device: str) -> list[int]:
        """The partitions on a device, in order. Raises DeviceUnavailable."""
        root = f"{self._devices.path(device)}/{self._kind}"
        return sorted(
            int(name)
            for name in self._names(root)
            if name.isascii() and name.isdigit() and name == str(int(name))
        )

    def databases(
        self, device: str, partition: int, *, clear_before: float | None = None
    ) -> PartitionContents:
        """The databases of a partition, by hash.

        clear_before: remove empty suffix and partition directories met on the way, and
        what processes that died left of databases that they made before that time.
        """
        root = f"{self._devices.path(device)}/{self._kind}/{partition}"
        found: list[FoundDatabase] = []
        removed = 0
        suffixes = self._names(root)
        for suffix in sorted(filter(is_suffix, suffixes)):
            hashes = self._names(f"{root}/{suffix}")
            left = len(hashes)
            for path_hash in sorted(filter(is_path_hash, hashes)):
                directory = f"{root}/{suffix}/{path_hash}"
                if path_hash[-3:] != suffix:
                    continue
                if self._has_database(directory):
                    path = f"{directory}/{path_hash}.db"
                    found.append(FoundDatabase(device, partition, path_hash, path))
                elif clear_before is not None:
                    left -= self._clear_unborn(directory, clear_before)
            if clear_before is not None and not left:
                removed += self._clear(f"{root}/{suffix}")
        if clear_before is not None and not found and removed == len(suffixes):
            removed += self._clear(root)
        return PartitionContents(tuple(found), removed)

    def _has_database(self, directory: str) -> bool:
        return any(
            name.endswith(".db")
            and is_path_hash(name[:HASH_HEX_LENGTH])
            and name[HASH_HEX_LENGTH] in "._"
            for name in self._names(directory)
        )

    def _names(self, path: str) -> list[str]:
        try:
            return self._fs.list(path)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _clear_unborn(self, directory: str, before: float) -> int:
        """Remove a directory whose database was never finished; 1 when it is gone."""
        names = self._names(directory)
        paths = [f"{directory}/{name}" for name in names]
        if not all(name == ".lock" or name.endswith(".tmp") for name in names):
            return 0
        try:
            if any(
                self._fs.status(path).st_mtime >= before
                for path in paths or [directory]
            ):
                return 0
        except FileNotFoundError:
            return 0  # it is being made right now
        remove_if_there(self._fs, paths)
        return self._clear(directory)

    def _clear(self, path: str) -> int:
        # A database that is made here meanwhile makes its directories again.
        try:
            self._fs.remove_directory(path)
        except OSError:
            return 0
        return 1

    def remove_old_copies(self, device: str, before: float) -> None:
        """Remove what interrupted copies left in the device's tmp, changed before."""
        root = f"{self._devices.path(device)}/{_TMP}"
        for name in self._names(root):
            path = f"{root}/{name}"
            with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                if self._fs.status(path).st_mtime < before:
                    remove_if_there(self._fs, [path])
