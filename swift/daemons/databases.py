# SPDX-License-Identifier: Apache-2.0
"""What the daemons of databases share: which devices are ours, which databases on them.

Rules: contract daemons §1 (local devices, drives that fail the mount check).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from swift.core.errors import DeviceUnavailable
from swift.core.ring.devices import Device
from swift.core.ring.ring import Ring
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.daemon import DaemonConfig, Scope
from swift.runtime.logs import Logger
from swift.runtime.process import is_local, own_addresses
from swift.storage.db.account import AccountBroker
from swift.storage.db.connection import Databases
from swift.storage.db.container import ContainerBroker
from swift.storage.db.walk import DatabaseWalk, FoundDatabase, PartitionContents
from swift.storage.devices import Devices

AnyBroker = AccountBroker | ContainerBroker

IDLE_MAX = 64
"""Connections to databases that a daemon keeps open."""


def ring_of(cluster: Cluster, kind: str) -> Ring:
    """The ring of `account` or `container` databases. Raises RingUnavailable."""
    return cluster.account_ring() if kind == "account" else cluster.container_ring()


def local_devices(
    ring: Ring, config: DaemonConfig, *, by_replication: bool
) -> list[Device]:
    """The ring's devices on this node, in ring order, each name once.

    by_replication: compare the replication address and port, else those for clients.
    """
    own = own_addresses(config.bind_ip)
    found: dict[str, Device] = {}
    for device in ring.devices:
        if device is None:
            continue
        ip, port = device.ip, device.port
        if by_replication:
            ip, port = device.replication_ip, device.replication_port
        if is_local(own, config.bind_port, ip, port):
            found.setdefault(device.name, device)
    return list(found.values())


def open_database(databases: Databases, kind: str, path: str) -> AnyBroker:
    """A broker for `<hash>.db` of that kind."""
    if kind == "account":
        return AccountBroker(databases, path)
    return ContainerBroker(databases, path)


class LocalDatabases:
    """The databases of one kind on this node, as a pass walks over them."""

    def __init__(self, kind: str, config: DaemonConfig, log: Logger) -> None:
        self.kind = kind
        self.config = config
        self.log = log
        self.devices = Devices(config.devices, config.mount_check)
        self.walk = DatabaseWalk(self.devices, f"{kind}s")
        self.databases = Databases(green.now, log.warning, idle_max=IDLE_MAX)

    def open(self, found: FoundDatabase) -> AnyBroker:
        """A broker for a database that was found."""
        return open_database(self.databases, self.kind, found.path)

    def usable(self, names: Iterable[str]) -> list[str]:
        """Those of the devices that can be used; the others are logged."""
        usable = []
        for name in names:
            try:
                self.devices.path(name)
            except DeviceUnavailable as error:
                self.log.warning("%s; skipped", error)
            else:
                usable.append(name)
        return usable

    def remove_old_copies(self, device: str, before: float) -> None:
        """Remove what interrupted copies left, changed before that time. Yields."""
        try:
            green.in_thread(self.walk.remove_old_copies, device, before)
        except (DeviceUnavailable, OSError) as error:
            self.log.error("device %s: old copies stay: %s", device, error)

    def on_device(
        self,
        device: str,
        scope: Scope,
        *,
        shuffle: bool = False,
        wanted: Callable[[int], bool] = lambda partition: True,
        clear: Callable[[PartitionContents], object] | None = None,
        clear_before: float = 0.0,
    ) -> Iterator[FoundDatabase]:
        """The databases of one device, a partition at a time. Yields.

        wanted: says which partitions to look at. clear: remove empty directories and
        what was never finished before clear_before, and take what was found. A device
        that fails ends its own walk only.
        """
        try:
            partitions = green.in_thread(self.walk.partitions, device)
            if shuffle:
                random.shuffle(partitions)
            for partition in partitions:
                if scope.partitions and partition not in scope.partitions:
                    continue
                if not wanted(partition):
                    continue
                contents = green.in_thread(
                    self.walk.databases,
                    device,
                    partition,
                    clear_before=None if clear is None else clear_before,
                )
                if clear is not None:
                    clear(contents)
                yield from contents.databases
        except DeviceUnavailable as error:
            self.log.warning("%s; skipped", error)
        except OSError as error:
            self.log.error("device %s cannot be read: %s; skipped", device, error)


def in_turn(iterators: Iterable[Iterator[Any]]) -> Iterator[Any]:
    """One item of each in turn, so that no device waits for another to be done."""
    waiting = list(iterators)
    while waiting:
        for iterator in list(waiting):
            try:
                yield next(iterator)
            except StopIteration:
                waiting.remove(iterator)
