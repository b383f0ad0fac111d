# SPDX-License-Identifier: Apache-2.0
"""What a node does with the fragments it holds: keep them in step, or give them back.

A primary holds the fragments of one index. With some of the other primaries it compares
suffix hashes, and makes for them what they lack. Fragments of any other index are
given to the primaries whose they are. All of it is decided from the suffix hashes of a
partition, which tell the indexes apart. Nothing here knows sockets or disks.

Rules: contract daemons §9, erasure-coding 7 and 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from swift.core.objectfiles import FilePart, FileSet
from swift.core.redundancy import SuffixHash


class Rng(Protocol):
    """What a plan needs of random.Random."""

    def sample(self, population: Sequence[int], k: int) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Layout:
    """How the fragments of a policy lie on the primaries of a partition.

    positions: primaries. unique: fragments, of which position p holds p mod unique.
    needed: fragments that give an object back.
    """

    positions: int
    unique: int
    needed: int

    def index_at(self, position: int) -> int:
        """The fragment that belongs to a position."""
        return position % self.unique

    def positions_of(self, index: int) -> tuple[int, ...]:
        """Where a fragment belongs; once for each time that it is kept."""
        return tuple(range(index, self.positions, self.unique))

    def partners(self, position: int) -> tuple[int, ...]:
        """With whom a position compares: both neighbours and the opposite one.

        Each position is the partner of three others, so that what one of them cannot
        make another may, and nobody is asked by all.
        """
        count = self.positions
        around = (position - 1, position + 1, position + count // 2)
        return tuple(
            dict.fromkeys(
                other % count for other in around if other % count != position
            )
        )


@dataclass(frozen=True, slots=True)
class Sync:
    """Suffixes of a primary's own fragments, for its partners."""

    fragment_index: int
    suffixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Revert:
    """Suffixes with fragments that belong to other positions.

    fragment_index: None for tombstones that lie here without any fragment.
    """

    fragment_index: int | None
    suffixes: tuple[str, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What there is to do in a partition. unknown: indexes that no position has."""

    sync: Sync | None
    reverts: tuple[Revert, ...]
    unknown: tuple[int, ...]


def plan_of(
    hashes: Mapping[str, SuffixHash],
    position: int | None,
    layout: Layout,
    rng: Rng,
) -> Plan:
    """What to do with a partition of these suffix hashes.

    position: ours among the primaries; None for a handoff.
    """
    by_index: dict[int, list[str]] = {}
    shared_only = []
    for suffix in sorted(hashes):
        indexes = fragment_indexes(hashes[suffix])
        for index in indexes:
            by_index.setdefault(index, []).append(suffix)
        if not indexes:
            shared_only.append(suffix)
    own = None if position is None else layout.index_at(position)
    unknown = tuple(sorted(index for index in by_index if index >= layout.unique))
    foreign = sorted(
        (index for index in by_index if index != own and index not in unknown),
        key=lambda index: (len(by_index[index]), index),
    )
    sync = None
    if own is not None:
        sync = Sync(own, tuple(sorted([*by_index.get(own, ()), *shared_only])))
        shared_only = []
    reverts = []
    for index in foreign:
        suffixes = tuple(sorted([*by_index[index], *shared_only]))
        shared_only = []
        reverts.append(Revert(index, suffixes, layout.positions_of(index)))
    if shared_only:
        # So many that one of them at least is read by whoever reads the object.
        count = layout.positions - layout.needed + 1
        positions = tuple(rng.sample(range(layout.positions), count))
        reverts.append(Revert(None, tuple(shared_only), positions))
    return Plan(sync, tuple(reverts), unknown)


def fragment_indexes(value: SuffixHash | None) -> list[int]:
    """The indexes that a suffix has fragments of."""
    if not isinstance(value, dict):
        return []
    return sorted(index for index in value if index is not None)


def out_of_sync(
    local: Mapping[str, SuffixHash],
    remote: Mapping[str, SuffixHash | None],
    *,
    own_index: int,
    peer_index: int,
) -> list[str]:
    """Of our suffixes those that a peer lacks or has otherwise, sorted.

    Digests of fragments are made of times, so that one of our index can be held against
    that of the peer's.
    """
    return sorted(
        suffix
        for suffix, value in local.items()
        if _told(value, None) != _told(remote.get(suffix), None)
        or _told(value, own_index) != _told(remote.get(suffix), peer_index)
    )


def _told(value: SuffixHash | None, index: int | None) -> str | None:
    return value.get(index) if isinstance(value, dict) else None


def given_back(
    offered: FileSet, standing: FileSet, *, is_handoff: bool
) -> list[FilePart]:
    """The files to remove now that the primaries have what was offered of an object.

    standing: what its directory comes to now, for the same fragment. A primary keeps
    what its own fragment shares with the one that goes: tombstones and metadata.
    """
    data = offered.data
    if data is None:
        same = offered.tombstone == standing.tombstone
        return [offered.tombstone] if offered.tombstone and same and is_handoff else []
    if standing.meta != offered.meta:
        return []  # posted to since; it is offered again with what is new
    doomed = [data]
    others = {
        (timestamp, index)
        for timestamp, indexes in standing.fragments.items()
        for index in indexes
    } - {(data.timestamp, data.fragment_index)}
    if is_handoff and not others:
        doomed += [part for part in (offered.meta, offered.content_type) if part]
    return doomed
