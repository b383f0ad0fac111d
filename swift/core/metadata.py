# SPDX-License-Identifier: Apache-2.0
"""The metadata record of an object file: its bytes on disk, and its meaning.

In memory a record is a Headers whose values are Latin-1 views of the wire bytes; `name`
alone is text. On disk it is a pickle of a dict of byte strings in exactly the form that
existing nodes write (`_codecs encode` calls), for they refuse any other and take the
record's age from it. A record larger than one attribute continues in numbered ones.

Format: doc/source/formats/object-metadata.md (contract object-on-disk 4, 5). Golden
records are read and written again byte for byte by
test/interop/test_interop_object_tree.py.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
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
_REMEMBERED_SIZE_MAX = 2048
"""Bytes of a record up to which the last 1024 are remembered: 5 MB at most."""

_STRING = b"h\x01X"
_GLUE = b"\x02"
_LAST_SIZE = len(b"q\x00Rq\x00u.")


def encode(record: Mapping[str, str]) -> bytes:
    """The bytes of a record, keys in their order.

    Protocol 2 knows no byte strings: the pickler writes each as a call of
    `_codecs encode`, as it does in existing nodes, and golden records hold it to that.
    """
    stored = {
        _STORED_SPELLING.get(name, name).encode("utf-8"): value.encode(
            "utf-8", "surrogateescape"
        )
        for name, value in record.items()
    }
    return pickle.dumps(stored, protocol=2)


def decode(data: bytes) -> Headers:
    """Read a record that any node wrote, of this age or of Python 2.

    Raises FormatError for bytes that are no record.
    """
    if len(data) > _REMEMBERED_SIZE_MAX:
        return _decode(data)
    return _remembered(data).copy()


@lru_cache(maxsize=1024)
def _remembered(data: bytes) -> Headers:
    # Hot objects are read over and over; the same bytes always mean the same.
    return _decode(data)


def _decode(data: bytes) -> Headers:
    strings = _decode_own(data)
    if strings is not None:
        return Headers.titled(zip(map(title, strings[::2]), strings[1::2], strict=True))
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
        if piece[5:8] != _STRING or piece[8] != (len(piece) - 14) & 0xFF:
            return None
        texts.append(piece[12:-2])
    # Decoded in one go; a text that holds the glue makes a wrong count.
    try:
        blob = _GLUE.join(texts).decode()
        if not blob.isascii():
            # The texts are the Latin-1 view of the bytes that are stored.
            blob = blob.encode("latin-1").decode("utf-8", "surrogateescape")
    except UnicodeError:
        return None
    strings = blob.split("\x02")
    return strings if len(strings) == len(texts) else None


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
        when = data_timestamp
        return Effective(data, when, when, when, data, None)
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
    text = record.get(name)
    if text is None:
        raise FormatError("object metadata", f"has no {name}")
    try:
        return Timestamp.parse(text)
    except InvalidInput as error:
        raise FormatError("object metadata", f"bad {name}: {text!r}") from error
