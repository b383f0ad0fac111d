# SPDX-License-Identifier: Apache-2.0
"""Container databases on a real disk."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import sys
import threading
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.core.errors import (
    DatabaseCorrupt,
    DatabaseExists,
    DatabaseMissing,
    DeviceUnavailable,
    InvalidInput,
    LockTimeout,
)
from swift.core.listing import ListingQuery
from swift.core.names import ContainerName, Limits
from swift.core.rows import ZERO_HASH, ObjectRow, PolicyFacts, chexor
from swift.core.shards import ACTIVE, CREATED, FOUND, ShardQuery, ShardRange
from swift.core.timestamp import Timestamp
from swift.storage.db.connection import PENDING_MAX, Databases, db_path
from swift.storage.db.container import ContainerBroker

NOW = 1_700_000_500.0
T0 = "1700000000.00000"


def _at(second: int) -> str:
    return Timestamp.at(1_700_000_000 + second).internal


def _row(name: str, second: int = 1, size: int = 1, policy: int = 0) -> ObjectRow:
    return ObjectRow(name, _at(second), size, "text/plain", f"etag{second}", 0, policy)


@pytest.fixture
def reports():
    return []


@pytest.fixture
def databases(reports):
    opened = Databases(lambda: NOW, reports.append)
    yield opened
    opened.close()


@pytest.fixture
def unmade(tmp_path, databases):
    path = db_path(str(tmp_path), "sda1", "containers", 7, "ab" * 16)
    return ContainerBroker(databases, path, ContainerName("a", "c"))


@pytest.fixture
def broker(unmade):
    unmade.create(Timestamp.at(1_700_000_000), 0)
    return unmade


def _names(broker, **query):
    return [entry[0] for entry in broker.list_objects(ListingQuery(**query))]


# --- Making ---------------------------------------------------------------------------


def test_a_new_container_is_empty_and_live(broker):
    stat = broker.stat()
    assert (stat.account, stat.container) == ("a", "c")
    assert stat.created_at == "1700000500.00000"
    assert stat.put_timestamp == stat.status_changed_at == T0
    assert stat.delete_timestamp == "0"
    assert stat.hash == ZERO_HASH
    assert stat.id.endswith("-sda1")
    assert (stat.object_count, stat.bytes_used, stat.db_state) == (0, 0, "unsharded")
    assert not stat.is_deleted
    assert broker.empty()
    assert broker.policy_stats() == {0: (0, 0)}


def test_a_container_is_made_once(broker):
    with pytest.raises(DatabaseExists):
        broker.create(Timestamp.at(NOW), 0)
    directory = Path(broker.path).parent
    assert sorted(p.name for p in directory.iterdir()) == [".lock", "ab" * 16 + ".db"]


def test_a_container_that_was_never_made_is_missing(unmade):
    assert not unmade.exists()
    for call in (
        unmade.stat,
        unmade.empty,
        unmade.metadata,
        lambda: unmade.put_now(_row("o")),
        lambda: unmade.put_object(_row("o")),
        lambda: unmade.merge_rows([_row("o")]),
        lambda: unmade.list_objects(ListingQuery()),
        lambda: unmade.delete(_at(1)),
    ):
        with pytest.raises(DatabaseMissing):
            call()
    assert not Path(unmade.path).parent.exists()


def test_many_makers_make_one(tmp_path, databases):
    path = db_path(str(tmp_path), "sda1", "containers", 7, "ab" * 16)
    outcomes = []

    def make():
        broker = ContainerBroker(databases, path, ContainerName("a", "c"))
        try:
            broker.create(Timestamp.at(NOW), 0)
            outcomes.append("made")
        except DatabaseExists:
            outcomes.append("exists")

    threads = [threading.Thread(target=make) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["exists"] * 4 + ["made"]
    assert not list(Path(path).parent.glob("*.tmp"))


# --- Rows -----------------------------------------------------------------------------


def test_a_put_waits_in_the_pending_file_until_a_read(broker):
    assert broker.put_now(_row("o", 1, 10))
    assert os.path.getsize(broker.path + ".pending") > 0
    stat = broker.stat(stale_ok=True)
    assert (stat.object_count, stat.bytes_used) == (1, 10)
    assert os.path.getsize(broker.path + ".pending") == 0
    assert _names(broker) == ["o"]


def test_a_full_pending_file_is_merged_with_the_row(broker):
    count = 0
    while broker.put_now(_row(f"o{count:04}")):
        count += 1
    assert os.path.getsize(broker.path + ".pending") > PENDING_MAX
    broker.put_object(_row("last"))
    assert os.path.getsize(broker.path + ".pending") == 0
    assert broker.stat().object_count == count + 1


def test_a_delete_leaves_a_tombstone(broker):
    broker.put_object(_row("o", 1, 10))
    broker.put_object(ObjectRow.tombstone("o", _at(2), 0))
    stat = broker.stat()
    assert (stat.object_count, stat.bytes_used) == (0, 0)
    assert broker.empty()
    [row] = broker.rows_since(-1, 9)
    assert row["deleted"] == 1
    assert row["etag"] == "noetag"
    # A put of before the deletion does not bring the object back.
    broker.put_object(_row("o", 1, 10))
    assert broker.stat().object_count == 0


def test_rows_of_two_policies_are_counted_and_listed_apart(broker):
    broker.merge_rows([_row("o", 1, 10), _row("o", 2, 20, 3), _row("p", 2, 5, 3)])
    assert broker.policy_stats() == {0: (1, 10), 3: (2, 25)}
    stat = broker.stat()
    assert (stat.object_count, stat.bytes_used) == (1, 10)
    entries = broker.list_objects(ListingQuery(), 3)
    assert [entry[0] for entry in entries] == ["o", "p"]
    assert not broker.empty()


def test_entries_of_a_pending_file_that_do_not_parse_are_skipped(broker, reports):
    broker.put_now(_row("before"))
    with open(broker.path + ".pending", "ab") as pending:
        pending.write(b":!!!!:Y29zCnN5c3RlbQo=:gAIoLg==:")
    broker.put_now(_row("after"))
    broker.stat()
    assert _names(broker) == ["after", "before"]
    assert len(reports) == 3
    assert os.path.getsize(broker.path + ".pending") == 0


def test_a_busy_lock_stops_put_now_and_stale_reads_go_on(broker, databases):
    broker.put_object(_row("o"))
    other = Databases(lambda: NOW)
    with other.lock(os.path.dirname(broker.path)):
        assert not broker.put_now(_row("p"))
        assert broker.stat(stale_ok=True).object_count == 0
        with pytest.raises(LockTimeout):
            broker.put_object(_row("p"), timeout_s=0.01)
        with pytest.raises(LockTimeout):
            broker.commit_pending(0.01)
    assert broker.stat().object_count == 1


def test_names_of_every_kind_are_kept(broker):
    names = ["\x00res\x00x", "ü/☃", "a'b\"c", "%", "\U0001f600", " ", "x\ny"]
    broker.merge_rows([_row(name) for name in names])
    entries = broker.list_objects(ListingQuery(), allow_reserved=True)
    assert [entry[0] for entry in entries] == sorted(names)
    assert _names(broker) == sorted(names)[1:]


def test_text_that_is_no_utf8_is_refused(broker):
    with pytest.raises(InvalidInput):
        broker.merge_rows([_row("bad\udcff")])


def test_writers_in_many_threads_lose_nothing(broker, databases):
    def write(worker):
        for number in range(30):
            row = _row(f"o{worker}-{number}")
            if not broker.put_now(row):
                broker.put_object(row)
            if number % 10 == 0:
                broker.stat(stale_ok=True)

    threads = [threading.Thread(target=write, args=(w,)) for w in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stat = broker.stat()
    assert stat.object_count == 180
    assert len(_names(broker)) == 180


# --- Metadata -------------------------------------------------------------------------


def test_the_newer_value_of_metadata_stays(broker):
    broker.update_metadata({"X-Container-Meta-A": ("1", _at(2))})
    broker.update_metadata({"X-Container-Meta-A": ("0", _at(1))})
    broker.update_metadata({"X-Container-Meta-B": ("☃", _at(1))})
    assert broker.metadata() == {
        "X-Container-Meta-A": ("1", _at(2)),
        "X-Container-Meta-B": ("☃", _at(1)),
    }
    assert broker.stat().metadata == broker.metadata()


def test_metadata_beyond_the_limits_is_refused(broker):
    limits = Limits()
    many = {f"X-Container-Meta-{n}": ("v", _at(1)) for n in range(91)}
    with pytest.raises(InvalidInput, match="Too many metadata items"):
        broker.update_metadata(many, limits)
    with pytest.raises(InvalidInput, match="Total metadata too large"):
        broker.update_metadata({"X-Container-Meta-A": ("v" * 4096, _at(1))}, limits)
    assert broker.metadata() == {}
    sysmeta = {f"X-Container-Sysmeta-{n}": ("v", _at(1)) for n in range(99)}
    broker.update_metadata(sysmeta, limits)
    del many["X-Container-Meta-0"]
    broker.update_metadata(many, limits)


def test_a_new_sync_target_starts_container_sync_anew(broker):
    broker.update_metadata({"X-Container-Sync-To": ("//r/c/a/b", _at(1))})
    with broker.writing() as connection:
        connection.execute("UPDATE container_info SET x_container_sync_point1 = 5")
    broker.update_metadata({"X-Container-Sync-To": ("//r/c/a/b", _at(2))})
    assert broker.stat().x_container_sync_point1 == 5
    broker.update_metadata({"X-Container-Sync-To": ("//r/c/a/z", _at(3))})
    assert broker.stat().x_container_sync_point1 == -1


# --- Deletion -------------------------------------------------------------------------


def test_a_deleted_container_comes_back_with_another_policy(broker):
    broker.update_metadata(
        {
            "X-Container-Meta-A": ("1", _at(1)),
            "X-Container-Sysmeta-Sharding": ("True", _at(1)),
        }
    )
    broker.delete(_at(2))
    stat = broker.stat()
    assert stat.is_deleted
    assert stat.status == "DELETED"
    assert stat.status_changed_at == _at(2)
    assert stat.metadata == {
        "X-Container-Meta-A": ("", _at(2)),
        "X-Container-Sysmeta-Sharding": ("True", _at(1)),
    }
    broker.set_policy(1, _at(3))
    broker.update_put_timestamp(_at(3))
    stat = broker.stat()
    assert not stat.is_deleted
    assert stat.storage_policy_index == 1
    assert stat.status_changed_at == _at(3)


def test_a_new_policy_has_all_rows_looked_at_again(broker):
    broker.put_object(_row("o"))
    broker.update_reconciler_point(1, 0)

    broker.set_policy(0, _at(3))
    assert broker.stat().reconciler_sync_point == 1

    broker.set_policy(1, _at(3))
    stat = broker.stat()
    assert stat.reconciler_sync_point == -1
    found = broker.misplaced_rows(stat.reconciler_sync_point, 10)
    assert [row["name"] for row in found] == ["o"]

    broker.update_reconciler_point(1, 0)  # of a pass that began before
    assert broker.stat().reconciler_sync_point == -1


def test_an_older_delete_changes_nothing(broker):
    broker.delete(_at(5))
    broker.delete(_at(4))
    assert broker.stat().delete_timestamp == _at(5)


def test_a_container_with_objects_is_not_deleted(broker):
    broker.put_object(_row("o"))
    broker.delete(_at(9))
    assert not broker.is_deleted()


def test_times_of_a_replica_are_merged(broker):
    broker.merge_timestamps("1600000000.00000", _at(1), _at(2))
    stat = broker.stat()
    assert stat.created_at == "1600000000.00000"
    assert (stat.put_timestamp, stat.delete_timestamp) == (_at(1), _at(2))
    assert stat.is_deleted
    assert stat.status_changed_at == "1700000500.00000"
    broker.merge_timestamps("1800000000.00000", "0", "0")
    assert broker.stat() == stat


def test_reclaim_forgets_what_is_old_enough(broker):
    broker.merge_rows(
        [
            ObjectRow.tombstone("old", _at(1), 0),
            ObjectRow.tombstone("young", _at(100), 0),
            _row("live", 1),
        ]
    )
    broker.update_metadata(
        {
            "X-Container-Meta-Old": ("", _at(1)),
            "X-Container-Meta-Young": ("", _at(100)),
            "X-Container-Meta-Live": ("v", _at(1)),
        }
    )
    broker.merge_syncs([("other", 5)])
    own = ShardRange.whole("a/c", T0)
    gone = ShardRange(".s/x", "", "m", T0, deleted=1, meta_timestamp=T0, state=ACTIVE)
    broker.merge_shard_ranges([own, gone])
    leftover = Path(broker.path).parent / "x.tmp"
    leftover.write_text("")
    os.utime(leftover, (1, 1))
    broker.reclaim(1_700_000_050.0, 1_700_000_020.0)
    assert [row["name"] for row in broker.rows_since(-1, 9)] == ["young", "live"]
    assert set(broker.metadata()) == {"X-Container-Meta-Young", "X-Container-Meta-Live"}
    assert broker.sync_point("other") == 5
    assert broker.shard_ranges() == [own]
    assert not leftover.exists()


def test_a_container_goes_when_deleted_long_ago_and_reported(broker):
    assert not broker.is_reclaimable(_at(9))
    broker.delete(_at(2))
    assert not broker.is_reported()
    stat = broker.stat()
    broker.reported(stat.put_timestamp, stat.delete_timestamp, 0, 0)
    assert broker.is_reported()
    assert not broker.is_reclaimable(_at(1))
    assert broker.is_reclaimable(_at(9))
    assert not broker.databases.remove(broker.path, still=lambda: False)
    assert broker.exists()
    assert broker.databases.remove(broker.path)
    assert not broker.exists()
    assert not Path(broker.path).parents[2].exists()
    assert Path(broker.path).parents[3].exists()


# --- Shard ranges ---------------------------------------------------------------------


def _shards(state):
    times = {"meta_timestamp": T0, "state_timestamp": T0, "state": state}
    return [
        ShardRange(".s/1", "", "m", T0, 4, 40, **times),
        ShardRange(".s/2", "m", "", T0, 3, 30, **times),
    ]


def test_shard_ranges_are_merged_and_listed(broker):
    assert broker.merge_shard_ranges(_shards(FOUND))
    assert not broker.merge_shard_ranges(_shards(FOUND))
    listed = broker.list_shard_ranges(ShardQuery())
    assert [row.name for row in listed] == [".s/1", ".s/2"]
    assert broker.replication_info()["shard_max_row"] == 2
    assert broker.own_shard_range() is None


def test_an_own_range_without_epoch_does_not_replace_one_with(broker):
    own = replace(ShardRange.whole("a/c", T0), epoch=T0)
    broker.merge_shard_ranges([own])
    assert not broker.merge_shard_ranges([replace(own, timestamp=_at(9), epoch=None)])
    assert broker.own_shard_range() == own


def test_updates_go_on_until_a_shard_can_take_them(tmp_path):
    # The clock is far ahead, so that what is learnt of a directory counts as settled.
    databases = Databases(lambda: 4_000_000_000.0)
    path = db_path(str(tmp_path), "sda1", "containers", 7, "ab" * 16)
    broker = ContainerBroker(databases, path, ContainerName("a", "c"))
    broker.create(Timestamp.at(1_700_000_000), 0)
    row = _row("o")
    assert not broker.put_now(row, redirect=True)
    assert broker.put_object(row, redirect=True) is None
    broker.put_now(row)
    assert broker.put_object(row, redirect=True) is None
    assert broker.put_now(row, redirect=True)
    broker.merge_shard_ranges(_shards(CREATED))
    assert not broker.put_now(row, redirect=True)
    shard = broker.put_object(row, redirect=True)
    assert shard is not None
    assert shard.name == ".s/2"
    assert not broker.put_now(row, redirect=True)
    databases.close()


# --- Trouble --------------------------------------------------------------------------


def _quarantined(tmp_path):
    found = tmp_path / "sda1/quarantined/containers"
    return sorted(p.name for p in found.iterdir()) if found.exists() else []


def _read_all(broker):
    broker.stat()
    broker.list_objects(ListingQuery())
    broker.rows_since(-1, 999)


@pytest.mark.parametrize("damage", ["header", "middle", "empty", "other"])
def test_a_malformed_database_is_moved_aside(damage, broker, tmp_path, reports):
    broker.merge_rows([_row(f"o{n}") for n in range(300)])
    broker.databases.close()
    data = bytearray(Path(broker.path).read_bytes())
    if damage == "header":
        data[:16] = b"not a database!!"
    elif damage == "middle":
        data[4096:] = b"\xa5" * (len(data) - 4096)
    elif damage == "empty":
        data = bytearray()
    else:
        data = bytearray(b"")
        Path(broker.path).unlink()
        connection = sqlite3.connect(broker.path)
        connection.execute("CREATE TABLE t (x)")
        connection.close()
    if data or damage == "empty":
        Path(broker.path).write_bytes(data)
    with pytest.raises(DatabaseCorrupt):
        _read_all(broker)
    assert _quarantined(tmp_path) == ["ab" * 16]
    assert len(reports) == 1
    with pytest.raises(DatabaseMissing):
        broker.stat()


def test_a_second_malformed_database_gets_another_place(broker, tmp_path):
    for _ in range(2):
        if not broker.exists():
            broker.create(Timestamp.at(NOW), 0)
        broker.databases.close()
        Path(broker.path).write_bytes(b"x" * 4096)
        with pytest.raises(DatabaseCorrupt):
            broker.stat()
    assert len(_quarantined(tmp_path)) == 2


def test_a_database_without_its_row_of_facts_is_moved_aside(broker, tmp_path):
    with broker.writing() as connection:
        connection.execute("DELETE FROM container_info")
    with pytest.raises(DatabaseCorrupt):
        broker.stat()
    assert _quarantined(tmp_path) == ["ab" * 16]


def test_a_replaced_file_is_seen_at_once(broker, tmp_path, databases):
    broker.put_object(_row("o"))
    assert broker.stat().object_count == 1
    other = ContainerBroker(
        databases,
        db_path(str(tmp_path), "sda1", "containers", 7, "cd" * 16),
        ContainerName("a", "c"),
    )
    other.create(Timestamp.at(NOW), 0)
    os.rename(other.path, broker.path)
    assert broker.stat().object_count == 0


def test_a_removed_directory_is_seen_at_once(broker, databases):
    broker.stat()
    databases.remove(broker.path)
    with pytest.raises(DatabaseMissing):
        broker.stat()


def test_an_error_inside_a_transaction_undoes_it(broker):
    class Stop(Exception):
        pass

    def half() -> None:
        with broker.writing() as connection:
            connection.execute("UPDATE container_info SET put_timestamp = 'x'")
            raise Stop

    with pytest.raises(Stop):
        half()
    assert broker.stat().put_timestamp == T0
    broker.put_object(_row("o"))
    assert broker.stat().object_count == 1


def test_kept_connections_are_bounded(tmp_path):
    databases = Databases(lambda: NOW, idle_max=3)
    for number in range(8):
        path = db_path(str(tmp_path), "sda1", "containers", 7, f"{number:032x}")
        broker = ContainerBroker(databases, path, ContainerName("a", str(number)))
        broker.create(Timestamp.at(NOW), 0)
        broker.stat()
    open_files = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    mine = [name for name in open_files if name.startswith(str(tmp_path))]
    assert len(mine) == 3
    databases.close()


def test_a_forked_child_opens_connections_of_its_own(broker):
    broker.put_object(_row("o"))
    broker.stat()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            broker.merge_rows([_row("p")])
            code = 0 if broker.stat().object_count == 2 else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert broker.stat().object_count == 2


def test_a_policy_is_adopted_from_a_better_replica(broker):
    remote = PolicyFacts(1, _at(-100), "0", _at(-100), 5)
    assert broker.adopt_policy(remote, broker.stat().policy_facts)
    assert broker.stat().storage_policy_index == 1
    assert not broker.adopt_policy(remote, broker.stat().policy_facts)


@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="sqlite3 does not tell a failed write before 3.11",
)
def test_a_write_beyond_a_quota_neither_harms_nor_moves_the_database(broker, tmp_path):
    broker.merge_rows([_row("before")])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limit = os.path.getsize(broker.path) + 8192
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            broker.merge_rows([_row("x" * 200 + str(n)) for n in range(9000)])
        except DeviceUnavailable:
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert _quarantined(tmp_path) == []
    assert broker.stat().object_count == 1
    broker.merge_rows([_row("after")])
    assert _names(broker) == ["after", "before"]


# --- Invariants -----------------------------------------------------------------------

_rows = st.builds(
    lambda name, second, deleted, policy: (
        ObjectRow.tombstone(name, _at(second), policy)
        if deleted
        else _row(name, second, second, policy)
    ),
    st.sampled_from("abcd"),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 1),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(_rows, max_size=6), max_size=5))
def test_counts_and_hash_are_those_of_the_rows(batches):
    with TemporaryDirectory() as root:
        databases = Databases(lambda: NOW)
        path = db_path(root, "sda1", "containers", 7, "ab" * 16)
        broker = ContainerBroker(databases, path, ContainerName("a", "c"))
        broker.create(Timestamp.at(1_700_000_000), 0)
        for batch in batches:
            broker.merge_rows(batch)
        rows = broker.rows_since(-1, 999)
        keys = [(row["name"], row["storage_policy_index"]) for row in rows]
        assert len(keys) == len(set(keys))
        digest = ZERO_HASH
        for row in rows:
            digest = chexor(digest, row["name"], row["created_at"])
        assert broker.stat().hash == digest
        for policy, counts in broker.policy_stats().items():
            mine = [r for r in rows if r["storage_policy_index"] == policy]
            live = [r for r in mine if not r["deleted"]]
            assert counts == (len(live), sum(r["size"] for r in mine))
        databases.close()


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_bytes_in_a_pending_file_stop_a_read(data):
    with TemporaryDirectory() as root:
        databases = Databases(lambda: NOW)
        path = db_path(root, "sda1", "containers", 7, "ab" * 16)
        broker = ContainerBroker(databases, path, ContainerName("a", "c"))
        broker.create(Timestamp.at(1_700_000_000), 0)
        Path(path + ".pending").write_bytes(b":" + b64encode(data) + b":" + data)
        assert broker.stat().object_count == 0
        databases.close()
