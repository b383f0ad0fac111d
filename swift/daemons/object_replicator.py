# SPDX-License-Identifier: Apache-2.0
"""The object replicator: whole copies reach every primary, handoffs give theirs back.

A pass has one job a partition. A primary compares suffix hashes with each of the other
primaries, one REPLICATE a peer, and pushes what differs; a handoff pushes everything to
all primaries and removes what they have confirmed. Pushing is ssync or rsync. What
goes wrong with a peer is counted, said once in a pass, and tried again by the next.

Contract daemons §8; what decides is in core/sync, the protocol in core/ssync.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from swift.core import sync
from swift.core.errors import FormatError, LockTimeout, ObjectMissing, PeerError
from swift.core.headers import X_BACKEND_STORAGE_POLICY_INDEX
from swift.core.redundancy import Redundancy
from swift.core.ring.devices import Node
from swift.core.settings import (
    boolean,
    natural,
    one_of,
    option,
    positive_int,
    seconds,
    string,
)
from swift.daemons.jobs import Job
from swift.daemons.partition_daemon import (
    INSUFFICIENT_STORAGE,
    LIMITED,
    REVERT_LOCK_S,
    BadStatus,
    PartitionConfig,
    PartitionDaemon,
)
from swift.daemons.replication_stats import PER_DISK, Stats, aggregated, recon_entry
from swift.daemons.rsync import (
    Limits,
    Outcome,
    module_of,
    module_template,
    object_arguments,
    run_rsync,
)
from swift.daemons.ssync_sender import Push
from swift.runtime import green
from swift.runtime.daemon import Frame, Scope, Tally
from swift.runtime.recon import read_cache
from swift.storage.object.partitions import ObjectNames
from swift.wire.client import Connector

REVERTS_WAIT_S = 60.0
"""Time between looks whether the handoffs in flight are done."""

SUFFIXES_PER_CALL = 1000
"""Suffixes named by one REPLICATE, so that its path stays within servers' limits."""


def _handoff_delete(text: str) -> int:
    return 0 if text.strip().lower() == "auto" else natural(text)


@dataclass(frozen=True)
class ReplicatorConfig(PartitionConfig):
    """[object-replicator] of object-server.conf."""

    replicator_workers: int = option(
        0, parse=natural, doc="Processes that share the devices; 0 uses none."
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
    lockup_timeout_s: float = option(
        1800.0, name="lockup_timeout", parse=seconds, doc="Accepted, of no effect."
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


class RsyncFailed(PeerError):
    """An rsync that did not copy everything."""


class ObjectReplicator(PartitionDaemon):
    """Replicates the policies that keep whole copies."""

    section = "object-replicator"
    Config = ReplicatorConfig
    config: ReplicatorConfig
    work = "replication"
    done = "replicated"

    def __init__(
        self,
        config: ReplicatorConfig,
        frame: Frame,
        *,
        connector: Connector | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """connector, rng: the doors for tests. Raises RingUnavailable."""
        super().__init__(config, frame, connector=connector, rng=rng)
        self._pass = self._rng.randrange(sync.LISTING_EVERY)
        self._handoff_delete = self._checked_handoff_delete()

    def is_in_charge(self, redundancy: Redundancy) -> bool:
        """What keeps fragments is the reconstructor's."""
        return not redundancy.two_phase

    @property
    def workers(self) -> int:
        """Processes that share the devices."""
        return self.config.replicator_workers

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
        super()._reset()
        self._reverts_open = 0
        self._reverts_left = 0
        self._revert_done: green.Event[None] = green.Event()

    # --- a pass -----------------------------------------------------------------------

    def begin(self, scope: Scope) -> None:
        """Start counting."""
        super().begin(scope)
        self._pass += 1

    def jobs(self, scope: Scope) -> Iterator[Job]:
        """The partitions of our devices, in random order; fewer when a ring changes."""
        found, watch = self._collect(scope)
        if self.config.handoffs_first:
            found.sort(key=lambda job: job.is_primary)
        self._total = len(found)
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
            if watch.stale():
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

    # --- a job ------------------------------------------------------------------------

    def bring(self, job: Job, stats: Stats) -> bool:
        """Update the others, or give the partition back. Yields."""
        if job.is_primary:
            self._update(job, stats)
            return False
        return self._revert(job, stats)

    def brought(self, job: Job, gone: bool) -> None:
        """Count the handoffs that are still open."""
        if not job.is_primary:
            self._reverts_open -= 1
            self._reverts_left += not gone
            self._revert_done.set()

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
                if error.status == INSUFFICIENT_STORAGE:
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

    # --- pushing ----------------------------------------------------------------------

    def _push_all(
        self, job: Job, node: Node, suffixes: Sequence[str], stats: Stats
    ) -> None:
        """Push some suffixes to a node. Yields. Raises PeerError, ProtocolError."""
        stats.rsync += 1
        self._count_suffixes_sent(stats, len(suffixes))
        if self.config.sync_method == "rsync":
            self._rsync(job, node, suffixes)
            return
        sender = self._senders[job.policy.index]
        push = Push(node, job.device.name, job.partition)
        for _group, objects in self._groups(job, suffixes):
            sender.push(push, objects)

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
        self._count_suffixes_sent(stats, len(suffixes) * len(job.targets))
        gone = False
        for group, objects in self._groups(job, suffixes):
            confirmed = self._give(job, group, objects, failed, stats)
            successes = len(job.targets) - len(failed)
            if sync.may_give_up(successes, len(job.targets), self._handoff_delete):
                done = {key: objects[key] for key in objects if key in confirmed}
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
                    confirmed.append(set(has))
                    if is_distant:
                        regions.add(node.region)
            except (PeerError, FormatError) as error:
                self._complain(job, node, error)
                stats.fail(node)
                failed.add(node.id)
        return sync.confirmed_by_all(confirmed)

    # --- what is told -----------------------------------------------------------------

    def end(self, scope: Scope, tally: Tally) -> None:
        """Say what the pass came to, and leave it for recon."""
        minutes = self._say_end(tally)
        if scope.extra.get(LIMITED, scope.is_limited):
            return
        if LIMITED not in scope.extra:
            self._tell_recon(recon_entry(self._totals(), minutes, green.now()))
            return
        per_disk = {}
        for name in scope.devices:
            entry = per_disk[name] = recon_entry(
                self._stats_of(name), minutes, green.now()
            )
            if not entry["replication_stats"]["failure_nodes"]:
                del entry["replication_stats"]["failure_nodes"]
        self._tell_recon({PER_DISK: per_disk})
        self._aggregate()

    def _aggregate(self) -> None:
        """Sum up what the workers left, once every device has reported."""
        found = read_cache(self._recon_path).get(PER_DISK)
        updates = aggregated(found, self._device_names())
        if updates:
            self._tell_recon(updates)
