# SPDX-License-Identifier: Apache-2.0
"""The public API for the cluster's own daemons: calls through a private proxy pipeline.

A daemon that moves or removes objects wants what a proxy does (rings, quorums, shards,
handoffs), but no user, no port and no other process. So it builds a proxy pipeline of
its own and calls it. Nobody is asked for permission there: who holds this client may do
anything.

The pipeline stands in internal-client.conf; without that file a built-in one serves.
Contract config §6.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from swift.core import headers as h
from swift.core.errors import Unavailable
from swift.core.headers import Headers
from swift.core.names import AccountName, ContainerName, Name, ObjectName
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import ConfFile, read_conf
from swift.runtime.logs import Logger
from swift.wire.environ import WSGI_INPUT, blank
from swift.wire.filter import Process
from swift.wire.pipeline import build_pipeline
from swift.wire.request import Response, WsgiApp, call
from swift.wire.streams import ChunkReader

CONF_NAME = "internal-client.conf"
PAUSE_S = 1.0
"""Pause before the second try; it doubles from try to try."""

_VERSION = "/v1"
_SOURCE = "built-in internal client"
_BUILT_IN = {
    "pipeline:main": {"pipeline": "catch_errors proxy-logging cache proxy-server"},
    "filter:catch_errors": {"use": "egg:swift#catch_errors"},
    "filter:proxy-logging": {"use": "egg:swift#proxy_logging"},
    # Facts stay in this process: a daemon may see other clusters' servers on loopback.
    "filter:cache": {"use": "egg:swift#memcache", "memcache_servers": ""},
    "app:proxy-server": {
        "use": "egg:swift#proxy",
        "account_autocreate": "true",
        "allow_account_management": "true",
    },
}

_BUILT_IN_WITH_LINKS = {
    **_BUILT_IN,
    "pipeline:main": {
        "pipeline": "catch_errors proxy-logging cache symlink proxy-server"
    },
    "filter:symlink": {"use": "egg:swift#symlink"},
}


class UnexpectedAnswer(Unavailable):
    """An answer that the caller did not say it could live with.

    status: that of the last try.
    """

    def __init__(self, method: str, path: str, status: int) -> None:
        super().__init__(f"{method} {path}: answered by {status}")
        self.status = status


class InternalClient:
    """Calls a proxy application without a network between.

    app: a whole pipeline, or a proxy in tests. user_agent: who calls, for logs.
    tries: how often a call is made that meets errors of servers.
    """

    def __init__(
        self,
        app: WsgiApp,
        *,
        user_agent: str,
        tries: int = 3,
        over_replication: bool = True,
    ) -> None:
        self._app = app
        self.is_built_in = False
        """True when the pipeline stands in no file."""
        self._tries = max(1, tries)
        self._headers = Headers(
            {h.USER_AGENT: user_agent, h.X_BACKEND_ALLOW_RESERVED_NAMES: "true"}
        )
        if over_replication:
            self._headers[h.X_BACKEND_USE_REPLICATION_NETWORK] = "true"

    def ask(
        self,
        method: str,
        name: Name,
        headers: Mapping[str, str] | None = None,
        *,
        query: str = "",
        body: bytes | Iterable[bytes] | None = None,
        accept: Collection[int] = (2,),
    ) -> Response:
        """The answer to a call, its body unread; the caller reads or closes it. Yields.

        body: chunks are sent once, with the Content-Length that `headers` give; they
        stay the caller's to close. accept: statuses, or their first digits, that the
        caller can live with; any other is tried again when it is an error of servers
        (5xx), and then raised as UnexpectedAnswer.
        """
        path = f"{_VERSION}{name.quoted}"
        target = f"{path}?{query}" if query else path
        sent = self._headers.copy()
        sent.update(headers or {})
        pause_s = PAUSE_S
        chunks = None if body is None or isinstance(body, bytes) else body
        whole = body if isinstance(body, bytes) else None
        tries = self._tries if chunks is None else 1
        for attempt in range(1, tries + 1):
            environ = blank(target, method=method, headers=sent, body=whole)
            if chunks is not None:
                environ[WSGI_INPUT] = ChunkReader(chunks)
            response = call(self._app, environ)
            status = response.status
            if status in accept or status // 100 in accept:
                return response
            response.drain()
            if status // 100 != 5 or attempt == tries:
                break
            green.sleep(pause_s)
            pause_s *= 2
        raise UnexpectedAnswer(method, path, status)

    def settle(
        self,
        method: str,
        name: Name,
        headers: Mapping[str, str] | None = None,
        *,
        query: str = "",
        body: bytes | Iterable[bytes] | None = None,
        accept: Collection[int] = (2,),
    ) -> Response:
        """As `ask`, with the body read. Yields. Raises UnexpectedAnswer."""
        response = self.ask(
            method, name, headers, query=query, body=body, accept=accept
        )
        assert response.body is not None, "reading it is the point"
        return response

    # --- What daemons ask -------------------------------------------------------------

    def head(
        self,
        name: Name,
        headers: Mapping[str, str] | None = None,
        accept: Collection[int] = (2,),
    ) -> Response:
        """The headers of an account, container or object."""
        return self.settle("HEAD", name, headers, accept=accept)

    def containers(
        self, account: AccountName, **query: str
    ) -> Iterator[dict[str, Any]]:
        """The rows of an account's containers, page by page; none without account."""
        return self._rows(account, query)

    def objects(
        self, container: ContainerName, **query: str
    ) -> Iterator[dict[str, Any]]:
        """The rows of a container's objects, page by page; none without container."""
        return self._rows(container, query)

    def _rows(
        self, name: AccountName | ContainerName, query: Mapping[str, str]
    ) -> Iterator[dict[str, Any]]:
        for page in self.pages(name, **query):
            yield from page

    def pages(
        self, name: AccountName | ContainerName, **query: str
    ) -> Iterator[list[dict[str, Any]]]:
        """The pages of a listing, as long as they have rows."""
        marker = query.get("marker", "")
        while True:
            text = urlencode(
                {**query, "format": "json", "marker": marker},
                errors="surrogateescape",
            )
            answer = self.settle("GET", name, query=text, accept=(2, 404))
            rows = _rows_of(answer, name)
            if not rows:
                return
            yield rows
            last = str(rows[-1].get("name", rows[-1].get("subdir", "")))
            if last == marker:
                return  # a listing that does not move on
            marker = last

    def put_container(
        self, name: ContainerName, headers: Mapping[str, str] | None = None
    ) -> None:
        """Make a container, if it does not exist."""
        self.settle("PUT", name, headers)

    def delete_object(
        self,
        name: ObjectName,
        headers: Mapping[str, str] | None = None,
        accept: Collection[int] = (2, 404),
    ) -> Response:
        """Delete an object."""
        return self.settle("DELETE", name, headers, accept=accept)


def _rows_of(answer: Response, name: Name) -> list[dict[str, Any]]:
    if answer.status != 200 or not answer.body:
        return []
    try:
        rows = json.loads(answer.body)
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Unavailable(f"{name.path}: its listing is no list of rows")
    return rows


def load_internal_client(
    path: str | None,
    *,
    cluster: Cluster,
    log: Logger,
    user_agent: str,
    tries: int = 3,
    with_links: bool = False,
) -> InternalClient:
    """A client on the pipeline of a .conf file.

    path: None for the default file of the cluster, in the place of which a built-in
    pipeline may stand. with_links: the built-in one knows symbolic links, and follows
    them unless it is asked for `symlink=get`. Raises ConfigError.
    """
    conf = _default_conf(cluster, with_links) if path is None else read_conf(path)
    process = Process(
        conf.interpolated_defaults(), source=conf.source, cluster=cluster, log=log
    )
    if conf.source == _SOURCE:
        process.sections = conf.sections
    pipeline = build_pipeline(conf, process, insert_required=False)
    client = InternalClient(pipeline.app, user_agent=user_agent, tries=tries)
    client.is_built_in = conf.source == _SOURCE
    return client


def _default_conf(cluster: Cluster, with_links: bool) -> ConfFile:
    path = os.path.join(cluster.swift_dir, CONF_NAME)
    if os.path.exists(path):
        return read_conf(path)
    sections = _BUILT_IN_WITH_LINKS if with_links else _BUILT_IN
    return ConfFile(_SOURCE, {"swift_dir": cluster.swift_dir}, sections)
