# SPDX-License-Identifier: Apache-2.0
"""Requests that the wire itself answers, and how. Reference of the API, HTTP layer."""

from __future__ import annotations

import secrets
from email.utils import formatdate

from swift.core.headers import (
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    X_OPENSTACK_REQUEST_ID,
    X_TRANS_ID,
)
from swift.core.names import quote_segment
from swift.runtime import green
from swift.wire.framing import (
    joined_head,
)


class Refused(Exception):
    """A request that no app gets to see. status: `400 Bad Request`; bare: HTTP/1.0 and
    no body; else an HTML page with a transaction id."""

    def __init__(self, status: str, explanation: str = "", *, bare: bool) -> None:
        super().__init__(status)
        self.status = status
        self.explanation = explanation
        self.bare = bare


_date_second = -1
_date_line = ""


def date_line() -> str:
    """The Date field of answers sent now."""
    global _date_second, _date_line
    second = int(green.now())
    if second != _date_second:
        _date_second = second
        _date_line = "Date: " + formatdate(second, usegmt=True)
    return _date_line


def transaction_id(suffix: str) -> str:
    """`tx`, 21 random hex digits, `-`, 10 hex digits of Unix seconds, quoted suffix."""
    text = f"tx{secrets.randbits(84):021x}-{int(green.now()):010x}"
    return text + quote_segment(suffix) if suffix else text


def refusal(refused: Refused, suffix: str) -> bytes:
    """The whole answer; `suffix` ends the transaction id."""
    if refused.bare:
        lines = [
            f"HTTP/1.0 {refused.status}",
            f"{CONNECTION}: close",
            f"{CONTENT_LENGTH}: 0",
        ]
        return joined_head(lines)
    reason = refused.status.partition(" ")[2]
    body = f"<html><h1>{reason}</h1><p>{refused.explanation}</p></html>".encode()
    trans_id = transaction_id(suffix)
    lines = [
        f"HTTP/1.1 {refused.status}",
        f"{CONTENT_TYPE}: text/html; charset=UTF-8",
        f"{CONTENT_LENGTH}: {len(body)}",
        f"{X_TRANS_ID}: {trans_id}",
        f"{X_OPENSTACK_REQUEST_ID}: {trans_id}",
        date_line(),
        f"{CONNECTION}: close",
    ]
    return joined_head(lines) + body


def bad_request(explanation: str) -> Refused:
    """A request that cannot be read."""
    return Refused("400 Bad Request", explanation, bare=False)
