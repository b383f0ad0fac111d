# SPDX-License-Identifier: Apache-2.0
"""One listing out of many shards.

A container that is sharded or being sharded answers a listing with the namespaces that
hold its rows; each of them is asked in order for what is still wanted, and the pieces
are joined. One shard that does not answer spoils the whole (503), for a listing with a
hole looks like objects lost. Contract: backend-http 6.1.

The namespaces of a container that is wholly sharded are remembered; its root is asked
for its headers only then. While it is being sharded they change too often, and the
rows of the part that is still in the root move away from there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from swift.core import headers as h
from swift.core.errors import FormatError
from swift.core.headers import Headers
from swift.core.listing import ListingQuery, parse_json, query_params
from swift.core.names import ContainerName
from swift.core.shards import Namespace
from swift.services.proxy.databases import Read, read_database
from swift.services.proxy.exchange import Exchange, PairList, quoted
from swift.services.proxy.shard_cache import ShardCache
from swift.wire import environ as env
from swift.wire.infocache import cached_container_info

_DEPTH_MAX = 4
"""Shards of shards; deeper is a loop."""

_AUTO = "auto"
_OBJECT = "object"
_SHARD = "shard"
_SHARDED = "sharded"
_OWN_PARAMS = ("limit", "marker", "end_marker", "format", "states")


def list_container(exchange: Exchange, name: ContainerName) -> Read:
    """GET of a container: its rows as JSON, wherever they are. Yields."""
    extra = exchange.passed(h.BACKEND)
    query = exchange.environ.get(env.QUERY_STRING, "")
    if h.X_BACKEND_RECORD_TYPE in exchange.headers:
        # One of the cluster's own parts knows what it wants.
        return _get(exchange, name, query, extra)
    params = query_params(query)
    limit_max = exchange.proxy.cluster.limits.container_listing_limit
    wanted = ListingQuery.from_params(params, limit_max)
    shards = ShardCache.for_listing(exchange)
    info = cached_container_info(exchange.environ, name) if shards.remembers else None
    # Between markers the root names some of the shards only.
    is_whole = not (wanted.marker or wanted.end_marker)
    if info is not None and info.sharding_state == _SHARDED:
        known = shards.get(name, will_keep=is_whole)
        if known is not None:
            read = _remembered(exchange, name, query, extra, known, wanted, params)
            if read is not None:
                return read
            shards.forget(name)
    found = _get(exchange, name, _with_states(query), extra + _shard_headers(_AUTO))
    if found.status // 100 != 2 or not _holds_shards(found):
        shards.keep(name, found.status, ())
        return found
    namespaces = read_namespaces(found.body)
    if namespaces is None:
        exchange.proxy.log.error("bad shard ranges of %s", name.path)
        return Read(503)
    shards.keep(
        name, found.status, namespaces if is_whole and _is_sharded(found) else ()
    )
    rows = _rows_of_shards(exchange, name, found, namespaces, wanted, params, 0)
    return Read(503) if rows is None else _joined(found.headers, rows, wanted)


def _remembered(
    exchange: Exchange,
    name: ContainerName,
    query: str,
    extra: PairList,
    known: Sequence[Namespace],
    wanted: ListingQuery,
    params: dict[str, str],
) -> Read | None:
    """The listing by the namespaces remembered; None when they do not serve. Yields."""
    found = _get(exchange, name, _with_states(query), extra, method="HEAD")
    if found.status // 100 != 2 or not _is_sharded(found):
        return None
    namespaces = [item for item in known if _overlaps(item, wanted)]
    rows = _rows_of_shards(exchange, name, found, namespaces, wanted, params, 0)
    return None if rows is None else _joined(found.headers, rows, wanted)


def _is_sharded(found: Read) -> bool:
    return str(found.headers.get(h.X_BACKEND_SHARDING_STATE, "")) == _SHARDED


def _overlaps(namespace: Namespace, wanted: ListingQuery) -> bool:
    """True when names between the markers may lie in the namespace."""
    first, last = wanted.marker, wanted.end_marker
    if wanted.reverse:
        first, last = last, first
    return (not last or namespace.lower < last) and (
        not namespace.upper or namespace.upper > first
    )


def _joined(
    headers: Headers, rows: Sequence[dict[str, Any]], wanted: ListingQuery
) -> Read:
    """The answer that the root would give if it had the rows itself."""
    headers[h.X_BACKEND_RECORD_TYPE] = _OBJECT
    headers.pop(h.X_BACKEND_RECORD_SHARD_FORMAT, None)
    if len(rows) < wanted.limit and wanted == ListingQuery(limit=wanted.limit):
        headers[h.X_CONTAINER_OBJECT_COUNT] = str(len(rows))
        used = sum(int(row.get("bytes", 0)) for row in rows)
        headers[h.X_CONTAINER_BYTES_USED] = str(used)
    return Read(200, headers, json.dumps(rows).encode("ascii"))


def _get(
    exchange: Exchange,
    name: ContainerName,
    query: str,
    extra: PairList,
    method: str = "GET",
) -> Read:
    ring = exchange.proxy.cluster.container_ring()
    return read_database(exchange, ring, name, method=method, query=query, extra=extra)


def _shard_headers(record_type: str) -> PairList:
    return [
        (h.X_BACKEND_RECORD_TYPE, record_type),
        (h.X_BACKEND_RECORD_SHARD_FORMAT, "namespace"),
        (h.X_BACKEND_INCLUDE_DELETED, "false"),
    ]


def _with_states(query: str) -> str:
    return f"{query}&states=listing" if query else "states=listing"


def _holds_shards(found: Read) -> bool:
    return str(found.headers.get(h.X_BACKEND_RECORD_TYPE, "")).lower() == _SHARD


def _rows_of_shards(
    exchange: Exchange,
    name: ContainerName,
    found: Read,
    namespaces: Sequence[Namespace],
    wanted: ListingQuery,
    params: dict[str, str],
    depth: int,
) -> list[dict[str, Any]] | None:
    """The rows in some namespaces; None when one fails. Yields.

    found: what the root of the namespaces said, whose policy they must have.
    """
    if depth >= _DEPTH_MAX:
        exchange.proxy.log.error("shards of %s are nested too deeply", name.path)
        return None
    if wanted.reverse:
        namespaces = namespaces[::-1]
    policy = found.headers.get(h.X_BACKEND_STORAGE_POLICY_INDEX, "0")
    rows: list[dict[str, Any]] = []
    for namespace in namespaces:
        left = wanted.limit - len(rows)
        if left <= 0:
            break
        piece = replace(
            wanted,
            limit=left,
            marker=_last_name(rows) or wanted.marker,
            end_marker=_end_within(namespace, wanted),
        )
        more = _rows_of_shard(exchange, name, namespace, policy, piece, params, depth)
        if more is None:
            return None
        rows += more
    return rows


def read_namespaces(body: bytes) -> list[Namespace] | None:
    """The namespaces of a listing in their order of names; None when it is bad."""
    try:
        found = [
            Namespace(item["name"], item["lower"], item["upper"])
            for item in json.loads(body)
        ]
    except (ValueError, KeyError, TypeError):
        return None
    # The last one has no upper bound, and sorts behind those that have.
    return sorted(found, key=lambda item: (item.upper == "", item.upper))


def _last_name(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    last = rows[-1]
    name: str = last.get("name") or last.get("subdir") or ""
    return name


def _end_within(namespace: Namespace, wanted: ListingQuery) -> str:
    """Where the listing of one namespace ends: the client's end if that comes first."""
    if wanted.reverse:
        if wanted.end_marker and wanted.end_marker in namespace:
            return wanted.end_marker
        return namespace.lower
    if wanted.end_marker and wanted.end_marker in namespace:
        return wanted.end_marker
    return f"{namespace.upper}\x00" if namespace.upper else wanted.end_marker


def _rows_of_shard(
    exchange: Exchange,
    root: ContainerName,
    namespace: Namespace,
    policy: str,
    piece: ListingQuery,
    params: dict[str, str],
    depth: int,
) -> list[dict[str, Any]] | None:
    name = ContainerName(namespace.account, namespace.container)
    is_own = name == root
    extra = exchange.passed(h.BACKEND)
    extra += _shard_headers(_OBJECT if is_own else _AUTO)
    extra.append((h.X_BACKEND_STORAGE_POLICY_INDEX, policy))
    query = (
        f"format=json&limit={piece.limit}&marker={quoted(piece.marker)}"
        f"&end_marker={quoted(piece.end_marker)}&states=listing"
    )
    query += "".join(
        f"&{quoted(key)}={quoted(value)}"
        for key, value in params.items()
        if key not in _OWN_PARAMS
    )
    found = _get(exchange, name, query, extra)
    log = exchange.proxy.log
    if found.status // 100 != 2:
        log.error("listing of shard %s failed: %s", name.path, found.status)
        return None
    if _holds_shards(found):
        inner = read_namespaces(found.body)
        if inner is None:
            log.error("bad shard ranges of %s", name.path)
            return None
        return _rows_of_shards(exchange, name, found, inner, piece, params, depth + 1)
    if found.headers.get(h.X_BACKEND_RECORD_STORAGE_POLICY_INDEX, policy) != policy:
        log.error("shard %s is of another policy than its root", name.path)
        return None
    try:
        return parse_json(found.body) if found.body else []
    except FormatError as error:
        log.error("listing of shard %s: %s", name.path, error)
        return None
