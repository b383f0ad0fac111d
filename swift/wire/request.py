# SPDX-License-Identifier: Apache-2.0
"""Request and Response, and what a domain error means to an HTTP client.

Request is WebOb's, trimmed to what this project needs. Response is our own: WebOb's
costs more than a whole storage request may (doc/source/decisions). Both are WSGI: a
Response is an application, and `call` turns an application's answer into a Response.

Rules: contract api §13 (default bodies, Location), RFC 9110.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from webob.request import BaseRequest

from swift.core import errors
from swift.core.headers import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    LOCATION,
    X_BACKEND_TIMESTAMP,
    X_TIMESTAMP,
    Headers,
    title,
    true,
)
from swift.core.names import (
    RESERVED,
    BadEncoding,
    ClientPath,
    NodePath,
    split_client_path,
    split_node_path,
    text_of_wsgi,
)
from swift.core.timestamp import Timestamp
from swift.wire import environ as env
from swift.wire.environ import Environ

HTML_TYPE = "text/html; charset=UTF-8"
TEXT_TYPE = "text/plain"
JSON_TYPE = "application/json; charset=utf-8"

REASONS: dict[int, str] = {status.value: status.phrase for status in HTTPStatus}
"""Status → reason phrase; the numbers that RFC 9110 does not know are Swift's own."""
REASONS.update(
    {
        413: "Request Entity Too Large",
        414: "Request URI Too Long",
        416: "Requested Range Not Satisfiable",
        422: "Unprocessable Entity",
        497: "Blacklisted",
        498: "Rate Limited",
        499: "Client Disconnect",
        507: "Insufficient Storage",
        529: "Too Many Backend Requests",
    }
)

EXPLANATIONS: dict[int, str] = {
    202: "The request is accepted for processing.",
    301: "The resource has moved permanently.",
    302: "The resource is found at another address.",
    303: "See another resource for the answer.",
    307: "The resource has moved for the time being.",
    400: "The request is malformed or breaks a rule of this server.",
    401: "This resource is open to authorised callers only; prove who you are.",
    402: "Access is refused until a payment is made.",
    403: "Access was denied to this resource.",
    404: "The resource could not be found.",
    405: "The method is not allowed for this resource.",
    406: "The resource cannot be given in any format that you accept.",
    408: "The server has waited too long for the rest of the request.",
    409: "There was a conflict when trying to complete your request.",
    410: "This resource is no longer available.",
    411: "A Content-Length header is required.",
    412: "A precondition for this request was not met.",
    413: "The body of your request is larger than this server takes.",
    414: "The address of your request is longer than this server takes.",
    415: "This server does not take bodies of that media type.",
    416: "The range asked for is not available.",
    417: "The expectation cannot be met.",
    422: "Unable to process the contained instructions",
    431: "The headers of your request are more than this server takes.",
    497: "Requests of this account are blocked.",
    498: "Too many requests; slow down.",
    499: "The client went away during the request.",
    500: "The server failed, or cannot do what was asked.",
    501: "This server does not know the method asked for.",
    502: "A server behind this one gave a bad answer.",
    503: "The server is unavailable at the moment; please try again later.",
    504: "A server behind this one did not answer in time.",
    505: "This server does not speak that version of HTTP.",
    507: "There was not enough space to save the resource.",
    529: "Too many requests for this device; please try again later.",
}
"""Status → the sentence of its default body; a status that is missing has none."""

StartResponse = Callable[..., Any]

# For names that are Title-Cased already, without the mapping's own titling.
_has = dict.__contains__
_set = dict.__setitem__


class WsgiApp(Protocol):
    """A WSGI application (PEP 3333)."""

    def __call__(
        self, environ: Environ, start_response: StartResponse, /
    ) -> Iterable[bytes]:
        """Answer one request."""


class Request(BaseRequest):  # type: ignore[misc]
    """A request: a thin view of its environ, nothing parsed before it is asked for."""

    environ: Environ

    def __init__(self, environ: Environ) -> None:
        # WebOb's own constructor checks options that are never given here.
        self.__dict__["environ"] = environ

    @classmethod
    def blank(
        cls,
        path: str,
        environ: Mapping[str, Any] | None = None,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Request:
        """A request out of nothing, for tests and tools; `path` is percent-encoded."""
        made = env.blank(
            path, method=method, headers=headers, body=body, environ=environ
        )
        return cls(made)

    @property
    def headers_map(self) -> Headers:
        """The headers as a new mapping."""
        return env.headers_of(self.environ)

    @property
    def trans_id(self) -> str:
        """The transaction id, empty when no filter has given one."""
        found: str = self.environ.get(env.TRANS_ID) or self.environ.get(
            env.HTTP_X_TRANS_ID, ""
        )
        return found

    @property
    def path_text(self) -> str:
        """The decoded path as text. Raises BadEncoding when it is not UTF-8."""
        return text_of_wsgi(
            self.environ.get(env.SCRIPT_NAME, "") + self.environ[env.PATH_INFO]
        )

    @property
    def reserved_names_allowed(self) -> bool:
        """True for requests of the cluster's own parts that may use reserved names."""
        return true(self.environ.get(env.HTTP_X_BACKEND_ALLOW_RESERVED_NAMES))

    def name_path(self) -> ClientPath:
        """What a path of the public API names.

        Raises BadEncoding (no UTF-8, or NUL without the right to it) and InvalidInput.
        """
        path = self.path_text
        if RESERVED in path and not self.reserved_names_allowed:
            raise BadEncoding("NUL in path")
        return split_client_path(path)

    def node_path(self) -> NodePath:
        """What a path of the backend API names. Raises BadEncoding and InvalidInput."""
        return split_node_path(self.path_text)

    @property
    def timestamp(self) -> Timestamp:
        """The X-Timestamp. Raises InvalidInput when it is missing or bad."""
        text = self.environ.get(env.HTTP_X_TIMESTAMP)
        if text is None:
            raise errors.InvalidInput("Missing X-Timestamp header")
        try:
            return Timestamp.parse(text)
        except errors.InvalidInput as error:
            raise errors.InvalidInput(f"Invalid {X_TIMESTAMP} header") from error

    def params_text(self, name: str) -> str | None:
        """The last value of a query parameter as text, None when it is not there.

        Raises InvalidInput, naming the parameter, when it is not UTF-8.
        """
        raw = self.query_map.get(name)
        if raw is None:
            return None
        try:
            return raw.decode("utf-8")
        except UnicodeError as error:
            reason = f'"{name}" parameter not valid UTF-8'
            raise errors.InvalidInput(reason) from error

    @property
    def query_map(self) -> dict[str, bytes]:
        """Query parameter → its last value, undecoded; names are WSGI strings."""
        query = self.environ.get(env.QUERY_STRING)
        return parse_query(query) if query else {}

    def call(self, app: WsgiApp) -> Response:
        """Run an application on this request."""
        return call(app, self.environ)


def parse_query(query: str) -> dict[str, bytes]:
    """Name → last value of an `application/x-www-form-urlencoded` query.

    A WSGI string goes in. `+` is a space, blank values are kept, a name without `=` has
    an empty value.
    """
    found: dict[str, bytes] = {}
    for item in query.split("&"):
        if item:
            name, _, value = item.partition("=")
            found[_decoded(name).decode("latin-1")] = _decoded(value)
    return found


def _decoded(text: str) -> bytes:
    raw = text.replace("+", " ") if "+" in text else text
    if "%" in raw:
        return unquote_to_bytes(raw.encode("latin-1"))
    return raw.encode("latin-1")


class Response:
    """An answer, and as a callable the WSGI application that gives it.

    status: a number, or a whole status line. headers: a Headers is taken over, not
    copied. body: None means the default body of the status (contract api §13), empty
    for success but 202. app_iter: the body in chunks instead; one with a `close` is
    closed by whoever takes it.
    """

    __slots__ = ("_body", "app_iter", "headers", "reason", "status")

    def __init__(
        self,
        status: int | str = 200,
        headers: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        body: bytes | str | None = None,
        app_iter: Iterable[bytes] | None = None,
    ) -> None:
        if isinstance(status, str):
            number, _, self.reason = status.partition(" ")
            self.status = int(number)
        else:
            self.status = status
            self.reason = REASONS.get(status, "Unknown")
        self.headers = headers if type(headers) is Headers else Headers(headers)
        self._body = body.encode() if isinstance(body, str) else body
        self.app_iter = app_iter

    @classmethod
    def error(
        cls,
        status: int,
        explanation: str | None = None,
        headers: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    ) -> Response:
        """An answer with the default HTML body, `explanation` in place of the usual."""
        response = cls(status, headers)
        if explanation is not None:
            response._body = html_body(status, explanation)
        return response

    @classmethod
    def text(
        cls,
        status: int,
        text: str,
        headers: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    ) -> Response:
        """An answer in plain text."""
        response = cls(status, headers, text)
        response.headers.setdefault(CONTENT_TYPE, TEXT_TYPE)
        return response

    @classmethod
    def json(
        cls,
        value: Any,
        status: int = 200,
        headers: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    ) -> Response:
        """An answer in JSON."""
        response = cls(status, headers, json.dumps(value))
        response.headers.setdefault(CONTENT_TYPE, JSON_TYPE)
        return response

    @property
    def status_line(self) -> str:
        """`404 Not Found`."""
        return f"{self.status} {self.reason}"

    @property
    def is_success(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300

    @property
    def body(self) -> bytes:
        """The whole body; reading an app_iter uses it up and closes it. Yields."""
        if self.app_iter is not None:
            chunks = self.app_iter
            try:
                self._body = b"".join(chunks)
            finally:
                self.app_iter = None
                close(chunks)
        elif self._body is None:
            self._body = html_body(self.status)
        return self._body

    @body.setter
    def body(self, value: bytes) -> None:
        self.close()
        self.app_iter = None
        self._body = value
        self.headers.pop(CONTENT_LENGTH, None)

    @property
    def content_length(self) -> int | None:
        """The declared length, or that of a body that is at hand; None if unknown."""
        declared = dict.get(self.headers, CONTENT_LENGTH)
        if declared is not None and declared.isdigit():
            return int(declared)
        if self.app_iter is None:
            return len(self.body)
        if type(self.app_iter) in (list, tuple):
            return sum(map(len, self.app_iter))
        return None

    @property
    def content_type(self) -> str:
        """The Content-Type header; HTML when none is set."""
        found: str = dict.get(self.headers, CONTENT_TYPE, HTML_TYPE)
        return found

    def close(self) -> None:
        """Close the app_iter, if there is one."""
        if self.app_iter is not None:
            close(self.app_iter)

    def drain(self, limit: int = 65536) -> None:
        """Read at most `limit` bytes of the body away and close it. Yields."""
        if self.app_iter is None:
            return
        read = 0
        try:
            for chunk in self.app_iter:
                read += len(chunk)
                if read > limit:
                    break
        finally:
            self.close()
            self.app_iter = ()

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        headers = self.headers
        is_head = environ.get(env.REQUEST_METHOD) == "HEAD"
        chunks = self.app_iter
        if chunks is None:
            body = self._body
            if body is None:
                # A HEAD of an error declares no length but 0, unlike HEAD of an object
                # (golden: object-server-requests.json).
                body = b"" if is_head else html_body(self.status)
            if not _has(headers, CONTENT_LENGTH):
                _set(headers, CONTENT_LENGTH, str(len(body)))
            chunks = (body,) if body else ()
        elif type(chunks) in (list, tuple) and not _has(headers, CONTENT_LENGTH):
            _set(headers, CONTENT_LENGTH, str(sum(map(len, chunks))))
        if not _has(headers, CONTENT_TYPE):
            _set(headers, CONTENT_TYPE, HTML_TYPE)
        if _has(headers, LOCATION) and not environ.get(env.LEAVE_RELATIVE_LOCATION):
            headers[LOCATION] = absolute_location(environ, headers[LOCATION])
        start_response(f"{self.status} {self.reason}", list(headers.items()))
        if is_head:
            close(chunks)
            return ()
        return chunks

    def __repr__(self) -> str:
        return f"<Response {self.status_line}>"


_HTML_BODIES: dict[int, bytes] = {}


def html_body(status: int, explanation: str | None = None) -> bytes:
    """The default body of a status; empty when it has no explanation."""
    if explanation is None:
        known = _HTML_BODIES.get(status)
        if known is not None:
            return known
        usual = EXPLANATIONS.get(status)
        if usual is None:
            return b""
        made = _HTML_BODIES[status] = html_body(status, usual)
        return made
    reason = html.escape(REASONS.get(status, "Unknown"))
    return (
        f"<html><h1>{reason}</h1><p>{html.escape(explanation, quote=False)}</p></html>"
    ).encode()


def host_url(environ: Mapping[str, Any]) -> str:
    """`scheme://host[:port]` of the client's Host; the usual port is left out."""
    scheme = environ.get(env.WSGI_URL_SCHEME, "http")
    usual = ":443" if scheme == "https" else ":80"
    host = environ.get(env.HTTP_HOST)
    if not host:
        host = f"{environ[env.SERVER_NAME]}:{environ[env.SERVER_PORT]}"
    return f"{scheme}://{host.removesuffix(usual)}"


def absolute_location(environ: Mapping[str, Any], location: str) -> str:
    """A Location header made absolute; one with a scheme stays as it is."""
    if "://" in location.partition("?")[0]:
        return location
    if location.startswith("/"):
        return host_url(environ) + location
    base = environ.get(env.SCRIPT_NAME, "") + environ.get(env.PATH_INFO, "")
    folder = env.quote_path(base.rpartition("/")[0])
    return f"{host_url(environ)}{folder}/{location}"


def close(chunks: object) -> None:
    """Close a body, if it can be closed."""
    closer = getattr(chunks, "close", None)
    if closer is not None:
        closer()


class _Captured:
    """What an application told start_response."""

    __slots__ = ("headers", "status", "written")

    def __init__(self) -> None:
        self.status: str | None = None
        self.headers: list[tuple[str, str]] = []
        self.written: list[bytes] = []

    def start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: Any = None,
    ) -> Callable[[bytes], None]:
        self.status = status
        self.headers = headers
        return self.written.append


def call(app: WsgiApp, environ: Environ) -> Response:
    """Run an application and return its answer, the body still unread. Yields."""
    captured = _Captured()
    chunks = app(environ, captured.start_response)
    if captured.status is None or captured.written:
        chunks = _started(captured, chunks)
    if captured.status is None:
        close(chunks)
        raise RuntimeError("the application did not call start_response")
    return _response_of(captured, chunks)


def call_when(
    app: WsgiApp, environ: Environ, start_response: StartResponse, *marks: str
) -> Response | Iterable[bytes]:
    """Run an application; its answer as a Response only when it carries a header.

    marks: Title-Cased names, any of which makes the answer the caller's to change. Any
    other answer goes to `start_response` untouched, and its body is returned, so that
    a filter which waits for one header costs the others next to nothing. Yields.
    """
    # What became of start_response: None when it was passed on.
    begun: list[_Captured | None] = []

    def begin(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        for name, _value in headers:
            if name in marks:
                captured = _Captured()
                begun.append(captured)
                return captured.start_response(status, headers, exc_info)
        begun.append(None)
        if exc_info is not None:
            return start_response(status, headers, exc_info)
        return start_response(status, headers)

    chunks = app(environ, begin)
    if not begun:
        iterator = iter(chunks)
        chunks = Prefixed([next(iterator, b"")], iterator, chunks)
    captured = begun[-1] if begun else None
    if captured is None:
        return chunks
    if captured.written:
        chunks = Prefixed(captured.written, iter(chunks), chunks)
    return _response_of(captured, chunks)


def _response_of(captured: _Captured, chunks: Iterable[bytes]) -> Response:
    assert captured.status is not None, "the application has begun to answer"
    pairs = captured.headers
    headers = Headers.titled([(title(name), value) for name, value in pairs])
    if len(headers) < len(pairs):
        headers = _joined(pairs)
    return Response(captured.status, headers, app_iter=chunks)


def _joined(pairs: list[tuple[str, str]]) -> Headers:
    """Headers of which some are repeated: their values joined by commas."""
    headers = Headers()
    for name, value in pairs:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _started(captured: _Captured, chunks: Iterable[bytes]) -> Iterable[bytes]:
    """Read up to the first chunk, by which PEP 3333 wants start_response called."""
    iterator = iter(chunks)
    first = next(iterator, b"")
    return Prefixed([*captured.written, first], iterator, chunks)


class Prefixed:
    """A body some of whose chunks have been read already.

    owner: what is closed in the end, when it is not the iterator itself.
    """

    __slots__ = ("_first", "_owner", "_rest")

    def __init__(
        self, first: list[bytes], rest: Iterator[bytes], owner: object
    ) -> None:
        self._first = [chunk for chunk in first if chunk]
        self._rest = rest
        self._owner = owner

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._first:
            return self._first.pop(0)
        return next(self._rest)

    def close(self) -> None:
        """Close the owner."""
        close(self._owner)


_STATUSES: dict[type[BaseException], int] = {
    BadEncoding: 412,
    errors.BodyTooLarge: 413,
    errors.ChecksumMismatch: 422,
    errors.InvalidInput: 400,
    errors.ObjectCollision: 403,
    errors.Conflict: 409,
    errors.NotFound: 404,
    errors.ObjectQuarantined: 404,
    errors.DeviceUnavailable: 507,
    errors.DatabaseCorrupt: 507,
    errors.Unavailable: 503,
    errors.ClientDisconnect: 499,
    errors.ClientTimeout: 408,
}
"""Domain error → status; the nearest ancestor counts, and 500 when there is none."""


def status_of(error: BaseException) -> int:
    """The HTTP status that a domain error means."""
    for kind in type(error).__mro__:
        if kind in _STATUSES:
            return _STATUSES[kind]
    return 500


def response_of(error: BaseException) -> Response:
    """The answer that a domain error means to whoever asked."""
    status = status_of(error)
    if status == 400:
        return Response.text(400, str(error))
    response = Response(status)
    if isinstance(error, errors.ObjectDeleted):
        response.headers[X_BACKEND_TIMESTAMP] = error.timestamp.internal
    elif isinstance(error, errors.DeviceUnavailable):
        text = f"{EXPLANATIONS[507]} Drive: {error.device}"
        response = Response.error(507, text)
    return response
