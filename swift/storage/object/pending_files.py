# SPDX-License-Identifier: Apache-2.0
"""The pending updates on one device, as the updater walks and changes them.

A walk holds the names of one prefix directory at a time. What cannot be read moves to
quarantine; a changed update replaces its file by one rename. Everything here blocks:
the updater gives each device a process of its own.

Format: doc/source/formats/async-pending.md (contract object-on-disk 9).
"""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from swift.core.errors import FormatError
from swift.core.pendings import Update, split_file_name
from swift.core.policy import StoragePolicies, StoragePolicy
from swift.core.timestamp import Timestamp
from swift.runtime.logs import Logger
from swift.storage.fs import GONE, FileSystem, replace_file, the_disk
from swift.storage.object.cleanup import QUARANTINE_DIR

PENDING_DIR = "async_pending"
QUARANTINED_WITH = "objects"
"""Below the quarantine; existing nodes put the updates of every policy there."""

SIZE_MAX = 1 << 20
"""Bytes of a pending file that are read; a real one has some hundreds."""


@dataclass(frozen=True, slots=True)
class PendingFile:
    """One file. path_hash: of the object; files of one hash tell of one object."""

    directory: str
    name: str
    policy: StoragePolicy
    path_hash: str
    timestamp: Timestamp

    @property
    def path(self) -> str:
        """Where the file is."""
        return f"{self.directory}/{self.name}"


class PendingTree:
    """The pending updates of one device, those of all policies.

    on_bad_name: called for each file whose name is none.
    """

    def __init__(
        self,
        device_path: str,
        policies: StoragePolicies,
        log: Logger,
        *,
        fs: FileSystem | None = None,
    ) -> None:
        self._device_path = device_path
        self._policies = policies
        self._log = log
        self._fs = fs or the_disk()
        self.bad_names = 0
        """Files met so far whose name is not `<hash>-<time>`."""

    def is_empty(self) -> bool:
        """True when nothing is pending; cheap. Raises OSError."""
        return not any(
            self._list(f"{self._device_path}/{name}")
            for name in self._fs.list(self._device_path)
            if name.startswith(PENDING_DIR)
        )

    def walk(self, rng: Random) -> Iterator[PendingFile]:
        """Every file: prefixes at random, the names of one from high to low.

        So the files of one object follow each other, the newest first. Prefix
        directories that are empty are removed. Raises OSError when the device cannot
        be listed.
        """
        for name in sorted(self._fs.list(self._device_path)):
            base, dash, number = name.partition("-")
            if base != PENDING_DIR:
                continue
            policy = self._policies.by_index(number) if number or not dash else None
            if policy is None or policy.pending_dir != name:
                self._log.warning(
                    "%s/%s: no such policy, its updates are left",
                    self._device_path,
                    name,
                )
                continue
            yield from self._walk_policy(f"{self._device_path}/{name}", policy, rng)

    def _walk_policy(
        self, path: str, policy: StoragePolicy, rng: Random
    ) -> Iterator[PendingFile]:
        prefixes = self._list(path)
        rng.shuffle(prefixes)
        for prefix in prefixes:
            directory = f"{path}/{prefix}"
            names = self._list(directory)
            if not names:
                self.remove_if_empty(directory)
            for name in sorted(names, reverse=True):
                parsed = split_file_name(name)
                if parsed is None:
                    self.bad_names += 1
                    self._log.error("%s/%s: no name of an update", directory, name)
                    continue
                yield PendingFile(directory, name, policy, *parsed)

    def _list(self, path: str) -> list[str]:
        try:
            return self._fs.list(path)
        except OSError as error:
            if error.errno not in GONE:
                raise
            if error.errno == errno.ENOTDIR:
                self._log.warning("%s: is no directory", path)
            return []

    def load(self, file: PendingFile) -> Update | None:
        """The update in a file; None when it is gone meanwhile.

        Raises FormatError, OSError.
        """
        try:
            data = self._fs.read_file(file.path, SIZE_MAX + 1)
        except FileNotFoundError:
            return None
        if len(data) > SIZE_MAX:
            raise FormatError("pending update", f"has more than {SIZE_MAX} bytes")
        return Update.read(data)

    def rewrite(self, file: PendingFile, update: Update) -> None:
        """Put an update in the place of what the file holds. Raises OSError."""
        temporary_dir = f"{self._device_path}/{file.policy.tmp_dir}"
        with suppress(FileExistsError):
            self._fs.make_directory(temporary_dir)
        data = pickle.dumps(update.record(), protocol=2)
        replace_file(self._fs, file.path, data, temporary_dir)

    def remove(self, file: PendingFile) -> None:
        """Forget a file that has served, and its directory when it was the last."""
        with suppress(FileNotFoundError):
            self._fs.unlink(file.path)
        self.remove_if_empty(file.directory)

    def remove_if_empty(self, directory: str) -> None:
        """Remove a prefix directory unless something is in it."""
        with suppress(OSError):
            self._fs.remove_directory(directory)

    def quarantine(self, file: PendingFile) -> str:
        """Move a file aside whose content means nothing; its new path.

        Raises OSError.
        """
        parent = f"{self._device_path}/{QUARANTINE_DIR}"
        target = f"{parent}/{QUARANTINED_WITH}"
        for path in (parent, target):
            with suppress(FileExistsError):
                self._fs.make_directory(path)
        self._fs.rename(file.path, f"{target}/{file.name}")
        self.remove_if_empty(file.directory)
        return f"{target}/{file.name}"
