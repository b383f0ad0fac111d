# SPDX-License-Identifier: Apache-2.0
"""Servers are killed at random instants under load; nothing acknowledged is lost.

`make crash REQUESTS=20000 SEED=7` runs a long history. The seed decides what is asked
for and whom the hand kills; how requests and kills meet, the machine decides, so that a
seed comes close to a failure but does not repeat it to the letter.
"""

from __future__ import annotations

import configparser
import os
import random
import subprocess
import sys
from contextlib import contextmanager

from test.sim.judge import Judge
from test.support.cluster import ROOT, Cluster, free_port
from test.support.crash_load import Hand, Load
from test.support.crash_scene import (
    Scene,
    age_temporaries,
    black_out,
    leftovers,
    open_count,
    processes_of,
    removed_but_open,
)
from test.support.passes import HEALERS, run_passes

REQUESTS = int(os.environ.get("REQUESTS", "1500"))
SEED = int(os.environ.get("SEED", random.randrange(10**6)))
PACE = 20
"""Requests between two kills, on average."""

ROUNDS = 8
"""Passes until everything agrees, at most."""

ERASURE_CODED = "ec-4-2"
AUDITORS = ("object-auditor", "container-auditor", "account-auditor")
DESCRIPTORS_MAX = 120
"""Of an idle server; connections and databases are kept, but not without a bound."""


def make_cluster(folder, *arguments):
    """A cluster whose clients may tell the time of a write, and no node is shunned."""
    cluster = Cluster(folder, *arguments, revive=True)
    made = [sys.executable, str(ROOT / "bin" / "swift-saio"), "--create-only"]
    made += ["--port", str(cluster.port), "--storage-port", str(free_port())]
    subprocess.run(
        [*made, *arguments, str(folder)], check=True, capture_output=True, cwd=ROOT
    )
    conf = configparser.ConfigParser(interpolation=None)
    path = folder / "etc" / "proxy-server.conf"
    conf.read(path)
    conf["filter:gatekeeper"]["shunt_inbound_x_timestamp"] = "false"
    conf["app:proxy-server"]["error_suppression_limit"] = "100000"
    with path.open("w") as stream:
        conf.write(stream)
    return cluster


def under_fire(cluster, requests, policies=()):
    """Let clients ask while the hand kills, then kill all that is left."""
    print(f"SEED={SEED}")
    cluster.start()
    load = Load(cluster, SEED, requests, policies)
    try:
        load.prepare()
        with Hand(load, PACE) as hand:
            load.run()
    finally:
        black_out(cluster)
    print(f"{load.answered} requests, {sum(hand.kills.values())} kills: {hand.kills}")
    print(f"{age_temporaries(cluster)} temporary files are left")
    return load


@contextmanager
def restarted(cluster):
    """The cluster, started again without daemons; nothing of it may outlive its end."""
    calm = Cluster(cluster.folder, "--no-daemons")
    calm.port = cluster.port
    calm.start()
    try:
        yield calm
        assert not removed_but_open(calm)
        assert max(open_count(calm).values()) <= DESCRIPTORS_MAX
    finally:
        calm.stop()
    assert not processes_of(calm)


def settle(cluster, load):
    """Passes until nothing is wrong any more; what still is after the last."""
    scene = Scene(cluster)
    judge = Judge(scene)
    judge.objects, judge.containers = load.objects, load.containers
    judge.elsewhere = load.places_of(ERASURE_CODED)
    rng = random.Random(SEED)
    problems = []
    for number in range(ROUNDS):
        method = {"object-replicator": {"sync_method": rng.choice(("ssync", "rsync"))}}
        daemons = HEALERS if number else [*AUDITORS, *HEALERS]
        run_passes(cluster.folder, daemons, method)
        if number in (0, 3):
            # Counts that a handoff told late stay until the container changes again.
            load.touch(f"z{number}")
        else:
            problems = judge.look() + judge.read_all() + scene.look_at_listings(load)
            problems += leftovers(cluster)
            if not problems:
                break
    return [*load.problems, *problems]


def told(load, problems):
    """Problems, and what happened to the names that they begin with."""
    names = {problem.partition(":")[0] for problem in problems}
    lines = [line for line in load.trace if any(name in line for name in names)]
    return "\n".join([f"SEED={SEED}", *problems, *lines])


def test_nothing_acknowledged_is_lost_whoever_is_killed(tmp_path):
    cluster = make_cluster(tmp_path / "c")
    load = under_fire(cluster, REQUESTS)

    with restarted(cluster) as calm:
        problems = settle(calm, load)
        assert not problems, told(load, problems)


def test_erasure_coded_objects_survive_the_same(tmp_path):
    cluster = make_cluster(tmp_path / "c", "--policies", "replica+ec")
    load = under_fire(cluster, REQUESTS // 4, ("replica", ERASURE_CODED))

    with restarted(cluster) as calm:
        problems = settle(calm, load)
        assert not problems, told(load, problems)
