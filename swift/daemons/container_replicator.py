# SPDX-License-Identifier: Apache-2.0
"""The container replicator: what containers exchange beyond their rows.

Policy conflicts are settled on both sides of a sync call; shard ranges go both ways on
every visit, and once sharding has begun they alone go. Rows of another policy than the
container's are put into the reconciler's queue.

Rules: contract daemons §3 and §12, databases 9.4 and 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from swift.core.db_sync import PeerAnswer
from swift.core.errors import (
    DatabaseExists,
    DatabaseMissing,
    FormatError,
    SwiftError,
)
from swift.core.misplaced import QUEUE_ACCOUNT, queue_container, queue_row
from swift.core.names import ContainerName
from swift.core.quorum import majority_size
from swift.core.ring.devices import Node
from swift.core.rows import ObjectRow
from swift.core.settings import option
from swift.core.timestamp import decode_triple
from swift.daemons.databases import AnyBroker
from swift.daemons.db_push import Pusher
from swift.daemons.db_replication import DbReplicatorConfig, Push, Visit
from swift.daemons.db_replicator import DatabaseReplicator
from swift.daemons.rsync import module_template
from swift.runtime import green
from swift.runtime.daemon import Frame, Scope, Tally
from swift.storage.db import sync
from swift.storage.db.connection import db_path
from swift.storage.db.container import ContainerBroker, ContainerStat
from swift.storage.db.sync_store import SyncStore
from swift.storage.db.walk import FoundDatabase
from swift.wire.client import ConnectionPool


@dataclass(frozen=True)
class ContainerReplicatorConfig(DbReplicatorConfig):
    """[container-replicator] of container-server.conf."""

    bind_port: int = option(6201, doc="Port of this node's container server.")
    rsync_module: str = option(
        "{replication_ip}::container",
        parse=module_template,
        doc="Module of a peer's rsync daemon, with placeholders.",
    )


class ContainerPusher(Pusher):
    """Pushes containers. many_policies: conflicts of policies are possible."""

    many_policies: bool = False

    def sync_arguments(self, info: dict[str, Any]) -> list[Any]:
        arguments = super().sync_arguments(info)
        if self.many_policies:
            names = ("status_changed_at", "count", "storage_policy_index")
            arguments += [info[name] for name in names]
        return arguments

    def exchange_ranges(
        self, visit: Visit, broker: AnyBroker, node: Node, answer: PeerAnswer
    ) -> bool:
        assert isinstance(broker, ContainerBroker), "containers have container brokers"
        if answer.shard_max_row is None:
            return False
        if answer.shard_max_row >= 0:
            found = self.call(visit, node, "get_shard_ranges")
            if not isinstance(found, list):
                raise FormatError("shard ranges", "are no list")
            self._warn_of_lost_epoch(visit, broker, found)
            green.in_thread(sync.merge_shard_ranges, broker, found)
        ranges = green.in_thread(broker.shard_ranges)
        if not ranges:
            return False
        records = [each.as_record() for each in ranges]
        own_id = green.in_thread(broker.stat).id
        self.call(visit, node, "merge_shard_ranges", records, own_id)
        if not green.in_thread(broker.sharding_initiated):
            return False
        self.stats.count("deferred")
        return True

    def _warn_of_lost_epoch(
        self, visit: Visit, broker: ContainerBroker, found: Sequence[Any]
    ) -> None:
        own = green.in_thread(broker.own_shard_range)
        if own is None or own.epoch is None:
            return
        for record in found:
            if (
                isinstance(record, dict)
                and record.get("name") == own.name
                and record.get("epoch") is None
            ):
                self.log.warning(
                    "a peer's own shard range has no epoch; ours of %s stays; "
                    "path: %s, db: %s",
                    own.epoch,
                    visit.label,
                    visit.found.path,
                )


class ContainerReplicator(DatabaseReplicator):
    """Brings every copy of every container together."""

    section: ClassVar[str] = "container-replicator"
    kind: ClassVar[str] = "container"
    Config: ClassVar[type[DbReplicatorConfig]] = ContainerReplicatorConfig

    def __init__(
        self, config: Any, frame: Frame, pool: ConnectionPool | None = None
    ) -> None:
        super().__init__(config, frame, pool)
        self._queues: dict[str, FoundDatabase] = {}
        self._sync_store = SyncStore(self.local.devices.fs)
        self._at_end = False

    def make_pusher(self) -> Pusher:
        pusher = ContainerPusher(
            self.config,
            self.section,
            self.local.databases,
            self.pool,
            self.log,
            self.stats,
        )
        pusher.many_policies = len(self.cluster.policies) > 1
        return pusher

    def begin(self, scope: Scope) -> None:
        self._queues.clear()
        self._at_end = False
        super().begin(scope)

    def end(self, scope: Scope, tally: Tally) -> None:
        # Queue databases took entries while others were visited; only now may those go
        # that are no primary's.
        self._at_end = True
        for found in list(self._queues.values()):
            try:
                self.handle(found)
            except SwiftError as error:
                self.log.error("%s; db: %s", error, found.path)
        super().end(scope, tally)

    # --- After the peers --------------------------------------------------------------

    def after_pushes(
        self, visit: Visit, broker: AnyBroker, pushes: Sequence[Push]
    ) -> None:
        assert isinstance(broker, ContainerBroker), "containers have container brokers"
        if visit.label.startswith(f"{QUEUE_ACCOUNT}/"):
            self._queues.setdefault(visit.found.path, visit.found)
            return
        stat = green.in_thread(self._keep_link, broker)
        if len(self.cluster.policies) > 1:
            self._enqueue_misplaced(broker, stat, pushes)

    def _keep_link(self, broker: ContainerBroker) -> ContainerStat:
        """The facts, once the link of a synced container is mended. Blocks.

        A peer may have told that it is synced. Of a copy that is removed later the link
        goes with the sync daemon.
        """
        stat = broker.stat()
        try:
            self._sync_store.update(broker, stat)
        except (OSError, DatabaseMissing) as error:
            self.log.error("sync link of %s: %s", broker.path, error)
        return stat

    def may_remove(self, visit: Visit, broker: AnyBroker) -> bool:
        assert isinstance(broker, ContainerBroker), "containers have container brokers"
        if visit.label.startswith(f"{QUEUE_ACCOUNT}/") and not self._at_end:
            return False
        return not green.in_thread(broker.needs_sharding)

    # --- Misplaced rows ---------------------------------------------------------------

    def _enqueue_misplaced(
        self, broker: ContainerBroker, stat: ContainerStat, pushes: Sequence[Push]
    ) -> None:
        """Put rows of another policy into the reconciler's queue. Yields.

        The point moves only when most replicas have the rows: one of them that lags
        behind would else be asked about rows that nobody else enqueues.
        """
        last = green.in_thread(broker.max_row)
        point = stat.reconciler_sync_point
        if point >= last:
            return
        root_path = f"/{green.in_thread(broker.root_path)}"
        while rows := green.in_thread(
            broker.misplaced_rows, point, self.config.per_diff
        ):
            self._enqueue(root_path, rows)
            point = rows[-1]["ROWID"]
        succeeded = sum(push.succeeded for push in pushes)
        if succeeded >= majority_size(len(pushes)):
            policy = stat.storage_policy_index
            green.in_thread(broker.update_reconciler_point, last, policy)

    def _enqueue(self, root_path: str, rows: Sequence[dict[str, Any]]) -> None:
        by_container: dict[str, list[ObjectRow]] = {}
        for row in rows:
            container = queue_container(row["created_at"])
            by_container.setdefault(container, []).append(queue_row(root_path, row))
        for container, entries in by_container.items():
            queue = self._queue(container, entries[0])
            green.in_thread(queue.merge_rows, entries)

    def _queue(self, container: str, entry: ObjectRow) -> ContainerBroker:
        """This node's database of a queue container, made when it is not there."""
        name = ContainerName(QUEUE_ACCOUNT, container)
        digest = self.cluster.salt.digest_of(name)
        ring = self.ring
        partition = ring.partition(digest)
        mine = {device.id: device.name for device in self._own.values()}
        usable = set(self.local.usable(mine.values()))
        nodes = [*ring.primaries(partition), *ring.handoffs(partition)]
        device = next(
            (mine[node.id] for node in nodes if mine.get(node.id) in usable),
            # A device that is drained has no place in the ring any more.
            min(usable, default=None),
        )
        if device is None:
            raise SwiftError("no usable device of this node for the queue")
        path_hash = digest.hex()
        path = db_path(
            self.local.devices.root, device, "containers", partition, path_hash
        )
        broker = ContainerBroker(self.local.databases, path, name)
        if green.in_thread(broker.exists):
            self.metrics.increment("reconciler_db_exists")
        else:
            with suppress(DatabaseExists):
                green.in_thread(broker.create, decode_triple(entry.created_at)[2], 0)
            self.metrics.increment("reconciler_db_created")
        self._queues[path] = FoundDatabase(device, partition, path_hash, path)
        return broker
