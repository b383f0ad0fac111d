# SPDX-License-Identifier: Apache-2.0
"""Static large objects over HTTP."""

from __future__ import annotations

import http.client
import json
from base64 import b64encode
from hashlib import md5
from urllib.parse import quote

import pytest

from test.support.client import Client
from test.support.cluster import wait_until

SIZES = {"s 1": 300_000, "s2": 70_000, "s3é": 10}


def content(name):
    seed = md5(name.encode()).digest()
    return (seed * (SIZES[name] // 16 + 1))[: SIZES[name]]


WHOLE = b"".join(content(name) for name in SIZES)
ETAG = md5("".join(md5(content(n)).hexdigest() for n in SIZES).encode()).hexdigest()


@pytest.fixture
def large(client, container):
    """The path of a large object of three segments beside them."""
    for name in SIZES:
        assert client.put(f"{container}/{quote(name)}", content(name)).status == 201
    within = container.rpartition("/")[2]
    listed = [{"path": f"/{within}/{name}"} for name in SIZES]
    answer = store(client, f"{container}/big", listed)
    assert answer.status == 201, answer
    assert answer.headers["etag"] == f'"{ETAG}"'
    return f"{container}/big"


def store(client, path, listed, headers=None, query=""):
    return client.put(
        f"{path}?multipart-manifest=put{query}", json.dumps(listed), headers
    )


def test_a_large_object_is_read_as_one(client, large):
    got = client.get(large)
    assert (got.status, got.body == WHOLE) == (200, True)
    assert got.headers["content-length"] == str(len(WHOLE))
    assert got.headers["etag"] == f'"{ETAG}"'
    assert got.headers["x-static-large-object"] == "True"
    assert "x-object-sysmeta-slo-etag" not in got.headers
    head = client.head(large)
    assert head.headers["content-length"] == str(len(WHOLE))


@pytest.mark.parametrize(
    ("first", "last"), [(0, 0), (299_990, 300_010), (369_999, 370_009), (5, 10)]
)
def test_a_range_of_it(client, large, first, last):
    got = client.get(large, {"Range": f"bytes={first}-{last}"})
    assert (got.status, got.body) == (206, WHOLE[first : last + 1])
    assert got.headers["content-range"] == f"bytes {first}-{last}/{len(WHOLE)}"


def test_ranges_conditions_and_parts(client, large):
    several = client.get(large, {"Range": "bytes=0-9,299998-300001"})
    assert several.status == 206
    assert len(several.body) == int(several.headers["content-length"])
    assert WHOLE[299_998:300_002] in several.body
    assert client.get(large, {"Range": "bytes=370010-"}).status == 416
    assert client.get(large, {"If-None-Match": ETAG}).status == 304
    assert client.get(large, {"If-Match": "x"}).status == 412
    part = client.get(f"{large}?part-number=2")
    assert (part.status, part.body) == (206, content("s2"))
    assert part.headers["x-parts-count"] == "3"
    assert client.get(f"{large}?part-number=4").status == 416
    assert client.get(f"{large}?part-number=x").status == 400


def test_listings_know_size_and_etag(client, large, container):
    def row():
        rows = client.get(f"{container}?format=json&prefix=big").json()
        return rows[0] if rows else {}

    wait_until(lambda: row().get("bytes") == len(WHOLE), 5, "row of the manifest")
    assert row()["slo_etag"] == f'"{ETAG}"'
    assert len(row()["hash"]) == 32


def test_the_manifest_comes_back(client, large, container):
    raw = client.get(f"{large}?multipart-manifest=get&format=raw")
    again = client.put(f"{container}/again?multipart-manifest=put", raw.body)
    assert again.headers["etag"] == f'"{ETAG}"'
    stored = client.get(f"{large}?multipart-manifest=get")
    assert stored.headers["content-type"] == "application/json; charset=utf-8"
    assert stored.headers["etag"] == md5(stored.body).hexdigest()
    assert client.get(large).headers["x-manifest-etag"] == stored.headers["etag"]


def test_inline_data_ranges_and_manifests_within(client, large, container):
    within = container.rpartition("/")[2]
    listed = [
        {"data": b64encode(b"head").decode()},
        {"path": f"/{within}/big", "range": "299999-300000"},
        {"path": f"/{within}/s 1", "range": "-2"},
    ]
    assert store(client, f"{container}/outer", listed).status == 201
    expected = b"head" + WHOLE[299_999:300_001] + WHOLE[299_998:300_000]
    assert client.get(f"{container}/outer").body == expected


def test_bad_segments_are_reported(client, large, container):
    within = container.rpartition("/")[2]
    listed = [{"path": f"/{within}/none"}, {"path": f"/{within}/s2", "size_bytes": 1}]
    answer = store(client, f"{container}/bad", listed, {"Accept": "application/json"})
    assert answer.status == 400
    assert [status for _name, status in answer.json()["Errors"]] == [
        "404 Not Found", "Size Mismatch",
    ]  # fmt: skip
    assert client.get(f"{container}/bad").status == 404


def test_heartbeats(client, large, container):
    within = container.rpartition("/")[2]
    answer = store(
        client, f"{container}/beat", [{"path": f"/{within}/s2"}],
        {"Accept": "application/json"}, "&heartbeat=on",
    )  # fmt: skip
    assert answer.status == 202
    assert answer.json()["Response Status"] == "201 Created"


def test_a_segment_that_changed(client, large, container):
    client.put(f"{container}/s2", b"other")
    connection = http.client.HTTPConnection(client.host, client.port, timeout=30)
    connection.request("GET", large, headers={"X-Auth-Token": client.token})
    answer = connection.getresponse()
    assert answer.status == 200
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    connection.close()
    client.delete(f"{container}/{quote('s 1')}")
    assert client.get(large).status == 409


def test_post_keeps_it_large(client, large):
    assert client.post(large, {"X-Object-Meta-Colour": "red"}).status == 202
    got = client.get(large)
    assert (got.headers["x-object-meta-colour"], got.body == WHOLE) == ("red", True)


def test_copies(client, large, container):
    within = container.rpartition("/")[2]
    flat = client.request("COPY", large, {"Destination": f"{within}/flat"})
    assert flat.status == 201
    got = client.get(f"{container}/flat")
    assert got.body == WHOLE
    assert "x-static-large-object" not in got.headers
    assert got.headers["etag"] == md5(WHOLE).hexdigest()
    same = client.request(
        "COPY", f"{large}?multipart-manifest=get", {"Destination": f"{within}/same"}
    )
    assert same.status == 201, same
    got = client.get(f"{container}/same")
    assert got.headers["x-static-large-object"] == "True"
    assert got.headers["etag"] == f'"{ETAG}"'
    rows = client.get(f"{container}?format=json").json()
    by_name = {row["name"]: row for row in rows}
    assert "slo_etag" not in by_name["flat"]
    assert by_name["flat"]["hash"] == md5(WHOLE).hexdigest()


def test_delete_with_segments(client, large, container):
    answer = client.request(
        "DELETE", f"{large}?multipart-manifest=delete", {"Accept": "application/json"}
    )
    assert answer.json()["Number Deleted"] == 4
    assert answer.json()["Response Status"] == "200 OK"
    assert client.get(large).status == 404
    assert client.get(f"{container}/s2").status == 404


def test_delete_by_the_expirer(client, large, container, cluster):
    query = "multipart-manifest=delete&async=on"
    assert client.delete(f"{large}?{query}").status == 204
    assert client.get(large).status == 404
    if cluster is not None:
        # Elsewhere, nobody knows how often the expirer runs.
        wait_until(lambda: client.head(f"{container}/s2").status == 404, 60, "expirer")


def test_readers_need_the_right_to_the_segments(client, large, container):
    stranger = Client(client.host, client.port, client.base, None)
    inner = f"{container}-open"
    client.put(inner, None, {"X-Container-Read": ".r:*"})
    within = container.rpartition("/")[2]
    store(client, f"{inner}/big", [{"path": f"/{within}/s2"}])
    assert client.get(f"{inner}/big").body == content("s2")
    assert stranger.get(f"{inner}/big").status == 409
    client.post(container, {"X-Container-Read": ".r:*"})
    assert stranger.get(f"{inner}/big").status == 200
    client.remove_container(inner)


def test_info(client):
    info = client.get("/info").json()["slo"]
    assert info == {
        "max_manifest_segments": 1000, "max_manifest_size": 8388608,
        "yield_frequency": 10, "min_segment_size": 1, "allow_async_delete": True,
    }  # fmt: skip


def test_segments_come_from_other_nodes_when_one_dies(client, large, cluster):
    if cluster is None:
        pytest.skip("the cluster is not ours to break")
    cluster.kill("object-2")
    try:
        assert client.get(large).body == WHOLE
        got = client.get(large, {"Range": "bytes=299990-300009"})
        assert got.body == WHOLE[299_990:300_010]
    finally:
        cluster.restart("object-2")
