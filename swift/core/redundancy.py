# SPDX-License-Identifier: Apache-2.0
"""How one object becomes the archives that its nodes keep, and comes back.

A replicated object is an erasure code with one data part: any one archive gives the
object back. PUT, GET, the file layout and the healing daemons ask this protocol; what
replication and erasure coding do differently is said by its implementations and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import md5
from typing import Any, Protocol

from swift.core.headers import X_OBJECT_SYSMETA_EC_SCHEME, Headers
from swift.core.objectfiles import (
    FilePart,
    FileSet,
    Preference,
    choose_replicated,
    plain_name,
)
from swift.core.quorum import Answer, CopyCollector
from swift.core.ranges import ByteRange

POLICY_TYPE = "policy_type"
"""The option that says which of the implementations a policy has."""

SuffixHash = str | dict[int | None, str]
"""What one suffix directory comes to: one digest, or one for each fragment index."""


class Encoder(Protocol):
    """Turns the bytes of one object into those of its archives, as they come.

    step: bytes that are best fed at once, 0 when it does not matter.
    """

    step: int

    def feed(self, data: bytes) -> Sequence[bytes]:
        """One chunk for each archive; empty ones where more must come first."""
        ...

    def finish(self) -> Sequence[bytes]:
        """What is still owed when the object has ended."""
        ...

    @property
    def etag(self) -> str | None:
        """MD5 in hex of the object, which has ended; None: its nodes count it."""
        ...

    def footers(
        self, archive: int, added: Mapping[str, str] | None
    ) -> Mapping[str, str] | None:
        """What follows the bytes of one archive; None for nothing.

        added: what filters want stored.
        """
        ...


class Decoder(Protocol):
    """Gives the object back from archives that are more than its bytes, by segments.

    segment_size: bytes of the object in each; the last may be shorter. fragment_size:
    bytes of an archive that are of one such segment. scheme: what archives of this code
    say they are of. unique: how many fragments there are.
    """

    scheme: str
    unique: int
    segment_size: int
    fragment_size: int

    def decode(self, fragments: Mapping[int, bytes]) -> bytes:
        """One segment from fragments of it: index → bytes. Raises BadFragment."""
        ...

    def rebuild(self, fragments: Mapping[int, bytes], index: int) -> bytes:
        """The fragment `index` of the segment that `fragments` are of.

        Raises BadFragment.
        """
        ...

    def suffices(self, indexes: Collection[int]) -> bool:
        """True when the fragments of these indexes give a segment back."""
        ...

    def archive_size(self, size: int) -> int:
        """Bytes of each archive of an object of `size` bytes."""
        ...

    def segment_range(self, first: int, last: int, size: int) -> ByteRange:
        """The bytes of an archive with the segments `first` to `last`.

        size: of the object.
        """
        ...


class ArchiveCheck(Protocol):
    """Looks at the bytes of an archive that is read from its start."""

    def feed(self, data: bytes | memoryview) -> str | None:
        """Why the archive cannot be trusted; None as long as it can."""
        ...


class Collector(Protocol):
    """Decides, from what nodes answer to a read, whether the object can be given.

    chosen: the answer that makes the object, or whose headers stand for it. sources:
    index → answer, when several make it together. dropped: good answers that are not
    wanted; what they hold must be closed. useless: those of them whose nodes should not
    have given them. wanted: answers it still takes, at the least.
    """

    @property
    def chosen(self) -> Answer | None: ...

    @property
    def sources(self) -> Mapping[int, Answer]: ...

    @property
    def dropped(self) -> list[Answer]: ...

    @property
    def useless(self) -> Sequence[Answer]: ...

    @property
    def wanted(self) -> int: ...

    def extra(self) -> Sequence[tuple[str, str]]:
        """Headers for the next node, because of what has been answered."""
        ...

    def revisit(self) -> Any | None:
        """The source of an answer whose node should be asked again, None for none."""
        ...

    @property
    def undecided(self) -> bool:
        """True when the answers so far allow neither a copy nor a refusal."""
        ...

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

    is_whole: bool
    """An archive is the object's bytes and nothing else, so that a node can hold them
    against the etag and the ranges of a client."""

    ring_size: int | None
    """Nodes that the ring must give an object; None for any number."""

    etag_name: str | None
    """Metadata of an archive that has the object's etag; None: its own is that."""

    def write_quorum(self, nodes: int) -> int:
        """Nodes out of `nodes` primaries that must have stored a write."""
        ...

    def archive_size(self, size: int) -> int:
        """Bytes of each archive of an object of `size` bytes."""
        ...

    def archive_index(self, position: int) -> int | None:
        """The archive that the node at a position of the ring keeps; None: the same
        as all others.
        """
        ...

    def encoder(self, archives: int) -> Encoder:
        """For one PUT to so many nodes."""
        ...

    def decoder(self) -> Decoder | None:
        """For bodies of GETs; None when an archive's bytes are the object's."""
        ...

    def collector(
        self, *, newest: bool, suppress_missing: int, wants_body: bool
    ) -> Collector:
        """For one GET or HEAD.

        newest: the latest of all answers counts. suppress_missing: so many 404s of
        primaries, without a timestamp, say nothing.
        """
        ...

    def archive_range(self, header: str) -> str:
        """The Range header for nodes, from the client's."""
        ...

    def object_headers(self, headers: Headers) -> Headers:
        """What the headers of an archive say of the object."""
        ...

    def fragment_index(self, record: Mapping[str, str]) -> int | None:
        """Which archive a record is of; None: all are the same.

        Raises InvalidInput when the record does not say it.
        """
        ...

    def conflict(self, record: Mapping[str, str]) -> tuple[str, str] | None:
        """The option of the policy that what is stored already contradicts, and how;
        None when a record is of the policy.
        """
        ...

    def record_fault(
        self, record: Mapping[str, str], fragment_index: int | None
    ) -> str | None:
        """Why a record is not that of a durable archive; None when it may be.

        fragment_index: as the name of its file says.
        """
        ...

    def archive_check(
        self, record: Mapping[str, str], fragment_index: int | None
    ) -> ArchiveCheck | None:
        """For a read of an archive from its start; None when its checksum is all there
        is.

        record: its metadata. fragment_index: as the name of its file says.
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
    is_whole = True
    ring_size: int | None = None
    etag_name: str | None = None

    def write_quorum(self, nodes: int) -> int:
        """Half of the nodes, rounded up.

        Half is enough for an even count, so that a cluster of two replicas stays
        writable with one node down; clusters depend on this number.
        """
        return (nodes + 1) // 2

    def archive_size(self, size: int) -> int:
        """The object's own."""
        return size

    def archive_index(self, position: int) -> None:
        """All keep the same."""

    def encoder(self, archives: int) -> Encoder:
        """The same bytes object for every node: no copy."""
        return _SameForAll(archives)

    def decoder(self) -> None:
        """There is nothing to decode."""

    def collector(
        self, *, newest: bool, suppress_missing: int, wants_body: bool
    ) -> Collector:
        """The first good copy, or the newest."""
        return CopyCollector(newest=newest, suppress_missing=suppress_missing)

    def archive_range(self, header: str) -> str:
        """The client's own: the nodes judge it."""
        return header

    def object_headers(self, headers: Headers) -> Headers:
        """They are the object's."""
        return headers

    def fragment_index(self, record: Mapping[str, str]) -> None:
        """There are no fragments."""

    def conflict(self, record: Mapping[str, str]) -> tuple[str, str] | None:
        """Fragments are no copies."""
        scheme = record.get(X_OBJECT_SYSMETA_EC_SCHEME)
        if scheme is None:
            return None
        return POLICY_TYPE, f"copies, but there are fragments of {scheme}"

    def record_fault(
        self, record: Mapping[str, str], fragment_index: int | None
    ) -> None:
        """What every object must say has been looked at."""

    def archive_check(
        self, record: Mapping[str, str], fragment_index: int | None
    ) -> None:
        """The checksum of the whole is enough."""

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
    step = 0

    def __init__(self, archives: int) -> None:
        self._archives = archives

    def feed(self, data: bytes) -> Sequence[bytes]:
        return (data,) * self._archives

    def finish(self) -> Sequence[bytes]:
        return (b"",) * self._archives

    @property
    def etag(self) -> None:
        return None

    def footers(
        self, archive: int, added: Mapping[str, str] | None
    ) -> Mapping[str, str] | None:
        return added


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
