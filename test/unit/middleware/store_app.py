# SPDX-License-Identifier: Apache-2.0
"""The end of a pipeline that keeps objects: what the proxy promises, in memory.

Knows conditions, ranges, X-Backend-Etag-Is-At and its sister, sysmeta, JSON listings
with overridden etags, and the authorisation callback. Tests set `fails` to make a path
answer a status, and `cuts` to make a body end early.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any

from swift.core import headers as h
from swift.core.conditions import Conditions
from swift.core.errors import PeerError
from swift.core.headers import Headers
from swift.core.listing import ListingQuery, objects_json, page
from swift.core.metadata_rules import without_swift_bytes
from swift.core.names import text_of_wsgi
from swift.core.ranges import resolve
from swift.core.timestamp import Timestamp
from swift.wire import environ as env
from swift.wire.environ import Environ, headers_of, path_parts
from swift.wire.infocache import ContainerInfo, InfoFetcher
from swift.wire.request import Request, Response

START = 1_700_000_000


@dataclass
class Stored:
    """One object."""

    body: bytes
    headers: Headers
    timestamp: Timestamp


@dataclass
class Kept:
    """One container."""

    headers: Headers
    objects: dict[str, Stored] = field(default_factory=dict)


class StoreApp:
    """Containers by WSGI path `/v1/a/c`."""

    def __init__(self) -> None:
        self.containers: dict[str, Kept] = {}
        self.fails: dict[str, int] = {}
        self.cuts: dict[str, int] = {}
        self.seen: list[Environ] = []
        self.now = START

    def lines(self) -> list[str]:
        """`METHOD path` of all requests seen."""
        return [f"{e['REQUEST_METHOD']} {e['PATH_INFO']}" for e in self.seen]

    def fetch(self, _environ: Any, name: Any) -> Any:
        """What infocache asks."""
        kept = self.containers.get(f"/v1{name.path}")
        if kept is None:
            return Response(404)
        return Response(204, kept.headers.copy())

    def __call__(self, environ: Environ, start_response: Any) -> Any:
        self.seen.append(environ)
        environ.setdefault(env.INFO_FETCHER, InfoFetcher(self.fetch))
        return self.answer(environ)(environ, start_response)

    def answer(self, environ: Environ) -> Response:
        parts = path_parts(environ)
        assert parts is not None, "tests ask for accounts only"
        path, method = environ[env.PATH_INFO], environ[env.REQUEST_METHOD]
        if "\x00" in path and env.HTTP_X_BACKEND_ALLOW_RESERVED_NAMES not in environ:
            return Response(412)
        denied = self.denial(environ, parts)
        if denied is not None:
            return denied
        failing = self.fails.get(f"{method} {path}")
        if failing:
            return Response(failing)
        headers = headers_of(environ)
        if not parts.container:
            return Response(200, {h.CONTENT_TYPE: "application/json"}, b"[]")
        place = parts.at(parts.container).path
        if not parts.obj:
            return self.on_container(environ, method, place, headers)
        kept = self.containers.get(place)
        if kept is None:
            return Response(404)
        return self.on_object(environ, method, kept, parts.obj, headers)

    def denial(self, environ: Environ, parts: Any) -> Response | None:
        authorize = environ.get(env.AUTHORIZE)
        if authorize is None:
            return None
        request = Request(environ)
        kept = self.containers.get(parts.at(parts.container).path)
        info = ContainerInfo.from_headers(200, kept.headers if kept else Headers())
        reads = environ[env.REQUEST_METHOD] in ("GET", "HEAD")
        request.acl = info.read_acl if reads else info.write_acl
        denied: Response | None = authorize(request)
        return denied

    def on_container(
        self, environ: Environ, method: str, place: str, headers: Headers
    ) -> Response:
        kept = self.containers.get(place)
        if method in ("PUT", "POST", "UPDATE"):
            status = 204 if method == "POST" else 202
            if kept is None:
                if method == "POST":
                    return Response(404)
                kept = self.containers[place] = Kept(Headers())
                status = 201
            for name, value in headers.items():
                if name.startswith((h.CONTAINER_SYSMETA, h.CONTAINER_META)) or (
                    name in (h.X_CONTAINER_READ, h.X_CONTAINER_WRITE)
                ):
                    kept.headers[name] = value
                    if not value:
                        del kept.headers[name]
            if method == "UPDATE":
                kept.headers["X-Rows"] = environ[env.WSGI_INPUT].read().decode()
            return Response(status, body=b"")
        if kept is None:
            return Response(404)
        if method == "DELETE":
            if kept.objects:
                return Response(409)
            del self.containers[place]
            return Response(204)
        answer = kept.headers.copy()
        answer[h.X_CONTAINER_OBJECT_COUNT] = str(len(kept.objects))
        size = sum(len(stored.body) for stored in kept.objects.values())
        answer[h.X_CONTAINER_BYTES_USED] = str(size)
        answer[h.CONTENT_TYPE] = "application/json; charset=utf-8"
        if method == "HEAD":
            return Response(204, answer, b"")
        query = ListingQuery.parse(environ.get(env.QUERY_STRING, ""), 10000)
        allowed = env.HTTP_X_BACKEND_ALLOW_RESERVED_NAMES in environ
        rows = [
            (
                text_of_wsgi(name),
                stored.timestamp.internal,
                len(stored.body),
                stored.headers.get(h.LISTED_TYPE, stored.headers[h.CONTENT_TYPE]),
                stored.headers.get(h.LISTED_ETAG, stored.headers[h.ETAG]),
            )
            for name, stored in kept.objects.items()
        ]
        rows.sort(key=lambda row: row[0].encode())

        def scan(span: Any, limit: int) -> Any:
            ordered = reversed(rows) if span.reverse else rows
            found = []
            for row in ordered:
                name = row[0]
                if span.lower is not None and (
                    name < span.lower
                    or (name == span.lower and not span.lower_included)
                ):
                    continue
                if span.upper is not None and (
                    name > span.upper
                    or (name == span.upper and not span.upper_included)
                ):
                    continue
                found.append(row)
            return found[:limit]

        body = objects_json(page(scan, query, allow_reserved=allowed))
        return Response(200, answer, body)

    def on_object(
        self, environ: Environ, method: str, kept: Kept, name: str, headers: Headers
    ) -> Response:
        stored = kept.objects.get(name)
        if method == "PUT":
            return self.put(environ, kept, name, headers)
        if stored is None:
            return Response(404)
        if method == "DELETE":
            del kept.objects[name]
            return Response(204)
        if method == "POST":
            stays = {
                key: value
                for key, value in stored.headers.items()
                if not key.startswith(h.OBJECT_META) and key != h.X_OBJECT_MANIFEST
            }
            stored.headers = Headers(stays)
            stored.headers.update(
                (key, value)
                for key, value in headers.items()
                if key.startswith(h.OBJECT_META) or key == h.X_OBJECT_MANIFEST
            )
            answer = Response(202)
            for key, value in stored.headers.beginning(h.OBJECT_SYSMETA):
                answer.headers[key] = value
            return answer
        return self.read(environ, method, stored, headers)

    def put(
        self, environ: Environ, kept: Kept, name: str, headers: Headers
    ) -> Response:
        body = environ[env.WSGI_INPUT].read()
        etag = md5(body).hexdigest()
        if h.ETAG in headers and headers[h.ETAG].strip('"') != etag:
            return Response(422)
        self.now += 1
        own = Headers(
            (key, value)
            for key, value in headers.items()
            if key.startswith(("X-Object-", "X-Static")) or key == h.X_DELETE_AT
        )
        own[h.CONTENT_TYPE] = headers.get(h.CONTENT_TYPE) or "application/octet-stream"
        own[h.ETAG] = etag
        stamp = headers.timestamp(h.X_TIMESTAMP) or Timestamp.at(self.now)
        kept.objects[name] = Stored(body, own, stamp)
        facts = {h.ETAG: etag, h.LAST_MODIFIED: stamp.http_date}
        return Response(201, facts, b"")

    def read(
        self, environ: Environ, method: str, stored: Stored, headers: Headers
    ) -> Response:
        answer = stored.headers.copy()
        answer[h.CONTENT_TYPE] = without_swift_bytes(answer[h.CONTENT_TYPE])
        answer[h.LAST_MODIFIED] = stored.timestamp.http_date
        answer[h.X_TIMESTAMP] = stored.timestamp.normal
        answer[h.X_BACKEND_TIMESTAMP] = stored.timestamp.internal
        answer[h.X_BACKEND_DATA_TIMESTAMP] = stored.timestamp.internal
        answer[h.ACCEPT_RANGES] = "bytes"
        etag = stored.headers[h.ETAG]
        for at in headers.get(h.X_BACKEND_ETAG_IS_AT, "").split(","):
            if at in stored.headers:
                etag = stored.headers[at]
                break
        conditions = Conditions.of(headers)
        if conditions is not None:
            status = conditions.verdict(etag, stored.timestamp.ceil)
            if status is not None:
                return Response(status, answer, b"")
        body, status = stored.body, 200
        ignored = headers.get(h.X_BACKEND_IGNORE_RANGE_IF_METADATA_PRESENT, "")
        if method == "GET" and not any(
            key in stored.headers for key in ignored.split(",")
        ):
            spans = resolve(headers.get(h.RANGE), len(body))
            if spans is not None and not spans:
                return Response(416, {h.CONTENT_RANGE: f"bytes */{len(body)}"})
            if spans:
                answer[h.CONTENT_RANGE] = spans[0].content_range(len(body))
                body, status = body[spans[0].start : spans[0].stop], 206
        answer[h.CONTENT_LENGTH] = str(len(body))
        if method == "HEAD":
            return Response(200, answer, b"")
        cut = self.cuts.get(environ[env.PATH_INFO])
        if cut is not None:
            return Response(status, answer, app_iter=_broken(body[:cut]))
        return Response(status, answer, app_iter=iter([body]))


def _broken(body: bytes) -> Any:
    yield body
    raise PeerError("node", "broke off")


def listing_of(response: Response) -> list[dict[str, Any]]:
    """The rows of a JSON listing."""
    rows: list[dict[str, Any]] = json.loads(response.body)
    return rows
