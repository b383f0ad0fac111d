# SPDX-License-Identifier: Apache-2.0
"""Containers, listings and accounts: contract api.md sections 2, 3, 6, 7 and 8."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ElementTree

import pytest

NAMES = ["a", "a/b", "a/b/c", "a/d", "b", "b--x", "b--y", "c/"]


@pytest.fixture(scope="module")
def tree(client):
    """A container of the contract's example names, shared by the listings here."""
    path = f"{client.base}/tree-{uuid.uuid4().hex[:8]}"
    assert client.put(path).status == 201
    for name in NAMES:
        assert client.put(f"{path}/{name}", name.encode()).status == 201
    yield path
    client.remove_container(path)


def test_creating_twice_is_accepted(client, container):
    assert client.put(container).status == 202


def test_head_tells_counts_and_policy(client, tree):
    got = client.head(tree)
    assert got.status == 204
    assert got.headers["x-container-object-count"] == str(len(NAMES))
    assert got.headers["x-container-bytes-used"] == str(sum(map(len, NAMES)))
    assert got.headers["x-storage-policy"]
    assert got.headers["accept-ranges"] == "bytes"
    assert got.headers["content-length"] == "0"
    assert float(got.headers["x-timestamp"]) > 1e9
    assert got.headers["last-modified"]


def test_an_empty_listing_is_204_or_an_empty_array(client, container):
    got = client.get(container)
    assert (got.status, got.body) == (204, b"")
    got = client.get(f"{container}?format=json")
    assert (got.status, got.body) == (200, b"[]")


def test_a_container_with_objects_is_not_deleted(client, tree):
    assert client.delete(tree).status == 409


def test_a_deleted_container_is_gone_and_can_come_back(client):
    path = f"{client.base}/gone-{uuid.uuid4().hex[:8]}"
    assert client.put(path).status == 201
    assert client.delete(path).status == 204
    assert client.delete(path).status == 404
    assert client.head(path).status == 404
    assert client.get(path).status == 404
    assert client.put(path).status == 201
    assert client.delete(path).status == 204


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", NAMES),
        ("delimiter=/", ["a", "a/", "b", "b--x", "b--y", "c/"]),
        ("delimiter=/&prefix=a/", ["a/b", "a/b/", "a/d"]),
        ("delimiter=--", ["a", "a/b", "a/b/c", "a/d", "b", "b--", "c/"]),
        ("path=a", ["a/b", "a/d"]),
        ("path=", ["a", "b", "b--x", "b--y", "c/"]),
        ("marker=a/&delimiter=/", ["b", "b--x", "b--y", "c/"]),
        ("prefix=b", ["b", "b--x", "b--y"]),
        ("marker=b", ["b--x", "b--y", "c/"]),
        ("end_marker=b", ["a", "a/b", "a/b/c", "a/d"]),
        ("marker=a/b&end_marker=b--y", ["a/b/c", "a/d", "b", "b--x"]),
        ("limit=2", ["a", "a/b"]),
        ("limit=2&marker=a/b", ["a/b/c", "a/d"]),
        ("limit=x", NAMES),
        ("reverse=true", NAMES[::-1]),
        ("reverse=on&marker=b", ["a/d", "a/b/c", "a/b", "a"]),
        ("reverse=1&limit=3&end_marker=b", ["c/", "b--y", "b--x"]),
        ("reverse=1&delimiter=/", ["c/", "b--y", "b--x", "b", "a/", "a"]),
    ],
)
def test_listing_parameters(client, tree, query, expected):
    assert client.get(f"{tree}?{query}").lines == expected
    rows = client.get(f"{tree}?format=json&{query}").json()
    assert [row.get("name", row.get("subdir")) for row in rows] == expected


def test_a_limit_of_nothing_gives_nothing(client, tree):
    assert client.get(f"{tree}?limit=0").status == 204


def test_paging_by_the_last_entry_sees_each_once(client, tree):
    seen, marker = [], ""
    while True:
        lines = client.get(f"{tree}?limit=2&delimiter=/&marker={marker}").lines
        if not lines:
            break
        seen += lines
        marker = lines[-1]
    assert seen == ["a", "a/", "b", "b--x", "b--y", "c/"]


def test_json_rows_have_the_fields_of_the_api_in_order(client, tree):
    got = client.get(f"{tree}?format=json&limit=1")
    assert got.headers["content-type"] == "application/json; charset=utf-8"
    assert "vary" not in got.headers
    (row,) = got.json()
    assert list(row) == ["bytes", "hash", "name", "content_type", "last_modified"]
    assert (row["bytes"], row["name"]) == (1, "a")
    assert row["hash"] == "0cc175b9c0f1b6a831c399e269772661"
    assert len(row["last_modified"]) == len("2026-11-22T07:56:15.243630")


def test_xml_rows(client, tree):
    got = client.get(f"{tree}?format=xml&delimiter=/")
    assert got.headers["content-type"] == "application/xml; charset=utf-8"
    assert got.body.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<container')
    root = ElementTree.fromstring(got.body)
    assert root.get("name") == tree.rpartition("/")[2]
    assert [child.findtext("name") for child in root] == [
        "a", "a/", "b", "b--x", "b--y", "c/",
    ]  # fmt: skip
    assert root[1].tag == "subdir"
    assert [field.tag for field in root[0]] == [
        "name", "hash", "bytes", "content_type", "last_modified",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        ("application/json", 200, "application/json"),
        ("application/xml", 200, "application/xml"),
        ("text/xml", 200, "text/xml"),
        ("text/plain", 200, "text/plain"),
        ("*/*", 200, "text/plain"),
        ("application/json;q=0.4, application/xml;q=0.6", 200, "application/xml"),
        ("image/png", 406, None),
        ("text/plain;q=oops", 400, None),
    ],
)
def test_the_format_is_negotiated(client, tree, accept, status, kind):
    got = client.get(tree, {"Accept": accept})
    assert got.status == status
    if kind:
        assert got.headers["content-type"] == f"{kind}; charset=utf-8"
        assert got.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    ("query", "status"),
    [("limit=10001", 412), ("marker=%ff", 400), ("prefix=%ff", 400)],
)
def test_bad_parameters_are_refused(client, tree, query, status):
    assert client.get(f"{tree}?{query}").status == status


def test_metadata_merges_and_is_removed_by_name(client, container):
    assert client.post(container, {"X-Container-Meta-A": "1"}).status == 204
    assert client.post(container, {"X-Container-Meta-B": "2"}).status == 204
    got = client.head(container).headers
    assert (got["x-container-meta-a"], got["x-container-meta-b"]) == ("1", "2")
    client.post(container, {"X-Container-Meta-A": ""})
    client.post(container, {"X-Remove-Container-Meta-B": "x"})
    got = client.head(container).headers
    assert not [name for name in got if "-meta-" in name]


def test_metadata_of_a_container_is_text(client, container):
    value = "müsli".encode().decode("latin-1")
    assert client.post(container, {"X-Container-Meta-A": value}).status == 204
    assert client.head(container).headers["x-container-meta-a"] == value
    assert client.post(container, {"X-Container-Meta-A": "\xff"}).status == 400


def test_aggregate_limits_count_what_is_stored(client, container):
    some = {f"X-Container-Meta-{n}": "v" for n in range(60)}
    more = {f"X-Container-Meta-{n + 60}": "v" for n in range(60)}
    assert client.post(container, some).status == 204
    assert client.post(container, more).status == 400


def test_policies_are_chosen_once(client, container):
    policy = client.head(container).headers["x-storage-policy"]
    assert client.put(container, None, {"X-Storage-Policy": policy}).status == 202
    other = {"X-Storage-Policy": "no-such-policy"}
    assert client.put(f"{container}-2", None, other).status == 400


@pytest.mark.parametrize(("length", "status"), [(256, 201), (257, 400)])
def test_container_names_have_a_limit(client, length, status):
    path = f"{client.base}/{'n' * length}"
    assert client.put(path).status == status
    client.delete(path)


def test_names_are_counted_in_characters(client):
    path = f"{client.base}/{'%C3%A9' * 256}"
    assert client.put(path).status == 201
    assert client.delete(path).status == 204


def test_account_listing_and_totals(client, tree):
    name = tree.rpartition("/")[2]
    rows = client.get(f"{client.base}?format=json").json()
    row = next(row for row in rows if row["name"] == name)
    assert list(row)[:4] == ["name", "count", "bytes", "last_modified"]
    assert name in client.get(client.base).lines
    head = client.head(client.base)
    assert head.status == 204
    assert int(head.headers["x-account-container-count"]) >= 1
    assert client.get(f"{client.base}?limit=1&format=json").json()
    assert client.get(f"{client.base}?prefix={name}").lines == [name]


def test_account_metadata(client):
    assert client.post(client.base, {"X-Account-Meta-Note": "hi"}).status == 204
    assert client.head(client.base).headers["x-account-meta-note"] == "hi"
    assert client.post(client.base, {"X-Remove-Account-Meta-Note": "x"}).status == 204
    assert "x-account-meta-note" not in client.head(client.base).headers


def test_accounts_are_not_managed_by_clients(client):
    assert client.put(client.base).status in (403, 405)
    assert client.delete(client.base).status in (403, 405)
    assert client.delete(f"{client.base}?bulk").status in (400, 403, 405)


def test_a_public_container_is_readable_by_anyone(client, container):
    client.put(f"{container}/o", b"x")
    stranger = client.anonymous()
    assert stranger.get(f"{container}/o").status == 401
    assert stranger.get(container).status == 401
    client.post(container, {"X-Container-Read": ".r:*"})
    assert stranger.get(f"{container}/o").body == b"x"
    assert stranger.get(container).status == 401
    client.post(container, {"X-Container-Read": ".r:*,.rlistings"})
    assert stranger.get(container).lines == ["o"]
    assert "x-container-read" not in stranger.head(container).headers
    assert client.head(container).headers["x-container-read"] == ".r:*,.rlistings"
    assert stranger.put(f"{container}/o", b"y").status == 401
    client.post(container, {"X-Remove-Container-Read": "x"})
    assert stranger.get(f"{container}/o").status == 401


def test_referrers_decide_in_order(client, container):
    client.put(f"{container}/o", b"x")
    client.post(container, {"X-Container-Read": ".r:*,.r:-.evil.example"})
    stranger = client.anonymous()
    good, bad = "http://good.example/", "http://www.evil.example/"
    assert stranger.get(f"{container}/o", {"Referer": good}).status == 200
    assert stranger.get(f"{container}/o", {"Referer": bad}).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Container-Write": ".r:*"},
        {"X-Container-Read": ".r:"},
        {"X-Container-Read": ".unknown:x"},
    ],
)
def test_an_acl_that_makes_no_sense_is_refused(client, container, headers):
    assert client.post(container, headers).status == 400


def test_a_denied_answer_names_the_realm(client, container):
    got = client.anonymous().get(container)
    assert got.status == 401
    realm = client.base.rpartition("/")[2]
    assert got.headers["www-authenticate"] == f'Swift realm="{realm}"'


def test_a_bad_token_is_401(client, container):
    assert client.get(container, {"X-Auth-Token": "AUTH_tkbad"}).status == 401


def test_cors_answers_what_the_container_allows(client, container):
    origin = "http://app.example"
    client.put(f"{container}/o", b"x", {"X-Object-Meta-A": "b"})
    client.post(container, {"X-Container-Meta-Access-Control-Allow-Origin": origin})
    ask = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    got = client.anonymous().request("OPTIONS", f"{container}/o", ask)
    assert got.status == 200
    assert got.headers["access-control-allow-origin"] == origin
    assert "GET" in got.headers["access-control-allow-methods"]
    wrong = {**ask, "Origin": "http://other.example"}
    assert client.anonymous().request("OPTIONS", f"{container}/o", wrong).status == 401
    got = client.get(f"{container}/o", {"Origin": origin})
    assert got.headers["access-control-allow-origin"] == origin
    exposed = got.headers["access-control-expose-headers"]
    assert "etag" in exposed
    assert "x-object-meta-a" in exposed
    got = client.get(f"{container}/o", {"Origin": "http://other.example"})
    assert "access-control-allow-origin" not in got.headers


def test_options_without_an_origin_lists_the_verbs(client, container):
    got = client.anonymous().request("OPTIONS", container)
    assert got.status == 200
    assert {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"} <= set(
        got.headers["allow"].replace(" ", "").split(",")
    )


def test_info_publishes_what_the_cluster_can_do(client):
    got = client.anonymous().get("/info")
    assert got.status == 200
    info = got.json()
    assert info["swift"]["max_file_size"] == 5368709122
    policies = info["swift"]["policies"]
    assert [policy.get("default") for policy in policies].count(True) == 1
    assert "tempauth" in info
    assert "valid_api_versions" not in info["swift"]
    signed = client.anonymous().get(
        "/info?swiftinfo_sig=0&swiftinfo_expires=9999999999"
    )
    assert signed.status == 403
