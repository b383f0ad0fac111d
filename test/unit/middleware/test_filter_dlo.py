# SPDX-License-Identifier: Apache-2.0
"""Dynamic large objects over a store in memory."""

from __future__ import annotations

from dataclasses import replace
from hashlib import md5

import pytest

from swift.core.errors import SwiftError
from swift.middleware.dlo import Dlo, DloConfig
from test.unit.middleware.filter_pipeline import Bench
from test.unit.middleware.store_app import StoreApp

SEGMENTS = {"p/1": b"a" * 10, "p/2": b"", "p/3": b"b" * 20, "p/4": b"c" * 5}
WHOLE = b"".join(SEGMENTS.values())
ETAG = md5(
    "".join(md5(data).hexdigest() for data in SEGMENTS.values()).encode()
).hexdigest()


def made(page_rows=10000):
    bench = Bench("dlo", rate_limit_segments_per_sec="0")
    bench.app._page_rows = page_rows
    store = bench.end = bench.app.app = StoreApp()
    for container in ("c", "s d"):
        bench.ask("PUT", f"/v1/a/{container}")
    for name, data in SEGMENTS.items():
        bench.ask("PUT", f"/v1/a/s%20d/{name}", body=data)
    bench.ask("PUT", "/v1/a/s%20d/other", body=b"no part")
    got = bench.ask("PUT", "/v1/a/c/o", {"X-Object-Manifest": "s%20d/p/"}, b"own")
    assert got.status == 201
    store.seen.clear()
    return bench


@pytest.fixture
def bench():
    return made()


def test_get_gives_what_is_listed(bench):
    answer = bench.ask("GET", "/v1/a/c/o")
    assert (answer.status, answer.body) == (200, WHOLE)
    assert answer.headers["Content-Length"] == "35"
    assert answer.headers["Etag"] == f'"{ETAG}"'
    assert answer.headers["X-Object-Manifest"] == "s%20d/p/"


def test_head_lists_and_reads_nothing(bench):
    answer = bench.ask("HEAD", "/v1/a/c/o")
    assert (answer.status, answer.headers["Content-Length"]) == (200, "35")
    assert bench.end.lines() == ["HEAD /v1/a/c/o", "GET /v1/a/s d"]


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (9, 11), (12, 35), (29, 35)])
def test_one_range(bench, start, stop):
    answer = bench.ask("GET", "/v1/a/c/o", {"Range": f"bytes={start}-{stop - 1}"})
    assert (answer.status, answer.body) == (206, WHOLE[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/35"


def test_ranges_that_cannot_be_given(bench):
    behind = bench.ask("GET", "/v1/a/c/o", {"Range": "bytes=35-"})
    assert (behind.status, behind.headers["Content-Range"]) == (416, "bytes */35")
    several = bench.ask("GET", "/v1/a/c/o", {"Range": "bytes=0-1,3-4"})
    assert (several.status, several.body) == (200, WHOLE)


def test_conditions_are_held_against_the_etag_of_the_segments(bench):
    assert bench.ask("GET", "/v1/a/c/o", {"If-None-Match": ETAG}).status == 304
    assert bench.ask("GET", "/v1/a/c/o", {"If-Match": ETAG}).status == 200
    own = md5(b"own").hexdigest()
    assert bench.ask("GET", "/v1/a/c/o", {"If-Match": own}).status == 412
    assert bench.ask("GET", "/v1/a/c/o", {"If-None-Match": own}).status == 200


def test_an_incomplete_listing_has_no_length():
    bench = made(page_rows=2)
    store = bench.end
    plain = store.on_container

    def paged(environ, method, place, headers):
        if method == "GET":
            environ["QUERY_STRING"] += "&limit=2"
        return plain(environ, method, place, headers)

    store.on_container = paged
    answer = bench.ask("GET", "/v1/a/c/o")
    assert answer.headers.get("Content-Length") is None
    assert "Etag" not in answer.headers
    assert answer.body == WHOLE
    inside = bench.ask("GET", "/v1/a/c/o", {"Range": "bytes=2-5"})
    assert (inside.status, inside.body) == (206, WHOLE[2:6])
    assert bench.ask("GET", "/v1/a/c/o", {"Range": "bytes=2-30"}).body == WHOLE
    own = md5(b"own").hexdigest()
    assert bench.ask("GET", "/v1/a/c/o", {"If-None-Match": own}).status == 304


def test_the_manifest_itself(bench):
    answer = bench.ask("GET", "/v1/a/c/o?multipart-manifest=get")
    assert (answer.status, answer.body) == (200, b"own")


def test_failures(bench):
    store = bench.end
    store.fails["GET /v1/a/s d/p/3"] = 503
    later = bench.ask("GET", "/v1/a/c/o")
    assert later.status == 200
    with pytest.raises(SwiftError):
        b"".join(later.app_iter)
    store.fails["GET /v1/a/s d/p/1"] = 404
    assert bench.ask("GET", "/v1/a/c/o").status == 409
    store.fails["GET /v1/a/s d/p/1"] = 503
    assert bench.ask("GET", "/v1/a/c/o").status == 503
    store.fails["GET /v1/a/s d"] = 403
    assert bench.ask("GET", "/v1/a/c/o").status == 403


@pytest.mark.parametrize("value", ["c", "c/", "/c/p", "c//p", "c/p?x", "c/p&x", ""])
def test_bad_manifests_are_refused(bench, value):
    answer = bench.ask("PUT", "/v1/a/c/o", {"X-Object-Manifest": value}, b"")
    assert answer.status == 400


def test_a_post_without_the_header_ends_it(bench):
    assert bench.ask("POST", "/v1/a/c/o").status == 202
    assert bench.ask("GET", "/v1/a/c/o").body == b"own"


def test_the_pace_of_old_configurations_is_in_the_proxy_section(tmp_path):
    conf = tmp_path / "proxy-server.conf"
    conf.write_text("[app:proxy-server]\nuse = egg:swift#proxy\nmax_get_time = 7\n")
    bench = made()
    bench.process.source = str(conf)
    assert Dlo(bench.end, DloConfig(), bench.context).config == replace(
        DloConfig(), max_get_time_s=7.0
    )
