# SPDX-License-Identifier: Apache-2.0
"""Large objects: what their manifests say, and which segments hold which bytes.

A static manifest lists its segments, with size and etag of each as they were when it
was stored; a dynamic one names a container and a prefix, and its segments are what is
listed there when somebody reads it. Nothing here asks for a segment: what is known of
them comes in as values. Stored form: golden slo/manifest-on-disk.json; contract:
middleware 11 and 26.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5
from typing import Any
from urllib.parse import unquote_to_bytes

from swift.core.errors import FormatError, InvalidInput
from swift.core.ranges import ByteRange, parse_range

DEPTH_MAX = 10
"""Manifests within manifests, the outermost counted."""

_CLIENT_KEYS = frozenset(("path", "etag", "size_bytes", "range"))


@dataclass(frozen=True, slots=True)
class ObjectSegment:
    """A segment that is an object, or a part of one.

    path: `/container/object`, decoded, in the manifest's account. size, etag: of the
    whole object, for a manifest those of what it stands for. span: the part that is
    meant, None for all of it.
    """

    path: str
    size: int
    etag: str
    content_type: str = "application/octet-stream"
    last_modified: str = "1970-01-01T00:00:00.000000"
    span: ByteRange | None = None
    is_manifest: bool = False

    @property
    def part(self) -> ByteRange:
        """The bytes of the object that belong to the large object."""
        return self.span or ByteRange(0, self.size)

    @property
    def length(self) -> int:
        """How many bytes of the large object it holds."""
        return self.part.size

    @property
    def tag(self) -> str:
        """What it adds to the etag of the large object."""
        if self.span is None:
            return self.etag
        return f"{self.etag}:{self.span.start}-{self.span.stop - 1};"

    def record(self) -> dict[str, Any]:
        """The stored form."""
        record: dict[str, Any] = {
            "name": self.path,
            "bytes": self.size,
            "hash": self.etag,
            "content_type": self.content_type,
            "last_modified": self.last_modified,
        }
        if self.span is not None:
            record["range"] = f"{self.span.start}-{self.span.stop - 1}"
        if self.is_manifest:
            record["sub_slo"] = True
        return record

    def raw_record(self) -> dict[str, Any]:
        """The form in which a client would PUT it."""
        record = {"path": self.path, "etag": self.etag, "size_bytes": self.size}
        if self.span is not None:
            record["range"] = f"{self.span.start}-{self.span.stop - 1}"
        return record


@dataclass(frozen=True, slots=True)
class DataSegment:
    """A segment whose bytes stand in the manifest itself."""

    data: bytes

    @property
    def length(self) -> int:
        """How many bytes."""
        return len(self.data)

    @property
    def part(self) -> ByteRange:
        """All of its bytes."""
        return ByteRange(0, len(self.data))

    @property
    def tag(self) -> str:
        """What it adds to the etag of the large object."""
        return md5(self.data, usedforsecurity=False).hexdigest()

    def record(self) -> dict[str, Any]:
        """The stored form, which is also the client's."""
        return {"data": b64encode(self.data).decode("ascii")}

    raw_record = record


Segment = ObjectSegment | DataSegment


@dataclass(frozen=True, slots=True)
class SloManifest:
    """A static large object."""

    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """Bytes of the large object."""
        return sum(segment.length for segment in self.segments)

    @property
    def etag(self) -> str:
        """The etag of the large object: that of the list of its segments."""
        tags = "".join(segment.tag for segment in self.segments)
        return md5(tags.encode("utf-8"), usedforsecurity=False).hexdigest()

    def dump(self) -> bytes:
        """The stored form."""
        return json.dumps([segment.record() for segment in self.segments]).encode()

    def dump_raw(self) -> bytes:
        """What a client may PUT to get this manifest again."""
        records = [segment.raw_record() for segment in self.segments]
        return json.dumps(records, sort_keys=True).encode()

    @classmethod
    def load(cls, data: bytes) -> SloManifest:
        """Read the stored form. Raises FormatError."""
        try:
            records = json.loads(data)
            return cls(tuple(map(_stored_segment, records)))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError("SLO manifest", f"cannot be read: {error}") from error

    def parts_within(self, wanted: ByteRange) -> Iterator[tuple[Segment, ByteRange]]:
        """Segments that hold the wanted bytes, in order, and which of their bytes."""
        return parts_within(self.segments, wanted)


def parts_within(
    segments: Iterable[Segment], wanted: ByteRange
) -> Iterator[tuple[Segment, ByteRange]]:
    """Segments that hold some of the wanted bytes of their concatenation.

    The range beside each is of its own bytes: those of the object that it names.
    """
    position = 0
    for segment in segments:
        if position >= wanted.stop:
            return
        part = segment.part
        start = max(wanted.start - position, 0)
        stop = min(wanted.stop - position, part.size)
        if start < stop:
            yield segment, ByteRange(part.start + start, part.start + stop)
        position += part.size


def _stored_segment(record: dict[str, Any]) -> Segment:
    if "data" in record:
        return DataSegment(b64decode(record["data"], validate=True))
    size = int(record["bytes"])
    span = None
    text = record.get("range")
    if text:
        first, _dash, last = str(text).partition("-")
        span = ByteRange(int(first), int(last) + 1)
        if not 0 <= span.start < span.stop:
            raise ValueError(f"bad range {text!r}")
    if size < 0:
        raise ValueError(f"bad size {size}")
    name = record["name"]
    if not isinstance(name, str):
        raise TypeError("name is no text")
    return ObjectSegment(
        "/" + name.lstrip("/"),
        size,
        str(record["hash"]),
        str(record.get("content_type") or "application/octet-stream"),
        str(record.get("last_modified") or "1970-01-01T00:00:00.000000"),
        span,
        bool(record.get("sub_slo")),
    )


# --- What a client sends --------------------------------------------------------------


class ManifestError(InvalidInput):
    """A manifest that breaks the rules; the message has a line for each fault."""


class TooManySegments(ManifestError):
    """More segments than the cluster allows."""


@dataclass(frozen=True, slots=True)
class WantedSegment:
    """A segment as a client describes it; None for what it does not say.

    index: its place in the list. range_text: the client's, which parses.
    """

    index: int
    path: str
    etag: str | None
    size: int | None
    range_text: str | None
    is_last: bool

    @property
    def obj(self) -> tuple[str, str]:
        """Container and object."""
        container, _slash, obj = self.path[1:].partition("/")
        return container, obj


def parse_client_manifest(
    body: bytes, *, own_path: str, segments_max: int
) -> list[WantedSegment | DataSegment]:
    """The segments that a client wants, in order.

    own_path: `/container/object` of the manifest, which cannot be its own segment.
    segments_max: of those that are objects. Raises ManifestError, TooManySegments.
    """
    try:
        records = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ManifestError("Manifest must be valid JSON.\n") from error
    if not isinstance(records, list):
        raise ManifestError("Manifest must be a list.\n")
    count = sum(1 for item in records if isinstance(item, dict) and "data" not in item)
    if count > segments_max:
        raise TooManySegments(
            f"Number of object-backed segments must be <= {segments_max}\n"
        )
    found: list[WantedSegment | DataSegment] = []
    faults: list[str] = []
    for index, record in enumerate(records):
        last = index == len(records) - 1
        try:
            found.append(_client_segment(index, record, own_path, is_last=last))
        except ManifestError as error:
            faults.append(f"Index {index}: {error}\n")
    if records and not faults and not count:
        faults.append("Inline data segments require at least one object-backed one.\n")
    if faults:
        raise ManifestError("".join(faults))
    return found


def _client_segment(
    index: int, record: Any, own_path: str, *, is_last: bool
) -> WantedSegment | DataSegment:
    if not isinstance(record, dict):
        raise ManifestError("not a JSON object")
    if "data" in record:
        return _client_data(record)
    unknown = sorted(set(record) - _CLIENT_KEYS)
    if unknown:
        raise ManifestError(f"extraneous keys {', '.join(map(repr, unknown))}")
    path = _client_path(record)
    if path == own_path:
        raise ManifestError("manifest must not include itself as a segment")
    etag = record.get("etag")
    if etag is not None and not isinstance(etag, str):
        raise ManifestError("etag must be a string or null")
    size = _client_size(record.get("size_bytes"), is_last=is_last)
    range_text = record.get("range")
    if range_text is not None:
        _check_range(range_text, size)
    etag = etag.strip('"') if etag else None
    return WantedSegment(index, path, etag or None, size, range_text, is_last)


def _client_data(record: dict[str, Any]) -> DataSegment:
    unknown = sorted(set(record) - {"data"})
    if unknown:
        raise ManifestError(f"extraneous keys {', '.join(map(repr, unknown))}")
    try:
        data = b64decode(record["data"], validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ManifestError("data must be valid base64") from error
    if not data:
        raise ManifestError("data must not be empty")
    return DataSegment(data)


def _client_path(record: dict[str, Any]) -> str:
    path = record.get("path")
    if not isinstance(path, str):
        raise ManifestError("path must be a string")
    container, _slash, obj = path.lstrip("/").partition("/")
    if not container or not obj:
        raise ManifestError("path does not refer to an object. Path must be of the "
                            "form /container/object.")  # fmt: skip
    try:
        path.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ManifestError("path is not valid Unicode") from error
    return f"/{container}/{obj}"


def _client_size(value: Any, *, is_last: bool) -> int | None:
    if value is None:
        return None
    try:
        if isinstance(value, bool | float):
            raise ValueError
        size = int(value)
    except (TypeError, ValueError) as error:
        raise ManifestError("invalid size_bytes") from error
    if size < 0 or (size < 1 and not is_last):
        raise ManifestError("too small; each segment must be at least 1 byte.")
    return size


def _check_range(text: Any, size: int | None) -> None:
    specs = parse_range(f"bytes={text}") if isinstance(text, str) else None
    if specs is None:
        raise ManifestError("invalid range")
    if len(specs) > 1:
        raise ManifestError("multiple ranges (only one allowed)")
    if size is not None and specs[0].within(size) is None:
        raise ManifestError("unsatisfiable range")


def span_of(range_text: str, size: int) -> ByteRange | None:
    """The bytes that a segment's range means in an object; None when there are none."""
    specs = parse_range(f"bytes={range_text}")
    return specs[0].within(size) if specs else None


# --- Dynamic large objects ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DloManifest:
    """A dynamic large object: all objects of a container that begin so.

    container, prefix: WSGI strings, decoded.
    """

    container: str
    prefix: str

    @classmethod
    def parse(cls, value: str) -> DloManifest:
        """Read an X-Object-Manifest. Raises ManifestError when it names no objects."""
        raw = unquote_to_bytes(value.encode("latin-1"))
        container, _slash, prefix = raw.decode("latin-1").partition("/")
        bad = not container or not prefix or prefix[0] == "/" or not _is_text(raw)
        if bad or "?" in value or "&" in value:
            raise ManifestError("a manifest must name container/prefix")
        return cls(container, prefix)


def _is_text(name: bytes) -> bool:
    """False for bytes that no path may hold, so that nothing could be read by them."""
    try:
        return "\0" not in name.decode("utf-8")
    except UnicodeDecodeError:
        return False


def dlo_etag(etags: Sequence[str]) -> str:
    """The etag of a dynamic large object from those of its segments."""
    return md5("".join(etags).encode("utf-8"), usedforsecurity=False).hexdigest()
