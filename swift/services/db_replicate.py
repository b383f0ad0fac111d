# SPDX-License-Identifier: Apache-2.0
"""REPLICATE on account and container servers: a call by JSON, about one database.

The body is `[operation, argument…]`, the path ends in the hash of the database. What an
operation does is known in storage/db/sync; here it is found, and its outcome becomes a
status. Contract backend-http 9.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from swift.core.errors import (
    Conflict,
    DatabaseExists,
    DatabaseMissing,
    InvalidInput,
)
from swift.core.hashing import is_path_hash
from swift.core.headers import CONTENT_TYPE
from swift.runtime import green
from swift.services.node import NodeCall
from swift.services.node_db import DatabaseRoom
from swift.storage.db import sync
from swift.storage.db.account import AccountBroker
from swift.storage.db.connection import Databases
from swift.storage.db.container import ContainerBroker
from swift.wire import environ as env
from swift.wire.request import JSON_TYPE, Response

CALL_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of one call; a batch of rows is far smaller."""

AnyBroker = AccountBroker | ContainerBroker
Opener = Callable[[Databases, str], AnyBroker]


class DatabaseReplicate:
    """Answers REPLICATE for the databases of one kind.

    kind: `accounts` or `containers`. open_broker: makes a broker of a path.
    """

    def __init__(self, room: DatabaseRoom, kind: str, open_broker: Opener) -> None:
        self._room = room
        self._kind = kind
        self._open = open_broker

    def run(self, call: NodeCall) -> Response:
        """Answer one call. Yields."""
        path_hash = call.rest
        if not is_path_hash(path_hash):
            raise InvalidInput(f"no database hash: {path_hash!r:.80}")
        self._room.check(call.device)
        body = call.environ[env.WSGI_INPUT].read(CALL_BYTES_MAX + 1)
        if len(body) > CALL_BYTES_MAX:
            raise InvalidInput("the call is too large")
        answer: Response = green.in_thread(self._run, call, path_hash, body)
        return answer

    def _run(self, call: NodeCall, path_hash: str, body: bytes) -> Response:
        try:
            operation, *arguments = json.loads(body)
        except (ValueError, TypeError) as error:
            raise InvalidInput("the call is no JSON list") from error
        path = self._room.path_of_hash(
            call.device, self._kind, call.partition, path_hash
        )
        broker = self._open(self._room.databases, path)
        if operation in ("complete_rsync", "rsync_then_merge"):
            return self._take_copy(operation, broker, arguments)
        self._room.make_tmp(call.device)
        if not broker.exists():
            return Response(404)
        try:
            return self._answer(operation, broker, arguments)
        except DatabaseMissing:
            return Response(404)

    def _take_copy(
        self, operation: str, broker: AnyBroker, arguments: list[Any]
    ) -> Response:
        """Use the file that rsync has left in the device's tmp directory."""
        if not arguments or not all(isinstance(item, str) for item in arguments):
            raise InvalidInput(f"{operation} takes one or two file names")
        take = (
            sync.complete_rsync
            if operation == "complete_rsync"
            else sync.rsync_then_merge
        )
        try:
            take(broker, arguments[0], arguments[1] if len(arguments) > 1 else None)
        except (DatabaseExists, DatabaseMissing, Conflict):
            return Response(404)
        return Response(204)

    def _answer(
        self, operation: object, broker: AnyBroker, arguments: list[Any]
    ) -> Response:
        if operation == "sync":
            remote = sync.RemoteInfo.from_arguments(arguments)
            return _json(sync.receive_sync(broker, remote))
        if operation == "merge_items" and arguments:
            source = arguments[1] if len(arguments) > 1 else None
            sync.merge_items(broker, arguments[0], source)
            return Response(202)
        if operation == "merge_syncs" and arguments:
            sync.merge_syncs(broker, arguments[0])
            return Response(202)
        if isinstance(broker, ContainerBroker):
            if operation == "merge_shard_ranges" and arguments:
                sync.merge_shard_ranges(broker, arguments[0])
                return Response(202)
            if operation == "get_shard_ranges":
                return _json([found.as_record() for found in broker.shard_ranges()])
        raise InvalidInput(f"no such call: {operation!r:.80}")


def _json(value: object) -> Response:
    return Response(200, {CONTENT_TYPE: JSON_TYPE}, json.dumps(value))
