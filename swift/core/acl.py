# SPDX-License-Identifier: Apache-2.0
"""Access lists: of containers (groups and referrers) and of accounts (JSON).

A container's list is text: elements joined by commas, each a group, a referrer rule
(`.r:host`) or `.rlistings`. It is cleaned once, when a client sets it, and parsed when
a request needs it. What a group means is the auth filter's business; nothing here knows
tokens or requests. Grammar: contract api 7.1; account lists: contract middleware 29.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from swift.core.errors import InvalidInput

LISTINGS = ".rlistings"
"""With a matching referrer rule, lets the same callers list the container."""

UNKNOWN_HOST = "unknown"
"""What a missing or unusable Referer is matched as."""

ADMIN = "admin"
READ_WRITE = "read-write"
READ_ONLY = "read-only"

_REFERRER = ".r"
_REFERRER_WORDS = frozenset((".r", ".ref", ".referer", ".referrer"))
_ACCOUNT_KEYS = frozenset((ADMIN, READ_WRITE, READ_ONLY))
_PARSED: dict[str, ContainerAcl] = {}
_PARSED_MAX = 1024


class AclError(InvalidInput, ValueError):
    """A list that breaks the grammar."""


@dataclass(frozen=True, slots=True)
class ContainerAcl:
    """One parsed list.

    referrers: the rules after `.r:`, in order. groups: the other elements, decoded.
    """

    referrers: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()

    def admits_referrer(self, referer: str | None) -> bool:
        """True when the last rule that matches the Referer's host is no denial."""
        if not self.referrers:
            return False
        host = _host_of(referer)
        admitted = False
        for rule in self.referrers:
            if rule.startswith("-"):
                if _host_matches(rule[1:], host):
                    admitted = False
            elif rule == "*" or _host_matches(rule, host):
                admitted = True
        return admitted

    @property
    def lists_to_referrers(self) -> bool:
        """True when admitted referrers may also list the container."""
        return LISTINGS in self.groups

    def names_any(self, groups: Iterable[str]) -> bool:
        """True when one of the caller's groups is an element."""
        return not self.groups.isdisjoint(groups)


EMPTY = ContainerAcl()


@dataclass(frozen=True, slots=True)
class AccountAcl:
    """Who else may use an account; identities as the auth filter writes them."""

    admin: tuple[str, ...] = ()
    read_write: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True when nobody is named."""
        return not (self.admin or self.read_write or self.read_only)


def clean_acl(text: str, *, is_write: bool) -> str:
    """The list as it is stored: spelling of referrer rules made one, blanks dropped.

    Raises AclError for a referrer rule in a write list, a rule without host and an
    unknown `.word:`.
    """
    elements = (element.strip() for element in text.split(","))
    return ",".join(
        _clean_element(element, is_write=is_write) for element in elements if element
    )


def parse_acl(text: str | None) -> ContainerAcl:
    """Read a stored list; None or empty admits nobody.

    Lists come from container metadata and repeat with every request, so that the
    results are remembered, up to a bound.
    """
    if not text:
        return EMPTY
    known = _PARSED.get(text)
    if known is None:
        known = _parse(text)
        if len(_PARSED) >= _PARSED_MAX:
            _PARSED.clear()
        _PARSED[text] = known
    return known


def parse_account_acl(text: str) -> AccountAcl:
    """Read an account's list: a JSON object of lists of strings; blank names nobody.

    Raises AclError for anything else and for unknown keys.
    """
    if not text.strip():
        return AccountAcl()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AclError("account ACL is no JSON") from error
    if not isinstance(value, dict):
        raise AclError("account ACL is no JSON object")
    for key, members in value.items():
        if key not in _ACCOUNT_KEYS:
            raise AclError(f"account ACL: unknown key {key!r}")
        if not isinstance(members, list) or not all(
            isinstance(member, str) for member in members
        ):
            raise AclError(f"account ACL: {key} is no list of strings")
    return AccountAcl(
        tuple(value.get(ADMIN, ())),
        tuple(value.get(READ_WRITE, ())),
        tuple(value.get(READ_ONLY, ())),
    )


def format_account_acl(acl: AccountAcl) -> str:
    """The list as ASCII JSON without blanks, keys sorted, empty lists left out."""
    pairs = (
        (ADMIN, acl.admin),
        (READ_ONLY, acl.read_only),
        (READ_WRITE, acl.read_write),
    )
    value = {key: list(members) for key, members in pairs if members}
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _clean_element(element: str, *, is_write: bool) -> str:
    word, colon, rule = element.partition(":")
    if not colon or not element.startswith("."):
        return element
    if word.strip() not in _REFERRER_WORDS:
        raise AclError(f"unknown designator {word!r} in ACL: {element!r}")
    if is_write:
        raise AclError(f"referrers are not allowed in write ACL: {element!r}")
    rule = rule.strip()
    sign = ""
    if rule.startswith("-"):
        sign, rule = "-", rule[1:].strip()
    if rule.startswith("*") and rule != "*":
        rule = rule[1:].strip()
    if rule in ("", "."):
        raise AclError(f"no host or domain after referrer in ACL: {element!r}")
    return f"{_REFERRER}:{sign}{rule}"


def _parse(text: str) -> ContainerAcl:
    referrers = []
    groups = set()
    for element in text.split(","):
        element = element.strip()
        if element.startswith(_REFERRER + ":"):
            referrers.append(element[len(_REFERRER) + 1 :])
        elif element:
            groups.add(unquote(element))
    return ContainerAcl(tuple(referrers), frozenset(groups))


def _host_of(referer: str | None) -> str:
    if not referer:
        return UNKNOWN_HOST
    try:
        return urlsplit(referer).hostname or UNKNOWN_HOST
    except ValueError:
        return UNKNOWN_HOST


def _host_matches(rule: str, host: str) -> bool:
    rule = rule.lower()
    return rule == host or (rule.startswith(".") and host.endswith(rule))
