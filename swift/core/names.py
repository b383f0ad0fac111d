# SPDX-License-Identifier: Apache-2.0
"""Names of accounts, containers and objects: how paths hold them, how long they may be.

Only this room splits or quotes a path. A name is decoded text (str); on the wire it is
percent-encoded UTF-8, in a WSGI environ it is UTF-8 seen as Latin-1. Names are taken as
they are: no normalisation of dots, case or Unicode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote as _quote

from swift.core.errors import InvalidInput
from swift.core.settings import bind, csv, natural, option, positive_int

RESERVED = "\x00"
"""Names that begin with this character belong to the cluster itself."""


class BadEncoding(InvalidInput):
    """A path that is not UTF-8 or holds NUL where no reserved name is allowed: 412."""


@dataclass(frozen=True, slots=True)
class AccountName:
    """An account."""

    account: str

    @property
    def path(self) -> str:
        """`/account`, decoded."""
        return f"/{self.account}"

    @property
    def quoted(self) -> str:
        """The path, percent-encoded."""
        return quote(self.path)


@dataclass(frozen=True, slots=True)
class ContainerName:
    """A container in its account."""

    account: str
    container: str

    @property
    def path(self) -> str:
        """`/account/container`, decoded."""
        return f"/{self.account}/{self.container}"

    @property
    def quoted(self) -> str:
        """The path, percent-encoded."""
        return quote(self.path)

    @property
    def account_name(self) -> AccountName:
        """The account it is in."""
        return AccountName(self.account)


@dataclass(frozen=True, slots=True)
class ObjectName:
    """An object in its container; `obj` may hold and even begin with slashes."""

    account: str
    container: str
    obj: str

    @property
    def path(self) -> str:
        """`/account/container/object`, decoded."""
        return f"/{self.account}/{self.container}/{self.obj}"

    @property
    def quoted(self) -> str:
        """The path, percent-encoded."""
        return quote(self.path)

    @property
    def account_name(self) -> AccountName:
        """The account it is in."""
        return AccountName(self.account)

    @property
    def container_name(self) -> ContainerName:
        """The container it is in."""
        return ContainerName(self.account, self.container)


Name = AccountName | ContainerName | ObjectName


@dataclass(frozen=True, slots=True)
class ClientPath:
    """A path of the public API: version and what it names.

    name: None for `/v1` alone.
    """

    version: str
    name: Name | None


@dataclass(frozen=True, slots=True)
class NodePath:
    """A path of the backend API: `/device/partition[/account[/container[/object]]]`.

    rest: the decoded text after the partition when it is no name (a database hash, or
    suffixes joined by `-`); otherwise the same text that `name` was made of.
    """

    device: str
    partition: str
    rest: str
    name: Name | None


# Most names need no encoding, and a match costs a tenth of looking at each character.
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~/-]*").fullmatch


def quote(text: str) -> str:
    """Percent-encode as UTF-8, slashes kept."""
    if _UNRESERVED(text):
        return text
    return _quote(text, safe="/", errors="surrogateescape")


def quote_segment(text: str) -> str:
    """Percent-encode as UTF-8, slashes too."""
    return _quote(text, safe="", errors="surrogateescape")


def text_of_wsgi(value: str) -> str:
    """The text behind a WSGI string (UTF-8 bytes seen as Latin-1).

    Raises BadEncoding when the bytes are no UTF-8.
    """
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError as error:
        raise BadEncoding("not valid UTF-8") from error


def wsgi_of_text(text: str) -> str:
    """The WSGI string (UTF-8 bytes seen as Latin-1) of a text."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def name_of(account: str, container: str = "", obj: str = "") -> Name:
    """The most specific name that the parts make; empty parts count as absent."""
    if obj:
        return ObjectName(account, container, obj)
    if container:
        return ContainerName(account, container)
    return AccountName(account)


def split_name(path: str) -> Name:
    """The name in a decoded `/account[/container[/object]]`.

    A trailing slash after account or container is ignored. Raises InvalidInput when
    the account or container is empty or the leading slash is missing.
    """
    parts = path.split("/", 3)
    if len(parts) < 2 or parts[0] or not parts[1]:
        raise InvalidInput(f"no account in path {path!r}")
    container = parts[2] if len(parts) > 2 else ""
    obj = parts[3] if len(parts) > 3 else ""
    if obj and not container:
        raise InvalidInput(f"empty container in path {path!r}")
    return name_of(parts[1], container, obj)


def split_client_path(path: str) -> ClientPath:
    """Read a decoded `/version[/account[/container[/object]]]`.

    Raises InvalidInput for a path without version or with an empty account or container
    before further segments.
    """
    parts = path.split("/", 2)
    if len(parts) < 2 or parts[0] or not parts[1]:
        raise InvalidInput(f"no version in path {path!r}")
    if len(parts) == 2 or not parts[2]:
        return ClientPath(parts[1], None)
    return ClientPath(parts[1], split_name("/" + parts[2]))


def split_node_path(path: str) -> NodePath:
    """Read a decoded backend path. Raises InvalidInput without device and partition.

    Both must be one path segment that is no dot segment, for they become parts of file
    names.
    """
    parts = path.split("/", 3)
    if len(parts) < 3 or parts[0] or not is_safe_segment(parts[1]):
        raise InvalidInput(f"no device in path {path!r}")
    if not is_safe_segment(parts[2]):
        raise InvalidInput(f"no partition in path {path!r}")
    rest = parts[3] if len(parts) > 3 else ""
    name = split_name("/" + rest) if rest and not rest.startswith("/") else None
    return NodePath(parts[1], parts[2], rest, name)


def is_safe_segment(text: str) -> bool:
    """True for text that can name one directory entry and nothing else."""
    return (
        bool(text)
        and "/" not in text
        and RESERVED not in text
        and text not in (".", "..")
    )


def check_reserved(name: Name) -> None:
    """Hold a name to the rules of the reserved namespace; raises InvalidInput.

    NUL may only come first, and a container and its objects are both reserved or both
    not, but in accounts of the cluster itself (first character a dot).
    """
    parts = [name.account]
    if not isinstance(name, AccountName):
        parts.append(name.container)
    if isinstance(name, ObjectName):
        parts.append(name.obj)
    for part in parts:
        if RESERVED in part and not part.startswith(RESERVED):
            raise InvalidInput("a reserved character may only begin a name")
    if isinstance(name, ObjectName) and not name.account.startswith("."):
        reserved = [part.startswith(RESERVED) for part in parts[1:]]
        if reserved[0] != reserved[1]:
            raise InvalidInput("container and object must both be reserved or neither")


@dataclass(frozen=True)
class Limits:
    """[swift-constraints] of swift.conf; sizes in bytes, name lengths in characters."""

    max_file_size: int = option(5368709122, doc="Largest object, in bytes.")
    max_meta_name_length: int = option(128, doc="Bytes of a metadata name.")
    max_meta_value_length: int = option(256, doc="Bytes of a metadata value.")
    max_meta_count: int = option(90, doc="Metadata items of one resource.")
    max_meta_overall_size: int = option(4096, doc="Bytes of all names and values.")
    max_header_size: int = option(
        8192, parse=positive_int, doc="Bytes of a header line."
    )
    max_request_line: int = option(
        8192, parse=positive_int, doc="Bytes of the first line."
    )
    max_object_name_length: int = option(1024, doc="Characters of an object name.")
    max_account_name_length: int = option(256, doc="Characters of an account name.")
    max_container_name_length: int = option(256, doc="Characters of a container name.")
    container_listing_limit: int = option(10000, doc="Most rows of one listing.")
    account_listing_limit: int = option(10000, doc="Most rows of one listing.")
    extra_header_count: int = option(0, parse=natural, doc="Headers beyond the usual.")
    valid_api_versions: tuple[str, ...] = option(
        ("v1", "v1.0"), parse=csv, doc="First segments of paths that are served."
    )
    auto_create_account_prefix: str = option(
        ".", doc="Accounts that begin so belong to the cluster and need no creation."
    )

    @classmethod
    def from_section(cls, values: Mapping[str, str], source: str) -> Limits:
        """Read the section; `source` is the file it is from."""
        return bind(cls, values, source=source, section="swift-constraints")

    @property
    def max_headers(self) -> int:
        """Header lines of one request: as many as metadata could need, and some."""
        return int((self.max_meta_count + 36 + self.extra_header_count) * 1.6)

    def container_name_length(self, account: str) -> int:
        """The longest container name in that account; doubled in the cluster's own."""
        return self.max_container_name_length * self._factor(account)

    def account_name_length(self, account: str) -> int:
        """The longest account name; doubled for the cluster's own."""
        return self.max_account_name_length * self._factor(account)

    def _factor(self, account: str) -> int:
        prefix = self.auto_create_account_prefix
        return 2 if prefix and account.startswith(prefix) else 1
