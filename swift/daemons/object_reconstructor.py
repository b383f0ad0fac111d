# SPDX-License-Identifier: Apache-2.0
"""The object reconstructor: each primary gets its own fragment, handoffs keep none.

A pass has one job a partition. A primary compares suffix hashes with three of the
others, one REPLICATE a partner; what a partner lacks is made from the fragments of the
rest and pushed to it. Fragments of any index that is not ours go to the primaries whose
they are, and are removed here once those have them. Pushing is ssync.

Contract daemons §9; what decides is in core/reconstruction and core/rebuilding, the
making of fragments in fragment_rebuild.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from swift.core.errors import (
    FormatError,
    LockTimeout,
    ObjectMissing,
    PeerError,
    Unavailable,
)
from swift.core.policy import StoragePolicy
from swift.core.reconstruction import (
    Layout,
    Revert,
    Sync,
    out_of_sync,
    plan_of,
)
from swift.core.redundancy import Redundancy, SuffixHash
from swift.core.ring.devices import Device, Node
from swift.core.settings import boolean, integer, natural, option, positive_int, seconds
from swift.daemons.fragment_rebuild import BrokenRebuild, Rebuilder, SolitaryRule
from swift.daemons.fragment_revert import Giving
from swift.daemons.jobs import Job
from swift.daemons.partition_daemon import (
    INSUFFICIENT_STORAGE,
    LIMITED,
    REVERT_LOCK_S,
    BadStatus,
    PartitionConfig,
    PartitionDaemon,
)
from swift.daemons.reconstruction_stats import PER_DISK, aggregated, recon_entry
from swift.daemons.replication_stats import Stats
from swift.daemons.ssync_sender import Busy, Push, Source
from swift.runtime import green
from swift.runtime.daemon import Frame, Scope, Tally
from swift.runtime.process import choose_fragment_checksum
from swift.runtime.recon import read_cache
from swift.storage.devices import Devices
from swift.storage.object.conflicts import check_stored_objects
from swift.storage.object.context import DiskConfig
from swift.storage.object.manager import DiskFileManager
from swift.storage.object.partitions import ObjectNames
from swift.wire.client import Connector
from swift.wire.direct import DirectClient
from swift.wire.nodes import NodeCount, parse_node_count

PUSHES_MAX = 8
"""Conversations about the same objects in one job, when sources fail half-way or the
peer is busy."""

BUSY_S = 2.0
"""The longest time to leave a busy peer alone before it is asked again."""


def _at_least_minus_one(text: str) -> int:
    value = integer(text)
    if value < -1:
        raise ValueError("must be -1 or more")
    return value


@dataclass(frozen=True)
class ReconstructorConfig(PartitionConfig):
    """[object-reconstructor] of object-server.conf."""

    reconstructor_workers: int = option(
        0, parse=natural, doc="Processes that share the devices; 0 uses none."
    )
    lockup_timeout_s: float = option(
        1800.0,
        name="lockup_timeout",
        parse=seconds,
        doc="Partitions under way are given up when none was done in that time.",
    )
    handoffs_only: bool = option(
        False,
        parse=boolean,
        doc="Empty handoffs and do nothing else; for a cluster that is full.",
    )
    handoffs_first: bool = option(
        False, parse=boolean, doc="Old name of handoffs_only."
    )
    rebuild_handoff_node_count: int = option(
        2,
        parse=_at_least_minus_one,
        doc="Handoffs tried for a primary whose device is away; -1 is no limit.",
    )
    max_objects_per_revert: int = option(
        0,
        parse=natural,
        doc="Objects that a handoff gives back in one pass and partition; 0: all.",
    )
    quarantine_threshold: int = option(
        0,
        parse=natural,
        doc="Fragments of an object up to which it counts as lost when all other nodes "
        "have none; they go into quarantine. 0: never.",
    )
    quarantine_age: int | None = option(
        None,
        parse=natural,
        doc="Seconds that such data must be old; by default reclaim_age.",
    )
    request_node_count: NodeCount = option(
        NodeCount(2, True),
        parse=parse_node_count,
        doc="Nodes asked for fragments, handoffs last: `N` or `N * replicas`.",
    )
    disk_chunk_size: int = option(
        65536, parse=positive_int, doc="Bytes read from disk at a time."
    )
    write_legacy_ec_crc: bool | None = option(
        None,
        parse=boolean,
        doc="Write checksums of fragments as liberasurecode before 1.6 reads them.",
    )

    @property
    def disks(self) -> DiskConfig:
        """The same, as the object engine reads it."""
        return replace(super().disks, disk_chunk_size=self.disk_chunk_size)

    @property
    def solitary_rule(self) -> SolitaryRule:
        """When a fragment is given up."""
        age = self.quarantine_age
        return SolitaryRule(
            self.quarantine_threshold,
            self.reclaim_age if age is None else age,
            self.request_node_count,
        )


class LockedUp(Unavailable):
    """A partition that takes longer than any may."""


class ObjectReconstructor(PartitionDaemon):
    """Reconstructs the policies that keep fragments."""

    section = "object-reconstructor"
    Config = ReconstructorConfig
    config: ReconstructorConfig
    work = "reconstruction"
    done = "reconstructed"
    # Other nodes are asked for each object. Each holds AHEAD_BYTES of its fragment, and
    # as much of its sources' waits in the kernel.
    objects_ahead = 3

    def __init__(
        self,
        config: ReconstructorConfig,
        frame: Frame,
        *,
        connector: Connector | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """connector, rng: the doors for tests. Raises RingUnavailable."""
        self._rebuilders: dict[int, Rebuilder] = {}
        super().__init__(config, frame, connector=connector, rng=rng)
        check_stored_objects(Devices(config.devices, config.mount_check), frame.cluster)
        choose_fragment_checksum(config.write_legacy_ec_crc)
        self._handoffs_only = config.handoffs_only or config.handoffs_first

    def is_in_charge(self, redundancy: Redundancy) -> bool:
        """What keeps whole copies is the replicator's."""
        return redundancy.decoder() is not None

    def source(self, manager: DiskFileManager) -> Source:
        """What a peer lacks is made; what is its own is sent as it is."""
        index = manager.policy.index
        direct = DirectClient(
            self._pool,
            user_agent=self._agent,
            conn_timeout_s=self.config.conn_timeout_s,
            response_timeout_s=self.config.node_timeout_s,
        )
        rebuilder = self._rebuilders[index] = Rebuilder(
            manager,
            lambda: self.cluster.object_ring(index),
            direct,
            self.config.solitary_rule,
            self.log,
            self.metrics,
        )
        return rebuilder

    @property
    def workers(self) -> int:
        """Processes that share the devices."""
        return self.config.reconstructor_workers

    def _reset(self) -> None:
        super()._reset()
        self._remaining = 0
        self._ended_at = green.monotonic()

    # --- a pass -----------------------------------------------------------------------

    def begin(self, scope: Scope) -> None:
        """Start counting."""
        super().begin(scope)
        for rebuilder in self._rebuilders.values():
            rebuilder.forget()
        if self._handoffs_only:
            self.log.warning(
                "handoffs only: nothing is rebuilt; switch handoffs_only off when the "
                "handoffs are empty"
            )

    def jobs(self, scope: Scope) -> Iterator[Job]:
        """The partitions of our devices, in random order.

        Those of a policy whose ring changes are left for the next pass.
        """
        found, watch = self._collect(scope)
        if self._handoffs_only:
            found.keep(lambda job: not job.is_primary)
        self._total = len(found)
        told: set[int] = set()
        for job in found:
            index = job.policy.index
            if index not in watch.stale():
                yield job
            elif index not in told:
                told.add(index)
                self.log.info(
                    "the ring of policy %s has changed, its pass ends here",
                    job.policy.name,
                )

    def meet_junk(
        self, policy: StoragePolicy, device: Device, names: Sequence[str]
    ) -> None:
        """Remove what is no partition. Yields."""
        if names:
            self.log.warning(
                "%s/%s: %d entries are no partitions, and are removed",
                device.name,
                policy.objects_dir,
                len(names),
            )
            partitions = self._managers[policy.index].partitions
            partitions.remove_junk(device.name, names)

    # --- a job ------------------------------------------------------------------------

    def bring(self, job: Job, stats: Stats) -> bool:
        """Bring a partition to where it belongs. Yields. Raises LockedUp.

        A job may take any time, as long as others end meanwhile.
        """
        limit_s = self.config.lockup_timeout_s
        began = green.monotonic()
        thread = green.spawn(self._reconstruct, job, stats)
        try:
            while True:
                quiet_since = max(began, self._ended_at)
                left_s = quiet_since + limit_s - green.monotonic()
                if left_s <= 0:
                    raise LockedUp(f"{job}: not done within {limit_s:.0f}s")
                try:
                    return bool(thread.wait(left_s))
                except TimeoutError:
                    if thread.ended:
                        raise
        finally:
            thread.kill()

    def brought(self, job: Job, gone: bool) -> None:
        """Note that jobs come to their ends."""
        self._ended_at = green.monotonic()

    def _reconstruct(self, job: Job, stats: Stats) -> bool:
        layout = self._layout(job)
        hashes = self._hash(job, stats, is_listed=True)
        plan = plan_of(hashes, job.own_index, layout, self._rng)
        for index in plan.unknown:
            self.log.warning("%s: there is no fragment %d, it is left", job, index)
        if plan.sync is not None:
            self._sync(job, plan.sync, layout, hashes, stats)
        given = [self._revert(job, revert, stats) for revert in plan.reverts]
        if job.is_primary:
            self._remaining += given.count(False)
            return False
        partitions = self._managers[job.policy.index].partitions
        if not all(given) or not partitions.drop(job.device.name, job.partition, {}):
            self._remaining += 1
            return False
        stats.remove += 1
        self.log.info("removing partition: %s", job)
        return True

    def _layout(self, job: Job) -> Layout:
        redundancy = job.policy.redundancy
        decoder = redundancy.decoder()
        assert decoder is not None, "the policy keeps fragments"
        positions = len(job.ring.primaries(job.partition))
        return Layout(positions, decoder.unique, redundancy.needed)

    # --- keeping partners in step -----------------------------------------------------

    def _sync(
        self,
        job: Job,
        sync: Sync,
        layout: Layout,
        hashes: Mapping[str, SuffixHash],
        stats: Stats,
    ) -> None:
        """Give each partner what it lacks of what we have. Yields."""
        local = {suffix: hashes[suffix] for suffix in sync.suffixes}
        primaries = {node.index: node for node in job.ring.primaries(job.partition)}
        assert job.own_index is not None, "only primaries have partners"
        for position in layout.partners(job.own_index) if local else ():
            partner = primaries[position]
            try:
                found = self._hashes_for(job, partner, layout, stats)
                if found is not None:
                    node, remote = found
                    index = layout.index_at(position)
                    self._sync_with(job, sync, node, index, local, remote, stats)
                    stats.success += 1
            except (PeerError, FormatError) as error:
                self._complain(job, partner, error)
                stats.fail(partner)

    def _hashes_for(
        self, job: Job, partner: Node, layout: Layout, stats: Stats
    ) -> tuple[Node, dict[str, SuffixHash]] | None:
        """Who stands at a partner's place, and its suffix hashes; None for nobody.

        When its device is away, a handoff that would get the same fragment does.
        Yields. Raises PeerError, FormatError.
        """
        for node in self._stand_ins(job, partner, layout):
            try:
                return node, self._remote_hashes(job, node)
            except BadStatus as error:
                self._complain(job, node, error)
                stats.fail(node)
                if error.status != INSUFFICIENT_STORAGE:
                    return None
        return None

    def _stand_ins(self, job: Job, partner: Node, layout: Layout) -> Iterator[Node]:
        """A partner, and the handoffs that would hold its fragment, best first."""
        yield partner
        index = layout.index_at(partner.index or 0)
        fitting = (
            node
            for node in job.ring.handoffs(job.partition)
            if layout.index_at(node.handoff_index or 0) == index
            and node.id != job.device.id
        )
        count = self.config.rebuild_handoff_node_count
        yield from islice(fitting, None if count < 0 else count)

    def _sync_with(
        self,
        job: Job,
        sync: Sync,
        node: Node,
        index: int,
        local: Mapping[str, SuffixHash],
        remote: Mapping[str, SuffixHash],
        stats: Stats,
    ) -> None:
        """Push what a node lacks. Yields. Raises PeerError, FormatError."""
        stats.suffix_count += len(local)
        own_index = sync.fragment_index
        different = out_of_sync(local, remote, own_index=own_index, peer_index=index)
        if different:
            fresh = self._hash(job, stats, different)
            local = {suffix: fresh[suffix] for suffix in different if suffix in fresh}
            different = out_of_sync(
                local, remote, own_index=own_index, peer_index=index
            )
        if not different:
            stats.hashmatch += 1
            return
        self._count_suffixes_sent(stats, len(different))
        push = Push(
            node,
            job.device.name,
            job.partition,
            fragment_index=own_index,
            peer_index=index,
        )
        for _group, objects in self._groups(job, different):
            self._push_patiently(job, push, objects)

    def _push_patiently(self, job: Job, push: Push, objects: ObjectNames) -> None:
        """Push objects, anew when one could not be completed. Yields.

        A source that failed is not used again, so the next try gets further; a peer
        that is filled by several of us at once is so for a short time only.
        """
        sender = self._senders[job.policy.index]
        for _ in range(PUSHES_MAX - 1):
            try:
                sender.push(push, objects)
            except BrokenRebuild as error:
                self.log.info("%s: %s; once more", job, error)
            except Busy:
                green.sleep(self._rng.uniform(0, BUSY_S))
            else:
                return
        sender.push(push, objects)

    # --- giving back ------------------------------------------------------------------

    def _revert(self, job: Job, revert: Revert, stats: Stats) -> bool:
        """Give fragments to whom they belong; True when all went. Yields."""
        giving = Giving(
            job,
            revert,
            sender=self._senders[job.policy.index],
            stats=stats,
            complain=self._complain,
            objects_max=self.config.max_objects_per_revert,
        )
        self._count_suffixes_sent(stats, len(revert.suffixes) * len(revert.positions))
        partitions = self._managers[job.policy.index].partitions
        try:
            with partitions.locked(job.device.name, job.partition, REVERT_LOCK_S):
                return giving.run(
                    objects for _group, objects in self._groups(job, revert.suffixes)
                )
        except ObjectMissing:
            return True  # another pass, of a daemon that was started twice, was quicker
        except LockTimeout:
            self.log.info("%s: is locked, and left for the next pass", job)
            self.metrics.increment("partition.lock-failure.count")
            return False

    # --- what is told -----------------------------------------------------------------

    def end(self, scope: Scope, tally: Tally) -> None:
        """Say what the pass came to, and leave it for recon."""
        minutes = self._say_end(tally)
        if self._handoffs_only:
            self._say_remaining()
        if LIMITED not in scope.extra:
            if not scope.is_limited:
                self._tell_recon(recon_entry(minutes, green.now()))
            return
        if scope.partitions or scope.policies:
            return
        per_disk = {
            name: {**recon_entry(minutes, green.now()), "pid": os.getpid()}
            for name in scope.devices
        }
        self._tell_recon({PER_DISK: per_disk})
        if not scope.extra[LIMITED]:
            self._aggregate()

    def _say_remaining(self) -> None:
        if self._remaining:
            self.log.info(
                "handoffs only: %d handoffs remain, the next pass goes on",
                self._remaining,
            )
        else:
            self.log.info(
                "handoffs only: no handoffs remain; switch handoffs_only off now"
            )

    def _aggregate(self) -> None:
        """Sum up what the workers left, once every device has reported."""
        found = read_cache(self._recon_path).get(PER_DISK)
        updates = aggregated(found, self._device_names())
        if updates:
            self._tell_recon(updates)
