# SPDX-License-Identifier: Apache-2.0
"""Requests read, answers given, and errors turned into answers."""

import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core import errors
from swift.core.headers import Headers
from swift.core.names import BadEncoding, ContainerName, ObjectName
from swift.core.timestamp import Timestamp
from swift.wire import environ as env
from swift.wire.request import (
    Request,
    Response,
    absolute_location,
    call,
    parse_query,
    response_of,
)


class Body:
    """Chunks that know whether they were closed."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = iter(chunks)
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks

    def close(self) -> None:
        self.closed = True


def answer(
    response: Response, method: str = "GET", **more: Any
) -> tuple[str, Headers, bytes]:
    """Run a Response as an application."""
    seen: list[Any] = []
    environ = env.blank("/v1/a/c", method=method, environ=more)
    chunks = response(environ, lambda *args: seen.append(args))
    (status, headers) = seen[0]
    return status, Headers(headers), b"".join(chunks)


# --- Request -------------------------------------------------------------------------


def test_a_client_path_is_named() -> None:
    path = Request.blank("/v1/a/c/%C3%A9/x%2Fy").name_path()

    assert path.version == "v1"
    assert path.name == ObjectName("a", "c", "é/x/y")


@pytest.mark.parametrize("target", ["/v1/a/%FF", "/v1/a/c/a%00b"])
def test_a_path_that_is_no_utf8_or_holds_nul_is_refused(target: str) -> None:
    with pytest.raises(BadEncoding):
        Request.blank(target).name_path()


def test_reserved_names_need_the_header() -> None:
    request = Request.blank(
        "/v1/a/%00c", headers={"X-Backend-Allow-Reserved-Names": "true"}
    )

    assert request.name_path().name == ContainerName("a", "\0c")


def test_a_node_path_is_named() -> None:
    path = Request.blank("/sda1/5/a/c").node_path()

    assert (path.device, path.partition, path.name) == (
        "sda1",
        "5",
        ContainerName("a", "c"),
    )


@pytest.mark.parametrize("headers", [{}, {"X-Timestamp": "soon"}])
def test_a_missing_or_bad_timestamp_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(errors.InvalidInput, match="X-Timestamp"):
        _ = Request.blank("/", headers=headers).timestamp


def test_a_timestamp_is_read() -> None:
    request = Request.blank("/", headers={"X-Timestamp": "1402464677.04188"})

    assert request.timestamp == Timestamp.parse("1402464677.04188")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("a=1&a=2", {"a": b"2"}),
        ("a=b+c%2B", {"a": b"b c+"}),
        ("a&b=", {"a": b"", "b": b""}),
        ("&&a=%C3%A9&", {"a": b"\xc3\xa9"}),
        ("a=b=c", {"a": b"b=c"}),
        ("a=%zz", {"a": b"%zz"}),
    ],
)
def test_queries_are_read_as_forms(query: str, expected: dict[str, bytes]) -> None:
    assert parse_query(query) == expected


@given(st.text(st.sampled_from("ab=&+%4é0;/"), max_size=30))
def test_queries_are_read_as_the_standard_library_reads_them(text: str) -> None:
    query = text.encode().decode("latin-1")

    expected = parse_qsl(
        query, keep_blank_values=True, encoding="latin-1", errors="strict"
    )

    assert parse_query(query) == {k: v.encode("latin-1") for k, v in expected}


def test_a_parameter_that_is_no_utf8_is_named() -> None:
    request = Request.blank("/?marker=%FF&prefix=%C3%A9")

    assert request.params_text("prefix") == "é"
    assert request.params_text("limit") is None
    with pytest.raises(errors.InvalidInput, match='"marker" parameter'):
        request.params_text("marker")


def test_webob_properties_still_work() -> None:
    request = Request.blank("/v1/a?b=c", method="POST", body=b"xyz")

    assert request.method == "POST"
    assert request.body == b"xyz"
    assert request.GET["b"] == "c"
    assert request.content_length == 3


# --- Response ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body"),
    [
        # Bodies that the golden requests hold.
        (
            404,
            b"<html><h1>Not Found</h1><p>The resource could not be found.</p></html>",
        ),
        (
            202,
            b"<html><h1>Accepted</h1>"
            b"<p>The request is accepted for processing.</p></html>",
        ),
        (
            409,
            b"<html><h1>Conflict</h1><p>There was a conflict when trying to complete "
            b"your request.</p></html>",
        ),
        (
            405,
            b"<html><h1>Method Not Allowed</h1>"
            b"<p>The method is not allowed for this resource.</p></html>",
        ),
        (200, b""),
        (201, b""),
        (204, b""),
        (206, b""),
        (304, b""),
    ],
)
def test_default_bodies(status: int, body: bytes) -> None:
    line, headers, sent = answer(Response(status))

    assert int(line.split()[0]) == status
    assert sent == body
    assert headers["Content-Length"] == str(len(body))
    assert headers["Content-Type"] == "text/html; charset=UTF-8"


def test_head_of_an_error_has_no_body_and_length_0() -> None:
    _, headers, sent = answer(Response(404), "HEAD")

    assert headers["Content-Length"] == "0"
    assert sent == b""


def test_head_keeps_a_declared_length_and_closes_the_body() -> None:
    body = Body(b"x" * 10)

    _, headers, sent = answer(
        Response(200, {"Content-Length": 10}, app_iter=body), "HEAD"
    )

    assert headers["Content-Length"] == "10"
    assert sent == b""
    assert body.closed


def test_a_ready_list_gets_a_length_and_an_iterator_does_not() -> None:
    _, listed, _ = answer(Response(200, app_iter=[b"ab", b"c"]))
    _, streamed, sent = answer(Response(200, app_iter=iter([b"ab"])))

    assert listed["Content-Length"] == "3"
    assert "Content-Length" not in streamed
    assert sent == b"ab"


def test_an_explanation_is_escaped() -> None:
    _, _, sent = answer(Response.error(400, "<b> & co"))

    assert sent == b"<html><h1>Bad Request</h1><p>&lt;b&gt; &amp; co</p></html>"


@pytest.mark.parametrize(
    ("location", "host", "expected"),
    [
        ("/v1/a/c", "example.com:80", "http://example.com/v1/a/c"),
        ("/v1/a/c", "example.com:8080", "http://example.com:8080/v1/a/c"),
        ("https://x/y", "example.com", "https://x/y"),
        ("c2?u=http://z", "example.com", "http://example.com/v1/a/c2?u=http://z"),
    ],
)
def test_locations_are_made_absolute(location: str, host: str, expected: str) -> None:
    _, headers, _ = answer(
        Response(301, {"Location": location}), **{env.HTTP_HOST: host}
    )

    assert headers["Location"] == expected


def test_https_drops_its_own_port_only() -> None:
    environ = env.blank("/", environ={"wsgi.url_scheme": "https"})
    environ[env.HTTP_HOST] = "h:443"

    assert absolute_location(environ, "/x") == "https://h/x"


def test_a_location_stays_relative_when_a_filter_wants_it() -> None:
    _, headers, _ = answer(
        Response(302, {"Location": "/x"}), **{env.LEAVE_RELATIVE_LOCATION: True}
    )

    assert headers["Location"] == "/x"


def test_reading_the_body_closes_it() -> None:
    body = Body(b"a", b"b")
    response = Response(200, app_iter=body)

    assert response.body == b"ab"
    assert response.body == b"ab"
    assert body.closed


def test_draining_stops_at_the_limit() -> None:
    body = Body(b"a" * 10, b"b" * 10, b"c")
    response = Response(200, app_iter=body)

    response.drain(15)

    assert body.closed
    assert list(body.chunks) == [b"c"]


def test_json_is_typed() -> None:
    _, headers, sent = answer(Response.json({"a": 1}))

    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert json.loads(sent) == {"a": 1}


# --- call ----------------------------------------------------------------------------


def test_call_keeps_the_body_unread() -> None:
    body = Body(b"late")

    def app(environ: env.Environ, start: Any) -> Iterable[bytes]:
        start("200 OK", [("x-a", "1"), ("Vary", "a"), ("Vary", "b")])
        return body

    response = call(app, env.blank("/"))

    assert response.status == 200
    assert response.headers == {"X-A": "1", "Vary": "a, b"}
    assert response.app_iter is body


def test_call_waits_for_applications_that_start_late() -> None:
    closed = []

    def app(environ: env.Environ, start: Any) -> Iterator[bytes]:
        try:
            write = start("201 Created", [])
            write(b"written ")
            yield b""
            yield b"yielded"
        finally:
            closed.append(True)

    response = call(app, env.blank("/"))

    assert response.status == 201
    assert response.body == b"written yielded"
    assert closed == [True]


def test_call_refuses_an_application_without_status() -> None:
    def app(environ: env.Environ, start: Any) -> Iterable[bytes]:
        return [b"x"]

    with pytest.raises(RuntimeError):
        call(app, env.blank("/"))


def test_a_called_answer_is_an_application_again() -> None:
    first = Response(200, {"Etag": "x"}, app_iter=iter([b"abc"]))

    second = call(first, env.blank("/"))
    status, headers, sent = answer(second)

    assert status == "200 OK"
    assert headers["Etag"] == "x"
    assert sent == b"abc"


# --- Domain errors -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidInput("x"), 400),
        (BadEncoding("x"), 412),
        (errors.NotFound("x"), 404),
        (errors.ObjectDeleted("/p", Timestamp(5)), 404),
        (errors.ObjectExpired("/p", Timestamp(5)), 404),
        (errors.ObjectQuarantined("/p", "x"), 404),
        (errors.ObjectCollision("x"), 403),
        (errors.Conflict("x"), 409),
        (errors.DatabaseExists("x"), 409),
        (errors.Unavailable("x"), 503),
        (errors.ObjectChanged("x"), 503),
        (errors.LockTimeout("/p", 1), 503),
        (errors.PeerTimeout("p", "x"), 503),
        (errors.DeviceUnavailable("sda1", "x"), 507),
        (errors.DiskFull("sda1", "x"), 507),
        (errors.ClientDisconnect("x"), 499),
        (errors.ClientTimeout("x"), 408),
        (errors.BodyTooLarge("x"), 413),
        (errors.ChecksumMismatch("x"), 422),
        (errors.Corrupt("x"), 500),
        (KeyError("x"), 500),
    ],
)
def test_the_status_of_an_error(error: Exception, status: int) -> None:
    assert response_of(error).status == status


def test_errors_tell_what_the_peer_needs() -> None:
    deleted = response_of(errors.ObjectDeleted("/p", Timestamp(5)))
    away = response_of(errors.DeviceUnavailable("nodev", "is gone"))
    bad = response_of(errors.InvalidInput("bad <thing>"))

    assert deleted.headers["X-Backend-Timestamp"] == "0000000000.00005"
    # The golden requests hold this body.
    assert away.body == (
        b"<html><h1>Insufficient Storage</h1><p>There was not enough space to save the "
        b"resource. Drive: nodev</p></html>"
    )
    assert bad.body == b"bad <thing>"
    assert bad.content_type == "text/plain"
