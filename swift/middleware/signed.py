# SPDX-License-Identifier: Apache-2.0
"""Keys that owners have set for signed requests, and what a good signature opens.

Serves tempurl and formpost. The key of an account opens what is in its containers, the
key of a container opens that container; never the account itself. Every request that
other filters derive from the signed one is held to the same scope.

Contract: middleware 14, 30.
"""

from __future__ import annotations

from dataclasses import dataclass

from swift.core import headers as h
from swift.core.names import ContainerName, quote_segment, text_of_wsgi
from swift.wire import environ as env
from swift.wire.environ import Environ
from swift.wire.infocache import account_info, container_info
from swift.wire.request import Request, Response

KEY_NAMES = ("temp-url-key", "temp-url-key-2")
"""Metadata of accounts and containers that holds a key."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What one key opens; names are WSGI strings. container: None for all of them."""

    account: str
    container: str | None

    def authorize(self, request: Request) -> Response | None:
        """The callback for environ[AUTHORIZE]: None inside the scope, else 401."""
        environ = request.environ
        environ[env.OWNER] = False
        parts = environ[env.PATH_INFO].split("/", 4)
        inside = (
            len(parts) > 3
            and parts[2] == self.account
            and parts[3] != ""
            and self.container in (None, parts[3])
        )
        return None if inside else unauthorized(self.account, "Temp URL invalid\n")


@dataclass(frozen=True, slots=True)
class Key:
    """A key and what it opens."""

    secret: str
    scope: Scope


def keys_of(environ: Environ, account: str, container: str) -> list[Key]:
    """The keys that may have signed a request for something in a container. Yields.

    account, container: WSGI strings. Raises BadEncoding when they are no UTF-8. Needs
    environ[INFO_FETCHER].
    """
    name = ContainerName(text_of_wsgi(account), text_of_wsgi(container))
    found = []
    for meta, scope in (
        (account_info(environ, name.account_name).meta, Scope(account, None)),
        (container_info(environ, name).meta, Scope(account, container)),
    ):
        found += [Key(meta[each], scope) for each in KEY_NAMES if meta.get(each)]
    return found


def open_scope(environ: Environ, scope: Scope, user: str) -> None:
    """Let the request, and those derived from it, do what the scope allows.

    user: stands for the signer in environ[REMOTE_USER] and in logs.
    """
    environ[env.AUTHORIZE] = scope.authorize
    environ[env.AUTHORIZE_OVERRIDE] = True
    environ[env.REMOTE_USER] = user
    environ[env.OWNER] = False
    # A token sent along would not be asked for; nothing of it may count either.
    for key in (
        env.HTTP_X_AUTH_TOKEN,
        env.HTTP_X_STORAGE_TOKEN,
        env.HTTP_X_SERVICE_TOKEN,
        env.RESELLER_REQUEST,
    ):
        environ.pop(key, None)


def unauthorized(account: str, text: str) -> Response:
    """401 with the challenge. account: a WSGI string, the realm."""
    realm = quote_segment(account.encode("latin-1").decode("utf-8", "surrogateescape"))
    return Response.text(401, text, {h.WWW_AUTHENTICATE: f'Swift realm="{realm}"'})
