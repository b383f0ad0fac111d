# SPDX-License-Identifier: Apache-2.0
"""The metadata record of an object file: its bytes on disk, and its meaning.

In memory a record is a Headers whose values are Latin-1 views of the wire bytes; `name`
alone is text. On disk it is a pickle of a dict of byte strings in exactly the form that
existing nodes write (`_codecs encode` calls), for they refuse any other and take the
record's age from it. A record larger than one attribute continues in numbered ones.

Format: doc/source/formats/object-metadata.md (contract object-on-disk 4, 5). Golden
records are read and written again byte for byte (test/interop/test_storage_golden.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import md5

from swift.core import pickles
from swift.core.errors import FormatError, InvalidInput
from swift.core.headers import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    CONTENT_TYPE_TIMESTAMP,
    ETAG,
    OBJECT_SYSMETA,
    X_STATIC_LARGE_OBJECT,
    X_TIMESTAMP,
    Headers,
    title,
)
from swift.core.timestamp import Timestamp

NAME = "Name"
"""The key, as Headers spells it, of the decoded path of the object."""

XATTR = "user.swift.metadata"
XATTR_CHECKSUM = "user.swift.metadata_checksum"
XATTR_SIZE_MAX = 65536

# The spelling on disk of what Headers spells otherwise.
_STORED_SPELLING = {ETAG: "ETag", NAME: "name"}

_PYTHON3_MARK = b"_codecs\nencode"
_PYTHON3_MARK_WITHIN = 32

# The record opens with these opcodes up to the text of its first key.
_HEAD = b"\x80\x02}q\x00(c_codecs\nencode\nq\x01X"
_HEAD_SIZE = len(_HEAD)
_LATIN1 = b"X\x06\x00\x00\x00latin1q\x03\x86"
_ENCODE_AGAIN = b"h\x03\x86"
_NO_BYTES = b"c__builtin__\nbytes\n"
_LAST_SIZE = len(b"q\x00Rq\x00u.")
_BATCH = 1000


def encode(record: Mapping[str, str]) -> bytes:
    """The bytes of a record, keys in their order.

    The result is what the pickler of existing nodes makes of the same dict, memo
    numbers and shared one-byte strings included.
    """
    return _Emitter().dump([_stored_item(name, text) for name, text in record.items()])


def _stored_item(name: str, text: str) -> tuple[bytes, bytes]:
    stored = _STORED_SPELLING.get(name, name)
    return stored.encode("utf-8"), text.encode("utf-8", "surrogateescape")


class _Emitter:
    """Writes one dict of byte strings as protocol 2 does."""

    def __init__(self) -> None:
        self._out: list[bytes] = []
        self._memo_count = 0
        self._encode: bytes | None = None
        self._latin1: bytes | None = None
        # Byte strings of up to one byte, and texts of one character, are one object
        # each in the writer's interpreter, and its pickler refers back to them.
        self._seen: dict[bytes, bytes] = {}

    def dump(self, items: list[tuple[bytes, bytes]]) -> bytes:
        out = self._out
        out.append(b"\x80\x02}" + self._put())
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            if len(batch) > 1:
                out.append(b"(")
            for key, value in batch:
                self._string(key)
                self._string(value)
            out.append(b"u" if len(batch) > 1 else b"s")
        out.append(b".")
        return b"".join(out)

    def _put(self) -> bytes:
        number = self._memo_count
        self._memo_count = number + 1
        return _PUT[number] if number < 256 else b"r" + number.to_bytes(4, "little")

    def _string(self, data: bytes) -> None:
        if len(data) < 2:
            known = self._seen.get(data)
            if known is not None:
                self._out.append(known)
                return
        if not data:
            self._empty()
            return
        if self._encode is None:
            put = self._put()
            self._encode = _get_of(put)
            start = b"c_codecs\nencode\n" + put
        else:
            start = self._encode
        # Text of the same bytes as Latin-1, written as UTF-8.
        text = data if data.isascii() else data.decode("latin-1").encode("utf-8")
        text_put = self._put()
        if self._latin1 is None:
            put = self._put()
            self._latin1 = _get_of(put)
            encoding = b"X\x06\x00\x00\x00latin1" + put
        else:
            encoding = self._latin1
        tuple_put = self._put()
        result_put = self._put()
        self._out.append(
            b"%bX%b%b%b%b\x86%bR%b"
            % (
                start,
                len(text).to_bytes(4, "little"),
                text,
                text_put,
                encoding,
                tuple_put,
                result_put,
            )
        )
        if len(data) < 2:
            self._seen[data] = _get_of(result_put)

    def _empty(self) -> None:
        type_put = self._put()
        result_put = self._put()
        self._out.append(_NO_BYTES + type_put + b")R" + result_put)
        self._seen[b""] = _get_of(result_put)


_PUT = [b"q" + bytes((number,)) for number in range(256)]


def _get_of(put: bytes) -> bytes:
    return (b"h" if len(put) == 2 else b"j") + put[1:]


def decode(data: bytes) -> Headers:
    """Read a record that any node wrote, of this age or of Python 2.

    Raises FormatError for bytes that are no record.
    """
    strings = _decode_own(data)
    if strings is not None:
        return _headers_of(strings)
    stored = pickles.loads(data)
    if not isinstance(stored, dict):
        raise FormatError("object metadata", "is no dict")
    python3 = _PYTHON3_MARK in data[:_PYTHON3_MARK_WITHIN]
    record = Headers()
    for key, value in stored.items():
        name, text = _bytes_of(key), _bytes_of(value)
        if python3 or name == b"name":
            decoded = text.decode("utf-8", "surrogateescape")
        else:
            decoded = text.decode("latin-1")
        spelled = name.decode("utf-8" if python3 else "latin-1", "surrogateescape")
        record[spelled] = decoded
    return record


def _bytes_of(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):  # Python 2 byte strings, and texts
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, int):
        return str(value).encode("ascii")
    raise FormatError("object metadata", f"holds a {type(value).__name__}")


def _decode_own(data: bytes) -> list[str] | None:
    """The keys and values, alternating, of a record in the plain form; else None.

    The plain form has at most 256 memo entries, no empty and no repeated one-byte
    string: nearly every record. It is cut at a mark that cannot be part of UTF-8 text
    (a continuation byte after a control character), and each piece is held to the
    length it claims. Several times as quick as an unpickler, and a GET reads a record
    or two.
    """
    if not data.startswith(_HEAD) or not data.endswith(b"u."):
        return None
    head, separator, rest = data.partition(_LATIN1)
    text = head[_HEAD_SIZE + 4 : -2]
    if not separator or len(text) != int.from_bytes(
        head[_HEAD_SIZE : _HEAD_SIZE + 4], "little"
    ):
        return None
    texts = [text]
    pieces = rest.split(_ENCODE_AGAIN)
    if len(pieces.pop()) != _LAST_SIZE:
        return None
    for piece in pieces:
        # `q` number `Rq` number `h` 1 `X` size text `q` number
        if (
            len(piece) < 14
            or piece[5:8] != b"h\x01X"
            or len(piece) != int.from_bytes(piece[8:12], "little") + 14
        ):
            return None
        texts.append(piece[12:-2])
    strings = []
    try:
        for text in texts:
            string = text.decode()
            if not string.isascii():
                # The text is the Latin-1 view of the bytes that are stored.
                string = string.encode("latin-1").decode("utf-8", "surrogateescape")
            strings.append(string)
    except UnicodeError:
        return None
    return strings


def _headers_of(strings: list[str]) -> Headers:
    return Headers.titled(zip(map(title, strings[::2]), strings[1::2], strict=True))


def checksum(data: bytes) -> bytes:
    """The value of the checksum attribute for the bytes of a record."""
    return md5(data, usedforsecurity=False).hexdigest().encode("ascii")


def attributes(record: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """The extended attributes, name and value, that hold a record."""
    data = encode(record)
    yield XATTR, data[:XATTR_SIZE_MAX]
    for number, start in enumerate(
        range(XATTR_SIZE_MAX, len(data), XATTR_SIZE_MAX), start=1
    ):
        yield f"{XATTR}{number}", data[start : start + XATTR_SIZE_MAX]
    yield XATTR_CHECKSUM, checksum(data)


@dataclass(frozen=True, slots=True)
class Effective:
    """What an object's files say together.

    metadata: what a client sees; data, meta: the records of the single files.
    timestamp: of the newest of them; content_type_timestamp: of the content type shown.
    """

    metadata: Headers
    timestamp: Timestamp
    data_timestamp: Timestamp
    content_type_timestamp: Timestamp
    data: Headers
    meta: Headers | None


def merge(
    data: Headers, meta: Headers | None = None, content_type: Headers | None = None
) -> Effective:
    """Lay the records of a directory over each other.

    content_type: record of the file that was chosen for its content type; it may be
    `meta` itself. A POST replaces all but what describes the body and what the cluster
    keeps for itself. Raises FormatError when a time is missing or unreadable.
    """
    data_timestamp = _time_of(data, X_TIMESTAMP)
    if meta is None:
        return Effective(
            data, data_timestamp, data_timestamp, data_timestamp, data, None
        )
    metadata = meta.copy()
    for name, value in data.items():
        if name in _OF_THE_BODY or name.startswith(OBJECT_SYSMETA):
            metadata[name] = value
    type_timestamp = data_timestamp
    metadata.pop(CONTENT_TYPE, None)
    metadata.pop(CONTENT_TYPE_TIMESTAMP, None)
    chosen = data
    if content_type is not None and CONTENT_TYPE in content_type:
        when = _time_of(content_type, CONTENT_TYPE_TIMESTAMP)
        # Data wins only when it is newer, not when it is as old.
        if when >= data_timestamp:
            chosen, type_timestamp = content_type, when
            metadata[CONTENT_TYPE_TIMESTAMP] = when.internal
    if CONTENT_TYPE in chosen:
        metadata[CONTENT_TYPE] = chosen[CONTENT_TYPE]
    return Effective(
        metadata,
        _time_of(meta, X_TIMESTAMP),
        data_timestamp,
        type_timestamp,
        data,
        meta,
    )


_OF_THE_BODY = frozenset((CONTENT_LENGTH, "Deleted", ETAG, X_STATIC_LARGE_OBJECT, NAME))
"""What a POST cannot change, beside X-Object-Sysmeta-*."""


def _time_of(record: Headers, name: str) -> Timestamp:
    try:
        when = record.timestamp(name)
    except InvalidInput as error:
        raise FormatError("object metadata", str(error)) from error
    if when is None:
        raise FormatError("object metadata", f"has no {name}")
    return when
