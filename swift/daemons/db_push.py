# SPDX-License-Identifier: Apache-2.0
"""Bringing one database to one peer: a sync call, then rows or the whole file.

A peer that has no database can only be given the whole file: no call of the protocol
makes one. So where rsync or the peer's rsync daemon is missing, such a push fails, is
logged and counted, and the copy here stays. A peer that is merely far behind then gets
rows instead, `max_diffs` batches a pass.

Rules: contracts daemons §3, backend-http §9 and §10. Captured traffic of OpenStack
Swift: test/interop/test_interop_db_replicator.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from math import ceil
from typing import Any

from swift.core.db_sync import PeerAnswer, Step, next_step
from swift.core.errors import FormatError, InvalidInput, PeerError
from swift.core.headers import CONTENT_TYPE
from swift.core.ring.devices import Node
from swift.daemons.databases import AnyBroker
from swift.daemons.db_replication import (
    DbReplicatorConfig,
    Push,
    ReplicationStats,
    Visit,
)
from swift.daemons.rsync import is_remote, module_of, run_rsync
from swift.runtime import green
from swift.runtime.logs import Logger
from swift.storage.db import sync
from swift.storage.db.connection import Databases
from swift.wire.client import ConnectionPool
from swift.wire.direct import DirectClient, DirectError

MERGE_ROWS_A_SECOND = 2000
"""How fast a peer is expected to merge rows into a copied file."""

RSYNC_LIMIT_S = 3600.0
"""The longest that the copy of one file may take, whatever its size."""

_SYNC_NAMES = (
    "max_row",
    "hash",
    "id",
    "created_at",
    "put_timestamp",
    "delete_timestamp",
    "metadata",
)
_TMP = "tmp"
_JSON = (CONTENT_TYPE, "application/json")


class Pusher:
    """Pushes databases of one kind to peers.

    agent: who calls, for the peers' logs. stats: of the pass that is running.
    """

    def __init__(
        self,
        config: DbReplicatorConfig,
        agent: str,
        databases: Databases,
        pool: ConnectionPool,
        log: Logger,
        stats: ReplicationStats,
    ) -> None:
        self.config = config
        self.databases = databases
        self.log = log
        self.stats = stats
        self._agent = agent
        self._pool = pool
        self._peers = self._client(config.node_timeout_s)

    def _client(self, timeout_s: float) -> DirectClient:
        return DirectClient(
            self._pool,
            user_agent=self._agent,
            conn_timeout_s=self.config.conn_timeout_s,
            response_timeout_s=timeout_s,
        )

    def push(
        self, visit: Visit, broker: AnyBroker, info: dict[str, Any], node: Node
    ) -> Push:
        push = Push(node)
        where = f"{node.replication_ip}:{node.replication_port}/{node.name}"
        tail = f"path: {visit.label}, db: {visit.found.path}"
        try:
            push.succeeded = self._converse(visit, broker, info, node)
        except DirectError as error:
            push.unmounted = error.status == 507
            if push.unmounted:
                self.log.error("remote drive not mounted: %s; %s", where, tail)
            else:
                self.log.error("bad response %d from %s; %s", error.status, where, tail)
        except PeerError as error:
            self.log.error("%s; %s", error, tail)
        except (FormatError, InvalidInput, ValueError) as error:
            self.log.error("%s answered nonsense: %s; %s", where, error, tail)
        return push

    def _converse(
        self, visit: Visit, broker: AnyBroker, info: dict[str, Any], node: Node
    ) -> bool:
        try:
            found = self.call(visit, node, "sync", *self.sync_arguments(info))
        except DirectError as error:
            if error.status != 404:
                raise
            return self._give_whole_file(visit, broker, info, node)
        answer = PeerAnswer.from_json(found)
        outgoing = green.in_thread(_take, broker, answer)
        if self.exchange_ranges(visit, broker, node, answer):
            return True
        step = next_step(
            max_row=info["max_row"],
            own_hash=info["hash"],
            outgoing=outgoing,
            answer=answer,
            per_diff=self.config.per_diff,
        )
        if step is Step.NOTHING:
            self.stats.count("no_change")
            return True
        if step is Step.REMEMBER:
            self.stats.count("hashmatch")
            self._remember(broker, answer.id, info["max_row"])
            return True
        if step is Step.WHOLE_FILE and self._give_far_behind(visit, broker, info, node):
            return True
        return self._give_rows(visit, broker, info, node, answer, outgoing)

    def sync_arguments(self, info: dict[str, Any]) -> list[Any]:
        """The arguments of a sync call about our copy."""
        return [info[name] for name in _SYNC_NAMES]

    def exchange_ranges(
        self, visit: Visit, broker: AnyBroker, node: Node, answer: PeerAnswer
    ) -> bool:
        """A hook: exchange shard ranges; True when rows must not be exchanged."""
        return False

    def call(self, visit: Visit, node: Node, operation: str, *arguments: Any) -> Any:
        """The JSON that a peer answers, None for none. Raises PeerError. Yields."""
        return self._call(self._peers, visit, node, operation, arguments)

    def _call(
        self,
        peers: DirectClient,
        visit: Visit,
        node: Node,
        operation: str,
        arguments: Sequence[Any],
    ) -> Any:
        answer = peers.replicate(
            node,
            visit.partition,
            visit.found.path_hash,
            [_JSON],
            json.dumps([operation, *arguments]).encode(),
        )
        if operation not in ("sync", "get_shard_ranges"):
            return None
        try:
            return answer.json()
        except RecursionError as error:
            raise FormatError(f"{operation} answer", "is nested too deep") from error

    def _remember(self, broker: AnyBroker, peer_id: str, row: int) -> None:
        green.in_thread(broker.merge_syncs, [(peer_id, row)], incoming=False)

    def _give_rows(
        self,
        visit: Visit,
        broker: AnyBroker,
        info: dict[str, Any],
        node: Node,
        answer: PeerAnswer,
        outgoing: int,
    ) -> bool:
        """Send the rows that the peer lacks, in order; True when all went."""
        self.stats.count("diff")
        point, per_diff = max(answer.point, outgoing), self.config.per_diff
        for _ in range(self.config.max_diffs):
            rows = green.in_thread(broker.rows_since, point, per_diff)
            if rows:
                self.call(visit, node, "merge_items", rows, info["id"])
                point = rows[-1]["ROWID"]
            if len(rows) < per_diff:
                break
        else:
            if green.in_thread(broker.rows_since, point, 1):
                self.log.debug("%s: more rows wait for the next pass", visit.label)
                self.stats.count("diff_capped")
                return False
        self.call(visit, node, "merge_syncs", green.in_thread(broker.syncs))
        self._remember(broker, answer.id, max(point, info["max_row"]))
        return True

    # --- Whole files ------------------------------------------------------------------

    def _give_whole_file(
        self, visit: Visit, broker: AnyBroker, info: dict[str, Any], node: Node
    ) -> bool:
        """Copy our file to a peer that has none, and have it put in place."""
        path = green.in_thread(self.databases.files, broker.path).fresh
        self.stats.count("rsync")
        if not self._copy(visit, broker, path, info["id"], node):
            return False
        self.call(visit, node, "complete_rsync", info["id"], _base(path))
        return True

    def _give_far_behind(
        self, visit: Visit, broker: AnyBroker, info: dict[str, Any], node: Node
    ) -> bool:
        """Copy our file to a peer that merges its few rows into it."""
        path = green.in_thread(self.databases.files, broker.path).fresh
        self.stats.count("remote_merge")
        if not self._copy(visit, broker, path, info["id"], node):
            return False
        timeout_s = max(
            self.config.node_timeout_s, (info["count"] or 0) / MERGE_ROWS_A_SECOND
        )
        arguments = (info["id"], _base(path))
        self._call(self._client(timeout_s), visit, node, "rsync_then_merge", arguments)
        return True

    def _copy(
        self, visit: Visit, broker: AnyBroker, path: str, database_id: str, node: Node
    ) -> bool:
        """Copy a file that others may be writing to. Yields."""
        module = module_of(self.config.rsync_module, node.device)
        target = f"{module}/{node.name}/{_TMP}/{database_id}"
        arguments = self.rsync_arguments(visit, node, target)
        before = green.in_thread(self.databases.state_of_file, path)
        if not self._rsync([*arguments, path, target]):
            return False
        after = green.in_thread(self.databases.state_of_file, path)
        if after == before and not after[2]:
            return True
        # Written to meanwhile: what differs is copied once more while nobody can write.
        again = [item for item in arguments if item != "--whole-file"]
        lock: AbstractContextManager[object] = broker.writing()
        green.in_thread(lock.__enter__)
        try:
            return self._rsync([*again, path, target])
        finally:
            green.in_thread(lock.__exit__, None, None, None)

    def rsync_arguments(self, visit: Visit, node: Node, target: str) -> list[str]:
        """What rsync is called with, before the file and its target."""
        arguments = [
            "--quiet",
            "--no-motd",
            f"--timeout={ceil(self.config.node_timeout_s)}",
        ]
        if is_remote(target):
            arguments.append(f"--contimeout={ceil(self.config.conn_timeout_s)}")
        arguments.append("--whole-file")
        if self.config.rsync_compress and node.region != visit.own.region:
            arguments.append("--compress")
        return arguments

    def _rsync(self, arguments: Sequence[str]) -> bool:
        outcome = run_rsync(arguments, RSYNC_LIMIT_S)
        if not outcome.succeeded:
            self.log.error(
                "rsync exited with %d: %s: %s",
                outcome.code,
                " ".join(outcome.argv),
                "; ".join(outcome.lines),
            )
        return outcome.succeeded


def _take(broker: AnyBroker, answer: PeerAnswer) -> int:
    """Merge what an answer knows better; the row up to which the peer has ours."""
    sync.merge_answer(broker, answer)
    return broker.sync_point(answer.id, incoming=False)


def _base(path: str) -> str:
    return path.rpartition("/")[2]
