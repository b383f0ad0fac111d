# SPDX-License-Identifier: Apache-2.0
"""One client request on its way through the proxy, and what the handlers of all share.

A handler gets an `Exchange` and returns a `Response`. It reads the client's headers
from it, asks it for the headers that every backend request carries, and lets it
authorise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any
from urllib.parse import quote as _quote

from swift.core import headers as h
from swift.core.headers import Headers
from swift.core.metadata_rules import Refusal
from swift.core.names import AccountName, ContainerName, Name, ObjectName, quote
from swift.core.policy import StoragePolicy
from swift.core.quorum import Answer
from swift.core.ring.devices import Node
from swift.core.ring.ring import Ring
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics
from swift.services.proxy.options import PolicyConfig, ProxyConfig, ProxyOptions
from swift.wire import environ as env
from swift.wire.backends import Backends
from swift.wire.environ import Environ
from swift.wire.infocache import (
    AccountInfo,
    ContainerInfo,
    InfoFetcher,
    account_info,
    container_info,
)
from swift.wire.nodes import Candidates, NodeOrder, read_candidates
from swift.wire.request import Request, Response

PairList = list[tuple[str, str]]


@dataclass(frozen=True)
class Proxy:
    """What all requests of one proxy share.

    orders: policy index → order of its nodes; `order` is that of accounts, containers
    and of policies without a section. guess_type: object name → content type or None.
    """

    options: ProxyOptions
    cluster: Cluster
    backends: Backends
    order: NodeOrder
    orders: Mapping[int, NodeOrder]
    log: Logger
    metrics: Metrics
    rng: Random
    guess_type: Callable[[str], str | None]

    def of_request(self, environ: Environ) -> Proxy:
        """This proxy, or its twin that asks nodes over the replication network, as the
        request of an internal client wants it."""
        if h.true(environ.get(env.HTTP_X_BACKEND_USE_REPLICATION_NETWORK)):
            return self._over_replication
        return self

    @cached_property
    def _over_replication(self) -> Proxy:
        return replace(self, cluster=self.cluster.on_network(replication=True))

    @property
    def config(self) -> ProxyConfig:
        """The options that do not differ by policy."""
        return self.options.proxy

    def policy_config(self, policy: StoragePolicy) -> PolicyConfig:
        """The options that do."""
        return self.options.of_policy(policy.index)

    def read_candidates(
        self,
        ring: Ring,
        partition: int,
        resource: str,
        order: NodeOrder | None = None,
        comes_later: Callable[[Node], bool] | None = None,
    ) -> Candidates:
        """The nodes to ask for a read; comes_later: see NodeOrder.sort."""
        return read_candidates(
            ring,
            partition,
            order=order or self.order,
            count=self.config.request_node_count,
            limiter=self.backends.limiter,
            rng=self.rng,
            now=green.now,
            on_handoff=self.handoff_counter(
                resource, len(ring.primaries(partition)), log=False
            ),
            comes_later=comes_later,
        )

    def write_candidates(
        self,
        ring: Ring,
        partition: int,
        resource: str,
        first: Sequence[Node] | None = None,
    ) -> Candidates:
        """The nodes for a write: primaries (or `first`) in order, then handoffs."""
        primaries = ring.primaries(partition)
        chosen = primaries if first is None else first
        count = max(self.config.request_node_count.of(len(primaries)), len(chosen))
        return Candidates(
            chosen,
            ring.handoffs(partition),
            count=count,
            limiter=self.backends.limiter,
            now=green.now,
            on_handoff=self.handoff_counter(resource, len(primaries)),
        )

    def handoff_counter(
        self, resource: str, primaries: int, *, log: bool = True
    ) -> Callable[[int], None] | None:
        """What to do as handoffs come into use: count them, and log the first.

        log: False for reads, which look at handoffs whenever something is missing.
        """
        if not self.config.log_handoffs or not (log or self.metrics.is_on):
            return None

        def count(used: int) -> None:
            self.metrics.increment(f"{resource}.handoff_count")
            if log and used == 1:
                self.log.warning("%s: handoffs are used for a write", resource)
            if used == primaries:
                self.metrics.increment(f"{resource}.handoff_all_count")

        return count


class Exchange:
    """One request: its environ, its parts already parsed, and what follows from them.

    headers: the client's, a copy that handlers may change. now: when it came, in
    seconds. timestamp: of the write that it makes.
    """

    __slots__ = (
        "_headers", "environ", "method", "name", "now", "proxy", "timestamp",
        "trans_id",
    )  # fmt: skip

    def __init__(
        self,
        proxy: Proxy,
        environ: Environ,
        name: Name,
        *,
        now: float,
        timestamp: Timestamp,
    ) -> None:
        self.proxy = proxy
        self.environ = environ
        self.method: str = environ[env.REQUEST_METHOD]
        self.name = name
        self.now = now
        self.timestamp = timestamp
        self.trans_id: str = environ.get(env.TRANS_ID) or "-"
        self._headers: Headers | None = None

    @property
    def headers(self) -> Headers:
        """The client's headers; the copy is the handler's to change."""
        if self._headers is None:
            self._headers = env.headers_of(self.environ)
        return self._headers

    @property
    def resource(self) -> str:
        """account, container or object."""
        kind = type(self.name)
        if kind is ObjectName:
            return "object"
        return "container" if kind is ContainerName else "account"

    @property
    def is_owner(self) -> bool:
        """True for a caller whom auth knows as an owner of the account."""
        return bool(self.environ.get(env.OWNER))

    @property
    def is_reseller(self) -> bool:
        """True for a caller who runs the cluster."""
        return bool(self.environ.get(env.RESELLER_REQUEST))

    @property
    def wants_newest(self) -> bool:
        """True when the client asks for the latest of all copies."""
        return h.true(self.environ.get(env.HTTP_X_NEWEST))

    # --- Authorisation ----------------------------------------------------------------

    def denial(self, acl: str | None = None) -> Response | None:
        """None when the request is allowed, else the answer that denies it. May yield.

        acl: the container's list that decides about this kind of request.
        """
        authorize = self.environ.get(env.AUTHORIZE)
        if authorize is None:
            return None
        request = Request(self.environ)
        request.acl = acl
        denied: Response | None = authorize(request)
        return denied

    # --- Facts ------------------------------------------------------------------------

    def account_info(self, account: str) -> AccountInfo:
        """What is known of an account. Yields."""
        return account_info(self.environ, AccountName(account))

    def account_status(self, account: str) -> int:
        """200 when the account is there or is one of the cluster's own, 404 when it is
        not, 503 when that could not be found out. Yields.
        """
        prefix = self.proxy.cluster.limits.auto_create_account_prefix
        if prefix and account.startswith(prefix):
            return 200
        info = self.account_info(account)
        if info.exists:
            return 200
        return 404 if info.status in (404, 410) else 503

    def container_info(self, account: str, container: str) -> ContainerInfo:
        """What is known of a container. Yields."""
        return container_info(self.environ, ContainerName(account, container))

    def log_info(self, word: str) -> None:
        """Add a word to the access line."""
        self.environ.setdefault(env.LOG_INFO, []).append(word)

    # --- Backend requests -------------------------------------------------------------

    def backend_headers(self, timestamp: Timestamp | None = None) -> PairList:
        """What every request to a backend carries; a new list. No user data."""
        environ = self.environ
        return [
            (h.X_TIMESTAMP, (timestamp or self.timestamp).internal),
            (h.X_TRANS_ID, self.trans_id),
            (h.USER_AGENT, f"proxy-server {os.getpid()}"),
            (h.REFERER, _referer(environ)),
        ]

    def passed(self, *prefixes: str, names: Sequence[str] = ()) -> PairList:
        """The client's headers that begin with a prefix or are among the names."""
        return [
            (name, value)
            for name, value in self.headers.items()
            if name.startswith(prefixes) or name in names
        ]


def _referer(environ: Environ) -> str:
    host = environ.get(env.HTTP_HOST) or environ.get(env.SERVER_NAME, "-")
    path: str = environ[env.PATH_INFO]
    if not path.isascii():
        path = path.encode("latin-1").decode("utf-8", "surrogateescape")
    query = environ.get(env.QUERY_STRING)
    query = f"?{query}" if query else ""
    scheme = environ.get(env.WSGI_URL_SCHEME, "http")
    return f"{environ[env.REQUEST_METHOD]} {scheme}://{host}{quote(path)}{query}"


def refused(refusal: Refusal) -> Response:
    """The answer to a request that breaks a rule."""
    return Response.text(refusal.status, refusal.text)


def settled(answer: Answer | None, *, method: str) -> Response:
    """The client's answer to a write on which the nodes settled; 503 when they did not.

    The body is the node's for refusals that explain themselves, else the default one.
    """
    if answer is None:
        return Response(503)
    if answer.status in (400, 412, 422) and answer.body and method != "HEAD":
        headers = Headers()
        if h.CONTENT_TYPE in answer.headers:
            headers[h.CONTENT_TYPE] = answer.headers[h.CONTENT_TYPE]
        return Response(answer.status, headers, answer.body)
    return Response(answer.status)


def quoted(text: str) -> str:
    """A query value, percent-encoded."""
    return _quote(text, safe="", errors="surrogateescape")


def fetcher_of(environ: Environ) -> InfoFetcher:
    """The proxy's own fetcher, as it stands in the environ."""
    found: Any = environ[env.INFO_FETCHER]
    assert isinstance(found, InfoFetcher), "the app puts its fetcher there"
    return found
