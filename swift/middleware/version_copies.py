# SPDX-License-Identifier: Apache-2.0
"""Keeping what stands at a name before it is overwritten or deleted.

Serves both kinds of versions. The object is read as it is stored, links and manifests
not followed, and put under another name with all that belongs to it; this is done with
the cluster's own rights, after the client's right to the write has been asked.
"""

from __future__ import annotations

from collections.abc import Callable

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.headers import Headers
from swift.core.timestamp import Timestamp
from swift.wire import environ as env
from swift.wire.environ import Environ, PathParts, sub_environ
from swift.wire.request import Request, Response, WsgiApp, call
from swift.wire.streams import ChunkReader

MARKER_TYPE = "application/x-deleted;swift_versions_deleted=1"
"""The content type of an object that says that there is none."""

AS_STORED = "symlink=get&multipart-manifest=get"

_NOT_KEPT = frozenset(
    (
        h.ACCEPT_RANGES,
        h.CONNECTION,
        h.CONTENT_LENGTH,
        h.CONTENT_LOCATION,
        h.DATE,
        h.LAST_MODIFIED,
        h.SERVER,
        h.TRANSFER_ENCODING,
        h.VARY,
        h.X_DELETE_AT,
        h.X_OPENSTACK_REQUEST_ID,
        h.X_SYMLINK_TARGET,
        h.X_SYMLINK_TARGET_ACCOUNT,
        h.X_SYMLINK_TARGET_BYTES,
        h.X_SYMLINK_TARGET_ETAG,
        h.X_TIMESTAMP,
        h.X_TRANS_ID,
    )
)


def own_environ(
    environ: Environ,
    method: str,
    place: PathParts,
    source: str,
    headers: dict[str, str] | None = None,
    *,
    query: str = "",
    body: bytes | None = None,
) -> Environ:
    """A request of the cluster's own, which may use reserved names."""
    sub = sub_environ(
        environ,
        method,
        place.path,
        headers=headers or {},
        query=query,
        body=body,
        source=source,
        preauthorised=True,
    )
    sub[env.HTTP_X_BACKEND_ALLOW_RESERVED_NAMES] = "true"
    return sub


def denial(environ: Environ, acl: str | None) -> Response | None:
    """None when the client may do what it asks for; may yield.

    acl: the container's list that decides.
    """
    authorize = environ.get(env.AUTHORIZE)
    if authorize is None:
        return None
    request = Request(environ)
    request.acl = acl
    denied: Response | None = authorize(request)
    return denied


def current(
    app: WsgiApp, environ: Environ, place: PathParts, source: str
) -> Response | None:
    """What stands at a name, as it is stored; None when nothing does. Yields.

    An answer that is no success is the client's: 412 or 503.
    """
    sub = own_environ(
        environ, "GET", place, source, {h.X_NEWEST: "True"}, query=AS_STORED
    )
    found = call(app, sub)
    if found.is_success:
        return found
    found.close()
    if found.status == 404:
        return None
    return Response(412 if found.status < 500 else 503)


def stored_at(found: Response) -> Timestamp:
    """When the object was written."""
    for name in (h.X_BACKEND_DATA_TIMESTAMP, h.X_TIMESTAMP):
        try:
            stamp = found.headers.timestamp(name)
        except InvalidInput:
            stamp = None
        if stamp is not None:
            return stamp
    return Timestamp(0)


def kept_headers(found: Headers) -> Headers:
    """What a copy of an object must have to be the same object."""
    kept = Headers(
        (name, value)
        for name, value in found.items()
        if name not in _NOT_KEPT and not name.startswith((h.BACKEND, "Access-Control-"))
    )
    if h.SLO_SIZE in kept:
        # The proxy has taken this parameter out for the client.
        kept[h.CONTENT_TYPE] += f";swift_bytes={kept[h.SLO_SIZE]}"
    return kept


def put_copy(
    app: WsgiApp,
    environ: Environ,
    found: Response,
    place: PathParts,
    source: str,
    timestamp: Timestamp | None = None,
) -> Response:
    """Put an object that was found under another name; its body is used up. Yields.

    timestamp: of the copy, now for None.
    """
    size = found.content_length or 0
    headers = kept_headers(found.headers)
    headers[h.X_BACKEND_ALLOW_OWN_PARAMETERS] = "true"
    if timestamp is not None:
        headers[h.X_TIMESTAMP] = timestamp.internal
    sub = own_environ(environ, "PUT", place, source, headers)
    sub[env.CONTENT_LENGTH] = str(size)
    chunks = found.app_iter if found.app_iter is not None else (found.body,)
    sub[env.WSGI_INPUT] = ChunkReader(chunks, size)
    try:
        answer = call(app, sub)
        answer.drain()
    finally:
        found.close()
    return answer


def put_marker(
    app: WsgiApp,
    environ: Environ,
    place: PathParts,
    source: str,
    timestamp: Timestamp,
) -> Response:
    """Put an object that says that there is none. Yields."""
    headers = {
        h.CONTENT_TYPE: MARKER_TYPE,
        h.X_TIMESTAMP: timestamp.internal,
        h.X_BACKEND_ALLOW_OWN_PARAMETERS: "true",
    }
    sub = own_environ(environ, "PUT", place, source, headers, body=b"")
    answer = call(app, sub)
    answer.drain()
    return answer


class CountedInput:
    """A `wsgi.input` that counts what is read of it."""

    def __init__(self, source: object) -> None:
        self._source = source
        self.count = 0
        read: Callable[[int], bytes] = source.read  # type: ignore[attr-defined]
        self._read = read
        self._read_some: Callable[[int], bytes] = getattr(source, "read_some", read)

    def _counted(self, data: bytes) -> bytes:
        self.count += len(data)
        return data

    def read(self, size: int = -1) -> bytes:
        """As the source does. Yields."""
        return self._counted(self._read(size))

    def read_some(self, size: int) -> bytes:
        """As the source does. Yields."""
        return self._counted(self._read_some(size))
