# SPDX-License-Identifier: Apache-2.0
"""The verbs of accounts and containers, as the proxy serves them.

Reads ask one database after the other; writes go to all replicas and need half of them.
Facts that other requests rely on are remembered from reads and forgotten on writes
(`wire.infocache`). Contract: api 2 and 3, backend-http 6 and 7.
"""

from __future__ import annotations

from collections.abc import Sequence

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.headers import Headers
from swift.core.listing import LimitTooLarge, ListingQuery
from swift.core.metadata_rules import (
    check_metadata,
    check_name_lengths,
    removals,
)
from swift.core.names import AccountName, ContainerName
from swift.core.ring.ring import Ring
from swift.services.proxy.databases import (
    Read,
    digest_of,
    is_gone,
    read_database,
    write_database,
)
from swift.services.proxy.exchange import (
    Exchange,
    PairList,
    Proxy,
    refused,
    settled,
)
from swift.services.proxy.listing import list_container
from swift.wire import environ as env
from swift.wire.infocache import (
    clear_account,
    clear_container,
    remember_account,
    remember_container,
)
from swift.wire.request import Response

_CONTAINER_SETTINGS = (
    h.X_CONTAINER_READ,
    h.X_CONTAINER_WRITE,
    h.X_CONTAINER_SYNC_KEY,
    h.X_CONTAINER_SYNC_TO,
    h.X_VERSIONS_LOCATION,
)


def _too_long(exchange: Exchange) -> Response | None:
    name = exchange.name
    refusal = check_name_lengths(
        exchange.proxy.cluster.limits,
        account=name.account,
        container=name.container if isinstance(name, ContainerName) else "",
    )
    return refused(refusal) if refusal else None


def without_owner_headers(exchange: Exchange, headers: Headers) -> None:
    """Take away, in place, what only owners may see or set."""
    if not exchange.is_owner:
        for name in exchange.proxy.config.swift_owner_headers:
            headers.pop(name, None)


# --- Accounts -------------------------------------------------------------------------


def account_methods(proxy: Proxy) -> tuple[str, ...]:
    """The verbs that accounts know."""
    if proxy.config.allow_account_management:
        return ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE")
    return ("GET", "HEAD", "POST", "OPTIONS")


def read_account(exchange: Exchange) -> Response:
    """GET and HEAD. Yields."""
    too_long = _too_long(exchange)
    if too_long is not None:
        return too_long
    name = exchange.name
    assert isinstance(name, AccountName), "routed by name"
    bad = _bad_listing(exchange, exchange.proxy.cluster.limits.account_listing_limit)
    if bad is not None:
        return bad
    found = read_database(
        exchange,
        exchange.proxy.cluster.account_ring(),
        name,
        method=exchange.method,
        query=exchange.environ.get(env.QUERY_STRING, ""),
        extra=exchange.passed(h.BACKEND),
    )
    if found.status == 404:
        if is_gone(found.headers):
            return Response(410)
        if exchange.proxy.config.account_autocreate:
            return _imagined_account(exchange)
        return Response(404)
    return _read_response(exchange, found, remember_account=name)


def _imagined_account(exchange: Exchange) -> Response:
    """What an account that will come into being by use looks like before."""
    headers = Headers()
    for counted in (
        h.X_ACCOUNT_CONTAINER_COUNT,
        h.X_ACCOUNT_OBJECT_COUNT,
        h.X_ACCOUNT_BYTES_USED,
    ):
        headers[counted] = "0"
    headers[h.X_TIMESTAMP] = exchange.timestamp.normal
    headers[h.X_PUT_TIMESTAMP] = exchange.timestamp.normal
    headers[h.CONTENT_TYPE] = "application/json; charset=utf-8"
    return Response(200, headers, b"[]" if exchange.method == "GET" else b"")


def _read_response(
    exchange: Exchange,
    found: Read,
    *,
    remember_account: AccountName | None = None,
) -> Response:
    if found.status // 100 != 2:
        return Response(found.status)
    headers = found.headers
    if remember_account is not None:
        _remember_account(exchange, remember_account, found)
    headers.pop(h.X_PUT_TIMESTAMP, None)
    headers[h.ACCEPT_RANGES] = "bytes"
    without_owner_headers(exchange, headers)
    if exchange.method == "GET":
        headers.pop(h.CONTENT_LENGTH, None)
    return Response(found.status, headers, found.body)


def _remember_account(exchange: Exchange, name: AccountName, found: Read) -> None:
    remember_account(exchange.environ, name, found.status, found.headers)


def _bad_listing(exchange: Exchange, limit_max: int) -> Response | None:
    """The answer to query parameters that no database would take, None if fine."""
    query = exchange.environ.get(env.QUERY_STRING, "")
    if not query or query == "format=json":
        return None
    try:
        ListingQuery.parse(query, limit_max)
    except LimitTooLarge as error:
        return Response.error(412, str(error))
    except InvalidInput as error:
        return Response.text(400, str(error))
    return None


def _account_headers(exchange: Exchange) -> PairList:
    headers = exchange.backend_headers()
    headers += removals(exchange.headers, "account").items()
    headers += exchange.passed(h.ACCOUNT_META, h.ACCOUNT_SYSMETA, h.BACKEND)
    return headers


def post_account(exchange: Exchange) -> Response:
    """POST: change metadata, creating the account if that is allowed. Yields."""
    bad = _too_long(exchange) or _bad_metadata(exchange, "account")
    if bad is not None:
        return bad
    name = exchange.name
    assert isinstance(name, AccountName), "routed by name"
    ring = exchange.proxy.cluster.account_ring()
    headers = _account_headers(exchange)
    answer = write_database(exchange, ring, name, "POST", headers)
    clear_account(exchange.environ, name)
    if (
        answer is not None
        and answer.status == 404
        and exchange.proxy.config.account_autocreate
    ):
        created = create_account(exchange, name.account)
        if created is not None:
            return created
        answer = write_database(exchange, ring, name, "POST", headers)
    return settled(answer, method="POST")


def _bad_metadata(exchange: Exchange, resource: str) -> Response | None:
    refusal = check_metadata(exchange.headers, resource, exchange.proxy.cluster.limits)
    return refused(refusal) if refusal else None


def put_account(exchange: Exchange) -> Response:
    """PUT, where accounts are managed through the API. Yields."""
    bad = _bad_metadata(exchange, "account") or _too_long(exchange)
    if bad is not None:
        return bad
    return _write_account(exchange, "PUT", _account_headers(exchange))


def delete_account(exchange: Exchange) -> Response:
    """DELETE, where accounts are managed through the API. Yields."""
    if exchange.environ.get(env.QUERY_STRING):
        # A mistyped bulk delete must not take the whole account.
        return Response.text(400, "DELETE of an account takes no query string")
    return _write_account(exchange, "DELETE", exchange.backend_headers())


def _write_account(exchange: Exchange, method: str, headers: PairList) -> Response:
    name = exchange.name
    assert isinstance(name, AccountName), "routed by name"
    answer = write_database(
        exchange, exchange.proxy.cluster.account_ring(), name, method, headers
    )
    clear_account(exchange.environ, name)
    return settled(answer, method=method)


def create_account(exchange: Exchange, account: str) -> Response | None:
    """Make an account that came into use; None, or the answer when that failed. Yields.

    What a filter wants kept with the account (sysmeta in the request) goes along.
    """
    proxy = exchange.proxy
    name = AccountName(account)
    too_long = check_name_lengths(proxy.cluster.limits, account=account)
    if too_long is not None:
        return refused(too_long)
    answer = write_database(
        exchange,
        proxy.cluster.account_ring(),
        name,
        "PUT",
        [*exchange.backend_headers(), *exchange.passed(h.ACCOUNT_SYSMETA)],
    )
    clear_account(exchange.environ, name)
    if answer is not None and answer.is_success:
        proxy.log.info("account %s created by use", account)
        return None
    proxy.log.warning("account %s could not be created", account)
    return Response(503)


# --- Containers -----------------------------------------------------------------------

CONTAINER_METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS")


def read_container(exchange: Exchange) -> Response:
    """GET and HEAD; the container's own list decides who may. Yields."""
    proxy = exchange.proxy
    name = exchange.name
    assert isinstance(name, ContainerName), "routed by name"
    bad = _bad_listing(exchange, proxy.cluster.limits.container_listing_limit)
    if bad is not None:
        return bad
    status = exchange.account_status(name.account)
    if status != 200:
        return exchange.denial() or Response(status)
    ring = proxy.cluster.container_ring()
    query = exchange.environ.get(env.QUERY_STRING, "")
    if exchange.method == "GET":
        found = list_container(exchange, name)
    else:
        found = read_database(
            exchange,
            ring,
            name,
            method="HEAD",
            query=query,
            extra=exchange.passed(h.BACKEND),
        )
    acl = found.headers.get(h.X_CONTAINER_READ)
    if found.status // 100 == 2 or found.status == 404:
        remember_container(exchange.environ, name, found.status, found.headers)
    denied = exchange.denial(acl)
    if denied is not None:
        return denied
    headers = found.headers
    policy = proxy.cluster.policies.by_index(
        headers.get(h.X_BACKEND_STORAGE_POLICY_INDEX)
    )
    if found.status // 100 == 2 and h.X_BACKEND_STORAGE_POLICY_INDEX in headers:
        if policy is None:
            proxy.log.error("container %s has an unknown policy", name.path)
        else:
            headers[h.X_STORAGE_POLICY] = policy.name
    if exchange.is_reseller:
        sharding = headers.get(_SHARDING_SYSMETA)
        headers[h.X_CONTAINER_SHARDING] = str(h.true(sharding))
    return _read_response(exchange, found)


_SHARDING_SYSMETA = f"{h.CONTAINER_SYSMETA}Sharding"


def put_container(exchange: Exchange) -> Response:
    """PUT. Yields."""
    proxy = exchange.proxy
    name = exchange.name
    assert isinstance(name, ContainerName), "routed by name"
    bad = _clean_acls(exchange) or _bad_metadata(exchange, "container")
    if bad is not None:
        return bad
    policy_headers = _policy_headers(exchange)
    if isinstance(policy_headers, Response):
        return policy_headers
    too_long = _too_long(exchange)
    if too_long is not None:
        return too_long
    missing = _ensure_account(exchange, name.account)
    if missing is not None:
        return missing
    if _is_full(exchange, name):
        limit = proxy.config.max_containers_per_account
        return Response.error(403, f"Reached container limit of {limit}")
    ring = proxy.cluster.container_ring()
    headers = [*_container_headers(exchange), *policy_headers]
    answer = write_database(
        exchange, ring, name, "PUT", headers, _account_updates(exchange, ring, name)
    )
    clear_container(exchange.environ, name)
    return settled(answer, method="PUT")


def _ensure_account(exchange: Exchange, account: str) -> Response | None:
    """None when the account is there or was made now, else the answer. Yields."""
    prefix = exchange.proxy.cluster.limits.auto_create_account_prefix
    info = exchange.account_info(account)
    if info.exists:
        return None
    if info.status not in (404, 410):
        return Response(503)
    automatic = bool(prefix) and account.startswith(prefix)
    if exchange.proxy.config.account_autocreate or automatic:
        return create_account(exchange, account)
    return Response(404)


def _is_full(exchange: Exchange, name: ContainerName) -> bool:
    config = exchange.proxy.config
    limit = config.max_containers_per_account
    if not limit or name.account in config.max_containers_whitelist:
        return False
    if exchange.account_info(name.account).container_count < limit:
        return False
    return not exchange.container_info(name.account, name.container).exists


def _policy_headers(exchange: Exchange) -> PairList | Response:
    """How the policy that the client names, or none, is told to the databases."""
    policies = exchange.proxy.cluster.policies
    wanted = exchange.headers.get(h.X_STORAGE_POLICY)
    if not wanted:
        return [(h.X_BACKEND_STORAGE_POLICY_DEFAULT, str(policies.default.index))]
    policy = policies.by_name(wanted)
    if policy is None:
        return Response.text(400, f"Invalid {h.X_STORAGE_POLICY} '{wanted}'")
    if policy.is_deprecated:
        return Response.text(400, f"Storage Policy '{policy.name}' is deprecated")
    return [(h.X_BACKEND_STORAGE_POLICY_INDEX, str(policy.index))]


def _clean_acls(exchange: Exchange) -> Response | None:
    """Put both lists into their stored form, in place; the answer when one is bad."""
    clean = exchange.environ.get(env.CLEAN_ACL)
    if clean is None:
        return None
    headers = exchange.headers
    for name in (h.X_CONTAINER_READ, h.X_CONTAINER_WRITE):
        if name in headers:
            try:
                headers[name] = clean(name.lower(), headers[name])
            except (ValueError, InvalidInput) as error:
                return Response.text(400, str(error))
    return None


def _container_headers(exchange: Exchange) -> PairList:
    """What PUT and POST tell the databases: metadata, settings, removals."""
    client = exchange.headers
    without_owner_headers(exchange, client)
    for name, value in removals(client, "container").items():
        if not exchange.is_owner and name.lower() in (
            exchange.proxy.config.swift_owner_headers
        ):
            continue
        client[name] = value
    headers = exchange.backend_headers()
    headers += exchange.passed(
        h.CONTAINER_META, h.CONTAINER_SYSMETA, h.BACKEND, names=_CONTAINER_SETTINGS
    )
    if exchange.is_reseller and h.X_CONTAINER_SHARDING in client:
        sharding = str(h.true(client[h.X_CONTAINER_SHARDING]))
        headers.append((_SHARDING_SYSMETA, sharding))
    return headers


def _account_updates(
    exchange: Exchange, ring: Ring, name: ContainerName
) -> list[PairList]:
    """For each replica of a container: which account databases it tells of itself."""
    proxy = exchange.proxy
    replicas = len(ring.primaries(ring.partition(digest_of(proxy, name))))
    account_ring = proxy.cluster.on_network(replication=False).account_ring()
    partition = account_ring.partition(digest_of(proxy, name.account_name))
    told: list[list[tuple[str, str]]] = [[] for _ in range(replicas)]
    for index, node in enumerate(account_ring.primaries(partition)):
        told[index % replicas].append((f"{node.ip}:{node.port}", node.name))
    return [
        [
            (h.X_ACCOUNT_PARTITION, str(partition)),
            (h.X_ACCOUNT_HOST, ",".join(host for host, _ in nodes)),
            (h.X_ACCOUNT_DEVICE, ",".join(device for _, device in nodes)),
        ]
        if nodes
        else []
        for nodes in told
    ]


def post_container(exchange: Exchange) -> Response:
    """POST. Yields."""
    bad = _clean_acls(exchange) or _bad_metadata(exchange, "container")
    if bad is not None:
        return bad
    return _write_container(exchange, "POST", _container_headers(exchange))


def delete_container(exchange: Exchange) -> Response:
    """DELETE; the databases refuse when objects are left. Yields."""
    name = exchange.name
    assert isinstance(name, ContainerName), "routed by name"
    ring = exchange.proxy.cluster.container_ring()
    return _write_container(
        exchange,
        "DELETE",
        [*exchange.backend_headers(), *exchange.passed(h.BACKEND)],
        _account_updates(exchange, ring, name),
    )


def update_container(exchange: Exchange) -> Response:
    """UPDATE, for the cluster's own daemons: rows in JSON to all replicas. Yields."""
    body = exchange.environ[env.WSGI_INPUT].read()
    headers = [*exchange.backend_headers(), *exchange.passed(h.BACKEND)]
    headers.append((h.CONTENT_TYPE, "application/json"))
    return _write_container(exchange, "UPDATE", headers, body=body)


def _write_container(
    exchange: Exchange,
    method: str,
    headers: PairList,
    extras: Sequence[PairList] | None = None,
    body: bytes = b"",
) -> Response:
    name = exchange.name
    assert isinstance(name, ContainerName), "routed by name"
    status = exchange.account_status(name.account)
    if status != 200:
        return Response(status)
    answer = write_database(
        exchange,
        exchange.proxy.cluster.container_ring(),
        name,
        method,
        headers,
        extras,
        body,
    )
    clear_container(exchange.environ, name)
    return settled(answer, method=method)
