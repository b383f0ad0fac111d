# SPDX-License-Identifier: Apache-2.0
"""What the daemons have in common that bring partitions to where they belong.

The object replicator and the object reconstructor walk the same devices, deal them to
workers alike, ask peers for the same suffix hashes and tell operators the same facts.
What one of them does with a partition is its own; what goes wrong with a peer is
counted, said once in a pass, and tried again by the next.

Contract daemons §8 and §9.
"""

from __future__ import annotations

import os
import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from swift.core import sync
from swift.core.errors import DeviceUnavailable, LockTimeout, PeerError, SwiftError
from swift.core.headers import X_BACKEND_STORAGE_POLICY_INDEX
from swift.core.policy import StoragePolicy
from swift.core.redundancy import Redundancy, SuffixHash
from swift.core.ring.devices import Device, Node
from swift.core.ring.ring import Ring
from swift.core.settings import natural, option, positive_int, seconds
from swift.daemons import jobs as walks
from swift.daemons.jobs import Job, Jobs, RingWatch
from swift.daemons.replication_stats import Stats, spelled
from swift.daemons.ssync_sender import Source, SsyncSender, own_copy
from swift.runtime import green
from swift.runtime.config import load_plugin
from swift.runtime.daemon import Daemon, DaemonConfig, Frame, Pause, Scope, Tally
from swift.runtime.process import own_addresses
from swift.runtime.recon import update_cache
from swift.storage.object.context import DiskConfig
from swift.storage.object.manager import DiskFileManager
from swift.storage.object.partitions import ObjectNames
from swift.wire.client import ConnectionPool, Connector
from swift.wire.direct import DirectClient

ANSWER_MAX = 16 * 1024 * 1024
"""Bytes of the answer to a REPLICATE; 4096 suffixes need less by far."""

OBJECTS_PER_PUSH = 5000
"""Objects offered by one conversation, so that memory does not follow a partition's."""

SUFFIXES_PER_LOOK = 32
"""Suffix directories that are listed by one hop to a disk thread."""

REVERT_LOCK_S = 0.2
"""How long a handoff waits for its partition's lock."""

INSUFFICIENT_STORAGE = 507
RECON_FILE = "object.recon"
LIMITED = "limited"
"""Key of a worker's scope: True when the whole pass sees a part only."""


@dataclass(frozen=True)
class PartitionConfig(DaemonConfig):
    """The options that both sections of object-server.conf have."""

    interval_s: float = option(
        30.0, name="interval", parse=seconds, doc="Pause between two passes."
    )
    bind_port: int = option(6200, doc="Port of this node's object server.")
    servers_per_port: int = option(
        0, parse=natural, doc="Not 0: devices are ours whatever their port."
    )
    concurrency: int = option(
        1, parse=positive_int, doc="Partitions worked on at a time by one process."
    )
    stats_interval_s: float = option(
        300.0, name="stats_interval", parse=seconds, doc="Time between progress lines."
    )
    node_timeout_s: float = option(
        10.0, name="node_timeout", parse=seconds, doc="Wait for a peer within ssync."
    )
    conn_timeout_s: float = option(
        0.5, name="conn_timeout", parse=seconds, doc="Wait for a connection."
    )
    http_timeout_s: float = option(
        60.0, name="http_timeout", parse=seconds, doc="Wait for suffix hashes."
    )
    ring_check_interval_s: float = option(
        15.0,
        name="ring_check_interval",
        parse=seconds,
        doc="Time between looks for a changed ring.",
    )
    network_chunk_size: int = option(
        65536, parse=positive_int, doc="Bytes of a body sent at a time."
    )
    reclaim_age: int = option(
        604800, parse=natural, doc="Seconds after which tombstones are removed."
    )
    commit_window: int = option(
        60, parse=natural, doc="Seconds that a fragment waits for its commit."
    )

    @property
    def disks(self) -> DiskConfig:
        """The same, as the object engine reads it."""
        return DiskConfig(
            devices=self.devices,
            mount_check=self.mount_check,
            disable_fallocate=self.disable_fallocate,
            fallocate_reserve=self.fallocate_reserve,
            disk_chunk_size=self.network_chunk_size,
            reclaim_age=self.reclaim_age,
            commit_window=self.commit_window,
        )


class BadStatus(PeerError):
    """A peer that answers REPLICATE with another status than 200."""

    def __init__(self, peer: str, status: int) -> None:
        super().__init__(peer, f"REPLICATE: {status}")
        self.status = status


class PartitionDaemon(Daemon[Job]):
    """Walks the partitions of the policies that it is in charge of.

    work, done: what it does to partitions, and what they are then, in log lines.
    objects_ahead: how many it prepares while it sends one.
    """

    first_pause = Pause.NONE
    pause = Pause.FULL
    config: PartitionConfig
    work: ClassVar[str] = ""
    done: ClassVar[str] = ""
    objects_ahead: ClassVar[int] = 0

    def __init__(
        self,
        config: PartitionConfig,
        frame: Frame,
        *,
        connector: Connector | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """connector, rng: the doors for tests. Raises RingUnavailable."""
        super().__init__(config, frame)
        self._policies = [
            policy
            for policy in frame.cluster.policies
            if self.is_in_charge(policy.redundancy)
        ]
        for policy in self._policies:
            self.cluster.object_ring(policy.index)
        self._rng = rng or random.Random()  # noqa: S311 (spreads load)
        self._agent = f"{self.section} {os.getpid()}"
        self._pool = ConnectionPool(connector)
        self._direct = DirectClient(
            self._pool,
            user_agent=self._agent,
            conn_timeout_s=config.conn_timeout_s,
            response_timeout_s=config.http_timeout_s,
        )
        self._managers: dict[int, DiskFileManager] = {
            policy.index: load_plugin("swift.diskfile", policy.engine)(
                config.disks, policy, self.cluster.salt, self.log, self.metrics
            )
            for policy in self._policies
        }
        self._senders = {
            index: SsyncSender(
                manager,
                self._pool,
                user_agent=self._agent,
                connect_timeout_s=config.conn_timeout_s,
                answer_timeout_s=config.node_timeout_s,
                source=self.source(manager),
                ahead=self.objects_ahead,
            )
            for index, manager in self._managers.items()
        }
        self._own_addresses = own_addresses(config.ring_ip or config.bind_ip)
        self._own_port = None if config.servers_per_port else config.bind_port
        self._dealt: tuple[str, ...] = ()
        self._reset()

    def is_in_charge(self, redundancy: Redundancy) -> bool:
        """True when the daemon works on policies of that redundancy."""
        raise NotImplementedError

    def source(self, manager: DiskFileManager) -> Source:
        """Where the bodies come from that are pushed; our disk."""
        return own_copy

    @property
    def workers(self) -> int:
        """Processes that share the devices; 0 for none."""
        raise NotImplementedError

    def _reset(self) -> None:
        self._stats: dict[str, Stats] = {}
        self._total = 0
        self._handled = 0
        self._began = green.monotonic()
        self._times = array("d")
        self._said: set[tuple[int, str]] = set()
        self._handled_at_progress = 0
        self._progress_at = self._began

    @property
    def concurrency(self) -> int:
        """Partitions in flight in one process."""
        return self.config.concurrency

    @property
    def progress_s(self) -> float:
        """Time between progress lines."""
        return self.config.stats_interval_s

    # --- workers ----------------------------------------------------------------------

    def shares(self, scope: Scope) -> Sequence[Scope]:
        """Our devices, dealt round-robin to the workers."""
        count = self.workers
        if not count:
            return ()
        self._dealt = self._device_names()
        names = [
            name for name in self._dealt if not scope.devices or name in scope.devices
        ]
        extra = {**scope.extra, LIMITED: scope.is_limited}
        return [
            Scope(
                scope.once,
                tuple(names[index::count]),
                scope.partitions,
                scope.policies,
                extra,
            )
            for index in range(min(count, len(names)))
        ]

    def shares_changed(self) -> bool:
        """True when a ring has given this node other devices than were dealt."""
        return self._device_names() != self._dealt

    def _device_names(self) -> tuple[str, ...]:
        names = {
            device.name
            for policy in self._policies
            for device in self._local(self.cluster.object_ring(policy.index))
        }
        return tuple(sorted(names))

    def _local(self, ring: Ring) -> list[Device]:
        return walks.local_devices(ring, self._own_addresses, self._own_port)

    # --- a pass -----------------------------------------------------------------------

    def begin(self, scope: Scope) -> None:
        """Start counting."""
        self._reset()
        self.log.info("object %s pass begins", self.work)

    def _collect(self, scope: Scope) -> tuple[Jobs, RingWatch]:
        """The jobs of a pass in random order, and who watches their rings."""
        found = Jobs()
        watch = RingWatch(self.cluster, self.config.ring_check_interval_s)
        has_rings = has_devices = False
        for policy in self._policies:
            if scope.policies and policy.index not in scope.policies:
                continue
            ring = self.cluster.object_ring(policy.index)
            if ring.next_part_power is not None:
                self.log.warning(
                    "policy %s is skipped: its part power is being increased",
                    policy.name,
                )
                continue
            has_rings = True
            watch.add(policy, ring)
            local = self._local(ring)
            has_devices = has_devices or bool(local)
            for device in local:
                if not scope.devices or device.name in scope.devices:
                    numbers = self._partitions_of(policy, device)
                    found.add(policy, ring, device, numbers, scope.partitions)
        if has_rings and not has_devices:
            self.log.error(
                "no device of the rings is at %s, port %s: nothing to do",
                ", ".join(self._own_addresses),
                self._own_port or "any",
            )
        found.shuffle(self._rng)
        return found, watch

    def _partitions_of(self, policy: StoragePolicy, device: Device) -> Sequence[int]:
        """The partitions on a device; none, and a failure, when it is away. Yields."""
        partitions = self._managers[policy.index].partitions
        stats = self._stats_of(device.name)
        if not walks.available(partitions, device, self.log):
            stats.failure += 1
            return []
        try:
            found = walks.partitions_of(partitions, device.name)
            self.meet_junk(policy, device, found.junk)
        except DeviceUnavailable as error:
            self.log.warning("skipped, %s", error)
            stats.failure += 1
            return []
        return found.partitions

    def meet_junk(
        self, policy: StoragePolicy, device: Device, names: Sequence[str]
    ) -> None:
        """See to entries among partitions that are no numbers. Yields."""
        self._stats_of(device.name).failure += len(names)

    def _stats_of(self, device: str) -> Stats:
        return self._stats.setdefault(device, Stats())

    # --- a job ------------------------------------------------------------------------

    def handle(self, job: Job) -> None:
        """Bring a partition to where it belongs. Yields."""
        stats = self._stats_of(job.device.name)
        stats.attempted += 1
        began = green.now()
        gone = False
        kind = "update" if job.is_primary else "delete"
        if self.metrics.is_on:
            self.metrics.increment(f"partition.{kind}.count.{job.device.name}")
        try:
            partitions = self._managers[job.policy.index].partitions
            if partitions.remove_if_file(job.device.name, job.partition):
                self.log.warning("%s: was a file, and is removed", job)
                gone = True
            else:
                gone = self.bring(job, stats)
        except (DeviceUnavailable, LockTimeout) as error:
            self._say_once(
                (job.device.id, f"own {type(error).__name__}"),
                "%s: not %s: %s",
                job,
                self.done,
                error,
            )
            self._fail_all(job, stats)
        except Exception:
            self._fail_all(job, stats)
            raise  # the runner logs it
        finally:
            self._handled += 1
            self._times.append(green.now() - began)
            self.metrics.timing_since(f"partition.{kind}.timing", began)
            self.brought(job, gone)

    def bring(self, job: Job, stats: Stats) -> bool:
        """Do a job; True when nothing is left of the partition here. Yields.

        Raises DeviceUnavailable, LockTimeout.
        """
        raise NotImplementedError

    def brought(self, job: Job, gone: bool) -> None:
        """Called when a job has ended, whatever its end."""

    def _fail_all(self, job: Job, stats: Stats) -> None:
        for node in job.targets:
            stats.fail(node)

    def _complain(self, job: Job, node: Node, error: SwiftError) -> None:
        """Say once in a pass what is wrong with a node."""
        kind = type(error).__name__
        if isinstance(error, BadStatus):
            kind += str(error.status)
        self._say_once(
            (node.id, kind),
            "%s: with device %s of %s:%s: %s",
            job,
            node.name,
            node.replication_ip,
            node.replication_port,
            error,
        )

    def _say_once(self, what: tuple[int, str], line: str, *words: object) -> None:
        """Log an error that has not been logged in this pass."""
        if what in self._said:
            self.log.debug(line, *words)
        else:
            self._said.add(what)
            self.log.error(line, *words)

    # --- comparing --------------------------------------------------------------------

    def _hash(
        self,
        job: Job,
        stats: Stats,
        suffixes: Sequence[str] = (),
        *,
        is_listed: bool = False,
    ) -> dict[str, SuffixHash]:
        """Our suffix hashes; `suffixes` are calculated anew. Yields."""
        count, found = self._managers[job.policy.index].count_suffix_hashes(
            job.device.name, job.partition, suffixes, list_directory=is_listed
        )
        stats.suffix_hash += count
        if count:
            self.metrics.count("suffix.hashes", count)
        return found

    def _remote_hashes(self, job: Job, node: Node) -> dict[str, SuffixHash]:
        """A node's suffix hashes. Yields. Raises BadStatus, PeerError, FormatError."""
        index = str(job.policy.index)
        response = self._direct.open(
            node,
            "REPLICATE",
            f"/{job.partition}",
            [(X_BACKEND_STORAGE_POLICY_INDEX, index)],
        )
        try:
            body = response.read(ANSWER_MAX + 1)
        finally:
            response.close()
        if response.status != 200:
            raise BadStatus(response.peer, response.status)
        if len(body) > ANSWER_MAX:
            raise PeerError(response.peer, "REPLICATE: the answer is too long")
        return sync.read_suffix_hashes(body)

    def _groups(
        self, job: Job, suffixes: Sequence[str]
    ) -> Iterator[tuple[list[str], ObjectNames]]:
        """The objects of some suffixes, a bounded number at a time. Yields."""
        partitions = self._managers[job.policy.index].partitions
        group: list[str] = []
        objects: dict[str, Sequence[str]] = {}
        for first in range(0, len(suffixes), SUFFIXES_PER_LOOK):
            some = suffixes[first : first + SUFFIXES_PER_LOOK]
            group += some
            objects |= partitions.objects(job.device.name, job.partition, *some)
            if len(objects) >= OBJECTS_PER_PUSH:
                yield group, objects
                group, objects = [], {}
        if group:
            yield group, objects

    def _count_suffixes_sent(self, stats: Stats, count: int) -> None:
        stats.suffix_sync += count
        self.metrics.count("suffix.syncs", count)

    # --- what is told -----------------------------------------------------------------

    def _totals(self) -> Stats:
        totals = Stats()
        for stats in self._stats.values():
            totals.add(stats)
        return totals

    def progress(self, tally: Tally) -> None:
        """Say how far the pass is, as operators know it."""
        elapsed_s = max(1e-6, green.monotonic() - self._began)
        moment = green.monotonic()
        if self._handled == self._handled_at_progress:
            quiet_s = moment - self._progress_at
            self.log.info("nothing %s for %.0f seconds", self.done, quiet_s)
        self._handled_at_progress, self._progress_at = self._handled, moment
        rate = self._handled / elapsed_s
        if self._handled:
            left_s = max(0, self._total - self._handled) / rate
            self.log.info(
                "%d/%d (%.2f%%) partitions %s in %.2fs (%.2f/sec, %s remaining)",
                self._handled,
                self._total,
                100.0 * self._handled / max(1, self._total),
                self.done,
                elapsed_s,
                rate,
                spelled(left_s),
            )
        totals = self._totals()
        self.log.info("%d successes, %d failures", totals.success, totals.failure)
        if totals.suffix_count:
            self.log.info(
                "%d suffixes checked - %.2f%% hashed, %.2f%% synced",
                totals.suffix_count,
                100.0 * totals.suffix_hash / totals.suffix_count,
                100.0 * totals.suffix_sync / totals.suffix_count,
            )
        if self._times:
            times = sorted(self._times)
            self.log.info(
                "partition times: max %.4fs, min %.4fs, med %.4fs",
                times[-1],
                times[0],
                times[len(times) // 2],
            )

    def _say_end(self, tally: Tally) -> float:
        """Say what the pass came to; the minutes that it took."""
        self.progress(tally)
        minutes = (green.monotonic() - self._began) / 60
        self.log.info("object %s complete (%.2f minutes)", self.work, minutes)
        return minutes

    def _tell_recon(self, facts: Mapping[str, Any]) -> None:
        update_cache(self._recon_path, facts, self.log)

    @property
    def _recon_path(self) -> str:
        return os.path.join(self.config.recon_cache_path, RECON_FILE)
