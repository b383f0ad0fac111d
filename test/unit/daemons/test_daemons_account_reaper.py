# SPDX-License-Identifier: Apache-2.0
"""The account reaper against real servers: what is left of a deleted account."""

from __future__ import annotations

from pathlib import Path

import pytest

from swift.core.names import AccountName, ContainerName, ObjectName
from swift.core.shards import ACTIVE, SHARDED, ShardRange
from swift.core.timestamp import Timestamp
from swift.daemons.account_reaper import AccountReaper, share_of
from swift.runtime import green
from test.support.db_nodes import SALT, DbNodes, container_row, moment, names_in

ACCOUNT = AccountName("AUTH_gone")
OBJECTS = ("o1", "o two", "ö")


@pytest.fixture
def nodes(tmp_path):
    made = DbNodes(tmp_path, count=3)
    yield made
    made.close()


def fill(nodes, containers=("c1", "c2")):
    """An account with containers of three objects each, on all three nodes."""
    accounts = [nodes.create(ACCOUNT, number) for number in range(3)]
    for container in containers:
        name = ContainerName(ACCOUNT.account, container)
        for number in range(3):
            nodes.create(name, number)
            accounts[number].merge_rows([container_row(container, 0, 0)])
        for obj in OBJECTS:
            put(nodes, ObjectName(ACCOUNT.account, container, obj))
    return accounts


def put(nodes, name, container=None):
    """Store an object on all nodes; container: whose databases hear of it."""
    ring = nodes.cluster.rings["object"].get()
    partition = ring.partition(SALT.digest_of(name))
    container = container or name.container_name
    their = nodes.cluster.rings["container"].get().partition(SALT.digest_of(container))
    for number, node in enumerate(nodes.nodes):
        headers = {
            "X-Timestamp": Timestamp.at(green.now() - 500).internal,
            "Content-Type": "text/plain",
            "X-Backend-Storage-Policy-Index": "0",
            "X-Container-Host": f"127.0.0.1:{nodes.nodes[number].ports['container']}",
            "X-Container-Partition": str(their),
            "X-Container-Device": "sda1",
            "X-Backend-Quoted-Container-Path": container.quoted[1:],
        }
        path = f"/sda1/{partition}{name.quoted}"
        status, _, _ = node.ask("object", "PUT", path, headers, b"data")
        assert status == 201


def shard(nodes, name, bounds):
    """Let a container be sharded: (lower, upper) → shard's name, for all its shards."""
    now = moment(1)
    own = ShardRange(name.path[1:], "", "", now, meta_timestamp=now, state=SHARDED,
                     state_timestamp=now, epoch=now)  # fmt: skip
    ranges = [
        ShardRange(found.path[1:], *ends, now, meta_timestamp=now, object_count=1,
                   state=ACTIVE, state_timestamp=now)
        for ends, found in bounds.items()
    ]  # fmt: skip
    for number in range(3):
        broker = nodes.create(name, number)
        broker.merge_shard_ranges([own, *ranges])
        path = Path(broker.path)
        path.rename(path.with_name(f"{path.stem}_{now}.db"))
        assert nodes.broker(name, number).stat().db_state == "sharded"


def files(nodes, pattern):
    return [path for node in nodes.nodes for path in node.device.rglob(pattern)]


def test_a_deleted_account_loses_its_objects_and_containers(nodes):
    accounts = fill(nodes)
    for broker in accounts:
        broker.delete(moment(5))
    nodes.run_all(AccountReaper)
    assert files(nodes, "*.data") == []
    assert len(files(nodes, "*.ts")) == 2 * 3 * len(OBJECTS)
    for broker in accounts:
        assert names_in(broker) == []
        assert broker.stat().container_count == 0
    for container in ("c1", "c2"):
        for number in range(3):
            name = ContainerName(ACCOUNT.account, container)
            assert nodes.broker(name, number).is_deleted()
    lines = [line for _, line in nodes.sink.lines if "completed reaping" in line]
    assert len(lines) == 3
    assert "containers deleted" in lines[0]


def test_objects_are_found_through_shards_which_hear_of_their_deletion(nodes):
    accounts = [nodes.create(ACCOUNT, number) for number in range(3)]
    for broker in accounts:
        broker.merge_rows([container_row("c", 0, 0)])
    root = ContainerName(ACCOUNT.account, "c")
    low, high, higher = (
        ContainerName(f".shards_{ACCOUNT.account}", f"c-{number}-ü")
        for number in range(3)
    )
    # What is behind p has no shard yet: the root lists that itself.
    shard(nodes, root, {("", "m"): low, ("m", "p"): high})
    shard(nodes, high, {("m", "p"): higher})
    for number in range(3):
        for name in (low, higher):
            nodes.create(name, number)
    homes = {"a": low, "b ü": low, "m": low, "n": higher, "p": higher, "z": root}
    for obj, home in homes.items():
        put(nodes, ObjectName(ACCOUNT.account, "c", obj), home)
    assert [names_in(nodes.broker(low, number)) for number in range(3)] == [
        ["a", "b ü", "m"]
    ] * 3
    for broker in accounts:
        broker.delete(moment(5))

    nodes.run_all(AccountReaper)

    assert files(nodes, "*.data") == []
    assert len(files(nodes, "*.ts")) == 3 * len(homes)
    for name in (low, higher, root):
        assert [names_in(nodes.broker(name, number)) for number in range(3)] == [[]] * 3
    assert files(nodes, "async_pending/*/*") == []
    # The shards have not reported yet that they are empty.
    assert not nodes.broker(root, 0).is_deleted()


def test_a_shard_that_does_not_answer_ends_the_container(nodes):
    for broker in [nodes.create(ACCOUNT, number) for number in range(3)]:
        broker.merge_rows([container_row("c", 0, 0)])
        broker.delete(moment(5))
    root = ContainerName(ACCOUNT.account, "c")
    missing = ContainerName(f".shards_{ACCOUNT.account}", "c-0")
    shard(nodes, root, {("", "m"): missing})
    put(nodes, ObjectName(ACCOUNT.account, "c", "z"), root)

    nodes.run_all(AccountReaper)

    assert len(files(nodes, "*.data")) == 3
    assert not nodes.broker(root, 0).is_deleted()


def test_each_primary_reaps_its_share_of_the_containers(nodes):
    accounts = fill(nodes)
    for broker in accounts:
        broker.delete(moment(5))
    index = share_of("c1", 3)
    partition = nodes.cluster.account_ring().partition(SALT.digest_of(ACCOUNT))
    first = nodes.cluster.account_ring().primaries(partition)[index]
    nodes.run(AccountReaper, first.id)
    left = {"c1", "c2"} - {c for c in ("c1", "c2") if share_of(c, 3) == index}
    assert set(names_in(accounts[0])) == left


def test_an_account_is_left_alone_while_reaping_is_delayed(nodes):
    accounts = fill(nodes, containers=("c1",))
    for broker in accounts:
        broker.delete(moment(5))
    nodes.run_all(AccountReaper, delay_reaping_s=100_000.0)
    assert len(files(nodes, "*.data")) == 3 * len(OBJECTS)


def test_a_live_account_is_left_alone(nodes):
    fill(nodes, containers=("c1",))
    nodes.run_all(AccountReaper)
    assert len(files(nodes, "*.data")) == 3 * len(OBJECTS)


def test_what_remains_for_long_is_warned_of(nodes):
    accounts = fill(nodes, containers=("c1",))
    for broker in accounts:
        broker.delete(moment(5))
    for node in nodes.nodes[1:]:
        node.close()
    partition = nodes.cluster.account_ring().partition(SALT.digest_of(ACCOUNT))
    primaries = nodes.cluster.account_ring().primaries(partition)
    number = primaries[share_of("c1", 3)].id
    nodes.run(AccountReaper, number, reap_warn_after_s=1.0)
    assert any("not been reaped since" in line for _, line in nodes.sink.lines)
