# SPDX-License-Identifier: Apache-2.0
"""The receiving end of database replication."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from swift.core.errors import Conflict, DatabaseExists, DatabaseMissing, InvalidInput
from swift.core.names import AccountName, ContainerName
from swift.core.rows import ContainerRow, ObjectRow
from swift.core.shards import ShardRange
from swift.core.timestamp import Timestamp
from swift.storage.db.account import AccountBroker
from swift.storage.db.connection import Databases, db_path
from swift.storage.db.container import ContainerBroker
from swift.storage.db.sync import (
    RemoteInfo,
    complete_rsync,
    merge_items,
    merge_shard_ranges,
    merge_syncs,
    receive_sync,
    rsync_then_merge,
)

NOW = 1_700_000_500.0
HASH = "ab" * 16


def _at(second: int) -> str:
    return Timestamp.at(1_700_000_000 + second).internal


def _row(name: str, second: int = 1) -> ObjectRow:
    return ObjectRow(name, _at(second), 1, "a/b", f"e{second}")


@pytest.fixture
def databases():
    opened = Databases(lambda: NOW)
    yield opened
    opened.close()


def _container(tmp_path, databases, device, *, made=True):
    path = db_path(str(tmp_path), device, "containers", 7, HASH)
    broker = ContainerBroker(databases, path, ContainerName("a", "c"))
    if made:
        broker.create(Timestamp.at(1_700_000_000), 0)
    return broker


@pytest.fixture
def pair(tmp_path, databases):
    return (
        _container(tmp_path, databases, "sda1"),
        _container(tmp_path, databases, "sdb1"),
    )


def _arguments(broker, **changes):
    info = broker.replication_info() | changes
    names = (
        "max_row hash id created_at put_timestamp delete_timestamp metadata "
        "status_changed_at count storage_policy_index"
    )
    return json.loads(json.dumps([info[name] for name in names.split()]))


def _sync(sender, receiver, **changes):
    remote = RemoteInfo.from_arguments(_arguments(sender, **changes))
    return receive_sync(receiver, remote)


def test_a_sync_answers_with_the_info_and_the_point(pair):
    sender, receiver = pair
    sender.merge_rows([_row("o")])
    answer = _sync(sender, receiver)
    assert answer["point"] == -1
    assert answer["count"] == 0
    assert answer["id"] == receiver.stat().id


def test_a_sync_of_equal_copies_moves_the_point(pair):
    sender, receiver = pair
    for broker in pair:
        broker.merge_rows([_row("o")])
    assert _sync(sender, receiver)["point"] == 1
    assert receiver.sync_point(sender.stat().id) == 1


def test_a_sync_takes_metadata_times_and_policy(pair):
    sender, receiver = pair
    sender.update_metadata({"X-Container-Meta-A": ("1", _at(1))})
    sender.update_put_timestamp(_at(5))
    _sync(sender, receiver)
    assert receiver.stat().metadata == sender.stat().metadata
    assert receiver.stat().put_timestamp == _at(5)
    _sync(sender, receiver, storage_policy_index=2, status_changed_at=_at(-9))
    assert receiver.stat().storage_policy_index == 2


def test_rows_come_in_batches_and_copies_become_equal(pair):
    sender, receiver = pair
    sender.merge_rows([_row(f"o{n}") for n in range(7)])
    receiver.merge_rows([_row("mine", 3), _row("o1", 9)])
    start = -1
    while records := sender.rows_since(start, 3):
        merge_items(receiver, json.loads(json.dumps(records)), sender.stat().id)
        start = records[-1]["ROWID"]
    assert receiver.sync_point(sender.stat().id) == 7
    merge_items(sender, receiver.rows_since(-1, 99), receiver.stat().id)
    assert sender.stat().hash == receiver.stat().hash
    assert sender.stat().object_count == 8


def test_accounts_are_synced_alike(tmp_path, databases):
    brokers = []
    for device in ("sda1", "sdb1"):
        path = db_path(str(tmp_path), device, "accounts", 7, HASH)
        broker = AccountBroker(databases, path, AccountName("a"))
        broker.create(Timestamp.at(1_700_000_000))
        brokers.append(broker)
    sender, receiver = brokers
    sender.merge_rows([ContainerRow("c", _at(1), "0", 3, 30)])
    names = "max_row hash id created_at put_timestamp delete_timestamp metadata"
    info = sender.replication_info()
    remote = RemoteInfo.from_arguments([info[name] for name in names.split()])
    assert receive_sync(receiver, remote)["point"] == -1
    merge_items(receiver, sender.rows_since(-1, 9), info["id"])
    assert receive_sync(receiver, remote)["point"] == 1
    assert receiver.replication_info()["hash"] == info["hash"]


def test_sync_points_and_shard_ranges_are_merged(pair):
    _, receiver = pair
    merge_syncs(receiver, [{"remote_id": "x", "sync_point": 4}])
    assert receiver.sync_point("x") == 4
    own = ShardRange.whole("a/c", _at(1))
    merge_shard_ranges(receiver, [own.as_record()])
    assert receiver.own_shard_range() == own


@pytest.mark.parametrize(
    "call",
    [
        lambda b: RemoteInfo.from_arguments([]),
        lambda b: RemoteInfo.from_arguments(["1"] * 7),
        lambda b: RemoteInfo.from_arguments([1] * 7),
        lambda b: merge_items(b, [{}], "x"),
        lambda b: merge_items(b, [1], "x"),
        lambda b: merge_syncs(b, [{}]),
        lambda b: merge_shard_ranges(b, [{"name": "x"}]),
        lambda b: merge_shard_ranges(b, [1]),
        lambda b: complete_rsync(b, "../x", None),
        lambda b: complete_rsync(b, "x", "../y.db"),
        lambda b: complete_rsync(b, "x", "other.db"),
    ],
)
def test_calls_that_make_no_sense_are_refused(call, pair):
    with pytest.raises(InvalidInput):
        call(pair[1])


# --- Whole files ----------------------------------------------------------------------


def _copied(tmp_path, sender, device):
    """What rsync does: the sender's file in the other device's tmp directory."""
    database_id = sender.stat().id
    sender.databases.close()
    (tmp_path / device / "tmp").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sender.path, tmp_path / device / "tmp" / database_id)
    return database_id


def test_a_copied_file_is_put_in_place_with_an_id_of_its_own(tmp_path, databases):
    sender = _container(tmp_path, databases, "sda1")
    sender.merge_rows([_row("o"), _row("p")])
    sender.reported(_at(1), "0", 2, 2)
    receiver = _container(tmp_path, databases, "sdb1", made=False)
    sender_id = _copied(tmp_path, sender, "sdb1")
    complete_rsync(receiver, sender_id, f"{HASH}.db")
    stat = receiver.stat()
    assert stat.object_count == 2
    assert stat.id != sender_id
    assert stat.id.endswith("-sdb1")
    assert stat.reported_object_count == 0
    assert receiver.sync_point(sender_id) == 2
    assert os.listdir(tmp_path / "sdb1/tmp") == []


def test_the_journal_of_an_earlier_copy_does_not_spoil_a_new_one(tmp_path, pair):
    sender, receiver = pair
    sender.merge_rows([_row(f"o{number:03d}") for number in range(200)])
    sender_id = _copied(tmp_path, sender, "sdb1")
    copy = tmp_path / "sdb1" / "tmp" / sender_id
    # A process that merges dies in the middle of its transaction.
    with closing(sqlite3.connect(copy, isolation_level=None)) as dying:
        dying.execute("PRAGMA cache_size = 1")
        dying.execute("BEGIN IMMEDIATE")
        dying.execute("DROP TRIGGER object_update")
        dying.execute("UPDATE object SET etag = 'spoiled'")
        journal = copy.with_name(f"{copy.name}-journal").read_bytes()
    sender.merge_rows([_row(f"p{number:03d}") for number in range(200)])
    assert _copied(tmp_path, sender, "sdb1") == sender_id
    copy.with_name(f"{copy.name}-journal").write_bytes(journal)

    rsync_then_merge(receiver, sender_id, None)

    assert receiver.stat().object_count == sender.stat().object_count
    assert receiver.stat().hash == sender.stat().hash
    assert os.listdir(copy.parent) == []


def test_a_copied_file_does_not_replace_what_is_there(tmp_path, pair):
    sender, receiver = pair
    sender_id = _copied(tmp_path, sender, "sdb1")
    with pytest.raises(DatabaseExists):
        complete_rsync(receiver, sender_id, None)


def test_a_copy_that_never_came_is_missing(tmp_path, databases, pair):
    unmade = _container(tmp_path, databases, "sdc1", made=False)
    with pytest.raises(DatabaseMissing):
        complete_rsync(unmade, "nothing", None)
    with pytest.raises(DatabaseMissing):
        rsync_then_merge(pair[1], "nothing", None)
    with pytest.raises(DatabaseMissing):
        rsync_then_merge(unmade, "nothing", None)


def test_a_copied_file_takes_in_what_was_there(tmp_path, pair):
    sender, receiver = pair
    sender.merge_rows([_row(f"o{n}") for n in range(5)])
    receiver.merge_rows([_row("mine"), _row("o1", 9)])
    receiver.put_object(_row("pending"))
    receiver.merge_syncs([("third", 3)])
    receiver.update_metadata({"X-Container-Meta-A": ("1", _at(1))})
    sender_id = _copied(tmp_path, sender, "sdb1")
    rsync_then_merge(receiver, sender_id, f"{HASH}.db")
    stat = receiver.stat()
    assert stat.object_count == 7
    assert stat.metadata == {"X-Container-Meta-A": ("1", _at(1))}
    assert stat.id.endswith("-sdb1")
    assert receiver.sync_point("third") == 3
    # The point is the copy's last ROWID before our rows were added to it.
    assert receiver.sync_point(sender_id) == 5
    newest = {row["name"]: row["etag"] for row in receiver.rows_since(-1, 99)}
    assert newest["o1"] == "e9"


def test_a_copied_file_is_refused_once_sharding_has_begun(tmp_path, pair):
    sender, receiver = pair
    own = ShardRange("a/c", "", "", _at(1), 0, 0, _at(1), 0, 60, _at(1), epoch=_at(1))
    receiver.merge_shard_ranges([own])
    sender_id = _copied(tmp_path, sender, "sdb1")
    with pytest.raises(Conflict):
        rsync_then_merge(receiver, sender_id, None)
