# SPDX-License-Identifier: Apache-2.0
"""Conversations of OpenStack Swift's replicator, held again in both directions.

Captured senders talk to our object server, and the captured answers must come; our
sender talks to captured receivers, and the captured requests must come. Borders of
chunks carry no meaning, so streams are compared after they are joined.
"""

from __future__ import annotations

import json
import re
import socket
from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from swift.core.erasure import ErasureCoding
from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.policy import StoragePolicy
from swift.core.ring.devices import Device
from swift.core.ring.devices import Node as RingNode
from swift.core.ring.ring import Ring
from swift.core.timestamp import Timestamp
from swift.daemons.fragment_rebuild import Rebuilder, SolitaryRule
from swift.daemons.ssync_sender import Push, SsyncSender, own_copy
from swift.runtime import green
from swift.runtime.logs import NULL_LOG
from swift.runtime.metrics import NO_METRICS
from swift.storage.object.manager import DiskFileManager
from swift.wire.client import ConnectionPool
from swift.wire.direct import DirectClient
from swift.wire.nodes import NodeCount
from test.support.node import DEVICE, LOCALHOST, Node
from test.support.replay import Replay

GOLDEN = Path(__file__).parent / "golden" / "wire"
PUT = "replicate-and-ssync-put"
META = "ssync-meta-only"
DELETE = "ssync-delete"

DATA = Timestamp.parse("1795335113.77459")
POSTED = Timestamp.parse("1795335116.52628")
DELETED = Timestamp.parse("1795335117.22814")
BODY = b"hello object"


def connections_of(scenario, method):
    """The events of the connections of a capture that begin so: (side, bytes)."""
    captured = json.loads((GOLDEN / f"{scenario}.json").read_text())
    found = []
    for connection in captured["connections"]:
        events = [
            (event["from"], event["bytes_latin1"].encode("latin-1"))
            for event in connection["events"]
        ]
        if events[0][1].startswith(method):
            found.append(events)
    assert found, f"no {method} in the capture"
    return found


def events_of(scenario):
    """The events of the SSYNC connection of a capture; of several, the last."""
    return connections_of(scenario, b"SSYNC ")[-1]


def body_of(stream):
    """The chunked body that follows a head, joined; and whether it has an end."""
    _head, _, rest = stream.partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return body, True
        body += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
    return body, False


def head_of(stream):
    """The first line and the headers, but for the date."""
    lines = stream.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return lines[0], {line for line in lines[1:] if not line.startswith("Date:")}


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    yield made
    made.close()


def manager_of(node):
    return node.apps["object"]._managers[0]


def receive(sock):
    assert green.wait_readable(sock, 5)
    data = sock.recv(65536)
    assert data, "closed"
    return data


def hold_as_sender(node, scenario):
    """Send what a captured sender sent, as it came; what our server answered."""
    answered = b""
    expected = b""
    with socket.create_connection((LOCALHOST, node.ports["object"])) as sock:
        sock.setblocking(False)
        for side, data in events_of(scenario):
            if side == "client":
                sock.sendall(re.sub(rb"^SSYNC /d\d/", b"SSYNC /sda1/", data))
                continue
            expected += data
            wanted = body_of(expected)
            while b"\r\n\r\n" not in answered or body_of_partial(answered) != wanted:
                answered += receive(sock)
    return answered, expected


def body_of_partial(stream):
    try:
        return body_of(stream)
    except (ValueError, AssertionError):
        return None


def files_of(node, name, partition):
    disk = manager_of(node).diskfile(DEVICE, partition, name)
    return sorted(path.name for path in Path(disk.directory).glob("*"))


def test_a_captured_sender_gets_the_captured_answers(node):
    answered, expected = hold_as_sender(node, PUT)
    assert head_of(answered) == head_of(expected)
    assert body_of(answered) == body_of(expected)
    name = ObjectName("AUTH_test", "c", "o")
    # The hash that was offered is the captured cluster's; the file is put by name.
    with manager_of(node).diskfile(DEVICE, 14, name).open(green.now()) as opened:
        assert opened.data_timestamp == DATA
        assert opened.timestamp == POSTED
        assert opened.metadata["Content-Type"] == "text/html"
        assert opened.content_type_timestamp == POSTED
        assert opened.metadata["X-Object-Meta-Color"] == "green"
        assert b"".join(opened.reader()) == BODY


def test_a_captured_tombstone_is_taken(node):
    answered, expected = hold_as_sender(node, DELETE)
    assert body_of(answered) == body_of(expected)
    name = ObjectName("AUTH_test", "c", "todelete")
    assert files_of(node, name, 2) == [f"{DELETED.internal}.ts"]


# --- our sender ----------------------------------------------------------------------


class CapturedReceiver:
    """Answers as a captured receiver did, and keeps what it was sent.

    The captured cluster hashed names with another salt, so hashes are replaced.
    """

    def __init__(self, scenario, path_hash):
        self._events = events_of(scenario)
        self._path_hash = path_hash.encode()
        self._listener = socket.create_server((LOCALHOST, 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self.received = b""
        self.expected = b""
        self._thread = green.spawn(self._run)

    def _run(self):
        assert green.wait_readable(self._listener, 5)
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        with sock:
            for side, data in self._events:
                data = re.sub(rb"\b[0-9a-f]{32} ", self._path_hash + b" ", data)
                if side == "server":
                    sock.sendall(data)
                    continue
                self.expected += data
                wanted = None
                if b"Transfer-Encoding" in self.expected:
                    wanted = body_of(self.expected)
                while (
                    b"\r\n\r\n" not in self.received
                    or body_of_partial(self.received) != wanted
                ):
                    self.received += receive(sock)

    def finish(self):
        self._thread.wait(10)
        self._listener.close()


def push_to(receiver, node, path_hash, names):
    device = Device(0, 1, 1, LOCALHOST, 1, LOCALHOST, receiver.port, "d3", 1.0)
    sender = SsyncSender(
        manager_of(node),
        ConnectionPool(),
        user_agent="object-replicator 1",
        connect_timeout_s=5,
        answer_timeout_s=5,
    )
    push = Push(RingNode(device, index=0), DEVICE, 14)
    found = sender.push(push, {path_hash: names})
    receiver.finish()
    return found


def stored_object(node):
    """The captured object on our disk: its disk file."""
    name = ObjectName("AUTH_test", "c", "o")
    disk = manager_of(node).diskfile(DEVICE, 14, name)
    with disk.writer(len(BODY)) as writer:
        writer.write(BODY)
        metadata = Headers(
            {"Content-Type": "text/plain", "X-Object-Meta-Color": "blue"}
        )
        writer.commit(metadata, DATA)
    disk.post(
        Headers(
            {
                "Content-Type": "text/html",
                "Content-Type-Timestamp": POSTED.internal,
                "X-Object-Meta-Color": "green",
            }
        ),
        POSTED,
    )
    return disk


def names_in(disk):
    return tuple(sorted(path.name for path in Path(disk.directory).iterdir()))


@pytest.mark.parametrize("scenario", [PUT, META])
def test_our_sender_tells_a_captured_receiver_what_the_captured_one_did(node, scenario):
    disk = stored_object(node)
    receiver = CapturedReceiver(scenario, disk.path_hash)
    found = push_to(receiver, node, disk.path_hash, names_in(disk))
    assert set(found) == {disk.path_hash}
    assert body_of(receiver.received) == body_of(receiver.expected)
    assert receiver.received.startswith(b"SSYNC /d3/14 HTTP/1.1\r\n")


def test_our_sender_sends_a_tombstone_as_the_captured_one_did(node):
    name = ObjectName("AUTH_test", "c", "todelete")
    disk = manager_of(node).diskfile(DEVICE, 14, name)
    disk.delete(DELETED)
    receiver = CapturedReceiver(DELETE, disk.path_hash)
    found = push_to(receiver, node, disk.path_hash, names_in(disk))
    assert set(found) == {disk.path_hash}
    assert body_of(receiver.received) == body_of(receiver.expected)


# --- fragments -----------------------------------------------------------------------

CODED = StoragePolicy(
    1,
    ("coded",),
    ErasureCoding("liberasurecode_rs_vand", 4, 2, segment_size=65536),
)
REBUILT = "reconstruct-missing-fragment"
REVERTED = "reconstructor-revert"
PRIMARIES = ("d5", "d3", "d6", "d1", "d4", "d2")
"""Of the captured partition, by position; d3 makes the fragment that d6 lacks."""


def captured_put(scenario):
    """(timestamp, metadata, bytes) of the PUT within a captured SSYNC."""
    sent = b"".join(data for side, data in events_of(scenario) if side == "client")
    update = body_of(sent)[0].partition(b":UPDATES: START\r\nPUT ")[2]
    head, _, rest = update.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")[1:]
    metadata = Headers(line.split(": ", 1) for line in lines)
    return (
        Timestamp.parse(metadata.pop("X-Timestamp")),
        metadata,
        rest[: int(metadata.pop("Content-Length"))],
    )


@pytest.fixture
def coded(node):
    """The node's engine for a policy that keeps fragments."""
    plain = manager_of(node)
    made = DiskFileManager(
        replace(plain.config, reclaim_age=4_000_000_000),
        CODED,
        node.cluster.salt,
        NULL_LOG,
        NO_METRICS,
    )
    node.apps["object"]._managers[1] = made
    return made


def store_fragment(manager, partition, name, scenario, index, body, *, commit):
    """A captured fragment on our disk: its disk file."""
    when, metadata, _body = captured_put(scenario)
    for header in ("Etag", "X-Backend-No-Commit"):
        metadata.pop(header, None)
    metadata["X-Object-Sysmeta-Ec-Frag-Index"] = str(index)
    disk = manager.diskfile(DEVICE, partition, ObjectName(*name.split("/")))
    with disk.writer(len(body)) as writer:
        writer.write(body)
        writer.commit(metadata, when, fragment_index=index)
    if commit:
        disk.make_durable(when, index)
    return disk


@pytest.mark.parametrize(
    ("scenario", "name", "partition", "file"),
    [
        (REBUILT, "AUTH_test/ec/small", 4, "#2#d.data"),
        (REVERTED, "AUTH_test/ec/revert", 14, "#0.data"),
    ],
)
def test_a_captured_reconstructor_gets_the_captured_answers(
    node, coded, scenario, name, partition, file
):
    answered, expected = hold_as_sender(node, scenario)
    assert head_of(answered) == head_of(expected)
    assert body_of(answered) == body_of(expected)
    disk = coded.diskfile(DEVICE, partition, ObjectName(*name.split("/")))
    when, _metadata, body = captured_put(scenario)
    assert names_in(disk) == (f"{when.internal}{file}",)
    [path] = Path(disk.directory).iterdir()
    assert path.read_bytes() == body


def sender_of(manager, source=own_copy):
    return SsyncSender(
        manager,
        ConnectionPool(),
        user_agent="object-reconstructor 1",
        connect_timeout_s=5,
        answer_timeout_s=5,
        source=source,
    )


def node_at(port, name="d6", index=2):
    device = Device(index, 1, 1, LOCALHOST, 1, LOCALHOST, port, name, 1.0)
    return RingNode(device, index=index)


def test_a_fragment_without_its_commit_is_given_back_as_captured(node, coded):
    _when, _metadata, body = captured_put(REVERTED)
    disk = store_fragment(
        coded, 14, "AUTH_test/ec/revert", REVERTED, 0, body, commit=False
    )
    receiver = CapturedReceiver(REVERTED, disk.path_hash)
    push = Push(
        node_at(receiver.port, "d5", 0),
        DEVICE,
        14,
        fragment_index=0,
        peer_index=0,
        non_durable=True,
    )
    found = sender_of(coded).push(push, {disk.path_hash: names_in(disk)})
    receiver.finish()
    assert set(found) == {disk.path_hash}
    assert body_of(receiver.received) == body_of(receiver.expected)


def test_a_missing_fragment_is_made_and_sent_as_captured(node, coded):
    answers = {}
    for request, *answered in connections_of(REBUILT, b"GET "):
        device = request[1].split(b"/")[1].decode()
        answers[device] = (request[1], b"".join(data for _side, data in answered))
    own = answers["d3"][1].partition(b"\r\n\r\n")[2]
    disk = store_fragment(coded, 4, "AUTH_test/ec/small", REBUILT, 1, own, commit=True)
    receiver = CapturedReceiver(REBUILT, disk.path_hash)
    peers = {name: Replay([answer]) for name, (_, answer) in answers.items()}
    ports = {"d6": receiver.port, **{name: peer.port for name, peer in peers.items()}}
    devices = [
        Device(i, 1, 1, LOCALHOST, 1, LOCALHOST, ports[name], name, 1.0)
        for i, name in enumerate(PRIMARIES)
    ]
    rows = [array("H", [i] * 16) for i in range(6)]
    ring = Ring(part_power=4, devices=devices, rows=rows)
    direct = DirectClient(ConnectionPool(), user_agent="object-reconstructor 1")
    rule = SolitaryRule(0, 0.0, NodeCount(2, True))
    rebuilder = Rebuilder(coded, lambda: ring, direct, rule, NULL_LOG, NO_METRICS)
    push = Push(
        RingNode(devices[2], index=2), DEVICE, 4, fragment_index=1, peer_index=2
    )
    found = sender_of(coded, rebuilder).push(push, {disk.path_hash: names_in(disk)})
    receiver.finish()
    for peer in peers.values():
        peer.close()
    assert set(found) == {disk.path_hash}
    assert body_of(receiver.received) == body_of(receiver.expected)
    asked = {name: peer.requests[0] for name, peer in peers.items() if peer.requests}
    assert len(asked) == 3, "our own fragment is on our disk"
    for name, request in asked.items():
        assert wanted_of(request) == wanted_of(answers[name][0])


def wanted_of(request):
    """The first line and the headers by which a fragment is asked for."""
    first, headers = head_of(request)
    kept = {line.lower() for line in headers if line.startswith("X-Backend-")}
    return first, kept - {"x-backend-use-replication-network: true"}
