# SPDX-License-Identifier: Apache-2.0
"""The sending end of ssync: offer objects of a partition to a node, send what it wants.

Both scheme's daemons push through here. What they do differently is said by the `Push`
(which fragments, for whom) and by the source of the bodies: a replica sends its own, a
reconstructor sends a rebuilt one. Contract backend-http §11.
"""

from __future__ import annotations

from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing
from dataclasses import dataclass

from swift.core import ssync
from swift.core.errors import (
    ObjectChanged,
    ObjectCollision,
    ObjectDeleted,
    ObjectMissing,
    ObjectQuarantined,
    PeerError,
)
from swift.core.headers import (
    CONTENT_TYPE,
    CONTENT_TYPE_TIMESTAMP,
    TRANSFER_ENCODING,
    USER_AGENT,
    X_BACKEND_ACCEPT_NO_COMMIT,
    X_BACKEND_NO_COMMIT,
    X_BACKEND_SSYNC_FRAG_INDEX,
    X_BACKEND_SSYNC_NODE_INDEX,
    X_BACKEND_STORAGE_POLICY_INDEX,
    X_BACKEND_USE_REPLICATION_NETWORK,
    X_TIMESTAMP,
    Headers,
)
from swift.core.metadata import NAME
from swift.core.names import ObjectName, quote_segment, split_name
from swift.core.objectfiles import FileSet, Preference
from swift.core.ring.devices import Node
from swift.core.ssync import Holding, LineBuffer, Offer, ProtocolError, Update, Want
from swift.runtime import green
from swift.storage.object.diskfile import OpenObject
from swift.storage.object.manager import DiskFileManager
from swift.storage.object.partitions import ObjectNames
from swift.wire.client import ConnectionPool, HttpConnection
from swift.wire.client_response import ClientResponse

BATCH_BYTES = 262_144
"""Bytes of lines and small objects that go out by one call."""

ERROR_MAX = 1024
"""Bytes of a peer's refusal that are read."""

_NO_PREFERENCES: Sequence[Preference] = ()


@dataclass(frozen=True, slots=True)
class Push:
    """What one conversation is about.

    device: ours, where the objects are. fragment_index: of the fragments that are
    offered, None for whole copies. peer_index: what the receiver is told to be.
    non_durable: offer data whose commit was not seen, too. check_only: ask what is
    missing, and send nothing.
    """

    node: Node
    device: str
    partition: int
    fragment_index: int | None = None
    peer_index: int | None = None
    non_durable: bool = False
    check_only: bool = False


Source = Callable[[OpenObject, Push], tuple[Headers, Iterator[bytes]]]
"""The metadata and the body that a peer is sent for an object that we have; the body
has a close(). Raises ObjectQuarantined, ObjectMissing when there is nothing to send;
PeerError out of the body, for what cannot be completed, ends the conversation."""


def own_copy(opened: OpenObject, push: Push) -> tuple[Headers, Iterator[bytes]]:
    """What lies on our disk."""
    metadata = opened.data_metadata
    metadata.pop(NAME, None)
    return metadata, opened.reader()


class SsyncSender:
    """Pushes objects of one policy.

    manager: the engine that has them. answer_timeout_s: of each wait for the peer.
    ahead: how many objects are prepared while one is sent; for sources that wait.
    """

    def __init__(
        self,
        manager: DiskFileManager,
        pool: ConnectionPool,
        *,
        user_agent: str,
        connect_timeout_s: float,
        answer_timeout_s: float,
        source: Source = own_copy,
        ahead: int = 0,
    ) -> None:
        self.manager = manager
        self.source = source
        self.ahead = ahead
        self.answer_timeout_s = answer_timeout_s
        self._pool = pool
        self._user_agent = user_agent
        self._connect_timeout_s = connect_timeout_s

    def push(self, push: Push, objects: ObjectNames) -> dict[str, FileSet]:
        """Offer objects and send what is wanted: what the peer has now.

        Those are hashes of objects, each with the files that were offered. Yields.
        Raises PeerError for a peer that cannot be reached, refuses or breaks off,
        ProtocolError for one that talks nonsense, DeviceUnavailable for our disk.
        """
        node = push.node
        # Not one of the kept connections: their peers may close them at any moment,
        # and a conversation cannot be repeated unseen.
        connection = self._pool.dial(
            node.replication_ip, node.replication_port, self._connect_timeout_s
        )
        try:
            target = f"/{quote_segment(node.name)}/{push.partition}"
            connection.send_head("SSYNC", target, self._headers(push))
            response = connection.response(self.answer_timeout_s)
            if response.status != 200:
                reason = response.read(ERROR_MAX).decode("utf-8", "replace")
                raise Refused(connection.peer, response.status, reason)
            return _Conversation(self, push, connection, response).hold(objects)
        finally:
            connection.close()

    def _headers(self, push: Push) -> list[tuple[str, str]]:
        headers = [
            (TRANSFER_ENCODING, "chunked"),
            (USER_AGENT, self._user_agent),
            (X_BACKEND_USE_REPLICATION_NETWORK, "true"),
            (X_BACKEND_STORAGE_POLICY_INDEX, str(self.manager.policy.index)),
        ]
        if push.peer_index is not None:
            index = str(push.peer_index)
            headers.append((X_BACKEND_SSYNC_FRAG_INDEX, index))
            headers.append((X_BACKEND_SSYNC_NODE_INDEX, index))
        return headers


class Refused(PeerError):
    """A node that answers an SSYNC with another status than 200."""

    def __init__(self, peer: str, status: int, reason: str) -> None:
        super().__init__(peer, f"SSYNC: {status} {reason[:200]!r}")
        self.status = status


class Busy(PeerError):
    """A peer that holds as many conversations as it may."""


class _Conversation:
    """One SSYNC that a peer has accepted."""

    def __init__(
        self,
        sender: SsyncSender,
        push: Push,
        connection: HttpConnection,
        response: ClientResponse,
    ) -> None:
        self._sender = sender
        self._push = push
        self._connection = connection
        self._response = response
        self._lines = LineBuffer()
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        accepts = response.headers.true(X_BACKEND_ACCEPT_NO_COMMIT)
        self._preferences = _NO_PREFERENCES if push.non_durable and accepts else None

    def hold(self, objects: ObjectNames) -> dict[str, FileSet]:
        """The whole conversation; which offers the peer has at its end. Yields."""
        offered = self._offer(objects)
        wants = self._read_wants(offered)
        if self._push.check_only:
            self._connection.end_chunks()
            sent: set[str] = set()
        else:
            sent = self._send_updates(wants)
        return {
            path_hash: files
            for path_hash, files in offered.items()
            if path_hash in sent or path_hash not in wants
        }

    # --- sending ----------------------------------------------------------------------

    def _send(self, *pieces: bytes) -> None:
        """Send now or soon; many small pieces make one chunk. Yields."""
        for piece in pieces:
            self._batch.append(piece)
            self._batch_bytes += len(piece)
        if self._batch_bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        self._connection.send_chunk(b"".join(batch))

    def _send_line(self, line: bytes) -> None:
        self._send(line, ssync.CRLF)

    def _offer(self, objects: ObjectNames) -> dict[str, FileSet]:
        """Offer what may be offered of some objects. Yields."""
        redundancy = self._sender.manager.policy.redundancy
        offered = {}
        self._send_line(ssync.MISSING_START)
        for path_hash, names in objects.items():
            files = redundancy.choose(
                names,
                preferences=self._preferences,
                fragment_index=self._push.fragment_index,
            )
            holding = Holding.of(files)
            if holding is None:
                continue
            self._send(Offer(path_hash, holding).encode())
            offered[path_hash] = files
        self._send_line(ssync.MISSING_END)
        self._flush()
        return offered

    # --- reading ----------------------------------------------------------------------

    def _line(self) -> bytes:
        """The next line that is not empty. Yields. Raises ProtocolError, PeerError."""
        while True:
            line = self._lines.line()
            if line is None:
                data = self._response.read_some()
                if not data:
                    raise ProtocolError("the answer ends too early")
                self._lines.feed(data)
            elif line.strip():
                line = line.strip()
                if line.startswith(ssync.ERROR_PREFIX):
                    told = line[:ERROR_MAX].decode("utf-8", "replace")
                    if line.startswith(ssync.BUSY_PREFIX):
                        raise Busy(self._connection.peer, told)
                    raise ProtocolError(told)
                return line

    def _expect(self, expected: bytes) -> None:
        line = self._line()
        if line != expected:
            raise ProtocolError(f"{line!r:.120} where {expected!r} should be")

    def _read_wants(self, offered: Collection[str]) -> Mapping[str, Want]:
        """What the peer wants of the offers, by hash. Yields."""
        self._expect(ssync.MISSING_START)
        wants: dict[str, Want] = {}
        while (line := self._line()) != ssync.MISSING_END:
            want = Want.parse(line)
            if want.path_hash not in offered or want.path_hash in wants:
                raise ProtocolError(f"{want.path_hash} is wanted but not offered")
            wants[want.path_hash] = want
        return wants

    # --- updates ----------------------------------------------------------------------

    def _send_updates(self, wants: Mapping[str, Want]) -> set[str]:
        """Send what is wanted; the hashes that the peer has taken. Yields."""
        sent = set()
        self._send_line(ssync.UPDATES_START)
        with closing(self._prepared(wants.values())) as prepared:
            for want, outgoing in prepared:
                if outgoing is None:
                    continue
                with closing(outgoing):
                    for piece in outgoing.pieces():
                        self._send(piece)
                sent.add(want.path_hash)
        self._send_line(ssync.UPDATES_END)
        self._flush()
        self._expect(ssync.UPDATES_START)
        self._expect(ssync.UPDATES_END)
        self._connection.end_chunks()
        return sent

    def _prepared(
        self, wants: Iterable[Want]
    ) -> Generator[tuple[Want, _Outgoing | None]]:
        """What is sent for each want, in their order; None for nothing. Yields.

        While one is sent, some that follow are prepared. Who takes one closes it.
        """
        ahead = self._sender.ahead
        threads: deque[tuple[Want, green.Thread]] = deque()
        try:
            for want in wants:
                if not ahead:
                    yield want, self._prepare(want)
                    continue
                threads.append((want, green.spawn(self._prepare, want)))
                if len(threads) > ahead:
                    yield _taken(threads)
            while threads:
                yield _taken(threads)
        finally:
            for _, thread in threads:
                thread.kill()
                if thread.ended and not thread.error and (unsent := thread.wait()):
                    unsent.close()

    def _prepare(self, want: Want) -> _Outgoing | None:
        """What is sent for a want; None when it is not there any more. Yields."""
        push, manager = self._push, self._sender.manager
        disk = manager.diskfile_by_hash(push.device, push.partition, want.path_hash)
        try:
            opened = disk.open(
                green.now(),
                open_expired=True,
                preferences=self._preferences,
                fragment_index=push.fragment_index,
            )
        except ObjectDeleted as error:
            name = split_name(error.name)
            if not isinstance(name, ObjectName):
                return None
            headers = Headers.titled([(X_TIMESTAMP, error.timestamp.internal)])
            return _Outgoing(delete=Update("DELETE", name, headers))
        except (ObjectMissing, ObjectQuarantined, ObjectCollision, ObjectChanged):
            # It is sent by the next pass, should anything be left to send.
            return None
        outgoing = _Outgoing(opened)
        try:
            if outgoing.prepare(want, self._sender.source, push):
                return outgoing
        except BaseException:
            outgoing.close()
            raise
        outgoing.close()
        return None


def _taken(
    threads: deque[tuple[Want, green.Thread]],
) -> tuple[Want, _Outgoing | None]:
    """What the first of some threads has prepared; it leaves them then. Yields."""
    want, thread = threads[0]
    outgoing: _Outgoing | None = thread.wait()
    threads.popleft()
    return want, outgoing


class _Outgoing:
    """What is sent of one object: a PUT, a POST, or both; or a DELETE."""

    def __init__(
        self, opened: OpenObject | None = None, delete: Update | None = None
    ) -> None:
        """opened: closed by `close`."""
        self._opened = opened
        self._head = b"" if delete is None else delete.encode()
        self._body: Iterator[bytes] | None = None
        self._path = ""
        self._left = 0
        self._first = b""
        self._post = b""

    def prepare(self, want: Want, source: Source, push: Push) -> bool:
        """Get what is wanted; False for nothing to send. Yields. Raises PeerError."""
        opened = self._opened
        assert opened is not None, "a DELETE is prepared"
        name = split_name(opened.name)
        if not isinstance(name, ObjectName):
            return False
        try:
            if want.data:
                self._prepare_data(name, opened, source, push)
        except (ObjectMissing, ObjectQuarantined):
            return False
        if want.meta and opened.meta_metadata is not None:
            headers = _posted(opened, opened.meta_metadata)
            self._post = Update("POST", name, headers).encode()
        return True

    def _prepare_data(
        self, name: ObjectName, opened: OpenObject, source: Source, push: Push
    ) -> None:
        headers, self._body = source(opened, push)
        if opened.durable_timestamp != opened.data_timestamp:
            headers[X_BACKEND_NO_COMMIT] = "True"
        update = Update("PUT", name, headers)
        self._path = name.path
        self._left = update.size
        self._head = update.encode()
        self._first = next(self._body, b"") if update.size else b""

    def pieces(self) -> Iterator[bytes]:
        """All that is sent. Yields. Raises ProtocolError, PeerError for the body."""
        yield self._head
        self._left -= len(self._first)
        yield self._first
        if self._left and self._body is not None:
            for chunk in self._body:
                self._left -= len(chunk)
                yield chunk
        if self._left:
            raise ProtocolError(f"the body of {self._path} is {self._left} bytes short")
        yield self._post

    def close(self) -> None:
        """Let go of the object and the sources of its body."""
        if self._body is not None:
            # No chunk of an empty body ever comes; close() is the source's promise.
            self._body.close()  # type: ignore[attr-defined]
        if self._opened is not None:
            self._opened.close()


def _posted(opened: OpenObject, meta: Headers) -> Headers:
    """The headers of a POST that makes a peer's metadata ours."""
    headers = meta.copy()
    headers.pop(NAME, None)
    if opened.content_type_timestamp > opened.data_timestamp:
        # It may come from an older POST than the rest.
        headers[CONTENT_TYPE] = opened.metadata[CONTENT_TYPE]
        headers[CONTENT_TYPE_TIMESTAMP] = opened.content_type_timestamp.internal
    return headers
