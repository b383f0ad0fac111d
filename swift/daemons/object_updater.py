# SPDX-License-Identifier: Apache-2.0
"""Deliver the container updates that object servers could not, so that listings come
to tell the truth.

A pass takes device after device, `updater_workers` at a time, each in a child process.
There the files are walked, and every update goes to all primaries of its container
that do not have it yet, several at once over kept connections. What a container does
not take now stays on disk for the next pass.

Rules: contract daemons §10. Metric names and recon keys are OpenStack Swift's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from random import Random, SystemRandom
from typing import Any

from swift.core import headers as h
from swift.core.errors import FormatError, PeerTimeout, SwiftError
from swift.core.hashing import HashSalt
from swift.core.names import quote
from swift.core.pendings import (
    Answer,
    ContainerPace,
    OldestPendings,
    Update,
    combined_report,
    redirect_of,
    settle,
)
from swift.core.ring.devices import Node
from swift.core.settings import natural, option, positive_int, seconds
from swift.core.timestamp import ZERO
from swift.runtime import green
from swift.runtime.daemon import (
    Daemon,
    DaemonConfig,
    Frame,
    RateLimiter,
    Scope,
    Tally,
    in_child,
)
from swift.runtime.recon import read_cache, update_cache
from swift.storage.devices import Devices
from swift.storage.fs import FileSystem
from swift.storage.object.pending_files import PendingFile, PendingTree
from swift.wire.backends import device_segment
from swift.wire.client import ConnectionPool

RECON_FILE = "object.recon"
PER_DEVICE = "object_updater_per_device"

_NO_ANSWER = 499
_NO_CONNECTION = 500
"""Statuses under which the time of a call is counted that brought none."""

_TRIES = 2
"""Calls for one update in one pass: a redirect is followed at once, one time."""


@dataclass(frozen=True)
class UpdaterConfig(DaemonConfig):
    """[object-updater] of object-server.conf."""

    concurrency: int = option(
        8, parse=positive_int, doc="Updates in flight per process."
    )
    updater_workers: int = option(
        1, parse=positive_int, doc="Processes at a time; each takes one device."
    )
    objects_per_second: float = option(
        50.0, parse=seconds, doc="Updates begun a second and device; 0 is no limit."
    )
    container_rate: float = option(
        0.0,
        name="max_objects_per_container_per_second",
        parse=seconds,
        doc="Updates a second for one container, per process; 0 is no limit.",
    )
    container_buckets: int = option(
        1000,
        name="per_container_ratelimit_buckets",
        parse=positive_int,
        doc="Containers that share a bucket share its rate.",
    )
    deferred_max: int = option(
        10000,
        name="max_deferred_updates",
        parse=natural,
        doc="Updates over the rate that are kept for the end of the pass.",
    )
    report_interval_s: float = option(
        300.0, name="report_interval", parse=seconds, doc="Time between progress lines."
    )
    node_timeout_s: float = option(
        10.0, name="node_timeout", parse=seconds, doc="Wait for a node's answer."
    )
    conn_timeout_s: float = option(
        0.5, name="conn_timeout", parse=seconds, doc="Wait for a connection."
    )
    tracker_entries_max: int = option(
        100,
        name="async_tracker_max_entries",
        parse=natural,
        doc="Containers whose oldest undelivered update is remembered.",
    )
    tracker_dump_count: int = option(
        5,
        name="async_tracker_dump_count",
        parse=natural,
        doc="Of these, how many recon names.",
    )


@dataclass
class Counts:
    """What became of the updates of a device; the names are those of the metrics."""

    successes: int = 0
    failures: int = 0
    quarantines: int = 0
    unlinks: int = 0
    outdated_unlinks: int = 0
    errors: int = 0
    redirects: int = 0
    skips: int = 0
    deferrals: int = 0
    drains: int = 0

    def line(self) -> str:
        """All of them, for people."""
        return ", ".join(f"{count} {name}" for name, count in asdict(self).items())


class ObjectUpdater(Daemon[str]):
    """swift-object-updater; a job is a device."""

    section = "object-updater"
    Config = UpdaterConfig

    def __init__(
        self, config: UpdaterConfig, frame: Frame, *, fs: FileSystem | None = None
    ) -> None:
        super().__init__(config, frame)
        self.config: UpdaterConfig = config
        self._devices = Devices(config.devices, config.mount_check, fs)
        self._recon_path = f"{config.recon_cache_path}/{RECON_FILE}"

    @property
    def concurrency(self) -> int:
        """Devices at a time."""
        return self.config.updater_workers

    def begin(self, scope: Scope) -> None:
        """Without the container ring no pass begins. Raises RingUnavailable."""
        self.cluster.container_ring()
        self.log.info("object updater: pass begins, pid %d", os.getpid())

    def jobs(self, scope: Scope) -> Iterable[str]:
        """The devices that are there."""
        for device in self._devices.names():
            if scope.devices and device not in scope.devices:
                continue
            if self._devices.is_available(device):
                yield device
            else:
                self.log.warning("device %s is skipped: not available", device)

    def handle(self, job: str) -> None:
        """Sweep a device in a child process, if there is anything to sweep. Yields."""
        if self._is_empty(job):
            self.sweep(job)
        else:
            in_child(lambda: self.sweep(job), self.log)

    def _is_empty(self, device: str) -> bool:
        tree = PendingTree(
            self._devices.path(device),
            self.cluster.policies,
            self.log,
            fs=self._devices.fs,
        )
        try:
            return tree.is_empty()
        except OSError:
            return True  # the sweep says what is wrong with the device

    def sweep(self, device: str) -> Counts:
        """Sweep a device in this process. Yields; blocks on the disk."""
        sweep = DeviceSweep(self.config, self.frame, device, self._devices)
        counts = sweep.run()
        update_cache(self._recon_path, {PER_DEVICE: {device: sweep.report()}}, self.log)
        return counts

    def end(self, scope: Scope, tally: Tally) -> None:
        """Put the reports of the devices together for recon."""
        elapsed_s = tally.elapsed_s
        self.log.info("object updater: pass ends after %.2fs", elapsed_s)
        if scope.is_limited:
            return
        reports = read_cache(self._recon_path).get(PER_DEVICE)
        reports = dict(reports) if isinstance(reports, dict) else {}
        vanished = reports.keys() - set(self._devices.names())
        standing = [reports[name] for name in reports if name not in vanished]
        updates: dict[str, Any] = {
            "object_updater_sweep": elapsed_s,
            "object_updater_last": green.now(),
            "object_updater_stats": combined_report(
                standing,
                workers=self.config.updater_workers,
                dump_count=self.config.tracker_dump_count,
            ),
        }
        if vanished:
            updates[PER_DEVICE] = {name: {} for name in vanished}
        update_cache(self._recon_path, updates, self.log)


class DeviceSweep:
    """One pass over the pending updates of one device.

    pool: connections to container servers; tests hand in their own.
    """

    def __init__(
        self,
        config: UpdaterConfig,
        frame: Frame,
        device: str,
        devices: Devices,
        *,
        pool: ConnectionPool | None = None,
        rng: Random | None = None,
    ) -> None:
        self._config = config
        self._cluster = frame.cluster
        self._log = frame.log
        self._metrics = frame.metrics
        self._device = device
        self._rng = rng or SystemRandom()
        self._pool = pool or ConnectionPool()
        self._tree = PendingTree(
            devices.path(device), frame.cluster.policies, frame.log, fs=devices.fs
        )
        self._pace: ContainerPace[tuple[PendingFile, Update]] = ContainerPace(
            config.container_rate,
            buckets=config.container_buckets,
            held_max=config.deferred_max,
            # Another salt in each process: containers that share a bucket here do not
            # share one in every other.
            salt=HashSalt(self._rng.randbytes(16), b""),
        )
        self._oldest = OldestPendings(config.tracker_entries_max)
        self._agent = f"object-updater {os.getpid()}"
        self._green_threads = green.Pool(config.concurrency)
        self._next_report = 0.0
        self.counts = Counts()

    def run(self) -> Counts:
        """Deliver what can be delivered. Yields; raises OSError for a sick device."""
        began, began_wall = green.monotonic(), green.now()
        self._next_report = began + self._config.report_interval_s
        self._log.info("object updater: device %s begins", self._device)
        try:
            self._walk()
            self._drain(began + self._config.interval_s)
            self._green_threads.wait_all()
        except OSError as error:
            self._count("errors")
            self._log.error("device %s cannot be walked: %s", self._device, error)
        finally:
            self._green_threads.kill_all()
            self._pool.close()
        self._metrics.timing_since("timing", began_wall)
        self._say("ends", began)
        return self.counts

    def report(self) -> dict[str, Any]:
        """The containers that wait longest, for recon."""
        return self._oldest.report(green.now(), self._config.tracker_dump_count)

    def _say(self, what: str, began: float) -> None:
        self._log.info(
            "object updater: device %s %s after %.2fs, pid %d: %s",
            self._device,
            what,
            green.monotonic() - began,
            os.getpid(),
            self.counts.line(),
        )

    def _count(self, name: str, amount: int = 1) -> None:
        if not amount:
            return
        setattr(self.counts, name, getattr(self.counts, name) + amount)
        if self._metrics.is_on:
            self._metrics.count(name, amount)

    # --- Which files ------------------------------------------------------------------

    def _walk(self) -> None:
        began = green.monotonic()
        limiter = RateLimiter(self._config.objects_per_second)
        seen_hash, told = "", ZERO
        bad_names = 0
        for file in self._tree.walk(self._rng):
            if self._tree.bad_names != bad_names:
                self._count("errors", self._tree.bad_names - bad_names)
                bad_names = self._tree.bad_names
            is_older = file.path_hash == seen_hash
            if is_older and file.timestamp <= told:
                self._forget(file)
                continue
            limiter.wait()
            update = self._load(file)
            if update is None:
                continue
            # A change of metadata is named by its own time, and tells of data that may
            # be older than what came after it: a DELETE that was late, for one.
            if is_older and update.timestamp <= told:
                self._forget(file)
                continue
            seen_hash, told = file.path_hash, update.timestamp
            bucket = self._pace.admit(update.target, green.monotonic())
            if bucket is None:
                self._green_threads.spawn(self._deliver, file, update)
            else:
                self._count("deferrals")
                self._count("skips", self._pace.hold(bucket, (file, update)))
            if green.monotonic() >= self._next_report:
                self._next_report = green.monotonic() + self._config.report_interval_s
                self._say("goes on", began)
        self._count("errors", self._tree.bad_names - bad_names)

    def _forget(self, file: PendingFile) -> None:
        """Remove a change that a newer one of the same object makes needless."""
        self._tree.remove(file)
        self._count("outdated_unlinks")

    def _drain(self, deadline: float) -> None:
        """Send those held back as their containers can take them, until the deadline.

        deadline: monotonic.
        """
        while (ready_at := self._pace.next_at()) is not None and ready_at < deadline:
            now = green.monotonic()
            if ready_at > now:
                green.sleep(ready_at - now)
            if green.monotonic() >= deadline:
                break
            for file, update in self._pace.release(green.monotonic()):
                self._count("drains")
                self._green_threads.spawn(self._deliver, file, update)
        self._count("skips", len(self._pace))

    def _load(self, file: PendingFile) -> Update | None:
        try:
            return self._tree.load(file)
        except FormatError as error:
            self._count("quarantines")
            try:
                target = self._tree.quarantine(file)
            except OSError as failure:
                self._log.error("%s: not moved into quarantine: %s", file.path, failure)
                return None
            self._log.error("%s: quarantined to %s: %s", file.path, target, error)
        except OSError as error:
            self._count("errors")
            self._log.error("%s: cannot be read: %s", file.path, error)
        return None

    # --- Delivery ---------------------------------------------------------------------

    def _deliver(self, file: PendingFile, update: Update) -> None:
        try:
            self._send_until_settled(file, update)
        except OSError as error:
            self._count("errors")
            self._log.error("%s: cannot be changed: %s", file.path, error)
        # A loop that must live on: one update that trips us leaves the others theirs.
        except Exception:
            self._count("errors")
            self._log.exception("%s: update failed", file.path)

    def _send_until_settled(self, file: PendingFile, update: Update) -> None:
        changed = False
        for _ in range(_TRIES):
            settled = settle(update, self._send(file, update))
            update = settled.update
            changed = changed or settled.changed
            if not settled.redirected:
                break
            self._count("redirects")
        if settled.delivered:
            self._count("successes")
            self._tree.remove(file)
            self._count("unlinks")
            return
        if not settled.redirected:
            self._count("failures")
            self._oldest.add(update.name.container_name, update.timestamp)
            self._log.debug("%s: update failed, the next pass tries again", file.path)
        if changed:
            green.in_thread(self._tree.rewrite, file, update)

    def _send(self, file: PendingFile, update: Update) -> list[Answer]:
        """The answers of the nodes that do not have it yet, all asked at once."""
        ring = self._cluster.container_ring()
        container = update.target
        partition = ring.partition(self._cluster.salt.digest_of(container))
        nodes = [
            node
            for node in ring.primaries(partition)
            if node.id not in update.successes
        ]
        if not nodes:
            return []
        path = quote(f"{partition}{container.path}/{update.name.obj}")
        headers = self._headers(file, update)
        threads = [
            green.spawn(self._ask, node, update.op, path, headers) for node in nodes[1:]
        ]
        answers = [self._ask(nodes[0], update.op, path, headers)]
        return answers + [thread.wait() for thread in threads]

    def _headers(self, file: PendingFile, update: Update) -> h.Headers:
        headers = update.headers.copy()
        defaults = (
            (h.X_BACKEND_STORAGE_POLICY_INDEX, str(file.policy.index)),
            (h.X_BACKEND_ACCEPT_REDIRECT, "true"),
            (h.X_BACKEND_ACCEPT_QUOTED_LOCATION, "true"),
        )
        dict.pop(headers, h.USER_AGENT, None)
        dict.__setitem__(headers, h.USER_AGENT, self._agent)
        for name, value in defaults:
            dict.setdefault(headers, name, value)
        return headers

    def _ask(self, node: Node, op: str, path: str, headers: h.Headers) -> Answer:
        began = green.now()
        try:
            response = self._pool.request(
                node.replication_ip,
                node.replication_port,
                op,
                f"/{device_segment(node.name)}/{path}",
                headers.items(),
                connect_timeout_s=self._config.conn_timeout_s,
                response_timeout_s=self._config.node_timeout_s,
            )
            response.drain()
        except SwiftError as error:
            is_timeout = isinstance(error, PeerTimeout)
            self._time(_NO_ANSWER if is_timeout else _NO_CONNECTION, began)
            self._log.debug("%s %s: %s", op, path, error)
            return Answer(node.id, 0)
        status = response.status
        self._time(status, began)
        if not 200 <= status < 300:
            self._log.debug("%s %s at %s: %s", op, path, response.peer, status)
        redirect = redirect_of(status, response.headers)
        return Answer(node.id, status, redirect)

    def _time(self, status: int, began: float) -> None:
        if self._metrics.is_on:
            self._metrics.timing_since(f"updater.timing.status.{status}", began)
