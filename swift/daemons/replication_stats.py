# SPDX-License-Identifier: Apache-2.0
"""What replication counts: for operators' logs, and for recon.

Recon's keys are those that operators already read (contract daemons §1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from swift.core.ring.devices import Node

PER_DISK = "object_replication_per_disk"
"""Where each worker leaves the facts of its devices."""


@dataclass
class Stats:
    """What a pass did with one device. failure_nodes: address → device → failures."""

    attempted: int = 0
    failure: int = 0
    hashmatch: int = 0
    remove: int = 0
    rsync: int = 0
    success: int = 0
    suffix_count: int = 0
    suffix_hash: int = 0
    suffix_sync: int = 0
    failure_nodes: dict[str, dict[str, int]] = field(default_factory=dict)

    def fail(self, node: Node) -> None:
        """Count a failure with a node."""
        self.failure += 1
        of_address = self.failure_nodes.setdefault(node.replication_ip, {})
        of_address[node.name] = of_address.get(node.name, 0) + 1

    def add(self, other: Stats) -> None:
        """Count what `other` has counted."""
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for address, devices in other.failure_nodes.items():
            mine = self.failure_nodes.setdefault(address, {})
            for device, number in devices.items():
                mine[device] = mine.get(device, 0) + number

    def as_recon(self) -> dict[str, Any]:
        """The entry `replication_stats`; recon drops `failure_nodes` when empty."""
        return {
            **{name: getattr(self, name) for name in _COUNTERS},
            "failure_nodes": self.failure_nodes,
        }

    @classmethod
    def from_recon(cls, entry: Mapping[str, Any]) -> Stats:
        """The counters that a worker left; what is no number counts as 0."""
        stats = cls()
        for name in _COUNTERS:
            value = entry.get(name)
            setattr(stats, name, value if isinstance(value, int) else 0)
        nodes = entry.get("failure_nodes")
        for address, devices in nodes.items() if isinstance(nodes, dict) else ():
            if isinstance(devices, dict):
                stats.failure_nodes[address] = {
                    device: number
                    for device, number in devices.items()
                    if isinstance(number, int)
                }
        return stats


_COUNTERS = tuple(f.name for f in fields(Stats) if f.name != "failure_nodes")


def recon_entry(stats: Stats, minutes: float, last: float) -> dict[str, Any]:
    """The keys of object.recon about a pass that took so many minutes."""
    return {
        "replication_stats": stats.as_recon(),
        "replication_time": minutes,
        "replication_last": last,
        "object_replication_time": minutes,
        "object_replication_last": last,
    }


def aggregated(found: Any, names: Sequence[str]) -> dict[str, Any]:
    """What recon is told once each device has reported; less before.

    found: the entry of all devices, as it is on disk. names: our devices; the entries
    of others are deleted.
    """
    reported = found if isinstance(found, dict) else {}
    gone: dict[str, Any] = {name: {} for name in reported if name not in names}
    updates: dict[str, Any] = {PER_DISK: gone} if gone else {}
    entries = [reported[name] for name in names if isinstance(reported.get(name), dict)]
    if entries and len(entries) == len(names):
        totals = Stats()
        for entry in entries:
            stats = entry.get("replication_stats")
            totals.add(Stats.from_recon(stats if isinstance(stats, dict) else {}))
        # The oldest and the shortest: operators look for the disk that lags.
        minutes = min(_number(e.get("object_replication_time")) for e in entries)
        last = min(_number(e.get("object_replication_last")) for e in entries)
        updates |= recon_entry(totals, minutes, last)
    return updates


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def spelled(time_s: float) -> str:
    """A time as a whole number of its largest unit."""
    for unit_s, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if time_s >= unit_s:
            return f"{time_s / unit_s:.0f}{letter}"
    return f"{time_s:.0f}s"
