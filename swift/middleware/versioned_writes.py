# SPDX-License-Identifier: Apache-2.0
"""Versions of objects, of both kinds that clients know.

The older kind keeps what a PUT or DELETE would destroy in an archive container of the
client's own (stack: a DELETE brings the last version back; history: it leaves a
marker). The newer one is in `object_versioning`. Which kind a container has is in its
sysmeta; requests for other containers pass. Contract: middleware 31.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlencode

from swift.core import headers as h
from swift.core.errors import ConfigError, FormatError
from swift.core.listing import parse_json, records_json
from swift.core.names import BadEncoding, ContainerName, text_of_wsgi, wsgi_of_text
from swift.core.settings import boolean, option
from swift.core.timestamp import Timestamp
from swift.middleware.object_versioning import (
    PARAM,
    ObjectVersions,
    has_versions,
    keeps_versions,
    location_shown,
    shown_rows,
    versions_container,
)
from swift.middleware.object_versioning import SOURCE_CODE as OBJECT_VERSIONS
from swift.middleware.version_copies import (
    MARKER_TYPE,
    current,
    denial,
    own_environ,
    put_copy,
    put_marker,
    stored_at,
)
from swift.middleware.version_listing import (
    add_versions_to_account,
    bytes_in,
    list_versions,
)
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.environ import Environ, PathParts, key_of, path_parts, quote_path
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.infocache import ContainerInfo, clear_container, container_info
from swift.wire.request import (
    Response,
    StartResponse,
    WsgiApp,
    call,
    call_when,
    parse_query,
)

SOURCE_CODE = "VW"
STACK, HISTORY = "stack", "history"

_LOCATION = key_of(h.X_VERSIONS_LOCATION)
_HISTORY = key_of(h.X_HISTORY_LOCATION)
_ENABLED = key_of(h.X_VERSIONS_ENABLED)
_REMOVALS = (key_of(h.X_REMOVE_VERSIONS_LOCATION), key_of(h.X_REMOVE_HISTORY_LOCATION))
_SETTINGS = (_LOCATION, _HISTORY, _ENABLED, *_REMOVALS)
_POLICY = key_of(h.X_STORAGE_POLICY)
_SYNC_TO = key_of(h.X_CONTAINER_SYNC_TO)


@dataclass(frozen=True)
class VersionedWritesConfig:
    """[filter:versioned_writes] of proxy-server.conf."""

    allow_versioned_writes: bool = option(
        False,
        parse=boolean,
        doc="Let X-Versions-Location and X-History-Location name an archive.",
    )
    allow_object_versioning: bool = option(
        False,
        parse=boolean,
        doc="Let X-Versions-Enabled keep versions; needs symlink in the pipeline.",
    )


class VersionedWrites(Filter):
    """The filter."""

    Config = VersionedWritesConfig
    config: VersionedWritesConfig

    def __init__(
        self, app: WsgiApp, config: VersionedWritesConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._limit_max = context.cluster.limits.container_listing_limit
        self._account_limit_max = context.cluster.limits.account_listing_limit
        self._archives = config.allow_versioned_writes
        self._versions = config.allow_object_versioning
        if config.allow_versioned_writes:
            flags = ["x-versions-location", "x-history-location"]
            context.info.register("versioned_writes", allowed_flags=flags)
        if config.allow_object_versioning:
            # Filters are made from the last to the first, so it is known by now.
            if "symlink" not in context.info.features:
                raise ConfigError(
                    context.source,
                    context.section,
                    "allow_object_versioning",
                    "object versioning needs the symlink filter to the right",
                )
            context.info.register("object_versioning")

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        parts = path_parts(environ)
        if parts is None:
            return self.app(environ, start_response)
        if parts.obj:
            return self._object(environ, parts, start_response)
        if parts.container:
            return self._container(environ, parts, start_response)
        if self._versions and environ[env.REQUEST_METHOD] == "GET":
            answer = call(self.app, environ)
            if answer.status == 200 and answer.content_type.startswith(
                "application/json"
            ):
                answer = add_versions_to_account(
                    self.app, environ, parts, answer, self._account_limit_max
                )
            return answer(environ, start_response)
        return self.app(environ, start_response)

    def _info(self, environ: Environ, place: PathParts) -> ContainerInfo | None:
        """The facts of the container; None when they cannot be asked. Yields."""
        if not self.knows_facts(environ):
            return None
        try:
            name = ContainerName(
                text_of_wsgi(place.account), text_of_wsgi(place.container)
            )
        except BadEncoding:
            return None
        return container_info(environ, name)

    # --- Containers -------------------------------------------------------------------

    def _container(
        self, environ: Environ, place: PathParts, start_response: StartResponse
    ) -> Iterable[bytes]:
        method = environ[env.REQUEST_METHOD]
        answer: Response
        if method in ("PUT", "POST"):
            if not any(key in environ for key in _SETTINGS):
                return self.app(environ, start_response)
            answer = self._set(environ, place) or call(self.app, environ)
        elif method in ("GET", "HEAD"):
            answer = self._read_container(environ, place)
        elif method == "DELETE" and self._versions:
            answer = self._delete_container(environ, place)
        else:
            return self.app(environ, start_response)
        return answer(environ, start_response)

    def _set(self, environ: Environ, place: PathParts) -> Response | None:
        """Make sysmeta of what the client sets; the answer when it may not. Yields."""
        location, history = environ.pop(_LOCATION, None), environ.pop(_HISTORY, None)
        removes = [environ.pop(key, None) for key in _REMOVALS]
        enabled = environ.pop(_ENABLED, None) if self._versions else None
        if location and history:
            text = f"Only one of {h.X_VERSIONS_LOCATION} or {h.X_HISTORY_LOCATION} "
            return Response.text(400, text + "may be specified")
        value = location or history
        if value:
            bare = unquote_to_bytes(value.encode("latin-1")).decode("latin-1")
            if not self._archives:
                return Response.text(412, "Versioned Writes is disabled")
            if not bare or "/" in bare:
                return Response.text(412, "must be a container name")
            info = self._info(environ, place)
            if info is not None and keeps_versions(info):
                return Response.text(400, "The container keeps versions of objects")
            env.set_header(environ, h.VERSIONS_LOCATION_SYSMETA, bare)
            mode = STACK if location else HISTORY
            env.set_header(environ, h.VERSIONS_MODE_SYSMETA, mode)
        elif location is not None or history is not None or any(removes):
            env.set_header(environ, h.VERSIONS_LOCATION_SYSMETA, "")
            env.set_header(environ, h.VERSIONS_MODE_SYSMETA, "")
            # Where container servers keep the header themselves.
            env.set_header(environ, h.X_VERSIONS_LOCATION, "")
        if enabled is None:
            return None
        if value:
            return Response.text(400, "Only one kind of versions may be set")
        return self._enable(environ, place, wanted=h.true(enabled))

    def _enable(
        self, environ: Environ, place: PathParts, *, wanted: bool
    ) -> Response | None:
        """Turn object versioning on or off; the answer when that fails. Yields."""
        info = self._info(environ, place)
        if info is None:
            return Response(503)
        if not wanted:
            if has_versions(info):
                env.set_header(environ, h.VERSIONS_ENABLED_SYSMETA, "False")
            return None
        if _archive_of(info) is not None or info.versions_location:
            text = f"Cannot enable object versioning with {h.X_VERSIONS_LOCATION} set"
            return Response.text(400, text)
        if info.sync_to or environ.get(_SYNC_TO):
            text = "Cannot enable object versioning on a container that is synced"
            return Response.text(400, text)
        policies = self.context.cluster.policies
        policy = policies.by_index(info.policy_index) if info.exists else None
        if policy is None:
            named = environ.get(_POLICY)
            policy = policies.by_name(named) if named else policies.default
        if policy is None or policy.is_deprecated:
            text = "Cannot enable object versioning with a deprecated policy"
            return Response.text(400, text)
        if environ[env.REQUEST_METHOD] == "POST" and not info.exists:
            return None
        denied = denial(environ, None)
        if denied is not None:
            return denied
        hidden = place.at(versions_container(place.container))
        made = call(
            self.app,
            own_environ(
                environ,
                "PUT",
                hidden,
                OBJECT_VERSIONS,
                {h.X_STORAGE_POLICY: policy.name},
            ),
        )
        made.drain()
        if not made.is_success:
            return Response(made.status if made.status == 409 else 500)
        name = quote_path(hidden.container)
        env.set_header(environ, h.VERSIONS_CONTAINER_SYSMETA, name)
        env.set_header(environ, h.VERSIONS_ENABLED_SYSMETA, "True")
        return None

    def _read_container(self, environ: Environ, place: PathParts) -> Response:
        """GET and HEAD, versions shown in the client's terms. Yields."""
        is_get = environ[env.REQUEST_METHOD] == "GET"
        query = environ.get(env.QUERY_STRING, "")
        lists_versions = (
            is_get and self._versions and "versions" in query
            and "versions" in parse_query(query)
        )  # fmt: skip
        if lists_versions:
            answer = list_versions(self.app, environ, place, self._limit_max)
        else:
            answer = call(self.app, environ)
        headers = answer.headers
        archive = headers.get(h.VERSIONS_LOCATION_SYSMETA)
        if archive:
            is_history = headers.get(h.VERSIONS_MODE_SYSMETA) == HISTORY
            name = h.X_HISTORY_LOCATION if is_history else h.X_VERSIONS_LOCATION
            headers[name] = archive
        if not self._versions or h.VERSIONS_CONTAINER_SYSMETA not in headers:
            return answer
        enabled = headers.true(h.VERSIONS_ENABLED_SYSMETA)
        headers[h.X_VERSIONS_ENABLED] = str(enabled)
        if answer.is_success:
            _count, size = bytes_in(self.app, environ, place)
            own = headers.get(h.X_CONTAINER_BYTES_USED, "0")
            headers[h.X_CONTAINER_BYTES_USED] = str(int(own) + size)
        if answer.status == 200 and is_get and not lists_versions:
            body = answer.body
            if b"symlink_path" in body:
                try:
                    body = records_json(shown_rows(parse_json(body), place))
                except FormatError:
                    return answer
            answer.body = body
        return answer

    def _delete_container(self, environ: Environ, place: PathParts) -> Response:
        """DELETE: only without versions, and the hidden container too. Yields."""
        info = self._info(environ, place)
        if info is None or not has_versions(info):
            return call(self.app, environ)
        denied = denial(environ, None)
        if denied is not None:
            return denied
        count, _size = bytes_in(self.app, environ, place)
        if count:
            return Response.text(409, "Delete all versions before deleting container")
        answer = call(self.app, environ)
        if answer.is_success:
            hidden = place.at(versions_container(place.container))
            gone = call(
                self.app, own_environ(environ, "DELETE", hidden, OBJECT_VERSIONS)
            )
            gone.drain()
            clear_container(
                environ,
                ContainerName(
                    text_of_wsgi(hidden.account), text_of_wsgi(hidden.container)
                ),
            )
        return answer

    # --- Objects ----------------------------------------------------------------------

    def _object(
        self, environ: Environ, place: PathParts, start_response: StartResponse
    ) -> Iterable[bytes]:
        method = environ[env.REQUEST_METHOD]
        reads = method in ("GET", "HEAD")
        if not self._versions and (reads or not self._archives):
            return self.app(environ, start_response)
        if method not in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            return self.app(environ, start_response)
        info = self._info(environ, place)
        if info is None or place.container[0] == "\x00":
            return self.app(environ, start_response)
        answer: Response | None = None
        if self._versions:
            query = environ.get(env.QUERY_STRING)
            version_id = parse_query(query).get(PARAM) if query else None
            if version_id is None and reads and not has_versions(info):
                return self._read_elsewhere(environ, start_response)
            versions = ObjectVersions(self.app, environ, place, info, self.log)
            if version_id is not None:
                answer = versions.with_id(version_id.decode("latin-1"))
            elif reads:
                answer = versions.read()
            elif method == "POST" and has_versions(info):
                answer = versions.post()
            elif keeps_versions(info):
                answer = versions.put() if method == "PUT" else versions.delete()
        if answer is None and self._archives and method in ("PUT", "DELETE"):
            archive = _archive_of(info)
            if archive is not None:
                answer = self._archived(environ, place, info, archive)
        if answer is None:
            return self.app(environ, start_response)
        return answer(environ, start_response)

    def _read_elsewhere(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """A read that a link may lead to a container with versions. Yields."""
        answer = call_when(self.app, environ, start_response, h.CONTENT_LOCATION)
        if not isinstance(answer, Response):
            return answer
        shown = location_shown(answer.headers[h.CONTENT_LOCATION])
        if shown is not None:
            answer.headers[h.CONTENT_LOCATION] = shown[0]
            answer.headers[h.X_OBJECT_VERSION_ID] = shown[1]
        return answer(environ, start_response)

    # --- Archives ---------------------------------------------------------------------

    def _archived(
        self, environ: Environ, place: PathParts, info: ContainerInfo, archive: Archive
    ) -> Response:
        """A PUT or DELETE that must not lose what stands at the name. Yields."""
        denied = denial(environ, info.write_acl)
        if denied is not None:
            return denied
        if environ[env.REQUEST_METHOD] == "PUT":
            return self._keep(environ, place, archive) or call(self.app, environ)
        if archive.mode == HISTORY:
            kept = self._keep(environ, place, archive)
            if kept is not None:
                return kept
            now = Timestamp.at(green.now())
            marked = put_marker(
                self.app, environ, archive.place(place, now), SOURCE_CODE, now
            )
            return _trouble(marked) or call(self.app, environ)
        return self._pop(environ, place, archive)

    def _keep(
        self, environ: Environ, place: PathParts, archive: Archive
    ) -> Response | None:
        """Copy the current object to the archive; the answer when it fails. Yields."""
        found = current(self.app, environ, place, SOURCE_CODE)
        if found is None:
            return None
        if not found.is_success:
            return found
        if h.X_OBJECT_MANIFEST in found.headers:
            # A dynamic manifest has no bytes of its own that could be lost.
            found.close()
            return None
        target = archive.place(place, stored_at(found))
        return _trouble(put_copy(self.app, environ, found, target, SOURCE_CODE))

    def _pop(self, environ: Environ, place: PathParts, archive: Archive) -> Response:
        """DELETE of a stack: the newest version comes back. Yields."""
        markers: list[PathParts] = []
        for name, is_marker in self._newest_first(environ, place, archive):
            version = place.at(archive.container, name)
            if is_marker:
                if markers or self._stands(environ, place):
                    # Nothing lies between two markers, and what stands above one
                    # goes by itself.
                    break
                markers.append(version)
                continue
            found = current(self.app, environ, version, SOURCE_CODE)
            if found is None:
                continue
            if not found.is_success:
                return found
            trouble = _trouble(put_copy(self.app, environ, found, place, SOURCE_CODE))
            if trouble is not None:
                return trouble
            for old in (*markers, version):
                answer = call(
                    self.app, own_environ(environ, "DELETE", old, SOURCE_CODE)
                )
                answer.drain()
            return Response(204)
        for old in markers:
            call(self.app, own_environ(environ, "DELETE", old, SOURCE_CODE)).drain()
        return call(self.app, environ)

    def _stands(self, environ: Environ, place: PathParts) -> bool:
        """True when there is an object at a name. Yields."""
        headers = {h.X_NEWEST: "True"}
        looked = call(
            self.app, own_environ(environ, "HEAD", place, SOURCE_CODE, headers)
        )
        looked.close()
        return looked.status != 404

    def _newest_first(
        self, environ: Environ, place: PathParts, archive: Archive
    ) -> Iterator[tuple[str, bool]]:
        """Names in the archive, and whether each is a marker. Yields."""
        where = place.at(archive.container)
        params = {"format": "json", "prefix": _prefix(place.obj), "reverse": "true"}
        marker = ""
        while True:
            if marker:
                params["marker"] = marker
            query = urlencode(params, encoding="latin-1")
            sub = own_environ(environ, "GET", where, SOURCE_CODE, query=query)
            answer = call(self.app, sub)
            if answer.status != 200:
                answer.close()
                return
            rows = parse_json(answer.body or b"[]")
            for row in rows:
                marker = wsgi_of_text(row["name"])
                kind = str(row.get("content_type", "")).replace(" ", "")
                yield marker, kind == MARKER_TYPE
            if len(rows) < self._limit_max:
                return


@dataclass(frozen=True, slots=True)
class Archive:
    """Where a container's old versions go. container: a WSGI string."""

    container: str
    mode: str

    def place(self, near: PathParts, timestamp: Timestamp) -> PathParts:
        """The name of one version of the object at `near`."""
        return near.at(self.container, _prefix(near.obj) + timestamp.internal)


def _prefix(obj: str) -> str:
    """What the names of an object's versions begin with; obj: a WSGI string."""
    return f"{len(obj):03x}{obj}/"


def _archive_of(info: ContainerInfo) -> Archive | None:
    """The archive of a container, None when it has none."""
    name = info.sysmeta.get("versions-location")
    if name:
        mode = info.sysmeta.get("versions-mode") or STACK
        return Archive(wsgi_of_text(name), mode)
    if info.versions_location:
        name = wsgi_of_text(info.versions_location)
        return Archive(
            unquote_to_bytes(name.encode("latin-1")).decode("latin-1"), STACK
        )
    return None


def _trouble(answer: Response) -> Response | None:
    """What a failed write to the archive means to the client."""
    if answer.is_success:
        return None
    return Response(412 if answer.status < 500 else 503)


filter_factory = factory(VersionedWrites)
