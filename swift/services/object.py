# SPDX-License-Identifier: Apache-2.0
"""The object server: POST, DELETE, suffix hashes, and who answers the other methods.

GET and HEAD are in object_get, PUT in object_put, SSYNC in ssync_receiver.

What is decided here is the order of checks and the headers of the answers (contract
backend-http 2). How objects lie on a disk is known below, in storage/object; what a
policy's redundancy does differently is asked of the policy.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swift.core import expiry
from swift.core.errors import (
    InvalidInput,
)
from swift.core.hashing import is_suffix
from swift.core.headers import (
    ALLOWED_OBJECT_HEADERS,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    CONTENT_TYPE_TIMESTAMP,
    ETAG,
    OBJECT_META,
    OBJECT_SYSMETA,
    OBJECT_TRANSIENT_SYSMETA,
    SYSMETA_UPDATE_OVERRIDE,
    X_BACKEND_CONTENT_TYPE,
    X_BACKEND_NEXT_PART_POWER,
    X_BACKEND_OPEN_EXPIRED,
    X_BACKEND_STORAGE_POLICY_INDEX,
    X_BACKEND_TIMESTAMP,
    X_CONTENT_TYPE,
    X_CONTENT_TYPE_TIMESTAMP,
    X_DELETE_AT,
    X_ETAG,
    X_IF_DELETE_AT,
    X_META_TIMESTAMP,
    X_SIZE,
    X_TIMESTAMP,
    Headers,
    title,
)
from swift.core.names import ObjectName
from swift.core.policy import StoragePolicy
from swift.core.settings import csv, option, positive_int, seconds
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import load_plugin
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics
from swift.services.node import Handler, NodeCall, NodeConfig, NodeServer
from swift.services.object_get import GetConfig, ObjectGet
from swift.services.object_put import (
    OWN_NAMES,
    ObjectPut,
    PutConfig,
    Refused,
    replication_names,
)
from swift.services.ssync_receiver import ReceiverConfig, SsyncReceiver
from swift.services.updates import ObjectUpdates, PendingStore, UpdateSender
from swift.storage.devices import Devices
from swift.storage.fs import FileSystem
from swift.storage.object.conflicts import check_stored_objects
from swift.storage.object.context import DiskConfig
from swift.storage.object.diskfile import DiskFile, OpenObject
from swift.storage.object.existing import NOTHING, Existing, look
from swift.storage.object.manager import DiskFileManager
from swift.wire import environ as env
from swift.wire.client import ConnectionPool, Connector, TcpConnector
from swift.wire.environ import Environ, headers_of
from swift.wire.filter import PipelineContext
from swift.wire.request import Response

_POSTED_PREFIXES = (OBJECT_META, OBJECT_TRANSIENT_SYSMETA)


@dataclass(frozen=True)
class ObjectConfig(NodeConfig, GetConfig, PutConfig, ReceiverConfig):
    """Options of [app:object-server] that are not the disk's."""

    node_timeout_s: float = option(
        3.0, name="node_timeout", parse=seconds, doc="Seconds for a peer to answer."
    )
    conn_timeout_s: float = option(
        0.5, name="conn_timeout", parse=seconds, doc="Seconds for a peer to connect."
    )
    container_update_timeout_s: float = option(
        1.0,
        name="container_update_timeout",
        parse=seconds,
        doc="Seconds that an answer waits for container servers.",
    )
    allowed_headers: tuple[str, ...] = option(
        ALLOWED_OBJECT_HEADERS,
        parse=csv,
        doc="Headers stored with an object beside its metadata.",
    )
    pool_idle_per_peer: int = option(
        64, parse=positive_int, doc="Idle connections kept to each container server."
    )
    slow_s: float = option(
        0.0,
        name="slow",
        parse=seconds,
        doc="Least time that PUT, POST and DELETE take; for tests with slow devices.",
    )
    slow_delete_log_threshold_s: float = option(
        120.0,
        name="slow_delete_log_threshold_seconds",
        parse=seconds,
        doc="A DELETE whose disk takes longer is logged.",
    )

    @property
    def stored_headers(self) -> frozenset[str]:
        """Title-Cased names that are stored beside the families of metadata."""
        return frozenset(map(title, (*self.allowed_headers, X_DELETE_AT))) - OWN_NAMES


class ObjectServer(NodeServer):
    """The WSGI application of an object server.

    managers: policy index → the engine of that policy on this node.
    """

    kind = "object"
    config: ObjectConfig

    def __init__(
        self,
        config: ObjectConfig,
        *,
        cluster: Cluster,
        managers: Mapping[int, DiskFileManager],
        updates: ObjectUpdates,
        log: Logger,
        metrics: Metrics,
    ) -> None:
        self._managers = managers
        self._updates = updates
        self._stored_names = config.stored_headers
        self._get = ObjectGet(config, self._stored_names)
        self._put = ObjectPut(
            config,
            limits=cluster.limits,
            stored_names=self._stored_names,
            updates=updates,
            metrics=metrics,
        )
        self._receiver = SsyncReceiver(
            config, cluster=cluster, answer=self._replicated, log=log, metrics=metrics
        )
        super().__init__(config, cluster=cluster, log=log, metrics=metrics)

    def handlers(self) -> Mapping[str, Handler]:
        """Method → handler."""
        return {
            "GET": self.get,
            "HEAD": self.head,
            "PUT": self._slowed(self.put),
            "POST": self._slowed(self.post),
            "DELETE": self._slowed(self.delete),
            "REPLICATE": self.replicate,
            "SSYNC": self.ssync,
        }

    def _slowed(self, handler: Handler) -> Handler:
        """The handler, but as slow as the option `slow` wants it."""
        if not self.config.slow_s:
            return handler

        def handle(call: NodeCall) -> Response:
            start = green.monotonic()
            response = handler(call)
            green.sleep(max(0.0, start + self.config.slow_s - green.monotonic()))
            return response

        return handle

    def _manager(self, call: NodeCall) -> DiskFileManager | Response:
        """The engine of the request's policy, or the answer that there is none."""
        text = dict.get(call.headers, X_BACKEND_STORAGE_POLICY_INDEX)
        try:
            return self._managers[int(text) if text else 0]
        except (ValueError, KeyError):
            return Response.text(503, f"No policy with index {text}")

    def _diskfile(
        self, manager: DiskFileManager, call: NodeCall, name: ObjectName
    ) -> DiskFile:
        return manager.diskfile(
            call.device,
            call.partition,
            name,
            next_part_power=call.headers.integer(X_BACKEND_NEXT_PART_POWER),
        )

    def observe(self, environ: Environ, status: int, start: float) -> None:
        """Tell the labelled timing of a request."""
        headers = headers_of(environ)
        account, container = (environ[env.PATH_INFO].split("/", 5) + [None] * 5)[3:5]
        self.metrics.labelled_timing(
            "swift_object_server_request_timing",
            {
                "method": environ[env.REQUEST_METHOD],
                "status": status,
                "account": account,
                "container": container,
                "policy": headers.get(X_BACKEND_STORAGE_POLICY_INDEX, "0"),
            },
            (green.now() - start) * 1000,
        )

    def get(self, call: NodeCall) -> Response:
        """The object, or the parts of it that a Range asks for. Yields."""
        return self._read(call, wants_body=True)

    def head(self, call: NodeCall) -> Response:
        """What GET of the whole would say of the object. Yields."""
        return self._read(call, wants_body=False)

    def _read(self, call: NodeCall, *, wants_body: bool) -> Response:
        name = call.object()
        manager = self._manager(call)
        if isinstance(manager, Response):
            return manager
        disk = self._diskfile(manager, call, name)
        return self._get.run(call.headers, disk, wants_body=wants_body)

    # --- PUT, POST, DELETE ------------------------------------------------------------

    def put(self, call: NodeCall) -> Response:
        """Store an object. Yields."""
        name = call.object()
        manager = self._manager(call)
        if isinstance(manager, Response):
            return manager
        return self._put.run(
            call,
            name,
            manager.policy,
            lambda: self._diskfile(manager, call, name),
            self.agent,
        )

    def post(self, call: NodeCall) -> Response:
        """Replace the metadata of an object, or only its content type. Yields."""
        name = call.object()
        headers = call.headers
        timestamp = call.timestamp()
        delete_at = expiry.delete_at_of(headers)
        if delete_at is not None and expiry.is_past(delete_at, timestamp):
            raise InvalidInput(f"{X_DELETE_AT} in past")
        manager = self._manager(call)
        if isinstance(manager, Response):
            return manager
        disk = self._diskfile(manager, call, name)
        opened = disk.open(
            timestamp.seconds, open_expired=headers.true(X_BACKEND_OPEN_EXPIRED)
        )
        with opened:
            old = opened.metadata
            posted = self._posted(headers, timestamp, opened)
            if posted is None:
                return Response(409, {X_BACKEND_TIMESTAMP: opened.timestamp.internal})
            if posted.metadata_is_new:
                self._requeue(call, name, manager.policy, opened, delete_at, timestamp)
            disk.post(posted.metadata, posted.timestamp)
            content_type = posted.content_type or old.get(CONTENT_TYPE, "")
            shown = manager.policy.redundancy.object_headers(old)
            update = Headers.titled(
                [
                    (X_SIZE, shown[CONTENT_LENGTH]),
                    (X_CONTENT_TYPE, content_type),
                    (X_TIMESTAMP, opened.data_timestamp.internal),
                    (X_CONTENT_TYPE_TIMESTAMP, posted.type_timestamp.internal),
                    (X_META_TIMESTAMP, posted.timestamp.internal),
                    (X_ETAG, shown[ETAG]),
                ]
            )
            for key, value in old.beginning(SYSMETA_UPDATE_OVERRIDE):
                update["X-" + key[len(SYSMETA_UPDATE_OVERRIDE) :]] = value
            sysmeta = list(old.beginning(OBJECT_SYSMETA))
        self._updates.tell_container(
            call, "PUT", name, manager.policy, update, self.agent
        )
        answer = Headers.titled(sysmeta)
        answer[X_BACKEND_CONTENT_TYPE] = content_type
        return Response(202, answer)

    def _posted(
        self, headers: Headers, timestamp: Timestamp, opened: OpenObject
    ) -> _Posted | None:
        """What a POST makes of an object; None when all of it is known or older."""
        type_timestamp = opened.content_type_timestamp
        content_type = headers.get(CONTENT_TYPE)
        new_type = None
        if content_type:
            given = headers.timestamp(CONTENT_TYPE_TIMESTAMP) or timestamp
            if given > type_timestamp:
                new_type, type_timestamp = content_type, given
        metadata_is_new = timestamp > opened.timestamp
        if metadata_is_new:
            metadata = Headers()
            extra = replication_names(headers)
            for name, value in headers.items():
                if (
                    name.startswith(_POSTED_PREFIXES)
                    or name in self._stored_names
                    or name in extra
                ):
                    metadata[name] = value
            metadata.pop(CONTENT_TYPE, None)
            metadata.pop(CONTENT_TYPE_TIMESTAMP, None)
        elif new_type is not None:
            timestamp = opened.timestamp
            metadata = Headers.titled(
                (name, value)
                for name, value in opened.metadata.items()
                if name.startswith(_POSTED_PREFIXES) or name in self._stored_names
            )
        else:
            return None
        if new_type is not None:
            metadata[CONTENT_TYPE] = new_type
        elif type_timestamp > opened.data_timestamp:
            # An earlier POST gave the type, and its file is about to go.
            metadata[CONTENT_TYPE] = opened.metadata[CONTENT_TYPE]
        if CONTENT_TYPE in metadata:
            metadata[CONTENT_TYPE_TIMESTAMP] = type_timestamp.internal
        return _Posted(metadata, timestamp, metadata_is_new, new_type, type_timestamp)

    def _requeue(
        self,
        call: NodeCall,
        name: ObjectName,
        policy: StoragePolicy,
        opened: OpenObject,
        delete_at: int | None,
        timestamp: Timestamp,
    ) -> None:
        """Let the expirer's queue follow a change of X-Delete-At."""
        old = expiry.delete_at_of(opened.metadata)
        if old == delete_at:
            return
        if delete_at is not None:
            self._updates.tell_queue(
                call,
                name,
                policy,
                delete_at=delete_at,
                size=opened.metadata[CONTENT_LENGTH],
                agent=self.agent,
            )
        if old is not None:
            self._updates.clear_queue(
                call,
                name,
                policy,
                delete_at=old,
                timestamp=timestamp,
                agent=self.agent,
            )

    def delete(self, call: NodeCall) -> Response:
        """Put a tombstone in an object's place. Yields."""
        name = call.object()
        timestamp = call.timestamp()
        headers = call.headers
        condition = headers.get(X_IF_DELETE_AT)
        try:
            only_at = None if condition is None else int(condition)
        except ValueError as error:
            raise InvalidInput(f"Bad {X_IF_DELETE_AT} header value") from error
        manager = self._manager(call)
        if isinstance(manager, Response):
            return manager
        disk = self._diskfile(manager, call, name)
        start = green.monotonic()
        try:
            old = self._look_and_delete(disk, timestamp, only_at)
        except Refused as refused:
            return refused.response
        taken_s = green.monotonic() - start
        if taken_s > self.config.slow_delete_log_threshold_s:
            self.log.warning(
                "%s: DELETE of %s took %.1fs", call.device, name.path, taken_s
            )
        self._tell_of_delete(call, name, manager.policy, old, timestamp)
        answer = Headers.titled(
            [
                (X_BACKEND_TIMESTAMP, timestamp.internal),
                (X_BACKEND_CONTENT_TYPE, old.content_type),
            ]
        )
        return Response(204 if old.is_live or only_at is not None else 404, answer)

    def _look_and_delete(
        self, disk: DiskFile, timestamp: Timestamp, only_at: int | None
    ) -> Existing:
        """Look and delete in one hop to the disk's thread. Yields; raises Refused."""
        found = NOTHING

        def admit() -> Sequence[str] | None:
            nonlocal found
            found = look(disk, timestamp.seconds)
            _admit_delete(found, timestamp, only_at)
            return found.names

        disk.delete(timestamp, admit=admit)
        return found

    def _tell_of_delete(
        self,
        call: NodeCall,
        name: ObjectName,
        policy: StoragePolicy,
        old: Existing,
        timestamp: Timestamp,
    ) -> None:
        """Tell the expirer's queue and the container of a tombstone. Yields."""
        if old.delete_at is not None:
            self._updates.clear_queue(
                call,
                name,
                policy,
                delete_at=old.delete_at,
                timestamp=timestamp,
                agent=self.agent,
            )
        self._updates.tell_container(
            call,
            "DELETE",
            name,
            policy,
            Headers.titled([(X_TIMESTAMP, timestamp.internal)]),
            self.agent,
        )

    # --- REPLICATE, SSYNC -------------------------------------------------------------

    def replicate(self, call: NodeCall) -> Response:
        """The suffix hashes of a partition, or mark the suffixes named as changed."""
        manager = self._manager(call)
        if isinstance(manager, Response):
            return manager
        suffixes = [suffix for suffix in call.rest.split("-") if suffix]
        if not all(map(is_suffix, suffixes)):
            raise InvalidInput("REPLICATE of what are no suffixes")
        if suffixes:
            for suffix in suffixes:
                manager.invalidate(call.device, call.partition, suffix)
            hashes = None
        else:
            hashes = manager.suffix_hashes(call.device, call.partition)
            if not hashes:
                # rsync makes a partition's directory, but none above it.
                manager.partitions.names(call.device)
        return Response(200, body=pickle.dumps(hashes, protocol=2))

    def ssync(self, call: NodeCall) -> Response:
        """Take what another node has more or newer of a partition. Yields."""
        manager = self._manager(call)
        if isinstance(manager, Response):
            return manager
        return self._receiver.run(call, manager)

    def _replicated(self, environ: Environ) -> Response:
        """Answer a request that came within an SSYNC. Yields."""
        method = environ[env.REQUEST_METHOD]
        return self._answer(self._handlers[method], environ, method)


@dataclass(frozen=True, slots=True)
class _Posted:
    """The outcome of a POST.

    metadata: for the file, at `timestamp`. content_type: None when it stays.
    type_timestamp: of the content type that stands now.
    """

    metadata: Headers
    timestamp: Timestamp
    metadata_is_new: bool
    content_type: str | None
    type_timestamp: Timestamp


def _admit_delete(old: Existing, timestamp: Timestamp, only_at: int | None) -> None:
    """Raise Refused when a DELETE must leave no tombstone.

    only_at: the X-If-Delete-At, None without.
    """
    if only_at is not None:
        if not old.timestamp:
            raise Refused(Response(404))
        if old.timestamp >= timestamp:
            raise Refused(Response(409, {X_BACKEND_TIMESTAMP: old.timestamp.internal}))
        if old.delete_at != only_at:
            text = f"{X_IF_DELETE_AT} and {X_DELETE_AT} do not match"
            raise Refused(Response(412, body=text))
    elif old.timestamp >= timestamp:
        answer = Headers.titled(
            [
                (X_BACKEND_TIMESTAMP, old.timestamp.internal),
                (X_BACKEND_CONTENT_TYPE, old.content_type),
            ]
        )
        raise Refused(Response(409 if old.is_live else 404, answer))


def app_factory(
    global_conf: Mapping[str, str] | None, **local_conf: str
) -> ObjectServer:
    """The object server that a section [app:object-server] describes
    (egg:swift#object).

    Raises ConfigError.
    """
    context = PipelineContext.of(global_conf)
    config = context.bind(ObjectConfig, local_conf)
    disks = context.bind(DiskConfig, local_conf)
    check_stored_objects(Devices(disks.devices, disks.mount_check), context.cluster)
    return make_server(
        config,
        disks,
        cluster=context.cluster,
        connector=TcpConnector(),
        log=context.logger("object-server"),
        metrics=context.metrics,
    )


def make_server(
    config: ObjectConfig,
    disks: DiskConfig,
    *,
    cluster: Cluster,
    connector: Connector,
    log: Logger,
    metrics: Metrics,
    fs: FileSystem | None = None,
    pending: PendingStore | None = None,
) -> ObjectServer:
    """An object server with its engines and its connections to container servers.

    fs: where the engines keep objects, None for the disk of the process. pending: where
    undelivered updates go, None for the engines' own.
    """
    managers = {
        policy.index: load_plugin("swift.diskfile", policy.engine)(
            disks, policy, cluster.salt, log, metrics, fs=fs
        )
        for policy in cluster.policies
    }
    sender = UpdateSender(
        ConnectionPool(connector, max_idle_per_peer=config.pool_idle_per_peer),
        connect_timeout_s=config.conn_timeout_s,
        answer_timeout_s=min(config.node_timeout_s, config.container_update_timeout_s),
        log=log,
    )
    updates = ObjectUpdates(
        sender,
        {index: pending or manager.pending for index, manager in managers.items()},
        salt=cluster.salt,
        log=log,
        metrics=metrics,
    )
    return ObjectServer(
        config,
        cluster=cluster,
        managers=managers,
        updates=updates,
        log=log,
        metrics=metrics,
    )
