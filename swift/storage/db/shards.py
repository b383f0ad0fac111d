# SPDX-License-Identifier: Apache-2.0
"""The shard-range table of a container, and what state of sharding its files are in.

Functions on an open connection; `container` decides on which file and in which
transaction. Rules of merging and choosing are in core/shards.

Format: doc/source/formats/databases.md (databases contract 4, 9).
"""
# ruff: noqa: S608
# Statements are put together from names of columns that are written here.

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swift.core.shards import UPDATING_STATES, ShardRange, merged_range
from swift.storage.db.broker import Layout
from swift.storage.db.connection import DatabaseConnection, epoch_of

UNSHARDED = "unsharded"
SHARDING = "sharding"
SHARDED = "sharded"
COLLAPSED = "collapsed"

SHARD_SCHEMA = """
CREATE TABLE shard_range (
    ROWID INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT,
    timestamp TEXT,
    lower TEXT,
    upper TEXT,
    object_count INTEGER DEFAULT 0,
    bytes_used INTEGER DEFAULT 0,
    meta_timestamp TEXT,
    deleted INTEGER DEFAULT 0,
    state INTEGER,
    state_timestamp TEXT,
    epoch TEXT,
    reported INTEGER DEFAULT 0,
    tombstones INTEGER DEFAULT -1
);
CREATE TRIGGER shard_range_update BEFORE UPDATE ON shard_range
BEGIN
    SELECT RAISE(FAIL, 'UPDATE not allowed; DELETE and INSERT');
END;
"""

_COLUMNS = (
    ("name", "''"),
    ("lower", "''"),
    ("upper", "''"),
    ("timestamp", "''"),
    ("object_count", "0"),
    ("bytes_used", "0"),
    ("meta_timestamp", "''"),
    ("deleted", "0"),
    ("state", "10"),
    ("state_timestamp", "''"),
    ("epoch", "NULL"),
    ("reported", "0"),
    ("tombstones", "-1"),
)
_NAMES = ", ".join(name for name, _ in _COLUMNS)
_MARKS = ", ".join("?" for _ in _COLUMNS)
_UPDATING = ", ".join(str(state) for state in sorted(UPDATING_STATES))


def read_ranges(connection: DatabaseConnection, layout: Layout) -> list[ShardRange]:
    """Every row, in no order; none when an old file has no such table."""
    if "shard_range" not in layout.columns:
        return []
    columns = layout.select("shard_range", _COLUMNS)
    return [
        ShardRange(*row)
        for row in connection.execute(f"SELECT {columns} FROM shard_range")
    ]


def updating_range(
    connection: DatabaseConnection, layout: Layout, own_name: str, name: str
) -> ShardRange | None:
    """The live range in an updating state that covers `name`, first in range order."""
    if "shard_range" not in layout.columns:
        return None
    columns = layout.select("shard_range", _COLUMNS)
    found = [
        ShardRange(*row)
        for row in connection.execute(
            f"SELECT {columns} FROM shard_range WHERE deleted = 0 "
            f"AND state IN ({_UPDATING}) AND name <> ? AND lower < ? "
            "AND (upper = '' OR upper >= ?)",
            (own_name, name, name),
        )
    ]
    return min(found, key=lambda row: row.sort_key, default=None)


def has_updating_range(
    connection: DatabaseConnection, layout: Layout, own_name: str
) -> bool:
    """True when any name might have to be redirected."""
    if "shard_range" not in layout.columns:
        return False
    row = connection.execute(
        "SELECT 1 FROM shard_range WHERE deleted = 0 "
        f"AND state IN ({_UPDATING}) AND name <> ? LIMIT 1",
        (own_name,),
    ).fetchone()
    return row is not None


def merge_ranges(
    connection: DatabaseConnection, ranges: Iterable[ShardRange], own_name: str
) -> bool:
    """Merge ranges into the table; True when it changed. A transaction is open.

    An own range without epoch does not replace one with: a replica that has not heard
    of the sharding must not undo it.
    """
    changed = False
    for new in ranges:
        row = connection.execute(
            f"SELECT {_NAMES} FROM shard_range WHERE name = ?", (new.name,)
        ).fetchone()
        existing = None if row is None else ShardRange(*row)
        if (
            new.name == own_name
            and existing is not None
            and existing.epoch is not None
            and new.epoch is None
        ):
            continue
        merged = merged_range(existing, new)
        if merged is None:
            continue
        if existing is not None:
            connection.execute("DELETE FROM shard_range WHERE name = ?", (new.name,))
        connection.execute(
            f"INSERT INTO shard_range ({_NAMES}) VALUES ({_MARKS})",
            tuple(getattr(merged, name) for name, _ in _COLUMNS),
        )
        changed = True
    return changed


def reclaim_ranges(connection: DatabaseConnection, before: str, own_name: str) -> None:
    """Remove ranges deleted before that time, but never the own range."""
    connection.execute(
        "DELETE FROM shard_range WHERE deleted = 1 AND timestamp < ? AND name <> ?",
        (before, own_name),
    )


def state_of(paths: Sequence[str], ranges: Iterable[ShardRange], own_name: str) -> str:
    """The sharding state of a container with these live files and ranges."""
    if len(paths) > 1:
        return SHARDING
    epoch = epoch_of(paths[-1])
    if epoch is None:
        return UNSHARDED
    rows = list(ranges)
    own = next((row for row in rows if row.name == own_name), None)
    if own is None or own.epoch != epoch:
        return UNSHARDED
    if any(not row.deleted and row.name != own_name for row in rows):
        return SHARDED
    return COLLAPSED


def add_missing(connection: DatabaseConnection, layout: Layout) -> None:
    """Add to an old table the columns it lacks; it exists. A transaction is open."""
    present = layout.columns.get("shard_range", frozenset())
    for name, default in (("reported", "0"), ("tombstones", "-1")):
        if name not in present:
            connection.execute(
                f"ALTER TABLE shard_range ADD COLUMN {name} INTEGER DEFAULT {default}"
            )
