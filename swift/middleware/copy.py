# SPDX-License-Identifier: Apache-2.0
"""Copies within the cluster: the source is read and written again, past the client.

`COPY` with Destination, and PUT with X-Copy-From, both become a GET of the source and a
PUT of the target under the client's own rights. What large objects, links and versions
add is done by their own filters, to the right: they see the GET and the PUT and the
query parameters that concern them.

Contract: middleware 8, api 4 (COPY).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes, urlencode

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.headers import Headers, is_sysmeta, true
from swift.core.settings import option, seconds
from swift.middleware.reports import TEXT, Report, ReportBody, report_type
from swift.wire import environ as env
from swift.wire.environ import Environ, key_of, quote_path, sub_environ
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import (
    Response,
    StartResponse,
    WsgiApp,
    call,
    parse_query,
)
from swift.wire.streams import ChunkReader

SOURCE_CODE = "SSC"

MANIFEST_PARAM = "multipart-manifest"

_ACCEPT = key_of(h.ACCEPT)
_COPY_FROM = key_of(h.X_COPY_FROM)
_WANTED_METHOD = key_of(h.ACCESS_CONTROL_REQUEST_METHOD)
_COPY_FROM_ACCOUNT = key_of(h.X_COPY_FROM_ACCOUNT)
_DESTINATION = key_of(h.DESTINATION)
_DESTINATION_ACCOUNT = key_of(h.DESTINATION_ACCOUNT)

# Of the answer to the GET, what does not belong to the object, or is set anew.
_NOT_CARRIED = frozenset(
    (
        h.ACCEPT_RANGES,
        h.CONNECTION,
        h.CONTENT_LENGTH,
        h.CONTENT_LOCATION,
        h.CONTENT_RANGE,
        h.CONTENT_TYPE,
        h.DATE,
        h.ETAG,
        h.LAST_MODIFIED,
        h.SERVER,
        h.TRANSFER_ENCODING,
        h.VARY,
        h.X_BACKEND_TIMESTAMP,
        h.X_OBJECT_MANIFEST,
        h.X_OPENSTACK_REQUEST_ID,
        h.X_STATIC_LARGE_OBJECT,
        h.X_TIMESTAMP,
        h.X_TRANS_ID,
    )
)
# Of the client's request, what is about the source or about the connection.
_NOT_OVERLAID = frozenset(
    (
        h.CONNECTION,
        h.CONTENT_LENGTH,
        h.DESTINATION,
        h.DESTINATION_ACCOUNT,
        h.EXPECT,
        h.IF_MATCH,
        h.IF_MODIFIED_SINCE,
        h.IF_NONE_MATCH,
        h.IF_UNMODIFIED_SINCE,
        h.RANGE,
        h.TRANSFER_ENCODING,
        h.X_COPY_FROM,
        h.X_COPY_FROM_ACCOUNT,
        h.X_FRESH_METADATA,
        h.X_NEWEST,
    )
)
_CONDITIONS = (
    h.RANGE,
    h.IF_MATCH,
    h.IF_NONE_MATCH,
    h.IF_MODIFIED_SINCE,
    h.IF_UNMODIFIED_SINCE,
    h.X_OPEN_EXPIRED,
    h.X_BACKEND_ALLOW_RESERVED_NAMES,
)


@dataclass(frozen=True)
class CopyConfig:
    """[filter:copy] of proxy-server.conf."""

    yield_frequency_s: float = option(
        10.0,
        name="yield_frequency",
        parse=seconds,
        doc="Time between the spaces that keep a heartbeat answer alive.",
    )


class BadReference(InvalidInput):
    """A Destination or X-Copy-From that names no object: 412."""


@dataclass(frozen=True, slots=True)
class Place:
    """An object in a header or path: WSGI strings, decoded once."""

    account: str
    container: str
    obj: str

    def path(self, version: str) -> str:
        """The PATH_INFO that names it."""
        return f"/{version}/{self.account}/{self.container}/{self.obj}"


def referred(name: str, value: str, account: str) -> Place:
    """The object that a header `[/]container/object` names; raises BadReference."""
    path = _decoded(value).removeprefix("/")
    container, _slash, obj = path.partition("/")
    if not container or not obj:
        raise BadReference(f"{name} header must be of the form container/object")
    return Place(account, container, obj)


def referred_account(name: str, value: str | None, default: str) -> str:
    """The account that a header names, `default` without; raises BadReference."""
    if value is None:
        return default
    account = _decoded(value)
    if not account or "/" in account:
        raise BadReference(f"{name} header must name an account, without slashes")
    return account


def _decoded(value: str) -> str:
    """Percent-decoding within the WSGI view of bytes."""
    return unquote_to_bytes(value.encode("latin-1")).decode("latin-1")


class Copy(Filter):
    """The filter."""

    Config = CopyConfig
    config: CopyConfig

    def __init__(
        self, app: WsgiApp, config: CopyConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._file_bytes_max = context.cluster.limits.max_file_size
        self._versions = frozenset(context.cluster.limits.valid_api_versions)

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        method = environ[env.REQUEST_METHOD]
        if method == "PUT":
            if _COPY_FROM not in environ:
                return self.app(environ, start_response)
        elif method not in ("COPY", "OPTIONS"):
            return self.app(environ, start_response)
        named = self._named(environ)
        if named is None:
            return self.app(environ, start_response)
        if method == "OPTIONS":
            return self._options(environ)(environ, start_response)
        version, place = named
        try:
            source, target = _ends(environ, method, place)
        except BadReference as error:
            return Response.error(412, str(error))(environ, start_response)
        if method == "PUT" and _has_body(environ):
            response = Response.error(400, "A copy takes no request body.")
            return response(environ, start_response)
        response = self._copy(environ, version, source, target)
        return response(environ, start_response)

    def _named(self, environ: Environ) -> tuple[str, Place] | None:
        """API version and object of the path; None when it names no object."""
        parts = environ[env.PATH_INFO].split("/", 4)
        if len(parts) != 5 or not all(parts[1:]) or parts[1] not in self._versions:
            return None
        return parts[1], Place(parts[2], parts[3], parts[4])

    def _options(self, environ: Environ) -> Response:
        """The answer of the app, with COPY among the methods. Yields.

        The app knows no COPY: a page that asks whether it may copy is answered as one
        that asks for PUT, the other way to copy.
        """
        if environ.get(_WANTED_METHOD) == "COPY":
            environ = {**environ, _WANTED_METHOD: "PUT"}
        response = call(self.app, environ)
        for name in (h.ALLOW, h.ACCESS_CONTROL_ALLOW_METHODS):
            methods = response.headers.get(name)
            if methods is not None and "COPY" not in methods:
                response.headers[name] = f"{methods}, COPY"
        return response

    def _copy(
        self, environ: Environ, version: str, source: Place, target: Place
    ) -> Response:
        """GET the source, PUT the target. Yields."""
        params = _params(environ)
        found = call(self.app, _source_environ(environ, version, source, params))
        if found.status >= 300:
            return found
        size = found.content_length
        if size is None or size > self._file_bytes_max:
            found.close()
            return Response.error(413)
        sink = _sink_environ(environ, version, target, params, found, size)
        copied = _copied_headers(source, found, env.headers_of(sink))

        def put() -> Response:
            try:
                response = call(self.app, sink)
            finally:
                found.close()
            for key in (env.POLICY_INDEX, env.BACKEND_PATH):
                if key in sink:
                    environ[key] = sink[key]
            if response.is_success:
                response.headers.update(copied)
            return response

        if true(params.get("heartbeat")):
            return self._heartbeat(environ, put)
        return put()

    def _heartbeat(self, environ: Environ, put: Callable[[], Response]) -> Response:
        """202 now, spaces while the PUT goes on, then a report of it."""
        media_type = report_type(environ.get(_ACCEPT)) or TEXT

        def work(report: Report) -> None:
            answer = put()
            report.conclude(answer.status, answer.body.decode("utf-8", "replace"))
            report.extra.update(answer.headers)

        body = ReportBody(
            work,
            Report("copy"),
            media_type=media_type,
            interval_s=self.config.yield_frequency_s,
            trouble=self._trouble,
        )
        return Response(202, {h.CONTENT_TYPE: media_type}, app_iter=body)

    def _trouble(self, error: BaseException) -> None:
        self.log.error("COPY failed: %r", error)


def _ends(environ: Environ, method: str, place: Place) -> tuple[Place, Place]:
    """Source and target of the request; raises BadReference."""
    if method == "COPY":
        if _DESTINATION not in environ:
            raise BadReference("Destination header required")
        account = referred_account(
            h.DESTINATION_ACCOUNT, environ.get(_DESTINATION_ACCOUNT), place.account
        )
        return place, referred(h.DESTINATION, environ[_DESTINATION], account)
    account = referred_account(
        h.X_COPY_FROM_ACCOUNT, environ.get(_COPY_FROM_ACCOUNT), place.account
    )
    return referred(h.X_COPY_FROM, environ[_COPY_FROM], account), place


def _has_body(environ: Environ) -> bool:
    length = environ.get(env.CONTENT_LENGTH)
    if length:
        return bool(length != "0")
    if env.HTTP_TRANSFER_ENCODING in environ:
        return bool(environ[env.WSGI_INPUT].read(1))
    return False


def _params(environ: Environ) -> dict[str, str]:
    """The query parameters as WSGI strings."""
    query = parse_query(environ.get(env.QUERY_STRING, ""))
    return {name: value.decode("latin-1") for name, value in query.items()}


def _query(params: dict[str, str]) -> str:
    return urlencode(params, encoding="latin-1")


def _source_environ(
    environ: Environ, version: str, source: Place, params: dict[str, str]
) -> Environ:
    """The GET of the source: the client's query, range and conditions."""
    params = dict(params)
    params.pop("heartbeat", None)
    if params.get(MANIFEST_PARAM) == "get":
        # The slo filter then gives the manifest as it would be PUT.
        params["format"] = "raw"
    headers = {h.X_NEWEST: "True"}
    for name in _CONDITIONS:
        value = environ.get(key_of(name))
        # `If-None-Match: *` means the target: a source must exist.
        if value is not None and not (name == h.IF_NONE_MATCH and _is_star(value)):
            headers[name] = value
    return sub_environ(
        environ,
        "GET",
        source.path(version),
        headers=headers,
        query=_query(params),
        source=SOURCE_CODE,
    )


def _is_star(value: str) -> bool:
    return value.strip() == "*"


def _sink_environ(
    environ: Environ,
    version: str,
    target: Place,
    params: dict[str, str],
    found: Response,
    size: int,
) -> Environ:
    """The PUT of the target, its body the source's."""
    asked = env.headers_of(environ)
    copies_manifest = params.get(MANIFEST_PARAM) == "get"
    is_slo = true(found.headers.get(h.X_STATIC_LARGE_OBJECT))
    headers = _carried(found.headers, fresh=asked.true(h.X_FRESH_METADATA))
    headers[h.CONTENT_TYPE] = found.content_type
    if copies_manifest and h.X_OBJECT_MANIFEST in found.headers:
        headers[h.X_OBJECT_MANIFEST] = found.headers[h.X_OBJECT_MANIFEST]
    is_large = is_slo or h.X_OBJECT_MANIFEST in found.headers
    whole = found.status == 200 and (not is_large or copies_manifest)
    if whole and not is_slo and h.ETAG in found.headers:
        headers[h.ETAG] = found.headers[h.ETAG]
    for name, value in asked.items():
        if name not in _NOT_OVERLAID and name not in h.SENSITIVE:
            headers[name] = value
    if not whole:
        # The client's or the source's checksum is not that of the part that is written.
        headers.pop(h.ETAG, None)
    if h.IF_NONE_MATCH in asked and _is_star(asked[h.IF_NONE_MATCH]):
        headers[h.IF_NONE_MATCH] = "*"
    query = {
        name: value
        for name, value in params.items()
        if name not in (MANIFEST_PARAM, "version-id", "heartbeat", "symlink", "format")
    }
    if copies_manifest and is_slo:
        query[MANIFEST_PARAM] = "put"
    elif MANIFEST_PARAM in params and not copies_manifest:
        query[MANIFEST_PARAM] = params[MANIFEST_PARAM]
    sink = sub_environ(
        environ, "PUT", target.path(version), headers=headers, query=_query(query)
    )
    sink.pop(env.HTTP_TRANSFER_ENCODING, None)
    sink[env.CONTENT_LENGTH] = str(size)
    body: Iterable[bytes] = () if found.app_iter is None else found.app_iter
    sink[env.WSGI_INPUT] = ChunkReader(body, size)
    # The client's request is the one that is logged, not this.
    if env.ACCESS_LOG_MADE in environ:
        sink[env.ACCESS_LOG_MADE] = environ[env.ACCESS_LOG_MADE]
    return sink


def _carried(found: Headers, *, fresh: bool) -> Headers:
    """The headers of the source that the target gets."""
    carried = Headers()
    for name, value in found.items():
        if fresh:
            if is_sysmeta("object", name):
                carried[name] = value
        elif name not in _NOT_CARRIED and not name.startswith(
            (h.BACKEND, "Access-Control-", h.X_COPIED_FROM)
        ):
            carried[name] = value
    return carried


def _copied_headers(source: Place, found: Response, sent: Headers) -> dict[str, Any]:
    """What the answer says of the source, and of the metadata that was copied."""
    headers = {
        h.X_COPIED_FROM_ACCOUNT: quote_path(source.account),
        h.X_COPIED_FROM: quote_path(f"{source.container}/{source.obj}"),
    }
    if h.LAST_MODIFIED in found.headers:
        headers[h.X_COPIED_FROM_LAST_MODIFIED] = found.headers[h.LAST_MODIFIED]
    version_id = found.headers.get(h.X_OBJECT_VERSION_ID)
    if version_id:
        headers[h.X_COPIED_FROM_VERSION_ID] = version_id
    headers.update(sent.beginning(h.OBJECT_META))
    if h.X_DELETE_AT in sent:
        headers[h.X_DELETE_AT] = sent[h.X_DELETE_AT]
    return headers


filter_factory = factory(Copy)
