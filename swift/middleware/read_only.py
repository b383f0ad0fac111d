# SPDX-License-Identifier: Apache-2.0
"""Refuses writes, to the whole cluster or to accounts that are marked.

Contract: middleware 24.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swift.core.errors import InvalidInput
from swift.core.headers import DESTINATION_ACCOUNT, true
from swift.core.names import AccountName, split_client_path, text_of_wsgi
from swift.core.settings import option
from swift.wire.environ import (
    INFO_FETCHER,
    PATH_INFO,
    REQUEST_METHOD,
    Environ,
    key_of,
)
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.infocache import account_info
from swift.wire.request import Response, StartResponse, WsgiApp

MARK = "read-only"
"""Account sysmeta that overrides the option, true or false."""

_HTTP_DESTINATION_ACCOUNT = key_of(DESTINATION_ACCOUNT)


@dataclass(frozen=True)
class ReadOnlyConfig:
    """[filter:read_only] of proxy-server.conf."""

    read_only: bool = option(False, doc="Refuse writes to every account.")
    allow_deletes: bool = option(False, doc="Let DELETE through where writes are not.")


class ReadOnly(Filter):
    """The filter."""

    Config = ReadOnlyConfig
    config: ReadOnlyConfig

    def __init__(
        self, app: WsgiApp, config: ReadOnlyConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._refused = {"COPY", "POST", "PUT"}
        if not config.allow_deletes:
            self._refused.add("DELETE")
        if config.read_only:
            context.info.register("read_only")

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        if environ[REQUEST_METHOD] not in self._refused:
            return self.app(environ, start_response)
        account = _written_account(environ)
        if account is None or not self._is_read_only(environ, account):
            return self.app(environ, start_response)
        return Response.text(405, "This account is read only.")(environ, start_response)

    def _is_read_only(self, environ: Environ, account: AccountName) -> bool:
        if INFO_FETCHER not in environ:
            return self.config.read_only
        mark = account_info(environ, account).sysmeta.get(MARK)
        return true(mark) if mark else self.config.read_only


def _written_account(environ: Environ) -> AccountName | None:
    """The account that the request would change; None when it is none of the API."""
    try:
        path = split_client_path(text_of_wsgi(environ[PATH_INFO]))
    except InvalidInput:
        return None
    if path.name is None:
        return None
    if environ[REQUEST_METHOD] == "COPY" and environ.get(_HTTP_DESTINATION_ACCOUNT):
        return AccountName(environ[_HTTP_DESTINATION_ACCOUNT])
    return AccountName(path.name.account)


filter_factory = factory(ReadOnly)
