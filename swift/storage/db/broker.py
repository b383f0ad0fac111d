# SPDX-License-Identifier: Apache-2.0
"""What both databases share: making, facts, metadata, pending file, deletion, reclaim.

A `Broker` belongs to one database on one device and holds no state of its own beyond
its name, so one is made for each request. All methods block (SQLite, locks) and are
called through `green.in_thread`; `put_now` of the two kinds alone may run on the event
loop.

Every method raises DatabaseMissing when there is no file, DatabaseCorrupt after moving
a malformed database aside, LockTimeout, DiskFull and DeviceUnavailable.

Format: doc/source/formats/databases.md (databases contract).
"""
# ruff: noqa: S608
# Statements are put together from names of tables and columns that are written in this
# package; values are always bound.

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar
from uuid import uuid4

from swift.core.errors import (
    DatabaseMissing,
    FormatError,
    InvalidInput,
    LockTimeout,
)
from swift.core.listing import Span
from swift.core.pickles import loads
from swift.core.rows import is_zero_like
from swift.core.timestamp import Timestamp
from swift.storage.db.connection import (
    LOCK_TIMEOUT_S,
    DatabaseConnection,
    Databases,
    device_of,
)
from swift.storage.db.metadata import (
    Metadata,
    MetadataLimits,
    check_metadata,
    is_newer,
    merged_metadata,
    metadata_text,
    parse_metadata,
    without_old,
)

STALE_WAIT_S = 0.1
"""How long a GET or HEAD waits for the pending file before it answers without it."""

LAYOUTS_MAX = 64
"""Schemas that are remembered; a cluster has one of each kind, or a few old ones."""

RECLAIM_BATCH = 10000
"""Rows removed in one transaction."""

_Row = TypeVar("_Row", bound=tuple[Any, ...])
_B = TypeVar("_B", bound="Broker[Any]")


@dataclass(frozen=True, slots=True)
class Layout:
    """Which tables and columns a database has; old files lack some."""

    columns: Mapping[str, frozenset[str]]
    modern: bool

    def select(self, table: str, wanted: Iterable[tuple[str, str]]) -> str:
        """A column list; of a missing (name, default literal) the default."""
        present = self.columns.get(table, frozenset())
        return ", ".join(
            name if name in present else f"{default} AS {name}"
            for name, default in wanted
        )


_SYNC_TABLE = """
CREATE TABLE {name} (
    remote_id TEXT UNIQUE,
    sync_point INTEGER,
    updated_at TEXT DEFAULT 0
);
CREATE TRIGGER {name}_insert AFTER INSERT ON {name}
BEGIN
    UPDATE {name} SET updated_at = STRFTIME('%s', 'NOW') WHERE ROWID = new.ROWID;
END;
CREATE TRIGGER {name}_update AFTER UPDATE ON {name}
BEGIN
    UPDATE {name} SET updated_at = STRFTIME('%s', 'NOW') WHERE ROWID = new.ROWID;
END;
"""
SYNC_SCHEMA = _SYNC_TABLE.format(name="outgoing_sync") + _SYNC_TABLE.format(
    name="incoming_sync"
)


class Broker(ABC, Generic[_Row]):
    """One database. `path` is from `db_path`: `<hash>.db`, also when epochs exist."""

    kind: ClassVar[str]
    """`account` or `container`."""
    row_table: ClassVar[str]
    stat_table: ClassVar[str]
    """The table that holds the one row of facts, in a database of today's schema."""
    expected: ClassVar[Mapping[str, frozenset[str]]]
    """Tables and the columns that tell today's schema from older ones."""
    delete_time_column: ClassVar[str]
    """The column of a deleted row that says when it was deleted."""
    old_facts: ClassVar[Mapping[str, str]] = {
        "outgoing_sync": "updated_at < ?",
        "incoming_sync": "updated_at < ?",
    }
    """Tables beside that of rows, and what in them is old at a time."""

    def __init__(self, databases: Databases, path: str) -> None:
        self.databases = databases
        self.path = path
        self._alone = False

    def of_file(self: _B, path: str) -> _B:
        """A broker of the same kind for one given file, whatever lies beside it.

        For copies on their way in, and for one of the two files of a container that is
        being sharded.
        """
        broker = type(self)(self.databases, path)
        broker._alone = True
        return broker

    # --- What the two kinds give ------------------------------------------------------

    @abstractmethod
    def _merge(self, connection: DatabaseConnection, rows: Sequence[_Row]) -> None:
        """Merge rows into the table; a transaction is open."""

    @abstractmethod
    def _row_of_pending(self, fields: object) -> _Row:
        """Read a pending tuple; raises FormatError."""

    @abstractmethod
    def _migrate(self, connection: DatabaseConnection, layout: Layout) -> None:
        """Bring an old schema up to date; a transaction is open."""

    @property
    def _current(self) -> str:
        """The file that takes writes."""
        return self.path

    # --- Connections ------------------------------------------------------------------

    @contextmanager
    def _reading(
        self, path: str | None = None
    ) -> Iterator[tuple[DatabaseConnection, Layout]]:
        path = path or self._current
        with self.databases.use(path) as connection:
            yield connection, self._layout(connection)

    @contextmanager
    def _writing(self, path: str | None = None) -> Iterator[DatabaseConnection]:
        """A transaction on a database of today's schema."""
        path = path or self._current
        with self.databases.transaction(path) as connection:
            layout = self._layout(connection)
            if not layout.modern:
                self._migrate(connection, layout)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[DatabaseConnection]:
        """A transaction; nobody else writes to the database meanwhile."""
        with self._writing() as connection:
            yield connection

    def _layout(self, connection: DatabaseConnection) -> Layout:
        known = connection.layout
        if isinstance(known, Layout):
            return known
        found = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view')"
        )
        schema = (self.kind, *found)
        # Most databases of a node have the very same schema, and asking for every
        # column costs as much as opening the file.
        layouts = self.databases.layouts
        layout = layouts.get(schema)
        if not isinstance(layout, Layout):
            layout = self._read_layout(connection)
            if len(layouts) < LAYOUTS_MAX:
                layouts[schema] = layout
        connection.layout = layout
        connection.reusable = layout.modern
        return layout

    def _read_layout(self, connection: DatabaseConnection) -> Layout:
        columns: dict[str, set[str]] = {}
        for table, column in connection.execute(
            "SELECT m.name, p.name FROM sqlite_master AS m, pragma_table_info(m.name) "
            "AS p WHERE m.type IN ('table', 'view')"
        ):
            columns.setdefault(table, set()).add(column)
        return Layout(
            {table: frozenset(names) for table, names in columns.items()},
            all(
                needed <= columns.get(table, set())
                for table, needed in self.expected.items()
            ),
        )

    def _missing_stat(self, path: str) -> Exception:
        return self.databases.quarantine(path, "no row of facts")

    # --- Existence --------------------------------------------------------------------

    def exists(self) -> bool:
        """True when there is a file, also of a deleted account or container."""
        try:
            self.databases.files(self.path)
        except DatabaseMissing:
            return False
        return True

    def _new_id(self) -> str:
        return f"{uuid4()}-{device_of(self.path)}"

    def _now(self) -> Timestamp:
        return Timestamp.at(self.databases.now())

    # --- Pending file -----------------------------------------------------------------

    def _put_now(self, row: _Row) -> bool:
        """Append to the pending file without waiting; False when that cannot be."""
        return self.databases.append_now(self.path, _pending_entry(row))

    def _put(self, row: _Row, timeout_s: float) -> None:
        """Append to the pending file; when it is full, merge it and the row."""
        if self.databases.append(self.path, _pending_entry(row), timeout_s):
            return
        self.commit_pending(timeout_s, also=(row,))

    def commit_pending(
        self, timeout_s: float = LOCK_TIMEOUT_S, *, also: Sequence[_Row] = ()
    ) -> None:
        """Merge the pending file, and more rows after it; raises LockTimeout."""
        if not also and not self.databases.has_pending(self.path):
            return

        def merge(data: bytes) -> None:
            rows = [*self._read_pending(data), *also]
            with self._writing() as connection:
                self._merge(connection, rows)

        self.databases.drain(self.path, merge, timeout_s)

    def _commit_for_read(self, stale_ok: bool) -> None:
        try:
            self.commit_pending(STALE_WAIT_S if stale_ok else LOCK_TIMEOUT_S)
        except LockTimeout:
            if not stale_ok:
                raise

    def _read_pending(self, data: bytes) -> list[_Row]:
        """The rows of a pending file; what cannot be read is reported and skipped."""
        rows = []
        for piece in data.split(b":"):
            if not piece:
                continue
            try:
                rows.append(self._row_of_pending(loads(b64decode(piece))))
            except (FormatError, ValueError) as error:
                self.databases.report(
                    f"pending file {self.path}.pending: an entry was skipped ({error})"
                )
        return rows

    # --- Rows -------------------------------------------------------------------------

    def merge_rows(
        self, rows: Sequence[_Row], source: str | None = None, last_rowid: int = -1
    ) -> None:
        """Merge rows in one transaction.

        source: id of the database they come from; last_rowid: how far that one is known
        then.
        """
        self._check_rows(rows)
        with self._writing() as connection:
            self._merge(connection, rows)
            if source:
                _set_sync_point(connection, "incoming_sync", source, last_rowid)

    def _check_rows(self, rows: Sequence[_Row]) -> None:
        """Text that SQLite cannot keep is refused before a transaction is open."""
        for row in rows:
            for value in row:
                if isinstance(value, str) and not value.isascii():
                    try:
                        value.encode("utf-8")
                    except UnicodeEncodeError as error:
                        raise InvalidInput("row is not valid UTF-8") from error

    # --- Metadata ---------------------------------------------------------------------

    def metadata(self) -> Metadata:
        """Name → (value, time), removed ones with a blank value."""
        path = self._current
        with self._reading(path) as (connection, layout):
            return parse_metadata(self._metadata_text(connection, layout, path))

    def _metadata_text(
        self, connection: DatabaseConnection, layout: Layout, path: str
    ) -> str:
        table = self._stat_of(layout)
        column = layout.select(table, [("metadata", "''")])
        row = connection.execute(f"SELECT {column} FROM {table}").fetchone()
        if row is None:
            raise self._missing_stat(path)
        return row[0] or ""

    def _stat_of(self, layout: Layout) -> str:
        """The table of facts, whatever the schema."""
        return self.stat_table

    def update_metadata(
        self,
        updates: Mapping[str, tuple[str, str]],
        limits: MetadataLimits | None = None,
    ) -> None:
        """Take the newer of each name's values; a blank value removes.

        Raises InvalidInput when the user metadata would exceed the limits.
        """
        old = self.metadata()
        if not any(is_newer(new, old.get(name)) for name, new in updates.items()):
            return
        path = self._current
        with self._writing(path) as connection:
            layout = self._layout_after(connection)
            old = parse_metadata(self._metadata_text(connection, layout, path))
            merged = merged_metadata(old, updates)
            if limits is not None:
                check_metadata(self.kind, merged, limits)
            self._store_metadata(connection, merged)
            self._metadata_changed(connection, old, merged)

    def _layout_after(self, connection: DatabaseConnection) -> Layout:
        """The layout inside `_writing`, where the schema is today's."""
        return Layout(self.expected, True)

    def _store_metadata(
        self, connection: DatabaseConnection, metadata: Mapping[str, tuple[str, str]]
    ) -> None:
        text = metadata_text(metadata)
        connection.execute(f"UPDATE {self.stat_table} SET metadata = ?", (text,))

    def _metadata_changed(
        self, connection: DatabaseConnection, old: Metadata, new: Metadata
    ) -> None:
        """A hook: inside the transaction that stored new metadata."""

    # --- Times ------------------------------------------------------------------------

    def update_put_timestamp(self, timestamp: str) -> None:
        """Move the put time forward; internal form."""
        self._advance("put_timestamp", timestamp)

    def update_status_changed_at(self, timestamp: str) -> None:
        """Move the time of the last change of status forward."""
        self._advance("status_changed_at", timestamp)

    def _advance(self, column: str, timestamp: str) -> None:
        with self._writing() as connection:
            connection.execute(
                f"UPDATE {self.stat_table} SET {column} = ? WHERE {column} < ?",
                (timestamp, timestamp),
            )

    def merge_timestamps(self, created_at: str, put: str, delete: str) -> None:
        """Take a replica's times: the first creation, the last put and delete.

        When that deletes the database or brings it back, its status has changed now.
        """
        path = self._current
        with self._writing(path) as connection:
            was = self._is_deleted_row(connection, path)
            connection.execute(
                f"UPDATE {self.stat_table} SET created_at = MIN(?, created_at), "
                "put_timestamp = MAX(?, put_timestamp), "
                "delete_timestamp = MAX(?, delete_timestamp)",
                (created_at, put, delete),
            )
            if self._is_deleted_row(connection, path) != was:
                now = self._now().internal
                connection.execute(
                    f"UPDATE {self.stat_table} SET status_changed_at = ? "
                    "WHERE status_changed_at < ?",
                    (now, now),
                )

    @abstractmethod
    def _is_deleted_row(self, connection: DatabaseConnection, path: str) -> bool:
        """The deleted test inside a transaction on `path`."""

    # --- Deletion and reclaim ---------------------------------------------------------

    kept_on_delete: ClassVar[frozenset[str]] = frozenset()
    """Lower-case names of metadata that outlive a deletion."""

    def delete(self, timestamp: str) -> None:
        """Mark as deleted and blank the metadata, unless a later delete has."""
        self.commit_pending()
        path = self._current
        with self._writing(path) as connection:
            metadata = parse_metadata(
                self._metadata_text(connection, self._layout_after(connection), path)
            )
            blanked = {
                name: pair
                if name.lower() in self.kept_on_delete or timestamp <= pair[1]
                else ("", timestamp)
                for name, pair in metadata.items()
            }
            if blanked != metadata:
                self._store_metadata(connection, blanked)
                self._metadata_changed(connection, metadata, blanked)
            connection.execute(
                f"UPDATE {self.stat_table} SET delete_timestamp = ?, "
                "status = 'DELETED', status_changed_at = ? WHERE delete_timestamp < ?",
                (timestamp, timestamp, timestamp),
            )

    def reclaim(self, age_s: float, sync_age_s: float) -> None:
        """Forget what was deleted before `age_s` (seconds since 1970).

        sync_age_s: the same for sync points and shard ranges, which live longer. Where
        nothing is that old, which is so in most passes, nobody's writes are held up.
        """
        self.commit_pending()
        age, sync_age = _decimal(age_s), _decimal(sync_age_s)
        self._reclaim_rows(age)
        if self._has_old_facts(age, sync_age):
            self._reclaim_facts(age, sync_age)
        self.databases.remove_leftovers(self.path, age_s)

    def _has_old_facts(self, age: str, sync_age: str) -> bool:
        """True when `_reclaim_facts` would change something, or bring up to date."""
        path = self._current
        with self._reading(path) as (connection, layout):
            if not layout.modern:
                return True
            metadata = parse_metadata(self._metadata_text(connection, layout, path))
            if without_old(metadata, age) != metadata:
                return True
            tables = [
                f"EXISTS (SELECT 1 FROM {table} WHERE {condition})"
                for table, condition in self.old_facts.items()
                if "updated_at" not in condition
                or "updated_at" in layout.columns.get(table, ())
            ]
            found = connection.execute(
                f"SELECT {' OR '.join(tables) or 0}", (sync_age,) * len(tables)
            )
            return bool(found.fetchone()[0])

    def _reclaim_facts(self, age: str, sync_age: str) -> None:
        path = self._current
        with self._writing(path) as connection:
            for table in ("outgoing_sync", "incoming_sync"):
                if "updated_at" in _columns(connection, table):
                    connection.execute(
                        f"DELETE FROM {table} WHERE updated_at < ?",
                        (sync_age,),
                    )
            metadata = parse_metadata(
                self._metadata_text(connection, self._layout_after(connection), path)
            )
            kept = without_old(metadata, age)
            if kept != metadata:
                self._store_metadata(connection, kept)
            self._reclaim_more(connection, sync_age)

    def _reclaim_rows(self, age: str) -> None:
        """Remove old tombstones, in batches by name so that no transaction is long."""
        table, column = self.row_table, self.delete_time_column
        marker = ""
        while True:
            with self._reading() as (connection, _):
                limit = connection.execute(
                    f"SELECT name FROM {table} WHERE deleted = 1 AND name >= ? "
                    "ORDER BY name LIMIT 1 OFFSET ?",
                    (marker, RECLAIM_BATCH),
                ).fetchone()
                condition = f"deleted = 1 AND name >= ? AND {column} < ?"
                arguments: tuple[str, ...] = (marker, age)
                if limit is not None:
                    condition, arguments = (
                        f"{condition} AND name < ?",
                        (*arguments, limit[0]),
                    )
                is_old = connection.execute(
                    f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1", arguments
                ).fetchone()
            if is_old:
                with self._writing() as connection:
                    connection.execute(
                        f"DELETE FROM {table} WHERE {condition}", arguments
                    )
            if limit is None or limit[0] == marker:
                break
            marker = limit[0]

    def _reclaim_more(self, connection: DatabaseConnection, sync_age: str) -> None:
        """A hook: inside the transaction of `reclaim`."""

    # --- Replication ------------------------------------------------------------------

    def sync_point(self, remote_id: str, *, incoming: bool = True) -> int:
        """The highest ROWID of that database known to be merged (or sent), or -1."""
        table = "incoming_sync" if incoming else "outgoing_sync"
        with self._reading() as (connection, _):
            row = connection.execute(
                f"SELECT sync_point FROM {table} WHERE remote_id = ?",
                (remote_id,),
            ).fetchone()
        return -1 if row is None else int(row[0])

    def syncs(self, *, incoming: bool = True) -> list[dict[str, Any]]:
        """All sync points as the dicts of a merge_syncs call."""
        table = "incoming_sync" if incoming else "outgoing_sync"
        with self._reading() as (connection, _):
            return [
                {"remote_id": remote_id, "sync_point": point}
                for remote_id, point in connection.execute(
                    f"SELECT remote_id, sync_point FROM {table}"
                )
            ]

    def merge_syncs(
        self, points: Iterable[tuple[str, int]], *, incoming: bool = True
    ) -> None:
        """Take (id, sync point) pairs; a point never moves back."""
        table = "incoming_sync" if incoming else "outgoing_sync"
        with self._writing() as connection:
            for remote_id, point in points:
                _set_sync_point(connection, table, remote_id, point)

    def max_row(self) -> int:
        """The highest ROWID the table of rows ever had, or -1."""
        with self._reading() as (connection, _):
            return sequences_of(connection, self.row_table)[0]

    def last_row(self) -> int:
        """The highest ROWID there is, or -1."""
        with self._reading() as (connection, _):
            row = connection.execute(
                f"SELECT MAX(ROWID) FROM {self.row_table}"
            ).fetchone()
        return -1 if row[0] is None else int(row[0])

    def rows_since(self, start: int, count: int) -> list[dict[str, Any]]:
        """Up to `count` rows with ROWID > start, as the dicts of a merge_items call."""
        with self._reading() as (connection, layout):
            columns = layout.select(self.row_table, self._row_columns())
            cursor = connection.execute(
                f"SELECT ROWID AS ROWID, {columns} FROM {self.row_table} "
                "WHERE ROWID > ? ORDER BY ROWID LIMIT ?",
                (start, count),
            )
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    @abstractmethod
    def _row_columns(self) -> Sequence[tuple[str, str]]:
        """(column, default literal) of the table of rows, without ROWID."""


def reidentify(
    connection: DatabaseConnection,
    *,
    stat_table: str,
    new_id: str,
    remote_id: str,
    remote_point: int,
) -> None:
    """Give a copied database an id of its own; a transaction is open.

    remote_id: of the database it was copied from; remote_point: the last ROWID that
    came with the copy.
    """
    connection.execute(f"UPDATE {stat_table} SET id = ?", (new_id,))
    connection.execute(
        "INSERT OR REPLACE INTO incoming_sync (remote_id, sync_point) VALUES (?, ?)",
        (remote_id, remote_point),
    )


def counts_deleted(count: object, put_timestamp: str, delete_timestamp: str) -> bool:
    """True when something is empty and its delete is newer than its put (as text)."""
    return is_zero_like(count) and delete_timestamp > put_timestamp


def span_condition(span: Span) -> tuple[str, str, tuple[str, ...]]:
    """(condition on `name`, order, values) that make a span part of a statement."""
    condition = ""
    arguments: list[str] = []
    if span.lower is not None:
        condition += " AND name >= ?" if span.lower_included else " AND name > ?"
        arguments.append(span.lower)
    if span.upper is not None:
        condition += " AND name <= ?" if span.upper_included else " AND name < ?"
        arguments.append(span.upper)
    return condition, " DESC" if span.reverse else "", tuple(arguments)


def sequences_of(connection: DatabaseConnection, *tables: str) -> list[int]:
    """The highest ROWID that each table ever had, or -1."""
    found = dict(connection.execute("SELECT name, seq FROM sqlite_sequence"))
    return [int(found.get(table, -1)) for table in tables]


def _set_sync_point(
    connection: DatabaseConnection, table: str, remote_id: str, point: int
) -> None:
    done = connection.execute(
        f"UPDATE {table} SET sync_point = MAX(?, sync_point) WHERE remote_id = ?",
        (point, remote_id),
    )
    if done.rowcount == 0:
        connection.execute(
            f"INSERT INTO {table} (remote_id, sync_point) VALUES (?, ?)",
            (remote_id, point),
        )


def _columns(connection: DatabaseConnection, table: str) -> set[str]:
    return {
        row[0]
        for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
    }


def _pending_entry(row: tuple[Any, ...]) -> bytes:
    """One row as it is appended to a pending file (databases 6)."""
    return b":" + b64encode(pickle.dumps(tuple(row), protocol=2))


def _decimal(seconds: float) -> str:
    """A time as the decimal text that is compared with stored times."""
    return Timestamp.at(max(0.0, seconds)).normal
