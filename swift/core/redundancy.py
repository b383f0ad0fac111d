# SPDX-License-Identifier: Apache-2.0
"""How one object becomes the archives that its nodes keep, and comes back.

A replicated object is an erasure code with one data part: any one archive gives the
object back. PUT, GET, the file layout and the healing daemons ask this protocol; what
replication and erasure coding do differently is said by its implementations and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import md5
from typing import Protocol

from swift.core.objectfiles import (
    FilePart,
    FileSet,
    Preference,
    choose_replicated,
    plain_name,
)
from swift.core.quorum import Answer, CopyCollector

SuffixHash = str | dict[int | None, str]
"""What one suffix directory comes to: one digest, or one for each fragment index."""


class Encoder(Protocol):
    """Turns the bytes of one object into those of its archives, as they come."""

    def feed(self, data: bytes) -> Sequence[bytes]:
        """One chunk for each archive; empty ones where more must come first."""
        ...

    def finish(self) -> Sequence[bytes]:
        """What is still owed when the object has ended."""
        ...


class Collector(Protocol):
    """Decides, from what nodes answer to a read, whether the object can be given.

    chosen: the answer that makes the object, or whose headers stand for it.
    dropped: good answers that are not wanted; what they hold must be closed.
    """

    chosen: Answer | None
    dropped: list[Answer]

    def feed(self, answer: Answer) -> bool:
        """Take one more answer; True when no further node need be asked."""
        ...

    def refusal(self) -> Answer | None:
        """What most of the answers say when nothing was chosen; None: no agreement."""
        ...


class Redundancy(Protocol):
    """The rules of one kind of durability."""

    needed: int
    """Archives that give the object back: 1, or the number of data fragments."""

    two_phase: bool
    """A PUT is durable only after a commit message."""

    def write_quorum(self, nodes: int) -> int:
        """Nodes out of `nodes` primaries that must have stored a write."""
        ...

    def encoder(self, archives: int) -> Encoder:
        """For one PUT to so many nodes."""
        ...

    def collector(self, *, newest: bool, suppress_missing: int) -> Collector:
        """For one GET or HEAD.

        newest: the latest of all answers counts. suppress_missing: so many 404s of
        primaries, without a timestamp, say nothing.
        """
        ...

    def file_name(self, part: FilePart) -> str:
        """The name on disk of a file that is to be made."""
        ...

    def choose(
        self,
        names: Iterable[str],
        *,
        preferences: Sequence[Preference] | None = None,
        fragment_index: int | None = None,
    ) -> FileSet:
        """Which files of an object directory make the object, and which are obsolete.

        preferences: sets of fragments that the reader would take, best first; None
        means durable data only. fragment_index: the only index that will do. Schemes
        without fragments pay no heed to either.
        """
        ...

    def suffix_hashes(self, objects: Iterable[FileSet]) -> SuffixHash:
        """The digest that replicas compare; objects in the order of their hashes.

        Two nodes with the same files get the same digest, and files that a clean-up
        would remove do not count.
        """
        ...


class Replication:
    """Every archive is the object."""

    needed = 1
    two_phase = False

    def write_quorum(self, nodes: int) -> int:
        """Half of the nodes, rounded up.

        Half is enough for an even count, so that a cluster of two replicas stays
        writable with one node down; clusters depend on this number.
        """
        return (nodes + 1) // 2

    def encoder(self, archives: int) -> Encoder:
        """The same bytes object for every node: no copy."""
        return _SameForAll(archives)

    def collector(self, *, newest: bool, suppress_missing: int) -> Collector:
        """The first good copy, or the newest."""
        return CopyCollector(newest=newest, suppress_missing=suppress_missing)

    def file_name(self, part: FilePart) -> str:
        """`<timestamp>.<kind>`."""
        return plain_name(part)

    def choose(
        self,
        names: Iterable[str],
        *,
        preferences: Sequence[Preference] | None = None,
        fragment_index: int | None = None,
    ) -> FileSet:
        """The newest data file and what a POST added, or a tombstone."""
        return choose_replicated(names)

    def suffix_hashes(self, objects: Iterable[FileSet]) -> str:
        """One MD5 over the times of all files that stand."""
        digest = md5(usedforsecurity=False)
        for files in objects:
            for text in hashed_names(files):
                digest.update(text.encode("ascii"))
        return digest.hexdigest()


class _SameForAll:
    def __init__(self, archives: int) -> None:
        self._archives = archives

    def feed(self, data: bytes) -> Sequence[bytes]:
        return (data,) * self._archives

    def finish(self) -> Sequence[bytes]:
        return (b"",) * self._archives


def hashed_names(files: FileSet) -> Iterator[str]:
    """What one whole copy adds to its suffix's digest (contract object-on-disk 7.2)."""
    if files.meta is not None:
        yield files.meta.timestamp.internal + files.meta.kind
    if files.tombstone is not None:
        yield files.tombstone.timestamp.internal + files.tombstone.kind
    if files.data is not None:
        yield files.data.timestamp.internal + files.data.kind
    if files.content_type is not None:
        when = files.content_type.content_type_timestamp
        assert when is not None, "the file was chosen for this time"
        yield f"{when.internal}_ctype"
