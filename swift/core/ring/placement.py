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

# Attempts of one rebalance to relieve full devices; a table that is not settled then
# waits for the next.
_ATTEMPTS = 8
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
    is_first = all(row.count(marker) == len(row) for row in rows)
    homeless = work.gather_homeless()
    for partition in homeless:
        untouched[partition] = is_first
    crowded = work.gather_crowded(untouched)
    work.place(_shuffled(homeless + crowded, rng))
    for attempt in range(1, _ATTEMPTS + 1):
        walk = chain(range(gather_start, parts), range(gather_start))
        left = work.relieve(walk, untouched, only_to_needy=True)
        if not left or attempt == _ATTEMPTS:
            break
        # Stuck: no partition of a full device can go to a device in need. Others take
        # some of its entries, and give from other partitions in the next attempt.
        gather_start = rng.randrange(parts)
        walk = chain(range(gather_start, parts), range(gather_start))
        work.relieve(walk, untouched, only_to_needy=False)
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
    how many more entries a domain is to get; negative when it holds too many. `least`
    and `most` bound the replicas of one partition that it is to hold; `musts` are the
    children with a least above 0. While a partition is placed, `here` counts its
    replicas by domain. A heap holds the children of a domain, neediest first, by what
    they wanted when they were last looked at (`seen`); wants only fall while replicas
    are placed, so a child comes up in time and is then put where it belongs.
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
        self.least = [plan.least(tier) for tier in tiers]
        self.children = [[numbers[c] for c in plan.children.get(t, ())] for t in tiers]
        self.musts = [[c for c in below if self.least[c]] for below in self.children]
        self.heaps: list[list[tuple[float, int]]] = []
        self.seen: list[int] = []
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
        self._fill_heaps()
        random, here, path = self.rng.random, self.here, self.path
        for partition in partitions:
            empty, chosen = self._present(partition)
            # The first choice is the neediest device; which replica it becomes is
            # drawn, as the first replica has duties of its own.
            turn = int(random() * len(empty))
            for at in range(turn - len(empty), turn):
                device_id = self._descend(chosen)
                chosen.append(path[device_id])
                empty[at][partition] = device_id
            for domains in chosen:
                for domain in domains:
                    here[domain] = 0

    def relieve(
        self, walk: Iterable[int], untouched: bytearray, *, only_to_needy: bool
    ) -> int:
        """Move entries away from devices that hold too many; how many are left.

        walk: partitions in the order to try. only_to_needy: a move that does not bring
        the table nearer to its plan costs the cluster a copy for nothing, so an entry
        whose partition offers no device in need stays where it is.
        """
        surplus = {
            device_id: -self.want[path[3]]
            for device_id, path in self.path.items()
            if self.want[path[3]] < 0
        }
        left = sum(surplus.values())
        refill = max(16, len(self.path) // 4)
        tries = 0
        for partition in walk:
            if not left:
                break
            if not untouched[partition]:
                continue
            chosen = None
            most = 0
            for row in self.rows:
                if partition < len(row) and surplus.get(row[partition], 0) > most:
                    most, chosen = surplus[row[partition]], row
            if chosen is None:
                continue
            # Moves raise what full domains want, which heaps do not see: see the class.
            if tries % refill == 0:
                self._fill_heaps()
            tries += 1
            device_id = chosen[partition]
            if self._move(partition, chosen, only_to_needy=only_to_needy):
                untouched[partition] = 0
                surplus[device_id] -= 1
                left -= 1
        return left

    def _move(self, partition: int, row: Row, *, only_to_needy: bool) -> bool:
        """Give an entry to the device that wants it most, or leave it: False."""
        here, want, path = self.here, self.want, self.path
        old_id = row[partition]
        row[partition] = self.marker
        self._count(old_id, 1)
        _, chosen = self._present(partition)
        device_id = self._descend(chosen)
        for domains in (*chosen, path[device_id]):
            for domain in domains:
                here[domain] = 0
        if only_to_needy and want[path[device_id][3]] < 0:
            self._count(device_id, 1)
            self._count(old_id, -1)
            device_id = old_id
        row[partition] = device_id
        return device_id != old_id

    def _present(
        self, partition: int
    ) -> tuple[list[Row], list[tuple[int, int, int, int]]]:
        """Rows with an empty entry, and where the partition is; `here` counts it."""
        here, marker, path = self.here, self.marker, self.path
        empty = []
        chosen = []
        for row in self.rows:
            if partition < len(row):
                device_id = row[partition]
                if device_id == marker:
                    empty.append(row)
                else:
                    domains = path[device_id]
                    chosen.append(domains)
                    for domain in domains:
                        here[domain] += 1
        return empty, chosen

    def _fill_heaps(self) -> None:
        # What ties is drawn by lot, anew at each turn, so that devices do not keep
        # meeting the same neighbours.
        random, want = self.rng.random, self.want
        self.seen = list(want)
        self.heaps = []
        for below in self.children:
            heap = [(random() - want[child], child) for child in below]
            heapify(heap)
            self.heaps.append(heap)

    def _descend(self, chosen: Sequence[tuple[int, int, int, int]]) -> int:
        """The device for one more replica of a partition; it is counted at once.

        Tier by tier: a child that has fewer replicas than its least, else the neediest.
        """
        random = self.rng.random
        want, seen, here, least = self.want, self.seen, self.here, self.least
        domain = 0
        below = self.children[0]
        want[0] -= 1
        while below:
            if len(below) == 1:
                child = below[0]
            else:
                child = _NOBODY
                for must in self.musts[domain]:
                    if here[must] < least[must] and (
                        child == _NOBODY or want[must] > want[child]
                    ):
                        child = must
                if child == _NOBODY:
                    heap = self.heaps[domain]
                    child = heap[0][1]
                    while seen[child] != want[child]:
                        seen[child] = want[child]
                        heapreplace(heap, (random() - want[child], child))
                        child = heap[0][1]
                    if here[child]:
                        child = self._neediest(heap, chosen)
            want[child] -= 1
            here[child] += 1
            domain = child
            below = self.children[child]
        return self.device_of[domain]

    def _neediest(
        self,
        heap: list[tuple[float, int]],
        chosen: Sequence[tuple[int, int, int, int]],
    ) -> int:
        """The child that can use one more replica of this partition best.

        chosen: where the partition is already. A device that has it cannot take it
        again, so what such devices want does not count for the domains around them.
        """
        random = self.rng.random
        here, most, want, seen = self.here, self.most, self.want, self.seen
        aside = []
        best = _NOBODY
        best_key = 0.0
        while heap and (best == _NOBODY or heap[0][0] < best_key):
            key, child = heappop(heap)
            if seen[child] != want[child]:
                seen[child] = want[child]
                heappush(heap, (random() - want[child], child))
                continue
            aside.append((key, child))
            if here[child]:
                if here[child] >= most[child]:
                    continue
                for path in chosen:
                    if child in path:
                        key += want[path[3]]
            if best == _NOBODY or key < best_key:
                best, best_key = child, key
        for item in aside:
            heappush(heap, item)
        assert best != _NOBODY, "a domain below its most has a child below its own"
        return best


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
