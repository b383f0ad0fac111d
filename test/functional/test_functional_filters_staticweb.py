# SPDX-License-Identifier: Apache-2.0
"""Web sites over HTTP: contract middleware.md 27."""

from __future__ import annotations

import hashlib
import hmac
import time

import pytest


@pytest.fixture
def site(client, container):
    """The path of a container with pages that everybody may read."""
    headers = {
        "X-Container-Read": ".r:*",
        "X-Container-Meta-Web-Index": "index.html",
        "X-Container-Meta-Web-Error": "error.html",
    }
    assert client.post(container, headers).status == 204
    for name in ("index.html", "sub/index.html", "404error.html", "d/x.txt"):
        body = f"page {name}".encode()
        assert client.put(f"{container}/{name}", body).status == 201
    return container


def test_visitors_see_pages_and_programs_the_api(client, site):
    visitor = client.anonymous()
    assert visitor.get(f"{site}/").body == b"page index.html"
    moved = visitor.get(site)
    assert moved.status == 301
    assert moved.headers["location"].endswith(f"{site}/")
    assert visitor.get(f"{site}/sub/").body == b"page sub/index.html"
    assert visitor.get(f"{site}/sub").status == 301
    lost = visitor.get(f"{site}/lost")
    assert (lost.status, lost.body) == (404, b"page 404error.html")
    assert client.get(f"{site}/").body.startswith(b"404error.html\n")
    shown = client.get(f"{site}/", {"X-Web-Mode": "true"})
    assert shown.body == b"page index.html"


def test_pages_of_any_type_stand_at_the_root(client, site):
    visitor = client.anonymous()
    page = b'{"is": "no listing"}'
    kind = {"Content-Type": "application/json"}
    assert client.put(f"{site}/index.json", page, kind).status == 201
    index = {"X-Container-Meta-Web-Index": "index.json"}
    assert client.post(site, index).status == 204
    for query in ("", "?format=xml"):
        got = visitor.get(f"{site}/{query}")
        assert (got.status, got.body) == (200, page)
        assert got.headers["content-type"] == "application/json"
    told = visitor.head(f"{site}/")
    assert (told.status, told.headers["content-type"]) == (200, "application/json")


def test_listings_are_shown_to_whom_may_list(client, site):
    visitor = client.anonymous()
    assert client.post(site, {"X-Container-Meta-Web-Listings": "true"}).status == 204
    assert visitor.get(f"{site}/d/").status == 401
    assert client.post(site, {"X-Container-Read": ".r:*,.rlistings"}).status == 204
    got = visitor.get(f"{site}/d/")
    assert got.status == 200
    assert got.headers["content-type"] == "text/html; charset=UTF-8"
    assert b'<a href="./x.txt">x.txt</a>' in got.body
    assert b'class="item type-text type-plain"' in got.body


def test_a_closed_site_shows_nothing(client, site):
    assert client.post(site, {"X-Container-Read": ""}).status == 204
    visitor = client.anonymous()
    for path in (site, f"{site}/", f"{site}/index.html", f"{site}/sub"):
        assert visitor.get(path).status == 401
        assert b"page" not in visitor.get(path).body


def test_a_prefix_address_lists_its_prefix(client, site):
    meta = {
        "X-Container-Read": "",
        "X-Container-Meta-Web-Listings": "true",
        "X-Container-Meta-Temp-Url-Key": "k",
    }
    assert client.post(site, meta).status == 204
    expires = int(time.time()) + 60
    message = f"GET\n{expires}\nprefix:{site}/d".encode()
    signature = hmac.new(b"k", message, hashlib.sha256).hexdigest()
    query = f"temp_url_sig={signature}&temp_url_expires={expires}&temp_url_prefix=d"
    visitor = client.anonymous()
    listed = visitor.get(f"{site}/d/?{query}")
    assert listed.status == 200
    assert b"x.txt?temp_url_sig=" in listed.body
    for path in (f"{site}/", f"{site}/sub/", site):
        assert visitor.get(f"{path}?{query}").status == 401
