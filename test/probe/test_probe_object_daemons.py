# SPDX-License-Identifier: Apache-2.0
"""Updater, auditor and expirer on a real cluster: what is broken on purpose heals.

Each test breaks something, runs passes of all nodes, and looks at every replica.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from swift.core import expiry
from swift.core.hashing import partition_of_hex
from swift.core.names import ContainerName, ObjectName
from swift.runtime.cluster import Cluster as Facts
from test.support.client import Client
from test.support.cluster import LIMIT_S, ROOT, Cluster, alive, find, wait_until
from test.support.passes import NODES, began, command, run_passes, start_passes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = Cluster(tmp_path_factory.mktemp("daemons"))
    started.start()
    started.kill_daemons()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(cluster):
    return Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )


@pytest.fixture(scope="module")
def facts(cluster):
    return Facts.load(str(cluster.folder / "etc"))


@pytest.fixture
def container(client, request):
    name = request.node.name.replace("[", "-").replace("]", "")
    assert client.put(f"{client.base}/{name}").status == 201
    return name


def run(cluster, *daemons, **options):
    """One pass of daemons on every node; what they said. options: of all of them."""
    return run_passes(cluster.folder, daemons, dict.fromkeys(daemons, options))


def recon(cluster, node):
    return json.loads(
        (cluster.folder / "cache" / str(node) / "object.recon").read_text()
    )


class Listings:
    """What every replica of a container lists, asked directly."""

    def __init__(self, cluster, facts, account, container):
        ring = facts.container_ring()
        self.name = ContainerName(account, container)
        self.partition = ring.partition(facts.salt.digest_of(self.name))
        self.primaries = ring.primaries(self.partition)
        self.nodes = [int(node.name[1:]) for node in self.primaries]

    def all(self):
        """The names on each replica."""
        return [self.of(node) for node in self.primaries]

    def of(self, node):
        url = f"http://{node.ip}:{node.port}/{node.name}/{self.partition}"
        try:
            with urllib.request.urlopen(f"{url}{self.name.quoted}", timeout=5) as got:
                return got.read().decode().split("\n")[:-1]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return []  # the expirer removes queue containers that are empty


def pendings(cluster):
    return [
        path
        for node in NODES
        for path in find(cluster.device(node), "async_pending*/*/*")
    ]


def account_of(client):
    return client.base.rsplit("/", 1)[-1]


def test_listings_come_to_agree_after_a_container_server_was_down(
    cluster, client, facts, container
):
    listings = Listings(cluster, facts, account_of(client), container)
    names = [f"o{number:02d}" for number in range(12)]
    down = f"container-{listings.nodes[0]}"
    cluster.kill(down)
    try:
        for name in names:
            assert client.put(f"{client.base}/{container}/{name}", b"x").status == 201
        assert client.delete(f"{client.base}/{container}/{names.pop()}").status == 204
    finally:
        cluster.restart(down)

    run(cluster, "object-updater")

    assert listings.all() == [names] * 3
    assert pendings(cluster) == []
    swept = recon(cluster, 1)
    assert swept["object_updater_stats"]["failures_account_container_count"] == 0
    assert list(swept["object_updater_per_device"]) == ["d1"]


def test_half_a_pending_file_stops_nothing(cluster, client, facts, container):
    listings = Listings(cluster, facts, account_of(client), container)
    down = f"container-{listings.nodes[1]}"
    cluster.kill(down)
    try:
        assert client.put(f"{client.base}/{container}/o", b"x").status == 201
    finally:
        cluster.restart(down)
    node = int(pendings(cluster)[0].parts[-4][1:])
    folder = cluster.device(node) / "async_pending" / "fff"
    folder.mkdir(parents=True, exist_ok=True)
    bad = folder / ("f" * 32 + "-1700000000.00000")
    bad.write_bytes(b"\x80\x02}q\x00(U\x02")

    run(cluster, "object-updater")

    assert listings.all() == [["o"]] * 3
    assert pendings(cluster) == []
    assert (cluster.device(node) / "quarantined" / "objects" / bad.name).exists()


# --- Expirer --------------------------------------------------------------------------


def test_an_expired_object_leaves_the_disk_the_listing_and_the_queue(
    cluster, client, facts, container
):
    path = f"{client.base}/{container}"
    assert client.put(f"{path}/stays", b"x").status == 201
    # Some nodes hear of the queue later, by the updater.
    down = "container-2"
    cluster.kill(down)
    try:
        expires = int(time.time()) + 3
        answer = client.put(f"{path}/goes", b"x", {"X-Delete-At": str(expires)})
        assert answer.status == 201
    finally:
        cluster.restart(down)
    target = ObjectName(account_of(client), container, "goes")
    queue = expiry.queue_container(expires, target, facts.salt)
    wait_until(lambda: client.get(f"{path}/goes").status == 404, 10, "expiry")
    run(cluster, "object-updater", "container-updater")
    queued = Listings(cluster, facts, expiry.QUEUE_ACCOUNT, queue)
    assert queued.all() == [[expiry.task_name(expires, target)]] * 3

    for number in ("0", "1"):
        share = ("--processes", "2", "--process", number)
        subprocess.run(
            command(cluster.folder, 1, "object-expirer", "--once", "-v", *share),
            timeout=LIMIT_S,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
    run(cluster, "object-updater")

    assert queued.all() == [[]] * 3
    assert (
        Listings(cluster, facts, account_of(client), container).all() == [["stays"]] * 3
    )
    replicas = Replicas(cluster, client, facts, container, "goes")
    for node in replicas.nodes:
        assert [file.suffix for file in replicas.files(node)] == [".ts"]
    assert recon(cluster, 1)["object_expiration_pass"] > 0


def test_objects_that_were_given_more_time_survive_a_node_that_missed_it(
    cluster, client, facts, container
):
    posted, replaced = (
        next(
            name
            for name in map(f"{method}-{{}}".format, range(100))
            if 1 in Replicas(cluster, client, facts, container, name).nodes
        )
        for method in ("post", "put")
    )
    path = f"{client.base}/{container}"
    expires = int(time.time()) + 12
    later = {"X-Delete-At": str(expires + 5000)}
    for name in (posted, replaced):
        answer = client.put(f"{path}/{name}", b"1", {"X-Delete-At": str(expires)})
        assert answer.status == 201
    cluster.kill("object-1")
    try:
        assert client.post(f"{path}/{posted}", later).status == 202
        assert client.put(f"{path}/{replaced}", b"2", later).status == 201
    finally:
        cluster.restart("object-1")
    assert time.time() < expires, "this machine is too slow to tell"
    wait_until(lambda: time.time() > expires + 1, 30, "the first time")
    # The queue is known, and that its rows are void is not.
    run(cluster, "container-updater")

    run(cluster, "object-expirer")
    for _ in range(2):
        run(cluster, "object-replicator")

    for name, body in ((posted, b"1"), (replaced, b"2")):
        assert client.get(f"{path}/{name}").body == body
        replicas = Replicas(cluster, client, facts, container, name)
        for node in replicas.nodes:
            assert replicas.files(node)[0].suffix == ".data"


# --- Auditor --------------------------------------------------------------------------


class Replicas:
    """Where an object's files are."""

    def __init__(self, cluster, client, facts, container, name):
        ring = facts.object_ring(0)
        self.hash = facts.salt.hex_of(ObjectName(account_of(client), container, name))
        self.partition = partition_of_hex(self.hash, ring.part_power)
        self.cluster = cluster
        self.nodes = [int(node.name[1:]) for node in ring.primaries(self.partition)]

    def files(self, node):
        tree = self.cluster.device(node) / "objects" / str(self.partition)
        return sorted((tree / self.hash[-3:] / self.hash).glob("*"))

    def is_quarantined(self, node):
        folder = self.cluster.device(node) / "quarantined" / "objects"
        return (folder / self.hash).exists()


def flip_a_bit(path):
    with path.open("r+b") as stream:
        stream.seek(5000)
        byte = stream.read(1)[0]
        stream.seek(5000)
        stream.write(bytes([byte ^ 4]))


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(flip_a_bit, id="bit"),
        pytest.param(lambda path: os.truncate(path, 100), id="size"),
        pytest.param(
            lambda path: os.removexattr(path, "user.swift.metadata"), id="xattr"
        ),
    ],
)
def test_a_harmed_replica_is_quarantined_and_the_others_serve(
    cluster, client, facts, container, harm
):
    body = b"0123456789" * 1000
    assert client.put(f"{client.base}/{container}/o", body).status == 201
    replicas = Replicas(cluster, client, facts, container, "o")
    harmed = replicas.nodes[1]
    (path,) = replicas.files(harmed)
    harm(path)

    run(cluster, "object-auditor", zero_byte_files_per_second="0")

    assert [replicas.is_quarantined(node) for node in replicas.nodes] == [
        node == harmed for node in replicas.nodes
    ]
    assert recon(cluster, harmed)["object_auditor_stats_ALL"]["quarantined"] >= 0
    assert client.get(f"{client.base}/{container}/o").body == body


def test_an_auditor_that_was_killed_goes_on_where_it_was(
    cluster, client, facts, container
):
    for number in range(40):
        assert client.put(f"{client.base}/{container}/o{number}", b"x").status == 201
    checkpoint = cluster.device(1) / "objects" / "auditor_status_ALL.json"
    slowly = {"files_per_second": "0.5", "zero_byte_files_per_second": "0"}
    process = start_passes(
        cluster.folder,
        ["object-auditor"],
        {"object-auditor": slowly},
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_until(checkpoint.exists, 30, "a checkpoint")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT_S)
    left = json.loads(checkpoint.read_text())["partitions"]
    assert left
    checkpoint.write_text(json.dumps({"partitions": left[-1:]}))

    said = run(cluster, "object-auditor", zero_byte_files_per_second="0")

    last = cluster.device(1) / "objects" / left[-1]
    count = len([path for path in last.glob("???/*") if path.is_dir()])
    of_node = said.partition(began("object-auditor", 2))[0]
    assert f"passed {count}," in of_node
    assert not checkpoint.exists()
    assert not alive(process.pid)
