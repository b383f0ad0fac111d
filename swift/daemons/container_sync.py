# SPDX-License-Identifier: Apache-2.0
"""Copy the objects of containers to containers of other clusters.

Each primary of a container that has a target walks the rows of its own database: first
those that it and the others have been through, to make good what failed, then its share
of the new ones. An object is read by a private pipeline and written to the proxy of the
other cluster, under the time that it has here.

Rules: contract daemons §6. What is decided is in core/container_sync.
"""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import uuid4

from swift.core import headers as h
from swift.core.container_sync import (
    SyncRow,
    SyncTarget,
    copied_headers,
    is_at_target,
    is_own,
    time_of,
    url_fault,
)
from swift.core.errors import (
    DatabaseMissing,
    DeviceUnavailable,
    InvalidInput,
    PeerError,
    SwiftError,
    Unavailable,
)
from swift.core.names import ObjectName
from swift.core.ring.devices import Device
from swift.core.settings import csv, option, positive_int, seconds
from swift.core.timestamp import Timestamp
from swift.daemons.databases import LocalDatabases, in_turn, local_devices
from swift.runtime import green
from swift.runtime.daemon import Daemon, DaemonConfig, Frame, Scope, Tally
from swift.runtime.sync_realms import SyncRealms, realm_fault
from swift.storage.db.container import ContainerBroker, ContainerStat
from swift.storage.db.sync_store import SyncStore
from swift.storage.db.walk import FoundDatabase
from swift.wire.channel import Channel, tls_dialer
from swift.wire.client import (
    ConnectionPool,
    Connector,
    HttpConnection,
    TcpConnector,
    open_channel,
    peer_name,
)
from swift.wire.client_response import ClientResponse
from swift.wire.internal_client import (
    CONF_NAME,
    InternalClient,
    UnexpectedAnswer,
    load_internal_client,
)

ANSWER_S = 60.0
"""How long the other cluster may be silent."""

REPORT_S = 3600.0
_PLAIN_STATUSES = (401, 404)
_HTTP_PORT = 80


def proxy_list(text: str) -> tuple[tuple[str, int], ...]:
    """The option `sync_proxy`: (host, port) of each URL. Raises ValueError."""
    found = []
    for url in csv(text):
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url} is no http://host:port")
        found.append((parts.hostname, parts.port or _HTTP_PORT))
    return tuple(found)


@dataclass(frozen=True)
class ContainerSyncConfig(DaemonConfig):
    """[container-sync] of container-server.conf."""

    interval_s: float = option(
        300.0, name="interval", parse=seconds, doc="Least time between passes' starts."
    )
    bind_port: int = option(6201, doc="Port of this node's container server.")
    sync_proxy: tuple[tuple[str, int], ...] = option(
        (), parse=proxy_list, doc="HTTP proxies (CSV) to go through, one at random."
    )
    container_time_s: float = option(
        60.0,
        name="container_time",
        parse=seconds,
        doc="Time for one container in a pass.",
    )
    conn_timeout_s: float = option(
        5.0, name="conn_timeout", parse=seconds, doc="How long connecting may take."
    )
    request_tries: int = option(
        3, parse=positive_int, doc="Tries of a read of the local object."
    )
    sync_row_concurrency: int = option(
        8, parse=positive_int, doc="Rows of a container copied at once."
    )
    internal_client_conf_path: str = option(
        "", doc="Pipeline to read by; else the one of the cluster, or a built-in one."
    )
    allowed_sync_hosts: tuple[str, ...] = option(
        ("127.0.0.1",), parse=csv, doc="Hosts of targets that are URLs."
    )


class Refused(PeerError):
    """An answer of the other cluster that leaves the row undone."""

    def __init__(self, peer: str, method: str, path: str, status: int) -> None:
        super().__init__(peer, f"{method} {path}: {status}")
        self.status = status


class TlsConnector:
    """Opens TLS connections; tunnel: (host, port) of a proxy to go through."""

    def __init__(
        self, context: ssl.SSLContext, tunnel: tuple[str, int] | None = None
    ) -> None:
        self._tunnel = tunnel
        self._dial = tls_dialer(self._open, context)

    def connect(self, ip: str, port: int, timeout_s: float) -> HttpConnection:
        """A new connection. Yields. Raises PeerError, PeerTimeout."""
        return HttpConnection(self._dial(ip, port, timeout_s), peer_name(ip, port))

    def _open(self, host: str, port: int, timeout_s: float) -> Channel:
        if self._tunnel is None:
            return open_channel(host, port, timeout_s)
        channel = open_channel(*self._tunnel, timeout_s)
        through = HttpConnection(channel, peer_name(host, port))
        try:
            through.send_head("CONNECT", through.peer, ())
            answer = through.response(timeout_s)
            if answer.status // 100 != 2:
                raise Refused(
                    peer_name(*self._tunnel), "CONNECT", through.peer, answer.status
                )
        except BaseException:
            channel.close()
            raise
        return channel


class RemoteContainers:
    """Calls proxies of other clusters. connector: for http; tests hand in theirs."""

    def __init__(
        self, config: ContainerSyncConfig, connector: Connector | None = None
    ) -> None:
        self._config = config
        self._plain = ConnectionPool(connector or TcpConnector())
        self._context: ssl.SSLContext | None = None

    def ask(
        self,
        target: SyncTarget,
        method: str,
        name: str,
        timestamp: str,
        headers: Mapping[str, str] | None = None,
        *,
        chunks: Iterable[bytes] = (),
    ) -> ClientResponse:
        """The answer about one object there, its body read. Yields. Raises PeerError.

        chunks: as many bytes as the Content-Length in `headers` says.
        """
        path = target.object_path(name)
        sent = {
            h.HOST: target.authority,
            h.USER_AGENT: "container-sync",
            h.X_TIMESTAMP: timestamp,
            **(headers or {}),
            **target.credentials(method, path, timestamp, uuid4().hex),
        }
        tunnel = random.choice(self._config.sync_proxy or (None,))  # noqa: S311
        address = (target.host, target.port)
        whole = path
        if target.scheme == "https":
            if self._context is None:
                self._context = ssl.create_default_context()
            connector = TlsConnector(self._context, tunnel)
            pool = ConnectionPool(connector, max_idle_per_peer=0)
        else:
            pool = self._plain
            if tunnel is not None:
                address = tunnel
                whole = f"http://{target.authority}{path}"
        connection = pool.take(*address, self._config.conn_timeout_s)
        try:
            connection.send_head(method, whole, sent.items())
            for chunk in chunks:
                connection.send(chunk)
            answer = connection.response(ANSWER_S)
            if not answer.drain():
                answer.close()
        except BaseException:
            connection.close()
            raise
        return answer

    def close(self) -> None:
        """Close the connections that are kept, and forget the certificates."""
        self._plain.close()
        self._context = None


@dataclass
class Counts:
    """What was done since the last report."""

    syncs: int = 0
    skips: int = 0
    failures: int = 0
    puts: int = 0
    deletes: int = 0


@dataclass
class Walk:
    """One container in one pass. began, until: on the clock that only goes forward."""

    broker: ContainerBroker
    stat: ContainerStat
    target: SyncTarget
    index: int
    replicas: int
    until: float
    point1: int
    point2: int
    puts: int = 0
    deletes: int = 0
    bytes: int = 0

    @property
    def has_time(self) -> bool:
        return green.monotonic() < self.until

    @property
    def path(self) -> str:
        """`account/container`, for people."""
        return self.stat.own_path

    def next_rows(self, start: int, count: int) -> list[SyncRow]:
        """Yields."""
        records = green.in_thread(self.broker.rows_since, start, count)
        return [SyncRow.of_record(record) for record in records]

    def keep(self) -> bool:
        """Keep the points; False when the container has another target now. Yields."""
        kept: bool = green.in_thread(
            self.broker.move_sync_points,
            self.stat.sync_to,
            self.point1,
            self.point2,
        )
        return kept


class ContainerSync(Daemon[FoundDatabase]):
    """swift-container-sync; a job is a container that has or had a target.

    client: the pipeline to read by; remote: who calls other clusters. Tests hand in
    their own.
    """

    section: ClassVar[str] = "container-sync"
    Config: ClassVar[type[ContainerSyncConfig]] = ContainerSyncConfig
    config: ContainerSyncConfig

    def __init__(
        self,
        config: Any,
        frame: Frame,
        *,
        client: InternalClient | None = None,
        remote: RemoteContainers | None = None,
    ) -> None:
        super().__init__(config, frame)
        self.local = LocalDatabases("container", config, frame.log)
        self.counts = Counts()
        self._store = SyncStore(self.local.devices.fs)
        self._realms = SyncRealms(frame.cluster.swift_dir, frame.log)
        self._remote = remote or RemoteContainers(config)
        self._client = client or self._load_client()
        self._own: dict[str, Device] = {}
        self._reported = green.now()

    def _load_client(self) -> InternalClient:
        path = self.config.internal_client_conf_path or None
        default = os.path.join(self.cluster.swift_dir, CONF_NAME)
        client = load_internal_client(
            path,
            cluster=self.cluster,
            log=self.log,
            user_agent=f"{self.section} {os.getpid()}",
            tries=self.config.request_tries,
            with_links=True,
        )
        if path is None and not client.is_built_in:
            self.log.warning(
                "%s: internal_client_conf_path is not set; %s is used",
                self.section,
                default,
            )
        return client

    # --- The pass ---------------------------------------------------------------------

    def begin(self, scope: Scope) -> None:
        devices = local_devices(
            self.cluster.container_ring(), self.config, by_replication=False
        )
        if not devices:
            self.log.error("%s: no device of the ring is on this node", self.section)
        self._own = {device.name: device for device in devices}
        self.log.info("%s: begin a pass", self.section)

    def jobs(self, scope: Scope) -> Iterable[FoundDatabase]:
        return in_turn(self._on_device(name) for name in self.local.usable(self._own))

    def _on_device(self, device: str) -> Iterator[FoundDatabase]:
        try:
            found = self._store.found(self.local.devices, device)
            yield from green.in_thread(list, found)
        except DeviceUnavailable as error:
            self.log.warning("%s; skipped", error)
        except OSError as error:
            self.log.error("device %s cannot be read: %s; skipped", device, error)

    def end(self, scope: Scope, tally: Tally) -> None:
        if scope.once or green.now() - self._reported >= REPORT_S:
            self._report()
        self._remote.close()
        self.log.info("%s: pass over in %.2fs", self.section, tally.elapsed_s)

    def _report(self) -> None:
        counts = self.counts
        self.log.info(
            "since %s: %d synced [%d deletes, %d puts], %d skipped, %d failed",
            Timestamp.at(self._reported).http_date,
            counts.syncs,
            counts.deletes,
            counts.puts,
            counts.skips,
            counts.failures,
        )
        self.counts = Counts()
        self._reported = green.now()

    # --- One container ----------------------------------------------------------------

    def handle(self, job: FoundDatabase) -> None:
        """Copy what the time of one container allows. Yields."""
        broker = ContainerBroker(self.local.databases, job.path)
        try:
            self._visit(job, broker)
        except DatabaseMissing:
            green.in_thread(self._store.remove, job.path)
        except (SwiftError, OSError) as error:
            self._fail()
            self.log.error("%s; db: %s", error, job.path)
        if green.now() - self._reported >= REPORT_S:
            self._report()

    def _visit(self, job: FoundDatabase, broker: ContainerBroker) -> None:
        stat = green.in_thread(broker.stat)
        ring = self.cluster.container_ring()
        primaries = ring.primaries(ring.partition(bytes.fromhex(job.path_hash)))
        own_id = self._own[job.device].id
        index = next(
            (place for place, node in enumerate(primaries) if node.id == own_id), None
        )
        if index is None or stat.is_deleted:
            return
        if not stat.sync_to or not stat.sync_key:
            self._skip()
            return
        if stat.is_versioned:
            self.log.warning("%s has object versions; not synced", stat.own_path)
            self._skip()
            return
        try:
            target = self._target(stat.sync_to, stat.sync_key)
        except InvalidInput as error:
            self._fail()
            self.log.error("%s: %s", stat.own_path, error)
            return
        started = green.now()
        walk = Walk(
            broker,
            stat,
            target,
            index,
            len(primaries),
            green.monotonic() + self.config.container_time_s,
            stat.x_container_sync_point1,
            stat.x_container_sync_point2,
        )
        if self._catch_up(walk) and self._own_share(walk):
            self.counts.syncs += 1
            self.metrics.increment("syncs")
        self._say(walk, started)

    def _target(self, sync_to: str, user_key: str) -> SyncTarget:
        """Where a container is copied to. Raises InvalidInput."""
        if not sync_to.startswith("//"):
            fault = url_fault(sync_to, self.config.allowed_sync_hosts)
            if fault is not None:
                raise InvalidInput(fault)
            return SyncTarget.of_url(sync_to, user_key)
        fault = realm_fault(self._realms, sync_to)
        if fault is not None:
            raise InvalidInput(fault)
        realm, cluster = sync_to[2:].split("/")[:2]
        endpoint = self._realms.endpoint(realm, cluster)
        assert endpoint is not None, "just found to be there"
        return SyncTarget.of_realm(
            sync_to, endpoint, user_key, self._realms.keys(realm)[0]
        )

    def _catch_up(self, walk: Walk) -> bool:
        """Copy again what all primaries have been through; False to end the container.

        Yields.
        """
        before_failed = None
        while walk.point2 < walk.point1 and walk.has_time:
            rows = walk.next_rows(walk.point2, 1)
            if not rows or rows[0].rowid > walk.point1:
                break
            if not self._sync_row(walk, rows[0]) and before_failed is None:
                before_failed = walk.point2
            walk.point2 = rows[0].rowid
            if not walk.keep():
                return False
        if before_failed is not None:
            walk.point2 = before_failed
            return walk.keep()
        return True

    def _own_share(self, walk: Walk) -> bool:
        """Copy our share of the new rows; False when the target has changed. Yields.

        What fails here is copied by the catching up of the next pass, on every primary.
        """
        pool = green.Pool(self.config.sync_row_concurrency)
        while walk.has_time:
            rows = walk.next_rows(walk.point1, self.config.sync_row_concurrency)
            if not rows:
                break
            try:
                for row in rows:
                    name = ObjectName(walk.stat.account, walk.stat.container, row.name)
                    digest = self.cluster.salt.digest_of(name)
                    if is_own(digest, replicas=walk.replicas, index=walk.index):
                        pool.spawn(self._sync_row, walk, row)
                pool.wait_all()
            finally:
                pool.kill_all()
            walk.point1 = rows[-1].rowid
            if not walk.keep():
                return False
        return True

    def _say(self, walk: Walk, started: float) -> None:
        self.log.info(
            "container %s: window start %s, window end %s, puts %d, posts 0, "
            "deletes %d, bytes %d, sync_point1 %d, sync_point2 %d, total_rows %d",
            walk.path,
            Timestamp.at(started).normal,
            Timestamp.at(green.now()).normal,
            walk.puts,
            walk.deletes,
            walk.bytes,
            walk.point1,
            walk.point2,
            green.in_thread(walk.broker.max_row),
        )

    # --- One row ----------------------------------------------------------------------

    def _sync_row(self, walk: Walk, row: SyncRow) -> bool:
        """True when the target has the row's state now. Yields; raises nothing."""
        place = f"{walk.path}/{row.name}"
        try:
            if row.deleted:
                self._delete(walk, row)
            else:
                self._put(walk, row)
        except (Refused, UnexpectedAnswer) as error:
            if error.status in _PLAIN_STATUSES:
                self.log.warning("%s is not synced: %s", place, error)
            else:
                self.log.exception("%s is not synced", place)
        # A row that fails must not keep the others, nor the points, from moving.
        except (Exception, green.Timeout):
            self.log.exception("%s is not synced", place)
        else:
            return True
        self._fail()
        return False

    def _delete(self, walk: Walk, row: SyncRow) -> None:
        with self._timed("deletes"):
            answer = self._remote.ask(
                walk.target, "DELETE", row.name, row.data.internal
            )
            _check(answer, "DELETE", walk, row, also=(404, 409))
        walk.deletes += 1
        self.counts.deletes += 1

    def _put(self, walk: Walk, row: SyncRow) -> None:
        stamp = row.meta.internal
        there = self._remote.ask(walk.target, "HEAD", row.name, stamp)
        if is_at_target(there.status, time_of(there.headers), row):
            return
        _check(there, "HEAD", walk, row, also=(404,))
        name = ObjectName(walk.stat.account, walk.stat.container, row.name)
        wanted = {
            h.X_NEWEST: "true",
            h.X_BACKEND_STORAGE_POLICY_INDEX: str(walk.stat.storage_policy_index),
        }
        source = self._client.ask("GET", name, wanted, query="symlink=get")
        with closing(source):
            when = time_of(source.headers)
            if when is None or when < row.meta:
                raise Unavailable(f"{name.path}: no node has the version of {stamp}")
            if source.headers.true(h.VERSIONS_SYMLINK):
                return
            headers = copied_headers(source.headers)
            headers.pop(h.X_TIMESTAMP, None)
            size = headers.integer(h.CONTENT_LENGTH)
            if size is None:
                raise Unavailable(f"{name.path}: of unknown length")
            body = source.app_iter if source.app_iter is not None else [source.body]
            with self._timed("puts"):
                answer = self._remote.ask(
                    walk.target,
                    "PUT",
                    row.name,
                    when.internal,
                    headers,
                    chunks=_exactly(body, size, name),
                )
                _check(answer, "PUT", walk, row)
        walk.puts += 1
        walk.bytes += size
        self.counts.puts += 1

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Count and time what succeeds."""
        started = green.now()
        yield
        self.metrics.increment(name)
        self.metrics.timing_since(f"{name}.timing", started)

    def _skip(self) -> None:
        self.counts.skips += 1
        self.metrics.increment("skips")

    def _fail(self) -> None:
        self.counts.failures += 1
        self.metrics.increment("failures")


def _check(
    answer: ClientResponse,
    method: str,
    walk: Walk,
    row: SyncRow,
    *,
    also: tuple[int, ...] = (),
) -> None:
    """Raise Refused unless the answer is a success, or one of `also`."""
    if answer.status // 100 != 2 and answer.status not in also:
        path = walk.target.object_path(row.name)
        raise Refused(answer.peer, method, path, answer.status)


def _exactly(body: Iterable[bytes], size: int, name: ObjectName) -> Iterator[bytes]:
    """The body's chunks; raises Unavailable when they are not `size` bytes."""
    left = size
    for chunk in body:
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise Unavailable(f"{name.path}: its body is not of {size} bytes")
