# SPDX-License-Identifier: Apache-2.0
"""Delete the objects whose time is over, and take them off the queue.

The queue is an account of containers whose rows each name an object and when it goes.
A pass reads what is due, deletes each object through a proxy pipeline of its own, and
removes the row once the object is certainly gone; what fails stays for the next pass.
Several expirers share the rows by their hashes.

Rules: contract daemons §11. Metric names and recon keys are OpenStack Swift's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from swift.core import headers as h
from swift.core.errors import ConfigError, InvalidInput, SwiftError
from swift.core.expiry import DAY_S, SPREAD
from swift.core.expiry_queue import (
    Delays,
    Fate,
    Task,
    Verdict,
    fate_of,
    is_usual_container,
    parse_task,
    round_robin,
    verdict_of,
)
from swift.core.names import AccountName, ContainerName, ObjectName
from swift.core.settings import boolean, natural, option, positive_int, seconds
from swift.core.shares import Share, ShareOptions
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.config import ConfFile
from swift.runtime.daemon import Daemon, DaemonConfig, Frame, Pause, Scope, Tally
from swift.runtime.recon import update_cache
from swift.wire.client import ConnectionPool
from swift.wire.direct import DirectClient
from swift.wire.internal_client import (
    InternalClient,
    UnexpectedAnswer,
    load_internal_client,
)

RECON_FILE = "object.recon"

_OWN_FILE = "expirer"
"""In the path of a .conf file that is the expirer's own, with a pipeline in it."""

_PIPELINE = "pipeline:main"


def _divisor(text: str) -> int:
    value = natural(text)
    if value <= SPREAD:
        raise ValueError(f"must be greater than {SPREAD}")
    return value


@dataclass(frozen=True)
class ExpirerConfig(ShareOptions, DaemonConfig):
    """[object-expirer] of object-server.conf or object-expirer.conf."""

    report_interval_s: float = option(
        300.0, name="report_interval", parse=seconds, doc="Time between progress lines."
    )
    request_tries: int = option(
        3, parse=positive_int, doc="Tries of a call that meets errors of servers."
    )
    concurrency: int = option(1, parse=positive_int, doc="Objects deleted at a time.")
    tasks_per_second: float = option(
        50.0, parse=seconds, doc="Objects deleted a second; 0 is no limit."
    )
    reclaim_age: int = option(
        604800,
        parse=natural,
        doc="Seconds after which an object that is not found counts as gone.",
    )
    cache_size: int = option(
        100000,
        name="round_robin_task_cache_size",
        parse=positive_int,
        doc="Tasks that are mixed so that containers take turns.",
    )
    dequeue_from_legacy: bool = option(
        False, parse=boolean, doc="Work off the queue; one node of many should."
    )
    internal_client_conf_path: str = option(
        "", doc="Pipeline to delete through; internal-client.conf of swift_dir."
    )
    expiring_objects_account_name: str = option(
        "expiring_objects", doc="Name of the queue's account without its dot."
    )
    expiring_objects_container_divisor: int = option(
        DAY_S, parse=_divisor, doc="Seconds that share a queue container."
    )


def _own_pipeline(conf: ConfFile | None) -> str | None:
    """The daemon's own file, when that is object-expirer.conf and has a pipeline."""
    if conf is None or _OWN_FILE not in conf.source or _PIPELINE not in conf.sections:
        return None
    return conf.source


_NOT_MATCHING = 412
"""What an object server answers when its object goes at another time."""


class ObjectExpirer(Daemon[Task]):
    """swift-object-expirer; a job is a row of the queue.

    client: the pipeline to call; tests hand in their own, with a pool to match.
    """

    section = "object-expirer"
    Config = ExpirerConfig
    first_pause = Pause.RANDOM
    pause = Pause.RANDOM_REST

    def __init__(
        self,
        config: ExpirerConfig,
        frame: Frame,
        *,
        client: InternalClient | None = None,
        pool: ConnectionPool | None = None,
    ) -> None:
        super().__init__(config, frame)
        self.config: ExpirerConfig = config
        conf = frame.conf
        source = conf.source if conf is not None else ""
        values = conf.section(self.section) if conf is not None else {}
        try:
            self._delays = Delays.from_options(values)
        except InvalidInput as error:
            name, _, reason = str(error).partition(": ")
            raise ConfigError(source, self.section, name, reason) from error
        self._dequeues = config.dequeue_from_legacy or _OWN_FILE in source
        agent = f"object-expirer {os.getpid()}"
        if client is None and self._dequeues:
            client = load_internal_client(
                config.internal_client_conf_path or _own_pipeline(conf),
                cluster=frame.cluster,
                log=frame.log,
                user_agent=agent,
                tries=config.request_tries,
            )
        self._client = client
        self._direct = DirectClient(pool or ConnectionPool(), user_agent=agent)
        self._queue = AccountName(f".{config.expiring_objects_account_name}")
        self._share = config.share
        self._expired = 0

    @property
    def concurrency(self) -> int:
        """Objects at a time."""
        return self.config.concurrency

    @property
    def jobs_per_second(self) -> float:
        """Objects a second."""
        return self.config.tasks_per_second

    @property
    def progress_s(self) -> float:
        """Time between progress lines."""
        return self.config.report_interval_s

    def check(self, scope: Scope) -> None:
        """There is such a part of the queue as the command line says."""
        self._share_in(scope)

    def begin(self, scope: Scope) -> None:
        """See which part of the queue is ours. Raises InvalidInput."""
        self._expired = 0
        self._share = self._share_in(scope)

    def _share_in(self, scope: Scope) -> Share:
        processes = int(scope.extra.get("processes", self.config.processes))
        process = int(scope.extra.get("process", self.config.process))
        try:
            return Share(processes, process)
        except ValueError as error:
            reason = f"process {process} of {processes} expirers: {error}"
            raise InvalidInput(reason) from error

    # --- What is due ------------------------------------------------------------------

    def jobs(self, scope: Scope) -> Iterable[Task]:
        """The tasks that are due and ours, containers of objects in turns. Yields."""
        client = self._client
        if not self._dequeues or client is None:
            self.log.info(
                "object expirer: dequeue_from_legacy is off, the queue is left alone"
            )
            return
        head = client.head(self._queue, accept=(2, 404)).headers
        self.log.info(
            "object expirer: pass begins, account %s, %s containers, %s objects",
            self._queue.account,
            head.get(h.X_ACCOUNT_CONTAINER_COUNT, "0"),
            head.get(h.X_ACCOUNT_OBJECT_COUNT, "0"),
        )
        yield from round_robin(self._due(client), self.config.cache_size)

    def _due(self, client: InternalClient) -> Iterator[Task]:
        unusual = 0
        for row in client.containers(self._queue):
            name = str(row.get("name", ""))
            if not name.isdecimal():
                self.log.error("queue container %r is no time; it is skipped", name)
                continue
            if int(name) > green.now():
                break
            divisor_s = self.config.expiring_objects_container_divisor
            if not is_usual_container(int(name), divisor_s):
                unusual += 1
            try:
                yield from self._due_of(client, name)
            except SwiftError as error:
                self.log.error("queue container %s: %s", name, error)
        if unusual:
            self.log.info(
                "object expirer: %d queue containers have unusual names", unusual
            )

    def _due_of(self, client: InternalClient, container: str) -> Iterator[Task]:
        name = ContainerName(self._queue.account, container)
        is_empty = True
        for row in client.objects(name):
            is_empty = False
            try:
                task = parse_task(
                    container, str(row.get("name")), str(row.get("content_type"))
                )
            except InvalidInput as error:
                self.metrics.increment("tasks.parse_errors")
                self.log.error("queue container %s: %s", container, error)
                continue
            fate = fate_of(
                task, now=green.now(), share=self._share, delays=self._delays
            )
            if fate is Fate.NOT_DUE:
                break
            self.metrics.increment(f"tasks.{fate.value}")
            if fate is Fate.ASSIGNED:
                yield task
        if is_empty:
            client.settle("DELETE", name, accept=(2, 404, 409))

    # --- One object -------------------------------------------------------------------

    def handle(self, job: Task) -> None:
        """Delete the object of a task, and its row if that is certain. Yields."""
        began = green.now()
        status = self._delete(job)
        verdict = verdict_of(
            job, status, now=green.now(), reclaim_age_s=self.config.reclaim_age
        )
        if verdict is Verdict.POP:
            self._pop(job)
            self._expired += 1
            self.metrics.increment("objects")
        else:
            self.metrics.increment("errors")
            self.log.error(
                "expired object %s is not deleted (%s), the next pass tries again",
                job.target.path,
                status or "no answer",
            )
        self.metrics.timing_since("timing", began)

    def _delete(self, task: Task) -> int:
        """The status of the answer; 0 for none."""
        assert self._client is not None, "only a pass that dequeues has tasks"
        headers = {h.X_TIMESTAMP: task.when.internal}
        if not task.is_async:
            headers = {
                h.X_TIMESTAMP: task.when.normal,
                h.X_IF_DELETE_AT: str(int(task.when.seconds)),
                h.X_BACKEND_CLEAN_EXPIRING_OBJECT_QUEUE: "no",
            }
        try:
            if not task.is_async and self._has_more_time(task.target):
                return _NOT_MATCHING
            return self._client.delete_object(task.target, headers).status
        except UnexpectedAnswer as error:
            return error.status
        except (SwiftError, TimeoutError) as error:
            self.log.debug("%s: %s", task.target.path, error)
            return 0

    def _has_more_time(self, target: ObjectName) -> bool:
        """True when the newest version that any node has is not expired. Yields.

        Each node compares X-If-Delete-At with what it has. One that missed a later
        version would take the DELETE for the one before, and its tombstone, newer than
        both, would be carried over the object that the others kept.
        """
        assert self._client is not None, "only a pass that dequeues has tasks"
        newest = {h.X_NEWEST: "true"}
        answer = self._client.settle(
            "HEAD", target, newest, query="symlink=get", accept=(2, 404)
        )
        return answer.status != 404

    def _pop(self, task: Task) -> None:
        """Delete the row on every primary; one that fails is found again. Yields."""
        row = ObjectName(self._queue.account, task.container, task.row)
        ring = self.cluster.container_ring()
        digest = self.cluster.salt.digest_of(row.container_name)
        partition = ring.partition(digest)
        headers = {
            h.X_TIMESTAMP: Timestamp.at(green.now()).internal,
            h.X_BACKEND_STORAGE_POLICY_INDEX: "0",
        }
        for node in ring.primaries(partition):
            try:
                self._direct.delete(node, partition, row, headers)
            except SwiftError as error:
                self.log.debug("queue row %s at %s: %s", row.path, node.name, error)

    # --- Reports ----------------------------------------------------------------------

    def progress(self, tally: Tally) -> None:
        """How far the pass is."""
        if self._dequeues:
            self._say("so far", tally)

    def end(self, scope: Scope, tally: Tally) -> None:
        """The final report, for people and for recon."""
        if not self._dequeues:
            return
        self._say("completed", tally)
        update_cache(
            f"{self.config.recon_cache_path}/{RECON_FILE}",
            {
                "object_expiration_pass": tally.elapsed_s,
                "expired_last_pass": self._expired,
            },
            self.log,
        )

    def _say(self, what: str, tally: Tally) -> None:
        self.log.info(
            "object expirer: pass %s in %.0fs, %d objects expired",
            what,
            tally.elapsed_s,
            self._expired,
        )
