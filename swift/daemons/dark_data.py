# SPDX-License-Identifier: Apache-2.0
"""Audit watcher `dark_data`: find the objects that no container lists.

Such an object costs space and can only be reached by who knows its name. It comes of
updates that were lost, or of an old disk that was put back. To be called dark, every
replica of its container must have answered, and none may list it; what is younger than
`grace_age` may just not be listed yet.

Rules: contract daemons §7.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from random import Random, SystemRandom
from urllib.parse import urlencode

from swift.core import headers as h
from swift.core.errors import InvalidInput, NotFound, QuarantineRequest, SwiftError
from swift.core.names import ContainerName, ObjectName, split_name
from swift.core.ring.devices import Node
from swift.core.settings import bind, option, seconds
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.logs import Logger
from swift.storage.fs import FileSystem, remove_if_there
from swift.storage.object import hashes
from swift.wire.client import ConnectionPool
from swift.wire.direct import DirectClient, DirectError

_SHARD = "shard"
_AUTO = "auto"
_OBJECT = "object"
_DEPTH_MAX = 10
"""Shards within shards that are followed."""


@dataclass(frozen=True)
class DarkDataConfig:
    """[object-auditor:watcher:dark_data] over [object-auditor]."""

    action: str = option("log", doc="log, delete or quarantine.")
    grace_age_s: float = option(
        604800.0, name="grace_age", parse=seconds, doc="Age from which it is looked at."
    )
    swift_dir: str = option("/etc/swift", doc="Where swift.conf and rings are.")


class Sight(Enum):
    """What the containers say of an object."""

    LISTED = "ok"
    DARK = "dark"
    UNKNOWN = "unknown"


class DarkDataWatcher:
    """The watcher.

    cluster, pool, rng: tests hand in their own.
    """

    def __init__(
        self,
        conf: Mapping[str, str],
        logger: Logger,
        *,
        cluster: Cluster | None = None,
        pool: ConnectionPool | None = None,
        rng: Random | None = None,
        fs: FileSystem | None = None,
    ) -> None:
        config = bind(
            DarkDataConfig, conf, source="-", section="object-auditor:watcher:dark_data"
        )
        self._log = logger
        self._grace_age_s = config.grace_age_s
        self._action = config.action.lower()
        if self._action not in ("log", "delete", "quarantine"):
            logger.warning("action %r is unknown; dark data is logged", config.action)
            self._action = "log"
        self._cluster = cluster or Cluster.load(config.swift_dir, log=logger)
        self._direct = DirectClient(
            pool or ConnectionPool(), user_agent=f"dark-data {os.getpid()}"
        )
        self._rng = rng or SystemRandom()
        self._fs = fs or FileSystem()
        self._is_on = False
        self._counts = dict.fromkeys(Sight, 0)

    def start(self, audit_type: str, **_more: object) -> None:
        """A scan begins; the quick ones are not ours."""
        self._is_on = audit_type == "ALL"
        self._counts = dict.fromkeys(Sight, 0)

    def see_object(
        self, object_metadata: Mapping[str, str], data_file_path: str, **_more: object
    ) -> None:
        """Look for an object in its container; act when it is dark. Yields."""
        if not self._is_on:
            return
        name = split_name(object_metadata["name"])
        if not isinstance(name, ObjectName):
            raise InvalidInput(f"{name.path} is no object")
        stamp = Timestamp.parse(object_metadata[h.X_TIMESTAMP])
        if green.now() - stamp.seconds < self._grace_age_s:
            self._counts[Sight.LISTED] += 1
            return
        sight = self.sight_of(name)
        self._counts[sight] += 1
        if sight is Sight.DARK:
            self._act(name, data_file_path)

    def end(self, **_more: object) -> None:
        """Say how many there were."""
        if self._is_on:
            self._log.info(
                "dark data: unknown %d ok %d dark %d",
                self._counts[Sight.UNKNOWN],
                self._counts[Sight.LISTED],
                self._counts[Sight.DARK],
            )

    def _act(self, name: ObjectName, path: str) -> None:
        if self._action == "quarantine":
            raise QuarantineRequest(f"{name.path} is in no container")
        self._log.info("dark data: %s at %s (%s)", name.path, path, self._action)
        if self._action == "delete":
            self._delete(path.rpartition("/")[0])

    def _delete(self, directory: str) -> None:
        suffix_path, _, _ = directory.rpartition("/")
        partition_path, _, suffix = suffix_path.rpartition("/")
        hashes.invalidate(self._fs, partition_path, suffix)
        names = self._fs.list(directory)
        remove_if_there(self._fs, [f"{directory}/{name}" for name in names])
        with suppress(OSError):
            self._fs.remove_directory(directory)

    # --- Asking the containers --------------------------------------------------------

    def sight_of(self, name: ObjectName) -> Sight:
        """Ask the replicas of the container, in a random order, until one lists it."""
        return self._sight_in(name.container_name, name, _AUTO, _DEPTH_MAX)

    def _sight_in(
        self, container: ContainerName, name: ObjectName, kind: str, depth: int
    ) -> Sight:
        ring = self._cluster.container_ring()
        partition = ring.partition(self._cluster.salt.digest_of(container))
        nodes = list(ring.primaries(partition))
        self._rng.shuffle(nodes)
        sight = Sight.DARK
        for node in nodes:
            try:
                found = self._ask(node, partition, container, name, kind, depth)
            except NotFound:
                continue
            except SwiftError as error:
                self._log.debug("dark data: %s: %s", name.path, error)
                found = Sight.UNKNOWN
            if found is Sight.LISTED:
                return found
            if found is Sight.UNKNOWN:
                sight = found
        return sight

    def _ask(
        self,
        node: Node,
        partition: int,
        container: ContainerName,
        name: ObjectName,
        kind: str,
        depth: int,
    ) -> Sight:
        """What one replica says, or the shard that it points to."""
        query = {"prefix": name.obj, "limit": "1"}
        if kind == _AUTO:
            query.update(states="listing", includes=name.obj)
        try:
            headers, rows = self._direct.listing(
                node,
                partition,
                container,
                urlencode(query, errors="surrogateescape"),
                {h.X_BACKEND_RECORD_TYPE: kind, h.X_BACKEND_ALLOW_RESERVED_NAMES: "t"},
            )
        except DirectError as error:
            if error.status == 404:
                raise NotFound(container.path) from error
            raise
        except ValueError as error:
            raise InvalidInput(f"{container.path}: its listing is no JSON") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InvalidInput(f"{container.path}: its listing is no list of rows")
        if headers.get(h.X_BACKEND_RECORD_TYPE) != _SHARD:
            is_listed = any(row.get("name") == name.obj for row in rows)
            return Sight.LISTED if is_listed else Sight.DARK
        if not depth:
            return Sight.UNKNOWN
        for row in rows:
            account, _, shard = str(row.get("name", "")).partition("/")
            if (
                account
                and shard
                and (account, shard)
                != (
                    container.account,
                    container.container,
                )
            ):
                target = ContainerName(account, shard)
                return self._sight_in(target, name, _AUTO, depth - 1)
        # No shard has that part of the names, or it is this very container that has.
        return self._ask(node, partition, container, name, _OBJECT, depth - 1)
