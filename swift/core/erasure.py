# SPDX-License-Identifier: Apache-2.0
"""Erasure coding: an object as fragments of which any k give it back.

The bytes are cut into segments, each is encoded by itself into k + m fragments, and
archive i is fragment i of every segment, one after the other. The coding is
liberasurecode's. The first k fragments are the segment itself in pieces, so that when
all of them are there it is put together again without arithmetic.

Nothing is decoded before the headers of its fragments have been held against each
other: a fragment that is not what it should be is a BadFragment, which tells the reader
what to get elsewhere. Format and rules: contract erasure-coding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import md5
from typing import Any

from pyeclib.ec_iface import VALID_EC_TYPES, ECDriver, ECDriverError

from swift.core.errors import Corrupt, FormatError, InvalidInput
from swift.core.fragmentfiles import choose_fragments, fragment_name
from swift.core.fragmentformat import HEADER_SIZE, HeaderCheck, read_header
from swift.core.fragments import FragmentCollector
from swift.core.headers import (
    BACKEND_UPDATE_OVERRIDE,
    CONTENT_LENGTH,
    ETAG,
    OBJECT_SYSMETA_EC,
    X_OBJECT_SYSMETA_EC_CONTENT_LENGTH,
    X_OBJECT_SYSMETA_EC_ETAG,
    X_OBJECT_SYSMETA_EC_FRAG_INDEX,
    X_OBJECT_SYSMETA_EC_SCHEME,
    X_OBJECT_SYSMETA_EC_SEGMENT_SIZE,
    Headers,
    title,
)
from swift.core.objectfiles import FilePart, FileSet, Preference
from swift.core.quorum import CopyCollector
from swift.core.ranges import ByteRange, RangeSpec, parse_range
from swift.core.redundancy import (
    POLICY_TYPE,
    ArchiveCheck,
    Collector,
    Decoder,
    Encoder,
    SuffixHash,
)

EC_TYPE = "ec_type"
DATA_FRAGMENTS = "ec_num_data_fragments"
PARITY_FRAGMENTS = "ec_num_parity_fragments"
SEGMENT_SIZE = "ec_object_segment_size"
DUPLICATION = "ec_duplication_factor"
"""The options of a policy that say how its objects are coded."""

DEFAULT_SEGMENT_SIZE = 1048576
SEGMENT_SIZE_MIN = 512
"""Of smaller segments the headers of the fragments are most of what is stored."""

SEGMENT_SIZE_MAX = 256 * 1024 * 1024
"""A segment is held in memory whole, several times over, by every PUT and GET."""

SAFE_VAND_PARITY_MAX = 4
"""isa_l_rs_vand with more parity cannot come back from some losses."""

_SAMPLE = b"sample"


class BadFragment(Corrupt):
    """A fragment that is not the one it should be; its source is of no use.

    index: of the fragment that was asked for.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"fragment {index}: {reason}")
        self.index = index
        self.reason = reason


class ErasureCoding:
    """k data and m parity fragments, each kept `duplication` times.

    segment_size: bytes of the object that are encoded at once. Raises InvalidInput for
    parameters that the installed library cannot do.
    """

    two_phase = True
    is_whole = False
    etag_name: str | None = X_OBJECT_SYSMETA_EC_ETAG

    def __init__(
        self,
        ec_type: str,
        data: int,
        parity: int,
        *,
        segment_size: int = DEFAULT_SEGMENT_SIZE,
        duplication: int = 1,
    ) -> None:
        if ec_type not in VALID_EC_TYPES:
            raise InvalidInput(
                f"{ec_type!r} is not offered here; {', '.join(VALID_EC_TYPES)} are"
            )
        for what, number in (
            ("data fragments", data),
            ("parity fragments", parity),
            ("duplication", duplication),
        ):
            if number < 1:
                raise InvalidInput(f"{number} {what}: one at least is needed")
        if not 1 <= segment_size <= SEGMENT_SIZE_MAX:
            raise InvalidInput(
                f"segments of {segment_size} bytes: 1 to {SEGMENT_SIZE_MAX} can be"
            )
        self.ec_type = ec_type
        self.needed = data
        self.parity = parity
        self.unique = data + parity
        self.segment_size = segment_size
        self.duplication = duplication
        self.ring_size: int | None = self.unique * duplication
        self.scheme = f"{ec_type} {data}+{parity}"
        try:
            self._driver = ECDriver(k=data, m=parity, ec_type=ec_type)
            self.fragment_size = self._fragment_size(segment_size)
            self._samples: list[bytes] = self._driver.encode(_SAMPLE)
            parity_needed: Any = self._driver.min_parity_fragments_needed()
        except ECDriverError as error:
            raise InvalidInput(f"{self.scheme} cannot be had: {error}") from error
        self._parity_needed = int(parity_needed)
        self._suffices = lru_cache(maxsize=4096)(self._sample_decodes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ErasureCoding) and (
            (self.scheme, self.segment_size, self.duplication)
            == (other.scheme, other.segment_size, other.duplication)
        )

    def __hash__(self) -> int:
        return hash((self.scheme, self.segment_size, self.duplication))

    # --- sizes ------------------------------------------------------------------------

    def _fragment_size(self, segment_size: int) -> int:
        info = self._driver.get_segment_info(segment_size, segment_size)
        size: int = info["fragment_size"]
        return size

    def archive_size(self, size: int) -> int:
        """Bytes of each archive of an object of `size` bytes."""
        whole, rest = divmod(size, self.segment_size)
        return whole * self.fragment_size + (self._fragment_size(rest) if rest else 0)

    def archive_index(self, position: int) -> int:
        """The fragment that the node at a position of the ring keeps."""
        return position % self.unique

    def write_quorum(self, nodes: int) -> int:
        """So many that the object survives the loss of one more, in each copy."""
        return (self.needed + self._parity_needed) * self.duplication

    # --- bytes ------------------------------------------------------------------------

    def encoder(self, archives: int) -> Encoder:
        """Encodes a segment as soon as it is complete."""
        return _FragmentEncoder(self, archives)

    def encode(self, segment: bytes) -> list[bytes]:
        """The fragments of one segment, of 1 to segment_size bytes, by index."""
        fragments: list[bytes] = self._driver.encode(segment)
        return fragments

    def decoder(self) -> Decoder:
        """This itself: each segment is decoded on its own."""
        return self

    def decode(self, fragments: Mapping[int, bytes]) -> bytes:
        """A segment from fragments of it: index → bytes, as many as suffice.

        Raises BadFragment.
        """
        size = self._checked_size(fragments)
        needed = self.needed
        pieces = [fragments.get(index) for index in range(needed)]
        if None not in pieces:
            views = [memoryview(piece)[HEADER_SIZE:] for piece in pieces if piece]
            excess = sum(map(len, views)) - size
            while excess > 0:
                last = views.pop()
                if len(last) > excess:
                    views.append(last[: len(last) - excess])
                excess -= len(last)
            return b"".join(views)
        try:
            segment: bytes = self._driver.decode(list(fragments.values()))
        except ECDriverError as error:
            raise BadFragment(min(fragments), f"no decoding: {error}") from error
        if len(segment) != size:
            raise BadFragment(min(fragments), f"{len(segment)} bytes instead of {size}")
        return segment

    def rebuild(self, fragments: Mapping[int, bytes], index: int) -> bytes:
        """The fragment `index` of the segment that `fragments` are of.

        Raises BadFragment.
        """
        self._checked_size(fragments)
        try:
            rebuilt: list[bytes] = self._driver.reconstruct(
                list(fragments.values()), [index]
            )
        except ECDriverError as error:
            raise BadFragment(min(fragments), f"no rebuilding: {error}") from error
        return rebuilt[0]

    def _checked_size(self, fragments: Mapping[int, bytes]) -> int:
        """Bytes of the segment that all fragments say they are of."""
        first = None
        for index, fragment in fragments.items():
            try:
                header = read_header(fragment)
            except FormatError as error:
                raise BadFragment(index, error.reason) from error
            if header.index != index:
                raise BadFragment(index, f"says it is {header.index}")
            if header.size != len(fragment) - HEADER_SIZE:
                raise BadFragment(index, f"{len(fragment)} bytes, says {header.size}")
            if first is None:
                first = header
                size = header.segment_size
                if not 1 <= size <= self.segment_size:
                    raise BadFragment(index, f"of a segment of {size} bytes")
            elif (header.segment_size, header.size, header.coder) != (
                first.segment_size,
                first.size,
                first.coder,
            ):
                raise BadFragment(index, "of another segment than the others")
        assert first is not None, "there are fragments"
        return first.segment_size

    def suffices(self, indexes: Collection[int]) -> bool:
        """True when the fragments of these indexes give a segment back.

        Of most codes any k do; of the others it depends on which.
        """
        return len(indexes) >= self.needed and self._suffices(frozenset(indexes))

    def _sample_decodes(self, indexes: frozenset[int]) -> bool:
        try:
            return bool(
                self._driver.decode([self._samples[index] for index in indexes])
                == _SAMPLE
            )
        except (ECDriverError, IndexError):
            return False

    # --- reads ------------------------------------------------------------------------

    def collector(
        self, *, newest: bool, suppress_missing: int, wants_body: bool
    ) -> Collector:
        """As many fragments of one time as suffice; any durable one without a body."""
        if not wants_body:
            return CopyCollector(newest=newest, suppress_missing=suppress_missing)
        return FragmentCollector(
            needed=self.needed,
            suffices=self.suffices,
            scheme=self.scheme,
            unique=self.unique,
            newest=newest,
            suppress_missing=suppress_missing,
        )

    def archive_range(self, header: str) -> str:
        """The Range header for an archive, from the client's for the object.

        Whole segments are asked for. Of several ranges only the first is: where the
        others lie is known when the object's size is. What is no range stays as it is.
        """
        specs = parse_range(header)
        if not specs:
            return header
        spec = self.archive_spec(specs[0])
        first = "" if spec.first is None else spec.first
        last = "" if spec.last is None else spec.last
        return f"bytes={first}-{last}"

    def archive_spec(self, wanted: RangeSpec) -> RangeSpec:
        """The bytes of an archive that hold the object's.

        The last bytes of an object may begin anywhere in a segment, and an archive's
        last fragment is shorter than the others, so a suffix is rounded up by one
        segment more; what comes before a fragment's start is then to be thrown away.
        The last no bytes are none of an archive either.
        """
        size, each = self.segment_size, self.fragment_size
        if wanted.first is None:
            if not wanted.last:
                return wanted
            return RangeSpec(None, (-(-wanted.last // size) + 1) * each)
        stop = None if wanted.last is None else (wanted.last // size + 1) * each - 1
        return RangeSpec(wanted.first // size * each, stop)

    def segment_range(self, first: int, last: int, size: int) -> ByteRange:
        """The bytes of an archive that hold the segments `first` to `last`.

        size: of the object.
        """
        stop = min((last + 1) * self.segment_size, size)
        return ByteRange(first * self.fragment_size, self.archive_size(stop))

    def object_headers(self, headers: Headers) -> Headers:
        """What an archive's headers say of the object."""
        found = Headers()
        put = dict.__setitem__
        for name, value in headers.items():
            if not name.startswith(OBJECT_SYSMETA_EC):
                put(found, name, value)
        etag = headers.get(X_OBJECT_SYSMETA_EC_ETAG)
        if etag is not None:
            put(found, ETAG, etag)
        size = headers.get(X_OBJECT_SYSMETA_EC_CONTENT_LENGTH)
        if size is not None:
            put(found, CONTENT_LENGTH, size)
        return found

    # --- files ------------------------------------------------------------------------

    def fragment_index(self, record: Mapping[str, str]) -> int:
        """The index that an archive's metadata names. Raises InvalidInput."""
        text = record.get(X_OBJECT_SYSMETA_EC_FRAG_INDEX)
        if text is None:
            raise InvalidInput(f"no {X_OBJECT_SYSMETA_EC_FRAG_INDEX}")
        if not (text.isascii() and text.isdigit()) or len(text) > 4:
            raise InvalidInput(f"{X_OBJECT_SYSMETA_EC_FRAG_INDEX} is {text!r}")
        index = int(text)
        if index >= self.unique:
            raise InvalidInput(f"there is no fragment {index} in {self.scheme}")
        return index

    def conflict(self, record: Mapping[str, str]) -> tuple[str, str] | None:
        """Archives say by which parameters they were made; copies say nothing."""
        scheme = record.get(X_OBJECT_SYSMETA_EC_SCHEME)
        if scheme is None:
            return POLICY_TYPE, "fragments, but there are whole copies"
        ec_type, _, fragments = scheme.partition(" ")
        data, _, parity = fragments.partition("+")
        segment_size = record.get(X_OBJECT_SYSMETA_EC_SEGMENT_SIZE)
        for option, found, wanted in (
            (EC_TYPE, ec_type, self.ec_type),
            (DATA_FRAGMENTS, data, str(self.needed)),
            (PARITY_FRAGMENTS, parity, str(self.parity)),
            (SEGMENT_SIZE, segment_size, str(self.segment_size)),
        ):
            if found not in (None, wanted):
                return option, f"{wanted}, but there are objects of {found}"
        return None

    def record_fault(
        self, record: Mapping[str, str], fragment_index: int | None
    ) -> str | None:
        """Without the object's etag and its own index it is of no use."""
        if not record.get(X_OBJECT_SYSMETA_EC_ETAG):
            return f"record without {X_OBJECT_SYSMETA_EC_ETAG}"
        try:
            index = self.fragment_index(record)
        except InvalidInput as error:
            return str(error)
        if index != fragment_index:
            return f"record of fragment {index} in a file of {fragment_index}"
        return None

    def archive_check(
        self, record: Mapping[str, str], fragment_index: int | None
    ) -> ArchiveCheck | None:
        """Looks at the header of every fragment that goes by.

        Archives of other parameters cannot be judged: where their fragments begin is
        not known.
        """
        scheme = record.get(X_OBJECT_SYSMETA_EC_SCHEME, self.scheme)
        segment_size = record.get(X_OBJECT_SYSMETA_EC_SEGMENT_SIZE)
        if scheme != self.scheme or segment_size not in (None, str(self.segment_size)):
            return None
        size = int(record[CONTENT_LENGTH])
        return HeaderCheck(self.fragment_size, size, fragment_index)

    def file_name(self, part: FilePart) -> str:
        """`<timestamp>#<index>[#d].data`, or as for whole copies."""
        return fragment_name(part)

    def choose(
        self,
        names: Iterable[str],
        *,
        preferences: Sequence[Preference] | None = None,
        fragment_index: int | None = None,
    ) -> FileSet:
        """A fragment of the newest durable set, or of the set that is preferred."""
        return choose_fragments(
            names,
            self.unique,
            preferences=preferences,
            fragment_index=fragment_index,
        )

    def suffix_hashes(self, objects: Iterable[FileSet]) -> SuffixHash:
        """A digest for each index here, and one under None for what all nodes share.

        Those of fragments are made of times only, so that the digest of one index on
        one node can be held against that of another index on another.
        """
        digests: dict[int | None, str] = {}
        texts: dict[int | None, list[str]] = {}
        for files in objects:
            for key, text in _hashed(files):
                texts.setdefault(key, []).append(text)
        for key, parts in texts.items():
            whole = "".join(parts).encode("ascii")
            digests[key] = md5(whole, usedforsecurity=False).hexdigest()
        return digests


def _hashed(files: FileSet) -> Iterable[tuple[int | None, str]]:
    """What one directory adds to the digests (contract object-on-disk 7.2)."""
    if files.meta is not None:
        yield None, files.meta.timestamp.internal + files.meta.kind
    if files.tombstone is not None:
        yield None, files.tombstone.timestamp.internal + files.tombstone.kind
    for timestamp, indexes in files.fragments.items():
        for index in indexes:
            yield index, timestamp.internal
    if files.durable_timestamp is not None:
        yield None, f"{files.durable_timestamp.internal}.durable"
    if files.content_type is not None:
        when = files.content_type.content_type_timestamp
        assert when is not None, "the file was chosen for this time"
        yield None, f"{when.internal}_ctype"


class _FragmentEncoder:
    """The archives of one object, a segment at a time.

    etag: of the object. The sums of the archives are sent with objects of one segment
    only: over one and a half times the bytes or more they would cost a proxy more than
    all else it does, and the nodes count the bytes of the others.
    """

    step = 262144

    def __init__(self, coding: ErasureCoding, archives: int) -> None:
        self._coding = coding
        self._archives = archives
        self._pieces: list[bytes] = []
        self._held = 0
        self._digest = md5(usedforsecurity=False)
        self._size = 0
        self._segments = 0
        self._only: list[bytes] | None = None

    def feed(self, data: bytes) -> Sequence[bytes]:
        self._digest.update(data)
        self._size += len(data)
        segment_size = self._coding.segment_size
        if self._held + len(data) < segment_size:
            self._pieces.append(data)
            self._held += len(data)
            return (b"",) * self._archives
        made = []
        at = segment_size - self._held
        made.append(self._encode(b"".join([*self._pieces, data[:at]])))
        while at + segment_size <= len(data):
            made.append(self._encode(data[at : at + segment_size]))
            at += segment_size
        self._pieces = [data[at:]] if at < len(data) else []
        self._held = len(data) - at
        if len(made) == 1:
            return self._spread(made[0])
        return self._spread([b"".join(parts) for parts in zip(*made, strict=True)])

    def finish(self) -> Sequence[bytes]:
        if not self._held:
            return (b"",) * self._archives
        segment, self._pieces, self._held = b"".join(self._pieces), [], 0
        return self._spread(self._encode(segment))

    def _encode(self, segment: bytes) -> list[bytes]:
        fragments = self._coding.encode(segment)
        self._only = None if self._segments else fragments
        self._segments += 1
        return fragments

    def _spread(self, fragments: list[bytes]) -> Sequence[bytes]:
        return fragments * (self._archives // len(fragments))

    @property
    def etag(self) -> str:
        """MD5 of the object, once it has ended."""
        return self._digest.hexdigest()

    def footers(self, archive: int, added: Mapping[str, str] | None) -> dict[str, str]:
        """What is stored with an archive beside what the client sent.

        added: by filters; they have no say about the coding and the archive's bytes.
        """
        coding, etag, size = self._coding, self.etag, str(self._size)
        index = coding.archive_index(archive)
        footers = {
            X_OBJECT_SYSMETA_EC_ETAG: etag,
            X_OBJECT_SYSMETA_EC_CONTENT_LENGTH: size,
            f"{BACKEND_UPDATE_OVERRIDE}Etag": etag,
            f"{BACKEND_UPDATE_OVERRIDE}Size": size,
            X_OBJECT_SYSMETA_EC_FRAG_INDEX: str(index),
            X_OBJECT_SYSMETA_EC_SCHEME: coding.scheme,
            X_OBJECT_SYSMETA_EC_SEGMENT_SIZE: str(coding.segment_size),
        }
        for name, value in (added or {}).items():
            titled = title(name)
            if titled != ETAG and not titled.startswith(OBJECT_SYSMETA_EC):
                footers[titled] = value
        if self._segments <= 1:
            only = b"" if self._only is None else self._only[index]
            footers[ETAG] = md5(only, usedforsecurity=False).hexdigest()
        return footers
