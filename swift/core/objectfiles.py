# SPDX-License-Identifier: Apache-2.0
"""The files of an object directory: which make the object, which are obsolete.

An object is a directory of files whose names carry every ordering fact: the newest data
file, metadata files of POSTs after it, or a tombstone. Files are immutable once named,
and reach a directory late, twice and in any order, so the choice is a function of the
set of names alone. The tests hold it to that: no order of arrival and no earlier
clean-up changes what is chosen. Format: doc/source/formats/object-files.md (contract
object-on-disk 3, 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from swift.core.timestamp import Timestamp, TimestampError, decode_explicit

DATA = ".data"
META = ".meta"
TOMBSTONE = ".ts"
DURABLE = ".durable"


@dataclass(frozen=True, slots=True)
class FilePart:
    """One file of an object directory, as its name tells.

    kind: the extension with its dot; one that is not known takes part in the rule of
    tombstones only. content_type_timestamp: of a .meta that holds a content type.
    fragment_index, durable: of an erasure-coded .data. name: as found on disk, empty
    for a file that is still to be named.
    """

    timestamp: Timestamp
    kind: str
    content_type_timestamp: Timestamp | None = None
    fragment_index: int | None = None
    durable: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Preference:
    """A set of fragments that a reader would take: its time, and indexes it has."""

    timestamp: Timestamp
    exclude: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class FileSet:
    """What the files of one object directory come to.

    data: the chosen data file. meta: newest metadata file, reported only beside data.
    content_type: the .meta whose content type is newer than the data, often `meta`
    itself. tombstone: reported only without data. obsolete: may be removed at once.
    reclaimable: not obsolete, but of no use if older than the reclaim age. unexpected:
    names that are no names of object files; they are kept.
    durable_timestamp: time of the data that is known to be durable.
    fragments: erasure coding only: time → ascending indexes on this node, newest first.
    """

    data: FilePart | None = None
    meta: FilePart | None = None
    content_type: FilePart | None = None
    tombstone: FilePart | None = None
    obsolete: Sequence[FilePart] = ()
    reclaimable: Sequence[FilePart] = ()
    unexpected: Sequence[str] = ()
    durable_timestamp: Timestamp | None = None
    fragments: Mapping[Timestamp, Sequence[int]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """True when no file of the object stands."""
        return self.data is None and self.tombstone is None


def parse(name: str) -> FilePart | None:
    """Read a name without fragment index; None when it is no name of an object file."""
    stem, dot, extension = name.rpartition(".")
    if not dot or not stem:
        return None
    kind = dot + extension
    try:
        if kind == META:
            timestamp, content_type, _ = decode_explicit(stem)
            return FilePart(timestamp, META, content_type, name=name)
        return FilePart(Timestamp.parse(stem), kind, name=name)
    except TimestampError:
        return None


def plain_name(part: FilePart) -> str:
    """The name of a file without fragment index."""
    if part.kind == META and part.content_type_timestamp is not None:
        # Written out, not by encode_triple: the difference stands even when it is 0.
        delta = part.content_type_timestamp.raw - part.timestamp.raw
        return f"{part.timestamp.short}{delta:+x}{META}"
    return part.timestamp.internal + part.kind


def choose_replicated(names: Iterable[str]) -> FileSet:
    """Apply the rules to a directory of whole copies."""
    return _choose_replicated(tuple(names))


@lru_cache(maxsize=1024)
def _choose_replicated(names: tuple[str, ...]) -> FileSet:
    # Hot objects are looked up over and over; the same names always mean the same.
    parts, unexpected = [], []
    for name in names:
        part = parse(name)
        if part is None:
            unexpected.append(name)
        else:
            parts.append(part)
    if len(parts) == 1 and parts[0].kind == DATA:  # nearly every directory
        only = parts[0]
        return FileSet(
            data=only, unexpected=unexpected, durable_timestamp=only.timestamp
        )
    if parts and all(part.kind == DATA for part in parts):  # one replaces another
        newest = max(parts, key=_newest_first)
        return FileSet(
            data=newest,
            obsolete=[part for part in parts if part is not newest],
            unexpected=unexpected,
            durable_timestamp=newest.timestamp,
        )
    standing = Standing(parts)
    data = standing.newest(DATA)
    if data is not None:
        standing.drop_not_newer(data, (META, TOMBSTONE, DATA), keep=data)
    return standing.files(data, unexpected)


class Standing:
    """The files of a directory while the rules take away the obsolete ones.

    Made of all parsed parts, it has applied the rules that every scheme shares: those
    of tombstones and of metadata files. The scheme then says what its data files make
    obsolete.
    """

    def __init__(self, parts: Iterable[FilePart]) -> None:
        self._parts = sorted(parts, key=_newest_first, reverse=True)
        self._obsolete: list[FilePart] = []
        tombstone = self.newest(TOMBSTONE)
        if tombstone is not None:
            kinds = {part.kind for part in self._parts}
            self.drop_not_newer(tombstone, kinds, keep=tombstone)
        self._keep_best_metas()

    def of(self, kind: str) -> list[FilePart]:
        """The files of a kind that still stand, newest first."""
        return [part for part in self._parts if part.kind == kind]

    def newest(self, kind: str) -> FilePart | None:
        """The newest file of a kind that still stands."""
        return next((part for part in self._parts if part.kind == kind), None)

    def drop(self, parts: Iterable[FilePart]) -> None:
        """Make files obsolete."""
        for part in parts:
            self._parts.remove(part)
            self._obsolete.append(part)

    def drop_not_newer(
        self, than: FilePart, kinds: Iterable[str], *, keep: FilePart
    ) -> None:
        """Make the files of these kinds that are not newer than `than` obsolete."""
        wanted = set(kinds)
        self.drop(
            [
                part
                for part in self._parts
                if part.kind in wanted
                and part is not keep
                and part.timestamp <= than.timestamp
            ]
        )

    def _keep_best_metas(self) -> None:
        metas = self.of(META)
        if len(metas) < 2:
            return
        newest, others = metas[0], metas[1:]
        best = max(others, key=_content_type_order)
        # The sort put the newest content type first among files of one time, so a
        # better one is in an older file.
        if _content_type_order(best) > _content_type_order(newest):
            others.remove(best)
        self.drop(others)

    def files(
        self,
        data: FilePart | None,
        unexpected: Sequence[str],
        *,
        reclaimable: Iterable[FilePart] = (),
        fragments: Mapping[Timestamp, Sequence[int]] | None = None,
        durable_timestamp: Timestamp | None = None,
    ) -> FileSet:
        """The outcome, given the data file that a scheme has chosen."""
        metas = self.of(META)
        content_type = None
        if data is None:
            reclaimable = [*reclaimable, *metas]
        else:
            for meta in metas:
                when = meta.content_type_timestamp
                if when is not None and when > data.timestamp:
                    content_type = meta
            if durable_timestamp is None and data.fragment_index is None:
                durable_timestamp = data.timestamp
        return FileSet(
            data=data,
            meta=metas[0] if data is not None and metas else None,
            content_type=content_type,
            tombstone=self.newest(TOMBSTONE) if data is None else None,
            obsolete=self._obsolete,
            reclaimable=list(reclaimable),
            unexpected=unexpected,
            durable_timestamp=durable_timestamp,
            fragments=fragments or {},
        )


def _newest_first(part: FilePart) -> tuple[Timestamp, Timestamp, str]:
    return part.timestamp, *_content_type_order(part), part.name


def _content_type_order(part: FilePart) -> tuple[Timestamp]:
    return (part.content_type_timestamp or _NEVER,)


_NEVER = Timestamp(0)
