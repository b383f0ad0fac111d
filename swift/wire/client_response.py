# SPDX-License-Identifier: Apache-2.0
"""The answer of a peer: its head at hand, its body still to be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from swift.core.errors import PeerError, PeerTimeout
from swift.core.headers import (
    Headers,
)
from swift.wire.channel import BODY_BYTES, RECV_BYTES, Channel
from swift.wire.framing import (
    CHUNK_LINE_MAX,
    CRLF,
    TRAILERS_MAX,
    BadFraming,
    chunk_size,
)


class Source(Protocol):
    """The connection that an answer comes from. peer: `ip:port`."""

    channel: Channel
    peer: str

    def finished(self, *, clean: bool) -> None:
        """The body has been read; clean: nothing came after it."""

    def close(self) -> None:
        """The body will not be read to its end."""


class ClientResponse:
    """One answer: status and headers at hand, the body still to be read.

    content_length: of the body to come, 0 for none, None when unknown. peer: `ip:port`
    of who answered. timeout_s: the limit of each wait for more of the body; set it at
    will.
    """

    __slots__ = (
        "_buffer",
        "_chunk_left",
        "_connection",
        "_left",
        "content_length",
        "headers",
        "peer",
        "reason",
        "status",
        "timeout_s",
    )

    def __init__(
        self,
        connection: Source,
        status: int,
        reason: str,
        headers: Headers,
        content_length: int | None,
        buffer: bytes,
        timeout_s: float,
        *,
        chunked: bool = False,
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.content_length = content_length
        self.timeout_s = timeout_s
        self.peer = connection.peer
        self._connection: Source | None = connection
        self._left = content_length
        self._chunk_left = -1 if chunked else -2  # -2: not chunked, -1: size line next
        self._buffer = buffer

    def __repr__(self) -> str:
        return f"<ClientResponse {self.status} {self.reason}>"

    @property
    def ended(self) -> bool:
        """True when the body has been read to its end, or given up."""
        return self._connection is None

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, less only at the end; all the rest when negative. Yields.

        Raises PeerError when the body breaks off, PeerTimeout when it stalls.
        """
        if self._connection is None or size == 0:
            return b""
        pieces = []
        wanted = size
        while wanted:
            piece = self.read_some(wanted if wanted > 0 else 1 << 20)
            if not piece:
                break
            pieces.append(piece)
            if size > 0:
                wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_some(self, size: int = BODY_BYTES) -> bytes:
        """1 to `size` bytes, as soon as there are any; empty at the end. Yields."""
        connection = self._connection
        if connection is None:
            return b""
        if self._chunk_left != -2:
            return self._some_chunked(size)
        left = self._left
        if left is None:
            return self._some_to_end(size)
        size = min(size, left)
        buffer = self._buffer
        if not buffer:
            data = self._receive(size)
            if not data:
                raise self._break(f"body ended {left} bytes early")
        elif len(buffer) <= size:
            data = buffer
            self._buffer = b""
        else:
            data = buffer[:size]
            self._buffer = buffer[size:]
        self._left = left = left - len(data)
        if not left:
            self._end()
        return data

    def __iter__(self) -> Iterator[bytes]:
        """The rest of the body, as it comes."""
        while chunk := self.read_some():
            yield chunk

    def _some_to_end(self, size: int) -> bytes:
        data = self._buffer[:size]
        self._buffer = self._buffer[size:]
        if not data:
            data = self._receive(size)
            if not data:
                self._end()
        return data

    def _some_chunked(self, size: int) -> bytes:
        if self._chunk_left == -1:
            length = self._chunk_line()
            if not length:
                allowed = TRAILERS_MAX
                while line := self._line(allowed):
                    allowed -= len(line) + 2
                self._end()
                return b""
            self._chunk_left = length
        size = min(size, self._chunk_left)
        data = self._buffer[:size]
        if data:
            self._buffer = self._buffer[size:]
        else:
            data = self._receive(size)
            if not data:
                raise self._break("body ended inside a chunk")
        self._chunk_left -= len(data)
        if not self._chunk_left:
            if self._line(2):
                raise self._break("chunk has no end")
            self._chunk_left = -1
        return data

    def _chunk_line(self) -> int:
        try:
            return chunk_size(self._line(CHUNK_LINE_MAX))
        except BadFraming as error:
            raise self._break(str(error)) from error

    def _line(self, size_max: int) -> bytes:
        while True:
            end = self._buffer.find(CRLF)
            if 0 <= end < size_max:
                line = self._buffer[:end]
                self._buffer = self._buffer[end + 2 :]
                return line
            if end >= 0 or len(self._buffer) > size_max:
                raise self._break("line too long in chunked body")
            data = self._receive(RECV_BYTES)
            if not data:
                raise self._break("body ended between chunks")
            self._buffer += data

    def _receive(self, size: int) -> bytes:
        connection = self._connection
        assert connection is not None, "the body has not ended"
        try:
            return connection.channel.recv(size, self.timeout_s)
        except TimeoutError as error:
            self.close()
            raise PeerTimeout(
                connection.peer, f"no more of the body within {self.timeout_s}s"
            ) from error
        except OSError as error:
            raise self._break(str(error)) from error

    def _break(self, reason: str) -> PeerError:
        connection = self._connection
        assert connection is not None, "the body has not ended"
        self.close()
        return PeerError(connection.peer, reason)

    def _end(self) -> None:
        """The body is over: its connection is free for the next request."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finished(clean=not self._buffer)

    def drain(self, limit: int = RECV_BYTES) -> bool:
        """Read a small rest away, so that the connection can be kept; True if it was.

        A rest longer than `limit` bytes closes the connection. Yields.
        """
        try:
            while self._connection is not None:
                chunk = self.read_some(max(1, limit))
                limit -= len(chunk)
                if limit < 0:
                    self.close()
                    return False
        except PeerError:
            return False
        return True

    def close(self) -> None:
        """Give the rest of the body up: closes the connection unless it has ended."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # What makes it a body that the server can splice (wire.streams.SocketSource)

    @property
    def unread_length(self) -> int:
        """How many bytes of the body are still on the socket's side."""
        if self._connection is None:
            return 0
        return (self._left or 0) - len(self._buffer)

    def take_buffered(self) -> bytes:
        """Bytes of the body that have been read but not given out."""
        data, self._buffer = self._buffer, b""
        if self._left is not None:
            self._left -= len(data)
            if not self._left:
                self._end()
        return data

    def spliceable(self) -> Channel | None:
        """The channel the rest comes from; None when its framing forbids."""
        connection = self._connection
        if connection is None or self._chunk_left != -2 or self._left is None:
            return None
        return connection.channel if connection.channel.can_splice else None

    def await_bytes(self, count: int) -> bool:
        """Wait for so many bytes, or fewer that nothing follows; False if none come.

        The body is given up then. Yields.
        """
        connection = self._connection
        if connection is None:
            return False
        if connection.channel.await_bytes(count, self.timeout_s):
            return True
        self.close()
        return False

    def skipped(self, count: int) -> None:
        """Note that `count` bytes were moved past this object."""
        assert self._left is not None, "only a counted body is spliced"
        self._left -= count
        if not self._left:
            self._end()
