# SPDX-License-Identifier: Apache-2.0
"""From rings and devices to jobs: which partitions this node holds, and for whom.

A device that is one of a partition's primaries updates the others; any other device is
a handoff and gives back what it holds to all primaries.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from swift.core.errors import DeviceUnavailable
from swift.core.policy import StoragePolicy
from swift.core.ring.devices import Device, Node
from swift.core.ring.ring import Ring
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.logs import Logger
from swift.runtime.process import is_local
from swift.storage.object.partitions import Partitions

AUDITOR_STATUS = "auditor_status_"


@dataclass(frozen=True, slots=True)
class Job:
    """One partition on one of our devices.

    targets: whom it is compared with or given to: the other primaries for a primary,
    all of them for a handoff. own_index: our place among the primaries, None for a
    handoff.
    """

    policy: StoragePolicy
    ring: Ring
    device: Device
    partition: int
    targets: tuple[Node, ...]
    own_index: int | None

    @property
    def is_primary(self) -> bool:
        """True when the device is one of the partition's primaries."""
        return self.own_index is not None

    def __str__(self) -> str:
        return f"{self.device.name}/{self.policy.objects_dir}/{self.partition}"


def job_of(policy: StoragePolicy, ring: Ring, device: Device, partition: int) -> Job:
    """The job of a partition that the ring has."""
    primaries = ring.primaries(partition)
    own = next((node for node in primaries if node.id == device.id), None)
    targets = tuple(node for node in primaries if node is not own)
    return Job(policy, ring, device, partition, targets, own.index if own else None)


def local_devices(
    ring: Ring, own_addresses: Iterable[str], own_port: int | None
) -> list[Device]:
    """The devices of a ring that are this node's by their replication address.

    own_port: None when each device has a port of its own. Resolves host names.
    """
    addresses = set(own_addresses)
    return [
        device
        for device in ring.devices
        if device is not None
        and is_local(
            addresses, own_port, device.replication_ip, device.replication_port
        )
    ]


@dataclass(slots=True)
class Found:
    """The partitions of a device. junk: entries that are no numbers."""

    partitions: list[int]
    junk: list[str]


def partitions_of(partitions: Partitions, device: str) -> Found:
    """What lies in the objects directory of a device. Yields.

    Raises DeviceUnavailable.
    """
    found = Found([], [])
    for name in partitions.names(device):
        if name.isascii() and name.isdigit():
            found.partitions.append(int(name))
        elif not name.startswith(AUDITOR_STATUS):
            found.junk.append(name)
    return found


class Jobs:
    """The jobs of a pass, each made when its turn comes.

    A node may have a million partitions; until their turn they cost eight bytes each.
    """

    def __init__(self) -> None:
        self._trees: list[tuple[StoragePolicy, Ring, Device]] = []
        self._places = array("Q")  # number of the tree << 32 | partition

    def add(
        self,
        policy: StoragePolicy,
        ring: Ring,
        device: Device,
        numbers: Iterable[int],
        wanted: Collection[int] = (),
    ) -> None:
        """Add partitions of a device, but those that the ring does not have.

        wanted: only these, all when empty.
        """
        tree = len(self._trees) << 32
        self._trees.append((policy, ring, device))
        self._places.extend(
            tree | number
            for number in numbers
            if number < ring.partition_count and (not wanted or number in wanted)
        )

    def shuffle(self, rng: Random) -> None:
        """Bring them into a random order."""
        rng.shuffle(self._places)

    def sort(self, key: Callable[[Job], Any]) -> None:
        """Bring them into the order of a key; equals stay as they are."""
        places = sorted(self._places, key=lambda place: key(self._job(place)))
        self._places = array("Q", places)

    def keep(self, is_wanted: Callable[[Job], bool]) -> None:
        """Leave out the others."""
        wanted = [place for place in self._places if is_wanted(self._job(place))]
        self._places = array("Q", wanted)

    def _job(self, place: int) -> Job:
        policy, ring, device = self._trees[place >> 32]
        return job_of(policy, ring, device, place & 0xFFFFFFFF)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Job]:
        return map(self._job, self._places)


def available(partitions: Partitions, device: Device, log: Logger) -> bool:
    """True when a device can be worked on; old temporary files are gone then. Yields.

    False, with a warning, when it is away.
    """
    try:
        partitions.forget_temporaries(device.name)
    except DeviceUnavailable as error:
        log.warning("skipped, %s", error)
        return False
    return True


class RingWatch:
    """Notices, by a look once in a while, that the rings of a pass have changed."""

    def __init__(self, cluster: Cluster, interval_s: float) -> None:
        self._cluster = cluster
        self._interval_s = interval_s
        self._next = green.monotonic() + interval_s
        self._rings: dict[int, tuple[StoragePolicy, Ring]] = {}
        self._stale: set[int] = set()

    def add(self, policy: StoragePolicy, ring: Ring) -> None:
        """Watch the ring that a policy's jobs are made by."""
        self._rings[policy.index] = (policy, ring)

    def stale(self) -> set[int]:
        """The policies whose jobs are out of date, as far as is known."""
        moment = green.monotonic()
        if moment >= self._next:
            self._next = moment + self._interval_s
            for policy, ring in self._rings.values():
                if self._has_changed(policy, ring):
                    self._stale.add(policy.index)
        return self._stale

    def _has_changed(self, policy: StoragePolicy, ring: Ring) -> bool:
        file = self._cluster.rings.get(policy.ring_name)
        if file is not None and file.has_changed:
            return True
        return self._cluster.object_ring(policy.index) is not ring
