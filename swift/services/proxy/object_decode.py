# SPDX-License-Identifier: Apache-2.0
"""GET of an object whose archives are more than its bytes: read in step, and decode.

The collector has found enough archives of one version of the object. They are read a
segment at a time, one fragment of each, and decoded; the ranges that the client asked
for are cut out here, by the object's length. A source that breaks, stalls or gives what
does not fit is replaced in the middle of the body by a fragment of another index, of
the very same version. Contract: erasure-coding 6.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from uuid import uuid4

from swift.core import headers as h
from swift.core.erasure import BadFragment
from swift.core.errors import PeerError
from swift.core.fragments import Described, fragments_of, preferences_header
from swift.core.headers import Headers
from swift.core.mime import (
    RANGE_END,
    range_opening,
    ranges_closing,
    ranges_content_type,
    ranges_length,
)
from swift.core.quorum import Answer
from swift.core.ranges import ByteRange
from swift.core.redundancy import Decoder
from swift.core.ring.devices import Node
from swift.services.proxy.exchange import Exchange
from swift.wire.backends import Ask, Found, discard
from swift.wire.client_response import ClientResponse
from swift.wire.request import Response


@dataclass(slots=True)
class _Source:
    """An archive that is being read. gave: segments that it had a part in."""

    node: Node
    response: ClientResponse
    gave: int = 0


class SegmentReader:
    """Gives the segments of one version of an object, one after the other.

    ask: what the nodes were asked, without conditions and range. candidates: nodes to
    go on with. described: what every fragment must be of. position: the next segment;
    last: that up to which the sources reach. Close it when done. Yields.
    """

    def __init__(
        self,
        exchange: Exchange,
        ask: Ask,
        candidates: Iterator[Node],
        decoder: Decoder,
        described: Described,
    ) -> None:
        self.position = 0
        self.last = -1
        self._exchange = exchange
        self._backends = exchange.proxy.backends
        self._ask = ask
        self._candidates = candidates
        self._decoder = decoder
        self._described = described
        self._sources: dict[int, _Source] = {}
        self._lost = 0
        self._seen: list[Node] = []
        self._timeout_s = exchange.proxy.config.read_timeout_s

    @property
    def segments(self) -> int:
        """How many segments the object has."""
        return -(-self._described.size // self._decoder.segment_size)

    def adopt(self, sources: Mapping[int, Answer]) -> None:
        """Begin with bodies that nodes have answered already.

        Those that do not begin with the fragment that most begin with, are let go.
        """
        each = self._decoder.fragment_size
        archive_size = self._decoder.archive_size(self._described.size)
        for index, answer in sources.items():
            found = answer.source
            assert isinstance(found, Found), "a good answer to a GET has a body"
            span = _span_of(answer, archive_size)
            if span is None:
                found.response.close()
                continue
            # A suffix range may begin in the middle of a fragment.
            skip = -span.start % each
            first = (span.start + skip) // each
            if self._sources and first != self.position:
                found.response.close()
                continue
            try:
                if skip and len(found.response.read(skip)) < skip:
                    found.response.close()
                    continue
            except PeerError as error:
                self._failed(found.node, error)
                continue
            self.position = first
            self.last = (span.stop - 1) // each
            self._add(index, found)

    def _add(self, index: int, found: Found) -> None:
        found.response.timeout_s = self._timeout_s
        self._sources[index] = _Source(found.node, found.response)
        if found.node not in self._seen:
            self._seen.append(found.node)

    def seek(self, first: int, last: int) -> None:
        """Go on with segment `first`, up to `last`. Yields.

        Raises PeerError when too few fragments are to be had.
        """
        self.close()
        self.position, self.last = first, last
        self._candidates = chain(self._seen, self._candidates)
        self._fill()

    def find_type(self, first: int) -> str | None:
        """The content type of the object, from the sources of segment `first`. Yields.

        None when there are too few of them; then all are let go.
        """
        try:
            self.seek(first, first)
        except PeerError:
            self.close()
            return None
        source = next(iter(self._sources.values()))
        found: str = source.response.headers.get(h.CONTENT_TYPE, "")
        return found

    def read(self) -> bytes:
        """The next segment. Yields. Raises PeerError when it cannot be had."""
        number = self.position
        span = self._decoder.segment_range(number, number, self._described.size)
        pieces: dict[int, bytes] = {}
        while True:
            self._fill()
            for index, source in list(self._sources.items()):
                if index in pieces:
                    continue
                piece = self._read_from(index, source, span.size)
                if piece is not None:
                    pieces[index] = piece
            if len(pieces) < len(self._sources) or not self._suffices(pieces):
                continue
            try:
                segment = self._decoder.decode(pieces)
            except BadFragment as bad:
                del pieces[bad.index]
                self._lose(bad.index, PeerError(self._peer(bad.index), str(bad)))
                continue
            for source in self._sources.values():
                source.gave += 1
            self.position = number + 1
            return segment

    def close(self) -> None:
        """Let go of all sources."""
        for source in self._sources.values():
            source.response.close()
        self._sources.clear()

    # --- how --------------------------------------------------------------------------

    def _suffices(self, indexes: Mapping[int, object]) -> bool:
        return self._decoder.suffices(list(indexes))

    def _peer(self, index: int) -> str:
        return self._sources[index].response.peer

    def _read_from(self, index: int, source: _Source, size: int) -> bytes | None:
        """One fragment, or None when the source is lost."""
        try:
            piece = source.response.read(size)
            if len(piece) < size:
                raise PeerError(source.response.peer, "archive ended early")
        except PeerError as error:
            self._lose(index, error)
            return None
        return piece

    def _lose(self, index: int, error: PeerError) -> None:
        """Give a source up. Raises `error` when what it gave may have been wrong."""
        source = self._sources.pop(index)
        source.response.close()
        self._lost += 1
        self._failed(source.node, error)
        if source.gave and self._is_withdrawn(index, source.node):
            # The node found its archive corrupt at the last chunk and put it into
            # quarantine: the client may have bytes that were decoded with it, so the
            # body must not be completed.
            raise error

    def _failed(self, node: Node, error: PeerError) -> None:
        self._backends.failed(node, f"GET {self._ask.path}", error)

    def _is_withdrawn(self, index: int, node: Node) -> bool:
        """True when a node lives, but without the fragment that it gave. Yields."""
        when = self._described.timestamp
        head = Ask("HEAD", self._ask.partition, self._ask.path, self._ask.headers)
        extra = [preferences_header([(when, [])])]
        answer = self._backends.try_ask(node, head, self._timeout_s, extra)
        if answer is None:
            return False
        discard(answer)
        has = fragments_of(answer.headers).get(when, set())
        return answer.status == 404 or (answer.is_success and index not in has)

    def _fill(self) -> None:
        """Find sources until there are enough. Yields. Raises PeerError."""
        while not self._suffices(self._sources):
            node = next(self._candidates, None)
            if node is None:
                self._exchange.proxy.log.error(
                    "GET %s: %s fragments left, too few", self._ask.path,
                    len(self._sources), txn=self._exchange.trans_id,
                )  # fmt: skip
                raise PeerError(self._exchange.trans_id, "too few fragments are left")
            self._try(node)

    def _try(self, node: Node) -> None:
        """Take a fragment from a node, if it has one that is not here yet. Yields."""
        described = self._described
        span = self._decoder.segment_range(self.position, self.last, described.size)
        headers = [*self._ask.headers]
        if span.size:  # an empty object is asked for whole
            headers.append((h.RANGE, f"bytes={span.start}-{span.stop - 1}"))
        ask = Ask("GET", self._ask.partition, self._ask.path, headers)
        extra = [preferences_header([(described.timestamp, list(self._sources))])]
        answer = self._backends.try_ask(node, ask, self._timeout_s, extra)
        if answer is None or not isinstance(answer.source, Found):
            return
        decoder = self._decoder
        found = Described.of(answer.headers, decoder.scheme, decoder.unique)
        is_same = (
            found is not None
            and answer.is_success
            and (found.timestamp, found.etag, found.size)
            == (described.timestamp, described.etag, described.size)
            and found.index not in self._sources
            and _span_of(answer, span.stop) == span
        )
        if not is_same:
            answer.source.response.close()
            return
        assert found is not None, "it is the same"
        if self._lost:
            self._lost -= 1
            self._exchange.proxy.log.info(
                "GET %s goes on at segment %s with fragment %s from %s",
                self._ask.path, self.position, found.index, node.name,
                txn=self._exchange.trans_id,
            )  # fmt: skip
        self._add(found.index, answer.source)


def _span_of(answer: Answer, archive_size: int) -> ByteRange | None:
    """The bytes of an archive that an answer brings; None when it is not told."""
    if answer.status == 200:
        return ByteRange(0, archive_size)
    found = content_range(answer.headers)
    return None if found is None else found[0]


def content_range(headers: Headers) -> tuple[ByteRange, int] | None:
    """The bytes in a `Content-Range: bytes a-b/size`, and the size."""
    unit, _, rest = headers.get(h.CONTENT_RANGE, "").partition(" ")
    span, _, size = rest.partition("/")
    first, _, last = span.partition("-")
    if unit.lower() != "bytes" or not all(
        text.isascii() and text.isdigit() for text in (first, last, size)
    ):
        return None
    if int(last) < int(first) or int(last) >= int(size):
        return None
    return ByteRange(int(first), int(last) + 1), int(size)


class DecodedBody:
    """The bytes of an object, or of ranges of it, decoded as they come.

    spans: what is to be sent, in order. boundary: that of a multi-range answer, None
    for plain bytes. Iterate once, close when done. Yields.
    """

    def __init__(
        self,
        reader: SegmentReader,
        segment_size: int,
        spans: list[ByteRange],
        size: int,
        boundary: str | None,
        content_type: str,
    ) -> None:
        self._reader = reader
        self._segment_size = segment_size
        self._spans = spans
        self._size = size
        self._boundary = boundary
        self._content_type = content_type
        self._at = -1  # the segment that is kept
        self._segment = b""
        self._chunks: Generator[bytes] = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        """Let go of the nodes that are being read."""
        self._chunks.close()
        self._reader.close()

    def begin(self) -> None:
        """Decode the first segment, while an error can still be told. Yields.

        Raises PeerError.
        """
        self._load(self._spans[0], self._spans[0].start // self._segment_size)

    def _run(self) -> Generator[bytes]:
        for span in self._spans:
            if self._boundary is not None:
                yield range_opening(
                    self._boundary, self._content_type, span, self._size
                )
            yield from self._bytes_of(span)
            if self._boundary is not None:
                yield RANGE_END
        if self._boundary is not None:
            yield ranges_closing(self._boundary)

    def _bytes_of(self, span: ByteRange) -> Iterator[bytes]:
        each = self._segment_size
        for number in range(span.start // each, (span.stop - 1) // each + 1):
            segment = self._load(span, number)
            start = max(span.start - number * each, 0)
            stop = span.stop - number * each
            if start or stop < len(segment):
                segment = segment[start:stop]
            yield segment

    def _load(self, span: ByteRange, number: int) -> bytes:
        """Segment `number`, which is of `span`."""
        reader = self._reader
        if number != self._at:
            near = reader.position <= number <= reader.position + 1
            if not near or number > reader.last:
                reader.seek(number, (span.stop - 1) // self._segment_size)
            while reader.position <= number:
                self._segment = reader.read()
            self._at = number
            expected = min(self._segment_size, self._size - number * self._segment_size)
            if len(self._segment) != expected:
                raise PeerError("-", f"segment {number} has {len(self._segment)} bytes")
        return self._segment


def decoded(
    reader: SegmentReader,
    decoder: Decoder,
    headers: Headers,
    spans: list[ByteRange] | None,
    size: int,
) -> Response:
    """The answer with the object, or with ranges of it. Yields.

    headers: for the client, of the whole object. spans: None for the whole.
    """
    if not size:
        reader.close()
        return Response(200, headers, b"")
    boundary, status = None, 206
    content_type = headers.get(h.CONTENT_TYPE, "")
    if spans is None:
        status, spans = 200, [ByteRange(0, size)]
    elif len(spans) == 1:
        headers[h.CONTENT_LENGTH] = str(spans[0].size)
        headers[h.CONTENT_RANGE] = spans[0].content_range(size)
    else:
        boundary = uuid4().hex
        total = ranges_length(boundary, content_type, spans, size)
        headers[h.CONTENT_LENGTH] = str(total)
        headers[h.CONTENT_TYPE] = ranges_content_type(boundary)
        headers.pop(h.CONTENT_RANGE, None)
    body = DecodedBody(
        reader, decoder.segment_size, spans, size, boundary, content_type
    )
    try:
        body.begin()
        if reader.segments == 1:
            return Response(status, headers, b"".join(body))
    except PeerError:
        body.close()
        return Response(503)
    except BaseException:
        body.close()
        raise
    return Response(status, headers, app_iter=body)
