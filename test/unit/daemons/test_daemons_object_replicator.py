# SPDX-License-Identifier: Apache-2.0
"""The object replicator with real nodes over loopback, and with peers that lie."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import socket
from array import array

import pytest

from swift.core.hashing import partition_of_hex
from swift.core.names import ObjectName
from swift.core.ring.devices import Device
from swift.core.ring.ring import Ring
from swift.daemons import partition_daemon
from swift.daemons.object_replicator import ObjectReplicator, ReplicatorConfig
from swift.runtime import green
from swift.runtime.daemon import Frame, Scope, run_pass
from swift.runtime.logs import ERROR, ListSink, Logger
from swift.runtime.metrics import Metrics
from test.support.node import DEVICE, LOCALHOST, Node, stamp

POWER = 4
COUNT = 4
REPLICAS = 3


class FixedRing:
    """A ring file that nobody rewrites, until the test does."""

    def __init__(self, ring):
        self.ring = ring
        self.has_changed = False

    def get(self):
        return self.ring


class Counted(Metrics):
    is_on = True

    def __init__(self):
        self.counts = {}

    def increment(self, name, rate=None):
        self.count(name, 1)

    def count(self, name, amount, rate=None):
        self.counts[name] = self.counts.get(name, 0) + amount


class Nodes:
    """Four nodes with a device each; three primaries a partition."""

    def __init__(self, root, regions=(1, 1, 1, 1)):
        self.root = root
        self.nodes = []
        for number in range(COUNT):
            folder = root / f"n{number}"
            folder.mkdir()
            self.nodes.append(Node(folder, client_timeout_s=2.0))
        self.devices = [
            Device(
                id=number,
                region=regions[number],
                zone=1,
                ip=LOCALHOST,
                port=node.ports["object"],
                replication_ip=LOCALHOST,
                replication_port=node.ports["object"],
                name=DEVICE,
                weight=1.0,
            )
            for number, node in enumerate(self.nodes)
        ]
        rows = [
            array("H", [(part + row) % COUNT for part in range(1 << POWER)])
            for row in range(REPLICAS)
        ]
        self.ring = Ring(part_power=POWER, devices=self.devices, rows=rows)
        self.file = FixedRing(self.ring)
        for node in self.nodes:
            node.cluster.rings["object"] = self.file
            node.cluster.rings["object-1"] = FixedRing(
                Ring(part_power=POWER, devices=self.devices, rows=rows)
            )
        self.sink = ListSink()
        self.metrics = Counted()
        self.salt = self.nodes[0].cluster.salt

    def replicator(self, number, connector=None, **options):
        options = {
            "devices": str(self.nodes[number].root),
            "mount_check": False,
            "bind_ip": LOCALHOST,
            "bind_port": self.nodes[number].ports["object"],
            "recon_cache_path": str(self.root),
            "sync_method": "ssync",
            "reclaim_age": 4_000_000_000,
            "node_timeout_s": 3.0,
            "http_timeout_s": 3.0,
            **options,
        }
        frame = Frame(
            self.nodes[number].cluster,
            Logger("test", [self.sink], level=0),
            self.metrics,
        )
        return ObjectReplicator(
            ReplicatorConfig(**options),
            frame,
            connector=connector,
            rng=random.Random(1),
        )

    def replicate(self, number, scope=None, **options):
        daemon = self.replicator(number, **options)
        run_pass(daemon, scope or Scope(once=True))
        return daemon._totals()

    def partition(self, name):
        return partition_of_hex(self.salt.hex_of(ObjectName("a", "c", name)), POWER)

    def primaries(self, name):
        return [node.id for node in self.ring.primaries(self.partition(name))]

    def handoff(self, name):
        return next(self.ring.handoffs(self.partition(name))).id

    def put(self, number, name, at=1.0, body=b"hello", method="PUT"):
        headers = {"X-Timestamp": stamp(at), "Content-Type": "text/plain"}
        path = f"/{DEVICE}/{self.partition(name)}/a/c/{name}"
        body = body if method == "PUT" else b""
        return self.nodes[number].ask("object", method, path, headers, body)[0]

    def files(self, number, name):
        path_hash = self.salt.hex_of(ObjectName("a", "c", name))
        folder = self.nodes[number].device / "objects" / str(self.partition(name))
        return sorted(
            path.name for path in (folder / path_hash[-3:] / path_hash).glob("*")
        )

    def lines(self):
        return [text for _level, text in self.sink.lines]

    def close(self):
        for node in self.nodes:
            node.close()


@pytest.fixture
def nodes(tmp_path):
    made = Nodes(tmp_path)
    yield made
    made.close()


# --- update ---------------------------------------------------------------------------


def test_a_primary_gives_the_others_what_they_lack(nodes):
    first, second, third = nodes.primaries("o")
    assert nodes.put(first, "o") == 201
    stats = nodes.replicate(first)
    assert (stats.rsync, stats.suffix_sync, stats.failure) == (2, 2, 0)
    for number in (second, third):
        assert nodes.files(number, "o") == [f"{stamp(1)}.data"]
    again = nodes.replicate(first)
    assert (again.hashmatch, again.rsync, again.success) == (2, 0, 2)


def test_what_a_peer_has_newer_stands(nodes):
    first, second, _third = nodes.primaries("o")
    nodes.put(first, "o", at=1)
    nodes.put(second, "o", at=2, method="DELETE")
    nodes.replicate(first)
    assert nodes.files(second, "o") == [f"{stamp(2)}.ts"]
    nodes.replicate(second)
    assert nodes.files(first, "o") == [f"{stamp(2)}.ts"]


def test_in_sync_nodes_are_compared_by_one_request_each(nodes, monkeypatch):
    first, *_others = nodes.primaries("o")
    nodes.put(first, "o")
    nodes.replicate(first)
    daemon = nodes.replicator(first)
    asked = []
    real = daemon._direct.open

    def counted(node, method, path, *rest, **more):
        asked.append((node.id, method, path))
        return real(node, method, path, *rest, **more)

    monkeypatch.setattr(daemon._direct, "open", counted)
    run_pass(daemon, Scope(once=True))
    part = f"/{nodes.partition('o')}"
    assert sorted(asked) == sorted((n, "REPLICATE", part) for n in _others)


def test_an_unmounted_peer_is_replaced_by_a_handoff(nodes):
    first, second, third = nodes.primaries("o")
    nodes.put(first, "o")
    shutil.rmtree(nodes.nodes[second].device)
    stats = nodes.replicate(first)
    handoff = nodes.handoff("o")
    assert nodes.files(handoff, "o") == nodes.files(third, "o") != []
    assert stats.failure_nodes == {LOCALHOST: {DEVICE: 1}}


def test_a_dead_peer_costs_nobody_else(nodes):
    first, second, third = nodes.primaries("o")
    nodes.put(first, "o")
    nodes.nodes[second].close()
    stats = nodes.replicate(first)
    assert nodes.files(third, "o")
    assert (stats.success, stats.failure) == (1, 1)


# --- revert ---------------------------------------------------------------------------


def test_a_handoff_gives_back_and_forgets(nodes):
    handoff = nodes.handoff("o")
    nodes.put(handoff, "o")
    stats = nodes.replicate(handoff)
    assert stats.remove == 1
    objects = nodes.nodes[handoff].device / "objects"
    assert list(objects.iterdir()) == []
    for number in nodes.primaries("o"):
        assert nodes.files(number, "o") == [f"{stamp(1)}.data"]


@pytest.mark.parametrize(("handoff_delete", "kept"), [(0, True), (2, False)])
def test_a_handoff_keeps_what_a_primary_lacks(nodes, handoff_delete, kept):
    handoff = nodes.handoff("o")
    nodes.put(handoff, "o")
    nodes.nodes[nodes.primaries("o")[1]].close()
    stats = nodes.replicate(handoff, handoff_delete=handoff_delete)
    assert bool(nodes.files(handoff, "o")) is kept
    assert stats.remove == (not kept)


def test_a_write_during_the_revert_is_not_lost(nodes):
    handoff = nodes.handoff("o")
    nodes.put(handoff, "o", at=1)
    daemon = nodes.replicator(handoff)
    sender = daemon._senders[0]
    push = sender.push

    def write_meanwhile(*arguments):
        found = push(*arguments)
        nodes.put(handoff, "o", at=5)
        return found

    sender.push = write_meanwhile
    run_pass(daemon, Scope(once=True))
    assert nodes.files(handoff, "o") == [f"{stamp(5)}.data"]


def test_a_locked_handoff_is_left_for_the_next_pass(nodes):
    handoff = nodes.handoff("o")
    nodes.put(handoff, "o")
    manager = nodes.nodes[handoff].apps["object"]._managers[0]
    with manager.partitions.locked(DEVICE, nodes.partition("o"), 1):
        nodes.replicate(handoff)
    assert nodes.files(handoff, "o")
    assert nodes.metrics.counts["partition.lock-failure.count"] == 1


def test_an_empty_handoff_and_a_file_in_its_place_are_removed(nodes):
    objects = nodes.nodes[0].device / "objects"
    (objects / "1" / "abc").mkdir(parents=True)
    (objects / "1" / "hashes.invalid").write_text("abc\n")
    (objects / "2").write_text("junk")
    (objects / "no number").mkdir()
    (objects / "auditor_status_ALL.json").write_text("{}")
    stats = nodes.replicate(0)
    assert sorted(path.name for path in objects.iterdir()) == [
        "auditor_status_ALL.json",
        "no number",
    ]
    assert stats.failure == 1


def test_groups_of_a_large_handoff_are_given_back_one_by_one(nodes, monkeypatch):
    monkeypatch.setattr(partition_daemon, "OBJECTS_PER_PUSH", 2)
    names = [f"o{number}" for number in range(60)]
    handoff = nodes.handoff(names[0])
    part = nodes.partition(names[0])
    names = [name for name in names if nodes.partition(name) == part]
    assert len(names) > 2
    for name in names:
        nodes.put(handoff, name)
    assert nodes.replicate(handoff).remove == 1
    for name in names:
        for number in nodes.primaries(name):
            assert nodes.files(number, name)


def test_of_a_distant_region_one_primary_is_sent_to(tmp_path):
    nodes = Nodes(tmp_path, regions=(1, 2, 2, 2))
    try:
        name = next(n for n in "abcdefgh" * 9 if nodes.handoff(n) == 0)
        nodes.put(0, name)
        nodes.replicate(0)
        holders = [n for n in nodes.primaries(name) if nodes.files(n, name)]
        assert len(holders) == 1
        assert nodes.files(0, name), "not all have confirmed"
        nodes.replicate(holders[0])
        nodes.replicate(0)
        assert not nodes.files(0, name)
    finally:
        nodes.close()


# --- order and end of a pass ----------------------------------------------------------


def test_handoffs_first_does_nothing_else_while_one_is_left(nodes):
    name = next(n for n in "abcdefgh" if nodes.handoff(n) == 0)
    own = next(n for n in "abcdefgh" if nodes.primaries(n)[0] == 0)
    nodes.put(0, name)
    nodes.put(0, own)
    nodes.nodes[nodes.primaries(name)[0]].close()
    nodes.replicate(0, handoffs_first=True)
    assert all(not nodes.files(n, own) for n in nodes.primaries(own)[1:])
    assert any("handoffs first" in line for line in nodes.lines())


def test_a_changed_ring_ends_the_pass(nodes):
    for name in "abcdefgh":
        nodes.put(nodes.primaries(name)[0], name)
    nodes.file.has_changed = True
    stats = nodes.replicate(0, ring_check_interval_s=0.0)
    assert stats.attempted == 0


def test_a_policy_whose_part_power_grows_is_skipped(nodes):
    nodes.put(0, next(n for n in "abcdefgh" if nodes.primaries(n)[0] == 0))
    nodes.file.ring = Ring(
        part_power=POWER,
        devices=nodes.devices,
        rows=nodes.ring.rows,
        next_part_power=POWER + 1,
    )
    stats = nodes.replicate(0)
    assert stats.attempted == 0
    assert any("part power" in line for line in nodes.lines())


def test_a_scope_limits_the_pass_and_leaves_recon_alone(nodes, tmp_path):
    name = next(n for n in "abcdefgh" if nodes.primaries(n)[0] == 0)
    nodes.put(0, name)
    elsewhere = (nodes.partition(name) + 1) % (1 << POWER)
    for scope in (
        Scope(once=True, partitions=(elsewhere,)),
        Scope(once=True, devices=("sdz",)),
        Scope(once=True, policies=(1,)),
    ):
        assert nodes.replicate(0, scope).attempted == 0
    assert not (tmp_path / "object.recon").exists()
    nodes.replicate(0)
    recon = json.loads((tmp_path / "object.recon").read_text())
    assert recon["replication_stats"]["attempted"] == 1
    assert recon["object_replication_last"] == recon["replication_last"]


def test_workers_leave_their_devices_facts_and_their_sum(nodes, tmp_path):
    name = next(n for n in "abcdefgh" if nodes.primaries(n)[0] == 0)
    nodes.put(0, name)
    daemon = nodes.replicator(0, replicator_workers=3)
    (share,) = daemon.shares(Scope(once=True))
    assert share.devices == (DEVICE,)
    assert not daemon.shares_changed()
    run_pass(daemon, share)
    recon = json.loads((tmp_path / "object.recon").read_text())
    entry = recon["object_replication_per_disk"][DEVICE]
    assert entry["replication_stats"] == recon["replication_stats"]


def test_a_node_that_is_in_no_ring_says_so(nodes):
    nodes.replicate(0, bind_port=1)
    assert any("nothing to do" in line for line in nodes.lines())


def test_an_unmounted_device_of_ours_is_skipped(nodes):
    shutil.rmtree(nodes.nodes[0].device)
    stats = nodes.replicate(0)
    assert (stats.attempted, stats.failure) == (0, 2)  # one a policy


# --- hostile peers --------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return (print, ("never printed",))


class Liar:
    """A server that answers every request with the same bytes."""

    def __init__(self, answers):
        self._answers = answers
        self._listener = socket.create_server((LOCALHOST, 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._thread = green.spawn(self._run)

    def _run(self):
        while True:
            if not green.wait_readable(self._listener, 10):
                return
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            with sock:
                if green.wait_readable(sock, 60):
                    method = sock.recv(65536).partition(b" ")[0].decode()
                    for piece in self._answers.get(method, ()):
                        green.wait_writable(sock, 5)
                        try:
                            sock.send(piece)
                        except OSError:
                            break
                    green.sleep(0.05)

    def close(self):
        self._thread.kill()
        self._listener.close()


def answer(body, status="200 OK"):
    return [f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body]


def ssync(*lines):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(line), line) for line in lines)]


NOTHING_THERE = answer(pickle.dumps({}, protocol=2))
HASH = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param({}, id="no answer"),
        pytest.param({"REPLICATE": [b"nonsense\r\n\r\n"]}, id="no HTTP"),
        pytest.param({"REPLICATE": answer(b"")}, id="empty"),
        pytest.param({"REPLICATE": answer(b"\x80\x02}q\x00")}, id="half a pickle"),
        pytest.param({"REPLICATE": answer(pickle.dumps([1]))}, id="a list"),
        pytest.param({"REPLICATE": answer(pickle.dumps({"abc": 1}))}, id="a number"),
        pytest.param({"REPLICATE": answer(pickle.dumps(Evil()))}, id="a callable"),
        pytest.param({"REPLICATE": answer(b"x", "500 Oops")}, id="an error"),
        pytest.param(
            {"REPLICATE": [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx"]},
            id="a short body",
        ),
        pytest.param({"REPLICATE": NOTHING_THERE}, id="no ssync"),
        pytest.param(
            {"REPLICATE": NOTHING_THERE, "SSYNC": answer(b"", "405 No")}, id="refused"
        ),
        pytest.param(
            {"REPLICATE": NOTHING_THERE, "SSYNC": ssync(b"\r\n", b"hello\r\n")},
            id="no protocol",
        ),
        pytest.param(
            {"REPLICATE": NOTHING_THERE, "SSYNC": ssync(b"x" * 70_000)}, id="too long"
        ),
        pytest.param(
            {
                "REPLICATE": NOTHING_THERE,
                "SSYNC": ssync(
                    b":MISSING_CHECK: START\r\n",
                    f"{HASH} d\r\n".encode(),
                    b":MISSING_CHECK: END\r\n",
                ),
            },
            id="wants what was not offered",
        ),
        pytest.param(
            {"REPLICATE": NOTHING_THERE, "SSYNC": ssync(b":ERROR: 503 'busy'\r\n")},
            id="busy",
        ),
    ],
)
def test_a_peer_that_lies_is_counted_and_the_pass_goes_on(nodes, answers, capsys):
    first, second, third = nodes.primaries("o")
    nodes.put(first, "o")
    liar = Liar(answers)
    device = nodes.devices[second]
    fields = {name: getattr(device, name) for name in device.__slots__}
    nodes.devices[second] = Device(**{**fields, "replication_port": liar.port})
    nodes.file.ring = Ring(
        part_power=POWER, devices=nodes.devices, rows=nodes.ring.rows
    )
    try:
        stats = nodes.replicate(first, node_timeout_s=5.0, http_timeout_s=5.0)
    finally:
        liar.close()
    assert (stats.success, stats.failure) == (1, 1)
    assert nodes.files(third, "o")
    assert len([t for t in nodes.lines() if str(liar.port) in t]) == 1
    assert "never printed" not in capsys.readouterr().out


def test_a_liar_is_named_once_in_a_pass(nodes):
    names = [n for n in "abcdefghijkl" if nodes.primaries(n)[0] == 0]
    parts = {nodes.partition(name) for name in names}
    for name in names:
        nodes.put(0, name)
    nodes.nodes[1].close()
    nodes.replicate(0)
    said = [t for t in nodes.lines() if str(nodes.devices[1].port) in t]
    errors = [
        level for level, text in nodes.sink.lines if text in said and level >= ERROR
    ]
    assert len(said) >= len(parts)
    assert len(errors) <= 2
