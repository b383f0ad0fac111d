# SPDX-License-Identifier: Apache-2.0
"""The account reaper: what deleted accounts hold is deleted, container by container.

Each primary of an account reaps the containers that fall to it by their names' hashes,
so the primaries share the work without talking. Whatever cannot be deleted stays for
the next pass; the emptied database is removed by the replicator in the end. Objects of
a sharded container are found through its shards, which hear of their deletion; the
container itself goes in a pass after they have reported that they are empty.

Rules: contract daemons §4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import md5
from itertools import cycle
from math import isqrt
from typing import Any, ClassVar

from swift.core.errors import (
    Corrupt,
    DatabaseMissing,
    FormatError,
    PeerError,
    SwiftError,
    Unavailable,
)
from swift.core.headers import (
    X_ACCOUNT_DEVICE,
    X_ACCOUNT_HOST,
    X_ACCOUNT_OVERRIDE_DELETED,
    X_ACCOUNT_PARTITION,
    X_BACKEND_QUOTED_CONTAINER_PATH,
    X_BACKEND_STORAGE_POLICY_INDEX,
    X_CONTAINER_DEVICE,
    X_CONTAINER_HOST,
    X_CONTAINER_PARTITION,
    X_CONTAINER_ROOT_DB_STATE,
    X_TIMESTAMP,
)
from swift.core.listing import ListingQuery
from swift.core.names import AccountName, ContainerName, ObjectName
from swift.core.ring.devices import Node, bracketed
from swift.core.ring.ring import Ring
from swift.core.settings import option, positive_int, seconds
from swift.core.timestamp import Timestamp
from swift.daemons.databases import LocalDatabases, local_devices
from swift.daemons.listed_objects import ObjectListing, Page
from swift.runtime import green
from swift.runtime.daemon import Daemon, DaemonConfig, Frame, Scope, Tally
from swift.storage.db.account import AccountBroker, AccountStat
from swift.storage.db.walk import FoundDatabase
from swift.wire.client import ConnectionPool
from swift.wire.direct import DirectClient, DirectError

PAGE = 1000
"""Containers of one replica's share that are read at once."""

_OUTCOMES = ("deleted", "remaining", "possibly_remaining")


@dataclass(frozen=True)
class AccountReaperConfig(DaemonConfig):
    """[account-reaper] of account-server.conf."""

    interval_s: float = option(
        3600.0, name="interval", parse=seconds, doc="Least time between passes' starts."
    )
    bind_port: int = option(6202, doc="Port of this node's account server.")
    calls_at_once: int = option(
        25,
        name="concurrency",
        parse=positive_int,
        doc="Objects deleted at once: its root of containers, its root of objects.",
    )
    node_timeout_s: float = option(
        10.0, name="node_timeout", parse=seconds, doc="How long a node may be silent."
    )
    conn_timeout_s: float = option(
        0.5, name="conn_timeout", parse=seconds, doc="How long connecting may take."
    )
    delay_reaping_s: float = option(
        0.0,
        name="delay_reaping",
        parse=seconds,
        doc="How long a deleted account is left as it is.",
    )
    reap_warn_after_s: float = option(
        2592000.0,
        name="reap_warn_after",
        parse=seconds,
        doc="Warn of an account that holds containers so long after it could go.",
    )


class AccountReaper(Daemon[FoundDatabase]):
    """Empties the deleted accounts of which this node has a primary copy."""

    section: ClassVar[str] = "account-reaper"
    kind: ClassVar[str] = "account"
    Config: ClassVar[type[AccountReaperConfig]] = AccountReaperConfig
    config: AccountReaperConfig

    def __init__(
        self, config: Any, frame: Frame, pool: ConnectionPool | None = None
    ) -> None:
        super().__init__(config, frame)
        self.local = LocalDatabases("account", config, frame.log)
        self.pool = pool or ConnectionPool()
        self.nodes = DirectClient(
            self.pool,
            user_agent=self.section,
            conn_timeout_s=config.conn_timeout_s,
            response_timeout_s=config.node_timeout_s,
        )
        self._own: dict[str, int] = {}
        self._began = green.now()

    # --- The pass ---------------------------------------------------------------------

    def begin(self, scope: Scope) -> None:
        self._began = green.now()
        self.log.debug("%s: begin devices pass", self.section)
        ring = self.cluster.account_ring()
        self._own = {
            device.name: device.id
            for device in local_devices(ring, self.config, by_replication=False)
        }

    def jobs(self, scope: Scope) -> Iterable[FoundDatabase]:
        ring = self.cluster.account_ring()
        for name in self.local.usable(self._own):
            wanted = partial(self._is_primary, ring, self._own[name])
            yield from self.local.on_device(name, scope, wanted=wanted)

    @staticmethod
    def _is_primary(ring: Ring, device_id: int, partition: int) -> bool:
        if partition >= ring.partition_count:
            return False
        return any(node.id == device_id for node in ring.primaries(partition))

    def handle(self, job: FoundDatabase) -> None:
        started = green.now()
        broker = AccountBroker(self.local.databases, job.path)
        try:
            stat = green.in_thread(broker.stat)
            if not stat.is_status_deleted or not stat.container_count:
                return
            if green.now() - _time_of(stat) <= self.config.delay_reaping_s:
                return
            self._reap(job, broker, stat)
        except DatabaseMissing:
            return
        except (Corrupt, Unavailable) as error:
            self.metrics.increment("errors")
            self.log.error("%s; db: %s", error, job.path)
        finally:
            self.metrics.timing_since("timing", started)

    def end(self, scope: Scope, tally: Tally) -> None:
        self.pool.close()
        elapsed = green.now() - self._began
        self.log.info("%s: devices pass over in %.2f seconds", self.section, elapsed)

    # --- One account ------------------------------------------------------------------

    def _reap(
        self, job: FoundDatabase, broker: AccountBroker, stat: AccountStat
    ) -> None:
        """Reap this node's share of an account's containers. Yields."""
        began = green.now()
        self.log.info("begin reaping account %s", stat.account)
        nodes = self.cluster.account_ring().primaries(job.partition)
        own_id = self._own[job.device]
        own_index = [node.id for node in nodes].index(own_id)
        reaping = _Reaping(self, AccountName(stat.account), job.partition, nodes)
        pool = green.Pool(max(1, isqrt(self.config.calls_at_once)))
        try:
            for container in self._containers(broker, len(nodes)):
                if share_of(container, len(nodes)) == own_index:
                    pool.spawn(reaping.reap_container, container)
            pool.wait_all()
        finally:
            pool.kill_all()
        self.log.info(
            "completed reaping account %s: %s, elapsed %.2fs",
            stat.account,
            reaping.line,
            green.now() - began,
        )
        waited = began - _time_of(stat)
        patience = self.config.reap_warn_after_s + self.config.delay_reaping_s
        if waited >= patience and reaping.has_left_containers:
            self.log.warning(
                "account %s has not been reaped since %s",
                stat.account,
                Timestamp.parse(stat.delete_timestamp).iso,
            )

    def _containers(self, broker: AccountBroker, replicas: int) -> Iterator[str]:
        """The names of the account's containers, a page at a time. Yields."""
        limit, marker = PAGE * replicas, ""
        while True:
            query = ListingQuery(limit, marker=marker)
            page = green.in_thread(broker.list_containers, query, allow_reserved=True)
            for entry in page:
                yield entry[0]
            if len(page) < limit:
                return
            marker = page[-1][0]


class _Reaping:
    """The deletion of what one account holds, and what came of it."""

    def __init__(
        self,
        reaper: AccountReaper,
        account: AccountName,
        partition: int,
        nodes: Iterable[Node],
    ) -> None:
        self._reaper = reaper
        self._account = account
        self._partition = partition
        self._nodes = tuple(nodes)
        self._counts: Counter[str] = Counter()
        self._codes: Counter[int] = Counter()

    @property
    def has_left_containers(self) -> bool:
        """True when containers are, or may be, still there."""
        counts = self._counts
        return bool(
            counts["containers_remaining"] or counts["containers_possibly_remaining"]
        )

    @property
    def line(self) -> str:
        """All tallies, for the log."""
        words = [
            f"{self._counts[f'{what}_{outcome}']} {what} {outcome.replace('_', ' ')}"
            for what in ("containers", "objects")
            for outcome in _OUTCOMES
        ]
        codes = [f"{self._codes[code]} {code}xxs" for code in sorted(self._codes)]
        return ", ".join([*words, "return codes: " + (", ".join(codes) or "none")])

    def reap_container(self, container: str) -> None:
        """Delete a container's objects and then itself; never raises. Yields."""
        name = ContainerName(self._account.account, container)
        try:
            self._reap(name)
        except SwiftError as error:
            self._reaper.log.error("container %s is left: %s", name.path, error)
            self._reaper.metrics.increment("errors")

    def _reap(self, name: ContainerName) -> None:
        reaper = self._reaper
        ring = reaper.cluster.container_ring()
        partition = ring.partition(reaper.cluster.salt.digest_of(name))
        nodes = ring.primaries(partition)
        self._reap_objects(name)
        successes = failures = 0
        for node, told in zip(nodes, cycle(self._nodes), strict=False):
            headers = [
                (X_ACCOUNT_HOST, f"{bracketed(told.ip)}:{told.port}"),
                (X_ACCOUNT_PARTITION, str(self._partition)),
                (X_ACCOUNT_DEVICE, told.name),
                (X_ACCOUNT_OVERRIDE_DELETED, "yes"),
            ]
            if self._delete(node, partition, name, headers):
                successes += 1
            else:
                failures += 1
                self._count("containers_failures")
        self._judge("containers", successes, failures)

    def _reap_objects(self, name: ContainerName) -> None:
        """Delete what the container lists; an error ends it. Yields."""
        pool = green.Pool(max(1, isqrt(self._reaper.config.calls_at_once)))
        listing = ObjectListing(
            self._reaper.nodes, self._reaper.cluster, lambda: self._code(2)
        )
        try:
            for page in listing.pages(name):
                for obj in page.names:
                    where = ObjectName(name.account, name.container, obj)
                    pool.spawn(self._reap_object, where, page)
                pool.wait_all()
        except DirectError as error:
            self._code(error.status)
            self._reaper.log.debug("listing of %s: %s", name.path, error)
        except (PeerError, FormatError, ValueError) as error:
            self._code(5)
            self._reaper.log.error("listing of %s: %s", name.path, error)
        finally:
            pool.kill_all()

    def _reap_object(self, name: ObjectName, page: Page) -> None:
        """Delete an object on all its primaries; never raises. Yields.

        page: of the databases that list it, which hear of it.
        """
        try:
            ring = self._reaper.cluster.object_ring(page.policy_index)
        except Unavailable as error:
            self._reaper.log.error("object %s is left: %s", name.path, error)
            return
        partition = ring.partition(self._reaper.cluster.salt.digest_of(name))
        successes = failures = 0
        nodes = ring.primaries(partition)
        for node, told in zip(nodes, cycle(page.nodes), strict=False):
            headers = [
                (X_CONTAINER_HOST, f"{bracketed(told.ip)}:{told.port}"),
                (X_CONTAINER_PARTITION, str(page.partition)),
                (X_CONTAINER_DEVICE, told.name),
                (X_BACKEND_STORAGE_POLICY_INDEX, str(page.policy_index)),
            ]
            if page.container != name.container_name:
                shard = page.container.quoted[1:]
                headers.append((X_BACKEND_QUOTED_CONTAINER_PATH, shard))
                headers.append((X_CONTAINER_ROOT_DB_STATE, page.db_state))
            if self._delete(node, partition, name, headers):
                successes += 1
            else:
                failures += 1
                self._count("objects_failures")
            # After each answer, as operators know these counters.
            self._judge("objects", successes, failures)

    def _delete(
        self,
        node: Node,
        partition: int,
        name: ContainerName | ObjectName,
        headers: list[tuple[str, str]],
    ) -> bool:
        """True when the node deleted it. Yields."""
        headers.append((X_TIMESTAMP, Timestamp.at(green.now()).internal))
        try:
            answer = self._reaper.nodes.delete(node, partition, name, headers)
        except DirectError as error:
            self._code(error.status)
            self._reaper.log.debug("%s", error)
            return False
        except PeerError as error:
            self._code(500)
            self._reaper.log.error("%s: %s", name.path, error)
            return False
        self._code(answer.status)
        return True

    def _judge(self, what: str, successes: int, failures: int) -> None:
        if successes > failures:
            self._count(f"{what}_deleted")
        elif not successes:
            self._count(f"{what}_remaining")
        else:
            self._count(f"{what}_possibly_remaining")

    def _count(self, name: str) -> None:
        self._counts[name] += 1
        self._reaper.metrics.increment(name)

    def _code(self, status: int) -> None:
        kind = status // 100 if status >= 100 else status
        self._codes[kind] += 1
        self._reaper.metrics.increment(f"return_codes.{kind}")


def share_of(container: str, replicas: int) -> int:
    """The index of the primary that reaps a container."""
    digest = md5(container.encode("utf-8"), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big") % replicas


def _time_of(stat: AccountStat) -> float:
    return Timestamp.parse(stat.delete_timestamp).seconds
