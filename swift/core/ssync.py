# SPDX-License-Identifier: Apache-2.0
"""The ssync protocol as values: offers, wants, updates, and how they are written.

A sender offers what it has (`Offer`, one line an object), the receiver answers with
what it wants of that (`Want`), and the sender sends it as requests (`Update`) on the
same connection. Both sides read lines through a `LineBuffer`, which is fed what comes
from a peer and refuses what is too long. Nothing here knows sockets or disks.

Format: doc/source/formats/ssync.md (contract backend-http §11). Interop: captured
conversations are held again in test/interop/test_interop_ssync.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from swift.core.errors import FormatError, InvalidInput
from swift.core.hashing import is_path_hash
from swift.core.headers import CONTENT_LENGTH, ETAG, X_TIMESTAMP, Headers, title, true
from swift.core.names import (
    Name,
    ObjectName,
    quote,
    split_name,
    text_of_wsgi,
)
from swift.core.objectfiles import FileSet
from swift.core.timestamp import Timestamp

CRLF = b"\r\n"
MISSING_START = b":MISSING_CHECK: START"
MISSING_END = b":MISSING_CHECK: END"
UPDATES_START = b":UPDATES: START"
UPDATES_END = b":UPDATES: END"
ERROR_PREFIX = b":ERROR: "
BUSY_PREFIX = ERROR_PREFIX + b"503 "

LINE_MAX = 65536
"""Bytes of one line; an update's header line is the longest that there is."""
HEADERS_MAX = 10_000
"""Header lines of one update; an object may have as many as its metadata limits."""
HEADERS_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of all header lines of one update."""

METHODS = frozenset(("PUT", "POST", "DELETE"))

_WHAT = "ssync"


class ProtocolError(FormatError):
    """A peer that does not keep to the protocol, or says that we do not."""

    def __init__(self, reason: str) -> None:
        super().__init__(_WHAT, reason)


class LineBuffer:
    """Bytes of a peer, given out in lines and pieces as far as they have come."""

    def __init__(self, size_max: int = LINE_MAX) -> None:
        self._size_max = size_max
        self._data = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Add what has come."""
        rest = self._data[self._at :] if self._at < len(self._data) else b""
        self._data = rest + data if rest else data
        self._at = 0

    def line(self) -> bytes | None:
        """The next line without its end; None when more must come first.

        Raises ProtocolError for a line that is too long.
        """
        end = self._data.find(b"\n", self._at)
        if end < 0:
            if len(self._data) - self._at > self._size_max:
                raise ProtocolError(f"a line of more than {self._size_max} bytes")
            return None
        if end - self._at > self._size_max:
            raise ProtocolError(f"a line of more than {self._size_max} bytes")
        line = self._data[self._at : end]
        self._at = end + 1
        return line[:-1] if line.endswith(b"\r") else line

    def take(self, size: int) -> bytes:
        """Up to `size` bytes of what has come and was not given out."""
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece


@dataclass(frozen=True, slots=True)
class Holding:
    """The times of an object on one node: what decides who must send what.

    data: of the body or the tombstone. meta: of the newest POST, else data.
    content_type: of the content type, else data. durable: False for data whose commit
    was not seen.
    """

    data: Timestamp
    meta: Timestamp
    content_type: Timestamp
    durable: bool = True

    @classmethod
    def of(cls, files: FileSet) -> Holding | None:
        """What the files of a directory come to; None for no object."""
        data = files.data or files.tombstone
        if data is None:
            return None
        when = data.timestamp
        meta = files.meta.timestamp if files.meta is not None else when
        content_type = None
        if files.content_type is not None:
            content_type = files.content_type.content_type_timestamp
        return cls(
            when,
            meta,
            content_type or when,
            durable=files.data is None or files.durable_timestamp == when,
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """One object that a sender has."""

    path_hash: str
    holding: Holding

    def encode(self) -> bytes:
        """The line that offers it."""
        held = self.holding
        text = f"{self.path_hash} {held.data.internal}"
        items = []
        if held.meta != held.data:
            items.append(f"m:{_difference(held.data, held.meta)}")
            if held.content_type != held.data:
                items.append(f"t:{_difference(held.data, held.content_type)}")
        if not held.durable:
            items.append("durable:False")
        if items:
            text += " " + ",".join(items)
        return text.encode("ascii") + CRLF

    @classmethod
    def parse(cls, line: bytes) -> Offer:
        """Read a line without its end. Raises ProtocolError."""
        try:
            parts = [unquote(part) for part in line.decode("ascii").split(None, 2)]
            path_hash, data = parts[0], Timestamp.parse(parts[1])
            if not is_path_hash(path_hash):
                raise ValueError("no hash")
            meta = content_type = data
            durable = True
            for item in parts[2].split(",") if len(parts) > 2 else ():
                key, _, value = item.strip().partition(":")
                if key == "m":
                    meta = _moved(data, value)
                elif key == "t":
                    content_type = _moved(data, value)
                elif key == "durable":
                    durable = true(value)
        except (ValueError, IndexError) as error:
            raise ProtocolError(f"offer {line!r:.120}") from error
        return cls(path_hash, Holding(data, meta, content_type, durable))


def _difference(base: Timestamp, other: Timestamp) -> str:
    text = f"{other.raw - base.raw:x}"
    return f"{text}__{other.offset:x}" if other.offset else text


def _moved(base: Timestamp, text: str) -> Timestamp:
    units, _, offset = text.partition("__")
    return Timestamp(base.raw + int(units, 16), int(offset, 16) if offset else 0)


@dataclass(frozen=True, slots=True)
class Want:
    """What a receiver wants of an offer: its data, its metadata, or both."""

    path_hash: str
    data: bool
    meta: bool

    def encode(self) -> bytes:
        """The line that asks for it."""
        parts = ("d" if self.data else "") + ("m" if self.meta else "")
        return f"{self.path_hash} {parts}".encode("ascii") + CRLF

    @classmethod
    def parse(cls, line: bytes) -> Want:
        """Read a line without its end. Raises ProtocolError.

        A bare hash, as old receivers send it, means the data.
        """
        try:
            parts = [unquote(part) for part in line.decode("ascii").split()]
            path_hash = parts[0]
            letters = parts[1] if len(parts) > 1 else "d"
        except (ValueError, IndexError) as error:
            raise ProtocolError(f"want {line!r:.120}") from error
        if not is_path_hash(path_hash):
            raise ProtocolError(f"want {line!r:.120}")
        return cls(path_hash, "d" in letters, "m" in letters)


def wanted(offer: Offer, local: Holding | None) -> Want | None:
    """What a node that has `local` wants of an offer; None for nothing."""
    offered = offer.holding
    if local is None:
        return Want(offer.path_hash, data=True, meta=True)
    data = offered.data > local.data
    meta = offered.meta > local.meta or (
        offered.content_type > local.content_type
        and offered.content_type > offered.data
    )
    return Want(offer.path_hash, data, meta) if data or meta else None


def has_fragment(offer: Offer, files: FileSet, index: int | None) -> bool:
    """True when a node has the very fragment that is offered, be it not committed yet.

    index: of the node's fragments; None for whole copies.
    """
    return index is not None and index in files.fragments.get(offer.holding.data, ())


@dataclass(frozen=True, slots=True)
class Update:
    """One request within a conversation; the bytes of a PUT's body follow it.

    headers: Latin-1 views. size: bytes of the body, 0 for other methods than PUT.
    """

    method: str
    name: ObjectName
    headers: Headers

    @property
    def size(self) -> int:
        """Bytes of the body that follow."""
        return int(self.headers[CONTENT_LENGTH]) if self.method == "PUT" else 0

    def encode(self) -> bytes:
        """The head as it is sent."""
        lines = [f"{self.method} {quote(self.name.path)}"]
        for key in sorted(self.headers):
            value = dict.__getitem__(self.headers, key)
            # Captured senders spell this one header in its own way.
            lines.append(f"{'ETag' if key == title(ETAG) else key}: {value}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @classmethod
    def parse(cls, lines: Sequence[bytes]) -> Update:
        """Read a head: its lines without their ends and the empty one.

        Raises ProtocolError.
        """
        method, _, path = lines[0].decode("latin-1").partition(" ")
        if method not in METHODS:
            raise ProtocolError(f"update with method {method!r:.40}")
        name = _name(path)
        if not isinstance(name, ObjectName):
            raise ProtocolError(f"update of {path!r:.120}")
        headers = Headers()
        for line in lines[1:]:
            key, colon, value = line.decode("latin-1").partition(":")
            if not colon or not key.strip():
                raise ProtocolError(f"header {line!r:.120}")
            headers[key.strip()] = value.strip()
        update = cls(method, name, headers)
        update._check()
        return update

    def _check(self) -> None:
        if X_TIMESTAMP not in self.headers:
            raise ProtocolError(f"{self.method} without {X_TIMESTAMP}")
        length = self.headers.get(CONTENT_LENGTH)
        if self.method == "PUT":
            if length is None or not (length.isascii() and length.isdigit()):
                raise ProtocolError(f"PUT with Content-Length {length!r:.40}")
        elif length not in (None, "0"):
            raise ProtocolError(f"{self.method} with Content-Length {length!r:.40}")


def _name(quoted: str) -> Name:
    try:
        path = text_of_wsgi(unquote(quoted, encoding="latin-1"))
        return split_name(path)
    except InvalidInput as error:
        raise ProtocolError(f"update of {quoted!r:.120}") from error


def error_line(status: int, reason: str) -> bytes:
    """The line by which a receiver breaks off."""
    return ERROR_PREFIX + f"{status} {reason!r}".encode("utf-8", "replace") + CRLF
