# SPDX-License-Identifier: Apache-2.0
"""Puts the quotes around entity tags that RFC 9110 asks for, where owners want them.

Contract: middleware 13.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.headers import title, true
from swift.core.names import ContainerName, text_of_wsgi
from swift.core.settings import option
from swift.wire import environ as env
from swift.wire.environ import Environ, key_of
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.infocache import account_info, container_info
from swift.wire.request import Response, StartResponse, WsgiApp, call

FLAG = "rfc-compliant-etags"
"""Sysmeta of accounts and containers: true or false."""

_SETTINGS = {
    "account": (h.X_ACCOUNT_RFC_COMPLIANT_ETAGS, h.ACCOUNT_SYSMETA + FLAG),
    "container": (h.X_CONTAINER_RFC_COMPLIANT_ETAGS, h.CONTAINER_SYSMETA + FLAG),
}


@dataclass(frozen=True)
class EtagQuoterConfig:
    """[filter:etag-quoter] of proxy-server.conf."""

    enable_by_default: bool = option(
        False, doc="Quote where neither container nor account says otherwise."
    )


class EtagQuoter(Filter):
    """The filter."""

    Config = EtagQuoterConfig
    config: EtagQuoterConfig

    def __init__(
        self, app: WsgiApp, config: EtagQuoterConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        context.info.register("etag_quoter", enable_by_default=config.enable_by_default)

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        parts = environ[env.PATH_INFO].split("/", 4)
        if len(parts) > 4 and parts[4]:
            begin = self._quoting(environ, parts, start_response)
            return self.app(environ, begin)
        if len(parts) < 3 or not parts[2]:
            return self.app(environ, start_response)
        resource = "container" if len(parts) > 3 and parts[3] else "account"
        return self._of_settings(environ, resource)(environ, start_response)

    def _of_settings(self, environ: Environ, resource: str) -> Response:
        """The answer about an account or container, with the flag shown. Yields."""
        shown, stored = _SETTINGS[resource]
        if environ[env.REQUEST_METHOD] in ("PUT", "POST"):
            value = environ.pop(key_of(shown), None)
            if environ.pop(key_of(shown.replace("X-", h.REMOVE, 1)), ""):
                value = ""
            if value is not None:
                flag = str(true(value)).lower() if value else ""
                env.set_header(environ, stored, flag)
        response = call(self.app, environ)
        flag = response.headers.get(stored, "")
        if flag:
            response.headers[shown] = flag
        return response

    def _quoting(
        self, environ: Environ, parts: list[str], start_response: StartResponse
    ) -> StartResponse:
        """A start_response that quotes the Etag, if it is to be quoted."""

        def begin(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Any:
            for index, (name, value) in enumerate(headers):
                if name == h.ETAG or title(name) == h.ETAG:
                    if not _is_quoted(value) and self._wants_quotes(environ, parts):
                        headers = list(headers)
                        headers[index] = name, f'"{value}"'
                    break
            if exc_info is not None:
                return start_response(status, headers, exc_info)
            return start_response(status, headers)

        return begin

    def _wants_quotes(self, environ: Environ, parts: list[str]) -> bool:
        """What container, account or configuration say, in this order. May yield."""
        if not self.knows_facts(environ):
            return self.config.enable_by_default
        try:
            name = ContainerName(text_of_wsgi(parts[2]), text_of_wsgi(parts[3]))
        except InvalidInput:
            return self.config.enable_by_default
        flag = container_info(environ, name).sysmeta.get(FLAG)
        if not flag:
            flag = account_info(environ, name.account_name).sysmeta.get(FLAG)
        return true(flag) if flag else self.config.enable_by_default


def _is_quoted(value: str) -> bool:
    return value.endswith('"') and value.startswith(('"', 'W/"'))


filter_factory = factory(EtagQuoter)
