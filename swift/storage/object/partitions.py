# SPDX-License-Identifier: Apache-2.0
"""Partitions of one policy on this node, as replication walks, locks and drops them.

What is dropped are the very files that a peer has confirmed, never a whole tree: a
write that came in meanwhile stays, and is found by the next pass. Methods yield, as
they ask a disk thread; contract object-on-disk 1, 11, daemons 8.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from swift.core.errors import DeviceUnavailable, LockTimeout, ObjectMissing
from swift.core.hashing import SUFFIX_LENGTH, is_path_hash, is_suffix
from swift.core.names import is_safe_segment
from swift.core.objectfiles import FilePart, FileSet
from swift.core.reconstruction import given_back
from swift.core.redundancy import Redundancy
from swift.runtime import green
from swift.storage.fs import GONE, as_domain_error, remove_if_there
from swift.storage.object import hashes
from swift.storage.object.cleanup import clean_names, is_awaiting_commit
from swift.storage.object.context import DiskContext

T = TypeVar("T")

ObjectNames = Mapping[str, Sequence[str]]
"""Path hash → names of the files in its directory."""

REPLICATION_LOCK = ".lock-replication"
DEVICE_LOCK = ".lock"

_POLL_S = 0.05
_UNLISTED = frozenset((*GONE, errno.ENODATA, errno.EUCLEAN))
"""Errors of a directory that has nothing to offer: hashing its suffix sees to it."""


class _Turns:
    """Those of this process who hold or want a lock. users: how many they are."""

    def __init__(self, places: int) -> None:
        self.places = green.Semaphore(places)
        self.users = 0


class Partitions:
    """The directories below `objects[-N]` of the devices."""

    def __init__(self, context: DiskContext) -> None:
        self._context = context
        self._turns: dict[str, _Turns] = {}

    # --- looking ----------------------------------------------------------------------

    def names(self, device: str) -> list[str]:
        """The entries of the objects directory, which is made when it is missing.

        Raises DeviceUnavailable.
        """
        return self._run(device, self._names, device)

    def _names(self, device: str) -> list[str]:
        path = self._objects_path(device)
        try:
            return self._context.fs.list(path)
        except FileNotFoundError:
            self._make_for_good(path)
            return []

    def suffixes(self, device: str, partition: str | int) -> list[str]:
        """The suffix directories, sorted; none for a partition that is not there."""
        return self._run(device, self._suffixes, self.path(device, partition))

    def _suffixes(self, path: str) -> list[str]:
        try:
            names = self._context.fs.list(path)
        except OSError as error:
            if error.errno in GONE:
                return []
            raise
        return sorted(name for name in names if is_suffix(name))

    def objects(
        self, device: str, partition: str | int, *suffixes: str
    ) -> dict[str, tuple[str, ...]]:
        """What some suffix directories hold, after a clean-up."""
        path = self.path(device, partition)

        def look() -> dict[str, tuple[str, ...]]:
            found: dict[str, tuple[str, ...]] = {}
            for suffix in suffixes:
                found |= self._objects(f"{path}/{suffix}")
            return found

        return self._run(device, look)

    def _objects(self, path: str) -> dict[str, tuple[str, ...]]:
        fs = self._context.fs
        found = {}
        try:
            entries = sorted(fs.list(path))
        except OSError as error:
            if error.errno in _UNLISTED:
                return {}
            raise
        for path_hash in filter(is_path_hash, entries):
            directory = f"{path}/{path_hash}"
            try:
                names = fs.list(directory)
                _files, left = clean_names(
                    self._context, directory, names, now=green.now()
                )
                if left != len(names):
                    names = fs.list(directory)
            except OSError as error:
                if error.errno in _UNLISTED:
                    continue
                raise
            if names:
                found[path_hash] = tuple(names)
        return found

    def file_sets(
        self,
        device: str,
        partition: str | int,
        path_hashes: Sequence[str],
        choose: Callable[[Redundancy, Sequence[str]], FileSet],
    ) -> list[FileSet]:
        """What `choose` makes of each object directory, in the order asked."""
        path = self.path(device, partition)

        def look() -> list[FileSet]:
            redundancy = self._context.policy.redundancy
            return [choose(redundancy, self._listed(path, h)) for h in path_hashes]

        return self._run(device, look)

    def _listed(self, path: str, path_hash: str) -> Sequence[str]:
        try:
            return self._context.fs.list(
                f"{path}/{path_hash[-SUFFIX_LENGTH:]}/{path_hash}"
            )
        except OSError as error:
            if error.errno in _UNLISTED:
                return ()
            raise

    # --- locking ----------------------------------------------------------------------

    @contextmanager
    def locked(
        self,
        device: str,
        partition: str | int,
        timeout_s: float,
        *,
        make: bool = False,
    ) -> Iterator[None]:
        """Hold the replication lock of a partition.

        make: make the partition's directory when it is missing. Raises LockTimeout,
        DeviceUnavailable, ObjectMissing for a partition that is not there.
        """
        path = self.path(device, partition)
        if make:
            self._run(device, self._make_partition, device, path)
        with self._held(device, [f"{path}/{REPLICATION_LOCK}"], timeout_s):
            yield

    def _make_partition(self, device: str, path: str) -> None:
        for directory in (self._objects_path(device), path):
            self._make_for_good(directory)

    def _make_for_good(self, path: str) -> None:
        """Make a directory, if there is none, whose name outlives a loss of power.

        A writer syncs the names of what it makes itself, and takes this for old.
        """
        fs = self._context.fs
        try:
            fs.make_directory(path)
        except FileExistsError:
            return
        parent = fs.open_directory(path.rpartition("/")[0])
        try:
            if not fs.orders_names(parent):
                fs.sync(parent)
        finally:
            fs.close(parent)

    @contextmanager
    def device_locked(
        self, device: str, limit: int, timeout_s: float
    ) -> Iterator[None]:
        """Hold one of `limit` replication locks of a device; 0 for no lock at all.

        Raises LockTimeout, DeviceUnavailable.
        """
        if not limit:
            yield
            return
        path = f"{self._context.devices.path(device)}/{DEVICE_LOCK}"
        paths = [path, *(f"{path}-{number}" for number in range(1, limit))]
        with self._held(device, paths, timeout_s):
            yield

    @contextmanager
    def _held(
        self, device: str, paths: Sequence[str], timeout_s: float
    ) -> Iterator[None]:
        """Hold the lock of the first of some files that is free.

        Those of this process queue up for it, and it goes from one to the next at
        once: several peers that fill one device would wait for looks at the file more
        than for each other. Looks are for the locks of other processes.
        """
        deadline = green.monotonic() + timeout_s
        turns = self._turns.setdefault(paths[0], _Turns(len(paths)))
        turns.users += 1
        try:
            if not turns.places.acquire(timeout_s):
                raise LockTimeout(paths[0], timeout_s)
            try:
                fd = self._lock(device, paths, timeout_s, deadline)
                try:
                    yield
                finally:
                    self._context.fs.close(fd)
            finally:
                turns.places.release()
        finally:
            turns.users -= 1
            if not turns.users:
                del self._turns[paths[0]]

    def _lock(
        self, device: str, paths: Sequence[str], timeout_s: float, deadline: float
    ) -> int:
        """Lock the first of some files that is free. Yields, and blocks no thread."""
        while True:
            for path in paths:
                try:
                    return self._context.fs.lock(path, 0)
                except LockTimeout:
                    pass
                except OSError as error:
                    if error.errno in GONE:
                        raise ObjectMissing(f"{path}: is gone") from error
                    raise as_domain_error(error, device) from error
            if green.monotonic() >= deadline:
                raise LockTimeout(paths[0], timeout_s)
            green.sleep(min(_POLL_S, timeout_s))

    # --- removing ---------------------------------------------------------------------

    def drop(self, device: str, partition: str | int, objects: ObjectNames) -> bool:
        """Remove these files, and directories that are empty then.

        True when nothing is left of the partition.
        """
        path = self.path(device, partition)
        return self._run(device, self._drop, path, objects)

    def _drop(self, path: str, objects: ObjectNames) -> bool:
        fs = self._context.fs
        suffixes = self._announce(path, objects)
        for path_hash, names in objects.items():
            directory = f"{path}/{path_hash[-SUFFIX_LENGTH:]}/{path_hash}"
            # What has come since the files were offered may need them: metadata is
            # nothing without its data. The next pass offers it all again.
            if not set(self._listed(path, path_hash)).issubset(names):
                continue
            for name in names:
                with suppress(FileNotFoundError):
                    fs.unlink(f"{directory}/{name}")
            with suppress(OSError):  # a writer has come in between
                fs.remove_directory(directory)
        for suffix in suffixes:
            with suppress(OSError):
                fs.remove_directory(f"{path}/{suffix}")
        return self._drop_if_empty(path)

    def _announce(self, path: str, objects: Iterable[str]) -> list[str]:
        """The suffixes of some objects, once it is noted that they change."""
        suffixes = sorted({path_hash[-SUFFIX_LENGTH:] for path_hash in objects})
        if suffixes:
            hashes.invalidate(self._context.fs, path, *suffixes)
        return suffixes

    def give_back(
        self,
        device: str,
        partition: str | int,
        objects: Mapping[str, FileSet],
        *,
        is_handoff: bool,
    ) -> None:
        """Remove fragments that other nodes have now, and directories left empty.

        objects: by hash, the files that were offered. What came since stays, and so do
        fragments that may still be committed here.
        """
        path = self.path(device, partition)
        self._run(device, self._give_back, path, objects, is_handoff)

    def _give_back(
        self, path: str, objects: Mapping[str, FileSet], is_handoff: bool
    ) -> None:
        fs = self._context.fs
        suffixes = self._announce(path, objects)
        for path_hash, offered in objects.items():
            directory = f"{path}/{path_hash[-SUFFIX_LENGTH:]}/{path_hash}"
            for part in self._doomed(directory, path_hash, path, offered, is_handoff):
                with suppress(FileNotFoundError):
                    fs.unlink(f"{directory}/{part.name}")
            with suppress(OSError):  # something is left
                fs.remove_directory(directory)
        for suffix in suffixes:
            with suppress(OSError):
                fs.remove_directory(f"{path}/{suffix}")

    def _doomed(
        self,
        directory: str,
        path_hash: str,
        path: str,
        offered: FileSet,
        is_handoff: bool,
    ) -> Sequence[FilePart]:
        """The files of one object that may go."""
        data = offered.data
        is_durable = data is not None and offered.durable_timestamp == data.timestamp
        if (
            data is not None
            and not is_durable
            and is_awaiting_commit(self._context, directory, data, green.now())
        ):
            return ()
        standing = self._context.policy.redundancy.choose(
            self._listed(path, path_hash),
            preferences=None if is_durable else (),
            fragment_index=None if data is None else data.fragment_index,
        )
        return given_back(offered, standing, is_handoff=is_handoff)

    def remove_junk(self, device: str, names: Sequence[str]) -> None:
        """Remove entries of the objects directory that are no partitions."""
        self._run(device, self._remove_junk, self._objects_path(device), names)

    def _remove_junk(self, path: str, names: Sequence[str]) -> None:
        for name in names:
            with suppress(OSError):
                if self._context.fs.is_file(f"{path}/{name}"):
                    self._context.fs.unlink(f"{path}/{name}")
                else:
                    self._context.fs.remove_directory(f"{path}/{name}")

    def _drop_if_empty(self, path: str) -> bool:
        """Remove a partition without suffixes and what else lies in its directory."""
        fs = self._context.fs
        try:
            names = fs.list(path)
        except OSError as error:
            if error.errno in GONE:
                return True
            raise
        for name in filter(is_suffix, names):
            with suppress(OSError):
                fs.remove_directory(f"{path}/{name}")
        names = fs.list(path)
        if any(is_suffix(name) for name in names):
            return False
        for name in names:
            with suppress(OSError):
                if fs.is_file(f"{path}/{name}"):
                    fs.unlink(f"{path}/{name}")
                else:
                    fs.remove_directory(f"{path}/{name}")
        try:
            fs.remove_directory(path)
        except OSError:
            return False  # somebody writes again
        return True

    def remove_if_file(self, device: str, partition: str | int) -> bool:
        """Remove a plain file in the place of a partition; True when there was one."""
        path = self.path(device, partition)
        try:
            # Whoever asks has just listed the directory, so this does not wait for it.
            if not self._context.fs.is_file(path):
                return False
        except OSError as error:
            raise as_domain_error(error, device) from error
        self._run(device, remove_if_there, self._context.fs, [path])
        return True

    def forget_temporaries(self, device: str) -> None:
        """Remove temporary files that are older than the reclaim age."""
        self._run(device, self._forget_temporaries, device)

    def _forget_temporaries(self, device: str) -> None:
        fs = self._context.fs
        folder = f"{self._context.devices.path(device)}/{self._context.policy.tmp_dir}"
        try:
            names = fs.list(folder)
        except FileNotFoundError:
            return
        oldest = green.now() - self._context.config.reclaim_age
        for name in names:
            with suppress(OSError):
                if fs.status(f"{folder}/{name}").st_mtime < oldest:
                    fs.unlink(f"{folder}/{name}")

    # --- how --------------------------------------------------------------------------

    def path(self, device: str, partition: str | int) -> str:
        """The directory of a partition. Raises DeviceUnavailable."""
        if not is_safe_segment(str(partition)):
            raise DeviceUnavailable(device, f"no partition {partition!r}")
        return f"{self._objects_path(device)}/{partition}"

    def _objects_path(self, device: str) -> str:
        root = self._context.devices.path(device)
        return f"{root}/{self._context.policy.objects_dir}"

    def _run(self, device: str, function: Callable[..., T], *arguments: object) -> T:
        """Call on a disk thread; an OSError is the device's."""

        def run() -> T:
            try:
                return function(*arguments)
            except OSError as error:
                raise as_domain_error(error, device) from error

        return green.in_thread(run)
