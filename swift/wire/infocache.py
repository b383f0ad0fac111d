# SPDX-License-Identifier: Apache-2.0
"""What the proxy and its filters know of accounts and containers, asked once a minute.

`account_info` and `container_info` look in the request's own environ, then in the
shared cache (memcached, or the process's own), and at last ask the fetcher that the
proxy app put into the environ. Absence is remembered for a tenth of the time of
presence, failures for the one request only. Who changes an account or a container
clears its entry before the answer goes out (`clear_account`, `clear_container`), so
that the next request through any worker that shares the cache sees the change.

Keys are this project's own: proxies of OpenStack Swift that share the memcached servers
neither see nor disturb them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol, TypeVar

from swift.core import headers as h
from swift.core.headers import Headers
from swift.core.names import AccountName, BadEncoding, ContainerName, text_of_wsgi
from swift.wire.environ import CACHE, INFO_FETCHER, INFOCACHE

Environ = dict[str, Any]

NEGATIVE_SHARE = 0.1
"""Of the time that presence is remembered, absence is for this share."""

UNSHARDED = "unsharded"


class InfoAnswer(Protocol):
    """What a fetch gives: the status and headers of a HEAD."""

    status: int
    headers: Headers


class Counter(Protocol):
    """The one method of runtime.metrics.Metrics that is used here."""

    def increment(self, name: str) -> None:
        """Count one event."""


class Cache(Protocol):
    """What stands in environ[CACHE]: of wire.memcache or wire.local_cache.

    keeps_objects: values are kept as they are, so that no record needs to be made.
    keeps_facts: whoever changes an account or container reaches this cache.
    """

    keeps_objects: bool
    keeps_facts: bool

    def get(self, key: str) -> Any:
        """The value, None when absent."""

    def set(self, key: str, value: Any, ttl_s: float = 0) -> None:
        """Keep a value."""

    def delete(self, key: str) -> None:
        """Forget a value."""


@dataclass(frozen=True, slots=True)
class InfoFetcher:
    """How facts are had when no cache knows them: environ[INFO_FETCHER].

    fetch: asks the backends for the HEAD of an account or container; any status, it
    does not raise for a backend's failure (503 then). Yields.
    account_ttl_s, container_ttl_s: how long presence is remembered; 0 keeps nothing.
    account_skips, container_skips: decide by chance that one look into the shared cache
    is left out (the `*_existence_skip_cache_pct` options).
    """

    fetch: Callable[[Environ, AccountName | ContainerName], InfoAnswer]
    account_ttl_s: float = 60.0
    container_ttl_s: float = 60.0
    account_skips: Callable[[], bool] | None = None
    container_skips: Callable[[], bool] | None = None
    metrics: Counter | None = None

    def rule(self, kind: type[AccountInfo] | type[ContainerInfo]) -> CacheRule:
        """How facts of this kind are remembered."""
        if kind is AccountInfo:
            return CacheRule("account", self.account_ttl_s, self.account_skips)
        return CacheRule("container", self.container_ttl_s, self.container_skips)


class CacheRule(NamedTuple):
    """How facts of one kind are remembered: see `InfoFetcher`."""

    resource: str
    ttl_s: float
    skips: Callable[[], bool] | None


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """An account as its last HEAD said.

    status: of that HEAD. meta, sysmeta: lower-case names without prefix → decoded text.
    policy_totals: `<policy name>-bytes-used` and the like, lower case → number.
    """

    status: int
    container_count: int = 0
    object_count: int = 0
    bytes_used: int = 0
    is_deleted: bool = False
    meta: Mapping[str, str] = field(default_factory=dict)
    sysmeta: Mapping[str, str] = field(default_factory=dict)
    policy_totals: Mapping[str, int] = field(default_factory=dict)

    @property
    def exists(self) -> bool:
        """True when the backends have it."""
        return 200 <= self.status < 300

    @classmethod
    def from_headers(cls, status: int, headers: Headers) -> AccountInfo:
        """Read the answer to a HEAD or GET of a backend or of the proxy."""
        return cls(
            status,
            _integer(headers, h.X_ACCOUNT_CONTAINER_COUNT),
            _integer(headers, h.X_ACCOUNT_OBJECT_COUNT),
            _integer(headers, h.X_ACCOUNT_BYTES_USED),
            headers.get(h.X_ACCOUNT_STATUS, "").lower() == "deleted",
            _family(headers, h.ACCOUNT_META),
            _family(headers, h.ACCOUNT_SYSMETA),
            {
                name[len(h.ACCOUNT_STORAGE_POLICY) :].lower(): _integer(headers, name)
                for name, _value in headers.beginning(h.ACCOUNT_STORAGE_POLICY)
            },
        )

    def record(self) -> list[Any]:
        """The facts as JSON knows them, in the order of the fields."""
        return [
            self.status,
            self.container_count,
            self.object_count,
            self.bytes_used,
            self.is_deleted,
            dict(self.meta),
            dict(self.sysmeta),
            dict(self.policy_totals),
        ]

    @classmethod
    def from_record(cls, record: list[Any]) -> AccountInfo:
        """Read what `record` wrote."""
        return cls(*record)


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container as its last HEAD said.

    status: of that HEAD. read_acl, write_acl, sync_to, sync_key: decoded text, None
    when not set. put_timestamp, created_at: internal form, empty when unknown. meta,
    sysmeta: lower-case names without prefix → decoded text
    (`access-control-allow-origin` of the meta and its sisters are the CORS facts).
    """

    status: int
    policy_index: int = 0
    object_count: int = 0
    bytes_used: int = 0
    read_acl: str | None = None
    write_acl: str | None = None
    sync_to: str | None = None
    sync_key: str | None = None
    versions_location: str | None = None
    sharding_state: str = UNSHARDED
    created_at: str = ""
    put_timestamp: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    sysmeta: Mapping[str, str] = field(default_factory=dict)

    @property
    def exists(self) -> bool:
        """True when the backends have it."""
        return 200 <= self.status < 300

    @property
    def may_be_sharded(self) -> bool:
        """True while objects may belong to other databases than the container's own."""
        return self.sharding_state in ("sharding", "sharded")

    @classmethod
    def from_headers(cls, status: int, headers: Headers) -> ContainerInfo:
        """Read the answer to a HEAD or GET of a backend."""
        return cls(
            status,
            _integer(headers, h.X_BACKEND_STORAGE_POLICY_INDEX),
            _integer(headers, h.X_CONTAINER_OBJECT_COUNT),
            _integer(headers, h.X_CONTAINER_BYTES_USED),
            _text(headers, h.X_CONTAINER_READ),
            _text(headers, h.X_CONTAINER_WRITE),
            _text(headers, h.X_CONTAINER_SYNC_TO),
            _text(headers, h.X_CONTAINER_SYNC_KEY),
            _text(headers, h.X_VERSIONS_LOCATION),
            headers.get(h.X_BACKEND_SHARDING_STATE, UNSHARDED),
            headers.get(h.X_BACKEND_TIMESTAMP, ""),
            headers.get(h.X_BACKEND_PUT_TIMESTAMP, ""),
            _family(headers, h.CONTAINER_META),
            _family(headers, h.CONTAINER_SYSMETA),
        )

    def record(self) -> list[Any]:
        """The facts as JSON knows them, in the order of the fields."""
        return [
            self.status,
            self.policy_index,
            self.object_count,
            self.bytes_used,
            self.read_acl,
            self.write_acl,
            self.sync_to,
            self.sync_key,
            self.versions_location,
            self.sharding_state,
            self.created_at,
            self.put_timestamp,
            dict(self.meta),
            dict(self.sysmeta),
        ]

    @classmethod
    def from_record(cls, record: list[Any]) -> ContainerInfo:
        """Read what `record` wrote."""
        return cls(*record)


_Info = TypeVar("_Info", AccountInfo, ContainerInfo)
_LENGTHS: dict[type, int] = {
    kind: len(fields(kind)) for kind in (AccountInfo, ContainerInfo)
}


def account_key(account: str) -> str:
    """Where the facts of an account stand in the caches."""
    return f"account-info/{account}"


def container_key(account: str, container: str) -> str:
    """Where the facts of a container stand in the caches."""
    return f"container-info/{account}/{container}"


def account_info(environ: Environ, name: AccountName) -> AccountInfo:
    """The facts of an account; status 404 or 410 when it is not there. Yields.

    Needs environ[INFO_FETCHER].
    """
    return _info(environ, name, account_key(name.account), AccountInfo)


def container_info(environ: Environ, name: ContainerName) -> ContainerInfo:
    """The facts of a container; status 404 when it is not there. Yields.

    Needs environ[INFO_FETCHER].
    """
    key = container_key(name.account, name.container)
    return _info(environ, name, key, ContainerInfo)


def cached_container_info(
    environ: Environ, name: ContainerName
) -> ContainerInfo | None:
    """What the caches know of a container; no backend is asked. Yields.

    Needs environ[INFO_FETCHER].
    """
    key = container_key(name.account, name.container)
    known = _own(environ).get(key)
    if type(known) is ContainerInfo:
        return known
    return _shared(environ, key, ContainerInfo)[0]


def remember_account(
    environ: Environ, name: AccountName, status: int, headers: Headers
) -> AccountInfo:
    """Keep what the backends' answer to a GET or HEAD of the account says."""
    info = AccountInfo.from_headers(status, headers)
    _keep(environ, account_key(name.account), info)
    return info


def remember_container(
    environ: Environ, name: ContainerName, status: int, headers: Headers
) -> ContainerInfo:
    """Keep what the backends' answer to a GET or HEAD of the container says."""
    info = ContainerInfo.from_headers(status, headers)
    _keep(environ, container_key(name.account, name.container), info)
    return info


def clear_account(environ: Environ, name: AccountName) -> None:
    """Forget the account everywhere; call after each change of it. Yields."""
    _clear(environ, account_key(name.account))


def clear_container(environ: Environ, name: ContainerName) -> None:
    """Forget the container everywhere; call after each change of it. Yields."""
    _clear(environ, container_key(name.account, name.container))


def _own(environ: Environ) -> dict[str, Any]:
    """The request's own cache; sub-requests share it with the request they serve."""
    own: dict[str, Any] | None = environ.get(INFOCACHE)
    if own is None:
        own = environ[INFOCACHE] = {}
    return own


def _info(
    environ: Environ, name: AccountName | ContainerName, key: str, kind: type[_Info]
) -> _Info:
    """Own cache, then the shared one, then backends."""
    own = _own(environ)
    known = own.get(key)
    if type(known) is kind:
        return known
    info, outcome = _shared(environ, key, kind)
    if info is not None:
        return info
    fetcher: InfoFetcher = environ[INFO_FETCHER]
    answer = fetcher.fetch(environ, name)
    if fetcher.metrics is not None:
        resource = fetcher.rule(kind).resource
        fetcher.metrics.increment(f"{resource}.info.cache.{outcome}.{answer.status}")
    # A fetcher that goes through the proxy's own HEAD has remembered the answer
    # already.
    known = own.get(key)
    if type(known) is kind and known.status == answer.status:
        return known
    info = kind.from_headers(answer.status, answer.headers)
    _keep(environ, key, info)
    return info


def _shared(environ: Environ, key: str, kind: type[_Info]) -> tuple[_Info | None, str]:
    """What the shared cache knows, now known to the request as well, and why nothing:
    `miss`, `skip` or `disabled`. Yields."""
    cache: Cache | None = environ.get(CACHE)
    fetcher: InfoFetcher = environ[INFO_FETCHER]
    rule = fetcher.rule(kind)
    if cache is None or not cache.keeps_facts or rule.ttl_s <= 0:
        return None, "disabled"
    if rule.skips is not None and rule.skips():
        return None, "skip"
    info = _decoded(cache.get(key), kind)
    if info is not None:
        _own(environ)[key] = info
        if fetcher.metrics is not None:
            fetcher.metrics.increment(f"{rule.resource}.info.cache.hit")
    return info, "miss"


def _decoded(value: Any, kind: type[_Info]) -> _Info | None:
    if value is None or type(value) is kind:
        return value
    if type(value) is list and len(value) == _LENGTHS[kind]:
        return kind.from_record(value)
    # Another version of this program wrote it; ask again and write our own.
    return None


def _keep(environ: Environ, key: str, info: AccountInfo | ContainerInfo) -> None:
    _own(environ)[key] = info
    cache: Cache | None = environ.get(CACHE)
    fetcher: InfoFetcher = environ[INFO_FETCHER]
    ttl_s = fetcher.rule(type(info)).ttl_s
    if cache is None or not cache.keeps_facts or ttl_s <= 0:
        return
    if info.status in (404, 410):
        ttl_s *= NEGATIVE_SHARE
    elif not info.exists:
        return
    cache.set(key, info if cache.keeps_objects else info.record(), ttl_s)


def _clear(environ: Environ, key: str) -> None:
    _own(environ).pop(key, None)
    cache: Cache | None = environ.get(CACHE)
    if cache is not None:
        cache.delete(key)


def _integer(headers: Headers, name: str) -> int:
    try:
        return int(headers.get(name, "") or 0)
    except ValueError:
        return 0


def _decode(value: str) -> str:
    try:
        return text_of_wsgi(value)
    except BadEncoding:
        return value


def _text(headers: Headers, name: str) -> str | None:
    value = headers.get(name)
    return _decode(value) if value else None


def _family(headers: Headers, prefix: str) -> dict[str, str]:
    return {
        name[len(prefix) :].lower(): _decode(value)
        for name, value in headers.beginning(prefix)
    }
