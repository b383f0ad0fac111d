# SPDX-License-Identifier: Apache-2.0
"""Listings in the form the client asks for; below this filter they are JSON.

The form is chosen before anything else is done, so that a bad Accept is refused even to
callers who may not list. A client that asks for JSON gets the backend's bytes as they
are. Rendering: `core/listing.py`. Contract: middleware 19, api 6.1.
"""

from __future__ import annotations

from collections.abc import Iterable

from swift.core.errors import FormatError, InvalidInput
from swift.core.headers import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    VARY,
    X_ACCOUNT_CONTAINER_COUNT,
    X_CONTAINER_OBJECT_COUNT,
    true,
)
from swift.core.listing import (
    JSON,
    PLAIN,
    NotAcceptable,
    containers_xml,
    listing_format,
    objects_xml,
    parse_json,
    records_json,
    records_plain,
)
from swift.core.names import RESERVED, AccountName, ContainerName, text_of_wsgi
from swift.wire.environ import (
    HTTP_X_BACKEND_ALLOW_RESERVED_NAMES,
    PATH_INFO,
    QUERY_STRING,
    REQUEST_METHOD,
    Environ,
)
from swift.wire.filter import Filter, NoOptions, PipelineContext, factory
from swift.wire.request import Response, StartResponse, WsgiApp, call, parse_query

HTTP_ACCEPT = "HTTP_ACCEPT"

JSON_BYTES_MAX = 20_480_000
"""A listing of ten thousand rows of the longest names is less; more is no listing."""

_RESERVED_IN_JSON = b"\\u0000"


class ListingFormats(Filter):
    """The filter."""

    def __init__(
        self, app: WsgiApp, config: NoOptions, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._versions = frozenset(context.cluster.limits.valid_api_versions)

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        if environ[REQUEST_METHOD] not in ("GET", "HEAD"):
            return self.app(environ, start_response)
        parts = environ[PATH_INFO].split("/", 4)
        if len(parts) == 5 and (parts[4] or not parts[3]):
            return self.app(environ, start_response)
        if len(parts) < 3 or parts[1] not in self._versions or not parts[2]:
            return self.app(environ, start_response)
        return self._listing(environ, parts)(environ, start_response)

    def _listing(self, environ: Environ, parts: list[str]) -> Response:
        """The answer to a GET or HEAD of an account or container. Yields."""
        query = environ.get(QUERY_STRING, "")
        asked: str | None = None
        if "format" in query or "%" in query:
            raw = parse_query(query).get("format")
            # Bytes that are no UTF-8 are no name of a format either.
            asked = None if raw is None else raw.decode("utf-8", "replace")
        try:
            media_type = listing_format(asked, environ.get(HTTP_ACCEPT))
        except NotAcceptable:
            return Response.error(406)
        except InvalidInput:
            return Response.error(400, "The Accept header cannot be understood.")
        if media_type != JSON and "versions" in query and self._has_versions(query):
            return Response.error(406, "Versions are listed in JSON only.")
        environ[QUERY_STRING] = _asking_json(query)
        try:
            response = call(self.app, environ)
        finally:
            # Whoever logs the request shall see what the client asked.
            environ[QUERY_STRING] = query
        if response.status not in (200, 204) or not _is_listing(response):
            return response
        headers = response.headers
        if environ[REQUEST_METHOD] == "HEAD":
            _describe(response, media_type, varies=asked is None)
            return response
        length = response.content_length
        if (
            not response.content_type.startswith(JSON)
            or length is None
            or length > JSON_BYTES_MAX
        ):
            return response
        body = response.body
        allows_reserved = true(environ.get(HTTP_X_BACKEND_ALLOW_RESERVED_NAMES))
        hides = not allows_reserved and _RESERVED_IN_JSON in body
        if media_type != JSON or hides:
            try:
                body = self._rendered(body, media_type, parts, hides=hides)
            except FormatError as error:
                self.log.error("listing of %s: %s", environ[PATH_INFO], error)
                response.close()
                return Response.error(500)
        rendered = Response(
            200 if body or media_type != PLAIN else 204, headers, body or b""
        )
        _describe(rendered, media_type, varies=asked is None)
        headers[CONTENT_LENGTH] = str(len(body))
        return rendered

    def _has_versions(self, query: str) -> bool:
        """True when a listing of versions is asked of a pipeline that knows them."""
        known = "object_versioning" in self.context.info.features
        return known and "versions" in parse_query(query)

    def _rendered(
        self, body: bytes, media_type: str, parts: list[str], *, hides: bool
    ) -> bytes:
        """A JSON listing in another form, or without reserved names."""
        records = parse_json(body or b"[]")
        name = _listed(parts)
        if hides:
            shown = [
                record
                for record in records
                if RESERVED not in (record.get("name") or record["subdir"])
            ]
            if len(shown) < len(records):
                self.log.warning(
                    "listing of %s: %d reserved names held back",
                    name.path,
                    len(records) - len(shown),
                )
            records = shown
        if media_type == JSON:
            return records_json(records)
        if media_type == PLAIN:
            return records_plain(records)
        if isinstance(name, ContainerName):
            return objects_xml(name.container, records)
        return containers_xml(name.account, records)


def _listed(parts: list[str]) -> AccountName | ContainerName:
    account = text_of_wsgi(parts[2])
    if len(parts) > 3 and parts[3]:
        return ContainerName(account, text_of_wsgi(parts[3]))
    return AccountName(account)


def _is_listing(response: Response) -> bool:
    """False for what a filter sends in a listing's place, as staticweb does a page."""
    headers = response.headers
    return X_CONTAINER_OBJECT_COUNT in headers or X_ACCOUNT_CONTAINER_COUNT in headers


def _asking_json(query: str) -> str:
    """The query with `format=json` in place of what the client wrote."""
    if not query:
        return "format=json"
    kept = [
        item
        for item in query.split("&")
        if item and (item.partition("=")[0] != "format")
    ]
    # The last of equal names counts, so that a quoted spelling of the name loses too.
    kept.append("format=json")
    return "&".join(kept)


def _describe(response: Response, media_type: str, *, varies: bool) -> None:
    """Set Content-Type, and Vary when the Accept header decided."""
    headers = response.headers
    headers[CONTENT_TYPE] = f"{media_type}; charset=utf-8"
    if varies:
        listed = headers.get(VARY)
        headers[VARY] = f"{listed}, Accept" if listed else "Accept"


filter_factory = factory(ListingFormats)
