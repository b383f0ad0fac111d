# SPDX-License-Identifier: Apache-2.0
"""bulk: archives become objects, lists of names go; the report says what became."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import tarfile
from xml.etree import ElementTree

import pytest
from filter_pipeline import Bench, found
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.middleware.bulk import SMALL_BYTES, delete_concurrency
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.request import Response

PACK = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress}
JSON = {"Accept": "application/json"}


def archive(*files, pax=None):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.pax_headers = pax or {}
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Bulks(Bench):
    def __init__(self, **options):
        super().__init__("bulk", **options)
        self.containers = {"c"}
        self.status = {}
        self.end.answers["*"] = self._answer

    def _answer(self, environ):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path in self.status:
            return Response(self.status[path])
        name = path.split("/")[3]
        if path.count("/") == 3 and method == "HEAD":
            return Response(204 if name in self.containers else 404)
        if path.count("/") == 3 and method == "PUT":
            self.containers.add(name)
        return found(status=201 if method == "PUT" else 204)

    def extract(self, data, path="/v1/a/c", form="tar", headers=()):
        headers = {**JSON, **dict(headers)}
        got = self.ask("PUT", f"{path}?extract-archive={form}", headers, data)
        assert got.status == 200
        return json.loads(got.body)

    def delete(self, body, method="POST", headers=()):
        headers = {"Content-Type": "text/plain", **JSON, **dict(headers)}
        got = self.ask(method, "/v1/a?bulk-delete", headers, body)
        assert got.status == 200
        return json.loads(got.body)

    def puts(self):
        return sorted(line for line in self.end.lines() if line.startswith("PUT"))


def test_requests_of_others_are_not_touched():
    bench = Bulks()
    bench.ask("PUT", "/v1/a/c/o?x=bulk-delete")
    bench.ask("GET", "/v1/a/c?extract-archive=tar")
    assert bench.end.lines() == ["PUT /v1/a/c/o", "GET /v1/a/c"]


@pytest.mark.parametrize("form", list(PACK))
def test_an_archive_becomes_objects(form):
    bench = Bulks()
    data = archive(("x", b"1"), ("./d/y", b"2" * 1000), ("/z", b""))
    report = bench.extract(PACK[form](data), form=form)
    assert report == {
        "Response Status": "201 Created",
        "Response Body": "",
        "Number Files Created": 3,
        "Errors": [],
    }
    assert bench.puts() == ["PUT /v1/a/c/d/y", "PUT /v1/a/c/x", "PUT /v1/a/c/z"]
    assert bench.end.last[env.SOURCE] == "EA"


def test_names_get_the_prefix_of_the_path():
    bench = Bulks()
    bench.extract(archive(("x", b"1")), "/v1/a/c/p/q/")
    assert bench.puts() == ["PUT /v1/a/c/p/q/x"]


def test_without_container_the_first_element_is_one():
    bench = Bulks()
    report = bench.extract(
        archive(("n/x", b"1"), ("bare", b"2"), ("n/y", b"")), "/v1/a"
    )
    assert report["Number Files Created"] == 2
    assert bench.puts() == ["PUT /v1/a/n", "PUT /v1/a/n/x", "PUT /v1/a/n/y"]
    assert bench.end.lines().count("HEAD /v1/a/n") == 1


def test_large_files_are_streamed_and_the_later_of_two_stays():
    bench = Bulks()
    big = b"b" * (SMALL_BYTES + 1)
    bench.extract(archive(("o", b"old"), ("big", big), ("o", b"new")))
    assert sorted(map(len, bench.end.bodies)) == [3, 3, len(big)]
    at = [i for i, line in enumerate(bench.puts()) if line.endswith("/o")]
    assert len(at) == 2
    assert bench.end.bodies.index(b"old") < bench.end.bodies.index(b"new")


def test_metadata_comes_from_request_and_archive():
    bench = Bulks()
    pax = {
        "SCHILY.xattr.user.meta.colour": "red",
        "LIBARCHIVE.xattr.user.mime_type": "image/x",
        "SCHILY.xattr.user.meta.bad": "a\r\nX: y",
    }
    bench.extract(
        archive(("x", b"1"), pax=pax),
        headers={"X-Delete-After": "9", "X-Object-Meta-All": "1", "X-Copy-From": "c/o"},
    )
    sent = env.headers_of(bench.end.last)
    assert sent["X-Object-Meta-Colour"] == "red"
    assert sent["X-Object-Meta-All"] == "1"
    assert sent["Content-Type"] == "image/x"
    assert sent["X-Delete-After"] == "9"
    assert "X-Object-Meta-Bad" not in sent
    assert "X-Copy-From" not in sent


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ({"/v1/a/c/x": 403}, "400 Bad Request"),
        ({"/v1/a/c/x": 503}, "502 Bad Gateway"),
        ({"/v1/a/c/x": 413, "/v1/a/c/y": 507}, "502 Bad Gateway"),
        ({"/v1/a/c/x": 401}, "401 Unauthorized"),
        ({"/v1/a/c": 401}, "401 Unauthorized"),
        ({"/v1/a/c": 403}, "400 Bad Request"),
    ],
)
def test_failures_decide_the_status(statuses, expected):
    bench = Bulks()
    bench.status = statuses
    report = bench.extract(archive(("x", b"1"), ("y", b"1")))
    assert report["Response Status"] == expected


def test_failures_name_the_file_in_the_order_of_the_archive():
    bench = Bulks()
    bench.status = {"/v1/a/c/\xc3\xbc": 413, "/v1/a/c/b": 403}
    report = bench.extract(archive(("ü", b"1"), ("ok", b""), ("b", b"2")))
    assert report["Errors"] == [
        ["c/%C3%BC", "413 Request Entity Too Large"],
        ["c/b", "403 Forbidden"],
    ]
    assert report["Number Files Created"] == 1


@pytest.mark.parametrize("name", ["../x", "a/../../x", "./../x", "a/.."])
def test_names_that_lead_upwards_are_refused(name):
    bench = Bulks()
    report = bench.extract(archive((name, b"1")))
    assert report["Response Status"] == "400 Bad Request"
    assert bench.puts() == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage" * 100,
        archive(("x", b"1" * 2000))[:1000],
        archive(("big", b"1" * (SMALL_BYTES + 9)))[: SMALL_BYTES // 2],
    ],
)
def test_what_is_no_archive_is_400(data):
    report = Bulks().extract(data)
    assert report["Response Status"] == "400 Bad Request"
    assert report["Response Body"].startswith("Invalid Tar File")


def test_limits_hold_on_both_sides():
    files = [(f"c{i}/x", b"") for i in range(3)]
    assert (
        Bulks(max_containers_per_extraction="2").extract(archive(*files), "/v1/a")[
            "Response Status"
        ]
        == "400 Bad Request"
    )
    bench = Bulks(max_containers_per_extraction="3")
    assert bench.extract(archive(*files), "/v1/a")["Response Status"] == "201 Created"
    bench = Bulks(max_failed_extractions="2")
    bench.status = {f"/v1/a/c/{i}": 403 for i in range(99)}
    bench.extract(archive(*[(str(i), b"1") for i in range(99)]))
    assert len(bench.puts()) < 20


def test_odd_requests():
    bench = Bulks()
    assert bench.ask("PUT", "/v1/a/c?extract-archive=zip", {}, b"").status == 400
    got = bench.ask("PUT", "/v1/a/c?extract-archive=tar", JSON)
    assert json.loads(got.body)["Response Status"] == "411 Length Required"
    got = bench.ask("PUT", "/v1/a/c?extract-archive=tar", {"Accept": "image/x"}, b"")
    assert b"406 Not Acceptable" in got.body


# --- Deleting -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_objects_go_first_and_then_containers(method):
    bench = Bulks(delete_concurrency="1")
    bench.status = {"/v1/a/c/gone": 404}
    report = bench.delete(b"c\n/c/o\n\n  c/%C3%BC%2Fx \nc/gone\nd/", method)
    assert report == {
        "Response Status": "200 OK",
        "Response Body": "",
        "Number Deleted": 4,
        "Number Not Found": 1,
        "Errors": [],
    }
    assert bench.end.lines() == [
        "DELETE /v1/a/c/o",
        "DELETE /v1/a/c/\xc3\xbc/x",
        "DELETE /v1/a/c/gone",
        "DELETE /v1/a/c",
        "DELETE /v1/a/d",
    ]
    assert bench.end.last[env.SOURCE] == "BD"
    assert bench.end.last[env.QUERY_STRING] == ""


@pytest.mark.parametrize("body", [b"", b"\n\n", b"/", b"//\n %2F "])
def test_no_name_deletes_nothing(body):
    bench = Bulks()
    assert bench.delete(body)["Response Status"] == "400 Bad Request"
    assert bench.end.lines() == []


def test_a_list_is_held_to_its_limits():
    bench = Bulks(max_deletes_per_request="2")
    assert bench.delete(b"c/1\nc/2")["Response Status"] == "200 OK"
    report = bench.delete(b"c/1\nc/2\nc/3")
    assert report["Response Status"] == "413 Request Entity Too Large"
    longest = 2 * (1024 + 256 + 2)
    assert bench.delete(b"c/" + b"x" * (longest - 2))["Number Deleted"] == 1
    report = bench.delete(b"c/" + b"x" * (longest - 1))
    assert report["Response Status"] == "400 Bad Request"
    assert (
        bench.delete(b"c/1", headers={"Content-Type": "text/html"})["Response Status"]
        == "406 Not Acceptable"
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [(403, "400 Bad Request"), (503, "502 Bad Gateway"), (401, "401 Unauthorized")],
)
def test_a_failed_delete_is_named(status, expected):
    bench = Bulks()
    bench.status = {"/v1/a/c/x": status}
    report = bench.delete(b"c/x\nc/y")
    assert report["Response Status"] == expected
    assert report["Errors"][0][0] == "c/x"


def test_too_many_failures_end_it():
    bench = Bulks(max_failed_deletes="2")
    bench.status = {f"/v1/a/c/{i}": 403 for i in range(99)}
    report = bench.delete(b"\n".join(b"c/%d" % i for i in range(99)))
    assert len(report["Errors"]) == 2
    assert len(bench.end.seen) < 10


def test_a_container_that_is_not_empty_yet_is_tried_again():
    clock = green.JumpingClock()
    green.install(clock)
    try:
        bench = Bulks(delete_container_retry_count="2")
        bench.status = {"/v1/a/c": 409}
        report = bench.delete(b"c")
    finally:
        green.install(None)
    assert len(bench.end.seen) == 3
    assert report["Errors"] == [["c", "409 Conflict"]]


def test_deletes_run_side_by_side():
    bench = Bulks(delete_concurrency="8")
    running, most = 0, 0
    eight = green.Event()

    def slow(environ):
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 8:
            eight.set()
        eight.wait(60)
        green.yield_now()
        running -= 1
        return Response(204)

    bench.end.answers["*"] = slow
    assert (
        bench.delete(b"\n".join(b"c/%d" % i for i in range(50)))["Number Deleted"] == 50
    )
    assert most == 8
    assert delete_concurrency("0") == 1
    assert delete_concurrency("9999") == 1000


@pytest.mark.parametrize("kind", ["application/xml", "text/xml", "text/plain"])
def test_long_work_sends_blanks_and_then_the_report(kind):
    bench = Bulks(yield_frequency="0.005")

    def slow(environ):
        green.sleep(0.02)
        return Response(503)

    bench.end.answers["*"] = slow
    headers = {"Accept": kind, "Content-Type": "text/plain"}
    got = bench.ask("POST", "/v1/a?bulk-delete", headers, b"c/<&>")
    assert got.content_type == kind
    body = got.body.decode()
    if kind == "text/plain":
        assert body.startswith(" ")
        assert body.lstrip() == (
            "Number Deleted: 0\nNumber Not Found: 0\nResponse Body: \n"
            "Response Status: 502 Bad Gateway\nErrors:\n"
            "c/%3C%26%3E, 503 Service Unavailable\n"
        )
        return
    assert body.startswith("<?xml")
    root = ElementTree.fromstring(body)
    assert root.tag == "delete"
    assert root.findtext("response_status") == "502 Bad Gateway"
    assert root.findtext("errors/object/name") == "c/%3C%26%3E"


def test_a_client_that_leaves_ends_the_work():
    bench = Bulks(delete_concurrency="1", yield_frequency="0.001")

    def slow(environ):
        green.sleep(0.01)
        return Response(204)

    bench.end.answers["*"] = slow
    body = b"\n".join(b"c/%d" % i for i in range(100))
    got = bench.ask("POST", "/v1/a?bulk-delete", {"Content-Type": "text/plain"}, body)
    chunks = iter(got.app_iter)
    next(chunks)
    got.close()
    seen = len(bench.end.seen)
    green.sleep(0.05)
    assert len(bench.end.seen) <= seen + 1


@given(st.binary(max_size=400))
@settings(max_examples=60)
def test_any_list_gets_a_report(body):
    bench = Bulks()
    bench.delete(body)
    assert all(path.count("/") >= 3 for path in bench.end.lines())
