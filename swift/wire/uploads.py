# SPDX-License-Identifier: Apache-2.0
"""One PUT to one node, for bodies that are passed on as they come.

`connect_all` finds a node for each archive that says `100 Continue`. From then on each
`Upload` has a bounded queue and a green thread that empties it into the connection, so
that a slow node fills its own queue and, after its timeout, loses its place, while the
others go on. A body is sent as it is, in chunks, or as the documents of a multi-phase
PUT (contract backend-http 3): then footers follow, and a commit when the sender says
so. An upload that is not finished breaks its connection; the node keeps nothing of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

from swift.core import headers as h
from swift.core import mime
from swift.core.errors import PeerError, PeerTimeout
from swift.core.quorum import NO_ANSWER, Answer
from swift.core.ring.devices import Node
from swift.runtime import green
from swift.wire.backends import Ask, Backends, Pairs
from swift.wire.client import HttpConnection
from swift.wire.client_response import ClientResponse
from swift.wire.nodes import Candidates
from swift.wire.splicing import TURN, WINDOW_BYTES, Pipe, give_back, take_wide_pipes

QUEUE_MAX = 4
"""Chunks that wait for one node; the same objects wait for the others."""

ANSWER_MAX = 65536
"""Bytes that are read of the body of an answer."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How a body travels.

    length: of the object, None when unknown. boundary: of the documents, None for a
    plain body. has_footers: metadata follows the bytes. two_phase: and then a commit.
    """

    length: int | None
    boundary: str | None = None
    has_footers: bool = False
    two_phase: bool = False

    @property
    def is_chunked(self) -> bool:
        """True when the body comes in chunks."""
        return self.length is None or self.boundary is not None

    def headers(self) -> list[tuple[str, str]]:
        """What tells the server."""
        found = [(h.EXPECT, "100-continue")]
        if not self.is_chunked:
            found.append((h.CONTENT_LENGTH, str(self.length)))
            return found
        found.append((h.TRANSFER_ENCODING, "chunked"))
        if self.boundary is None:
            return found
        if self.length is not None:
            found.append((h.X_BACKEND_OBJ_CONTENT_LENGTH, str(self.length)))
        found.append((h.X_BACKEND_OBJ_MULTIPART_MIME_BOUNDARY, self.boundary))
        if self.has_footers:
            found.append((h.X_BACKEND_OBJ_METADATA_FOOTER, "yes"))
        if self.two_phase:
            found.append((h.X_BACKEND_OBJ_MULTIPHASE_COMMIT, "yes"))
        return found

    def is_understood(self, response: ClientResponse) -> bool:
        """True when a `100 Continue` grants all that was asked for."""
        granted = response.headers
        return (not self.has_footers or granted.true(h.X_OBJ_METADATA_FOOTER)) and (
            not self.two_phase or granted.true(h.X_OBJ_MULTIPHASE_COMMIT)
        )


@dataclass(frozen=True, slots=True)
class _End:
    """The body is complete. footers: to send after it."""

    footers: Mapping[str, str] | None


class _Commit:
    """Make it durable."""


@dataclass(frozen=True, slots=True)
class _Rest:
    """The end of what was begun, framing and all."""

    data: bytes


_Item = bytes | _Rest | _End | _Commit


class Upload:
    """A PUT whose node waits for the body.

    index: of the archive. is_alive: the node still has its place. Its owner ends it
    with `finish` (and `commit`), or `abort`.
    """

    def __init__(
        self,
        backends: Backends,
        node: Node,
        index: int,
        connection: HttpConnection,
        framing: Framing,
        timeout_s: float,
        results: green.Queue[tuple[Upload, Answer]],
    ) -> None:
        self.node = node
        self.index = index
        self.is_alive = True
        self.is_finished = False
        self._is_idle = False  # the thread waits for bytes
        self._backends = backends
        self._connection = connection
        self._framing = framing
        self._timeout_s = timeout_s
        self._results = results
        self._queue: green.Queue[_Item] = green.Queue(QUEUE_MAX)
        self._pipe: Pipe | None = None  # bytes on their way inside the kernel
        self._thread = green.spawn(self._run)

    # --- The sender's side ------------------------------------------------------------

    def put(self, chunk: bytes) -> bool:
        """Queue bytes; False when the node has lost its place. Yields if slow.

        What the kernel takes at once needs no queue and no other thread.
        """
        if not self.is_alive:
            return False
        try:
            item: _Item = chunk
            if self._is_idle and not len(self._queue):
                left = self._send_now(chunk)
                if not left:
                    return True
                item = _Rest(left)
            self._queue.put(item, self._timeout_s)
        except PeerError as error:
            self._lose(error)
            self._thread.kill()
            self._connection.close()
        except green.QueueFull:
            slow = PeerTimeout(self._connection.peer, "takes the body too slowly")
            self._lose(slow)
            self._thread.kill()
            self._connection.close()
        return self.is_alive

    def _send_now(self, chunk: bytes) -> bytes:
        """Send what the kernel takes; the rest, as it is to be sent."""
        if self._framing.is_chunked:
            return self._connection.send_chunk_now(chunk)
        return chunk[self._connection.send_now(chunk) :]

    @property
    def can_splice(self) -> bool:
        """True when nothing is put around the bytes, on a plain socket."""
        return not self._framing.is_chunked and self._connection.channel.can_splice

    def begin_splicing(self, pipe: Pipe) -> None:
        """Send what `pipe` is given from now on, by `flow` and `settle`."""
        self._pipe = pipe

    def end_splicing(self) -> None:
        """Let go of the pipe, and of what is left in it."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            give_back(pipe)

    def flow(self, source: Pipe, *, keep: bool) -> Pipe:
        """Begin to send what `source` holds, after `settle`; the pipe to fill next.

        keep: others want the same bytes; else the two pipes change places.
        """
        own = self._pipe
        assert own is not None, "splicing has begun"
        if keep:
            self._guarded(source.copy_to, own)
        else:
            self._pipe, source, own = source, own, source
        if self.is_alive:
            self._guarded(own.drain, self._connection.channel)
        return source

    def settle(self, since: float) -> bool:
        """Send what is left of it; False when the node has lost its place. Yields.

        since: when the nodes' time for it began (monotonic), the same for all.
        """
        pipe = self._pipe
        if self.is_alive and pipe is not None and pipe.held:
            left = max(0.0, since + self._timeout_s - green.monotonic())
            self._guarded(pipe.drain_all, self._connection.channel, left)
        return self.is_alive

    def _guarded(self, send: Callable[..., None], *arguments: object) -> None:
        """Lose the node when sending fails."""
        try:
            send(*arguments)
        except (TimeoutError, OSError) as error:
            self._lose(self._connection.failed(error))
            self._thread.kill()
            self._connection.close()

    def finish(self, footers: Mapping[str, str] | None = None) -> None:
        """End the body. The answer, or that the node is ready, goes to the results."""
        self.is_finished = True
        self._order(_End(footers))

    def commit(self) -> None:
        """Let a node that is ready make it durable; its answer goes to the results."""
        self._order(_Commit())

    def abort(self) -> None:
        """Break off; the node keeps nothing."""
        self.is_alive = False
        self._thread.kill()
        self._connection.close()

    def _order(self, item: _Item) -> None:
        if not self.is_alive:
            return
        try:
            self._queue.put(item, self._timeout_s)
        except green.QueueFull:
            self._lose(PeerTimeout(self._connection.peer, "takes the body too slowly"))
            self._thread.kill()
            self._connection.close()

    def _lose(self, error: PeerError) -> None:
        if self.is_alive:
            self.is_alive = False
            self._backends.failed(self.node, "PUT", error)
            self._results.put((self, Answer(NO_ANSWER, source=self.node)))

    # --- The node's side --------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._send_all()
        except PeerError as error:
            self._connection.close()
            self._lose(error)

    def _send_all(self) -> None:
        connection = self._connection
        framing = self._framing
        if framing.boundary is not None:
            connection.send_chunk(mime.body_opening(framing.boundary))
        send = connection.send_chunk if framing.is_chunked else connection.send
        get = self._queue.get
        while True:
            self._is_idle = True
            item = get()
            self._is_idle = False
            if type(item) is bytes:
                send(item)
            elif type(item) is _Rest:
                connection.send(item.data)
            else:
                break
        assert isinstance(item, _End), "the body is ended before the commit"
        self._send_end(item.footers)
        response = self._await_commit() if framing.two_phase else None
        if response is None:
            response = connection.response(self._timeout_s)
        body = b""
        if response.content_length:
            body = response.read(ANSWER_MAX)
        response.drain(ANSWER_MAX)
        self.is_alive = False
        self._backends.observe(self.node, response.status, "PUT")
        answer = Answer(response.status, response.headers, body, source=self.node)
        self._results.put((self, answer))

    def _send_end(self, footers: Mapping[str, str] | None) -> None:
        framing = self._framing
        boundary = framing.boundary
        if boundary is not None:
            last = not framing.two_phase
            if framing.has_footers:
                tail = mime.footer_document(boundary, footers or {}, last=last)
            else:
                tail = mime.body_closing(boundary, last=last)
            self._connection.send_chunk(tail)
        if framing.is_chunked:
            self._connection.end_chunks()

    def _await_commit(self) -> ClientResponse | None:
        """Report the node ready, and send it the commit; its answer if it refuses.

        Raises PeerError.
        """
        connection = self._connection
        assert self._framing.boundary is not None, "phases are documents"
        ready = connection.wait_continue(self._timeout_s)
        if ready.status != 100:
            return ready
        self._results.put((self, Answer(100, ready.headers, source=self.node)))
        item = self._queue.get()
        assert isinstance(item, _Commit), "a commit follows the body"
        connection.send_chunk(mime.commit_document(self._framing.boundary))
        connection.end_chunks()
        return None


class SplicedSource(Protocol):
    """A body of known length that pipes can be filled from (`RequestBody`)."""

    def splice_into(self, pipe: Pipe, count: int) -> int:
        """Put 1 to `count` bytes into an empty pipe; how many. Yields."""


def splice_to_all(
    source: SplicedSource, length: int, uploads: Sequence[Upload], quorum: int
) -> bool | None:
    """Pass a body on to all nodes inside the kernel; False when too few are left.

    None when there are no pipes for it: then nothing was taken from the source. Yields.
    Raises what the source raises.
    """
    pipes = take_wide_pipes(len(uploads) + 1)
    if pipes is None:
        return None
    spare = pipes.pop()
    try:
        for upload, pipe in zip(uploads, pipes, strict=True):
            upload.begin_splicing(pipe)
        left, steps = length, 0
        while left:
            left -= source.splice_into(spare, min(left, WINDOW_BYTES))
            # While the client sent that, nodes had time for what came before.
            since = green.monotonic()
            alive = [upload for upload in uploads if upload.settle(since)]
            if len(alive) < quorum:
                return False
            for upload in alive:
                spare = upload.flow(spare, keep=upload is not alive[-1])
            steps += 1
            if not steps % TURN:
                green.yield_now()
        since = green.monotonic()
        return sum(upload.settle(since) for upload in uploads) >= quorum
    finally:
        give_back(spare)
        for upload in uploads:
            upload.end_splicing()


@dataclass(slots=True)
class Connected:
    """What came of asking nodes to take a body.

    uploads: nodes that wait for it, by index of the archive. answers: those of nodes
    that gave a final answer instead, one for each other archive.
    """

    uploads: list[Upload]
    answers: list[Answer]
    results: green.Queue[tuple[Upload, Answer]]


def connect_all(
    backends: Backends,
    ask: Ask,
    extras: Sequence[Pairs],
    candidates: Candidates,
    framing: Framing,
    timeout_s: float,
    archive_index: Callable[[int], int | None] = lambda position: None,
) -> Connected:
    """Find a node for each archive. Yields.

    extras: headers of each archive's request. A node that fails, or answers 5xx, is
    replaced by the next candidate as long as there is one. archive_index: which
    positions get the same archive; a primary gets that of its own position, and others
    fill the gaps, those first of which fewest copies are placed.
    """
    results: green.Queue[tuple[Upload, Answer]] = green.Queue()
    found: green.Queue[Upload | Answer] = green.Queue()
    ask = Ask(ask.method, ask.partition, ask.path, [*ask.headers, *framing.headers()])

    first = _placed(candidates, len(extras), archive_index)

    is_left = False

    def connect(index: int) -> None:
        outcome: Upload | Answer = Answer(NO_ANSWER)
        own = first[index]
        try:
            for node in chain([] if own is None else [own], candidates):
                began = _begin(backends, node, ask, extras[index], framing, timeout_s)
                if isinstance(began, Answer):
                    outcome = began
                    if began.status < 500:
                        break
                elif began is not None:
                    if is_left:
                        began.close()
                        break
                    outcome = Upload(
                        backends, node, index, began, framing, timeout_s, results
                    )
                    break
        finally:
            found.put(outcome)

    for index in range(len(extras)):
        green.spawn(connect, index)
    uploads: list[Upload] = []
    answers: list[Answer] = []
    try:
        for _ in extras:
            outcome = found.get()
            if isinstance(outcome, Upload):
                uploads.append(outcome)
            else:
                answers.append(outcome)
    except BaseException:
        is_left = True
        while len(found):
            outcome = found.get()
            if isinstance(outcome, Upload):
                uploads.append(outcome)
        for upload in uploads:
            upload.abort()
        raise
    uploads.sort(key=lambda upload: upload.index)
    return Connected(uploads, answers, results)


def _placed(
    candidates: Iterator[Node],
    positions: int,
    archive_index: Callable[[int], int | None],
) -> list[Node | None]:
    """The node that is tried first for each position; None when there are too few."""
    placed: list[Node | None] = [None] * positions
    others = []
    for node in islice(candidates, positions):
        at = node.index
        if at is not None and at < positions and placed[at] is None:
            placed[at] = node
        else:
            others.append(node)
    copies = Counter(
        archive_index(at) for at, node in enumerate(placed) if node is not None
    )
    for node in others:
        gaps = [at for at, taken in enumerate(placed) if taken is None]
        at = min(gaps, key=lambda position: copies[archive_index(position)])
        placed[at] = node
        copies[archive_index(at)] += 1
    return placed


def _begin(
    backends: Backends,
    node: Node,
    ask: Ask,
    extra: Pairs,
    framing: Framing,
    timeout_s: float,
) -> HttpConnection | Answer | None:
    """A connection whose node says 100, its final answer, or None when it failed."""
    connection: HttpConnection | None = None
    try:
        connection = backends.connect(node)
        try:
            response = _send_head(connection, node, ask, extra, timeout_s)
        except PeerTimeout:
            raise
        except PeerError:
            if connection.fresh or connection.answering:
                raise
            connection.close()
            connection = backends.dial(node)
            response = _send_head(connection, node, ask, extra, timeout_s)
        if response.status == 100:
            if framing.is_understood(response):
                return connection
            raise PeerError(connection.peer, "does not know documents in a PUT")
        backends.observe(node, response.status, f"{ask.method} {ask.path}")
        body = response.read(ANSWER_MAX)
        response.close()
        connection.close()
        return Answer(response.status, response.headers, body, source=node)
    except PeerError as error:
        if connection is not None:
            connection.close()
        backends.failed(node, f"{ask.method} {ask.path}", error)
        return None
    except BaseException:
        if connection is not None:
            connection.close()
        raise


def _send_head(
    connection: HttpConnection, node: Node, ask: Ask, extra: Pairs, timeout_s: float
) -> ClientResponse:
    connection.send_head(ask.method, ask.target(node), [*ask.headers, *extra])
    return connection.wait_continue(timeout_s)
