# SPDX-License-Identifier: Apache-2.0
"""`wsgi.input`: the body of a request, read from the connection as the app asks for it.

Two framings (RFC 9112 §6), one interface. A counted body is read past no further than
its length; a chunked one is decoded here, because its phases can be resumed (backend
contract, multi-phase PUT) and its bytes need no copy through a parser.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from swift.core.errors import ClientDisconnect, ClientTimeout
from swift.wire.channel import BULK_BYTES, RECV_BYTES, Channel
from swift.wire.framing import (
    CHUNK_LINE_MAX,
    CRLF,
    HEAD_END,
    PREFIXES,
    TRAILERS_MAX,
    BadFraming,
    chunk_size,
    joined_head,
)
from swift.wire.splicing import Pipe

DISCARD_MAX = 65536
"""Unread bytes of a body that are read away to keep a connection."""


INTAKE_BYTES = 2 * 1024 * 1024
"""Bytes that a real thread is worth waking for."""

FRAMING_BYTES = 64
"""Bytes received at a time when framing comes next: what follows it is copied."""


class RequestBody:
    """`wsgi.input`: the bytes of a request's body, read as they are asked for.

    content_length: the length declared, None for a chunked body.

    `100 Continue` goes out at the first read, when the client waits for it. Raises
    ClientDisconnect when the body breaks off or its chunks are malformed, and
    ClientTimeout when the client is silent for too long; both end the connection.
    """

    __slots__ = (
        "_buffer",
        "_channel",
        "_chunk_left",
        "_continue",
        "_decoded",
        "_left",
        "_timeout_s",
        "broken",
        "content_length",
        "expects_continue",
        "finished",
    )

    def __init__(
        self,
        channel: Channel,
        buffer: bytes,
        content_length: int | None,
        timeout_s: float,
        *,
        expects_continue: bool = False,
    ) -> None:
        self.content_length = content_length
        self.expects_continue = expects_continue
        self.broken = False
        self.finished = content_length == 0
        self._channel = channel
        self._buffer = buffer  # received, not yet part of what was given out
        self._left = content_length or 0
        self._chunk_left = -1  # -1: a size line comes next, 0: the end of a chunk
        self._continue: list[tuple[str, str]] = []
        self._decoded = b""  # given back by readline
        self._timeout_s = timeout_s

    # What the app calls

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, less only at the end; all of it when negative. Yields."""
        if size == 0 or (self.finished and not self._decoded):
            return b""
        if 0 < size <= len(self._decoded):
            data = self._decoded[:size]
            self._decoded = self._decoded[size:]
            return data
        if self.expects_continue:
            self._send_continue()
        if self.content_length is not None and not self._decoded:
            return self._read_counted(size)
        pieces = []
        wanted = size
        while wanted:
            piece = self.read_some(wanted if wanted > 0 else RECV_BYTES)
            if not piece:
                break
            pieces.append(piece)
            if size > 0:
                wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_some(self, size: int = RECV_BYTES) -> bytes:
        """1 to `size` bytes, as soon as there are any; empty at the end. Yields."""
        if self._decoded:
            data = self._decoded[:size]
            self._decoded = self._decoded[size:]
            return data
        if self.finished:
            return b""
        if self.expects_continue:
            self._send_continue()
        if self.content_length is None:
            return self._some_chunked(size)
        data = self._take(min(size, self._left))
        self._left -= len(data)
        if not self._left:
            self.finished = True
        return data

    def intake(self) -> Intake | None:
        """For who receives the rest on a real thread; None if that cannot be done.

        It is his to close; nothing else may read the body meanwhile.
        """
        return Intake(self, self._left, INTAKE_BYTES) if self.can_splice else None

    def intake_part(self, size: int) -> Intake | None:
        """As `intake`, for the next `size` bytes alone, be the body chunked or not.

        They are taken in smaller steps: who sends a part is still making its end.
        """
        if self._decoded or not self._channel.can_splice:
            return None
        return Intake(self, size, BULK_BYTES)

    @property
    def can_splice(self) -> bool:
        """True when the bytes that are left need not pass through here."""
        counted = self.content_length is not None and not self._decoded
        return counted and self._channel.can_splice

    def splice_into(self, pipe: Pipe, count: int) -> int:
        """Put 1 to `count` bytes into an empty pipe, unseen; how many. Yields.

        Not at the end of the body. Raises OSError for the pipe.
        """
        if self.expects_continue:
            self._send_continue()
        count = min(count, self._left)
        if self._buffer:
            got = pipe.put(self._buffer[:count])
            self._buffer = self._buffer[got:]
        else:
            got = self._splice(pipe, count)
        self._passed(got)
        return got

    def readline(self, size: int = -1) -> bytes:
        """Up to and with the next LF; at most `size` bytes, the rest at the end."""
        line = self.read_some()
        while b"\n" not in line and not 0 <= size <= len(line):
            more = self.read_some()
            if not more:
                break
            line += more
        end = line.find(b"\n") + 1 or len(line)
        if 0 <= size < end:
            end = size
        self._decoded = line[end:] + self._decoded
        return line[:end]

    def readlines(self, hint: int = -1) -> list[bytes]:
        """The lines that are left."""
        lines = []
        count = 0
        for line in self:
            lines.append(line)
            count += len(line)
            if 0 < hint <= count:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def close(self) -> None:
        """Nothing: the connection decides what becomes of unread bytes."""

    def continue_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Header fields of the next `100 Continue`."""
        self._continue = list(headers)

    def resume(self) -> None:
        """Begin the next phase of a chunked body that has come to its end.

        Sends a `100 Continue` at once, with the same header fields; what follows are
        further chunks up to another empty one (backend PUT with a commit).
        """
        assert self.content_length is None, "only a chunked body has phases"
        assert self.finished, "the phase before is not over"
        self.finished = False
        self._chunk_left = -1
        self._send_continue()

    # How it works

    def _send_continue(self) -> None:
        self.expects_continue = False
        lines = ["HTTP/1.1 100 Continue"]
        lines += [PREFIXES[name] + value for name, value in self._continue]
        try:
            self._channel.send(joined_head(lines), self._timeout_s)
        except TimeoutError as error:
            raise self._broken(ClientTimeout("client does not read")) from error
        except OSError as error:
            raise self._broken(ClientDisconnect("client is gone")) from error

    def _broken(self, error: Exception) -> Exception:
        self.broken = True
        self.finished = True
        return error

    def _receive(self, size: int) -> bytes:
        try:
            data = self._channel.recv(size, self._timeout_s)
        except (TimeoutError, OSError) as error:
            raise self._stopped(error) from error
        if not data:
            raise self._broken(ClientDisconnect("body ended early"))
        return data

    def _splice(self, pipe: Pipe, count: int) -> int:
        got: int | None = None
        while got is None:
            self._await_bytes(min(count, BULK_BYTES))
            got = pipe.fill(self._channel, count)
        if not got:
            raise self._broken(ClientDisconnect("body ended early"))
        return got

    def _await_bytes(self, count: int) -> None:
        """Wait for so many bytes, or fewer that nothing follows."""
        if not self._channel.await_bytes(count, self._timeout_s):
            raise self._broken(ClientTimeout("client sends nothing"))

    def _passed(self, count: int) -> None:
        self._left -= count
        if not self._left:
            self.finished = True

    def _stopped(self, error: OSError) -> Exception:
        if isinstance(error, TimeoutError):
            return self._broken(ClientTimeout("client sends nothing"))
        return self._broken(ClientDisconnect(f"body: {error}"))

    def _read_counted(self, size: int) -> bytes:
        wanted = self._left if size < 0 or size > self._left else size
        buffer = self._buffer
        if len(buffer) >= wanted:
            data = buffer[:wanted]
            self._buffer = buffer[wanted:]
        else:
            pieces = [buffer] if buffer else []
            self._buffer = b""
            missing = wanted - len(buffer)
            while missing:
                piece = self._receive(min(missing, 1 << 20))
                pieces.append(piece)
                missing -= len(piece)
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._left -= wanted
        if not self._left:
            self.finished = True
        return data

    def _take(self, size: int) -> bytes:
        """1 to `size` bytes, out of the buffer first."""
        buffer = self._buffer
        if not buffer:
            return self._receive(size)
        if len(buffer) <= size:
            self._buffer = b""
            return buffer
        self._buffer = buffer[size:]
        return buffer[:size]

    def _some_chunked(self, size: int) -> bytes:
        if self._chunk_left == 0:
            self._end_chunk()
        if self._chunk_left < 0:
            self._next_chunk()
            if self.finished:
                return b""
        left = self._chunk_left
        buffer = self._buffer
        if len(buffer) >= left + 2 and left <= size:  # a whole chunk: the usual case
            if buffer[left : left + 2] != CRLF:
                raise self._broken(ClientDisconnect("chunk has no end"))
            self._buffer = buffer[left + 2 :]
            self._chunk_left = -1
            return buffer[:left]
        data = self._take(min(size, left))
        self._chunk_left = left = left - len(data)
        if not left:
            self._end_chunk()
        return data

    def _end_chunk(self) -> None:
        self._chunk_ended(self._line(2))

    def _chunk_ended(self, line: bytes) -> None:
        if line:
            raise self._broken(ClientDisconnect("chunk has no end"))
        self._chunk_left = -1

    def _next_chunk(self) -> None:
        if self._chunk_begins(self._line(CHUNK_LINE_MAX)):
            return
        allowed = TRAILERS_MAX
        while line := self._line(allowed):
            allowed -= len(line) + 2
        self.finished = True

    def _chunk_begins(self, line: bytes) -> bool:
        """Take a size line; False for that of the empty chunk, which ends the body."""
        try:
            size = chunk_size(line)
        except BadFraming as error:
            raise self._broken(ClientDisconnect(str(error))) from error
        if size:
            self._chunk_left = size
        return size > 0

    def _line(self, size_max: int) -> bytes:
        """The next line without its CRLF, which may not lie beyond size_max."""
        while (line := self._line_at_hand(size_max)) is None:
            self._buffer += self._receive(RECV_BYTES)
        return line

    def _line_at_hand(self, size_max: int) -> bytes | None:
        """As `_line`; None when it has not been received."""
        end = self._buffer.find(CRLF)
        if 0 <= end < size_max:
            line = self._buffer[:end]
            self._buffer = self._buffer[end + 2 :]
            return line
        if end >= 0 or len(self._buffer) > size_max:
            raise self._broken(ClientDisconnect("line too long in chunked body"))
        return None

    def _bytes_next(self) -> int:
        """How many bytes of the body come before any framing, as far as is known.

        0 when a line of the framing has not been received. Not at the body's end.
        """
        if self.content_length is not None:
            return self._left
        while self._chunk_left <= 0:
            is_end = self._chunk_left == 0
            line = self._line_at_hand(2 if is_end else CHUNK_LINE_MAX)
            if line is None:
                return 0
            if is_end:
                self._chunk_ended(line)
            elif not self._chunk_begins(line):
                raise self._broken(ClientDisconnect("body ended early"))
        return self._chunk_left

    def _gave(self, count: int) -> None:
        """Note that bytes before the next framing were given out."""
        if self.content_length is not None:
            self._passed(count)
        else:
            self._chunk_left -= count

    # What the connection calls

    def surplus(self) -> bytes:
        """Bytes received after the body's end: the next request's."""
        return self._buffer

    def absorb(self) -> bool:
        """True when the body is at its end, after taking what has arrived of it.

        Never waits; looks at no more than DISCARD_MAX bytes.
        """
        if self.finished:
            return not self.broken
        if self.content_length is None:
            return self._absorb_chunked()
        if self._left > DISCARD_MAX:
            return False
        while self._left > len(self._buffer):
            try:
                data = self._channel.recv_now(self._left - len(self._buffer))
            except OSError:
                data = b""
            if not data:
                return False
            self._buffer += data
        self._buffer = self._buffer[self._left :]
        self._left = 0
        self.finished = True
        return True

    def _absorb_chunked(self) -> bool:
        """For an unread chunked body: only its end may have arrived, or it is cut."""
        whole = b"0" + HEAD_END
        if self._chunk_left < 0 and self._buffer.startswith(whole):
            self._buffer = self._buffer[len(whole) :]
            self.finished = True
            return True
        return False

    def discardable(self) -> bool:
        """True when waiting for the rest of the body is cheap and it will come."""
        return (
            not self.broken
            and not self.expects_continue
            and self.content_length is not None
            and self._left <= DISCARD_MAX
        )

    def discard(self) -> bool:
        """Read the rest away; False when it does not come. Yields."""
        try:
            while self.read_some():
                pass
        except (ClientDisconnect, ClientTimeout):
            return False
        return True


class Intake:
    """Receives bytes of a body from real threads, without waiting there.

    It has a descriptor of its own: the connection may be closed meanwhile, and its
    number would soon name another.
    """

    def __init__(self, body: RequestBody, size: int, step: int) -> None:
        """size: how many bytes are to be received. step: how many are waited for."""
        self.to_come = size
        self._body = body
        self._step = step
        self._first = memoryview(b"")
        self._sock = body._channel.sock.dup()
        self._sock.setblocking(False)

    def begin_with(self, data: bytes) -> None:
        """Give out these bytes first: the body's next, which were read already."""
        self._first = memoryview(data)
        self.to_come -= len(data)

    def wait(self) -> bool:
        """Return when there is something to receive; False at the end. Yields.

        Raises ClientDisconnect, ClientTimeout.
        """
        body = self._body
        if self._first:
            return True
        if not self.to_come:
            return False
        if body.expects_continue:
            body._send_continue()
        if not (body._buffer and body._bytes_next()):
            body._await_bytes(min(self.to_come, self._step))
        return True

    def receive(self, room: memoryview) -> int:
        """Put what has come into `room`; how many bytes, 0 when none or at the end.

        Never waits. Raises ClientDisconnect.
        """
        body = self._body
        if self._first:
            first = self._first[: len(room)]
            room[: len(first)] = first
            self._first = self._first[len(first) :]
            return len(first)
        if not self.to_come:
            return 0
        while not (following := body._bytes_next()):
            framing = bytearray(FRAMING_BYTES)
            count = self._received(memoryview(framing))
            if not count:
                return 0
            body._buffer += framing[:count]
        room = room[: min(self.to_come, following)]
        buffer = body._buffer
        if buffer:
            count = min(len(buffer), len(room))
            room[:count] = buffer[:count]
            body._buffer = buffer[count:]
        else:
            count = self._received(room)
        body._gave(count)
        self.to_come -= count
        return count

    def _received(self, room: memoryview) -> int:
        """How many bytes came; 0 when none are there."""
        try:
            count = self._sock.recv_into(room)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._body._stopped(error) from error
        if not count:
            raise self._body._broken(ClientDisconnect("body ended early"))
        return count

    def close(self) -> None:
        """Let go of the descriptor."""
        self._sock.close()
