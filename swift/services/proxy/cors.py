# SPDX-License-Identifier: Apache-2.0
"""Cross-origin requests: answers to OPTIONS, and the headers that browsers ask for.

A container says in its metadata which origins may use it; the cluster adds its own.
What is allowed is decided here from values; contract: api 7.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swift.core import headers as h
from swift.core.headers import Headers
from swift.services.proxy.options import ProxyConfig
from swift.wire.infocache import ContainerInfo

_ALLOW_ORIGIN = "access-control-allow-origin"
_MAX_AGE = "access-control-max-age"
_EXPOSE_HEADERS = "access-control-expose-headers"

_SIMPLE_HEADERS = (
    "cache-control",
    "content-language",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
    "etag",
    "x-timestamp",
    "x-trans-id",
    "x-openstack-request-id",
)


@dataclass(frozen=True, slots=True)
class CorsRules:
    """What one container, with the cluster's share, lets other origins do.

    own_origins: those that the container names. max_age, expose: its texts or None.
    """

    own_origins: tuple[str, ...]
    max_age: str | None
    expose: str | None

    @classmethod
    def of(cls, info: ContainerInfo) -> CorsRules:
        """Read them from what is known of a container."""
        meta = info.meta
        return cls(
            tuple((meta.get(_ALLOW_ORIGIN) or "").split()),
            meta.get(_MAX_AGE),
            meta.get(_EXPOSE_HEADERS),
        )

    @property
    def admits_all(self) -> bool:
        """True when the container's value is exactly `*`."""
        return self.own_origins == ("*",)

    def admits(self, origin: str, config: ProxyConfig) -> bool:
        """True for an origin that the container or the cluster lists."""
        return (
            "*" in self.own_origins
            or origin in self.own_origins
            or origin in config.cors_allow_origin
            or "*" in config.cors_allow_origin
        )


def preflight(
    rules: CorsRules, request: Headers, methods: Iterable[str], config: ProxyConfig
) -> Headers | None:
    """The headers that grant a pre-flight OPTIONS, None when it is refused.

    request: the headers of an OPTIONS with an Origin. methods: what the resource knows.
    """
    origin = request[h.ORIGIN]
    wanted = request.get(h.ACCESS_CONTROL_REQUEST_METHOD)
    allowed = list(methods)
    if wanted not in allowed or not rules.admits(origin, config):
        return None
    answer = Headers()
    answer[h.ALLOW] = ", ".join(allowed)
    vary = []
    if rules.admits_all:
        answer[h.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"
    else:
        answer[h.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        vary.append(h.ORIGIN)
    if rules.max_age is not None:
        answer[h.ACCESS_CONTROL_MAX_AGE] = rules.max_age
    answer[h.ACCESS_CONTROL_ALLOW_METHODS] = ", ".join(allowed)
    asked = _unique(request.get(h.ACCESS_CONTROL_REQUEST_HEADERS, "").split(","))
    if asked:
        answer[h.ACCESS_CONTROL_ALLOW_HEADERS] = ", ".join(asked)
        vary.append(h.ACCESS_CONTROL_REQUEST_HEADERS)
    if vary:
        answer[h.VARY] = ", ".join(vary)
    return answer


def expose(
    rules: CorsRules, origin: str, response: Headers, config: ProxyConfig
) -> None:
    """Add to an actual answer what lets a page of `origin` see it."""
    if config.strict_cors_mode and not rules.admits(origin, config):
        return
    if h.ACCESS_CONTROL_EXPOSE_HEADERS not in response:
        names = list(_SIMPLE_HEADERS)
        names += [name.lower() for name in config.cors_expose_headers]
        names += [name.lower() for name in (rules.expose or "").split()]
        names += [
            name.lower()
            for name in response
            if name.startswith((h.CONTAINER_META, h.OBJECT_META))
        ]
        response[h.ACCESS_CONTROL_EXPOSE_HEADERS] = ", ".join(_unique(names))
    if h.ACCESS_CONTROL_ALLOW_ORIGIN not in response:
        if rules.admits_all:
            response[h.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"
        else:
            response[h.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            vary = response.get(h.VARY)
            response[h.VARY] = f"{vary}, {h.ORIGIN}" if vary else h.ORIGIN


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))
