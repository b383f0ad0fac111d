# SPDX-License-Identifier: Apache-2.0
"""The container updater: accounts are told what their containers hold.

A container whose times or counts are not those last reported is reported to every
primary of its account; a majority that took it settles the matter. Accounts that did
not take a report are left alone for a while.

Rules: contract daemons §5. Captured traffic: golden/wire/container-updater.json.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from swift.core.errors import (
    Corrupt,
    DatabaseMissing,
    LockTimeout,
    PeerError,
    Unavailable,
)
from swift.core.headers import (
    CONTENT_LENGTH,
    X_ACCOUNT_OVERRIDE_DELETED,
    X_BACKEND_STORAGE_POLICY_INDEX,
    X_BYTES_USED,
    X_DELETE_TIMESTAMP,
    X_OBJECT_COUNT,
    X_PUT_TIMESTAMP,
)
from swift.core.names import AccountName, ContainerName
from swift.core.quorum import majority_size
from swift.core.ring.devices import Node
from swift.core.settings import option, positive_int, seconds
from swift.daemons.databases import LocalDatabases, in_turn
from swift.runtime import green
from swift.runtime.daemon import Daemon, DaemonConfig, Frame, Scope, Tally
from swift.runtime.recon import update_cache
from swift.storage.db.container import ContainerBroker, ContainerStat
from swift.storage.db.walk import FoundDatabase
from swift.wire.client import ConnectionPool
from swift.wire.direct import DirectClient, DirectError

SUPPRESSED_MAX = 100_000
"""Accounts that are remembered as not taking reports."""


@dataclass(frozen=True)
class ContainerUpdaterConfig(DaemonConfig):
    """[container-updater] of container-server.conf."""

    interval_s: float = option(
        300.0, name="interval", parse=seconds, doc="Least time between passes' starts."
    )
    bind_port: int = option(6201, doc="Port of this node's container server.")
    reports_at_once: int = option(
        4, name="concurrency", parse=positive_int, doc="Containers reported at once."
    )
    containers_per_second: float = option(
        50.0, parse=seconds, doc="Containers looked at a second; 0 for no limit."
    )
    slowdown_s: float = option(
        0.0,
        name="slowdown",
        parse=seconds,
        doc="Old way to slow down: time between two containers.",
    )
    node_timeout_s: float = option(
        3.0, name="node_timeout", parse=seconds, doc="How long a node may be silent."
    )
    conn_timeout_s: float = option(
        0.5, name="conn_timeout", parse=seconds, doc="How long connecting may take."
    )
    account_suppression_time_s: float = option(
        60.0,
        name="account_suppression_time",
        parse=seconds,
        doc="How long an account is left alone that did not take a report.",
    )

    @property
    def per_second(self) -> float:
        """Containers a second, by whichever of the options was given."""
        if self.slowdown_s and self.containers_per_second == 50.0:
            return 1.0 / (self.slowdown_s + 0.01)
        return self.containers_per_second


class ContainerUpdater(Daemon[FoundDatabase]):
    """Reports the containers of this node."""

    section: ClassVar[str] = "container-updater"
    Config: ClassVar[type[ContainerUpdaterConfig]] = ContainerUpdaterConfig
    config: ContainerUpdaterConfig

    def __init__(
        self, config: Any, frame: Frame, pool: ConnectionPool | None = None
    ) -> None:
        super().__init__(config, frame)
        self.local = LocalDatabases("container", config, frame.log)
        self.pool = pool or ConnectionPool()
        self.accounts = DirectClient(
            self.pool,
            user_agent=self.section,
            conn_timeout_s=config.conn_timeout_s,
            response_timeout_s=config.node_timeout_s,
        )
        self._suppressed: dict[str, float] = {}
        self._began = green.now()
        self.successes = self.failures = self.no_changes = 0

    @property
    def concurrency(self) -> int:
        return self.config.reports_at_once

    @property
    def jobs_per_second(self) -> float:
        return self.config.per_second

    def begin(self, scope: Scope) -> None:
        self.log.info("%s: begin a sweep", self.section)
        self._began = green.now()
        self.successes = self.failures = self.no_changes = 0

    def jobs(self, scope: Scope) -> Iterable[FoundDatabase]:
        names = self.local.devices.names()
        if scope.devices:
            names = [name for name in names if name in scope.devices]
        return in_turn(
            self.local.on_device(name, scope, shuffle=True)
            for name in self.local.usable(names)
        )

    def handle(self, job: FoundDatabase) -> None:
        broker = ContainerBroker(self.local.databases, job.path)
        started = green.now()
        try:
            stat, is_root = green.in_thread(_look, broker)
            self._visit(job, broker, stat, is_root=is_root)
        except (DatabaseMissing, LockTimeout):
            # Removed meanwhile, or busy: the next sweep looks again.
            return
        except (Corrupt, Unavailable) as error:
            self.failures += 1
            self.metrics.increment("failures")
            self.log.error("%s; db: %s", error, job.path)
        finally:
            self.metrics.timing_since("timing", started)

    def end(self, scope: Scope, tally: Tally) -> None:
        elapsed = green.now() - self._began
        self.log.info(
            "%s: sweep over in %.2f seconds: %d successes, %d failures, %d unchanged",
            self.section,
            elapsed,
            self.successes,
            self.failures,
            self.no_changes,
        )
        self.pool.close()
        update_cache(
            f"{self.config.recon_cache_path}/container.recon",
            {"container_updater_sweep": elapsed},
            self.log,
        )

    # --- One container ----------------------------------------------------------------

    def _visit(
        self,
        job: FoundDatabase,
        broker: ContainerBroker,
        stat: ContainerStat,
        *,
        is_root: bool,
    ) -> None:
        # Made by a server for itself (an expirer queue): its put time is not set, and
        # the account hears of it with the first real PUT.
        if not stat.put_timestamp.strip("0."):
            return
        if self._suppressed.get(stat.account, 0.0) > green.now():
            return
        count, size = stat.object_count, stat.bytes_used
        if not is_root:
            # What is in a shard is reported by its root.
            count = size = 0
        if not is_due(stat, count, size):
            self.no_changes += 1
            self.metrics.increment("no_changes")
            return
        statuses = self._report(stat, count, size)
        taken = sum(status // 100 == 2 for status in statuses)
        if taken >= majority_size(len(statuses)):
            self.successes += 1
            self.metrics.increment("successes")
            green.in_thread(
                broker.reported, stat.put_timestamp, stat.delete_timestamp, count, size
            )
            return
        self.failures += 1
        self.metrics.increment("failures")
        if statuses and all(status == 404 for status in statuses):
            green.in_thread(
                self.local.databases.quarantine,
                job.path,
                f"no replica of account {stat.account} exists",
            )
            return
        self.log.debug(
            "account %s took %d of %d reports", stat.account, taken, len(statuses)
        )
        self._suppress(stat.account)

    def _suppress(self, account: str) -> None:
        now = green.now()
        if len(self._suppressed) >= SUPPRESSED_MAX:
            self._suppressed = {
                name: until for name, until in self._suppressed.items() if until > now
            }
        self._suppressed[account] = now + self.config.account_suppression_time_s

    def _report(self, stat: ContainerStat, count: int, size: int) -> list[int]:
        """Tell every primary of the account at once; their statuses. Yields."""
        ring = self.cluster.account_ring()
        account = AccountName(stat.account)
        partition = ring.partition(self.cluster.salt.digest_of(account))
        name = ContainerName(stat.account, stat.container)
        headers = [
            (X_PUT_TIMESTAMP, stat.put_timestamp),
            (X_DELETE_TIMESTAMP, stat.delete_timestamp),
            (X_OBJECT_COUNT, str(count)),
            (X_BYTES_USED, str(size)),
            (X_ACCOUNT_OVERRIDE_DELETED, "yes"),
            (X_BACKEND_STORAGE_POLICY_INDEX, str(stat.storage_policy_index)),
            (CONTENT_LENGTH, "0"),
        ]
        threads = [
            green.spawn(self._tell, node, partition, name, headers)
            for node in ring.primaries(partition)
        ]
        return [thread.wait() for thread in threads]

    def _tell(
        self,
        node: Node,
        partition: int,
        name: ContainerName,
        headers: list[tuple[str, str]],
    ) -> int:
        """The status of one account server; 500 when it gives none. Yields."""
        try:
            return self.accounts.put(node, partition, name, headers).status
        except DirectError as error:
            return error.status
        except PeerError as error:
            self.log.error("%s; container %s", error, name.path)
            return 500


def _look(broker: ContainerBroker) -> tuple[ContainerStat, bool]:
    """A container's facts, and whether it is no shard."""
    return broker.stat(), broker.is_root()


def is_due(stat: ContainerStat, count: int, size: int) -> bool:
    """True when the account does not know what is so: times by text, newer only."""
    return (
        stat.put_timestamp > stat.reported_put_timestamp
        or stat.delete_timestamp > stat.reported_delete_timestamp
        or count != stat.reported_object_count
        or size != stat.reported_bytes_used
    )
