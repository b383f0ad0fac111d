# SPDX-License-Identifier: Apache-2.0
"""Captured conversations of OpenStack Swift's database daemons, held again by ours.

A peer here replays what a captured server answered; what our daemons send it must be
what the captured daemons sent. Then the other way: captured requests go to our server.
"""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest

from swift.core.hashing import HashSalt
from swift.core.headers import title
from swift.core.names import AccountName, ContainerName, Limits
from swift.core.ring.codec import write_ring
from swift.core.ring.devices import Device, Node
from swift.core.ring.ring import Ring
from swift.core.timestamp import Timestamp
from swift.daemons.account_replicator import AccountReplicator
from swift.daemons.container_replicator import ContainerReplicator
from swift.daemons.container_updater import ContainerUpdater
from swift.daemons.db_replication import Visit
from swift.runtime import green
from swift.runtime.cluster import Cluster, RingFile
from swift.runtime.daemon import Frame, Scope, run_pass
from swift.runtime.logs import NULL_LOG, ListSink, Logger
from swift.runtime.metrics import NO_METRICS
from swift.storage.db.account import AccountBroker
from swift.storage.db.connection import Databases, db_path
from swift.storage.db.container import ContainerBroker
from swift.storage.db.walk import FoundDatabase
from test.support.db_nodes import POLICIES
from test.support.node import Node as StorageNode
from test.support.replay import Replay

GOLDEN = Path(__file__).parent / "golden" / "wire"
SALT = HashSalt(b"goldenprefix", b"goldensuffix")
CONTAINER = ContainerName("AUTH_test", "c")
ACCOUNT = AccountName("AUTH_test")
NOT_COMPARED = {
    "Host", "Accept-Encoding", "User-Agent", "Content-Length", "Connection",
    "X-Backend-Use-Replication-Network",
}  # fmt: skip


def conversations(scenario):
    """(device, [request bytes], [answer bytes]) of each connection of a capture."""
    found = []
    for connection in json.loads((GOLDEN / f"{scenario}.json").read_text())[
        "connections"
    ]:
        sides = {"client": [], "server": []}
        last = None
        for event in connection["events"]:
            data = event["bytes_latin1"].encode("latin-1")
            if event["from"] == last:
                sides[last][-1] += data
            else:
                sides[event["from"]].append(data)
            last = event["from"]
        device = sides["client"][0].split(b"/")[1].decode()
        found.append((device, sides["client"], sides["server"]))
    return found


def parse(request):
    """(first line, compared headers, body) of a whole request."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    titled = {title(name): value for name, value in pairs}
    kept = {name: titled[name] for name in titled if name not in NOT_COMPARED}
    return first, kept, json.loads(body) if body else None


@pytest.fixture
def databases():
    made = Databases(green.now)
    yield made
    made.close()


def device(name, number, port=1):
    return Device(number, 1, 1, "127.0.0.1", port, "127.0.0.1", port, name, 1.0)


def make_cluster(root, devices):
    """A cluster whose every ring has these devices as primaries of every partition."""
    rows = [array("H", [number] * 16) for number in range(len(devices))]
    rings = {}
    for kind in ("account", "container"):
        path = root / f"{kind}.ring.gz"
        path.write_bytes(write_ring(Ring(part_power=4, devices=devices, rows=rows)))
        rings[kind] = RingFile(str(path), NULL_LOG)
    return Cluster(str(root), SALT, Limits(), POLICIES, rings)


def local_path(root, kind, partition, path_hash):
    return db_path(str(root), "d5", f"{kind}s", partition, path_hash)


def forge(broker, call, rows=()):
    """Make a database that says of itself what a captured sync call says."""
    max_row, digest, database_id, created_at, put, _delete, metadata = call[:7]
    if isinstance(broker, ContainerBroker):
        broker.create(Timestamp.parse(put), 0)
        table, row_table = "container_info", "object"
    else:
        broker.create(Timestamp.parse(put))
        table, row_table = "account_stat", "container"
    with broker.writing() as connection:
        for row in rows:
            names = ", ".join(row)
            marks = ", ".join("?" * len(row))
            connection.execute(
                f"INSERT INTO {row_table} ({names}) VALUES ({marks})",
                tuple(row.values()),
            )
        if not rows:
            connection.execute(f"UPDATE {table} SET hash = ?", (digest,))
            if len(call) > 8:
                connection.execute(
                    "UPDATE policy_stat SET object_count = ?", (call[8],)
                )
            connection.execute(
                "DELETE FROM sqlite_sequence WHERE name = ?", (row_table,)
            )
            connection.execute(
                "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)",
                (row_table, max_row),
            )
        connection.execute(
            f"UPDATE {table} SET id = ?, created_at = ?, metadata = ?",
            (database_id, created_at, metadata),
        )


def held_again(tmp_path, databases, kind, scenario, **options):
    """Push a forged database to replaying peers; (captured, sent) of each peer."""
    daemon_class = ContainerReplicator if kind == "container" else AccountReplicator
    name = CONTAINER if kind == "container" else ACCOUNT
    captured = conversations(scenario)
    first, _, call = parse(captured[0][1][0])
    partition = int(first.split("/")[2])
    path_hash = first.split("/")[3].split(" ")[0]
    assert path_hash == SALT.hex_of(name)
    path = local_path(tmp_path, kind, partition, path_hash)
    broker = (ContainerBroker if kind == "container" else AccountBroker)(
        databases, path, name
    )
    rows = []
    for request in captured[0][1]:
        operation, *arguments = parse(request)[2]
        if operation == "merge_items":
            rows += arguments[0]
    forge(broker, call[1:], rows)
    info = broker.replication_info()
    assert info["hash"] == call[2]
    replays = [Replay(answers) for _, _, answers in captured]
    devices = [device("d5", 0)] + [
        device(peer, number, replay.port)
        for number, ((peer, _, _), replay) in enumerate(
            zip(captured, replays, strict=True), 1
        )
    ]
    for peer in devices[1:]:
        (tmp_path / "peers" / peer.name / "tmp").mkdir(parents=True)
    sink = ListSink()
    daemon = daemon_class(
        daemon_class.Config(
            devices=str(tmp_path),
            mount_check=False,
            rsync_module=str(tmp_path / "peers"),
            **options,
        ),
        Frame(make_cluster(tmp_path, devices), Logger("t", [sink]), NO_METRICS),
    )
    found = FoundDatabase("d5", partition, path_hash, path)
    primaries = tuple(Node(each, index) for index, each in enumerate(devices))
    visit = Visit(found, devices[0], partition, primaries, 0).labelled(info)
    try:
        pushes = daemon.push_to_peers(visit, broker, info)
    finally:
        daemon.pool.close()
        for replay in replays:
            replay.close()
    assert [push.succeeded for push in pushes] == [True] * len(replays), sink.lines
    pairs = [
        ([parse(request) for request in requests], [parse(r) for r in replay.requests])
        for (_, requests, _), replay in zip(captured, replays, strict=True)
    ]
    return daemon, broker, pairs


def test_rows_are_pushed_as_captured(tmp_path, databases):
    daemon, broker, pairs = held_again(
        tmp_path, databases, "container", "db-replicate-usync", per_diff=3
    )
    for captured, sent in pairs:
        assert sent == captured
    assert daemon.stats.counts["diff"] == 2
    assert {each["sync_point"] for each in broker.syncs(incoming=False)} == {11}


def test_a_peer_in_sync_is_asked_once(tmp_path, databases):
    daemon, _, pairs = held_again(
        tmp_path, databases, "container", "db-replicate-in-sync"
    )
    for captured, sent in pairs:
        assert sent == captured
    assert daemon.stats.counts["no_change"] == 2


def test_a_missing_database_is_copied_as_captured(tmp_path, databases):
    daemon, broker, pairs = held_again(
        tmp_path, databases, "container", "db-replicate-complete-rsync"
    )
    for captured, sent in pairs:
        assert sent == captured
    assert daemon.stats.counts["rsync"] == 1
    copy = tmp_path / "peers" / "d3" / "tmp" / broker.stat().id
    assert copy.read_bytes() == Path(broker.path).read_bytes()


def test_a_database_far_behind_is_copied_and_merged_as_captured(tmp_path, databases):
    daemon, _, pairs = held_again(
        tmp_path, databases, "container", "db-replicate-rsync-then-merge", per_diff=3
    )
    for captured, sent in pairs:
        assert sent == captured
    assert daemon.stats.counts["remote_merge"] == 2


def test_accounts_are_pushed_as_captured(tmp_path, databases):
    _, _, pairs = held_again(tmp_path, databases, "account", "account-replicate")
    for captured, sent in pairs:
        assert sent == captured


def test_accounts_are_told_of_containers_as_captured(tmp_path, databases):
    captured = conversations("container-updater")
    _, headers, _ = parse(captured[0][1][0])
    path = local_path(tmp_path, "container", 14, SALT.hex_of(CONTAINER))
    broker = ContainerBroker(databases, path, CONTAINER)
    broker.create(Timestamp.parse(headers["X-Put-Timestamp"]), 0)
    with broker.writing() as connection:
        connection.execute(
            "UPDATE policy_stat SET object_count = ?, bytes_used = ?",
            (int(headers["X-Object-Count"]), int(headers["X-Bytes-Used"])),
        )
    replays = [Replay(answers) for _, _, answers in captured]
    devices = [
        device(peer, number, replay.port)
        for number, ((peer, _, _), replay) in enumerate(
            zip(captured, replays, strict=True)
        )
    ]
    frame = Frame(make_cluster(tmp_path, devices), NULL_LOG, NO_METRICS)
    config = ContainerUpdater.Config(
        devices=str(tmp_path), mount_check=False, recon_cache_path=str(tmp_path)
    )
    daemon = ContainerUpdater(config, frame)
    try:
        run_pass(daemon, Scope(once=True))
    finally:
        for replay in replays:
            replay.close()
    assert daemon.successes == 1
    for (_, requests, _), replay in zip(captured, replays, strict=True):
        assert [parse(each) for each in replay.requests] == [
            parse(each) for each in requests
        ]
    assert broker.is_reported()


# --- Captured requests to our server --------------------------------------------------


@pytest.fixture
def node(tmp_path):
    root = tmp_path / "node"
    root.mkdir()
    made = StorageNode(root)
    yield made
    made.close()


def answer_of(answers):
    status = int(answers[0].split(b" ")[1])
    body = answers[0].partition(b"\r\n\r\n")[2]
    return status, json.loads(body) if status == 200 else None


@pytest.mark.parametrize(
    "scenario", ["db-replicate-in-sync", "db-replicate-usync", "account-replicate"]
)
def test_our_server_answers_a_captured_conversation_alike(node, databases, scenario):
    kind = "account" if scenario.startswith("account") else "container"
    name = ACCOUNT if kind == "account" else CONTAINER
    for peer, requests, answers in conversations(scenario):
        first, _, call = parse(requests[0])
        partition, path_hash = first.split("/")[2], first.split("/")[3].split(" ")[0]
        _, told = answer_of(answers)
        (node.root / peer).mkdir()
        path = db_path(str(node.root), peer, f"{kind}s", partition, path_hash)
        make = ContainerBroker if kind == "container" else AccountBroker
        broker = make(databases, path, name)
        its_call = [
            told["max_row"], told["hash"], told["id"], told["created_at"],
            told["put_timestamp"], told["delete_timestamp"], told["metadata"],
        ]  # fmt: skip
        forge(broker, [*its_call, "0", told["count"], 0])
        with broker.writing() as connection:
            if kind == "container":
                connection.execute(
                    "UPDATE policy_stat SET bytes_used = ?", (told["bytes_used"],)
                )
            else:
                connection.execute(
                    "UPDATE account_stat SET container_count = ?", (told["count"],)
                )
        for request, answer in zip(requests, answers, strict=True):
            body = request.partition(b"\r\n\r\n")[2]
            target = f"/{peer}/{partition}/{path_hash}"
            headers = {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
            }
            status, _, got = node.ask(kind, "REPLICATE", target, headers, body)
            expected_status, expected = answer_of([answer])
            assert status == expected_status
            if expected is not None:
                found = json.loads(got)
                assert list(found) == list(expected)
                assert found == expected
        if len(requests) > 1:
            assert broker.sync_point(call[3]) == call[1]
