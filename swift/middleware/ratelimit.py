# SPDX-License-Identifier: Apache-2.0
"""Slows down writes to containers, and listings of them, that come too fast.

A big container database takes fewer changes a second than a small one, so the rate of a
container follows its number of objects. Workers and proxies share the count through the
cache; without one, or while it fails, nothing is limited.

Contract: middleware 23.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from swift.core.errors import ConfigError, FormatError, InvalidInput, Unavailable
from swift.core.names import AccountName, ContainerName, text_of_wsgi
from swift.core.settings import csv, number, option, positive_int, seconds
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.environ import Environ
from swift.wire.filter import Filter, PipelineContext
from swift.wire.infocache import account_info, container_info
from swift.wire.request import Response, StartResponse, WsgiApp

GLOBAL_WRITE = "global-write-ratelimit"
"""Account sysmeta: a rate for all its writes, or WHITELIST or BLACKLIST."""

BLACKLIST_PAUSE_S = 1.0
WRITE_OPTION = "container_ratelimit_"
LISTING_OPTION = "container_listing_ratelimit_"

_WRITES = frozenset(("PUT", "DELETE", "POST", "COPY"))
_SLACK = 0.01


@dataclass(frozen=True)
class RatelimitConfig:
    """[filter:ratelimit] of proxy-server.conf.

    Beside these: `container_ratelimit_SIZE` and `container_listing_ratelimit_SIZE`, the
    rate per second from that number of objects on.
    """

    account_ratelimit: float = option(
        0.0, parse=seconds, doc="Containers made or deleted per second of an account."
    )
    max_sleep_time_seconds: float = option(
        60.0, parse=seconds, doc="Longest wait; beyond it the answer is 498."
    )
    log_sleep_time_seconds: float = option(
        0.0, parse=seconds, doc="Waits longer than this are logged; 0 logs none."
    )
    rate_buffer_seconds: float = option(
        5.0, parse=seconds, doc="Idle time that may be caught up."
    )
    clock_accuracy: int = option(
        1000, parse=positive_int, doc="Ticks per second of the shared counters."
    )
    account_whitelist: tuple[str, ...] = option(
        (), parse=csv, doc="Accounts without limits; set their sysmeta instead."
    )
    account_blacklist: tuple[str, ...] = option(
        (), parse=csv, doc="Accounts that are refused; set their sysmeta instead."
    )


class Counters(Protocol):
    """What the cache does for the limits."""

    def incr(self, key: str, delta: int = 1, ttl_s: float = 0) -> int:
        """Add and return."""

    def decr(self, key: str, delta: int = 1, ttl_s: float = 0) -> int:
        """Take away and return."""

    def set(self, key: str, value: Any, ttl_s: float = 0) -> None:
        """Keep a value."""


class Rates:
    """Rates by size: linear between the sizes given, flat after the last."""

    def __init__(self, points: Iterable[tuple[int, float]]) -> None:
        self.points = sorted(points)
        self._sizes = [size for size, _rate in self.points]

    def at(self, size: int) -> float | None:
        """The rate per second, None when a size is not limited."""
        after = bisect_right(self._sizes, size)
        if not size or not after:
            return None
        low, low_rate = self.points[after - 1]
        if after == len(self.points):
            return low_rate or None
        high, high_rate = self.points[after]
        share = (size - low) / (high - low)
        return low_rate + share * (high_rate - low_rate) or None


@dataclass(frozen=True, slots=True)
class Limit:
    """One counter that a request counts against. rate: requests per second."""

    key: str
    rate: float


class TooLong(Exception):
    """The wait would be longer than a client should be kept."""


def wait_s(cache: Counters, limit: Limit, config: RatelimitConfig, now: float) -> float:
    """Book the next place at a counter; how long until it comes, in seconds.

    The counter is the moment, in ticks, up to which places are taken. Raises TooLong,
    having given the place back, and Unavailable of the cache.
    """
    ticks_now = round(now * config.clock_accuracy)
    ticks = max(1, round(config.clock_accuracy / limit.rate))
    ttl_s = config.max_sleep_time_seconds + config.rate_buffer_seconds + 3600
    booked = cache.incr(limit.key, ticks, ttl_s)
    if ticks_now - booked > config.rate_buffer_seconds * config.clock_accuracy:
        # Nobody came for long: what was not used is lost but for the buffer's part.
        cache.set(limit.key, ticks_now + ticks, ttl_s)
        return 0.0
    needed_s = max(booked - ticks_now - ticks, 0) / config.clock_accuracy
    if config.max_sleep_time_seconds - needed_s <= _SLACK and needed_s > 0:
        cache.decr(limit.key, ticks)
        raise TooLong
    return needed_s


class Ratelimit(Filter):
    """The filter."""

    Config = RatelimitConfig
    config: RatelimitConfig

    def __init__(
        self,
        app: WsgiApp,
        config: RatelimitConfig,
        context: PipelineContext,
        rates: tuple[Rates, Rates],
    ) -> None:
        super().__init__(app, config, context)
        self._write_rates, self._listing_rates = rates
        self._reads = frozenset(("GET",) if self._listing_rates.points else ())
        context.info.register(
            "ratelimit",
            account_ratelimit=config.account_ratelimit,
            max_sleep_time_seconds=config.max_sleep_time_seconds,
            container_ratelimits=[list(point) for point in self._write_rates.points],
            container_listing_ratelimits=[
                list(point) for point in self._listing_rates.points
            ],
        )

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        method = environ[env.REQUEST_METHOD]
        if method not in _WRITES and method not in self._reads:
            return self.app(environ, start_response)
        refusal = self._limit(environ, method)
        if refusal is not None:
            return refusal(environ, start_response)
        return self.app(environ, start_response)

    def _limit(self, environ: Environ, method: str) -> Response | None:
        """Wait as long as the request has to; the answer when it is refused. Yields."""
        cache: Counters | None = environ.get(env.CACHE)
        parts = environ[env.PATH_INFO].rstrip("/").split("/", 4)
        if (
            cache is None
            or len(parts) < 3
            or not parts[1]
            or not parts[2]
            or environ.get(env.RATELIMIT_HANDLED)
            or not self.knows_facts(environ)
        ):
            return None
        environ[env.RATELIMIT_HANDLED] = True
        try:
            texts = [text_of_wsgi(part) for part in parts[2:4]]
        except InvalidInput:
            return None
        account = AccountName(texts[0])
        mark = ""
        if method in _WRITES:
            mark = account_info(environ, account).sysmeta.get(GLOBAL_WRITE, "")
        if mark == "WHITELIST" or account.account in self.config.account_whitelist:
            return None
        if mark == "BLACKLIST" or account.account in self.config.account_blacklist:
            green.sleep(BLACKLIST_PAUSE_S)
            return Response.text(497, "Your account has been blacklisted")
        limits = self._limits(environ, method, account, texts, is_object=len(parts) > 4)
        limits += _global_limit(account, mark)
        try:
            for limit in limits:
                self._wait(cache, limit)
        except TooLong:
            return Response.text(498, "Slow down")
        except (Unavailable, FormatError):
            # A cache that fails is reported by its own filter.
            return None
        return None

    def _limits(
        self,
        environ: Environ,
        method: str,
        account: AccountName,
        texts: list[str],
        *,
        is_object: bool,
    ) -> list[Limit]:
        if len(texts) < 2:
            return []
        name = ContainerName(account.account, texts[1])
        place = f"{account.account}/{name.container}"
        if is_object:
            if method not in _WRITES or not self._write_rates.points:
                return []
            rate = self._write_rates.at(container_info(environ, name).object_count)
            return [Limit(f"ratelimit/{place}", rate)] if rate else []
        if method == "GET":
            rate = self._listing_rates.at(container_info(environ, name).object_count)
            return [Limit(f"ratelimit_listing/{place}", rate)] if rate else []
        if method in ("PUT", "DELETE") and self.config.account_ratelimit:
            return [
                Limit(f"ratelimit/{account.account}", self.config.account_ratelimit)
            ]
        return []

    def _wait(self, cache: Counters, limit: Limit) -> None:
        pause_s = wait_s(cache, limit, self.config, green.now())
        threshold_s = self.config.log_sleep_time_seconds
        if threshold_s and pause_s > threshold_s:
            self.log.warning("ratelimit: %s waits %.2fs", limit.key, pause_s)
        if pause_s > 0:
            green.sleep(pause_s)


def _global_limit(account: AccountName, mark: str) -> list[Limit]:
    try:
        rate = number(mark) if mark else 0.0
    except ValueError:
        return []
    if rate <= 0:
        return []
    return [Limit(f"ratelimit/global-write/{account.account}", rate)]


def _rates(values: Mapping[str, str], prefix: str) -> Rates:
    """The rates of all options that begin so; raises ValueError."""
    points = []
    for name, text in values.items():
        if name.startswith(prefix):
            size = int(name.removeprefix(prefix))
            points.append((size, seconds(text)))
    return Rates(points)


def filter_factory(
    global_conf: Mapping[str, str] | None, **local_conf: str
) -> Callable[[WsgiApp], WsgiApp]:
    """The paste.filter_factory; rates are options whose names hold a size."""
    context = PipelineContext.of(global_conf)
    values = {**context, **local_conf}
    varying = (WRITE_OPTION, LISTING_OPTION)
    plain = {
        name: value
        for name, value in local_conf.items()
        if not name.startswith(varying)
    }
    config = context.bind(RatelimitConfig, plain)
    try:
        rates = _rates(values, WRITE_OPTION), _rates(values, LISTING_OPTION)
    except ValueError as error:
        raise ConfigError(
            context.source, context.section, "container_ratelimit_*", str(error)
        ) from error

    def make(app: WsgiApp) -> WsgiApp:
        return Ratelimit(app, config, context, rates)

    return make
