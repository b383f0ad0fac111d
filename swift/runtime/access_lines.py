# SPDX-License-Identifier: Apache-2.0
"""Access lines: templates that an operator writes, parsed once, and their fields.

What a request was is a mapping of values; a template makes one line of it. Times have
forms of their own, and some fields can be shown as digests. Contract: config §8.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any
from urllib.parse import quote

SERVER_LOG_FORMAT = (
    "{remote_addr} - - [{time.d}/{time.b}/{time.Y}:{time.H}:{time.M}:{time.S} +0000] "
    '"{method} {path}" {status} {content_length} "{referer}" "{txn_id}" '
    '"{user_agent}" {trans_time:.4f} "{additional_info}" {pid} {policy_index}'
)
SERVER_FIELDS = frozenset(
    [
        "remote_addr",
        "time",
        "method",
        "path",
        "status",
        "content_length",
        "referer",
        "txn_id",
        "user_agent",
        "trans_time",
        "additional_info",
        "pid",
        "policy_index",
        "disk",
        "partition",
        "account",
        "container",
        "object",
    ]
)
PROXY_LOG_FORMAT = (
    "{client_ip} {remote_addr} {end_time.datetime} {method} {path} {protocol} "
    "{status_int} {referer} {user_agent} {auth_token} {bytes_recvd} {bytes_sent} "
    "{client_etag} {transaction_id} {headers} {request_time} {source} {log_info} "
    "{start_time} {end_time} {policy_index} {access_user_id}"
)
PROXY_FIELDS = frozenset(
    [
        "client_ip",
        "remote_addr",
        "end_time",
        "start_time",
        "method",
        "path",
        "protocol",
        "status_int",
        "referer",
        "user_agent",
        "auth_token",
        "bytes_recvd",
        "bytes_sent",
        "client_etag",
        "transaction_id",
        "headers",
        "request_time",
        "source",
        "log_info",
        "policy_index",
        "access_user_id",
        "domain",
        "account",
        "container",
        "object",
        "ttfb",
        "pid",
        "wire_status_int",
    ]
)
_ANONYMIZABLE = frozenset(
    [
        "remote_addr",
        "client_ip",
        "path",
        "account",
        "container",
        "object",
        "referer",
        "user_agent",
        "auth_token",
        "access_user_id",
        "domain",
    ]
)
_TIMES = frozenset(("time", "start_time", "end_time"))
_NUMBERS = frozenset(("trans_time", "request_time", "ttfb"))
_STRFTIME = frozenset("aAbBcdHIjmMpSUwWxXyYZ")
_SAFE_FIELDS = frozenset(
    ("status_int", "wire_status_int", "bytes_recvd", "bytes_sent", "pid")
)
_DATETIME = "%d/%b/%Y/%H/%M/%S"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.~:/{}\n-]+")
_UNSAFE_OR_NEWLINE = re.compile(r"[^A-Za-z0-9_.~:/{}-]+")

Getter = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True, slots=True)
class _Part:
    """One field of a template. get: None when the value as it is will do."""

    field: str
    get: Getter | None
    codes: str = ""  # of strftime, when the part is made once a second


@dataclass(frozen=True)
class Anonymizer:
    """Replaces a value by its digest: `{MD5}<hex>`, or `{SMD5}<hex>` with a salt."""

    method: str = "md5"
    salt: str = ""

    def __post_init__(self) -> None:
        if self.method.lower() not in hashlib.algorithms_available:
            raise ValueError(f"log_anonymization_method {self.method!r} is unknown")

    def digest(self, value: str) -> str:
        """The stand-in; blank stays blank."""
        if not value:
            return ""
        hasher = hashlib.new(self.method.lower(), usedforsecurity=False)
        hasher.update(self.salt.encode())
        hasher.update(value.encode("utf-8", "surrogateescape"))
        mark = f"S{self.method}" if self.salt else self.method
        return f"{{{mark.upper()}}}{hasher.hexdigest()}"


class LineTemplate:
    """An access-line template, parsed once.

    fields: those that may appear. quoted: values are percent-quoted, as the proxy does.
    Raises ValueError for a field or a form that is unknown.
    """

    def __init__(
        self,
        template: str,
        fields: frozenset[str],
        *,
        anonymizer: Anonymizer,
        quoted: bool,
    ) -> None:
        self.names: set[str] = set()
        self._quoted = quoted
        literals = [""]
        parts: list[_Part] = []
        for literal, name, spec, _ in string.Formatter().parse(template):
            if name is None:
                literals[-1] += literal
                continue
            field, _, form = name.partition(".")
            if field not in fields:
                raise ValueError(f"no field {name!r} in access lines")
            self.names.add(field)
            code = _strftime_code(field, form)
            before = parts[-1] if parts else None
            if before and before.codes and code and before.field == field:
                # Neighbouring parts of one time become one text, made once a second.
                codes = before.codes + literal.replace("%", "%%") + code
                parts[-1] = _Part(field, _time_text(field, codes), codes)
                continue
            literals[-1] += literal
            literals.append("")
            getter = _getter(field, form, spec or "", anonymizer)
            parts.append(_Part(field, getter, code))
        self._format = "%s".join(text.replace("%", "%%") for text in literals)
        names = [part.field for part in parts]
        self._blank = dict.fromkeys(names)
        # One name twice, so that there is a tuple even for a single field.
        self._fetch = itemgetter(*names, *names[:1]) if names else _nothing
        self._count = len(parts)
        self._special = [
            (index, part.get) for index, part in enumerate(parts) if part.get
        ]
        self._quotable = [
            index
            for index, part in enumerate(parts)
            if quoted and part.field not in _SAFE_FIELDS and part.codes != _DATETIME
        ]

    @classmethod
    def for_server(
        cls,
        template: str = SERVER_LOG_FORMAT,
        anonymizer: Anonymizer | None = None,
    ) -> LineTemplate:
        """log_format of the storage servers."""
        return cls(
            template or SERVER_LOG_FORMAT,
            SERVER_FIELDS,
            anonymizer=anonymizer or Anonymizer(),
            quoted=False,
        )

    @classmethod
    def for_proxy(
        cls,
        template: str = PROXY_LOG_FORMAT,
        anonymizer: Anonymizer | None = None,
    ) -> LineTemplate:
        """log_msg_template of proxy_logging."""
        return cls(
            template or PROXY_LOG_FORMAT,
            PROXY_FIELDS,
            anonymizer=anonymizer or Anonymizer(),
            quoted=True,
        )

    def render(self, values: Mapping[str, Any]) -> str:
        """The line. Times are seconds since 1970; what is missing or blank is `-`."""
        found = self._fetch({**self._blank, **values})[: self._count]
        texts = ["-" if v is None or v == "" else str(v) for v in found]
        for index, get in self._special:
            texts[index] = get(values) or "-"
        if self._quoted:
            # One search over all values; most lines have nothing to quote.
            joined = "\n".join([texts[index] for index in self._quotable])
            if _UNSAFE.search(joined) or joined.count("\n") >= len(self._quotable):
                for index in self._quotable:
                    texts[index] = _UNSAFE_OR_NEWLINE.sub(_percent, texts[index])
        return self._format % tuple(texts)


def _nothing(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return ()


def _percent(match: re.Match[str]) -> str:
    return quote(match[0], safe="", errors="surrogateescape")


def _strftime_code(field: str, part: str) -> str:
    if field not in _TIMES:
        return ""
    if part == "datetime":
        return _DATETIME
    if part == "asctime":
        return "%a %b %e %H:%M:%S %Y"
    return f"%{part}" if len(part) == 1 and part in _STRFTIME else ""


def _getter(field: str, part: str, spec: str, anonymizer: Anonymizer) -> Getter | None:
    if field in _TIMES:
        code = _strftime_code(field, part)
        return _time_text(field, code) if code else _time_number(field, part)
    if part == "anonymized" and field in _ANONYMIZABLE:
        return lambda values: anonymizer.digest(str(values.get(field) or ""))
    if part:
        raise ValueError(f"no form {part!r} of {field!r} in access lines")
    if spec:
        format(0.0 if field in _NUMBERS else "", spec)  # raises ValueError when bad

        def formatted(values: Mapping[str, Any]) -> str:
            value = values.get(field)
            return "" if value is None else format(value, spec)

        return formatted

    return None


def _time_text(field: str, codes: str) -> Getter:
    second, text = -1, ""

    def get(values: Mapping[str, Any]) -> str:
        nonlocal second, text
        now = int(values.get(field) or 0)
        if now != second:
            second = now
            text = datetime.fromtimestamp(now, timezone.utc).strftime(codes)
        return text

    return get


def _time_number(field: str, part: str) -> Getter:
    forms: dict[str, Getter] = {
        "": lambda values: f"{values.get(field) or 0:.9f}",
        "iso8601": lambda values: datetime.fromtimestamp(
            values.get(field) or 0, timezone.utc
        ).strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "s": lambda values: str(int(values.get(field) or 0)),
        "ms": lambda values: str(int((values.get(field) or 0) * 1e3)),
        "us": lambda values: str(int((values.get(field) or 0) * 1e6)),
        "ns": lambda values: str(int((values.get(field) or 0) * 1e9)),
    }
    if part not in forms:
        raise ValueError(f"no form {part!r} of {field!r} in access lines")
    return forms[part]
