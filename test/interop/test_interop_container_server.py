# SPDX-License-Identifier: Apache-2.0
"""Account and container servers answer as OpenStack Swift's did, request by request."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from swift.core.errors import PeerError
from swift.core.hashing import HashSalt
from swift.core.names import Limits
from swift.core.policy import StoragePolicies, StoragePolicy
from swift.core.redundancy import Replication
from swift.runtime.cluster import Cluster
from swift.runtime.logs import NULL_LOG
from swift.runtime.metrics import NO_METRICS
from swift.services.account import AccountConfig, AccountServer
from swift.services.container import ContainerConfig, ContainerServer
from swift.services.node_db import DatabaseRoom
from swift.services.updates import UpdateSender
from swift.storage.db.connection import Databases
from swift.storage.devices import Devices
from swift.wire.client import ConnectionPool
from swift.wire.environ import blank
from swift.wire.request import call

GOLDEN = Path(__file__).parent / "golden" / "db"
REQUESTS = json.loads((GOLDEN / "server-requests.json").read_text())
ROOT = "ab01ee53f7ae3b46eefd39ba203b0004"
SHARDING_FROM, SHARDED_FROM = 73, 85
MISPLACED_ROW = 84
CLOCKS = {
    # The golden clock ticked on every reading; these are its readings when the
    # databases were made, by the partition of the request.
    "5": 1700000000.00003,
    "6": 1700000000.0,
    "9": 1700000000.00119,
    "10": 1700000000.00287,
    "12": 1700000000.00338,
    "13": 1700000000.00525,
}


class NobodyListens:
    """A network without peers."""

    def connect(self, ip, port, timeout_s):
        raise PeerError(f"{ip}:{port}", "refused")


class Servers:
    """Both servers on one device, and a clock that is set."""

    def __init__(self, tmp_path):
        self.now = 1700000000.0
        policies = StoragePolicies(
            [
                StoragePolicy(0, ("gold",), Replication(), is_default=True),
                StoragePolicy(1, ("ec42",), Replication()),
                StoragePolicy(2, ("ec42isa",), Replication()),
                StoragePolicy(3, ("silver",), Replication()),
            ]
        )
        salt = HashSalt(b"goldenprefix", b"goldensuffix")
        cluster = Cluster(str(tmp_path), salt, Limits(), policies, {})
        self.device = tmp_path / "sda1"
        self.device.mkdir()
        self.databases = Databases(lambda: self.now)
        room = DatabaseRoom(Devices(str(tmp_path), False), self.databases, salt)
        shared = {
            "cluster": cluster,
            "room": room,
            "log": NULL_LOG,
            "metrics": NO_METRICS,
        }
        sender = UpdateSender(
            ConnectionPool(NobodyListens()),
            connect_timeout_s=1,
            answer_timeout_s=1,
            log=NULL_LOG,
        )
        self.apps = {
            "account-server": AccountServer(AccountConfig(), **shared),
            "container-server": ContainerServer(
                ContainerConfig(), sender=sender, **shared
            ),
        }

    def send(self, request):
        self.now = CLOCKS.get(request["url"].split("/")[2], 1700000500.0)
        body = request["body"]
        environ = blank(
            request["url"],
            method=request["method"],
            headers=request["headers"],
            body=None if body is None else body.encode(),
        )
        return call(self.apps[request["server"]], environ)

    def place_root(self, stem):
        """Put the golden databases of the root container in the place of ours."""
        directory = self.device / "containers" / "12" / ROOT[-3:] / ROOT
        shutil.rmtree(directory)
        directory.mkdir()
        for source in GOLDEN.glob(f"{stem}__HASH*.db"):
            target = source.name.split("__")[1].replace("HASH", ROOT)
            shutil.copy(source, directory / target)
        self.databases.forget(str(directory / f"{ROOT}.db"))


@pytest.fixture
def servers(tmp_path):
    return Servers(tmp_path)


def same(body, expected):
    """True for equal bodies; JSON is compared byte for byte too."""
    return body.decode() == expected


def test_every_golden_request_is_answered_alike(servers):
    for index, request in enumerate(REQUESTS):
        if index == SHARDING_FROM:
            servers.place_root("sharding-root")
        if index == SHARDED_FROM:
            servers.place_root("sharded-root")
            servers.send(REQUESTS[MISPLACED_ROW]).body  # noqa: B018 (runs it)
        response = servers.send(request)
        body = response.body
        label = (index, request["method"], request["url"], request["note"])
        assert response.status == request["status"], (label, body)
        assert same(body, request["response_body"]), label
        # A value of the wire is a WSGI string here and text in the golden file.
        headers = {
            name: value.encode("latin-1").decode()
            for name, value in response.headers.items()
        }
        assert headers == request["response_headers"], label
