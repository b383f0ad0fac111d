# SPDX-License-Identifier: Apache-2.0
"""staticweb: index, error and listing pages, and for whom."""

from __future__ import annotations

import json

import pytest
from filter_facts import Facts
from filter_pipeline import Bench, found
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.core.errors import ConfigError
from swift.middleware.staticweb import css_path, human_size, listing_page
from swift.wire import environ as env
from swift.wire.request import Response

ROWS = [
    {"name": "sub/a.html", "bytes": 1536, "content_type": "text/html; charset=x",
     "last_modified": "2026-11-24T07:00:00.123456"},
    {"subdir": "sub/deep/"},
]  # fmt: skip


class Sites(Bench):
    def __init__(self, objects=(), rows=(), options=(), **meta):
        super().__init__("staticweb", **dict(options))
        self.facts = Facts().give_to(self)
        self.facts.set(
            "/a/c",
            **{f"X_Container_Meta_Web_{name}": text for name, text in meta.items()},
        )
        self.objects = {f"/v1/a/c/{name}": name.encode() for name in objects}
        self.rows = rows
        self.end.answers["*"] = self._answer

    def _answer(self, environ):
        path = environ["PATH_INFO"]
        if path in ("/v1/a/c", "/v1/a/c/"):
            if "format=json" in environ["QUERY_STRING"]:
                return Response.json(list(self.rows))
            return found(b"plain listing")
        if path in self.objects:
            return found(self.objects[path], Content_Type="text/html")
        return Response(404)


def test_programs_with_a_token_get_the_api():
    bench = Sites(["index.html"], Index="index.html")
    assert (
        bench.ask("GET", "/v1/a/c/", **{env.REMOTE_USER: "a"}).body == b"plain listing"
    )
    assert bench.facts.asked == []
    assert bench.ask("PUT", "/v1/a/c/x").status == 404
    assert bench.facts.asked == []


def test_a_container_that_is_no_site_is_left_alone():
    assert Sites().ask("GET", "/v1/a/c/").body == b"plain listing"
    assert Sites(Error="e.html").ask("GET", "/v1/a/c/").body == b"plain listing"


def test_web_mode_shows_the_site_to_its_owner():
    extra = {env.REMOTE_USER: "a", "HTTP_X_WEB_MODE": "true"}
    bench = Sites(["index.html"], Index="index.html")
    assert bench.ask("GET", "/v1/a/c/", **extra).body == b"index.html"
    assert Sites().ask("GET", "/v1/a/c/", **extra).status == 404


def test_the_root_is_the_index_page():
    bench = Sites(["index.html"], Index="index.html")
    got = bench.ask("GET", "/v1/a/c/", {"If-None-Match": "x"})
    assert (got.status, got.body) == (200, b"index.html")
    assert bench.end.last[env.SOURCE] == "SW"
    assert bench.end.last["HTTP_IF_NONE_MATCH"] == "x"


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/v1/a/c", "http://localhost/v1/a/c/"),
        ("/v1/a/c/s%20b", "http://localhost/v1/a/c/s%20b/"),
    ],
)
def test_a_missing_slash_is_added(path, location):
    bench = Sites(["index.html", "s b/index.html"], Index="index.html")
    got = bench.ask("GET", path, Host="x")
    assert (got.status, got.headers["Location"]) == (301, location)


def test_redirects_can_name_another_place():
    bench = Sites(["i"], options={"url_base": "https://web.example"}, Index="i")
    got = bench.ask("GET", "/v1/a/c")
    assert got.headers["Location"] == "https://web.example/v1/a/c/"
    with pytest.raises(ConfigError):
        Sites(options={"url_base": "https://host/path"})


def test_folders_have_index_pages_too():
    bench = Sites(["sub/index.html"], Index="index.html")
    assert bench.ask("GET", "/v1/a/c/sub/").body == b"sub/index.html"
    assert bench.ask("GET", "/v1/a/c/other/").status == 404


def test_marker_objects_are_folders():
    bench = Sites(["sub/i"], Index="i")
    bench.end.answers["GET /v1/a/c/sub/"] = lambda environ: found(
        b"", Content_Type="application/directory", Content_Length="0"
    )
    assert bench.ask("GET", "/v1/a/c/sub/").body == b"sub/i"


def test_a_listing_shows_files_and_folders():
    bench = Sites(rows=ROWS, Listings="true", Listings_Css="s.css")
    got = bench.ask("GET", "/v1/a/c/sub/")
    text = got.body.decode()
    assert got.status == 200
    assert "<title>Listing of /v1/a/c/sub/</title>" in text
    assert '<a href="../">../</a>' in text
    assert '<a href="./a.html">a.html</a>' in text
    assert 'class="item type-text type-html"' in text
    assert 'class="item subdir"' in text
    assert "1.5 KiB" in text
    assert "2026-11-24 07:00:00" in text
    assert 'href="../s.css"' in text
    assert "prefix=sub/" in bench.end.last[env.QUERY_STRING]
    assert bench.ask("GET", "/v1/a/c/sub").status == 301


def test_a_label_stands_for_the_path():
    got = Sites(rows=ROWS, Listings="true", Listings_Label="home").ask(
        "GET", "/v1/a/c/"
    )
    assert b"<title>Listing of home/</title>" in got.body
    assert b"../" not in got.body


def test_a_folder_without_children_is_missing():
    assert Sites(Listings="true").ask("GET", "/v1/a/c/sub/").status == 404


def test_the_error_page_keeps_the_status():
    bench = Sites(["404error.html", "401error.html"], Index="i", Error="error.html")
    got = bench.ask("GET", "/v1/a/c/none")
    assert (got.status, got.body) == (404, b"404error.html")

    def deny(environ):
        return Response(401, {"WWW-Authenticate": 'Swift realm="a"'})

    bench.end.answers["GET /v1/a/c/closed"] = deny
    got = bench.ask("GET", "/v1/a/c/closed")
    assert (got.status, got.body) == (401, b"401error.html")
    assert got.headers["Www-Authenticate"] == 'Swift realm="a"'
    bench = Sites(Index="i", Error="error.html")
    assert b"could not be found" in bench.ask("GET", "/v1/a/c/none").body


def test_who_may_not_read_is_not_led_anywhere():
    bench = Sites(["i", "401e"], Index="i", Listings="true", Error="e")
    extra = {env.AUTHORIZE: lambda request: Response(401)}
    assert bench.ask("GET", "/v1/a/c", **extra).status == 401
    extra = {
        env.AUTHORIZE: lambda request: (
            None if request.environ["PATH_INFO"].endswith("/i") else Response(401)
        )
    }
    assert bench.ask("GET", "/v1/a/c", **extra).status == 301


def test_a_temporary_url_of_a_prefix_lists_with_its_signature():
    bench = Sites(rows=ROWS, Listings="true")
    query = "?temp_url_sig=s&temp_url_expires=1&temp_url_prefix=sub&other=1"
    extra = {env.REMOTE_USER: ".wsgi.tempurl"}
    text = bench.ask("GET", "/v1/a/c/sub/" + query, **extra).body.decode()
    link = "a.html?temp_url_sig=s&amp;temp_url_expires=1&amp;temp_url_prefix=sub"
    assert link in text
    got = bench.ask("GET", "/v1/a/c/sub" + query, **extra)
    assert got.headers["Location"].endswith(
        "/?" + link.partition("?")[2].replace("&amp;", "&")
    )


def test_a_temporary_url_of_one_object_shows_nothing_else():
    bench = Sites(["sub/i", "404e"], rows=ROWS, Index="i", Listings="true", Error="e")
    extra = {env.REMOTE_USER: ".wsgi.tempurl"}
    got = bench.ask("GET", "/v1/a/c/sub?temp_url_sig=s&temp_url_expires=1", **extra)
    assert got.status == 404
    assert len(bench.end.seen) == 1
    query = "?temp_url_sig=s&temp_url_prefix=x"
    assert bench.ask("GET", "/v1/a/c/x" + query, **extra).body != b"404e"


def test_sizes_and_style_sheets():
    assert [human_size(n) for n in (0, 1023, 1024, 10**7)] == [
        "0 B", "1023 B", "1.0 KiB", "9.5 MiB",
    ]  # fmt: skip
    assert css_path("a b.css", "x/y/") == "../../a%20b.css"
    assert css_path("https://h/s.css", "x/") == "https://h/s.css"


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
@settings(max_examples=60)
def test_names_cannot_write_html(name, kind, prefix):
    row = {"name": prefix + name, "bytes": 1, "content_type": kind}
    page = listing_page(
        [json.loads(json.dumps(row))], path=name, prefix=prefix, css=kind, links=""
    )
    for text in ("<script", "onload="):
        assert text not in page.replace("&lt;", "") or text in name + kind
    hostile = '"><script>x</script>'
    page = listing_page(
        [{"name": hostile, "bytes": 1, "content_type": hostile}, {"subdir": hostile}],
        path=hostile, prefix="", css=hostile, links="",
    )  # fmt: skip
    assert "<script>" not in page
    assert 'href="javascript:' not in listing_page(
        [{"name": "javascript:x", "bytes": 0}], path="", prefix="", css="", links=""
    )
