# SPDX-License-Identifier: Apache-2.0
"""Links: objects without bytes that stand for another object.

A link is followed when it is read, under the rights of whoever reads it; a static link
also says which etag its target must have. DELETE and PUT concern the link itself, a
POST is answered with the address of the target. Contract: middleware 28.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.headers import Headers
from swift.core.names import BadEncoding, text_of_wsgi
from swift.core.settings import option, positive_int
from swift.middleware.listed import change_rows
from swift.middleware.segments import part_environ
from swift.wire import environ as env
from swift.wire.environ import Environ, PathParts, key_of, path_parts, quote_path
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import (
    Response,
    StartResponse,
    WsgiApp,
    call,
    call_when,
    parse_query,
)

SOURCE_CODE = "SYM"
LINK_TYPE = "application/symlink"
EMPTY_ETAG = "d41d8cd98f00b204e9800998ecf8427e"

_TARGET = key_of(h.X_SYMLINK_TARGET)
_TARGET_ACCOUNT = key_of(h.X_SYMLINK_TARGET_ACCOUNT)
_TARGET_ETAG = key_of(h.X_SYMLINK_TARGET_ETAG)
_TARGET_BYTES = key_of(h.X_SYMLINK_TARGET_BYTES)
_IGNORE_RANGE = key_of(h.X_BACKEND_IGNORE_RANGE_IF_METADATA_PRESENT)
_LISTED = b"symlink_target="
_FORBIDDEN_IN_ETAG = frozenset('; "\\')
_SHOWN = {
    h.SYMLINK_TARGET: h.X_SYMLINK_TARGET,
    h.SYMLINK_TARGET_ACCOUNT: h.X_SYMLINK_TARGET_ACCOUNT,
    h.SYMLINK_TARGET_ETAG: h.X_SYMLINK_TARGET_ETAG,
    h.SYMLINK_TARGET_BYTES: h.X_SYMLINK_TARGET_BYTES,
}
"""What a link keeps → how a client sees it."""


@dataclass(frozen=True)
class SymlinkConfig:
    """[filter:symlink] of proxy-server.conf."""

    symloop_max: int = option(
        2, parse=positive_int, doc="Links that are followed one after the other."
    )


class BadTarget(InvalidInput):
    """Headers that make no link. status: what the client gets."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Link:
    """Where a link leads. etag: that the target must have, None for a dynamic link.

    is_own_account: the link names no account, so that it leads within its own.
    """

    target: PathParts
    etag: str | None
    is_own_account: bool

    @classmethod
    def wanted(cls, environ: Environ, place: PathParts) -> Link:
        """The link that a client's headers describe. Raises BadTarget."""
        decoded = _decoded(environ[_TARGET])
        container, _slash, obj = decoded.partition("/")
        if not container or not obj:
            raise BadTarget(
                412, f"{h.X_SYMLINK_TARGET} header must be of the form container/object"
            )
        account = place.account
        if _TARGET_ACCOUNT in environ:
            account = _decoded(environ[_TARGET_ACCOUNT])
            if not account or "/" in account:
                raise BadTarget(412, f"bad {h.X_SYMLINK_TARGET_ACCOUNT}")
        target = PathParts(place.version, account, container, obj)
        if target == place:
            raise BadTarget(400, "Symlink cannot target itself")
        etag = None
        if _TARGET_ETAG in environ:
            etag = environ[_TARGET_ETAG].strip()
            if etag[:1] == etag[-1:] == '"' and len(etag) > 1:
                etag = etag[1:-1]
            if not etag or not _FORBIDDEN_IN_ETAG.isdisjoint(etag):
                raise BadTarget(400, f"bad {h.X_SYMLINK_TARGET_ETAG} format")
        return cls(target, etag, _TARGET_ACCOUNT not in environ)

    @classmethod
    def stored(cls, headers: Headers, place: PathParts) -> Link:
        """The link that an object at `place` is."""
        path = _unquoted(headers[h.SYMLINK_TARGET])
        container, _slash, obj = path.partition("/")
        account = headers.get(h.SYMLINK_TARGET_ACCOUNT)
        target = PathParts(
            place.version,
            _unquoted(account) if account else place.account,
            container,
            obj,
        )
        return cls(target, headers.get(h.SYMLINK_TARGET_ETAG), not account)


class Symlink(Filter):
    """The filter."""

    Config = SymlinkConfig
    config: SymlinkConfig

    def __init__(
        self, app: WsgiApp, config: SymlinkConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        context.info.register(
            "symlink", symloop_max=config.symloop_max, static_links=True
        )

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        method = environ[env.REQUEST_METHOD]
        if env.SYMLINK_OVERRIDE in environ and method != "PUT":
            # Another cluster compares the link itself with its own.
            return self.app(environ, start_response)
        if method in ("GET", "HEAD"):
            path = environ[env.PATH_INFO]
            if path.count("/") >= 4 and not path.endswith("/"):
                return self._read(environ, start_response)
            parts = path_parts(environ)
            if parts is None or not parts.container:
                return self.app(environ, start_response)
            if parts.obj:
                return self._read(environ, start_response)
            if method == "GET":
                return self._listing(environ, parts)(environ, start_response)
        elif method == "POST":
            return self._post(environ, start_response)
        elif method == "PUT" and _TARGET in environ:
            parts = path_parts(environ)
            if parts is not None and parts.obj:
                return self._put(environ, parts)(environ, start_response)
        return self.app(environ, start_response)

    # --- GET and HEAD -----------------------------------------------------------------

    def _read(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The answer to a read of an object, which seldom is a link. Yields."""
        if env.HTTP_RANGE in environ:
            listed = environ.get(_IGNORE_RANGE)
            name = h.SYMLINK_TARGET
            environ[_IGNORE_RANGE] = f"{listed},{name}" if listed else name
        answer = call_when(self.app, environ, start_response, h.SYMLINK_TARGET)
        if not isinstance(answer, Response):
            return answer
        query = environ.get(env.QUERY_STRING)
        if query and parse_query(query).get("symlink") == b"get":
            show_link(answer.headers)
        else:
            answer = self._followed(environ, answer)
        return answer(environ, start_response)

    def _followed(self, environ: Environ, answer: Response) -> Response:
        """The answer of what a link leads to. Yields."""
        place = path_parts(environ)
        assert place is not None, "routed by path"
        hops = 0
        etags: list[str] = []
        while h.SYMLINK_TARGET in answer.headers:
            answer.close()
            headers = answer.headers
            link = Link.stored(headers, place)
            place = link.target
            location = quote_path(place.path)
            if hops >= self.config.symloop_max:
                return self._conflict(
                    f"Too many levels of symbolic links, maximum allowed is "
                    f"{self.config.symloop_max}",
                    location,
                )
            if not headers.true(h.SYMLOOP_EXTEND):
                hops += 1
            if link.etag is not None:
                etags.append(link.etag)
            sub = {
                **environ,
                env.PATH_INFO: place.path,
                env.SOURCE: SOURCE_CODE,
            }
            sub.pop(env.HTTP_X_BACKEND_STORAGE_POLICY_INDEX, None)
            if headers.true(h.LINK_ALLOWS_RESERVED):
                # Made by object versioning: who may read the link, which has been
                # asked by now, may read the version that stands behind it.
                sub[env.HTTP_X_BACKEND_ALLOW_RESERVED_NAMES] = "true"
                sub[env.AUTHORIZE] = env.allow
            answer = call(self.app, sub)
            for key in (env.POLICY_INDEX, env.BACKEND_PATH):
                if key in sub:
                    environ[key] = sub[key]
        if answer.is_success and etags:
            found = answer.headers.get(h.ETAG, "").strip('"')
            if any(etag != found for etag in etags):
                answer.close()
                return self._conflict(
                    f"Object Etag {found!r} does not match {h.X_SYMLINK_TARGET_ETAG}",
                    location,
                )
        answer.headers.setdefault(h.CONTENT_LOCATION, location)
        return answer

    def _conflict(self, text: str, location: str) -> Response:
        return Response.text(409, text, {h.CONTENT_LOCATION: location})

    # --- Listings ---------------------------------------------------------------------

    def _listing(self, environ: Environ, place: PathParts) -> Response:
        """A container's listing, with the targets of links in fields. Yields."""

        def split(record: dict[str, Any]) -> None:
            _split_listed_target(record, place)

        return change_rows(call(self.app, environ), _LISTED, split)

    # --- PUT and POST -----------------------------------------------------------------

    def _put(self, environ: Environ, place: PathParts) -> Response:
        """Store a link. Yields."""
        length = environ.get(env.CONTENT_LENGTH)
        if (length and length != "0") or (
            not length
            and env.HTTP_TRANSFER_ENCODING in environ
            and environ[env.WSGI_INPUT].read(1)
        ):
            return Response.text(400, "Symlink requests require a zero byte body")
        try:
            link = Link.wanted(environ, place)
        except BadTarget as error:
            return Response.text(error.status, str(error))
        kept = {
            h.SYMLINK_TARGET: quote_path(f"{link.target.container}/{link.target.obj}")
        }
        content_type = environ.get(env.CONTENT_TYPE)
        if not link.is_own_account:
            kept[h.SYMLINK_TARGET_ACCOUNT] = quote_path(link.target.account)
        if link.etag is not None:
            found = self._target_facts(environ, link)
            if isinstance(found, Response):
                return found
            kept[h.SYMLINK_TARGET_ETAG] = link.etag
            kept[h.SYMLINK_TARGET_BYTES] = found.get(
                h.SLO_SIZE, found.get(h.CONTENT_LENGTH, "0")
            )
            content_type = content_type or found.get(h.CONTENT_TYPE)
        listed = [EMPTY_ETAG, *(f"{_LISTED_NAMES[name]}={kept[name]}" for name in kept)]
        stored = dict(environ)
        for key in (_TARGET, _TARGET_ACCOUNT, _TARGET_ETAG, _TARGET_BYTES):
            stored.pop(key, None)
        stored.pop(env.HTTP_TRANSFER_ENCODING, None)
        stored[env.CONTENT_LENGTH] = "0"
        stored[env.CONTENT_TYPE] = content_type or LINK_TYPE
        for name, value in kept.items():
            env.set_header(stored, name, value)
        env.set_header(stored, h.LISTED_ETAG, "; ".join(listed))
        return call(self.app, stored)

    def _target_facts(self, environ: Environ, link: Link) -> Headers | Response:
        """The headers of a static link's target, or why it cannot be one. Yields."""
        if env.SYMLINK_OVERRIDE in environ:
            # A link that another cluster has checked may be here before its target.
            size = environ.get(_TARGET_BYTES, "0").strip()
            if not (size.isascii() and size.isdigit()):
                return Response.text(400, f"bad {h.X_SYMLINK_TARGET_BYTES}")
            return Headers({h.CONTENT_LENGTH: size})
        location = quote_path(link.target.path)
        sub = part_environ(environ, "HEAD", link.target.path, SOURCE_CODE)
        answer = call(self.app, sub)
        if h.SYMLINK_TARGET_ETAG in answer.headers:
            # A static link to a static link promises what both promise.
            answer = self._followed(sub, answer)
        answer.close()
        if answer.status >= 500:
            return Response(503)
        if answer.status in (401, 403):
            return Response(answer.status, {h.CONTENT_LOCATION: location})
        if not answer.is_success:
            return self._conflict("The target does not exist", location)
        etag = answer.headers.get(h.ETAG, "").strip('"')
        if etag != link.etag:
            return self._conflict(
                f"Object Etag {etag!r} does not match {h.X_SYMLINK_TARGET_ETAG}",
                location,
            )
        return answer.headers

    def _post(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """A POST, which of a link says where its target is. Yields."""
        if _TARGET in environ or _TARGET_ACCOUNT in environ:
            parts = path_parts(environ)
            if parts is not None and parts.obj:
                text = f"A POST request is not allowed to set {h.X_SYMLINK_TARGET}"
                return Response.text(400, text)(environ, start_response)
        answer = call_when(self.app, environ, start_response, h.SYMLINK_TARGET)
        if not isinstance(answer, Response):
            return answer
        place = path_parts(environ)
        if answer.is_success and place is not None:
            answer.close()
            answer = _redirection(answer.headers, place)
            environ[env.LEAVE_RELATIVE_LOCATION] = True
        return answer(environ, start_response)


def show_link(headers: Headers) -> None:
    """Say in the client's headers what a link keeps, in place."""
    for kept, shown in _SHOWN.items():
        if kept in headers:
            headers[shown] = headers[kept]


def _redirection(headers: Headers, place: PathParts) -> Response:
    """The answer to a POST of a link: it was done to the link, the target is there."""
    target = Link.stored(headers, place).target
    shown = Headers({h.LOCATION: quote_path(target.path)})
    for kept, name in _SHOWN.items():
        if kept in headers:
            shown[name] = headers[kept]
    text = "The requested POST was applied to a symlink. POST directly to the target "
    text += "to apply requested metadata."
    response = Response.text(307, text, shown)
    # Filters to the left may do for the target what was asked of the link.
    response.headers.update(headers.beginning(h.OBJECT_SYSMETA))
    return response


_LISTED_NAMES = {
    h.SYMLINK_TARGET: "symlink_target",
    h.SYMLINK_TARGET_ACCOUNT: "symlink_target_account",
    h.SYMLINK_TARGET_ETAG: "symlink_target_etag",
    h.SYMLINK_TARGET_BYTES: "symlink_target_bytes",
}


def _split_listed_target(record: dict[str, object], place: PathParts) -> None:
    """Take what a link keeps out of a row's hash, in place."""
    listed = record.get("hash")
    if not isinstance(listed, str) or "symlink_target=" not in listed:
        return
    kept: list[str] = []
    found: dict[str, str] = {}
    for item in listed.split(";"):
        name, _equals, value = item.strip().partition("=")
        if name in _LISTED_NAMES.values():
            found[name] = value
        else:
            kept.append(item.strip())
    record["hash"] = "; ".join(kept)
    account = found.get("symlink_target_account") or quote_path(place.account)
    record["symlink_path"] = f"/{place.version}/{account}/{found['symlink_target']}"
    if "symlink_target_etag" in found:
        record["symlink_etag"] = found["symlink_target_etag"]
    size = found.get("symlink_target_bytes", "")
    if size.isdigit():
        record["symlink_bytes"] = int(size)


def _decoded(value: str) -> str:
    """A header's name, percent-decoded; raises BadTarget when it is no UTF-8."""
    decoded = _unquoted(value)
    try:
        text = text_of_wsgi(decoded)
    except BadEncoding as error:
        raise BadTarget(412, "symlink target is not valid UTF-8") from error
    if "\x00" in text:
        raise BadTarget(412, "symlink target contains NULL")
    return decoded


def _unquoted(value: str) -> str:
    return unquote_to_bytes(value.encode("latin-1")).decode("latin-1")


filter_factory = factory(Symlink)
