# SPDX-License-Identifier: Apache-2.0
"""Which databases hear of a change to an object, and which object server tells them.

An object server tells the container's databases (or those of the shard that the name
belongs to) and, for an object that expires, the databases of the expirer's queue. The
proxy shares these messages out over its object requests, so that each database hears of
the change even if some requests fail. Contract: backend-http 4 and 5.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from swift.core import headers as h
from swift.core.errors import PeerError
from swift.core.expiry import QUEUE_ACCOUNT, delete_at_of, queue_container
from swift.core.headers import Headers
from swift.core.names import ContainerName, ObjectName, quote
from swift.core.quorum import quorum_size
from swift.core.ring.devices import Node
from swift.core.shards import Namespace
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.services.proxy.databases import digest_of, read_database
from swift.services.proxy.exchange import Exchange, PairList, Proxy, quoted
from swift.services.proxy.listing import read_namespaces
from swift.services.proxy.shard_cache import ShardCache
from swift.wire.backends import DRAIN_MAX
from swift.wire.infocache import ContainerInfo

CLEANERS = 2
"""Object requests of one write that also clear an old row of the expirer's queue."""


@dataclass(frozen=True, slots=True)
class Target:
    """Databases that are to hear of a change.

    path: `account/container`, percent-encoded, when it is not the object's own
    container.
    """

    partition: int
    nodes: Sequence[Node]
    db_state: str
    path: str | None = None


def container_target(
    exchange: Exchange, name: ObjectName, info: ContainerInfo
) -> Target:
    """The databases that keep the object's row, perhaps of a shard. Yields."""
    proxy = exchange.proxy
    ring = _told_cluster(proxy).container_ring()
    container = name.container_name
    path = None
    if info.may_be_sharded:
        shard = _shard_of(exchange, name)
        if shard is not None:
            found = ContainerName(shard.account, shard.container)
            if found != container:
                container = found
                path = container.quoted[1:]
    partition = ring.partition(digest_of(proxy, container))
    return Target(partition, ring.primaries(partition), info.sharding_state, path)


def _told_cluster(proxy: Proxy) -> Cluster:
    """The cluster as object servers are told of it: they are no internal clients."""
    return proxy.cluster.on_network(replication=False)


def _shard_of(exchange: Exchange, name: ObjectName) -> Namespace | None:
    """The shard that takes updates for the object; None leaves it to the root. Yields.

    All updating shards are remembered in the cache, when there is one, so that the next
    object of the container costs no request; otherwise only the one is asked for.
    """
    container = name.container_name
    shards = ShardCache.for_updating(exchange)
    if not shards.remembers:
        query = f"format=json&states=updating&includes={quoted(name.obj)}"
        _, found = _ask_root(exchange, container, query)
        return found[0] if found else None
    known = shards.get(container)
    if known is None:
        status, known = _ask_root(exchange, container, "format=json&states=updating")
        shards.keep(container, status, known)
    return namespace_of(known, name.obj)


def namespace_of(namespaces: Sequence[Namespace], name: str) -> Namespace | None:
    """The namespace, of those sorted by upper bound, that holds a name."""
    uppers = [item.upper for item in namespaces if item.upper]
    index = bisect_left(uppers, name)
    if index < len(namespaces) and name in namespaces[index]:
        return namespaces[index]
    return None


def _ask_root(
    exchange: Exchange, container: ContainerName, query: str
) -> tuple[int, list[Namespace]]:
    """The status of a container's answer, and the namespaces in it, if any. Yields."""
    found = read_database(
        exchange,
        exchange.proxy.cluster.container_ring(),
        container,
        method="GET",
        query=query,
        extra=[
            (h.X_BACKEND_RECORD_TYPE, "shard"),
            (h.X_BACKEND_RECORD_SHARD_FORMAT, "namespace"),
        ],
    )
    if found.status // 100 != 2:
        return found.status, []
    if found.headers.get(h.X_BACKEND_RECORD_TYPE, "").lower() != "shard":
        return found.status, []
    return found.status, read_namespaces(found.body) or []


def queue_target(exchange: Exchange, name: ObjectName) -> tuple[Target, str] | None:
    """The queue databases and container for a request with X-Delete-At, else None."""
    if not exchange.headers.get(h.X_DELETE_AT):
        return None
    delete_at = delete_at_of(exchange.headers)
    if delete_at is None:
        return None
    proxy = exchange.proxy
    container = queue_container(delete_at, name, proxy.cluster.salt)
    ring = _told_cluster(proxy).container_ring()
    queue = ContainerName(QUEUE_ACCOUNT, container)
    partition = ring.partition(digest_of(proxy, queue))
    return Target(partition, ring.primaries(partition), ""), container


def update_count(containers: int, objects: int, object_quorum: int) -> int:
    """How many update messages are handed out.

    So many that, if only a quorum of the object requests succeeds, a quorum of the
    container databases has heard; and each database is told at least once.
    """
    return max(quorum_size(containers) + objects - object_quorum, containers)


def update_headers(
    target: Target,
    requests: int,
    object_quorum: int,
    queue: tuple[Target, str] | None = None,
) -> list[PairList]:
    """For each of the object requests of a write: what it tells its server to tell."""
    extras: list[PairList] = [[] for _ in range(requests)]
    if not requests:
        return extras
    told: list[list[Node]] = [[] for _ in range(requests)]
    nodes = target.nodes
    if nodes:
        for index in range(update_count(len(nodes), requests, object_quorum)):
            told[index % requests].append(nodes[index % len(nodes)])
    for extra, chosen in zip(extras, told, strict=True):
        if not chosen:
            continue
        extra.append((h.X_CONTAINER_PARTITION, str(target.partition)))
        extra.append((h.X_CONTAINER_HOST, _hosts(chosen)))
        extra.append((h.X_CONTAINER_DEVICE, ",".join(node.name for node in chosen)))
        extra.append((h.X_CONTAINER_ROOT_DB_STATE, target.db_state))
        if target.path is not None:
            extra.append((h.X_BACKEND_QUOTED_CONTAINER_PATH, target.path))
    if queue is not None:
        _add_queue_headers(extras, *queue)
    for index, extra in enumerate(extras):
        cleans = "t" if index < CLEANERS else "f"
        extra.append((h.X_BACKEND_CLEAN_EXPIRING_OBJECT_QUEUE, cleans))
    return extras


def _add_queue_headers(
    extras: Sequence[PairList], target: Target, container: str
) -> None:
    told: list[list[Node]] = [[] for _ in extras]
    # From the last request backwards, so that no request tells two databases as long as
    # another tells none.
    for index, node in enumerate(target.nodes):
        told[-1 - index % len(extras)].append(node)
    for extra, chosen in zip(extras, told, strict=True):
        if chosen:
            extra.append((h.X_DELETE_AT_CONTAINER, container))
            extra.append((h.X_DELETE_AT_PARTITION, str(target.partition)))
            extra.append((h.X_DELETE_AT_HOST, _hosts(chosen)))
            devices = ",".join(node.name for node in chosen)
            extra.append((h.X_DELETE_AT_DEVICE, devices))


def _hosts(nodes: Sequence[Node]) -> str:
    return ",".join(f"{node.ip}:{node.port}" for node in nodes)


# --- Telling directly -----------------------------------------------------------------


def tell_databases(
    exchange: Exchange,
    name: ObjectName,
    policy_index: int,
    extras: Sequence[PairList],
    facts: Headers,
) -> None:
    """Tell container databases of a PUT or DELETE in object servers' place. Yields.

    extras: the headers that those were to get, which name the databases. facts: of the
    row. A database that does not take the row hears of it by replication; that the
    write is acknowledged does not depend on it.
    """
    headers = [pair for pair in exchange.backend_headers() if pair[0] not in facts]
    headers.append((h.X_BACKEND_STORAGE_POLICY_INDEX, str(policy_index)))
    headers += facts.items()
    threads = [
        green.spawn(_tell, exchange, address, path, headers)
        for extra in extras
        for address, path in _told(name, dict(extra))
    ]
    for thread in threads:
        thread.wait()


def _told(
    name: ObjectName, extra: dict[str, str]
) -> Iterator[tuple[tuple[str, int], str]]:
    """(address, request path) of each container database in an object request."""
    hosts = extra.get(h.X_CONTAINER_HOST)
    if not hosts:
        return
    container = extra.get(
        h.X_BACKEND_QUOTED_CONTAINER_PATH, name.container_name.quoted[1:]
    )
    devices = extra[h.X_CONTAINER_DEVICE].split(",")
    for host, device in zip(hosts.split(","), devices, strict=True):
        ip, _, port = host.rpartition(":")
        partition = extra[h.X_CONTAINER_PARTITION]
        path = f"/{quoted(device)}/{partition}/{container}/{quote(name.obj)}"
        yield (ip, int(port)), path


def _tell(
    exchange: Exchange, address: tuple[str, int], path: str, headers: PairList
) -> None:
    proxy = exchange.proxy
    try:
        response = proxy.backends.pool.request(
            *address,
            exchange.method,
            path,
            headers,
            connect_timeout_s=proxy.config.conn_timeout_s,
            response_timeout_s=proxy.config.post_quorum_timeout_s,
        )
        response.drain(DRAIN_MAX)
    except PeerError as error:
        proxy.log.warning(
            "%s %s: the container hears of it by replication only: %s",
            exchange.method, path, error,
            txn=exchange.trans_id,
        )  # fmt: skip
