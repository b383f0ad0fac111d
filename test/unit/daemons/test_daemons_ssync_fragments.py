# SPDX-License-Identifier: Apache-2.0
"""Fragments travel by ssync as copies do: what the two ends ask of the redundancy."""

from __future__ import annotations

import pytest

from swift.core.erasure import ErasureCoding
from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.policy import StoragePolicy
from swift.core.ring.devices import Device
from swift.core.ring.devices import Node as RingNode
from swift.core.settings import Reserve
from swift.core.timestamp import Timestamp
from swift.daemons.ssync_sender import Push, SsyncSender
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

    def store(self, *, commit, posted=None):
        disk = self.manager.diskfile(DEVICE, 7, NAME)
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

    def names(self):
        path_hash = self.node.cluster.salt.hex_of(NAME)
        folder = self.node.device / "objects-1" / "7" / path_hash[-3:] / path_hash
        return sorted(path.name for path in folder.glob("*"))


@pytest.fixture
def ends(tmp_path):
    made = End(tmp_path / "one"), End(tmp_path / "two")
    yield made
    for end in made:
        end.node.close()


def push(sender, receiver, **what):
    port = receiver.node.ports["object"]
    device = Device(0, 1, 1, LOCALHOST, port, LOCALHOST, port, DEVICE, 1.0)
    ssync = SsyncSender(
        sender.manager,
        ConnectionPool(),
        user_agent="object-reconstructor 1",
        connect_timeout_s=5,
        answer_timeout_s=5,
    )
    found = sender.manager.partitions.objects(
        DEVICE, 7, sender.node.cluster.salt.hex_of(NAME)[-3:]
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
