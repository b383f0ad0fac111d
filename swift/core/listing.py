# SPDX-License-Identifier: Apache-2.0
"""What a listing is asked for, which names it holds, and its three written forms.

A container or account server makes a listing from rows (tuples, for there may be ten
thousand); the listing_formats filter makes text or XML from the JSON a server sent.
Both write through this room, so that a form looks alike wherever it is made.

Rules: api contract 6, databases contract 10. Names are ordered by their UTF-8 bytes,
which is the order of their code points, hence Python's order of str.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any
from urllib.parse import unquote_to_bytes

from swift.core.errors import FormatError, InvalidInput
from swift.core.rows import split_swift_bytes
from swift.core.settings import TRUE_WORDS
from swift.core.timestamp import Timestamp, decode_triple

PLAIN = "text/plain"
JSON = "application/json"
XML = "application/xml"
TEXT_XML = "text/xml"
FORMATS = (PLAIN, JSON, XML, TEXT_XML)
"""Media types of listings, the preferred first."""

LIMIT_MAX = 10000
"""Rows of a listing, when no other limit is configured."""

_BY_NAME = {"plain": PLAIN, "json": JSON, "xml": XML}
_MEDIA_RANGE = re.compile(r"\s*([\w.+*-]+)/([\w.+*-]+)\s*(;.*)?\Z", re.ASCII)
_QUALITY = re.compile(r";\s*q\s*=\s*([^;\s]*)", re.IGNORECASE)
_XML_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_PLAIN_TIME_LENGTH = 16
_SWIFT_BYTES = "swift_bytes="
_TWO = tuple(f"{number:02d}" for number in range(60))

Entry = tuple[Any, ...]
"""One line of a listing, as a broker gives it.

Object: (name, created_at, size, content_type, etag). Container: (name, object_count,
bytes_used, put_timestamp, policy index). Subdir of either: (name,).
"""

Record = Mapping[str, Any]
"""One line of a JSON listing after parsing."""


class LimitTooLarge(InvalidInput):
    """More rows asked for than allowed: 412."""

    def __init__(self, limit_max: int) -> None:
        super().__init__(f"Maximum limit is {limit_max}")
        self.limit_max = limit_max


class NotAcceptable(InvalidInput):
    """The client takes none of the forms of a listing: 406."""


@dataclass(frozen=True, slots=True)
class ListingQuery:
    """Which names to list; all texts decoded.

    path: when not None, prefix and delimiter do not count. Names lie strictly between
    the markers; `marker` is where the listing starts, so in reverse it is the greater.
    """

    limit: int = LIMIT_MAX
    marker: str = ""
    end_marker: str = ""
    prefix: str = ""
    delimiter: str = ""
    path: str | None = None
    reverse: bool = False

    @classmethod
    def from_params(
        cls, params: Mapping[str, str], limit_max: int = LIMIT_MAX
    ) -> ListingQuery:
        """Read decoded query parameters; raises LimitTooLarge.

        A limit that is not all digits is ignored, as clients expect.
        """
        if not params:
            return cls(limit_max)
        limit = limit_max
        given = params.get("limit", "")
        if given.isascii() and given.isdigit():
            # Twenty digits are more than any limit, and int() of a long text is slow.
            limit = int(given[:20])
            if limit > limit_max:
                raise LimitTooLarge(limit_max)
        return cls(
            limit,
            params.get("marker", ""),
            params.get("end_marker", ""),
            params.get("prefix", ""),
            params.get("delimiter", ""),
            params.get("path"),
            params.get("reverse", "").strip().lower() in TRUE_WORDS,
        )

    @classmethod
    def parse(cls, query_string: str, limit_max: int = LIMIT_MAX) -> ListingQuery:
        """Read a WSGI QUERY_STRING; raises InvalidInput and LimitTooLarge."""
        return cls.from_params(query_params(query_string), limit_max)


def query_params(query_string: str) -> dict[str, str]:
    """The decoded parameters of a WSGI QUERY_STRING; of equal names the last counts.

    Raises InvalidInput for what is not UTF-8.
    """
    params: dict[str, str] = {}
    if not query_string:
        return params
    try:
        for pair in query_string.split("&"):
            if pair:
                name, _, value = pair.partition("=")
                params[_decoded(name)] = _decoded(value)
    except UnicodeError as error:
        raise InvalidInput("query parameter is not valid UTF-8") from error
    return params


def _decoded(text: str) -> str:
    if "+" in text:
        text = text.replace("+", " ")
    if "%" not in text and text.isascii():
        return text
    return unquote_to_bytes(text.encode("latin-1")).decode("utf-8")


def listing_format(format_param: str | None, accept: str | None) -> str:
    """The media type to answer in, one of FORMATS.

    format_param: the `format` parameter, which overrides the Accept header; an unknown
    word means plain. Raises InvalidInput for an Accept that does not parse,
    NotAcceptable when it takes none.
    """
    if format_param is not None:
        return _BY_NAME.get(format_param.lower(), PLAIN)
    if not accept or accept == "*/*":
        return PLAIN
    ranges = []
    refused = set()
    for position, text in enumerate(accept.split(",")):
        if not text.strip():
            continue
        kind, subtype, quality = _media_range(text)
        if quality <= 0:
            refused.add((kind, subtype))
        else:
            wildcards = (kind == "*") + (subtype == "*")
            ranges.append((-quality, wildcards, position, kind, subtype))
    for _, _, _, kind, subtype in sorted(ranges):
        for offered in FORMATS:
            offered_kind, _, offered_subtype = offered.partition("/")
            if (
                kind in ("*", offered_kind)
                and subtype in ("*", offered_subtype)
                and (offered_kind, offered_subtype) not in refused
            ):
                return offered
    raise NotAcceptable("none of the listing formats is acceptable")


def _media_range(text: str) -> tuple[str, str, float]:
    """(type, subtype, quality) of an element of Accept (RFC 9110, 12.5.1)."""
    match = _MEDIA_RANGE.match(text)
    if match is None or (match[1] == "*" and match[2] != "*"):
        raise InvalidInput(f"bad Accept header: {text!r:.80}")
    quality = 1.0
    found = _QUALITY.search(match[3] or "")
    if found is not None:
        try:
            quality = float(found[1])
        except ValueError as error:
            raise InvalidInput(f"bad Accept header: {text!r:.80}") from error
    return match[1].lower(), match[2].lower(), min(1.0, quality)


# --- Which names ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """A range of names to scan, in order; None is unbounded."""

    lower: str | None
    lower_included: bool
    upper: str | None
    upper_included: bool
    reverse: bool


Scan = Callable[[Span, int], Iterable[Entry]]
"""(span, limit) → live rows in the span, in its order, name first, at most `limit`."""


def page(scan: Scan, query: ListingQuery, *, allow_reserved: bool) -> list[Entry]:
    """The entries of a listing: rows, and (name,) for what a delimiter collapses.

    allow_reserved: whether names of the reserved namespace are seen.
    """
    prefix, delimiter = query.prefix, query.delimiter
    if query.path is not None:
        stem = query.path.rstrip("/")
        prefix, delimiter = (f"{stem}/" if stem else ""), "/"
    span = _first_span(query, prefix, allow_reserved)
    if span is None or query.limit <= 0:
        return []
    if not delimiter:
        return list(scan(span, query.limit))
    if query.path is not None:
        return _children(scan, span, query.limit, prefix)
    return _collapsed(scan, span, query, prefix, delimiter)


def _first_span(query: ListingQuery, prefix: str, allow_reserved: bool) -> Span | None:
    low, high = query.marker, query.end_marker
    if query.reverse:
        low, high = high, low
    lower: str | None = low or None
    lower_included = False
    if prefix and (lower is None or prefix > lower):
        lower, lower_included = prefix, True
    if not allow_reserved and (lower is None or lower < "\x01"):
        lower, lower_included = "\x01", True
    upper = high or None
    if prefix:
        beyond = successor(prefix)
        if beyond is not None and (upper is None or beyond < upper):
            upper = beyond
    if lower is not None and upper is not None and lower >= upper:
        return None
    return Span(lower, lower_included, upper, False, query.reverse)


def _collapsed(
    scan: Scan, span: Span, query: ListingQuery, prefix: str, delimiter: str
) -> list[Entry]:
    """Rows, and one subdir for all names that share the text up to the delimiter."""
    # The lower bound the client gave: a subdir equal to it was in the last page.
    seen = query.end_marker if query.reverse else query.marker
    entries: list[Entry] = []
    while len(entries) < query.limit:
        after = None
        for row in scan(span, query.limit - len(entries)):
            end = row[0].find(delimiter, len(prefix))
            if end < 0:
                entries.append(row)
                continue
            subdir = row[0][: end + len(delimiter)]
            if subdir != seen:
                entries.append((subdir,))
            after = _past(span, subdir)
            break
        if after is None:
            break
        span = after
    return entries


def _children(scan: Scan, span: Span, limit: int, prefix: str) -> list[Entry]:
    """Rows directly below a path; a child that ends in its only slash is a row too."""
    entries: list[Entry] = []
    while len(entries) < limit:
        after = None
        for row in scan(span, limit - len(entries) + 1):
            name = row[0]
            end = name.find("/", len(prefix))
            if name == prefix:
                continue
            if end < 0:
                entries.append(row)
            elif end == len(name) - 1:
                entries.append(row)
                after = _past(span, name)
                break
            else:
                child = name[: end + 1]
                if span.reverse:
                    # The child itself comes last in reverse; it may be a row.
                    after = Span(
                        span.lower, span.lower_included, child, True, span.reverse
                    )
                else:
                    after = _past(span, child)
                break
            if len(entries) == limit:
                break
        if after is None:
            break
        span = after
    return entries


def _past(span: Span, subtree: str) -> Span | None:
    """The rest of a span after all names that begin with `subtree`."""
    if span.reverse:
        return Span(span.lower, span.lower_included, subtree, False, True)
    beyond = successor(subtree)
    if beyond is None or (span.upper is not None and beyond >= span.upper):
        return None
    return Span(beyond, True, span.upper, span.upper_included, False)


def successor(text: str) -> str | None:
    """The least text above every text that begins with `text`, None if none is."""
    while text:
        point = ord(text[-1]) + 1
        if 0xD800 <= point < 0xE000:
            point = 0xE000  # surrogates are no characters
        if point <= 0x10FFFF:
            return text[:-1] + chr(point)
        text = text[:-1]
    return None


# --- Text, JSON, XML ------------------------------------------------------------------


def plain(entries: Iterable[Entry]) -> bytes:
    """One name a line; entries of any kind."""
    lines = [entry[0] for entry in entries]
    if not lines:
        return b""
    lines.append("")
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def objects_json(entries: Sequence[Entry]) -> bytes:
    """The JSON listing of a container."""
    if _are_usual(entries):
        # One comprehension takes a third of the time of a loop with cases.
        seconds, kinds = _Seconds(), _QuotedTypes()
        lines = [
            f'{{"bytes": {size}, "hash": {_quoted(etag)}, "name": {_quoted(name)}, '
            f'"content_type": {kinds[kind]}, '
            f'"last_modified": "{seconds[created_at[:10]]}.{created_at[11:]}0"}}'
            for name, created_at, size, kind, etag in entries
        ]
    else:
        lines = [json.dumps(record) for record in objects_records(entries)]
    return f"[{', '.join(lines)}]".encode("ascii")


def _are_usual(entries: Sequence[Entry]) -> bool:
    """True for object rows of one time each, without offset and without swift_bytes."""
    return all(
        len(entry) == 5
        and len(entry[1]) == _PLAIN_TIME_LENGTH
        and type(entry[2]) is int
        and entry[4] is not None
        for entry in entries
    ) and not any(
        kind is None or _SWIFT_BYTES in kind for kind in {entry[3] for entry in entries}
    )


class _QuotedTypes(dict[str, str]):
    """Content type → its JSON text; a listing holds few different ones."""

    def __missing__(self, content_type: str) -> str:
        quoted = self[content_type] = _quoted(content_type)
        return quoted


class _Seconds(dict[str, str]):
    """Ten digits of seconds since 1970 → `YYYY-MM-DDTHH:MM:SS`."""

    def __init__(self) -> None:
        super().__init__()
        self._dates: dict[int, str] = {}

    def __missing__(self, digits: str) -> str:
        day, rest = divmod(int(digits), 86400)
        date = self._dates.get(day)
        if date is None:
            moment = datetime.fromtimestamp(day * 86400, timezone.utc)
            date = self._dates[day] = moment.isoformat()[:11]
        hour, rest = divmod(rest, 3600)
        minute, second = divmod(rest, 60)
        text = f"{date}{_TWO[hour]}:{_TWO[minute]}:{_TWO[second]}"
        self[digits] = text
        return text


def containers_json(entries: Iterable[Entry], policy_names: Mapping[int, str]) -> bytes:
    """The JSON listing of an account; a policy without a name is left out."""
    records = containers_records(entries, policy_names)
    return json.dumps(records).encode("ascii")


def objects_records(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """The lines of a container's listing as the dicts that JSON holds."""
    records: list[dict[str, Any]] = []
    for entry in entries:
        if len(entry) == 1:
            records.append({"subdir": entry[0]})
            continue
        name, created_at, size, content_type, etag = entry
        shown, swift_bytes = split_swift_bytes(content_type or "")
        digits = _digits(swift_bytes)
        records.append(
            {
                "bytes": (size or 0) if digits is None else int(digits),
                "hash": etag or "",
                "name": name,
                "content_type": shown,
                "last_modified": _iso_of_row(created_at),
            }
        )
    return records


def containers_records(
    entries: Iterable[Entry], policy_names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """The lines of an account's listing as the dicts that JSON holds."""
    records: list[dict[str, Any]] = []
    for entry in entries:
        if len(entry) == 1:
            records.append({"subdir": entry[0]})
            continue
        name, count, size, put_timestamp, policy_index = entry
        record = {
            "name": name,
            "count": count,
            "bytes": size,
            "last_modified": Timestamp.parse(put_timestamp).iso,
        }
        policy = policy_names.get(policy_index)
        if policy is not None:
            record["storage_policy"] = policy
        records.append(record)
    return records


def parse_json(body: bytes) -> list[dict[str, Any]]:
    """The records of a JSON listing from a server; raises FormatError.

    Every record has a text `name` or a text `subdir`.
    """
    try:
        records = json.loads(body)
    except ValueError as error:
        raise FormatError("listing", "is no JSON") from error
    if not isinstance(records, list):
        raise FormatError("listing", "is no list")
    for record in records:
        if not isinstance(record, dict) or not isinstance(
            record.get("name", record.get("subdir")), str
        ):
            raise FormatError("listing", f"has an entry without name: {record!r:.80}")
    return records


def records_json(records: Sequence[Record]) -> bytes:
    """Records back as JSON."""
    return json.dumps(records).encode("ascii")


def records_plain(records: Iterable[Record]) -> bytes:
    """Records of either kind, one name a line."""
    return plain((record.get("name") or record["subdir"],) for record in records)


def objects_xml(container: str, records: Iterable[Record]) -> bytes:
    """The XML listing of a container."""
    parts = [f"{_XML_HEAD}<container name={_attribute(container)}>"]
    for record in records:
        if "subdir" in record:
            name = record["subdir"]
            parts.append(
                f"<subdir name={_attribute(name)}>"
                f"<name>{_escaped(name)}</name></subdir>"
            )
        else:
            parts.append(
                "<object>"
                + _elements(
                    record, ("name", "hash", "bytes", "content_type", "last_modified")
                )
                + "</object>"
            )
    parts.append("</container>")
    return "".join(parts).encode("utf-8", "surrogateescape")


def containers_xml(account: str, records: Iterable[Record]) -> bytes:
    """The XML listing of an account."""
    parts = [f"{_XML_HEAD}<account name={_attribute(account)}>\n"]
    for record in records:
        if "subdir" in record:
            parts.append(f"<subdir name={_attribute(record['subdir'])} />\n")
        else:
            parts.append(
                "<container>"
                + _elements(
                    record,
                    ("name", "count", "bytes", "last_modified", "storage_policy"),
                )
                + "</container>\n"
            )
    parts.append("</account>")
    return "".join(parts).encode("utf-8", "surrogateescape")


def _elements(record: Record, names: Sequence[str]) -> str:
    return "".join(
        f"<{name}>{_escaped(str(record[name]))}</{name}>"
        for name in names
        if name in record
    )


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A bare carriage return would be read back as a line feed (XML 1.0, 2.11).
    return text.replace("\r", "&#13;") if "\r" in text else text


def _attribute(text: str) -> str:
    text = _escaped(text).replace('"', "&quot;")
    return f'"{text}"'.replace("\n", "&#10;").replace("\t", "&#9;")


def _digits(swift_bytes: str | None) -> str | None:
    """The number as JSON takes it, None for a text that is no number."""
    if swift_bytes is None or not (swift_bytes.isascii() and swift_bytes.isdigit()):
        return None
    return str(int(swift_bytes[:20]))


def _iso_of_row(created_at: str) -> str:
    """The metadata time of an object row, in the form of listings."""
    return decode_triple(created_at)[2].iso
