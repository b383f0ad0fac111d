# SPDX-License-Identifier: Apache-2.0
"""The header in front of every fragment, as liberasurecode writes it, read and checked.

A fragment is 80 bytes of header and the payload. The header tells which fragment it is,
of how long a segment and by which coder; a CRC guards it, while nothing in the format
guards the payload. Format: contract erasure-coding 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

from swift.core.errors import FormatError

HEADER_SIZE = 80
"""Bytes in front of the payload."""

_LAYOUT = struct.Struct("<IIIQB32sBBIIII")
_MAGIC = 0x0B0C5ECC
_GUARDED = 59  # bytes from the start that the CRC is over
_CRC_SINCE = 0x010200  # older libraries wrote none
_WHAT = "fragment"


@dataclass(frozen=True, slots=True)
class FragmentHeader:
    """What a fragment says of itself.

    size: bytes of payload. segment_size: of the segment before it was encoded. coder:
    id and version of the back end; fragments of different coders do not mix.
    """

    index: int
    size: int
    segment_size: int
    coder: tuple[int, int]


def read_header(data: bytes) -> FragmentHeader:
    """The header at the start of `data`. Raises FormatError when it is not one."""
    if len(data) < HEADER_SIZE:
        raise FormatError(_WHAT, f"{len(data)} bytes are no header")
    fields = _LAYOUT.unpack_from(data)
    index, size, _, segment_size = fields[:4]
    coder, coder_version, magic, library, checksum = fields[7:]
    if magic != _MAGIC:
        raise FormatError(_WHAT, f"magic is {magic:#x}")
    if library >= _CRC_SINCE:
        guarded = bytes(data[:_GUARDED])
        if checksum != crc32(guarded) and checksum != legacy_crc(guarded):
            raise FormatError(_WHAT, "header checksum differs")
    return FragmentHeader(index, size, segment_size, (coder, coder_version))


def legacy_crc(data: bytes) -> int:
    """The CRC that libraries up to 1.5.0 wrote: they shifted a signed number."""
    value = ~0
    for byte in data:
        value = _signed(_TABLE[(value ^ byte) & 0xFF]) ^ (value >> 8)
    return ~value & 0xFFFFFFFF


def _signed(value: int) -> int:
    return value - (1 << 32) if value & 0x80000000 else value


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE = _table()
