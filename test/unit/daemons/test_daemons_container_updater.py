# SPDX-License-Identifier: Apache-2.0
"""The container updater against real account servers: what accounts are told."""

from __future__ import annotations

import json

import pytest

from swift.core.names import AccountName, ContainerName
from swift.core.shards import ACTIVE, ShardRange
from swift.core.timestamp import Timestamp
from swift.daemons.container_updater import ContainerUpdater, ContainerUpdaterConfig
from test.support.db_nodes import DbNodes, moment, names_in, object_row

ACCOUNT = AccountName("AUTH_a")
NAME = ContainerName("AUTH_a", "c")


@pytest.fixture
def nodes(tmp_path):
    made = DbNodes(tmp_path, count=3)
    yield made
    made.close()


def accounts(nodes):
    return [nodes.create(ACCOUNT, number) for number in range(3)]


def totals(brokers):
    stats = [broker.stat() for broker in brokers]
    return {
        (stat.container_count, stat.object_count, stat.bytes_used) for stat in stats
    }


def test_an_account_learns_what_a_container_holds(nodes):
    told = accounts(nodes)
    broker = nodes.create(NAME, 0, policy=1)
    broker.merge_rows([object_row("o1", policy=1), object_row("o2", policy=1)])
    daemon = nodes.run(ContainerUpdater, 0)
    assert (daemon.successes, daemon.failures, daemon.no_changes) == (1, 0, 0)
    assert totals(told) == {(1, 2, 20)}
    assert broker.is_reported()
    policies = told[0].policy_stats()
    assert [(each.storage_policy_index, each.object_count) for each in policies] == [
        (1, 2)
    ]
    daemon = nodes.run(ContainerUpdater, 0)
    assert (daemon.successes, daemon.no_changes) == (0, 1)


def test_a_deleted_container_leaves_the_account(nodes):
    told = accounts(nodes)
    broker = nodes.create(NAME, 0)
    nodes.run(ContainerUpdater, 0)
    assert names_in(told[0]) == ["c"]
    broker.delete(moment(5))
    nodes.run(ContainerUpdater, 0)
    assert names_in(told[0]) == []
    assert broker.is_reported()


def test_a_majority_is_enough(nodes):
    told = accounts(nodes)
    nodes.create(NAME, 0)
    nodes.nodes[2].close()
    daemon = nodes.run(ContainerUpdater, 0)
    assert (daemon.successes, daemon.failures) == (1, 0)
    assert names_in(told[0]) == ["c"]


def test_an_account_that_took_no_report_is_left_alone_for_a_while(nodes):
    accounts(nodes)
    broker = nodes.create(NAME, 0)
    nodes.create(ContainerName("AUTH_a", "d"), 0)
    for node in nodes.nodes[1:]:
        node.close()
    daemon = nodes.run(ContainerUpdater, 0, reports_at_once=1)
    assert daemon.failures == 1
    assert not broker.is_reported()


def test_a_container_without_any_account_is_moved_aside(nodes):
    broker = nodes.create(NAME, 0)
    nodes.run(ContainerUpdater, 0)
    assert not broker.exists()
    assert list(nodes.nodes[0].device.glob("quarantined/containers/*/*.db"))


def test_a_container_that_a_server_made_for_itself_is_not_reported(nodes):
    told = accounts(nodes)
    nodes.broker(NAME, 0).create(Timestamp.at(0), 0)
    nodes.run(ContainerUpdater, 0)
    assert names_in(told[0]) == []


def test_a_shard_reports_nothing_of_its_rows(nodes):
    shard = ContainerName(".shards_AUTH_a", "c-1")
    hidden = AccountName(".shards_AUTH_a")
    told = [nodes.create(hidden, number) for number in range(3)]
    broker = nodes.create(shard, 0)
    broker.update_metadata(
        {"X-Container-Sysmeta-Shard-Quoted-Root": ("AUTH_a/c", moment(1))}
    )
    now = moment(1)
    broker.merge_shard_ranges(
        [ShardRange(".shards_AUTH_a/c-1", "", "m", now, state=ACTIVE,
                    meta_timestamp=now, state_timestamp=now)]
    )  # fmt: skip
    broker.merge_rows([object_row("o1")])
    nodes.run(ContainerUpdater, 0)
    assert totals(told) == {(1, 0, 0)}


def test_a_sweep_is_told_to_recon(nodes):
    accounts(nodes)
    nodes.create(NAME, 0)
    nodes.run(ContainerUpdater, 0)
    found = json.loads((nodes.nodes[0].root / "container.recon").read_text())
    assert found["container_updater_sweep"] >= 0


def test_the_old_option_slows_down_when_the_new_one_is_not_given():
    assert ContainerUpdaterConfig().per_second == 50.0
    assert ContainerUpdaterConfig(slowdown_s=0.49).per_second == pytest.approx(2.0)
