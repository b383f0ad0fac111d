# SPDX-License-Identifier: Apache-2.0
"""One call to one node."""

from __future__ import annotations

import pytest

from swift.core.errors import PeerError
from swift.core.names import AccountName, ContainerName, ObjectName
from swift.wire.client import ConnectionPool
from swift.wire.direct import DirectClient, DirectError
from test.support.nodes import Nodes, make_ring

NOW = {"X-Timestamp": "1700000000.00000"}


@pytest.fixture
def nodes():
    return Nodes()


@pytest.fixture
def client(nodes):
    return DirectClient(ConnectionPool(nodes), user_agent="test 1")


def node_of(kind):
    return make_ring(kind).primaries(0)[0]


def test_an_object_is_put_read_changed_and_deleted(nodes, client):
    node, name = node_of("object"), ObjectName("a", "c", "ö/x")
    client.put(node, 0, name, {**NOW, "Content-Type": "a/b"}, b"body")
    assert client.head(node, 0, name, NOW)["Content-Length"] == "4"
    assert client.get_object(node, 0, name, NOW).read() == b"body"
    client.post(node, 0, name, {**NOW, "X-Object-Meta-A": "b"})
    assert client.head(node, 0, name, NOW)["X-Object-Meta-A"] == "b"
    later = {"X-Timestamp": "1700000001.00000"}
    assert client.delete(node, 0, name, later).status == 204
    with pytest.raises(DirectError) as error:
        client.get_object(node, 0, name, later)
    assert error.value.status == 404
    assert nodes.requests[0].path == "/a/c/\xc3\xb6/x"
    assert nodes.requests[0].headers["User-Agent"] == "test 1"
    assert nodes.requests[0].headers["X-Backend-Use-Replication-Network"] == "true"


def test_a_listing_comes_as_rows(nodes, client):
    node, name = node_of("container"), ContainerName("a", "c")
    client.put(node, 0, name, NOW)
    nodes.listings["/a/c"] = [{"name": "x"}]
    headers, rows = client.listing(node, 0, name, "limit=5", NOW)
    assert rows == [{"name": "x"}]
    assert headers["X-Container-Object-Count"] == "1"
    assert nodes.requests[-1].query == "format=json&limit=5"


def test_no_answer_is_a_peer_error(nodes, client):
    node = node_of("account")
    nodes.refusing.add(node.ip)
    with pytest.raises(PeerError):
        client.head(node, 0, AccountName("a"), NOW)
