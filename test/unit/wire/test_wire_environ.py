# SPDX-License-Identifier: Apache-2.0
"""Headers in and out of an environ, and requests made of requests."""

import pytest

from swift.core.headers import Headers
from swift.wire import environ as env


def test_headers_come_out_title_cased_and_once() -> None:
    environ = env.blank(
        "/v1/a",
        headers={"x-object-META-color": "blue", "Content-Type": "text/plain"},
        body=b"abc",
    )

    headers = env.headers_of(environ)

    assert headers == Headers(
        {
            "Host": "localhost:80",
            "X-Object-Meta-Color": "blue",
            "Content-Type": "text/plain",
            "Content-Length": "3",
        }
    )
    assert type(headers) is Headers


def test_empty_content_headers_count_as_absent() -> None:
    environ = env.blank("/", environ={"CONTENT_TYPE": "", "CONTENT_LENGTH": ""})

    headers = env.headers_of(environ)

    assert "Content-Type" not in headers
    assert "Content-Length" not in headers


def test_an_empty_header_stays() -> None:
    environ = env.blank("/", headers={"X-Container-Read": ""})

    assert env.headers_of(environ)["X-Container-Read"] == ""


def test_set_get_and_remove_reach_the_environ() -> None:
    environ = env.blank("/")

    env.set_header(environ, "x-TRANS-id", "tx1")
    env.set_header(environ, "content-length", "5")

    assert environ["HTTP_X_TRANS_ID"] == "tx1"
    assert environ["CONTENT_LENGTH"] == "5"
    assert env.get_header(environ, "X-Trans-Id") == "tx1"
    env.remove_header(environ, "X-Trans-Id")
    assert env.get_header(environ, "X-Trans-Id", "none") == "none"


def test_unknown_header_names_do_not_fill_the_table() -> None:
    before = len(env._NAMES)

    for number in range(10_000):
        env.headers_of({f"HTTP_X_{number}": "1"})

    assert len(env._NAMES) <= max(before, env._TABLE_MAX)
    assert env.headers_of({"HTTP_X_9999": "1"}) == {"X-9999": "1"}


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/v1/a%20b?x=1&y", "/v1/a b", "x=1&y"),
        ("/%C3%A9", "/\u00c3\u00a9", ""),
        ("/a?", "/a", ""),
    ],
)
def test_targets_are_decoded_once(target: str, path: str, query: str) -> None:
    assert env.split_target(target) == (path, query)


def parent() -> env.Environ:
    return env.blank(
        "/v1/a/c/o?multipart-manifest=get",
        method="PUT",
        headers={
            "X-Auth-Token": "tk",
            "Range": "bytes=0-1",
            "If-Match": "x",
            "X-User-Id": "u",
            "User-Agent": "curl",
        },
        body=b"body",
        environ={
            env.TRANS_ID: "tx1",
            env.CACHE: "cache",
            env.INFOCACHE: {"k": 1},
            env.REMOTE_USER: "u,g",
            env.AUTHORIZE: "callback",
            env.SOURCE: "SLO",
            "swift.private": "no",
        },
    )


def test_a_sub_request_inherits_identity_and_caches_but_no_conditions() -> None:
    original = parent()

    sub = env.sub_environ(original, "GET", "/v1/a/c/p")

    assert sub[env.REQUEST_METHOD] == "GET"
    assert sub[env.PATH_INFO] == "/v1/a/c/p"
    assert sub[env.QUERY_STRING] == ""
    assert sub[env.TRANS_ID] == "tx1"
    assert sub[env.INFOCACHE] is original[env.INFOCACHE]
    assert sub[env.HTTP_X_AUTH_TOKEN] == "tk"
    assert sub["HTTP_X_USER_ID"] == "u"
    assert sub[env.SOURCE] == "SLO"
    assert "HTTP_RANGE" not in sub
    assert "HTTP_IF_MATCH" not in sub
    assert "swift.private" not in sub
    assert env.CONTENT_LENGTH not in sub
    assert sub[env.WSGI_INPUT].read() == b""


def test_a_preauthorised_sub_request_may_do_anything() -> None:
    sub = env.sub_environ(
        parent(),
        "PUT",
        headers={"x-timestamp": "1"},
        body=b"new",
        source="SSC",
        query="a=b",
        preauthorised=True,
    )

    assert sub[env.AUTHORIZE](object()) is None
    assert sub[env.AUTHORIZE_OVERRIDE] is True
    assert env.REMOTE_USER not in sub
    assert env.HTTP_X_AUTH_TOKEN not in sub
    assert sub[env.SOURCE] == "SSC"
    assert sub[env.PATH_INFO] == "/v1/a/c/o"
    assert sub[env.QUERY_STRING] == "a=b"
    assert sub[env.CONTENT_LENGTH] == "3"
    assert sub[env.WSGI_INPUT].read() == b"new"
    assert sub["HTTP_X_TIMESTAMP"] == "1"


def test_the_path_is_quoted_as_a_client_would() -> None:
    environ = env.blank("/v1/a/c/%C3%A9%20%3F?x=%26")

    assert env.path_qs(environ) == "/v1/a/c/%C3%A9%20%3F?x=%26"
