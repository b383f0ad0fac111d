# SPDX-License-Identifier: Apache-2.0
"""listing_formats: which form, and what becomes of the backend's JSON."""

from __future__ import annotations

import json

import pytest
from filter_pipeline import Bench, found

from swift.core.headers import Headers
from swift.wire.request import Response

ROWS = [
    {
        "bytes": 3,
        "hash": "h",
        "name": "a&é",
        "content_type": "text/plain",
        "last_modified": "2026-11-22T08:11:56.854040",
    },
    {"subdir": "d/"},
]
BODY = json.dumps(ROWS).encode()


def listing(body=BODY, status=200, content_type="application/json; charset=utf-8"):
    return found(body, status, Content_Type=content_type, X_Container_Object_Count="2")


def bench_with(answer=None) -> Bench:
    bench = Bench("listing_formats")
    bench.queries = []

    def answered(environ):
        bench.queries.append(environ["QUERY_STRING"])
        return answer or listing()

    bench.end.answers["*"] = answered
    return bench


@pytest.mark.parametrize(
    ("query", "accept", "content_type"),
    [
        pytest.param("", None, "text/plain", id="nothing said"),
        pytest.param("", "*/*", "text/plain", id="anything"),
        pytest.param("", "application/json", "application/json", id="JSON by Accept"),
        pytest.param("", "text/xml", "text/xml", id="text XML by Accept"),
        pytest.param(
            "", "application/xml;q=0.5, application/json;q=0.9", "application/json",
            id="quality",
        ),
        pytest.param("?format=json", "text/plain", "application/json", id="parameter"),
        pytest.param("?format=XML&x=1", None, "application/xml", id="any case"),
        pytest.param("?format=foo", None, "text/plain", id="unknown word"),
        pytest.param("?format=xml&format=json", None, "application/json", id="last"),
    ],
)  # fmt: skip
def test_the_form_is_negotiated(query, accept, content_type):
    bench = bench_with()
    response = bench.ask("GET", f"/v1/a/c{query}", {"Accept": accept} if accept else {})
    assert response.status == 200
    assert response.headers["Content-Type"] == f"{content_type}; charset=utf-8"
    assert ("Vary" in response.headers) is ("format" not in query)
    assert bench.queries[-1].split("&")[-1] == "format=json"
    assert bench.environ["QUERY_STRING"] == query.lstrip("?")


@pytest.mark.parametrize(
    ("accept", "status"),
    [("image/png", 406), ("garbage", 400), ("text/plain;q=x", 400)],
)
def test_a_bad_accept_is_refused_before_anything_else(accept, status):
    bench = bench_with()
    assert bench.ask("GET", "/v1/a/c", {"Accept": accept}).status == status
    assert bench.end.seen == []


def test_json_passes_as_it_is():
    response = bench_with().ask("GET", "/v1/a/c?format=json")
    assert response.body == BODY
    assert response.headers["Content-Length"] == str(len(BODY))


def test_plain_is_one_name_a_line():
    response = bench_with().ask("GET", "/v1/a/c")
    assert response.body == "a&é\nd/\n".encode()
    assert response.headers["Content-Length"] == str(len(response.body))


def test_xml_of_a_container():
    body = bench_with().ask("GET", "/v1/a/c%C3%A9?format=xml").body.decode()
    assert body.startswith(
        '<?xml version="1.0" encoding="UTF-8"?>\n<container name="cé">'
    )
    assert "<object><name>a&amp;é</name><hash>h</hash><bytes>3</bytes>" in body
    assert '<subdir name="d/"><name>d/</name></subdir>' in body


def test_xml_of_an_account():
    rows = [{"name": "c", "count": 1, "bytes": 2, "last_modified": "x"}]
    bench = bench_with(listing(json.dumps(rows).encode()))
    body = bench.ask("GET", "/v1/a?format=xml").body
    assert b'<account name="a">\n<container><name>c</name><count>1</count>' in body


@pytest.mark.parametrize(
    ("query", "status", "body"),
    [("", 204, b""), ("?format=json", 200, b"[]")],
    ids=["plain", "json"],
)
def test_an_empty_listing(query, status, body):
    response = bench_with(listing(b"[]")).ask("GET", f"/v1/a/c{query}")
    assert (response.status, response.body) == (status, body)
    assert response.headers["Content-Length"] == str(len(body))


def test_a_head_tells_the_type_only():
    told = Headers(Content_Length="0", X_Container_Object_Count="1")
    answer = Response(204, told, b"")
    response = bench_with(answer).ask("HEAD", "/v1/a/c", {"Accept": "application/xml"})
    assert response.status == 204
    assert response.headers["Content-Type"] == "application/xml; charset=utf-8"
    assert response.headers["Content-Length"] == "0"
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_a_page_in_the_place_of_a_listing_is_left_alone(method, kind):
    page = found(b'{"page": 1}' if method == "GET" else b"", Content_Type=kind)
    response = bench_with(page).ask(method, "/v1/a/c/", {"Accept": "text/html, */*"})
    assert response.status == 200
    assert response.headers["Content-Type"] == kind
    assert "Vary" not in response.headers
    assert response.body == (b'{"page": 1}' if method == "GET" else b"")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/a/c/o"),
        ("GET", "/v1/a/c//"),
        ("GET", "/v1/a//o"),
        ("GET", "/info"),
        ("GET", "/v2/a/c"),
        ("GET", "/v1/"),
        ("PUT", "/v1/a/c"),
    ],
)
def test_other_requests_are_left_alone(method, path):
    bench = bench_with(found(b"x"))
    assert bench.ask(method, path, {"Accept": "image/png"}).body == b"x"
    assert bench.queries[-1] == ""


@pytest.mark.parametrize("path", ["/v1/a/", "/v1/a/c/"])
def test_a_trailing_slash_makes_no_difference(path):
    assert (
        bench_with().ask("GET", path).headers["Content-Type"].startswith("text/plain")
    )


def test_other_answers_are_left_alone():
    bench = bench_with(Response(404))
    response = bench.ask("GET", "/v1/a/c?format=json")
    assert response.status == 404
    assert response.headers["Content-Type"].startswith("text/html")


def test_what_is_no_json_is_left_alone():
    bench = bench_with(found(b"<html>", Content_Type="text/html"))
    assert bench.ask("GET", "/v1/a/c").body == b"<html>"


def test_reserved_names_are_held_back_with_a_warning():
    rows = [*ROWS, {**ROWS[0], "name": "\0versions\0c"}]
    bench = bench_with(listing(json.dumps(rows).encode()))
    assert json.loads(bench.ask("GET", "/v1/a/c?format=json").body) == ROWS
    assert "1 reserved names held back" in bench.log_lines[-1]
    headers = {"X-Backend-Allow-Reserved-Names": "true"}
    assert len(json.loads(bench.ask("GET", "/v1/a/c?format=json", headers).body)) == 3


def test_a_listing_without_length_is_not_gathered():
    bench = bench_with()
    bench.end.answers["*"] = lambda environ: Response(
        200, {"Content-Type": "application/json"}, app_iter=iter([BODY])
    )
    assert bench.ask("GET", "/v1/a/c").body == BODY


def test_a_broken_listing_is_an_error():
    assert bench_with(listing(b"{}")).ask("GET", "/v1/a/c").status == 500
