# SPDX-License-Identifier: Apache-2.0
"""Peers that lie to the replicators of databases: refused, counted, never fatal."""

from __future__ import annotations

import json

import pytest

from swift.core.names import ContainerName
from swift.daemons.container_replicator import ContainerReplicator
from test.support.db_nodes import DbNodes, names_in, object_row
from test.support.replay import Replay

NAME = ContainerName("AUTH_a", "c")
GOOD = {
    "max_row": 1, "point": -1, "hash": "0" * 32, "id": "peer-1", "created_at": "1.0",
    "put_timestamp": "1.0", "delete_timestamp": "0", "metadata": "",
}  # fmt: skip


def answer(body, status="200 OK"):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def nodes(tmp_path):
    made = DbNodes(tmp_path)
    yield made
    made.close()


LIES = {
    "no object": [],
    "a number": 7,
    "nothing": {},
    "no JSON": b"\x80\x02cos\nsystem\n.",
    "deep nesting": b"[" * 100_000,
    "row number is text": {**GOOD, "max_row": "1"},
    "row number is a boolean": {**GOOD, "point": True},
    "row number is beyond all": {**GOOD, "max_row": 2**70},
    "hash is a list": {**GOOD, "hash": []},
    "id is over-long": {**GOOD, "id": "x" * 100_000},
    "time is none": {**GOOD, "put_timestamp": "zzzz"},
    "time is a number": {**GOOD, "created_at": 1.0},
    "metadata is no JSON": {**GOOD, "metadata": "{"},
    "metadata is a list": {**GOOD, "metadata": "[1]"},
    "metadata time is none": {**GOOD, "metadata": '{"X-Container-Meta-A": ["1", "z"]}'},
    "policy is text": {**GOOD, "storage_policy_index": "1", "status_changed_at": "1"},
    "policy is negative": {
        **GOOD, "storage_policy_index": -1, "status_changed_at": "1", "count": 0,
    },
    "shard rows are text": {**GOOD, "shard_max_row": "1"},
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_peer_that_answers_nonsense_is_refused_and_the_pass_goes_on(nodes, lie):
    first, second, third = nodes.primaries(NAME)
    source = nodes.create(NAME, first)
    source.merge_rows([object_row("o")])
    honest = nodes.create(NAME, third)
    liar = Replay([answer(lie)] * 8)
    daemon = nodes.daemon(ContainerReplicator, first)
    nodes.lead_to(daemon, second, liar.port)
    nodes.run_daemon(daemon)
    liar.close()
    counts = daemon.stats.counts
    assert (counts["attempted"], counts["success"], counts["failure"]) == (1, 1, 1)
    assert names_in(honest) == ["o"]
    stat = source.stat()
    assert (stat.metadata, stat.storage_policy_index) == ({}, 0)
    assert stat.put_timestamp == honest.stat().put_timestamp
    said = [line for level, line in nodes.sink.lines if level >= 40]
    assert len(said) == 1


RANGE = {"name": ".s/x", "timestamp": "1.0", "lower": "", "upper": "m"}


@pytest.mark.parametrize(
    "ranges",
    [7, {}, ["x"], [{}], [{**RANGE, "state": 99}], [{**RANGE, "timestamp": "z"}],
     [{**RANGE, "object_count": 2**70}], [{**RANGE, "name": 5}]],
)  # fmt: skip
def test_nonsense_shard_ranges_are_refused(nodes, ranges):
    first, second, third = nodes.primaries(NAME)
    source = nodes.create(NAME, first)
    nodes.create(NAME, third)
    liar = Replay([answer({**GOOD, "shard_max_row": 3}), answer(ranges)])
    daemon = nodes.daemon(ContainerReplicator, first)
    nodes.lead_to(daemon, second, liar.port)
    nodes.run_daemon(daemon)
    liar.close()
    assert daemon.stats.counts["failure"] == 1
    assert source.shard_ranges() == []


@pytest.mark.parametrize(
    "raw",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
     answer({}, "500 Oops"), answer({}, "401 No"), answer({}, "302 Elsewhere")],
)  # fmt: skip
def test_a_peer_that_breaks_off_or_refuses_is_a_failure(nodes, raw):
    first, second, third = nodes.primaries(NAME)
    nodes.create(NAME, first)
    nodes.create(NAME, third)
    liar = Replay([raw] if raw else [])
    daemon = nodes.daemon(ContainerReplicator, first, node_timeout_s=1.0)
    nodes.lead_to(daemon, second, liar.port)
    nodes.run_daemon(daemon)
    liar.close()
    assert daemon.stats.counts["failure"] == 1
    assert daemon.stats.counts["success"] == 1


def test_an_unmounted_peer_is_replaced_by_a_handoff(nodes):
    first, second, third = nodes.primaries(NAME)
    nodes.start_rsync()
    nodes.create(NAME, first).merge_rows([object_row("o")])
    nodes.create(NAME, third)
    unmounted = Replay([answer({}, "507 Insufficient Storage")])
    daemon = nodes.daemon(ContainerReplicator, first)
    nodes.lead_to(daemon, second, unmounted.port)
    nodes.run_daemon(daemon)
    unmounted.close()
    assert names_in(nodes.broker(NAME, nodes.handoff(NAME))) == ["o"]
    assert any("not mounted" in line for _, line in nodes.sink.lines)


CALLS = {
    "no list": {"sync": 1},
    "no call": ["drop_tables"],
    "too few": ["sync", 1],
    "time is none": ["sync", 1, "h", "id", "zz", "1", "0", ""],
    "row beyond all": ["sync", 2**80, "h", "id", "1", "1", "0", ""],
    "id over-long": ["sync", 1, "h", "i" * 9999, "1", "1", "0", ""],
    "bad metadata time": ["sync", 1, "h", "id", "1", "1", "0", '{"A": ["1", "z"]}'],
    "rows are a number": ["merge_items", 5, "id"],
    "row is text": ["merge_items", ["x"], "id"],
    "source is a list": ["merge_items", [], []],
    "size beyond all": ["merge_items", [{
        "ROWID": 1, "name": "o", "created_at": "1.0", "size": 2**70,
        "content_type": "", "etag": "", "deleted": 0, "storage_policy_index": 0,
    }], "id"],
    "point beyond all": ["merge_syncs", [{"remote_id": "x", "sync_point": 2**70}]],
    "syncs are text": ["merge_syncs", "abc"],
    "ranges are text": ["merge_shard_ranges", "abc", "id"],
    "file name leads away": ["complete_rsync", "../../etc/passwd", "x.db"],
    "file name is none": ["rsync_then_merge", 5],
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_our_server_refuses_nonsense_calls(nodes, call):
    number = nodes.primaries(NAME)[0]
    broker = nodes.create(NAME, number)
    before = broker.replication_info()
    partition, path_hash = broker.path.split("/")[-4], broker.path.split("/")[-2]
    body = json.dumps(call).encode()
    status, _, _ = nodes.nodes[number].ask(
        "container",
        "REPLICATE",
        f"/sda1/{partition}/{path_hash}",
        {"Content-Type": "application/json", "Content-Length": str(len(body))},
        body,
    )
    assert status == 400
    assert broker.replication_info() == before
