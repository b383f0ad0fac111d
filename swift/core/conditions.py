# SPDX-License-Identifier: Apache-2.0
"""Conditional requests: whether the client's If-* headers let a GET or HEAD go on.

The order is that of the API contract (api 4.1), which differs from RFC 9110 in that
If-None-Match is looked at first. Dates that do not parse are ignored. Pure: the object
server and the proxy ask with the etag and date that they would send.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from swift.core.headers import (
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
    Headers,
)

NOT_MODIFIED = 304
PRECONDITION_FAILED = 412


@dataclass(frozen=True, slots=True)
class Conditions:
    """The If-* headers of one request; at least one of them was sent."""

    match: str | None
    none_match: str | None
    modified_since: str | None
    unmodified_since: str | None

    @classmethod
    def of(cls, headers: Headers) -> Conditions | None:
        """Those of a request, None when it sets none."""
        get = dict.get  # the names are Title-Cased already
        match, none_match = get(headers, IF_MATCH), get(headers, IF_NONE_MATCH)
        since = get(headers, IF_MODIFIED_SINCE)
        unmodified = get(headers, IF_UNMODIFIED_SINCE)
        if match is none_match is since is unmodified is None:
            return None
        return cls(match, none_match, since, unmodified)

    def verdict(self, etag: str, last_modified: int) -> int | None:
        """NOT_MODIFIED, PRECONDITION_FAILED, or None when the request may go on.

        etag: of the thing that exists, without quotes. last_modified: whole seconds
        since 1970, as the Last-Modified header says.
        """
        if self.none_match is not None and tag_matches(self.none_match, etag):
            return NOT_MODIFIED
        if self.match and not tag_matches(self.match, etag):
            return PRECONDITION_FAILED
        since = _seconds(self.modified_since)
        if since is not None and last_modified <= since:
            return NOT_MODIFIED
        unmodified = _seconds(self.unmodified_since)
        if unmodified is not None and last_modified > unmodified:
            return PRECONDITION_FAILED
        return None

    def verdict_missing(self) -> int | None:
        """PRECONDITION_FAILED when the thing does not exist but was required to."""
        if self.match is not None and "*" in _tags(self.match):
            return PRECONDITION_FAILED
        return None


def tag_matches(header: str, etag: str) -> bool:
    """True when a list of entity tags holds `etag` (without quotes) or a `*`."""
    tags = _tags(header)
    return etag in tags or "*" in tags


def _tags(header: str) -> list[str]:
    return [
        tag[1:-1] if len(tag) > 1 and tag[0] == tag[-1] == '"' else tag
        for item in header.split(",")
        if (tag := item.strip())
    ]


def _seconds(date: str | None) -> int | None:
    """An HTTP date as seconds since 1970, None when there is none that parses."""
    if not date:
        return None
    try:
        return int(parsedate_to_datetime(date).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
