# SPDX-License-Identifier: Apache-2.0
"""Reading tar archives from a stream, one member after the other, in little memory.

Old, ustar, GNU and pax archives are read (POSIX.1-2017, pax; GNU tar manual, "Basic Tar
Format"). The archive comes from a stranger: sizes are believed only as far as bytes
follow, what describes a member is bounded, and what is no file is skipped within a
budget. Sparse files are refused: their few bytes stand for any number.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from swift.core.errors import FormatError

BLOCK = 512
NAME_BYTES_MAX = 65536
PAX_BYTES_MAX = 1 << 20
EXTENSIONS_MAX = 16
SKIP_BYTES = 1 << 18

_REGULAR = b"\x0007"
_WITHOUT_CONTENT = b"123456"  # links, devices, directories: their sizes mean no bytes
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_EMPTY = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive. name: undecoded; size: bytes of content that follow.

    extended: keyword → value of pax headers, undecoded values.
    """

    name: bytes
    size: int
    is_file: bool
    extended: Mapping[str, bytes] = field(default_factory=dict)


class TarReader:
    """Members of an archive, in order.

    read: gives that many bytes, fewer at the end of the stream only. skip_max: bytes of
    the whole archive that may be passed over without being asked for.
    """

    def __init__(self, read: Callable[[int], bytes], *, skip_max: int) -> None:
        self._read = read
        self._skip_left = skip_max
        self._content_left = 0
        self._padding = 0
        self._global: dict[str, bytes] = {}

    def next_member(self) -> Member | None:
        """The next member, None at the end; what is left of the last one is skipped.

        Raises FormatError.
        """
        self._skip(self._content_left + self._padding)
        self._content_left = self._padding = 0
        long_name: bytes | None = None
        extended: dict[str, bytes] = {}
        for _ in range(EXTENSIONS_MAX):
            block = self._read(BLOCK)
            if not block or block == _EMPTY:
                return None
            if len(block) < BLOCK:
                raise FormatError("archive", "breaks off in a header")
            size, kind = _size_and_kind(block)
            if kind == _LONG_NAME:
                long_name = self._extension(size, NAME_BYTES_MAX).rstrip(b"\0")
            elif kind == _LONG_LINK:
                self._extension(size, NAME_BYTES_MAX)
            elif kind == _PAX:
                extended.update(_pax(self._extension(size, PAX_BYTES_MAX)))
            elif kind == _PAX_GLOBAL:
                self._global = _pax(self._extension(size, PAX_BYTES_MAX))
            else:
                return self._member(block, size, kind, long_name, extended)
        raise FormatError("archive", "has too many extended headers")

    def read_some(self, size: int) -> bytes:
        """Up to `size` bytes of the member's content, none at its end.

        Raises FormatError when the archive breaks off.
        """
        wanted = min(size, self._content_left)
        if not wanted:
            return b""
        data = self._read(wanted)
        if len(data) < wanted:
            raise FormatError("archive", "breaks off in a file")
        self._content_left -= len(data)
        return data

    def _member(
        self,
        block: bytes,
        size: int,
        kind: bytes,
        long_name: bytes | None,
        own: dict[str, bytes],
    ) -> Member:
        extended = {**self._global, **own}
        if kind == b"S" or any(key.startswith("GNU.sparse.") for key in extended):
            raise FormatError("archive", "holds a sparse file")
        if "size" in extended:
            size = _decimal(extended["size"])
        if kind in _WITHOUT_CONTENT:
            size = 0
        name = extended.get("path", long_name)
        if name is None:
            name = _ustar_name(block)
        self._skip_left -= BLOCK
        if self._skip_left < 0:
            raise FormatError("archive", "holds too little besides what is skipped")
        self._content_left = size
        self._padding = -size % BLOCK
        is_file = kind in _REGULAR and not name.endswith(b"/")
        return Member(name, size, is_file, extended)

    def _extension(self, size: int, size_max: int) -> bytes:
        if size > size_max:
            raise FormatError("archive", "has an extended header that is too long")
        whole = size + -size % BLOCK
        data = self._read(whole)
        if len(data) < whole:
            raise FormatError("archive", "breaks off in an extended header")
        return data[:size]

    def _skip(self, size: int) -> None:
        if size >= BLOCK:
            self._skip_left -= size
        if self._skip_left < 0:
            raise FormatError("archive", "holds too little besides what is skipped")
        while size:
            data = self._read(min(size, SKIP_BYTES))
            if not data:
                raise FormatError("archive", "breaks off in a file")
            size -= len(data)


def _size_and_kind(block: bytes) -> tuple[int, bytes]:
    unsigned = sum(block[:148]) + 256 + sum(block[156:])
    if _number(block[148:156]) != unsigned:
        raise FormatError("archive", "has a bad header checksum")
    return _number(block[124:136]), block[156:157]


def _number(field_bytes: bytes) -> int:
    """A number in octal digits, or in base 256 after a set high bit."""
    if field_bytes[0] & 0x80:
        if field_bytes[0] & 0x40:
            raise FormatError("archive", "has a negative number")
        return int.from_bytes(bytes([field_bytes[0] & 0x3F]) + field_bytes[1:], "big")
    digits = field_bytes.partition(b"\0")[0].strip()
    try:
        value = int(digits or b"0", 8)
    except ValueError:
        raise FormatError("archive", "has a bad number") from None
    if value < 0:
        raise FormatError("archive", "has a negative number")
    return value


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise FormatError("archive", "has a bad size")
    return int(text)


def _ustar_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
        if prefix:
            name = prefix + b"/" + name
    return name


def _pax(data: bytes) -> dict[str, bytes]:
    """Records `LENGTH KEYWORD=VALUE\\n`; the length counts itself."""
    found = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 21)
        if space < 0 or not data[at:space].isdigit():
            raise FormatError("archive", "has a bad pax record")
        end = at + int(data[at:space])
        if end <= space or end > len(data) or data[end - 1 : end] != b"\n":
            raise FormatError("archive", "has a bad pax record")
        keyword, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise FormatError("archive", "has a bad pax record")
        found[keyword.decode("utf-8", "replace")] = value
        at = end
    return found


# --- Compression ----------------------------------------------------------------------

FORMS = ("tar", "tar.gz", "tar.bz2")
"""What `unpacked` reads."""

_CHUNK = 1 << 16


class ExactReader:
    """Reads exact numbers of bytes out of a stream that gives them as they come.

    read_some: up to n bytes, none at the end.
    """

    def __init__(self, read_some: Callable[[int], bytes]) -> None:
        self._read_some = read_some

    def __call__(self, size: int) -> bytes:
        """`size` bytes; fewer at the end of the stream only."""
        pieces = []
        while size:
            piece = self._read_some(size)
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Decompressor:
    """A compressed stream read piece by piece: never more in memory than was asked for.

    make: a fresh decompressor of one compressed stream; several may follow each other,
    as when files are concatenated.
    """

    def __init__(
        self, read_some: Callable[[int], bytes], make: Callable[[], Any]
    ) -> None:
        self._read_some = read_some
        self._make = make
        self._engine = make()
        self._input = b""
        self._ended = False

    def __call__(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end. Raises FormatError."""
        while not self._ended:
            if self._engine.eof:
                self._input = self._engine.unused_data or self._read_some(_CHUNK)
                if not self._input.strip(b"\0"):
                    self._ended = True
                    break
                self._engine = self._make()
            elif not self._input and self._wants_input():
                self._input = self._read_some(_CHUNK)
                if not self._input:
                    raise FormatError("archive", "breaks off in compressed data")
            try:
                data = self._engine.decompress(self._input, size)
            except (zlib.error, OSError, EOFError) as error:
                raise FormatError("archive", f"is badly compressed: {error}") from error
            self._input = getattr(self._engine, "unconsumed_tail", b"")
            if data:
                return bytes(data)
        return b""

    def _wants_input(self) -> bool:
        return bool(getattr(self._engine, "needs_input", True))


def unpacked(form: str, read_some: Callable[[int], bytes]) -> ExactReader:
    """The bytes of the tar archive in a stream of one of FORMS."""
    if form == "tar.gz":
        return ExactReader(
            Decompressor(read_some, lambda: zlib.decompressobj(16 + zlib.MAX_WBITS))
        )
    if form == "tar.bz2":
        return ExactReader(Decompressor(read_some, bz2.BZ2Decompressor))
    return ExactReader(read_some)
