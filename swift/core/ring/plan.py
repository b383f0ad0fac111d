# SPDX-License-Identifier: Apache-2.0
"""How many replicas of a partition each failure domain should hold.

The unit is the replicanth: 1.5 for a zone means that half of the partitions have one
replica there and half have two. Two answers pull at each other. By *weight* every
device fills at the same pace; when *spread* out, every domain holds as even a share as
its devices allow. `overload` says how much more than by weight a device may take for
the sake of spreading; the *target* lies that far on the way from one to the other.

Rules: doc/source/formats/ring.md, builder rules. All arithmetic is on floats with a
tolerance, and equal inputs give equal plans.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from swift.core.ring.devices import Device, Tier

TOLERANCE = 1e-10
ROOT: Tier = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan for one set of devices.

    All mappings are from tier to replicanths and hold every tier that has a device of
    positive weight, the root () included. even: replicas if each domain were split
    evenly between its children; children: narrower tiers of a tier, sorted.
    """

    replicas: float
    children: Mapping[Tier, Sequence[Tier]]
    weighted: Mapping[Tier, float]
    spread: Mapping[Tier, float]
    target: Mapping[Tier, float]
    even: Mapping[Tier, float]
    required_overload: float

    def most(self, tier: Tier) -> int:
        """Replicas of one partition that may be in the tier; 0: it is to be empty."""
        return math.ceil(self.target.get(tier, 0.0) - TOLERANCE)

    def least(self, tier: Tier) -> int:
        """Replicas of every partition that the tier should hold."""
        return math.floor(self.target.get(tier, 0.0) + TOLERANCE)

    def evenly_most(self, tier: Tier) -> int:
        """Replicas of one partition that are no harm to dispersion.

        One replica alone is never badly placed, wherever it is.
        """
        return max(1, math.ceil(self.even.get(tier, 0.0) - TOLERANCE))


def make_plan(devices: Iterable[Device], replicas: float, overload: float) -> Plan:
    """The plan for these devices; those without weight take no part.

    The count of devices with weight must be at least `replicas`.
    """
    weights = {
        device.tiers[3]: device.weight for device in devices if device.weight > 0
    }
    children = _tree(weights)
    leaves = _by_weight(weights, replicas)
    weighted = _summed(leaves)
    even = _evenly(children, replicas)
    spread = _spread(children, weighted, even, _summed(dict.fromkeys(weights, 1.0)))
    required = max(
        ((spread[tier] - share) / share for tier, share in leaves.items() if share > 0),
        default=0.0,
    )
    target = spread
    if required > TOLERANCE:
        part = min(overload, required) / required
        target = _summed(
            {tier: w + (spread[tier] - w) * part for tier, w in leaves.items()}
        )
    return Plan(
        replicas=replicas,
        children=children,
        weighted=weighted,
        spread=spread,
        target=target,
        even=even,
        required_overload=required,
    )


def quotas(plan: Plan, total: int, held: Mapping[Tier, int]) -> dict[Tier, int]:
    """How many of `total` table entries each tier is to hold, in whole numbers.

    Each count is the tier's share rounded down or up, and counts add up at every level.
    Who is rounded up: first those that hold so much already (so that a settled table
    stays as it is), then those with the largest remainder. held: entries of a tier now.
    """
    scale = total / plan.target[ROOT] if plan.target.get(ROOT) else 0.0
    found: dict[Tier, int] = {ROOT: total}
    todo = [ROOT]
    while todo:
        parent = todo.pop()
        below = plan.children.get(parent, ())
        if not below:
            continue
        shares = {tier: plan.target[tier] * scale for tier in below}
        floors = {tier: math.floor(share + 1e-6) for tier, share in shares.items()}
        left = found[parent] - sum(floors.values())

        def deserves(
            tier: Tier,
            shares: Mapping[Tier, float] = shares,
            floors: Mapping[Tier, int] = floors,
        ) -> tuple[bool, bool, float]:
            rest = shares[tier] - floors[tier]
            return (rest > 1e-6, held.get(tier, 0) > floors[tier], rest)

        for tier in sorted(below, key=deserves, reverse=True)[: max(0, left)]:
            floors[tier] += 1
        found.update(floors)
        todo.extend(below)
    return found


def _tree(leaves: Iterable[Tier]) -> dict[Tier, list[Tier]]:
    children: dict[Tier, set[Tier]] = {ROOT: set()}
    for leaf in leaves:
        for depth in range(4):
            children.setdefault(leaf[:depth], set()).add(leaf[: depth + 1])
    return {tier: sorted(below) for tier, below in children.items()}


def _summed(leaves: Mapping[Tier, float]) -> dict[Tier, float]:
    """The values of devices, and of every tier the sum of its devices."""
    sums: dict[Tier, float] = {ROOT: 0.0}
    for leaf, value in leaves.items():
        for depth in range(5):
            sums[leaf[:depth]] = sums.get(leaf[:depth], 0.0) + value
    return sums


def _by_weight(weights: Mapping[Tier, float], replicas: float) -> dict[Tier, float]:
    """Shares in proportion to weight, none above one replica a partition."""
    shares: dict[Tier, float] = {}
    open_weights = dict(weights)
    left = replicas
    while open_weights:
        scale = left / math.fsum(open_weights.values())
        full = [tier for tier, weight in open_weights.items() if weight * scale > 1.0]
        if not full:
            break
        for tier in full:
            shares[tier] = 1.0
            del open_weights[tier]
        left -= len(full)
    for tier, weight in open_weights.items():
        shares[tier] = weight * scale
    return {tier: shares[tier] for tier in weights}


def _evenly(
    children: Mapping[Tier, Sequence[Tier]], replicas: float
) -> dict[Tier, float]:
    even = {ROOT: float(replicas)}
    todo = [ROOT]
    while todo:
        parent = todo.pop()
        below = children.get(parent, ())
        for tier in below:
            even[tier] = even[parent] / len(below)
        todo.extend(below)
    return even


def _spread(
    children: Mapping[Tier, Sequence[Tier]],
    weighted: Mapping[Tier, float],
    even: Mapping[Tier, float],
    sizes: Mapping[Tier, float],
) -> dict[Tier, float]:
    """Shares when dispersion comes first; sizes: devices of a tier.

    A tier gets between floor and ceiling of the even split, by weight within these
    bounds, and never more than one replica a device. Where devices are so few that the
    ceilings do not hold all, the ceilings give way.
    """
    spread = {ROOT: even[ROOT]}
    todo = [ROOT]
    while todo:
        parent = todo.pop()
        below = children.get(parent, ())
        if not below:
            continue
        floors = []
        ceilings = []
        for tier in below:
            floors.append(min(math.floor(even[tier] + TOLERANCE), sizes[tier]))
            ceiling = max(1, math.ceil(even[tier] - TOLERANCE))
            ceilings.append(min(ceiling, sizes[tier]))
        if sum(ceilings) < spread[parent] - TOLERANCE:
            ceilings = [sizes[tier] for tier in below]
        shares = _proportional(
            spread[parent], [weighted[tier] for tier in below], floors, ceilings
        )
        spread.update(zip(below, shares, strict=True))
        todo.extend(below)
    return spread


def _proportional(
    total: float,
    weights: Sequence[float],
    floors: Sequence[float],
    ceilings: Sequence[float],
) -> list[float]:
    """Shares of the total in proportion to weights, each within its bounds.

    In each round all shares are clamped; if that gave too much away, those that were
    raised are settled, else those that were cut; the rest is dealt out anew.
    """
    shares = [0.0] * len(weights)
    open_places = list(range(len(weights)))
    left = total
    while open_places:
        weight = math.fsum(weights[at] for at in open_places)
        scale = left / weight if weight > 0 else 0.0
        raised = []
        cut = []
        excess = 0.0
        for at in open_places:
            wish = weights[at] * scale
            share = min(max(wish, floors[at]), ceilings[at])
            shares[at] = share
            excess += share - wish
            if share > wish:
                raised.append(at)
            elif share < wish:
                cut.append(at)
        if abs(excess) < TOLERANCE:
            break
        settled = raised if excess > 0 else cut
        if not settled:
            break
        for at in settled:
            left -= shares[at]
        gone = set(settled)
        open_places = [at for at in open_places if at not in gone]
    return shares
