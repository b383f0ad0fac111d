# SPDX-License-Identifier: Apache-2.0
"""Links over HTTP."""

from __future__ import annotations

from hashlib import md5

import pytest

DATA = b"the target's bytes" * 1000
ETAG = md5(DATA).hexdigest()


@pytest.fixture
def target(client, container):
    client.put(f"{container}/t", DATA, {"Content-Type": "a/b"})
    return f"{container.rpartition('/')[2]}/t"


def link(client, path, target, **more):
    headers = {"X-Symlink-Target": target}
    headers.update({f"X-Symlink-Target-{name}": more[name] for name in more})
    return client.put(path, b"", headers)


def test_a_link_is_followed(client, container, target):
    assert link(client, f"{container}/l", target).status == 201
    got = client.get(f"{container}/l")
    assert (got.status, got.body == DATA) == (200, True)
    assert got.headers["content-location"] == f"{container}/t"
    assert client.head(f"{container}/l").headers["content-length"] == str(len(DATA))
    part = client.get(f"{container}/l", {"Range": "bytes=3-9"})
    assert (part.status, part.body) == (206, DATA[3:10])
    assert client.get(f"{container}/l", {"If-None-Match": ETAG}).status == 304
    own = client.head(f"{container}/l?symlink=get")
    assert own.headers["x-symlink-target"] == target
    assert own.headers["content-length"] == "0"
    assert not any(name.startswith("x-object-sysmeta") for name in got.headers)


def test_static_links(client, container, target):
    assert link(client, f"{container}/l", target, Etag="0" * 32).status == 409
    assert link(client, f"{container}/l", target, Etag=ETAG).status == 201
    assert client.get(f"{container}/l").body == DATA
    row = client.get(f"{container}?format=json&prefix=l").json()[0]
    assert row["symlink_path"] == f"{container}/t"
    assert (row["symlink_etag"], row["symlink_bytes"]) == (ETAG, len(DATA))
    client.put(f"{container}/t", b"new")
    assert client.get(f"{container}/l").status == 409


def test_bad_links(client, container, target):
    within = container.rpartition("/")[2]
    for value, status in (("/" + target, 412), ("x", 412), (f"{within}/l", 400)):
        assert link(client, f"{container}/l", value).status == status
    body = client.put(f"{container}/l", b"x", {"X-Symlink-Target": target})
    assert body.status == 400


def test_loops_end(client, container):
    within = container.rpartition("/")[2]
    link(client, f"{container}/a", f"{within}/b")
    link(client, f"{container}/b", f"{within}/a")
    assert client.get(f"{container}/a").status == 409


def test_post_redirects(client, container, target):
    link(client, f"{container}/l", target)
    got = client.post(f"{container}/l", {"X-Object-Meta-Colour": "red"})
    assert (got.status, got.headers["location"]) == (307, f"{container}/t")


def test_copies(client, container, target):
    within = container.rpartition("/")[2]
    link(client, f"{container}/l", target)
    client.request("COPY", f"{container}/l", {"Destination": f"{within}/data"})
    own = client.head(f"{container}/data?symlink=get")
    assert "x-symlink-target" not in own.headers
    assert client.get(f"{container}/data").body == DATA
    client.request(
        "COPY", f"{container}/l?symlink=get", {"Destination": f"{within}/l2"}
    )
    own = client.head(f"{container}/l2?symlink=get")
    assert own.headers["x-symlink-target"] == target


def test_a_link_opens_nothing(client, container, target):
    other = f"{container}-open"
    client.put(other, None, {"X-Container-Read": ".r:*"})
    link(client, f"{other}/l", target)
    assert client.anonymous().get(f"{other}/l").status == 401
    assert client.get(f"{other}/l").body == DATA
    client.remove_container(other)
