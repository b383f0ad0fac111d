# SPDX-License-Identifier: Apache-2.0
"""Read every object of this node, and move aside what is not what was stored.

A round has one scan that reads everything (ALL) and, beside it, quick scans that look
at names, metadata and sizes only (ZBF): a file that a crash left empty is found within
minutes. Both go no faster than their options say, so that clients are served first,
and go on after a restart where they were. What is moved aside, replication brings back.

Rules: contract daemons §7. Metric names and recon keys are OpenStack Swift's.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random, SystemRandom
from typing import Any

from swift.core import expiry
from swift.core.errors import NotFound, ObjectChanged, ObjectQuarantined, SwiftError
from swift.core.objectfiles import FileSet
from swift.core.settings import (
    auto_or,
    bind,
    csv,
    natural,
    option,
    positive_int,
    seconds,
)
from swift.core.timestamp import Timestamp
from swift.daemons.audit_watchers import Watchers
from swift.runtime import green
from swift.runtime.config import optional
from swift.runtime.daemon import (
    Daemon,
    DaemonConfig,
    Frame,
    Pause,
    RateLimiter,
    Scope,
    Tally,
    in_child,
)
from swift.runtime.recon import update_cache
from swift.storage.devices import Devices
from swift.storage.fs import FileSystem
from swift.storage.object.audit import (
    AuditTree,
    Location,
    add_missing_checksum,
    remove_old,
    rsync_temporaries,
)
from swift.storage.object.conflicts import check_stored_objects
from swift.storage.object.context import DiskConfig
from swift.storage.object.diskfile import DiskFile, OpenObject
from swift.storage.object.manager import DiskFileManager

RECON_FILE = "object.recon"
ALL = "ALL"
ZBF = "ZBF"
ZERO_BYTE_FPS = "zero_byte_fps"
"""Of Scope.extra: just the quick scan, at this rate (-z)."""

_REPLICATOR = "object-replicator"
_RSYNC_GRACE_S = 900
_RSYNC_DEFAULT_S = 86400
_OVER = "OVER"


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted(natural(item) for item in csv(text)))


@dataclass(frozen=True)
class AuditorConfig(DaemonConfig):
    """[object-auditor] of object-server.conf."""

    interval_s: float = option(
        30.0, name="interval", parse=seconds, doc="Pause between two rounds."
    )
    files_per_second: float = option(
        20.0, parse=seconds, doc="Objects a second of a full scan; 0 is no limit."
    )
    bytes_per_second: float = option(
        10000000.0, parse=seconds, doc="Bytes a second of a full scan; 0 is no limit."
    )
    concurrency: int = option(
        1, parse=positive_int, doc="Full scans at a time; over 1, one per device."
    )
    zero_byte_files_per_second: float = option(
        50.0, parse=seconds, doc="Objects a second of the quick scan; 0 is no scan."
    )
    log_time_s: float = option(
        3600.0, name="log_time", parse=seconds, doc="Time between progress lines."
    )
    object_size_stats: tuple[int, ...] = option(
        (), parse=_sizes, doc="Sizes in bytes, by commas, to count objects by."
    )
    rsync_tempfile_timeout: int | None = option(
        None,
        parse=auto_or(natural),
        doc="Age at which rsync's temporary files go; auto follows rsync_timeout.",
    )
    disk_chunk_size: int = option(
        65536, parse=positive_int, doc="Bytes read from disk at a time."
    )
    reclaim_age: int | None = option(
        None,
        parse=optional(natural),
        doc="Age of tombstones that go; by default that of [object-replicator].",
    )
    watchers: tuple[str, ...] = option(
        (), parse=csv, doc="Plug-ins that see each object, by commas."
    )


@dataclass
class Counts:
    """What a scan has met since the last progress line."""

    passes: int = 0
    quarantined: int = 0
    errors: int = 0
    files: int = 0
    bytes: int = 0
    audit_time_s: float = 0.0
    began: float = field(default_factory=green.now)

    def add(self, other: Counts) -> None:
        """Take another's numbers in."""
        for name in (
            "passes", "quarantined", "errors", "files", "bytes", "audit_time_s",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def facts(self) -> dict[str, Any]:
        """For recon."""
        return {
            "errors": self.errors,
            "passes": self.passes,
            "quarantined": self.quarantined,
            "bytes_processed": self.bytes,
            "start_time": self.began,
            "audit_time": self.audit_time_s,
        }

    def line(self) -> str:
        """For people."""
        elapsed_s = max(1e-6, green.now() - self.began)
        return (
            f"passed {self.passes}, quarantined {self.quarantined}, "
            f"errors {self.errors}, files/sec {self.files / elapsed_s:.2f}, "
            f"bytes/sec {self.bytes / elapsed_s:.2f}, total {elapsed_s:.2f}s, "
            f"auditing {self.audit_time_s:.2f}s, "
            f"rate {self.audit_time_s / elapsed_s:.2f}"
        )


@dataclass(frozen=True)
class Scan:
    """One job: what to look for, on which devices, and how fast.

    rate: objects a second, 0 for no limit. per_device: other devices have scans of
    their own, so recon keeps them apart.
    """

    kind: str
    devices: tuple[str, ...]
    rate: float
    per_device: bool = False


class ObjectAuditor(Daemon[Scan]):
    """swift-object-auditor; a job is a scan, in a process of its own."""

    section = "object-auditor"
    Config = AuditorConfig
    first_pause = Pause.NONE
    pause = Pause.FULL

    def __init__(
        self, config: AuditorConfig, frame: Frame, *, fs: FileSystem | None = None
    ) -> None:
        super().__init__(config, frame)
        self.config: AuditorConfig = config
        self._replicator = _replicator_options(frame)
        self._devices = Devices(config.devices, config.mount_check, fs)
        check_stored_objects(self._devices, frame.cluster)
        self._recon_path = f"{config.recon_cache_path}/{RECON_FILE}"
        self._quick_scans: green.Thread | None = None
        self._full_done: green.Event[None] = green.Event()

    @property
    def concurrency(self) -> int:
        """Full scans at a time."""
        return self.config.concurrency

    def begin(self, scope: Scope) -> None:
        """Clear recon, and begin the quick scans beside the full ones."""
        cleared: dict[str, Any] = {_recon_key(kind): {} for kind in (ALL, ZBF)}
        update_cache(self._recon_path, cleared, self.log)
        self._full_done = green.Event()
        rate = self.config.zero_byte_files_per_second
        if rate and ZERO_BYTE_FPS not in scope.extra:
            self._quick_scans = green.spawn(self._scan_quickly, scope, rate)

    def _scan_quickly(self, scope: Scope, rate: float) -> None:
        """Quick scans, one after another while a full scan runs. Yields."""
        while True:
            job = self._quick_scan(scope, rate)
            in_child(partial(self.scan, job), self.log)
            if scope.once:
                return
            try:
                self._full_done.wait(self.config.interval_s)
            except TimeoutError:
                continue
            return

    def _quick_scan(self, scope: Scope, rate: float) -> Scan:
        return Scan(ZBF, self._names(scope), rate, per_device=bool(scope.devices))

    def _names(self, scope: Scope) -> tuple[str, ...]:
        return tuple(
            name
            for name in self._devices.names()
            if not scope.devices or name in scope.devices
        )

    def jobs(self, scope: Scope) -> Iterable[Scan]:
        """One full scan, or one for each device; or just the quick one (-z)."""
        names, rate = self._names(scope), self.config.files_per_second
        if ZERO_BYTE_FPS in scope.extra:
            yield self._quick_scan(scope, scope.extra[ZERO_BYTE_FPS])
        elif self.config.concurrency == 1:
            yield Scan(ALL, names, rate, per_device=bool(scope.devices))
        else:
            for name in names:
                yield Scan(ALL, (name,), rate, per_device=True)

    def handle(self, job: Scan) -> None:
        """Scan in a child process, but for the quick scan that was asked for (-z)."""
        if job.kind == ZBF:
            self.scan(job)
        else:
            in_child(partial(self.scan, job), self.log)

    def end(self, scope: Scope, tally: Tally) -> None:
        """A round is over when the quick scan that runs is. Yields."""
        self._full_done.set()
        quick, self._quick_scans = self._quick_scans, None
        if quick is not None:
            quick.wait()

    def scan(self, scan: Scan) -> Counts:
        """Do one scan in this process; its totals. Blocks."""
        return ScanRun(
            self.config, self.frame, scan, self._devices, self._replicator
        ).run()


class ScanRun:
    """One scan over some devices."""

    def __init__(
        self,
        config: AuditorConfig,
        frame: Frame,
        scan: Scan,
        devices: Devices,
        replicator: ReplicatorOptions,
        *,
        rng: Random | None = None,
    ) -> None:
        self._config = config
        self._frame = frame
        self._log = frame.log
        self._metrics = frame.metrics
        self._scan = scan
        self._fs = devices.fs
        self._rng = rng or SystemRandom()
        self._tree = AuditTree(devices, frame.cluster.policies, scan.kind, frame.log)
        self._is_full = scan.kind == ALL
        self._files = RateLimiter(scan.rate)
        self._bytes = RateLimiter(config.bytes_per_second)
        self._reclaim_age_s = _first(config.reclaim_age, replicator.reclaim_age)
        self._rsync_age_s = _first(
            config.rsync_tempfile_timeout, replicator.rsync_tempfile_age
        )
        disks = DiskConfig(
            devices=config.devices,
            mount_check=config.mount_check,
            disk_chunk_size=config.disk_chunk_size,
            reclaim_age=self._reclaim_age_s,
        )
        self._managers = {
            policy.index: DiskFileManager(
                disks,
                policy,
                frame.cluster.salt,
                frame.log,
                frame.metrics,
                fs=devices.fs,
            )
            for policy in frame.cluster.policies
        }
        self._watchers = Watchers(config.watchers, frame.conf, frame.log)
        self._sizes = dict.fromkeys((*map(str, config.object_size_stats), _OVER), 0)
        self._counts = Counts()
        self._totals = Counts()
        self._report_at = 0.0

    def run(self) -> Counts:
        """Scan to the end; the totals. Blocks."""
        scan = self._scan
        names = ",".join(scan.devices)
        self._log.info("object audit %s begins, devices %s", scan.kind, names)
        self._watchers.start(scan.kind)
        for location in self._tree.walk(scan.devices, self._rng):
            began = green.monotonic()
            self._audit(location)
            self._counts.audit_time_s += green.monotonic() - began
            self._counts.files += 1
            self._files.wait()
            if green.monotonic() >= self._report_at:
                self._report(names)
        self._watchers.end()
        self._totals.add(self._counts)
        self._log.info(
            "object audit %s ends, devices %s: %s",
            scan.kind,
            names,
            self._totals.line(),
        )
        if self._is_full and self._config.object_size_stats:
            self._log.info(
                "object audit %s: sizes %s", scan.kind, json.dumps(self._sizes)
            )
        return self._totals

    def _report(self, names: str) -> None:
        """Say how far the scan is, and begin to count anew."""
        self._report_at = green.monotonic() + self._config.log_time_s
        self._log.info(
            "object audit %s goes on, devices %s: since %s, %s",
            self._scan.kind,
            names,
            Timestamp.at(self._counts.began).iso,
            self._counts.line(),
        )
        facts = self._counts.facts()
        if self._scan.per_device:
            facts = {"".join(sorted(self._scan.devices)): facts}
        recon_path = f"{self._config.recon_cache_path}/{RECON_FILE}"
        update_cache(recon_path, {_recon_key(self._scan.kind): facts}, self._log)
        self._totals.add(self._counts)
        self._counts = Counts()

    # --- One object -------------------------------------------------------------------

    def _audit(self, location: Location) -> None:
        """Examine one object, and count what came of it."""
        counts, began = self._counts, green.now()
        try:
            self._examine(location)
            counts.passes += 1
        except (NotFound, ObjectChanged):
            counts.passes += 1  # deleted, expired, or written while we looked
        except ObjectQuarantined:
            counts.quarantined += 1  # the engine has logged where it is now, and why
        except (SwiftError, OSError) as error:
            self._count_error()
            self._log.error("object %s: not audited: %s", _place(location), error)
        # The loop that must live on: whatever an object is, the next ones are audited.
        except Exception:
            self._count_error()
            self._log.exception("object %s: audit failed", _place(location))
        self._metrics.timing_since("timing", began)

    def _count_error(self) -> None:
        self._counts.errors += 1
        self._metrics.increment("errors")

    def _examine(self, location: Location) -> None:
        manager = self._managers[location.policy.index]
        disk = manager.diskfile_by_hash(
            location.device, location.partition, location.path_hash
        )
        try:
            opened = disk.open_blocking(green.now())
        except NotFound:
            self._tidy(location, disk)
            raise
        with opened:
            if opened.files.unexpected:
                self._remove_rsync_temporaries(disk, opened.files.unexpected)
            self._announce_old(location, disk, opened.files)
            self._check(disk, opened)
            self._add_checksums(disk, opened)
        for index in opened.fragments.get(opened.data_timestamp, ())[:-1]:
            # What was opened is the one of the highest index.
            with disk.open_blocking(green.now(), fragment_index=index) as other:
                self._check_archive(disk, other)
                self._add_checksums(disk, other)

    def _tidy(self, location: Location, disk: DiskFile) -> None:
        """See to a directory without an object that can be opened."""
        try:
            names = self._fs.list(disk.directory)
        except OSError:
            return  # replication moves it aside when it hashes the suffix
        self._remove_rsync_temporaries(disk, names)
        self._announce_old(location, disk, location.policy.redundancy.choose(names))

    def _add_checksums(self, disk: DiskFile, opened: OpenObject) -> None:
        with opened.handle as fd:
            add_missing_checksum(self._fs, fd)
        for part in {opened.files.meta, opened.files.content_type} - {None}:
            assert part is not None, "None has been taken out"
            with suppress(FileNotFoundError):
                fd = self._fs.open_read(f"{disk.directory}/{part.name}")
                try:
                    add_missing_checksum(self._fs, fd)
                finally:
                    self._fs.close(fd)

    def _check(self, disk: DiskFile, opened: OpenObject) -> None:
        """Raises ObjectQuarantined when the object is not what was stored."""
        self._check_archive(disk, opened)
        if self._is_full:
            self._count_size(opened.content_length)
        data = opened.files.data
        assert data is not None, "only objects with data are opened"
        reason = self._watchers.see_object(
            opened.name, opened.metadata, f"{disk.directory}/{data.name}"
        )
        if reason is not None:
            raise disk.quarantine(reason)

    def _check_archive(self, disk: DiskFile, opened: OpenObject) -> None:
        """Raises ObjectQuarantined when the archive is not what was stored."""
        fault = opened.record_fault
        if fault is not None:
            raise disk.quarantine(fault)
        if self._is_full:
            if not opened.content_length and opened.etag != expiry.EMPTY_ETAG:
                raise disk.quarantine(f"is empty, recorded MD5 is {opened.etag}")
            for piece in opened.reader().pieces_blocking():
                self._counts.bytes += len(piece)
                self._bytes.wait(len(piece))

    def _count_size(self, size: int) -> None:
        if self._config.object_size_stats:
            at = bisect_left(self._config.object_size_stats, size)
            self._sizes[list(self._sizes)[at]] += 1

    def _remove_rsync_temporaries(self, disk: DiskFile, names: Sequence[str]) -> None:
        found = rsync_temporaries(names)
        if found:
            paths = [f"{disk.directory}/{name}" for name in found]
            removed = remove_old(self._fs, paths, green.now() - self._rsync_age_s)
            self._log.debug("%s: %d rsync files removed", disk.directory, removed)

    def _announce_old(self, location: Location, disk: DiskFile, files: FileSet) -> None:
        """Have replication look again at what has outlived the reclaim age: then it
        removes it. That is a tombstone, or data whose commit never came.
        """
        parts = [*files.reclaimable, *([files.tombstone] if files.tombstone else ())]
        if not self._is_full or not parts:
            return
        oldest = min(part.timestamp.seconds for part in parts)
        if green.now() - oldest > self._reclaim_age_s:
            self._managers[location.policy.index].invalidate(
                location.device, location.partition, disk.suffix
            )


@dataclass(frozen=True)
class ReplicatorOptions:
    """What the auditor reads of [object-replicator]."""

    reclaim_age: int = option(
        604800, parse=natural, doc="Seconds after which tombstones are removed."
    )
    rsync_timeout: int | None = option(
        None, parse=natural, doc="Longest run of rsync, in seconds."
    )

    @property
    def rsync_tempfile_age(self) -> int:
        """Seconds after which no rsync writes a temporary file any more."""
        if self.rsync_timeout is None:
            return _RSYNC_DEFAULT_S
        return self.rsync_timeout + _RSYNC_GRACE_S


def _replicator_options(frame: Frame) -> ReplicatorOptions:
    if frame.conf is None or _REPLICATOR not in frame.conf.sections:
        return ReplicatorOptions()
    return bind(
        ReplicatorOptions,
        frame.conf.section(_REPLICATOR),
        source=frame.conf.source,
        section=_REPLICATOR,
    )


def _first(own: int | None, other: int) -> int:
    return other if own is None else own


def _recon_key(kind: str) -> str:
    return f"object_auditor_stats_{kind}"


def _place(location: Location) -> str:
    objects_dir = location.policy.objects_dir
    return f"{location.device}/{objects_dir}/{location.partition}/{location.path_hash}"
