# SPDX-License-Identifier: Apache-2.0
"""Tells programs that run next to the data where it is: URLs on the storage nodes.

Nothing is asked of the nodes and nobody is authorised: the answer is a look at a ring.

Contract: middleware 18.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.names import AccountName, ContainerName, Name, split_name, text_of_wsgi
from swift.core.settings import option
from swift.wire import environ as env
from swift.wire.environ import Environ
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.infocache import container_info
from swift.wire.request import JSON_TYPE, Response, StartResponse, WsgiApp

_VERSION = re.compile(r"v[0-9]+(?:\.[0-9]+)?")
_FIRST = ("v1", "v1.0")
_SECOND = ("v2", "v2.0")


@dataclass(frozen=True)
class ListEndpointsConfig:
    """[filter:list-endpoints] of proxy-server.conf."""

    list_endpoints_path: str = option(
        "/endpoints/", doc="Where paths that ask for endpoints begin."
    )


class ListEndpoints(Filter):
    """The filter."""

    Config = ListEndpointsConfig
    config: ListEndpointsConfig

    def __init__(
        self, app: WsgiApp, config: ListEndpointsConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._root = f"/{config.list_endpoints_path.strip('/')}/"

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        path = environ[env.PATH_INFO]
        if not path.startswith(self._root):
            return self.app(environ, start_response)
        response = self._answer(environ, path[len(self._root) :])
        return response(environ, start_response)

    def _answer(self, environ: Environ, path: str) -> Response:
        if environ[env.REQUEST_METHOD] != "GET":
            return Response(405, {h.ALLOW: "GET"})
        first, _, rest = path.partition("/")
        version = _FIRST[0]
        if _VERSION.fullmatch(first):
            version, path = first, rest
        if version not in _FIRST + _SECOND:
            return Response.text(400, "Unknown version of the list of endpoints")
        try:
            name = split_name("/" + text_of_wsgi(path))
        except InvalidInput as error:
            return Response.text(400, f"Invalid path: {error}")
        urls, policy_index = self._endpoints(environ, name)
        value: Any = urls
        if version in _SECOND:
            headers = {}
            if policy_index is not None:
                headers[h.X_BACKEND_STORAGE_POLICY_INDEX] = str(policy_index)
            value = {"endpoints": urls, "headers": headers}
        return Response.json(value, headers={h.CONTENT_TYPE: JSON_TYPE})

    def _endpoints(self, environ: Environ, name: Name) -> tuple[list[str], int | None]:
        """The URLs of a name on its primary nodes, and an object's policy. Yields."""
        cluster = self.context.cluster
        index = None
        if isinstance(name, AccountName):
            ring = cluster.account_ring()
        elif isinstance(name, ContainerName):
            ring = cluster.container_ring()
        else:
            index = 0
            if self.knows_facts(environ):
                index = container_info(environ, name.container_name).policy_index
            ring = cluster.object_ring(index)
        partition = ring.partition(cluster.salt.digest_of(name))
        urls = [
            f"http://{_host(node.ip)}:{node.port}/{node.name}/{partition}{name.quoted}"
            for node in ring.primaries(partition)
        ]
        return urls, index


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


filter_factory = factory(ListEndpoints)
