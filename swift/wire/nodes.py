# SPDX-License-Identifier: Apache-2.0
"""Which node next: the order of a partition's nodes, and whom to leave in peace.

Primaries are sorted by the proxy's `sorting_method`; handoffs follow in ring order;
nodes that failed too often lately are skipped. Everything here decides from values:
time and randomness are handed in, nothing waits and nothing dials. One process shares
one `ErrorLimiter` and one `NodeTimings`; they never yield, so green threads need no
lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random

from swift.core.ring.devices import Node
from swift.core.ring.ring import Ring

NodeKey = tuple[str, int, str]
"""ip, port, device: what fails as one."""

_RULE = re.compile(r"r(\d+)(?:z(\d+))?\Z")
_PER_REPLICA = re.compile(r"(\d+)\s*\*\s*replicas\Z")
_TIMINGS_MAX = 10_000


def key_of(node: Node) -> NodeKey:
    """What the limiter and the timings know a node by."""
    return (node.ip, node.port, node.name)


# --- The grammar of options -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """A region, or one zone of it (zone None: all)."""

    region: int
    zone: int | None

    def holds(self, node: Node) -> bool:
        """True for a node in this place."""
        return node.region == self.region and (
            self.zone is None or node.zone == self.zone
        )


ReadAffinity = tuple[tuple[Place, int], ...]
"""Places and their priorities; the smaller number is asked first."""

WriteAffinity = tuple[Place, ...]
"""The places that count as near."""


def parse_read_affinity(text: str) -> ReadAffinity:
    """Read `r1z1=100, r2=200`; blank is empty. Raises ValueError."""
    rules = []
    for item in text.split(","):
        if not item.strip():
            continue
        place, equals, priority = item.partition("=")
        if not equals or not priority.strip().isdecimal():
            raise ValueError(f"no priority in affinity rule {item.strip()!r}")
        rules.append((_parse_place(place), int(priority)))
    return tuple(rules)


def parse_write_affinity(text: str) -> WriteAffinity:
    """Read `r1, r2z1`; blank is empty. Raises ValueError."""
    return tuple(_parse_place(item) for item in text.split(",") if item.strip())


def _parse_place(text: str) -> Place:
    match = _RULE.match(text.strip())
    if match is None:
        raise ValueError(f"bad affinity rule {text.strip()!r}, not r<N>[z<N>]")
    return Place(int(match[1]), int(match[2]) if match[2] else None)


@dataclass(frozen=True, slots=True)
class NodeCount:
    """A number of nodes: fixed, or so many for each replica."""

    count: int
    is_per_replica: bool

    def of(self, replicas: int) -> int:
        """The number for a ring of so many replicas."""
        return self.count * replicas if self.is_per_replica else self.count


def parse_node_count(text: str) -> NodeCount:
    """Read `N` or `N * replicas`. Raises ValueError."""
    value = text.strip()
    match = _PER_REPLICA.match(value)
    if match:
        return NodeCount(int(match[1]), True)
    if value.isdecimal():
        return NodeCount(int(value), False)
    raise ValueError(f"{text!r} is neither N nor N * replicas")


# --- Nodes in trouble -----------------------------------------------------------------


class ErrorLimiter:
    """Errors of nodes of late; a node with too many is left alone for a while.

    interval_s: how long after its last error a node is limited; 0 never limits.
    limit: errors within that time that it may make.
    """

    def __init__(
        self,
        interval_s: float,
        limit: int,
        count: Callable[[str], object] = lambda name: None,
    ) -> None:
        self._interval_s = interval_s
        self._limit = limit
        self._errors: dict[NodeKey, tuple[int, float]] = {}
        self._count = count

    @property
    def is_idle(self) -> bool:
        """True when no node has made an error: none is limited."""
        return not self._errors

    def is_limited(self, node: Node, now: float) -> bool:
        """True while the node is to be skipped."""
        if not self._errors:
            return False
        key = key_of(node)
        errors = self._errors.get(key)
        if errors is None:
            return False
        if errors[1] + self._interval_s <= now:
            del self._errors[key]
            return False
        limited = errors[0] > self._limit
        if limited:
            self._count("error_limiter.is_limited")
        return limited

    def add(self, node: Node, now: float) -> bool:
        """Count one error; True when it was the one that makes the node limited."""
        if not self._interval_s:
            return False
        key = key_of(node)
        count, last = self._errors.get(key, (0, now))
        if last + self._interval_s <= now:
            count = 0
        self._errors[key] = (count + 1, now)
        limited = count + 1 == self._limit + 1
        if limited:
            self._count("error_limiter.incremented_limit")
        return limited

    def limit_now(self, node: Node, now: float) -> None:
        """Skip the node from now on: its device is unusable (507)."""
        if self._interval_s:
            self._errors[key_of(node)] = (self._limit + 1, now)
            self._count("error_limiter.forced_limit")


class NodeTimings:
    """How long nodes took to connect, remembered for a time; 0 when unknown."""

    def __init__(self, expiry_s: float) -> None:
        self._expiry_s = expiry_s
        self._known: dict[NodeKey, tuple[float, float]] = {}

    def add(self, node: Node, seconds: float, now: float) -> None:
        """Remember one measurement."""
        if len(self._known) >= _TIMINGS_MAX:
            self._known.clear()
        # Rounded to milliseconds, so that nodes that are alike take turns.
        self._known[key_of(node)] = (round(seconds, 3), now + self._expiry_s)

    def seconds(self, node: Node, now: float) -> float:
        """The last measurement, 0 when there is none that is young enough."""
        known = self._known.get(key_of(node))
        return known[0] if known is not None and known[1] > now else 0.0


# --- Order ----------------------------------------------------------------------------


class NodeOrder:
    """The order in which a policy's primaries are asked for a read.

    method: shuffle, timing or affinity.
    """

    def __init__(
        self, method: str, read_affinity: ReadAffinity, timings: NodeTimings
    ) -> None:
        self.method = method
        self.wants_timings = method == "timing"
        self.timings = timings
        self._read_affinity = read_affinity

    def sort(
        self,
        nodes: Sequence[Node],
        rng: Random,
        now: float,
        comes_later: Callable[[Node], bool] | None = None,
    ) -> list[Node]:
        """The nodes, best first; equal ones at random.

        comes_later: of nodes that are equal by the method, those for which it is true
        are not the first choice.
        """
        ordered = list(nodes)
        _shuffle(ordered, rng)
        if comes_later is not None:
            ordered.sort(key=comes_later)
        if self.method == "shuffle":
            return ordered
        if self.method == "timing":
            ordered.sort(key=lambda node: self.timings.seconds(node, now))
        elif self.method == "affinity":
            ordered.sort(key=self._priority)
        return ordered

    def _priority(self, node: Node) -> float:
        for place, priority in self._read_affinity:
            if place.holds(node):
                return priority
        return float("inf")


def _shuffle(nodes: list[Node], rng: Random) -> None:
    """Random.shuffle without its generality, which costs more than a cached read."""
    draw = rng.random
    for i in range(len(nodes) - 1, 0, -1):
        j = int(draw() * (i + 1))
        nodes[i], nodes[j] = nodes[j], nodes[i]


def near_first(
    primaries: Sequence[Node],
    handoffs: Iterable[Node],
    *,
    affinity: WriteAffinity,
    count: int,
) -> tuple[list[Node], Iterator[Node]]:
    """Split for a write that is to land near: the first nodes to use, and the rest.

    The first are as many as there are primaries: near primaries, then near handoffs (as
    long as no more than `count` near nodes are used), then the other primaries. The
    rest are in order of choice: near ones left over, far primaries, handoffs.
    """
    near: list[Node] = []
    passed: list[Node] = []
    far: list[Node] = []
    remaining = iter(handoffs)
    for node in primaries:
        (near if _is_near(node, affinity) else far).append(node)
    if len(near) < count:
        for node in remaining:
            (near if _is_near(node, affinity) else passed).append(node)
            if len(near) >= count:
                break
    ordered = near + far
    first = ordered[: len(primaries)]
    return first, chain(ordered[len(primaries) :], passed, remaining)


def _is_near(node: Node, affinity: WriteAffinity) -> bool:
    return any(place.holds(node) for place in affinity)


def near_handoffs(
    handoffs: Iterable[Node], *, affinity: WriteAffinity, count: int
) -> list[Node]:
    """The first `count` handoffs in a near place, where write affinity put copies."""
    found: list[Node] = []
    if count <= 0:
        return found
    for node in handoffs:
        if _is_near(node, affinity):
            found.append(node)
            if len(found) >= count:
                break
    return found


def near_primaries(nodes: Sequence[Node], affinity: WriteAffinity) -> int:
    """How many of the nodes are in a near place."""
    return sum(_is_near(node, affinity) for node in nodes)


class Candidates:
    """Nodes to ask, one after the other; iterating yields each once, in order.

    count: how many to yield in all, limited nodes not counted. on_handoff is called
    with the number of handoffs used so far whenever one more is.
    """

    __slots__ = (
        "_count", "_first", "_handoffs", "_limited", "_limited_max", "_limiter",
        "_now", "_on_handoff", "_used",
    )  # fmt: skip

    def __init__(
        self,
        first: Iterable[Node],
        handoffs: Iterable[Node],
        *,
        count: int,
        limiter: ErrorLimiter,
        now: Callable[[], float],
        on_handoff: Callable[[int], object] | None = None,
    ) -> None:
        self._first = iter(first)
        self._handoffs = iter(handoffs)
        self._count = count
        self._limiter = limiter
        self._now = now
        self._on_handoff = on_handoff
        self._used = 0
        self._limited: list[Node] = []
        self._limited_max = count

    def __iter__(self) -> Candidates:
        return self

    def __next__(self) -> Node:
        if self._count <= 0:
            raise StopIteration
        limiter = self._limiter
        for node in self._first:
            if limiter.is_idle or not limiter.is_limited(node, self._now()):
                self._count -= 1
                return node
            self._limited.append(node)
        for node in self._handoffs:
            if limiter.is_idle or not limiter.is_limited(node, self._now()):
                self._count -= 1
                self._used += 1
                if self._on_handoff is not None:
                    self._on_handoff(self._used)
                return node
            if len(self._limited) < self._limited_max:
                self._limited.append(node)
        self._count = 0
        raise StopIteration

    def last_resort(self) -> list[Node]:
        """The nodes that were passed over for their errors, `count` at most; once.

        One that failed a minute ago may be well again, and a handoff may have what was
        written while primaries were in trouble. They are asked only when the others
        leave the matter open, so that a dead one costs nothing as long as they do not.
        """
        limited, self._limited = self._limited, []
        return limited


def read_candidates(
    ring: Ring,
    partition: int,
    *,
    order: NodeOrder,
    count: NodeCount,
    limiter: ErrorLimiter,
    rng: Random,
    now: Callable[[], float],
    on_handoff: Callable[[int], object] | None = None,
    comes_later: Callable[[Node], bool] | None = None,
) -> Candidates:
    """The nodes to ask for a read: sorted primaries, then handoffs.

    comes_later: see NodeOrder.sort.
    """
    primaries = ring.primaries(partition)
    return Candidates(
        order.sort(primaries, rng, now(), comes_later),
        ring.handoffs(partition),
        count=count.of(len(primaries)),
        limiter=limiter,
        now=now,
        on_handoff=on_handoff,
    )
