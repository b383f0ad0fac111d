# SPDX-License-Identifier: Apache-2.0
"""Both kinds of versions over HTTP."""

from __future__ import annotations

import json
import uuid
from hashlib import md5
from urllib.parse import quote

import pytest

MARKER = "application/x-deleted;swift_versions_deleted=1"


@pytest.fixture
def versioned(client):
    """A container that keeps versions; emptied of all of them afterwards."""
    path = f"{client.base}/versions-{uuid.uuid4().hex[:8]}"
    assert client.put(path, None, {"X-Versions-Enabled": "true"}).status == 201
    yield path
    client.post(path, {"X-Versions-Enabled": "false"})
    for row in versions(client, path):
        query = f"version-id={row['version_id']}"
        client.delete(f"{path}/{quote(row['name'])}?{query}")
    client.remove_container(path)


def versions(client, path, query=""):
    got = client.get(f"{path}?versions&format=json{query}")
    assert got.status == 200, got
    return got.json()


def put(client, path, body, headers=None):
    got = client.put(path, body, headers)
    assert got.status == 201, got
    return got.headers["x-object-version-id"]


def test_versions_of_an_object(client, versioned):
    path = f"{versioned}/o"
    first = put(client, path, b"one", {"Content-Type": "a/b"})
    second = put(client, path, b"second", {"X-Object-Meta-Colour": "red"})
    got = client.get(path)
    assert (got.body, got.headers["x-object-version-id"]) == (b"second", second)
    assert got.headers["x-object-meta-colour"] == "red"
    assert got.headers["content-location"] == f"{path}?version-id={second}"
    old = client.get(f"{path}?version-id={first}")
    assert (old.body, old.headers["content-type"]) == (b"one", "a/b")
    part = client.get(path, {"Range": "bytes=1-2"})
    assert (part.status, part.body) == (206, b"ec")
    head = client.head(versioned).headers
    assert head["x-versions-enabled"] == "True"
    rows = versions(client, versioned)
    assert [(r["version_id"], r["is_latest"]) for r in rows] == [
        (second, True), (first, False),
    ]  # fmt: skip
    (row,) = client.get(f"{versioned}?format=json").json()
    assert (row["bytes"], row["hash"]) == (6, md5(b"second").hexdigest())
    assert row["version_symlink"] is True
    assert row["symlink_path"] == f"{path}?version-id={second}"


def test_deletes_and_restores(client, versioned):
    path = f"{versioned}/o é".replace(" é", "%20%C3%A9")
    first = put(client, path, b"one")
    gone = client.delete(path)
    assert gone.status == 204
    marker = gone.headers["x-object-version-id"]
    assert client.get(path).status == 404
    shown = client.get(f"{path}?version-id={marker}")
    assert (shown.status, shown.headers["content-type"]) == (404, MARKER)
    assert client.put(f"{path}?version-id={first}").status == 201
    assert client.get(path).body == b"one"
    assert client.delete(f"{path}?version-id={first}").status == 204
    assert client.get(path).status == 404


def test_posts_reach_the_version(client, versioned):
    version = put(client, f"{versioned}/o", b"one")
    got = client.post(f"{versioned}/o", {"X-Object-Meta-Colour": "red"})
    assert (got.status, got.headers["x-object-version-id"]) == (202, version)
    assert client.head(f"{versioned}/o").headers["x-object-meta-colour"] == "red"


def test_unversioned_objects_become_versions(client, container):
    client.put(f"{container}/o", b"old", {"X-Object-Meta-A": "b"})
    client.post(container, {"X-Versions-Enabled": "true"})
    assert client.get(f"{container}/o").headers["x-object-version-id"] == "null"
    put(client, f"{container}/o", b"new")
    rows = versions(client, container)
    assert len(rows) == 2
    old = client.get(f"{container}/o?version-id={rows[1]['version_id']}")
    assert (old.body, old.headers["x-object-meta-a"]) == (b"old", "b")
    client.post(container, {"X-Versions-Enabled": "false"})
    client.put(f"{container}/o", b"plain")
    assert client.get(f"{container}/o").headers["x-object-version-id"] == "null"
    assert client.get(f"{container}/o?version-id=null").body == b"plain"
    for row in rows:
        client.delete(f"{container}/o?version-id={row['version_id']}")


def test_large_objects_have_versions(client, versioned, container):
    within = container.rpartition("/")[2]
    client.put(f"{container}/s", b"segment")
    listed = json.dumps([{"path": f"/{within}/s"}] * 2)
    made = client.put(f"{versioned}/big?multipart-manifest=put", listed)
    assert made.status == 201, made
    version = made.headers["x-object-version-id"]
    assert client.get(f"{versioned}/big").body == b"segment" * 2
    put(client, f"{versioned}/big", b"small")
    old = client.get(f"{versioned}/big?version-id={version}", {"Range": "bytes=5-8"})
    assert (old.status, old.body) == (206, b"ntse")
    rows = versions(client, versioned)
    assert rows[1]["bytes"] == 14
    assert rows[1]["slo_etag"] == made.headers["etag"]


def test_copies_of_versions(client, versioned, container):
    within = container.rpartition("/")[2]
    first = put(client, f"{versioned}/o", b"one")
    put(client, f"{versioned}/o", b"two")
    got = client.request(
        "COPY", f"{versioned}/o?version-id={first}", {"Destination": f"{within}/x"}
    )
    assert got.status == 201, got
    assert got.headers["x-copied-from-version-id"] == first
    assert client.get(f"{container}/x").body == b"one"


def test_readers_of_the_container_read_its_versions(client, versioned):
    version = put(client, f"{versioned}/o", b"one")
    stranger = client.anonymous()
    assert stranger.get(f"{versioned}/o").status == 401
    assert stranger.get(f"{versioned}/o?version-id={version}").status == 401
    client.post(versioned, {"X-Container-Read": ".r:*"})
    assert stranger.get(f"{versioned}/o").body == b"one"
    assert stranger.get(f"{versioned}/o?version-id={version}").body == b"one"
    assert stranger.get(f"{versioned}?versions&format=json").status == 401


def test_listing_of_versions_is_json(client, versioned):
    assert client.get(f"{versioned}?versions").status == 406
    assert client.get(f"{versioned}?versions&format=xml").status == 406
    assert client.get(f"{versioned}?versions&format=json").json() == []
    assert client.get(f"{versioned}?versions&format=json&delimiter=1").status == 400


def test_a_container_with_versions_stays(client, versioned):
    put(client, f"{versioned}/o", b"one")
    client.delete(f"{versioned}/o")
    assert client.delete(versioned).status == 409


def test_accounts_count_versions_and_hide_their_container(client, versioned):
    rows = client.get(f"{client.base}?format=json").json()
    names = [row["name"] for row in rows]
    assert versioned.rpartition("/")[2] in names
    assert not any("\0" in name for name in names)
    assert client.get(f"{client.base}/%00versions%00c").status == 412


def test_archives(client, container):
    archive = f"{container}-old"
    client.put(archive)
    client.post(container, {"X-Versions-Location": archive.rpartition("/")[2]})
    shown = client.head(container).headers["x-versions-location"]
    assert shown == archive.rpartition("/")[2]
    for body in (b"one", b"two"):
        client.put(f"{container}/o", body, {"X-Object-Meta-Body": body.decode()})
    (name,) = client.get(archive).lines
    assert name.startswith("001o/")
    assert client.get(f"{archive}/{name}").body == b"one"
    assert client.delete(f"{container}/o").status == 204
    back = client.get(f"{container}/o")
    assert (back.body, back.headers["x-object-meta-body"]) == (b"one", "one")
    client.post(container, {"X-History-Location": archive.rpartition("/")[2]})
    assert client.delete(f"{container}/o").status == 204
    assert client.get(f"{container}/o").status == 404
    rows = client.get(f"{archive}?format=json").json()
    assert [row["content_type"] == MARKER for row in rows] == [False, True]
    client.post(container, {"X-Versions-Location": archive.rpartition("/")[2]})
    assert client.delete(f"{container}/o").status == 204
    assert client.get(f"{container}/o").body == b"one"
    client.post(container, {"X-Remove-Versions-Location": "x"})
    assert "x-versions-location" not in client.head(container).headers
    client.remove_container(archive)


def test_settings(client, container):
    both = {"X-Versions-Location": "a", "X-History-Location": "b"}
    assert client.post(container, both).status == 400
    assert client.post(container, {"X-Versions-Location": "a/b"}).status == 412
    info = client.get("/info").json()
    assert info["object_versioning"] == {}
    assert info["versioned_writes"] == {
        "allowed_flags": ["x-versions-location", "x-history-location"]
    }
