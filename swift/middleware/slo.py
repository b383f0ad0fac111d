# SPDX-License-Identifier: Apache-2.0
"""Static large objects: a manifest that lists its segments, served as one object.

A PUT with `multipart-manifest=put` looks at each segment, writes down what it finds
and stores that list; a GET of the object reads the list and gives the bytes of the
segments (`segments`), a DELETE with `multipart-manifest=delete` deletes them too
(`slo_delete`). What a manifest says, and which bytes are where, is decided in
`core/manifest.py`.

Contract: middleware 26; golden: test/interop/golden/slo.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import md5
from uuid import uuid4

from swift.core import headers as h
from swift.core.errors import FormatError
from swift.core.headers import Headers
from swift.core.manifest import (
    DEPTH_MAX,
    DataSegment,
    SloManifest,
)
from swift.core.mime import ranges_content_type, ranges_length
from swift.core.names import wsgi_of_text
from swift.core.ranges import ByteRange, resolve
from swift.middleware.listed import change_rows
from swift.middleware.segments import (
    DataPart,
    ObjectPart,
    Pace,
    Part,
    PartConflict,
    PartedBody,
    PartUnavailable,
    conditional_answer,
    multi_range_parts,
    part_environ,
    parted_answer,
)
from swift.middleware.slo_delete import SloDeletion
from swift.middleware.slo_put import SloConfig, SloUpload
from swift.wire import environ as env
from swift.wire.environ import Environ, PathParts, key_of, path_parts
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import (
    JSON_TYPE,
    Response,
    StartResponse,
    WsgiApp,
    call,
    call_when,
    parse_query,
)

SOURCE_CODE = "SLO"
PARAM = "multipart-manifest"

_IS_SLO = key_of(h.X_STATIC_LARGE_OBJECT)
_ETAG_IS_AT = key_of(h.X_BACKEND_ETAG_IS_AT)
_IGNORE_RANGE = key_of(h.X_BACKEND_IGNORE_RANGE_IF_METADATA_PRESENT)
_LISTED = b"slo_etag="

STORED_FACTOR = 8
"""A stored manifest is longer than the client's, at most by so many times."""


class Slo(Filter):
    """The filter."""

    Config = SloConfig
    config: SloConfig

    def __init__(
        self, app: WsgiApp, config: SloConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._pace = Pace(
            config.rate_limit_after_segment,
            config.rate_limit_segments_per_sec,
            config.rate_limit_under_size,
            config.max_get_time_s,
        )
        context.info.register(
            "slo",
            max_manifest_segments=config.max_manifest_segments,
            max_manifest_size=config.max_manifest_size,
            yield_frequency=int(config.yield_frequency_s),
            min_segment_size=1,
            allow_async_delete=config.allow_async_delete,
        )

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        method = environ[env.REQUEST_METHOD]
        if method in ("GET", "HEAD"):
            path = environ[env.PATH_INFO]
            if path.count("/") >= 4 and path[-1] != "/":
                return self._read(environ, start_response)
            parts = path_parts(environ)
            if parts is None or not parts.container:
                return self.app(environ, start_response)
            if parts.obj:
                return self._read(environ, start_response)
            if method == "GET":
                return self._listing(environ)(environ, start_response)
            return self.app(environ, start_response)
        if env.SLO_OVERRIDE in environ:
            # Another cluster sends a manifest as it has it, by container sync.
            return self.app(environ, start_response)
        if _IS_SLO in environ and method in ("PUT", "POST"):
            text = f"{h.X_STATIC_LARGE_OBJECT} is a reserved header. "
            text += f"To create a static large object add ?{PARAM}=put."
            return Response.text(400, text)(environ, start_response)
        query = environ.get(env.QUERY_STRING)
        if not query or method not in ("PUT", "DELETE"):
            return self.app(environ, start_response)
        wanted = parse_query(query).get(PARAM)
        parts = path_parts(environ)
        if parts is None or not parts.obj:
            return self.app(environ, start_response)
        if method == "PUT" and wanted == b"put":
            upload = SloUpload(
                self.app, environ, parts, self.config, self._manifest_at, self.log
            )
            return upload.run()(environ, start_response)
        if method == "DELETE" and wanted == b"delete":
            return self._delete(environ, parts)(environ, start_response)
        return self.app(environ, start_response)

    # --- GET and HEAD -----------------------------------------------------------------

    def _read(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The answer to a read of an object, which seldom is a manifest. Yields."""
        query = environ.get(env.QUERY_STRING)
        params = parse_query(query) if query else {}
        if params.get(PARAM) == b"get":
            return self._read_manifest(environ, start_response, params)
        _append(environ, _ETAG_IS_AT, h.SLO_ETAG)
        _append(environ, _IGNORE_RANGE, h.X_STATIC_LARGE_OBJECT)
        answer = call_when(self.app, environ, start_response, h.X_STATIC_LARGE_OBJECT)
        if not isinstance(answer, Response):
            return answer
        if not h.true(answer.headers[h.X_STATIC_LARGE_OBJECT]):
            return answer(environ, start_response)
        return self._large(environ, answer, params)(environ, start_response)

    def _read_manifest(
        self,
        environ: Environ,
        start_response: StartResponse,
        params: dict[str, bytes],
    ) -> Iterable[bytes]:
        """The manifest itself, as it is stored or as it would be PUT."""
        raw = params.get("format") == b"raw"
        asked = environ
        if raw and environ[env.REQUEST_METHOD] == "HEAD":
            # The length of that form is known only when it has been made.
            asked = {**environ, env.REQUEST_METHOD: "GET"}
        if raw:
            _append(asked, _IGNORE_RANGE, h.X_STATIC_LARGE_OBJECT)
        answer = call_when(self.app, asked, start_response, h.X_STATIC_LARGE_OBJECT)
        if not isinstance(answer, Response):
            return answer
        headers = answer.headers
        if h.true(headers[h.X_STATIC_LARGE_OBJECT]):
            if not raw:
                headers[h.CONTENT_TYPE] = JSON_TYPE
            elif answer.status == 200:
                manifest = self._loaded(answer)
                if isinstance(manifest, Response):
                    return manifest(environ, start_response)
                body = manifest.dump_raw()
                headers[h.ETAG] = md5(body, usedforsecurity=False).hexdigest()
                headers[h.CONTENT_LENGTH] = str(len(body))
                answer = Response(200, headers, body)
        return answer(environ, start_response)

    def _loaded(self, answer: Response) -> SloManifest | Response:
        """The manifest that an answer holds; a 500 when it holds none. Yields."""
        size_max = STORED_FACTOR * self.config.max_manifest_size
        length = answer.content_length
        try:
            if length is None or length > size_max:
                raise FormatError("SLO manifest", f"has {length} bytes")
            return SloManifest.load(answer.body)
        except FormatError as error:
            self.log.error("%s", error)
            return Response(500)
        finally:
            answer.close()

    def _large(
        self, environ: Environ, answer: Response, params: dict[str, bytes]
    ) -> Response:
        """The answer to a read of a large object; `answer` is that of its manifest."""
        method = environ[env.REQUEST_METHOD]
        part_number = _part_number(environ, params)
        if isinstance(part_number, Response):
            answer.close()
            return part_number
        status = answer.status
        has_etag = h.SLO_ETAG in answer.headers and h.SLO_SIZE in answer.headers
        if status in (206, 416) or (status in (304, 412) and not has_etag):
            # An object server that does not know what it was asked to overlook, or a
            # manifest of a time when its etag was not kept.
            answer.close()
            answer = self._whole_manifest(environ)
            status = answer.status
        if status in (304, 412) and has_etag:
            return _described(answer, answer.headers[h.SLO_ETAG])
        if status != 200:
            return answer
        if method == "HEAD" and has_etag and part_number is None:
            answer.headers[h.CONTENT_LENGTH] = answer.headers[h.SLO_SIZE]
            return _described(answer, answer.headers[h.SLO_ETAG])
        if method == "HEAD":
            answer.close()
            answer = self._whole_manifest(environ)
            if answer.status != 200:
                return answer
        manifest = self._loaded(answer)
        if isinstance(manifest, Response):
            return manifest
        described = _described(answer, manifest.etag)
        if not has_etag:
            refusal = conditional_answer(environ, described.headers, manifest.etag)
            if refusal is not None:
                return refusal
        return self._body(environ, described.headers, manifest, part_number)

    def _whole_manifest(self, environ: Environ) -> Response:
        """The manifest, without range and conditions. Yields."""
        parts = path_parts(environ)
        assert parts is not None, "routed by path"
        sub = part_environ(environ, "GET", parts.path, SOURCE_CODE)
        sub[env.QUERY_STRING] = environ.get(env.QUERY_STRING, "")
        return call(self.app, sub)

    def _body(
        self,
        environ: Environ,
        headers: Headers,
        manifest: SloManifest,
        part_number: int | None,
    ) -> Response:
        """The bytes that are asked for, or why they cannot be had. Yields."""
        size = manifest.size
        is_head = environ[env.REQUEST_METHOD] == "HEAD"
        spans: Sequence[ByteRange] | None = None
        if part_number is not None:
            count = len(manifest.segments)
            headers[h.X_PARTS_COUNT] = str(count)
            if part_number > count:
                return _unsatisfiable(headers, size)
            before = manifest.segments[: part_number - 1]
            start = sum(segment.length for segment in before)
            length = manifest.segments[part_number - 1].length
            spans = [ByteRange(start, start + length)]
        elif not is_head:
            spans = resolve(environ.get(env.HTTP_RANGE), size)
            if spans is not None and not spans:
                return _unsatisfiable(headers, size)
        status = 200 if spans is None else 206
        parts: Iterable[Part]
        if spans is None:
            headers[h.CONTENT_LENGTH] = str(size)
            parts = self._parts(environ, manifest, ByteRange(0, size))
        elif len(spans) == 1:
            headers[h.CONTENT_LENGTH] = str(spans[0].size)
            headers[h.CONTENT_RANGE] = spans[0].content_range(size)
            parts = self._parts(environ, manifest, spans[0])
        else:
            boundary = uuid4().hex
            content_type = headers.get(h.CONTENT_TYPE, "")
            length = ranges_length(boundary, content_type, spans, size)
            headers[h.CONTENT_LENGTH] = str(length)
            headers[h.CONTENT_TYPE] = ranges_content_type(boundary)
            wanted = ((span, self._parts(environ, manifest, span)) for span in spans)
            parts = multi_range_parts(wanted, boundary, content_type, size)
        if is_head:
            return Response(status, headers, b"")
        body = PartedBody(
            self.app,
            environ,
            parts,
            pace=self._pace,
            source=SOURCE_CODE,
            log=self.log,
        )
        return parted_answer(status, headers, body)

    def _parts(
        self,
        environ: Environ,
        manifest: SloManifest,
        wanted: ByteRange,
        depth: int = 1,
    ) -> Iterator[Part]:
        """The parts that hold the wanted bytes; manifests within are opened. Yields.

        Raises PartConflict and PartUnavailable.
        """
        place = path_parts(environ)
        assert place is not None, "routed by path"
        root = f"/{place.version}/{place.account}"
        for segment, span in manifest.parts_within(wanted):
            if isinstance(segment, DataSegment):
                yield DataPart(segment.data[span.start : span.stop])
                continue
            path = root + wsgi_of_text(segment.path)
            if not segment.is_manifest:
                yield ObjectPart(path, span, segment.size, segment.etag)
                continue
            if depth >= DEPTH_MAX:
                raise PartConflict(path, f"more than {DEPTH_MAX} manifests deep")
            inner = self._manifest_at(environ, path)
            if inner is None:
                raise PartConflict(path, "is no manifest any more")
            if inner.etag != segment.etag or inner.size != segment.size:
                raise PartConflict(path, "is another large object now")
            yield from self._parts(environ, inner, span, depth + 1)

    def _manifest_at(self, environ: Environ, path: str) -> SloManifest | None:
        """The manifest at a path, None when there is something else. Yields.

        Raises PartConflict when nothing is there for the client, PartUnavailable.
        """
        sub = part_environ(environ, "GET", path, SOURCE_CODE)
        answer = call(self.app, sub)
        if answer.status >= 500:
            answer.close()
            raise PartUnavailable(path, answer.status_line)
        if answer.status != 200:
            answer.close()
            raise PartConflict(path, answer.status_line)
        if not answer.headers.true(h.X_STATIC_LARGE_OBJECT):
            answer.close()
            return None
        manifest = self._loaded(answer)
        if isinstance(manifest, Response):
            raise PartUnavailable(path, "manifest cannot be read")
        return manifest

    # --- Listings ---------------------------------------------------------------------

    def _listing(self, environ: Environ) -> Response:
        """A container's listing, with the etag of large objects in a field. Yields."""
        return change_rows(call(self.app, environ), _LISTED, _split_listed_etag)

    # --- DELETE -----------------------------------------------------------------------

    def _delete(self, environ: Environ, place: PathParts) -> Response:
        """Delete a large object with its segments. Yields."""
        config = self.config
        self.knows_facts(environ)
        deletion = SloDeletion(
            self.app,
            environ,
            place,
            salt=self.context.cluster.salt,
            manifest_at=self._manifest_at,
            log=self.log,
        )
        query = parse_query(environ.get(env.QUERY_STRING, ""))
        if config.allow_async_delete and query.get("async") == b"on":
            return deletion.leave_to_expirer()
        concurrency = config.delete_concurrency
        if concurrency is None:
            concurrency = config.concurrency
        return deletion.run(
            concurrency=max(concurrency, 1), interval_s=config.yield_frequency_s
        )


def _described(answer: Response, etag: str) -> Response:
    """The manifest's answer with the etag of the large object."""
    headers = answer.headers
    own = headers.get(h.ETAG)
    if own is not None:
        headers[h.X_MANIFEST_ETAG] = own.strip('"')
    headers[h.ETAG] = f'"{etag}"'
    # What is kept for the manifest's sake must not go along when its bytes are copied.
    for name in (h.SLO_ETAG, h.SLO_SIZE, h.LISTED_ETAG):
        headers.pop(name, None)
    return answer


def _unsatisfiable(headers: Headers, size: int) -> Response:
    for name in (h.CONTENT_LENGTH, h.CONTENT_TYPE):
        headers.pop(name, None)
    headers[h.CONTENT_RANGE] = f"bytes */{size}"
    return Response(416, headers)


def _part_number(environ: Environ, params: dict[str, bytes]) -> int | Response | None:
    """The part-number of the query; the answer when it is none."""
    text = params.get("part-number")
    if text is None:
        return None
    if env.HTTP_RANGE in environ:
        return Response.text(400, "Range requests are not supported with part number")
    number = int(text) if text.isdigit() and len(text) < 20 else 0
    if number < 1:
        return Response.text(400, "Part number must be an integer greater than 0")
    return number


def _split_listed_etag(record: dict[str, object]) -> None:
    """Take the large object's etag out of a row's hash, in place."""
    listed = record.get("hash")
    if not isinstance(listed, str) or "slo_etag=" not in listed:
        return
    kept = []
    for item in listed.split(";"):
        name, _equals, value = item.strip().partition("=")
        if name == "slo_etag":
            record["slo_etag"] = f'"{value}"'
        else:
            kept.append(item.strip())
    record["hash"] = "; ".join(kept)


def _append(environ: Environ, key: str, name: str) -> None:
    """Add a name to a comma-separated header."""
    listed = environ.get(key)
    environ[key] = f"{listed},{name}" if listed else name


filter_factory = factory(Slo)
