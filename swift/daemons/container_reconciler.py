# SPDX-License-Identifier: Apache-2.0
"""Move objects to the storage policy of their container.

Two halves of a cluster that were apart may have made one container with two policies.
When they meet again one policy wins, and container replicators queue the rows of the
other. A pass takes each entry of that queue, looks where the container is and where the
object is, copies the object, removes what was left behind, and then the entry.

Rules: contract daemons §12.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from swift.core import headers as h
from swift.core.errors import InvalidInput, SwiftError
from swift.core.headers import Headers
from swift.core.misplaced import QUEUE_ACCOUNT, QUEUE_DIVISOR_S
from swift.core.names import AccountName, ContainerName, ObjectName
from swift.core.reconcile import (
    DONE,
    Finding,
    QueueEntry,
    Step,
    container_policy,
    is_superseded,
    parse_entry,
    policy_facts_of,
    step_of,
)
from swift.core.ring.devices import Node
from swift.core.rows import PolicyFacts
from swift.core.settings import natural, option, positive_int, seconds
from swift.core.shares import ShareOptions
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.daemon import Daemon, DaemonConfig, Frame, Pause, Scope, Tally
from swift.wire.client import ConnectionPool
from swift.wire.direct import DirectClient, DirectError
from swift.wire.internal_client import InternalClient, load_internal_client
from swift.wire.request import Response

POLICY_CACHE_S = 30.0
_POLICY_CACHE_MAX = 10000
_STATS_S = 60.0
_PIPELINE = "pipeline:main"

_COPIED = frozenset(
    (
        h.CONTENT_TYPE,
        h.CONTENT_LENGTH,
        h.ETAG,
        *h.ALLOWED_OBJECT_HEADERS,
    )
)
_COPIED_FAMILIES = (
    h.OBJECT_META,
    h.OBJECT_SYSMETA,
    h.OBJECT_TRANSIENT_SYSMETA,
)


@dataclass(frozen=True)
class ReconcilerConfig(ShareOptions, DaemonConfig):
    """[container-reconciler] of container-reconciler.conf."""

    interval_s: float = option(
        30.0, name="interval", parse=seconds, doc="Pause between two passes."
    )
    reclaim_age: int = option(
        604800, parse=natural, doc="Seconds after which a missing source is given up."
    )
    request_tries: int = option(
        3, parse=positive_int, doc="Tries of a call that meets errors of servers."
    )
    concurrency: int = option(1, parse=positive_int, doc="Entries handled at a time.")
    ring_check_interval_s: float = option(
        15.0, name="ring_check_interval", parse=seconds, doc="How old a ring may be."
    )


class ContainerReconciler(Daemon[QueueEntry]):
    """swift-container-reconciler; a job is an entry of the queue.

    client: the pipeline to call; tests hand in their own, with a pool to match.
    """

    section = "container-reconciler"
    Config = ReconcilerConfig
    first_pause = Pause.NONE
    pause = Pause.FULL

    def __init__(
        self,
        config: ReconcilerConfig,
        frame: Frame,
        *,
        client: InternalClient | None = None,
        pool: ConnectionPool | None = None,
    ) -> None:
        super().__init__(config, frame)
        self.config: ReconcilerConfig = config
        agent = f"container-reconciler {os.getpid()}"
        conf = frame.conf
        if client is None:
            own = conf is not None and _PIPELINE in conf.sections
            client = load_internal_client(
                conf.source if own and conf is not None else None,
                cluster=frame.cluster,
                log=frame.log,
                user_agent=agent,
                tries=config.request_tries,
            )
        self._client = client
        self._direct = DirectClient(pool or ConnectionPool(), user_agent=agent)
        self._queue = AccountName(QUEUE_ACCOUNT)
        self._policies: OrderedDict[ContainerName, tuple[float, int | None]] = (
            OrderedDict()
        )
        self._stats: dict[str, int] = {}
        self._say_at = 0.0

    @property
    def concurrency(self) -> int:
        """Entries at a time."""
        return self.config.concurrency

    def begin(self, scope: Scope) -> None:
        """Begin to count anew."""
        self._stats = {}
        self._say_at = green.monotonic() + _STATS_S

    # --- The queue --------------------------------------------------------------------

    def jobs(self, scope: Scope) -> Iterable[QueueEntry]:
        """The entries of our share: those of this hour first. Yields."""
        now = green.now()
        current = str(int(now) // QUEUE_DIVISOR_S * QUEUE_DIVISOR_S)
        yield from self._entries(current)
        for page in self._client.pages(self._queue):
            for row in reversed(page):
                name = str(row.get("name", ""))
                if name != current:
                    yield from self._entries(name)

    def _entries(self, container: str) -> Iterator[QueueEntry]:
        name = ContainerName(self._queue.account, container)
        is_empty = True
        try:
            for row in self._client.objects(name):
                is_empty = False
                try:
                    entry = parse_entry(container, row)
                except InvalidInput as error:
                    self._count("invalid_record")
                    self.log.error("queue container %s: %s", container, error)
                    continue
                digest = self.cluster.salt.digest_of(entry.target)
                if self.config.share.holds(digest):
                    yield entry
            if is_empty:
                self._remove_if_old(name)
        except SwiftError as error:
            self.log.error("queue container %s: %s", container, error)

    def _remove_if_old(self, name: ContainerName) -> None:
        if not name.container.isdecimal():
            return
        if int(name.container) < green.now() - self.config.reclaim_age:
            self._client.settle("DELETE", name, accept=(2, 404, 409, 412))

    # --- One entry --------------------------------------------------------------------

    def handle(self, job: QueueEntry) -> None:
        """Bring one object where it belongs. Yields."""
        finding = self._reconcile(job)
        self._count(finding.value)
        done = finding in DONE
        self.log.info(
            "reconciler: %s %s in policy %d: %s, %s",
            job.target.path,
            job.when.internal,
            job.policy_index,
            finding.value,
            "done" if done else "to be tried again",
        )
        if done:
            self._pop(job)
            self._count("success")
        else:
            self._count("retry")
        if green.monotonic() >= self._say_at:
            self._say_at = green.monotonic() + _STATS_S
            self._say()

    def _reconcile(self, entry: QueueEntry) -> Finding:
        policy = self._policy_of(entry.target.container_name)
        if policy is None:
            return Finding.UNAVAILABLE_CONTAINER
        if policy == entry.policy_index:
            return Finding.NOOP
        if self._is_moving(policy) or self._is_moving(entry.policy_index):
            return Finding.PART_POWER
        wanted = {h.X_BACKEND_STORAGE_POLICY_INDEX: str(policy), h.X_NEWEST: "true"}
        try:
            found = self._client.head(entry.target, wanted, accept=(2, 4)).headers
        except SwiftError as error:
            self.log.debug("%s in policy %d: %s", entry.target.path, policy, error)
            return Finding.UNAVAILABLE_DESTINATION
        if is_superseded(entry, _time_of(found)):
            return self._cleaned(entry, Finding.FOUND)
        return self._move(entry, policy)

    def _move(self, entry: QueueEntry, policy: int) -> Finding:
        path, now = entry.target.path, green.now()
        headers = {
            h.X_BACKEND_STORAGE_POLICY_INDEX: str(entry.policy_index),
            h.X_NEWEST: "true",
        }
        try:
            source = self._client.ask("GET", entry.target, headers, accept=(2, 4))
        except SwiftError as error:
            self.log.debug("%s: source: %s", path, error)
            source = Response(503)
        with closing(source):
            when = _time_of(source.headers)
            step = step_of(
                entry,
                source.status,
                when,
                now=now,
                reclaim_age_s=self.config.reclaim_age,
            )
            if step is Step.GIVE_UP:
                self.log.critical(
                    "reconciler: %s of %s is lost: policy %d answers %d",
                    path,
                    entry.when.internal,
                    entry.policy_index,
                    source.status,
                )
                return Finding.LOST
            if step is Step.WAIT:
                self.log.warning(
                    "reconciler: source of %s in policy %d is not available (%d)",
                    path,
                    entry.policy_index,
                    source.status,
                )
                return Finding.UNAVAILABLE_SOURCE
            try:
                if step is Step.DELETE:
                    self._delete(entry, policy, entry.arrival())
                    finding = Finding.DELETED
                else:
                    self._copy(entry, policy, source, entry.arrival(when))
                    finding = Finding.COPIED
            except SwiftError as error:
                self.log.warning("reconciler: %s not moved: %s", path, error)
                return Finding.COPY_FAILED
        return self._cleaned(entry, finding)

    def _copy(
        self, entry: QueueEntry, policy: int, source: Response, when: Timestamp
    ) -> None:
        headers = copied_headers(source.headers)
        headers[h.X_BACKEND_STORAGE_POLICY_INDEX] = str(policy)
        headers[h.X_TIMESTAMP] = when.internal
        chunks = source.app_iter if source.app_iter is not None else [source.body]
        self._client.settle("PUT", entry.target, headers, body=chunks)

    def _delete(self, entry: QueueEntry, policy: int, when: Timestamp) -> None:
        headers = {
            h.X_BACKEND_STORAGE_POLICY_INDEX: str(policy),
            h.X_TIMESTAMP: when.internal,
        }
        self._client.delete_object(entry.target, headers)

    def _cleaned(self, entry: QueueEntry, finding: Finding) -> Finding:
        """The finding, once what was left behind is deleted."""
        try:
            self._delete(entry, entry.policy_index, entry.source_tombstone)
        except SwiftError as error:
            self.log.warning(
                "reconciler: %s stays in policy %d: %s",
                entry.target.path,
                entry.policy_index,
                error,
            )
            return Finding.CLEANUP_FAILED
        return finding

    def _pop(self, entry: QueueEntry) -> None:
        """Delete the entry on every primary; one that fails is found again. Yields."""
        row = ObjectName(self._queue.account, entry.container, entry.row)
        ring = self.cluster.container_ring()
        partition = ring.partition(self.cluster.salt.digest_of(row.container_name))
        headers = {h.X_TIMESTAMP: entry.removal.internal}
        for node in ring.primaries(partition):
            try:
                self._direct.delete(node, partition, row, headers)
            except SwiftError as error:
                self.log.debug("entry %s at %s: %s", row.path, node.name, error)

    # --- Facts ------------------------------------------------------------------------

    def _is_moving(self, policy: int) -> bool:
        """True while a policy's part power changes, or when there is no such policy."""
        if self.cluster.policies.by_index(policy) is None:
            return True
        try:
            return self.cluster.object_ring(policy).next_part_power is not None
        except SwiftError:
            return True

    def _policy_of(self, name: ContainerName) -> int | None:
        """The container's policy; None while it is not known. Yields."""
        known = self._policies.get(name)
        if known is not None and green.monotonic() < known[0]:
            return known[1]
        ring = self.cluster.container_ring()
        partition = ring.partition(self.cluster.salt.digest_of(name))
        nodes = ring.primaries(partition)
        answers: list[PolicyFacts | None] = []
        for node in nodes:
            try:
                answers.append(policy_facts_of(self._head(node, partition, name)))
            except SwiftError as error:
                self.log.debug("container %s at %s: %s", name.path, node.name, error)
        policy = container_policy(answers, len(nodes))
        self._policies[name] = (green.monotonic() + POLICY_CACHE_S, policy)
        self._policies.move_to_end(name)
        if len(self._policies) > _POLICY_CACHE_MAX:
            self._policies.popitem(last=False)
        return policy

    def _head(self, node: Node, partition: int, name: ContainerName) -> Headers:
        try:
            return self._direct.head(
                node, partition, name, {h.X_BACKEND_ALLOW_RESERVED_NAMES: "true"}
            )
        except DirectError as error:
            if error.status == 404:
                return error.answer.headers
            raise

    # --- Reports ----------------------------------------------------------------------

    def _count(self, name: str) -> None:
        self._stats[name] = self._stats.get(name, 0) + 1

    def _say(self) -> None:
        text = ", ".join(f"{name}: {n}" for name, n in sorted(self._stats.items()))
        self.log.info("reconciler: %s", text or "nothing to do")

    def end(self, scope: Scope, tally: Tally) -> None:
        """Say what the pass has done."""
        self._say()
        self.log.info("reconciler: sleeping %.0fs", self.config.interval_s)


def copied_headers(found: Headers) -> Headers:
    """Of an object's headers, what its copy in another policy is made with."""
    copied = Headers(
        (name, value)
        for name, value in found.items()
        if name in _COPIED or name.startswith(_COPIED_FAMILIES)
    )
    if h.ETAG in copied:
        copied[h.ETAG] = copied[h.ETAG].strip('"')
    return copied


def _time_of(headers: Headers) -> Timestamp | None:
    """The time of an object or tombstone, of the answer that tells of it."""
    try:
        found = headers.timestamp(h.X_BACKEND_TIMESTAMP)
        return found or headers.timestamp(h.X_TIMESTAMP)
    except InvalidInput:
        return None
