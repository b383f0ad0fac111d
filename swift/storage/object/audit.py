# SPDX-License-Identifier: Apache-2.0
"""The objects of a node as an auditor walks them, and the chores it does on the way.

The walk keeps the names of one suffix directory in memory, and leaves a checkpoint on
each device, so that an auditor that was killed goes on where it was. Everything here
blocks: an auditor is a process of its own.

Format: contract object-on-disk 11 and 14, daemons 7.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from swift.core import metadata as records
from swift.core.errors import DeviceUnavailable
from swift.core.hashing import is_path_hash, is_suffix
from swift.core.metadata import XATTR, XATTR_CHECKSUM, XATTR_SIZE_MAX
from swift.core.policy import StoragePolicies, StoragePolicy
from swift.runtime import green
from swift.runtime.logs import Logger
from swift.storage.devices import Devices
from swift.storage.fs import GONE, FileSystem, remove_if_there, replace_file

CHECKPOINT_S = 60.0
_CHECKPOINT_BYTES_MAX = 64 << 20
_UNLISTABLE = frozenset((*GONE, errno.ENODATA, errno.EUCLEAN))
_RSYNC_TEMPORARY = re.compile(r"\..*\.[A-Za-z0-9]{6}\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Location:
    """A hash directory, or what lies in the place of one."""

    device: str
    partition: str
    path_hash: str
    policy: StoragePolicy


class AuditTree:
    """The object trees of some devices, for one kind of scan.

    kind: ALL or ZBF, which keep their checkpoints apart.
    """

    def __init__(
        self, devices: Devices, policies: StoragePolicies, kind: str, log: Logger
    ) -> None:
        self._devices = devices
        self._fs = devices.fs
        self._policies = policies
        self._file_name = f"auditor_status_{kind}.json"
        self._log = log

    def walk(self, names: Sequence[str], rng: Random) -> Iterator[Location]:
        """Every hash directory of the named devices: policies in turns, devices in a
        random order, partitions as their directory lists them, or as a checkpoint does.
        """
        walks = [
            self._walk_policy(policy, rng.sample(list(names), len(names)))
            for policy in self._policies
        ]
        while walks:
            for walk in list(walks):
                location = next(walk, None)
                if location is None:
                    walks.remove(walk)
                else:
                    yield location

    def _walk_policy(
        self, policy: StoragePolicy, names: Sequence[str]
    ) -> Iterator[Location]:
        done = []
        for device in names:
            try:
                path = f"{self._devices.path(device)}/{policy.objects_dir}"
                done.append((device, path))
                yield from self._walk_device(device, path, policy)
            except DeviceUnavailable as error:
                self._log.warning("%s; it is skipped", error)
            except OSError as error:
                self._log.error("device %s cannot be walked: %s", device, error)
        for _, path in done:
            with suppress(OSError):
                remove_if_there(self._fs, [f"{path}/{self._file_name}"])

    def _walk_device(
        self, device: str, path: str, policy: StoragePolicy
    ) -> Iterator[Location]:
        partitions = self._checkpoint(path)
        if partitions is None:
            partitions = [name for name in self._list(path) if name.isdecimal()]
        checkpoint = _Checkpoint(
            self._fs,
            f"{path}/{self._file_name}",
            f"{self._devices.root}/{device}/{policy.tmp_dir}",
            self._log,
        )
        for index, partition in enumerate(partitions):
            checkpoint.keep(partitions[index:])
            for suffix in self._list(f"{path}/{partition}"):
                if not is_suffix(suffix):
                    continue
                for name in self._list(f"{path}/{partition}/{suffix}"):
                    if is_path_hash(name):
                        yield Location(device, partition, name, policy)
        if partitions:
            checkpoint.keep([], now=True)

    def _list(self, path: str) -> list[str]:
        try:
            return self._fs.list(path)
        except OSError as error:
            # What cannot be listed is replication's to move aside; it hashes suffixes.
            if error.errno in _UNLISTABLE:
                return []
            raise

    def _checkpoint(self, path: str) -> list[str] | None:
        """The partitions that an interrupted scan left to do; None for all."""
        file = f"{path}/{self._file_name}"
        try:
            data = self._fs.read_file(file, _CHECKPOINT_BYTES_MAX)
        except OSError as error:
            if error.errno not in GONE:
                self._log.warning("%s is ignored: %s", file, error)
            return None
        try:
            found = json.loads(data)["partitions"]
        except (ValueError, TypeError, LookupError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(
            isinstance(name, str) and name.isdecimal() for name in found
        ):
            self._log.warning("%s is ignored: it holds no partitions", file)
            return None
        return found


class _Checkpoint:
    """The file that says what is left of one device."""

    def __init__(
        self, fs: FileSystem, path: str, temporary_dir: str, log: Logger
    ) -> None:
        self._fs = fs
        self._path = path
        self._temporary_dir = temporary_dir
        self._log = log
        self._written = self._modified()

    def _modified(self) -> float:
        try:
            return self._fs.status(self._path).st_mtime
        except OSError:
            return 0.0

    def keep(self, partitions: Sequence[str], *, now: bool = False) -> None:
        """Write what is left, unless that was done a short while ago."""
        moment = green.now()
        if not now and 0 <= moment - self._written < CHECKPOINT_S:
            return
        data = json.dumps({"partitions": list(partitions)}).encode("ascii")
        try:
            with suppress(FileExistsError):
                self._fs.make_directory(self._temporary_dir)
            replace_file(self._fs, self._path, data, self._temporary_dir)
        except OSError as error:
            self._log.warning("%s is not written: %s", self._path, error)
        self._written = moment


def add_missing_checksum(fs: FileSystem, fd: int) -> bool:
    """Give a metadata record of an old writer the checksum it lacks; True if it did.

    Raises OSError.
    """
    if fs.get_xattr(fd, XATTR_CHECKSUM) is not None:
        return False
    data = piece = fs.get_xattr(fd, XATTR) or b""
    number = 1
    while len(piece) == XATTR_SIZE_MAX:
        piece = fs.get_xattr(fd, f"{XATTR}{number}") or b""
        data += piece
        number += 1
    if not data:
        return False
    fs.set_xattr(fd, XATTR_CHECKSUM, records.checksum(data))
    return True


def rsync_temporaries(names: Sequence[str]) -> list[str]:
    """Of the names in a directory, those that rsync gives to files under way."""
    return [name for name in names if name[0] == "." and _RSYNC_TEMPORARY.match(name)]


def remove_old(fs: FileSystem, paths: Sequence[str], before: float) -> int:
    """Remove files that were last changed before a time; how many. Raises OSError."""
    removed = 0
    for path in paths:
        with suppress(FileNotFoundError):
            if fs.status(path).st_mtime < before:
                fs.unlink(path)
                removed += 1
    return removed
