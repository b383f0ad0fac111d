# SPDX-License-Identifier: Apache-2.0
"""All objects of a container as its databases list them, through shards too.

A container is asked at its last primary. One that is sharded, or being sharded, names
the shards that hold its rows, in the order of names; each is asked in its turn, and may
name shards of its own. Whatever goes wrong ends the walk: a caller that needs all rows
must not take a part for the whole.

Rules: contract backend-http 6.1, daemons §4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from swift.core.errors import FormatError
from swift.core.headers import (
    X_BACKEND_ALLOW_RESERVED_NAMES,
    X_BACKEND_RECORD_SHARD_FORMAT,
    X_BACKEND_RECORD_TYPE,
    X_BACKEND_SHARDING_STATE,
    X_BACKEND_STORAGE_POLICY_INDEX,
    Headers,
)
from swift.core.names import ContainerName
from swift.core.ring.devices import Node
from swift.core.shards import Namespace
from swift.runtime.cluster import Cluster
from swift.wire.direct import DirectClient

_AUTO = "auto"
_OBJECT = "object"
_SHARD = "shard"
_DEPTH_MAX = 4
"""Shards of shards; deeper is a loop."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some objects, and the databases that list them.

    names: in order, one at least. container: whose databases they are, perhaps a shard
    of the one that was asked for. db_state: how far sharding has come where it began.
    """

    names: list[str]
    policy_index: int
    container: ContainerName
    partition: int
    nodes: tuple[Node, ...]
    db_state: str


class ObjectListing:
    """Lists the objects of containers. on_answer: told of each listing that came."""

    def __init__(
        self,
        nodes: DirectClient,
        cluster: Cluster,
        on_answer: Callable[[], None],
    ) -> None:
        self._nodes = nodes
        self._cluster = cluster
        self._on_answer = on_answer

    def pages(self, container: ContainerName) -> Iterator[Page]:
        """The pages of a container. Yields.

        Raises PeerError (DirectError outside 2xx), FormatError, ValueError.
        """
        return self._pages(container, Namespace("", "", ""), _AUTO, None, _DEPTH_MAX)

    def _pages(
        self,
        container: ContainerName,
        bounds: Namespace,
        kind: str,
        db_state: str | None,
        depth: int,
    ) -> Iterator[Page]:
        """The pages within bounds. db_state: of the root, None for the root itself."""
        if not depth:
            raise FormatError(f"shards of {container.path}", "are nested too deeply")
        ring = self._cluster.container_ring()
        partition = ring.partition(self._cluster.salt.digest_of(container))
        nodes = ring.primaries(partition)
        marker = bounds.lower
        while True:
            headers, rows = self._ask(
                nodes[-1], partition, container, kind, marker, bounds.upper
            )
            state = db_state or headers.get(X_BACKEND_SHARDING_STATE, "")
            if headers.get(X_BACKEND_RECORD_TYPE, "").lower() == _SHARD:
                for shard in _namespaces(container, rows):
                    yield from self._pages_of_shard(container, shard, state, depth - 1)
                return
            names = _names(container, rows, after=marker)
            if not names:
                return
            yield Page(
                names, _policy_index(headers), container, partition, nodes, state
            )
            marker = names[-1]

    def _pages_of_shard(
        self, parent: ContainerName, shard: Namespace, state: str, depth: int
    ) -> Iterator[Page]:
        name = ContainerName(shard.account, shard.container)
        # What no shard has taken over yet is listed under the container's own name.
        kind = _OBJECT if name == parent else _AUTO
        return self._pages(name, shard, kind, state, depth)

    def _ask(
        self,
        node: Node,
        partition: int,
        container: ContainerName,
        kind: str,
        marker: str,
        upper: str,
    ) -> tuple[Headers, list[Any]]:
        query = {"marker": marker, "states": "listing"}
        if upper:
            query["end_marker"] = f"{upper}\0"
        headers, rows = self._nodes.listing(
            node,
            partition,
            container,
            urlencode(query, quote_via=quote),
            {
                X_BACKEND_ALLOW_RESERVED_NAMES: "true",
                X_BACKEND_RECORD_TYPE: kind,
                X_BACKEND_RECORD_SHARD_FORMAT: "namespace",
            },
        )
        self._on_answer()
        if not isinstance(rows, list):
            raise FormatError(f"listing of {container.path}", "is no list")
        return headers, rows


def _names(container: ContainerName, rows: list[Any], *, after: str) -> list[str]:
    """The names of object rows. Raises FormatError."""
    names = [row.get("name") if isinstance(row, dict) else None for row in rows]
    found = [each for each in names if isinstance(each, str) and each]
    # Each page must lead on, or a peer could keep us here for ever.
    if len(found) < len(names) or (found and _order(found[-1]) <= _order(after)):
        raise FormatError(f"listing of {container.path}", "has no names in order")
    return found


def _namespaces(container: ContainerName, rows: list[Any]) -> list[Namespace]:
    """The shards that a container names. Raises FormatError."""
    try:
        found = [Namespace(row["name"], row["lower"], row["upper"]) for row in rows]
        are_good = all(
            isinstance(shard.lower + shard.upper, str)
            and shard.account
            and shard.container
            for shard in found
        )
    except (KeyError, TypeError, AttributeError):
        are_good = False
    if not are_good:
        raise FormatError(f"shards of {container.path}", "are none")
    return found


def _policy_index(headers: Headers) -> int:
    index: str = headers.get(X_BACKEND_STORAGE_POLICY_INDEX, "0")
    if not index.isdigit():
        raise FormatError("storage policy index", f"is {index!r:.40}")
    return int(index)


def _order(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
