# SPDX-License-Identifier: Apache-2.0
"""Accounts in SQLite: container rows and totals. (Interface; bodies follow.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.core.listing import Entry, ListingQuery
from swift.core.names import AccountName
from swift.core.rows import ContainerRow
from swift.core.timestamp import Timestamp
from swift.storage.db.connection import Databases


@dataclass(frozen=True, slots=True)
class PolicyStat:
    """What an account holds in one policy."""

    storage_policy_index: int
    container_count: int
    object_count: int
    bytes_used: int


@dataclass(frozen=True, slots=True)
class AccountStat:
    """The facts of an account; times are text in internal form."""

    account: str
    created_at: str
    put_timestamp: str
    delete_timestamp: str
    status: str
    status_changed_at: str
    container_count: int
    object_count: int
    bytes_used: int
    hash: str
    id: str
    metadata_text: str

    @property
    def is_deleted(self) -> bool: ...
    @property
    def is_status_deleted(self) -> bool: ...
    @property
    def metadata(self) -> dict[str, tuple[str, str]]: ...


class AccountBroker:
    def __init__(
        self, databases: Databases, path: str, name: AccountName | None = None
    ) -> None: ...
    def exists(self) -> bool: ...
    def create(self, put_timestamp: Timestamp) -> None: ...
    def stat(self, *, stale_ok: bool = False) -> AccountStat: ...
    def policy_stats(self) -> list[PolicyStat]: ...
    def put_now(self, row: ContainerRow) -> bool: ...
    def put_container(self, row: ContainerRow) -> None: ...
    def list_containers(
        self, query: ListingQuery, *, allow_reserved: bool = False
    ) -> list[Entry]: ...
    def update_metadata(
        self, updates: Mapping[str, tuple[str, str]], limits: Any = None
    ) -> None: ...
    def update_put_timestamp(self, timestamp: str) -> None: ...
    def update_status_changed_at(self, timestamp: str) -> None: ...
    def delete(self, timestamp: str) -> None: ...
    def is_deleted(self) -> bool: ...
    def empty(self) -> bool: ...
    def merge_rows(
        self,
        rows: Sequence[ContainerRow],
        source: str | None = None,
        last_rowid: int = -1,
    ) -> None: ...
    def replication_info(self) -> dict[str, Any]: ...
