# SPDX-License-Identifier: Apache-2.0
"""Each daemon is killed in the middle of passes; a pass that ends makes all good."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from contextlib import suppress

import pytest

from swift.core.expiry import QUEUE_ACCOUNT
from swift.core.names import AccountName, ContainerName, ObjectName
from swift.core.timestamp import Timestamp
from swift.runtime.cluster import Cluster as Facts
from swift.runtime.logs import NULL_LOG
from swift.wire.internal_client import load_internal_client
from test.support.client import Client
from test.support.cluster import find, wait_until
from test.support.crash_load import Load
from test.support.crash_scene import (
    AUDITORS,
    ERASURE_CODED,
    Scene,
    age_temporaries,
    judge_of,
    leftovers,
    make_cluster,
    processes_of,
    settle,
    told,
)
from test.support.passes import HEALERS, NODES, began, run_passes, start_passes

SEED = int(os.environ.get("SEED", random.randrange(10**6)))
KILLS = int(os.environ.get("KILLS", "2"))
REQUESTS = 120
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    print(f"SEED={SEED}")
    folder = tmp_path_factory.mktemp("killed") / "c"
    made = make_cluster(folder, "--policies", "replica+ec", "--no-daemons")
    add_reconciler(folder)
    made.start()
    yield made
    made.stop()
    assert not processes_of(made)


@pytest.fixture(scope="module")
def client(cluster):
    return Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )


@pytest.fixture
def rng():
    return random.Random(SEED)


def add_reconciler(folder):
    """Let there be a reconciler, in a file of its own as it needs no server's."""
    (folder / "etc" / "container-reconciler.conf").write_text(
        f"[DEFAULT]\nswift_dir = {folder}/etc\nrecon_cache_path = {folder}/cache/1\n"
        "[container-reconciler]\n"
    )


def internal_client(cluster):
    """Asks what no client may."""
    facts = Facts.load(str(cluster.folder / "etc"))
    return load_internal_client(None, cluster=facts, log=NULL_LOG, user_agent="test")


def kill_midway(cluster, daemon, rng, options=None, count=KILLS):
    """Kill a daemon several times, each a moment after a pass of it has begun."""
    for _ in range(count):
        running = start_passes(
            cluster.folder, [daemon], options, stderr=subprocess.DEVNULL
        )
        awaited = began(daemon, rng.choice(NODES))
        while running.stdout.readline().strip() not in (awaited, ""):
            pass
        with suppress(subprocess.TimeoutExpired):
            running.wait(rng.uniform(0, 0.3))
        running.kill()
        running.wait()
        running.stdout.close()
    wait_until(lambda: not passes_of(cluster), LIMIT_S, f"the children of {daemon}")


def passes_of(cluster):
    return [line for line in processes_of(cluster).values() if "support.passes" in line]


def lose_half(cluster, node, kind, rng):
    """Half of the partitions of one kind are gone from a node."""
    for partition in find(cluster.device(node), f"{kind}/*"):
        if rng.random() < 0.5:
            shutil.rmtree(partition)


def test_replicas_listings_and_counts_are_right_in_the_end(cluster, rng):
    load = Load(cluster, SEED, REQUESTS, ("replica", ERASURE_CODED))
    load.prepare()
    away = ("object-2", "container-1", "account-3")
    for name in away:
        cluster.kill(name)
    load.run()
    for name in away:
        cluster.restart(name)
    for kind in ("objects", "containers", "accounts"):
        lose_half(cluster, 4, kind, rng)

    for daemon in HEALERS:
        kill_midway(cluster, daemon, rng)
    for daemon in AUDITORS:
        kill_midway(cluster, daemon, rng, count=1)

    age_temporaries(cluster)
    problems = settle(cluster, load)
    assert not problems, told(load, problems)

    damage(cluster, rng)
    kill_midway(cluster, "object-auditor", rng)
    run_passes(cluster.folder, [*AUDITORS, *HEALERS])
    run_passes(cluster.folder)
    judge = judge_of(Scene(cluster), load)
    assert not judge.look() + judge.read_all()


def damage(cluster, rng):
    """Flip a bit of some replicas, all on one node."""
    for path in find(cluster.device(3), "objects/*/*/*/*.data"):
        if path.stat().st_size and rng.random() < 0.3:
            with path.open("r+b") as stream:
                first = stream.read(1)[0]
                stream.seek(0)
                stream.write(bytes([first ^ 1]))


def test_lost_fragments_are_made_again(cluster, client, rng):
    box = f"{client.base}/fragments"
    assert client.put(box, headers={"X-Storage-Policy": ERASURE_CODED}).status == 201
    bodies = {f"{box}/o{number}": rng.randbytes(100_000) for number in range(12)}
    for path, body in bodies.items():
        assert client.put(path, body).status == 201
    before = fragments(cluster)
    for device in ("d2", "d7"):
        for tree in find(cluster.folder, f"srv/*/{device}/objects-1"):
            shutil.rmtree(tree)
    assert fragments(cluster) != before

    kill_midway(cluster, "object-reconstructor", rng)

    for _ in range(2):
        run_passes(cluster.folder, ["object-reconstructor"])
    assert fragments(cluster) == before
    for path, body in bodies.items():
        assert client.get(path).body == body


def fragments(cluster):
    """Device and name of every fragment."""
    found = find(cluster.folder, "srv/*/*/objects-1/*/*/*/*.data")
    return sorted((path.parts[-6], *path.parts[-2:]) for path in found)


def test_what_has_expired_goes_and_nothing_else(cluster, client, rng):
    scene = Scene(cluster)
    box = f"{client.base}/expiring"
    assert client.put(box, headers={"X-Storage-Policy": "replica"}).status == 201
    names = [f"x{number:02d}" for number in range(15)]
    kept = names[::3]
    for name in names:
        soon = str(int(time.time()) + 5)
        headers = {} if name in kept else {"X-Delete-At": soon}
        assert client.put(f"{box}/{name}", b"x", headers).status == 201
    run_passes(cluster.folder, ["object-updater", "container-updater"])
    last = f"{box}/{names[-1]}"
    wait_until(lambda: client.get(last).status == 404, LIMIT_S, "the end of the last")
    options = {"object-expirer": {"dequeue_from_legacy": "true"}}

    kill_midway(cluster, "object-expirer", rng, options=options)

    run_passes(cluster.folder, ["object-expirer", *HEALERS], options)
    assert client.get(box).lines == kept
    for name in names:
        expected = [".data"] * 3 if name in kept else [".ts"] * 3
        assert scene.files_of("expiring", name) == expected
    assert queued(cluster) == []


def queued(cluster):
    """What waits for the expirer, by the databases of its queue."""
    inside = internal_client(cluster)
    rows = []
    for queue in inside.containers(AccountName(QUEUE_ACCOUNT)):
        rows += inside.objects(ContainerName(QUEUE_ACCOUNT, queue["name"]))
    return rows


def test_a_deleted_account_is_emptied(cluster, rng):
    key = cluster.key
    admin = Client.authenticated(f"{cluster.endpoint}/auth/v1.0", "admin:admin", key)
    admin.base = "/v1/AUTH_gone"
    for container in ("a", "b", "c"):
        assert admin.put(f"{admin.base}/{container}").status == 201
        for number in range(6):
            answer = admin.put(f"{admin.base}/{container}/o{number}", b"x")
            assert answer.status == 201
    run_passes(cluster.folder, ["container-updater"])
    scene = Scene(cluster)
    scene.account = "AUTH_gone"
    names = [(c, f"o{n}") for c in ("a", "b", "c") for n in range(6)]
    assert all(scene.files_of(*name) == [".data"] * 3 for name in names)
    assert admin.delete(admin.base).status == 204

    kill_midway(cluster, "account-reaper", rng)

    for _ in range(2):
        run_passes(cluster.folder, ["account-reaper", *HEALERS])
    assert all(scene.files_of(*name) == [".ts"] * 3 for name in names)
    assert not [line for line in leftovers(cluster) if "quarantined" not in line]


def test_misplaced_objects_come_home(cluster, client, rng):
    box = f"{client.base}/home"
    assert client.put(box, headers={"X-Storage-Policy": "replica"}).status == 201
    inside = internal_client(cluster)
    account = client.base.rsplit("/", 1)[-1]
    bodies = {f"o{number}": rng.randbytes(5000) for number in range(8)}
    for name, body in bodies.items():
        headers = {
            "X-Backend-Storage-Policy-Index": "1",
            "X-Timestamp": Timestamp.at(time.time()).internal,
            "Content-Type": "x/y",
        }
        inside.settle("PUT", ObjectName(account, "home", name), headers, body=body)
    assert client.get(f"{box}/o0").status == 404
    run_passes(cluster.folder, ["container-replicator"])

    kill_midway(cluster, "container-reconciler", rng)

    for _ in range(2):
        run_passes(cluster.folder, ["container-reconciler", *HEALERS])
    for name, body in bodies.items():
        assert client.get(f"{box}/{name}").body == body
    assert client.get(box).lines == sorted(bodies)
