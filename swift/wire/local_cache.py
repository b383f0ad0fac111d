# SPDX-License-Identifier: Apache-2.0
"""The cache of a process on a machine without memcached: the same methods, no network.

As any cache it may forget anything at any time: at most so many entries are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from swift.runtime import green

LOCAL_ENTRIES_MAX = 20_000


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
