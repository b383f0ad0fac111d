# SPDX-License-Identifier: Apache-2.0
"""What the proxy remembers of the shards of a container, in the cache of all workers.

There are two sets: the shards that listings are made of, and those that take updates.
What is remembered may be old: a listing that meets a shard which has gone forgets the
set and asks the root, and an update that goes to a shard too many is moved by the
sharder. When many requests lack a set at the same moment, a few of them ask the root.
Contract: config 4 (recheck_*_shard_ranges, *_skip_cache_pct, namespace_*).

Keys are this project's own, as those of `wire/infocache` are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swift.core.names import ContainerName
from swift.core.shards import Namespace
from swift.services.proxy.cooperation import CountingCache, Turn, session_key
from swift.services.proxy.exchange import Exchange
from swift.wire import environ as env


@dataclass(slots=True)
class ShardCache:
    """One of the two sets, for one request.

    use: `listing` or `updating`. resource: what is asked for, in the names of counters.
    ttl_s: how long a set is believed; 0 remembers nothing. skip_pct: share of look-ups
    that ask anew. turn: of this request, when the set was missing.
    """

    exchange: Exchange
    use: str
    resource: str
    ttl_s: float
    skip_pct: float
    turn: Turn | None = None

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
    def _cache(self) -> CountingCache | None:
        cache: CountingCache | None = self.exchange.environ.get(env.CACHE)
        return cache if self.ttl_s > 0 else None

    @property
    def remembers(self) -> bool:
        """True when there is a cache, and it is to be used."""
        return self._cache is not None

    def get(
        self, container: ContainerName, *, will_keep: bool = True
    ) -> list[Namespace] | None:
        """The shards remembered, None when the root must be asked. Yields.

        will_keep: the caller will ask for the whole set and `keep` it. Only then it
        takes part in the sessions of `cooperation`, and may have to wait.
        """
        cache = self._cache
        if cache is None:
            self._count("disabled")
            return None
        if self.skip_pct and self.exchange.proxy.rng.random() * 100 < self.skip_pct:
            self._count("skip")
            return None
        known = _from_record(cache.get(self._key(container)))
        self._count("miss" if known is None else "hit")
        return self._wait(cache, container) if known is None and will_keep else known

    def _wait(
        self, cache: CountingCache, container: ContainerName
    ) -> list[Namespace] | None:
        """What another request has fetched meanwhile; None when it is our turn."""
        config = self.exchange.proxy.config
        turn = self.turn = Turn(
            cache,
            self._key(container),
            tokens=config.namespace_cache_tokens_per_session,
            fetch_s=config.namespace_avg_backend_fetch_time_s,
        )
        known = _from_record(turn.wait())
        if known is not None:
            self._tell_turn(turn, container, "cache_served")
        return known

    def keep(
        self, container: ContainerName, status: int, shards: Sequence[Namespace]
    ) -> None:
        """Remember the shards that the root has named in an answer. Yields."""
        cache = self._cache
        if cache is None:
            return
        if shards:
            record = [[shard.name, shard.lower, shard.upper] for shard in shards]
            cache.set(self._key(container), record, self.ttl_s)
            self._count("set")
        elif self.turn is not None and status // 100 != 5:
            # There are none, so that nobody need wait for them.
            cache.delete(session_key(self._key(container)))
        if self.turn is not None:
            state = "set" if shards else "not_set"
            self._tell_turn(self.turn, container, "backend_reqs", status, state)

    def forget(self, container: ContainerName) -> None:
        """Have the next look-up ask the root. Yields."""
        cache = self._cache
        if cache is not None:
            cache.delete(self._key(container))
            cache.delete(session_key(self._key(container)))

    def _key(self, container: ContainerName) -> str:
        return f"{self.use}-shards/{container.account}/{container.container}"

    def _count(self, event: str) -> None:
        metrics = self.exchange.proxy.metrics
        metrics.increment(f"{self.resource}.shard_{self.use}.cache.{event}")

    def _tell_turn(
        self,
        turn: Turn,
        container: ContainerName,
        event: str,
        status: int | None = None,
        set_cache_state: str | None = None,
    ) -> None:
        self.exchange.proxy.metrics.labelled_count(
            "swift_coop_cache",
            {
                "resource": f"shard_{self.use}",
                "account": container.account,
                "container": container.container,
                "event": event,
                "token": turn.token,
                "status": status,
                "set_cache_state": set_cache_state,
                "lack_retries": turn.is_tired,
            },
        )


def _from_record(record: Any) -> list[Namespace] | None:
    """The shards of a record; None of one that another version wrote."""
    try:
        return [Namespace(*item) for item in record] if record else None
    except TypeError:
        return None
