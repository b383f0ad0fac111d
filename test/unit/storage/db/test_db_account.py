# SPDX-License-Identifier: Apache-2.0
"""Account databases on a real disk."""

from __future__ import annotations

import os

import pytest

from swift.core.errors import DatabaseExists, DatabaseMissing
from swift.core.listing import ListingQuery
from swift.core.names import AccountName
from swift.core.rows import ContainerRow
from swift.core.timestamp import Timestamp
from swift.storage.db.account import AccountBroker, PolicyStat
from swift.storage.db.connection import Databases, db_path

NOW = 1_700_000_500.0
T0 = "1700000000.00000"


def _at(second: int) -> str:
    return Timestamp.at(1_700_000_000 + second).internal


@pytest.fixture
def databases():
    opened = Databases(lambda: NOW)
    yield opened
    opened.close()


@pytest.fixture
def unmade(tmp_path, databases):
    path = db_path(str(tmp_path), "sda1", "accounts", 7, "ab" * 16)
    return AccountBroker(databases, path, AccountName("a"))


@pytest.fixture
def broker(unmade):
    unmade.create(Timestamp.at(1_700_000_000))
    return unmade


def test_a_new_account_is_empty_and_live(broker):
    stat = broker.stat()
    assert stat.account == "a"
    assert stat.put_timestamp == stat.status_changed_at == T0
    assert (stat.container_count, stat.object_count, stat.bytes_used) == (0, 0, 0)
    assert not stat.is_deleted
    assert broker.empty()
    assert broker.policy_stats() == []
    with pytest.raises(DatabaseExists):
        broker.create(Timestamp.at(NOW))


def test_an_account_that_was_never_made_is_missing(unmade):
    for call in (
        unmade.stat,
        unmade.policy_stats,
        lambda: unmade.put_now(ContainerRow("c", T0, "0", 0, 0)),
        lambda: unmade.put_container(ContainerRow("c", T0, "0", 0, 0)),
        lambda: unmade.list_containers(ListingQuery()),
    ):
        with pytest.raises(DatabaseMissing):
            call()


def test_reports_of_containers_add_up(broker):
    assert broker.put_now(ContainerRow("c", _at(1), "0", "3", "300", 0, "0"))
    broker.put_container(ContainerRow("d", _at(1), "0", 2, 20, 0, 1))
    stat = broker.stat(stale_ok=True)
    assert (stat.container_count, stat.object_count, stat.bytes_used) == (2, 5, 320)
    assert broker.policy_stats() == [PolicyStat(0, 1, 3, 300), PolicyStat(1, 1, 2, 20)]
    broker.put_container(ContainerRow("c", _at(1), "0", 1, 100, 0, 0))
    stat = broker.stat()
    assert (stat.container_count, stat.object_count, stat.bytes_used) == (2, 3, 120)
    assert not broker.empty()
    assert [e[0] for e in broker.list_containers(ListingQuery())] == ["c", "d"]


def test_a_deleted_container_leaves_the_listing(broker):
    broker.put_container(ContainerRow("c", _at(1), "0", 0, 0))
    broker.put_container(ContainerRow("c", _at(1), _at(2), 0, 0))
    assert broker.stat().container_count == 0
    assert broker.list_containers(ListingQuery()) == []
    broker.put_container(ContainerRow("c", _at(3), _at(2), 0, 0))
    assert broker.stat().container_count == 1


def test_a_container_that_moved_its_policy_is_counted_once(broker):
    broker.put_container(ContainerRow("c", _at(1), "0", 3, 30, 0, 0))
    broker.stat()
    broker.put_container(ContainerRow("c", _at(2), "0", 3, 30, 0, 1))
    broker.stat()
    assert broker.policy_stats() == [PolicyStat(0, 0, 0, 0), PolicyStat(1, 1, 3, 30)]


def test_a_deleted_account_waits_for_the_reaper(broker):
    broker.put_container(ContainerRow("c", _at(1), "0", 3, 30))
    broker.update_metadata({"X-Account-Meta-A": ("1", _at(1))})
    broker.delete(_at(2))
    stat = broker.stat()
    assert stat.is_status_deleted
    assert stat.is_deleted
    assert stat.metadata == {"X-Account-Meta-A": ("", _at(2))}
    assert not broker.is_reclaimable(_at(9))


def test_a_copy_that_hears_of_the_deletion_waits_for_the_reaper_too(broker):
    broker.put_container(ContainerRow("c", _at(1), "0", 3, 30))
    stat = broker.stat()
    assert not stat.is_status_deleted

    broker.merge_timestamps(stat.created_at, stat.put_timestamp, _at(2))
    assert broker.stat().is_status_deleted


def test_an_account_goes_when_empty_and_deleted_long_ago(broker):
    assert not broker.is_reclaimable(_at(9))
    broker.delete(_at(2))
    assert not broker.is_reclaimable(_at(2))
    assert broker.is_reclaimable(_at(9))


def test_reclaim_writes_nothing_while_nothing_is_old(broker):
    broker.merge_rows([ContainerRow("c", _at(1), _at(60), 0, 0, 1)])
    broker.merge_syncs([("peer", 3)])
    told = []
    watched = Databases(lambda: NOW, trace=told.append)

    AccountBroker(watched, broker.path).reclaim(1_700_000_050.0, 1_700_000_020.0)

    watched.close()
    assert told
    assert not [line for line in told if line.startswith(("BEGIN", "DELETE"))]


def test_reclaim_forgets_old_tombstones_in_batches(broker, monkeypatch):
    monkeypatch.setattr("swift.storage.db.broker.RECLAIM_BATCH", 7)
    rows = [ContainerRow(f"c{n:03}", _at(1), _at(2), 0, 0, 1) for n in range(50)]
    rows += [ContainerRow("live", _at(1), "0", 0, 0)]
    rows += [ContainerRow("young", _at(1), _at(99), 0, 0, 1)]
    broker.merge_rows(rows)
    before = broker.stat()
    broker.reclaim(1_700_000_050.0, 1_700_000_000.0)
    assert [row["name"] for row in broker.rows_since(-1, 99)] == ["live", "young"]
    assert broker.stat().container_count == before.container_count == 1


def test_sync_points_never_move_back(broker):
    broker.merge_syncs([("x", 5), ("y", 1)])
    broker.merge_syncs([("x", 3), ("y", 2)])
    assert broker.sync_point("x") == 5
    assert broker.sync_point("z") == -1
    assert broker.sync_point("x", incoming=False) == -1
    broker.merge_syncs([("x", 9)], incoming=False)
    assert broker.syncs() == [
        {"remote_id": "x", "sync_point": 5},
        {"remote_id": "y", "sync_point": 2},
    ]
    assert broker.syncs(incoming=False) == [{"remote_id": "x", "sync_point": 9}]


def test_a_full_disk_writes_no_half_entry(broker, monkeypatch):
    # A short write is what a full disk or a quota gives for an append.
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
    with pytest.raises(Exception, match="short write"):
        broker.put_container(ContainerRow("c", _at(1), "0", 3, 30))
    monkeypatch.undo()
    assert os.path.getsize(broker.path + ".pending") == 0
    broker.put_container(ContainerRow("d", _at(1), "0", 3, 30))
    assert broker.stat().container_count == 1


def test_statements_are_told_to_who_wants_them(tmp_path):
    told = []
    opened = Databases(lambda: NOW, trace=told.append)
    try:
        path = db_path(str(tmp_path), "sda1", "accounts", 7, "ab" * 16)
        broker = AccountBroker(opened, path, AccountName("a"))
        broker.create(Timestamp.at(1_700_000_000))
        broker.stat()
    finally:
        opened.close()
    assert any(statement.startswith("SELECT") for statement in told)
