# SPDX-License-Identifier: Apache-2.0
"""The container server: containers, the rows of their objects, and listings.

Contract backend-http 6. GET and HEAD are in container_get, what concerns shard ranges
is in shard_ranges. A row is taken without a thread when the pending file can be
appended at once, which is nearly always; everything else is one call to a disk thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from swift.core.container_sync import url_fault
from swift.core.errors import (
    DatabaseExists,
    DatabaseMissing,
    FormatError,
    InvalidInput,
)
from swift.core.headers import (
    CONTAINER_META,
    CONTAINER_SYSMETA,
    X_BACKEND_ACCEPT_QUOTED_LOCATION,
    X_BACKEND_ACCEPT_REDIRECT,
    X_BACKEND_AUTO_CREATE,
    X_BACKEND_NO_TIMESTAMP_UPDATE,
    X_BACKEND_RECORD_TYPE,
    X_BACKEND_STORAGE_POLICY_DEFAULT,
    X_BACKEND_STORAGE_POLICY_INDEX,
    X_CONTAINER_READ,
    X_CONTAINER_SYNC_KEY,
    X_CONTAINER_SYNC_TO,
    X_CONTAINER_WRITE,
    X_CONTENT_TYPE,
    X_CONTENT_TYPE_TIMESTAMP,
    X_ETAG,
    X_META_TIMESTAMP,
    X_SIZE,
    X_VERSIONS_LOCATION,
    Headers,
)
from swift.core.names import ContainerName, ObjectName
from swift.core.rows import ObjectRow
from swift.core.settings import boolean, csv, option, positive_int, seconds
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics
from swift.runtime.sync_realms import SyncRealms, realm_fault
from swift.services import shard_ranges
from swift.services.account_updates import AccountUpdates
from swift.services.container_get import ContainerGet, broker_of, stat_of
from swift.services.db_replicate import DatabaseReplicate
from swift.services.node import Handler, NodeCall, NodeServer, policy_index_of
from swift.services.node_db import (
    DatabaseConfig,
    DatabaseRoom,
    metadata_of,
)
from swift.services.updates import UpdateSender
from swift.storage.db.container import ContainerBroker, ContainerStat
from swift.storage.db.sync_store import SyncStore
from swift.wire import environ as env
from swift.wire.client import ConnectionPool, Connector, TcpConnector
from swift.wire.filter import PipelineContext
from swift.wire.request import Response

SHARDS_PREFIX = ".shards_"
UPDATE_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of the body of one UPDATE or of one list of shard ranges."""

_STORED_PREFIXES = (CONTAINER_META, CONTAINER_SYSMETA)
_STORED_NAMES = frozenset(
    (X_CONTAINER_READ, X_CONTAINER_WRITE, X_CONTAINER_SYNC_KEY, X_CONTAINER_SYNC_TO)
)


@dataclass(frozen=True)
class ContainerConfig(DatabaseConfig):
    """Options of [app:container-server]."""

    node_timeout_s: float = option(
        3.0, name="node_timeout", parse=seconds, doc="Seconds for a peer to answer."
    )
    conn_timeout_s: float = option(
        0.5, name="conn_timeout", parse=seconds, doc="Seconds for a peer to connect."
    )
    allowed_sync_hosts: tuple[str, ...] = option(
        ("127.0.0.1",), parse=csv, doc="Hosts that container sync may send to."
    )
    allow_versions: bool = option(
        False, parse=boolean, doc="Store X-Versions-Location (deprecated)."
    )
    pool_idle_per_peer: int = option(
        64, parse=positive_int, doc="Idle connections kept to each account server."
    )


class ContainerServer(NodeServer):
    """The WSGI application of a container server."""

    kind = "container"

    def __init__(
        self,
        config: ContainerConfig,
        *,
        cluster: Cluster,
        room: DatabaseRoom,
        sender: UpdateSender,
        log: Logger,
        metrics: Metrics,
    ) -> None:
        self._room = room
        self._replicate = DatabaseReplicate(room, "containers", ContainerBroker)
        self._reads = ContainerGet(room, cluster)
        self._accounts = AccountUpdates(sender, log)
        self._sync_hosts = config.allowed_sync_hosts
        self._realms = SyncRealms(cluster.swift_dir)
        self._sync_store = SyncStore(room.devices.fs)
        versions = (X_VERSIONS_LOCATION,) if config.allow_versions else ()
        self._stored_names = _STORED_NAMES.union(versions)
        super().__init__(config, cluster=cluster, log=log, metrics=metrics)

    def handlers(self) -> Mapping[str, Handler]:
        """Method → handler."""
        return {
            "GET": self._reads.get,
            "HEAD": self._reads.head,
            "PUT": self.put,
            "POST": self.post,
            "DELETE": self.delete,
            "REPLICATE": self._replicate.run,
            "UPDATE": self.update,
        }

    # --- PUT --------------------------------------------------------------------------

    def put(self, call: NodeCall) -> Response:
        """Take the row of an object, or make a container. Yields."""
        if isinstance(call.name, ObjectName):
            return self._put_row(call, call.name)
        name = call.container()
        timestamp = call.timestamp()
        fault = self._sync_fault(call.headers.get(X_CONTAINER_SYNC_TO))
        if fault is not None:
            return Response(400, body=fault)
        requested = policy_index_of(call.headers, self.cluster)
        if call.headers.get(X_BACKEND_RECORD_TYPE, "").lower() == "shard":
            return self._put_shard_ranges(call, name, timestamp, requested)
        broker = broker_of(self._room, call, name)
        answer, stat = green.in_thread(
            self._put_container, call, broker, timestamp, requested
        )
        if stat is not None and self._accounts.is_missing(call, name, stat, self.agent):
            return Response(404)
        response: Response = answer
        return response

    def _put_container(
        self,
        call: NodeCall,
        broker: ContainerBroker,
        timestamp: Timestamp,
        requested: int | None,
    ) -> tuple[Response, ContainerStat | None]:
        """(answer, facts for the account); no facts when nothing was changed."""
        stamp = timestamp.internal
        default = self._default_policy(call, requested)
        created = False
        if not broker.exists():
            try:
                broker.create(timestamp, default)
                created = True
            except DatabaseExists:
                # Another request made it since we looked: this one comes second.
                created = False
        if not created:
            stat = broker.stat()
            recreated = stat.is_deleted
            if not recreated and requested not in (None, stat.storage_policy_index):
                return _conflict(stat), None
            if recreated and stamp > stat.delete_timestamp:
                broker.set_policy(default, stamp)
            broker.update_put_timestamp(stamp)
            stat = broker.stat()
            if stat.is_deleted:
                return _conflict(stat), None
            if recreated:
                broker.update_status_changed_at(stamp)
                created = True
        self._store_metadata(call, broker, timestamp)
        stat = broker.stat()
        self._keep_link(broker, stat)
        headers = {X_BACKEND_STORAGE_POLICY_INDEX: stat.storage_policy_index}
        return Response(201 if created else 202, headers), stat

    def _keep_link(self, broker: ContainerBroker, stat: ContainerStat) -> None:
        """Let the device's list of synced containers agree with the container."""
        try:
            self._sync_store.update(broker, stat)
        except OSError as error:
            # What the client asked for is done; the replicator mends the link.
            self.log.error("sync link of %s: %s", broker.path, error)

    def _default_policy(self, call: NodeCall, requested: int | None) -> int:
        """The policy of a container that is made now."""
        if requested is not None:
            return requested
        text = call.headers.get(X_BACKEND_STORAGE_POLICY_DEFAULT)
        if text is None:
            return self.cluster.policies.default.index
        policy = self.cluster.policies.by_index(text)
        if policy is None:
            raise InvalidInput(f"Invalid {X_BACKEND_STORAGE_POLICY_DEFAULT} {text!r}")
        return policy.index

    def _put_shard_ranges(
        self,
        call: NodeCall,
        name: ContainerName,
        timestamp: Timestamp,
        requested: int | None,
    ) -> Response:
        """Merge shard ranges into a container, made if it may be. Yields."""
        try:
            ranges = shard_ranges.parse_ranges(_body_of(call))
        except FormatError as error:
            return Response(400, body=f"Invalid body: {error}")
        broker = broker_of(self._room, call, name)

        def store() -> Response:
            created = self._auto_create(
                call, broker, name, timestamp, self._default_policy(call, requested)
            )
            if created is None:
                return Response(404)
            self._store_metadata(call, broker, timestamp)
            broker.merge_shard_ranges(ranges)
            index = broker.stat().storage_policy_index
            return Response(
                201 if created else 202, {X_BACKEND_STORAGE_POLICY_INDEX: index}
            )

        answer: Response = green.in_thread(store)
        return answer

    def _store_metadata(
        self, call: NodeCall, broker: ContainerBroker, timestamp: Timestamp
    ) -> None:
        updates = metadata_of(
            call.headers, timestamp, _STORED_PREFIXES, self._stored_names
        )
        if updates:
            broker.update_metadata(updates, self.cluster.limits)

    def _auto_create(
        self,
        call: NodeCall,
        broker: ContainerBroker,
        name: ContainerName,
        timestamp: Timestamp,
        policy_index: int,
    ) -> bool | None:
        """Make the container if it is missing and may be made by the way.

        True when it was made, False when it is there, None when it is missing and stays
        so.
        """
        if broker.exists():
            return False
        if not self._may_auto_create(call.headers, name.account):
            return None
        try:
            broker.create(Timestamp(timestamp.raw), policy_index)
        except DatabaseExists:
            return False
        return True

    def _may_auto_create(self, headers: Headers, account: str) -> bool:
        if X_BACKEND_AUTO_CREATE in headers:
            return headers.true(X_BACKEND_AUTO_CREATE)
        prefix = self.cluster.limits.auto_create_account_prefix
        return (
            bool(prefix)
            and account.startswith(prefix)
            and not account.startswith(SHARDS_PREFIX)
        )

    # --- rows of objects --------------------------------------------------------------

    def _put_row(self, call: NodeCall, name: ObjectName) -> Response:
        headers = call.headers
        timestamp = call.timestamp()
        policy_index = policy_index_of(headers, self.cluster) or 0
        try:
            row = ObjectRow(
                name.obj,
                timestamp.internal,
                int(dict.__getitem__(headers, X_SIZE)),
                _native(dict.__getitem__(headers, X_CONTENT_TYPE)),
                _native(dict.__getitem__(headers, X_ETAG)),
                0,
                policy_index,
                dict.get(headers, X_CONTENT_TYPE_TIMESTAMP),
                dict.get(headers, X_META_TIMESTAMP),
            )
        except (KeyError, ValueError) as error:
            # Only a broken object server leaves a field out; its update must not be
            # taken for delivered, nor for refused for good.
            return Response.text(500, f"Incomplete object row: {error}")
        return self._take_row(call, name, row, timestamp, 201)

    def _take_row(
        self,
        call: NodeCall,
        name: ObjectName,
        row: ObjectRow,
        timestamp: Timestamp,
        status: int,
    ) -> Response:
        headers = call.headers
        redirect = headers.true(X_BACKEND_ACCEPT_REDIRECT)
        broker = broker_of(self._room, call, name.container_name)
        try:
            if broker.put_now(row, redirect=redirect):
                return Response(status)
        except DatabaseMissing:
            # Perhaps it may be made; that takes a thread.
            pass
        answer: Response = green.in_thread(
            self._take_row_slowly, call, name, broker, row, timestamp, redirect, status
        )
        return answer

    def _take_row_slowly(
        self,
        call: NodeCall,
        name: ObjectName,
        broker: ContainerBroker,
        row: ObjectRow,
        timestamp: Timestamp,
        redirect: bool,
        status: int,
    ) -> Response:
        created = self._auto_create(
            call, broker, name.container_name, timestamp, row.storage_policy_index
        )
        if created is None:
            return Response(404)
        quoted = call.headers.true(X_BACKEND_ACCEPT_QUOTED_LOCATION)
        target = broker.put_object(row, redirect=redirect)
        if target is None:
            return Response(status)
        answer = shard_ranges.redirect_to(target, name.obj, quoted=quoted)
        if answer is None:
            # A client that cannot read a quoted location gets its row stored here, as
            # a misplaced one; the sharder moves it.
            broker.put_object(row)
            return Response(status)
        # The location is a name, not an address of this server.
        call.environ[env.LEAVE_RELATIVE_LOCATION] = True
        return answer

    # --- POST, DELETE, UPDATE ---------------------------------------------------------

    def post(self, call: NodeCall) -> Response:
        """Change the metadata of a container. Yields."""
        name = call.container()
        timestamp = call.timestamp()
        fault = self._sync_fault(call.headers.get(X_CONTAINER_SYNC_TO))
        if fault is not None:
            return Response(400, body=fault)
        broker = broker_of(self._room, call, name)

        def store() -> Response:
            stat = stat_of(broker)
            if stat is None or stat.is_deleted:
                return Response(404)
            if not call.headers.true(X_BACKEND_NO_TIMESTAMP_UPDATE):
                broker.update_put_timestamp(timestamp.internal)
            self._store_metadata(call, broker, timestamp)
            self._keep_link(broker, broker.stat(stale_ok=True))
            return Response(204)

        answer: Response = green.in_thread(store)
        return answer

    def delete(self, call: NodeCall) -> Response:
        """Take the tombstone of an object, or delete an empty container. Yields."""
        timestamp = call.timestamp()
        if isinstance(call.name, ObjectName):
            policy_index = policy_index_of(call.headers, self.cluster) or 0
            row = ObjectRow.tombstone(call.name.obj, timestamp.internal, policy_index)
            return self._take_row(call, call.name, row, timestamp, 204)
        name = call.container()
        broker = broker_of(self._room, call, name)

        def remove() -> tuple[Response, ContainerStat | None]:
            before = stat_of(broker)
            if before is None:
                return Response(404), None
            if not broker.empty():
                return Response(409), None
            existed = not before.is_deleted
            broker.delete(timestamp.internal)
            after = broker.stat()
            if not after.is_deleted:
                return Response(409), None
            self._keep_link(broker, after)
            return Response(204 if existed else 404), after

        answer, stat = green.in_thread(remove)
        if stat is not None and self._accounts.is_missing(call, name, stat, self.agent):
            return Response(404)
        response: Response = answer
        return response

    def update(self, call: NodeCall) -> Response:
        """Merge many rows at once. Yields."""
        name = call.container()
        timestamp = call.timestamp()
        policy_index = policy_index_of(call.headers, self.cluster)
        body = _body_of(call)
        broker = broker_of(self._room, call, name)

        def merge() -> Response:
            try:
                rows = [ObjectRow.from_record(record) for record in json.loads(body)]
            except (ValueError, TypeError, FormatError) as error:
                return Response(400, body=f"Invalid body: {error}")
            index = self._default_policy(call, policy_index)
            if self._auto_create(call, broker, name, timestamp, index) is None:
                return Response(404)
            broker.merge_rows(rows)
            return Response(202)

        answer: Response = green.in_thread(merge)
        return answer

    def _sync_fault(self, target: str | None) -> str | None:
        """What is wrong with an X-Container-Sync-To, None when nothing is."""
        if not target:
            return None
        if target.startswith("//"):
            return realm_fault(self._realms, target)
        return url_fault(target, self._sync_hosts)


def _conflict(stat: ContainerStat) -> Response:
    return Response(409, {X_BACKEND_STORAGE_POLICY_INDEX: stat.storage_policy_index})


def _native(value: str) -> str:
    """A WSGI string as the text of databases; bytes that are no UTF-8 are marked."""
    if value.isascii():
        return value
    return value.encode("latin-1").decode("utf-8", "replace")


def _body_of(call: NodeCall) -> bytes:
    """The whole body, up to UPDATE_BYTES_MAX. Yields; raises InvalidInput."""
    source = call.environ[env.WSGI_INPUT]
    body: bytes = source.read(UPDATE_BYTES_MAX + 1)
    if len(body) > UPDATE_BYTES_MAX:
        raise InvalidInput("the body is too large")
    return body


def app_factory(
    global_conf: Mapping[str, str] | None, **local_conf: str
) -> ContainerServer:
    """The server that [app:container-server] describes (egg:swift#container).

    Raises ConfigError.
    """
    context = PipelineContext.of(global_conf)
    return make_server(
        context.bind(ContainerConfig, local_conf),
        cluster=context.cluster,
        connector=TcpConnector(),
        log=context.logger("container-server"),
        metrics=context.metrics,
    )


def make_server(
    config: ContainerConfig,
    *,
    cluster: Cluster,
    connector: Connector,
    log: Logger,
    metrics: Metrics,
) -> ContainerServer:
    """A container server with its databases and its connections to account servers."""
    sender = UpdateSender(
        ConnectionPool(connector, max_idle_per_peer=config.pool_idle_per_peer),
        connect_timeout_s=config.conn_timeout_s,
        answer_timeout_s=config.node_timeout_s,
        log=log,
    )
    room = DatabaseRoom.of(config, cluster=cluster, log=log)
    return ContainerServer(
        config, cluster=cluster, room=room, sender=sender, log=log, metrics=metrics
    )
