# SPDX-License-Identifier: Apache-2.0
"""Tables, triggers and views of a container's database, and old schemas made new.

Names, types and the effects of triggers are those of databases contract 4; golden
databases and files of before storage policies pin them (test/interop, test_db_legacy).
"""
# ruff: noqa: S608
# Statements are put together from names of columns that are written here.

from __future__ import annotations

from swift.storage.db.broker import SYNC_SCHEMA, Layout
from swift.storage.db.connection import DatabaseConnection, run_script
from swift.storage.db.shards import SHARD_SCHEMA, add_missing

INFO_COLUMNS = (
    ("account", "''"),
    ("container", "''"),
    ("created_at", "'0'"),
    ("put_timestamp", "'0'"),
    ("delete_timestamp", "'0'"),
    ("reported_put_timestamp", "'0'"),
    ("reported_delete_timestamp", "'0'"),
    ("reported_object_count", "0"),
    ("reported_bytes_used", "0"),
    ("hash", "''"),
    ("id", "''"),
    ("status", "''"),
    ("status_changed_at", "'0'"),
    ("metadata", "''"),
    ("x_container_sync_point1", "-1"),
    ("x_container_sync_point2", "-1"),
    ("reconciler_sync_point", "-1"),
    ("storage_policy_index", "0"),
)
STAT_COLUMNS = (*INFO_COLUMNS, ("object_count", "0"), ("bytes_used", "0"))
INFO_NAMES = tuple(name for name, _ in INFO_COLUMNS)

_POLICY_STAT = """
CREATE TABLE policy_stat (
    storage_policy_index INTEGER PRIMARY KEY,
    object_count INTEGER DEFAULT 0,
    bytes_used INTEGER DEFAULT 0
);
"""
_POLICY_TRIGGERS = """
CREATE TRIGGER object_insert_policy_stat AFTER INSERT ON object
BEGIN
    INSERT OR IGNORE INTO policy_stat
        (storage_policy_index, object_count, bytes_used)
        VALUES (new.storage_policy_index, 0, 0);
    UPDATE policy_stat
    SET object_count = object_count + (1 - new.deleted),
        bytes_used = bytes_used + new.size
    WHERE storage_policy_index = new.storage_policy_index;
    UPDATE container_info SET hash = chexor(hash, new.name, new.created_at);
END;
CREATE TRIGGER object_delete_policy_stat AFTER DELETE ON object
BEGIN
    UPDATE policy_stat
    SET object_count = object_count - (1 - old.deleted),
        bytes_used = bytes_used - old.size
    WHERE storage_policy_index = old.storage_policy_index;
    UPDATE container_info SET hash = chexor(hash, old.name, old.created_at);
END;
"""
_INFO = """
CREATE TABLE container_info (
    account TEXT,
    container TEXT,
    created_at TEXT,
    put_timestamp TEXT DEFAULT '0',
    delete_timestamp TEXT DEFAULT '0',
    reported_put_timestamp TEXT DEFAULT '0',
    reported_delete_timestamp TEXT DEFAULT '0',
    reported_object_count INTEGER DEFAULT 0,
    reported_bytes_used INTEGER DEFAULT 0,
    hash TEXT default '00000000000000000000000000000000',
    id TEXT,
    status TEXT DEFAULT '',
    status_changed_at TEXT DEFAULT '0',
    metadata TEXT DEFAULT '',
    x_container_sync_point1 INTEGER DEFAULT -1,
    x_container_sync_point2 INTEGER DEFAULT -1,
    storage_policy_index INTEGER DEFAULT 0,
    reconciler_sync_point INTEGER DEFAULT -1
);
"""
_STAT_VIEW = f"""
CREATE VIEW container_stat AS
SELECT {", ".join(f"i.{name} AS {name}" for name in INFO_NAMES)},
    coalesce(p.object_count, 0) AS object_count,
    coalesce(p.bytes_used, 0) AS bytes_used
FROM container_info AS i LEFT JOIN policy_stat AS p
ON i.storage_policy_index = p.storage_policy_index;
CREATE TRIGGER container_stat_update INSTEAD OF UPDATE ON container_stat
BEGIN
    UPDATE container_info SET {", ".join(f"{n} = new.{n}" for n in INFO_NAMES)};
END;
"""
SCHEMA = (
    SYNC_SCHEMA
    + """
CREATE TABLE object (
    ROWID INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT,
    created_at TEXT,
    size INTEGER,
    content_type TEXT,
    etag TEXT,
    deleted INTEGER DEFAULT 0,
    storage_policy_index INTEGER DEFAULT 0
);
CREATE INDEX ix_object_deleted_name ON object (deleted, name);
CREATE TRIGGER object_update BEFORE UPDATE ON object
BEGIN
    SELECT RAISE(FAIL, 'UPDATE not allowed; DELETE and INSERT');
END;
"""
    + _POLICY_TRIGGERS
    + _POLICY_STAT
    + _INFO
    + _STAT_VIEW
    + SHARD_SCHEMA
)
ROW_COLUMNS = (
    ("name", "''"),
    ("created_at", "'0'"),
    ("size", "0"),
    ("content_type", "''"),
    ("etag", "''"),
    ("deleted", "0"),
    ("storage_policy_index", "0"),
)


def migrate(connection: DatabaseConnection, layout: Layout) -> None:
    """Bring an old schema up to date; a transaction is open."""
    columns = layout.columns
    if "storage_policy_index" not in columns.get("object", ()):
        connection.execute(
            "ALTER TABLE object ADD COLUMN storage_policy_index INTEGER DEFAULT 0"
        )
    if "container_info" not in columns:
        _migrate_stat(connection, layout)
    if "shard_range" not in columns:
        run_script(connection, SHARD_SCHEMA)
    else:
        add_missing(connection, layout)


def _migrate_stat(connection: DatabaseConnection, layout: Layout) -> None:
    """Turn the facts table of a database without policies into today's tables."""
    run_script(connection, _POLICY_STAT)
    connection.execute(
        "INSERT INTO policy_stat (storage_policy_index, object_count, bytes_used) "
        "SELECT 0, object_count, bytes_used FROM container_stat"
    )
    run_script(connection, _INFO)
    selected = layout.select("container_stat", INFO_COLUMNS)
    connection.execute(
        f"INSERT INTO container_info ({', '.join(INFO_NAMES)}) "
        f"SELECT {selected} FROM container_stat"
    )
    connection.execute("DROP TABLE container_stat")
    for trigger in ("object_insert", "object_delete"):
        connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    run_script(connection, _POLICY_TRIGGERS + _STAT_VIEW)
