# SPDX-License-Identifier: Apache-2.0
"""Temporary URLs: one method on one object, or one prefix, for whoever has the address.

A good signature lets the request through past the auth filter, held to what the key
that signed it may open. The signature covers method, expiry and path, not the other
headers: so whatever would make another object readable through this one is refused, and
what the owner has not published of the metadata is taken off the answer.

Contract: middleware 30.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.headers import title
from swift.core.settings import option, words
from swift.core.signing import (
    DIGESTS,
    BadSignature,
    Signature,
    allowed_digests,
    deprecated_among,
    temp_url_message,
)
from swift.middleware.signed import Scope, keys_of, open_scope, unauthorized
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.environ import Environ, key_of
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import Response, StartResponse, WsgiApp, parse_query

SIGNATURE = "temp_url_sig"
EXPIRES = "temp_url_expires"
PREFIX = "temp_url_prefix"
IP_RANGE = "temp_url_ip_range"

USER = ".wsgi.tempurl"
"""Stands in environ[REMOTE_USER] for who holds the address."""

SOURCE_HEADERS = (
    h.X_OBJECT_MANIFEST,
    h.X_SYMLINK_TARGET,
    h.X_SYMLINK_TARGET_ACCOUNT,
    h.X_COPY_FROM,
    h.X_COPY_FROM_ACCOUNT,
)
"""Name other objects, whose bytes would be read through the one that is written."""

_SOURCE_KEYS = tuple(key_of(name) for name in SOURCE_HEADERS)
_READS = ("GET", "HEAD")
_LIKE_HEAD = ("HEAD", "GET", "POST", "PUT")
_API_VERSION = "v1"
_EXPIRES_MAX = 253402300799  # the last second that a date can write
_INVALID = "Temp URL invalid\n"


@dataclass(frozen=True)
class TempurlConfig:
    """[filter:tempurl] of proxy-server.conf."""

    methods: tuple[str, ...] = option(
        ("GET", "HEAD", "PUT", "POST", "DELETE"),
        parse=words,
        doc="Methods that can be signed.",
    )
    incoming_remove_headers: tuple[str, ...] = option(
        ("x-timestamp", "x-open-expired"),
        parse=words,
        doc="Headers taken off requests; one that ends in * is a prefix.",
    )
    incoming_allow_headers: tuple[str, ...] = option(
        (), parse=words, doc="Exceptions of incoming_remove_headers."
    )
    outgoing_remove_headers: tuple[str, ...] = option(
        ("x-object-meta-*",),
        parse=words,
        doc="Headers taken off answers; one that ends in * is a prefix.",
    )
    outgoing_allow_headers: tuple[str, ...] = option(
        ("x-object-meta-public-*",),
        parse=words,
        doc="Exceptions of outgoing_remove_headers.",
    )
    allowed_digests: tuple[str, ...] = option(
        DIGESTS, parse=allowed_digests, doc="Digests that signatures may use."
    )


class HeaderRule:
    """Which headers are taken off: those of one list but not of the other."""

    def __init__(self, removed: Iterable[str], allowed: Iterable[str]) -> None:
        self._removed, self._removed_prefixes = _split(removed)
        self._allowed, self._allowed_prefixes = _split(allowed)

    def removes(self, name: str) -> bool:
        """name: Title-Cased."""
        if name not in self._removed and not name.startswith(self._removed_prefixes):
            return False
        return name not in self._allowed and not name.startswith(self._allowed_prefixes)


def _split(names: Iterable[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    titled = [title(name) for name in names]
    exact = frozenset(name for name in titled if not name.endswith("*"))
    return exact, tuple(name[:-1] for name in titled if name.endswith("*"))


@dataclass(frozen=True, slots=True)
class Claim:
    """What the query of a temporary URL says; texts are undecoded bytes.

    prefix: None when one path is signed. filename: None when none is asked for.
    """

    signature: Signature
    expires: int
    prefix: bytes | None
    ip_range: bytes | None
    filename: bytes | None
    is_inline: bool

    @classmethod
    def read(cls, params: Mapping[str, bytes]) -> Claim:
        """Raises InvalidInput when a part is missing or malformed."""
        signature = Signature.parse(params.get(SIGNATURE, b"").decode("latin-1"))
        return cls(
            signature,
            expiry(params.get(EXPIRES, b"")),
            params.get(PREFIX),
            params.get(IP_RANGE),
            params.get("filename") or None,
            "inline" in params,
        )

    def messages(self, method: str, path: bytes) -> list[tuple[str, bytes]]:
        """(method, what would have been signed), for each method that may have been."""
        methods = _LIKE_HEAD if method == "HEAD" else (method,)
        if self.prefix is not None:
            # The prefix is that of an object's name: container and account stay whole.
            root = b"/".join(path.split(b"/", 4)[:4]) + b"/"
            path = b"prefix:" + root + self.prefix
        return [
            (each, temp_url_message(each, self.expires, path, self.ip_range))
            for each in methods
        ]


def expiry(value: bytes) -> int:
    """Unix seconds, given so or as `YYYY-MM-DDTHH:MM:SSZ`; raises InvalidInput."""
    try:
        if value.isdigit() and len(value) <= 12:
            seconds = int(value)
        else:
            text = value.decode("ascii")
            # `%z` takes other zones too, which nobody has promised.
            moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")
            if not text.endswith("Z"):
                raise InvalidInput(f"{EXPIRES} is not in UTC")
            seconds = int(moment.timestamp())
    except ValueError:
        raise InvalidInput(f"{EXPIRES} is no time") from None
    if not 0 <= seconds <= _EXPIRES_MAX:
        raise InvalidInput(f"{EXPIRES} is no time that can be written")
    return seconds


def is_within(address: str, ip_range: bytes) -> bool:
    """True when an address is in a range, itself an address or `address/bits`."""
    try:
        network = ipaddress.ip_network(ip_range.decode("ascii"))
        return ipaddress.ip_address(address) in network
    except ValueError:
        return False


def disposition(kind: str, filename: bytes) -> str:
    """A Content-Disposition with the name in its old and its RFC 6266 form."""
    plain, extended = quote(filename, safe=" /"), quote(filename)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{extended}"


class Tempurl(Filter):
    """The filter."""

    Config = TempurlConfig
    config: TempurlConfig

    def __init__(
        self, app: WsgiApp, config: TempurlConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._incoming = HeaderRule(
            config.incoming_remove_headers, config.incoming_allow_headers
        )
        self._outgoing = HeaderRule(
            config.outgoing_remove_headers, config.outgoing_allow_headers
        )
        self._metrics = context.metrics_of("tempurl")
        context.info.register(
            "tempurl",
            methods=list(config.methods),
            incoming_remove_headers=list(config.incoming_remove_headers),
            incoming_allow_headers=list(config.incoming_allow_headers),
            outgoing_remove_headers=list(config.outgoing_remove_headers),
            outgoing_allow_headers=list(config.outgoing_allow_headers),
            allowed_digests=sorted(config.allowed_digests),
            deprecated_digests=deprecated_among(config.allowed_digests),
        )

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        query = environ.get(env.QUERY_STRING)
        if not query or "temp_url_" not in query:
            return self.app(environ, start_response)
        params = parse_query(query)
        if SIGNATURE not in params and EXPIRES not in params:
            return self.app(environ, start_response)
        if environ[env.REQUEST_METHOD] == "OPTIONS":
            return self.app(environ, start_response)
        answer = self._open(environ, params)
        if isinstance(answer, Response):
            return answer(environ, start_response)
        begin = self._published(environ, answer, start_response)
        return self.app(environ, begin)

    def _open(self, environ: Environ, params: Mapping[str, bytes]) -> Claim | Response:
        """Check the address and let the request in; a Response refuses it. Yields."""
        path = environ[env.PATH_INFO]
        parts = path.split("/", 4)
        refusal = unauthorized(parts[2] if len(parts) > 2 else "unknown", _INVALID)
        method = environ[env.REQUEST_METHOD]
        if method not in self.config.methods or not self.knows_facts(environ):
            return refusal
        try:
            claim = Claim.read(params)
            if not _covers(claim, method, parts) or claim.expires < green.now():
                return refusal
            if claim.signature.digest not in self.config.allowed_digests:
                return refusal
            signed = self._signer(environ, claim, parts)
        except (BadSignature, InvalidInput):
            return refusal
        if signed is None:
            return refusal
        if claim.ip_range is not None and not is_within(
            environ.get(env.REMOTE_ADDR, ""), claim.ip_range
        ):
            return refusal
        signed_method, scope = signed
        fault = source_fault(environ, params, signed_method)
        if fault is not None:
            return Response.text(400, fault)
        if self._metrics.is_on:
            self._metrics.increment(f"digests.{claim.signature.digest}")
        open_scope(environ, scope, USER)
        self._take_off(environ)
        return claim

    def _signer(
        self, environ: Environ, claim: Claim, parts: list[str]
    ) -> tuple[str, Scope] | None:
        """The method that was signed, and what the key opens; None if unsigned. Yields.

        Raises BadEncoding.
        """
        path = environ[env.PATH_INFO].encode("latin-1")
        candidates = [
            candidate
            for candidate in claim.messages(environ[env.REQUEST_METHOD], path)
            if candidate[0] in self.config.methods
        ]
        found = None
        for key in keys_of(environ, parts[2], parts[3]):
            matches = claim.signature.signed_by(
                key.secret, [message for _method, message in candidates]
            )
            for (method, _message), signed in zip(candidates, matches, strict=True):
                if signed and found is None:
                    found = method, key.scope
        return found

    def _take_off(self, environ: Environ) -> None:
        for name in env.headers_of(environ):
            if self._incoming.removes(name):
                env.remove_header(environ, name)

    def _published(
        self, environ: Environ, claim: Claim, start_response: StartResponse
    ) -> StartResponse:
        """A start_response that shows what holders of the address may see."""
        is_read = environ[env.REQUEST_METHOD] in _READS
        path: bytes = environ[env.PATH_INFO].encode("latin-1")

        def begin(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Any:
            shown = [
                pair for pair in headers if not self._outgoing.removes(title(pair[0]))
            ]
            if is_read and status.startswith("2"):
                shown = _for_download(shown, claim, path)
            if exc_info is not None:
                return start_response(status, shown, exc_info)
            return start_response(status, shown)

        return begin


def _covers(claim: Claim, method: str, parts: list[str]) -> bool:
    """True when the path is one that such an address may name."""
    if len(parts) < 4 or parts[0] or parts[1] != _API_VERSION or not all(parts[2:4]):
        return False
    obj = parts[4] if len(parts) > 4 else ""
    if claim.prefix is None:
        return bool(obj)
    if not obj:
        # The root of a container that staticweb shows.
        return claim.prefix == b"" and method in _READS
    return obj.encode("latin-1").startswith(claim.prefix)


def source_fault(
    environ: Environ, params: Mapping[str, bytes], signed_method: str
) -> str | None:
    """Why a request must not go on: it would open other data than its own path.

    signed_method: what the signature allows; HEAD may come with that of a PUT.
    """
    if signed_method in _READS:
        return None
    for key, name in zip(_SOURCE_KEYS, SOURCE_HEADERS, strict=True):
        if key in environ:
            return f"The header {name} is not allowed in this tempurl\n"
    if params.get("multipart-manifest") == b"put":
        return "A manifest of segments is not allowed in this tempurl\n"
    if "version-id" in params and signed_method != "DELETE":
        return "Other versions are not open to this tempurl\n"
    return None


def _for_download(
    headers: list[tuple[str, str]], claim: Claim, path: bytes
) -> list[tuple[str, str]]:
    """The answer's headers with the name to save as, and the end of validity."""
    existing = None
    kept = []
    for name, value in headers:
        titled = title(name)
        if titled == h.CONTENT_DISPOSITION:
            existing = value
        elif titled != h.EXPIRES:
            kept.append((name, value))
    if claim.is_inline:
        value = "inline"
        if claim.filename is not None:
            value = disposition("inline", claim.filename)
    elif claim.filename is not None:
        value = disposition("attachment", claim.filename)
    elif existing:
        value = existing
    else:
        last = path.rstrip(b"/").rpartition(b"/")[2]
        value = disposition("attachment", last)
    kept.append((h.CONTENT_DISPOSITION, value))
    kept.append((h.EXPIRES, formatdate(claim.expires, usegmt=True)))
    return kept


filter_factory = factory(Tempurl)
