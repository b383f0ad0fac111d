# SPDX-License-Identifier: Apache-2.0
"""PUT of a static large object: look at the segments, write down what they are.

Serves slo. Contract: middleware 26; golden: test/interop/golden/slo.
"""

from __future__ import annotations

import io
import mimetypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from hashlib import md5

from swift.core import headers as h
from swift.core.headers import Headers
from swift.core.manifest import (
    DataSegment,
    ManifestError,
    ObjectSegment,
    Segment,
    SloManifest,
    TooManySegments,
    WantedSegment,
    parse_client_manifest,
    span_of,
)
from swift.core.metadata_rules import check_own_parameters
from swift.core.names import BadEncoding, quote, text_of_wsgi, wsgi_of_text
from swift.core.settings import boolean, natural, number, option, positive_int, seconds
from swift.middleware.reports import TEXT, Report, ReportBody, report_type
from swift.middleware.segments import PartConflict, PartUnavailable, part_environ
from swift.runtime import green
from swift.runtime.logs import Logger
from swift.wire import environ as env
from swift.wire.environ import Environ, PathParts, key_of
from swift.wire.request import Response, WsgiApp, call, parse_query, response_of

SOURCE_CODE = "SLO"

_ACCEPT = key_of(h.ACCEPT)
_COPY_FROM = key_of(h.X_COPY_FROM)
_DETECT_TYPE = key_of(h.X_DETECT_CONTENT_TYPE)

ManifestAt = Callable[[Environ, str], SloManifest | None]


def _concurrency(text: str) -> int:
    return min(natural(text), 1000)


@dataclass(frozen=True)
class SloConfig:
    """[filter:slo] of proxy-server.conf."""

    max_manifest_segments: int = option(
        1000, parse=positive_int, doc="Segments of one manifest that are objects."
    )
    max_manifest_size: int = option(
        8 * 1024 * 1024, parse=positive_int, doc="Bytes of a manifest that is PUT."
    )
    rate_limit_under_size: int = option(
        1024 * 1024,
        parse=natural,
        doc="Only segments with fewer bytes are held to the rate limit.",
    )
    rate_limit_after_segment: int = option(
        10, parse=natural, doc="So many segments are served without rate limit."
    )
    rate_limit_segments_per_sec: float = option(
        1.0, parse=number, doc="Segments a second behind those; 0 has no limit."
    )
    max_get_time_s: float = option(
        86400.0, name="max_get_time", parse=seconds, doc="Longest time of one GET."
    )
    concurrency: int = option(
        2, parse=_concurrency, doc="Segments looked at side by side during a PUT."
    )
    delete_concurrency: int | None = option(
        None, parse=_concurrency, doc="Segments deleted side by side (concurrency)."
    )
    yield_frequency_s: float = option(
        10.0,
        name="yield_frequency",
        parse=seconds,
        doc="Time between the spaces that keep a heartbeat answer alive.",
    )
    allow_async_delete: bool = option(
        True, parse=boolean, doc="Let a DELETE leave the segments to the expirer."
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """A segment that a manifest cannot have, and why."""

    path: str
    reason: str


class SloUpload:
    """One PUT of a manifest.

    environ, place: of the client's request. manifest_at: path → manifest there, None
    when there is another kind of object; raises PartConflict and PartUnavailable.
    """

    def __init__(
        self,
        app: WsgiApp,
        environ: Environ,
        place: PathParts,
        config: SloConfig,
        manifest_at: ManifestAt,
        log: Logger,
    ) -> None:
        self._app = app
        self._environ = environ
        self._place = place
        self._config = config
        self._manifest_at = manifest_at
        self._log = log

    def run(self) -> Response:
        """Store a manifest. Yields."""
        if _COPY_FROM in self._environ:
            return Response.error(405, "A manifest cannot be made of a copy.")
        content_type = self._environ.get(env.CONTENT_TYPE) or ""
        refusal = check_own_parameters(Headers({h.CONTENT_TYPE: content_type}))
        if refusal is not None:
            return Response.text(refusal.status, refusal.text)
        body = self._client_body()
        if isinstance(body, Response):
            return body
        try:
            own = text_of_wsgi(f"/{self._place.container}/{self._place.obj}")
        except BadEncoding as error:
            return response_of(error)
        try:
            wanted = parse_client_manifest(
                body, own_path=own, segments_max=self._config.max_manifest_segments
            )
        except TooManySegments as error:
            return Response.text(413, str(error))
        except ManifestError as error:
            return Response.text(400, str(error))
        media_type = report_type(self._environ.get(_ACCEPT)) or TEXT
        query = parse_query(self._environ.get(env.QUERY_STRING, ""))
        if not h.true(query.get("heartbeat", b"").decode("latin-1")):
            return self._store(wanted, media_type)

        def work(report: Report) -> None:
            stored = self._store(wanted, media_type, report)
            if not report.errors:
                text = stored.body.decode("utf-8", "replace")
                report.conclude(stored.status, text)
            if stored.is_success:
                report.extra["Etag"] = stored.headers.get(h.ETAG, "")
                date = stored.headers.get(h.LAST_MODIFIED, "")
                report.extra["Last Modified"] = date

        body_of_report = ReportBody(
            work,
            Report("upload"),
            media_type=media_type,
            interval_s=self._config.yield_frequency_s,
            trouble=self._trouble,
        )
        return Response(202, {h.CONTENT_TYPE: media_type}, app_iter=body_of_report)

    def _trouble(self, error: BaseException) -> None:
        self._log.error("PUT of a manifest failed: %r", error)

    def _client_body(self) -> bytes | Response:
        """The manifest that the client sends. Yields."""
        size_max = self._config.max_manifest_size
        length = self._environ.get(env.CONTENT_LENGTH)
        if not length and env.HTTP_TRANSFER_ENCODING not in self._environ:
            return Response(411)
        if length and (not length.isdigit() or int(length) > size_max):
            return Response(413 if length.isdigit() else 400)
        body: bytes = self._environ[env.WSGI_INPUT].read(
            int(length) if length else size_max + 1
        )
        if length and len(body) < int(length):
            return Response(499)
        return Response(413) if len(body) > size_max else body

    def _store(
        self,
        wanted: Sequence[WantedSegment | DataSegment],
        media_type: str,
        report: Report | None = None,
    ) -> Response:
        """Look at the segments, then store the manifest. Yields.

        report: to be filled in with what is wrong; a new one when None.
        """
        segments, faults = self._looked_at(wanted)
        if faults:
            report = report or Report("upload")
            report.conclude(400)
            report.errors += [(quote(fault.path), fault.reason) for fault in faults]
            headers = {h.CONTENT_TYPE: media_type}
            return Response(400, headers, report.render(media_type))
        manifest = SloManifest(tuple(segments))
        etag = manifest.etag
        asked = self._environ.get(key_of(h.ETAG), "").strip().strip('"')
        if asked and asked != etag:
            return Response(422)
        answer = call(self._app, _stored_environ(self._environ, self._place, manifest))
        if answer.is_success:
            answer.headers[h.ETAG] = f'"{etag}"'
        return answer

    def _looked_at(
        self,
        wanted: Sequence[WantedSegment | DataSegment],
    ) -> tuple[list[Segment], list[Fault]]:
        """The segments as they are, and what is wrong with them. Yields."""
        paths = list(
            dict.fromkeys(
                item.path for item in wanted if isinstance(item, WantedSegment)
            )
        )
        pool = green.Pool(max(self._config.concurrency, 1))
        seen = dict(zip(paths, pool.map(self._look, paths), strict=True))
        segments: list[Segment] = []
        faults: list[Fault] = []
        for item in wanted:
            if isinstance(item, DataSegment):
                segments.append(item)
                continue
            found = seen[item.path]
            checked = found if isinstance(found, str) else _checked(item, found)
            if isinstance(checked, str):
                faults.append(Fault(item.path, checked))
            else:
                segments.append(checked)
        return segments, faults

    def _look(self, path: str) -> ObjectSegment | str:
        """A segment as it is, or why it cannot be one. Yields."""
        full = f"/{self._place.version}/{self._place.account}{wsgi_of_text(path)}"
        answer = call(self._app, part_environ(self._environ, "HEAD", full, SOURCE_CODE))
        answer.close()
        headers = answer.headers
        if not answer.is_success:
            return answer.status_line
        size_text = headers.get(h.CONTENT_LENGTH, "")
        etag = headers.get(h.ETAG, "").strip('"')
        is_manifest = headers.true(h.X_STATIC_LARGE_OBJECT)
        if is_manifest and h.SLO_ETAG in headers and h.SLO_SIZE in headers:
            size_text, etag = headers[h.SLO_SIZE], headers[h.SLO_ETAG]
        elif is_manifest:
            try:
                inner = self._manifest_at(self._environ, full)
            except (PartConflict, PartUnavailable) as error:
                return str(error)
            if inner is None:
                return "409 Conflict"
            size_text, etag = str(inner.size), inner.etag
        if not size_text.isdigit():
            return "Its size is not known"
        return ObjectSegment(
            path,
            int(size_text),
            etag,
            text_or_latin(headers.get(h.CONTENT_TYPE, "application/octet-stream")),
            iso_of_http_date(headers.get(h.LAST_MODIFIED, "")),
            is_manifest=is_manifest,
        )


def _checked(item: WantedSegment, found: ObjectSegment) -> ObjectSegment | str:
    """The segment that the client wants, or why what was found is not that."""
    if item.etag is not None and item.etag != found.etag:
        return "Etag Mismatch"
    if item.size is not None and item.size != found.size:
        return "Size Mismatch"
    span = None
    if item.range_text is not None:
        span = span_of(item.range_text, found.size)
        if span is None:
            return "Unsatisfiable Range"
    elif found.size < 1 and not item.is_last:
        return "Too Small; each segment must be at least 1 byte."
    return ObjectSegment(
        found.path,
        found.size,
        found.etag,
        found.content_type,
        found.last_modified,
        span,
        found.is_manifest,
    )


def _stored_environ(
    environ: Environ, place: PathParts, manifest: SloManifest
) -> Environ:
    """The PUT of the manifest's stored form, with what belongs to it."""
    body = manifest.dump()
    digest = md5(body, usedforsecurity=False).hexdigest()
    content_type = environ.get(env.CONTENT_TYPE)
    if not content_type or h.true(environ.get(_DETECT_TYPE)):
        content_type = mimetypes.guess_type(place.obj)[0] or "application/octet-stream"
    stored = dict(environ)
    stored.pop(env.HTTP_TRANSFER_ENCODING, None)
    stored.pop(_DETECT_TYPE, None)
    stored[env.CONTENT_LENGTH] = str(len(body))
    stored[env.WSGI_INPUT] = io.BytesIO(body)
    stored[env.CONTENT_TYPE] = f"{content_type};swift_bytes={manifest.size}"
    for name, value in (
        (h.ETAG, digest),
        (h.X_STATIC_LARGE_OBJECT, "True"),
        (h.SLO_ETAG, manifest.etag),
        (h.SLO_SIZE, str(manifest.size)),
        (h.LISTED_ETAG, f"{digest}; slo_etag={manifest.etag}"),
    ):
        env.set_header(stored, name, value)
    return stored


def iso_of_http_date(text: str) -> str:
    """An HTTP date in the form of listings; the epoch when it does not parse."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return "1970-01-01T00:00:00.000000"
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000000")


def text_or_latin(value: str) -> str:
    """The text of a WSGI string, as it stands when it is no UTF-8."""
    try:
        return text_of_wsgi(value)
    except BadEncoding:
        return value
