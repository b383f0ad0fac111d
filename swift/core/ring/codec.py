# SPDX-License-Identifier: Apache-2.0
"""Ring files as bytes: versions 0 (read), 1 and 2 (read and written).

All are one gzip member. Version 0 is a pickle and only of historic interest:
`read_ring` refuses it, as servers must, unless the caller asks for it. Version 1 is a
header, a JSON text and a table of 16-bit device ids. Version 2 is a sequence of
sections with an index at the end, each section starting where a reader may begin to
inflate.

Format: doc/source/formats/ring.md. Interop: the golden rings of
test/interop/golden/ring.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.core import pickles
from swift.core.errors import FormatError
from swift.core.ring.devices import Device
from swift.core.ring.ring import PART_POWER_MAX, Ring, Row, row_type

MAGIC = b"R1NG"
VERSIONS = (1, 2)
RAW_SIZE_MAX = 1024 * 1024 * 1024
"""Bytes of the largest decompressed ring that is read."""

# Fixed, so that equal rings give equal bytes.
_MTIME = 1300507380
_GZIP_HEAD = struct.Struct("<4BL2B")
_EMPTY_STORED_BLOCK = b"\x00\x00\x00\xff\xff"
_FINAL_STORED_BLOCK = b"\x01\x00\x00\xff\xff"
_LEVEL = 9

_METADATA = "swift/ring/metadata"
_DEVICES = "swift/ring/devices"
_ASSIGNMENTS = "swift/ring/assignments"
_CHECKSUMS = frozenset(("md5", "sha1", "sha256", "sha512"))
_V1_ID_MAX = 0xFFFE


@dataclass(frozen=True, slots=True)
class RingFileInfo:
    """What `swift-ring-builder version` shows of a ring file."""

    version: int
    dev_id_bytes: int
    build_version: int | None


def read_ring(data: bytes, *, allow_v0: bool = False) -> Ring:
    """The ring in a file's bytes.

    allow_v0: also read the pickled format that servers refuse. Raises FormatError for
    everything that is not a whole, consistent ring.
    """
    raw = _decompress(data)
    version = _version(raw, allow_v0=allow_v0)
    try:
        if version == 0:
            return _read_v0(raw)
        if version == 1:
            return _read_v1(raw)
        return _read_v2(raw)[0]
    except FormatError:
        raise
    # A field that is missing, of another type or size, or beyond the end of the bytes.
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise FormatError("ring", f"{type(error).__name__}: {error}") from error


def ring_file_info(data: bytes) -> RingFileInfo:
    """Format version, id width and build version; raises FormatError like read_ring."""
    raw = _decompress(data)
    version = _version(raw, allow_v0=False)
    ring = read_ring(data)
    width = _read_v2(raw)[1] if version == 2 else 2
    return RingFileInfo(version, width, ring.version)


def write_ring(
    ring: Ring,
    version: int = 1,
    *,
    file_name: str = "",
    dev_id_bytes: int | None = None,
) -> bytes:
    """The bytes of a ring file.

    file_name: base name without `.gz`, noted in the gzip header; dev_id_bytes: 2 or 4,
    default the narrowest that fits. Raises FormatError when the ids do not fit.
    """
    if version not in VERSIONS:
        raise FormatError("ring", f"version {version} cannot be written")
    width = dev_id_bytes or ring.dev_id_bytes
    if width not in (2, 4) or width < ring.dev_id_bytes:
        raise FormatError("ring", f"device ids do not fit {width} bytes")
    if version == 1:
        if width != 2 or len(ring.devices) - 1 > _V1_ID_MAX:
            raise FormatError("ring", "version 1 has no device ids of 4 bytes")
        return _write_v1(ring, file_name)
    return _write_v2(ring, file_name, width)


def _decompress(data: bytes) -> bytes:
    engine = zlib.decompressobj(wbits=31)
    try:
        raw = engine.decompress(data, RAW_SIZE_MAX)
    except zlib.error as error:
        raise FormatError("ring", f"not a gzip file ({error})") from error
    if engine.unconsumed_tail:
        raise FormatError("ring", f"more than {RAW_SIZE_MAX} bytes")
    if not engine.eof:
        raise FormatError("ring", "file is cut short")
    return raw


def _version(raw: bytes, *, allow_v0: bool) -> int:
    if raw[:4] != MAGIC:
        if allow_v0 and raw[:1] in (b"\x80", b"(", b"}", b"c"):
            return 0
        raise FormatError("ring", f"Bad ring magic: {raw[:4]!r}")
    version = int.from_bytes(raw[4:6], "big")
    if len(raw) < 6 or version not in VERSIONS:
        raise FormatError("ring", f"unknown ring version {version}")
    return version


def _read_v0(raw: bytes) -> Ring:
    content = pickles.loads_builder(raw)
    if not isinstance(content, dict):
        raise FormatError("ring", "pickle holds no ring")
    return Ring(
        part_power=32 - int(content["part_shift"]),
        devices=_devices(content["devs"]),
        rows=[array("H", row) for row in content["replica2part2dev_id"]],
        size_bytes=len(raw),
    )


def _read_v1(raw: bytes) -> Ring:
    (length,) = struct.unpack_from(">L", raw, 6)
    table = 10 + length
    if table > len(raw):
        raise FormatError("ring", "JSON text is cut short")
    facts = _json_object(raw[10:table])
    byteorder = facts.get("byteorder", sys.byteorder)
    if byteorder not in ("little", "big"):
        raise FormatError("ring", f"byte order {byteorder!r}")
    part_power = _part_power(facts)
    row_count = int(facts["replica_count"])
    rows = _rows(raw, table, len(raw), 2, byteorder, part_power)
    if len(rows) != row_count:
        raise FormatError("ring", f"{len(rows)} rows instead of {row_count}")
    return Ring(
        part_power=part_power,
        devices=_devices(facts["devs"]),
        rows=rows,
        version=_optional_int(facts, "version"),
        next_part_power=_optional_int(facts, "next_part_power"),
        size_bytes=len(raw),
    )


def _read_v2(raw: bytes) -> tuple[Ring, int]:
    """The ring, and the width of its table entries.

    The bytes are inflated from the front, not by seeking with the index, so a file that
    some tool compressed anew is read as well; the end of the bytes gives the index.
    """
    (index_at,) = struct.unpack_from(">Q", raw, len(raw) - 16)
    index = _json_object(raw[slice(*_blob(raw, index_at))])
    metadata = _json_object(raw[slice(*_section(raw, index, _METADATA))])
    devices = json.loads(raw[slice(*_section(raw, index, _DEVICES))])
    width = metadata["dev_id_bytes"]
    if width not in (2, 4):
        raise FormatError("ring", f"device ids of {width!r} bytes")
    part_power = _part_power(metadata)
    start, stop = _section(raw, index, _ASSIGNMENTS)
    rows = _rows(raw, start, stop, width, "big", part_power)
    if len(rows) != math.ceil(float(metadata["replica_count"])):
        raise FormatError("ring", f"{len(rows)} rows do not fit the replica count")
    ring = Ring(
        part_power=part_power,
        devices=_devices(devices),
        rows=rows,
        version=_optional_int(metadata, "version"),
        next_part_power=_optional_int(metadata, "next_part_power"),
        size_bytes=len(raw),
    )
    return ring, width


def _blob(raw: bytes, at: int) -> tuple[int, int]:
    """Where the bytes after a length prefix start and stop."""
    (length,) = struct.unpack_from(">Q", raw, at)
    start = at + 8
    if length > len(raw) - start:
        raise FormatError("ring", f"section at {at} is cut short")
    return start, start + length


def _section(raw: bytes, index: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Where a section's payload starts and stops, its checksum verified."""
    if name not in index:
        raise FormatError("ring", f"no section {name}")
    _, at, compressed_stop, stop, method, checksum = index[name]
    start, found_stop = _blob(raw, at)
    if compressed_stop is not None and stop != found_stop:
        raise FormatError("ring", f"section {name} has not the size of its index entry")
    if checksum:
        if method not in _CHECKSUMS:
            raise FormatError("ring", f"section {name}: unknown checksum {method!r}")
        found = hashlib.new(method, raw[at:found_stop], usedforsecurity=False)
        if found.hexdigest() != checksum:
            raise FormatError("ring", f"section {name}: wrong checksum")
    return start, found_stop


def _rows(
    raw: bytes, start: int, stop: int, width: int, byteorder: str, part_power: int
) -> list[Row]:
    """The table as rows; the last is as long as the bytes that are left."""
    if (stop - start) % width:
        raise FormatError("ring", "table ends inside an entry")
    row_bytes = width << part_power
    rows = []
    for at in range(start, stop, row_bytes):
        row = array(row_type(width))
        row.frombytes(raw[at : min(stop, at + row_bytes)])
        if byteorder != sys.byteorder:
            row.byteswap()
        rows.append(row)
    return rows


def _json_object(text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise FormatError("ring", "JSON text repeats a name")
        return found

    facts = json.loads(text, object_pairs_hook=unique)
    if not isinstance(facts, dict):
        raise FormatError("ring", "JSON text is no object")
    return facts


def _devices(entries: Sequence[Mapping[str, Any] | None]) -> list[Device | None]:
    devices: list[Device | None] = []
    for position, entry in enumerate(entries):
        # Some old tools left empty dicts in place of removed devices.
        device = Device.from_dict(entry) if entry else None
        if device is not None and device.id != position:
            raise FormatError("ring", f"device {device.id} stands at {position}")
        devices.append(device)
    return devices


def _part_power(facts: Mapping[str, Any]) -> int:
    part_power = 32 - int(facts["part_shift"])
    if not 0 <= part_power <= PART_POWER_MAX:
        raise FormatError("ring", f"part shift {facts['part_shift']}")
    return part_power


def _optional_int(facts: Mapping[str, Any], key: str) -> int | None:
    value = facts.get(key)
    return None if value is None else int(value)


def _json_bytes(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode("ascii")


def _device_entries(ring: Ring) -> list[dict[str, Any] | None]:
    return [None if device is None else device.as_dict() for device in ring.devices]


def _table(ring: Ring, width: int, byteorder: str) -> bytes:
    pieces = []
    for row in ring.rows:
        entries = array(row_type(width), row)
        if byteorder != sys.byteorder:
            entries.byteswap()
        pieces.append(entries.tobytes())
    return b"".join(pieces)


def _write_v1(ring: Ring, file_name: str) -> bytes:
    facts: dict[str, Any] = {
        "byteorder": sys.byteorder,
        "devs": _device_entries(ring),
        "part_shift": ring.part_shift,
        "replica_count": len(ring.rows),
    }
    if ring.version is not None:
        facts["version"] = ring.version
    if ring.next_part_power is not None:
        facts["next_part_power"] = ring.next_part_power
    text = _json_bytes(facts)
    writer = _GzipWriter(file_name)
    writer.write_stored(MAGIC + struct.pack(">H", 1))
    writer.write(struct.pack(">L", len(text)) + text)
    writer.write(_table(ring, 2, sys.byteorder))
    return writer.finish()


def _write_v2(ring: Ring, file_name: str, width: int) -> bytes:
    metadata: dict[str, Any] = {
        "dev_id_bytes": width,
        "part_shift": ring.part_shift,
        "replica_count": float(ring.replica_count),
        "version": ring.version,
    }
    if ring.next_part_power is not None:
        metadata["next_part_power"] = ring.next_part_power
    writer = _GzipWriter(file_name)
    writer.write_stored(MAGIC + struct.pack(">H", 2))
    index: dict[str, list[Any]] = {}
    for name, payload in (
        (_METADATA, _json_bytes(metadata)),
        (_DEVICES, _json_bytes(_device_entries(ring))),
        (_ASSIGNMENTS, _table(ring, width, "big")),
    ):
        blob = struct.pack(">Q", len(payload)) + payload
        compressed_start, start = writer.position, writer.raw_position
        writer.write(blob)
        writer.flush()
        index[name] = [
            compressed_start,
            start,
            writer.position,
            writer.raw_position,
            "sha256",
            hashlib.sha256(blob).hexdigest(),
        ]
    compressed_start, start = writer.position, writer.raw_position
    text = _json_bytes(index)
    writer.write(struct.pack(">Q", len(text)) + text)
    writer.flush()
    # The two pointers lie at a fixed distance from the end, uncompressed, so that a
    # reader that seeks finds the index without inflating anything else.
    writer.write_stored(struct.pack(">Q", start))
    writer.write_stored(struct.pack(">Q", compressed_start))
    return writer.finish_stored()


class _GzipWriter:
    """One gzip member, built piece by piece with known positions.

    zlib's own gzip framing would neither set a file name and time nor switch to stored
    blocks in the middle, so header, trailer and stored blocks are made here; a deflate
    stream may follow a stored block as long as both start on byte boundaries.
    """

    def __init__(self, file_name: str) -> None:
        name = file_name.encode("latin-1", "replace").replace(b"\0", b"")
        flags = 8 if name else 0
        head = _GZIP_HEAD.pack(0x1F, 0x8B, 8, flags, _MTIME, 2, 255)
        self._pieces = [head + name + b"\0" if name else head]
        self._engine = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._checksum = 0
        self.position = len(self._pieces[0])
        self.raw_position = 0

    def _emit(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.position += len(piece)

    def _count(self, raw: bytes) -> None:
        self._checksum = zlib.crc32(raw, self._checksum)
        self.raw_position += len(raw)

    def write(self, raw: bytes) -> None:
        """Compress; the position is only known after a flush."""
        self._count(raw)
        self._emit(self._engine.compress(raw))

    def flush(self) -> None:
        """End at a byte boundary and forget the history."""
        self._emit(self._engine.flush(zlib.Z_FULL_FLUSH))

    def write_stored(self, raw: bytes) -> None:
        """Write plainly, at a byte boundary; an empty stored block follows."""
        self._count(raw)
        size = len(raw)
        self._emit(b"\0" + struct.pack("<HH", size, size ^ 0xFFFF) + raw)
        self._emit(_EMPTY_STORED_BLOCK)

    def finish(self) -> bytes:
        """The whole file, after compressed data."""
        self._emit(self._engine.flush(zlib.Z_FINISH))
        return self._finished()

    def finish_stored(self) -> bytes:
        """The whole file, after stored data."""
        self._emit(_FINAL_STORED_BLOCK)
        return self._finished()

    def _finished(self) -> bytes:
        size = self.raw_position & 0xFFFFFFFF
        self._emit(struct.pack("<LL", self._checksum, size))
        return b"".join(self._pieces)
