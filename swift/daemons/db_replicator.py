# SPDX-License-Identifier: Apache-2.0
"""One pass over this node's databases of one kind: every peer gets what it lacks.

A database is pushed, never fetched (`db_push`). A copy that is no primary's is removed
once the primaries have it. Every step may be cut short and done again.

Rules: contracts daemons §3, databases 11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from swift.core.db_sync import handoff_may_go, others_in_order
from swift.core.errors import Corrupt, DatabaseMissing, InvalidInput, Unavailable
from swift.core.ring.devices import Device, Node
from swift.core.ring.ring import Ring
from swift.core.timestamp import Timestamp
from swift.daemons.databases import (
    AnyBroker,
    LocalDatabases,
    in_turn,
    local_devices,
    ring_of,
)
from swift.daemons.db_push import Pusher
from swift.daemons.db_replication import (
    DbReplicatorConfig,
    Push,
    ReplicationStats,
    Visit,
)
from swift.runtime import green
from swift.runtime.daemon import Daemon, Frame, Scope, Tally
from swift.runtime.recon import update_cache
from swift.storage.db.walk import FoundDatabase, PartitionContents
from swift.wire.client import ConnectionPool


class DatabaseReplicator(Daemon[FoundDatabase]):
    """The part that accounts and containers have in common."""

    kind: ClassVar[str]
    Config: ClassVar[type[DbReplicatorConfig]] = DbReplicatorConfig
    config: DbReplicatorConfig

    def __init__(
        self, config: Any, frame: Frame, pool: ConnectionPool | None = None
    ) -> None:
        super().__init__(config, frame)
        self.local = LocalDatabases(self.kind, config, frame.log)
        self.pool = pool or ConnectionPool()
        self.stats = ReplicationStats(green.now(), frame.metrics)
        self.pusher = self.make_pusher()
        self._own: dict[str, Device] = {}
        self._enough: int | None = None

    def make_pusher(self) -> Pusher:
        """What speaks to the peers; its `stats` are set for each pass."""
        return Pusher(
            self.config,
            self.section,
            self.local.databases,
            self.pool,
            self.log,
            self.stats,
        )

    # --- The pass ---------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        return self.config.workers

    @property
    def jobs_per_second(self) -> float:
        return self.config.databases_per_second

    @property
    def ring(self) -> Ring:
        """The ring of our databases, as it is now."""
        return ring_of(self.cluster, self.kind)

    @property
    def handoff_delete(self) -> int | None:
        """Pushes that are enough to remove a handoff; None for all."""
        wanted = self.config.handoff_delete
        if wanted and wanted >= self.ring.replica_count:
            self.log.warning(
                "handoff_delete %d is not below the replica count %g; it is ignored",
                wanted,
                self.ring.replica_count,
            )
            return None
        return wanted or None

    def begin(self, scope: Scope) -> None:
        self.stats = ReplicationStats(green.now(), self.metrics)
        self.pusher.stats = self.stats
        self._enough = self.handoff_delete
        self.log.info("%s: beginning replication run", self.section)
        devices = local_devices(self.ring, self.config, by_replication=True)
        if not devices:
            self.log.error("%s: no device of the ring is on this node", self.section)
        self._own = {
            device.name: device
            for device in devices
            if not scope.devices or device.name in scope.devices
        }

    def jobs(self, scope: Scope) -> Iterable[FoundDatabase]:
        usable = self.local.usable(self._own)
        before = green.now() - self.config.reclaim_age_s
        for name in usable:
            self.local.remove_old_copies(name, before)
        return in_turn(
            self.local.on_device(
                name,
                scope,
                shuffle=True,
                wanted=self._wanted(name),
                clear=self._cleared,
                clear_before=before,
            )
            for name in usable
        )

    def _wanted(self, device: str) -> Callable[[int], bool]:
        own = self._own[device]

        def wanted(partition: int) -> bool:
            if not self.config.handoffs_only:
                return True
            if partition >= self.ring.partition_count:
                return True
            return all(node.id != own.id for node in self.ring.primaries(partition))

        return wanted

    def _cleared(self, contents: PartitionContents) -> None:
        self.stats.counts["empty"] += contents.removed

    def handle(self, job: FoundDatabase) -> None:
        started = green.now()
        self.stats.count("attempted")
        ring = self.ring
        partition = ring.partition(bytes.fromhex(job.path_hash))
        primaries = tuple(ring.primaries(partition))
        own = self._own[job.device]
        own_index = next(
            (place for place, node in enumerate(primaries) if node.id == own.id), None
        )
        if partition != job.partition:
            self.log.error(
                "database in partition %d belongs to %d: it goes there; db: %s",
                job.partition,
                partition,
                job.path,
            )
            own_index = None
        visit = Visit(job, own, partition, primaries, own_index)
        try:
            self.visit(visit, self.local.open(job))
        except DatabaseMissing:
            # Removed since it was found: there is nothing to replicate.
            return
        except (Corrupt, Unavailable, InvalidInput) as error:
            self.log.error("%s; db: %s", error, job.path)
            self._fail_all(visit)
        finally:
            self.metrics.timing_since("timing", started)

    def _fail_all(self, visit: Visit) -> None:
        for node in visit.primaries:
            if node.id != visit.own.id:
                self.stats.count("failure")
                self.stats.failed_at(node.device)

    def end(self, scope: Scope, tally: Tally) -> None:
        elapsed = max(1e-6, green.now() - self.stats.started)
        counts = self.stats.counts
        self.log.info(
            "%s: attempted %d databases in %.5f seconds (%.5f/s)",
            self.section,
            counts["attempted"],
            elapsed,
            counts["attempted"] / elapsed,
        )
        self.log.info("%s: removed %d databases", self.section, counts["remove"])
        self.log.info(
            "%s: %d successes, %d failures",
            self.section,
            counts["success"],
            counts["failure"],
        )
        self.log.info("%s: %s", self.section, self.stats.line)
        self.pool.close()
        if scope.is_limited:
            return
        update_cache(
            f"{self.config.recon_cache_path}/{self.kind}.recon",
            {
                "replication_stats": self.stats.as_recon(),
                "replication_time": elapsed,
                "replication_last": green.now(),
            },
            self.log,
        )
        self.log.info("%s: replication run over", self.section)

    # --- One database -----------------------------------------------------------------

    def visit(self, visit: Visit, broker: AnyBroker) -> list[Push]:
        """Reclaim, push to every peer that should have it, remove a handoff. Yields."""
        info = green.in_thread(self._prepare, broker, green.now())
        if info is None:
            if green.in_thread(broker.is_reported):
                self._remove(visit, broker, None)
            return []
        visit = visit.labelled(info)
        pushes = self.push_to_peers(visit, broker, info)
        self.after_pushes(visit, broker, pushes)
        if visit.own_index is None:
            self.leave_handoff(visit, broker, info, pushes)
        return pushes

    def _prepare(self, broker: AnyBroker, now: float) -> dict[str, Any] | None:
        """Reclaim; the facts of a sync call, None when the database may go. Blocks."""
        age = max(0.0, now - self.config.reclaim_age_s)
        broker.reclaim(age, now - 2 * self.config.reclaim_age_s)
        if broker.is_reclaimable(Timestamp.at(age).normal):
            return None
        return broker.replication_info()

    def push_to_peers(
        self, visit: Visit, broker: AnyBroker, info: dict[str, Any]
    ) -> list[Push]:
        """Push to the primaries, and to a handoff for each that has lost its device."""
        waiting: list[Node] = others_in_order(visit.primaries, visit.own_index)
        waiting = [node for node in waiting if node.id != visit.own.id]
        handoffs = self._handoffs(visit)
        pushes: list[Push] = []
        while waiting:
            push = self.pusher.push(visit, broker, info, waiting.pop(0))
            pushes.append(push)
            self.stats.count("success" if push.succeeded else "failure")
            if not push.succeeded:
                self.stats.failed_at(push.node.device)
            if push.unmounted:
                waiting.extend(node for node in [next(handoffs, None)] if node)
        return pushes

    def _handoffs(self, visit: Visit) -> Iterator[Node]:
        return (
            node
            for node in self.ring.handoffs(visit.partition)
            if node.id != visit.own.id
        )

    def after_pushes(
        self, visit: Visit, broker: AnyBroker, pushes: Sequence[Push]
    ) -> None:
        """A hook: all peers have been visited."""

    def leave_handoff(
        self,
        visit: Visit,
        broker: AnyBroker,
        info: dict[str, Any],
        pushes: Sequence[Push],
    ) -> None:
        """Remove a copy that is not ours when the primaries have what is in it."""
        grown = green.in_thread(broker.max_row) > info["max_row"]
        succeeded = [push.succeeded for push in pushes]
        enough = handoff_may_go(succeeded, grown=grown, handoff_delete=self._enough)
        if enough and self.may_remove(visit, broker):
            self._remove(visit, broker, info["max_row"])

    def may_remove(self, visit: Visit, broker: AnyBroker) -> bool:
        """A hook: False for a copy that is needed here for another reason. Yields."""
        return True

    def _remove(self, visit: Visit, broker: AnyBroker, max_row: int | None) -> None:
        def still() -> bool:
            if self.local.databases.has_pending(broker.path):
                return False
            return max_row is None or broker.max_row() <= max_row

        if green.in_thread(self.local.databases.remove, broker.path, still):
            self.stats.count("remove")
            self.metrics.increment(f"removes.{visit.found.device}")
