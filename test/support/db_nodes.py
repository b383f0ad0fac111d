# SPDX-License-Identifier: Apache-2.0
"""Several storage nodes in this process with a ring over them, and their daemons."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace

from swift.core.hashing import HashSalt
from swift.core.names import AccountName, ContainerName, Limits
from swift.core.policy import StoragePolicies, StoragePolicy
from swift.core.redundancy import Replication
from swift.core.ring.builder import RingBuilder
from swift.core.ring.codec import write_ring
from swift.core.ring.ring import Ring
from swift.core.rows import ContainerRow, ObjectRow
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster, RingFile
from swift.runtime.daemon import Frame, Scope, run_pass
from swift.runtime.logs import NULL_LOG, ListSink, Logger
from swift.runtime.metrics import NO_METRICS
from swift.storage.db.account import AccountBroker
from swift.storage.db.connection import Databases, db_path
from swift.storage.db.container import ContainerBroker
from test.support.cluster import free_port, wait_until
from test.support.node import DEVICE, LOCALHOST, Node

SALT = HashSalt(b"prefix", b"suffix")
PART_POWER = 4
POLICIES = StoragePolicies(
    [
        StoragePolicy(0, ("gold",), Replication(), is_default=True),
        StoragePolicy(1, ("silver",), Replication()),
    ]
)


class DbNodes:
    """Nodes with one device each, and an rsync daemon for all of them. Close it.

    drained: numbers of nodes whose devices have no weight. sink: what the daemons log.
    """

    def __init__(self, root, count=4, replicas=3, policies=POLICIES, drained=()):
        self.root = root
        self.policies = policies
        self.nodes = []
        for number in range(count):
            folder = root / f"n{number}"
            folder.mkdir()
            self.nodes.append(Node(folder))
        self.databases = [Databases(green.now) for _ in self.nodes]
        rings = {}
        for kind in ("account", "container", "object"):
            builder = RingBuilder(PART_POWER, replicas, 1)
            for number, node in enumerate(self.nodes):
                builder.add_device(
                    region=1,
                    zone=number,
                    ip=LOCALHOST,
                    port=node.ports[kind],
                    name=DEVICE,
                    weight=0.0 if number in drained else 100.0,
                )
            builder.rebalance(now=0.0, rng=random.Random(1))
            path = root / f"{kind}.ring.gz"
            path.write_bytes(write_ring(builder.ring()))
            rings[kind] = RingFile(str(path), NULL_LOG)
        self.cluster = Cluster(str(root), SALT, Limits(), policies, rings)
        self.sink = ListSink()
        self.log = Logger("test", [self.sink])
        self._rsync = None
        self.rsync_port = 0

    def start_rsync(self):
        """Start a daemon with a module `account_PORT` or `container_PORT` a node."""
        self.rsync_port = free_port()
        lines = ["use chroot = no", "log file = /dev/null"]
        for node in self.nodes:
            for kind in ("account", "container"):
                lines += [
                    f"[{kind}_{node.ports[kind]}]",
                    f"path = {node.root}",
                    "read only = no",
                    "uid = 0" if self._is_root() else "",
                    "gid = 0" if self._is_root() else "",
                ]
        conf = self.root / "rsyncd.conf"
        conf.write_text("\n".join(lines) + "\n")
        self._rsync = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", f"--port={self.rsync_port}",
             f"--address={LOCALHOST}", f"--config={conf}"],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        probe = ["rsync", f"rsync://{LOCALHOST}:{self.rsync_port}/"]
        wait_until(
            lambda: subprocess.run(probe, capture_output=True).returncode == 0,
            10,
            "rsync daemon",
        )

    @staticmethod
    def _is_root():
        import os

        return os.getuid() == 0

    def close(self):
        for node in self.nodes:
            node.close()
        for databases in self.databases:
            databases.close()
        if self._rsync is not None:
            self._rsync.kill()
            self._rsync.wait()

    # --- Daemons --------------------------------------------------------------------

    def daemon(self, kind, number, **options):
        """A daemon of a class for one node; server: whose port is ours."""
        node = self.nodes[number]
        server = options.pop("server", None) or getattr(kind, "kind", "container")
        fields = {
            "devices": str(node.root),
            "mount_check": False,
            "bind_ip": LOCALHOST,
            "bind_port": node.ports[server],
            "recon_cache_path": str(node.root),
            **options,
        }
        known = kind.Config.__dataclass_fields__
        if "rsync_module" in known:
            fields.setdefault(
                "rsync_module",
                f"rsync://{LOCALHOST}:{self.rsync_port}/{server}_{{port}}",
            )
        if "databases_per_second" in known:
            fields.setdefault("databases_per_second", 0.0)
        return kind(kind.Config(**fields), Frame(self.cluster, self.log, NO_METRICS))

    def run(self, kind, number, **options):
        """Run one pass of a daemon of one node; the daemon."""
        scope = Scope(once=True, **options.pop("scope", {}))
        daemon = self.daemon(kind, number, **options)
        run_pass(daemon, scope)
        return daemon

    def run_daemon(self, daemon, **scope):
        """Run one pass of a daemon that was made before."""
        run_pass(daemon, Scope(once=True, **scope))

    def lead_to(self, daemon, number, port):
        """Let a daemon find another server where a node's container server was."""
        ring = self.cluster.rings["container"].get()
        devices = [
            replace(each, port=port, replication_port=port)
            if each is not None and each.id == number
            else each
            for each in ring.devices
        ]
        moved = Ring(part_power=PART_POWER, devices=devices, rows=ring.rows)
        path = self.root / "moved.ring.gz"
        path.write_bytes(write_ring(moved))
        rings = {**self.cluster.rings, "container": RingFile(str(path), NULL_LOG)}
        daemon.cluster = replace(self.cluster, rings=rings)

    def run_all(self, kind, **options):
        """Run one pass of a daemon on every node, in turn."""
        return [self.run(kind, number, **options) for number in range(len(self.nodes))]

    # --- Databases ------------------------------------------------------------------

    def primaries(self, name):
        """The numbers of the nodes that are primaries of an account or container."""
        kind = "account" if isinstance(name, AccountName) else "container"
        ring = self.cluster.rings[kind].get()
        partition = ring.partition(SALT.digest_of(name))
        return [node.id for node in ring.primaries(partition)]

    def handoff(self, name):
        """The number of a node that is no primary."""
        return next(
            number
            for number in range(len(self.nodes))
            if number not in self.primaries(name)
        )

    def broker(self, name, number, partition=None):
        """The broker of a name on one node."""
        kind = "account" if isinstance(name, AccountName) else "container"
        ring = self.cluster.rings[kind].get()
        digest = SALT.digest_of(name)
        path = db_path(
            str(self.nodes[number].root),
            DEVICE,
            f"{kind}s",
            ring.partition(digest) if partition is None else partition,
            digest.hex(),
        )
        make = AccountBroker if kind == "account" else ContainerBroker
        return make(self.databases[number], path, name)

    def create(self, name, number, at=1.0, policy=0, partition=None):
        """Make the database of a name on one node."""
        broker = self.broker(name, number, partition)
        put = Timestamp.at(green.now() - 1000 + at)
        if isinstance(name, ContainerName):
            broker.create(put, policy)
        else:
            broker.create(put)
        return broker


def moment(seconds):
    """A time in internal form: 15 minutes ago and so many seconds."""
    return Timestamp.at(green.now() - 900 + seconds).internal


def object_row(name, at=1.0, size=10, policy=0, deleted=0):
    """A row of a container."""
    return ObjectRow(name, moment(at), size, "text/plain", f"e-{name}", deleted, policy)


def container_row(name, count=1, size=10, policy=0):
    """A row of an account."""
    return ContainerRow(name, moment(1), "0", count, size, 0, policy)


def names_in(broker):
    """The names of a database's live rows, sorted."""
    broker.commit_pending()
    return sorted(
        row["name"] for row in broker.rows_since(-1, 10000) if not row["deleted"]
    )
