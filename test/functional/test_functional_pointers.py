# SPDX-License-Identifier: Apache-2.0
"""What may be read directly is exactly what may be reached through a pointer.

Pointers are manifests of both kinds, links of both kinds, versions and copies. The
stranger may read the container of the pointer, and may or may not read what it leads
to.
"""

from __future__ import annotations

import json
import uuid
from hashlib import md5

import pytest

SECRET = b"q7~Zk#w9^Xm"
OPEN = {"X-Container-Read": ".r:*,.rlistings"}


@pytest.fixture(scope="module")
def places(client):
    """(container with pointers that all may read, container that is private)."""
    stem = f"{client.base}/pointers-{uuid.uuid4().hex[:8]}"
    shown, private = f"{stem}-shown", f"{stem}-private"
    client.put(shown, None, OPEN)
    client.put(private)
    client.put(f"{private}/o", SECRET)
    yield shown, private
    client.remove_container(shown)
    client.remove_container(private)


def slo(client, shown, private):
    listed = json.dumps([{"path": f"/{private.rpartition('/')[2]}/o"}])
    return client.put(f"{shown}/p?multipart-manifest=put", listed)


def slo_within(client, shown, private):
    listed = json.dumps([{"path": f"/{private.rpartition('/')[2]}/o"}])
    client.put(f"{shown}/inner?multipart-manifest=put", listed)
    outer = json.dumps([{"path": f"/{shown.rpartition('/')[2]}/inner"}])
    return client.put(f"{shown}/p?multipart-manifest=put", outer)


def dlo(client, shown, private):
    target = f"{private.rpartition('/')[2]}/o"
    return client.put(f"{shown}/p", b"", {"X-Object-Manifest": target})


def link(client, shown, private):
    target = f"{private.rpartition('/')[2]}/o"
    return client.put(f"{shown}/p", b"", {"X-Symlink-Target": target})


def static_link(client, shown, private):
    target = f"{private.rpartition('/')[2]}/o"
    etag = md5(SECRET).hexdigest()
    headers = {"X-Symlink-Target": target, "X-Symlink-Target-Etag": etag}
    return client.put(f"{shown}/p", b"", headers)


def link_to_link(client, shown, private):
    target = f"{private.rpartition('/')[2]}/o"
    client.put(f"{shown}/l", b"", {"X-Symlink-Target": target})
    own = f"{shown.rpartition('/')[2]}/l"
    return client.put(f"{shown}/p", b"", {"X-Symlink-Target": own})


POINTERS = [slo, slo_within, dlo, link, static_link, link_to_link]


@pytest.mark.parametrize("make", POINTERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=1-6"}], ids=["all", "part"])
def test_a_pointer_gives_what_its_reader_may_read(client, places, make, headers):
    shown, private = places
    assert make(client, shown, private).status == 201
    stranger = client.anonymous()
    expected = SECRET[1:7] if headers else SECRET

    client.post(private, {"X-Container-Read": ""})
    for query in ("", "?multipart-manifest=get", "?symlink=get"):
        got = stranger.get(f"{shown}/p{query}", headers)
        assert SECRET not in got.body
        assert expected not in got.body
    assert client.get(f"{shown}/p", headers).body == expected

    client.post(private, OPEN)
    assert stranger.get(f"{private}/o", headers).body == expected
    assert stranger.get(f"{shown}/p", headers).body == expected
    client.post(private, {"X-Container-Read": ""})


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Copy-From": "{private}/o"},
        {"X-Symlink-Target": "{private}/o"},
        {"X-Object-Manifest": "{private}/o"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_a_stranger_makes_no_pointers(client, places, headers):
    shown, private = places
    within = private.rpartition("/")[2]
    wanted = {
        name: value.replace("{private}", within) for name, value in headers.items()
    }
    got = client.anonymous().put(f"{shown}/stranger", b"", wanted)
    assert got.status == 401
    assert client.get(f"{shown}/stranger").status == 404
