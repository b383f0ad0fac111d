# SPDX-License-Identifier: Apache-2.0
"""The listing of all versions of a container's objects, and sizes in account listings.

Serves versioned_writes. Two listings are merged: that of the container, where what is
current stands, and that of the hidden one. Contract: middleware 31.
"""

from __future__ import annotations

from urllib.parse import urlencode

from swift.core import headers as h
from swift.core.errors import FormatError, InvalidInput
from swift.core.listing import ListingQuery, parse_json, records_json
from swift.core.names import RESERVED, text_of_wsgi, wsgi_of_text
from swift.core.timestamp import Timestamp
from swift.middleware.object_versioning import (
    NULL,
    SOURCE_CODE,
    Version,
    versions_container,
)
from swift.middleware.version_copies import MARKER_TYPE, own_environ
from swift.wire import environ as env
from swift.wire.environ import Environ, PathParts
from swift.wire.request import Response, WsgiApp, call, parse_query

Row = dict[str, object]

_BEHIND_VERSIONS = ":"
"""Sorts behind the digits that a stored version's name ends with."""

_NOT_IN_DELIMITER = frozenset(f"0123456789.{RESERVED}")


class BadQuery(InvalidInput):
    """Parameters that do not go with a listing of versions."""


def list_versions(
    app: WsgiApp, environ: Environ, place: PathParts, limit_max: int
) -> Response:
    """GET of a container with `versions`. Yields.

    The container's own listing is asked for in the client's name, and decides whether
    it may list.
    """
    try:
        query = ListingQuery.parse(environ.get(env.QUERY_STRING, ""), limit_max)
        version_marker = _version_marker(environ, query)
    except InvalidInput as error:
        return Response.text(400, str(error))
    own = dict(environ)
    own[env.QUERY_STRING] = _encoded(_asked(query))
    answer = call(app, own)
    if answer.status != 200:
        return answer
    try:
        currents = parse_json(answer.body or b"[]")
        if version_marker is not None:
            currents += _row_at(app, environ, place, query.marker)
        hidden = _hidden_rows(app, environ, place, query, version_marker)
    except FormatError:
        return Response(500)
    if isinstance(hidden, Response):
        return hidden
    rows = _merged(currents, hidden, query, version_marker)
    answer.body = records_json(rows[: query.limit])
    return answer


def _version_marker(environ: Environ, query: ListingQuery) -> str | None:
    params = parse_query(environ.get(env.QUERY_STRING, ""))
    if query.delimiter and not _NOT_IN_DELIMITER.isdisjoint(query.delimiter):
        raise BadQuery("invalid delimiter for versions")
    raw = params.get("version_marker")
    if raw is None:
        return None
    if not query.marker:
        raise BadQuery("version_marker param requires marker")
    text = raw.decode("utf-8", "replace")
    if text != NULL:
        try:
            Timestamp.parse(text)
        except InvalidInput as error:
            raise BadQuery("invalid version_marker param") from error
    return text


def _asked(query: ListingQuery, **changed: str) -> dict[str, str]:
    """The parameters of a sub-listing, as text."""
    params = {
        "format": "json",
        "limit": str(query.limit),
        "marker": query.marker,
        "end_marker": query.end_marker,
        "prefix": query.prefix,
        "delimiter": query.delimiter,
    }
    if query.reverse:
        params["reverse"] = "true"
    params.update(changed)
    return {name: value for name, value in params.items() if value}


def _encoded(params: dict[str, str]) -> str:
    return urlencode(params, encoding="utf-8", errors="surrogateescape")


def _row_at(app: WsgiApp, environ: Environ, place: PathParts, name: str) -> list[Row]:
    """The row of one name in the container, if there is one. Yields."""
    own = dict(environ)
    params = {"format": "json", "limit": "1", "prefix": name}
    own[env.QUERY_STRING] = _encoded(params)
    answer = call(app, own)
    rows = parse_json(answer.body or b"[]") if answer.status == 200 else []
    return [row for row in rows if row.get("name") == name]


def _hidden_rows(
    app: WsgiApp,
    environ: Environ,
    place: PathParts,
    query: ListingQuery,
    version_marker: str | None,
) -> list[Row] | Response:
    """The rows of the hidden container in the wanted span. Yields."""
    changed = {"prefix": RESERVED + query.prefix}
    if query.marker:
        changed["marker"] = _hidden_marker(query, version_marker)
    if query.end_marker:
        changed["end_marker"] = f"{RESERVED}{query.end_marker}" + (
            RESERVED + _BEHIND_VERSIONS if query.reverse else ""
        )
    hidden = place.at(versions_container(place.container))
    sub = own_environ(
        environ, "GET", hidden, SOURCE_CODE, query=_encoded(_asked(query, **changed))
    )
    answer = call(app, sub)
    if answer.status == 404:
        answer.close()
        return []
    if not answer.is_success:
        answer.close()
        return Response(503 if answer.status >= 500 else 500)
    return list(parse_json(answer.body or b"[]"))


def _hidden_marker(query: ListingQuery, version_marker: str | None) -> str:
    """What the hidden listing begins behind."""
    name = f"{RESERVED}{query.marker}{RESERVED}"
    if version_marker is None:
        # All versions of the marker's name have been listed.
        return name if query.reverse else name + _BEHIND_VERSIONS
    if version_marker == NULL:
        # Where that one stands among the others, its time alone says.
        return name + _BEHIND_VERSIONS if query.reverse else name
    return name + Timestamp.parse(version_marker).inverted().internal


def _merged(
    currents: list[Row],
    hidden: list[Row],
    query: ListingQuery,
    version_marker: str | None,
) -> list[Row]:
    """Rows of both listings as one, by name, the newest of a name first."""
    latest: dict[str, str] = {}
    found: list[tuple[str, int, Row]] = []
    newest: dict[str, tuple[Timestamp, Row]] = {}
    subdirs: dict[str, Row] = {}
    for row in currents:
        if "subdir" in row:
            subdirs[str(row["subdir"])] = row
            continue
        name = str(row["name"])
        linked = _linked(row)
        if linked is not None:
            latest[name] = linked.version_id
            continue
        latest[name] = NULL
        stamp = Timestamp.from_iso(str(row["last_modified"]))
        own = {**row, "version_id": NULL, "is_latest": True}
        found.append((name, -stamp.raw, own))
    for row in hidden:
        if "subdir" in row:
            subdir = str(row["subdir"]).removeprefix(RESERVED)
            subdirs[subdir] = {"subdir": subdir}
            continue
        version = _stored(str(row["name"]))
        if version is None:
            continue
        name = text_of_wsgi(version.obj)
        own = {**row, "name": name, "version_id": version.version_id}
        own["is_latest"] = latest.get(name) == version.version_id
        found.append((name, -version.timestamp.raw, own))
        known = newest.get(name)
        if known is None or known[0] < version.timestamp:
            newest[name] = (version.timestamp, own)
    for name, (_timestamp, row) in newest.items():
        is_newest = version_marker is None or name != query.marker
        if is_newest and name not in latest and _is_marker(row):
            # What a reader finds: nothing.
            row["is_latest"] = True
    rows = [(name.encode("utf-8", "replace"), stamp, row) for name, stamp, row in found]
    rows += [(name.encode("utf-8", "replace"), 0, row) for name, row in subdirs.items()]
    rows.sort(key=lambda item: item[:2], reverse=query.reverse)
    if version_marker is not None:
        rows = _behind(rows, query, version_marker)
    return [row for _name, _stamp, row in rows]


def _behind(
    rows: list[tuple[bytes, int, Row]], query: ListingQuery, version_marker: str
) -> list[tuple[bytes, int, Row]]:
    """The rows that follow the one that the markers name."""
    name = query.marker.encode("utf-8", "replace")
    if version_marker == NULL:
        at = [
            stamp for n, stamp, row in rows if n == name and row["version_id"] == NULL
        ]
        if not at:
            return [row for row in rows if row[0] != name]
        marker = (name, at[0])
    else:
        marker = (name, -Timestamp.parse(version_marker).raw)
    if query.reverse:
        return [row for row in rows if row[:2] < marker]
    return [row for row in rows if row[:2] > marker]


def _is_marker(row: Row) -> bool:
    return str(row.get("content_type", "")).replace(" ", "") == MARKER_TYPE


def _linked(row: Row) -> Version | None:
    """The version that a row's link leads to."""
    path = row.get("symlink_path")
    if not isinstance(path, str):
        return None
    parts = path.split("/", 3)
    return Version.linked(parts[3]) if len(parts) == 4 else None


def _stored(name: str) -> Version | None:
    """The version that a name in the hidden container means."""
    return Version.stored(versions_container("-"), wsgi_of_text(name))


# --- Accounts -------------------------------------------------------------------------


def add_versions_to_account(
    app: WsgiApp, environ: Environ, place: PathParts, answer: Response, limit_max: int
) -> Response:
    """An account's listing whose containers count the bytes of their versions. Yields.

    A hidden container whose own has gone is listed under its name, without objects.
    """
    try:
        query = ListingQuery.parse(environ.get(env.QUERY_STRING, ""), limit_max)
        records = parse_json(answer.body or b"[]")
        prefix = versions_container("")
        changed = {"prefix": prefix + query.prefix, "limit": str(limit_max)}
        if query.marker:
            changed["marker"] = prefix + query.marker
        if query.end_marker:
            changed["end_marker"] = prefix + query.end_marker
        sub = own_environ(
            environ, "GET", place, SOURCE_CODE,
            query=_encoded(_asked(query, **changed)),
        )  # fmt: skip
        found = call(app, sub)
        hidden = parse_json(found.body or b"[]") if found.status == 200 else []
    except (InvalidInput, FormatError):
        return answer
    if not hidden:
        return answer
    by_name = {str(row.get("name", row.get("subdir"))): row for row in records}
    for row in hidden:
        name = str(row.get("name", row.get("subdir"))).removeprefix(prefix)
        if "subdir" in row:
            by_name.setdefault(name, {"subdir": name})
            continue
        own = by_name.setdefault(name, {**row, "name": name, "count": 0, "bytes": 0})
        own["bytes"] = int(str(own.get("bytes", 0))) + int(str(row.get("bytes", 0)))
    ordered = sorted(
        by_name.items(),
        key=lambda item: item[0].encode("utf-8", "replace"),
        reverse=query.reverse,
    )
    answer.body = records_json([row for _name, row in ordered][: query.limit])
    answer.headers.pop(h.CONTENT_LENGTH, None)
    return answer


def bytes_in(app: WsgiApp, environ: Environ, place: PathParts) -> tuple[int, int]:
    """Objects and bytes of the hidden container of a container. Yields."""
    hidden = place.at(versions_container(place.container))
    answer = call(app, own_environ(environ, "HEAD", hidden, SOURCE_CODE))
    answer.close()
    if not answer.is_success:
        return 0, 0
    count = answer.headers.get(h.X_CONTAINER_OBJECT_COUNT, "0")
    size = answer.headers.get(h.X_CONTAINER_BYTES_USED, "0")
    return int(count), int(size)
