# SPDX-License-Identifier: Apache-2.0
"""Limits how many requests a second each device of a storage node serves.

A request beyond the limit is answered 529 at once: the proxy then asks another node.
Each worker counts for itself.

Contract: middleware 2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from swift.core.errors import ConfigError
from swift.core.settings import bind, option, seconds
from swift.runtime import green
from swift.runtime.config import read_sections
from swift.wire import environ as env
from swift.wire.environ import Environ
from swift.wire.filter import Filter, PipelineContext
from swift.wire.request import Response, StartResponse, WsgiApp

FILE_NAME = "backend-ratelimit.conf"
SECTION = "backend_ratelimit"
METHODS = ("DELETE", "GET", "HEAD", "POST", "PUT", "REPLICATE", "UPDATE")
DEVICES_MAX = 4096
METRIC = "backend.ratelimit"

_PER_DEVICE = "requests_per_device_per_second"


def _rate(method: str) -> float:
    rate: float = option(
        0.0,
        name=f"{method}_{_PER_DEVICE}" if method else _PER_DEVICE,
        parse=seconds,
        doc=f"{method.upper() or 'All'} requests per device and second; 0 for any.",
    )
    return rate


@dataclass(frozen=True)
class BackendRatelimitConfig:
    """[filter:backend_ratelimit] of the storage servers' files."""

    all_rate: float = _rate("")
    delete_rate: float = _rate("delete")
    get_rate: float = _rate("get")
    head_rate: float = _rate("head")
    post_rate: float = _rate("post")
    put_rate: float = _rate("put")
    replicate_rate: float = _rate("replicate")
    update_rate: float = _rate("update")
    buffer_s: float = option(
        1.0,
        name="requests_per_device_rate_buffer",
        parse=seconds,
        doc="Idle time that may be caught up.",
    )
    path: str = option(
        "",
        name="backend_ratelimit_conf_path",
        doc="A file whose options stand before these; by default in swift_dir.",
    )
    reload_s: float = option(
        60.0,
        name="config_reload_interval",
        parse=seconds,
        doc="Time between two readings of that file; 0 reads it once.",
    )

    def rate(self, method: str) -> float:
        """The limit of one method."""
        rate: float = getattr(self, f"{method.lower()}_rate")
        return rate


class Limiters:
    """When each device may be asked next, for one rate."""

    def __init__(self, rate: float, buffer_s: float) -> None:
        self._interval_s = 1.0 / rate if rate > 0 else 0.0
        self._buffer_s = buffer_s
        self._next: dict[str, float] = {}

    def admits(self, device: str, now: float) -> bool:
        """True when a request may come now."""
        return not self._interval_s or self._next.get(device, 0.0) <= now

    def count(self, device: str, now: float) -> None:
        """Note a request that came."""
        if not self._interval_s:
            return
        if len(self._next) >= DEVICES_MAX and device not in self._next:
            # Names are what clients send; those that are real come again.
            self._next.clear()
        # Time that nobody used counts, up to the buffer.
        earliest = max(self._next.get(device, 0.0), now - self._buffer_s)
        self._next[device] = earliest + self._interval_s


class BackendRatelimit(Filter):
    """The filter. values: the options of its own section, as text."""

    Config = BackendRatelimitConfig
    config: BackendRatelimitConfig

    def __init__(
        self,
        app: WsgiApp,
        config: BackendRatelimitConfig,
        context: PipelineContext,
        values: Mapping[str, str],
    ) -> None:
        super().__init__(app, config, context)
        self._values = values
        self._path = config.path or os.path.join(context.swift_dir, FILE_NAME)
        self._has_warned = False
        self._apply(config)
        self._read_at = 0.0
        self._reload()

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        now = green.monotonic()
        if self._read_at and now >= self._read_at:
            self._reload()
        own = self._by_method.get(environ[env.REQUEST_METHOD])
        if not self._is_on or own is None:
            return self.app(environ, start_response)
        parts = environ[env.PATH_INFO].split("/", 3)
        if len(parts) < 3 or not parts[1] or not parts[2].isdigit():
            return self.app(environ, start_response)
        device = parts[1]
        if not (self._all.admits(device, now) and own.admits(device, now)):
            self.context.metrics.increment(METRIC)
            return Response(529)(environ, start_response)
        self._all.count(device, now)
        own.count(device, now)
        return self.app(environ, start_response)

    def _apply(self, config: BackendRatelimitConfig) -> None:
        self._reload_s = config.reload_s
        self._all = Limiters(config.all_rate, config.buffer_s)
        self._by_method = {
            method: Limiters(config.rate(method), config.buffer_s) for method in METHODS
        }
        rates = [config.all_rate, *(config.rate(method) for method in METHODS)]
        self._is_on = any(rate > 0 for rate in rates)
        self._applied = config

    def _reload(self) -> None:
        """Read the file again; one that is missing or bad leaves things as they are."""
        now = green.monotonic()
        try:
            sections = read_sections(self._path)
        except ConfigError as error:
            if self.config.path and not self._has_warned:
                self.log.warning("backend_ratelimit: %s", error)
            self._has_warned = True
        else:
            self._has_warned = False
            own = sections.get(SECTION, {})
            try:
                config = bind(
                    BackendRatelimitConfig,
                    {**self._values, **own},
                    source=self._path,
                    section=SECTION,
                )
            except ConfigError as error:
                self.log.warning("backend_ratelimit: %s; the old rates stay", error)
            else:
                if config != self._applied:
                    self._apply(config)
        self._read_at = now + self._reload_s if self._reload_s else 0.0


def filter_factory(
    global_conf: Mapping[str, str] | None, **local_conf: str
) -> Callable[[WsgiApp], WsgiApp]:
    """The paste.filter_factory `backend_ratelimit`. Raises ConfigError."""
    context = PipelineContext.of(global_conf)
    config = context.bind(BackendRatelimitConfig, local_conf)
    values = {**context, **local_conf}

    def make(app: WsgiApp) -> WsgiApp:
        return BackendRatelimit(app, config, context, values)

    return make
