# SPDX-License-Identifier: Apache-2.0
"""The account server: accounts, the containers they hold, and their listings.

Contract backend-http 7. The database is reached by one call to a disk thread per
request; what is decided here is the order of checks, the statuses and the headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from swift.core import listing
from swift.core.errors import DatabaseExists, DatabaseMissing, InvalidInput
from swift.core.headers import (
    ACCOUNT_META,
    ACCOUNT_STORAGE_POLICY,
    ACCOUNT_SYSMETA,
    CONTENT_TYPE,
    X_ACCOUNT_BYTES_USED,
    X_ACCOUNT_CONTAINER_COUNT,
    X_ACCOUNT_OBJECT_COUNT,
    X_ACCOUNT_OVERRIDE_DELETED,
    X_ACCOUNT_STATUS,
    X_BACKEND_ALLOW_RESERVED_NAMES,
    X_BYTES_USED,
    X_DELETE_TIMESTAMP,
    X_OBJECT_COUNT,
    X_PUT_TIMESTAMP,
    X_TIMESTAMP,
    Headers,
)
from swift.core.names import AccountName, ContainerName
from swift.core.rows import ContainerRow, is_zero_like
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics
from swift.services.db_replicate import DatabaseReplicate
from swift.services.node import (
    Handler,
    NodeCall,
    NodeServer,
    policy_index_of,
)
from swift.services.node_db import (
    DatabaseConfig,
    DatabaseRoom,
    ListingRequest,
    metadata_of,
    put_metadata,
)
from swift.storage.db.account import AccountBroker, AccountStat
from swift.wire.filter import PipelineContext
from swift.wire.request import Response

HTML = "text/html; charset=utf-8"
"""Upstream spells the charset small here, and its golden answers do too."""

_STORED_PREFIXES = (ACCOUNT_META, ACCOUNT_SYSMETA)


@dataclass(frozen=True)
class AccountConfig(DatabaseConfig):
    """Options of [app:account-server]."""


class AccountServer(NodeServer):
    """The WSGI application of an account server."""

    kind = "account"

    def __init__(
        self,
        config: AccountConfig,
        *,
        cluster: Cluster,
        room: DatabaseRoom,
        log: Logger,
        metrics: Metrics,
    ) -> None:
        self._room = room
        self._replicate = DatabaseReplicate(room, "accounts", AccountBroker)
        self._policy_names = {policy.index: policy.name for policy in cluster.policies}
        super().__init__(config, cluster=cluster, log=log, metrics=metrics)

    def handlers(self) -> Mapping[str, Handler]:
        """Method → handler."""
        return {
            "GET": self._in_thread(self._get),
            "HEAD": self._in_thread(self._head),
            "PUT": self._put,
            "POST": self._in_thread(self._post),
            "DELETE": self._in_thread(self._delete),
            "REPLICATE": self._replicate.run,
        }

    def _in_thread(self, handler: Handler) -> Handler:
        def run(call: NodeCall) -> Response:
            answer: Response = green.in_thread(handler, call)
            return answer

        return run

    def _broker(self, call: NodeCall, name: AccountName) -> AccountBroker:
        path = self._room.path(call.device, "accounts", call.partition, name)
        return AccountBroker(self._room.databases, path, name)

    # --- accounts ---------------------------------------------------------------------

    def _put(self, call: NodeCall) -> Response:
        """Create or touch an account, or take the row of a container. Yields."""
        if isinstance(call.name, ContainerName):
            return self._put_container(call, call.name)
        answer: Response = green.in_thread(self._put_account, call)
        return answer

    def _put_account(self, call: NodeCall) -> Response:
        name = call.account()
        timestamp = call.timestamp()
        broker = self._broker(call, name)
        created = False
        if not broker.exists():
            try:
                broker.create(timestamp)
                created = True
            except DatabaseExists:
                # Another request made it since we looked: this one comes second.
                created = False
        else:
            stat = broker.stat()
            if stat.is_status_deleted:
                return _deleted(403, stat, "Recently deleted")
            created = stat.is_deleted
            broker.update_put_timestamp(timestamp.internal)
            if broker.is_deleted():
                return Response(409)
        self._store_metadata(call, broker, timestamp)
        return Response(201 if created else 202)

    def _store_metadata(
        self, call: NodeCall, broker: AccountBroker, timestamp: Timestamp
    ) -> None:
        updates = metadata_of(call.headers, timestamp, _STORED_PREFIXES)
        if updates:
            broker.update_metadata(updates, self.cluster.limits)

    def _post(self, call: NodeCall) -> Response:
        name = call.account()
        timestamp = call.timestamp()
        broker = self._broker(call, name)
        stat = _stat(broker)
        if stat is None or stat.is_deleted:
            return _deleted(404, stat)
        self._store_metadata(call, broker, timestamp)
        return Response(204)

    def _delete(self, call: NodeCall) -> Response:
        name = call.account()
        timestamp = call.timestamp()
        broker = self._broker(call, name)
        stat = _stat(broker)
        if stat is None or stat.is_deleted:
            return _deleted(404, stat)
        broker.delete(timestamp.internal)
        return _deleted(204, _stat(broker))

    # --- reading ----------------------------------------------------------------------

    def _head(self, call: NodeCall) -> Response:
        return self._read(call, wants_listing=False)

    def _get(self, call: NodeCall) -> Response:
        return self._read(call, wants_listing=True)

    def _read(self, call: NodeCall, *, wants_listing: bool) -> Response:
        name = call.account()
        wanted = ListingRequest.of(
            call, self.cluster.limits.account_listing_limit, head=not wants_listing
        )
        if isinstance(wanted, Response):
            return wanted
        broker = self._broker(call, name)
        stat = _stat(broker, stale_ok=True)
        if stat is None or stat.is_deleted:
            return _deleted(404, stat)
        headers = self._facts(broker, stat)
        headers[CONTENT_TYPE] = f"{wanted.format}; charset=utf-8"
        if not wants_listing:
            return Response(204, headers)
        entries = broker.list_containers(
            wanted.query,
            allow_reserved=call.headers.true(X_BACKEND_ALLOW_RESERVED_NAMES),
        )
        if wanted.format == listing.PLAIN:
            body = listing.plain(entries)
        elif wanted.format == listing.JSON:
            body = listing.containers_json(entries, self._policy_names)
        else:
            records = listing.containers_records(entries, self._policy_names)
            body = listing.containers_xml(name.account, records)
        return Response(200 if body else 204, headers, body)

    def _facts(self, broker: AccountBroker, stat: AccountStat) -> Headers:
        """The headers that say what an account holds."""
        headers = Headers.titled(
            [
                (X_ACCOUNT_CONTAINER_COUNT, str(stat.container_count)),
                (X_ACCOUNT_OBJECT_COUNT, str(stat.object_count)),
                (X_ACCOUNT_BYTES_USED, str(stat.bytes_used)),
                (X_TIMESTAMP, Timestamp.parse(stat.created_at).normal),
                (X_PUT_TIMESTAMP, Timestamp.parse(stat.put_timestamp).normal),
            ]
        )
        for policy in broker.policy_stats():
            policy_name = self._policy_names.get(policy.storage_policy_index)
            if policy_name is None:
                continue
            prefix = f"{ACCOUNT_STORAGE_POLICY}{policy_name}-"
            headers[f"{prefix}Container-Count"] = policy.container_count
            headers[f"{prefix}Object-Count"] = policy.object_count
            headers[f"{prefix}Bytes-Used"] = policy.bytes_used
        put_metadata(headers, stat.metadata)
        return headers

    # --- rows of containers -----------------------------------------------------------

    def _put_container(self, call: NodeCall, name: ContainerName) -> Response:
        """Take what a container server tells of one container. Yields."""
        headers = call.headers
        put_timestamp = headers.get(X_PUT_TIMESTAMP)
        if put_timestamp is None:
            raise InvalidInput(f"Missing {X_PUT_TIMESTAMP} header")
        delete_timestamp = headers.get(X_DELETE_TIMESTAMP, "0")
        count = headers.get(X_OBJECT_COUNT, "0")
        deleted = int(delete_timestamp > put_timestamp and is_zero_like(count))
        row = ContainerRow(
            name.container,
            put_timestamp,
            delete_timestamp,
            count,
            headers.get(X_BYTES_USED, "0"),
            deleted,
            policy_index_of(headers, self.cluster) or 0,
        )
        override = headers.get(X_ACCOUNT_OVERRIDE_DELETED, "no").lower() == "yes"
        account = name.account_name
        self._room.check(call.device)
        broker = self._broker(call, account)
        missing: Response | None = green.in_thread(
            self._keep_row, call, broker, row, override
        )
        if missing is not None:
            return missing
        return Response(204 if delete_timestamp > put_timestamp else 201)

    def _keep_row(
        self, call: NodeCall, broker: AccountBroker, row: ContainerRow, override: bool
    ) -> Response | None:
        account = call.rest.partition("/")[0]
        prefix = self.cluster.limits.auto_create_account_prefix
        if not broker.exists():
            if not prefix or not account.startswith(prefix):
                return Response(404)
            stamp = call.headers.timestamp(X_TIMESTAMP) or Timestamp.at(green.now())
            with suppress(DatabaseExists):  # made meanwhile, which is as good
                broker.create(stamp)
        if not override and broker.is_deleted():
            return Response(404)
        broker.put_container(row)
        return None


def _stat(broker: AccountBroker, *, stale_ok: bool = False) -> AccountStat | None:
    try:
        return broker.stat(stale_ok=stale_ok)
    except DatabaseMissing:
        return None


def _deleted(status: int, stat: AccountStat | None, body: str = "") -> Response:
    """An answer that says whether the account waits for the reaper."""
    headers = {CONTENT_TYPE: HTML}
    if stat is not None and stat.is_status_deleted:
        headers[X_ACCOUNT_STATUS] = "Deleted"
    return Response(status, headers, body)


def app_factory(
    global_conf: Mapping[str, str] | None, **local_conf: str
) -> AccountServer:
    """The server that a section [app:account-server] describes (egg:swift#account).

    Raises ConfigError.
    """
    context = PipelineContext.of(global_conf)
    config = context.bind(AccountConfig, local_conf)
    log = context.logger("account-server")
    return make_server(
        config, cluster=context.cluster, log=log, metrics=context.metrics
    )


def make_server(
    config: AccountConfig, *, cluster: Cluster, log: Logger, metrics: Metrics
) -> AccountServer:
    """An account server with its devices and databases."""
    room = DatabaseRoom.of(config, cluster=cluster, log=log)
    return AccountServer(config, cluster=cluster, room=room, log=log, metrics=metrics)
