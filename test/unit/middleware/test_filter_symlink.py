# SPDX-License-Identifier: Apache-2.0
"""Links over a store in memory."""

from __future__ import annotations

from hashlib import md5

import pytest

from swift.wire import environ as env
from swift.wire.request import Response
from test.unit.middleware.filter_pipeline import Bench
from test.unit.middleware.store_app import StoreApp, listing_of

DATA = b"target bytes"
ETAG = md5(DATA).hexdigest()


@pytest.fixture
def bench():
    made = Bench("symlink")
    made.end = made.app.app = StoreApp()
    for path in ("/v1/a/c", "/v1/b/c"):
        made.ask("PUT", path)
        made.ask("PUT", f"{path}/t", {"Content-Type": "a/b"}, DATA)
    return made


def link(bench, path, target, **more):
    headers = {"X-Symlink-Target": target}
    headers.update({f"X-Symlink-Target-{k}": v for k, v in more.items()})
    return bench.ask("PUT", path, headers, b"")


def test_a_link_is_followed(bench):
    assert link(bench, "/v1/a/c/l", "c/t").status == 201
    answer = bench.ask("GET", "/v1/a/c/l")
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["Content-Location"] == "/v1/a/c/t"
    assert answer.headers["Etag"] == ETAG
    assert bench.ask("HEAD", "/v1/a/c/l").headers["Content-Length"] == str(len(DATA))


def test_ranges_and_conditions_concern_the_target(bench):
    link(bench, "/v1/a/c/l", "c/t")
    part = bench.ask("GET", "/v1/a/c/l", {"Range": "bytes=1-3"})
    assert (part.status, part.body) == (206, DATA[1:4])
    assert bench.ask("GET", "/v1/a/c/l", {"If-None-Match": ETAG}).status == 304
    assert bench.ask("GET", "/v1/a/c/l", {"If-Match": ETAG}).status == 200
    assert bench.ask("GET", "/v1/a/c/l", {"If-Match": "x"}).status == 412


def test_the_link_itself(bench):
    link(bench, "/v1/a/c/l", "c/t%20x", Account="b")
    answer = bench.ask("HEAD", "/v1/a/c/l?symlink=get")
    assert answer.status == 200
    assert answer.headers["X-Symlink-Target"] == "c/t%20x"
    assert answer.headers["X-Symlink-Target-Account"] == "b"
    assert answer.headers["Content-Type"] == "application/symlink"
    assert answer.headers["Content-Length"] == "0"


def test_a_link_may_lead_to_another_account(bench):
    link(bench, "/v1/a/c/l", "c/t", Account="b")
    assert bench.ask("GET", "/v1/a/c/l").headers["Content-Location"] == "/v1/b/c/t"


def test_the_target_is_read_under_the_rights_of_the_reader(bench):
    link(bench, "/v1/a/c/l", "c/t", Account="b")

    def only_a(request):
        return None if request.path.startswith("/v1/a/") else Response(403)

    answer = bench.ask("GET", "/v1/a/c/l", **{env.AUTHORIZE: only_a})
    assert answer.status == 403


@pytest.mark.parametrize(
    ("target", "more", "status"),
    [
        ("/c/t", {}, 412), ("c", {}, 412), ("c/", {}, 412), ("", {}, 412),
        ("c/%ff", {}, 412), ("%00x/o", {}, 412), ("c/t", {"Account": "a/b"}, 412),
        ("c/t", {"Account": ""}, 412), ("c/l", {}, 400),
        ("c/t", {"Etag": 'x"y'}, 400), ("c/t", {"Etag": "x;y"}, 400),
        ("c/t", {"Etag": "0" * 32}, 409), ("c/none", {"Etag": ETAG}, 409),
        ("c/none", {}, 201), ("c/t", {"Etag": f'"{ETAG}"'}, 201),
    ],
)  # fmt: skip
def test_what_makes_a_link(bench, target, more, status):
    assert link(bench, "/v1/a/c/l", target, **more).status == status


def test_a_link_has_no_bytes(bench):
    answer = bench.ask("PUT", "/v1/a/c/l", {"X-Symlink-Target": "c/t"}, b"x")
    assert answer.status == 400


def test_a_static_link_holds_its_target_to_the_etag(bench):
    link(bench, "/v1/a/c/l", "c/t", Etag=ETAG)
    shown = bench.ask("HEAD", "/v1/a/c/l?symlink=get").headers
    assert shown["X-Symlink-Target-Etag"] == ETAG
    assert shown["X-Symlink-Target-Bytes"] == str(len(DATA))
    assert shown["Content-Type"] == "a/b"
    assert bench.ask("GET", "/v1/a/c/l").body == DATA
    bench.ask("PUT", "/v1/a/c/t", body=b"new")
    answer = bench.ask("GET", "/v1/a/c/l")
    assert (answer.status, answer.headers["Content-Location"]) == (409, "/v1/a/c/t")


def test_links_to_links_have_an_end(bench):
    link(bench, "/v1/a/c/l1", "c/t")
    link(bench, "/v1/a/c/l2", "c/l1")
    link(bench, "/v1/a/c/l3", "c/l2")
    assert bench.ask("GET", "/v1/a/c/l2").body == DATA
    assert bench.ask("GET", "/v1/a/c/l3").status == 409
    link(bench, "/v1/a/c/x", "c/y")
    link(bench, "/v1/a/c/y", "c/x")
    assert bench.ask("GET", "/v1/a/c/x").status == 409


def test_a_post_says_where_the_target_is(bench):
    link(bench, "/v1/a/c/l", "c/t%20x")
    answer = bench.ask("POST", "/v1/a/c/l", {"X-Object-Meta-Colour": "red"})
    assert (answer.status, answer.headers["Location"]) == (307, "/v1/a/c/t%20x")
    stored = bench.end.containers["/v1/a/c"].objects["l"]
    assert stored.headers["X-Object-Meta-Colour"] == "red"
    bad = bench.ask("POST", "/v1/a/c/l", {"X-Symlink-Target": "c/t"})
    assert bad.status == 400


def test_listings_show_where_links_lead(bench):
    link(bench, "/v1/a/c/l", "c/t", Etag=ETAG)
    link(bench, "/v1/a/c/m", "c/t", Account="b")
    rows = {row["name"]: row for row in listing_of(bench.ask("GET", "/v1/a/c"))}
    assert rows["l"]["symlink_path"] == "/v1/a/c/t"
    assert rows["l"]["symlink_etag"] == ETAG
    assert rows["l"]["symlink_bytes"] == len(DATA)
    assert rows["m"]["symlink_path"] == "/v1/b/c/t"
    assert rows["m"]["hash"] == md5(b"").hexdigest()
    assert "symlink_path" not in rows["t"]


def test_delete_takes_the_link_alone(bench):
    link(bench, "/v1/a/c/l", "c/t")
    assert bench.ask("DELETE", "/v1/a/c/l").status == 204
    assert bench.ask("GET", "/v1/a/c/t").body == DATA


def test_links_can_lead_to_large_objects():
    bench = Bench("slo", "symlink")
    store = bench.end = bench.app.app.app = StoreApp()
    bench.ask("PUT", "/v1/a/c")
    bench.ask("PUT", "/v1/a/c/s", body=DATA)
    manifest = b'[{"path": "/c/s"}, {"path": "/c/s", "range": "0-1"}]'
    bench.ask("PUT", "/v1/a/c/big?multipart-manifest=put", body=manifest)
    link(bench, "/v1/a/c/l", "c/big")
    assert bench.ask("GET", "/v1/a/c/l").body == DATA + DATA[:2]
    part = bench.ask("GET", "/v1/a/c/l", {"Range": "bytes=10-12"})
    assert part.body == (DATA + DATA[:2])[10:13]
    static = md5(store.containers["/v1/a/c"].objects["big"].body).hexdigest()
    assert link(bench, "/v1/a/c/st", "c/big", Etag=static).status == 201
    assert bench.ask("GET", "/v1/a/c/st").body == DATA + DATA[:2]


def test_what_another_cluster_sends_is_stored_before_its_target(bench):
    synced = {env.SYMLINK_OVERRIDE: True}
    headers = {
        "X-Symlink-Target": "c/later",
        "X-Symlink-Target-Etag": ETAG,
        "X-Symlink-Target-Bytes": "12",
    }
    put = bench.ask("PUT", "/v1/a/c/l", headers, b"", **synced)
    assert put.status == 201
    shown = bench.ask("HEAD", "/v1/a/c/l?symlink=get")
    assert shown.headers["X-Symlink-Target"] == "c/later"
    assert shown.headers["X-Symlink-Target-Etag"] == ETAG
    assert shown.headers["X-Symlink-Target-Bytes"] == "12"
    assert bench.ask("PUT", "/v1/a/c/l", headers, b"").status == 409
    headers["X-Symlink-Target-Bytes"] = "many"
    assert bench.ask("PUT", "/v1/a/c/l", headers, b"", **synced).status == 400


def test_another_cluster_sees_the_link_and_not_its_target(bench):
    link(bench, "/v1/a/c/l", "c/t")
    answer = bench.ask("HEAD", "/v1/a/c/l", **{env.SYMLINK_OVERRIDE: True})
    assert answer.headers["Content-Length"] == "0"
    assert "Content-Location" not in answer.headers
