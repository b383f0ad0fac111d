# SPDX-License-Identifier: Apache-2.0
"""GET and HEAD of a container on one node: its facts, and listings of its objects.

A container that is sharding, or is asked for them, lists its shard ranges instead, as
shard_ranges does it. Each answer is one call to a disk thread. Contract backend-http 6.
"""

from __future__ import annotations

from swift.core import listing
from swift.core.errors import DatabaseMissing
from swift.core.headers import (
    CONTENT_TYPE,
    LAST_MODIFIED,
    X_BACKEND_ALLOW_RESERVED_NAMES,
    X_BACKEND_DELETE_TIMESTAMP,
    X_BACKEND_OVERRIDE_DELETED,
    X_BACKEND_PUT_TIMESTAMP,
    X_BACKEND_RECORD_STORAGE_POLICY_INDEX,
    X_BACKEND_RECORD_TYPE,
    X_BACKEND_SHARDING_STATE,
    X_BACKEND_STATUS_CHANGED_AT,
    X_BACKEND_STORAGE_POLICY_INDEX,
    X_BACKEND_TIMESTAMP,
    X_CONTAINER_BYTES_USED,
    X_CONTAINER_OBJECT_COUNT,
    X_PUT_TIMESTAMP,
    X_TIMESTAMP,
    Headers,
)
from swift.core.names import ContainerName, ObjectName
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.services import shard_ranges
from swift.services.node import NodeCall, policy_index_of
from swift.services.node_db import DatabaseRoom, ListingRequest, put_metadata
from swift.storage.db.container import ContainerBroker, ContainerStat
from swift.wire.request import Response


class ContainerGet:
    """Answers GETs and HEADs for one container server."""

    def __init__(self, room: DatabaseRoom, cluster: Cluster) -> None:
        self._room = room
        self._cluster = cluster

    def get(self, call: NodeCall) -> Response:
        """A listing of objects or of shard ranges. Yields."""
        answer: Response = green.in_thread(self._get, call)
        return answer

    def head(self, call: NodeCall) -> Response:
        """The facts of a container. Yields."""
        answer: Response = green.in_thread(self._head, call)
        return answer

    def _head(self, call: NodeCall) -> Response:
        wanted = ListingRequest.of(call, 0, head=True)
        if isinstance(wanted, Response):
            return wanted
        broker = broker_of(self._room, call, _container_of(call))
        stat = stat_of(broker, stale_ok=True)
        if stat is None:
            return Response(404)
        headers = _times(stat)
        if stat.is_deleted:
            return Response(404, headers)
        _put_facts(headers, stat)
        headers[CONTENT_TYPE] = f"{wanted.format}; charset=utf-8"
        return Response(204, headers)

    def _get(self, call: NodeCall) -> Response:
        name = _container_of(call)
        limit_max = self._cluster.limits.container_listing_limit
        wanted = ListingRequest.of(call, limit_max)
        if isinstance(wanted, Response):
            return wanted
        record_type = call.headers.get(X_BACKEND_RECORD_TYPE, "object").lower()
        broker = broker_of(self._room, call, name)
        stat = stat_of(broker, stale_ok=True)
        if stat is None:
            return Response(404)
        headers = _times(stat)
        if stat.is_deleted and not call.headers.true(X_BACKEND_OVERRIDE_DELETED):
            return Response(404, headers)
        _put_facts(headers, stat)
        if record_type == "shard" or (
            record_type == "auto" and stat.db_state in ("sharding", "sharded")
        ):
            return shard_ranges.listing_of(broker, stat, call, wanted, headers)
        headers[X_BACKEND_RECORD_TYPE] = "object"
        policy_index = policy_index_of(call.headers, self._cluster)
        if policy_index is None:
            policy_index = stat.storage_policy_index
        headers[X_BACKEND_RECORD_STORAGE_POLICY_INDEX] = policy_index
        entries = broker.list_objects(
            wanted.query,
            policy_index,
            allow_reserved=call.headers.true(X_BACKEND_ALLOW_RESERVED_NAMES),
        )
        headers[CONTENT_TYPE] = f"{wanted.format}; charset=utf-8"
        if wanted.format == listing.PLAIN:
            body = listing.plain(entries)
        elif wanted.format == listing.JSON:
            body = listing.objects_json(entries)
        else:
            body = listing.objects_xml(name.container, listing.objects_records(entries))
        return Response(200 if body else 204, headers, body)


def broker_of(
    room: DatabaseRoom, call: NodeCall, name: ContainerName
) -> ContainerBroker:
    """The database of a container on the device that the request names."""
    path = room.path(call.device, "containers", call.partition, name)
    return ContainerBroker(room.databases, path, name)


def stat_of(broker: ContainerBroker, *, stale_ok: bool = False) -> ContainerStat | None:
    """The facts of a container, None when it has no database here."""
    try:
        return broker.stat(stale_ok=stale_ok)
    except DatabaseMissing:
        return None


def _put_facts(headers: Headers, stat: ContainerStat) -> None:
    """Add what a container holds and what is stored with it."""
    put = Timestamp.parse(stat.put_timestamp)
    dict.update(
        headers,
        {
            X_CONTAINER_OBJECT_COUNT: str(stat.object_count),
            X_CONTAINER_BYTES_USED: str(stat.bytes_used),
            X_TIMESTAMP: Timestamp.parse(stat.created_at).normal,
            X_PUT_TIMESTAMP: put.normal,
            X_BACKEND_SHARDING_STATE: stat.db_state,
            LAST_MODIFIED: put.http_date,
        },
    )
    put_metadata(headers, stat.metadata)


def _container_of(call: NodeCall) -> ContainerName:
    """The container of a read; an object behind it is not looked at."""
    if isinstance(call.name, ObjectName):
        return call.name.container_name
    return call.container()


def _times(stat: ContainerStat) -> Headers:
    """The headers that every answer about a known container has, also a 404."""
    return Headers.titled(
        [
            (X_BACKEND_TIMESTAMP, _internal(stat.created_at)),
            (X_BACKEND_PUT_TIMESTAMP, _internal(stat.put_timestamp)),
            (X_BACKEND_DELETE_TIMESTAMP, _internal(stat.delete_timestamp)),
            (X_BACKEND_STATUS_CHANGED_AT, _internal(stat.status_changed_at)),
            (X_BACKEND_STORAGE_POLICY_INDEX, str(stat.storage_policy_index)),
        ]
    )


def _internal(text: str) -> str:
    return Timestamp.parse(text or "0").internal
