# SPDX-License-Identifier: Apache-2.0
"""The object replicator on a real cluster: what is broken on purpose heals.

Each test breaks something, runs passes of `swift-object-replicator --once` for every
node, and then looks at every replica on disk.
"""

from __future__ import annotations

import configparser
import os
import shutil
import socket
import subprocess
import sys
from hashlib import md5

import pytest

from swift.core.hashing import partition_of_hex
from swift.core.names import ObjectName
from swift.runtime.cluster import Cluster as Facts
from test.support.client import Client
from test.support.cluster import ROOT, Cluster, free_port, wait_until

NODES = (1, 2, 3, 4)
ROUNDS = 4
"""Passes of all nodes until everything is where it belongs, at most."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = Cluster(tmp_path_factory.mktemp("replicator"))
    started.start()
    # The passes that count are those that the tests ask for.
    started.kill_daemons()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(cluster):
    return Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )


@pytest.fixture(scope="module")
def rsyncd(cluster):
    """Port of an rsync daemon with a module for each node."""
    if shutil.which("rsync") is None:
        pytest.skip("no rsync on this machine")
    port = free_port()
    folder = cluster.folder / "rsyncd"
    folder.mkdir()
    modules = "".join(
        f"[object{node}]\npath = {cluster.folder}/srv/{node}\nread only = false\n"
        for node in NODES
    )
    conf = folder / "rsyncd.conf"
    conf.write_text(
        f"port = {port}\naddress = 127.0.0.1\nuse chroot = false\n"
        f"pid file = {folder}/pid\nlog file = {folder}/log\nuid = {os.getuid()}\n"
        f"gid = {os.getgid()}\nmax connections = 20\n{modules}"
    )
    process = subprocess.Popen(["rsync", "--daemon", "--no-detach", f"--config={conf}"])
    wait_until(lambda: _listens(port), 10, "start of the rsync daemon")
    yield port
    process.terminate()
    process.wait(60)


def _listens(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def replicate(cluster, node, **options):
    """One pass of a node's replicator; what it printed."""
    source = configparser.ConfigParser(interpolation=None)
    source.read(cluster.folder / "etc" / "object-server" / f"{node}.conf")
    conf = configparser.ConfigParser(interpolation=None)
    conf["DEFAULT"] = dict(source["DEFAULT"])
    conf["object-replicator"] = {
        "sync_method": "ssync",
        "log_level": "INFO",
        "log_name": "object-replicator",
        **{key: str(value) for key, value in options.items()},
    }
    path = cluster.folder / f"replicator-{node}.conf"
    with path.open("w") as stream:
        conf.write(stream)
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "bin" / "swift-object-replicator"),
            str(path),
            "--once",
            "-v",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def heal(cluster, is_healed, **options):
    """Run passes of all nodes until the condition holds."""
    said = []
    for _round in range(ROUNDS):
        said += [replicate(cluster, node, **options) for node in NODES]
        if is_healed():
            return
    raise AssertionError("\n".join(said))


class Place:
    """Where the ring wants an object, and where its files are."""

    def __init__(self, cluster, client, container, name):
        facts = Facts.load(str(cluster.folder / "etc"))
        ring = facts.object_ring(0)
        account = client.base.rsplit("/", 1)[-1]
        self.hash = facts.salt.hex_of(ObjectName(account, container, name))
        self.partition = partition_of_hex(self.hash, ring.part_power)
        self.cluster = cluster
        self.primaries = {int(node.name[1:]) for node in ring.primaries(self.partition)}
        (self.handoff,) = set(NODES) - self.primaries

    def paths(self, node):
        """The object's files on a node."""
        tree = self.cluster.device(node) / "objects" / str(self.partition)
        return sorted((tree / self.hash[-3:] / self.hash).glob("*"))

    def files(self, node):
        """Their names."""
        return [path.name for path in self.paths(node)]

    def partition_exists(self, node):
        tree = self.cluster.device(node) / "objects" / str(self.partition)
        return tree.exists()

    def is_home(self, kind=".data"):
        """True when each primary has the one right file, and the handoff nothing."""
        held = {tuple(self.files(node)) for node in self.primaries}
        return (
            len(held) == 1
            and len(next(iter(held))) == 1
            and next(iter(held))[0].endswith(kind)
            and not self.partition_exists(self.handoff)
        )


def put_all(client, container, names, size=3000):
    for number, name in enumerate(names):
        body = bytes([number % 256]) * size
        assert client.put(f"{client.base}/{container}/{name}", body=body).status == 201


def read_all(client, container, names, size=3000):
    for number, name in enumerate(names):
        answer = client.get(f"{client.base}/{container}/{name}")
        assert answer.status == 200
        assert md5(answer.body).digest() == md5(bytes([number % 256]) * size).digest()


def container_named(client, name):
    assert client.put(f"{client.base}/{name}").status in (201, 202)
    return name


def test_writes_of_an_outage_leave_their_handoffs(cluster, client):
    container = container_named(client, "outage")
    names = [f"o{number}" for number in range(12)]
    cluster.kill("object-2")
    put_all(client, container, names)
    cluster.restart("object-2")
    places = [Place(cluster, client, container, name) for name in names]
    lacking = [place for place in places if 2 in place.primaries]
    assert lacking, "the killed node was no primary of any object"
    assert all(place.files(place.handoff) for place in lacking)

    heal(cluster, lambda: all(place.is_home() for place in places))

    read_all(client, container, names)


def test_a_tombstone_wins_over_older_data_and_loses_to_newer(cluster, client):
    container = container_named(client, "tombs")
    names = [f"o{number}" for number in range(8)]
    put_all(client, container, names)
    gone, back = names[:4], names[4:]
    places = {name: Place(cluster, client, container, name) for name in names}
    cluster.kill("object-1")
    for name in names:
        assert client.delete(f"{client.base}/{container}/{name}").status == 204
    cluster.restart("object-1")
    cluster.kill("object-3")
    put_all(client, container, back)
    cluster.restart("object-3")

    def is_healed():
        deleted = all(places[name].is_home(".ts") for name in gone)
        return deleted and all(places[name].is_home() for name in back)

    heal(cluster, is_healed)

    for name in gone:
        assert client.get(f"{client.base}/{container}/{name}").status == 404
    read_all(client, container, back)


def test_metadata_posted_in_an_outage_reaches_the_node(cluster, client):
    container = container_named(client, "posts")
    names = [f"o{number}" for number in range(6)]
    put_all(client, container, names)
    cluster.kill("object-4")
    for name in names:
        sent = {"X-Object-Meta-Color": "blue", "Content-Type": "text/blue"}
        answer = client.post(f"{client.base}/{container}/{name}", sent)
        assert answer.status == 202
    cluster.restart("object-4")
    places = [Place(cluster, client, container, name) for name in names]

    def is_healed():
        return all(
            len({tuple(place.files(node)) for node in place.primaries}) == 1
            and len(place.files(min(place.primaries))) == 2
            for place in places
        )

    heal(cluster, is_healed, concurrency=4, replicator_workers=2)


@pytest.mark.parametrize("method", ["ssync", "rsync"])
def test_a_wiped_device_is_filled_again(cluster, client, method, request):
    options = {"sync_method": method}
    if method == "rsync":
        port = request.getfixturevalue("rsyncd")
        options["rsync_module"] = f"rsync://127.0.0.1:{port}/object{{zone}}"
    container = container_named(client, f"wiped-{method}")
    names = [f"o{number}" for number in range(20)]
    put_all(client, container, names)
    body = bytes(range(256)) * 4000
    assert client.put(f"{client.base}/{container}/big", body=body).status == 201
    big = Place(cluster, client, container, "big")
    places = [big, *(Place(cluster, client, container, name) for name in names)]
    node = min(big.primaries)
    shutil.rmtree(cluster.device(node) / "objects")

    heal(cluster, lambda: all(place.is_home() for place in places), **options)

    for holder in big.primaries:
        (copy,) = big.paths(holder)
        assert md5(copy.read_bytes()).digest() == md5(body).digest()
    read_all(client, container, names)


def test_a_pass_over_an_unchanged_tree_pushes_nothing(cluster, client):
    container = container_named(client, "quiet")
    names = [f"o{number}" for number in range(4)]
    put_all(client, container, names)
    places = [Place(cluster, client, container, name) for name in names]
    heal(cluster, lambda: all(place.is_home() for place in places))
    before = {path: path.stat().st_mtime_ns for path in cluster.object_files()}
    said = "".join(replicate(cluster, node) for node in NODES)
    assert "0 failures" in said
    assert "0.00% synced" in said
    after = {path: path.stat().st_mtime_ns for path in cluster.object_files()}
    data = {path for path in before if path.suffix in (".data", ".ts", ".meta")}
    assert {path: after[path] for path in data} == {path: before[path] for path in data}


def test_an_unreachable_rsync_module_is_counted_and_not_fatal(cluster, client):
    container = container_named(client, "nomodule")
    put_all(client, container, ["o"])
    place = Place(cluster, client, container, "o")
    heal(cluster, place.is_home)
    node, other = sorted(place.primaries)[:2]
    shutil.rmtree(cluster.device(other) / "objects" / str(place.partition))
    said = replicate(
        cluster,
        node,
        sync_method="rsync",
        rsync_module=f"rsync://127.0.0.1:{free_port()}/nothing",
    )
    assert "rsync exited with" in said
    assert "object replication complete" in said
    heal(cluster, place.is_home)


def test_recon_is_told_of_a_pass(cluster):
    cache = cluster.folder / "cache" / "1"
    cache.mkdir(parents=True, exist_ok=True)
    replicate(cluster, 1)
    facts = (cache / "object.recon").read_text()
    for key in ("replication_stats", "object_replication_time", "replication_last"):
        assert key in facts
