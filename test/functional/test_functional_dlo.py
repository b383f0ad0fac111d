# SPDX-License-Identifier: Apache-2.0
"""Dynamic large objects over HTTP."""

from __future__ import annotations

from hashlib import md5

import pytest

SEGMENTS = {"p/1": b"a" * 100_000, "p/2": b"b" * 70_000, "p/3": b"c" * 5}
WHOLE = b"".join(SEGMENTS.values())
ETAG = md5(
    "".join(md5(data).hexdigest() for data in SEGMENTS.values()).encode()
).hexdigest()


@pytest.fixture
def large(client, container):
    for name, data in SEGMENTS.items():
        assert client.put(f"{container}/{name}", data).status == 201
    within = container.rpartition("/")[2]
    made = client.put(f"{container}/big", b"", {"X-Object-Manifest": f"{within}/p%2F"})
    assert made.status == 201
    return f"{container}/big"


def test_a_dynamic_object_is_read_as_one(client, large):
    got = client.get(large)
    assert (got.status, got.body == WHOLE) == (200, True)
    assert got.headers["etag"] == f'"{ETAG}"'
    head = client.head(large)
    assert head.headers["content-length"] == str(len(WHOLE))
    part = client.get(large, {"Range": "bytes=99998-100001"})
    assert (part.status, part.body) == (206, WHOLE[99_998:100_002])
    assert client.get(large, {"Range": f"bytes={len(WHOLE)}-"}).status == 416
    assert client.get(large, {"If-None-Match": f'"{ETAG}"'}).status == 304
    assert client.get(large, {"If-Match": "x"}).status == 412
    own = client.get(f"{large}?multipart-manifest=get")
    assert (own.body, own.headers["etag"]) == (b"", md5(b"").hexdigest())


def test_new_segments_join_by_themselves(client, large, container):
    client.put(f"{container}/p/4", b"more")
    assert client.get(large).body == WHOLE + b"more"


def test_bad_manifests(client, container):
    for value in ("c", "c/", "/c/p", "c/p?x"):
        got = client.put(f"{container}/bad", b"", {"X-Object-Manifest": value})
        assert got.status == 400, value


def test_a_manifest_of_a_missing_container(client, container):
    client.put(f"{container}/odd", b"", {"X-Object-Manifest": "no-such/p"})
    assert client.get(f"{container}/odd").status == 404


def test_a_post_without_the_header_ends_it(client, large):
    assert client.post(large).status == 202
    assert client.get(large).body == b""


def test_copies(client, large, container):
    within = container.rpartition("/")[2]
    client.request("COPY", large, {"Destination": f"{within}/flat"})
    flat = client.get(f"{container}/flat")
    assert (flat.body == WHOLE, "x-object-manifest" in flat.headers) == (True, False)
    client.request(
        "COPY", f"{large}?multipart-manifest=get", {"Destination": f"{within}/same"}
    )
    same = client.get(f"{container}/same")
    assert same.headers["x-object-manifest"] == f"{within}/p%2F"
    assert same.body == WHOLE


def test_readers_need_the_right_to_list(client, large, container):
    stranger = client.anonymous()
    client.post(container, {"X-Container-Read": ".r:*"})
    assert stranger.get(large).status == 401
    client.post(container, {"X-Container-Read": ".r:*,.rlistings"})
    assert stranger.get(large).body == WHOLE
