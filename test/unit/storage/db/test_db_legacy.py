# SPDX-License-Identifier: Apache-2.0
"""Databases of old schemas: read as they are, migrated by the first write."""

from __future__ import annotations

import os
import sqlite3

import pytest

from swift.core.listing import ListingQuery
from swift.core.names import AccountName, ContainerName
from swift.core.rows import ContainerRow, ObjectRow, chexor
from swift.core.shards import ShardRange
from swift.core.timestamp import Timestamp
from swift.storage.db.account import AccountBroker, PolicyStat
from swift.storage.db.connection import Databases, db_path
from swift.storage.db.container import ContainerBroker

T0 = "1700000000.00000"

_SYNCS = """
CREATE TABLE outgoing_sync (remote_id TEXT UNIQUE, sync_point INTEGER);
CREATE TABLE incoming_sync (remote_id TEXT UNIQUE, sync_point INTEGER);
"""
_OLD_CONTAINER = (
    _SYNCS
    + """
CREATE TABLE object (
    ROWID INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created_at TEXT,
    size INTEGER, content_type TEXT, etag TEXT, deleted INTEGER DEFAULT 0);
CREATE INDEX ix_object_deleted_name ON object (deleted, name);
CREATE TRIGGER object_insert AFTER INSERT ON object BEGIN
    UPDATE container_stat SET object_count = object_count + (1 - new.deleted),
        bytes_used = bytes_used + new.size,
        hash = chexor(hash, new.name, new.created_at); END;
CREATE TRIGGER object_update BEFORE UPDATE ON object BEGIN
    SELECT RAISE(FAIL, 'UPDATE not allowed; DELETE and INSERT'); END;
CREATE TRIGGER object_delete AFTER DELETE ON object BEGIN
    UPDATE container_stat SET object_count = object_count - (1 - old.deleted),
        bytes_used = bytes_used - old.size,
        hash = chexor(hash, old.name, old.created_at); END;
CREATE TABLE container_stat (
    account TEXT, container TEXT, created_at TEXT,
    put_timestamp TEXT DEFAULT '0', delete_timestamp TEXT DEFAULT '0',
    object_count INTEGER, bytes_used INTEGER,
    reported_put_timestamp TEXT DEFAULT '0',
    reported_delete_timestamp TEXT DEFAULT '0',
    reported_object_count INTEGER DEFAULT 0, reported_bytes_used INTEGER DEFAULT 0,
    hash TEXT default '00000000000000000000000000000000', id TEXT,
    status TEXT DEFAULT '', status_changed_at TEXT DEFAULT '0');
INSERT INTO container_stat (account, container, created_at, id, put_timestamp,
    object_count, bytes_used) VALUES ('a', 'c', '1', 'id', '1700000000.00000', 0, 0);
INSERT INTO object (name, created_at, size, content_type, etag)
    VALUES ('o', '1700000001.00000', 5, 'a/b', 'e');
"""
)


def _make(path: str, script: str) -> None:
    os.makedirs(os.path.dirname(path))
    connection = sqlite3.connect(path)
    connection.create_function("chexor", 3, chexor)
    connection.executescript(script)
    connection.close()


@pytest.fixture
def databases():
    opened = Databases(lambda: 1_700_000_500.0)
    yield opened
    opened.close()


@pytest.fixture
def container(tmp_path, databases):
    path = db_path(str(tmp_path), "sda1", "containers", 7, "ab" * 16)
    _make(path, _OLD_CONTAINER)
    return ContainerBroker(databases, path)


def _tables(path: str) -> set[str]:
    connection = sqlite3.connect(path)
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    return names


def test_a_container_without_policies_is_read_as_it_is(container):
    before = _tables(container.path)
    stat = container.stat()
    assert (stat.object_count, stat.bytes_used) == (1, 5)
    assert stat.storage_policy_index == 0
    assert stat.x_container_sync_point1 == -1
    assert stat.metadata == {}
    assert [e[0] for e in container.list_objects(ListingQuery())] == ["o"]
    assert container.list_objects(ListingQuery(), 1) == []
    assert container.rows_since(-1, 9)[0]["storage_policy_index"] == 0
    assert container.shard_ranges() == []
    assert container.policy_stats() == {0: (1, 5)}
    assert not container.empty()
    assert container.is_root()
    assert container.replication_info()["shard_max_row"] == -1
    assert (
        container.put_object(
            ObjectRow("p", "1700000002.00000", 1, "a/b", "e"), redirect=True
        )
        is None
    )
    assert _tables(container.path) == before


def test_the_first_write_brings_a_container_up_to_date(container, tmp_path, databases):
    container.put_object(ObjectRow("p", "1700000002.00000", 7, "a/b", "e", 0, 2))
    stat = container.stat()
    assert (stat.object_count, stat.bytes_used) == (1, 5)
    assert container.policy_stats() == {0: (1, 5), 2: (1, 7)}
    container.update_metadata({"X-Container-Meta-A": ("1", T0)})
    assert container.stat().metadata == {"X-Container-Meta-A": ("1", T0)}
    own = ShardRange.whole("a/c", T0)
    container.merge_shard_ranges([own])
    assert container.own_shard_range() == own
    new = ContainerBroker(
        databases,
        db_path(str(tmp_path), "sda1", "containers", 7, "cd" * 16),
        ContainerName("a", "c"),
    )
    new.create(Timestamp.at(1_700_000_000), 0)
    sync_triggers = {
        f"{way}_sync_{when}"
        for way in ("incoming", "outgoing")
        for when in ("insert", "update")
    }
    assert _tables(new.path) - _tables(container.path) == sync_triggers
    container.merge_rows([ObjectRow.tombstone("o", "1700000003.00000", 0)])
    container.reclaim(1_800_000_000.0, 1_700_000_000.0)
    stat = container.stat()
    assert (stat.object_count, stat.bytes_used) == (0, 0)
    assert stat.hash == chexor("0" * 32, "p", "1700000002.00000")


def test_an_older_table_of_shard_ranges_gets_its_new_columns(tmp_path, databases):
    path = db_path(str(tmp_path), "sda1", "containers", 7, "ab" * 16)
    broker = ContainerBroker(databases, path, ContainerName("a", "c"))
    broker.create(Timestamp.at(1_700_000_000), 0)
    databases.close()
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP TABLE shard_range; CREATE TABLE shard_range ("
        "ROWID INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, timestamp TEXT, "
        "lower TEXT, upper TEXT, object_count INTEGER DEFAULT 0, "
        "bytes_used INTEGER DEFAULT 0, meta_timestamp TEXT, "
        "deleted INTEGER DEFAULT 0, state INTEGER, state_timestamp TEXT, epoch TEXT);"
        "INSERT INTO shard_range (name, timestamp, lower, upper, meta_timestamp, state,"
        " state_timestamp) VALUES ('.s/1', '1', '', '', '1', 40, '1')"
    )
    connection.close()
    [old] = broker.shard_ranges()
    assert (old.reported, old.tombstones) == (0, -1)
    broker.merge_shard_ranges([ShardRange.whole("a/c", T0)])
    assert len(broker.shard_ranges()) == 2


_OLD_ACCOUNT = (
    _SYNCS
    + """
CREATE TABLE container (
    ROWID INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, put_timestamp TEXT,
    delete_timestamp TEXT, object_count INTEGER, bytes_used INTEGER,
    deleted INTEGER DEFAULT 0);
CREATE INDEX ix_container_deleted_name ON container (deleted, name);
CREATE TRIGGER container_insert AFTER INSERT ON container BEGIN
    UPDATE account_stat SET container_count = container_count + (1 - new.deleted),
        object_count = object_count + new.object_count,
        bytes_used = bytes_used + new.bytes_used; END;
CREATE TRIGGER container_delete AFTER DELETE ON container BEGIN
    UPDATE account_stat SET container_count = container_count - (1 - old.deleted),
        object_count = object_count - old.object_count,
        bytes_used = bytes_used - old.bytes_used; END;
CREATE TABLE account_stat (
    account TEXT, created_at TEXT, put_timestamp TEXT DEFAULT '0',
    delete_timestamp TEXT DEFAULT '0', container_count INTEGER,
    object_count INTEGER DEFAULT 0, bytes_used INTEGER DEFAULT 0,
    hash TEXT default '00000000000000000000000000000000', id TEXT,
    status TEXT DEFAULT '', status_changed_at TEXT DEFAULT '0',
    metadata TEXT DEFAULT '');
INSERT INTO account_stat (account, created_at, id, put_timestamp, container_count)
    VALUES ('a', '1', 'id', '1700000000.00000', 0);
INSERT INTO container (name, put_timestamp, delete_timestamp, object_count, bytes_used)
    VALUES ('c', '1700000001.00000', '0', 3, 30);
"""
)


def test_an_account_without_policies_is_read_and_then_migrated(tmp_path, databases):
    path = db_path(str(tmp_path), "sda1", "accounts", 7, "ab" * 16)
    _make(path, _OLD_ACCOUNT)
    broker = AccountBroker(databases, path, AccountName("a"))
    assert broker.stat().container_count == 1
    assert broker.policy_stats() == [PolicyStat(0, 1, 3, 30)]
    assert broker.list_containers(ListingQuery()) == [
        ("c", 3, 30, "1700000001.00000", 0)
    ]
    assert "policy_stat" not in _tables(path)
    broker.merge_rows([ContainerRow("d", "1700000002.00000", "0", 1, 10, 0, 1)])
    assert broker.policy_stats() == [PolicyStat(0, 1, 3, 30), PolicyStat(1, 1, 1, 10)]
    assert broker.stat().container_count == 2


def test_policy_totals_without_container_counts_get_them(tmp_path, databases):
    path = db_path(str(tmp_path), "sda1", "accounts", 7, "ab" * 16)
    _make(
        path,
        _OLD_ACCOUNT
        + "ALTER TABLE container ADD COLUMN storage_policy_index INTEGER DEFAULT 0;"
        "CREATE TABLE policy_stat (storage_policy_index INTEGER PRIMARY KEY, "
        "object_count INTEGER DEFAULT 0, bytes_used INTEGER DEFAULT 0);"
        "INSERT INTO policy_stat VALUES (0, 3, 30);",
    )
    broker = AccountBroker(databases, path)
    assert broker.policy_stats() == [PolicyStat(0, 1, 3, 30)]
    broker.merge_rows([ContainerRow("c", "1700000001.00000", "0", 4, 40)])
    assert broker.policy_stats() == [PolicyStat(0, 1, 4, 40)]
