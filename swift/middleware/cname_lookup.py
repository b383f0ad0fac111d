# SPDX-License-Identifier: Apache-2.0
"""Host names of others that are aliases, by DNS, of names in a storage domain.

Contract: middleware 5.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import dns.exception
import dns.nameserver
import dns.resolver

from swift.core import headers as h
from swift.core.headers import title
from swift.core.settings import csv, option, positive_int
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.environ import Environ
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import Response, StartResponse, WsgiApp

NEGATIVE_TTL_S = 60.0
LOOKUP_LIMIT_S = 5.0
DNS_PORT = 53
HOST_MAX = 255

Lookup = Callable[[str], tuple[float, str | None]]
"""Domain → (seconds that the answer holds, the name it is an alias of, if it is)."""


def domains(text: str) -> tuple[str, ...]:
    """Domains, comma-separated, each with a leading dot."""
    return tuple("." + domain.lstrip(".").lower() for domain in csv(text))


def nameservers(text: str) -> tuple[tuple[str, int], ...]:
    """`IP[:port]`, comma-separated, IPv6 in brackets when a port follows."""
    found = []
    for item in csv(text):
        address, port = item, ""
        if item.startswith("["):
            address, bracket, rest = item[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError("must be addresses of name servers")
            port = rest[1:]
        elif item.count(":") == 1:
            address, _, port = item.partition(":")
        ipaddress.ip_address(address)
        number = int(port) if port else DNS_PORT
        if not 0 < number < 65536:
            raise ValueError("must have ports below 65536")
        found.append((address, number))
    return tuple(found)


@dataclass(frozen=True)
class CnameLookupConfig:
    """[filter:cname_lookup] of proxy-server.conf."""

    storage_domain: tuple[str, ...] = option(
        (".example.com",), parse=domains, doc="Domains whose names are not looked up."
    )
    lookup_depth: int = option(
        1, parse=positive_int, doc="Aliases that are followed one after the other."
    )
    nameservers: tuple[tuple[str, int], ...] = option(
        (), parse=nameservers, doc="Name servers to ask; none for those of the system."
    )


class CnameLookup(Filter):
    """The filter."""

    Config = CnameLookupConfig
    config: CnameLookupConfig

    def __init__(
        self, app: WsgiApp, config: CnameLookupConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self.lookup: Lookup = resolver_of(config.nameservers)
        context.info.register("cname_lookup", lookup_depth=config.lookup_depth)

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        host = environ.get(env.HTTP_HOST) or environ.get(env.SERVER_NAME, "")
        name, port = _split(host)
        if self._is_ours(name) or not name or len(name) > HOST_MAX or _is_address(name):
            return self.app(environ, start_response)
        found = self._storage_name(environ, name)
        if found is None:
            text = "CNAME lookup failed to resolve to a valid domain"
            return Response.text(400, text)(environ, start_response)
        environ[env.HTTP_HOST] = found + port
        return self.app(environ, _renaming(found + port, host, start_response))

    def _is_ours(self, name: str) -> bool:
        lowered = name.lower()
        return any(
            lowered.endswith(domain) or lowered == domain[1:]
            for domain in self.config.storage_domain
        )

    def _storage_name(self, environ: Environ, name: str) -> str | None:
        """The name in a storage domain that a name stands for. Yields."""
        for _ in range(self.config.lookup_depth):
            target = self._alias(environ, name)
            if target is None:
                return None
            if self._is_ours(target):
                return target
            name = target
        return None

    def _alias(self, environ: Environ, name: str) -> str | None:
        """The next name, out of the cache if it is there. Yields."""
        cache = environ.get(env.CACHE)
        key = f"cname-{name.lower()}"
        if cache is not None:
            known = cache.get(key)
            if isinstance(known, str):
                return known or None
        # dnspython waits on sockets of its own.
        ttl_s, target = green.in_thread(self.lookup, name)
        if cache is not None and ttl_s > 0:
            cache.set(key, target or "", ttl_s)
        return target


def resolver_of(servers: tuple[tuple[str, int], ...]) -> Lookup:
    """A lookup that asks these servers, or the system's when there are none."""

    def lookup(name: str) -> tuple[float, str | None]:
        try:
            resolver = dns.resolver.Resolver(configure=not servers)
            if servers:
                resolver.nameservers = [
                    dns.nameserver.Do53Nameserver(address, port)
                    for address, port in servers
                ]
            answer = resolver.resolve(name, "CNAME", lifetime=LOOKUP_LIMIT_S)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return NEGATIVE_TTL_S, None
        except dns.exception.DNSException:
            return 0.0, None
        rrset = answer.rrset
        if not rrset:
            return NEGATIVE_TTL_S, None
        target = next(iter(rrset)).target.to_text(omit_final_dot=True)
        return float(rrset.ttl), target

    return lookup


def _split(host: str) -> tuple[str, str]:
    """The name and `:port` of a Host header."""
    if host.startswith("["):
        name, bracket, port = host.partition("]")
        return name + bracket, port
    name, colon, port = host.partition(":")
    return name, colon + port


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _renaming(found: str, asked: str, start_response: StartResponse) -> StartResponse:
    """A start_response whose addresses name the host that the client knows."""

    def begin(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        renamed = [
            (name, value.replace(f"://{found}", f"://{asked}", 1))
            if title(name) in (h.LOCATION, h.CONTENT_LOCATION)
            else (name, value)
            for name, value in headers
        ]
        if exc_info is not None:
            return start_response(status, renamed, exc_info)
        return start_response(status, renamed)

    return begin


filter_factory = factory(CnameLookup)
