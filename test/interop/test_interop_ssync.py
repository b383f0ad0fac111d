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
from pathlib import Path

import pytest

from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.ring.devices import Device
from swift.core.ring.devices import Node as RingNode
from swift.core.timestamp import Timestamp
from swift.daemons.ssync_sender import Push, SsyncSender
from swift.runtime import green
from swift.wire.client import ConnectionPool
from test.support.node import DEVICE, LOCALHOST, Node

GOLDEN = Path(__file__).parent / "golden" / "wire"
PUT = "replicate-and-ssync-put"
META = "ssync-meta-only"
DELETE = "ssync-delete"

DATA = Timestamp.parse("1795335113.77459")
POSTED = Timestamp.parse("1795335116.52628")
DELETED = Timestamp.parse("1795335117.22814")
BODY = b"hello object"


def events_of(scenario):
    """The events of the SSYNC connection of a capture: (side, bytes)."""
    captured = json.loads((GOLDEN / f"{scenario}.json").read_text())
    for connection in captured["connections"]:
        events = [
            (event["from"], event["bytes_latin1"].encode("latin-1"))
            for event in connection["events"]
        ]
        if events[0][1].startswith(b"SSYNC "):
            return events
    raise AssertionError("no SSYNC in the capture")


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
