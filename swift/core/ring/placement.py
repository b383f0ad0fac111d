# SPDX-License-Identifier: Apache-2.0
"""One rebalance: which replicas must move, and where they go.

First replicas are *gathered*: from removed devices, from domains that hold more of a
partition than the plan allows, from devices that hold more than their share. Then each
is *placed*: from the widest tier down, into the child that is furthest behind its share
among those that may hold one more replica of this partition.

A table of 2^17 partitions on a thousand devices has 400,000 entries, so domains are
small integers here, counters are flat lists, and nothing is allocated per partition
that does not move. Randomness comes from the caller; equal seeds give equal tables.

Rules: doc/source/formats/ring.md, builder rules.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from itertools import chain, repeat
from typing import Protocol

from swift.core.ring.devices import Device, Tier
from swift.core.ring.plan import ROOT, Plan, quotas
from swift.core.ring.ring import Row

# Gather-and-place rounds of one rebalance. Each takes other partitions than the rounds
# before it; a table that is not settled after these waits for the next rebalance.
_ROUNDS_MAX = 12
_NOBODY = -1


class Rng(Protocol):
    """What a rebalance needs of random.Random."""

    def random(self) -> float: ...

    def randrange(self, stop: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class DispersionReport:
    """How well replicas are apart.

    graph: tier → partitions that have 0, 1, 2 … replicas there; percent: replicas
    beyond the even split, each partition counted at its worst tier, per replica.
    """

    graph: dict[Tier, list[int]]
    percent: float


def dispersion_report(
    rows: Sequence[Row], devices: Iterable[Device], plan: Plan, marker: int
) -> DispersionReport:
    """The dispersion of a table; entries equal to the marker count as absent."""
    devices = list(devices)
    parts = len(rows[0]) if rows else 0
    width = len(rows) + 1
    graph: dict[Tier, list[int]] = {}
    worst = [0] * parts
    for depth in range(4):
        numbers, tiers = _numbered(devices, depth)
        numbers[marker] = _NOBODY
        columns = list(_columns([[numbers[d] for d in row] for row in rows], _NOBODY))
        counts = [[0] * width for _ in tiers]
        most = [plan.evenly_most(tier) for tier in tiers]
        excess_of: dict[tuple[int, ...], int] = {}
        for column, times in Counter(columns).items():
            if len(set(column)) == len(column) and _NOBODY not in column:
                for number in column:
                    counts[number][1] += times
                continue
            excess = 0
            for number in set(column):
                if number == _NOBODY:
                    continue
                here = column.count(number)
                counts[number][here] += times
                excess = max(excess, here - most[number])
            if excess:
                excess_of[column] = excess
        for number, tier in enumerate(tiers):
            line = counts[number]
            if any(line):
                line[0] = parts - sum(line)
                graph[tier] = line
        if excess_of:
            none = repeat(0)
            excesses = map(excess_of.get, columns, none)
            worst = [
                max(before, here) for before, here in zip(worst, excesses, strict=True)
            ]
    entries = sum(len(row) for row in rows)
    percent = 100.0 * sum(worst) / entries if entries else 0.0
    return DispersionReport(graph, percent)


def rebalance(
    rows: Sequence[Row],
    devices: Sequence[Device | None],
    removed: Collection[int],
    plan: Plan,
    *,
    marker: int,
    movable: Sequence[bool] | bytes | bytearray,
    gather_start: int,
    rng: Rng,
) -> set[int]:
    """Change the rows in place; the partitions that got another device come back.

    removed: ids of devices whose replicas leave at once; movable: by partition, whether
    its last move is long enough ago; gather_start: partition at which the search for
    replicas to move begins. Unassigned entries are filled.
    """
    work = _Work(rows, devices, removed, plan, marker, rng)
    untouched = bytearray(movable)
    before = [array(row.typecode, row) for row in rows]
    parts = len(rows[0])
    homeless = work.gather_homeless()
    for partition in homeless:
        untouched[partition] = 0
    crowded = work.gather_crowded(untouched)
    work.place(_shuffled(homeless + crowded, rng))
    for _ in range(_ROUNDS_MAX):
        start = gather_start % parts
        order = chain(range(start, parts), range(start))
        heavy = work.gather_heavy(order, untouched)
        if not heavy:
            break
        work.place(_shuffled(heavy, rng))
    return {
        partition
        for row, old in zip(rows, before, strict=True)
        if row != old
        for partition, (new_id, old_id) in enumerate(zip(row, old, strict=True))
        if new_id != old_id
    }


class _Work:
    """The state of one rebalance.

    A domain is a number: a tier with devices, planned or not; the root is 0. `want` is
    how many more entries a domain is to get; negative when it holds too many. `most` is
    the replicas of one partition that it may hold.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        devices: Sequence[Device | None],
        removed: Collection[int],
        plan: Plan,
        marker: int,
        rng: Rng,
    ) -> None:
        self.rows = rows
        self.removed = frozenset(removed)
        self.marker = marker
        self.rng = rng
        staying = [d for d in devices if d is not None and d.id not in self.removed]
        numbers: dict[Tier, int] = {ROOT: 0}
        self.path: dict[int, tuple[int, int, int, int]] = {}
        for device in staying:
            region, zone, server, leaf = (
                numbers.setdefault(tier, len(numbers)) for tier in device.tiers
            )
            self.path[device.id] = (region, zone, server, leaf)
        tiers = list(numbers)
        held = self._held(tiers, numbers)
        total = sum(len(row) for row in rows)
        goal = quotas(plan, total, dict(zip(tiers, held, strict=True)))
        self.want = [
            goal.get(tier, 0) - has for tier, has in zip(tiers, held, strict=True)
        ]
        self.most = [plan.most(tier) for tier in tiers]
        self.most[0] = len(rows)
        self.children = [[numbers[c] for c in plan.children.get(t, ())] for t in tiers]
        self.device_of = {self.path[d.id][3]: d.id for d in staying}
        self.here = [0] * len(tiers)

    def _held(self, tiers: Sequence[Tier], numbers: Mapping[Tier, int]) -> list[int]:
        held = [0] * len(tiers)
        for row in self.rows:
            for device_id, times in Counter(row).items():
                for domain in self.path.get(device_id, ()):
                    held[domain] += times
        return held

    def gather_homeless(self) -> list[int]:
        """Partitions with an entry to fill, whatever the time of their last move.

        Empties the entries of removed devices, and all but one when a device has
        several replicas of one partition.
        """
        marker = self.marker
        homeless: set[int] = set()
        for row in self.rows:
            if self.removed and not self.removed.isdisjoint(row):
                for partition, device_id in enumerate(row):
                    if device_id in self.removed:
                        row[partition] = marker
            if marker in row:
                homeless.update(
                    partition for partition, d in enumerate(row) if d == marker
                )
        for partition, column in enumerate(_columns(self.rows, marker)):
            if len(set(column)) == len(column):
                continue
            seen = set()
            for row, device_id in zip(self.rows, column, strict=True):
                if device_id in seen and device_id != marker:
                    row[partition] = marker
                    self._count(device_id, 1)
                    homeless.add(partition)
                seen.add(device_id)
        return sorted(homeless)

    def gather_crowded(self, untouched: bytearray) -> list[int]:
        """Partitions of which one replica left a domain that holds too many of them."""
        crowded = []
        for depth in range(3):
            domain_of = {d: path[depth] for d, path in self.path.items()}
            domain_of[self.marker] = _NOBODY
            columns = _columns(
                [[domain_of[d] for d in row] for row in self.rows], _NOBODY
            )
            verdicts: dict[tuple[int, ...], int] = {}
            for partition, column in enumerate(columns):
                if not untouched[partition]:
                    continue
                verdict = verdicts.get(column)
                if verdict is None:
                    verdict = self._overfull(column)
                    if len(verdicts) < 65536:
                        verdicts[column] = verdict
                if verdict != _NOBODY:
                    self._take_from(partition, column, verdict)
                    untouched[partition] = 0
                    crowded.append(partition)
        return crowded

    def _overfull(self, column: tuple[int, ...]) -> int:
        """The domain that exceeds its `most` by most, or _NOBODY."""
        worst = 0
        domain = _NOBODY
        for candidate in column:
            if candidate != _NOBODY:
                excess = column.count(candidate) - self.most[candidate]
                if excess > worst:
                    worst, domain = excess, candidate
        return domain

    def _take_from(self, partition: int, column: tuple[int, ...], domain: int) -> None:
        """Empty the entry, among those in the domain, of the fullest device."""
        rows = [
            row for row, found in zip(self.rows, column, strict=True) if found == domain
        ]
        fullest = min(rows, key=lambda row: self.want[self.path[row[partition]][3]])
        self._count(fullest[partition], 1)
        fullest[partition] = self.marker

    def gather_heavy(self, order: Iterable[int], untouched: bytearray) -> list[int]:
        """Partitions of which one replica left a device that holds too many entries."""
        surplus = {
            device_id: -self.want[path[3]]
            for device_id, path in self.path.items()
            if self.want[path[3]] < 0
        }
        heavy = []
        left = sum(surplus.values())
        full_rows = [row for row in self.rows if len(row) == len(self.rows[0])]
        short_rows = self.rows[len(full_rows) :]
        for partition in order:
            if not left:
                break
            if not untouched[partition]:
                continue
            chosen = None
            most = 0
            for row in full_rows:
                extra = surplus.get(row[partition], 0)
                if extra > most:
                    most, chosen = extra, row
            for row in short_rows:
                if partition < len(row) and surplus.get(row[partition], 0) > most:
                    most, chosen = surplus[row[partition]], row
            if chosen is None:
                continue
            device_id = chosen[partition]
            surplus[device_id] -= 1
            left -= 1
            self._count(device_id, 1)
            chosen[partition] = self.marker
            untouched[partition] = 0
            heavy.append(partition)
        return heavy

    def _count(self, device_id: int, change: int) -> None:
        want = self.want
        want[0] += change
        for domain in self.path[device_id]:
            want[domain] += change

    def place(self, partitions: Sequence[int]) -> None:
        """Fill the empty entries of these partitions.

        There is always a device to choose: a domain below its `most` has a child below
        its own, because ceilings of a sum are at most the sum of ceilings.
        """
        if not partitions:
            return
        random = self.rng.random
        want, here, children = self.want, self.here, self.children
        marker, path, device_of = self.marker, self.path, self.device_of
        # One heap a domain, its neediest child on top; what ties is drawn by lot, anew
        # at each turn, so that devices do not keep meeting the same neighbours.
        heaps: list[list[tuple[float, int]]] = []
        for below in children:
            heap = [(random() - want[child], child) for child in below]
            heapify(heap)
            heaps.append(heap)
        rows = self.rows
        for partition in partitions:
            empty = []
            touched = []
            chosen: list[tuple[int, int, int, int]] = []
            for row in rows:
                if partition < len(row):
                    device_id = row[partition]
                    if device_id == marker:
                        empty.append(row)
                    else:
                        chosen.append(path[device_id])
                        for domain in path[device_id]:
                            here[domain] += 1
                            touched.append(domain)
            # The first choice is the neediest device; which replica it becomes is
            # drawn, as the first replica has duties of its own.
            turn = int(random() * len(empty))
            for at in range(turn - len(empty), turn):
                domain = 0
                below = children[0]
                while below:
                    if len(below) == 1:
                        child = below[0]
                        want[child] -= 1
                    else:
                        heap = heaps[domain]
                        child = heap[0][1]
                        if not here[child]:
                            want[child] -= 1
                            heapreplace(heap, (random() - want[child], child))
                        else:
                            child = self._neediest(heap, chosen)
                            want[child] -= 1
                            heappush(heap, (random() - want[child], child))
                    here[child] += 1
                    touched.append(child)
                    domain = child
                    below = children[child]
                want[0] -= 1
                device_id = device_of[domain]
                chosen.append(path[device_id])
                empty[at][partition] = device_id
            for domain in touched:
                here[domain] = 0

    def _neediest(
        self,
        heap: list[tuple[float, int]],
        chosen: Sequence[tuple[int, int, int, int]],
    ) -> int:
        """Take the child that can use one more replica of this partition best.

        chosen: where the partition is already. A device that has it cannot take it
        again, so what such devices want does not count for the domains around them.
        The full and the lesser children stay in the heap.
        """
        here, most, want = self.here, self.most, self.want
        aside = []
        best: tuple[float, int] | None = None
        best_key = 0.0
        while heap and (best is None or heap[0][0] < best_key):
            item = heappop(heap)
            key, child = item
            if here[child]:
                if here[child] >= most[child]:
                    aside.append(item)
                    continue
                for path in chosen:
                    if child in path:
                        key += want[path[3]]
            if best is None or key < best_key:
                if best is not None:
                    aside.append(best)
                best, best_key = item, key
            else:
                aside.append(item)
        for item in aside:
            heappush(heap, item)
        assert best is not None, "a domain below its most has a child below its own"
        return best[1]


def _columns(rows: Sequence[Sequence[int]], absent: int) -> Iterator[tuple[int, ...]]:
    """The table by partition; `absent` stands where a short row has ended."""
    if not rows:
        return iter(())
    parts = len(rows[0])
    padded = [
        row if len(row) == parts else chain(row, repeat(absent, parts - len(row)))
        for row in rows
    ]
    return zip(*padded, strict=True)


def _numbered(
    devices: Iterable[Device], depth: int
) -> tuple[dict[int, int], list[Tier]]:
    """Device id → number of its tier at this depth; and the tiers by number."""
    numbers: dict[Tier, int] = {}
    found = {
        device.id: numbers.setdefault(device.tiers[depth], len(numbers))
        for device in devices
    }
    return found, list(numbers)


def _shuffled(items: list[int], rng: Rng) -> list[int]:
    """The items in random order, sorted by lot: quicker than random.shuffle."""
    random = rng.random
    return sorted(items, key=lambda _: random())
