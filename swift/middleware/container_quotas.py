# SPDX-License-Identifier: Apache-2.0
"""Refuses objects that would take a container over the quota its owner has set.

The totals that count are those of the container's database, which follow the objects a
moment later: a quota can be overshot by what is under way.

Contract: middleware 6.
"""

from __future__ import annotations

from collections.abc import Iterable

from swift.core import headers as h
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
from swift.wire.infocache import container_info
from swift.wire.request import Response, StartResponse, WsgiApp

BYTES, COUNT = "quota-bytes", "quota-count"
"""Container metadata that holds the quotas."""

_BYTES_KEY = key_of(h.CONTAINER_META + BYTES)
_COUNT_KEY = key_of(h.CONTAINER_META + COUNT)


class ContainerQuotas(Filter):
    """The filter."""

    def __init__(
        self, app: WsgiApp, config: NoOptions, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        context.info.register("container_quotas")

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        method = environ[env.REQUEST_METHOD]
        if method != "PUT" and method != "POST":
            return self.app(environ, start_response)
        refusal = None
        if _BYTES_KEY in environ or _COUNT_KEY in environ:
            refusal = _bad_setting(environ)
        if refusal is None and method == "PUT":
            refusal = self._exceeded(environ)
        if refusal is not None:
            return refusal(environ, start_response)
        return self.app(environ, start_response)

    def _exceeded(self, environ: Environ) -> Response | None:
        name = object_container(environ)
        if name is None or not self.knows_facts(environ):
            return None
        info = container_info(environ, name)
        if BYTES not in info.meta and COUNT not in info.meta:
            return None
        bytes_quota, count_quota = (
            quota(info.meta.get(BYTES)),
            quota(info.meta.get(COUNT)),
        )
        used = info.bytes_used + added_bytes(environ)
        if (bytes_quota is not None and bytes_quota < used) or (
            count_quota is not None and count_quota < info.object_count + 1
        ):
            return refuse_if_authorised(
                environ, "Upload exceeds quota.", info.write_acl
            )
        return None


def _bad_setting(environ: Environ) -> Response | None:
    parts = environ[env.PATH_INFO].rstrip("/").split("/")
    if len(parts) != 4:
        return None
    for key, what in ((_BYTES_KEY, "bytes"), (_COUNT_KEY, "count")):
        value = environ.get(key)
        if value and not is_number(value):
            return Response.text(400, f"Invalid {what} quota.")
    return None


filter_factory = factory(ContainerQuotas)
