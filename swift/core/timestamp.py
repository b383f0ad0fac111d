# SPDX-License-Identifier: Apache-2.0
"""A point in time as the cluster orders events, and its written forms.

A Timestamp counts units of 10 µs (`raw`) and carries an `offset` that breaks ties
between events of the same time. Equality and order are those of the internal form,
whose string order is the time order. Format: doc/source/formats/timestamps.md; the
golden vectors pin it (test/interop/test_interop_hashing.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache

from swift.core.errors import InvalidInput

UNITS_PER_SECOND = 100_000
RAW_MAX = 999_999_999_999_999
OFFSET_MAX = (1 << 64) - 1
DELETE_AT_MAX = 9_999_999_999

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_HEX = re.compile(r"[0-9a-fA-F]{1,16}\Z")
_NORMAL = re.compile(r"[0-9]{10}\.[0-9]{5}\Z")
_DELTA = re.compile(r"[+-][0-9a-f]+")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun",
    "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip


class TimestampError(InvalidInput, ValueError):
    """A text or number that is no timestamp."""


@dataclass(frozen=True, slots=True, order=True)
class Timestamp:
    """A time in units of 10 µs since 1970 UTC, 0 ≤ raw < 10^15, and a tie-breaker."""

    raw: int
    offset: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.raw <= RAW_MAX:
            raise TimestampError(f"timestamp out of range: {self.raw}")
        if not 0 <= self.offset <= OFFSET_MAX:
            raise TimestampError(f"timestamp offset out of range: {self.offset}")

    @classmethod
    def at(cls, seconds: float, offset: int = 0) -> Timestamp:
        """The timestamp of a clock reading, rounded to 10 µs."""
        try:
            # Divided, not multiplied: the two differ beyond five decimals, and existing
            # nodes divide (contract object-on-disk 2).
            raw = round(seconds / 1e-5)
        except (ValueError, OverflowError) as error:
            raise TimestampError(f"not a timestamp: {seconds!r}") from error
        return cls(raw, offset)

    @classmethod
    def parse(cls, text: str) -> Timestamp:
        """Read any written form: `seconds[.fraction][_hex offset]`.

        Raises TimestampError (an InvalidInput and a ValueError).
        """
        return _parsed(text)

    @classmethod
    def from_iso(cls, text: str) -> Timestamp:
        """Read the form of listings, `YYYY-MM-DDTHH:MM:SS.ffffff`, in UTC."""
        try:
            moment = datetime.strptime(text + "+0000", "%Y-%m-%dT%H:%M:%S.%f%z")
        except ValueError as error:
            raise TimestampError(f"not an ISO time: {text!r}") from error
        since = moment - _EPOCH
        micros = (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
        return cls(round(micros / 10))

    @property
    def normal(self) -> str:
        """`1402464677.04188`, without the offset."""
        return _normal(self.raw)

    @property
    def internal(self) -> str:
        """The normal form and, if there is an offset, `_` and 16 hex digits."""
        if self.offset:
            return f"{self.normal}_{self.offset:016x}"
        return self.normal

    @property
    def short(self) -> str:
        """The internal form with an unpadded offset."""
        if self.offset:
            return f"{self.normal}_{self.offset:x}"
        return self.normal

    @property
    def seconds(self) -> float:
        """Seconds since 1970, without the offset."""
        return round(self.raw * 1e-5, 5)

    @property
    def ceil(self) -> int:
        """Whole seconds, rounded up as Last-Modified is."""
        return -(-self.raw // UNITS_PER_SECOND)

    @property
    def iso(self) -> str:
        """`2014-06-10T21:40:08.912030`: UTC, six decimals, no zone."""
        moment = _EPOCH + timedelta(microseconds=self.raw * 10)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond:06d}"

    @property
    def http_date(self) -> str:
        """An RFC 9110 date, rounded up to the second."""
        return http_date(self.ceil)

    def plus(self, units: int = 0, *, offset: int = 0) -> Timestamp:
        """This time moved by `units` of 10 µs, the offset kept and increased."""
        return Timestamp(self.raw + units, self.offset + offset)

    def inverted(self) -> Timestamp:
        """The timestamp that sorts the other way round (version ids)."""
        if self.offset:
            return Timestamp(RAW_MAX - self.raw - 1, OFFSET_MAX + 1 - self.offset)
        return Timestamp(RAW_MAX - self.raw)

    def __bool__(self) -> bool:
        return self.raw != 0

    def __str__(self) -> str:
        return self.internal


ZERO = Timestamp(0)

# One time goes through a request again and again: from a header into a record, the name
# of a file and a row, and back.


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Timestamp:
    if _NORMAL.match(text):
        return Timestamp(int(text[:10] + text[11:]))
    seconds, separator, offset_hex = text.partition("_")
    try:
        value = float(seconds)
    except ValueError as error:
        raise TimestampError(f"not a timestamp: {text!r}") from error
    if separator and offset_hex and not _HEX.match(offset_hex):
        raise TimestampError(f"bad timestamp offset: {text!r}")
    return Timestamp.at(value, int(offset_hex, 16) if offset_hex else 0)


@lru_cache(maxsize=1024)
def _normal(raw: int) -> str:
    whole, fraction = divmod(raw, UNITS_PER_SECOND)
    return f"{whole:010d}.{fraction:05d}"


@lru_cache(maxsize=1024)
def http_date(seconds: int) -> str:
    """An RFC 9110 (section 5.6.7) date of whole seconds since 1970."""
    moment = _EPOCH + timedelta(seconds=seconds)
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day:02d} {_MONTHS[moment.month - 1]} "
        f"{moment.year:04d} {moment.hour:02d}:{moment.minute:02d}:{moment.second:02d} "
        "GMT"
    )


def encode_triple(
    first: Timestamp,
    second: Timestamp | None = None,
    third: Timestamp | None = None,
    *,
    explicit: bool = False,
) -> str:
    """Write up to three timestamps as the first and hex differences.

    explicit: a difference is written even when it is 0 (names of .meta files);
    otherwise (database rows) either both are written or, when both are 0, none.
    """
    second_given, third_given = second is not None, third is not None
    middle = first if second is None else second
    last = middle if third is None else third
    deltas = (middle.raw - first.raw, last.raw - middle.raw)
    if explicit:
        text = first.short
        if second_given:
            text += f"{deltas[0]:+x}"
        if third_given:
            text += f"{deltas[1]:+x}"
        return text
    if deltas == (0, 0):
        return first.short
    return f"{first.short}{deltas[0]:+x}{deltas[1]:+x}"


def decode_triple(text: str) -> tuple[Timestamp, Timestamp, Timestamp]:
    """Read a row's times: data, content type, metadata; a missing one as the last."""
    first, second, third = decode_explicit(text)
    middle = first if second is None else second
    return first, middle, middle if third is None else third


def decode_explicit(
    text: str,
) -> tuple[Timestamp, Timestamp | None, Timestamp | None]:
    """Read a triple; a time that is not written comes back as None.

    A difference of 0 gives the very same timestamp, offset included; any other gives a
    timestamp without offset. Raises TimestampError.
    """
    match = _DELTA.search(text, 1)
    if match is None:
        return Timestamp.parse(text), None, None
    first = Timestamp.parse(text[: match.start()])
    deltas = _DELTA.findall(text, match.start())
    if "".join(deltas) != text[match.start() :] or len(deltas) > 2:
        raise TimestampError(f"not a timestamp triple: {text!r}")
    second = _moved(first, int(deltas[0], 16))
    third = _moved(second, int(deltas[1], 16)) if len(deltas) > 1 else None
    return first, second, third


def _moved(base: Timestamp, units: int) -> Timestamp:
    return Timestamp(base.raw + units) if units else base


def normal_delete_at(seconds: float) -> str:
    """An X-Delete-At as ten digits, clamped to what ten digits hold."""
    return f"{int(min(max(0, seconds), DELETE_AT_MAX)):010d}"
