# SPDX-License-Identifier: Apache-2.0
"""Rings that change and clocks that differ on a real cluster.

A device is added, emptied by weight 0 or removed; passes of the replicators then move
every copy to where the new ring wants it, and no device of the ring keeps more. Writes
that carry the times of clocks that disagree end with the newest time on every replica.
"""

from __future__ import annotations

import http.client
import os
import random
import time
from contextlib import closing

import pytest

from swift.cli.daemons import PROGRAMS, make_daemon
from swift.core.hashing import partition_of_hex
from swift.core.names import ContainerName, ObjectName
from swift.core.ring.builder import RingBuilder
from swift.core.ring.codec import write_ring
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster as Facts
from swift.runtime.config import read_conf
from swift.runtime.daemon import Scope, run_pass
from swift.runtime.logs import ListSink, Logger
from test.support.client import Client
from test.support.cluster import Cluster

NODES = (1, 2, 3, 4)
ROUNDS = 4
"""Passes of all nodes until everything is where it belongs, at most."""

KINDS = ("container", "object")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = Cluster(tmp_path_factory.mktemp("rings"), "--no-daemons")
    started.start()
    yield started
    started.stop()


@pytest.fixture
def client(cluster):
    return Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )


@pytest.fixture
def container(client, request):
    name = request.node.name.replace("[", "-").replace("]", "")
    assert client.put(f"{client.base}/{name}").status == 201
    return name


def change_rings(cluster, change):
    """Change the rings as an operator does, and start the proxy with the new ones.

    `change(builder, ports)` gets the builder and the port of each node of its kind.
    """
    ports = cluster.state["ports"]
    for kind in KINDS:
        path = cluster.folder / "etc" / f"{kind}.builder"
        builder = RingBuilder.load(path.read_bytes())
        change(builder, ports[kind])
        # As many rebalances as it takes: each moves one replica of a partition at most.
        for _ in range(4):
            builder.pretend_min_part_hours_passed()
            moved = builder.rebalance(now=green.now(), rng=random.Random(1)).moved
            if not moved:
                break
        path.write_bytes(builder.dump())
        ring = path.with_name(f"{kind}.ring.gz")
        fresh = ring.with_name(".fresh")
        fresh.write_bytes(write_ring(builder.ring()))
        fresh.replace(ring)
    cluster.kill("proxy")
    cluster.restart("proxy")


def replicate(cluster):
    """One pass of updater and replicators on each node in turn; what they said.

    They are those of the commands and read the same files; starting Python for each
    would take most of the time.
    """
    sink = ListSink()
    # An update that a busy container server did not take in time waits for its daemon.
    passes = [("object", "object-updater")]
    passes += [(kind, f"{kind}-replicator") for kind in KINDS]
    for kind, name in passes:
        for node in NODES:
            conf = read_conf(str(cluster.folder / f"etc/{kind}-server/{node}.conf"))
            log = Logger(f"{name}-{node}", [sink])
            program = PROGRAMS[name].daemon
            daemon = make_daemon(program, conf.section(name), conf, log)
            run_pass(daemon, Scope(once=True))
            if kind == "container":
                daemon.local.databases.close()
    return "\n".join(line for _, line in sink.lines)


class Place:
    """Where the ring that is now wants an object or a container, and where it is."""

    def __init__(self, cluster, name):
        facts = Facts.load(str(cluster.folder / "etc"))
        kind = "object" if isinstance(name, ObjectName) else "container"
        ring = facts.rings[kind].get()
        path_hash = facts.salt.hex_of(name)
        self.partition = partition_of_hex(path_hash, ring.part_power)
        self.nodes = ring.primaries(self.partition)
        self.devices = {node.name for node in self.nodes}
        self.name = name
        inside = f"{kind}s/{self.partition}"
        # A device that was removed is nobody's: a dead disk, which nobody empties.
        known = {device.name for device in ring.devices if device is not None}
        self.all = {
            path.name: path / inside
            for path in cluster.folder.glob("srv/*/*")
            if path.name in known
        }
        self.below = f"{path_hash[-3:]}/{path_hash}"

    def files(self):
        """Device → names of the files, of every primary."""
        return {
            device: sorted(
                path.name
                for path in (self.all[device] / self.below).glob("*.*")
                if path.suffix in (".data", ".ts", ".meta", ".db")
            )
            for device in sorted(self.devices)
        }

    def is_home(self):
        """True when each primary holds the same one file, other devices nothing."""
        held = list(self.files().values())
        return (
            len(held[0]) == 1
            and all(names == held[0] for names in held)
            and not any(
                path.exists()
                for device, path in self.all.items()
                if device not in self.devices
            )
        )


def add_a_device(builder, ports):
    builder.add_device(zone=1, ip="127.0.0.1", port=ports[0], name="e1", weight=100.0)


def weigh(name, weight):
    def change(builder, _ports):
        (device,) = (d for d in builder.present_devices if d.name == name)
        builder.set_weight(device.id, weight)

    return change


def remove(name):
    def change(builder, _ports):
        (device,) = (d for d in builder.present_devices if d.name == name)
        builder.remove_device(device.id)

    return change


@pytest.mark.parametrize(
    ("change", "gains", "emptied"),
    [
        pytest.param(add_a_device, "e1", None, id="added"),
        pytest.param(weigh("d2", 0.0), "e1", "d2", id="weight-0"),
        pytest.param(weigh("d2", 100.0), "d2", None, id="weight-again"),
        pytest.param(remove("d3"), "d2", None, id="removed"),
    ],
)
def test_copies_follow_the_ring(cluster, client, container, change, gains, emptied):
    (cluster.folder / "srv" / "1" / "e1").mkdir(exist_ok=True)
    account = client.base.rsplit("/", 1)[-1]
    bodies = {f"o{number:02d}": os.urandom(2000) for number in range(30)}
    for name, body in bodies.items():
        assert client.put(f"{client.base}/{container}/{name}", body).status == 201
    wanted = [ObjectName(account, container, name) for name in bodies]
    wanted.append(ContainerName(account, container))
    before = [Place(cluster, name) for name in wanted]

    change_rings(cluster, change)

    places = [Place(cluster, name) for name in wanted]
    moved = [
        new
        for old, new in zip(before, places, strict=True)
        if old.devices != new.devices
    ]
    assert any(gains in place.devices for place in moved)
    again = Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )
    for name, body in bodies.items():
        # Readable while the copies have not moved: two of three at least are in place.
        assert again.get(f"{client.base}/{container}/{name}").body == body
    for _ in range(ROUNDS):
        said = replicate(cluster)
        if all(place.is_home() for place in places):
            break
    else:
        left = [place.files() for place in places if not place.is_home()]
        raise AssertionError(f"{left}\n{said}")
    if emptied:
        (device,) = cluster.folder.glob(f"srv/*/{emptied}")
        for kind in KINDS:
            assert list(device.glob(f"{kind}s/*/???/*")) == []
    for place in places[:-1]:
        for device in place.devices:
            (path,) = (place.all[device] / place.below).glob("*.data")
            assert path.read_bytes() == bodies[place.name.obj]
    listed = again.get(f"{client.base}/{container}?format=json").json()
    assert [row["name"] for row in listed] == sorted(bodies)
    head = again.head(f"{client.base}/{container}")
    assert head.headers["x-container-object-count"] == "30"


# --- Clocks ---------------------------------------------------------------------------


def tell(place, node, method, at, body=None, containers=None):
    """One request to an object server as a proxy whose clock says `at` sends it."""
    headers = {"X-Timestamp": Timestamp.at(at).internal}
    if method == "PUT":
        headers["Content-Type"] = "text/plain"
    if containers is not None:
        each = containers.nodes[node.index]
        headers["X-Container-Host"] = f"{each.ip}:{each.port}"
        headers["X-Container-Device"] = each.name
        headers["X-Container-Partition"] = str(containers.partition)
    path = f"/{node.name}/{place.partition}{place.name.quoted}"
    with closing(http.client.HTTPConnection(node.ip, node.port, timeout=20)) as peer:
        peer.request(method, path, body, headers)
        answer = peer.getresponse()
        answer.read()
        return answer.status


def test_the_newest_time_wins_whatever_the_order_of_arrival(cluster, client, container):
    account = client.base.rsplit("/", 1)[-1]
    listing = Place(cluster, ContainerName(account, container))
    now = time.time()
    ahead, behind = now + 30, now - 30

    def place_of(name):
        return Place(cluster, ObjectName(account, container, name))

    def everywhere(place, method, at, body=None):
        return [tell(place, node, method, at, body, listing) for node in place.nodes]

    # A proxy whose clock is ahead wrote first; one that is right writes later.
    first = place_of("ahead")
    assert everywhere(first, "PUT", ahead, b"ahead") == [201] * 3
    assert everywhere(first, "PUT", now, b"right") == [409] * 3
    # A tombstone from a clock that is behind comes after the PUT that it is older than.
    second = place_of("behind")
    assert everywhere(second, "PUT", now, b"stays") == [201] * 3
    assert everywhere(second, "DELETE", behind) == [409] * 3
    # Nodes heard different writes: none has all three.
    third = place_of("mixed")
    one, two, three = third.nodes
    assert tell(third, one, "PUT", now, b"older", listing) == 201
    assert tell(third, two, "DELETE", behind, None, listing) == 404
    assert tell(third, three, "PUT", ahead, b"newer", listing) == 201
    # And here the tombstone is the newest, on one node alone.
    fourth = place_of("gone")
    one, two, three = fourth.nodes
    assert tell(fourth, one, "PUT", now, b"older", listing) == 201
    assert tell(fourth, two, "PUT", now, b"older", listing) == 201
    assert tell(fourth, three, "DELETE", ahead, None, listing) == 404

    for _ in range(ROUNDS):
        said = replicate(cluster)
        if all(place.is_home() for place in (first, second, third, fourth)):
            break
    else:
        raise AssertionError(f"{third.files()} {fourth.files()}\n{said}")

    kept = {
        first: (ahead, "data", b"ahead"),
        second: (now, "data", b"stays"),
        third: (ahead, "data", b"newer"),
        fourth: (ahead, "ts", b""),
    }
    for place, (at, ending, body) in kept.items():
        for device in place.devices:
            (path,) = (place.all[device] / place.below).glob("*.*")
            assert path.name == f"{Timestamp.at(at).internal}.{ending}"
            assert path.read_bytes() == body
    path = f"{client.base}/{container}"
    assert client.get(f"{path}/ahead").body == b"ahead"
    assert client.get(f"{path}/mixed").body == b"newer"
    assert client.get(f"{path}/gone").status == 404
    listed = client.get(f"{path}?format=json").json()
    assert [(row["name"], row["bytes"]) for row in listed] == [
        ("ahead", 5),
        ("behind", 5),
        ("mixed", 5),
    ]
    # A client's DELETE by a clock that is right does not undo what is newer than it.
    assert client.delete(f"{path}/ahead").status == 409
    assert client.get(f"{path}/ahead").body == b"ahead"
