# SPDX-License-Identifier: Apache-2.0
"""Servers are killed at random instants under load; nothing acknowledged is lost.

`make crash REQUESTS=20000 SEED=7` runs a long history. The seed decides what is asked
for and whom the hand kills; how requests and kills meet, the machine decides, so that a
seed comes close to a failure but does not repeat it to the letter.
"""

from __future__ import annotations

import os
import random
from contextlib import contextmanager

from test.support.cluster import Cluster
from test.support.crash_load import Hand, Load
from test.support.crash_scene import (
    ERASURE_CODED,
    age_temporaries,
    black_out,
    make_cluster,
    open_count,
    processes_of,
    removed_but_open,
    settle,
    told,
)

REQUESTS = int(os.environ.get("REQUESTS", "1000"))
SEED = int(os.environ.get("SEED", random.randrange(10**6)))
PACE = 20
"""Requests between two kills, on average."""

DESCRIPTORS_MAX = 120
"""Of an idle server; connections and databases are kept, but not without a bound."""


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


def test_nothing_acknowledged_is_lost_whoever_is_killed(tmp_path):
    cluster = make_cluster(tmp_path / "c", revive=True)
    load = under_fire(cluster, REQUESTS)

    with restarted(cluster) as calm:
        problems = settle(calm, load)
        assert not problems, told(load, problems)


def test_erasure_coded_objects_survive_the_same(tmp_path):
    cluster = make_cluster(tmp_path / "c", "--policies", "replica+ec", revive=True)
    load = under_fire(cluster, REQUESTS // 4, ("replica", ERASURE_CODED))

    with restarted(cluster) as calm:
        problems = settle(calm, load)
        assert not problems, told(load, problems)
