# SPDX-License-Identifier: Apache-2.0
"""What the proxy remembers of the shards of a container, in the cache of all workers.

There are two sets: the shards that listings are made of, and those that take updates.
What is remembered may be old: a listing that meets a shard which has gone forgets the
set and asks the root, and an update that goes to a shard too many is moved by the
sharder. Contract: config 4 (recheck_*_shard_ranges, *_skip_cache_pct).

Keys are this project's own, as those of `wire/infocache` are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swift.core.names import ContainerName
from swift.core.shards import Namespace
from swift.services.proxy.exchange import Exchange
from swift.wire import environ as env
from swift.wire.infocache import Cache


@dataclass(frozen=True, slots=True)
class ShardCache:
    """One of the two sets, for one request.

    use: `listing` or `updating`. resource: what is asked for, in the names of counters.
    ttl_s: how long a set is believed; 0 remembers nothing. skip_pct: share of look-ups
    that ask anew.
    """

    exchange: Exchange
    use: str
    resource: str
    ttl_s: float
    skip_pct: float

    @classmethod
    def for_listing(cls, exchange: Exchange) -> ShardCache:
        """The shards that listings are made of."""
        config = exchange.proxy.config
        return cls(
            exchange,
            "listing",
            "container",
            config.recheck_listing_shard_ranges_s,
            config.container_listing_shard_ranges_skip_cache_pct,
        )

    @classmethod
    def for_updating(cls, exchange: Exchange) -> ShardCache:
        """The shards that take updates."""
        config = exchange.proxy.config
        return cls(
            exchange,
            "updating",
            "object",
            config.recheck_updating_shard_ranges_s,
            config.container_updating_shard_ranges_skip_cache_pct,
        )

    @property
    def _cache(self) -> Cache | None:
        cache: Cache | None = self.exchange.environ.get(env.CACHE)
        return cache if self.ttl_s > 0 else None

    @property
    def remembers(self) -> bool:
        """True when there is a cache, and it is to be used."""
        return self._cache is not None

    def get(self, container: ContainerName) -> list[Namespace] | None:
        """The shards remembered, None when the root must be asked. Yields."""
        cache = self._cache
        if cache is None:
            self._count("disabled")
            return None
        if self.skip_pct and self.exchange.proxy.rng.random() * 100 < self.skip_pct:
            self._count("skip")
            return None
        known = _from_record(cache.get(self._key(container)))
        self._count("miss" if known is None else "hit")
        return known

    def set(self, container: ContainerName, shards: Sequence[Namespace]) -> None:
        """Remember the shards that the root has named. Yields."""
        cache = self._cache
        if cache is not None and shards:
            record = [[shard.name, shard.lower, shard.upper] for shard in shards]
            cache.set(self._key(container), record, self.ttl_s)
            self._count("set")

    def forget(self, container: ContainerName) -> None:
        """Have the next look-up ask the root. Yields."""
        cache = self._cache
        if cache is not None:
            cache.delete(self._key(container))

    def _key(self, container: ContainerName) -> str:
        return f"{self.use}-shards/{container.account}/{container.container}"

    def _count(self, event: str) -> None:
        metrics = self.exchange.proxy.metrics
        metrics.increment(f"{self.resource}.shard_{self.use}.cache.{event}")


def _from_record(record: Any) -> list[Namespace] | None:
    """The shards of a record; None of one that another version wrote."""
    try:
        return [Namespace(*item) for item in record] if record else None
    except TypeError:
        return None
