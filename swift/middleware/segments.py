# SPDX-License-Identifier: Apache-2.0
"""One way to serve an object from parts: the body that slo, dlo and others give.

Each part is asked of the pipeline in the client's name, checked against what is known
of it, and passed on; the next is asked for shortly before it is needed. What goes wrong
before the first byte becomes an answer (`prime`); later the body raises, so that the
client's connection breaks instead of a short body seeming whole. At most two parts are
open at a time and nothing is gathered: memory does not grow with the object.

Contract: middleware 11 and 26.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from swift.core import headers as h
from swift.core.conditions import Conditions
from swift.core.errors import Conflict, SwiftError, Unavailable
from swift.core.headers import Headers
from swift.core.mime import RANGE_END, range_opening, ranges_closing
from swift.core.ranges import ByteRange
from swift.runtime import green
from swift.runtime.logs import Logger
from swift.wire import environ as env
from swift.wire.environ import Environ, sub_environ
from swift.wire.request import Response, WsgiApp, call
from swift.wire.streams import RateLimiter

AHEAD_BYTES = 1 << 20
"""Less than this is left of a part when the next one is asked for."""


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """A part that is an object or a range of one.

    path: PATH_INFO, a WSGI string. wanted: which of its bytes. size: of the whole
    object, None when it does not matter. etag: that it must have, None for any.
    """

    path: str
    wanted: ByteRange
    size: int | None = None
    etag: str | None = None

    @property
    def is_whole(self) -> bool:
        """True when all of the object is wanted."""
        return self.wanted == ByteRange(0, self.size or 0)


@dataclass(frozen=True, slots=True)
class DataPart:
    """A part whose bytes are at hand."""

    data: bytes


Part = ObjectPart | DataPart


class PartConflict(Conflict):
    """A part is missing, refused, or not what it was: 409 before the first byte."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"part {path}: {reason}")


class PartUnavailable(Unavailable):
    """The servers failed on a part: 503 before the first byte."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"part {path}: {reason}")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast parts may be asked for.

    after: so many are free. per_second: of those behind; 0 has no limit. under_bytes:
    only parts smaller than this count. get_time_s: longest time of one answer.
    """

    after: int = 10
    per_second: float = 1.0
    under_bytes: int | None = None
    get_time_s: float = 86400.0


class PartedBody:
    """The bytes of parts, one after the other. Iterate once, close when done.

    environ: of the client's request. parts: may be made while they are served; what
    making them raises counts like a failure of a part. source: code for the access log.
    """

    def __init__(
        self,
        app: WsgiApp,
        environ: Environ,
        parts: Iterable[Part],
        *,
        pace: Pace,
        source: str,
        log: Logger,
    ) -> None:
        self._app = app
        self._environ = environ
        self._parts = iter(parts)
        self._pace = pace
        self._source = source
        self._log = log
        self._until = green.monotonic() + pace.get_time_s
        self._limiter: RateLimiter | None = None
        self._asked = 0
        self._next: tuple[Part, Response | None] | None = None
        self._thread: green.Thread | None = None
        self._open: Response | None = None
        self._chunks: Generator[bytes] = self._run()

    def prime(self) -> None:
        """Ask for the first part. Yields. Raises PartConflict or PartUnavailable."""
        self._next = self._advance()

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        """Let go of the parts that are open."""
        self._chunks.close()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.kill()
            if thread.ended and thread.error is None:
                self._next = self._next or thread.wait()
        held, self._next = self._next, None
        for response in (self._open, held[1] if held else None):
            if response is not None:
                response.close()
        self._open = None

    def _run(self) -> Generator[bytes]:
        try:
            if self._next is None:
                self._next = self._advance()
            while self._next is not None:
                (part, response), self._next = self._next, None
                self._open = response
                if isinstance(part, DataPart):
                    yield part.data
                else:
                    assert response is not None, "objects are open"
                    yield from self._bytes_of(part, response)
                    response.close()
                    self._open = None
                self._next = self._following()
        except SwiftError as error:
            self._log.error(
                "GET %s breaks off: %s", self._environ[env.PATH_INFO], error,
                txn=self._environ.get(env.TRANS_ID) or "",
            )  # fmt: skip
            raise

    def _bytes_of(self, part: ObjectPart, response: Response) -> Iterator[bytes]:
        left = part.wanted.size
        chunks: Iterable[bytes] = response.app_iter or (response.body,)
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise PartConflict(part.path, "gives more bytes than it should")
            if left < AHEAD_BYTES and self._thread is None:
                self._thread = green.spawn(self._advance)
            if chunk:
                yield chunk
            if green.monotonic() > self._until:
                raise PartUnavailable(part.path, "the answer takes too long")
        if left:
            raise PartUnavailable(part.path, f"ends {left} bytes early")

    def _following(self) -> tuple[Part, Response | None] | None:
        thread, self._thread = self._thread, None
        if thread is None:
            return self._advance()
        found: tuple[Part, Response | None] | None = thread.wait()
        return found

    def _advance(self) -> tuple[Part, Response | None] | None:
        """The next part, its object open; None behind the last. Yields."""
        for part in self._parts:
            if isinstance(part, DataPart):
                return part, None
            self._wait_turn(part)
            return part, self._ask(part)
        return None

    def _wait_turn(self, part: ObjectPart) -> None:
        pace = self._pace
        if pace.under_bytes is not None and part.wanted.size >= pace.under_bytes:
            return
        self._asked += 1
        if pace.per_second > 0 and self._asked > pace.after:
            if self._limiter is None:
                self._limiter = RateLimiter(pace.per_second)
            self._limiter.wait()

    def _ask(self, part: ObjectPart) -> Response:
        """The answer with the bytes of a part. Yields."""
        headers = {}
        if not part.is_whole:
            wanted = part.wanted
            headers[h.RANGE] = f"bytes={wanted.start}-{wanted.stop - 1}"
        response = call(
            self._app,
            part_environ(self._environ, "GET", part.path, self._source, headers),
        )
        try:
            check_part(part, response)
        except SwiftError:
            response.close()
            raise
        return response


def part_environ(
    environ: Environ,
    method: str,
    path: str,
    source: str,
    headers: dict[str, str] | None = None,
    *,
    query: str = "",
) -> Environ:
    """The environ of a request for a part, in the client's name."""
    sub = sub_environ(
        environ, method, path, headers=headers or {}, query=query, source=source
    )
    reserved = env.HTTP_X_BACKEND_ALLOW_RESERVED_NAMES
    if reserved in environ:
        sub[reserved] = environ[reserved]
    return sub


def check_part(part: ObjectPart, response: Response) -> None:
    """Raise PartConflict or PartUnavailable unless the answer is the part's bytes."""
    if response.status >= 500:
        raise PartUnavailable(part.path, response.status_line)
    if response.status != (200 if part.is_whole else 206):
        raise PartConflict(part.path, response.status_line)
    etag = response.headers.get(h.ETAG, "").strip('"')
    if part.etag is not None and etag != part.etag:
        raise PartConflict(part.path, f"etag is {etag}, not {part.etag}")
    if response.content_length != part.wanted.size:
        raise PartConflict(
            part.path, f"gives {response.content_length} bytes, not {part.wanted.size}"
        )
    total = response.headers.get(h.CONTENT_RANGE, "").rpartition("/")[2]
    if part.size is not None and total and total != str(part.size):
        raise PartConflict(part.path, f"has {total} bytes, not {part.size}")


def parted_answer(status: int, headers: Headers, body: PartedBody) -> Response:
    """The answer with a body whose first part is open, or why it cannot be. Yields."""
    try:
        body.prime()
    except BaseException as error:
        body.close()
        if isinstance(error, PartConflict):
            return Response(409)
        if isinstance(error, SwiftError):
            return Response(503)
        raise
    return Response(status, headers, app_iter=body)


def multi_range_parts(
    spans: Iterable[tuple[ByteRange, Iterable[Part]]],
    boundary: str,
    content_type: str,
    size: int,
) -> Iterator[Part]:
    """The parts of a multipart/byteranges body, its framing among them."""
    for span, parts in spans:
        yield DataPart(range_opening(boundary, content_type, span, size))
        yield from parts
        yield DataPart(RANGE_END)
    yield DataPart(ranges_closing(boundary))


def without_body_facts(headers: Headers) -> Headers:
    """The headers of a manifest without what is true of its own bytes only."""
    for name in (h.CONTENT_LENGTH, h.CONTENT_RANGE, h.ETAG):
        headers.pop(name, None)
    return headers


def conditional_answer(
    environ: Environ, headers: Headers, etag: str
) -> Response | None:
    """304 or 412 when the client's conditions say so.

    headers: of the answer. etag: of the whole object, without quotes.
    """
    conditions = Conditions.of(env.headers_of(environ))
    if conditions is None:
        return None
    try:
        modified = int(
            parsedate_to_datetime(headers.get(h.LAST_MODIFIED, "")).timestamp()
        )
    except (ValueError, TypeError, IndexError, OverflowError):
        modified = 0
    status = conditions.verdict(etag, modified)
    if status is None:
        return None
    headers[h.CONTENT_LENGTH] = "0"
    return Response(status, headers, b"")
