# SPDX-License-Identifier: Apache-2.0
"""Dynamic large objects: all objects of a container whose names begin alike, as one.

The manifest is an object with X-Object-Manifest; what it stands for is listed anew at
each read, with the client's rights, and given by `segments`. Contract: middleware 11.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote as quote_value

from swift.core import headers as h
from swift.core.errors import FormatError
from swift.core.headers import Headers
from swift.core.listing import parse_json
from swift.core.manifest import DloManifest, ManifestError, dlo_etag
from swift.core.names import wsgi_of_text
from swift.core.ranges import ByteRange, parse_range, resolve
from swift.core.settings import (
    bind,
    natural,
    number,
    option,
    options_of,
    seconds,
)
from swift.middleware.segments import (
    ObjectPart,
    Pace,
    PartedBody,
    PartUnavailable,
    conditional_answer,
    part_environ,
    parted_answer,
    without_body_facts,
)
from swift.runtime.config import read_sections
from swift.wire import environ as env
from swift.wire.environ import Environ, PathParts, key_of, path_parts
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import (
    Response,
    StartResponse,
    WsgiApp,
    call,
    call_when,
    parse_query,
)

SOURCE_CODE = "DLO"
PARAM = "multipart-manifest"
PROXY_APP = "egg:swift#proxy"

_MANIFEST = key_of(h.X_OBJECT_MANIFEST)
_IGNORE_RANGE = key_of(h.X_BACKEND_IGNORE_RANGE_IF_METADATA_PRESENT)
_CONDITIONS = tuple(
    key_of(name)
    for name in (
        h.IF_MATCH,
        h.IF_NONE_MATCH,
        h.IF_MODIFIED_SINCE,
        h.IF_UNMODIFIED_SINCE,
    )
)


@dataclass(frozen=True)
class DloConfig:
    """[filter:dlo] of proxy-server.conf."""

    rate_limit_after_segment: int = option(
        10, parse=natural, doc="So many segments are served without rate limit."
    )
    rate_limit_segments_per_sec: float = option(
        1.0, parse=number, doc="Segments a second behind those; 0 has no limit."
    )
    max_get_time_s: float = option(
        86400.0, name="max_get_time", parse=seconds, doc="Longest time of one GET."
    )


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a manifest's segments, as they are listed.

    etags: in order; of all rows, the empty ones too. is_last: no page follows. marker:
    where the next page begins.
    """

    parts: tuple[ObjectPart, ...]
    etags: tuple[str, ...]
    is_last: bool
    marker: str

    @property
    def size(self) -> int:
        """Bytes of these segments."""
        return sum(part.wanted.size for part in self.parts)


class Dlo(Filter):
    """The filter."""

    Config = DloConfig
    config: DloConfig

    def __init__(
        self, app: WsgiApp, config: DloConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        config = self.config = _with_legacy_options(config, context)
        self._pace = Pace(
            after=config.rate_limit_after_segment,
            per_second=config.rate_limit_segments_per_sec,
            get_time_s=config.max_get_time_s,
        )
        self._page_rows = context.cluster.limits.container_listing_limit

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        method = environ[env.REQUEST_METHOD]
        if method in ("GET", "HEAD"):
            path = environ[env.PATH_INFO]
            if path.count("/") < 4:
                return self.app(environ, start_response)
            return self._read(environ, start_response)
        if method in ("PUT", "POST") and _MANIFEST in environ:
            parts = path_parts(environ)
            # A POST without a value makes an ordinary object of the manifest.
            value = environ[_MANIFEST]
            if parts is not None and parts.obj and (value or method == "PUT"):
                try:
                    DloManifest.parse(value)
                except ManifestError:
                    text = (
                        f"{h.X_OBJECT_MANIFEST} must be in the format container/prefix"
                    )
                    return Response.text(400, text)(environ, start_response)
        return self.app(environ, start_response)

    def _read(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The answer to a read of an object, which seldom is a manifest. Yields."""
        query = environ.get(env.QUERY_STRING)
        if query and parse_query(query).get(PARAM) == b"get":
            return self.app(environ, start_response)
        if env.HTTP_RANGE in environ:
            listed = environ.get(_IGNORE_RANGE)
            name = h.X_OBJECT_MANIFEST
            environ[_IGNORE_RANGE] = f"{listed},{name}" if listed else name
        answer = call_when(self.app, environ, start_response, h.X_OBJECT_MANIFEST)
        if not isinstance(answer, Response):
            return answer
        return self._large(environ, answer)(environ, start_response)

    def _large(self, environ: Environ, answer: Response) -> Response:
        """The answer for what a manifest stands for. Yields."""
        has_conditions = any(key in environ for key in _CONDITIONS)
        if answer.status in (206, 304, 412, 416):
            # Judged by the manifest's own etag or bytes; ask for its facts again.
            answer.close()
            place = path_parts(environ)
            assert place is not None, "routed by path"
            sub = part_environ(environ, "HEAD", place.path, SOURCE_CODE)
            sub[env.QUERY_STRING] = environ.get(env.QUERY_STRING, "")
            answer = call(self.app, sub)
        if answer.status != 200:
            return answer
        answer.close()
        try:
            manifest = DloManifest.parse(answer.headers[h.X_OBJECT_MANIFEST])
        except (ManifestError, KeyError):
            # Stored by a pipeline that did not look at it.
            return Response(409)
        page = self._page(environ, manifest, "")
        if isinstance(page, Response):
            return page
        own_etag = answer.headers.get(h.ETAG, "").strip('"')
        headers = without_body_facts(answer.headers)
        etag = own_etag
        if page.is_last:
            etag = dlo_etag(page.etags)
            headers[h.ETAG] = f'"{etag}"'
        if has_conditions:
            refusal = conditional_answer(environ, headers, etag)
            if refusal is not None:
                return refusal
        return self._body(environ, headers, manifest, page)

    def _body(
        self, environ: Environ, headers: Headers, manifest: DloManifest, page: Listed
    ) -> Response:
        """The bytes that are asked for, or why they cannot be had. Yields."""
        is_head = environ[env.REQUEST_METHOD] == "HEAD"
        wanted: ByteRange | None = None
        status = 200
        specs = parse_range(environ.get(env.HTTP_RANGE)) if not is_head else None
        if specs is not None and len(specs) == 1:
            wanted = specs[0].within(page.size)
            if page.is_last and resolve(environ[env.HTTP_RANGE], page.size) == []:
                headers.pop(h.CONTENT_TYPE, None)
                headers[h.CONTENT_RANGE] = f"bytes */{page.size}"
                return Response(416, headers)
            if not page.is_last and (
                specs[0].first is None
                or specs[0].last is None
                or specs[0].last >= page.size
            ):
                # How long the whole is, nobody knows.
                wanted = None
        if wanted is not None:
            status = 206
            total = str(page.size) if page.is_last else "*"
            headers[h.CONTENT_RANGE] = f"bytes {wanted.start}-{wanted.stop - 1}/{total}"
            headers[h.CONTENT_LENGTH] = str(wanted.size)
        elif page.is_last:
            headers[h.CONTENT_LENGTH] = str(page.size)
        if is_head:
            return Response(status, headers, app_iter=iter(()))
        body = PartedBody(
            self.app,
            environ,
            _within(self._parts(environ, manifest, page), wanted),
            pace=self._pace,
            source=SOURCE_CODE,
            log=self.log,
        )
        return parted_answer(status, headers, body)

    def _parts(
        self, environ: Environ, manifest: DloManifest, page: Listed
    ) -> Iterator[ObjectPart]:
        """All segments, further pages asked for as they are needed. Yields."""
        while True:
            yield from page.parts
            if page.is_last:
                return
            found = self._page(environ, manifest, page.marker)
            if isinstance(found, Response):
                raise PartUnavailable(manifest.container, found.status_line)
            page = found

    def _page(
        self, environ: Environ, manifest: DloManifest, marker: str
    ) -> Listed | Response:
        """The segments behind a marker, or the answer that refuses them. Yields."""
        place = path_parts(environ)
        assert place is not None, "routed by path"
        where = place.at(manifest.container)
        query = "format=json&prefix=" + quote_value(manifest.prefix, encoding="latin-1")
        if marker:
            query += "&marker=" + quote_value(marker)
        sub = part_environ(environ, "GET", where.path, SOURCE_CODE, query=query)
        answer = call(self.app, sub)
        if not answer.is_success:
            return answer
        try:
            records = parse_json(answer.body or b"[]")
            return self._listed(where, records)
        except (FormatError, KeyError, TypeError, ValueError) as error:
            self.log.error("listing of %s: %s", where.path, error)
            return Response(500)

    def _listed(self, where: PathParts, records: list[dict[str, object]]) -> Listed:
        parts = []
        etags = []
        name = ""
        for record in records:
            if "subdir" in record:
                continue
            name, size = str(record["name"]), int(str(record["bytes"]))
            etag = str(record["hash"]).partition(";")[0].strip()
            etags.append(etag)
            if size:
                path = where.at(where.container, wsgi_of_text(name)).path
                parts.append(ObjectPart(path, ByteRange(0, size), size, etag))
        is_last = len(records) < self._page_rows
        return Listed(tuple(parts), tuple(etags), is_last, name)


def _with_legacy_options(config: DloConfig, context: PipelineContext) -> DloConfig:
    """The options, from the proxy's own section when this filter's sets none.

    Pipelines that are older than the filter have them there.
    """
    names = [spec.name for spec in options_of(DloConfig).values()]
    if context.source == "-" or any(name in context.local for name in names):
        return config
    for section, values in read_sections(context.source).items():
        if section.startswith("app:") and values.get("use") == PROXY_APP:
            found = {name: values[name] for name in names if name in values}
            return bind(DloConfig, found, source=context.source, section=section)
    return config


def _within(
    parts: Iterable[ObjectPart], wanted: ByteRange | None
) -> Iterator[ObjectPart]:
    """The parts that hold the wanted bytes of their concatenation; all for None."""
    position = 0
    for part in parts:
        if wanted is None:
            yield part
            continue
        size = part.wanted.size
        start = max(wanted.start - position, 0)
        stop = min(wanted.stop - position, size)
        if start < stop:
            yield ObjectPart(part.path, ByteRange(start, stop), part.size, part.etag)
        position += size
        if position >= wanted.stop:
            return


filter_factory = factory(Dlo)
