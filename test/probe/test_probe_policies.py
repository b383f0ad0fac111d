# SPDX-License-Identifier: Apache-2.0
"""Two policies of a real cluster, copies and fragments: objects that came into the
wrong one are moved to the other, and fragments are linked to new partitions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import md5
from pathlib import Path

import pytest

from swift.cli import relink, ring_builder
from swift.core.names import ObjectName
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster as Facts
from swift.runtime.logs import NULL_LOG
from swift.runtime.process import current_user
from swift.wire.internal_client import load_internal_client
from test.support.client import Client
from test.support.cluster import ROOT, Cluster, find
from test.support.passes import run_passes

REPLICA, FRAGMENTS = "replica", "ec-4-2"
INDEXES = {REPLICA: 0, FRAGMENTS: 1}
BIG = os.urandom(2_500_000)
ROUNDS = 4
"""Passes of all daemons until everything is where it belongs, at most."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = Cluster(
        tmp_path_factory.mktemp("policies"), "--policies", "replica+ec", "--no-daemons"
    )
    started.start()
    yield started
    started.stop()


@pytest.fixture
def client(cluster):
    return Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )


# --- Objects in the wrong policy ------------------------------------------------------


class Inside:
    """Requests that no client can make: each says which policy it means.

    container: its policy is `home`; `away` is the other.
    """

    def __init__(self, cluster, client, home):
        self.client = client
        self.home = home
        self.away = FRAGMENTS if home == REPLICA else REPLICA
        self.path = f"{client.base}/{home}"
        made = client.put(self.path, headers={"X-Storage-Policy": home})
        assert made.status == 201
        facts = Facts.load(str(cluster.folder / "etc"))
        self._internal = load_internal_client(
            None, cluster=facts, log=NULL_LOG, user_agent="test"
        )

    def ask(self, method, policy, name, body=None, *, accept=(2,), **headers):
        given = {
            "X-Backend-Storage-Policy-Index": str(INDEXES[policy]),
            "X-Timestamp": Timestamp.at(green.now()).internal,
            "Content-Type": "x/y",
            **{key.replace("_", "-"): value for key, value in headers.items()},
        }
        _, _, account, container = self.path.split("/")
        full = ObjectName(account, container, name)
        return self._internal.settle(method, full, given, body=body, accept=accept)

    def status(self, policy, name):
        return self.ask("HEAD", policy, name, accept=(2, 404)).status

    def listing(self):
        return self.client.get(f"{self.path}?format=json").json()


def reconcile(cluster):
    """One pass of what finds misplaced rows, and of what moves their objects."""
    said = run_passes(cluster.folder, ["container-replicator"])
    conf = cluster.folder / "reconciler.conf"
    conf.write_text(
        f"[DEFAULT]\nswift_dir = {cluster.folder}/etc\nuser = {current_user()}\n"
        f"[container-reconciler]\nrecon_cache_path = {cluster.folder}\n"
    )
    program = str(ROOT / "bin" / "swift-container-reconciler")
    done = subprocess.run(
        [sys.executable, program, str(conf), "once", "-v"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return said + done.stdout + done.stderr


@pytest.mark.parametrize("home", [REPLICA, FRAGMENTS])
def test_objects_of_the_other_policy_are_moved_home(cluster, client, home):
    inside = Inside(cluster, client, home)
    away = inside.away
    inside.ask("PUT", away, "small", b"a small body", X_Object_Meta_Colour="blue")
    inside.ask("PUT", away, "big", BIG)
    inside.ask("PUT", away, "empty", b"")
    # Newer here or there: the newer one stands.
    inside.ask("PUT", home, "newer-away", b"old")
    inside.ask("PUT", away, "newer-away", b"new")
    inside.ask("PUT", away, "newer-home", b"old")
    inside.ask("PUT", home, "newer-home", b"new")
    # A deletion that went to the wrong policy, where nothing was.
    inside.ask("PUT", home, "deleted", b"gone")
    inside.ask("DELETE", away, "deleted", accept=(204, 404))
    # One that came before the object stands for nothing.
    inside.ask("DELETE", away, "again", accept=(204, 404))
    inside.ask("PUT", home, "again", b"back")
    # A large object: its manifest only is misplaced.
    put_large_object(inside, "large")

    bodies = {
        "small": b"a small body",
        "big": BIG,
        "empty": b"",
        "newer-away": b"new",
        "newer-home": b"new",
        "again": b"back",
        "large": BIG[:1_100_000] + BIG[:100_000],
    }
    said = []
    for _ in range(ROUNDS):
        said.append(reconcile(cluster))
        moved = {name for name in bodies if inside.status(home, name) == 200}
        left = {name for name in bodies if inside.status(away, name) == 200}
        gone = inside.status(home, "deleted") == 404
        if moved == set(bodies) and not left and gone:
            break
    else:
        raise AssertionError(f"moved {moved}, left {left}\n" + "\n".join(said))

    for name, body in bodies.items():
        got = client.get(f"{inside.path}/{name}")
        assert (got.status, got.body) == (200, body), name
    assert client.get(f"{inside.path}/small").headers["x-object-meta-colour"] == "blue"
    assert client.get(f"{inside.path}/deleted").status == 404
    span = client.get(f"{inside.path}/big", {"Range": "bytes=1000000-2000000"})
    assert (span.status, span.body) == (206, BIG[1_000_000:2_000_001])
    rows = {row["name"]: row for row in inside.listing()}
    assert set(rows) == set(bodies)
    assert rows["big"]["bytes"] == len(BIG)
    assert rows["big"]["hash"] == md5(BIG).hexdigest()
    for name in bodies:
        tree = f"objects{'-1' if home == FRAGMENTS else ''}"
        assert stored(cluster, tree, f"{inside.path[3:]}/{name}"), name


def put_large_object(inside, name):
    """A static large object of two segments whose manifest is in the wrong policy."""
    client, container = inside.client, inside.path.rpartition("/")[2]
    segments = f"{client.base}/segments"
    assert client.put(segments).status in (201, 202)
    for number, body in enumerate((BIG[:1_100_000], BIG[:100_000])):
        assert client.put(f"{segments}/{number}", body).status == 201
    manifest = [{"path": f"/segments/{number}"} for number in range(2)]
    draft = f"{client.base}/segments/{container}-draft?multipart-manifest=put"
    assert client.put(draft, json.dumps(manifest).encode()).status == 201
    made = client.get(
        f"{client.base}/segments/{container}-draft?multipart-manifest=get&format=raw"
    )
    stored_form = [
        {
            "name": each["path"],
            "hash": each["etag"],
            "bytes": each["size_bytes"],
            "content_type": "application/octet-stream",
        }
        for each in made.json()
    ]
    inside.ask(
        "PUT",
        inside.away,
        name,
        json.dumps(stored_form).encode(),
        X_Static_Large_Object="True",
    )


def stored(cluster, tree, path):
    """The data files of an object below one policy's trees."""
    wanted = path.encode()
    return [
        file
        for file in find(cluster.folder, f"srv/*/d*/{tree}/*/*/*/*.data")
        if wanted in os.getxattr(file, "user.swift.metadata")
    ]


# --- A part power that grows ----------------------------------------------------------


def relink_all(cluster, step):
    """Run the relinker on every node; the exit codes."""
    return [
        relink.main(
            [
                step,
                "--swift-dir", f"{cluster.folder}/etc",
                "--devices", f"{cluster.folder}/srv/{node}",
                "--policy", "1",
                "--skip-mount-check", "--workers", "0",
                "--logfile", f"{cluster.folder}/log/relinker.log",
            ]
        )
        for node in range(1, 5)
    ]  # fmt: skip


def change_ring(cluster, command):
    """Change the ring of the fragments; a client of a proxy that has seen it."""
    builder = str(cluster.folder / "etc" / "object-1.builder")
    assert ring_builder.main([builder, command]) == 0
    assert ring_builder.main([builder, "write_ring"]) == 0
    cluster.kill("proxy")
    cluster.restart("proxy")
    return Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )


def fragment_files(cluster):
    """(device, path hash, name) → path, of every file of the fragments' policy."""
    return {
        (path.parts[-6], path.parts[-2], path.name): path
        for path in find(cluster.folder, "srv/*/d*/objects-1/*/*/*/*")
    }


def disturb(cluster, path):
    """Have one node hold a second fragment, and another one that is not durable."""
    files = sorted(stored(cluster, "objects-1", path), key=lambda file: file.name)
    first, second, third = files[:3]
    shutil.copy2(first, second.with_name(first.name))
    third.rename(third.with_name(third.name.replace("#d", "")))


def test_fragments_are_linked_while_the_cluster_serves(cluster, client):
    box = f"{client.base}/power"
    assert client.put(box, headers={"X-Storage-Policy": FRAGMENTS}).status == 201
    bodies = {f"old-{number}": f"old {number}".encode() for number in range(20)}
    bodies["big"] = BIG
    for name, body in bodies.items():
        assert client.put(f"{box}/{name}", body).status == 201
    assert client.post(f"{box}/old-1", {"X-Object-Meta-A": "b"}).status == 202
    assert client.delete(f"{box}/old-2").status == 204
    bodies["old-2"] = None
    for name in ("old-3", "old-4", "big"):
        disturb(cluster, f"{box[3:]}/{name}")

    def check(client):
        for name, body in bodies.items():
            got = client.get(f"{box}/{name}")
            assert (got.body if body else got.status) == (body or 404), name

    before = set(fragment_files(cluster))
    client = change_ring(cluster, "prepare_increase_partition_power")
    written = {f"between-{number}": b"between" for number in range(5)}
    written["old-5"] = b"again"
    for name, body in written.items():
        assert client.put(f"{box}/{name}", body).status == 201
    bodies.update(written)
    assert relink_all(cluster, "relink") == [0] * 4
    assert client.put(f"{box}/old-6", b"after the links").status == 201
    bodies["old-6"] = b"after the links"
    check(client)

    client = change_ring(cluster, "increase_partition_power")
    check(client)
    assert client.put(f"{box}/old-7", b"in new places").status == 201
    bodies["old-7"] = b"in new places"
    assert relink_all(cluster, "cleanup") == [0] * 4
    client = change_ring(cluster, "finish_increase_partition_power")
    check(client)
    assert client.get(f"{box}/old-1").headers["x-object-meta-a"] == "b"

    files = fragment_files(cluster)
    assert {path.stat().st_nlink for path in files.values()} == {1}
    for (_, path_hash, _), path in files.items():
        assert int(path_hash[:8], 16) >> (32 - 11) == int(path.parts[-4])
    # What nobody wrote anew is where it was, second and non-durable fragments too.
    rewritten = {
        key[1]
        for key, path in files.items()
        if re.search(rb"/power/(old-[567]|between-)", record(path))
    }
    kept = {key for key in before if key[1] not in rewritten}
    assert kept <= set(files)
    assert any("#d" not in name and "#" in name for _, _, name in kept)


def record(path: Path) -> bytes:
    return os.getxattr(path, "user.swift.metadata")
