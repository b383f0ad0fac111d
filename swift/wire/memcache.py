# SPDX-License-Identifier: Apache-2.0
"""The cache that workers share: memcached servers on a ring, or this process alone.

`MemcacheClient` and `LocalCache` have the same methods, so that a proxy on one machine
needs no memcached. A cache may forget anything at any time; `get` of something
forgotten is None, and a server that is down makes the caller slower, never wrong. Only
`incr` raises, as its callers must know that nothing was counted.

Wire: the text protocol of memcached. Keys, ring and flags: contract middleware 20, so
that processes of both implementations find each other's tokens.
"""

from __future__ import annotations

import json
import ssl
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import md5
from typing import Any, Protocol, TypeVar

from swift.core.errors import FormatError, PeerError, PeerTimeout, Unavailable
from swift.runtime import green
from swift.wire.channel import Channel, TlsChannel

POINTS_PER_SERVER = 50
FLAG_PICKLE = 1
FLAG_JSON = 2
RELATIVE_TTL_MAX_S = 30 * 24 * 60 * 60
"""memcached takes longer times for points in time."""

DEFAULT_PORT = 11211
LINE_MAX = 2048
VALUE_MAX = 64 * 1024 * 1024
LOCAL_ENTRIES_MAX = 20_000

_T = TypeVar("_T")


class CacheUnavailable(Unavailable):
    """No server of the ring answered."""

    def __init__(self, method: str, tries: int) -> None:
        super().__init__(f"memcached: {method} failed on {tries} servers")
        self.method = method
        self.tries = tries


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


def tls_dialer(
    dial: Callable[[str, int, float], Channel], context: ssl.SSLContext
) -> Dialer:
    """A dialer that speaks TLS over what `dial` connects."""

    def dial_tls(host: str, port: int, timeout_s: float) -> Stream:
        plain = dial(host, port, timeout_s)
        plain.watch.close()
        try:
            channel = TlsChannel(
                context.wrap_socket(
                    plain.sock, server_hostname=host, do_handshake_on_connect=False
                )
            )
            channel.handshake(timeout_s)
        except OSError as error:
            raise PeerError(f"{host}:{port}", f"TLS: {error}") from error
        return channel

    return dial_tls


class Log(Protocol):
    """The methods of runtime.logs.Logger that are used here."""

    def warning(self, message: str, *args: Any) -> None:
        """Degraded; goes on."""

    def error(self, message: str, *args: Any) -> None:
        """Someone must look."""


class Timers(Protocol):
    """The one method of runtime.metrics.Metrics that is used here."""

    def timing_since(self, name: str, start: float) -> None:
        """Report the time since a clock reading."""


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


def hashed(key: str) -> bytes:
    """The key as memcached sees it: MD5 hex of the logical key."""
    return (
        md5(key.encode("utf-8", "surrogateescape"), usedforsecurity=False)
        .hexdigest()
        .encode()
    )


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


class ServerRing:
    """Which servers keep a key, best first."""

    def __init__(self, servers: Iterable[str]) -> None:
        points = {
            md5(f"{server}-{index}".encode(), usedforsecurity=False).hexdigest(): server
            for server in sorted(servers)
            for index in range(POINTS_PER_SERVER)
        }
        self._points = sorted(points)
        self._servers = [points[point] for point in self._points]
        self.count = len(set(self._servers))

    def order(self, hashed_key: bytes) -> Iterator[str]:
        """Each server once, in the order in which it is asked for the key."""
        start = bisect(self._points, hashed_key.decode("ascii"))
        seen: set[str] = set()
        for step in range(len(self._servers)):
            server = self._servers[(start + step) % len(self._servers)]
            if server not in seen:
                seen.add(server)
                yield server
                if len(seen) == self.count:
                    return


class MemcacheClient:
    """Keys and JSON values on memcached servers. Calls yield.

    servers: `host[:port]` each, not empty; the spelling places the keys.
    """

    keeps_objects = False
    keeps_facts = True

    def __init__(
        self,
        servers: Iterable[str],
        dial: Dialer,
        options: MemcacheOptions,
        *,
        log: Log | None = None,
        metrics: Timers | None = None,
    ) -> None:
        names = list(dict.fromkeys(servers))
        if not names:
            raise ValueError("no memcached servers")
        self._ring = ServerRing(names)
        self._pools = {name: _Pool(name, dial, options) for name in names}
        self._options = options
        self._log = log
        self._metrics = metrics

    def get(self, key: str) -> Any:
        """The value, None when it is not there, not ours or no server answers."""
        place = hashed(key)
        try:
            return self._try("get", place, b"get %b\r\n" % place, _read_value)
        except CacheUnavailable:
            return None

    def set(self, key: str, value: Any, ttl_s: float = 0) -> None:
        """Keep a JSON value for `ttl_s` seconds, 0 for as long as there is room.

        A failure is counted, not raised.
        """
        place = hashed(key)
        try:
            self._try("set", place, self._store(place, value, ttl_s), _read_stored)
        except CacheUnavailable:
            return

    def delete(self, key: str) -> None:
        """Forget a value; a failure is counted, not raised."""
        place = hashed(key)
        try:
            self._try("delete", place, b"delete %b\r\n" % place, _read_line)
        except CacheUnavailable:
            return

    def incr(self, key: str, delta: int = 1, ttl_s: float = 0) -> int:
        """Add to a counter, made when missing, and return it; it does not go below 0.

        ttl_s counts from the making. Raises CacheUnavailable.
        """
        place = hashed(key)
        verb = b"incr" if delta >= 0 else b"decr"
        first = b"%d" % max(0, delta)
        request = b"%b %b %d\r\n" % (verb, place, abs(delta))
        add = b"add %b 0 %d %d\r\n%b\r\n" % (place, _expiry(ttl_s), len(first), first)

        def count(stream: _Connection) -> int:
            line = _read_line(stream)
            if line == b"NOT_FOUND":
                stream.send(add)
                if _read_line(stream) == b"STORED":
                    return max(0, delta)
                # Another worker made it between the two; it is there now.
                stream.send(request)
                line = _read_line(stream)
            if not line.isdigit():
                raise FormatError("memcached answer", repr(line[:64]))
            return int(line)

        return self._try("incr", place, request, count, repeatable=False)

    def decr(self, key: str, delta: int = 1, ttl_s: float = 0) -> int:
        """Take from a counter, not below 0. Raises CacheUnavailable."""
        return self.incr(key, -delta, ttl_s)

    def get_multi(self, keys: Iterable[str]) -> list[Any]:
        """The values in the order of the keys, one round trip a server."""
        places = [hashed(key) for key in keys]
        groups: dict[str, list[bytes]] = {}
        for place in places:
            groups.setdefault(self._first(place), []).append(place)
        found: dict[bytes, Any] = {}
        for group in groups.values():
            request = b"get " + b" ".join(group) + b"\r\n"
            try:
                found.update(self._try("get_multi", group[0], request, _read_values))
            except CacheUnavailable:
                continue
        return [found.get(place) for place in places]

    def set_multi(self, values: Mapping[str, Any], ttl_s: float = 0) -> None:
        """Keep several values, one round trip a server."""
        groups: dict[str, list[tuple[bytes, bytes]]] = {}
        for key, value in values.items():
            place = hashed(key)
            store = self._store(place, value, ttl_s)
            groups.setdefault(self._first(place), []).append((place, store))
        for group in groups.values():
            request = b"".join(store for _place, store in group)

            def read(stream: _Connection, count: int = len(group)) -> None:
                for _ in range(count):
                    _read_stored(stream)

            try:
                self._try("set_multi", group[0][0], request, read)
            except CacheUnavailable:
                continue

    def close(self) -> None:
        """Hang up all kept connections."""
        for pool in self._pools.values():
            pool.close()

    def _first(self, place: bytes) -> str:
        """The server that is asked first for a key now."""
        first = ""
        for server in self._ring.order(place):
            first = first or server
            if not self._pools[server].is_suppressed(green.now()):
                return server
        return first

    def _store(self, place: bytes, value: Any, ttl_s: float) -> bytes:
        data = json.dumps(value).encode("ascii")
        threshold = self._options.item_size_warning_threshold
        if 0 <= threshold <= len(data) and self._log is not None:
            self._log.warning(
                "memcached: item %s of %d bytes is over the warning threshold",
                place.decode("ascii"),
                len(data),
            )
        return b"set %b %d %d %d\r\n%b\r\n" % (
            place,
            FLAG_JSON,
            _expiry(ttl_s),
            len(data),
            data,
        )

    def _try(
        self,
        method: str,
        place: bytes,
        request: bytes,
        read: Callable[[_Connection], _T],
        *,
        repeatable: bool = True,
    ) -> _T:
        """Ask the servers in order until one answers; raises CacheUnavailable."""
        tried = 0
        for server in self._ring.order(place):
            if tried >= self._options.tries:
                break
            pool = self._pools[server]
            if pool.is_suppressed(green.now()):
                continue
            tried += 1
            start = green.now()
            reason: PeerError
            try:
                answer = pool.exchange(request, read, repeatable=repeatable)
            except PeerTimeout as error:
                outcome, reason = "timeout", error
            except PeerError as error:
                outcome, reason = "conn_err", error
            except FormatError as error:
                outcome, reason = "errors", PeerError(server, str(error))
            else:
                self._time(f"memcached.{method}.timing", start)
                return answer
            self._time(f"memcached.{method}.{outcome}.timing", start)
            self._failed(pool, method, reason)
        raise CacheUnavailable(method, tried)

    def _time(self, name: str, start: float) -> None:
        if self._metrics is not None:
            self._metrics.timing_since(name, start)

    def _failed(self, pool: _Pool, method: str, reason: PeerError) -> None:
        suppressed = pool.count_error(green.now())
        if self._log is None:
            return
        if suppressed:
            self._log.error(
                "memcached %s left alone for %ss after repeated errors",
                pool.server,
                self._options.error_suppression_interval_s,
            )
        else:
            self._log.warning(
                "memcached %s: %s failed: %s", pool.server, method, reason
            )


class _Connection:
    """A stream with the reading that the protocol needs."""

    __slots__ = ("_buffer", "_stream", "_timeout_s", "heard")

    def __init__(self, stream: Stream, timeout_s: float) -> None:
        self._stream = stream
        self._timeout_s = timeout_s
        self._buffer = b""
        self.heard = False

    def send(self, data: bytes) -> None:
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


class _Pool:
    """The connections to one server, and how often it failed of late."""

    def __init__(self, server: str, dial: Dialer, options: MemcacheOptions) -> None:
        self.server = server
        self._host, self._port = split_server(server)
        self._dial = dial
        self._options = options
        self._idle: list[_Connection] = []
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
        self, request: bytes, read: Callable[[_Connection], _T], *, repeatable: bool
    ) -> _T:
        """Send a request and read its answer. Yields.

        A kept connection that turns out to be closed is replaced once when the request
        may be repeated. Raises PeerTimeout, PeerError, FormatError.
        """
        if not self._places.acquire(self._options.pool_timeout_s):
            raise PeerTimeout(self.server, "no free connection in pool_timeout")
        try:
            while True:
                kept = bool(self._idle)
                connection = self._idle.pop() if kept else self._connect()
                try:
                    return self._exchange_on(connection, request, read)
                except TimeoutError as error:
                    raise PeerTimeout(self.server, "silent for io_timeout") from error
                except OSError as error:
                    if not (kept and repeatable) or connection.heard:
                        raise PeerError(self.server, str(error)) from error
        finally:
            self._places.release()

    def close(self) -> None:
        """Hang up the kept connections."""
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> _Connection:
        stream = self._dial(self._host, self._port, self._options.connect_timeout_s)
        return _Connection(stream, self._options.io_timeout_s)

    def _exchange_on(
        self,
        connection: _Connection,
        request: bytes,
        read: Callable[[_Connection], _T],
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


class LocalCache:
    """The same methods within this process, for a machine without memcached.

    keeps_facts: False when other workers change what is cached here. Values are kept as
    they are and must not be changed by those who set or get them. At most `entries_max`
    are kept; the oldest go first.
    """

    keeps_objects = True

    def __init__(
        self, entries_max: int = LOCAL_ENTRIES_MAX, *, keeps_facts: bool = True
    ) -> None:
        self.keeps_facts = keeps_facts
        self._entries_max = entries_max
        self._entries: dict[str, tuple[float, Any]] = {}

    def get(self, key: str) -> Any:
        """The value, None when it is not there or its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= green.now():
            del self._entries[key]
            return None
        return entry[1]

    def set(self, key: str, value: Any, ttl_s: float = 0) -> None:
        """Keep a value for `ttl_s` seconds, 0 for as long as there is room."""
        entries = self._entries
        entries.pop(key, None)
        if len(entries) >= self._entries_max:
            self._make_room()
        entries[key] = (green.now() + ttl_s if ttl_s > 0 else float("inf"), value)

    def delete(self, key: str) -> None:
        """Forget a value."""
        self._entries.pop(key, None)

    def incr(self, key: str, delta: int = 1, ttl_s: float = 0) -> int:
        """Add to a counter, made when missing; return it, at least 0."""
        value = self.get(key)
        if value is None:
            value = max(0, delta)
            self.set(key, value, ttl_s)
            return value
        value = max(0, int(value) + delta)
        self._entries[key] = (self._entries[key][0], value)
        return value

    def decr(self, key: str, delta: int = 1, ttl_s: float = 0) -> int:
        """Take from a counter, not below 0."""
        return self.incr(key, -delta, ttl_s)

    def get_multi(self, keys: Iterable[str]) -> list[Any]:
        """The values in the order of the keys."""
        return [self.get(key) for key in keys]

    def set_multi(self, values: Mapping[str, Any], ttl_s: float = 0) -> None:
        """Keep several values."""
        for key, value in values.items():
            self.set(key, value, ttl_s)

    def close(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def _make_room(self) -> None:
        now = green.now()
        self._entries = {
            key: entry for key, entry in self._entries.items() if entry[0] > now
        }
        # A tenth at once, so that a full cache is not swept for each value.
        surplus = len(self._entries) - self._entries_max * 9 // 10
        for key in list(self._entries)[: max(0, surplus)]:
            del self._entries[key]


def _expiry(ttl_s: float) -> int:
    if ttl_s <= 0:
        return 0
    seconds = max(1, int(ttl_s))
    return seconds if seconds <= RELATIVE_TTL_MAX_S else int(green.now()) + seconds


def _read_line(connection: _Connection) -> bytes:
    """One line; raises FormatError for an error of the server."""
    line = connection.line()
    if line.startswith((b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")):
        raise FormatError("memcached answer", line.decode("latin-1"))
    return line


def _read_stored(connection: _Connection) -> None:
    line = connection.line()
    if line.startswith(b"SERVER_ERROR"):
        # Too large, or out of memory: nothing is kept, and the server is not at fault.
        return
    if line not in (b"STORED", b"NOT_STORED"):
        raise FormatError("memcached answer", line.decode("latin-1"))


def _read_value(connection: _Connection) -> Any:
    for value in _read_values(connection).values():
        return value
    return None


def _read_values(connection: _Connection) -> dict[bytes, Any]:
    """The values of a `get`; those that are no JSON of ours are left out."""
    values: dict[bytes, Any] = {}
    while True:
        line = _read_line(connection)
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
