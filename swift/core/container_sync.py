# SPDX-License-Identifier: Apache-2.0
"""What container sync decides: where to, whose row it is, what is sent, how far it is.

A container's rows are walked by two points. Before `point1` this node has done its own
share of the rows; before `point2` (never beyond `point1`) it has seen to it that every
row is at the target, whoever's share it was. So the primaries share the work as long
as all are well, and each makes good for the others.

Rules: contract daemons 6, databases 15, backend-http 14.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.headers import Headers
from swift.core.signing import sync_message, sync_signature
from swift.core.timestamp import Timestamp, decode_triple

NEVER = -1
"""A sync point before the first row."""

_PORTS = {"http": 80, "https": 443}

# Facts of one answer or one hop, which say nothing of the object.
_LEFT_OUT = frozenset(
    (
        h.CONNECTION,
        h.DATE,
        h.LAST_MODIFIED,
        h.TRANSFER_ENCODING,
        h.X_OPENSTACK_REQUEST_ID,
        h.X_TRANS_ID,
    )
)

# What this cluster keeps for itself; no other would take it, nor should know it.
_LEFT_OUT_FAMILIES = (h.BACKEND, h.OBJECT_SYSMETA, h.OBJECT_TRANSIENT_SYSMETA)


def url_fault(target: str, allowed_hosts: Collection[str]) -> str | None:
    """What is wrong with a sync target that is a URL, None when nothing is.

    The texts are those that owners are answered with.
    """
    try:
        parts = urlsplit(target)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return f"{h.X_CONTAINER_SYNC_TO} is no URL"
    if parts.scheme not in _PORTS:
        return (
            f"Invalid scheme {parts.scheme!r} in {h.X_CONTAINER_SYNC_TO}, must be "
            '"//", "http", or "https".'
        )
    if parts.path.count("/") < 3 or parts.path.strip("/").count("/") < 2:
        return f"Path required in {h.X_CONTAINER_SYNC_TO}"
    if parts.query or parts.fragment:
        return f"Params, queries, and fragments not allowed in {h.X_CONTAINER_SYNC_TO}"
    if host not in allowed_hosts:
        return f"Invalid host {host!r} in {h.X_CONTAINER_SYNC_TO}"
    return None


@dataclass(frozen=True, slots=True)
class SyncTarget:
    """A container of another cluster, and what opens it.

    path: percent-encoded, without a slash at its end. realm: '' when `user_key` is sent
    as it is; else requests are signed with `realm_key`.
    """

    scheme: str
    host: str
    port: int
    path: str
    user_key: str
    realm: str = ""
    realm_key: str = ""

    @classmethod
    def of_url(
        cls, url: str, user_key: str, *, realm: str = "", realm_key: str = ""
    ) -> SyncTarget:
        """The container at a URL. Raises InvalidInput."""
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError) as error:
            raise InvalidInput(f"{h.X_CONTAINER_SYNC_TO} is no URL") from error
        if not parts.hostname:
            raise InvalidInput(f"{h.X_CONTAINER_SYNC_TO} names no host")
        # Encoded anew: the other cluster signs the path as it would write it itself.
        path = quote(
            unquote(parts.path, errors="surrogateescape").rstrip("/"),
            errors="surrogateescape",
        )
        return cls(parts.scheme, parts.hostname, port, path, user_key, realm, realm_key)

    @classmethod
    def of_realm(
        cls, target: str, endpoint: str, user_key: str, realm_key: str
    ) -> SyncTarget:
        """The container `//realm/cluster/account/container` (checked before).

        endpoint: of that cluster, ending in a slash.
        """
        realm, _cluster, account, container = target[2:].split("/")
        return cls.of_url(
            f"{endpoint}{quote(account)}/{quote(container)}",
            user_key,
            realm=realm.upper(),
            realm_key=realm_key,
        )

    def object_path(self, name: str) -> str:
        """The percent-encoded path of an object there."""
        return f"{self.path}/{quote(name, errors='surrogateescape')}"

    @property
    def authority(self) -> str:
        """The value of Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def credentials(
        self, method: str, path: str, timestamp: str, nonce: str
    ) -> dict[str, str]:
        """The header that opens the container for one request.

        path: as sent; timestamp: the X-Timestamp that is sent with it.
        """
        if not self.realm:
            return {h.X_CONTAINER_SYNC_KEY: _wire(self.user_key)}
        message = sync_message(method, path, timestamp, nonce, self.user_key)
        signature = sync_signature(self.realm_key, message)
        return {h.X_CONTAINER_SYNC_AUTH: f"{_wire(self.realm)} {nonce} {signature}"}


def _wire(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


@dataclass(frozen=True, slots=True)
class SyncRow:
    """A row of an object as container sync sees it.

    data: of the object's data or tombstone; meta: of its last change.
    """

    rowid: int
    name: str
    deleted: bool
    data: Timestamp
    meta: Timestamp

    @classmethod
    def of_record(cls, record: Mapping[str, object]) -> SyncRow:
        """Of a row of the broker. Raises InvalidInput for times that are none."""
        data, _content_type, meta = decode_triple(str(record["created_at"]))
        return cls(
            int(str(record["ROWID"])),
            str(record["name"]),
            bool(record["deleted"]),
            data,
            meta,
        )


def is_own(digest: bytes, *, replicas: int, index: int) -> bool:
    """True when a row belongs to the share of the primary `index`.

    digest: the path hash of the object; replicas: the container's primaries.
    """
    return int.from_bytes(digest[:4], "big") % replicas == index


def is_at_target(status: int, timestamp: Timestamp | None, row: SyncRow) -> bool:
    """True when the target's answer to HEAD says that it has the row's state."""
    return status // 100 == 2 and timestamp is not None and timestamp >= row.meta


def time_of(headers: Headers) -> Timestamp | None:
    """When an object was last changed, by the answer of a proxy; None for nonsense."""
    try:
        return headers.timestamp(h.X_BACKEND_TIMESTAMP) or headers.timestamp(
            h.X_TIMESTAMP
        )
    except InvalidInput:
        return None


def copied_headers(source: Headers) -> Headers:
    """What a copy at the target is made with, of the headers of the local object."""
    copied = Headers(
        (name, value)
        for name, value in source.items()
        if name not in _LEFT_OUT and not name.startswith(_LEFT_OUT_FAMILIES)
    )
    if h.ETAG in copied:
        copied[h.ETAG] = copied[h.ETAG].strip('"')
    return copied
