# SPDX-License-Identifier: Apache-2.0
"""Object versioning: each PUT is a version of its own, a link says which is current.

Serves versioned_writes. The versions of a container's objects are in a hidden
container beside it; at the object's name stands a static link to the current one.
A version's id is the time of its PUT. Contract: middleware 31; golden:
test/interop/golden/hashing/versioning_names.json.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.headers import Headers
from swift.core.names import RESERVED
from swift.core.timestamp import Timestamp, TimestampError
from swift.middleware.version_copies import (
    AS_STORED,
    MARKER_TYPE,
    CountedInput,
    current,
    denial,
    own_environ,
    put_copy,
    put_marker,
    stored_at,
)
from swift.runtime import green
from swift.runtime.logs import Logger
from swift.wire import environ as env
from swift.wire.environ import Environ, PathParts, key_of, quote_path
from swift.wire.infocache import ContainerInfo
from swift.wire.request import Request, Response, WsgiApp, call, parse_query

SOURCE_CODE = "OV"
NULL = "null"
PARAM = "version-id"
EMPTY_ETAG = "d41d8cd98f00b204e9800998ecf8427e"
_CONTAINER_PREFIX = f"{RESERVED}versions{RESERVED}"

Authorize = Callable[[Request], "Response | None"]

_IF_NONE_MATCH = key_of(h.IF_NONE_MATCH)
_EXPIRY_KEYS = (key_of(h.X_DELETE_AT), key_of(h.X_DELETE_AFTER))
_DETECT_TYPE = key_of(h.X_DETECT_CONTENT_TYPE)
_NOT_FOR_DATA = (*_EXPIRY_KEYS, _IF_NONE_MATCH)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object. obj: a WSGI string."""

    container: str
    obj: str
    timestamp: Timestamp

    @property
    def version_id(self) -> str:
        """The id that clients know."""
        return self.timestamp.normal

    def place(self, near: PathParts) -> PathParts:
        """Where it is stored; near: a path in its account."""
        name = f"{RESERVED}{self.obj}{RESERVED}{self.timestamp.inverted().internal}"
        return near.at(versions_container(self.container), name)

    @classmethod
    def stored(cls, container: str, obj: str) -> Version | None:
        """The version that stored names mean, None when they mean none."""
        parts = obj.split(RESERVED)
        if not container.startswith(_CONTAINER_PREFIX) or len(parts) != 3 or parts[0]:
            return None
        try:
            inverted = Timestamp.parse(parts[2])
        except InvalidInput:
            return None
        own = container[len(_CONTAINER_PREFIX) :]
        return cls(own, parts[1], inverted.inverted())

    @classmethod
    def linked(cls, target: str) -> Version | None:
        """The version at a quoted `container/object`, None when there is none."""
        path = unquote_to_bytes(target.encode("latin-1")).decode("latin-1")
        container, _slash, obj = path.partition("/")
        return cls.stored(container, obj)


def versions_container(container: str) -> str:
    """The hidden container with the versions of a container's objects."""
    return _CONTAINER_PREFIX + container


def has_versions(info: ContainerInfo) -> bool:
    """True when versions were ever kept for a container."""
    return bool(info.sysmeta.get("versions-container"))


def keeps_versions(info: ContainerInfo) -> bool:
    """True when versions are kept now."""
    return h.true(info.sysmeta.get("versions-enabled"))


def location_shown(location: str) -> tuple[str, str] | None:
    """What a client sees of a version's path: its object with the id, and the id.

    location: quoted `/v1/a/c/o`; None when it is no version's.
    """
    head, marker, _rest = location.partition("/%00versions%00")
    if not marker:
        return None
    version = Version.linked(location[len(head) + 1 :])
    if version is None:
        return None
    name = quote_path(f"{version.container}/{version.obj}")
    return f"{head}/{name}?{PARAM}={version.version_id}", version.version_id


class ObjectVersions:
    """Requests for one object in a container that has or had versions.

    place: of the client's request. info: of its container.
    """

    def __init__(
        self,
        app: WsgiApp,
        environ: Environ,
        place: PathParts,
        info: ContainerInfo,
        log: Logger,
    ) -> None:
        self._app = app
        self._environ = environ
        self._place = place
        self._info = info
        self._log = log

    def _version(self, timestamp: Timestamp) -> Version:
        return Version(self._place.container, self._place.obj, timestamp)

    def _now(self) -> Timestamp:
        given = self._environ.get(env.HTTP_X_TIMESTAMP)
        return Timestamp.parse(given) if given else Timestamp.at(green.now())

    # --- Without version-id -----------------------------------------------------------

    def read(self) -> Response:
        """GET and HEAD of the current version. Yields."""
        query = parse_query(self._environ.get(env.QUERY_STRING, ""))
        answer = call(self._app, self._environ)
        if query.get("symlink") == b"get":
            # The link that holds a version in place is not one that clients know.
            version = _version_of(answer.headers)
            if version is not None:
                answer.close()
                return self.read_version(version.version_id, authorised=True)
        shown = location_shown(answer.headers.get(h.CONTENT_LOCATION, ""))
        if shown is not None:
            answer.headers[h.CONTENT_LOCATION] = shown[0]
            answer.headers[h.X_OBJECT_VERSION_ID] = shown[1]
        elif answer.is_success or answer.status == 304:
            answer.headers[h.X_OBJECT_VERSION_ID] = NULL
        return answer

    def put(self) -> Response:
        """PUT: a new version, then the link to it. Yields."""
        denied = denial(self._environ, self._info.write_acl)
        if denied is not None:
            return denied
        exclusive = self._environ.get(_IF_NONE_MATCH, "").strip()
        if exclusive and exclusive != "*":
            return call(self._app, self._environ)
        kept = self._keep_unversioned(exclusive=bool(exclusive))
        if kept is not None:
            return kept
        version = self._version(self._now())
        target = version.place(self._place)
        data = dict(self._environ)
        for key in _NOT_FOR_DATA:
            data.pop(key, None)
        data[env.PATH_INFO] = target.path
        if not data.get(env.CONTENT_TYPE) or h.true(data.pop(_DETECT_TYPE, None)):
            # The end of the pipeline would guess by the name of the version.
            guess = mimetypes.guess_type(self._place.obj)[0]
            data[env.CONTENT_TYPE] = guess or "application/octet-stream"
        data[env.HTTP_X_TIMESTAMP] = version.timestamp.internal
        data[env.HTTP_X_BACKEND_ALLOW_RESERVED_NAMES] = "true"
        data[env.AUTHORIZE] = _allowing(target.path, self._environ.get(env.AUTHORIZE))
        counted = None
        if not data.get(env.CONTENT_LENGTH):
            counted = data[env.WSGI_INPUT] = CountedInput(data[env.WSGI_INPUT])
        answer = call(self._app, data)
        if not answer.is_success:
            if answer.status == 404:
                answer.close()
                self._log.error("versions container of %s is missing", target.path)
                return Response(500)
            return answer
        sent = env.headers_of(data)
        size = str(counted.count) if counted else sent.get(h.CONTENT_LENGTH, "0")
        facts = Headers(
            {
                h.ETAG: answer.headers.get(h.ETAG, "").strip('"'),
                h.CONTENT_TYPE: sent.get(h.CONTENT_TYPE, ""),
                h.CONTENT_LENGTH: sent.get(h.SLO_SIZE, size),
            }
        )
        if h.SLO_ETAG in sent:
            facts[h.SLO_ETAG] = sent[h.SLO_ETAG]
        is_link = h.X_SYMLINK_TARGET in sent
        linked = self._link(version, version.timestamp, facts, is_link=is_link)
        if not linked.is_success:
            answer.close()
            return linked
        answer.headers[h.X_OBJECT_VERSION_ID] = version.version_id
        return answer

    def _keep_unversioned(self, *, exclusive: bool = False) -> Response | None:
        """Make a version of an object that is none yet; the answer when that fails.

        exclusive: the client wants nothing to be there. Yields.
        """
        found = current(self._app, self._environ, self._place, SOURCE_CODE)
        if found is None:
            return None
        if not found.is_success:
            return found
        if exclusive:
            found.close()
            return Response(412)
        if found.headers.true(h.VERSIONS_SYMLINK):
            found.close()
            return None
        stamp = Timestamp(stored_at(found).raw)
        target = self._version(stamp).place(self._place)
        stored = put_copy(self._app, self._environ, found, target, SOURCE_CODE, stamp)
        if stored.is_success:
            return None
        return Response(500 if stored.status == 404 else 503)

    def _link(
        self, version: Version, at: Timestamp, facts: Headers, *, is_link: bool
    ) -> Response:
        """Make a version the current one. Yields.

        at: the time of the change. facts: etag, content type and length of the
        version. is_link: it is itself a link, whose target may change.
        """
        target = version.place(self._place)
        path = quote_path(f"{target.container}/{target.obj}")
        listed = f"{EMPTY_ETAG}; symlink_target={path}"
        headers = {
            h.SYMLINK_TARGET: path,
            h.VERSIONS_SYMLINK: "true",
            h.SYMLOOP_EXTEND: "true",
            h.LINK_ALLOWS_RESERVED: "true",
            h.X_TIMESTAMP: at.plus(offset=1).internal,
        }
        if facts.get(h.CONTENT_TYPE):
            headers[h.CONTENT_TYPE] = facts[h.CONTENT_TYPE].partition(";swift_bytes")[0]
        else:
            headers[h.X_DETECT_CONTENT_TYPE] = "true"
        if not is_link:
            etag, size = facts[h.ETAG], facts[h.CONTENT_LENGTH]
            headers[h.SYMLINK_TARGET_ETAG] = etag
            headers[h.SYMLINK_TARGET_BYTES] = size
            listed += f"; symlink_target_etag={etag}; symlink_target_bytes={size}"
        if h.SLO_ETAG in facts:
            listed += f"; slo_etag={facts[h.SLO_ETAG]}"
        headers[h.LISTED_ETAG] = listed
        sub = own_environ(
            self._environ, "PUT", self._place, SOURCE_CODE, headers, body=b""
        )
        for key in _EXPIRY_KEYS:
            if key in self._environ:
                sub[key] = self._environ[key]
        answer = call(self._app, sub)
        answer.drain()
        return answer

    def delete(self) -> Response:
        """DELETE: a marker becomes the newest version, the link goes. Yields."""
        denied = denial(self._environ, self._info.write_acl)
        if denied is not None:
            return denied
        kept = self._keep_unversioned()
        if kept is not None:
            return kept
        version = self._version(self._now())
        marked = put_marker(
            self._app,
            self._environ,
            version.place(self._place),
            SOURCE_CODE,
            version.timestamp,
        )
        if not marked.is_success:
            return Response(500 if marked.status == 404 else 503)
        unlink = dict(self._environ)
        stamp = version.timestamp.plus(offset=1)
        unlink[env.HTTP_X_TIMESTAMP] = stamp.internal
        answer = call(self._app, unlink)
        answer.headers[h.X_OBJECT_VERSION_ID] = version.version_id
        return answer

    def post(self) -> Response:
        """POST: to the link, and to the version that it leads to. Yields."""
        answer = call(self._app, self._environ)
        version = _version_of(answer.headers)
        if answer.status != 307 or version is None:
            return answer
        answer.close()
        data = dict(self._environ)
        for key in _EXPIRY_KEYS:
            data.pop(key, None)
        target = version.place(self._place)
        data[env.PATH_INFO] = target.path
        data[env.HTTP_X_BACKEND_ALLOW_RESERVED_NAMES] = "true"
        # The POST of the link was allowed; this is the other half of it.
        data[env.AUTHORIZE] = _allowing(target.path, self._environ.get(env.AUTHORIZE))
        answer = call(self._app, data)
        answer.headers[h.X_OBJECT_VERSION_ID] = version.version_id
        return answer

    # --- With version-id --------------------------------------------------------------

    def with_id(self, text: str) -> Response:
        """Any request that names a version. Yields."""
        method = self._environ[env.REQUEST_METHOD]
        if method == "POST":
            return _bad("version-id is not allowed with POST")
        if text != NULL:
            try:
                Timestamp.parse(text)
            except TimestampError:
                return _bad("Invalid version parameter")
            if not has_versions(self._info):
                return _bad("version-aware operations require that the container "
                            "is versioned")  # fmt: skip
        if method in ("GET", "HEAD"):
            return self.read_version(text)
        if method == "DELETE":
            return self._delete_version(text)
        if method == "PUT":
            return self._restore(text)
        return call(self._app, self._environ)

    def read_version(self, text: str, *, authorised: bool = False) -> Response:
        """GET and HEAD of one version. Yields.

        authorised: the client's right to read has been asked.
        """
        if not authorised:
            denied = denial(self._environ, self._info.read_acl)
            if denied is not None:
                return denied
        if text == NULL:
            return self._read_unversioned()
        version = self._version(Timestamp(Timestamp.parse(text).raw))
        target = version.place(self._place)
        sub = dict(self._environ)
        sub[env.PATH_INFO] = target.path
        sub[env.HTTP_X_BACKEND_ALLOW_RESERVED_NAMES] = "true"
        sub[env.AUTHORIZE] = _allowing(target.path, self._environ.get(env.AUTHORIZE))
        answer = call(self._app, sub)
        if answer.status == 404:
            return answer
        if _is_marker(answer.headers):
            answer.close()
            headers = {
                h.CONTENT_TYPE: MARKER_TYPE,
                h.X_OBJECT_VERSION_ID: version.version_id,
            }
            return Response(404, headers)
        answer.headers[h.X_OBJECT_VERSION_ID] = version.version_id
        return answer

    def _read_unversioned(self) -> Response:
        looked = own_environ(
            self._environ, "HEAD", self._place, SOURCE_CODE, query=AS_STORED
        )
        found = call(self._app, looked)
        found.close()
        if found.headers.true(h.VERSIONS_SYMLINK):
            return Response(404)
        answer = call(self._app, self._environ)
        if answer.is_success:
            answer.headers[h.X_OBJECT_VERSION_ID] = NULL
        return answer

    def _current_id(self) -> str | None:
        """The id of what stands at the name, None when nothing does. Yields."""
        looked = own_environ(
            self._environ, "HEAD", self._place, SOURCE_CODE,
            {h.X_NEWEST: "True"}, query=AS_STORED,
        )  # fmt: skip
        found = call(self._app, looked)
        found.close()
        if not found.is_success:
            return None
        version = _version_of(found.headers)
        return NULL if version is None else version.version_id

    def _delete_version(self, text: str) -> Response:
        denied = denial(self._environ, self._info.write_acl)
        if denied is not None:
            return denied
        current_id = self._current_id()
        if text == NULL:
            if current_id != NULL:
                headers = {h.X_OBJECT_VERSION_ID: NULL}
                if current_id is not None:
                    headers[h.X_OBJECT_CURRENT_VERSION_ID] = current_id
                return Response(404, headers)
            answer = call(self._app, self._environ)
            answer.headers[h.X_OBJECT_VERSION_ID] = NULL
            return answer
        version = self._version(Timestamp(Timestamp.parse(text).raw))
        target = version.place(self._place)
        sub = own_environ(self._environ, "DELETE", target, SOURCE_CODE)
        answer = call(self._app, sub)
        if answer.is_success and current_id == version.version_id:
            unlink = own_environ(self._environ, "DELETE", self._place, SOURCE_CODE)
            unlinked = call(self._app, unlink)
            unlinked.drain()
            if not unlinked.is_success and unlinked.status != 404:
                return Response(503)
            current_id = None
        answer.headers[h.X_OBJECT_VERSION_ID] = version.version_id
        if current_id is not None:
            answer.headers[h.X_OBJECT_CURRENT_VERSION_ID] = current_id
        return answer

    def _restore(self, text: str) -> Response:
        """PUT of a version-id: that version becomes the current one. Yields."""
        denied = denial(self._environ, self._info.write_acl)
        if denied is not None:
            return denied
        length = self._environ.get(env.CONTENT_LENGTH)
        chunked = not length and env.HTTP_TRANSFER_ENCODING in self._environ
        if (length and length != "0") or (
            chunked and self._environ[env.WSGI_INPUT].read(1)
        ):
            return _bad("PUT version-id requests require a zero byte body")
        if text == NULL:
            return _bad("null is no version that could become the current one")
        version = self._version(Timestamp(Timestamp.parse(text).raw))
        looked = own_environ(
            self._environ, "HEAD", version.place(self._place), SOURCE_CODE,
            query=AS_STORED,
        )  # fmt: skip
        found = call(self._app, looked)
        found.close()
        if not found.is_success or _is_marker(found.headers):
            return Response(404 if found.status < 500 else 503)
        kept = self._keep_unversioned()
        if kept is not None:
            return kept
        facts = Headers(
            {
                h.ETAG: found.headers.get(h.ETAG, "").strip('"'),
                h.CONTENT_TYPE: found.content_type,
                h.CONTENT_LENGTH: found.headers.get(
                    h.SLO_SIZE, found.headers.get(h.CONTENT_LENGTH, "0")
                ),
            }
        )
        if h.SLO_ETAG in found.headers:
            facts[h.SLO_ETAG] = found.headers[h.SLO_ETAG]
        is_link = h.SYMLINK_TARGET in found.headers
        linked = self._link(version, self._now(), facts, is_link=is_link)
        if not linked.is_success:
            return Response(linked.status)
        headers = {
            h.ETAG: facts[h.ETAG],
            h.X_OBJECT_VERSION_ID: version.version_id,
        }
        return Response(201, headers, b"")


def _version_of(headers: Headers) -> Version | None:
    """The version that a link holds in place, None for anything else."""
    if not headers.true(h.VERSIONS_SYMLINK):
        return None
    return Version.linked(headers.get(h.SYMLINK_TARGET, ""))


def _is_marker(headers: Headers) -> bool:
    found: str = headers.get(h.CONTENT_TYPE, "")
    return found.replace(" ", "") == MARKER_TYPE


def _allowing(path: str, authorize: Authorize | None) -> Authorize:
    """An authorisation callback that allows one path and asks `authorize` of others.

    Sub-requests that follow from this one (links, segments) lead elsewhere, and are
    held to the client's own rights.
    """

    def decide(request: Request) -> Response | None:
        if authorize is None or request.environ[env.PATH_INFO] == path:
            return None
        return authorize(request)

    return decide


def _bad(text: str) -> Response:
    return Response.text(400, text)


def shown_rows(
    records: Iterable[dict[str, object]], place: PathParts
) -> list[dict[str, object]]:
    """The rows of an ordinary listing with versions in place of their links."""
    rows = []
    for record in records:
        path = record.get("symlink_path")
        shown = location_shown(path) if isinstance(path, str) else None
        if shown is not None:
            record["symlink_path"] = shown[0]
            record["version_symlink"] = True
            etag = record.pop("symlink_etag", None)
            if etag is not None:
                listed = str(record.get("hash", ""))
                record["hash"] = listed.replace(EMPTY_ETAG, str(etag), 1)
            record["bytes"] = record.pop("symlink_bytes", record.get("bytes", 0))
        rows.append(record)
    return rows
