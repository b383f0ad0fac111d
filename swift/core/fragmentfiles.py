# SPDX-License-Identifier: Apache-2.0
"""The files of an object directory that holds fragments, and which of them count.

A data file names the fragment it holds, and whether its commit was seen:
`<timestamp>#<index>.data` and `<timestamp>#<index>#d.data`. Old nodes marked a commit
by an empty `<timestamp>.durable` instead; it is read, never written. The fragments of
one time are a set; the newest set that is durable is the object, newer ones may become
it. Tombstones and metadata files are those of `core.objectfiles`. Format:
doc/source/formats/object-files.md (contract object-on-disk 3 and 6.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from swift.core.objectfiles import (
    DATA,
    DURABLE,
    META,
    TOMBSTONE,
    FilePart,
    FileSet,
    Preference,
    Standing,
    parse,
    plain_name,
)
from swift.core.timestamp import Timestamp, TimestampError

_INDEX_DIGITS_MAX = 4


def fragment_name(part: FilePart) -> str:
    """The name of a file, which for data tells its fragment."""
    if part.kind != DATA:
        return plain_name(part)
    assert part.fragment_index is not None, "data of this scheme is a fragment"
    durable = "#d" if part.durable else ""
    return f"{part.timestamp.internal}#{part.fragment_index}{durable}{DATA}"


def parse_fragment(name: str, fragments: int) -> FilePart | None:
    """Read a name; None when it is no name of a file of this scheme.

    fragments: how many there are; an index that is not below is not one.
    """
    if not name.endswith(DATA):
        return parse(name)
    stamp, *rest = name[: -len(DATA)].split("#")
    if not rest or len(rest) > 2 or rest[1:] not in ([], ["d"]):
        return None
    digits = rest[0]
    if len(digits) > _INDEX_DIGITS_MAX or not (digits.isascii() and digits.isdigit()):
        return None
    if int(digits) >= fragments:
        return None
    try:
        timestamp = Timestamp.parse(stamp)
    except TimestampError:
        return None
    return FilePart(timestamp, DATA, None, int(digits), len(rest) == 2, name)


def choose_fragments(
    names: Iterable[str],
    fragments: int,
    *,
    preferences: Sequence[Preference] | None = None,
    fragment_index: int | None = None,
) -> FileSet:
    """Apply the rules to a directory of fragments; see Redundancy.choose."""
    wanted = None if preferences is None else tuple(preferences)
    return _choose(tuple(names), fragments, wanted, fragment_index)


@dataclass(frozen=True, slots=True)
class _Set:
    """The fragments of one time, by ascending index."""

    timestamp: Timestamp
    parts: tuple[FilePart, ...]
    durable: bool

    def best(
        self, only: int | None, exclude: frozenset[int] = frozenset()
    ) -> FilePart | None:
        """The highest index that is not excluded. only: no other will do, if given."""
        for part in reversed(self.parts):
            index = part.fragment_index
            if index not in exclude and only in (None, index):
                return part
        return None


@lru_cache(maxsize=1024)
def _choose(
    names: tuple[str, ...],
    fragments: int,
    preferences: tuple[Preference, ...] | None,
    fragment_index: int | None,
) -> FileSet:
    # Hot objects are looked up over and over; the same names always mean the same.
    parts, unexpected = [], []
    for name in names:
        part = parse_fragment(name, fragments)
        if part is None:
            unexpected.append(name)
        else:
            parts.append(part)
    standing = Standing(parts)
    sets = _sets(standing)
    durable = sets[-1] if sets and sets[-1].durable else None
    _drop_older(standing, durable)
    data = _pick(sets, durable, preferences, fragment_index)
    reclaimable = [
        part
        for each in sets
        if not each.durable and (data is None or each.timestamp != data.timestamp)
        for part in each.parts
    ]
    if durable is None and data is not None:
        reclaimable += standing.of(META)
    files = standing.files(
        data,
        unexpected,
        reclaimable=reclaimable,
        fragments={
            each.timestamp: [part.fragment_index or 0 for part in each.parts]
            for each in sets
        },
        durable_timestamp=None if durable is None else durable.timestamp,
    )
    meta = files.meta
    if data is not None and meta is not None and meta.timestamp <= data.timestamp:
        # Data that may yet become the object: what was posted before it is kept for the
        # durable data below it, but says nothing of it.
        files = replace(files, meta=None, content_type=None)
    return files


def _sets(standing: Standing) -> list[_Set]:
    """The sets that count, newest first; only the last may be the durable one."""
    marked = {part.timestamp for part in standing.of(DURABLE)}
    by_time: dict[Timestamp, list[FilePart]] = {}
    for part in standing.of(DATA):
        by_time.setdefault(part.timestamp, []).append(part)
    found = []
    for timestamp in sorted(by_time, reverse=True):
        members = by_time[timestamp]
        durable = timestamp in marked or any(part.durable for part in members)
        found.append(_Set(timestamp, tuple(_one_of_each(members, durable)), durable))
        if durable:
            break
    return found


def _one_of_each(members: Sequence[FilePart], durable: bool) -> list[FilePart]:
    """One file for each index, ascending; the one whose own name says durable first.

    All members of a durable set count as durable.
    """
    chosen: dict[int, FilePart] = {}
    for part in sorted(members, key=lambda part: part.durable):
        assert part.fragment_index is not None, "parsed as a fragment"
        chosen[part.fragment_index] = part
    return [
        replace(chosen[index], durable=True) if durable else chosen[index]
        for index in sorted(chosen)
    ]


def _drop_older(standing: Standing, durable: _Set | None) -> None:
    """Make obsolete what the durable set has replaced, and marks of nothing."""
    times = {part.timestamp for part in standing.of(DATA)}
    standing.drop(
        [part for part in standing.of(DURABLE) if part.timestamp not in times]
    )
    if durable is None:
        return
    since = durable.timestamp
    standing.drop(
        [
            part
            for kind in (DATA, DURABLE)
            for part in standing.of(kind)
            if part.timestamp < since
        ]
    )
    standing.drop(
        [
            part
            for kind in (META, TOMBSTONE)
            for part in standing.of(kind)
            if part.timestamp <= since
        ]
    )


def _pick(
    sets: Sequence[_Set],
    durable: _Set | None,
    preferences: Sequence[Preference] | None,
    fragment_index: int | None,
) -> FilePart | None:
    only = fragment_index
    if preferences is None:
        return None if durable is None else durable.best(only)
    left = {each.timestamp: each for each in sets}
    for preference in preferences:
        candidate = left.get(preference.timestamp)
        if candidate is None:
            continue
        part = candidate.best(only, preference.exclude)
        if part is not None:
            return part
        del left[preference.timestamp]
    for each in sets:
        part = each.best(only) if each.timestamp in left else None
        if part is not None:
            return part
    return None
