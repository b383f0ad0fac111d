# SPDX-License-Identifier: Apache-2.0
"""Databases on a real cluster: what is broken on purpose heals, and totals are right.

Each test breaks something, runs passes of the daemons on every node, and then looks
into every replica's database.
"""

from __future__ import annotations

import http.client
import os
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from swift.core.names import AccountName, ContainerName
from swift.core.shards import ACTIVE, SHARDED, ShardRange
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster as Facts
from swift.storage.db.account import AccountBroker
from swift.storage.db.connection import Databases, db_path
from swift.storage.db.container import ContainerBroker
from test.support.client import Client
from test.support.cluster import ROOT, Cluster
from test.support.passes import NODES, command, run_here, run_passes

ROUNDS = 4
"""Passes of all nodes until everything is where it belongs, at most."""

OBJECTS = 8


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = Cluster(tmp_path_factory.mktemp("databases"))
    started.start()
    # Each test runs the passes itself, so that it knows what they did.
    started.kill_daemons()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(cluster):
    return Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )


def start(cluster, name):
    """Start one pass of a daemon on every node by its command; the processes."""
    return [
        subprocess.Popen(
            command(cluster.folder, node, name, "--once", "-v"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for node in NODES
    ]


def run_commands(cluster, name):
    """One pass of a daemon on every node at once; what they said."""
    running = start(cluster, name)
    said = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(NODES), said
    return "\n".join(said)


def run(cluster, name, **options):
    """One pass of a daemon on each node in turn; what they said."""
    return run_here(cluster.folder, [name], {name: options})


def heal(cluster, name, is_healed, how=run):
    """Run passes of all nodes until the condition holds."""
    said = []
    for _round in range(ROUNDS):
        said.append(how(cluster, name))
        if is_healed():
            return
    raise AssertionError("\n".join(said))


class Place:
    """Where the ring wants a database, and what each node has."""

    def __init__(self, cluster, client, container=None, account=None):
        facts = Facts.load(str(cluster.folder / "etc"))
        account = account or client.base.rsplit("/", 1)[-1]
        self.kind = "account" if container is None else "container"
        self.name = (
            AccountName(account)
            if container is None
            else ContainerName(account, container)
        )
        ring = facts.rings[self.kind].get()
        self.hash = facts.salt.hex_of(self.name)
        self.partition = ring.partition(facts.salt.digest_of(self.name))
        self.cluster = cluster
        self.primaries = [int(node.name[1:]) for node in ring.primaries(self.partition)]
        (self.handoff,) = set(NODES) - set(self.primaries)

    def path(self, node):
        root = str(self.cluster.folder / "srv" / str(node))
        return db_path(root, f"d{node}", f"{self.kind}s", self.partition, self.hash)

    def exists(self, node):
        return os.path.exists(self.path(node))

    def ask(self, node, question):
        """What a function of the node's broker gives."""
        make = AccountBroker if self.kind == "account" else ContainerBroker
        with closing(Databases(green.now)) as databases:
            return question(make(databases, self.path(node)))

    def stat(self, node):
        return self.ask(node, lambda broker: broker.stat())

    def names(self, node):
        """The live rows of a node's copy; its counters must agree with them."""

        def look(broker):
            stat = broker.stat()
            rows = [row for row in broker.rows_since(-1, 10**6) if not row["deleted"]]
            if self.kind == "container":
                counted = (stat.object_count, stat.bytes_used)
                assert counted == (len(rows), sum(row["size"] for row in rows))
            else:
                assert stat.container_count == len(rows)
            return sorted(row["name"] for row in rows)

        return self.ask(node, look)

    def is_home(self):
        """True when the primaries agree in everything and the handoff has nothing."""
        if not all(self.exists(node) for node in self.primaries):
            return False
        stats = [self.stat(node) for node in self.primaries]
        metadata = [self.ask(node, lambda b: b.metadata()) for node in self.primaries]
        return (
            len({stat.hash for stat in stats}) == 1
            and len({(s.put_timestamp, s.delete_timestamp) for s in stats}) == 1
            and all(each == metadata[0] for each in metadata)
            and not self.exists(self.handoff)
        )

    def forget(self, node):
        """Remove a node's copy as if its disk had lost it."""
        shutil.rmtree(os.path.dirname(self.path(node)))


def make(client, container, headers=None):
    assert client.put(f"{client.base}/{container}", headers=headers).status in (
        201,
        202,
    )


def put_objects(client, container, start=0, count=OBJECTS):
    names = [f"o{number:03d}" for number in range(start, start + count)]
    for name in names:
        body = b"x" * 10
        assert client.put(f"{client.base}/{container}/{name}", body=body).status == 201
    return names


def listing(client, container):
    return [row["name"] for row in client.get(
        f"{client.base}/{container}?format=json"
    ).json()]  # fmt: skip


def test_a_container_server_that_was_away_learns_what_it_missed(cluster, client):
    make(client, "away")
    place = Place(cluster, client, "away")
    names = put_objects(client, "away")
    killed = place.primaries[0]
    cluster.kill(f"container-{killed}")
    names += put_objects(client, "away", start=100)
    for name in names[:3]:
        assert client.delete(f"{client.base}/away/{name}").status == 204
    posted = client.post(f"{client.base}/away", {"X-Container-Meta-Color": "blue"})
    assert posted.status == 204
    cluster.restart(f"container-{killed}")

    heal(cluster, "container-replicator", place.is_home, run_commands)

    for node in place.primaries:
        assert place.names(node) == names[3:]
    assert listing(client, "away") == names[3:]
    head = client.head(f"{client.base}/away")
    assert head.headers["x-container-meta-color"] == "blue"


def test_a_lost_database_is_copied_back(cluster, client):
    make(client, "lost", {"X-Container-Meta-Color": "red"})
    place = Place(cluster, client, "lost")
    names = put_objects(client, "lost")
    place.forget(place.primaries[1])

    heal(cluster, "container-replicator", place.is_home)

    assert place.names(place.primaries[1]) == names
    ids = {place.stat(node).id for node in place.primaries}
    assert len(ids) == 3


def test_a_corrupt_database_is_moved_aside_and_copied_back(cluster, client):
    make(client, "corrupt")
    place = Place(cluster, client, "corrupt")
    names = put_objects(client, "corrupt")
    run(cluster, "container-replicator")
    broken = place.primaries[2]
    size = os.path.getsize(place.path(broken))
    with open(place.path(broken), "r+b") as file:
        file.write(os.urandom(size))

    said = run(cluster, "container-auditor")

    assert "moved to" in said
    assert not place.exists(broken)
    aside = cluster.device(broken) / "quarantined" / "containers" / place.hash
    assert aside.is_dir()
    heal(cluster, "container-replicator", place.is_home)
    assert place.names(broken) == names


def test_a_container_made_in_an_outage_leaves_its_handoff(cluster, client):
    place = Place(cluster, client, "homeless")
    killed = place.primaries[0]
    cluster.kill(f"container-{killed}")
    make(client, "homeless")
    names = put_objects(client, "homeless")
    cluster.restart(f"container-{killed}")
    assert place.exists(place.handoff)

    heal(cluster, "container-replicator", place.is_home)

    for node in place.primaries:
        assert place.names(node) == names


def test_replicators_killed_at_any_instant_lose_nothing(cluster, client):
    seed = int(os.environ.get("SEED", random.randrange(10**6)))
    print(f"SEED={seed}")
    rng = random.Random(seed)
    containers = [f"killed{number:02d}" for number in range(12)]
    places = [Place(cluster, client, container) for container in containers]
    cluster.kill("container-1")
    for container in containers:
        make(client, container)
        put_objects(client, container, count=2)
    cluster.restart("container-1")
    for container in containers:
        put_objects(client, container, start=50, count=1)

    for _ in range(4):
        for process in start(cluster, "container-replicator"):
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.1, 0.4))
            process.kill()
            process.communicate(timeout=60)

    heal(
        cluster,
        "container-replicator",
        lambda: all(place.is_home() for place in places),
    )
    for place in places:
        for node in place.primaries:
            assert place.names(node) == ["o000", "o001", "o050"]
        assert listing(client, place.name.container) == ["o000", "o001", "o050"]


def test_account_totals_are_right_after_reports(cluster, client):
    containers = [f"total{number}" for number in range(3)]
    for number, container in enumerate(containers):
        make(client, container)
        put_objects(client, container, count=number + 1)
    # A copy on a handoff, which a server that was just away may have caused, would tell
    # the account of a container without objects.
    homes = [Place(cluster, client, container) for container in containers]
    heal(
        cluster,
        "container-replicator",
        lambda: all(home.is_home() for home in homes),
    )
    place = Place(cluster, client)
    # Rows of accounts say nothing of how old their counts are, so an old row that a
    # replica has not pushed yet may win over a newer report (databases contract 7).
    # Replicators that run all the time have pushed it; here that is done first. The
    # pass after the last difference lets each copy know that it has all rows there are.
    heal(cluster, "account-replicator", place.is_home)
    run(cluster, "account-replicator")
    killed = place.primaries[0]
    cluster.kill(f"account-{killed}")
    run(cluster, "container-updater", account_suppression_time="0")
    cluster.restart(f"account-{killed}")
    make(client, "later")
    run(cluster, "container-updater")

    heal(cluster, "account-replicator", place.is_home)

    held = place.names(place.primaries[0])
    assert set(containers) <= set(held)
    assert "later" in held
    counts = {container: len(listing(client, container)) for container in held}
    for node in place.primaries:
        assert place.names(node) == held
        stat = place.stat(node)
        assert stat.object_count == sum(counts.values())
        assert stat.bytes_used == 10 * sum(counts.values())
    run(cluster, "account-auditor")


def test_a_lost_account_database_is_copied_back(cluster, client):
    make(client, "some")
    place = Place(cluster, client)
    run(cluster, "account-replicator")
    before = place.names(place.primaries[0])
    place.forget(place.primaries[0])

    heal(cluster, "account-replicator", place.is_home)

    assert place.names(place.primaries[0]) == before


def ask_servers(cluster, place, method):
    """Send a request to each server that should have a database; the statuses."""
    statuses = set()
    for node in place.primaries:
        peer = http.client.HTTPConnection(
            "127.0.0.1", cluster.port_of(f"{place.kind}-{node}"), timeout=60
        )
        with closing(peer):
            peer.request(
                method,
                f"/d{node}/{place.partition}{place.name.quoted}",
                headers={"X-Timestamp": Timestamp.at(green.now()).internal},
            )
            statuses.add(peer.getresponse().status)
    return statuses


def shard(cluster, client, container):
    """Let a container have one shard with all names, as a sharder would; the shard."""
    root = Place(cluster, client, container)
    # The proxy may have passed by a server that was just away.
    heal(cluster, "container-replicator", root.is_home)
    account = f".shards_{root.name.account}"
    only = Place(cluster, client, f"{container}-0", account)
    assert ask_servers(cluster, only, "PUT") == {201}
    now = Timestamp.at(green.now()).internal
    times = {"meta_timestamp": now, "state_timestamp": now}
    whole = partial(ShardRange, lower="", upper="", timestamp=now, **times)
    ranges = [
        whole(root.name.path[1:], state=SHARDED, epoch=now),
        whole(only.name.path[1:], state=ACTIVE),
    ]
    for node in root.primaries:
        root.ask(node, lambda broker: broker.merge_shard_ranges(ranges))
        path = Path(root.path(node))
        path.rename(path.with_name(f"{path.stem}_{now}.db"))
    # The proxy is to see how the container is now.
    assert client.post(f"{client.base}/{container}").status == 204
    return only


def settle(cluster, place):
    """Let all copies of a container have the rows that a slow moment held back."""
    run_passes(cluster.folder, ["object-updater"])
    heal(cluster, "container-replicator", place.is_home)


def test_a_sharded_container_takes_many_writes_at_once_and_lists_them(cluster, client):
    make(client, "sharded")
    only = shard(cluster, client, "sharded")

    with ThreadPoolExecutor(12) as pool:
        starts = range(0, 24, 2)
        put = partial(put_objects, client, "sharded", count=2)
        names = [name for made in pool.map(put, starts) for name in made]
    settle(cluster, only)

    assert listing(client, "sharded") == names
    assert [only.names(node) for node in only.primaries] == [names] * 3


def test_a_deleted_account_is_reaped(cluster, client):
    """The last test: the account of all the others is gone after it."""
    make(client, "reaped")
    put_objects(client, "reaped")
    make(client, "in-shards")
    only = shard(cluster, client, "in-shards")
    put_objects(client, "in-shards")
    settle(cluster, only)
    place = Place(cluster, client)
    containers = {
        name: Place(cluster, client, name) for name in place.names(place.primaries[0])
    }
    heal(cluster, "container-replicator", containers["reaped"].is_home)
    assert ask_servers(cluster, place, "DELETE") <= {204, 404}

    heal(
        cluster,
        "account-reaper",
        lambda: not any(str(path).endswith(".data") for path in cluster.object_files()),
    )

    heal(cluster, "account-reaper", lambda: not place.names(place.primaries[0]))
    for each in containers.values():
        assert all(each.ask(node, lambda b: b.is_deleted()) for node in each.primaries)
    assert [only.names(node) for node in only.primaries] == [[]] * 3
