# SPDX-License-Identifier: Apache-2.0
"""Storage nodes in memory, behind the network door: what a proxy under test talks to.

`Nodes` is a Connector. A connection is a socket pair with the real server protocol at
the other end, so that framing, keep-alive and broken connections are real; the
application there keeps accounts, containers and objects in dictionaries, one for each
address. Tests look at `requests` and plant `faults`.
"""

from __future__ import annotations

import json
import socket
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path
from typing import Any

from swift.core import headers as h
from swift.core import mime
from swift.core.conditions import Conditions
from swift.core.errors import PeerError
from swift.core.hashing import HashSalt
from swift.core.headers import Headers
from swift.core.names import Limits
from swift.core.policy import StoragePolicies, StoragePolicy
from swift.core.ranges import resolve
from swift.core.redundancy import Replication
from swift.core.ring.devices import Device
from swift.core.ring.ring import Ring
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.logs import DEBUG, ListSink, Logger
from swift.services.proxy.app import (
    ProxyServer,
    make_proxy,
    register_facts,
)
from swift.services.proxy.options import read_options
from swift.wire import environ as env
from swift.wire.channel import Channel
from swift.wire.client import ConnectionPool, HttpConnection, peer_name
from swift.wire.environ import blank, headers_of
from swift.wire.filter import PipelineContext, Process
from swift.wire.local_cache import LocalCache
from swift.wire.protocol import ServerConnection, Serving, base_environ
from swift.wire.request import Response, call

PORTS = {"object": 6200, "container": 6201, "account": 6202}
KINDS = {port: kind for kind, port in PORTS.items()}


@dataclass
class Seen:
    """One request as a node saw it."""

    ip: str
    port: int
    method: str
    path: str
    query: str
    headers: Headers
    body: bytes = b""

    @property
    def kind(self) -> str:
        """object, container or account: the server that was asked."""
        return KINDS[self.port]


@dataclass
class Stored:
    """One thing on one node; a tombstone has no body."""

    timestamp: Timestamp
    headers: Headers
    body: bytes | None


Fault = Callable[[Seen], Response | None]


@dataclass
class Nodes:
    """All nodes of a small cluster.

    faults: ip → what to answer instead (None: nothing special). refusing: addresses
    that refuse connections. allow_continue: False answers PUTs before their body is
    read.
    """

    store: dict[tuple[str, int, str], Stored] = field(default_factory=dict)
    requests: list[Seen] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)
    refusing: set[str] = field(default_factory=set)
    listings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    dialled: int = 0
    sink: ListSink = field(default_factory=ListSink)

    def connect(self, ip: str, port: int, timeout_s: float) -> HttpConnection:
        """As a Connector."""
        if ip in self.refusing:
            raise PeerError(peer_name(ip, port), "refused")
        self.dialled += 1
        ours, theirs = socket.socketpair()
        log = Logger("node", [self.sink], level=DEBUG)

        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            return self.answer(ip, port, environ)(environ, start_response)

        serving = Serving(app, log, base_environ=base_environ(log))
        connection = ServerConnection(Channel(theirs), serving, (ip, "0"))
        green.spawn(connection.run)
        return HttpConnection(Channel(ours), peer_name(ip, port))

    def of(self, kind: str, method: str | None = None) -> list[Seen]:
        """The requests that a kind of server got."""
        return [
            seen
            for seen in self.requests
            if seen.kind == kind and method in (None, seen.method)
        ]

    def stored(self, path: str, kind: str = "object") -> dict[str, Stored]:
        """ip → what it holds of `/a/c/o`."""
        return {
            ip: found
            for (ip, port, name), found in self.store.items()
            if name == path and KINDS[port] == kind
        }

    # --- The application --------------------------------------------------------------

    def answer(self, ip: str, port: int, environ: Any) -> Response:
        """What a node answers."""
        rest = environ[env.PATH_INFO].split("/", 3)[3:]
        path = "/" + rest[0]
        seen = Seen(
            ip,
            port,
            environ[env.REQUEST_METHOD],
            path,
            environ.get(env.QUERY_STRING, ""),
            headers_of(environ),
        )
        self.requests.append(seen)
        fault = self.faults.get(ip)
        if fault is not None:
            found = fault(seen)
            if found is not None:
                return found
        handler = {
            "object": self._object,
            "container": self._database,
            "account": self._database,
        }[seen.kind]
        return handler(seen, (ip, port, path), environ)

    def _object(self, seen: Seen, key: Any, environ: Any) -> Response:
        old = self.store.get(key)
        stamp = seen.headers.timestamp(h.X_TIMESTAMP)
        assert stamp is not None
        if seen.method == "PUT":
            return self._put(seen, key, environ, old, stamp)
        live = old is not None and old.body is not None
        if seen.method == "DELETE":
            if old is not None and old.timestamp >= stamp:
                headers = {h.X_BACKEND_TIMESTAMP: old.timestamp.internal}
                return Response(409 if live else 404, headers)
            self.store[key] = Stored(stamp, Headers(), None)
            return Response(
                204 if live else 404, {h.X_BACKEND_TIMESTAMP: stamp.internal}, b""
            )
        if old is None:
            return Response(404)
        if old.body is None:
            return Response(404, {h.X_BACKEND_TIMESTAMP: old.timestamp.internal})
        if seen.method == "POST":
            old.headers.update(seen.headers.beginning(h.OBJECT_META))
            return Response(202)
        return self._read(seen, old)

    def _put(
        self, seen: Seen, key: Any, environ: Any, old: Stored | None, stamp: Timestamp
    ) -> Response:
        if old is not None and old.body is not None and h.IF_NONE_MATCH in seen.headers:
            return Response(412)
        if old is not None and old.timestamp >= stamp:
            return Response(409, {h.X_BACKEND_TIMESTAMP: old.timestamp.internal})
        source = environ[env.WSGI_INPUT]
        boundary = seen.headers.get(h.X_BACKEND_OBJ_MULTIPART_MIME_BOUNDARY)
        if boundary:
            source.continue_headers([(h.X_OBJ_METADATA_FOOTER, "yes")])
        body = source.read()
        footers: dict[str, str] = {}
        if boundary:
            body, footers = _documents(boundary, body)
        seen.body = body
        etag = md5(body).hexdigest()
        if footers.get("Etag", seen.headers.get(h.ETAG, etag)) != etag:
            return Response(422)
        headers = Headers(seen.headers.beginning(h.OBJECT_META))
        headers.update(footers)
        headers[h.CONTENT_TYPE] = seen.headers[h.CONTENT_TYPE]
        headers[h.ETAG] = f'"{etag}"'
        self.store[key] = Stored(stamp, headers, body)
        return Response(201, {h.ETAG: f'"{etag}"'}, b"")

    def _read(self, seen: Seen, old: Stored) -> Response:
        headers = old.headers.copy()
        body = old.body or b""
        for name in (h.X_BACKEND_TIMESTAMP, h.X_BACKEND_DATA_TIMESTAMP, h.X_TIMESTAMP):
            headers[name] = old.timestamp.internal
        headers[h.LAST_MODIFIED] = old.timestamp.http_date
        conditions = Conditions.of(seen.headers)
        if conditions is not None:
            etag = headers[h.ETAG].strip('"')
            verdict = conditions.verdict(etag, old.timestamp.ceil)
            if verdict is not None:
                return Response(verdict, headers, b"")
        spans = None
        if seen.method == "GET":
            spans = resolve(seen.headers.get(h.RANGE), len(body))
        if spans is None:
            headers[h.CONTENT_LENGTH] = str(len(body))
            return Response(200, headers, app_iter=_pieces(body))
        if not spans:
            return Response(416, {h.CONTENT_RANGE: f"bytes */{len(body)}"})
        if len(spans) == 1:
            span = spans[0]
            headers[h.CONTENT_RANGE] = span.content_range(len(body))
            headers[h.CONTENT_LENGTH] = str(span.size)
            return Response(
                206, headers, app_iter=_pieces(body[span.start : span.stop])
            )
        boundary = f"{len(self.requests):032x}"
        kind = headers[h.CONTENT_TYPE]
        parts = b"".join(
            mime.range_opening(boundary, kind, span, len(body))
            + body[span.start : span.stop]
            + mime.RANGE_END
            for span in spans
        ) + mime.ranges_closing(boundary)
        headers[h.CONTENT_TYPE] = mime.ranges_content_type(boundary)
        headers[h.CONTENT_LENGTH] = str(len(parts))
        return Response(206, headers, app_iter=_pieces(parts))

    def _database(self, seen: Seen, key: Any, environ: Any) -> Response:
        old = self.store.get(key)
        stamp = seen.headers.timestamp(h.X_TIMESTAMP)
        assert stamp is not None or seen.method in ("GET", "HEAD")
        seen.body = environ[env.WSGI_INPUT].read() if seen.method != "GET" else b""
        if seen.method == "PUT":
            is_new = old is None or old.body is None
            headers = Headers() if old is None else old.headers
            headers.update(_kept(seen.headers))
            self.store[key] = Stored(stamp, headers, b"")
            return Response(201 if is_new else 202, body=b"")
        if old is None or old.body is None:
            return Response(404)
        if seen.method in ("POST", "UPDATE"):
            old.headers.update(_kept(seen.headers))
            return Response(204, body=b"")
        if seen.method == "DELETE":
            self.store[key] = Stored(stamp, Headers(), None)
            return Response(204, body=b"")
        headers = Headers({k: v for k, v in old.headers.items() if v})
        headers[h.X_TIMESTAMP] = headers[h.X_PUT_TIMESTAMP] = old.timestamp.normal
        headers[h.X_BACKEND_TIMESTAMP] = old.timestamp.internal
        rows = self.listings.get(f"{seen.path}?{seen.query}")
        if rows is None:
            rows = self.listings.get(seen.path, [])
        if seen.kind == "container":
            headers.setdefault(h.X_BACKEND_STORAGE_POLICY_INDEX, "0")
            headers.setdefault(h.X_CONTAINER_OBJECT_COUNT, str(len(rows)))
            headers.setdefault(h.X_CONTAINER_BYTES_USED, "0")
            if rows and "lower" in rows[0]:
                headers[h.X_BACKEND_RECORD_TYPE] = "shard"
        else:
            headers.setdefault(h.X_ACCOUNT_CONTAINER_COUNT, str(len(rows)))
        headers[h.CONTENT_TYPE] = "application/json; charset=utf-8"
        if seen.method == "HEAD":
            return Response(204, headers, b"")
        return Response(200, headers, json.dumps(rows).encode())


def _kept(headers: Headers) -> Headers:
    kept = Headers()
    for name, value in headers.items():
        if (
            name.startswith(
                (
                    h.CONTAINER_META,
                    h.CONTAINER_SYSMETA,
                    h.ACCOUNT_META,
                    h.ACCOUNT_SYSMETA,
                )
            )
            or name in (h.X_CONTAINER_READ, h.X_CONTAINER_WRITE)
            or name == h.X_BACKEND_STORAGE_POLICY_INDEX
        ):
            kept[name] = value
    return kept


def _pieces(body: bytes, size: int = 65536) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def _documents(boundary: str, body: bytes) -> tuple[bytes, dict[str, str]]:
    parts: list[bytes] = []
    for event in mime.MimeParser(boundary.encode()).feed(body):
        if isinstance(event, mime.PartStart):
            parts.append(b"")
        elif isinstance(event, bytes):
            parts[-1] += event
    return parts[0], json.loads(parts[1])


# --- A proxy before them --------------------------------------------------------------


class FixedRing:
    """In the place of a ring file that nobody writes again."""

    has_changed = False

    def __init__(self, ring: Ring) -> None:
        self.ring = ring

    def get(self) -> Ring:
        """The ring."""
        return self.ring

    def get_for_replication(self) -> Ring:
        """The ring, by the addresses for replication."""
        return self.ring.for_replication()


def make_ring(
    kind: str, devices: int = 6, replicas: int = 3, replication_net: str = "10.0"
) -> Ring:
    """A ring over 10.0.0.1, 10.0.0.2, …; primaries of partition p are p, p + 1, …"""
    listed = [
        Device(
            id=index,
            region=1 + index % 2,
            zone=1 + index,
            ip=f"10.0.0.{index + 1}",
            port=PORTS[kind],
            replication_ip=f"{replication_net}.0.{index + 1}",
            replication_port=PORTS[kind],
            name=f"d{index + 1}",
            weight=100.0,
        )
        for index in range(devices)
    ]
    rows = [
        array("H", [(part + replica) % devices for part in range(16)])
        for replica in range(replicas)
    ]
    return Ring(part_power=4, devices=listed, rows=rows)


def make_cluster(
    *,
    devices: int = 6,
    replicas: int = 3,
    limits: Limits | None = None,
    replication_net: str = "10.0",
) -> Cluster:
    """Policies 0 (gold, default), 1 (silver) and 2 (old, deprecated)."""

    def ring(kind: str) -> FixedRing:
        return FixedRing(make_ring(kind, devices, replicas, replication_net))

    policies = StoragePolicies(
        [
            StoragePolicy(0, ("gold", "aurum"), Replication(), True),
            StoragePolicy(1, ("silver",), Replication()),
            StoragePolicy(2, ("old",), Replication(), is_deprecated=True),
        ]
    )
    rings: Any = {
        "account": ring("account"),
        "container": ring("container"),
        "object": ring("object"),
        "object-1": ring("object"),
        "object-2": ring("object"),
    }
    return Cluster(
        swift_dir=str(Path("/nonexistent")),
        salt=HashSalt(b"", b"salt"),
        limits=limits or Limits(),
        policies=policies,
        rings=rings,
    )


class Setup:
    """Nodes and a proxy, and a way to ask it."""

    def __init__(
        self,
        cluster: Cluster | None = None,
        nodes: Nodes | None = None,
        **options: str,
    ) -> None:
        self.nodes = nodes or Nodes()
        self.cluster = cluster or make_cluster()
        self.log = ListSink()
        sections = {
            name: dict(values)
            for name, values in options.items()
            if isinstance(values, dict)
        }
        plain = {k: v for k, v in options.items() if isinstance(v, str)}
        conf = {"account_autocreate": "true", **plain}
        process = Process(
            conf, cluster=self.cluster, log=Logger("proxy", [self.log], level=DEBUG)
        )
        context = PipelineContext(conf, process)
        parsed = read_options(
            conf,
            sections,
            policies=[p.index for p in self.cluster.policies],
            source="-",
        )
        self.pool = ConnectionPool(self.nodes)
        proxy = make_proxy(context, parsed, self.pool)
        register_facts(context.info, proxy)
        self.app = ProxyServer(proxy, context.info)
        self.cache = LocalCache()
        self.environ: dict[str, Any] = {}

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Any = (),
        environ: Any = (),
    ) -> Response:
        """One request; its body is read, so that everything has happened."""
        response = self.start(method, path, body, headers, environ)
        assert response.body is not None
        return response

    def start(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Any = (),
        environ: Any = (),
    ) -> Response:
        """One request, the body of its answer unread."""
        made = blank(path, method=method, headers=headers, body=body)
        made[env.CACHE] = self.cache
        made[env.TRANS_ID] = "tx0"
        made.update(self.environ)
        made.update(environ)
        return call(self.app, made)

    def container(self, path: str = "/v1/a/c", **headers: str) -> None:
        """Make a container, and forget how."""
        assert self.ask("PUT", path, headers=Headers(**headers)).status == 201
        self.nodes.requests.clear()
