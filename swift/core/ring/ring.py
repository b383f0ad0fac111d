# SPDX-License-Identifier: Apache-2.0
"""Which devices hold a partition, and which stand in when those are away.

A ring is a table of `replica_count` rows: row r says, partition by partition, on which
device replica r lives. Everything else is derived: the primaries of a partition are its
column; its handoffs are all other devices in an order that every node of a cluster must
compute alike (contract in doc/source/formats/ring.md, section on handoffs; the golden
rings of test/interop hold us to it). A ring never changes; a changed file makes a new
one.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from copy import copy
from hashlib import md5
from typing import TypeAlias

from swift.core.errors import FormatError
from swift.core.ring.devices import Device, Node

PART_POWER_MAX = 32
# Entries of the memo of primaries; enough for the partitions of a busy server, and
# never more than some ten megabytes.
_REMEMBERED_PARTITIONS = 32768
# A handoff search looks at no more than about this many partitions a pass.
_HANDOFF_STEPS = 65536

Row: TypeAlias = "array[int]"


def unassigned_marker(dev_id_bytes: int) -> int:
    """The table entry that stands for no device, by width (2 or 4 bytes)."""
    return 0xFFFF if dev_id_bytes == 2 else 0xFFFFFFFF


def dev_id_bytes_for(highest_id: int) -> int:
    """The narrowest width of table entries that can hold this id beside the marker."""
    return 2 if highest_id < 0xFFFF else 4


def row_type(dev_id_bytes: int) -> str:
    """The array type code of rows with entries of this width."""
    return "H" if dev_id_bytes == 2 else "I"


def rows_replica_count(rows: Sequence[Row]) -> float:
    """Replicas that a table holds; 2.5 when the third row is half as long."""
    if not rows or not rows[0]:
        return 0.0
    return len(rows) - 1 + len(rows[-1]) / len(rows[0])


class Ring:
    """An immutable ring: partition → primaries → handoffs.

    devices: index = device id, None = hole; rows: one array of device ids per replica,
    the last may be shorter; version: the builder's, None when unknown; next_part_power:
    set while the partition power is being changed; size_bytes: decompressed size of the
    file it was read from, 0 when made in memory. Raises FormatError when the rows do
    not fit the part power or name a device that is not there.
    """

    def __init__(
        self,
        *,
        part_power: int,
        devices: Sequence[Device | None],
        rows: Sequence[Row],
        version: int | None = None,
        next_part_power: int | None = None,
        size_bytes: int = 0,
    ) -> None:
        if not 0 <= part_power <= PART_POWER_MAX:
            raise FormatError("ring", f"part power {part_power}")
        self.part_power = part_power
        self.part_shift = 32 - part_power
        self.partition_count = 1 << part_power
        self.devices: tuple[Device | None, ...] = tuple(devices)
        self.rows: tuple[Row, ...] = tuple(rows)
        self.version = version
        self.next_part_power = next_part_power
        self.size_bytes = size_bytes
        self.replica_count = rows_replica_count(self.rows)
        self._assigned = self._checked_assignments()
        self.dev_id_bytes = dev_id_bytes_for(len(self.devices) - 1)
        self._full_rows = tuple(r for r in self.rows if len(r) == self.partition_count)
        self._primaries: dict[int, tuple[Node, ...]] = {}
        self._primary_nodes: dict[tuple[int, int], Node] = {}
        self._handoff_nodes: dict[tuple[int, int], Node] = {}
        self._domains = _Domains(self.devices, self._assigned)

    def _checked_assignments(self) -> frozenset[int]:
        last = len(self.rows) - 1
        for number, row in enumerate(self.rows):
            short = number == last and 0 < len(row) < self.partition_count
            if len(row) != self.partition_count and not short:
                raise FormatError("ring", f"row {number} has {len(row)} partitions")
        assigned: set[int] = set()
        for row in self.rows:
            assigned.update(row)
        for device_id in assigned:
            if device_id >= len(self.devices) or self.devices[device_id] is None:
                raise FormatError("ring", f"partitions on unknown device {device_id}")
        return frozenset(assigned)

    def for_replication(self) -> Ring:
        """This ring, with devices that have their addresses for replication as ip and
        port; the order of handoffs is the same."""
        ring = copy(self)
        ring.devices = tuple(
            None if device is None else device.for_replication()
            for device in self.devices
        )
        ring._primaries = {}
        ring._primary_nodes = {}
        ring._handoff_nodes = {}
        return ring

    @property
    def device_count(self) -> int:
        """Devices in the list, holes not counted."""
        return sum(1 for device in self.devices if device is not None)

    @property
    def weighted_device_count(self) -> int:
        """Devices of a weight above 0."""
        return sum(1 for d in self.devices if d is not None and d.weight > 0)

    @property
    def assigned_device_count(self) -> int:
        """Devices that hold a partition, whatever their weight."""
        return len(self._assigned)

    def partition(self, digest: bytes) -> int:
        """The partition of a 16-byte path hash."""
        return int.from_bytes(digest[:4], "big") >> self.part_shift

    def primaries(self, partition: int) -> tuple[Node, ...]:
        """The nodes that hold the partition, in replica order, `index` counting from 0.

        A fractional ring has one node fewer for some partitions. Raises IndexError for
        a partition outside the ring.
        """
        nodes = self._primaries.get(partition)
        if nodes is None:
            nodes = self._find_primaries(partition)
            if len(self._primaries) >= _REMEMBERED_PARTITIONS:
                self._primaries.clear()
            self._primaries[partition] = nodes
        return nodes

    def _find_primaries(self, partition: int) -> tuple[Node, ...]:
        if not 0 <= partition < self.partition_count:
            raise IndexError(f"partition {partition} of {self.partition_count}")
        memo = self._primary_nodes
        nodes: list[Node] = []
        seen: list[int] = []
        for row in self.rows:
            if partition >= len(row):
                continue
            device_id = row[partition]
            if device_id in seen:
                continue
            index = len(nodes)
            node = memo.get((device_id, index))
            if node is None:
                node = Node(self._device(device_id), index=index)
                memo[device_id, index] = node
            nodes.append(node)
            seen.append(device_id)
        return tuple(nodes)

    def handoffs(self, partition: int) -> Iterator[Node]:
        """All other devices with assignments, best stand-in first; a lazy iterator.

        First those in regions that hold no primary, then new zones, then new servers,
        then the rest. Raises IndexError as `primaries` does.
        """
        used = {node.device.id for node in self.primaries(partition)}
        order = self._handoff_order(partition, used)
        memo = self._handoff_nodes
        for handoff_index, device_id in enumerate(order):
            node = memo.get((device_id, handoff_index))
            if node is None:
                node = Node(self._device(device_id), handoff_index=handoff_index)
                if len(memo) >= _REMEMBERED_PARTITIONS:
                    memo.clear()
                memo[device_id, handoff_index] = node
            yield node

    def _handoff_order(self, partition: int, used: set[int]) -> Iterator[int]:
        """Device ids of the handoffs; adds what it yields to `used`.

        Three passes widen the set of regions, zones and addresses in use, a fourth
        takes what is left. Each pass stops as soon as there is nothing new to find, and
        one that has nothing to find from the start costs nothing.
        """
        domains = self._domains
        levels = [(level, {level[d] for d in used}) for level in domains.levels]
        for number, (level, seen) in enumerate(levels):
            wanted = domains.counts[number]
            if len(seen) == wanted:
                continue
            narrower = levels[number + 1 :]
            for device_id in self._walk(partition):
                domain = level[device_id]
                if domain in seen or device_id in used:
                    continue
                seen.add(domain)
                for deeper, deeper_seen in narrower:
                    deeper_seen.add(deeper[device_id])
                used.add(device_id)
                yield device_id
                if len(seen) == wanted:
                    break
        if len(used) == len(self._assigned):
            return
        for device_id in self._walk(partition):
            if device_id not in used:
                used.add(device_id)
                yield device_id
                if len(used) == len(self._assigned):
                    return

    def _walk(self, partition: int) -> Iterator[int]:
        """Device ids in the order in which a handoff search meets them.

        The walk starts at a partition that is a hash of this one, so that the load of a
        lost device spreads over many others.
        """
        parts = self.partition_count
        digest = md5(b"%d" % partition, usedforsecurity=False).digest()
        start = int.from_bytes(digest[:4], "big") >> self.part_shift
        step = max(1, parts // _HANDOFF_STEPS)
        first = step - ((parts - start) % step)
        rows = self.rows
        if len(self._full_rows) == len(rows):
            for positions in (range(start, parts, step), range(first, start, step)):
                for position in positions:
                    for row in rows:
                        yield row[position]
            return
        for positions in (range(start, parts, step), range(first, start, step)):
            for position in positions:
                for row in rows:
                    if position < len(row):
                        yield row[position]

    def _device(self, device_id: int) -> Device:
        device = self.devices[device_id]
        assert device is not None, "assignments are checked when a ring is made"
        return device

    def part_nodes(self, partition: int, handoff_count: int) -> list[Node]:
        """The primaries and the first few handoffs."""
        nodes = list(self.primaries(partition))
        if handoff_count > 0:
            for node in self.handoffs(partition):
                nodes.append(node)
                handoff_count -= 1
                if handoff_count == 0:
                    break
        return nodes


def row_lengths(part_power: int, replicas: float) -> list[int]:
    """How long each row of a table is: full ones, then one for the fraction."""
    parts = 1 << part_power
    full = math.floor(replicas)
    rest = int(parts * (replicas - full))
    return [parts] * full + ([rest] if rest else [])


class _Domains:
    """Failure domains of the devices with assignments, as small numbers.

    levels: for region, (region, zone) and (region, zone, ip), a dict from device id to
    the number of its domain; counts: how many domains each level has.
    """

    __slots__ = ("counts", "levels")

    def __init__(
        self, devices: Sequence[Device | None], assigned: frozenset[int]
    ) -> None:
        self.levels: list[dict[int, int]] = []
        self.counts: list[int] = []
        for depth in range(3):
            numbers: dict[tuple[object, ...], int] = {}
            level: dict[int, int] = {}
            for device_id in assigned:
                device = devices[device_id]
                assert device is not None, "assignments are checked before"
                tier = device.tiers[depth]
                level[device_id] = numbers.setdefault(tier, len(numbers))
            self.levels.append(level)
            self.counts.append(len(numbers))
