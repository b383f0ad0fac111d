# SPDX-License-Identifier: Apache-2.0
"""Containers in SQLite: object rows, listings, policy, shard ranges.

A container that is being sharded has two files: the retiring one, which still holds the
objects, and the fresh one, which takes every write. Reads know which to ask.

Format: doc/source/formats/databases.md (databases contract 4, 9, 10, 13). Golden:
test/interop.
"""
# ruff: noqa: S608
# Statements are put together from names of columns that are written here.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import unquote

from swift.core.headers import VERSIONS_ENABLED_SYSMETA, true
from swift.core.listing import Entry, ListingQuery, Span, page
from swift.core.names import ContainerName
from swift.core.rows import (
    ObjectRow,
    PolicyFacts,
    merged_object,
    remote_policy_wins,
)
from swift.core.shards import (
    CLEAVING_STATES,
    ShardQuery,
    ShardRange,
    chosen_ranges,
    usage,
)
from swift.core.timestamp import Timestamp
from swift.storage.db.broker import (
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
    Files,
)
from swift.storage.db.container_schema import (
    INFO_NAMES,
    ROW_COLUMNS,
    SCHEMA,
    STAT_COLUMNS,
    migrate,
)
from swift.storage.db.metadata import Metadata, parse_metadata
from swift.storage.db.shards import (
    SHARDED,
    SHARDING,
    UNSHARDED,
    has_updating_range,
    merge_ranges,
    read_ranges,
    reclaim_ranges,
    state_of,
    updating_range,
)

SHARD_QUOTED_ROOT = "x-container-sysmeta-shard-quoted-root"
SHARD_ROOT = "x-container-sysmeta-shard-root"
SHARDING_FLAG = "x-container-sysmeta-sharding"
SYNC_TO = "x-container-sync-to"
SYNC_KEY = "x-container-sync-key"


@dataclass(frozen=True, slots=True)
class ContainerStat:
    """The facts of a container; times are text in internal form.

    Counts are of the container's own policy; of a sharded root, of its shards.
    """

    account: str
    container: str
    created_at: str
    put_timestamp: str
    delete_timestamp: str
    reported_put_timestamp: str
    reported_delete_timestamp: str
    reported_object_count: int
    reported_bytes_used: int
    hash: str
    id: str
    status: str
    status_changed_at: str
    metadata_text: str
    x_container_sync_point1: int
    x_container_sync_point2: int
    reconciler_sync_point: int
    storage_policy_index: int
    object_count: int
    bytes_used: int
    db_state: str  # unsharded, sharding, sharded, collapsed

    @property
    def is_deleted(self) -> bool:
        """True when the container is empty and its delete is newer than its put.

        `status` does not count: a container that came back keeps it.
        """
        return counts_deleted(
            self.object_count, self.put_timestamp, self.delete_timestamp
        )

    @property
    def metadata(self) -> Metadata:
        """Name → (value, time), removed ones with a blank value; native Unicode."""
        return parse_metadata(self.metadata_text)

    @property
    def sync_to(self) -> str | None:
        """Where objects are copied, '' when that was ended, None when never begun."""
        return _stored(self.metadata, SYNC_TO)

    @property
    def sync_key(self) -> str | None:
        """The owner's key for copying; as `sync_to`."""
        return _stored(self.metadata, SYNC_KEY)

    @property
    def is_versioned(self) -> bool:
        """True when a change of an object keeps what it was (object versioning)."""
        return true(_value_of(self.metadata, VERSIONS_ENABLED_SYSMETA.lower()))

    @property
    def own_path(self) -> str:
        """`account/container`, the name of the own shard range."""
        return f"{self.account}/{self.container}"

    @property
    def policy_facts(self) -> PolicyFacts:
        """What decides between the policies of two replicas."""
        return PolicyFacts(
            self.storage_policy_index,
            self.put_timestamp,
            self.delete_timestamp,
            self.status_changed_at,
            self.object_count,
        )


class ContainerBroker(Broker[ObjectRow]):
    """The database of one container on one device.

    path: from `db_path(root, device, "containers", partition, hash)`, also when the
    live file has an epoch in its name. name: needed to create it only.
    """

    kind: ClassVar = "container"
    row_table: ClassVar = "object"
    stat_table: ClassVar = "container_info"
    delete_time_column: ClassVar = "created_at"
    old_facts: ClassVar = {
        **Broker.old_facts,
        "shard_range": "deleted = 1 AND timestamp < ?",
    }
    expected: ClassVar = {
        "container_info": frozenset(INFO_NAMES),
        "container_stat": frozenset(("storage_policy_index", "object_count")),
        "object": frozenset(("storage_policy_index",)),
        "policy_stat": frozenset(("object_count",)),
        "shard_range": frozenset(("reported", "tombstones")),
    }
    kept_on_delete: ClassVar = frozenset((SHARD_QUOTED_ROOT, SHARD_ROOT, SHARDING_FLAG))

    def __init__(
        self, databases: Databases, path: str, name: ContainerName | None = None
    ) -> None:
        super().__init__(databases, path)
        self.name = name

    def create(self, put_timestamp: Timestamp, policy_index: int) -> None:
        """Make the database; raises DatabaseExists when a file is there."""
        assert self.name is not None, "a broker that creates knows its name"
        account, container = self.name.account, self.name.container
        created_at = self._now().internal
        database_id = self._new_id()
        put = put_timestamp.internal

        def fill(connection: DatabaseConnection) -> None:
            connection.execute(
                "INSERT INTO container_info (account, container, created_at, id, "
                "put_timestamp, status_changed_at, storage_policy_index) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (account, container, created_at, database_id, put, put, policy_index),
            )
            connection.execute(
                "INSERT INTO policy_stat (storage_policy_index) VALUES (?)",
                (policy_index,),
            )

        self.databases.create(self.path, SCHEMA, fill)

    # --- Facts ------------------------------------------------------------------------

    @property
    def _files(self) -> Files:
        if self._alone:
            return Files(False, (0, 0), (self.path,))
        return self.databases.files(self.path)

    @property
    def _current(self) -> str:
        return self._files.fresh

    def stat(self, *, stale_ok: bool = False) -> ContainerStat:
        """The facts after merging the pending file.

        stale_ok: for GET and HEAD, which do not wait long for its lock.
        """
        self._commit_for_read(stale_ok)
        files = self._files
        with self._reading(files.fresh) as (connection, layout):
            row = self._stat_row(connection, layout, files.fresh)
            stat = _stat_of_row(row, UNSHARDED)
            if len(files.paths) == 1 and not files.fresh_has_epoch:
                return stat
            ranges = read_ranges(connection, layout)
        state = state_of(files.paths, ranges, stat.own_path)
        counts = row[-2:]
        if state == SHARDING:
            with self._reading(files.paths[0]) as (connection, layout):
                counts = self._stat_row(connection, layout, files.paths[0])[-2:]
        elif state == SHARDED and _is_root(stat, ranges):
            counts = usage(ranges, stat.own_path)
        return _stat_of_row((*row[:-2], *counts), state)

    def _stat_row(
        self, connection: DatabaseConnection, layout: Layout, path: str
    ) -> tuple[Any, ...]:
        columns = layout.select("container_stat", STAT_COLUMNS)
        row: tuple[Any, ...] | None = connection.execute(
            f"SELECT {columns} FROM container_stat"
        ).fetchone()
        if row is None:
            raise self._missing_stat(path)
        return row

    def is_deleted(self) -> bool:
        """True when the container must not be seen; merges the pending file."""
        return self.stat(stale_ok=True).is_deleted

    def is_root(self) -> bool:
        """True unless this is a shard of another container."""
        files = self._files
        with self._reading(files.fresh) as (connection, layout):
            row = self._stat_row(connection, layout, files.fresh)
            stat = _stat_of_row(row, UNSHARDED)
            return _is_root(stat, read_ranges(connection, layout))

    def empty(self) -> bool:
        """True when no live object of any policy is in it, nor in its shards."""
        self.commit_pending()
        files = self._files
        for path in files.paths:
            with self._reading(path) as (connection, layout):
                table = (
                    "policy_stat"
                    if "policy_stat" in layout.columns
                    else "container_stat"
                )
                row = connection.execute(
                    f"SELECT MAX(object_count) FROM {table}"
                ).fetchone()
                if row[0]:
                    return False
        if len(files.paths) == 1 and not files.fresh_has_epoch:
            return True
        stat = self.stat()
        ranges = self.shard_ranges()
        return not (
            stat.db_state in (SHARDING, SHARDED)
            and _is_root(stat, ranges)
            and usage(ranges, stat.own_path)[0] > 0
        )

    def is_reclaimable(self, before: str) -> bool:
        """True when the files may go once reported: empty, deleted before that."""
        stat = self.stat()
        if not before > stat.delete_timestamp > stat.put_timestamp or not self.empty():
            return False
        return not (
            stat.db_state == SHARDING or (stat.db_state == SHARDED and self.is_root())
        )

    def is_reported(self) -> bool:
        """True when the account has been told what is so now."""
        stat = self.stat()
        return (
            stat.reported_put_timestamp == stat.put_timestamp
            and stat.reported_delete_timestamp == stat.delete_timestamp
            and stat.reported_object_count == stat.object_count
            and stat.reported_bytes_used == stat.bytes_used
        )

    def replication_info(self) -> dict[str, Any]:
        """What a sync call answers, in the order of the wire."""
        stat = self.stat()
        with self._reading() as (connection, _):
            max_row, shard_max_row = sequences_of(connection, "object", "shard_range")
        return {
            "account": stat.account,
            "container": stat.container,
            "created_at": stat.created_at,
            "put_timestamp": stat.put_timestamp,
            "delete_timestamp": stat.delete_timestamp,
            "status": stat.status,
            "status_changed_at": stat.status_changed_at,
            "bytes_used": stat.bytes_used,
            "reported_put_timestamp": stat.reported_put_timestamp,
            "reported_delete_timestamp": stat.reported_delete_timestamp,
            "reported_object_count": stat.reported_object_count,
            "reported_bytes_used": stat.reported_bytes_used,
            "hash": stat.hash,
            "id": stat.id,
            "x_container_sync_point1": stat.x_container_sync_point1,
            "x_container_sync_point2": stat.x_container_sync_point2,
            "storage_policy_index": stat.storage_policy_index,
            "db_state": stat.db_state,
            "count": stat.object_count,
            "metadata": stat.metadata_text,
            "max_row": max_row,
            "shard_max_row": shard_max_row,
        }

    # --- Objects ----------------------------------------------------------------------

    def put_now(self, row: ObjectRow, *, redirect: bool = False) -> bool:
        """Append to the pending file without waiting; may run on the event loop.

        False when nothing was written and `put_object` must be called in a thread.
        redirect: the sender follows redirects, so write only if no shard could want it.
        """
        files = self._files
        if redirect and files.redirects is not False:
            return False
        return self._put_now(row)

    def put_object(
        self,
        row: ObjectRow,
        *,
        redirect: bool = False,
        timeout_s: float = LOCK_TIMEOUT_S,
    ) -> ShardRange | None:
        """Append the row to the pending file, or merge it when that is full.

        redirect: when a shard in an updating state covers the name, nothing is written
        and its range comes back.
        """
        files = self._files
        if redirect and files.redirects is not False:
            shard = self._redirect(files, row.name)
            if shard is not None:
                return shard
        self._put(row, timeout_s)
        return None

    def _redirect(self, files: Files, name: str) -> ShardRange | None:
        with self._reading(files.fresh) as (connection, layout):
            own_name = self._own_name(connection, layout, files.fresh)
            possible = has_updating_range(connection, layout, own_name)
            self.databases.remember_redirects(self.path, files, possible)
            if not possible:
                return None
            return updating_range(connection, layout, own_name, name)

    def _own_name(
        self, connection: DatabaseConnection, layout: Layout, path: str
    ) -> str:
        row = connection.execute(
            f"SELECT account, container FROM {self._stat_of(layout)}"
        ).fetchone()
        if row is None:
            raise self._missing_stat(path)
        return f"{row[0]}/{row[1]}"

    def list_objects(
        self,
        query: ListingQuery,
        policy_index: int | None = None,
        *,
        allow_reserved: bool = False,
    ) -> list[Entry]:
        """Entries (name, created_at, size, content_type, etag), or (name,) of a subdir.

        policy_index: None for the container's own. Does not merge the pending file;
        `stat` does. While a container is being sharded its retiring file is asked.
        """
        path = self._files.paths[0]
        with self._reading(path) as (connection, layout):
            if policy_index is None:
                policy_index = self._stat_row(connection, layout, path)[-3]
            condition = " AND storage_policy_index = ?"
            policy: tuple[int | None, ...] = (policy_index,)
            if "storage_policy_index" not in layout.columns.get("object", ()):
                condition, policy = ("", ()) if policy_index == 0 else (" AND 0", ())

            def scan(span: Span, limit: int) -> Iterable[Entry]:
                names, order, arguments = span_condition(span)
                return connection.execute(
                    "SELECT name, created_at, size, content_type, etag FROM object "
                    f"WHERE deleted = 0{names}{condition} ORDER BY name{order} LIMIT ?",
                    (*arguments, *policy, limit),
                )

            return page(scan, query, allow_reserved=allow_reserved)

    # --- Shard ranges -----------------------------------------------------------------

    def shard_ranges(self) -> list[ShardRange]:
        """Every stored range, the own one and deleted ones too, sorted."""
        with self._reading() as (connection, layout):
            ranges = read_ranges(connection, layout)
        return sorted(ranges, key=lambda row: row.sort_key)

    def list_shard_ranges(self, query: ShardQuery) -> list[ShardRange]:
        """The ranges that a listing of shards asks for."""
        path = self._current
        with self._reading(path) as (connection, layout):
            own_name = self._own_name(connection, layout, path)
            ranges = read_ranges(connection, layout)
        return chosen_ranges(ranges, own_name, query, self._now().normal)

    def own_shard_range(self) -> ShardRange | None:
        """The stored range of this container itself."""
        path = self._current
        with self._reading(path) as (connection, layout):
            own_name = self._own_name(connection, layout, path)
            ranges = read_ranges(connection, layout)
        return next((row for row in ranges if row.name == own_name), None)

    def sharding_initiated(self) -> bool:
        """True once the container must be sharded or shrunk and knows into what.

        Its rows then move to the shards, and replicas exchange ranges only.
        """
        path = self._current
        with self._reading(path) as (connection, layout):
            own_name = self._own_name(connection, layout, path)
            ranges = read_ranges(connection, layout)
        own = next((row for row in ranges if row.name == own_name), None)
        return (
            own is not None
            and own.state in CLEAVING_STATES
            and any(row.name != own_name and not row.deleted for row in ranges)
        )

    def needs_sharding(self) -> bool:
        """True while rows here wait to be moved to shards."""
        return self.sharding_initiated() and self.stat().db_state in (
            UNSHARDED,
            SHARDING,
        )

    def root_path(self) -> str:
        """`account/container` of the root of which this is a shard, else our own."""
        stat = self.stat()
        metadata = stat.metadata
        quoted = _value_of(metadata, SHARD_QUOTED_ROOT)
        return unquote(quoted) or _value_of(metadata, SHARD_ROOT) or stat.own_path

    def merge_shard_ranges(self, ranges: Iterable[ShardRange]) -> bool:
        """Merge ranges in one transaction; True when anything was new."""
        path = self._current
        with self._writing(path) as connection:
            own_name = self._own_name(connection, self._layout_after(connection), path)
            return merge_ranges(connection, ranges, own_name)

    # --- Policy, reports --------------------------------------------------------------

    def set_policy(self, policy_index: int, timestamp: str) -> None:
        """Change the policy; rows keep theirs and are moved by the reconciler.

        All rows are to be looked at for it again, as those that it knows were compared
        with the policy before.
        """
        with self._writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO policy_stat (storage_policy_index) VALUES (?)",
                (policy_index,),
            )
            connection.execute(
                "UPDATE container_info SET storage_policy_index = ?, "
                "status_changed_at = MAX(?, status_changed_at), "
                "reconciler_sync_point = -1 WHERE storage_policy_index <> ?",
                (policy_index, timestamp, policy_index),
            )

    def adopt_policy(self, remote: PolicyFacts, own: PolicyFacts) -> bool:
        """Take a replica's policy when the rules prefer it to ours; True then."""
        if not remote_policy_wins(own, remote):
            return False
        self.set_policy(remote.storage_policy_index, self._now().internal)
        return True

    def misplaced_rows(self, start: int, count: int) -> list[dict[str, Any]]:
        """Up to `count` rows after ROWID `start` that are not of our policy."""
        path = self._current
        with self._reading(path) as (connection, layout):
            policy_index = self._stat_row(connection, layout, path)[-3]
            columns = layout.select(self.row_table, ROW_COLUMNS)
            cursor = connection.execute(
                f"SELECT ROWID AS ROWID, {columns} FROM object "
                "WHERE ROWID > ? AND storage_policy_index <> ? ORDER BY ROWID LIMIT ?",
                (start, policy_index, count),
            )
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def update_reconciler_point(self, point: int, policy_index: int) -> None:
        """Keep up to which row misplaced ones were enqueued.

        policy_index: what the rows were compared with; nothing is kept when the policy
        is another by now.
        """
        with self._writing() as connection:
            connection.execute(
                "UPDATE container_info SET reconciler_sync_point = ? "
                "WHERE reconciler_sync_point < ? AND storage_policy_index = ?",
                (point, point, policy_index),
            )

    def move_sync_points(self, sync_to: str, point1: int, point2: int) -> bool:
        """Keep how far container sync is; False when the target is another by now.

        A change of the target has set both points to -1, and what was copied to the old
        one says nothing of the new one: then nothing is kept.
        """
        with self._writing() as connection:
            row = connection.execute("SELECT metadata FROM container_info").fetchone()
            if row is None or _value_of(parse_metadata(row[0]), SYNC_TO) != sync_to:
                return False
            connection.execute(
                "UPDATE container_info SET x_container_sync_point1 = ?, "
                "x_container_sync_point2 = ?",
                (point1, point2),
            )
            return True

    def live_file(self) -> str:
        """The file that takes writes; it may have an epoch in its name."""
        return self._current

    def reported(
        self, put: str, delete: str, object_count: int, bytes_used: int
    ) -> None:
        """Keep what the account was last told."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE container_info SET reported_put_timestamp = ?, "
                "reported_delete_timestamp = ?, reported_object_count = ?, "
                "reported_bytes_used = ?",
                (put, delete, object_count, bytes_used),
            )

    def forget_reports(self, connection: DatabaseConnection) -> None:
        """Forget what the account was told; inside a transaction."""
        connection.execute(
            "UPDATE container_info SET reported_put_timestamp = '0', "
            "reported_delete_timestamp = '0', reported_object_count = 0, "
            "reported_bytes_used = 0"
        )

    def policy_stats(self) -> dict[int, tuple[int, int]]:
        """Policy index → (object_count, bytes_used), of the file that takes writes."""
        with self._reading() as (connection, layout):
            if "policy_stat" not in layout.columns:
                counts = self._stat_row(connection, layout, self.path)[-2:]
                return {0: (counts[0], counts[1])}
            return {
                index: (count, size)
                for index, count, size in connection.execute(
                    "SELECT storage_policy_index, object_count, bytes_used "
                    "FROM policy_stat"
                )
            }

    # --- For Broker -------------------------------------------------------------------

    def _stat_of(self, layout: Layout) -> str:
        return (
            "container_info"
            if "container_info" in layout.columns
            else ("container_stat")
        )

    def _is_deleted_row(self, connection: DatabaseConnection, path: str) -> bool:
        row = connection.execute(
            "SELECT object_count, put_timestamp, delete_timestamp FROM container_stat"
        ).fetchone()
        if row is None:
            raise self._missing_stat(path)
        return counts_deleted(*row)

    def _row_of_pending(self, fields: object) -> ObjectRow:
        return ObjectRow.from_pending(fields)

    def _row_columns(self) -> Sequence[tuple[str, str]]:
        return ROW_COLUMNS

    def _merge(self, connection: DatabaseConnection, rows: Sequence[ObjectRow]) -> None:
        # Rows of one batch are merged among themselves first, so that each name costs
        # one look at the table and at most one new row.
        batch: dict[tuple[str, int], ObjectRow] = {}
        for row in rows:
            key = (row.name, row.storage_policy_index)
            merged = merged_object(batch.get(key), row)
            if merged is not None:
                batch[key] = merged
        gone, new = [], []
        for row in batch.values():
            found = connection.execute(
                "SELECT ROWID, name, created_at, size, content_type, etag, deleted, "
                "storage_policy_index FROM object WHERE deleted IN (0, 1) "
                "AND name = ? AND storage_policy_index = ?",
                (row.name, row.storage_policy_index),
            ).fetchone()
            if found is None:
                new.append(row[:7])
                continue
            merged = merged_object(ObjectRow(*found[1:]), row)
            if merged is not None:
                gone.append((found[0],))
                new.append(merged[:7])
        connection.executemany("DELETE FROM object WHERE ROWID = ?", gone)
        connection.executemany(
            "INSERT INTO object (name, created_at, size, content_type, etag, deleted, "
            "storage_policy_index) VALUES (?, ?, ?, ?, ?, ?, ?)",
            new,
        )

    def _metadata_changed(
        self, connection: DatabaseConnection, old: Metadata, new: Metadata
    ) -> None:
        if _value_of(old, SYNC_TO) != _value_of(new, SYNC_TO):
            connection.execute(
                "UPDATE container_info SET x_container_sync_point1 = -1, "
                "x_container_sync_point2 = -1"
            )

    def _reclaim_more(self, connection: DatabaseConnection, sync_age: str) -> None:
        own_name = self._own_name(connection, self._layout_after(connection), self.path)
        reclaim_ranges(connection, sync_age, own_name)

    def _migrate(self, connection: DatabaseConnection, layout: Layout) -> None:
        migrate(connection, layout)


def _stat_of_row(row: Sequence[Any], db_state: str) -> ContainerStat:
    values = [*row, db_state]
    return ContainerStat(*values)


def _is_root(stat: ContainerStat, ranges: Iterable[ShardRange]) -> bool:
    """True unless the container is a shard: by its metadata, else by its own range."""
    metadata = stat.metadata
    quoted = _value_of(metadata, SHARD_QUOTED_ROOT)
    if quoted:
        return unquote(quoted) == stat.own_path
    plain = _value_of(metadata, SHARD_ROOT)
    if plain:
        return plain == stat.own_path
    own = next((row for row in ranges if row.name == stat.own_path), None)
    return own is None or not own.deleted


def _value_of(metadata: Metadata, lower_name: str) -> str:
    """The value of a name in any case, '' when there is none."""
    return _stored(metadata, lower_name) or ""


def _stored(metadata: Metadata, lower_name: str) -> str | None:
    """The value of a name in any case, '' when it was removed, None without a trace."""
    for name, (value, _) in metadata.items():
        if name.lower() == lower_name:
            return value
    return None
