# SPDX-License-Identifier: Apache-2.0
"""What an object server makes of an SSYNC, above all of one that is wrong."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from swift.core.hashing import partition_of_hex
from swift.core.names import ObjectName
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.storage import fs
from test.support.node import DEVICE, LOCALHOST, Node, stamp

LIMIT_S = 60.0

NAME = ObjectName("a", "c", "o")
PARTITION = "7"
START = b":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n:UPDATES: START\r\n"


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path, client_timeout_s=2.0, replication_lock_timeout_s=0.2)
    yield made
    made.close()


def hash_of(node, name=NAME):
    return node.cluster.salt.hex_of(name)


def chunked(data):
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


class Conversation:
    """An SSYNC that a test holds by hand."""

    def __init__(self, node, headers="", path=f"/{DEVICE}/{PARTITION}"):
        self._sock = socket.create_connection((LOCALHOST, node.ports["object"]))
        self._sock.setblocking(False)
        head = f"SSYNC {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{headers}\r\n"
        self._sock.sendall(head.encode())
        self.answer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._sock.close()

    def say(self, data):
        self.push(chunked(data))

    def push(self, data):
        """Send bytes with their framing, and as fast as they are taken."""
        while data:
            assert green.wait_writable(self._sock, LIMIT_S)
            data = data[self._sock.send(data) :]

    def end(self):
        self._sock.sendall(b"0\r\n\r\n")

    def hear(self, *texts):
        """Read until the answer has one of the texts, or its end."""
        while not any(text in self.answer for text in texts):
            assert green.wait_readable(self._sock, LIMIT_S), self.answer
            data = self._sock.recv(65536)
            if not data:
                break
            self.answer += data
        assert any(text in self.answer for text in texts), self.answer
        return self.answer

    def is_closed(self):
        while True:
            assert green.wait_readable(self._sock, LIMIT_S)
            try:
                if not self._sock.recv(65536):
                    return True
            except ConnectionResetError:
                return True


def put(at, body=b"hello", name="a/c/o", extra=""):
    return (
        f"PUT /{name}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: text/plain\r\nX-Timestamp: {stamp(at)}\r\n{extra}\r\n"
    ).encode() + body


def files(node, name=NAME):
    path_hash = hash_of(node, name)
    folder = node.device / "objects" / PARTITION / path_hash[-3:] / path_hash
    return sorted(path.name for path in folder.glob("*"))


def test_an_update_is_stored_with_all_its_headers(node):
    with Conversation(node) as held:
        held.say(START + put(1, extra="X-Object-Meta-Color: blue\r\nX-Odd: 1\r\n"))
        held.say(b":UPDATES: END\r\n")
        held.end()
        assert b":ERROR:" not in held.hear(b":UPDATES: END\r\n")
    status, headers, body = node.ask("object", "GET", "a/c/o")
    assert (status, body) == (200, b"hello")
    assert headers["X-Object-Meta-Color"] == "blue"
    manager = node.apps["object"]._managers[0]
    with manager.diskfile(DEVICE, PARTITION, NAME).open(green.now()) as opened:
        assert opened.metadata["X-Odd"] == "1"


def test_bodies_of_every_size_are_stored(node):
    sizes = [0, 1, 65536, 65537, 400_000]
    with Conversation(node) as held:
        held.say(START)
        for size in sizes:
            data = put(1, b"x" * size, f"a/c/o{size}")
            for first in range(0, len(data), 100_000):
                held.say(data[first : first + 100_000])
        held.say(b":UPDATES: END\r\n")
        held.hear(b":UPDATES: END\r\n")
    for size in sizes:
        status, _, body = node.ask("object", "GET", f"a/c/o{size}")
        assert (status, len(body)) == (200, size)


def test_a_large_body_is_stored_however_it_is_cut(node):
    body = os.urandom(700_000)
    said = put(1, body=body) + put(1, body=body[::-1], name="a/c/p")
    wire = chunked(START) + b"".join(
        chunked(said[at : at + 99_991]) for at in range(0, len(said), 99_991)
    )
    with Conversation(node) as held:
        for cut in (150_001, 199_993, 200_001, 400_000, len(wire)):
            held.push(wire[:cut])
            wire = wire[cut:]
        held.say(b":UPDATES: END\r\n")
        held.end()
        assert b":ERROR:" not in held.hear(b":UPDATES: END\r\n")
    assert node.ask("object", "GET", "a/c/o")[2] == body
    assert node.ask("object", "GET", "a/c/p")[2] == body[::-1]


def test_a_large_body_that_is_refused_is_passed_over(node):
    body = os.urandom(700_000)
    with Conversation(node) as held:
        held.say(START + put(1, body=body, extra=f"ETag: {'0' * 32}\r\n"))
        held.say(put(1, name="a/c/p"))
        held.say(b":UPDATES: END\r\n")
        held.end()
        assert b"1 failures, 1 successes" in held.hear(b"successes")
    assert files(node) == []
    assert node.ask("object", "GET", "a/c/p")[2] == b"hello"


@pytest.mark.parametrize("size", [5, 700_000])
def test_updates_of_one_object_keep_their_order(node, size):
    post = f"POST /a/c/o\r\nX-Object-Meta-A: 2\r\nX-Timestamp: {stamp(2)}\r\n\r\n"
    with Conversation(node) as held:
        data = put(1, b"x" * size)
        held.say(START + data + post.encode() + b":UPDATES: END\r\n")
        held.hear(b":UPDATES: END\r\n")
    assert files(node) == [f"{stamp(1)}.data", f"{stamp(2)}.meta"]


def test_only_what_is_newer_is_wanted(node):
    node.ask(
        "object", "PUT", "a/c/o",
        {"X-Timestamp": stamp(5), "Content-Type": "text/plain"}, b"here",
    )  # fmt: skip
    path_hash = hash_of(node)
    for at, wish in ((4, b"\r\n\r\n"), (5, b"\r\n\r\n"), (6, b" dm\r\n")):
        with Conversation(node) as held:
            held.say(b":MISSING_CHECK: START\r\n")
            held.say(f"{path_hash} {stamp(at)}\r\n".encode())
            held.say(b":MISSING_CHECK: END\r\n")
            answer = held.hear(b":MISSING_CHECK: END\r\n")
            assert (path_hash.encode() in answer) is (at == 6)
            assert wish in answer
            held.end()  # a sender that only asks, as of a second node in a region
            assert b":ERROR:" not in held.hear(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"hello\r\n", b"400", id="no start"),
        pytest.param(b":MISSING_CHECK: START\r\nnonsense\r\n", b"400", id="no offer"),
        pytest.param(b":MISSING_CHECK: START\r\n" + b"x" * 70_000, b"400", id="long"),
        pytest.param(START[:-18] + b":UPDATES: STOP\r\n", b"400", id="no updates"),
        pytest.param(START + b"GET /a/c/o\r\nX-Timestamp: 1\r\n\r\n", b"400", id="GET"),
        pytest.param(START + b"PUT /a/c\r\n\r\n", b"400", id="no object"),
        pytest.param(
            START + b"PUT /a/c/o\r\nX-Timestamp: 1\r\n\r\n", b"400", id="no length"
        ),
        pytest.param(
            START + put(1, name="../../../etc/x") + b":UPDATES: END\r\n",
            None,
            id="dots are names",
        ),
        pytest.param(b":MISSING_CHECK: START\r\n", b"408", id="silence"),
    ],
)
def test_a_wrong_sender_is_told_and_cut_off(node, sent, status):
    with Conversation(node) as held:
        held.say(sent)
        if status is None:
            held.hear(b":UPDATES: END\r\n")
        else:
            held.hear(b":ERROR: " + status)
            assert held.is_closed()
    assert {path.name for path in Path(node.root).iterdir()} == {DEVICE}
    assert node.ask("object", "GET", "a/c/o")[0] == 404


def test_a_conflict_fails_the_conversation_and_spares_the_others(node):
    newer = {"X-Timestamp": stamp(9), "Content-Type": "text/plain"}
    assert node.ask("object", "PUT", "a/c/o", newer, b"newer")[0] == 201
    with Conversation(node) as held:
        held.say(START + put(1) + put(1, name="a/c/other") + b":UPDATES: END\r\n")
        held.hear(b":ERROR: 500")
    assert node.ask("object", "GET", "a/c/o")[2] == b"newer"
    assert node.ask("object", "GET", "a/c/other")[2] == b"hello"


def test_a_body_that_breaks_off_leaves_nothing(node):
    with Conversation(node) as held:
        held.say(START + put(1, b"x" * 300_000)[:-1000])
    green.sleep(0.1)
    assert node.ask("object", "GET", "a/c/o")[0] == 404


class OneRing:
    """A ring as far as the receiver looks at it."""

    part_power = 8
    next_part_power = None

    def get(self):
        return self


@pytest.mark.parametrize("how", ["offer", "update"])
def test_objects_of_a_foreign_partition_are_refused(node, how):
    node.cluster.rings["object"] = OneRing()
    path_hash = hash_of(node)
    right = partition_of_hex(path_hash, 8)
    offer = (
        f":MISSING_CHECK: START\r\n{path_hash} {stamp(1)}\r\n:MISSING_CHECK: END\r\n"
    )
    sent = offer.encode() if how == "offer" else START + put(1)
    with Conversation(node, path=f"/{DEVICE}/{(right + 1) % 256}") as held:
        held.say(sent)
        held.hear(b":ERROR: 400")
    with Conversation(node, path=f"/{DEVICE}/{right}") as held:
        held.say(offer.encode())
        held.hear(f"{path_hash} dm".encode())


def test_one_conversation_a_partition(node):
    with Conversation(node) as first:
        first.say(b":MISSING_CHECK: START\r\n")
        first.hear(b"2\r\n\r\n\r\n")
        with Conversation(node) as second:
            second.say(b":MISSING_CHECK: START\r\n")
            second.hear(b":ERROR: 0 ")
    # The lock goes with its conversation, once the server has seen that end.
    deadline = green.monotonic() + LIMIT_S
    answer = b""
    while b":UPDATES: END" not in answer:
        assert green.monotonic() < deadline, answer
        with Conversation(node) as third:
            third.say(START + b":UPDATES: END\r\n")
            answer = third.hear(b":UPDATES: END", b":ERROR:")


class SlowDisk(fs.FileSystem):
    """A disk whose syncs take as long as a test wants."""

    def __init__(self):
        super().__init__()
        self.may_end = threading.Event()

    def sync(self, fd):
        assert self.may_end.wait(LIMIT_S)
        super().sync(fd)


def test_the_next_conversation_of_a_device_begins_while_one_commits(tmp_path):
    disk = SlowDisk()
    fs.install(disk)
    try:
        node = Node(tmp_path, replication_lock_timeout_s=LIMIT_S)
    finally:
        fs.install(None)
    other = f"/{DEVICE}/{int(PARTITION) + 1}"
    try:
        with Conversation(node) as first, Conversation(node, path=other) as second:
            first.say(START + put(1))
            first.hear(b":MISSING_CHECK: END\r\n")
            second.say(START)
            first.say(b":UPDATES: END\r\n")
            second.say(b":UPDATES: END\r\n")
            second.hear(b":UPDATES: END\r\n")
            assert files(node) == []
            disk.may_end.set()
            first.hear(b":UPDATES: END\r\n")
            assert files(node) == [f"{stamp(1)}.data"]
    finally:
        disk.may_end.set()
        node.close()


def test_conversations_of_a_device_read_updates_one_after_the_other(node):
    with Conversation(node) as first:
        first.say(START + put(1))
        first.hear(b":MISSING_CHECK: END\r\n")
        with Conversation(node, path=f"/{DEVICE}/{int(PARTITION) + 1}") as second:
            second.say(START)
            second.hear(b":ERROR: 0 ")


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ("", "/sda9/7", b"507"),
        ("", "/sda1/seven", b"400"),
        ("", "/sda1/7/a/c/o", b"400"),
        ("X-Backend-Ssync-Frag-Index: x\r\n", "/sda1/7", b"400"),
        ("X-Backend-Ssync-Frag-Index: -1\r\n", "/sda1/7", b"400"),
        ("X-Backend-Storage-Policy-Index: 99\r\n", "/sda1/7", b"503"),
    ],
)
def test_an_ssync_that_cannot_be_is_answered_at_once(node, headers, path, status):
    with Conversation(node, headers, path) as held:
        held.hear(b"HTTP/1.1 " + status)


def test_timestamps_with_offsets_are_kept(node):
    when = Timestamp.parse(stamp(3)).plus(offset=2)
    update = put(1).replace(stamp(1).encode(), when.internal.encode())
    with Conversation(node) as held:
        held.say(START + update + b":UPDATES: END\r\n")
        held.hear(b":UPDATES: END\r\n")
    assert files(node) == [f"{when.internal}.data"]
