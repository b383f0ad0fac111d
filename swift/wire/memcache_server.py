# SPDX-License-Identifier: Apache-2.0
"""One memcached server: the connections to it, what it says, and how often it failed.

A request goes over a kept connection or a new one, and comes back with its answer or
not at all: a connection with anything unread is closed, so that no answer is taken for
that of another request. A server that fails again and again is left alone for a while.
Which server keeps a key is not known here.

Wire: the text protocol of memcached. Flags: contract middleware 20.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from swift.core.errors import FormatError, PeerError, PeerTimeout
from swift.runtime import green

FLAG_PICKLE = 1
FLAG_JSON = 2
DEFAULT_PORT = 11211
LINE_MAX = 2048
VALUE_MAX = 64 * 1024 * 1024

_T = TypeVar("_T")


class Stream(Protocol):
    """One connection, as the network door gives it (wire.channel.Channel). Yields.

    Raises OSError when the peer is gone, and TimeoutError (an OSError) when it was
    silent for longer than the timeout.
    """

    def send(self, data: bytes, timeout_s: float | None, /) -> None:
        """Send everything."""

    def recv(self, size: int, timeout_s: float | None, /) -> bytes:
        """Some bytes, none at the end."""

    def close(self) -> None:
        """Hang up."""


Dialer = Callable[[str, int, float], Stream]
"""(host, port, timeout in seconds) → a connected stream; raises PeerError."""


@dataclass(frozen=True)
class MemcacheOptions:
    """How the client behaves; times in seconds."""

    max_connections: int = 2
    connect_timeout_s: float = 0.3
    pool_timeout_s: float = 1.0
    io_timeout_s: float = 2.0
    tries: int = 3
    error_suppression_interval_s: float = 60.0
    error_suppression_limit: int = 10
    item_size_warning_threshold: int = -1


def split_server(server: str) -> tuple[str, int]:
    """Host and port of `host[:port]`, `[v6][:port]` or a bare IPv6 address.

    Raises ValueError.
    """
    if server.startswith("["):
        host, _bracket, rest = server[1:].partition("]")
        return host, int(rest[1:]) if rest.startswith(":") else DEFAULT_PORT
    if server.count(":") == 1:
        host, _colon, port = server.partition(":")
        return host, int(port)
    return server, DEFAULT_PORT


class MemcacheServer:
    """The connections to one server, and how often it failed of late."""

    def __init__(self, name: str, dial: Dialer, options: MemcacheOptions) -> None:
        self.name = name
        self._host, self._port = split_server(name)
        self._dial = dial
        self._options = options
        self._idle: list[MemcacheConnection] = []
        self._places = green.Semaphore(options.max_connections)
        self._errors: list[float] = []
        self._suppressed_until = 0.0

    def is_suppressed(self, now: float) -> bool:
        """True while the server is left alone."""
        return now < self._suppressed_until

    def count_error(self, now: float) -> bool:
        """Note an error; True when the server is left alone from now on."""
        interval_s = self._options.error_suppression_interval_s
        self._errors = [time for time in self._errors if time > now - interval_s]
        self._errors.append(now)
        if interval_s > 0 and len(self._errors) > self._options.error_suppression_limit:
            self._suppressed_until = now + interval_s
            self._errors.clear()
            return True
        return False

    def exchange(
        self,
        request: bytes,
        read: Callable[[MemcacheConnection], _T],
        *,
        repeatable: bool,
    ) -> _T:
        """Send a request and read its answer. Yields.

        A kept connection that turns out to be closed is replaced once when the request
        may be repeated. Raises PeerTimeout, PeerError, FormatError.
        """
        if not self._places.acquire(self._options.pool_timeout_s):
            raise PeerTimeout(self.name, "no free connection in pool_timeout")
        try:
            while True:
                kept = bool(self._idle)
                connection = self._idle.pop() if kept else self._connect()
                try:
                    return self._exchange_on(connection, request, read)
                except TimeoutError as error:
                    raise PeerTimeout(self.name, "silent for io_timeout") from error
                except OSError as error:
                    if not (kept and repeatable) or connection.heard:
                        raise PeerError(self.name, str(error)) from error
        finally:
            self._places.release()

    def close(self) -> None:
        """Hang up the kept connections."""
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> MemcacheConnection:
        stream = self._dial(self._host, self._port, self._options.connect_timeout_s)
        return MemcacheConnection(stream, self._options.io_timeout_s)

    def _exchange_on(
        self,
        connection: MemcacheConnection,
        request: bytes,
        read: Callable[[MemcacheConnection], _T],
    ) -> _T:
        connection.heard = False
        finished = False
        try:
            connection.send(request)
            answer = read(connection)
            finished = connection.is_clean
            return answer
        finally:
            # Also when the green thread is killed: a half-read answer would be taken
            # for that of the next request.
            if finished:
                self._idle.append(connection)
            else:
                connection.close()


class MemcacheConnection:
    """A stream with the reading that the protocol needs.

    heard: something has come since the last request began. Raises as Stream, and
    FormatError for what no memcached says.
    """

    __slots__ = ("_buffer", "_stream", "_timeout_s", "heard")

    def __init__(self, stream: Stream, timeout_s: float) -> None:
        self._stream = stream
        self._timeout_s = timeout_s
        self._buffer = b""
        self.heard = False

    def send(self, data: bytes) -> None:
        """Send everything. Yields."""
        self._stream.send(data, self._timeout_s)

    def line(self) -> bytes:
        """The next line without its end."""
        while True:
            end = self._buffer.find(b"\r\n")
            if end >= 0:
                line = self._buffer[:end]
                self._buffer = self._buffer[end + 2 :]
                return line
            if len(self._buffer) > LINE_MAX:
                raise FormatError("memcached answer", "line too long")
            self._more()

    def block(self, size: int) -> bytes:
        """A value of `size` bytes and its line end."""
        while len(self._buffer) < size + 2:
            self._more()
        data = self._buffer[:size]
        self._buffer = self._buffer[size + 2 :]
        return data

    def close(self) -> None:
        """Hang up."""
        self._stream.close()

    @property
    def is_clean(self) -> bool:
        """True when nothing unread is left."""
        return not self._buffer

    def _more(self) -> None:
        data = self._stream.recv(65536, self._timeout_s)
        if not data:
            raise ConnectionResetError("closed by the server")
        self.heard = True
        self._buffer = self._buffer + data if self._buffer else data


def read_line(connection: MemcacheConnection) -> bytes:
    """One line; raises FormatError for an error of the server."""
    line = connection.line()
    if line.startswith((b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")):
        raise FormatError("memcached answer", line.decode("latin-1"))
    return line


def read_stored(connection: MemcacheConnection) -> None:
    """The answer to a `set`; raises FormatError for any but a storing server's."""
    line = connection.line()
    if line.startswith(b"SERVER_ERROR"):
        # Too large, or out of memory: nothing is kept, and the server is not at fault.
        return
    if line not in (b"STORED", b"NOT_STORED"):
        raise FormatError("memcached answer", line.decode("latin-1"))


def read_value(connection: MemcacheConnection) -> Any:
    """The value of a `get` of one key, None when there is none."""
    for value in read_values(connection).values():
        return value
    return None


def read_values(connection: MemcacheConnection) -> dict[bytes, Any]:
    """The values of a `get`; those that are no JSON of ours are left out."""
    values: dict[bytes, Any] = {}
    while True:
        line = read_line(connection)
        if line == b"END":
            return values
        parts = line.split()
        if len(parts) < 4 or parts[0] != b"VALUE" or not parts[3].isdigit():
            raise FormatError("memcached answer", line.decode("latin-1"))
        size = int(parts[3])
        if size > VALUE_MAX:
            raise FormatError("memcached answer", f"value of {size} bytes")
        data = connection.block(size)
        flags = int(parts[2]) if parts[2].isdigit() else FLAG_PICKLE
        if flags & FLAG_PICKLE:
            continue
        try:
            text = data.decode()
            values[parts[1]] = json.loads(text) if flags & FLAG_JSON else text
        except ValueError:
            continue
