# SPDX-License-Identifier: Apache-2.0
"""Two real clusters, one of which copies containers to the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from test.support.client import Client
from test.support.cluster import ROOT, Cluster, find

NODES = (1, 2, 3, 4)
KEY = "the owner's key"
SHUNT = "use = egg:swift#gatekeeper"


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    """(source, target) with a client of each."""
    made = [Cluster(tmp_path_factory.mktemp("s"), "--no-daemons") for _ in range(2)]
    try:
        for each in made:
            each.start()
        realms = "[Wide]\nkey = realmkey\nkey2 = old\n" + "".join(
            f"cluster_{name} = {each.endpoint}/v1/\n"
            for name, each in zip(("here", "There"), made, strict=True)
        )
        for each in made:
            (each.folder / "etc" / "container-sync-realms.conf").write_text(realms)
        # A target by URL and key works only where clients' times are taken.
        conf = made[1].folder / "etc" / "proxy-server.conf"
        text = conf.read_text()
        assert SHUNT in text
        conf.write_text(
            text.replace(SHUNT, f"{SHUNT}\nshunt_inbound_x_timestamp = false")
        )
        made[1].kill("proxy")
        made[1].restart("proxy")
        yield made
    finally:
        for each in made:
            each.stop()


@pytest.fixture(scope="module")
def clients(clusters):
    return [
        Client.authenticated(f"{each.endpoint}/auth/v1.0", each.user, each.key)
        for each in clusters
    ]


def links(cluster):
    """The links to synced containers on all devices."""
    return [
        path
        for node in NODES
        for path in find(cluster.device(node), "sync_containers/*/*/*/*.db")
    ]


def sync(cluster):
    """One pass on every node, by the real command; what they have logged."""
    started = []
    for node in NODES:
        written = cluster.folder / "etc" / "container-server" / f"{node}.conf"
        conf = cluster.folder / f"container-sync-{node}.conf"
        conf.write_text(written.read_text().replace("level = WARNING", "level = INFO"))
        started.append(
            subprocess.Popen(
                [
                    sys.executable,
                    str(ROOT / "bin" / "swift-container-sync"),
                    str(conf),
                    "--once",
                    "--verbose",
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        )
    said = ""
    for each in started:
        said += each.communicate(timeout=120)[0].decode()
        assert each.returncode == 0, said
    return said


@pytest.mark.parametrize("kind", ["realm", "url"])
def test_a_container_is_copied_to_another_cluster(clusters, clients, kind):
    source, target = clusters
    here, there = clients
    path_here, path_there = (f"{each.base}/synced-{kind}" for each in clients)
    goal = (
        f"//wide/there{path_there.removeprefix('/v1')}"
        if kind == "realm"
        else f"{target.endpoint}{path_there}"
    )
    key = {"X-Container-Sync-Key": KEY}
    assert there.put(path_there, None, key).status == 201
    made = here.put(path_here, None, {**key, "X-Container-Sync-To": goal})
    assert made.status == 201, made
    assert len(links(source)) == 3
    assert all(path.resolve().is_file() for path in links(source))
    names = ["one", "two", "with%20blank%20%C3%BC", "deep/er", "big"]
    bodies = {name: name.encode() * 7 for name in names}
    bodies["big"] = b"x" * 300_000
    for name, body in bodies.items():
        headers = {"X-Object-Meta-Colour": "red", "Content-Type": "text/x-test"}
        assert here.put(f"{path_here}/{name}", body, headers).status == 201

    said = sync(source)

    for name, body in bodies.items():
        copy = there.get(f"{path_there}/{name}")
        assert (copy.status, copy.body) == (200, body), said
        ours = here.head(f"{path_here}/{name}").headers
        for header in ("x-timestamp", "etag", "content-type", "x-object-meta-colour"):
            assert copy.headers[header] == ours[header]
    assert "puts" in said
    assert "is not synced" not in said, said
    assert KEY not in said
    assert "realmkey" not in said

    assert here.put(f"{path_here}/one", b"anew").status == 201
    assert here.post(f"{path_here}/two", {"X-Object-Meta-Colour": "blue"}).status == 202
    assert here.delete(f"{path_here}/big").status == 204
    sync(source)
    assert there.get(f"{path_there}/one").body == b"anew"
    assert there.head(f"{path_there}/two").headers["x-object-meta-colour"] == "blue"
    assert there.get(f"{path_there}/big").status == 404

    ended = here.post(path_here, {"X-Container-Sync-To": ""})
    assert ended.status == 204
    assert links(source) == []
    assert here.put(f"{path_here}/late", b"late").status == 201
    sync(source)
    assert there.get(f"{path_there}/late").status == 404


def test_what_is_refused_is_copied_once_it_may_be(clusters, clients):
    source = clusters[0]
    here, there = clients
    path_here, path_there = (f"{each.base}/refused" for each in clients)
    assert there.put(path_there, None, {"X-Container-Sync-Key": "other"}).status == 201
    account = path_there.removeprefix("/v1")
    headers = {
        "X-Container-Sync-Key": KEY,
        "X-Container-Sync-To": f"//WIDE/THERE{account}",
    }
    assert here.put(path_here, None, headers).status == 201
    for number in range(3):
        assert here.put(f"{path_here}/{number}", b"text").status == 201
    said = sync(source)
    assert "401" in said
    assert there.get(path_there).body == b""
    assert there.post(path_there, {"X-Container-Sync-Key": KEY}).status == 204
    sync(source)
    for number in range(3):
        assert there.get(f"{path_there}/{number}").body == b"text"


def test_manifests_and_links_are_copied_as_they_are(clusters, clients):
    source = clusters[0]
    here, there = clients
    path_here, path_there = (f"{each.base}/manifests" for each in clients)
    account = path_there.removeprefix("/v1")
    key = {"X-Container-Sync-Key": KEY}
    assert there.put(path_there, None, key).status == 201
    goal = {**key, "X-Container-Sync-To": f"//wide/there{account}"}
    assert here.put(path_here, None, goal).status == 201
    assert here.put(f"{path_here}/part", b"segment").status == 201
    manifest = json.dumps([{"path": "manifests/part"}] * 2).encode()
    made = here.put(f"{path_here}/slo?multipart-manifest=put", manifest)
    assert made.status == 201, made
    link = {"X-Symlink-Target": "manifests/part"}
    assert here.put(f"{path_here}/link", b"", link).status == 201
    dynamic = {"X-Object-Manifest": "manifests/part"}
    assert here.put(f"{path_here}/dlo", b"", dynamic).status == 201
    said = sync(source)
    for name, body in (("slo", b"segment" * 2), ("link", b"segment")):
        copy = there.get(f"{path_there}/{name}")
        assert (copy.status, copy.body) == (200, body), said
    shown = there.head(f"{path_there}/link?symlink=get").headers
    assert shown["x-symlink-target"] == "manifests/part"
    assert there.head(f"{path_there}/slo").headers["x-static-large-object"] == "True"
    dlo = there.get(f"{path_there}/dlo")
    assert (dlo.body, dlo.headers["x-object-manifest"]) == (
        b"segment",
        "manifests/part",
    )


def test_links_that_lead_nowhere_go(clusters):
    source = clusters[0]
    path_hash = "0" * 32
    place: Path = source.device(1) / "sync_containers" / "5" / "000" / path_hash
    place.mkdir(parents=True)
    link = place / f"{path_hash}.db"
    link.symlink_to(source.device(1) / f"containers/5/000/{path_hash}/{path_hash}.db")
    sync(source)
    assert not link.is_symlink()
    assert not place.exists()
