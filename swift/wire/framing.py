# SPDX-License-Identifier: Apache-2.0
"""The shape of HTTP/1.1 messages: heads, header fields, chunks. No sockets here.

Header fields are parsed and policed by llhttp (through httptools): it refuses NUL and
control characters, bare CR or LF, folded lines, blanks before the colon, and lengths
that are no numbers or given twice. The first line of a head and the framing of bodies
are read here, because llhttp knows only the methods that it has a table for, and
because a body need not be copied through a parser.

Rules: RFC 9112; the limits and answers of the HTTP layer in the reference of the API.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from swift.core.errors import InvalidInput
from swift.core.headers import Headers, title
from swift.wire import environ as keys

CRLF = b"\r\n"
HEAD_END = b"\r\n\r\n"

CHUNK_LINE_MAX = 4096
"""Bytes of a chunk-size line, extensions included."""
TRAILERS_MAX = 65536
"""Bytes of all trailer lines, which are read and dropped."""

_NAMES_MAX = 2048  # remembered header names of peers; then they are learnt anew
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"[\x21-\x7e\x80-\xff]+")
_METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE"))
_VERSION = re.compile(r"HTTP/([0-9])\.([0-9])")
_ALIKE_MAX = 256  # bytes of the header fields of an answer with little to say
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])(?: ([^\r\n]*))?")

# llhttp is given this line in place of the true one. A status that may have a body of
# any framing keeps its hands off what follows the head.
_STAND_IN = b"HTTP/1.1 200 -"


class BadFraming(InvalidInput):
    """Bytes that are not an HTTP message."""


class UnsupportedVersion(InvalidInput):
    """A well-formed request of HTTP 2 or later."""


class _EnvironFields:
    """Receives header fields from the parser into a WSGI environ."""

    __slots__ = ("environ",)

    def __init__(self) -> None:
        self.environ: dict[str, Any] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field, name and value as they came."""
        key = _ENVIRON_KEYS.get(name)
        if key is None:
            key = _environ_key(name)
            if not key:
                return
        text = value.decode("latin-1")
        if text[-1:] in _BLANKS:
            text = text.rstrip(" \t")
        environ = self.environ
        if key in environ:
            text = f"{environ[key]},{text}"
        environ[key] = text


_BLANKS = frozenset((" ", "\t"))
_ENVIRON_KEYS: dict[bytes, str] = {}


def _environ_key(name: bytes) -> str:
    """The environ key of a header name; empty for names that must not get through.

    A name with an underscore would read the same as another header's after CGI's
    mapping, so it is dropped.
    """
    text = name.decode("latin-1").upper()
    if "_" in text:
        key = ""
    else:
        key = text.replace("-", "_")
        if key not in (keys.CONTENT_TYPE, keys.CONTENT_LENGTH):
            key = "HTTP_" + key
    if len(_ENVIRON_KEYS) >= _NAMES_MAX:
        _ENVIRON_KEYS.clear()
    _ENVIRON_KEYS[name] = key
    return key


_environ_fields = _EnvironFields()


def read_environ_fields(block: bytes, environ: dict[str, Any]) -> None:
    """Put the header fields of a request into its environ.

    block: from the CRLF that ends the first line to the empty line, inclusive. Repeated
    fields are joined by a comma. Raises BadFraming.
    """
    _environ_fields.environ = environ
    parser = HttpResponseParser(_environ_fields)
    parser.set_dangerous_leniencies(lenient_chunked_length=True)
    try:
        parser.feed_data(_STAND_IN + block)
    except HttpParserUpgrade:
        pass  # an offer to change protocols may be ignored (RFC 9110 §7.8)
    except HttpParserError as error:
        raise BadFraming(str(error)) from error
    finally:
        _environ_fields.environ = _NOWHERE


_NOWHERE: dict[str, Any] = {}


class _HeaderFields:
    """Receives header fields from the parser into a Headers mapping."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers = Headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field, name and value as they came."""
        titled = _TITLES.get(name)
        if titled is None:
            titled = title(name.decode("latin-1"))
            if len(_TITLES) >= _NAMES_MAX:
                _TITLES.clear()
            _TITLES[name] = titled
        text = value.decode("latin-1")
        if text[-1:] in _BLANKS:
            text = text.rstrip(" \t")
        headers = self.headers
        if dict.__contains__(headers, titled):
            text = f"{dict.__getitem__(headers, titled)},{text}"
        dict.__setitem__(headers, titled, text)


_TITLES: dict[bytes, str] = {}
_header_fields = _HeaderFields()


def read_header_fields(block: bytes) -> Headers:
    """The header fields of an answer; block as for `read_environ_fields`.

    Raises BadFraming.
    """
    if len(block) <= _ALIKE_MAX:
        return _known_fields(block).copy()
    return _read_header_fields(block)


@lru_cache(maxsize=256)
def _known_fields(block: bytes) -> Headers:
    # Until the second of their Date is over, short answers are often alike.
    return _read_header_fields(block)


def _read_header_fields(block: bytes) -> Headers:
    headers = _header_fields.headers = Headers()
    try:
        HttpResponseParser(_header_fields).feed_data(_STAND_IN + block)
    except HttpParserUpgrade:
        pass
    except HttpParserError as error:
        raise BadFraming(str(error)) from error
    return headers


def split_request_line(line: str) -> tuple[str, str, str]:
    """(method, target, protocol) of a request's first line without its CRLF.

    The protocol is HTTP/0.9 when none is given. Raises BadFraming, and
    UnsupportedVersion from HTTP/2.0 on.
    """
    words = line.split(" ")
    if len(words) == 2:
        method, target = words
        protocol = "HTTP/0.9"
        if method != "GET":
            raise BadFraming("no HTTP version")
    elif len(words) == 3:
        method, target, protocol = words
        if protocol not in ("HTTP/1.1", "HTTP/1.0"):
            protocol = _known_protocol(protocol)
        if method not in _METHODS and not _TOKEN.fullmatch(method):
            raise BadFraming("bad method")
    else:
        raise BadFraming("bad request line")
    if not (target.isascii() and target.isprintable() and target) and not (
        _TARGET.fullmatch(target)
    ):
        raise BadFraming("bad request target")
    return method, target, protocol


def _known_protocol(text: str) -> str:
    match = _VERSION.fullmatch(text)
    if not match or match[1] == "0":
        raise BadFraming("bad HTTP version")
    if match[1] != "1":
        raise UnsupportedVersion(text)
    return "HTTP/1.1"


def split_target(target: str) -> tuple[str, str, str, str]:
    """(authority, raw path, decoded path, query) of a request target.

    All are WSGI strings. The authority is empty but for the absolute form (RFC 9112
    §3.2.2), where it takes the place of the Host header.
    """
    authority = ""
    if target[0] != "/" and "://" in target:
        scheme, _, rest = target.partition("://")
        if scheme.isalpha() and "?" not in scheme:
            authority, slash, rest = rest.partition("/")
            target = slash + rest or "/"
    raw, _, query = target.partition("?")
    path = unquote(raw, "latin-1") if "%" in raw else raw
    return authority, raw, path, query


@lru_cache(maxsize=256)
def split_status_line(line: bytes) -> tuple[int, int, str]:
    """(minor version, status, reason) of an answer's first line. Raises BadFraming."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise BadFraming(f"bad status line {line[:80]!r}")
    reason = match[3]
    return int(match[1]), int(match[2]), reason.decode("latin-1") if reason else ""


def chunk_size(line: bytes) -> int:
    """The size that a chunk's first line (without CRLF) gives. Raises BadFraming."""
    match = _CHUNK_SIZE.fullmatch(line)
    if match is None:
        raise BadFraming(f"bad chunk size {line[:40]!r}")
    return int(match[1], 16)


class _Prefixes(dict[str, str]):
    """Header name in any case → `Name: ` as it is written."""

    def __missing__(self, name: str) -> str:
        if not _TOKEN.fullmatch(name):
            raise BadFraming(f"bad header name {name[:80]!r}")
        prefix = title(name) + ": "
        if len(self) >= _NAMES_MAX:
            self.clear()
        self[name] = prefix
        return prefix


PREFIXES = _Prefixes()


def write_fields(fields: Iterable[tuple[str, str]]) -> list[str]:
    """Each field as a line without its CRLF, names Title-Cased."""
    prefixes = PREFIXES
    return [prefixes[name] + value for name, value in fields]


def joined_head(lines: list[str]) -> bytes:
    """A head from its lines, with the empty line at its end.

    Raises BadFraming when a line contains CR or LF (which would be a line of its own to
    the reader) or characters outside Latin-1.
    """
    lines.append("\r\n")
    text = "\r\n".join(lines)
    count = len(lines)
    if text.count("\n") != count or text.count("\r") != count:
        raise BadFraming("line break in a header")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise BadFraming("header text outside Latin-1") from error
