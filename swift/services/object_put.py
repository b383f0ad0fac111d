# SPDX-License-Identifier: Apache-2.0
"""PUT of an object on one node: checks, body, footers, commit, and who hears of it.

One road for every redundancy: a body may be plain or come as MIME documents with
footers behind it; when the client asks for a commit, the object is stored first, a
second `100 Continue` says so, and only the commit makes it durable. Contract
backend-http 2 and 3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5

from swift.core import expiry, mime
from swift.core.conditions import tag_matches
from swift.core.errors import (
    BodyTooLarge,
    ChecksumMismatch,
    ClientDisconnect,
    ClientTimeout,
    FormatError,
    InvalidInput,
    SwiftError,
)
from swift.core.headers import (
    CONTENT_LENGTH,
    CONTENT_MD5,
    CONTENT_TYPE,
    ETAG,
    EXPECT,
    IF_NONE_MATCH,
    OBJECT_META,
    OBJECT_SYSMETA,
    OBJECT_TRANSIENT_SYSMETA,
    TRANSFER_ENCODING,
    X_BACKEND_NO_COMMIT,
    X_BACKEND_OBJ_CONTENT_LENGTH,
    X_BACKEND_OBJ_METADATA_FOOTER,
    X_BACKEND_OBJ_MULTIPART_MIME_BOUNDARY,
    X_BACKEND_OBJ_MULTIPHASE_COMMIT,
    X_BACKEND_REPLICATION_HEADERS,
    X_BACKEND_SSYNC_FRAG_INDEX,
    X_BACKEND_TIMESTAMP,
    X_DELETE_AT,
    X_DOCUMENT,
    X_OBJ_METADATA_FOOTER,
    X_OBJ_MULTIPHASE_COMMIT,
    X_TIMESTAMP,
    Headers,
    title,
)
from swift.core.names import Limits, ObjectName
from swift.core.policy import StoragePolicy
from swift.core.row_facts import put_facts
from swift.core.settings import natural, option, positive_int
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.metrics import Metrics
from swift.services.node import NodeCall
from swift.services.updates import ObjectUpdates
from swift.storage.object.diskfile import DiskFile
from swift.storage.object.existing import Existing, existing, look
from swift.storage.object.writer import ObjectWriter
from swift.wire import environ as env
from swift.wire.body import RequestBody
from swift.wire.request import Response

READ_BYTES = 256 * 1024
"""Bytes asked of a connection at a time, at least; a fifth less CPU than 64 KiB."""

LOOK_LATER_MAX = 256 * 1024
"""Bodies up to this size may be taken before the disk is asked what they replace."""

FOOTERS_BYTES_MAX = 1024 * 1024
"""Bytes of the footer document; metadata limits keep it far below."""

_STORED_PREFIXES = (OBJECT_META, OBJECT_SYSMETA, OBJECT_TRANSIENT_SYSMETA)


@dataclass(frozen=True)
class PutConfig:
    """Options of [app:object-server] that a PUT reads."""

    network_chunk_size: int = option(
        65536, parse=positive_int, doc="Bytes read from a client at a time."
    )
    max_upload_time: int = option(
        86400, parse=natural, doc="Seconds that an upload may take."
    )


class Refused(SwiftError):
    """What stands in an object's place forbids the write."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"refused with {response.status}")
        self.response = response


class _Place:
    """The place of an object that is being written: what stands there, once known.

    To look at a disk costs a hop to its thread. When the sender waits for a go-ahead
    it must be looked at first; a small body that is here already can be taken in, and
    the look made by the disk thread that commits it.
    """

    def __init__(self, disk: DiskFile, headers: Headers, timestamp: Timestamp) -> None:
        self.old: Existing | None = None
        self._disk = disk
        self._timestamp = timestamp
        self._none_match: str | None = dict.get(headers, IF_NONE_MATCH)
        self._fragment_index = headers.integer(X_BACKEND_SSYNC_FRAG_INDEX)

    def admit(self) -> None:
        """Raise Refused, asking the disk unless that was done. Yields."""
        if self.old is None:
            now = self._timestamp.seconds
            self._admit(existing(self._disk.open, now, self._fragment_index))

    def admit_blocking(self) -> Sequence[str] | None:
        """As `admit`, on a disk thread; what stands there (writer.Admit)."""
        old = look(
            self._disk,
            self._timestamp.seconds,
            wants_record=self._none_match is not None,
            fragment_index=self._fragment_index,
        )
        self._admit(old)
        return old.names

    def _admit(self, old: Existing) -> None:
        self.old = old
        if (
            self._none_match is not None
            and old.is_live
            and tag_matches(self._none_match, old.etag)
        ):
            raise Refused(Response(412))
        if old.timestamp >= self._timestamp:
            raise Refused(Response(409, {X_BACKEND_TIMESTAMP: old.timestamp.internal}))


def replication_names(headers: Headers) -> frozenset[str]:
    """The further headers to store that replication traffic names, Title-Cased."""
    text = dict.get(headers, X_BACKEND_REPLICATION_HEADERS)
    if not text:
        return frozenset()
    return frozenset(map(title, text.split()))


class ObjectPut:
    """Takes PUTs for one object server.

    stored_names: Title-Cased headers that are stored beside the families of metadata.
    """

    def __init__(
        self,
        config: PutConfig,
        *,
        limits: Limits,
        stored_names: frozenset[str],
        updates: ObjectUpdates,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._limits = limits
        self._stored_names = stored_names
        self._updates = updates
        self._metrics = metrics

    def run(
        self,
        call: NodeCall,
        name: ObjectName,
        policy: StoragePolicy,
        find: Callable[[], DiskFile],
        agent: str,
    ) -> Response:
        """Store one object and answer. Yields.

        find: gives the disk file, once the request has been found good.
        """
        timestamp = call.timestamp()
        plan = self._checked(call, name, timestamp)
        if isinstance(plan, Response):
            return plan
        headers = call.headers
        disk = find()
        place = _Place(disk, headers, timestamp)
        try:
            if EXPECT in headers or plan.size is None or plan.size > LOOK_LATER_MAX:
                place.admit()
            return self._store(
                call,
                name,
                policy,
                disk,
                plan,
                place=place,
                timestamp=timestamp,
                agent=agent,
            )
        except Refused as refused:
            return refused.response
        except ClientTimeout:
            self._metrics.increment("PUT.timeouts")
            raise

    def _checked(
        self, call: NodeCall, name: ObjectName, timestamp: Timestamp
    ) -> _Plan | Response:
        """What the request promises; raises InvalidInput, answers what is no 400."""
        headers = call.headers
        chunked = dict.get(headers, TRANSFER_ENCODING)
        size = None
        if chunked is not None:
            if chunked.strip().lower() != "chunked":
                return Response(501 if "," in chunked else 400)
        else:
            if CONTENT_LENGTH not in headers:
                return Response(411)
            size = headers.integer(CONTENT_LENGTH)
            if size is not None and size < 0:
                raise InvalidInput("Invalid Content-Length")
        if size is not None and size > self._limits.max_file_size:
            raise BodyTooLarge(f"{size} bytes")
        longest = self._limits.max_object_name_length
        if len(name.obj) > longest:
            raise InvalidInput(
                f"Object name length of {len(name.obj)} longer than {longest}"
            )
        if not dict.get(headers, CONTENT_TYPE):
            raise InvalidInput("No content type")
        delete_at = expiry.delete_at_of(headers)
        if delete_at is not None and expiry.is_past(delete_at, timestamp):
            raise InvalidInput(f"{X_DELETE_AT} in past")
        expected = headers.integer(X_BACKEND_OBJ_CONTENT_LENGTH)
        has_footers = headers.true(X_BACKEND_OBJ_METADATA_FOOTER)
        two_phase = headers.true(X_BACKEND_OBJ_MULTIPHASE_COMMIT)
        boundary = dict.get(headers, X_BACKEND_OBJ_MULTIPART_MIME_BOUNDARY)
        if (has_footers or two_phase) and not boundary:
            raise InvalidInput("no MIME boundary")
        is_mime = bool(boundary) and (has_footers or two_phase)
        return _Plan(
            size=expected if is_mime or size is None else size,
            delete_at=delete_at,
            boundary=boundary if is_mime else None,
            has_footers=has_footers,
            two_phase=two_phase,
        )

    def _store(
        self,
        call: NodeCall,
        name: ObjectName,
        policy: StoragePolicy,
        disk: DiskFile,
        plan: _Plan,
        *,
        place: _Place,
        timestamp: Timestamp,
        agent: str,
    ) -> Response:
        body = plan.open_body(
            call.environ[env.WSGI_INPUT], self._config.network_chunk_size
        )
        started = green.monotonic()
        latest = started + self._config.max_upload_time
        group = call.environ.get(env.COMMIT_GROUP)
        # A proxy that waits to be told to go on still has other nodes to turn to.
        with disk.writer(plan.size, group, asks_first=plan.two_phase) as writer:
            for _ in body.into(writer):
                if green.monotonic() > latest:
                    raise ClientTimeout("the upload takes too long")
            size = writer.size
            if plan.size is not None and size != plan.size:
                raise ClientDisconnect(f"{size} of {plan.size} bytes came")
            footers = body.footers()
            etag = writer.etag
            expected = footers.get(ETAG) or dict.get(call.headers, ETAG)
            if expected and expected.strip().strip('"').lower() != etag:
                place.admit()  # a conflict is told before a mismatch
                raise ChecksumMismatch(f"etag {etag} received, {expected} expected")
            metadata = self._metadata(call.headers, footers, timestamp, size, etag)
            index = policy.redundancy.fragment_index(metadata)
            needs_commit = policy.redundancy.two_phase and not call.headers.true(
                X_BACKEND_NO_COMMIT
            )
            known = place.old is not None
            writer.commit(
                metadata,
                timestamp,
                fragment_index=index,
                durable=needs_commit and not plan.two_phase,
                admit=None if known else place.admit_blocking,
            )
            if plan.two_phase:
                body.wait_for_commit()
                if needs_commit and index is not None:
                    disk.make_durable(timestamp, index)
        if self._metrics.is_on:
            self._metrics.transfer_rate(
                f"PUT.{call.device}.timing", green.monotonic() - started, size
            )
        old = place.old
        assert old is not None, "the commit looked"
        if plan.delete_at != old.delete_at:
            self._requeue(
                call,
                name,
                policy,
                plan,
                old=old,
                timestamp=timestamp,
                size=size,
                agent=agent,
            )
        facts = self._row_facts(call.headers, footers, metadata)
        self._updates.tell_container(call, "PUT", name, policy, facts, agent)
        return Response(201, Headers.titled([(ETAG, f'"{etag}"')]))

    def _requeue(
        self,
        call: NodeCall,
        name: ObjectName,
        policy: StoragePolicy,
        plan: _Plan,
        *,
        old: Existing,
        timestamp: Timestamp,
        size: int,
        agent: str,
    ) -> None:
        """Let the expirer's queue follow a change of X-Delete-At."""
        if plan.delete_at is not None:
            self._updates.tell_queue(
                call,
                name,
                policy,
                delete_at=plan.delete_at,
                size=str(size),
                agent=agent,
            )
        if old.delete_at is not None:
            self._updates.clear_queue(
                call,
                name,
                policy,
                delete_at=old.delete_at,
                timestamp=timestamp,
                agent=agent,
            )

    def _metadata(
        self,
        headers: Headers,
        footers: Headers,
        timestamp: Timestamp,
        size: int,
        etag: str,
    ) -> Headers:
        """The record to store, but for the name."""
        stored_names = self._stored_names
        metadata = Headers.titled(
            [
                (X_TIMESTAMP, timestamp.internal),
                (CONTENT_TYPE, headers[CONTENT_TYPE]),
                (CONTENT_LENGTH, str(size)),
                (ETAG, etag),
            ]
        )
        extra = replication_names(headers) - OWN_NAMES
        put = dict.__setitem__
        for name, value in headers.items():
            if (
                name.startswith(_STORED_PREFIXES)
                or name in stored_names
                or name in extra
            ):
                put(metadata, name, value)
        for name, value in footers.items():
            if name.startswith(_STORED_PREFIXES):
                put(metadata, name, value)
        return metadata

    def _row_facts(
        self, headers: Headers, footers: Headers, metadata: Headers
    ) -> Headers:
        """What the container's row shall say."""
        return put_facts(
            size=metadata[CONTENT_LENGTH],
            content_type=metadata[CONTENT_TYPE],
            timestamp=Timestamp.parse(metadata[X_TIMESTAMP]),
            etag=metadata[ETAG],
            overrides=(headers, footers),
        )


OWN_NAMES = frozenset((X_TIMESTAMP, CONTENT_TYPE, CONTENT_LENGTH, ETAG))
"""What a record says of the body itself; no further header may say otherwise."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a PUT promised in its headers.

    size: bytes of the object, None when unknown. boundary: None for a plain body.
    """

    size: int | None
    delete_at: int | None
    boundary: str | None
    has_footers: bool
    two_phase: bool

    def open_body(self, source: RequestBody, chunk_size: int) -> _Body:
        """The body in the form it comes in."""
        if self.boundary is None:
            is_large = self.size is not None and self.size > LOOK_LATER_MAX
            if is_large and getattr(source, "intake", None) is not None:
                return _LargeBody(source, chunk_size)
            return _Body(source, chunk_size)
        return _MimeBody(source, chunk_size, self)


class _Body:
    """A body that is the object and nothing else."""

    def __init__(self, source: RequestBody, chunk_size: int) -> None:
        self._source = source
        self._chunk_size = max(chunk_size, READ_BYTES)
        # Bytes are taken as they come: to wait for a full chunk would cost a copy.
        self._read = getattr(source, "read_some", source.read)

    def chunks(self) -> Iterator[bytes]:
        """The object's bytes. Yields; raises ClientDisconnect, ClientTimeout."""
        read, size = self._read, self._chunk_size
        while chunk := read(size):
            yield chunk

    def into(self, writer: ObjectWriter) -> Iterator[None]:
        """Hand the object's bytes to the writer step by step. Yields; raises alike."""
        for chunk in self.chunks():
            writer.write(chunk)
            yield

    def footers(self) -> Headers:
        """What came behind the object's bytes, which have been read. Yields."""
        return _NO_FOOTERS

    def wait_for_commit(self) -> None:
        """Return when the sender has confirmed. Yields."""


_NO_FOOTERS = Headers()


class _LargeBody(_Body):
    """A large body of known length: received, hashed and written by disk threads."""

    def into(self, writer: ObjectWriter) -> Iterator[None]:
        intake = self._source.intake()
        if intake is None:
            yield from super().into(writer)
            return
        writer.owns(intake)
        while intake.wait():
            writer.take(intake.receive)
            yield


class _MimeBody(_Body):
    """A body of MIME documents: the object, then perhaps footers and a commit."""

    def __init__(self, source: RequestBody, chunk_size: int, plan: _Plan) -> None:
        super().__init__(source, chunk_size)
        assert plan.boundary is not None
        promises = []
        if plan.has_footers:
            promises.append((X_OBJ_METADATA_FOOTER, "yes"))
        if plan.two_phase:
            promises.append((X_OBJ_MULTIPHASE_COMMIT, "yes"))
        # Without these the proxy takes this node for one that cannot do it.
        source.continue_headers(promises)
        self._parser = mime.MimeParser(plan.boundary.encode("latin-1"))
        self._has_footers = plan.has_footers
        self._events: list[mime.Event] = []

    def _next_event(self) -> mime.Event | None:
        """The next event, None at the end of the input. Yields."""
        while not self._events:
            data = self._read(self._chunk_size)
            if not data:
                return None
            try:
                self._events = self._parser.feed(data)[::-1]
            except FormatError as error:
                raise InvalidInput(str(error)) from error
        return self._events.pop()

    def chunks(self) -> Iterator[bytes]:
        event = self._next_event()
        if event is None:
            raise ClientDisconnect("the body ends before the object begins")
        if not isinstance(event, mime.PartStart):
            raise InvalidInput("no MIME document of the object")
        kind = event.headers.get(X_DOCUMENT)
        if kind != mime.OBJECT_BODY:
            raise InvalidInput(f"the first document is {kind!r}")
        while True:
            event = self._next_event()
            if event is None:
                raise ClientDisconnect("the body ends within the object")
            if isinstance(event, mime.PartEnd):
                return
            assert isinstance(event, bytes), "parts do not nest"
            yield event

    def footers(self) -> Headers:
        if not self._has_footers:
            self._drain()
            return _NO_FOOTERS
        found = self._document()
        if found is None:
            raise InvalidInput("couldn't find footer MIME doc")
        head, content = found
        if head.get(X_DOCUMENT, mime.OBJECT_METADATA) != mime.OBJECT_METADATA:
            raise InvalidInput("bad metadata footer MIME doc")
        digest = head.get(CONTENT_MD5)
        if not digest:
            raise InvalidInput("no Content-MD5 in footer")
        if digest.strip().lower() != md5(content, usedforsecurity=False).hexdigest():
            raise ChecksumMismatch("footer MD5 mismatch")
        try:
            footers = Headers(_texts(json.loads(content)))
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidInput("invalid JSON for footer doc") from error
        self._drain()
        return footers

    def wait_for_commit(self) -> None:
        self._source.resume()
        found = self._document()
        if found is None:
            raise InvalidInput("couldn't find commit MIME doc")
        kind = found[0].get(X_DOCUMENT)
        if kind != mime.PUT_COMMIT:
            raise _WrongDocument(f"{kind!r} in the place of the commit")
        self._drain()

    def _document(self) -> tuple[Headers, bytes] | None:
        """The next whole document, None when no more comes. Yields."""
        event = self._next_event()
        if event is None:
            return None
        if not isinstance(event, mime.PartStart):
            raise InvalidInput("broken MIME document")
        content = bytearray()
        while True:
            part = self._next_event()
            if part is None:
                return None
            if isinstance(part, mime.PartEnd):
                return event.headers, bytes(content)
            assert isinstance(part, bytes), "parts do not nest"
            content += part
            if len(content) > FOOTERS_BYTES_MAX:
                raise InvalidInput("footer MIME doc is too large")

    def _drain(self) -> None:
        """Read up to the end of this phase's input, so that the next begins there."""
        count = 0
        while data := self._read(self._chunk_size):
            try:
                self._events[:0] = self._parser.feed(data)[::-1]
            except FormatError as error:
                raise InvalidInput(str(error)) from error
            count += len(data)
            if count > FOOTERS_BYTES_MAX:
                raise InvalidInput("too much behind the MIME documents")


class _WrongDocument(Exception):
    """Another document where the commit should be; existing servers answer 500."""


def _texts(footers: dict[str, object]) -> dict[str, str]:
    """Footers as WSGI strings: JSON has them as Unicode text."""
    return {
        name: value if isinstance(value, str) else str(value)
        for name, value in footers.items()
    }
