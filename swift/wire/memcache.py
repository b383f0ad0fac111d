# SPDX-License-Identifier: Apache-2.0
"""The cache that workers share: values on memcached servers, placed by a ring.

A cache may forget anything at any time; `get` of something forgotten is None, and a
server that is down makes the caller slower, never wrong. Only `incr` raises, as its
callers must know that nothing was counted. What one server is, and how it is spoken to,
is in memcache_server; local_cache has the same methods without servers.

Keys, ring and values: contract middleware 20, so that processes of both implementations
find each other's tokens.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import md5
from typing import Any, Protocol, TypeVar

from swift.core.errors import FormatError, PeerError, PeerTimeout, Unavailable
from swift.runtime import green
from swift.wire.memcache_server import (
    FLAG_JSON,
    Dialer,
    MemcacheConnection,
    MemcacheOptions,
    MemcacheServer,
    read_line,
    read_stored,
    read_value,
    read_values,
)

POINTS_PER_SERVER = 50
RELATIVE_TTL_MAX_S = 30 * 24 * 60 * 60
"""memcached takes longer times for points in time."""

_T = TypeVar("_T")


class CacheUnavailable(Unavailable):
    """No server of the ring answered."""

    def __init__(self, method: str, tries: int) -> None:
        super().__init__(f"memcached: {method} failed on {tries} servers")
        self.method = method
        self.tries = tries


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


def hashed(key: str) -> bytes:
    """The key as memcached sees it: MD5 hex of the logical key."""
    return (
        md5(key.encode("utf-8", "surrogateescape"), usedforsecurity=False)
        .hexdigest()
        .encode()
    )


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
        self._servers = {name: MemcacheServer(name, dial, options) for name in names}
        self._options = options
        self._log = log
        self._metrics = metrics

    def get(self, key: str) -> Any:
        """The value, None when it is not there, not ours or no server answers."""
        place = hashed(key)
        try:
            return self._try("get", place, b"get %b\r\n" % place, read_value)
        except CacheUnavailable:
            return None

    def set(self, key: str, value: Any, ttl_s: float = 0) -> None:
        """Keep a JSON value for `ttl_s` seconds, 0 for as long as there is room.

        A failure is counted, not raised.
        """
        place = hashed(key)
        try:
            self._try("set", place, self._store(place, value, ttl_s), read_stored)
        except CacheUnavailable:
            return

    def delete(self, key: str) -> None:
        """Forget a value; a failure is counted, not raised."""
        place = hashed(key)
        try:
            self._try("delete", place, b"delete %b\r\n" % place, read_line)
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

        def count(stream: MemcacheConnection) -> int:
            line = read_line(stream)
            if line == b"NOT_FOUND":
                stream.send(add)
                if read_line(stream) == b"STORED":
                    return max(0, delta)
                # Another worker made it between the two; it is there now.
                stream.send(request)
                line = read_line(stream)
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
                found.update(self._try("get_multi", group[0], request, read_values))
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

            def read(stream: MemcacheConnection, count: int = len(group)) -> None:
                for _ in range(count):
                    read_stored(stream)

            try:
                self._try("set_multi", group[0][0], request, read)
            except CacheUnavailable:
                continue

    def close(self) -> None:
        """Hang up all kept connections."""
        for server in self._servers.values():
            server.close()

    def _first(self, place: bytes) -> str:
        """The server that is asked first for a key now."""
        first = ""
        for name in self._ring.order(place):
            first = first or name
            if not self._servers[name].is_suppressed(green.now()):
                return name
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
        read: Callable[[MemcacheConnection], _T],
        *,
        repeatable: bool = True,
    ) -> _T:
        """Ask the servers in order until one answers; raises CacheUnavailable."""
        tried = 0
        for name in self._ring.order(place):
            if tried >= self._options.tries:
                break
            server = self._servers[name]
            if server.is_suppressed(green.now()):
                continue
            tried += 1
            start = green.now()
            reason: PeerError
            try:
                answer = server.exchange(request, read, repeatable=repeatable)
            except PeerTimeout as error:
                outcome, reason = "timeout", error
            except PeerError as error:
                outcome, reason = "conn_err", error
            except FormatError as error:
                outcome, reason = "errors", PeerError(name, str(error))
            else:
                self._time(f"memcached.{method}.timing", start)
                return answer
            self._time(f"memcached.{method}.{outcome}.timing", start)
            self._failed(server, method, reason)
        raise CacheUnavailable(method, tried)

    def _time(self, name: str, start: float) -> None:
        if self._metrics is not None:
            self._metrics.timing_since(name, start)

    def _failed(self, server: MemcacheServer, method: str, reason: PeerError) -> None:
        suppressed = server.count_error(green.now())
        if self._log is None:
            return
        if suppressed:
            self._log.error(
                "memcached %s left alone for %ss after repeated errors",
                server.name,
                self._options.error_suppression_interval_s,
            )
        else:
            self._log.warning(
                "memcached %s: %s failed: %s", server.name, method, reason
            )


def _expiry(ttl_s: float) -> int:
    if ttl_s <= 0:
        return 0
    seconds = max(1, int(ttl_s))
    return seconds if seconds <= RELATIVE_TTL_MAX_S else int(green.now()) + seconds
