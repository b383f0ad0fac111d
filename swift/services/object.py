# SPDX-License-Identifier: Apache-2.0
"""The object server: GET, HEAD, POST, DELETE and suffix hashes; PUT is in object_put.

What is decided here is the order of checks and the headers of the answers (contract
backend-http 2). How objects lie on a disk is known below, in storage/object; what a
policy's redundancy does differently is asked of the policy.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from uuid import uuid4

from swift.core import expiry, mime
from swift.core.conditions import Conditions
from swift.core.errors import (
    InvalidInput,
    ObjectMissing,
    ObjectQuarantined,
)
from swift.core.headers import (
    ALLOWED_OBJECT_HEADERS,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    CONTENT_TYPE_TIMESTAMP,
    ETAG,
    LAST_MODIFIED,
    OBJECT_META,
    OBJECT_SYSMETA,
    OBJECT_TRANSIENT_SYSMETA,
    RANGE,
    SYSMETA_UPDATE_OVERRIDE,
    X_AUTH_TOKEN,
    X_BACKEND_CONTENT_TYPE,
    X_BACKEND_DATA_TIMESTAMP,
    X_BACKEND_DURABLE_TIMESTAMP,
    X_BACKEND_ETAG_IS_AT,
    X_BACKEND_FRAGMENT_PREFERENCES,
    X_BACKEND_FRAGMENTS,
    X_BACKEND_IGNORE_RANGE_IF_METADATA_PRESENT,
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
    X_STORAGE_TOKEN,
    X_TIMESTAMP,
    Headers,
    title,
)
from swift.core.names import ObjectName
from swift.core.objectfiles import Preference
from swift.core.policy import StoragePolicy
from swift.core.ranges import ByteRange, resolve
from swift.core.settings import boolean, csv, natural, option, positive_int, seconds
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import load_plugin
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics
from swift.services.node import Handler, NodeCall, NodeConfig, NodeServer
from swift.services.object_put import (
    NOTHING,
    OWN_NAMES,
    Existing,
    ObjectPut,
    PutConfig,
    Refused,
    existing,
    replication_names,
)
from swift.services.updates import ObjectUpdates, UpdateSender
from swift.storage.object.context import DiskConfig
from swift.storage.object.diskfile import DiskFile, OpenObject
from swift.storage.object.manager import DiskFileManager
from swift.wire import environ as env
from swift.wire.client import ConnectionPool, Connector, TcpConnector
from swift.wire.environ import Environ, headers_of
from swift.wire.filter import PipelineContext
from swift.wire.request import Response, response_of

WHOLE_BODY_MAX = 65536
"""Bodies up to this size are read, and so verified, before the answer begins."""

_STORED_PREFIXES = (OBJECT_META, OBJECT_SYSMETA, OBJECT_TRANSIENT_SYSMETA)
_POSTED_PREFIXES = (OBJECT_META, OBJECT_TRANSIENT_SYSMETA)


@dataclass(frozen=True)
class ObjectConfig(NodeConfig, PutConfig):
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
    keep_cache_private: bool = option(
        False, parse=boolean, doc="Keep what is read with a token in the page cache."
    )
    keep_cache_size: int = option(
        5242880, parse=natural, doc="Largest object that is kept in the page cache."
    )
    etag_validate_pct: int = option(
        100, parse=natural, doc="Share of reads whose checksum is verified."
    )
    replication_concurrency: int = option(
        4, parse=natural, doc="Incoming SSYNC conversations; 0 is unlimited."
    )
    pool_idle_per_peer: int = option(
        64, parse=positive_int, doc="Idle connections kept to each container server."
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
        self._reads = 0
        self._put = ObjectPut(
            config,
            limits=cluster.limits,
            stored_names=self._stored_names,
            updates=updates,
            metrics=metrics,
        )
        super().__init__(config, cluster=cluster, log=log, metrics=metrics)

    def handlers(self) -> Mapping[str, Handler]:
        """Method → handler."""
        return {
            "GET": self.get,
            "HEAD": self.head,
            "PUT": self.put,
            "POST": self.post,
            "DELETE": self.delete,
            "REPLICATE": self.replicate,
        }

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

    # --- GET, HEAD ------------------------------------------------------------------

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
        headers = call.headers
        conditions = Conditions.of(headers)
        at = headers.timestamp(X_TIMESTAMP)
        try:
            opened = self._diskfile(manager, call, name).open(
                green.now() if at is None else at.seconds,
                open_expired=headers.true(X_BACKEND_OPEN_EXPIRED),
                preferences=_preferences(headers),
            )
        except (ObjectMissing, ObjectQuarantined) as error:
            missing = response_of(error)
            if conditions is not None and conditions.verdict_missing():
                return Response(412, missing.headers)
            return missing
        response: Response | None = None
        try:
            response = self._answer_open(opened, headers, conditions, wants_body)
        except ObjectQuarantined as error:
            # Found out before a byte was sent: another replica can still give the right
            # ones, which is better than a body that breaks off.
            return response_of(error)
        finally:
            # A body that is still to come closes the object itself.
            if response is None or response.app_iter is None:
                opened.close()
        return response

    def _answer_open(
        self,
        opened: OpenObject,
        headers: Headers,
        conditions: Conditions | None,
        wants_body: bool,
    ) -> Response:
        """The answer to a read of an object that is there."""
        metadata = opened.metadata
        answer = self._described(opened)
        length = opened.content_length
        if conditions is not None:
            etag = _conditional_etag(headers, metadata, opened.etag)
            status = conditions.verdict(etag, opened.timestamp.ceil)
            if status is not None:
                dict.__setitem__(answer, CONTENT_LENGTH, "0")
                return Response(status, answer, b"")
        if not wants_body:
            return Response(200, answer, app_iter=None, body=b"")
        keep_cache = self._keeps_cache(headers, length)
        verify = self._verifies()
        spans = None
        range_header = dict.get(headers, RANGE)
        if range_header is not None and not _ignores_range(headers, metadata):
            spans = resolve(range_header, length)
        if spans is None:
            whole = ByteRange(0, length)
            return _with_body(200, answer, opened, whole, verify, keep_cache)
        if not spans:
            del answer[CONTENT_LENGTH]
            answer[CONTENT_RANGE] = f"bytes */{length}"
            answer[CONTENT_TYPE] = "text/html; charset=UTF-8"
            return Response(416, answer)
        if len(spans) == 1:
            span = spans[0]
            dict.__setitem__(answer, CONTENT_LENGTH, str(span.size))
            dict.__setitem__(answer, CONTENT_RANGE, span.content_range(length))
            return _with_body(206, answer, opened, span, verify, keep_cache)
        boundary = uuid4().hex
        content_type = metadata[CONTENT_TYPE]
        total = mime.ranges_length(boundary, content_type, spans, length)
        dict.__setitem__(answer, CONTENT_LENGTH, str(total))
        dict.__setitem__(answer, CONTENT_TYPE, mime.ranges_content_type(boundary))
        parts = _MultiRange(opened, spans, boundary, content_type, keep_cache)
        return Response(206, answer, app_iter=parts)

    def _described(self, opened: OpenObject) -> Headers:
        """The headers of an answer about an object that is there."""
        metadata = opened.metadata
        stored_names = self._stored_names
        answer = Headers()
        put = dict.__setitem__
        for name, value in metadata.items():
            if name.startswith(_STORED_PREFIXES) or name in stored_names:
                put(answer, name, value)
        timestamp = opened.timestamp
        internal = timestamp.internal
        data_timestamp = opened.data_timestamp
        put(answer, CONTENT_TYPE, metadata.get(CONTENT_TYPE, ""))
        put(answer, ETAG, f'"{opened.etag}"')
        put(answer, LAST_MODIFIED, timestamp.http_date)
        put(answer, CONTENT_LENGTH, str(opened.content_length))
        put(answer, X_TIMESTAMP, timestamp.normal)
        put(answer, X_BACKEND_TIMESTAMP, internal)
        put(
            answer,
            X_BACKEND_DATA_TIMESTAMP,
            internal if data_timestamp is timestamp else data_timestamp.internal,
        )
        if opened.durable_timestamp is not None:
            put(answer, X_BACKEND_DURABLE_TIMESTAMP, opened.durable_timestamp.internal)
        if opened.fragments:
            put(answer, X_BACKEND_FRAGMENTS, _fragments_text(opened.fragments))
        return answer

    def _keeps_cache(self, headers: Headers, length: int) -> bool:
        private = not self.config.keep_cache_private and (
            X_AUTH_TOKEN in headers or X_STORAGE_TOKEN in headers
        )
        return length <= self.config.keep_cache_size and not private

    def _verifies(self) -> bool:
        """True for the share of reads that etag_validate_pct names, evenly spread."""
        share = self.config.etag_validate_pct
        if share >= 100:
            return True
        self._reads += 1
        return self._reads * share // 100 != (self._reads - 1) * share // 100

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
            update = Headers.titled(
                [
                    (X_SIZE, old[CONTENT_LENGTH]),
                    (X_CONTENT_TYPE, content_type),
                    (X_TIMESTAMP, opened.data_timestamp.internal),
                    (X_CONTENT_TYPE_TIMESTAMP, posted.type_timestamp.internal),
                    (X_META_TIMESTAMP, posted.timestamp.internal),
                    (X_ETAG, opened.etag),
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
        old = existing(disk.open_cached, timestamp.seconds)
        try:
            if old is None:
                old = self._look_and_delete(disk, timestamp, only_at)
            else:
                _admit_delete(old, timestamp, only_at)
                disk.delete(timestamp)
        except Refused as refused:
            return refused.response
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

        def admit() -> None:
            nonlocal found
            found = existing(disk.open_blocking, timestamp.seconds) or NOTHING
            _admit_delete(found, timestamp, only_at)

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

    # --- REPLICATE --------------------------------------------------------------------

    def replicate(self, call: NodeCall) -> Response:
        """The suffix hashes of a partition, or mark the suffixes named as changed."""
        manager = self._manager(call)
        if isinstance(manager, Response):
            return manager
        suffixes = [suffix for suffix in call.rest.split("-") if suffix]
        if suffixes:
            for suffix in suffixes:
                manager.invalidate(call.device, call.partition, suffix)
            hashes = None
        else:
            hashes = manager.suffix_hashes(call.device, call.partition)
        return Response(200, body=pickle.dumps(hashes, protocol=2))


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


class _MultiRange:
    """The body of a multi-range answer: parts of an open object, which it closes."""

    def __init__(
        self,
        opened: OpenObject,
        spans: Sequence[ByteRange],
        boundary: str,
        content_type: str,
        keep_cache: bool,
    ) -> None:
        self._opened = opened
        self._chunks = self._parts(opened, spans, boundary, content_type, keep_cache)

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def _parts(
        self,
        opened: OpenObject,
        spans: Sequence[ByteRange],
        boundary: str,
        content_type: str,
        keep_cache: bool,
    ) -> Iterator[bytes]:
        length = opened.content_length
        for span in spans:
            yield mime.range_opening(boundary, content_type, span, length)
            reader = opened.reader(
                span.start, span.stop, verify=False, keep_cache=keep_cache
            )
            with closing(reader):
                yield from reader
            yield mime.RANGE_END
        yield mime.ranges_closing(boundary)

    def close(self) -> None:
        """Close the object."""
        self._chunks.close()  # type: ignore[attr-defined]
        self._opened.close()


def _with_body(
    status: int,
    answer: Headers,
    opened: OpenObject,
    span: ByteRange,
    verify: bool,
    keep_cache: bool,
) -> Response:
    """An answer with a part of the object, or all of it, as its body.

    Small bodies are read and verified now, for then the answer leaves in one piece;
    raises ObjectQuarantined when such a body is not what was stored. Yields.
    """
    if span.size > WHOLE_BODY_MAX:
        body = opened.span(span.start, span.stop, owner=True)
        if body is not None:
            return Response(status, answer, app_iter=body)
    reader = opened.reader(
        span.start, span.stop, verify=verify, keep_cache=keep_cache, owner=True
    )
    if span.size <= WHOLE_BODY_MAX:
        with closing(reader):
            return Response(status, answer, b"".join(reader))
    return Response(status, answer, app_iter=reader)


def _conditional_etag(headers: Headers, metadata: Headers, etag: str) -> str:
    """The etag that conditions are held against; X-Backend-Etag-Is-At picks it."""
    names = headers.get(X_BACKEND_ETAG_IS_AT)
    if names:
        for name in names.split(","):
            found: str | None = metadata.get(name.strip())
            if found is not None:
                return found
    return etag


def _ignores_range(headers: Headers, metadata: Headers) -> bool:
    """True when the object has metadata that makes ranges of its bytes meaningless."""
    names = headers.get(X_BACKEND_IGNORE_RANGE_IF_METADATA_PRESENT)
    return bool(names) and any(name.strip() in metadata for name in names.split(","))


def _preferences(headers: Headers) -> list[Preference] | None:
    """X-Backend-Fragment-Preferences, None when absent; raises InvalidInput."""
    text = dict.get(headers, X_BACKEND_FRAGMENT_PREFERENCES)
    if text is None:
        return None
    try:
        return [
            Preference(
                Timestamp.parse(item["timestamp"]),
                frozenset(int(index) for index in item["exclude"]),
            )
            for item in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(f"Invalid {X_BACKEND_FRAGMENT_PREFERENCES}") from error


def _fragments_text(fragments: Mapping[Timestamp, Sequence[int]]) -> str:
    return json.dumps(
        {timestamp.internal: list(found) for timestamp, found in fragments.items()}
    )


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
) -> ObjectServer:
    """An object server with its engines and its connections to container servers."""
    managers = {
        policy.index: load_plugin("swift.diskfile", policy.engine)(
            disks, policy, cluster.salt, log, metrics
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
        {index: manager.pending for index, manager in managers.items()},
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
