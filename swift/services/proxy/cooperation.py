# SPDX-License-Identifier: Apache-2.0
"""Who fetches what the cache lacks, when many want it at the same moment.

When an entry that hundreds of requests need expires, each of them would ask the same
few databases for it. Instead the first of a session are given a token and fetch; the
others look into the cache until it has the entry, but not for longer than some fetches
take, for whoever had a token may have failed. A session is a counter in the cache
itself, so that it spans all proxies that share it. Contract: config 4 (namespace_*).
"""

from __future__ import annotations

from typing import Any, Protocol

from swift.runtime import green
from swift.wire.infocache import Cache
from swift.wire.memcache import CacheUnavailable

SESSION_FETCHES = 10
"""A session and a wait last for as long as so many average fetches."""

LOOKS_PER_FETCH = 10
"""The first look is after this part of an average fetch; then ever more seldom."""

WITH_TOKEN = "with_token"  # noqa: S105 (a label of a metric)
NO_TOKEN = "no_token"  # noqa: S105
NO_COUNT = "error"
DISABLED = "disabled"


class CountingCache(Cache, Protocol):
    """What wire.memcache and wire.local_cache can do beside the methods of a Cache."""

    def incr(self, key: str, delta: int = 1, ttl_s: float = 0) -> int:
        """Add to a counter, made when missing. Raises CacheUnavailable."""

    def get_multi(self, keys: list[str]) -> list[Any]:
        """The values in the order of the keys, None for what is absent."""


class Turn:
    """What one request does about an entry that the cache lacks.

    tokens: how many fetch in a session. fetch_s: how long a fetch takes on average.
    Without either, everybody fetches.

    token: why this request fetches or has waited, one of the words above. is_tired:
    True when it has waited in vain and fetches after all.
    """

    def __init__(
        self, cache: CountingCache, key: str, *, tokens: int, fetch_s: float
    ) -> None:
        self._cache = cache
        self._key = key
        self._tokens = tokens
        self._fetch_s = fetch_s
        self._session = session_key(key)
        self.token = DISABLED
        self.is_tired = False

    def wait(self) -> Any:
        """The entry that another has fetched; None when the caller must fetch. Yields.

        At once when it is among the first of a session.
        """
        length_s = self._fetch_s * SESSION_FETCHES
        end = green.monotonic() + length_s
        while self._is_to_wait(length_s):
            entry = self._look_until(end)
            if entry is not None:
                return entry
            if green.monotonic() >= end:
                self.is_tired = True
                return None
            # The session is over, without an entry: perhaps it is our turn in the next.
        return None

    def _is_to_wait(self, length_s: float) -> bool:
        """Join the session, or begin one: False for a request that gets a token."""
        if not (self._tokens and length_s):
            return False
        try:
            place = self._cache.incr(self._session, ttl_s=length_s)
        except CacheUnavailable:
            self.token = NO_COUNT
            return False
        self.token = WITH_TOKEN if place <= self._tokens else NO_TOKEN
        return place > self._tokens

    def _look_until(self, end: float) -> Any:
        """The entry once it is there; None when time or session is over. Yields."""
        pause_s = self._fetch_s / LOOKS_PER_FETCH
        while (left_s := end - green.monotonic()) > 0:
            green.sleep(min(pause_s, left_s))
            entry, session = self._cache.get_multi([self._key, self._session])
            if entry is not None or session is None:
                return entry
            pause_s = min(pause_s * 2, self._fetch_s)
        return None


def session_key(key: str) -> str:
    """Where the requests that lack an entry are counted.

    Who forgets an entry forgets this too, or the next would wait for nobody.
    """
    return f"{key}/session"
