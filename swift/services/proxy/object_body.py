# SPDX-License-Identifier: Apache-2.0
"""The body of an object from one copy, and from the next one when that breaks.

The object servers judge conditions and ranges; what is added here is the failover in
the middle of a body: another copy of the very same data (same etag and time) is asked
for the bytes that are still to come. A small body is read whole before anything is
sent, so that it cannot break off. Contract: api 4 and 14, backend-http 2.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from swift.core import headers as h
from swift.core.errors import FormatError, PeerError
from swift.core.headers import Headers
from swift.core.mime import (
    RANGE_END,
    MimeParser,
    PartStart,
    range_opening,
    ranges_closing,
    ranges_length,
)
from swift.core.quorum import Answer
from swift.core.ranges import ByteRange, resolve
from swift.core.ring.devices import Node
from swift.services.proxy.exchange import Exchange, PairList
from swift.services.proxy.object_decode import content_range
from swift.wire import environ as env
from swift.wire.backends import Ask, Found, discard, unread_body
from swift.wire.channel import Channel
from swift.wire.client_response import ClientResponse
from swift.wire.nodes import Candidates
from swift.wire.request import Response

CONDITIONS = (
    h.RANGE,
    h.IF_MATCH,
    h.IF_NONE_MATCH,
    h.IF_MODIFIED_SINCE,
    h.IF_UNMODIFIED_SINCE,
)
"""Headers that the first node judges; who goes on for it is not to judge them again."""

_MULTIPART = "multipart/byteranges"


def whole_body(
    exchange: Exchange, ask: Ask, candidates: Candidates | None, chosen: Answer
) -> bytes | None:
    """The body when it is small, from this copy or the next; None when all break."""
    try:
        return unread_body(chosen)
    except PeerError as error:
        source: Found = chosen.source
        exchange.proxy.backends.failed(source.node, f"GET {ask.path}", error)
    for node in candidates or ():
        again = exchange.proxy.backends.try_ask(
            node, ask, exchange.proxy.config.read_timeout_s
        )
        if again is None or not _is_same(chosen, again):
            continue
        try:
            return unread_body(again)
        except PeerError as error:
            exchange.proxy.backends.failed(node, f"GET {ask.path}", error)
    return None


def streamed(
    exchange: Exchange,
    ask: Ask,
    candidates: Candidates | None,
    chosen: Answer,
    headers: Headers,
) -> Response:
    """An answer whose body is passed on as it comes. Yields."""
    source: Found = chosen.source
    source.response.timeout_s = exchange.proxy.config.read_timeout_s
    boundary = _boundary_of(chosen.headers) if chosen.status == 206 else None
    if boundary is not None:
        return _stream_ranges(exchange, ask, candidates, chosen, headers, boundary)
    length = source.response.content_length
    if length is None:
        return Response(chosen.status, headers, app_iter=source.response)
    if chosen.status == 200:
        span, size = ByteRange(0, length), length
    else:
        found = content_range(chosen.headers)
        if found is None or found[0].size != length:
            return Response(chosen.status, headers, app_iter=source.response)
        span, size = found
    pieces = _plain_pieces(source.response, span.start)
    body = ObjectBody(
        exchange, ask, candidates, chosen, spans=[span], pieces=pieces, size=size
    )
    return Response(chosen.status, headers, app_iter=body)


def _stream_ranges(
    exchange: Exchange,
    ask: Ask,
    candidates: Candidates | None,
    chosen: Answer,
    headers: Headers,
    boundary: str,
) -> Response:
    """A multi-range answer, its parts framed anew so that another copy can go on.

    The size of the object, and with it what the ranges are, stands in the first part.
    """
    source: Found = chosen.source
    parser = MimeParser(boundary.encode("latin-1"))
    first: PartStart | None = None
    read: list[bytes] = []
    try:
        while first is None:
            chunk = source.response.read_some()
            if not chunk:
                raise PeerError(source.node.name, "body ended before its first part")
            read.append(chunk)
            for event in parser.feed(chunk):
                if isinstance(event, PartStart) and first is None:
                    first = event
    except (PeerError, FormatError):
        source.response.close()
        return Response(503)
    found = content_range(first.headers)
    wanted = resolve(exchange.environ.get(env.HTTP_RANGE), found[1]) if found else None
    if found is None or not wanted:
        source.response.close()
        return Response(503)
    size = found[1]
    content_type = first.headers.get(h.CONTENT_TYPE, "")
    headers[h.CONTENT_LENGTH] = str(ranges_length(boundary, content_type, wanted, size))
    pieces = _multipart_pieces(
        Found(source.node, source.response), boundary, b"".join(read)
    )
    body = ObjectBody(
        exchange,
        ask,
        candidates,
        chosen,
        spans=wanted,
        pieces=pieces,
        size=size,
        boundary=boundary,
        content_type=content_type,
    )
    return Response(206, headers, app_iter=body)


@dataclass(slots=True)
class _Progress:
    """How far a body has come: the part being sent, and the next byte of it.

    opened: the part's opening has been sent, as far as it has one. sent: the client has
    bytes of this copy.
    """

    index: int
    position: int
    opened: bool = False
    sent: bool = False


class ObjectBody:
    """The bytes of an object, or of ranges of it, from whichever copy still gives them.

    spans: what is to be sent, in order; empty spans are none. boundary: that of a
    multi-range answer, None for plain bytes. candidates: nodes to go on with, None to
    break off instead. Iterate once, close when done. Yields.
    """

    def __init__(
        self,
        exchange: Exchange,
        ask: Ask,
        candidates: Candidates | None,
        chosen: Answer,
        *,
        spans: list[ByteRange],
        pieces: Iterator[int | bytes],
        size: int,
        boundary: str | None = None,
        content_type: str = "",
    ) -> None:
        self._exchange = exchange
        self._ask = ask
        self._candidates = candidates
        self._chosen = chosen
        self._spans = spans
        self._pieces = pieces
        self._size = size
        self._boundary = boundary
        self._content_type = content_type
        source: Found = chosen.source
        self._node: Node = source.node
        self._response: ClientResponse | None = source.response
        self._progress = _Progress(0, spans[0].start)
        self._chunks: Generator[bytes] = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        """Let go of the node that is being read."""
        self._chunks.close()
        if self._response is not None:
            self._response.close()
            self._response = None

    # What makes it a body that the server can splice (wire.streams.SocketSource)

    @property
    def unread_length(self) -> int:
        """How many bytes of this copy are still on the socket's side."""
        return self._response.unread_length if self._response is not None else 0

    def take_buffered(self) -> bytes:
        """Bytes of this copy that have been read but not given out."""
        assert self._response is not None, "there is a source"
        data = self._response.take_buffered()
        self._pass_over(len(data))
        return data

    def spliceable(self) -> Channel | None:
        """The channel that the rest comes from; None when the bytes are looked at."""
        if self._response is None or self._boundary is not None:
            return None
        if not self._exchange.proxy.config.splice:
            return None
        return self._response.spliceable()

    def await_bytes(self, count: int) -> bool:
        """Wait for so many bytes of this copy; False when they do not come. Yields."""
        return self._response is not None and self._response.await_bytes(count)

    def skipped(self, count: int) -> None:
        """Note that `count` bytes were moved past this object."""
        if self._response is not None:
            self._response.skipped(count)
        self._pass_over(count)

    def _pass_over(self, count: int) -> None:
        """The client has `count` further bytes, which did not come through `_run`."""
        if not count:
            return
        progress = self._progress
        progress.position += count
        progress.sent = True
        if progress.position == self._spans[0].stop:
            progress.index = 1
        elif self._response is not None:
            self._pieces = _plain_pieces(self._response, progress.position)

    # How it goes on by itself

    def _run(self) -> Generator[bytes]:
        progress = self._progress
        while progress.index < len(self._spans):
            try:
                yield from self._pass_on(progress)
                break
            except PeerError as error:
                self._go_on_elsewhere(progress, error)
        if self._boundary is not None:
            yield ranges_closing(self._boundary)
            if self._response is not None:
                # The closing boundary of the node, so that the connection is kept.
                self._response.drain()

    def _pass_on(self, progress: _Progress) -> Iterator[bytes]:
        """Send pieces until all spans are done; PeerError when they end too early."""
        spans = self._spans
        span = spans[progress.index]
        for piece in self._pieces:
            if type(piece) is int:
                if piece != progress.position:
                    raise PeerError(self._node.name, f"sent bytes from {piece}")
                if self._boundary is not None and not progress.opened:
                    progress.opened = True
                    yield range_opening(
                        self._boundary, self._content_type, span, self._size
                    )
                continue
            assert isinstance(piece, bytes), "pieces are starts or bytes"
            progress.position += len(piece)
            progress.sent = True
            if progress.position > span.stop:
                raise PeerError(self._node.name, "sent more bytes than asked")
            yield piece
            if progress.position == span.stop:
                if self._boundary is not None:
                    yield RANGE_END
                progress.index += 1
                if progress.index == len(spans):
                    return
                span = spans[progress.index]
                progress.position = span.start
                progress.opened = False
        raise PeerError(self._node.name, "body ended early")

    def _go_on_elsewhere(self, progress: _Progress, error: PeerError) -> None:
        """Find another copy for what is left; raises `error` when there is none."""
        backends = self._exchange.proxy.backends
        backends.failed(self._node, f"GET {self._ask.path}", error)
        if self._response is not None:
            self._response.close()
            self._response = None
        if progress.sent and self._is_withdrawn():
            # The node found its copy corrupt at the last chunk and put it into
            # quarantine: what the client has of it may be wrong, so the body must not
            # be completed from another copy.
            raise error
        left = [
            ByteRange(progress.position, self._spans[progress.index].stop),
            *self._spans[progress.index + 1 :],
        ]
        ask = _with_range(self._ask, left)
        timeout_s = self._exchange.proxy.config.read_timeout_s
        for node in self._candidates or ():
            answer = backends.try_ask(node, ask, timeout_s)
            if answer is None or not _is_same(self._chosen, answer):
                continue
            source: Found = answer.source
            pieces = _pieces_of(source, answer.headers)
            if pieces is None:
                source.response.close()
                continue
            self._exchange.proxy.log.info(
                "GET %s goes on at byte %s from %s",
                self._ask.path, progress.position, node.name,
                txn=self._exchange.trans_id,
            )  # fmt: skip
            self._node = node
            self._response = source.response
            self._pieces = pieces
            progress.sent = False
            return
        self._exchange.proxy.log.error(
            "GET %s: no copy left to go on with",
            self._ask.path,
            txn=self._exchange.trans_id,
        )
        raise error

    def _is_withdrawn(self) -> bool:
        """True when the node that broke off lives, but without the object. Yields."""
        ask = self._ask
        answer = self._exchange.proxy.backends.try_ask(
            self._node,
            Ask("HEAD", ask.partition, ask.path, unconditional(ask.headers)),
            self._exchange.proxy.config.read_timeout_s,
        )
        if answer is None:
            return False
        discard(answer)
        return answer.status == 404


def _is_same(first: Answer, other: Answer) -> bool:
    """True when two answers come from copies of the same data."""
    if not isinstance(other.source, Found):
        return False
    same = (
        other.is_success
        and other.headers.get(h.ETAG) == first.headers.get(h.ETAG)
        and other.age == first.age
    )
    if not same:
        other.source.response.close()
    return same


def unconditional(headers: Sequence[tuple[str, str]]) -> PairList:
    """A request's headers without conditions and range."""
    return [pair for pair in headers if pair[0] not in CONDITIONS]


def _with_range(ask: Ask, spans: list[ByteRange]) -> Ask:
    """The same request for other bytes; its conditions have been met already."""
    headers = unconditional(ask.headers)
    wanted = ",".join(f"{span.start}-{span.stop - 1}" for span in spans)
    headers.append((h.RANGE, f"bytes={wanted}"))
    return Ask(ask.method, ask.partition, ask.path, headers)


def _pieces_of(source: Found, headers: Headers) -> Iterator[int | bytes] | None:
    """Where the bytes of an answer begin, then the bytes; again for each of its parts.

    None when the answer does not say which bytes it holds.
    """
    boundary = _boundary_of(headers)
    if boundary is not None:
        return _multipart_pieces(source, boundary)
    if source.response.status == 200:
        return _plain_pieces(source.response, 0)
    found = content_range(headers)
    if found is None:
        return None
    return _plain_pieces(source.response, found[0].start)


def _plain_pieces(response: ClientResponse, start: int) -> Iterator[int | bytes]:
    yield start
    yield from response


def _multipart_pieces(
    source: Found, boundary: str, read: bytes = b""
) -> Iterator[int | bytes]:
    """read: the beginning of the body, which is at hand already."""
    parser = MimeParser(boundary.encode("latin-1"))
    try:
        for chunk in chain((read,), source.response):
            for event in parser.feed(chunk):
                if isinstance(event, bytes):
                    yield event
                elif isinstance(event, PartStart):
                    found = content_range(event.headers)
                    if found is None:
                        raise PeerError(source.node.name, "a part without range")
                    yield found[0].start
    except FormatError as error:
        raise PeerError(source.node.name, str(error)) from error


def _boundary_of(headers: Headers) -> str | None:
    content_type = headers.get(h.CONTENT_TYPE, "")
    if not content_type.lower().startswith(_MULTIPART):
        return None
    _, found, boundary = content_type.partition("boundary=")
    return boundary.strip().strip('"') if found else None
