# SPDX-License-Identifier: Apache-2.0
"""What the cluster's parts tell each other never comes from a client, nor reaches one.

Headers of the internal families are taken out of requests and answers; which they are
is said in `core/headers.py`. A client's X-Timestamp is set aside, where only container
sync looks for it.

Contract: middleware 15, api 8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from swift.core.headers import LOCATION, X_ALLOW_RESERVED_NAMES, is_internal, true
from swift.core.settings import option
from swift.wire.environ import (
    HTTP_X_BACKEND_ALLOW_RESERVED_NAMES,
    HTTP_X_BACKEND_INBOUND_X_TIMESTAMP,
    HTTP_X_TIMESTAMP,
    LEAVE_RELATIVE_LOCATION,
    Environ,
    key_of,
)
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import StartResponse, WsgiApp

MEMORY_MAX = 4096
"""Names whose verdict is remembered; clients invent others at will."""

_HTTP_X_ALLOW_RESERVED_NAMES = key_of(X_ALLOW_RESERVED_NAMES)


@dataclass(frozen=True)
class GatekeeperConfig:
    """[filter:gatekeeper] of proxy-server.conf."""

    shunt_inbound_x_timestamp: bool = option(
        True, doc="Set a client's X-Timestamp aside, so that it has no effect."
    )
    allow_reserved_names_header: bool = option(
        False, doc="Let X-Allow-Reserved-Names open the reserved names to a client."
    )


class Verdicts(dict[str, bool]):
    """Name → True when it is internal; worked out once a name, up to a bound."""

    def __init__(self, *, of_environ: bool) -> None:
        super().__init__()
        self._of_environ = of_environ

    def __missing__(self, name: str) -> bool:
        if not self._of_environ:
            internal = is_internal(name)
        else:
            internal = name.startswith("HTTP_") and is_internal(
                name[5:].replace("_", "-")
            )
        if len(self) < MEMORY_MAX:
            self[name] = internal
        return internal


class Gatekeeper(Filter):
    """The filter."""

    Config = GatekeeperConfig
    config: GatekeeperConfig

    def __init__(
        self, app: WsgiApp, config: GatekeeperConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._inbound = Verdicts(of_environ=True)
        self._outbound = Verdicts(of_environ=False)
        self._shunts = config.shunt_inbound_x_timestamp
        self._opens_reserved = config.allow_reserved_names_header

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        verdicts = self._inbound
        for key in [key for key in environ if verdicts[key]]:
            del environ[key]
        if self._shunts and HTTP_X_TIMESTAMP in environ:
            environ[HTTP_X_BACKEND_INBOUND_X_TIMESTAMP] = environ.pop(HTTP_X_TIMESTAMP)
        if self._opens_reserved and true(environ.get(_HTTP_X_ALLOW_RESERVED_NAMES)):
            environ[HTTP_X_BACKEND_ALLOW_RESERVED_NAMES] = "true"
        outbound = self._outbound

        def begin(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Any:
            public = [pair for pair in headers if not outbound[pair[0]]]
            if LEAVE_RELATIVE_LOCATION in environ:
                public = [_relative(pair) for pair in public]
            if exc_info is not None:
                return start_response(status, public, exc_info)
            return start_response(status, public)

        return self.app(environ, begin)


def _relative(pair: tuple[str, str]) -> tuple[str, str]:
    """A Location without scheme and host; any other header as it is."""
    name, value = pair
    if name.title() != LOCATION:
        return pair
    parts = urlsplit(value)
    return name, urlunsplit(("", "", parts.path, parts.query, parts.fragment))


filter_factory = factory(Gatekeeper)
