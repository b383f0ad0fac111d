# SPDX-License-Identifier: Apache-2.0
"""copy: from which object, to which, and what goes along."""

from __future__ import annotations

import json

import pytest
from filter_pipeline import Bench, found

from swift.core.errors import PeerError
from swift.core.headers import Headers
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.request import Response
from swift.wire.streams import ChunkReader

SOURCE = "GET /v1/a/c/o"


def source(body=b"data", status=200, **headers):
    named = Headers(
        Content_Type="text/x",
        Etag="8d777f385d3dfec8815d20f7496026dc",
        Last_Modified="Sun, 22 Nov 2026 08:11:54 GMT",
        X_Timestamp="1.0",
        X_Object_Meta_Old="1",
        X_Object_Meta_Both="source",
        X_Object_Sysmeta_S="s",
        Content_Encoding="gzip",
        X_Delete_At="9999999999",
        X_Backend_Timestamp="1.0",
        X_Trans_Id="tx",
        Content_Length=str(len(body)),
    )
    for name, value in headers.items():
        named[name.replace("_", "-")] = value
    return Response(status, named, app_iter=iter([body[:2], body[2:]]))


class Copies(Bench):
    def __init__(self, **options):
        super().__init__("copy", **options)
        self.end.answers[SOURCE] = lambda environ: source()
        self.end.answers["PUT /v1/a/c2/o2"] = lambda environ: found(
            status=201, Etag="new"
        )

    def put(self, headers=(), query="", **extra):
        headers = {"X-Copy-From": "c/o", "Content-Length": "0", **dict(headers)}
        return self.ask("PUT", f"/v1/a/c2/o2{query}", headers, **extra)

    @property
    def sent(self) -> Headers:
        return env.headers_of(self.end.last)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("PUT", "/v1/a/c2/o2", {"X-Copy-From": "/c/o"}),
        ("PUT", "/v1/a/c2/o2", {"X-Copy-From": "c/o"}),
        ("PUT", "/v1/a/c2/o2", {"X-Copy-From": "%63/o"}),
        ("COPY", "/v1/a/c/o", {"Destination": "c2/o2"}),
        ("COPY", "/v1/a/c/o", {"Destination": "/c2/o2"}),
    ],
)
def test_both_verbs_read_the_source_and_write_the_target(method, path, headers):
    bench = Copies()
    response = bench.ask(method, path, headers)
    assert response.status == 201
    assert bench.end.lines() == [SOURCE, "PUT /v1/a/c2/o2"]
    assert bench.end.bodies == [b"data"]
    assert bench.end.last["CONTENT_LENGTH"] == "4"
    assert bench.end.seen[0]["HTTP_X_NEWEST"] == "True"
    assert bench.end.seen[0][env.SOURCE] == "SSC"
    assert response.headers["X-Copied-From"] == "c/o"
    assert response.headers["X-Copied-From-Account"] == "a"
    assert response.headers["X-Copied-From-Last-Modified"].startswith("Sun")
    assert response.headers["X-Object-Meta-Old"] == "1"
    assert response.headers["X-Delete-At"] == "9999999999"
    assert response.headers["Etag"] == "new"


@pytest.mark.parametrize(
    ("method", "path", "headers", "lines"),
    [
        (
            "PUT",
            "/v1/a/c2/o2",
            {"X-Copy-From": "c/o", "X-Copy-From-Account": "b"},
            ["GET /v1/b/c/o"],
        ),
        (
            "COPY",
            "/v1/a/c/o",
            {"Destination": "c2/o2", "Destination-Account": "b%20x"},
            [SOURCE, "PUT /v1/b x/c2/o2"],
        ),
        ("PUT", "/v1/a/c2/o2", {"X-Copy-From": "c//o%2F%25"}, ["GET /v1/a/c//o/%"]),
    ],
)
def test_accounts_and_odd_names(method, path, headers, lines):
    bench = Copies()
    bench.ask(method, path, headers)
    assert bench.end.lines() == lines


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("COPY", {}),
        ("COPY", {"Destination": "c"}),
        ("COPY", {"Destination": "c/"}),
        ("COPY", {"Destination": "//o"}),
        ("COPY", {"Destination": "c/o", "Destination-Account": ""}),
        ("COPY", {"Destination": "c/o", "Destination-Account": "a%2Fb"}),
        ("PUT", {"X-Copy-From": ""}),
        ("PUT", {"X-Copy-From": "c"}),
        ("PUT", {"X-Copy-From": "c/o", "X-Copy-From-Account": "a/b"}),
    ],
)
def test_a_reference_that_names_no_object_is_a_412(method, headers):
    bench = Copies()
    assert bench.ask(method, "/v1/a/c/o", headers).status == 412
    assert bench.end.seen == []


def test_a_put_that_copies_takes_no_body():
    bench = Copies()
    headers = {"X-Copy-From": "c/o"}
    assert bench.ask("PUT", "/v1/a/c2/o2", headers, b"body").status == 400


def test_the_targets_metadata_is_the_sources_overlaid_by_the_clients():
    bench = Copies()
    bench.put({"X-Object-Meta-Both": "client", "X-Object-Meta-New": "1"})
    sent = bench.sent
    assert sent["X-Object-Meta-Old"] == "1"
    assert sent["X-Object-Meta-Both"] == "client"
    assert sent["X-Object-Meta-New"] == "1"
    assert sent["X-Object-Sysmeta-S"] == "s"
    assert sent["Content-Type"] == "text/x"
    assert sent["Content-Encoding"] == "gzip"
    assert sent["Etag"] == "8d777f385d3dfec8815d20f7496026dc"
    for name in ("X-Timestamp", "X-Backend-Timestamp", "X-Trans-Id", "Last-Modified"):
        assert name not in sent
    assert "X-Copy-From" not in sent


def test_fresh_metadata_leaves_the_sources_behind():
    bench = Copies()
    bench.put({"X-Fresh-Metadata": "true", "Content-Type": "text/new"})
    sent = bench.sent
    assert sent["X-Object-Sysmeta-S"] == "s"
    assert sent["Content-Type"] == "text/new"
    assert "X-Object-Meta-Old" not in sent
    assert "Content-Encoding" not in sent


@pytest.mark.parametrize("status", [304, 404, 412, 416, 503])
def test_a_source_that_cannot_be_had_is_the_answer(status):
    bench = Copies()
    bench.end.answers[SOURCE] = Response(status)
    assert bench.put().status == status
    assert len(bench.end.seen) == 1


def test_range_and_conditions_are_the_sources():
    bench = Copies()
    bench.end.answers[SOURCE] = lambda environ: source(
        b"at", 206, Content_Range="bytes 1-2/4"
    )
    assert bench.put({"Range": "bytes=1-2", "If-Match": "x"}).status == 201
    assert bench.end.seen[0]["HTTP_RANGE"] == "bytes=1-2"
    assert bench.end.seen[0]["HTTP_IF_MATCH"] == "x"
    sent = bench.sent
    assert bench.end.bodies == [b"at"]
    for name in ("Range", "If-Match", "Etag", "Content-Range"):
        assert name not in sent


def test_if_none_match_star_is_about_the_target():
    bench = Copies()
    bench.put({"If-None-Match": "*"})
    assert "HTTP_IF_NONE_MATCH" not in bench.end.seen[0]
    assert bench.end.last["HTTP_IF_NONE_MATCH"] == "*"


def test_a_large_object_is_flattened_without_its_checksum():
    bench = Copies()
    bench.end.answers[SOURCE] = lambda environ: source(
        X_Static_Large_Object="True", X_Object_Manifest="x/y"
    )
    bench.put()
    for name in ("Etag", "X-Static-Large-Object", "X-Object-Manifest"):
        assert name not in bench.sent


def test_a_manifest_is_copied_as_such_when_asked():
    bench = Copies()
    bench.end.answers[SOURCE] = lambda environ: source(X_Static_Large_Object="True")
    bench.put(query="?multipart-manifest=get")
    assert bench.end.seen[0]["QUERY_STRING"] == "multipart-manifest=get&format=raw"
    assert bench.end.last["QUERY_STRING"] == "multipart-manifest=put"
    bench.end.answers[SOURCE] = lambda environ: source(X_Object_Manifest="x/y")
    bench.put(query="?multipart-manifest=get")
    assert bench.end.last["QUERY_STRING"] == ""
    assert bench.sent["X-Object-Manifest"] == "x/y"


def test_a_version_id_is_the_sources():
    bench = Copies()
    bench.end.answers[SOURCE] = lambda environ: source(X_Object_Version_Id="1.2")
    response = bench.put(query="?version-id=1.2")
    assert bench.end.seen[0]["QUERY_STRING"] == "version-id=1.2"
    assert bench.end.last["QUERY_STRING"] == ""
    assert response.headers["X-Copied-From-Version-Id"] == "1.2"


@pytest.mark.parametrize("length", [None, str(5368709123)])
def test_a_source_without_or_with_too_much_length_is_too_large(length):
    bench = Copies()

    def answer(environ):
        response = source()
        if length is None:
            del response.headers["Content-Length"]
        else:
            response.headers["Content-Length"] = length
        return response

    bench.end.answers[SOURCE] = answer
    assert bench.put().status == 413


def test_a_source_that_breaks_off_breaks_the_put():
    bench = Copies()

    def breaking():
        yield b"da"
        raise PeerError("node", "gone")

    headers = {"Content-Length": "4"}
    bench.end.answers[SOURCE] = lambda environ: Response(
        200, headers, app_iter=breaking()
    )
    with pytest.raises(PeerError):
        bench.put()


def test_the_copied_request_is_logged_as_the_clients():
    bench = Copies()
    bench.put(**{env.ACCESS_LOG_MADE: True})
    assert env.ACCESS_LOG_MADE not in bench.end.seen[0]
    assert bench.end.last[env.ACCESS_LOG_MADE] is True


def test_options_of_an_object_tell_of_copy():
    bench = Copies()
    bench.end.answers["*"] = lambda environ: found(
        Allow="GET, PUT", Access_Control_Allow_Methods="GET, PUT"
    )
    response = bench.ask("OPTIONS", "/v1/a/c/o")
    assert response.headers["Allow"] == "GET, PUT, COPY"
    assert response.headers["Access-Control-Allow-Methods"] == "GET, PUT, COPY"
    assert bench.ask("OPTIONS", "/v1/a/c").headers["Allow"] == "GET, PUT"


def test_a_page_that_may_put_may_copy():
    bench = Copies()
    bench.end.answers["*"] = lambda environ: Response(
        200 if environ["HTTP_ACCESS_CONTROL_REQUEST_METHOD"] == "PUT" else 401,
        {"Allow": "GET, PUT"},
    )
    wanted = {"Origin": "http://a", "Access-Control-Request-Method": "COPY"}
    granted = bench.ask("OPTIONS", "/v1/a/c/o", wanted)
    assert (granted.status, granted.headers["Allow"]) == (200, "GET, PUT, COPY")
    assert bench.ask("OPTIONS", "/v1/a/c", wanted).status == 401


def test_a_copy_of_a_container_is_the_proxys_to_refuse():
    bench = Copies()
    bench.ask("COPY", "/v1/a/c", {"Destination": "c/o"})
    assert bench.end.lines() == ["COPY /v1/a/c"]


@pytest.mark.parametrize("accept", ["application/json", "text/plain"])
def test_a_heartbeat_keeps_the_connection_alive(accept):
    bench = Copies(yield_frequency="0.01")

    def slow(environ):
        green.sleep(0.05)
        return found(status=201, Etag="new")

    bench.end.answers["PUT /v1/a/c2/o2"] = slow
    response = bench.put({"Accept": accept}, "?heartbeat=on")
    assert response.status == 202
    spaces, _, text = response.body.partition(b"\r\n\r\n")
    assert spaces
    assert not spaces.strip()
    assert bench.end.last["QUERY_STRING"] == ""
    if accept == "application/json":
        facts = json.loads(text)
        assert facts["Response Status"] == "201 Created"
        assert facts["Etag"] == "new"
        assert facts["X-Copied-From"] == "c/o"
    else:
        assert b"Response Status: 201 Created\n" in text


def test_a_chunk_reader_gives_what_is_asked_for():
    reader = ChunkReader([b"abc", b"", b"defg"], 7)
    assert reader.read(2) == b"ab"
    assert reader.read_some(10) == b"c"
    assert reader.read(3) == b"def"
    assert reader.read() == b"g"
    assert reader.read(1) == b""
