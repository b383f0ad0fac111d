# SPDX-License-Identifier: Apache-2.0
"""The proxy server: routes a request of the public API, authorises it, and answers.

The order of the checks is that of contract api 1. What a resource does is in
`containers`, `object`, `object_get` and `object_put`; here are the ways to them,
`/info`, cross-origin headers, and what an error means.
"""

from __future__ import annotations

import hmac
import mimetypes
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from random import Random
from typing import Any

import swift
from swift.core import headers as h
from swift.core.errors import (
    ClientDisconnect,
    ClientTimeout,
    InvalidInput,
    SwiftError,
)
from swift.core.names import (
    RESERVED,
    AccountName,
    BadEncoding,
    ContainerName,
    Limits,
    ObjectName,
    split_name,
    text_of_wsgi,
)
from swift.core.settings import options_of
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.config import read_sections
from swift.runtime.process import choose_fragment_checksum
from swift.services.proxy import containers, cors
from swift.services.proxy.databases import fetch_info
from swift.services.proxy.exchange import Exchange, Proxy
from swift.services.proxy.object import (
    OBJECT_METHODS,
    delete_object,
    place_of,
    post_object,
)
from swift.services.proxy.object_get import read_object
from swift.services.proxy.object_put import put_object
from swift.services.proxy.options import ProxyConfig, ProxyOptions, read_options
from swift.wire import environ as env
from swift.wire.backends import Backends
from swift.wire.client import ConnectionPool
from swift.wire.environ import Environ
from swift.wire.filter import InfoRegistry, PipelineContext
from swift.wire.infocache import InfoAnswer, InfoFetcher
from swift.wire.nodes import ErrorLimiter, NodeOrder, NodeTimings
from swift.wire.request import (
    Request,
    Response,
    StartResponse,
    response_of,
)

INFO_PATH = "/info"
_INFO_METHODS = ("HEAD", "GET", "OPTIONS")
_SECONDS_MAX = 10**10

_CONTAINER_HANDLERS: dict[str, Callable[[Exchange], Response]] = {
    "GET": containers.read_container,
    "HEAD": containers.read_container,
    "PUT": containers.put_container,
    "POST": containers.post_container,
    "DELETE": containers.delete_container,
    "UPDATE": containers.update_container,
}
_ACCOUNT_HANDLERS: dict[str, Callable[[Exchange], Response]] = {
    "GET": containers.read_account,
    "HEAD": containers.read_account,
    "POST": containers.post_account,
    "PUT": containers.put_account,
    "DELETE": containers.delete_account,
}
_OBJECT_HANDLERS: dict[str, Any] = {
    "GET": read_object,
    "HEAD": read_object,
    "PUT": put_object,
    "POST": post_object,
    "DELETE": delete_object,
}
_PRIVATE = ("UPDATE",)


class ProxyServer:
    """The WSGI application at the end of a proxy's pipeline."""

    def __init__(self, proxy: Proxy, info: InfoRegistry) -> None:
        self.proxy = proxy
        self._info = info
        self.fetcher = _fetcher(proxy)
        self._account_methods = containers.account_methods(proxy)

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        try:
            response = self._handle(environ)
        except SwiftError as error:
            response = self._failure(environ, error)
        except Exception:
            self.proxy.metrics.increment("errors")
            self.proxy.log.exception(
                "%s %s failed",
                environ.get(env.REQUEST_METHOD),
                environ.get(env.PATH_INFO),
                txn=environ.get(env.TRANS_ID) or "",
            )
            response = Response(500)
        return response(environ, start_response)

    def _failure(self, environ: Environ, error: SwiftError) -> Response:
        """What an error that a handler let pass means to the client."""
        response = response_of(error)
        txn = environ.get(env.TRANS_ID) or ""
        if isinstance(error, ClientDisconnect):
            self.proxy.metrics.increment("object.client_disconnects")
            self.proxy.log.info("client disconnected: %s", error, txn=txn)
        elif isinstance(error, ClientTimeout):
            self.proxy.metrics.increment("object.client_timeouts")
            self.proxy.log.info("client too slow: %s", error, txn=txn)
        elif response.status >= 500:
            self.proxy.log.error("%s", error, txn=txn)
        return response

    # --- Checks, in their order -------------------------------------------------------

    def _handle(self, environ: Environ) -> Response:
        path: str = environ[env.PATH_INFO]
        if path == INFO_PATH:
            return self._answer_info(environ)
        environ.setdefault(env.INFO_FETCHER, self.fetcher)
        now = green.now()
        _settle_headers(environ)
        exchange = self._exchange(environ, path, now)
        if isinstance(exchange, Response):
            return exchange
        response = self._dispatch(exchange)
        if env.HTTP_ORIGIN in environ and exchange.method != "OPTIONS":
            self._expose(exchange, response)
        return response

    def _exchange(self, environ: Environ, path: str, now: float) -> Exchange | Response:
        """The request with its parts parsed, or the answer when they do not parse."""
        length = environ.get(env.CONTENT_LENGTH)
        if length and length[0] == "-":
            return Response.text(400, "Invalid Content-Length")
        try:
            text = text_of_wsgi(path)
        except BadEncoding:
            return Response.text(412, "Invalid UTF8 or contains NULL")
        if RESERVED in text and not h.true(
            environ.get(env.HTTP_X_BACKEND_ALLOW_RESERVED_NAMES)
        ):
            return Response.text(412, "Invalid UTF8 or contains NULL")
        version, rest = _split_version(text)
        if not version:
            return Response(404)
        if not rest:
            return Response.text(412, "Bad URL")
        if version not in self.proxy.cluster.limits.valid_api_versions:
            return Response.text(400, "Bad API version")
        try:
            name = split_name(rest)
        except InvalidInput:
            return Response(404)
        if self._is_denied_host(environ):
            return Response(403, body="Invalid host header")
        stamp = _timestamp(environ, now)
        if isinstance(stamp, Response):
            return stamp
        environ[env.BACKEND_PATH] = path
        proxy = self.proxy.of_request(environ)
        return Exchange(proxy, environ, name, now=now, timestamp=stamp)

    def _is_denied_host(self, environ: Environ) -> bool:
        denied = self.proxy.config.deny_host_headers
        if not denied:
            return False
        host = environ.get(env.HTTP_HOST, "").lower()
        if host.startswith("["):
            host = host.partition("]")[0] + "]"
        else:
            host = host.partition(":")[0]
        return host in denied

    def _dispatch(self, exchange: Exchange) -> Response:
        kind = type(exchange.name)
        if kind is ObjectName:
            return self._object(exchange)
        if exchange.method == "OPTIONS":
            return self._options(exchange)
        if kind is ContainerName:
            handler = _CONTAINER_HANDLERS.get(exchange.method)
            methods: Sequence[str] = containers.CONTAINER_METHODS
            if exchange.method in _PRIVATE and not exchange.headers.true(
                h.X_BACKEND_ALLOW_PRIVATE_METHODS
            ):
                handler = None
            defers = handler is containers.read_container
        else:
            handler = _ACCOUNT_HANDLERS.get(exchange.method)
            methods = self._account_methods
            if exchange.method not in methods:
                handler = None
            defers = False
        if handler is None:
            return _not_allowed(methods)
        if not defers:
            denied = exchange.denial()
            if denied is not None:
                return denied
        return handler(exchange)

    def _object(self, exchange: Exchange) -> Response:
        name = exchange.name
        assert isinstance(name, ObjectName), "routed by name"
        info = exchange.container_info(name.account, name.container)
        if info.status >= 500:
            return Response(503)
        explicit = exchange.environ.get(env.HTTP_X_BACKEND_STORAGE_POLICY_INDEX)
        index = info.policy_index if explicit is None else explicit
        policy = self.proxy.cluster.policies.by_index(index)
        if policy is None:
            return Response(503)
        exchange.environ[env.POLICY_INDEX] = policy.index
        if exchange.method == "OPTIONS":
            return self._options(exchange)
        handler = _OBJECT_HANDLERS.get(exchange.method)
        if handler is None:
            return _not_allowed(OBJECT_METHODS)
        response: Response = handler(exchange, place_of(exchange, info, policy))
        return response

    # --- Cross-origin requests --------------------------------------------------------

    def _options(self, exchange: Exchange) -> Response:
        name = exchange.name
        if isinstance(name, AccountName):
            return _allowed(self._account_methods)
        is_object = isinstance(name, ObjectName)
        methods = OBJECT_METHODS if is_object else containers.CONTAINER_METHODS
        if env.HTTP_ORIGIN not in exchange.environ:
            return _allowed(methods)
        info = exchange.container_info(name.account, name.container)
        granted = cors.preflight(
            cors.CorsRules.of(info), exchange.headers, methods, self.proxy.config
        )
        if granted is None:
            return Response(401, {h.ALLOW: ", ".join(methods)}, b"")
        return Response(200, granted, b"")

    def _expose(self, exchange: Exchange, response: Response) -> None:
        name = exchange.name
        if isinstance(name, AccountName):
            return
        info = exchange.container_info(name.account, name.container)
        cors.expose(
            cors.CorsRules.of(info),
            exchange.environ[env.HTTP_ORIGIN],
            response.headers,
            self.proxy.config,
        )

    # --- /info ------------------------------------------------------------------------

    def _answer_info(self, environ: Environ) -> Response:
        method = environ[env.REQUEST_METHOD]
        if method not in _INFO_METHODS:
            return _not_allowed(_INFO_METHODS)
        if method == "OPTIONS":
            return _allowed(_INFO_METHODS)
        config = self.proxy.config
        if not config.expose_info:
            return Response(403)
        admin = _admin_view(Request(environ), config)
        if isinstance(admin, Response):
            return admin
        response = Response.json(
            capabilities(self._info, config.disallowed_sections, admin=admin),
            headers={h.CONTENT_TYPE: "application/json; charset=UTF-8"},
        )
        origin = environ.get(env.HTTP_ORIGIN)
        if origin:
            response.headers[h.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[h.ACCESS_CONTROL_EXPOSE_HEADERS] = h.X_TRANS_ID.lower()
        return response


def _settle_headers(environ: Environ) -> None:
    """The token under its one name, and one framing of the body."""
    if env.HTTP_X_STORAGE_TOKEN in environ and env.HTTP_X_AUTH_TOKEN not in environ:
        environ[env.HTTP_X_AUTH_TOKEN] = environ[env.HTTP_X_STORAGE_TOKEN]
    coding = environ.get(env.HTTP_TRANSFER_ENCODING)
    if coding and coding.strip().lower().endswith("chunked"):
        environ.pop(env.CONTENT_LENGTH, None)


def _split_version(path: str) -> tuple[str, str]:
    """`/v1/a/c` → (`v1`, `/a/c`); the second is empty when nothing follows."""
    if path[:1] != "/":
        return "", ""
    version, slash, rest = path[1:].partition("/")
    return version, slash + rest if rest else ""


def _timestamp(environ: Environ, now: float) -> Timestamp | Response:
    """The time of the request: now, or what an insider sends along."""
    text = environ.get(env.HTTP_X_TIMESTAMP)
    if text is None:
        return Timestamp.at(now)
    try:
        found = Timestamp.parse(text)
        if found.seconds < _SECONDS_MAX:
            return found
    except InvalidInput:
        pass
    return Response.text(
        400, f"{h.X_TIMESTAMP} should be a UNIX timestamp float value; was {text!r:.80}"
    )


def _allowed(methods: Sequence[str]) -> Response:
    return Response(200, {h.ALLOW: ", ".join(methods)}, b"")


def _not_allowed(methods: Sequence[str]) -> Response:
    return Response(405, {h.ALLOW: ", ".join(methods)})


def capabilities(
    info: InfoRegistry, hidden: Iterable[str], *, admin: bool
) -> dict[str, Any]:
    """What /info shows: feature → facts. hidden: dotted keys that are left out."""
    hidden = list(hidden)
    shown: dict[str, Any] = {name: dict(facts) for name, facts in info.features.items()}
    for dotted in hidden:
        *path, last = dotted.split(".")
        place: Any = shown
        for step in path:
            place = place.get(step) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(last, None)
    if admin:
        facts = {name: dict(values) for name, values in info.admin_features.items()}
        shown["admin"] = {**facts, "disallowed_sections": hidden}
    return shown


def _admin_view(request: Request, config: ProxyConfig) -> bool | Response:
    """True when the request is signed with the admin key, False when it is plain."""
    params = request.query_map
    signature = params.get("swiftinfo_sig", b"")
    expires = params.get("swiftinfo_expires", b"")
    if not signature and not expires:
        return False
    if not config.admin_key:
        return Response(403)
    try:
        if int(expires) < green.now():
            return Response(401)
    except ValueError:
        return Response(401)
    method = request.environ[env.REQUEST_METHOD]
    signed_methods = (method, "GET") if method == "HEAD" else (method,)
    for signed in signed_methods:
        message = f"{signed}\n{int(expires)}\n{INFO_PATH}"
        expected = hmac.new(config.admin_key.encode(), message.encode(), "sha1")
        if hmac.compare_digest(signature, expected.hexdigest().encode()):
            return True
    return Response(401)


# --- Making one -----------------------------------------------------------------------


def _fetcher(proxy: Proxy) -> InfoFetcher:
    config = proxy.config

    def fetch(environ: Environ, name: AccountName | ContainerName) -> InfoAnswer:
        return fetch_info(proxy, environ, name)

    return InfoFetcher(
        fetch,
        config.recheck_account_existence_s,
        config.recheck_container_existence_s,
        _chance(proxy.rng, config.account_existence_skip_cache_pct),
        _chance(proxy.rng, config.container_existence_skip_cache_pct),
        proxy.metrics if proxy.metrics.is_on else None,
    )


def _chance(rng: Random, percent: float) -> Callable[[], bool] | None:
    if not percent:
        return None
    return lambda: rng.random() * 100 < percent


@cache
def type_guesser(mime_file: str) -> Callable[[str], str | None]:
    """Content types by the extension of a name: this machine's table and a file.

    Read once, though a process may make several proxies.
    """
    table = mimetypes.MimeTypes()
    for path in (*mimetypes.knownfiles, mime_file):
        with suppress(OSError):
            table.read(path)
    return lambda name: table.guess_type(name)[0]


def make_proxy(
    context: PipelineContext, options: ProxyOptions, pool: ConnectionPool | None = None
) -> Proxy:
    """Everything that the requests of one proxy share.

    pool: connections to the nodes; tests give one with a connector of their own.
    """
    config = options.proxy
    metrics = context.metrics
    log = context.logger("proxy-server")
    rng = Random()  # noqa: S311 (order of nodes and boundaries; not a secret)
    # Workers forked later must not all draw the same numbers.
    os.register_at_fork(after_in_child=rng.seed)
    timings = NodeTimings(config.timing_expiry_s)
    orders = {
        policy.index: NodeOrder(
            options.of_policy(policy.index).sorting_method,
            options.of_policy(policy.index).read_affinity,
            timings,
        )
        for policy in context.cluster.policies
    }
    order = NodeOrder(
        options.common.sorting_method, options.common.read_affinity, timings
    )
    backends = Backends(
        pool or ConnectionPool(),
        limiter=ErrorLimiter(
            config.error_suppression_interval_s,
            config.error_suppression_limit,
            metrics.increment,
        ),
        timings=timings,
        conn_timeout_s=config.conn_timeout_s,
        log=log,
        wants_timings=order.wants_timings
        or any(each.wants_timings for each in orders.values()),
    )
    return Proxy(
        options=options,
        cluster=context.cluster,
        backends=backends,
        order=order,
        orders=orders,
        log=log,
        metrics=metrics,
        rng=rng,
        guess_type=type_guesser(os.path.join(context.swift_dir, "mime.types")),
    )


def register_facts(info: InfoRegistry, proxy: Proxy) -> None:
    """Tell /info what the core of this cluster can do."""
    config = proxy.config
    limits: Limits = proxy.cluster.limits
    constraints = {name: getattr(limits, name) for name in options_of(Limits)}
    constraints["valid_api_versions"] = list(limits.valid_api_versions)
    policies = []
    for policy in proxy.cluster.policies:
        if policy.is_deprecated:
            continue
        shown: dict[str, Any] = {
            "name": policy.name,
            "aliases": ", ".join(policy.names),
        }
        if policy.is_default:
            shown["default"] = True
        policies.append(shown)
    info.register(
        "swift",
        version=swift.__version__,
        strict_cors_mode=config.strict_cors_mode,
        policies=policies,
        allow_account_management=config.allow_account_management,
        account_autocreate=config.account_autocreate,
        allow_open_expired=config.allow_open_expired,
        **constraints,
    )


def app_factory(
    global_conf: Mapping[str, str] | None, **local_conf: str
) -> ProxyServer:
    """The paste.app_factory `proxy`. Raises ConfigError."""
    context = PipelineContext.of(global_conf)
    sections: Mapping[str, Mapping[str, str]] = {}
    if context.process.sections is not None:
        sections = context.process.sections
    elif context.source not in ("", "-"):
        sections = read_sections(context.source)
    options = read_options(
        {**context, **local_conf},
        sections,
        policies=[policy.index for policy in context.cluster.policies],
        source=context.source,
    )
    choose_fragment_checksum(options.proxy.write_legacy_ec_crc)
    proxy = make_proxy(context, options)
    register_facts(context.info, proxy)
    app = ProxyServer(proxy, context.info)
    context.process.info_fetcher = app.fetcher
    return app
