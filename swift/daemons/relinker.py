# SPDX-License-Identifier: Apache-2.0
"""Hard links for a part power that grows, made while the servers serve.

Growing the part power by one moves each object to another partition of the same device,
so nothing is copied. Step `relink` gives every file a second name where the next part
power wants it; then the ring is changed; step `cleanup` makes up for links that are
missing and removes the old names. Servers do the same for what they write meanwhile.
Either side may be killed at any time: a rerun goes on where the last one stopped.

Contracts object-on-disk §12, cli §7, ring §7. Everything here blocks.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any

from swift.core.errors import DeviceUnavailable, LockTimeout
from swift.core.hashing import (
    hash_directory,
    is_path_hash,
    is_suffix,
    partition_of_hex,
)
from swift.core.objectfiles import TOMBSTONE
from swift.core.settings import auto_or, boolean, natural, number, option, seconds
from swift.runtime import green
from swift.runtime.daemon import RateLimiter
from swift.storage.fs import GONE, remove_if_there
from swift.storage.object import hashes
from swift.storage.object.cleanup import move_aside
from swift.storage.object.context import DiskContext
from swift.storage.object.partitions import REPLICATION_LOCK

RELINK, CLEANUP = "relink", "cleanup"
SECTION = "object-relinker"
LOCK_TIMEOUT_S = 0.1

_STATE_SIZE_MAX = 64 << 20


@dataclass(frozen=True)
class RelinkerConfig:
    """[object-relinker] of object-server.conf."""

    user: str = option("swift", doc="Whom it runs as, when started by root.")
    swift_dir: str = option("/etc/swift", doc="Where swift.conf and rings are.")
    recon_cache_path: str = option(
        "/var/cache/swift", doc="Where facts for recon are left."
    )
    workers: int | None = option(
        None,
        parse=auto_or(natural),
        doc="Processes; auto is one a device, 0 works in the main.",
    )
    files_per_second: float = option(
        0.0, parse=number, doc="Files looked at a second in a process; 0 is no limit."
    )
    stats_interval_s: float = option(
        300.0, name="stats_interval", parse=seconds, doc="Time between progress lines."
    )
    clobber_hardlink_collisions: bool = option(
        False,
        parse=boolean,
        doc="A different file in the new place gives way (relink), or stays (cleanup).",
    )


@dataclass
class Stats:
    """What was met and done."""

    hash_dirs: int = 0
    files: int = 0
    linked: int = 0
    removed: int = 0
    errors: int = 0
    unmounted: int = 0
    unlistable_partitions: int = 0

    def add(self, other: Stats) -> None:
        """Count another's as well."""
        for each in fields(self):
            total = getattr(self, each.name) + getattr(other, each.name)
            setattr(self, each.name, total)

    def as_dict(self) -> dict[str, int]:
        """The counters for recon; the rare ones only when they count something."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name)
            or each.name not in ("unmounted", "unlistable_partitions")
        }

    @property
    def failed(self) -> bool:
        """True when a rerun has to make up for something."""
        return bool(self.errors or self.unmounted or self.unlistable_partitions)


@dataclass
class Phase:
    """One policy of a device in one step, as recon shows it. Times since 1970."""

    step: str
    part_power: int
    next_part_power: int
    parts_done: int = 0
    total_parts: int = 0
    start_time: float = 0.0
    timestamp: float = 0.0
    stats: Stats = field(default_factory=Stats)

    def as_dict(self) -> dict[str, Any]:
        """The fields for recon."""
        return {
            "step": self.step,
            "part_power": self.part_power,
            "next_part_power": self.next_part_power,
            "parts_done": self.parts_done,
            "total_parts": self.total_parts,
            "start_time": self.start_time,
            "timestamp": self.timestamp,
            "total_time": self.timestamp - self.start_time,
            "stats": self.stats.as_dict(),
        }


class State:
    """Which partitions of a device are done, kept on the device.

    A state of other part powers, or one that cannot be read, counts for nothing.
    """

    def __init__(self, context: DiskContext, device_path: str, phase: Phase) -> None:
        self._fs = context.fs
        data_dir = context.policy.objects_dir
        self._path = f"{device_path}/relink.{data_dir}.json"
        self._temporary = f"{device_path}/.relink.{data_dir}.json.tmp"
        self._facts = {
            "part_power": phase.part_power,
            "next_part_power": phase.next_part_power,
        }
        self.done: dict[str, bool] = self._read()

    def _read(self) -> dict[str, bool]:
        try:
            found = json.loads(self._fs.read_file(self._path, _STATE_SIZE_MAX))
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict) or not isinstance(found.get("state"), dict):
            return {}
        if any(found.get(name) != value for name, value in self._facts.items()):
            return {}
        return {str(name): value is True for name, value in found["state"].items()}

    def write(self) -> None:
        """Replace the file: old or new state after a crash. Raises OSError."""
        data = json.dumps({**self._facts, "state": self.done}).encode()
        fd = self._fs.open_append(self._temporary)
        try:
            self._fs.truncate(fd, 0)
            self._fs.write(fd, [data])
            self._fs.sync(fd)
        finally:
            self._fs.close(fd)
        self._fs.rename(self._temporary, self._path)


class Relinker:
    """One step on one policy of one device.

    context: of the policy. part_power, next_part_power: of its ring. only: partitions
    to look at, none for all. tell: called with the phase when there is news for recon.
    """

    def __init__(
        self,
        config: RelinkerConfig,
        context: DiskContext,
        device: str,
        phase: Phase,
        *,
        only: Sequence[int] = (),
        tell: Callable[[Phase], object] = lambda _phase: None,
    ) -> None:
        self._config = config
        self._context = context
        self._fs = context.fs
        self._log = context.log
        self._device = device
        self._phase = phase
        self._only = frozenset(only)
        self._tell = tell
        self._limiter = RateLimiter(config.files_per_second)
        self._next_told = 0.0
        self._power = phase.next_part_power
        self._half = 1 << (self._power - 1)
        self._objects_path = ""
        self._device_path = ""

    @property
    def stats(self) -> Stats:
        """What was met and done so far."""
        return self._phase.stats

    def run(self) -> Stats:
        """Go through the partitions; errors are logged and counted."""
        phase = self._phase
        phase.start_time = phase.timestamp = green.now()
        try:
            self._device_path = self._context.devices.path(self._device)
        except DeviceUnavailable as error:
            self._log.error("%s; skipped", error)
            self.stats.unmounted += 1
            self._finish()
            return self.stats
        data_dir = self._context.policy.objects_dir
        self._objects_path = f"{self._device_path}/{data_dir}"
        lock = f"{self._device_path}/.relink.{data_dir}.lock"
        try:
            with self._fs.locked(lock, LOCK_TIMEOUT_S):
                self._run_locked()
        except (OSError, LockTimeout) as error:
            self._log.error("device %s: %s", self._device, error)
            self.stats.errors += 1
        self._finish()
        return self.stats

    def _finish(self) -> None:
        self._phase.timestamp = green.now()
        self._tell(self._phase)
        stats = self.stats
        self._log.info(
            "Device: %s Policy: %s %d hash dirs processed (%d files, %d linked, "
            "%d removed, %d errors)",
            self._device,
            self._context.policy.name,
            stats.hash_dirs,
            stats.files,
            stats.linked,
            stats.removed,
            stats.errors,
        )

    def _run_locked(self) -> None:
        phase = self._phase
        state = State(self._context, self._device_path, phase)
        partitions = self._partitions()
        for partition in partitions:
            state.done.setdefault(str(partition), False)
        phase.total_parts = len(partitions)
        phase.parts_done = sum(state.done[str(each)] for each in partitions)
        for partition in partitions:
            if state.done[str(partition)]:
                continue
            before = self.stats.errors + self.stats.unlistable_partitions
            self._relink_partition(partition)
            if self.stats.errors + self.stats.unlistable_partitions == before:
                state.done[str(partition)] = True
                state.write()
                phase.parts_done += 1
            self._report_progress()

    def _report_progress(self) -> None:
        phase = self._phase
        phase.timestamp = green.now()
        self._log.debug(
            "Device: %s Policy: %s Partitions: %d/%d",
            self._device,
            self._context.policy.name,
            phase.parts_done,
            phase.total_parts,
        )
        if green.monotonic() >= self._next_told:
            self._next_told = green.monotonic() + self._config.stats_interval_s
            self._tell(phase)
            self._log.info(
                "Device: %s Policy: %s Partitions: %d/%d",
                self._device,
                self._context.policy.name,
                phase.parts_done,
                phase.total_parts,
            )

    def _partitions(self) -> list[int]:
        """The partitions that may hold something old, from high to low.

        From high to low, so that nothing is met again in the place it was linked to. In
        the upper half of the numbers only the next part power puts objects.
        """
        try:
            names = self._fs.list(self._objects_path)
        except OSError as error:
            if error.errno in GONE:
                return []
            raise
        found = {int(name) for name in names if name.isdecimal()}
        if self._only:
            found &= self._only
        return sorted((each for each in found if each < self._half), reverse=True)

    def _relink_partition(self, partition: int) -> None:
        """Do one partition; what fails is logged and counted."""
        path = f"{self._objects_path}/{partition}"
        touched: set[int] = set()
        try:
            suffixes = sorted(filter(is_suffix, self._fs.list(path)))
        except OSError as error:
            self._log.error("partition %s cannot be listed: %s", path, error)
            self.stats.unlistable_partitions += 1
            return
        for suffix in suffixes:
            for path_hash in self._hashes(f"{path}/{suffix}"):
                target = partition_of_hex(path_hash, self._power)
                if target == partition:
                    continue
                if partition_of_hex(path_hash, self._power - 1) != partition:
                    self._log.warning(
                        "%s/%s/%s is in no partition of either part power; left",
                        path,
                        suffix,
                        path_hash,
                    )
                    continue
                self._guarded(partition, target, path_hash)
                touched.add(target)
        # Nobody visits the upper half later in this step, so its hashes are made now.
        stale = {each for each in touched if each >= self._half}
        if self._phase.step == CLEANUP:
            stale.add(partition)
        for each in sorted(stale):
            self._rehash(each)
        if self._phase.step == CLEANUP:
            self._remove_if_empty(path)

    def _hashes(self, path: str) -> Iterator[str]:
        try:
            names = self._fs.list(path)
        except OSError as error:
            if error.errno in GONE:
                return
            self._log.error("suffix %s cannot be listed: %s", path, error)
            self.stats.errors += 1
            return
        yield from sorted(filter(is_path_hash, names))

    def _guarded(self, partition: int, target: int, path_hash: str) -> None:
        try:
            self._relink_object(partition, target, path_hash)
        except (OSError, LockTimeout) as error:
            self._log.error("object %s/%s: %s", partition, path_hash, error)
            self.stats.errors += 1

    # --- One object -------------------------------------------------------------------

    def _relink_object(self, partition: int, target: int, path_hash: str) -> None:
        """Link what is still needed; in the cleanup step, then remove the old names.

        Raises OSError, LockTimeout.
        """
        data_dir = self._context.policy.objects_dir
        old = f"{self._device_path}/{hash_directory(data_dir, partition, path_hash)}"
        new = f"{self._device_path}/{hash_directory(data_dir, target, path_hash)}"
        old_names = self._names(old)
        self.stats.hash_dirs += 1
        self._limiter.wait(max(1, len(old_names)))
        union = sorted({*old_names, *self._names(new)})
        files = self._context.policy.redundancy.choose(union)
        obsolete = {part.name for part in files.obsolete}
        needed = [name for name in sorted(old_names) if name not in obsolete]
        self.stats.files += len(needed)
        missing = [name for name in needed if not self._is_linked(old, new, name)]
        good = True
        if missing:
            self._make_directories(target, new)
            suffix_path = new.rpartition("/")[0]
            hashes.invalidate(
                self._fs,
                f"{self._objects_path}/{target}",
                suffix_path.rpartition("/")[2],
            )
            for name in missing:
                good &= self._link(old, new, name)
            self._fs.sync_directory(new)
        if self._phase.step == CLEANUP and good:
            self._remove_old(partition, old, old_names)

    def _names(self, directory: str) -> list[str]:
        try:
            return self._fs.list(directory)
        except OSError as error:
            if error.errno in GONE:
                return []
            raise

    def _is_linked(self, old: str, new: str, name: str) -> bool:
        try:
            there = self._fs.status(f"{new}/{name}")
            here = self._fs.status(f"{old}/{name}")
        except OSError as error:
            if error.errno in GONE:
                return False
            raise
        return there.st_ino == here.st_ino

    def _make_directories(self, target: int, new: str) -> None:
        """Make the hash directory and what is missing above it, durably."""
        suffix_path = new.rpartition("/")[0]
        partition_path = f"{self._objects_path}/{target}"
        for parent, path in (
            (self._objects_path, partition_path),
            (partition_path, suffix_path),
            (suffix_path, new),
        ):
            if self._fs.is_directory(path):
                continue
            with suppress(FileExistsError):
                self._fs.make_directory(path)
            self._fs.sync_directory(parent)

    def _link(self, old: str, new: str, name: str) -> bool:
        """Link one file; False when another file stands there and must not go.

        A file that has gone from the old place meanwhile was replaced by a server,
        which has put its successor into both.
        """
        try:
            self._fs.link(f"{old}/{name}", f"{new}/{name}")
        except FileNotFoundError:
            if self._fs.is_file(f"{old}/{name}"):
                # It is the new directory that has gone: a server has just emptied it.
                raise
            return True
        except FileExistsError:
            return self._settle_collision(old, new, name)
        self.stats.linked += 1
        return True

    def _settle_collision(self, old: str, new: str, name: str) -> bool:
        if self._is_linked(old, new, name) or name.endswith(TOMBSTONE):
            # Two tombstones of one time say the same.
            return True
        if not self._config.clobber_hardlink_collisions:
            self._log.error("%s/%s is another file than %s/%s", new, name, old, name)
            self.stats.errors += 1
            return False
        if self._phase.step == CLEANUP:
            self._log.warning("%s/%s stays, %s/%s goes", new, name, old, name)
            return True
        aside = move_aside(self._context, self._device_path, new)
        self._log.warning("%s was moved to %s, as it collides with %s", new, aside, old)
        self._fs.make_directory(new)
        for each in self._names(old):
            self._fs.link(f"{old}/{each}", f"{new}/{each}")
            self.stats.linked += 1
        return True

    def _remove_old(self, partition: int, old: str, names: Sequence[str]) -> None:
        suffix_path = old.rpartition("/")[0]
        path = f"{self._objects_path}/{partition}"
        hashes.invalidate(self._fs, path, suffix_path.rpartition("/")[2])
        for name in names:
            with suppress(FileNotFoundError):
                self._fs.unlink(f"{old}/{name}")
                self.stats.removed += 1
        for directory in (old, suffix_path):
            try:
                self._fs.remove_directory(directory)
            except OSError as error:
                # Something else is in it: another object of the suffix, or a file that
                # a server wrote just now and will itself see to.
                if error.errno not in (*GONE, errno.ENOTEMPTY, errno.EEXIST):
                    raise
                break

    # --- Partitions -------------------------------------------------------------------

    def _rehash(self, partition: int) -> None:
        path = f"{self._objects_path}/{partition}"
        try:
            hashes.suffix_hashes(self._context, path)
        except (OSError, LockTimeout) as error:
            self._log.warning("partition %s was not rehashed: %s", path, error)

    def _remove_if_empty(self, path: str) -> None:
        """Remove a partition in which nothing but our own bookkeeping is left."""
        own = {
            hashes.HASHES_FILE,
            hashes.INVALID_FILE,
            hashes.LOCK_FILE,
            REPLICATION_LOCK,
        }
        try:
            names = self._fs.list(path)
            if set(names) - own:
                return
            with self._fs.locked(f"{path}/{hashes.LOCK_FILE}", LOCK_TIMEOUT_S):
                remove_if_there(self._fs, [f"{path}/{name}" for name in names])
                remove_if_there(self._fs, [f"{path}/{hashes.LOCK_FILE}"])
                self._fs.remove_directory(path)
        except LockTimeout:
            return  # in use, so somebody wants it
        except OSError as error:
            if error.errno not in (*GONE, errno.ENOTEMPTY, errno.EEXIST):
                self._log.warning("partition %s was not removed: %s", path, error)
