# SPDX-License-Identifier: Apache-2.0
"""Static large objects over a store in memory."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import md5

import pytest

from swift.core.errors import SwiftError
from test.unit.middleware.filter_pipeline import Bench
from test.unit.middleware.store_app import StoreApp, listing_of

SEGMENTS = {"s1": b"a" * 10, "s2": b"b" * 20, "s3": b"c" * 5}


@pytest.fixture
def bench():
    made = Bench("slo", rate_limit_segments_per_sec="0")
    store = StoreApp()
    made.end = store
    made.app.app = store
    for container in ("c", "segs"):
        made.ask("PUT", f"/v1/a/{container}")
    for name, data in SEGMENTS.items():
        made.ask("PUT", f"/v1/a/segs/{name}", body=data)
    return made


def put(bench, manifest, path="/v1/a/c/o", headers=(), query=""):
    body = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    return bench.ask("PUT", f"{path}?multipart-manifest=put{query}", headers, body)


def whole(bench, path="/v1/a/c/o"):
    listed = [{"path": f"/segs/{name}"} for name in SEGMENTS]
    answer = put(bench, listed, path)
    assert answer.status == 201
    return b"".join(SEGMENTS.values())


def etag_of(*tags):
    return md5("".join(tags).encode()).hexdigest()


def hexed(data):
    return md5(data).hexdigest()


ETAG = etag_of(*(hexed(data) for data in SEGMENTS.values()))


def test_put_answers_with_the_etag_of_the_segments(bench):
    listed = [{"path": f"/segs/{name}"} for name in SEGMENTS]
    answer = put(bench, listed)
    assert (answer.status, answer.headers["Etag"]) == (201, f'"{ETAG}"')
    stored = bench.end.containers["/v1/a/c"].objects["o"]
    assert stored.headers["X-Static-Large-Object"] == "True"
    assert stored.headers["Content-Type"].endswith(";swift_bytes=35")


def test_get_gives_the_segments_in_order(bench):
    expected = whole(bench)
    answer = bench.ask("GET", "/v1/a/c/o")
    assert answer.body == expected
    assert answer.headers["Content-Length"] == "35"
    assert answer.headers["Etag"] == f'"{ETAG}"'
    assert answer.headers["X-Static-Large-Object"] == "True"
    stored = bench.end.containers["/v1/a/c"].objects["o"]
    assert answer.headers["X-Manifest-Etag"] == hexed(stored.body)


def test_head_asks_for_no_segment(bench):
    whole(bench)
    seen = len(bench.end.seen)
    answer = bench.ask("HEAD", "/v1/a/c/o")
    assert answer.headers["Content-Length"] == "35"
    assert answer.headers["Etag"] == f'"{ETAG}"'
    assert len(bench.end.seen) == seen + 1


@pytest.mark.parametrize(
    ("range_header", "start", "stop"),
    [("0-0", 0, 1), ("9-10", 9, 11), ("12-", 12, 35), ("-6", 29, 35), ("5-99", 5, 35)],
)
def test_one_range_is_cut_out_of_the_segments(bench, range_header, start, stop):
    expected = whole(bench)
    answer = bench.ask("GET", "/v1/a/c/o", {"Range": f"bytes={range_header}"})
    assert (answer.status, answer.body) == (206, expected[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/35"


def test_several_ranges_are_a_multipart_body(bench):
    expected = whole(bench)
    answer = bench.ask("GET", "/v1/a/c/o", {"Range": "bytes=0-1,9-11"})
    kind = answer.headers["Content-Type"]
    assert kind.startswith("multipart/byteranges;boundary=")
    length = int(answer.headers["Content-Length"])
    body = answer.body
    assert len(body) == length
    assert b"\r\n\r\n" + expected[9:12] + b"\r\n" in body


def test_a_range_behind_the_end_is_416(bench):
    whole(bench)
    answer = bench.ask("GET", "/v1/a/c/o", {"Range": "bytes=35-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */35")


def test_conditions_are_held_against_the_large_object(bench):
    whole(bench)
    unchanged = bench.ask("GET", "/v1/a/c/o", {"If-None-Match": f'"{ETAG}"'})
    assert (unchanged.status, unchanged.headers["Etag"]) == (304, f'"{ETAG}"')
    assert bench.ask("GET", "/v1/a/c/o", {"If-Match": "nonsense"}).status == 412
    assert bench.ask("GET", "/v1/a/c/o", {"If-Match": ETAG}).status == 200


def test_a_manifest_that_kept_no_etag_is_judged_when_read(bench):
    whole(bench)
    headers = bench.end.containers["/v1/a/c"].objects["o"].headers
    for name in ("Etag", "Size"):
        del headers[f"X-Object-Sysmeta-Slo-{name}"]
    assert bench.ask("HEAD", "/v1/a/c/o").headers["Content-Length"] == "35"
    assert bench.ask("GET", "/v1/a/c/o", {"If-None-Match": ETAG}).status == 304
    assert bench.ask("GET", "/v1/a/c/o", {"If-Match": ETAG}).status == 200
    assert bench.ask("GET", "/v1/a/c/o", {"If-Match": "other"}).status == 412


def test_ranges_and_inline_data_make_segments(bench):
    data = b"inline"
    answer = put(
        bench,
        [
            {"path": "/segs/s1", "range": "2-4"},
            {"data": b64encode(data).decode()},
            {"path": "/segs/s2", "range": "-3", "size_bytes": 20},
        ],
    )
    tags = (f"{hexed(SEGMENTS['s1'])}:2-4;", hexed(data),
            f"{hexed(SEGMENTS['s2'])}:17-19;")  # fmt: skip
    assert answer.headers["Etag"] == f'"{etag_of(*tags)}"'
    assert bench.ask("GET", "/v1/a/c/o").body == b"aaa" + data + b"bbb"


def test_manifests_stand_within_manifests(bench):
    inner = whole(bench)
    put(bench, [{"path": "c/o", "range": "8-31"}, {"path": "/c/o"}], "/v1/a/c/outer")
    assert bench.ask("GET", "/v1/a/c/outer").body == inner[8:32] + inner
    got = bench.ask("GET", "/v1/a/c/outer", {"Range": "bytes=20-30"})
    assert got.body == (inner[8:32] + inner)[20:31]


def test_ten_manifests_deep_is_the_end(bench):
    put(bench, [{"path": "/segs/s1"}], "/v1/a/c/d1")
    for depth in range(2, 12):
        put(bench, [{"path": f"/c/d{depth - 1}"}], f"/v1/a/c/d{depth}")
    assert bench.ask("GET", "/v1/a/c/d10").body == SEGMENTS["s1"]
    assert bench.ask("GET", "/v1/a/c/d11").status == 409


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda store: store.objects.pop("s1"), id="missing"),
        pytest.param(lambda store: store.objects["s1"].headers.update(Etag="x"),
                     id="another etag"),
    ],
)  # fmt: skip
def test_a_first_segment_that_is_not_there_is_409(bench, change):
    whole(bench)
    change(bench.end.containers["/v1/a/segs"])
    assert bench.ask("GET", "/v1/a/c/o").status == 409


def test_a_first_segment_whose_servers_fail_is_503(bench):
    whole(bench)
    bench.end.fails["GET /v1/a/segs/s1"] = 503
    assert bench.ask("GET", "/v1/a/c/o").status == 503


@pytest.mark.parametrize("trouble", ["missing", "failing", "cut", "long"])
def test_later_trouble_breaks_the_body_off(bench, trouble):
    whole(bench)
    store = bench.end
    if trouble == "missing":
        del store.containers["/v1/a/segs"].objects["s2"]
    elif trouble == "failing":
        store.fails["GET /v1/a/segs/s2"] = 500
    elif trouble == "cut":
        store.cuts["/v1/a/segs/s2"] = 7
    else:
        store.containers["/v1/a/segs"].objects["s2"].body += b"!"
    answer = bench.ask("GET", "/v1/a/c/o")
    assert answer.status == 200
    received = []
    with pytest.raises(SwiftError):
        received.extend(answer.app_iter)
    assert sum(map(len, received)) < 35
    answer.close()


def test_the_manifest_itself_and_the_form_to_put(bench):
    whole(bench)
    answer = bench.ask("GET", "/v1/a/c/o?multipart-manifest=get")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert json.loads(answer.body)[0]["name"] == "/segs/s1"
    raw = bench.ask("GET", "/v1/a/c/o?multipart-manifest=get&format=raw")
    assert json.loads(raw.body)[0] == {
        "etag": hexed(SEGMENTS["s1"]), "path": "/segs/s1", "size_bytes": 10,
    }  # fmt: skip
    head = bench.ask("HEAD", "/v1/a/c/o?multipart-manifest=get&format=raw")
    assert head.headers["Content-Length"] == raw.headers["Content-Length"]
    assert put(bench, raw.body, "/v1/a/c/again").headers["Etag"] == f'"{ETAG}"'


@pytest.mark.parametrize(
    ("number", "status", "body"),
    [("1", 206, SEGMENTS["s1"]), ("3", 206, SEGMENTS["s3"]), ("4", 416, None),
     ("0", 400, None), ("x", 400, None), ("-1", 400, None)],
)  # fmt: skip
def test_part_numbers(bench, number, status, body):
    whole(bench)
    answer = bench.ask("GET", f"/v1/a/c/o?part-number={number}")
    assert answer.status == status
    if status != 400:
        assert answer.headers["X-Parts-Count"] == "3"
    if body is not None:
        assert answer.body == body
    plain = bench.ask("GET", f"/v1/a/segs/s1?part-number={number}")
    assert (plain.status, plain.body) == (200, SEGMENTS["s1"])


def test_part_number_and_range_exclude_each_other(bench):
    whole(bench)
    answer = bench.ask("GET", "/v1/a/c/o?part-number=1", {"Range": "bytes=0-1"})
    assert answer.status == 400


@pytest.mark.parametrize(
    "manifest",
    [
        b"no json", b"{}", b"[1]", b"[" * 100_000,
        [{"path": "nocontainer"}], [{"path": 5}], [{"etag": "x"}],
        [{"path": "/segs/s1", "colour": "red"}],
        [{"path": "/segs/s1", "etag": 5}],
        [{"path": "/segs/s1", "size_bytes": "many"}],
        [{"path": "/segs/s1", "size_bytes": 0}, {"path": "/segs/s2"}],
        [{"path": "/c/o"}],
        [{"path": "/segs/s1", "range": "x"}],
        [{"path": "/segs/s1", "range": "0-1,3-4"}],
        [{"path": "/segs/s1", "range": "10-", "size_bytes": 10}],
        [{"data": "!"}], [{"data": ""}], [{"data": "YQ=="}], [{"data": 5}],
        [{"path": "/segs/\ud800"}],
        [{"path": "/segs/missing"}],
        [{"path": "/segs/s1", "etag": "0" * 32}],
        [{"path": "/segs/s1", "size_bytes": 11}],
        [{"path": "/segs/s1", "range": "10-20"}],
    ],
    ids=repr,
)  # fmt: skip
def test_bad_manifests_are_refused(bench, manifest):
    assert put(bench, manifest).status == 400
    assert "o" not in bench.end.containers["/v1/a/c"].objects


def test_what_is_wrong_with_segments_is_reported(bench):
    listed = [{"path": "/segs/missing"}, {"path": "/segs/s1", "etag": "f" * 32}]
    answer = put(bench, listed, headers={"Accept": "application/json"})
    report = json.loads(answer.body)
    assert report["Errors"] == [
        ["/segs/missing", "404 Not Found"], ["/segs/s1", "Etag Mismatch"],
    ]  # fmt: skip


def test_an_empty_list_is_an_empty_object(bench):
    assert put(bench, []).status == 201
    answer = bench.ask("GET", "/v1/a/c/o")
    assert (answer.status, answer.body) == (200, b"")


def test_a_client_etag_must_be_that_of_the_large_object(bench):
    listed = [{"path": "/segs/s1"}]
    tag = etag_of(hexed(SEGMENTS["s1"]))
    assert put(bench, listed, headers={"Etag": "0" * 32}).status == 422
    assert put(bench, listed, headers={"Etag": f'"{tag}"'}).status == 201


def test_limits_have_two_sides():
    bench = Bench("slo", max_manifest_segments="2", max_manifest_size="200")
    bench.app.app = bench.end = StoreApp()
    for path in ("/v1/a/c", "/v1/a/segs"):
        bench.ask("PUT", path)
    bench.ask("PUT", "/v1/a/segs/s1", body=b"x")
    assert put(bench, [{"path": "/segs/s1"}] * 2).status == 201
    assert put(bench, [{"path": "/segs/s1"}] * 3).status == 413
    assert put(bench, b" " * 198 + b"[]").status == 201
    assert put(bench, b" " * 199 + b"[]").status == 413
    length = bench.ask("PUT", "/v1/a/c/o?multipart-manifest=put")
    assert length.status == 411


def test_reserved_header_and_copies_are_refused(bench):
    header = {"X-Static-Large-Object": "True"}
    assert bench.ask("PUT", "/v1/a/c/o", header, b"").status == 400
    assert bench.ask("POST", "/v1/a/c/o", header).status == 400
    assert put(bench, [], headers={"X-Copy-From": "c/x"}).status == 405
    own = {"Content-Type": "a/b;swift_bytes=1"}
    assert put(bench, [{"path": "/segs/s1"}], headers=own).status == 400


def test_heartbeat_reports_at_the_end(bench):
    answer = put(bench, [{"path": "/segs/s1"}], query="&heartbeat=on",
                 headers={"Accept": "application/json"})  # fmt: skip
    assert answer.status == 202
    report = json.loads(answer.body)
    assert report["Response Status"] == "201 Created"
    assert report["Etag"] == f'"{etag_of(hexed(SEGMENTS["s1"]))}"'
    bad = put(bench, [{"path": "/segs/x"}], query="&heartbeat=on")
    assert b"Response Status: 400 Bad Request" in bad.body


def test_listings_show_the_etag_of_large_objects(bench):
    whole(bench)
    (row,) = listing_of(bench.ask("GET", "/v1/a/c"))
    stored = bench.end.containers["/v1/a/c"].objects["o"]
    assert row["hash"] == hexed(stored.body)
    assert row["slo_etag"] == f'"{ETAG}"'
    assert row["bytes"] == 35


def test_delete_takes_the_segments_too(bench):
    whole(bench)
    put(bench, [{"path": "/c/o"}, {"path": "/segs/s1"}], "/v1/a/c/outer")
    answer = bench.ask(
        "DELETE", "/v1/a/c/outer?multipart-manifest=delete",
        {"Accept": "application/json"},
    )  # fmt: skip
    report = json.loads(answer.body)
    assert report["Number Deleted"] == 5
    assert report["Response Status"] == "200 OK"
    assert not bench.end.containers["/v1/a/segs"].objects
    assert not bench.end.containers["/v1/a/c"].objects


def test_delete_of_other_things_says_so(bench):
    accept = {"Accept": "application/json"}
    query = "?multipart-manifest=delete"
    plain = json.loads(bench.ask("DELETE", f"/v1/a/segs/s1{query}", accept).body)
    assert plain["Response Status"] == "400 Bad Request"
    assert "s1" in bench.end.containers["/v1/a/segs"].objects
    gone = json.loads(bench.ask("DELETE", f"/v1/a/c/none{query}", accept).body)
    assert gone["Number Not Found"] == 1


def test_a_plain_delete_leaves_the_segments(bench):
    whole(bench)
    assert bench.ask("DELETE", "/v1/a/c/o").status == 204
    assert len(bench.end.containers["/v1/a/segs"].objects) == 3


def test_segments_can_be_left_to_the_expirer(bench):
    whole(bench)
    query = "?multipart-manifest=delete&async=on"
    assert bench.ask("DELETE", f"/v1/a/c/o{query}").status == 204
    queue = [path for path in bench.end.containers if "/.expiring_objects/" in path]
    rows = json.loads(bench.end.containers[queue[0]].headers["X-Rows"])
    assert [row["name"].partition("-")[2] for row in rows] == [
        "a/segs/s1", "a/segs/s2", "a/segs/s3",
    ]  # fmt: skip
    put(bench, [{"path": "/segs/s1"}, {"path": "/c/x"}])
    bench.ask("PUT", "/v1/a/c/x", body=b"x")
    put(bench, [{"path": "/segs/s1"}, {"path": "/c/x"}])
    assert bench.ask("DELETE", f"/v1/a/c/o{query}").status == 400


def test_a_plain_object_passes_untouched(bench):
    answer = bench.ask("GET", "/v1/a/segs/s1", {"Range": "bytes=1-2"})
    assert (answer.status, answer.body) == (206, b"aa")
    assert len(bench.end.lines()) == 6
