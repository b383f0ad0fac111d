# SPDX-License-Identifier: Apache-2.0
"""Accounts in SQLite: container rows and totals, by policy too.

Format: doc/source/formats/databases.md (databases contract 3). Golden: test/interop.
"""
# ruff: noqa: S608
# Statements are put together from names of columns that are written here.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from swift.core.listing import Entry, ListingQuery, Span, page
from swift.core.names import AccountName
from swift.core.rows import ContainerRow, merged_container
from swift.core.timestamp import Timestamp
from swift.storage.db.broker import (
    SYNC_SCHEMA,
    Broker,
    Layout,
    counts_deleted,
    sequences_of,
    span_condition,
)
from swift.storage.db.connection import (
    LOCK_TIMEOUT_S,
    DatabaseConnection,
    Databases,
    run_script,
)
from swift.storage.db.metadata import Metadata, parse_metadata

_ROW_TRIGGERS = """
CREATE TRIGGER container_insert AFTER INSERT ON container
BEGIN
    UPDATE account_stat
    SET container_count = container_count + (1 - new.deleted),
        object_count = object_count + new.object_count,
        bytes_used = bytes_used + new.bytes_used,
        hash = chexor(hash, new.name,
                      new.put_timestamp || '-' || new.delete_timestamp || '-' ||
                      new.object_count || '-' || new.bytes_used);
END;
CREATE TRIGGER container_update BEFORE UPDATE ON container
BEGIN
    SELECT RAISE(FAIL, 'UPDATE not allowed; DELETE and INSERT');
END;
CREATE TRIGGER container_delete AFTER DELETE ON container
BEGIN
    UPDATE account_stat
    SET container_count = container_count - (1 - old.deleted),
        object_count = object_count - old.object_count,
        bytes_used = bytes_used - old.bytes_used,
        hash = chexor(hash, old.name,
                      old.put_timestamp || '-' || old.delete_timestamp || '-' ||
                      old.object_count || '-' || old.bytes_used);
END;
"""
_POLICY_TRIGGERS = """
CREATE TRIGGER container_insert_ps AFTER INSERT ON container
BEGIN
    INSERT OR IGNORE INTO policy_stat
        (storage_policy_index, container_count, object_count, bytes_used)
        VALUES (new.storage_policy_index, 0, 0, 0);
    UPDATE policy_stat
    SET container_count = container_count + (1 - new.deleted),
        object_count = object_count + new.object_count,
        bytes_used = bytes_used + new.bytes_used
    WHERE storage_policy_index = new.storage_policy_index;
END;
CREATE TRIGGER container_delete_ps AFTER DELETE ON container
BEGIN
    UPDATE policy_stat
    SET container_count = container_count - (1 - old.deleted),
        object_count = object_count - old.object_count,
        bytes_used = bytes_used - old.bytes_used
    WHERE storage_policy_index = old.storage_policy_index;
END;
"""
_POLICY_STAT = """
CREATE TABLE policy_stat (
    storage_policy_index INTEGER PRIMARY KEY,
    container_count INTEGER DEFAULT 0,
    object_count INTEGER DEFAULT 0,
    bytes_used INTEGER DEFAULT 0
);
"""
_SCHEMA = (
    SYNC_SCHEMA
    + """
CREATE TABLE container (
    ROWID INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT,
    put_timestamp TEXT,
    delete_timestamp TEXT,
    object_count INTEGER,
    bytes_used INTEGER,
    deleted INTEGER DEFAULT 0,
    storage_policy_index INTEGER DEFAULT 0
);
CREATE INDEX ix_container_deleted_name ON container (deleted, name);
"""
    + _ROW_TRIGGERS
    + _POLICY_TRIGGERS
    + """
CREATE TABLE account_stat (
    account TEXT,
    created_at TEXT,
    put_timestamp TEXT DEFAULT '0',
    delete_timestamp TEXT DEFAULT '0',
    container_count INTEGER,
    object_count INTEGER DEFAULT 0,
    bytes_used INTEGER DEFAULT 0,
    hash TEXT default '00000000000000000000000000000000',
    id TEXT,
    status TEXT DEFAULT '',
    status_changed_at TEXT DEFAULT '0',
    metadata TEXT DEFAULT ''
);
"""
    + _POLICY_STAT
)

_ROW_COLUMNS = (
    ("name", "''"),
    ("put_timestamp", "'0'"),
    ("delete_timestamp", "'0'"),
    ("object_count", "0"),
    ("bytes_used", "0"),
    ("deleted", "0"),
    ("storage_policy_index", "0"),
)
_STAT_COLUMNS = (
    ("account", "''"),
    ("created_at", "'0'"),
    ("put_timestamp", "'0'"),
    ("delete_timestamp", "'0'"),
    ("status", "''"),
    ("status_changed_at", "'0'"),
    ("container_count", "0"),
    ("object_count", "0"),
    ("bytes_used", "0"),
    ("hash", "''"),
    ("id", "''"),
    ("metadata", "''"),
)


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
    def is_status_deleted(self) -> bool:
        """True when the account was deleted and waits for the reaper.

        A copy that was told by another one has the times alone, and no status.
        """
        return self.status == "DELETED" or self.delete_timestamp > self.put_timestamp

    @property
    def is_deleted(self) -> bool:
        """True when it must not be seen."""
        return self.is_status_deleted or counts_deleted(
            self.container_count, self.put_timestamp, self.delete_timestamp
        )

    @property
    def metadata(self) -> Metadata:
        """Name → (value, time), removed ones with a blank value; native Unicode."""
        return parse_metadata(self.metadata_text)


class AccountBroker(Broker[ContainerRow]):
    """The database of one account on one device.

    path: from `db_path(root, device, "accounts", partition, hash)`. name: needed to
    create it only.
    """

    kind: ClassVar = "account"
    row_table: ClassVar = "container"
    stat_table: ClassVar = "account_stat"
    delete_time_column: ClassVar = "delete_timestamp"
    expected: ClassVar = {
        "container": frozenset(("storage_policy_index",)),
        "policy_stat": frozenset(("container_count",)),
        "account_stat": frozenset(("metadata",)),
    }

    def __init__(
        self, databases: Databases, path: str, name: AccountName | None = None
    ) -> None:
        super().__init__(databases, path)
        self.name = name

    def create(self, put_timestamp: Timestamp) -> None:
        """Make the database; raises DatabaseExists when a file is there."""
        assert self.name is not None, "a broker that creates knows its name"
        account = self.name.account
        created_at = self._now().internal
        database_id = self._new_id()

        def fill(connection: DatabaseConnection) -> None:
            connection.execute(
                "INSERT INTO account_stat (account, created_at, id, put_timestamp, "
                "status_changed_at, container_count) VALUES (?, ?, ?, ?, ?, 0)",
                (
                    account,
                    created_at,
                    database_id,
                    put_timestamp.internal,
                    put_timestamp.internal,
                ),
            )

        self.databases.create(self.path, _SCHEMA, fill)

    def stat(self, *, stale_ok: bool = False) -> AccountStat:
        """The facts after merging the pending file.

        stale_ok: for GET and HEAD, which do not wait long for its lock.
        """
        self._commit_for_read(stale_ok)
        with self._reading() as (connection, layout):
            return self._stat(connection, layout)

    def _stat(self, connection: DatabaseConnection, layout: Layout) -> AccountStat:
        columns = layout.select("account_stat", _STAT_COLUMNS)
        row = connection.execute(f"SELECT {columns} FROM account_stat").fetchone()
        if row is None:
            raise self._missing_stat(self.path)
        return AccountStat(*row)

    def policy_stats(self) -> list[PolicyStat]:
        """What the account holds by policy, in the order of their indexes."""
        with self._reading() as (connection, layout):
            if layout.modern:
                rows = connection.execute(
                    "SELECT storage_policy_index, container_count, object_count, "
                    "bytes_used FROM policy_stat ORDER BY storage_policy_index"
                )
                return [PolicyStat(*row) for row in rows]
            if "policy_stat" not in layout.columns:
                stat = self._stat(connection, layout)
                return [
                    PolicyStat(
                        0, stat.container_count, stat.object_count, stat.bytes_used
                    )
                ]
            rows = connection.execute(
                "SELECT storage_policy_index, (SELECT COUNT(*) FROM container AS c "
                "WHERE c.deleted = 0 AND c.storage_policy_index = "
                "policy_stat.storage_policy_index), object_count, bytes_used "
                "FROM policy_stat ORDER BY storage_policy_index"
            )
            return [PolicyStat(*row) for row in rows]

    def put_now(self, row: ContainerRow) -> bool:
        """Append to the pending file without waiting; may run on the event loop.

        False when nothing was written and `put_container` must be called in a thread.
        """
        self.databases.files(self.path)
        return self._put_now(row)

    def put_container(
        self, row: ContainerRow, *, timeout_s: float = LOCK_TIMEOUT_S
    ) -> None:
        """Append the row to the pending file, or merge it when that is full."""
        self.databases.files(self.path)
        self._put(row, timeout_s)

    def list_containers(
        self, query: ListingQuery, *, allow_reserved: bool = False
    ) -> list[Entry]:
        """Entries (name, object_count, bytes_used, put_timestamp, policy) or (name,).

        Does not merge the pending file; `stat` does.
        """
        with self._reading() as (connection, layout):
            columns = layout.select(
                "container",
                (
                    ("name", "''"),
                    ("object_count", "0"),
                    ("bytes_used", "0"),
                    ("put_timestamp", "'0'"),
                    ("storage_policy_index", "0"),
                ),
            )

            def scan(span: Span, limit: int) -> Iterable[Entry]:
                condition, order, arguments = span_condition(span)
                return connection.execute(
                    f"SELECT {columns} FROM container WHERE deleted = 0{condition} "
                    f"ORDER BY name{order} LIMIT ?",
                    (*arguments, limit),
                )

            return page(scan, query, allow_reserved=allow_reserved)

    def is_deleted(self) -> bool:
        """True when the account must not be seen; merges the pending file."""
        return self.stat(stale_ok=True).is_deleted

    def empty(self) -> bool:
        """True when no live container is in it; merges the pending file."""
        return not self.stat().container_count

    def is_reclaimable(self, before: str) -> bool:
        """True when the file may go: empty, and deleted before that time (as text)."""
        stat = self.stat()
        return (
            not stat.container_count
            and before > stat.delete_timestamp > stat.put_timestamp
        )

    def is_reported(self) -> bool:
        """True: nobody keeps totals of accounts."""
        return True

    def replication_info(self) -> dict[str, Any]:
        """What a sync call answers, in the order of the wire."""
        self.commit_pending()
        with self._reading() as (connection, layout):
            stat = self._stat(connection, layout)
            (max_row,) = sequences_of(connection, "container")
        return {
            "account": stat.account,
            "created_at": stat.created_at,
            "put_timestamp": stat.put_timestamp,
            "delete_timestamp": stat.delete_timestamp,
            "status_changed_at": stat.status_changed_at,
            "object_count": stat.object_count,
            "bytes_used": stat.bytes_used,
            "hash": stat.hash,
            "id": stat.id,
            "count": stat.container_count,
            "metadata": stat.metadata_text,
            "max_row": max_row,
        }

    # --- For Broker -------------------------------------------------------------------

    def _is_deleted_row(self, connection: DatabaseConnection, path: str) -> bool:
        row = connection.execute(
            "SELECT container_count, put_timestamp, delete_timestamp, status "
            "FROM account_stat"
        ).fetchone()
        if row is None:
            raise self._missing_stat(path)
        count, put, delete, status = row
        return status == "DELETED" or counts_deleted(count, put, delete)

    def _row_of_pending(self, fields: object) -> ContainerRow:
        return ContainerRow.from_pending(fields)

    def _row_columns(self) -> Sequence[tuple[str, str]]:
        return _ROW_COLUMNS

    def _merge(
        self, connection: DatabaseConnection, rows: Sequence[ContainerRow]
    ) -> None:
        for row in rows:
            found = connection.execute(
                "SELECT ROWID, name, put_timestamp, delete_timestamp, object_count, "
                "bytes_used, deleted, storage_policy_index FROM container "
                "WHERE deleted IN (0, 1) AND name = ?",
                (row.name,),
            ).fetchone()
            old = None
            if found is not None:
                old = ContainerRow(*found[1:])
                connection.execute(
                    "DELETE FROM container WHERE deleted IN (0, 1) AND name = ?",
                    (row.name,),
                )
            connection.execute(
                "INSERT INTO container (name, put_timestamp, delete_timestamp, "
                "object_count, bytes_used, deleted, storage_policy_index) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                merged_container(old, row),
            )

    def _migrate(self, connection: DatabaseConnection, layout: Layout) -> None:
        columns = layout.columns
        if "metadata" not in columns.get("account_stat", ()):
            connection.execute(
                "ALTER TABLE account_stat ADD COLUMN metadata TEXT DEFAULT ''"
            )
        if "storage_policy_index" not in columns.get("container", ()):
            connection.execute(
                "ALTER TABLE container "
                "ADD COLUMN storage_policy_index INTEGER DEFAULT 0"
            )
        if "policy_stat" in columns:
            if "container_count" in columns["policy_stat"]:
                return
            connection.execute(
                "ALTER TABLE policy_stat ADD COLUMN container_count INTEGER DEFAULT 0"
            )
            connection.execute(
                "UPDATE policy_stat SET container_count = (SELECT COUNT(*) FROM "
                "container AS c WHERE c.deleted = 0 AND c.storage_policy_index = "
                "policy_stat.storage_policy_index)"
            )
        else:
            run_script(connection, _POLICY_STAT)
            connection.execute(
                "INSERT INTO policy_stat (storage_policy_index, container_count, "
                "object_count, bytes_used) SELECT 0, container_count, object_count, "
                "bytes_used FROM account_stat"
            )
        for trigger in ("container_insert_ps", "container_delete_ps"):
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        run_script(connection, _POLICY_TRIGGERS)
