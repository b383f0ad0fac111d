# SPDX-License-Identifier: Apache-2.0
"""Replicators of databases against real servers: what each peer has after a pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift.core.names import AccountName, ContainerName
from swift.daemons.account_replicator import AccountReplicator
from swift.daemons.container_replicator import ContainerReplicator
from test.support.db_nodes import (
    DbNodes,
    container_row,
    moment,
    names_in,
    object_row,
)

NAME = ContainerName("AUTH_a", "c")
ACCOUNT = AccountName("AUTH_a")


@pytest.fixture
def nodes(tmp_path):
    made = DbNodes(tmp_path)
    yield made
    made.close()


def rows(count, start=0, **kwargs):
    return [object_row(f"o{i:04d}", at=i / 1000, **kwargs) for i in range(start, count)]


def errors(nodes):
    return [line for level, line in nodes.sink.lines if level >= 40]


def queued_rows(nodes, broker):
    """Rows of all databases but those of the same container as `broker`."""
    return [
        row
        for path in nodes.root.glob("n*/sda1/containers/*/*/*/*.db")
        if Path(broker.path).name != path.name
        for row in broker.of_file(str(path)).rows_since(-1, 9)
    ]


def test_rows_that_a_peer_lacks_are_pushed(nodes):
    first, second, third = nodes.primaries(NAME)
    brokers = [nodes.create(NAME, number) for number in (first, second, third)]
    brokers[0].merge_rows([object_row("only-first")])
    brokers[1].merge_rows([object_row("only-second")])
    stats = nodes.run(ContainerReplicator, first).stats.counts
    assert names_in(brokers[1]) == ["only-first", "only-second"]
    assert names_in(brokers[2]) == ["only-first"]
    assert (stats["success"], stats["failure"], stats["diff"]) == (2, 0, 2)
    nodes.run(ContainerReplicator, second)
    assert len({broker.stat().hash for broker in brokers}) == 1


def test_a_second_pass_finds_nothing_to_do(nodes):
    brokers = [nodes.create(NAME, number) for number in nodes.primaries(NAME)]
    brokers[0].merge_rows(rows(5))
    nodes.run_all(ContainerReplicator)
    stats = [each.stats.counts for each in nodes.run_all(ContainerReplicator)]
    assert sum(each["diff"] for each in stats) == 0
    assert sum(each["no_change"] for each in stats) == 6


def test_equal_hashes_move_the_points_without_rows(nodes):
    brokers = [nodes.create(NAME, number) for number in nodes.primaries(NAME)]
    same = rows(3)
    for broker in brokers:
        broker.merge_rows(same)
    daemon = nodes.run(ContainerReplicator, nodes.primaries(NAME)[0])
    assert daemon.stats.counts["diff"] == 0
    assert brokers[1].sync_point(brokers[0].stat().id) == 3


def test_many_rows_go_in_batches_and_the_rest_waits(nodes):
    brokers = [nodes.create(NAME, number) for number in nodes.primaries(NAME)]
    brokers[0].merge_rows(rows(10))
    first = nodes.primaries(NAME)[0]
    options = {"per_diff": 3, "max_diffs": 2}
    for broker in brokers[1:]:
        broker.merge_rows(rows(8, 0, size=1))
    daemon = nodes.run(ContainerReplicator, first, **options)
    assert daemon.stats.counts["diff_capped"] == 2
    assert daemon.stats.counts["failure"] == 2
    assert "o0009" not in names_in(brokers[1])
    daemon = nodes.run(ContainerReplicator, first, **options)
    assert daemon.stats.counts["failure"] == 0
    assert "o0009" in names_in(brokers[1])


def test_exactly_as_many_rows_as_batches_is_not_capped(nodes):
    brokers = [nodes.create(NAME, number) for number in nodes.primaries(NAME)]
    brokers[0].merge_rows(rows(6))
    first = nodes.primaries(NAME)[0]
    for broker in brokers[1:]:
        broker.merge_rows(rows(4, 0, size=1))
    daemon = nodes.run(ContainerReplicator, first, per_diff=3, max_diffs=2)
    assert daemon.stats.counts["diff_capped"] == 0
    assert daemon.stats.counts["success"] == 2


def test_metadata_and_times_meet_on_both_sides(nodes):
    first, second, third = nodes.primaries(NAME)
    brokers = [nodes.create(NAME, n, at=n) for n in (first, second, third)]
    brokers[0].update_metadata({"X-Container-Meta-A": ("1", moment(1))})
    brokers[1].update_metadata({"X-Container-Meta-B": ("2", moment(2))})
    brokers[1].update_metadata({"X-Container-Meta-A": ("new", moment(3))})
    nodes.run(ContainerReplicator, first)
    for broker in brokers[:2]:
        values = {name: pair[0] for name, pair in broker.metadata().items()}
        assert values == {"X-Container-Meta-A": "new", "X-Container-Meta-B": "2"}
    stats = [broker.stat() for broker in brokers]
    assert len({stat.put_timestamp for stat in stats[:2]}) == 1
    assert len({stat.created_at for stat in stats[:2]}) == 1


def test_a_missing_copy_is_made_by_rsync(nodes):
    nodes.start_rsync()
    first, second, third = nodes.primaries(NAME)
    source = nodes.create(NAME, first)
    nodes.create(NAME, third)
    source.merge_rows(rows(20))
    source.update_metadata({"X-Container-Meta-A": ("1", moment(1))})
    daemon = nodes.run(ContainerReplicator, first)
    copy = nodes.broker(NAME, second)
    assert daemon.stats.counts["rsync"] == 1, errors(nodes)
    assert names_in(copy) == names_in(source)
    assert copy.metadata() == source.metadata()
    assert copy.stat().id != source.stat().id
    assert copy.stat().hash == source.stat().hash
    assert copy.sync_point(source.stat().id) == 20


def test_a_copy_far_behind_takes_the_file_and_keeps_its_rows(nodes):
    nodes.start_rsync()
    first, second, third = nodes.primaries(NAME)
    source, behind = nodes.create(NAME, first), nodes.create(NAME, second)
    nodes.create(NAME, third).merge_rows(rows(50))
    source.merge_rows(rows(50))
    behind.merge_rows([object_row("of-its-own")])
    daemon = nodes.run(ContainerReplicator, first, per_diff=5)
    assert daemon.stats.counts["remote_merge"] == 1
    assert daemon.stats.counts["failure"] == 0, errors(nodes)
    assert len(names_in(behind)) == 51
    assert "of-its-own" in names_in(behind)


def test_without_rsync_a_missing_copy_is_a_failure_and_one_far_behind_gets_rows(nodes):
    first, second, third = nodes.primaries(NAME)
    source, behind = nodes.create(NAME, first), nodes.create(NAME, second)
    source.merge_rows(rows(50))
    daemon = nodes.run(ContainerReplicator, first, per_diff=5)
    assert names_in(behind) == names_in(source)
    assert not nodes.broker(NAME, third).exists()
    assert (daemon.stats.counts["success"], daemon.stats.counts["failure"]) == (1, 1)
    assert any("rsync exited with" in line for line in errors(nodes))


def test_a_handoff_goes_when_all_primaries_have_its_rows(nodes):
    nodes.start_rsync()
    handoff = nodes.handoff(NAME)
    copy = nodes.create(NAME, handoff)
    copy.merge_rows(rows(3))
    daemon = nodes.run(ContainerReplicator, handoff)
    for number in nodes.primaries(NAME):
        assert names_in(nodes.broker(NAME, number)) == ["o0000", "o0001", "o0002"]
    assert daemon.stats.counts["remove"] == 1
    assert not copy.exists()
    assert not Path(copy.path).parents[2].exists()


def test_a_handoff_stays_while_a_primary_is_down(nodes):
    nodes.start_rsync()
    handoff = nodes.handoff(NAME)
    copy = nodes.create(NAME, handoff)
    nodes.nodes[nodes.primaries(NAME)[1]].close()
    daemon = nodes.run(ContainerReplicator, handoff)
    assert copy.exists()
    assert daemon.stats.counts["remove"] == 0
    assert nodes.run(ContainerReplicator, handoff, handoff_delete=2) is not None
    assert not copy.exists()


def test_a_database_in_the_wrong_partition_goes_to_its_primaries(nodes):
    nodes.start_rsync()
    first = nodes.primaries(NAME)[0]
    lost = nodes.create(NAME, first, partition=15)
    lost.merge_rows(rows(2))
    nodes.run(ContainerReplicator, first)
    assert not lost.exists()
    for number in nodes.primaries(NAME)[1:]:
        assert len(names_in(nodes.broker(NAME, number))) == 2
    assert any("belongs to" in line for line in errors(nodes))


def test_handoffs_only_leaves_our_own_alone(nodes):
    nodes.start_rsync()
    first = nodes.primaries(NAME)[0]
    nodes.create(NAME, first)
    daemon = nodes.run(ContainerReplicator, first, handoffs_only=True)
    assert daemon.stats.counts["attempted"] == 0


def test_a_deleted_container_goes_once_it_was_reported(nodes):
    first = nodes.primaries(NAME)[0]
    broker = nodes.create(NAME, first)
    broker.delete(moment(5))
    nodes.run(ContainerReplicator, first, reclaim_age_s=100.0)
    assert broker.exists()
    stat = broker.stat()
    broker.reported(stat.put_timestamp, stat.delete_timestamp, 0, 0)
    nodes.run(ContainerReplicator, first)
    assert broker.exists()
    daemon = nodes.run(ContainerReplicator, first, reclaim_age_s=100.0)
    assert not broker.exists()
    assert daemon.stats.counts["remove"] == 1


def test_old_tombstones_are_reclaimed(nodes):
    first = nodes.primaries(NAME)[0]
    broker = nodes.create(NAME, first)
    broker.merge_rows([object_row("gone", at=1, deleted=1), object_row("here")])
    nodes.run(ContainerReplicator, first)
    assert len(broker.rows_since(-1, 9)) == 2
    nodes.run(ContainerReplicator, first, reclaim_age_s=100.0)
    assert [row["name"] for row in broker.rows_since(-1, 9)] == ["here"]


def test_an_account_is_replicated_and_its_totals_follow(nodes):
    nodes.start_rsync()
    first, second, third = nodes.primaries(ACCOUNT)
    source, peer = nodes.create(ACCOUNT, first), nodes.create(ACCOUNT, second)
    source.merge_rows([container_row("c1", 3, 30), container_row("c2", 4, 40)])
    nodes.run(AccountReplicator, first)
    for broker in (peer, nodes.broker(ACCOUNT, third)):
        stat = broker.stat()
        assert (stat.container_count, stat.object_count, stat.bytes_used) == (2, 7, 70)


def test_policies_in_conflict_are_settled_alike_and_rows_are_enqueued(nodes):
    first, second, third = nodes.primaries(NAME)
    older = nodes.create(NAME, first, at=1, policy=0)
    newer = nodes.create(NAME, second, at=2, policy=1)
    nodes.create(NAME, third, at=1, policy=0)
    newer.merge_rows([object_row("lost", policy=1)])
    nodes.run(ContainerReplicator, second)
    assert {older.stat().storage_policy_index, newer.stat().storage_policy_index} == {0}
    queued = queued_rows(nodes, newer)
    assert {row["name"] for row in queued} == {"1:/AUTH_a/c/lost"}
    assert {row["content_type"] for row in queued} == {"application/x-put"}
    assert newer.stat().reconciler_sync_point == newer.max_row()


def test_a_drained_device_enqueues_what_it_holds_of_another_policy(tmp_path):
    drained = 3
    nodes = DbNodes(tmp_path, drained=(drained,))
    try:
        nodes.start_rsync()
        for number in nodes.primaries(NAME):
            nodes.create(NAME, number, at=1, policy=0)
        ours = nodes.create(NAME, drained, at=2, policy=1)
        ours.merge_rows([object_row("lost", policy=1)])

        daemon = nodes.run(ContainerReplicator, drained)

        assert errors(nodes) == []
        assert daemon.stats.counts["failure"] == 0
        rows = queued_rows(nodes, nodes.broker(NAME, 0))
        assert {row["name"] for row in rows} == {"1:/AUTH_a/c/lost"}
        assert not ours.exists()
    finally:
        nodes.close()


def test_shard_ranges_go_both_ways_and_rows_stop_once_sharding_began(nodes):
    from swift.core.shards import ACTIVE, SHARDING, ShardRange

    first, second, third = nodes.primaries(NAME)
    brokers = [nodes.create(NAME, number) for number in (first, second, third)]
    now = moment(1)
    low = ShardRange(".s/low", "", "m", now, meta_timestamp=now, state=ACTIVE,
                     state_timestamp=now)  # fmt: skip
    high = ShardRange(".s/high", "m", "", now, meta_timestamp=now, state=ACTIVE,
                      state_timestamp=now)  # fmt: skip
    own = ShardRange("AUTH_a/c", "", "", now, meta_timestamp=now, state=SHARDING,
                     state_timestamp=now, epoch=now)  # fmt: skip
    brokers[0].merge_shard_ranges([low])
    brokers[1].merge_shard_ranges([high])
    nodes.run(ContainerReplicator, first)
    names = {each.name for each in brokers[0].shard_ranges()}
    assert names == {".s/low", ".s/high"}
    assert {each.name for each in brokers[1].shard_ranges()} == names
    brokers[0].merge_shard_ranges([own])
    brokers[0].merge_rows([object_row("o")])
    daemon = nodes.run(ContainerReplicator, first)
    assert daemon.stats.counts["deferred"] == 2
    assert names_in(brokers[1]) == []
    assert "AUTH_a/c" in {each.name for each in brokers[2].shard_ranges()}


def test_recon_and_the_log_tell_what_a_pass_did(nodes):
    first, second, third = nodes.primaries(NAME)
    nodes.create(NAME, first).merge_rows(rows(2))
    nodes.create(NAME, second)
    nodes.nodes[third].close()
    nodes.run(ContainerReplicator, first)
    cache = Path(nodes.nodes[first].root) / "container.recon"
    found = json.loads(cache.read_text())
    stats = found["replication_stats"]
    assert (stats["attempted"], stats["success"], stats["failure"]) == (1, 1, 1)
    assert stats["diff"] == 1
    assert stats["failure_nodes"] == {"127.0.0.1": {"sda1": 1}}
    assert found["replication_time"] >= 0
    assert found["replication_last"] > 0
    lines = [line for _, line in nodes.sink.lines]
    assert any("1 successes, 1 failures" in line for line in lines)
    assert any("diff:1 diff_capped:0" in line for line in lines)


def test_a_limited_run_leaves_recon_alone(nodes):
    first = nodes.primaries(NAME)[0]
    nodes.create(NAME, first)
    daemon = nodes.run(ContainerReplicator, first, scope={"partitions": (99,)})
    assert daemon.stats.counts["attempted"] == 0
    assert not (Path(nodes.nodes[first].root) / "container.recon").exists()


def test_a_corrupt_database_is_moved_aside_and_comes_back(nodes):
    nodes.start_rsync()
    first, second, third = nodes.primaries(NAME)
    brokers = [nodes.create(NAME, number) for number in (first, second, third)]
    for broker in brokers:
        broker.merge_rows(rows(5))
        broker.databases.close()
    Path(brokers[0].path).write_bytes(b"no database at all" * 100)
    nodes.run(ContainerReplicator, first)
    quarantined = list(Path(nodes.nodes[first].root).glob("sda1/quarantined/*/*"))
    assert len(quarantined) == 1
    nodes.run(ContainerReplicator, second)
    assert len(names_in(nodes.broker(NAME, first))) == 5
