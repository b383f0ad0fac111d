# SPDX-License-Identifier: Apache-2.0
"""Byte ranges: what a Range header asks for, and which bytes of a thing that makes.

A header that breaks the grammar is ignored and the whole is sent; one that asks for
bytes that are not there, or for so many pieces that it looks like an attack, cannot be
satisfied (RFC 9110, section 14.2 and 17.15).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

RANGES_MAX = 50
"""Satisfiable ranges in one request."""

OVERLAPS_MAX = 2
"""Pairs of ranges that share bytes in one request."""

UNORDERED_MAX = 7
"""Ranges that need not be in ascending order; longer lists must be."""

_UNIT = "bytes="


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from `start` up to but not including `stop`; 0 ≤ start < stop."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.stop - self.start

    def content_range(self, length: int) -> str:
        """The Content-Range value for a whole of `length` bytes."""
        return f"bytes {self.start}-{self.stop - 1}/{length}"


@dataclass(frozen=True, slots=True)
class RangeSpec:
    """One member of a Range header.

    first: None for a suffix range, whose length is then `last`. last: inclusive, None
    for an open end.
    """

    first: int | None
    last: int | None

    def within(self, length: int) -> ByteRange | None:
        """The bytes that it means in a whole of `length`, None when there are none."""
        if self.first is None:
            size = min(self.last or 0, length)
            return ByteRange(length - size, length) if size else None
        if self.first >= length:
            return None
        stop = length if self.last is None else min(self.last + 1, length)
        return ByteRange(self.first, stop)


def parse_range(header: str | None) -> list[RangeSpec] | None:
    """The members of a Range header, None when it is absent or breaks the grammar."""
    if not header:
        return None
    text = header.replace(" ", "")
    if text[: len(_UNIT)].lower() != _UNIT:
        return None
    specs = []
    for member in text[len(_UNIT) :].split(","):
        first_text, dash, last_text = member.partition("-")
        first, last = _number(first_text), _number(last_text)
        if not dash or first == -1 or last == -1 or (first is None and last is None):
            return None
        if first is not None and last is not None and last < first:
            return None
        specs.append(RangeSpec(first, last))
    return specs


def _number(text: str) -> int | None:
    """A count of bytes, None for no text, -1 for anything but ASCII digits."""
    if not text:
        return None
    # Lengths of files have at most 19 digits; a longer number is no honest request.
    if len(text) > 30 or not (text.isascii() and text.isdigit()):
        return -1
    return int(text)


def satisfiable(specs: Sequence[RangeSpec], length: int) -> list[ByteRange]:
    """The byte ranges that `specs` mean in a whole of `length`, in the order asked.

    Those without bytes are left out. Empty when nothing is left or when the request
    looks like an attack: too many ranges, overlaps, or a long unordered list.
    """
    found = [span for spec in specs if (span := spec.within(length)) is not None]
    if len(found) < 2:
        return found
    if len(found) > RANGES_MAX:
        return []
    if len(found) > UNORDERED_MAX and any(
        later.start < earlier.start for earlier, later in pairwise(found)
    ):
        return []
    if _overlaps(found) > OVERLAPS_MAX:
        return []
    return found


def _overlaps(spans: Sequence[ByteRange]) -> int:
    ordered = sorted(spans, key=lambda span: span.start)
    count = 0
    for index, span in enumerate(ordered):
        for other in ordered[index + 1 :]:
            if other.start >= span.stop:
                break
            count += 1
    return count


def resolve(header: str | None, length: int) -> list[ByteRange] | None:
    """What a Range header selects in a whole of `length` bytes.

    None: send the whole (200). Empty: cannot be satisfied (416). Otherwise the parts in
    the order asked (206).
    """
    specs = parse_range(header)
    if specs is None:
        return None
    found = satisfiable(specs, length)
    if not found and not length and any(s.first is None and s.last for s in specs):
        # The last N bytes of nothing are nothing: 200 with an empty body, as existing
        # servers answer (contract api 4.1).
        return None
    return found
