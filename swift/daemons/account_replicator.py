# SPDX-License-Identifier: Apache-2.0
"""The account replicator: the pass over account databases (contract daemons §3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from swift.core.settings import option
from swift.daemons.db_replication import DbReplicatorConfig
from swift.daemons.db_replicator import DatabaseReplicator
from swift.daemons.rsync import module_template


@dataclass(frozen=True)
class AccountReplicatorConfig(DbReplicatorConfig):
    """[account-replicator] of account-server.conf."""

    bind_port: int = option(6202, doc="Port of this node's account server.")
    rsync_module: str = option(
        "{replication_ip}::account",
        parse=module_template,
        doc="Module of a peer's rsync daemon, with placeholders.",
    )


class AccountReplicator(DatabaseReplicator):
    """Brings every copy of every account together."""

    section: ClassVar[str] = "account-replicator"
    kind: ClassVar[str] = "account"
    Config: ClassVar[type[DbReplicatorConfig]] = AccountReplicatorConfig
