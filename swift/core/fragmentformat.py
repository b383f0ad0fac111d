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


class HeaderCheck:
    """Reads the headers out of an archive that goes by in chunks, from its start.

    fragment_size: bytes of each fragment but the last. size: of the archive. index:
    that all fragments must be of; None for any.
    """

    def __init__(self, fragment_size: int, size: int, index: int | None) -> None:
        self._fragment_size = fragment_size
        self._left = size
        self._index = index
        self._head = b""
        self._skip = 0

    def feed(self, data: bytes | memoryview) -> str | None:
        """Why the archive cannot be trusted; None as long as it can."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            piece = data[at : at + HEADER_SIZE - len(self._head)]
            self._head += bytes(piece)
            at += len(piece)
            if len(self._head) < HEADER_SIZE:
                return None
            fault = self._fault()
            if fault is not None:
                return fault
        return None

    def _fault(self) -> str | None:
        """What is wrong with the header that is complete; go on to the next."""
        try:
            header = read_header(self._head)
        except FormatError as error:
            return error.reason
        size = min(self._fragment_size, self._left)
        if self._index is not None and header.index != self._index:
            return f"fragment {header.index} in an archive of {self._index}"
        if header.size != size - HEADER_SIZE:
            return f"fragment of {header.size} bytes in the place of {size}"
        self._left -= size
        self._head = b""
        self._skip = size - HEADER_SIZE
        return None


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
