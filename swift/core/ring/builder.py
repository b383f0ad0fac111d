# SPDX-License-Identifier: Apache-2.0
"""RingBuilder: the operator's side of a ring, and the builder file.

A builder knows the devices with their weights, the table of assignments and when each
partition last moved; `rebalance` brings the table in line with the devices, `ring`
gives what servers read. It is plain state: bytes come in and go out (`load`, `dump`),
the time and randomness are arguments, so a rebalance can be replayed from its seed.

Format and rules: doc/source/formats/ring.md. The pickle is read by core/pickles.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.core import pickles
from swift.core.errors import Conflict, FormatError, InvalidInput
from swift.core.ring import table
from swift.core.ring.devices import (
    BadDevice,
    Device,
    Tier,
    checked_name,
    checked_port,
)
from swift.core.ring.moves import MoveHistory
from swift.core.ring.placement import Rng, dispersion_report, rebalance
from swift.core.ring.plan import Plan, make_plan, quotas
from swift.core.ring.ring import (
    PART_POWER_MAX,
    Ring,
    Row,
    dev_id_bytes_for,
    row_lengths,
    unassigned_marker,
)

BALANCE_OF_WEIGHTLESS = 999.99
"""Balance of a device that should hold nothing and does."""
DEVICE_ID_MAX = 0xFFFFFFFE
_PICKLE_PROTOCOL = 2


class RingError(InvalidInput):
    """A builder that cannot do what was asked; its message is for the operator."""


class PartPowerConflict(Conflict):
    """A step that the present stage of a partition power change does not allow."""


@dataclass(frozen=True, slots=True)
class RebalanceResult:
    """What a rebalance did.

    moved: table entries that changed, all of them the first time; removed: devices
    gone.
    """

    moved: int
    balance: float
    removed: int


class RingBuilder:
    """A ring under construction.

    Every change of devices, replicas or assignments raises `version` by one. Raises
    RingError for numbers out of range.
    """

    def __init__(self, part_power: int, replicas: float, min_part_hours: int) -> None:
        if not 0 <= part_power <= PART_POWER_MAX:
            raise RingError(f"part_power {part_power} is not in 0..{PART_POWER_MAX}")
        self._check_replicas(replicas)
        if min_part_hours < 0:
            raise RingError(f"min_part_hours {min_part_hours} is negative")
        self.part_power = part_power
        self.next_part_power: int | None = None
        self.replicas = replicas
        self.min_part_hours = min_part_hours
        self.version = 0
        self.overload = 0.0
        self.devices: list[Device | None] = []
        self.devices_changed = False
        self.removed: set[int] = set()
        self.rows: list[Row] | None = None
        self.dispersion: float | None = None
        self.dispersion_graph: dict[Tier, list[int]] = {}
        self.id: str | None = None
        self._part_counts: dict[int, int] = {}
        self._moves = MoveHistory()
        self._gather_start = 0

    @staticmethod
    def _check_replicas(replicas: float) -> None:
        if not (math.isfinite(replicas) and replicas >= 1):
            raise RingError(f"replica count {replicas} is less than 1")

    @property
    def parts(self) -> int:
        """Partitions: 2 to the power of part_power."""
        return 1 << self.part_power

    @property
    def dev_id_bytes(self) -> int:
        """Width of table entries, 2 or 4."""
        return dev_id_bytes_for(len(self.devices) - 1)

    @property
    def present_devices(self) -> list[Device]:
        """All devices, those that wait for removal included, by id."""
        return [device for device in self.devices if device is not None]

    def device(self, device_id: int) -> Device:
        """The device of this id; raises RingError when there is none."""
        if 0 <= device_id < len(self.devices):
            device = self.devices[device_id]
            if device is not None:
                return device
        raise RingError(f"there is no device {device_id}")

    def part_count(self, device_id: int) -> int:
        """Table entries that name the device."""
        return self._part_counts.get(device_id, 0)

    @property
    def last_moves(self) -> Sequence[int]:
        """Hours since each partition moved, relative to the last rebalance's clock."""
        return self._moves.hours or array("B", bytes(self.parts))

    def total_weight(self) -> float:
        """The weights of all devices."""
        return math.fsum(device.weight for device in self.present_devices)

    def device_balance(self, device_id: int) -> float:
        """Percent by which the device holds more (or less) than by its weight."""
        device = self.device(device_id)
        held = self.part_count(device_id)
        if not device.weight:
            return BALANCE_OF_WEIGHTLESS if held else 0.0
        share = device.weight * self.parts * self.replicas / self.total_weight()
        return 100.0 * held / share - 100.0

    def balance(self) -> float:
        """The largest deviation of a device, in percent."""
        return max(
            (abs(self.device_balance(device.id)) for device in self.present_devices),
            default=0.0,
        )

    def plan(self) -> Plan:
        """How many replicas each tier should hold, with the present overload."""
        return make_plan(self._staying(), self.replicas, self.overload)

    def required_overload(self) -> float:
        """The overload at which nothing hinders full dispersion."""
        return self.plan().required_overload

    def _staying(self) -> list[Device]:
        return [d for d in self.present_devices if d.id not in self.removed]

    def partitions_of(self, device_ids: set[int]) -> dict[int, int]:
        """Partitions of these devices → replicas there; raises if never rebalanced."""
        found: Counter[int] = Counter()
        for row in self._table():
            found.update(
                part for part, device_id in enumerate(row) if device_id in device_ids
            )
        return dict(found)

    def _table(self) -> list[Row]:
        if self.rows is None:
            raise RingError("the ring has never been rebalanced")
        return self.rows

    def add_device(
        self,
        *,
        zone: int,
        ip: str,
        port: int,
        name: str,
        weight: float,
        region: int = 1,
        replication_ip: str | None = None,
        replication_port: int | None = None,
        meta: str = "",
        device_id: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a device and return its id: device_id, or the first that is free.

        Raises BadDevice for a weight, port or name that cannot be, RingError when the
        id or the place (ip, port, name) is taken or the partition power is being
        changed.
        """
        self._refuse_during_increase("add a device")
        if not (math.isfinite(weight) and weight >= 0):
            raise BadDevice(f"weight {weight} is not a number of at least 0")
        place = (ip, checked_port(port), checked_name(name))
        for other in self.present_devices:
            if (other.ip, other.port, other.name) == place:
                raise RingError(f"{other} is already at this address and name")
        if device_id is None:
            device_id = next(
                (at for at, device in enumerate(self.devices) if device is None),
                len(self.devices),
            )
        elif not 0 <= device_id <= DEVICE_ID_MAX:
            raise BadDevice(f"device id {device_id} is not in 0..{DEVICE_ID_MAX}")
        elif device_id < len(self.devices) and self.devices[device_id] is not None:
            raise RingError(f"device id {device_id} is taken")
        while len(self.devices) <= device_id:
            self.devices.append(None)
        self.devices[device_id] = Device(
            id=device_id,
            region=region,
            zone=zone,
            ip=ip,
            port=port,
            replication_ip=ip if replication_ip is None else replication_ip,
            replication_port=port if replication_port is None else replication_port,
            name=name,
            weight=weight,
            meta=meta,
            extra=dict(extra or {}),
        )
        self._changed()
        return device_id

    def remove_device(self, device_id: int) -> None:
        """Mark for removal: weight 0 now, gone with the next rebalance."""
        self._refuse_during_increase("remove a device")
        device = self.device(device_id)
        self.removed.add(device_id)
        self.devices[device_id] = dataclasses.replace(device, weight=0.0)
        self._changed()

    def set_weight(self, device_id: int, weight: float) -> None:
        """Change a weight. Raises RingError for a device that waits for removal."""
        if not (math.isfinite(weight) and weight >= 0):
            raise BadDevice(f"weight {weight} is not a number of at least 0")
        device = self.device(device_id)
        if device_id in self.removed:
            raise RingError(f"{device} is marked for removal")
        self.devices[device_id] = dataclasses.replace(device, weight=weight)
        self._changed()

    def set_region(self, device_id: int, region: int) -> None:
        """Move a device to another region."""
        self.devices[device_id] = dataclasses.replace(
            self.device(device_id), region=region
        )
        self._changed()

    def set_zone(self, device_id: int, zone: int) -> None:
        """Move a device to another zone of its region."""
        self.devices[device_id] = dataclasses.replace(self.device(device_id), zone=zone)
        self._changed()

    def set_info(self, device_id: int, changes: Mapping[str, Any]) -> Device:
        """Change address, name or meta; the changed device comes back.

        changes: fields of Device among ip, port, replication_ip, replication_port,
        name, meta. Assignments stay. Raises RingError when another device is there
        already.
        """
        device = dataclasses.replace(self.device(device_id), **changes)
        checked_name(device.name)
        checked_port(device.port)
        checked_port(device.replication_port)
        for other in self.present_devices:
            if other.id != device_id and _place(other) == _place(device):
                raise RingError(f"{other} is already at this address and name")
        self.devices[device_id] = device
        return device

    def _changed(self) -> None:
        self.devices_changed = True
        self.version += 1

    def _refuse_during_increase(self, what: str) -> None:
        if self.next_part_power is not None:
            raise PartPowerConflict(f"cannot {what} while the partition power changes")

    def set_replicas(self, replicas: float) -> None:
        """Change the replica count; takes effect with the next rebalance."""
        self._check_replicas(replicas)
        old_lengths = row_lengths(self.part_power, self.replicas)
        if row_lengths(self.part_power, replicas) != old_lengths:
            self.devices_changed = True
        self.replicas = replicas

    def set_min_part_hours(self, hours: int) -> None:
        """Change the least time between two moves of a partition."""
        if hours < 0:
            raise RingError(f"min_part_hours {hours} is negative")
        self.min_part_hours = hours

    def set_overload(self, overload: float) -> None:
        """Change how much more than by weight a device may take: 0.1 is 10 %."""
        if not (math.isfinite(overload) and overload >= 0):
            raise RingError(f"overload {overload} is not a number of at least 0")
        self.overload = overload

    def pretend_min_part_hours_passed(self) -> None:
        """Let every partition move again."""
        self._moves.forget(self.parts)

    def min_part_seconds_left(self, now: float) -> int:
        """Seconds until the next hour mark at which partitions may move; 0 when now."""
        return self._moves.seconds_left(self.min_part_hours, now)

    def rebalance(self, *, now: float, rng: Rng) -> RebalanceResult:
        """Assign every replica, moving as little as the rules allow.

        rng: random.Random of any seed. Raises RingError when there are no devices, or
        fewer with weight than replicas; the builder is unchanged then.
        """
        self._refuse_during_increase("rebalance")
        staying = [device for device in self._staying() if device.weight > 0]
        if not staying:
            raise RingError("there are no devices with weight in this ring")
        if len(staying) < self.replicas:
            raise RingError(
                f"replica count {self.replicas:g} needs more devices with weight "
                f"than the {len(staying)} in this ring"
            )
        plan = self.plan()
        first = self.rows is None
        last_moves = self._moves.count(int(now), self.parts, first=first)
        before = self.rows or []
        lengths = row_lengths(self.part_power, self.replicas)
        rows = table.resized(before, lengths, self.dev_id_bytes)
        movable = bytes(hours >= self.min_part_hours for hours in last_moves)
        self._gather_start = rng.randrange(self.parts)
        moved = rebalance(
            rows,
            self.devices,
            self.removed,
            plan,
            marker=unassigned_marker(self.dev_id_bytes),
            movable=movable,
            gather_start=self._gather_start,
            rng=rng,
        )
        for partition in moved:
            last_moves[partition] = 0
        self.rows = rows
        removed = self._drop_removed()
        self._recount()
        self.devices_changed = False
        self.version += 1
        self.update_dispersion()
        return RebalanceResult(
            moved=table.entries_changed(before, rows),
            balance=self.balance(),
            removed=removed,
        )

    def update_dispersion(self) -> float:
        """Compute the dispersion anew, in percent."""
        rows = self._table()
        marker = unassigned_marker(self.dev_id_bytes)
        report = dispersion_report(rows, self.present_devices, self.plan(), marker)
        self.dispersion_graph = report.graph
        self.dispersion = report.percent
        return report.percent

    def _drop_removed(self) -> int:
        count = len(self.removed)
        for device_id in self.removed:
            self.devices[device_id] = None
        self.removed = set()
        while self.devices and self.devices[-1] is None:
            self.devices.pop()
        return count

    def _recount(self) -> None:
        counts: Counter[int] = Counter()
        for row in self.rows or []:
            counts.update(row)
        self._part_counts = dict(counts)

    def validate(self) -> None:
        """Raise RingError when the builder breaks a rule of every ring."""
        rows = self._table()
        lengths = row_lengths(self.part_power, self.replicas)
        if [len(row) for row in rows] != lengths:
            raise RingError(f"rows of {[len(row) for row in rows]}, not of {lengths}")
        for device in self.present_devices:
            if not isinstance(device.port, int):
                raise RingError(f"{device}: port is no number")
        present = {device.id for device in self.present_devices}
        counts: Counter[int] = Counter()
        for row in rows:
            counts.update(row)
        for device_id in counts:
            if device_id not in present:
                raise RingError(f"partitions on device {device_id}, which is not there")
        for device_id in present:
            if counts.get(device_id, 0) != self.part_count(device_id):
                raise RingError(
                    f"device {device_id} holds {counts.get(device_id, 0)} partitions, "
                    f"but {self.part_count(device_id)} are noted"
                )
        for partition in range(self.parts):
            column = [row[partition] for row in rows if partition < len(row)]
            if len(set(column)) != len(column):
                raise RingError(f"partition {partition} is twice on one device")

    def prepare_increase_partition_power(self) -> None:
        """Announce part_power + 1, so that servers link new objects there too."""
        if self.next_part_power is not None:
            raise PartPowerConflict("a partition power change is under way")
        if self.part_power >= PART_POWER_MAX:
            raise PartPowerConflict(f"the partition power is {PART_POWER_MAX} already")
        self.next_part_power = self.part_power + 1
        self.version += 1

    def increase_partition_power(self, *, now: float) -> None:
        """Double every partition in place: p becomes 2p and 2p + 1."""
        if self.next_part_power != self.part_power + 1:
            raise PartPowerConflict("the partition power change is not prepared")
        self.rows = table.doubled(self._table())
        self._part_counts = {d: 2 * count for d, count in self._part_counts.items()}
        self.part_power = self.next_part_power
        self._moves.double(int(now), self.parts)
        self.version += 1

    def cancel_increase_partition_power(self) -> None:
        """Step back before the increase: then clean up and finish."""
        if self.next_part_power != self.part_power + 1:
            raise PartPowerConflict("there is no prepared partition power change")
        self.next_part_power = self.part_power
        self.version += 1

    def finish_increase_partition_power(self) -> None:
        """Back to normal operation."""
        if self.next_part_power != self.part_power:
            raise PartPowerConflict("there is no increased partition power to finish")
        self.next_part_power = None
        self.version += 1

    def ring(self) -> Ring:
        """What servers read; without partitions before the first rebalance."""
        return Ring(
            part_power=self.part_power,
            devices=self.devices,
            rows=[array(row.typecode, row) for row in self.rows or []],
            version=self.version,
            next_part_power=self.next_part_power,
        )

    @classmethod
    def from_ring(cls, ring: Ring, min_part_hours: int) -> RingBuilder:
        """A builder for a ring whose builder file is lost.

        Overload, move history, id and dispersion are lost with it. Raises RingError for
        a ring without a version (a composite).
        """
        if ring.version is None:
            raise RingError("the ring has no version; a composite has no builder")
        replicas = ring.replica_count
        if replicas == int(replicas):
            replicas = int(replicas)
        builder = cls(ring.part_power, replicas, min_part_hours)
        builder.next_part_power = ring.next_part_power
        builder.version = ring.version
        builder.devices = list(ring.devices)
        builder.rows = table.loaded(ring.rows, builder.parts, builder.dev_id_bytes)
        builder._recount()
        return builder

    @classmethod
    def load(cls, data: bytes) -> RingBuilder:
        """The builder in a builder file's bytes. Raises FormatError for other bytes."""
        state = pickles.loads_builder(data)
        if not isinstance(state, dict) or "part_power" not in state:
            raise FormatError("builder", "pickle holds no builder")
        try:
            return cls._from_state(state)
        # A field that is missing, of another type or out of range.
        except (
            ArithmeticError,
            AttributeError,
            InvalidInput,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            raise FormatError("builder", f"{type(error).__name__}: {error}") from error

    @classmethod
    def _from_state(cls, state: Mapping[str, Any]) -> RingBuilder:
        builder = cls(state["part_power"], state["replicas"], state["min_part_hours"])
        builder.next_part_power = state.get("next_part_power")
        builder.version = int(state["version"])
        builder.overload = float(state.get("overload") or 0.0)
        builder.devices_changed = bool(state["devs_changed"])
        builder.id = state.get("id")
        for at, entry in enumerate(state["devs"]):
            if entry is None:
                builder.devices.append(None)
                continue
            kept = {k: v for k, v in entry.items() if k not in _BUILDER_KEYS}
            device = Device.from_dict(kept)
            if device.id != at:
                raise FormatError("builder", f"device {device.id} stands at {at}")
            builder.devices.append(device)
        builder.removed = {
            int(entry["id"]) for entry in state.get("_remove_devs") or []
        }
        rows = state.get("_replica2part2dev")
        if rows is not None:
            builder.rows = table.loaded(rows, builder.parts, builder.dev_id_bytes)
        builder._recount()
        builder._moves = MoveHistory(
            state.get("_last_part_moves"),
            epoch=int(state.get("_last_part_moves_epoch") or 0),
        )
        builder._gather_start = int(state.get("_last_part_gather_start") or 0)
        builder.dispersion = state.get("dispersion")
        builder.dispersion_graph = {
            tuple(tier): list(counts)
            for tier, counts in (state.get("_dispersion_graph") or {}).items()
        }
        return builder

    def dump(self) -> bytes:
        """The builder file: a pickle of protocol 2, read by every version."""
        entries = self.entries()
        state = {
            "part_power": self.part_power,
            "next_part_power": self.next_part_power,
            "replicas": self.replicas,
            "min_part_hours": self.min_part_hours,
            "parts": self.parts,
            "devs": entries,
            "devs_changed": self.devices_changed,
            "dev_id_bytes": self.dev_id_bytes,
            "version": self.version,
            "overload": self.overload,
            "_replica2part2dev": self.rows,
            "_last_part_moves_epoch": self._moves.epoch,
            "_last_part_moves": self._moves.stored(),
            "_last_part_gather_start": self._gather_start,
            "_dispersion_graph": self.dispersion_graph,
            "dispersion": self.dispersion,
            "_remove_devs": [entries[device_id] for device_id in sorted(self.removed)],
            "id": self.id,
        }
        return pickle.dumps(state, _PICKLE_PROTOCOL)

    def entries(self) -> list[dict[str, Any] | None]:
        """The devices as the builder file holds them, with their partition counters."""
        entries: list[dict[str, Any] | None] = []
        for device, wanted in zip(self.devices, self._parts_wanted(), strict=True):
            if device is None:
                entries.append(None)
                continue
            entry = device.as_dict()
            entry["parts"] = self.part_count(device.id)
            entry["parts_wanted"] = wanted
            entries.append(entry)
        return entries

    def _parts_wanted(self) -> Iterator[int]:
        """By id: entries still to get (negative: to lose); all, without weight."""
        weighted = sum(1 for device in self._staying() if device.weight > 0)
        goal: dict[Tier, int] = {}
        if weighted >= self.replicas:
            held: Counter[Tier] = Counter()
            for device in self.present_devices:
                for tier in device.tiers:
                    held[tier] += self.part_count(device.id)
            total = sum(row_lengths(self.part_power, self.replicas))
            goal = quotas(self.plan(), total, held)
        for each in self.devices:
            if each is None:
                yield 0
            elif not each.weight:
                yield -int(self.parts * self.replicas)
            else:
                yield goal.get(each.tiers[3], 0) - self.part_count(each.id)


_BUILDER_KEYS = frozenset(("parts", "parts_wanted"))


def _place(device: Device) -> tuple[str, int, str]:
    return device.ip, device.port, device.name
