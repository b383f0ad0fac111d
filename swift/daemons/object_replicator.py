# SPDX-License-Identifier: Apache-2.0
"""The object replicator: whole copies reach every primary, handoffs give theirs back.

A pass has one job a partition. A primary compares suffix hashes with each of the other
primaries, one REPLICATE a peer, and pushes what differs; a handoff pushes everything to
all primaries and removes what they have confirmed. Pushing is ssync or rsync. What
goes wrong with a peer is counted, said once in a pass, and tried again by the next.

Contract daemons §8; what decides is in core/sync, the protocol in core/ssync.
"""

from __future__ import annotations

import os
import random
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from swift.core import sync
from swift.core.errors import (
    DeviceUnavailable,
    FormatError,
    LockTimeout,
    ObjectMissing,
    PeerError,
    SwiftError,
)
from swift.core.headers import X_BACKEND_STORAGE_POLICY_INDEX
from swift.core.policy import StoragePolicy
from swift.core.redundancy import SuffixHash
from swift.core.ring.devices import Device, Node
from swift.core.ring.ring import Ring
from swift.core.settings import (
    boolean,
    natural,
    one_of,
    option,
    positive_int,
    seconds,
    string,
)
from swift.daemons import jobs as walks
from swift.daemons.jobs import Job
from swift.daemons.replication_stats import (
    PER_DISK,
    Stats,
    aggregated,
    recon_entry,
    spelled,
)
from swift.daemons.rsync import (
    Limits,
    Outcome,
    module_of,
    module_template,
    object_arguments,
    run_rsync,
)
from swift.daemons.ssync_sender import Push, SsyncSender
from swift.runtime import green
from swift.runtime.config import load_plugin
from swift.runtime.daemon import Daemon, DaemonConfig, Frame, Pause, Scope, Tally
from swift.runtime.process import own_addresses
from swift.runtime.recon import read_cache, update_cache
from swift.storage.object.context import DiskConfig
from swift.storage.object.manager import DiskFileManager
from swift.storage.object.partitions import ObjectNames
from swift.wire.client import ConnectionPool, Connector
from swift.wire.direct import DirectClient

REVERTS_WAIT_S = 60.0
"""Time between looks whether the handoffs in flight are done."""

ANSWER_MAX = 16 * 1024 * 1024
"""Bytes of the answer to a REPLICATE; 4096 suffixes need less by far."""

OBJECTS_PER_PUSH = 5000
"""Objects offered by one conversation, so that memory does not follow a partition's."""

SUFFIXES_PER_CALL = 1000
"""Suffixes named by one REPLICATE, so that its path stays within servers' limits."""

REVERT_LOCK_S = 0.2
"""How long a handoff waits for its partition's lock."""

_INSUFFICIENT_STORAGE = 507
_WORKERS = "replicator_workers"


def _handoff_delete(text: str) -> int:
    return 0 if text.strip().lower() == "auto" else natural(text)


@dataclass(frozen=True)
class ReplicatorConfig(DaemonConfig):
    """[object-replicator] of object-server.conf."""

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
    replicator_workers: int = option(
        0, parse=natural, doc="Processes that share the devices; 0 uses none."
    )
    stats_interval_s: float = option(
        300.0, name="stats_interval", parse=seconds, doc="Time between progress lines."
    )
    sync_method: str = option(
        "rsync", parse=one_of("rsync", "ssync"), doc="How objects travel."
    )
    rsync_timeout_s: float = option(
        900.0, name="rsync_timeout", parse=seconds, doc="Longest run of one rsync."
    )
    rsync_bwlimit: str = option(
        "0", parse=string, doc="Bandwidth of one rsync in KB/s; 0 is unlimited."
    )
    rsync_io_timeout: int = option(
        30, parse=positive_int, doc="Seconds without progress that end an rsync."
    )
    rsync_compress: bool = option(
        False, parse=boolean, doc="Compress what goes to another region."
    )
    rsync_module: str = option(
        "{replication_ip}::object",
        parse=module_template,
        doc="Module of a peer's rsync daemon, with placeholders.",
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
    lockup_timeout_s: float = option(
        1800.0, name="lockup_timeout", parse=seconds, doc="Accepted, of no effect."
    )
    ring_check_interval_s: float = option(
        15.0,
        name="ring_check_interval",
        parse=seconds,
        doc="Time between looks for a changed ring, which ends the pass.",
    )
    log_rsync_transfers: bool = option(
        True, parse=boolean, doc="Log each file that rsync sends."
    )
    rsync_error_log_line_length: int = option(
        0, parse=natural, doc="Characters of a logged rsync error; 0 logs all."
    )
    handoffs_first: bool = option(
        False, parse=boolean, doc="Empty handoffs first; for a cluster that is full."
    )
    handoff_delete: int = option(
        0,
        parse=_handoff_delete,
        doc="Primaries that must have a handoff's objects before it deletes them; "
        "auto is all.",
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


class RsyncFailed(PeerError):
    """An rsync that did not copy everything."""


class ObjectReplicator(Daemon[Job]):
    """Replicates the policies that keep whole copies."""

    section = "object-replicator"
    Config = ReplicatorConfig
    first_pause = Pause.NONE
    pause = Pause.FULL
    config: ReplicatorConfig

    def __init__(
        self,
        config: ReplicatorConfig,
        frame: Frame,
        *,
        connector: Connector | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """connector, rng: the doors for tests. Raises RingUnavailable."""
        super().__init__(config, frame)
        # What keeps fragments is the reconstructor's; a policy's redundancy tells.
        self._policies = [
            policy
            for policy in frame.cluster.policies
            if not policy.redundancy.two_phase
        ]
        for policy in self._policies:
            self.cluster.object_ring(policy.index)
        self._rng = rng or random.Random()  # noqa: S311 (spreads load)
        self._pass = self._rng.randrange(sync.LISTING_EVERY)
        self._agent = f"{self.section} {os.getpid()}"
        pool = ConnectionPool(connector)
        self._direct = DirectClient(
            pool,
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
                pool,
                user_agent=self._agent,
                connect_timeout_s=config.conn_timeout_s,
                answer_timeout_s=config.node_timeout_s,
            )
            for index, manager in self._managers.items()
        }
        self._own_addresses = own_addresses(config.ring_ip or config.bind_ip)
        self._own_port = None if config.servers_per_port else config.bind_port
        self._dealt: tuple[str, ...] = ()
        self._handoff_delete = self._checked_handoff_delete()
        self._reset()

    def _checked_handoff_delete(self) -> int:
        wanted = self.config.handoff_delete
        replicas = [
            self.cluster.object_ring(policy.index).replica_count
            for policy in self._policies
        ]
        if wanted and not any(count > wanted for count in replicas):
            self.log.warning(
                "handoff_delete = %d is not used: no ring has more replicas", wanted
            )
            return 0
        return wanted

    def _reset(self) -> None:
        self._stats: dict[str, Stats] = {}
        self._total = 0
        self._handled = 0
        self._began = green.monotonic()
        self._times = array("d")
        self._said: set[tuple[int, str]] = set()
        self._reverts_open = 0
        self._reverts_left = 0
        self._revert_done: green.Event[None] = green.Event()
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
        count = self.config.replicator_workers
        if not count:
            return ()
        self._dealt = self._device_names()
        names = [
            name for name in self._dealt if not scope.devices or name in scope.devices
        ]
        extra = {**scope.extra, _WORKERS: scope.is_limited}
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
        self._pass += 1
        self.log.info("object replication pass begins")

    def jobs(self, scope: Scope) -> Iterator[Job]:
        """The partitions of our devices, in random order; fewer when a ring changes."""
        found, rings = self._collect(scope)
        self._total = len(found)
        next_check = green.monotonic() + self.config.ring_check_interval_s
        for job in found:
            if self.config.handoffs_first and job.is_primary:
                self._await_reverts()
                if self._reverts_left:
                    self.log.warning(
                        "handoffs first: %d partitions are still to be given back, so "
                        "nothing else is replicated; switch handoffs_first off when "
                        "the handoffs are empty",
                        self._reverts_left,
                    )
                    return
            if green.monotonic() >= next_check:
                next_check = green.monotonic() + self.config.ring_check_interval_s
                if any(self._is_stale(policy, ring) for policy, ring in rings):
                    self.log.info("a ring has changed, the pass ends here")
                    return
            if not job.is_primary:
                self._reverts_open += 1
            yield job

    def _await_reverts(self) -> None:
        while self._reverts_open:
            with suppress(TimeoutError):
                self._revert_done.wait(REVERTS_WAIT_S)
            self._revert_done.clear()

    def _is_stale(self, policy: StoragePolicy, ring: Ring) -> bool:
        file = self.cluster.rings.get(policy.ring_name)
        if file is not None and file.has_changed:
            return True
        return self.cluster.object_ring(policy.index) is not ring

    def _collect(
        self, scope: Scope
    ) -> tuple[list[Job], list[tuple[StoragePolicy, Ring]]]:
        """The jobs of a pass, in its order, and the rings that they were made by."""
        found: list[Job] = []
        rings = []
        has_devices = False
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
            rings.append((policy, ring))
            local = self._local(ring)
            has_devices = has_devices or bool(local)
            for device in local:
                if not scope.devices or device.name in scope.devices:
                    found += self._jobs_of(policy, ring, device, scope)
        if rings and not has_devices:
            self.log.error(
                "no device of the rings is at %s, port %s: nothing to replicate",
                ", ".join(self._own_addresses),
                self._own_port or "any",
            )
        self._rng.shuffle(found)
        if self.config.handoffs_first:
            found.sort(key=lambda job: job.is_primary)
        return found, rings

    def _jobs_of(
        self, policy: StoragePolicy, ring: Ring, device: Device, scope: Scope
    ) -> list[Job]:
        partitions = self._managers[policy.index].partitions
        stats = self._stats_of(device.name)
        if not walks.available(partitions, device, self.log):
            stats.failure += 1
            return []
        try:
            found = walks.partitions_of(partitions, device.name)
        except DeviceUnavailable as error:
            self.log.warning("skipped, %s", error)
            stats.failure += 1
            return []
        stats.failure += len(found.junk)
        return list(
            walks.jobs_of_device(
                policy, ring, device, found.partitions, scope.partitions
            )
        )

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
            elif job.is_primary:
                self._update(job, stats)
            else:
                gone = self._revert(job, stats)
        except (DeviceUnavailable, LockTimeout) as error:
            self._say_once(
                (job.device.id, f"own {type(error).__name__}"),
                "%s: not replicated: %s",
                job,
                error,
            )
            for node in job.targets:
                stats.fail(node)
        except Exception:
            for node in job.targets:
                stats.fail(node)
            raise  # the runner logs it
        finally:
            self._handled += 1
            self._times.append(green.now() - began)
            self.metrics.timing_since(f"partition.{kind}.timing", began)
            if not job.is_primary:
                self._reverts_open -= 1
                self._reverts_left += not gone
                self._revert_done.set()

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

    # --- update -----------------------------------------------------------------------

    def _update(self, job: Job, stats: Stats) -> None:
        """Compare with the other primaries and push what differs. Yields."""
        local = self._hash(
            job, stats, is_listed=sync.is_listed(job.partition, self._pass)
        )
        nodes = deque(self._rng.sample(job.targets, len(job.targets)))
        handoffs = job.ring.handoffs(job.partition)
        unmounted = 0
        regions: set[int] = set()
        while nodes:
            node = nodes.popleft()
            if node.region in regions:
                continue
            try:
                remote = self._remote_hashes(job, node)
            except BadStatus as error:
                self._complain(job, node, error)
                stats.fail(node)
                if error.status == _INSUFFICIENT_STORAGE:
                    unmounted += 1
                    self._add_handoff(job, nodes, handoffs, unmounted)
                continue
            except (PeerError, FormatError) as error:
                self._complain(job, node, error)
                stats.fail(node)
                continue
            stats.suffix_count += len(local)
            different = sync.differing(local, remote)
            if different:
                local = self._hash(job, stats, different)
                different = sync.differing(local, remote)
            if not different:
                stats.hashmatch += 1
                stats.success += 1
                continue
            try:
                self._push_all(job, node, different, stats)
            except (PeerError, FormatError) as error:
                self._complain(job, node, error)
                stats.fail(node)
                continue
            stats.success += 1
            if node.region != job.device.region:
                regions.add(node.region)

    def _add_handoff(
        self, job: Job, nodes: deque[Node], handoffs: Iterator[Node], unmounted: int
    ) -> None:
        """Let the next handoff stand in for a node whose device is away."""
        if self._handoff_delete:
            reachable = len(job.targets) - unmounted
            if reachable >= self._handoff_delete:
                return
        node = next((node for node in handoffs if node.id != job.device.id), None)
        if node is None:
            self.log.error("%s: no handoffs are left", job)
        else:
            nodes.append(node)

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

    # --- pushing ----------------------------------------------------------------------

    def _push_all(
        self, job: Job, node: Node, suffixes: Sequence[str], stats: Stats
    ) -> None:
        """Push some suffixes to a node. Yields. Raises PeerError, ProtocolError."""
        stats.rsync += 1
        stats.suffix_sync += len(suffixes)
        self.metrics.count("suffix.syncs", len(suffixes))
        if self.config.sync_method == "rsync":
            self._rsync(job, node, suffixes)
            return
        sender = self._senders[job.policy.index]
        push = Push(node, job.device.name, job.partition)
        for _group, objects in self._groups(job, suffixes):
            sender.push(push, objects)

    def _groups(
        self, job: Job, suffixes: Sequence[str]
    ) -> Iterator[tuple[list[str], ObjectNames]]:
        """The objects of some suffixes, a bounded number at a time. Yields."""
        partitions = self._managers[job.policy.index].partitions
        group: list[str] = []
        objects: dict[str, Sequence[str]] = {}
        for suffix in suffixes:
            group.append(suffix)
            objects |= partitions.objects(job.device.name, job.partition, suffix)
            if len(objects) >= OBJECTS_PER_PUSH:
                yield group, objects
                group, objects = [], {}
        if group:
            yield group, objects

    def _rsync(self, job: Job, node: Node, suffixes: Sequence[str]) -> None:
        """Push suffixes by rsync. Yields. Raises RsyncFailed, PeerError."""
        config = self.config
        path = self._managers[job.policy.index].partitions.path(
            job.device.name, job.partition
        )
        module = module_of(config.rsync_module, node.device)
        target = f"{module}/{node.name}/{job.policy.objects_dir}/{job.partition}"
        arguments = object_arguments(
            [f"{path}/{suffix}" for suffix in suffixes],
            target,
            Limits(config.rsync_io_timeout, config.rsync_bwlimit),
            compress=config.rsync_compress and node.region != job.device.region,
        )
        outcome = run_rsync(arguments, config.rsync_timeout_s)
        self._log_rsync(path, target, outcome)
        # Also after a failure: some of the files may have come through.
        if outcome.succeeded or job.is_primary:
            self._announce(job, node, suffixes)
        if not outcome.succeeded:
            text = f"rsync exited with {outcome.code}: {' '.join(outcome.argv)}: "
            text += " | ".join(outcome.lines[-5:])
            raise RsyncFailed(
                target, text[: config.rsync_error_log_line_length or None]
            )

    def _log_rsync(self, source: str, target: str, outcome: Outcome) -> None:
        if self.config.log_rsync_transfers:
            for line in outcome.lines:
                if line.startswith(("<f", ">f")):
                    self.log.info("rsync %s: %s", target, line)
        if outcome.succeeded:
            self.log.info(
                "successful rsync of %s to %s (%.3fs)",
                source,
                target,
                outcome.elapsed_s,
            )

    def _announce(self, job: Job, node: Node, suffixes: Sequence[str]) -> None:
        """Have a node hash suffixes again that rsync has written into. Yields."""
        index = str(job.policy.index)
        for first in range(0, len(suffixes), SUFFIXES_PER_CALL):
            names = "-".join(suffixes[first : first + SUFFIXES_PER_CALL])
            self._direct.replicate(
                node, job.partition, names, [(X_BACKEND_STORAGE_POLICY_INDEX, index)]
            )

    # --- revert -----------------------------------------------------------------------

    def _revert(self, job: Job, stats: Stats) -> bool:
        """Give a handoff's objects to the primaries; True when nothing is left. Yields.

        Only files that were confirmed are removed.
        """
        partitions = self._managers[job.policy.index].partitions
        device, partition = job.device.name, job.partition
        try:
            with partitions.locked(device, partition, REVERT_LOCK_S):
                suffixes = partitions.suffixes(device, partition)
                if suffixes:
                    gone = self._give_back(job, suffixes, stats)
                else:
                    gone = partitions.drop(device, partition, {})
        except ObjectMissing:
            return True  # another pass, of a daemon that was started twice, was quicker
        except LockTimeout:
            self.log.info("%s: is locked, and left for the next pass", job)
            self.metrics.increment("partition.lock-failure.count")
            return False
        if gone:
            stats.remove += 1
            self.log.info("removing partition: %s", job)
        return gone

    def _give_back(self, job: Job, suffixes: Sequence[str], stats: Stats) -> bool:
        partitions = self._managers[job.policy.index].partitions
        failed: set[int] = set()
        stats.rsync += len(job.targets)
        stats.suffix_sync += len(suffixes) * len(job.targets)
        self.metrics.count("suffix.syncs", len(suffixes) * len(job.targets))
        gone = False
        for group, objects in self._groups(job, suffixes):
            confirmed = self._give(job, group, objects, failed, stats)
            successes = len(job.targets) - len(failed)
            if sync.may_give_up(successes, len(job.targets), self._handoff_delete):
                done = {key: objects[key] for key in confirmed if key in objects}
                gone = partitions.drop(job.device.name, job.partition, done)
        stats.success += len(job.targets) - len(failed)
        return gone

    def _give(
        self,
        job: Job,
        suffixes: Sequence[str],
        objects: ObjectNames,
        failed: set[int],
        stats: Stats,
    ) -> set[str]:
        """Push objects to all primaries; the hashes that each of them has. Yields.

        failed: device ids that are passed over; those that fail now are added. Of a
        distant region only the first primary is sent to: the others are asked what they
        have, for their region brings them the rest.
        """
        confirmed: list[set[str]] = []
        regions: set[int] = set()
        for node in job.targets:
            if node.id in failed:
                continue
            try:
                if self.config.sync_method == "rsync":
                    self._rsync(job, node, suffixes)
                    confirmed.append(set(objects))
                else:
                    is_distant = node.region != job.device.region
                    push = Push(
                        node,
                        job.device.name,
                        job.partition,
                        check_only=is_distant and node.region in regions,
                    )
                    has = self._senders[job.policy.index].push(push, objects)
                    confirmed.append(has)
                    if is_distant:
                        regions.add(node.region)
            except (PeerError, FormatError) as error:
                self._complain(job, node, error)
                stats.fail(node)
                failed.add(node.id)
        return sync.confirmed_by_all(confirmed)

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
            self.log.info("nothing replicated for %.0f seconds", quiet_s)
        self._handled_at_progress, self._progress_at = self._handled, moment
        rate = self._handled / elapsed_s
        if self._handled:
            left_s = max(0, self._total - self._handled) / rate
            self.log.info(
                "%d/%d (%.2f%%) partitions replicated in %.2fs "
                "(%.2f/sec, %s remaining)",
                self._handled,
                self._total,
                100.0 * self._handled / max(1, self._total),
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

    def end(self, scope: Scope, tally: Tally) -> None:
        """Say what the pass came to, and leave it for recon."""
        self.progress(tally)
        minutes = (green.monotonic() - self._began) / 60
        self.log.info("object replication complete (%.2f minutes)", minutes)
        limited = scope.extra.get(_WORKERS, scope.is_limited)
        if limited:
            return
        entry = recon_entry(self._totals(), minutes, green.now())
        path = os.path.join(self.config.recon_cache_path, "object.recon")
        if _WORKERS not in scope.extra:
            update_cache(path, entry, self.log)
            return
        per_disk = {}
        for name in scope.devices:
            entry = per_disk[name] = recon_entry(
                self._stats_of(name), minutes, green.now()
            )
            if not entry["replication_stats"]["failure_nodes"]:
                del entry["replication_stats"]["failure_nodes"]
        update_cache(path, {PER_DISK: per_disk}, self.log)
        self._aggregate(path)

    def _aggregate(self, path: str) -> None:
        """Sum up what the workers left, once every device has reported."""
        updates = aggregated(read_cache(path).get(PER_DISK), self._device_names())
        if updates:
            update_cache(path, updates, self.log)
