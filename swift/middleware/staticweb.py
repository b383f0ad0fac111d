# SPDX-License-Identifier: Apache-2.0
"""Containers as web sites: index pages, error pages, listings in HTML.

Works for visitors without identity, and for others who ask by X-Web-Mode; a program
with a token gets the API's own answers. Pages are fetched under the visitor's own
rights: what may not be read or listed directly is not shown here either.

Contract: middleware 27.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote, urlsplit

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.headers import true
from swift.core.names import ContainerName, text_of_wsgi, wsgi_of_text
from swift.core.settings import option
from swift.wire import environ as env
from swift.wire.environ import Environ, key_of, quote_path, sub_environ
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.infocache import ContainerInfo, container_info
from swift.wire.request import (
    HTML_TYPE,
    Request,
    Response,
    StartResponse,
    WsgiApp,
    call,
    host_url,
    parse_query,
)

SOURCE_CODE = "SW"
TEMPURL_USER = ".wsgi.tempurl"
DIRECTORY_TYPE = "application/directory"
DIRECTORY_BYTES_MAX = 1
LISTING_BYTES_MAX = 64 << 20

_READS = ("GET", "HEAD")
_WEB_MODE = key_of(h.X_WEB_MODE)
_PASSED_ON = tuple(
    (key_of(name), name)
    for name in (
        h.IF_MATCH,
        h.IF_NONE_MATCH,
        h.IF_MODIFIED_SINCE,
        h.IF_UNMODIFIED_SINCE,
        h.RANGE,
    )
)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def base_url(text: str) -> tuple[str, str]:
    """(scheme, host) of `scheme:`, `//host` or `scheme://host`; either may be empty."""
    parts = urlsplit(text.strip())
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("must be a scheme, a host or both")
    return parts.scheme, parts.netloc


@dataclass(frozen=True)
class StaticWebConfig:
    """[filter:staticweb] of proxy-server.conf."""

    url_base: tuple[str, str] = option(
        ("", ""), parse=base_url, doc="Scheme, host or both that redirects name."
    )


@dataclass(frozen=True, slots=True)
class Site:
    """How a container wants to be shown; decoded texts, empty when not set."""

    index: str
    error: str
    has_listings: bool
    css: str
    label: str
    directory_type: str

    @classmethod
    def of(cls, info: ContainerInfo) -> Site | None:
        """None for a container that is no site."""
        meta = info.meta
        if not info.exists or not any(
            meta.get(name) for name in ("web-index", "web-error", "web-listings")
        ):
            return None
        return cls(
            meta.get("web-index", "").strip("/"),
            meta.get("web-error", ""),
            true(meta.get("web-listings")),
            meta.get("web-listings-css", ""),
            meta.get("web-listings-label", ""),
            meta.get("web-directory-type", "") or DIRECTORY_TYPE,
        )


class StaticWeb(Filter):
    """The filter."""

    Config = StaticWebConfig
    config: StaticWebConfig

    def __init__(
        self, app: WsgiApp, config: StaticWebConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        context.info.register("staticweb")

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        user = environ.get(env.REMOTE_USER)
        if (user and user != TEMPURL_USER and _WEB_MODE not in environ) or environ[
            env.REQUEST_METHOD
        ] not in _READS:
            return self.app(environ, start_response)
        visit = self._visit(environ, user)
        if visit is None:
            return self.app(environ, start_response)
        return visit.answer()(environ, start_response)

    def _visit(self, environ: Environ, user: str | None) -> Visit | None:
        """None for what is none of a site's business. Yields."""
        web_mode = true(environ.get(_WEB_MODE))
        links = ""
        if user == TEMPURL_USER:
            links = _links_query(environ.get(env.QUERY_STRING, ""))
            if not links:
                # An address for one object shows no others.
                return None
        elif user and not web_mode:
            return None
        parts = environ[env.PATH_INFO].split("/", 4)
        if len(parts) < 4 or not all(parts[1:4]) or not self.knows_facts(environ):
            return None
        try:
            name = ContainerName(text_of_wsgi(parts[2]), text_of_wsgi(parts[3]))
        except InvalidInput:
            return None
        info = container_info(environ, name)
        site = Site.of(info)
        if site is None:
            is_bare = len(parts) < 5 or not parts[4]
            if not (web_mode and is_bare and info.exists):
                return None
            site = Site("", "", has_listings=False, css="", label="", directory_type="")
        return Visit(self.app, self.config, environ, site, info, parts, links)


@dataclass(slots=True)
class Visit:
    """One request for a page of a site.

    parts: the path split at its first four slashes, WSGI strings. links: what is added
    to each link of a listing, `?…` or empty.
    """

    app: WsgiApp
    config: StaticWebConfig
    environ: Environ
    site: Site
    info: ContainerInfo
    parts: list[str]
    links: str

    def answer(self) -> Response:
        """The page, or what else is to be said. Yields."""
        if len(self.parts) > 4 and self.parts[4]:
            return self._object(self.parts[4])
        return self._root()

    # --- The container ----------------------------------------------------------------

    def _root(self) -> Response:
        site = self.site
        if not site.index and not site.has_listings:
            if true(self.environ.get(_WEB_MODE)):
                return self._failed(Response(404))
            return call(self.app, self.environ)
        denial = self._denial(site.index)
        if denial is not None and site.index and site.has_listings:
            denial = self._denial("")
        if denial is not None:
            return self._failed(denial)
        if len(self.parts) < 5:
            return self._redirect()
        if site.index:
            page = self._fetch(wsgi_of_text(site.index))
            if page.status < 400:
                return page
            if page.status != 404:
                return self._failed(page)
            page.drain()
        return self._listing("")

    def _denial(self, obj: str) -> Response | None:
        """What the auth filter says of an object, or of the container. May yield."""
        authorize = self.environ.get(env.AUTHORIZE)
        if authorize is None:
            return None
        request = Request(self._sub("GET", wsgi_of_text(obj)))
        request.acl = self.info.read_acl
        denial: Response | None = authorize(request)
        return denial

    # --- An object --------------------------------------------------------------------

    def _object(self, obj: str) -> Response:
        found = call(self.app, self.environ)
        if found.status != 404 and not self._is_directory(found):
            return found if found.status < 400 else self._failed(found)
        site = self.site
        if not site.index and not site.has_listings:
            return self._failed(found) if found.status == 404 else found
        folder = obj if obj.endswith("/") else f"{obj}/"
        if site.index:
            page = self._fetch(folder + wsgi_of_text(site.index))
            if page.status < 400:
                found.drain()
                if obj.endswith("/"):
                    return page
                page.close()
                return self._redirect()
            page.drain()
        found.drain()
        if not site.has_listings:
            return self._failed(Response(404))
        children = self._rows(folder, limit=1)
        if isinstance(children, Response):
            return self._failed(children)
        if not children:
            return self._failed(Response(404))
        return self._listing(folder) if obj.endswith("/") else self._redirect()

    def _is_directory(self, found: Response) -> bool:
        """True for the marker objects that some clients make of directories."""
        size = found.content_length if h.CONTENT_LENGTH in found.headers else None
        return (
            found.is_success
            and size is not None
            and size <= DIRECTORY_BYTES_MAX
            and found.content_type.partition(";")[0].strip() == self.site.directory_type
        )

    # --- Pieces -----------------------------------------------------------------------

    def _sub(self, method: str, obj: str, query: str = "") -> Environ:
        path = "/".join(self.parts[:4])
        if obj:
            path = f"{path}/{obj}"
        headers = [
            (name, self.environ[key])
            for key, name in _PASSED_ON
            if obj and key in self.environ
        ]
        return sub_environ(
            self.environ, method, path, headers=headers, source=SOURCE_CODE, query=query
        )

    def _fetch(self, obj: str) -> Response:
        return call(self.app, self._sub(self.environ[env.REQUEST_METHOD], obj))

    def _redirect(self) -> Response:
        """To the same path with a slash."""
        scheme, host = self.config.url_base
        parts = urlsplit(host_url(self.environ))
        root = f"{scheme or parts.scheme}://{host or parts.netloc}"
        path = quote_path(self.environ[env.PATH_INFO])
        return Response(301, {h.LOCATION: f"{root}{path}/{self.links}"})

    def _failed(self, answer: Response) -> Response:
        """The answer, its body the site's error page if there is one. Yields."""
        if not self.site.error or answer.status < 400 or self.links:
            # A temporary URL shows what it opens, and no page besides.
            return answer
        page = call(
            self.app, self._page(wsgi_of_text(f"{answer.status}{self.site.error}"))
        )
        if not page.is_success:
            page.drain()
            return answer
        answer.drain()
        headers = {
            name: page.headers[name]
            for name in (h.CONTENT_TYPE, h.CONTENT_LENGTH, h.CONTENT_ENCODING)
            if name in page.headers
        }
        for name in (h.WWW_AUTHENTICATE, h.X_TRANS_ID):
            if name in answer.headers:
                headers[name] = answer.headers[name]
        return Response(answer.status, headers, app_iter=page.app_iter)

    def _page(self, obj: str) -> Environ:
        """A request for a whole page: the visitor's conditions are not about it."""
        path = "/".join(self.parts[:4])
        return sub_environ(self.environ, "GET", f"{path}/{obj}", source=SOURCE_CODE)

    # --- Listings ---------------------------------------------------------------------

    def _rows(self, folder: str, limit: int = 0) -> list[dict[str, Any]] | Response:
        """The rows below a folder (a WSGI string), or what the listing failed with."""
        query = f"format=json&delimiter=/&prefix={quote(folder.encode('latin-1'))}"
        if limit:
            query += f"&limit={limit}"
        answer = call(self.app, self._sub("GET", "", query))
        if not answer.is_success:
            return answer
        if (answer.content_length or 0) > LISTING_BYTES_MAX:
            answer.close()
            return Response(503)
        try:
            rows = json.loads(answer.body or b"[]")
        except ValueError:
            return Response(502)
        return rows if isinstance(rows, list) else []

    def _listing(self, folder: str) -> Response:
        """The page of what is in a folder. Yields."""
        if not self.site.has_listings:
            return self._failed(Response(404))
        rows = self._rows(folder)
        if isinstance(rows, Response):
            return self._failed(rows)
        if folder and not rows:
            return self._failed(Response(404))
        prefix = text_of_wsgi(folder)
        path = text_of_wsgi(self.environ[env.PATH_INFO])
        if self.site.label:
            path = self.site.label.rstrip("/") + "/" + prefix
        body = listing_page(
            rows, path=path, prefix=prefix, css=self.site.css, links=self.links
        )
        return Response(200, {h.CONTENT_TYPE: HTML_TYPE}, body.encode("utf-8"))


def _links_query(query: str) -> str:
    """What links carry on of a prefix's temporary URL; empty for any other."""
    params = parse_query(query)
    if "temp_url_prefix" not in params:
        return ""
    kept = [
        f"{name}={quote(value, safe='')}"
        for name, value in params.items()
        if name.startswith("temp_url_")
    ]
    return "?" + "&".join(kept)


def css_path(css: str, prefix: str) -> str:
    """The address of the style sheet, from a page so many folders down."""
    if css.startswith(("/", "http://", "https://")):
        return quote(css, safe=":/?&=%")
    return "../" * prefix.count("/") + quote(css)


def human_size(size: int) -> str:
    """`1.5 KiB`, for people."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{size} B" if not unit else f"{value:.1f} {_UNITS[unit]}"


def listing_page(
    rows: Iterable[Mapping[str, Any]], *, path: str, prefix: str, css: str, links: str
) -> str:
    """The HTML of a folder's listing. prefix: of its names; all texts decoded."""
    title = f"Listing of {path}"
    sheet = escape(css_path(css, prefix))
    style = (
        f'<link rel="stylesheet" type="text/css" href="{sheet}">'
        if css
        else "<style>h1 {font-size: 1em; font-weight: bold} th {text-align: left; "
        "padding: 0 1em} td {padding: 0 1em} .colsize {text-align: right}</style>"
    )
    lines = [
        "<!DOCTYPE html>",
        f'<html><head><meta charset="utf-8"><title>{escape(title)}</title>{style}',
        f'</head><body><h1 id="title">{escape(title)}</h1>',
        '<table id="listing"><tr id="heading"><th class="colname">Name</th>'
        '<th class="colsize">Size</th><th class="coldate">Date</th></tr>',
    ]
    if prefix:
        lines.append(_line("item", f"../{links}", "../", "", "", row_id="parent"))
    for row in rows:
        if "subdir" in row:
            name = str(row["subdir"])
            lines.append(_line("item subdir", *_link(name, prefix, links), "", ""))
        else:
            name = str(row.get("name", ""))
            kind = str(row.get("content_type", ""))
            date = str(row.get("last_modified", "")).partition(".")[0].replace("T", " ")
            size = human_size(int(row.get("bytes", 0)))
            lines.append(_line(_classes(kind), *_link(name, prefix, links), size, date))
    lines.append("</table></body></html>\n")
    return "\n".join(lines)


def _link(name: str, prefix: str, links: str) -> tuple[str, str]:
    """(href, text) of a name within a folder."""
    short = name.removeprefix(prefix)
    # A name may begin like an address (`http:`) or a root; `./` keeps it relative.
    return f"./{quote(short)}{links}", short


def _classes(content_type: str) -> str:
    """`item type-text type-html`, for style sheets."""
    kind = content_type.partition(";")[0].strip().lower()
    words = [
        "type-" + "".join(char if char.isalnum() else "-" for char in word)
        for word in kind.split("/")
        if word
    ]
    return " ".join(["item", *words])


def _line(
    classes: str, href: str, text: str, size: str, date: str, *, row_id: str = ""
) -> str:
    identity = f' id="{row_id}"' if row_id else ""
    return (
        f'<tr{identity} class="{escape(classes)}">'
        f'<td class="colname"><a href="{escape(href)}">{escape(text)}</a></td>'
        f'<td class="colsize">{escape(size) or "&nbsp;"}</td>'
        f'<td class="coldate">{escape(date) or "&nbsp;"}</td></tr>'
    )


filter_factory = factory(StaticWeb)
