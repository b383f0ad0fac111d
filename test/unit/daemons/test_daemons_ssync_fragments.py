# SPDX-License-Identifier: Apache-2.0
"""Fragments travel by ssync as copies do: what the two ends ask of the redundancy."""

from __future__ import annotations

import pytest

from swift.core.erasure import ErasureCoding
from swift.core.errors import ObjectMissing, PeerError
from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.policy import StoragePolicy
from swift.core.ring.devices import Device
from swift.core.ring.devices import Node as RingNode
from swift.core.settings import Reserve
from swift.core.timestamp import Timestamp
from swift.daemons.ssync_sender import Push, SsyncSender, own_copy
from swift.runtime import green
from swift.runtime.logs import NULL_LOG
from swift.runtime.metrics import NO_METRICS
from swift.storage.object.context import DiskConfig
from swift.storage.object.manager import DiskFileManager
from swift.wire.client import ConnectionPool
from test.support.node import DEVICE, LOCALHOST, Node, stamp

CODING = ErasureCoding("isa_l_rs_vand", 4, 2, segment_size=65536)
POLICY = StoragePolicy(1, ("coded",), CODING)
NAME = ObjectName("a", "c", "o")
WHEN = Timestamp.parse(stamp(1))
INDEX = 3
BODY = b"a fragment archive, as far as a disk cares"
LIMIT_S = 60.0


class End:
    """A node whose policy 1 keeps fragments."""

    def __init__(self, root):
        root.mkdir()
        self.node = Node(root)
        self.manager = DiskFileManager(
            DiskConfig(
                devices=str(root),
                mount_check=False,
                fallocate_reserve=Reserve(),
                reclaim_age=4_000_000_000,
            ),
            POLICY,
            self.node.cluster.salt,
            NULL_LOG,
            NO_METRICS,
        )
        self.node.apps["object"]._managers[1] = self.manager

    def store(self, *, commit, posted=None, name=NAME):
        disk = self.manager.diskfile(DEVICE, 7, name)
        with disk.writer(len(BODY)) as writer:
            writer.write(BODY)
            metadata = Headers(
                {
                    "Content-Type": "text/plain",
                    "X-Object-Sysmeta-Ec-Frag-Index": str(INDEX),
                }
            )
            writer.commit(metadata, WHEN, fragment_index=INDEX)
        if commit:
            disk.make_durable(WHEN, INDEX)
        if posted is not None:
            disk.post(Headers({"X-Object-Meta-A": "1"}), posted)

    def names(self, name=NAME):
        path_hash = self.node.cluster.salt.hex_of(name)
        folder = self.node.device / "objects-1" / "7" / path_hash[-3:] / path_hash
        return sorted(path.name for path in folder.glob("*"))


@pytest.fixture
def ends(tmp_path):
    made = End(tmp_path / "one"), End(tmp_path / "two")
    yield made
    for end in made:
        end.node.close()


def push(sender, receiver, names=(NAME,), source=own_copy, ahead=0, **what):
    port = receiver.node.ports["object"]
    device = Device(0, 1, 1, LOCALHOST, port, LOCALHOST, port, DEVICE, 1.0)
    ssync = SsyncSender(
        sender.manager,
        ConnectionPool(),
        user_agent="object-reconstructor 1",
        connect_timeout_s=5,
        answer_timeout_s=5,
        source=source,
        ahead=ahead,
    )
    hashes = [sender.node.cluster.salt.hex_of(name) for name in names]
    found = sender.manager.partitions.objects(
        DEVICE, 7, *(path_hash[-3:] for path_hash in hashes)
    )
    what = {"fragment_index": INDEX, "peer_index": INDEX, **what}
    return ssync.push(Push(RingNode(device, index=0), DEVICE, 7, **what), found)


def test_a_durable_fragment_arrives_durable(ends):
    one, two = ends
    one.store(commit=True)
    assert len(push(one, two)) == 1
    assert two.names() == one.names() == [f"{WHEN.internal}#{INDEX}#d.data"]
    with two.manager.diskfile(DEVICE, 7, NAME).open(green.now()) as opened:
        assert b"".join(opened.reader()) == BODY


def test_a_fragment_without_its_commit_goes_only_when_asked(ends):
    one, two = ends
    one.store(commit=False)
    assert push(one, two) == {}
    assert two.names() == []
    assert len(push(one, two, non_durable=True)) == 1
    assert two.names() == [f"{WHEN.internal}#{INDEX}.data"]
    assert len(push(one, two, non_durable=True)) == 1


def test_the_offer_of_a_durable_fragment_commits_the_same_one(ends):
    one, two = ends
    one.store(commit=True, posted=Timestamp.parse(stamp(5)))
    two.store(commit=False)
    assert len(push(one, two)) == 1
    assert two.names() == one.names()
    assert len(two.names()) == 2


def test_fragments_of_another_index_are_not_offered(ends):
    one, two = ends
    one.store(commit=True)
    assert push(one, two, fragment_index=INDEX + 1) == {}
    assert two.names() == []


MANY = [ObjectName("a", "c", f"o{number}") for number in range(9)]


class Sources:
    """Bodies as they lie on the disk; some are broken, missing or never come."""

    def __init__(self, *, broken="", missing="", silent=""):
        self.broken, self.missing, self.silent = broken, missing, silent
        self.asked = self.open = self.most = 0

    def __call__(self, opened, push):
        self.asked += 1
        green.yield_now()  # as one that asks other nodes
        if opened.name.endswith(self.missing or "-"):
            raise ObjectMissing(opened.name)
        headers, reader = own_copy(opened, push)
        self.open += 1
        self.most = max(self.most, self.open)
        return headers, SourceBody(self, opened.name, reader)


class SourceBody:
    def __init__(self, sources, name, reader):
        self.sources, self.name, self.reader = sources, name, reader

    def __iter__(self):
        return self

    def __next__(self):
        if self.name.endswith(self.sources.broken or "-"):
            raise PeerError("source", "cut by the test")
        if self.name.endswith(self.sources.silent or "-"):
            green.Event().wait()
        return next(self.reader)

    def close(self):
        self.sources.open -= 1
        self.reader.close()


@pytest.mark.parametrize("ahead", [0, 1, 3, 20])
def test_objects_that_are_made_ahead_arrive_like_others(ends, ahead):
    one, two = ends
    for name in MANY:
        one.store(commit=True, name=name)
    sources = Sources(missing="o4")
    assert len(push(one, two, MANY, sources, ahead)) == len(MANY) - 1
    assert [name for name in MANY if not two.names(name)] == [MANY[4]]
    assert sources.open == 0
    assert 1 <= sources.most <= ahead + 1


@pytest.mark.parametrize("broken", [name.obj for name in MANY])
def test_a_conversation_that_breaks_lets_go_of_what_was_made_ahead(ends, broken):
    one, two = ends
    for name in MANY:
        one.store(commit=True, name=name)
    sources = Sources(broken=broken)
    with pytest.raises(PeerError, match="cut by the test"):
        push(one, two, MANY, sources, 3)
    assert sources.open == 0
    assert sources.asked <= len(MANY)


def test_who_is_killed_while_sending_lets_go_of_what_was_made_ahead(ends):
    one, two = ends
    for name in MANY:
        one.store(commit=True, name=name)
    sources = Sources(silent=MANY[0].obj)
    thread = green.spawn(push, one, two, MANY, sources, 3)
    latest = green.monotonic() + LIMIT_S
    while sources.open < 4 and green.monotonic() < latest:
        green.sleep(0.001)
    assert sources.open == 4
    thread.kill()
    assert thread.ended
    assert sources.open == 0
