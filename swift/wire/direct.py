# SPDX-License-Identifier: Apache-2.0
"""One call to one node, for daemons and tools that speak to a database or disk by name.

No failover and no quorum: the caller knows why it asks this node. Answers outside 2xx
are a `DirectError`, so that a caller states only what it reacts to. Bodies are read
whole but for `get_object`, whose chunks the caller takes and closes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from swift.core import headers as h
from swift.core.errors import PeerError
from swift.core.headers import Headers
from swift.core.names import AccountName, ContainerName, Name, ObjectName
from swift.core.ring.devices import Node
from swift.wire.backends import device_segment
from swift.wire.client import ConnectionPool
from swift.wire.client_response import ClientResponse

BODY_MAX = 64 << 20
"""Bytes of an answer that is read whole: a listing, a hash table."""


class DirectError(PeerError):
    """A node answered, but not with success."""

    def __init__(self, peer: str, method: str, path: str, answer: DirectAnswer) -> None:
        super().__init__(peer, f"{method} {path}: {answer.status}")
        self.answer = answer

    @property
    def status(self) -> int:
        """What it answered."""
        return self.answer.status


@dataclass(frozen=True, slots=True)
class DirectAnswer:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes

    def json(self) -> Any:
        """The body as JSON; raises ValueError."""
        return json.loads(self.body)


class DirectClient:
    """Calls nodes on behalf of one program.

    user_agent: who calls, for logs. over_replication: use the replication network.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        user_agent: str,
        conn_timeout_s: float = 0.5,
        response_timeout_s: float = 15.0,
        over_replication: bool = True,
    ) -> None:
        self._pool = pool
        self._user_agent = user_agent
        self._conn_timeout_s = conn_timeout_s
        self._response_timeout_s = response_timeout_s
        self._over_replication = over_replication

    def open(
        self,
        node: Node,
        method: str,
        path: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> ClientResponse:
        """Send a request and return its answer of any status, the body unread. Yields.

        path: percent-encoded, what follows the device, with the query. Raises
        PeerError.
        """
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        pairs.append((h.USER_AGENT, self._user_agent))
        ip, port = node.ip, node.port
        if self._over_replication:
            ip, port = node.replication_ip, node.replication_port
            pairs.append((h.X_BACKEND_USE_REPLICATION_NETWORK, "true"))
        return self._pool.request(
            ip,
            port,
            method,
            f"/{device_segment(node.name)}{path}",
            pairs,
            body,
            connect_timeout_s=self._conn_timeout_s,
            response_timeout_s=self._response_timeout_s,
        )

    def call(
        self,
        node: Node,
        method: str,
        path: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> DirectAnswer:
        """The whole answer. Raises DirectError outside 2xx, PeerError. Yields."""
        response = self.open(node, method, path, headers, body)
        try:
            found = response.read(BODY_MAX)
        finally:
            response.close()
        answer = DirectAnswer(response.status, response.headers, found)
        if response.status // 100 != 2:
            peer = f"{node.ip}:{node.port}/{node.name}"
            raise DirectError(peer, method, path, answer)
        return answer

    # --- What daemons ask -------------------------------------------------------------

    def head(
        self,
        node: Node,
        partition: int,
        name: Name,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> Headers:
        """The headers of an account, container or object."""
        return self.call(node, "HEAD", f"/{partition}{name.quoted}", headers).headers

    def listing(
        self,
        node: Node,
        partition: int,
        name: AccountName | ContainerName,
        query: str = "",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> tuple[Headers, list[dict[str, Any]]]:
        """The headers and rows of an account or container; query without `format`."""
        extra = f"&{query}" if query else ""
        answer = self.call(
            node, "GET", f"/{partition}{name.quoted}?format=json{extra}", headers
        )
        return answer.headers, answer.json() if answer.body else []

    def get_object(
        self,
        node: Node,
        partition: int,
        name: ObjectName,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> ClientResponse:
        """An object, its body unread; the caller reads or closes it."""
        path = f"/{partition}{name.quoted}"
        response = self.open(node, "GET", path, headers)
        if response.status // 100 == 2:
            return response
        body = response.read(BODY_MAX)
        response.close()
        answer = DirectAnswer(response.status, response.headers, body)
        raise DirectError(f"{node.ip}:{node.port}/{node.name}", "GET", path, answer)

    def put(
        self,
        node: Node,
        partition: int,
        name: Name,
        headers: Mapping[str, str] | Iterable[tuple[str, str]],
        body: bytes = b"",
    ) -> DirectAnswer:
        """Store an account, container, row or small object."""
        return self.call(node, "PUT", f"/{partition}{name.quoted}", headers, body)

    def post(
        self,
        node: Node,
        partition: int,
        name: Name,
        headers: Mapping[str, str] | Iterable[tuple[str, str]],
    ) -> DirectAnswer:
        """Change metadata."""
        return self.call(node, "POST", f"/{partition}{name.quoted}", headers)

    def delete(
        self,
        node: Node,
        partition: int,
        name: Name,
        headers: Mapping[str, str] | Iterable[tuple[str, str]],
    ) -> DirectAnswer:
        """Delete an account, container, row or object."""
        return self.call(node, "DELETE", f"/{partition}{name.quoted}", headers)

    def replicate(
        self,
        node: Node,
        partition: int,
        rest: str = "",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> DirectAnswer:
        """REPLICATE; rest: suffixes joined by dashes, or a database's hash."""
        path = f"/{partition}/{rest}" if rest else f"/{partition}"
        return self.call(node, "REPLICATE", path, headers, body)
