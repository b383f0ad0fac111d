# SPDX-License-Identifier: Apache-2.0
"""Refuses objects that would take an account over the quota its reseller has set.

Quotas are for bytes and objects of the whole account and of its containers of one
policy; they are kept as system metadata and shown to whoever may see the account.

Contract: middleware 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from swift.core import headers as h
from swift.core.headers import Headers
from swift.middleware.quotas import (
    added_bytes,
    is_number,
    object_container,
    quota,
    refuse_if_authorised,
)
from swift.wire import environ as env
from swift.wire.environ import Environ, key_of
from swift.wire.filter import Filter, NoOptions, PipelineContext, factory
from swift.wire.infocache import AccountInfo, account_info, container_info
from swift.wire.request import Response, StartResponse, WsgiApp, call

KINDS = ("Bytes", "Count")
LEGACY_META = "quota-bytes"
"""Account metadata that older versions kept the quota in."""

_QUOTA_KEY = key_of(h.X_ACCOUNT_QUOTA)
_REMOVE = h.REMOVE + "Account-"
_REMOVE_KEY = key_of(_REMOVE)
_LEGACY = h.ACCOUNT_META + "Quota-Bytes"
_LEGACY_KEY = key_of(_LEGACY)
_LEGACY_REMOVE_KEY = key_of(_REMOVE + "Meta-Quota-Bytes")
_TOO_MUCH = "Upload exceeds quota."


class AccountQuotas(Filter):
    """The filter."""

    def __init__(
        self, app: WsgiApp, config: NoOptions, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        # What a client says → what is kept: `Bytes-Policy-gold` → `Bytes-Policy-1`.
        self._stored: dict[str, str] = {kind: kind for kind in KINDS}
        for policy in context.cluster.policies:
            for kind in KINDS:
                self._stored[f"{kind}-Policy-{policy.name}"] = (
                    f"{kind}-Policy-{policy.index}"
                )
        context.info.register("account_quotas")

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        path = environ[env.PATH_INFO]
        method = environ[env.REQUEST_METHOD]
        if path.count("/") > 3 or len(path.rstrip("/").split("/")) != 3:
            refusal = self._exceeded(environ) if method == "PUT" else None
            if refusal is not None:
                return refusal(environ, start_response)
            return self.app(environ, start_response)
        if method in ("PUT", "POST"):
            refusal = self._set(environ)
            if refusal is not None:
                return refusal(environ, start_response)
        response = call(self.app, environ)
        self._show(response.headers)
        return response(environ, start_response)

    # --- Setting and showing ----------------------------------------------------------

    def _set(self, environ: Environ) -> Response | None:
        """Make system metadata of headers that set quotas; the answer to bad ones."""
        wanted = dict(self._wanted(environ))
        if not wanted:
            return None
        if not environ.get(env.RESELLER_REQUEST):
            return Response(403)
        for name, value in wanted.items():
            if value and not is_number(value):
                return Response.text(400, f"Invalid quota: {name}")
        for key in [key for key in environ if _sets_quota(key)]:
            del environ[key]
        for name, value in wanted.items():
            stored = self._stored[name]
            env.set_header(environ, f"{h.ACCOUNT_SYSMETA}Quota-{stored}", value)
            if stored == "Bytes":
                # What an older version has kept must not come back.
                environ[_LEGACY_KEY] = ""
        return None

    def _wanted(self, environ: Environ) -> Iterator[tuple[str, str]]:
        """(name as in `_stored`, value, empty to clear) of what a request sets."""
        if environ.get(_LEGACY_REMOVE_KEY):
            yield "Bytes", ""
        if _LEGACY_KEY in environ:
            yield "Bytes", environ[_LEGACY_KEY]
        if not any(key.startswith((_QUOTA_KEY, _REMOVE_KEY)) for key in environ):
            return
        for name in self._stored:
            if environ.get(key_of(f"{_REMOVE}Quota-{name}")):
                yield name, ""
            value = environ.get(key_of(h.X_ACCOUNT_QUOTA + name))
            if value is not None:
                yield name, value

    def _show(self, headers: Headers) -> None:
        for name, stored in self._stored.items():
            value = headers.get(f"{h.ACCOUNT_SYSMETA}Quota-{stored}")
            if value:
                headers[h.X_ACCOUNT_QUOTA + name] = value
                if stored == "Bytes":
                    headers[_LEGACY] = value

    # --- Holding ----------------------------------------------------------------------

    def _exceeded(self, environ: Environ) -> Response | None:
        """The refusal of an object PUT, None when it may go on. Yields."""
        container = object_container(environ)
        if (
            container is None
            or environ.get(env.RESELLER_REQUEST)
            or not self.knows_facts(environ)
        ):
            return None
        account = account_info(environ, container.account_name)
        if not any(key.startswith("quota-") for key in account.sysmeta) and (
            LEGACY_META not in account.meta
        ):
            return None
        added = added_bytes(environ)
        bytes_quota = quota(account.sysmeta.get("quota-bytes"))
        if "quota-bytes" not in account.sysmeta:
            bytes_quota = quota(account.meta.get(LEGACY_META))
        info = container_info(environ, container)
        if _is_over(
            bytes_quota,
            account.bytes_used + added,
            quota(account.sysmeta.get("quota-count")),
            account.object_count + 1,
        ) or self._is_over_policy(account, info.policy_index, added):
            return refuse_if_authorised(environ, _TOO_MUCH, info.write_acl)
        return None

    def _is_over_policy(self, account: AccountInfo, index: int, added: int) -> bool:
        bytes_quota = quota(account.sysmeta.get(f"quota-bytes-policy-{index}"))
        count_quota = quota(account.sysmeta.get(f"quota-count-policy-{index}"))
        if bytes_quota is None and count_quota is None:
            return False
        policy = self.context.cluster.policies.by_index(index)
        name = policy.name.lower() if policy is not None else ""
        size = account.policy_totals.get(f"{name}-bytes-used", 0) + added
        count = account.policy_totals.get(f"{name}-object-count", 0) + 1
        return _is_over(bytes_quota, size, count_quota, count)


def _sets_quota(key: str) -> bool:
    return key.startswith((_QUOTA_KEY, _REMOVE_KEY + "QUOTA_")) or key in (
        _LEGACY_KEY,
        _LEGACY_REMOVE_KEY,
    )


def _is_over(
    bytes_quota: int | None, size: int, count_quota: int | None, count: int
) -> bool:
    return (bytes_quota is not None and bytes_quota < size) or (
        count_quota is not None and count_quota < count
    )


filter_factory = factory(AccountQuotas)
