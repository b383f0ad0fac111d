# SPDX-License-Identifier: Apache-2.0
"""Asking and telling the replicas of one account or container.

Reads take the first good answer (or the newest of all); writes go to every replica, and
what half of them say is the outcome. Contract: api 14, backend-http 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from swift.core import headers as h
from swift.core.errors import PeerError
from swift.core.headers import Headers
from swift.core.names import AccountName, ContainerName
from swift.core.quorum import Answer, CopyCollector, Tally, best, quorum_size
from swift.core.ring.ring import Ring
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.services.proxy.exchange import Exchange, PairList, Proxy
from swift.wire.backends import (
    Ask,
    Found,
    unread_body,
    without_connection_headers,
)
from swift.wire.environ import Environ

_GONE = "deleted"


@dataclass(slots=True)
class Read:
    """What a database read gave: a status, its headers, and for a GET its body."""

    status: int
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""


def read_database(
    exchange: Exchange,
    ring: Ring,
    name: AccountName | ContainerName,
    *,
    method: str,
    query: str = "",
    extra: Sequence[tuple[str, str]] = (),
) -> Read:
    """Ask the replicas of one account or container. Yields.

    503 when none could answer. A body that breaks off is asked for elsewhere.
    """
    proxy = exchange.proxy
    path = name.quoted
    partition = ring.partition(digest_of(proxy, name))
    resource = "container" if isinstance(name, ContainerName) else "account"
    candidates = proxy.read_candidates(ring, partition, resource)
    ask = Ask(
        method,
        partition,
        f"{path}?{query}" if query else path,
        [*exchange.backend_headers(), *extra],
    )
    primaries = len(ring.primaries(partition))
    newest = exchange.wants_newest
    config = proxy.options.common
    refusals: list[Answer] = []
    while True:
        collector = CopyCollector(
            newest=newest,
            suppress_missing=min(
                config.rebalance_missing_suppression_count, primaries - 1
            ),
            tombstones=False,
        )
        collector.refusals = refusals
        proxy.backends.read(
            ask,
            candidates,
            collector,
            timeout_s=proxy.config.node_timeout_s,
            stagger_s=proxy.options.concurrency_timeout_s(config)
            if config.concurrent_gets
            else None,
            at_once=primaries if newest else 1,
        )
        chosen = collector.chosen
        if chosen is None:
            refusal = collector.refusal()
            if refusal is None:
                return Read(503)
            return Read(refusal.status, refusal.headers, refusal.body)
        try:
            body = unread_body(chosen)
        except PeerError as error:
            if isinstance(chosen.source, Found):
                proxy.backends.failed(chosen.source.node, f"{method} {path}", error)
            continue
        return Read(chosen.status, without_connection_headers(chosen.headers), body)


def digest_of(proxy: Proxy, name: AccountName | ContainerName) -> bytes:
    """The path hash that places a name."""
    return proxy.cluster.salt.digest_of(name)


def write_database(
    exchange: Exchange,
    ring: Ring,
    name: AccountName | ContainerName,
    method: str,
    headers: PairList,
    extras: Sequence[Sequence[tuple[str, str]]] | None = None,
    body: bytes = b"",
    query: str = "",
) -> Answer | None:
    """Send one write to all replicas; what half of them said, None when they differ.

    extras: headers of each replica. Yields.
    """
    proxy = exchange.proxy
    partition = ring.partition(digest_of(proxy, name))
    replicas = len(ring.primaries(partition))
    quorum = quorum_size(replicas)
    path = name.quoted
    ask = Ask(method, partition, f"{path}?{query}" if query else path, headers, body)
    resource = "container" if isinstance(name, ContainerName) else "account"
    answers = proxy.backends.write(
        ask,
        extras if extras is not None else [()] * replicas,
        proxy.write_candidates(ring, partition, resource),
        Tally(replicas, quorum),
        timeout_s=proxy.config.node_timeout_s,
        post_quorum_timeout_s=proxy.config.post_quorum_timeout_s,
    )
    return best(answers, quorum)


def fetch_info(
    proxy: Proxy, environ: Environ, name: AccountName | ContainerName
) -> Read:
    """The HEAD behind `wire.infocache`; 404 for a container without account. Yields.

    A HEAD is the cheapest read of a database; an account that is deleted and not yet
    reaped answers 410.
    """
    now = green.now()
    proxy = proxy.of_request(environ)
    exchange = Exchange(proxy, environ, name, now=now, timestamp=Timestamp.at(now))
    extra = [(h.X_BACKEND_ALLOW_RESERVED_NAMES, "true")]
    if isinstance(name, ContainerName):
        status = exchange.account_status(name.account)
        if status != 200:
            return Read(status)
        ring = proxy.cluster.container_ring()
        return read_database(exchange, ring, name, method="HEAD", extra=extra)
    ring = proxy.cluster.account_ring()
    found = read_database(
        exchange, ring, name, method="HEAD", query="format=json", extra=extra
    )
    if found.status == 404 and is_gone(found.headers):
        found.status = 410
    return found


def is_gone(headers: Headers) -> bool:
    """True for the 404 of an account that is deleted and waits for the reaper."""
    return str(headers.get(h.X_ACCOUNT_STATUS, "")).lower() == _GONE
