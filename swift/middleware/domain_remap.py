# SPDX-License-Identifier: Apache-2.0
"""Accounts and containers as host names: `container.account.example.com/object`.

Contract: middleware 12.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from swift.core import headers as h
from swift.core.headers import title
from swift.core.settings import csv, option
from swift.wire import environ as env
from swift.wire.environ import Environ, quote_path
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import Response, StartResponse, WsgiApp

_MAPPED_BACK = (h.LOCATION, h.CONTENT_LOCATION)


def domains(text: str) -> tuple[str, ...]:
    """Domains, comma-separated, each with a leading dot."""
    return tuple("." + domain.lstrip(".").lower() for domain in csv(text))


def path_root(text: str) -> str:
    """A path without the slashes around it."""
    return text.strip().strip("/")


@dataclass(frozen=True)
class DomainRemapConfig:
    """[filter:domain_remap] of proxy-server.conf."""

    storage_domain: tuple[str, ...] = option(
        (".example.com",), parse=domains, doc="Domains whose host names are mapped."
    )
    path_root: str = option("v1", parse=path_root, doc="API version of mapped paths.")
    reseller_prefixes: tuple[str, ...] = option(
        ("AUTH",), parse=csv, doc="Prefixes of accounts, in the case they have."
    )
    default_reseller_prefix: str = option(
        "", doc="Prefix of accounts whose host names have none."
    )
    mangle_client_paths: bool = option(
        False, doc="Take path_root away where a client's path begins with it."
    )


class DomainRemap(Filter):
    """The filter."""

    Config = DomainRemapConfig
    config: DomainRemapConfig

    def __init__(
        self, app: WsgiApp, config: DomainRemapConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._prefixes = {
            prefix.rstrip("_").lower(): prefix.rstrip("_")
            for prefix in config.reseller_prefixes
        }
        context.info.register(
            "domain_remap",
            default_reseller_prefix=config.default_reseller_prefix or None,
        )

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        host = environ.get(env.HTTP_HOST) or environ.get(env.SERVER_NAME, "")
        host = host.partition(":")[0]
        lowered = host.lower()
        for domain in self.config.storage_domain:
            if lowered.endswith(domain):
                labels = host[: -len(domain)].split(".")
                return self._answer(environ, start_response, labels)
        return self.app(environ, start_response)

    def _answer(
        self, environ: Environ, start_response: StartResponse, labels: list[str]
    ) -> Iterable[bytes]:
        if len(labels) > 2 or not all(labels):
            refusal = Response.text(400, "Bad domain in host header")
            return refusal(environ, start_response)
        account = self._account(labels[-1])
        if account is None:
            return self.app(environ, start_response)
        root = "/".join(["", self.config.path_root, account, *labels[:-1]])
        path = environ[env.PATH_INFO].removeprefix("/")
        own_root = self.config.path_root
        if self.config.mangle_client_paths and (
            path == own_root or path.startswith(own_root + "/")
        ):
            path = path[len(own_root) :].removeprefix("/")
        environ[env.PATH_INFO] = f"{root}/{path}"
        return self.app(environ, _mapping_back(quote_path(root), start_response))

    def _account(self, label: str) -> str | None:
        """The account of a host name's label; None for one of no known prefix."""
        account = label
        if "_" not in account:
            # Host names have no underscores (RFC 1123, 2.1).
            account = account.replace("-", "_", 1)
        prefix, underscore, rest = account.partition("_")
        if underscore and prefix.lower() in self._prefixes:
            return f"{self._prefixes[prefix.lower()]}_{rest}"
        if self.config.default_reseller_prefix:
            return f"{self.config.default_reseller_prefix.rstrip('_')}_{label}"
        return None


def _mapping_back(root: str, start_response: StartResponse) -> StartResponse:
    """A start_response that takes the root off addresses within it."""

    def begin(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        mapped = [
            (name, _without(root, value))
            if title(name) in _MAPPED_BACK
            else (name, value)
            for name, value in headers
        ]
        if exc_info is not None:
            return start_response(status, mapped, exc_info)
        return start_response(status, mapped)

    return begin


def _without(root: str, address: str) -> str:
    parts = urlsplit(address)
    if parts.path != root and not parts.path.startswith(root + "/"):
        return address
    path = parts.path[len(root) :] or "/"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, parts.fragment))


filter_factory = factory(DomainRemap)
