# SPDX-License-Identifier: Apache-2.0
"""One storage node in this process: three servers on loopback, and a real disk."""

from __future__ import annotations

from swift.core.hashing import HashSalt
from swift.core.names import Limits
from swift.core.policy import StoragePolicies, StoragePolicy
from swift.core.redundancy import Replication
from swift.core.settings import Reserve
from swift.runtime.cluster import Cluster
from swift.runtime.logs import NULL_LOG
from swift.runtime.metrics import NO_METRICS
from swift.services import account, container
from swift.services import object as object_server
from swift.storage.object.context import DiskConfig
from swift.wire.client import ConnectionPool, TcpConnector
from swift.wire.heads import HttpLimits
from swift.wire.server import Server, ServerOptions, listen

DEVICE = "sda1"
LOCALHOST = "127.0.0.1"


class Node:
    """The servers `object`, `container` and `account` of one node.

    ports: kind → port. disks: fields of DiskConfig; options: of ObjectConfig. Close it.
    """

    def __init__(self, root, *, client_timeout_s=5.0, disks=None, **options):
        self.root = root
        self.device = root / DEVICE
        self.device.mkdir(exist_ok=True)
        policies = StoragePolicies(
            [
                StoragePolicy(0, ("gold",), Replication(), is_default=True),
                StoragePolicy(1, ("silver",), Replication()),
            ]
        )
        salt = HashSalt(b"prefix", b"suffix")
        self.cluster = Cluster(str(root), salt, Limits(), policies, {})
        shared = {"cluster": self.cluster, "log": NULL_LOG, "metrics": NO_METRICS}
        fields = {
            "devices": str(root),
            "mount_check": False,
            "fallocate_reserve": Reserve(),
            # Tests live in 2023, when tombstones are older than any reclaim age.
            "reclaim_age": 4_000_000_000,
            **(disks or {}),
        }
        places = {"devices": str(root), "mount_check": False}
        self.apps = {
            "object": object_server.make_server(
                object_server.ObjectConfig(**options),
                DiskConfig(**fields),
                connector=TcpConnector(),
                **shared,
            ),
            "container": container.make_server(
                container.ContainerConfig(**places), connector=TcpConnector(), **shared
            ),
            "account": account.make_server(account.AccountConfig(**places), **shared),
        }
        self.pool = ConnectionPool()
        self.ports = {}
        self._servers = []
        for kind, app in self.apps.items():
            limits = HttpLimits(client_timeout_s=client_timeout_s)
            serving = ServerOptions(bind_ip=LOCALHOST, limits=limits)
            server = Server(app, listen(serving), serving, NULL_LOG)
            server.start()
            self.ports[kind] = server.port
            self._servers.append(server)

    def close(self):
        self.pool.close()
        for server in self._servers:
            server.close()

    def host(self, kind):
        """`ip:port` of a server."""
        return f"{LOCALHOST}:{self.ports[kind]}"

    def ask(self, kind, method, path, headers=None, body=b""):
        """(status, headers, body); a path without slash is in partition 7."""
        target = f"/{DEVICE}/7/{path}" if not path.startswith("/") else path
        sent = dict(headers or {})
        if method in ("PUT", "POST") and "Transfer-Encoding" not in sent:
            sent.setdefault("Content-Length", str(len(body)))
        response = self.pool.request(
            LOCALHOST,
            self.ports[kind],
            method,
            target,
            sent.items(),
            body,
            connect_timeout_s=60,
            response_timeout_s=60,
        )
        content = response.read()
        return response.status, response.headers, content

    def connection(self, kind):
        """A connection of one's own, for requests in pieces."""
        return self.pool.dial(LOCALHOST, self.ports[kind], 5)


def stamp(seconds):
    """The normal form of a time in 2023 plus so many seconds."""
    return f"{1_700_000_000 + seconds:016.5f}"


def temporary_files(node):
    """Files that are left in the node's tmp directories."""
    return [path for path in node.device.glob("tmp*/**/*") if path.is_file()]
