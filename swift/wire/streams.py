# SPDX-License-Identifier: Apache-2.0
"""Bodies that travel: iterators that close on every path, count, and skip copies.

A body is an iterable of bytes with an optional `close()`. Whoever took it closes it
once, however the journey ends. Two kinds of body tell the server how to send them
without bringing the bytes into Python: `FileRange` and `SocketSource`; both can still
be iterated like any other, which is what filters that look at the bytes do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from swift.runtime import green
from swift.wire.channel import Channel


@runtime_checkable
class FileRange(Protocol):
    """A body that is part of a file; the server may use sendfile.

    offset, length: the bytes of the file that make the body.
    """

    offset: int
    length: int

    def fileno(self) -> int:
        """The descriptor of the file."""

    def passable(self, offset: int) -> int:
        """How many bytes from `offset` on may be sent now. Yields.

        At least one before the end. Raises in the place of bytes that must not be sent.
        """

    def __iter__(self) -> Iterator[bytes]:
        """The same bytes, read."""

    def close(self) -> None:
        """Let go of the file."""


@runtime_checkable
class SocketSource(Protocol):
    """A body that arrives on another socket; the server may splice it.

    `take_buffered` gives what was read from the socket already; then exactly
    `unread_length` bytes are still to come from `spliceable()`; the server says with
    `skipped` how many of them it moved itself.
    """

    @property
    def unread_length(self) -> int:
        """How many bytes of the body are still on the socket's side."""

    def take_buffered(self) -> bytes:
        """Bytes of the body that have been read but not given out."""

    def spliceable(self) -> Channel | None:
        """The channel that the rest comes from; None when it cannot be spliced."""

    def await_bytes(self, count: int) -> bool:
        """Wait for `count` bytes, or fewer that nothing follows; False if none come.

        Iterating then says why, or goes on with bytes from elsewhere. Yields.
        """

    def skipped(self, count: int) -> None:
        """Note that `count` bytes were moved past this object."""

    def __iter__(self) -> Iterator[bytes]:
        """The same bytes, read."""

    def close(self) -> None:
        """Let go of the socket."""


def close_body(body: Any) -> None:
    """Close an iterable if it can be closed."""
    close = getattr(body, "close", None)
    if close is not None:
        close()


class ClosingIterator:
    """Iterates a body and runs callbacks once, when it ends, breaks or is closed.

    The callbacks run in reverse order of their giving, after the body is closed.
    """

    def __init__(self, body: Iterable[bytes], *callbacks: Callable[[], object]) -> None:
        self._body = body
        self._chunks = iter(body)
        self._callbacks = list(callbacks)
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the body, then run the callbacks; once."""
        if self._closed:
            return
        self._closed = True
        try:
            close_body(self._chunks)
            if self._chunks is not self._body:
                close_body(self._body)
        finally:
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        try:
            while self._callbacks:
                self._callbacks.pop()()
        finally:
            if self._callbacks:
                self._run_callbacks()


class CountedBody:
    """Iterates a body and counts its bytes; calls `ended(count, complete)` once.

    complete: the body came to its end by itself.
    """

    def __init__(
        self, body: Iterable[bytes], ended: Callable[[int, bool], object]
    ) -> None:
        self._body = body
        self._chunks = iter(body)
        self._ended: Callable[[int, bool], object] | None = ended
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self._finish(complete=True)
            raise
        except BaseException:
            self._finish(complete=False)
            raise
        self.count += len(chunk)
        return chunk

    def _finish(self, *, complete: bool) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self.count, complete)

    def close(self) -> None:
        """Close the body."""
        try:
            close_body(self._chunks)
            if self._chunks is not self._body:
                close_body(self._body)
        finally:
            self._finish(complete=False)


def yielding(body: Iterable[bytes], every: int = 5) -> Iterator[bytes]:
    """The chunks, letting other green threads run after every so many of them.

    For bodies that come without any wait, which would starve the others.
    """
    source = iter(body)
    try:
        for count, chunk in enumerate(source, 1):
            if count % every == 0:
                green.yield_now()
            yield chunk
    finally:
        close_body(source)
        if source is not body:
            close_body(body)


def rechunked(body: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in chunks of exactly `size`, but for the last."""
    held: list[bytes] = []
    count = 0
    source = iter(body)
    try:
        for chunk in source:
            held.append(chunk)
            count += len(chunk)
            if count < size:
                continue
            joined = b"".join(held)
            start = 0
            while count - start >= size:
                yield joined[start : start + size]
                start += size
            held = [joined[start:]] if start < count else []
            count -= start
        if count:
            yield b"".join(held)
    finally:
        close_body(source)
        if source is not body:
            close_body(body)


class ChunkReader:
    """A body in chunks, such as an answer's, as the `wsgi.input` of a request.

    size: its length, None when unknown.
    """

    def __init__(self, chunks: Iterable[bytes], size: int | None = None) -> None:
        self._source = chunks
        self._iterator = iter(chunks)
        self._held = b""
        self.content_length = size

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer at the end only; all that is left for -1. Yields."""
        if size < 0:
            rest = self._held + b"".join(self._iterator)
            self._held = b""
            return rest
        pieces = []
        while size > 0:
            piece = self.read_some(size)
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_some(self, size: int) -> bytes:
        """Up to `size` bytes as they come, none at the end. Yields."""
        chunk = self._held
        while not chunk:
            try:
                chunk = next(self._iterator)
            except StopIteration:
                return b""
        self._held = chunk[size:]
        return chunk[:size] if self._held else chunk

    def readline(self, size: int = -1) -> bytes:
        """As `read`: nobody reads an object by lines."""
        return self.read(size)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next chunk. Yields."""
        held, self._held = self._held, b""
        return held or next(self._iterator)

    def close(self) -> None:
        """Let go of the source."""
        close_body(self._source)


class RateLimiter:
    """Spreads work over time: at most `rate` units a second on average.

    A burst of up to `burst_s` seconds' worth may pass at once. Rate 0 has no limit.
    """

    def __init__(self, rate: float, burst_s: float = 0.0) -> None:
        self._rate = rate
        self._burst_s = burst_s
        self._next_s = green.monotonic()

    def wait(self, units: float = 1.0) -> None:
        """Return when so many more units may pass. Yields."""
        if self._rate <= 0:
            return
        moment = green.monotonic()
        self._next_s = max(self._next_s, moment - self._burst_s)
        delay = self._next_s - moment
        self._next_s += units / self._rate
        if delay > 0:
            green.sleep(delay)
