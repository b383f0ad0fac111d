# SPDX-License-Identifier: Apache-2.0
"""Lets other clusters of a realm write here what they sync, and watches sync targets.

A request that carries a good signature of the realm's key over the container's own key
may do what it says in that container, under the timestamp of its sender.

Contract: middleware 7.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.headers import true
from swift.core.names import ContainerName, text_of_wsgi
from swift.core.settings import option
from swift.core.signing import sync_message, sync_signed
from swift.middleware.signed import Scope
from swift.runtime.sync_realms import SyncRealms
from swift.wire import environ as env
from swift.wire.environ import Environ, key_of, quote_path
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.infocache import container_info
from swift.wire.request import Response, StartResponse, WsgiApp

FEATURE = "container_sync"
INFO_PATH = "/info"
USER = ".wsgi.container_sync"

_AUTH = key_of(h.X_CONTAINER_SYNC_AUTH)
_SYNC_TO = key_of(h.X_CONTAINER_SYNC_TO)
_REFUSAL = "The sync signature is not valid; ask the operator of the cluster for help."
_VERSIONS_ENABLED = h.VERSIONS_ENABLED_SYSMETA.removeprefix(h.CONTAINER_SYSMETA).lower()


@dataclass(frozen=True)
class ContainerSyncConfig:
    """[filter:container_sync] of proxy-server.conf."""

    allow_full_urls: bool = option(
        True, doc="Take URLs as sync targets; else realm and cluster only."
    )
    current: str = option("", doc="This cluster, as //REALM/CLUSTER, for /info.")


class ContainerSync(Filter):
    """The filter."""

    Config = ContainerSyncConfig
    config: ContainerSyncConfig

    def __init__(
        self, app: WsgiApp, config: ContainerSyncConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._realms = SyncRealms(context.swift_dir, self.log)
        self._current: tuple[str, ...] = ()
        if config.current:
            parts = tuple(config.current.upper().strip("/").split("/"))
            if config.current.startswith("//") and len(parts) == 2 and all(parts):
                self._current = parts
            else:
                self.log.warning(
                    "%s [%s]: current is not //REALM/CLUSTER",
                    context.source,
                    context.section,
                )
        self._register()

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        refusal = None
        if _AUTH in environ:
            refusal = self._let_in(environ)
        elif _SYNC_TO in environ:
            refusal = self._target_fault(environ)
        elif environ[env.PATH_INFO] == INFO_PATH:
            self._register()
        if refusal is not None:
            return refusal(environ, start_response)
        return self.app(environ, start_response)

    def _register(self) -> None:
        shown: dict[str, Any] = {}
        for name, realm in self._realms.realms().items():
            clusters: dict[str, Any] = {cluster: {} for cluster in realm.clusters}
            if self._current[:1] == (name,) and self._current[1] in clusters:
                clusters[self._current[1]] = {"current": True}
            shown[name] = {"clusters": clusters}
        self.context.info.register(FEATURE, realms=shown)

    def _target_fault(self, environ: Environ) -> Response | None:
        """400 for a sync target that this proxy does not take. Yields."""
        target = environ[_SYNC_TO]
        if not target or environ[env.REQUEST_METHOD] not in ("PUT", "POST"):
            return None
        if not self.config.allow_full_urls and not target.startswith("//"):
            return Response.text(
                400, "Full URLs are not allowed; use //realm/cluster/account/container."
            )
        parts = environ[env.PATH_INFO].split("/", 4)
        if len(parts) < 4 or not parts[3] or not self.knows_facts(environ):
            return None
        try:
            name = ContainerName(text_of_wsgi(parts[2]), text_of_wsgi(parts[3]))
        except InvalidInput:
            return None
        if true(container_info(environ, name).sysmeta.get(_VERSIONS_ENABLED)):
            return Response.text(400, "A container with object versions is not synced.")
        return None

    def _let_in(self, environ: Environ) -> Response | None:
        """Check the signature; 401 when it is not good. Yields."""
        parts = environ[env.PATH_INFO].split("/", 4)
        realm, tag = "", "cs:not-3-args"
        words = environ[_AUTH].split()
        if len(words) == 3 and len(parts) > 3 and self.knows_facts(environ):
            realm, nonce, signature = words
            tag = self._judge(environ, parts, realm, nonce, signature)
        environ.setdefault(env.LOG_INFO, []).append(tag)
        if tag != "cs:valid":
            quoted = quote_path(realm).replace('"', "")
            challenge = f'SwiftContainerSync realm="{quoted}"'
            return Response.text(401, _REFUSAL, {h.WWW_AUTHENTICATE: challenge})
        # The signature names one path; nothing derived of it may leave the container.
        environ[env.AUTHORIZE] = Scope(parts[2], parts[3]).authorize
        environ[env.AUTHORIZE_OVERRIDE] = True
        environ[env.REMOTE_USER] = USER
        environ[env.SLO_OVERRIDE] = True
        environ[env.SYMLINK_OVERRIDE] = True
        stamp = environ.pop(env.HTTP_X_BACKEND_INBOUND_X_TIMESTAMP, None)
        if stamp is not None:
            environ[env.HTTP_X_TIMESTAMP] = stamp
        return None

    def _judge(
        self, environ: Environ, parts: list[str], realm: str, nonce: str, signature: str
    ) -> str:
        """The word for the access log that says how good the signature is. Yields."""
        try:
            realm_keys = self._realms.keys(text_of_wsgi(realm))
            if not realm_keys:
                return "cs:no-local-realm-key"
            name = ContainerName(text_of_wsgi(parts[2]), text_of_wsgi(parts[3]))
        except InvalidInput:
            return "cs:no-local-realm-key"
        user_key = container_info(environ, name).sync_key
        if not user_key:
            return "cs:no-local-user-key"
        stamp = environ.get(env.HTTP_X_BACKEND_INBOUND_X_TIMESTAMP) or environ.get(
            env.HTTP_X_TIMESTAMP, ""
        )
        message = sync_message(
            environ[env.REQUEST_METHOD],
            quote_path(environ[env.PATH_INFO]),
            stamp,
            nonce,
            user_key,
        )
        good = sync_signed(signature, realm_keys, message)
        return "cs:valid" if good else "cs:invalid-sig"


filter_factory = factory(ContainerSync)
