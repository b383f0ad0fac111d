# SPDX-License-Identifier: Apache-2.0
"""Gives the filters to its right the cache that the workers share.

With servers configured, that is memcached; without, the process keeps its own, so that
one machine needs no memcached. Then several workers keep no facts of accounts and
containers: one would not hear of a change made through another. When nothing is said at
all, a memcached on the usual port of this machine is taken if one answers, as operators
of such machines expect.

Contract: middleware 20.
"""

from __future__ import annotations

import os.path
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from swift.core.errors import ConfigError, PeerError
from swift.core.settings import (
    bind,
    boolean,
    csv,
    natural,
    option,
    positive_int,
    seconds,
)
from swift.runtime.config import ServerConfig, read_sections
from swift.wire.channel import tls_dialer
from swift.wire.client import open_channel
from swift.wire.environ import CACHE, INFO_FETCHER, Environ
from swift.wire.filter import Filter, PipelineContext
from swift.wire.local_cache import LocalCache
from swift.wire.memcache import MemcacheClient
from swift.wire.memcache_server import Dialer, MemcacheOptions, split_server
from swift.wire.request import StartResponse, WsgiApp

DEFAULT_SERVER = "127.0.0.1:11211"
CONF_FILE = "memcache.conf"
CONF_SECTION = "memcache"
PROBE_S = 0.3


def servers(text: str) -> tuple[str, ...]:
    """`host[:port]` or `[v6]:port`, by commas; empty for none."""
    names = csv(text)
    for name in names:
        split_server(name)
    return names


@dataclass(frozen=True)
class MemcacheConfig:
    """[filter:cache] of proxy-server.conf, or [memcache] of memcache.conf."""

    memcache_servers: tuple[str, ...] | None = option(
        None,
        parse=servers,
        doc="Servers, by commas; empty keeps everything in this process.",
    )
    memcache_max_connections: int = option(
        2, parse=positive_int, doc="Connections of a worker to one server."
    )
    connect_timeout_s: float = option(
        0.3, name="connect_timeout", parse=seconds, doc="To have a connection."
    )
    pool_timeout_s: float = option(
        1.0, name="pool_timeout", parse=seconds, doc="To wait for a free connection."
    )
    tries: int = option(3, parse=positive_int, doc="Servers asked for one key.")
    io_timeout_s: float = option(
        2.0, name="io_timeout", parse=seconds, doc="To wait for an answer."
    )
    error_suppression_interval_s: float = option(
        60.0,
        name="error_suppression_interval",
        parse=seconds,
        doc="How long errors count, and how long a failing server is left alone.",
    )
    error_suppression_limit: int = option(
        10, parse=natural, doc="Errors in that time after which it is left alone."
    )
    tls_enabled: bool = option(False, parse=boolean, doc="Speak TLS to the servers.")
    tls_cafile: str = option("", doc="Certificates of the authorities to trust.")
    tls_certfile: str = option("", doc="Our own certificate.")
    tls_keyfile: str = option("", doc="Its key, when it is not in the same file.")
    item_size_warning_threshold: int = option(
        -1, doc="Values of so many bytes are logged; -1 never."
    )

    @property
    def options(self) -> MemcacheOptions:
        """What the client needs of it."""
        return MemcacheOptions(
            max_connections=self.memcache_max_connections,
            connect_timeout_s=self.connect_timeout_s,
            pool_timeout_s=self.pool_timeout_s,
            io_timeout_s=self.io_timeout_s,
            tries=self.tries,
            error_suppression_interval_s=self.error_suppression_interval_s,
            error_suppression_limit=self.error_suppression_limit,
            item_size_warning_threshold=self.item_size_warning_threshold,
        )


class MemcacheFilter(Filter):
    """The filter."""

    Config = MemcacheConfig
    config: MemcacheConfig

    def __init__(
        self, app: WsgiApp, config: MemcacheConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._process = context.process
        self._cache: MemcacheClient | LocalCache | None = None

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Put the cache into the environ and call on. Yields."""
        environ[CACHE] = self._cache or self._first_cache()
        fetcher = self._process.info_fetcher
        if fetcher is not None:
            environ[INFO_FETCHER] = fetcher
        return self.app(environ, start_response)

    def _first_cache(self) -> MemcacheClient | LocalCache:
        """The cache, made by the first request. Yields.

        Not earlier: what is made before the workers are forked cannot hold connections.
        """
        made = self._make_cache()
        # Making it may have let another first request by.
        if self._cache is None:
            self._cache = made
        return self._cache

    def _make_cache(self) -> MemcacheClient | LocalCache:
        config = self.config
        names = config.memcache_servers
        if names is None:
            names = (DEFAULT_SERVER,) if _answers(DEFAULT_SERVER) else ()
        if not names:
            workers = bind(
                ServerConfig,
                self.context,
                source=self.context.source,
                section="DEFAULT",
            ).workers
            self.log.info("cache: within this process only, no memcached")
            return LocalCache(keeps_facts=workers in (0, 1))
        self.log.info("cache: memcached on %s", ", ".join(names))
        return MemcacheClient(
            names,
            _dialer(config),
            config.options,
            log=self.log,
            metrics=self.context.metrics,
        )


def _answers(server: str) -> bool:
    """True when something listens there. Yields."""
    host, port = split_server(server)
    try:
        open_channel(host, port, PROBE_S).close()
    except PeerError:
        return False
    return True


def _dialer(config: MemcacheConfig) -> Dialer:
    if config.tls_enabled:
        return tls_dialer(open_channel, _tls_context(config))
    return open_channel


def _tls_context(config: MemcacheConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=config.tls_cafile or None)
    if config.tls_certfile:
        context.load_cert_chain(config.tls_certfile, config.tls_keyfile or None)
    return context


def _with_file(
    context: PipelineContext, local_conf: Mapping[str, str]
) -> dict[str, str]:
    """The section's options, over those of memcache.conf when they name too little.

    The file is read only if servers or connections are not in the filter's section.
    """
    values = dict(local_conf)
    if "max_connections" in values:
        values.setdefault("memcache_max_connections", values["max_connections"])
    if "memcache_servers" in values and "memcache_max_connections" in values:
        return values
    path = f"{context.swift_dir}/{CONF_FILE}"
    if not os.path.exists(path):
        return values
    from_file = dict(read_sections(path).get(CONF_SECTION, {}))
    if "max_connections" in from_file:
        from_file.setdefault("memcache_max_connections", from_file["max_connections"])
    return {**from_file, **values}


def filter_factory(
    global_conf: Mapping[str, str] | None, **local_conf: str
) -> Callable[[WsgiApp], WsgiApp]:
    """The paste.filter_factory: options come from the section and memcache.conf."""
    context = PipelineContext.of(global_conf)
    config = context.bind(MemcacheConfig, _with_file(context, local_conf))
    if config.tls_enabled:
        try:
            _tls_context(config)
        except OSError as error:
            raise ConfigError(
                context.source, context.section, "tls_enabled", str(error)
            ) from error

    def make(app: WsgiApp) -> WsgiApp:
        return MemcacheFilter(app, config, context)

    return make
