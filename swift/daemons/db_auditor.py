# SPDX-License-Identifier: Apache-2.0
"""The auditors of databases: every account and container is opened and checked.

A database that SQLite cannot read is moved aside by its broker, and a replicator
brings it back from a peer. Deleted databases are passed over. Rules: contract daemons
§2 and §15.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from swift.core.errors import Corrupt, DatabaseMissing, SwiftError, Unavailable
from swift.core.settings import option, seconds
from swift.daemons.databases import AnyBroker, LocalDatabases
from swift.runtime import green
from swift.runtime.daemon import Daemon, DaemonConfig, Frame, Scope, Tally
from swift.runtime.recon import update_cache
from swift.storage.db.account import AccountBroker
from swift.storage.db.container import ContainerBroker
from swift.storage.db.walk import FoundDatabase

REPORT_S = 3600.0
"""Counts are told and begun anew once an hour."""


class WrongTotals(SwiftError):
    """An account whose totals are not the sums of its policies."""


@dataclass(frozen=True)
class AuditorConfig(DaemonConfig):
    """Options of both database auditors."""

    interval_s: float = option(
        1800.0, name="interval", parse=seconds, doc="Least time between passes' starts."
    )
    per_second: float = option(
        200.0, parse=seconds, doc="Databases checked a second; 0 for no limit."
    )


@dataclass(frozen=True)
class AccountAuditorConfig(AuditorConfig):
    """[account-auditor] of account-server.conf."""

    per_second: float = option(
        200.0,
        name="accounts_per_second",
        parse=seconds,
        doc="Accounts checked a second; 0 for no limit.",
    )


@dataclass(frozen=True)
class ContainerAuditorConfig(AuditorConfig):
    """[container-auditor] of container-server.conf."""

    per_second: float = option(
        200.0,
        name="containers_per_second",
        parse=seconds,
        doc="Containers checked a second; 0 for no limit.",
    )


@dataclass
class _Counts:
    since: float
    passed: int = 0
    failed: int = 0


class DatabaseAuditor(Daemon[FoundDatabase]):
    """The part that accounts and containers have in common."""

    kind: ClassVar[str]
    Config: ClassVar[type[AuditorConfig]] = AuditorConfig
    config: AuditorConfig

    def __init__(self, config: Any, frame: Frame) -> None:
        super().__init__(config, frame)
        self.local = LocalDatabases(self.kind, config, frame.log)
        self._counts = _Counts(green.now())
        self._began = green.now()

    @property
    def jobs_per_second(self) -> float:
        return self.config.per_second

    @property
    def progress_s(self) -> float:
        return REPORT_S

    def begin(self, scope: Scope) -> None:
        self.log.info("%s: begin a pass", self.section)
        self._began = green.now()

    def jobs(self, scope: Scope) -> Iterable[FoundDatabase]:
        names = self.local.devices.names()
        if scope.devices:
            names = [name for name in names if name in scope.devices]
        for name in self.local.usable(names):
            yield from self.local.on_device(name, scope)

    def handle(self, job: FoundDatabase) -> None:
        started = green.now()
        try:
            checked = green.in_thread(self.audit, self.local.open(job))
        except DatabaseMissing:
            return
        except (Corrupt, WrongTotals) as error:
            self._counts.failed += 1
            self.metrics.increment("failures")
            self.log.error("audit failed: %s: %s", job.path, error)
        except Unavailable as error:
            # Not read in time, or a device that is going: nothing is wrong with it.
            self._counts.failed += 1
            self.metrics.increment("errors")
            self.log.error("cannot audit %s: %s", job.path, error)
        else:
            if checked:
                self._counts.passed += 1
                self.metrics.increment("passes")
        finally:
            self.metrics.timing_since("timing", started)
            if green.now() - self._counts.since >= REPORT_S:
                self._report()

    def audit(self, broker: AnyBroker) -> bool:
        """True when the database is sound, False when there is nothing to check.

        Blocks. Raises Corrupt and WrongTotals.
        """
        raise NotImplementedError

    def progress(self, tally: Tally) -> None:
        """Counts are told by the hour, not by the pass."""

    def end(self, scope: Scope, tally: Tally) -> None:
        elapsed = green.now() - self._began
        self.log.info("%s: pass over in %.2f seconds", self.section, elapsed)
        self._write_recon({f"{self.kind}_auditor_pass_completed": elapsed})

    def _report(self) -> None:
        counts, self._counts = self._counts, _Counts(green.now())
        self.log.info(
            "%s: since %d: %d passed, %d failed",
            self.section,
            counts.since,
            counts.passed,
            counts.failed,
        )
        self._write_recon(
            {
                f"{self.kind}_audits_since": counts.since,
                f"{self.kind}_audits_passed": counts.passed,
                f"{self.kind}_audits_failed": counts.failed,
            }
        )

    def _write_recon(self, updates: dict[str, Any]) -> None:
        path = f"{self.config.recon_cache_path}/{self.kind}.recon"
        update_cache(path, updates, self.log)


class AccountAuditor(DatabaseAuditor):
    """Checks that the totals of accounts are the sums of their policies."""

    section: ClassVar[str] = "account-auditor"
    kind: ClassVar[str] = "account"
    Config: ClassVar[type[AuditorConfig]] = AccountAuditorConfig

    def audit(self, broker: AnyBroker) -> bool:
        assert isinstance(broker, AccountBroker), "accounts have account brokers"
        stat = broker.stat()
        if stat.is_deleted:
            return False
        policies = broker.policy_stats()
        totals = (stat.container_count, stat.object_count, stat.bytes_used)
        sums = (
            sum(policy.container_count for policy in policies),
            sum(policy.object_count for policy in policies),
            sum(policy.bytes_used for policy in policies),
        )
        for name, total, found in zip(
            ("container_count", "object_count", "bytes_used"), totals, sums, strict=True
        ):
            if total != found:
                raise WrongTotals(
                    f"account {stat.account}: {name} is {total}, "
                    f"the sum over its policies {found}"
                )
        return True


class ContainerAuditor(DatabaseAuditor):
    """Checks that containers can be read."""

    section: ClassVar[str] = "container-auditor"
    kind: ClassVar[str] = "container"
    Config: ClassVar[type[AuditorConfig]] = ContainerAuditorConfig

    def audit(self, broker: AnyBroker) -> bool:
        assert isinstance(broker, ContainerBroker), "containers have container brokers"
        return not broker.stat().is_deleted
