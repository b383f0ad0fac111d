# SPDX-License-Identifier: Apache-2.0
"""MIME documents inside a body: a push parser, and writers of the two kinds in use.

The two are the documents of a multi-phase PUT (object body, footers, commit; contract
backend-http 3) and multipart/byteranges (RFC 9110, section 14.6). The parser is fed
chunks of any size and hands each byte of a part on as soon as it can not belong to a
boundary; what it holds back is shorter than the boundary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5

from swift.core.errors import FormatError
from swift.core.headers import (
    CONTENT_RANGE,
    CONTENT_TYPE,
    X_DOCUMENT,
    Headers,
)
from swift.core.ranges import ByteRange

HEADERS_BYTES_MAX = 65536
"""Bytes of the headers of one part."""

OBJECT_BODY = "object body"
OBJECT_METADATA = "object metadata"
PUT_COMMIT = "put commit"
COMMIT_CONFIRMATION = b"put_commit_confirmation"

_CRLF = b"\r\n"


@dataclass(frozen=True, slots=True)
class PartStart:
    """A part begins; its bytes follow."""

    headers: Headers


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part that was open is complete.

    last: the closing boundary ended it, so no part follows.
    """

    last: bool


Event = PartStart | PartEnd | bytes
"""What the parser reports; bytes are a piece of the open part's content, not empty."""


class MimeParser:
    """Splits a multipart body that arrives in chunks.

    boundary: without the leading dashes. inside: the stream begins in the headers of a
    part, its boundary having been read before.
    """

    def __init__(self, boundary: bytes, *, inside: bool = False) -> None:
        self._delimiter = _CRLF + b"--" + boundary
        self._held = b""
        self._state = self._in_headers if inside else self._before_first
        self.finished = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises FormatError on a broken document."""
        if self._held:
            data = self._held + data
            self._held = b""
        events: list[Event] = []
        rest: bytes | None = data
        while rest and not self.finished:
            rest = self._state(rest, events)
        return events

    @property
    def between_parts(self) -> bool:
        """True when the input so far ends after a boundary line or the closing one."""
        at_headers = self._state == self._in_headers and not self._held
        return self.finished or at_headers

    # Each state takes bytes, appends events, and returns what is left for the next
    # state; None when it needs more (it has put aside what it must see again).

    def _before_first(self, data: bytes, events: list[Event]) -> bytes | None:
        opening = self._delimiter[2:]
        lead = data.find(opening)
        if lead < 0:
            if len(data) > HEADERS_BYTES_MAX:
                raise FormatError("MIME document", "does not begin with its boundary")
            self._held = data
            return None
        if lead and data[:lead].strip(_CRLF):
            raise FormatError("MIME document", "does not begin with its boundary")
        return self._boundary_line(data, lead, len(opening), events, opened=False)

    def _boundary_line(
        self, data: bytes, at: int, size: int, events: list[Event], *, opened: bool
    ) -> bytes | None:
        """Read the rest of the line of a boundary that begins at `at`."""
        after = at + size
        if data.startswith(b"--", after):
            self.finished = True
            if opened:
                events.append(PartEnd(last=True))
            return None
        end = data.find(_CRLF, after)
        if end < 0:
            if len(data) - after > HEADERS_BYTES_MAX:
                raise FormatError("MIME document", "has an endless boundary line")
            self._held = data[at:]
            return None
        if data[after:end].strip(b" \t"):
            raise FormatError("MIME document", "has text behind a boundary")
        if opened:
            events.append(PartEnd(last=False))
        self._state = self._in_headers
        return data[end + 2 :]

    def _in_headers(self, data: bytes, events: list[Event]) -> bytes | None:
        if data.startswith(_CRLF):
            end, after = 0, 2
        else:
            end = data.find(b"\r\n\r\n")
            after = end + 4
        if end < 0:
            if len(data) > HEADERS_BYTES_MAX:
                raise FormatError("MIME document", "has too many headers in a part")
            self._held = data
            return None
        events.append(PartStart(_headers(data[:end])))
        self._state = self._in_content
        # An empty part: the CRLF that belongs to the boundary may be all that comes.
        return data[after:]

    def _in_content(self, data: bytes, events: list[Event]) -> bytes | None:
        at = data.find(self._delimiter)
        if at >= 0:
            if at:
                events.append(data[:at])
            return self._boundary_line(
                data, at, len(self._delimiter), events, opened=True
            )
        keep = self._possible_start(data)
        if keep:
            self._held = data[-keep:]
            data = data[:-keep]
        if data:
            events.append(data)
        return None

    def _possible_start(self, data: bytes) -> int:
        """How many bytes at the end could be the start of the delimiter."""
        at = data.find(b"\r", max(0, len(data) - len(self._delimiter) + 1))
        while at >= 0:
            if self._delimiter.startswith(data[at:]):
                return len(data) - at
            at = data.find(b"\r", at + 1)
        return 0


def _headers(block: bytes) -> Headers:
    headers = Headers()
    if not block:
        return headers
    for line in block.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon:
            raise FormatError("MIME document", f"has a bad header line {line!r}")
        headers[name.strip()] = value.strip()
    return headers


# --- Documents of a multi-phase PUT --------------------------------------------------


def body_opening(boundary: str) -> bytes:
    """What comes before the object's bytes."""
    return f"--{boundary}\r\n{X_DOCUMENT}: {OBJECT_BODY}\r\n\r\n".encode("ascii")


def footer_document(boundary: str, footers: Mapping[str, str], *, last: bool) -> bytes:
    """What comes after the object's bytes: its metadata as JSON, and a boundary.

    last: no commit will follow.
    """
    content = json.dumps(dict(footers)).encode("ascii")
    digest = md5(content, usedforsecurity=False).hexdigest()
    head = (
        f"\r\n--{boundary}\r\n{X_DOCUMENT}: {OBJECT_METADATA}\r\n"
        f"Content-MD5: {digest}\r\n\r\n"
    )
    closing = f"\r\n--{boundary}{'--' if last else ''}\r\n"
    return head.encode("ascii") + content + closing.encode("ascii")


def body_closing(boundary: str, *, last: bool) -> bytes:
    """What comes after the object's bytes when no footers follow."""
    return f"\r\n--{boundary}{'--' if last else ''}\r\n".encode("ascii")


def commit_document(boundary: str) -> bytes:
    """What the second phase sends."""
    return (
        f"{X_DOCUMENT}: {PUT_COMMIT}\r\n\r\n".encode("ascii")
        + COMMIT_CONFIRMATION
        + f"\r\n--{boundary}--".encode("ascii")
    )


# --- multipart/byteranges ------------------------------------------------------------


def ranges_content_type(boundary: str) -> str:
    """The Content-Type of a multi-range answer."""
    return f"multipart/byteranges;boundary={boundary}"


def range_opening(
    boundary: str, content_type: str, span: ByteRange, length: int
) -> bytes:
    """What comes before the bytes of one range; content_type is a WSGI string."""
    return (
        f"--{boundary}\r\n{CONTENT_TYPE}: {content_type}\r\n"
        f"{CONTENT_RANGE}: {span.content_range(length)}\r\n\r\n"
    ).encode("latin-1")


RANGE_END = _CRLF
"""What comes after the bytes of each range."""


def ranges_closing(boundary: str) -> bytes:
    """What comes after the last range; upstream sends no line end behind it."""
    return f"--{boundary}--".encode("ascii")


def ranges_length(
    boundary: str, content_type: str, spans: Sequence[ByteRange], length: int
) -> int:
    """The Content-Length of a multi-range answer."""
    parts = sum(
        len(range_opening(boundary, content_type, span, length)) + span.size + 2
        for span in spans
    )
    return parts + len(ranges_closing(boundary))
