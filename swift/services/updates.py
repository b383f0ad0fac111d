# SPDX-License-Identifier: Apache-2.0
"""Telling databases of a change: containers of objects, accounts of containers.

A storage server tells those nodes that the proxy named in the request's headers, over
kept connections and before it answers. What an object server could not tell in time is
kept on disk for the updater (contract backend-http 4 and 5, object-on-disk 9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol
from urllib.parse import unquote

from swift.core import expiry
from swift.core.errors import InvalidInput, SwiftError
from swift.core.hashing import HashSalt
from swift.core.headers import (
    LOCATION,
    REFERER,
    USER_AGENT,
    X_BACKEND_CLEAN_EXPIRING_OBJECT_QUEUE,
    X_BACKEND_CONTAINER_PATH,
    X_BACKEND_LOCATION_IS_QUOTED,
    X_BACKEND_QUOTED_CONTAINER_PATH,
    X_BACKEND_REDIRECT_TIMESTAMP,
    X_BACKEND_REPLICATION,
    X_BACKEND_STORAGE_POLICY_INDEX,
    X_CONTAINER_DEVICE,
    X_CONTAINER_HOST,
    X_CONTAINER_PARTITION,
    X_CONTAINER_ROOT_DB_STATE,
    X_CONTENT_TYPE,
    X_CONTENT_TYPE_TIMESTAMP,
    X_DELETE_AT_CONTAINER,
    X_DELETE_AT_DEVICE,
    X_DELETE_AT_HOST,
    X_DELETE_AT_PARTITION,
    X_ETAG,
    X_SIZE,
    X_TIMESTAMP,
    X_TRANS_ID,
    Headers,
)
from swift.core.names import ContainerName, ObjectName, quote, text_of_wsgi
from swift.core.policy import StoragePolicy
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics
from swift.services.node import NodeCall
from swift.wire.client import ConnectionPool


@dataclass(frozen=True, slots=True)
class Peer:
    """A device of a database server that a request's headers name."""

    ip: str
    port: int
    device: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer said; status 0 when it said nothing in time."""

    peer: Peer
    status: int
    headers: Headers

    @property
    def is_success(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300


def peers_of(hosts: str | None, devices: str | None) -> tuple[Peer, ...]:
    """The peers of two comma lists, `ip:port` and device, of equal length.

    Raises InvalidInput when the lengths differ or a host does not parse.
    """
    return _peers_of(hosts, devices)


@lru_cache(maxsize=1024)
def _peers_of(hosts: str | None, devices: str | None) -> tuple[Peer, ...]:
    # The nodes of a cluster are few.
    host_list = _items(hosts)
    device_list = _items(devices)
    if len(host_list) != len(device_list):
        raise InvalidInput(
            f"different number of hosts ({len(host_list)}) and devices "
            f"({len(device_list)})"
        )
    return tuple(map(_peer, host_list, device_list))


def _items(text: str | None) -> list[str]:
    return [item for part in (text or "").split(",") if (item := part.strip())]


def _peer(host: str, device: str) -> Peer:
    ip, colon, port = host.rpartition(":")
    if not colon or not port.isdigit():
        raise InvalidInput(f"no host and port: {host!r}")
    return Peer(ip.removeprefix("[").removesuffix("]"), int(port), device)


class UpdateSender:
    """Sends one small request to several peers at once and takes their answers."""

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        connect_timeout_s: float,
        answer_timeout_s: float,
        log: Logger,
    ) -> None:
        self._pool = pool
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._log = log

    def send(
        self,
        peers: Sequence[Peer],
        method: str,
        partition: str,
        path: str,
        headers: Headers,
    ) -> list[Answer]:
        """One answer a peer, in their order. Yields.

        path: `/account/container[/object]`, percent-encoded.
        """
        if len(peers) == 1:
            return [self._ask(peers[0], method, partition, path, headers)]
        threads = [
            green.spawn(self._ask, peer, method, partition, path, headers)
            for peer in peers[1:]
        ]
        answers = [self._ask(peers[0], method, partition, path, headers)]
        answers += [thread.wait() for thread in threads]
        return answers

    def _ask(
        self, peer: Peer, method: str, partition: str, path: str, headers: Headers
    ) -> Answer:
        target = f"/{quote(peer.device)}/{partition}{path}"
        try:
            response = self._pool.request(
                peer.ip,
                peer.port,
                method,
                target,
                headers.items(),
                connect_timeout_s=self._connect_timeout_s,
                response_timeout_s=self._answer_timeout_s,
            )
            status = response.status
            response.drain()
        except SwiftError as error:
            self._log.warning(
                "%s %s at %s:%s/%s failed: %s",
                method,
                path,
                peer.ip,
                peer.port,
                peer.device,
                error,
                txn=headers.get(X_TRANS_ID, ""),
            )
            return Answer(peer, 0, Headers())
        if not 200 <= status < 300:
            self._log.warning(
                "%s %s at %s:%s/%s was answered by %s",
                method,
                path,
                peer.ip,
                peer.port,
                peer.device,
                status,
                txn=headers.get(X_TRANS_ID, ""),
            )
        return Answer(peer, status, response.headers)


class PendingStore(Protocol):
    """Where one policy's updates are kept that could not be told (storage/object)."""

    def save(
        self,
        device: str,
        op: str,
        name: ObjectName,
        headers: Headers,
        *,
        db_state: str | None = None,
        container_path: str | None = None,
    ) -> None:
        """Keep one update on disk. Yields; raises DeviceUnavailable."""


class ObjectUpdates:
    """What an object server tells containers and the expirer's queue.

    pending: policy index → where updates of its objects are kept. agent, in methods:
    the User-Agent, `object-server <pid>`.
    """

    def __init__(
        self,
        sender: UpdateSender,
        pending: Mapping[int, PendingStore],
        *,
        salt: HashSalt,
        log: Logger,
        metrics: Metrics,
    ) -> None:
        self._sender = sender
        self._pending = pending
        self._salt = salt
        self._log = log
        self._metrics = metrics

    def tell_container(
        self,
        call: NodeCall,
        op: str,
        name: ObjectName,
        policy: StoragePolicy,
        facts: Headers,
        agent: str,
    ) -> None:
        """Tell the container nodes that the request names. Yields.

        op: PUT or DELETE. facts: the headers of the row. Nothing is told when the
        request names no node, as replication's do not.
        """
        headers = call.headers
        partition = dict.get(headers, X_CONTAINER_PARTITION)
        if not partition:
            return
        try:
            peers = peers_of(
                dict.get(headers, X_CONTAINER_HOST),
                dict.get(headers, X_CONTAINER_DEVICE),
            )
        except InvalidInput as error:
            self._log.error(
                "container update of %s is not sent: %s",
                name.path,
                error,
                txn=call.trans_id,
            )
            return
        if not peers:
            return
        shard = self._shard_path(headers)
        sent_to = ContainerName(*shard.split("/", 1)) if shard else name.container_name
        update = facts.copy()
        dict.update(
            update,
            {
                X_TRANS_ID: call.trans_id,
                REFERER: call.referer,
                X_BACKEND_STORAGE_POLICY_INDEX: str(policy.index),
                USER_AGENT: agent,
            },
        )
        path = quote(f"{sent_to.path}/{name.obj}")
        answers = self._sender.send(peers, op, partition, path, update)
        failed = [answer for answer in answers if not answer.is_success]
        if failed:
            redirect = next(filter(None, map(_redirect_of, failed)), None)
            self._keep(
                call,
                op,
                name,
                policy,
                update,
                db_state=dict.get(headers, X_CONTAINER_ROOT_DB_STATE),
                container_path=redirect or shard,
            )

    def _shard_path(self, headers: Headers) -> str | None:
        """`account/container` of the shard that the proxy named, decoded."""
        quoted = dict.get(headers, X_BACKEND_QUOTED_CONTAINER_PATH)
        if quoted:
            path = unquote(quoted, errors="surrogateescape")
        else:
            plain = dict.get(headers, X_BACKEND_CONTAINER_PATH)
            if not plain:
                return None
            try:
                path = text_of_wsgi(plain)
            except InvalidInput:
                path = ""
        account, slash, container = path.partition("/")
        if not slash or not account or not container or "/" in container:
            self._log.warning("container path %r is malformed; the root is told", path)
            return None
        return path

    def tell_queue(
        self,
        call: NodeCall,
        name: ObjectName,
        policy: StoragePolicy,
        *,
        delete_at: int,
        size: str,
        agent: str,
    ) -> None:
        """Queue the removal of an object at `delete_at`. Yields.

        Nothing is queued when the request names no queue node, or is replication's.
        """
        headers = call.headers
        hosts = dict.get(headers, X_DELETE_AT_HOST)
        if hosts is None or headers.true(X_BACKEND_REPLICATION):
            return
        container = dict.get(headers, X_DELETE_AT_CONTAINER)
        expected = expiry.queue_container(delete_at, name, self._salt)
        if not container:
            container = expected
        elif container != expected:
            self._log.debug(
                "queue container %s of %s is taken, though it should be %s",
                container,
                name.path,
                expected,
                txn=call.trans_id,
            )
        task = self._task(name, container, delete_at)
        timestamp = headers[X_TIMESTAMP]
        update = self._queue_headers(call, timestamp, agent)
        dict.update(
            update,
            {
                X_SIZE: "0",
                X_CONTENT_TYPE: expiry.task_content_type(size),
                X_ETAG: expiry.EMPTY_ETAG,
                X_CONTENT_TYPE_TIMESTAMP: timestamp,
                USER_AGENT: agent,
            },
        )
        partition = dict.get(headers, X_DELETE_AT_PARTITION)
        peers: Sequence[Peer] = ()
        try:
            peers = peers_of(hosts, dict.get(headers, X_DELETE_AT_DEVICE))
        except InvalidInput as error:
            self._log.error("expirer queue of %s: %s", name.path, error)
        if peers and partition:
            path = quote(task.path)
            answers = self._sender.send(peers, "PUT", partition, path, update)
            if all(answer.is_success for answer in answers):
                return
        self._keep(call, "PUT", task, policy, update)

    def clear_queue(
        self,
        call: NodeCall,
        name: ObjectName,
        policy: StoragePolicy,
        *,
        delete_at: int,
        timestamp: Timestamp,
        agent: str,
    ) -> None:
        """Have the updater remove the queue row of a delete time that no longer holds.

        Not for replication, nor when the request says that another node does it.
        Yields.
        """
        headers = call.headers
        if headers.true(X_BACKEND_REPLICATION):
            return
        if X_BACKEND_CLEAN_EXPIRING_OBJECT_QUEUE in headers and not headers.true(
            X_BACKEND_CLEAN_EXPIRING_OBJECT_QUEUE
        ):
            return
        container = expiry.queue_container(delete_at, name, self._salt)
        task = self._task(name, container, delete_at)
        update = self._queue_headers(call, timestamp.internal, agent)
        dict.__setitem__(update, USER_AGENT, agent)
        self._keep(call, "DELETE", task, policy, update)

    def _task(self, name: ObjectName, container: str, delete_at: int) -> ObjectName:
        return ObjectName(
            expiry.QUEUE_ACCOUNT, container, expiry.task_name(delete_at, name)
        )

    def _queue_headers(self, call: NodeCall, timestamp: str, agent: str) -> Headers:
        return Headers.titled(
            [
                (X_BACKEND_STORAGE_POLICY_INDEX, "0"),
                (X_TIMESTAMP, timestamp),
                (X_TRANS_ID, call.trans_id),
                (REFERER, call.referer),
            ]
        )

    def _keep(
        self,
        call: NodeCall,
        op: str,
        name: ObjectName,
        policy: StoragePolicy,
        headers: Headers,
        *,
        db_state: str | None = None,
        container_path: str | None = None,
    ) -> None:
        self._metrics.increment("async_pendings")
        self._pending[policy.index].save(
            call.device,
            op,
            name,
            headers,
            db_state=db_state,
            container_path=container_path,
        )


def _redirect_of(answer: Answer) -> str | None:
    """`account/container` that a 301 points to; None when it is no good redirect."""
    if answer.status != 301:
        return None
    location = answer.headers.get(LOCATION, "")
    if answer.headers.true(X_BACKEND_LOCATION_IS_QUOTED):
        location = unquote(location, errors="surrogateescape")
    try:
        if answer.headers.timestamp(X_BACKEND_REDIRECT_TIMESTAMP) is None:
            return None
    except InvalidInput:
        return None
    parts = location.split("/", 3)
    if len(parts) < 3 or parts[0] or not parts[1] or not parts[2]:
        return None
    return f"{parts[1]}/{parts[2]}"
