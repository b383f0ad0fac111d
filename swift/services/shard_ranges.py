# SPDX-License-Identifier: Apache-2.0
"""The container server's answers about shard ranges: listings and redirects.

Contract backend-http 6 and 6.1. Which ranges a query means is decided in core/shards.
"""

from __future__ import annotations

import json
from typing import Any

from swift.core import listing
from swift.core.errors import FormatError, InvalidInput
from swift.core.headers import (
    CONTENT_TYPE,
    LOCATION,
    X_BACKEND_INCLUDE_DELETED,
    X_BACKEND_LOCATION_IS_QUOTED,
    X_BACKEND_OVERRIDE_SHARD_NAME_FILTER,
    X_BACKEND_RECORD_SHARD_FORMAT,
    X_BACKEND_RECORD_TYPE,
    X_BACKEND_REDIRECT_TIMESTAMP,
    Headers,
)
from swift.core.names import quote, wsgi_of_text
from swift.core.shards import ShardQuery, ShardRange
from swift.services.node import NodeCall
from swift.services.node_db import ListingRequest
from swift.storage.db.container import ContainerBroker, ContainerStat
from swift.wire.request import Response

FULL = "full"
NAMESPACE = "namespace"


def listing_of(
    broker: ContainerBroker,
    stat: ContainerStat,
    call: NodeCall,
    wanted: ListingRequest,
    headers: Headers,
) -> Response:
    """The shard ranges that a GET asks for, in JSON. Blocks.

    headers: of the answer so far.
    """
    shape = call.headers.get(X_BACKEND_RECORD_SHARD_FORMAT, FULL).lower()
    if shape not in (FULL, NAMESPACE):
        shape = FULL
    include_deleted = call.headers.true(X_BACKEND_INCLUDE_DELETED)
    override = call.headers.get(X_BACKEND_OVERRIDE_SHARD_NAME_FILTER, "").lower()
    unfiltered = override == "sharded" and stat.db_state == "sharded"
    try:
        query = ShardQuery.from_params(
            wanted.params, include_deleted=include_deleted, unfiltered=unfiltered
        )
    except InvalidInput as error:
        return Response(400, body=str(error))
    if shape == NAMESPACE:
        if include_deleted:
            return Response(400, body="No include_deleted for namespace GET")
        if query.include_own:
            return Response(400, body="No auditing state for namespace GET")
    if unfiltered:
        headers[X_BACKEND_OVERRIDE_SHARD_NAME_FILTER] = "true"
    headers[X_BACKEND_RECORD_TYPE] = "shard"
    headers[X_BACKEND_RECORD_SHARD_FORMAT] = shape
    headers[CONTENT_TYPE] = f"{listing.JSON}; charset=utf-8"
    ranges = broker.list_shard_ranges(query)
    records: list[dict[str, Any]] = [
        found.as_namespace() if shape == NAMESPACE else found.as_listing()
        for found in ranges
    ]
    return Response(200, headers, json.dumps(records))


def parse_ranges(body: bytes) -> list[ShardRange]:
    """The ranges of a JSON list; raises FormatError."""
    try:
        records = json.loads(body)
    except ValueError as error:
        raise FormatError("shard ranges", "are no JSON") from error
    if not isinstance(records, list):
        raise FormatError("shard ranges", "are no list")
    return [ShardRange.from_record(record) for record in records]


def redirect_to(target: ShardRange, obj: str, *, quoted: bool) -> Response | None:
    """The answer that sends an update of `obj` to the shard that holds its name.

    None when the location changes by quoting and the client does not take it quoted.
    """
    location = f"/{target.name}/{obj}"
    quoted_location = quote(location)
    if quoted_location != location and not quoted:
        return None
    headers = Headers.titled(
        [
            (LOCATION, quoted_location if quoted else wsgi_of_text(location)),
            (X_BACKEND_REDIRECT_TIMESTAMP, target.timestamp),
        ]
    )
    if quoted:
        headers[X_BACKEND_LOCATION_IS_QUOTED] = "true"
    return Response(301, headers)
